"""From a relaxation to replicas on nodes: quotas in whole replicas, all groups filled at once, the rest by prices.

`Filling` keeps what every later decision needs exactly: free devices and resources of nodes, power of sites, room on
links, floors and spread. Nothing is booked that would break one of them.

Gangs lie in one group (one island where the class says so), which is stricter than `single_site` asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.bulk_model import OVER_BUDGET_YUAN, BulkSets
from solvers.bulk_relax import Relaxation
from solvers.bulk_rows import BookedRows
from solvers.device_bundles import by_group, device_bundles
from solvers.node_fill import PLENTY, Booked, FleetState, by_island, first_fit, spread, whole_gangs
from solvers.problem import GPU_MILLI, MILLI_PER_GPU, W_PER_KW

WHOLE = 1e-6
"""Counts this close to a whole number are one; rooms this far below zero are rounding."""
ROOM_PASSES = 4
"""Times that what made way for others may find room in turn."""
ROOM_TRIALS = 6
"""Places tried per class that found no room."""
PADDING_ROUNDS = 3
TIGHT = 0.97
WORTH_LEARNING_NODES = 0.3
PINCHED_FRAC = 0.25
SLIGHT_NODES = 0.05
"""Rounding quotas to whole replicas alone asks for this part of a node; it does not open one."""
BALANCE = 1000.0
"""What a node's imbalance between resources weighs against its fill, where groups are full (`FleetState.imbalance`).
Measured on 40 fleets: 0.05 to 0.25 % of the cost against 0; 30 to 5 000 are alike."""
WITH_DEVICES = 2
"""Gangs in islands come first, then other gangs, then what asks for devices, then the rest (`_size_keys`)."""
FEW_PAIRS = 4
LOAD_MARGIN = 0.001
"""Share above the least load of a hard hourly cap that work is brought for: what rounding takes back."""
LOAD_TRIALS = 4
"""Times work is brought to a site: some of it finds less room there than it seemed."""


def whole_quotas(sets: BulkSets, x: FloatArray) -> IntArray:
    """[V] whole replicas, whole gangs: rounded down, then up by largest remainder until each class's sum is served."""
    gang = sets.problem.classes.gang_size[sets.pair_class]
    classes = len(sets.demand)
    base = np.floor(x / gang + WHOLE)
    served = np.bincount(sets.pair_class, weights=x, minlength=classes)
    gang_of = sets.problem.classes.gang_size
    goal = np.floor(np.minimum(served, sets.demand) / gang_of + WHOLE)
    left = goal - np.bincount(sets.pair_class, weights=base, minlength=classes)
    remainder = np.where(x > WHOLE, x / gang - base, -1.0)
    order = np.lexsort((-remainder, sets.pair_class))
    of_class = sets.pair_class[order]
    place = np.arange(len(order)) - np.searchsorted(of_class, of_class)
    up = np.zeros(len(x))
    up[order] = (place < left[of_class]) & (remainder[order] > 0)
    return np.asarray((base + up) * gang, dtype=np.int64)


Mend = Callable[["Filling", IntArray, IntArray], None]
"""Makes room for so many replicas of candidates that found none on the planned nodes."""


@dataclass(frozen=True, eq=False)
class _Shapes:
    """What quotas place: single replicas of a candidate, or bundles of shares (`device_bundles`)."""

    group: IntArray
    need: IntArray
    """[n, R]; of a bundle what its shares need."""
    share: FloatArray
    """[n, R] nodes; of a bundle with the whole of its device."""
    count: IntArray
    pair: IntArray
    """-1 - b: bundle b of `members`."""
    keys: tuple[IntArray | FloatArray, ...]
    """By which the shapes of a group are sorted, last first."""
    members: list[tuple[IntArray, IntArray]]
    """Of each bundle: candidates, and how many of each."""

    def with_bundles(
        self, group: IntArray, need: IntArray, share: FloatArray, count: IntArray,
        members: list[tuple[IntArray, IntArray]],
    ) -> _Shapes:  # fmt: skip
        """Bundles beside single replicas; to nodes they are single replicas that ask for one device."""
        share[:, GPU_MILLI] *= MILLI_PER_GPU / need[:, GPU_MILLI]
        one = np.ones(len(group), dtype=np.int64)
        keys = (-share.max(axis=1), -MILLI_PER_GPU * one, 0 * one, WITH_DEVICES * one)
        return _Shapes(
            np.append(self.group, group),
            np.vstack([self.need, need]),
            np.vstack([self.share, share]),
            np.append(self.count, count),
            np.append(self.pair, -1 - np.arange(len(group))),
            tuple(np.append(single, bundle) for single, bundle in zip(self.keys, keys, strict=True)),
            members,
        )

    def in_order(self) -> _Shapes:
        """By group, and in each group in the order of placing."""
        order = np.lexsort((*self.keys, self.group))
        return _Shapes(
            self.group[order], self.need[order], self.share[order], self.count[order], self.pair[order],
            tuple(key[order] for key in self.keys), self.members,
        )  # fmt: skip

    def steps(self) -> Iterator[IntArray]:
        """The j-th shape of every group, for j = 0, 1, …"""
        rank = np.arange(len(self.group)) - np.searchsorted(self.group, self.group)
        for step in range(int(rank.max(initial=-1)) + 1):
            yield np.flatnonzero(rank == step)


