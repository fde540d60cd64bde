"""Reporting databases: a read-only session that gives the rows of a select as Arrow batches, in bounded memory.

PostgreSQL by ADBC (extra `postgres`) and Oracle (extra `oracle`), of a URL; MariaDB, MySQL and SQL Server by ODBC
(extra `odbc`), of a connection string. The session is read-only where the database knows such a thing, and has a time
limit; the real fence is a login that may only select. What a database says may quote values of records: errors here
have its code, never its text.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any, NoReturn, Protocol
from urllib.parse import unquote, urlsplit

from hospital_assets.sources.remote import RemoteError
from hospital_assets.warehouse.dialect.frames import quoted

#: `:since` and `:until` in a query, not PostgreSQL's `::type`.
_BOUND = re.compile(r"(?<!:):(since|until)\b")
_LOGIN_SECONDS = 30
#: Of one batch by ODBC, which makes room for the longest text in each row.
_BATCH_BYTES, _LONGEST_TEXT = 64_000_000, 65_536
_ORACLE_ROWS = 50_000
_IN_MIDSTREAM = "it gave up while it sent rows; a value may not be read as its type: try it there"
#: What to do where nobody can tell two columns of a result apart.
ONE_NAME = "two columns of its result have one name; name one of them otherwise (`as`)"
_TOO_SLOW = "it took longer than its `seconds`; ask for less at a time, or raise them"
#: SQLSTATE, or its class, -> what to do.
_WORDS = {
    "57014": _TOO_SLOW,
    "HY018": _TOO_SLOW,
    "HYT00": _TOO_SLOW,
    "25006": "it writes, and the session is read-only; ask with select",
    "28": "the login is refused; correct the URL in the environment",
    "3D": "there is no such database; correct the URL in the environment",
    "42702": ONE_NAME,
    "42S21": ONE_NAME,
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
        """The rows of a select, as Arrow record batches; what Arrow has no exact type for is the database's own text.

        Args:
            sql: with `:since` and `:until`.

        Raises:
            RemoteError: it fails, in words.
        """
        ...

    def end(self) -> None:
        """End what was begun, however it went: the next query starts afresh."""
        ...


def extra_of(url: str) -> tuple[str, str] | None:
    """The extra that reads a database of this address, and the package in it; None where we read no such."""
    if url.startswith(("postgresql://", "postgres://")):
        return "postgres", "adbc_driver_postgresql"
    if url.startswith(("oracle://", "oracle+tcps://")):
        return "oracle", "oracledb"
    return ("odbc", "arrow_odbc") if "driver=" in url.lower() else None


@contextlib.contextmanager
def open_database(url: str, seconds: int = _LOGIN_SECONDS) -> Iterator[Database]:
    """A session with a database.

    Args:
        url: `postgresql://…`, `oracle://…`, or a connection string of ODBC: `Driver={…};Server=…;…`.
        seconds: how long it may take to be let in.

    Raises:
        RemoteError: it is none that we read, the extra is not installed, or it cannot be reached.
    """
    extra, _ = extra_of(url) or ("", "")
    if extra == "postgres":
        with _postgres(url, seconds) as found:
            yield found
    elif extra == "oracle":
        with _oracle(url, seconds) as session:
            yield session
    elif extra == "odbc":
        yield _odbc(url, seconds)
    else:
        raise RemoteError(
            "it must be a URL that begins with postgresql:// or oracle://, or a connection string of ODBC: "
            "Driver={…};Server=…"
        )


def _refused(sqlstate: str, code: str = "") -> RemoteError:
    words = next((_WORDS[part] for part in (sqlstate, sqlstate[:2]) if part in _WORDS), "the database gives it up")
    return RemoteError(f"{words} ({code or f'SQLSTATE {sqlstate}'})")


def of_query(sql: str, columns: Iterable[str]) -> str:
    """Some columns, or expressions of them, of a query."""
    return f"select {', '.join(columns)} from (\n{sql.strip().rstrip(';')}\n) asked"


def _as_text(moment: datetime) -> str:
    """A moment as it is bound where a database is given no type: in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"


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
            # A comment may end it.
            asked = _BOUND.sub(r"current_setting('hospital.\1')::timestamptz", sql.strip().rstrip(";")) + "\n"
            columns = cursor.adbc_execute_schema(asked)
            if not all(map(_is_plain, columns)):
                asked = of_query(asked, map(_plain, columns))
            cursor.execute(asked)
            yield from cursor.fetch_record_batch()

    def end(self) -> None:
        self.connection.rollback()


