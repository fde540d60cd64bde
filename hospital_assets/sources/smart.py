"""A FHIR server over HTTP, and who asks it: SMART App Launch 2.2, backend services.

Belongs here: requests that are safe (TLS verified, no redirect to another host, a token for nobody but the server
itself, bounded answers), tokens, and what went wrong in words. Does not: what is asked (`exports`). Proxies and
authorities of certificates come from the environment (`HTTPS_PROXY`, `NO_PROXY`, `REQUESTS_CA_BUNDLE`). What a server
writes may be about patients: errors have its codes, not its texts.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from hospital_assets.landing.profile import Export
from hospital_assets.sources.remote import RemoteError

if TYPE_CHECKING:
    import requests

_CONNECT_SECONDS, _READ_SECONDS = 10, 60
_MOST_REDIRECTS = 5
#: Of answers that are read whole: manifests, tokens, outcomes.
_MOST_BYTES = 16_000_000
#: A token is renewed so long before it ends.
_MARGIN_SECONDS = 60
#: A signed assertion is good for less than the five minutes that are allowed.
_ASSERTION_SECONDS = 240
_PORTS = {"https": 443, "http": 80}
#: What is waited where a server asks to wait and not how long; and at most.
_WAIT_SECONDS, LONGEST_WAIT = 60.0, 3600.0
_CODE = re.compile(r"[a-z][a-z_-]{1,40}")
#: Issue codes of an OperationOutcome -> what to do.
_ISSUES = {
    "login": "it does not know this client; correct client_id and key",
    "expired": "it does not know this client any more; correct client_id and key",
    "security": "this client may not; ask the server's owner",
    "forbidden": "this client may not; ask the server's owner",
    "not-supported": "it cannot do that; leave out `group` or `types`, or ask the server's owner",
    "not-found": "it does not know the address or the group; correct the profile",
    "too-costly": "it is too much at once; ask for fewer `types` or a smaller group",
    "invalid": "it does not understand what is asked; correct `group` and `types`",
    "value": "it does not understand what is asked; correct `group` and `types`",
    "throttled": "it has too much to do; it is asked again",
    "timeout": "it took too long; it is asked again",
    "transient": "it has trouble that passes; it is asked again",
}
#: HTTP statuses -> the same, where there is no such code.
_STATUSES = {400: "invalid", 401: "login", 403: "forbidden", 404: "not-found", 410: "not-found", 501: "not-supported"}


class LaterError(Exception):
    """The server asks to come again in some seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"again in {seconds:.0f} s")
        self.seconds = seconds


class UnreachableError(RemoteError):
    """The server does not answer, breaks off, or lets nobody in: whatever is asked for."""


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: what a token is for."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme)


