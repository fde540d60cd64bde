"""Triage scales: their levels, time targets and surrogate keys; which levels are critical."""

from __future__ import annotations

import narwhals as nw

from hospital_assets.measures import thresholds
from hospital_assets.measures.words import span

#: Scale -> (level name, longest wait for a physician in minutes, share to reach in percent).
#: ATS: Australasian College for Emergency Medicine policy P06; CTAS: implementation guidelines;
#: Manchester: Emergency Triage, 3rd ed.; ESI sets no times itself: 0/10/30/60/120 are the local
#: targets of this network.
SCALES: dict[str, list[tuple[str, float, float | None]]] = {
    "ESI": [
        ("Resuscitation", 0, None),
        ("Emergent", 10, None),
        ("Urgent", 30, None),
        ("Less urgent", 60, None),
        ("Non-urgent", 120, None),
    ],
    "ATS": [
        ("Immediate", 0, 100),
        ("Imminently life-threatening", 10, 80),
        ("Potentially life-threatening", 30, 75),
        ("Potentially serious", 60, 70),
        ("Less urgent", 120, 70),
    ],
    "CTAS": [
        ("Resuscitation", 0, 98),
        ("Emergent", 15, 95),
        ("Urgent", 30, 90),
        ("Less urgent", 60, 85),
        ("Non-urgent", 120, 80),
    ],
    "Manchester": [
        ("Immediate (red)", 0, None),
        ("Very urgent (orange)", 10, None),
        ("Urgent (yellow)", 60, None),
        ("Standard (green)", 120, None),
        ("Non-urgent (blue)", 240, None),
    ],
}
#: The scale that the landed triage levels are on.
SCALE_IN_USE = "ESI"
#: Its levels -> the longest wait that meets their targets; see `wait_target`.
WAIT_TARGETS_MINUTES = {
    level: float(max(minutes, thresholds.IMMEDIATE_MINUTES))
    for level, (_, minutes, _) in enumerate(SCALES[SCALE_IN_USE], start=1)
}
#: Labels of the levels, and of those without one.
UNTRIAGED = "untriaged"
TRIAGE_GROUPS = (*map(str, WAIT_TARGETS_MINUTES), UNTRIAGED)
#: Levels of critical patients, next to each other.
CRITICAL_LEVELS = (1, 2)
#: The same in words and in a range, for texts.
CRITICAL_IN_WORDS = " and ".join(map(str, CRITICAL_LEVELS))
CRITICAL_IN_SHORT = span(CRITICAL_LEVELS[0], CRITICAL_LEVELS[-1])


def triage_key(scale: str, level: int) -> int:
    """The surrogate key of a level: the scale's place in `SCALES` times ten, plus the level."""
    return (list(SCALES).index(scale) + 1) * 10 + level


def wait_target() -> nw.Expr:
    """The longest wait that meets `target_minutes` of a level; null where it has none."""
    target = nw.col("target_minutes")
    return nw.when(~target.is_null()).then(nw.max_horizontal(target, nw.lit(float(thresholds.IMMEDIATE_MINUTES))))


def triage_group() -> nw.Expr:
    """The triage level as one of `TRIAGE_GROUPS`."""
    return nw.coalesce(nw.col("triage_level").cast(nw.String), nw.lit(UNTRIAGED))


def is_critical() -> nw.Expr:
    """Whether `triage_level` is a critical one; false for the untriaged."""
    return nw.coalesce(nw.col("triage_level").is_in(CRITICAL_LEVELS), nw.lit(False))
