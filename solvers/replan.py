"""A bulk plan carried over a small change: what runs stays, what changed is placed at the prices of the last solve.

`replan` reads as the process:

1. carry      fleet, bookings and prices onto the new counts of nodes and replicas; the old duals on the new program
              are a bound at once (`bulk_bound.lower_bound`), without a solve
2. reprice    with a `Repricer`: some hundred simplex iterations from the last optimum renew duals, bound and targets
3. losses     replicas on nodes that are gone wait to be placed; a gang that lost a member waits as a whole
4. departures replicas no longer wanted leave where there are more than the target, then where they cost most; so does
              work above a spread or floor that shrank
5. arrivals   what waits goes where there are less than the target, then where it costs least, class by class, within
              every limit; sites that fell below the load that their hard hourly cap needs get work from elsewhere
6. check      nodes that changed are summed again from their rows

Nothing that runs is moved, unless its node is gone or a rule needs it: padding, or a hard hourly cap. Without a
`Repricer` prices age: the bound tells by how much.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.bulk import BulkPlan, counted
from solvers.bulk_bound import Leaf, bound_of
from solvers.bulk_fill import WHOLE, Filling
from solvers.bulk_model import BulkModel, BulkSets, build
from solvers.bulk_relax import Relaxation, side_rows
from solvers.clock import Clock
from solvers.linear import LpLimits, LpStatus, Program
from solvers.lp_session import Session
from solvers.node_fill import Booked, FleetState
from solvers.problem import GPU_MILLI, MILLI_PER_GPU, PlacementProblem

CARRIED = {
    "classes": ("demand_count",),
    "groups": ("node_count", "initial_on_count"),
    "pairs": ("running_count",),
}
"""What may differ from the problem of the last plan; everything else is the very same tables."""


WALL_S = 600.0
FIRST_LIMITS = LpLimits(400_000, WALL_S)
REPRICE_ITERATIONS = 1_200
"""Simplex iterations of one renewal: at 12 500 nodes a change of 1 % takes about 800, 0.1 s."""


GANG_PART = 0.1
"""A gang is misplaced where the target has at least 1 − this part of a gang less."""


class NotIncremental(ValueError):
    """The change is more than counts of replicas and nodes. Use `solve_bulk`."""


class Inconsistent(RuntimeError):
    """A node's account does not match its rows: the plan must be made afresh."""


def replan(
    plan: BulkPlan, problem: PlacementProblem, repricer: Repricer | None = None, *, most_moves: int = 0
) -> BulkPlan:
    """The plan for `problem`, whose demand and node counts alone differ from the last plan's. `NotIncremental` else."""
    clock = Clock()
    with clock.phase("total"):
        with clock.phase("carry"):
            relaxation = carried_relaxation(plan.relaxation, problem)
        with clock.phase("reprice"):
            relaxation, target = repricer.renewed(relaxation) if repricer else (relaxation, None)
        with clock.phase("carry"):
            filling = carried_filling(plan.filling, relaxation)
            carried = filling.fleet.free.copy()
        with clock.phase("departures"):
            filling.remove(departures(filling))
            filling.shed()
        with clock.phase("improve"):
            if filling.sets.problem.terms.move_budget_count is not None:
                most_moves = min(
                    most_moves, max(0, int(filling.sets.problem.terms.move_budget_count) - displaced(filling))
                )
            if most_moves > 0:
                gone = sparse_rows(filling, most_moves)
                if target is not None:
                    gone |= misplaced_gangs(filling, target, most_moves - int(gone.sum()))
                filling.remove(gone)
        with clock.phase("arrivals"):
            filling.place_few()
            filling.meet_minimum_loads()
            filling.keep_padding()
            filling.make_room()
            filling.keep_padding()
            filling.settle()
        with clock.phase("check"):
            check_nodes(filling, np.flatnonzero((filling.fleet.free != carried).any(axis=1)))
        with clock.phase("count"):
            solution = counted(filling)
    return BulkPlan(replace(solution, seconds=clock.seconds), filling)


# -- 1. carry ----------------------------------------------------------------------------------------------------


def carried_relaxation(old: Relaxation, problem: PlacementProblem) -> Relaxation:
    """The old duals on the new program, and the bound they prove there."""
    model = build(carried_sets(old.sets, problem), cuts=old.model.cuts)
    exact = model.lp.program()
    duals = carried_duals(old.model, model, old.duals)
    leaves = tuple(replace(leaf, duals=carried_duals(old.model, model, leaf.duals)) for leaf in old.leaves)
    side, upper = side_rows(model, exact)
    return replace(
        old, model=model, exact=exact, duals=duals, bound_yuan=bound_of(model, exact, leaves), leaves=leaves,
        side=side, side_upper=upper, iterations=0,
    )  # fmt: skip