class FhirServer:
    """A server and who asks it; close it by `with`."""

    def __init__(
        self,
        export: Export,
        environment: Mapping[str, str],
        clock: Callable[[], datetime],
        seconds: tuple[int, int] = (_CONNECT_SECONDS, _READ_SECONDS),
    ) -> None:
        import requests

        self._seconds = seconds
        self._export, self._environment, self._clock = export, environment, clock
        self._session = requests.Session()
        # Else ~/.netrc takes the place of the token.
        self._session.auth = lambda request: request
        self._token, self._token_ends = "", clock()

    def __enter__(self) -> FhirServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    @contextlib.contextmanager
    def ask(
        self, method: str, url: str, *, with_token: bool = True, accept: str, **more: Any
    ) -> Iterator[requests.Response]:
        """An answer, whatever its status, but for one that asks to wait; its body is not read yet.

        Args:
            url: where; a redirect is followed on the same server only.
            with_token: whether the token goes along, where there is one.

        Raises:
            LaterError: the server asks to wait (429, 503).
            RemoteError: it cannot be reached, sends elsewhere, or wants the token on another server.
        """
        if with_token and self._export.client_id is not None and origin(url) != origin(self._export.url):
            raise RemoteError("it wants the token at another server than `url`, where it is not sent; ask its owner")
        headers = {"Accept": accept, **more.pop("headers", {})}
        has_token = with_token and self._export.client_id is not None
        answer = self._sent(method, url, headers, more, has_token=has_token)
        if answer.status_code == 401 and has_token:
            # It ended sooner than it said, or was taken back.
            answer.close()
            self._token = ""
            answer = self._sent(method, url, headers, more, has_token=True)
        with contextlib.closing(answer):
            if answer.status_code in (429, 503):
                raise LaterError(waiting_time(answer, self._clock()))
            with _in_words():
                yield answer

    def _sent(
        self, method: str, url: str, headers: Mapping[str, str], more: Mapping[str, Any], *, has_token: bool
    ) -> requests.Response:
        bearer = {"Authorization": f"Bearer {self._current_token()}"} if has_token else {}
        for _ in range(_MOST_REDIRECTS):
            with _in_words():
                answer = self._session.request(
                    method,
                    url,
                    headers={**headers, **bearer},
                    stream=True,
                    allow_redirects=False,
                    timeout=self._seconds,
                    **more,
                )
            if not answer.is_redirect or method != "GET":
                return answer
            answer.close()
            target = urljoin(url, answer.headers["location"])
            if origin(target) != origin(url):
                raise RemoteError("it sends on to another server, which is not followed; correct `url`")
            url = target
            more = {**more, "params": None}
        raise RemoteError("it sends on again and again; correct `url`")

    def _current_token(self) -> str:
        """A token that is good for a while."""
        if not self._token or self._clock() >= self._token_ends:
            self._token, seconds = self._new_token()
            self._token_ends = self._clock() + timedelta(seconds=max(seconds - _MARGIN_SECONDS, seconds / 2))
        return self._token

    def _new_token(self) -> tuple[str, float]:
        discovery = f"{self._export.url}/.well-known/smart-configuration"
        with self.ask("GET", discovery, with_token=False, accept="application/json") as answer:
            endpoint = json_of(answer).get("token_endpoint") if answer.status_code == 200 else None
        if not isinstance(endpoint, str) or not is_safe(endpoint, self._export.url):
            raise UnreachableError(f"{discovery} names no token_endpoint with https://; ask the server's owner")
        form = {
            "grant_type": "client_credentials",
            "scope": self._export.scope,
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": _assertion(self._export, endpoint, self._environment, self._clock()),
        }
        with self.ask("POST", endpoint, with_token=False, accept="application/json", data=form) as answer:
            said = json_of(answer)
        token, seconds = said.get("access_token"), said.get("expires_in", 300)
        if answer.status_code != 200 or not isinstance(token, str) or not token.isascii() or not token.isprintable():
            code = said.get("error")
            told = f", {code}" if isinstance(code, str) and _CODE.fullmatch(code) else ""
            raise UnreachableError(
                f"no token is given (HTTP {answer.status_code}{told}); client_id, key, key_id and scope must be as the "
                "server's owner has registered them, and this machine's clock right"
            )
        return token, float(seconds) if isinstance(seconds, (int, float)) else 300.0


def is_safe(url: str, base: str) -> bool:
    """Whether an address that a server names may be asked: by TLS, or on the very server that is asked so anyway."""
    try:
        return bool(urlsplit(url).hostname) and (urlsplit(url).scheme == "https" or origin(url) == origin(base))
    except ValueError:
        return False


