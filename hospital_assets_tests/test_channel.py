"""One channel for the data directory: what is not handed in, no asset can find out."""

from __future__ import annotations

import builtins
import inspect
import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hospital_assets.assets.layers import table_assets
from hospital_assets.assets.resources import OutboxResource
from hospital_assets.automation.build import BuildReport
from hospital_assets.cli import main
from hospital_assets.clock import hospital_now
from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.landing.registry import load_profiles
from hospital_assets.partitions import service_periods
from hospital_assets.settings import Settings, StaffingSettings, write_settings
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import lazy
from hospital_assets_tests.helpers import query, run

#: Assets that bring something from outside of the warehouse, by a resource that they name.
BRINGING = {"raw_landed_files", "fact_alerts", "fact_audit_events"}


class _NoEnvironment(Mapping[str, str]):
    """An environment that nobody may look at but Polars, for its own switches."""

    def __getitem__(self, name: str) -> str:
        assert name.startswith("POLARS_"), f"{name} was read from the environment"
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("the environment was listed")

    def __len__(self) -> int:
        raise AssertionError("the environment was counted")


@contextmanager
def nothing_outside() -> Iterator[None]:
    """Within, no file can be opened or looked for, and no environment be read."""

    def refused(*what: object, **_: object) -> Any:
        raise AssertionError(f"a file was asked for: {what[0]}")

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (builtins, "open"),
            (io, "open"),
            (os, "open"),
            (os, "stat"),
            (os, "scandir"),
            (os, "listdir"),
            (os, "getenv"),
        ):
            patch.setattr(module, name, refused)
        patch.setattr(os, "environ", _NoEnvironment())
        yield


def call(asset: dg.AssetsDefinition, tables: dict[str, pl.DataFrame], now: datetime, period: tuple[date, date]) -> Any:
    """Call the function of an asset with frames, and nothing else that knows of a data directory."""
    function: Callable[..., Any] = asset.op.compute_fn.decorated_fn  # type: ignore[union-attr]
    context = SimpleNamespace(
        has_partition_key=True,
        has_partition_key_range=False,
        partition_time_window=SimpleNamespace(
            start=datetime.combine(period[0], datetime.min.time(), UTC),
            end=datetime.combine(period[1] + timedelta(days=1), datetime.min.time(), UTC),
        ),
        add_output_metadata=lambda _, **__: None,
    )
    given: dict[str, Any] = {
        "context": context,
        "clock": SimpleNamespace(
            now=lambda: now,
            wall=lambda: now,
            service_days=Period(period[0], period[1] + timedelta(days=1)),
            settings=SimpleNamespace(last_service_date=period[1]),
            baselines=(),
            holiday_calendars={},
            challengers=(),
        ),
        "profiles": PROFILES,
        "rostering": StaffingSettings(),
    }
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= {table: lazy(tables[table]) for table in asset.keys_by_input_name if table not in arguments}
        elif name in given:
            arguments[name] = given[name]
        else:
            is_eager = parameter.annotation in (pl.DataFrame, "pl.DataFrame")
            arguments[name] = tables[name] if is_eager else lazy(tables[name])
    return function(**arguments)


def stored(settings: Settings, contract: Contract) -> pl.DataFrame:
    """A table of the warehouse; JSON is text in Polars."""
    schema = contract.polars_schema
    columns = (f"{name}::varchar as {name}" if dtype == pl.String else name for name, dtype in schema.items())
    found = query(settings, f"select {', '.join(columns)} from {contract.qualified_name}")
    return found.cast(schema)  # type: ignore[arg-type]


def collected(frame: Any) -> pl.DataFrame:
    native: pl.DataFrame = frame if isinstance(frame, pl.DataFrame) else frame.collect("polars").to_native()
    return native


PROFILES = load_profiles(None)


@pytest.mark.slow
def test_every_transform_is_a_function_of_its_frames(built: tuple[Settings, BuildReport]) -> None:
    """With files and environment denied, on Polars, each makes as many rows as the build has stored."""
    settings, _ = built
    last = settings.last_service_date
    assert last is not None
    tables = {name: stored(settings, contract) for name, contract in CONTRACTS.items()}
    now = hospital_now(settings)
    assets = [
        asset
        for asset in table_assets(service_periods(settings))
        if not {key.path[-1] for key in asset.keys} & BRINGING
        and CONTRACTS[next(iter(asset.keys)).path[-1]].layer != "raw"
    ]
    assert len(assets) > 50
    made: dict[str, int] = {}
    # Twice: modules are imported the first time.
    for is_denied in (False, True):
        for asset in assets:
            names = [key.path[-1] for key in asset.keys_by_output_name.values()]
            with nothing_outside() if is_denied else pytest.MonkeyPatch.context():
                found = call(asset, tables, now, (settings.first_service_date, last))
                frames = found if isinstance(found, tuple) else (found,)
                made |= {name: collected(frame).height for name, frame in zip(names, frames, strict=True)}
    assert made == {name: tables[name].height for name in made}


def test_what_reads_a_file_or_the_environment_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    for sin in ((tmp_path / "x").read_text, (tmp_path / "x").exists, lambda: os.environ["HOME"], (tmp_path / "x").open):
        with nothing_outside(), pytest.raises(AssertionError, match="was"):
            sin()


