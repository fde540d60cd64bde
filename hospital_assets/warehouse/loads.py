"""Which landed file was loaded for which service day, recorded with the rows themselves.

`raw.loaded_files` changes in the transaction that replaces the raw rows, so it never says other than
what is stored. A file counts as loaded when the run that stored its rows has also done everything
that depends on them: a run that dies half-way leaves its files waiting. A day that is written again
from the files it had, and perhaps more, leaves those loaded. Sensors need the answer while
a run has the warehouse locked, so the ledger is also copied to a Parquet file next to it.
"""

from __future__ import annotations

import io
import logging
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from hospital_assets.contracts import CONTRACTS, PARTITION_COLUMN, Contract
from hospital_assets.files import replacing, version_of
from hospital_assets.warehouse.database import Period, Warehouse
from hospital_assets.warehouse.dialect import literal, quoted

_LOG = logging.getLogger("hospital.warehouse")

#: The table, as `Warehouse.make_once` takes it.
LOADED_FILES = (
    "raw.loaded_files",
    """
    subject varchar not null, source_file varchar not null, file_sha256 varchar,
    service_date date, row_count bigint not null, unreadable_count bigint not null,
    run_id varchar not null, is_complete boolean not null default false
    """,
)

#: Of these, what was read of a file, by its content, for a day.
_WRITTEN = ("source_file", "file_sha256", "service_date", "row_count", "unreadable_count")


def record_loads(warehouse: Warehouse, contract: Contract, period: Period | None, run_id: str) -> None:
    """Note which files the rows of a raw table came from; call it in their transaction.

    Args:
        warehouse: in the transaction that has just replaced the rows.
    """
    subject = contract.name.removeprefix("raw_")
    day = quoted(PARTITION_COLUMN) if contract.partitioned else "cast(null as date)"
    days, bound = "", []
    if period is not None:
        days = "and service_date >= ? and service_date < ?"
        bound = [period.first, period.end]
    warehouse.make_once(*LOADED_FILES)
    connection = warehouse.connection
    written = f"select {', '.join(_WRITTEN)} from raw.loaded_files where subject = ? {days}"
    before = connection.sql(f"{written} and is_complete", params=[subject, *bound]).pl()
    connection.execute(f"delete from raw.loaded_files where subject = ? {days}", [subject, *bound])
    connection.execute(
        f"""
        insert into raw.loaded_files (subject, source_file, file_sha256, service_date, row_count,
                                      unreadable_count, run_id)
        select ?, r.source_file, any_value(l.file_sha256), {day}, count(*), count(r.problem), ?
        from raw.{quoted(contract.name)} r
        left join raw.raw_landed_files l on l.source_file = r.source_file and l.subject = ?
        {"where r.service_date >= ? and r.service_date < ?" if period is not None else ""}
        group by r.source_file, {day}
        """,
        [subject, run_id, subject, *bound],
    )
    still = before if before.is_empty() else _still(before, connection.sql(written, params=[subject, *bound]).pl())
    if not still.is_empty():
        # DuckDB finds the frame by its name.
        connection.execute(
            """
            update raw.loaded_files l set is_complete = true from still s
            where l.subject = ? and l.source_file = s.source_file
                and l.service_date is not distinct from s.service_date
            """,
            [subject],
        )


