"""How often work starts within the interval it was told: a played day, its forecasts beside its starts.

    python -m benchmarks.starts [--scenario songjiang-s] [--seed 42] [--each-hour 20] [--out FORECASTS.jsonl] [--json]
    python -m benchmarks.starts --played FOLDER ...      of a day that `suanli simulate` has saved: no plan is solved

1. play     the day and its drain in process under the product's strategy, sites on the local engine (or fold its log)
2. ask      whatever is left waiting by the round it arrived in, and so many of the queue every hour
3. compare  each forecast with the first start order that followed; what never started counts as a miss

Only forecasts whose latest start lies within the time played are judged: chosen by what was said, not by what came of
it. The nominal share is that of `StartEstimate`: earliest and latest are its 10 % and 90 % quantiles. Forecasts made on
arrival and those made later of the same workload are told apart, for they are not independent of each other.
Exit codes: 0 the observed share reaches the nominal one, 1 it does not, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.common import EXIT_FAILED, machine_line, positive_int, print_json, print_table, refuse
from cluster_sim.day_log import BrokenLogError
from cluster_sim.in_process import InProcessGateway
from cluster_sim.play import PlayedDay, play_day
from cluster_sim.scenarios.loader import load_scenario
from cluster_sim.scenarios.schema import Scenario
from scheduler.cycle import Cycle
from scheduler.domain.state import ClusterState, Phase
from scheduler.planner.horizon import HorizonStrategy
from scheduler.ports import SolverPool
from scheduler.workers import InlineSolverPool
from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution
from suanli.model import Event, EventKind, InvalidRequest, StartEstimate, Workload
from suanli.model.units import SECONDS_PER_HOUR

NOMINAL_FRAC = 0.8
"""Between the 10 % and the 90 % quantile."""
MAX_ON_ARRIVAL = 20
"""Forecasts on arrival after one round; a burst of more is sampled."""


@dataclass(frozen=True)
class Told:
    """One forecast and what became of it; `started_s` is None for what never started."""

    workload: str
    kind: str
    asked_s: int
    on_arrival: bool
    earliest_s: int
    likely_s: int
    latest_s: int
    started_s: int | None

    @property
    def is_within(self) -> bool:
        """Whether it started in the interval."""
        return self.started_s is not None and self.earliest_s <= self.started_s <= self.latest_s


class Questions:
    """Who is asked of after each round, and what the answers were; they change nothing in the service."""

    def __init__(self, cycle: Cycle, seed: int, each_hour: int) -> None:
        self._cycle = cycle
        self._rng = np.random.default_rng(seed)
        self._each_hour = each_hour
        self._seen = 0
        self._hour = -1
        self.estimates: list[tuple[int, int, bool, StartEstimate]] = []
        """(workload, asked at, on arrival, answer)"""
        self.unanswered = 0

    def ask(self, state: ClusterState, now_s: int) -> None:
        """What has arrived since the last round and waits; once an hour some of what else waits."""
        waiting = self._all_waiting(state)
        arrived = waiting[waiting >= self._seen]
        self._seen = len(state.names)
        self._ask(state, self._some(arrived, MAX_ON_ARRIVAL), now_s, on_arrival=True)
        if now_s // SECONDS_PER_HOUR != self._hour:
            self._hour = now_s // SECONDS_PER_HOUR
            older = self._some(np.setdiff1d(waiting, arrived), self._each_hour)
            self._ask(state, older, now_s, on_arrival=False)

    def _all_waiting(self, state: ClusterState) -> NDArray[np.int64]:
        """Workloads that may start and of which nothing lies anywhere."""
        of = state.replicas["workload"]
        waits = np.zeros(len(state.names), bool)
        waits[of[state.replicas["phase"] == Phase.WAITING]] = True
        waits[of[state.replicas["node"] >= 0]] = False
        found: NDArray[np.int64] = np.flatnonzero(waits & state.active_workloads())
        return found

    def _some(self, of: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        return of if len(of) <= count else np.sort(self._rng.choice(of, count, replace=False))

    def _ask(
        self, state: ClusterState, workloads: NDArray[np.int64], now_s: int, *, on_arrival: bool
    ) -> None:
        names = [state.names[w] for w in workloads.tolist()]
        answers = self._cycle.waiting(state, now_s, names, with_start=True)
        for w, name in zip(workloads.tolist(), names, strict=True):
            start = answers[name].expected_start if name in answers else None
            if start is None:
                self.unanswered += 1
            else:
                self.estimates.append((w, now_s, on_arrival, start))


class AskingGateway(InProcessGateway):
    """The service in process, asked for expected starts after its rounds."""

    def __init__(self, strategy: HorizonStrategy, pool: SolverPool, seed: int, each_hour: int) -> None:
        super().__init__(strategy, pool)
        self.questions = Questions(self._cycle, seed, each_hour)

    def advance(self, run_id: str, until_s: int, request_id: str) -> dict[str, int]:
        """One cycle, then the questions."""
        counts = super().advance(run_id, until_s, request_id)
        self.questions.ask(self.state, until_s)
        return counts


class NoPool(SolverPool):
    """Of a played day the plans are in its log."""

    def solve_plan(self, problem: PlacementProblem, wall_limit_s: float) -> PlanSolution:
        """Never called."""
        raise AssertionError("nothing to solve")

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class Asked:
    """A played day: its forecasts, how many questions had no estimate for an answer, and when it ended."""

    told: list[Told]
    unanswered: int
    end_s: int


def play(scenario: Scenario, seed: int, each_hour: int) -> Asked:
    """The forecasts of a day with their outcomes."""
    gateway = AskingGateway(HorizonStrategy(), InlineSolverPool(), seed, each_hour)
    day = play_day(scenario, seed, "suanli", gateway, "local")
    return with_outcomes(gateway.questions, gateway.state, gateway.log, day.window.drained_until_s)


def fold(day: PlayedDay, seed: int, each_hour: int) -> Asked:
    """The same of a saved day: its log folded up to each round, the questions asked of the state as it then was."""
    state = ClusterState.empty()
    questions = Questions(Cycle(HorizonStrategy(), NoPool()), seed, each_hour)
    folded = 0
    for i, event in enumerate(day.log):
        if event.kind is EventKind.ROUND_COMMITTED:  # the last event of its commit
            state.apply(day.log[folded : i + 1])
            folded = i + 1
            questions.ask(state, event.at_s)
    state.apply(day.log[folded:])
    return with_outcomes(questions, state, day.log, day.window.drained_until_s)


def with_outcomes(questions: Questions, state: ClusterState, log: Sequence[Event], end_s: int) -> Asked:
    """Every forecast beside the first start order that followed it."""
    starts: dict[str, list[int]] = {}
    for event in log:
        if event.kind is EventKind.REPLICA_START_ORDERED:
            starts.setdefault(event.body["command"]["workload"], []).append(event.at_s)
    told = []
    for w, asked_s, on_arrival, start in questions.estimates:
        after = [s for s in starts.get(state.names[w], []) if s > asked_s]
        told.append(
            Told(
                workload=state.names[w],
                kind=kind_of(state.shapes.templates[int(state.workloads["shape"][w])]),
                asked_s=asked_s,
                on_arrival=on_arrival,
                earliest_s=start.earliest_at_s,
                likely_s=start.likely_at_s,
                latest_s=start.latest_at_s,
                started_s=min(after, default=None),
            )
        )
    return Asked(told, questions.unanswered, end_s)


def kind_of(template: Workload) -> str:
    """By what its start depends on; a gang that may be deferred is a gang."""
    if any(stage.gang for stage in template.stages):
        return "gang"
    return "deferrable" if template.deferrable else "other"


# ------------------------------------------------------------------------------------------- arithmetic


@dataclass(frozen=True)
class Calibration:
    """Of some forecasts: how many, and the shares that started before, in and after (or never) the interval."""

    asked: int
    within_frac: float
    early_frac: float
    late_frac: float
    median_width_h: float
    """Of the intervals: a wide one is easy to keep."""
    median_error_h: float
    """Of |start − likely|, of what started."""


def judged(told: Sequence[Told], end_s: int) -> list[Told]:
    """Those whose latest start was still played."""
    return [t for t in told if t.latest_s <= end_s]


def calibration(told: Sequence[Told]) -> Calibration:
    """Shares of at least one forecast."""
    n = len(told)
    within = sum(t.is_within for t in told)
    early = sum(t.started_s is not None and t.started_s < t.earliest_s for t in told)
    errors_s = [abs(t.started_s - t.likely_s) for t in told if t.started_s is not None]
    return Calibration(
        asked=n,
        within_frac=within / n,
        early_frac=early / n,
        late_frac=(n - within - early) / n,
        median_width_h=float(np.median([t.latest_s - t.earliest_s for t in told])) / SECONDS_PER_HOUR,
        median_error_h=float(np.median(errors_s)) / SECONDS_PER_HOUR if errors_s else float("nan"),
    )


def by_kind(told: Sequence[Told]) -> dict[str, Calibration]:
    """All, on arrival and later, then kind by kind; only what there is."""
    parts = {
        "all": list(told),
        "on arrival": [t for t in told if t.on_arrival],
        "later": [t for t in told if not t.on_arrival],
    }
    for kind in sorted({t.kind for t in told}):
        parts[kind] = [t for t in told if t.kind == kind]
    return {name: calibration(part) for name, part in parts.items() if part}


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, ask, compare; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", default="songjiang-s")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument(
        "--played", type=Path, help="folder with suanli.jsonl and suanli.json of a played day"
    )
    parser.add_argument("--each-hour", type=positive_int, default=20, help="workloads of the queue asked of")
    parser.add_argument("--out", type=Path, help="every forecast, one JSON object a line")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args(arguments)
    begun_s = time.process_time()
    try:
        if options.played is not None:
            asked = fold(PlayedDay.load(options.played, "suanli"), options.seed, options.each_hour)
        else:
            asked = play(load_scenario(options.scenario), options.seed, options.each_hour)
    except (InvalidRequest, BrokenLogError, OSError) as error:
        return refuse(str(error))
    where = options.scenario if options.played is None else str(options.played)
    cpu_s = time.process_time() - begun_s
    if options.out is not None:
        options.out.write_bytes(b"".join(orjson.dumps(asdict(t)) + b"\n" for t in asked.told))
    told = judged(asked.told, asked.end_s)
    if not told:
        return refuse(f"{where}: nothing waited that could be told a start within the time played")
    open_ = [t for t in asked.told if t.latest_s > asked.end_s]
    open_early = sum(t.started_s is not None and t.started_s < t.earliest_s for t in open_)
    found = by_kind(told)
    print(f"expected starts of {where}, seed {options.seed}; {cpu_s:.0f} s CPU on {machine_line()}")
    print_table(
        ["forecasts", "asked", "within", "earlier", "later", "median width h", "median error h"],
        [
            [
                name,
                str(c.asked),
                f"{c.within_frac:.1%}",
                f"{c.early_frac:.1%}",
                f"{c.late_frac:.1%}",
                f"{c.median_width_h:.2f}",
                f"{c.median_error_h:.2f}",
            ]
            for name, c in found.items()
        ],
    )
    print(
        f"nominal {NOMINAL_FRAC:.0%} within; not judged: {len(open_)} whose interval reaches beyond the time played "
        f"({open_early} of them started before it), {asked.unanswered} questions that had no estimate for an answer"
    )
    if options.json:
        print_json(
            {
                "scenario": where,
                "seed": options.seed,
                "nominal": NOMINAL_FRAC,
                "not_judged": len(open_),
                "unanswered": asked.unanswered,
                "seconds": round(cpu_s, 1),
                **{name.replace(" ", "_"): asdict(c) for name, c in found.items()},
            }
        )
    return 0 if found["all"].within_frac >= NOMINAL_FRAC else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
