"""The fast path: exact, vectorised placement of replicas onto nodes, guided by packing value and by prices.

- `Placer.place_one`: one replica on the cheapest node
- `Placer.place`: up to `count` identical replicas, the same answer as `count` single placements, in bulk
- `Placer.costs`: cost of one more replica on every node, to explain a choice; `costs_at`: on some nodes only;
  `costs_on`: of several replicas on one node
- `Placer.propose`: what `place` would do, without doing it
- `Placer.share_cost`: which GPU of a node a share is taken from
- `Placer.release`: give a replica's resources back
- `place_batch`: a batch of different requests, in order

The cost of a node is the packing value (see `solvers.packing`) that the replica destroys there, in milli-GPU, plus the
caller's price for the node in the same unit. Hard rules are checked exactly: capacity, GPU slots, a share on one GPU,
groups allowed, nodes up. The cheapest node wins; among equal costs the one with the lowest index.

Costs are kept per shape and looked at again only for nodes that changed since (`NodeState.stamp`), so that a decision
costs about as much as there are changed nodes, not nodes.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.nodes import MILLI_PER_GPU, Need, NodeState, Shape, gpu_mask_of, gpus_of
from solvers.packing import SCALE, MixEntry, PackingModel
from solvers.scarcity import ScarcityPrices

__all__ = [
    "MixEntry",
    "Need",
    "NodeState",
    "PackingModel",
    "Placement",
    "Placements",
    "Placer",
    "ScarcityPrices",
    "Shape",
    "gpu_mask_of",
    "gpus_of",
    "place_batch",
]

Candidates = npt.NDArray[np.bool_] | npt.NDArray[np.int64]
"""Nodes to choose from: a mask [N] or node indices."""

_NodeKey = tuple[int, int, int, int, tuple[int, ...]]
"""Group of a node, what it has free of CPU, memory, storage, and of each GPU, ascending: all that its worth needs."""

MAX_TABLES = 1024
"""Shapes whose costs are kept; the least recently used goes first (16 bytes a node each)."""
BLOCK_NODES = 128
"""Nodes whose further replicas are computed together in bulk placement."""
BLOCK_STEPS = 16
"""Replicas of one node looked ahead at a time."""
FEW_NODES = 24
"""So few nodes are looked at one by one, through worths that are kept: cheaper than arrays of a handful."""
MAX_WORTHS = 50_000
"""Worths kept (some 300 bytes each); a fleet of some hundred shapes has a few thousand different nodes at a time."""
BULK_FROM = 4
"""Fewer identical replicas than this are placed one by one."""
FULLEST_MILLI = 100.0
"""Worth of filling nodes without GPU one after the other; below any GPU's worth, so it only orders such nodes."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One replica on `node`, on the GPUs of `gpu_mask` (bit i: GPU i)."""

    node: int
    gpu_mask: int


@dataclass(frozen=True, eq=False)
class Placements:
    """P replicas in the order of decision."""

    node: IntArray
    """[P]"""
    gpu_mask: IntArray
    """[P] bit i: GPU i."""
    cost_milli: FloatArray
    """[P] price included."""

    def __len__(self) -> int:
        return len(self.node)


@dataclass(eq=False)
class _Table:
    """Per node: stamp last looked at, value after one more replica (−inf: does not fit), the GPUs it would take."""

    seen: IntArray
    value_after: FloatArray
    gpu_mask: IntArray


@dataclass(frozen=True, eq=False)
class _View:
    """A shape's table with what is the shape's own: the need of each node and the nodes it may not use."""

    table: _Table
    need_of_node: IntArray
    """[N] index into the shape's needs, −1 where the group is not allowed."""
    allowed: BoolArray | None
    """[N] whether the node's group is allowed; None: every group is."""
    blocked: FloatArray | None
    """[N] inf where it is not, else 0."""
    evaluated: IntArray
    """[N] need with which the table evaluates the node: shapes of one need share a table over all groups."""


