"""What a node's free capacity is worth to the work that is likely to come: the measure that packing decisions follow.

`PackingModel` is built once from the fleet and a mix of shapes with frequencies, and gives

- `value`: the worth of what is free on a node, in milli-GPU. A placement costs the value it destroys.
- `fragmentation_frac`: share of the free GPU capacity that the next request of the mix could not use

The value has three terms (f: share of the mix's GPU demand that shape t asks for, free_g: free milli of GPU g):

1. Usable capacity, Σ_t w_t · usable_t. usable_t is the free milli on GPUs with room for t if the node can take one t,
   else 0, as in fragmentation gradient descent (Weng et al., "Beware of Fragmentation", USENIX ATC 2023). Our weight
   is w_t = f_t · installed GPUs / GPUs that empty nodes could give to t: shapes that few nodes can host protect those
   nodes in proportion, which keeps GPU models free for work pinned to them without fixed quotas.
2. Stranded GPUs, −STRANDED_WEIGHT · max(0, Σ_g free_g − what the free CPU and memory can serve at the mix's ratio).
3. Cutting stock, CUT_WEIGHT · Σ_g v(free_g): v(r) is the most that a GPU with r milli free can still take, each share
   priced by the dual of the cutting-stock linear program over the mix (Gilmore and Gomory 1961). It knows that 810
   milli spoil a GPU when hardly any share fits beside them, and which shares make good pairs.

All weights are integers in float64 (exact below 2^53), so that equal states have equal values whatever the order of
summation, and ties are real ties.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from scipy.optimize import linprog

from solvers.archive import FloatArray, IntArray
from solvers.nodes import MILLI_PER_GPU, Need, NodeState, Shape, capacity_counts, replicas_per_node

SCALE = 2**20
"""Integer units of one milli-GPU at weight 1."""
STRANDED_WEIGHT = 2
CUT_WEIGHT = 16
"""Both from a scan of 1, 2, 3 and 1 … 64 over the three openb traces and eleven perturbed ones (other shares, pins,
multi-GPU and CPU-only parts): the mean is flat from 16 on, and 2 is best where large pods must stay placeable."""
MAX_THRESHOLDS = 48
"""CPU or memory steps per group; more are rounded up to this many quantiles."""
MAX_PATTERN_ROUNDS = 200
REDUCED_COST_TOLERANCE = 1e-9


@dataclass(frozen=True)
class MixEntry:
    """One shape of the expected work and how often it arrives, relative to the others."""

    shape: Shape
    frequency: float


@dataclass(frozen=True, eq=False)
class _Steps:
    """Rank of a free amount among the thresholds of its group: one search over keys group · base + threshold."""

    keys: IntArray
    first: IntArray
    count: IntArray
    base: int

    @classmethod
    def over(cls, amounts_of_group: Sequence[Sequence[int]]) -> Self:
        thresholds = [_thin(sorted(set(a))) for a in amounts_of_group]
        base = max((t[-1] for t in thresholds if t), default=0) + 2
        keys = [g * base + t for g, ts in enumerate(thresholds) for t in ts]
        count = np.array([len(t) for t in thresholds], np.int64)
        return cls(np.array(keys, np.int64), np.cumsum(count) - count, count, base)

    def rank(self, group: IntArray, free: IntArray) -> IntArray:
        """How many thresholds of its group each amount reaches."""
        key = group * self.base + np.minimum(free, self.base - 1)
        return np.searchsorted(self.keys, key, side="right") - self.first[group]


def _thin(values: list[int]) -> list[int]:
    """At most MAX_THRESHOLDS of the sorted values, the largest among them."""
    if len(values) <= MAX_THRESHOLDS:
        return values
    keep = np.linspace(0, len(values) - 1, MAX_THRESHOLDS).round().astype(int)
    return [values[i] for i in keep]


@dataclass(frozen=True, eq=False)
class PackingModel:
    """See the module. Columns of a node's features (F of them): counts and sums per GPU size, cut value, total free."""

    sizes: IntArray
    """[D] GPU sizes of the mix in milli, ascending; always with 1000."""
    gpu_features: FloatArray
    """[Q, 1001, F] what a GPU with r milli free adds to its node's features, for each of Q cutting-stock tables."""
    cut_value: FloatArray
    """[Q, 1001] v(r) in units of 1/SCALE milli-GPU."""
    cut_of_group: IntArray
    """[G] table of the group."""
    multi: tuple[tuple[int, int], ...]
    """(index in sizes, GPU count) of the mix's multi-GPU requests."""
    cpu_steps: _Steps
    memory_steps: _Steps
    cell_first: IntArray
    """[G] first row of the group in `weights`."""
    weights: FloatArray
    """[cells, D + multi] Σ w_t of the shapes within these CPU and memory steps, by GPU size or multi-GPU request."""
    plain_weights: FloatArray
    """The same with the frequencies alone, for the fragmentation measure."""
    cpu_milli_per_gpu: float
    """Ratio of the mix, work without GPU included; inf without GPU demand (the same below)."""
    memory_mib_per_gpu: float

    @classmethod
    def build(cls, state: NodeState, mix: Sequence[MixEntry]) -> Self:
        """Model of a fleet (its installed nodes, whatever is placed or down now) and a mix; ValueError if misfit."""
        if any(len(e.shape.need_of_group) != state.group_count for e in mix):
            raise ValueError("a shape of the mix speaks of another number of groups")
        if any(not e.frequency > 0 for e in mix):
            raise ValueError("every frequency of the mix must be positive")
        terms = _mix_terms(state, mix)
        sizes = np.array(sorted({MILLI_PER_GPU} | {t.need.gpu_milli for t in terms}), np.int64)
        multi = sorted({(t.need.gpu_milli, t.need.gpu_count) for t in terms if t.need.gpu_count > 1})
        multi_index = tuple((int(np.searchsorted(sizes, m)), k) for m, k in multi)
        groups = range(state.group_count)
        cpu = _Steps.over([[t.need.cpu_milli for t in terms if t.group == g] for g in groups])
        memory = _Steps.over([[t.need.memory_mib for t in terms if t.group == g] for g in groups])
        cells = (cpu.count + 1) * (memory.count + 1)
        first = np.cumsum(cells) - cells
        boosted, plain = _weight_tables(terms, sizes, multi, cpu, memory, first, int(cells.sum()))
        cut_value, cut_of_group = _cut_tables(state.group_count, terms)
        cpu_ratio, memory_ratio = _usual_ratio(mix)
        return cls(
            sizes=sizes,
            gpu_features=_gpu_features(sizes, cut_value),
            cut_value=cut_value,
            cut_of_group=cut_of_group,
            multi=multi_index,
            cpu_steps=cpu,
            memory_steps=memory,
            cell_first=first,
            weights=boosted,
            plain_weights=plain,
            cpu_milli_per_gpu=cpu_ratio,
            memory_mib_per_gpu=memory_ratio,
        )

    def features(self, group: IntArray, gpu_milli: IntArray) -> FloatArray:
        """[R, F] features of nodes with these free GPUs [R, W] (−1: none installed)."""
        cut, free = self.cut_of_group[group], np.maximum(gpu_milli, 0)  # a GPU with nothing free adds nothing
        out = np.zeros((len(group), self.gpu_features.shape[2]))
        row = cut[:, None] * (MILLI_PER_GPU + 1) + free
        for slot in range(free.shape[1]):
            out += self.features_by_row.take(row[:, slot], axis=0)
        return out

    @cached_property
    def features_by_row(self) -> FloatArray:
        """[Q·1001, F] `gpu_features`, for `take` along one axis, which is several times faster."""
        return self.gpu_features.reshape(-1, self.gpu_features.shape[2])

    def value(
        self, features: FloatArray, group: IntArray, cpu_milli: IntArray, memory_mib: IntArray
    ) -> FloatArray:
        """[R] worth of free capacity in units of 1/SCALE milli-GPU; integers, exact."""
        d = len(self.sizes)
        weights = self.weights.take(self._cell(group, cpu_milli, memory_mib), axis=0)
        total = features[:, 2 * d + 1]
        worth: FloatArray = np.einsum("ij,ij->i", features[:, d : 2 * d], weights[:, :d])
        if self.multi:
            size, count = self._multi_columns
            together = np.where(features[:, size] >= count, features[:, d + size], 0.0)
            worth += np.einsum("ij,ij->i", together, weights[:, d:])
        served = np.floor(
            np.minimum(cpu_milli / self.cpu_milli_per_gpu, memory_mib / self.memory_mib_per_gpu)
            * MILLI_PER_GPU
        )
        stranded = np.maximum(total - served, 0.0) if math.isfinite(self.cpu_milli_per_gpu) else 0.0
        return worth + CUT_WEIGHT * features[:, 2 * d] - (STRANDED_WEIGHT * SCALE) * stranded

    @cached_property
    def _multi_columns(self) -> tuple[IntArray, IntArray]:
        """Column of the size, and GPUs asked for, of each multi-GPU request."""
        size, count = np.array(self.multi, np.int64).T
        return size, count

    def _cell(self, group: IntArray, cpu_milli: IntArray, memory_mib: IntArray) -> IntArray:
        wide = self.memory_steps.count[group] + 1
        by_cpu = self.cpu_steps.rank(group, cpu_milli) * wide
        return self.cell_first[group] + by_cpu + self.memory_steps.rank(group, memory_mib)

    def fragmentation_frac(self, state: NodeState) -> float:
        """Expected share (0..1) of the free GPU-milli on nodes that are up that a request of the mix could not use.

        Requests count by the GPUs they ask for; 0 when nothing is free or the mix has no GPU work.
        """
        rows = np.flatnonzero(state.up)
        group = state.node_group[rows]
        features = self.features(group, state.gpu_milli[rows])
        d = len(self.sizes)
        weights = self.plain_weights[self._cell(group, state.cpu_milli[rows], state.memory_mib[rows])]
        usable = float((features[:, d : 2 * d] * weights[:, :d]).sum())
        for column, (size, count) in enumerate(self.multi, start=d):
            fits = features[:, size] >= count
            usable += float((np.where(fits, features[:, d + size], 0.0) * weights[:, column]).sum())
        free = float(features[:, 2 * d + 1].sum())
        return 1.0 - usable / (SCALE * free) if free > 0 and len(self.weights) and self.weights.any() else 0.0


