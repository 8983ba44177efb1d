"""The queue: which replicas wait, in which order their turn comes, and which deferrable ones start now.

    heads      replicas that wait and may start      in_order   blocks of them, first served first
    released   of deferrable rows, those whose hour has come

Order: priority rank; within a rank gangs for which others have just moved, then those that have waited long; then fair
share between tenants: the tenant with the smallest share in use comes first, and every head counts as served for the
next one, so that tenants take turns in proportion to what they hold. Shares count in steps of one hundredth of the
fleet; within a step work of one shape is taken together, in order of submission, which is what lets a round place in
bulk.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.state import NEVER_S, ClusterState, Phase
from scheduler.planner.deferral import may_be_put_off, rests
from suanli.model.units import SECONDS_PER_HOUR

FAIR_STEP_FRAC = 0.01
"""Shares closer than this count as equal: a hundredth of the fleet is below what anybody calls unfair."""
MAX_FAIR_STEPS = 100
"""Beyond the whole fleet nothing of a tenant fits any more, so the order no longer matters."""
GANG_AGED_S = SECONDS_PER_HOUR
"""A gang that waited so long no longer stands behind tenants with smaller shares: nothing starves."""
HELPED_S = SECONDS_PER_HOUR
"""For so long after others moved for it a gang stands first in its rank: the room is meant for it (ASSUMED: far longer
than a move takes, and short enough that a gang which still finds no room does not hold the nodes for ever)."""
START_MARGIN_S = 900
"""Deferred work starts this long before it would have to: wake, start-up and one round of delay (ASSUMED)."""


def heads(state: ClusterState, now_s: int) -> NDArray[np.int64]:
    """Rows that wait, are due and not held back until their last placement has reported."""
    replicas = state.replicas
    waiting = np.flatnonzero(replicas["phase"] == Phase.WAITING)
    owner = replicas["workload"][waiting]
    may = state.active_workloads() & (state.workloads["not_before_s"] <= now_s)
    due: NDArray[np.int64] = waiting[may[owner] & (replicas["hold_until_s"][waiting] <= now_s)]
    return due


def in_order(state: ClusterState, rows: NDArray[np.int64], now_s: int) -> list[NDArray[np.int64]]:
    """Blocks of rows in their turn; a block holds one shape (simple work: one spec), workloads by submission."""
    if not len(rows):
        return []
    shapes = state.shapes.columns
    spec = state.replicas["spec"][rows]
    workload = state.replicas["workload"][rows].astype(np.int64)
    rank = shapes["rank"][spec]
    step = _fair_steps(state, rows, spec, workload, rank)
    waited_s = now_s - np.maximum(state.workloads["submitted_s"], state.workloads["not_before_s"])[workload]
    aged = shapes["gang"][spec] & (waited_s >= GANG_AGED_S)
    helped = np.isin(workload, _helped_gangs(state, now_s))
    step = np.where(helped, -2, np.where(aged, -1, step))
    kind = np.where(
        shapes["simple"][spec], 2 * spec.astype(np.int64), 2 * shapes["shape"][spec].astype(np.int64) + 1
    )
    kind = np.where(aged | helped, 2 * len(shapes) + workload, kind)
    kinds = 2 * len(shapes) + len(state.names)
    _, inverse = np.unique((rank * (MAX_FAIR_STEPS + 3) + step + 2) * kinds + kind, return_inverse=True)
    first = np.full(int(inverse.max()) + 1, NEVER_S)
    np.minimum.at(first, inverse, workload)
    order = np.lexsort((rows, inverse, first[inverse], step, rank))
    cuts = (np.flatnonzero(np.diff(inverse[order])) + 1).tolist()
    ordered = rows[order]
    return [ordered[a:b] for a, b in pairwise([0, *cuts, len(rows)])]


def _helped_gangs(state: ClusterState, now_s: int) -> list[int]:
    """Workloads for which others have moved within the last hour."""
    return sorted({m.gang for m in state.moved_for.values() if now_s - m.at_s < HELPED_S})


def _fair_steps(
    state: ClusterState,
    rows: NDArray[np.int64],
    spec: NDArray[np.int64],
    workload: NDArray[np.int64],
    rank: NDArray[np.int64],
) -> NDArray[np.int64]:
    """(rows,) share of the fleet that its tenant holds when its workload's turn comes, in steps.

    Dominant share (Ghodsi et al., NSDI 2011): the largest of the shares of CPU, memory and reference GPUs.
    """
    assert state.topology is not None
    tenant = state.workloads["tenant"][workload]
    if len(state.tenants) == 1:
        return np.zeros(len(rows), np.int64)
    in_use = shares_in_use(state)
    asked = (spec_amounts(state)[spec] / state.topology.fleet_capacity).max(axis=1)
    order = np.lexsort((rows, workload, tenant, rank))
    lane = (rank * len(state.tenants) + tenant)[order]
    total = np.cumsum(asked[order])
    starts = np.flatnonzero(np.diff(lane, prepend=-1))
    before_lane = (total - asked[order])[starts]
    lane_number = np.cumsum(np.diff(lane, prepend=-1) != 0) - 1
    before = total - asked[order] - before_lane[lane_number]
    workload_starts = np.flatnonzero(np.diff(workload[order], prepend=-1))
    workload_number = np.cumsum(np.diff(workload[order], prepend=-1) != 0) - 1
    share = in_use[tenant[order]] + before[workload_starts][workload_number]
    steps = np.empty(len(rows), np.int64)
    steps[order] = np.minimum(np.floor(share / FAIR_STEP_FRAC + 1e-9), MAX_FAIR_STEPS)
    return steps


def spec_amounts(state: ClusterState) -> NDArray[np.int64]:
    """(specs, 3) cpu_milli, memory_mib and reference gpu_milli of one replica."""
    columns = state.shapes.columns
    return np.stack([columns[c] for c in ("cpu_milli", "memory_mib", "reference_gpu_milli")], axis=1)


def shares_in_use(state: ClusterState) -> NDArray[np.float64]:
    """(tenants,) dominant share of the installed fleet that each tenant's placements take."""
    assert state.topology is not None
    placed = np.flatnonzero(state.replicas["node"] >= 0)
    tenant = state.workloads["tenant"][state.replicas["workload"][placed]]
    amounts = spec_amounts(state)[state.replicas["spec"][placed]]
    used = np.stack([np.bincount(tenant, each, len(state.tenants)) for each in amounts.T], axis=1)
    shares: NDArray[np.float64] = (used / state.topology.fleet_capacity).max(axis=1, initial=0.0)
    return shares


