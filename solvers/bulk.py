"""One period of a large fleet, planned down to the node, with a bound that holds for the nodes.

`solve_bulk` reads as the process:

1. relaxation   the bulk model (`bulk_model`) as a linear program, sites rounded (`bulk_relax`); duals prove the bound
                (`bulk_shares`: solved again where devices do not hold the shares that it sends to groups)
2. quotas       whole replicas and whole gangs per class and group (`bulk_fill`)
3. nodes        quotas onto nodes, all groups at once (`node_fill`), largest first, evenly filled; swaps inside a
                group make room for what a step left out (`bulk_swaps`)
4. yields       nodes of full groups that filling could not use are taken off, and 1–3 repeated from the last basis,
                until the gap is small enough
5. rest         what did not fit goes where prices say it costs least, within every limit
6. count        plan and placements, every figure counted again from the replicas on their nodes (`bulk_report`);
                at last nodes that the best plan can do without are emptied
7. certificate  the duals as multipliers of rules, for `suanli verify` (`bulk_certificate`)

Deterministic for a problem: one thread, limits on simplex iterations. Capacity of nodes and devices, candidates, gangs,
islands, spread, links, floors and power limits hold exactly for what is returned; work that finds no room is counted as
unserved.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from solvers.archive import FloatArray
from solvers.bulk_certificate import with_certificate
from solvers.bulk_fill import WHOLE, Filling, Mend, whole_quotas
from solvers.bulk_model import HARD_CAP_YUAN, OVER_BUDGET_YUAN, bulk_sets
from solvers.bulk_relax import (
    CUT_ROUNDS,
    BulkLimits,
    Relaxation,
    Simplex,
    Stop,
    Unsolved,
    never,
    packable,
    relax,
    sharpened,
    tightened,
    unpriced,
)
from solvers.bulk_report import hard_excess_kwh, make_solution, moves_over_budget, node_placements
from solvers.bulk_swaps import swap_for_quotas
from solvers.clock import Clock
from solvers.node_fill import FleetState
from solvers.problem import PlacementProblem
from solvers.solution import NodePlacements, PlanSolution

SLIVER = 0.6
"""In a dive, last nodes used less than this are saved and their work moves elsewhere; others are paid."""
DIVES = 3
"""Solves by which numbers of nodes become whole: work that moves opens parts of nodes elsewhere."""
CAUTION = 1.3
"""What whole nodes owe beyond the program is taken off the next release this many times."""
YIELD_ROUNDS = 2
"""Times the relaxation is solved again with the nodes that filling could not use taken off."""
SWAP_ROUNDS = 3
"""Rounds after the first in which packing swaps; later ones look for a plan that leaves nothing out, and another
packing is a chance."""
DRAINS, MOST_DRAINS = 10, 60
"""Nodes that the finished plan tries to do without, 5 ms each; the second where its gap is not small enough: saves up
to 0.1 % where groups are small."""
NEGLIGIBLE_YUAN = 1e-9
SHARE_ROUNDS = 2
"""Times the program is solved again with rows for shares that devices do not hold, 0.03 s each."""
MOST_ROUNDS = 6
"""Rounds beyond the third only where a hard cap does not hold yet."""


@dataclass(frozen=True, eq=False)
class BulkPlan:
    """A plan on nodes with its proof. `filling` is what `replan` continues from."""

    solution: PlanSolution
    filling: Filling
    progress: tuple[tuple[float, float], ...] = ()
    """(processor seconds since the start, gap of the best plan so far) after each filling that was counted."""

    @property
    def relaxation(self) -> Relaxation:
        """Prices and bound."""
        return self.filling.relaxation

    @property
    def placements(self) -> NodePlacements:
        """Every replica on its node and devices."""
        return node_placements(self.filling.sets, self.filling.fleet, self.filling.all_booked())

    def certified(self) -> PlanSolution:
        """The solution with its certificate, made anew (0.1–0.2 s at 10 000 nodes) where a re-plan left it out."""
        return (
            self.solution if self.solution.certificate else with_certificate(self.relaxation, self.solution)
        )


@dataclass(eq=False)
class Lessons:
    """What filling nodes teaches the next program."""

    unused_nodes: FloatArray
    """[G, R + F] nodes of a resource or sharp row that filling could not use."""
    ledger_kwh: FloatArray
    """[S] owed beyond the program, to be released less."""
    cap_kw: FloatArray
    """[S] short of a hard hourly cap, to be met by more."""
    less_on_side: FloatArray
    """[rows] of floors, spread and links that must stay free, where they kept the last replicas of a class out."""
    fewer_moves: float = 0.0
    """Moves that whole replicas on nodes needed beyond the budget."""

    @classmethod
    def none(cls, relaxation: Relaxation) -> Lessons:
        """Before the first filling."""
        sites = np.zeros(relaxation.sets.problem.site_count)
        s = relaxation.sets
        rows = s.share.shape[1] + s.sharp.shape[1]
        side = np.zeros(len(relaxation.side_upper))
        return cls(np.zeros((s.problem.group_count, rows)), sites, sites.copy(), side)

    def learn_yields(self, filling: Filling, *, is_late: bool = False) -> None:
        """Where a group was full and quotas did not fit, it has fewer nodes than it seems."""
        quota = whole_quotas(filling.sets, filling.relaxation.x)
        unused, homeless = filling.unused_nodes(quota, is_late=is_late)
        self.unused_nodes = np.maximum(self.unused_nodes, unused) + homeless
        self.less_on_side = self.less_on_side + filling.lacking_on_side()

    def learn_caps(self, filling: Filling, solution: PlanSolution) -> None:
        """What whole nodes owe and lack beyond the program."""
        hard = filling.sets.problem.sites.hourly_is_hard
        owed = np.maximum(solution.ledger_debt_kwh - filling.relaxation.debt_kwh, 0.0)
        self.fewer_moves += moves_over_budget(filling.sets.problem, solution.running_count[:, 0])
        short = np.where(hard, solution.cap_excess_kw[:, 0], 0.0)
        # what a lesson did not cure is doubled: one replica more or less may weigh more than what is owed
        self.ledger_kwh = self.ledger_kwh + np.where(
            owed > 0, np.maximum(CAUTION * owed, self.ledger_kwh), 0.0
        )
        self.cap_kw = self.cap_kw + np.where(short > 0, np.maximum(CAUTION * short, self.cap_kw), 0.0)


def solve_bulk(
    problem: PlacementProblem, *, limits: BulkLimits | None = None, stop: Stop = never, certify: bool = True
) -> BulkPlan:
    """Plan one slot onto nodes: always an answer, but `NotBulk` for what the model does not know (`bulk_sets`).

    With `certify` the solution carries its certificate (a twentieth to a tenth of the time).

    Where `limits` or `stop` end it, in this order: the best plan so far; the greedy plan, which needs no program. The
    plan's message then says why, and its method which. `stop` is asked before every program and every node that is to
    be emptied at last; the plan that stands then is still certified. Used-up `limits` leave out programs only.
    """
    simplex, clock = Simplex(limits or BulkLimits(), stop), Clock()
    best: tuple[Filling, PlanSolution] | None = None
    begun, progress, why = time.process_time(), [], ""
    with clock.phase("total"):
        try:
            with clock.phase("relaxation"):
                relaxation = relax(bulk_sets(problem), simplex)
            with clock.phase("shares"):
                relaxation = with_packable_shares(relaxation, simplex)
            lessons = Lessons.none(relaxation)
            for number in range(MOST_ROUNDS + 1):
                with clock.phase("nodes"):
                    filling = filled(relaxation, swap_for_quotas if number <= SWAP_ROUNDS else None)
                with clock.phase("rest"):
                    completed(filling)
                with clock.phase("count"):
                    solution = counted(filling)
                if best is None or weighted(filling, solution) < weighted(*best):
                    best = filling, solution
                progress.append((time.process_time() - begun, best[1].bounds[0].gap_frac or 0.0))
                is_late = number >= YIELD_ROUNDS
                is_enough = simplex.limits.is_enough(best[1].bounds[0].gap_frac, simplex.iterations)
                if (number > YIELD_ROUNDS or is_enough) and keeps_promises(*best):
                    break
                with clock.phase("yields"):
                    lessons.learn_yields(filling, is_late=is_late)
                    if is_late:
                        lessons.learn_caps(filling, solution)
                    if number > YIELD_ROUNDS + 1:
                        relaxation = with_caps_given_up(relaxation, solution)
                    improve = dive if is_late else tightened_by
                    relaxation = improve(lessons, filling, relaxation, simplex)
        except Unsolved as unsolved:
            why = str(unsolved)
            if best is None:
                greedy = greedy_bulk(problem)
                return replace(greedy, solution=replace(greedy.solution, message=why))
        assert best is not None
        if moves_over_budget(problem, best[1].running_count[:, 0]) > WHOLE:
            filling = as_it_runs(best[0].relaxation)
            solution = counted(filling)
            best = min(best, (filling, solution), key=lambda plan: weighted(*plan))
        filling, solution = best
        with clock.phase("drain"):
            gap_frac = solution.bounds[0].gap_frac if solution.bounds else None
            is_enough = simplex.limits.is_enough(gap_frac, simplex.iterations)
            solution = drained(filling, solution, stop, DRAINS if is_enough else MOST_DRAINS)
        if certify:
            with clock.phase("certificate"):
                solution = with_certificate(filling.relaxation, solution)
    return BulkPlan(replace(solution, seconds=clock.seconds, message=why), filling, tuple(progress))


def with_packable_shares(relaxation: Relaxation, simplex: Simplex) -> Relaxation:
    """The program solved again until devices hold the shares that it sends to groups."""
    s, lessons = relaxation.sets, Lessons.none(relaxation)
    gangs = np.flatnonzero(s.problem.classes.gang_size[s.pair_class] > 1)
    for number in range(SHARE_ROUNDS):
        wider = packable(relaxation, f"devices{number}")
        if wider is None:
            break
        relaxation = tightened(
            wider,
            simplex,
            np.zeros(len(s.nodes)),
            s.nodes,
            gangs,
            np.maximum(relaxation.x[gangs], 0.0),
            lessons.ledger_kwh,
            lessons.cap_kw,
            lessons.unused_nodes,
            lessons.fewer_moves,
            lessons.less_on_side,
        )
    return relaxation


def tightened_by(
    lessons: Lessons, filling: Filling, relaxation: Relaxation, simplex: Simplex,
    least_nodes: FloatArray | None = None, most_nodes: FloatArray | None = None,
) -> Relaxation:  # fmt: skip
    """The program solved again with what was learned, gangs where they were placed, and the sharp rows that it then
    breaks: what lessons drive out of full groups opens nodes of kinds that the first program left alone.
    """
    gangs = filling.gang_pairs
    nodes = relaxation.sets.nodes
    least = np.zeros(len(nodes)) if least_nodes is None else least_nodes
    most = nodes if most_nodes is None else most_nodes
    solved = relaxation
    for _ in range(CUT_ROUNDS + 1):
        solved = tightened(
            solved,
            simplex,
            least,
            most,
            gangs,
            filling.placed[gangs],
            lessons.ledger_kwh,
            lessons.cap_kw,
            lessons.unused_nodes,
            lessons.fewer_moves,
            lessons.less_on_side,
        )
        wider = sharpened(solved)
        if wider is None:
            break
        solved = wider
    return solved


def dive(lessons: Lessons, filling: Filling, relaxation: Relaxation, simplex: Simplex) -> Relaxation:
    """Whole nodes: of each group the last, partly used node is saved or paid for in full, and the program solved again.

    A group that uses all it has is left alone: its last part is what packing loses.
    """
    relaxation = tightened_by(lessons, filling, relaxation, simplex)
    installed = relaxation.sets.nodes
    least, most = np.zeros(len(installed)), installed.copy()
    for _ in range(DIVES):
        nodes = relaxation.nodes
        part = nodes - np.floor(nodes + WHOLE)
        partial = (part > WHOLE) & (nodes < installed - WHOLE)
        if not partial.any():
            break
        up = partial & ((part >= SLIVER) | (np.ceil(nodes) <= least))
        least = np.where(up, np.minimum(np.ceil(nodes), installed), least)
        most = np.where(partial & ~up, np.maximum(np.floor(nodes + WHOLE), least), most)
        try:
            relaxation = tightened_by(lessons, filling, relaxation, simplex, least, most)
        except Unsolved:
            break  # whole nodes that do not go together: the last program that had an answer stands
    return relaxation


def with_caps_given_up(relaxation: Relaxation, solution: PlanSolution) -> Relaxation:
    """Sites closed whose hard hourly cap lessons did not help to hold, where they may close."""
    sites = relaxation.sets.problem.sites
    broken = sites.hourly_is_hard & sites.may_close & (solution.cap_excess_kw[:, 0] > 0)
    return replace(relaxation, site_on=relaxation.site_on & ~broken)


def greedy_bulk(problem: PlacementProblem) -> BulkPlan:
    """The plan without a relaxation: every class, largest shapes first, where its energy costs least now; no bound.

    The fallback when no program can be solved, and the baseline of the benchmarks (cheapest site, best fit).
    """
    clock = Clock()
    with clock.phase("total"):
        filling = Filling(unpriced(bulk_sets(problem)), FleetState.empty(problem))
        completed(filling)
        solution = counted(filling)
    return BulkPlan(replace(solution, seconds=clock.seconds, method="greedy"), filling)


def broken_caps_kwh(problem: PlacementProblem, solution: PlanSolution) -> float:
    """Energy above hard caps."""
    excess = solution.cap_excess_kw[:, 0] * float(problem.slots.hours[0])
    return hard_excess_kwh(problem, excess, solution.ledger_debt_kwh, solution.portfolio_debt_kwh)


def keeps_promises(filling: Filling, solution: PlanSolution) -> bool:
    """Hard caps hold, nothing is left out that the program serves, and no budget of moves exceeded that it keeps."""
    relaxation = filling.relaxation
    left_out = relaxation.model.values("unserved", relaxation.columns)
    served = bool((solution.unserved_count[:, 0] <= left_out + 1 - WHOLE).all())
    planned = np.zeros(filling.sets.problem.pair_count)
    planned[filling.sets.pair] = relaxation.x
    p = filling.sets.problem
    moves = moves_over_budget(p, solution.running_count[:, 0]) - moves_over_budget(p, planned)
    return served and moves <= WHOLE and broken_caps_kwh(p, solution) <= WHOLE


def weighted(filling: Filling, solution: PlanSolution) -> float:
    """What plans are compared by: cost, with ranks of unserved work and hard caps weighed as in the program."""
    sets = filling.sets
    plain_yuan = sets.problem.classes.unserved_yuan_per_replica_h * sets.hours
    ranks_yuan = float((sets.unserved_yuan - plain_yuan) @ solution.unserved_count[:, 0])
    ranks_yuan += OVER_BUDGET_YUAN * moves_over_budget(sets.problem, solution.running_count[:, 0])
    return solution.objective_yuan + ranks_yuan + HARD_CAP_YUAN * broken_caps_kwh(sets.problem, solution)


def drained(
    filling: Filling, solution: PlanSolution, stop: Stop = never, tries: int = DRAINS
) -> PlanSolution:
    """The solution after nodes were emptied, the emptiest of a group at a time, where their work elsewhere saves.

    `stop` ends it between two nodes; the filling is then that of the solution returned.
    """
    p = filling.sets.problem
    idle_yuan = p.groups.idle_w * filling.kw_yuan[p.groups.site]
    in_vain, least_yuan = np.zeros(p.group_count, dtype=bool), weighted(filling, solution)
    for _ in range(tries):
        if stop():
            break
        worth = np.where(in_vain, 0.0, filling.emptiest_frac() * idle_yuan)
        g = int(worth.argmax())
        if worth[g] <= 0:
            break
        before = filling.snapshot()
        filling.empty_nodes(g, 1)
        filling.place_few()
        filling.settle()
        trial = counted(filling)
        trial_yuan = weighted(filling, trial)
        if trial_yuan < least_yuan - NEGLIGIBLE_YUAN:
            solution, least_yuan = trial, trial_yuan
        else:
            filling.restore(before)
            in_vain[g] = True
    return solution


def completed(filling: Filling) -> None:
    """Everything that waits, where prices say; the padding rule; room for what found none."""
    filling.place_rest()
    filling.keep_padding()
    filling.note_packing()
    filling.make_room()
    filling.meet_minimum_loads()
    filling.keep_padding()
    filling.settle()


def filled(relaxation: Relaxation, mend: Mend | None = swap_for_quotas) -> Filling:
    """The quotas of a relaxation on empty nodes, and every gang that finds room."""
    filling = Filling(relaxation, FleetState.empty(relaxation.sets.problem))
    quota = whole_quotas(relaxation.sets, relaxation.x)
    filling.place_quotas(quota, relaxation.nodes, mend)
    filling.place_rest(only=filling.gang > 1)
    return filling


def as_it_runs(relaxation: Relaxation) -> Filling:
    """What runs packed again in the groups where it runs, as far as it is wanted; then the rest. Few moves, dear."""
    sets = relaxation.sets
    running = np.asarray(sets.problem.pairs.running_count[sets.pair], dtype=float)
    ran = np.bincount(sets.pair_class, weights=running, minlength=len(sets.demand))
    kept = np.divide(np.minimum(ran, sets.demand), ran, out=np.zeros(len(ran)), where=ran > 0)
    filling = Filling(relaxation, FleetState.empty(sets.problem))
    filling.place_quotas(whole_quotas(sets, running * kept[sets.pair_class]))
    completed(filling)
    return filling


def counted(filling: Filling) -> PlanSolution:
    """The plan that a filling amounts to, against the bound of its relaxation."""
    return make_solution(filling.relaxation, filling.nodes_on, filling.placed, filling.relaxation.bound_yuan)
