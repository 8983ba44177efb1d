"""Do the accounts of a day close? Everything in a log that contradicts something else in it, in words."""

from __future__ import annotations

import numpy as np

from cluster_sim.day_log import (
    ACCOUNT_GPU_S,
    CAP_TOLERANCE_FRAC,
    MAX_PROBLEMS_SHOWN,
    NEVER_S,
    STATE_CODE,
    STATES,
    DayLog,
    DayWindow,
    StateIntervals,
)
from cluster_sim.day_tables import clock
from suanli.model import EventKind, WorkloadState
from suanli.model.units import MILLI


def account_problems_of(log: DayLog, window: DayWindow, states: StateIntervals) -> tuple[str, ...]:
    """Everything in the log that contradicts something else in it; empty when the accounts close."""
    return (
        *log.runs.problems,
        *_metering_problems(log, window),
        *_run_problems(log, window),
        *_stop_problems(log, window),
        *_state_problems(log, window, states),
    )


def _metering_problems(log: DayLog, window: DayWindow) -> list[str]:
    """Every site is metered without gap or overlap over the whole span, and overhead is never negative."""
    problems = []
    for i, site in enumerate(log.fleet.sites):
        mine = log.meters.site == i
        from_s, until_s = log.meters.from_s[mine], log.meters.until_s[mine]
        if not mine.any() or from_s[0] > window.start_s or until_s[-1] < window.drained_until_s:
            problems.append(f"{site.site_id}: meters do not cover the whole span")
            continue
        step = from_s[1:] - until_s[:-1]
        if (step != 0).any():
            at_s = int(until_s[:-1][step != 0][0])
            what = "gap" if step[step != 0][0] > 0 else "overlap"
            problems.append(f"{site.site_id}: {what} between meters at {clock(log.fleet, at_s)}")
        it, facility, useful = (
            log.meters.it_kwh[mine],
            log.meters.facility_kwh[mine],
            log.meters.useful_it_kwh[mine],
        )
        if (facility < it * (1 - CAP_TOLERANCE_FRAC) - CAP_TOLERANCE_FRAC).any():
            problems.append(f"{site.site_id}: a meter reads less facility energy than IT energy")
        if (useful > it * (1 + 1e-6) + 1e-6).any():
            problems.append(f"{site.site_id}: a meter reads more useful than IT energy")
    return problems


def _run_problems(log: DayLog, window: DayWindow) -> list[str]:
    """No replica runs twice at once unless it moves, ends before it ran, or delivers more than its time."""
    runs = log.runs
    problems = []
    ran = np.flatnonzero(runs.ran_s < NEVER_S)
    early = ran[runs.ended_s[ran] < runs.ran_s[ran]]
    problems += [f"{runs.ids[i]} ended before it ran" for i in early[:MAX_PROBLEMS_SHOWN].tolist()]
    order = ran[np.lexsort((runs.ran_s[ran], runs.replica_key[ran]))]
    same = runs.replica_key[order][1:] == runs.replica_key[order][:-1]
    twice = same & (runs.ended_s[order][:-1] > runs.ran_s[order][1:]) & ~runs.is_move[order][1:]
    problems += [
        f"{runs.ids[i]} ran while an earlier copy of it did"
        for i in order[1:][twice][:MAX_PROBLEMS_SHOWN].tolist()
    ]
    ended = ran[runs.ended_s[ran] < NEVER_S]
    most = runs.reference_gpu_milli[ended] / MILLI * (runs.ended_s[ended] - runs.ran_s[ended] + ACCOUNT_GPU_S)
    over = ended[runs.delivered_gpu_s[ended] > most * (1 + CAP_TOLERANCE_FRAC)]
    problems += [
        f"{runs.ids[i]} delivered more than its run time holds" for i in over[:MAX_PROBLEMS_SHOWN].tolist()
    ]
    unmetered = ran[runs.ended_s[ran] >= NEVER_S]
    late = unmetered[runs.ran_s[unmetered] > window.drained_until_s]
    problems += [f"{runs.ids[i]} ran after the end" for i in late[:MAX_PROBLEMS_SHOWN].tolist()]
    return problems


def _stop_problems(log: DayLog, window: DayWindow) -> list[str]:
    """Whatever was ordered to stop has ended: else its delivered work is nowhere in the log."""
    ended = {e.subject for e in log.by_kind[EventKind.REPLICA_ENDED]}
    stops = (e for e in log.by_kind[EventKind.REPLICA_STOP_ORDERED] if e.at_s < window.drained_until_s)
    left = [e.subject for e in stops if e.subject not in ended]
    return [f"{len(left)} placements were ordered to stop and never ended, first {left[0]}"] if left else []


def _state_problems(log: DayLog, window: DayWindow, states: StateIntervals) -> list[str]:
    """The service's states agree with what the sites said: finished work does not run, running work does."""
    work, runs = log.workloads, log.runs
    problems = []
    if len(work.row) != len(work.names):
        problems.append(f"{len(work.names) - len(work.row)} workloads were submitted twice")
    last = np.full(len(work.names), -1, np.int64)
    now = (states.from_s <= window.drained_until_s) & (states.until_s > window.drained_until_s)
    last[states.workload[now]] = states.state[now]
    alive = (runs.ran_s <= window.drained_until_s) & (runs.ended_s > window.drained_until_s)
    running = np.bincount(runs.workload[alive], minlength=len(work.names))
    final = np.isin(last, [STATE_CODE[s] for s in STATES if s.is_final])
    ghosts = np.flatnonzero(final & (running > 0))
    problems += [f"{work.names[i]} is final but still runs" for i in ghosts[:MAX_PROBLEMS_SHOWN].tolist()]
    idle = np.flatnonzero(
        (last == STATE_CODE[WorkloadState.RUNNING]) & (running == 0) & (work.replica_count > 0)
    )
    problems += [
        f"{work.names[i]} is said to run but nothing does" for i in idle[:MAX_PROBLEMS_SHOWN].tolist()
    ]
    return problems
