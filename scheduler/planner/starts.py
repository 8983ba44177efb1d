"""When a waiting workload is expected to start: the release times of what runs, and the deferrals of the plan.

    likely     the declared end at which its turn comes in a queue that is worked off as rounds do; deferrable work that
               may still be put off waits for the plan's slot
    earliest   as much sooner as others have been seen to give way or plans to bring it forward, but not before it could
               be placed if nobody else took the room (gangs may: plans move others for them)
    latest     as much later as work that comes meanwhile has been seen to push it back, or the instant at which
               deferrable work has to start

A gang for which the next plan would move others starts after that. Every other instant is verified by placing on the
fleet as it then is. What no declared end makes room for has no estimate. Gangs in the queue keep the nodes that come
free first, as they do in rounds. Earliest and latest are the 10 % and 90 % quantiles of `StartEstimate` as measured:
`docs/model-limits.md` has the shares, `benchmarks.starts` measures them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.state import NEVER_S, ClusterState, Phase
from scheduler.planner.deferral import rests_until_s
from scheduler.planner.defragment import defragment
from scheduler.planner.folds import folds_of
from scheduler.planner.queue import START_MARGIN_S, in_order, urgent
from scheduler.planner.reserve import Ends, ends_of
from scheduler.planner.round import Round, shortage_codes
from scheduler.planner.scoring import LEAST_WANTED
from scheduler.planner.snapshot import Snapshot
from suanli.model import ReasonCode, StartEstimate, Workload
from suanli.model.units import SECONDS_PER_HOUR

MAX_INSTANTS = 64
"""Ends looked at; more are thinned, which can only make an estimate a little later."""


@dataclass(frozen=True)
class Spread:
    """How far starts lie from the instant at which the turn comes: parts of the wait, and seconds beside them."""

    earlier_frac: float
    later_frac: float
    later_s: int


SINGLE = Spread(earlier_frac=0.4, later_frac=1.0, later_s=START_MARGIN_S)
"""In crowded rooms (loads of 0.7, 0.9 and 1.1) half the starts come when said, one in twenty 0.4 of the wait sooner,
one in ten 0.7 to 1.5 of it later: more comes meanwhile."""
GANG = Spread(earlier_frac=0.75, later_frac=0.5, later_s=SECONDS_PER_HOUR)
"""A gang needs many ends at once, so that lengths which are not as declared and moves of the next plans count for more
than later arrivals. 181 forecasts of 44 gangs (songjiang-m, seed 42; songjiang-s, seed 44): 80 % within, 6 % sooner."""
BROUGHT_FORWARD_FRAC = 0.3
"""Of the wait for a planned slot: later plans had brought one start in ten forward to less (songjiang-s, seed 42)."""
OVERRUN_FRAC = 1.0
"""Work that is overdue by an hour is expected to run another: of lengths with a heavy tail the longer half is left."""
MAX_QUEUED = 10_000
"""Replicas that are placed in turn to see what they leave; with more, the likely start is the latest."""
STEP_S = 300
STEP_FRAC = 0.1
"""Where more ends lie ahead than are looked at, an instant is at least so long after the one before, and later than it
by this part of the wait: 64 of them reach six days ahead, each within a tenth of what was waited."""

Attempt = Callable[[Snapshot, int, Ends | None], Round]
"""A trial round over a snapshot, which it changes, at an instant; gangs keep nodes in it where the ends are known."""


@dataclass(frozen=True)
class StartForecast:
    """Estimates over one state and the round that has run over it."""

    state: ClusterState
    done: Round
    now_s: int
    attempt: Attempt

    def expected_start(
        self, index: int, waiting: NDArray[np.int64], template: Workload, queue: NDArray[np.int64]
    ) -> StartEstimate | None:
        """For the waiting rows of a workload among the rows of `queue`; None when nothing truthful can be said."""
        ends = self._ends()
        instants = self._instants(ends)
        alone = self._first_alone(instants, ends, waiting, template)
        moved_s = self._moved_for(index) if alone is None or alone > self._next_plan_s() else None
        if moved_s is not None:
            return self._after_moves(moved_s)
        if alone is None:
            return None
        in_turn: float | None = alone
        if len(queue) > len(waiting):
            in_turn = self._first_in_turn(ends, waiting, queue) if len(queue) <= MAX_QUEUED else None
        opens_s = max(self.now_s, int(self.state.workloads["not_before_s"][index]))
        earliest_s = max(int(np.ceil(alone)), opens_s)
        assumption = "what runs ends as declared and nothing more urgent arrives"
        if in_turn is None:
            likely_s = latest_s = max(earliest_s, int(np.ceil(instants[-1])))
            assumption += "; what waits beside it may take all room that is known to come free"
        else:
            likely_s = max(int(np.ceil(in_turn)), earliest_s)
            wait_s = likely_s - opens_s
            is_gang = any(stage.gang for stage in template.stages)
            spread = GANG if is_gang else SINGLE
            sooner_s = likely_s - int(spread.earlier_frac * wait_s)
            earliest_s = sooner_s if is_gang else max(earliest_s, sooner_s)
            latest_s = likely_s + spread.later_s + int(spread.later_frac * wait_s)
        if template.deferrable and not urgent(self.state, waiting, self.now_s).any():
            return self._deferred(index, waiting, earliest_s, likely_s, latest_s)
        return StartEstimate(
            earliest_at_s=earliest_s, likely_at_s=likely_s, latest_at_s=latest_s, assumption=assumption
        )

    # ---------------------------------------------------------------- room

    def _ends(self) -> Ends:
        placed = [(p.row, p.node, p.gpu_mask) for p in self.done.result.placed]
        gone = self.done.result.room_given()
        return ends_of(self.state, placed, self.now_s, gone, overrun_frac=OVERRUN_FRAC)

    def _instants(self, ends: Ends) -> NDArray[np.float64]:
        """Now and the declared ends, thinned from both sides to what is looked at."""
        known = np.unique(ends.at_s[ends.at_s < NEVER_S])
        if len(known) > MAX_INSTANTS:
            known = known[np.linspace(0, len(known) - 1, MAX_INSTANTS).round().astype(int)]
        return np.concatenate([[float(self.now_s)], known])

    def _first_alone(
        self,
        instants: NDArray[np.float64],
        ends: Ends,
        waiting: NDArray[np.int64],
        template: Workload,
    ) -> float | None:
        """First instant at which it fits if nobody else takes room; that only grows, so halving finds it."""
        if not self._fits(float(instants[-1]), ends, waiting, template):
            return None
        low, high = 0, len(instants) - 1
        while low < high:
            middle = (low + high) // 2
            if self._fits(float(instants[middle]), ends, waiting, template):
                high = middle
            else:
                low = middle + 1
        return float(instants[low])

    def _fits(self, instant_s: float, ends: Ends, waiting: NDArray[np.int64], template: Workload) -> bool:
        """Whether it could start on the fleet once everything has ended that is declared to end by then."""
        snapshot = self._with_old_places()
        gone = ends.at_s <= instant_s
        snapshot.give_back(ends.spec[gone], ends.node[gone], ends.gpu_mask[gone])
        is_whole = template.stages[0].gang or len(template.stages) > 1
        return self.attempt(snapshot, self.now_s, None).fits_together(
            waiting if is_whole else waiting[:1], template
        )

    def _first_in_turn(self, ends: Ends, waiting: NDArray[np.int64], queue: NDArray[np.int64]) -> int | None:
        """The queue worked off as rounds would, from one declared end to the next; what it starts ends again too."""
        snapshot = self._with_old_places()
        running, at_s, left = ends, self.now_s, queue
        for looked_at in range(MAX_INSTANTS):
            attempt = self.attempt(snapshot, at_s, running)
            attempt.place_rows(in_order(self.state, left, at_s))
            placed = [(p.row, p.node, p.gpu_mask) for p in attempt.result.placed]
            started = np.array([row for row, _, _ in placed], np.int64)
            if np.isin(waiting, started).any():
                return at_s
            left = left[~np.isin(left, started)]
            if looked_at == 0:
                left = left[~self._waits_for_links(snapshot, left) | np.isin(left, waiting)]
            running = running.with_started(self.state, placed, at_s)
            if not (running.at_s < NEVER_S).any():
                return None
            at_s = self._next_instant(running, at_s, MAX_INSTANTS - looked_at)
            gone = running.at_s <= at_s
            snapshot.give_back(running.spec[gone], running.node[gone], running.gpu_mask[gone])
            running = running.of(~gone)
        return None

    def _with_old_places(self) -> Snapshot:
        """The round's snapshot with all traffic of places that are being left, which their ends take off again."""
        snapshot = self.done.snapshot.copy()
        snapshot.link_mbps += snapshot.takeover_mbps(self.state)
        return snapshot

    def _waits_for_links(self, snapshot: Snapshot, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(rows,) whether full links, more than nodes, keep them waiting: what ends on nodes is not what they need."""
        spec = self.state.replicas["spec"][rows]
        full = [
            s
            for s in np.unique(spec).tolist()
            if shortage_codes(snapshot, snapshot.views[s]).most_common(1)[0][0] is ReasonCode.LINK_FULL
        ]
        return np.isin(spec, full)

    def _next_instant(self, running: Ends, at_s: int, left_count: int) -> int:
        """The next declared end; where more are known than may be looked at, no sooner than a step ahead."""
        known_s = np.unique(np.ceil(running.at_s[running.at_s < NEVER_S]))
        next_s = int(known_s[0])
        if len(known_s) < left_count:
            return next_s
        return max(next_s, at_s + max(STEP_S, int(STEP_FRAC * (at_s - self.now_s))))

    # ---------------------------------------------------------------- moves

    def _next_plan_s(self) -> int:
        every_s = self.state.policy.plan_every_s
        return (self.now_s // every_s + 1) * every_s

    def _moved_for(self, index: int) -> int | None:
        """The instant of the next plan, if that would move others to make room for this gang; None without plans."""
        if not self.state.guide.plan_id:
            return None
        result, snapshot = self.done.result, self.done.snapshot.copy()
        helped = defragment(
            self.state,
            snapshot,
            self.done.scorer,
            self.now_s,
            self.state.policy.move_budget_per_hour,
            placed={p.row for p in result.placed},
            leaving=result.leaving(),
            kept=self.done.reservations.over(snapshot),
        )
        return self._next_plan_s() if self.state.names[index] in {h.gang for h in helped} else None

    def _after_moves(self, plan_s: int) -> StartEstimate:
        """New placements run before old ones stop; a plan that spends its moves elsewhere leaves this to the next."""
        return StartEstimate(
            earliest_at_s=plan_s,
            likely_at_s=plan_s + START_MARGIN_S,
            latest_at_s=plan_s + self.state.policy.plan_every_s + START_MARGIN_S,
            assumption=f"the plan of {self._clock(plan_s)} moves others to make room for it",
        )

    def _clock(self, at_s: int) -> str:
        return self.done.snapshot.views.topology.local_time(at_s)

    # ---------------------------------------------------------------- deferrals

    def _deferred(
        self, index: int, waiting: NDArray[np.int64], earliest_s: int, likely_s: int, latest_s: int
    ) -> StartEstimate:
        """Work that may still be put off: in its slot of the plan, and in time for its deadline if there is room then.

        The instants given are those of the queue. The round that starts it in time has the margin that makes it urgent.
        """
        slot = self._planned_slot(waiting)
        left_s = float(
            (self.state.replicas["work_s"][waiting] - self.state.replicas["done_work_s"][waiting]).max()
        )
        deadline_s = int(self.state.workloads["deadline_s"][index])
        must_s = None if deadline_s >= NEVER_S else int(deadline_s - left_s - START_MARGIN_S)
        assumption = "what runs ends as declared and nothing more urgent arrives"
        room_s = earliest_s
        rests_s = self._rests_until_s(waiting)
        if rests_s > self.now_s:
            earliest_s, likely_s, latest_s = (max(at_s, rests_s) for at_s in (earliest_s, likely_s, latest_s))
            assumption = f"it rests until {self._clock(rests_s)}, when electricity is cheaper; {assumption}"
        elif slot is not None:
            sooner_s = self.now_s + int(BROUGHT_FORWARD_FRAC * (slot[0] - self.now_s))
            earliest_s, likely_s = max(earliest_s, sooner_s), max(likely_s, slot[1])
            latest_s = max(latest_s, likely_s)
            assumption = f"the plan of {self._clock(self.state.guide.at_s)} keeps its deferrals"
        if must_s is not None:
            must_s = max(must_s, room_s)
            latest_s = must_s + START_MARGIN_S
            likely_s = min(likely_s, latest_s)
            assumption += f"; it starts by {self._clock(must_s)} to meet its deadline, if there is room"
        return StartEstimate(
            earliest_at_s=min(earliest_s, likely_s),
            likely_at_s=likely_s,
            latest_at_s=latest_s,
            assumption=assumption,
        )

    def _rests_until_s(self, waiting: NDArray[np.int64]) -> int:
        """Instant from which none of the rows rests; now where the scorer holds nothing back for a price."""
        spec = int(self.state.replicas["spec"][waiting[0]])
        if self.done.scorer.may_start_deferred(spec, self.done.snapshot) is None:
            return self.now_s
        return int(rests_until_s(self.state, waiting, self.now_s).max())

    def _planned_slot(self, waiting: NDArray[np.int64]) -> tuple[int, int] | None:
        """(earliest, likely) start that the plan leaves to it: the opening of the first slot that reaches it.

        Started by slot t: replicas running there plus those whose work is done by then, Σ running·hours ÷ mean work. Of
        a replica that runs for a part of a slot the plan counts that part, and rounds start it with the slot.
        """
        state, replicas = self.state, self.state.replicas
        folds = folds_of(self.done.snapshot.views)
        spec = int(replicas["spec"][waiting[0]])
        planned = dict(state.guide.body.get("deferred_ahead", ())).get(folds.of(spec))
        if not planned:
            return None
        alike = folds.members(spec, len(state.shapes.specs))
        rows = np.flatnonzero(
            np.isin(replicas["spec"], alike) & (replicas["phase"] == Phase.WAITING) & state.active_mask()
        )
        order = np.lexsort((rows, state.workloads["deadline_s"][replicas["workload"][rows]]))
        rank = int(np.flatnonzero(np.isin(rows[order], waiting)).min())
        left_h = float((replicas["work_s"] - replicas["done_work_s"])[rows].mean()) / SECONDS_PER_HOUR
        start_s, hours, running = (np.array(x, float) for x in zip(*planned, strict=True))
        done = np.concatenate([[0.0], np.cumsum(running * hours)[:-1]]) / max(left_h, 1e-9)
        reached = np.flatnonzero(running + running * hours / max(left_h, 1e-9) + done > rank + LEAST_WANTED)
        if not len(reached):
            return None
        opens_s = max(self.now_s, int(start_s[int(reached[0])]))
        return opens_s, opens_s
