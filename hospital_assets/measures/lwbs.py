"""Left without being seen (LWBS), and the other ends of a visit that rates tell apart.

Source: NQF 0499; CMS OP-22. The definition is that nobody saw the patient and the patient left: who leaves against
advice or elopes without a provider contact counts, whatever the code, and who was seen does not.
"""

from __future__ import annotations

import narwhals as nw

LWBS = "left_without_being_seen"
#: Dispositions of patients who went on their own account.
LEFT = (LWBS, "against_medical_advice", "eloped")
#: Dispositions that are no discharge: the patient stays in somebody's care, or died.
NOT_DISCHARGED = ("admitted", "transferred", "observation", "expired")


def went_away() -> nw.Expr:
    """Whether the patient went on their own account, by `disposition`; false where none is known.

    Of others who are gone somebody has decided: where they have no provider contact, its clock is missing.
    """
    return nw.coalesce(nw.col("disposition").is_in(LEFT), nw.lit(False))


def is_lwbs(is_seen: nw.Expr) -> nw.Expr:
    """Whether a visit left without being seen; false while it is open, and where it was cancelled.

    By `disposition` and `is_cancelled`; false, too, where no disposition is known: see `is_known`.

    Args:
        is_seen: whether a provider has seen the patient, at whatever time.
    """
    return went_away() & ~is_seen & ~nw.col("is_cancelled")


def is_known() -> nw.Expr:
    """Whether the disposition of a visit is known, and with it whether the visit left unseen."""
    return ~nw.col("disposition").is_null()
