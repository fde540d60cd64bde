"""CSV for people who open it with a spreadsheet: no cell of it is taken for a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

#: What a spreadsheet takes for the beginning of a formula, or skips before one (OWASP: CSV injection).
_BEGINNINGS = tuple(
    "=+-@\t\r\n\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
)


def as_csv(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows below their names; text that would be a formula begins with an apostrophe, numbers are as they are."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([guarded(name) for name in names])
    writer.writerows([guarded(value) for value in row] for row in rows)
    return out.getvalue()


def guarded(value: object) -> object:
    """A cell, with an apostrophe before text that a spreadsheet would take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_BEGINNINGS) else value
