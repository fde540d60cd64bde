"""Where thresholds arrive: each place probed for the number it goes by, in a process of its own.

`python -m hospital_assets_tests.threshold_places '{"OVERSTAY_HOURS": 61}'` changes thresholds (and, with `levels` and
`scale`, what `measures.triage` says) before anything else is imported, and prints what each place then does.
"""

from __future__ import annotations

import bisect
import json
import re
import sys
import tempfile
import types
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any


def change(changes: dict[str, Any]) -> None:
    """Change lines of `measures`, as somebody would who edits them."""
    from hospital_assets import measures
    from hospital_assets.measures import thresholds

    changes = dict(changes)
    lines = {
        "CRITICAL_LEVELS = (1, 2)": f"CRITICAL_LEVELS = {tuple(changes.pop('levels', (1, 2)))}",
        'SCALE_IN_USE = "ESI"': f'SCALE_IN_USE = "{changes.pop("scale", "ESI")}"',
    }
    for name, value in changes.items():
        getattr(thresholds, name)
        setattr(thresholds, name, value)
    source = Path(measures.__file__).with_name("triage.py").read_text(encoding="utf-8")
    for line, changed in lines.items():
        assert source.count(f"\n{line}\n") == 1
        source = source.replace(line, changed)
    module = types.ModuleType("hospital_assets.measures.triage")
    sys.modules[module.__name__] = module
    measures.triage = module  # type: ignore[attr-defined]
    exec(compile(source, "triage.py", "exec"), module.__dict__)  # noqa: S102