def carried_sets(old: BulkSets, problem: PlacementProblem) -> BulkSets:
    """The same candidates with new counts; `NotIncremental` where anything else changed."""
    before = old.problem
    for name in ("slots", "sites", "groups", "classes", "pairs", "flows", "paths", "network"):
        now, then = getattr(problem, name), getattr(before, name)
        for field in dataclasses.fields(now):
            same = getattr(now, field.name) is getattr(then, field.name)
            if not same and field.name not in CARRIED.get(name, ()) and not _equal(now, then, field.name):
                raise NotIncremental(f"{name}.{field.name} changed")
    if problem.terms != before.terms or problem.graphs:
        raise NotIncremental("terms or graphs changed")
    demand = problem.classes.demand_count[:, 0]
    return replace(old, problem=problem, demand=demand, nodes=problem.groups.node_count[:, 0].astype(float))


def _equal(now: object, then: object, name: str) -> bool:
    a, b = getattr(now, name), getattr(then, name)
    return (
        bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
        if isinstance(a, np.ndarray)
        else bool(a == b)
    )


def carried_duals(old: BulkModel, new: BulkModel, duals: FloatArray) -> FloatArray:
    """Duals by what their rows stand for; rows that are new have none."""
    out = np.zeros(sum(block.count for block in new.lp.rows))
    for name, block in new.rows.items():
        if name in old.rows:
            _, here, there = np.intersect1d(new.keys[name], old.keys[name], return_indices=True)
            out[block.start + here] = duals[old.rows[name].start + there]
    return out


def carried_filling(old: Filling, relaxation: Relaxation) -> Filling:
    """Fleet and bookings on the new nodes. Replicas on nodes that are gone are left out, whole gangs of them."""
    fleet = FleetState.empty(relaxation.sets.problem)
    before = old.fleet
    stays = before.index < fleet.count[before.group]
    position = np.where(stays, fleet.first[before.group] + before.index, -1)
    fleet.free[position[stays]] = before.free[stays]
    fleet.device[position[stays]] = before.device[stays]
    booked = old.all_booked()
    moved = Booked(booked.pair, position[booked.node], booked.device_mask, booked.gang)
    kept = ~old.with_whole_gangs(moved.node < 0)
    stranded = moved[~kept & (moved.node >= 0)]  # members of broken gangs on nodes that stay
    fleet.give_back(stranded, old.need[stranded.pair])
    filling = Filling(relaxation, fleet)
    filling.adopt(moved[kept])
    return filling


# -- 2. reprice ----------------------------------------------------------------------------------------------------


