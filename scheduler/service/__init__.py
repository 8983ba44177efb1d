"""The service without a network: every verb of the API as a plain call on model values.

The gRPC servicers and the in-process simulator use the same object, so there is one code path. Verbs that change
something return an `Answer`: block with `.result()`, or await it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from scheduler.domain.state import ClusterState
from scheduler.ports import SolverPool, Store
from scheduler.service.answers import Answer
from scheduler.service.core import Core
from scheduler.service.fleet import FleetVerbs
from scheduler.service.messages import Pace
from scheduler.service.metrics import Metrics
from scheduler.service.operations import Operations
from scheduler.service.plans import Plans
from scheduler.service.policies import Policies
from scheduler.service.simulations import Simulations
from scheduler.service.workloads import Workloads

if TYPE_CHECKING:
    from scheduler.cycle import Cycle
    from scheduler.planner.strategy import PlanTask

__all__ = ["Answer", "Metrics", "Pace", "Service"]


class Service:
    """One log, one planner, all verbs. `start` folds the log and begins to serve; `close` ends it."""

    def __init__(
        self,
        store: Store,
        cycle: Cycle,
        *,
        pool: SolverPool | None = None,
        virtual: bool = False,
        pace: Pace | None = None,
        metrics: Metrics | None = None,
        empty_state: Callable[[], ClusterState] = ClusterState.empty,
    ) -> None:
        self.core: Core[ClusterState, PlanTask] = Core(
            store, cycle, empty_state, pool=pool, virtual=virtual, pace=pace, metrics=metrics
        )
        self.workloads = Workloads(self.core, cycle)
        self.operations = Operations(self.core)
        self.fleet = FleetVerbs(self.core, cycle, self.operations)
        self.policies = Policies(self.core, cycle)
        self.plans = Plans(self.core)
        self.simulations = Simulations(self.core, cycle, cycle.strategy.name)

    def start(self) -> Service:
        """Fold the log and serve; returns itself."""
        self.core.start()
        return self

    def close(self) -> None:
        """Finish what is in the mailbox and end the thread; the store and the pool belong to whoever made them."""
        self.core.stop()
