"""Whole twins, and plans around a stage that twins share, against brute force."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.pipelines import (
    brute_force,
    greedy_whole,
    small_town,
    stage_greedy,
    twin_city,
    with_store_at,
)
from solvers.plan_model import solve_plan
from solvers.twins import whole_twins
from solvers.verify import verify_plan


@pytest.mark.parametrize("seed", range(8))
def test_whole_twins_serve_as_many_as_brute_force_and_cost_next_to_nothing_more(seed):
    problem = small_town(seed)
    unserved, cost = brute_force(problem)
    plan = solve_plan(problem)
    whole = whole_twins(problem, plan)
    assert verify_plan(problem, whole) == []
    assert all(n == round(n) for pattern in whole.graph_patterns for n in pattern.count)
    assert whole.cost.unserved_yuan == pytest.approx(unserved, abs=1e-6)
    assert whole.cost.total_yuan - whole.cost.unserved_yuan <= cost * 1.02
    assert plan.certificate is not None
    if plan.cost.unserved_yuan >= unserved - 1e-6:
        assert plan.certificate.bound_yuan <= cost * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_twins_are_planned_around_a_shared_stage_wherever_it_lies(seed):
    town = small_town(seed)
    for site in range(town.site_count):
        problem = with_store_at(town, site)
        unserved, cost = brute_force(problem)
        plan = solve_plan(problem)
        assert verify_plan(problem, plan) == []
        for pattern in plan.graph_patterns:
            assert pattern.stage_site[0] == site, "owner and sharer use one store"
        assert plan.certificate is not None
        assert plan.cost.unserved_yuan <= unserved + 1e-6
        if plan.cost.unserved_yuan >= unserved - 1e-6:
            assert plan.certificate.bound_yuan <= cost * (1 + 1e-9)


def test_a_shared_stage_takes_room_once():
    problem = with_store_at(small_town(1), 0)
    plan = solve_plan(problem)
    sharer = problem.graphs[1].stage_class[0]
    assert plan.running_count[problem.pairs.class_index == sharer].max(initial=0.0) == 0.0


def test_a_city_is_served_at_least_as_well_as_by_the_greedies():
    problem = twin_city(8, 6, 60, seed=4)
    plan = solve_plan(problem)
    ours = whole_twins(problem, plan)
    assert verify_plan(problem, ours) == []
    for other in (greedy_whole(problem), stage_greedy(problem)):
        assert verify_plan(problem, other) == []
        assert ours.cost.total_yuan <= other.cost.total_yuan * 1.005


def test_whole_twins_need_whole_numbers_and_steady_nodes():
    problem = small_town(0)
    half = dataclasses.replace(
        problem, graphs=(dataclasses.replace(problem.graphs[0], count=(0.5,)), *problem.graphs[1:])
    )
    with pytest.raises(ValueError, match="one whole number"):
        whole_twins(half, solve_plan(half))
