"""What a changing verb returns: an answer that a thread can block for and a coroutine can await."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from scheduler.service.messages import Outcome

T = TypeVar("T")


class Answer(Generic[T]):
    """Resolved when the change is durable; `finish` then makes the verb's value on the asker's side."""

    def __init__(self, future: Future[Outcome], finish: Callable[[Outcome], T]) -> None:
        self._future = future
        self._finish = finish

    def result(self, timeout_s: float | None = None) -> T:
        """Wait for the value; raises what the verb raises, TimeoutError after `timeout_s`."""
        return self._finish(self._future.result(timeout_s))

    def __await__(self) -> Generator[Any, None, T]:
        outcome = yield from asyncio.wrap_future(self._future).__await__()
        return self._finish(outcome)
