"""Linear programs built from whole arrays and solved by GLOP through MathOpt's protocol buffers.

Adding terms one by one in Python costs more than solving; here columns, rows and entries come in blocks of numpy
arrays. Blocks have names, so that a model can be written out as text (`as_text`) and an infeasible row can be told.

Solves are deterministic: one thread, a limit on simplex iterations; the wall clock only aborts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from enum import Enum
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from ortools.math_opt import (
    callback_pb2,
    model_parameters_pb2,
    model_pb2,
    parameters_pb2,
    result_pb2,
    solution_pb2,
    sparse_containers_pb2,
)
from ortools.math_opt.core.python import solver as mathopt
from pybind11_abseil.status import StatusNotOk

from solvers.archive import BoolArray, FloatArray, IntArray

INFINITY = float("inf")
Matrix = sp.csr_array | sp.csc_array
Values = npt.ArrayLike
Label = Callable[[int], str]


@dataclass(frozen=True)
class Block:
    """A named run of columns or rows; `index[i]` is the position of its i-th entry."""

    name: str
    start: int
    count: int
    label: Label

    @property
    def index(self) -> IntArray:
        """Positions in the model."""
        return np.arange(self.start, self.start + self.count)

    @property
    def slice(self) -> slice:
        """Positions in the model as a slice."""
        return slice(self.start, self.start + self.count)


@dataclass
class LinearModel:
    """minimise cost·x subject to row_lower ≤ A·x ≤ row_upper, lower ≤ x ≤ upper; grows by blocks."""

    columns: list[Block] = field(default_factory=list)
    rows: list[Block] = field(default_factory=list)
    offset: float = 0.0
    _lower: list[FloatArray] = field(default_factory=list)
    _upper: list[FloatArray] = field(default_factory=list)
    _cost: list[FloatArray] = field(default_factory=list)
    _row_lower: list[FloatArray] = field(default_factory=list)
    _row_upper: list[FloatArray] = field(default_factory=list)
    _entries: list[tuple[IntArray, IntArray, FloatArray]] = field(default_factory=list)

    def fork(self) -> LinearModel:
        """One that grows from here on its own."""
        return LinearModel(**{f.name: copy.copy(getattr(self, f.name)) for f in fields(self)})

    @property
    def column_count(self) -> int:
        """Columns so far."""
        return self._next(self.columns)

    def add_columns(
        self, name: str, count: int, *, lower: Values = 0.0, upper: Values = INFINITY, cost: Values = 0.0,
        label: Label = str,
    ) -> Block:  # fmt: skip
        """A block of variables."""
        block = Block(name, self._next(self.columns), count, label)
        self.columns.append(block)
        for store, values in ((self._lower, lower), (self._upper, upper), (self._cost, cost)):
            store.append(np.broadcast_to(np.asarray(values, dtype=float), count).copy())
        return block

    def add_rows(
        self,
        name: str,
        count: int,
        *,
        lower: Values = -INFINITY,
        upper: Values = INFINITY,
        label: Label = str,
    ) -> Block:
        """A block of constraints, without entries yet."""
        block = Block(name, self._next(self.rows), count, label)
        self.rows.append(block)
        self._row_lower.append(np.broadcast_to(np.asarray(lower, dtype=float), count).copy())
        self._row_upper.append(np.broadcast_to(np.asarray(upper, dtype=float), count).copy())
        return block

    def add_entries(self, rows: npt.ArrayLike, columns: npt.ArrayLike, values: Values) -> None:
        """Coefficients at (rows, columns), which broadcast; repeated positions add up."""
        r, c, v = np.broadcast_arrays(np.asarray(rows), np.asarray(columns), np.asarray(values, dtype=float))
        keep = v.ravel() != 0.0
        self._entries.append((r.ravel()[keep], c.ravel()[keep], v.ravel()[keep]))

    def program(self) -> Program:
        """The finished arrays."""
        rows = np.concatenate([e[0] for e in self._entries]) if self._entries else np.zeros(0, dtype=np.int64)
        columns = (
            np.concatenate([e[1] for e in self._entries]) if self._entries else np.zeros(0, dtype=np.int64)
        )
        values = np.concatenate([e[2] for e in self._entries]) if self._entries else np.zeros(0)
        shape = (self._next(self.rows), self._next(self.columns))
        matrix = sp.csr_array((values, (rows, columns)), shape=shape)
        matrix.sum_duplicates()
        matrix.sort_indices()
        return Program(
            matrix=matrix,
            lower=_joined(self._lower),
            upper=_joined(self._upper),
            cost=_joined(self._cost),
            row_lower=_joined(self._row_lower),
            row_upper=_joined(self._row_upper),
            offset=self.offset,
        )

    def last_rows(self, start: int) -> sp.csc_array:
        """The coefficients of the rows from `start` on, by columns."""
        parts = [(r[r >= start] - start, c[r >= start], v[r >= start]) for r, c, v in self._entries]
        rows, columns, values = (np.concatenate(each) for each in zip(*parts, strict=True))
        return sp.csc_array(
            (values, (rows, columns)), shape=(self._next(self.rows) - start, self._next(self.columns))
        )

    def row_bounds(self, start: int) -> tuple[FloatArray, FloatArray]:
        """Lower and upper bounds of the rows from `start` on."""
        return _joined(self._row_lower)[start:], _joined(self._row_upper)[start:]

    def as_text(self) -> str:
        """The model as text, one named row or column a line, for people and golden files."""
        program = self.program()
        columns = [f"{b.name}[{b.label(i)}]" for b in self.columns for i in range(b.count)]
        rows = [f"{b.name}[{b.label(i)}]" for b in self.rows for i in range(b.count)]
        lines = [f"minimise {program.offset:.6g}"]
        lines += [f"  {_signed(c)} {columns[j]}" for j, c in enumerate(program.cost) if c]
        lines.append("subject to")
        for i, name in enumerate(rows):
            start, end = program.matrix.indptr[i], program.matrix.indptr[i + 1]
            terms = [
                f"{_signed(v)} {columns[j]}"
                for j, v in zip(
                    program.matrix.indices[start:end], program.matrix.data[start:end], strict=True
                )
            ]
            left = f"  {name}: " + " ".join(terms)
            low, high = program.row_lower[i], program.row_upper[i]
            lines.append(f"{left} = {low:.6g}" if low == high else f"{left} in [{low:.6g}, {high:.6g}]")
        lines.append("with")
        lines += [
            f"  {name} in [{program.lower[j]:.6g}, {program.upper[j]:.6g}]" for j, name in enumerate(columns)
        ]
        return "\n".join(lines) + "\n"

    @staticmethod
    def _next(blocks: Sequence[Block]) -> int:
        return blocks[-1].start + blocks[-1].count if blocks else 0


@dataclass(frozen=True, eq=False)
class TemporaryRow:
    """values·x[columns] ≤ upper, for some programs of a model; known by its name."""

    name: str
    columns: IntArray
    values: FloatArray
    upper: float
    excess_yuan: float = 0.0
    """What it costs to exceed the row by one, as far as it may be."""
    most_excess: float = 0.0
    """By how much it may be exceeded."""


@dataclass
class Program:
    """A finished linear program; bounds and cost may be replaced between solves.

    A program whose columns grow has its matrix by columns, so that nothing is sorted anew from one solve to the next.
    """

    matrix: Matrix
    lower: FloatArray
    upper: FloatArray
    cost: FloatArray
    row_lower: FloatArray
    row_upper: FloatArray
    offset: float = 0.0
    temporary: tuple[str, ...] = ()
    """Names of the last rows, those that `with_rows` added: a row of the same name is the same row."""
    excess_yuan: tuple[float, ...] = ()
    """What it costs to exceed each temporary row by one, as far as it may be."""
    most_excess: tuple[float, ...] = ()
    """By how much each of them may be exceeded."""
    watched: BoolArray | None = None
    """[rows but the temporary] inequalities that seldom bind: they may be left out until an answer breaks them."""

    def with_rows(self, rows: Sequence[TemporaryRow], *, are_elastic: bool = True) -> Program:
        """More constraints, each of which may be exceeded by so much at a price; or, all of a program's, by nothing."""
        if not rows:
            return self
        begins = np.cumsum([0, *(len(row.columns) for row in rows)])
        entries = (
            np.concatenate([row.values for row in rows]), np.concatenate([row.columns for row in rows]), begins,
        )  # fmt: skip
        joining = sp.csr_array(entries, shape=(len(rows), len(self.cost)))
        return replace(
            self,
            matrix=rows_joined(self.matrix, sp.csc_array(joining)),
            row_lower=np.append(self.row_lower, np.full(len(rows), -INFINITY)),
            row_upper=np.append(self.row_upper, [row.upper for row in rows]),
            temporary=(*self.temporary, *(row.name for row in rows)),
            excess_yuan=(*self.excess_yuan, *(row.excess_yuan for row in rows if are_elastic)),
            most_excess=(*self.most_excess, *(row.most_excess for row in rows if are_elastic)),
        )

    def only_rows(self, rows: IntArray) -> Program:
        """The program without its other rows; their order stays."""
        return replace(
            self,
            matrix=only_rows(self.matrix, rows),
            row_lower=self.row_lower[rows],
            row_upper=self.row_upper[rows],
            temporary=(),
            excess_yuan=(),
            most_excess=(),
            watched=None,
        )

    def with_excess_columns(self) -> Program:
        """The same program with a column per elastic row, by how much the row is exceeded: last, in their order."""
        rows, count = len(self.row_lower), len(self.most_excess)
        if not count:
            return self
        excess = sp.csc_array(
            (np.full(count, -1.0), (np.arange(rows - count, rows), np.arange(count))), shape=(rows, count)
        )
        return replace(
            self,
            matrix=columns_joined(sp.csc_array(self.matrix), excess),
            lower=np.append(self.lower, np.zeros(count)),
            upper=np.append(self.upper, self.most_excess),
            cost=np.append(self.cost, self.excess_yuan),
            excess_yuan=(0.0,) * count,
            most_excess=(0.0,) * count,
        )


