"""Feeds: the true events as the files that source systems would land.

Belongs here: feed columns and formats, which day's file a record lands in, file-level dirt, and
the ground truth that says where each spoiled record ended up.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from hospital_assets.simulator.dirt import DIRT_COLUMNS
from hospital_assets.simulator.network import HOSPITALS, NETWORK_ZONE, zone_of

CSV_CLOCK = "%Y-%m-%d %H:%M:%S"
ISO_CLOCK = "%Y-%m-%dT%H:%M:%S%:z"
#: File-level dirt: from a file's name and rows to the name and the bytes that are written.
Alter = Callable[[str, pl.DataFrame], tuple[str, bytes]]


@dataclass
class Landed:
    """What was written so far."""

    root: Path
    files: int = 0
    size: int = 0
    truth: list[pl.DataFrame] = field(default_factory=list)

    def write(self, name: str, data: bytes) -> None:
        """Write one file below the native landing folder."""
        path = self.root / "native" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.files += 1
        self.size += len(data)

    def note_file(self, subject: str, kind: str, name: str, expected: str, line: int | None = None) -> None:
        """Record file-level dirt."""
        file = f"native/{name}"
        noted = {"subject": subject, "kind": kind, "record_id": name, "file": file, "line": line, "expected": expected}
        self.truth.append(truth_frame([noted]))

    def send_beside(
        self, subject: str, kind: str, name: str, mark: str, data: bytes, expected: str, line: int | None = None
    ) -> None:
        """Write and record a file that should not be there, beside the one whose name it bears with a mark."""
        stem, _, ending = name.rpartition(".")
        other = f"{stem}_{mark}.{ending}"
        self.write(other, data)
        self.note_file(subject, kind, other, expected, line)

    def csv_feed(
        self, subject: str, frame: pl.DataFrame, columns: Sequence[str], record_id: str, alter: Alter | None = None
    ) -> None:
        """One CSV file a day, rows in the order of the frame.

        Args:
            subject: folder and file prefix.
            frame: text columns, `_day` (days since 1970) and the dirt columns.
            record_id: column that identifies a record in the ground truth.
        """
        parts = frame.sort("_day", maintain_order=True).partition_by("_day", as_dict=True, maintain_order=True)
        for (day,), rows in parts.items():
            name = f"{subject}/{subject}_{_iso(day)}.csv"
            name, body = alter(name, rows) if alter else (name, csv_bytes(rows.select(columns)))
            self.write(name, body)
            _note(self, subject, rows, record_id, name, first_line=2)

    def json_feed(self, subject: str, frame: pl.DataFrame, record_id: str, alter: Alter | None = None) -> None:
        """JSON-lines files of six hours each; `_text` is the line, `_day` and `_part` the file."""
        frame = frame.sort("_day", "_part", maintain_order=True)
        parts = frame.partition_by("_day", "_part", as_dict=True, maintain_order=True)
        for (day, part), rows in parts.items():
            name = f"{subject}/{subject}_{_iso(day)}T{part * 6:02d}.json"
            name, body = alter(name, rows) if alter else (name, json_bytes(rows))
            self.write(name, body)
            _note(self, subject, rows, record_id, name, first_line=1)


TRUTH_SCHEMA = {
    "subject": pl.String,
    "kind": pl.String,
    "record_id": pl.String,
    "file": pl.String,
    "line": pl.Int64,
    "column": pl.String,
    "true_value": pl.String,
    "landed_value": pl.String,
    "expected": pl.String,
}


def truth_frame(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Ground-truth rows; missing fields are null."""
    return pl.DataFrame([{name: row.get(name) for name in TRUTH_SCHEMA} for row in rows], schema=TRUTH_SCHEMA)


def clock_text(seconds: str, hospital: str, pattern: str) -> pl.Expr:
    """UTC seconds as a wall clock of the hospital (by its number); null where negative."""
    instant = pl.from_epoch(pl.col(seconds), time_unit="s").dt.replace_time_zone("UTC")
    zones: dict[str, list[int]] = {}
    for number, name in enumerate(HOSPITALS):
        zones.setdefault(zone_of(name), []).append(number)
    texts = [
        pl.when(pl.col(hospital).is_in(numbers)).then(instant.dt.convert_time_zone(zone).dt.to_string(pattern))
        for zone, numbers in zones.items()
    ]
    return pl.when(pl.col(seconds) >= 0).then(pl.coalesce(*texts))


