"""Publications as Power BI projects: a semantic model (TMDL) and an example report (PBIR) for each audience.

A project holds no data, only what the publication's tables, joins and figures are; Power BI loads the rows from the
publication's Parquet files or from PostgreSQL, as parameters say. The same publication gives the same bytes.

The formats are those of `fabric/` in github.com/microsoft/json-schemas and of the TMDL reference; versions in `$schema`
are fixed by the schemas themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from hospital_assets.publishing.publications import PublicationError
from hospital_assets.publishing.semantic import Figure, Kept, Model, ModelTable, Unit
from hospital_assets.publishing.targets import stable_id

#: Where Power BI finds the publications unless somebody says otherwise.
DEFAULT_SOURCE = r"C:\hospital\published"
_SCHEMAS = "https://developer.microsoft.com/json-schemas/fabric"
_FORMATS: Mapping[Unit, str] = {
    "": "#,0",
    "%": "0.0 %;-0.0 %;0.0 %",
    "min": "#,0.0",
    "d": "0.0",
    "/h": "0.00",
    "points": "0.0",
}
#: Column -> the one that gives its order.
_SORTED_BY = {"month_name": "month_number", "weekday_name": "iso_weekday_number"}
_PARAMETER = 'meta [IsParameterQuery=true, Type="Text", IsParameterQueryRequired=true]'

_FROM_PARQUET = """\
(layer as text, name as text) as table =>
    let
        Files = Table.SelectRows(Folder.Files(Folder), each [Name] = name & ".parquet"),
        Newest = Table.Sort(Files, {{"Folder Path", Order.Descending}}){0}[Content]
    in
        Parquet.Document(Newest)"""
_FROM_POSTGRES = """\
(layer as text, name as text) as table =>
    PostgreSQL.Database(Server, Database){[Schema = %s, Item = name]}[Data]"""


def render(model: Model, source: str = DEFAULT_SOURCE) -> dict[str, str]:
    """The files of a project, by path.

    Args:
        source: the folder of all publications as Power BI sees it, or `postgresql://SERVER[:PORT]/DATABASE`.

    Raises:
        PublicationError: the source is neither.
    """
    name = f"hospital-{model.audience}"
    definition, report = f"{name}.SemanticModel/definition", f"{name}.Report"
    files = {
        f"{name}.pbip": _json("pbip/pbipProperties/1.0.0", version="1.0", artifacts=[{"report": {"path": report}}]),
        f"{name}.SemanticModel/.platform": _platform(name, "SemanticModel"),
        f"{name}.SemanticModel/definition.pbism": _json(
            "item/semanticModel/definitionProperties/1.0.0", version="4.2", settings={}
        ),
        f"{definition}/database.tmdl": "database\n\tcompatibilityLevel: 1601\n",
        f"{definition}/model.tmdl": _model(model),
        f"{definition}/expressions.tmdl": _expressions(model, source),
        f"{definition}/relationships.tmdl": "\n".join(_relationships(model)),
        **{f"{definition}/tables/{table.name}.tmdl": "\n".join(_table(table)) for table in model.tables},
        f"{report}/.platform": _platform(name, "Report"),
        f"{report}/definition.pbir": _json(
            "item/report/definitionProperties/2.0.0",
            version="4.0",
            datasetReference={"byPath": {"path": f"../{name}.SemanticModel"}},
        ),
        **{f"{report}/definition/{path}": text for path, text in _report(model)},
    }
    return dict(sorted(files.items()))


def _json(schema: str, **values: Any) -> str:
    return json.dumps({"$schema": f"{_SCHEMAS}/{schema}/schema.json", **values}, indent=2) + "\n"


def _platform(name: str, kind: str) -> str:
    return _json(
        "gitIntegration/platformProperties/2.1.0",
        metadata={"type": kind, "displayName": name},
        config={"version": "2.0", "logicalId": stable_id(name, kind)},
    )


def _named(name: str) -> str:
    """A name as TMDL writes it."""
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) else "'" + name.replace("'", "''") + "'"


def _described(text: str, indent: str) -> list[str]:
    return [f"{indent}/// {' '.join(text.split())}"] if text else []


def _model(model: Model) -> str:
    lines = [
        "model Model",
        "\tculture: en-US",
        "\tdefaultPowerBIDataSourceVersion: powerBI_V3",
        "\tdiscourageImplicitMeasures",
        "\tsourceQueryCulture: en-US",
        "",
        "annotation __PBI_TimeIntelligenceEnabled = 0",
        "",
        *(f"ref table {_named(table.name)}" for table in model.tables),
    ]
    return "\n".join(lines) + "\n"


def _expressions(model: Model, source: str) -> str:
    if "://" in source:
        parts = urlsplit(source)
        if not (parts.scheme in ("postgresql", "postgres") and parts.hostname and parts.path.strip("/")):
            raise PublicationError("name a folder, or postgresql://SERVER/DATABASE without a user or password")
        server = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
        parameters = {"Server": server, "Database": parts.path.strip("/")}
        function = _FROM_POSTGRES % _quoted(model.role)
    else:
        separator = "/" if "/" in source else "\\"
        parameters = {"Folder": f"{source.rstrip(separator)}{separator}{model.audience}"}
        function = _FROM_PARQUET
    lines = [f"expression {name} = {_quoted(value)} {_PARAMETER}\n" for name, value in parameters.items()]
    return "\n".join([*lines, "expression PublishedTable =", *_indented(function, "\t\t"), ""])


def _quoted(text: str) -> str:
    """A text as M writes it."""
    return '"' + text.replace('"', '""') + '"'


def _indented(text: str, indent: str) -> list[str]:
    return [indent + line for line in text.splitlines()]


def _table(table: ModelTable) -> Iterator[str]:
    name = table.contract.name
    yield from _described(table.contract.summary, "")
    yield f"table {_named(table.name)}"
    if name == "dim_date":
        yield "\tdataCategory: Time"
    for figure in table.figures:
        yield ""
        yield from _described(figure.description, "\t")
        yield f"\tmeasure {_named(figure.sums.name)} = {dax(figure, table)}"
        yield f"\t\tformatString: {_FORMATS[figure.sums.unit]}"
    there = {column.source for column in table.columns}
    for column in table.columns:
        yield ""
        yield from _described(column.description, "\t")
        yield f"\tcolumn {_named(column.name)}"
        yield f"\t\tdataType: {column.kind}"
        if column.is_hidden:
            yield "\t\tisHidden"
        if (name, column.source) == ("dim_date", "calendar_date"):
            yield "\t\tisKey"
        if column.kind == "dateTime":
            has_time = column.source.endswith("_local")
            yield f"\t\tformatString: yyyy-mm-dd{' hh:nn' if has_time else ''}"
        yield "\t\tsummarizeBy: none"
        yield f"\t\tsourceColumn: {column.source}"
        if _SORTED_BY.get(column.source) in there:
            yield f"\t\tsortByColumn: {_named(table.column(_SORTED_BY[column.source]).name)}"
    yield ""
    yield f"\tpartition {name} = m"
    yield "\t\tmode: import"
    yield "\t\tsource ="
    yield from _indented(_m(table), "\t\t\t\t")
    yield ""


def _m(table: ModelTable) -> str:
    """The rows and columns of a table, in Power Query's language."""
    rows = " and ".join(_condition(kept) for kept in table.kept)
    columns = ", ".join(_quoted(column.source) for column in table.columns)
    steps = [
        f"Source = PublishedTable({_quoted(table.contract.layer)}, {_quoted(table.contract.name)})",
        *([f"Rows = Table.SelectRows(Source, each {rows})"] if rows else []),
        f"Columns = Table.SelectColumns({'Rows' if rows else 'Source'}, {{{columns}}})",
    ]
    return "let\n    " + ",\n    ".join(steps) + "\nin\n    Columns"


