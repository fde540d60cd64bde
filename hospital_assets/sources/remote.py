"""Folders that lie elsewhere: buckets of S3, Azure and Google, SFTP servers, mounted shares.

Each is a list of entries and their bytes. Belongs here: what the kinds differ in, and what went wrong in words.
Does not: which entries are new, and where they land (`pull`). The libraries are extras, imported where they are used.
Credentials come from the environment or the platform's own chain; none is kept, shown or logged.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from hospital_assets.landing.listing import folders

_CHUNK = 1_048_576
_SECONDS = 30
#: Of a URL, who asks, and what follows its path.
_TOLD = re.compile(r"(?<=://)\S*@|\?\S+")
#: Schemes of object stores -> what to set where nothing says who asks.
OBJECT_STORES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role of the machine",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or a managed identity",
    "abfss": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or a managed identity",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or a service account of the machine",
}
#: What names of their settings begin with.
_CLOUDS = {"s3": "AWS", "az": "AZURE", "abfss": "AZURE", "gs": "GOOGLE"}
#: Of SFTP: files with the private key and with the known hosts, and the password where there is no key.
SFTP_KEY, SFTP_HOSTS, SFTP_PASSWORD = "HOSPITAL_SFTP_KEY", "HOSPITAL_SFTP_KNOWN_HOSTS", "HOSPITAL_SFTP_PASSWORD"


class RemoteError(Exception):
    """Something at the other end cannot be read; the message says what and what to do, and holds no secret."""


class ChangedError(RemoteError):
    """An entry is not what was listed any more: the next look finds what it is now."""


class UnlistedError(RemoteError):
    """Something cannot be listed; what lies beside it can."""


@dataclass(frozen=True)
class Entry:
    """One file at the other end.

    Attributes:
        key: its path below the address.
        version: of its content: an ETag or version, else size and time of change.
    """

    key: str
    size: int
    version: str


class Remote(Protocol):
    """A folder elsewhere.

    Attributes:
        is_atomic: whether an entry is listed only once it is whole. Else it may still be written: it is whole when two
            looks find the same.
        is_ordered: whether what comes after a key can be listed alone, which old entries cost nothing in.
    """

    is_atomic: bool
    is_ordered: bool

    def entries(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        """What there is; below a prefix and after a key where it `is_ordered`.

        Raises:
            UnlistedError: a part of it cannot be listed; all others have been.
            RemoteError: it cannot be listed.
        """
        ...

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """The bytes of an entry as it was listed.

        Raises:
            ChangedError: it has changed or gone since.
            RemoteError: it cannot be read.
        """
        ...


@contextlib.contextmanager
def open_remote(address: str, environment: Mapping[str, str] = os.environ, seconds: int = _SECONDS) -> Iterator[Remote]:
    """Reach a folder elsewhere.

    Args:
        address: `s3://bucket/prefix`, `az://container/prefix`, `abfss://...`, `gs://...`, `sftp://user@host:port/folder`,
            or `file:///folder`.
        environment: says who asks.
        seconds: how long each answer may take.

    Raises:
        RemoteError: the extra is not installed, or it cannot be reached.
    """
    scheme = urlsplit(address).scheme
    if scheme == "file":
        yield _Folder(Path(unquote(urlsplit(address).path)))
    elif scheme == "sftp":
        with _sftp(address, environment, seconds) as remote:
            yield remote
    else:
        yield _Objects(address, environment, seconds)


class _Folder:
    """A folder of this machine or a mounted share; links are not followed."""

    is_atomic, is_ordered = False, False

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def entries(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        """See `Remote`."""
        if not self._folder.is_dir():
            raise RemoteError("the folder is not there; mount it, or correct the address in the profile")
        unread: OSError | None = None
        for folder in folders(self._folder):
            try:
                paths = sorted(folder.iterdir())
            except FileNotFoundError:
                continue
            except OSError as error:
                # The others are listed before that is said.
                unread = error
                continue
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    found = path.lstat()
                    if stat.S_ISREG(found.st_mode):
                        key = path.relative_to(self._folder).as_posix()
                        yield Entry(key, found.st_size, f"{found.st_size}:{found.st_mtime_ns}")
        if unread is not None:
            raise RemoteError(f"a folder in it cannot be read ({unread.strerror}); let this program read it")

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """See `Remote`."""
        path = self._folder / PurePosixPath(entry.key)
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
            found = path.lstat()
        except FileNotFoundError:
            raise ChangedError("it has gone since it was listed") from None
        except OSError as error:
            raise RemoteError(f"it cannot be read ({error.strerror}); let this program read it") from None
        if f"{found.st_size}:{found.st_mtime_ns}" != entry.version:
            raise ChangedError("it changed while it was read")


class _Objects:
    """A bucket or container, and a prefix in it."""

    is_atomic, is_ordered = True, True

    def __init__(self, address: str, environment: Mapping[str, str], seconds: int) -> None:
        try:
            import obstore.store
        except ImportError:
            raise RemoteError("install the extra: pip install 'hospital-assets[object-store]'") from None
        scheme = urlsplit(address).scheme
        self._who = OBJECT_STORES[scheme]
        # These options replace what the environment says of them.
        options: obstore.store.ClientConfig = {"timeout": f"{seconds}s", "connect_timeout": f"{min(10, seconds)}s"}
        if environment.get(f"{_CLOUDS[scheme]}_ALLOW_HTTP", "").lower() in ("1", "true"):
            options["allow_http"] = True
        retry: obstore.store.RetryConfig = {"max_retries": 2}
        with self._in_words():
            self._store: Any = obstore.store.from_url(address, client_options=options, retry_config=retry)

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError

        try:
            yield
        except (FileNotFoundError, PreconditionError):
            raise ChangedError("it has changed or gone since it was listed") from None
        except (PermissionDeniedError, UnauthenticatedError):
            raise RemoteError(f"access is denied; set {self._who}, and let them list and read") from None
        except (BaseError, OSError, ValueError) as error:
            # What follows the first line tells of addresses and headers; a URL in it may say who asks.
            first_line = _TOLD.sub("…", str(error).partition("\n")[0])[:200]
            raise RemoteError(f"the store cannot be read: {first_line}; who asks is said by {self._who}") from None

    def entries(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        """See `Remote`."""
        with self._in_words():
            yield from self._below(prefix, after)

    def _below(self, prefix: str, after: str) -> Iterator[Entry]:
        """What is listed below a prefix: at once, or where a key is no path (`a//b`), folder by folder without its own.

        Raises:
            UnlistedError: a folder was left out.
        """
        import obstore
        from obstore.exceptions import InvalidPathError

        try:
            for listed in obstore.list(self._store, prefix or None, offset=after or None):
                for entry in _after(after, listed):
                    yield entry
                    after = entry.key
            return
        except InvalidPathError:
            unlisted = UnlistedError(
                "names in it have empty parts, `.` or `..` between their slashes, and what lies in the folder beside "
                "them is not brought; rename them, or name a folder without them in the address"
            )
        try:
            level = obstore.list_with_delimiter(self._store, prefix or None)
        except InvalidPathError:
            raise unlisted from None
        yield from _after(after, level["objects"])
        is_whole = True
        for folder in level["common_prefixes"]:
            try:
                yield from self._below(f"{folder}/", after)
            except UnlistedError:
                is_whole = False
        if not is_whole:
            raise unlisted

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """See `Remote`."""
        import obstore

        with self._in_words():
            found = obstore.get(self._store, entry.key)
            now = found.meta["e_tag"] or found.meta["version"] or found.meta["last_modified"].isoformat()
            # Azure's lists have ETags without quotation marks.
            if now.strip('"') != entry.version.strip('"'):
                raise ChangedError("it has changed since it was listed")
            for chunk in found.stream(min_chunk_size=_CHUNK):
                yield bytes(chunk)


def _after(after: str, listed: Iterable[Any]) -> Iterator[Entry]:
    """What an object store listed, without what it should not have: some list from the beginning, whatever is asked."""
    for found in listed:
        if found["path"] > after:
            version = found["e_tag"] or found["version"] or found["last_modified"].isoformat()
            yield Entry(found["path"], found["size"], version)


class _Sftp:
    """A folder of an SFTP server."""

    is_atomic, is_ordered = False, False

    def __init__(self, client: Any, folder: str) -> None:
        self._client, self._folder = client, folder.rstrip("/") or "/"

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        import paramiko

        try:
            yield
        except FileNotFoundError:
            raise ChangedError("it is not there (any more)") from None
        except UnicodeError:
            raise UnlistedError("a name in a folder is not UTF-8, and the folder is not read; rename it") from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise RemoteError(f"the server does not give it ({type(error).__name__}); let this user read it") from None

    def entries(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        """See `Remote`."""
        waiting = [""]
        unread: OSError | UnicodeError | None = None
        with self._in_words():
            while waiting:
                inside = waiting.pop()
                try:
                    listed = self._client.listdir_attr(f"{self._folder}/{inside}")
                except (FileNotFoundError, PermissionError, UnicodeError) as error:
                    if not inside:
                        raise
                    # One that has gone meanwhile is none; of one that is not given, the others are listed first.
                    unread = unread if isinstance(error, FileNotFoundError) else error
                    continue
                for found in sorted(listed, key=lambda one: one.filename):
                    key, mode = f"{inside}{found.filename}", found.st_mode or 0
                    if stat.S_ISDIR(mode):
                        waiting.append(f"{key}/")
                    elif stat.S_ISREG(mode):
                        yield Entry(key, found.st_size or 0, f"{found.st_size}:{found.st_mtime}")
            if unread is not None:
                raise unread

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """See `Remote`."""
        path = f"{self._folder}/{entry.key}"
        with self._in_words():
            with self._client.open(path, "rb") as file:
                file.prefetch(entry.size)
                while chunk := file.read(_CHUNK):
                    yield chunk
            found = self._client.lstat(path)
        if f"{found.st_size}:{found.st_mtime}" != entry.version:
            raise ChangedError("it changed while it was read")


def _private_key(file: str) -> Any:
    """The key in a file.

    Raises:
        RemoteError: it is none that can be used; what the library says of it may quote it.
        FileNotFoundError: it is not there.
    """
    import paramiko

    try:
        return paramiko.PKey.from_path(file)
    except OSError:
        raise
    except Exception:
        raise RemoteError(f"{SFTP_KEY} names a file that is no private key, or one with a passphrase") from None


@contextlib.contextmanager
def _sftp(address: str, environment: Mapping[str, str], seconds: int) -> Iterator[_Sftp]:
    try:
        import paramiko
    except ImportError:
        raise RemoteError("install the extra: pip install 'hospital-assets[sftp]'") from None
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port or 22
    known = environment.get(SFTP_HOSTS) or str(Path.home() / ".ssh" / "known_hosts")
    key = environment.get(SFTP_KEY)
    # It writes tracebacks of what our errors say in words.
    logging.getLogger("paramiko.transport").setLevel(logging.CRITICAL)
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        client.load_host_keys(known)
        client.connect(
            host,
            port,
            username=parts.username,
            password=environment.get(SFTP_PASSWORD),
            pkey=_private_key(key) if key else None,
            allow_agent=False,
            look_for_keys=False,
            timeout=seconds,
            banner_timeout=seconds,
            auth_timeout=seconds,
        )
        with client.open_sftp() as session:
            session.get_channel().settimeout(seconds)
            yield _Sftp(session, parts.path)
    except FileNotFoundError:
        raise RemoteError(f"{SFTP_HOSTS} or {SFTP_KEY} names a file that is not there") from None
    except paramiko.BadHostKeyException:
        raise RemoteError(
            f"the server has another key than {SFTP_HOSTS} knows; ask who runs it before you change it"
        ) from None
    except paramiko.AuthenticationException:
        raise RemoteError(f"the server does not let this user in; set {SFTP_KEY} or {SFTP_PASSWORD}") from None
    except paramiko.SSHException as error:
        if "not found in known_hosts" in str(error):
            raise RemoteError(
                f"the server's key is not known: ssh-keyscan -p {port} {host}, compare it with what its owner says, "
                f"and add it to {SFTP_HOSTS}"
            ) from None
        raise RemoteError(f"the server cannot be reached ({type(error).__name__})") from None
    except OSError as error:
        raise RemoteError(f"the server cannot be reached ({error.strerror or type(error).__name__})") from None
    finally:
        client.close()
