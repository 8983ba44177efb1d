"""Single-source placement against trying every assignment: bound ≤ optimum ≤ objective, whatever the problem."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.assignment import Instance, check, placement_problem
from solvers.archive import IntArray
from solvers.assignment import AssignmentProblem
from solvers.assignment_bounds import ascend, fewest_bins, lagrangian, linear_relaxation, promising_pairs
from solvers.assignment_tree import assignment_program, branch
from solvers.dual_bound import usable_pairs
from solvers.linear import LpLimits
from solvers.proof import verify_proof
from solvers.single_source import Budget, WorkLimits, solve_assignment, solve_single_source
from solvers.solution import SolveStatus
from solvers.whole_bound import knapsack_value, whole_bound_yuan
from tests.assignment_problems import arrays_of, cheapest, every_assignment, random_instance

some = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)
FEW = WorkLimits(
    ascent_steps=40, anneal_runs=1, exchanges_per_job=60, integer_nodes=200, improve_rounds=1, site_trials=30
)


@some
@given(seeds, st.booleans())
def test_tiny_problems_are_solved_to_the_proven_optimum(seed, whole):
    instance = random_instance(seed, whole_costs=whole)
    problem, optimum = placement_problem(instance), cheapest(arrays_of(instance))
    answer = solve_single_source(problem, FEW, seed=seed)
    assert check(instance, problem, answer) == []
    if np.isinf(optimum):
        assert answer.plan.status is SolveStatus.INFEASIBLE
        return
    assert answer.bin_of is not None
    bound = answer.plan.bound("fleet")
    assert bound is not None and bound.bound_yuan is not None
    assert bound.bound_yuan <= optimum + 1e-6
    assert instance.objective(answer.bin_of) == pytest.approx(optimum)
    assert answer.plan.status is SolveStatus.OPTIMAL


@some
@given(seeds)
def test_the_search_over_open_sites_is_sound_where_the_whole_program_is_not_tried(seed):
    p = arrays_of(random_instance(seed, fixed_costs=True))
    optimum = cheapest(p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("solvers.single_source.EASY_PAIRS", 0)
        patch.setattr("solvers.single_source.SMALL_PAIRS", 0)
        answer = solve_assignment(p, FEW, seed, Budget(None, lambda: 0.0))
    if answer.bin_of is None:
        assert np.isinf(optimum), "an assignment exists, and the last resort tries all sites"
        return
    assert p.is_feasible(answer.bin_of)
    assert answer.bound is not None
    assert answer.bound - 1e-6 <= optimum <= p.objective(answer.bin_of) + 1e-9


@some
@given(seeds)
def test_every_price_of_jobs_proves_a_bound(seed):
    p = arrays_of(random_instance(seed))
    optimum, rng = cheapest(p), np.random.default_rng(seed)
    if np.isinf(optimum):
        return
    price = rng.uniform(-5, 40, p.job_count)
    assert lagrangian(p, price, fewest=0).bound <= optimum + 1e-9
    best, at = ascend(p, price, target=optimum, steps=50)
    assert best.bound <= optimum + 1e-6
    assert lagrangian(p, at, fewest=0).bound <= optimum + 1e-6
    linear = linear_relaxation(p, LpLimits())
    assert linear is None or linear.bound + _least_opening(p) <= optimum + 1e-6


def _least_opening(p: AssignmentProblem) -> float:
    return float(p.fixed.min()) if p.job_count else 0.0


@some
@given(seeds)
def test_the_program_without_struck_out_pairs_proves_the_optimum(seed):
    p = arrays_of(random_instance(seed, fixed_costs=True))
    optimum = cheapest(p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("solvers.single_source.EASY_PAIRS", 0)
        answer = solve_assignment(p, FEW, seed, Budget(None, lambda: 0.0))
    if np.isinf(optimum):
        assert answer.status is SolveStatus.INFEASIBLE
        return
    assert answer.status is SolveStatus.OPTIMAL
    assert answer.bin_of is not None and p.objective(answer.bin_of) == pytest.approx(optimum)


@some
@given(seeds, st.integers(1, 4))
def test_branching_proves_the_optimum_and_its_bound_holds_wherever_it_stops(seed, nodes):
    p = arrays_of(random_instance(seed, fixed_costs=True))
    optimum = cheapest(p)
    whole, cut_short = (branch(p, p.allowed, None, n) for n in (10**6, nodes))
    assert cut_short.bound <= optimum + 1e-6
    if np.isinf(optimum):
        assert whole.bin_of is None and whole.bound == np.inf
        return
    assert whole.bin_of is not None and p.objective(whole.bin_of) == pytest.approx(optimum)
    assert whole.bound == pytest.approx(optimum)
    from_a_bad_start = branch(p, p.allowed, _dearest(p), 10**6)
    assert from_a_bad_start.bin_of is not None and p.objective(from_a_bad_start.bin_of) == pytest.approx(
        optimum
    )


def _dearest(p: AssignmentProblem) -> IntArray:
    everything = [b for b in every_assignment(p.bin_count, p.job_count) if p.is_feasible(b)]
    return max(everything, key=p.objective)


@settings(some, max_examples=15)
@given(seeds)
def test_no_assignment_breaks_a_row_of_the_program(seed):
    p = arrays_of(random_instance(seed))
    model = assignment_program(p, p.allowed)
    for bin_of in every_assignment(p.bin_count, p.job_count):
        if p.is_feasible(bin_of):
            opened = np.isin(np.arange(p.bin_count), bin_of) | (p.fixed == 0)
            point = np.append(bin_of[model.jobs] == model.bins, opened).astype(float)
            sides = model.program.matrix @ point
            assert (sides >= model.program.row_lower - 1e-9).all()
            assert (sides <= model.program.row_upper + 1e-9).all()
            assert model.program.cost @ point + model.program.offset == pytest.approx(p.objective(bin_of))


@settings(some, max_examples=15)
@given(seeds)
def test_penalties_keep_every_pair_of_every_cheaper_assignment(seed):
    p = arrays_of(random_instance(seed))
    rng = np.random.default_rng(seed)
    price, jobs = rng.uniform(0, 40, p.job_count), np.arange(p.job_count)
    everything = [b for b in every_assignment(p.bin_count, p.job_count) if p.is_feasible(b)]
    if not everything:
        return
    costs = np.array([p.objective(b) for b in everything])
    limit = float(rng.choice(costs))
    fewest = fewest_bins(p)
    for cells in (0, 10**6):
        best, at = ascend(p, price, target=limit, steps=30, cells=cells)
        for dual, prices in ((best, at), (lagrangian(p, price, fewest, cells), price)):
            kept = promising_pairs(p, prices, dual, limit)
            for cost, bin_of in zip(costs, everything, strict=True):
                assert cost > limit - 1e-6 or kept[bin_of, jobs].all()


@some
@given(seeds)
def test_forbidden_pairs_stay_empty(seed):
    rng = np.random.default_rng(seed)
    p = arrays_of(random_instance(seed))
    p = dataclasses.replace(p, allowed=rng.random(p.cost.shape) < 0.7)
    optimum = cheapest(p)
    answer = solve_assignment(p, FEW, 0, Budget(None, lambda: 0.0))
    if np.isinf(optimum):
        assert answer.bin_of is None
        return
    assert answer.bin_of is not None and p.is_feasible(answer.bin_of)
    assert p.objective(answer.bin_of) == pytest.approx(optimum)


@some
@given(seeds)
def test_scaling_money_scales_the_answer(seed):
    instance = random_instance(seed)
    optimum = cheapest(arrays_of(instance))
    if np.isinf(optimum):
        return
    scaled = Instance("scaled", instance.cost * 0.37, instance.load, instance.capacity, instance.fixed * 0.37)
    answer = solve_single_source(placement_problem(scaled), FEW)
    assert answer.plan.objective_yuan == pytest.approx(0.37 * optimum)


@some
@given(seeds)
def test_any_prices_of_classes_prove_a_bound_for_whole_classes(seed):
    instance = random_instance(seed)
    problem, optimum = placement_problem(instance), cheapest(arrays_of(instance))
    if np.isinf(optimum):
        return
    rng = np.random.default_rng(seed)
    prices = [float(rng.uniform(-5, 40)) for _ in range(instance.cost.shape[1])]
    assert whole_bound_yuan(problem, usable_pairs(problem), prices) <= optimum + 1e-6


@some
@given(seeds)
def test_a_knapsack_has_its_value_by_trying_every_subset_and_a_cut_one_no_less(seed):
    rng = np.random.default_rng(seed)
    worth, size = rng.uniform(0.1, 9, 7), rng.integers(0, 9, 7)
    capacity = int(rng.integers(0, 30))
    subsets = ((np.arange(2**7)[:, None] >> np.arange(7)) & 1).astype(bool)
    best = max(float(worth[s].sum()) for s in subsets if size[s].sum() <= capacity)
    assert knapsack_value(worth, size, capacity) == pytest.approx(best)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("solvers.whole_bound.MOST_CELLS", 0)
        assert knapsack_value(worth, size, capacity) >= best - 1e-9


@settings(some, max_examples=15)
@given(seeds)
def test_every_answer_carries_a_certificate_that_holds_and_one_that_claims_more_does_not(seed):
    instance = random_instance(seed)
    problem = placement_problem(instance)
    plan = solve_single_source(problem, FEW, seed=seed).plan
    if not plan.has_plan:
        return
    certificate = plan.certificate
    assert certificate is not None
    assert certificate.bound_yuan <= cheapest(arrays_of(instance)) + 1e-6
    assert verify_proof(problem, plan) == []
    for changed in (
        {"bound_yuan": certificate.objective_yuan + 1.0},
        {
            "whole_class_yuan": certificate.whole_class_yuan[:-1],
            "bound_yuan": certificate.objective_yuan + 1.0,
        },
    ):
        false = dataclasses.replace(plan, certificate=dataclasses.replace(certificate, **changed))
        assert "certified_bound" in {v.rule for v in verify_proof(problem, false)}
