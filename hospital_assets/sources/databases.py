"""Reporting databases: a read-only session that gives the rows of a select as Arrow batches, in bounded memory.

PostgreSQL by ADBC (extra `postgres`), of a URL; MariaDB, MySQL and SQL Server by ODBC (extra `odbc`), of a connection
string. The session is read-only where the database knows such a thing, and has a time limit; the real fence is a login
that may only select. What a database says may quote values of records: errors here have its code, never its text.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn, Protocol

from hospital_assets.sources.remote import RemoteError

#: `:since` and `:until` in a query, not PostgreSQL's `::type`.
_BOUND = re.compile(r"(?<!:):(since|until)\b")
_LOGIN_SECONDS = 30
#: Of one batch by ODBC, which makes room for the longest text in each row.
_BATCH_BYTES, _LONGEST_TEXT = 64_000_000, 65_536
_IN_MIDSTREAM = "it gave up while it sent rows; a value may not be read as its type: try it there"
_TOO_SLOW = "it took longer than its `seconds`; ask for less at a time, or raise them"
#: SQLSTATE, or its class, -> what to do.
_WORDS = {
    "57014": _TOO_SLOW,
    "HY018": _TOO_SLOW,
    "HYT00": _TOO_SLOW,
    "25006": "it writes, and the session is read-only; ask with select",
    "28": "the login is refused; correct the URL in the environment",
    "3D": "there is no such database; correct the URL in the environment",
    "42501": "the login may not read a table of it; let it select",
    "42": "the database does not understand it; try it there",
    "22": "a value cannot be read as its type; cast in the query",
    "53": "the database has too many connections or too little memory; try later",
    "08": "the database cannot be reached; check the URL and the network",
    "HY000": "the database cannot be reached, or gives up; check the connection string and try it there",
    "01": "the ODBC driver is not installed; `odbcinst -q -d` lists those that are",
    "IM": "the ODBC driver is not installed; `odbcinst -q -d` lists those that are",
}


class Database(Protocol):
    """A session."""

    def now(self) -> datetime:
        """The database's own time."""
        ...

    def batches(self, sql: str, moments: Mapping[str, datetime], seconds: int) -> Iterator[Any]:
        """The rows of a select, as Arrow record batches.

        Args:
            sql: with `:since` and `:until`.
            moments: what they are.
            seconds: how long it may take.

        Raises:
            RemoteError: it fails, in words.
        """
        ...

    def end(self) -> None:
        """End what was begun, however it went: the next query starts afresh."""
        ...


@contextlib.contextmanager
def open_database(url: str, seconds: int = _LOGIN_SECONDS) -> Iterator[Database]:
    """A session with a database.

    Args:
        url: `postgresql://…`, or a connection string of ODBC: `Driver={…};Server=…;…`.
        seconds: how long it may take to be let in.

    Raises:
        RemoteError: it is none that we read, the extra is not installed, or it cannot be reached.
    """
    if url.startswith(("postgresql://", "postgres://")):
        with _postgres(url, seconds) as found:
            yield found
    elif "driver=" in url.lower():
        yield _odbc(url, seconds)
    else:
        raise RemoteError(
            "it must be a URL that begins with postgresql://, or a connection string of ODBC: Driver={…};Server=…"
        )


def _refused(sqlstate: str) -> RemoteError:
    words = next((_WORDS[part] for part in (sqlstate, sqlstate[:2]) if part in _WORDS), "the database gives it up")
    return RemoteError(f"{words} (SQLSTATE {sqlstate})")


# PostgreSQL -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Postgres:
    connection: Any

    def now(self) -> datetime:
        with _in_words(), self.connection.cursor() as cursor:
            cursor.execute("select now()")
            found: datetime = cursor.fetchone()[0]
            return found.astimezone(UTC)

    def batches(self, sql: str, moments: Mapping[str, datetime], seconds: int) -> Iterator[Any]:
        with _in_words(), self.connection.cursor() as cursor:
            cursor.execute(f"set statement_timeout = '{seconds}s'")
            # A bound parameter would have the whole result held in memory.
            for name, value in moments.items():
                cursor.execute("select set_config('hospital.' || $1, $2, false)", (name, value.isoformat()))
                cursor.fetchall()
            cursor.execute(_BOUND.sub(r"current_setting('hospital.\1')::timestamptz", sql))
            yield from cursor.fetch_record_batch()

    def end(self) -> None:
        self.connection.rollback()


