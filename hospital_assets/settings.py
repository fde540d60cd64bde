"""Where a data directory keeps its things, and which service days it covers.

Everything hangs off one directory, `HOSPITAL_DATA_DIR` (default `data/`), so two builds in two
directories never meet. `hospital.toml` in that directory states the service days and the source
profiles; `hospital simulate` and `hospital import` write it, people may edit it.

Belongs here: paths and the period. Does not: anything about a table, a file format or an engine.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from hospital_assets.addresses import is_protected
from hospital_assets.directory import refuse_newer
from hospital_assets.files import replace_text
from hospital_assets.toml_text import TextError, text_of

PartitionGrain = Literal["daily", "monthly", "yearly"]
#: Methods that forecast arrivals only where they are asked for.
Challenger = Literal["boosted_trees"]
CHALLENGERS: tuple[Challenger, ...] = get_args(Challenger)
DEFAULT_FIRST_SERVICE_DATE = date(2026, 1, 1)
#: Days beyond have no calendar in Dagster or DuckDB, or no year of four digits.
_EARLIEST, _LATEST = date(1900, 1, 1), date(2999, 12, 31)


class SettingsError(ValueError):
    """`hospital.toml` says something that cannot be used."""


@dataclass(frozen=True)
class FileLimits:
    """What one landed file may cost. Beyond, its state is `unreadable` and the rest goes on.

    The keys of `hospital.toml` are called alike, with `most_file_` before: `most_file_megabytes`.

    Attributes:
        megabytes: its size, as landed and unpacked (millions of bytes).
        ratio: how many times its own size it may become when it is unpacked, from 64 MB on: text packs
            by 3 to 50 times, a bomb by 1,000.
        seconds: how long it may take to be read.
        memory_megabytes: the memory that its reader may take (where the system tells: Linux).
    """

    megabytes: int = 4_000
    ratio: int = 200
    seconds: int = 600
    memory_megabytes: int = 8_000


DEFAULT_LIMITS = FileLimits()


@dataclass(frozen=True)
class StaffingSettings:
    """The rules of the emergency doctors' rosters and the ratios of nurses: the table `[staffing]` of `hospital.toml`.

    Attributes:
        shift_starts: local hours at which a shift may start.
        shift_hours: how long one may last.
        least_doctors: on shift in every hour.
        most_doctors: on shift in any hour.
        distinct_starts: at most so many different hours at which shifts start; 0: any number.
        rest_hours: between two shifts of a doctor (Directive 2003/88/EC, article 3: 11).
        target_minutes: so fast are patients to be seen ...
        target_pct: ... of so many of them (local).
        hours_a_week: doctors' hours of each hospital; others keep those of their present roster.
        patients_per_nurse: at triage levels 1 to 5: 1:1 in resuscitation (RCN and RCEM, Nursing Workforce Standards for
            Type 1 Emergency Departments, 2020), 1:2, 1:4 (NICE draft of January 2015, withdrawn before it was final).
        fixed_nurses: posts besides, always filled: triage, in charge (the same draft).
    """

    shift_starts: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21, 23)
    shift_hours: tuple[int, ...] = (8, 10)
    least_doctors: int = 1
    most_doctors: int = 12
    distinct_starts: int = 0
    rest_hours: int = 11
    target_minutes: int = 30
    target_pct: int = 80
    hours_a_week: tuple[tuple[str, int], ...] = ()
    patients_per_nurse: tuple[int, ...] = (1, 2, 4, 4, 4)
    fixed_nurses: int = 2


@dataclass(frozen=True)
class MirrorSettings:
    """The mirror of the tables for other engines: the table `[mirror]` of `hospital.toml`.

    Attributes:
        address: a folder, below the data directory unless it is absolute, or an object store's, as in
            `s3://bucket/folder`; empty: there is no mirror.
        kept_days: how long its versions stay.
    """

    address: str = ""
    kept_days: int = 90


@dataclass(frozen=True)
class BackupSettings:
    """Where backups go, who can open them and how many are kept: the table `[backup]` of `hospital.toml`.

    Attributes:
        folder: where they are, an absolute path outside the data directory; empty: named with each command.
        recipients: public keys of those who can open them, of age or SSH; none: they are not encrypted.
        keep: how many there are at most.
    """

    folder: str = ""
    recipients: tuple[str, ...] = ()
    keep: int = 14


#: Key of `[staffing]` -> least and most that its numbers may be.
_STAFFING_RANGES = {
    "shift_starts": (0, 23),
    "shift_hours": (1, 24),
    "least_doctors": (0, 100),
    "most_doctors": (1, 100),
    "distinct_starts": (0, 24),
    "rest_hours": (0, 48),
    "target_minutes": (1, 1_440),
    "target_pct": (1, 99),
    "hours_a_week": (1, 100_000),
    "patients_per_nurse": (1, 100),
    "fixed_nurses": (0, 100),
}
_TRIAGE_LEVELS = 5


@dataclass(frozen=True)
class IdentitySettings:
    """Sign-in at an identity provider by OpenID Connect: the table `[identity]` of `hospital.toml`.

    The client's secret is not among them: it comes from the environment or a file (`access.identity`).

    Attributes:
        issuer: the provider, letter by letter as its tokens name it.
        client_id: what the dashboard is called there.
        url: where browsers reach the dashboard; people are sent back there.
        roles: value of the claim -> audience (`analyst`, `doctor-H1`); of several that somebody has they begin in the
            first and may choose another.
        claim: where tokens state groups; dots lead into objects, as in `realm_access.roles`.
        name_claim: what people are called in the audit; the subject where a token lacks it.
        scopes: what the provider is asked for.
        label: what the button of the sign-in page calls the provider.
        api_audience: what the gateway is called in access tokens of programs; empty: it takes none.
        api_scope: the scope that such a token must have.
    """

    issuer: str
    client_id: str
    url: str
    roles: tuple[tuple[str, str], ...]
    claim: str = "groups"
    name_claim: str = "preferred_username"
    scopes: tuple[str, ...] = ("openid", "profile")
    label: str = "identity provider"
    api_audience: str = ""
    api_scope: str = "hospital.query"


@dataclass(frozen=True)
class Settings:
    """One data directory: its paths, its period, its source profiles.

    Attributes:
        data_dir: the directory everything hangs off.
        first_service_date: the first local service day (inclusive).
        last_service_date: the last local service day (inclusive); None = open ended, up to today.
        partitions: how many days one partition covers. Hospitals use daily; de-identified
            research data spread over a century (MIMIC) uses yearly.
        refresh_after_files: a sensor asks for a run when this many files wait,
        refresh_after_seconds: or when one has waited this long.
        dagster_url: where people open Dagster, for links to it.
        limits: what one landed file may cost.
        baselines_from: days from which the limits of chance of all series are computed anew, after a change that is
            understood; otherwise they are those of a series' first days for ever.
        holiday_calendars: hospital and whose public holidays it keeps for forecasts (`US-WI`, `GB-SCT`, `none`); others
            keep those of their time zone's country and their state.
        forecast_challengers: methods that may forecast arrivals where they beat the others (`CHALLENGERS`).
        staffing: rules of rosters.
        mirror: where the tables are mirrored for other engines.
        backup: where backups go.
        identity: the provider that people may sign in at; None for local accounts only.
    """

    data_dir: Path
    first_service_date: date = DEFAULT_FIRST_SERVICE_DATE
    last_service_date: date | None = None
    partitions: PartitionGrain = "daily"
    refresh_after_files: int = 5
    refresh_after_seconds: int = 1
    dagster_url: str = "http://localhost:3000"
    limits: FileLimits = DEFAULT_LIMITS
    baselines_from: tuple[date, ...] = ()
    holiday_calendars: tuple[tuple[str, str], ...] = ()
    forecast_challengers: tuple[Challenger, ...] = ()
    staffing: StaffingSettings = StaffingSettings()
    mirror: MirrorSettings = MirrorSettings()
    backup: BackupSettings = BackupSettings()
    identity: IdentitySettings | None = None

    @property
    def mirror_root(self) -> str:
        """Where the mirror is: a path, or the address of an object store; empty where there is none."""
        address = self.mirror.address
        return address if not address or "://" in address else str((self.data_dir / address).resolve())

    @property
    def landing(self) -> Path:
        """Where source systems drop files, one folder per source profile."""
        return self.data_dir / "landing"

    @property
    def ground_truth(self) -> Path:
        """What the simulator knows to be true; no asset ever reads it."""
        return self.data_dir / "ground_truth"

    @property
    def warehouse_file(self) -> Path:
        """The DuckDB database."""
        return self.data_dir / "warehouse" / "hospital.duckdb"

    @property
    def reports(self) -> Path:
        """Pages and files written for people."""
        return self.data_dir / "reports"

    @property
    def gathered_quality(self) -> Path:
        """What the data quality page shows, as JSON for the dashboard."""
        return self.reports / "quality.json"

    @property
    def streamed_vitals(self) -> Path:
        """What the Spark stream has made of landed vital signs."""
        return self.data_dir / "live_vitals"

    @property
    def dagster_home(self) -> Path:
        """Dagster's own storage: runs, events, check history."""
        return self.data_dir / "dagster"

    @property
    def settings_file(self) -> Path:
        """The TOML file these settings come from."""
        return self.data_dir / "hospital.toml"

    @property
    def restoring_note(self) -> Path:
        """There while a backup is being restored into the directory: not everything is in it yet."""
        return self.data_dir / ".restoring.json"

    @property
    def policy_file(self) -> Path:
        """Who may see what, where the hospital has a policy of its own."""
        return self.data_dir / "policy.toml"

    @property
    def alerts_file(self) -> Path:
        """Thresholds of alerts, and who is notified."""
        return self.data_dir / "alerts.toml"

    @property
    def profiles_folder(self) -> Path:
        """Source profiles of the hospital's own, a TOML file each."""
        return self.data_dir / "profiles"

    @property
    def kept_profiles_folder(self) -> Path:
        """Those of them that landed files were last read with, as they were then."""
        return kept_profiles(self.profiles_folder)

    @property
    def clock_file(self) -> Path:
        """The simulated clock, where time is not the wall clock's."""
        return self.data_dir / "simulated_clock.json"

    @property
    def configuration(self) -> tuple[Path, ...]:
        """Files and folders that tables, publications and alerts depend on, in addition to landed files.

        Whatever makes a data directory from another takes these along. A new one is added here.
        """
        kept = (self.kept_profiles_folder, self.clock_file)
        return (self.settings_file, self.policy_file, self.alerts_file, self.profiles_folder, *kept)


