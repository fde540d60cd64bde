"""Alert rules: pure functions from what is known to signals.

Belongs here: what is worth an alert, in the clinic and in the pipeline, and how it is worded. NEWS2,
cleaning and the start of a wait are those of the assets; limits come from the settings.

`raw` has the columns of the subject's raw table, `patients` is dim_patient or the copy of it. `observed` are as from
`scored_vitals`, `visits` from `landed_visits`, `stays` from `not_lapsed`, and `where` as from `places`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import narwhals as nw
import polars as pl

from hospital_assets.alerts.outbox import Signal, VisitState
from hospital_assets.alerts.settings import AlertSettings, Level, VitalThreshold
from hospital_assets.assets.cleaned.er_visits import (
    DEPARTURE_TIME_UNKNOWN,
    PROVIDER_TIME_UNKNOWN,
    VISIT_CANCELLED,
    validate_er_visits,
)
from hospital_assets.assets.cleaned.rules import has_code, layouts_of
from hospital_assets.assets.cleaned.vitals import AMBIGUOUS_HOUR, STATED_ZERO, is_timed, validate_vitals
from hospital_assets.assets.facts.vitals import scored
from hospital_assets.contracts import RECORD_PLACE
from hospital_assets.landing.quarantine import label_of
from hospital_assets.landing.registry import Profiles
from hospital_assets.measures import news2
from hospital_assets.measures.age import age_in_years
from hospital_assets.measures.presence import segment_until
from hospital_assets.measures.triage import is_critical
from hospital_assets.measures.waits import waiting_since
from hospital_assets.warehouse.dialect import lazy

CRITICAL_VITALS = "critical_vitals"
CRITICAL_WAIT = "critical_wait"
OVERSTAY = "overstay"
OCCUPANCY = "occupancy"
FEED_SILENT = "feed_silent"
FILES_WAITING = "files_waiting"
FILES_UNREADABLE = "files_unreadable"
FILE_QUARANTINED = "file_quarantined"
RUN_FAILED = "run_failed"
CHECK_FAILED = "check_failed"

#: Column of fact_vitals -> how people call it, and its unit.
_VITALS = {
    "heart_rate_bpm": ("heart rate", "/min"),
    "respiratory_rate_per_min": ("respiratory rate", "/min"),
    "spo2_pct": ("SpO2", "%"),
    "systolic_mmhg": ("systolic pressure", "mmHg"),
    "diastolic_mmhg": ("diastolic pressure", "mmHg"),
    "temperature_c": ("temperature", "\N{DEGREE SIGN}C"),
}


#: When the clock of a set shows the same again, where it does.
_AGAIN = pl.col("measured_at") + timedelta(hours=1)


def scored_vitals(
    raw: pl.DataFrame, hospitals: pl.DataFrame, patients: pl.DataFrame, profiles: Profiles
) -> pl.DataFrame:
    """Landed vital signs, validated and scored as the batch does it."""
    validated = validate_vitals(lazy(raw), lazy(hospitals), profiles).filter(nw.col("rule").is_null())
    return scored(validated, lazy(patients)).collect("polars").to_native()  # type: ignore[no-any-return]


#: Where patients are now, as `vital_signals` wants it.
PLACES_SCHEMA = dict.fromkeys(("visit_id", "patient_id", "department_name", "bed_id"), pl.String)


def places(stays: pl.DataFrame | None, *visits: pl.DataFrame | None) -> pl.DataFrame:
    """Where patients are now: one row a visit, by its stay where it has one, else by its registration.

    Args:
        stays: the copy `open_stays`; None before the first one.
        visits: the copies of visits, the newest last.
    """
    found = [
        None if stays is None else stays.rename({"stay_id": "visit_id"}),
        *(None if frame is None else frame.filter(pl.col("departure_at").is_null()) for frame in reversed(visits)),
    ]
    shaped = [
        frame.select(
            (pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name)
            for name, kind in PLACES_SCHEMA.items()
        )
        for frame in found
        if frame is not None
    ]
    return pl.concat([pl.DataFrame(schema=PLACES_SCHEMA), *shaped]).unique(
        "visit_id", keep="first", maintain_order=True
    )


def vital_signals(observed: pl.DataFrame, settings: AlertSettings, where: pl.DataFrame | None = None) -> list[Signal]:
    """How the patients of some vital signs stand: one signal per observation set, about the patient's visit.

    A set that is not critical clears only when it is complete; what is missing may be what was
    critical. A set without a visit is of the one visit that its patient has now. One of an unknown time of its day says
    nothing of how its patient stands. In the hour that clocks show twice, a critical set counts as of the second time
    and any other as of the first: no critical set that may be the newest is taken for an older one.
    """
    where = pl.DataFrame(schema=PLACES_SCHEMA) if where is None else where
    observed = _with_visit(_timed(observed), where).join(
        where.select("visit_id", _department="department_name", _bed="bed_id"), on="visit_id", how="left"
    )
    has_score = pl.col("news2_score") >= settings.news2_score
    is_red = pl.col("has_news2_red_parameter") & pl.lit(settings.red_parameter)
    limits = {
        (column, side): _beyond(column, side, threshold)
        for column, threshold in settings.vitals.items()
        for side in ("low", "high")
        if getattr(threshold, side) is not None
    }
    reasons = [
        pl.when(has_score).then(pl.format(f"NEWS2 {{}} (limit {settings.news2_score})", pl.col("news2_score"))),
        pl.when(is_red).then(pl.lit("a NEWS2 parameter of 3 points")),
        pl.when("_is_zero").then(pl.lit("a vital sign of 0 (look at the patient, and at the sensor)")),
        *(
            pl.when(beyond).then(_in_words(column, getattr(settings.vitals[column], side)))
            for (column, side), beyond in limits.items()
        ),
    ]
    is_whole = pl.col("news2_score").is_not_null() | (
        ~pl.col("_applies").fill_null(False)
        & pl.all_horizontal(pl.col(column).is_not_null() for column in settings.vitals)
    )
    is_critical = pl.any_horizontal(has_score, is_red, "_is_zero", *limits.values()).fill_null(False)
    rows = _with(
        observed, _applies=news2.applies(), _is_zero=has_code(STATED_ZERO), _is_repeated=has_code(AMBIGUOUS_HOUR)
    ).select(
        subject=pl.coalesce("visit_id", "patient_id"),
        hospital_id="hospital_id",
        observed_at=pl.when(is_critical & pl.col("_is_repeated")).then(_AGAIN).otherwise("measured_at"),
        department_name="_department",
        bed=pl.when(pl.col("_bed").is_not_null()).then(pl.format("bed {}, ", "_bed")).otherwise(pl.lit("")),
        score=pl.col("news2_score").cast(pl.Float64),
        why=pl.concat_str(reasons, separator="; ", ignore_nulls=True),
        is_raised=pl.when(is_critical).then(True).when(is_whole).then(False),
    )
    return [
        Signal(
            CRITICAL_VITALS,
            row["subject"],
            row["observed_at"],
            row["is_raised"],
            "critical",
            f"{row['bed']}critical vital signs: {row['why']}",
            row["score"],
            float(settings.news2_score),
            "NEWS2",
            row["hospital_id"],
            row["department_name"],
        )
        for row in rows.iter_rows(named=True)
    ]


def _with_visit(observed: pl.DataFrame, where: pl.DataFrame) -> pl.DataFrame:
    """Sets without a visit as those of the one visit that their patient has now."""
    only = where.filter(pl.col("patient_id").is_not_null() & pl.col("patient_id").is_unique())
    return (
        observed.join(only.select("patient_id", _visit="visit_id"), on="patient_id", how="left")
        .with_columns(visit_id=pl.coalesce("visit_id", "_visit"))
        .drop("_visit")
    )


def corrections(raw: pl.DataFrame, profiles: Profiles) -> pl.DataFrame:
    """The records of landed vital signs that correct or take back what others say: their profile and place."""
    statuses = {
        name: {status.upper() for status in (*long.withdrawn, *long.corrected)}
        for name, layout in layouts_of(profiles, "vitals")
        if (long := layout.observations) is not None
    }

    def corrects(profile: str, payload: str) -> bool:
        said = (str(one.get("status")).strip().upper() for one in json.loads(payload)["observations"])
        return any(status in statuses[profile] for status in said)

    gathered = raw.filter(pl.col("source_profile").is_in(list(statuses)), pl.col("payload").is_not_null())
    rows = gathered.select("source_profile", "payload").iter_rows()
    return gathered.filter(pl.Series([corrects(*row) for row in rows], dtype=pl.Boolean)).select(
        "source_profile", *RECORD_PLACE
    )


def landed_again(observed: pl.DataFrame, known: pl.DataFrame | None, profiles: Profiles) -> pl.DataFrame:
    """The records of whole sets of which another record has landed before, as `corrections` has them.

    One of both corrects the other, whichever landed first.

    Args:
        known: `observation_id` of the sets that had landed; None for none.
    """
    if known is None:
        return observed.clear().select("source_profile", *RECORD_PLACE)
    gathered = [name for name, layout in layouts_of(profiles, "vitals") if layout.observations is not None]
    again = observed.join(known, on="observation_id", how="semi")
    return again.filter(~pl.col("source_profile").is_in(gathered)).select("source_profile", *RECORD_PLACE)


def older_perhaps(
    observed: pl.DataFrame, signals: Sequence[Signal], known: Set[str], where: pl.DataFrame, profiles: Profiles
) -> pl.DataFrame:
    """The records that would open or end an alert and may be older than what has landed, as `corrections` has them.

    Messages need not land in the order in which they were written: a value may come after its own withdrawal.
    """
    versioned = [name for name, layout in layouts_of(profiles, "vitals") if layout.observations is not None]
    changed = [s.subject for s in signals if s.is_raised is not None and s.is_raised is not (s.subject in known)]
    sets = _with_visit(observed, where).filter(pl.coalesce("visit_id", "patient_id").is_in(changed))
    return sets.filter(pl.col("source_profile").is_in(versioned)).select("source_profile", *RECORD_PLACE)


@dataclass(frozen=True)
class Corrected:
    """What stands of the patients whose vital signs were corrected.

    Attributes:
        subjects: visits, or patients where the visit is unknown; as of the signals of vital signs.
        signals: one for each of them.
        board: the newest NEWS2 that stands of each visit, as `board_vitals`, as of the newest set it ever had.
    """

    subjects: frozenset[str]
    signals: list[Signal]
    board: pl.DataFrame


def corrected_vitals(
    raw: pl.DataFrame,
    corrected: pl.DataFrame,
    hospitals: pl.DataFrame,
    patients: pl.DataFrame,
    profiles: Profiles,
    settings: AlertSettings,
    where: pl.DataFrame,
) -> Corrected:
    """Assess patients anew of whose sets some records were corrections: by all sets that stand.

    The newest set that stands and says whether its patient is critical decides; without any, the alert is over.

    Args:
        raw: raw_vitals of all files that may hold versions of the sets, or other sets of these patients.
        corrected: the records that are corrections, as from `corrections`.
        hospitals: hospital_id, time_zone.
        patients: dim_patient, or the copy of it.
        where: as `places` has them.
    """
    found: pl.DataFrame = validate_vitals(lazy(raw), lazy(hospitals), profiles).collect("polars").to_native()
    found = _with_visit(found, where).with_columns(subject=pl.coalesce("visit_id", "patient_id"))
    sets = found.join(corrected, on=RECORD_PLACE, how="semi")["observation_id"].unique()
    subjects = found.filter(pl.col("observation_id").is_in(sets.to_list()))["subject"].drop_nulls().unique()
    found = found.filter(pl.col("subject").is_in(subjects.to_list()))
    standing: pl.DataFrame = (
        scored(lazy(found.filter(pl.col("rule").is_null())), lazy(patients)).collect("polars").to_native()
    )
    by_subject: dict[str, Signal] = {}
    signals = vital_signals(standing, settings, where)
    for signal in sorted(signals, key=lambda signal: (signal.observed_at, bool(signal.is_raised))):
        if signal.is_raised is not None:
            by_subject[signal.subject] = signal
    timed = _timed(found).drop_nulls("measured_at")
    ever = timed.group_by("subject", "visit_id").agg(pl.col("measured_at").max())
    for subject, measured_at in ever.select("subject", "measured_at").iter_rows():
        by_subject.setdefault(
            subject,
            Signal(CRITICAL_VITALS, subject, measured_at, False, "critical", "the critical vital signs were withdrawn"),
        )
    repeated = _with(timed, _is_repeated=has_code(AMBIGUOUS_HOUR)).filter("_is_repeated").with_columns(_AGAIN)
    both = pl.concat(frame.select("subject", "measured_at") for frame in (timed, repeated))
    moments = {subject: frozenset(of) for subject, of in both.group_by("subject").agg("measured_at").iter_rows()}
    board = (
        ever.filter(pl.col("visit_id").is_not_null())
        .select("visit_id", "measured_at")
        .join(board_vitals(standing).drop("measured_at"), on="visit_id", how="left")
    )
    corrects = [replace(signal, corrects=moments[subject]) for subject, signal in by_subject.items()]
    return Corrected(frozenset(subjects), corrects, board)


def _with(frame: pl.DataFrame, **columns: nw.Expr) -> pl.DataFrame:
    """Add columns that the measures define."""
    return nw.from_native(frame).with_columns(**columns).to_native()


def _timed(observed: pl.DataFrame) -> pl.DataFrame:
    """Those vital signs whose time is known."""
    return nw.from_native(observed).filter(is_timed()).to_native()


def _beyond(column: str, side: str, threshold: VitalThreshold) -> pl.Expr:
    limit: float = getattr(threshold, side)
    passed: pl.Expr = pl.col(column) <= limit if side == "low" else pl.col(column) >= limit
    is_meant = (pl.col("age_years") >= threshold.minimum_age_years).fill_null(True)
    return passed & is_meant


def _in_words(column: str, limit: float) -> pl.Expr:
    name, unit = _VITALS.get(column, (column, ""))
    return pl.format(f"{name} {{}} {unit} (limit {limit:g})", pl.col(column).round(1))


def landed_visits(raw: pl.DataFrame, hospitals: pl.DataFrame, profiles: Profiles) -> pl.DataFrame:
    """Visits as the newest of some landed records say, cleaned as the batch does it."""
    validated = validate_er_visits(lazy(raw), lazy(hospitals), profiles)
    # Who left, or was seen, at an unknown time has left or was seen: as of the record. A cancelled visit is over.
    written_at = nw.coalesce("recorded_at", "arrival_at")
    is_over = has_code(DEPARTURE_TIME_UNKNOWN, VISIT_CANCELLED)
    visits: pl.DataFrame = (
        validated.filter(nw.col("rule").is_null())
        .with_columns(
            departure_at=nw.coalesce("departure_at", nw.when(is_over).then(written_at)),
            provider_at=nw.coalesce("provider_at", nw.when(has_code(PROVIDER_TIME_UNKNOWN)).then(written_at)),
        )
        .collect("polars")
        .to_native()
    )
    return visits.sort("recorded_at", nulls_last=False).unique("visit_id", keep="last")


def board_visits(visits: pl.DataFrame, patients: pl.DataFrame) -> pl.DataFrame:
    """Visits as the live board shows them, with the age on arrival."""
    newest = (
        patients.sort("valid_from_at")
        .unique("patient_id", keep="last")
        .select("patient_id", "birth_date", "age_at_extract_years")
    )
    aged: pl.DataFrame = (
        lazy(visits.join(newest, on="patient_id", how="left"))
        .with_columns(
            age_years=age_in_years("birth_date", "arrival_local", "age_at_extract_years"),
            is_cancelled=has_code(VISIT_CANCELLED),
        )
        .collect("polars")
        .to_native()
    )
    return aged.select(
        "visit_id",
        "patient_id",
        "hospital_id",
        "department_name",
        "triage_level",
        "arrival_at",
        "arrival_local",
        "triage_at",
        "provider_at",
        "decision_at",
        "departure_at",
        "disposition",
        "doctor_id",
        "chief_complaint",
        "age_years",
        "is_cancelled",
        recorded_at=pl.coalesce("recorded_at", "arrival_at"),
    )


def board_vitals(observed: pl.DataFrame) -> pl.DataFrame:
    """Vital signs as the live board shows them: the newest NEWS2 of each visit."""
    return (
        _timed(observed)
        .filter(pl.col("visit_id").is_not_null())
        .sort("measured_at")
        .unique("visit_id", keep="last")
        .select("visit_id", "measured_at", "news2_score", "has_news2_red_parameter")
    )


def visit_states(visits: pl.DataFrame) -> list[VisitState]:
    """Visits as the rule of critical waits needs them."""
    rows = _with(visits, start_at=waiting_since(), _is_critical=is_critical()).select(
        "visit_id",
        "hospital_id",
        "department_name",
        "triage_level",
        # Nobody can say how long somebody waits who came at an unknown time: since the record was written, at least.
        start_at=pl.coalesce("start_at", "recorded_at"),
        is_waiting=pl.col("start_at").is_not_null()
        & pl.col("_is_critical")
        & pl.col("provider_at").is_null()
        & pl.col("departure_at").is_null(),
        recorded_at=pl.coalesce("recorded_at", "arrival_at"),
    )
    return [VisitState(**row) for row in rows.iter_rows(named=True)]


def critical_waits(visits: Sequence[VisitState], now: datetime, level: Level) -> list[Signal]:
    """Critical patients without a provider: how long each has waited."""
    signals = []
    for visit in visits:
        minutes = (now - visit.start_at).total_seconds() / 60
        signals.append(
            Signal(
                CRITICAL_WAIT,
                visit.visit_id,
                now,
                _passes(minutes, level),
                "critical",
                f"a triage {visit.triage_level} patient has waited {minutes:.0f} min for a provider "
                f"(limit {level.raise_at:g})",
                round(minutes, 1),
                level.raise_at,
                "min",
                visit.hospital_id,
                visit.department_name,
            )
        )
    return signals


def not_lapsed(stays: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """The open stays whose patients still count as there (`measures.presence`), of the copy `open_stays`."""
    until = segment_until("segment_start_at", "segment_end_at")
    found: pl.DataFrame = nw.from_native(stays).filter(until > nw.lit(now)).to_native()
    return found


def overstays(stays: pl.DataFrame, now: datetime, hours: Mapping[str, float]) -> list[Signal]:
    """Departments with stays that have lasted longer than the limit of their class.

    Args:
        stays: as from `not_lapsed`.
        hours: class of stay -> the limit; other classes have none.
    """
    long = stays.with_columns(
        hours=(pl.lit(now) - pl.col("stay_start_at")).dt.total_seconds() / 3600,
        limit=pl.col("stay_class").replace_strict(dict(hours), default=None, return_dtype=pl.Float64),
    ).filter(pl.col("hours") > pl.col("limit"))
    rows = long.group_by("hospital_id", "department_id", "department_name").agg(
        pl.len().alias("count"), pl.col("hours").max(), pl.col("limit").min()
    )
    return [
        Signal(
            OVERSTAY,
            row["department_id"],
            now,
            True,
            "warning",
            f"{row['count']} {'stay' if row['count'] == 1 else 'stays'} longer than {row['limit']:g} h, "
            f"the longest {row['hours']:.0f} h",
            float(row["count"]),
            row["limit"],
            "h",
            row["hospital_id"],
            row["department_name"],
        )
        for row in rows.iter_rows(named=True)
    ]


def full_departments(stays: pl.DataFrame, now: datetime, level: Level) -> list[Signal]:
    """Departments with more patients than their beds allow; those of unknown capacity are left out.

    Args:
        stays: as from `not_lapsed`.
        level: in percent of the beds.
    """
    rows = (
        stays.filter(pl.col("bed_capacity") > 0)
        .group_by("hospital_id", "department_id", "department_name", "bed_capacity")
        .agg(pl.len().alias("patients"))
        .with_columns(pct=100.0 * pl.col("patients") / pl.col("bed_capacity"))
    )
    return [
        Signal(
            OCCUPANCY,
            row["department_id"],
            now,
            _passes(row["pct"], level),
            "warning",
            f"{row['patients']} patients in {row['bed_capacity']} beds ({row['pct']:.0f} %, limit "
            f"{level.raise_at:g} %)",
            round(row["pct"], 1),
            level.raise_at,
            "%",
            row["hospital_id"],
            row["department_name"],
        )
        for row in rows.iter_rows(named=True)
    ]


def silent_feeds(newest: Mapping[str, datetime], limits: Mapping[str, float], wall: datetime) -> list[Signal]:
    """Feeds of which nothing has landed for too long.

    Args:
        newest: feed -> when its newest file landed; a feed that never landed anything is not there.
        wall: the wall clock; files land in its time.
    """
    signals = []
    for feed, landed_at in newest.items():
        minutes = (wall - landed_at).total_seconds() / 60
        limit = limits.get(feed)
        if limit is not None:
            signals.append(
                Signal(
                    FEED_SILENT,
                    feed,
                    wall,
                    minutes >= limit,
                    "error",
                    f"nothing of the feed '{feed}' has landed for {minutes:.0f} min (limit {limit:g})",
                    round(minutes, 1),
                    limit,
                    "min",
                )
            )
    return signals


def files_waiting(since_ns: Sequence[int], minutes: float, wall: datetime) -> list[Signal]:
    """Files that wait although they should have been loaded long ago: nothing refreshes.

    Args:
        since_ns: when each waiting file was last modified.
    """
    oldest = datetime.fromtimestamp(min(since_ns) / 1e9, UTC) if since_ns else wall
    waited = (wall - oldest) / timedelta(minutes=1)
    return [
        Signal(
            FILES_WAITING,
            "landing",
            wall,
            bool(since_ns) and waited >= minutes,
            "error",
            f"{len(since_ns)} landed files wait to be loaded, the oldest for {waited:.0f} min: is "
            "`hospital dev` or `hospital watch` running?",
            round(waited, 1),
            minutes,
            "min",
        )
    ]


def unreadable_files(ledger: pl.DataFrame, wall: datetime) -> list[Signal]:
    """Sources of which landed files cannot be read: one alert for each, which names the first."""
    found = (
        ledger.filter(pl.col("state") == "unreadable")
        .sort("source_file")
        .group_by("source_profile", maintain_order=True)
        .agg(pl.col("source_file").n_unique().alias("files"), pl.col("source_file", "problem").first())
    )
    return [
        Signal(
            FILES_UNREADABLE,
            profile,
            wall,
            True,
            "warning",
            f"{files} landed files of {profile} cannot be read, the first is {label_of(first)}: {problem}",
            float(files),
        )
        for profile, files, first, problem in found.select("source_profile", "files", "source_file", "problem").rows()
    ]


def quarantined_file(path: str, wall: datetime) -> Signal:
    """A file that made every run fail and was quarantined."""
    return Signal(
        FILE_QUARANTINED,
        path,
        wall,
        True,
        "error",
        f"{label_of(path)}: every run with it failed, it is quarantined; the rest goes on. See the failed "
        "runs, then deliver a corrected file or use `hospital retry`",
    )


def loading_stopped(files: int, wall: datetime) -> Signal:
    """Whether loading has stopped, because files failed alone one after the other and none got through."""
    return Signal(
        RUN_FAILED,
        "loading",
        wall,
        files > 0,
        "error",
        f"loading has stopped: {files} files failed alone, one after the other, and none got through; the fault is "
        "likely in no file. See the failed runs; it is tried again every ten minutes",
    )


def run_signal(job: str, run_id: str, failed_steps: Sequence[str] | None, ended: datetime) -> Signal:
    """How a job's newest run ended.

    Args:
        failed_steps: None when it succeeded. Their messages stay in Dagster: they might quote a value.
    """
    where = f" in {', '.join(sorted(failed_steps)[:3])}" if failed_steps else ""
    return Signal(
        RUN_FAILED,
        job,
        ended,
        failed_steps is not None,
        "error",
        f"the run {run_id[:8]} of {job} failed{where}; what it replaces is as it was before",
    )


#: Warnings that somebody should hear of all the same, in words without any patient's data.
_TOLD_WARNINGS = {
    "columns_known": "a source has changed its columns",
    "columns_present": "a source has changed its columns",
    "stream_offsets": "a stream's records are missing or there twice",
}


def check_signals(evaluations: Iterable[dg.AssetCheckEvaluation], moment: datetime) -> list[Signal]:
    """Alerts on asset checks of severity ERROR and on the warnings that alert: the newest outcome of each decides."""
    newest = {
        f"{found.asset_key.path[-1]}.{found.check_name}": found
        for found in evaluations
        if found.severity == dg.AssetCheckSeverity.ERROR or found.check_name in _TOLD_WARNINGS
    }
    return [
        Signal(
            CHECK_FAILED,
            name,
            moment,
            not found.passed,
            "error" if found.severity == dg.AssetCheckSeverity.ERROR else "warning",
            f"{_TOLD_WARNINGS[found.check_name]}: {found.description}"
            if found.check_name in _TOLD_WARNINGS
            else f"the check {name} failed; its findings are in Dagster",
        )
        for name, found in newest.items()
    ]


def _passes(value: float, level: Level) -> bool | None:
    """Raised, cleared, or (between the two) as it was."""
    if value >= level.raise_at:
        return True
    return False if value <= level.clear_at else None
