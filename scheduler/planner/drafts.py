"""Drafts of events about replicas and workloads: orders to sites and the states that follow from them.

start_drafts, stop_draft       orders             stops_of_workload   every placement of a workload
state_draft, state_change      a workload's state, as its replicas' phases imply it
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scheduler.domain.records import EventDraft
from scheduler.domain.state import STATES, ClusterState, Phase
from scheduler.planner.feasibility import SpecView, Views
from scheduler.planner.snapshot import devices_of
from suanli.model import EventKind, StopKind, WorkloadState

STATE_OF_PHASE = {
    int(Phase.WAITING): WorkloadState.PENDING,
    int(Phase.ORDERED): WorkloadState.STARTING,
    int(Phase.RUNNING): WorkloadState.RUNNING,
}
"""The most advanced phase of any replica with work left names the workload's state; phases count upwards."""
# plain numbers: an enum's members are slow to look up
_RUNNING, _DONE = int(Phase.RUNNING), int(Phase.DONE)


@dataclass(frozen=True, slots=True)
class Start:
    """A replica row that starts on a node; `gang_size` members start together, all from `done_work_s`."""

    row: int
    node: int
    gpu_mask: int
    gang_size: int
    done_work_s: float
    price_yuan_per_hour: float


def start_drafts(state: ClusterState, views: Views, starts: Sequence[Start], now_s: int) -> list[EventDraft]:
    """Orders: run these replica rows on these nodes."""
    rows, nodes = [s.row for s in starts], np.array([s.node for s in starts], np.int64)
    specs, workloads, indices, incarnations, work_s = (
        state.replicas[column][rows].tolist()
        for column in ("spec", "workload", "index", "incarnation", "work_s")
    )
    groups = views.topology.node_group[nodes]
    places = (nodes - views.topology.group_first_node[groups]).tolist()
    drafts = []
    for i, (start, spec, group) in enumerate(zip(starts, specs, groups.tolist(), strict=True)):
        view = views[spec]
        command, body = _same_for_all(view, group)
        name = state.names[workloads[i]]
        placement_id = f"{name}/{command['stage_id']}/{indices[i]}#{incarnations[i] + 1}"
        command["placement_id"] = placement_id
        command["workload"] = name
        command["replica_index"] = indices[i]
        command["node_index"] = places[i]
        command["at_s"] = now_s
        command["gpu_ids"] = list(devices_of(start.gpu_mask))
        command["declared_work_s"] = 0 if command["is_service"] else int(work_s[i])
        command["done_work_s"] = start.done_work_s
        command["gang_size"] = start.gang_size
        command["transfer_gib"] = view.spec.stage.checkpoint_gib if start.done_work_s else 0.0
        body["command"] = command
        body["price_yuan_per_hour"] = round(start.price_yuan_per_hour, 6)
        drafts.append(EventDraft(now_s, EventKind.REPLICA_START_ORDERED, placement_id, body))
    return drafts


