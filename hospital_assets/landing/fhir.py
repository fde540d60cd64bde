"""FHIR R4 in JSON, one resource a line: bulk exports as they are, Bundles taken apart.

NDJSON passes untouched; what is in a resource is the profile's and DuckDB's matter. A Bundle
(collection, transaction, searchset, history) becomes a line for each entry, and its own internal links
are made plain: a reference to another entry's `fullUrl`, as in `urn:uuid:...`, becomes `Type/id`, and a
resource that has no id yet takes that of its `fullUrl`. A contained resource becomes a line of its own, with the id
`<id of what contains it>-<its own>`, to which references (`#its-own`) lead. Each resource stays word for word in
`@record`. A Bundle is held in memory whole; NDJSON never is.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Generator, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

#: Raised when the output changes, so that kept copies are made anew.
VERSION = 3

_raw_decode = json.JSONDecoder().raw_decode
_BLANK = re.compile(r"[ \t\r\n]*")
#: JSON texts have no line break inside a string, so what surrounds one is layout.
_LAYOUT = re.compile(r"[ \t]*[\r\n]+[ \t\r\n]*")
_REFERENCE = re.compile(r'("reference"\s*:\s*)"([^"\\]*)"')

_TYPE = re.compile(
    r'\s*\{\s*(?:"@line": \d+, "@record": "[^"\\]*(?:\\.[^"\\]*)*", )?"resourceType"\s*:\s*"([A-Za-z]{1,60})"'
)


class _Entry(NamedTuple):
    """An entry of a Bundle: where it and its resource stand in the text, and what names them."""

    begins: int
    ends: int
    resource: tuple[int, int] | None
    kind: str
    identity: str | None
    url: str | None
    request: Any


def _decode(text: str, position: int) -> tuple[Any, int]:
    """The JSON value at a place, and where it ends; ValueError where it is damaged or nested too deep."""
    try:
        return _raw_decode(text, position)
    except RecursionError:
        raise ValueError("nested too deep") from None


def json_lines(lines: Iterator[str]) -> Iterator[str]:
    """Resources from the lines of a file, one a line.

    Args:
        lines: of NDJSON, of one Bundle or resource laid out over several lines, or of a JSON array.
    """
    beginning: list[str] = []
    for line in lines:
        beginning.append(line)
        if line.strip():
            break
    first = "".join(beginning[-1:]).strip()
    rest = itertools.chain(beginning, lines)
    if first.startswith("[") or (first.startswith("{") and not _is_whole(first)):
        yield from _of_text("".join(rest))
    else:
        yield from _of_lines(rest)


def resource_type(line: str) -> str:
    """The type that a line opens with; `any` where it opens with something else.

    Only the first member counts: further on, it could be a contained resource's.
    """
    found = _TYPE.match(line)
    return found[1] if found else "any"


def _is_whole(text: str) -> bool:
    """Whether a first line that opens an object also ends it; a damaged one that ends alike is whole."""
    if not text.endswith(("}", "]")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        # `{"a": {` cannot end in a brace that closes; `{"a": {}` can, and goes on below.
        return text.count("{") <= text.count("}")
    return True


def _of_lines(lines: Iterator[str]) -> Iterator[str]:
    """NDJSON; a line that is a Bundle becomes several, and those behind it then say where they stood."""
    last = 0
    for number, line in enumerate(lines, start=1):
        text = line.rstrip("\r\n")
        made = _of_bundle_line(text, max(number, last + 1)) if '"Bundle"' in text else None
        if made is None and '"contained"' in text:
            made = _apart(text, text, max(number, last + 1))
        if made is not None:
            yield from made or [""]  # a Bundle of nothing is a blank line
            last = max(number, last + 1) + max(len(made), 1) - 1
        elif number > last:
            last = number
            yield text
        elif text.strip():
            last += 1
            yield _line(text, text, last)


def _of_bundle_line(text: str, number: int) -> list[str] | None:
    """The lines of a Bundle that stands on one line; None where it is no Bundle."""
    try:
        is_bundle = json.loads(text).get("resourceType") == "Bundle"
    except (ValueError, RecursionError, AttributeError):
        return None
    return list(_of_bundle(text, text.index("{"), number)) if is_bundle else None


def _of_text(text: str) -> Iterator[str]:
    """A text of Bundles or resources over several lines, or an array of them."""
    lines = _Lines(text)
    position, number = _skip(text, 0), 0
    try:
        while position < len(text):
            if text[position] == "[":
                walk = _elements(text, position)
                start = next(walk, None)
                while start is not None:
                    position = start
                    _, end = _decode(text, start)
                    for made in _apart(text[start:end], text[start:end], max(lines.at(start), number + 1)):
                        number = max(lines.at(start), number + 1)
                        yield made
                    position = end
                    start = _send(walk, end)
                position = _skip(text, text.index("]", position) + 1)
                continue
            value, end = _decode(text, position)
            if isinstance(value, dict) and value.get("resourceType") == "Bundle":
                del value
                for made in _of_bundle(text, position, number + 1, lines):
                    number += 1
                    yield made
                number = max(lines.at(end), number)
            else:
                for made in _apart(text[position:end], text[position:end], max(lines.at(position), number + 1)):
                    number = max(lines.at(position), number + 1)
                    yield made
            position = _skip(text, end)
    except ValueError:
        damaged = text[position:]
        if number == 0 and '"Bundle"' in damaged[:2000]:
            yield from _of_bundle(text, position, 1, lines)
        elif number == 0 and damaged.startswith("{"):  # lines after all, the first one damaged
            yield from _of_lines(iter(text.splitlines(keepends=True)))
        else:
            yield _unreadable(damaged, max(lines.at(position), number + 1))


def _of_bundle(text: str, position: int, number: int, lines: _Lines | None = None) -> Iterator[str]:
    """The entries of a Bundle; where it is damaged, those before, and then the rest as one problem.

    Args:
        number: the least line number of its first entry.
        lines: tells on which line an entry stands; None where all stand on one.
    """
    entries: list[_Entry] = []
    reached, is_damaged = position, False
    try:
        walk = _members(text, position)
        member = next(walk, None)
        while member is not None:
            name, start = member
            if name == "entry" and text[start : start + 1] == "[":
                reached = start
                inside = _elements(text, start)
                begins = next(inside, None)
                while begins is not None:
                    entries.append(_entry(text, begins))
                    reached = entries[-1].ends
                    begins = _send(inside, reached)
                end = text.index("]", reached if entries else start) + 1
            else:
                _, end = _decode(text, start)
            member = _send(walk, end)
    except ValueError:
        is_damaged = True
    ids = {
        entry.url: f"{entry.kind}/{entry.identity or _tail(entry.url)}"
        for entry in entries
        if entry.url and entry.resource
    }
    for entry in entries:
        number = max(number, lines.at(entry.begins) if lines else 0)
        for made in _entry_lines(text, entry, ids, number):
            yield made
            number += 1
    if is_damaged:
        yield _unreadable(text[reached:], max(number, lines.at(reached) if lines else 0))


def _entry(text: str, position: int) -> _Entry:
    """One entry; ValueError where it is damaged."""
    resource: tuple[int, int] | None = None
    kind, identity, url, request = "", None, None, None
    walk = _members(text, position)
    member = next(walk, None)
    end = position + 1
    while member is not None:
        name, start = member
        value, end = _decode(text, start)
        if name == "resource" and isinstance(value, dict):
            resource = (start, end)
            kind, identity = str(value.get("resourceType")), value.get("id")
        elif name == "fullUrl" and isinstance(value, str):
            url = value
        elif name == "request":
            request = value
        member = _send(walk, end)
    return _Entry(position, text.index("}", end) + 1, resource, kind, identity, url, request)


def _entry_lines(text: str, entry: _Entry, ids: dict[str, str], number: int) -> list[str]:
    if entry.resource is None:
        return [_line(_without_resource(entry.request), text[entry.begins : entry.ends], number)]
    record = text[slice(*entry.resource)]
    body = _resolved(_LAYOUT.sub(" ", record), ids) if ids else _LAYOUT.sub(" ", record)
    if entry.identity is None and entry.url:
        body = _with_members(body, {"id": _tail(entry.url)})
    return _apart(body, record, number)


def _apart(body: str, record: str, number: int) -> list[str]:
    """The line of a resource, and one for each that it contains, on the lines from `number` on."""
    contained = _contained(body) if '"contained"' in body else None
    if contained is None:
        return [_line(body, record, number)]
    whole, inner = contained
    identity = whole.get("id") or hashlib.sha256(record.encode("utf-8", "replace")).hexdigest()[:16]
    ids = {"#": f"{whole.get('resourceType')}/{identity}"}
    ids |= {f"#{one.get('id')}": f"{one['resourceType']}/{identity}-{one.get('id')}" for one in inner}

    named = body if "id" in whole else _with_members(body, {"id": identity})
    made = [_line(_resolved(named, ids), record, number)]
    # The version of what is contained is that of what contains it.
    written = {"meta": whole["meta"]} if "meta" in whole else {}
    for place, one in enumerate(inner, start=1):
        kind = {"resourceType": one["resourceType"], "id": f"{identity}-{one.get('id')}"}
        text = json.dumps({**kind, **written, **one, **kind}, ensure_ascii=False)
        made.append(_line(_resolved(text, ids), json.dumps(one, ensure_ascii=False), number + place))
    return made


def _resolved(text: str, ids: Mapping[str, str]) -> str:
    """A text whose references that are known lead to `Type/id`."""
    return _REFERENCE.sub(
        lambda match: f"{match[1]}{json.dumps(ids.get(match[2], match[2]), ensure_ascii=False)}", text
    )


def _contained(body: str) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """A resource and those it contains; None where it contains none, or is damaged."""
    try:
        whole = json.loads(body)
    except (ValueError, RecursionError):
        return None
    inner = whole.get("contained") if isinstance(whole, dict) else None
    found = [one for one in inner or () if isinstance(one, dict) and isinstance(one.get("resourceType"), str)]
    return (whole, found) if found else None


def _without_resource(request: Any) -> str:
    """An entry that only says what was done: a deletion names its resource, nothing else does."""
    if isinstance(request, dict) and request.get("method") == "DELETE":
        kind, _, identity = str(request.get("url", "")).rpartition("/")
        deleted = {"resourceType": "Deleted", "type": kind.rpartition("/")[2], "id": identity}
        return json.dumps(deleted)
    return json.dumps({"resourceType": "BundleEntry"})


def _line(body: str, record: str, number: int) -> str:
    """A JSON object on one line, with the line it stood on and its own words."""
    body = _LAYOUT.sub(" ", body).strip()
    if not body.startswith("{"):
        return _unreadable(record, number)
    return _with_members(body, {"@line": number, "@record": record})


def _with_members(body: str, members: dict[str, Any]) -> str:
    added = json.dumps(members, ensure_ascii=False)[:-1]
    inside = body[1:].lstrip()
    return f"{added}{'' if inside.startswith('}') else ', '}{inside}"


def _unreadable(record: str, number: int) -> str:
    return json.dumps({"@line": number, "@record": record, "@problem": "unreadable_line"}, ensure_ascii=False)


def _tail(url: str) -> str:
    """The id in a full URL or URN."""
    return re.split(r"[/:]", url.partition("/_history/")[0])[-1]


def _skip(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    return found.end() if found else position


class _Lines:
    """On which line a place in a text stands; asked in the order of the text, mostly."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place, self._line = 0, 1

    def at(self, place: int) -> int:
        """The line, from 1."""
        if place < self._place:
            self._place, self._line = 0, 1
        self._line += self._text.count("\n", self._place, place)
        self._place = place
        return self._line


