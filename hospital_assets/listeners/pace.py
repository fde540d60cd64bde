"""What listeners to streams have in common: when a file is made, and what is reported about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hospital_assets.landing.streams import Range, StreamLanding


@dataclass(frozen=True)
class Pace:
    """When held messages become a file: after a number of seconds or bytes, whichever comes first."""

    seconds: float = 5.0
    max_bytes: int = 16_000_000


def commit(landing: StreamLanding, say: Callable[[str], None]) -> list[Range]:
    """Land what is held and say which offsets that was, never what is in them."""
    landed = landing.commit()
    for batch in landed:
        say(f"landed   {batch.stream} partition {batch.partition}, offsets {batch.first} to {batch.last}")
    return landed


def go_on_behind_loss(landing: StreamLanding, partition: int, oldest: int, say: Callable[[str], None]) -> None:
    """Go on at the oldest message there is; what is held lands first, and what is skipped is reported."""
    commit(landing, say)
    if missed := landing.begin_at(partition, oldest):
        say(
            f"LOST     {landing.stream} partition {partition}: {missed:,} offsets before {oldest} are "
            "gone from the stream (its retention ran out before they were read); going on behind them. "
            "The check stream_offsets shows the hole; have the source deliver these records again"
        )
