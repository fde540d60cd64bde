"""Text files without delimiters: what a column holds stands at its place in each line.

Belongs here: from such a text to records as `csv_records` has them. From there on they are those of CSV.
"""

from __future__ import annotations

import itertools

import polars as pl

from hospital_assets.landing.headers import with_line_feeds
from hospital_assets.landing.profile import FixedWidth

#: What is nothing; old systems end a file with a control character.
_BLANKS = " \t\x1a"


def fixed_records(text: str, spec: FixedWidth) -> pl.DataFrame:
    """All records of a text, one a line; lines of blanks are none.

    Returns:
        the declared columns, and those of stretches that none is declared for and in which something stands, called by
        their place as in `9-12` or `41-`; then `@line` (of the file), `@problem` (`wrong_field_count` where a line ends
        before the last declared column does, or null) and `@record` (JSON of the columns with their blanks; of a line
        that is too short, the line).
    """
    lines = pl.Series("@text", [with_line_feeds(text)]).str.split("\n").explode()
    frame = pl.DataFrame([lines, pl.int_range(1, lines.len() + 1, dtype=pl.Int64, eager=True).alias("@line")])
    line = pl.col("@text")
    frame = frame.filter(pl.col("@line") >= spec.first_line, line.str.strip_chars(_BLANKS) != "")
    stretches = {
        name: line.str.slice(start - 1, None if end is None else end - start + 1)
        for name, (start, end) in _undeclared(spec).items()
    }
    found = frame.select((piece.str.strip_chars(_BLANKS) != "").any().alias(name) for name, piece in stretches.items())
    pieces = {name: line.str.slice(column.start - 1, column.width) for name, column in spec.columns.items()}
    pieces |= {name: piece for name, piece in stretches.items() if found[name].any()}
    is_short = pl.lit(False) if spec.is_stripped else line.str.len_chars() < spec.end
    values = {
        name: piece.str.strip_chars(_BLANKS) if name not in spec.columns or spec.columns[name].trim else piece
        for name, piece in pieces.items()
    }
    return frame.select(
        *(
            pl.when(~is_short, piece.str.strip_chars(_BLANKS) != "").then(values[name]).alias(name)
            for name, piece in pieces.items()
        ),
        "@line",
        pl.when(is_short).then(pl.lit("wrong_field_count")).alias("@problem"),
        pl.when(is_short)
        .then(line)
        .otherwise(pl.struct(piece.alias(name) for name, piece in pieces.items()).struct.json_encode())
        .alias("@record"),
    )


def with_gaps(line: str, spec: FixedWidth) -> str:
    """A line with a line feed at each edge of a column: what fills its column is no part of what stands beside it."""
    edges = {column.start - 1 for column in spec.columns.values()}
    edges |= {column.start - 1 + column.width for column in spec.columns.values()}
    places = [0, *sorted(edge for edge in edges if 0 < edge < len(line)), len(line)]
    return "\n".join(line[start:end] for start, end in itertools.pairwise(places))


def _undeclared(spec: FixedWidth) -> dict[str, tuple[int, int | None]]:
    """The stretches of a line that no column is declared for: name -> first and last character; None: to its end."""
    found: dict[str, tuple[int, int | None]] = {}
    place = 1
    for column in sorted(spec.columns.values(), key=lambda column: column.start):
        if column.start > place:
            found[f"{place}-{column.start - 1}"] = (place, column.start - 1)
        place = max(place, column.start + column.width)
    return {**found, f"{place}-": (place, None)}
