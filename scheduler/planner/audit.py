"""Check of a round before it is committed, from the replica columns alone: it shares no arithmetic with the placer.

Used amounts per node are summed anew from everything placed there, old and new, and compared with what is installed;
nodes to which a round adds nothing were checked when something was added. Reserved floors are checked group by group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.state import ClusterState
from scheduler.planner.round import Placed

IntArray = NDArray[np.int64]
FIRST_LOW_RANK = 2
"""Below hard safety (0) and public service (1)."""
RESOURCE_NAMES = ("cpu_milli", "memory_mib", "gpu_milli", "storage_gib")


def audit_placements(state: ClusterState, placed: Sequence[Placed], gone: Sequence[int] = ()) -> list[str]:
    """Violations in words: capacity per node and resource, GPU devices taken twice, wrong model, nodes down.

    `gone` are rows that this round stops before anything starts.
    """
    topology, nodes = state.topology, state.nodes
    if not placed or topology is None or nodes is None:
        return []
    replicas = state.replicas
    on = np.flatnonzero(replicas["node"] >= 0)
    on = on[~np.isin(on, list(gone))]
    receives = np.zeros(topology.node_count, dtype=bool)
    receives[[p.node for p in placed]] = True
    concerned = receives
    if topology.site_reserved_floor_frac.any():
        groups = np.bincount(topology.node_group, receives, len(topology.group_ids)) > 0
        concerned = groups[topology.node_group]
    on = on[concerned[replicas["node"][on]]]
    draining = {row: d.node for row, d in state.draining.items() if concerned[d.node]}
    rows = np.concatenate([on, [p.row for p in placed], list(draining)]).astype(np.int64)
    at = np.concatenate([replicas["node"][on], [p.node for p in placed], list(draining.values())]).astype(
        np.int64
    )
    specs = replicas["spec"][rows]
    need = _needs(state, specs, topology.node_group[at])
    used = np.zeros((topology.node_count, len(RESOURCE_NAMES)), np.int64)
    np.add.at(used, at, need)
    over = np.argwhere(used > topology.group_capacity[topology.node_group])
    violations = [
        f"node {'/'.join(map(str, topology.node_name(int(n))))}: {RESOURCE_NAMES[r]} {used[n, r]} is not installed"
        for n, r in over
    ]
    violations += _floor_violations(state, placed, rows, specs, at, need)
    violations += _device_violations(state, placed, gone)
    new_nodes = np.array([p.node for p in placed])
    violations += [
        f"node {'/'.join(map(str, topology.node_name(int(n))))} is down or cordoned"
        for n in np.unique(new_nodes[~nodes.up[new_nodes] | nodes.cordoned[new_nodes]])
    ]
    return violations


def _floor_violations(
    state: ClusterState,
    placed: Sequence[Placed],
    rows: IntArray,
    specs: IntArray,
    at: IntArray,
    need: IntArray,
) -> list[str]:
    """Groups to which this round adds work below public service although their reserved floor is touched."""
    topology, nodes = state.topology, state.nodes
    assert topology is not None and nodes is not None
    floor = topology.site_reserved_floor_frac[topology.group_site]
    if not floor.any():
        return []
    low = np.array([state.spec(int(s)).workload.priority_class.rank >= FIRST_LOW_RANK for s in specs], bool)
    groups = topology.node_group[at]
    used = np.zeros((len(topology.group_ids), len(RESOURCE_NAMES)))
    np.add.at(used, groups[low], need[low])
    usable = nodes.up & (~nodes.cordoned | (np.bincount(at, minlength=topology.node_count) > 0))
    count = np.bincount(topology.node_group, usable, len(topology.group_ids))
    allowed = (1.0 - floor)[:, None] * count[:, None] * topology.group_capacity
    new_rows = np.isin(rows, [p.row for p in placed])
    added = np.zeros((len(topology.group_ids), len(RESOURCE_NAMES)))
    np.add.at(added, groups[low & new_rows], need[low & new_rows])
    over = np.argwhere((used > allowed + 1e-6) & (added > 0) & (floor > 0)[:, None])
    return [
        f"group {'/'.join(topology.group_ids[g])}: {RESOURCE_NAMES[r]} {used[g, r]:g} leaves less than the reserved "
        f"{floor[g]:.0%}"
        for g, r in over
    ]


def _needs(state: ClusterState, specs: IntArray, groups: IntArray) -> IntArray:
    topology = state.topology
    assert topology is not None
    out = np.zeros((len(specs), len(RESOURCE_NAMES)), np.int64)
    model = np.array(topology.group_gpu_model)[groups]
    order = np.argsort(specs, kind="stable")
    for mine in np.split(order, np.flatnonzero(np.diff(specs[order])) + 1):
        if not len(mine):
            continue
        stage = state.spec(int(specs[mine[0]])).stage
        out[mine, 0], out[mine, 1], out[mine, 3] = stage.cpu_milli, stage.memory_mib, stage.storage_gib
        for accepted, gpu_milli in stage.gpu_milli.items():
            out[mine[model[mine] == accepted], 2] = gpu_milli
    return out


def _device_violations(state: ClusterState, placed: Sequence[Placed], gone: Sequence[int]) -> list[str]:
    """A new replica's devices exist on its node, number what it needs, and hold it beside what is there."""
    topology, nodes = state.topology, state.nodes
    assert topology is not None and nodes is not None
    free = _free_devices(state, gone)
    violations = []
    for p in placed:
        stage = state.spec(int(state.replicas["spec"][p.row])).stage
        group = int(topology.node_group[p.node])
        model = topology.group_gpu_model[group]
        if not stage.gpu_milli:
            continue
        need = stage.gpu_milli.get(model)
        ids = [g for g in range(16) if p.gpu_mask >> g & 1]
        name = state.placement_id_at(p.row, int(state.replicas["incarnation"][p.row]) + 1)
        if need is None:
            violations.append(f"{name}: GPU model {model or 'none'} is not accepted")
            continue
        if len(ids) != max(1, need // 1000) or any(g >= topology.group_gpu_count[group] for g in ids):
            violations.append(f"{name}: devices {ids} for {need} milli-GPUs")
            continue
        if p.node not in free:
            free[p.node] = nodes.gpu_milli[p.node].copy()
        node_free = free[p.node]
        node_free[ids] -= need // len(ids)
        if (node_free[ids] < 0).any():
            violations.append(f"{name}: devices {ids} are taken")
    return violations


def _free_devices(state: ClusterState, gone: Sequence[int]) -> dict[int, IntArray]:
    """node → free milli of its devices, for nodes that something leaves in this round."""
    topology, nodes = state.topology, state.nodes
    assert topology is not None and nodes is not None
    free: dict[int, IntArray] = {}
    for row in gone:
        node, mask = int(state.replicas["node"][row]), int(state.replicas["gpu_mask"][row])
        ids = [g for g in range(16) if mask >> g & 1]
        if not ids:
            continue
        model = topology.group_gpu_model[int(topology.node_group[node])]
        need = state.spec(int(state.replicas["spec"][row])).stage.gpu_milli[model]
        node_free = free.setdefault(node, nodes.gpu_milli[node].copy())
        node_free[ids] += need // len(ids)
    return free