def _same_for_all(view: SpecView, group: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What orders of replicas of one spec on nodes of one group have in common: of the command, and beside it."""
    known = view.start_orders.get(group)
    if known is None:
        topology, stage = view.topology, view.spec.stage
        site_id, group_id = topology.group_ids[group]
        need = [int(x) for x in view.need[group]]
        command = {
            "stage_id": stage.stage_id,
            "site_id": site_id,
            "group_id": group_id,
            "cpu_milli": need[0],
            "memory_mib": need[1],
            "gpu_milli": need[2],
            "reference_gpu_milli": stage.reference_gpu_milli,
            "utilization_frac": stage.utilization_frac,
            "startup_s": stage.startup_s,
            "is_service": stage.is_service,
            "checkpoint_interval_s": stage.checkpoint_interval_s,
        }
        beside = {
            "rtt_p99_ms": round(float(view.rtt_p99_ms[topology.site_index[site_id]]), 3),
            "power_w": round(float(view.watts[group]), 3),
            "class": view.spec.workload.workload_class,
        }
        known = view.start_orders[group] = (command, beside)
    return dict(known[0]), dict(known[1])


def stop_draft(placement_id: str, site_id: str, at_s: int, kind: StopKind, cause: str) -> EventDraft:
    """Order: stop a placement; `cause` says to people what `kind` says to accounts."""
    body = {"site_id": site_id, "kind": kind.value, "cause": cause}
    return EventDraft(at_s, EventKind.REPLICA_STOP_ORDERED, placement_id, body)


def site_of_node(state: ClusterState, node: int) -> str:
    """Id of the site a node belongs to."""
    assert state.topology is not None
    return state.topology.node_name(node)[0]


def stop_of_row(state: ClusterState, row: int, at_s: int, kind: StopKind, cause: str) -> EventDraft:
    """Order: stop the current placement of a replica row."""
    site_id = site_of_node(state, int(state.replicas["node"][row]))
    return stop_draft(state.placement_id(row), site_id, at_s, kind, cause)


def stops_of_workload(
    state: ClusterState, index: int, at_s: int, kind: StopKind, cause: str, but: Collection[int] = ()
) -> list[EventDraft]:
    """Orders to stop every placement of a workload, moving replicas at both ends; rows in `but` have ended."""
    events = []
    rows = state.rows_of(index)
    for row in range(rows.start, rows.stop):
        old = state.draining.get(row)
        if old is not None:
            events.append(stop_draft(old.placement_id, site_of_node(state, old.node), at_s, kind, cause))
        if state.replicas["node"][row] >= 0 and row not in but:
            events.append(stop_of_row(state, row, at_s, kind, cause))
    return events


def state_draft(name: str, to: WorkloadState, at_s: int, cause: str) -> EventDraft:
    """A workload's new state."""
    return EventDraft(at_s, EventKind.WORKLOAD_STATE, name, {"state": to.value, "cause": cause})


def state_change(
    state: ClusterState,
    index: int,
    phase: Mapping[int, Phase],
    at_s: int,
    drained: Collection[int] = (),
    cause: str = "",
) -> EventDraft | None:
    """The workload's state as its replicas' phases imply it, if that is news; `phase` overrides rows of the state.

    A replica that moves runs as long as its old placement does; `drained` names rows whose old one has ended. Nothing
    follows a final state.
    """
    current = STATES[int(state.workloads["state"][index])]
    rows = state.rows_of(index)
    phases: list[int] = state.replicas["phase"][rows].tolist()
    new = _implied(state, current, rows.start, phases, phase, drained)
    return None if new is None else state_draft(state.names[index], new, at_s, cause)


def _implied(
    state: ClusterState,
    current: WorkloadState,
    first_row: int,
    phases: list[int],
    override: Mapping[int, Phase],
    drained: Collection[int] = (),
) -> WorkloadState | None:
    """The new state of a workload whose rows from `first_row` on stand in these phases; None when it is no news."""
    if current.is_final:
        return None
    for i, row in enumerate(range(first_row, first_row + len(phases))):
        phases[i] = override.get(row, phases[i])
        if row in state.draining and row not in drained and phases[i] != _DONE:
            phases[i] = _RUNNING
    new = state_of_phases(phases)
    if new is current or (new is WorkloadState.PENDING and current is WorkloadState.PLANNED):
        return None
    return new


def state_of_phases(phases: Iterable[int]) -> WorkloadState:
    """SUCCEEDED when no replica has work left, else by the most advanced replica."""
    left = [p for p in phases if p != _DONE]
    return STATE_OF_PHASE[max(left)] if left else WorkloadState.SUCCEEDED


def state_changes(
    state: ClusterState, indices: Iterable[int], phase: Mapping[int, Phase], at_s: int, cause: str = ""
) -> list[EventDraft]:
    """Changes of several workloads, in order of submission."""
    ordered = sorted(set(indices))
    current, first, count = (
        state.workloads[column][ordered].tolist() for column in ("state", "first_replica", "replica_count")
    )
    phases = state.replicas["phase"]
    found = []
    for index, code, row, n in zip(ordered, current, first, count, strict=True):
        new = _implied(state, STATES[code], row, phases[row : row + n].tolist(), phase)
        if new is not None:
            found.append(state_draft(state.names[index], new, at_s, cause))
    return found
