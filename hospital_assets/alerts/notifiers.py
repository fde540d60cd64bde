"""Notifiers: how a message leaves the house.

A notifier that fails says so by raising `NotDeliveredError`; the outbox tries again later. Nothing here
ever logs an address: webhook URLs are secrets.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hospital_assets.alerts.outbox import Outbox
from hospital_assets.alerts.settings import NotifierSettings
from hospital_assets.alerts.webhooks import post_json
from hospital_assets.files import append_text

_LOG = logging.getLogger("hospital.alerts")
_SIGNS = {"critical": "\N{LARGE RED CIRCLE}", "error": "\N{LARGE ORANGE CIRCLE}"}

Message = Mapping[str, Any]
Send = Callable[[Message, str], None]


class NotDeliveredError(Exception):
    """A message did not arrive; the reason names no address."""


def deliver(outbox: Outbox, notifiers: Sequence[NotifierSettings], data_dir: Path) -> int:
    """Send what is due; returns how many messages arrived. Never raises for a receiver's fault.

    A message may arrive twice when the process dies between sending and noting it: receivers can
    tell by its `delivery_id` (for webhooks also the header `Idempotency-Key`).
    """
    senders = {notifier.name: _sender(notifier, data_dir) for notifier in notifiers}
    arrived = 0
    failed: dict[str, str] = {}
    for delivery in outbox.due(datetime.now(UTC)):
        if delivery.notifier in failed:
            # Each may wait for seconds for a receiver that is away, and others' messages would wait with it.
            outbox.not_delivered(delivery, datetime.now(UTC), failed[delivery.notifier], was_tried=False)
            continue
        send = senders.get(delivery.notifier)
        try:
            if send is None:
                raise NotDeliveredError(f"no notifier is called '{delivery.notifier}' any more")
            send(delivery.message, delivery.delivery_id)
        except NotDeliveredError as error:
            failed[delivery.notifier] = str(error)
            outbox.not_delivered(delivery, datetime.now(UTC), str(error))
            _LOG.warning("%s could not be notified: %s", delivery.notifier, error)
        else:
            outbox.delivered(delivery, datetime.now(UTC))
            arrived += 1
    return arrived


def text_of(message: Message) -> str:
    """A message in one line for people."""
    where = " ".join(part for part in (message["hospital_id"], message["department_name"]) if part)
    sign = (
        "\N{WHITE HEAVY CHECK MARK} resolved:"
        if message["event"] == "resolved"
        else _SIGNS.get(message["severity"], "\N{LARGE YELLOW CIRCLE}")
    )
    text = f"{sign} {f'{where}: ' if where else ''}{message['summary']}"
    return f"{text} (alert {message['alert_id']})"


def _sender(notifier: NotifierSettings, data_dir: Path) -> Send:
    if notifier.kind == "log":
        return lambda message, _: _LOG.warning("%s", text_of(message))
    if notifier.kind == "file":
        return lambda message, delivery_id: _append(data_dir, notifier.path, message, delivery_id)
    if notifier.kind == "webhook":
        return lambda message, delivery_id: _post(notifier, message, delivery_id)
    return lambda message, _: _by_apprise(notifier, message)


def _append(data_dir: Path, name: str, message: Message, delivery_id: str) -> None:
    path = data_dir / name
    if not path.resolve().is_relative_to(data_dir.resolve()):
        raise NotDeliveredError(f"{path.name} lies outside the data directory")
    try:
        append_text(path, json.dumps({**message, "delivery_id": delivery_id}) + "\n")
    except OSError as error:
        raise NotDeliveredError(f"{path.name} cannot be written ({error.strerror})") from None


def _address(notifier: NotifierSettings) -> str:
    address = notifier.address()
    if not address:
        wanted = f"set {notifier.url_env}" if notifier.url_env else "state its url in alerts.toml"
        raise NotDeliveredError(f"it has no address: {wanted}")
    return address


def _post(notifier: NotifierSettings, message: Message, delivery_id: str) -> None:
    body = {"text": text_of(message)} if notifier.form == "slack" else {**message, "delivery_id": delivery_id}
    address = _address(notifier)
    try:
        post_json(address, json.dumps(body), {"Idempotency-Key": delivery_id})
    except OSError as error:
        raise NotDeliveredError(str(error)) from None


def _by_apprise(notifier: NotifierSettings, message: Message) -> None:
    try:
        import apprise
    except ImportError:
        raise NotDeliveredError("install the extra: pip install 'hospital-assets[apprise]'") from None
    service = apprise.Apprise()
    if not service.add(_address(notifier)) or not service.notify(body=text_of(message)):
        raise NotDeliveredError("Apprise could not send it; check the address")
