"""The relaxation of a bulk plan: solved, sites rounded, and a bound computed from its duals alone.

The bound is Lagrangian: with any prices on every row but the demand of classes, a class costs at least its cheapest
replica times its demand, and every other column sits at its better bound. So the bound needs no trust in the simplex,
stays valid for duals of a tightened program (`Margins`), and follows demand and node counts without a new solve.

All solves of a plan go through one live GLOP (`Simplex`): the first by the primal simplex, the others by the dual one,
as only rows join and bounds move.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.bulk_bound import Leaf, bound_of, leaf_program, lower_bound
from solvers.bulk_gangs import dearer_yuan, gang_columns, with_gangs
from solvers.bulk_model import BulkModel, BulkSets, Cuts, broken_cuts, build, move_budget
from solvers.bulk_shares import device_rows
from solvers.first_order import approximate
from solvers.linear import LpLimits, LpResult, LpStatus, Program, TemporaryRow
from solvers.lp_session import Session
from solvers.problem import RESOURCES, W_PER_KW

INTEGRAL = 1e-6
SITE_TRIALS = 8
CUT_ROUNDS = 2
NEAR_ITERATIONS = (700, 500)
"""First-order steps before and after cuts: at 1 000 sites the bound is then within 1 % of the program's optimum."""
PROHIBITIVE = 3.0
LEAST_UNSERVED_YUAN = 0.1
PROHIBITIVE_YUAN_PER_KWH = 10.0
SMALLEST_SHARE = 1e-4
GANG_ROUNDS = 5
BRANCHING_FRAC = 0.8
"""Of the simplex iterations before: what branching over sites may take."""
MOST_UNUSED_FRAC = 0.3
"""Of a group's nodes: packing loses a few per cent; a lesson beyond this is one about something else."""
LEAST_ON_YUAN = 1e-3
SIDE_ROWS = ("floor", "spread", "links")


@dataclass(frozen=True)
class Margins:
    """Shares of limits that the program leaves to rounding and packing; bounds know nothing of them.

    `site` tightens power limits and minimum loads of sites, `link` links and floors, `ledger` (a share of F·h) ledgers.
    The values: rounding moves less than one replica per class and group, and nodes are whole; 0.4 % of a site's power
    keeps whole nodes within its limits on fleets of 10 000 nodes.
    """

    site: float = 0.004
    link: float = 0.002
    ledger: float = 0.02


PLAN_MARGINS = Margins()


Stop = Callable[[], bool]
"""Asked before every linear program; True cancels the plan."""


def never() -> bool:
    """Nobody cancels."""
    return False


class Unsolved(Exception):
    """A linear program did not end with an optimum."""


@dataclass(frozen=True)
class BulkLimits:
    """Work limits; `wall_s` only aborts, and so does `Stop`."""

    lp_iterations: int = 400_000
    """Over all solves of one plan."""
    branchings: int = 12
    """Over sites that the relaxation opens in part: two solves each, for the bound and the choice of sites."""
    enough_gap_frac: float = 0.0042
    """A plan this near to its bound that keeps its promises is not improved further: a round costs a tenth of a second
    and gains a hundredth of this from there."""
    long_iterations: int = 8_000
    long_gap_frac: float = 0.0048
    """The same where the relaxation took so many iterations, a second and a half: less time is left to improve."""
    wall_s: float = 600.0
    """For the whole plan. When it is over, the best plan so far is the answer, or the greedy one."""

    def is_enough(self, gap_frac: float | None, iterations: int) -> bool:
        """Whether a plan with this gap, found after so many iterations, is not worth another round."""
        enough = self.long_gap_frac if iterations > self.long_iterations else self.enough_gap_frac
        return gap_frac is not None and gap_frac <= enough


