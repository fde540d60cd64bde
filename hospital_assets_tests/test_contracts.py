"""Contracts: a column name means one thing, and a table says why where it departs from that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from hospital_assets.contracts import CONTRACTS, Contract, Table, fields
from hospital_assets.contracts.fields import FIELDS
from hospital_assets.contracts.table import column


def disagreements(contracts: Iterable[Contract]) -> Iterator[str]:
    """Names that have two types, units, privacy classes or wordings, but for raw text and reasoned departures."""
    first: dict[str, tuple[object, ...]] = {}
    for contract in contracts:
        for found in contract.columns:
            stated = FIELDS.get(found.name)
            is_landed_text = contract.layer == "raw" and found.duckdb_type == "VARCHAR"
            kind = None if is_landed_text else (found.duckdb_type, found.unit)
            privacy = None if found.because else found.privacy
            words = stated is None or found.because or found.description.startswith(stated.description)
            before = first.setdefault(found.name, (kind, privacy))
            clash = [a for a, b in zip(before, (kind, privacy), strict=True) if None not in (a, b) and a != b]
            if clash or not words:
                yield f"{contract.name}.{found.name}"
            first[found.name] = tuple(a if a is not None else b for a, b in zip(before, (kind, privacy), strict=True))


def test_a_name_has_one_type_unit_privacy_class_and_wording() -> None:
    assert list(disagreements(CONTRACTS.values())) == []
    assert [name for c in CONTRACTS.values() for name in c.column_names if name not in FIELDS] == []


@pytest.mark.parametrize(
    "other",
    [
        fields.text("Triage level, 1 most urgent."),
        fields.whole("Triage level, 1 most urgent.", unit="points"),
        fields.whole("Triage level, 1 most urgent.", privacy="clinical"),
        fields.whole("How urgent."),
    ],
)
def test_a_second_meaning_of_a_name_is_found(other: fields.Field) -> None:
    class Planted(Table, name="planted", layer="facts", grain="x", key=("triage_level",)):
        """A table that means something else by it."""

        triage_level = other

    assert list(disagreements([*CONTRACTS.values(), Planted.contract()])) == ["planted.triage_level"]


def test_no_field_is_left_over() -> None:
    used = {name for contract in CONTRACTS.values() for name in contract.column_names}
    assert [name for name in FIELDS if name not in used] == []


def test_the_departures_from_the_vocabulary_are_known() -> None:
    """A new one is a decision: what a name says about a person must not change by the way."""
    assert {f"{c.name}.{x.name}" for c in CONTRACTS.values() for x in c.columns if x.because} == {
        "raw_landed_files.state",
        "raw_hospitals.city",
        "raw_hospitals.state",
        "cleaned_hospitals.city",
        "cleaned_hospitals.state",
        "dim_hospital.city",
        "dim_hospital.state",
        "dim_condition.icd_code",
        "kpi_conditions_daily.icd_code",
        "kpi_conditions.icd_code",
        "kpi_procedures.procedure_code",
        "kpi_blood_groups.blood_group",
    }


def test_a_departure_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="because"):
        column(privacy="operational")
    with pytest.raises(ValueError, match="because"):
        column(because="no reason to give a reason")


def test_a_table_lists_what_it_has() -> None:
    with pytest.raises(ValueError, match="'blood_pressure' that contracts/fields.py does not describe"):

        class Unknown(Table, name="unknown", layer="facts", grain="x", key=("visit_id",), columns="blood_pressure"):
            """A name nobody explained."""

    with pytest.raises(ValueError, match="bed_id without listing it"):

        class Unlisted(Table, name="unlisted", layer="facts", grain="x", key=("visit_id",)):
            """Something said about a column that is not there."""

            bed_id = column("Of the patient.")


def test_a_table_says_what_is_particular_to_it() -> None:
    class Beds(Table, name="dim_bed", layer="facts", grain="x", key=("bed_id",), columns="hospital_key patient_id"):
        """Beds."""

        bed_id = column("Of the ward.", nullable=False, str_matches="^B")

    bed, hospital, patient = Beds.contract().columns
    assert (bed.description, bed.nullable, len(bed.checks)) == ("Bed. Of the ward.", False, 1)
    assert hospital.references == "dim_hospital.hospital_key"
    assert patient.privacy == "direct_identifier"
    assert CONTRACTS["dim_hospital"].column("hospital_key").references == ""
