"""A FHIR server for tests: bulk exports and tokens, with the faults that real ones have."""

from __future__ import annotations

import contextlib
import json
import secrets
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt

CLIENT, KEY_ID = "planted-client", "key-1"
#: What no log, message or landed file may hold.
PLANTED = ("planted-client", "planted-token", "planted-diagnostics", "planted-signature")


@dataclass
class Fault:
    """What is answered instead, once.

    Attributes:
        status: of HTTP; 0 closes the connection in the middle of what is really answered.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class FhirFake:
    """What the server has, and how it behaves.

    Attributes:
        files: of the export: (kind, type) -> bodies.
        polls: how often it says "not ready".
        faults: `export`, `status`, `file`, `token`, `delete` -> what is answered first.
        public_key: the client's; None lets anybody in.
        moment: `transactionTime`.
        needs_token: of files.
        files_at: where files are said to be; default here.
        manifest: changes what is said when an export is ready.
        token_requests: how many requests a token is good for.
        token_seconds: how long.
        refused: requests without a good token.
        chunk_seconds: between two pieces of a file.
        clock: seconds since 1970.
    """

    files: dict[tuple[str, str], list[bytes]]
    polls: int = 1
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    public_key: Any = None
    moment: str = "2026-03-07T12:00:00.123Z"
    needs_token: bool = True
    files_at: str = ""
    manifest: Callable[[dict[str, Any]], Any] = lambda stated: stated
    token_requests: int = 1_000_000
    token_seconds: int = 300
    chunk_seconds: float = 0.0
    clock: Callable[[], float] = time.time
    url: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    authorised: list[tuple[str, str]] = field(default_factory=list)
    jobs: dict[str, int] = field(default_factory=dict)
    tokens: Counter[str] = field(default_factory=Counter)
    jtis: set[str] = field(default_factory=set)
    ends: dict[str, float] = field(default_factory=dict)
    refused: int = 0
    served: Counter[str] = field(default_factory=Counter)

    def count(self, method: str, part: str) -> int:
        return sum(m == method and part in path for m, path, _ in self.asked)

    def all_files(self) -> list[tuple[str, str, int, bytes]]:
        return [(kind, type_, n, body) for (kind, type_), bodies in self.files.items() for n, body in enumerate(bodies)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def fake(self) -> FhirFake:
        return self.server.fake  # type: ignore[attr-defined, no-any-return]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answered("GET")

    def do_POST(self) -> None:
        self._answered("POST")

    def do_DELETE(self) -> None:
        self._answered("DELETE")

    def _send(self, status: int, body: bytes = b"", *, cut: bool = False, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if cut:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        for start in range(0, len(body), 4096):
            self.wfile.write(body[start : start + 4096])
            if self.fake.chunk_seconds:
                time.sleep(self.fake.chunk_seconds)

    def _json(self, status: int, found: Any, **headers: str) -> None:
        self._send(status, json.dumps(found).encode(), content_type="application/json", **headers)

    def _answered(self, method: str) -> None:
        with contextlib.suppress(ConnectionError):
            self._answer(method)

    def _answer(self, method: str) -> None:
        fake, parts = self.fake, urlsplit(self.path)
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        fake.asked.append((method, parts.path, parts.query))
        if "authorization" in self.headers:
            fake.authorised.append((method, parts.path))
        if parts.path.endswith("/.well-known/smart-configuration"):
            return self._json(200, {"token_endpoint": f"{fake.url}/token"})
        step = next((s for s in ("token", "export", "status", "file") if f"/{s}" in parts.path.replace("$", "")), "")
        step = "delete" if method == "DELETE" else step
        fault = fake.faults[step].pop(0) if fake.faults.get(step) else None
        if fault is not None and fault.status:
            return self._send(fault.status, fault.body, **fault.headers)
        if step == "token":
            return self._token(body)
        needs_token = fake.public_key is not None and (step != "file" or fake.needs_token)
        if needs_token:
            token = self.headers.get("authorization", "").removeprefix("Bearer ")
            if fake.tokens[token] <= 0 or fake.clock() > fake.ends[token]:
                fake.refused += 1
                return self._json(401, outcome("login"))
            fake.tokens[token] -= 1
        if step == "export":
            job = secrets.token_hex(4)
            fake.jobs[job] = fake.polls
            return self._send(202, content_location=f"{fake.url}/status/{job}")
        job = parts.path.split("/")[-1] if step in ("status", "delete") else ""
        if step == "file":
            job, number = parts.path.split("/")[-2:]
        if job not in fake.jobs:
            return self._json(404, outcome("not-found"))
        if step == "delete":
            del fake.jobs[job]
            return self._send(202)
        if step == "status":
            fake.jobs[job] -= 1
            if fake.jobs[job] >= 0:
                return self._send(202, X_Progress="planted-diagnostics", Retry_After="1")
            return self._json(200, fake.manifest(self._manifest(job)))
        *_, content = fake.all_files()[int(number)]
        fake.served[parts.path] += 1
        return self._send(200, content, cut=fault is not None, content_type="application/fhir+ndjson")

    def _manifest(self, job: str) -> dict[str, Any]:
        fake = self.fake
        listed: dict[str, Any] = {"output": [], "error": []}
        for place, (kind, type_, _, body) in enumerate(fake.all_files()):
            url = f"{fake.files_at or fake.url}/file/{job}/{place}?sig=planted-signature"
            listed.setdefault(kind, []).append({"type": type_, "url": url, "count": body.count(b"\n")})
        return {
            "transactionTime": fake.moment,
            "request": f"{fake.url}/$export",
            "requiresAccessToken": fake.needs_token,
            **listed,
        }

    def _token(self, body: bytes) -> None:
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        try:
            assertion = form["client_assertion"]
            said = jwt.decode(
                assertion,
                self.fake.public_key,
                algorithms=["RS384", "ES384"],
                audience=f"{self.fake.url}/token",
                issuer=CLIENT,
                options={"require": ["exp", "jti", "iss", "sub", "aud"], "verify_exp": False},
            )
            assert said["sub"] == CLIENT and said["jti"] not in self.fake.jtis
            assert 0 < said["exp"] - self.fake.clock() < 300
            assert jwt.get_unverified_header(assertion)["kid"] == KEY_ID
            assert form["grant_type"] == "client_credentials" and form["scope"] == "system/*.rs"
        except (jwt.PyJWTError, KeyError, AssertionError):
            return self._json(400, {"error": "invalid_client", "error_description": "planted-diagnostics"})
        self.fake.jtis.add(said["jti"])
        token = f"planted-token-{secrets.token_hex(8)}"
        self.fake.tokens[token] = self.fake.token_requests
        self.fake.ends[token] = self.fake.clock() + self.fake.token_seconds
        said = {"access_token": token, "token_type": "bearer", "expires_in": self.fake.token_seconds}
        return self._json(200, said)


def outcome(code: str) -> dict[str, Any]:
    """An OperationOutcome with a text that nobody may see."""
    issue = {"severity": "error", "code": code, "diagnostics": "planted-diagnostics of Jane Doe"}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


@contextlib.contextmanager
def fhir_server(fake: FhirFake, tls: ssl.SSLContext | None = None) -> Iterator[FhirFake]:
    """Run it in a thread; its address is `fake.url`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.fake = fake  # type: ignore[attr-defined]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    fake.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
