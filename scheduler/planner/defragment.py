"""Defragmentation: planned moves that make room for a gang that waits, when the hours it gains pay for them.

    make_room          the moves that help gangs which wait, once per plan
    defragment         snapshot, gangs that wait, budget → for each gang that can be helped: moves, cost, worth, nodes
    undo_moves         the way back for those who made room for a gang that has ended or lies elsewhere, where it pays

For one gang: for every pool (a fabric island, or a group for gangs that no island holds) the nodes that need the least
moved to hold the gang; replicas leave a node smallest cost first and none in vain; each goes to the cheapest other node
with room now, for a move starts the new placement before the old one stops. A replica moves when it lies alone (one
stage, no gang, no spread rule) and loses little: services, and work that keeps checkpoints.

Cost (yuan) of a move: the policy's price per reference GPU, what the work since its last checkpoint cost to run, and
the dearer energy of the new place for as long as the replica is expected to stay. What it is weighed against: GPU-hours
that the gang waits less, at its own price of lateness; how long it would wait otherwise is known from declared ends, up
to a day. That is the worth of time and is told as such; a move's gain is the cheaper energy of its new place, if any.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.shapes import moves_alone
from scheduler.domain.state import ClusterState, Phase
from scheduler.planner.choice import NodeChoice, Ranges
from scheduler.planner.feasibility import SpecView, per_empty_node
from scheduler.planner.moves import (
    GAIN_HOURS,
    TAKEOVER_H,
    Moving,
    PlannedMove,
    hours_left,
    leave_yuan,
    rows_of_owners,
)
from scheduler.planner.queue import heads, urgent
from scheduler.planner.reserve import Reservations, earliest_slot, ends_of
from scheduler.planner.round import Placed
from scheduler.planner.scoring import Scorer
from scheduler.planner.snapshot import Snapshot, device_shares, gpu_fit
from scheduler.planner.spreads import MovingApart
from suanli.model.units import MILLI, SECONDS_PER_HOUR

MAX_GAIN_HOURS = 24.0
"""A gang for which no declared end makes room is counted as waiting a day; beyond that nothing is known anyway."""
MAX_GANGS = 8
"""Gangs looked at in one call, longest waiting first."""
MAX_POOLS = 64
"""Pools tried for one gang, cheapest to clear first."""

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Defragmentation:
    """What helps one gang: the moves, the nodes it then finds free, what the whole costs and the time it is worth."""

    gang: str
    nodes: tuple[int, ...]
    moves: tuple[PlannedMove, ...]
    cost_yuan: float
    saved_lateness_yuan: float
    saved_wait_h: float
    """Hours by which the gang starts earlier than declared ends alone would let it."""


def make_room(moving: Moving, budget: int, leaving: Collection[int] = ()) -> list[PlannedMove]:
    """The moves of `defragment`; the nodes they clear are kept."""
    placed = {p.row for p in moving.placed}
    helped = defragment(
        moving.state,
        moving.snapshot,
        moving.scorer,
        moving.now_s,
        budget,
        placed=placed,
        leaving=leaving,
        kept=moving.kept,
    )
    for help_ in helped:
        moving.kept.close(help_.nodes)
    return [move for help_ in helped for move in help_.moves]


def defragment(
    state: ClusterState,
    snapshot: Snapshot,
    scorer: Scorer,
    now_s: int,
    budget: int,
    *,
    placed: Collection[int] = (),
    leaving: Collection[int] = (),
    kept: Reservations | None = None,
) -> list[Defragmentation]:
    """At most `budget` moves in all, for the gangs that still wait on the snapshot of a finished round.

    Rows in `placed` are those that the round has started. Replicas in `leaving` are stopped or moved by the same commit
    and stay where they are here; none goes to nodes that the round has `kept` for gangs. The snapshot takes in the new
    placements; it still holds the old ones. A gang is helped whole or not at all; what drains already counts as gone,
    so that nobody is helped twice.
    """
    gangs = waiting_gangs(state, now_s, placed)[:MAX_GANGS] if budget > 0 else []
    if not gangs:
        return []
    helper = _Helper(state, snapshot, scorer, now_s, leaving, kept)
    found: list[Defragmentation] = []
    for rows in gangs:
        left = budget - sum(len(d.moves) for d in found)
        if left <= 0:
            break
        help_ = helper.make_room(rows, left)
        if help_ is not None:
            found.append(help_)
    return found


def waiting_gangs(state: ClusterState, now_s: int, placed: Collection[int] = ()) -> list[IntArray]:
    """Rows of each gang that waits whole and would start at once, longest waiting first; one stage only."""
    rows = heads(state, now_s)
    rows = rows[~np.isin(rows, sorted(placed))]
    rows = rows[state.shapes.columns["gang"][state.replicas["spec"][rows]]]
    gangs: list[tuple[int, int, IntArray]] = []
    for index in np.unique(state.replicas["workload"][rows]).tolist():
        own = state.rows_of(index)
        mine = rows[state.replicas["workload"][rows] == index]
        template = state.shapes.templates[int(state.workloads["shape"][index])]
        alive = int((state.replicas["phase"][own] != Phase.DONE).sum())
        if len(template.stages) > 1 or alive != len(mine):
            continue
        if template.deferrable and not urgent(state, mine, now_s).any():
            continue
        since_s = int(max(state.workloads["submitted_s"][index], state.workloads["not_before_s"][index]))
        gangs.append((since_s, index, mine))
    return [mine for _, _, mine in sorted(gangs, key=lambda g: g[:2])]


def no_longer_needed(state: ClusterState) -> list[tuple[int, int]]:
    """(row, old node) of replicas that made room for a gang which has ended, or lies elsewhere by now."""
    is_active = state.active_workloads()
    out = []
    for row, moved in sorted(state.moved_for.items()):
        lies_on = state.replicas["node"][state.rows_of(moved.gang)]
        waits = (lies_on < 0).all()
        if not is_active[moved.gang] or not (waits or moved.node in lies_on):
            out.append((row, moved.node))
    return out


def undo_moves(moving: Moving, budget: int, leaving: Collection[int] = ()) -> list[PlannedMove]:
    """Moves back to where replicas came from that made room for a gang which is gone.

    Only replicas that run, whose old node has room again and is not kept for another gang, and whose way back costs
    less than it saves within the time that they are expected to stay.
    """
    state, snapshot, scorer, now_s = moving.state, moving.snapshot, moving.scorer, moving.now_s
    out: list[PlannedMove] = []
    apart = MovingApart(state, leaving)
    for row, node in no_longer_needed(state):
        if len(out) >= budget:
            break
        view = snapshot.views[int(state.replicas["spec"][row])]
        here = int(state.replicas["node"][row])
        if (
            row in leaving
            or row in state.draining
            or state.replicas["phase"][row] != Phase.RUNNING
            or here == node
            or hours_left(state, row, now_s) <= TAKEOVER_H
        ):
            continue
        group, there = snapshot.topology.node_group[here], snapshot.topology.node_group[node]
        if not _may_take_in(snapshot, scorer, here)[there]:
            continue
        choice = NodeChoice(snapshot, scorer, moving.kept, None)
        among = Ranges.of_nodes(int(there), node, node + 1)
        nodes = choice.nodes_for(view, 1, np.inf, among, apart.rule_for(row))
        if not len(nodes):
            continue
        cost_yuan = leave_yuan(state, snapshot, scorer, np.array([row]), now_s)[row]
        energy_yuan = scorer.energy_yuan_per_hour(view, snapshot)
        saved = energy_yuan[group] - energy_yuan[there]
        if bool(snapshot.replica_count[here] == 1):
            saved += _wake_yuan(scorer, view, snapshot, here)
        gain_yuan = float(saved) * min(GAIN_HOURS, hours_left(state, row, now_s))
        if gain_yuan <= cost_yuan:
            continue
        (mask,) = choice.devices_for(view, [node])
        snapshot.take_node(view, node, mask)
        sites = snapshot.topology.node_site
        reason = "back where it was: nobody needs the room any more"
        move = PlannedMove(
            Placed(row, node, mask), int(sites[here]), int(sites[node]), cost_yuan, gain_yuan, reason
        )
        out.append(move)
        apart.moved[row] = node
    return out


def _wake_yuan(scorer: Scorer, view: SpecView, snapshot: Snapshot, node: int) -> float:
    """Yuan per hour that an otherwise empty node costs for being on."""
    trial = snapshot.copy()
    trial.empty_node[node] = True
    return float(scorer.node_cost(view, trial)[node])


def _may_take_in(snapshot: Snapshot, scorer: Scorer, node: int) -> NDArray[np.bool_]:
    """(G,) groups to which what lies on a node may move: at open sites, and at its own even if that is to close."""
    site = snapshot.topology.group_site
    may: NDArray[np.bool_] = scorer.open_sites(snapshot)[site] | (site == snapshot.topology.node_site[node])
    return may


@dataclass(frozen=True)
class _Clearing:
    """How one pool comes to hold a gang: the nodes it takes, and the rows that leave, in order."""

    nodes: tuple[int, ...]
    rows: tuple[int, ...]
    cost_yuan: float


class _Helper:
    """Scratch of one call."""

    def __init__(
        self,
        state: ClusterState,
        snapshot: Snapshot,
        scorer: Scorer,
        now_s: int,
        leaving: Collection[int],
        kept: Reservations | None,
    ) -> None:
        self._state, self._snapshot, self._scorer, self._now_s = state, snapshot, scorer, now_s
        self._drained = _without_draining(state, snapshot)
        """The snapshot as it will be when old placements of replicas that move have ended."""
        self._kept = kept.over(snapshot) if kept is not None else Reservations(snapshot, now_s)
        """Where nothing moves to: nodes kept for gangs by the round, and those cleared here."""
        self._cleared = np.zeros(snapshot.topology.node_count, bool)
        self._choice = NodeChoice(snapshot, scorer, self._kept, None)
        self._movable = np.array(
            [r for r in movable_rows(state, leaving).tolist() if hours_left(state, r, now_s) > TAKEOVER_H],
            np.int64,
        )
        self._apart = MovingApart(state, leaving)
        self._leave_yuan = leave_yuan(state, snapshot, scorer, self._movable, now_s)
        self._on_node: dict[int, list[int]] = {}
        for row in sorted(self._movable.tolist(), key=lambda r: (self._leave_yuan[r], r)):
            self._on_node.setdefault(int(state.replicas["node"][row]), []).append(row)

    def make_room(self, rows: IntArray, budget: int) -> Defragmentation | None:
        """The cheapest pool to clear that pays for itself; the moves are taken into the snapshot."""
        state, snapshot = self._state, self._snapshot
        view = self._view(int(rows[0]))
        theirs = self._of_others(rows)
        if self._fits_already(view, len(rows), theirs):
            return None
        wait_h = self._wait_h(view, len(rows))
        gpus = max(view.spec.stage.reference_gpu_milli / MILLI, 1.0) * len(rows)
        lateness_yuan = wait_h * gpus * view.spec.workload.lateness_yuan_per_gpu_hour
        name = state.names[int(state.replicas["workload"][rows[0]])]
        clearings = [
            c
            for pool in self._pools(view, len(rows))
            if (c := self._clearing(view, len(rows), *pool, theirs))
        ]
        clearings.sort(key=lambda c: (c.cost_yuan, c.nodes))
        for clearing in clearings[:MAX_POOLS]:
            if clearing.cost_yuan >= lateness_yuan:
                return None
            if len(clearing.rows) > budget:
                continue
            saved, saved_drained = snapshot.copy(), self._drained.copy()
            moved = dict(self._apart.moved)
            moves = self._moves(clearing, wait_h * gpus, lateness_yuan, name)
            if moves is not None:
                self._cleared[list(clearing.nodes)] = True
                cost_yuan = sum(m.cost_yuan for m in moves)
                return Defragmentation(name, clearing.nodes, tuple(moves), cost_yuan, lateness_yuan, wait_h)
            snapshot.restore(saved)
            self._drained.restore(saved_drained)
            self._apart.moved = moved
        return None

    def _view(self, row: int) -> SpecView:
        return self._snapshot.views[int(self._state.replicas["spec"][row])]

    def _of_others(self, rows: IntArray) -> NDArray[np.bool_]:
        """(N,) nodes kept or cleared for other work than this."""
        workload = int(self._state.replicas["workload"][rows[0]])
        theirs: NDArray[np.bool_] = (self._kept.whose >= 0) & (self._kept.whose != workload)
        return theirs | self._cleared

    def _fits_already(self, view: SpecView, count: int, theirs: NDArray[np.bool_]) -> bool:
        """Room is not what the gang lacks: power or a link is."""
        return any(
            int(self._fit(view, np.arange(first, last), theirs).sum()) >= count
            for _, first, last in self._pools(view, count)
        )

    def _fit(self, view: SpecView, at: IntArray, theirs: NDArray[np.bool_]) -> IntArray:
        fit = self._drained.fit_of_nodes(view, at)
        return np.where(theirs[at], 0, fit)

    def _wait_h(self, view: SpecView, count: int) -> float:
        """Hours until declared ends alone would make room, at most a day."""
        slot = earliest_slot(self._snapshot, view, count, ends_of(self._state, (), self._now_s), self._now_s)
        if slot is None:
            return MAX_GAIN_HOURS
        return min(MAX_GAIN_HOURS, (slot.at_s - self._now_s) / SECONDS_PER_HOUR)

    def _pools(self, view: SpecView, count: int) -> list[tuple[int, int, int]]:
        """(group, first node, one past the last) that may hold the gang: islands, or whole groups for larger gangs.

        Not where the reserved floor is what it lacks: moves within a group take nobody off that.
        """
        topology = self._snapshot.topology
        floor_room = self._drained.floor_room(view)
        out = []
        for group in view.candidate_groups.tolist():
            first, nodes = int(topology.group_first_node[group]), int(topology.group_node_count[group])
            size = int(topology.group_island_nodes[group])
            each = per_empty_node(view, group)
            if count > min(each * nodes, int(floor_room[group])):
                continue
            step = size if count <= each * size else nodes
            out += [(group, i, min(i + step, first + nodes)) for i in range(first, first + nodes, step)]
        return out

    # ------------------------------------------------------------------ which nodes, and who leaves them

    def _clearing(
        self, view: SpecView, count: int, group: int, first: int, last: int, theirs: NDArray[np.bool_]
    ) -> _Clearing | None:
        """Nodes of the pool that hold the gang with the least moved away; None when even all of it is not enough."""
        at = np.arange(first, last)
        fit = self._fit(view, at, theirs)
        options: list[tuple[float, int, int, tuple[int, ...]]] = []
        for node, holds in zip(at.tolist(), fit.tolist(), strict=True):
            if theirs[node]:
                continue
            if holds > 0:
                options.append((0.0, node, holds, ()))
            elif self._on_node.get(node):
                rows = self._leave(view, node, group)
                if rows:
                    options.append((sum(self._leave_yuan[r] for r in rows), node, 1, rows))
        nodes: list[int] = []
        rows_out: list[int] = []
        cost_yuan, held = 0.0, 0
        for yuan, node, holds, rows in sorted(options):
            if held >= count:
                break
            nodes.append(node)
            rows_out += rows
            cost_yuan += yuan
            held += holds
        return _Clearing(tuple(sorted(nodes)), tuple(rows_out), cost_yuan) if held >= count else None

    def _leave(self, view: SpecView, node: int, group: int) -> tuple[int, ...]:
        """Rows that leave the node so that it holds one replica of the gang; () when all of them are not enough."""
        rows = self._on_node[node]
        if not self._holds_without(view, node, group, rows):
            return ()
        low, high = 1, len(rows)
        while low < high:  # cheapest first: the shortest beginning that is enough
            middle = (low + high) // 2
            if self._holds_without(view, node, group, rows[:middle]):
                high = middle
            else:
                low = middle + 1
        chosen = rows[:low]
        for row in sorted(chosen, key=lambda r: (-self._leave_yuan[r], r)):
            fewer = [r for r in chosen if r != row]
            if fewer and self._holds_without(view, node, group, fewer):
                chosen = fewer
        return tuple(chosen)

    def _holds_without(self, view: SpecView, node: int, group: int, rows: Sequence[int]) -> bool:
        """Whether the node holds one replica of the gang once these rows have left it."""
        nodes, replicas = self._drained.nodes, self._state.replicas
        if not nodes.up[node] or nodes.cordoned[node]:
            return False
        left = np.array(rows, np.int64)
        back = self._snapshot.views.needs()[replicas["spec"][left], group]
        cpu, memory, _, storage = back.sum(axis=0).tolist()
        stage = view.spec.stage
        if (
            nodes.cpu_milli[node] + cpu < stage.cpu_milli
            or nodes.memory_mib[node] + memory < stage.memory_mib
            or nodes.storage_gib[node] + storage < stage.storage_gib
        ):
            return False
        if not stage.gpu_milli:
            return True
        shares = device_shares(replicas["gpu_mask"][left].astype(np.int64), back[:, 2]).sum(axis=0)
        return bool(
            gpu_fit((nodes.gpu_milli[node] + shares)[None, :], view.need[group : group + 1, 2])[0] >= 1
        )

    # ------------------------------------------------------------------ where they go

    def _moves(
        self, clearing: _Clearing, wait_gpu_h: float, lateness_yuan: float, gang: str
    ) -> list[PlannedMove] | None:
        """A new place for each row that leaves, taken in the snapshot; None when one finds none or costs too much.

        Each has an equal share in the time that the gang saves.
        """
        before = self._kept.until_s.copy()
        self._kept.close(clearing.nodes)
        moves: list[PlannedMove] = []
        share = 1.0 / len(clearing.rows)
        largest_first = sorted(clearing.rows, key=lambda r: (-self._size(r), r))
        for row in largest_first:
            move = self._move(row)
            if move is None:
                break
            moves.append(
                replace(
                    move,
                    reason=f"makes room for {gang}",
                    makes_room_for=gang,
                    saved_wait_gpu_h=wait_gpu_h * share,
                    saved_lateness_yuan=lateness_yuan * share,
                )
            )
        if len(moves) < len(clearing.rows) or sum(m.cost_yuan for m in moves) >= lateness_yuan:
            self._kept.until_s[:] = before
            return None
        return moves

    def _size(self, row: int) -> int:
        return int(self._view(row).spec.stage.reference_gpu_milli)

    def _move(self, row: int) -> PlannedMove | None:
        """To the cheapest place that has room now, taken in the snapshot; dearer energy is a cost, cheaper a gain."""
        snapshot, topology = self._snapshot, self._snapshot.topology
        view = self._view(row)
        here = int(self._state.replicas["node"][row])
        groups = view.group_ok & _may_take_in(snapshot, self._scorer, here)
        among = Ranges.of_groups(groups, snapshot)
        nodes = self._choice.nodes_for(view, 1, np.inf, among, self._apart.rule_for(row))
        if not len(nodes):
            return None
        node = int(nodes[0])
        energy_yuan = self._scorer.energy_yuan_per_hour(view, snapshot)
        dearer = float(energy_yuan[topology.node_group[node]] - energy_yuan[topology.node_group[here]])
        if snapshot.empty_node[node]:
            dearer += float(self._scorer.node_cost(view, snapshot)[node])
        hours = min(GAIN_HOURS, hours_left(self._state, row, self._now_s))
        cost_yuan = self._leave_yuan[row] + max(0.0, dearer) * hours
        (mask,) = self._choice.devices_for(view, [node])
        snapshot.take_node(view, node, mask)
        self._drained.take_node(view, node, mask)
        self._apart.moved[row] = node
        a, b = int(topology.node_site[here]), int(topology.node_site[node])
        return PlannedMove(Placed(row, node, mask), a, b, cost_yuan, max(0.0, -dearer) * hours, "makes room")


def _without_draining(state: ClusterState, snapshot: Snapshot) -> Snapshot:
    old = np.array([(d.spec, d.node, d.gpu_mask) for d in state.draining.values()], np.int64).reshape(-1, 3)
    drained = snapshot.copy()
    drained.give_back(*old.T)
    return drained


def movable_rows(state: ClusterState, leaving: Collection[int]) -> IntArray:
    """Running replicas that may move: one by one by their workload's rules, and losing little by it.

    Where a spread rule is among these the new place must meet it (`MovingApart`).
    """
    replicas = state.replicas
    may = np.array(
        [
            moves_alone(s.workload) and (s.stage.is_service or s.stage.checkpoint_interval_s > 0)
            for s in state.shapes.specs
        ]
        or [False]
    )
    rows = np.flatnonzero((replicas["phase"] == Phase.RUNNING) & may[replicas["spec"]])
    held = sorted({*leaving, *state.draining, *rows_of_owners(state)})
    return rows[~np.isin(rows, held)] if held else rows
