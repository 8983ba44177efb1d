"""The policies that Suanli is compared with, as strategies of the same cycle: same filters, world and node sleep.

Each is tuned as its own authors would have it: least-loaded spreads over sites and packs nothing; nearest-edge packs
the nearest edge and spills to the next, then to the cloud, and sends work without users to the cloud; the PUE-blind
plan is the product's own plan with the plants and caps taken out.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.state import ClusterState
from scheduler.planner.feasibility import SpecView, Views, zone_legs
from scheduler.planner.horizon import HorizonStrategy, PlannerSettings
from scheduler.planner.marginal import marginal_yuan_per_kwh
from scheduler.planner.scoring import Scorer, energy_yuan_per_hour
from scheduler.planner.snapshot import Snapshot
from scheduler.planner.strategy import PlanOutcome, PlanTask, Strategy
from solvers.solution import PlanSolution

CLOUD_DETOUR_MS = 1000.0
"""Above any RTT of the city: every edge that may host a user's work comes before every cloud."""


CORES, GPUS = 0, 2
"""Places in group capacities."""


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
    """Common part of the greedy scorers: nothing waits for a price, nothing has a quota, no site is closed.

    What a replica costs they tell as everybody does; they do not look at it.
    """

    def __init__(self, state: ClusterState, now_s: int) -> None:
        self._state, self._now_s = state, now_s

    @cached_property
    def _marginal_yuan_per_kwh(self) -> NDArray[np.float64]:
        return marginal_yuan_per_kwh(self._state, self._now_s)

    def energy_yuan_per_hour(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """Energy at tariff and marginal iPUE of the hour."""
        return energy_yuan_per_hour(view, snapshot, self._marginal_yuan_per_kwh)

    def open_sites(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """All."""
        return np.ones(snapshot.topology.site_count, bool)

    def quota(self, spec: int, snapshot: Snapshot) -> dict[int, float]:
        """None."""
        return {}

    def may_start_deferred(self, spec: int, snapshot: Snapshot) -> int | None:
        """All at once."""
        return None


class _LeastLoadedScorer(_Greedy):
    chunk = 8

    def __init__(self, state: ClusterState, now_s: int) -> None:
        super().__init__(state, now_s)
        self._used: dict[int, _Used] = {}

    def group_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """Share of the site in use in the resource that the spec needs most (0..1)."""
        topology, used = snapshot.topology, self._used_now(view, snapshot)
        by_group = np.bincount(topology.node_group, used.amount, minlength=len(topology.group_ids))
        of_site = np.bincount(topology.group_site, by_group * view.group_ok, minlength=topology.site_count)
        installed = np.bincount(
            topology.group_site, used.installed * view.group_ok, minlength=topology.site_count
        )
        share: NDArray[np.float64] = (of_site / np.maximum(installed, 1))[topology.group_site]
        return share

    def node_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """Share of the node in use, one thousandth: it breaks ties within a site."""
        return self._used_now(view, snapshot).tie

    def _used_now(self, view: SpecView, snapshot: Snapshot) -> _Used:
        resource = GPUS if view.spec.stage.gpu_milli else CORES
        used = self._used.get(resource)
        if used is None or used.snapshot is not snapshot:
            used = self._used[resource] = _Used(snapshot, resource)
        used.follow()
        return used


class _Used:
    """What is in use of one resource on every node of a snapshot; follows the snapshot node by node as it changes."""

    def __init__(self, snapshot: Snapshot, resource: int) -> None:
        topology = snapshot.topology
        self.snapshot, self._resource = snapshot, resource
        self._capacity = topology.group_capacity[topology.node_group, resource]
        self.installed = topology.group_capacity[:, resource] * np.bincount(
            topology.node_group, minlength=len(topology.group_ids)
        )
        """(G,) of all nodes of a group."""
        self.amount = np.zeros(topology.node_count)
        """(N,)"""
        self.tie = np.zeros(topology.node_count)
        """(N,) share in use, one thousandth."""
        self._seen = np.full(topology.node_count, -1, np.int64)

    def follow(self) -> None:
        """Look anew at nodes that have changed since."""
        at = np.flatnonzero(self.snapshot.stamp != self._seen)
        if not len(at):
            return
        nodes = self.snapshot.nodes
        free = (
            np.maximum(nodes.gpu_milli[at], 0).sum(axis=1) if self._resource == GPUS else nodes.cpu_milli[at]
        )
        self.amount[at] = self._capacity[at] - free
        self.tie[at] = (1.0 - free / np.maximum(self._capacity[at], 1)) * 1e-3
        self._seen[at] = self.snapshot.stamp[at]


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
        return _LeastLoadedScorer(state, now_s)


class NearestEdge(_NoPlan):
    """Nearest edge that can host it, then the next, then the cloud; best fit within a site."""

    name = "nearest-edge"

    def scorer(self, state: ClusterState, guide: dict[str, Any], now_s: int) -> Scorer:
        """Independent of any plan."""
        return _NearestEdgeScorer(state, now_s)


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
