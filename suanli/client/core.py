"""What the sync and the async client share: calls as values, retries, errors, and the fold behind a watch.

`Call` is one RPC with everything needed to send it and read its answer. `Backoff` says whether and how long to wait
after a failure: UNAVAILABLE only, and only calls that are safe to repeat. `WatchFold` turns the streams of a watch,
cut and resumed anywhere, into one sequence of changes without gaps or repeats.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast
from urllib.parse import unquote

import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status

from suanli import wire
from suanli.model import ChangeType, SuanliError, Unavailable, WatchExpired, WorkloadChange

T = TypeVar("T")

DEFAULT_ADDRESS = "127.0.0.1:7411"
ADDRESS_VARIABLE = "SUANLI_ADDRESS"
MAX_PAGE_SIZE = 1000

CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    # a refusal names every problem in the trailers, which are small by default
    ("grpc.max_metadata_size", 1 << 20),
    # a whole fleet or a page of 1000 workloads is larger than 4 MiB
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    # come back soon after a restart of the service; our own backoff is what spares it
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # retries are ours: they need the request id and the time limit
    ("grpc.enable_retries", 0),
)


def address_or_default(address: str | None) -> str:
    """The address given, that of the environment, or the loopback default."""
    return address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS


def new_request_id() -> str:
    """A random UUID; simulations hand in a source that counts instead."""
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC by its path; made once per RPC from its descriptor."""

    path: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def method(service: Any, name: str) -> Method:
    """The RPC `name` of a service descriptor."""
    from google.protobuf import message_factory

    descriptor = service.methods_by_name[name]
    response = message_factory.GetMessageClass(descriptor.output_type)
    request = message_factory.GetMessageClass(descriptor.input_type)
    return Method(f"/{service.full_name}/{name}", request.SerializeToString, response.FromString)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One unary RPC: the request, how to read the answer, and whether a repeat is safe."""

    method: Method
    request: Message
    read: Callable[[Any], T]
    repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. `resume_token` starts a watch right after a list of workloads or commands."""

    items: tuple[T, ...]
    next_page_token: str = ""
    resume_token: str = ""
    total_size: int = 0
    unreachable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts: doubling from `first_s` to `max_s`, each shortened at random by up to half.

    `for_s` bounds the whole time spent on one call's retries; 0: never retry.
    """

    for_s: float = 10.0
    first_s: float = 0.05
    max_s: float = 2.0

    def wait_s(self, attempt: int, elapsed_s: float, uniform: float) -> float | None:
        """Seconds to wait before attempt `attempt` + 1 (the first is 0), None: give up. `uniform` is in [0, 1)."""
        if elapsed_s >= self.for_s:
            return None
        wait_s = min(self.max_s, self.first_s * 2.0 ** min(attempt, 30)) * (1.0 - 0.5 * uniform)
        return float(min(wait_s, max(self.for_s - elapsed_s, 0.0)))


@dataclass(frozen=True, slots=True)
class Waiting:
    """A call that has been repeated for a while: why, since when, and how much longer it may."""

    failure: SuanliError
    waited_s: float
    left_s: float

    def __str__(self) -> str:
        return f"waiting for the service since {self.waited_s:.0f} s, for {self.left_s:.0f} s more: {self.failure}"


def log_waiting(waiting: Waiting) -> None:
    """One line at level WARNING of the logger `suanli.client`, which Python shows on stderr unless told otherwise."""
    logging.getLogger("suanli.client").warning("%s", waiting)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a client behaves; everything random or timed can be handed in."""

    timeout_s: float = 30.0
    watch_age_s: float = 600.0
    backoff: Backoff = field(default_factory=Backoff)
    request_id: Callable[[], str] = new_request_id
    uniform: Callable[[], float] = random.random
    clock_s: Callable[[], float] = time.monotonic
    on_wait: Callable[[Waiting], None] = log_waiting


QUIET_S = 3.0
"""Longer waits are told: a service that is only started again is usually back by then (ASSUMED)."""


