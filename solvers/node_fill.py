"""Many identical replicas onto many nodes at once: whole groups in one numpy step, exact down to the device.

`FleetState` holds what every node of a fleet has free. Three questions, all vectorised over rows (node, need):

- `fit`      how many replicas of a need each node can still take
- `spread`   how to divide a count over nodes so that they end evenly filled; `first_fit` in node order; `by_island`
             whole gangs inside islands
- `commit`   book them: devices are chosen, and every replica becomes a row of `Booked`

A need below one device is a share of one device; above it, whole devices. Shares go to the first device with room:
together with descending sizes that is first fit decreasing on devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.problem import GPU_MILLI, MILLI_PER_GPU, PlacementProblem

NO_DEVICE = -1
PLENTY = 10**9
LEVEL_STEPS = 24
"""Halvings of a fill level: leaves 1/16 000 000 of the range, below which ties are broken by node order."""
LOOSE = 0.8
"""A resource of which work asks for less than this share of what is free needs no balance."""
HOST = (0, 1, 3)
"""Resources of the node itself, in the order of `RESOURCES`: CPU, memory, storage."""


@dataclass(frozen=True, eq=False)
class Booked:
    """Replicas on nodes: rows (candidate pair, node of the fleet, bit mask of devices, gang)."""

    pair: IntArray
    node: IntArray
    device_mask: IntArray
    gang: IntArray
    """Number of the gang within its class, 0 for others."""

    @classmethod
    def none(cls) -> Self:
        """No rows."""
        return cls(*(np.zeros(0, dtype=np.int64) for _ in range(4)))

    @classmethod
    def joined(cls, parts: Sequence[Booked]) -> Booked:
        """One after the other."""
        if not parts:
            return Booked.none()
        return Booked(
            *(np.concatenate([getattr(b, n) for b in parts]) for n in ("pair", "node", "device_mask", "gang"))
        )

    def __getitem__(self, rows: IntArray | BoolArray) -> Booked:
        return Booked(self.pair[rows], self.node[rows], self.device_mask[rows], self.gang[rows])

    def __len__(self) -> int:
        return len(self.pair)


@dataclass(eq=False)
class FleetState:
    """Free resources of the N nodes of a problem's slot, group after group."""

    group: IntArray
    """[N]"""
    index: IntArray
    """[N] number of the node within its group."""
    first: IntArray
    """[G] position of the group's first node."""
    count: IntArray
    """[G]"""
    island: IntArray
    """[N] fabric island, numbered over the whole fleet and ascending."""
    capacity: IntArray
    """[G, R]"""
    free: IntArray
    """[N, R]; the GPU column is the sum over devices."""
    device: IntArray
    """[N, W] free milli of each device, −1 where none is."""

    @classmethod
    def empty(cls, problem: PlacementProblem, slot: int = 0) -> Self:
        """All nodes usable in the slot, nothing on them."""
        groups = problem.groups
        count = groups.node_count[:, slot]
        first = np.cumsum(count) - count
        group = np.repeat(np.arange(len(count)), count)
        index = np.arange(len(group)) - first[group]
        size = groups.island_node_count[group]
        local = np.where(size > 0, index // np.maximum(size, 1), 0)
        starts = np.ones(len(group), dtype=bool)
        starts[1:] = (group[1:] != group[:-1]) | (local[1:] != local[:-1])
        devices = groups.capacity[group, GPU_MILLI] // MILLI_PER_GPU
        width = max(1, int(groups.capacity[:, GPU_MILLI].max(initial=0)) // MILLI_PER_GPU)
        device = np.where(np.arange(width) < devices[:, None], MILLI_PER_GPU, NO_DEVICE)
        return cls(
            group=group, index=index, first=first, count=np.array(count), island=np.cumsum(starts) - 1,
            capacity=groups.capacity, free=groups.capacity[group].copy(), device=device,
        )  # fmt: skip

    @property
    def node_count(self) -> int:
        """N."""
        return len(self.group)

    def copy(self) -> FleetState:
        """Another state with the same fleet."""
        return FleetState(
            self.group,
            self.index,
            self.first,
            self.count,
            self.island,
            self.capacity,
            self.free.copy(),
            self.device.copy(),
        )

    def nodes_of(self, groups: IntArray, most: IntArray | None = None) -> tuple[IntArray, IntArray]:
        """(row, node): the nodes of groups[row], at most most[row] of each, rows ascending."""
        count = self.count[groups] if most is None else np.minimum(self.count[groups], most)
        row = np.repeat(np.arange(len(groups)), count)
        offset = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        return row, self.first[groups][row] + offset

    # -- fit -----------------------------------------------------------------------------------------------------

    def fit(self, nodes: IntArray, need: IntArray) -> IntArray:
        """[n] replicas of need[n, R] that each node still takes (a node named twice counts for each row alone)."""
        free = self.free[nodes]
        out = np.full(len(nodes), PLENTY)
        for r in HOST:
            asked = need[:, r]
            np.minimum(out, np.where(asked > 0, free[:, r] // np.maximum(asked, 1), PLENTY), out=out)
        gpu = need[:, GPU_MILLI]
        whole = np.flatnonzero(gpu >= MILLI_PER_GPU)
        if len(whole):
            idle = (self.device[nodes[whole]] == MILLI_PER_GPU).sum(axis=1)
            out[whole] = np.minimum(out[whole], idle // (gpu[whole] // MILLI_PER_GPU))
        shared = np.flatnonzero((gpu > 0) & (gpu < MILLI_PER_GPU))
        if len(shared):
            each = np.maximum(self.device[nodes[shared]], 0) // gpu[shared, None]
            out[shared] = np.minimum(out[shared], each.sum(axis=1))
        return out

    def load(self, nodes: IntArray, need: IntArray) -> tuple[FloatArray, FloatArray]:
        """([n] how full each node is in what the need asks for, [n] how much one replica adds to that), 0..1.

        Used shares weighted by the need's own shares, the dot product of vector bin packing (Panigrahy et al. 2011): a
        CPU-heavy replica looks for CPU, whatever memory is left.
        """
        capacity = np.maximum(self.capacity[self.group[nodes]], 1)
        share = need / capacity
        total = np.maximum(share.sum(axis=1), 1e-12)
        used = 1.0 - self.free[nodes] / capacity
        return (share * used).sum(axis=1) / total, (share * share).sum(axis=1) / total

    def imbalance(
        self, row: IntArray, nodes: IntArray, need: IntArray, usable: BoolArray, ahead: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """([n] what one replica of need[n, R] adds to its node's imbalance, [n] how much the next one adds to that).

        Where work asks for all of several resources, a node with much CPU and no devices left is as good as lost. So
        what is free on every node should point where the work ahead points. Let d be the direction of ahead[row, R]
        (nodes' worth of each resource, less what nodes that are not usable can give), f what is free on a node, s the
        replica, each as shares of a node and weighted by how scarce the resource is: 0 where `LOOSE` of it is asked
        for, 1 where all of it. With f⊥, s⊥ across d the imbalance is ½|f⊥|², a replica changes it by −f⊥·s⊥, and the
        next one by |s⊥|² more.
        """
        capacity = np.maximum(self.capacity[self.group[nodes]], 1)
        free, share = self.free[nodes] / capacity, need / capacity
        usable_room, other_room = np.zeros(ahead.shape), np.zeros(ahead.shape)
        np.add.at(usable_room, row[usable], free[usable])
        np.add.at(other_room, row[~usable], free[~usable])
        asked = np.maximum(ahead - other_room, 0.0)
        asked_frac = np.divide(asked, usable_room, out=np.zeros(asked.shape), where=usable_room > 0)
        scarce = np.clip((asked_frac - LOOSE) / (1 - LOOSE), 0.0, 1.0)
        length = np.linalg.norm(asked * scarce, axis=1, keepdims=True)
        d = np.divide(asked * scarce, length, out=np.zeros(asked.shape), where=length > 0)[row]
        free, share = free * scarce[row], share * scarce[row]
        free_across = free - (free * d).sum(axis=1, keepdims=True) * d
        share_across = share - (share * d).sum(axis=1, keepdims=True) * d
        return -(free_across * share_across).sum(axis=1), (share_across * share_across).sum(axis=1)

    # -- commit --------------------------------------------------------------------------------------------------

    def commit(self, nodes: IntArray, need: IntArray, take: IntArray, pair: IntArray) -> Booked:
        """Book take[n] replicas of need[n, R] on nodes[n] (distinct); rows in node order. Callers keep take ≤ fit."""
        kept = take > 0
        nodes, need, take, pair = nodes[kept], need[kept], take[kept], pair[kept]
        self.free[nodes] -= take[:, None] * need
        gpu = need[:, GPU_MILLI]
        rows, masks = [], []
        plain = np.flatnonzero(gpu == 0)
        if len(plain):
            rows.append(np.repeat(plain, take[plain]))
            masks.append(np.zeros(int(take[plain].sum()), dtype=np.int64))
        shared = np.flatnonzero((gpu > 0) & (gpu < MILLI_PER_GPU))
        if len(shared):
            row, mask = self._take_shares(nodes[shared], gpu[shared], take[shared])
            rows.append(shared[row])
            masks.append(mask)
        per_replica = gpu // MILLI_PER_GPU
        for n in np.unique(per_replica[gpu >= MILLI_PER_GPU]).tolist():
            whole = np.flatnonzero((per_replica == n) & (gpu >= MILLI_PER_GPU))
            row, mask = self._take_devices(nodes[whole], n, take[whole])
            rows.append(whole[row])
            masks.append(mask)
        if not rows:
            return Booked.none()
        row, mask = np.concatenate(rows), np.concatenate(masks)
        order = np.argsort(row, kind="stable")
        row = row[order]
        return Booked(pair[row], nodes[row], mask[order], np.zeros(len(row), dtype=np.int64))

    def _take_shares(self, nodes: IntArray, milli: IntArray, take: IntArray) -> tuple[IntArray, IntArray]:
        device = self.device[nodes]
        room = np.maximum(device, 0) // milli[:, None]
        fullest = np.argsort(device, axis=1, kind="stable")
        room_by = np.take_along_axis(room, fullest, axis=1)
        before = np.cumsum(room_by, axis=1) - room_by
        here = np.zeros_like(room)
        np.put_along_axis(here, fullest, np.clip(take[:, None] - before, 0, room_by), axis=1)
        self.device[nodes] = device - here * milli[:, None]
        at = np.repeat(np.arange(here.size), here.ravel())
        return at // here.shape[1], np.int64(1) << (at % here.shape[1])

    def _take_devices(self, nodes: IntArray, each: int, take: IntArray) -> tuple[IntArray, IntArray]:
        device = self.device[nodes]
        idle = device == MILLI_PER_GPU
        used = idle & (np.cumsum(idle, axis=1) <= (take * each)[:, None])
        self.device[nodes] = np.where(used, 0, device)
        row, slot = np.nonzero(used)
        return row.reshape(-1, each)[:, 0], (np.int64(1) << slot).reshape(-1, each).sum(axis=1)

    def commit_bundles(
        self, nodes: IntArray, need: IntArray, milli: IntArray, take: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Book take[n] bundles of shares on nodes[n] (distinct): need[n, R] is taken from the node, milli[n] of one
        idle device each. Returns (row n, bit mask of the device) of every bundle. Callers keep take ≤ fit of a device.
        """
        self.free[nodes] -= take[:, None] * need
        device = self.device[nodes]
        idle = device == MILLI_PER_GPU
        used = idle & (np.cumsum(idle, axis=1) <= take[:, None])
        self.device[nodes] = np.where(used, MILLI_PER_GPU - milli[:, None], device)
        row, slot = np.nonzero(used)
        return row, np.int64(1) << slot

    def take(self, booked: Booked, need: IntArray) -> None:
        """Book rows that are known to fit; need[n, R] of each row."""
        np.add.at(self.free, booked.node, -need)
        per_device = np.minimum(need[:, GPU_MILLI], MILLI_PER_GPU)
        for slot in range(self.device.shape[1]):
            uses = (booked.device_mask >> slot) & 1 == 1
            np.add.at(self.device[:, slot], booked.node[uses], -per_device[uses])

    def give_back(self, booked: Booked, need: IntArray) -> None:
        """Undo rows of `commit`; need[n, R] of each row."""
        np.add.at(self.free, booked.node, need)
        gpu = need[:, GPU_MILLI]
        per_device = np.minimum(gpu, MILLI_PER_GPU)
        for slot in range(self.device.shape[1]):
            uses = (booked.device_mask >> slot) & 1 == 1
            np.add.at(self.device[:, slot], booked.node[uses], per_device[uses])


# -- dividing a count over nodes -----------------------------------------------------------------------------------


def first_fit(row: IntArray, fit: IntArray, wanted: IntArray) -> IntArray:
    """[n] takes in node order: of the nodes of each row, as much as fits until wanted[row] is reached."""
    fit = np.minimum(fit, wanted[row])
    running = np.cumsum(fit) - fit
    starts = np.searchsorted(row, np.arange(len(wanted)))
    at_start = (
        np.append(running, 0)[np.minimum(starts, max(len(row) - 1, 0))] if len(row) else np.zeros(len(wanted))
    )
    before = running - at_start[row]
    return np.asarray(np.clip(wanted[row] - before, 0, fit), dtype=np.int64)


def spread(row: IntArray, fit: IntArray, wanted: IntArray, load: FloatArray, step: FloatArray) -> IntArray:
    """[n] takes that leave the nodes of each row evenly loaded: emptiest first, one replica adds step[n] to a load.

    Finds the level λ per row with Σ min(fit, ⌊(λ − load)/step⌋) = wanted by halving; what rounding leaves goes to the
    first nodes at the level.
    """
    rows = len(wanted)
    fit = np.minimum(fit, wanted[row])
    step = np.maximum(step, 1e-9)
    low = np.full(rows, float(load.min(initial=0.0)) - 1e-6)
    high = np.full(rows, float((load + fit * step).max(initial=0.0)) + 1e-6)

    def takes(level: FloatArray) -> IntArray:
        raw = np.floor((level[row] - load) / step + 1e-9)
        return np.clip(raw, 0, fit).astype(np.int64)

    for _ in range(LEVEL_STEPS):
        middle = (low + high) / 2
        enough = np.bincount(row, weights=takes(middle), minlength=rows) >= wanted
        high = np.where(enough, middle, high)
        low = np.where(enough, low, middle)
    sure, most = takes(low), takes(high)
    left = wanted - np.bincount(row, weights=sure, minlength=rows).astype(np.int64)
    return sure + first_fit(row, most - sure, np.maximum(left, 0))


def whole_gangs(row: IntArray, take: IntArray, gang: IntArray) -> IntArray:
    """Takes cut so that every row's sum is a multiple of gang[row]; the last nodes give way."""
    total = np.bincount(row, weights=take, minlength=len(gang)).astype(np.int64)
    return first_fit(row, take, total // gang * gang)


def by_island(row: IntArray, island: IntArray, fit: IntArray, wanted: IntArray, gang: IntArray) -> IntArray:
    """[n] takes of whole gangs of gang[row], each inside one island; islands in order."""
    starts = np.ones(len(row), dtype=bool)
    starts[1:] = (row[1:] != row[:-1]) | (island[1:] != island[:-1])
    cell = np.cumsum(starts) - 1
    cell_row = row[starts]
    fit = np.minimum(fit, wanted[row])
    in_cell = np.bincount(cell, weights=fit, minlength=len(cell_row)).astype(np.int64)
    gangs = first_fit(cell_row, in_cell // gang[cell_row], wanted // gang)
    return first_fit(cell, fit, gangs * gang[cell_row])
