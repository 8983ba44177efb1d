"""A whole day of a city under Suanli, least-loaded and the PUE-blind plan, beside a clairvoyant bound.

    python -m benchmarks.day [--scenario songjiang-m] [--quick] [--seed 42] [--folder DIR] [--json]

1. play     the day and its drain in process, sites on the local engine; two policies at a time, each in its own process
2. check    our day by the independent checker: no violation, accounts close, hard classes inside their latency
3. bound    a plan that knew the day (`cluster_sim.clairvoyant` says what its bound speaks of and leaves out)
4. tell     yuan per delivered GPU-hour after draining; the share used of the room between least-loaded and bound,
            fleet and edges apart; gaps of the day's plans; caps held, and what holding them costs beside the
            PUE-blind plan; processor seconds of the plans, from compiling the problem to the verified answer

`--quick` plays songjiang-s unless a scenario is named. `--folder` keeps the logs (POLICY.jsonl, for `suanli audit`).
Exit codes: 0 the day is right, 1 it is not or the bound has no proof (said), 2 bad input.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import EXIT_FAILED, machine_line, print_json, print_table, refuse
from cluster_sim.audit import audit_log
from cluster_sim.baselines import strategy_of
from cluster_sim.clairvoyant import MODEL, Clairvoyant, NoBoundError, clairvoyant, learned_by
from cluster_sim.day_log import read_columns
from cluster_sim.day_tables import drained_by_site
from cluster_sim.driver import Progress
from cluster_sim.in_process import InProcessGateway
from cluster_sim.play import PlayedDay, play_day
from cluster_sim.result import Comparison, DayResult, RunChecks, day_failures
from cluster_sim.scenarios.loader import load_scenario
from cluster_sim.scenarios.schema import Scenario
from scheduler.domain.state import ClusterState
from scheduler.planner.feasibility import Views
from scheduler.planner.horizon import HorizonStrategy
from scheduler.planner.strategy import PlanTask
from scheduler.workers import InlineSolverPool
from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution
from suanli.model import InvalidRequest
from suanli.model.units import SECONDS_PER_HOUR

OURS, LEAST_LOADED, PUE_BLIND = "suanli", "least-loaded", "pue-blind"
POLICIES = (OURS, PUE_BLIND, LEAST_LOADED)
"""In order of length: the two that plan begin together."""
AT_A_TIME = 2
FULL, QUICK = "songjiang-m", "songjiang-s"
DIGITS = 6


# ------------------------------------------------------------------------------------------- 1 play


class _TimedStrategy(HorizonStrategy):
    """The product's strategy; notes the processor time at which each plan begins."""

    begun_s = 0.0

    def begin_plan(self, state: ClusterState, views: Views, now_s: int) -> PlanTask:
        """As the product does."""
        self.begun_s = time.process_time()
        return super().begin_plan(state, views, now_s)


class _TimedPool(InlineSolverPool):
    """Processor seconds of each plan, from compiling its problem to the verified answer."""

    def __init__(self, strategy: _TimedStrategy) -> None:
        super().__init__()
        self._strategy = strategy
        self.plan_cpu_s: list[float] = []

    def solve_plan(self, problem: PlacementProblem, wall_limit_s: float) -> PlanSolution:
        """As the product does."""
        solution = super().solve_plan(problem, wall_limit_s)
        self.plan_cpu_s.append(time.process_time() - self._strategy.begun_s)
        return solution


def play(scenario_name: str, seed: int, policy: str, folder: Path) -> list[float]:
    """Play one policy's day and save it to the folder; processor seconds of our plans, in order (none for others)."""
    scenario = load_scenario(scenario_name)
    pool = InlineSolverPool()
    strategy = strategy_of(policy)
    if policy == OURS:
        strategy = timed = _TimedStrategy()
        pool = _TimedPool(timed)
    gateway = InProcessGateway(strategy, pool)
    play_day(scenario, seed, policy, gateway, "local", on_window=_progress(policy, scenario.start_s)).save(
        folder
    )
    return pool.plan_cpu_s if isinstance(pool, _TimedPool) else []


