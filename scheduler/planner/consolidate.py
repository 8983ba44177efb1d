"""Consolidation: planned moves that empty nodes, so that they sleep, when the idle energy saved pays for the moves.

A round fills nodes that are on before it wakes others, but what ends leaves holes, and a node stays on for the last
replica on it. Once per plan the nodes are looked at whose replicas may all move and find room at the same site, on
others that are on or on sleeping ones that idle at less power (services left alone on a node whose GPU work has ended);
how much of what runs at which site stays the plan's business.

Gain (yuan) of one node: its idle power at the site's marginal price (facility and ledger included, so that a site which
needs load is left alone), for as long as something would have run there, at most as long as the plan's services stay.
Cost: that of each replica's move (`defragment.leave_yuan`), and the dearer energy of its new place for the same time.
Nodes with the most to gain for each move go first; none is emptied in vain, and none that has just taken somebody in.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.state import ClusterState
from scheduler.planner.choice import NodeChoice, Ranges
from scheduler.planner.defragment import movable_rows
from scheduler.planner.moves import GAIN_HOURS, TAKEOVER_H, Moving, PlannedMove, hours_left, leave_yuan
from scheduler.planner.round import Placed
from scheduler.planner.scoring import Scorer
from scheduler.planner.snapshot import Snapshot
from scheduler.planner.spreads import MovingApart

MAX_NODES_TRIED = 128
"""Nodes for which places are looked for in one call, those with the most to gain first."""
ASLEEP_YUAN_PER_HOUR = 1e6
"""Keeps replicas that move off nodes that sleep or are to: above any price per hour."""


@dataclass(frozen=True)
class _Emptying:
    """A node that could sleep: who leaves it, what their leaving costs, and what the sleep saves."""

    node: int
    rows: tuple[int, ...]
    leave_yuan: float
    hours: float
    gain_yuan: float


def consolidate(moving: Moving, budget: int, leaving: Collection[int] = ()) -> list[PlannedMove]:
    """Moves off nodes that may sleep; a node is emptied whole or not at all, nobody goes to nodes kept for gangs."""
    if budget <= 0:
        return []
    snapshot = moving.snapshot
    choice = NodeChoice(snapshot, moving.scorer, moving.kept, None)
    choice.spoils_no_gpu = True
    price = choice.node_penalty = np.where(snapshot.empty_node, ASLEEP_YUAN_PER_HOUR, 0.0)
    apart = MovingApart(moving.state, leaving)
    moves: list[PlannedMove] = []
    for emptying in _worth_emptying(moving, leaving)[:MAX_NODES_TRIED]:
        took_in = snapshot.replica_count[emptying.node] != len(emptying.rows)
        if took_in or len(moves) + len(emptying.rows) > budget:
            continue
        price[emptying.node] = ASLEEP_YUAN_PER_HOUR
        frugal = _asleep_and_frugal(snapshot, emptying.node)
        price[frugal] = 0.0
        found = _moves(moving, choice, apart, emptying)
        price[frugal] = np.where(snapshot.empty_node[frugal], ASLEEP_YUAN_PER_HOUR, 0.0)
        if not found:
            price[emptying.node] = 0.0
            continue
        moves += found
    return moves


def _worth_emptying(moving: Moving, leaving: Collection[int]) -> list[_Emptying]:
    """Nodes whose replicas may all move and whose sleep is worth more than that; the most gain for each move first."""
    state, snapshot, scorer, now_s = moving.state, moving.snapshot, moving.scorer, moving.now_s
    movable = movable_rows(state, leaving)
    node_of = state.replicas["node"][movable].astype(np.int64)
    here = np.bincount(node_of, minlength=snapshot.topology.node_count)
    whole = (here > 0) & (here == snapshot.replica_count)
    rows = movable[whole[node_of]]
    if not len(rows):
        return []
    cost_yuan = leave_yuan(state, snapshot, scorer, rows, now_s)
    idle_yuan = _idle_yuan_per_hour(state, snapshot, scorer, rows)
    on_node: dict[int, list[int]] = {}
    for row in rows.tolist():
        on_node.setdefault(int(state.replicas["node"][row]), []).append(row)
    out = []
    for node, mine in on_node.items():
        left_h = [hours_left(state, row, now_s) for row in mine]
        if min(left_h) <= TAKEOVER_H:
            continue  # somebody ends before a new place could take over: the next plan looks again
        hours = min(GAIN_HOURS, max(left_h))
        cost, gain = sum(cost_yuan[row] for row in mine), float(idle_yuan[node]) * hours
        if gain > cost:
            out.append(_Emptying(node, tuple(mine), cost, hours, gain))
    return sorted(out, key=lambda e: ((e.leave_yuan - e.gain_yuan) / len(e.rows), e.node))


def _idle_yuan_per_hour(
    state: ClusterState, snapshot: Snapshot, scorer: Scorer, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(N,) what a node costs for being on: what it would cost to wake, if it slept."""
    asleep = snapshot.copy()
    asleep.empty_node[:] = True
    return scorer.node_cost(snapshot.views[int(state.replicas["spec"][rows[0]])], asleep)


