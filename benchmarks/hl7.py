"""How fast HL7 v2 messages are read, become raw tables, and are taken from the network.

    python benchmarks/hl7.py [--messages 1000000] [--sent 20000] [--files 1] [--part PART]

Generates messages of the shapes and in the mix of Simulated Hospital's recorded run (40 % ADT, 54 %
laboratory results of 1 to 17 observations, 6 % vital signs of 14, notes between them), about 1.1 kB
each, and reports messages a second and the highest memory of each part, which runs in a process of
its own:

- normalise: landed text to JSON lines;
- raw: landed files to the six raw tables and what no subject takes, in DuckDB;
- listen: `hospital listen hl7` with 1 and 8 clients that wait for each acknowledgement, and with 8
  that send 50 messages at a time. Each acknowledged message must be in the landing folder.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

PARTS = ("normalise", "raw", "listen")
LABORATORY = (1, 1, 1, 1, 5, 5, 4, 17, 17, 2)
VITALS = [
    ("TX", "tt-0005-01^AVPU^LOINC", "", lambda r: "Alert"),
    ("TX", "tt-0005-14^UrineOutput^WelchAllyn", "", lambda r: "Yes"),
    ("", "tt-0005-03^InsOxy^WelchAllyn", "MDC_DIM_PERCENT", lambda r: r.randint(21, 40)),
    ("NM", "tt-0005-05^MDC_PRESS_BLD_NONINV_SYS^MDC", "MDC_DIM_MMHG", lambda r: r.randint(80, 190)),
    ("", "tt-0005-10^OxyL^WelchAllyn", "MDC_DIM_X_L_PER_MIN", lambda r: r.randint(1, 15)),
    ("NM", "tt-0005-06^MDC_PULS_OXIM_SAT_O2^MDC", "MDC_DIM_PERCENT", lambda r: r.randint(80, 100)),
    ("", "tt-0005-08^MDC_RESP_RATE^MDC", "", lambda r: ""),
    ("NM", "tt-0005-09^MDC_TEMP^MDC", "MDC_DIM_DEGC", lambda r: f"{r.uniform(35, 40):.2f}"),
    ("TX", "tt-0005-11^OxygenDev^WelchAllyn", "", lambda r: "Venturi"),
    ("TX", "tt-0005-02^BowelMovement^WelchAllyn", "", lambda r: "Yes"),
    ("NM", "tt-0005-04^MDC_PRESS_BLD_NONINV_DIA^MDC", "MDC_DIM_MMHG", lambda r: r.randint(40, 79)),
    ("NM", "tt-0005-07^MDC_PULS_RATE_NON_INV^MDC", "MDC_DIM_BEAT_PER_MIN", lambda r: r.randint(50, 180)),
    ("NM", "tt-0005-12^PAIN LEVEL^L", "/10", lambda r: r.randint(0, 10)),
    ("TX", "tt-0005-13^TemperatureSite^WelchAllyn", "", lambda r: "Axillary"),
]
START = datetime(2026, 1, 1)
NOTE = "Calcification former position frazzle"


#: Between the messages of a visit.
STEP = timedelta(minutes=20)


def message(number: int, rng: random.Random, arrived: datetime | None = None) -> str:
    """One message; four of ten tell of a visit's way, the others of what was measured meanwhile."""
    visit = number // 10
    step = number % 10
    arrived = arrived or START + timedelta(seconds=visit * 60 % (89 * 86_400))
    at = arrived + step * STEP
    clock, began = at.strftime("%Y%m%d%H%M%S"), arrived.strftime("%Y%m%d%H%M%S")
    is_adt = step in (0, 2, 5, 9)
    event = {0: "A04", 2: "A08", 5: "A02", 9: "A03"}.get(step, "R01")
    kind = f"ADT^{event}" if is_adt else "ORU^R01"
    doctor = "C006^Woolfson^Kathleen^^^Dr^^^DRNBR^PRSNL^^^ORGDR"
    place = "ED^Bay^Chair 6" if step < 5 else "SURG^MainRoom^Bed 1"
    patient = 1_000_000_000 + visit
    numbers = f"{patient}^^^SIMULATOR MRN^MRN"
    end = clock if step == 9 else ""
    segments = [
        f"MSH|^~\\&|SIMHOSP|SFAC|RAPP|RFAC|{clock}||{kind}|{number}|T|2.3|||AL||44|ASCII",
        *([f"EVN|{event}|{clock}|||{doctor}|"] if is_adt else []),
        f"PID|1|{numbers}|{numbers}~{patient + 7}^^^NHSNBR^NHSNMBR||Esterkin{visit}^Anna^^^Miss^^CURRENT||"
        f"19{visit % 90 + 10}0118000000|{'MF'[visit % 2]}|||170 Juice Place^^London^^RW21 6KC^GBR^HOME||"
        "020 5368 1665^HOME|||||||||R^Other - Chinese^^^||||||||",
        *(["PD1|||FAMILY PRACTICE^^12345|"] if is_adt else []),
        f"PV1|1|E|{place}^Simulated Hospital^^BED^Main Building^5|28b|||{doctor}|||MED|||||||||"
        f"{visit}^^^^visitid|||||||||||||||||||||||||{began}|{end}|",
    ]
    if not is_adt:
        is_vitals = step == 1 and visit % 5 < 3
        name = "us-0005^Vital Signs^WinPath" if is_vitals else "us-0003^UREA AND ELECTROLYTES^WinPath"
        segments += [
            f"ORC|RE|{number}|{number}||CM||||{clock}",
            f"OBR|1|{number}|{number}|{name}||{clock}|{clock}|||||||{clock}|||||||||||F||1",
        ]
        count = len(VITALS) if is_vitals else rng.choice(LABORATORY)
        for place_in_set in range(count):
            value_type, code, unit, value = (
                VITALS[place_in_set]
                if is_vitals
                else ("NM", f"tt-0003-{place_in_set:02}^Creatinine^WinPath", "UMOLL", lambda r: r.randint(40, 190))
            )
            segments.append(
                f"OBX|{place_in_set + 1}|{value_type}|{code}^^||{value(rng)}|{unit}|49 - 92||||F|||{clock}||"
            )
            if place_in_set % 2:
                segments.append(f"NTE|0||{NOTE}|")
    return "\r".join(segments) + "\r"


