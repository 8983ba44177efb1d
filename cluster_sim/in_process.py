"""The service's own cycle in process and in memory, for baselines, backtests and tests: the same decisions, no wire."""

from __future__ import annotations

from collections.abc import Sequence

from cluster_sim.orders import commands_of
from cluster_sim.world.protocol import Command
from scheduler.cycle import Cycle
from scheduler.domain.records import CommitBatch
from scheduler.domain.state import ClusterState
from scheduler.planner.strategy import Strategy
from scheduler.ports import SolverPool
from suanli.model import (
    Event,
    FieldProblem,
    Fleet,
    InvalidRequest,
    Policy,
    TelemetryReport,
    Workload,
)


class InProcessGateway:
    """Folds every batch at once; `log` is the event log so far."""

    def __init__(self, strategy: Strategy, pool: SolverPool) -> None:
        self._cycle = Cycle(strategy, pool)
        self.state = ClusterState.empty()
        self.log: list[Event] = []
        self._now_s = 0
        self._read = 0

    def open_run(self, run_id: str, seed: int, start_s: int, fleet: Fleet, policy: Policy) -> None:
        """Fleet and policy first, as an installation would."""
        self._now_s = start_s
        self._commit(self._cycle.register_fleet(self.state, start_s, fleet))
        self._commit(self._cycle.revise_policy(self.state, start_s, policy))

    def submit(self, workloads: Sequence[Workload], request_id: str) -> None:
        """All or none, with every problem named."""
        problems = [
            FieldProblem(**{**p.model_dump(), "field": f"{w.name}.{p.field}"})
            for w, found in zip(workloads, self._cycle.admit(self.state, workloads), strict=True)
            for p in found
        ]
        if problems:
            raise InvalidRequest(problems)
        self._commit(self._cycle.submit(self.state, self._now_s, workloads))

    def cancel(self, name: str, request_id: str) -> None:
        """As a tenant would."""
        self._commit(self._cycle.cancel(self.state, self._now_s, name))

    def report(self, report: TelemetryReport, request_id: str) -> None:
        """As the service would apply it."""
        self._commit(self._cycle.report(self.state, self._now_s, report))

    def advance(self, run_id: str, until_s: int, request_id: str) -> dict[str, int]:
        """One cycle."""
        self._now_s = until_s
        self._commit(self._cycle.advance(self.state, until_s))
        return self.state.counts()

    def commands(self) -> list[Command]:
        """Start and stop orders since the last call."""
        new, self._read = self.log[self._read :], len(self.log)
        return commands_of(new)

    def close_run(self, run_id: str) -> None:
        """Nothing to release."""

    def _commit(self, batch: CommitBatch) -> None:
        first = self.state.revision + 1
        events = [
            Event.model_construct(
                revision=first + i, at_s=d.at_s, kind=d.kind, subject=d.subject, body=d.body
            )
            for i, d in enumerate(batch.events)
        ]
        self.state.apply(events)
        self.log += events
