"""Whose turn it is: a few queries run at a time, and nobody's queries keep another user waiting for all of theirs.

Of one user so many run and so many wait at most; a place that becomes free goes to the next user in turn, not to the
next query. Used from one event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TooManyWaitingError(Exception):
    """A user has as many queries waiting as one may have."""


class Turns:
    """Gives places to users in turn."""

    def __init__(self, places: int, *, most_waiting: int = 20) -> None:
        """Nobody is there yet.

        Args:
            places: how many run at a time; one user gets all but one of them, and one where there is one.
            most_waiting: how many of one user may wait.
        """
        self._free = places
        self._most_of_one = max(1, places - 1)
        self._most_waiting = most_waiting
        self._running: Counter[str] = Counter()
        #: The first user is next; each one's queries in the order they came.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def place(self, user: str) -> AsyncIterator[None]:
        """Wait for a place and have it.

        Raises:
            TooManyWaitingError: as many of the user wait as may.
        """
        mine = self._waiting.get(user, ())
        if len(mine) >= self._most_waiting:
            raise TooManyWaitingError
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(turn)
        self._give()
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._leave(user)
            else:
                self._forget(user, turn)
            raise
        try:
            yield
        finally:
            self._leave(user)

    def _leave(self, user: str) -> None:
        self._running[user] -= 1
        self._free += 1
        self._give()

    def _forget(self, user: str, turn: asyncio.Future[None]) -> None:
        """Somebody stopped waiting."""
        self._waiting[user].remove(turn)
        if not self._waiting[user]:
            del self._waiting[user]

    def _give(self) -> None:
        """Give free places to users in turn."""
        while self._free:
            user = next((name for name in self._waiting if self._running[name] < self._most_of_one), None)
            if user is None:
                return
            mine = self._waiting.pop(user)
            turn = mine.popleft()
            if mine:
                self._waiting[user] = mine  # last in turn now
            if not turn.cancelled():
                self._free -= 1
                self._running[user] += 1
                turn.set_result(None)
