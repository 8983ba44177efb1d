"""How a policy plans and scores: the seam between the cycle and the product's planner or a baseline's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from scheduler.domain.state import ClusterState
from scheduler.planner.feasibility import Views
from scheduler.planner.scoring import Scorer
from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution
from suanli.model import Plan


@dataclass(frozen=True)
class PlanTask:
    """A compiled problem on its way to the solver."""

    problem: PlacementProblem
    at_s: int
    wall_limit_s: float


@dataclass(frozen=True)
class PlanOutcome:
    """A horizon plan ready to commit: the API's view, more of its body, and what rounds follow."""

    plan: Plan
    body: dict[str, Any]
    guide: dict[str, Any]
    cut_off: str = ""


class Strategy(Protocol):
    """The product's is `planner.horizon.HorizonStrategy`; baselines live in the simulator."""

    name: str

    def learn(self, state: ClusterState, now_s: int) -> dict[str, Any] | None:
        """Body of a `site.model_learned` event when it is time for one."""
        ...

    def plan_due(self, state: ClusterState, now_s: int) -> bool:
        """Whether a horizon plan should be made now."""
        ...

    def begin_plan(self, state: ClusterState, views: Views, now_s: int) -> PlanTask:
        """Compile the problem of a plan that is due."""
        ...

    def finish_plan(self, state: ClusterState, task: PlanTask, solution: PlanSolution) -> PlanOutcome:
        """Check the solver's answer and turn it into a plan and a guide."""
        ...

    def scorer(self, state: ClusterState, guide: dict[str, Any], now_s: int) -> Scorer:
        """Scores for a round at `now_s`, following `guide` (empty before the first plan)."""
        ...