def _is_plain(column: Any) -> bool:
    """Whether a column of PostgreSQL's comes as it is; not money (its decimal point is lost), nor a time (24:00 is)."""
    import pyarrow as pa

    kind = column.type.storage_type if isinstance(column.type, pa.BaseExtensionType) else column.type
    is_value = pa.types.is_string(kind) or (pa.types.is_primitive(kind) and not pa.types.is_interval(kind))
    return is_value and (column.metadata or {}).get(b"POSTGRESQL:type") not in (b"money", b"time")


def _plain(column: Any) -> str:
    """A column of a query, as text where it does not come as it is."""
    name = quoted(column.name)
    return name if _is_plain(column) else f"{name}::text as {name}"


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


# Oracle -----------------------------------------------------------------------------------------------

#: Oracle's codes, or how they begin -> SQLSTATE, or its class.
_SQLSTATES = {
    **dict.fromkeys(("ORA-01013", "DPY-4024"), "57014"),
    **dict.fromkeys(("ORA-01005", "ORA-01017", "ORA-01045", "ORA-2800"), "28"),
    **dict.fromkeys(("ORA-12505", "ORA-12514", "DPY-6001"), "3D"),
    **dict.fromkeys(("ORA-00942", "ORA-01031", "ORA-41900"), "42501"),
    **dict.fromkeys(("ORA-00018", "ORA-00020", "ORA-01555", "ORA-04031"), "53"),
    **dict.fromkeys(("ORA-01722", "ORA-018", "ORA-06502"), "22"),
    **dict.fromkeys(("ORA-125", "DPY-4011", "DPY-60"), "08"),
    "ORA-01456": "25006",
    "ORA-009": "42",
}


