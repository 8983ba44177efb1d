"""What the core asks of a planner: values in, one commit batch out. Declared here, where it is used.

`scheduler.cycle.Cycle` decides in production; a baseline decides in the same place (`cluster_sim.baselines`). All calls
come from the core's one thread, so an implementation may keep caches without locks as long as they follow from the
state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from scheduler.domain.records import CommitBatch
from suanli.model import (
    Event,
    Explanation,
    FieldProblem,
    Fleet,
    Policy,
    TelemetryReport,
    Workload,
    WorkloadState,
)

if TYPE_CHECKING:
    from solvers.problem import PlacementProblem
    from solvers.solution import PlanSolution


class State(Protocol):
    """The fold of the event log that decisions are made on."""

    revision: int

    def apply(self, events: Sequence[Event]) -> None:
        """Fold the next events; deterministic."""
        ...

    def has_workload(self, name: str) -> bool:
        """Whether that name was ever submitted."""
        ...

    def workload_state(self, name: str) -> WorkloadState | None:
        """State of that workload, None for an unknown name."""
        ...

    def counts(self) -> Mapping[str, int]:
        """Workloads per state."""
        ...


class PlanTask(Protocol):
    """A compiled plan problem on its way to the solver; the rest of it is the planner's own."""

    @property
    def problem(self) -> PlacementProblem:
        """What to solve."""
        ...

    @property
    def wall_limit_s(self) -> float:
        """When to give up."""
        ...


StateT = TypeVar("StateT", bound=State)
StateIn = TypeVar("StateIn", bound=State, contravariant=True)
TaskT = TypeVar("TaskT", bound=PlanTask)


class Decider(Protocol[StateIn, TaskT]):
    """Pure decisions: nothing here writes, waits or reads a clock."""

    def admit(self, state: StateIn, workloads: Sequence[Workload]) -> list[list[FieldProblem]]:
        """Per workload every problem that makes it impossible on the installed fleet, empty and healthy."""
        ...

    def submit(self, state: StateIn, now_s: int, workloads: Sequence[Workload]) -> CommitBatch:
        """Events and documents of admitted workloads whose names are new."""
        ...

    def cancel(self, state: StateIn, now_s: int, name: str) -> CommitBatch:
        """End that workload; empty when it is final already; NotFound for an unknown name."""
        ...

    def report(self, state: StateIn, now_s: int, report: TelemetryReport) -> CommitBatch:
        """What the sites' report changes."""
        ...

    def register_fleet(self, state: StateIn, now_s: int, fleet: Fleet) -> CommitBatch:
        """Take this fleet as the installed world."""
        ...

    def revise_policy(self, state: StateIn, now_s: int, policy: Policy) -> CommitBatch:
        """Append a revision of the policy."""
        ...

    def cordon(self, state: StateIn, now_s: int, site_id: str, cordoned: bool) -> CommitBatch:
        """Take a site out of placement, or back in; what runs there stays."""
        ...

    def advance(self, state: StateIn, now_s: int) -> CommitBatch:
        """One round and, when due, one plan, both synchronous (virtual time)."""
        ...

    def round(self, state: StateIn, now_s: int) -> CommitBatch:
        """One fast round; empty when nothing changes (real time)."""
        ...

    def plan_due(self, state: StateIn, now_s: int) -> bool:
        """Whether the horizon plan should be made anew; cheap, asked after every commit."""
        ...

    def begin_plan(self, state: StateIn, now_s: int) -> TaskT | None:
        """Compile the plan problem of this moment; None when there is nothing to plan."""
        ...

    def finish_plan(self, state: StateIn, now_s: int, task: TaskT, solution: PlanSolution) -> CommitBatch:
        """Check the solver's answer against the task and commit the plan, or the fact that the solver was cut off."""
        ...

    def explain(self, state: StateIn, name: str, now_s: int) -> Explanation:
        """Why there, why not yet."""
        ...

    def plan_dry_run(self, state: StateIn, now_s: int, workloads: Sequence[Workload]) -> Any:
        """What a round would do with these workloads now; nothing is written."""
        ...
