"""The slow model: a horizon plan with its proof.

`solve_plan` reads as the process:

1. sets        candidates, blocks, patterns of graphs
2. model       every rule as sparse rows (`plan_rules`), services as routes (`plan_master`)
3. relaxation  sites open in part; lexicographic levels; routes and patterns priced in; a lower bound
4. open sites  rounded, then branch and bound with bounds that count missing columns
5. plan        sites fixed: shares, nodes, prices; counted again from the plan itself (`plan_report`)

Everything is deterministic for a problem: work limits, one thread; the wall limit only aborts.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from solvers.archive import FloatArray, IntArray
from solvers.candidates import candidates, dominant_share
from solvers.certify import Duals, Evidence, with_certificate
from solvers.greedy import greedy_plan
from solvers.linear import LpLimits, LpResult, LpStatus, Program
from solvers.lp_session import Session
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
    LEVEL_HARD_SAFETY,
    LEVEL_OF_RANK,
    GraphModel,
    PlanModel,
    PlanOptions,
    PlanSets,
    build,
    make_sets,
    sum_over,
    with_cuts,
)
from solvers.problem import W_PER_KW, Graph, PlacementProblem
from solvers.solution import PlanSolution, SolveStatus, no_plan

# Weights of the weighted solve, each level an order of magnitude above what the next can bring together in practice.
# They decide between choices of open sites; at the sites chosen the levels are then settled exactly.
HARD_SAFETY_YUAN = 1e5
HARD_CAP_YUAN_PER_KWH = 1e4
UNSERVED_YUAN_PER_KWH = (1e5, 0.0, 1000.0, 150.0, 25.0)
OPENING_FACTOR = 2.0
"""Unserved work costs so many times what a site opened for it alone would draw."""
LEVEL_TOLERANCE = 1e-6
INTEGRAL = 1e-6
CUT_TOLERANCE = 1e-3
CALM = 0.6
"""Weight of the best duals so far when they are mixed with those of a round."""
REDUCED_COST_NOISE = 1e-9
CALM_GAIN_FRAC = 1e-3
"""Before cuts, pricing stops when a round gains less than this share of the cost."""
LOOSE = 1e-3
"""A bound looser than this is worth pricing at the held levels."""
TIGHT = 1e-4
"""There, a bound this close to the relaxation is not improved further."""
GUESS_ITERATIONS = 1000
"""Simplex iterations of one such trial; those that improved a plan of songjiang-m took up to 813."""
OPEN_BY_MORE_THAN = (1e-6, 0.1, 0.3)
"""There, sites are tried that the relaxation opens by more than each of these parts."""
LEAST_GAIN_FRAC = 1e-6
"""There, a plan is replaced when another costs this much less."""
SMALL_ROWS, SMALL_ITERATIONS = 1000, 1000
OPEN_SITES_GAP_FRAC = 1e-6
"""Choices of open sites closer than this to the best plan are not looked at."""
MOST_PATTERN_COLUMNS = 20_000
"""Patterns of one graph that the model describes; more are bounded stage by stage."""


@dataclass(frozen=True)
class PlanLimits:
    """Work limits of one plan. `wall_s` is a safety net that aborts; it never shapes an answer."""

    lp_iterations: int = 400_000
    pricing_rounds: int = 8
    pricing_gap_frac: float = 5e-5
    """Stop pricing when missing routes and patterns can gain less than this share of the objective."""
    bound_rounds: int = 12
    """Rounds of pricing for the bound where work stays unserved."""
    cut_rounds: int = 2
    site_trials: int = 6
    warm_site_trials: int = 2
    """Trials of other open sites when work is already running: the plan of an hour ago has looked already."""
    pattern_columns: int = 80
    with_certificate: bool = True
    """Whether the plan carries its proof for `suanli verify`; its bounds are stated either way."""
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
    session: Session = field(default_factory=Session)

    def solve(self, program: Program, column_key: IntArray) -> LpResult:
        """One LP, counted; goes on from the last one. `PlanAborted` when limits end it without an optimum."""
        result = self._counted(program, column_key, LpLimits(iterations=self.limits.lp_iterations))
        if result.status is not LpStatus.OPTIMAL:
            raise PlanAborted(f"linear program ended {result.status.value} {result.message}".rstrip())
        return result

    def guess(self, program: Program, column_key: IntArray) -> LpResult | None:
        """As `solve`, for a few iterations; None when no optimum was found with them."""
        limits = LpLimits(iterations=min(GUESS_ITERATIONS, self.limits.lp_iterations), is_guess=True)
        result = self._counted(program, column_key, limits)
        return result if result.status is LpStatus.OPTIMAL else None

    def _counted(self, program: Program, column_key: IntArray, limits: LpLimits) -> LpResult:
        left = self.deadline - time.monotonic()
        budget = self.limits.lp_iterations - int(self.counts["lp_iterations"])
        if left <= 0 or budget <= 0:
            raise PlanAborted("limits are used up")
        limits = replace(limits, iterations=min(limits.iterations, budget), wall_s=left)
        result = self.session.solve(program, column_key, limits)
        self.counts["lp_solves"] += 1
        self.counts["lp_iterations"] += result.iterations
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
    if not problem.site_count:
        return replace(greedy_plan(problem), method="full")  # nowhere to place anything: nothing to decide
    work = Work(limits, deadline=time.monotonic() + limits.wall_s)
    try:
        with work.phase("total"):
            parts = _plan(problem, options, work, warm_start)
            solution = make_solution(parts)
            if limits.with_certificate:
                with work.phase("certificate"):
                    solution = with_certificate(parts.model, parts.evidence, solution)
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
        relaxed = solve_weighted(master, work, None)
        for _ in range(work.limits.cut_rounds):
            relaxed, _ = price_in(relaxed, master, work, until_calm=True)
            cuts = broken_open_cuts(relaxed, model, master)
            if not len(cuts[0]):
                break
            relaxed, model, master = with_open_cuts(model, master, cuts, work)
        relaxed, weighted_bound = price_in(relaxed, master, work)
    with work.phase("sites"):
        chosen = choose_open_sites(relaxed, weighted_bound, model, master, work, warm_start)
    with work.phase("levels"):
        final = settle_levels(master, chosen.best, work)
    # cost + Σ weight·level ≥ weighted bound for every plan; so cost ≥ this for plans whose levels are no worse
    bound = chosen.bound_yuan - float(np.dot(level_weights(master), final.level_values))
    everything: list[Duals] = []
    is_loose = final.objective_yuan - bound > LOOSE * abs(bound)
    # with hard caps broken the weights are large, and so is what the certificate's true excess differs by
    if max(final.level_values) > LEVEL_TOLERANCE and (
        is_loose or final.level_values[LEVEL_HARD_CAPS] > LEVEL_TOLERANCE
    ):
        with work.phase("bound"):
            final, master, at_levels, held_duals = improve_at_levels(final, master, work)
            bound = max(bound, at_levels)
            everything.append(held_duals)
    assert final.fixed_on is not None
    return PlanParts(
        model=master.model,
        master=master,
        result=final.result,
        fixed_on=final.fixed_on,
        bound_yuan=bound,
        objective_yuan=final.objective_yuan,
        evidence=_evidence(relaxed, chosen, tuple(everything), model, level_weights(master)),
    )


def _evidence(
    relaxed: Solved, chosen: OpenSites, everything: tuple[Duals, ...], model: PlanModel, weights: FloatArray
) -> Evidence:
    """Duals of the leaves of the search, and those of the relaxation and of the plan, which may bound a leaf better."""

    def duals(lower: FloatArray, upper: FloatArray, solved: Solved) -> Duals:
        return Duals(solved.result.duals, weights, lower, upper, model.sets.open_cuts)

    count = len(model.columns_of("on"))
    none, both = np.zeros(count), np.ones(count)
    parts = tuple(duals(node.lower, node.upper, node.solved) for node in chosen.leaves)
    anywhere = (duals(none, both, relaxed), duals(none, both, chosen.best))
    return Evidence(parts or anywhere[:1], anywhere, everything)


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


# -- 3. relaxation -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Solved:
    """Optimum of the master. `fixed_on`: which sites are open, None where they may be so in part."""

    result: LpResult
    program: Program
    objective_yuan: float
    """What was minimised: cost + Σ weight·level, or cost alone once the levels are settled."""
    cost_yuan: float
    level_values: tuple[float, ...]
    fixed_on: FloatArray | None
    priced_cost: FloatArray | None = None
    """Cost per column with the levels' weights, as it was minimised; None once the levels are settled."""


