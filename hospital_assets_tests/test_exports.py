"""Bulk exports of a FHIR server that has every fault: each file lands once and whole, and nobody's secret is told."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import re
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from hospital_assets.cli import main
from hospital_assets.files import replace_text
from hospital_assets.landing.profile import SUBJECTS, Profile, ProfileError, parse_profile
from hospital_assets.landing.registry import load_profiles, profile_text
from hospital_assets.recovery.erase import Person, strip_landing
from hospital_assets.settings import FileLimits, Settings
from hospital_assets.sources.exports import _Manifest
from hospital_assets.sources.memory import Pulled, open_memory
from hospital_assets.sources.pull import pull
from hospital_assets.sources.remote import RemoteError
from hospital_assets.sources.smart import waiting_time
from hospital_assets.sources.upstream import source_assets
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets_tests.certificates import Authority, pem_of
from hospital_assets_tests.fhir_server import CLIENT, KEY_ID, PLANTED, Fault, FhirFake, fhir_server, outcome
from hospital_assets_tests.helpers import zone_in
from hospital_assets_tests.processes import hospital

jwt = pytest.importorskip("jwt", reason="PyJWT is not installed (extra fhir-bulk)")


def lines(*resources: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in resources)


def patients(first: int, count: int) -> bytes:
    return lines(*({"resourceType": "Patient", "id": f"p{n}", "gender": "female"} for n in range(first, first + count)))


def encounters(count: int) -> bytes:
    return lines(
        *(
            {
                "resourceType": "Encounter",
                "id": f"e{n}",
                "status": "finished",
                "class": {"code": "EMER"},
                "subject": {"reference": f"Patient/p{n}"},
                "serviceProvider": {"reference": "Organization/H1"},
                "period": {"start": "2026-03-07T10:00:00-05:00", "end": "2026-03-07T14:00:00-05:00"},
            }
            for n in range(count)
        )
    )


FILES = {
    ("output", "Patient"): [patients(0, 40), patients(40, 30)],
    ("output", "Encounter"): [encounters(70)],
    ("output", "Observation"): [b""],
}


DELETED = {"request": {"method": "DELETE", "url": "Patient/p1"}}


class Clock:
    """A clock that goes on when somebody waits."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def profile_of(url: str, more: str = "") -> Profile:
    return parse_profile(text_of(url, more), "ehr.toml")


def text_of(url: str, more: str = "") -> str:
    shipped = profile_text(Path("nowhere"), "fhir-r4").replace('name = "fhir-r4"', 'name = "ehr"')
    return f'{shipped}\n[source.fhir]\nurl = "{url}"\n{more}\n'


@contextlib.contextmanager
def ehr(
    tmp_path: Path, clock: Clock | None = None, **behaviour: Any
) -> Iterator[tuple[FhirFake, Callable[..., Pulled]]]:
    """A server, and a function that looks at it as the sensor does, later each time."""
    clock = clock or Clock()
    settings = Settings(tmp_path)
    with fhir_server(FhirFake(**{"files": FILES, "clock": lambda: clock().timestamp(), **behaviour})) as fake:

        def look(more: str = "", later: float = 30, until: Callable[[], bool] = lambda: False, **limits: int) -> Pulled:
            clock.sleep(later)
            limited = replace(settings, limits=FileLimits(**limits)) if limits else settings
            return pull(limited, profile_of(fake.url, more), clock, clock.sleep, until)

        yield fake, look


def landed(data: Path) -> dict[str, bytes]:
    folder = data / "landing" / "ehr"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def bodies(files: dict[tuple[str, str], list[bytes]] = FILES) -> list[bytes]:
    return sorted(body for of in files.values() for body in of if body)