def _asleep_and_frugal(snapshot: Snapshot, node: int) -> NDArray[np.int64]:
    """Sleeping nodes of the same site that idle at less power than this one."""
    topology = snapshot.topology
    frugal = topology.group_idle_w < topology.group_idle_w[topology.node_group[node]]
    frugal &= topology.group_site == topology.node_site[node]
    return np.flatnonzero(frugal[topology.node_group] & snapshot.empty_node)


def _moves(moving: Moving, choice: NodeChoice, apart: MovingApart, emptying: _Emptying) -> list[PlannedMove]:
    """A place on a node that is on for each row, largest first, taken in the snapshot; none when they do not pay."""
    state, snapshot, scorer, now_s = moving.state, moving.snapshot, moving.scorer, moving.now_s
    saved = snapshot.copy()
    topology = snapshot.topology
    assert choice.node_penalty is not None
    site = int(topology.node_site[emptying.node])
    moves: list[PlannedMove] = []
    cost_yuan = 0.0
    needs = snapshot.views.needs()[
        state.replicas["spec"][list(emptying.rows)], topology.node_group[emptying.node]
    ]
    size = (needs / np.maximum(topology.group_capacity[topology.node_group[emptying.node]], 1)).max(axis=1)
    for i in np.lexsort((emptying.rows, -size)).tolist():
        row = emptying.rows[i]
        view = snapshot.views[int(state.replicas["spec"][row])]
        here = view.group_ok & (topology.group_site == site)
        snapshot.link_mbps -= snapshot.same_road_mbps(view.spec.spec, site)
        nodes = choice.nodes_for(view, 1, np.inf, Ranges.of_groups(here, snapshot), apart.rule_for(row))
        if not len(nodes) or choice.node_penalty[nodes[0]] > 0:
            break
        there = int(nodes[0])
        energy_yuan = scorer.energy_yuan_per_hour(view, snapshot)
        old, new = (topology.node_group[n] for n in (emptying.node, there))
        dearer = float(energy_yuan[new] - energy_yuan[old])
        wake_yuan = float(scorer.node_cost(view, snapshot)[there]) if snapshot.empty_node[there] else 0.0
        own_yuan = max(0.0, dearer) * min(GAIN_HOURS, hours_left(state, row, now_s))
        own_yuan += wake_yuan * emptying.hours  # for as long as any of them stays
        own_yuan += leave_yuan(state, snapshot, scorer, np.array([row]), now_s)[row]
        cost_yuan += own_yuan
        (mask,) = choice.devices_for(view, [there])
        snapshot.take_node(view, there, mask)
        apart.moved[row] = there
        moves.append(
            PlannedMove(
                Placed(row, there, mask),
                site,
                site,
                own_yuan,
                emptying.gain_yuan / len(emptying.rows),
                "lets its node sleep",
            )
        )
    if len(moves) < len(emptying.rows) or cost_yuan >= emptying.gain_yuan:
        snapshot.restore(saved)
        for row in emptying.rows:
            apart.moved.pop(row, None)
        return []
    return moves
