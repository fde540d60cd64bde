"""What follows a visit or stay of the same person, where records of one may overlap."""

from __future__ import annotations

from collections.abc import Sequence

import narwhals as nw

from hospital_assets.warehouse.dialect import Frame


def with_following(
    frame: Frame, episodes: Frame, *, key: str, start: str, end: str, carried: Sequence[str], joins: bool
) -> Frame:
    """Add the next episode of the same person, and whether another one was under way at the end of this one.

    The next is the first that begins after the end, however many are nested in this one. Of several under way at
    one moment only the one that ends last is followed by anything; of those that end together, the one that began
    last; of those that also began together, the one with the higher `key`. One of no length is an episode like any
    other: inside another one, or where another one begins, it is nested; where another one ends, it comes after it.

    Args:
        frame: episodes with `key` and `person_key` (null: unknown, followed by nothing).
        episodes: those that can follow or overlap: `key`, `person_key`, `start`, `end` (null: open), `_until_at` (the
            end, or until when an open one counts), and the columns `carried`.
        key: identifies an episode.
        start: instant column.
        end: instant column.
        carried: columns of the next one to add, as `_next_<name>`.
        joins: whether one that begins at the very moment when this one ends continues it.

    Returns:
        frame with `_is_overlapped` and the carried columns.
    """
    known = episodes.filter(~nw.col("person_key").is_null())
    mine = known.select("person_key", key, _start=nw.col(start), _end=nw.col(end))
    theirs = known.select(
        "person_key",
        _other=nw.col(key),
        _other_start=nw.col(start),
        _other_until=nw.col("_until_at"),
        **{f"_next_{name}": nw.col(name) for name in carried},
    )
    pairs = mine.join(theirs, on="person_key", how="inner").filter(nw.col(key) != nw.col("_other"))
    begins, started, ends = nw.col("_other_start"), nw.col("_start"), nw.col("_end")
    # Where only the day of its start is known, an episode is followed by what begins after its end.
    begins_later = nw.coalesce(begins > started, nw.lit(True))
    is_later = (begins > started) | ((begins == started) & (nw.col("_other") > nw.col(key)))
    is_there = (begins <= ends) if joins else (begins < ends) | (begins == started)
    is_under_way = is_there & ((nw.col("_other_until") > ends) | ((nw.col("_other_until") == ends) & is_later))
    overlapped = pairs.filter(is_under_way).select(key).unique().with_columns(_is_overlapped=nw.lit(True))
    follows = ((begins > ends) if joins else (begins >= ends)) & begins_later
    following = (
        pairs.filter(follows)
        .with_columns(_place=nw.col("_other").cum_count().over(key, order_by=["_other_start", "_other"]))
        .filter(nw.col("_place") == 1)
        .select(key, *(f"_next_{name}" for name in carried))
    )
    return (
        frame.join(overlapped, on=key, how="left")
        .join(following, on=key, how="left")
        .with_columns(_is_overlapped=nw.coalesce(nw.col("_is_overlapped"), nw.lit(False)))
    )
