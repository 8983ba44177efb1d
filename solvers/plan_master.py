"""Routes of services over the blocks of the horizon: the columns of the slow model, generated as they pay.

Charging every move between blocks in rows of its own makes the program twenty times slower to solve. So a service's
column is a *route*: one pair, or nothing, per block, with the cost of its moves inside. Routes that stay where they are
are all there from the start; one that moves, or pauses, joins when its reduced cost is negative, found exactly by a
shortest path over groups and blocks. Nothing in a block means unserved there, which the class's level counts.

Batch work has a column per pair and slot, most of which never pay: it begins with the cheapest few pairs per class and
slot, and the others join when their reduced cost is negative. Patterns of stage graphs join the same way.

`Master.program` is the program over [kept columns | active batch columns and patterns | routes]; `Master.base_values`
turns its solution back into the columns of the rules.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.linear import INFINITY, Program, columns_joined, rows_joined
from solvers.pipelines import pattern_cost, transfer_yuan_per_h
from solvers.plan_rules import LEVEL_COUNT, LEVEL_OF_RANK, PlanModel, block_move_yuan, sum_over

NOTHING = -1
FIRST_ROUTE_KEY = 1 << 60
"""Keys of routes begin above those of all other columns."""
PATTERNS_PER_ROUND = 60
"""Patterns of one graph and era that join in one round of pricing."""
RUNS_PER_ROUND = 8
"""Batch columns that may join per class, slot and round of pricing."""
ROUTES_PER_ROUND = 4
"""Routes of one class that may join in one round of pricing, by the group in which they end."""
HEAVY_FRAC = 0.05
"""Of a class that brings this share of all that routes can gain, the best route through every group and block joins."""
THROUGH_PER_BLOCK = 20
"""Of those, so many of each class and block."""
SELDOM_BINDING = ("deadline", "ledger", "link", "parallel", "power_limit", "spread")
"""Rules most of whose rows never bind: they join the program when an answer breaks them."""
IN_USE = 1e-9
LEAST_GAIN_YUAN = 1e-6
"""Columns join when they pay at least so much."""
MOST_BLOCKS_TO_COMBINE = 5
FIRST_PAIRS_PER_SLOT = 2
"""Batch columns to begin with: so many of the cheapest pairs per class and slot."""


@dataclass(frozen=True, eq=False)
class Routes:
    """[N] class and [N,B] unit per block, −1: nothing in that block."""

    class_index: IntArray
    unit: IntArray


@dataclass(frozen=True, eq=False)
class RouteCosts:
    """Cheapest routes of every service class at some duals."""

    least: FloatArray
    """[wanted classes] reduced cost of the cheapest route of all."""
    reduced_cost: FloatArray
    """Of each of `routes`: per class the cheapest ones that end in different groups."""
    routes: Routes


@dataclass(frozen=True, eq=False)
class _Static:
    """Columns of the base program as they were last taken over into the program."""

    columns: IntArray
    matrix: sp.csc_array


@dataclass(frozen=True, eq=False)
class _RouteColumns:
    """Entries and cost of the routes that the program had last time."""

    matrix: sp.csc_array
    cost: FloatArray

    @classmethod
    def none(cls, row_count: int) -> _RouteColumns:
        """Of no routes."""
        return cls(sp.csc_array((row_count, 0)), np.zeros(0))

    def and_those(self, others: _RouteColumns) -> _RouteColumns:
        """These first."""
        return _RouteColumns(columns_joined(self.matrix, others.matrix), np.append(self.cost, others.cost))


class Master:
    """Program over routes for one built model. Columns are only ever added."""

    def __init__(self, model: PlanModel, base: Program) -> None:
        self.model = model
        sets, p = model.sets, model.sets.problem
        self.unit_column = model.columns_of("place")
        """Columns of the base program that routes replace."""
        self.unit_pair, self.unit_block = model.keys["place"]
        self.run_column = model.columns_of("run")
        self.pattern_column, self.pattern_of = _pattern_columns(model)
        """Columns of patterns of all graphs, and for each its graph and era as one number."""
        offered = np.concatenate([self.unit_column, self.run_column, self.pattern_column])
        self.kept_column = np.setdiff1d(np.arange(base.matrix.shape[1]), offered)
        self._take_base(replace(base, matrix=sp.csc_array(base.matrix)))
        self._transfer: dict[int, FloatArray] = {}
        self.active = np.concatenate([self.run_column[self._first_runs()], _first_pattern_columns(model)])
        """Batch columns and patterns that are in the program, in order of joining."""
        self._move_yuan = block_move_yuan(sets)
        self._unit_of = np.full((p.pair_count, sets.block_count), NOTHING)
        self._unit_of[self.unit_pair, self.unit_block] = np.arange(len(self.unit_pair))
        demand_h = sum_over(sets.block_of_slot, sets.demand * p.slots.hours)
        self.penalty_yuan = demand_h * p.classes.unserved_yuan_per_replica_h[:, None]
        """[C,B] amount that nothing in a block adds to the class's level."""
        self.has_demand = demand_h > 0
        self._serve_row = np.full(p.class_count, -1)
        self._serve_row[model.keys["serve"][0]] = model.rows_of("serve")
        self.level_weights: FloatArray | None = None
        """Those of `plan_pricing.level_weights`, once worked out: neither columns nor cuts change them."""
        self.routes = self._first_routes()
        self._known_routes = set(_route_keys(self.routes))
        self._route_number = np.arange(len(self.routes.unit))
        """Of each route, in the order of joining; one that joins again gets another."""
        self._next_route_number = len(self._route_number)

    def _take_base(self, base: Program) -> None:
        """Have a base program, whose matrix is by columns."""
        self.base = base
        self._columns = sp.csc_array(base.matrix)
        self._units = self._columns[:, self.unit_column]
        self._runs = self._columns[:, self.run_column]
        self._patterns = self._columns[:, self.pattern_column]
        self._watched = _watched_rows(self.model, base.matrix.shape[0])
        self._static = _Static(np.zeros(0, dtype=np.int64), self._columns[:, :0])
        self._of_routes = _RouteColumns.none(base.matrix.shape[0])
        self._joined = self._columns[:, :0]
        """Entries of the program that was asked for last."""

    def with_model(self, model: PlanModel) -> Master:
        """The master of the same model with more rows after the others, and the columns that joined here."""
        start = self.base.matrix.shape[0]
        last = model.lp.last_rows(start)
        row_lower, row_upper = model.lp.row_bounds(start)
        twin = self.with_own_columns()
        twin.model = model
        twin._take_base(
            replace(
                self.base,
                matrix=rows_joined(self.base.matrix, last),
                row_lower=np.append(self.base.row_lower, row_lower),
                row_upper=np.append(self.base.row_upper, row_upper),
            )
        )
        return twin

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

    def _first_runs(self) -> IntArray:
        """The cheapest pairs per class and slot, by the energy a replica causes."""
        if "run" not in self.model.keys:
            return np.zeros(0, dtype=np.int64)
        sets, p = self.model.sets, self.model.sets.problem
        pair, slot = self.model.keys["run"]
        yuan = sets.marginal_yuan_per_kwh_it[p.pair_site[pair], slot] * sets.useful_kw[pair]
        yuan = yuan + p.pairs.other_yuan_per_replica_h[pair]
        key = p.pairs.class_index[pair] * p.slot_count + slot
        order = np.lexsort((pair, yuan, key))
        ordered = key[order]
        rank = np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left")
        running = (slot == 0) & (p.pairs.running_count[pair] > 0)
        return np.union1d(order[rank < FIRST_PAIRS_PER_SLOT], np.flatnonzero(running))

    def add_columns(self, columns: IntArray) -> int:
        """Let batch columns and patterns join; returns how many were new."""
        is_fresh = np.zeros(self.base.matrix.shape[1], dtype=bool)
        is_fresh[columns] = True
        is_fresh[self.active] = False
        fresh = np.flatnonzero(is_fresh)
        self.active = np.concatenate([self.active, fresh])
        return len(fresh)

    def column_key(self) -> IntArray:
        """A number per column of `program` that stays with it when the model is built again with more cuts."""
        return np.concatenate([self.kept_column, self.active, FIRST_ROUTE_KEY + self._route_number])

    @property
    def column_count(self) -> int:
        """Columns of `program`."""
        return self.route_start + len(self.routes.unit)

    @property
    def route_start(self) -> int:
        """Position of the first route in the program."""
        return len(self.kept_column) + len(self.active)

    def cheapest_runs(self, duals: FloatArray) -> tuple[IntArray, float]:
        """Batch columns that pay at some duals, the best few per class and slot; and the most all of them can gain."""
        if not len(self.run_column):
            return np.zeros(0, dtype=np.int64), 0.0
        p = self.model.sets.problem
        reduced = self.base.cost[self.run_column] - self._runs.T @ duals[: self._runs.shape[0]]
        pair, slot = self.model.keys["run"]
        c = p.pairs.class_index[pair]
        per_h = np.zeros(p.class_count)
        np.minimum.at(per_h, c, reduced / p.slots.hours[slot])
        paying = _best_of_each(c * p.slot_count + slot, reduced, RUNS_PER_ROUND)
        return self.run_column[paying], float(per_h @ p.classes.work_replica_h)

    def cheapest_patterns(self, duals: FloatArray) -> tuple[IntArray, float]:
        """Patterns that pay at some duals, the best of each graph and era; and the most all valid ones can gain.

        The patterns of a graph and era add up to at most 1. Where not all valid ones are described here, the
        others are counted too.
        """
        duals = duals[: self._patterns.shape[0]]
        reduced = self.base.cost[self.pattern_column] - self._patterns.T @ duals
        paying = _best_of_each(self.pattern_of, reduced, PATTERNS_PER_ROUND)
        least = np.zeros(int(self.pattern_of.max(initial=-1)) + 1)
        np.minimum.at(least, self.pattern_of, reduced)
        incomplete = [j for j, held in enumerate(self.model.sets.graphs) if not held.is_complete]
        gain = float(least[~np.isin(np.arange(len(least)) // self.model.sets.era_count, incomplete)].sum())
        gain += sum(self._undescribed_gain(j, duals) for j in incomplete)
        return self.pattern_column[paying], gain

    def _undescribed_gain(self, graph: int, duals: FloatArray) -> float:
        """Most that patterns of a graph can gain, columns or not (≤ 0); traffic on links would only make it less.

        Every valid pattern is priced where all are known; else the cheapest option of each stage bounds them.
        """
        model, gain = self.model, 0.0
        held = model.sets.graphs[graph]
        count_h = sum_over(
            model.sets.era_of_slot,
            np.array(model.sets.problem.graphs[graph].count) * model.sets.problem.slots.hours,
        )
        for row, era in zip(model.rows_of(f"graph_{graph}"), model.keys[f"graph_{graph}"][0], strict=True):
            yuan = [self._option_yuan(graph, stage, int(era), duals) for stage in range(len(held.options))]
            if held.patterns.is_complete:
                transfer = self._transfer_yuan_per_h(graph) * count_h[era]
                least = float((pattern_cost(yuan, held.patterns.option) + transfer).min(initial=INFINITY))
            else:
                least = sum(float(each.min(initial=INFINITY)) for each in yuan)
            gain += min(0.0, least - float(duals[row]))
        return gain

    def _option_yuan(self, graph: int, stage: int, era: int, duals: FloatArray) -> FloatArray:
        """[O] what an option of a stage costs in an era at some duals; nothing where the stage is fixed."""
        options, name = self.model.sets.graphs[graph].options[stage], f"stage_{graph}_{stage}"
        yuan = np.zeros(len(options.site))
        if not options.is_fixed:
            option, of_era = self.model.keys[name]
            here = of_era == era
            yuan[option[here]] = duals[self.model.rows_of(name)[here]]
        return yuan

    def _transfer_yuan_per_h(self, graph: int) -> FloatArray:
        """[N] of every valid pattern; worked out once."""
        if graph not in self._transfer:
            p, held = self.model.sets.problem, self.model.sets.graphs[graph]
            self._transfer[graph] = transfer_yuan_per_h(
                p, p.graphs[graph], held.options, held.patterns.option
            )
        return self._transfer[graph]

    def add_routes(self, routes: Routes) -> int:
        """Add routes that are not there yet; returns how many were new."""
        fresh = []
        for i, key in enumerate(_route_keys(routes)):
            if key not in self._known_routes:
                self._known_routes.add(key)
                fresh.append(i)
        if fresh:
            self.routes = Routes(
                np.concatenate([self.routes.class_index, routes.class_index[fresh]]),
                np.concatenate([self.routes.unit, routes.unit[fresh]]),
            )
            numbers = self._next_route_number + np.arange(len(fresh))
            self._route_number = np.append(self._route_number, numbers)
            self._next_route_number += len(fresh)
        return len(fresh)

    def with_own_columns(self) -> Master:
        """The same master, to which columns may join that this one does not get."""
        twin = copy.copy(self)
        twin._known_routes = self._known_routes.copy()
        return twin

    def only_used(self, is_used: BoolArray) -> Master:
        """The same master without batch columns, patterns and routes that are not used; serving nothing stays possible.

        `is_used`: of each column of `program`. What leaves may join again when it pays.
        """
        kept, start = len(self.kept_column), self.route_start
        stays = is_used[start:] | (self.routes.unit < 0).all(axis=1)
        twin = self.with_own_columns()
        twin.active = self.active[is_used[kept:start]]
        twin.routes = Routes(self.routes.class_index[stays], self.routes.unit[stays])
        twin._route_number = self._route_number[stays]
        twin._known_routes = set(_route_keys(twin.routes))
        known = self._of_routes.matrix.shape[1]
        those = np.flatnonzero(stays[:known])
        twin._of_routes = _RouteColumns(self._of_routes.matrix[:, those], self._of_routes.cost[those])
        twin._joined = self._columns[:, :0]
        return twin

    def widened(self, x: FloatArray, before: Master) -> FloatArray:
        """Values of the columns of an earlier `program`, where those that have joined since are zero."""
        values = np.zeros(self.column_count)
        values[: before.route_start] = x[: before.route_start]
        values[self.route_start :][: len(before.routes.unit)] = x[before.route_start :]
        return values

    def pauses(self, x: FloatArray) -> Routes:
        """Routes in use of classes that are partly unserved, with every choice of blocks in which they pause.

        Where capacity is short, prices swing between blocks from one round of pricing to the next; with all the pauses
        at hand the rounds converge.
        """
        value = x[self.route_start :]
        paused = self.unserved_amount(self.penalty_yuan) > 0
        short = np.unique(self.routes.class_index[paused & (value > IN_USE)])
        used = np.flatnonzero((value > IN_USE) & np.isin(self.routes.class_index, short))
        blocks = self.routes.unit.shape[1]
        if blocks > MOST_BLOCKS_TO_COMBINE or not len(used):
            return Routes(np.zeros(0, dtype=np.int64), np.zeros((0, blocks), dtype=np.int64))
        runs = (np.arange(1, 2**blocks)[:, None] >> np.arange(blocks)) & 1
        unit = np.where(runs[None] == 1, self.routes.unit[used][:, None, :], NOTHING).reshape(-1, blocks)
        of_class = np.repeat(self.routes.class_index[used], len(runs))
        return Routes(of_class, unit)

    def program(self) -> Program:
        """Program over [kept columns | active batch columns and patterns | routes]."""
        base, count = self.base, len(self.routes.unit)
        static = np.concatenate([self.kept_column, self.active])
        if not np.array_equal(static, self._static.columns):
            self._static = _Static(static, self._columns[:, static])
        known = self._of_routes.matrix.shape[1]
        if known < count:
            fresh = Routes(self.routes.class_index[known:], self.routes.unit[known:])
            self._of_routes = self._of_routes.and_those(self._route_columns(fresh))
        if self._joined.shape[1] < len(static) + count:  # columns only ever join
            self._joined = columns_joined(self._static.matrix, self._of_routes.matrix)
        return Program(
            matrix=self._joined,
            lower=np.append(base.lower[static], np.zeros(count)),
            upper=np.append(base.upper[static], np.full(count, INFINITY)),
            cost=np.append(base.cost[static], self._of_routes.cost),
            row_lower=base.row_lower,
            row_upper=base.row_upper,
            offset=base.offset,
            watched=self._watched,
        )

    def _route_columns(self, routes: Routes) -> _RouteColumns:
        """Entries and cost of some routes: those of their units, and 1 in the class's `serve` row."""
        n, b = np.nonzero(routes.unit >= 0)
        count = len(routes.unit)
        selector = sp.csc_array(
            (np.ones(len(n)), (routes.unit[n, b], n)), shape=(len(self.unit_column), count)
        )
        serving = sp.csc_array(
            (np.ones(count), self._serve_row[routes.class_index], np.arange(count + 1)),
            shape=(self.base.matrix.shape[0], count),
        )
        cost = selector.T @ self.base.cost[self.unit_column] + self._move_yuan_of(routes)
        return _RouteColumns(sp.csc_array(self._units @ selector + serving), cost)

    def all_level_amounts(self) -> FloatArray:
        """[levels, columns of `program`] what one unit of each column adds to each level."""
        amounts = np.zeros((LEVEL_COUNT, self.column_count))
        for level, columns, amount in self.model.levels:
            amounts[level, self.position(columns)] += amount
        rank = self.model.sets.problem.classes.priority_rank[self.routes.class_index]
        route = self.route_start + np.arange(len(rank))
        amounts[np.array(LEVEL_OF_RANK)[rank], route] = self.unserved_amount(self.penalty_yuan)
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
        values[self.kept_column] = x[: len(self.kept_column)]
        values[self.active] = x[len(self.kept_column) : self.route_start]
        n, b = np.nonzero(self.routes.unit >= 0)
        np.add.at(values, self.unit_column[self.routes.unit[n, b]], x[self.route_start :][n])
        return values

    def route_move_yuan(self) -> FloatArray:
        """[N] migration inside each route, for the class's whole demand."""
        return self._move_yuan_of(self.routes)

    def _move_yuan_of(self, routes: Routes) -> FloatArray:
        p, unit = self.model.sets.problem, routes.unit
        if not len(self.unit_pair):
            return np.zeros(len(unit))
        group = np.where(unit >= 0, p.pairs.group_index[self.unit_pair[unit]], NOTHING)
        moves = (group[:, 1:] != group[:, :-1]) & (group[:, 1:] >= 0) & (group[:, :-1] >= 0)
        return np.asarray((moves * self._move_yuan[routes.class_index]).sum(axis=1))

    def cheapest_routes(self, duals: FloatArray, nothing_yuan: FloatArray) -> RouteCosts:
        """Shortest path over (group or nothing) × block per class, at reduced costs of units; exact.

        `duals` of the base rows; `nothing_yuan`[C,B] what nothing in a block costs (inf: forbidden).
        """
        p, sets = self.model.sets.problem, self.model.sets
        unit_cost = self.base.cost[self.unit_column] - self._units.T @ duals[: self._units.shape[0]]
        best, arg = self._state_costs(np.asarray(unit_cost))
        nothing = np.where(self.has_demand, nothing_yuan, 0.0)
        classes, groups, blocks = p.class_count, p.group_count, sets.block_count
        every = np.arange(classes)
        state_cost = np.concatenate([best, nothing[:, None, :]], axis=1)  # last state: nothing
        path = state_cost[:, :, 0]
        came_from = np.zeros((blocks, classes, groups + 1), dtype=np.int64)
        for b in range(1, blocks):
            nearest = path[:, :groups].argmin(axis=1)
            from_group = np.repeat(path[every, nearest][:, None], groups + 1, axis=1)
            from_group[:, :groups] += self._move_yuan[:, b - 1 : b]
            from_nothing = np.repeat(path[:, groups:], groups + 1, axis=1)
            ways = np.stack([path, from_group, from_nothing])
            pick = ways.argmin(axis=0)
            origins = np.stack(np.broadcast_arrays(np.arange(groups + 1)[None], nearest[:, None], groups))
            came_from[b] = np.take_along_axis(origins, pick[None], axis=0)[0]
            path = ways.min(axis=0) + state_cost[:, :, b]
        wanted = self.model.keys["serve"][0]
        ends = np.argsort(path[wanted], axis=1, kind="stable")[:, :ROUTES_PER_ROUND]
        reduced = np.take_along_axis(path[wanted], ends, axis=1) - duals[self._serve_row[wanted]][:, None]
        unit = np.full((len(wanted), ends.shape[1], blocks), NOTHING)
        state, of_class = ends, wanted[:, None]
        for b in range(blocks - 1, -1, -1):
            known = np.minimum(state, groups - 1)
            unit[:, :, b] = np.where(state < groups, arg[of_class, known, b], NOTHING)
            state = came_from[b][of_class, state]
        classes_of = np.repeat(wanted, ends.shape[1])
        gains = np.minimum(reduced[:, 0], 0.0)
        heavy = wanted[(gains < 0) & (gains <= HEAVY_FRAC * gains.sum())]
        through, of_heavy = self._routes_through(heavy, state_cost[heavy], arg[heavy])
        return RouteCosts(
            reduced[:, 0],
            np.concatenate([reduced.ravel(), through - duals[self._serve_row[of_heavy.class_index]]]),
            Routes(
                np.concatenate([classes_of, of_heavy.class_index]),
                np.concatenate([unit.reshape(len(classes_of), blocks), of_heavy.unit]),
            ),
        )

    def _routes_through(
        self, classes: IntArray, state_cost: FloatArray, unit_of: IntArray
    ) -> tuple[FloatArray, Routes]:
        """(cost, route) of the cheapest route of some classes through every state (group or nothing) of every block.

        `state_cost`[H,G+1,B]; `unit_of`[H,G,B]. A class that capacity divides over many groups needs many routes, and
        with the cheapest few a round its bound is long in coming.
        """
        count, states, blocks = state_cost.shape
        step = np.broadcast_to(
            self._move_yuan[classes][:, None, None, :], (count, states, states, blocks - 1)
        ).copy()
        same = np.arange(states)
        step[:, same, same] = 0.0
        step[:, -1, :] = step[:, :, -1] = 0.0
        before, after = np.zeros((2, blocks, count, states), dtype=np.int64)
        there, beyond = [state_cost[:, :, 0]], [state_cost[:, :, -1]]
        for b in range(1, blocks):
            ways = there[-1][:, :, None] + step[:, :, :, b - 1]
            before[b] = ways.argmin(axis=1)
            there.append(ways.min(axis=1) + state_cost[:, :, b])
            back = blocks - 1 - b
            ways = beyond[-1][:, None, :] + step[:, :, :, back]
            after[back] = ways.argmin(axis=2)
            beyond.append(ways.min(axis=2) + state_cost[:, :, back])
        of = np.arange(count)[:, None]
        state = np.empty((count, states, blocks, blocks), dtype=np.int64)  # [class, through, in block, block]
        total = np.empty((count, states, blocks))
        for b in range(blocks):
            here = np.where(np.isfinite(state_cost[:, :, b]), state_cost[:, :, b], 0.0)
            total[:, :, b] = there[b] + (beyond[blocks - 1 - b] - here)
            state[:, :, b, b] = same
            for earlier in range(b - 1, -1, -1):
                state[:, :, b, earlier] = before[earlier + 1][of, state[:, :, b, earlier + 1]]
            for later in range(b + 1, blocks):
                state[:, :, b, later] = after[later - 1][of, state[:, :, b, later - 1]]
        every = np.arange(count)[:, None, None, None]
        known = np.minimum(state, states - 2)
        unit = np.where(state < states - 1, unit_of[every, known, np.arange(blocks)], NOTHING)
        best = np.argsort(total, axis=1, kind="stable")[:, :THROUGH_PER_BLOCK]
        cost = np.take_along_axis(total, best, axis=1).ravel()
        unit = np.take_along_axis(unit, best[..., None], axis=1).reshape(-1, blocks)
        possible = np.isfinite(cost)
        return cost[possible], Routes(np.repeat(classes, best.shape[1] * blocks)[possible], unit[possible])

    def _state_costs(self, unit_cost: FloatArray) -> tuple[FloatArray, IntArray]:
        """([C,G,B] cost of the unit there, [C,G,B] that unit); inf and −1 where the class has none."""
        p, sets = self.model.sets.problem, self.model.sets
        shape = (p.class_count, p.group_count, sets.block_count)
        cost, unit = np.full(shape, INFINITY), np.full(shape, NOTHING)
        at = (p.pairs.class_index[self.unit_pair], p.pairs.group_index[self.unit_pair], self.unit_block)
        cost[at] = unit_cost
        unit[at] = np.arange(len(self.unit_pair))
        # in a block without demand a service may lie anywhere for nothing
        cost[np.broadcast_to(~self.has_demand[:, None, :], shape)] = 0.0
        return cost, unit


def _route_keys(routes: Routes) -> list[tuple[int, bytes]]:
    """What tells routes apart."""
    width = routes.unit.shape[1] * routes.unit.itemsize
    data = np.ascontiguousarray(routes.unit).tobytes()
    of_class = routes.class_index.tolist()
    return [(c, data[i * width : (i + 1) * width]) for i, c in enumerate(of_class)]


def _watched_rows(model: PlanModel, row_count: int) -> BoolArray:
    """[rows] inequalities of the rules that seldom bind."""
    watched = np.zeros(row_count, dtype=bool)
    for name, block in model.rows.items():
        if name.startswith(SELDOM_BINDING):
            watched[block.slice] = True
    return watched


def _pattern_columns(model: PlanModel) -> tuple[IntArray, IntArray]:
    """Columns of patterns of all graphs, and of each: graph · eras + era."""
    eras = model.sets.era_count
    columns = [model.columns_of(f"pattern_{j}") for j in range(len(model.sets.graphs))]
    of = [j * eras + model.keys[f"pattern_{j}"][1] for j in range(len(model.sets.graphs))]
    nothing = np.zeros(0, dtype=np.int64)
    return np.concatenate([nothing, *columns]), np.concatenate([nothing, *of])


def _first_pattern_columns(model: PlanModel) -> IntArray:
    columns = [np.zeros(0, dtype=np.int64)]
    for j, held in enumerate(model.sets.graphs):
        begins = np.isin(model.keys[f"pattern_{j}"][0], held.first)
        columns.append(model.columns_of(f"pattern_{j}")[begins])
    return np.concatenate(columns)


def _best_of_each(key: IntArray, reduced: FloatArray, keep: int) -> IntArray:
    """Positions of the `keep` least reduced costs of each key, as far as they pay."""
    pays = np.flatnonzero(reduced < -LEAST_GAIN_YUAN)
    order = pays[np.lexsort((pays, reduced[pays], key[pays]))]
    ordered = key[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left")
    return np.sort(order[rank < keep])