class LpStatus(Enum):
    """How a solve ended."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"
    LIMIT = "limit"
    FAILED = "failed"


@dataclass(frozen=True)
class Basis:
    """Simplex statuses (codes of `solution_pb2.BasisStatusProto`) of columns and rows: where a next solve may begin."""

    AT_LOWER: ClassVar[int] = solution_pb2.BASIS_STATUS_AT_LOWER_BOUND
    BASIC: ClassVar[int] = solution_pb2.BASIS_STATUS_BASIC

    columns: IntArray
    rows: IntArray

    def grown(self, column_count: int, kept_rows: IntArray, new_row_count: int) -> Basis:
        """For a program with columns added, and rows dropped and added, as many basic as rows.

        `kept_rows`: positions of the rows that stay. New columns start at their lower bound, slacks of new rows are
        basic. A row that leaves may leave one basic status too many or too few: slacks are then made non-basic or basic
        from the end on, and the simplex repairs the rest.
        """
        basic = solution_pb2.BASIS_STATUS_BASIC
        of_rows = np.append(self.rows[kept_rows], np.full(new_row_count, basic))
        of_columns = np.append(self.columns, np.full(column_count - len(self.columns), self.AT_LOWER))
        excess = int((of_rows == basic).sum() + (of_columns == basic).sum()) - len(of_rows)
        if excess > 0:
            of_rows[np.flatnonzero(of_rows == basic)[-excess:]] = solution_pb2.BASIS_STATUS_AT_UPPER_BOUND
        elif excess < 0:
            of_rows[np.flatnonzero(of_rows != basic)[excess:]] = basic
        return Basis(of_columns, of_rows)


@dataclass(frozen=True)
class LpResult:
    """Answer of one solve. Duals: ∂objective/∂(right-hand side) of each row."""

    status: LpStatus
    objective: float
    x: FloatArray
    duals: FloatArray
    basis: Basis | None
    iterations: int
    message: str = ""


@dataclass(frozen=True)
class LpLimits:
    """Work limits. The wall limit is a safety net: reaching it is an abort, not an answer."""

    iterations: int = 400_000
    wall_s: float = 600.0
    is_near: bool = False
    """The optimum is expected to lie few pivots away."""
    is_feasible: bool = False
    """The basis to go on from keeps all rows, whatever has changed since: the primal simplex goes on from there."""
    is_guess: bool = False
    """No other way is tried when the first one ends without an optimum."""


RESIDUAL = 1e-6
"""Largest violation of a row, relative to its size, that an answer may have."""
FEWEST_ITERATIONS, ITERATIONS_PER_SIDE = 10_000, 10
"""One attempt may take so many iterations per row and column before another way is tried: GLOP sometimes cycles."""


def patience(program: Program) -> int:
    """Simplex iterations that one attempt may take."""
    return max(FEWEST_ITERATIONS, ITERATIONS_PER_SIDE * sum(program.matrix.shape))


def solve_patiently(program: Program, limits: LpLimits) -> LpResult:
    """`solve`, and where it cycles or ends imprecisely, again in other ways; all deterministic.

    Ways: primal simplex; dual simplex; primal without scaling and presolve.
    """
    spent = 0
    result = LpResult(LpStatus.LIMIT, math.nan, np.zeros(0), np.zeros(0), None, 0, "no iterations left")
    for way in ("primal", "dual", "plain"):
        left = min(patience(program), limits.iterations - spent)
        if left <= 0:
            continue
        attempt = solve(program, LpLimits(left, limits.wall_s), way=way)
        spent += attempt.iterations
        result = replace(attempt, iterations=spent)
        if result.status in (LpStatus.OPTIMAL, LpStatus.INFEASIBLE):
            return result
    return result


def solve(program: Program, limits: LpLimits, *, way: str = "primal") -> LpResult:
    """Minimise with GLOP, from nothing; `way` as in `solve_patiently`.

    Optimal is what satisfies every row to `RESIDUAL`, measured here and not taken on trust.
    """
    parameters = parameters_pb2.SolveParametersProto()
    parameters.time_limit.FromTimedelta(timedelta(seconds=limits.wall_s))
    parameters.iteration_limit = limits.iterations
    parameters.glop.use_dual_simplex = way == "dual"
    parameters.glop.change_status_to_imprecise = False
    if way == "plain":
        parameters.glop.use_scaling = False
        parameters.glop.use_preprocessing = False
    parameters.glop.num_omp_threads = 1
    try:
        result = solve_once(model_proto(program), parameters_pb2.SOLVER_TYPE_GLOP, parameters)
    except StatusNotOk as error:
        # the engine refuses the model or gives up inside: an outcome, told by its status
        nothing = np.zeros(0)
        return LpResult(LpStatus.FAILED, math.nan, nothing, nothing, None, 0, str(error))
    rows, columns = program.matrix.shape
    return read_result(result, program, np.arange(columns), np.arange(rows), columns, rows)


def solve_once(
    model: model_pb2.ModelProto,
    solver: parameters_pb2.SolverTypeProto.ValueType,
    parameters: parameters_pb2.SolveParametersProto,
) -> result_pb2.SolveResultProto:
    """One solve from nothing by an engine of MathOpt; StatusNotOk when it refuses the model or gives up inside."""
    return mathopt.solve(
        model,
        solver,
        parameters_pb2.SolverInitializerProto(),
        parameters,
        model_parameters_pb2.ModelSolveParametersProto(),
        None,
        callback_pb2.CallbackRegistrationProto(),
        None,
        None,
    )


def model_proto(program: Program, integers: BoolArray | None = None) -> model_pb2.ModelProto:
    """The program as MathOpt reads it; ids are positions. `integers` marks columns that must be whole (None: none)."""
    proto = model_pb2.ModelProto()
    rows, columns = program.matrix.shape
    proto.variables.ids.extend(range(columns))
    proto.variables.lower_bounds.extend(program.lower.tolist())
    proto.variables.upper_bounds.extend(program.upper.tolist())
    proto.variables.integers.extend([False] * columns if integers is None else integers.tolist())
    used = np.flatnonzero(program.cost)
    proto.objective.offset = program.offset
    proto.objective.linear_coefficients.ids.extend(used.tolist())
    proto.objective.linear_coefficients.values.extend(program.cost[used].tolist())
    proto.linear_constraints.ids.extend(range(rows))
    proto.linear_constraints.lower_bounds.extend(program.row_lower.tolist())
    proto.linear_constraints.upper_bounds.extend(program.row_upper.tolist())
    matrix = program.matrix.tocsr().sorted_indices()
    row_of_entry = np.repeat(np.arange(rows), np.diff(matrix.indptr))
    proto.linear_constraint_matrix.row_ids.extend(row_of_entry.tolist())
    proto.linear_constraint_matrix.column_ids.extend(matrix.indices.tolist())
    proto.linear_constraint_matrix.coefficients.extend(matrix.data.tolist())
    return proto


def basis_proto(basis: Basis, column_ids: IntArray, row_ids: IntArray) -> solution_pb2.BasisProto:
    """A basis as MathOpt reads it."""
    proto = solution_pb2.BasisProto()
    proto.variable_status.ids.extend(column_ids.tolist())
    proto.variable_status.values.extend(basis.columns.tolist())
    proto.constraint_status.ids.extend(row_ids.tolist())
    proto.constraint_status.values.extend(basis.rows.tolist())
    return proto


def read_result(
    answer: result_pb2.SolveResultProto, program: Program, column_ids: IntArray, row_ids: IntArray,
    id_count: int, row_id_count: int, rows: IntArray | None = None,
) -> LpResult:  # fmt: skip
    """The answer in the program's order. Ids of columns and rows lie below the two counts.

    `rows`: those of the program that were told (None: all), in the order of `row_ids`.
    """
    status = {
        result_pb2.TERMINATION_REASON_OPTIMAL: LpStatus.OPTIMAL,
        result_pb2.TERMINATION_REASON_INFEASIBLE: LpStatus.INFEASIBLE,
        result_pb2.TERMINATION_REASON_FEASIBLE: LpStatus.LIMIT,
        result_pb2.TERMINATION_REASON_NO_SOLUTION_FOUND: LpStatus.LIMIT,
    }.get(answer.termination.reason, LpStatus.FAILED)
    x, duals = np.zeros(len(column_ids)), np.zeros(len(row_ids))
    objective, basis = float("nan"), None
    if answer.solutions:
        best = answer.solutions[0]
        if best.HasField("primal_solution"):
            x = _gather(best.primal_solution.variable_values, column_ids, id_count)
            objective = best.primal_solution.objective_value
        if best.HasField("dual_solution"):
            duals = _gather(best.dual_solution.dual_values, row_ids, row_id_count)
        if best.HasField("basis"):
            of_columns = _gather(best.basis.variable_status, column_ids, id_count)
            of_rows = _gather(best.basis.constraint_status, row_ids, row_id_count)
            basis = Basis(of_columns.astype(np.int64), of_rows.astype(np.int64))
    iterations = int(answer.solve_stats.simplex_iterations)
    if status is LpStatus.OPTIMAL and _residual(program, x, rows) > RESIDUAL:
        status = LpStatus.FAILED
    return LpResult(status, objective, x, duals, basis, iterations, answer.termination.detail)


def _residual(program: Program, x: FloatArray, rows: IntArray | None) -> float:
    """Largest violation of a row or bound, relative to the sizes of its terms, or in itself where that is small."""
    activity = program.matrix @ x
    of_rows = np.maximum(program.row_lower - activity, activity - program.row_upper)
    of_rows = of_rows if rows is None else of_rows[rows]
    if of_rows.max(initial=0.0) > RESIDUAL:
        size = 1.0 + sizes(program.matrix) @ np.abs(x)
        of_rows = of_rows / (size if rows is None else size[rows])
    of_columns = np.maximum(program.lower - x, x - program.upper) / (1.0 + np.abs(x))
    return float(max(of_rows.max(initial=0.0), of_columns.max(initial=0.0)))


def sizes(matrix: Matrix) -> Matrix:
    """The entries' absolute values, in the same places."""
    return type(matrix)((np.abs(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)


def only_rows(matrix: Matrix, rows: IntArray) -> Matrix:
    """The matrix without its other rows, `rows` being in order; one pass over a matrix by columns."""
    if isinstance(matrix, sp.csr_array):
        return matrix[rows]
    place = np.full(matrix.shape[0], -1)
    place[rows] = np.arange(len(rows))
    of_entry = place[matrix.indices]
    kept = of_entry >= 0
    before = np.concatenate([[0], np.cumsum(kept)])
    return sp.csc_array(
        (matrix.data[kept], of_entry[kept], before[matrix.indptr]), shape=(len(rows), matrix.shape[1])
    )


def columns_joined(left: sp.csc_array, right: sp.csc_array) -> sp.csc_array:
    """The columns of both, those of `left` first."""
    return sp.csc_array(
        (
            np.concatenate([left.data, right.data]),
            np.concatenate([left.indices, right.indices]),
            np.concatenate([left.indptr, left.indptr[-1] + right.indptr[1:]]),
        ),
        shape=(left.shape[0], left.shape[1] + right.shape[1]),
    )


def rows_joined(upper: Matrix, lower: sp.csc_array) -> sp.csc_array:
    """The rows of both, by columns, those of `upper` first; cheap where `lower` has few entries."""
    by_column = sp.csc_array(upper)
    ends = np.repeat(by_column.indptr[1:], np.diff(lower.indptr))
    return sp.csc_array(
        (
            np.insert(by_column.data, ends, lower.data),
            np.insert(by_column.indices, ends, by_column.shape[0] + lower.indices),
            by_column.indptr + lower.indptr,
        ),
        shape=(by_column.shape[0] + lower.shape[0], by_column.shape[1]),
    )


def _gather(
    sparse: solution_pb2.SparseBasisStatusVector | sparse_containers_pb2.SparseDoubleVectorProto,
    ids: IntArray,
    id_count: int,
) -> FloatArray:
    count = len(sparse.ids)
    held = np.fromiter(sparse.values, float, count)
    if count == id_count and (not count or sparse.ids[count - 1] == count - 1):
        return held[ids]  # ids ascend: these are all
    values = np.zeros(id_count)
    values[np.fromiter(sparse.ids, np.int64, count)] = held
    return values[ids]


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else '-'}{abs(value):.6g}"


def _joined(parts: Sequence[FloatArray]) -> FloatArray:
    return np.concatenate(parts) if parts else np.zeros(0)
