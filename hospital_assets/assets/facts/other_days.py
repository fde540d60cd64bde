"""What stored days of a fact owe to records of other days: how a fact declares it.

Facts are stored by day, but what they say may depend on other days: a patient's record can land a
week after the visit, a discharge ends a stay that began earlier. A run refreshes the days it was
asked for. So each fact declares, in its own module, which of its inputs matter beyond their own day and
how to tell that a stored day is out of date; `stale_partitions` asks all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import narwhals as nw

from hospital_assets.assets.dimensions.scd2 import key_at
from hospital_assets.landing.registry import Profiles
from hospital_assets.warehouse.dialect import Frame

#: Reference data, which no fact needs to declare: keys are made of natural ids and do not change, and
#: what lands after the facts that name it reaches them when their days are built next.
REFERENCE_DATA = frozenset({"dim_date", "dim_time", "dim_triage", "dim_hospital", "dim_department", "dim_doctor"})

Tables = Mapping[str, Frame]


@dataclass(frozen=True)
class OtherDays:
    """That a fact depends on other days of some inputs.

    Attributes:
        inputs: the tables whose records of other days may change it.
        stale: from the fact and the inputs, by name, and the source profiles: the stored rows (with
            `service_date`) that would be different now.
    """

    fact: str
    inputs: tuple[str, ...]
    stale: Callable[[Tables, Profiles], Frame]

    def rows(self, tables: Tables, profiles: Profiles) -> Frame:
        """The stored rows that would be different now; only what is declared can be read."""
        return self.stale({name: tables[name] for name in (self.fact, *self.inputs)}, profiles)


def moved(facts: Frame, key: str) -> Frame:
    """Rows about something that another day holds too: a correction has moved it."""
    places = facts.group_by(key).agg(_places=nw.len()).filter(nw.col("_places") > 1)
    return facts.join(places, on=key, how="semi")


def other_patients(facts: Frame, cleaned: Frame, patients: Frame, row: list[str], at: str) -> Frame:
    """Rows whose stored patient key is not the one that holds now.

    Args:
        facts: a fact table with `patient_key` and the instant `at`.
        cleaned: its source, with the columns `row` and `patient_id`.
        row: columns that identify a fact in both.
        at: instant of the facts as of which the patient is meant.
    """
    stored = facts.select("service_date", *dict.fromkeys([*row, at]), _stored_key=nw.col("patient_key"))
    both = stored.join(cleaned.select("service_date", "patient_id", *row), on=["service_date", *row], how="inner")
    now = key_at(both, patients, natural="patient_id", at=at, key="patient_key")
    return now.filter(nw.col("patient_key") != nw.col("_stored_key"))