def _progress(policy: str, start_s: int) -> Callable[[Progress], None]:
    """One line a simulated hour, on stderr."""
    begun_s = time.process_time()
    told_hour = -1

    def tell(progress: Progress) -> None:
        nonlocal told_hour
        hour = (progress.now_s - start_s) // SECONDS_PER_HOUR
        if hour == told_hour:
            return
        told_hour = hour
        counts = " ".join(f"{state} {count}" for state, count in progress.counts.items() if count)
        cpu_s = time.process_time() - begun_s
        print(f"{policy:<12} hour {hour:>2}  {counts}  ({cpu_s:.0f} s CPU)", file=sys.stderr, flush=True)

    return tell


# ------------------------------------------------------------------------------------------- 4 arithmetic


@dataclass(frozen=True)
class Paid:
    """Energy cost and delivered reference-GPU hours after draining, of a part of the fleet under one policy."""

    cost_yuan: float
    gpu_h: float

    @property
    def yuan_per_gpu_h(self) -> float | None:
        """None where nothing was delivered."""
        return self.cost_yuan / self.gpu_h if self.gpu_h > 0 else None


def room_frac(
    least_loaded: float | None, ours: float | None, bound: float | None
) -> tuple[float | None, str]:
    """(least-loaded − ours)/(least-loaded − bound), all in yuan per GPU-hour; without a room, None and the reason."""
    if least_loaded is None or ours is None or bound is None:
        return None, "nothing was delivered under one of the three"
    if least_loaded <= bound:
        return None, "least-loaded is no dearer than the bound: there is no room"
    return (least_loaded - ours) / (least_loaded - bound), ""


def edges_of(day: PlayedDay, scenario: Scenario) -> Paid:
    """What the edge sites cost and delivered, day and drain together."""
    fleet = scenario.fleet()
    cost_yuan, gpu_h = drained_by_site(read_columns(day.log, fleet), day.window)
    at_edge = np.array([s.kind.value == "edge" for s in fleet.sites], bool)
    return Paid(float(cost_yuan[at_edge].sum()), float(gpu_h[at_edge].sum()))


def plan_seconds(plan_cpu_s: Sequence[float]) -> dict[str, float | None]:
    """The first plan begins from nothing; the later ones are warm."""
    first, warm = (plan_cpu_s[0] if plan_cpu_s else None), plan_cpu_s[1:]
    return {
        "plan_first_cpu_s": first,
        "plan_warm_median_cpu_s": statistics.median(warm) if warm else None,
        "plan_warm_max_cpu_s": max(warm) if warm else None,
    }


def figures(
    comparison: Comparison, edges: dict[str, Paid], known: Clairvoyant | None, no_bound: str
) -> dict[str, object]:
    """Everything that is compared; a figure that does not exist is None with its reason beside it."""
    rows = {r.policy: r for r in comparison.rows}
    day = comparison.ours
    price = {name: row.yuan_per_gpu_h for name, row in rows.items()}
    at_edge = {name: paid.yuan_per_gpu_h for name, paid in edges.items()}
    bound = None if known is None else known.fleet.bound_yuan_per_gpu_h
    edge_bound = None if known is None else known.edge.bound_yuan_per_gpu_h
    room, no_room = room_frac(price[LEAST_LOADED], price[OURS], bound)
    edge_room, no_edge_room = room_frac(at_edge[LEAST_LOADED], at_edge[OURS], edge_bound)
    ours, blind = price[OURS], price[PUE_BLIND]
    reasons = {
        "bound": no_bound,
        "room_frac": no_bound or no_room,
        "edge_room_frac": no_bound or no_edge_room,
    }
    return {
        **_gaps(day),
        "objective": ours,
        "bound": bound,
        "bound_model": MODEL,
        "least_loaded": price[LEAST_LOADED],
        "pue_blind": blind,
        "room_frac": room,
        "edge_objective": at_edge[OURS],
        "edge_bound": edge_bound,
        "edge_least_loaded": at_edge[LEAST_LOADED],
        "edge_pue_blind": at_edge[PUE_BLIND],
        "edge_room_frac": edge_room,
        "absent": {name: why for name, why in reasons.items() if why},
        "caps": rows[OURS].caps_count,
        "caps_held": rows[OURS].caps_held,
        "pue_blind_caps_held": rows[PUE_BLIND].caps_held,
        "least_loaded_caps_held": rows[LEAST_LOADED].caps_held,
        "caps_broken": [s.site_id for s in day.sites if s.cap_held is False],
        "cost_of_caps": None if ours is None or blind is None else ours - blind,
        "pending_at_end": rows[OURS].pending_count,
        "least_loaded_pending_at_end": rows[LEAST_LOADED].pending_count,
        "pue_blind_pending_at_end": rows[PUE_BLIND].pending_count,
        "gpu_h": {name: row.delivered_gpu_h for name, row in rows.items()},
        "yuan": {name: row.cost_yuan for name, row in rows.items()},
    }


