"""Rows that have vanished from a database: landed rows against the keys that it has now, and files without some rows.

Belongs here: comparing, and writing a file without some of its rows; both in bounded memory. Does not: asking the
database, and what becomes of it (`queries`).
"""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hospital_assets.landing.profile import Query
from hospital_assets.sources.remote import RemoteError
from hospital_assets.warehouse.dialect.frames import quoted

#: So many rows may vanish at once whatever their share, unless they are all that there are.
_FEW_ROWS = 10
_MEMORY = "500MB"


@dataclass(frozen=True)
class Comparison:
    """Landed rows of a query, against the keys that its database has now.

    Attributes:
        vanished: digests of the keys of landed rows that it does not have any more.
        compared: how many keys of landed rows were looked for.
    """

    vanished: list[str]
    compared: int
    _connection: Any
    _query: Query
    _landed: Sequence[Path]

    def assert_few(self) -> None:
        """Refuse to believe that much has vanished at once: a table that is just being filled looks so.

        Raises:
            RemoteError: it is over the share that the profile allows, and no few rows; or all.
        """
        gone, share = len(self.vanished), self._query.most_deleted_percent
        is_few = gone <= _FEW_ROWS and gone < self.compared
        if gone > self.compared * share / 100 and not is_few:
            raise RemoteError(
                f"{gone:,} of {self.compared:,} landed rows are not in the database any more, more than "
                f"{share} % at once: nothing was deleted; look whether the table is whole, or raise "
                "`most_deleted_percent` until they are gone"
            )

    def here(self, keys: Collection[str]) -> set[str]:
        """Those of some keys that a landed file has."""
        return self._among(keys, self._landed)

    def there(self, keys: Collection[str]) -> set[str]:
        """Those of some keys that the database has."""
        asked = "select key from there where key in (select unnest(?))"
        return {key for (key,) in self._connection.execute(asked, [list(keys)]).fetchall()}

    def _among(self, keys: Collection[str], files: Sequence[Path]) -> set[str]:
        asked = f"select distinct {_key(self._query)} as key from {_FILES} where key in (select unnest(?))"
        return {key for (key,) in self._connection.execute(asked, [_names(files), list(keys)]).fetchall()}

    def rows(self, files: Sequence[Path], keys: Collection[str]) -> Iterator[tuple[Path, list[int]]]:
        """Files with rows of some keys, in the order in which they are given, and the numbers of these rows."""
        self._connection.execute("create or replace temp table wanted as select unnest(?) as key", [list(keys)])
        self._connection.execute(
            f"create or replace temp table found as select filename, file_row_number as number from {_FILES} "
            f"where {_key(self._query)} in (select key from wanted)",
            [_names(files)],
        )
        for file in files:
            asked = "select number from found where filename = ? order by number"
            if numbers := [number for (number,) in self._connection.execute(asked, [str(file)]).fetchall()]:
                yield file, numbers


@contextlib.contextmanager
def compared(
    query: Query, landed: Sequence[Path], there: Sequence[Path], since: datetime, room: Path
) -> Iterator[Comparison]:
    """Compare landed rows with the keys of a database.

    Args:
        query: names the columns of the key, and when a row was written.
        landed: files of the query's rows.
        since: landed rows that were written before are not looked for.
        room: a folder for what does not fit into memory.

    Raises:
        RemoteError: the rows have no such columns.
    """
    import duckdb

    key, written = _key(query), quoted(query.written or "")
    with duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": str(room)}) as connection:
        try:
            connection.execute("create temp table there (key varchar)")
            if there:
                connection.execute(f"insert into there select distinct {key} from {_FILES}", [_names(there)])
            ((kind, stated),) = connection.execute(
                f"select any_value(typeof({written})), count({written}) from {_FILES}", [_names(landed)]
            ).fetchall()
            if not stated:
                raise duckdb.InvalidInputException("no row says when it was written")
            # Clocks of MariaDB come as texts.
            at = f"cast({written} as timestamp)" if kind == "VARCHAR" else written
            connection.execute(
                f"create temp table here as select distinct {key} as key from {_FILES} where epoch_us({at}) >= ?",
                [_names(landed), int(since.timestamp() * 1_000_000)],
            )
            gone = connection.execute("select key from here anti join there using (key) where key is not null")
            vanished = [key for (key,) in gone.fetchall()]
            (known,) = connection.execute("select count(key) from here").fetchone() or (0,)
            yield Comparison(vanished, known, connection, query, landed)
        except duckdb.Error as error:
            # Its text may quote a value.
            raise RemoteError(
                f"its rows cannot be compared ({type(error).__name__}); its result must have the columns of `key`, and "
                f"`written` as a time"
            ) from None


def write_rows(source: Path, target: Path, numbers: Sequence[int], *, is_kept: bool) -> int:
    """Write some rows of a Parquet file, or all but these, as they are.

    Args:
        numbers: of rows, from 0, in order.
        is_kept: whether these are written, or the others.

    Returns:
        how many rows were written.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    chosen, begins, count = np.asarray(numbers, dtype=np.int64), 0, 0
    with pq.ParquetFile(source) as file, pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer:
        for batch in file.iter_batches():
            is_chosen = np.zeros(batch.num_rows, dtype=bool)
            is_chosen[chosen[(chosen >= begins) & (chosen < begins + batch.num_rows)] - begins] = True
            kept = batch.filter(pa.array(is_chosen if is_kept else ~is_chosen))
            writer.write_batch(kept)
            begins, count = begins + batch.num_rows, count + kept.num_rows
    return count


_FILES = "read_parquet(?, union_by_name = true, filename = true, file_row_number = true, hive_partitioning = false)"


def _names(files: Sequence[Path]) -> list[str]:
    return [glob.escape(str(file)) for file in files]


def _key(query: Query) -> str:
    """The digest of a row's key; null where a part of it is missing."""
    parts = [f"cast({quoted(name)} as varchar)" for name in query.key]
    return f"sha256({' || chr(31) || '.join(parts)})"
