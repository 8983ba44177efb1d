"""Planned moves: replicas of services that the new plan wants on another site, when the gain pays for the move.

A move starts the new placement before the old one stops. The gain counts until the plan's services may shift again; a
replica whose leaving lets a site close shares in what closing saves.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.shapes import moves_alone
from scheduler.domain.state import ClusterState, Phase
from scheduler.planner.choice import NodeChoice, Ranges
from scheduler.planner.feasibility import SpecView
from scheduler.planner.folds import folds_of
from scheduler.planner.preempt import lost_gpu_s
from scheduler.planner.reserve import Reservations
from scheduler.planner.round import PatternCache, Placed, Round
from scheduler.planner.scoring import Scorer
from scheduler.planner.snapshot import Snapshot
from scheduler.planner.spreads import MovingApart
from suanli.model import MoveMode, SiteKind
from suanli.model.units import MILLI, SECONDS_PER_HOUR

GAIN_HOURS = 6.0
"""A service block of the horizon plan: for so long the new place is expected to stay the better one."""
LEAST_GAIN_YUAN = 0.05
"""What a move must save beyond its cost to be worth one of the budget (ASSUMED: by the policy's price work without GPUs
moves for nothing, and the budget is better spent than on hundredths of a yuan)."""
ROUNDING = 1e-6
"""Part of a replica that is none."""
TAKEOVER_H = 0.25
"""Until a new place has woken its node, started and taken over; who ends sooner (minutes, ASSUMED) is not moved."""


@dataclass(frozen=True)
class Moving:
    """What every mover works on: a finished round, whose snapshot takes in the new places, and the plan it follows.

    A mover is called with it, the moves left of the budget and the rows that stay where they are, as the same commit
    stops or moves them already; it answers with at most so many moves.
    """

    state: ClusterState
    snapshot: Snapshot
    patterns: PatternCache
    scorer: Scorer
    guide: dict[str, Any]
    now_s: int
    placed: tuple[Placed, ...]
    """What the round has started."""
    kept: Reservations
    """Nodes kept for gangs that wait, over the snapshot; movers that clear nodes close them here."""

    @classmethod
    def after(cls, done: Round, guide: dict[str, Any]) -> Moving:
        """Of a round that has run."""
        kept = done.reservations.over(done.snapshot)
        placed = tuple(done.result.placed)
        return cls(done.state, done.snapshot, done.patterns, done.scorer, guide, done.now_s, placed, kept)


@dataclass(frozen=True)
class PlannedMove:
    """One replica's move with its cost, and what it saves: energy, or the waiting of a gang that gets the room."""

    placed: Placed
    from_site: int
    to_site: int
    cost_yuan: float
    gain_yuan: float
    reason: str
    makes_room_for: str = ""
    """The gang that gets the room, if the move is for one."""
    saved_wait_gpu_h: float = 0.0
    """Reference GPU-hours that this gang waits less for this move."""
    saved_lateness_yuan: float = 0.0
    """What these are worth at its own price of lateness: it weighs, but nobody saves it."""

    def body(self, state: ClusterState) -> dict[str, Any]:
        """What plans, rounds and its `replica.moved` event say of it."""
        topology = state.topology
        assert topology is not None
        row = self.placed.row
        return {
            "workload": state.names[int(state.replicas["workload"][row])],
            "stage_id": state.spec(int(state.replicas["spec"][row])).stage.stage_id,
            "replica_index": int(state.replicas["index"][row]),
            "from_site_id": topology.site_ids[self.from_site],
            "to_site_id": topology.site_ids[self.to_site],
            "mode": move_mode(topology.sites[self.from_site].kind, topology.sites[self.to_site].kind).value,
            "reason": self.reason,
            "cost_yuan": round(self.cost_yuan, 4),
            "gain_yuan": round(self.gain_yuan, 4),
            "saved_wait_gpu_h": round(self.saved_wait_gpu_h, 4),
            "saved_lateness_yuan": round(self.saved_lateness_yuan, 4),
        }


def move_mode(a: SiteKind, b: SiteKind) -> MoveMode:
    """Which of the three ways of sharing a move between two kinds of site is."""
    if a is b:
        return MoveMode.CLOUD_CLOUD if a is SiteKind.CLOUD else MoveMode.EDGE_EDGE
    return MoveMode.CLOUD_EDGE


def propose_moves(moving: Moving, budget: int, leaving: Collection[int] = ()) -> list[PlannedMove]:
    """Moves that bring services closer to the plan's quotas, dearest surplus first; not to nodes kept for gangs."""
    moves: list[PlannedMove] = []
    apart = MovingApart(moving.state, leaving)
    choice = NodeChoice(moving.snapshot, moving.scorer, moving.kept, None)
    choice.node_penalty, choice.spoils_no_gpu = np.zeros(moving.snapshot.topology.node_count), True
    for specs in _movable_folds(moving.state, moving.snapshot):
        quota = moving.scorer.quota(specs[0], moving.snapshot)
        if quota and len(moves) < budget:
            moves += _moves_of(moving, choice, apart, specs, quota, budget - len(moves), leaving)
    return moves