def solve_weighted(master: Master, work: Work, on_bounds: tuple[FloatArray, FloatArray] | None) -> Solved:
    """Minimise cost + Σ weight·level with `on` within bounds (None: 0..1).

    One solve that is lexicographic whenever all levels come out at zero.
    """
    program = _with_bounds(master, master.program(), on_bounds)
    weights = level_weights(master)
    amounts = [master.level_amounts(level) for level in range(LEVEL_COUNT)]
    penalty = sum((w * a for w, a in zip(weights, amounts, strict=True)), start=np.zeros(len(program.cost)))
    result = work.solve(replace_cost(program, program.cost + penalty), master.column_key())
    values = tuple(max(0.0, float(a @ result.x)) for a in amounts)
    cost_yuan = result.objective - float(np.dot(weights, values))
    return Solved(result, program, result.objective, cost_yuan, values, None, program.cost + penalty)


def settle_levels(master: Master, solved: Solved, work: Work) -> Solved:
    """The lexicographic optimum at the open sites of a weighted one.

    Zero levels cannot be improved, and among plans with zero levels the weights add nothing: then there is nothing to
    do. Otherwise each level that is not zero is minimised by itself and held by a row, then the next, then cost.
    """
    if max(solved.level_values) <= LEVEL_TOLERANCE:
        return solved
    assert solved.fixed_on is not None
    program = _with_bounds(master, solved.program, (solved.fixed_on, solved.fixed_on))
    key = master.column_key()
    amounts = [master.level_amounts(level) for level in range(LEVEL_COUNT)]
    values, reached = solved.level_values, []
    for level, amount in enumerate(amounts):
        used = np.flatnonzero(amount)
        if values[level] > LEVEL_TOLERANCE:
            stage = work.solve(replace_cost(program, amount, offset=0.0), key)
            values = tuple(max(0.0, float(a @ stage.x)) for a in amounts)
        reached.append(values[level])
        if values[level] <= LEVEL_TOLERANCE:
            program = replace(program, upper=program.upper.copy())
            program.upper[used] = 0.0
        else:
            program = _with_level_held(program, level, amount, amount.max(), values[level] * (1 + 1e-7))
    last = work.solve(program, key)
    return Solved(last, program, last.objective, last.objective, tuple(reached), solved.fixed_on)


