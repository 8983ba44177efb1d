"""The ladder of plans: whatever the solver does, the round answers, in the fixed order, and every step is counted."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from scheduler.app import build
from scheduler.config import Settings
from scheduler.service.metrics import Metrics
from scheduler.workers import DumpingPool, InlineSolverPool, LadderPool
from solvers.problem import PlacementProblem
from solvers.proof import verify_proof
from solvers.solution import PlanSolution, SolveStatus
from tests.plan_problems import Town

SOLVERS = """
import os, time
from dataclasses import replace
import numpy as np
from solvers.greedy import greedy_plan

def hangs(problem):
    time.sleep(600)

def kills_itself(problem):
    os.kill(os.getpid(), 9)

def eats_memory(problem):
    hoard = []
    while True:
        hoard.append(bytearray(64 << 20))

def raises(problem):
    raise RuntimeError("matrix is singular")

def overfills(problem):
    plan = greedy_plan(problem)
    return replace(plan, running_count=plan.running_count * 1000, method="coarse")

def sound(problem):
    return replace(greedy_plan(problem), method="coarse")
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("ladder")
    (folder / "ladder_solvers.py").write_text(SOLVERS)
    sys.path.insert(0, str(folder))
    yield "ladder_solvers"
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def problem() -> PlacementProblem:
    return Town().site("s").group("g", "s").work("c", demand=2).problem()


@pytest.fixture
def ladder(module) -> Iterator[Callable[..., tuple[LadderPool, list[tuple[str, str]]]]]:
    pools: list[LadderPool] = []

    def make(full: str, coarse: str, **options) -> tuple[LadderPool, list[tuple[str, str]]]:
        steps: list[tuple[str, str]] = []
        options.setdefault("import_grace_s", 4.0)
        pool = LadderPool(
            f"{module}:{full}",
            f"{module}:{coarse}",
            observe=lambda rung, cause: steps.append((rung, cause)),
            **options,
        )
        pools.append(pool)
        return pool, steps

    yield make
    for pool in pools:
        pool.close()


@pytest.mark.parametrize(
    ("full", "coarse", "steps", "method"),
    [
        ("kills_itself", "sound", [("full", "crash"), ("coarse", "answered")], "coarse"),
        (
            "raises",
            "overfills",
            [("full", "error"), ("coarse", "nonsense"), ("greedy", "answered")],
            "greedy",
        ),
        (
            "overfills",
            "kills_itself",
            [("full", "nonsense"), ("coarse", "crash"), ("greedy", "answered")],
            "greedy",
        ),
    ],
)
def test_the_order_is_fixed_and_every_step_counted(ladder, problem, full, coarse, steps, method):
    pool, seen = ladder(full, coarse)
    plan = pool.solve_plan(problem, 5.0)
    assert seen == steps
    assert plan.method == method
    assert verify_proof(problem, plan) == []
    assert plan.message.startswith("full: ")


def test_a_hang_and_a_hog_are_cut_off_and_a_plan_comes_in_time(ladder, problem):
    pool, seen = ladder("hangs", "eats_memory", memory_limit_mib=2_048, import_grace_s=2.5)
    begun = time.monotonic()
    plan = pool.solve_plan(problem, 1.0)
    assert time.monotonic() - begun < 2 * 2.5 + 1.25 + 3.0
    assert [rung for rung, _ in seen] == ["full", "coarse", "greedy"]
    assert seen[0] == ("full", "hang")
    assert seen[1][1] in ("memory", "hang")
    assert plan.method == "greedy"


def test_without_any_plan_the_answer_says_why_of_every_rung(ladder, problem):
    def broken(problem: PlacementProblem) -> PlanSolution:
        raise ZeroDivisionError("no nodes")

    pool, seen = ladder("raises", "raises", greedy=broken)
    plan = pool.solve_plan(problem, 5.0)
    assert plan.status is SolveStatus.UNKNOWN
    assert seen == [("full", "error"), ("coarse", "error"), ("greedy", "error"), ("none", "answered")]
    assert all(f"{rung}: " in plan.message for rung in ("full", "coarse", "greedy"))


