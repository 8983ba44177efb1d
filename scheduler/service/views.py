"""How the planner's columns look from outside: records of workloads, sites and nodes, placements, orders.

Everything here reads; the caller holds the state still (`Core.read`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.outlook import CalendarOutlook
from scheduler.domain.state import STATES, ClusterState, Phase
from scheduler.domain.topology import Topology
from scheduler.planner.feasibility import zone_legs
from scheduler.service.history import History
from suanli.model import (
    Command,
    Event,
    EventKind,
    FieldProblem,
    LedgerBalance,
    Node,
    NodeState,
    NotFound,
    Placement,
    SiteMeter,
    SiteState,
    StartOrder,
    StopOrder,
    Workload,
    WorkloadRecord,
    WorkloadState,
)
from suanli.model.base import trusted
from suanli.model.view import facts_of

GPU_MILLI = 1000


@dataclass(frozen=True, slots=True)
class WorkloadStatus:
    """What the state and the history say of one workload, beside its body."""

    state: WorkloadState
    created_at_s: int
    updated_at_s: int
    revision: int
    placed_replica_count: int
    running_replica_count: int
    done_replica_count: int
    site_ids: tuple[str, ...]
    starting: str = ""
    """What is starting where, and until when."""


def workload_statuses(
    state: ClusterState, history: History, names: Sequence[str]
) -> dict[str, WorkloadStatus]:
    """Status of each of these workloads; unknown names are left out."""
    names = [name for name in names if name in state.index_of]
    indices = np.array([state.index_of[name] for name in names], np.int64)
    # the replica rows of all of them, one workload after the other, and whose each row is
    counts = state.workloads["replica_count"][indices].astype(np.int64)
    owner = np.repeat(np.arange(len(names)), counts)
    begins = state.workloads["first_replica"][indices] - (np.cumsum(counts) - counts)
    rows = begins[owner] + np.arange(len(owner))
    phases, is_placed = state.replicas["phase"][rows], state.replicas["node"][rows] >= 0
    at = _sites_of_rows(state, owner[is_placed], rows[is_placed])
    ordered = phases == Phase.ORDERED
    starting = _starting(state, owner[ordered], rows[ordered])
    created_s, changed, changed_s = history.instants(names)
    placed, running, done = (
        np.bincount(owner[which], minlength=len(names)).tolist()
        for which in (is_placed, phases == Phase.RUNNING, phases == Phase.DONE)
    )
    states = state.workloads["state"][indices].tolist()
    return {
        name: WorkloadStatus(
            STATES[states[i]],
            created_s[i],
            changed_s[i],
            changed[i],
            placed[i],
            running[i],
            done[i],
            at.get(i, ()),
            starting.get(i, ""),
        )
        for i, name in enumerate(names)
    }


def _sites_of_rows(
    state: ClusterState, owner: NDArray[np.int64], rows: NDArray[np.int64]
) -> dict[int, tuple[str, ...]]:
    """Owner → ids of the sites that these replica rows of it lie on, in order of the ids."""
    topology = state.topology
    if topology is None or not len(rows):
        return {}
    S = topology.site_count
    pairs = np.unique(owner * S + topology.node_site[state.replicas["node"][rows]])
    found: dict[int, list[str]] = {}
    for i, site in zip((pairs // S).tolist(), (pairs % S).tolist(), strict=True):
        found.setdefault(i, []).append(topology.site_ids[site])
    return {i: tuple(sorted(ids)) for i, ids in found.items()}


def _starting(state: ClusterState, owner: NDArray[np.int64], rows: NDArray[np.int64]) -> dict[int, str]:
    """Owner → `2 replicas start at e01 until about 2026-07-15 14:05+08:00`: their order and the startup they declare.

    `rows` are ordered replicas, those of one owner side by side.
    """
    topology = state.topology
    if topology is None or not len(rows):
        return {}
    replicas = state.replicas
    specs, which = np.unique(replicas["spec"][rows], return_inverse=True)
    startup_s = np.array([state.spec(spec).stage.startup_s for spec in specs.tolist()], np.int64)
    owners, firsts, counts = np.unique(owner, return_index=True, return_counts=True)
    until_s = np.maximum.reduceat(replicas["placed_s"][rows] + startup_s[which], firsts).tolist()
    until = {at_s: topology.local_time(at_s) for at_s in set(until_s)}
    sites = topology.node_site[replicas["node"][rows]]
    found = {}
    for i, first, count, at_s in zip(owners.tolist(), firsts.tolist(), counts.tolist(), until_s, strict=True):
        what = "1 replica starts" if count == 1 else f"{count} replicas start"
        where = ", ".join(topology.site_ids[s] for s in sorted(set(sites[first : first + count].tolist())))
        found[i] = f"{what} at {where} until about {until[at_s]}"
    return found


def workload_record(
    workload: Workload, status: WorkloadStatus, warnings: tuple[FieldProblem, ...] = ()
) -> WorkloadRecord:
    """The record that the API shows, as `WorkloadRecord.of` would make it: both parts are valid already."""
    return trusted(
        WorkloadRecord,
        {
            **facts_of(workload),
            "state": status.state,
            "etag": str(status.revision),
            "created_at_s": status.created_at_s,
            "updated_at_s": status.updated_at_s,
            "summary": status.starting,
            "placed_replica_count": status.placed_replica_count,
            "running_replica_count": status.running_replica_count,
            "done_replica_count": status.done_replica_count,
            "pending_reasons": {},
            "queue_position": 0,
            "expected_start": None,
            "site_ids": status.site_ids,
            "warnings": warnings,
        },
    )


NO_FLEET = "no fleet is registered yet; `suanli fleet set FILE` registers one"


def need_topology(state: ClusterState) -> Topology:
    """The fleet's arrays; NotFound before a fleet is registered."""
    if state.topology is None:
        raise NotFound(NO_FLEET)
    return state.topology


