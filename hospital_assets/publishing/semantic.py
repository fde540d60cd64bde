"""What a BI tool has to know about a publication: its tables, how they join, and the figures that may be computed.

One model, made from the contracts (names, descriptions, references, the definitions of figures) and the manifest of a
publication, so that nothing stands in it which the audience does not have. `targets.powerbi` and `targets.superset`
write it down for their tools, `targets.postgres` as keys and views.

A tool adds up whatever it is given, so the model holds dimensions, facts, and those KPI tables that add up:
without the rows that pool others (`all`), with counts and sums only. Every figure is a sum of these over a sum of
these; averages, medians, percentiles, shares and instants in UTC are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hospital_assets.contracts import CONTRACTS, Column, Contract
from hospital_assets.contracts.kpis import ALL
from hospital_assets.warehouse.dialect import literal, quoted

Unit = Literal["", "%", "min", "d", "/h", "points"]


@dataclass(frozen=True)
class Sums:
    """A figure by what it is summed from, as the contract calls the columns.

    Attributes:
        numerator: what is summed.
        denominator: what it is divided by the sum of; nothing for a count.
        among: key of those whose rows count: known ones that have any of the denominator at all, on whatever day.
    """

    name: str
    numerator: str
    denominator: str = ""
    unit: Unit = ""
    among: str = ""


@dataclass(frozen=True)
class Additive:
    """How the rows of a KPI table add up.

    Attributes:
        pooled: key columns with rows that pool all values of the column.
        sums: its figures; a table with `numerator_count` and `denominator_count` has their share besides.
        choose: column of which one value must be chosen: values count the same again.
    """

    pooled: tuple[str, ...] = ()
    sums: tuple[Sums, ...] = ()
    choose: str = ""


_HOSPITAL = ("hospital_id",)
_PLACE = (*_HOSPITAL, "department_name")
_GROUP = (*_PLACE, "triage_group")

#: The KPI tables that add up. The others hold figures of a whole period, ranks, limits or states of a moment.
ADDITIVE: Mapping[str, Additive] = {
    "kpi_waits_daily": Additive(
        _GROUP,
        (Sums("Registered visits", "visit_count"), Sums("Average wait", "wait_sum_minutes", "wait_count", "min")),
    ),
    "kpi_arrivals_hourly": Additive((), (Sums("Arrivals", "arrivals_count"),)),
    "kpi_conditions_daily": Additive((), (Sums("Visits by diagnosis", "visit_count"),)),
    "kpi_triage_mix_daily": Additive(
        (),
        (Sums("Visits", "visit_count"), Sums("Share of critical visits", "critical_visit_count", "visit_count", "%")),
    ),
    "kpi_physician_workload_daily": Additive(
        (),
        (
            Sums("New patients", "visit_count"),
            # Patients of doctors without shifts were seen in nobody's hours.
            Sums("New patients per shift hour", "visit_count", "shift_hours", "/h", among="doctor_key"),
        ),
    ),
    "kpi_lwbs_daily": Additive(_HOSPITAL),
    "kpi_four_hour_daily": Additive(_HOSPITAL, (Sums("Twelve-hour stays", "over_12_hours_count"),)),
    "kpi_boarding_daily": Additive(
        (*_HOSPITAL, "destination_department"),
        (Sums("Average boarding time", "boarding_sum_minutes", "denominator_count", "min"),),
    ),
    "kpi_seen_on_time_daily": Additive((*_HOSPITAL, "triage_group"), choose="scale"),
    "kpi_critical_waits_daily": Additive(_HOSPITAL),
    "kpi_returns": Additive(_HOSPITAL, choose="variant"),
    "kpi_readmissions": Additive(_HOSPITAL),
    "kpi_length_of_stay": Additive(
        _HOSPITAL, (Sums("Average length of stay", "los_hcup_days_sum", "denominator_count", "d"),), "stay_class"
    ),
    "kpi_discharge_before_noon_daily": Additive(_HOSPITAL),
    # Its rows pool the inpatient departments; the emergency department has no beds of the hospital.
    "kpi_occupancy_daily": Additive(
        (), (Sums("Occupancy", "occupied_bed_minutes", "staffed_bed_minutes", "%"),), "department_name"
    ),
    "kpi_department_flow_daily": Additive(
        (), (Sums("Patients who came", "inflow_count"), Sums("Patients who left", "outflow_count"))
    ),
    "kpi_news2_daily": Additive(
        _PLACE,
        (
            Sums("Average NEWS2", "score_sum", "denominator_count", "points"),
            Sums("Share of NEWS2 of 7 or more", "score_7_or_more_count", "denominator_count", "%"),
        ),
    ),
    "kpi_first_observations_daily": Additive(_PLACE, choose="limit_minutes"),
    "kpi_news2_response_daily": Additive(
        _PLACE, (Sums("Average time to a provider after NEWS2 of 7", "response_sum_minutes", "seen_count", "min"),)
    ),
    "kpi_observation_frequency_daily": Additive((*_PLACE, "news2_band")),
    "kpi_stages_daily": Additive(
        _GROUP, (Sums("Average time of a stage", "stage_sum_minutes", "timed_count", "min"),), "stage"
    ),
    "kpi_pathways_daily": Additive((), (Sums("Visits by pathway", "visit_count"),)),
    "kpi_handovers_daily": Additive(
        _GROUP, (Sums("Average handover", "handover_sum_minutes", "denominator_count", "min"),)
    ),
    "kpi_shift_patterns_daily": Additive(
        _HOSPITAL,
        (
            Sums("Share of long shifts", "long_shifts_count", "shifts_count", "%"),
            Sums("Share of nights after a night", "nights_after_night_count", "nights_count", "%"),
            Sums("Share of short rests", "short_rests_count", "rests_count", "%"),
        ),
    ),
}

#: Columns that say the day of a KPI row, the one that counts first; all are days of `dim_date`.
_DAYS = ("period_date", "period_month", "service_date")
#: What a KPI table joins by, besides the references of its contract.
_CONFORMED = {"hospital_id": "dim_hospital.hospital_id"} | dict.fromkeys(_DAYS, "dim_date.calendar_date")
_KINDS = {"VARCHAR": "string", "BIGINT": "int64", "INTEGER": "int64", "SMALLINT": "int64", "BOOLEAN": "boolean"}
_KINDS |= {"DOUBLE": "double", "DATE": "dateTime", "TIMESTAMP": "dateTime"}
_WORDS = {"id": "ID", "icd": "ICD", "npi": "NPI", "lwbs": "LWBS", "news2": "NEWS2", "iso": "ISO", "zip": "ZIP"}


@dataclass(frozen=True)
class ModelColumn:
    """A column of the model.

    Attributes:
        source: as the publication calls it.
        name: as people read it.
        kind: string, int64, double, boolean or dateTime.
        is_hidden: whether it only serves joins and figures.
    """

    source: str
    name: str
    kind: str
    description: str
    is_hidden: bool


@dataclass(frozen=True)
class Kept:
    """A condition on the rows that are loaded.

    Attributes:
        column: as the publication calls it.
        value: what it is compared with; None is a missing value.
        is_equal: whether rows with the value are loaded, or all others.
    """

    column: str
    value: str | None
    is_equal: bool


@dataclass(frozen=True)
class Figure:
    """A figure: a sum, or a sum over a sum.

    Attributes:
        choose: column of which one value must be chosen, or nothing.
        is_guarded: whether numerator or denominator may be missing, so that rows count that have both.
    """

    sums: Sums
    description: str
    choose: str = ""
    is_guarded: bool = False


@dataclass(frozen=True)
class ModelTable:
    """A table of the model, and the rows of the publication's table that are loaded."""

    contract: Contract
    name: str
    columns: tuple[ModelColumn, ...]
    kept: tuple[Kept, ...] = ()
    figures: tuple[Figure, ...] = ()

    def column(self, source: str) -> ModelColumn:
        """A column by the publication's name for it."""
        return next(column for column in self.columns if column.source == source)