@dataclass(frozen=True)
class _Oracle:
    connection: Any
    runner: asyncio.Runner

    def now(self) -> datetime:
        (batch,) = self.batches("select sys_extract_utc(systimestamp) from dual", {}, _LOGIN_SECONDS)
        found: datetime = batch.column(0)[0].as_py()
        return found.replace(tzinfo=UTC)

    def batches(self, sql: str, moments: Mapping[str, datetime], seconds: int) -> Iterator[Any]:
        import pyarrow as pa

        self.end()
        ends = monotonic() + seconds
        with _oracle_in_words():
            self.connection.call_timeout = seconds * 1000
            self._run(lambda: self.connection.execute("set transaction read only"))
            frames = self.connection.fetch_df_batches(
                _BOUND.sub(r"to_timestamp(:\1, 'YYYY-MM-DD HH24:MI:SS.FF6')", sql),
                {name: _as_text(moments[name]) for name in _BOUND.findall(sql)} or None,
                size=_ORACLE_ROWS,
                fetch_decimals=True,
            )
            while (frame := self._run(lambda: anext(frames, None))) is not None:
                # The driver's limit is of each call.
                if monotonic() > ends:
                    raise RemoteError(_TOO_SLOW)
                yield from pa.table(frame).to_batches()

    def end(self) -> None:
        with _oracle_in_words():
            self._run(self.connection.rollback)

    def _run(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return _awaited(self.runner, call, None)


@contextlib.contextmanager
def _oracle(url: str, seconds: int) -> Iterator[_Oracle]:
    try:
        import oracledb
    except ImportError:
        raise RemoteError("install the extra: pip install 'hospital-assets[oracle]'") from None
    try:
        parts = urlsplit(url)
        host, port, service = parts.hostname, parts.port or 1521, parts.path.strip("/")
    except ValueError:  # its text quotes the address
        host, port, service = None, 0, ""
    if not (host and service and parts.username and parts.password) or parts.query or parts.fragment:
        raise RemoteError("an address of Oracle is oracle://login:password@host:1521/service (or oracle+tcps://…)")
    # Without a loop, the driver waits for ever for a server that never answers.
    with asyncio.Runner() as runner:
        with _oracle_in_words():
            connect = functools.partial(
                oracledb.connect_async,
                user=unquote(parts.username),
                password=unquote(parts.password),
                host=host,
                port=port,
                service_name=unquote(service),
                protocol="tcps" if parts.scheme.endswith("tcps") else "tcp",
            )
            connection = _awaited(runner, connect, seconds)
        try:
            with _oracle_in_words():
                session = functools.partial(connection.execute, "alter session set time_zone = 'UTC'")
                _awaited(runner, session, seconds)
            yield _Oracle(connection, runner)
        finally:
            with contextlib.suppress(Exception):
                _awaited(runner, connection.close, seconds)


def _awaited(runner: asyncio.Runner, call: Callable[[], Awaitable[Any]], seconds: float | None) -> Any:
    async def waiting() -> Any:
        return await asyncio.wait_for(call(), seconds)

    return runner.run(waiting())


@contextlib.contextmanager
def _oracle_in_words() -> Iterator[None]:
    import oracledb

    try:
        yield
    except oracledb.Error as error:
        code = str(getattr(error.args[0], "full_code", "")) if error.args else ""
        sqlstate = next((found for begins, found in _SQLSTATES.items() if code.startswith(begins)), "")
        raise _refused(sqlstate, code or "no code") from None
    except OSError as error:  # TimeoutError, too
        raise _refused("08", type(error).__name__) from None


# ODBC -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Product:
    """What a product has its own words for.

    Attributes:
        now: asks for its time, in UTC.
        session: what makes a session read-only and in UTC.
        limit: what limits how long a query takes.
        exactly: kind of a column, as Arrow calls it, or `*` -> what is asked for in its place, where the driver
            does not give all values of the kind (dates without a day, unsigned numbers, bits, times below zero).
        patience: the keyword for seconds until a server has to have answered, of a driver that minds no other limit.
    """

    drivers: re.Pattern[str]
    now: str
    session: tuple[str, ...] = ()
    limit: str = ""
    exactly: Mapping[str, str] = field(default_factory=dict)
    patience: str = ""


_PRODUCTS = (
    _Product(
        re.compile(r"maria|mysql|libmaodbc", re.IGNORECASE),
        "select utc_timestamp(6) as now",
        ("set session time_zone = '+00:00'", "set session transaction read only"),
        # MariaDB reads the first comment, MySQL the second.
        "set @limited = 1 /*M! , session max_statement_time = {seconds} */"
        " /*!50708 , session max_execution_time = {seconds}000 */",
        # Its driver ends the whole program at a date like 1950-03-00.
        {
            **dict.fromkeys(("string", "decimal128"), "{0}"),
            **dict.fromkeys(("bool", "int8", "int16", "int32", "int64"), "cast({0} as decimal(20))"),
            "binary": "lower(hex({0}))",
            "fixed_size_binary": "lower(hex({0}))",
            "*": "cast({0} as char)",
        },
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
        return datetime.fromisoformat(str(batch.column(0)[0].as_py())).replace(tzinfo=UTC)

    def batches(self, sql: str, moments: Mapping[str, datetime], seconds: int) -> Iterator[Any]:
        bound = [_as_text(moments[name]) for name in _BOUND.findall(sql)]
        with _odbc_in_words():
            if self.product.limit:
                self.connection.execute(self.product.limit.format(seconds=seconds))
            read = functools.partial(
                self.connection.read_arrow_batches,
                parameters=bound or None,
                max_bytes_per_batch=_BATCH_BYTES,
                max_text_size=_LONGEST_TEXT,
                falliable_allocations=True,
                query_timeout_sec=None if self.product.limit else seconds,
            )
            asked = _BOUND.sub("?", sql)
            if self.product.exactly:
                columns = read(f"{of_query(asked, '*')} limit 0").schema
                asked = of_query(asked, map(self._exactly, columns))
            for batch in read(asked):
                _assert_whole(batch)
                yield batch

    def _exactly(self, column: Any) -> str:
        """A column of a query, so that the driver gives every value of it."""
        name, kind = f"`{column.name.replace('`', '``')}`", re.split(r"\W", str(column.type))[0]
        return f"{(self.product.exactly.get(kind) or self.product.exactly['*']).format(name)} as {name}"

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