def kept_profiles(profiles_folder: Path) -> Path:
    """Where the source profiles of a folder are kept as landed files were last read with them."""
    return profiles_folder.with_name("warehouse") / "profiles"


Engine = Literal["duckdb", "spark", "mixed"]


@dataclass(frozen=True)
class EngineSettings:
    """Which engine computes the tables. Where they are stored follows from it.

    Attributes:
        engine: duckdb: all tables in the warehouse file. spark: all tables in the lake. mixed: assets
            with the tag `hospital/engine: spark` on Spark, the others on DuckDB.
        spark_master: as Spark has it: `local[2]`, `spark://host:7077`, `yarn`, `k8s://...`.
        lake: folder or object store address of the lake; default `lake/` in the data directory.
        in_memory_rows: what a step on DuckDB reads is computed in memory, by Polars, up to so many rows in all:
            planning SQL takes longer than computing so few. The results are the same; 0 computes all on DuckDB.
    """

    engine: Engine = "duckdb"
    spark_master: str = "local[*]"
    lake: str = ""
    in_memory_rows: int = 50_000

    def lake_of(self, settings: Settings) -> str:
        """Where the tables of a data directory are when Spark makes them."""
        return self.lake or str(settings.data_dir / "lake")


def engine_from_environment() -> EngineSettings:
    """The engine named by `HOSPITAL_ENGINE`, `HOSPITAL_SPARK_MASTER`, `HOSPITAL_LAKE` and `HOSPITAL_IN_MEMORY_ROWS`.

    Raises:
        SettingsError: there is no such engine, the rows are no whole number, or the lake's address is a pattern.
    """
    engines: tuple[Engine, ...] = ("duckdb", "spark", "mixed")
    named = os.environ.get("HOSPITAL_ENGINE", "duckdb")
    engine = next((engine for engine in engines if engine == named), None)
    if engine is None:
        raise SettingsError(f"HOSPITAL_ENGINE must be duckdb, spark or mixed, not '{named}'")
    rows = os.environ.get("HOSPITAL_IN_MEMORY_ROWS", str(EngineSettings.in_memory_rows))
    if not rows.isdecimal():
        raise SettingsError(f"HOSPITAL_IN_MEMORY_ROWS must be a whole number of rows, not '{rows}'")
    lake = os.environ.get("HOSPITAL_LAKE", "")
    refuse_pattern(lake, "HOSPITAL_LAKE")
    return EngineSettings(engine, os.environ.get("HOSPITAL_SPARK_MASTER", EngineSettings.spark_master), lake, int(rows))


