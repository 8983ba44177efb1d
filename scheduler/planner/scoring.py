"""Scores of candidates in yuan per hour: what one more replica costs on each group, and what waking a node adds.

A scorer ranks what the filters let through; it never makes a rule. What ranks and what is paid are two numbers: a wall
around sites that the plan keeps closed stands in the first and never in the second. The product's own scorer follows
the horizon plan's prices, quotas and open sites; baselines of the simulator bring theirs through the same protocol.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scheduler.planner.feasibility import SpecView
from scheduler.planner.snapshot import Snapshot
from suanli.model.units import W_PER_KW

CLOSED_SITE_YUAN_PER_HOUR = 1e4
"""Above any energy price: a site that the plan keeps closed is opened only when nothing open can take the work."""

LEAST_WANTED = 0.01
"""Part of a replica below which a plan's count is rounding."""


class Scorer(Protocol):
    """Ranks nodes for one spec, lower is better, and says what a replica costs there."""

    chunk: int
    """Most replicas placed on one evaluation; 0: all (the score does not depend on what is placed)."""

    def group_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(G,) by which groups are ranked, and nothing else: what a replica costs and whatever keeps it away."""
        ...

    def energy_yuan_per_hour(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(G,) yuan per hour of one replica's own energy: money, to be told and weighed."""
        ...

    def open_sites(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """(S,) sites that are to have work; to the others it goes only when none of these can take it."""
        ...

    def node_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(N,) what the node's own state adds, same unit."""
        ...

    def quota(self, spec: int, snapshot: Snapshot) -> dict[int, float]:
        """Group → replicas of the spec's whole fold that the plan wants running there now; empty: no wish."""
        ...

    def may_start_deferred(self, spec: int, snapshot: Snapshot) -> int | None:
        """How many deferrable replicas of the spec's fold may start now; None: all."""
        ...


@runtime_checkable
class TieredScorer(Scorer, Protocol):
    """A scorer to which nodes of a group differ in one thing only: whether they are on. Its costs do not depend on what
    else is placed in the round, and are equal for specs that are alike (`SpecView.likeness`)."""

    def wake_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(G,) what a sleeping node of the group adds to `group_cost`, as `node_cost` does node by node."""
        ...


def energy_yuan_per_hour(
    view: SpecView, snapshot: Snapshot, marginal_yuan_per_kwh: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(G,) yuan per hour of one replica: dynamic kW · the site's (S,) price of one more kWh of IT energy."""
    kw: NDArray[np.float64] = view.watts / W_PER_KW
    return kw * marginal_yuan_per_kwh[snapshot.topology.group_site]


@dataclass
class GuidedScorer:
    """Energy at the site's marginal price, idle power of nodes to be woken, quotas and open sites of the plan.

    marginal_yuan_per_kwh: (S,) price of one more kWh of IT energy now: facility marginal and ledger price included.
    """

    marginal_yuan_per_kwh: NDArray[np.float64]
    site_open: NDArray[np.bool_]
    fixed_yuan_per_hour: NDArray[np.float64]
    """(S,) what opening a closed site adds each hour."""
    quotas: dict[int, dict[int, float]] = field(default_factory=dict)
    """fold → group → replicas."""
    deferred_running: dict[int, float] = field(default_factory=dict)
    """fold → deferrable replicas that the plan wants running now."""
    has_plan: bool = False
    chunk: int = 0

    def group_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """The energy, plus the wall around sites that the plan keeps closed."""
        site = snapshot.topology.group_site
        return self.energy_yuan_per_hour(view, snapshot) + np.where(
            self.site_open[site], 0.0, CLOSED_SITE_YUAN_PER_HOUR + self.fixed_yuan_per_hour[site]
        )

    def energy_yuan_per_hour(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """dynamic kW · marginal price."""
        return energy_yuan_per_hour(view, snapshot, self.marginal_yuan_per_kwh)

    def open_sites(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """The plan's."""
        return self.site_open

    def node_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """Idle power of a node that would have to wake."""
        return snapshot.empty_node * self.wake_cost(view, snapshot)[snapshot.topology.node_group]

    def wake_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """Idle power of one node, at the site's marginal price."""
        topology = snapshot.topology
        idle_kw: NDArray[np.float64] = topology.group_idle_w / W_PER_KW
        return idle_kw * self.marginal_yuan_per_kwh[topology.group_site]

    def quota(self, spec: int, snapshot: Snapshot) -> dict[int, float]:
        """The plan's targets."""
        return self.quotas.get(int(snapshot.fold[spec]), {})

    def may_start_deferred(self, spec: int, snapshot: Snapshot) -> int | None:
        """Up to the plan's count, where a part of a replica counts as one: what is to run for a part of the slot is to
        start in it. Without a plan nothing waits."""
        if not self.has_plan:
            return None
        wanted = self.deferred_running.get(int(snapshot.fold[spec]), 0.0)
        return max(0, int(np.ceil(wanted - LEAST_WANTED)) - int(snapshot.running_of_fold(spec).sum()))
