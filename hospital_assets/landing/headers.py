"""The header of a table: below titles, on one line or over several rows whose names belong together.

Belongs here: which names the columns of a CSV text have. Does not: the records below (`csv_records`).
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence

from hospital_assets.landing.content import UnreadableError
from hospital_assets.landing.profile import Subject

#: More columns than this no table has.
_MOST_COLUMNS = 5_000


def with_line_feeds(text: str) -> str:
    """Any of the three line ends as a line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def csv_columns(text: str, delimiter: str) -> list[str]:
    """The header of a CSV text whose lines end with a line feed.

    Raises:
        UnreadableError: it has thousands of columns.
    """
    header = _fields(text.split("\n", 1)[0], delimiter)
    if len(header) > _MOST_COLUMNS:
        raise UnreadableError(
            f"line 1 has over {_MOST_COLUMNS:,} columns, so it is no header; check what was delivered"
        )
    return header


def distinct(names: Sequence[str]) -> list[str]:
    """Header names, repeated ones numbered, so that no column hides another; what begins with `@` is ours."""
    stated = [f" {name}" if name.startswith("@") else name for name in names]
    # A number that another column of the file has is that column's.
    taken, numbers = set(stated), {name: itertools.count(2) for name in stated}
    found: dict[str, None] = {}
    for name in stated:
        others = (f"{name}_{number}" for number in numbers[name])
        found[next(one for one in others if one not in found and one not in taken) if name in found else name] = None
    return list(found)


def below_titles(text: str, spec: Subject) -> str:
    """A CSV text from the last line of its header on; titles and other rows of the header may stand above it."""
    above = spec.names_line - 1
    return text.split("\n", above)[-1] if text.count("\n") >= above else ""


def with_one_header(text: str, spec: Subject) -> str:
    """A CSV text with the names of a header over several rows joined on the last of them; no other line changes."""
    lines = with_line_feeds(text).split("\n", spec.names_line)
    rows = [_fields(line, spec.delimiter) for line in lines[spec.header_line - 1 : spec.names_line]]
    if len(rows) < spec.header_rows:
        return text
    lines[spec.names_line - 1] = _line(joined_names(filled_to_the_right(rows)), spec.delimiter)
    return "\n".join(lines)


def filled_to_the_right(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The rows of a header with what a name spans written out: an empty cell belongs to the name on its left.

    Not in the lowest row, and not beyond what the row above spans.
    """
    width = max(map(len, rows), default=0)
    stated = [[*(cell.strip() for cell in row), *[""] * (width - len(row))] for row in rows]
    filled = [list(row) for row in stated]
    for depth, row in enumerate(filled[:-1]):
        for place in range(1, width):
            if not row[place] and not any(above[place] for above in stated[:depth]):
                row[place] = row[place - 1]
    return filled


def joined_names(rows: Sequence[Sequence[str]]) -> list[str]:
    """The names of columns from the rows of a header, from above: `Vital signs` over `HR` is `Vital signs HR`."""
    names = []
    for cells in zip(*rows, strict=True):
        words = [" ".join(cell.split()) for cell in cells]
        # A cell that spans rows says the same in each.
        names.append(" ".join(word for above, word in zip(["", *words], words, strict=False) if word and word != above))
    return names


def _fields(line: str, delimiter: str) -> list[str]:
    return next(csv.reader(io.StringIO(line), delimiter=delimiter), [])


def _line(fields: Sequence[str], delimiter: str) -> str:
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter, lineterminator="").writerow(fields)
    return written.getvalue()
