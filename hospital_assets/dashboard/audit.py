"""Every look goes to the platform's audit: who saw, exported, acknowledged or was denied what.

Belongs here: what the dashboard's accesses are called there. The log itself is `access.audit`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from hospital_assets.access.audit import AuditLog, Event, log_file
from hospital_assets.contracts.facts import AuditAction, AuditOutcome
from hospital_assets.dashboard.auth import Viewer
from hospital_assets.settings import Settings

#: What the dashboard calls it -> what the audit calls it, and how it went.
_KINDS: Mapping[str, tuple[AuditAction, AuditOutcome]] = {
    "view": ("view", "allowed"),
    "acknowledge": ("acknowledge", "allowed"),
    "export": ("export", "allowed"),
    "denied": ("view", "refused"),
    "sign_in": ("login", "allowed"),
    "sign_in_failed": ("login", "refused"),
}
#: Where accesses come from, in the audit.
CLIENT = "dashboard"


@dataclass(frozen=True)
class Access:
    """Something somebody looked at, took away, or was denied.

    Attributes:
        viewer: who.
        action: `view`, `export`, `acknowledge`, `sign_in`, `sign_in_failed`, `denied`.
        page: which page or figure.
        version: of the publication, where there is one.
        slice: what was chosen, as a query string.
    """

    viewer: Viewer
    action: str
    page: str
    version: str = ""
    slice: str = ""


def write_access(settings: Settings) -> Callable[[Access], None]:
    """A function that notes an access; what cannot be audited must not be shown, so it raises."""
    log = AuditLog(settings)
    lock = threading.Lock()

    def write(access: Access) -> None:
        action, outcome = _KINDS[access.action]
        asked = f"{access.action} {access.page}" + (f"?{access.slice}" if access.slice else "")
        with lock:
            log.append(
                Event(
                    actor=access.viewer.name,
                    action=action,
                    role=access.viewer.role,
                    outcome=outcome,
                    audience=access.viewer.audience,
                    version=access.version,
                    statement=asked,
                    client=CLIENT,
                )
            )

    return write


def accesses(settings: Settings) -> pl.DataFrame:
    """Everything in the audit; no rows where nothing was ever audited."""
    if not log_file(settings).exists():
        return pl.DataFrame()
    with contextlib.closing(AuditLog(settings)) as log:
        return log.entries()
