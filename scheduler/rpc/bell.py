"""The bell that wakes watch streams: rung by the core's thread after a commit, heard on the server's event loop."""

from __future__ import annotations

import asyncio
import threading

from scheduler.service.feed import Feed


class Bell:
    """Lets many coroutines wait for the next revision at the cost of one wake-up per commit."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._loop = asyncio.get_running_loop()
        self._next = asyncio.Event()
        self._is_ringing = threading.Event()
        self._closed = False
        self._stop = feed.listen(self._heard)

    async def wait(self, after_revision: int, timeout_s: float) -> bool:
        """True when something came after the revision, False when the time is over or the server stops."""
        event = self._next
        if self._feed.last_revision > after_revision:
            return True
        if self._closed:
            return False
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return False
        return self._feed.last_revision > after_revision

    @property
    def is_closed(self) -> bool:
        """Whether streams should end."""
        return self._closed

    def close(self) -> None:
        """Wake everybody for the last time. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._stop()
        self._ring()

    def _heard(self, revision: int) -> None:
        """On the core's thread; many commits before the loop gets to run are one ring."""
        if not self._is_ringing.is_set():
            self._is_ringing.set()
            self._loop.call_soon_threadsafe(self._ring)

    def _ring(self) -> None:
        self._is_ringing.clear()
        self._next.set()
        self._next = asyncio.Event()
