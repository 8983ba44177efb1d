"""Swaps inside a group that make room for quotas which packing left out.

A full group often has room in sum and on no single node: CPU on one, devices on another. Two replicas on two nodes that
ask for the same devices change places (or one without devices moves), so that host resources wander from a node
with some to spare to one that lacks them; devices, groups, power and everything else stay as they are. Then what waited
is placed. Gangs are not touched.

All swaps of two shapes and all partners of a node are looked at in one array step; one swap is made at a time, the
one that moves the least of a node per replica placed.
"""

from __future__ import annotations

import numpy as np

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.bulk_fill import Filling
from solvers.problem import GPU_MILLI

WORTH_NODES = 0.05
"""Of a node: less than this is left alone."""
MOST_SWAPS = 150
"""For one shape in one group: about half a millisecond each."""
LEAST_SHARE = 1e-6
NODES_TRIED = 20
"""Nodes that lack least, for one swap."""


def swap_for_quotas(filling: Filling, v: IntArray, missing: IntArray) -> None:
    """Places missing[n] replicas of candidates v[n], each in another group, as far as swaps make room."""
    s = filling.sets
    # work spread over nodes moves where no node can ever hold more of it than it may
    movable = (filling.gang == 1)[s.pair_class]
    movable &= filling.node_most[s.pair_class] >= np.floor(1.0 / np.maximum(s.dominant, LEAST_SHARE))
    worth = movable[v] & (missing > 0) & (missing * s.dominant[v] >= WORTH_NODES)
    for pair, count in zip(v[worth].tolist(), missing[worth].tolist(), strict=True):
        _Group(filling, int(s.pair_group[pair]), movable).make_room(pair, count)


class _Group:
    """The shapes of single replicas on the occupied nodes of one group, and the swaps of two of them."""

    def __init__(self, filling: Filling, group: int, movable: BoolArray) -> None:
        self.filling = filling
        fleet, need = filling.fleet, filling.need
        first = int(fleet.first[group])
        nodes = np.arange(first, first + int(fleet.count[group]))
        self.nodes = nodes[filling.occupied[nodes]]
        at = np.full(len(nodes), -1)
        at[self.nodes - first] = np.arange(len(self.nodes))
        booked = filling.all_booked()
        inside = (booked.node >= first) & (booked.node < first + len(nodes))
        self.rows = np.flatnonzero(inside & movable[booked.pair])
        self.place = at[booked.node[self.rows] - first]
        shapes, of_row = np.unique(need[booked.pair[self.rows]], axis=0, return_inverse=True)
        self.shape: IntArray = of_row.ravel()
        self.nothing = len(shapes)
        shapes = np.vstack([shapes, np.zeros((1, need.shape[1]), dtype=np.int64)])
        self.count = np.zeros((len(self.nodes), len(shapes)), dtype=np.int64)
        np.add.at(self.count, (self.place, self.shape), 1)
        self.count[:, self.nothing] = 1
        gives, takes = np.nonzero(
            (shapes[:, None, GPU_MILLI] == shapes[None, :, GPU_MILLI])
            & (shapes[:, None] > shapes[None]).any(axis=2)
        )
        real = gives != self.nothing
        self.gives, self.takes = gives[real], takes[real]
        self.freed = shapes[self.gives] - shapes[self.takes]
        self.capacity = np.maximum(fleet.capacity[group], 1)
        self.moved_share: FloatArray = (np.maximum(self.freed, 0) / self.capacity).sum(axis=1)

    def make_room(self, v: int, wanted: int) -> None:
        """Places up to `wanted` replicas of candidate v, with at most `MOST_SWAPS` swaps."""
        filling = self.filling
        c = int(filling.sets.pair_class[v])
        need = filling.need[v]
        on_devices = np.zeros((len(self.nodes), len(need)), dtype=np.int64)
        on_devices[:, GPU_MILLI] = need[GPU_MILLI]
        goal = filling.placed[v] + wanted
        for _ in range(MOST_SWAPS if len(self.rows) else 0):
            left = int(min(goal - filling.placed[v], filling.rest[c]))
            if left <= 0:
                break
            by_devices = np.minimum(filling.fleet.fit(self.nodes, on_devices), left)
            swap = self._best_swap(need, by_devices)
            if swap is None:
                break
            node, partner, which = swap
            self._swap(node, partner, which)
            here, before = self.nodes[node : node + 1], filling.placed[v]
            fit = np.minimum(filling.fleet.fit(here, need[None]), left)
            filling.place_on(c, v, here, fit)
            if filling.placed[v] == before:
                break  # a floor, link or power limit is in the way

    def _best_swap(self, need: IntArray, by_devices: IntArray) -> tuple[int, int, int] | None:
        """(node, partner, swap) that moves the least of a node for each replica that then fits."""
        free = self.filling.fleet.free[self.nodes]
        host = need.copy()
        host[GPU_MILLI] = 0
        lack = np.maximum(host - free, 0)
        lacking = np.flatnonzero((by_devices > 0) & lack.any(axis=1))
        order = np.argsort((lack[lacking] / self.capacity).sum(axis=1), kind="stable")
        for node in lacking[order[:NODES_TRIED]].tolist():
            room = free[node] + self.freed
            which = np.flatnonzero((self.count[node, self.gives] > 0) & (room >= host).all(axis=1))
            if not len(which):
                continue
            freed = self.freed[which]
            able = (self.count[:, self.takes[which]] > 0) & (free[:, None] >= freed[None]).all(axis=2)
            able[node] = False
            if not able.any():
                continue
            asks = host > 0
            fits = np.minimum((room[which][:, asks] // host[asks]).min(axis=1), by_devices[node])
            price = np.where(able, (self.moved_share[which] / fits)[None], np.inf)
            partner, best = np.unravel_index(int(np.argmin(price)), price.shape)
            return node, int(partner), int(which[best])
        return None

    def _swap(self, node: int, partner: int, which: int) -> None:
        """A replica of one shape leaves a node for its partner; one of the other shape, if any, comes back."""
        gives, takes = int(self.gives[which]), int(self.takes[which])
        out = int(np.flatnonzero((self.place == node) & (self.shape == gives))[0])
        back = -1
        if takes != self.nothing:
            back = int(np.flatnonzero((self.place == partner) & (self.shape == takes))[0])
        self.filling.exchange(
            int(self.rows[out]), int(self.nodes[partner]), int(self.rows[back]) if back >= 0 else None
        )
        self.place[out] = partner
        self.count[node, gives] -= 1
        self.count[partner, gives] += 1
        if back >= 0:
            self.place[back] = node
            self.count[partner, takes] -= 1
            self.count[node, takes] += 1
