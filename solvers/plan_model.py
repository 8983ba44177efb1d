"""The slow model: a horizon plan with its proof.

`solve_plan` reads as the process:

1. sets        candidates, blocks, patterns of graphs
2. model       every rule as sparse rows (`plan_rules`), services as routes (`plan_master`)
3. relaxation  sites open in part; lexicographic levels; routes and patterns priced in; a lower bound
4. open sites  rounded, improved by flips that duals do not exclude
5. plan        sites fixed: shares, nodes, prices; counted again from the plan itself (`plan_report`)

Everything is deterministic for a problem: work limits, one thread; the wall limit only aborts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from solvers import linear
from solvers.archive import FloatArray, IntArray
from solvers.candidates import candidates
from solvers.linear import Basis, LpLimits, LpResult, LpStatus, Program
from solvers.pipelines import (
    Patterns,
    StageOptions,
    pattern_cost,
    stage_options,
    transfer_yuan_per_h,
    valid_patterns,
)
from solvers.plan_master import Master, Routes
from solvers.plan_report import PlanParts, make_solution
from solvers.plan_rules import (
    LEVEL_COUNT,
    LEVEL_HARD_CAPS,
    LEVEL_OF_RANK,
    GraphModel,
    PlanModel,
    PlanOptions,
    PlanSets,
    build,
    make_sets,
    sum_over,
)
from solvers.problem import W_PER_KW, Graph, PlacementProblem
from solvers.solution import PlanSolution, SolveStatus, no_plan

# Weights of the first, weighted solve. They only guess: a level that does not come out at zero is minimised on its own.
HARD_CAP_YUAN_PER_KWH = 1e4
UNSERVED_FLOOR_YUAN_PER_KWH = 20.0
LEVEL_TOLERANCE = 1e-6
INTEGRAL = 1e-6
RUNS_PER_ROUND = 2
"""Batch columns that may join per class, slot and round of pricing."""


@dataclass(frozen=True)
class PlanLimits:
    """Work limits of one plan. `wall_s` is a safety net that aborts; it never shapes an answer."""

    lp_iterations: int = 400_000
    pricing_rounds: int = 6
    pricing_gap_frac: float = 1e-5
    """Stop pricing when missing routes and patterns can gain less than this share of the objective."""
    site_trials: int = 24
    pattern_columns: int = 200
    wall_s: float = 600.0


@dataclass
class Work:
    """Deterministic counters and, apart, wall clock by phase."""

    limits: PlanLimits
    counts: dict[str, float] = field(
        default_factory=lambda: {"lp_solves": 0, "lp_iterations": 0, "site_trials": 0, "pricing_rounds": 0}
    )
    seconds: dict[str, float] = field(default_factory=dict)
    deadline: float = math.inf

    def solve(self, program: Program, start: Basis | None) -> LpResult:
        """One LP, counted; `PlanAborted` when limits end it without an optimum."""
        left = self.deadline - time.monotonic()
        budget = self.limits.lp_iterations - int(self.counts["lp_iterations"])
        if left <= 0 or budget <= 0:
            raise PlanAborted("limits are used up")
        result = linear.solve(program, LpLimits(iterations=budget, wall_s=left), start)
        self.counts["lp_solves"] += 1
        self.counts["lp_iterations"] += result.iterations
        if result.status is not LpStatus.OPTIMAL:
            raise PlanAborted(f"linear program ended {result.status.value}")
        return result

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


class PlanAborted(Exception):
    """A linear program did not end with an optimum."""


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
    work = Work(limits, deadline=time.monotonic() + limits.wall_s)
    try:
        with work.phase("total"):
            parts = _plan(problem, options, work, warm_start)
            solution = make_solution(parts)
    except PlanAborted as aborted:
        return no_plan(problem, SolveStatus.UNKNOWN, str(aborted))
    return replace(solution, work=dict(work.counts), seconds=dict(work.seconds))


def _plan(
    problem: PlacementProblem, options: PlanOptions, work: Work, warm_start: PlanSolution | None
) -> PlanParts:
    with work.phase("build"):
        sets = plan_sets(problem, options, work.limits)
        model = build(sets)
        master = Master(model, model.lp.program())
        work.counts |= {
            "rows": master.base.matrix.shape[0], "columns": master.route_start + len(master.routes.unit),
            "nonzeros": master.base.matrix.nnz, "blocks": sets.block_count,
        }  # fmt: skip
    with work.phase("relaxation"):
        relaxed = solve_levels(master, work, fixed_on=None, start=None)
        relaxed, model, master, bound = price_in(relaxed, model, master, work)
    with work.phase("sites"):
        fixed_on, incumbent = choose_open_sites(relaxed, model, master, work, warm_start)
    with work.phase("plan"):
        final = incumbent
        if any(v > LEVEL_TOLERANCE for v in final.level_values):
            bound = _bound_at_levels(master, work, final, relaxed)
    return PlanParts(model=model, master=master, result=final.result, fixed_on=fixed_on, bound_yuan=bound,
                     objective_yuan=final.cost_yuan)  # fmt: skip


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
        columns = _first_patterns(problem, graph, held, patterns, limits.pattern_columns)
        graphs.append(GraphModel(held, patterns, columns))
    blocks, eras = choose_blocks(problem, demand, options), choose_eras(problem)
    return make_sets(problem, options, passes, demand, blocks, eras, tuple(graphs))


def _first_patterns(
    problem: PlacementProblem, graph: Graph, options: tuple[StageOptions, ...], patterns: Patterns, keep: int
) -> IntArray:
    """Patterns to begin with: those on one site, then the cheapest by energy at mean prices, `keep` in all."""
    if not len(patterns.option):
        return np.zeros(0, dtype=np.int64)
    p = problem
    price = (p.sites.price_yuan_per_kwh * (1 + p.sites.loss_slope)).mean(axis=1)
    option_cost = []
    for stage in options:
        cost = np.full(len(stage.site), 0.0)
        if not stage.is_fixed:
            cost[:] = np.inf
            held = np.flatnonzero(stage.pair_option >= 0)
            np.minimum.at(cost, stage.pair_option[held], p.pairs.dynamic_w[held] * price[p.pair_site[held]])
        option_cost.append(cost)
    site = np.stack([o.site[patterns.option[:, i]] for i, o in enumerate(options)], axis=1)
    on_one_site = (site == site[:, :1]).all(axis=1)
    transfer = transfer_yuan_per_h(problem, graph, options, patterns.option)
    cost = pattern_cost(option_cost, patterns.option) / W_PER_KW + transfer
    order = np.lexsort((cost, ~on_one_site))
    return np.sort(order[: max(keep, int(on_one_site.sum()))])


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
    """[T,f] price and, per priority, demand; each scaled to a peak of 1."""
    price = p.sites.price_yuan_per_kwh.mean(axis=0)
    columns = [price / max(price.max(), 1e-12)]
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


# -- 3. relaxation -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Solved:
    """Optimum of the master in lexicographic order: the last stage's answer and the values of the levels before it."""

    result: LpResult
    program: Program
    cost_yuan: float
    level_values: tuple[float, ...]
    fixed_on: FloatArray | None
    nothing_yuan: FloatArray
    """[C,B] what leaving a class unserved in a block costs in the last stage (inf: its level is held at zero)."""
    restart: Basis | None
    """Of the weighted solve, whose rows are the model's: where the next solve of these columns may begin."""


