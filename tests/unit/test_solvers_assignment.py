"""Single-source placement: what the model refuses, its arrays, bounds, searches, and the way from files to a plan."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks.assignment import Instance, placement_problem
from benchmarks.instances import facility_location, generalised_assignment
from solvers.assignment import AssignmentProblem, NotSingleSource, assignment_of, refusals
from solvers.assignment_bounds import ascend, fewest_bins, knapsacks, linear_relaxation, priced, rounded_up
from solvers.assignment_search import anneal
from solvers.assignment_tree import assignment_program, branch
from solvers.dual_bound import certified_bound_yuan, usable_pairs
from solvers.improve import ImproveLimits, improve
from solvers.integer import IntegerLimits, solve_integer
from solvers.linear import LpLimits
from solvers.plan_model import solve_plan
from solvers.problem import PlacementProblem
from solvers.proof import verify_proof
from solvers.single_source import WorkLimits, solve_single_source
from solvers.solution import PlanSolution, SolveStatus
from solvers.verify import verify_placements, verify_plan
from solvers.whole_bound import misfits, whole_bound_yuan
from tests.assignment_problems import arrays_of, cheapest, random_instance
from tests.plan_problems import Town

TWO_BINS = Instance(
    name="two-bins",
    cost=np.array([[1.0, 2.0, 9.0], [5.0, 1.0, 2.0]]),
    load=np.array([[4, 4, 4], [4, 4, 4]]),
    capacity=np.array([4, 12]),
    fixed=np.array([10.0, 3.0]),
)


def a_gap(kind: str = "D", bins: int = 5, jobs: int = 30, seed: int = 1) -> AssignmentProblem:
    """A random instance of a published type."""
    cost, load, capacity = generalised_assignment(kind, bins, jobs, np.random.default_rng(seed))
    return AssignmentProblem(
        cost.astype(float), load, capacity, np.zeros(bins), np.ones(cost.shape, dtype=bool)
    )


# -- from a placement problem to arrays --------------------------------------------------------------------------


def test_arrays_of_a_problem_are_the_instance():
    p = assignment_of(placement_problem(TWO_BINS))
    assert np.array_equal(p.cost, TWO_BINS.cost)
    assert np.array_equal(p.load, TWO_BINS.load)
    assert np.array_equal(p.capacity, TWO_BINS.capacity)
    assert np.array_equal(p.fixed, TWO_BINS.fixed)
    assert p.objective(np.array([0, 1, 1])) == 1 + 1 + 2 + 10 + 3
    assert p.objective(np.array([1, 1, 1])) == 5 + 1 + 2 + 3


def test_energy_overhead_wake_and_start_are_priced():
    town = (
        Town()
        .site("near", loss_square=0.0, may_close=True, initially_on=False, start_yuan=7.0,
              price_yuan_per_kwh=2.0, loss_slope=0.5)
        .site("far", loss_square=0.0, price_yuan_per_kwh=1.0, loss_slope=0.25)
        .group("n", "near", node_count=1, gpus=0, memory_gib=0, storage_gib=0, idle_w=300.0, wake_yuan=4.0)
        .group("f", "far", node_count=1, gpus=0, memory_gib=0, storage_gib=0, idle_w=200.0, initial_on_count=1.0)
        .work("a", demand=1.0, single_site=True, memory_gib=0, dynamic_w=1000.0)
    )  # fmt: skip
    p = assignment_of(town.problem())
    assert p.cost[:, 0].tolist() == pytest.approx([1.0 * 1.5 * 2, 1.0 * 1.25 * 1])
    overhead, node = (1.0 - 0.1) * 2, 0.3 * 1.5 * 2 + 4
    assert p.fixed.tolist() == pytest.approx([overhead + 7 + node, 0.2 * 1.25])
    assert p.offset == pytest.approx(0.1 * 2 + 1.0)
    answer = solve_single_source(town.problem())
    assert answer.bin_of is not None and answer.bin_of.tolist() == [1]
    assert answer.plan.objective_yuan == pytest.approx(1.25 + 0.25 + 1.2)
    bound = answer.plan.bound("fleet")
    assert bound is not None
    assert bound.bound_yuan == pytest.approx(answer.plan.objective_yuan)
    assert verify_plan(town.problem(), answer.plan) == []


def broken(problem: PlacementProblem, part: str, **facts: object) -> PlacementProblem:
    """The problem with some facts of one part changed."""
    return dataclasses.replace(problem, **{part: dataclasses.replace(getattr(problem, part), **facts)})


@pytest.mark.parametrize(
    ("part", "facts", "reason"),
    [
        ("classes", {"demand_count": np.array([[1.0], [2.0], [1.0]])}, "exactly one replica"),
        (
            "classes",
            {"demand_count": np.array([[1.0], [0.0], [1.0]]), "work_replica_h": np.array([0.0, 1.0, 0.0])},
            "batch work",
        ),
        ("classes", {"gang_size": np.array([1, 2, 1])}, "gangs"),
        ("classes", {"spread_site_min": np.array([0, 2, 0])}, "spread"),
        ("groups", {"node_count": np.array([[1], [2]])}, "other than one node"),
        ("sites", {"loss_square": np.array([[0.0], [0.1]])}, "quadratic plant"),
        ("sites", {"ipue_cap_hourly": np.array([1.5, np.nan])}, "PUE caps"),
        ("sites", {"demand_yuan_per_kw": np.array([0.0, 1.0])}, "demand charges"),
        ("sites", {"off_kw": np.array([[99.0], [0.0]])}, "negative cost of opening"),
    ],
)
def test_a_rule_beyond_the_model_is_refused_by_name(part, facts, reason):
    problem = placement_problem(TWO_BINS)
    assert refusals(problem) == []
    with pytest.raises(NotSingleSource, match=reason):
        solve_single_source(broken(problem, part, **facts))


# -- bounds ------------------------------------------------------------------------------------------------------


def test_knapsacks_are_exact_and_with_a_small_table_an_upper_bound():
    rng = np.random.default_rng(3)
    subsets = (np.arange(2**8)[:, None] >> np.arange(8)) & 1
    for _ in range(50):
        profit, load = rng.uniform(-3, 10, (4, 8)), rng.integers(0, 12, (4, 8))
        capacity = rng.integers(0, 40, 4)
        fits = subsets @ load.T <= capacity
        exact = np.where(fits, subsets @ profit.T, -np.inf).max(axis=0)
        answer = knapsacks(profit, load, capacity)
        assert answer.value == pytest.approx(exact)
        assert (answer.take * load).sum(axis=1).tolist() <= capacity.tolist()
        assert (answer.take * profit).sum(axis=1) == pytest.approx(exact)
        rough = knapsacks(profit, load, capacity, cells=0)
        assert (rough.value >= exact - 1e-9).all()
        assert ((rough.take * load).sum(axis=1) <= capacity).all()


def test_any_capacity_prices_prove_a_bound():
    p = arrays_of(random_instance(5, fixed_costs=False))
    optimum, rng = cheapest(p), np.random.default_rng(0)
    for _ in range(20):
        prices = rng.uniform(0, 5, p.bin_count)
        assert priced(p, prices, np.zeros(p.cost.shape)).bound <= optimum + 1e-9


def test_the_lagrangian_bound_is_not_below_the_linear_one():
    p = a_gap(jobs=20)
    linear = linear_relaxation(p, LpLimits())
    assert linear is not None
    dual, _ = ascend(p, linear.job_price, linear.bound * 1.01, steps=60)
    assert dual.bound >= linear.bound - 1e-6
    answer = solve_small(p)
    assert dual.bound <= answer + 1e-6


def solve_small(p: AssignmentProblem) -> float:
    """Objective of the solver's answer, which is above every bound whatever its quality."""
    found = anneal(p, linear_relaxation(p, LpLimits()), seed=0, exchanges=4000)  # type: ignore[arg-type]
    assert found.bin_of is not None
    return found.objective


