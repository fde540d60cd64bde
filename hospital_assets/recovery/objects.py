"""Where backups keep files: each content once, packed (zstd), and sealed (age) where there are recipients.

An object's name is a keyed hash of the content and of whom it is sealed for: a name says nothing about a file that
somebody may guess, and who is to read new backups finds nothing in them that others only can open. `age -d` and
`zstd -d` open an object without this program. Belongs here: one file in, one file out, and whether it is whole. Does
not: what is backed up.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from hospital_assets.files import flush, make_folder, replacing, why_not_secret

#: What is packed at once, as a frame of its own.
_FRAME_BYTES = 4_000_000
#: zstd's: more than 1 takes longer than it saves here.
_LEVEL = 1
#: How objects are called.
OBJECT_NAME = re.compile(r"[0-9a-f]{40}\.zst(\.age)?")
_EXTRA = "encrypted backups need pyrage: pip install 'hospital-assets[backup]'"


class BackupError(ValueError):
    """A backup cannot be made, read or restored; the message says why and what to do. Names no landed file."""


class ChangedError(BackupError):
    """A file was written to while it was read."""


@dataclass(frozen=True)
class Content:
    """What a file holds; of an object what lies in the folder, packed and sealed as it is."""

    bytes: int
    sha256: str


def recipients_of(texts: Sequence[str]) -> list[Any]:
    """Those who can open what is sealed: public keys of age (`age1...`) or of SSH.

    Raises:
        BackupError: one is no such key, or pyrage is not installed.
    """
    return [_parsed(text, "recipient") for text in texts]


def identities_of(file: Path | None) -> list[Any]:
    """The secret keys of an identity file: age's own (`AGE-SECRET-KEY-1...`, a line each) or a private key of SSH.

    Raises:
        BackupError: it is not there, others can read it, or it holds no usable key.
    """
    if file is None:
        return []
    try:
        data, problem = file.read_bytes(), why_not_secret(file)
    except OSError as error:
        raise BackupError(f"the identity file {file} cannot be read: {error.strerror}") from None
    if problem:
        raise BackupError(problem)
    if b"PRIVATE KEY" in data:
        pyrage = _pyrage()
        try:
            return [pyrage.ssh.Identity.from_buffer(data)]
        except pyrage.IdentityError:
            raise BackupError(f"{file} is no SSH key that can be used; a key under a passphrase cannot") from None
    lines = (line.strip() for line in data.decode("utf-8", "replace").splitlines())
    found = [_parsed(line, "identity") for line in lines if line and not line.startswith("#")]
    if not found:
        raise BackupError(f"{file} holds no secret key of age")
    return found


def _parsed(text: str, what: str) -> Any:
    pyrage = _pyrage()
    kind = pyrage.ssh if text.startswith("ssh-") else pyrage.x25519
    try:
        return (kind.Recipient if what == "recipient" else kind.Identity).from_str(text)
    except (pyrage.RecipientError, pyrage.IdentityError):
        # An identity is a secret: never shown.
        shown = f"'{text}' is" if what == "recipient" else "a line of the identity file is"
        raise BackupError(f"{shown} no {what} of age; `age-keygen` makes a pair of keys") from None


def _pyrage() -> Any:
    try:
        import pyrage
    except ImportError:
        raise BackupError(_EXTRA) from None
    return pyrage


def content_of(file: Path, size: int | None = None) -> Content:
    """Size and digest of a file, or of its beginning."""
    digest, read = hashlib.sha256(), 0
    with file.open("rb") as opened:
        while piece := opened.read(_FRAME_BYTES if size is None else min(_FRAME_BYTES, size - read)):
            digest.update(piece)
            read += len(piece)
    return Content(read, digest.hexdigest())


class _Packing:
    """The beginning of a file as a stream of zstd frames, for who reads it; knows what went through."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._digest, self._size, self._frame = file, hashlib.sha256(), 0, io.BytesIO()
        self._left = size
        self._codec = pa.Codec("zstd", compression_level=_LEVEL)

    def read(self, size: int = -1) -> bytes:
        part = self._frame.read(size)
        if not part and (piece := self._file.read(min(_FRAME_BYTES, self._left))):
            self._left -= len(piece)
            self._digest.update(piece)
            self._size += len(piece)
            self._frame = io.BytesIO(self._codec.compress(piece, asbytes=True))
            part = self._frame.read(size)
        return part

    @property
    def content(self) -> Content:
        return Content(self._size, self._digest.hexdigest())


