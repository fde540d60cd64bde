"""Dagster resources over things that need no Dagster: the hospital's clock, its source profiles and the audit.

The dashboard, the gateway and the listeners use those without it: an import of Dagster takes a process 30 MB.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl

from hospital_assets.access.audit import Event, read_entries, record
from hospital_assets.alerts.outbox import Outbox
from hospital_assets.clock import hospital_now
from hospital_assets.landing.registry import load_profiles
from hospital_assets.partitions import latest_day
from hospital_assets.settings import CHALLENGERS, Challenger, Settings
from hospital_assets.warehouse.database import Period


class ClockResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Tells assets and checks the time; they never ask the system themselves."""

    data_dir: str
    first_service_date: str
    last_service_date: str | None = None
    baselines_from: list[str] = []
    holiday_calendars: dict[str, str] = {}
    forecast_challengers: list[str] = []

    @property
    def baselines(self) -> tuple[date, ...]:
        """Days from which limits of chance are computed anew."""
        return tuple(map(date.fromisoformat, self.baselines_from))

    @property
    def challengers(self) -> tuple[Challenger, ...]:
        """Methods that forecast arrivals only where they are asked for."""
        return tuple(method for method in CHALLENGERS if method in self.forecast_challengers)

    @property
    def settings(self) -> Settings:
        """The data directory whose time it is."""
        last = self.last_service_date
        first = date.fromisoformat(self.first_service_date)
        return Settings(Path(self.data_dir), first, None if last is None else date.fromisoformat(last))

    @property
    def service_days(self) -> Period:
        """The service days there are by now, wherever the hospitals lie."""
        settings = self.settings
        last = settings.last_service_date or latest_day(self.wall())
        return Period(settings.first_service_date, last + timedelta(days=1))

    def wall(self) -> datetime:
        """The wall clock."""
        return datetime.now(UTC)

    def now(self) -> datetime:
        """The moment in the hospital."""
        return hospital_now(self.settings)


class AuditResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The audit of a data directory, for assets."""

    data_dir: str

    def entries(self) -> pl.DataFrame:
        """All entries; none where nothing was ever audited."""
        return read_entries(Settings(Path(self.data_dir)))

    def record(self, event: Event) -> None:
        """Write one entry."""
        record(Settings(Path(self.data_dir)), event)

    @contextlib.contextmanager
    def before(self, event: Event) -> Iterator[None]:
        """Write an entry, then act; where that fails, another one says so."""
        self.record(event)
        try:
            yield
        except BaseException as error:
            self.record(replace(event, outcome="failed", reason=type(error).__name__))
            raise


def profiles_resource(folder: Path) -> dg.ResourceDefinition:
    """Gives assets and checks the source profiles as a value, read when a run first asks."""
    return dg.ResourceDefinition(lambda _: load_profiles(folder), description="The source profiles.")


class OutboxResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Brings the outbox to the asset that reads it."""

    file: str

    def alerts(self) -> pl.DataFrame:
        """All alerts, resolved ones too, with their instants; empty where none was ever raised."""
        instants = ("observed_at", "opened_at", "acknowledged_at", "resolved_at")
        texts = ("alert_id", "rule", "severity", "state", "hospital_id", "department_name", "unit")
        numbers = ("value", "worst_value", "threshold")
        schema: dict[str, type[pl.DataType]] = dict.fromkeys((*texts, *instants), pl.String) | dict.fromkeys(
            numbers, pl.Float64
        )
        schema["occurrence_count"] = pl.Int64
        rows = []
        if Path(self.file).exists():
            outbox = Outbox(Path(self.file))
            with contextlib.closing(outbox):
                rows = outbox.alerts(with_resolved=True)
        frame = pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=schema)
        return frame.with_columns(
            pl.col(*instants).str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", time_zone="UTC")
        )