@dataclass(eq=False)
class _Rows:
    """Free resources of R nodes to be tried on; changes here do not touch the node state."""

    node: IntArray
    cpu_milli: IntArray
    memory_mib: IntArray
    storage_gib: IntArray
    gpu_milli: IntArray
    features: FloatArray

    def of(self, keep: IntArray | BoolArray) -> _Rows:
        """Some of the rows, copied."""
        return _Rows(
            self.node[keep],
            self.cpu_milli[keep],
            self.memory_mib[keep],
            self.storage_gib[keep],
            self.gpu_milli[keep],
            self.features[keep],
        )


class Placer:
    """Places replicas on `state`, which it changes; changes made by others are noticed through the state's stamps."""

    def __init__(self, state: NodeState, model: PackingModel) -> None:
        if len(model.cut_of_group) != state.group_count:
            raise ValueError("the packing model was built for another fleet")
        self.state = state
        self.model = model
        self._views: OrderedDict[Shape, _View] = OrderedDict()
        self._tables: OrderedDict[object, _Table] = OrderedDict()
        self._costs: OrderedDict[Shape, tuple[IntArray, FloatArray]] = OrderedDict()
        self._preferences: dict[int, FloatArray] = {}
        self._share_costs: dict[tuple[int, int], list[float]] = {}
        self._worths: dict[_NodeKey, float] = {}
        """What is free on a node with GPUs → its value in units of 1/SCALE."""
        self._gpu_bits = 1 << np.arange(state.gpu_milli.shape[1], dtype=np.int64)
        self._features = np.zeros((state.node_count, model.gpu_features.shape[2]))
        self._value = np.zeros(state.node_count)
        self._synced = np.zeros(state.node_count, np.int64)
        self._cut = model.cut_of_group[state.node_group]
        self._without_gpu: BoolArray = np.logical_not(state.gpu_installed.any(axis=1))
        self._any_without_gpu = bool(self._without_gpu.any())

    # ------------------------------------------------------------------ decisions

    def place_one(
        self, shape: Shape, candidates: Candidates | None = None, price_milli: FloatArray | None = None
    ) -> Placement | None:
        """Place one replica on the cheapest node; None when it fits nowhere. Arguments as in `place`."""
        found = self._cheapest(shape, candidates, price_milli)
        return None if found is None else self._book(shape, found[0])

    def place(
        self,
        shape: Shape,
        count: int,
        candidates: Candidates | None = None,
        price_milli: FloatArray | None = None,
        node_limit: IntArray | None = None,
    ) -> Placements:
        """Place up to `count` identical replicas, each on the node that is cheapest by then; as many as fit.

        price_milli: [N] finite, added to each node's packing cost; a price in money is first divided by what a
        milli-GPU is worth. node_limit: [N] most replicas of this call per node (ones: spread over nodes). The
        answer equals `count` calls of `place_one`.
        """
        if count < BULK_FROM and node_limit is None:
            return self._place_singly(shape, count, candidates, price_milli)
        cost = self.costs(shape, candidates, price_milli)
        if node_limit is not None:
            cost = np.where(node_limit > 0, cost, np.inf)
        bulk = _Bulk(self, shape, _cheapest_first(cost, count), cost, price_milli, node_limit)
        placed = bulk.run(count)
        self._book_many(shape, placed)
        return placed

    def propose(
        self, shape: Shape, count: int, nodes: IntArray, price_milli: FloatArray | None = None
    ) -> Placements:
        """Up to `count` identical replicas on the cheapest of `nodes` (distinct), without booking them.

        price_milli: [N] as in `place`.
        """
        cost = self._kept_costs_at(shape, nodes)
        if price_milli is not None:
            cost = cost + price_milli[nodes]
        order = _cheapest_first(cost, count)
        by_node = np.full(self.state.node_count, np.inf)
        by_node[nodes] = cost
        return _Bulk(self, shape, nodes[order], by_node, price_milli, None).run(count)

    def costs_at(self, shape: Shape, nodes: IntArray) -> FloatArray:
        """[len(nodes)] cost in milli-GPU of one more replica on each of these nodes; inf where it does not fit now.

        Only these nodes are looked at: cheaper than `costs` where few nodes come into question.
        """
        seen, cost = self._costs_seen(shape)
        stamp = self.state.stamp[nodes]
        stale = seen[nodes] != stamp
        if stale.any():
            asked = nodes[stale]
            few = len(asked) <= FEW_NODES and not (self._any_without_gpu and self._without_gpu[asked].any())
            cost[asked] = self._costs_of_few(shape, asked) if few else self._kept_costs_at(shape, asked)
            seen[asked] = stamp[stale]
        return cost[nodes]

    def _costs_seen(self, shape: Shape) -> tuple[IntArray, FloatArray]:
        """[N], [N] stamp at which `costs_at` last looked at each node, and the cost then."""
        known = self._costs.get(shape)
        if known is None:
            n = self.state.node_count
            known = self._costs[shape] = (np.zeros(n, np.int64), np.full(n, np.inf))
            if len(self._costs) > MAX_TABLES:
                self._costs.popitem(last=False)
        else:
            self._costs.move_to_end(shape)
        return known

    def _kept_costs_at(self, shape: Shape, nodes: IntArray) -> FloatArray:
        """`costs_at` through the shape's table."""
        view = self._known_view(shape)
        self._recount(nodes[self._synced[nodes] != self.state.stamp[nodes]])
        table = view.table
        stale = table.seen[nodes] != self.state.stamp[nodes]
        if view.allowed is not None:
            stale &= view.allowed[nodes]
        dirty = nodes[stale]
        if len(dirty):
            self._evaluate(table, shape.needs, view.evaluated, dirty)
        cost: FloatArray = (self._value[nodes] - table.value_after[nodes]) / SCALE
        return cost if view.blocked is None else cost + view.blocked[nodes]

    def costs_on(self, shape: Shape, node: int) -> Iterator[float]:
        """Cost in milli-GPU of each of several replicas, one after the other on a node with GPUs, while it has room."""
        need = shape.need_on(int(self.state.node_group[node]))
        before = self._node_key(node)
        while need is not None and self.state.up[node]:
            after = self._after(node, before, need)
            if after is None:
                return
            if before not in self._worths or after not in self._worths:
                self._know_worths([before, after])
            yield (self._worths[before] - self._worths[after]) / SCALE
            before = after

    def _costs_of_few(self, shape: Shape, nodes: IntArray) -> FloatArray:
        """`costs_at` for a handful of nodes with GPUs, node by node: value before less value after."""
        asked: list[tuple[int, _NodeKey, _NodeKey]] = []
        for i, node in enumerate(nodes.tolist()):
            before = self._node_key(node)
            need = shape.need_on(before[0]) if self.state.up[node] else None
            after = self._after(node, before, need) if need is not None else None
            if after is not None:
                asked.append((i, before, after))
        self._know_worths([k for _, before, after in asked for k in (before, after)])
        out = np.full(len(nodes), np.inf)
        for i, before, after in asked:
            out[i] = (self._worths[before] - self._worths[after]) / SCALE
        return out

    def _node_key(self, node: int) -> _NodeKey:
        state = self.state
        return (
            int(state.node_group[node]),
            int(state.cpu_milli[node]),
            int(state.memory_mib[node]),
            int(state.storage_gib[node]),
            tuple(sorted(state.gpu_milli[node].tolist())),
        )

    def _after(self, node: int, key: _NodeKey, need: Need) -> _NodeKey | None:
        """What is free once one more replica lies on the node; None without room."""
        group, cpu_milli, memory_mib, storage_gib, free = key
        if cpu_milli < need.cpu_milli or memory_mib < need.memory_mib or storage_gib < need.storage_gib:
            return None
        left = self._left_on(int(self._cut[node]), free, need)
        if left is None:
            return None
        return (
            group,
            cpu_milli - need.cpu_milli,
            memory_mib - need.memory_mib,
            storage_gib - need.storage_gib,
            tuple(sorted(left)),
        )

    def _left_on(self, cut: int, free: tuple[int, ...], need: Need) -> list[int] | None:
        """Free milli of each GPU once one replica has taken its own (see `_pick_gpus`); None without room."""
        if not need.gpu_count:
            return list(free)
        if need.gpu_milli == MILLI_PER_GPU:
            picked = [g for g, milli in enumerate(free) if milli == MILLI_PER_GPU][: need.gpu_count]
        else:
            cost = self._share_cost(cut, need.gpu_milli)
            by_cost = [(cost[milli], g) for g, milli in enumerate(free) if milli >= need.gpu_milli]
            if need.gpu_count == 1 and by_cost:
                picked = [min(by_cost)[1]]
            else:
                picked = [g for _, g in sorted(by_cost)[: need.gpu_count]]
        if len(picked) < need.gpu_count:
            return None
        left = list(free)
        for g in picked:
            left[g] -= need.gpu_milli
        return left

    def _know_worths(self, keys: list[_NodeKey]) -> None:
        """Work out the values that are not known yet."""
        new = [k for k in dict.fromkeys(keys) if k not in self._worths]
        if not new:
            return
        if len(self._worths) + len(new) > MAX_WORTHS:
            self._worths.clear()
            new = list(dict.fromkeys(keys))
        group, cpu_milli, memory_mib = (np.array([k[i] for k in new], np.int64) for i in range(3))
        features = self.model.features(group, np.array([k[4] for k in new], np.int64))
        self._worths.update(
            zip(new, self.model.value(features, group, cpu_milli, memory_mib).tolist(), strict=True)
        )

    def share_cost(self, node: int, gpu_milli: int) -> list[float]:
        """[1002] by r: cost of taking a share from a GPU of the node with r milli free; the least is taken.

        Only for comparison; inf where it does not fit. The last entry, reached by −1, is for slots without GPU.
        """
        return self._share_cost(int(self._cut[node]), gpu_milli)

    def _share_cost(self, cut: int, gpu_milli: int) -> list[float]:
        known = self._share_costs.get((cut, gpu_milli))
        if known is None:
            known = self._share_costs[cut, gpu_milli] = self._preference(gpu_milli)[cut].tolist()
        return known

    def _place_singly(
        self, shape: Shape, count: int, candidates: Candidates | None, price_milli: FloatArray | None
    ) -> Placements:
        placed: list[tuple[int, int, float]] = []
        for _ in range(count):
            found = self._cheapest(shape, candidates, price_milli)
            if found is None:
                break
            placed.append((found[0], self._book(shape, found[0]).gpu_mask, found[1]))
        return _placements(placed)

    def costs(
        self, shape: Shape, candidates: Candidates | None = None, price_milli: FloatArray | None = None
    ) -> FloatArray:
        """[N] cost in milli-GPU of one more replica on each node; inf where it does not fit now."""
        view = self._fresh(shape)
        cost: FloatArray = (self._value - view.table.value_after) / SCALE
        if view.blocked is not None:
            cost += view.blocked
        if price_milli is not None:
            cost += price_milli
        if candidates is not None:
            cost = np.where(_mask(candidates, len(cost)), cost, np.inf)
        return cost

    def release(self, shape: Shape, node: int, gpu_mask: int) -> None:
        """Give back what a placement of this shape took; ValueError when that was not placed there."""
        self.state.give_back(node, self._need(shape, node), gpu_mask)

    def copy(self) -> Placer:
        """A placer on a copy of the state, for trying out; the model is shared, costs are computed anew."""
        return Placer(self.state.copy(), self.model)

    # ------------------------------------------------------------------ one replica

    def _cheapest(
        self, shape: Shape, candidates: Candidates | None, price_milli: FloatArray | None
    ) -> tuple[int, float] | None:
        cost = self.costs(shape, candidates, price_milli)
        if not len(cost):
            return None
        node = int(cost.argmin())
        lowest = float(cost[node])
        return None if lowest == np.inf else (node, lowest)

    def _book(self, shape: Shape, node: int) -> Placement:
        """Take the node as the shape's fresh table says; its value and features follow without a recount."""
        view = self._views[shape]
        need = shape.needs[int(view.need_of_node[node])]
        gpu_mask = int(view.table.gpu_mask[node])
        if gpu_mask:
            table = self.model.gpu_features[self._cut[node]]
            for g in gpus_of(gpu_mask):
                free = int(self.state.gpu_milli[node, g])
                self._features[node] += table[free - need.gpu_milli] - table[free]
        self.state.take(node, need, gpu_mask)
        self._value[node] = view.table.value_after[node]
        self._synced[node] = self.state.stamp[node]
        return Placement(node, gpu_mask)

    def _book_many(self, shape: Shape, placed: Placements) -> None:
        if len(placed):
            need_index = self._views[shape].need_of_node[placed.node]
            self.state.take_many(placed.node, shape.needs, need_index, placed.gpu_mask)

    def _need(self, shape: Shape, node: int) -> Need:
        need = shape.need_on(int(self.state.node_group[node]))
        if need is None:
            raise ValueError(f"the shape may not run on node {node}")
        return need

    # ------------------------------------------------------------------ costs kept per shape

    def _fresh(self, shape: Shape) -> _View:
        """The shape's view with every changed node looked at again."""
        self._sync()
        view = self._known_view(shape)
        table = view.table
        stale = table.seen != self.state.stamp
        if view.allowed is not None:
            stale &= view.allowed
        dirty = np.flatnonzero(stale)
        if len(dirty):
            self._evaluate(table, shape.needs, view.evaluated, dirty)
        return view

    def _known_view(self, shape: Shape) -> _View:
        view = self._views.get(shape)
        if view is None:
            return self._new_view(shape)
        self._views.move_to_end(shape)
        return view

    def _sync(self) -> None:
        """Recount value and features of the nodes that changed since they were last counted."""
        self._recount(np.flatnonzero(self._synced != self.state.stamp))

    def _recount(self, changed: IntArray) -> None:
        if len(changed):
            state = self.state
            features = self.model.features(state.node_group[changed], state.gpu_milli[changed])
            self._features[changed] = features
            self._value[changed] = self._worth(
                changed, features, state.cpu_milli[changed], state.memory_mib[changed]
            )
            self._synced[changed] = state.stamp[changed]

    def _new_view(self, shape: Shape) -> _View:
        if len(shape.need_of_group) != self.state.group_count:
            raise ValueError("the shape speaks of another number of groups")
        need_of_node = np.array(shape.need_of_group, np.int64)[self.state.node_group]
        shared = len(shape.needs) == 1
        key: object = shape.needs[0] if shared else shape
        table = self._tables.get(key)
        if table is None:
            n = self.state.node_count
            table = _Table(np.zeros(n, np.int64), np.full(n, -np.inf), np.zeros(n, np.int64))
            self._tables[key] = table
        forbidden = need_of_node < 0
        view = _View(
            table=table,
            need_of_node=need_of_node,
            allowed=~forbidden if forbidden.any() else None,
            blocked=np.where(forbidden, np.inf, 0.0) if forbidden.any() else None,
            evaluated=np.zeros_like(need_of_node) if shared else need_of_node,
        )
        self._views[shape] = view
        self._forget_oldest()
        return view

    def _forget_oldest(self) -> None:
        while len(self._views) > MAX_TABLES:
            self._views.popitem(last=False)
        if len(self._tables) > MAX_TABLES:
            used = {id(v.table) for v in self._views.values()}
            for key in [k for k, t in self._tables.items() if id(t) not in used]:
                del self._tables[key]

    def _evaluate(
        self, table: _Table, needs: tuple[Need, ...], need_of_node: IntArray, dirty: IntArray
    ) -> None:
        table.seen[dirty] = self.state.stamp[dirty]
        table.value_after[dirty] = -np.inf
        up = dirty[self.state.up[dirty]]
        if len(needs) == 1:
            self._evaluate_need(table, needs[0], up)
            return
        need_of_up = need_of_node[up]
        for i, need in enumerate(needs):
            nodes = up[need_of_up == i]
            if len(nodes):
                self._evaluate_need(table, need, nodes)

    def _evaluate_need(self, table: _Table, need: Need, nodes: IntArray) -> None:
        state = self.state
        fits = (state.cpu_milli[nodes] >= need.cpu_milli) & (state.memory_mib[nodes] >= need.memory_mib)
        if need.storage_gib:
            fits &= state.storage_gib[nodes] >= need.storage_gib
        nodes = nodes[fits]
        if not len(nodes):
            return
        features = self._features.take(nodes, axis=0)
        if need.gpu_count:
            free = state.gpu_milli[nodes]
            picked = self._pick_gpus(self._cut[nodes], free, need)
            ok = picked[:, 0] >= 0
            if not ok.all():
                nodes, free, picked, features = nodes[ok], free[ok], picked[ok], features[ok]
                if not len(nodes):
                    return
            features = features + self._gpu_change(self._cut[nodes], free, picked, need)
            bits = self._gpu_bits[picked]
            table.gpu_mask[nodes] = bits[:, 0] if need.gpu_count == 1 else bits.sum(axis=1)
        table.value_after[nodes] = self._worth(
            nodes,
            features,
            state.cpu_milli[nodes] - need.cpu_milli,
            state.memory_mib[nodes] - need.memory_mib,
        )

    # ------------------------------------------------------------------ what a replica changes

    def _worth(
        self, nodes: IntArray, features: FloatArray, cpu_milli: IntArray, memory_mib: IntArray
    ) -> FloatArray:
        """[R] value of the nodes with these features and free amounts, in units of 1/SCALE milli-GPU."""
        worth: FloatArray = self.model.value(features, self.state.node_group[nodes], cpu_milli, memory_mib)
        without_gpu = self._without_gpu[nodes] if self._any_without_gpu else self._without_gpu[:0]
        if without_gpu.any():
            free = 0.5 * (
                cpu_milli / np.maximum(self.state.cpu_capacity_milli[nodes], 1)
                + memory_mib / np.maximum(self.state.memory_capacity_mib[nodes], 1)
            )
            # slope 2·free − 2 ≤ 0: using such a node costs less than nothing, the more so the fuller it is
            bonus: FloatArray = np.rint(FULLEST_MILLI * SCALE * (free * free - 2.0 * free))
            worth = worth + np.where(without_gpu, bonus, 0.0)
        return worth

    def _pick_gpus(self, cut: IntArray, free: IntArray, need: Need) -> IntArray:
        """[R, gpu_count] the GPUs that one replica takes, by preference, then index; −1 in rows without room
        (one column when no node has that many GPUs)."""
        count = need.gpu_count
        if count > free.shape[1]:
            return np.full((len(free), 1), -1, np.int64)
        if need.gpu_milli == MILLI_PER_GPU:
            idle = free == MILLI_PER_GPU
            if count == 1:
                picked = idle.argmax(axis=1)[:, None]
            else:
                picked = (~idle).argsort(axis=1, kind="stable")[:, :count]
            room = idle.sum(axis=1) >= count
        else:
            preference = self._preference(need.gpu_milli)[cut[:, None], free]
            if count == 1:
                picked = preference.argmin(axis=1)[:, None]
            else:
                picked = preference.argsort(axis=1, kind="stable")[:, :count]
            room = preference[np.arange(len(free)), picked[:, -1]] < np.inf
        return np.where(room[:, None], picked, -1)

    def _gpu_change(self, cut: IntArray, free: IntArray, picked: IntArray, need: Need) -> FloatArray:
        """[R, F] change of features when the picked GPUs are taken."""
        table = self.model.gpu_features
        if need.gpu_count == 1:
            row = cut * (MILLI_PER_GPU + 1) + free[np.arange(len(free)), picked[:, 0]]
            by_row = self.model.features_by_row
            one: FloatArray = by_row.take(row - need.gpu_milli, axis=0) - by_row.take(row, axis=0)
            return one
        before = np.take_along_axis(free, picked, axis=1)
        after = before - need.gpu_milli
        if need.gpu_milli == MILLI_PER_GPU:
            whole: FloatArray = (table[:, 0] - table[:, MILLI_PER_GPU])[cut] * need.gpu_count
            return whole
        several: FloatArray = (table[cut[:, None], after] - table[cut[:, None], before]).sum(axis=1)
        return several

    def _preference(self, gpu_milli: int) -> FloatArray:
        """[Q, 1002] order in which GPUs with r milli free are taken for a share: least cut value lost, then fullest.

        inf: no room. The last entry is for slots without GPU, whose free milli is −1.
        """
        known = self._preferences.get(gpu_milli)
        if known is None:
            free = np.arange(gpu_milli, MILLI_PER_GPU + 1)
            value = self.model.cut_value
            known = np.full((len(value), MILLI_PER_GPU + 2), np.inf)
            known[:, free] = (value[:, free] - value[:, free - gpu_milli]) * (2 * MILLI_PER_GPU) + free
            self._preferences[gpu_milli] = known
        return known

    # ------------------------------------------------------------------ many replicas of one node

    def _rows(self, nodes: IntArray) -> _Rows:
        state = self.state
        return _Rows(
            nodes,
            state.cpu_milli[nodes],
            state.memory_mib[nodes],
            state.storage_gib[nodes],
            state.gpu_milli[nodes],
            self._features[nodes],
        )

    def _step(self, rows: _Rows, value: FloatArray, need: Need) -> tuple[BoolArray, FloatArray, IntArray]:
        """Put one replica on every row that has room, in place: (room [R], value [R] after, gpu_mask [R])."""
        room = (rows.cpu_milli >= need.cpu_milli) & (rows.memory_mib >= need.memory_mib)
        room &= rows.storage_gib >= need.storage_gib
        mask = np.zeros(len(rows.node), np.int64)
        if need.gpu_count:
            cut = self._cut[rows.node]
            picked = self._pick_gpus(cut, rows.gpu_milli, need)
            room &= picked[:, 0] >= 0
            at = np.flatnonzero(room)
            if len(at):
                rows.features[at] += self._gpu_change(cut[at], rows.gpu_milli[at], picked[at], need)
                rows.gpu_milli[at[:, None], picked[at]] -= need.gpu_milli
                mask[at] = self._gpu_bits[picked[at]].sum(axis=1)
        rows.cpu_milli -= need.cpu_milli * room
        rows.memory_mib -= need.memory_mib * room
        rows.storage_gib -= need.storage_gib * room
        after = np.where(room, self._worth(rows.node, rows.features, rows.cpu_milli, rows.memory_mib), value)
        return room, after, mask


