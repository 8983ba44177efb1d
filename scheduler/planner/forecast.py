"""Demand ahead: expected replicas per spec and slot from work that has not been submitted yet.

Without it a plan sees only what is here, and its evening prices collapse. The estimate is plain and says so: arrivals
of the last hours continue at their rate for a while, and each runs as long as its kind did (Little's law); classes that
announce their windows ahead are known anyway.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.state import ClusterState
from solvers.problem import Slots
from suanli.model.units import SECONDS_PER_HOUR

WINDOW_HOURS = 4
"""Arrivals of so many past hours give the rate."""
AHEAD_HOURS = 2
"""The rate is expected to last so long: carried on all day, a morning's ramp would fill the city three times over."""


def expected_arrivals(state: ClusterState, slots: Slots, now_s: int) -> dict[int, NDArray[np.float64]]:
    """spec → (T,) expected additional replicas running in each slot.

    Arrivals at rate λ for the next A hours with mean duration D: after time τ those of [τ − D, τ] ∩ [0, A] run.
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
        came_s = np.minimum(middle_s, AHEAD_HOURS * SECONDS_PER_HOUR)
        left_s = np.maximum(middle_s - mean_s, 0.0)
        out[int(s)] = rate_per_s * np.maximum(came_s - left_s, 0.0)
    return out
