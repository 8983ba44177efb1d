"""Nodes as columns: what every node has free, down to the single GPU, and what one replica takes.

- `Need`: resources of one replica on one kind of node
- `Shape`: the needs of identical replicas on every node group (GPU models may need different amounts)
- `NodeState`: installed and free resources of N nodes; `take` and `give_back` are the only ways to change them

A GPU request is either whole GPUs (`gpu_milli` 1000 on `gpu_count` idle GPUs) or a share (`gpu_milli` < 1000) that
lies on one GPU; several equal shares lie on as many different GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from solvers.archive import BoolArray, FloatArray, IntArray

MILLI_PER_GPU = 1000
NO_GPU = -1
"""Free milli of a slot in which no GPU is installed."""
NOT_ALLOWED = -1
"""Entry of `Shape.need_of_group` where the shape may not run."""


@dataclass(frozen=True, slots=True)
class Need:
    """Resources of one replica. `gpu_count` GPUs with `gpu_milli` free on each (0, 0: no GPU)."""

    cpu_milli: int
    memory_mib: int
    gpu_count: int = 0
    gpu_milli: int = 0
    storage_gib: int = 0

    def __post_init__(self) -> None:
        if min(self.cpu_milli, self.memory_mib, self.storage_gib, self.gpu_count) < 0:
            raise ValueError(f"{self}: negative need")
        if (self.gpu_count > 0) != (self.gpu_milli > 0) or not 0 <= self.gpu_milli <= MILLI_PER_GPU:
            raise ValueError(f"{self}: gpu_milli must be 1..{MILLI_PER_GPU} with a GPU and 0 without")

    @property
    def total_gpu_milli(self) -> int:
        """Milli-GPUs over all GPUs it takes."""
        return self.gpu_count * self.gpu_milli


def split_gpu_milli(gpu_milli: int) -> tuple[int, int]:
    """(gpu_count, gpu_milli of each): up to 1000 is a share of one GPU, above it whole GPUs; ValueError otherwise."""
    if gpu_milli <= MILLI_PER_GPU:
        return (1, gpu_milli) if gpu_milli > 0 else (0, 0)
    if gpu_milli % MILLI_PER_GPU:
        raise ValueError(f"{gpu_milli} milli-GPUs: more than one GPU must be whole GPUs")
    return gpu_milli // MILLI_PER_GPU, MILLI_PER_GPU


@dataclass(frozen=True)
class Shape:
    """Identical replicas: `needs[need_of_group[g]]` is what one takes on a node of group g (−1: may not run there)."""

    needs: tuple[Need, ...]
    need_of_group: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(not NOT_ALLOWED <= i < len(self.needs) for i in self.need_of_group):
            raise ValueError("need_of_group points outside needs")

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Worked out once: caches are asked by shape for every replica, and a fleet has many groups."""
        return hash((self.needs, self.need_of_group))

    @classmethod
    def uniform(cls, need: Need, group_allowed: Sequence[bool] | BoolArray) -> Self:
        """The same need on every allowed group."""
        return cls((need,), tuple(0 if ok else NOT_ALLOWED for ok in group_allowed))

    @classmethod
    def per_group(cls, need: npt.ArrayLike, group_allowed: npt.ArrayLike) -> Self:
        """From need[G, 4] in the order of `solvers.problem.RESOURCES` and a mask [G] of the groups allowed."""
        rows = np.asarray(need, np.int64)
        needs: dict[Need, int] = {}
        of_group = []
        for row, ok in zip(rows.tolist(), np.asarray(group_allowed, bool).tolist(), strict=True):
            if not ok:
                of_group.append(NOT_ALLOWED)
                continue
            cpu_milli, memory_mib, gpu_milli, storage_gib = row
            n = Need(cpu_milli, memory_mib, *split_gpu_milli(gpu_milli), storage_gib=storage_gib)
            of_group.append(needs.setdefault(n, len(needs)))
        return cls(tuple(needs), tuple(of_group))

    def need_on(self, group: int) -> Need | None:
        """Need on one group; None where it may not run."""
        index = self.need_of_group[group]
        return None if index < 0 else self.needs[index]


