"""Bulk exports of a FHIR server (`$export`): NDJSON files that land together, each once.

HL7 FHIR Bulk Data Access: an export is begun, asked after until it is ready, and then a list of files. A look does what
can be done now and remembers the rest: whoever is killed goes on with the same export and the same files. The next
export asks for what has changed since the last one's `transactionTime`, by the server's clock. Files are kept beside
their places, hidden, until the last one has come: nothing lands of an export that ends half-way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from urllib.parse import urljoin, urlsplit

from hospital_assets.files import flush, make_folder, replacing
from hospital_assets.landing.profile import Export, Profile
from hospital_assets.settings import Settings
from hospital_assets.sources.memory import Memory, Pulled
from hospital_assets.sources.remote import ChangedError, Entry, RemoteError
from hospital_assets.sources.smart import (
    LONGEST_WAIT,
    FhirServer,
    LaterError,
    UnreachableError,
    body_of,
    is_safe,
    issues_of,
    origin,
    refusal,
    waiting_time,
)

_ENDING, _KEPT = ".ndjson", ".tmp"
_CHUNK = 1_048_576
#: What a look waits in all for a server that will be ready soon; what takes longer is for the next look.
PATIENCE_SECONDS = 20.0
#: How many looks may fail before an export is given up, and how often a look tries a file.
_MOST_FAILURES, _MOST_TRIES = 8, 3
#: So long after an export was given up the next one is begun, if it is not due sooner.
_PAUSE_SECONDS = 3600
_FILE_SECONDS = 7200
#: A resource is on one line; no sound one is longer.
_LONGEST_LINE = 64_000_000
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_TYPE = re.compile(r"[A-Za-z]{1,64}")


class _GoneError(RemoteError):
    """The server has forgotten a file of an export."""


class _TooLargeError(RemoteError):
    """An export is more than may be brought."""


@dataclass(frozen=True)
class _State:
    """How far a source's exports are; what is remembered from look to look.

    Attributes:
        asked: what was asked for; something else begins anew.
        since: the `transactionTime` of the last export that has landed, as the server wrote it.
        begun: when the newest export was begun; seconds since 1970, as all clocks here.
        ask_after: the server wants to be left alone until then.
        status: the address to ask after the export that is under way; empty where there is none.
        manifest: what its server said when it was ready.
        done: the address of an export that the server may forget.
        failures: looks at it that have failed.
        remark: what is to be known of the last export that has landed.
    """

    asked: str
    since: str = ""
    begun: float = 0.0
    ask_after: float = 0.0
    status: str = ""
    manifest: str = ""
    done: str = ""
    failures: int = 0
    remark: str = ""


@dataclass(frozen=True)
class _File:
    """A file of an export.

    Attributes:
        kind: `output`, `deleted` or `error`.
        label: type of its resources, or its kind.
        count: how many resources it has, where the server says so.
    """

    kind: str
    label: str
    url: str
    count: int


@dataclass(frozen=True)
class _Manifest:
    """What a server says of a finished export."""

    transaction_time: str
    needs_token: bool
    files: tuple[_File, ...]

    @staticmethod
    def of(text: str, status: str) -> _Manifest:
        """Read a manifest.

        Args:
            status: the address it is from; those of files may be relative to it.

        Raises:
            RemoteError: it is none, or only a part of one.
        """
        wrong = "its list of files (manifest) is not as the guide has it; ask the server's owner"
        try:
            stated = json.loads(text)
            transaction_time, files = stated["transactionTime"], []
            for kind in ("output", "deleted", "error"):
                for file in stated.get(kind) or []:
                    label = file.get("type", kind) if kind == "output" else kind
                    url, count = urljoin(status, file["url"]), file.get("count", 0)
                    if not _TYPE.fullmatch(label) or not isinstance(count, int) or not is_safe(url, status):
                        raise RemoteError(wrong)
                    files.append(_File(kind, label, url, count))
            links = [link["relation"] for link in stated.get("link") or []]
            if not _INSTANT.fullmatch(transaction_time) or not isinstance(stated.get("output"), list):
                raise RemoteError(wrong)
            datetime.fromisoformat(transaction_time)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise RemoteError(wrong) from None
        if "next" in links:
            raise RemoteError("its list of files has further pages, which were not asked for and are not read")
        return _Manifest(transaction_time, stated.get("requiresAccessToken") is True, tuple(dict.fromkeys(files)))

    @property
    def outline(self) -> list[tuple[str, str]]:
        """The files without what opens them: the same in another list of the same export."""
        return [(file.label, urlsplit(file.url)._replace(query="").geturl()) for file in self.files]


def pull_export(
    settings: Settings,
    profile: Profile,
    memory: Memory,
    pulled: Pulled,
    clock: Callable[[], datetime],
    sleep: Callable[[float], object],
    until: Callable[[], bool] = lambda: False,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Do what can be done now of a profile's export: begin one, ask after it, bring its files, land them.

    Args:
        pulled: what it comes to; `waiting` is 1 while the server prepares an export.
        sleep: waits for some seconds, where the server will be ready soon.

    Raises:
        RemoteError: the server refuses, fails, or says what cannot be.
    """
    assert profile.source is not None and profile.source.fhir is not None  # noqa: S101  (the caller has looked)
    export = profile.source.fhir
    with FhirServer(export, environment, clock) as server:
        look = _Look(settings, profile, export, server, memory, pulled, clock, sleep, until)
        try:
            look.over()
        finally:
            pulled.note = "; ".join(part for part in (pulled.note, look.state.remark) if part)


