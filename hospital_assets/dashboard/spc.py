"""The XmR chart of a series: what chance says of its points.

Limits and rules are those of `measures.natural_limits`, as in the KPI tables. They are computed from the whole series,
whatever part of it is shown, so no choice of a reader moves them. Belongs here: which part is shown, and what its
signals mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

from hospital_assets.dashboard.slices import Grain, Slice
from hospital_assets.measures.natural_limits import Better, Verdict, verdict_of


@dataclass(frozen=True)
class Point:
    """One day, week or month.

    Attributes:
        day: the day, or the first of the week or month.
        n: of how many.
        verdict: what chance says of it.
        direction: of its signal: 1 upwards, -1 downwards, 0 for none.
        rule: the first rule that it meets; empty for none.
        limits: lower and upper; None without.
    """

    day: date
    value: float
    n: int
    verdict: Verdict = "usual"
    direction: int = 0
    rule: str = ""
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Control:
    """The part of a series that is shown, with the limits of the series.

    Attributes:
        points: in order of time.
        centre: mean of the baseline; None without points.
        lower: natural lower limit at the newest point; None for a run chart.
        upper: natural upper limit.
        grain: what a point is.
        better: which way is good news.
        baseline: first and last day, week or month of the newest point's baseline.
        since: since when the limits are so, as the index of a point; 0 where they always were.
        count: how many points the series has, shown or not.
    """

    points: tuple[Point, ...]
    centre: float | None
    lower: float | None
    upper: float | None
    grain: Grain = "day"
    better: Better = "neither"
    baseline: tuple[date, date] | None = None
    since: int = 0
    count: int = 0

    @property
    def latest(self) -> Verdict | None:
        """The verdict on the newest point; None for a run chart."""
        return self.points[-1].verdict if self.points and self.upper is not None else None

    def times(self, verdict: Verdict) -> int:
        """How many points have this verdict."""
        return sum(point.verdict == verdict for point in self.points)

    @property
    def signals(self) -> dict[Verdict, int]:
        """Verdicts other than the usual one, and how many of the points that are shown have them."""
        verdicts: tuple[Verdict, ...] = ("improving", "concern", "changed")
        return {verdict: count for verdict in verdicts if (count := self.times(verdict))}

    @property
    def of_period(self) -> Verdict | None:
        """The verdict on all points that are shown; `changed` where they point both ways; None for a run chart."""
        if not self.points or self.upper is None:
            return None
        found = list(self.signals)
        return "usual" if not found else found[0] if len(found) == 1 else "changed"

    @property
    def direction(self) -> int:
        """The way of the newest signal among the points that are shown; 0 for none."""
        return next((point.direction for point in reversed(self.points) if point.direction), 0)

    @property
    def whole(self) -> list[tuple[date, Point | None]]:
        """Every day, week or month from the first to the last point; None where there is no figure."""
        return gapless(self.points, self.grain)


def controls(
    series: Mapping[str, tuple[Sequence[Point], Better]], where: Slice, baselines_from: Sequence[date] = ()
) -> dict[str, Control]:
    """Limits and signals of several series at once.

    Args:
        series: name -> all its points in order of time, and which way is better.
        where: what is shown of them: the points that lie in its days as a whole.
        baselines_from: days from which limits are computed anew.
    """
    import polars as pl

    from hospital_assets.measures.natural_limits import with_natural_limits
    from hospital_assets.warehouse.dialect import lazy

    frame = pl.DataFrame(
        [(name, "", point.day, point.value) for name, (points, _) in series.items() for point in points],
        schema={"metric": pl.String, "hospital_id": pl.String, "period_date": pl.Date, "value": pl.Float64},
        orient="row",
    )
    limited: pl.DataFrame = (
        with_natural_limits(lazy(frame), baselines_from=baselines_from).collect("polars").to_native()
    )
    rows = {(row["metric"], row["period_date"]): row for row in limited.iter_rows(named=True)}
    found = {}
    for name, (points, better) in series.items():
        placed = [_placed(point, rows[name, point.day], better) for point in shown(points, where)]
        newest = rows[name, placed[-1].day] if placed else {}
        baselines = [rows[name, point.day]["baseline_first_date"] for point in placed]
        found[name] = Control(
            tuple(placed),
            newest.get("centre"),
            newest.get("lower_limit"),
            newest.get("upper_limit"),
            where.grain,
            better,
            (newest["baseline_first_date"], newest["baseline_last_date"]) if placed else None,
            baselines.index(baselines[-1]) if placed else 0,
            len(points),
        )
    return found


def shown(points: Sequence[Point], where: Slice) -> list[Point]:
    """The points that lie in the days of a slice as a whole."""
    return [point for point in points if where.first <= point.day and end_of(point.day, where.grain) <= where.last]


def gapless(points: Sequence[Point], grain: Grain) -> list[tuple[date, Point | None]]:
    """Every day, week or month from the first to the last point; None where there is no figure."""
    of = {point.day: point for point in points}
    found, day = [], points[0].day if points else date.max
    while points and day <= points[-1].day:
        found.append((day, of.get(day)))
        day = end_of(day, grain) + timedelta(days=1)
    return found


def end_of(day: date, grain: Grain) -> date:
    """The last day of a day, a week or a month that begins on a day."""
    if grain == "month":
        return (day + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    return day + timedelta(days=6 if grain == "week" else 0)


#: Rules, those first that decide the direction of a signal.
_RULES = ("is_outside", "is_run", "is_two_of_three", "is_trend")


def _placed(point: Point, row: Mapping[str, object], better: Better) -> Point:
    direction = int(row["signal_direction"])  # type: ignore[call-overload]
    upper = row["upper_limit"]
    return replace(
        point,
        verdict=verdict_of(direction, better),
        direction=direction,
        rule=next((rule for rule in _RULES if row[rule]), ""),
        limits=None if upper is None else (row["lower_limit"], upper),  # type: ignore[arg-type]
    )
