"""A bulk plan carried over a small change: what runs stays, what changed is placed at the prices of the last solve.

`replan` reads as the process:

1. carry      fleet, bookings and prices onto the new counts of nodes and replicas
2. losses     replicas on nodes that are gone wait to be placed; a gang that lost a member waits as a whole
3. departures replicas no longer wanted leave where they cost most; so does work above a spread or floor that shrank
4. arrivals   what waits goes where it costs least now, class by class, within every limit
5. bound      the old duals on the new program: valid at once (`bulk_bound.lower_bound`), no solve
6. check      nodes that changed are summed again from their rows

Nothing that runs is moved, unless its node is gone or the padding rule needs its node. Prices age: the bound tells by
how much, and `solve_bulk` renews them off the critical path.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.bulk import BulkPlan, Clock, counted
from solvers.bulk_bound import bound_of
from solvers.bulk_fill import Filling
from solvers.bulk_model import BulkModel, BulkSets, build
from solvers.bulk_relax import Relaxation, side_rows
from solvers.node_fill import Booked, FleetState
from solvers.problem import GPU_MILLI, MILLI_PER_GPU, PlacementProblem

CARRIED = {
    "classes": ("demand_count",),
    "groups": ("node_count", "initial_on_count"),
    "pairs": ("running_count",),
}
"""What may differ from the problem of the last plan; everything else is the very same tables."""


class NotIncremental(ValueError):
    """The change is more than counts of replicas and nodes. Use `solve_bulk`."""


class Inconsistent(RuntimeError):
    """A node's account does not match its rows: the plan must be made afresh."""


def replan(plan: BulkPlan, problem: PlacementProblem) -> BulkPlan:
    """The plan for `problem`, whose demand and node counts alone differ from the last plan's. `NotIncremental` else."""
    clock = Clock()
    with clock.phase("total"):
        with clock.phase("carry"):
            relaxation = carried_relaxation(plan.relaxation, problem)
            filling = carried_filling(plan.filling, relaxation)
            carried = filling.fleet.free.copy()
        with clock.phase("departures"):
            filling.remove(departures(filling))
            filling.shed()
        with clock.phase("arrivals"):
            filling.place_few()
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


# -- 2. and 3. losses and departures --------------------------------------------------------------------------------


def departures(filling: Filling) -> BoolArray:
    """Booked rows that leave where more is placed than wanted: dearest first, from the emptiest nodes; whole gangs."""
    booked = filling.all_booked()
    gone = np.zeros(len(booked), dtype=bool)
    surplus = np.maximum(-filling.rest, 0)
    surplus = -(-surplus // filling.gang) * filling.gang
    of_class = filling.sets.pair_class[booked.pair]
    rows = np.flatnonzero(surplus[of_class] > 0)
    if not len(rows):
        return gone
    pair, node, c = booked.pair[rows], booked.node[rows], of_class[rows]
    load = filling.fleet.load(node, filling.need[pair])[0]
    last = np.where(filling.gang[c] > 1, booked.gang[rows].astype(float), load)
    order = np.lexsort((last, -filling.unit_yuan[pair], c))
    place = np.arange(len(order)) - np.searchsorted(c[order], c[order])
    gone[rows[order[place < surplus[c[order]]]]] = True
    return gone


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
