"""One linear program solved again and again while it grows: GLOP kept alive between solves.

Loading a program of 200 000 entries into a fresh GLOP costs more than the few pivots after a round of pricing. A
`Session` hands over only what differs: new columns and rows (told by stable keys), rows dropped, other bounds and
costs; GLOP goes on from the basis where it stopped. Most rows of a plan never bind; those that are *watched* join only
when an optimum breaks them, and each solve is the faster for those that stay away. Presolve is off, as it would start
from nothing each time. Deterministic: one thread, limits on iterations, and the same sequence of programs gives the
same answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import Enum

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from ortools.math_opt import callback_pb2, model_parameters_pb2, model_update_pb2, parameters_pb2, result_pb2
from ortools.math_opt.core.python import solver as mathopt
from pybind11_abseil.status import StatusNotOk

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.linear import (
    Basis,
    LpLimits,
    LpResult,
    LpStatus,
    Matrix,
    Program,
    basis_proto,
    model_proto,
    patience,
    read_result,
    solve_patiently,
)


class _Change(Enum):
    """What a program differs in from the last one, which says how the simplex best goes on."""

    COLUMNS = "columns"
    """Primal feasible: primal simplex."""
    ROWS = "rows"
    """Dual feasible: dual simplex."""
    BOUNDS = "bounds"
    """Dual feasible as well."""
    OTHER = "other"


MOST_ITERATIONS_BY_DEVEX = 250
"""Up to so many expected iterations devex is faster: steepest edge first solves a system per column, for its norms."""
DEVEX_PATIENCE = 600
"""Where devex has not ended after so many, it stalls, and steepest edge goes on from there."""
DUAL_PATIENCE, DUAL_ROWS_PER_ITERATION = 1000, 4
"""Where the dual simplex has not ended after so many, or one in four rows if that is more, it cycles (those of
songjiang-m that end take up to 700), and the primal goes on: left to itself one took 108 000 iterations in 2 min."""
DEVEX_ITERATIONS_PER_STEEPEST = 3
"""Devex takes about so many iterations for one by steepest edge; measured on hourly plans of the reference city."""
BROKEN = 1e-7
"""A row left out joins when an optimum breaks it by more than this, relative to its size."""


@dataclass
class Session:
    """A live GLOP and what it was told so far. `solve` takes the whole program each time and sends the difference."""

    _solver: mathopt.Solver | None = None
    _keys: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Key of each column, in the order of joining."""
    _lower: FloatArray = field(default_factory=lambda: np.zeros(0))
    _upper: FloatArray = field(default_factory=lambda: np.zeros(0))
    _cost: FloatArray = field(default_factory=lambda: np.zeros(0))
    _row_keys: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Key of each row, in the order of joining."""
    _row_ids: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    _row_lower: FloatArray = field(default_factory=lambda: np.zeros(0))
    _row_upper: FloatArray = field(default_factory=lambda: np.zeros(0))
    _next_row_id: int = 0
    _offset: float = 0.0
    _basis: Basis | None = None
    """Of the last optimum, in joining order of columns and rows."""
    _bookmarks: dict[str, Basis] = field(default_factory=dict)
    """Those of earlier optima, in the same order."""
    _was_basic: BoolArray = field(default_factory=lambda: np.zeros(0, bool))
    """Whether each column has been basic in an optimum, in joining order."""
    _must_hint: bool = False
    """GLOP does not stand at `_basis`: rows came or went, or it was loaded afresh."""
    _temporary_keys: dict[str, int] = field(default_factory=dict)
    _next_temporary_key: int = -1
    _change: _Change = field(default_factory=lambda: _Change.OTHER)
    _expected_iterations: float = math.inf
    """By steepest edge, when columns join next."""

    def solve(self, program: Program, column_key: IntArray, limits: LpLimits) -> LpResult:
        """Minimise. `column_key`: a number per column that stays with it; entries of known columns must not change.

        Watched rows join once an optimum breaks them, so the last optimum is one of the whole program: rows left out
        hold there, and their duals are zero.
        """
        result = self._solve_elastic(
            program.with_excess_columns(), self._with_excess_keys(program, column_key), limits
        )
        return replace(result, x=result.x[: len(column_key)])

    def remember(self, name: str) -> None:
        """Keep the basis of the last optimum for `go_back`."""
        if self._basis is not None:
            self._bookmarks[name] = self._basis

    def go_back(self, name: str) -> None:
        """Go on from a remembered optimum, where the next program is nearer to that one than to the last."""
        basis = self._bookmarks.get(name)
        if basis is not None and basis is not self._basis:
            self._basis, self._must_hint = basis, True

    def was_basic(self, column_key: IntArray) -> BoolArray:
        """Whether each column has been basic in some optimum so far."""
        place = _places(self._keys, column_key)
        return np.asarray(self._was_basic[place] & (place >= 0))

    def leave_out_others(self, program: Program, column_key: IntArray) -> None:
        """Load GLOP afresh with the columns of a program, at the last optimum; the remembered ones stay remembered.

        The columns left out may be basic in none of them, and the program has all rows that GLOP was told.
        """
        row_key = self._keys_of_rows(program)
        known = np.flatnonzero(np.isin(row_key, self._row_keys))
        place, row_place = _places(self._keys, column_key), _places(self._row_keys, row_key[known])
        assert np.all(place >= 0) and len(known) == len(self._row_keys)
        bookmarks = {
            name: Basis(basis.columns[place], basis.rows[row_place])
            for name, basis in self._bookmarks.items()
        }
        self._restart(program.only_rows(known), column_key, row_key[known], place, row_place)
        self._bookmarks = bookmarks

    def _with_excess_keys(self, program: Program, column_key: IntArray) -> IntArray:
        """Keys of the columns and of the excess of each temporary row, which are those of the rows."""
        return np.append(
            column_key, self._keys_of_rows(program)[len(program.row_lower) - len(program.most_excess) :]
        )

    def _solve_elastic(self, program: Program, column_key: IntArray, limits: LpLimits) -> LpResult:
        row_key = self._keys_of_rows(program)
        told = np.isin(row_key, self._row_keys)
        if program.watched is not None:
            told[: len(program.watched)] |= ~program.watched
            told[len(program.watched) :] = True
        else:
            told[:] = True
        spent = 0
        while True:
            rows = np.flatnonzero(told)
            left = replace(limits, iterations=max(1, limits.iterations - spent))
            result = self._solve_told(program, rows, column_key, row_key[rows], left)
            spent += result.iterations
            result = replace(result, iterations=spent)
            if result.status is LpStatus.OPTIMAL:
                joining = _broken(program, result.x) & ~told
            elif result.status is LpStatus.FAILED and not told.all():
                joining = ~told  # perhaps without bound only as long as rows are missing
            else:
                return result
            if not joining.any():
                duals = np.zeros(len(told))
                duals[rows] = result.duals
                return replace(result, duals=duals)
            told |= joining

    def _keys_of_rows(self, program: Program) -> IntArray:
        """A number per row that stays with it: its position, and below zero for a temporary row's name."""
        for name in program.temporary:
            if name not in self._temporary_keys:
                self._temporary_keys[name] = self._next_temporary_key
                self._next_temporary_key -= 1
        of_model = np.arange(program.matrix.shape[0] - len(program.temporary))
        return np.append(of_model, [self._temporary_keys[name] for name in program.temporary]).astype(
            np.int64
        )

    def _solve_told(
        self, program: Program, rows: IntArray, column_key: IntArray, row_key: IntArray, limits: LpLimits
    ) -> LpResult:
        """The program without its other rows.

        When GLOP cycles, ends imprecisely or finds no answer, `solve_patiently` tries other ways, from nothing.
        """
        place, row_place = _places(self._keys, column_key), _places(self._row_keys, row_key)
        rows_leave = len(self._row_keys) > int((row_place >= 0).sum())
        rows_join = bool(np.any(row_place < 0))
        # entries of a joining row in columns that are away now could not be told
        columns_away = len(self._keys) > int((place >= 0).sum())
        columns_join = bool(np.any(place < 0))
        self._change = _change(rows_join or rows_leave, columns_join) if self._solver else _Change.OTHER
        if self._solver is None or (rows_join and columns_away):
            self._restart(program.only_rows(rows), column_key, row_key)
            place, row_place = np.arange(len(column_key)), np.arange(len(row_key))
        elif rows_join or rows_leave or columns_join:
            self._grow(program, rows, column_key, row_key, place, row_place)
            place, row_place = _places(self._keys, column_key), _places(self._row_keys, row_key)
        if limits.is_feasible:
            self._change = _Change.OTHER
        if not self._set_values(program, rows, place, row_place):
            self._restart(program.only_rows(rows), column_key, row_key, place, row_place)
            place, row_place = np.arange(len(column_key)), np.arange(len(row_key))
        result = self._run(program, rows, place, row_place, limits)
        if result.status is LpStatus.OPTIMAL:
            return result
        if limits.is_guess:
            self._must_hint = self._basis is not None
            return result
        if result.status is LpStatus.LIMIT and result.iterations >= limits.iterations:
            return result  # the caller's limit: the live GLOP goes on from here next time
        left = replace(limits, iterations=max(1, limits.iterations - result.iterations))
        part = program.only_rows(rows)
        again = solve_patiently(part, left)
        if result.status is again.status is LpStatus.INFEASIBLE:
            # proven twice: the live GLOP is sound, and where it stands is a good start for other bounds
            return replace(again, iterations=again.iterations + result.iterations)
        self._restart(part, column_key, row_key)
        self._basis, self._must_hint = again.basis, again.basis is not None
        if again.basis is not None:
            self._was_basic |= again.basis.columns == Basis.BASIC
        return replace(again, iterations=again.iterations + result.iterations)

    # -- what changed

    def _restart(
        self, program: Program, column_key: IntArray, row_key: IntArray,
        place: IntArray | None = None, row_place: IntArray | None = None,
    ) -> None:  # fmt: skip
        """A fresh GLOP with the whole program; with the places so far it goes on from the last basis."""
        basis = self._basis
        self._must_hint = basis is not None and place is not None
        self._basis = (
            Basis(basis.columns[place], basis.rows[row_place])
            if basis is not None and place is not None and row_place is not None
            else None
        )
        self._bookmarks = {}
        rows = program.matrix.shape[0]
        self._keys, self._row_keys = column_key.copy(), row_key.copy()
        self._was_basic = np.zeros(len(column_key), dtype=bool) if place is None else self._was_basic[place]
        self._lower, self._upper, self._cost = program.lower.copy(), program.upper.copy(), program.cost.copy()
        self._row_ids, self._next_row_id = np.arange(rows), rows
        self._row_lower, self._row_upper = program.row_lower.copy(), program.row_upper.copy()
        self._offset = program.offset
        self._solver = mathopt.new(
            parameters_pb2.SOLVER_TYPE_GLOP, model_proto(program), parameters_pb2.SolverInitializerProto()
        )

    def _grow(
        self, program: Program, rows: IntArray, column_key: IntArray, row_key: IntArray, place: IntArray,
        row_place: IntArray,
    ) -> None:  # fmt: skip
        """Send new columns, and rows that joined or left."""
        assert self._solver is not None
        update = model_update_pb2.ModelUpdateProto()
        kept_rows = np.sort(row_place[row_place >= 0])
        leaves = np.ones(len(self._row_ids), dtype=bool)
        leaves[kept_rows] = False
        leaving = np.flatnonzero(leaves)
        update.deleted_linear_constraint_ids.extend(self._row_ids[leaving].tolist())
        fresh, fresh_rows = np.flatnonzero(place < 0), np.flatnonzero(row_place < 0)
        new_ids = np.arange(self._next_row_id, self._next_row_id + len(fresh_rows))
        self._next_row_id += len(fresh_rows)
        update.new_linear_constraints.ids.extend(new_ids.tolist())
        update.new_linear_constraints.lower_bounds.extend(program.row_lower[rows[fresh_rows]].tolist())
        update.new_linear_constraints.upper_bounds.extend(program.row_upper[rows[fresh_rows]].tolist())
        id_of_column, id_of_row = place.copy(), np.full(len(program.row_lower), -1)
        id_of_column[fresh] = len(self._keys) + np.arange(len(fresh))
        id_of_row[rows[row_place >= 0]] = self._row_ids[row_place[row_place >= 0]]
        id_of_row[rows[fresh_rows]] = new_ids
        update.new_variables.ids.extend(id_of_column[fresh].tolist())
        update.new_variables.lower_bounds.extend(program.lower[fresh].tolist())
        update.new_variables.upper_bounds.extend(program.upper[fresh].tolist())
        update.new_variables.integers.extend([False] * len(fresh))
        priced = fresh[program.cost[fresh] != 0.0]
        update.objective_updates.linear_coefficients.ids.extend(id_of_column[priced].tolist())
        update.objective_updates.linear_coefficients.values.extend(program.cost[priced].tolist())
        _add_new_entries(update, program.matrix, rows[fresh_rows], fresh, id_of_row, id_of_column)

        self._keys = np.append(self._keys, column_key[fresh])
        self._was_basic = np.append(self._was_basic, np.zeros(len(fresh), dtype=bool))
        self._lower = np.append(self._lower, program.lower[fresh])
        self._upper = np.append(self._upper, program.upper[fresh])
        self._cost = np.append(self._cost, program.cost[fresh])
        self._row_keys = np.append(self._row_keys[kept_rows], row_key[fresh_rows])
        self._row_ids = np.append(self._row_ids[kept_rows], new_ids)
        self._row_lower = np.append(self._row_lower[kept_rows], program.row_lower[rows[fresh_rows]])
        self._row_upper = np.append(self._row_upper[kept_rows], program.row_upper[rows[fresh_rows]])
        if self._basis is not None:
            self._basis = self._basis.grown(len(self._keys), kept_rows, len(fresh_rows))
        self._bookmarks = {
            name: basis.grown(len(self._keys), kept_rows, len(fresh_rows))
            for name, basis in self._bookmarks.items()
        }
        if self._solver.update(update):
            # told nothing, GLOP would begin again with the slacks whenever columns or rows came
            self._must_hint = True
        else:
            places = _places(self._keys, column_key), _places(self._row_keys, row_key)
            self._restart(program.only_rows(rows), column_key, row_key, *places)

    def _set_values(self, program: Program, rows: IntArray, place: IntArray, row_place: IntArray) -> bool:
        """Send bounds, costs and right-hand sides that differ; a column that is not in the program stays at zero."""
        assert self._solver is not None
        lower, upper, cost = np.zeros(len(self._keys)), np.zeros(len(self._keys)), np.zeros(len(self._keys))
        lower[place], upper[place], cost[place] = program.lower, program.upper, program.cost
        row_lower, row_upper = np.empty(len(self._row_keys)), np.empty(len(self._row_keys))
        row_lower[row_place], row_upper[row_place] = program.row_lower[rows], program.row_upper[rows]
        update = model_update_pb2.ModelUpdateProto()
        column_ids = np.arange(len(self._keys))
        row_updates = update.linear_constraint_updates
        parts = (
            (update.variable_updates.lower_bounds, self._lower, lower, column_ids),
            (update.variable_updates.upper_bounds, self._upper, upper, column_ids),
            (update.objective_updates.linear_coefficients, self._cost, cost, column_ids),
            (row_updates.lower_bounds, self._row_lower, row_lower, self._row_ids),
            (row_updates.upper_bounds, self._row_upper, row_upper, self._row_ids),
        )
        changes = 0
        for message, old, new, ids in parts:
            differs = np.flatnonzero(old != new)
            changes += len(differs)
            message.ids.extend(ids[differs].tolist())
            message.values.extend(new[differs].tolist())
        if self._change in (_Change.BOUNDS, _Change.ROWS) and not np.array_equal(self._cost, cost):
            self._change = _Change.OTHER
        if program.offset != self._offset:
            changes += 1
            update.objective_updates.offset_update = program.offset
        self._lower, self._upper, self._cost, self._offset = lower, upper, cost, program.offset
        self._row_lower, self._row_upper = row_lower, row_upper
        return not changes or bool(self._solver.update(update))

    # -- one solve

    def _run(
        self, program: Program, rows: IntArray, place: IntArray, row_place: IntArray, limits: LpLimits
    ) -> LpResult:
        assert self._solver is not None
        hints = model_parameters_pb2.ModelSolveParametersProto()
        hints.variable_values_filter.skip_zero_values = True
        hints.dual_values_filter.skip_zero_values = True
        hints.reduced_costs_filter.filter_by_ids = True  # none
        if self._must_hint and self._basis is not None:
            ids = np.arange(len(self._keys))
            hints.initial_basis.CopyFrom(basis_proto(self._basis, ids, self._row_ids))
        parameters = parameters_pb2.SolveParametersProto()
        parameters.time_limit.FromTimedelta(timedelta(seconds=limits.wall_s))
        parameters.iteration_limit = min(limits.iterations, patience(program))
        parameters.glop.use_preprocessing = False
        parameters.glop.change_status_to_imprecise = False
        # it would pivot on after the optimum to be sure of it; the answer's rows are measured in any case
        parameters.glop.provide_strong_optimal_guarantee = False
        parameters.glop.num_omp_threads = 1
        parameters.glop.use_dual_simplex = self._change in (_Change.BOUNDS, _Change.ROWS)
        few_expected = (
            self._change is _Change.COLUMNS and self._expected_iterations <= MOST_ITERATIONS_BY_DEVEX
        )
        use_devex = few_expected or (limits.is_near and self._change is _Change.OTHER)
        # the dual simplex has norms of its own; what is left to do after it is for the primal, and little
        is_quick = use_devex or parameters.glop.use_dual_simplex
        rule = parameters.glop.DEVEX if is_quick else parameters.glop.STEEPEST_EDGE
        parameters.glop.feasibility_rule = parameters.glop.optimization_rule = rule
        try:
            if use_devex:
                answer = _solved_in_turns(self._solver, parameters, hints, DEVEX_PATIENCE)
            elif parameters.glop.use_dual_simplex:
                turn = max(DUAL_PATIENCE, len(rows) // DUAL_ROWS_PER_ITERATION)
                answer = _solved_in_turns(self._solver, parameters, hints, turn)
            else:
                answer = _solved(self._solver, parameters, hints)
        except StatusNotOk as error:
            nothing = np.zeros(0)
            return LpResult(LpStatus.FAILED, math.nan, nothing, nothing, None, 0, str(error))
        row_ids = self._row_ids[row_place]
        result = read_result(answer, program, place, row_ids, len(self._keys), self._next_row_id, rows)
        if self._change is _Change.COLUMNS or (limits.is_near and self._change is _Change.OTHER):
            self._expected_iterations = result.iterations / (
                DEVEX_ITERATIONS_PER_STEEPEST if use_devex else 1
            )
        if result.basis is not None:
            of_columns, of_rows = np.full(len(self._keys), Basis.AT_LOWER), np.empty(len(row_ids), np.int64)
            of_columns[place], of_rows[row_place] = result.basis.columns, result.basis.rows
            self._basis, self._must_hint = Basis(of_columns, of_rows), False
            self._was_basic |= of_columns == Basis.BASIC
        return result


def _solved(
    solver: mathopt.Solver,
    parameters: parameters_pb2.SolveParametersProto,
    hints: model_parameters_pb2.ModelSolveParametersProto,
) -> result_pb2.SolveResultProto:
    """One solve by the live GLOP."""
    return solver.solve(parameters, hints, None, callback_pb2.CallbackRegistrationProto(), None, None)


def _solved_in_turns(
    solver: mathopt.Solver,
    parameters: parameters_pb2.SolveParametersProto,
    hints: model_parameters_pb2.ModelSolveParametersProto,
    first_iterations: int,
) -> result_pb2.SolveResultProto:
    """One solve as the parameters say, and where that stalls, from there by the primal simplex with steepest edge."""
    most = parameters.iteration_limit
    parameters.iteration_limit = min(most, first_iterations)
    answer = _solved(solver, parameters, hints)
    spent = answer.solve_stats.simplex_iterations
    has_stalled = answer.termination.reason in (
        result_pb2.TERMINATION_REASON_FEASIBLE,
        result_pb2.TERMINATION_REASON_NO_SOLUTION_FOUND,
    )
    if not has_stalled or not first_iterations <= spent < most:
        return answer
    parameters.iteration_limit = most - spent
    parameters.glop.use_dual_simplex = False
    parameters.glop.feasibility_rule = parameters.glop.optimization_rule = parameters.glop.STEEPEST_EDGE
    hints.ClearField("initial_basis")  # it stands where it stopped
    answer = _solved(solver, parameters, hints)
    answer.solve_stats.simplex_iterations += spent
    return answer


def _change(rows_differ: bool, columns_join: bool) -> _Change:
    if rows_differ:
        return _Change.OTHER if columns_join else _Change.ROWS
    return _Change.COLUMNS if columns_join else _Change.BOUNDS


def _places(known: IntArray, keys: IntArray) -> IntArray:
    """Where each key stands among the known ones; −1: nowhere."""
    if not len(known):
        return np.full(len(keys), -1)
    if np.array_equal(known, keys):
        return np.arange(len(keys))
    order = np.argsort(known, kind="stable")
    at = order[np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)]
    return np.where(known[at] == keys, at, -1)