def test_a_bound_is_rounded_up_only_for_whole_costs():
    whole = a_gap()
    assert rounded_up(whole, 100.2) == 101
    assert rounded_up(whole, 100.0 + 1e-9) == 100, "noise is no proof"
    assert rounded_up(dataclasses.replace(whole, offset=0.5), 100.2) == 100.2


def test_fewest_bins_counts_the_largest_first():
    p = arrays_of(TWO_BINS)
    assert fewest_bins(p) == 1
    assert fewest_bins(dataclasses.replace(p, capacity=np.array([6, 8]))) == 2


# -- searches ----------------------------------------------------------------------------------------------------


def test_annealing_finds_feasible_assignments_and_repeats_itself():
    p = a_gap()
    relaxation = linear_relaxation(p, LpLimits())
    assert relaxation is not None
    first, again = (anneal(p, relaxation, seed=4, exchanges=3000) for _ in range(2))
    assert first.bin_of is not None and again.bin_of is not None
    assert p.is_feasible(first.bin_of)
    assert p.objective(first.bin_of) == first.objective
    assert np.array_equal(first.bin_of, again.bin_of)
    assert first.objective <= 1.05 * relaxation.bound


def test_annealing_keeps_to_allowed_pairs():
    p = a_gap("C", bins=4, jobs=24)
    allowed = np.ones(p.cost.shape, dtype=bool)
    allowed[0, ::2] = False
    allowed[2, 1::3] = False
    p = dataclasses.replace(p, allowed=allowed, capacity=p.capacity * 2)
    relaxation = linear_relaxation(p, LpLimits())
    assert relaxation is not None
    found = anneal(p, relaxation, seed=1, exchanges=2000)
    assert found.bin_of is not None
    assert allowed[found.bin_of, np.arange(p.job_count)].all()


