"""Pauses: running work in pieces stops for dear hours and goes on from its checkpoint when the tariff falls.

Which work rests in an hour is the rule of `deferral.py`. When it stops within the hour is decided here, between now and
its next checkpoint, in hours of energy at the tariff p of this hour and c of the one in which it goes on:

    now     c · since                  work since the last checkpoint is done again, at the cheaper tariff
    later   (p − c) · (every − since)  until the next one it runs at the dear tariff

A pause pays when (p − c) · hours until then exceeds c · (since + RESTART_S). Gangs pause whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.outlook import lowest_prices_yuan_per_kwh
from scheduler.domain.state import ClusterState, Phase
from scheduler.planner.deferral import may_rest, rests_until_s
from scheduler.planner.preempt import lost_gpu_s, since_checkpoint_s, units_of
from scheduler.planner.scoring import Scorer
from scheduler.planner.snapshot import Snapshot
from suanli.model.units import HOURS_PER_DAY, SECONDS_PER_HOUR

RESTART_S = 600
"""Wake, transfer of the checkpoint and start-up, in which nothing is delivered (ASSUMED)."""


@dataclass(frozen=True, slots=True)
class Paused:
    """A replica that pauses until the tariff falls, and the work it loses (GPU-seconds)."""

    row: int
    until_s: int
    lost_gpu_s: float


def pause_dear_work(state: ClusterState, snapshot: Snapshot, scorer: Scorer, now_s: int) -> list[Paused]:
    """Replicas that stop now for dear hours; the snapshot gets their room back. A scorer without a plan pauses none."""
    phase = state.replicas["phase"]
    placed = np.flatnonzero((phase == int(Phase.ORDERED)) | (phase == int(Phase.RUNNING)))
    placed = placed[may_rest(state, placed)]
    if not len(placed) or scorer.may_start_deferred(int(state.replicas["spec"][placed[0]]), snapshot) is None:
        return []
    until_s = rests_until_s(state, placed, now_s)
    leaves = (until_s > now_s) & _pays(state, snapshot, placed, until_s, now_s)
    unit = units_of(state, placed)
    leaves &= ~np.isin(unit, unit[~leaves])
    rows = placed[leaves]
    snapshot.give_back(*(state.replicas[c][rows].astype(np.int64) for c in ("spec", "node", "gpu_mask")))
    found = zip(rows.tolist(), until_s[leaves].tolist(), lost_gpu_s(state, rows, now_s).tolist(), strict=True)
    return [Paused(*each) for each in found]


def _pays(
    state: ClusterState, snapshot: Snapshot, rows: NDArray[np.int64], until_s: NDArray[np.int64], now_s: int
) -> NDArray[np.bool_]:
    """(rows,) those that run, do not move, and lose less by stopping now than by going on."""
    price = lowest_prices_yuan_per_kwh(snapshot.topology, now_s)
    later = price[-(-(until_s - now_s) // SECONDS_PER_HOUR) % HOURS_PER_DAY]
    saved = price[0] - later
    every_s = state.shapes.columns["checkpoint_interval_s"][state.replicas["spec"][rows]]
    since_s = since_checkpoint_s(state, rows, now_s)
    is_moment = later * since_s <= saved * (every_s - since_s)
    is_worth = saved * (until_s - now_s) > later * (since_s + RESTART_S)
    stays = (state.replicas["phase"][rows] != Phase.RUNNING) | np.isin(rows, list(state.draining))
    out: NDArray[np.bool_] = is_moment & is_worth & ~stays
    return out
