"""JSON lines to raw records: text as landed, with file and line.

Read by DuckDB, as text; other formats are laid out as JSON lines first (`formats`), kept in the spool.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import duckdb

from hospital_assets.files import replace_text
from hospital_assets.landing.content import as_json_lines, open_lines, read_content, shape_of, with_escapes
from hospital_assets.landing.formats import ANY_KIND, normaliser
from hospital_assets.landing.json_sql import JsonQuery, json_query
from hospital_assets.landing.profile import Rest, Subject
from hospital_assets.landing.records import TABLE_NUMBERS, LandedFile, map_table, mapped
from hospital_assets.warehouse.dialect import literal

#: How much JSON text is held in memory at once; longer files are cut at line ends. Each batch ends
#: in a partial row group that the next checkpoint rewrites, so smaller batches cost time.
_BATCH_BYTES = 128_000_000
_SMALL_BATCH = 16_000_000
#: Into how many files the records of a batch are sorted at most.
_MOST_KINDS = 100
#: Names that DuckDB takes for a file: others are patterns to it, or say how files are partitioned.
_PLAIN_NAME = re.compile(r"[^*?\[\]{}=]+")
#: How much text of observations is gathered into sets at once.
_GATHERED_BYTES = 100_000_000


def json_relation(
    connection: duckdb.DuckDBPyConnection,
    names: Sequence[str],
    spec: Subject,
    files: Sequence[LandedFile],
    spool: Path,
    named: frozenset[str] = frozenset(),
) -> duckdb.DuckDBPyRelation:
    """The columns `names` of JSON-lines files, read as text and taken apart inside DuckDB.

    A line that is not one JSON object is a record with the problem `unreadable_line`. NaN, which
    JSON does not have but many writers produce, stands for a value that is not a number. Files of
    other formats are read from their normalised lines, which need to hold no more than the source
    names in `named`.
    """
    laid_out = normaliser(spec.format)
    if laid_out is not None:
        pieces = [piece for file in files for piece in pieces_of(file, spec, spool, named)]
        lines = _numbered_lines(connection, pieces, laid_out.is_numbered) if pieces else _NO_LINES
        checked = lines if laid_out.is_numbered else checked_lines(lines)
        passes = math.ceil(sum(piece.stat().st_size for piece, *_ in pieces) / _GATHERED_BYTES)
        if spec.observations is not None and passes > 1 and "payload" in names:
            return _gathered_in_passes(connection, json_query(names, spec, checked), passes)
        return connection.sql(json_query(names, spec, checked).sql)
    sources = []
    for pieces in _batches([piece for file in files for piece in pieces_of(file, spec, spool, named)]):
        of_file = map_table(connection, [mapped(file, str(path), line) for path, file, line in pieces])
        listed = ", ".join(literal(str(path)) for path, *_ in pieces)
        sources.append(
            f"""
            select m.source_file, m._fallback, m.landed_at, m.first_line + place as source_line,
                   case when ends_with(line, chr(13)) then rtrim(line, chr(13)) else line end
                       as record
            -- Not `unnest(lines)`: what is asked of its rows, DuckDB would find out of all lines of
            -- the file at once, and again for every two thousand of them.
            from (select filename, lines[place + 1] as line, place
                  from (select filename, lines, unnest(range(len(lines))) as place
                        from (select filename, string_split(content, chr(10)) as lines
                              from read_text([{listed}])))) l
            join {of_file} m on m.handle = l.filename
            -- Trimming long lines is slow, and a line that starts with a letter is not blank.
            where ascii(line) > 32 or trim(line, chr(32) || chr(9) || chr(13)) <> ''"""
        )
    checked = checked_lines(" union all ".join(sources) or _NO_LINES)
    return connection.sql(json_query(names, spec, checked).sql)


#: No file may hold the kind of record that is asked for.
_NO_LINES = (
    "select cast(null as varchar) as source_file, cast(null as date) as _fallback, "
    "cast(null as varchar) as landed_at, cast(null as bigint) as source_line, "
    "cast(null as varchar) as record, true as is_sound where false"
)


def checked_lines(lines: str) -> str:
    """SQL of lines with whether each is a JSON object."""
    return f"""
        -- JSON is an object when it opens like one (123 is the brace); json_type would parse it
        -- once more, and raises on text that is not JSON.
        select source_file, _fallback, landed_at, source_line, record,
               case when ascii(record) = 123 then json_valid(record)
                    when json_valid(record) then json_type(record) = 'OBJECT' else false end as is_sound
        from ({lines})"""


def _numbered_lines(
    connection: duckdb.DuckDBPyConnection, pieces: Sequence[tuple[Path, LandedFile, int]], is_sound: bool
) -> str:
    """SQL of the lines of normalised copies: streamed, in parallel, in bounded memory.

    Sound lines say in their JSON where they stood; before others stand their number and a tab.
    """
    names = map_table(connection, [mapped(file, str(path), line) for path, file, line in pieces])
    listed = ", ".join(literal(str(path)) for path, *_ in pieces)
    longest = max(int((path.parent / _done(path)).read_text() or 0) for path, *_ in pieces)
    number, text = "m.first_line", "l.line"
    if not is_sound:
        number = "cast(l.line[:strpos(l.line, chr(9)) - 1] as bigint)"
        text = "l.line[strpos(l.line, chr(9)) + 1:]"
    return f"""
        select m.source_file, m._fallback, m.landed_at, {number} as source_line, {text} as record,
               true as is_sound
        -- One column that nothing ends but the line.
        from read_csv([{listed}], columns = {{'line': 'varchar'}}, auto_detect = false, delim = '',
                      quote = '', escape = '', header = false, null_padding = false,
                      filename = true, max_line_size = {max(longest, 2_097_152)}) l
        join {names} m on m.handle = l.filename"""


def _done(piece: Path) -> str:
    """The file that says that all pieces of a copy are there, and how long their lines can be."""
    return f"{piece.name.rsplit('.', 3)[0]}.done"


def _gathered_in_passes(
    connection: duckdb.DuckDBPyConnection, query: JsonQuery, passes: int
) -> duckdb.DuckDBPyRelation:
    """Grouped records of more text than fits in memory: some of the groups at a time.

    The rows and the records are kept in temporary tables, which DuckDB moves to disk where it must; what it
    is grouping it has to hold.
    """
    number = next(TABLE_NUMBERS)
    rows, records = f"temp.main.checkpoint_rows_{number}", f"temp.main.checkpoint_records_{number}"
    connection.execute(
        f"create temp table {rows} as {query.lines} select *, hash({query.by}) % {passes} as _pass from ({query.rows})"
    )
    for turn in range(passes):
        into = f"insert into {records}" if turn else f"create temp table {records} as"
        connection.execute(f"{into} select {query.records} from (from {rows} where _pass = {turn}) {query.kept}")
    connection.execute(f"drop table {rows}")
    return connection.table(records)


def pieces_of(
    file: LandedFile, spec: Subject, spool: Path, names: frozenset[str] = frozenset()
) -> list[tuple[Path, LandedFile, int]]:
    """What is read for a file (itself, or normalised copies in the spool), with its first line."""
    laid_out = normaliser(spec.format, names)
    if laid_out is not None:
        stem = f"{file.sha256[:32]}.{spec.format}{laid_out.version}{laid_out.variant}"

        def records() -> Iterator[str]:
            # Only once: to find out how a file is to be read takes reading it.
            with open_lines(file.path, shape_of(file.path, spec.encoding, file.limits), file.limits) as lines:
                yield from laid_out.lines(lines)

        pieces = _cut(records(), laid_out.kind, spool, stem, _BATCH_BYTES, with_numbers=not laid_out.is_numbered)
        if wanted := _kinds(spec, laid_out.kind_path):
            pieces = [piece for piece in pieces if piece.name.split(".")[-3].upper() in wanted]
    elif file.is_plain and _PLAIN_NAME.fullmatch(file.source_file) and _is_small(file.path):
        return [(file.path, file, 1)]
    else:
        text = as_json_lines(read_content(file.path, spec.encoding, file.limits).text)
        lines = (line.removesuffix("\n") for line in io.StringIO(text))
        pieces = _cut(lines, lambda line: ANY_KIND, spool, file.sha256[:32], _BATCH_BYTES)
    return [(piece, file, int(piece.name.split(".")[-2])) for piece in pieces]


def _is_small(path: Path) -> bool:
    """Whether DuckDB may read a file itself, which it does by name: a link is none that has landed."""
    found = path.lstat()
    return stat.S_ISREG(found.st_mode) and found.st_size <= _BATCH_BYTES


def _kinds(spec: Subject, kind_path: str) -> set[str]:
    """The kinds of records a subject can take, in capitals; empty where it could be any."""
    named = spec.where.get(kind_path, ())
    if isinstance(spec, Rest) or not named or any(value[:1] in ("!", "*") for value in named):
        return set()
    return {ANY_KIND.upper(), *(value.strip().upper() for value in named)}


def _cut(
    lines: Iterator[str],
    kind: Callable[[str], str],
    spool: Path,
    stem: str,
    most_bytes: int,
    *,
    with_numbers: bool = False,
) -> list[Path]:
    """Lines as files of bounded size, by kind and first line; kept ones are not made again.

    The last file to appear says that all are there.

    Args:
        lines: without line ends.
        kind: of a line; each has files of its own.
        stem: how the files' names begin.
        most_bytes: of all files that begin at the same line.
        with_numbers: write the number of the line and a tab before each, and no blank line; else its
            place in the file is its number, and there may be only one kind.
    """
    done = spool / f"{stem}.done"
    if not done.exists():
        spool.mkdir(parents=True, exist_ok=True)
        held: dict[str, list[str]] = {}
        number, first, size, longest = 0, 1, 0, 0

        def write() -> None:
            for name, texts in held.items():
                replace_text(spool / f"{stem}.{name}.{first:012d}.jsonl", with_escapes("".join(texts)))

        for line in lines:
            name = kind(line)
            if name not in held and len(held) >= _MOST_KINDS:
                name = ANY_KIND
            number += 1
            if not with_numbers or line.strip():
                numbered = f"{number}\t" if with_numbers else ""
                held.setdefault(name, []).append(f"{numbered}{line}\n")
            longest = max(longest, len(line))
            size += len(line) + 1
            if size >= most_bytes:
                write()
                held, first, size = {}, number + 1, 0
        if held or number == 0:
            held = held or {ANY_KIND: []}
            write()
        # In bytes a character takes four at most; a number and its tab take few.
        replace_text(done, str(4 * longest + 32))
    return sorted(spool.glob(f"{stem}.*.jsonl"))


def _batches(pieces: Sequence[tuple[Path, LandedFile, int]]) -> list[list[tuple[Path, LandedFile, int]]]:
    """Pieces in batches of bounded, about equal size: DuckDB holds the texts of a batch at once."""
    total = sum(piece[0].stat().st_size for piece in pieces)
    # One core reads one batch.
    count = max(math.ceil(total / _BATCH_BYTES), min(os.cpu_count() or 1, total // _SMALL_BATCH), 1)
    wanted = max(total // count, 1)
    batches: list[list[tuple[Path, LandedFile, int]]] = []
    size = wanted
    for piece in pieces:
        if size >= wanted:
            batches.append([])
            size = 0
        batches[-1].append(piece)
        size += piece[0].stat().st_size
    return batches
