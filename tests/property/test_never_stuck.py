"""Whatever is thrown at a backend: an answer within limits, no undocumented exception, no nonsense called valid."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scheduler.workers import InlineSolverPool, LadderPool
from solvers.fallback import coarse_plan
from solvers.greedy import greedy_plan
from solvers.packing import MixEntry, PackingModel
from solvers.placer import Need, NodeState, Placer, Shape
from solvers.plan_model import PlanLimits, solve_plan
from solvers.problem import PlacementProblem
from solvers.proof import verify_proof
from solvers.solution import PlanSolution, SolveStatus
from tests.adversarial_problems import DEGENERATE, busy_town, hostile_problem

CPU_LIMIT_S = 20.0
"""Generous: a solve of these sizes takes 0.02 to 0.5 s."""
many = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
seeds = st.integers(0, 10**6)
WORK_LIMITS = PlanLimits(lp_iterations=40_000)


def full(problem: PlacementProblem) -> PlanSolution:
    return solve_plan(problem, limits=WORK_LIMITS)


BACKENDS = {"full": full, "coarse": coarse_plan, "greedy": greedy_plan}


def answers_well(problem: PlacementProblem, backend: str) -> PlanSolution:
    """The answer is of a documented kind, in time, and a plan is what it claims to be, also after a round trip."""
    begun = time.process_time()
    plan = BACKENDS[backend](problem)
    assert time.process_time() - begun < CPU_LIMIT_S
    assert plan.has_plan or plan.status in (SolveStatus.UNKNOWN, SolveStatus.INFEASIBLE)
    assert [str(v) for v in verify_proof(problem, plan)] == []
    assert PlanSolution.from_bytes(plan.to_bytes()).to_bytes() == plan.to_bytes()
    return plan


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_problems_are_answered(name, backend):
    assert answers_well(DEGENERATE[name](), backend).has_plan


@pytest.mark.parametrize("backend", BACKENDS)
@many
@given(seeds)
@example(seed=9982)  # more moves than the budget allows
def test_hostile_facts_are_refused_or_answered(backend, seed):
    try:
        problem = hostile_problem(seed)
    except ValueError:
        return  # told where the problem is made, with the fact's name
    plan = answers_well(problem, backend)
    if backend == "greedy":
        assert plan.has_plan, "the last rung always has a plan"


@many
@given(seeds)
def test_the_ladder_always_ends_in_a_sound_plan(seed):
    try:
        problem = hostile_problem(seed)
    except ValueError:
        return
    plan = InlineSolverPool().solve_plan(problem, 1.0)
    assert plan.has_plan
    assert verify_proof(problem, plan) == []


def test_the_process_pool_answers_the_worst_of_them():
    pool = LadderPool(import_grace_s=30.0)
    try:
        for make in DEGENERATE.values():
            problem = make()
            plan = pool.solve_plan(problem, 20.0)
            assert plan.has_plan
            assert verify_proof(problem, plan) == []
    finally:
        pool.close()


@pytest.mark.parametrize("field", ["price_yuan_per_kwh", "fixed_kw", "power_limit_kw", "rated_kw"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_facts_that_are_no_numbers_are_named(field, value):
    problem = busy_town(1.0)
    array = np.array(getattr(problem.sites, field))
    array.flat[0] = value
    changed: dict[str, Any] = {field: array}
    with pytest.raises(ValueError, match=rf"sites\.{field}"):
        dataclasses.replace(problem, sites=dataclasses.replace(problem.sites, **changed))


def test_all_wrong_facts_come_in_one_answer():
    problem = busy_town(1.0)
    sites = dataclasses.replace(problem.sites, fixed_kw=problem.sites.fixed_kw * np.nan)
    groups = dataclasses.replace(problem.groups, idle_w=-problem.groups.idle_w)
    with pytest.raises(ValueError, match=r"sites\.fixed_kw.*groups\.idle_w"):
        dataclasses.replace(problem, sites=sites, groups=groups)


def test_ids_that_repeat_are_refused():
    problem = busy_town(1.0)
    again = (problem.sites.site_id[0],) * problem.site_count
    with pytest.raises(ValueError, match="repeats an id"):
        dataclasses.replace(problem, sites=dataclasses.replace(problem.sites, site_id=again))


# -- the checker --------------------------------------------------------------------------------------------------

PROBLEM = busy_town(1.0)
PLAN = solve_plan(PROBLEM)
COUNTS = (
    "running_count",
    "nodes_on",
    "it_kw",
    "facility_kw",
    "unserved_count",
    "ledger_debt_kwh",
    "moved_count",
)


@many
@given(st.sampled_from(COUNTS), seeds, st.sampled_from([np.nan, np.inf, -1.0, 1e300, 1e9]))
def test_the_checker_never_stumbles_and_never_lets_nonsense_through(name, seed, value):
    rng = np.random.default_rng(seed)
    array = np.array(getattr(PLAN, name))
    array.flat[int(rng.integers(array.size))] = value
    changed: dict[str, Any] = {name: array}
    assert verify_proof(PROBLEM, dataclasses.replace(PLAN, **changed)) != []


@many
@given(seeds)
def test_damaged_files_are_refused_or_read_but_never_crash(seed):
    """Single bytes changed, pieces cut out: ValueError (ArchiveError is one), or something the checker can judge."""
    rng = np.random.default_rng(seed)
    for cls, data in ((PlacementProblem, PROBLEM.to_bytes()), (PlanSolution, PLAN.to_bytes())):
        broken = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(min(len(broken), 6000)))  # the header, where the structure is
            if rng.random() < 0.8:
                broken[at] = int(rng.integers(256))
            else:
                del broken[at : at + int(rng.integers(1, 50))]
        try:
            read = cls.from_bytes(bytes(broken))
        except ValueError:
            continue
        if isinstance(read, PlanSolution):
            verify_proof(PROBLEM, read)


# -- the fast path ------------------------------------------------------------------------------------------------

AMOUNTS = st.sampled_from([0, 1, 500, 10**6, 2**31, 2**40])


@many
@given(
    st.lists(st.tuples(AMOUNTS, AMOUNTS, st.integers(0, 8)), min_size=0, max_size=6),
    st.lists(st.tuples(AMOUNTS, AMOUNTS, st.sampled_from([0, 1, 2, 8, 16])), min_size=1, max_size=4),
    st.sampled_from([1, 7, 10**6]),
)
def test_the_placer_never_takes_more_than_there_is(nodes, wants, count):
    state = NodeState.empty(
        [0] * len(nodes), [n[0] for n in nodes], [n[1] for n in nodes], [n[2] for n in nodes]
    )
    shapes = [
        Shape.uniform(Need(cpu, memory, gpus, 1000 if gpus else 0), [True] if nodes else [])
        for cpu, memory, gpus in wants
    ]
    placer = Placer(state, PackingModel.build(state, [MixEntry(s, 1.0) for s in shapes]))
    begun = time.process_time()
    for shape in shapes:
        if any((shape.needs[0].cpu_milli, shape.needs[0].memory_mib, shape.needs[0].gpu_count)):
            placer.place(shape, count)
    assert time.process_time() - begun < CPU_LIMIT_S
    for left in (state.cpu_milli, state.memory_mib, state.gpu_milli[state.gpu_installed]):
        assert int(left.min(initial=0)) >= 0