def data_dir_from_environment() -> Path:
    """The data directory named by `HOSPITAL_DATA_DIR`, `data/` where it is unset or empty.

    Only edges ask: the command, what Dagster loads by itself, the Spark stream's own process.
    """
    return Path(os.environ.get("HOSPITAL_DATA_DIR") or "data").resolve()


#: What DuckDB, Polars and Spark take for a pattern in a path, SQLAlchemy for an address's, or they for a separator.
_PATTERN = re.compile(r"[*?\[\]\\]|%[0-9A-Fa-f]{2}")
_LIMIT = "most_file_"
_LIMITS = {f"{_LIMIT}{key}": value for key, value in asdict(DEFAULT_LIMITS).items()}
#: Tables of `hospital.toml`, alike called in the settings -> an example of each, and what is written above it.
_TABLES = {
    "staffing": ("{ shift_hours = [8, 10] }", "Rules of the rosters that are suggested."),
    "mirror": ('{ address = "mirror" }', "Where the tables are mirrored for other engines."),
    "backup": ('{ folder = "/mnt/backup" }', "Where backups go, who can open them, and how many are kept."),
    "identity": ('{ issuer = "https://..." }', "Where people sign in, besides local accounts."),
}


def load_settings(data_dir: Path) -> Settings:
    """Read `hospital.toml` of a data directory; defaults apply where the file is absent.

    Raises:
        SettingsError: the file is not TOML, a key is unknown or has an unusable value, or the directory's path is taken
            for a pattern.
        DirectoryVersionError: a newer program has written the directory.
    """
    settings = Settings(data_dir=data_dir.resolve())
    refuse_pattern(settings.data_dir, "the data directory")
    refuse_newer(settings.warehouse_file.parent)
    try:
        text = text_of(settings.settings_file)
        values = tomllib.loads(text or "")
    except TextError as error:
        raise SettingsError(str(error)) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{settings.settings_file}: not valid TOML ({error})") from error
    if text is None:
        return settings

    known: dict[str, type] = {
        "first_service_date": date,
        "last_service_date": date,
        "partitions": str,
        "refresh_after_files": int,
        "refresh_after_seconds": int,
        "dagster_url": str,
        "baselines_from": list,
        "holidays": dict,
        "forecast_challengers": list,
        **dict.fromkeys(_TABLES, dict),
        **dict.fromkeys(_LIMITS, int),
    }
    for key, value in values.items():
        if key not in known:
            raise SettingsError(f"{settings.settings_file}: unknown key '{key}'; known keys: {', '.join(known)}")
        if type(value) is not known[key]:
            as_text = f'"{getattr(settings, key, "")}"'
            examples: dict[type, str] = {
                date: "2026-01-01",
                str: as_text,
                int: str(_LIMITS.get(key, 5)),
                list: "[2026-03-01]" if key == "baselines_from" else f'["{CHALLENGERS[0]}"]',
                dict: _TABLES.get(key, ('{ H1 = "US-WI" }',))[0],
            }
            example, name = examples[known[key]], "table" if known[key] is dict else known[key].__name__
            raise SettingsError(f"{settings.settings_file}: '{key}' must be a {name}, as in {key} = {example}")
    first = values.get("first_service_date", settings.first_service_date)
    last = values.get("last_service_date")
    grain = values.get("partitions", settings.partitions)
    if grain not in ("daily", "monthly", "yearly"):
        raise SettingsError(f"{settings.settings_file}: 'partitions' must be daily, monthly or yearly, not '{grain}'")
    for key in ("first_service_date", "last_service_date"):
        if not _EARLIEST <= values.get(key, first) <= _LATEST:
            raise SettingsError(f"{settings.settings_file}: '{key}' must lie between {_EARLIEST} and {_LATEST}")
    if last is not None and last < first:
        raise SettingsError(f"{settings.settings_file}: last_service_date {last} is before first_service_date {first}")
    waits = {key: values.get(key, getattr(settings, key)) for key in ("refresh_after_files", "refresh_after_seconds")}
    limits = {key: values.get(key, default) for key, default in _LIMITS.items()}
    for key, value in {**waits, **limits}.items():
        least = 0 if key == "refresh_after_seconds" else 1
        if value < least:
            raise SettingsError(f"{settings.settings_file}: '{key}' must be at least {least}")
    url = values.get("dagster_url", settings.dagster_url).rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"{settings.settings_file}: 'dagster_url' must begin with http:// or https://")
    baselines = values.get("baselines_from", [])
    if any(type(day) is not date for day in baselines):
        raise SettingsError(f"{settings.settings_file}: 'baselines_from' must be days, as in [2026-03-01]")
    challengers = values.get("forecast_challengers", [])
    if unknown := [name for name in challengers if name not in CHALLENGERS]:
        raise SettingsError(
            f"{settings.settings_file}: 'forecast_challengers' knows {', '.join(CHALLENGERS)}, not {unknown[0]!r}"
        )
    of_files = FileLimits(**{key.removeprefix(_LIMIT): value for key, value in limits.items()})
    return Settings(
        settings.data_dir,
        first,
        last,
        grain,
        **waits,
        dagster_url=url,
        limits=of_files,
        baselines_from=tuple(sorted(baselines)),
        holiday_calendars=_holidays(settings.settings_file, values.get("holidays", {})),
        forecast_challengers=tuple(challengers),
        staffing=_staffing(settings.settings_file, values.get("staffing", {})),
        mirror=_mirror(settings, values.get("mirror", {})),
        backup=_backup(settings.settings_file, values.get("backup", {})),
        identity=_identity(settings.settings_file, values["identity"]) if "identity" in values else None,
    )


