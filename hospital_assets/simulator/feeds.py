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
from hospital_assets.simulator.network import HOSPITALS

CSV_CLOCK = "%Y-%m-%d %H:%M:%S"
ISO_CLOCK = "%Y-%m-%dT%H:%M:%S%:z"


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

    def note_file(self, subject: str, kind: str, name: str, expected: str) -> None:
        """Record file-level dirt."""
        self.truth.append(
            truth_frame(
                [{"subject": subject, "kind": kind, "record_id": name, "file": f"native/{name}", "expected": expected}]
            )
        )

    def csv_feed(
        self,
        subject: str,
        frame: pl.DataFrame,
        columns: Sequence[str],
        record_id: str,
        alter: Callable[[str, pl.DataFrame], tuple[str, bytes | None]] | None = None,
    ) -> None:
        """One CSV file a day, rows in the order of the frame.

        Args:
            subject: folder and file prefix.
            frame: text columns, `_day` (days since 1970) and the dirt columns.
            columns: feed columns in order.
            record_id: column that identifies a record in the ground truth.
            alter: file-level dirt: from name and rows to the name and bytes actually written
                (None = as usual).
        """
        frame = frame.sort("_day", maintain_order=True)
        for (day,), rows in frame.partition_by("_day", as_dict=True, maintain_order=True).items():
            name = f"{subject}/{subject}_{_iso(day)}.csv"
            body: bytes | None = None
            if alter is not None:
                name, body = alter(name, rows)
            if body is None:
                body = csv_bytes(rows.select(columns))
            self.write(name, body)
            _note(self, subject, rows, record_id, name, first_line=2)

    def json_feed(
        self,
        subject: str,
        frame: pl.DataFrame,
        record_id: str,
        alter: Callable[[str, list[str]], tuple[str, bytes | None]] | None = None,
    ) -> None:
        """JSON-lines files of six hours each; `_text` is the line, `_day` and `_part` the file."""
        frame = frame.sort("_day", "_part", maintain_order=True)
        parts = frame.partition_by("_day", "_part", as_dict=True, maintain_order=True)
        for (day, part), rows in parts.items():
            name = f"{subject}/{subject}_{_iso(day)}T{part * 6:02d}.json"
            lines = rows["_text"].to_list()
            body: bytes | None = None
            if alter is not None:
                name, body = alter(name, lines)
            if body is None:
                body = ("\n".join(lines) + "\n").encode()
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
    for number, (_, _, _, zone, _, _) in enumerate(HOSPITALS.values()):
        zones.setdefault(zone, []).append(number)
    texts = [
        pl.when(pl.col(hospital).is_in(numbers)).then(instant.dt.convert_time_zone(zone).dt.to_string(pattern))
        for zone, numbers in zones.items()
    ]
    return pl.when(pl.col(seconds) >= 0).then(pl.coalesce(*texts))


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


def gzipped(data: bytes) -> bytes:
    """Gzip bytes that depend on the content only."""
    return gzip.compress(data, compresslevel=6, mtime=0)


def _iso(day: int) -> str:
    return (date(1970, 1, 1) + timedelta(days=int(day))).isoformat()