def _gaps(day: DayResult) -> dict[str, object]:
    """Gaps of the plans of the day (without the drain): largest and mean; `unproven` plans carry none."""
    fleet, edge = day.gap("fleet"), day.gap("edge")
    return {
        "gap": None if fleet is None else fleet.max_frac,
        "gap_mean": None if fleet is None else fleet.mean_frac,
        "edge_gap": None if edge is None else edge.max_frac,
        "edge_gap_mean": None if edge is None else edge.mean_frac,
        "unproven_plans": len(day.plans) - (0 if fleet is None else fleet.bounded_count),
    }


def clairvoyant_figures(known: Clairvoyant) -> dict[str, object]:
    """What the plan that knew the day delivers and leaves, so that its bound can be judged."""
    return {
        "yuan": known.fleet.energy_yuan,
        "bound_yuan": known.fleet.bound_yuan,
        "gpu_h": known.fleet.gpu_h,
        "demanded_gpu_h": known.demanded_gpu_h,
        "unserved_replica_h": known.unserved_replica_h,
        "unfinished_replica_h": known.unfinished_replica_h,
        "late_replica_h": known.late_replica_h,
        "debt_kwh": known.debt_kwh,
        "classes": known.class_count,
        "groups": known.group_count,
        "slots": known.slot_count,
    }


def sizes(scenario: Scenario, day: DayResult) -> dict[str, int]:
    """How large the day was."""
    groups = [g for s in scenario.fleet().sites for g in s.groups]
    return {
        "sites": len(scenario.fleet().sites),
        "nodes": sum(g.node_count for g in groups),
        "gpus": sum(g.node_count * g.gpu_count for g in groups),
        "workloads": day.submitted_count,
        "plans": len(day.plans),
    }


# ------------------------------------------------------------------------------------------- the benchmark


def measure(scenario_name: str, seed: int, folder: Path) -> tuple[dict[str, object], tuple[str, ...]]:
    """All of it: the figures, and what is wrong with the day in words."""
    begun = time.perf_counter()
    scenario = load_scenario(scenario_name)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(AT_A_TIME, mp_context=spawn) as pool:
        asked = {p: pool.submit(play, scenario_name, seed, p, folder) for p in POLICIES}
        plan_cpu_s = {p: future.result() for p, future in asked.items()}[OURS]
    days = {p: PlayedDay.load(folder, p) for p in (OURS, LEAST_LOADED, PUE_BLIND)}
    comparison = Comparison.of([(p, d.result(scenario)) for p, d in days.items()])
    ours = comparison.ours
    audit = audit_log(days[OURS].log, scenario.fleet())
    failures = day_failures(ours, RunChecks(audit.checked_count, audit.violations))
    print("clairvoyant  one plan of day and drain", file=sys.stderr, flush=True)
    known, no_bound, thought = None, "", time.process_time()
    try:
        known = clairvoyant(scenario, seed, learned_by(days[OURS].log), days[OURS].window.drained_until_s)
    except NoBoundError as error:
        no_bound = str(error)
        failures = (*failures, f"the clairvoyant plan proves nothing: {error}")
    result = {
        "scenario": scenario.scenario_id,
        "seed": seed,
        "violations": len(audit.violations),
        "checks": audit.checked_count,
        **sizes(scenario, ours),
        **figures(comparison, {p: edges_of(d, scenario) for p, d in days.items()}, known, no_bound),
        **plan_seconds(plan_cpu_s),
        "clairvoyant": None if known is None else clairvoyant_figures(known),
        "clairvoyant_cpu_s": time.process_time() - thought,
        "seconds": time.perf_counter() - begun,
    }
    return {name: _rounded(value) for name, value in result.items()}, failures


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, DIGITS)
    return {k: _rounded(v) for k, v in value.items()} if isinstance(value, dict) else value


