"""What all servicers share: the service behind them, threads for reads that block, the bell for streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar

from scheduler.rpc.bell import Bell
from scheduler.service import Service
from suanli.model import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

BOOKMARK_EVERY_S = 15.0
# a stream ends after this and the client resumes: no connection holds an old server for ever
STREAM_MOST_S = 3600.0


class Backend:
    """The service once it is there; until then every call is told to come back."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._service: Service | None = None
        self._bell: Bell | None = None

    def open(self, service: Service) -> None:
        """Begin to serve; on the event loop."""
        self._service, self._bell = service, Bell(service.core.feed)

    @property
    def is_open(self) -> bool:
        """Whether calls can be served now."""
        return self._service is not None and self._service.core.is_serving and not self.bell.is_closed

    @property
    def service(self) -> Service:
        """The service; Unavailable before it is there."""
        if self._service is None:
            raise Unavailable("the service is starting")
        return self._service

    @property
    def bell(self) -> Bell:
        """The bell of the service's feed."""
        if self._bell is None:
            raise Unavailable("the service is starting")
        return self._bell

    async def blocking(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call that reads the store, or computes for long, off the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: call(*args, **kwargs))

    async def pieces(self, iterator: Iterator[T]) -> Any:
        """The items of a blocking iterator, one by one, off the event loop."""
        end = object()
        while (item := await self.blocking(next, iterator, end)) is not end:
            yield item