@dataclass(frozen=True)
class Relationship:
    """Many rows of one table belong to one row of another; tables and columns as the publication calls them."""

    table: str
    column: str
    to_table: str
    to_column: str
    is_active: bool


@dataclass(frozen=True)
class Model:
    """What a BI tool has to know about an audience's publication."""

    audience: str
    role: str
    tables: tuple[ModelTable, ...]
    relationships: tuple[Relationship, ...]

    def table(self, name: str) -> ModelTable:
        """A table by its contract's name."""
        return next(table for table in self.tables if table.contract.name == name)


def semantic_model(manifest: Mapping[str, Any]) -> Model:
    """The model of a publication."""
    protected = manifest.get("small_cells", {}).get("tables", {})
    masks = {name.split(".")[1]: columns["columns"] for name, columns in manifest["tables"].items()}
    found = []
    for name, published in masks.items():
        contract = CONTRACTS[name]
        if contract.layer in ("dimensions", "facts"):
            found.append(_plain_table(contract, published))
        elif name in ADDITIVE and (table := _additive_table(contract, published, protected.get(name))):
            found.append(table)
    return Model(manifest["audience"], manifest["role"], tuple(found), tuple(_relationships(found, masks)))


def _plain_table(contract: Contract, published: Mapping[str, Any]) -> ModelTable:
    columns = [
        _column(column, published, is_hidden=column.name.endswith("_key"))
        for column in contract.columns
        if column.name in published and column.duckdb_type in _KINDS
    ]
    # A calendar has no day that is not one.
    kept = (Kept("calendar_date", None, False),) if "calendar_date" in published else ()
    return ModelTable(contract, in_words(contract.name), tuple(columns), kept)


