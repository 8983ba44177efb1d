"""One linear program solved again and again while it grows: GLOP kept alive between solves.

Loading a program of 200 000 entries into a fresh GLOP costs more than the few pivots after a round of pricing. A
`Session` hands over only what differs: new columns (told by stable keys), rows added or dropped at the end, other
bounds and costs; GLOP goes on from the basis where it stopped. Presolve is off, as it would start from nothing each
time. Deterministic: one thread, limits on iterations, and the same sequence of programs gives the same answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from ortools.math_opt import callback_pb2, model_parameters_pb2, model_update_pb2, parameters_pb2
from ortools.math_opt.core.python import solver as mathopt
from pybind11_abseil.status import StatusNotOk

from solvers.archive import FloatArray, IntArray
from solvers.linear import (
    Basis,
    LpLimits,
    LpResult,
    LpStatus,
    Program,
    basis_proto,
    model_proto,
    patience,
    read_result,
    solve_patiently,
)


@dataclass
class Session:
    """A live GLOP and what it was told so far. `solve` takes the whole program each time and sends the difference."""

    _solver: mathopt.Solver | None = None
    _keys: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Key of each column, in the order of joining."""
    _sorted: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Order that sorts `_keys`."""
    _lower: FloatArray = field(default_factory=lambda: np.zeros(0))
    _upper: FloatArray = field(default_factory=lambda: np.zeros(0))
    _cost: FloatArray = field(default_factory=lambda: np.zeros(0))
    _row_ids: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    _row_lower: FloatArray = field(default_factory=lambda: np.zeros(0))
    _row_upper: FloatArray = field(default_factory=lambda: np.zeros(0))
    _temporary: tuple[str, ...] = ()
    _next_row_id: int = 0
    _offset: float = 0.0
    _basis: Basis | None = None
    """Of the last optimum, in joining order of columns."""
    _must_hint: bool = False
    """GLOP does not stand at `_basis`: rows came or went, or it was loaded afresh."""

    def solve(self, program: Program, column_key: IntArray, limits: LpLimits) -> LpResult:
        """Minimise. `column_key`: a number per column that stays with it; entries of known columns must not change.

        When GLOP cycles, ends imprecisely or finds no answer, `solve_patiently` tries the other ways, from nothing.
        """
        place = self._joined(column_key)
        if self._solver is None:
            self._restart(program, column_key)
            place = np.arange(len(column_key))
        elif np.any(place < 0) or self._kept_rows(program) < max(program.matrix.shape[0], len(self._row_ids)):
            place = self._grow(program, column_key, place)
        if not self._set_values(program, place):
            self._restart(program, column_key, place)
            place = np.arange(len(column_key))
        result = self._run(program, place, limits)
        if result.status is LpStatus.OPTIMAL:
            return result
        left = replace(limits, iterations=max(1, limits.iterations - result.iterations))
        again = solve_patiently(program, left)
        self._restart(program, column_key)
        self._basis, self._must_hint = again.basis, again.basis is not None
        return replace(again, iterations=again.iterations + result.iterations)

    def forget_temporary_rows(self) -> None:
        """Take no temporary row of the next program for one of the last: their entries differ."""
        self._temporary = tuple("" for _ in self._temporary)

    # -- what changed

    def _joined(self, column_key: IntArray) -> IntArray:
        """Where each column stands in the order of joining; −1: not yet."""
        if not len(self._keys):
            return np.full(len(column_key), -1)
        at = np.searchsorted(self._keys, column_key, sorter=self._sorted)
        known = self._sorted[np.minimum(at, len(self._keys) - 1)]
        return np.where(self._keys[known] == column_key, known, -1)

    def _restart(self, program: Program, column_key: IntArray, place: IntArray | None = None) -> None:
        """A fresh GLOP with the whole program; with the columns' places so far it goes on from the last basis."""
        basis = self._basis
        self._must_hint = basis is not None and place is not None
        self._basis = (
            Basis(basis.columns[place], basis.rows) if basis is not None and place is not None else None
        )
        rows = program.matrix.shape[0]
        self._keys, self._sorted = column_key.copy(), np.argsort(column_key, kind="stable")
        self._lower, self._upper, self._cost = program.lower.copy(), program.upper.copy(), program.cost.copy()
        self._row_ids, self._next_row_id, self._temporary = np.arange(rows), rows, program.temporary
        self._row_lower, self._row_upper = program.row_lower.copy(), program.row_upper.copy()
        self._offset = program.offset
        self._solver = mathopt.new(
            parameters_pb2.SOLVER_TYPE_GLOP, model_proto(program), parameters_pb2.SolverInitializerProto()
        )

    def _grow(self, program: Program, column_key: IntArray, place: IntArray) -> IntArray:
        """Send new columns, and rows added or dropped at the end; returns the places of all columns."""
        assert self._solver is not None
        update = model_update_pb2.ModelUpdateProto()
        rows = program.matrix.shape[0]
        kept = self._kept_rows(program)
        update.deleted_linear_constraint_ids.extend(self._row_ids[kept:].tolist())
        fresh_rows = np.arange(self._next_row_id, self._next_row_id + rows - kept)
        fresh = np.flatnonzero(place < 0)
        place = place.copy()
        place[fresh] = len(self._keys) + np.arange(len(fresh))
        if len(fresh_rows):
            self._next_row_id += len(fresh_rows)
            update.new_linear_constraints.ids.extend(fresh_rows.tolist())
            update.new_linear_constraints.lower_bounds.extend(program.row_lower[kept:].tolist())
            update.new_linear_constraints.upper_bounds.extend(program.row_upper[kept:].tolist())
        if len(fresh):
            update.new_variables.ids.extend(place[fresh].tolist())
            update.new_variables.lower_bounds.extend(program.lower[fresh].tolist())
            update.new_variables.upper_bounds.extend(program.upper[fresh].tolist())
            update.new_variables.integers.extend([False] * len(fresh))
            priced = fresh[program.cost[fresh] != 0.0]
            update.objective_updates.linear_coefficients.ids.extend(place[priced].tolist())
            update.objective_updates.linear_coefficients.values.extend(program.cost[priced].tolist())
        row_ids = np.append(self._row_ids[:kept], fresh_rows)
        _add_new_entries(update, program.matrix, kept, fresh, row_ids, place)
        self._remember(program, column_key[fresh], fresh, kept, row_ids)
        if not self._solver.update(update):
            self._restart(program, column_key, place)
            return np.arange(len(column_key))
        # told nothing, GLOP would begin again with the slacks whenever columns or rows came
        self._must_hint = True
        return place

    def _kept_rows(self, program: Program) -> int:
        """Leading rows that are the same as in the last program: rows of the model, then temporary ones by key."""
        model_rows = program.matrix.shape[0] - len(program.temporary)
        if model_rows != len(self._row_ids) - len(self._temporary):
            return min(model_rows, len(self._row_ids) - len(self._temporary))
        same = 0
        for ours, theirs in zip(program.temporary, self._temporary, strict=False):
            if ours != theirs:
                break
            same += 1
        return model_rows + same

    def _remember(
        self, program: Program, fresh_keys: IntArray, fresh: IntArray, kept_rows: int, row_ids: IntArray
    ) -> None:
        self._keys = np.append(self._keys, fresh_keys)
        self._sorted = np.argsort(self._keys, kind="stable")
        self._lower = np.append(self._lower, program.lower[fresh])
        self._upper = np.append(self._upper, program.upper[fresh])
        self._cost = np.append(self._cost, program.cost[fresh])
        self._row_ids, self._temporary = row_ids, program.temporary
        self._row_lower = np.append(self._row_lower[:kept_rows], program.row_lower[kept_rows:])
        self._row_upper = np.append(self._row_upper[:kept_rows], program.row_upper[kept_rows:])
        if self._basis is not None:
            self._basis = self._basis.grown(len(self._keys), kept_rows, len(row_ids))

    def _set_values(self, program: Program, place: IntArray) -> bool:
        """Send bounds, costs and right-hand sides that differ; a column that is not in the program stays at zero."""
        assert self._solver is not None
        lower, upper, cost = np.zeros(len(self._keys)), np.zeros(len(self._keys)), np.zeros(len(self._keys))
        lower[place], upper[place], cost[place] = program.lower, program.upper, program.cost
        update = model_update_pb2.ModelUpdateProto()
        parts = (
            (update.variable_updates.lower_bounds, self._lower, lower, None),
            (update.variable_updates.upper_bounds, self._upper, upper, None),
            (update.objective_updates.linear_coefficients, self._cost, cost, None),
            (
                update.linear_constraint_updates.lower_bounds,
                self._row_lower,
                program.row_lower,
                self._row_ids,
            ),
            (
                update.linear_constraint_updates.upper_bounds,
                self._row_upper,
                program.row_upper,
                self._row_ids,
            ),
        )
        changes = 0
        for message, old, new, ids in parts:
            differs = np.flatnonzero(old != new)
            changes += len(differs)
            message.ids.extend((differs if ids is None else ids[differs]).tolist())
            message.values.extend(new[differs].tolist())
        if program.offset != self._offset:
            changes += 1
            update.objective_updates.offset_update = program.offset
        self._lower, self._upper, self._cost, self._offset = lower, upper, cost, program.offset
        self._row_lower, self._row_upper = program.row_lower.copy(), program.row_upper.copy()
        return not changes or bool(self._solver.update(update))

    # -- one solve

    def _run(self, program: Program, place: IntArray, limits: LpLimits) -> LpResult:
        assert self._solver is not None
        hints = model_parameters_pb2.ModelSolveParametersProto()
        if self._must_hint and self._basis is not None:
            ids = np.arange(len(self._keys))
            hints.initial_basis.CopyFrom(basis_proto(self._basis, ids, self._row_ids))
        parameters = parameters_pb2.SolveParametersProto()
        parameters.time_limit.FromTimedelta(timedelta(seconds=limits.wall_s))
        parameters.iteration_limit = min(limits.iterations, patience(program))
        parameters.glop.use_preprocessing = False
        parameters.glop.use_dual_simplex = False
        parameters.glop.change_status_to_imprecise = False
        parameters.glop.num_omp_threads = 1
        try:
            answer = self._solver.solve(
                parameters, hints, None, callback_pb2.CallbackRegistrationProto(), None, None
            )
        except StatusNotOk as error:
            nothing = np.zeros(0)
            return LpResult(LpStatus.FAILED, math.nan, nothing, nothing, nothing, None, 0, str(error))
        result = read_result(answer, program, place, self._row_ids, len(self._keys), self._next_row_id)
        if result.basis is not None:
            columns = np.full(len(self._keys), Basis.AT_LOWER)
            columns[place] = result.basis.columns
            self._basis, self._must_hint = Basis(columns, result.basis.rows), False
        return result


def _add_new_entries(
    update: model_update_pb2.ModelUpdateProto, matrix: sp.csr_array, kept_rows: int,
    fresh: npt.NDArray[np.intp], row_ids: IntArray, place: IntArray,
) -> None:  # fmt: skip
    """Entries of new columns in kept rows, and all entries of new rows, by row and column id."""
    parts = []
    if len(fresh):
        block = sp.coo_array(matrix[:kept_rows][:, fresh])
        parts.append((block.row, place[fresh[block.col]], block.data))
    if matrix.shape[0] > kept_rows:
        block = sp.coo_array(matrix[kept_rows:])
        parts.append((block.row + kept_rows, place[block.col], block.data))
    if not parts:
        return
    row, column, value = (np.concatenate([part[i] for part in parts]) for i in range(3))
    order = np.lexsort((column, row_ids[row]))
    update.linear_constraint_matrix_updates.row_ids.extend(row_ids[row][order].tolist())
    update.linear_constraint_matrix_updates.column_ids.extend(column[order].tolist())
    update.linear_constraint_matrix_updates.coefficients.extend(value[order].tolist())