@dataclass(eq=False)
class _Block:
    """Replicas one after another on B nodes: cost[b][j] of the j-th (inf: no room), its GPUs, the rows after all."""

    cost: list[list[float]]
    gpu_mask: list[list[int]]
    rows: list[_Rows]
    """Per need: the rows after the last step, in the order of `place_of`."""
    place_of: list[tuple[int, int, float]]
    """Per node of the block: (need, row in `rows[need]`, value after the last step)."""


class _Bulk:
    """Greedy placement of identical replicas: nodes are opened in the order of their first cost, a heap holds the next
    replica of every open node."""

    def __init__(
        self,
        placer: Placer,
        shape: Shape,
        nodes: IntArray,
        cost: FloatArray,
        price_milli: FloatArray | None,
        node_limit: IntArray | None,
    ) -> None:
        self._placer = placer
        self._shape = shape
        self._nodes = nodes
        self._first_cost = cost[nodes].tolist()
        self._node_ids = nodes.tolist()
        self._price = price_milli
        self._limit = None if node_limit is None else node_limit[nodes].tolist()
        self._block: list[tuple[_Block, int, int]] = []
        """Per opened node: its block, its place in it, and the steps that lie before the block."""

    def run(self, count: int) -> Placements:
        """Place up to `count` replicas."""
        placed: list[tuple[int, int, float]] = []
        heap: list[tuple[float, int, int, int]] = []
        opened = 0
        while len(placed) < count:
            unopened = opened < len(self._node_ids)
            if unopened and (not heap or (self._first_cost[opened], self._node_ids[opened]) < heap[0][:2]):
                cost, node, slot, step = self._first_cost[opened], self._node_ids[opened], opened, 0
                opened += 1
                self._ensure_block(slot, count - len(placed))
            elif heap:
                cost, node, slot, step = heapq.heappop(heap)
            else:
                break
            block, at, skipped = self._block[slot]
            placed.append((node, block.gpu_mask[at][step - skipped], cost))
            following = self._cost_of(slot, step + 1)
            if following < np.inf:
                heapq.heappush(heap, (following, node, slot, step + 1))
        return _placements(placed)

    def _ensure_block(self, slot: int, wanted: int) -> None:
        if slot < len(self._block):
            return
        nodes = self._nodes[slot : slot + min(BLOCK_NODES, wanted)]
        need_of_node = self._placer._views[self._shape].need_of_node[nodes]
        rows, places = [], [(0, 0, 0.0)] * len(nodes)
        for i in range(len(self._shape.needs)):
            mine = np.flatnonzero(need_of_node == i)
            rows.append(self._placer._rows(nodes[mine]))
            for r, b in enumerate(mine.tolist()):
                places[b] = (i, r, float(self._placer._value[nodes[b]]))
        block = self._steps(rows, places, min(BLOCK_STEPS, wanted))
        self._block.extend((block, b, 0) for b in range(len(nodes)))

    def _cost_of(self, slot: int, step: int) -> float:
        """Cost of the node's replica number `step` (0: the first); looks further ahead when needed."""
        if self._limit is not None and step >= self._limit[slot]:
            return np.inf
        block, at, skipped = self._block[slot]
        if step - skipped >= len(block.cost[at]):
            need, row, value = block.place_of[at]
            rows = [
                block.rows[i].of(np.array([row] if i == need else [], np.int64))
                for i in range(len(block.rows))
            ]
            block = self._steps(rows, [(need, 0, value)], BLOCK_STEPS)
            self._block[slot] = (block, 0, step)
            return block.cost[0][0]
        return block.cost[at][step - skipped]

    def _steps(self, rows: list[_Rows], places: list[tuple[int, int, float]], steps: int) -> _Block:
        cost = np.full((len(places), steps), np.inf)
        mask = np.zeros((len(places), steps), np.int64)
        last = list(places)
        for i, need in enumerate(self._shape.needs):
            mine = np.array([b for b, p in enumerate(places) if p[0] == i], np.int64)
            if not len(mine):
                continue
            mine = mine[np.argsort([places[b][1] for b in mine], kind="stable")]
            value = np.array([places[b][2] for b in mine])
            price = 0.0 if self._price is None else self._price[rows[i].node]
            for j in range(steps):
                room, after, gpus = self._placer._step(rows[i], value, need)
                if not room.any():
                    break
                cost[mine, j] = np.where(room, (value - after) / SCALE + price, np.inf)
                mask[mine, j] = gpus
                value = after
            for r, b in enumerate(mine.tolist()):
                last[b] = (i, r, float(value[r]))
        return _Block(cost.tolist(), mask.tolist(), rows, last)