@dataclass(frozen=True, eq=False)
class _Held:
    """The relaxation with a row per level that keeps it no worse than a plan's, at its optimum or at other duals."""

    solved: Solved
    nothing_yuan: FloatArray
    """[C,B] what nothing in a block costs at the duals."""
    level_yuan: FloatArray
    """[levels] multipliers of the levels."""

    def proof(self, model: PlanModel) -> Duals:
        count = len(model.columns_of("on"))
        cuts = model.sets.open_cuts
        return Duals(self.solved.result.duals, self.level_yuan, np.zeros(count), np.ones(count), cuts)


def improve_at_levels(final: Solved, given: Master, work: Work) -> tuple[Solved, Master, float, Duals]:
    """(better plan, its master, bound on the cost of plans whose levels are no worse, its duals), from the relaxation
    with levels held by rows.

    Its duals price unserved work otherwise than the weights do, so columns and cuts join here too until they gain
    little; the plan, its sites fixed, is solved again with them, and with the open sites that this relaxation suggests.
    """
    master = given.with_own_columns()
    scales = [float(master.level_amounts(level).max(initial=0.0)) for level in range(LEVEL_COUNT)]
    bound, proof, rounds = -math.inf, None, 0
    while True:
        relaxed, at_duals, own_bound, used = _price_at_levels(final, scales, master, work, rounds)
        rounds += used
        if proof is None or own_bound > bound:
            bound, proof = own_bound, at_duals.proof(master.model)
        cuts = broken_open_cuts(relaxed, master.model, master)
        is_tight = final.objective_yuan - bound <= TIGHT * abs(bound)
        if is_tight or rounds >= work.limits.bound_rounds or not len(cuts[0]):
            break
        master = with_more_cuts(master, cuts, work)
    better = _best_open_sites(final, relaxed, scales, master, work)
    gain_yuan = final.objective_yuan - better.objective_yuan
    # without columns that gain anything, the plan that was settled level by level is the more exact one
    if gain_yuan <= LEAST_GAIN_FRAC * abs(final.objective_yuan):
        return final, given, bound, proof
    return better, master, bound, proof


