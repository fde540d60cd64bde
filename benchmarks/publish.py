"""What publishing to every audience costs: seconds, processor time and bytes.

    python benchmarks/publish.py DIRECTORY [--roles admin,doctor,analyst,executive] [--rounds 1]

Publishes what a built data directory holds, with a key that is thrown away, into a temporary folder beside it
(the warehouse is read where it is, the publications are deleted afterwards). Wall-clock seconds say little
on a machine that does other things; processor seconds divided by the cores say what it would be on a quiet
one at best, so both are printed, with the load.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from hospital_assets.clock import hospital_now
from hospital_assets.publishing.policy import RoleName, load_policy
from hospital_assets.publishing.pseudonyms import SecretKey
from hospital_assets.publishing.publications import audiences_of, publish_all
from hospital_assets.settings import Settings, load_settings
from hospital_assets.warehouse.database import open_warehouse


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _publish(settings: Settings, target: Settings, roles: list[RoleName]) -> None:
    policy = load_policy(settings)
    key = SecretKey(os.urandom(32))
    began, began_processor = time.perf_counter(), _processor_seconds()
    all_bytes = all_rows = 0
    with open_warehouse(settings.warehouse_file) as warehouse:
        for role in roles:
            started, processor = time.perf_counter(), _processor_seconds()
            audiences = audiences_of(warehouse, policy, role)
            size = rows = 0
            found = publish_all(
                warehouse,
                target,
                policy,
                audiences,
                key=lambda: key,
                published_at=datetime.now(UTC),
                data_as_of=hospital_now(settings),
            )
            for _, made in found:
                if isinstance(made, Exception):
                    raise made
                size += sum(file["bytes"] for file in made.manifest["files"].values())
                rows += sum(made.manifest["rows"].values())
            print(
                f"{role:<10} {len(audiences):>2} audiences {rows:>11,} rows {size / 1e6:>7,.0f} MB "
                f"{time.perf_counter() - started:>6.1f} s, {_processor_seconds() - processor:>6.1f} s of "
                "processor time",
                flush=True,
            )
            all_bytes, all_rows = all_bytes + size, all_rows + rows
    print(
        f"together                {all_rows:>11,} rows {all_bytes / 1e6:>7,.0f} MB "
        f"{time.perf_counter() - began:>6.1f} s, {_processor_seconds() - began_processor:>6.1f} s of "
        f"processor time, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    """Publish, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", type=Path, help="a data directory that was built")
    parser.add_argument("--roles", default="admin,doctor,analyst,executive")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    settings = load_settings(options.directory)
    for _ in range(options.rounds):
        beside = Path(tempfile.mkdtemp(prefix=".publishing-", dir=settings.data_dir))
        try:
            _publish(settings, Settings(beside), options.roles.split(","))
        finally:
            shutil.rmtree(beside)


if __name__ == "__main__":
    main()
