"""Ports of the service: what it needs from outside, declared where it is used.

Each port has at least two implementations from the first day: clock (system, virtual), store (memory, SQL), actuator
(event log for simulated sites, dry run), outlook (published calendar + reported forecast, fixed), solver pool (worker
process, in process).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from scheduler.domain.records import CommitBatch, Document, StoredRequest
from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution
from suanli.model import Event, EventKind


class Clock(Protocol):
    """Source of now; virtual in simulations."""

    def now_s(self) -> int:
        """Seconds since 1970."""
        ...


class Store(Protocol):
    """Append-only event log with documents and idempotent requests. Thread-safe; commits are atomic and durable."""

    def commit(self, batches: Sequence[CommitBatch], expect_revision: int | None = None) -> list[list[Event]]:
        """Write all batches in one transaction (group commit) and return each batch's events with revisions.

        Revisions are consecutive integers from 1. `expect_revision` is the last revision the caller has seen: when it
        does not match, nothing is written and `Conflict` is raised. Returns only after the write is durable.
        """
        ...

    def last_revision(self) -> int:
        """Revision of the newest event, 0 for an empty log."""
        ...

    def events(
        self, after_revision: int, limit: int, kinds: Sequence[EventKind] = (), subject_prefix: str = ""
    ) -> list[Event]:
        """Events after that revision, in order; `WatchExpired` when the log no longer reaches back there."""
        ...

    def latest_events(self, kinds: Sequence[EventKind], limit: int, before_revision: int = 0) -> list[Event]:
        """The newest events of these kinds, newest first; with `before_revision` only older ones (0: from the end)."""
        ...

    def events_about(self, subjects: Sequence[str], kinds: Sequence[EventKind] = ()) -> list[Event]:
        """Every event with exactly one of these subjects, in order of revision."""
        ...

    def request(self, request_id: str) -> StoredRequest | None:
        """The stored answer of that request id, if any."""
        ...

    def requests(self, request_ids: Sequence[str]) -> dict[str, StoredRequest]:
        """Those of the request ids that have a stored answer, in one query (group commit asks for many)."""
        ...

    def forget_requests(self, before_s: int) -> int:
        """Drop the answers stored before that instant; returns how many."""
        ...

    def document(self, collection: str, name: str) -> Document | None:
        """One document, or None."""
        ...

    def documents(
        self,
        collection: str,
        parent: str = "",
        state: str = "",
        after_name: str = "",
        limit: int = 1000,
        descending: bool = False,
    ) -> list[Document]:
        """Documents in order of name from behind `after_name` on, or in descending order from before it."""
        ...

    def documents_named(self, collection: str, names: Sequence[str]) -> dict[str, Document]:
        """Those of the names that exist."""
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...


class SolverPool(Protocol):
    """Runs the slow plan apart from the service, killable, under limits."""

    def solve_plan(self, problem: PlacementProblem, wall_limit_s: float) -> PlanSolution:
        """Solve; a crash, a hang beyond `wall_limit_s` or nonsense comes back as status UNKNOWN or INVALID, never as an
        exception."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...


class Outlook(Protocol):
    """What is known of the hours ahead, per site."""

    def price_yuan_per_kwh(self, site_id: str, at_s: int) -> float:
        """Price of facility energy at that instant, mark-up included."""
        ...

    def dry_bulb_c(self, at_s: int) -> float:
        """Forecast dry-bulb temperature."""
        ...

    def wet_bulb_c(self, at_s: int) -> float:
        """Forecast wet-bulb temperature."""
        ...

    def carbon_g_per_kwh(self, at_s: int) -> float:
        """Forecast grid carbon intensity."""
        ...
