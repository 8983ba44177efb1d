"""The slow model: a horizon plan with its proof.

`solve_plan` reads as the process:

1. sets        candidates, blocks, patterns of graphs
2. model       every rule as sparse rows (`plan_rules`), services as routes (`plan_master`)
3. relaxation  sites open in part, levels by weights; routes and patterns priced in; a lower bound (`plan_pricing`)
4. open sites  rounded, then branch and bound with bounds that count missing columns (`plan_search`)
5. levels      settled one by one; where work stays unserved, held while cost and bound improve (`plan_levels`)
6. plan        sites fixed: shares, nodes, prices; counted again from the plan itself (`plan_report`)

Everything is deterministic for a problem: work limits, one thread; the wall limit only aborts.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np

from solvers.archive import FloatArray, IntArray
from solvers.candidates import candidates, dominant_share
from solvers.certify import Duals, Search, with_certificate
from solvers.greedy import greedy_plan
from solvers.pipelines import (
    Patterns,
    StageOptions,
    pattern_cost,
    stage_options,
    transfer_yuan_per_h,
    valid_patterns,
)
from solvers.plan_levels import improve_at_levels, settle_levels
from solvers.plan_master import Master
from solvers.plan_pricing import (
    LEVEL_TOLERANCE,
    PlanAborted,
    PlanLimits,
    Solved,
    Work,
    broken_open_cuts,
    level_weights,
    price_in,
    solve_weighted,
    with_open_cuts,
    with_used_columns,
)
from solvers.plan_report import PlanParts, make_solution
from solvers.plan_rules import (
    LEVEL_HARD_CAPS,
    GraphModel,
    PlanModel,
    PlanOptions,
    PlanSets,
    build,
    make_sets,
)
from solvers.plan_search import OpenSites, choose_open_sites, enough_yuan
from solvers.problem import W_PER_KW, Graph, PlacementProblem
from solvers.solution import PlanSolution, SolveStatus, no_plan

__all__ = ["PlanLimits", "plan_sets", "solve_plan"]

MOST_PATTERN_COLUMNS = 20_000
"""Patterns of one graph that the model describes; more are bounded stage by stage."""


def solve_plan(
    problem: PlacementProblem,
    *,
    limits: PlanLimits | None = None,
    options: PlanOptions | None = None,
    warm_start: PlanSolution | None = None,
) -> PlanSolution:
    """Plan the horizon. Never raises for a sound problem: without a plan the status says why.

    `warm_start` is a plan for nearly the same problem; it saves work, and may decide between plans of equal cost.
    """
    limits, options = limits or PlanLimits(), options or PlanOptions()
    if not problem.site_count:
        return replace(greedy_plan(problem), method="full")  # nowhere to place anything: nothing to decide
    work = Work(limits, deadline=time.monotonic() + limits.wall_s)
    try:
        with work.clock.phase("total"):
            parts = _plan(problem, options, work, warm_start)
            solution = make_solution(parts)
            if limits.with_certificate:
                with work.clock.phase("certificate"):
                    solution = with_certificate(parts.model, parts.evidence, solution)
    except PlanAborted as aborted:
        return no_plan(problem, SolveStatus.UNKNOWN, str(aborted))
    return replace(solution, work=dict(work.counts), seconds=dict(work.clock.seconds))


def _plan(
    problem: PlacementProblem, options: PlanOptions, work: Work, warm_start: PlanSolution | None
) -> PlanParts:
    with work.clock.phase("build"):
        sets = plan_sets(problem, options, work.limits)
        model = build(sets)
        master = Master(model, model.lp.program())
        work.counts |= {
            "rows": master.base.matrix.shape[0], "columns": master.route_start + len(master.routes.unit),
            "nonzeros": master.base.matrix.nnz, "blocks": sets.block_count,
        }  # fmt: skip
    with work.clock.phase("relaxation"):
        relaxed = solve_weighted(master, work, None)
        for cut_round in range(work.limits.cut_rounds):
            # the first cuts come before any pricing, whose duals should know what an open site costs
            if cut_round:
                relaxed, _ = price_in(relaxed, master, work, until_calm=True)
            cuts = broken_open_cuts(relaxed, model, master)
            if len(cuts[0]):
                master = with_used_columns(master, work)
                relaxed, model, master = with_open_cuts(model, master, cuts, work)
        relaxed, weighted_bound = price_in(relaxed, master, work)
        work.session.remember("relaxation")
    with work.clock.phase("sites"):
        chosen, master = choose_open_sites(relaxed, weighted_bound, model, master, work, warm_start)
    with work.clock.phase("levels"):
        final, master = settle_levels(master, chosen.best, work)
    # cost + Σ weight·level ≥ weighted bound for every plan; so cost ≥ this for plans whose levels are no worse
    bound = chosen.bound_yuan - float(np.dot(level_weights(master), final.level_values))
    searches = [_search(relaxed, chosen, model, level_weights(master))]
    assert final.fixed_on is not None
    is_loose = final.objective_yuan - bound > enough_yuan(final, master, work)
    # with hard caps broken the weights are large, and so is what the certificate's true excess differs by
    if max(final.level_values) > LEVEL_TOLERANCE and (
        is_loose or final.level_values[LEVEL_HARD_CAPS] > LEVEL_TOLERANCE
    ):
        with work.clock.phase("bound"):
            improved = improve_at_levels(final, master, work)
        final, master = improved.plan, improved.master
        bound = max(bound, improved.bound_yuan)
        searches.append(Search((improved.everywhere,), ()))
        if improved.parts:
            searches.append(Search(improved.parts, ()))
    assert final.fixed_on is not None
    return PlanParts(
        model=master.model,
        master=master,
        result=final.result,
        fixed_on=final.fixed_on,
        bound_yuan=bound,
        objective_yuan=final.objective_yuan,
        evidence=tuple(searches),
    )


def _search(relaxed: Solved, chosen: OpenSites, model: PlanModel, weights: FloatArray) -> Search:
    """Duals of the leaves of the search, and those of the relaxation and of the plan, which may bound a leaf better."""

    def anywhere(solved: Solved) -> Duals:
        count = len(model.columns_of("on"))
        return Duals(solved.result.duals, weights, np.zeros(count), np.ones(count), model.sets.open_cuts)

    parts = tuple(part.proof for part in chosen.leaves) or (anywhere(relaxed),)
    return Search(parts, (anywhere(relaxed), anywhere(chosen.best)))


# -- 1. sets -----------------------------------------------------------------------------------------------------


def plan_sets(problem: PlacementProblem, options: PlanOptions, limits: PlanLimits) -> PlanSets:
    """Candidates, demand with the stages of graphs, blocks, and the first patterns."""
    passes = candidates(problem).passes
    demand = problem.classes.demand_count.copy()
    graphs = []
    for graph in problem.graphs:
        held = stage_options(problem, graph, passes)
        for c, replicas, stage in zip(graph.stage_class, graph.stage_replicas, held, strict=True):
            if not stage.is_fixed:
                demand[c] += np.array(graph.count) * replicas
        patterns = valid_patterns(problem, graph, held)
        ranked, begins = _ranked_patterns(problem, graph, held, patterns, limits.pattern_columns)
        columns = np.sort(ranked[:MOST_PATTERN_COLUMNS])
        graphs.append(GraphModel(held, patterns, columns, np.searchsorted(columns, np.sort(ranked[:begins]))))
    blocks, eras = choose_blocks(problem, demand, options), choose_eras(problem)
    return make_sets(problem, options, passes, demand, blocks, eras, tuple(graphs))


def _ranked_patterns(
    problem: PlacementProblem, graph: Graph, options: tuple[StageOptions, ...], patterns: Patterns, keep: int
) -> tuple[IntArray, int]:
    """(patterns, those on one site first, then the cheapest by energy at mean prices; how many to begin with)."""
    if not len(patterns.option):
        return np.zeros(0, dtype=np.int64), 0
    p = problem
    price = (p.sites.price_yuan_per_kwh * (1 + p.sites.loss_slope)).mean(axis=1)
    useful_kw = (dominant_share(p) * p.groups.idle_w[p.pairs.group_index] + p.pairs.dynamic_w) / W_PER_KW
    option_cost = []
    for stage, replicas in zip(options, graph.stage_replicas, strict=True):
        cost = np.full(len(stage.site), 0.0 if stage.is_fixed else np.inf)
        held = np.flatnonzero(stage.pair_option >= 0)
        np.minimum.at(cost, stage.pair_option[held], replicas * useful_kw[held] * price[p.pair_site[held]])
        option_cost.append(cost)
    site = np.stack([o.site[patterns.option[:, i]] for i, o in enumerate(options)], axis=1)
    on_one_site = (site == site[:, :1]).all(axis=1)
    transfer = transfer_yuan_per_h(problem, graph, options, patterns.option)
    cost = pattern_cost(option_cost, patterns.option) + transfer
    order = np.lexsort((cost, ~on_one_site))
    return order, min(len(order), MOST_PATTERN_COLUMNS, max(keep, int(on_one_site.sum())))


def choose_blocks(problem: PlacementProblem, demand: FloatArray, options: PlanOptions) -> IntArray:
    """[T] block of each slot: contiguous, least variation of price and demand inside, ends where nodes come or go.

    The first hour's slots are one block of their own when the horizon is long: it is what rounds will carry out.
    """
    p = problem
    wanted = max(1, math.ceil(options.blocks_per_day * float(p.slots.hours.sum()) / 24))
    features = _slot_features(p, demand)
    edges = np.append(np.searchsorted(choose_eras(p), np.arange(choose_eras(p)[-1] + 1)), p.slot_count)
    blocks = np.zeros(p.slot_count, dtype=np.int64)
    extra = max(0, wanted - (len(edges) - 1))
    cuts = set(edges.tolist()) | set(_best_cuts(features, p.slots.hours, edges, extra))
    for cut in sorted(cuts - {0, p.slot_count}):
        blocks[cut:] += 1
    return blocks


def choose_eras(problem: PlacementProblem) -> IntArray:
    """[T] era of each slot: a new one begins where nodes of some group come or go."""
    changes = (np.diff(problem.groups.node_count, axis=1) != 0).any(axis=0)
    return np.concatenate([[0], np.cumsum(changes)])


def _slot_features(p: PlacementProblem, demand: FloatArray) -> FloatArray:
    """[T,f] price per site (together as heavy as one feature) and, per priority, demand; each scaled to a peak of 1."""
    price = p.sites.price_yuan_per_kwh
    top = max(float(np.abs(price).max()), 1e-12) * math.sqrt(p.site_count)
    columns = list(price / top)
    for rank in np.unique(p.classes.priority_rank):
        total = demand[p.classes.priority_rank == rank].sum(axis=0)
        if total.max() > 0:
            columns.append(total / total.max())
    return np.stack(columns, axis=1)


def _best_cuts(features: FloatArray, hours: FloatArray, edges: IntArray, extra: int) -> list[int]:
    """Up to `extra` more cuts, one after the other, each the one that removes most variation."""
    cuts = sorted(edges.tolist())
    found: list[int] = []
    for _ in range(extra):
        gain, best = 0.0, -1
        for left, right in pairwise(cuts):
            whole = _variation(features[left:right], hours[left:right])
            for cut in range(left + 1, right):
                parts = _variation(features[left:cut], hours[left:cut]) + _variation(
                    features[cut:right], hours[cut:right]
                )
                if whole - parts > gain + 1e-12:
                    gain, best = whole - parts, cut
        if best < 0:
            break
        found.append(best)
        cuts = sorted([*cuts, best])
    return found


def _variation(features: FloatArray, hours: FloatArray) -> float:
    mean = np.average(features, axis=0, weights=hours)
    return float((hours[:, None] * (features - mean) ** 2).sum())