def site_states(state: ClusterState, now_s: int) -> dict[str, SiteState]:
    """State of every site, in order of registration."""
    topology = need_topology(state)
    nodes = state.nodes
    assert nodes is not None
    S = topology.site_count
    rows = np.flatnonzero(state.replicas["node"] >= 0)
    row_site = topology.node_site[state.replicas["node"][rows]]
    replicas = np.bincount(row_site, minlength=S)
    workloads = _distinct_per_site(row_site, state.replicas["workload"][rows], S)
    on_nodes = np.bincount(topology.node_site[np.unique(state.replicas["node"][rows])], minlength=S)
    installed_cpu = np.bincount(topology.node_site, topology.group_capacity[topology.node_group, 0], S)
    free_cpu = np.bincount(topology.node_site, nodes.cpu_milli, S)
    gpus = topology.group_gpu_count[topology.node_group] * GPU_MILLI
    installed_gpu = np.bincount(topology.node_site, gpus, S)
    free_gpu = np.bincount(topology.node_site, np.maximum(nodes.gpu_milli, 0).sum(axis=1), S)
    outlook = CalendarOutlook(topology, state.forecast)
    is_open = state.guide.body.get("site_open")
    rtt_p99_ms = _highest_rtt_ms(state, topology, rows, row_site)
    return {
        site_id: SiteState(
            up=site_id not in state.site_down,
            open=is_open is None or bool(is_open[i]) or bool(replicas[i]),
            placed_replica_count=int(replicas[i]),
            placed_workload_count=int(workloads[i]),
            on_node_count=int(on_nodes[i]),
            installed_gpu_milli=int(installed_gpu[i]),
            placed_gpu_milli=int(installed_gpu[i] - free_gpu[i]),
            placed_cpu_milli=int(installed_cpu[i] - free_cpu[i]),
            meter=_meter(state, site_id),
            ipue=_ipue(state, site_id),
            ledger=_ledger(state, topology, i),
            price_yuan_per_kwh=outlook.price_yuan_per_kwh(site_id, now_s),
            rtt_p99_ms=rtt_p99_ms[i],
            caps=topology.sites[i].caps,
            power_limit_kw=topology.sites[i].power_limit_kw,
            reserved_floor_frac=float(topology.site_reserved_floor_frac[i]),
            policy_revision=state.policy.revision,
        )
        for i, site_id in enumerate(topology.site_ids)
    }


def _distinct_per_site(
    sites: NDArray[np.int64], workloads: NDArray[np.int32], count: int
) -> NDArray[np.int64]:
    pairs = (
        np.unique(np.stack((sites, workloads.astype(np.int64))), axis=1)
        if sites.size
        else np.zeros((2, 0), int)
    )
    return np.bincount(pairs[0], minlength=count)


def _highest_rtt_ms(
    state: ClusterState, topology: Topology, rows: NDArray[np.int64], row_site: NDArray[np.int64]
) -> list[float | None]:
    """Per site the highest predicted network p99 of a leg to a zone among what lies there; None without any leg."""
    highest: list[float | None] = [None] * topology.site_count
    pairs = np.unique(np.stack((row_site, state.replicas["spec"][rows].astype(np.int64))), axis=1)
    for site, spec in pairs.T.tolist():
        for zone_id, access_id, _ in zone_legs(state.spec(spec)):
            if zone_id in topology.zones:
                rtt_ms = round(float(topology.leg_rtt_p99_ms(zone_id, access_id)[site]), 3)
                highest[site] = max(rtt_ms, highest[site] or 0.0)
    return highest


def _meter(state: ClusterState, site_id: str) -> SiteMeter | None:
    meter = state.last_meter.get(site_id)
    return None if meter is None else SiteMeter.model_validate(meter)


def _ipue(state: ClusterState, site_id: str) -> float | None:
    meter = state.last_meter.get(site_id)
    if meter is None or not meter["it_energy_kwh"]:
        return None
    return float(meter["facility_energy_kwh"] / meter["it_energy_kwh"])