def dirty_files(
    landed: Landed, subject: str, days: range, columns: Sequence[str], rng: np.random.Generator
) -> Callable[[str, pl.DataFrame], tuple[str, bytes | None]]:
    """File-level dirt for a CSV feed: a few files arrive in another form."""
    middle = list(days)[2:-2]
    plan: dict[str, str] = {}
    kinds = ["gzip_file", "crlf_file", "bom_file"]
    kinds += {
        "er_visits": ["renamed_column", "renamed_column", "reordered_columns", "alien_file"],
        "patients": ["latin1_file", "missing_column"],
        "diagnoses": ["redelivered_file"],
    }.get(subject, [])
    if len(middle) >= len(kinds):
        for kind, day in zip(kinds, rng.permutation(middle)[: len(kinds)], strict=True):
            plan[f"{subject}/{subject}_{_iso(int(day))}.csv"] = kind
    extra_from = list(days)[len(days) * 40 // 60 if len(days) < 60 else 40]

    def alter(name: str, rows: pl.DataFrame) -> tuple[str, bytes | None]:
        feed = rows.select(columns)
        if subject == "er_visits" and rows["_day"][0] >= extra_from and len(days) >= 10:
            feed = feed.with_columns(
                arrival_complaint_code=pl.col("chief_complaint").str.slice(0, 3).str.to_uppercase()
            )
            landed.note_file(subject, "extra_column", name, "keep")
        kind = plan.get(name)
        if kind is None:
            return name, csv_bytes(feed)
        if kind == "gzip_file":
            name, body = f"{name}.gz", gzipped(csv_bytes(feed))
        elif kind == "crlf_file":
            body = csv_bytes(feed).replace(b"\n", b"\r\n")
        elif kind == "bom_file":
            body = b"\xef\xbb\xbf" + csv_bytes(feed)
        elif kind == "latin1_file":
            body = csv_bytes(feed).decode().encode("latin-1", errors="replace")
        elif kind == "renamed_column":
            body = csv_bytes(feed.rename({"triage_level": "triage_acuity"}))
        elif kind == "reordered_columns":
            body = csv_bytes(feed.select(list(reversed(feed.columns))))
        elif kind == "missing_column":
            body = csv_bytes(feed.drop("insurer"))
        elif kind == "redelivered_file":
            body = csv_bytes(feed)
            again = name.replace(".csv", "_again.csv")
            landed.write(again, body)
            landed.note_file(subject, kind, again, "duplicate")
            return name, body
        else:  # alien_file: a picture that was saved under a feed's name, beside the real one
            body = csv_bytes(feed)
            alien = name.replace(".csv", "_scan.csv")
            landed.write(alien, b"\x89PNG\r\n\x1a\n" + rng.bytes(400))
            landed.note_file(subject, kind, alien, "quarantine")
            return name, body
        expected = "correct" if kind == "renamed_column" else "keep"
        landed.note_file(subject, kind, name, expected)
        return name, body

    return alter


def dirty_json_files(
    landed: Landed, subject: str, days: range, rng: np.random.Generator
) -> Callable[[str, list[str]], tuple[str, bytes | None]]:
    """File-level dirt for a JSON feed: gzip, a byte-order mark, a torn file, an empty one, HTML."""
    middle = list(days)[2:-2]
    plan: dict[str, str] = {}
    kinds = ["gzip_file", "bom_file"]
    if subject == "vitals":
        kinds += ["torn_file", "empty_file", "alien_file", "redelivered_file"]
    if len(middle) >= len(kinds):
        for kind, day in zip(kinds, rng.permutation(middle)[: len(kinds)], strict=True):
            plan[f"{subject}/{subject}_{_iso(int(day))}T12.json"] = kind

    def alter(name: str, lines: list[str]) -> tuple[str, bytes | None]:
        kind = plan.get(name)
        if kind is None:
            return name, None
        body = ("\n".join(lines) + "\n").encode()
        if kind == "gzip_file":
            name, body = f"{name}.gz", gzipped(body)
        elif kind == "bom_file":
            body = b"\xef\xbb\xbf" + body
        elif kind == "torn_file":
            torn = name.replace(".json", "_torn.json")
            cut = body[: len(body) - len(lines[-1]) // 2 - 1]
            landed.write(torn, cut)
            landed.truth.append(
                truth_frame(
                    [
                        {
                            "subject": subject,
                            "kind": kind,
                            "record_id": torn,
                            "file": f"native/{torn}",
                            "line": len(lines),
                            "expected": "quarantine",
                        }
                    ]
                )
            )
            return name, body
        elif kind == "redelivered_file":
            again = name.replace(".json", "_again.json")
            landed.write(again, body)
            landed.note_file(subject, kind, again, "duplicate")
            return name, body
        else:
            odd = name.replace(".json", "_new.json")
            content = (
                b""
                if kind == "empty_file"
                else (b"<!DOCTYPE html>\n<html><body>\n<h1>Please sign in</h1>\n</body></html>\n")
            )
            landed.write(odd, content)
            landed.note_file(subject, kind, odd, "quarantine")
            return name, body
        landed.note_file(subject, kind, name, "keep")
        return name, body

    return alter