class Simplex:
    """A live GLOP for the programs of one plan: the same columns, rows that join at the end, bounds that move."""

    def __init__(
        self,
        limits: BulkLimits,
        stop: Stop = never,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self.limits, self._stop, self._clock = Session(), limits, stop, clock
        self._begun_s = clock()
        self.iterations = 0

    def solve(self, program: Program) -> LpResult:
        """The optimum; `Unsolved` where there is none within the limits."""
        left_s = self.limits.wall_s - (self._clock() - self._begun_s)
        left_iterations = self.limits.lp_iterations - self.iterations
        if self._stop():
            raise Unsolved("the plan was cancelled")
        if left_s <= 0 or left_iterations <= 0:
            raise Unsolved("linear program not begun: the limits are used up")
        left = LpLimits(left_iterations, left_s)
        columns = np.arange(program.matrix.shape[1])
        result = self._session.solve(program, columns, left)
        self.iterations += result.iterations
        if result.status is not LpStatus.OPTIMAL:
            raise Unsolved(f"linear program ended {result.status.value} {result.message}".rstrip())
        return result


@dataclass(eq=False)
class Relaxation:
    """The program of a problem with its answer: prices for the fill, and a bound."""

    model: BulkModel
    exact: Program
    """At margin 0: what bounds speak of."""
    duals: FloatArray
    """Of the first, exact solve: prices and proof. Later solves only make quotas; their duals carry penalties."""
    columns: FloatArray
    """The program's answer, sites open or closed as `site_on` says."""
    site_on: BoolArray
    bound_yuan: float | None
    """None: nothing was proven."""
    leaves: tuple[Leaf, ...]
    """The tree of sites open and closed that proves the bound."""
    side: sp.csr_array
    """[V, rows] coefficients of floors, spread and links."""
    side_upper: FloatArray
    iterations: int = 0
    device_rows: tuple[TemporaryRow, ...] = ()
    """What shares really take (`bulk_shares`): for quotas, not for the proof."""

    @property
    def sets(self) -> BulkSets:
        """Derived facts."""
        return self.model.sets

    @property
    def x(self) -> FloatArray:
        """[V] replicas."""
        return self.model.values("x", self.columns)

    @property
    def nodes(self) -> FloatArray:
        """[G] nodes on."""
        return self.model.values("nodes", self.columns)

    @property
    def debt_kwh(self) -> FloatArray:
        """[S] ledger debt that the program accepts."""
        debt = np.zeros(len(self.site_on))
        if "ledger" in self.model.rows:
            debt[self.model.keys["ledger"]] = self.model.values("debt_kwh", self.columns)
        return debt

    @property
    def kw_yuan(self) -> FloatArray:
        """[S] what one more kW of IT power costs over the slot: the dual, but no less than its energy.

        A dual below that is relief of a minimum load (hourly cap), which ends once the load is met.
        """
        s, sites = self.sets, self.sets.problem.sites
        it_kw = np.maximum(
            np.bincount(s.pair_site, weights=s.useful_kw * self.x, minlength=len(s.power_limit_kw)), 0.0
        )
        slope = 1 + sites.loss_slope[:, 0] + 2 * sites.loss_square[:, 0] / sites.rated_kw * it_kw
        return np.maximum(-self.model.duals("it_power", self.duals), s.energy_yuan_per_kwh * s.hours * slope)

    @property
    def room_yuan(self) -> FloatArray:
        """[V] what the room of one replica on nodes is worth: duals of capacity and sharp rows."""
        rows = np.zeros(len(self.duals))
        for name, block in self.model.rows.items():
            if name == "capacity" or name.startswith("sharp"):
                rows[block.slice] = 1.0
        worth = -(self.exact.matrix.T @ (self.duals * rows))[self.model.columns["x"].slice]
        return np.asarray(np.maximum(worth, 0.0))

    @property
    def unit_yuan(self) -> FloatArray:
        """[V] cost of one more replica: its power at `kw_yuan`, other money, and duals of links, spread, floors and
        ledgers; demand, moves and capacity of nodes left out.
        """
        s, x = self.sets, self.model.columns["x"].slice
        rows = np.ones(len(self.duals))
        for name, block in self.model.rows.items():
            if name in ("demand", "moves", "capacity", "it_power", "padding") or name.startswith("sharp"):
                rows[block.slice] = 0.0
        priced = (self.exact.matrix.T @ (self.duals * rows))[x]
        return np.asarray(self.exact.cost[x] - priced + s.dynamic_kw * self.kw_yuan[s.pair_site])


def relax(sets: BulkSets, simplex: Simplex, *, trials: int = SITE_TRIALS) -> Relaxation:
    """Solve and sharpen the relaxation for its bound; then choose the open sites and solve with margins for the plan.

    `Unsolved` where a limit ends a solve.
    """
    cuts: list[Cuts] = []
    model = build(sets)
    exact = model.lp.program()
    result = simplex.solve(exact)
    for _ in range(CUT_ROUNDS):
        more = broken_cuts(sets, *(model.values(n, result.x) for n in ("x", "nodes", "on")))
        if not more.count:
            break
        cuts.append(more)
        model = build(sets, cuts)
        exact = model.lp.program()
        result = simplex.solve(exact)
    leaves, on = branch_on_sites(model, exact, result, simplex)
    if (
        "move_budget" in model.rows
    ):  # the bound knows no budget: a site with work on it may only close in a trial
        running = sets.problem.pairs.running_count[sets.pair]
        works = np.bincount(sets.pair_site, weights=running, minlength=len(on)) > 0
        on = np.where(works, np.maximum(on, 0.5), on)
    site_on, answer = choose_sites(model, exact, on, simplex, trials)
    with suppress(Unsolved):  # parts of gangs are quotas too: rounding makes whole ones of them
        answer = whole_gangs(model, exact, site_on, answer, simplex)
    side, upper = side_rows(model, exact)
    return Relaxation(
        model, exact, result.duals, answer.x, site_on, bound_of(model, exact, leaves), leaves, side, upper,
        simplex.iterations,
    )  # fmt: skip


def relax_nearly(
    sets: BulkSets, iterations: Sequence[int] = NEAR_ITERATIONS, *, threads: int = 1
) -> Relaxation:
    """The relaxation by first-order steps, for programs that a simplex does not finish: iterations[i] with
    the cuts of i rounds. Prices and bound are those of its duals (any duals prove a bound); sites are open
    where it opens them at all.
    """
    cuts: list[Cuts] = []
    near, bound, spent = None, -np.inf, 0
    for number, limit in enumerate(iterations):
        model = build(sets, cuts)
        exact = model.lp.program()
        near = approximate(exact, *_conditioned(model, exact), limit, threads=threads, start=near)
        spent += near.iterations
        bound = max(bound, lower_bound(model, exact, near.duals))
        if number + 1 < len(iterations):
            more = broken_cuts(sets, *(model.values(n, near.x) for n in ("x", "nodes", "on")))
            if not more.count:
                break
            cuts.append(more)
    assert near is not None
    side, upper = side_rows(model, exact)
    site_on = model.values("on", near.x) > INTEGRAL
    leaves = (Leaf.root(len(site_on), near.duals),)
    return Relaxation(model, exact, near.duals, near.x, site_on, bound, leaves, side, upper, spent)


def _conditioned(model: BulkModel, exact: Program) -> tuple[FloatArray, FloatArray]:
    """(cost, column scale) that first-order steps thrive on.

    Penalties become just prohibitive: unserved work costs `PROHIBITIVE` times what it costs to run anywhere, excesses
    `PROHIBITIVE_YUAN_PER_KWH`. Replicas are counted in nodes they take.
    """
    s, p = model.sets, model.sets.problem
    classes = np.maximum(np.bincount(s.pair_class, minlength=len(s.demand)), 1)
    kwh_yuan = (s.energy_yuan_per_kwh * s.hours * (1 + p.sites.loss_slope[:, 0]))[s.pair_site]
    run_yuan = s.dynamic_kw + s.dominant * p.groups.idle_w[s.pair_group] / W_PER_KW
    run_yuan = run_yuan * kwh_yuan + p.pairs.other_yuan_per_replica_h[s.pair] * s.hours
    dearest = np.zeros(len(s.demand))
    np.maximum.at(dearest, s.pair_class, run_yuan)
    cost, scale = exact.cost.copy(), np.ones(len(exact.cost))
    x, unserved = model.columns["x"].slice, model.columns["unserved"].slice
    cost[unserved] = np.minimum(cost[unserved], PROHIBITIVE * dearest + LEAST_UNSERVED_YUAN)
    for name in ("debt_kwh", "portfolio_debt_kwh", "cap_excess_kw"):
        if name in model.columns:
            block = model.columns[name].slice
            cost[block] = np.minimum(cost[block], PROHIBITIVE_YUAN_PER_KWH * s.hours)
    scale[x] = 1 / np.maximum(s.dominant, SMALLEST_SHARE)
    mean = np.bincount(s.pair_class, weights=s.dominant, minlength=len(s.demand)) / classes
    scale[unserved] = 1 / np.maximum(mean, SMALLEST_SHARE)
    return cost, scale


def unpriced(sets: BulkSets) -> Relaxation:
    """No relaxation: every site open, energy as the only price, no quotas and no bound. What greedy plans go by."""
    model = build(sets)
    exact = model.lp.program()
    side, upper = side_rows(model, exact)
    site_on = sets.power_limit_kw > 0
    site_on |= ~sets.problem.sites.may_close
    rows, columns = exact.matrix.shape
    leaves = (Leaf.root(len(site_on), np.zeros(rows)),)
    return Relaxation(model, exact, np.zeros(rows), np.zeros(columns), site_on, None, leaves, side, upper)


def choose_sites(
    model: BulkModel, exact: Program, on: FloatArray, simplex: Simplex, trials: int
) -> tuple[BoolArray, LpResult]:
    """(site_on, answer with them): open what the relaxation opens at all, then close, those that cannot hold a hard
    cap and the least open first, each site without which the program costs less. Sites the relaxation leaves closed
    stay closed.
    """
    site_on = on > INTEGRAL
    best = simplex.solve(plan_program(model, exact, site_on))
    excess = np.zeros(len(on))
    if "hourly_cap" in model.rows:
        excess[model.keys["hourly_cap"]] = model.values("cap_excess_kw", best.x)
    broken = model.sets.problem.sites.hourly_is_hard & (excess > INTEGRAL)
    doubtful = np.flatnonzero(site_on & (on < 1 - INTEGRAL))
    for s in doubtful[np.lexsort((on[doubtful], ~broken[doubtful]))][:trials]:
        trial = site_on.copy()
        trial[s] = False
        answer = simplex.solve(plan_program(model, exact, trial))
        if answer.objective < best.objective:
            site_on, best = trial, answer
    return site_on, best


def whole_gangs(
    model: BulkModel, exact: Program, site_on: BoolArray, answer: LpResult, simplex: Simplex
) -> LpResult:
    """The answer with whole gangs in every group (`bulk_gangs`), or as it is where they do not go together.

    Where gangs find no room so, they are divided again, and no more of them sent there than found it.
    """
    columns, unserved = gang_columns(model), model.columns["unserved"].slice
    of_class = model.sets.pair_class[columns - model.columns["x"].start]
    size = model.sets.problem.classes.gang_size[of_class]
    free, left = plan_program(model, exact, site_on), answer.x[unserved]
    dearer = dearer_yuan(model, free, answer.duals)
    for _ in range(GANG_ROUNDS):
        program = with_gangs(model, free, answer, dearer)
        if program is None:
            break
        trial = simplex.solve(program)
        homeless = trial.x[unserved] > left + INTEGRAL
        if not homeless.any():
            return trial
        found = trial.x[columns]
        crowded = homeless[of_class] & (found < program.upper[columns] - INTEGRAL)
        free.upper[columns[crowded]] = np.floor(found[crowded] / size[crowded] + INTEGRAL) * size[crowded]
        if not crowded.any():  # other work finds no room: where it would, the room that gangs took is dear
            dearer = np.maximum(dearer, dearer_yuan(model, free, trial.duals))
    return answer


def branch_on_sites(
    model: BulkModel, exact: Program, root: LpResult, simplex: Simplex
) -> tuple[tuple[Leaf, ...], FloatArray]:
    """Leaves of a best-first tree over sites that the relaxation opens in part, after at most so many branchings,
    and [S] how far the least leaf opens each site.

    It ends early where the least leaf has only whole sites: nothing more to prove, and no better choice of sites.
    """
    on_yuan = exact.cost[model.columns["on"].slice]
    first = Leaf.root(len(on_yuan), root.duals)
    open_leaves = [(lower_bound(model, exact, root.duals), 0, first, model.values("on", root.x))]
    done: list[Leaf] = []
    made, most = 1, simplex.iterations * (1 + BRANCHING_FRAC)
    for _ in range(simplex.limits.branchings):
        if simplex.iterations > most:
            break
        _, _, leaf, on = open_leaves[0]
        part = on * (1 - on)
        doubtful = np.flatnonzero((np.minimum(on, 1 - on) > INTEGRAL) & ~leaf.opened & ~leaf.closed)
        if not len(doubtful):
            break
        s = doubtful[np.argmax(part[doubtful] * np.maximum(on_yuan[doubtful], LEAST_ON_YUAN))]
        heapq.heappop(open_leaves)
        for child in leaf.branches(int(s)):
            program = leaf_program(model, exact, child)
            try:
                answer = simplex.solve(program)
            except Unsolved:
                done.append(child)  # no new duals: those of the parent prove what they can
                continue
            told = replace(child, duals=answer.duals)
            bound = lower_bound(model, program, answer.duals)
            heapq.heappush(open_leaves, (bound, made, told, model.values("on", answer.x)))
            made += 1
        if not open_leaves:
            return tuple(done), on
    return (*done, *(leaf for _, _, leaf, _ in open_leaves)), open_leaves[0][3]


def tightened(
    relaxation: Relaxation,
    simplex: Simplex,
    least_nodes: FloatArray,
    most_nodes: FloatArray,
    settled: IntArray,
    count: FloatArray,
    ledger_margin_kwh: FloatArray,
    cap_margin_kw: FloatArray,
    unused_nodes: FloatArray,
    fewer_moves: float,
    less_on_side: FloatArray,
) -> Relaxation:
    """Solve again with the sites as they are, least_nodes[G] to most_nodes[G] nodes of which packing leaves
    unused_nodes[G, R + F] in a resource or sharp row, at most count replicas on settled pairs, ledger_margin_kwh[S]
    less released to each site, hourly caps met by cap_margin_kw[S] of facility power more, fewer moves, and
    less_on_side[rows] of each floor, spread and link left free.
    """
    model = relaxation.model
    program = plan_program(model, relaxation.exact, relaxation.site_on)
    nodes, x = model.columns["nodes"].slice, model.columns_of("x")[settled]
    program.upper[nodes] = np.clip(most_nodes, 0.0, program.upper[nodes])
    program.lower[nodes] = np.clip(least_nodes, 0.0, program.upper[nodes])
    program.upper[x] = count
    if "move_budget" in model.rows:
        program.row_upper[model.rows["move_budget"].slice] -= fewer_moves
    side = side_row_index(model)
    upper = program.row_upper[side]
    program.row_upper[side] = np.maximum(upper - less_on_side, np.minimum(upper, 0.0))
    usable = relaxation.site_on[model.sets.problem.groups.site]
    unused_nodes = np.minimum(unused_nodes, MOST_UNUSED_FRAC * model.sets.nodes[:, None])
    for name in model.rows:
        if name == "capacity" or name.startswith("sharp"):
            table = (
                unused_nodes[:, : len(RESOURCES)] if name == "capacity" else unused_nodes[:, len(RESOURCES) :]
            )
            program.row_upper[model.rows[name].slice] -= (table * usable[:, None]).ravel()[model.keys[name]]
    if "hourly_cap" in model.rows:
        block, members = model.rows["hourly_cap"].slice, model.keys["hourly_cap"]
        most = model.sets.problem.sites.fixed_kw[members, 0]  # what the excess column can always take
        program.row_lower[block] = np.minimum(program.row_lower[block] + cap_margin_kw[members], most)
    if "ledger" in model.rows:
        block, members = model.rows["ledger"].slice, model.keys["ledger"]
        program.row_upper[block] -= ledger_margin_kwh[members]
    result = simplex.solve(program.with_rows(relaxation.device_rows, are_elastic=False))
    return replace(relaxation, columns=result.x, iterations=simplex.iterations)


def packable(relaxation: Relaxation, name: str) -> Relaxation | None:
    """The relaxation with rows for the shares that its devices do not hold (`bulk_shares`); None: they hold all."""
    rows = device_rows(relaxation.model, relaxation.x, relaxation.nodes, name)
    return replace(relaxation, device_rows=(*relaxation.device_rows, *rows)) if rows else None


def sharpened(relaxation: Relaxation) -> Relaxation | None:
    """The relaxation with the sharp rows that its answer breaks and no round of cuts has met yet; None: it breaks none.

    Its duals and leaves prove what they proved: the new rows come last, with duals of zero.
    """
    model = relaxation.model
    known = np.concatenate([cut.sharp for cut in model.cuts] or [np.zeros(0, dtype=np.int64)])
    x, nodes, on = (model.values(n, relaxation.columns) for n in ("x", "nodes", "on"))
    broken = np.setdiff1d(broken_cuts(model.sets, x, nodes, on).sharp, known)
    if not len(broken):
        return None
    wider = build(model.sets, (*model.cuts, Cuts(broken, np.zeros(0, dtype=np.int64))))

    def padded(duals: FloatArray) -> FloatArray:
        return np.append(duals, np.zeros(len(broken)))

    leaves = tuple(replace(leaf, duals=padded(leaf.duals)) for leaf in relaxation.leaves)
    return replace(
        relaxation, model=wider, exact=wider.lp.program(), duals=padded(relaxation.duals), leaves=leaves
    )


def plan_program(
    model: BulkModel, exact: Program, site_on: BoolArray, margins: Margins = PLAN_MARGINS
) -> Program:
    """The exact program for a plan: sites fixed open or closed, right-hand sides tightened by the margins."""
    sites, s = model.sets.problem.sites, model.sets
    program = replace(
        exact, lower=exact.lower.copy(), upper=exact.upper.copy(), row_lower=exact.row_lower.copy(),
        row_upper=exact.row_upper.copy(),
    )  # fmt: skip
    on = model.columns["on"].slice
    program.lower[on] = program.upper[on] = site_on.astype(float)
    fixed_kwh = sites.fixed_kw[:, 0] * s.hours
    for name, block in model.rows.items():
        members, upper = model.keys[name], program.row_upper[block.slice]
        if name == "power_limit":
            upper -= margins.site * np.where(site_on, s.power_limit_kw, 0.0)[members]
        elif name in ("floor", "links"):
            upper *= 1 - margins.link
        elif name == "hourly_cap":
            fixed_kw = np.where(site_on, sites.fixed_kw[:, 0], 0.0)
            program.row_lower[block.slice] += margins.site * fixed_kw[members]
        elif name == "ledger":
            upper -= margins.ledger * fixed_kwh[members]
        elif name == "move_budget":
            upper[:] = move_budget(s)
        elif name == "portfolio":
            upper -= margins.ledger * fixed_kwh[sites.is_edge].sum()
    return program


def side_rows(model: BulkModel, exact: Program) -> tuple[sp.csr_array, FloatArray]:
    """([V, rows], [rows]) coefficients and limits of floors, spread and links."""
    rows = side_row_index(model)
    part = exact.matrix[rows][:, model.columns["x"].slice]
    return sp.csr_array(part.T.tocsr()), exact.row_upper[rows]


def side_row_index(model: BulkModel) -> IntArray:
    """Positions of the rows of floors, spread and links."""
    found = [model.rows[n].index for n in SIDE_ROWS if n in model.rows]
    return np.concatenate(found or [np.zeros(0, dtype=np.int64)])
