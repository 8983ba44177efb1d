"""What `benchmarks.gap` and `benchmarks.sscflp` share: from an instance to a placement problem and a checked answer.

A bin becomes a site with one group of one node, its capacity the node's milli-CPU; a job becomes a class of one replica
in one slot of one hour, its cost money per replica-hour; a fixed cost is the overhead of an open site in kW at 1 yuan
per kWh. Costs of the instance are then yuan of the plan, exactly.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import EXIT_FAILED, machine_line, print_json, print_table, refuse
from solvers.archive import FloatArray, IntArray
from solvers.problem import (
    CPU_MILLI,
    RANK_INTERACTIVE,
    RESOURCES,
    Classes,
    Flows,
    Groups,
    Network,
    Pairs,
    Paths,
    PlacementProblem,
    Sites,
    Slots,
)
from solvers.proof import verify_proof
from solvers.single_source import SingleSourcePlan, WorkLimits, solve_single_source
from solvers.verify import verify_placements

BEST_KNOWN = "best_known.csv"
SHORTEST_SOLVE_S = 0.05
CHECK_S_PER_PAIR = 1e-5
"""Time kept for the certificate and its check: 0.7 s for 100 × 1 000 pairs."""


class InstanceError(ValueError):
    """The file is not an instance of its kind."""


@dataclass(frozen=True, eq=False)
class Instance:
    """m bins, n jobs; `load[i, j]` of job j on bin i. `fixed` is 0 without fixed costs."""

    name: str
    cost: FloatArray
    load: IntArray
    capacity: IntArray
    fixed: FloatArray

    def violations(self, bin_of: IntArray) -> list[str]:
        """What is wrong with an assignment, from the file's numbers alone."""
        bins, jobs = self.cost.shape
        if bin_of.shape != (jobs,):
            return [f"{len(bin_of)} bins named for {jobs} jobs"]
        outside = np.flatnonzero((bin_of < 0) | (bin_of >= bins))
        if len(outside):
            return [f"job {j} on bin {bin_of[j]}, which does not exist" for j in outside]
        used = np.zeros(bins, dtype=np.int64)
        for job, chosen in enumerate(bin_of.tolist()):
            used[chosen] += self.load[chosen, job]
        over = np.flatnonzero(used > self.capacity)
        return [f"bin {i} holds {used[i]} of {self.capacity[i]}" for i in over]

    def objective(self, bin_of: IntArray) -> float:
        """Cost of an assignment, from the file's numbers alone."""
        chosen = self.cost[bin_of, np.arange(len(bin_of))].sum()
        return float(chosen + sum(self.fixed[i] for i in set(bin_of.tolist())))


