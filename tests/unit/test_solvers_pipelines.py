"""Stage graphs as patterns, against brute force over every choice of sites."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from solvers.candidates import candidates
from solvers.pipelines import best_patterns, stage_options, transfer_yuan_per_h, valid_patterns
from solvers.problem import Graph, GraphFlow, GraphPath, PlacementProblem
from tests.plan_problems import Town

STAGES = 3


def random_graph_problem(seed: int) -> PlacementProblem:
    """Four sites at random distances, three stages with flows, a path and sometimes colocation or a fixed stage."""
    rng = np.random.default_rng(seed)
    town = Town(leg_rtt_ms={"z/pon": {f"s{i}": float(rng.uniform(1, 8)) for i in range(4)}})
    for i in range(4):
        town.site(f"s{i}", labels={"kind": str(rng.choice(["a", "b"]))}).group(f"s{i}/g", f"s{i}")
        for j in range(i):
            town.site_rtts[(f"s{i}", f"s{j}")] = float(rng.uniform(0.2, 6))
    for stage in range(STAGES):
        anywhere = rng.random() < 0.7
        town.work(
            f"stage{stage}",
            processing_ms=float(rng.uniform(1, 6)),
            require_any=() if anywhere else ({"kind": "a"},),
        )
    town.graphs.append(
        Graph(
            "twin",
            (1.0,),
            tuple(range(STAGES)),
            (1, 2, 1),
            (
                GraphFlow(0, 1, 50.0, float(rng.uniform(1, 6))),
                GraphFlow(1, 2, 20.0, float(rng.uniform(1, 6))),
            ),
            (GraphPath((-1, 0, 1, 2, -1), float(rng.uniform(15, 40))),),
            ((0, 2),) if rng.random() < 0.3 else (),
            (-1, 2, -1) if rng.random() < 0.3 else (),
        )
    )
    return town.problem()


def brute_force(problem: PlacementProblem, graph: Graph) -> set[tuple[int, ...]]:
    """Every valid choice of sites, each rule spelled out."""
    passes = candidates(problem).passes
    may = [
        {int(s) for s in problem.pair_site[(problem.pairs.class_index == c) & passes]}
        for c in graph.stage_class
    ]
    ms = {c: problem.pairs.processing_p99_ms[problem.pairs.class_index == c][0] for c in graph.stage_class}
    rtt, leg = problem.network.site_rtt_p99_ms, problem.network.leg_rtt_p99_ms[0]
    found = set()
    for sites in itertools.product(range(problem.site_count), repeat=STAGES):
        fixed = graph.fixed_site or (-1,) * STAGES
        ok = all(s in may[i] or fixed[i] == s for i, s in enumerate(sites))
        ok &= all(f in (-1, s) for f, s in zip(fixed, sites, strict=True))
        ok &= all(rtt[sites[f.from_stage], sites[f.to_stage]] <= f.rtt_p99_max_ms for f in graph.flows)
        ok &= all(sites[a] == sites[b] for a, b in graph.colocate)
        total = leg[sites[0]] + rtt[sites[0], sites[1]] + rtt[sites[1], sites[2]] + leg[sites[2]]
        if ok and total + sum(ms.values()) <= graph.paths[0].budget_ms:
            found.add(sites)
    return found


@pytest.mark.parametrize("seed", range(25))
def test_patterns_are_exactly_the_valid_choices_of_sites(seed):
    problem = random_graph_problem(seed)
    graph = problem.graphs[0]
    options = stage_options(problem, graph, candidates(problem).passes)
    patterns = valid_patterns(problem, graph, options)
    found = {tuple(int(o.site[i]) for o, i in zip(options, row, strict=True)) for row in patterns.option}
    assert found == brute_force(problem, graph)
    assert patterns.is_complete


@pytest.mark.parametrize("seed", range(10))
def test_the_best_pattern_is_the_cheapest_of_all(seed):
    problem = random_graph_problem(seed)
    graph = problem.graphs[0]
    options = stage_options(problem, graph, candidates(problem).passes)
    rng = np.random.default_rng(seed)
    cost = [rng.uniform(0, 10, len(o.site)) for o in options]
    every = valid_patterns(problem, graph, options).option
    best, best_cost = best_patterns(problem, graph, options, cost, keep=2)
    priced = sorted(
        sum(float(cost[i][row[i]]) for i in range(STAGES))
        + float(transfer_yuan_per_h(problem, graph, options, row[None])[0])
        for row in every
    )
    assert best_cost == pytest.approx(priced[:2])
    assert len(best) == min(2, len(every))


def test_at_most_two_sites_means_at_most_two():
    problem = random_graph_problem(3)
    graph = problem.graphs[0]
    options = stage_options(problem, graph, candidates(problem).passes)
    some = valid_patterns(problem, graph, options, max_sites=2)
    assert all(len({int(o.site[i]) for o, i in zip(options, row, strict=True)}) <= 2 for row in some.option)


def test_a_frontier_too_large_is_cut_to_fewer_sites_and_says_so():
    town = Town()
    for i in range(6):
        town.site(f"s{i}").group(f"s{i}/g", f"s{i}")
    for stage in range(STAGES):
        town.work(f"stage{stage}")
    town.graphs.append(Graph("twin", (1.0,), (0, 1, 2), (1, 1, 1)))
    problem = town.problem()
    options = stage_options(problem, problem.graphs[0], candidates(problem).passes)
    assert len(valid_patterns(problem, problem.graphs[0], options).option) == 6**3
    few = valid_patterns(problem, problem.graphs[0], options, limit=100)
    assert not few.is_complete
    assert len(few.option) == 6


def test_gpu_models_of_one_site_are_different_options_where_a_path_counts_them():
    town = Town(leg_rtt_ms={"z/pon": {"s": 1.0}})
    town.site("s").group("fast", "s").group("slow", "s", gpu_model="t4").work(
        "stage", gpu={"l20": 1, "t4": 1}
    )
    graph = Graph("twin", (1.0,), (0,), (1,), paths=(GraphPath((-1, 0), 12.0),))
    town.graphs.append(graph)
    problem = town.problem()
    pairs = problem.pairs
    problem = dataclasses.replace(
        problem, pairs=dataclasses.replace(pairs, processing_p99_ms=np.array([10.0, 16.0]))
    )
    options = stage_options(problem, graph, candidates(problem).passes)
    assert options[0].processing_ms.tolist() == [10.0, 16.0]
    assert valid_patterns(problem, graph, options).option.tolist() == [[0]]
