"""One query, in a process of its own that can read one file and do nothing else.

What the statement is allowed to be is decided inside that process, too: a parser can be attacked like
anything else. Limits of memory, time and files are the kernel's; the parent kills what takes too long by
the wall clock. Layers, from the outside in: the process; DuckDB read-only, without access to anything
outside and with its configuration locked; exactly one SELECT; only tables of the publication and
functions of a list.

The fork server imports this module once, so that a query does not have to; it belongs to nothing else.
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import resource
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import sqlglot
from sqlglot import exp

from hospital_assets.access.functions import ALLOWED_FUNCTIONS, WORDS
from hospital_assets.access.spreadsheets import as_csv
from hospital_assets.publishing.locked import locked_connection

Format = Literal["json", "csv", "arrow"]
_MEGABYTE = 2**20
#: The longest statement that is looked at at all.
MOST_STATEMENT_CHARACTERS = 50_000


@dataclass(frozen=True)
class Limits:
    """What one query may use.

    Attributes:
        seconds: by the wall clock; then it is killed.
        memory_mb: of DuckDB; what needs more fails.
        address_space_mb: of the process.
        rows: that are returned; more are cut off, and the answer says so.
        bytes: of the answer.
    """

    seconds: float = 20.0
    memory_mb: int = 512
    address_space_mb: int = 3_072
    rows: int = 100_000
    bytes: int = 64 * _MEGABYTE


@dataclass(frozen=True)
class Answer:
    """What became of a query.

    Attributes:
        outcome: allowed, refused (it may not be asked) or failed (it could not be answered).
        reason: why not, in words without values.
        objects: base tables and their columns that were read, or would have been.
        is_cut: whether there were more.
    """

    outcome: Literal["allowed", "refused", "failed"]
    reason: str = ""
    objects: Mapping[str, list[str]] = field(default_factory=dict)
    row_count: int = 0
    is_cut: bool = False
    duration_ms: float = 0.0
    body: bytes = b""


class RefusedError(Exception):
    """The statement may not be asked; the message says why."""


def run_query(file: Path, sql: str, form: Format, limits: Limits | None = None) -> Answer:
    """Answer one query from the DuckDB file of a publication, in a process that is gone afterwards."""
    limits = limits or Limits()
    started = time.perf_counter()
    if len(sql) > MOST_STATEMENT_CHARACTERS:
        return Answer("refused", f"a statement has at most {MOST_STATEMENT_CHARACTERS:,} characters")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, str(file), sql, form, limits), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(limits.seconds):
            return Answer(
                "failed", f"it took longer than {limits.seconds:g} s and was ended", duration_ms=_since(started)
            )
        head = json.loads(receiver.recv_bytes())
        body = receiver.recv_bytes() if head["outcome"] == "allowed" else b""
        return Answer(**head, body=body, duration_ms=_since(started))
    except (EOFError, OSError):
        return Answer("failed", "it needed more memory or time than a query may have", duration_ms=_since(started))
    finally:
        process.kill()
        process.join()
        receiver.close()


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)


def _answer(sender: Connection, file: str, sql: str, form: Format, limits: Limits) -> None:
    """The child: validate, ask, answer."""
    os.environ.clear()
    _limit(limits)
    objects: dict[str, list[str]] = {}
    try:
        connection = locked_connection(file, f"{limits.memory_mb}MB", 1)
        catalog = catalog_of(connection)
        objects.update(validate(sql, catalog))
        statements = connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise RefusedError("only a single SELECT is answered")
        for table, columns in planned(connection, sql, catalog).items():
            objects[table] = sorted({*objects.get(table, ()), *columns})
        body, rows, is_cut = _fetch(connection, sql, form, limits)
        head = {"outcome": "allowed", "row_count": rows, "is_cut": is_cut}
    except RefusedError as error:
        head, body = {"outcome": "refused", "reason": str(error)}, b""
    except duckdb.Error as error:
        head, body = {"outcome": "failed", "reason": message_of(error)}, b""
    except MemoryError:
        head, body = {"outcome": "failed", "reason": "it needed more memory than a query may have"}, b""
    except Exception as error:
        head, body = {"outcome": "refused", "reason": f"it cannot be read ({type(error).__name__})"}, b""
    sender.send_bytes(json.dumps({**head, "objects": objects}).encode())
    if head["outcome"] == "allowed":
        sender.send_bytes(body)
    sender.close()
    # Nothing that the query left behind may run any more.
    os._exit(0)


def _limit(limits: Limits) -> None:
    """Set the limits that the kernel enforces on the process."""
    space = limits.address_space_mb * _MEGABYTE
    seconds = int(limits.seconds) + 2
    for what, value in (
        (resource.RLIMIT_AS, space),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        _, hard = resource.getrlimit(what)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


Catalog = Mapping[str, list[str]]


def catalog_of(connection: duckdb.DuckDBPyConnection) -> Catalog:
    """`schema.table` -> columns of the file."""
    found: dict[str, list[str]] = {}
    for schema, table, column in connection.execute(
        "select schema_name, table_name, column_name from duckdb_columns() "
        "where not internal and database_name = current_database() order by column_index"
    ).fetchall():
        found.setdefault(f"{schema}.{table}".lower(), []).append(column)
    return found


_OPERATORS = frozenset("!%&()*+,-./:;<=>[]^{|}~")
#: What a read consists of; any other kind of statement or clause is refused.
_FORBIDDEN: tuple[type[Any], ...] = (
    exp.Command,
    exp.DDL,
    exp.DML,
    exp.Copy,
    exp.Attach,
    exp.Detach,
    exp.Set,
    exp.Pragma,
    exp.Use,
    exp.Into,
    exp.Describe,
    exp.Summarize,
    exp.Show,
    exp.Transaction,
    exp.Commit,
    exp.Rollback,
    exp.Parameter,
    exp.Placeholder,
    exp.SessionParameter,
)


def validate(sql: str, catalog: Catalog) -> dict[str, list[str]]:
    """Refuse what is not a plain read of the catalog's tables; returns what it may read.

    The columns are those whose name occurs, all of them where a star, a whole row or a pattern could
    stand for any: too many rather than too few.

    Raises:
        RefusedError: the message says why.
    """
    tokens, statement = _parsed(sql)
    nodes = list(statement.walk())
    _validate_kinds(nodes)
    _validate_calls(tokens, _aliases(nodes))
    own = {node.alias_or_name.lower() for node in nodes if isinstance(node, exp.CTE)}
    names = (_table_name(node, own, catalog) for node in nodes if isinstance(node, exp.Table))
    return _columns_read([name for name in names if name], nodes, own, catalog)


def _parsed(sql: str) -> tuple[list[Any], exp.Query]:
    """Tokens and tree of exactly one query."""
    try:
        tokens = sqlglot.tokenize(sql, read="duckdb")
        parsed = sqlglot.parse(sql, read="duckdb")
    except sqlglot.errors.SqlglotError:
        raise RefusedError("it cannot be read as SQL") from None
    except RecursionError:
        raise RefusedError("it is nested too deeply") from None
    statements = [statement for statement in parsed if statement is not None]
    if len(statements) != 1:
        raise RefusedError("one statement at a time")
    (statement,) = statements
    if not isinstance(statement, exp.Query):
        raise RefusedError("only SELECT is answered")
    return tokens, statement


def _validate_kinds(nodes: Iterable[exp.Expr]) -> None:
    """No statement or clause but those of a read."""
    for node in nodes:
        if isinstance(node, _FORBIDDEN) and not isinstance(node, exp.Query):
            raise RefusedError(f"{type(node).__name__.upper()} has no place in a read")


def _columns_read(
    tables: Iterable[str], nodes: list[exp.Expr], own: set[str], catalog: Catalog
) -> dict[str, list[str]]:
    """Table -> the columns that the statement could read of it; `own` are names it gives itself."""
    tables = dict.fromkeys(tables)
    named = {node.name.lower() for node in nodes if isinstance(node, exp.Identifier | exp.Column | exp.Dot)}
    columns = {node.name.lower() for node in nodes if isinstance(node, exp.Column)}
    whole_rows = {name.split(".")[-1] for name in tables} | own
    whole_rows |= {node.alias.lower() for node in nodes if isinstance(node, exp.Table) and node.alias}
    # count(*) reads no column.
    has_star = any(isinstance(node, exp.Star) and not isinstance(node.parent, exp.Count) for node in nodes)
    is_any = has_star or bool(columns & whole_rows)
    return {table: [c for c in catalog[table] if is_any or c.lower() in named] for table in tables}


def _aliases(nodes: Iterable[exp.Expr]) -> set[str]:
    """Names the statement gives itself, which may stand before a parenthesis: `t(a, b)`."""
    found = set()
    for node in nodes:
        if isinstance(node, exp.CTE | exp.TableAlias | exp.Subquery | exp.Table | exp.Alias):
            found.add(node.alias_or_name.lower())
    return found - {""}


def _validate_calls(tokens: list[Any], aliases: set[str]) -> None:
    """Every name in front of a parenthesis is a function of the list, a word, or an alias."""
    for token, following in itertools.pairwise(tokens):
        if following.token_type != sqlglot.TokenType.L_PAREN:
            continue
        text = str(token.text).lower()
        # Whatever has more than operators in it: the engine may take for a name what the parser does not.
        is_name = token.token_type == sqlglot.TokenType.IDENTIFIER or not set(text) <= _OPERATORS
        if not is_name or text in ALLOWED_FUNCTIONS:
            continue
        if token.token_type != sqlglot.TokenType.IDENTIFIER and (text in WORDS or text.isdigit()):
            continue
        if text in aliases and text not in _engine_functions():
            continue
        raise RefusedError(f"the function '{text[:40]}' is not on the list")


_known_functions: set[str] = set()


def _engine_functions() -> set[str]:
    """Every function the engine has: no alias may take the name of one."""
    if not _known_functions:
        connection = duckdb.connect()
        _known_functions.update(
            str(name).lower()
            for (name,) in connection.execute("select distinct function_name from duckdb_functions()").fetchall()
        )
        connection.close()
    return _known_functions


def _table_name(node: exp.Table, known: set[str], catalog: Catalog) -> str:
    """A table of the catalog; empty for a name that the statement gives itself."""
    if not isinstance(node.this, exp.Identifier):
        # unnest and range are nodes of their own kinds; any other function as a table is refused.
        if isinstance(node.this, exp.Anonymous) and node.this.name.lower() in ("range", "unnest"):
            return ""
        if isinstance(node.this, exp.GenerateSeries | exp.Unnest):
            return ""
        raise RefusedError("functions that act as tables are not answered")
    if node.args.get("catalog"):
        raise RefusedError("tables are named schema.table")
    schema, table = node.db.lower(), node.name.lower()
    if not schema and table in known:
        return ""
    name = f"{schema}.{table}"
    if name not in catalog:
        raise RefusedError(
            f"there is no table '{name[:80]}' here"
            if schema
            else "tables are named with their schema, as in kpis.kpi_waits"
        )
    return name


def planned(connection: duckdb.DuckDBPyConnection, sql: str, catalog: Catalog) -> dict[str, list[str]]:
    """Base tables and columns as the engine's own plan has them."""
    ((_, text),) = connection.execute(f"explain (format json) {sql}").fetchall()
    found: dict[str, set[str]] = {}

    def visit(node: Mapping[str, Any]) -> None:
        info = node.get("extra_info", {})
        table = str(info.get("Table", "")).lower() if isinstance(info, dict) else ""
        if table:
            name = ".".join(table.split(".")[-2:])
            columns = info.get("Projections", [])
            columns = [columns] if isinstance(columns, str) else columns
            filters = json.dumps(info.get("Filters", ""))
            if name in catalog:
                found.setdefault(name, set()).update(c for c in catalog[name] if c in columns or c in filters)
        for child in node.get("children", ()):
            visit(child)

    for root in json.loads(text):
        visit(root)
    return {table: sorted(columns) for table, columns in found.items()}


