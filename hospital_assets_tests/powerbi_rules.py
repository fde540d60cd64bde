"""What neither JSON schemas nor Microsoft's TMDL parser look at in a Power BI project: that names lead somewhere."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

NAME = r"(?:'(?:[^']|'')+'|[A-Za-z_]\w*)"
REFERENCE = re.compile(rf"({NAME})\[([^\]]+)\]")
TOKEN = re.compile(rf"\s*({NAME}\[[^\]]+\]|[A-Z]+\b|{NAME}|> 0|[(),])")
#: Function -> how many arguments it takes.
FUNCTIONS = {"SUM": 1, "DIVIDE": 2, "CALCULATE": 2, "ISBLANK": 1, "HASONEVALUE": 1, "IF": 2}
FUNCTIONS |= {"FILTER": 2, "VALUES": 1, "AND": 2, "ALLEXCEPT": 2}
#: Kind of a visual -> its roles.
VISUALS = {
    "card": {"Values"},
    "slicer": {"Values"},
    "treemap": {"Group", "Values"},
    "scatterChart": {"Category", "X", "Y"},
}
#: What does not add up, by the name of the column.
NOT_ADDITIVE = re.compile(r"average|mean|median|(^|_)p\d\d(_|$)|pct|ratio|percent|max|score$|value")


@dataclass
class Read:
    """A table as its TMDL file has it."""

    measures: dict[str, str] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    sorted_by: list[str] = field(default_factory=list)


def bare(name: str) -> str:
    return name[1:-1].replace("''", "'") if name.startswith("'") else name


def tables(files: Mapping[str, str]) -> dict[str, Read]:
    """The tables of a project; those whose names differ by case only are one."""
    found: dict[str, Read] = {}
    for path, text in files.items():
        if "/tables/" in path:
            (name,) = re.findall(rf"^table ({NAME})$", text, re.MULTILINE)
            read = found.setdefault(bare(name), Read())
            for measure, dax in re.findall(rf"^\tmeasure ({NAME}) = (.*)$", text, re.MULTILINE):
                read.measures[bare(measure)] = dax
                read.names.append(bare(measure))
            for block in re.findall(rf"^\tcolumn {NAME}\n(?:\t\t.*\n)+", text, re.MULTILINE):
                (column,) = re.findall(rf"^\tcolumn ({NAME})$", block, re.MULTILINE)
                (source,) = re.findall(r"^\t\tsourceColumn: (\w+)$", block, re.MULTILINE)
                read.columns[bare(column)] = source
                read.names.append(bare(column))
                read.sorted_by += map(bare, re.findall(rf"^\t\tsortByColumn: ({NAME})$", block, re.MULTILINE))
    return found


def mistakes(files: Mapping[str, str]) -> list[str]:
    """Everything that is wrong with a project."""
    read = tables(files)
    return [*_names(read), *_figures(read), *_references(files, read), *_visuals(files, read)]


def _names(read: Mapping[str, Read]) -> Iterator[str]:
    groups = {f"table {name}": table.names for name, table in read.items()}
    groups["tables"] = list(read)
    groups["measures"] = [name for table in read.values() for name in table.measures]
    for place, names in groups.items():
        for name, times in Counter(name.casefold() for name in names).items():
            if times > 1:
                yield f"{place}: '{name}' is there {times} times"


def _figures(read: Mapping[str, Read]) -> Iterator[str]:
    for table in read.values():
        for name, dax in table.measures.items():
            for other, column in REFERENCE.findall(dax):
                source = read.get(bare(other), Read()).columns.get(column)
                if source is None:
                    yield f"{name}: there is no {other}[{column}]"
                elif NOT_ADDITIVE.search(source):
                    yield f"{name}: {source} does not add up"
            if problem := syntax(dax):
                yield f"{name}: {problem}"


def syntax(dax: str) -> str:
    """What is wrong with an expression, or nothing."""
    tokens, rest = [], dax
    while rest.strip():
        found = TOKEN.match(rest)
        if not found:
            return f"'{rest.strip()[:20]}' is no DAX we write"
        tokens.append(found[1])
        rest = rest[found.end() :]
    try:
        end = _expression(tokens, 0)
    except (IndexError, ValueError) as error:
        return str(error) or "it ends too soon"
    return "" if end == len(tokens) else f"'{tokens[end]}' is too much"


def _expression(tokens: list[str], at: int) -> int:
    """Where the expression that begins at a token ends."""
    token = tokens[at]
    if token == "NOT":  # noqa: S105  (not a password)
        return _expression(tokens, at + 1)
    if REFERENCE.fullmatch(token):
        return _compared(tokens, at + 1)
    if tokens[at - 2 : at] == ["ALLEXCEPT", "("]:
        return at + 1
    if token not in FUNCTIONS or tokens[at + 1] != "(":
        raise ValueError(f"'{token}' is no function we use")
    arguments, at = 0, at + 1
    while tokens[at] in "(,":
        at = _expression(tokens, at + 1)
        arguments += 1
    if tokens[at] != ")" or arguments != FUNCTIONS[token]:
        raise ValueError(f"{token} with {arguments} arguments, then '{tokens[at]}'")
    return _compared(tokens, at + 1)


def _compared(tokens: list[str], at: int) -> int:
    """Where a comparison that may begin at a token ends."""
    return at + (tokens[at : at + 1] == ["> 0"])


def _references(files: Mapping[str, str], read: Mapping[str, Read]) -> Iterator[str]:
    texts = {path.rsplit("/", 1)[-1]: text for path, text in files.items()}
    named = [bare(name) for name in re.findall(rf"^ref table ({NAME})$", texts["model.tmdl"], re.MULTILINE)]
    if sorted(named) != sorted(read):
        yield f"model.tmdl: refers to {sorted({*named} ^ {*read})}"
    ends = re.findall(rf"Column: ({NAME})\.({NAME})$", texts["relationships.tmdl"], re.MULTILINE)
    for table, column in ends:
        if bare(column) not in read.get(bare(table), Read()).columns:
            yield f"relationships.tmdl: there is no {table}.{column}"
    for name, table_read in read.items():
        for other in {*table_read.sorted_by} - {*table_read.columns}:
            yield f"{name}: is sorted by {other}, which is not there"


def _visuals(files: Mapping[str, str], read: Mapping[str, Read]) -> Iterator[str]:
    for path, text in files.items():
        if path.endswith("/visual.json"):
            visual = json.loads(text)["visual"]
            roles = visual["query"]["queryState"]
            if VISUALS.get(visual["visualType"]) != {*roles}:
                yield f"{path}: {visual['visualType']} with {sorted(roles)}"
            for role in roles.values():
                for projection in role["projections"]:
                    ((kind, of),) = projection["field"].items()
                    table = read.get(of["Expression"]["SourceRef"]["Entity"], Read())
                    if of["Property"] not in {"Measure": table.measures, "Column": table.columns}[kind]:
                        yield f"{path}: there is no {kind.lower()} {of['Property']}"
