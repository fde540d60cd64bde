"""Who a publication is for, and what a table of it holds."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hospital_assets.contracts import Column, Contract
from hospital_assets.publishing.policy import Mask, Policy, PolicyError, RoleName, role_named
from hospital_assets.warehouse.dialect import quoted


@dataclass(frozen=True)
class Audience:
    """Who a publication is for: a role at one hospital, or (None) in the whole network."""

    role: RoleName
    hospital_id: str | None = None
    hospital_key: int | None = None

    @property
    def name(self) -> str:
        """`analyst`, `doctor-H1`; also the name of its folder."""
        return self.role if self.hospital_id is None else f"{self.role}-{self.hospital_id}"

    @property
    def database(self) -> str:
        """The name under which the publication is attached to the warehouse's connection."""
        return re.sub(r"\W", "_", f"publication_{self.name}", flags=re.ASCII).lower()


def check_audience(policy: Policy, role: str, hospital_id: str | None) -> None:
    """Refuse a role that the policy does not name, or one with a hospital it does not need or lacks.

    Raises:
        PolicyError: what there is instead.
    """
    rules = policy.roles[role_named(policy, role)]
    if (rules.rows == "own_hospital") != bool(hospital_id):
        needed = "is at one hospital: say which, as in H1" if not hospital_id else "is not at a hospital"
        raise PolicyError(f"role '{role}' {needed}")


def parse_audience(policy: Policy, text: str) -> tuple[str, str | None]:
    """The role and hospital of an audience's name, as in `analyst` or `doctor-H1`.

    Raises:
        PolicyError: it is no audience of the policy.
    """
    role, _, hospital = text.partition("-")
    check_audience(policy, role, hospital or None)
    return role, hospital or None


def has_audience(policy: Policy, text: str) -> bool:
    """Whether the policy makes an audience of this name."""
    try:
        parse_audience(policy, text)
    except PolicyError:
        return False
    return True


@dataclass(frozen=True)
class PublishedTable:
    """A table of a publication.

    Attributes:
        columns: what is in it, with the mask of each.
        database: the publication's name while it is attached to the warehouse's connection.
        source: the query or table it is taken from.
        rows: condition on its rows, as SQL; empty for all.
        absent: columns that are not stored yet.
    """

    contract: Contract
    columns: tuple[tuple[Column, Mask], ...]
    database: str
    source: str
    rows: str = ""
    absent: frozenset[str] = frozenset()

    @property
    def target(self) -> str:
        """Its name while the publication is attached to the warehouse's connection."""
        return f"{self.database}.{self.contract.layer}.{quoted(self.contract.name)}"
