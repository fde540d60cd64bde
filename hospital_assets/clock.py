"""What time it is in a data directory.

The wall clock, unless `hospital simulate --live` runs faster than it: then the simulated one, which
it writes down for all to read. A directory whose service days have ended stands still at their end;
one whose days all lie ahead is de-identified data shifted in time, and stands there, too.
Only the edges ask (commands, sensors, checks); transforms take the moment as an argument.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from hospital_assets.files import StateError, read_state, replace_text
from hospital_assets.settings import Settings

#: When the last local day has ended everywhere on Earth, in UTC.
_LAST_MIDNIGHT = time(12, tzinfo=UTC)


@dataclass(frozen=True)
class SimulatedClock:
    """A clock that runs at its own speed.

    Attributes:
        wall_epoch_seconds: the wall clock when it was started, seconds since 1970.
        speed: simulated seconds per second; 0 for a clock that was stopped.
    """

    wall_epoch_seconds: float
    epoch_seconds: float
    speed: float

    def now(self, wall: datetime) -> datetime:
        """What the clock shows at a moment of the wall clock."""
        passed = wall.timestamp() - self.wall_epoch_seconds
        return datetime.fromtimestamp(self.epoch_seconds + passed * self.speed, UTC)


def write_simulated_clock(settings: Settings, clock: SimulatedClock) -> None:
    """Let everybody in a data directory live by this clock."""
    replace_text(settings.clock_file, json.dumps(asdict(clock)))


def hospital_now(settings: Settings, wall: datetime | None = None) -> datetime:
    """The moment in the hospital: simulated or real, and never after the last service day."""
    wall = wall or datetime.now(UTC)
    try:
        stated = read_state(settings.clock_file, "remove it, or `hospital simulate` anew")
        now = SimulatedClock(**stated).now(wall)
    except FileNotFoundError:
        now = wall
    except (TypeError, AttributeError):
        raise StateError(f"{settings.clock_file} is not what was written there: remove it") from None
    end = _end(settings)
    if end is None:
        return now
    is_shifted = settings.first_service_date > now.date() + timedelta(days=1)
    return end if is_shifted else min(now, end)


def end_of_day(day: date, time_zone: str) -> datetime:
    """When a local day is over, in UTC."""
    return datetime.combine(day + timedelta(days=1), time(), ZoneInfo(time_zone)).astimezone(UTC)


def over_everywhere(day: date) -> datetime:
    """When a day is over in every time zone."""
    return datetime.combine(day + timedelta(days=1), _LAST_MIDNIGHT)


def last_whole_day(now: datetime) -> date:
    """The latest day that is over in every time zone."""
    return (now.astimezone(UTC) - timedelta(hours=12)).date() - timedelta(days=1)


def is_live(settings: Settings, wall: datetime | None = None) -> bool:
    """Whether the service days are still going on, so that there is somebody to alert."""
    end = _end(settings)
    return end is None or hospital_now(settings, wall) < end


def _end(settings: Settings) -> datetime | None:
    if settings.last_service_date is None:
        return None
    return over_everywhere(settings.last_service_date)