class Patience:
    """The failures of one call or stream in a row: how long to wait next, and when to give up.

    A wait that has lasted for `QUIET_S` is told once, by `Settings.on_wait`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._failures = 0
        self._is_told = False
        self._away_since_s = settings.clock_s()

    def well(self) -> None:
        """Something came through: the next failure is the first again."""
        self._failures = 0

    def wait_s(self, failure: SuanliError) -> float | None:
        """Seconds to wait after `failure`; None: give up. A first expired token costs no wait."""
        settings = self._settings
        now_s = settings.clock_s()
        if self._failures == 0:
            self._away_since_s, self._is_told = now_s, False
            if isinstance(failure, WatchExpired):
                self._failures = 1
                return 0.0
        waited_s = now_s - self._away_since_s
        wait_s = settings.backoff.wait_s(self._failures, waited_s, settings.uniform())
        self._failures += 1
        if wait_s is not None and waited_s >= QUIET_S and not self._is_told:
            self._is_told = True
            settings.on_wait(Waiting(failure, waited_s, settings.backoff.for_s - waited_s))
        return wait_s


CLOSED = "the client was closed: make a new one to call again"


class Lifetime:
    """Whether a client is open. Closing its channel ends the calls that other threads and tasks wait for."""

    def __init__(self) -> None:
        self.is_over = False

    @contextmanager
    def lasting(self) -> Iterator[None]:
        """Around a call: SuanliError, which nobody repeats, if the client is closed before or during it."""
        if self.is_over:
            raise SuanliError(CLOSED)
        try:
            yield
        except (grpc.RpcError, grpc.aio.UsageError, ValueError, asyncio.CancelledError) as failure:
            if self.is_over and _ends_with_the_channel(failure):
                raise SuanliError(CLOSED) from failure
            raise


def _ends_with_the_channel(failure: BaseException) -> bool:
    """Whether a closed channel raises this; a task that its owner cancels is none of ours."""
    if isinstance(failure, grpc.RpcError):
        return failure.code() is grpc.StatusCode.CANCELLED
    if isinstance(failure, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or not task.cancelling()
    return True


def error_of(failure: grpc.RpcError) -> SuanliError:
    """Our error for a failed call, with its details where the server sent some."""
    code = failure.code()
    if code is grpc.StatusCode.CANCELLED:
        # our own `close` does too, but `Lifetime` has seen that already: a server that stops
        return Unavailable("the service stopped during the call")
    number = int(code.value[0])
    message = _not_reached(failure.details() or "") or failure.details() or code.name
    try:
        # also right for the failures of grpc.aio; its own variant raises TypeError
        status = rpc_status.from_call(cast("grpc.Call", failure))
    except ValueError:
        status = None
    if status is None:
        return wire.error_from_status(number, message)
    return wire.error_from_status(status.code, status.message, status.details)


def _not_reached(details: str) -> str:
    """`nothing answers at 127.0.0.1:7411` for what the library says of a connection that could not be made."""
    if details.startswith("failed to connect to all addresses"):
        tried = dict.fromkeys(unquote(found) for found in re.findall(r"ipv[46]:(\S+?):? ", details))
        return f"nothing answers at {', '.join(tried)}" if tried else ""
    resolving = re.match(r"(?:DNS resolution failed for|errors resolving) (\S+?):? ", details)
    return f"there is no host {resolving[1]}" if resolving else ""


def may_retry(failure: SuanliError) -> bool:
    """Only when the service was not there at all; a missed deadline may have taken effect and is the caller's."""
    return type(failure) is Unavailable


class WatchFold:
    """Turns cut and resumed streams into one sequence.

    A stream without a token begins with all that exists and a bookmark. Until that bookmark the token stays empty, so
    that a cut starts over; after it, the token of the last event resumes. When the token has expired the stream starts
    over, and what is already known is told as a change only where it has changed, what has gone as deleted.
    """

    def __init__(self, resume_token: str = "") -> None:
        self.resume_token = resume_token
        self._known: dict[str, str] = {}
        self._seen: set[str] | None = None if resume_token else set()

    def start_over(self) -> None:
        """The token has expired, or the stream was cut before its first bookmark."""
        self.resume_token = ""
        self._seen = set()

    def cut(self) -> None:
        """The stream broke off."""
        if self._seen is not None:
            self.start_over()

    def feed(self, change: WorkloadChange) -> Iterator[WorkloadChange]:
        """What the caller should see of this event."""
        if self._seen is None:
            self.resume_token = change.resume_token
            self._remember(change)
            yield change
        elif change.type is ChangeType.BOOKMARK:
            yield from self._gone(change.resume_token)
            self._seen = None
            self.resume_token = change.resume_token
            yield change
        else:
            yield from self._first_sight(change)

    def _first_sight(self, change: WorkloadChange) -> Iterator[WorkloadChange]:
        assert self._seen is not None
        if change.type is ChangeType.DELETED:
            self._seen.discard(change.name)
            if change.name in self._known:
                self._remember(change)
                yield change
            return
        self._seen.add(change.name)
        etag = change.record.etag if change.record is not None else ""
        known = self._known.get(change.name)
        if known == etag:
            return
        kind = ChangeType.ADDED if known is None else ChangeType.MODIFIED
        self._remember(change)
        yield change.model_copy(update={"type": kind})

    def _gone(self, resume_token: str) -> Iterator[WorkloadChange]:
        assert self._seen is not None
        for name in [n for n in self._known if n not in self._seen]:
            del self._known[name]
            yield WorkloadChange(type=ChangeType.DELETED, name=name, resume_token=resume_token)

    def _remember(self, change: WorkloadChange) -> None:
        if change.type is ChangeType.DELETED:
            self._known.pop(change.name, None)
        elif change.record is not None:
            self._known[change.name] = change.record.etag


def after_watch_failure(fold: WatchFold, failure: SuanliError) -> bool:
    """Whether the watch goes on: it starts over when expired, resumes when the service was away or the age is up."""
    if isinstance(failure, WatchExpired):
        fold.start_over()
        return True
    fold.cut()
    return isinstance(failure, Unavailable)


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """`items` in pieces of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