def solve_levels(master: Master, work: Work, fixed_on: FloatArray | None, start: Basis | None) -> Solved:
    """Minimise level after level, then cost.

    One weighted solve first. Where all levels come out at zero, it is the lexicographic optimum: zero cannot be
    improved, and among plans with zero levels the weights add nothing. Otherwise each level that is not zero is
    minimised by itself, then held by a row, then the next, then cost.
    """
    plain = _with_fixed(master, master.program(), fixed_on)
    amounts = [master.level_amounts(level) for level in range(LEVEL_COUNT)]
    weighted = replace_cost(plain, plain.cost + _level_weights(master, amounts))
    result = work.solve(weighted, start)
    values = [float(a @ result.x) for a in amounts]
    if max(values) <= LEVEL_TOLERANCE:
        weight = _nothing_weight(master)
        return Solved(result, weighted, result.objective, tuple(values), fixed_on, weight, result.basis)
    return _one_after_the_other(master, plain, amounts, result, work, fixed_on)


def _one_after_the_other(
    master: Master, plain: Program, amounts: list[FloatArray], result: LpResult, work: Work,
    fixed_on: FloatArray | None,
) -> Solved:  # fmt: skip
    """Sequential stages, from the weighted optimum on; levels already at zero are held there without a solve."""
    program, start = plain, result.basis
    values = [float(a @ result.x) for a in amounts]
    reached: list[float] = []
    held_by: dict[int, tuple[int, float]] = {}
    for level, amount in enumerate(amounts):
        used = np.flatnonzero(amount)
        if values[level] > LEVEL_TOLERANCE:
            stage = work.solve(replace_cost(program, amount, offset=0.0), start)
            start = stage.basis
            values = [float(a @ stage.x) for a in amounts]
        value = max(0.0, values[level])
        reached.append(value)
        if value <= LEVEL_TOLERANCE:
            program = replace(program, upper=program.upper.copy())
            program.upper[used] = 0.0
        else:
            scale = amount[used].max()
            held_by[level] = (len(program.row_lower), scale)
            program = program.with_row(used, amount[used] / scale, value * (1 + 1e-7) / scale)
            start = None if start is None else start.with_slack_row()
    last = work.solve(program, start)
    price = _nothing_price(master, last, held_by)
    return Solved(last, program, last.objective, tuple(reached), fixed_on, price, result.basis)