def places() -> dict[str, dict[str, Any]]:
    """Threshold -> place -> the number it goes by, or the text that must show it."""
    import narwhals as nw
    import polars as pl

    from hospital_assets.alerts.settings import AlertSettings, VitalThreshold
    from hospital_assets.assets.cleaned.patients import AGE_OUT_OF_RANGE
    from hospital_assets.assets.dimensions.scales import dim_triage
    from hospital_assets.assets.kpis.emergency import (
        boarding,
        critical_waits,
        ecat,
        four_hour,
        seen_on_time,
        with_z_scores,
    )
    from hospital_assets.assets.kpis.occupancy import department_flow
    from hospital_assets.assets.kpis.readmissions import readmissions
    from hospital_assets.assets.kpis.returns import returns
    from hospital_assets.assets.kpis.stays import before_noon, overstays
    from hospital_assets.checks.declared import RULES
    from hospital_assets.contracts import CONTRACTS
    from hospital_assets.contracts.fields import FIELDS
    from hospital_assets.dashboard import mart
    from hospital_assets.dashboard.pages import forecast, overview_queries
    from hospital_assets.live.alert_rules import visit_states, vital_signals
    from hospital_assets.live.board import read_board
    from hospital_assets.measures import news2 as score
    from hospital_assets.measures.observations import FIRST_SET_LIMITS
    from hospital_assets.warehouse.dialect import lazy
    from hospital_assets_tests import test_dashboard as boards
    from hospital_assets_tests.test_kpis import (
        AS_OF,
        DATA_END,
        G9,
        clock,
        fact,
        hours_of,
        inpatients,
        segments,
        stays,
        visits,
    )
    from hospital_assets_tests.test_transforms import collect

    on = lazy

    def first(holds: Callable[[int], bool], among: range) -> int:
        """The first number from which on something holds."""
        return among[bisect.bisect_left(among, True, key=holds)]

    def total(frame: Any, column: str, **where: Any) -> int:
        found = collect(frame)
        for name, value in ({"hospital_id": "all"} | where).items():
            found = found.filter(pl.col(name) == value)
        return int(found[column].sum())

    def later(start: str, minutes: int) -> str:
        return f"{clock(start) + timedelta(minutes=minutes):%m-%d %H:%M}"  # type: ignore[operator]

    def measure(table: str, place: int = 0) -> str:
        return " ".join(str(part) for part in vars(CONTRACTS[table].measures[place]).values())

    def rule(column: str, says: str) -> Any:
        return next(r for r in RULES if r.column == column and says in r.description)

    def breaks(found: Any, row: dict[str, Any]) -> bool:
        return bool(pl.DataFrame([row]).lazy().pipe(lazy).select(x=found.broken).collect("polars")["x"][0])

    def waits(minutes: int, level: int = 2) -> Any:
        return visits(on, fact("a", "01-01 00:00", provider_at=later("01-01 00:00", minutes), triage_level=level))

    def board(rows: list[dict[str, Any]], vitals: list[dict[str, Any]] = ()) -> Any:  # type: ignore[assignment]
        with tempfile.TemporaryDirectory() as folder:
            warehouse = boards.landed(Path(folder), rows, vitals)
            esi = pl.read_parquet(warehouse.parent / "live" / "triage_targets.parquet")
            ctas = esi.with_columns(scale=pl.lit("CTAS"), level_name=pl.lit("of CTAS"))
            pl.concat([esi, ctas]).write_parquet(warehouse.parent / "live" / "triage_targets.parquet")
            return read_board(warehouse, boards.NOW, b"key")

    def tile(found: Any, label: str) -> tuple[str, int]:
        return next((name, int(value)) for name, value, *_ in found.tiles() if re.search(label, name))

    def critical(minutes: int) -> int:
        return total(critical_waits(waits(minutes), AS_OF), "numerator_count")

    def on_time(minutes: int) -> bool:
        return total(seen_on_time(waits(minutes, 1), scales), "numerator_count", scale="ATS", triage_group="1") == 0

    def at_departure(minutes: int, **values: Any) -> Any:
        return visits(on, fact("a", "01-01 00:00", later("01-01 00:00", minutes), **values))

    def ambulance(minutes: int) -> int:
        frame = visits(on, fact("a", "01-01 00:00", "01-01 02:00", handover_at="01-01 01:30", arrival_mode="ambulance"))
        return int(120 - collect(frame)["four_hour_minutes"][0]) if minutes else 0

    admitted = {"disposition": "admitted", "destination_department": "ICU", "decision_at": "01-01 00:00"}

    def boarded(minutes: int, column: str) -> int:
        return total(boarding(at_departure(minutes, **admitted)), column, destination_department="all")

    def of_ecat(minutes: int, column: str, **values: Any) -> int:
        return total(ecat(at_departure(minutes, **values)), column, stratum="all")

    def roomed(minutes: int) -> int:
        values = {"room_at": later("01-01 00:00", minutes)}
        return total(ecat(at_departure(700, **values)), "room_count", stratum="all")

    def band() -> int:
        schema = {"period_year": pl.Int64, "hospital_id": pl.String, "stratum": pl.String}
        frame = pl.DataFrame(
            [(2026, "H1", "all", 1, 0, 10.0)],
            orient="row",
            schema=[*schema, "population_count", "excluded_cancelled_count", "value_pct"],
        )
        spans = pl.DataFrame({"hospital_id": ["H1"], "first_date": [date(2026, 1, 1)], "last_date": [date(2027, 1, 1)]})
        return int(collect(with_z_scores(on(frame), on(spans)))["volume_band"][0].split("-")[1]) + 1

    def returned(hours: int) -> int:
        rows = [fact("a", "01-01 00:00", "01-01 01:00"), fact("b", later("01-01 01:00", 60 * hours), disposition="x")]
        return total(returns(visits(on, *rows), AS_OF), "numerator_count", variant="discharged")

    def readmitted(days: int) -> int:
        again = f"{clock('01-02 00:00') + timedelta(days=days):%m-%d}"  # type: ignore[operator]
        rows = inpatients(f"P1 a H1 01-01 01-02 01 0 0 HF\nP1 b H1 {again} - - 0 0 HF")
        return total(readmissions(on(rows), DATA_END), "numerator_count")

    def stayed(hours: int, stay_class: str) -> int:
        frame = stays(on, ("01-01 00:00", later("01-01 00:00", 60 * hours)), stay_class=stay_class)
        return total(overstays(frame, AS_OF), "numerator_count", department_name="all")

    def left_at(hour: int) -> int:
        return total(before_noon(stays(on, ("01-01 00:00", f"01-02 {hour:02d}:00"))), "numerator_count")

    def scored(age: int, points: int) -> dict[str, Any]:
        base = dict.fromkeys(score.POINTS, 0)
        return (
            pl.DataFrame([base | {score.POINTS[0]: points, "age_years": age}])
            .pipe(nw.from_native)
            .with_columns(**score.scores())
            .to_native()
            .row(0, named=True)
        )

    def band_of(points: int) -> int:
        return board([boards.visit("a", 5)], [boards.news2("a", points)]).waiting[0].band  # type: ignore[no-any-return]

    def full(hundredths: int) -> bool:
        hours = hours_of(on, 28.0).with_columns(staffed_bed_minutes=nw.lit(hundredths / 100))
        return bool(collect(department_flow(hours, segments(on, *G9)))["is_bottleneck"][0])

    scales = on(
        pl.DataFrame({"scale": ["ATS"], "level": [1], "target_minutes": [0.0]}).with_columns(
            pl.col("level").cast(pl.Int64)
        )
    )
    waiting = board([boards.visit(f"v{m}", m, triage_level=2) for m in range(1, 41)])
    critical_tile = tile(waiting, "^Level")
    alerts = AlertSettings()
    old = board([boards.visit(f"v{h}", 60 * h, recorded_at=boards.NOW) for h in range(1, 41)])
    levels = [level for level in range(1, 6) if collect(waits(5, level))["is_critical"][0]]
    states = pl.DataFrame([boards.visit(f"v{n}", 5, triage_level=n) for n in range(1, 6)]).with_columns(
        pl.col("triage_at", "provider_at", "departure_at").cast(pl.Datetime("us", "UTC"))
    )
    vitals = pl.DataFrame(
        [
            {"visit_id": str(age), "patient_id": "P", "hospital_id": "H", "measured_at": boards.NOW, "age_years": age}
            | {"news2_score": None, "has_news2_red_parameter": None, "quality_codes": ""}
            | {"spo2_pct": 97.0, "heart_rate_bpm": 80.0, "systolic_mmhg": 120.0, "temperature_c": 37.0}
            for age in range(10, 30)
        ],
        schema_overrides={"news2_score": pl.Int64, "has_news2_red_parameter": pl.Boolean},
    )
    some = range(1, 60)
    news2_rule = rule("news2_score", "adults")
    minimum = {"news2_missing_count": 0, "news2_score": None}
    return {
        "LONGEST_WAIT_MINUTES": {
            "fact": first(lambda m: collect(waits(m))["wait_exclusion"][0] == "too_long", range(77_770, 100_002)),
            "column": FIELDS["excluded_too_long_count"].description,
            "measure": measure("kpi_waits"),
        },
        "CRITICAL_WAIT_MINUTES": {
            "kpi": first(lambda m: critical(m) == 1, some) - 1,
            "alert": int(alerts.critical_wait_minutes.raise_at),
            "board": 40 - critical_tile[1],
            "label": critical_tile[0],
            "measure": measure("kpi_critical_waits_daily"),
            "column": FIELDS["seen_late_count"].description,
        },
        "IMMEDIATE_MINUTES": {
            "kpi": first(on_time, some) - 1,
            "board": int(board([boards.visit("a", 1, triage_level=1)]).waiting[0].target_minutes),
            "measure": measure("kpi_seen_on_time_daily"),
        },
        "TRIAGE_MINUTES": {
            "board": first(
                lambda m: board([boards.visit("a", m, triage_level=None)]).waiting[0].is_untriaged_late, range(5, 60)
            )
            - 1
        },
        "LONGEST_WAITING_HOURS": {"board": 40 - old.left_open},
        "FOUR_HOUR_MINUTES": {
            "kpi": first(lambda m: total(four_hour(at_departure(m)), "numerator_count") == 0, range(200, 400)) - 1,
            "measure": measure("kpi_four_hour_daily"),
        },
        "HANDOVER_GRACE_MINUTES": {
            "fact": ambulance(1),
            "measure": measure("kpi_four_hour_daily"),
            "column": FIELDS["four_hour_minutes"].description,
        },
        "TWELVE_HOUR_MINUTES": {
            "kpi": first(lambda m: total(four_hour(at_departure(m)), "over_12_hours_count") == 1, range(600, 800)) - 1,
            "boarding": first(lambda m: boarded(m, "over_12_hours_count") == 1, range(600, 800)) - 1,
        },
        "LONG_BOARDING_MINUTES": {
            "kpi": first(lambda m: boarded(m, "numerator_count") == 1, range(200, 400)) - 1,
            "measure": measure("kpi_boarding_daily", 1),
        },
        "ECAT_ROOM_MINUTES": {"kpi": first(lambda m: roomed(m) == 1, range(50, 80)), "measure": measure("kpi_ecat")},
        "ECAT_BOARDING_MINUTES": {
            "kpi": first(lambda m: of_ecat(m, "boarded_count", **admitted) == 1, range(230, 300)),
            "measure": measure("kpi_ecat"),
        },
        "ECAT_STAY_MINUTES": {
            "kpi": first(lambda m: of_ecat(m, "long_stay_count") == 1, range(470, 520)),
            "measure": measure("kpi_ecat"),
        },
        "ECAT_BAND_VISITS": {"kpi": band(), "measure": measure("kpi_ecat")},
        "RETURN_HOURS": {
            "kpi": first(lambda h: returned(h) == 0, range(60, 90)) - 1,
            "measure": measure("kpi_returns"),
        },
        "CROWDED_RATIO": {"column": FIELDS["occupancy_ratio"].description},
        "NEWS2_MINIMUM_AGE_YEARS": {
            "fact": first(lambda age: scored(age, 0)["news2_score"] is not None, range(30)),
            "board": first(lambda age: board([boards.visit("a", 5, age_years=age)]).waiting[0].is_adult, range(10, 30)),
            "check": first(lambda age: breaks(news2_rule, minimum | {"age_years": age}), range(30)),
            "alert": VitalThreshold().minimum_age_years,
            "complete": sum(signal.is_raised is False for signal in vital_signals(vitals, alerts)) + 10,
            "column": FIELDS["news2_score"].description,
        },
        "NEWS2_URGENT_SCORE": {
            "fact": first(lambda n: scored(40, n)["news2_response"] in ("urgent", "emergency"), range(20)),
            "board": first(lambda n: band_of(n) < 2, range(20)),
            "label": tile(waiting, "single red")[0],
        },
        "NEWS2_EMERGENCY_SCORE": {
            "fact": first(lambda n: scored(40, n)["news2_response"] == "emergency", range(20)),
            "board": first(lambda n: band_of(n) == 0, range(20)),
            "label": tile(waiting, "or more")[0],
            "alert": alerts.news2_score,
            "check": first(
                lambda n: breaks(rule("news2_response", "emergency"), {"news2_response": "low", "news2_score": n}),
                range(20),
            ),
            "rule": rule("news2_response", "emergency").description,
        },
        "HANDOVER_MINUTES": {"measure": measure("kpi_handovers_daily")},
        "LATE_HANDOVER_MINUTES": {
            "measure": measure("kpi_handovers_daily"),
            "column": FIELDS["over_30_minutes_count"].description,
        },
        "LONG_HANDOVER_MINUTES": {
            "measure": measure("kpi_handovers_daily"),
            "column": FIELDS["over_60_minutes_count"].description,
        },
        "NEWS2_RESPONSE_MINUTES": {"measure": measure("kpi_news2_response_daily")},
        "FIRST_SET_MINUTES": {"measure": measure("kpi_first_observations_daily"), "limits": FIRST_SET_LIMITS[0]},
        "LATEST_FIRST_SET_MINUTES": {"measure": measure("kpi_first_observations_daily"), "limits": FIRST_SET_LIMITS[1]},
        "LONG_SHIFT_HOURS": {
            "measure": measure("kpi_shift_patterns_daily"),
            "column": FIELDS["long_shifts_count"].description,
        },
        "NIGHT_STARTS_HOUR": {
            "measure": measure("kpi_shift_patterns_daily", 1),
            "column": FIELDS["nights_count"].description,
        },
        "NIGHT_AFTER_NIGHT_HOURS": {"measure": measure("kpi_shift_patterns_daily", 1)},
        "SHORTEST_REST_HOURS": {
            "measure": measure("kpi_shift_patterns_daily", 2),
            "column": FIELDS["short_rests_count"].description,
        },
        "OVERSTAY_HOURS": {
            "kpi": first(lambda h: stayed(h, "emergency") == 1, range(40, 80)) - 1,
            "alert": int(alerts.overstay_hours["emergency"]),
            "measure": measure("kpi_overstays"),
        },
        "INPATIENT_OVERSTAY_HOURS": {
            "kpi": first(lambda h: stayed(h, "inpatient") == 1, range(490, 540)) - 1,
            "alert": int(alerts.overstay_hours["inpatient"]),
        },
        "READMISSION_DAYS": {
            "kpi": first(lambda d: readmitted(d) == 0, range(20, 60)) - 1,
            "measure": measure("kpi_readmissions"),
        },
        "NOON_HOUR": {
            "kpi": first(lambda h: left_at(h) == 0, range(24)),
            "measure": measure("kpi_discharge_before_noon_daily"),
        },
        "FULL_PCT": {"page": int(forecast.FULL_PCT)},
        "BOTTLENECK_PCT": {
            # 28 hours are occupied of 24 times so many hundredths of a bed-minute.
            "kpi": round(700_000 / (first(lambda offered: not full(offered), range(7_000, 8_000)) - 1)),
            "column": FIELDS["is_bottleneck"].description,
        },
        "MAXIMUM_AGE_YEARS": {
            "check": first(lambda age: breaks(rule("age_years", "at most"), {"age_years": age}), range(100, 140)) - 1,
            "rule": rule("age_years", "at most").description,
            "cleaning": AGE_OUT_OF_RANGE.description,
        },
        "levels": {
            "fact": levels,
            "dimension": sorted(set(dim_triage().filter("is_critical")["level"])),
            "kpi": [n for n in range(1, 6) if total(critical_waits(waits(5, n), AS_OF), "population_count")],
            "alert": [int(s.triage_level or 0) for s in visit_states(states) if s.is_waiting],
            "board": [n for n in range(1, 6) if board([boards.visit("a", 5, triage_level=n)]).waiting[0].is_critical],
            "check": [
                n
                for n in range(1, 6)
                if breaks(rule("is_critical", "exactly"), {"is_critical": False, "triage_level": n})
            ],
            "page": [int(n) for n in re.findall(r"\d", overview_queries._CRITICAL)],
        },
        "scale": {
            "board": "CTAS" if board([boards.visit("a", 5)]).waiting[0].triage_name == "of CTAS" else "ESI",
            "pages": mart.SCALE_IN_USE,
        },
    }


if __name__ == "__main__":
    change(json.loads(sys.argv[1]))
    sys.stdout.write(json.dumps(places()))