def _movable_folds(state: ClusterState, snapshot: Snapshot) -> list[list[int]]:
    """Specs whose replicas can move alone and lose no work by it, by fold: services, and work with checkpoints."""
    folds: dict[int, list[int]] = {}
    numbers = folds_of(snapshot.views)
    for s in np.flatnonzero(snapshot.running.any(axis=1)):
        workload = state.spec(int(s)).workload
        stage = workload.stages[0]
        keeps_work = stage.is_service or stage.checkpoint_interval_s > 0
        if moves_alone(workload) and keeps_work and not workload.deferrable:
            folds.setdefault(numbers.of(int(s)), []).append(int(s))
    return [folds[f] for f in sorted(folds)]


def _moves_of(
    moving: Moving,
    choice: NodeChoice,
    apart: MovingApart,
    specs: list[int],
    quota: dict[int, float],
    budget: int,
    leaving: Collection[int],
) -> list[PlannedMove]:
    state, snapshot, scorer, now_s = moving.state, moving.snapshot, moving.scorer, moving.now_s
    topology = snapshot.topology
    closing = closing_yuan_per_hour(moving)
    view = snapshot.views[specs[0]]
    running = snapshot.running_of_fold(specs[0]).copy()
    cost, energy_yuan = scorer.group_cost(view, snapshot), scorer.energy_yuan_per_hour(view, snapshot)
    is_open = scorer.open_sites(snapshot)
    target = np.zeros(len(running))
    for group, amount in quota.items():
        target[group] = amount
    over = running - target
    surplus, deficit = np.floor(over + ROUNDING), np.floor(-over + ROUNDING)
    if not view.spec.stage.gpu_milli:
        over = net_of_site(over, topology.group_site)
        surplus, deficit = whole_parts(over, topology.group_site), whole_parts(-over, topology.group_site)
    moves: list[PlannedMove] = []
    gone = set(leaving)
    for here in sorted(np.flatnonzero(surplus >= 1), key=lambda g: (-cost[g], g)):
        for there in sorted(np.flatnonzero(deficit >= 1), key=lambda g: (cost[g], g)):
            a, b = int(topology.group_site[here]), int(topology.group_site[there])
            if a == b or not view.group_ok[there] or not is_open[b]:
                continue
            # where work without GPUs lies within a site is not the plan's wish
            at_site = (
                topology.group_site == b if not view.spec.stage.gpu_milli else np.arange(len(over)) == there
            )
            among = Ranges.of_groups(at_site & view.group_ok, snapshot)
            share = closing[a] / max(1, int(snapshot.running[:, topology.group_site == a].sum()))
            saved = float(energy_yuan[here] - energy_yuan[there] + share)
            if saved * GAIN_HOURS <= LEAST_GAIN_YUAN:
                continue
            for row in _rows_on(state, specs, int(here)):
                if row in gone:
                    continue
                if surplus[here] < 1 or deficit[there] < 1 or len(moves) >= budget:
                    break
                left_h = hours_left(state, row, now_s)
                hours = min(GAIN_HOURS, left_h)
                leave = leave_yuan(state, snapshot, scorer, np.array([row]), now_s)[row]
                gain = saved * hours
                if hours <= TAKEOVER_H or gain <= leave + LEAST_GAIN_YUAN:
                    continue
                own = snapshot.views[int(state.replicas["spec"][row])]
                rule = apart.rule_for(row)
                nodes = choice.nodes_for(own, 1, left_h * SECONDS_PER_HOUR, among, rule)
                if not len(nodes) and rule is not None:
                    continue
                if not len(nodes):
                    break
                node = int(nodes[0])
                together = min(surplus[here], deficit[there], snapshot.fit_of_nodes(own, nodes)[0])
                leave += _wake_yuan(moving, own, node) / max(1.0, float(together)) * hours
                if gain <= leave + LEAST_GAIN_YUAN:
                    continue
                (mask,) = choice.devices_for(own, [node])
                snapshot.take_node(own, node, mask)
                apart.moved[row] = node
                surplus[here] -= 1
                deficit[there] -= 1
                gone.add(row)
                moves.append(PlannedMove(Placed(row, node, mask), a, b, leave, gain, _why(closing, a)))
    return moves


def whole_parts(over: NDArray[np.float64], group_site: NDArray[np.int64]) -> NDArray[np.float64]:
    """(G,) whole replicas of what is above 0: as many at a site as its parts make together, the largest parts first."""
    above = np.maximum(over, 0.0)
    out = np.floor(above + ROUNDING)
    for site in np.unique(group_site[above > ROUNDING]):
        here = np.flatnonzero((group_site == site) & (above > ROUNDING))
        missing = int(np.floor(above[here].sum() + ROUNDING) - out[here].sum())
        parts = np.lexsort((here, out[here] - above[here]))
        out[here[parts[:missing]]] += 1.0
    return out