def _broken(program: Program, x: FloatArray) -> BoolArray:
    """[rows] violated by more than the simplex itself allows."""
    activity = program.matrix @ x
    room = BROKEN * (1.0 + np.abs(activity))
    return np.asarray((activity < program.row_lower - room) | (activity > program.row_upper + room))


def _add_new_entries(
    update: model_update_pb2.ModelUpdateProto, matrix: Matrix, fresh_rows: npt.NDArray[np.intp],
    fresh: npt.NDArray[np.intp], id_of_row: IntArray, id_of_column: IntArray,
) -> None:  # fmt: skip
    """Entries of new columns and of new rows, by row and column id (−1: a row that is left out)."""
    is_fresh_row, is_fresh = np.zeros(matrix.shape[0], dtype=bool), np.zeros(matrix.shape[1], dtype=bool)
    is_fresh_row[fresh_rows], is_fresh[fresh] = True, True
    by_column = sp.csc_array(matrix)
    of_entry = np.repeat(is_fresh, np.diff(by_column.indptr))
    of_entry = of_entry | is_fresh_row[by_column.indices] if len(fresh_rows) else of_entry
    new = np.flatnonzero(of_entry & (id_of_row >= 0)[by_column.indices])
    column = np.searchsorted(by_column.indptr, new, side="right") - 1
    row, value = by_column.indices[new], by_column.data[new]
    order = np.lexsort((id_of_column[column], id_of_row[row]))
    update.linear_constraint_matrix_updates.row_ids.extend(id_of_row[row][order].tolist())
    update.linear_constraint_matrix_updates.column_ids.extend(id_of_column[column][order].tolist())
    update.linear_constraint_matrix_updates.coefficients.extend(value[order].tolist())
