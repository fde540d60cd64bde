"""Putting the dashboard together for a data directory, and serving it.

Belongs here: what the command and tests share: publications, clock, live copies, audit. Does not: HTTP.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from hospital_assets.access.audit import Audit
from hospital_assets.access.authentication import open_provider
from hospital_assets.access.monitoring import any_opens
from hospital_assets.access.serving import Address, check
from hospital_assets.access.users import User, open_users
from hospital_assets.alerts.outbox import Outbox, outbox_file
from hospital_assets.clock import hospital_now, is_live
from hospital_assets.dashboard.app import Dashboard
from hospital_assets.dashboard.live import LiveBoard
from hospital_assets.dashboard.store import Store, open_mart
from hospital_assets.publishing.audience import parse_audience
from hospital_assets.publishing.policy import CurrentPolicy
from hospital_assets.publishing.publications import PublicationError, current_version, published_audiences
from hospital_assets.settings import Settings
from hospital_assets.warehouse.loads import last_loaded_at

#: A refresh and the publication that follows it may take this long.
_TIME_TO_PUBLISH = timedelta(minutes=5)


def publish_first(settings: Settings, audience: str, say: Callable[[str], None]) -> None:
    """Publish for an audience that has nothing yet, so that a first look shows something.

    In a process of its own: a run needs Dagster, the server does not.

    Args:
        audience: who is to see something.
        say: called with messages about what is done or missing.
    """
    try:
        current_version(settings.data_dir, audience)
    except PublicationError:
        pass
    else:
        return
    if not settings.warehouse_file.exists():
        say("there are no tables to show yet: run `hospital build`, then start this again")
        return
    role = audience.partition("-")[0]
    say(f"nothing is published for '{role}' yet: publishing, this once")
    done = subprocess.run(  # noqa: S603  (no shell; the command knows its roles)
        [sys.executable, "-m", "hospital_assets.cli", "--data-dir", str(settings.data_dir), "publish", "--role", role],
        check=False,
        stdout=subprocess.DEVNULL,
    )
    if done.returncode:
        say("that failed, see above; once it is corrected, run `hospital publish`")


def loaded_after(settings: Settings, published_at: datetime) -> datetime | None:
    """When files were last loaded, where that is long enough after a publication for it to be out of date."""
    loaded_at = last_loaded_at(settings.warehouse_file)
    if loaded_at is None or loaded_at <= published_at:
        return None
    return loaded_at if datetime.now(UTC) - loaded_at > _TIME_TO_PUBLISH else None


def dashboard_of(settings: Settings, audience: str, audit: Audit, address: Address | None = None) -> Dashboard:
    """The dashboard over a data directory.

    Args:
        audience: whose publication is shown as long as there are no users and only this machine can look.
        audit: called for every page view.
        address: where it will listen; None for loopback.

    Raises:
        ServingError: others could reach it, and there is nobody who could sign in, or no certificate.
        PolicyError: the policy names no such audience.
        SettingsError: sign-in at the identity provider cannot be set up.
    """
    address = address or Address()
    policy = CurrentPolicy(settings)
    role, hospital = parse_audience(policy(), audience)
    provider = open_provider(settings, policy())
    users = open_users(settings, audit)
    check(address, has_users=users.has_active() or provider is not None)

    def current(name: str) -> str | None:
        # A pointer that is damaged is said, not taken for none.
        return current_version(settings.data_dir, name) if name in published_audiences(settings.data_dir) else None

    from hospital_assets.dashboard.pages.governance import governance
    from hospital_assets.dashboard.pages.quality import quality, sight_of

    store = Store(current, partial(open_mart, settings.data_dir, baselines_from=settings.baselines_from))

    def is_ready() -> bool:
        users.has_any()
        return any_opens(published_audiences(settings.data_dir), store.mart)

    return Dashboard(
        store=store,
        board=LiveBoard(
            settings.warehouse_file,
            lambda: hospital_now(settings),
            lambda: is_live(settings),
            partial(_open_alerts, settings),
            partial(_take_care, settings),
        ),
        policy=policy,
        own_pages={
            "quality": lambda mart: quality(settings, sight_of(policy(), mart.audience)),
            "governance": lambda mart: governance(settings, mart, datetime.now(UTC)),
        },
        audit=audit,
        now=lambda: hospital_now(settings),
        not_shown_since=partial(loaded_after, settings),
        users=users,
        local=None if address.is_reachable or provider else User("local", role, hospital),
        hosts=address.hosts(),
        provider=provider,
        is_ready=is_ready,
    )


def _open_alerts(settings: Settings) -> list[dict[str, Any]]:
    if not outbox_file(settings).exists():
        return []
    with closing(Outbox(outbox_file(settings))) as outbox:
        return outbox.alerts()


def _take_care(settings: Settings, alert_id: str, by: str) -> bool:
    with closing(Outbox(outbox_file(settings))) as outbox:
        return outbox.acknowledge(alert_id, by, hospital_now(settings))
