"""Arithmetic that gives the same to the last digit on every engine, and in whatever order rows come.

Engines add in parallel, round halves differently, interpolate in another order, and Polars multiplies by the
reciprocal where it divides by a number. Sums, means and quantiles are therefore made of billionths, which are whole
numbers; divisors are columns.
"""

from __future__ import annotations

import narwhals as nw

_BILLION = 1e9


def divided(value: nw.Expr, by: float) -> nw.Expr:
    """A column divided by a number; null where it is."""
    return value / (value.is_null().cast(nw.Int64) + by)


def minutes_of(span: nw.Expr) -> nw.Expr:
    """Minutes of a time span, with their fraction; null where it is."""
    return divided(span.dt.total_microseconds(), 60_000_000)


def hours_of(span: nw.Expr) -> nw.Expr:
    """Hours of a time span, with their fraction; null where it is."""
    return divided(span.dt.total_microseconds(), 3_600_000_000)


def minutes_between(start: str, end: str) -> nw.Expr:
    """Minutes from one instant column to another, with their fraction; null when either is."""
    return minutes_of(nw.col(end) - nw.col(start))


def hours_between(start: str, end: str) -> nw.Expr:
    """Hours from one instant column to another, with their fraction; null when either is."""
    return hours_of(nw.col(end) - nw.col(start))


def exact_sum(column: str) -> nw.Expr:
    """The sum of a column of fractions; 0 where there is nothing to add."""
    return divided(_billionths(nw.col(column)).cast(nw.Int64).sum(), _BILLION)


def exact_mean(column: str) -> nw.Expr:
    """The mean of a column of fractions; null where there is none."""
    count = nw.col(column).count()
    return nw.when(count > 0).then(exact_sum(column) / count)


def exact_median(column: str) -> nw.Expr:
    """The median of a column of fractions, to the billionth; null where there is none."""
    return divided(_billionths(nw.col(column).median()), _BILLION)


def exact_quantile(column: str, share: float) -> nw.Expr:
    """The value below which a share of a column lies, between its neighbours in proportion, to the billionth."""
    return divided(_billionths(nw.col(column).quantile(share, interpolation="linear")), _BILLION)


def _billionths(value: nw.Expr) -> nw.Expr:
    return (value * _BILLION + 0.5).floor()