def _additive_table(
    contract: Contract, published: Mapping[str, Any], cells: Mapping[str, int] | None
) -> ModelTable | None:
    """A KPI table without the rows that pool others; nothing where what is published of it does not add up.

    Where small cells are protected, minutes of few are missing whose counts are there. So the totals of each hospital
    are loaded, which lack least.
    """
    how, is_protected = ADDITIVE[contract.name], cells is not None
    has_totals = "hospital_id" in how.pooled
    if cells and "suppressed_rows" in cells and not has_totals:
        return None
    narrowed = [name for name in how.pooled if is_protected and has_totals and name != "hospital_id"]
    if not {*contract.key, *how.pooled} <= set(published):
        return None
    figures = tuple(_figures(contract, how, published, is_protected))
    summed = {name for figure in figures for name in (figure.sums.numerator, figure.sums.denominator)}
    columns = [
        _column(column, published, is_hidden=column.name in summed | {*_CONFORMED} or column.name.endswith("_key"))
        for column in contract.columns
        if column.name in published
        and column.duckdb_type in _KINDS
        and column.name not in narrowed
        and (column.name in summed or column.name in contract.key or column.duckdb_type in ("DATE", "VARCHAR"))
    ]
    kept = tuple(Kept(name, ALL, name in narrowed) for name in how.pooled)
    return ModelTable(contract, in_words(contract.name), tuple(columns), kept, figures) if figures else None


def _figures(contract: Contract, how: Additive, published: Mapping[str, Any], is_protected: bool) -> Iterator[Figure]:
    """Each figure, and the n of those that are divided."""
    is_rate = "numerator_count" in contract.column_names
    shares = [measure for measure in contract.measures if is_rate and "%" in measure.unit][:1]
    others = [measure for measure in contract.measures if measure not in shares] or shares
    found = [(sums, others) for sums in how.sums]
    found += [(Sums(share.name, "numerator_count", "denominator_count", "%"), [share]) for share in shares]
    chosen = f" Choose one {in_words(how.choose).lower()}: they count the same again." if how.choose else ""
    for sums, measures in found:
        parts = [name for name in (sums.numerator, sums.denominator) if name]
        if not set(parts) <= set(published):
            continue
        of = " over the sum of ".join(f"`{part}`" for part in parts)
        of += f", of each known `{sums.among}` that has any `{sums.denominator}`" if sums.among else ""
        defined = " ".join(measure.description for measure in measures).replace("**", "")
        may_miss = is_protected or any(contract.column(part).nullable for part in parts)
        yield Figure(sums, f"Sum of {of}.{chosen} {defined}".strip(), how.choose, may_miss and len(parts) == 2)
        if sums.denominator:
            n = Sums(f"{sums.name} (n)", sums.denominator)
            yield Figure(n, f"The n of {sums.name}: sum of `{sums.denominator}`.{chosen}", how.choose)


def _column(column: Column, published: Mapping[str, Any], *, is_hidden: bool) -> ModelColumn:
    is_text = published[column.name]["mask"].startswith(("age_band", "json_keys"))
    unit = f" Unit: {column.unit}." if column.unit else ""
    kind = "string" if is_text else _KINDS[column.duckdb_type]
    return ModelColumn(column.name, in_words(column.name), kind, f"{column.description}{unit}", is_hidden)


def _relationships(tables: list[ModelTable], masks: Mapping[str, Any]) -> Iterator[Relationship]:
    """From facts and KPIs to dimensions, and between dimensions.

    Of two tables one relationship is active, and none between dimensions: there is one way from a row to another.
    """
    there = {table.contract.name: {column.source for column in table.columns} for table in tables}
    for table in tables:
        name, is_kpi, active = table.contract.name, table.contract.layer == "kpis", set()
        order = [*(day for day in _DAYS if is_kpi), *(column.source for column in table.columns)]
        for source in dict.fromkeys(order):
            if source not in there[name]:
                continue
            references = table.contract.column(source).references or (_CONFORMED.get(source, "") if is_kpi else "")
            to_table, _, to_column = references.partition(".")
            if to_column not in there.get(to_table, ()) or masks[to_table][to_column]["mask"] not in ("clear", "token"):
                continue
            is_active = table.contract.layer != "dimensions" and to_table not in active
            active.add(to_table)
            yield Relationship(name, source, to_table, to_column, is_active)


def rows_of(table: ModelTable, schema: str) -> str:
    """The query for the rows and columns of a table that the model has, as SQL."""
    columns = ", ".join(quoted(column.source) for column in table.columns)
    where = " and ".join(_condition(kept) for kept in table.kept)
    return f"select {columns} from {quoted(schema)}.{quoted(table.contract.name)}{f' where {where}' if where else ''}"


def _condition(kept: Kept) -> str:
    if kept.value is None:
        return f"{quoted(kept.column)} is {'' if kept.is_equal else 'not '}null"
    return f"{quoted(kept.column)} {'=' if kept.is_equal else '<>'} {literal(kept.value)}"


def in_words(name: str) -> str:
    """A table's or column's name as people read it: `dim_hospital` is Hospital, `wait_sum_minutes` Wait sum minutes."""
    text = name.removeprefix("dim_").removeprefix("fact_").removeprefix("kpi_")
    words = " ".join(_WORDS.get(word, word) for word in text.split("_"))
    return words[:1].upper() + words[1:]