class _Look:
    """One look at a source's exports; what it comes to is in `pulled`."""

    def __init__(
        self,
        settings: Settings,
        profile: Profile,
        export: Export,
        server: FhirServer,
        memory: Memory,
        pulled: Pulled,
        clock: Callable[[], datetime],
        sleep: Callable[[float], object],
        until: Callable[[], bool],
    ) -> None:
        self.settings, self.profile, self.export, self.server = settings, profile, export, server
        self.memory, self.pulled, self.until = memory, pulled, until
        self._clock, self._sleep, self._patience = clock, sleep, PATIENCE_SECONDS
        asked = json.dumps([export.url, export.group, sorted(export.types)])
        known = memory.state(profile.name)
        state = _State(**known) if known is not None else _State(asked)
        # Something else was asked for: what has landed says nothing about it.
        self.state = state if state.asked == asked else _State(asked)

    def _note(self, **changed: Any) -> None:
        """Remember how far it is, before anything else is done."""
        self.state = replace(self.state, **changed)
        self.memory.note_state(self.profile.name, asdict(self.state))

    def _now(self) -> float:
        return self._clock().timestamp()

    def over(self) -> None:
        """Go on with the export that is under way, or begin one where it is time."""
        self._forget_done()
        if self.state.begun > self._now():
            # The clock was ahead: the next one is due, and one that is under way has not taken long.
            self._note(begun=self._now() if self.state.status else 0.0)
        while not self.until():
            wait = self.state.ask_after - self._now()
            # No server is left alone for longer, unless the clock was ahead.
            if 0 < wait <= LONGEST_WAIT and not self._waited(wait):
                self.pulled.waiting = 1
                self.pulled.note = f"the server is asked again in {wait:.0f} s"
                return
            try:
                if not self.state.status:
                    if (due := self.state.begun + self.export.every_minutes * 60 - self._now()) > 0:
                        self.pulled.note = f"the next export is due in {due / 60:.0f} min"
                        return
                    self._begin()
                elif not self.state.manifest:
                    self._ask_after()
                else:
                    with self._anew():
                        manifest = _Manifest.of(self.state.manifest, self.state.status)
                        if self._has_all(manifest):
                            self._land(manifest)
                    return
            except LaterError as later:
                self._note(ask_after=self._now() + later.seconds)
        self.pulled.waiting = int(bool(self.state.status))

    def _waited(self, seconds: float) -> bool:
        """Wait, if that is soon over."""
        if seconds > self._patience:
            return False
        self._patience -= seconds
        self._sleep(seconds)
        return True

    # Begin and ask after ------------------------------------------------------------------------------

    def _begin(self) -> None:
        # What was brought of an export that was given up.
        for left in (self.settings.landing / self.profile.name).rglob(f".*{_ENDING}{_KEPT}"):
            left.unlink(missing_ok=True)
        place = f"Group/{self.export.group}/$export" if self.export.group else "$export"
        asked = {"_outputFormat": "application/fhir+ndjson"}
        if self.export.types:
            asked["_type"] = ",".join(self.export.types)
        if self.state.since:
            asked["_since"] = self.state.since
        url = f"{self.export.url}/{place}"
        headers = {"Prefer": "respond-async"}
        with self.server.ask("GET", url, accept="application/fhir+json", headers=headers, params=asked) as answer:
            if answer.status_code != 202:
                raise refusal(answer, "no export was begun")
            status = urljoin(url, answer.headers.get("content-location", ""))
        if status == url or origin(status) != origin(self.export.url):
            self._note(begun=self._now())
            raise RemoteError("an export was begun, but where to ask after it is not on this server; ask its owner")
        self._note(status=status, manifest="", begun=self._now(), failures=0, ask_after=0.0)

    def _ask_after(self) -> None:
        """Whether the export is ready: its manifest is remembered then.

        Raises:
            LaterError: not yet.
            RemoteError: it has failed, or takes too long, and is given up; the next look begins anew.
        """
        with self.server.ask("GET", self.state.status, accept="application/json") as answer:
            status = answer.status_code
            if status == 202:
                if self._now() - self.state.begun > self.export.hours * 3600:
                    self._give_up()
                    raise RemoteError(f"the server was not ready in {self.export.hours} hours; a new export is begun")
                raise LaterError(waiting_time(answer, self._clock()))
            if status == 200:
                text = body_of(answer).decode("utf-8", "replace")
                try:
                    _Manifest.of(text, self.state.status)
                except RemoteError:
                    self._give_up()
                    raise
                self._note(manifest=text, failures=0)
                return
            if status in (404, 410):
                self._note(status="", begun=self._soon())
                raise RemoteError("the server has forgotten the export; a new one is begun")
            error = refusal(answer, "the export has failed")
        self._failed(error, is_final=status < 500 and status not in (401, 403))

    def _failed(self, error: RemoteError, *, is_final: bool = False) -> NoReturn:
        """A look has failed: later ones try again, each after a longer time, until the export is given up."""
        failures = self.state.failures + 1
        if is_final or failures >= _MOST_FAILURES:
            self._give_up()
        else:
            self._note(failures=failures, ask_after=self._now() + 10.0 * failures**2)
        raise error

    def _soon(self) -> float:
        """When the newest export would have been begun if the next one were due after the pause."""
        return min(self.state.begun, self._now() + _PAUSE_SECONDS - self.export.every_minutes * 60)

    def _give_up(self, *, is_soon: bool = True) -> None:
        """Have done with the export that is under way."""
        begun = self._soon() if is_soon else self.state.begun
        self._note(status="", manifest="", done=self.state.status, failures=0, ask_after=0.0, begun=begun)
        self._forget_done()

    def _forget_done(self) -> None:
        """Tell the server that an export is of no more use; what it says to that changes nothing."""
        if self.state.done:
            with (
                contextlib.suppress(RemoteError, LaterError),
                self.server.ask("DELETE", self.state.done, accept="application/json"),
            ):
                self._note(done="")

    # Bring and land -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _anew(self) -> Iterator[None]:
        """Files that have gone, or whose addresses are good no more, may be had by asking for the list again."""
        try:
            yield
        except _GoneError:
            before = self.state.manifest
            self._note(manifest="")
            self._ask_after()
            if self.state.manifest == before:
                self._give_up()
                raise RemoteError("its files have gone before all were here; a new export is begun") from None
            raise RemoteError("the addresses of its files have changed; the next look goes on") from None

    def _has_all(self, manifest: _Manifest) -> bool:
        """Bring what is not here yet; whether all is here now."""
        budget = self.export.most_megabytes * 1_000_000
        for key, file in self._files(manifest):
            target, kept = self._places(key)
            if target.exists() or kept.exists():
                budget -= (target if target.exists() else kept).stat().st_size
                continue
            if self.until():
                self.pulled.waiting = 1
                return False
            for attempt in range(1, _MOST_TRIES + 1):
                try:
                    self._bring(file, kept, manifest, budget)
                except (_GoneError, UnreachableError):
                    raise
                except _TooLargeError:
                    self._give_up(is_soon=False)
                    raise
                except (RemoteError, OSError) as error:
                    self.pulled.failed[key] = str(error) if isinstance(error, RemoteError) else f"{error.strerror}"
                    if not isinstance(error, ChangedError) or not self._waited(attempt):
                        break
                else:
                    self.pulled.failed.pop(key, None)
                    budget -= kept.stat().st_size
                    break
        if self.pulled.failed:
            self._failed(RemoteError(f"{len(self.pulled.failed)} files of the export could not be brought"))
        return True

    def _files(self, manifest: _Manifest) -> Iterator[tuple[str, _File]]:
        """The files that the profile reads, by where they land below its folder: names of no one, always the same."""
        self.pulled.other = 0
        numbers: Counter[str] = Counter()
        for file in manifest.files:
            numbers[file.label] += 1
            key = self._key(f"{file.label}.{self._stem(manifest)}.{numbers[file.label]:04}{_ENDING}")
            if self.profile.feeds(key):
                yield key, file
            else:
                self.pulled.other += 1

    def _stem(self, manifest: _Manifest) -> str:
        """What all names of an export have: its moment, and which export it is of those with that moment."""
        moment = datetime.fromisoformat(manifest.transaction_time).astimezone(UTC)
        which = json.dumps([self.state.asked, self.state.since, manifest.transaction_time, manifest.outline])
        return f"{moment:%Y%m%dT%H%M%SZ}-{hashlib.sha256(which.encode()).hexdigest()[:8]}"

    def _key(self, name: str) -> str:
        """A path that `files` of a subject takes, where one does."""
        patterns = [pattern for subject in self.profile.subjects.values() for pattern in subject.files]
        folders = dict.fromkeys(str(PurePosixPath(pattern).parent) for pattern in patterns)
        keys = [name, *(f"{folder}/{name}" for folder in folders if not set("*?[") & {*folder} and folder != ".")]
        return next((key for key in keys if self.profile.feeds(key)), name)

    def _places(self, key: str) -> tuple[Path, Path]:
        """Where a file lands, and where it is kept until all are here."""
        folder = self.settings.landing / self.profile.name
        target = folder / key
        if any(place.is_symlink() for place in (target, *target.parents) if place.is_relative_to(folder)):
            raise RemoteError("a link stands in the landing folder where a file or its folder would; remove it")
        return target, target.with_name(f".{target.name}{_KEPT}")

    def _bring(self, file: _File, kept: Path, manifest: _Manifest, budget: int) -> None:
        """Download a file whole.

        Raises:
            ChangedError: it broke off, or is not what was announced; it may be whole the next time.
            RemoteError: it is too large, or no NDJSON.
        """
        most = min(self.settings.limits.megabytes * 1_000_000, budget)
        ends = self._now() + _FILE_SECONDS
        accept = "application/fhir+ndjson"
        with (
            self.server.ask("GET", file.url, with_token=manifest.needs_token, accept=accept) as answer,
            replacing(kept, is_durable=True) as temporary,
        ):
            if answer.status_code in (403, 404, 410):
                raise _GoneError("it has gone")
            if answer.status_code != 200:
                error = refusal(answer, "it is not given")
                raise ChangedError(str(error)) if answer.status_code >= 500 else error
            size = lines = last_line = 0
            with temporary.open("wb") as written:
                for chunk in self._chunks(answer):
                    if size + len(chunk) > most or self._now() > ends:
                        raise _TooLargeError(
                            "the export is over a limit (most_file_megabytes in hospital.toml, most_megabytes of the "
                            "source, or two hours for a file); ask for fewer types, or raise that"
                        )
                    lines += chunk.count(b"\n")
                    if (place := chunk.rfind(b"\n")) >= 0:
                        last_line = size + place + 1
                    size += len(chunk)
                    written.write(chunk)
            if size and not _is_whole(temporary, last_line, size):
                raise ChangedError("it is no NDJSON, or was cut off")
            if lines + (last_line < size) < file.count:
                raise ChangedError("it has fewer resources than the list of files says")

    @staticmethod
    def _chunks(answer: Any) -> Iterator[bytes]:
        try:
            yield from answer.iter_content(_CHUNK)
        except OSError as error:
            # `requests` and its own; none is of the disk.
            raise ChangedError(f"it broke off ({type(error).__name__})") from None

    def _land(self, manifest: _Manifest) -> None:
        """All files are here: they take their places, then it is noted, then the server may forget them."""
        kinds: Counter[str] = Counter()
        issues: Counter[str] = Counter()
        for key, file in self._files(manifest):
            target, kept = self._places(key)
            kinds[file.kind] += 1
            if not target.exists() and kept.stat().st_size == 0:
                kept.unlink()
                continue
            if file.kind == "error":
                issues += _issues_in(target if target.exists() else kept)
            is_new = not target.exists()
            if is_new:
                make_folder(target.parent, is_durable=True)
                kept.replace(target)
                flush(target.parent)
            with target.open("rb") as landed:
                sha256 = hashlib.file_digest(landed, "sha256").hexdigest()
            entry = Entry(key, target.stat().st_size, manifest.transaction_time)
            self.memory.note(self.profile.name, entry, "brought", self._clock(), sha256=sha256)
            self.pulled.brought += is_new
        self._note(
            since=manifest.transaction_time,
            status="",
            manifest="",
            done=self.state.status,
            remark=_remark(kinds["deleted"], issues),
        )
        self._forget_done()


def _is_whole(path: Path, last_line: int, size: int) -> bool:
    """Whether a file begins and ends as NDJSON does; what was cut off within a line does not."""
    with path.open("rb") as file:
        if not file.read(1024).lstrip().startswith(b"{"):
            return False
        if last_line == size:
            return True
        file.seek(last_line)
        try:
            rest = file.read(_LONGEST_LINE)
            return not rest.strip() or isinstance(json.loads(rest), dict)
        except (ValueError, RecursionError):
            return False


def _issues_in(path: Path) -> Counter[str]:
    """How often which issue code is in a file of OperationOutcomes."""
    found: Counter[str] = Counter()
    with path.open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError, RecursionError, AttributeError):
                found.update(issues_of(json.loads(line)))
    return found


def _remark(deleted: int, issues: Mapping[str, int]) -> str:
    parts = []
    if deleted:
        parts.append(f"the last export has {deleted:,} files of deletions, which are kept and change no table")
    if issues:
        listed = ", ".join(f"{code} {count:,} times" for code, count in sorted(issues.items()))
        parts.append(f"the server reported issues in the last export ({listed}): see its error files")
    return "; ".join(parts)
