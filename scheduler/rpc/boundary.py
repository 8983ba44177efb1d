"""The boundary that every call crosses: readiness, deadline, errors, log line, metrics.

One interceptor wraps every handler, so that no servicer can forget any of it. Domain errors become rich statuses by the
one table in `suanli.wire`; anything unexpected becomes INTERNAL with an incident id that is also in the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from grpc_status import rpc_status

from scheduler.service.logs import get_logger
from scheduler.service.metrics import Metrics
from suanli import wire
from suanli.model import DeadlineExceeded, SuanliError, Unavailable

log = get_logger(__name__)

# calls without a deadline of their own get this one
DEFAULT_DEADLINE_S = 60.0
# kept back from the caller's deadline, so that the answer has time to travel
DEADLINE_MARGIN_S = 0.05
# health checks and reflection work before and after the service does
UNGUARDED = ("/grpc.health.v1.", "/grpc.reflection.")

if TYPE_CHECKING:
    # generic for the type checker only
    Handler = grpc.RpcMethodHandler[Any, Any] | None
    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Handler, Context = grpc.RpcMethodHandler, grpc.aio.ServicerContext


class Boundary(grpc.aio.ServerInterceptor):
    """See the module. `is_open` tells whether calls are served now."""

    def __init__(self, metrics: Metrics, is_open: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._is_open = is_open

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wrap the handler of one method."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(UNGUARDED):
            return handler
        # the stubs describe the threaded server; on this one handlers are coroutines
        behave: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary
        wrap, make = (
            (self._streaming, grpc.unary_stream_rpc_method_handler)
            if handler.response_streaming
            else (self._unary, grpc.unary_unary_rpc_method_handler)
        )
        wrapped: Any = wrap(method, behave)
        return make(wrapped, handler.request_deserializer, handler.response_serializer)

    def _unary(self, method: str, behave: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def guarded(request: Any, context: Context) -> Any:
            begun = time.perf_counter()
            try:
                self._require_open()
                async with asyncio.timeout(deadline_s(context)):
                    answer = await behave(request, context)
            except Exception as error:
                await self._refuse(method, begun, _understood(error, method), context)
            self._note(method, begun, grpc.StatusCode.OK)
            return answer

        return guarded

    def _streaming(
        self, method: str, behave: Callable[..., AsyncIterator[Any]]
    ) -> Callable[..., AsyncIterator[Any]]:
        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            begun = time.perf_counter()
            self._metrics.watchers.inc()
            try:
                self._require_open()
                async for answer in behave(request, context):
                    yield answer
            except Exception as error:
                await self._refuse(method, begun, _understood(error, method), context)
            finally:
                self._metrics.watchers.dec()
            self._note(method, begun, grpc.StatusCode.OK)

        return guarded

    def _require_open(self) -> None:
        if not self._is_open():
            raise Unavailable("the service is starting or stopping")

    async def _refuse(self, method: str, begun: float, error: SuanliError, context: Context) -> NoReturn:
        status = rpc_status.to_status(wire.status_from_error(error))
        self._note(method, begun, status.code, str(error))
        await context.abort_with_status(status)

    def _note(self, method: str, begun: float, code: grpc.StatusCode, message: str = "") -> None:
        seconds = time.perf_counter() - begun
        self._metrics.requests.labels(method, code.name).inc()
        self._metrics.request_seconds.labels(method).observe(seconds)
        # the line is built only where somebody reads it: thousands of calls a second pass here
        if message or log.isEnabledFor(logging.DEBUG):
            say = log.info if message else log.debug
            say("call", method=method, code=code.name, ms=round(1000 * seconds, 2), text=message or None)


def deadline_s(context: Context) -> float:
    """Seconds the call may still take: the caller's deadline less a margin, or the server's default."""
    remaining: float | None = context.time_remaining()
    return DEFAULT_DEADLINE_S if remaining is None else max(0.0, remaining - DEADLINE_MARGIN_S)


def _understood(error: Exception, method: str) -> SuanliError:
    """The error a caller may see. What we did not foresee is logged in full and shown as an incident."""
    if isinstance(error, SuanliError):
        return error
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("no answer within the deadline; repeat with the same request id")
    incident = uuid.uuid4().hex[:12]
    log.error("a call failed inside the service", method=method, incident=incident, exc_info=error)
    return SuanliError(f"internal error, incident {incident}; the service's log says more")
