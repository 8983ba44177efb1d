"""Stage graphs as patterns: one place per stage, every flow and path budget checked beforehand.

Folding a graph's stages into independent classes would lose its paths, so the plan counts graphs per *pattern*. A
stage's *option* is a site and the processing p99 it has there (GPU models of one site differ); where no path budget
runs over the stage, processing does not matter and the option is the site alone.

1. `stage_options`: the options of each stage of a graph
2. `valid_patterns`: every pattern that obeys flows, colocation, fixed stages and path budgets, stage by stage
3. `best_patterns`: the cheapest patterns for given prices of options, exactly

Whole twins are placed by `solvers.twins`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.problem import Graph, PlacementProblem
from solvers.solution import GraphPattern

GB_PER_H_PER_MBPS = 3600.0 / 8 / 1000
PATTERN_LIMIT = 400_000  # rows of a frontier: 16 sites and 4 stages give 65 536; 13 MB at 4 stages


@dataclass(frozen=True, eq=False)
class StageOptions:
    """Options of one stage: [O] site and processing; `pair_option[k]` is the option of pair k, −1: none."""

    site: IntArray
    processing_ms: FloatArray
    pair_option: IntArray
    is_fixed: bool


@dataclass(frozen=True, eq=False)
class Patterns:
    """[N, stages] option index per stage; `is_complete`: no valid pattern was left out."""

    option: IntArray
    is_complete: bool


def stage_options(problem: PlacementProblem, graph: Graph, passes: BoolArray) -> tuple[StageOptions, ...]:
    """Options of every stage, from the pairs that `passes` lets through; sorted by site, then processing."""
    budgeted = {stage for path in graph.paths for stage in path.via if stage >= 0}
    options = []
    for stage, class_index in enumerate(graph.stage_class):
        of_class = np.flatnonzero(problem.pairs.class_index == class_index)
        fixed = graph.fixed_site[stage] if graph.fixed_site else -1
        if fixed < 0:
            of_class = of_class[passes[of_class]]
        else:
            of_class = of_class[problem.pair_site[of_class] == fixed]
        processing = (
            problem.pairs.processing_p99_ms[of_class] if stage in budgeted else np.zeros(len(of_class))
        )
        known = ~np.isnan(processing)
        of_class, processing = of_class[known], processing[known]
        if fixed >= 0:  # where exactly a shared stage runs is not ours: take its slowest
            slowest = processing.max(initial=0.0)
            nothing = np.full(problem.pair_count, -1)
            options.append(StageOptions(np.array([fixed]), np.array([slowest]), nothing, True))
            continue
        keys, inverse = np.unique(
            np.stack([problem.pair_site[of_class], processing]), axis=1, return_inverse=True
        )
        pair_option = np.full(problem.pair_count, -1)
        pair_option[of_class] = np.ravel(inverse)
        options.append(StageOptions(keys[0].astype(np.int64), keys[1], pair_option, False))
    return tuple(options)


def valid_patterns(
    problem: PlacementProblem,
    graph: Graph,
    options: Sequence[StageOptions],
    *,
    max_sites: int | None = None,
    limit: int = PATTERN_LIMIT,
) -> Patterns:
    """All patterns on at most `max_sites` sites, built stage by stage; every partial one that breaks a rule is cut.

    When a frontier would exceed `limit`, the search is repeated with fewer sites and the result is not complete.
    """
    stages = len(options)
    ceiling = stages if max_sites is None else max_sites
    for sites in range(ceiling, 0, -1):
        found = _grow(problem, graph, options, sites, limit)
        if found is not None:
            return Patterns(found, is_complete=sites == ceiling)
    return Patterns(np.zeros((0, stages), dtype=np.int64), is_complete=False)


def _grow(
    problem: PlacementProblem, graph: Graph, options: Sequence[StageOptions], max_sites: int, limit: int
) -> IntArray | None:
    frontier = np.zeros((1, 0), dtype=np.int64)
    for stage, option in enumerate(options):
        count = len(option.site)
        if len(frontier) * count > limit:
            return None
        frontier = np.hstack(
            [np.repeat(frontier, count, axis=0), np.tile(np.arange(count), len(frontier))[:, None]]
        )
        frontier = frontier[_keeps_rules(problem, graph, options, frontier, stage, max_sites)]
    return frontier


def _keeps_rules(
    problem: PlacementProblem,
    graph: Graph,
    options: Sequence[StageOptions],
    frontier: IntArray,
    last: int,
    max_sites: int,
) -> BoolArray:
    """Rules that stages 0..last decide alone; a path also counts the least its later stages can add."""
    site = np.stack([options[i].site[frontier[:, i]] for i in range(last + 1)], axis=1)
    keeps = np.ones(len(frontier), dtype=bool)
    for flow in graph.flows:
        if max(flow.from_stage, flow.to_stage) == last and flow.rtt_p99_max_ms is not None:
            rtt = problem.network.site_rtt_p99_ms[site[:, flow.from_stage], site[:, flow.to_stage]]
            keeps &= rtt <= flow.rtt_p99_max_ms
    for a, b in graph.colocate:
        if max(a, b) == last:
            keeps &= site[:, a] == site[:, b]
    for path in graph.paths:
        keeps &= _path_ms(problem, options, frontier, site, path.via, last) <= path.budget_ms
    if max_sites <= last:
        ordered = np.sort(site, axis=1)
        keeps &= (np.diff(ordered, axis=1) != 0).sum(axis=1) + 1 <= max_sites
    return keeps


def _path_ms(
    problem: PlacementProblem,
    options: Sequence[StageOptions],
    frontier: IntArray,
    site: IntArray,
    via: Sequence[int],
    last: int,
) -> FloatArray:
    """Latency of a path so far: hops between known ends, processing of known stages, least processing of others."""
    total = np.zeros(len(frontier))
    for hop in via:
        if hop < 0:
            continue
        if hop <= last:
            total += options[hop].processing_ms[frontier[:, hop]]
        else:
            total += options[hop].processing_ms.min(initial=np.inf)
    for a, b in pairwise(via):
        if max(a, b) > last or (a < 0 and b < 0):
            continue
        if a >= 0 and b >= 0:
            total += problem.network.site_rtt_p99_ms[site[:, a], site[:, b]]
        else:
            leg, stage = (-1 - a, b) if a < 0 else (-1 - b, a)
            total += problem.network.leg_rtt_p99_ms[leg, site[:, stage]]
    return np.where(np.isnan(total), np.inf, total)


def transfer_yuan_per_h(
    problem: PlacementProblem, graph: Graph, options: Sequence[StageOptions], patterns: IntArray
) -> FloatArray:
    """[N] price of the traffic between stages on different sites, for one graph and hour."""
    total = np.zeros(len(patterns))
    for flow in graph.flows:
        a = options[flow.from_stage].site[patterns[:, flow.from_stage]]
        b = options[flow.to_stage].site[patterns[:, flow.to_stage]]
        total += np.where(
            a == b, 0.0, problem.network.transfer_yuan_per_gb[a, b] * flow.mbps * GB_PER_H_PER_MBPS
        )
    return total


def patterns_transfer_yuan(problem: PlacementProblem, patterns: Sequence[GraphPattern]) -> float:
    """Price of the traffic between stages on different sites over the horizon, for counted patterns."""
    total = 0.0
    for pattern in patterns:
        hours = float(np.asarray(pattern.count) @ problem.slots.hours)
        for flow in problem.graphs[pattern.graph_index].flows:
            a, b = pattern.stage_site[flow.from_stage], pattern.stage_site[flow.to_stage]
            if a != b:
                per_gb = float(problem.network.transfer_yuan_per_gb[a, b])
                total += per_gb * flow.mbps * GB_PER_H_PER_MBPS * hours
    return total


def pattern_cost(option_cost: Sequence[FloatArray], patterns: IntArray) -> FloatArray:
    """[N] sum of the stages' option costs."""
    total = np.zeros(len(patterns))
    for stage, cost in enumerate(option_cost):
        total += cost[patterns[:, stage]]
    return total


def best_patterns(
    problem: PlacementProblem,
    graph: Graph,
    options: Sequence[StageOptions],
    option_cost: Sequence[FloatArray],
    *,
    keep: int = 1,
    patterns: Patterns | None = None,
) -> tuple[IntArray, FloatArray]:
    """The `keep` cheapest patterns and their costs, transfer included, for one graph and hour.

    Exact over `patterns` (default: all valid ones); ties go to the pattern that comes first in order of options.
    """
    known = valid_patterns(problem, graph, options) if patterns is None else patterns
    cost = pattern_cost(option_cost, known.option) + transfer_yuan_per_h(
        problem, graph, options, known.option
    )
    order = np.argsort(cost, kind="stable")[:keep]
    return known.option[order], cost[order]
