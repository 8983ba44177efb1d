"""Reservations: a gang that does not fit keeps the nodes that come free first, so that it does not starve.

EASY backfilling (Lifka, JSSPP 1995), one reservation for each pool of equal nodes: the earliest instant at which the
gang fits is found from the declared ends of what runs; until then only work that ends before passes on the nodes kept.
Services never end, so their nodes count only with what is free on them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.state import NEVER_S, ClusterState
from scheduler.planner.feasibility import SpecView, per_empty_node
from scheduler.planner.queue import START_MARGIN_S
from scheduler.planner.snapshot import MANY, Snapshot, device_shares, gpu_fit

MAX_RESERVATIONS = 8
MAX_INSTANTS = 64
"""Ends looked at per pool; more are thinned, which can only make a reservation a little later."""


@dataclass(frozen=True)
class Ends:
    """When what is placed will give its room back: rows of (node, spec, devices, instant)."""

    node: NDArray[np.int64]
    spec: NDArray[np.int64]
    gpu_mask: NDArray[np.int64]
    at_s: NDArray[np.float64]

    def of(self, keep: NDArray[np.bool_]) -> Ends:
        """Some of the rows."""
        return Ends(self.node[keep], self.spec[keep], self.gpu_mask[keep], self.at_s[keep])

    def with_started(self, state: ClusterState, placed: Sequence[tuple[int, int, int]], at_s: float) -> Ends:
        """And those of the (row, node, devices) that start at an instant and end as declared."""
        new = np.array(placed, np.int64).reshape(len(placed), 3)
        left_s = (state.replicas["work_s"] - state.replicas["done_work_s"])[new[:, 0]]
        return Ends(
            node=np.concatenate([self.node, new[:, 1]]),
            spec=np.concatenate([self.spec, state.replicas["spec"][new[:, 0]].astype(np.int64)]),
            gpu_mask=np.concatenate([self.gpu_mask, new[:, 2]]),
            at_s=np.concatenate([self.at_s, at_s + left_s]),
        )


@dataclass(frozen=True)
class Slot:
    """The earliest start found for a gang: the instant and the nodes to keep."""

    at_s: int
    group: int
    nodes: NDArray[np.int64]


@dataclass
class Reservations:
    """Nodes kept within one round; scratch."""

    snapshot: Snapshot
    now_s: int
    until_s: NDArray[np.int64] = field(init=False)
    """(N,) instant from which the node is wanted by a gang; 0: not kept."""
    whose: NDArray[np.int64] = field(init=False)
    """(N,) workload for which it is kept; −1: for none."""
    groups: set[int] = field(default_factory=set)
    sites: set[int] = field(default_factory=set)
    """Of the groups in which nodes are kept."""
    instants: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """The different instants for which nodes are kept, in order."""

    def __post_init__(self) -> None:
        self.until_s = np.zeros(self.snapshot.topology.node_count, np.int64)
        self.whose = np.full(self.snapshot.topology.node_count, -1, np.int64)

    def passes(self, at: NDArray[np.int64], left_s: float) -> NDArray[np.bool_]:
        """(len(at),) nodes that are not kept, or free again before they are wanted."""
        until = self.until_s[at]
        free: NDArray[np.bool_] = (until == 0) | (self.now_s + left_s + START_MARGIN_S <= until)
        return free

    def may_keep(self, groups: NDArray[np.int64]) -> bool:
        """Whether another gang could still keep nodes of one of these pools."""
        return len(self.groups) < MAX_RESERVATIONS and not self.groups.issuperset(groups.tolist())

    def over(self, snapshot: Snapshot) -> Reservations:
        """The same kept nodes over another snapshot."""
        twin = Reservations(snapshot, self.now_s)
        twin.until_s[:], twin.whose[:] = self.until_s, self.whose
        twin.groups, twin.sites, twin.instants = set(self.groups), set(self.sites), self.instants
        return twin

    def keep(self, slot: Slot | None, workload: int) -> None:
        """Keep the nodes of a slot that lies ahead for this workload, one slot for each pool."""
        if slot is None or slot.at_s <= self.now_s:
            return
        self.groups.add(slot.group)
        self.sites.add(int(self.snapshot.topology.group_site[slot.group]))
        self.until_s[slot.nodes], self.whose[slot.nodes] = slot.at_s, workload
        self.instants = np.unique(self.until_s[self.until_s > 0])

    def close(self, nodes: Sequence[int]) -> None:
        """Let nothing that never ends pass on these nodes; kept ones stay kept."""
        at = np.array(nodes, np.int64)
        at = at[self.until_s[at] == 0]
        self.until_s[at] = NEVER_S
        self.groups.update(self.snapshot.topology.node_group[at].tolist())
        self.sites.update(self.snapshot.topology.node_site[at].tolist())


def ends_of(
    state: ClusterState,
    placed: Sequence[tuple[int, int, int]],
    now_s: int,
    gone: Collection[int] = (),
    *,
    overrun_frac: float = 0.0,
) -> Ends:
    """Declared ends of what is placed but for rows `gone`, and of the (row, node, devices) this round has placed.

    The old placement of a replica that moves ends when the new one runs: so soon that it counts as the next instant.
    So does work that runs longer than declared, or it runs on for this part of the time by which it is overdue.
    """
    replicas = state.replicas
    on = np.flatnonzero(replicas["node"] >= 0)
    if gone:
        on = on[~np.isin(on, sorted(gone))]
    new = np.array(placed, np.int64).reshape(len(placed), 3)
    rows = np.concatenate([on, new[:, 0]])
    start_s = np.maximum(replicas["placed_s"], replicas["running_s"])[rows]
    start_s[len(on) :] = now_s
    left_s = replicas["work_s"][rows] - replicas["done_work_s"][rows]
    end_s = start_s + left_s
    soon_s = now_s + np.maximum(1.0, overrun_frac * np.maximum(now_s - end_s, 0.0))
    old = np.array([(d.node, d.spec, d.gpu_mask) for d in state.draining.values()], np.int64).reshape(-1, 3)
    return Ends(
        node=np.concatenate([replicas["node"][on], new[:, 1], old[:, 0]]).astype(np.int64),
        spec=np.concatenate([replicas["spec"][rows], old[:, 1]]).astype(np.int64),
        gpu_mask=np.concatenate([replicas["gpu_mask"][on], new[:, 2], old[:, 2]]).astype(np.int64),
        at_s=np.concatenate([np.maximum(end_s, soon_s), np.full(len(old), now_s + 1.0)]),
    )


def earliest_slot(
    snapshot: Snapshot,
    view: SpecView,
    count: int,
    ends: Ends,
    now_s: int,
    skip_groups: Collection[int] = (),
) -> Slot | None:
    """The earliest instant at which one pool holds `count` replicas together; None when no declared end makes room."""
    best: Slot | None = None
    for group in view.candidate_groups.tolist():
        if group in skip_groups:
            continue
        slot = _slot_in_group(snapshot, view, count, ends, now_s, group)
        if slot is not None and (best is None or slot.at_s < best.at_s):
            best = slot
    return best


def _slot_in_group(
    snapshot: Snapshot,
    view: SpecView,
    count: int,
    ends: Ends,
    now_s: int,
    group: int,
) -> Slot | None:
    topology = snapshot.topology
    first = int(topology.group_first_node[group])
    last = first + int(topology.group_node_count[group])
    ends = ends.of((ends.node >= first) & (ends.node < last) & (ends.at_s < NEVER_S))
    instants = np.unique(ends.at_s)
    if len(instants) > MAX_INSTANTS:
        instants = instants[np.linspace(0, len(instants) - 1, MAX_INSTANTS).round().astype(int)]
    instants = np.concatenate([[float(now_s)], instants])
    island = int(topology.group_island_nodes[group])
    islands = _islands(first, last, island, count <= per_empty_node(view, group) * island)

    def nodes_at(instant: float) -> NDArray[np.int64] | None:
        fit = _fit_after(snapshot, view, first, last, ends.of(ends.at_s <= instant))
        for start, stop in islands:
            room = fit[start - first : stop - first]
            if room.sum() >= count:
                order = np.argsort(-room, kind="stable")
                needed = int(np.searchsorted(np.cumsum(room[order]), count)) + 1
                return np.sort(order[:needed] + start)
        return None

    low, high = 0, len(instants) - 1
    if nodes_at(float(instants[high])) is None:
        return None
    while low < high:
        middle = (low + high) // 2
        if nodes_at(float(instants[middle])) is None:
            low = middle + 1
        else:
            high = middle
    nodes = nodes_at(float(instants[low]))
    assert nodes is not None
    return Slot(int(np.ceil(instants[low])), group, nodes)


def _islands(first: int, last: int, size: int, in_one: bool) -> list[tuple[int, int]]:
    """Node ranges that may hold the gang: each fabric island, or the whole group when no island is large enough."""
    if not in_one:
        return [(first, last)]
    return [(i, min(i + size, last)) for i in range(first, last, size)]


def _fit_after(snapshot: Snapshot, view: SpecView, first: int, last: int, gone: Ends) -> NDArray[np.int64]:
    """(last − first,) replicas each node holds once the placements `gone` have ended."""
    nodes, topology, stage = snapshot.nodes, snapshot.topology, view.spec.stage
    at = np.arange(first, last)
    group = int(topology.node_group[first])
    need, where = snapshot.views.needs()[gone.spec, group], gone.node - first
    returned = _sums_by_node(where, need, last - first)
    cpu, memory = nodes.cpu_milli[at] + returned[:, 0], nodes.memory_mib[at] + returned[:, 1]
    storage, gpus = nodes.storage_gib[at] + returned[:, 3], nodes.gpu_milli[at].copy()
    if stage.gpu_milli:
        gpus += _sums_by_node(where, device_shares(gone.gpu_mask, need[:, 2]), last - first)
    fit = np.where(nodes.up[at] & ~nodes.cordoned[at], MANY, 0)
    for free, need in ((cpu, stage.cpu_milli), (memory, stage.memory_mib), (storage, stage.storage_gib)):
        if need > 0:
            fit = np.minimum(fit, free // need)
    if stage.gpu_milli:
        fit = np.minimum(fit, gpu_fit(gpus, np.full(len(at), view.need[group, 2])))
    return fit


def _sums_by_node(where: NDArray[np.int64], amounts: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(count, columns) sums of the rows of `amounts` by their node; as floats on the way, exact below 2^53."""
    columns = amounts.shape[1]
    at = where[:, None] * columns + np.arange(columns)
    sums = np.bincount(at.ravel(), amounts.ravel(), count * columns)
    return sums.reshape(count, columns).astype(np.int64)