def six_hours(window: range) -> dict[str, pl.Expr]:
    """The file of six hours that a record lands in: `_day` and `_part` of the day, cut by the network's clock."""
    local = pl.from_epoch("recorded", time_unit="s").dt.replace_time_zone("UTC").dt.convert_time_zone(NETWORK_ZONE)
    day = local.dt.date().cast(pl.Int32).cast(pl.Int64)
    return {"_day": day.clip(window[0], window[-1]), "_part": local.dt.hour() // 6}


def local_day(seconds: str, hospital: str) -> pl.Expr:
    """The local calendar day of UTC seconds, as days since 1970."""
    return clock_text(seconds, hospital, "%Y-%m-%d").str.to_date().cast(pl.Int32).cast(pl.Int64)


def _note(landed: Landed, subject: str, rows: pl.DataFrame, record_id: str, name: str, first_line: int) -> None:
    spoiled = (
        rows.select(record_id, *DIRT_COLUMNS)
        .with_row_index("_line", offset=first_line)
        .filter(pl.col("_kind").is_not_null())
    )
    if spoiled.is_empty():
        return
    landed.truth.append(
        spoiled.select(
            subject=pl.lit(subject),
            kind=pl.col("_kind"),
            record_id=pl.col(record_id),
            file=pl.lit(f"native/{name}"),
            line=pl.col("_line").cast(pl.Int64),
            column=pl.col("_column"),
            true_value=pl.col("_true"),
            landed_value=pl.col("_landed"),
            expected=pl.col("_expected"),
        )
    )


def csv_bytes(frame: pl.DataFrame) -> bytes:
    """CSV text of a frame, UTF-8, line feeds."""
    return frame.write_csv(None).encode()


def json_bytes(frame: pl.DataFrame) -> bytes:
    """The lines of `_text`."""
    return ("\n".join(frame["_text"]) + "\n").encode()


def gzipped(data: bytes) -> bytes:
    """Gzip bytes that depend on the content only."""
    return gzip.compress(data, compresslevel=6, mtime=0)


def _iso(day: int) -> str:
    return (date(1970, 1, 1) + timedelta(days=int(day))).isoformat()


def dirty_files(landed: Landed, subject: str, days: range, columns: Sequence[str], rng: np.random.Generator) -> Alter:
    """File-level dirt for a CSV feed: a few files arrive in another form."""
    kinds = ["gzip_file", "crlf_file", "bom_file"]
    kinds += {
        "er_visits": ["renamed_column", "renamed_column", "reordered_columns", "alien_file"],
        "patients": ["latin1_file", "missing_column"],
        "diagnoses": ["redelivered_file"],
    }.get(subject, [])
    plan = _plan(subject, kinds, days, ".csv", rng)
    extra_from = list(days)[len(days) * 40 // 60 if len(days) < 60 else 40]

    def alter(name: str, rows: pl.DataFrame) -> tuple[str, bytes]:
        feed = rows.select(columns)
        if subject == "er_visits" and rows["_day"][0] >= extra_from and len(days) >= 10:
            feed = feed.with_columns(
                arrival_complaint_code=pl.col("chief_complaint").str.slice(0, 3).str.to_uppercase()
            )
            landed.note_file(subject, "extra_column", name, "keep")
        kind = plan.get(name)
        if kind == "alien_file":
            # A picture that was saved under a feed's name, beside the real one.
            picture = b"\x89PNG\r\n\x1a\n" + rng.bytes(400)
            landed.send_beside(subject, kind, name, "scan", picture, "quarantine")
        elif kind == "renamed_column":
            feed = feed.rename({"triage_level": "triage_acuity"})
        elif kind == "reordered_columns":
            feed = feed.select(list(reversed(feed.columns)))
        elif kind == "missing_column":
            feed = feed.drop("insurer")
        return _in_another_form(landed, subject, kind, name, csv_bytes(feed))

    return alter


def dirty_json_files(landed: Landed, subject: str, days: range, rng: np.random.Generator) -> Alter:
    """File-level dirt for a JSON feed: gzip, a byte-order mark, a torn file, an empty one, HTML."""
    kinds = ["gzip_file", "bom_file"]
    if subject == "vitals":
        kinds += ["torn_file", "empty_file", "alien_file", "redelivered_file"]
    plan = _plan(subject, kinds, days, "T12.json", rng)

    def alter(name: str, rows: pl.DataFrame) -> tuple[str, bytes]:
        kind, body = plan.get(name), json_bytes(rows)
        if kind == "torn_file":
            torn = body[: len(body) - len(rows["_text"][-1]) // 2 - 1]
            landed.send_beside(subject, kind, name, "torn", torn, "quarantine", rows.height)
        elif kind == "empty_file":
            landed.send_beside(subject, kind, name, "new", b"", "quarantine")
        elif kind == "alien_file":
            page = b"<!DOCTYPE html>\n<html><body>\n<h1>Please sign in</h1>\n</body></html>\n"
            landed.send_beside(subject, kind, name, "new", page, "quarantine")
        return _in_another_form(landed, subject, kind, name, body)

    return alter


def _plan(subject: str, kinds: Sequence[str], days: range, ending: str, rng: np.random.Generator) -> dict[str, str]:
    """File name -> what happens to it; nothing on the first and last days, nor where days are too few."""
    middle = list(days)[2:-2]
    if len(middle) < len(kinds):
        return {}
    chosen = rng.permutation(middle)[: len(kinds)]
    return {f"{subject}/{subject}_{_iso(day)}{ending}": kind for kind, day in zip(kinds, chosen, strict=True)}


def _in_another_form(landed: Landed, subject: str, kind: str | None, name: str, body: bytes) -> tuple[str, bytes]:
    """The name and bytes of a file after what happens to files of any content; records it."""
    if kind == "redelivered_file":
        landed.send_beside(subject, kind, name, "again", body, "duplicate")
    elif kind == "gzip_file":
        name, body = f"{name}.gz", gzipped(body)
    elif kind == "crlf_file":
        body = body.replace(b"\n", b"\r\n")
    elif kind == "bom_file":
        body = b"\xef\xbb\xbf" + body
    elif kind == "latin1_file":
        body = body.decode().encode("latin-1", errors="replace")
    elif kind in (None, "alien_file", "empty_file", "torn_file"):
        return name, body
    if kind != "redelivered_file":
        landed.note_file(subject, kind, name, "correct" if kind == "renamed_column" else "keep")
    return name, body