def _condition(kept: Kept) -> str:
    value = "null" if kept.value is None else _quoted(kept.value)
    return f"[{kept.column}] {'=' if kept.is_equal else '<>'} {value}"


def dax(figure: Figure, table: ModelTable) -> str:
    """A figure in DAX."""
    place = "'" + table.name.replace("'", "''") + "'"

    def column(source: str) -> str:
        return f"{place}[{table.column(source).name}]"

    numerator = column(figure.sums.numerator)
    value = f"SUM({numerator})"
    if figure.sums.denominator:
        denominator = column(figure.sums.denominator)
        value = f"DIVIDE(SUM({numerator}), SUM({denominator}))"
        if figure.is_guarded:
            of, over = f"NOT ISBLANK({denominator})", f"NOT ISBLANK({numerator})"
            value = f"DIVIDE(CALCULATE(SUM({numerator}), {of}), CALCULATE(SUM({denominator}), {over}))"
        if figure.sums.among:
            key = column(figure.sums.among)
            has_any = f"CALCULATE(SUM({denominator}), ALLEXCEPT({place}, {key})) > 0"
            value = f"CALCULATE({value}, FILTER(VALUES({key}), AND({key} > 0, {has_any})))"
    return f"IF(HASONEVALUE({column(figure.choose)}), {value})" if figure.choose else value


