"""What one more GPU replica costs on every node of a site, kept from head to head of a round.

    cost     c(n), yuan per hour: energy price, plus the idle power that waking the node adds; inf without room
    worth    c(n) / π + loss(n), milli-GPU: what ranks the nodes of one site; inf without room

Heads that a node cannot tell apart (`SpecView.likeness`) share a table. Only nodes that changed since the table was
last looked at are worked out again, so that a head costs about as much as there were changes, not nodes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.planner.feasibility import SpecView
from scheduler.planner.fragmentation import Fragmentation
from scheduler.planner.reserve import Reservations
from scheduler.planner.snapshot import WHOLE_GPU_MILLI, Snapshot

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
PACKING_YUAN_PER_GPU_H = 0.5
"""π: what a GPU-hour is worth that work to come could use and cannot, the free pieces being the wrong ones. ASSUMED: a
tenth of what an hour of waiting costs a GPU, since not every piece is missed. On the openb trace without departures
(1 213 nodes, all GPUs asked for) 0 gives 89.7 % of the GPUs allocated, 0.05 91.8 %, 0.5 95.3 % and 5 95.4 %."""
COST_DIGITS = 9
"""Costs that differ by less than a billionth of a yuan per hour are equal."""
CPU_MILLI_OF_GPU_MILLI = 16
"""Weight of a GPU against cores when asking which node is fuller; it only breaks ties."""


def price_milli(cost_yuan_per_hour: FloatArray) -> FloatArray:
    """Yuan per hour in the unit of packing value, milli-GPU."""
    return np.round(cost_yuan_per_hour, COST_DIGITS) * (WHOLE_GPU_MILLI / PACKING_YUAN_PER_GPU_H)


def free_of(snapshot: Snapshot, at: IntArray) -> IntArray:
    """(len(at),) cores and GPUs free on each node, as one number: the fullest node comes first among equals."""
    nodes = snapshot.nodes
    gpus = np.maximum(nodes.gpu_milli[at], 0).sum(axis=1)
    free: IntArray = nodes.cpu_milli[at] + CPU_MILLI_OF_GPU_MILLI * gpus
    return free


class SiteWorth:
    """Cost and worth of one more replica of alike specs on `nodes`, ascending, all of one site."""

    def __init__(
        self,
        snapshot: Snapshot,
        packing: Fragmentation,
        view: SpecView,
        nodes: IntArray,
        usable: NDArray[np.bool_],
        on: FloatArray,
        wake: FloatArray,
    ) -> None:
        """usable: (N,) up and not cordoned; on, wake: (G,) cost of one replica on a node that is on, or asleep."""
        self._snapshot, self._packing, self._view, self._nodes = snapshot, packing, view, nodes
        self._usable, self._on, self._wake = usable, on, wake
        self._cost = np.full(len(nodes), np.inf)
        self._worth = np.full(len(nodes), np.inf)
        self._least: float | None = None
        self._changed = snapshot.changed[int(snapshot.topology.node_site[nodes[0]])]
        self._seen = len(self._changed)
        self._look_at(np.arange(len(nodes)))

    def least_cost(self, kept: Reservations, left_s: float) -> float:
        """Yuan per hour on the cheapest node with room for work that runs for `left_s`; inf: no room."""
        self._refresh()
        if kept.groups:
            return float(self._cost[kept.passes(self._nodes, left_s)].min(initial=np.inf))
        if self._least is None:
            self._least = float(self._cost.min(initial=np.inf))
        return self._least

    def best_node(self, kept: Reservations, left_s: float) -> int:
        """The node of least worth that work of `left_s` may use, then the fullest, then the first."""
        worth = self._worth
        if kept.groups:
            worth = np.where(kept.passes(self._nodes, left_s), worth, np.inf)
        at = int(worth.argmin())
        ties = (worth == worth[at]).nonzero()[0]
        if len(ties) > 1:
            ties = self._nodes[ties]
            return int(ties[free_of(self._snapshot, ties).argmin()])
        return int(self._nodes[at])

    def _refresh(self) -> None:
        if self._seen == len(self._changed):
            return
        nodes = np.array(sorted(set(self._changed[self._seen :])))
        self._seen = len(self._changed)
        index = np.minimum(np.searchsorted(self._nodes, nodes), len(self._nodes) - 1)
        self._look_at(index[self._nodes[index] == nodes])

    def _look_at(self, index: IntArray) -> None:
        """Work out these nodes anew."""
        if not len(index):
            return
        snapshot, stage = self._snapshot, self._view.spec.stage
        nodes, at = snapshot.nodes, self._nodes[index]
        self._cost[index] = self._worth[index] = np.inf
        self._least = None
        holds = nodes.cpu_milli[at] >= stage.cpu_milli
        holds &= nodes.memory_mib[at] >= stage.memory_mib
        holds &= self._usable[at]
        at, index = at[holds], index[holds]
        holds = snapshot.holds_one(self._view, at)
        at, index = at[holds], index[holds]
        if not len(at):
            return
        group, asleep = snapshot.topology.node_group[at], snapshot.empty_node[at]
        cost = np.where(asleep, self._wake[group], self._on[group])
        self._cost[index] = cost
        self._worth[index] = self._loss_milli(at, group, asleep) + price_milli(cost)

    def _loss_milli(self, at: IntArray, group: IntArray, asleep: NDArray[np.bool_]) -> FloatArray:
        """Packing value that a replica destroys; nodes of one group that are asleep are all alike."""
        alike = asleep.nonzero()[0]
        if len(alike) < 2:
            return self._packing.loss_milli(self._view, at)
        _, first, of = np.unique(group[alike], return_index=True, return_inverse=True)
        on = (~asleep).nonzero()[0]
        asked = np.concatenate([on, alike[first]])
        loss = self._packing.loss_milli(self._view, at[asked])
        out = np.empty(len(at))
        out[on], out[alike] = loss[: len(on)], loss[len(on) :][of]
        return out
