"""Schema drift: whatever a source does to its columns, nothing is misread, and it is said."""

from __future__ import annotations

import json
import tempfile
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hospital_assets.contracts import fields
from hospital_assets.contracts.table import Table
from hospital_assets.landing.drift import ADVICE, Drift, drifts
from hospital_assets.landing.profile import canonical_columns
from hospital_assets.landing.registry import load_profiles
from hospital_assets.landing.zone import LandingZone
from hospital_assets.warehouse.database import Period, Warehouse, scratch_connection
from hospital_assets.warehouse.dialect import lazy
from hospital_assets.warehouse.errors import WarehouseError
from hospital_assets_tests.helpers import zone_in

SPEC = load_profiles(None)["native"].subjects["er_visits"]
#: Those that native files have.
COLUMNS = tuple(column for column in canonical_columns("er_visits") if SPEC.source_names(column))
FIRST_NAMES = {column: SPEC.source_names(column)[0] for column in COLUMNS}
ALIASES = {c: SPEC.source_names(c)[1] for c in COLUMNS if len(SPEC.source_names(c)) > 1}
PERIOD = Period(date(2026, 1, 1), date(2027, 1, 1))


def zone_at(folder: Path) -> LandingZone:
    native = folder / "landing" / "native"
    for name in ("hospitals", "er_visits"):
        (native / name).mkdir(parents=True)
    (native / "hospitals" / "hospitals.csv").write_text("hospital_id,hospital_name,time_zone\nH1,One,America/Chicago\n")
    return zone_in(folder, scratch_connection())


def land(zone: LandingZone, name: str, columns: dict[str, str], rows: int = 3) -> None:
    """A file whose header is `columns` (landed name -> our column); values tell where they belong."""
    lines = [",".join(columns)]
    lines += [
        ",".join(
            "2026-01-15 10:00:00" if ours == "arrival_time" else f"{name}-{ours}-{row}" for ours in columns.values()
        )
        for row in range(rows)
    ]
    (zone.landing / "native" / "er_visits" / name).write_text("\n".join(lines) + "\n")


def verdicts(found: list[Drift]) -> set[tuple[str, str]]:
    return {(drift.column, drift.verdict) for drift in found}


@pytest.mark.nightly
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_random_changes_are_read_by_name_and_named(data: st.DataObject) -> None:
    absent = data.draw(st.sets(st.sampled_from(COLUMNS), max_size=6))
    renamed = data.draw(st.sets(st.sampled_from(sorted(ALIASES))))
    extra = data.draw(st.sets(st.sampled_from(["x1", "x2", "Patient Mood"]), max_size=3))
    header = {(ALIASES[c] if c in renamed else FIRST_NAMES[c]): c for c in COLUMNS if c not in absent} | {
        name: name for name in extra
    }
    order = data.draw(st.permutations(list(header)))
    with tempfile.TemporaryDirectory() as folder:
        zone = zone_at(Path(folder))
        land(zone, "usual_1.csv", {FIRST_NAMES[c]: c for c in COLUMNS})
        land(zone, "usual_2.csv", {FIRST_NAMES[c]: c for c in COLUMNS})
        land(zone, "odd.csv", {name: header[name] for name in order})
        ledger = zone.discover()
        raw = zone.read("er_visits", ledger, PERIOD).collect("polars").to_native()
        zone.connection.close()
    missing = set(absent) & set(SPEC.required)
    state = ledger.row(by_predicate=pl.col("source_file").str.ends_with("odd.csv"), named=True)
    assert state["state"] == ("missing_column" if missing else "ready")
    # The other versions of the feed are never disturbed.
    assert raw.filter(pl.col("source_file").str.contains("usual")).height == 6
    odd = raw.filter(pl.col("source_file").str.ends_with("odd.csv")).sort("source_line")
    assert odd.height == (0 if missing else 3)
    for row, record in enumerate(odd.iter_rows(named=True)):
        whole = json.loads(record["record"])
        assert set(whole) == set(header)  # every landed column is kept, word for word
        for ours in COLUMNS:
            if ours in absent:
                assert record[ours] is None
            elif ours != "arrival_time":
                assert record[ours] == f"odd.csv-{ours}-{row}"
    said = verdicts(drifts(ledger, load_profiles(None)))
    expected = {(name, "new") for name in extra}
    expected |= {(ours, "alias") for ours in renamed - absent}
    expected |= {(ours, "blocked" if ours in missing else "missing") for ours in absent}
    assert said - {("", "reordered")} == expected
    assert {verdict for _, verdict in said} <= set(ADVICE)


def test_three_versions_of_a_feed_at_once(tmp_path: Path) -> None:
    zone = zone_at(tmp_path)
    usual = {FIRST_NAMES[c]: c for c in COLUMNS}
    land(zone, "v1.csv", usual)
    land(zone, "v2.csv", {("triage_acuity" if n == "triage_level" else n): c for n, c in usual.items()})
    land(zone, "v3.csv", {**{n: c for n, c in usual.items() if c != "doctor_id"}, "ward": "ward"})
    ledger = zone.discover()
    raw = zone.read("er_visits", ledger, PERIOD).collect("polars").to_native()
    assert raw.height == 9
    assert raw["triage_level"].null_count() == 0 and raw["doctor_id"].null_count() == 3
    assert verdicts(drifts(ledger, zone.profiles)) == {
        ("triage_level", "alias"),
        ("ward", "new"),
        ("doctor_id", "missing"),
    }
    zone.connection.close()


