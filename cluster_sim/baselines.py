"""The policies that Suanli is compared with, as strategies of the same cycle: same filters, world and node sleep.

Each is tuned as its own authors would have it: least-loaded spreads over sites and packs nothing; nearest-edge packs
the nearest edge and spills to the next, then to the cloud, and sends work without users to the cloud; the PUE-blind
plan is the product's own plan with the plants and caps taken out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.state import ClusterState
from scheduler.planner.feasibility import SpecView, Views, zone_legs
from scheduler.planner.horizon import HorizonStrategy, PlannerSettings
from scheduler.planner.scoring import Scorer
from scheduler.planner.snapshot import Snapshot
from scheduler.planner.strategy import PlanOutcome, PlanTask, Strategy
from solvers.solution import PlanSolution

CLOUD_DETOUR_MS = 1000.0
"""Above any RTT of the city: every edge that may host a user's work comes before every cloud."""


class _NoPlan:
    """A policy that decides at arrival and never looks ahead."""

    name = "no-plan"

    def learn(self, state: ClusterState, now_s: int) -> dict[str, Any] | None:
        """Learns nothing."""
        return None

    def plan_due(self, state: ClusterState, now_s: int) -> bool:
        """Never."""
        return False

    def begin_plan(self, state: ClusterState, views: Views, now_s: int) -> PlanTask:
        """Not called."""
        raise NotImplementedError(f"{self.name} makes no plan")

    def finish_plan(self, state: ClusterState, task: PlanTask, solution: PlanSolution) -> PlanOutcome:
        """Not called."""
        raise NotImplementedError(f"{self.name} makes no plan")


class _Greedy:
    """Common part of the greedy scorers: nothing waits for a price, nothing has a quota."""

    def quota(self, spec: int, snapshot: Snapshot) -> dict[int, float]:
        """None."""
        return {}

    def may_start_deferred(self, spec: int, snapshot: Snapshot) -> int | None:
        """All at once."""
        return None


class _LeastLoadedScorer(_Greedy):
    chunk = 8

    def group_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """Share of the site in use in the resource that the spec needs most (0..1)."""
        topology, nodes = snapshot.topology, snapshot.nodes
        resource = 2 if view.spec.stage.gpu_milli else 0
        free = np.maximum(nodes.gpu_milli, 0).sum(axis=1) if resource == 2 else nodes.cpu_milli
        capacity = topology.group_capacity[topology.node_group, resource]
        eligible = view.group_ok[topology.node_group]
        used = np.bincount(topology.node_site, (capacity - free) * eligible, minlength=topology.site_count)
        total = np.bincount(topology.node_site, capacity * eligible, minlength=topology.site_count)
        share: NDArray[np.float64] = (used / np.maximum(total, 1))[topology.group_site]
        return share

    def node_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """Share of the node in use, one thousandth: it breaks ties within a site."""
        topology, nodes = snapshot.topology, snapshot.nodes
        resource = 2 if view.spec.stage.gpu_milli else 0
        free = np.maximum(nodes.gpu_milli, 0).sum(axis=1) if resource == 2 else nodes.cpu_milli
        capacity = np.maximum(topology.group_capacity[topology.node_group, resource], 1)
        out: NDArray[np.float64] = (1.0 - free / capacity) * 1e-3
        return out


class _NearestEdgeScorer(_Greedy):
    chunk = 0

    def group_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """p99 RTT of the worst leg, clouds after all edges; work without users goes to the cloud first."""
        topology = snapshot.topology
        detour = np.where(topology.site_is_edge, 0.0, CLOUD_DETOUR_MS)
        if not zone_legs(view.spec):
            detour = CLOUD_DETOUR_MS - detour
        cost: NDArray[np.float64] = (view.rtt_p99_ms + detour)[topology.group_site]
        return cost

    def node_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """Nodes already on come before sleeping ones."""
        return np.where(snapshot.empty_node, 1e-3, 0.0)


class LeastLoaded(_NoPlan):
    """Every replica to the site, then the node, with the smallest share in use."""

    name = "least-loaded"

    def scorer(self, state: ClusterState, guide: dict[str, Any], now_s: int) -> Scorer:
        """Independent of any plan."""
        return _LeastLoadedScorer()


class NearestEdge(_NoPlan):
    """Nearest edge that can host it, then the next, then the cloud; best fit within a site."""

    name = "nearest-edge"

    def scorer(self, state: ClusterState, guide: dict[str, Any], now_s: int) -> Scorer:
        """Independent of any plan."""
        return _NearestEdgeScorer()


BASELINES = ("least-loaded", "nearest-edge", "pue-blind")


def strategy_of(name: str) -> Strategy:
    """`suanli` or a baseline by name; KeyError for any other."""
    makers: dict[str, Any] = {
        "suanli": HorizonStrategy,
        "least-loaded": LeastLoaded,
        "nearest-edge": NearestEdge,
        "pue-blind": lambda: HorizonStrategy(PlannerSettings(pue_blind=True)),
    }
    strategy: Strategy = makers[name]()
    return strategy
