"""Planned moves of whole gangs: to the group where the plan wants them, when the gain pays for the move.

`moves.py` moves replicas that can move alone. A gang moves whole or not at all: all its members start together
elsewhere, from the last checkpoint, while the old ones go on until the new ones run.

Gain (yuan): dearer energy saved, and the idle power of nodes that fall asleep behind the gang less that of nodes woken
for it, at the mean tariff of the hours the gang still runs, at most `HORIZON_H`. Cost: the policy's price of the move
and the work since the last checkpoint, done twice. The gang with most to gain goes first.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.outlook import CalendarOutlook
from scheduler.domain.state import ClusterState, Phase
from scheduler.planner.defragment import leave_yuan
from scheduler.planner.moves import TAKEOVER_H, PlannedMove, hours_left, rows_of_owners
from scheduler.planner.reserve import Reservations
from scheduler.planner.round import PatternCache, Round
from scheduler.planner.scoring import Scorer, TieredScorer
from scheduler.planner.snapshot import Snapshot
from suanli.model import Workload
from suanli.model.units import SECONDS_PER_HOUR

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
HORIZON_H = 24
"""Hours of a gain: what the plan looks ahead."""
LEAST_PART = 0.5
"""The plan wants a gang elsewhere when at least this part of it is too many here, and missing there."""
LEAST_TARIFF = 1e-3
"""Yuan per kWh; what is free now is not weighed by what it is later."""
WHY = "cheaper energy there"


@dataclass(frozen=True)
class _Gang:
    """A gang that may move: its rows, the spec and group of all of them, and how long it still runs."""

    rows: IntArray
    spec: int
    group: int
    hours: float


def move_gangs(
    state: ClusterState,
    snapshot: Snapshot,
    patterns: PatternCache,
    scorer: Scorer,
    now_s: int,
    budget: int,
    *,
    leaving: Collection[int] = (),
    kept: Reservations | None = None,
) -> list[PlannedMove]:
    """At most `budget` moves of replicas in all, on the snapshot of a finished round; it takes in the new placements.

    Gangs with a row in `leaving` stay; nobody goes to nodes `kept` for gangs that wait.
    """
    if not isinstance(scorer, TieredScorer):
        return []  # without prices of idle nodes there is no gain to count
    mover = _Mover(state, snapshot, patterns, scorer, now_s, kept)
    moves: list[PlannedMove] = []
    for gang in mover.worth_looking_at(leaving):
        if len(moves) + len(gang.rows) <= budget:
            moves += mover.moves_of(gang)
    return moves


class _Mover:
    """Scratch of one call."""

    def __init__(
        self,
        state: ClusterState,
        snapshot: Snapshot,
        patterns: PatternCache,
        scorer: TieredScorer,
        now_s: int,
        kept: Reservations | None,
    ) -> None:
        self._state, self._snapshot, self._scorer, self._now_s = state, snapshot, scorer, now_s
        self._round = Round(state, snapshot, patterns, scorer, now_s, is_trial=True)
        if kept is not None:
            self._round.reservations = kept.over(snapshot)
        assert state.topology is not None
        hours = now_s + np.arange(HORIZON_H) * SECONDS_PER_HOUR
        tariff = CalendarOutlook(state.topology, state.forecast).prices_yuan_per_kwh(hours)
        mean_tariff = np.cumsum(tariff, axis=1) / np.arange(1, HORIZON_H + 1)
        self._later = mean_tariff / np.maximum(tariff[:, :1], LEAST_TARIFF)
        """(S, HORIZON_H) mean tariff of so many hours from now over the tariff now, one hour more in each column."""
        self._running: dict[int, FloatArray] = {}
        """Spec → (G,) replicas of its whole fold, moves counted."""

    def worth_looking_at(self, leaving: Collection[int]) -> list[_Gang]:
        """Gangs that run whole, of which the plan has too many in their group; most saved elsewhere first."""
        state = self._state
        held = {*leaving, *state.draining, *rows_of_owners(state)}
        found: list[tuple[float, int, _Gang]] = []
        runs = np.flatnonzero(state.replicas["phase"] == Phase.RUNNING)
        for workload in np.unique(state.replicas["workload"][runs]).tolist():
            gang = self._gang(workload)
            if gang is None or not held.isdisjoint(gang.rows.tolist()) or not self._is_too_many(gang):
                continue
            quota = self._scorer.quota(gang.spec, self._snapshot)
            most_saved = max((self._saved_yuan(gang, there) for there in quota), default=0.0)
            if most_saved > 0:
                found.append((-most_saved, int(gang.rows[0]), gang))
        return [gang for _, _, gang in sorted(found, key=lambda f: f[:2])]

    def moves_of(self, gang: _Gang) -> list[PlannedMove]:
        """One for each member, all to the group that saves most; [] when none pays or has room."""
        if not self._is_too_many(gang):
            return []  # another gang of its kind has moved
        leave = leave_yuan(self._state, self._snapshot, self._scorer, gang.rows, self._now_s)
        quota = self._scorer.quota(gang.spec, self._snapshot)
        wanted = [g for g in quota if -self._surplus(gang.spec, g) >= LEAST_PART * len(gang.rows)]
        for there in sorted(wanted, key=lambda g: (-self._saved_yuan(gang, g), g)):
            if self._saved_yuan(gang, there) <= sum(leave.values()):
                break
            before = self._snapshot.copy()
            placed = self._round.place_gang_again(gang.rows, there)
            woken = sum(bool(before.empty_node[n]) for n in {p.node for p in placed})
            gain_yuan = self._saved_yuan(gang, there) - woken * self._idle_yuan(gang, there)
            if not placed or gain_yuan <= sum(leave.values()):
                self._snapshot.restore(before)
                continue
            self._running[gang.spec][gang.group] -= len(gang.rows)
            self._running[gang.spec][there] += len(gang.rows)
            sites = self._snapshot.topology.group_site
            here, each_yuan = int(sites[gang.group]), gain_yuan / len(placed)
            return [PlannedMove(p, here, int(sites[there]), leave[p.row], each_yuan, WHY) for p in placed]
        return []

    def _gang(self, workload: int) -> _Gang | None:
        """The gang that a workload is, if all of it runs and it keeps its work when it moves."""
        state = self._state
        if not _may_move(state.shapes.templates[int(state.workloads["shape"][workload])]):
            return None
        own = state.rows_of(workload)
        rows = np.arange(own.start, own.stop)
        rows = rows[state.replicas["phase"][rows] != Phase.DONE]
        hours = min(float(HORIZON_H), min(hours_left(state, row, self._now_s) for row in rows.tolist()))
        if (state.replicas["phase"][rows] != Phase.RUNNING).any() or hours <= TAKEOVER_H:
            return None
        node = int(state.replicas["node"][rows[0]])
        return _Gang(
            rows, int(state.replicas["spec"][rows[0]]), int(self._snapshot.topology.node_group[node]), hours
        )

    def _is_too_many(self, gang: _Gang) -> bool:
        return self._surplus(gang.spec, gang.group) >= LEAST_PART * len(gang.rows)

    def _surplus(self, spec: int, group: int) -> float:
        """Replicas of the spec's fold that run in a group beyond what the plan wants there."""
        quota = self._scorer.quota(spec, self._snapshot)
        if not quota:
            return 0.0
        if spec not in self._running:
            self._running[spec] = self._snapshot.running_of_fold(spec).astype(float)
        return float(self._running[spec][group]) - quota.get(group, 0.0)

    def _saved_yuan(self, gang: _Gang, there: int) -> float:
        """What the gang saves there, in the time it still runs, on nodes that are on; below zero: it costs more."""
        snapshot = self._snapshot
        view, is_open = snapshot.views[gang.spec], self._scorer.open_sites(snapshot)
        site = int(snapshot.topology.group_site[there])
        if there == gang.group or not view.group_ok[there] or not is_open[site]:
            return -np.inf
        energy_yuan = self._scorer.energy_yuan_per_hour(view, snapshot)
        here_yuan, there_yuan = (energy_yuan[g] * self._hours_at(gang, g) for g in (gang.group, there))
        nodes, members = np.unique(self._state.replicas["node"][gang.rows], return_counts=True)
        slept = int((snapshot.replica_count[nodes] == members).sum())
        return float(here_yuan - there_yuan) * len(gang.rows) + slept * self._idle_yuan(gang, gang.group)

    def _idle_yuan(self, gang: _Gang, group: int) -> float:
        """What a node of the group costs for being on as long as the gang still runs."""
        wake = self._scorer.wake_cost(self._snapshot.views[gang.spec], self._snapshot)
        return float(wake[group]) * self._hours_at(gang, group)

    def _hours_at(self, gang: _Gang, group: int) -> float:
        """Hours that the gang still runs, each weighed by its tariff over the tariff now."""
        site = int(self._snapshot.topology.group_site[group])
        return float(self._later[site, int(np.ceil(gang.hours)) - 1]) * gang.hours


def _may_move(workload: Workload) -> bool:
    """Gangs of one stage that go on from a checkpoint."""
    stage = workload.stages[0]
    return len(workload.stages) == 1 and stage.gang and stage.checkpoint_interval_s > 0