class Filling:
    """Replicas being placed on a fleet; `rest[c]` is what is still to be placed."""

    def __init__(self, relaxation: Relaxation, fleet: FleetState) -> None:
        self.sets = sets = relaxation.sets
        self.relaxation = relaxation
        self.fleet = fleet
        p = sets.problem
        self.need: IntArray = p.pairs.need[sets.pair]
        self.gang: IntArray = p.classes.gang_size
        self.in_island: BoolArray = p.classes.single_island
        self.rest = np.floor(sets.demand + WHOLE).astype(np.int64)
        self.side, self.side_room = relaxation.side, relaxation.side_upper.copy()
        self.site_on = relaxation.site_on
        self.limit_kw = np.where(self.site_on, sets.power_limit_kw, 0.0)
        self.work_kw = np.zeros(p.site_count)
        self.placed = np.zeros(len(sets.pair))
        self.occupied: BoolArray = np.zeros(fleet.node_count, dtype=bool)
        self.nodes_on = np.zeros(p.group_count, dtype=np.int64)
        self.unit_yuan, self.kw_yuan = relaxation.unit_yuan, relaxation.kw_yuan
        self.room_yuan = relaxation.room_yuan
        self.running = p.pairs.running_count[sets.pair]
        self.move_yuan = p.classes.migration_yuan[sets.pair_class]
        if p.terms.move_budget_count is not None:
            self.move_yuan = np.maximum(self.move_yuan, OVER_BUDGET_YUAN)
        self.class_start = np.searchsorted(sets.pair_class, np.arange(p.class_count + 1))
        # a gang is a workload of its own, everything else of a class is one
        members = np.where(self.gang > 1, self.gang, sets.demand)
        least = p.classes.spread_node_min
        self.node_most = np.where(least > 1, np.maximum(np.floor(members / np.maximum(least, 1)), 1), np.inf)
        # a gang lies in one group, so one that must lie on several sites finds no place here
        self.rest[(self.gang > 1) & (p.classes.spread_site_min > 1)] = 0
        self._rows = BookedRows()
        self._rows_on: IntArray = np.zeros(fleet.node_count, dtype=np.int64)
        self._is_ganged: BoolArray = self.gang[sets.pair_class] > 1
        self._next_gang = np.zeros(p.class_count, dtype=np.int64)

    # -- accounts --------------------------------------------------------------------------------------------------

    @property
    def power_kw(self) -> FloatArray:
        """[S] IT power of occupied nodes and their work."""
        p = self.sets.problem
        idle = np.bincount(p.groups.site, weights=p.groups.idle_w * self.nodes_on, minlength=p.site_count)
        return np.asarray(idle / W_PER_KW + self.work_kw)

    @property
    def gang_pairs(self) -> IntArray:
        """Candidates of classes in gangs."""
        return np.flatnonzero(self.gang[self.sets.pair_class] > 1)

    def _replica_yuan(self, v: IntArray) -> FloatArray:
        """Price of one more replica on candidates; a running one that stays saves its move."""
        stays = self.placed[v] < self.running[v]
        return np.asarray(self.unit_yuan[v] - np.where(stays, self.move_yuan[v], 0.0))

    def all_booked(self) -> Booked:
        """Everything placed, as one table that is valid until something is booked or removed."""
        return self._rows.view()

    def adopt(self, booked: Booked) -> None:
        """Rows that are on the fleet's nodes already: keep their accounts."""
        self._rows = BookedRows(booked)
        self._rows_on = np.bincount(booked.node, minlength=self.fleet.node_count)
        self._account(booked.pair, np.ones(len(booked), dtype=np.int64))
        self.occupied[booked.node] = True
        self.nodes_on = np.bincount(self.fleet.group[self.occupied], minlength=len(self.nodes_on))
        np.maximum.at(self._next_gang, self.sets.pair_class[booked.pair], booked.gang + 1)

    def book(self, nodes: IntArray, pair: IntArray, take: IntArray) -> None:
        """Commit take[n] replicas of candidate pair[n] on nodes[n] and keep the accounts."""
        booked = self.fleet.commit(nodes, self.need[pair], take, pair)
        booked = self._with_gangs(booked)
        self._rows.add(booked)
        kept = take > 0
        self._rows_on[nodes[kept]] += take[kept]
        self._account(pair[kept], take[kept])
        fresh = nodes[kept][~self.occupied[nodes[kept]]]
        self.occupied[fresh] = True
        np.add.at(self.nodes_on, self.fleet.group[fresh], 1)

    def _account(self, pair: IntArray, count: IntArray) -> None:
        """Count replicas (negative: taken away) of pairs in demand, power and side rows."""
        per_pair = np.bincount(pair, weights=count, minlength=len(self.sets.pair))
        used = np.flatnonzero(per_pair)
        amount = per_pair[used]
        self.placed[used] += amount
        np.add.at(self.rest, self.sets.pair_class[used], -np.rint(amount).astype(np.int64))
        np.add.at(self.work_kw, self.sets.pair_site[used], self.sets.dynamic_kw[used] * amount)
        if len(used) > FEW_PAIRS:
            self.side_room -= np.asarray(self.side[used].T @ amount)
            return
        for v, replicas in zip(
            used.tolist(), amount.tolist(), strict=True
        ):  # slicing a matrix costs more than this
            at = slice(self.side.indptr[v], self.side.indptr[v + 1])
            self.side_room[self.side.indices[at]] -= self.side.data[at] * replicas

    def _with_gangs(self, booked: Booked) -> Booked:
        """Number the gangs: rows of a gang's pair come in whole gangs, node after node."""
        of_class = self.sets.pair_class[booked.pair]
        in_gang = np.flatnonzero(self.gang[of_class] > 1)
        if not len(in_gang):
            return booked
        order = in_gang[np.lexsort((booked.pair[in_gang], of_class[in_gang]))]
        c = of_class[order]
        place = np.arange(len(order)) - np.searchsorted(c, c)
        gang = booked.gang.copy()
        gang[order] = self._next_gang[c] + place // self.gang[c]
        np.maximum.at(self._next_gang, c, gang[order] + 1)
        return Booked(booked.pair, booked.node, booked.device_mask, gang)

    def remove(self, rows: BoolArray) -> None:
        """Take booked rows off their nodes; they wait in `rest` again."""
        gone = self._rows.take_out(rows)
        if not len(gone):
            return
        self.fleet.give_back(gone, self.need[gone.pair])
        self._account(gone.pair, np.full(len(gone), -1))
        touched, count = np.unique(gone.node, return_counts=True)
        self._rows_on[touched] -= count
        empty = touched[self._rows_on[touched] == 0]
        self.occupied[empty] = False
        np.add.at(self.nodes_on, self.fleet.group[empty], -1)

    def exchange(self, row: int, node: int, other: int | None) -> None:
        """A booked row goes to another node of its group, where `other` lies, which comes back and asks for the same
        devices; None: the row asks for none, and nothing comes back.
        """
        booked = self.all_booked()
        here = int(booked.node[row])
        freed = self.need[booked.pair[row]].copy()
        if other is not None:
            freed -= self.need[booked.pair[other]]
            booked.node[other] = here
            masks = booked.device_mask
            masks[row], masks[other] = masks[other], masks[row]
        else:
            self._rows_on[[here, node]] += (-1, 1)
            if self._rows_on[here] == 0:
                self.occupied[here] = False
                self.nodes_on[self.fleet.group[here]] -= 1
        booked.node[row] = node
        self.fleet.free[here] += freed
        self.fleet.free[node] -= freed

    # -- quotas ----------------------------------------------------------------------------------------------------

    def place_quotas(
        self, quota: IntArray, nodes: FloatArray | None = None, mend: Mend | None = None
    ) -> None:
        """Quotas onto nodes, at most nodes[G] of each group if given: in every group the largest shape first, the j-th
        of all groups in one step; `mend` sees what a step left out.
        """
        quota = self._within_side_rows(np.minimum(quota, self.rest[self.sets.pair_class]))
        used = np.flatnonzero(quota)
        shapes = self._shapes(used, quota[used])
        most = self._planned_nodes(used, quota[used], nodes)
        ahead = np.zeros((len(self.nodes_on), self.need.shape[1]))
        np.add.at(ahead, shapes.group, shapes.share * shapes.count[:, None])
        for now in shapes.steps():
            single = shapes.pair[now] >= 0
            self._place_bundles(shapes, now[~single], most, ahead)
            at = now[single]
            v = shapes.pair[at]
            before = self.placed[v]
            wanted = quota[v] - np.rint(before).astype(np.int64)
            self._place_step(v, wanted, most, ahead)
            if mend is not None:
                mend(self, v, wanted - np.rint(self.placed[v] - before).astype(np.int64))
            ahead[shapes.group[now]] -= shapes.share[now] * shapes.count[now, None]
        self._shed_power()
        self.note_packing()

    def note_packing(self) -> None:
        """Remember what packing alone achieved: work that makes way for others later says nothing about its group."""
        self._packed, self._packed_nodes = self.placed.copy(), self.nodes_on.copy()

    def unused_nodes(self, quota: IntArray, *, is_late: bool) -> tuple[FloatArray, FloatArray]:
        """Nodes on less those that what is placed needs, [G, R + F] by resource and sharp row: in groups where quotas
        did not fit, and rows that the quotas would have filled; and of these rows, the nodes that work from there asks
        for which found no place anywhere, `is_late`: after all yields were learned. Gangs are left out: they fail by
        their size.
        """
        s, groups = self.sets, len(self.nodes_on)
        table = np.concatenate([s.share, s.sharp], axis=1)
        missing = np.where(self.gang[s.pair_class] > 1, 0, np.maximum(quota - self._packed, 0))
        lost = np.bincount(s.pair_group, weights=s.dominant * missing, minlength=groups)
        asked, filled = np.zeros((groups, table.shape[1])), np.zeros((groups, table.shape[1]))
        used = np.flatnonzero((quota > 0) | (self._packed > 0))
        np.add.at(asked, s.pair_group[used], table[used] * quota[used, None])
        np.add.at(filled, s.pair_group[used], table[used] * self._packed[used, None])
        tight = asked >= TIGHT * np.maximum(asked.max(axis=1, keepdims=True), WHOLE)
        tight &= (lost > WORTH_LEARNING_NODES)[:, None]
        homeless = missing * (self.rest > 0)[s.pair_class]
        more = np.bincount(s.pair_group, weights=s.dominant * homeless, minlength=groups)
        if is_late and more.any():  # a fleet so full that what one group loses has nowhere to go
            more = more + PINCHED_FRAC * lost
        unused = np.where(tight, np.maximum(self._packed_nodes[:, None] - filled, 0.0), 0.0)
        return unused, tight * more[:, None]

    def lacking_on_side(self) -> FloatArray:
        """[rows] of floors, spread and links, what waits asks of them, where nodes have room for it.

        What the program itself left out does not wait for them.
        """
        out = np.zeros(len(self.side_room))
        s, relaxation = self.sets, self.relaxation
        rest = self.rest - np.ceil(relaxation.model.values("unserved", relaxation.columns) - WHOLE)
        waits = (rest > 0)[s.pair_class] & self.site_on[s.pair_site]
        most = self._most_free(np.arange(len(self.nodes_on)))[s.pair_group]
        waits &= (most >= self.need).all(axis=1) | (self.nodes_on < self.fleet.count)[s.pair_group]
        for v in np.flatnonzero(waits).tolist():
            at = slice(self.side.indptr[v], self.side.indptr[v + 1])
            r = self.side.indices[at]
            wanted = self.side.data[at] * rest[s.pair_class[v]]
            out[r] = np.maximum(out[r], np.where(self.side_room[r] < self.side.data[at], wanted, 0.0))
        return out

    def _size_keys(self, v: IntArray) -> tuple[IntArray | FloatArray, ...]:
        """Sort keys, last first: gangs in islands, other gangs (largest first), whole devices, shares; then size."""
        c = self.sets.pair_class[v]
        gpu = self.need[v, GPU_MILLI]
        kind = np.where(
            self.gang[c] > 1,
            np.where(self.in_island[c], 0, 1),
            np.where(gpu > 0, WITH_DEVICES, WITH_DEVICES + 1),
        )
        gang_devices = np.where(self.gang[c] > 1, self.gang[c] * gpu, 0)
        return -self.sets.dominant[v], -gpu, -gang_devices, kind

    def _planned_nodes(self, v: IntArray, count: IntArray, nodes: FloatArray | None) -> IntArray:
        """[G] nodes that the quotas fill: the fullest resource or sharp row, but no more than nodes[G]; rounded up."""
        s, groups = self.sets, self.sets.problem.group_count
        table = np.concatenate([s.share[v], s.sharp[v]], axis=1) * count[:, None]
        needed = np.zeros((groups, table.shape[1]))
        np.add.at(needed, s.pair_group[v], table)
        most = needed.max(axis=1)
        if nodes is not None:
            most = np.minimum(most, nodes)
        filled = np.ceil(most - SLIGHT_NODES).astype(np.int64)
        return np.asarray(np.minimum(filled, self.fleet.count))

    def _place_step(self, v: IntArray, wanted: IntArray, most: IntArray, ahead: FloatArray) -> None:
        """One class in each of several groups, on the planned nodes; ahead[G, R]: nodes that it and later ones need."""
        s, fleet = self.sets, self.fleet
        c = s.pair_class[v]
        row, node = fleet.nodes_of(s.pair_group[v], most[s.pair_group[v]])
        need = self.need[v][row]
        fit = np.minimum(fleet.fit(node, need), self.node_most[c][row]).astype(np.int64)
        load, step = fleet.load(node, need)
        skew, skew_step = fleet.imbalance(row, node, need, fit > 0, ahead[s.pair_group[v]])
        per_step = BALANCE / np.maximum(step, 1e-9)
        take = spread(row, fit, wanted, load + per_step * skew, step + per_step * skew_step)
        gangs = self.gang[c] > 1
        if gangs.any():
            whole = whole_gangs(row, first_fit(row, fit, wanted), self.gang[c])
            inside = by_island(row, fleet.island[node], fit, wanted, self.gang[c])
            take = np.where(gangs[row], np.where(self.in_island[c][row], inside, whole), take)
        self.book(node, v[row], take)

    def _shapes(self, v: IntArray, count: IntArray) -> _Shapes:
        """Candidates v with their counts as shapes in the order in which nodes take them: shares in bundles, but for
        work spread over nodes of which a node could hold more than it may.
        """
        s = self.sets
        gpu = self.need[v, GPU_MILLI]
        bundled = (gpu > 0) & (gpu < MILLI_PER_GPU) & (self.gang[s.pair_class[v]] == 1)
        bundled &= self.node_most[s.pair_class[v]] >= np.floor(1.0 / np.maximum(s.dominant[v], 1e-9))
        shares, left = np.flatnonzero(bundled), count.copy()
        members: list[tuple[IntArray, IntArray]] = []
        group, times = [], []
        for g, here in by_group(shares, s.pair_group[v[shares]]):
            for parts, often in device_bundles(gpu[here].tolist(), count[here].tolist()):
                at, n = (np.array(column) for column in zip(*parts, strict=True))
                members.append((v[here[at]], n))
                group.append(g)
                times.append(often)
                left[here[at]] -= n * often
        dominant, milli, gang_devices, kind = self._size_keys(v)
        singles = _Shapes(
            s.pair_group[v], self.need[v], s.share[v], left, v, (dominant, milli, gang_devices, kind), []
        )
        if members:
            singles = singles.with_bundles(
                np.array(group),
                np.array([n @ self.need[m] for m, n in members]),
                np.array([n @ s.share[m] for m, n in members]),
                np.array(times),
                members,
            )
        return singles.in_order()

    def _place_bundles(self, shapes: _Shapes, which: IntArray, most: IntArray, ahead: FloatArray) -> None:
        """One bundle of shares in each of several groups, on idle devices of the planned nodes."""
        if not len(which):
            return
        fleet = self.fleet
        row, node = fleet.nodes_of(shapes.group[which], most[shapes.group[which]])
        exact = shapes.need[which][row]
        need = exact.copy()
        need[:, GPU_MILLI] = MILLI_PER_GPU
        fit = fleet.fit(node, need)
        load, step = fleet.load(node, need)
        skew, skew_step = fleet.imbalance(row, node, need, fit > 0, ahead[shapes.group[which]])
        per_step = BALANCE / np.maximum(step, 1e-9)
        take = spread(row, fit, shapes.count[which], load + per_step * skew, step + per_step * skew_step)
        kept = np.flatnonzero(take)
        of_bundle = (-1 - shapes.pair[which])[row[kept]]
        at, mask = fleet.commit_bundles(node[kept], exact[kept], exact[kept, GPU_MILLI], take[kept])
        of_bundle, at_node = of_bundle[at], node[kept][at]
        parts = []
        for b in np.unique(of_bundle).tolist():
            here = np.flatnonzero(of_bundle == b)
            pairs, n = shapes.members[b]
            each = np.repeat(pairs, n)
            rows = np.repeat(here, len(each))
            parts.append(
                Booked(
                    np.tile(each, len(here)), at_node[rows], mask[rows], np.zeros(len(rows), dtype=np.int64)
                )
            )
        self._add_rows(Booked.joined(parts))

    def _add_rows(self, booked: Booked) -> None:
        """Rows that the fleet holds already, into the accounts."""
        self._rows.add(booked)
        nodes, on = np.unique(booked.node, return_counts=True)
        self._rows_on[nodes] += on
        self._account(booked.pair, np.ones(len(booked), dtype=np.int64))
        fresh = nodes[~self.occupied[nodes]]
        self.occupied[fresh] = True
        np.add.at(self.nodes_on, self.fleet.group[fresh], 1)

    def _within_side_rows(self, quota: IntArray) -> IntArray:
        """Quotas cut until floors, spread and links hold; what is cut waits in `rest`."""
        quota = quota.copy()
        by_row = self.side.tocsc()
        over = np.flatnonzero(self.side.T @ quota > self.side_room + WHOLE)
        for r in over:
            members = by_row.indices[by_row.indptr[r] : by_row.indptr[r + 1]]
            coefficient = by_row.data[by_row.indptr[r] : by_row.indptr[r + 1]]
            for i in np.argsort(-coefficient * quota[members], kind="stable"):
                excess = float(coefficient @ quota[members] - self.side_room[r])
                if excess <= WHOLE:
                    break
                v = members[i]
                gang = int(self.gang[self.sets.pair_class[v]])
                cut = -(-int(np.ceil(excess / coefficient[i] - WHOLE)) // gang) * gang
                quota[v] -= min(cut, int(quota[v]))
        return quota

    def with_whole_gangs(self, rows: BoolArray) -> BoolArray:
        """The booked rows and all other members of their gangs."""
        booked = self.all_booked()
        in_gang = np.flatnonzero(self._is_ganged[booked.pair])
        if not rows[in_gang].any():
            return rows
        key = self.sets.pair_class[booked.pair[in_gang]] * (int(booked.gang.max(initial=0)) + 1)
        key += booked.gang[in_gang]
        out = rows.copy()
        out[in_gang] = np.isin(key, key[rows[in_gang]])
        return out

    def shed(self) -> None:
        """Work above floors, spread, links and power limits leaves, gangs last, and waits in `rest`."""
        for r in np.flatnonzero(self.side_room < -WHOLE):
            if self.side_room[r] >= -WHOLE:
                continue  # what left for another row was enough
            booked = self.all_booked()
            weight = np.asarray(self.side[:, [r]].todense()).ravel()[booked.pair]
            rows = np.flatnonzero(weight > 0)
            rows = rows[np.argsort(self.gang[self.sets.pair_class[booked.pair[rows]]] > 1, kind="stable")]
            enough = int(np.searchsorted(np.cumsum(weight[rows]), -self.side_room[r] - WHOLE)) + 1
            gone = np.zeros(len(booked), dtype=bool)
            gone[rows[:enough]] = True
            self.remove(self.with_whole_gangs(gone))
        self._shed_power()

    def _shed_power(self) -> None:
        """Sites above their power limit give up single replicas, those first whose room is worth least per kW; where
        that is not enough, their emptiest nodes, those with gangs last.
        """
        for s in np.flatnonzero(self.power_kw - self.limit_kw > WHOLE).tolist():
            booked = self.all_booked()
            pair = booked.pair
            rows = np.flatnonzero(
                (self.sets.pair_site[pair] == s) & ~self._is_ganged[pair] & (self.sets.dynamic_kw[pair] > 0)
            )
            kw = self.sets.dynamic_kw[pair[rows]]
            rows = rows[np.argsort(self.room_yuan[pair[rows]] / kw, kind="stable")]
            freed_kw = np.cumsum(self.sets.dynamic_kw[pair[rows]])
            over_kw = float(self.power_kw[s] - self.limit_kw[s])
            gone = np.zeros(len(booked), dtype=bool)
            gone[rows[: int(np.searchsorted(freed_kw, over_kw - WHOLE)) + 1]] = True
            if len(rows) and freed_kw[-1] >= over_kw - WHOLE:
                self.remove(gone)
            else:
                self._shed_nodes(s)

    def _shed_nodes(self, s: int) -> None:
        """The emptiest nodes of a site leave until it is within its power limit, those with gangs last."""
        p = self.sets.problem
        booked = self.all_booked()
        work_kw = np.bincount(
            booked.node, weights=self.sets.dynamic_kw[booked.pair], minlength=self.fleet.node_count
        )
        node_kw = work_kw + p.groups.idle_w[self.fleet.group] / W_PER_KW
        tied = np.zeros(self.fleet.node_count, dtype=bool)
        tied[booked.node[self.gang[self.sets.pair_class[booked.pair]] > 1]] = True
        mine = np.flatnonzero(self.occupied & (p.groups.site[self.fleet.group] == s))
        mine = mine[np.lexsort((node_kw[mine], tied[mine]))]
        over_kw = float(self.power_kw[s] - self.limit_kw[s])
        enough = int(np.searchsorted(np.cumsum(node_kw[mine]), over_kw - WHOLE)) + 1
        self._empty(mine[:enough])

    def empty_nodes(self, group: int, count: int) -> None:
        """The emptiest occupied nodes of a group without gangs, so many: their work waits in `rest`."""
        first, booked = int(self.fleet.first[group]), self.all_booked()
        nodes = np.arange(first, first + int(self.fleet.count[group]))
        tied = np.zeros(self.fleet.node_count, dtype=bool)
        tied[booked.node[self._is_ganged[booked.pair]]] = True
        nodes = nodes[self.occupied[nodes] & ~tied[nodes]]
        used = 1.0 - self.fleet.free[nodes] / np.maximum(self.fleet.capacity[group], 1)
        self._empty(nodes[np.argsort(used.max(axis=1), kind="stable")[:count]])

    def emptiest_frac(self) -> FloatArray:
        """[G] how much is free, in the fullest resource, on the emptiest occupied node without gangs; 0: none is."""
        fleet, booked = self.fleet, self.all_booked()
        may = self.occupied.copy()
        may[booked.node[self._is_ganged[booked.pair]]] = False
        nodes = np.flatnonzero(may)
        capacity = fleet.capacity[fleet.group[nodes]]
        free = np.divide(fleet.free[nodes], capacity, out=np.ones(capacity.shape), where=capacity > 0)
        out = np.zeros(len(self.nodes_on))
        np.maximum.at(out, fleet.group[nodes], free.min(axis=1))
        return out

    def _empty(self, nodes: IntArray) -> None:
        """Everything on these nodes leaves and waits in `rest`, whole gangs."""
        gone = np.zeros(self.fleet.node_count, dtype=bool)
        gone[nodes] = True
        self.remove(self.with_whole_gangs(gone[self.all_booked().node]))

    def needed_nodes(self) -> FloatArray:
        """[G] nodes that what is placed needs by its fullest resource or sharp row."""
        s = self.sets
        used = np.flatnonzero(self.placed)
        needed = np.zeros((len(self.nodes_on), s.share.shape[1] + s.sharp.shape[1]))
        table = np.concatenate([s.share[used], s.sharp[used]], axis=1)
        np.add.at(needed, s.pair_group[used], table * self.placed[used, None])
        return np.asarray(needed.max(axis=1))

    def _padding_room(self) -> IntArray:
        """[G] nodes that may be on by the padding rule, from what is placed now."""
        terms = self.sets.problem.terms
        filled = np.bincount(
            self.sets.pair_group, weights=self.sets.dominant * self.placed, minlength=len(self.nodes_on)
        )
        return np.asarray(
            np.floor(terms.padding_factor * filled + terms.padding_node_count + WHOLE), dtype=np.int64
        )

    def keep_padding(self) -> None:
        """Groups with more nodes on than the padding rule allows give up their emptiest; work moves to open nodes."""
        for _ in range(PADDING_ROUNDS):
            if not self._give_up_padding():
                return
            self.place_rest()
        self._give_up_padding()

    def _give_up_padding(self) -> bool:
        """Empty nodes until the rule holds, their work onto open nodes as far as it fits; whether there were any."""
        found = False
        while len(nodes := self._padding_nodes()):
            found = True
            self._empty(nodes)
            self.place_rest(only_open=True)
        return found

    def _padding_nodes(self) -> IntArray:
        """The emptiest nodes of each group with too many on, as many as are too many."""
        over = self.nodes_on - self._padding_room()
        nodes = np.flatnonzero(self.occupied & (over[self.fleet.group] > 0))
        group = self.fleet.group[nodes]
        everything = np.ones((len(nodes), self.need.shape[1]), dtype=np.int64) * self.fleet.capacity[group]
        order = np.lexsort((self.fleet.load(nodes, everything)[0], group))
        place = np.arange(len(order)) - np.searchsorted(group[order], group[order])
        return np.asarray(nodes[order][place < over[group[order]]])

    def settle(self) -> None:
        """The last step: what is placed keeps the spread and padding rules by itself; what does not leaves."""
        while (gone := self._poorly_spread()).any() or len(self._padding_nodes()):
            self.remove(gone)
            self._empty(self._padding_nodes())

    def _poorly_spread(self) -> BoolArray:
        """Booked rows that stand in the way: a class on fewer sites or nodes than its rule asks, and than it has
        replicas, keeps one replica on each.
        """
        booked, p = self.all_booked(), self.sets.problem
        gone = np.zeros(len(booked), dtype=bool)
        of_class = self.sets.pair_class[booked.pair]
        rules = (
            (p.classes.spread_site_min, p.groups.site[self.fleet.group[booked.node]]),
            (p.classes.spread_node_min, booked.node),
        )
        for least, domain in rules:
            for c in np.flatnonzero((least > 1) & (self.gang == 1)):
                rows = np.flatnonzero((of_class == c) & ~gone)
                _, first = np.unique(domain[rows], return_index=True)
                if len(first) < min(int(least[c]), len(rows)):
                    gone[rows] = True
                    gone[rows[first]] = False
        return gone

    def meet_minimum_loads(self) -> None:
        """Work from elsewhere onto open sites whose hard hourly cap asks for more IT power, cheapest per kW first."""
        sets = self.sets
        least_kw = np.where(np.isfinite(sets.cap_low_kw), sets.cap_low_kw * (1 + LOAD_MARGIN), 0.0)
        held = sets.problem.sites.hourly_is_hard & self.site_on & (least_kw > 0)
        for site in np.flatnonzero(held & (self.power_kw < least_kw)).tolist():
            for _ in range(LOAD_TRIALS):
                short_kw = float(least_kw[site] - self.power_kw[site])
                if short_kw <= 0 or not self._bring_load(site, short_kw, held):
                    break

    def _bring_load(self, site: int, short_kw: float, held: BoolArray) -> bool:
        """Replicas of as much power onto a site, from sites that hold no minimum themselves; whether any came."""
        s = self.sets
        v = np.flatnonzero((s.pair_site == site) & (self.gang[s.pair_class] == 1) & (s.dynamic_kw > 0))
        row, node = self.fleet.nodes_of(s.pair_group[v])
        room = np.bincount(row, weights=self.fleet.fit(node, self.need[v][row]), minlength=len(v))
        v = v[(room > 0) & np.isinf(self.node_most[s.pair_class[v]])]
        cheapest_last = v[np.argsort(-self.unit_yuan[v] / s.dynamic_kw[v], kind="stable")]
        here = np.full(len(s.demand), -1)
        here[s.pair_class[cheapest_last]] = cheapest_last
        booked = self.all_booked()
        from_site, to = s.pair_site[booked.pair], here[s.pair_class[booked.pair]]
        rows = np.flatnonzero((to >= 0) & ~held[from_site] & (from_site != site))
        dearer_yuan = self.unit_yuan[to[rows]] - self.unit_yuan[booked.pair[rows]]
        rows = rows[np.argsort(dearer_yuan / s.dynamic_kw[to[rows]], kind="stable")]
        enough = int(np.searchsorted(np.cumsum(s.dynamic_kw[to[rows]]), short_kw)) + 1
        gone = np.zeros(len(booked), dtype=bool)
        gone[rows[:enough]] = True
        moving = np.unique(s.pair_class[booked.pair[gone]])
        self.remove(gone)
        before_kw = self.work_kw[site]
        for c in moving.tolist():
            target = int(here[c])
            _, nodes = self.fleet.nodes_of(s.pair_group[target : target + 1])
            need = np.broadcast_to(self.need[target], (len(nodes), self.need.shape[1]))
            self.place_on(c, target, nodes, np.minimum(self.fleet.fit(nodes, need), self.rest[c]))
        self.place_rest(only=np.isin(np.arange(len(self.rest)), moving))
        return bool(self.work_kw[site] > before_kw)

    # -- the rest --------------------------------------------------------------------------------------------------

    def place_rest(self, *, only_open: bool = False, only: BoolArray | None = None) -> None:
        """What waits, largest first, where one more replica costs least: on occupied nodes, or on one more node.

        `only_open`: on occupied nodes alone; `only`[C]: these classes alone.
        """
        waits = (self.rest > 0) & (self.rest >= self.gang)
        waiting = np.flatnonzero(waits if only is None else waits & only)
        if not len(waiting):
            return
        first = self.class_start[waiting]
        waiting = waiting[first < self.class_start[waiting + 1]]
        key = self._size_keys(self.class_start[waiting])
        most = self._most_free(np.arange(len(self.nodes_on)))
        if not only_open:  # a group with nodes left has room for whatever fits a node, also later on
            most[self.nodes_on < self.fleet.count] = PLENTY
        for c in waiting[np.lexsort(key)]:
            self.place_class(int(c), most, only_open=only_open)

    def place_few(self) -> None:
        """As `place_rest`, for a few replicas of many classes: only groups whose emptiest nodes have room are tried."""
        waiting = np.flatnonzero((self.rest > 0) & (self.rest >= self.gang))
        waiting = waiting[self.class_start[waiting] < self.class_start[waiting + 1]]
        most = self._most_free(np.arange(len(self.nodes_on)))
        for c in waiting[np.lexsort(self._size_keys(self.class_start[waiting]))].tolist():
            if self.gang[c] > 1 or np.isfinite(self.node_most[c]):
                self.place_class(c)
            else:
                self._place_few_of(c, most)

    def _most_free(self, groups: IntArray) -> IntArray:
        """[g, R] most of each resource free on an occupied node of each group; −1 where none is occupied."""
        out = np.full((len(groups), self.need.shape[1]), -1)
        row, node = self.fleet.nodes_of(groups)
        free = np.where(self.occupied[node, None], self.fleet.free[node], -1)
        starts = np.flatnonzero(np.append(True, row[1:] != row[:-1])) if len(row) else row
        if len(row):
            out[row[starts]] = np.maximum.reduceat(free, starts, axis=0)
        return out

    def _place_few_of(self, c: int, most: IntArray) -> None:
        s = self.sets
        v = np.arange(self.class_start[c], self.class_start[c + 1])
        v = v[self.site_on[s.pair_site[v]]]
        g = s.pair_group[v]
        open_here = (most[g] >= self.need[v]).all(axis=1)
        fresh_here = self.nodes_on[g] < self.fleet.count[g]
        idle_yuan = s.problem.groups.idle_w[g] / W_PER_KW * self.kw_yuan[s.pair_site[v]]
        per_node = np.clip(np.floor(1.0 / np.maximum(s.dominant[v], 1e-9)), 1, self.rest[c])
        unit_yuan = self._replica_yuan(v)
        yuan = np.concatenate([unit_yuan, unit_yuan + idle_yuan / per_node])
        usable = np.flatnonzero(np.concatenate([open_here, fresh_here]))
        for option in usable[np.argsort(yuan[usable], kind="stable")].tolist():
            if self.rest[c] == 0:
                break
            i = option % len(v)
            nodes = np.arange(self.fleet.first[g[i]], self.fleet.first[g[i]] + self.fleet.count[g[i]])
            nodes = nodes[self.occupied[nodes] == (option < len(v))]
            need = np.broadcast_to(self.need[v[i]], (len(nodes), self.need.shape[1]))
            fit = np.minimum(self.fleet.fit(nodes, need), self.rest[c])
            if fit.any():
                self.place_on(c, int(v[i]), nodes[fit > 0], fit[fit > 0])
                most[g[i]] = self._most_free(g[i : i + 1])[0]

    def place_class(self, c: int, most: IntArray | None = None, *, only_open: bool = False) -> None:
        """All that waits of one class, as far as there is room; most[G, R]: what a node of each group has at most."""
        s, fleet, p = self.sets, self.fleet, self.sets.problem
        v = np.arange(self.class_start[c], self.class_start[c + 1])
        v = v[self.site_on[s.pair_site[v]]]
        if most is not None:
            v = v[(most[s.pair_group[v]] >= self.need[v]).all(axis=1)]
        if not len(v):
            return
        row, node = fleet.nodes_of(s.pair_group[v])
        fit = np.minimum(fleet.fit(node, self.need[v][row]), self.rest[c])
        if np.isfinite(self.node_most[c]):
            fit = np.clip(self.node_most[c] - self._on_node(c)[node], 0, fit).astype(np.int64)
        on = self.occupied[node]
        idle_yuan = p.groups.idle_w[s.pair_group[v]] / W_PER_KW * self.kw_yuan[s.pair_site[v]]
        fresh_fit = np.zeros(len(v))
        np.maximum.at(fresh_fit, row[~on], fit[~on])
        open_room = np.bincount(row[on], weights=fit[on], minlength=len(v))
        unit_yuan = self._replica_yuan(v)
        fresh_yuan = unit_yuan + idle_yuan / np.maximum(np.minimum(fresh_fit, self.rest[c]), 1.0)
        gang = int(self.gang[c])
        if gang > 1:  # one option per group: occupied nodes and as many fresh ones as the gang still needs
            fresh = np.ceil(np.maximum(gang - open_room, 0.0) / np.maximum(fresh_fit, 1.0))
            gang_yuan = unit_yuan + idle_yuan * fresh / gang
            options = [(float(gang_yuan[i]), int(i), True) for i in np.flatnonzero(open_room + fresh_fit > 0)]
        else:
            options = [(float(unit_yuan[i]), int(i), True) for i in np.flatnonzero(open_room > 0)]
            options += [(float(fresh_yuan[i]), int(i), False) for i in np.flatnonzero(fresh_fit > 0)]
        if only_open:
            options = [o for o in options if o[2] and open_room[o[1]] >= gang]
        starts = np.searchsorted(row, np.arange(len(v) + 1))
        for _, i, on_open in sorted(options):
            if self.rest[c] < gang:
                break
            here = slice(starts[i], starts[i + 1])
            usable = on[here] if on_open else ~on[here]
            if gang > 1 and not only_open:
                usable = np.ones_like(usable)
            self.place_on(c, int(v[i]), node[here][usable], fit[here][usable])

    def make_room(self) -> None:
        """For work that found no room: take flexible work away where it could run, place it, then the other again.

        Kept only where less stays unserved, by penalty. What made way and found no room has its turn in the next pass.
        """
        for _ in range(ROOM_PASSES):
            before = self._penalty()
            for c in np.flatnonzero((self.rest > 0) & (self.rest >= self.gang)):
                self._make_room_for(int(c))
            if self._penalty() >= before:
                break  # all have room, or nothing more helps

    def _make_room_for(self, c: int) -> None:
        """Room for one class, in the groups where it costs least."""
        v = np.arange(self.class_start[c], self.class_start[c + 1])
        v = v[self.site_on[self.sets.pair_site[v]]]
        for pair in v[np.argsort(self._replica_yuan(v), kind="stable")][:ROOM_TRIALS]:
            if self.rest[c] < self.gang[c]:
                break
            self._try_room(c, int(pair))

    def _try_room(self, c: int, v: int) -> None:
        before, penalty = self.snapshot(), self._penalty()
        gone = self._blockers_on_side_rows(c, v) | self._blockers_on_nodes(c, v)
        if not gone.any():
            return
        displaced = np.zeros(len(self.rest), dtype=bool)
        displaced[self.sets.pair_class[self.all_booked().pair[gone]]] = True
        self.remove(gone)
        _, nodes = self.fleet.nodes_of(self.sets.pair_group[v : v + 1])
        need = np.broadcast_to(self.need[v], (len(nodes), self.need.shape[1]))
        fit = np.minimum(self.fleet.fit(nodes, need), self.rest[c])
        if np.isfinite(self.node_most[c]):
            fit = np.clip(self.node_most[c] - self._on_node(c)[nodes], 0, fit).astype(np.int64)
        self.place_on(c, v, nodes, fit)
        self.place_rest(only=displaced)
        if self._penalty() >= penalty:
            self.restore(before)

    def _penalty(self) -> float:
        return float(self.rest @ self.sets.unserved_yuan)

    def _blockers_on_side_rows(self, c: int, v: int) -> BoolArray:
        """Booked rows of other classes that fill the floors, spread or links that a pair lacks room on."""
        booked = self.all_booked()
        gone = np.zeros(len(booked), dtype=bool)
        for at in range(self.side.indptr[v], self.side.indptr[v + 1]):
            r, coefficient = self.side.indices[at], self.side.data[at]
            lacking = coefficient * self.rest[c] - self.side_room[r]
            if lacking <= WHOLE:
                continue
            weight = np.asarray(self.side[:, [r]].todense()).ravel()
            own = self.sets.pair_class == c
            weight[own] = 0.0
            rows = np.flatnonzero(
                (weight[booked.pair] > 0) & (self.gang[self.sets.pair_class[booked.pair]] == 1) & ~gone
            )
            # what frees most by its size first: one replica must not drive out a rack for a few Mbps
            freed_per_node = weight[booked.pair[rows]] / np.maximum(
                self.sets.dominant[booked.pair[rows]], 1e-9
            )
            rows = rows[np.argsort(-freed_per_node, kind="stable")]
            freed = np.cumsum(weight[booked.pair[rows]])
            gone[rows[: int(np.searchsorted(freed, lacking - WHOLE)) + 1]] = True
        return gone

    def _blockers_on_nodes(self, c: int, v: int) -> BoolArray:
        """Booked rows on as many of the group's nodes as the class (one gang of it) would need to itself: those with
        the least work that could go nowhere else, of these the emptiest.
        """
        booked = self.all_booked()
        gone = np.zeros(len(booked), dtype=bool)
        wanted = int(self.gang[c]) if self.gang[c] > 1 else int(self.rest[c])
        _, nodes = self.fleet.nodes_of(self.sets.pair_group[v : v + 1])
        if not len(nodes):
            return gone
        need = np.broadcast_to(self.need[v], (len(nodes), self.need.shape[1]))
        fit = np.minimum(self.fleet.fit(nodes, need), wanted)
        each = max(1, int(1.0 / max(self.sets.dominant[v], 1e-9)))
        # nodes of a group lie side by side
        here = np.flatnonzero((booked.node >= nodes[0]) & (booked.node <= nodes[-1]))
        place, pair = booked.node[here] - nodes[0], booked.pair[here]
        tied = np.zeros(len(nodes), dtype=bool)
        tied[place[self._is_ganged[pair]]] = True
        stuck = place[self._stuck(int(self.sets.pair_group[v]))[self.sets.pair_class[pair]]]
        held = np.bincount(stuck, minlength=len(nodes))
        if self.in_island[
            c
        ]:  # the island that would hold most of the class once its single replicas are gone
            island, cell = np.unique(self.fleet.island[nodes], return_inverse=True)
            most = np.bincount(cell, weights=np.where(tied, fit, each), minlength=len(island))
            inside = cell == int(most.argmax())
            nodes, need, fit, tied, held = (
                nodes[inside],
                need[inside],
                fit[inside],
                tied[inside],
                held[inside],
            )
        lacking = wanted - int(fit.sum())
        if lacking <= 0:
            return gone
        free = np.flatnonzero(~tied & (fit < each))
        free = free[np.lexsort((self.fleet.load(nodes[free], need[free])[0], held[free]))]
        enough = int(np.searchsorted(np.cumsum(each - fit[free]), lacking)) + 1
        emptied = np.zeros(self.fleet.node_count, dtype=bool)
        emptied[nodes[free[:enough]]] = True
        gone[here] = emptied[booked.node[here]]
        return gone

    def _stuck(self, group: int) -> BoolArray:
        """[C] classes that have no room outside a group, neither on an occupied node nor on one more."""
        s = self.sets
        most = self._most_free(np.arange(len(self.nodes_on)))
        room = (most[s.pair_group] >= self.need).all(axis=1) | (self.nodes_on < self.fleet.count)[
            s.pair_group
        ]
        room &= self.site_on[s.pair_site] & (s.pair_group != group)
        return np.asarray(np.bincount(s.pair_class, weights=room, minlength=len(s.demand)) == 0)

    def snapshot(self) -> tuple[object, ...]:
        """Everything that placing and removing change, for `restore`."""
        return (
            self.fleet.copy(), self._rows.copy(), self._rows_on.copy(), self.rest.copy(), self.side_room.copy(),
            self.work_kw.copy(), self.placed.copy(), self.occupied.copy(), self.nodes_on.copy(),
            self._next_gang.copy(),
        )  # fmt: skip

    def restore(self, kept: Any) -> None:
        """As it was at a snapshot."""
        (
            self.fleet, self._rows, self._rows_on, self.rest, self.side_room, self.work_kw, self.placed, self.occupied,
            self.nodes_on, self._next_gang,
        ) = kept  # fmt: skip

    def place_on(self, c: int, v: int, nodes: IntArray, fit: IntArray) -> None:
        """As many of a class as fit on these nodes of one group and power and side rows allow; fullest nodes first."""
        s, p = self.sets, self.sets.problem
        gang = int(self.gang[c])
        most = min(int(self.rest[c]), self._side_allows(v)) // gang * gang
        if most <= 0 or not len(nodes):
            return
        need = np.broadcast_to(self.need[v], (len(nodes), self.need.shape[1]))
        one = np.zeros(len(nodes), dtype=np.int64)
        if gang > 1:
            inside = by_island(one, self.fleet.island[nodes], fit, np.array([most]), np.array([gang]))
            whole = whole_gangs(one, first_fit(one, fit, np.array([most])), np.array([gang]))
            take = inside if self.in_island[c] else whole
        else:
            order = np.lexsort((nodes, -self.fleet.load(nodes, need)[0]))
            nodes, fit = nodes[order], fit[order]
            take = first_fit(one, fit, np.array([most]))
        idle_kw = p.groups.idle_w[s.pair_group[v]] / W_PER_KW
        added_kw = np.cumsum(
            take * s.dynamic_kw[v] + np.where((take > 0) & ~self.occupied[nodes], idle_kw, 0.0)
        )
        room_kw = self.limit_kw[s.pair_site[v]] - self.power_kw[s.pair_site[v]]
        take = np.where(added_kw <= room_kw + 1e-9, take, 0)
        if gang > 1 and int(take.sum()) % gang:
            return
        self.book(nodes, np.full(len(nodes), v), take)

    def _side_allows(self, v: int) -> int:
        """Replicas of a pair for which floors, spread and links have room."""
        at = slice(self.side.indptr[v], self.side.indptr[v + 1])
        if at.start == at.stop:
            return 10**9
        rooms = (self.side_room[self.side.indices[at]] + WHOLE) / self.side.data[at]
        return max(0, int(np.floor(rooms.min())))

    def _on_node(self, c: int) -> IntArray:
        """[N] replicas of a class on each node."""
        booked = self.all_booked()
        mine = (booked.pair >= self.class_start[c]) & (booked.pair < self.class_start[c + 1])
        return np.bincount(booked.node[mine], minlength=self.fleet.node_count)