def test_an_export_lands_whole_and_the_next_one_asks_for_what_came_since(tmp_path: Path) -> None:
    with ehr(tmp_path) as (fake, look):
        done = look()
        assert (done.brought, done.waiting, done.succeeded, done.reason) == (3, 0, True, "")
        assert sorted(landed(tmp_path).values()) == bodies()
        assert all(name.startswith(("Patient.20260307T120000Z-", "Encounter.2026")) for name in landed(tmp_path))
        # Its server may forget it, and nothing is begun before it is time.
        assert fake.count("DELETE", "/status/") == 1 and not fake.jobs
        assert look().note.startswith("the next export is due in") and fake.count("GET", "$export") == 1
        fake.files, fake.moment = {("output", "Patient"): [patients(0, 1)]}, "2026-03-07T13:00:00Z"
        assert look(later=3600).brought == 1
        assert [query for _, path, query in fake.asked if "$export" in path] == [
            "_outputFormat=application%2Ffhir%2Bndjson",
            "_outputFormat=application%2Ffhir%2Bndjson&_since=2026-03-07T12%3A00%3A00.123Z",
        ]
        # A server whose own data is of the same moment as before: no file takes the place of another.
        fake.files = {("output", "Patient"): [patients(7, 2)]}
        assert look(later=3600).brought == 1 and len(landed(tmp_path)) == 5
        # Something else is asked for: from the beginning.
        asked = 'group = "ed"\ntypes = ["Patient", "Encounter"]'
        assert look(asked).brought == 1
        _, path, query = next(asked for asked in fake.asked if "Group" in asked[1])
        assert path == "/Group/ed/$export" and "_type=Patient%2CEncounter" in query and "_since" not in query


@pytest.mark.parametrize(
    ("step", "faults"),
    [
        ("export", [Fault(429, {"Retry-After": "3"}), Fault(503, {"Retry-After": "2"})]),
        ("status", [Fault(429, {"Retry-After": "5"}), Fault(503)]),
        ("status", [Fault(202, {"Retry-After": "Sat, 07 Mar 2026 12:00:09 GMT"})]),
        ("status", [Fault(500, body=json.dumps(outcome("transient")).encode()), Fault(202, {"Retry-After": "7"})]),
        ("file", [Fault(0), Fault(500), Fault(0)]),
        ("file", [Fault(429, {"Retry-After": "9"}), Fault(503, {"Retry-After": "nonsense"})]),
        ("delete", [Fault(500)]),
        ("export", [Fault(307, {"Location": "/moved/$export"})]),
    ],
    ids=str,
)
def test_what_passes_changes_nothing(tmp_path: Path, step: str, faults: list[Fault]) -> None:
    with ehr(tmp_path, faults={step: faults}) as (fake, look):
        done = [look(later=120) for _ in range(8)]
        assert sum(one.brought for one in done) == 3 and done[-1].succeeded
        assert not fake.faults[step]
    assert sorted(landed(tmp_path).values()) == bodies()


def test_a_server_that_asks_to_wait_is_left_alone_until_then(tmp_path: Path) -> None:
    with ehr(tmp_path, faults={"status": [Fault(202, {"Retry-After": "300"})]}) as (fake, look):
        first = look()
        assert (first.waiting, first.note, first.succeeded) == (1, "the server is asked again in 300 s", True)
        asked = len(fake.asked)
        assert look(later=60).note == "the server is asked again in 240 s" and len(fake.asked) == asked
        assert look(later=240).brought == 3


def test_a_clock_that_was_ahead_stops_no_export(tmp_path: Path) -> None:
    clock, year = Clock(), 365 * 86_400
    with ehr(tmp_path / "landed", clock) as (fake, look):
        assert look(later=year).brought == 3
        fake.files, fake.moment = {("output", "Patient"): [patients(0, 1)]}, "2026-03-07T13:00:00Z"
        assert look(later=-year).brought == 1
    # Also where the server has asked to be left alone for a while.
    with ehr(tmp_path / "asked", clock, faults={"status": [Fault(202, {"Retry-After": "300"})]}) as (_, look):
        assert look(later=year).waiting == 1
        assert look(later=-year).brought == 3


def test_a_server_that_never_ends_is_called_off(tmp_path: Path) -> None:
    with ehr(tmp_path, polls=1_000_000) as (fake, look):
        done = [look(later=1800) for _ in range(5)]
        assert [one.reason for one in done if one.reason] == []
        fake.polls = 0
        assert "was not ready in 3 hours" in look("hours = 3", later=3600).reason
        assert fake.count("DELETE", "/status/") == 1 and not landed(tmp_path)
        assert look("hours = 3").brought == 3


def test_a_forgotten_export_begins_anew(tmp_path: Path) -> None:
    with ehr(tmp_path, polls=30) as (fake, look):
        assert look().waiting == 1
        fake.jobs.clear()
        fake.polls = 0
        assert "forgotten the export" in look().reason
        assert look(later=3600).brought == 3
    assert sorted(landed(tmp_path).values()) == bodies()


