"""What a failed check shows: records by landed line, the SQL, what to do; never a value of a record."""

from __future__ import annotations

from datetime import date

import narwhals as nw
import polars as pl
import pytest

from hospital_assets.checks import kinds
from hospital_assets.checks.evidence import MOST_RECORDS, evidence
from hospital_assets.checks.findings import result
from hospital_assets.checks.rules import Rule, run_rules
from hospital_assets.contracts import CONTRACTS
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.dialect import lazy
from hospital_assets.warehouse.errors import WarehouseError
from hospital_assets_tests.helpers import checked

DAY = date(2026, 3, 5)


def stored(warehouse: Warehouse, table: str, **columns: list[object]) -> None:
    """A table with some columns, and in the others what is needed to be stored."""
    contract = CONTRACTS[table]
    height = len(next(iter(columns.values())))
    frame = pl.DataFrame(
        {c.name: pl.Series(c.name, columns.get(c.name, [None] * height), c.dtype) for c in contract.columns}
    )
    warehouse.connection.execute(f"create schema if not exists {contract.layer}")
    columns_sql = ", ".join(f"{c.name} {c.duckdb_type}" for c in contract.columns)
    warehouse.connection.execute(f"create table {contract.qualified_name} ({columns_sql})")
    warehouse.connection.from_arrow(frame.to_arrow()).insert_into(contract.qualified_name)


RULE = Rule(kinds.PLAUSIBLE, "", "temperature_c", "no fever", nw.col("temperature_c") > 40)


@pytest.fixture
def vitals(warehouse: Warehouse) -> Warehouse:
    numbers = list(range(25))
    stored(
        warehouse,
        "cleaned_vitals",
        service_date=[DAY] * 25,
        observation_id=[f"secret-{n}" for n in numbers],
        source_file=["a.json"] * 25,
        source_line=numbers,
        source_part=[1] * 25,
        temperature_c=[41.5] * 25,
    )
    stored(
        warehouse,
        "fact_vitals",
        service_date=[DAY] * 25,
        observation_id=[f"secret-{n}" for n in numbers],
        temperature_c=[41.5] * 3 + [36.5] * 22,
    )
    return warehouse


@pytest.mark.parametrize(("table", "count"), [("cleaned_vitals", MOST_RECORDS), ("fact_vitals", 3)])
def test_records_are_named_by_their_landed_line(vitals: Warehouse, table: str, count: int) -> None:
    contract = CONTRACTS[table]
    _, (found,) = run_rules([RULE], vitals.read(contract))
    shown = evidence(vitals, contract, [found])
    places = [record.data["record"] for record in shown["records"].records]
    assert places == [f"a.json:{n}" for n in range(count)]
    assert "hospital check --day DAY --table " + table in shown["what_to_do"].value
    assert not any("secret" in str(value.value) or "41.5" in str(value.value) for value in shown.values())
    seen = result(table, RULE.kind, [found], shown)
    assert not seen.passed
    assert {"records", "sql", "what_to_do"} <= set(seen.metadata)


def test_the_sql_finds_the_rows_again(vitals: Warehouse) -> None:
    contract = CONTRACTS["fact_vitals"]
    _, (found,) = run_rules([RULE], vitals.read(contract))
    sql = evidence(vitals, contract, [found])["sql"].value.removeprefix("```sql\n").removesuffix("\n```")
    assert vitals.connection.execute(sql).fetchall().__len__() == 3


def test_a_kpi_is_named_by_its_day_and_hospital(warehouse: Warehouse) -> None:
    contract = CONTRACTS["kpi_lwbs_daily"]
    stored(
        warehouse,
        contract.name,
        service_date=[DAY] * 2,
        hospital_id=["H1", "all"],
        population_count=[3, 4],
        denominator_count=[3, 3],
        numerator_count=[1, 1],
        excluded_cancelled_count=[0, 0],
        excluded_unknown_count=[0, 0],
    )
    found = checked(contract, warehouse.read(contract), kinds.ADDS_UP)[kinds.ADDS_UP]
    shown = evidence(warehouse, contract, found)
    assert [record.data["record"] for record in shown["records"].records] == [f"service_date {DAY}, hospital_id all"]
    assert "hospital explain" in shown["what_to_do"].value


def test_the_lines_that_share_a_key_are_named(vitals: Warehouse) -> None:
    contract = CONTRACTS["cleaned_vitals"]
    vitals.connection.execute("update cleaned.cleaned_vitals set observation_id = 'secret-0' where source_line = 7")
    found = checked(contract, vitals.read(contract), kinds.KEY)[kinds.KEY]
    shown = evidence(vitals, contract, found)
    assert [record.data["record"] for record in shown["records"].records] == ["a.json:0", "a.json:7"]


def test_a_row_of_a_surrogate_key_is_found_by_its_natural_one(warehouse: Warehouse) -> None:
    """Inside a transaction, as in `hospital watch`: an error of what helps to look further would end it."""
    contract = CONTRACTS["dim_patient"]
    for table, key in (("cleaned_patients", {}), ("dim_patient", {"patient_key": [1, 2]})):
        lines = {"source_file": ["a.csv"] * 2, "source_line": [2, 3], "source_part": [1, 1]}
        stored(warehouse, table, patient_id=["secret-1", "secret-2"], **(key or lines))
    rule = Rule(kinds.PLAUSIBLE, "", "insurer", "is known", nw.col("insurer").is_null())
    with warehouse.transaction():
        found = list(run_rules([rule], warehouse.read(contract))[1])
        shown = evidence(warehouse, contract, found)
        warehouse.connection.execute("create table main.goes_on as select 1")
    assert [record.data["record"] for record in shown["records"].records] == ["a.csv:2", "a.csv:3"]


def test_an_error_that_ends_the_transaction_is_not_passed_over(
    vitals: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> list[str]:
        vitals.connection.execute("select observation_id::integer from facts.fact_vitals").fetchall()
        return []

    monkeypatch.setattr("hospital_assets.checks.evidence._places", failing)
    contract = CONTRACTS["fact_vitals"]
    found = list(run_rules([RULE], vitals.read(contract))[1])
    assert "records" not in evidence(vitals, contract, found)
    with (
        pytest.raises(WarehouseError, match="fact_vitals could not be checked: Conversion") as raised,
        vitals.transaction(),
    ):
        evidence(vitals, contract, found)
    assert "secret" not in str(raised.value)


def test_what_passed_shows_nothing_more(vitals: Warehouse) -> None:
    frame = lazy(pl.DataFrame({"temperature_c": [36.5]}))
    assert evidence(vitals, CONTRACTS["fact_vitals"], [*run_rules([RULE], frame)[1]]) == {}
