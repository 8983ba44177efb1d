"""Planned moves of whole gangs: to the group where the plan wants them, when the gain pays for the move.

`moves.py` moves replicas that can move alone. A gang moves whole or not at all: all its members start together
elsewhere, from the last checkpoint, while the old ones go on until the new ones run.

Gain (yuan): dearer energy saved, and the idle power of nodes that fall asleep behind the gang less that of nodes woken
for it, over the hours the gang still runs, at most `HORIZON_H`. The price of energy is the plan's marginal price: of it
the tariff's part, tariff · marginal iPUE, changes with the tariff of each hour; what ledgers and caps add stays. Cost:
the policy's price of the move and the work since the last checkpoint, done twice. Who has most to gain goes first.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.outlook import CalendarOutlook
from scheduler.domain.state import Phase
from scheduler.planner.marginal import marginal_ipue
from scheduler.planner.moves import TAKEOVER_H, Moving, PlannedMove, hours_left, leave_yuan, rows_of_owners
from scheduler.planner.round import Round
from scheduler.planner.scoring import TieredScorer
from suanli.model.units import SECONDS_PER_HOUR, W_PER_KW

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
HORIZON_H = 24
"""Hours of a gain: what the plan looks ahead."""
LEAST_PART = 0.5
"""The plan wants a gang elsewhere when at least this part of it is too many here, and missing there."""
WHY = "cheaper energy there"


@dataclass(frozen=True)
class _Gang:
    """A gang that may move: its rows, the spec and group of all of them, and what it costs until it ends."""

    rows: IntArray
    spec: int
    group: int
    energy_yuan: FloatArray
    """(G,) of all members, in each group."""
    idle_yuan: FloatArray
    """(G,) of one node that is on for as long."""


def move_gangs(moving: Moving, budget: int, leaving: Collection[int] = ()) -> list[PlannedMove]:
    """Moves of whole gangs, one for each replica; gangs with a row in `leaving` stay, nobody goes to kept nodes."""
    if not isinstance(moving.scorer, TieredScorer):
        return []  # without prices of idle nodes there is no gain to count
    mover = _Mover(moving, moving.scorer)
    moves: list[PlannedMove] = []
    for gang in mover.worth_looking_at(leaving):
        if len(moves) + len(gang.rows) <= budget:
            moves += mover.moves_of(gang)
    return moves


class _Mover:
    """Scratch of one call."""

    def __init__(self, moving: Moving, scorer: TieredScorer) -> None:
        state, snapshot, now_s = moving.state, moving.snapshot, moving.now_s
        self._state, self._snapshot, self._scorer, self._now_s = state, snapshot, scorer, now_s
        self._round = Round(state, snapshot, moving.patterns, scorer, now_s, is_trial=True)
        self._round.reservations = moving.kept.over(snapshot)
        assert state.topology is not None
        hours = now_s + np.arange(HORIZON_H) * SECONDS_PER_HOUR
        self._tariff = CalendarOutlook(state.topology, state.forecast).prices_yuan_per_kwh(hours)
        """(S, HORIZON_H) of the hours from now."""
        self._ipue = marginal_ipue(state, now_s)
        self._running: dict[int, FloatArray] = {}
        """Fold → (G,) replicas of all its specs, moves counted."""

    def worth_looking_at(self, leaving: Collection[int]) -> list[_Gang]:
        """Gangs that run whole, of which the plan has too many in their group; most saved elsewhere first."""
        state = self._state
        held = {*leaving, *state.draining, *rows_of_owners(state)}
        found: list[tuple[float, int, _Gang]] = []
        for workload in self._gangs_that_run().tolist():
            gang = self._gang(workload)
            if gang is None or not held.isdisjoint(gang.rows.tolist()) or not self._is_too_many(gang):
                continue
            quota = self._scorer.quota(gang.spec, self._snapshot)
            most_saved = float(self._saved_yuan(gang)[sorted(quota)].max())
            if most_saved > 0:
                found.append((-most_saved, int(gang.rows[0]), gang))
        return [gang for _, _, gang in sorted(found, key=lambda f: f[:2])]

    def _gangs_that_run(self) -> IntArray:
        """Workloads of one stage, a gang that keeps its work at checkpoints, of which some replica runs."""
        state = self._state
        columns, spec = state.shapes.columns, state.replicas["spec"]
        stages = np.array([len(t.stages) for t in state.shapes.templates] or [0])
        moves = columns["gang"] & (columns["checkpoint_interval_s"] > 0) & (stages[columns["shape"]] == 1)
        runs = np.flatnonzero((state.replicas["phase"] == Phase.RUNNING) & moves[spec])
        return np.unique(state.replicas["workload"][runs])

    def moves_of(self, gang: _Gang) -> list[PlannedMove]:
        """One for each member, all to the group that saves most; [] when none pays or has room."""
        if not self._is_too_many(gang):
            return []  # another gang of its kind has moved
        leave = leave_yuan(self._state, self._snapshot, self._scorer, gang.rows, self._now_s)
        quota, saved_yuan = self._scorer.quota(gang.spec, self._snapshot), self._saved_yuan(gang)
        wanted = [g for g in quota if -self._surplus(gang.spec, g) >= LEAST_PART * len(gang.rows)]
        for there in sorted(wanted, key=lambda g: (-saved_yuan[g], g)):
            if saved_yuan[there] <= sum(leave.values()):
                break
            before = self._snapshot.copy()
            placed = self._round.place_gang_again(gang.rows, there)
            woken = sum(bool(before.empty_node[n]) for n in {p.node for p in placed})
            gain_yuan = float(saved_yuan[there] - woken * gang.idle_yuan[there])
            if not placed or gain_yuan <= sum(leave.values()):
                self._snapshot.restore(before)
                continue
            running = self._running_of_fold(gang.spec)
            running[gang.group] -= len(gang.rows)
            running[there] += len(gang.rows)
            sites = self._snapshot.topology.group_site
            here, each_yuan = int(sites[gang.group]), gain_yuan / len(placed)
            return [PlannedMove(p, here, int(sites[there]), leave[p.row], each_yuan, WHY) for p in placed]
        return []

    def _gang(self, workload: int) -> _Gang | None:
        """The gang that a workload is, if all of it runs, for longer than a move takes."""
        state, snapshot = self._state, self._snapshot
        own = state.rows_of(workload)
        rows = np.arange(own.start, own.stop)
        rows = rows[state.replicas["phase"][rows] != Phase.DONE]
        hours = min(float(HORIZON_H), min(hours_left(state, row, self._now_s) for row in rows.tolist()))
        if (state.replicas["phase"][rows] != Phase.RUNNING).any() or hours <= TAKEOVER_H:
            return None
        node, spec = int(state.replicas["node"][rows[0]]), int(state.replicas["spec"][rows[0]])
        view = snapshot.views[spec]
        energy = self._scorer.energy_yuan_per_hour(view, snapshot)
        idle = self._scorer.wake_cost(view, snapshot)
        return _Gang(
            rows=rows,
            spec=spec,
            group=int(snapshot.topology.node_group[node]),
            energy_yuan=self._until_end(energy, view.watts / W_PER_KW, hours) * len(rows),
            idle_yuan=self._until_end(idle, snapshot.topology.group_idle_w / W_PER_KW, hours),
        )

    def _until_end(self, yuan_per_hour: FloatArray, kw: FloatArray, hours: float) -> FloatArray:
        """(G,) yuan of so many hours from now, of what costs (G,) `yuan_per_hour` now for (G,) `kw` of IT power.

        price = yuan per hour / kW; Σ over the hours of kW·(price + (tariff then − tariff now)·f), where f, the facility
        energy per IT energy that follows the tariff, is the marginal iPUE, or price / tariff now where that is less:
        the tariff's part of a price is no more than the price.
        """
        site = self._snapshot.topology.group_site
        length = np.clip(hours - np.arange(HORIZON_H), 0.0, 1.0)
        now = self._tariff[site, 0]
        rise = (self._tariff @ length)[site] - now * hours
        whole = np.divide(yuan_per_hour, kw * now, out=np.full(len(site), np.inf), where=kw * now > 0)
        following = np.minimum(self._ipue[site], whole)
        until_end: FloatArray = yuan_per_hour * hours + kw * following * rise
        return until_end

    def _is_too_many(self, gang: _Gang) -> bool:
        return self._surplus(gang.spec, gang.group) >= LEAST_PART * len(gang.rows)

    def _surplus(self, spec: int, group: int) -> float:
        """Replicas of the spec's fold that run in a group beyond what the plan wants there."""
        quota = self._scorer.quota(spec, self._snapshot)
        if not quota:
            return 0.0
        return float(self._running_of_fold(spec)[group]) - quota.get(group, 0.0)

    def _running_of_fold(self, spec: int) -> FloatArray:
        """(G,) replicas that run of the spec's whole fold; a gang that has moved counts at its new place alone."""
        fold = int(self._snapshot.fold[spec])
        if fold not in self._running:
            self._running[fold] = self._snapshot.running_of_fold(spec).astype(float)
        return self._running[fold]

    def _saved_yuan(self, gang: _Gang) -> FloatArray:
        """(G,) what the gang saves in each group in the time it still runs, on nodes that are on; below zero: it costs
        more; −inf where it may not go."""
        snapshot = self._snapshot
        is_open = self._scorer.open_sites(snapshot)[snapshot.topology.group_site]
        may = snapshot.views[gang.spec].group_ok & is_open
        may[gang.group] = False
        nodes, members = np.unique(self._state.replicas["node"][gang.rows], return_counts=True)
        slept = int((snapshot.replica_count[nodes] == members).sum())
        saved = gang.energy_yuan[gang.group] - gang.energy_yuan + slept * gang.idle_yuan[gang.group]
        return np.where(may, saved, -np.inf)
