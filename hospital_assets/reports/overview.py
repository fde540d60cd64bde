"""The overview as one file: what one role may see, to be mailed, printed and kept.

It shows the newest publication of one role, whole period, all hospitals: the same figures as the
dashboard's first page, drawn as SVG, without a script.
"""

import hashlib
import re
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path

import dagster as dg

from hospital_assets.assets.resources import ClockResource
from hospital_assets.measures import natural_limits
from hospital_assets.publishing.policy import Policy, RoleName, load_policy
from hospital_assets.reports.folder import ReportsResource


def overview_report(policy: Policy) -> dg.AssetsDefinition:
    """The page as an asset, made after the publication of the role that the policy names for it."""

    @dg.asset(
        group_name="reports",
        owners=["team:clinical-analytics"],
        kinds={"html"},
        deps=[f"publication_{policy.overview}"],
    )
    def overview_report(clock: ClockResource, reports: ReportsResource) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """The overview, as one file that opens from disk and prints on two A4 pages.

        Visits, waits, triage, departments, hours, people and workload, each with its n, its definition and,
        over time, its limits; from a publication, so it shows what that role may see.
        """
        version, page = as_page(clock.settings.data_dir, load_policy(clock.settings).overview, clock.baselines)
        path = reports.write("overview.html", page)
        return dg.MaterializeResult(
            metadata={
                "page": dg.MetadataValue.path(path),
                "sha256": hashlib.sha256(page.encode()).hexdigest(),
                "publication": version,
                "bytes": len(page.encode()),
            }
        )

    return overview_report


def as_page(data_dir: Path, role: RoleName, baselines_from: tuple[date, ...] = ()) -> tuple[str, str]:
    """The version that is shown, and the page.

    Args:
        role: whose publication is shown; a role of the whole network.
        baselines_from: days from which limits of chance are computed anew.

    Raises:
        PublicationError: nothing is published for that role.
    """
    from hospital_assets.dashboard.figures import Card, Figure
    from hospital_assets.dashboard.pages.overview import overview
    from hospital_assets.dashboard.render import FOLDER, render, sentence
    from hospital_assets.dashboard.slices import read_slice
    from hospital_assets.dashboard.store import open_mart

    mart = open_mart(data_dir, role, baselines_from)
    with closing(mart.connection):
        where = read_slice({}, mart.known)
        # What is sent and printed is about the period.
        shown = replace(overview(mart, where), today=())
        parts: list[Card | Figure] = [*shown.cards, *shown.figures]
        measures = dict.fromkeys(part.measure for part in parts)
        body = render(
            "body.html",
            page=shown,
            has_now=False,
            title="Emergency department: overview",
            current="overview",
            where=where,
            carried="",
            sliced=sentence(where, mart.known),
            freshness=f"Data to {mart.known.last.isoformat()}, published {mart.published_at:%Y-%m-%d %H:%M} UTC",
            stale="",
            is_served=False,
            colophon=f"Publication {role} {mart.version}. Averages and percentiles of fewer than {mart.few} "
            "patients are not shown; counts of few patients are protected as the publication's policy says.",
        )
    return mart.version, render(
        "report.html",
        style=(FOLDER / "static" / "app.css").read_text(encoding="utf-8"),
        body=_still(body),
        measures=list(filter(None, measures)),
        factor=natural_limits.XMR_FACTOR,
        baseline=natural_limits.BASELINE_POINTS,
        run=natural_limits.RUN_LENGTH,
    )


def _still(body: str) -> str:
    """The page without what needs a server: links, exports."""
    body = re.sub(r"; select an? \w+ to filter", "", body)
    body = re.sub(r'<a class="export".*?</a>', "", body, flags=re.DOTALL)
    return re.sub(r"<a [^>]*>(.*?)</a>", r"\1", body, flags=re.DOTALL)