def _level_weights(master: Master, amounts: list[FloatArray]) -> FloatArray:
    """Penalties of the weighted solve, all levels together."""
    weights = np.zeros(len(amounts[0]))
    for level, amount in enumerate(amounts):
        weights += amount * (HARD_CAP_YUAN_PER_KWH if level == LEVEL_HARD_CAPS else 1.0)
    weights[master.route_start :] = master.unserved_amount(_nothing_weight(master))
    return weights


def _nothing_weight(master: Master) -> FloatArray:
    """[C,B] yuan for leaving a class unserved in a block: its penalty, but no less than 20 yuan per kWh
    it would draw.
    """
    sets, p = master.model.sets, master.model.sets.problem
    most_kw = np.zeros(p.class_count)
    np.maximum.at(most_kw, p.pairs.class_index, np.where(sets.passes, sets.useful_kw, 0.0))
    floor = (
        UNSERVED_FLOOR_YUAN_PER_KWH
        * most_kw[:, None]
        * sum_over(sets.block_of_slot, sets.demand * p.slots.hours)
    )
    return np.maximum(master.penalty_yuan, floor)


def _nothing_price(master: Master, last: LpResult, held_by: dict[int, tuple[int, float]]) -> FloatArray:
    """[C,B] the same in a stage where levels are rows: −dual of the row · amount; inf where a level is held at zero."""
    rank = master.model.sets.problem.classes.priority_rank
    price = np.full(master.penalty_yuan.shape, np.inf)
    for level, (row, scale) in held_by.items():
        at_level = np.array(LEVEL_OF_RANK)[rank] == level
        price[at_level] = -last.duals[row] / scale * master.penalty_yuan[at_level]
    return price


def replace_cost(program: Program, cost: FloatArray, offset: float | None = None) -> Program:
    """The same program with another objective."""
    return replace(program, cost=cost, offset=program.offset if offset is None else offset)


def _with_fixed(master: Master, program: Program, fixed_on: FloatArray | None) -> Program:
    if fixed_on is None:
        return program
    on = master.position(master.model.columns_of("on"))
    program = replace(program, lower=program.lower.copy(), upper=program.upper.copy())
    program.lower[on] = program.upper[on] = fixed_on
    return program


def price_in(
    solved: Solved, model: PlanModel, master: Master, work: Work
) -> tuple[Solved, PlanModel, Master, float]:
    """Let routes, batch columns and patterns of negative reduced cost join until they can gain next to nothing.

    Returns a bound in any case. At duals π the missing columns of a class can lower the objective by no more than its
    cheapest route (shares of a class add up to 1), batch work by its cheapest column per hour times its work, a graph
    by its cheapest pattern. So LP objective + those gains bounds the model with *all* columns from below.
    """
    for _ in range(work.limits.pricing_rounds):
        missing = price_missing(solved, model, master)
        if -missing.gain_yuan <= work.limits.pricing_gap_frac * abs(solved.cost_yuan):
            break
        work.counts["pricing_rounds"] += 1
        start = solved.restart
        before = len(master.active_run), len(master.routes.unit)
        new_patterns = sum(len(m) for m in missing.patterns)
        if new_patterns:
            model, master, start = _with_patterns(model, master, missing.patterns, start)
        if not (master.add_routes(missing.routes) + master.add_runs(missing.runs) + new_patterns):
            break
        start = None if start is None else master.carry(start, *before)
        solved = solve_levels(master, work, solved.fixed_on, start)
    return solved, model, master, solved.cost_yuan + price_missing(solved, model, master).gain_yuan


@dataclass(frozen=True, eq=False)
class Missing:
    """Columns that would pay at some duals, and the most that all columns not in the program can gain (≤ 0)."""

    routes: Routes
    runs: IntArray
    patterns: list[IntArray]
    gain_yuan: float


