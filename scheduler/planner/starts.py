"""When a waiting workload is expected to start: the release times of what runs, and the deferrals of the plan.

    earliest   the first declared end after which the workload could be placed, if nobody else took the room
    likely     the same with all work placed whose turn comes before; deferrable work also waits for the plan's slot
    latest     the last declared end known, or the instant at which deferrable work has to start

Every instant is verified by placing on the fleet as it then is. What no declared end makes room for has no estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.state import NEVER_S, ClusterState, Phase
from scheduler.planner.folds import folds_of
from scheduler.planner.queue import START_MARGIN_S, in_order
from scheduler.planner.reserve import Ends, ends_of
from scheduler.planner.round import Round
from scheduler.planner.snapshot import Snapshot, release
from suanli.model import StartEstimate, Workload
from suanli.model.units import SECONDS_PER_HOUR, utc

MAX_INSTANTS = 64
"""Ends looked at; more are thinned, which can only make an estimate a little later."""
MAX_AHEAD = 2_000
"""Replicas ahead that are placed to see what they leave; beyond that the likely start is the latest."""

Attempt = Callable[[Snapshot], Round]
"""A round over a snapshot of its own, as explanations try placements."""


@dataclass(frozen=True)
class StartForecast:
    """Estimates over one state and the round that has run over it."""

    state: ClusterState
    done: Round
    now_s: int
    attempt: Attempt

    def expected_start(
        self, index: int, waiting: NDArray[np.int64], template: Workload, ahead: NDArray[np.int64]
    ) -> StartEstimate | None:
        """For the waiting rows of a workload behind the rows `ahead`; None when nothing truthful can be said."""
        ends = self._ends()
        instants = self._instants(ends)
        alone = self._first(instants, ends, lambda s: self._fits(s, waiting, template))
        if alone is None:
            return None
        competing = ahead if 0 < len(ahead) <= MAX_AHEAD else ahead[:0]
        behind: float | None = alone
        if len(competing):
            behind = self._first(instants, ends, lambda s: self._fits_behind(s, waiting, template, competing))
        elif len(ahead):
            behind = None
        floor_s = max(self.now_s, int(self.state.workloads["not_before_s"][index]))
        earliest_s = max(int(np.ceil(alone)), floor_s)
        last_s = max(earliest_s, int(np.ceil(instants[-1])))
        likely_s = last_s if behind is None else max(int(np.ceil(behind)), earliest_s)
        assumption = "what runs ends as declared and nothing more urgent arrives"
        if template.deferrable:
            return self._deferred(index, waiting, earliest_s, likely_s, last_s)
        if behind is None:
            assumption += "; what is ahead in the queue may take all room that is known to come free"
        return StartEstimate(
            earliest_at_s=earliest_s,
            likely_at_s=likely_s,
            latest_at_s=max(last_s, likely_s),
            assumption=assumption,
        )

    # ---------------------------------------------------------------- room

    def _ends(self) -> Ends:
        placed = [(p.row, p.node, p.gpu_mask) for p in self.done.result.placed]
        return ends_of(self.state, placed, self.now_s, {p.row for p in self.done.result.preempted})

    def _instants(self, ends: Ends) -> NDArray[np.float64]:
        """Now and the declared ends, thinned from both sides to what is looked at."""
        known = np.unique(ends.at_s[ends.at_s < NEVER_S])
        if len(known) > MAX_INSTANTS:
            known = known[np.linspace(0, len(known) - 1, MAX_INSTANTS).round().astype(int)]
        return np.concatenate([[float(self.now_s)], known])

    def _first(
        self, instants: NDArray[np.float64], ends: Ends, fits: Callable[[Snapshot], bool]
    ) -> float | None:
        """First instant at which it fits; room only grows from one to the next, so halving finds it."""
        if not fits(self._at(float(instants[-1]), ends)):
            return None
        low, high = 0, len(instants) - 1
        while low < high:
            middle = (low + high) // 2
            if fits(self._at(float(instants[middle]), ends)):
                high = middle
            else:
                low = middle + 1
        return float(instants[low])

    def _at(self, instant_s: float, ends: Ends) -> Snapshot:
        """The fleet once everything has ended that is declared to end by then."""
        snapshot = self.done.snapshot.copy()
        gone = ends.at_s <= instant_s
        release(snapshot, ends.node[gone], ends.spec[gone], ends.gpu_mask[gone])
        return snapshot

    def _fits(self, snapshot: Snapshot, waiting: NDArray[np.int64], template: Workload) -> bool:
        rows = waiting if template.stages[0].gang or len(template.stages) > 1 else waiting[:1]
        return self.attempt(snapshot).fits_together(rows, template)

    def _fits_behind(
        self,
        snapshot: Snapshot,
        waiting: NDArray[np.int64],
        template: Workload,
        ahead: NDArray[np.int64],
    ) -> bool:
        trial = self.attempt(snapshot)
        trial.place_rows(in_order(self.state, ahead, self.now_s))
        return self._fits(trial.snapshot, waiting, template)

    # ---------------------------------------------------------------- deferrals

    def _deferred(
        self, index: int, waiting: NDArray[np.int64], earliest_s: int, likely_s: int, last_s: int
    ) -> StartEstimate:
        """Deferrable work: not before its slot of the plan, and at the latest in time for its deadline."""
        slot_s = self._planned_slot(waiting)
        left_s = float(
            (self.state.replicas["work_s"][waiting] - self.state.replicas["done_work_s"][waiting]).max()
        )
        deadline_s = int(self.state.workloads["deadline_s"][index])
        must_s = None if deadline_s >= NEVER_S else int(deadline_s - left_s - START_MARGIN_S)
        likely_s = max(likely_s, slot_s or 0)
        latest_s = max(last_s, likely_s)
        assumption = "what runs ends as declared and nothing more urgent arrives"
        if slot_s is not None:
            assumption = f"the plan of {utc(self.state.guide.at_s):%Y-%m-%d %H:%M} UTC keeps its deferrals"
        if must_s is not None:
            latest_s = max(earliest_s, must_s)
            likely_s = min(likely_s, latest_s)
            assumption += (
                f"; it starts by {utc(must_s):%Y-%m-%d %H:%M} UTC to meet its deadline, if there is room"
            )
        return StartEstimate(
            earliest_at_s=min(earliest_s, likely_s),
            likely_at_s=likely_s,
            latest_at_s=latest_s,
            assumption=assumption,
        )

    def _planned_slot(self, waiting: NDArray[np.int64]) -> int | None:
        """Start of the first slot by which the plan has started so many replicas of the fold that its turn has come.

        Started by slot t: running there plus those whose work is done by then, Σ running·hours ÷ mean work.
        """
        state, replicas = self.state, self.state.replicas
        folds = folds_of(self.done.snapshot.views)
        spec = int(replicas["spec"][waiting[0]])
        ahead = dict(state.guide.body.get("deferred_ahead", ()))
        planned = ahead.get(folds.of(spec))
        if not planned:
            return None
        alike = folds.members(spec, len(state.shapes.specs))
        rows = np.flatnonzero(
            np.isin(replicas["spec"], alike) & (replicas["phase"] == Phase.WAITING) & state.active_mask()
        )
        order = np.lexsort((rows, state.workloads["deadline_s"][replicas["workload"][rows]]))
        rank = int(np.flatnonzero(np.isin(rows[order], waiting)).min())
        work_h = (replicas["work_s"][rows] - replicas["done_work_s"][rows]) / SECONDS_PER_HOUR
        start_s, hours, running = (np.array(x, float) for x in zip(*planned, strict=True))
        done = np.concatenate([[0.0], np.cumsum(running * hours)[:-1]]) / max(float(work_h.mean()), 1e-9)
        started = np.flatnonzero(running + done > rank + STARTED_SLACK)
        return max(self.now_s, int(start_s[started[0]])) if len(started) else None


STARTED_SLACK = 1e-3
"""Plans count replicas as fractions; less than this of one is none."""
