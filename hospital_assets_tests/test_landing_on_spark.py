"""Spark reads landed files as DuckDB does: easy ones itself, awkward ones through the careful reader."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import fields
from pathlib import Path

import polars as pl
import pytest

from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.zone import LandingZone
from hospital_assets.spark.lake import Lake
from hospital_assets.warehouse.dialect import Frame
from hospital_assets_tests.engines import spark_session
from hospital_assets_tests.test_landing import KINDS, TEXT, observation, zone  # noqa: F401
from hospital_assets_tests.test_transforms import collect

pytestmark = pytest.mark.nightly

HEAD = "visit_id,patient_id,hospital_id,department,arrival_time,chief_complaint\n"
VISIT = "V{},P1,H1,Emergency,2026-01-15 10:0{}:00,{}\n"
VISITS = {
    "plain.csv": HEAD + VISIT.format(1, 1, "cough") + VISIT.format(2, 2, ""),
    "quoted.csv": HEAD + VISIT.format(3, 3, '"fall, left hip"') + VISIT.format(4, 4, '"said ""ow"""'),
    "no_end.csv": (HEAD + VISIT.format(5, 5, "é\\/<&>")).rstrip("\n"),
    "crlf.csv": (HEAD + VISIT.format(6, 6, "x")).replace("\n", "\r\n"),
    "blank.csv": HEAD + "\n" + VISIT.format(7, 7, "x") + "\n",
    "ragged.csv": HEAD + VISIT.format(8, 8, "x") + "V9,P1\n" + "V10,P1,H1,,,,,\n",
    "line_break.csv": HEAD + VISIT.format(11, 1, '"two\nlines"') + VISIT.format(12, 2, "x"),
    "open_quote.csv": HEAD + VISIT.format(13, 3, '"open'),
    "other_order.csv": "patient_id,visit_id,hospital_id,arrival_time,new_column\nP1,V14,H1,2026-01-15 11:00:00,7\n",
    "twice.csv": HEAD.replace("chief_complaint", "department") + VISIT.format(15, 5, "x"),
    "header_only.csv": HEAD,
    "blanks.csv": HEAD + VISIT.format(16, 6, "  x  ") + VISIT.format(17, 7, '""'),
    "a [name].csv": HEAD + VISIT.format(18, 8, "x"),
}


def on_spark(zone: LandingZone) -> LandingZone:  # noqa: F811
    from hospital_assets.spark.landing import SparkLandingZone

    values = {field.name: getattr(zone, field.name) for field in fields(LandingZone) if field.init}
    return SparkLandingZone(**values, session=spark_session(), lake=Lake(str(zone.spool / "lake")))


def rows(frame: Frame, *without: str) -> pl.DataFrame:
    return collect(frame).drop(*without).sort("source_file", "source_line", "source_part")


def assert_read_alike(zone: LandingZone, subject: str) -> pl.DataFrame:  # noqa: F811
    ledger = zone.discover()
    expected = rows(zone.read(subject, ledger))
    found = rows(on_spark(zone).read(subject, ledger))
    assert found.height == expected.height
    assert found.schema == expected.schema
    if "payload" in expected.columns:
        # JSON is compared as what it says, not as how it is written; NaN is no JSON but a text.
        expected, found = (
            frame.with_columns(
                pl.col("payload").map_elements(
                    lambda text: str(json.loads(text, parse_constant=str)), return_dtype=pl.String
                )
            )
            for frame in (expected, found)
        )
    for name in expected.columns:
        differing = expected[name].ne_missing(found[name])
        where = expected.filter(differing)["source_file", "source_line"].rows()
        assert not where, (
            name,
            where[:5],
            expected[name].filter(differing)[:5].to_list(),
            found[name].filter(differing)[:5].to_list(),
        )
    return found


def test_every_kind_of_csv(zone: LandingZone) -> None:  # noqa: F811
    folder = zone.landing / "native" / "er_visits"
    for name, text in VISITS.items():
        (folder / name).write_text(text, newline="")
    (folder / "packed.csv.gz").write_bytes(gzip.compress((HEAD + VISIT.format(20, 1, "z")).encode()))
    (folder / "latin.csv").write_bytes((HEAD + VISIT.format(21, 1, "caf\xe9")).encode("latin-1"))
    (folder / "bom.csv").write_bytes((HEAD + VISIT.format(22, 1, "x")).encode("utf-8-sig"))
    (folder / "wide.csv").write_bytes((HEAD + VISIT.format(23, 1, "x")).encode("utf-16"))
    found = assert_read_alike(zone, "er_visits")
    assert found["problem"].drop_nulls().to_list().count("wrong_field_count") >= 2
    assert {"V1", "V3", "V6", "V11", "V14", "V18", "V20", "V21", "V22", "V23"} <= set(found["visit_id"])


def test_every_kind_of_json(zone: LandingZone) -> None:  # noqa: F811
    folder = zone.landing / "native" / "vitals"
    for number, content in enumerate(kind[0] for kind in KINDS.values()):
        (folder / f"kind_{number}.json").write_bytes(content)
    (folder / "packed.json.gz").write_bytes(gzip.compress(TEXT.replace("O1", "X1").encode()))
    odd = [
        observation(50).replace("80.0", "NaN").replace("130.0", "NaN"),
        observation(51)[:-5],
        "[1]",
        "5",
        '"text"',
        "{}",
        "  " + observation(52) + "  ",
        observation(53) + " trailing",
        '{"observation_id": "O54", "note": "n: NaN", "x": null}',
        '{"observation_id": 55}',
        '{"observation_id": "é\\u00e9\\n"}',
    ]
    (folder / "odd.json").write_text("\n".join([observation(49), *odd]) + "\r\n", newline="")
    found = assert_read_alike(zone, "vitals")
    assert "unreadable_line" in found["problem"].to_list()


def test_joined_and_nested_sources(mimic: Path, tmp_path: Path, zone: LandingZone) -> None:  # noqa: F811
    target = zone.landing / "mimic-iv-ed"
    target.mkdir()
    for file in mimic.glob("*.csv.gz"):
        shutil.copyfile(file, target / file.name)
    assert assert_read_alike(zone, "vitals").height > 1_000
    assert assert_read_alike(zone, "er_visits").height > 100


def test_what_has_not_landed_is_stored_as_an_empty_table(zone: LandingZone, tmp_path: Path) -> None:  # noqa: F811
    nothing = on_spark(zone).read("other_records", zone.discover())
    contract = CONTRACTS["raw_other_records"]
    assert Lake(str(tmp_path / "lake")).replace(spark_session(), contract, nothing, None) == 0
