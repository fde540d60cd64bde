"""KPI tables as Apache Superset datasets over PostgreSQL (`targets.postgres`): columns, and figures as SQL metrics.

A dataset is a query for the rows that add up (`publishing.semantic`). The files are what `superset import_datasources`
takes as a ZIP; each is JSON, which is YAML. Superset knows its objects by UUID, so importing again updates them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hospital_assets.publishing.semantic import Figure, Model, ModelTable, Unit, rows_of
from hospital_assets.publishing.targets import stable_id
from hospital_assets.warehouse.dialect import quoted

#: An address without a user: Superset asks who connects.
DEFAULT_SOURCE = "postgresql://localhost/hospital"
_FORMATS: Mapping[Unit, str] = {"": ",d", "%": ".1%", "min": ",.1f", "d": ".1f", "/h": ".2f", "points": ".1f"}
_TYPES = {"string": "TEXT", "int64": "BIGINT", "double": "FLOAT", "boolean": "BOOLEAN", "dateTime": "TIMESTAMP"}


def render(model: Model, source: str = DEFAULT_SOURCE) -> dict[str, str]:
    """The files of an import, by path."""
    name = f"hospital-{model.audience}"
    database = stable_id("superset", name)
    files: dict[str, dict[str, Any]] = {
        # A date of its own, so that the same publication gives the same bytes.
        "metadata.yaml": {"type": "SqlaTable", "timestamp": "2026-01-01T00:00:00+00:00"},
        f"databases/{name}.yaml": {"database_name": name, "sqlalchemy_uri": source, "uuid": database},
    }
    for table in model.tables:
        if table.figures:
            files[f"datasets/{name}/{table.contract.name}.yaml"] = _dataset(model, table, database)
    return {
        f"{name}/{path}": json.dumps({"version": "1.0.0", **values}, indent=1) + "\n" for path, values in files.items()
    }


def _dataset(model: Model, table: ModelTable, database: str) -> dict[str, Any]:
    summed = {name for figure in table.figures for name in (figure.sums.numerator, figure.sums.denominator)}
    days = [column.source for column in table.columns if column.kind == "dateTime"]
    return {
        "table_name": f"{table.contract.name} ({model.audience})",
        "description": table.contract.summary,
        "schema": model.role,
        "sql": rows_of(table, model.role),
        "main_dttm_col": next((day for day in days if day != "service_date"), days[0]),
        "uuid": stable_id("superset", model.audience, table.contract.name),
        "database_uuid": database,
        "columns": [
            {
                "column_name": column.source,
                "verbose_name": column.name,
                "description": column.description,
                "type": _TYPES[column.kind],
                "is_dttm": column.kind == "dateTime",
                "groupby": column.source not in summed,
                "filterable": True,
            }
            for column in table.columns
        ],
        "metrics": [
            {
                "metric_name": figure.sums.name,
                "verbose_name": figure.sums.name,
                "expression": sql(figure, f"{quoted(model.role)}.{quoted(table.contract.name)}"),
                "description": figure.description,
                "d3format": _FORMATS[figure.sums.unit],
            }
            for figure in table.figures
        ],
    }


def sql(figure: Figure, whole: str) -> str:
    """A figure as SQL over rows of its table.

    Args:
        whole: the table.
    """
    sums, conditions = figure.sums, []
    if sums.among:
        key, any_of = quoted(sums.among), f"sum({quoted(sums.denominator)}) > 0"
        conditions.append(f"{key} in (select {key} from {whole} where {key} > 0 group by {key} having {any_of})")

    def summed(column: str, other: str) -> str:
        where = [*conditions, *([f"{quoted(other)} is not null"] if figure.is_guarded else [])]
        return f"sum({quoted(column)})" + (f" filter (where {' and '.join(where)})" if where else "")

    value = summed(sums.numerator, sums.denominator)
    if sums.denominator:
        value += f" / nullif({summed(sums.denominator, sums.numerator)}, 0)"
    return f"case when count(distinct {quoted(figure.choose)}) = 1 then {value} end" if figure.choose else value
