"""The network as it goes on: files land while its clock runs.

The same records as in a simulation at once, but each lands when it was recorded: what lies before now
as daily files, the rest in small files every few seconds, the way an integration engine drops them.
Everything but the moments of landing follows from the arguments, so a stopped simulation can go on.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hospital_assets.files import read_state, replace_bytes, replace_text
from hospital_assets.simulator import feed_network, feeds

_DAY = 86_400
#: How often each kind of bad delivery happens, per file.
_TORN, _GZIP, _AGAIN, _GARBAGE = 0.02, 0.02, 0.03, 0.005


@dataclass(frozen=True)
class LiveNetwork:
    """What is simulated; kept in the data directory, so that the simulation can be taken up again.

    Attributes:
        start: first service day; history.
        live_start: the moment from which files land as they are recorded, UTC seconds.
        landed_until: everything recorded before has landed, UTC seconds.
    """

    start: str
    live_start: float
    days: int
    scale: float
    seed: int
    dirty: bool
    landed_until: float

    @property
    def first_day(self) -> date:
        """The first service day."""
        return date.fromisoformat(self.start)

    @property
    def last_day(self) -> date:
        """The last service day."""
        return self.first_day + timedelta(days=self.days - 1)


class _Tape(feeds.Landed):
    """Keeps the feeds, each record with the moment at which it lands."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.feeds: list[_Feed] = []

    def write(self, name: str, data: bytes) -> None:
        """Reference data: landed at once."""
        _put(self.root, name, data)

    def csv_feed(
        self, subject: str, frame: pl.DataFrame, columns: Sequence[str], record_id: str, alter: Any = None
    ) -> None:
        """Keep a CSV feed."""
        self.feeds.append(_Feed(subject, "csv", tuple(columns), _timed(frame)))

    def json_feed(self, subject: str, frame: pl.DataFrame, record_id: str, alter: Any = None) -> None:
        """Keep a JSON feed."""
        self.feeds.append(_Feed(subject, "json", ("_text",), _timed(frame)))


@dataclass(frozen=True)
class _Feed:
    subject: str
    kind: str
    columns: tuple[str, ...]
    records: pl.DataFrame

    def between(self, low: float, high: float) -> pl.DataFrame:
        """Records that land from `low` until before `high`."""
        landed = self.records["_landed_at"]
        first = landed.search_sorted(low, side="left")
        return self.records[first : landed.search_sorted(high, side="left")]

    def body(self, records: pl.DataFrame) -> bytes:
        if self.kind == "csv":
            return feeds.csv_bytes(records.select(self.columns))
        return feeds.json_bytes(records)


def _timed(frame: pl.DataFrame) -> pl.DataFrame:
    """Add when each record lands: once recorded, or at the start of the day it is delayed to."""
    delayed = pl.when(pl.col("_day") * _DAY > pl.col("recorded") + _DAY).then(pl.col("_day") * _DAY)
    return frame.with_columns(_landed_at=pl.coalesce(delayed, "recorded").cast(pl.Float64)).sort(
        "_landed_at", maintain_order=True
    )


def prepare(landing: Path, network: LiveNetwork) -> Callable[[float, float], int]:
    """Make the records of a network; returns what lands those of a span of time.

    The function it returns takes two moments (UTC seconds), writes one file per feed that has
    records between them, each appearing whole, and returns how many files that were.
    """
    tape = _Tape(landing)
    feed_network(
        tape,
        network.first_day,
        network.days,
        network.scale,
        network.seed,
        not network.dirty,
        live_from=int(network.live_start),
    )
    rng = np.random.default_rng(network.seed)

    def land(low: float, high: float) -> int:
        files = 0
        for feed in tape.feeds:
            records = feed.between(low, high)
            if records.is_empty():
                continue
            moment = datetime.fromtimestamp(high, UTC)
            name = f"{feed.subject}/{feed.subject}_{moment:%Y-%m-%dT%H%M%S}.{feed.kind}"
            body = feed.body(records)
            if network.dirty:
                files += _deliver_badly(landing, name, body, rng)
            else:
                _put(landing, name, body)
            files += 1
        return files

    return land


def land_history(land: Callable[[float, float], int], network: LiveNetwork) -> int:
    """Land everything recorded before the simulation goes live, a file per feed and day."""
    first = datetime.combine(network.first_day, datetime.min.time(), UTC).timestamp()
    # Shifts are known a week ahead, patients may have been recorded before the first day.
    files = land(-math.inf, first)
    while first < network.live_start:
        until = min(first + _DAY, network.live_start)
        files += land(first, until)
        first = until
    return files


def go_live(
    land: Callable[[float, float], int],
    network: LiveNetwork,
    now: Callable[[], float],
    keep: Callable[[LiveNetwork], None],
    is_over: Callable[[float], bool],
    every_seconds: float = 5.0,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Land records as the clock passes them.

    Args:
        network: where to go on.
        now: the simulated clock, UTC seconds.
        keep: called with the network each time something has landed, so that a restart continues from there.
        is_over: waits for a number of seconds; True ends the simulation.
    """
    end = datetime.combine(network.last_day + timedelta(days=1), datetime.min.time(), UTC)
    until = network.landed_until
    while until < end.timestamp():
        if is_over(every_seconds):
            return
        moment = min(math.floor(now()), end.timestamp())
        files = land(until, moment)
        until = moment
        keep(replace(network, landed_until=until))
        say(f"{datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M} UTC  {files} files landed")


def read_network(path: Path) -> LiveNetwork | None:
    """The network that is simulated in a data directory, or None.

    Raises:
        StateError: the file is not what `write_network` wrote.
    """
    names = [field.name for field in fields(LiveNetwork)]
    try:
        found = read_state(path, "begin anew in another data directory", *names)
    except FileNotFoundError:
        return None
    return LiveNetwork(**{name: found[name] for name in names})


def write_network(path: Path, network: LiveNetwork) -> None:
    """Keep the network, in one step."""
    replace_text(path, json.dumps(asdict(network)))


def _put(landing: Path, name: str, data: bytes) -> None:
    replace_bytes(landing / "native" / name, data)


def _deliver_badly(landing: Path, name: str, body: bytes, rng: np.random.Generator) -> int:
    """Deliver a file as it sometimes happens; returns how many files came beside it."""
    chance = rng.random()
    beside = 0
    if chance < _TORN:
        # Cut off, and then sent again whole under the same name.
        _put(landing, name, body[: max(1, len(body) * 2 // 3)])
        time.sleep(0.5)
        _put(landing, name, body)
    elif chance < _TORN + _GZIP:
        _put(landing, f"{name}.gz", feeds.gzipped(body))
    elif chance < _TORN + _GZIP + _AGAIN:
        _put(landing, name, body)
        stem, _, kind = name.rpartition(".")
        _put(landing, f"{stem}_again.{kind}", body)
        beside = 1
    else:
        # A plain copy, growing before everybody's eyes.
        path = landing / "native" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(body[: len(body) // 2])
            file.flush()
            file.write(body[len(body) // 2 :])
    if rng.random() < _GARBAGE:
        stem, _, kind = name.rpartition(".")
        _put(landing, f"{stem}_page.{kind}", b"<!DOCTYPE html>\n<h1>Please sign in</h1>\n")
        beside += 1
    return beside
