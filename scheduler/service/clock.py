"""The two clocks of the service: the system's, and one that only `Advance` moves."""

from __future__ import annotations

import time


class SystemClock:
    """Real time in whole seconds since 1970."""

    def now_s(self) -> int:
        """Seconds since 1970."""
        return int(time.time())


class VirtualClock:
    """Time of a simulation run: stands still until the core advances it."""

    def __init__(self, start_s: int = 0) -> None:
        self._now_s = start_s

    def now_s(self) -> int:
        """Seconds since 1970 in the run's time."""
        return self._now_s

    def advance_to(self, until_s: int) -> None:
        """Move forward; ValueError for a step back."""
        if until_s < self._now_s:
            raise ValueError(f"virtual time stands at {self._now_s} and cannot go back to {until_s}")
        self._now_s = until_s
