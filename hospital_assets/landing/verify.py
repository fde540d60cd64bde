"""Verification of a file before its records are read: encoding, compression, and a sample of its columns."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hospital_assets.landing.content import as_json_lines, read_content, shape_of
from hospital_assets.landing.fixed_width import fixed_records
from hospital_assets.landing.formats import normaliser
from hospital_assets.landing.headers import below_titles, csv_columns, with_line_feeds
from hospital_assets.landing.profile import Subject
from hospital_assets.landing.workbooks import csv_content
from hospital_assets.settings import FileLimits

#: What is looked at of each end of a file, to see what its columns hold.
_SAMPLE_LINES = 15
_SAMPLE_CHARACTERS = 20_000


@dataclass(frozen=True)
class Verified:
    """What was found in a file before its records are read.

    Attributes:
        encoding: of the text, and how its records are laid out.
        compression: `gzip` or `none`.
        sample: some values of each column (CSV) or field (JSON lines).
    """

    encoding: str
    compression: str
    is_blank: bool
    sample: Mapping[str, Sequence[str]] = field(default_factory=dict)


def verified(path: Path, spec: Subject, limits: FileLimits) -> Verified:
    """How a file is to be read, and what its columns hold.

    Raises `UnreadableError` as `read_content`. A JSON file that is not one object a line says so in
    its `encoding`.
    """
    if normaliser(spec.format) is not None:
        shape = shape_of(path, spec.encoding, limits)
        return Verified(f"{shape.encoding}, {spec.format}", shape.compression, shape.is_blank)
    is_csv = spec.format == "csv"
    content = csv_content(path, spec, limits) if is_csv else read_content(path, spec.encoding, limits)
    encoding, is_blank = content.encoding, not content.text.strip()
    if is_csv:
        return Verified(encoding, content.compression, is_blank, _csv_sample(content.text, spec))
    laid_out = as_json_lines(content.text)
    if laid_out != content.text:
        encoding = f"{encoding}, one JSON text"
    return Verified(encoding, content.compression, is_blank, _json_sample(laid_out))


def _csv_sample(text: str, spec: Subject) -> dict[str, list[str]]:
    if (fixed := spec.fixed_width) is not None:
        lines = _sampled(text.split("\n", fixed.first_line - 1)[-1])
        found = fixed_records("\n".join(lines), fixed.model_copy(update={"first_line": 1}))
        return {n: found[n].drop_nulls().to_list() for n in found.columns if not n.startswith("@")}
    text = below_titles(with_line_feeds(text), spec)
    header = csv_columns(text, spec.delimiter)
    rows = csv.reader(io.StringIO("\n".join(_sampled(text)[1:])), delimiter=spec.delimiter)
    whole = [row for row in rows if len(row) == len(header)]
    return {name: [row[n] for row in whole] for n, name in enumerate(header)}


def _json_sample(text: str) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for line in _sampled(text):
        with contextlib.suppress(ValueError, RecursionError):
            landed = json.loads(line)
            for name, value in landed.items() if isinstance(landed, dict) else ():
                values = fields.setdefault(name, [])
                if value is not None:
                    values.append(value if isinstance(value, str) else json.dumps(value))
    return dict(sorted(fields.items()))


def _sampled(text: str) -> list[str]:
    """Some lines from the start and the end of a text: a feed that changes in a file shows there."""
    if len(text) <= 2 * _SAMPLE_CHARACTERS:
        lines = text.splitlines()
        return lines if len(lines) <= 2 * _SAMPLE_LINES else [*lines[:_SAMPLE_LINES], *lines[-_SAMPLE_LINES:]]
    # The line that each piece cuts is left out.
    first = text[:_SAMPLE_CHARACTERS].splitlines()[:-1]
    last = text[-_SAMPLE_CHARACTERS:].splitlines()[1:]
    return [*first[:_SAMPLE_LINES], *last[-_SAMPLE_LINES:]]
