"""Thresholds and notifiers, from `alerts.toml` in the data directory; every value has a default."""

from __future__ import annotations

import os
import tomllib
from pathlib import PurePath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hospital_assets.measures import thresholds
from hospital_assets.measures.presence import OVERSTAY_HOURS
from hospital_assets.settings import Settings, SettingsError
from hospital_assets.toml_text import TextError, text_of

Severity = Literal["critical", "error", "warning"]
#: From the most to the least urgent.
SEVERITIES: tuple[Severity, ...] = ("critical", "error", "warning")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VitalThreshold(_Strict):
    """A vital sign is critical at or below `low`, at or above `high`.

    Attributes:
        low: in the unit of the column; None for no such limit.
        high: as `low`.
        minimum_age_years: the limit is not meant for younger patients; unknown ages are assessed.
    """

    low: float | None = None
    high: float | None = None
    minimum_age_years: int = thresholds.NEWS2_MINIMUM_AGE_YEARS


class Level(_Strict):
    """A level with hysteresis: raised at one value, cleared at a lower one."""

    raise_at: float
    clear_at: float

    @classmethod
    def of(cls, raise_at: float, clear_share: float) -> Level:
        """A level that is cleared at a share of what raises it."""
        return cls(raise_at=raise_at, clear_at=raise_at * clear_share)


class NotifierSettings(_Strict):
    """Where alerts go.

    Attributes:
        name: its name in the outbox; deliveries are counted per notifier.
        kind: log, file (JSON lines), webhook, or apprise (an optional extra).
        url: of a webhook or an Apprise service; better `url_env`, so that no secret is in a file.
        url_env: the environment variable that holds the URL.
        form: of a webhook: plain JSON, or Slack's.
        path: of a file, below the data directory.
        least_severity: leaves out what is less urgent.
        says_resolved: whether it also hears that an alert is over.
    """

    name: str
    kind: Literal["log", "file", "webhook", "apprise"]
    url: str = Field(default="", repr=False)
    url_env: str = ""
    form: Literal["json", "slack"] = "json"
    path: str = "alerts.jsonl"
    least_severity: Severity = "warning"
    says_resolved: bool = True

    @field_validator("path")
    @classmethod
    def _is_below(cls, path: str) -> str:
        if not path or PurePath(path).is_absolute() or ".." in PurePath(path).parts or "\0" in path:
            raise ValueError("a path below the data directory, without '..'")
        return path

    def address(self) -> str:
        """The URL, from the environment where it is kept there; empty when it is not set."""
        return os.environ.get(self.url_env, "") if self.url_env else self.url

    def wants(self, severity: Severity) -> bool:
        """Whether an alert of this severity is for this notifier."""
        return SEVERITIES.index(severity) <= SEVERITIES.index(self.least_severity)


class AlertSettings(_Strict):
    """Limits that raise alerts, and who is notified.

    Attributes:
        news2_score: NEWS2 at or above this is critical (RCP 2017: emergency response).
        red_parameter: whether a single NEWS2 parameter of 3 points is.
        vitals: further limits, by column of fact_vitals.
        critical_wait_minutes: critical patients without a provider.
        overstay_hours: a longer stay is one, by its class (emergency, inpatient).
        occupancy_pct: patients in a department, in percent of its beds.
        feed_silence_minutes: a feed is silent when nothing of it has landed for this long.
        waiting_minutes: files that wait this long mean that nothing refreshes.
        cooldown_minutes: what comes back within this time is the same alert, not a new one.
        lookback_hours: files whose newest day is older than this are history, not news; 30 days at most.
        notify: where alerts go; default the log.
    """

    news2_score: int = thresholds.NEWS2_EMERGENCY_SCORE
    red_parameter: bool = True
    vitals: dict[str, VitalThreshold] = Field(
        default_factory=lambda: {
            "spo2_pct": VitalThreshold(low=90, minimum_age_years=0),
            "heart_rate_bpm": VitalThreshold(low=40, high=140),
            "systolic_mmhg": VitalThreshold(low=90, high=220),
            "temperature_c": VitalThreshold(low=35.0, high=40.0),
        }
    )
    critical_wait_minutes: Level = Level.of(thresholds.CRITICAL_WAIT_MINUTES, 0.8)
    overstay_hours: dict[str, float] = Field(default_factory=lambda: dict(OVERSTAY_HOURS))
    occupancy_pct: Level = Level(raise_at=100, clear_at=95)
    feed_silence_minutes: dict[str, float] = Field(
        default_factory=lambda: {"vitals": 60.0, "adt": 60.0, "visits": 26 * 60.0}
    )
    waiting_minutes: float = 15
    cooldown_minutes: float = 30
    lookback_hours: float = Field(24, le=30 * 24)
    notify: list[NotifierSettings] = Field(default_factory=lambda: [NotifierSettings(name="log", kind="log")])


def load_alert_settings(settings: Settings) -> AlertSettings:
    """Read `alerts.toml`; defaults apply where it, or a key, is absent.

    Raises:
        SettingsError: the file is not TOML, or says something that cannot be used.
    """
    path = settings.alerts_file
    try:
        found = AlertSettings.model_validate(tomllib.loads(text_of(path) or ""))
    except TextError as error:
        raise SettingsError(str(error)) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not valid TOML ({error})") from error
    except ValidationError as error:
        # Never the value: it may be a secret.
        wrong = "; ".join(f"'{'.'.join(map(str, e['loc']))}': {e['msg'].lower()}" for e in error.errors())
        raise SettingsError(f"{path}: {wrong}") from None
    names = [notifier.name for notifier in found.notify]
    if len(set(names)) != len(names):
        raise SettingsError(f"{path}: two notifiers have the same name")
    for level in ("critical_wait_minutes", "occupancy_pct"):
        if getattr(found, level).clear_at > getattr(found, level).raise_at:
            raise SettingsError(f"{path}: '{level}' must clear at or below where it is raised")
    return found