def read_numbers(path: Path) -> FloatArray:
    """All numbers of a text file, gzipped where its name ends in .gz."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="ascii") as file:
                text = file.read()
        else:
            text = path.read_text(encoding="ascii")
        return np.array(text.split(), dtype=float)
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
        raise InstanceError(f"{path}: not a text of numbers: {error}") from error


def sizes(path: Path, numbers: FloatArray, expected: Callable[[int, int], int]) -> tuple[int, int]:
    """Bins and jobs from the first two numbers; InstanceError when the count of the others does not fit them."""
    whole = len(numbers) >= 2 and bool(
        (numbers[:2] >= 1).all() and (numbers[:2] == np.rint(numbers[:2])).all()
    )
    if not whole:
        raise InstanceError(f"{path}: begins with two sizes, bins and jobs")
    bins, jobs = int(numbers[0]), int(numbers[1])
    if len(numbers) != 2 + expected(bins, jobs):
        raise InstanceError(
            f"{path}: {len(numbers) - 2} numbers after the sizes {bins} × {jobs}, expected {expected(bins, jobs)}"
        )
    return bins, jobs


def whole(path: Path, what: str, values: FloatArray) -> IntArray:
    """Loads and capacities as integers; InstanceError when they are not whole or negative."""
    if not np.array_equal(values, np.rint(values)) or (values < 0).any():
        raise InstanceError(f"{path}: {what} must be whole numbers, 0 or more")
    return values.astype(np.int64)


def placement_problem(instance: Instance) -> PlacementProblem:
    """The instance as a placement problem; see the module's text."""
    bins, jobs = instance.cost.shape
    names = tuple(f"bin-{i}" for i in range(bins))
    zero_bins, nan_bins, zero_jobs = np.zeros(bins), np.full(bins, np.nan), np.zeros(jobs)
    bin_slots, whole_jobs = np.zeros((bins, 1)), np.zeros(jobs, dtype=np.int64)
    capacity = np.zeros((bins, len(RESOURCES)), dtype=np.int64)
    capacity[:, CPU_MILLI] = instance.capacity
    need = np.zeros((jobs * bins, len(RESOURCES)), dtype=np.int64)
    need[:, CPU_MILLI] = instance.load.T.ravel()
    return PlacementProblem(
        problem_id=instance.name,
        slots=Slots(start_s=np.zeros(1, dtype=np.int64), hours=np.ones(1)),
        sites=Sites(
            site_id=names,
            labels=({},) * bins,
            is_edge=np.zeros(bins, dtype=bool),
            may_close=np.ones(bins, dtype=bool),
            initially_on=np.zeros(bins, dtype=bool),
            start_yuan=zero_bins,
            rated_kw=np.ones(bins),
            power_limit_kw=bin_slots,
            fixed_kw=instance.fixed[:, None],
            off_kw=bin_slots,
            loss_slope=bin_slots,
            loss_square=bin_slots,
            price_yuan_per_kwh=np.ones((bins, 1)),
            carbon_g_per_kwh=bin_slots,
            ipue_cap_hourly=nan_bins,
            hourly_is_hard=np.zeros(bins, dtype=bool),
            pue_cap_annual=nan_bins,
            annual_is_hard=np.zeros(bins, dtype=bool),
            ledger_beta_kwh=zero_bins,
            debt_yuan_per_kwh=zero_bins,
            demand_yuan_per_kw=zero_bins,
            demand_peak_kw=zero_bins,
            reserved_floor_frac=zero_bins,
        ),
        groups=Groups(
            group_id=names,
            gpu_model=("",) * bins,
            site=np.arange(bins),
            node_count=np.ones((bins, 1), dtype=np.int64),
            capacity=capacity,
            gpu_memory_mib=np.zeros(bins, dtype=np.int64),
            idle_w=zero_bins,
            wake_yuan=zero_bins,
            initial_on_count=zero_bins,
            island_node_count=np.zeros(bins, dtype=np.int64),
            packing_yield=np.ones((bins, len(RESOURCES))),
        ),
        classes=Classes(
            class_id=tuple(f"job-{j}" for j in range(jobs)),
            require_any=((),) * jobs,
            allowed_site_ids=((),) * jobs,
            gpu_milli_by_model=({},) * jobs,
            gpu_memory_mib=whole_jobs,
            priority_rank=np.full(jobs, RANK_INTERACTIVE),
            demand_count=np.ones((jobs, 1)),
            unserved_yuan_per_replica_h=np.ones(jobs),
            work_replica_h=zero_jobs,
            release_slot=whole_jobs,
            deadline_slot=np.ones(jobs, dtype=np.int64),
            max_parallel_count=np.ones(jobs),
            lateness_yuan_per_replica_h=zero_jobs,
            gang_size=np.ones(jobs, dtype=np.int64),
            single_site=np.ones(jobs, dtype=bool),
            single_group=np.zeros(jobs, dtype=bool),
            single_island=np.zeros(jobs, dtype=bool),
            spread_site_min=whole_jobs,
            spread_node_min=whole_jobs,
            migration_yuan=zero_jobs,
        ),
        pairs=Pairs(
            class_index=np.repeat(np.arange(jobs), bins),
            group_index=np.tile(np.arange(bins), jobs),
            need=need,
            dynamic_w=np.zeros(jobs * bins),
            processing_p99_ms=np.zeros(jobs * bins),
            running_count=np.zeros(jobs * bins),
            other_yuan_per_replica_h=instance.cost.T.ravel(),
        ),
        flows=Flows(*(np.zeros(0, dtype=np.int64),) * 2, *(np.zeros(0),) * 2),
        paths=Paths(*(np.zeros(0, dtype=np.int64),) * 3, np.zeros(0)),
        network=Network(
            leg_id=(),
            link_id=(),
            leg_rtt_p99_ms=np.zeros((0, bins)),
            site_rtt_p99_ms=np.zeros((bins, bins)),
            link_capacity_mbps=np.zeros(0),
            route_origin=np.zeros(0, dtype=np.int64),
            route_site=np.zeros(0, dtype=np.int64),
            route_link=np.zeros(0, dtype=np.int64),
            transfer_yuan_per_gb=np.zeros((bins, bins)),
        ),
    )


