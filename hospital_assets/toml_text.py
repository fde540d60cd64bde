"""The text of a TOML file that people write, and where in it something stands, for messages about mistakes."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import Path

_HEADER = re.compile(r"^\s*\[\[?\s*(?P<path>[^\]]+?)\s*\]\]?")
_KEY = re.compile(r"""^\s*(?P<key>(?:"[^"]*"|'[^']*'|[\w.-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[\w-]+))*)\s*=""")


class TextError(ValueError):
    """A file of the configuration is there and cannot be read; the message names it and says what to do."""


def text_of(path: Path) -> str | None:
    """What stands in a TOML file, without the mark that some editors put before it; None where there is no file.

    Raises:
        TextError: it cannot be read, or is not UTF-8. A link that leads nowhere is no missing file: what it is for
            would be as by default, and nobody would hear of it.
    """
    try:
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TextError(f"{path}:{line}: a character is not in UTF-8: save the file as UTF-8") from None
    except FileNotFoundError:
        if path.is_symlink():
            raise TextError(f"{path} is a link to a file that is not there: put it there, or remove the link") from None
        return None
    except OSError as error:
        raise TextError(f"{path}: {error.strerror}: the user who runs this must be able to read it") from None


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