@dataclass(eq=False)
class NodeState:
    """Free resources of N nodes in G groups; every node has W GPU slots, −1 where no GPU is installed.

    `stamp[N]` grows with every change of a node, so that caches know what to look at again.
    """

    node_group: IntArray
    """[N] group of the node."""
    node_site: IntArray
    """[N] site of the node."""
    group_gpu_memory_mib: IntArray
    """[G] per GPU; 0 without GPU."""
    cpu_capacity_milli: IntArray
    memory_capacity_mib: IntArray
    storage_capacity_gib: IntArray
    gpu_installed: BoolArray
    """[N, W]"""
    cpu_milli: IntArray
    """[N] free, as the next two."""
    memory_mib: IntArray
    storage_gib: IntArray
    gpu_milli: IntArray
    """[N, W] free on each GPU, −1 where none is installed."""
    up: BoolArray
    stamp: IntArray

    @classmethod
    def empty(
        cls,
        node_group: npt.ArrayLike,
        cpu_milli: npt.ArrayLike,
        memory_mib: npt.ArrayLike,
        gpu_count: npt.ArrayLike,
        *,
        storage_gib: npt.ArrayLike | None = None,
        node_site: npt.ArrayLike | None = None,
        group_gpu_memory_mib: npt.ArrayLike | None = None,
        up: npt.ArrayLike | None = None,
    ) -> Self:
        """Nodes with nothing placed. Arrays are [N] but `group_gpu_memory_mib` [G]; left out: zero (`up`: all)."""
        group = np.array(node_group, np.int64)
        n = len(group)
        groups = int(group.max()) + 1 if n else 0
        gpus = np.array(gpu_count, np.int64)
        width = max(1, int(gpus.max(initial=0)))
        installed = np.arange(width)[None, :] < gpus[:, None]
        cpu, memory = np.array(cpu_milli, np.int64), np.array(memory_mib, np.int64)
        storage = np.zeros(n, np.int64) if storage_gib is None else np.array(storage_gib, np.int64)
        gpu_memory = np.zeros(groups, np.int64) if group_gpu_memory_mib is None else group_gpu_memory_mib
        return cls(
            node_group=group,
            node_site=np.zeros(n, np.int64) if node_site is None else np.array(node_site, np.int64),
            group_gpu_memory_mib=np.array(gpu_memory, np.int64),
            cpu_capacity_milli=cpu,
            memory_capacity_mib=memory,
            storage_capacity_gib=storage,
            gpu_installed=installed,
            cpu_milli=cpu.copy(),
            memory_mib=memory.copy(),
            storage_gib=storage.copy(),
            gpu_milli=np.where(installed, MILLI_PER_GPU, NO_GPU).astype(np.int64),
            up=np.ones(n, bool) if up is None else np.array(up, bool),
            stamp=np.ones(n, np.int64),
        )

    @property
    def node_count(self) -> int:
        """N."""
        return len(self.node_group)

    @property
    def group_count(self) -> int:
        """G."""
        return len(self.group_gpu_memory_mib)

    @property
    def free_gpu_milli(self) -> int:
        """Milli-GPUs free over all nodes."""
        return int(np.maximum(self.gpu_milli, 0).sum())

    @property
    def installed_gpu_milli(self) -> int:
        """Milli-GPUs installed over all nodes."""
        return int(self.gpu_installed.sum()) * MILLI_PER_GPU

    def copy(self) -> Self:
        """An independent state; installed facts are shared, for nothing changes them."""
        return type(self)(
            node_group=self.node_group,
            node_site=self.node_site,
            group_gpu_memory_mib=self.group_gpu_memory_mib,
            cpu_capacity_milli=self.cpu_capacity_milli,
            memory_capacity_mib=self.memory_capacity_mib,
            storage_capacity_gib=self.storage_capacity_gib,
            gpu_installed=self.gpu_installed,
            cpu_milli=self.cpu_milli.copy(),
            memory_mib=self.memory_mib.copy(),
            storage_gib=self.storage_gib.copy(),
            gpu_milli=self.gpu_milli.copy(),
            up=self.up.copy(),
            stamp=self.stamp.copy(),
        )

    def set_up(self, nodes: npt.ArrayLike, up: bool) -> None:
        """Nodes that are down take nothing new; what runs on them is the caller's business."""
        rows = np.asarray(nodes, np.int64)
        self.up[rows] = up
        self.stamp[rows] += 1

    def take(self, node: int, need: Need, gpu_mask: int) -> None:
        """Book one replica on the GPUs of the mask; ValueError when it does not fit, and nothing changes then."""
        gpus = gpus_of(gpu_mask)
        row = self.gpu_milli[node]
        if (
            self.cpu_milli[node] < need.cpu_milli
            or self.memory_mib[node] < need.memory_mib
            or self.storage_gib[node] < need.storage_gib
            or len(gpus) != need.gpu_count
            or (gpus and (gpus[-1] >= len(row) or any(row[g] < need.gpu_milli for g in gpus)))
        ):
            raise ValueError(f"{need} with GPUs {gpus} does not fit on node {node}")
        self._change(node, need, gpus, -1)

    def give_back(self, node: int, need: Need, gpu_mask: int) -> None:
        """Return what `take` booked; ValueError when the node would have more than is installed."""
        gpus = gpus_of(gpu_mask)
        row = self.gpu_milli[node]
        if (
            self.cpu_milli[node] + need.cpu_milli > self.cpu_capacity_milli[node]
            or self.memory_mib[node] + need.memory_mib > self.memory_capacity_mib[node]
            or self.storage_gib[node] + need.storage_gib > self.storage_capacity_gib[node]
            or len(gpus) != need.gpu_count
            or any(g >= len(row) or row[g] == NO_GPU or row[g] + need.gpu_milli > MILLI_PER_GPU for g in gpus)
        ):
            raise ValueError(f"{need} with GPUs {gpus} was not placed on node {node}")
        self._change(node, need, gpus, 1)

    def _change(self, node: int, need: Need, gpus: list[int], sign: int) -> None:
        self.cpu_milli[node] += sign * need.cpu_milli
        self.memory_mib[node] += sign * need.memory_mib
        self.storage_gib[node] += sign * need.storage_gib
        for g in gpus:
            self.gpu_milli[node, g] += sign * need.gpu_milli
        self.stamp[node] += 1

    def take_many(
        self, nodes: IntArray, needs: Sequence[Need], need_index: IntArray, gpu_mask: IntArray
    ) -> None:
        """Book P replicas at once: replica p takes `needs[need_index[p]]` on `nodes[p]`; ValueError if that overbooks.

        On an error nothing has changed.
        """
        table = np.array([(n.cpu_milli, n.memory_mib, n.storage_gib, n.gpu_milli) for n in needs], np.int64)
        take = table.reshape(-1, 4)[need_index]
        bits = (gpu_mask[:, None] >> np.arange(self.gpu_milli.shape[1])) & 1
        rows, inverse = np.unique(nodes, return_inverse=True)
        used = np.zeros((len(rows), 3 + self.gpu_milli.shape[1]), np.int64)
        np.add.at(used, inverse, np.concatenate((take[:, :3], bits * take[:, 3:]), axis=1))
        free = np.column_stack(
            (self.cpu_milli[rows], self.memory_mib[rows], self.storage_gib[rows], self.gpu_milli[rows])
        )
        if np.any((used > 0) & (used > free)):
            raise ValueError("the replicas do not fit together on their nodes")
        left = free - used
        self.cpu_milli[rows], self.memory_mib[rows], self.storage_gib[rows] = (
            left[:, 0],
            left[:, 1],
            left[:, 2],
        )
        self.gpu_milli[rows] = left[:, 3:]
        self.stamp[rows] += 1


