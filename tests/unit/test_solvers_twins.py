"""Whole twins, shared stages and the re-placement of one stage, against brute force."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from benchmarks.pipelines import brute_force, greedy_whole, small_town, stage_greedy, twin_city
from solvers.candidates import candidates
from solvers.pipelines import replace_stage, stage_options, valid_patterns
from solvers.plan_model import solve_plan
from solvers.twins import SharedStage, place_shared, whole_twins, with_shared_at
from solvers.verify import verify_plan
from tests.unit.test_solvers_pipelines import STAGES, random_graph_problem


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
def test_a_shared_stage_lies_where_all_its_twins_together_cost_least(seed):
    problem = small_town(seed)
    shared = SharedStage(owner=(0, 0), sharers=((1, 0),))
    found = place_shared(problem, shared, solve_plan)
    assert found is not None
    best = min(brute_force(with_shared_at(problem, shared, s)) for s in range(problem.site_count))
    here = brute_force(with_shared_at(problem, shared, found.site))
    assert here[0] == pytest.approx(best[0], abs=1e-6)
    assert here[1] <= best[1] * 1.01
    assert verify_plan(found.problem, found.plan) == []
    for pattern in found.plan.graph_patterns:
        assert pattern.stage_site[0] == found.site, "owner and sharer use one store"


def test_a_shared_stage_takes_room_once():
    problem = small_town(1)
    found = place_shared(problem, SharedStage((0, 0), ((1, 0),)), solve_plan)
    assert found is not None
    sharer = problem.graphs[1].stage_class[0]
    assert found.plan.running_count[problem.pairs.class_index == sharer].max(initial=0.0) == 0.0


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


@pytest.mark.parametrize("seed", range(25))
def test_one_stage_leaves_and_as_few_others_as_can_be(seed):
    """Against every valid pattern: fewest moved stages, then least cost; the others keep all their rules."""
    problem = random_graph_problem(seed)
    graph = dataclasses.replace(problem.graphs[0], fixed_site=())
    options = stage_options(problem, graph, candidates(problem).passes)
    patterns = valid_patterns(problem, graph, options).option
    if not len(patterns):
        return
    rng = np.random.default_rng(seed)
    cost = [rng.uniform(0, 10, len(o.site)) for o in options]
    now = patterns[int(rng.integers(len(patterns)))]
    for stage in range(STAGES):
        found = replace_stage(problem, graph, options, cost, now, stage)
        ranked = sorted(
            (
                sum(int(row[i] != now[i]) for i in range(STAGES) if i != stage),
                sum(float(cost[i][row[i]]) for i in range(STAGES)),
                tuple(int(o) for o in row),
            )
            for row in patterns
            if row[stage] != now[stage]
        )
        if not ranked:
            assert found is None
            continue
        assert found is not None
        assert found.option == ranked[0][2]
        assert stage in found.moved
        assert len(found.moved) == 1 + ranked[0][0]
        before = sum(float(cost[i][now[i]]) for i in range(STAGES))
        assert found.extra_yuan == pytest.approx(ranked[0][1] - before)


def test_a_stage_without_another_place_says_so():
    problem = random_graph_problem(2)
    graph = problem.graphs[0]
    options = stage_options(problem, graph, candidates(problem).passes)
    patterns = valid_patterns(problem, graph, options).option
    cost = [np.zeros(len(o.site)) for o in options]
    for row, stage in itertools.product(patterns[:1], range(STAGES)):
        nowhere = [
            np.where(np.arange(len(c)) == row[i], c, np.inf) if i == stage else c for i, c in enumerate(cost)
        ]
        assert replace_stage(problem, graph, options, nowhere, row, stage) is None
