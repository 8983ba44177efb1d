"""One period of a large fleet, planned down to the node, with a bound that holds for the nodes.

`solve_bulk` reads as the process:

1. relaxation   the bulk model (`bulk_model`) as a linear program, sites rounded (`bulk_relax`); duals prove the bound
2. quotas       whole replicas and whole gangs per class and group (`bulk_fill`)
3. nodes        quotas onto nodes, all groups at once (`node_fill`), largest first, evenly filled
4. yields       nodes of full groups that filling could not use are taken off, and 1–3 repeated from the last basis
5. rest         what did not fit goes where prices say it costs least, within every limit
6. count        plan and placements, every figure counted again from the replicas on their nodes (`bulk_report`)

Deterministic for a problem: one thread, limits on simplex iterations. Capacity of nodes and devices, candidates, gangs,
islands, spread, links, floors and power limits hold exactly for what is returned; work that finds no room is counted as
unserved.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from solvers.archive import FloatArray
from solvers.bulk_fill import WHOLE, Filling, whole_quotas
from solvers.bulk_model import HARD_CAP_YUAN, bulk_sets
from solvers.bulk_relax import BulkLimits, Relaxation, Simplex, Unsolved, relax, tightened, unpriced
from solvers.bulk_report import hard_excess_kwh, make_solution, node_placements
from solvers.node_fill import FleetState
from solvers.problem import PlacementProblem
from solvers.solution import NodePlacements, PlanSolution

SLIVER = 0.6
"""Last nodes used less than this are saved, and their work moves to its next best place, in the last solve."""
CAUTION = 1.3
"""What whole nodes owe beyond the program is taken off the next release this many times."""
MOST_ROUNDS = 5
"""Rounds beyond the third only where a hard cap does not hold yet."""
YIELD_ROUNDS = 2
"""Times the relaxation is solved again with the nodes that filling could not use taken off."""


@dataclass
class Clock:
    """Wall clock by phase, for reports only."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


@dataclass(frozen=True, eq=False)
class BulkPlan:
    """A plan on nodes with its proof. `filling` is what `replan` continues from."""

    solution: PlanSolution
    filling: Filling

    @property
    def relaxation(self) -> Relaxation:
        """Prices and bound."""
        return self.filling.relaxation

    @property
    def placements(self) -> NodePlacements:
        """Every replica on its node and devices."""
        return node_placements(self.filling.sets, self.filling.fleet, self.filling.all_booked())


def solve_bulk(problem: PlacementProblem, *, limits: BulkLimits | None = None) -> BulkPlan:
    """Plan one slot onto nodes: always an answer, but `NotBulk` for several slots, batch work or graphs."""
    simplex, clock = Simplex(limits or BulkLimits()), Clock()
    best: tuple[Filling, PlanSolution] | None = None
    with clock.phase("total"):
        try:
            with clock.phase("relaxation"):
                relaxation = relax(bulk_sets(problem), simplex)
            with clock.phase("nodes"):
                filling = filled(relaxation)
            most = relaxation.sets.nodes.copy()
            margin_kwh, margin_kw = np.zeros(problem.site_count), np.zeros(problem.site_count)
            for number in range(MOST_ROUNDS):
                if number < YIELD_ROUNDS:
                    most -= filling.short_nodes(whole_quotas(relaxation.sets, relaxation.x))
                    limit = most
                else:
                    limit = np.minimum(most, without_slivers(relaxation.nodes))
                gangs = filling.gang_pairs
                with clock.phase("yields"):
                    relaxation = tightened(
                        relaxation, simplex, limit, gangs, filling.placed[gangs], margin_kwh, margin_kw
                    )
                with clock.phase("nodes"):
                    filling = filled(relaxation)
                if number < YIELD_ROUNDS - 1:
                    continue
                with clock.phase("rest"):
                    completed(filling)
                with clock.phase("count"):
                    solution = counted(filling)
                margin_kwh += CAUTION * np.maximum(solution.ledger_debt_kwh - relaxation.debt_kwh, 0.0)
                margin_kw += CAUTION * np.where(
                    problem.sites.hourly_is_hard, solution.cap_excess_kw[:, 0], 0.0
                )
                if best is None or weighted(problem, solution) < weighted(problem, best[1]):
                    best = filling, solution
                if number >= YIELD_ROUNDS and broken_caps_kwh(problem, best[1]) <= WHOLE:
                    break
        except Unsolved as unsolved:
            if best is None:
                greedy = greedy_bulk(problem)
                return replace(greedy, solution=replace(greedy.solution, message=str(unsolved)))
    assert best is not None
    return BulkPlan(replace(best[1], seconds=clock.seconds), best[0])


def greedy_bulk(problem: PlacementProblem) -> BulkPlan:
    """The plan without a relaxation: every class, largest shapes first, where its energy costs least now; no bound.

    The fallback when no program can be solved, and the baseline of the benchmarks (cheapest site, best fit).
    """
    clock = Clock()
    with clock.phase("total"):
        filling = Filling(unpriced(bulk_sets(problem)), FleetState.empty(problem))
        completed(filling)
        solution = counted(filling)
    return BulkPlan(replace(solution, seconds=clock.seconds), filling)


def broken_caps_kwh(problem: PlacementProblem, solution: PlanSolution) -> float:
    """Energy above hard caps."""
    excess = solution.cap_excess_kw[:, 0] * float(problem.slots.hours[0])
    return hard_excess_kwh(problem, excess, solution.ledger_debt_kwh, solution.portfolio_debt_kwh)


def weighted(problem: PlacementProblem, solution: PlanSolution) -> float:
    """What plans are compared by: cost, with hard caps weighed as in the program."""
    return solution.objective_yuan + HARD_CAP_YUAN * broken_caps_kwh(problem, solution)


def without_slivers(nodes: FloatArray) -> FloatArray:
    """[G] most nodes per group so that nodes of little use are not opened: down where the last one is used less than
    `SLIVER`, else no limit.
    """
    part = nodes - np.floor(nodes + WHOLE)
    return np.where(part < SLIVER, np.floor(nodes + WHOLE), np.inf)


def completed(filling: Filling) -> None:
    """Everything that waits, where prices say; the padding rule; room for what found none."""
    filling.place_rest()
    filling.keep_padding()
    filling.make_room()
    filling.keep_padding()
    filling.settle()


def filled(relaxation: Relaxation) -> Filling:
    """The quotas of a relaxation on empty nodes, and every gang that finds room."""
    filling = Filling(relaxation, FleetState.empty(relaxation.sets.problem))
    filling.place_quotas(whole_quotas(relaxation.sets, relaxation.x))
    filling.place_rest(only_gangs=True)
    return filling


def counted(filling: Filling) -> PlanSolution:
    """The plan that a filling amounts to, against the bound of its relaxation."""
    return make_solution(filling.relaxation, filling.nodes_on, filling.placed, filling.relaxation.bound_yuan)