def test_only_assets_that_bring_something_name_what_it_is() -> None:
    """The others have no resource that could open a file: a clock, and the profiles as a value."""
    brought = {
        "fact_alerts": {"outbox"},
        "fact_audit_events": {"audit"},
        "staffing_need_hourly": {"rostering"},
        "staffing_shifts_suggested": {"rostering"},
        "kpi_staffing_comparison": {"rostering"},
    }
    for asset in table_assets(service_periods(Settings(Path("nowhere")))):
        name = next(iter(asset.keys)).path[-1]
        resources = asset.required_resource_keys - {"io_manager", "clock", "profiles"}
        if CONTRACTS[name].layer == "raw":
            assert resources == {"landing"}, name
        else:
            assert resources == brought.get(name, set()), name


MINE = """
name = "mine"
description = "One hospital."
time_zone = "{zone}"
[subjects.hospitals]
[[subjects.hospitals.rows]]
hospital_id = "H1"
hospital_name = "One"
time_zone = "{zone}"
[subjects.er_visits]
files = ["visits*.csv"]
date = "arrival_time"
constants = {{ hospital_id = "H1" }}
[subjects.er_visits.columns]
visit_id = "{visit}"
patient_id = "who"
arrival_time = "came"
provider_time = "seen"
triage_level = "level"
recorded_at = "came"
[code_maps.triage_level]
"{red}" = "1"
"""


def directory(folder: Path, days: tuple[date, date], visit: str, red: str, zone: str) -> Settings:
    """A data directory with a profile `mine` of its own, and two visits a day."""
    settings = Settings(folder, *days)
    write_settings(settings)
    settings.profiles_folder.mkdir(parents=True)
    (settings.profiles_folder / "mine.toml").write_text(MINE.format(visit=visit, red=red, zone=zone))
    landing = settings.landing / "mine"
    landing.mkdir(parents=True)
    rows = [
        f"V{day}{n},P{n},{days[0] + timedelta(days=day)} 0{n}:30,{days[0] + timedelta(days=day)} 0{n}:50,{red}"
        for day in range((days[1] - days[0]).days + 1)
        for n in (1, 2)
    ]
    (landing / "visits.csv").write_text("\n".join([f"{visit},who,came,seen,level", *rows]) + "\n")
    return settings


#: The same profile name, the same folder, another meaning; days that have nothing in common.
BERLIN = ((date(2020, 3, 28), date(2020, 3, 29)), "Fall", "rot", "Europe/Berlin")
CHICAGO = ((date(2026, 1, 1), date(2026, 1, 2)), "case", "red", "America/Chicago")
SELECTED = "+key:cleaned_er_visits or +key:dim_hospital or +key:dim_date"


def failures(report: BuildReport) -> list[str]:
    """What failed, but for checks that want tables which were not selected."""
    return [failure for failure in report.failures if "is not in the warehouse yet" not in failure]


@pytest.mark.nightly
def test_two_directories_in_one_process_do_not_meet(tmp_path: Path) -> None:
    """Built day by day in turns, each is what it is alone."""
    alone = [directory(tmp_path / f"alone{n}", *what) for n, what in enumerate((BERLIN, CHICAGO))]
    for settings in alone:
        assert failures(run(settings, select=SELECTED)) == []
    turns = [directory(tmp_path / f"turns{n}", *what) for n, what in enumerate((BERLIN, CHICAGO))]
    for day in range(2):
        for settings in turns:
            service_day = settings.first_service_date + timedelta(days=day)
            report = run(settings, first=service_day, last=service_day, select=SELECTED)
            assert failures(report) == []
    for one, other in zip(alone, turns, strict=True):
        for name in ("cleaned_er_visits", "cleaned_hospitals", "dim_hospital", "dim_date"):
            contract = CONTRACTS[name]
            said = f"select * from {contract.qualified_name} order by all"
            assert_frame_equal(query(one, said), query(other, said))
    arrivals = [query(s, "select arrival_at, triage_level from cleaned.cleaned_er_visits order by 1") for s in turns]
    assert [frame.height for frame in arrivals] == [4, 4]
    assert all(frame["triage_level"].to_list() == [1] * 4 for frame in arrivals)
    # Half past one in the morning, before and in the night in which Berlin's clocks go forward.
    assert arrivals[0]["arrival_at"][0] == datetime(2020, 3, 28, 0, 30, tzinfo=UTC)
    assert arrivals[1]["arrival_at"][0] == datetime(2026, 1, 1, 7, 30, tzinfo=UTC)


def test_a_command_leaves_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = directory(tmp_path / "elsewhere", *BERLIN)
    here = directory(tmp_path / "here", *CHICAGO)
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(elsewhere.data_dir))
    file = str(here.landing / "mine" / "visits.csv")
    assert main(["--data-dir", str(here.data_dir), "profiles", "test", "mine", file]) == 0
    assert os.environ["HOSPITAL_DATA_DIR"] == str(elsewhere.data_dir)
    # By the profile of the other directory its visits have no number.
    assert main(["profiles", "test", "mine", file]) == 1


def test_settings_reach_every_resource(tmp_path: Path) -> None:
    """Not what `hospital.toml` says, where somebody was handed something else."""
    from hospital_assets.definitions import build_definitions

    written = Settings(tmp_path, date(2026, 1, 1))
    write_settings(written)
    given = replace(written, first_service_date=date(2020, 1, 1), last_service_date=date(2020, 1, 3))
    resources = build_definitions(given).resources or {}
    assert resources["clock"].now() == datetime(2020, 1, 4, 12, tzinfo=UTC)
    assert resources["landing"].without_warehouse().last == date(2020, 1, 3)
    assert isinstance(resources["outbox"], OutboxResource)
