"""The live triage board: pushed to browsers as it changes.

Belongs here: the page of the board and its stream. Who waits, and in what order, says `live.board`.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from hospital_assets import charts
from hospital_assets.access.users import User
from hospital_assets.contracts.kpis import ALL
from hospital_assets.dashboard.render import render
from hospital_assets.live.board import Waiting, read_board
from hospital_assets.live.copies import copies_changed
from hospital_assets.measures import thresholds

#: How often the copies are looked at.
_LOOK_SECONDS = 0.2
#: Waits grow by themselves: so often at least the board is sent anew.
_REFRESH_SECONDS = 10.0
#: Rows shown before "+n more".
MOST_ROWS = 24
_HOUR = timedelta(hours=1)


@dataclass
class LiveBoard:
    """The board for many browsers: read once for all of a hospital, sent to each.

    Attributes:
        warehouse_file: the live copies are next to it.
        now: the hospital's clock.
        is_live: whether the service days still go on.
    """

    warehouse_file: Path
    now: Callable[[], datetime]
    is_live: Callable[[], bool]
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _made: dict[str, tuple[object, float, str]] = field(default_factory=dict)

    def page(self, viewer: User) -> str:
        """The board as HTML."""
        hospital = viewer.hospital_id or ALL
        changed = copies_changed(self.warehouse_file)
        with self._lock:
            made = self._made.get(hospital)
            if made and made[0] == changed and time.monotonic() - made[1] < _REFRESH_SECONDS:
                return made[2]
            board = read_board(self.warehouse_file, self.now(), self._key, hospital)
            html = render(
                "board.html",
                board=board,
                longest_hours=thresholds.LONGEST_WAITING_HOURS,
                bar=_bar,
                shown=board.waiting[:MOST_ROWS],
                more=max(0, len(board.waiting) - MOST_ROWS),
                is_live=self.is_live(),
                has_hospitals=hospital == ALL,
                age=None if board.newest_at is None else (board.now - board.newest_at) / _HOUR * 60,
            )
            self._made[hospital] = (changed, time.monotonic(), html)
            return html

    async def stream(self, viewer: User) -> AsyncIterator[str]:
        """Server-sent events: the board when it changes, a beat every few seconds."""
        sent = ""
        beat = 0.0
        seen: object = None
        refreshed = 0.0
        yield "retry: 1000\n\n"
        while True:
            changed = copies_changed(self.warehouse_file)
            moment = time.monotonic()
            if changed != seen or moment - refreshed >= _REFRESH_SECONDS:
                seen, refreshed = changed, moment
                html = await run_in_threadpool(self.page, viewer)
                if html != sent:
                    sent = html
                    yield f"event: board\ndata: {json.dumps(html)}\n\n"
            if moment - beat >= 3:
                beat = moment
                yield f"event: beat\ndata: {json.dumps(f'{self.now():%H:%M:%S}')}\n\n"
            await asyncio.sleep(_LOOK_SECONDS)


def _bar(row: Waiting) -> str:
    """Waited of two and a half hours, with the target as a tick."""
    style = "late" if row.past_minutes > 0 else ""
    target = None if row.target_minutes is None else row.target_minutes / 150
    return charts.bar(row.waited_minutes / 150, style, target=target)