def price_missing(solved: Solved, model: PlanModel, master: Master) -> Missing:
    """Price every route, batch column and pattern at the duals of the last stage, exactly."""
    routes = master.cheapest_routes(solved.result.duals, solved.nothing_yuan)
    pays = routes.reduced_cost < -LEVEL_TOLERANCE
    patterns, pattern_gain = _missing_patterns(solved, model)
    runs, run_gain = _missing_runs(solved, model, master)
    gain = float(np.minimum(routes.reduced_cost, 0.0).sum()) + pattern_gain + run_gain
    return Missing(Routes(routes.routes.class_index[pays], routes.routes.unit[pays]), runs, patterns, gain)


def _missing_runs(solved: Solved, model: PlanModel, master: Master) -> tuple[IntArray, float]:
    """Batch columns that pay: the best few per class and slot; and the most that batch columns can gain."""
    if "run" not in model.keys:
        return np.zeros(0, dtype=np.int64), 0.0
    p = model.sets.problem
    reduced = master.run_reduced_cost(solved.result.duals)
    pair, slot = model.keys["run"]
    c = p.pairs.class_index[pair]
    per_h = np.zeros(p.class_count)
    np.minimum.at(per_h, c, reduced / p.slots.hours[slot])
    order = np.lexsort((reduced, c * p.slot_count + slot))
    key = (c * p.slot_count + slot)[order]
    rank = np.arange(len(order)) - np.searchsorted(key, key, side="left")
    pays = order[(rank < RUNS_PER_ROUND) & (reduced[order] < -LEVEL_TOLERANCE)]
    return np.sort(pays), float(per_h @ p.classes.work_replica_h)


def _missing_patterns(solved: Solved, model: PlanModel) -> tuple[list[IntArray], float]:
    """Per graph the patterns that would pay, and the most that all missing patterns can gain (≤ 0)."""
    sets = model.sets
    duals = solved.result.duals
    found, gain = [], 0.0
    for j, held in enumerate(sets.graphs):
        row_graph = model.rows[f"graph_{j}"]
        eras = model.keys[f"graph_{j}"][0]
        graph = sets.problem.graphs[j]
        count_h = sum_over(sets.era_of_slot, np.array(graph.count) * sets.problem.slots.hours)
        transfer = transfer_yuan_per_h(sets.problem, graph, held.options, held.patterns.option)
        best: list[int] = []
        for i, era in enumerate(eras):
            option_cost = []
            for stage, options in enumerate(held.options):
                prices = np.zeros(len(options.site))
                if not options.is_fixed:
                    name = f"stage_{j}_{stage}"
                    o, e = model.keys[name]
                    here = e == era
                    prices[o[here]] = duals[model.rows[name].index[here]]
                option_cost.append(prices)
            constant = -duals[row_graph.start + i]
            if held.patterns.is_complete:
                # what traffic between stages pays on full links only adds: left out, the bound stays valid
                reduced = pattern_cost(option_cost, held.patterns.option) + constant + transfer * count_h[era]
                order = np.argsort(reduced, kind="stable")[:3]
                gain += min(0.0, float(reduced.min(initial=0.0)))
                best.extend(int(n) for n in order if reduced[n] < -LEVEL_TOLERANCE)
            else:
                gain += min(0.0, constant + sum(float(c.min(initial=0.0)) for c in option_cost))
        found.append(np.setdiff1d(np.array(best, dtype=np.int64), held.columns))
    return found, gain


def _with_patterns(
    model: PlanModel, master: Master, missing: list[IntArray], start: Basis | None
) -> tuple[PlanModel, Master, Basis | None]:
    """The model with more pattern columns; the basis goes over column by column, new patterns start at zero."""
    graphs = tuple(
        replace(held, columns=np.sort(np.concatenate([held.columns, new])))
        for held, new in zip(model.sets.graphs, missing, strict=True)
    )
    rebuilt = build(replace(model.sets, graphs=graphs))
    fresh = Master(rebuilt, rebuilt.lp.program())
    fresh.routes, fresh.active_run = master.routes, master.active_run
    if start is None:
        return rebuilt, fresh, None
    old_at = np.full(rebuilt.lp.column_count, -1)
    for name, block in rebuilt.columns.items():
        old = model.columns[name]
        if old.count == block.count:
            old_at[block.slice] = old.index
        else:  # patterns of graph j: rows of `columns`, then eras
            j = int(name.removeprefix("pattern_"))
            eras = block.count // len(graphs[j].columns)
            was_there = np.isin(graphs[j].columns, model.sets.graphs[j].columns)
            old_at[block.index.reshape(-1, eras)[was_there].ravel()] = old.index
    kept = old_at[fresh.kept_column]
    new_at = np.where(kept >= 0, master.position(np.maximum(kept, 0)), -1)
    others = np.arange(len(master.kept_column), master.route_start + len(master.routes.unit))
    return rebuilt, fresh, start.rearranged(np.concatenate([new_at, others]))