def _price_at_levels(
    final: Solved, scales: list[float], master: Master, work: Work, spent: int
) -> tuple[Solved, _Held, float, int]:
    """(relaxation at its last optimum, duals that bound best, that bound, rounds used)."""
    bound, best, used = -math.inf, None, 0
    while True:
        used += 1
        relaxed = _solve_held(final, scales, master, work, None)
        assert relaxed is not None
        held = _held_at(relaxed, scales, master)
        missing = price_missing(held.solved, master, held.nothing_yuan)
        found, before = [missing], best
        own_bound = held.solved.objective_yuan + missing.gain_yuan
        if best is None or own_bound > bound:
            bound, best = own_bound, held
        if before is not None:
            duals = CALM * before.solved.result.duals + (1 - CALM) * held.solved.result.duals
            calm = _held_at(_with_duals(held.solved, duals), scales, master)
            found.append(price_missing(calm.solved, master, calm.nothing_yuan))
            calm_bound = lagrangian(calm.solved, master, found[-1])
            if calm_bound > bound:
                bound, best = calm_bound, calm
        is_tight = held.solved.objective_yuan - bound <= TIGHT * abs(bound)
        if is_tight or spent + used >= work.limits.bound_rounds or not _join(master, found):
            return held.solved, best, bound, used


def _best_open_sites(
    final: Solved, relaxed: Solved, scales: list[float], master: Master, work: Work
) -> Solved:
    """The plan with its own open sites, or with those that the relaxation at its levels has open by more than a part.

    The search of open sites knew the levels only by their weights; which sites serve best at these levels is another
    question.
    """
    assert final.fixed_on is not None
    best = _solve_held(final, scales, master, work, final.fixed_on)
    assert best is not None
    share_open = relaxed.result.x[master.position(master.model.columns_of("on"))]
    tried = {final.fixed_on.tobytes()}
    for part in OPEN_BY_MORE_THAN:
        guess = (share_open > part).astype(float)
        if guess.tobytes() in tried:
            continue
        tried.add(guess.tobytes())
        work.counts["site_trials"] += 1
        other = _solve_held(final, scales, master, work, guess, is_guess=True)
        if other is not None and other.objective_yuan < best.objective_yuan:
            best = other
    return best


def _solve_held(
    final: Solved,
    scales: list[float],
    master: Master,
    work: Work,
    fixed_on: FloatArray | None,
    *,
    is_guess: bool = False,
) -> Solved | None:
    """Least cost with every level held; sites in part, or fixed. None: a guess that led to no optimum.

    The rows are divided by `scales`, which stay the same from round to round, so that they remain the same rows. What
    is zero in the plan stays exactly zero in the next one: the least tolerance may be much in a short slot.
    """
    program = _with_bounds(master, master.program(), None if fixed_on is None else (fixed_on, fixed_on))
    for level, value in enumerate(final.level_values):
        amount = master.level_amounts(level)
        used = np.flatnonzero(amount)
        if fixed_on is not None and value <= LEVEL_TOLERANCE:
            program = replace(program, upper=program.upper.copy())
            program.upper[used] = 0.0
        if scales[level] > 0:
            room = value * (1 + 1e-7) + LEVEL_TOLERANCE
            program = _with_level_held(program, level, amount, scales[level], room)
    solve = work.guess if is_guess else work.solve
    result = solve(program, master.column_key())
    if result is None:
        return None
    return Solved(
        result, program, result.objective, result.objective, final.level_values, fixed_on, program.cost
    )


