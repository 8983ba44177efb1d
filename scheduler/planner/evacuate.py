"""Evacuation: planned moves off sites that the plan closes, whole workloads at a time, when closing pays for them.

    evacuate     sites the plan closes, dearest first → for each: who leaves, where to, what it costs and saves

`moves.py` brings replicas that stand alone towards the plan's counts, group by group. What it cannot touch keeps a site
open: stages of a graph, which have to stay near each other, and replicas under a spread rule. Here everything that lies
at the site leaves together: simple replicas one by one, spread ones on domains of their own, and of a graph as few
stages as can be, jointly, on a pattern that keeps its flows, co-location and path budgets (`Round.place_again`).

Gain (yuan) of a site: what it costs each hour for being open (`closing_yuan_per_hour` of the plan's guide: fixed losses
and idle nodes), for as long as something would have run there, at most as long as the plan's services stay. Who is gone
by then need not move: of all instants from which the site could be empty, the one with the most gain after costs is
taken. Cost: the policy's price of each move, work done twice, dearer energy at the new place and nodes woken there.
A site that would stay open all the same, and one whose moves cost more than they save, is left as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.shapes import is_simple
from scheduler.domain.state import Phase
from scheduler.planner.feasibility import SpecView
from scheduler.planner.moves import (
    GAIN_HOURS,
    TAKEOVER_H,
    Moving,
    PlannedMove,
    closing_yuan_per_hour,
    hours_left,
    kept_work_s,
    migration_yuan,
)
from scheduler.planner.round import Placed, Round
from suanli.model.units import SECONDS_PER_HOUR

IntArray = NDArray[np.int64]
WHY = "lets the site close"


@dataclass(frozen=True)
class _Leaving:
    """One unit that leaves together: its new places, until when it would have stayed (h from now), and its price."""

    rows: tuple[int, ...]
    hours: float
    placed: tuple[Placed, ...]
    cost_yuan: tuple[float, ...]
    """Of each move, as `placed`."""


def evacuate(moving: Moving, budget: int, leaving: Collection[int] = ()) -> list[PlannedMove]:
    """Moves off sites that the plan closes; nobody goes to nodes kept for gangs.

    A workload of several stages moves only when all of it runs and nothing else moves it.
    """
    closing, snapshot = closing_yuan_per_hour(moving), moving.snapshot
    moves: list[PlannedMove] = []
    for site in np.lexsort((np.arange(len(closing)), -closing))[: int((closing > 0).sum())].tolist():
        saved = snapshot.copy()
        gone = {*leaving, *(m.placed.row for m in moves)}
        exit_ = _Exit(moving, closing > 0, site, gone)
        found = exit_.moves(float(closing[site]), budget - len(moves))
        if not found:
            snapshot.restore(saved)
        moves += found
    return moves


class _Exit:
    """Scratch of one site."""

    def __init__(self, moving: Moving, closes: NDArray[np.bool_], site: int, gone: Collection[int]) -> None:
        self._moving, self._site, self._gone = moving, site, set(gone)
        self._state, self._snapshot = moving.state, moving.snapshot
        self._scorer, self._now_s = moving.scorer, moving.now_s
        self._open = moving.scorer.open_sites(moving.snapshot) & ~closes
        self._before = moving.snapshot.copy()

    def moves(self, closing_yuan: float, budget: int) -> list[PlannedMove]:
        """Everybody's move, or of those who would stay longest; [] when it does not pay."""
        state, topology = self._state, self._snapshot.topology
        node = state.replicas["node"]
        here = np.flatnonzero(node >= 0)
        here = here[topology.node_site[node[here]] == self._site]
        rows = [r for r in here.tolist() if r not in self._gone]
        new = [p.row for p in self._moving.placed if topology.node_site[p.node] == self._site]
        units, stay = self._units(rows)
        stay_h = max([TAKEOVER_H, *(self._hours(r) for r in [*stay, *new])])
        while units and stay_h < self._last_h(units):
            found, failed = self._try_all(units, budget)
            stay_h = max(stay_h, self._last_h(failed))
            chosen = _worth_leaving(found, closing_yuan, stay_h)
            if len(chosen) == len(found):
                return self._planned(chosen, closing_yuan, stay_h)
            self._snapshot.restore(self._before)
            stay_h = max([stay_h, *(u.hours for u in found if u not in chosen)])
            units = [u.rows for u in chosen]
        return []

    def _units(self, rows: list[int]) -> tuple[list[tuple[int, ...]], list[int]]:
        """(what can leave together, owners of shared stages first, then the largest; rows that stay in any case)."""
        together: dict[int, list[int]] = {}
        for row in rows:
            together.setdefault(int(self._state.replicas["workload"][row]), []).append(row)
        units: list[tuple[int, ...]] = []
        stay: list[int] = []
        owners = self._state.shared_owners()
        for workload, mine in together.items():
            if is_simple(self._template(mine[0])) and workload not in owners:
                units += [(row,) for row in mine if self._may_leave(row)]
                stay += [row for row in mine if not self._may_leave(row)]
            elif self._is_steady(workload) and all(map(self._may_leave, mine)):
                units.append(tuple(mine))
            else:
                stay += mine
        workload_of = self._state.replicas["workload"]
        first = {unit: int(workload_of[unit[0]]) not in owners for unit in units}
        return sorted(units, key=lambda unit: (first[unit], -self._size(unit), unit)), stay

    def _template(self, row: int) -> Any:
        return self._state.spec(int(self._state.replicas["spec"][row])).workload

    def _view(self, row: int) -> SpecView:
        return self._snapshot.views[int(self._state.replicas["spec"][row])]

    def _may_leave(self, row: int) -> bool:
        """Runs, stands in no gang, and loses no work to speak of."""
        stage = self._view(row).spec.stage
        runs = self._state.replicas["phase"][row] == Phase.RUNNING and row not in self._state.draining
        return bool(runs and not stage.gang and (stage.is_service or stage.checkpoint_interval_s > 0))

    def _is_steady(self, workload: int) -> bool:
        """Whether all that the workload still has to do runs, and nothing of it starts, stops or moves."""
        rows = self._state.rows_of(workload)
        phase = self._state.replicas["phase"][rows]
        busy = self._gone.union(self._state.draining)
        runs = np.isin(phase, (Phase.RUNNING, Phase.DONE)).all()
        return bool(runs) and busy.isdisjoint(range(rows.start, rows.stop))

    def _size(self, unit: tuple[int, ...]) -> float:
        """Dominant share that the unit takes of a mean node, stages of a graph counted above all single ones."""
        mean = np.maximum(self._snapshot.topology.group_capacity.mean(axis=0), 1.0)
        share = sum(float((self._view(row).need.max(axis=0) / mean).max()) for row in unit)
        return share + (1e6 if not is_simple(self._template(unit[0])) else 0.0)

    def _last_h(self, units: Sequence[tuple[int, ...]]) -> float:
        """When the last of these would have left by itself (h from now)."""
        return max((self._hours(row) for unit in units for row in unit), default=0.0)

    def _hours(self, row: int) -> float:
        """Hours until the replica ends by itself, at most as many as a move may count on."""
        replicas = self._state.replicas
        if replicas["phase"][row] == Phase.RUNNING:
            return min(GAIN_HOURS, hours_left(self._state, row, self._now_s))
        return min(
            GAIN_HOURS, float(replicas["work_s"][row] - replicas["done_work_s"][row]) / SECONDS_PER_HOUR
        )

    # ------------------------------------------------------------------ where they go

    def _try_all(
        self, units: Sequence[tuple[int, ...]], budget: int
    ) -> tuple[list[_Leaving], list[tuple[int, ...]]]:
        """New places for one unit after the other, taken in the snapshot; and the units that found none."""
        mover = self._mover()
        workload_of = self._state.replicas["workload"]
        follow = {int(workload_of[unit[0]]) for unit in units}
        woken: set[int] = set()
        found: list[_Leaving] = []
        failed: list[tuple[int, ...]] = []
        last_h = self._last_h(units)
        for i, unit in enumerate(units):
            if failed and self._last_h(failed) >= last_h:
                return [], [*failed, *units[i:]]  # who cannot leave stays as long as anybody
            if sum(len(u.placed) for u in found) >= budget:
                failed.append(unit)
                continue
            saved = self._snapshot.copy()
            placed = mover.place_again(np.array(unit, np.int64), self._open, follow)
            count = sum(len(u.placed) for u in found) + len(placed)
            if not placed or count > budget:
                self._snapshot.restore(saved)
                failed.append(unit)
                if self._shares_with_moved(unit, found):
                    return [], list(units)
                mover.forget(int(workload_of[unit[0]]))
                continue
            costs = tuple(self._cost_yuan(p, woken) for p in placed)
            found.append(_Leaving(unit, self._last_h([unit]), tuple(placed), costs))
        return found, failed

    def _mover(self) -> Round:
        """Places what moves on the snapshot; nobody goes to nodes kept for gangs."""
        patterns = self._moving.patterns
        mover = Round(self._state, self._snapshot, patterns, self._scorer, self._now_s, is_trial=True)
        mover.reservations = self._moving.kept.over(self._snapshot)
        return mover

    def _shares_with_moved(self, unit: tuple[int, ...], found: Sequence[_Leaving]) -> bool:
        """Whether the unit uses a stage of something that moves, and so had to follow."""
        state = self._state
        moved = {state.names[int(state.replicas["workload"][u.rows[0]])] for u in found}
        return any(s.shared_with in moved for s in self._template(unit[0]).stages)

    def _cost_yuan(self, placed: Placed, woken: set[int]) -> float:
        """The policy's price of the move, work done twice, dearer energy, and the node if it has to wake."""
        state, topology, row = self._state, self._snapshot.topology, placed.row
        view = self._view(row)
        energy = self._scorer.energy_yuan_per_hour(view, self._before)
        old, new = (int(topology.node_group[n]) for n in (state.replicas["node"][row], placed.node))
        lost_s = (
            self._now_s - int(state.replicas["running_s"][row]) + float(state.replicas["done_work_s"][row])
        )
        lost_s -= kept_work_s(state, row, self._now_s)
        again = 0.0 if view.spec.stage.is_service else lost_s / SECONDS_PER_HOUR * float(energy[old])
        more = max(0.0, float(energy[new] - energy[old]))
        if self._before.empty_node[placed.node] and placed.node not in woken:
            woken.add(placed.node)
            more += float(self._scorer.node_cost(view, self._before)[placed.node])
        return migration_yuan(state, row) + again + more * self._hours(row)

    def _planned(self, chosen: Sequence[_Leaving], closing_yuan: float, stay_h: float) -> list[PlannedMove]:
        """The moves as the plan tells them; each has an equal share in what closing saves."""
        topology, node = self._snapshot.topology, self._state.replicas["node"]
        count = sum(len(u.placed) for u in chosen)
        gain = closing_yuan * (max((u.hours for u in chosen), default=0.0) - stay_h) / max(1, count)
        sites = topology.node_site
        return [
            PlannedMove(p, int(sites[node[p.row]]), int(sites[p.node]), cost, gain, WHY)
            for u in chosen
            for p, cost in zip(u.placed, u.cost_yuan, strict=True)
        ]


def _worth_leaving(found: Sequence[_Leaving], closing_yuan: float, stay_h: float) -> list[_Leaving]:
    """Who moves so that gain less cost is greatest: all who would stay beyond some instant; fewest where it is equal.

    Gain = closing cost · (when the last would have left − that instant), from the instant until which others stay.
    """
    last_h = max((u.hours for u in found), default=0.0)
    best: tuple[float, list[_Leaving]] = (0.0, [])
    for empty_h in sorted({stay_h, *(u.hours for u in found if u.hours > stay_h)}, reverse=True):
        chosen = [u for u in found if u.hours > empty_h]
        net = closing_yuan * (last_h - empty_h) - sum(sum(u.cost_yuan) for u in chosen)
        if net > best[0] + 1e-9:
            best = (net, chosen)
    return best[1]


__all__ = ["evacuate"]
