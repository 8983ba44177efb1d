"""What one more GPU replica costs on every node of a site, kept from head to head of a round.

    cost     c(n), yuan per hour: energy price, plus the idle power that waking the node adds; inf without room
    worth    c(n) / π + loss(n), milli-GPU: what ranks the nodes of one site; inf without room

Heads that a node cannot tell apart (`SpecView.likeness`) share a table. Only nodes that changed since the table was
last looked at are worked out again, so that a head costs about as much as there were changes, not nodes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.planner.feasibility import SpecView
from scheduler.planner.fragmentation import Fragmentation
from scheduler.planner.reserve import Reservations
from scheduler.planner.snapshot import WHOLE_GPU_MILLI, Snapshot, holds_gpus

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
FEW_CHANGED = 4
"""So few changed nodes are looked at one by one: cheaper than arrays of a handful."""


def price_milli(cost_yuan_per_hour: FloatArray) -> FloatArray:
    """Yuan per hour in the unit of packing value, milli-GPU."""
    return cost_yuan_per_hour.round(COST_DIGITS) * (WHOLE_GPU_MILLI / PACKING_YUAN_PER_GPU_H)


def free_of(snapshot: Snapshot, at: IntArray) -> IntArray:
    """(len(at),) cores and GPUs free on each node, as one number: the fullest node comes first among equals."""
    free: IntArray = snapshot.nodes.cpu_milli[at] + CPU_MILLI_OF_GPU_MILLI * snapshot.gpus_free(at)
    return free


def free_of_one(snapshot: Snapshot, node: int) -> int:
    """`free_of` for one node, without arrays."""
    gpus: list[int] = snapshot.nodes.gpu_milli[node].tolist()
    return int(snapshot.nodes.cpu_milli[node]) + CPU_MILLI_OF_GPU_MILLI * sum(g for g in gpus if g > 0)


@dataclass(frozen=True)
class Prices:
    """(2, G) what one replica costs on a node of each group that is on, and that is asleep."""

    yuan_per_hour: FloatArray
    milli: FloatArray
    """The same as worth."""

    @classmethod
    def of(cls, on: FloatArray, waking: FloatArray) -> Prices:
        """From the cost on a node that is on, and what waking one adds."""
        cost = np.array([on, on + waking])
        return cls(cost, price_milli(cost))


class SiteWorth:
    """Cost and worth of one more replica of alike specs on `nodes`, ascending, all of one site."""

    def __init__(
        self,
        snapshot: Snapshot,
        packing: Fragmentation,
        view: SpecView,
        nodes: IntArray,
        index_of: IntArray,
        usable: NDArray[np.bool_],
        prices: Prices,
    ) -> None:
        """index_of: (N,) place of each node in `nodes`, −1 elsewhere; usable: (N,) up and not cordoned."""
        self.site = int(snapshot.topology.node_site[nodes[0]])
        self._snapshot, self._packing, self._view, self._nodes = snapshot, packing, view, nodes
        self._index_of, self._usable, self._prices = index_of, usable, prices
        self._cost = np.full(len(nodes), np.inf)
        self._worth = np.full(len(nodes), np.inf)
        self._price_milli = np.zeros(len(nodes))
        """The cost in the unit of worth, where there is room."""
        self._free = np.zeros(len(nodes), np.int64)
        """`free_of` where the worth is known."""
        self._unvalued = np.zeros(len(nodes), bool)
        """Nodes with room whose worth has not been asked for since they changed."""
        self._need_milli = view.need[snapshot.topology.node_group[nodes], 2]
        self._least = np.inf
        self._changed = snapshot.changed[self.site]
        self._seen = len(self._changed)
        self._look_at(np.arange(len(nodes)))

    def least_cost(self, kept: Reservations, left_s: float) -> float:
        """Yuan per hour on the cheapest node with room for work that runs for `left_s`; inf: no room."""
        if self._seen != len(self._changed):
            self._refresh()
        if self._least == np.inf or self.site not in kept.sites or self._may_take_cheapest(kept, left_s):
            return self._least
        return float(self._cost[kept.passes(self._nodes, left_s)].min(initial=np.inf))

    def _may_take_cheapest(self, kept: Reservations, left_s: float) -> bool:
        """Whether the first of the cheapest nodes is not kept from such work; then no other need be asked."""
        cheapest = self._cost.argmin()
        return bool(kept.passes(self._nodes[cheapest : cheapest + 1], left_s)[0])

    def order(self, count: int, kept: Reservations, left_s: float) -> list[int]:
        """(≤ count,) node of each replica that runs for `left_s`, each where worth is least by then.

        One replica goes to the fullest of equally good nodes, several to the first.
        """
        worth = self._worth_now()
        has_kept = self.site in kept.sites
        if count == 1:
            return self._best(worth, kept if has_kept else None, left_s)
        if has_kept:
            worth = np.where(kept.passes(self._nodes, left_s), worth, np.inf)
        least = np.flatnonzero(worth < np.inf)
        if count < len(least):
            limit = np.partition(worth[least], count - 1)[count - 1]
            least = least[worth[least] <= limit]
        least = least[np.argsort(worth[least], kind="stable")][:count]
        unopened = list(zip(worth[least].tolist(), self._nodes[least].tolist(), strict=True))[::-1]
        price = dict(zip(self._nodes[least].tolist(), self._price_milli[least].tolist(), strict=True))
        return self._take_in_turn(count, unopened, price)

    def _best(self, worth: FloatArray, kept: Reservations | None, left_s: float) -> list[int]:
        """The fullest of the nodes of least worth; kept: None where no node of the site is."""
        least = worth[worth.argmin()]
        if least == np.inf:
            return []
        ties = (worth == least).nonzero()[0]
        if kept is not None:
            passes = kept.passes(self._nodes[ties], left_s)
            if not passes.any():
                others = np.where(kept.passes(self._nodes, left_s), worth, np.inf)
                return self._best(others, None, left_s)
            ties = ties[passes]
        return [int(self._nodes[ties[0] if len(ties) == 1 else ties[self._free[ties].argmin()]])]

    def _take_in_turn(
        self, count: int, unopened: list[tuple[float, int]], price: dict[int, float]
    ) -> list[int]:
        """Greedy: the least of the next replicas of nodes that have taken some, and of the nodes not opened yet."""
        out: list[int] = []
        next_of: list[tuple[float, int, Iterator[float]]] = []
        while len(out) < count:
            if unopened and (not next_of or unopened[-1] < next_of[0][:2]):
                _, node = unopened.pop()
                losses = self._packing.losses_milli(self._view, node)
                next(losses)
            elif next_of:
                _, node, losses = heapq.heappop(next_of)
            else:
                break
            out.append(node)
            loss = next(losses, None) if len(out) < count else None
            if loss is not None:
                heapq.heappush(next_of, (loss + price[node], node, losses))
        return out

    # ------------------------------------------------------------------ kept up to date

    def _refresh(self) -> None:
        nodes = set(self._changed[self._seen :])
        self._seen = len(self._changed)
        if len(nodes) > FEW_CHANGED:
            index = self._index_of[sorted(nodes)]
            self._look_at(index[index >= 0])
        else:
            for node in nodes:
                i = int(self._index_of[node])
                if i >= 0:
                    self._look_at_one(i, node)

    def _look_at_one(self, i: int, node: int) -> None:
        """`_look_at` for one node, without arrays."""
        snapshot, stage = self._snapshot, self._view.spec.stage
        nodes, group = snapshot.nodes, int(snapshot.topology.node_group[node])
        before, cost = float(self._cost[i]), np.inf
        if (
            self._usable[node]
            and nodes.cpu_milli[node] >= stage.cpu_milli
            and nodes.memory_mib[node] >= stage.memory_mib
            and nodes.storage_gib[node] >= stage.storage_gib
            and holds_gpus(nodes.gpu_milli[node].tolist(), int(self._view.need[group, 2]))
        ):
            state = int(snapshot.empty_node[node])
            cost = float(self._prices.yuan_per_hour[state, group])
            self._price_milli[i] = self._prices.milli[state, group]
        self._cost[i], self._worth[i], self._unvalued[i] = cost, np.inf, cost < np.inf
        if cost < self._least:
            self._least = cost
        elif before == self._least:
            self._least = float(self._cost[self._cost.argmin()])

    def _look_at(self, index: IntArray) -> None:
        """Work out anew whether these nodes have room, and the cost there."""
        snapshot, stage = self._snapshot, self._view.spec.stage
        nodes, at = snapshot.nodes, self._nodes[index]
        holds = nodes.cpu_milli[at] >= stage.cpu_milli
        holds &= nodes.memory_mib[at] >= stage.memory_mib
        holds &= self._usable[at]
        if stage.storage_gib:
            holds &= nodes.storage_gib[at] >= stage.storage_gib
        self._cost[index] = self._worth[index] = np.inf
        self._unvalued[index] = False
        at, index = at[holds], index[holds]
        if len(at):
            holds = snapshot.gpus_hold_one(at, self._need_milli[index])
            at, index = at[holds], index[holds]
            kind = (snapshot.empty_node[at].view(np.int8), snapshot.topology.node_group[at])
            self._cost[index] = self._prices.yuan_per_hour[kind]
            self._price_milli[index] = self._prices.milli[kind]
            self._unvalued[index] = True
        self._least = float(self._cost[self._cost.argmin()])

    def _worth_now(self) -> FloatArray:
        index = self._unvalued.nonzero()[0]
        if len(index) > FEW_CHANGED:
            at = self._nodes[index]
            self._worth[index] = self._loss_milli(at) + self._price_milli[index]
            self._free[index] = free_of(self._snapshot, at)
            self._unvalued[index] = False
        else:
            for i in index.tolist():
                node = int(self._nodes[i])
                self._worth[i] = next(self._packing.losses_milli(self._view, node)) + self._price_milli[i]
                self._free[i] = free_of_one(self._snapshot, node)
                self._unvalued[i] = False
        return self._worth

    def _loss_milli(self, at: IntArray) -> FloatArray:
        """Packing value that a replica destroys; nodes of one group that are asleep are all alike."""
        alike = self._snapshot.empty_node[at].nonzero()[0]
        if len(alike) < 2:
            return self._packing.loss_milli(self._view, at)
        group = self._snapshot.topology.node_group[at[alike]]
        is_first = np.ones(len(alike), bool)
        np.not_equal(group[1:], group[:-1], out=is_first[1:])
        on = (~self._snapshot.empty_node[at]).nonzero()[0]
        loss = self._packing.loss_milli(self._view, at[np.concatenate([on, alike[is_first]])])
        out = np.empty(len(at))
        out[on] = loss[: len(on)]
        out[alike] = loss[len(on) :][np.cumsum(is_first) - 1]
        return out
