"""Standing checks: each fault they are for turns them, and only what they are for."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl

from hospital_assets.automation.build import BuildReport
from hospital_assets.automation.instance import dagster_instance
from hospital_assets.checks.standing import STANDING, accounted, fresh, not_failed, usual
from hospital_assets.contracts import CONTRACTS
from hospital_assets.definitions import build_definitions
from hospital_assets.partitions import service_periods
from hospital_assets.settings import Settings

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
DAY = date(2026, 3, 19)


def ledger(**files: str) -> pl.DataFrame:
    """A ledger of vitals files: name -> `state`, or `state:hours since landed`."""
    schema = CONTRACTS["raw_landed_files"].polars_schema
    rows = []
    for name, said in files.items():
        state, _, hours = said.partition(":")
        landed = NOW - timedelta(hours=float(hours or 1))
        rows.append(
            dict.fromkeys(schema.names())
            | {
                "source_file": name,
                "subject": "vitals",
                "file_sha256": name,
                "state": state,
                "service_dates": [DAY] if state == "ready" else [],
                "file_modified_ns": int(landed.timestamp() * 1e9),
            }
        )
    return pl.DataFrame(rows, schema=schema)


def loads(*names: str, day: date = DAY) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "subject": ["vitals"] * len(names),
            "source_file": names,
            "file_sha256": names,
            "service_date": [day] * len(names),
        },
        schema={"subject": pl.String, "source_file": pl.String, "file_sha256": pl.String, "service_date": pl.Date},
    )


def places(result: dg.AssetCheckResult) -> dict[str, object]:
    names = ("landed", "loaded", "duplicate", "not_loaded", "waiting")
    return {name: result.metadata[name].value for name in names}


def test_landed_is_loaded_and_duplicate_and_not_loaded_and_waiting() -> None:
    files = ledger(a="ready", b="duplicate", c="unreadable", d="quarantined", e="ready")
    found = accounted(files, files, loads("a"), NOW, DAY)
    assert found.passed
    assert places(found) == {"landed": 5, "loaded": 1, "duplicate": 1, "not_loaded": 2, "waiting": 1}


def test_a_file_of_which_a_day_is_missing_waits() -> None:
    files = ledger(a="ready")
    assert places(accounted(files, files, loads("a", day=date(2026, 3, 1)), NOW, DAY))["waiting"] == 1


def test_what_is_left_behind_is_found() -> None:
    good = ledger(a="ready")
    left = ledger(a="ready", b="ready:30")
    assert not accounted(left, left, loads("a"), NOW, DAY).passed
    unseen = accounted(ledger(a="ready", z="ready:30"), good, loads("a"), NOW, DAY)
    assert not unseen.passed and places(unseen)["waiting"] == 1
    assert accounted(ledger(a="ready", z="ready:1"), good, loads("a"), NOW, DAY).passed
    gone = accounted(good, good, loads("a", "deleted"), NOW, DAY)
    assert not gone.passed and "1 files that are no longer" in (gone.description or "")


def test_a_roster_does_not_wait_before_its_days_have_come() -> None:
    """A file with a day that came and one that did not; one that is all planned."""
    later = DAY + timedelta(days=3)
    files = ledger(a="ready:30", b="ready:30").with_columns(
        service_dates=pl.Series([[DAY, later], [later]], dtype=pl.List(pl.Date))
    )
    assert places(accounted(files, files, loads("a"), NOW, DAY)) | {"loaded": 2, "waiting": 0} == places(
        accounted(files, files, loads("a"), NOW, DAY)
    )
    assert places(accounted(files, files, loads("a"), NOW, later))["waiting"] == 2


def test_freshness() -> None:
    files = ledger(a="ready", b="duplicate")
    assert fresh(files, DAY + timedelta(days=1)).passed
    late = fresh(files, DAY + timedelta(days=2))
    assert not late.passed and "vitals are 2 days old (limit 1)" in (late.description or "")


def test_volume_against_the_same_weekday() -> None:
    today = date(2026, 3, 20)

    def volume(**odd: int) -> dg.AssetCheckResult:
        days = [today - timedelta(days=back) for back in range(1, 40)]
        rows = [
            {
                "subject": "vitals",
                "service_date": day,
                # Weekends have a third of the records; that is usual.
                "row_count": odd.get(f"d{day.day}_{day.month}", 300 if day.weekday() >= 5 else 900),
            }
            for day in days
        ]
        return usual(pl.DataFrame([row for row in rows if row["row_count"]]), today)

    assert volume().passed
    assert volume().metadata["days_compared"].value == 7
    assert not volume(d17_3=2000).passed
    assert "2026-03-17: 400 vitals where 900" in (volume(d17_3=400).description or "")
    assert not volume(d17_3=0).passed  # a whole day is missing
    assert volume(d20_2=0).passed  # one odd day among those compared with does not matter


def test_a_day_that_failed_last_is_named(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    definitions = build_definitions(settings)
    with dagster_instance(settings) as instance:
        result = definitions.resolve_job_def("full_refresh").execute_in_process(
            instance=instance,
            raise_on_error=False,
            partition_key="2026-03-05",
            asset_selection=[dg.AssetKey("fact_vitals")],
        )
        assert not result.success  # nothing it reads is there
        found = not_failed(instance, service_periods(settings), [])
        assert not found.passed and found.description == "fact_vitals: 2026-03-05"
        now = not_failed(instance, service_periods(settings), ["2026-03-05"])
        assert now.passed  # it is being run again


def test_a_build_stands(built: tuple[Settings, BuildReport]) -> None:
    settings, _ = built
    names = [spec.name for spec in STANDING]
    with dagster_instance(settings) as instance:
        records = instance.event_log_storage.get_latest_asset_check_execution_by_key(
            [dg.AssetCheckKey(dg.AssetKey("raw_landed_files"), name) for name in names]
        )
    assert len(records) == len(names) == 5
    assert all(record.status.value == "SUCCEEDED" for record in records.values())