class _Digesting:
    """A file that is read or written through, and what went through."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest, self._size = file, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        return self._noted(self._file.read(size))

    def write(self, data: bytes) -> int:
        self._file.write(data)
        return len(self._noted(data))

    def flush(self) -> None:
        self._file.flush()

    def _noted(self, data: bytes) -> bytes:
        self._digest.update(data)
        self._size += len(data)
        return data

    @property
    def content(self) -> Content:
        return Content(self._size, self._digest.hexdigest())


@dataclass
class Objects:
    """The objects of a folder of backups.

    Attributes:
        name_key: names are hashes under it.
        recipients: whom new objects are sealed for, as in the settings; none: they are packed only.
        known: objects that are in the folder.
        is_doubted: whether one of them was found damaged: what is there is looked at before it counts.
        added: how many bytes of objects were written since it was opened.
    """

    folder: Path
    name_key: bytes
    recipients: tuple[str, ...]
    known: dict[str, Content]
    is_doubted: bool = False
    added: int = 0
    _sealing: list[Any] = field(init=False, repr=False)
    _new: list[Path] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        self._sealing = recipients_of(self.recipients)

    def name_of(self, content: Content) -> str:
        """The name that a content has here."""
        said = "|".join([content.sha256, *sorted(self.recipients)])
        digest = hmac.new(self.name_key, said.encode(), hashlib.sha256).hexdigest()[:40]
        return digest + (".zst.age" if self.recipients else ".zst")

    def put(self, source: Path, content: Content) -> str:
        """Have a file's content in the folder; where it is already, whole, nothing is written. Returns its name.

        What was appended to the file since its content was looked at is left out.

        Raises:
            BackupError: the file is not, or no longer, what it is said to be; it could not be sealed.
            OSError: it cannot be read, or the folder not be written.
        """
        name = self.name_of(content)
        path = path_of(self.folder, name)
        with contextlib.suppress(OSError):
            is_there = name in self.known and path.stat().st_size == self.known[name].bytes
            if is_there and not (self.is_doubted and check(self.folder, name, self.known[name])):
                return name
        with source.open("rb") as read, replacing(path, mode=0o600) as temporary, temporary.open("wb") as written:
            packing, digesting = _Packing(read, content.bytes), _Digesting(written)
            self._seal(packing, digesting)
            if packing.content != content:
                raise ChangedError("a file changed while it was read")
        self.known[name] = digesting.content
        self.added += digesting.content.bytes
        self._new.append(path)
        return name

    def _seal(self, packing: _Packing, written: _Digesting) -> None:
        if not self._sealing:
            while part := packing.read(_FRAME_BYTES):
                written.write(part)
            return
        pyrage = _pyrage()
        try:
            pyrage.encrypt_io(packing, written, self._sealing)
        except pyrage.EncryptError as error:
            raise BackupError(f"the backup cannot be written to {self.folder}: {error}") from None

    def flush(self) -> None:
        """Have everything that was put here on disk."""
        for path in [*self._new, *{path.parent for path in self._new}]:
            flush(path)
        self._new.clear()


def path_of(folder: Path, name: str) -> Path:
    """Where an object lies."""
    return folder / "objects" / name[:2] / name


def sweep(folder: Path, names: Collection[str]) -> None:
    """Delete objects that are none of these, and what was being written when a process died."""
    for path in (folder / "objects").glob("*/*"):
        if path.name not in names:
            path.unlink()


def fetch(
    folder: Path,
    name: str,
    stored: Content,
    target: Path,
    identities: Sequence[Any],
    scratch: Path,
    content: Content | None = None,
) -> Content:
    """Make a file of an object's content: whole, or not at all.

    Args:
        stored: what it must be as it lies there.
        target: the file; an empty folder is made for it.
        identities: open what is sealed.
        scratch: a folder for what is not whole yet.
        content: what must come out; None to take what does.

    Raises:
        BackupError: it is missing, changed or cut short, or none of the identities opens it. Nothing is left behind.
    """
    make_folder(target.parent)
    with replacing(target, mode=0o600) as temporary:
        with _packed(folder, name, stored, identities, scratch) as packed, temporary.open("wb") as written:
            digesting = _Digesting(written)
            try:
                unpacked = pa.CompressedInputStream(packed, "zstd")
                while piece := unpacked.read(_FRAME_BYTES):
                    digesting.write(piece)
            except (OSError, pa.ArrowException) as error:
                raise _damaged(name) from error
        if content is not None and digesting.content != content:
            raise _damaged(name)
    return digesting.content


def check(folder: Path, name: str, stored: Content) -> str:
    """What is wrong with an object as it lies in the folder; empty where nothing is."""
    try:
        found = content_of(path_of(folder, name))
    except FileNotFoundError:
        return f"object {name} is missing"
    except OSError as error:
        return f"object {name} cannot be read ({error.strerror})"
    return "" if found == stored else f"object {name} is not as it was written"


@contextlib.contextmanager
def _packed(folder: Path, name: str, stored: Content, identities: Sequence[Any], scratch: Path) -> Iterator[IO[bytes]]:
    """An object's content, packed as it was; checked to the last byte before any of it can be read."""
    path = path_of(folder, name)
    if problem := check(folder, name, stored):
        raise BackupError(f"{problem}: take another backup, or another copy of {folder}")
    if not name.endswith(".age"):
        with path.open("rb") as packed:
            yield packed
        return
    if not identities:
        raise BackupError("the backup is encrypted: name the file with the secret key, --identity FILE")
    pyrage = _pyrage()
    # Of what is cut short, much is opened before the error comes: plain text that must not stay.
    opened = scratch / "opened"
    try:
        with path.open("rb") as sealed, opened.open("wb") as plain:
            try:
                pyrage.decrypt_io(sealed, plain, identities)
            except (pyrage.DecryptError, OSError) as error:
                if "No matching keys" in str(error):
                    raise BackupError("none of the secret keys given opens this backup: another --identity") from None
                raise _damaged(name) from error
        with opened.open("rb") as packed:
            yield packed
    finally:
        opened.unlink(missing_ok=True)


def _damaged(name: str) -> BackupError:
    return BackupError(f"object {name} is damaged: what it holds is not what was put in")


def seal_small(data: bytes, recipients: Sequence[str]) -> bytes:
    """A few bytes for recipients; as they are where there is none."""
    return bytes(_pyrage().encrypt(data, recipients_of(recipients))) if recipients else data


def open_small(data: bytes, identities: Sequence[Any]) -> bytes:
    """What `seal_small` was given.

    Raises:
        BackupError: none of the identities opens it.
    """
    if not data.startswith(b"age-encryption.org/"):
        return data
    pyrage = _pyrage()
    try:
        return bytes(pyrage.decrypt(data, list(identities)))
    except pyrage.DecryptError:
        raise BackupError("none of the secret keys given opens it: --identity FILE") from None