def gpus_of(gpu_mask: int) -> list[int]:
    """GPU indices of a bit mask, ascending."""
    return [g for g in range(gpu_mask.bit_length()) if gpu_mask >> g & 1]


def gpu_mask_of(gpus: Sequence[int]) -> int:
    """Bit mask of GPU indices."""
    return sum(1 << g for g in set(gpus))


def allowed_groups(
    state: NodeState, group_gpu_model: Sequence[str], models: Sequence[str], gpu_memory_mib: int = 0
) -> BoolArray:
    """[G] groups whose GPU model is named (empty: any) and whose GPUs have at least that memory."""
    named = np.array([not models or m in models for m in group_gpu_model], bool)
    enough: BoolArray = state.group_gpu_memory_mib >= gpu_memory_mib
    return named & enough


def capacity_counts(state: NodeState) -> tuple[IntArray, IntArray]:
    """Distinct rows (group, cpu_milli, memory_mib, storage_gib, gpu_count) of installed nodes, and how many of each."""
    rows = np.column_stack(
        (
            state.node_group,
            state.cpu_capacity_milli,
            state.memory_capacity_mib,
            state.storage_capacity_gib,
            state.gpu_installed.sum(axis=1),
        )
    )
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    return kinds, counts


def replicas_per_node(need: Need, kinds: IntArray) -> FloatArray:
    """[K] how many such replicas an empty node of each kind takes (inf for a need of nothing)."""
    out = np.full(len(kinds), np.inf)
    for column, amount in ((1, need.cpu_milli), (2, need.memory_mib), (3, need.storage_gib)):
        if amount:
            out = np.minimum(out, kinds[:, column] // amount)
    if need.gpu_count:
        shares = kinds[:, 4] * (MILLI_PER_GPU // need.gpu_milli)
        fits = kinds[:, 4] >= need.gpu_count
        out = np.minimum(out, np.where(fits, shares // need.gpu_count, 0))
    return out