def check(instance: Instance, problem: PlacementProblem, answer: SingleSourcePlan) -> list[str]:
    """Everything wrong with an answer: by the file's numbers, by the verifier, and between the two."""
    if answer.bin_of is None or answer.placements is None:
        return []
    wrong = instance.violations(answer.bin_of)
    if wrong:
        return wrong
    wrong += [str(v) for v in verify_proof(problem, answer.plan)]
    wrong += [str(v) for v in verify_placements(problem, answer.placements)]
    counted, stated = instance.objective(answer.bin_of), answer.plan.objective_yuan
    if abs(counted - stated) > 1e-6 * max(1.0, abs(counted)):
        wrong.append(f"objective {stated} stated, {counted} counted")
    return wrong


def best_known(path: Path) -> float | None:
    """Value of the instance in the table beside its file, if there is one."""
    table = path.parent / BEST_KNOWN
    if not table.is_file():
        return None
    name = path.name.split(".")[0]
    with table.open(encoding="utf-8", newline="") as file:
        return next((float(r["best_known"]) for r in csv.DictReader(file) if r["instance"] == name), None)


def run(
    argv: Sequence[str] | None, benchmark: str, description: str, read: Callable[[Path], Instance]
) -> int:
    """The command; exit 0: answers, checked and written, 1: none or a wrong one, 2: bad input."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}", description=description)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("file", type=Path, nargs="?", metavar="FILE", help="instance, may be .gz")
    what.add_argument(
        "--family", type=Path, help="folder: all its .txt and .txt.gz files, one after the other"
    )
    parser.add_argument("--seconds", type=_positive, help="wall clock from reading to the checked answer")
    parser.add_argument("--out", type=Path, help="answer to write: the 0-based bin of every job, one a line")
    parser.add_argument(
        "--save", type=Path, help="problem file to write, with its plan beside it, for `suanli verify`"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args(argv)
    if args.family is not None and (args.out is not None or args.save is not None):
        return refuse("--out and --save take the answer to one FILE, not to a family")
    files = [args.file] if args.family is None else _instances_in(args.family)
    if not files:
        return refuse(f"{args.family}: no instances (*.txt, *.txt.gz)")
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        return refuse(f"{', '.join(missing)}: no such file")
    print(machine_line())
    try:
        results = [_measure(path, read, args.seconds, args.seed, args.out, args.save) for path in files]
    except InstanceError as error:
        return refuse(str(error))
    except OSError as error:
        return refuse(f"{error.filename}: {error.strerror}")
    if args.family is not None:
        result = _summary(results)
        _print_family(results, result)
    else:
        result = results[0]
    if args.json:
        print_json({"benchmark": benchmark, **result})
    return EXIT_FAILED if any(r["violations"] or r["objective"] is None for r in results) else 0


def _instances_in(folder: Path) -> list[Path]:
    """The folder's files of numbers, by name."""
    return sorted([*folder.glob("*.txt"), *folder.glob("*.txt.gz")])


