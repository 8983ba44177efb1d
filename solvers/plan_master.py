"""Routes of services over the blocks of the horizon: the columns of the slow model, generated as they pay.

Charging every move between blocks in rows of its own makes the program twenty times slower to solve. So a service's
column is a *route*: one pair, or nothing, per block, with the cost of its moves inside. Routes that stay where they are
are all there from the start; one that moves, or pauses, joins when its reduced cost is negative, found exactly by a
shortest path over sites and blocks. Nothing in a block means unserved there, which the class's level counts.

`Master.program` is the program over routes; `Master.base_values` turns its solution back into shares z[k,b].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from solvers.archive import FloatArray, IntArray
from solvers.linear import INFINITY, Program
from solvers.plan_rules import LEVEL_OF_RANK, PlanModel, block_move_yuan, sum_over

NOTHING = -1


@dataclass(frozen=True, eq=False)
class Routes:
    """[N] class and [N,B] unit per block, −1: nothing in that block."""

    class_index: IntArray
    unit: IntArray


@dataclass(frozen=True, eq=False)
class RouteCosts:
    """Cheapest route of every service class at some duals, and its reduced cost."""

    reduced_cost: FloatArray
    routes: Routes


class Master:
    """Program over routes for one built model. Routes are only ever added, at the end, so a basis stays valid."""

    def __init__(self, model: PlanModel, base: Program) -> None:
        self.model = model
        self.base = base
        sets, p = model.sets, model.sets.problem
        self.unit_column = model.columns_of("place")
        """Columns of the base program that routes replace."""
        self.unit_pair, self.unit_block = model.keys["place"]
        self.kept_column = np.setdiff1d(np.arange(base.matrix.shape[1]), self.unit_column)
        self._units = sp.csc_array(base.matrix[:, self.unit_column])
        self._kept = sp.csc_array(base.matrix[:, self.kept_column])
        self._move_yuan = block_move_yuan(sets)
        self._unit_of = np.full((p.pair_count, sets.block_count), NOTHING)
        self._unit_of[self.unit_pair, self.unit_block] = np.arange(len(self.unit_pair))
        demand_h = sum_over(sets.block_of_slot, sets.demand * p.slots.hours)
        self.penalty_yuan = demand_h * p.classes.unserved_yuan_per_replica_h[:, None]
        """[C,B] amount that nothing in a block adds to the class's level."""
        self.has_demand = demand_h > 0
        self._serve_row = np.full(p.class_count, -1)
        self._serve_row[model.keys["serve"][0]] = model.rows_of("serve")
        self.routes = self._first_routes()

    def _first_routes(self) -> Routes:
        """Every pair for the whole horizon, less the blocks in which its group has no node; and nothing at all."""
        p, sets = self.model.sets.problem, self.model.sets
        staying = np.unique(self.unit_pair)
        nodes = p.groups.node_count[p.pairs.group_index[staying]]
        usable = np.stack(
            [nodes[:, sets.block_of_slot == b].min(axis=1) > 0 for b in range(sets.block_count)], axis=1
        )
        unit = np.where(usable, self._unit_of[staying], NOTHING)
        wanted = self.model.keys["serve"][0]
        nothing = np.full((len(wanted), sets.block_count), NOTHING)
        return Routes(np.concatenate([p.pairs.class_index[staying], wanted]), np.concatenate([unit, nothing]))

    def add_routes(self, routes: Routes) -> int:
        """Add routes that are not there yet; returns how many were new."""

        def key(r: Routes, i: int) -> tuple[int, bytes]:
            return int(r.class_index[i]), r.unit[i].tobytes()

        known = {key(self.routes, i) for i in range(len(self.routes.unit))}
        fresh = [i for i in range(len(routes.unit)) if key(routes, i) not in known]
        self.routes = Routes(
            np.concatenate([self.routes.class_index, routes.class_index[fresh]]),
            np.concatenate([self.routes.unit, routes.unit[fresh]]),
        )
        return len(fresh)

    def program(self) -> Program:
        """Program over [kept columns | routes]."""
        unit, base = self.routes.unit, self.base
        n, b = np.nonzero(unit >= 0)
        count = len(unit)
        selector = sp.csc_array((np.ones(len(n)), (unit[n, b], n)), shape=(len(self.unit_column), count))
        serving = sp.csc_array(
            (np.ones(count), (self._serve_row[self.routes.class_index], np.arange(count))),
            shape=(base.matrix.shape[0], count),
        )
        route_cost = selector.T @ base.cost[self.unit_column] + self.route_move_yuan()
        return Program(
            matrix=sp.csr_array(sp.hstack([self._kept, self._units @ selector + serving], format="csr")),
            lower=np.append(base.lower[self.kept_column], np.zeros(count)),
            upper=np.append(base.upper[self.kept_column], np.full(count, INFINITY)),
            cost=np.append(base.cost[self.kept_column], route_cost),
            row_lower=base.row_lower,
            row_upper=base.row_upper,
            offset=base.offset,
        )

    def level_amounts(self, level: int) -> FloatArray:
        """[columns of `program`] what one unit of each column adds to a level."""
        amounts = np.zeros(len(self.kept_column) + len(self.routes.unit))
        for its_level, columns, amount in self.model.levels:
            if its_level == level:
                amounts[self.position(columns)] += amount
        c = self.routes.class_index
        at_level = np.array(LEVEL_OF_RANK)[self.model.sets.problem.classes.priority_rank[c]] == level
        amounts[len(self.kept_column) :] = np.where(at_level, self.unserved_amount(self.penalty_yuan), 0.0)
        return amounts

    def unserved_amount(self, per_block: FloatArray) -> FloatArray:
        """[N] Σ over blocks with demand in which the route is nowhere of `per_block`[C,B]."""
        c = self.routes.class_index
        missing = (self.routes.unit < 0) & self.has_demand[c]
        return np.asarray((missing * per_block[c]).sum(axis=1))

    def position(self, base_columns: IntArray) -> IntArray:
        """Where kept base columns lie in the program over routes."""
        return np.searchsorted(self.kept_column, base_columns)

    def base_values(self, x: FloatArray) -> FloatArray:
        """Values of the base program's columns, routes unfolded into their units."""
        values = np.zeros(self.base.matrix.shape[1])
        kept = len(self.kept_column)
        values[self.kept_column] = x[:kept]
        n, b = np.nonzero(self.routes.unit >= 0)
        np.add.at(values, self.unit_column[self.routes.unit[n, b]], x[kept:][n])
        return values

    def route_move_yuan(self) -> FloatArray:
        """[N] migration inside each route, for the class's whole demand."""
        p, unit = self.model.sets.problem, self.routes.unit
        if not len(self.unit_pair):
            return np.zeros(len(unit))
        site = np.where(unit >= 0, p.pair_site[self.unit_pair[unit]], NOTHING)
        moves = (site[:, 1:] != site[:, :-1]) & (site[:, 1:] >= 0) & (site[:, :-1] >= 0)
        return np.asarray((moves * self._move_yuan[self.routes.class_index]).sum(axis=1))

    def cheapest_routes(self, duals: FloatArray, nothing_yuan: FloatArray) -> RouteCosts:
        """Shortest path over (site or nothing) × block per class, at reduced costs of units; exact.

        `duals` of the base rows; `nothing_yuan`[C,B] what nothing in a block costs in this objective (inf: forbidden).
        """
        p, sets = self.model.sets.problem, self.model.sets
        unit_cost = self.base.cost[self.unit_column] - self._units.T @ duals[: self._units.shape[0]]
        best, arg = self._site_costs(np.asarray(unit_cost))
        nothing = np.where(self.has_demand, nothing_yuan, 0.0)
        classes, sites, blocks = p.class_count, p.site_count, sets.block_count
        every = np.arange(classes)
        state_cost = np.concatenate([best, nothing[:, None, :]], axis=1)  # last state: nothing
        path = state_cost[:, :, 0]
        came_from = np.zeros((blocks, classes, sites + 1), dtype=np.int64)
        for b in range(1, blocks):
            nearest = path[:, :sites].argmin(axis=1)
            from_site = np.repeat(path[every, nearest][:, None], sites + 1, axis=1)
            from_site[:, :sites] += self._move_yuan[:, b - 1 : b]
            from_nothing = np.repeat(path[:, sites:], sites + 1, axis=1)
            ways = np.stack([path, from_site, from_nothing])
            pick = ways.argmin(axis=0)
            origins = np.stack(np.broadcast_arrays(np.arange(sites + 1)[None], nearest[:, None], sites))
            came_from[b] = np.take_along_axis(origins, pick[None], axis=0)[0]
            path = ways.min(axis=0) + state_cost[:, :, b]
        state = path.argmin(axis=1)
        reduced = path[every, state]
        unit = np.full((classes, blocks), NOTHING)
        for b in range(blocks - 1, -1, -1):
            on_site = np.flatnonzero(state < sites)
            unit[on_site, b] = arg[on_site, state[on_site], b]
            state = came_from[b][every, state]
        wanted = self.model.keys["serve"][0]
        reduced = reduced[wanted] - duals[self._serve_row[wanted]]
        return RouteCosts(reduced, Routes(wanted, unit[wanted]))

    def _site_costs(self, unit_cost: FloatArray) -> tuple[FloatArray, IntArray]:
        """([C,S,B] least cost of a unit, [C,S,B] that unit); inf and −1 where the class has none."""
        p, sets = self.model.sets.problem, self.model.sets
        shape = (p.class_count, p.site_count, sets.block_count)
        best, arg = np.full(shape, INFINITY), np.full(shape, NOTHING)
        key = np.ravel_multi_index(
            (p.pairs.class_index[self.unit_pair], p.pair_site[self.unit_pair], self.unit_block), shape
        )
        order = np.lexsort((np.arange(len(key)), unit_cost, key))
        first = np.ones(len(order), dtype=bool)
        first[1:] = key[order][1:] != key[order][:-1]
        best.ravel()[key[order[first]]] = unit_cost[order[first]]
        arg.ravel()[key[order[first]]] = order[first]
        # in a block without demand a service may lie anywhere for nothing
        idle = np.broadcast_to(~self.has_demand[:, None, :], shape)
        best[idle] = 0.0
        return best, arg
