"""SIGTERM that ends a simulation in order: it unwinds like Ctrl-C, so that sites and service end with us."""

from __future__ import annotations

import signal
import sys
import threading
from types import TracebackType
from typing import Any, Self

SIGNALLED = 128
"""A shell's exit code of a process that a signal ended, less the signal's number."""


class TerminatedInOrder:
    """While it is entered, SIGTERM raises SystemExit(143) on the main thread; on another thread it does nothing."""

    def __init__(self) -> None:
        self._is_main = threading.current_thread() is threading.main_thread()
        self._before: Any = signal.SIG_DFL

    def again(self) -> None:
        """Take the signal back from a library that took it over meanwhile: Ray answers it with a stack of frames."""
        if self._is_main:
            signal.signal(signal.SIGTERM, self._unwind)

    def __enter__(self) -> Self:
        if self._is_main:
            self._before = signal.signal(signal.SIGTERM, self._unwind)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_main:
            signal.signal(signal.SIGTERM, self._before)

    @staticmethod
    def _unwind(number: int, _: object) -> None:
        # once is enough: a second one would interrupt the unwinding
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(SIGNALLED + number)
