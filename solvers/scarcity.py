"""Routing prices: what one milli-GPU of a pool costs work that could run elsewhere, so that pinned work finds room.

Some work may run on few node groups only (pinned to GPU models, or too large for most nodes). How much of it the
remaining capacity must still take is a small transport program over (kind of work, group). By Hall's theorem it has a
solution just when no *pool* A of groups is overdrawn:

    tightness τ_A = free GPUs of the cluster · D(A) / K(A) ≤ 1

D(A): share of the expected GPU demand that can run nowhere outside A; K(A): GPU-milli that A can still give to that
work, Σ_nodes min(cut value of the free GPUs, g_A · ⌊replicas that free CPU and memory still take⌋) with the mean GPU,
CPU and memory of that work's replicas. The duals of the program would jump from 0 to 1 where a pool becomes tight, a
batch too late; the price rises linearly instead, from RAMP_FROM to 1, and is zero while space is plentiful: quotas that
relax below saturation.

Expected demand is what would fill the cluster: free GPUs, divided as the mix says. Pools are the sets of groups that
some shape is confined to and the unions of two of them, up to half of the cluster's GPUs (beyond that a pool is no
special place any more: pricing it moves ordinary work away from the CPU it needs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from solvers.archive import BoolArray, FloatArray
from solvers.nodes import NodeState, Shape, capacity_counts, replicas_per_node
from solvers.packing import SCALE, MixEntry, PackingModel

PRICE_WEIGHT = 4.0
"""Milli-GPU of packing cost for one milli-GPU of a fully tight pool. Scan of 1 … 16 on six traces with pinned work:
2 leaves a tenth of the gain behind, above 4 nothing changes."""
RAMP_FROM = 0.3
"""Starting at 0.5 lets pinned work be refused at 15 % load on one trace of fourteen, starting at 0 gains nothing."""
LARGEST_POOL_FRAC = 0.5
MAX_POOLS = 256


@dataclass(frozen=True)
class _Confined:
    """Work of one shape: the groups that could host it empty, its share of GPU demand, what one replica takes."""

    groups: frozenset[int]
    share: float
    gpu_milli: float
    cpu_milli: float
    memory_mib: float


@dataclass(frozen=True)
class _Pool:
    """Groups with the work confined to them: its share of GPU demand and what its mean replica takes."""

    groups: frozenset[int]
    share: float
    gpu_milli: float
    cpu_milli: float
    memory_mib: float

    @classmethod
    def of(cls, groups: frozenset[int], work: Sequence[_Confined]) -> _Pool:
        """The mean replica has the work's mean GPU request, with CPU and memory in its ratio to GPU demand."""
        inside = [w for w in work if w.groups <= groups]
        share = sum(w.share for w in inside)
        gpu = share / sum(w.share / w.gpu_milli for w in inside)
        cpu = gpu * sum(w.share * w.cpu_milli / w.gpu_milli for w in inside) / share
        memory = gpu * sum(w.share * w.memory_mib / w.gpu_milli for w in inside) / share
        return cls(groups, share, gpu, max(cpu, 1e-9), max(memory, 1e-9))


