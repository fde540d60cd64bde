"""The pages, in the order of the menu, and who may open them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hospital_assets.dashboard.figures import Page
from hospital_assets.dashboard.mart import Mart
from hospital_assets.dashboard.pages.capacity import capacity
from hospital_assets.dashboard.pages.conditions import conditions
from hospital_assets.dashboard.pages.deterioration import deterioration
from hospital_assets.dashboard.pages.flow import flow
from hospital_assets.dashboard.pages.forecast import forecast
from hospital_assets.dashboard.pages.overview import overview
from hospital_assets.dashboard.pages.visits import visits
from hospital_assets.dashboard.pages.workforce import workforce
from hospital_assets.dashboard.slices import Slice
from hospital_assets.publishing.policy import Policy, RoleName


@dataclass(frozen=True)
class Entry:
    """A page of the menu.

    Attributes:
        title: in the menu.
        build: what is on it; None where the page is made elsewhere.
        has_slicers: whether the slicer bar is shown.
        is_for_everybody: whether every role may open it; else those whose `pages` in the policy name it.
        is_in_menu: whether the menu has it; else other pages lead to it.
    """

    name: str
    title: str
    build: Callable[[Mart, Slice], Page] | None
    has_slicers: bool = True
    is_for_everybody: bool = True
    is_in_menu: bool = True


MENU = (
    Entry("overview", "Overview", overview),
    Entry("flow", "Flow & waits", flow),
    Entry("live", "Live triage", None, has_slicers=False, is_for_everybody=False),
    Entry("deterioration", "Deterioration", deterioration),
    Entry("capacity", "Capacity", capacity),
    Entry("workforce", "Workforce", workforce),
    Entry("conditions", "Conditions", conditions),
    Entry("visits", "Visits", visits, is_in_menu=False),
    Entry("quality", "Data quality", None, has_slicers=False),
    Entry("forecast", "Forecast", forecast),
    Entry("governance", "Governance", None, has_slicers=False, is_for_everybody=False),
)


def pages_of(policy: Policy, role: RoleName) -> list[Entry]:
    """The pages a role may open, in the order of the menu; none where the policy has no such role."""
    if role not in policy.roles:
        return []
    return [entry for entry in MENU if entry.is_for_everybody or entry.name in policy.roles[role].pages]
