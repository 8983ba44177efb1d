"""Which deferrable work a plan may put off: short work into any hours, long work only where its whole run gets cheaper.

    p(h)      lowest tariff of any site in the hour h from now, repeated day by day       yuan/kWh
    mean(s)   mean of p over [s, s + L]; L: declared time left, h
    gains     some hour s at which the tariff falls, with s + L before the deadline, saves
              1 − mean(s) / mean(0) ≥ LEAST_SAVING_FRAC + SAVING_PER_DAY_FRAC · s / 24

Plans count replica-hours and may put them into the cheapest hours alone. That is right for half an hour of rendering
and wrong for ten days of training, which cost the same whenever they begin: what has begun is not paused for a price.
Weather and loads are the plan's affair, as long as work waits.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.outlook import lowest_prices_yuan_per_kwh
from scheduler.domain.state import ClusterState, Phase
from suanli.model.units import HOURS_PER_DAY, SECONDS_PER_HOUR

SHORT_S = 4 * SECONDS_PER_HOUR
"""Work of at most one coarse slot fits into the cheap hours of a day as well in one piece as in many."""
LEAST_SAVING_FRAC = 0.02
"""Less is lost in the forecast of one night's weather."""
SAVING_PER_DAY_FRAC = 0.2
"""What a day of waiting must save beside that: an hour that a machine stands free does not come back, and energy is
about half of what it costs to let it (ASSUMED)."""

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
    out[rows] = (left_s[rows] <= SHORT_S) | gains_by_waiting(price, now_s, left_s[rows], deadline_s)
    return out


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
