"""Suggested shifts as files: CSV, and iCalendar (RFC 5545) for a calendar program.

Pure functions from rows to text. The calendar needs nothing of the standard but events in UTC, so a library for all of
it would be more to install than these lines are to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from hospital_assets.access import spreadsheets

Row = Mapping[str, Any]

#: Octets of a line of a calendar without its end.
_FOLDED = 75


def as_csv(shifts: Iterable[Row]) -> str:
    """Shifts as CSV, one line for each hospital, day, start and length."""
    return spreadsheets.as_csv(
        ("hospital_id", "day", "start", "hours", "present", "suggested", "change"),
        (
            (
                row["hospital_id"],
                row["target_date"].isoformat(),
                f"{row['hour_of_day']:02d}:00",
                f"{row['shift_hours']:g}",
                *(row[name] for name in ("present_count", "suggested_count", "change_count")),
            )
            for row in shifts
        ),
    )


def as_calendar(shifts: Iterable[Row], zones: Mapping[str, str]) -> str:
    """Suggested shifts as an iCalendar: an event for each start and length that has doctors; tentative."""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//hospital-assets//staffing//EN", "METHOD:PUBLISH"]
    for row in shifts:
        if row["suggested_count"]:
            lines += _event(row, ZoneInfo(zones[row["hospital_id"]]))
    lines.append("END:VCALENDAR")
    return "".join(f"{folded(line)}\r\n" for line in lines)


def _event(row: Row, zone: ZoneInfo) -> list[str]:
    hospital, day, hour, length = (row[name] for name in ("hospital_id", "target_date", "hour_of_day", "shift_hours"))
    start = datetime.combine(day, time(hour), zone).astimezone(UTC)
    doctors = f"{row['suggested_count']} doctor{'s' if row['suggested_count'] > 1 else ''}"
    return [
        "BEGIN:VEVENT",
        # The same shift has the same name in every file: a calendar that has it already takes it as an update.
        f"UID:{escaped(hospital)}-{day:%Y%m%d}T{hour:02d}-{length:g}h@hospital-assets",
        f"DTSTAMP:{_instant(_made(row['service_date']))}",
        f"DTSTART:{_instant(start)}",
        f"DTEND:{_instant(start + timedelta(hours=length))}",
        f"SUMMARY:{escaped(f'{hospital}: {doctors}, {hour:02d}:00, {length:g} h')}",
        f"DESCRIPTION:{escaped(_description(row))}",
        "STATUS:TENTATIVE",
        "TRANSP:TRANSPARENT",
        "END:VEVENT",
    ]


def _description(row: Row) -> str:
    present = row["present_count"]
    return f"Suggested, not decided; by the present roster: {present}.\nForecast at the end of {row['service_date']}."


def _made(as_of: date) -> datetime:
    """When a suggestion counts as made: no clock is asked, so that the same suggestion is the same file."""
    return datetime.combine(as_of + timedelta(days=1), time(), UTC)


def _instant(moment: datetime) -> str:
    return f"{moment:%Y%m%dT%H%M%SZ}"


def escaped(text: str) -> str:
    """A text value (RFC 5545, 3.3.11)."""
    for character in "\\;,":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", "\\n")


def folded(line: str) -> str:
    """A line in parts of at most 75 octets, each after the first beginning with a space (RFC 5545, 3.1)."""
    parts: list[str] = []
    current = ""
    for character in line:
        # A continuation begins with a space, which counts; no character is cut in two.
        if len(f"{' ' if parts else ''}{current}{character}".encode()) > _FOLDED:
            parts.append(current)
            current = ""
        current += character
    return "\r\n ".join([*parts, current])
