"""Snapshot: the working copy of one round: free resources, what runs where, link loads and power, kept in step as
replicas are placed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.shapes import ShapeTable
from scheduler.domain.state import MAX_GPUS_PER_NODE, ClusterState, NodeResources
from scheduler.domain.topology import Topology
from scheduler.planner.feasibility import SpecView, Views, keeps_off_floor
from scheduler.planner.folds import folds_of
from suanli.model import Workload
from suanli.model.units import MILLI

WHOLE_GPU_MILLI = MILLI
MANY = 10**9
"""Stands for "no limit" in counts of replicas."""
POWER_SLACK_W = 1e-6
LINK_SLACK_MBPS = 1e-6
FLOOR_SLACK = 1e-6


@dataclass
class Snapshot:
    """Mutable only within one round; never shared."""

    topology: Topology
    views: Views
    nodes: NodeResources
    running: NDArray[np.int64]
    """(specs, G) replicas ordered or running."""
    empty_node: NDArray[np.bool_]
    """(N,) nothing is placed there: the node sleeps or soon will."""
    dynamic_w: NDArray[np.float64]
    """(S,) mean dynamic power of what is placed."""
    idle_w: NDArray[np.float64]
    """(S,) idle power of the nodes that are on."""
    link_mbps: NDArray[np.float64]
    """(L,) planned load."""
    replica_count: NDArray[np.int64]
    """(N,) replicas on each node."""
    fold: NDArray[np.int64]
    """(specs,) fold of each spec: plans count the specs of a fold together."""
    fold_running: NDArray[np.int64]
    """(folds, G) `running`, summed over the specs of each fold."""
    stamp: NDArray[np.int64] = field(init=False)
    """(N,) grows with every change of a node, so that what is computed of a node can be kept until then."""
    returned: list[int] = field(default_factory=list)
    """Nodes to which room was given back since somebody last emptied this list."""
    changed: list[list[int]] = field(init=False)
    """(S,) nodes of each site that changed, in order of the changes."""
    low_used: NDArray[np.int64] | None = None
    """(G, R) taken by work ranked below public service; None when the policy reserves no floor."""
    _nodes_of: dict[bytes, NDArray[np.int64]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.stamp = np.ones(self.topology.node_count, np.int64)
        self.changed = [[] for _ in range(self.topology.site_count)]

    @classmethod
    def take(cls, state: ClusterState, views: Views) -> Snapshot:
        """From the state; costs one pass over the replica columns."""
        topology, nodes = state.topology, state.nodes
        assert topology is not None and nodes is not None
        specs, groups = len(state.shapes.specs), len(topology.group_ids)
        node = state.replicas["node"]
        placed = np.flatnonzero(node >= 0)
        at = node[placed].astype(np.int64)
        pair = state.replicas["spec"][placed] * np.int64(groups) + topology.node_group[at]
        running = np.bincount(pair, minlength=specs * groups).reshape(specs, groups)
        drawing = running
        if state.draining:
            old_node = np.array([d.node for d in state.draining.values()], np.int64)
            old_spec = np.array([d.spec for d in state.draining.values()], np.int64)
            drawing = running.copy()
            np.add.at(drawing, (old_spec, topology.node_group[old_node]), 1)
            at = np.concatenate([at, old_node])
        count = np.bincount(at, minlength=topology.node_count)
        snapshot = cls(
            topology=topology,
            views=views,
            nodes=nodes.copy(),
            running=running,
            empty_node=count == 0,
            dynamic_w=np.zeros(topology.site_count),
            idle_w=np.bincount(
                topology.node_site,
                np.where(count > 0, topology.group_idle_w[topology.node_group], 0.0),
                topology.site_count,
            ).astype(np.float64),
            link_mbps=np.zeros(len(topology.link_capacity_mbps)),
            replica_count=count,
            fold=(fold := folds_of(views).all(specs)),
            fold_running=_by_fold(running, fold),
            low_used=None if topology.reserved_floor_frac is None else np.zeros_like(topology.group_capacity),
        )
        snapshot._add_loads(drawing)
        snapshot.link_mbps += pipelines_mbps(state, topology)
        snapshot.link_mbps -= snapshot.takeover_mbps(state)
        return snapshot

    def _add_loads(self, drawing: NDArray[np.int64]) -> None:
        """Power, zone traffic and use of what stands above floors, of `drawing` (specs, G) replicas more or fewer."""
        topology, views = self.topology, self.views
        spec, group, count = _counts(drawing)
        site = topology.group_site[group]
        by_group = np.bincount(group, count * views.watts()[spec, group], len(topology.group_ids))
        self.dynamic_w += np.bincount(topology.group_site, by_group, topology.site_count)
        hub_mbps = views.hub_mbps()[spec]
        for hub, routes in enumerate(topology.hub_routes.values()):
            mbps_of_site = np.bincount(site, count * hub_mbps[:, hub], topology.site_count)
            self.link_mbps += (mbps_of_site[:, None] * routes).sum(axis=0)
        if self.low_used is not None:
            low = views.off_floor()[spec]
            np.add.at(self.low_used, group[low], count[low, None] * views.needs()[spec[low], group[low]])

    def same_road_mbps(self, spec: int, site: int) -> NDArray[np.float64]:
        """(L,) what a replica that moves within its site does not load twice: its traffic goes to one of its places."""
        mbps: NDArray[np.float64] = self.views.link_mbps_per_replica(spec)[site]
        return mbps

    def takeover_mbps(self, state: ClusterState) -> NDArray[np.float64]:
        """(L,) `same_road_mbps` of all replicas whose old and new place at one site both stand."""
        out = np.zeros_like(self.link_mbps)
        site_of, node = self.topology.node_site, state.replicas["node"]
        for row, old in state.draining.items():
            if node[row] >= 0 and site_of[node[row]] == site_of[old.node]:
                out += self.same_road_mbps(old.spec, int(site_of[old.node]))
        return out

    def copy(self) -> Snapshot:
        """Own arrays, for a trial."""
        return Snapshot(
            topology=self.topology,
            views=self.views,
            nodes=self.nodes.copy(),
            running=self.running.copy(),
            empty_node=self.empty_node.copy(),
            dynamic_w=self.dynamic_w.copy(),
            idle_w=self.idle_w.copy(),
            link_mbps=self.link_mbps.copy(),
            replica_count=self.replica_count.copy(),
            fold=self.fold,
            fold_running=self.fold_running.copy(),
            low_used=None if self.low_used is None else self.low_used.copy(),
            _nodes_of=self._nodes_of,
        )

    def restore(self, saved: Snapshot) -> None:
        """Back to what `copy` kept."""
        names = ("running", "empty_node", "dynamic_w", "idle_w", "link_mbps", "replica_count", "fold_running")
        for name in names:
            getattr(self, name)[...] = getattr(saved, name)
        if self.low_used is not None:
            assert saved.low_used is not None
            self.low_used[...] = saved.low_used
        changed = np.zeros(self.topology.node_count, bool)
        for name in NodeResources.__dataclass_fields__:
            now, then = getattr(self.nodes, name), getattr(saved.nodes, name)
            changed |= (now != then).any(axis=1) if now.ndim == 2 else now != then
            now[...] = then
        self.stamp += changed
        nodes_back = np.flatnonzero(changed).tolist()
        self.returned += nodes_back
        self._note_changed(nodes_back)

    def running_of_fold(self, spec: int) -> NDArray[np.int64]:
        """(G,) replicas ordered or running of every spec that plans count together with this one."""
        running: NDArray[np.int64] = self.fold_running[self.fold[spec]]
        return running

    # ---------------------------------------------------------------- what fits

    def nodes_of(self, groups: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Nodes of these groups, in order; masks are few, so they are kept."""
        key = groups.tobytes()
        known = self._nodes_of.get(key)
        if known is None:
            known = self._nodes_of[key] = np.flatnonzero(groups[self.topology.node_group])
        return known

    def fit(self, view: SpecView, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """(len(at),) how many more replicas each of these nodes holds; 0 on nodes down or cordoned.

        Together they hold no more than the policy's reserved floor leaves to work of that rank.
        """
        return self._off_floor(view, at, self.fit_of_nodes(view, at))

    def fit_of_nodes(self, view: SpecView, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """(len(at),) as `fit`, by what is free on each node alone."""
        nodes, stage = self.nodes, view.spec.stage
        fit = np.where(nodes.up[at] & ~nodes.cordoned[at], MANY, 0)
        for free, need in (
            (nodes.cpu_milli, stage.cpu_milli),
            (nodes.memory_mib, stage.memory_mib),
            (nodes.storage_gib, stage.storage_gib),
        ):
            if need > 0:
                fit = np.minimum(fit, free[at] // need)
        if stage.gpu_milli:
            need_milli = view.need[self.topology.node_group[at], 2]
            fit = np.minimum(fit, gpu_fit(self._free_by_device(at).T, need_milli))
        return fit

    def spare_beside(self, at: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(len(at),) cores (milli) and memory (MiB) of nodes with GPUs that no free GPU needs; below 0: too few left.

        spare(n) = free(n) − capacity(n) · free GPU-milli(n) / installed GPU-milli(n): free GPUs keep their even share.
        """
        topology, nodes = self.topology, self.nodes
        group = topology.node_group[at]
        free_frac = self.gpus_free(at) / (topology.group_gpu_count[group] * WHOLE_GPU_MILLI)
        keep = np.ceil(topology.group_capacity[group, :2] * free_frac[:, None]).astype(np.int64)
        return nodes.cpu_milli[at] - keep[:, 0], nodes.memory_mib[at] - keep[:, 1]

    def fit_beside(self, view: SpecView, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """(len(at),) of `fit_of_nodes` on nodes with GPUs, what finds room in `spare_beside`."""
        cpu_milli, memory_mib = self.spare_beside(at)
        return fit_in_spare(view, self.fit_of_nodes(view, at), cpu_milli, memory_mib)

    def holds_one(self, view: SpecView, at: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(len(at),) whether each of these nodes, usable and with CPU and memory enough, holds one more replica."""
        nodes, stage = self.nodes, view.spec.stage
        holds = np.ones(len(at), bool)
        if stage.storage_gib:
            holds &= nodes.storage_gib[at] >= stage.storage_gib
        if stage.gpu_milli:
            holds &= self.gpus_hold_one(at, view.need[self.topology.node_group[at], 2])
        return holds

    def gpus_hold_one(self, at: NDArray[np.int64], need_milli: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(len(at),) whether the GPUs of each of these nodes hold one more replica, which needs so much there."""
        free = self._free_by_device(at)
        whole_count = np.count_nonzero(need_milli >= WHOLE_GPU_MILLI)
        if whole_count == len(at):
            holds: NDArray[np.bool_] = (free == WHOLE_GPU_MILLI).sum(axis=0) * WHOLE_GPU_MILLI >= need_milli
        elif not whole_count:
            holds = (need_milli > 0) & (free.max(axis=0) >= need_milli)
        else:
            holds = gpu_fit(free.T, need_milli) > 0
        return holds

    def _off_floor(self, view: SpecView, at: NDArray[np.int64], fit: NDArray[np.int64]) -> NDArray[np.int64]:
        """`fit`, cut so that its sum over each group stays within `floor_room`: the fullest nodes keep theirs."""
        if self.low_used is None or not keeps_off_floor(view) or not len(at):
            return fit
        group = self.topology.node_group[at]
        order = np.lexsort((at, self.nodes.cpu_milli[at], group))
        before = np.cumsum(fit[order]) - fit[order]
        first = np.flatnonzero(np.diff(group[order], prepend=-1))
        before -= np.repeat(before[first], np.diff(np.append(first, len(order))))
        cut = np.empty_like(fit)
        cut[order] = np.clip(self.floor_room(view)[group[order]] - before, 0, fit[order])
        return cut

    def floor_room(self, view: SpecView) -> NDArray[np.int64]:
        """(G,) replicas that may still be added to each group before its reserved floor is touched.

        Σ need of work ranked below public service ≤ (1 − floor) · capacity of the group's usable nodes, per resource:
        the same rule as the plan's (`plan_rules.define_reserved_floor`), without its packing yield.
        """
        topology, floor = self.topology, self.topology.reserved_floor_frac
        if floor is None or self.low_used is None or not keeps_off_floor(view):
            return np.full(len(topology.group_ids), MANY)
        usable = self.nodes.up & (~self.nodes.cordoned | (self.replica_count > 0))
        count = np.bincount(topology.node_group, usable, len(topology.group_ids))
        allowed = (1.0 - floor)[:, None] * count[:, None] * topology.group_capacity
        spare = np.maximum(allowed - self.low_used, 0.0)
        room = np.where(
            view.need > 0, np.floor((spare + FLOOR_SLACK) / np.maximum(view.need, 1)), float(MANY)
        ).min(axis=1)
        limited = (floor > 0.0) & view.group_ok
        return np.where(limited, np.minimum(room, MANY), MANY).astype(np.int64)

    def gpus_free(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """(len(at),) milli-GPUs free on each of these nodes, over all devices."""
        free: NDArray[np.int64] = np.maximum(self._free_by_device(at), 0).sum(axis=0)
        return free

    def _free_by_device(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """(devices, len(at)) milli-GPUs free; a row for each device, for sums over a few columns are slow."""
        return self.nodes.gpu_milli.take(at, axis=0)[:, : self.gpu_slots].T.copy()

    @cached_property
    def gpu_slots(self) -> int:
        """GPUs of the node that has most of them, at least 1."""
        return int(self.topology.group_gpu_count.max(initial=1))

    def fit_per_node(self, view: SpecView, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(N,) how many more replicas each node holds; 0 outside `mask`, on nodes down or cordoned."""
        out = np.zeros(self.topology.node_count, np.int64)
        at = np.flatnonzero(mask)
        out[at] = self.fit(view, at)
        return out

    def spare_w(self) -> NDArray[np.float64]:
        """(S,) IT power left under each site's limit."""
        spare: NDArray[np.float64] = self.topology.power_limit_w - self.idle_w - self.dynamic_w
        return spare

    def spare_mbps(self) -> NDArray[np.float64]:
        """(L,) what links may still carry; 0 on links that are over it already."""
        return np.maximum(self.topology.link_spare_mbps - self.link_mbps, 0.0)

    def site_headroom(self, view: SpecView) -> NDArray[np.int64]:
        """(S,) replicas that power limits and links still allow at each site, each on a node that has to wake."""
        topology = self.topology
        watts = np.zeros(topology.site_count)
        here = view.group_ok
        np.maximum.at(watts, topology.group_site[here], (view.watts + topology.group_idle_w)[here])
        spare = np.floor((self.spare_w() + POWER_SLACK_W) / np.maximum(watts, 1e-9))
        headroom = np.where(watts > 0, spare, MANY)
        if view.has_traffic:
            mbps = self.views.link_mbps_per_replica(view.spec.spec)
            per_link = np.where(
                mbps > 0, np.floor((self.spare_mbps() + LINK_SLACK_MBPS) / np.maximum(mbps, 1e-12)), MANY
            )
            headroom = np.minimum(headroom, per_link.min(axis=1, initial=MANY))
        return np.clip(headroom, 0, MANY).astype(np.int64)

    # ---------------------------------------------------------------- changes

    def take_node(self, view: SpecView, node: int, gpu_mask: int, count_sign: int = 1) -> None:
        """Put one replica of the spec on a node (or take it off with −1)."""
        topology, nodes, stage = self.topology, self.nodes, view.spec.stage
        group = int(topology.node_group[node])
        site = int(topology.node_site[node])
        nodes.cpu_milli[node] -= count_sign * stage.cpu_milli
        nodes.memory_mib[node] -= count_sign * stage.memory_mib
        if stage.storage_gib:
            nodes.storage_gib[node] -= count_sign * stage.storage_gib
        if gpu_mask:
            each = int(view.need[group, 2]) // gpu_mask.bit_count()
            for g in devices_of(gpu_mask):
                nodes.gpu_milli[node, g] -= count_sign * each
        self.running[view.spec.spec, group] += count_sign
        self.fold_running[self.fold[view.spec.spec], group] += count_sign
        self.stamp[node] += 1
        self.changed[site].append(node)
        if count_sign < 0:
            self.returned.append(node)
        was = int(self.replica_count[node])
        self.replica_count[node] = was + count_sign
        was_empty, is_empty = was == 0, was + count_sign == 0
        if was_empty != is_empty:
            self.empty_node[node] = is_empty
            self.idle_w[site] += topology.group_idle_w[group] * (-1.0 if is_empty else 1.0)
        self.dynamic_w[site] += count_sign * view.watts[group]
        if self.low_used is not None and keeps_off_floor(view):
            self.low_used[group] += count_sign * view.need[group]
        if view.has_traffic:
            self.link_mbps += count_sign * self.views.link_mbps_per_replica(view.spec.spec)[site]

    def _note_changed(self, nodes: list[int]) -> None:
        for node, site in zip(nodes, self.topology.node_site[nodes].tolist(), strict=True):
            self.changed[site].append(node)

    def give_back(
        self, spec: NDArray[np.int64], node: NDArray[np.int64], gpu_mask: NDArray[np.int64]
    ) -> None:
        """Take many replicas of different specs off their nodes at once; as `take_node` with −1 for each.

        Traffic between the stages of a workload stays on the links: which sites it joins is not known here.
        """
        topology, nodes = self.topology, self.nodes
        need = self.views.needs()[spec, topology.node_group[node]]
        np.add.at(nodes.cpu_milli, node, need[:, 0])
        np.add.at(nodes.memory_mib, node, need[:, 1])
        np.add.at(nodes.storage_gib, node, need[:, 3])
        np.add.at(nodes.gpu_milli, node, device_shares(gpu_mask, need[:, 2]))
        leaving = np.zeros_like(self.running)
        np.add.at(leaving, (spec, topology.node_group[node]), 1)
        self.running -= leaving
        self.fold_running -= _by_fold(leaving, self.fold, len(self.fold_running))
        self.replica_count -= np.bincount(node, minlength=topology.node_count)
        asleep = (self.replica_count == 0) & ~self.empty_node
        self.empty_node |= asleep
        idle_w = np.where(asleep, topology.group_idle_w[topology.node_group], 0.0)
        self.idle_w -= np.bincount(topology.node_site, idle_w, topology.site_count)
        self._add_loads(-leaving)
        np.add.at(self.stamp, node, 1)
        nodes_back = np.unique(node).tolist()
        self.returned += nodes_back
        self._note_changed(nodes_back)

    def take_many(self, view: SpecView, at: NDArray[np.int64], gpu_mask: NDArray[np.int64]) -> None:
        """Put one replica of the spec on each of these nodes, on these devices; a node may come several times."""
        topology, nodes, stage = self.topology, self.nodes, view.spec.stage
        if stage.gpu_milli:
            need_milli = view.need[topology.node_group[at], 2]
            np.subtract.at(nodes.gpu_milli, at, device_shares(gpu_mask, need_milli))
        on_node = np.bincount(at, minlength=topology.node_count)
        node = on_node.nonzero()[0]
        count = on_node[node]
        nodes.cpu_milli[node] -= count * stage.cpu_milli
        nodes.memory_mib[node] -= count * stage.memory_mib
        nodes.storage_gib[node] -= count * stage.storage_gib
        by_group = np.bincount(topology.node_group[node], count, len(topology.group_ids)).astype(np.int64)
        by_site = np.bincount(topology.node_site[node], count, topology.site_count)
        self.running[view.spec.spec] += by_group
        self.fold_running[self.fold[view.spec.spec]] += by_group
        self.stamp[node] += 1
        self._note_changed(node.tolist())
        woken = node[self.replica_count[node] == 0]
        self.replica_count[node] += count
        self.empty_node[woken] = False
        np.add.at(self.idle_w, topology.node_site[woken], topology.group_idle_w[topology.node_group[woken]])
        self.dynamic_w += np.bincount(topology.group_site, by_group * view.watts, topology.site_count)
        if self.low_used is not None and keeps_off_floor(view):
            self.low_used += by_group[:, None] * view.need
        if view.has_traffic:
            self.link_mbps += by_site @ self.views.link_mbps_per_replica(view.spec.spec)


def fit_in_spare(
    view: SpecView, fit: NDArray[np.int64], cpu_milli: NDArray[np.int64], memory_mib: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Replicas out of `fit` for which so much CPU and memory are enough, elementwise."""
    stage = view.spec.stage
    for spare, need in ((cpu_milli, stage.cpu_milli), (memory_mib, stage.memory_mib)):
        if need > 0:
            fit = np.minimum(fit, spare // need)
    return np.maximum(fit, 0)


def _by_fold(
    running: NDArray[np.int64], fold: NDArray[np.int64], folds: int | None = None
) -> NDArray[np.int64]:
    """(folds, G) counts (specs, G) summed over the specs of each fold."""
    folds = int(fold.max(initial=-1)) + 1 if folds is None else folds
    groups = running.shape[1]
    spec, group, count = _counts(running)
    summed = np.bincount(fold[spec] * groups + group, count, folds * groups).astype(np.int64)
    return summed.reshape(folds, groups)


def _counts(
    running: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(spec, group, count) of the counts (specs, G) that are not 0, in order."""
    flat = running.ravel()
    at = (flat != 0).nonzero()[0]
    spec, group = np.divmod(at, running.shape[1])
    return spec, group, flat[at]


@lru_cache(maxsize=1 << MAX_GPUS_PER_NODE)
def devices_of(gpu_mask: int) -> tuple[int, ...]:
    """Device numbers of a bit mask."""
    return tuple(g for g in range(MAX_GPUS_PER_NODE) if gpu_mask >> g & 1)


def device_shares(gpu_mask: NDArray[np.int64], need_milli: NDArray[np.int64]) -> NDArray[np.int64]:
    """(R, devices) milli-GPUs that each of R replicas holds on each device of its mask."""
    bits = gpu_mask >> np.arange(MAX_GPUS_PER_NODE)[:, None] & 1  # by device, as in `gpu_fit`
    each: NDArray[np.int64] = (bits * (need_milli // np.maximum(bits.sum(axis=0), 1))).T
    return each


def gpu_fit(gpu_free_milli: NDArray[np.int64], need_milli: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) replicas that the GPUs of each node hold: whole devices together, a share on one device."""
    free = np.ascontiguousarray(gpu_free_milli.T)  # by device: sums over a few columns are slow
    whole: NDArray[np.int64] = (free == WHOLE_GPU_MILLI).sum(axis=0) // np.maximum(
        need_milli // WHOLE_GPU_MILLI, 1
    )
    if not len(need_milli) or need_milli.min() >= WHOLE_GPU_MILLI:
        return whole
    share = (np.maximum(free, 0) // np.maximum(need_milli, 1)).sum(axis=0)
    return np.where(need_milli <= 0, 0, np.where(need_milli >= WHOLE_GPU_MILLI, whole, share))


def holds_gpus(free: list[int], need_milli: int) -> bool:
    """Whether the GPUs of one node hold one more replica; work without GPUs always fits."""
    if need_milli >= WHOLE_GPU_MILLI:
        return free.count(WHOLE_GPU_MILLI) * WHOLE_GPU_MILLI >= need_milli
    return need_milli <= 0 or need_milli <= max(free)


def gpus_for(gpu_free_milli: NDArray[np.int64], need_milli: int) -> int:
    """Bit mask of the devices that one more replica takes: whole ones in order, a share on the fullest that fits."""
    return devices_among(gpu_free_milli.tolist(), need_milli)


def devices_among(free: list[int], need_milli: int) -> int:
    """`gpus_for` on a list."""
    if need_milli <= 0:
        return 0
    if need_milli >= WHOLE_GPU_MILLI:
        whole = [g for g, milli in enumerate(free) if milli == WHOLE_GPU_MILLI]
        return sum(1 << g for g in whole[: need_milli // WHOLE_GPU_MILLI])
    return 1 << min((milli, g) for g, milli in enumerate(free) if milli >= need_milli)[1]


def pipeline_mbps(
    workload: Workload, sites: dict[str, int], topology: Topology
) -> NDArray[np.float64] | float:
    """(L,) load of one workload's flows between its stages; a stage that lies nowhere yet carries nothing."""
    load: NDArray[np.float64] | float = 0.0
    for flow in workload.flows:
        a, b = (sites.get(e.removeprefix("stages/")) for e in (flow.source, flow.target))
        between_stages = flow.source.startswith("stages/") and flow.target.startswith("stages/")
        if between_stages and flow.mbps and a is not None and b is not None and a != b:
            load = load + flow.mbps * topology.site_routes[a, b]
    return load


def pipelines_mbps(state: ClusterState, topology: Topology) -> NDArray[np.float64]:
    """(L,) load of the flows between the stages of all live workloads.

    Workloads of one shape whose stages lie at the same sites load the links alike, and there are few such ways to lie:
    each is looked at once, however many workloads there are.
    """
    total = np.zeros(len(topology.link_capacity_mbps))
    linked = _linked_shapes(state.shapes)
    if not linked.any():
        return total
    shape_of = state.workloads["shape"]
    mine = np.flatnonzero(linked[shape_of] & state.active_workloads())
    for shape in np.unique(shape_of[mine]).tolist():
        template = state.shapes.templates[shape]
        lie = _sites_of_stages(state, shape, mine[shape_of[mine] == shape])
        for way, count in Counter(map(tuple, lie.tolist())).items():
            sites = {s.stage_id: at for s, at in zip(template.stages, way, strict=True) if at >= 0}
            total += count * np.asarray(pipeline_mbps(template, sites, topology))
    return total


def _sites_of_stages(state: ClusterState, shape: int, workloads: NDArray[np.int64]) -> NDArray[np.int64]:
    """(workloads, stages) `stage_sites` of workloads of one shape as numbers; −1 for a stage that lies nowhere."""
    assert state.topology is not None
    stages = state.shapes.templates[shape].stages
    if any(stage.shared_with is not None for stage in stages):
        found = [stage_sites(state, w) for w in workloads.tolist()]
        return np.array([[sites.get(s.stage_id, -1) for s in stages] for sites in found])
    out = np.empty((len(workloads), len(stages)), np.int64)
    # a workload's rows stand in the order of its stages
    begin = state.workloads["first_replica"][workloads]
    for i, stage in enumerate(stages):
        node = state.replicas["node"][begin[:, None] + np.arange(stage.replicas)]
        first = node[np.arange(len(node)), (node >= 0).argmax(axis=1)]
        out[:, i] = np.where(first >= 0, state.topology.node_site[first], -1)
        begin = begin + stage.replicas
    return out


_LINKED: WeakKeyDictionary[ShapeTable, list[bool]] = WeakKeyDictionary()


def _linked_shapes(shapes: ShapeTable) -> NDArray[np.bool_]:
    """(shapes,) whether traffic flows between the stages of each; shapes are only ever added."""
    known = _LINKED.setdefault(shapes, [])
    for t in shapes.templates[len(known) :]:
        known.append(
            len(t.stages) > 1 and any(f.mbps and "zones/" not in f.source + f.target for f in t.flows)
        )
    return np.array(known, bool)


def stage_sites(state: ClusterState, workload: int) -> dict[str, int]:
    """Stage id → site of its first placed replica; a shared stage lies where its owner's does."""
    assert state.topology is not None
    out: dict[str, int] = {}
    rows = state.rows_of(workload)
    node, spec = state.replicas["node"][rows], state.replicas["spec"][rows]
    for s in state.shapes.specs_of_shape[int(state.workloads["shape"][workload])]:
        stage = state.spec(s).stage
        if stage.shared_with is not None:
            owner = state.index_of.get(stage.shared_with)
            site = None if owner is None else stage_sites_own(state, owner).get(stage.stage_id)
        else:
            placed = node[(spec == s) & (node >= 0)]
            site = int(state.topology.node_site[placed[0]]) if len(placed) else None
        if site is not None:
            out[stage.stage_id] = site
    return out


def stage_sites_own(state: ClusterState, workload: int) -> dict[str, int]:
    """Stage id → site of its first placed replica, without stages that are somebody else's."""
    assert state.topology is not None
    rows = state.rows_of(workload)
    node, spec = state.replicas["node"][rows], state.replicas["spec"][rows]
    out: dict[str, int] = {}
    for i in np.flatnonzero(node >= 0).tolist():
        out.setdefault(state.spec(int(spec[i])).stage.stage_id, int(state.topology.node_site[node[i]]))
    return out


__all__ = [
    "MANY",
    "WHOLE_GPU_MILLI",
    "Snapshot",
    "device_shares",
    "devices_among",
    "devices_of",
    "gpu_fit",
    "gpus_for",
    "holds_gpus",
    "keeps_off_floor",
    "pipeline_mbps",
    "pipelines_mbps",
    "stage_sites",
    "stage_sites_own",
]