def _with_level_held(program: Program, level: int, amount: FloatArray, scale: float, most: float) -> Program:
    """A level's sum ≤ `most`, divided by `scale`; one row for all programs of a plan that hold the level."""
    used = np.flatnonzero(amount)
    return program.with_row(f"level {level}", used, amount[used] / scale, most / scale)


def _held_at(solved: Solved, scales: list[float], master: Master) -> _Held:
    """What the levels cost at the duals of their rows."""
    level_of_class = np.array(LEVEL_OF_RANK)[master.model.sets.problem.classes.priority_rank]
    level_yuan, nothing_yuan = level_weights(master), np.zeros(master.penalty_yuan.shape)
    row = len(solved.program.row_lower) - len(solved.program.temporary)
    for level, scale in enumerate(scales):
        if scale > 0:
            level_yuan[level] = max(0.0, -solved.result.duals[row]) / scale
            at_level = level_of_class == level
            nothing_yuan[at_level] = level_yuan[level] * master.penalty_yuan[at_level]
            row += 1
    return _Held(solved, nothing_yuan, level_yuan)


def level_weights(master: Master) -> FloatArray:
    """[levels] weight of each level's sum, in yuan per yuan of penalty (per kWh for hard caps).

    One weight for a whole level, so that a plan whose levels are no worse has no larger weighted sum. Unserved
    work costs at least `UNSERVED_YUAN_PER_KWH` times what it would draw and more than a site opened for it alone,
    hard safety 100 000 per replica-hour.
    """
    sets, p = master.model.sets, master.model.sets.problem
    most_kw = np.zeros(p.class_count)
    np.maximum.at(most_kw, p.pairs.class_index, np.where(sets.passes, sets.useful_kw, 0.0))
    level = np.array(LEVEL_OF_RANK)[p.classes.priority_rank]
    penalty = p.classes.unserved_yuan_per_replica_h
    wanted = (sets.demand.max(axis=1, initial=0.0) > 0) & (penalty > 0)
    floor_yuan = np.array(UNSERVED_YUAN_PER_KWH)[level] * most_kw + OPENING_FACTOR * _opening_yuan(sets)
    floor_yuan = np.where(level == LEVEL_HARD_SAFETY, np.maximum(floor_yuan, HARD_SAFETY_YUAN), floor_yuan)
    ratio = np.divide(floor_yuan, penalty, out=np.zeros(len(penalty)), where=wanted)
    weights = np.zeros(LEVEL_COUNT)
    np.maximum.at(weights, level, ratio)
    weights[LEVEL_HARD_CAPS] = HARD_CAP_YUAN_PER_KWH
    return weights


def _opening_yuan(sets: PlanSets) -> FloatArray:
    """[C] overhead of the cheapest site that could open for a class alone, yuan per replica-hour that it wants."""
    p, hours = sets.problem, sets.problem.slots.hours
    yuan_per_h = (sets.energy_yuan_per_kwh * (p.sites.fixed_kw - p.sites.off_kw)).max(axis=1)
    yuan_per_h = np.where(sets.may_close, np.maximum(yuan_per_h, 0.0), 0.0)
    cheapest = np.full(p.class_count, np.inf)
    np.minimum.at(cheapest, p.pairs.class_index[sets.passes], yuan_per_h[p.pair_site[sets.passes]])
    wanted_h = sum_over(sets.block_of_slot, sets.demand * hours)
    open_h = np.where(wanted_h > 0, sum_over(sets.block_of_slot, hours), 0.0).sum(axis=1)
    cost = np.where(np.isfinite(cheapest), cheapest, 0.0) * open_h
    return np.asarray(np.divide(cost, wanted_h.sum(axis=1), out=np.zeros(p.class_count), where=open_h > 0))


def _nothing_yuan(master: Master) -> FloatArray:
    """[C,B] what leaving a class unserved in a block adds to the weighted objective."""
    level = np.array(LEVEL_OF_RANK)[master.model.sets.problem.classes.priority_rank]
    return np.asarray(level_weights(master)[level][:, None] * master.penalty_yuan)


def replace_cost(program: Program, cost: FloatArray, offset: float | None = None) -> Program:
    """The same program with another objective."""
    return replace(program, cost=cost, offset=program.offset if offset is None else offset)