def test_files_that_go_before_all_are_here_begin_anew_and_nothing_comes_twice(tmp_path: Path) -> None:
    with ehr(tmp_path) as (fake, look):
        stops = iter([*[False] * 5, *[True] * 99])
        assert look(until=lambda: next(stops)).waiting == 1
        assert fake.served and not {name for name in landed(tmp_path) if not name.startswith(".")}
        fake.jobs.clear()
        assert "forgotten" in look().reason or look().reason
        assert look(later=3600).brought == 3
    assert sorted(landed(tmp_path).values()) == bodies()


def test_files_that_have_gone_for_good_end_their_export(tmp_path: Path) -> None:
    with ehr(tmp_path, faults={"file": [Fault(404)]}) as (fake, look):
        assert "gone before all were here" in look().reason
        assert fake.count("DELETE", "/status/") == 1 and look(later=60).note.startswith("the next export is due in 5")
        assert look(later=3600).brought == 3


def test_new_addresses_of_the_same_files_go_on_with_what_is_here(tmp_path: Path) -> None:
    signature = ["one"]

    def signed(stated: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(stated).replace("planted-signature", signature[0])
        signature[0] = "two"
        return json.loads(text)  # type: ignore[no-any-return]

    faults = {"file": [Fault(200, body=FILES["output", "Patient"][0]), Fault(403)]}
    with ehr(tmp_path, manifest=signed, faults=faults) as (fake, look):
        assert "addresses of its files have changed" in look().reason
        assert look().brought == 3
        assert sum("sig=one" in query for *_, query in fake.asked) == 2
        assert fake.count("GET", "$export") == 1
    assert sorted(landed(tmp_path).values()) == bodies()


@pytest.mark.parametrize(
    "manifest",
    [
        lambda stated: [stated],
        lambda stated: "not ready",
        lambda stated: {**stated, "transactionTime": "yesterday"},
        lambda stated: {**stated, "transactionTime": "2026-13-45T99:00:00Z"},
        lambda stated: {key: value for key, value in stated.items() if key != "output"},
        lambda stated: {**stated, "output": [{"type": "../../etc", "url": "https://x.example/1"}]},
        lambda stated: {**stated, "output": [{"type": "Patient"}]},
        lambda stated: {**stated, "output": [{"type": "Patient", "url": "file:///etc/passwd"}]},
        lambda stated: {**stated, "output": [{"type": "Patient", "url": "http://169.254.169.254/latest"}]},
        lambda stated: {**stated, "output": [{"type": "Patient", "url": "https://[broken"}]},
        lambda stated: {**stated, "output": 7},
        lambda stated: {**stated, "link": [{"relation": "next", "url": "https://x.example/2"}]},
    ],
    ids=range(12),
)
def test_a_wrong_list_of_files_is_refused(tmp_path: Path, manifest: Callable[[dict[str, Any]], Any]) -> None:
    with ehr(tmp_path, manifest=manifest) as (fake, look):
        done = look()
        assert "its list of files" in done.reason and not done.succeeded and not landed(tmp_path)
        # Not again at every look.
        assert look(later=60).reason == "" and fake.count("GET", "$export") == 1 and not fake.served
        fake.manifest = lambda stated: stated
        assert look(later=3600).brought == 3


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>sign in</html>", "no NDJSON"),
        (FILES["output", "Patient"][0][:-9], "cut off"),
        (patients(0, 39), "fewer resources"),
    ],
)
def test_a_file_that_is_not_what_was_announced_holds_its_export_back(tmp_path: Path, body: bytes, said: str) -> None:
    with ehr(tmp_path, faults={"file": [Fault(200, body=body)] * 3}) as (_, look):
        done = look()
        assert not done.succeeded and [said in why for why in done.failed.values()] == [True]
        assert "could not be brought" in done.reason
        assert not {name for name in landed(tmp_path) if not name.startswith(".")}
        assert look().brought == 3
    assert sorted(landed(tmp_path).values()) == bodies()


def test_a_file_that_never_comes_whole_ends_its_export(tmp_path: Path) -> None:
    with ehr(tmp_path, faults={"file": [Fault(500)] * 1000}) as (fake, look):
        done = [look(later=600) for _ in range(8)]
        assert all(one.reason for one in done) and fake.count("DELETE", "/status/") == 1
        assert fake.count("GET", "$export") == 1 and not list(tmp_path.rglob("*.ndjson"))
        fake.faults.clear()
        assert look(later=3600).brought == 3