def _relationships(model: Model) -> Iterator[str]:
    for found in model.relationships:
        table, other = model.table(found.table), model.table(found.to_table)
        yield f"relationship {stable_id(model.audience, found.table, found.column, found.to_table)}"
        if not found.is_active:
            yield "\tisActive: false"
        yield f"\tfromColumn: {_named(table.name)}.{_named(table.column(found.column).name)}"
        yield f"\ttoColumn: {_named(other.name)}.{_named(other.column(found.to_column).name)}"
        yield ""


#: Title, kind, place (left, top, width, height), and role -> the column or figure that fills it, by table.
_VISUALS: tuple[tuple[str, str, tuple[int, int, int, int], Mapping[str, tuple[str, str]]], ...] = (
    ("Hospital", "slicer", (20, 20, 200, 200), {"Values": ("dim_hospital", "hospital_name")}),
    ("Day", "slicer", (20, 240, 200, 120), {"Values": ("dim_date", "calendar_date")}),
    ("Visits", "card", (240, 20, 240, 120), {"Values": ("kpi_triage_mix_daily", "Visits")}),
    ("Average wait", "card", (500, 20, 240, 120), {"Values": ("kpi_waits_daily", "Average wait")}),
    ("Unseen", "card", (760, 20, 240, 120), {"Values": ("kpi_lwbs_daily", "Left without being seen")}),
    ("Four hours", "card", (1020, 20, 240, 120), {"Values": ("kpi_four_hour_daily", "Four-hour standard")}),
    (
        "Funnel",
        "scatterChart",
        (240, 160, 500, 520),
        {
            "Category": ("dim_hospital", "hospital_name"),
            "X": ("kpi_four_hour_daily", "Four-hour standard (n)"),
            "Y": ("kpi_four_hour_daily", "Four-hour standard"),
        },
    ),
    (
        "Hospitals by visits",
        "treemap",
        (760, 160, 500, 520),
        {"Group": ("dim_hospital", "hospital_name"), "Values": ("kpi_triage_mix_daily", "Visits")},
    ),
)


def _report(model: Model) -> Iterator[tuple[str, str]]:
    """The files of the example report: one page, with the visuals whose figures the publication has."""
    item = "item/report/definition"
    yield "version.json", _json(f"{item}/versionMetadata/1.0.0", version="2.0.0")
    yield "report.json", _json(f"{item}/report/3.3.0", themeCollection={})
    yield "pages/pages.json", _json(f"{item}/pagesMetadata/1.1.0", pageOrder=["overview"], activePageName="overview")
    yield (
        "pages/overview/page.json",
        _json(
            f"{item}/page/2.1.0",
            name="overview",
            displayName="Overview",
            displayOption="FitToPage",
            height=720,
            width=1280,
        ),
    )
    for order, (title, kind, place, roles) in enumerate(_VISUALS):
        fields = {role: found for role, of in roles.items() if (found := _field(model, *of))}
        if len(fields) == len(roles):
            name = title.lower().replace(" ", "-")
            left, top, width, height = place
            visual = _json(
                f"{item}/visualContainer/2.9.0",
                name=name,
                position={"x": left, "y": top, "z": order, "height": height, "width": width, "tabOrder": order},
                visual={
                    "visualType": kind,
                    "query": {"queryState": {role: {"projections": [field]} for role, field in fields.items()}},
                },
            )
            yield f"pages/overview/visuals/{name}/visual.json", visual


def _field(model: Model, table_name: str, wanted: str) -> dict[str, Any]:
    """A column or figure as a visual refers to it; nothing where the model lacks it."""
    for table in model.tables:
        if table.contract.name == table_name:
            names = {column.source: ("Column", column.name) for column in table.columns}
            names |= {figure.sums.name: ("Measure", figure.sums.name) for figure in table.figures}
            if wanted in names:
                kind, name = names[wanted]
                field = {kind: {"Expression": {"SourceRef": {"Entity": table.name}}, "Property": name}}
                return {"field": field, "queryRef": f"{table.name}.{name}", "nativeQueryRef": name}
    return {}