def wakes_of_queue(state: ClusterState, now_s: int) -> list[int]:
    """Instants ahead at which waiting work may do what it may not yet: start times, stop graces, latest starts."""
    replicas = state.replicas
    rows = np.flatnonzero((replicas["phase"] == Phase.WAITING) & state.active_mask())
    if not len(rows):
        return []
    owner = replicas["workload"][rows]
    deferrable = state.shapes.columns["deferrable"][replicas["spec"][rows]]
    deadline_s = state.workloads["deadline_s"][owner]
    dated = deferrable & (deadline_s < NEVER_S)
    left_s = (replicas["work_s"] - replicas["done_work_s"])[rows[dated]]
    instants = np.concatenate(
        [
            state.workloads["not_before_s"][owner],
            replicas["hold_until_s"][rows],
            np.ceil(deadline_s[dated] - left_s - START_MARGIN_S).astype(np.int64),
        ]
    )
    ahead = instants[(instants > now_s) & (instants < NEVER_S)]
    return [int(ahead.min())] if len(ahead) else []


# ---------------------------------------------------------------------- deferrable work


def urgent(state: ClusterState, rows: NDArray[np.int64], now_s: int) -> NDArray[np.bool_]:
    """(rows,) deferrable rows that wait for no hour: their latest start has come, or no plan may put them off."""
    left_s = state.replicas["work_s"][rows] - state.replicas["done_work_s"][rows]
    deadline_s = state.workloads["deadline_s"][state.replicas["workload"][rows]]
    late = now_s + left_s + START_MARGIN_S >= deadline_s
    out: NDArray[np.bool_] = late | ~may_be_put_off(state, rows, now_s)
    return out


def released(
    state: ClusterState, rows: NDArray[np.int64], wanted: int | None, now_s: int
) -> NDArray[np.int64]:
    """Deferrable rows that start now: of those that do not rest what waits for no hour, then earliest deadlines up to
    `wanted`; all where nothing is held back (None)."""
    if wanted is None:
        return rows
    rows = rows[~rests(state, rows, now_s)]
    late = urgent(state, rows, now_s)
    if not wanted and not late.any():
        return rows[:0]
    deadline_s = state.workloads["deadline_s"][state.replicas["workload"][rows]]
    order = np.lexsort((rows, deadline_s, ~late))
    return rows[order[: max(wanted, int(late.sum()))]]


def whole_is_released(state: ClusterState, rows: NDArray[np.int64], wanted: int | None, now_s: int) -> bool:
    """Whether work that starts together starts now: none of it rests, and it must, or the plan wants half of it."""
    if wanted is None:
        return True
    is_wanted = bool(urgent(state, rows, now_s).any()) or 2 * wanted >= len(rows)
    return is_wanted and not rests(state, rows, now_s).any()