def _with_bounds(
    master: Master, program: Program, on_bounds: tuple[FloatArray, FloatArray] | None
) -> Program:
    if on_bounds is None:
        return program
    on = master.position(master.model.columns_of("on"))
    program = replace(program, lower=program.lower.copy(), upper=program.upper.copy())
    program.lower[on], program.upper[on] = on_bounds
    return program


def price_in(solved: Solved, master: Master, work: Work, *, until_calm: bool = False) -> tuple[Solved, float]:
    """Let routes, batch columns and patterns of negative reduced cost join until they can gain next to nothing.

    `until_calm`: also stop once a round has gained next to nothing, whatever is left for the bound.

    Returns a bound in any case. At duals π the missing columns of a class can lower the objective by no more than its
    cheapest route (shares of a class add up to 1), batch work by its cheapest column per hour times its work, a graph
    by its cheapest pattern. So LP objective + those gains bounds the model with *all* columns from below.
    """
    bound = -math.inf
    centre: FloatArray | None = None
    for _ in range(work.limits.pricing_rounds):
        missing = price_missing(solved, master)
        before_centre, own_bound = centre, solved.objective_yuan + missing.gain_yuan
        if own_bound > bound:
            bound, centre = own_bound, solved.result.duals
        enough_yuan = work.limits.pricing_gap_frac * abs(solved.cost_yuan)
        if solved.objective_yuan - bound <= enough_yuan:
            break
        work.counts["pricing_rounds"] += 1
        found = [missing]
        if before_centre is not None:
            calm = _with_duals(solved, CALM * before_centre + (1 - CALM) * solved.result.duals)
            found.append(price_missing(calm, master))
            calm_bound = lagrangian(calm, master, found[-1])
            if calm_bound > bound:
                bound, centre = calm_bound, calm.result.duals
        pauses = master.pauses(solved.result.x)
        if not _join(master, found) + master.add_routes(pauses):
            break
        before_yuan = solved.objective_yuan
        solved = solve_weighted(master, work, None)
        if until_calm and before_yuan - solved.objective_yuan <= CALM_GAIN_FRAC * abs(solved.cost_yuan):
            break
    gain = price_missing(solved, master).gain_yuan
    return solved, max(bound, solved.objective_yuan + gain)


def _join(master: Master, found: list[Missing]) -> int:
    """Let columns join that pay; returns how many were new."""
    return sum(master.add_routes(f.routes) + master.add_columns(f.columns) for f in found)


def _with_duals(solved: Solved, duals: FloatArray) -> Solved:
    return replace(solved, result=replace(solved.result, duals=duals))


def lagrangian(priced: Solved, master: Master, missing: Missing) -> float:
    """Dual function of the model with all columns, at any duals: rows and columns at their better sides.

    Duals of one round swing where capacity is scarce; a mean of two rounds is calmer and often bounds much better, but
    is no optimum of a program, so its bound is worked out here.
    """
    program, duals = priced.program, priced.result.duals
    assert priced.priced_cost is not None
    used = duals != 0.0
    sides = np.where(duals[used] > 0, program.row_lower[used], program.row_upper[used])
    kept = len(master.kept_column)
    reduced = priced.priced_cost[:kept] - program.matrix[:, :kept].T @ duals
    # what is basic in both rounds has reduced cost zero but for rounding
    reduced[np.abs(reduced) <= REDUCED_COST_NOISE * (1.0 + np.abs(priced.priced_cost[:kept]))] = 0.0
    moved = np.flatnonzero(reduced)
    ends = np.where(reduced[moved] > 0, program.lower[moved], program.upper[moved])
    total = program.offset + float(duals[used] @ sides) + float(reduced[moved] @ ends)
    total += missing.least_routes_yuan + missing.pattern_gain_yuan + missing.run_gain_yuan
    return total if math.isfinite(total) else -math.inf