_Found = TypeVar("_Found")


def _send(walk: Generator[_Found, int, None], end: int) -> _Found | None:
    """Tell a walk where the value it has just named ends; the next one, or None."""
    try:
        return walk.send(end)
    except StopIteration:
        return None


def _members(text: str, position: int) -> Generator[tuple[str, int], int, None]:
    """An object's members, by name and where the value begins; ValueError where it is damaged.

    Who walks sends where the value ends: so each value is parsed once, or not at all.
    """
    position = _skip(text, position + 1)
    while text[position : position + 1] != "}":
        name, position = _decode(text, position)
        position = _skip(text, position)
        if not isinstance(name, str) or text[position : position + 1] != ":":
            raise ValueError("a name is missing")
        end = yield name, _skip(text, position + 1)
        position = _behind(text, end, "}")


def _elements(text: str, position: int) -> Generator[int, int, None]:
    """Where an array's elements begin, as `_members`."""
    position = _skip(text, position + 1)
    while text[position : position + 1] != "]":
        end = yield position
        position = _behind(text, end, "]")


def _behind(text: str, position: int, closing: str) -> int:
    """Behind the comma after a value, or at what closes; ValueError where there is neither."""
    position = _skip(text, position)
    if text[position : position + 1] == ",":
        return _skip(text, position + 1)
    if text[position : position + 1] != closing:
        raise ValueError("cut off")
    return position
