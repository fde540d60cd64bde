"""A line for every look: who saw, exported or was denied what.

Belongs here: where accesses of the dashboard are written. One function, `write_access`, so that they can
go to the platform's audit instead.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from hospital_assets.dashboard.app import Access

COLUMNS = ("at", "viewer", "role", "audience", "action", "page", "version", "slice")
_LOCK = threading.Lock()


def audit_file(data_dir: Path) -> Path:
    """Where the lines are."""
    return data_dir / "audit" / "dashboard.jsonl"


def write_access(data_dir: Path) -> Callable[[Access], None]:
    """A function that notes an access, readable by the file's owner only."""
    path = audit_file(data_dir)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(access: Access) -> None:
        line = json.dumps(dict(zip(COLUMNS, (
            datetime.now(UTC).isoformat(timespec="milliseconds"), access.viewer.name, access.viewer.role,
            access.viewer.audience, access.action, access.page, access.version, access.slice,
        ), strict=True)))  # fmt: skip
        with _LOCK:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    return write
