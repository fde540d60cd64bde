"""Left without being seen (LWBS), and the other ends of a visit that rates tell apart.

Source: NQF 0499; CMS OP-22. Who leaves against advice or elopes after being seen is not LWBS.
"""

from __future__ import annotations

import narwhals as nw

LWBS = "left_without_being_seen"
#: Dispositions of patients who went on their own account.
LEFT = (LWBS, "against_medical_advice", "eloped")
#: Dispositions that are no discharge: the patient stays in somebody's care, or died.
NOT_DISCHARGED = ("admitted", "transferred", "observation", "expired")


def is_lwbs() -> nw.Expr:
    """Whether a visit left without being seen; false while it is open, and where it was cancelled."""
    return nw.coalesce(nw.col("disposition") == LWBS, nw.lit(False)) & ~nw.col("is_cancelled")
