"""Anchors: the end of the audit as it is written down outside of it, so that a log that was cut or replaced shows.

An anchor is stamped with the audit's key and carries a counter that only goes up, over logs that were begun
afresh, too. One lies next to the keys and is exact: it is written before and after each commit. A second lies
in the data directory, outside `audit/`. Others go where `HOSPITAL_AUDIT_ANCHORS` says: `file:/mnt/other/anchors.jsonl`
(a line each, read back and compared), `syslog:` or `syslog:HOST[:PORT]`, a webhook (`https://...`); several with commas
between. All that can be read are compared before any is overwritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging.handlers
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hospital_assets.alerts.webhooks import post_json
from hospital_assets.files import append_text, locked, replace_text
from hospital_assets.settings import SettingsError

PLACES_VARIABLE = "HOSPITAL_AUDIT_ANCHORS"
_LOG = logging.getLogger("hospital.audit")
_TIMEOUT_SECONDS = 2.0
#: Of a file with many anchors this much of the end is looked at.
_TAIL_BYTES = 16_000
#: A place across the network hears of the newest anchor at most this often from one process.
_PAUSE_SECONDS = 60.0
_told: dict[str, float] = {}
_telling = threading.Lock()


@dataclass(frozen=True)
class Anchor:
    """Where a log ended.

    Attributes:
        log_id: which log, or which part of it: a new part begins where something was found.
        sequence_number: the newest entry's.
        mac: the newest entry's.
        before_number: the newest entry's before this transaction, 0 where there was none; once it is over the same.
        before_mac: of that entry; of none the log's id.
        counter: goes up with every anchor of a data directory.
        occurred_at: when, UTC.
        keys: hash of the folder of the keys next to which it lies: an account in a container may have one of its own.
    """

    log_id: str
    sequence_number: int
    mac: str
    before_number: int
    before_mac: str
    counter: int
    occurred_at: str
    directory: str
    keys: str


#: The MAC of an entry of the log by its number; of 0 the log's id; None where there is no such entry.
MacOf = Callable[[int], str | None]


@dataclass(frozen=True)
class End:
    """What a log says about itself.

    Attributes:
        log_ids: its own ids, the newest last.
        known_ids: ids of other logs whose anchors were found here before.
        number: the newest entry's, 0 where there is none.
        mac_of: the MAC of any entry.
    """

    log_ids: Sequence[str]
    known_ids: Collection[str]
    number: int
    mac_of: MacOf


@dataclass(frozen=True)
class Compared:
    """A log's end against its anchors.

    Attributes:
        problems: what they contradict, in words.
        others: ids of other logs that they name.
        next_counter: one more than any anchor of this data directory has.
    """

    problems: list[str]
    others: list[str]
    next_counter: int


class Anchors:
    """The anchors of one data directory."""

    def __init__(self, key: bytes, folder: Path, data_dir: Path, places: str = "") -> None:
        """Say where they are; nothing is read or written yet.

        Args:
            key: stamps them.
            places: other places, as in `HOSPITAL_AUDIT_ANCHORS`.

        Raises:
            SettingsError: a place is of no known kind.
        """
        self._key, self._folder, self._data_dir = key, folder, data_dir
        self._name = hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]
        self.keys = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        self._witness = data_dir / "access" / "audit-anchor.json"
        self._places = [place.strip() for place in places.split(",") if place.strip()]
        for place in self._places:
            if not place.startswith(("file:", "syslog:", "https://", "http://")):
                raise SettingsError(f"{PLACES_VARIABLE}: a place is file:PATH, syslog:[HOST[:PORT]] or a URL")

    def file_of(self, log_id: str) -> Path:
        """The anchor next to the keys."""
        return self._folder / f"audit-{self._name}-{log_id}.json"

    def compare(self, end: End) -> Compared:
        """Read all anchors and compare a log's end with them."""
        files = {
            *self._folder.glob(f"audit-{self._name}-*.json"),
            *self._own_files(end.log_ids[-1]),
            *([self._witness] if self._witness.exists() else []),
        }
        found = {file: self._read(file) for file in sorted(files)}
        last = list(self._last_ones(end))
        problems, others = [], []
        for problem, other in self._contradictions(end, found, last):
            problems.append(problem)
            others += [other] if other else []
        counters = [anchor.counter for anchor in (*found.values(), *(anchor for _, anchor in last)) if anchor]
        return Compared(list(dict.fromkeys(problems)), sorted(set(others)), 1 + max(counters, default=0))

    def alone(self) -> AbstractContextManager[None]:
        """One process or thread at a time appends and writes anchors, so that they agree exactly."""
        return locked(log_file_in(self._data_dir).with_name("append.lock"))

    def announce(self, anchor: Anchor) -> None:
        """Write the one next to the keys before the commit: a process that dies then leaves it one step ahead."""
        self._write(anchor, is_durable=True)

    def confirm(self, anchor: Anchor) -> None:
        """Write all after the commit; a place that cannot be reached is logged and hears of a later anchor."""
        anchor = replace(anchor, before_number=anchor.sequence_number, before_mac=anchor.mac)
        self._write(anchor, is_durable=False)
        text = self._text(anchor)
        replace_text(self._witness, text, mode=0o600)
        for place in self._places:
            try:
                if place.startswith("file:"):
                    append_text(Path(place[5:]), text)
                elif not _is_due(place):
                    continue
                elif place.startswith("syslog:"):
                    _to_syslog(place, text)
                else:
                    post_json(place, text, seconds=_TIMEOUT_SECONDS)
            except OSError as error:
                _LOG.warning("an anchor of the audit could not be written to a second place: %s", type(error).__name__)

    def _write(self, anchor: Anchor, *, is_durable: bool) -> None:
        file = self.file_of(anchor.log_id)
        replace_text(file, self._text(anchor), is_durable=is_durable, mode=0o600)
        for other in self._own_files(anchor.log_id):
            if other != file:
                # The data directory was renamed.
                other.unlink(missing_ok=True)

    def _contradictions(
        self, end: End, found: Mapping[Path, Anchor | None], last: Sequence[tuple[str, Anchor]]
    ) -> Iterator[tuple[str, str]]:
        """Problems, each with the id that an anchor names where that is another log's."""
        own = end.log_ids[-1]
        is_led_elsewhere = self._is_led_elsewhere(end, found.get(self._witness))
        files = [file for file in found if file != self._witness and file.stem.endswith(f"-{own}")]
        if not files and end.number and not is_led_elsewhere:
            yield f"{self.file_of(own)} is missing, so a cut-off end would not show", ""
        for file in files:
            yield from ((p, "") for p in self._next_to_the_keys(file, found[file], end, is_led_elsewhere))
        for file, anchor in found.items():
            if file == self._witness or not file.stem.startswith(f"audit-{self._name}-"):
                continue
            if file.stem.rpartition("-")[2] in (*end.log_ids, *end.known_ids) or anchor is None:
                continue
            # A part of a log that was begun, but not committed, is no other log.
            if end.mac_of(anchor.before_number) != anchor.before_mac:
                yield from _against(anchor, end, str(file))
        if self._witness in found:
            anchor = found[self._witness]
            if anchor is None:
                yield f"{self._witness} is not what was written", ""
            elif anchor.log_id not in end.known_ids:
                yield from _against(anchor, end, str(self._witness))
        for place, stated in last:
            if stated.log_id not in end.known_ids:
                yield from _against(stated, end, place)

    def _next_to_the_keys(self, file: Path, anchor: Anchor | None, end: End, is_led_elsewhere: bool) -> Iterator[str]:
        """Against the one anchor that is exact."""
        if anchor is None:
            yield f"{file} is not what was written"
            return
        if self._is_copy(anchor, end):
            yield f"this log is a copy of the one in {anchor.directory}"
            return
        number, mac = anchor.sequence_number, anchor.mac
        if end.number == anchor.before_number:
            # Written before the commit: whoever died in between left the anchor one step ahead.
            number, mac = anchor.before_number, anchor.before_mac
        if end.number > number and not is_led_elsewhere:
            yield f"{file} is old: it states entry {number} as the newest of {end.number}"
        if end.mac_of(number) is None:
            yield _cut(anchor, end)
        elif end.mac_of(number) != mac:
            yield f"entry {number} is not the one that was written down outside"

    def original(self, end: End) -> str | None:
        """The data directory whose log this one is a copy of, where it still is: only one of them can go on."""
        found = (self._read(file) for file in self._own_files(end.log_ids[-1]))
        return next((anchor.directory for anchor in found if anchor and self._is_copy(anchor, end)), None)

    def _is_copy(self, anchor: Anchor, end: End) -> bool:
        """Whether an anchor next to the keys is of another directory that is still there."""
        return anchor.directory != str(self._data_dir) and _log_id_in(Path(anchor.directory)) == end.log_ids[0]

    def _is_led_elsewhere(self, end: End, anchor: Anchor | None) -> bool:
        """Whether who has another folder of keys wrote the newest entry, as the anchor in `access/` says."""
        return (
            anchor is not None
            and anchor.keys != self.keys
            and (anchor.sequence_number, anchor.mac) == (end.number, end.mac_of(end.number))
        )

    def _own_files(self, log_id: str) -> list[Path]:
        return sorted(self._folder.glob(f"audit-*-{log_id}.json"))

    def _last_ones(self, end: End) -> Iterator[tuple[str, Anchor]]:
        """The newest anchor of this data directory or log in each place that can be read."""
        for place in self._places:
            if not place.startswith("file:") or not Path(place[5:]).is_file():
                continue
            with Path(place[5:]).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
                found = [self._parse(line) for line in file.read().splitlines()]
            mine = [a for a in found if a and (a.log_id in end.log_ids or a.directory == str(self._data_dir))]
            if mine:
                yield place, max(mine, key=lambda anchor: anchor.counter)

    def _read(self, file: Path) -> Anchor | None:
        try:
            return self._parse(file.read_bytes())
        except OSError:
            return None

    def _text(self, anchor: Anchor) -> str:
        return json.dumps({**asdict(anchor), "stamp": self._stamp(asdict(anchor))}) + "\n"

    def _parse(self, data: bytes) -> Anchor | None:
        """An anchor that we wrote; None for anything else."""
        try:
            values = json.loads(data)
            stamp = values.pop("stamp")
            anchor = Anchor(**values)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            return None
        is_ours = isinstance(stamp, str) and hmac.compare_digest(stamp.encode(), self._stamp(values).encode())
        return anchor if is_ours else None

    def _stamp(self, values: dict[str, object]) -> str:
        return hmac.new(self._key, b"anchor" + json.dumps(values, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _against(anchor: Anchor, end: End, where: str) -> Iterator[tuple[str, str]]:
    """Compare with an anchor that may lag behind, but be neither ahead nor another log's."""
    found = end.mac_of(anchor.sequence_number)
    if found == anchor.mac:
        return
    if anchor.log_id not in end.log_ids:
        yield (
            f"the log whose end was written down in {where} was replaced, or deleted and begun afresh: it ended with "
            f"entry {anchor.sequence_number} at {anchor.occurred_at}",
            anchor.log_id,
        )
    elif found is None:
        yield _cut(anchor, end), ""
    else:
        yield f"entry {anchor.sequence_number} is not the one that was written down in {where}", ""


def _cut(anchor: Anchor, end: End) -> str:
    return (
        f"the log ended with entry {anchor.sequence_number} at {anchor.occurred_at}; now with {end.number}: its end "
        "was cut off"
    )


def log_file_in(data_dir: Path) -> Path:
    """Where the log of a data directory is."""
    return data_dir / "audit" / "audit.db"


def _log_id_in(data_dir: Path) -> str | None:
    """The id of the log in a data directory; None where there is none."""
    try:
        with contextlib.closing(sqlite3.connect(f"{log_file_in(data_dir).as_uri()}?mode=ro", uri=True)) as connection:
            return str(connection.execute("select log_id from log").fetchone()[0])
    except (sqlite3.Error, TypeError, ValueError):
        return None


def _is_due(place: str) -> bool:
    with _telling:
        if time.monotonic() - _told.get(place, -_PAUSE_SECONDS) < _PAUSE_SECONDS:
            return False
        _told[place] = time.monotonic()
    return True


def _to_syslog(place: str, text: str) -> None:
    host, _, port = place.removeprefix("syslog:").partition(":")
    address = (host, int(port or 514)) if host else "/dev/log"
    handler = _Syslog(address)
    try:
        handler.emit(logging.LogRecord("hospital-audit", logging.INFO, "", 0, "hospital-audit: %s", (text,), None))
    finally:
        handler.close()


class _Syslog(logging.handlers.SysLogHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (its name in logging)
        raise OSError("syslog cannot be reached")