@pytest.mark.parametrize("gone", SPEC.required)
def test_a_required_column_blocks_its_file_only(tmp_path: Path, gone: str) -> None:
    zone = zone_at(tmp_path)
    usual = {FIRST_NAMES[c]: c for c in COLUMNS}
    land(zone, "good.csv", usual)
    land(zone, "bad.csv", {name: c for name, c in usual.items() if c != gone})
    ledger = zone.discover()
    assert zone.read("er_visits", ledger, PERIOD).collect("polars").to_native().height == 3
    (drift,) = drifts(ledger, load_profiles(None))
    assert (drift.column, drift.verdict, drift.files) == (gone, "blocked", 1)
    assert drift.first_file == "native/er_visits/bad.csv"
    zone.connection.close()


def test_a_column_that_holds_something_else_is_named(tmp_path: Path) -> None:
    def file(name: str, levels: list[str], arrival: str = "2026-01-15 10:00:00") -> None:
        lines = [f"V{name}{n},P{n},H1,{arrival},{level}" for n, level in enumerate(levels)]
        header = "visit_id,patient_id,hospital_id,arrival_time,triage_level"
        target = zone.landing / "native" / "er_visits" / f"{name}.csv"
        target.write_text("\n".join([header, *lines]) + "\n")

    zone = zone_at(tmp_path)
    for day in range(3):
        file(f"usual_{day}", ["1", "2", "3", "4", "5"] * 4)
    file("dirty", ["3", "", "3"] * 6 + ["three", ""])  # dirt is no change of the feed
    file("few", ["low", "high"])  # two values say nothing
    assert drifts(zone.discover(), zone.profiles) == []
    file("words", ["low", "high"] * 10)
    file("epoch", ["3"] * 20, arrival="1768471200")
    found = {(d.column, d.verdict, d.first_file) for d in drifts(zone.discover(), zone.profiles)}
    assert found == {
        ("triage_level", "retyped", "native/er_visits/words.csv"),
        ("arrival_time", "retyped", "native/er_visits/epoch.csv"),
    }
    zone.connection.close()


def test_a_new_field_of_a_json_feed_is_named_and_kept(tmp_path: Path) -> None:
    zone = zone_at(tmp_path)
    folder = zone.landing / "native" / "vitals"
    folder.mkdir()

    def file(name: str, **more: object) -> None:
        lines = [
            json.dumps(
                {
                    "observation_id": f"{name}{n}",
                    "patient_id": "P1",
                    "hospital_id": "H1",
                    "measured_at": "2026-01-15T10:00:00Z",
                    "vitals": {},
                    **more,
                }
            )
            for n in range(12)
        ]
        (folder / f"{name}.json").write_text("\n".join(lines) + "\n")

    file("a")
    file("b", device_id="D1")  # a field the profile names, absent elsewhere, is no drift
    assert drifts(zone.discover(), zone.profiles) == []
    file("c", mood="calm")
    ledger = zone.discover()
    (drift,) = drifts(ledger, load_profiles(None))
    assert (drift.column, drift.verdict, drift.first_file) == ("mood", "new", "native/vitals/c.json")
    raw = zone.read("vitals", ledger, PERIOD).collect("polars").to_native()
    assert raw.filter(pl.col("record").str.contains('"mood": "calm"')).height == 12
    zone.connection.close()


# Adopting a column: the contract gains it ---------------------------------------------------------


class Before(Table, name="readings", layer="facts", key=("reading_id",), partitioned=True, grain="x"):
    """Readings before."""

    reading_id = fields.text("Id.")


class After(Table, name="readings", layer="facts", key=("reading_id",), partitioned=True, grain="x"):
    """Readings with one column more."""

    reading_id = fields.text("Id.")
    mood = fields.text("Mood.", nullable=True)


class Demanding(Table, name="readings", layer="facts", key=("reading_id",), partitioned=True, grain="x"):
    """Readings with a column that must have a value."""

    reading_id = fields.text("Id.")
    mood = fields.text("Mood.")


def test_an_adopted_column_is_null_in_history_and_there_from_then_on(warehouse: Warehouse) -> None:
    def another() -> Warehouse:
        """As another process has it, with a contract of its own."""
        return Warehouse(warehouse.file, warehouse.connection)

    first, second = date(2026, 1, 1), date(2026, 1, 2)
    old = pl.DataFrame({"service_date": [first], "reading_id": ["a"]})
    warehouse.replace(Before.contract(), lazy(old), Period(first, second))
    with pytest.raises(WarehouseError, match="mood is required by the contract but not stored"):
        another().replace(Demanding.contract(), lazy(old.with_columns(mood=pl.lit("x"))), Period(first, second))
    new = pl.DataFrame({"service_date": [second], "reading_id": ["b"], "mood": ["good"]})
    another().replace(After.contract(), lazy(new), Period(second, date(2026, 1, 3)))
    rows = warehouse.read(After.contract()).collect("polars").to_native().sort("reading_id")
    assert rows["mood"].to_list() == [None, "good"]
    # Read before it is written again, the column is null.
    older = pl.DataFrame({"service_date": [first], "reading_id": ["a"]})
    warehouse.connection.execute("drop table facts.readings")
    another().replace(Before.contract(), lazy(older), Period(first, second))
    unwritten = another().read(After.contract()).collect("polars").to_native()
    assert unwritten.select("reading_id", "mood").rows() == [("a", None)]
    another().replace(After.contract(), lazy(new), Period(second, date(2026, 1, 3)))
    # An older process that does not know the column stores nothing rather than something else.
    with pytest.raises(WarehouseError, match="mood is stored but not in the contract"):
        another().replace(Before.contract(), lazy(old), Period(first, second))