def test_a_link_in_the_landing_folder_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with ehr(tmp_path / "data") as (fake, look):
        (tmp_path / "data" / "landing").mkdir(parents=True)
        (tmp_path / "data" / "landing" / "ehr").symlink_to(outside)
        assert "a link stands in the landing folder" in look().reason and not list(outside.iterdir())
        assert not fake.served


def test_limits(tmp_path: Path) -> None:
    large = {("output", "Patient"): [patients(0, 20_000)], ("output", "Encounter"): [encounters(1)]}
    with ehr(tmp_path, files=large) as (fake, look):
        assert "over a limit" in look(megabytes=1).reason
        asked = len(fake.asked)
        assert not look(megabytes=1, later=1800).reason and len(fake.asked) == asked
        assert "over a limit" in look("most_megabytes = 1", later=3600).reason
        assert look(later=3600).brought == 2


def test_deletions_and_errors_are_kept_and_told_by_their_codes(tmp_path: Path) -> None:
    deleted = {"resourceType": "Bundle", "type": "transaction"}
    deleted["entry"] = [DELETED]  # type: ignore[assignment]
    files = {
        ("output", "Patient"): [patients(0, 3)],
        ("deleted", "Bundle"): [lines(deleted)],
        ("error", "OperationOutcome"): [lines(outcome("processing"), outcome("processing"), outcome("Jane Doe!"))],
    }
    with ehr(tmp_path, files=files) as (_, look):
        done = look()
        assert done.brought == 3 and done.succeeded
        assert "1 files of deletions" in done.note and "issues in the last export (processing 2 times)" in done.note
        assert "Jane" not in done.note and "issues" in look().note
        with open_memory(Settings(tmp_path)) as memory:
            noted = memory.look("ehr")
        assert noted is not None and "processing 2 times" in noted.reason
    assert {name.partition(".")[0] for name in landed(tmp_path)} == {"Patient", "deleted", "error"}


# Who asks -----------------------------------------------------------------------------------------------


def with_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: Any = None, form: str = "pem"
) -> tuple[str, dict[str, Any]]:
    """What a profile says of a key, and what the server knows of it."""
    key = key or ec.generate_private_key(ec.SECP384R1())
    file = tmp_path / "client.key"
    if form == "pem":
        file.write_bytes(pem_of(key))
    else:
        algorithm = (
            jwt.algorithms.ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else jwt.algorithms.RSAAlgorithm
        )
        stated = json.loads(algorithm.to_jwk(key))
        file.write_text(json.dumps({**stated, "kid": KEY_ID}))
    monkeypatch.setenv("EHR_KEY_FILE", str(file))
    more = f'client_id = "{CLIENT}"\nkey = "EHR_KEY_FILE"\n' + (f'key_id = "{KEY_ID}"\n' if form == "pem" else "")
    return more, {"public_key": key.public_key()}


@pytest.mark.parametrize("form", ["pem", "jwk"])
@pytest.mark.parametrize("kind", ["ES384", "RS384"])
def test_a_token_is_asked_for_with_a_signed_assertion_and_told_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, form: str, kind: str
) -> None:
    caplog.set_level(logging.INFO)
    key = ec.generate_private_key(ec.SECP384R1()) if kind == "ES384" else rsa.generate_private_key(65537, 2048)
    more, knows = with_key(tmp_path, monkeypatch, key, form)
    # A login in ~/.netrc must not take the token's place.
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login planted password planted\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with ehr(tmp_path / "data", **knows) as (fake, look):
        assert look(more).brought == 3
        assert len(fake.jtis) == 1 and ("GET", "/$export") in fake.authorised
    kept = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    held = b"".join(path.read_bytes() for path in kept)
    assert not [word for word in ("planted-token", "client_assertion") if word.encode() in held or word in caplog.text]