class Repricer:
    """A live simplex on the program of a plan, in which a running replica that stays costs a move less.

    The program differs from the bulk model in form only: instead of a row x + l ≥ run per running pair it has a second
    column of x, bounded by run and cheaper by the move. So a change of counts moves bounds and right-hand sides alone,
    and the simplex goes on from its last optimum. Coefficients that hold counts (N in y ≤ N·on, D in x ≤ D·on) stay
    those of the first plan; whatever that does to the duals, the bound is computed on the program as it is.

    It remembers: renewals in the same order give the same answers.
    """

    def __init__(self, plan: BulkPlan) -> None:
        """Loads and solves the program, with what the plan places as running: a second, off the critical path."""
        sets = plan.relaxation.sets
        idle = replace(sets.problem.pairs, running_count=np.zeros(sets.problem.pair_count))
        self._base = build(
            replace(sets, problem=replace(sets.problem, pairs=idle)), plan.relaxation.model.cuts
        )
        self._program = self._base.lp.program()
        self._columns = sp.csc_array(self._program.matrix)
        self._staying = np.zeros(0, dtype=np.int64)
        self._session = Session()
        columns = np.arange(len(self._program.cost))
        self._session.solve(self._program, columns, FIRST_LIMITS)
        placed = plan.filling.placed
        self._session.solve(self._program_of(plan.relaxation, placed), self._column_keys(), FIRST_LIMITS)

    def renewed(self, relaxation: Relaxation) -> tuple[Relaxation, FloatArray | None]:
        """The relaxation with the duals of its own optimum and the better bound; and replicas[V] at the optimum.

        As it came, and no target, where the optimum is more than `REPRICE_ITERATIONS` away.
        """
        model, s = relaxation.model, relaxation.sets
        running = s.problem.pairs.running_count[s.pair]
        program = self._program_of(relaxation, running)
        result = self._session.solve(program, self._column_keys(), LpLimits(REPRICE_ITERATIONS, WALL_S))
        if result.status is not LpStatus.OPTIMAL:
            return relaxation, None
        duals = carried_duals(self._base, model, result.duals)
        leaves: tuple[Leaf, ...] = (Leaf.root(s.problem.site_count, duals),)
        bound = bound_of(model, relaxation.exact, leaves)
        if relaxation.bound_yuan is not None and relaxation.bound_yuan >= bound:
            leaves, bound = relaxation.leaves, relaxation.bound_yuan
        target = result.x[self._base.columns["x"].slice].copy()
        np.add.at(target, self._staying, result.x[len(self._program.cost) :])
        renewed = replace(
            relaxation, duals=duals, leaves=leaves, bound_yuan=bound, iterations=result.iterations
        )
        return renewed, target

    def _column_keys(self) -> IntArray:
        own = len(self._program.cost)
        return np.append(np.arange(own), own + self._staying)

    def _program_of(self, relaxation: Relaxation, running: FloatArray) -> Program:
        """Bounds and right-hand sides of a relaxation's exact program, and the columns of what stays."""
        model, exact, base, s = relaxation.model, relaxation.exact, self._program, relaxation.sets
        fresh = np.setdiff1d(np.flatnonzero(running > 0), self._staying)
        self._staying = np.append(self._staying, fresh)
        stays, x = self._staying, self._base.columns["x"]
        lower, upper = base.lower.copy(), base.upper.copy()
        row_lower, row_upper = base.row_lower.copy(), base.row_upper.copy()
        for name, block in self._base.columns.items():
            now = model.columns[name].slice
            lower[block.slice], upper[block.slice] = exact.lower[now], exact.upper[now]
        for name, block in self._base.rows.items():
            _, here, there = np.intersect1d(self._base.keys[name], model.keys[name], return_indices=True)
            rows = model.rows[name].start + there
            row_lower[block.start + here], row_upper[block.start + here] = (
                exact.row_lower[rows],
                exact.row_upper[rows],
            )
        saved = s.problem.classes.migration_yuan[s.pair_class[stays]]
        return Program(
            matrix=sp.csr_array(sp.hstack([self._columns, self._columns[:, x.start + stays]], format="csr")),
            lower=np.append(lower, np.zeros(len(stays))),
            upper=np.append(upper, np.minimum(running[stays], s.demand[s.pair_class[stays]])),
            cost=np.append(base.cost, base.cost[x.start + stays] - saved),
            row_lower=row_lower,
            row_upper=row_upper,
            offset=base.offset,
        )


# -- 3. and 4. losses and departures --------------------------------------------------------------------------------


