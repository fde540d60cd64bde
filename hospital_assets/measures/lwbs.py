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


def is_lwbs() -> nw.Expr:
    """Whether a visit left without being seen; false while it is open, and where it was cancelled.

    By `disposition`, `provider_at` and `is_cancelled`; false, too, where no disposition is known: see `is_known`.
    """
    has_left = nw.coalesce(nw.col("disposition").is_in(LEFT), nw.lit(False))
    return has_left & nw.col("provider_at").is_null() & ~nw.col("is_cancelled")


def is_known() -> nw.Expr:
    """Whether the disposition of a visit is known, and with it whether the visit left unseen."""
    return ~nw.col("disposition").is_null()
