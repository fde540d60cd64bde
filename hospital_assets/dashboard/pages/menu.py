"""Which pages there are, in the order of the menu, and who may open them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hospital_assets.dashboard.figures import Page
from hospital_assets.dashboard.mart import Mart
from hospital_assets.dashboard.pages.capacity import capacity
from hospital_assets.dashboard.pages.conditions import conditions
from hospital_assets.dashboard.pages.flow import flow
from hospital_assets.dashboard.pages.forecast import forecast
from hospital_assets.dashboard.pages.overview import overview
from hospital_assets.dashboard.pages.workforce import workforce
from hospital_assets.dashboard.slices import Slice


@dataclass(frozen=True)
class Entry:
    """A page of the menu.

    Attributes:
        name: in the address.
        title: in the menu.
        build: what is on it; None where the page is made elsewhere.
        has_slicers: whether the slicer bar is shown.
        roles: who may open it.
    """

    name: str
    title: str
    build: Callable[[Mart, Slice], Page] | None
    has_slicers: bool = True
    roles: frozenset[str] = frozenset(("admin", "doctor", "analyst", "executive"))


MENU = (
    Entry("overview", "Overview", overview),
    Entry("flow", "Flow & waits", flow),
    Entry("live", "Live triage", None, False, frozenset(("admin", "doctor"))),
    Entry("capacity", "Capacity", capacity),
    Entry("workforce", "Workforce", workforce),
    Entry("conditions", "Conditions", conditions),
    Entry("quality", "Data quality", None, has_slicers=False),
    Entry("forecast", "Forecast", forecast),
    Entry("governance", "Governance", None, False, frozenset(("admin",))),
)