def departures(filling: Filling) -> BoolArray:
    """Booked rows that leave where more is placed than wanted: dearest first, from the emptiest nodes; whole gangs."""
    booked = filling.all_booked()
    gone = np.zeros(len(booked), dtype=bool)
    surplus = np.maximum(-filling.rest, 0)
    surplus = -(-surplus // filling.gang) * filling.gang
    of_class = filling.sets.pair_class[booked.pair]
    rows = np.flatnonzero((surplus[of_class] > 0) & _dearest_pairs(filling, surplus)[booked.pair])
    if not len(rows):
        return gone
    pair, node, c = booked.pair[rows], booked.node[rows], of_class[rows]
    load = filling.fleet.load(node, filling.need[pair])[0]
    last = np.where(filling.gang[c] > 1, booked.gang[rows].astype(float), load)
    order = np.lexsort((last, -filling.unit_yuan[pair], c))
    place = np.arange(len(order)) - np.searchsorted(c[order], c[order])
    gone[rows[order[place < surplus[c[order]]]]] = True
    return gone


def _dearest_pairs(filling: Filling, surplus: IntArray) -> BoolArray:
    """[V] candidates of each class that hold its dearest replicas, as many as are too many."""
    s = filling.sets
    order = np.lexsort((-filling.unit_yuan, s.pair_class))
    dearer = np.cumsum(filling.placed[order]) - filling.placed[order]
    first = filling.class_start[s.pair_class[order]]
    of_class = dearer - dearer[np.minimum(first, max(len(order) - 1, 0))] if len(order) else dearer
    out = np.zeros(len(order), dtype=bool)
    out[order] = of_class < surplus[s.pair_class[order]]
    return out


# -- 5. improve ----------------------------------------------------------------------------------------------------


def displaced(filling: Filling) -> int:
    """Running replicas that wait to be placed again: those that do not find room where they were will have moved."""
    here = np.bincount(
        filling.sets.pair_class,
        weights=np.maximum(filling.running - filling.placed, 0.0),
        minlength=len(filling.rest),
    )
    return int(np.minimum(here, np.maximum(filling.rest, 0)).sum())


def misplaced_gangs(filling: Filling, target: FloatArray, most_moves: int) -> BoolArray:
    """Booked rows of gangs where the target[V] has a whole gang less, dearest per replica first, at most `most_moves`
    replicas. The target knows what a move costs: it is worth that.
    """
    booked, sets = filling.all_booked(), filling.sets
    gone = np.zeros(len(booked), dtype=bool)
    size = filling.gang[sets.pair_class]
    too_many = np.floor((filling.placed - target) / size + GANG_PART) * (size > 1)
    for v in np.argsort(-filling.unit_yuan, kind="stable")[: len(size)]:
        if too_many[v] < 1 or size[v] > most_moves:
            continue
        gangs = min(int(too_many[v]), most_moves // int(size[v]))
        most_moves -= gangs * int(size[v])
        rows = np.flatnonzero(booked.pair == v)
        gone[rows[np.isin(booked.gang[rows], np.unique(booked.gang[rows])[-gangs:])]] = True
    return gone


def sparse_rows(filling: Filling, most_moves: int) -> BoolArray:
    """Booked rows on the emptiest nodes of groups with more nodes on than what is placed needs, as many nodes as are
    too many; dearest nodes per replica first, at most `most_moves` replicas. Nodes with gangs stay.
    """
    booked, fleet, sets = filling.all_booked(), filling.fleet, filling.sets
    groups = sets.problem.groups
    too_many = filling.nodes_on - np.ceil(filling.needed_nodes() - WHOLE)
    count = np.bincount(booked.node, minlength=fleet.node_count)
    tied = np.zeros(fleet.node_count, dtype=bool)
    tied[booked.node[filling.gang[sets.pair_class[booked.pair]] > 1]] = True
    nodes = np.flatnonzero((count > 0) & ~tied & (too_many[fleet.group] > 0))
    group = fleet.group[nodes]
    load = (1.0 - fleet.free[nodes] / np.maximum(fleet.capacity[group], 1)).max(axis=1)
    order = np.lexsort((load, group))
    rank = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    nodes = nodes[order[rank < too_many[group[order]]]]
    idle_yuan = groups.idle_w[fleet.group[nodes]] * filling.kw_yuan[groups.site[fleet.group[nodes]]]
    nodes = nodes[np.argsort(-idle_yuan / count[nodes], kind="stable")]
    return np.isin(booked.node, nodes[np.cumsum(count[nodes]) <= most_moves])


# -- 6. check ------------------------------------------------------------------------------------------------------


def check_nodes(filling: Filling, nodes: IntArray) -> None:
    """Sum the rows of these nodes again: resources and devices as accounted, none overbooked. `Inconsistent` else."""
    fleet, booked = filling.fleet, filling.all_booked()
    at = np.full(fleet.node_count, -1)
    at[nodes] = np.arange(len(nodes))
    rows = np.flatnonzero(at[booked.node] >= 0)
    place, need = at[booked.node[rows]], filling.need[booked.pair[rows]]
    used = np.zeros((len(nodes), need.shape[1]), dtype=np.int64)
    np.add.at(used, place, need)
    device = np.zeros((len(nodes), fleet.device.shape[1]), dtype=np.int64)
    per_device = np.minimum(need[:, GPU_MILLI], MILLI_PER_GPU)
    for slot in range(device.shape[1]):
        uses = (booked.device_mask[rows] >> slot) & 1 == 1
        np.add.at(device[:, slot], place[uses], per_device[uses])
    installed = np.where(fleet.device[nodes] >= 0, MILLI_PER_GPU - device, fleet.device[nodes])
    sound = (
        np.array_equal(fleet.capacity[fleet.group[nodes]] - used, fleet.free[nodes])
        and np.array_equal(installed, fleet.device[nodes])
        and not (fleet.free[nodes] < 0).any()
    )
    if not sound:
        raise Inconsistent("a node's free resources do not match its replicas")