def tell(result: dict[str, object]) -> None:
    """The tables."""
    known = result["clairvoyant"]
    yuan, gpu_h = result["yuan"], result["gpu_h"]
    assert isinstance(yuan, dict) and isinstance(gpu_h, dict)
    print(
        f"{result['scenario']}, seed {result['seed']}: {result['sites']} sites, {result['nodes']} nodes, "
        f"{result['gpus']} GPUs, {result['workloads']} workloads, {result['plans']} plans; "
        f"{result['violations']} violations in {result['checks']} checks"
    )
    rows = [
        [
            name, _text(yuan[name], 0), _text(gpu_h[name], 0), _text(result[key], 4),
            _text(result[f"edge_{key}"], 4), f"{result[held]}/{result['caps']}", str(result[pending]),
        ]
        for name, key, held, pending in (
            (OURS, "objective", "caps_held", "pending_at_end"),
            (LEAST_LOADED, "least_loaded", "least_loaded_caps_held", "least_loaded_pending_at_end"),
            (PUE_BLIND, "pue_blind", "pue_blind_caps_held", "pue_blind_pending_at_end"),
        )
    ]  # fmt: skip
    if isinstance(known, dict):
        rows.append(
            [
                "clairvoyant bound", _text(known["bound_yuan"], 0), _text(known["gpu_h"], 0),
                _text(result["bound"], 4), _text(result["edge_bound"], 4), "-", "-",
            ]
        )  # fmt: skip
    print_table(("drained", "yuan", "GPU-h", "yuan/GPU-h", "at edges", "caps held", "waits"), rows)
    print_table(
        ("", "fleet", "edges"),
        [
            ["room used, least-loaded to bound", _text(result["room_frac"], 4), _text(result["edge_room_frac"], 4)],
            ["gap of the day's plans, largest", _text(result["gap"], 5), _text(result["edge_gap"], 5)],
            ["gap, mean", _text(result["gap_mean"], 5), _text(result["edge_gap_mean"], 5)],
        ],
    )  # fmt: skip
    print(
        f"holding the caps costs {_text(result['cost_of_caps'], 4)} yuan/GPU-h beside the PUE-blind plan; "
        f"broken by us: {result['caps_broken'] or 'none'}"
    )
    print(
        f"plans, processor seconds: first {_text(result['plan_first_cpu_s'], 2)}, warm median "
        f"{_text(result['plan_warm_median_cpu_s'], 2)}, max {_text(result['plan_warm_max_cpu_s'], 2)}"
    )
    if isinstance(known, dict):
        print(
            f"the clairvoyant plan: {_text(known['gpu_h'], 0)} of {_text(known['demanded_gpu_h'], 0)} GPU-h asked for, "
            f"{_text(known['yuan'], 0)} yuan, unserved {_text(known['unserved_replica_h'], 1)} and unfinished "
            f"{_text(known['unfinished_replica_h'], 1)} replica-h; bound: {MODEL}"
        )
    absent = result["absent"]
    assert isinstance(absent, dict)
    for name, why in absent.items():
        print(f"no {name}: {why}")


def _text(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "-"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", help=f"shipped scenario or YAML file; {FULL}, with --quick {QUICK}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} instead of {FULL}")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--folder", type=Path, help="keep the days' logs here")
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    arguments = parser.parse_args(argv)
    name = arguments.scenario or (QUICK if arguments.quick else FULL)
    try:
        load_scenario(name)
    except InvalidRequest as error:
        return refuse(str(error))
    with tempfile.TemporaryDirectory() as scratch:
        result, failures = measure(name, arguments.seed, arguments.folder or Path(scratch))
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    print(machine_line())
    tell(result)
    if arguments.json:
        print_json(result)
    return EXIT_FAILED if failures else 0


if __name__ == "__main__":
    sys.exit(main())
