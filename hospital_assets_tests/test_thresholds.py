"""A threshold is one line: changed there, it arrives in facts, KPIs, alerts, the board, checks, pages and texts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import hospital_assets
from hospital_assets.measures import thresholds

#: Numbers unlike those of the package.
CHANGED: dict[str, Any] = {
    "LONGEST_WAIT_MINUTES": 77_777,
    "CRITICAL_WAIT_MINUTES": 23,
    "IMMEDIATE_MINUTES": 4,
    "TRIAGE_MINUTES": 21,
    "LONGEST_WAITING_HOURS": 19,
    "FOUR_HOUR_MINUTES": 300,
    "HANDOVER_GRACE_MINUTES": 26,
    "TWELVE_HOUR_MINUTES": 660,
    "LONG_BOARDING_MINUTES": 360,
    "ECAT_ROOM_MINUTES": 67,
    "ECAT_BOARDING_MINUTES": 257,
    "ECAT_STAY_MINUTES": 499,
    "ECAT_BAND_VISITS": 13_000,
    "RETURN_HOURS": 73,
    "CROWDED_RATIO": 0.83,
    "NEWS2_MINIMUM_AGE_YEARS": 18,
    "NEWS2_URGENT_SCORE": 6,
    "NEWS2_EMERGENCY_SCORE": 9,
    "HANDOVER_MINUTES": 17,
    "LATE_HANDOVER_MINUTES": 33,
    "LONG_HANDOVER_MINUTES": 66,
    "NEWS2_RESPONSE_MINUTES": 37,
    "FIRST_SET_MINUTES": 18,
    "LATEST_FIRST_SET_MINUTES": 68,
    "LONG_SHIFT_HOURS": 14,
    "NIGHT_STARTS_HOUR": 22,
    "NIGHT_AFTER_NIGHT_HOURS": 27,
    "SHORTEST_REST_HOURS": 9,
    "OVERSTAY_HOURS": 61,
    "INPATIENT_OVERSTAY_HOURS": 528,
    "READMISSION_DAYS": 43,
    "NOON_HOUR": 13,
    "FULL_PCT": 87,
    "BOTTLENECK_PCT": 96,
    "MAXIMUM_AGE_YEARS": 118,
}
#: Used at one place, where the tests of that place see it.
USED_ONCE = {"LONGEST_PRESENCE_HOURS", "LONGEST_OPEN_STAY_HOURS", "LONGEST_QUIET_DAYS"}
LEVELS, SCALE = [1, 2, 3], "CTAS"
PACKAGE = Path(hospital_assets.__file__).parent


def places(changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "hospital_assets_tests.threshold_places", json.dumps(changes)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def unchanged() -> dict[str, dict[str, Any]]:
    return places({})


@pytest.fixture(scope="module")
def changed() -> dict[str, dict[str, Any]]:
    return places({**CHANGED, "levels": LEVELS, "scale": SCALE})


def test_every_threshold_is_changed_here() -> None:
    names = {name for name in vars(thresholds) if name.isupper()}
    assert names == set(CHANGED) | USED_ONCE
    assert all(CHANGED[name] != getattr(thresholds, name) for name in CHANGED)


def arrives(found: Mapping[str, Any], value: float) -> None:
    for place, goes_by in found.items():
        if isinstance(goes_by, str):
            assert re.search(rf"(?<![\d.,]){re.escape(f'{value:,g}')}(?![\d,])", goes_by), (place, value, goes_by)
        else:
            assert goes_by == value, place


@pytest.mark.nightly
@pytest.mark.parametrize("name", CHANGED)
def test_a_threshold_arrives_everywhere(
    unchanged: dict[str, dict[str, Any]], changed: dict[str, dict[str, Any]], name: str
) -> None:
    arrives(unchanged[name], getattr(thresholds, name))
    arrives(changed[name], CHANGED[name])


@pytest.mark.slow
def test_critical_levels_and_the_scale_in_use_arrive_everywhere(
    unchanged: dict[str, dict[str, Any]], changed: dict[str, dict[str, Any]]
) -> None:
    assert len(changed["levels"]) == 7
    assert all(levels == [1, 2] for levels in unchanged["levels"].values())
    assert all(levels == LEVELS for levels in changed["levels"].values()), changed["levels"]
    assert set(unchanged["scale"].values()) == {"ESI"} and set(changed["scale"].values()) == {SCALE}


#: What only `measures` may write: the start of a wait, the scale, critical levels, LWBS, NEWS2's responses.
RULES = {
    "start of a wait": r"min_horizontal\(\s*\"arrival_at\",\s*\"triage_at\"",
    "scale in use": r"==? *\"ESI\"|= 'ESI'",
    "critical levels": r"(level|triage)\S* in \(\W*1\W+2\W*\)",
    "NEWS2": r"news2_score\W+[<>]=? *\d|age_years\W+[<>]=? *16\b",
    "critical wait": r"(?i)critical.*\b15\b",
    "overstay": r"\b50 h",
}


@pytest.mark.parametrize("rule", RULES)
def test_no_other_package_states_a_rule_again(rule: str) -> None:
    again = [
        f"{path.relative_to(PACKAGE)}:{number}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in ("measures", "simulator")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(RULES[rule], line)
    ]
    assert again == []