@dataclass(frozen=True)
class _Term:
    """Need of one shape of the mix on one group, with its weight in the value and in the plain measure."""

    group: int
    need: Need
    share: float
    weight: float


def _mix_terms(state: NodeState, mix: Sequence[MixEntry]) -> list[_Term]:
    """GPU shapes of the mix, group by group; a shape that no node can host has no weight."""
    kinds, counts = capacity_counts(state)
    installed_milli = max(state.installed_gpu_milli, 1)
    asked = np.array([e.frequency * _mean_gpu_milli(e.shape) for e in mix])
    terms = []
    for entry, share in zip(mix, asked / max(float(asked.sum()), 1e-300), strict=True):
        hosted_milli = 0.0
        for i, need in enumerate(entry.shape.needs):
            here = np.array([entry.shape.need_of_group[g] == i for g in kinds[:, 0]], bool)
            if need.gpu_milli and here.any():
                per_node = replicas_per_node(need, kinds[here])
                hosted_milli += float((per_node * counts[here]).sum()) * need.total_gpu_milli
        if hosted_milli <= 0:
            continue
        weight = float(share) * installed_milli / hosted_milli
        for group, i in enumerate(entry.shape.need_of_group):
            if i >= 0 and entry.shape.needs[i].gpu_milli:
                terms.append(_Term(group, entry.shape.needs[i], float(share), weight))
    return terms


