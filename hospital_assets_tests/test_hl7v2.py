"""HL7 v2: every message accounted for, every field as an independent reader reads it."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hospital_assets.landing.content import read_content
from hospital_assets.landing.hl7v2 import LISTS, iso_time, named_fields, normalised
from hospital_assets.landing.registry import load_profiles
from hospital_assets_tests.conftest import shared


@pytest.fixture(scope="session")
def samples() -> Path:
    return shared("hl7v2_messages")


def records(text: str, encoding: str = "utf-8") -> list[dict[str, Any]]:
    lines = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8", newline="")
    return [json.loads(line) for line in normalised(lines, encoding)]


def landed(path: Path) -> list[dict[str, Any]]:
    content = read_content(path)
    return records(content.text, content.encoding)


def recorded_run(samples: Path) -> str:
    return read_content(samples / "simhospital" / "messages.out").text


def kinds(found: list[dict[str, Any]]) -> Counter[str]:
    counted = Counter(str(record.get("@problem") or "message") for record in found)
    for name in ("DG1", "PR1", "OBR", "OBX"):
        counted[name] += sum(len(record.get(name, [])) for record in found)
    return +counted


HEADER = r"MSH|^~\&|APP|FAC|US|HERE|20260501120000||ADT^A01^ADT_A01|M1|P|2.5.1"


def message(*segments: str, header: str = HEADER) -> str:
    return "\r".join((header, *segments)) + "\r"


# --- the samples ---------------------------------------------------------------------------------


def test_every_message_of_the_recorded_run_is_read(samples: Path) -> None:
    found = records(recorded_run(samples))
    messages = found
    assert Counter((m["MSH-9"], m["MSH-9.2"]) for m in messages) == {
        ("ADT", "A01"): 400,
        ("ORU", "R01"): 610,
        ("MDM", "T02"): 2,
        ("ADT", "A34"): 1,
    }
    assert not any("@problem" in record for record in found)
    assert len({m["PID-3"] for m in messages}) == 403
    wards = {"ED": 0, "OtherWard": 0, "RenalWard": 0}
    for m in messages:
        if m.get("PV1-3") in wards:
            wards[m["PV1-3"]] += 1
    assert wards == {"ED": 218, "OtherWard": 688, "RenalWard": 104}
    orders = Counter(order["OBR-4.2"] for m in messages for order in m.get("OBR", []))
    assert orders["Vital Signs"] == 61
    assert sum(orders.values()) == 610


def test_every_sample_message_is_read(samples: Path) -> None:
    paths = sorted((samples / "fhir_converter").glob("*.hl7"))
    assert len(paths) == 77
    heads = []
    for path in paths:
        found = landed(path)
        assert not any("@problem" in record for record in found), path.name
        heads += found
    # A40, A41 and A47 tell of two patients in one message, A45 of two visits.
    assert len(heads) == 77 + 4
    assert {m["MSH-12"] for m in heads} == {"2.3", "2.4", "2.5", "2.5.1", "2.8"}
    assert all(m["@event_at"] for m in heads)


def test_every_record_says_its_own_line(samples: Path) -> None:
    for path in [*sorted((samples / "fhir_converter").glob("*.hl7")), samples / "simhospital" / "messages.out"]:
        content = read_content(path)
        lines = re.split(r"\r\n|\r|\n", content.text)
        found = records(content.text, content.encoding)
        assert len({record["@line"] for record in found}) == len(found)
        first = [record for record in found if lines[record["@line"] - 1][:3] == "MSH"]
        for record in first:
            assert record["@record"].startswith(lines[record["@line"] - 1])


def test_nothing_of_a_message_is_lost_in_its_record(samples: Path) -> None:
    text = recorded_run(samples)
    kept = [r["@record"] for r in records(text)]
    assert "\r".join(kept) == re.sub(r"[\r\n]+", "\r", text).strip("\r")


def test_fields_are_what_another_reader_reads(samples: Path) -> None:
    text = recorded_run(samples)
    texts = re.split(r"(?<=[\r\n])(?=MSH\|)", text)[::40]
    texts += [read_content(path).text for path in sorted((samples / "fhir_converter").glob("*.hl7"))]
    compared = 0
    for one in texts:
        ours, *others = records(one)
        theirs = hl7.parse("\r".join(line for line in re.split(r"[\r\n]+", one) if line.strip()))
        segments = Counter(str(segment[0]) for segment in theirs)
        told = [(ours, 1), *((e, n) for kind in LISTS for n, e in enumerate(ours.get(kind, ()), 1))]
        for name, value, number in ((k, v, n) for fields, n in told for k, v in fields.items()):
            match = re.fullmatch(r"(\w{3})-(\d+)(?:\[(\d+)\])?(?:\.(\d+))?(?:\.(\d+))?", name)
            if match is None or name == "MSH-2":
                continue
            segment, place, repetition, component, sub = match.groups()
            if repetition is None and f"{segment}-{place}[1]" in ours:
                # Another repetition than the first stands for the field.
                repetition = _absent(ours, f"{segment}-{place}")
            numbers = [int(place), int(repetition or 1), int(component or 1), int(sub or 1)]
            expected = theirs.unescape(theirs.extract_field(segment, number, *numbers))
            # The offset of MSH-7 is that of times without one.
            assert value in (expected, iso_time(expected, ours["MSH-7"][19:]), iso_time(expected)[:10]), name
            compared += 1
        # And nothing is missing: every field that has something in it is named.
        for segment in theirs:
            kind = str(segment[0])
            if segments[kind] == 1 and kind not in {"MSH", "NTE", *LISTS}:
                for place in range(1, len(segment)):
                    if re.sub(r"[\^~&]", "", str(segment[place])):
                        prefix = f"{kind}-{place}"
                        named = {name for record in (ours, *others) for name in record}
                        assert any(re.match(rf"{prefix}\b", name) for name in named), prefix
    assert compared > 10_000


# --- messages made to be awkward -------------------------------------------------------------------


def _absent(record: dict[str, Any], name: str) -> int:
    return next(n for n in range(1, 99) if not any(k.startswith(f"{name}[{n}]") for k in record))


KINDS: dict[str, tuple[str, dict[str, int]]] = {
    "a message": (message("PID|1||7"), {"message": 1}),
    "LF": (message("PID|1||7").replace("\r", "\n"), {"message": 1}),
    "CRLF": (message("PID|1||7").replace("\r", "\r\n"), {"message": 1}),
    "a byte-order mark": ("\ufeff" + message("PID|1||7"), {"message": 1}),
    "blank lines between": ("\n\n".join([message("PID|1||7")] * 3), {"message": 3}),
    "framed": ("\x0b" + message("PID|1||7") + "\x1c\r" + "\x0b" + message() + "\x1c\r", {"message": 2}),
    "framed, the last cut off": (
        "\x0b" + message("PID|1||7") + "\x1c\r" + "\x0b" + HEADER + "\rPID|1||",
        {"message": 1, "message_cut_off": 1},
    ),
    "framed, one in the middle cut off": (
        "\x0b" + HEADER + "\rPID|" + "\x0b" + message() + "\x1c\r",
        {"message": 1, "message_cut_off": 1},
    ),
    "a batch": ("FHS|^~\\&|A\rBHS|^~\\&|A\r" + message() * 2 + "BTS|2\rFTS|1\r", {"message": 2}),
    "a batch that lacks a message": ("BHS|^~\\&|A\r" + message() + "BTS|2\r", {"message": 1, "batch_count_wrong": 1}),
    "a batch file without its end": ("FHS|^~\\&|A\rBHS|^~\\&|A\r" + message(), {"message": 1, "batch_count_wrong": 1}),
    "text before the first message": ("hello\nworld\n" + message(), {"no_message_header": 1, "message": 1}),
    "no message at all": ("PID|1||7\r", {"no_message_header": 1}),
    "no delimiters": ("MSH\rPID|1||7\r" + message(), {"delimiters_unusable": 1, "message": 1}),
    "equal delimiters": ("MSH||||\rPID|1\r", {"delimiters_unusable": 1}),
    "no type": ("MSH|^~\\&|A|B|C|D|2026|||M1|P|2.3\r", {"message_type_missing": 1}),
    "only a header": ("MSH|^~\\&|A|B|C|D|2026||ADT^A08|M1|P|2.3", {"message": 1}),
    "diagnoses and procedures": (
        message("PID|1||7", "PV1|1|E", "DG1|1||J20", "DG1|2||I10", "PR1|1||X"),
        {"message": 1, "DG1": 2, "PR1": 1},
    ),
    "two orders": (
        message("PID|1||7", "OBR|1", "OBX|1", "OBX|2", "NTE|1", "OBR|2", "OBX|1"),
        {"message": 1, "OBR": 2, "OBX": 3},
    ),
    "two patients": (message("PID|1||7", "MRG|8", "PID|2||9", "MRG|10"), {"message": 2}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_text_is_accounted_for(kind: str) -> None:
    text, expected = KINDS[kind]
    assert kinds(records(text)) == expected


def test_other_delimiters() -> None:
    (found,) = records("MSH#*%!@#APP#FAC#US#HERE#2026##ADT*A01#M1#P#2.3\rPID#1##7***A*PI%8***B*MR#\r")
    assert (found["MSH-9.2"], found["PID-3"], found["PID-3[1].4"]) == ("A01", "8", "A")


def test_the_record_number_stands_for_repeated_identifiers() -> None:
    said = "PID|1||1^^^N^SS~2^^^H^MR~3^^^X^PI"
    (found,) = records(message(said))
    assert (found["PID-3"], found["PID-3.5"], found["PID-3[1]"]) == ("2", "MR", "1")
    assert records(message(said.replace("MR", "ZZ")))[0]["PID-3"] == "3"
    assert records(message("PID|1||1^^^N~2^^^H"))[0]["PID-3"] == "1"


def test_null_is_not_absent() -> None:
    (found,) = records(message('PV1|1|E|""||||""^X'))
    assert found["PV1-3"] == '""' and found["PV1-7"] == '""' and "PV1-4" not in found


ESCAPES = {
    r"A\T\E": "A&E",
    r"\F\\S\\T\\R\\E\ ": "|^&~\\ ",
    r"\X41\\X0D0A\b": "A\r\nb",
    r"\XC3A9\ ": "é ",
    r"\XE9\ ": "é ",
    r"x\.br\y": "x\ny",
    r"\H\bold\N\ ": "bold ",
    r"\Z12\ ": r"\Z12" + "\\ ",
    r"a\b": r"a\b",
    "ends\\": "ends\\",
    r"\E\R\ ".strip(): "\\R\\",
    r"c:\dir\F\x": r"c:\dir|x",
}


@pytest.mark.parametrize("written", ESCAPES)
def test_escapes(written: str) -> None:
    (found,) = records(message(f"PV2|1|x|^{written}"))
    assert found["PV2-3.2"] == ESCAPES[written]


TIMES = {
    "20200501123045.1234+0100": "2020-05-01T12:30:45.1234+01:00",
    "202005011230": "2020-05-01T12:30:00",
    "2020050112": "2020-05-01T12:00:00",
    "20200501": "2020-05-01",
    "20200501123045": "2020-05-01T12:30:45",
    "202005011230-0500": "2020-05-01T12:30:00-05:00",
    "2020": "2020",
    "202005": "202005",
    "soon": "soon",
    "20200501123045.12345678": "2020-05-01T12:30:45.123456",
    "": "",
}


@pytest.mark.parametrize("written", TIMES)
def test_timestamps(written: str) -> None:
    assert iso_time(written) == TIMES[written]


def test_when_something_was_observed() -> None:
    def observed(order: str, own: str) -> str | None:
        text = message(f"OBR|1|||X|||{order}", f"OBX|1|NM|8867-4^^LN||80|/min|||||F|||{own}")
        return records(text)[0]["OBX"][0].get("@observed_at")  # type: ignore[no-any-return]

    sent = records(message())[0]["MSH-7"]
    assert observed("202605011010", "202605011005") == "2026-05-01T10:05:00"
    assert observed("202605011010", '""') == "2026-05-01T10:10:00"
    assert observed('""', "") == observed("", "") == observed('""', '""') == sent
    assert observed("20260501", "") == "2026-05-01"


def test_when_an_event_happened() -> None:
    def at(trigger: str, evn: str, pv1: str = "") -> str:
        header = HEADER.replace("A01^ADT_A01", trigger)
        return str(records(message(evn, pv1, header=header))[0]["@event_at"])[:10]

    visit = "PV1|1|E" + "|" * 42 + "20260101|20260109"
    assert at("A01", "EVN||20260102||||20260103", visit) == "2026-01-03"
    assert at("A01", "EVN||20260102", visit) == "2026-01-01"
    assert at("A03", "EVN||20260102", visit) == "2026-01-09"
    assert at("A02", "EVN||20260102", visit) == "2026-01-02"
    assert at("A03", "EVN||20260102") == "2026-01-02"
    assert at("A02", "EVN|A02") == "2026-05-01"


@pytest.mark.parametrize(
    ("charset", "codec"),
    [
        ("8859/1", "latin-1"),
        ("8859/2", "iso8859-2"),
        ("", "utf-8"),
        ("UNICODE UTF-8", "utf-8"),
        ("8859/5", "iso8859-5"),
    ],
)
def test_character_sets(charset: str, codec: str, tmp_path: Path) -> None:
    name = {"iso8859-5": "Иванов", "iso8859-2": "Dvořák"}.get(codec, "Gérard")
    other = message("PID|1||8||M\xe9lanie", header=HEADER + "||||||8859/1").encode("latin-1")
    said = message(f"PID|1||7||{name}", header=HEADER + f"||||||{charset}").encode(codec)
    (tmp_path / "m.hl7").write_bytes(said + other)
    assert [record["PID-5"] for record in landed(tmp_path / "m.hl7")] == [name, "Mélanie"]


@pytest.mark.parametrize("charset", ["ISO IR87", "~ISO IR87", "ASCII~ISO IR14~ISO IR159"])
def test_a_character_set_of_escape_sequences_hides_no_delimiter(charset: str, tmp_path: Path) -> None:
    # Each has a byte of one of the delimiters.
    named = dict(zip("|^~\\&", "万五京倍侃", strict=True))
    assert all(one.encode() in character.encode("iso2022_jp")[3:5] for one, character in named.items())
    last, first = "山田" + named["|"] + named["^"], named["~"] + named["\\"] + named["&"]
    header = HEADER + f"||||||{charset}"
    said = message(f"PID|1||7||{last}^{first}||19800102|F", header=header).encode("iso2022_jp")
    other = message("PID|1||8||Neil\x1b$B||19800103|M").encode()
    (tmp_path / "m.hl7").write_bytes(said + other)
    one, two = landed(tmp_path / "m.hl7")
    assert [one[name] for name in ("PID-5", "PID-5.2", "PID-7", "PID-8")] == [last, first, "1980-01-02", "F"]
    assert (two["PID-5"], two["PID-8"]) == ("Neil\x1b$B", "M")


def test_a_message_sent_again_has_the_same_digest() -> None:
    again = HEADER.replace("20260501120000", "20260501120500")
    first, second, third = (
        records(message("PID|1||7", header=header))[0]["@digest"]
        for header in (HEADER, again, HEADER.replace("A01", "A08"))
    )
    assert first == second != third


def test_a_line_break_inside_a_field_does_not_end_the_message() -> None:
    found = records(message("PID|1||7", "OBR|1", "OBX|1|TX|N||first", "and second||"))
    assert [o["OBX-5"] for o in found[0]["OBX"]] == ["first\nand second"]


# --- properties --------------------------------------------------------------------------------------

TEXTS = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\x85\u2028\u2029"), min_size=1, max_size=12
).filter(lambda text: text.strip() == text)
DELIMITERS = st.permutations("|^~\\&#@!*%$;").map(lambda p: "".join(p[:5]))


def encoded(text: str, delimiters: str) -> str:
    letters = dict(zip(delimiters, "FSRET", strict=True))
    escape = delimiters[3]
    return "".join(f"{escape}{letters[c]}{escape}" if c in letters else c for c in text)


@given(
    delimiters=DELIMITERS,
    people=st.lists(st.lists(TEXTS, min_size=1, max_size=6), min_size=1, max_size=5),
    ending=st.sampled_from(["\r", "\n", "\r\n"]),
    frame=st.booleans(),
)
def test_what_is_written_is_read(delimiters: str, people: list[list[str]], ending: str, frame: bool) -> None:
    f, component = delimiters[0], delimiters[1]

    def written() -> Iterator[str]:
        for place, names in enumerate(people):
            header = f.join([f"MSH{f}{delimiters[1:]}", "A", "B", "C", "D", "2026", "", "ADT", str(place)])
            name = component.join(encoded(part, delimiters) for part in names)
            said = ending.join([header, f.join(["PID", "1", "", "7", "", name]), ""])
            yield f"\x0b{said}\x1c\r" if frame else said

    found = records("".join(written()))
    assert [
        [r[f"PID-5.{n}"] if len(names) > 1 or n > 1 else r["PID-5"] for n in range(1, len(names) + 1)]
        for r, names in zip(found, people, strict=True)
    ] == people


@given(
    st.lists(
        st.sampled_from(
            [
                HEADER,
                "PID|1||7",
                "OBR|1",
                "OBX|1|NM|x||5",
                "DG1|1||J20",
                "\x0b",
                "\x1c",
                "FHS|^~\\&",
                "BTS|9",
                "MSH",
                "MSH|",
                "MSH|^",
                "",
                "noise",
                "\ufeff",
                '""',
                "MSH|^~\\&|||||||^A01|\\",
                "PID",
                "OBX",
            ]
        ),
        max_size=12,
    ),
    st.sampled_from(["\r", "\n", ""]),
)
def test_no_text_stops_the_reader_or_loses_a_line(lines: list[str], ending: str) -> None:
    text = "".join(line + (ending or "\x1c") for line in lines)
    found = records(text)
    said = "".join(record["@record"] for record in found)
    for line in ("noise", "OBR|1", "J20"):
        # A second patient's record repeats the header.
        assert said.count(line) >= text.count(line)


def test_telling_less_tells_the_same(samples: Path) -> None:
    names = load_profiles(None)["hl7v2-adt"].names_of("hl7v2")
    wanted = named_fields(names)
    assert wanted is not None and len(wanted) > 30
    text = recorded_run(samples)
    lines = text.splitlines(keepends=True)
    for line, of_all in zip(normalised(lines, "utf-8", wanted), records(text), strict=True):
        some = json.loads(line)
        assert {k for k in of_all if k in wanted or k[0] == "@"} <= set(some)
        assert all(of_all[k] == v for k, v in some.items() if not isinstance(v, list))
        for mine, theirs in zip(some.get("OBX", []), of_all.get("OBX", []), strict=True):
            assert mine.items() <= theirs.items() and {"@code", "OBX-5"} & set(theirs) <= set(mine)


def test_a_name_that_is_no_field_asks_for_everything() -> None:
    assert named_fields(['$."PID-3"', '$each."OBX-5.2"', '$."@event"']) == {"PID-3", "OBX-5.2"}
    assert named_fields(['$."PID-3"', "$.ZPI"]) is None