@contextlib.contextmanager
def _postgres(url: str, seconds: int) -> Iterator[_Postgres]:
    try:
        from adbc_driver_postgresql import dbapi
    except ImportError:
        raise RemoteError("install the extra: pip install 'hospital-assets[postgres]'") from None
    if "connect_timeout" not in url:
        # Else a server that never answers is waited for without end, and every other source with it.
        url += f"{'&' if '?' in url else '?'}connect_timeout={seconds}"
    with _in_words():
        connection = dbapi.connect(url)
    try:
        with _in_words(), connection.cursor() as cursor:
            for setting in ("default_transaction_read_only = on", "TimeZone = 'UTC'"):
                cursor.execute(f"set {setting}")
            connection.commit()
        yield _Postgres(connection)
    finally:
        with contextlib.suppress(Exception):
            connection.close()


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    import pyarrow as pa
    from adbc_driver_postgresql.dbapi import Error

    try:
        yield
    except Error as error:
        raise _refused(str(getattr(error, "sqlstate", None) or "08000")) from None
    except pa.ArrowException as error:
        _in_midstream(error)
    except OSError as error:
        if error.errno is not None:
            raise
        _in_midstream(error)


def _in_midstream(error: Exception) -> NoReturn:
    """What goes wrong while rows are sent comes as a text that may quote them."""
    if "statement timeout" in str(error):
        raise RemoteError(_TOO_SLOW) from None
    raise RemoteError(_IN_MIDSTREAM) from None


# ODBC -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Product:
    """What a product has its own words for.

    Attributes:
        drivers: what names of its ODBC drivers hold.
        now: asks for its time, in UTC.
        session: what makes a session read-only and in UTC.
        limit: what limits how long a query takes.
        patience: the keyword for seconds until a server has to have answered, of a driver that minds no other limit.
    """

    drivers: re.Pattern[str]
    now: str
    session: tuple[str, ...] = ()
    limit: str = ""
    patience: str = ""


_PRODUCTS = (
    _Product(
        re.compile(r"maria|mysql|libmaodbc", re.IGNORECASE),
        "select utc_timestamp(6) as now",
        ("set session time_zone = '+00:00'", "set session tx_read_only = 1"),
        "set session max_statement_time = {seconds}",
        "CONN_TIMEOUT",
    ),
    _Product(re.compile(r"sql server|msodbcsql|tdsodbc|freetds", re.IGNORECASE), "select sysutcdatetime() as now"),
)
_DRIVER = re.compile(r"driver\s*=\s*(\{[^}]*\}|[^;]*)", re.IGNORECASE)


@dataclass(frozen=True)
class _Odbc:
    connection: Any
    product: _Product

    def now(self) -> datetime:
        (batch,) = self.batches(self.product.now, {}, _LOGIN_SECONDS)
        found: datetime = batch.column(0)[0].as_py()
        return found.replace(tzinfo=UTC)

    def batches(self, sql: str, moments: Mapping[str, datetime], seconds: int) -> Iterator[Any]:
        bound = [f"{moments[name].astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}" for name in _BOUND.findall(sql)]
        with _odbc_in_words():
            if self.product.limit:
                self.connection.execute(self.product.limit.format(seconds=seconds))
            read = self.connection.read_arrow_batches(
                _BOUND.sub("?", sql),
                parameters=bound or None,
                max_bytes_per_batch=_BATCH_BYTES,
                max_text_size=_LONGEST_TEXT,
                falliable_allocations=True,
                query_timeout_sec=None if self.product.limit else seconds,
            )
            for batch in read:
                _assert_whole(batch)
                yield batch

    def end(self) -> None:
        """Nothing: each statement is a transaction of its own."""


def _assert_whole(batch: Any) -> None:
    """Refuse a text that may have been cut: a driver does not always say that it did.

    Raises:
        RemoteError: one is as long as there is room for.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        # A character of several bytes may have been cut, too.
        if pa.types.is_string(column.type) and (pc.max(pc.binary_length(column)).as_py() or 0) > _LONGEST_TEXT - 4:
            raise RemoteError(f"a text of its column {name} is longer than {_LONGEST_TEXT:,} bytes; leave it out")


def _odbc(connection_string: str, seconds: int) -> _Odbc:
    driver = _DRIVER.search(connection_string)
    product = next((one for one in _PRODUCTS if driver and one.drivers.search(driver.group(1))), None)
    if product is None:
        raise RemoteError("of ODBC, drivers of MariaDB, MySQL and SQL Server are known; this is another")
    try:
        from arrow_odbc import connect
    except ImportError:
        raise RemoteError("install the extra: pip install 'hospital-assets[odbc]'") from None
    except OSError:
        raise RemoteError("ODBC itself is not installed (Debian: apt-get install unixodbc)") from None
    if product.patience and product.patience not in connection_string.upper():
        connection_string = f"{product.patience}={seconds};{connection_string}"
    with _odbc_in_words():
        connection = connect(connection_string, login_timeout_sec=seconds)
        for statement in product.session:
            connection.execute(statement)
    return _Odbc(connection, product)


@contextlib.contextmanager
def _odbc_in_words() -> Iterator[None]:
    from arrow_odbc import Error

    try:
        yield
    except Error as error:
        found = re.search(r"State: (\w{5})", str(error))
        if found is None:
            raise RemoteError(_IN_MIDSTREAM) from None
        raise _refused(found.group(1)) from None