def refuse_pattern(place: Path | str, whose: str) -> None:
    """Refuse a place of tables that databases would look for elsewhere.

    Raises:
        SettingsError: its path holds what is taken for a pattern.
    """
    if found := _PATTERN.search(str(place)):
        raise SettingsError(
            f"{whose} {place} cannot be used: databases take '{found.group()}' in a path for something else, and would "
            "read or write other files. Choose a path without * ? [ ] \\ and codes such as %20"
        )


def _holidays(file: Path, values: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The table `[holidays]`."""
    if not values:
        return ()
    # Importing it takes longer than all else here.
    import holidays

    known = dict(sorted(holidays.list_supported_countries(include_aliases=False).items()))
    for hospital, stated in values.items():
        key = f"{file}: 'holidays.{hospital}'"
        if type(stated) is not str:
            raise SettingsError(f'{key} must be a text, as in holidays = {{ H1 = "US-WI", H2 = "DE", H3 = "none" }}')
        country, dash, region = stated.partition("-")
        if stated != "none" and country not in known:
            raise SettingsError(
                f"{key} names no country that is known, but '{stated}'; known: none, {', '.join(known)}"
            )
        if dash and region not in known[country]:
            regions = f"{country}-{f', {country}-'.join(known[country])}" if known[country] else "none"
            raise SettingsError(f"{key} names no region that is known, but '{stated}'; known of {country}: {regions}")
    return tuple(sorted(values.items()))


def _check_keys(file: Path, table: str, values: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a table with a key that it does not have."""
    known = tuple(known)
    for key in values:
        if key not in known:
            raise SettingsError(f"{file}: unknown key '{table}.{key}'; known keys: {', '.join(known)}")


def _mirror(settings: Settings, values: dict[str, Any]) -> MirrorSettings:
    """The table `[mirror]`."""
    file, known = settings.settings_file, asdict(MirrorSettings())
    _check_keys(file, "mirror", values, known)
    for key, value in values.items():
        if type(value) is not type(known[key]):
            raise SettingsError(f"{file}: 'mirror.{key}' must be a {type(known[key]).__name__}")
    found = MirrorSettings(**values)
    scheme, is_store, rest = found.address.partition("://")
    if found.address and ("@" in rest or "?" in rest or (is_store and not (scheme and rest))):
        raise SettingsError(
            f"{file}: 'mirror.address' must be a folder, or a bucket and folder as in s3://bucket/folder; keys and "
            "endpoint come from the environment"
        )
    if found.kept_days < 1:
        raise SettingsError(f"{file}: 'mirror.kept_days' must be at least 1")
    refuse_pattern(found.address, f"{file}: 'mirror.address'")
    root = Path(replace(settings, mirror=found).mirror_root)
    # Publications are given to people who may not see what is in it.
    ours = (settings.landing, settings.data_dir / "published", settings.warehouse_file.parent, settings.dagster_home)
    is_ours = root == settings.data_dir or any(map(root.is_relative_to, ours)) or found.address.strip() != found.address
    if found.address and not is_store and is_ours:
        raise SettingsError(f"{file}: 'mirror.address' must name a folder of its own, as in address = \"mirror\"")
    return found


def _backup(file: Path, values: dict[str, object]) -> BackupSettings:
    """The table `[backup]`."""
    _check_keys(file, "backup", values, asdict(BackupSettings()))
    folder, recipients = values.get("folder", ""), values.get("recipients", [])
    keep = values.get("keep", BackupSettings.keep)
    if not isinstance(folder, str) or (folder and not Path(folder).is_absolute()):
        raise SettingsError(f"{file}: 'backup.folder' must be an absolute path, as in folder = \"/mnt/backup\"")
    if not isinstance(recipients, list) or not all(isinstance(one, str) for one in recipients):
        raise SettingsError(f"{file}: 'backup.recipients' must be public keys, as in recipients = [\"age1...\"]")
    if type(keep) is not int or keep < 1:
        raise SettingsError(f"{file}: 'backup.keep' must be a whole number from 1, as in keep = {BackupSettings.keep}")
    return BackupSettings(folder, tuple(recipients), keep)


def _staffing(file: Path, values: dict[str, object]) -> StaffingSettings:
    """The table `[staffing]`."""
    _check_keys(file, "staffing", values, _STAFFING_RANGES)
    stated: dict[str, Any] = {key: _staffing_value(file, key, value) for key, value in values.items()}
    found = StaffingSettings(**stated)
    if found.least_doctors > found.most_doctors:
        raise SettingsError(f"{file}: 'staffing.least_doctors' is more than 'staffing.most_doctors'")
    if len(found.patients_per_nurse) != _TRIAGE_LEVELS:
        raise SettingsError(f"{file}: 'staffing.patients_per_nurse' must have {_TRIAGE_LEVELS} numbers, one a level")
    return found


def _staffing_value(file: Path, key: str, value: object) -> object:
    """A value as the settings hold it: a number, numbers, or numbers by hospital."""
    default = getattr(StaffingSettings, key)
    low, high = _STAFFING_RANGES[key]
    shape, example, numbers = "a whole number", str(default), [value]
    if key == "hours_a_week":
        shape, example = "whole numbers by hospital", "{ H1 = 560 }"
        numbers = [*value.values()] if isinstance(value, dict) else []
    elif isinstance(default, tuple):
        shape, example = "a list of whole numbers", str(list(default))
        numbers = value if isinstance(value, list) else []
    if not numbers or any(type(one) is not int or not low <= one <= high for one in numbers):
        raise SettingsError(f"{file}: 'staffing.{key}' must be {shape} from {low} to {high:,}, as in {key} = {example}")
    if isinstance(value, dict):
        return tuple(sorted(value.items()))
    return tuple(numbers) if isinstance(default, tuple) else value


def _identity(file: Path, values: dict[str, object]) -> IdentitySettings:
    """The table `[identity]`; whether the policy has its roles is for whoever has the policy to say."""
    known = {field.name: field for field in fields(IdentitySettings)}
    stated: dict[str, Any] = {}
    if any("secret" in key for key in values):
        raise SettingsError(f"{file}: the secret of 'identity' does not belong here: set HOSPITAL_OIDC_CLIENT_SECRET")
    _check_keys(file, "identity", values, known)
    for key, value in values.items():
        if key == "roles":
            is_right = isinstance(value, dict) and all(isinstance(one, str) and one for one in value.values())
            shape = 'a table, as in roles = { "ED Analysts" = "analyst" }'
        elif key == "scopes":
            is_right = isinstance(value, list) and "openid" in value and all(isinstance(one, str) for one in value)
            shape = 'a list of texts with "openid"'
        else:
            is_right, shape = isinstance(value, str) and bool(value.strip()), "a text"
        if not is_right:
            raise SettingsError(f"{file}: 'identity.{key}' must be {shape}")
        stated[key] = tuple(value.items()) if isinstance(value, dict) else value
    stated["scopes"] = tuple(stated.get("scopes", IdentitySettings.scopes))
    for key in (name for name, field in known.items() if field.default is MISSING):
        if not stated.get(key):
            raise SettingsError(f"{file}: 'identity.{key}' is missing")
    found = IdentitySettings(**stated)
    for key in ("issuer", "url"):
        address = getattr(found, key)
        if not is_protected(address) or "?" in address or "#" in address:
            raise SettingsError(
                f"{file}: 'identity.{key}' must be an address that begins with https://, without ? and #"
            )
    if urlsplit(found.url).path not in ("", "/"):
        raise SettingsError(f"{file}: 'identity.url' has no path, as in https://ed.example.org")
    if found.api_audience == found.client_id:
        raise SettingsError(
            f"{file}: 'identity.api_audience' must differ from 'identity.client_id': what was made out for a browser's "
            "sign-in is no pass for programs; register the gateway on its own"
        )
    return replace(found, url=found.url.rstrip("/"))


def write_settings(settings: Settings) -> None:
    """Write `hospital.toml` for a data directory (by rename, so that readers see all or nothing)."""
    lines = ["# Which local service days this data directory covers, and how they are partitioned."]
    stated = {"first_service_date": settings.first_service_date, "last_service_date": settings.last_service_date}
    lines += [f"{key} = {_toml(day)}" for key, day in stated.items() if day is not None]
    lines.append(f"partitions = {_toml(settings.partitions)}")
    lines.append("# A sensor asks for a run when this many files wait, or one has waited this long.")
    lines += [f"{key} = {getattr(settings, key)}" for key in ("refresh_after_files", "refresh_after_seconds")]
    if settings.dagster_url != Settings.dagster_url:
        lines.append(f"dagster_url = {_toml(settings.dagster_url)}")
    if settings.limits != DEFAULT_LIMITS:
        lines.append("# What one landed file may cost; beyond, it is `unreadable` and the rest goes on.")
        lines += [f"{_LIMIT}{key} = {value}" for key, value in asdict(settings.limits).items()]
    if settings.baselines_from:
        lines.append("# Limits of chance are computed anew from these days on.")
        lines.append(f"baselines_from = {_toml(settings.baselines_from)}")
    if settings.forecast_challengers:
        lines.append("# Methods that may forecast arrivals where they beat the others.")
        lines.append(f"forecast_challengers = {_toml(settings.forecast_challengers)}")
    if settings.holiday_calendars:
        lines += ["", "# Whose public holidays hospitals keep, for forecasts.", "[holidays]"]
        lines += _pairs(settings.holiday_calendars)
    for name, (_, about) in _TABLES.items():
        if (table := getattr(settings, name)) is not None:
            lines += _table(name, about, table)
    replace_text(settings.settings_file, "\n".join(lines) + "\n")


def _table(name: str, about: str, stated: Any) -> list[str]:
    """The lines of a table: what is not as by default, pairs as a table within it; none where all is."""
    values = {field.name: getattr(stated, field.name) for field in fields(stated)}
    changed = {field.name: values[field.name] for field in fields(stated) if values[field.name] != field.default}
    within = {k: v for k, v in changed.items() if isinstance(v, tuple) and v and isinstance(v[0], tuple)}
    lines = ["", f"# {about}", f"[{name}]"] if changed else []
    lines += [f"{key} = {_toml(value)}" for key, value in changed.items() if key not in within]
    for key, value in within.items():
        lines += ["", f"[{name}.{key}]", *_pairs(value)]
    return lines


def _pairs(values: Iterable[tuple[str, object]]) -> list[str]:
    return [f"{_toml(key)} = {_toml(value)}" for key, value in values]


def _toml(value: object) -> str:
    """A day, text, number, or a list of such; texts and numbers JSON writes as TOML does."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