def test_a_token_that_ends_in_the_middle_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more, knows = with_key(tmp_path, monkeypatch)
    with ehr(tmp_path, token_requests=2, **knows) as (fake, look):
        assert look(more).brought == 3
        assert len(fake.jtis) >= 3 and sum(fake.served.values()) == 4
    clock = Clock()
    # One that ends while the server prepares is renewed before it is refused.
    with ehr(tmp_path / "c", clock, polls=9, token_seconds=5, **knows) as (fake, look):
        assert look(more).brought == 3 and len(fake.jtis) >= 4 and not fake.refused
    with ehr(tmp_path / "b", clock, polls=3, faults={"status": [Fault(202, {"Retry-After": "19"})]}, **knows) as (
        fake,
        look,
    ):
        look(more)
        clock.sleep(3600)
        look(more)
        assert len(fake.jtis) == 2


def test_a_token_goes_to_no_other_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more, knows = with_key(tmp_path, monkeypatch)
    with fhir_server(FhirFake(FILES)) as elsewhere:
        # Files elsewhere that open by their address alone.
        with ehr(tmp_path / "a", needs_token=False, files_at=elsewhere.url, **knows) as (fake, look):
            fake.manifest = lambda stated: stated
            assert "its list of files" in look(more).reason  # in the clear, on another server
        # Files elsewhere that want the token; an export that is said to be elsewhere; a redirect there.
        where = {"Location": f"{elsewhere.url}/steal", "Content-Location": f"{elsewhere.url}/status/1"}
        for faults in (
            {"export": [Fault(202, where)]},
            {"export": [Fault(302, where)]},
            {"status": [Fault(307, where)] * 9},
            {"file": [Fault(302, where)] * 99},
            {"token": [Fault(307, where)] * 99},
        ):
            with ehr(tmp_path / str(faults)[:9], faults=faults, **knows) as (fake, look):
                done = look(more)
                assert not done.succeeded and not done.brought
        assert not elsewhere.asked