def _wake_yuan(moving: Moving, view: SpecView, node: int) -> float:
    """Yuan per hour of the node's idle power, if it sleeps."""
    if not moving.snapshot.empty_node[node]:
        return 0.0
    return float(moving.scorer.node_cost(view, moving.snapshot)[node])


def net_of_site(over: NDArray[np.float64], group_site: NDArray[np.int64]) -> NDArray[np.float64]:
    """(G,) surplus over targets, once each site's groups have made up for one another.

    On which nodes of a site work without GPUs lies is the rounds' business (`Round`).
    """
    out = over.copy()
    for site in np.unique(group_site):
        here = np.flatnonzero(group_site == site)
        net = float(over[here].sum())
        own = np.maximum(np.sign(net) * over[here], 0.0)
        out[here] = own * (net / own.sum()) if net else 0.0
    return out


def closing_yuan_per_hour(moving: Moving) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(S,) what each site that the plan would rather close costs for being open; 0 elsewhere."""
    return np.array(moving.guide.get("closing_yuan_per_hour", np.zeros(moving.snapshot.topology.site_count)))


def migration_yuan(state: ClusterState, row: int) -> float:
    """The policy's price of moving one replica."""
    gpus = state.spec(int(state.replicas["spec"][row])).stage.reference_gpu_milli / MILLI
    return state.policy.migration_yuan_per_gpu * gpus


def leave_yuan(
    state: ClusterState, snapshot: Snapshot, scorer: Scorer, rows: NDArray[np.int64], now_s: int
) -> dict[int, float]:
    """Row → the policy's price of moving it, and the energy of the work since its last checkpoint, done twice.

    What a service has served is not done again.
    """
    lost_gpu_s_of = np.where(np.isfinite(state.replicas["work_s"][rows]), lost_gpu_s(state, rows, now_s), 0.0)
    out = {}
    yuan_per_hour: dict[int, NDArray[np.float64]] = {}
    for row, lost_gpu_h in zip(rows.tolist(), (lost_gpu_s_of / SECONDS_PER_HOUR).tolist(), strict=True):
        spec = int(state.replicas["spec"][row])
        view = snapshot.views[spec]
        if spec not in yuan_per_hour:
            yuan_per_hour[spec] = scorer.energy_yuan_per_hour(view, snapshot)
        gpus = max(view.spec.stage.reference_gpu_milli / MILLI, 0.1)
        group = int(snapshot.topology.node_group[state.replicas["node"][row]])
        out[row] = migration_yuan(state, row) + lost_gpu_h / gpus * float(yuan_per_hour[spec][group])
    return out


def kept_work_s(state: ClusterState, row: int, now_s: int) -> float:
    """Work that a replica started elsewhere now may build on: up to its last checkpoint (s)."""
    replicas = state.replicas
    done_s = float(replicas["done_work_s"][row])
    every_s = state.spec(int(replicas["spec"][row])).stage.checkpoint_interval_s
    if every_s <= 0 or not np.isfinite(replicas["work_s"][row]) or replicas["phase"][row] != Phase.RUNNING:
        return done_s
    total_s = done_s + max(0, now_s - int(replicas["running_s"][row]))
    return max(done_s, total_s - total_s % every_s)


def _why(closing: np.ndarray[Any, Any], site: int) -> str:
    return "lets the site close" if closing[site] > 0 else "cheaper energy there"


def hours_left(state: ClusterState, row: int, now_s: int) -> float:
    """Hours until the declared end of a replica that runs; inf for a service."""
    end_s = (
        state.replicas["running_s"][row] + state.replicas["work_s"][row] - state.replicas["done_work_s"][row]
    )
    return float(max(0.0, end_s - now_s) / SECONDS_PER_HOUR)


def _rows_on(state: ClusterState, specs: list[int], group: int) -> list[int]:
    topology = state.topology
    assert topology is not None
    first = int(topology.group_first_node[group])
    last = first + int(topology.group_node_count[group])
    replicas = state.replicas
    node = replicas["node"]
    rows = np.flatnonzero(
        np.isin(replicas["spec"], specs)
        & (node >= first)
        & (node < last)
        & (replicas["phase"] == Phase.RUNNING)
    )
    held = {*state.draining, *rows_of_owners(state)}
    return [int(r) for r in rows if int(r) not in held]


def rows_of_owners(state: ClusterState) -> list[int]:
    """Rows of workloads of which others share a stage: they do not move alone."""
    own = (state.rows_of(owner) for owner in state.shared_owners())
    return [row for rows in own for row in range(rows.start, rows.stop)]