def message_of(error: duckdb.Error) -> str:
    """The engine's error message, without anything a cell may hold."""
    kind = type(error).__name__.removesuffix("Exception")
    first = str(error).splitlines()[0]
    # A name that does not exist helps who wrote it; a value that did not fit may be somebody's.
    if isinstance(error, duckdb.BinderException | duckdb.CatalogException | duckdb.ParserException):
        return first[:300]
    return f"the engine could not answer it ({kind})"


def _fetch(connection: duckdb.DuckDBPyConnection, sql: str, form: Format, limits: Limits) -> tuple[bytes, int, bool]:
    """The answer in its format, how many rows it has, and whether there were more."""
    reader: Any = connection.execute(sql).to_arrow_reader(10_000)
    batches, rows, size, is_cut = [], 0, 0, False
    for batch in reader:
        room = limits.rows - rows
        if batch.num_rows > room:
            batch, is_cut = batch.slice(0, room), True
        batches.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if size > limits.bytes:
            raise RefusedError(f"the answer is larger than {limits.bytes // _MEGABYTE} MB")
        if is_cut:
            break
    table = pa.Table.from_batches(batches, reader.schema)
    if form == "arrow":
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes(), rows, is_cut
    if form == "csv":
        of_batches = (
            row
            for batch in table.to_batches(1_000)
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )
        return as_csv(table.column_names, of_batches).encode(), rows, is_cut
    body = {
        "columns": [{"name": f.name, "type": str(f.type)} for f in table.schema],
        "rows": [
            [_in_json(value) for value in row] for row in zip(*(c.to_pylist() for c in table.columns), strict=True)
        ],
    }
    return json.dumps(body, default=str, allow_nan=False).encode(), rows, is_cut


def _in_json(value: Any) -> Any:
    """A value as JSON can hold it: no number is null, in lists and structs, too."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [_in_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _in_json(item) for key, item in value.items()}
    return value