def test_files_with_tokens_elsewhere_by_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By TLS files may be on another server; the token still may not."""
    more, knows = with_key(tmp_path, monkeypatch)
    authority = Authority(tmp_path, "authority")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("server"))
    with fhir_server(FhirFake(FILES), context) as elsewhere, ehr(tmp_path / "a", **knows) as (fake, look):
        fake.files_at, fake.jobs = elsewhere.url, elsewhere.jobs
        done = look(more)
        assert not done.brought and not elsewhere.asked
        assert set(done.failed.values()) == {
            "it wants the token at another server than `url`, where it is not sent; ask its owner"
        }
        fake.needs_token = False
        fake.moment = "2026-03-07T12:00:01Z"
        with open_memory(Settings(tmp_path / "a")) as memory:
            memory.note_state("ehr", {**(memory.state("ehr") or {}), "manifest": "", "ask_after": 0.0})
        # The certificate counts.
        assert "certificate is not trusted" in look(more).reason
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.file))
        assert look(more).brought == 3 and not elsewhere.authorised


@pytest.mark.parametrize(
    ("environment", "written", "said"),
    [
        ({}, b"", "set EHR_KEY_FILE to the file"),
        ({"EHR_KEY_FILE": "missing"}, b"", "cannot be read"),
        ({"EHR_KEY_FILE": "key"}, b"planted-secret", "holds no private key"),
        ({"EHR_KEY_FILE": "key"}, b'{"planted-secret": 1}', "holds no private key"),
        ({"EHR_KEY_FILE": "key"}, pem_of(ec.generate_private_key(ec.SECP256R1())), "on the curve P-384"),
        ({"EHR_KEY_FILE": "key"}, pem_of(ec.generate_private_key(ec.SECP384R1())), "no token is given (HTTP 400, inv"),
    ],
    ids=range(6),
)
def test_a_key_that_is_none_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], written: bytes, said: str
) -> None:
    more, knows = with_key(tmp_path, monkeypatch)
    monkeypatch.delenv("EHR_KEY_FILE")
    (tmp_path / "key").write_bytes(written)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    with ehr(tmp_path, **knows) as (fake, look):
        reason = look(more).reason
        assert said in reason and "planted" not in reason.replace("planted-client", "")
        assert not fake.count("GET", "$export")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(403, body=json.dumps(outcome("forbidden")).encode()), "this client may not"),
        (Fault(400, body=json.dumps(outcome("not-supported")).encode()), "leave out `group` or `types`"),
        (Fault(404, body=b"<html>planted-diagnostics"), "does not know the address or the group"),
        (Fault(500, body=json.dumps(outcome("exception")).encode()), "HTTP 500, exception"),
        (Fault(200, body=b"{}"), "no export was begun"),
        (Fault(202), "is not on this server"),
        (Fault(202, {"Content-Location": "https://127.0.0.1:1/status/1"}), "is not on this server"),
    ],
    ids=range(7),
)
def test_refusals_are_said_in_words_without_what_the_server_writes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: Fault, said: str
) -> None:
    with ehr(tmp_path, faults={"export": [fault]}) as (_, look):
        done = look()
        assert said in done.reason and not [word for word in PLANTED if word in done.reason + caplog.text]


def test_a_server_that_is_away_is_said_in_words(tmp_path: Path) -> None:
    with ehr(tmp_path) as (fake, look):
        pass
    assert "the server cannot be reached" in look().reason and fake.url not in look().reason


def test_proxies_are_those_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ehr(tmp_path) as (fake, look):
        proxy, fake.url = fake.url, "http://localhost:1"
        monkeypatch.setenv("HTTP_PROXY", proxy)
        assert look().brought == 3 and all(path.startswith("/") for _, path, _ in fake.asked)
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        assert "the proxy does not let it through" in look(later=3600).reason


def test_an_export_is_an_asset_and_its_half_is_erased_like_any_file(tmp_path: Path) -> None:
    (spec,) = source_assets([profile_of("https://ehr.example.org/fhir")])
    assert spec.kinds == {"fhir"} and spec.metadata["from"] == "https://ehr.example.org/fhir"
    stops = iter([*[False] * 5, *[True] * 99])
    with ehr(tmp_path) as (fake, look):
        assert look(until=lambda: next(stops)).waiting == 1
        settings = Settings(tmp_path)
        replace_text(settings.profiles_folder / "ehr.toml", text_of(fake.url))
        stripped = strip_landing(settings, Person(("ehr:p3",)))
        assert sum(one.records for one in stripped) == 1
        assert look().brought == 3
    assert not [body for body in landed(tmp_path).values() if b'"p3"' in body and b"Encounter" not in body]


# Rules --------------------------------------------------------------------------------------------------


class Answer:
    def __init__(self, **headers: str) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


NOON = datetime(2026, 3, 7, 12, tzinfo=UTC)


@given(st.integers(0, 4000), st.integers(-100_000, 100_000))
def test_a_date_to_wait_for_is_one_of_the_servers_clock(seconds: int, skew: int) -> None:
    here = NOON + timedelta(seconds=skew)
    said = (NOON + timedelta(seconds=seconds)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    answer = Answer(retry_after=said, date=NOON.strftime("%a, %d %b %Y %H:%M:%S GMT"))
    assert waiting_time(answer, here) == min(max(seconds, 1), 3600)  # type: ignore[arg-type]


@given(st.text(max_size=40))
def test_any_wait_is_between_a_second_and_an_hour(text: str) -> None:
    assert 1 <= waiting_time(Answer(retry_after=text), NOON) <= 3600  # type: ignore[arg-type]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "url", "count"]), inner),
    max_leaves=9,
)


@given(st.dictionaries(st.sampled_from(["transactionTime", "output", "deleted", "error", "link"]), JSON) | JSON)
def test_no_list_of_files_is_anything_but_read_or_refused(stated: Any) -> None:
    with contextlib.suppress(RemoteError):
        _Manifest.of(json.dumps(stated), "https://x.example/status")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('url = "http://ehr.example.org/fhir"', "an address begins with https://"),
        ('url = "https://user:planted@ehr.example.org"', "no login and no options"),
        ('url = "https://ehr.example.org"\ntypes = ["patients; drop"]', "is no type of resource"),
        ('url = "https://ehr.example.org"\ngroup = "../admin"', "group"),
        ('url = "https://ehr.example.org"\nclient_id = "x"', "client_id and key belong together"),
        ('url = "https://ehr.example.org"\nclient_id = "x"\nkey = "-----BEGIN"', "never a key"),
    ],
)
def test_a_profile_says_where_and_never_a_secret(more: str, said: str) -> None:
    text = text_of("https://x.example").replace('url = "https://x.example"', more)
    with pytest.raises(ProfileError, match=said) as told:
        parse_profile(text, "ehr.toml")
    assert "planted" not in str(told.value)


# The whole way ------------------------------------------------------------------------------------------


def raw(settings: Settings) -> dict[str, pl.DataFrame]:
    """What the tables would read of all that has landed."""
    profiles = load_profiles(settings.profiles_folder)
    with open_warehouse(settings.warehouse_file) as warehouse:
        zone = zone_in(settings.data_dir, warehouse.connection, profiles)
        ledger = zone.discover()
        assert set(ledger["state"]) == {"ready"}
        found = {}
        for subject in (*SUBJECTS, "other_records"):
            frame = zone.read(subject, ledger).collect("polars").to_native()
            told = [name for name in frame.columns if name != "source_file"]
            found[subject] = frame.select(pl.col(told).cast(pl.String)).sort(told)
    return found


@pytest.mark.slow
def test_an_export_reads_as_the_same_files_landed_by_hand(tmp_path: Path) -> None:
    files = {
        **FILES,
        ("deleted", "Bundle"): [lines({"resourceType": "Bundle", "type": "transaction", "entry": [DELETED]})],
    }
    by_hand = Settings(tmp_path / "hand")
    for kind, of in files.items():
        for number, body in enumerate(of):
            if body:
                target = by_hand.landing / "ehr" / f"{kind[1]}-{number}.ndjson"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(body)
    with ehr(tmp_path / "pulled", files=files) as (fake, look):
        look()
        text = text_of(fake.url)
    exported = Settings(tmp_path / "pulled")
    for settings in (by_hand, exported):
        settings.profiles_folder.mkdir(parents=True, exist_ok=True)
        (settings.profiles_folder / "ehr.toml").write_text(text)
        for path in settings.landing.rglob("*.ndjson"):
            os.utime(path, (1_772_900_000, 1_772_900_000))  # records may say when they landed
    wanted, found = raw(by_hand), raw(exported)
    assert wanted["er_visits"].height == 70 and wanted["patients"].height == 70
    for subject, frame in wanted.items():
        assert frame.equals(found[subject], null_equal=True), subject


def test_the_commands_show_how_an_export_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(tmp_path)
    settings.profiles_folder.mkdir(parents=True)
    with fhir_server(FhirFake(FILES, polls=0)) as fake:
        (settings.profiles_folder / "ehr.toml").write_text(text_of(fake.url))
        assert main(["--data-dir", str(tmp_path), "pull"]) == 0
        assert "ehr: 3 brought, 0 changed, 0 still being written" in capsys.readouterr().out
        assert main(["--data-dir", str(tmp_path), "pull"]) == 0
        assert "note  the next export is due in 60 min" in capsys.readouterr().out
        assert main(["--data-dir", str(tmp_path), "sources"]) == 0
        # How many it took depends on what else the machine does.
        assert re.search(r"\b\d s ago", capsys.readouterr().out)


@pytest.mark.nightly
def test_killed_in_the_middle_again_and_again_each_file_lands_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9` at random moments, with faults: in the end all files, each whole and once."""
    rng = random.Random(5)
    more, knows = with_key(tmp_path, monkeypatch)
    files = {
        ("output", "Patient"): [patients(n * 100, 600) for n in range(12)],
        ("output", "Encounter"): [encounters(300)],
    }
    settings = Settings(tmp_path / "data")
    settings.profiles_folder.mkdir(parents=True)
    fake = FhirFake(files, polls=1, chunk_seconds=0.01, token_requests=7, **knows)
    with fhir_server(fake):
        (settings.profiles_folder / "ehr.toml").write_text(text_of(fake.url, more))
        command = hospital(settings.data_dir, "pull")
        kills = cuts = 0
        for _ in range(60):
            if rng.random() < 0.3:
                fake.faults["file"] = [Fault(0)]
                cuts += 1
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            before = len(fake.asked)
            # Not before it has begun: its imports take longer than all the rest.
            while len(fake.asked) == before and process.poll() is None:
                time.sleep(0.01)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.random() * 0.4)
            if process.poll() is None:
                process.kill()
                kills += 1
            said, _ = process.communicate()
            assert not [word for word in PLANTED if word in said]
            with open_memory(settings) as memory:
                state = memory.state("ehr")
            if state is not None and state["since"]:
                break
        assert kills >= 3
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert sorted(landed(settings.data_dir).values()) == bodies(files)
    # What was here whole was not asked for again, but for an export whose address was lost with its asker.
    begun = fake.count("GET", "$export")
    assert begun <= 2 and sum(fake.served.values()) <= 13 * begun + kills + cuts