@dataclass(frozen=True, eq=False)
class Missing:
    """Columns that would pay at some duals, and the most that all columns not in the program can gain (≤ 0)."""

    routes: Routes
    columns: IntArray
    """Batch columns and patterns."""
    least_routes_yuan: float
    """Σ over classes of the cheapest route's reduced cost, be it negative or not."""
    pattern_gain_yuan: float
    run_gain_yuan: float

    @property
    def gain_yuan(self) -> float:
        """At the optimum of a program, where no route in use has a positive reduced cost."""
        return min(self.least_routes_yuan, 0.0) + self.pattern_gain_yuan + self.run_gain_yuan


def price_missing(solved: Solved, master: Master, nothing_yuan: FloatArray | None = None) -> Missing:
    """Price every route, batch column and pattern at the duals of a solve, exactly.

    `nothing_yuan`[C,B] is what nothing in a block costs there; by default as in the weighted solve.
    """
    nothing = _nothing_yuan(master) if nothing_yuan is None else nothing_yuan
    routes = master.cheapest_routes(solved.result.duals, nothing)
    pays = routes.reduced_cost < -LEVEL_TOLERANCE
    patterns, pattern_gain = master.cheapest_patterns(solved.result.duals)
    runs, run_gain = master.cheapest_runs(solved.result.duals)
    return Missing(
        routes=Routes(routes.routes.class_index[pays], routes.routes.unit[pays]),
        columns=np.concatenate([runs, patterns]),
        least_routes_yuan=float(routes.least.sum()),
        pattern_gain_yuan=pattern_gain,
        run_gain_yuan=run_gain,
    )


def broken_open_cuts(solved: Solved, model: PlanModel, master: Master) -> tuple[IntArray, IntArray]:
    """(pair, block) where more of a class lies on a site than the site is open."""
    if "place" not in model.keys or not len(model.columns_of("on")):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    values = master.base_values(solved.result.x)
    pair, block = model.keys["place"]
    first_slot = np.searchsorted(model.sets.block_of_slot, block)
    on = model.on_column[model.sets.problem.pair_site[pair], first_slot]
    share = values[model.columns_of("place")]
    broken = (on >= 0) & (share > np.where(on >= 0, values[on], 0.0) + CUT_TOLERANCE)
    return pair[broken], block[broken]


def with_open_cuts(
    model: PlanModel, master: Master, cuts: tuple[IntArray, IntArray], work: Work
) -> tuple[Solved, PlanModel, Master]:
    """The model with more rows z ≤ on, solved again."""
    fresh = with_more_cuts(master, cuts, work)
    return solve_weighted(fresh, work, None), fresh.model, fresh


def with_more_cuts(master: Master, cuts: tuple[IntArray, IntArray], work: Work) -> Master:
    """The master of the model with more rows z ≤ on, which come after all others; its columns are the same."""
    work.counts["open_cuts"] = work.counts.get("open_cuts", 0) + len(cuts[0])
    old = master.model.sets.open_cuts
    tighter = with_cuts(master.model, (np.concatenate([old[0], cuts[0]]), np.concatenate([old[1], cuts[1]])))
    fresh = Master(tighter, tighter.lp.program())
    fresh.take_columns(master)
    return fresh


# -- 4. open sites -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class OpenSites:
    """Outcome of the search: the best plan with sites fixed, and a bound over all choices of open sites."""

    best: Solved
    bound_yuan: float
    """Of the weighted objective."""
    leaves: tuple[_Node, ...] = ()
    """Parts of the choices that together are all of them; none: the search did not branch."""


@dataclass(frozen=True, eq=False)
class _Node:
    """A part of the choices: bounds on `on`, its relaxation and a bound that counts missing columns."""

    lower: FloatArray
    upper: FloatArray
    solved: Solved
    bound_yuan: float


