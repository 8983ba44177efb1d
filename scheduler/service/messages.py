"""What lies in the core's mailbox, and how it is answered."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from scheduler.domain.records import CommitBatch, StoredRequest
from scheduler.service.logs import get_logger
from solvers.solution import PlanSolution
from suanli.model import Workload

T = TypeVar("T")

log = get_logger(__name__)

# workloads that share one transaction: about 50 ms of writing
GROUP_WORKLOADS = 2_000


@dataclass(frozen=True, slots=True)
class RequestKey:
    """Makes a repeat safe: same id and fingerprint, same answer; same id and another fingerprint is refused."""

    request_id: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a change answers: its own words, the log's revision after it, and whether it is a repeated answer."""

    answer: dict[str, Any]
    revision: int
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """Real-time behaviour of the core."""

    round_debounce_s: float = 0.02
    """Longest wait from a change to the round that follows it."""
    round_every_s: float = 15.0
    """Rounds also run without news: time itself makes work due."""


@dataclass(slots=True)
class Submit:
    """Accept these workloads."""

    workloads: tuple[Workload, ...]
    paths: tuple[str, ...]
    key: RequestKey | None
    base_revision: int | None
    future: Future[Outcome] = field(default_factory=Future)


@dataclass(slots=True)
class Act:
    """Decide and commit a change."""

    decide: Callable[[Any, int], tuple[CommitBatch, dict[str, Any]]]
    key: RequestKey | None
    changes_run: bool = False
    future: Future[Outcome] = field(default_factory=Future)


@dataclass(slots=True)
class Ask:
    """Answer from the state."""

    read: Callable[[Any, int], Any]
    future: Future[Any] = field(default_factory=Future)


@dataclass(slots=True)
class Advance:
    """Take a step of virtual time."""

    run_id: str
    until_s: int
    future: Future[Outcome] = field(default_factory=Future)


@dataclass(slots=True)
class PlanSolved:
    """The solver has answered, or the pool has failed."""

    task: Any
    solution: PlanSolution | None
    error: BaseException | None
    begun_s: float


class Overtaken(Exception):
    """Another writer's events came first; they are folded now, so what was decided must be decided again."""


class Wake:
    """Makes the thread look at its flags."""


Message = Submit | Act | Ask | Advance | PlanSolved | Wake
MessageT = TypeVar("MessageT", Submit, Act, Ask, Advance)


class Group:
    """Submissions that share one commit: no two name the same workload or carry the same request id."""

    def __init__(self) -> None:
        self.messages: list[Submit] = []
        self._names: set[str] = set()
        self._request_ids: set[str] = set()

    def fits(self, message: Submit) -> bool:
        """Whether the submission may join."""
        if self.messages and len(self._names) + len(message.workloads) > GROUP_WORKLOADS:
            return False
        return self._names.isdisjoint(w.name for w in message.workloads)

    def add(self, message: Submit) -> None:
        """Let it join."""
        self.messages.append(message)
        self._names.update(w.name for w in message.workloads)
        if message.key is not None:
            self._request_ids.add(message.key.request_id)

    def repeats(self, key: RequestKey | None) -> bool:
        """Whether a request of this id is in the group already."""
        return key is not None and key.request_id in self._request_ids


def stored_request(key: RequestKey, answer: dict[str, Any], now_s: int) -> StoredRequest:
    """The answer as the store keeps it."""
    return StoredRequest(key.request_id, key.fingerprint, orjson.dumps(answer), now_s)


def settle(future: Future[T], make: Callable[[], T]) -> None:
    """Answer a future with what `make` returns or raises; a caller who gave up is not answered."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(make())
    except Exception as error:
        future.set_exception(error)


def once_more(step: Callable[[], T]) -> T:
    """Decide again when another writer came first; the store lets that happen to an operator's tool at most."""
    try:
        return step()
    except Overtaken:
        return step()


def raiser(error: Exception) -> Callable[[], Any]:
    """A function for `settle` that raises."""

    def make() -> Any:
        raise error

    return make
