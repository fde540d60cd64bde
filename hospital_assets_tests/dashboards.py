"""A dashboard for tests: publications of a built network, served by a real server on a free port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from hospital_assets.access.audit import Event
from hospital_assets.access.monitoring import Metrics
from hospital_assets.access.serving import PARSING, Address
from hospital_assets.dashboard.app import Dashboard, create_app
from hospital_assets.dashboard.serve import dashboard_of
from hospital_assets.live.copies import COPIES, publish_copy
from hospital_assets.publishing.policy import load_policy
from hospital_assets.publishing.pseudonyms import SecretKey
from hospital_assets.publishing.publications import audiences_of
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets_tests.helpers import publish, warehouse_copy

KEY = SecretKey(b"0123456789abcdef" * 2)


def published(network: Settings, folder: Path, roles: tuple[str, ...]) -> Settings:
    """A copy of a built network's warehouse with publications of some roles and live copies."""
    settings = warehouse_copy(network, folder)
    policy = load_policy(settings)
    last = settings.last_service_date
    assert last is not None
    at = datetime(last.year, last.month, last.day, 12, tzinfo=UTC) + timedelta(days=1)
    with open_warehouse(settings.warehouse_file) as warehouse:
        for name in COPIES:
            publish_copy(warehouse, name)
        for role in roles:
            for audience in audiences_of(warehouse, policy, role)[:2]:
                publish(warehouse, settings, policy, audience, key=lambda: KEY, published_at=at, data_as_of=at)
    return settings


@dataclass
class Served:
    """A running dashboard.

    Attributes:
        address: where.
        dashboard: its parts.
        seen: what was audited.
    """

    address: str
    dashboard: Dashboard
    seen: list[Event] = field(default_factory=list)


@contextmanager
def serve(
    settings: Settings,
    audience: str = "admin",
    address: Address | None = None,
    metrics: Metrics | None = None,
    listener: socket.socket | None = None,
) -> Iterator[Served]:
    """Serve a data directory until the block ends, at a socket that listens already or a free port."""
    seen: list[Event] = []
    dashboard = dashboard_of(settings, audience, seen.append, address)
    try:
        with running(create_app(dashboard, metrics), listener) as url:
            yield Served(url, dashboard, seen)
    finally:
        dashboard.users.close()


@contextmanager
def running(app: Starlette, listener: socket.socket | None = None, **options: Any) -> Iterator[str]:
    """An application, served until the block ends; its address."""
    listener = listener or socket.create_server(("127.0.0.1", options.get("port", 0)))
    options = {"log_level": "error", "timeout_graceful_shutdown": 1, **PARSING, **options}
    server = uvicorn.Server(uvicorn.Config(app, **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=60)
