"""Live feed of the event log: each follower keeps a cursor, nobody keeps a queue for him.

A follower at revision r asks for what came after r. Recent events lie in a ring shared by all; who has fallen behind
the ring reads on from the store. There is no gap between the two because both are the same log and the cursor is a
revision. A slow follower costs nobody memory: what is bounded is the ring, not one queue per follower.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from scheduler.ports import Store
from suanli.model import Event, EventKind

# recent events kept for live followers; a few MB, and more than one busy round commits
RING_EVENTS = 4_096


class Feed:
    """The log as followers see it: only committed and applied events, in order, without gaps."""

    def __init__(self, store: Store, ring_events: int = RING_EVENTS) -> None:
        self._store = store
        self._ring: deque[Event] = deque(maxlen=ring_events)
        self._condition = threading.Condition()
        self._last = store.last_revision()
        self._listeners: list[Callable[[int], None]] = []

    @property
    def last_revision(self) -> int:
        """The newest revision a follower can see."""
        return self._last

    def publish(self, events: Sequence[Event]) -> None:
        """Show newly committed events, in order; called by the core alone."""
        if not events:
            return
        with self._condition:
            self._ring.extend(events)
            self._last = events[-1].revision
            listeners = tuple(self._listeners)
            self._condition.notify_all()
        for listener in listeners:
            listener(self._last)

    def listen(self, listener: Callable[[int], None]) -> Callable[[], None]:
        """Call `listener(last_revision)` on the core's thread after every commit; returns how to stop it."""
        with self._condition:
            self._listeners.append(listener)

        def stop() -> None:
            with self._condition:
                self._listeners.remove(listener)

        return stop

    def read(
        self, after_revision: int, limit: int, kinds: Sequence[EventKind] = (), subject_prefix: str = ""
    ) -> tuple[list[Event], int]:
        """Matching events after the cursor, and the cursor to go on from.

        The returned cursor is past everything looked at, matching or not, so that a follower of rare events does not
        read the same log again and again. WatchExpired when the cursor is not in this log.
        """
        with self._condition:
            last = self._last
            first_in_ring = self._ring[0].revision if self._ring else last + 1
            recent: list[Event] | None = None
            if first_in_ring - 1 <= after_revision <= last:
                recent = list(islice(self._ring, after_revision + 1 - first_in_ring, None))
        if recent is None:
            found = self._store.events(after_revision, limit, kinds, subject_prefix)
            # what the store has and the core has not applied yet is shown by the next read
            found = [event for event in found if event.revision <= last]
        else:
            found = [
                e for e in recent if (not kinds or e.kind in kinds) and e.subject.startswith(subject_prefix)
            ]
        if len(found) >= limit:
            return found[:limit], found[limit - 1].revision
        return found, max(last, after_revision)

    def wait(self, after_revision: int, timeout_s: float) -> bool:
        """Block until something came after the cursor (True) or the time is over (False)."""
        with self._condition:
            return self._condition.wait_for(lambda: self._last > after_revision, timeout_s)
