"""What must hold of every bulk plan, re-plan and plan in parts: the verifier agrees, nodes hold what they carry, the
bound bounds, and one problem has one answer.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solvers.archive import IntArray
from solvers.bulk import BulkPlan, greedy_bulk, solve_bulk
from solvers.bulk_bound import lower_bound
from solvers.bulk_model import build, bulk_sets
from solvers.bulk_rows import BookedRows
from solvers.decompose import solve_large
from solvers.linear import LpLimits, LpStatus, solve
from solvers.node_fill import Booked, FleetState, by_island, first_fit, spread, whole_gangs
from solvers.problem import GPU_MILLI, PlacementProblem
from solvers.replan import Repricer, replan
from solvers.verify import verify_move_budget, verify_placements, verify_plan
from tests.bulk_towns import bulk_town
from tests.plan_problems import Town

some_towns = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
seeds = st.integers(0, 10**6)


def assert_sound(problem: PlacementProblem, plan: BulkPlan) -> None:
    """Nothing for the verifier to find, in the plan and on the nodes, and both say the same."""
    placements = plan.placements
    assert [*verify_plan(problem, plan.solution), *verify_placements(problem, placements)] == []
    key = placements.class_index * problem.group_count + placements.group_index
    pair = problem.pairs.class_index * problem.group_count + problem.pairs.group_index
    size = problem.class_count * problem.group_count
    planned = np.bincount(pair, weights=plan.solution.running_count[:, 0], minlength=size)
    np.testing.assert_array_equal(np.bincount(key, minlength=size), planned)


def assert_bounded(plan: BulkPlan) -> None:
    (bound,) = plan.solution.bounds
    assert bound.objective_yuan == plan.solution.objective_yuan
    assert bound.bound_yuan is not None and bound.bound_yuan <= bound.objective_yuan


@some_towns
@given(seeds)
def test_every_plan_holds_every_rule_and_its_bound(seed):
    problem = bulk_town(seed)
    plan = solve_bulk(problem)
    assert_sound(problem, plan)
    assert_bounded(plan)


@some_towns
@given(seeds)
def test_every_greedy_plan_holds_every_rule(seed):
    problem = bulk_town(seed)
    plan = greedy_bulk(problem)
    assert_sound(problem, plan)
    assert plan.solution.bounds == ()


@some_towns
@given(seeds)
def test_one_problem_planned_twice_gives_the_same_plan(seed):
    problem = bulk_town(seed)
    first, second = solve_bulk(problem), solve_bulk(problem)
    assert first.placements.gpu_ids == second.placements.gpu_ids
    np.testing.assert_array_equal(first.placements.node_index, second.placements.node_index)
    assert first.solution.objective_yuan == second.solution.objective_yuan


@settings(some_towns, max_examples=15)
@given(seeds)
def test_a_plan_in_parts_holds_every_rule_of_the_whole_and_is_the_same_every_time(seed):
    problem = bulk_town(seed, sites=8, scale=3)
    large = solve_large(problem, part_sites=2)
    assert_sound(problem, large.plan)
    assert_bounded(large.plan)
    again = solve_large(problem, part_sites=2)
    np.testing.assert_array_equal(large.plan.placements.node_index, again.plan.placements.node_index)
    assert large.plan.solution.objective_yuan == again.plan.solution.objective_yuan


@some_towns
@given(seeds)
def test_no_duals_whatever_prove_more_than_the_program_costs(seed):
    program_model = build(bulk_sets(bulk_town(seed)))
    program = program_model.lp.program()
    optimum = solve(program, LpLimits())
    assert optimum.status is LpStatus.OPTIMAL
    slack = 1e-6 * (1 + abs(optimum.objective))
    best = lower_bound(program_model, program, optimum.duals)
    assert abs(best - optimum.objective) <= slack
    noise = np.random.default_rng(seed).normal(0.0, 5.0, (5, len(optimum.duals)))
    for duals in (*noise, *(optimum.duals + 0.01 * noise), 0 * noise[0]):
        assert lower_bound(program_model, program, duals) <= optimum.objective + slack


@some_towns
@given(seeds)
def test_a_plan_carried_over_a_change_is_as_sound_as_a_new_one(seed):
    rng = np.random.default_rng(seed)
    problem = bulk_town(seed, scale=2)
    plan = solve_bulk(problem)
    for _ in range(3):
        problem = _changed(problem, plan, rng)
        plan = replan(plan, problem)
        assert_sound(problem, plan)
        assert_bounded(plan)


@some_towns
@given(seeds, st.integers(0, 6))
def test_no_more_replicas_change_group_than_the_budget_allows(seed, budget):
    """Running work under new prices, whose old place still holds it: every move is one that nobody needs.

    Of fleets that have room for all: service comes before the budget, so where work waits moves may make room.
    """
    first = _with_a_tenth_of_the_work(bulk_town(seed, scale=2))
    plan = solve_bulk(first)
    before = plan.solution.running_count[:, 0]
    if plan.solution.unserved_count.any():
        return
    rng = np.random.default_rng(seed)
    dearer = first.sites.price_yuan_per_kwh * rng.uniform(0.1, 10.0, (first.site_count, 1))
    problem = dataclasses.replace(
        first,
        sites=dataclasses.replace(first.sites, price_yuan_per_kwh=dearer),
        pairs=dataclasses.replace(first.pairs, running_count=before),
        terms=dataclasses.replace(first.terms, move_budget_count=float(budget)),
    )
    again = solve_bulk(problem)
    assert_sound(problem, again)
    assert verify_move_budget(problem, again.solution) == []


def _with_a_tenth_of_the_work(problem: PlacementProblem) -> PlacementProblem:
    """Candidates of every class as they are, whole gangs; classes without candidates are not wanted."""
    possible = np.zeros(problem.class_count)
    np.add.at(possible, problem.pairs.class_index[bulk_sets(problem).pair], 1.0)
    gang = problem.classes.gang_size
    gangs = np.where(possible > 0, np.ceil(problem.classes.demand_count[:, 0] / 10 / gang), 0.0)
    tenth = np.asarray(gangs * gang, dtype=float)
    return dataclasses.replace(
        problem, classes=dataclasses.replace(problem.classes, demand_count=tenth[:, None])
    )


@some_towns
@given(seeds)
def test_a_replan_with_fresh_prices_proves_more_and_a_spent_budget_forbids_to_improve(seed):
    rng = np.random.default_rng(seed)
    first = bulk_town(seed, scale=2)
    problem = dataclasses.replace(first, terms=dataclasses.replace(first.terms, move_budget_count=0.0))
    plan = solve_bulk(problem)
    if not plan.solution.bounds:
        return  # no program could be solved: there are no prices to renew
    one, other = Repricer(plan), Repricer(plan)
    for _ in range(3):
        problem = _changed(problem, plan, rng)
        aged, renewed = replan(plan, problem), replan(plan, problem, one)
        bounds = [p.relaxation.bound_yuan for p in (aged, renewed)]
        assert bounds[0] is not None and bounds[1] is not None and bounds[1] >= bounds[0]
        plan = replan(plan, problem, other, most_moves=50)
        assert_sound(problem, plan)
        assert_bounded(plan)
        np.testing.assert_array_equal(plan.solution.running_count, renewed.solution.running_count)


@some_towns
@given(seeds)
def test_a_replan_that_improves_is_as_sound_as_any(seed):
    rng = np.random.default_rng(seed)
    problem = bulk_town(seed, scale=2)
    plan = solve_bulk(problem)
    repricer = Repricer(plan)
    for _ in range(3):
        problem = _changed(problem, plan, rng)
        plan = replan(plan, problem, repricer, most_moves=50)
        assert_sound(problem, plan)
        assert_bounded(plan)


def _changed(problem: PlacementProblem, plan: BulkPlan, rng: np.random.Generator) -> PlacementProblem:
    """Some replicas come and go (whole gangs), some nodes fail or return."""
    gang = problem.classes.gang_size
    step = rng.integers(-3, 4, problem.class_count) * gang
    demand = np.maximum(problem.classes.demand_count[:, 0] + step, 0.0)
    nodes = np.maximum(problem.groups.node_count[:, 0] + rng.integers(-2, 2, problem.group_count), 0)
    return dataclasses.replace(
        problem,
        classes=dataclasses.replace(problem.classes, demand_count=demand[:, None]),
        groups=dataclasses.replace(problem.groups, node_count=nodes[:, None]),
        pairs=dataclasses.replace(problem.pairs, running_count=plan.solution.running_count[:, 0]),
    )


# -- nodes ---------------------------------------------------------------------------------------------------------


def one_by_one(fleet: FleetState, node: int, need: IntArray) -> int:
    """How often a need goes onto a node, tried on copies of its free resources device by device."""
    free, device = fleet.free[node].copy(), fleet.device[node].copy()
    count = 0
    while count < 10**4:
        gpu = int(need[GPU_MILLI])
        if (free < need).any():
            break
        if 0 < gpu < 1000:
            room = np.flatnonzero(device >= gpu)
            if not len(room):
                break
            device[room[0]] -= gpu
        elif gpu:
            idle = np.flatnonzero(device == 1000)
            if len(idle) < gpu // 1000:
                break
            device[idle[: gpu // 1000]] = 0
        free -= need
        count += 1
    return count


needs = st.builds(
    lambda cpu, memory, gpu: np.array([cpu, memory, gpu, 1]),
    st.integers(1, 9000),
    st.integers(1, 30_000),
    st.sampled_from([0, 0, 100, 300, 600, 810, 1000, 2000, 4000]),
)


@some_towns
@given(st.lists(st.tuples(needs, st.integers(0, 6)), min_size=1, max_size=8), needs)
def test_what_fits_is_what_fits_one_by_one_and_giving_back_undoes(booked, asked):
    problem = Town().site("a").group("a/g", "a", node_count=3, cpu=32, gpus=4).work("w", demand=1.0).problem()
    fleet = FleetState.empty(problem)
    nodes, rows = np.arange(3), []
    for need, wanted in booked:
        each = np.tile(need, (3, 1))
        fit = fleet.fit(nodes, each)
        take = first_fit(np.zeros(3, dtype=np.int64), fit, np.array([wanted]))
        assert (take <= fit).all() and take.sum() == min(wanted, int(fit.sum()))
        rows.append((fleet.commit(nodes, each, take, np.zeros(3, dtype=np.int64)), need))
        assert (fleet.free >= 0).all() and (fleet.device >= 0).all()
    expected = [one_by_one(fleet, node, asked) for node in range(3)]
    assert fleet.fit(nodes, np.tile(asked, (3, 1))).tolist() == expected
    for part, need in rows:
        fleet.give_back(part, np.tile(need, (len(part), 1)))
    empty = FleetState.empty(problem)
    np.testing.assert_array_equal(fleet.free, empty.free)
    np.testing.assert_array_equal(fleet.device, empty.device)


@some_towns
@given(seeds)
def test_a_count_is_divided_within_what_fits_and_in_full_where_there_is_room(seed):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 4))
    row = np.sort(rng.integers(0, rows, int(rng.integers(rows, 15))))
    fit, wanted = rng.integers(0, 9, len(row)), rng.integers(0, 40, rows)
    load, step = rng.random(len(row)), rng.uniform(0.01, 0.3, rows)[row]
    room = np.minimum(np.bincount(row, weights=fit, minlength=rows), wanted)
    for take in (first_fit(row, fit, wanted), spread(row, fit, wanted, load, step)):
        assert (take >= 0).all() and (take <= fit).all()
        np.testing.assert_array_equal(np.bincount(row, weights=take, minlength=rows), room)


@some_towns
@given(seeds)
def test_gangs_are_taken_whole_and_islands_are_not_left(seed):
    rng = np.random.default_rng(seed)
    rows, count = 2, 12
    row = np.repeat(np.arange(rows), count)
    island = np.concatenate([np.arange(count) // 3, 10 + np.arange(count) // 4])
    fit, gang = rng.integers(0, 4, len(row)), rng.integers(1, 5, rows)
    wanted = rng.integers(0, 6, rows) * gang
    whole = whole_gangs(row, first_fit(row, fit, wanted), gang)
    inside = by_island(row, island, fit, wanted, gang)
    for take in (whole, inside):
        assert (take >= 0).all() and (take <= fit).all()
        total = np.bincount(row, weights=take, minlength=rows)
        assert (total <= wanted).all() and (total % gang == 0).all()
    in_island = np.bincount(island, weights=inside)
    of_island = np.zeros(len(in_island), dtype=int)
    of_island[island] = gang[row]
    assert all(n % g == 0 for n, g in zip(in_island, of_island, strict=True) if g)


@some_towns
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=12), seeds)
def test_rows_kept_in_place_are_those_that_a_list_would_hold(steps, seed):
    """Rows come and go in any order; copies do not follow."""
    rng = np.random.default_rng(seed)
    rows, kept = BookedRows(), list[tuple[int, ...]]()
    for is_added, size in steps:
        before, held = rows.copy(), list(kept)
        if is_added:
            booked = Booked(*rng.integers(0, 5, (4, size)))
            rows.add(booked)
            kept += listed(booked)
        else:
            marked = rng.random(len(kept)) < size / 30
            now = listed(rows.view())
            gone = listed(rows.take_out(marked))
            assert gone == [row for row, is_out in zip(now, marked, strict=True) if is_out]
            kept = [row for row, is_out in zip(now, marked, strict=True) if not is_out]
        assert sorted(listed(rows.view())) == sorted(kept)
        assert sorted(listed(before.view())) == sorted(held)


def listed(booked: Booked) -> list[tuple[int, ...]]:
    columns = (booked.pair, booked.node, booked.device_mask, booked.gang)
    return list(zip(*(c.tolist() for c in columns), strict=True))
