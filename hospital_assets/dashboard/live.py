"""The live triage board: pushed to browsers as it changes.

Belongs here: the page of the board and its stream. Who is there, and in what order, is `live.board`'s.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from hospital_assets import charts
from hospital_assets.access.users import User
from hospital_assets.contracts.kpis import ALL
from hospital_assets.dashboard.figures import Card
from hospital_assets.dashboard.pages.today import now
from hospital_assets.dashboard.render import render
from hospital_assets.live.board import Patient, hospitals_on_board, read_board
from hospital_assets.live.copies import copies_changed
from hospital_assets.measures import thresholds

#: How often the copies are looked at.
_LOOK_SECONDS = 0.2
#: Waits grow by themselves: so often at least the board is sent anew.
_REFRESH_SECONDS = 10.0


@dataclass
class LiveBoard:
    """The board for many browsers: read once for all of a hospital, sent to each.

    Attributes:
        warehouse_file: the live copies are next to it.
        now: the hospital's clock.
        is_live: whether the service days still go on.
        alerts: those of the outbox that are not resolved.
        take_care: notes in the outbox that somebody takes care of an alert; False when it is not open any more.
    """

    warehouse_file: Path
    now: Callable[[], datetime]
    is_live: Callable[[], bool]
    alerts: Callable[[], Sequence[Mapping[str, Any]]] = tuple
    take_care: Callable[[str, str], bool] = lambda alert_id, by: False
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _made: dict[str, tuple[object, float, str]] = field(default_factory=dict)
    _cards: dict[str, tuple[object, float, tuple[Card, ...]]] = field(default_factory=dict)
    _acknowledged: int = 0

    def hospitals(self, viewer: User) -> dict[str, str]:
        """The hospitals a viewer can choose from, identifier -> name; none for one of a single hospital."""
        return {} if viewer.hospital_id else hospitals_on_board(self.warehouse_file)

    def page(self, viewer: User, hospital: str = "") -> str:
        """The board as HTML.

        Args:
            viewer: who looks; who is of one hospital sees only that.
            hospital: chosen by others; empty for all.
        """
        hospital = viewer.hospital_id or hospital or ALL
        changed = self._changed()
        with self._lock:
            made = self._made.get(hospital)
            if made and made[0] == changed and time.monotonic() - made[1] < _REFRESH_SECONDS:
                return made[2]
            board = read_board(self.warehouse_file, self.now(), self._key, hospital, self.alerts())
            html = render(
                "board.html",
                board=board,
                waiting_hours=thresholds.LONGEST_WAITING_HOURS,
                presence_hours=thresholds.LONGEST_PRESENCE_HOURS,
                bar=_bar,
                is_live=self.is_live(),
                is_stale=self.is_live() and board.is_stale,
                has_hospitals=hospital == ALL,
            )
            self._made[hospital] = (changed, time.monotonic(), html)
            return html

    def today(self, viewer: User, hospital: str) -> tuple[Card, ...]:
        """Who waits now and what is open, as cards for the overview.

        Args:
            viewer: who looks; who is of one hospital sees only that.
            hospital: its identifier, or `all`.
        """
        hospital = viewer.hospital_id or hospital
        changed = self._changed()
        with self._lock:
            made = self._cards.get(hospital)
            if not made or made[0] != changed or time.monotonic() - made[1] >= _REFRESH_SECONDS:
                board = read_board(self.warehouse_file, self.now(), self._key, hospital, self.alerts())
                made = changed, time.monotonic(), tuple(now(board))
                self._cards[hospital] = made
            return made[2]

    def acknowledge(self, viewer: User, alert_id: str) -> bool:
        """Note that a viewer takes care of an alert; False when it is not open, or not one the viewer sees."""
        seen = any(
            row["alert_id"] == alert_id and viewer.hospital_id in (None, row["hospital_id"]) for row in self.alerts()
        )
        done = seen and self.take_care(alert_id, viewer.name)
        self._acknowledged += done
        return done

    def _changed(self) -> object:
        return copies_changed(self.warehouse_file), self._acknowledged

    async def stream(self, viewer: User, hospital: str = "") -> AsyncIterator[str]:
        """Server-sent events: the board when it changes, a beat every few seconds."""
        sent = ""
        beat = 0.0
        seen: object = None
        refreshed = 0.0
        yield "retry: 1000\n\n"
        while True:
            changed = self._changed()
            moment = time.monotonic()
            if changed != seen or moment - refreshed >= _REFRESH_SECONDS:
                seen, refreshed = changed, moment
                html = await run_in_threadpool(self.page, viewer, hospital)
                if html != sent:
                    sent = html
                    yield f"event: board\ndata: {json.dumps(html)}\n\n"
            if moment - beat >= 3:
                beat = moment
                yield f"event: beat\ndata: {json.dumps(f'{self.now():%H:%M:%S}')}\n\n"
            await asyncio.sleep(_LOOK_SECONDS)


def _bar(row: Patient) -> str:
    """Waited of two and a half hours, with the target as a tick."""
    style = "late" if row.past_minutes > 0 else ""
    target = None if row.target_minutes is None else row.target_minutes / 150
    return charts.bar(row.waited_minutes / 150, style, target=target)