def test_improvement_starts_from_a_feasible_assignment_and_never_loses():
    p = a_gap()
    relaxation = linear_relaxation(p, LpLimits())
    assert relaxation is not None
    start = anneal(p, relaxation, seed=0, exchanges=600).bin_of
    assert start is not None
    reduced = relaxation.reduced_cost(p)
    better = improve(p, start, reduced, ImproveLimits(rounds=3, block_work=0.05))
    assert p.is_feasible(better.bin_of)
    assert better.objective == p.objective(better.bin_of) <= p.objective(start)
    with pytest.raises(ValueError, match="not feasible"):
        improve(p, np.zeros(p.job_count, dtype=np.int64), reduced, ImproveLimits(rounds=1))


# -- whole -------------------------------------------------------------------------------------------------------


def test_large_jobs_that_exclude_each_other_are_said_to():
    load = np.array([[7, 6, 4, 2]])
    p = AssignmentProblem(np.ones((1, 4)), load, np.array([10]), np.array([5.0]), np.ones((1, 4), dtype=bool))
    program = assignment_program(p, p.allowed).program
    rows = {
        tuple(np.flatnonzero(row)) for row in program.matrix.toarray() if row[4] == -1 and row.min() == -1
    }
    # 7 with 6 and 7 with 4 do not fit in 10; 6 with 4 and anything with 2 does
    assert {(0, 1, 4), (0, 2, 4)} <= rows
    assert not {(1, 2, 4), (0, 3, 4), (0, 1, 2, 4)} & rows


def test_a_medium_problem_is_proven_by_few_nodes():
    cost, fixed, demand, capacity = facility_location(15, 40, 5.0, np.random.default_rng(2))
    p = AssignmentProblem(cost, np.tile(demand, (15, 1)), capacity, fixed, np.ones(cost.shape, dtype=bool))
    found = branch(p, p.allowed, None, nodes=500)
    assert found.bin_of is not None and p.is_feasible(found.bin_of)
    assert found.bound == pytest.approx(p.objective(found.bin_of))
    assert found.nodes < 500
    # HiGHS on the same program agrees
    program = assignment_program(p, p.allowed).program
    exact = solve_integer(program, np.ones(len(program.cost), dtype=bool), IntegerLimits(nodes=10**5))
    assert exact.objective == pytest.approx(p.objective(found.bin_of))


def test_no_room_is_infeasible_and_no_jobs_cost_nothing():
    full = dataclasses.replace(TWO_BINS, capacity=np.array([4, 4]))
    answer = solve_single_source(placement_problem(full))
    assert answer.plan.status is SolveStatus.INFEASIBLE
    assert answer.bin_of is None and answer.placements is None
    free = dataclasses.replace(full, fixed=np.zeros(2))
    assert solve_single_source(placement_problem(free)).plan.status is SolveStatus.INFEASIBLE


@pytest.mark.parametrize("fixed", [False, True])
def test_a_larger_problem_is_sound_and_repeats_itself(fixed):
    rng = np.random.default_rng(2)
    if fixed:
        cost, opening, demand, capacity = facility_location(12, 40, 4.0, rng)
        instance = Instance("sscflp", cost, np.tile(demand, (12, 1)), capacity, opening)
    else:
        costs, load, capacity = generalised_assignment("D", 6, 36, rng)
        instance = Instance("gap", costs.astype(float), load, capacity, np.zeros(6))
    problem = placement_problem(instance)
    limits = WorkLimits(
        ascent_steps=60,
        anneal_runs=2,
        exchanges_per_job=40,
        integer_nodes=20,
        improve_rounds=1,
        site_trials=60,
    )
    first, again = (solve_single_source(problem, limits, seed=5) for _ in range(2))
    assert first.bin_of is not None and again.bin_of is not None
    assert instance.violations(first.bin_of) == []
    assert verify_plan(problem, first.plan) == []
    assert first.placements is not None and verify_placements(problem, first.placements) == []
    assert np.array_equal(first.bin_of, again.bin_of)
    bound = first.plan.bound("fleet")
    assert bound is not None and bound.bound_yuan is not None
    assert bound.bound_yuan <= first.plan.objective_yuan <= 1.03 * bound.bound_yuan