def _bound_at_levels(master: Master, work: Work, plan: Solved, relaxed: Solved) -> float:
    """Bound on cost among plans whose levels are no worse than this plan's: relaxation with the levels held there."""
    program = master.program()
    start = relaxed.result.basis
    held_by: dict[int, tuple[int, float]] = {}
    for level, value in enumerate(plan.level_values):
        amount = master.level_amounts(level)
        used = np.flatnonzero(amount)
        if not len(used):
            continue
        scale = amount[used].max()
        held_by[level] = (len(program.row_lower), scale)
        program = program.with_row(used, amount[used] / scale, value * (1 + 1e-7) / scale + LEVEL_TOLERANCE)
        start = None if start is None else start.with_slack_row()
    result = work.solve(program, start)
    held = replace(relaxed, result=result, nothing_yuan=_nothing_price(master, result, held_by))
    return result.objective + price_missing(held, master.model, master).gain_yuan


# -- 4. open sites -----------------------------------------------------------------------------------------------


def choose_open_sites(
    relaxed: Solved, model: PlanModel, master: Master, work: Work, warm_start: PlanSolution | None
) -> tuple[FloatArray, Solved]:
    """Which sites are open in which block: roundings of the relaxation, then single flips that duals do not exclude.

    With sites fixed, the objective is convex in `on`; so closing an open site (or opening a closed one) cannot gain
    more than its reduced cost, and flips whose reduced cost is of the wrong sign are never tried.
    """
    on_columns = master.position(model.columns_of("on"))
    relaxed_on = relaxed.result.x[on_columns]
    if np.all(np.abs(relaxed_on - np.rint(relaxed_on)) <= INTEGRAL):
        return np.rint(relaxed_on), relaxed
    tried: dict[bytes, Solved] = {}
    for guess in _first_guesses(relaxed_on, model, warm_start):
        _try_sites(guess, tried, master, work, relaxed.restart)
    best = min(tried.values(), key=_rank_of)
    while work.counts["site_trials"] < work.limits.site_trials:
        flip = _most_promising_flip(best, on_columns, tried)
        if flip is None:
            break
        found = _try_sites(flip, tried, master, work, best.restart)
        if _rank_of(found) < _rank_of(best):
            best = found
    assert best.fixed_on is not None
    return best.fixed_on, best


def _rank_of(solved: Solved) -> tuple[float, ...]:
    """Order of plans: levels, rounded so that tolerances do not decide, then cost."""
    return (*(round(v, 4) for v in solved.level_values), solved.cost_yuan)


def _first_guesses(
    relaxed_on: FloatArray, model: PlanModel, warm_start: PlanSolution | None
) -> list[FloatArray]:
    guesses = [np.rint(relaxed_on), (relaxed_on > INTEGRAL).astype(float)]
    if warm_start is not None and warm_start.site_on.shape == model.on_column.shape:
        site, block = model.keys["on"]
        first = np.searchsorted(model.sets.block_of_slot, block)
        guesses.insert(0, warm_start.site_on[site, first].astype(float))
    return guesses


def _try_sites(
    on: FloatArray, tried: dict[bytes, Solved], master: Master, work: Work, start: Basis | None
) -> Solved:
    key = on.astype(np.int8).tobytes()
    if key not in tried:
        work.counts["site_trials"] += 1
        tried[key] = solve_levels(master, work, on, start)
    return tried[key]


def _most_promising_flip(best: Solved, on_columns: IntArray, tried: dict[bytes, Solved]) -> FloatArray | None:
    """The untried flip of one (site, block) with the largest gain that its reduced cost leaves possible."""
    assert best.fixed_on is not None
    reduced = best.result.reduced_costs[on_columns]
    possible = np.where(best.fixed_on > 0.5, reduced, -reduced)
    for i in np.argsort(-possible, kind="stable"):
        if possible[i] <= LEVEL_TOLERANCE:
            return None
        flip = best.fixed_on.copy()
        flip[i] = 1.0 - flip[i]
        if flip.astype(np.int8).tobytes() not in tried:
            return flip
    return None
