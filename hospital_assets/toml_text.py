"""Where something stands in a TOML text, for messages about mistakes in it."""

from __future__ import annotations

import re
from collections.abc import Sequence

_HEADER = re.compile(r"^\s*\[\[?\s*(?P<path>[^\]]+?)\s*\]\]?")
_KEY = re.compile(r"""^\s*(?P<key>(?:"[^"]*"|'[^']*'|[\w.-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[\w-]+))*)\s*=""")


def line_of(text: str, where: Sequence[str | int]) -> int:
    """The line of a TOML text that declares a key, or the nearest key around it.

    `tomllib` keeps no places, so the headers and keys are looked for as text; a key within an inline
    table is found at the line of that table.
    """
    wanted = [str(part) for part in where]
    best, line = 0, 1
    table: list[str] = []
    seen: dict[str, int] = {}
    for number, content in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(content)
        if header:
            table = _keys(header["path"])
            if content.lstrip().startswith("[["):
                place = seen[header["path"]] = seen.get(header["path"], -1) + 1
                table = [*table, str(place)]
            found = table
        elif key := _KEY.match(content):
            found = [*table, *_keys(key["key"])]
        else:
            continue
        if found == wanted[: len(found)] and len(found) > best:
            best, line = len(found), number
    return line


def _keys(path: str) -> list[str]:
    parts = re.findall(r""""[^"]*"|'[^']*'|[^.\s"']+""", path)
    return [part.strip("\"'") for part in parts]