class ScarcityPrices:
    """Prices per group for one fleet and mix; `update` reads the state, `price` serves the placer."""

    def __init__(self, state: NodeState, model: PackingModel, mix: Sequence[MixEntry]) -> None:
        self._state = state
        self._model = model
        work = _confined_work(state, mix)
        self._pools = [_Pool.of(groups, work) for groups in _pools(state, work)]
        self._demand = np.array([p.share for p in self._pools])
        member = [[g in p.groups for g in range(state.group_count)] for p in self._pools]
        self._member: BoolArray = np.array(member, bool).reshape(len(member), state.group_count)
        self._nodes = [np.flatnonzero(m[state.node_group]) for m in self._member]
        self.group_price: FloatArray = np.zeros(state.group_count)
        """[G] milli-GPU of cost per milli-GPU taken, after the last `update`."""
        self._node_price: FloatArray | None = None

    def update(self) -> FloatArray:
        """Prices for what is free now; returns `group_price`."""
        if len(self._demand):
            rise = np.clip((self.tightness() - RAMP_FROM) / (1.0 - RAMP_FROM), 0.0, 1.0)
            self.group_price = PRICE_WEIGHT * np.where(self._member, rise[:, None], 0.0).max(axis=0)
            priced = bool(self.group_price.any())
            self._node_price = self.group_price[self._state.node_group] if priced else None
        return self.group_price

    def tightness(self) -> FloatArray:
        """[pools] τ_A now; inf for a pool with demand and nothing left."""
        state = self._state
        free = np.where(state.up[:, None], np.maximum(state.gpu_milli, 0), 0)
        cut = (
            self._model.cut_value[self._model.cut_of_group[state.node_group][:, None], free].sum(axis=1)
            / SCALE
        )
        demand = float(free.sum()) * self._demand
        room = np.zeros(len(demand))
        for i, (pool, nodes) in enumerate(zip(self._pools, self._nodes, strict=True)):
            by_cpu = state.cpu_milli[nodes] / pool.cpu_milli
            replicas = np.floor(np.minimum(by_cpu, state.memory_mib[nodes] / pool.memory_mib))
            room[i] = np.minimum(cut[nodes], replicas * pool.gpu_milli).sum()
        out: FloatArray = np.where(
            room > 0, demand / np.maximum(room, 1.0), np.where(demand > 0, np.inf, 0.0)
        )
        return out

    def price(self, shape: Shape) -> FloatArray | None:
        """[N] addition to the placement cost of one replica, in milli-GPU; None: nothing to add."""
        if self._node_price is None:
            return None
        if len(shape.needs) == 1:
            milli = shape.needs[0].total_gpu_milli
            return self._node_price * milli if milli else None
        of_group = [shape.needs[i].total_gpu_milli if i >= 0 else 0 for i in shape.need_of_group]
        out: FloatArray = self._node_price * np.array(of_group)[self._state.node_group]
        return out


def _confined_work(state: NodeState, mix: Sequence[MixEntry]) -> list[_Confined]:
    kinds, _ = capacity_counts(state)
    out: list[_Confined] = []
    for entry in mix:
        hosts: set[int] = set()
        amounts: list[tuple[int, int, int]] = []
        for i, need in enumerate(entry.shape.needs):
            fits = (replicas_per_node(need, kinds) >= 1) & [
                entry.shape.need_of_group[g] == i for g in kinds[:, 0]
            ]
            groups = set(kinds[fits, 0].tolist())
            hosts |= groups
            amounts += [(need.total_gpu_milli, need.cpu_milli, need.memory_mib)] * len(groups)
        if not amounts or not amounts[0][0]:
            continue
        gpu, cpu, memory = (float(x) for x in np.mean(amounts, axis=0))
        out.append(_Confined(frozenset(hosts), entry.frequency * gpu, gpu, cpu, memory))
    total = sum(w.share for w in out)
    return [replace(w, share=w.share / total) for w in out]


def _pools(state: NodeState, work: Sequence[_Confined]) -> list[frozenset[int]]:
    """Sets that work is confined to, then unions of two, the smallest first."""
    gpus = np.bincount(state.node_group, weights=state.gpu_installed.sum(axis=1), minlength=state.group_count)
    limit = LARGEST_POOL_FRAC * gpus.sum()

    def small(pools: set[frozenset[int]]) -> list[frozenset[int]]:
        fitting = [p for p in pools if 0 < sum(gpus[g] for g in p) <= limit]
        return sorted(fitting, key=lambda p: (float(sum(gpus[g] for g in p)), sorted(p)))

    single = small({w.groups for w in work})
    unions = small({a | b for a, b in combinations(single[:MAX_POOLS], 2)} - set(single))
    return [*single, *unions][:MAX_POOLS]