def test_a_cancelled_solve_answers_at_once_and_tries_nothing_else(ladder, problem):
    pool, seen = ladder("hangs", "hangs")
    answers: list[PlanSolution] = []
    solving = threading.Thread(target=lambda: answers.append(pool.solve_plan(problem, 60.0)))
    solving.start()
    time.sleep(0.5)
    begun = time.monotonic()
    pool.cancel()
    solving.join(10.0)
    assert time.monotonic() - begun < 5.0
    assert answers[0].status is SolveStatus.UNKNOWN
    assert seen == [("full", "cancelled"), ("none", "answered")]


def test_the_pool_of_the_simulator_walks_the_same_ladder(problem, monkeypatch):
    from scheduler.workers import pools

    def raises(problem: PlacementProblem, **limits: object) -> PlanSolution:
        raise RuntimeError("matrix is singular")

    monkeypatch.setattr(pools, "_full_plan", raises)
    monkeypatch.setattr(pools, "coarse_plan", raises)
    seen: list[tuple[str, str]] = []
    pool = InlineSolverPool(observe=lambda rung, cause: seen.append((rung, cause)))
    assert pool.solve_plan(problem, 1.0).method == "greedy"
    assert seen == [("full", "error"), ("coarse", "error"), ("greedy", "answered")]


def test_plans_of_the_simulator_may_do_without_their_proof(problem):
    proven, plain = (InlineSolverPool(with_certificate=w).solve_plan(problem, 1.0) for w in (True, False))
    assert proven.certificate is not None and plain.certificate is None
    assert plain.bounds == proven.bounds
    assert np.array_equal(plain.running_count, proven.running_count)


def test_a_certificate_that_claims_too_much_costs_the_certificate_and_not_the_plan(problem):
    import dataclasses

    from solvers.plan_model import solve_plan

    def boasts(problem: PlacementProblem) -> PlanSolution:
        plan = solve_plan(problem)
        assert plan.certificate is not None
        too_high = dataclasses.replace(plan.certificate, bound_yuan=1e9)
        return dataclasses.replace(plan, certificate=too_high)

    plan = InlineSolverPool(boasts).solve_plan(problem, 1.0)
    assert plan.has_plan
    assert plan.certificate is None
    assert plan.bounds == ()
    assert "certified_bound" in plan.message


def test_steps_are_counted_in_the_service_metrics():
    metrics = Metrics()
    metrics.solver_rung("full", "hang")
    metrics.solver_rung("coarse", "answered")
    value = metrics.registry.get_sample_value
    assert value("suanli_solver_rungs_total", {"rung": "full", "outcome": "hang"}) == 1.0
    assert value("suanli_solver_rungs_total", {"rung": "coarse", "outcome": "answered"}) == 1.0


def test_the_service_as_it_is_built_plans_without_memory_and_counts_every_step(problem):
    """96 MiB of address space, less than the settings allow, do not even hold the solver's libraries."""
    metrics = Metrics()
    settings = Settings(store="memory").model_copy(update={"solver_memory_mib": 96})
    parts = build(settings, metrics)
    try:
        plan = parts.pool.solve_plan(problem, 5.0)
    finally:
        parts.close()
    assert plan.method == "greedy"
    assert verify_proof(problem, plan) == []
    counted = {
        (sample.labels["rung"], sample.labels["outcome"]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "suanli_solver_rungs_total"
    }
    assert [rung for rung, _ in counted] == ["full", "coarse", "greedy"]
    assert counted["greedy", "answered"] == 1.0
    assert {outcome for rung, outcome in counted if rung != "greedy"} <= {"memory", "crash", "error"}
    assert set(counted.values()) == {1.0}


def test_dumped_problems_and_plans_verify_and_only_the_newest_stay(tmp_path: Path):
    pool = DumpingPool(InlineSolverPool(), tmp_path / "dumps", kept=2)
    for demand in (1.0, 2.0, 3.0):
        pool.solve_plan(Town().site("s").group("g", "s").work("c", demand=demand).problem(), 1.0)
    problems = sorted((tmp_path / "dumps").glob("*.problem"))
    assert len(problems) == 2
    for file in problems:
        plan = PlanSolution.load(file.with_suffix(".problem.plan"))
        assert plan.certificate is not None
        assert verify_proof(PlacementProblem.load(file), plan) == []
