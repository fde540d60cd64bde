"""From a figure to its rows and landed records: proved against the stored tables, and what it may not show."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from hospital_assets.automation.build import BuildReport
from hospital_assets.cli import main
from hospital_assets.contracts import CONTRACTS
from hospital_assets.definitions import build_definitions
from hospital_assets.publishing.audience import Audience
from hospital_assets.publishing.policy import load_policy
from hospital_assets.publishing.pseudonyms import SecretKey
from hospital_assets.publishing.publications import WithdrawnError
from hospital_assets.reports import changes
from hospital_assets.reports.changes import changed_rows, reason, version_before
from hospital_assets.reports.explain import Asked, ExplainError, landed_records, rows_behind, stored_row
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets_tests.helpers import publish, query, warehouse_copy

DAY = date(2026, 3, 8)
WAITS = CONTRACTS["kpi_waits_daily"]
SINCE = datetime(2026, 3, 9, tzinfo=UTC)
BEFORE, AFTER = datetime(2026, 3, 8, tzinfo=UTC), datetime(2026, 3, 10, tzinfo=UTC)

rows = pl.DataFrame(
    {
        "service_date": [DAY] * 3,
        "hospital_id": ["H1", "H1", "all"],
        "department_name": ["all", "Surgery", "all"],
        "triage_group": ["all", "2", "all"],
    }
)


def test_the_row_that_pools_all_is_meant_unless_another_is_named() -> None:
    assert stored_row(Asked(WAITS, "", "H1", DAY), rows)["department_name"] == "all"
    named = Asked(WAITS, "", "H1", DAY, {"department_name": "Surgery"})
    assert stored_row(named, rows)["triage_group"] == "2"


def test_a_figure_that_is_not_there_is_refused_with_what_to_name() -> None:
    with pytest.raises(ExplainError, match="no row with hospital_id = H9"):
        stored_row(Asked(WAITS, "", "H9", DAY), rows)
    with pytest.raises(ExplainError, match="no key ward"):
        stored_row(Asked(WAITS, "", "H1", DAY, {"ward": "2"}), rows)
    several = rows.with_columns(triage_group=pl.Series(["1", "2", "all"]), department_name=pl.lit("x"))
    with pytest.raises(ExplainError, match=r"name triage_group=1\|2"):
        stored_row(Asked(WAITS, "", "H1", DAY), several)


@pytest.mark.parametrize(
    ("what", "columns", "seen", "why"),
    [
        ("new", [], [AFTER], "late data"),
        ("new", [], [BEFORE, AFTER], "correction"),
        ("changed", ["wait_minutes"], [BEFORE, AFTER], "correction"),
        ("changed", ["patient_key"], [BEFORE], "merge"),
        ("changed", ["condition_key"], [BEFORE], "built anew"),
        ("gone", [], [BEFORE, AFTER], "correction"),
        ("gone", [], [], "erased"),
    ],
)
def test_why_a_row_changed_is_read_off_its_records(
    what: str, columns: list[str], seen: list[datetime], why: str
) -> None:
    assert reason(what, columns, seen, SINCE).startswith(why)


def _no_key() -> SecretKey:
    raise AssertionError("the admin's copy needs no key")


@pytest.mark.nightly
class TestOnABuild:
    """A build of the small network."""

    @pytest.mark.parametrize(
        ("table", "where"),
        [
            ("kpi_waits_daily", {}),
            ("kpi_lwbs_daily", {}),
            ("kpi_op18", {"stratum": "reported"}),
            ("kpi_returns", {"variant": "discharged"}),
            ("kpi_length_of_stay", {"stay_class": "emergency"}),
        ],
    )
    def test_the_rows_behind_a_figure_add_up_to_it(
        self, built: tuple[Settings, BuildReport], table: str, where: dict[str, str]
    ) -> None:
        settings, kpi = built[0], CONTRACTS[table]
        with open_warehouse(settings.warehouse_file) as warehouse:
            stored = warehouse.read(kpi).collect("polars").to_native()
            asked = Asked(kpi, "", "H1", DAY, where)
            row = stored_row(asked, stored)
            found, why_not = rows_behind(build_definitions(settings), warehouse, asked, row)
        assert found is not None, why_not
        population = row.get("population_count", row.get("visit_count"))
        assert found.rows.height == population
        assert found.rows["_left_out"].drop_nulls().len() == sum(
            row[name] for name in kpi.column_names if name.startswith("excluded_")
        )
        assert not found.differs

    def test_each_row_has_its_own_part_and_its_reason(self, built: tuple[Settings, BuildReport]) -> None:
        settings = built[0]
        asked = Asked(WAITS, "wait_max_minutes", "H1", DAY)
        with open_warehouse(settings.warehouse_file) as warehouse:
            row = stored_row(asked, warehouse.read(WAITS).collect("polars").to_native())
            found, _ = rows_behind(build_definitions(settings), warehouse, asked, row)
        assert found is not None
        facts = query(
            settings,
            "select visit_id, wait_minutes, wait_exclusion from facts.fact_emergency_visits f "
            f"join dimensions.dim_hospital using (hospital_key) where hospital_id = 'H1' and f.service_date = '{DAY}'",
        )
        both = found.rows.join(facts, on="visit_id", suffix="_fact", how="full")
        assert both.select((pl.col("_left_out").eq_missing(pl.col("wait_exclusion"))).all()).item()
        assert both.select((pl.col("_contributes").eq_missing(pl.col("wait_minutes_fact"))).all()).item()

    def test_a_figure_that_no_single_rows_make_is_not_explained_to_rows(
        self, built: tuple[Settings, BuildReport]
    ) -> None:
        settings, kpi = built[0], CONTRACTS["kpi_waits_rolling"]
        asked = Asked(kpi, "", "H1", DAY)
        with open_warehouse(settings.warehouse_file) as warehouse:
            row = stored_row(asked, warehouse.read(kpi).collect("polars").to_native())
            found, why_not = rows_behind(build_definitions(settings), warehouse, asked, row)
        assert found is None
        assert "kpi_waits_daily" in why_not

    def test_a_count_of_different_patients_does_not_count_visits(self, built: tuple[Settings, BuildReport]) -> None:
        settings, kpi = built[0], CONTRACTS["kpi_demographics"]
        asked = Asked(kpi, "patient_count", "all", None, {"characteristic": "sex", "category": "female"})
        with open_warehouse(settings.warehouse_file) as warehouse:
            row = stored_row(asked, warehouse.read(kpi).collect("polars").to_native())
            found, why_not = rows_behind(build_definitions(settings), warehouse, asked, row)
        assert row["patient_count"] < row["visit_count"]
        assert found is None
        assert "does not add up" in why_not

    def test_a_visit_leads_to_every_line_that_landed_about_it(self, built: tuple[Settings, BuildReport]) -> None:
        settings, fact = built[0], CONTRACTS["fact_emergency_visits"]
        twice = query(
            settings,
            "select trim(visit_id) as visit_id, count(*) as records from raw.raw_er_visits "
            "where trim(visit_id) in (select visit_id from facts.fact_emergency_visits) "
            "group by 1 having count(*) > 1 order by 2 desc, 1 limit 1",
        ).row(0)
        with open_warehouse(settings.warehouse_file) as warehouse:
            found = landed_records(build_definitions(settings), warehouse, fact, pl.DataFrame({"visit_id": [twice[0]]}))
        visits = found.filter(pl.col("subject") == "er_visits")
        assert visits.height == twice[1]
        assert "taken over" in visits["fate"].to_list()
        file, line = visits.select("source_file", "source_line").row(0)
        assert twice[0] in (settings.landing / file).read_text(encoding="utf-8").splitlines()[line - 1]
        assert set(found.columns) == {
            "key",
            "subject",
            "source_file",
            "source_line",
            "source_part",
            "first_seen_at",
            "fate",
        }

    def test_what_changed_since_a_version_is_found(
        self, built: tuple[Settings, BuildReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = warehouse_copy(built[0], tmp_path)
        asked, fact = Asked(WAITS, "visit_count", "H1", DAY), CONTRACTS["fact_emergency_visits"]
        with open_warehouse(settings.warehouse_file) as warehouse:
            policy, admin = load_policy(settings), Audience("admin")
            publish(warehouse, settings, policy, admin, key=_no_key, published_at=SINCE, data_as_of=SINCE)
            row = stored_row(asked, warehouse.read(WAITS).collect("polars").to_native())
            found, _ = rows_behind(build_definitions(settings), warehouse, asked, row)
        assert found is not None
        assert version_before(settings.data_dir, "admin", asked, row) is None
        corrected = row | {"visit_count": row["visit_count"] + 1}
        before = version_before(settings.data_dir, "admin", asked, corrected)
        assert before is not None
        assert before.published_at == SINCE
        assert before.row is not None
        assert before.row["visit_count"] == row["visit_count"]
        now = found.rows.drop("_left_out", "_contributes")
        assert changed_rows(settings.data_dir, "admin", asked, fact, now, SINCE).is_empty()
        other = pl.concat([now[1:], now[:1].with_columns(visit_id=pl.lit("V-LATE"))])
        found_changes = changed_rows(settings.data_dir, "admin", asked, fact, other, SINCE)
        assert sorted(found_changes["what"]) == ["gone", "new"]

        def withdrawn(*_: object) -> None:
            raise WithdrawnError("the policy has changed")

        monkeypatch.setattr(changes, "open_publication", withdrawn)
        assert version_before(settings.data_dir, "admin", asked, corrected) is None

    def test_the_command_shows_no_more_than_the_role_may_see(
        self, built: tuple[Settings, BuildReport], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings = warehouse_copy(built[0], tmp_path)
        command = ["--data-dir", str(settings.data_dir), "explain", "kpi_waits_daily", "--day", str(DAY)]
        assert main([*command, "--hospital", "H1", "--column", "wait_median_minutes"]) == 0
        assert "rows of fact_emergency_visits behind it" in capsys.readouterr().out
        assert main([*command, "--hospital", "H2", "--role", "doctor-H1"]) == 2
        assert "figures of H1 only" in capsys.readouterr().err
        assert main([*command, "--role", "executive"]) != 0
        assert "fact_emergency_visits" not in capsys.readouterr().out
        assert main([*command, "--hospital", "H1", "--row", "V-NOWHERE"]) == 2
        said = capsys.readouterr().err
        assert "of no row behind this figure" in said and "V-NOWHERE" not in said
        assert main([*command, "--column", "nonsense"]) == 2
        assert "it has service_date" in capsys.readouterr().err
