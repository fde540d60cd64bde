"""The attack of a solver on the small cells of whole publications.

Every count of every protected table is an unknown. What an attacker knows is written down as linear constraints: how
numbers are rounded (but not the lot), that totals are the sums of their parts, within a row, within a table and from
table to table, that a part is no more than its whole, and, where two versions are compared, that the older one lacks
visits. Then each count of 1 to 10 is made as small and as large as it can be.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import pytest

from hospital_assets.automation.build import BuildReport
from hospital_assets.contracts import CONTRACTS
from hospital_assets.publishing.publications import open_publication
from hospital_assets.publishing.small_cells import _SPLITS, _WHOM, _lines_of_table
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets_tests.helpers import run, warehouse_copy
from hospital_assets_tests.test_governance import NOW, SHIPPED, make

highspy = pytest.importorskip("highspy")

BASE, CELLS = SHIPPED.small_cells.base, SHIPPED.small_cells
#: A count that is shown as n can be every number from n - 4 to n + 4.
REACH = BASE - 1
#: Lots are fractions; a little less than the base is less than it.
ALMOST = BASE - 1e-4

DAY = date(2026, 3, 9)

Row = Mapping[str, Any]
#: Table, key, column.
Cell = tuple[Any, ...]


@dataclass
class Version:
    """One version of a publication: what is shown, and what is true."""

    shown: dict[str, list[Row]]
    true: dict[str, dict[tuple[Any, ...], Row]]


def version_of(settings: Settings) -> Version:
    """The publications of an executive and of an admin, table by table."""

    def read(audience: str) -> dict[str, list[Row]]:
        with open_publication(settings.data_dir, audience) as publication:
            found = {}
            for name in (*CELLS.rounded, *CELLS.suppress):
                if name in SHIPPED.roles["executive"].without:
                    continue
                result = publication.connection.execute(f"select * from {CONTRACTS[name].qualified_name}")
                names = [str(column[0]) for column in result.description]
                found[name] = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
            return found

    true = {
        name: {tuple(row[c] for c in CONTRACTS[name].key): row for row in rows} for name, rows in read("admin").items()
    }
    return Version(read("executive"), true)


@pytest.fixture(scope="module")
def two_versions(built: tuple[Settings, BuildReport], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Version]:
    """Yesterday's, without the last day and without visits of the days before that came late; and today's."""
    found = {}
    for name in ("yesterday", "today"):
        settings = warehouse_copy(built[0], tmp_path_factory.mktemp(name))
        if name == "yesterday":
            with open_warehouse(settings.warehouse_file) as warehouse:
                late = "service_date = '2026-03-12' or hash(visit_id) % 20 = 0"
                for fact in ("fact_emergency_visits", "fact_vitals"):
                    warehouse.connection.execute(f"delete from facts.{fact} where {late}")
            settings.landing.mkdir()
            report = run(settings, select="group:kpis")
            assert not report.failures
        for audience in ("admin", "executive"):
            make(settings, audience, NOW + timedelta(days=name == "today"))
        found[name] = version_of(settings)
    return found


@dataclass
class Model:
    """Unknown counts, and what is known of them."""

    highs: Any = field(default_factory=highspy.Highs)
    of_cell: dict[Cell, Any] = field(default_factory=dict)
    of_lot: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    shown: dict[Cell, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.highs.setOptionValue("output_flag", False)

    def unknown(self, cell: Cell, shown: int | None) -> Any:
        """The count in a cell."""
        if cell not in self.of_cell:
            self.of_cell[cell] = self.highs.addVariable(lb=0, ub=100_000, type=highspy.HighsVarType.kInteger)
            self.shown[cell] = shown
        return self.of_cell[cell]

    def lot(self, whom: tuple[Any, ...]) -> Any:
        """What counts are rounded with, the same in all tables and versions that tell when, where and of whom alike."""
        if whom not in self.of_lot:
            self.of_lot[whom] = self.highs.addVariable(lb=0, ub=ALMOST)
        return self.of_lot[whom]

    def know(self, constraint: Any) -> None:
        """What is known of the unknown."""
        self.highs.addConstr(constraint)

    def bounds(self, cell: Cell) -> tuple[int, int]:
        """The least and the most that a count can be."""
        found = []
        for optimise in (self.highs.minimize, self.highs.maximize):
            optimise(self.of_cell[cell])
            assert self.highs.getModelStatus() == highspy.HighsModelStatus.kOptimal, cell
            found.append(round(self.highs.getObjectiveValue()))
        return found[0], found[1]


def counts_of(name: str, row: Row) -> list[str]:
    """The rounded counts of a table, in the order of its contract."""
    how = CELLS.rounded[name]
    return [c for c in CONTRACTS[name].column_names if c.endswith("_count") and c in row and c not in how.except_counts]


def is_finest(name: str, row: Row) -> bool:
    return all(row[c] != "all" for c in CONTRACTS[name].key)


def period_of(name: str) -> str | None:
    """The column of a table that says when; None of a table of the whole time."""
    return next((c for c in ("service_date", "period_month", "period_year") if c in CONTRACTS[name].key), None)


def tables_by(version: Version, period: str) -> list[str]:
    """Rounded tables of a day, a month or a year at a hospital."""
    return [
        name
        for name in version.shown
        if name in CELLS.rounded and period_of(name) == period and "hospital_id" in CONTRACTS[name].key
    ]


def rows_of(version: Version, name: str, when: object, hospital: str) -> list[Row]:
    """The finest rows of a day (month, year) at a hospital, as they are rounded one after the other."""
    apart = [c for c in _SPLITS if c in CONTRACTS[name].key]
    rows = [
        row
        for row in version.shown[name]
        if row[str(period_of(name))] == when and row["hospital_id"] == hospital and is_finest(name, row)
    ]
    return sorted(rows, key=lambda row: tuple(str(row[c]) for c in apart))


def know_rows(model: Model, name: str, rows: Sequence[Row], tag: str) -> None:
    """What follows from the rows of one table: each begins where the one before it ended."""
    how, contract = CELLS.rounded[name], CONTRACTS[name]
    parted = contract.key if any(c in contract.key for c in _SPLITS) else ()
    # What is asked of the same patients (a limit, a stage) is no part of the order.
    others = [c for c in contract.key if c not in _SPLITS]
    series: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        series[tuple(row[c] for c in others)].append(row)
    for members in series.values():
        before, shown_before = 0, 0
        for row in members:
            counts = [c for c in counts_of(name, row) if row[c] is not None]
            key = tuple(row[c] for c in contract.key)
            unknown = {c: model.unknown((tag, name, *key, c), row[c]) for c in counts}
            taken = set(how.renamed) if how.renamed else set()
            lot = model.lot(tuple((c, row[c]) for c in _WHOM if c in contract.key))
            start = lot + before - shown_before if parted else lot + 0
            if not how.sum_of:
                cumulated = dict.fromkeys(counts, (0, 0))
                for parts in contract.adds_up.values():
                    of_row = [c for c in parts if c in unknown]
                    for at, column in enumerate(of_row):
                        cumulated[column] = (sum(unknown[c] for c in of_row[:at]), sum(row[c] for c in of_row[:at]))
                for column in counts:
                    earlier, shown_earlier = cumulated[column]
                    ends = start + earlier + unknown[column] - shown_earlier - row[column]
                    model.know(ends >= 0)
                    model.know(ends <= ALMOST)
            for whole, parts in contract.adds_up.items():
                if whole in unknown and all(c in unknown for c in parts):
                    model.know(unknown[whole] == sum(unknown[c] for c in parts))
            for part, whole in how.shares.values():
                if part in unknown and whole in unknown:
                    model.know(unknown[part] <= unknown[whole])
            if parted and counts and counts[0] not in taken:
                before, shown_before = before + unknown[counts[0]], shown_before + row[counts[0]]


def sums_of(version: Version, period: str, when: object, hospital: str) -> dict[tuple[str, str, str], list[Cell]]:
    """Table, what is asked of the patients, count -> the finest cells that add up to it."""
    found: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    for name in tables_by(version, period):
        for row in rows_of(version, name, when, hospital):
            key = CONTRACTS[name].key
            asked = "|".join(str(row[c]) for c in key if c not in (*_SPLITS, period, "hospital_id"))
            for column in counts_of(name, row):
                if row[column] is not None:
                    found[name, asked, column].append((name, *(row[c] for c in key), column))
    return found


def same_numbers(version: Version, period: str) -> list[set[tuple[str, str, str]]]:
    """Sums that are the same at every hospital and time, in different tables: what an attacker knows by their meaning.

    Those that are 0 mostly may be the same by chance.
    """
    places = {(row[period], row["hospital_id"]) for name in tables_by(version, period) for row in version.shown[name]}
    values: dict[tuple[str, str, str], dict[object, int]] = defaultdict(dict)
    for place in places:
        for what, cells in sums_of(version, period, *place).items():
            values[what][place] = sum(version.true[name][tuple(key)][column] for name, *key, column in cells)
    groups: dict[tuple[Any, ...], set[tuple[str, str, str]]] = defaultdict(set)
    for what, numbers in values.items():
        if 2 * sum(n > 0 for n in numbers.values()) > len(places) and len(set(numbers.values())) > 2:
            groups[tuple(sorted(numbers.items(), key=str))].add(what)
    return [group for group in groups.values() if len(group) > 1]


def attack(versions: Mapping[str, Version], period: str, when: object, hospital: str) -> Model:
    """What is known of the counts of a day (month, year) at a hospital, from all versions together."""
    model = Model()
    for tag, version in versions.items():
        for name in tables_by(version, period):
            know_rows(model, name, rows_of(version, name, when, hospital), tag)
        sums = sums_of(version, period, when, hospital)
        for group in same_numbers(version, period):
            first, *others = (
                sum(model.of_cell[tag, *cell] for cell in sums[what]) + 0 for what in sorted(group) if what in sums
            )
            for other in others:
                model.know(first == other)
    know_later(model, list(versions))
    return model


def know_later(model: Model, tags: Sequence[str]) -> None:
    """Visits come late; none goes."""
    for earlier, later in itertools.pairwise(tags):
        for _, *rest in [cell for cell in model.of_cell if cell[0] == earlier]:
            if (later, *rest) in model.of_cell and rest[-1] in ("visit_count", "population_count", "arrivals_count"):
                model.know(model.of_cell[earlier, *rest] <= model.of_cell[later, *rest])


def attack_characteristics(versions: Mapping[str, Version], name: str) -> Model:
    """What is known of the counts of patients by a characteristic, some of which are left out."""
    model, how, contract = Model(), CELLS.suppress[name], CONTRACTS[name]
    for tag, version in versions.items():
        for column in how.counts:
            cells = {}
            for row in version.shown[name]:
                key = tuple(row[c] for c in contract.key)
                cells[name, *key] = model.unknown((tag, name, *key, column), row[column])
                if row[column] is not None and row["hospital_id"] != "all":
                    lot = model.lot(tuple((c, row[c]) for c in _WHOM if c in contract.key))
                    ends = lot + cells[name, *key] - row[column]
                    model.know(ends >= 0)
                    model.know(ends <= ALMOST)
            for line in _lines_of_table(contract, how.parts, cells):
                if line.total is not None and column != "patient_count":
                    model.know(sum(cells[c] for c in line.parts) + 0 == cells[line.total])
    know_later(model, list(versions))
    return model


def small_cells(model: Model, versions: Mapping[str, Version]) -> dict[tuple[Any, ...], list[tuple[Cell, int]]]:
    """Version, table, column -> cells whose true count is from 1 to 10."""
    found: dict[tuple[Any, ...], list[tuple[Cell, int]]] = defaultdict(list)
    for tag, name, *key, column in model.of_cell:
        true = versions[tag].true[name][tuple(key)][column]
        if 0 < (true or 0) < CELLS.threshold:
            found[tag, name, column].append(((tag, name, *key, column), true))
    return found


@pytest.mark.nightly
@pytest.mark.parametrize("compared", [("today",), ("yesterday", "today")], ids=["one version", "two versions"])
def test_no_count_of_few_is_known_better_than_the_bound(
    two_versions: Mapping[str, Version], compared: Sequence[str]
) -> None:
    versions = {tag: two_versions[tag] for tag in compared}
    draw, tried = random.Random(5), set()
    day, month, year = DAY, DAY.replace(day=1), DAY.year
    for period, when, hospital in (
        ("service_date", day, "H1"),
        ("period_month", month, "H2"),
        ("period_year", year, "H1"),
    ):
        model = attack(versions, period, when, hospital)
        for (tag, name, column), cells in small_cells(model, versions).items():
            cell, true = draw.choice(cells)
            least, most = model.bounds(cell)
            shown = model.shown[cell] or 0
            assert least <= true <= most, (cell, least, true, most)
            if len(compared) == 1:
                assert least <= max(0, shown - REACH) and most >= shown + REACH, (cell, shown, least, most)
            # Who comes late to one row moves where the rows after it begin: what is shown of them may be a step less.
            assert most - least >= REACH - 1, (cell, shown, least, most)
            tried.add((tag, name, column))
    assert len(tried) > 40 * len(compared)


@pytest.mark.nightly
@pytest.mark.parametrize("name", CELLS.suppress)
def test_no_count_that_is_left_out_is_known_better_than_the_bound(
    two_versions: Mapping[str, Version], name: str
) -> None:
    model = attack_characteristics(two_versions, name)
    draw = random.Random(6)
    tried = 0
    for cells in small_cells(model, two_versions).values():
        for cell, true in draw.sample(cells, min(6, len(cells))):
            least, most = model.bounds(cell)
            assert least <= true <= most, (cell, least, true, most)
            assert most - least >= 2 * REACH, (cell, least, most)
            tried += 1
    assert tried


@pytest.mark.nightly
def test_the_attack_finds_a_count_that_is_rounded_twice(two_versions: Mapping[str, Version]) -> None:
    """Were a table rounded by a lot of its own, the same number would be known better."""
    today = two_versions["today"]
    model = attack({"today": today}, "service_date", DAY, "H1")
    cells = small_cells(model, {"today": today})["today", "kpi_waits_daily", "visit_count"]
    cell = next(cell for cell, true in cells if (model.shown[cell] or 0) > 0)
    ends = model.of_cell[cell] + model.highs.addVariable(lb=0, ub=ALMOST) - (model.shown[cell] or 0) - 3
    model.know(ends >= 0)
    model.know(ends <= ALMOST)
    least, _ = model.bounds(cell)
    assert least > max(0, (model.shown[cell] or 0) - REACH)
