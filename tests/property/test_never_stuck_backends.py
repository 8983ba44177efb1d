"""Bulk plans, re-plans, plans in parts, assignment and twins: whatever is thrown at them, and however little they may
work, they answer soundly, refuse with a documented error, or say that they know nothing.

The horizon plan's rungs and the fast placer are in `test_never_stuck`.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fleet import fleet_problem
from solvers.assignment import AssignmentProblem, NotSingleSource
from solvers.bulk import BulkPlan, greedy_bulk, solve_bulk
from solvers.bulk_model import MOST_DEVICES, MOST_NODES, MOST_REPLICAS, NotBulk
from solvers.bulk_relax import BulkLimits
from solvers.candidates import candidates
from solvers.decompose import solve_large
from solvers.greedy import greedy_plan
from solvers.pipelines import stage_options, valid_patterns
from solvers.plan_model import PlanLimits, solve_plan
from solvers.problem import PlacementProblem
from solvers.replan import Repricer, replan
from solvers.single_source import Budget, WorkLimits, solve_assignment, solve_single_source
from solvers.solution import SolveStatus
from solvers.twins import whole_twins
from solvers.verify import verify_placements, verify_plan
from tests.adversarial_problems import (
    DEGENERATE,
    busy_town,
    hostile_assignment,
    hostile_problem,
    hostile_slot,
)
from tests.plan_problems import Town

CPU_LIMIT_S = 20.0
"""Generous: a solve of these sizes takes 0.01 to 0.5 s."""
many = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
seeds = st.integers(0, 10**6)

# -- one slot, down to nodes ---------------------------------------------------------------------------------------


def changed_counts(problem: PlacementProblem) -> PlacementProblem:
    """Every second class twice as large, the others gone; every group a node less."""
    demand, nodes = problem.classes.demand_count.copy(), problem.groups.node_count
    demand[::2] *= 2
    demand[1::2] = 0
    return dataclasses.replace(
        problem,
        classes=dataclasses.replace(problem.classes, demand_count=demand),
        groups=dataclasses.replace(problem.groups, node_count=np.maximum(nodes - 1, 0)),
    )


def replanned(problem: PlacementProblem) -> BulkPlan:
    plan = solve_bulk(problem)
    return replan(plan, changed_counts(problem), Repricer(plan), most_moves=5)


BULK: dict[str, Callable[[PlacementProblem], BulkPlan]] = {
    "bulk": solve_bulk,
    "greedy": greedy_bulk,
    "replan": replanned,
    "in parts": lambda problem: solve_large(problem, part_sites=2).plan,
}


def assert_sound(problem: PlacementProblem, plan: BulkPlan) -> None:
    assert [*verify_plan(problem, plan.solution), *verify_placements(problem, plan.placements)] == []


def answers_well_or_refuses(problem: PlacementProblem, backend: str) -> None:
    begun = time.process_time()
    try:
        plan = BULK[backend](problem)
    except NotBulk:
        return  # documented: another model's problem, or more than can be told apart one by one
    assert time.process_time() - begun < CPU_LIMIT_S
    assert_sound(changed_counts(problem) if backend == "replan" else problem, plan)


def one_huge_replica() -> PlacementProblem:
    """A replica larger than everything, beside one that fits."""
    town = Town().site("s").group("g", "s").work("huge", demand=1, cpu=1e9)
    return town.work("small", demand=1).problem()


def equal_costs() -> PlacementProblem:
    """Nothing tells sites, groups and classes apart."""
    town = Town()
    for i in range(4):
        town.site(f"s{i}", may_close=True).group(f"s{i}/g", f"s{i}")
    for c in range(4):
        town.work(f"w{c}", demand=3)
    return town.problem()


ONE_SLOT = {
    **{name: make for name, make in DEGENERATE.items() if make().slot_count == 1},
    "one_huge_replica": one_huge_replica,
    "equal_costs": equal_costs,
}


@pytest.mark.parametrize("backend", BULK)
@pytest.mark.parametrize("name", ONE_SLOT)
def test_degenerate_slots_are_answered_or_refused(name, backend):
    answers_well_or_refuses(ONE_SLOT[name](), backend)


@pytest.mark.parametrize("backend", BULK)
@many
@given(seeds)
def test_hostile_slots_are_answered_or_refused(backend, seed):
    try:
        problem = hostile_slot(seed)
    except ValueError:
        return  # told where the problem is made, with the fact's name
    answers_well_or_refuses(problem, backend)


def test_what_fits_is_placed_beside_what_never_will():
    plan = solve_bulk(one_huge_replica())
    assert plan.solution.unserved_count[:, 0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("fact", "value", "says"),
    [
        ("groups.node_count", MOST_NODES + 1, "nodes"),
        ("classes.demand_count", MOST_REPLICAS + 1.0, "replicas"),
        ("groups.capacity", (MOST_DEVICES + 1) * 1000, "devices on a node"),
    ],
)
@pytest.mark.parametrize("backend", BULK)
def test_more_than_memory_holds_is_refused_before_it_is_laid_out(backend, fact, value, says):
    problem = Town().site("s").group("g", "s").work("c", demand=1).problem()
    table, field = fact.split(".")
    facts = getattr(problem, table)
    changed = dataclasses.replace(facts, **{field: np.full_like(getattr(facts, field), value)})
    with pytest.raises(NotBulk, match=says):
        BULK[backend](dataclasses.replace(problem, **{table: changed}))


def test_a_portfolio_deep_in_debt_is_a_price_and_no_contradiction():
    """What the edges owe already was once left out of the most they can owe: the program had no answer."""
    (bound,) = solve_bulk(DEGENERATE["contradictory_caps"]()).solution.bounds
    assert bound.bound_yuan == pytest.approx(bound.objective_yuan)


# -- limits and cancellation, in the order that `solve_bulk` documents -------------------------------------------------

LIMITED = {
    "no time": BulkLimits(wall_s=0.0),
    "no work": BulkLimits(lp_iterations=0),
    "one pivot": BulkLimits(lp_iterations=1),
}


def improvable() -> PlacementProblem:
    """A small fleet whose first filling is not the last."""
    return fleet_problem(2_000, 150, 5, 24, seed=4)


@pytest.mark.parametrize("limits", LIMITED.values(), ids=LIMITED)
def test_without_time_or_work_the_greedy_plan_answers_and_says_so(limits):
    problem = improvable()
    plan = solve_bulk(problem, limits=limits)
    assert_sound(problem, plan)
    assert plan.solution.method == "greedy"
    assert plan.solution.message
    assert plan.solution.objective_yuan == greedy_bulk(problem).solution.objective_yuan


@pytest.mark.parametrize("limits", LIMITED.values(), ids=LIMITED)
def test_limits_hold_for_parts_too(limits):
    problem = improvable()
    assert_sound(problem, solve_large(problem, limits=limits, part_sites=2).plan)


def stopping_at(at: int) -> Callable[[], bool]:
    """Cancels at the question with this number, counted from 0."""
    asks = itertools.count()
    return lambda: next(asks) >= at


def test_a_plan_cancelled_at_any_moment_is_sound_and_never_dearer_than_the_greedy_one():
    problem = improvable()
    asked = itertools.count()
    solve_bulk(problem, stop=lambda: next(asked) < 0)
    programs = next(asked)
    greedy, methods = greedy_bulk(problem), set[str]()
    for at in range(programs):
        plan = solve_bulk(problem, stop=stopping_at(at))
        assert_sound(problem, plan)
        assert plan.solution.unserved_count.sum() <= greedy.solution.unserved_count.sum()
        if at == 0:
            assert plan.solution.method == "greedy"
            assert plan.solution.message == "the plan was cancelled"
        methods.add(plan.solution.method)
    assert methods == {"greedy", "full"}


# -- every job on one bin ------------------------------------------------------------------------------------------

WORK = {
    "some": WorkLimits(
        ascent_steps=30, anneal_runs=1, exchanges_per_job=50, integer_nodes=50, improve_rounds=2, site_trials=20
    ),
    "none": WorkLimits(
        ascent_steps=0, anneal_runs=0, exchanges_per_job=0, integer_nodes=0, improve_rounds=0, site_trials=0
    ),
    "no time": WorkLimits(wall_s=0.0),
    "50 ms": WorkLimits(wall_s=0.05),
}  # fmt: skip


def cheapest_of_all(problem: AssignmentProblem) -> float:
    """By trying every assignment; inf: none is feasible."""
    every = itertools.product(range(problem.bin_count), repeat=problem.job_count)
    bins = (np.array(b, dtype=np.int64) for b in every)
    return min((problem.objective(b) for b in bins if problem.is_feasible(b)), default=np.inf)


@pytest.mark.parametrize("work", WORK)
@many
@given(seeds)
def test_hostile_assignments_are_answered_soundly_within_any_limit(work, seed):
    problem = hostile_assignment(seed)
    limits = WORK[work]
    begun = time.process_time()
    answer = solve_assignment(problem, limits, 0, Budget(limits.wall_s, time.perf_counter))
    assert time.process_time() - begun < CPU_LIMIT_S
    found = np.inf
    if answer.bin_of is not None:
        assert problem.is_feasible(answer.bin_of)
        found = problem.objective(answer.bin_of)
    if problem.bin_count**problem.job_count > 1_000:
        return
    truth = cheapest_of_all(problem)
    slack = 1e-6 * (1 + abs(truth)) if np.isfinite(truth) else 0.0
    assert answer.bound is None or answer.bound <= truth + slack
    if answer.status is SolveStatus.OPTIMAL:
        assert found <= truth + slack
    if answer.status is SolveStatus.INFEASIBLE:
        assert truth == np.inf


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_problems_are_assigned_or_refused_with_reasons(name):
    problem = DEGENERATE[name]()
    try:
        answer = solve_single_source(problem, WORK["some"])
    except NotSingleSource as refusal:
        assert problem.problem_id in str(refusal)
    else:
        assert not answer.plan.has_plan or verify_plan(problem, answer.plan) == []


# -- stage graphs --------------------------------------------------------------------------------------------------


def twins_answer_well(problem: PlacementProblem) -> None:
    plan = solve_plan(problem, limits=PlanLimits(lp_iterations=40_000))
    plan = plan if plan.has_plan else greedy_plan(problem)
    try:
        assert verify_plan(problem, whole_twins(problem, plan)) == []
    except ValueError as refusal:
        assert "whole twins need" in str(refusal)
    for graph in problem.graphs:
        options = stage_options(problem, graph, candidates(problem).passes)
        patterns = valid_patterns(problem, graph, options)
        assert patterns.option.shape[1] == len(graph.stage_class)


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_stage_graphs_are_answered(name):
    twins_answer_well(DEGENERATE[name]())


@many
@given(seeds)
def test_hostile_stage_graphs_are_answered(seed):
    try:
        problem = hostile_problem(seed)
    except ValueError:
        return
    twins_answer_well(problem)


def test_twins_without_any_room_are_unserved():
    problem = busy_town(1.0)
    nothing = dataclasses.replace(problem.groups, node_count=np.zeros_like(problem.groups.node_count))
    twins_answer_well(dataclasses.replace(problem, groups=nothing))