def messages(count: int) -> Iterator[str]:
    rng = random.Random(7)  # noqa: S311
    return (message(number, rng) for number in range(count))


def land(folder: Path, count: int, files: int) -> int:
    """Write the messages as a number of files; their size."""
    landing = folder / "landing" / "hl7v2-adt"
    landing.mkdir(parents=True)
    (landing / "hospitals.csv").write_text(
        "hospital_id,hospital_name,city,state,time_zone\nSFAC,Simulated Hospital,London,,Europe/London\n"
    )
    each, handle, size = -(-count // files), None, 0
    for number, text in enumerate(messages(count)):
        if number % each == 0:
            if handle:
                handle.close()
            handle = (landing / f"{number // each:05}.hl7").open("w", newline="")
        assert handle is not None
        size += handle.write(text)
    if handle:
        handle.close()
    return size


def report(what: str, count: int, seconds: float, more: str = "") -> None:
    peak, used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.process_time()
    print(
        f"{what}: {count:,} in {seconds:.1f} s, {count / seconds:,.0f}/s; {used:.1f} s of CPU since the start, "
        f"at most {peak:,.0f} MB{more}",
        flush=True,
    )


def normalise(folder: Path, count: int) -> None:
    from hospital_assets.landing.hl7v2 import named_fields, normalised
    from hospital_assets.landing.registry import load_profiles

    of_profile = named_fields(load_profiles(None)["hl7v2-adt"].names_of("hl7v2"))
    for what, wanted in (("fields of the profile", of_profile), ("all fields", None)):
        started, found, size = time.perf_counter(), 0, 0
        for path in sorted(folder.rglob("*.hl7")):
            with path.open(newline="") as lines:
                for line in normalised(lines, wanted=wanted):
                    found += 1
                    size += len(line)
        assert found == count
        seconds = time.perf_counter() - started
        report(f"normalised, {what}", found, seconds, f", {size / 1e6:,.0f} MB of JSON")


def raw(folder: Path, count: int) -> None:
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.landing.zone import LandingZone
    from hospital_assets.warehouse.database import Period, open_warehouse
    from hospital_assets.warehouse.dialect import relation_of

    days = Period(date(2026, 1, 1), date(2026, 4, 1))
    with open_warehouse(folder / "warehouse" / "hospital.duckdb") as warehouse:
        zone = LandingZone(
            folder / "landing",
            folder / "spool",
            days.first,
            date(2026, 3, 31),
            warehouse.connection,
            load_profiles(None),
        )
        started = time.perf_counter()
        ledger = zone.discover()
        report("verified and dated messages", count, time.perf_counter() - started)
        rows = {}
        for subject in ("adt_events", "patients", "er_visits", "vitals", "other_records"):
            relation = relation_of(zone.read(subject, ledger, days))
            if relation is None:  # nothing landed that feeds it
                rows[subject] = 0
                continue
            relation.create(f"stored_{subject}")
            (rows[subject],) = warehouse.connection.sql(f"select count(*) from stored_{subject}").fetchall()[0]
        assert rows["adt_events"] == count * 4 // 10 and rows["patients"] == count
        told = ", ".join(f"{n:,} {subject}" for subject, n in rows.items())
        report("landed messages to raw tables", count, time.perf_counter() - started, f"; {told}")


def converse(port: int, own: list[bytes], at_once: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for start in range(0, len(own), at_once):
            sent = own[start : start + at_once]
            connection.sendall(b"".join(b"\x0b" + content + b"\x1c\r" for content in sent))
            data = b""
            while data.count(b"\x1c\r") < len(sent):
                data += connection.recv(65_536)
            assert len(re.findall(rb"MSA\|[AC]A\|", data)) == len(sent)


def listen(folder: Path, count: int) -> None:
    contents = [text.encode() for text in messages(count)]
    for clients, at_once in ((1, 1), (8, 1), (8, 50)):
        data = folder / f"listen-{clients}-{at_once}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        listener = subprocess.Popen(
            [sys.executable, "-m", "hospital_assets.cli", "listen", "hl7", "--port", str(port)],
            env={**os.environ, "HOSPITAL_DATA_DIR": str(data)},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert listener.stdout is not None
            listener.stdout.readline()
            started = time.perf_counter()
            threads = [
                threading.Thread(target=converse, args=(port, contents[n::clients], at_once)) for n in range(clients)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds = time.perf_counter() - started
            status = Path(f"/proc/{listener.pid}/status").read_text()
            peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
        finally:
            listener.send_signal(signal.SIGTERM)
            listener.wait(30)
        files = list(data.rglob("*.hl7"))
        landed = sum(path.read_bytes().count(b"\x0bMSH") for path in files)
        assert landed == count
        print(
            f"acknowledged, {clients} client(s), {at_once} at once: {count:,} in {seconds:.1f} s, "
            f"{count / seconds:,.0f}/s, {len(files)} files, the listener at most {peak:,.0f} MB",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--sent", type=int, default=20_000, help="to the listener")
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        part = {"normalise": normalise, "raw": raw, "listen": listen}[options.part]
        part(options.folder, options.sent if options.part == "listen" else options.messages)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.part != "listen":
            size = land(folder, options.messages, options.files)
            print(f"{options.messages:,} messages, {size / 1e6:,.0f} MB in {options.files} files")
        for part in [options.part] if options.part else PARTS:
            subprocess.run(
                [
                    sys.executable,
                    __file__,
                    "--part",
                    part,
                    "--folder",
                    name,
                    "--messages",
                    str(options.messages),
                    "--sent",
                    str(options.sent),
                ],
                check=True,
                env={**os.environ, "HOSPITAL_DATA_DIR": name},
            )


if __name__ == "__main__":
    main()