def choose_open_sites(
    relaxed: Solved,
    bound_yuan: float,
    model: PlanModel,
    master: Master,
    work: Work,
    warm_start: PlanSolution | None,
) -> OpenSites:
    """Which sites are open in which block: roundings of the relaxation, then branch and bound, best bound first.

    Every node's bound counts the columns it lacks, so what is left of the tree when the trials are used up still bounds
    all choices. With few sites that may close the tree is worked through and the choice is proven.
    """
    on_columns = master.position(model.columns_of("on"))
    count = len(on_columns)
    root = _Node(np.zeros(count), np.ones(count), relaxed, bound_yuan)
    if _integral(relaxed, on_columns):
        best = replace(relaxed, fixed_on=np.rint(relaxed.result.x[on_columns]))
        return OpenSites(best, bound_yuan)
    guesses = _first_guesses(relaxed.result.x[on_columns], model, warm_start)
    found = [_try_node(root, guess, guess, model, master, work) for guess in guesses]
    best = min((node.solved for node in found), key=lambda solved: solved.objective_yuan)
    running = model.sets.problem.pairs.running_count.max(initial=0.0) > 0
    trials = work.limits.warm_site_trials if running else work.limits.site_trials
    return _branch_and_bound(root, best, trials, model, master, work)


def _branch_and_bound(
    root: _Node, best: Solved, trials: int, model: PlanModel, master: Master, work: Work
) -> OpenSites:
    on_columns = master.position(model.columns_of("on"))
    order = 0
    begun = work.counts["lp_iterations"]
    heap: list[tuple[float, int, _Node]] = [(root.bound_yuan, order, root)]
    finished = (
        best.objective_yuan
    )  # least bound of what is settled; a plan found is never below its own bound
    settled: list[_Node] = []
    while heap:
        node = heap[0][2]
        tolerance = OPEN_SITES_GAP_FRAC * abs(best.cost_yuan)
        if node.bound_yuan >= best.objective_yuan - tolerance or _search_spent(work, trials, begun):
            break
        heapq.heappop(heap)
        on = node.solved.result.x[on_columns]
        branch = int(np.argmin(np.abs(on - 0.5)))
        for value in (np.rint(on[branch]), 1.0 - np.rint(on[branch])):
            lower, upper = node.lower.copy(), node.upper.copy()
            lower[branch] = upper[branch] = value
            child = _try_node(node, lower, upper, model, master, work)
            if _integral(child.solved, on_columns):
                settled.append(child)
                finished = min(finished, child.bound_yuan)
                if child.solved.objective_yuan < best.objective_yuan:
                    best = replace(child.solved, fixed_on=np.rint(child.solved.result.x[on_columns]))
            elif child.bound_yuan < best.objective_yuan:
                order += 1
                heapq.heappush(heap, (child.bound_yuan, order, child))
            else:
                settled.append(child)
    left = min((bound for bound, _, _ in heap), default=best.objective_yuan)
    leaves = (*settled, *(node for _, _, node in heap))
    return OpenSites(best, min(finished, left, best.objective_yuan), leaves)


def _search_spent(work: Work, trials: int, begun: float) -> bool:
    """Trials are used up; small programs, whose trials cost next to nothing, get ten times as many."""
    used = work.counts["site_trials"]
    is_small = work.counts["rows"] <= SMALL_ROWS and work.counts["lp_iterations"] - begun < SMALL_ITERATIONS
    return used >= (10 * trials if is_small else trials)


def _try_node(
    parent: _Node, lower: FloatArray, upper: FloatArray, model: PlanModel, master: Master, work: Work
) -> _Node:
    work.counts["site_trials"] += 1
    fixed = lower if np.array_equal(lower, upper) else None
    solved = solve_weighted(master, work, (lower, upper))
    bound = max(parent.bound_yuan, solved.objective_yuan + price_missing(solved, master).gain_yuan)
    return _Node(lower, upper, replace(solved, fixed_on=fixed), bound)


def _integral(solved: Solved, on_columns: IntArray) -> bool:
    on = solved.result.x[on_columns]
    return bool(np.all(np.abs(on - np.rint(on)) <= INTEGRAL))


def _first_guesses(
    relaxed_on: FloatArray, model: PlanModel, warm_start: PlanSolution | None
) -> list[FloatArray]:
    guesses = [np.rint(relaxed_on), (relaxed_on > INTEGRAL).astype(float)]
    if warm_start is not None and warm_start.site_on.shape == model.on_column.shape:
        site, block = model.keys["on"]
        first = np.searchsorted(model.sets.block_of_slot, block)
        guesses.insert(0, warm_start.site_on[site, first].astype(float))
    distinct = {guess.tobytes(): guess for guess in guesses}
    return list(distinct.values())