def _ledger(state: ClusterState, topology: Topology, site: int) -> LedgerBalance:
    """B = Π·E_IT − E_fac, at the opening of the run and now."""
    value = topology.sites[site]
    energy, cap = state.energy[value.site_id], value.caps.pue_cap_annual
    if cap is None:
        return LedgerBalance(site_id=value.site_id)
    before = cap * energy.opening_it_kwh - energy.opening_facility_kwh
    after = cap * energy.it_kwh - energy.facility_kwh
    return LedgerBalance(
        site_id=value.site_id, pue_cap_annual=cap, balance_before_kwh=before, balance_after_kwh=after,
        used_kwh=before - after, debt_kwh=max(0.0, -after),
    )  # fmt: skip


def node_id(group_id: str, node_index: int) -> str:
    """Name of a node within its site: `{group}-{index}`."""
    return f"{group_id}-{node_index}"


def find_node(topology: Topology, site_id: str, node: str) -> int:
    """Row of the node `{group}-{index}` of a site; NotFound if there is none."""
    group_id, _, index = node.rpartition("-")
    group = topology.group_index.get((site_id, group_id))
    if group is None or not index.isdecimal() or int(index) >= topology.group_node_count[group]:
        raise NotFound(f"no node {node} at {site_id}")
    return int(topology.group_first_node[group]) + int(index)


def node_views(state: ClusterState, rows: Sequence[int]) -> list[Node]:
    """The nodes of these rows."""
    topology = need_topology(state)
    nodes = state.nodes
    assert nodes is not None
    on_node = state.replicas["node"]
    placed = np.bincount(on_node[on_node >= 0], minlength=topology.node_count)
    found = []
    for row in rows:
        site_id, group_id, index = topology.node_name(row)
        gpu_count = int(topology.group_gpu_count[topology.node_group[row]])
        found.append(
            Node(
                node_id=node_id(group_id, index),
                site_id=site_id,
                group_id=group_id,
                node_index=index,
                state=NodeState.DOWN if not nodes.up[row] else NodeState.ON if placed[row] else NodeState.OFF,
                cordoned=bool(nodes.cordoned[row]),
                cpu_free_milli=int(nodes.cpu_milli[row]),
                memory_free_mib=int(nodes.memory_mib[row]),
                storage_free_gib=int(nodes.storage_gib[row]),
                gpu_free_milli=tuple(int(g) for g in nodes.gpu_milli[row][:gpu_count]),
                placed_replica_count=int(placed[row]),
                etag=f"{int(nodes.cordoned[row])}",
            )
        )
    return found


def placement_of(event: Event) -> Placement:
    """The placement that a `replica.start_ordered` event made."""
    command, body = event.body["command"], event.body
    return Placement(
        placement_id=command["placement_id"],
        workload=command["workload"],
        stage_id=command["stage_id"],
        replica_index=command["replica_index"],
        incarnation=int(command["placement_id"].rpartition("#")[2]),
        site_id=command["site_id"],
        group_id=command["group_id"],
        node_id=node_id(command["group_id"], command["node_index"]),
        gpu_ids=tuple(command["gpu_ids"]),
        gpu_milli=command["gpu_milli"],
        start_at_s=command["at_s"],
        rtt_p99_ms=_known(body["rtt_p99_ms"]),
        power_w=body["power_w"],
        price_yuan_per_hour=body["price_yuan_per_hour"],
    )


def _known(number: float | None) -> float:
    """JSON has no infinity; a stage without flows has no RTT."""
    return 0.0 if number is None else number


def command_of(event: Event) -> Command:
    """The order that a `replica.start_ordered` or `replica.stop_ordered` event gives to its site."""
    if event.kind is EventKind.REPLICA_START_ORDERED:
        return Command(revision=event.revision, start=StartOrder.model_validate(event.body["command"]))
    stop = StopOrder(
        placement_id=event.subject, site_id=event.body["site_id"], at_s=event.at_s, cause=event.body["cause"]
    )
    return Command(revision=event.revision, stop=stop)


def site_of_order(event: Event) -> str:
    """Whom an order is for."""
    body: dict[str, Any] = event.body.get("command", event.body)
    return str(body["site_id"])


def placed_rows(state: ClusterState, name_prefix: str, site_id: str = "", node: str = "") -> Iterable[int]:
    """Replica rows that hold a node now, of workloads whose name begins so, in order of the workload's name."""
    rows = np.flatnonzero(state.replicas["node"] >= 0)
    if site_id or node:
        topology = need_topology(state)
        if node:
            rows = rows[state.replicas["node"][rows] == find_node(topology, site_id, node)]
        else:
            wanted = topology.site_index.get(site_id, -1)
            rows = rows[topology.node_site[state.replicas["node"][rows]] == wanted]
    owners = state.replicas["workload"][rows].tolist()
    kept = [
        (state.names[w], row)
        for w, row in zip(owners, rows.tolist(), strict=True)
        if state.names[w].startswith(name_prefix)
    ]
    return [row for _, row in sorted(kept)]
