"""Which deferrable work waits for cheaper hours: short work for any, long work for those in which all of it is cheaper.

    p(h)      lowest tariff of any site in the hour h from now, repeated day by day       yuan/kWh
    L         declared time left, h                D   hours until the deadline

Work that begins again from a checkpoint may run in pieces. It *rests* while dearer hours can be spared:

    rests     some p(h) < p(0); let F be the first such h: of the hours until D at tariffs ≤ p(0), those after F
              are at least (1 + REST_MARGIN_FRAC) · L + REST_MARGIN_H

So of two tariffs it spares hours of the dearer one first, the next ones before later ones: declared times are upper
ends, and what ends sooner needs no dear hour at all. What runs pauses then (`pauses.py`), what waits does not start.

Other long work runs in one piece, and waits only where its whole run gets cheaper:

    mean(s)   mean of p over [s, s + L]
    gains     some hour s at which the tariff falls, with s + L before the deadline, saves
              1 − mean(s) / mean(0) ≥ LEAST_SAVING_FRAC + SAVING_PER_DAY_FRAC · s / 24

Plans count replica-hours and may put them into the cheapest hours alone. That is right for half an hour of rendering,
and wrong for ten days of training in one piece, which cost the same whenever they begin. To a plan, long work is demand
of the hours in which it does not rest. Weather and loads are the plan's affair, as long as work waits.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.outlook import lowest_prices_yuan_per_kwh
from scheduler.domain.state import ClusterState, Phase
from solvers.problem import Slots
from suanli.model.units import HOURS_PER_DAY, SECONDS_PER_HOUR

SHORT_S = 4 * SECONDS_PER_HOUR
"""Work of at most one coarse slot fits into the cheap hours of a day as well in one piece as in many."""
LEAST_SAVING_FRAC = 0.02
"""Less is lost in the forecast of one night's weather."""
SAVING_PER_DAY_FRAC = 0.2
"""What a day of waiting must save beside that: an hour that a machine stands free does not come back, and energy is
about half of what it costs to let it (ASSUMED)."""

REST_MARGIN_FRAC = 0.1
"""Of the time left, for work done twice since checkpoints and for restarts (ASSUMED)."""
REST_MARGIN_H = 3.0
"""Beside that, for the room that is not free at once when many start again in the same hour (ASSUMED)."""

_MAY: WeakKeyDictionary[ClusterState, tuple[tuple[int, int], NDArray[np.bool_]]] = WeakKeyDictionary()
"""Of the last moment asked about: rounds ask block by block."""


def may_be_put_off(state: ClusterState, rows: NDArray[np.int64], now_s: int) -> NDArray[np.bool_]:
    """(rows,) deferrable rows that wait, and are short or gain by a later start in time."""
    moment = (state.revision, now_s)
    known = _MAY.get(state)
    if known is None or known[0] != moment:
        known = _MAY[state] = moment, _of_all(state, now_s)
    out: NDArray[np.bool_] = known[1][rows]
    return out


def _of_all(state: ClusterState, now_s: int) -> NDArray[np.bool_]:
    """(replicas,)."""
    replicas = state.replicas
    out = np.zeros(len(replicas), bool)
    if state.topology is None or not len(replicas):
        return out
    left_s = replicas["work_s"] - replicas["done_work_s"]
    finite = (replicas["phase"] == Phase.WAITING) & np.isfinite(left_s)
    rows = np.flatnonzero(finite & state.shapes.columns["deferrable"][replicas["spec"]])
    deadline_s = state.workloads["deadline_s"][replicas["workload"][rows]]
    price = lowest_prices_yuan_per_kwh(state.topology, now_s)
    gains = gains_by_waiting(price, now_s, left_s[rows], deadline_s)
    in_pieces = may_rest(state, rows)
    out[rows] = (left_s[rows] <= SHORT_S) | np.where(in_pieces, rests(state, rows, now_s), gains)
    return out


# ---------------------------------------------------------------------- work in pieces


