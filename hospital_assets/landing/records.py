"""Shared by the readers of CSV and JSON: files to read, limits, and what DuckDB needs to know about a file.

Nothing is skipped: what cannot be read becomes a record with a `problem`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import polars as pl

from hospital_assets.landing.profile import Profile, Subject, canonical_columns
from hospital_assets.settings import DEFAULT_LIMITS, FileLimits
from hospital_assets.warehouse.dialect import quoted

#: Numbers of temporary tables, which one process does not repeat.
TABLE_NUMBERS = itertools.count(1)
#: What DuckDB reads, and of the file it stands for: name, first line, fallback, when it landed.
MapRow = tuple[str, str, int, date | None, str]


@dataclass(frozen=True)
class LandedFile:
    """A file to read.

    Attributes:
        source_file: what it is called in the tables.
        is_plain: UTF-8 without compression or byte-order mark: readable as it is.
        is_packed: the same in gzip.
        fallback: the service day of its records that state none.
        modified_ns: when it was delivered.
    """

    path: Path
    source_file: str
    sha256: str
    is_plain: bool = True
    is_packed: bool = False
    fallback: date | None = None
    modified_ns: int = 0
    limits: FileLimits = DEFAULT_LIMITS

    @property
    def landed_at(self) -> str:
        """When it was delivered, as ISO 8601 in UTC."""
        return datetime.fromtimestamp(self.modified_ns / 1e9, UTC).isoformat(timespec="seconds")


def is_landed_at(column: str, spec: Subject) -> bool:
    """Whether a column is when its file was delivered."""
    return spec.source_names(column) == ("@landed_at",) and column not in spec.constants


def problem_sql(spec: Subject, problem: str, of: Mapping[str, str] | None = None) -> str:
    """The problem of a record, once its numbers are compared with what the source can mean.

    Args:
        spec: with the limits.
        problem: SQL of the problem found so far.
        of: SQL of our columns; default their names.
    """
    outside = []
    for column, limits in spec.limits.items():
        written = f"trim({(of or {}).get(column) or quoted(column)})"
        if spec.decimal == ",":
            written = f"replace({written}, ',', '.')"
        number = f"try_cast({written} as double)"
        if limits.at_least is not None:
            outside.append(f"{number} < {limits.at_least!r}")
        if limits.at_most is not None:
            outside.append(f"{number} > {limits.at_most!r}")
    if not outside:
        return problem
    return f"coalesce({problem}, case when {' or '.join(outside)} then 'outside_limits' end)"


def mapped(file: LandedFile, handle: str, first_line: int = 1) -> MapRow:
    """The row of `map_table` that says which file a handle stands for."""
    return handle, file.source_file, first_line, file.fallback, file.landed_at


def map_table(connection: duckdb.DuckDBPyConnection, rows: Sequence[MapRow]) -> str:
    """A temporary table from what DuckDB reads to the file it stands for."""
    name = f"checkpoint_files_{next(TABLE_NUMBERS)}"
    mapping = pl.DataFrame(
        rows,
        schema={
            "handle": pl.String,
            "source_file": pl.String,
            "first_line": pl.Int64,
            "_fallback": pl.Date,
            "landed_at": pl.String,
        },
        orient="row",
    )
    connection.register("_mapping", mapping)
    connection.execute(f"create temp table {name} as select distinct * from _mapping")
    connection.unregister("_mapping")
    return f"temp.main.{name}"


def declared_rows(subject: str, profile: Profile) -> pl.DataFrame:
    """Raw records that a profile declares itself, for sources without reference data."""
    names = canonical_columns(subject)
    rows = [
        {
            **{name: row.get(name) for name in names},
            "source_file": f"profiles/{profile.name}.toml",
            "source_line": number,
            "source_part": 1,
        }
        for number, row in enumerate(profile.subjects[subject].rows, start=1)
    ]
    schema = {
        **dict.fromkeys(names, pl.String),
        "source_file": pl.String,
        "source_line": pl.Int64,
        "source_part": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema).with_columns(
        record=pl.struct(names).struct.json_encode() if rows else pl.lit(None, dtype=pl.String),
        problem=pl.lit(None, dtype=pl.String),
    )
