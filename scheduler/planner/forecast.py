"""Demand ahead: expected replicas per spec and slot from work that has not been submitted yet.

Without it a plan sees only what is here, and its evening prices collapse. The estimate is plain and says so: arrivals
of the last hours continue at their rate, and each runs as long as its kind did (Little's law); classes that announce
their windows ahead are known anyway.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.state import ClusterState
from solvers.problem import Slots
from suanli.model.units import SECONDS_PER_HOUR

WINDOW_HOURS = 4
"""Arrivals of so many past hours give the rate."""


def expected_arrivals(state: ClusterState, slots: Slots, now_s: int) -> dict[int, NDArray[np.float64]]:
    """spec → (T,) expected additional replicas running in each slot.

    Arrivals at rate λ with mean duration D, starting now: after time τ, λ·min(τ, D) of them run.
    """
    workloads, replicas = state.workloads, state.replicas
    if not len(workloads):
        return {}
    first_s = int(workloads["submitted_s"].min())
    window_s = min(WINDOW_HOURS * SECONDS_PER_HOUR, now_s - first_s)
    if window_s < SECONDS_PER_HOUR:
        return {}
    owner = replicas["workload"]
    arrived = workloads["submitted_s"][owner]
    announced = workloads["not_before_s"][owner] > arrived
    finite = np.isfinite(replicas["work_s"])
    recent = np.flatnonzero((arrived > max(first_s, now_s - window_s)) & finite & ~announced)
    if not len(recent):
        return {}
    spec = replicas["spec"][recent]
    middle_s = slots.start_s + slots.hours * SECONDS_PER_HOUR / 2 - now_s
    out: dict[int, NDArray[np.float64]] = {}
    for s in np.unique(spec):
        mine = recent[spec == s]
        rate_per_s = len(mine) / window_s
        mean_s = float(replicas["work_s"][mine].mean())
        out[int(s)] = rate_per_s * np.minimum(middle_s, mean_s)
    return out