# -- the certificate ---------------------------------------------------------------------------------------------


def a_facility(bins: int = 12, jobs: int = 40, ratio: float = 3.0, seed: int = 3) -> PlacementProblem:
    cost, fixed, demand, capacity = facility_location(bins, jobs, ratio, np.random.default_rng(seed))
    return placement_problem(Instance("facility", cost, np.tile(demand, (bins, 1)), capacity, fixed))


def test_the_certified_bound_comes_close_to_the_search_s_own():
    problem = a_facility()
    plan = solve_single_source(problem, WorkLimits()).plan
    own = plan.bound("fleet")
    assert own is not None and own.bound_yuan is not None and plan.certificate is not None
    # branching proves the optimum; the prices at its root stay 4 % below
    assert 0.95 * own.bound_yuan < plan.certificate.bound_yuan <= own.bound_yuan + 1e-6
    # the knapsacks prove more than the multipliers alone, which may split a class
    assert plan.certificate.bound_yuan > certified_bound_yuan(problem, plan, plan.certificate.leaves)


def test_a_plan_that_splits_classes_is_not_proven_by_prices_of_whole_ones():
    problem = a_facility()
    whole = solve_single_source(problem, WorkLimits()).plan.certificate
    split = solve_plan(problem)
    assert whole is not None and (split.running_count % 1 > 0).any()
    rules = {v.rule for v in verify_proof(problem, dataclasses.replace(split, certificate=whole))}
    assert "whole_classes" in rules


@pytest.mark.parametrize("scale", [10.0**n for n in range(8, 25, 2)])
def test_no_prices_are_large_enough_to_prove_by_rounding(scale):
    """One site that holds everything: any prices prove its cost, off by thousands where they add up to 1e20 yuan."""
    problem = a_facility(1, 40)
    plan = solve_single_source(problem, WorkLimits()).plan
    rng = np.random.default_rng(7)
    for _ in range(20):
        prices = scale * rng.uniform(0.5, 1.0, problem.class_count)
        assert whole_bound_yuan(problem, usable_pairs(problem), prices) <= plan.objective_yuan


def test_prices_of_some_columns_alone_are_not_what_certifies(monkeypatch):
    monkeypatch.setattr("solvers.single_source.EASY_PAIRS", 0)
    # the root of a tree on struck-out columns has prices at which the others would be taken: they prove next to nothing
    plan = solve_single_source(a_facility(20, 60, ratio=8.0, seed=1), WorkLimits()).plan
    own = plan.bound("fleet")
    assert own is not None and own.bound_yuan is not None and plan.certificate is not None
    assert 0.9 * own.bound_yuan < plan.certificate.bound_yuan <= own.bound_yuan + 1e-6


def test_a_certificate_survives_its_file_and_is_checked_there(tmp_path):
    problem = a_facility()
    plan = solve_single_source(problem, WorkLimits(ascent_steps=20, integer_nodes=20, improve_rounds=1)).plan
    problem.save(tmp_path / "a.problem")
    plan.save(tmp_path / "a.problem.plan")
    loaded = PlanSolution.load(tmp_path / "a.problem.plan")
    assert loaded.to_bytes() == plan.to_bytes()
    assert verify_proof(PlacementProblem.load(tmp_path / "a.problem"), loaded) == []


def test_a_proof_for_whole_classes_is_refused_where_it_does_not_apply():
    problem = a_facility()
    plan = solve_single_source(problem, WorkLimits(ascent_steps=20, integer_nodes=20, improve_rounds=1)).plan
    assert misfits(problem, plan) == []
    free = dataclasses.replace(
        problem,
        classes=dataclasses.replace(
            problem.classes, unserved_yuan_per_replica_h=np.zeros(problem.class_count)
        ),
    )
    elsewhere = dataclasses.replace(plan, problem_sha256=free.content_hash())
    assert [v.subject for v in verify_proof(free, elsewhere) if v.rule == "whole_classes"] == [
        "classes that may be left out for free"
    ]
    uncertified = solve_single_source(free, WorkLimits(ascent_steps=20, integer_nodes=20, improve_rounds=1))
    assert uncertified.plan.certificate is None
    paid = dataclasses.replace(problem.sites, price_yuan_per_kwh=-1.0 - problem.sites.price_yuan_per_kwh)
    assert misfits(dataclasses.replace(problem, sites=paid), plan) == ["energy that pays"]