def _mean_gpu_milli(shape: Shape) -> float:
    """Milli-GPUs of one replica, mean over the groups where it may run."""
    amounts = [shape.needs[i].total_gpu_milli for i in shape.need_of_group if i >= 0]
    return sum(amounts) / len(amounts) if amounts else 0.0


def _usual_ratio(mix: Sequence[MixEntry]) -> tuple[float, float]:
    """CPU milli and memory MiB that the mix asks for per GPU, work without GPU included."""
    cpu = memory = gpus = 0.0
    for entry in mix:
        needs = [entry.shape.needs[i] for i in entry.shape.need_of_group if i >= 0]
        if needs:
            cpu += entry.frequency * sum(n.cpu_milli for n in needs) / len(needs)
            memory += entry.frequency * sum(n.memory_mib for n in needs) / len(needs)
            gpus += entry.frequency * sum(n.total_gpu_milli for n in needs) / len(needs) / MILLI_PER_GPU
    if gpus <= 0:
        return np.inf, np.inf
    return max(cpu / gpus, 1e-9), max(memory / gpus, 1e-9)


def _weight_tables(
    terms: Sequence[_Term],
    sizes: IntArray,
    multi: Sequence[tuple[int, int]],
    cpu: _Steps,
    memory: _Steps,
    first: IntArray,
    cells: int,
) -> tuple[FloatArray, FloatArray]:
    """Weights summed over all shapes that fit into a (CPU step, memory step) cell; integers of 1/SCALE."""
    boosted = np.zeros((cells, len(sizes) + len(multi)))
    plain = np.zeros_like(boosted)
    for term in terms:
        group = np.array([term.group])
        need = term.need
        # thinned thresholds: the lowest kept one that is not below the need, so a fit is never promised falsely
        cpu_rank = _rank_up(cpu, group, need.cpu_milli)
        memory_rank = _rank_up(memory, group, need.memory_mib)
        cell = first[term.group] + cpu_rank * (memory.count[term.group] + 1) + memory_rank
        if need.gpu_count > 1:
            column = len(sizes) + multi.index((need.gpu_milli, need.gpu_count))
        else:
            column = int(np.searchsorted(sizes, need.gpu_milli))
        boosted[cell, column] += round(term.weight * SCALE)
        plain[cell, column] += round(term.share * SCALE)
    for g in range(len(first)):
        block = slice(int(first[g]), int(first[g] + (cpu.count[g] + 1) * (memory.count[g] + 1)))
        shape = (int(cpu.count[g]) + 1, int(memory.count[g]) + 1, boosted.shape[1])
        for table in (boosted, plain):
            table[block] = table[block].reshape(shape).cumsum(axis=0).cumsum(axis=1).reshape(-1, shape[2])
    return boosted, plain