def may_rest(state: ClusterState, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(rows,) deferrable work with an end and of one stage, that gives way and goes on from a checkpoint."""
    columns, spec = state.shapes.columns, state.replicas["spec"][rows]
    gives_way = columns["deferrable"][spec] & columns["preemptible"][spec]
    alone = columns["simple"][spec] | columns["gang"][spec]
    has_end = np.isfinite(state.replicas["work_s"][rows])
    out: NDArray[np.bool_] = gives_way & alone & has_end & (columns["checkpoint_interval_s"][spec] > 0)
    return out


def rests(state: ClusterState, rows: NDArray[np.int64], now_s: int) -> NDArray[np.bool_]:
    """(rows,) work in pieces, running or waiting, that does not run in this hour."""
    out = np.zeros(len(rows), bool)
    may = np.flatnonzero(may_rest(state, rows))
    if state.topology is None or not len(may):
        return out
    price = lowest_prices_yuan_per_kwh(state.topology, now_s)
    deadline_s = state.workloads["deadline_s"][state.replicas["workload"][rows[may]]]
    out[may] = rests_at(price, now_s, time_left_s(state, rows[may], now_s), deadline_s)
    return out


def rests_at(
    price: NDArray[np.float64], now_s: int, left_s: NDArray[np.float64], deadline_s: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(rows,) the rule itself; `price`: (24,) yuan/kWh by hour from the whole hour of `now_s`, the same every day."""
    cheaper = np.flatnonzero(price < price[0])
    if not len(cheaper):
        return np.zeros(len(left_s), bool)
    no_dearer = price <= price[0]
    due_h = np.maximum((deadline_s - (now_s - now_s % SECONDS_PER_HOUR)) / SECONDS_PER_HOUR, 0.0)
    spared_h = no_dearer[: cheaper[0]].sum()
    need_h = left_s * (1 + REST_MARGIN_FRAC) / SECONDS_PER_HOUR + REST_MARGIN_H
    out: NDArray[np.bool_] = _hours_until(no_dearer, due_h) - spared_h >= need_h
    return out


def resumes_s(
    price: NDArray[np.float64], now_s: int, left_s: NDArray[np.float64], deadline_s: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(rows,) instant from which the work rests no longer: `now_s`, or a whole hour ahead; arguments of `rests_at`."""
    first_s = now_s - now_s % SECONDS_PER_HOUR
    out = np.full(len(left_s), now_s)
    still = np.ones(len(left_s), bool)
    for hour in range(HOURS_PER_DAY):
        at_s = max(now_s, first_s + hour * SECONDS_PER_HOUR)
        still &= rests_at(np.roll(price, -hour), at_s, left_s, deadline_s)
        out[still] = first_s + (hour + 1) * SECONDS_PER_HOUR
    return out


def rests_until_s(state: ClusterState, rows: NDArray[np.int64], now_s: int) -> NDArray[np.int64]:
    """(rows,) `resumes_s` of rows that wait or run; `now_s` for those that do not rest."""
    out = np.full(len(rows), now_s)
    may = np.flatnonzero(may_rest(state, rows))
    if state.topology is not None and len(may):
        price = lowest_prices_yuan_per_kwh(state.topology, now_s)
        deadline_s = state.workloads["deadline_s"][state.replicas["workload"][rows[may]]]
        out[may] = resumes_s(price, now_s, time_left_s(state, rows[may], now_s), deadline_s)
    return out


def time_left_s(state: ClusterState, rows: NDArray[np.int64], now_s: int) -> NDArray[np.float64]:
    """(rows,) declared time left, without what a running row has done since it started."""
    replicas = state.replicas
    ran_s = np.where(replicas["phase"][rows] == Phase.RUNNING, now_s - replicas["running_s"][rows], 0)
    left_s: NDArray[np.float64] = replicas["work_s"][rows] - replicas["done_work_s"][rows] - ran_s
    return np.maximum(left_s, 0.0)


def _hours_until(counts: NDArray[np.bool_], hour: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hours that count, of a day that repeats, from its first hour until each of `hour`."""
    until = np.concatenate([[0.0], np.cumsum(counts)])
    whole = np.floor(hour).astype(np.int64)
    day, of_day = np.divmod(whole, HOURS_PER_DAY)
    return np.asarray(day * until[-1] + until[of_day] + (hour - whole) * counts[of_day])


def running_frac(
    price: NDArray[np.float64],
    now_s: int,
    start_s: NDArray[np.int64],
    left_s: NDArray[np.float64],
    deadline_s: NDArray[np.int64],
    slots: Slots,
) -> NDArray[np.float64]:
    """(rows, T) share of each slot in which work in pieces runs that may start at `start_s`; `price` of `rests_at`."""
    end_s = int(slots.start_s[-1] + slots.hours[-1] * SECONDS_PER_HOUR)
    first_s = now_s - now_s % SECONDS_PER_HOUR
    out = np.zeros((len(left_s), len(slots.hours)))
    left_s = left_s.copy()
    for hour, from_s in enumerate(range(first_s, end_s, SECONDS_PER_HOUR)):
        a_s, b_s = max(from_s, now_s), min(from_s + SECONDS_PER_HOUR, end_s)
        rest = rests_at(np.roll(price, -hour), a_s, left_s, deadline_s)
        ran_s = np.where(rest, 0.0, np.clip(b_s - np.maximum(start_s, a_s), 0.0, left_s))
        left_s -= ran_s
        out[:, np.searchsorted(slots.start_s, a_s, side="right") - 1] += ran_s
    return out / (slots.hours * SECONDS_PER_HOUR)


# ---------------------------------------------------------------------- work in one piece


def owed_running(state: ClusterState, fold_of: NDArray[np.int64], now_s: int) -> dict[int, float]:
    """fold → replicas of short work to run from now on, so that what gains by no later start is done while it is cheap.

    Σ left of what waits / hours until the tariff rises. A plan spreads such work over the cheap hours, each later plan
    again over those left, and the last puts off the rest to the next night: this floor does not. `fold_of`: (specs,).
    """
    replicas = state.replicas
    if state.topology is None or not len(replicas):
        return {}
    waits = (replicas["phase"] == Phase.WAITING) & state.active_mask()
    rows = np.flatnonzero(waits & state.shapes.columns["deferrable"][replicas["spec"]])
    owner = replicas["workload"][rows]
    left_s = (replicas["work_s"] - replicas["done_work_s"])[rows]
    price = lowest_prices_yuan_per_kwh(state.topology, now_s)
    gains = gains_by_waiting(price, now_s, left_s, state.workloads["deadline_s"][owner])
    due = (state.workloads["not_before_s"][owner] <= now_s) & (left_s <= SHORT_S) & ~gains
    rises = np.flatnonzero(price > price[0])
    cheap_s = (rises[0] if len(rises) else HOURS_PER_DAY) * SECONDS_PER_HOUR - now_s % SECONDS_PER_HOUR
    fold = fold_of[replicas["spec"][rows[due]]]
    owed_s = np.bincount(fold, left_s[due])
    return {int(f): float(owed_s[f] / max(cheap_s, SECONDS_PER_HOUR)) for f in np.unique(fold)}


def gains_by_waiting(
    price: NDArray[np.float64], now_s: int, left_s: NDArray[np.float64], deadline_s: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """The rule itself; `price`: (24,) yuan/kWh by hour from the whole hour of `now_s`, the same every day."""
    until = np.concatenate([[0.0], np.cumsum(price)])

    def paid_until(hour: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = np.floor(hour).astype(np.int64)
        day, of_day = np.divmod(whole, HOURS_PER_DAY)
        paid: NDArray[np.float64] = day * until[-1] + until[of_day] + (hour - whole) * price[of_day]
        return paid

    now_h = now_s % SECONDS_PER_HOUR / SECONDS_PER_HOUR
    falls = np.flatnonzero(np.diff(price, append=price[0]) < 0) + 1.0
    start_h = np.concatenate([[now_h], falls])
    left_h = np.maximum(left_s, 1.0)[:, None] / SECONDS_PER_HOUR
    paid = paid_until(start_h + left_h) - paid_until(start_h)
    now_yuan = paid[:, :1]
    # where energy costs nothing now, no later hour saves anything
    saved_frac = np.divide(now_yuan - paid, now_yuan, out=np.zeros_like(paid), where=now_yuan > 0)
    wait_h = start_h - now_h
    in_time = wait_h * SECONDS_PER_HOUR <= (deadline_s - now_s - left_s)[:, None]
    enough = saved_frac >= LEAST_SAVING_FRAC + SAVING_PER_DAY_FRAC * wait_h / HOURS_PER_DAY
    return np.asarray((in_time & enough)[:, 1:].any(axis=1))
