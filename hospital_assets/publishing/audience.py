"""Who a publication is for, and what a table of it holds."""

from __future__ import annotations

from dataclasses import dataclass

from hospital_assets.contracts import Column, Contract
from hospital_assets.publishing.policy import Mask, RoleName
from hospital_assets.warehouse.dialect import quoted


@dataclass(frozen=True)
class Audience:
    """Who a publication is for.

    Attributes:
        role: its role.
        hospital_id: the hospital whose rows it holds; None for the whole network.
        hospital_key: the hospital's key.
    """

    role: RoleName
    hospital_id: str | None = None
    hospital_key: int | None = None

    @property
    def name(self) -> str:
        """`analyst`, `doctor-H1`; also the name of its folder."""
        return self.role if self.hospital_id is None else f"{self.role}-{self.hospital_id}"

    @property
    def database(self) -> str:
        """What the publication is called while it is attached to the warehouse's connection."""
        return f"publication_{self.name}".replace("-", "_").lower()


@dataclass(frozen=True)
class PublishedTable:
    """A table of a publication.

    Attributes:
        contract: what the table is.
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
