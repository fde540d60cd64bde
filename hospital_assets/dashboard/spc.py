"""Limits and signals of the XmR chart of a series.

The limits and the two rules (outside the limits, eighth in a row on one side) are those of
`measures.natural_limits`, as in the KPI tables. Belongs here: which points can have a verdict, and
whether a signal is good news.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from hospital_assets.dashboard.slices import Grain
from hospital_assets.measures.natural_limits import Verdict

Better = Literal["lower", "higher", "neither"]

#: Fewer points are a run chart: no limits, no signals.
LEAST_POINTS = 10


@dataclass(frozen=True)
class Point:
    """One day, week or month.

    Attributes:
        day: the day, or the first of the week or month.
        value: the figure.
        n: of how many.
        verdict: what chance says of it.
    """

    day: date
    value: float
    n: int
    verdict: Verdict = "usual"


@dataclass(frozen=True)
class Control:
    """A series with its limits.

    Attributes:
        points: in order of time.
        centre: mean; None without points.
        lower: natural lower limit; None for a run chart.
        upper: natural upper limit.
        grain: what a point is.
    """

    points: tuple[Point, ...]
    centre: float | None
    lower: float | None
    upper: float | None
    grain: Grain = "day"

    @property
    def latest(self) -> Verdict | None:
        """The verdict on the newest point; None for a run chart."""
        return self.points[-1].verdict if self.points and self.upper is not None else None

    def count(self, verdict: Verdict) -> int:
        """How many points say so."""
        return sum(point.verdict == verdict for point in self.points)


def controls(series: Mapping[str, tuple[Sequence[Point], Better]], grain: Grain = "day") -> dict[str, Control]:
    """Limits and signals of several series at once.

    Args:
        series: name -> its points in order of time, and which way is better.
        grain: what a point is.
    """
    import polars as pl

    from hospital_assets.measures.natural_limits import with_natural_limits
    from hospital_assets.warehouse.dialect import lazy

    long_enough = {name: found for name, (found, _) in series.items() if len(found) >= LEAST_POINTS}
    limits: dict[str, dict[date, dict[str, float]]] = {}
    if long_enough:
        frame = pl.DataFrame(
            [(name, "", p.day, p.value) for name, points in long_enough.items() for p in points],
            schema={"metric": pl.String, "hospital_id": pl.String, "period_date": pl.Date, "value": pl.Float64},
            orient="row",
        )
        limited: pl.DataFrame = with_natural_limits(lazy(frame)).collect("polars").to_native()
        for row in limited.iter_rows(named=True):
            limits.setdefault(row["metric"], {})[row["period_date"]] = row
    found = {}
    for name, (points, better) in series.items():
        rows = limits.get(name)
        if rows is None:
            centre = sum(p.value for p in points) / len(points) if points else None
            found[name] = Control(tuple(points), centre, None, None, grain)
            continue
        first = next(iter(rows.values()))
        found[name] = Control(
            tuple(Point(p.day, p.value, p.n, _verdict(rows[p.day], better)) for p in points),
            first["centre"],
            first["lower_limit"],
            first["upper_limit"],
            grain,
        )
    return found


def _verdict(row: Mapping[str, float], better: Better) -> Verdict:
    if not (row["is_outside"] or row["is_run_of_eight"]):
        return "usual"
    if better == "neither":
        return "changed"
    is_lower = row["value"] < row["centre"]
    return "improving" if is_lower == (better == "lower") else "concern"