def _rank_up(steps: _Steps, group: IntArray, amount: int) -> int:
    below = np.searchsorted(steps.keys, group * steps.base + amount, side="left") - steps.first[group]
    return int(below[0]) + 1


def _gpu_features(sizes: IntArray, cut_value: FloatArray) -> FloatArray:
    free = np.arange(MILLI_PER_GPU + 1)
    fits = (free[:, None] >= sizes[None, :]).astype(float)
    tables = [np.column_stack((fits, fits * free[:, None], cut, free)) for cut in cut_value]
    return np.stack(tables)


def _cut_tables(group_count: int, terms: Sequence[_Term]) -> tuple[FloatArray, IntArray]:
    """One cutting-stock table per distinct demand profile of the groups' GPU sizes."""
    whole: dict[tuple[tuple[int, float], ...], int] = {}
    of_group = np.zeros(group_count, np.int64)
    sizes_of_shape: list[dict[int, float]] = [{} for _ in range(group_count)]
    for t in terms:
        share_count = t.share / t.need.total_gpu_milli * t.need.gpu_count
        sizes_of_shape[t.group][t.need.gpu_milli] = (
            sizes_of_shape[t.group].get(t.need.gpu_milli, 0.0) + share_count
        )
    tables: list[FloatArray] = []
    for g in range(group_count):
        key = tuple(sorted((m, round(c, 12)) for m, c in sizes_of_shape[g].items()))
        if key not in whole:
            whole[key] = len(tables)
            tables.append(np.rint(cut_values(dict(key)) * (MILLI_PER_GPU * SCALE)))
        of_group[g] = whole[key]
    return np.stack(tables) if tables else np.zeros((1, MILLI_PER_GPU + 1)), of_group


def cut_values(demand: Mapping[int, float]) -> FloatArray:
    """[1001] v(r): best total of dual prices that fits into r milli, in GPUs (v(1000) = 1 where there is demand).

    Column generation for min Σ_p x_p subject to Σ_p x_p · count[p, size] ≥ demand[size]: a pattern p is a set of
    shares that one GPU can take, the price of a share is its row's dual, the knapsack over the duals is v.
    """
    sizes = [m for m in sorted(demand) if demand[m] > 0]
    if not sizes:
        return np.zeros(MILLI_PER_GPU + 1)
    wanted = np.array([demand[m] for m in sizes])
    wanted = wanted / wanted.sum()
    patterns = [np.eye(len(sizes))[i] * (MILLI_PER_GPU // m) for i, m in enumerate(sizes)]
    value = np.zeros(MILLI_PER_GPU + 1)
    for _ in range(MAX_PATTERN_ROUNDS):
        columns = np.array(patterns).T
        solved = linprog(np.ones(columns.shape[1]), A_ub=-columns, b_ub=-wanted, method="highs-ds")
        if solved.status != 0:
            raise RuntimeError(f"cutting-stock program: {solved.message}")
        prices = np.maximum(-np.asarray(solved.ineqlin.marginals), 0.0)
        value, last = _knapsack(sizes, prices)
        if value[MILLI_PER_GPU] <= 1.0 + REDUCED_COST_TOLERANCE:
            break
        patterns.append(_pattern(sizes, last))
    return np.round(value, 9)


def _knapsack(sizes: Sequence[int], prices: FloatArray) -> tuple[FloatArray, IntArray]:
    """Unbounded knapsack over 0..1000: best value and the last share added (−1: none) for each room."""
    value = np.zeros(MILLI_PER_GPU + 1)
    last = np.full(MILLI_PER_GPU + 1, -1, np.int64)
    for i, size in enumerate(sizes):
        for low in range(size, MILLI_PER_GPU + 1, size):  # a block only looks at the one before it
            high = min(low + size, MILLI_PER_GPU + 1)
            with_it = value[low - size : high - size] + prices[i]
            better = with_it > value[low:high] + 1e-12
            value[low:high][better] = with_it[better]
            last[low:high][better] = i
    return value, last


def _pattern(sizes: Sequence[int], last: IntArray) -> FloatArray:
    out = np.zeros(len(sizes))
    room = MILLI_PER_GPU
    while room > 0 and last[room] >= 0:
        out[last[room]] += 1
        room -= sizes[last[room]]
    return out