def place_batch(
    placer: Placer, requests: Iterable[Shape], scarcity: ScarcityPrices | None = None
) -> list[Placement | None]:
    """Place a batch of requests in their order; None for those that fit on no node.

    Routing prices, when given, are updated once for the batch. Within a batch capacity only shrinks, so what fitted
    nowhere at its turn fits nowhere at the end of the batch.
    """
    if scarcity is not None:
        scarcity.update()
    return [placer.place_one(s, price_milli=scarcity.price(s) if scarcity else None) for s in requests]


def _cheapest_first(cost: FloatArray, count: int) -> IntArray:
    """At most `count` nodes with finite cost, by cost, then index."""
    nodes = np.flatnonzero(np.isfinite(cost))
    if 0 < count < len(nodes):
        limit = np.partition(cost[nodes], count - 1)[count - 1]
        nodes = nodes[cost[nodes] <= limit]
    return nodes[np.argsort(cost[nodes], kind="stable")][: max(count, 0)]


def _mask(candidates: Candidates, node_count: int) -> BoolArray:
    if candidates.dtype == np.bool_:
        return np.asarray(candidates, np.bool_)
    mask = np.zeros(node_count, np.bool_)
    mask[candidates] = True
    return mask


def _placements(placed: list[tuple[int, int, float]]) -> Placements:
    node, gpu_mask, cost = zip(*placed, strict=True) if placed else ((), (), ())
    return Placements(np.array(node, np.int64), np.array(gpu_mask, np.int64), np.array(cost, np.float64))
