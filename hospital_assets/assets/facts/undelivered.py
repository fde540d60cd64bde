"""What a source does not deliver although KPIs are made of it: a figure without its input is no figure.

A KPI declares in its contract what it `needs`. Facts carry what the source of each row cannot fill (`undelivered`, by
its profile, never by what happened to be empty), and the KPI leaves such rows out by that name: where none is left, it
is null: it cannot be computed.
"""

from __future__ import annotations

from collections.abc import Iterable

import narwhals as nw

from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.profile import Profile, delivers
from hospital_assets.landing.registry import Profiles


def undelivered(profiles: Profiles) -> nw.Expr:
    """Of what KPIs need, what the source of a record (`source_profile`) does not deliver: `a;b`, or empty."""
    wanted = sorted({need for contract in CONTRACTS.values() for need in contract.needs})
    source = nw.col("source_profile")
    lacking = {name: _lacking(profile, profiles.values(), wanted) for name, profile in profiles.items()}
    return nw.coalesce(
        *(nw.when(source == name).then(nw.lit(";".join(needs))) for name, needs in lacking.items() if needs), nw.lit("")
    )


def lacks(table: str) -> nw.Expr:
    """Whether a fact's row comes from a source that does not deliver all that a KPI table needs."""
    return lacks_any(*CONTRACTS[table].needs)


def lacks_any(*needs: str) -> nw.Expr:
    """Whether a fact's row comes from a source that does not deliver one of some inputs."""
    return nw.any_horizontal(
        *(nw.col("undelivered").str.contains(need, literal=True) for need in needs), ignore_nulls=True
    )


def _lacking(profile: Profile, profiles: Iterable[Profile], wanted: Iterable[str]) -> list[str]:
    """Those of the wanted inputs (`subject.column`, or a whole subject) that nobody delivers for a source.

    A subject that it has itself it fills itself; others may come from sources that share its patients.
    """
    sharing = [other for other in profiles if other.identity_namespace == profile.identity_namespace]
    missing = []
    for need in wanted:
        subject, _, column = need.partition(".")
        having = [profile] if subject in profile.subjects else [other for other in sharing if subject in other.subjects]
        specs = [spec for other in having for spec in other.subjects[subject].layouts]
        if not any(column in delivers(spec, subject) if column else True for spec in specs):
            missing.append(need)
    return missing
