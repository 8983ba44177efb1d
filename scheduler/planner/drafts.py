"""Drafts of events about replicas and workloads: orders to sites and the states that follow from them.

start_draft, stop_draft        orders             stops_of_workload   every placement of a workload
state_draft, state_change      a workload's state, as its replicas' phases imply it
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.records import EventDraft
from scheduler.domain.state import ClusterState, Phase
from scheduler.planner.feasibility import SpecView
from scheduler.planner.snapshot import devices_of
from suanli.model import EventKind, WorkloadState

STATE_OF_PHASE = (
    (Phase.RUNNING, WorkloadState.RUNNING),
    (Phase.ORDERED, WorkloadState.STARTING),
    (Phase.WAITING, WorkloadState.PENDING),
)
"""The most advanced phase of any replica with work left names the workload's state."""


def start_draft(
    state: ClusterState,
    view: SpecView,
    row: int,
    node: int,
    gpu_mask: int,
    now_s: int,
    *,
    gang_size: int,
    done_work_s: float,
    price_yuan_per_hour: float,
) -> EventDraft:
    """Order: run a replica row on a node; `gang_size` members start together, all from `done_work_s`."""
    topology = view.topology
    stage = view.spec.stage
    site_id, group_id, node_index = topology.node_name(node)
    group = int(topology.node_group[node])
    incarnation = int(state.replicas["incarnation"][row]) + 1
    need = [int(x) for x in view.need[group]]
    command = {
        "placement_id": state.placement_id_at(row, incarnation),
        "workload": state.names[int(state.replicas["workload"][row])],
        "stage_id": stage.stage_id,
        "replica_index": int(state.replicas["index"][row]),
        "site_id": site_id,
        "group_id": group_id,
        "node_index": node_index,
        "at_s": now_s,
        "cpu_milli": need[0],
        "memory_mib": need[1],
        "gpu_milli": need[2],
        "gpu_ids": list(devices_of(gpu_mask)),
        "reference_gpu_milli": stage.reference_gpu_milli,
        "utilization_frac": stage.utilization_frac,
        "startup_s": stage.startup_s,
        "declared_work_s": 0 if stage.is_service else int(state.replicas["work_s"][row]),
        "done_work_s": done_work_s,
        "is_service": stage.is_service,
        "checkpoint_interval_s": stage.checkpoint_interval_s,
        "gang_size": gang_size,
        "transfer_gib": stage.checkpoint_gib if done_work_s else 0.0,
    }
    body = {
        "command": command,
        "rtt_p99_ms": round(float(view.rtt_p99_ms[topology.site_index[site_id]]), 3),
        "power_w": round(float(view.watts[group]), 3),
        "price_yuan_per_hour": round(price_yuan_per_hour, 6),
        "class": view.spec.workload.workload_class,
    }
    return EventDraft(now_s, EventKind.REPLICA_START_ORDERED, str(command["placement_id"]), body)


def stop_draft(placement_id: str, site_id: str, at_s: int, cause: str) -> EventDraft:
    """Order: stop a placement."""
    return EventDraft(
        at_s, EventKind.REPLICA_STOP_ORDERED, placement_id, {"site_id": site_id, "cause": cause}
    )


def site_of_node(state: ClusterState, node: int) -> str:
    """Id of the site a node belongs to."""
    assert state.topology is not None
    return state.topology.node_name(node)[0]


def stop_of_row(state: ClusterState, row: int, at_s: int, cause: str) -> EventDraft:
    """Order: stop the current placement of a replica row."""
    site_id = site_of_node(state, int(state.replicas["node"][row]))
    return stop_draft(state.placement_id(row), site_id, at_s, cause)


def stops_of_workload(
    state: ClusterState, index: int, at_s: int, cause: str, but: Collection[int] = ()
) -> list[EventDraft]:
    """Orders to stop every placement of a workload, moving replicas at both ends; rows in `but` have ended."""
    events = []
    rows = state.rows_of(index)
    for row in range(rows.start, rows.stop):
        old = state.draining.get(row)
        if old is not None:
            events.append(stop_draft(old.placement_id, site_of_node(state, old.node), at_s, cause))
        if state.replicas["node"][row] >= 0 and row not in but:
            events.append(stop_of_row(state, row, at_s, cause))
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
    current = state.workload_state(state.names[index])
    assert current is not None
    if current.is_final:
        return None
    rows = state.rows_of(index)
    phases = state.replicas["phase"][rows].copy()
    for i, row in enumerate(range(rows.start, rows.stop)):
        phases[i] = phase.get(row, phases[i])
        if row in state.draining and row not in drained and phases[i] != Phase.DONE:
            phases[i] = Phase.RUNNING
    new = state_of_phases(phases)
    if new is current or (new is WorkloadState.PENDING and current is WorkloadState.PLANNED):
        return None
    return state_draft(state.names[index], new, at_s, cause)


def state_of_phases(phases: NDArray[np.int8]) -> WorkloadState:
    """SUCCEEDED when no replica has work left, else by the most advanced replica."""
    return next((s for p, s in STATE_OF_PHASE if (phases == p).any()), WorkloadState.SUCCEEDED)


def state_changes(
    state: ClusterState, indices: Iterable[int], phase: Mapping[int, Phase], at_s: int, cause: str = ""
) -> list[EventDraft]:
    """Changes of several workloads, in order of submission."""
    found = (state_change(state, i, phase, at_s, cause=cause) for i in sorted(set(indices)))
    return [event for event in found if event is not None]