def _measure(
    path: Path,
    read: Callable[[Path], Instance],
    wall_s: float | None,
    seed: int,
    out: Path | None,
    save: Path | None,
) -> dict[str, Any]:
    """Read, solve, check, write and tell one instance."""
    started, cpu_started = time.perf_counter(), time.process_time()
    instance = read(path)
    problem = placement_problem(instance)
    spent = time.perf_counter() - started
    checking_s = CHECK_S_PER_PAIR * instance.cost.size
    left = None if wall_s is None else max(wall_s - spent - checking_s, SHORTEST_SOLVE_S)
    answer = solve_single_source(problem, WorkLimits(wall_s=left), seed)
    wrong = check(instance, problem, answer)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    bins, jobs = instance.cost.shape
    limit = "work limits" if wall_s is None else f"{wall_s:g} s"
    status = answer.plan.status.value
    print(f"{instance.name}: {bins} bins × {jobs} jobs, {limit}; {status} in {seconds:.2f} s")
    if wrong:
        print(f"{len(wrong)} rules broken, first: {wrong[0]}")
    bound = answer.plan.bound("fleet")
    certificate = answer.plan.certificate
    known = best_known(path)
    objective = None
    if answer.bin_of is not None and not wrong:
        objective = instance.objective(answer.bin_of)
        stated = "none" if bound is None or bound.bound_yuan is None else f"{bound.bound_yuan:.2f}"
        gap = "" if bound is None or bound.gap_frac is None else f", gap {bound.gap_frac:.4%}"
        print(f"objective {objective:.2f}, bound {stated}{gap}; checked: no rule broken")
        if certificate is not None:
            print(
                f"certified bound {certificate.bound_yuan:.2f}, gap {certificate.gap_frac:.4%} (numpy alone)"
            )
        if known is not None:
            print(f"best known {known:.2f}: {objective / known - 1:+.4%}")
        if out is not None:
            out.write_text("".join(f"{i}\n" for i in answer.bin_of.tolist()), encoding="ascii")
        if save is not None:
            from solvers.commands import PLAN_SUFFIX  # brings the command line along

            problem.save(save)
            answer.plan.save(save.with_suffix(save.suffix + PLAN_SUFFIX))
    to_best = None if known is None or objective is None else round(objective / known - 1, 8)
    return {
        "instance": instance.name,
        "bins": bins,
        "jobs": jobs,
        "status": status,
        "seconds": round(seconds, 4),
        "cpu_seconds": round(cpu_seconds, 4),
        "objective": objective,
        "bound": None if bound is None else bound.bound_yuan,
        "gap": None if bound is None else bound.gap_frac,
        "certified_bound": None if certificate is None else certificate.bound_yuan,
        "certified_gap": None if certificate is None else certificate.gap_frac,
        "best_known": known,
        "gap_to_best_known": to_best,
        "violations": len(wrong),
        "work": dict(answer.plan.work),
    }


def _summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One object for a family; means and worst over the instances that have the figure (None: none has)."""

    def over(key: str, fold: Callable[[Sequence[float]], float]) -> float | None:
        values = [r[key] for r in results if r[key] is not None]
        return float(fold(values)) if values else None

    return {
        "instances": [{k: v for k, v in r.items() if k != "work"} for r in results],
        "count": len(results),
        "answered": sum(r["objective"] is not None for r in results),
        "optimal": sum(r["status"] == "optimal" for r in results),
        "violations": sum(r["violations"] for r in results),
        "seconds": over("seconds", sum),
        "seconds_worst": over("seconds", max),
        "gap": over("gap", max),
        "gap_mean": over("gap", np.mean),
        "gap_to_best_known_mean": over("gap_to_best_known", np.mean),
        "gap_to_best_known_worst": over("gap_to_best_known", max),
    }


def _print_family(results: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
    """The table of a family."""

    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.3%}"

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    print_table(
        ("instance", "size", "objective", "bound", "gap", "best known", "over it", "wall s", "CPU s"),
        [
            (
                r["instance"], f"{r['bins']}×{r['jobs']}", number(r["objective"]), number(r["bound"]), share(r["gap"]),
                number(r["best_known"]), share(r["gap_to_best_known"]), number(r["seconds"]), number(r["cpu_seconds"]),
            )
            for r in results
        ],
    )  # fmt: skip
    print(
        f"{summary['answered']} of {summary['count']} answered, {summary['optimal']} proven optimal; over best known: "
        f"mean {share(summary['gap_to_best_known_mean'])}, worst {share(summary['gap_to_best_known_worst'])}"
    )


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value