def _assertion(export: Export, endpoint: str, environment: Mapping[str, str], now: datetime) -> str:
    """Who asks, signed with the client's key."""
    try:
        import jwt
        from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        raise UnreachableError("install the extra: pip install 'hospital-assets[fhir-bulk]'") from None
    named = environment.get(export.key or "")
    if not named:
        raise UnreachableError(f"set {export.key} to the file with the client's private key")
    try:
        text, key_id = Path(named).read_bytes(), export.key_id
        if text.lstrip().startswith(b"{"):
            key = jwt.PyJWK(stated := json.loads(text)).key
            key_id = key_id or stated.get("kid")
        else:
            key = load_pem_private_key(text, password=None)
    except OSError as error:
        raise UnreachableError(f"the file that {export.key} names cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, jwt.PyJWTError):
        raise UnreachableError(f"the file that {export.key} names holds no private key without a password") from None
    if isinstance(key, RSAPrivateKey):
        algorithm = "RS384"
    elif isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP384R1):
        algorithm = "ES384"
    else:
        raise UnreachableError(f"the key of {export.key} must be a private one, RSA or EC on the curve P-384")
    if not key_id:
        raise UnreachableError("name the key's kid as key_id in the profile")
    claims = {
        "iss": export.client_id,
        "sub": export.client_id,
        "aud": endpoint,
        "jti": secrets.token_hex(16),
        # No `iat`: servers whose clock is a little behind ours would refuse it, and it is not asked for.
        "exp": int(now.timestamp()) + _ASSERTION_SECONDS,
    }
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": key_id})


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Addresses may hold what opens them: no error quotes one."""
    import requests

    try:
        yield
    except requests.exceptions.SSLError:
        raise UnreachableError(
            "its certificate is not trusted; have REQUESTS_CA_BUNDLE name the file of its authority"
        ) from None
    except requests.exceptions.ProxyError:
        raise UnreachableError("the proxy does not let it through; correct HTTPS_PROXY or NO_PROXY") from None
    except requests.exceptions.ChunkedEncodingError:
        raise UnreachableError("the answer broke off; it is asked again") from None
    except requests.exceptions.RequestException as error:
        raise UnreachableError(f"the server cannot be reached ({type(error).__name__})") from None
    except OSError as error:
        # Of `requests` all are; of the disk, too, which are not the server's.
        if error.errno is not None:
            raise
        raise UnreachableError(f"the server cannot be reached ({type(error).__name__})") from None


def body_of(answer: requests.Response) -> bytes:
    """An answer's body.

    Raises:
        RemoteError: it is too large to be one.
    """
    body = bytearray()
    for piece in answer.iter_content(65_536):
        body += piece
        if len(body) > _MOST_BYTES:
            raise RemoteError("its answer is too large; ask the server's owner")
    return bytes(body)


def json_of(answer: requests.Response) -> dict[str, Any]:
    """An answer's JSON object; an empty one where it is none."""
    try:
        found = json.loads(body_of(answer))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def issues_of(outcome: Mapping[str, Any]) -> list[str]:
    """The codes of an OperationOutcome's issues; never its texts."""
    issues = outcome.get("issue")
    codes = [issue.get("code") for issue in issues if isinstance(issue, dict)] if isinstance(issues, list) else []
    return [code for code in codes if isinstance(code, str) and _CODE.fullmatch(code)]


def refusal(answer: requests.Response, what: str) -> RemoteError:
    """Why something was not given, with what to do."""
    issues = issues_of(json_of(answer))
    stated = [code for code in issues if code in _ISSUES]
    words = _ISSUES.get(stated[0] if stated else _STATUSES.get(answer.status_code, ""), "ask the server's owner")
    return RemoteError(f"{what}: {words} (HTTP {', '.join([str(answer.status_code), *dict.fromkeys(issues)])})")


def waiting_time(answer: requests.Response, now: datetime) -> float:
    """How many seconds a server asks to wait: it says seconds or a date, which is one of its own clock."""
    stated = answer.headers.get("retry-after", "").strip()
    seconds = _WAIT_SECONDS
    if stated.isdecimal() and len(stated) < 10:
        seconds = float(stated)
    elif stated:
        with contextlib.suppress(ValueError, TypeError):
            begins = answer.headers.get("date")
            now = parsedate_to_datetime(begins) if begins else now
            seconds = (parsedate_to_datetime(stated) - now).total_seconds()
    return min(max(seconds, 1.0), LONGEST_WAIT)