def _still(before: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """Of what was complete, what still is: days that lack something of it are to be made again from the beginning."""
    gone = before.join(now, on=_WRITTEN, how="anti", nulls_equal=True)
    return before.join(gone, on="service_date", how="anti", nulls_equal=True)


def complete_loads(warehouse: Warehouse, run_id: str) -> None:
    """Count as loaded what a run has loaded: all that depends on it is done."""
    warehouse.connection.execute(
        "update raw.loaded_files set is_complete = true where run_id = ? and not is_complete", [run_id]
    )
    publish_ledger_at_last(warehouse)


def read_loads(warehouse: Warehouse) -> pl.DataFrame:
    """Which file's rows are stored for which day: the table `raw.loaded_files`."""
    warehouse.make_once(*LOADED_FILES)
    loads: pl.DataFrame = warehouse.connection.sql("from raw.loaded_files").pl()
    return loads


_LEDGER_COPY = """
    select l.*, coalesce(n.dates, []) as loaded_dates, n.source_file is not null as is_loaded,
           coalesce(n.row_count, 0) as loaded_row_count, coalesce(o.dates, []) as outdated_dates
    from raw.raw_landed_files l
    left join (
        select subject, source_file, file_sha256,
               list(distinct service_date) filter (service_date is not null) as dates,
               sum(row_count)::bigint as row_count
        from raw.loaded_files where is_complete group by all
    ) n using (subject, source_file, file_sha256)
    left join (
        -- Days that still hold rows of what the file was before.
        select d.subject, d.source_file, list(distinct d.service_date) as dates
        from raw.loaded_files d join raw.raw_landed_files c using (subject, source_file)
        where d.file_sha256 <> c.file_sha256 and d.service_date is not null
        group by all
    ) o using (subject, source_file)
"""


def publish_ledger(warehouse: Warehouse) -> None:
    """Copy the ledger, with what is loaded of each file, to where it can be read at any time."""
    warehouse.make_once(*LOADED_FILES)
    with replacing(ledger_copy(warehouse.file)) as temporary:
        warehouse.connection.execute(f"copy ({_LEDGER_COPY}) to {literal(str(temporary))} (format parquet)")


def publish_ledger_at_last(warehouse: Warehouse) -> None:
    """The same once all is stored, and what shows it: who reads that nothing waits must find it there."""
    warehouse.after_commit("ledger", lambda: publish_ledger(warehouse), is_last=True)


def ledger_copy(warehouse_file: Path) -> Path:
    """Where `publish_ledger` puts the copy."""
    return warehouse_file.with_name("landed_files.parquet")


def ledger_version(warehouse_file: Path) -> tuple[int, ...]:
    """What changes whenever the copy is published anew; empty before the first time."""
    return version_of(ledger_copy(warehouse_file))


def last_loaded_at(warehouse_file: Path) -> datetime | None:
    """When files were last loaded; None before the first time. The warehouse may be in use meanwhile."""
    try:
        return datetime.fromtimestamp(ledger_copy(warehouse_file).stat().st_mtime, UTC)
    except OSError:
        return None


def read_ledger_copy(warehouse_file: Path) -> pl.DataFrame:
    """The ledger as last published: its columns, `is_loaded`, `loaded_dates`, `loaded_row_count`, `outdated_dates`.

    Empty before the first run.
    """
    schema = CONTRACTS["raw_landed_files"].polars_schema
    schema["is_loaded"] = pl.Boolean()
    schema["loaded_row_count"] = pl.Int64()
    schema["loaded_dates"] = schema["outdated_dates"] = pl.List(pl.Date)
    published = read_whole(ledger_copy(warehouse_file))
    try:
        # Columns that an older version did not write are null, as in the table.
        return pl.concat(
            [pl.DataFrame(schema=schema), *([] if published is None else [published])], how="diagonal_relaxed"
        ).select(pl.col(name).cast(dtype) for name, dtype in schema.items())
    except pl.exceptions.PolarsError:
        _LOG.warning("%s has another shape than this program writes: %s", ledger_copy(warehouse_file), _ANEW)
        return pl.DataFrame(schema=schema)


_ANEW = "it is taken as missing, and the next run writes it anew"


def read_at_once(file: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """A Parquet file that may be replaced meanwhile: Polars opens one by name several times."""
    return pl.read_parquet(io.BytesIO(file.read_bytes()), columns=columns)


def read_whole(file: Path) -> pl.DataFrame | None:
    """A Parquet file of ours next to the warehouse; None where it is missing or damaged, which is logged.

    What is in such a file is in the warehouse, too: the next run writes it anew.
    """
    try:
        return read_at_once(file)
    except FileNotFoundError:
        return None
    except (pl.exceptions.PolarsError, OSError) as error:
        _LOG.warning("%s is damaged (%s): %s", file, type(error).__name__, _ANEW)
        return None
