"""Very large linear programs, nearly solved: primal-dual hybrid gradients (PDLP) for a fixed number of iterations.

A simplex on 400 000 columns takes minutes; a thousand gradient steps take ten seconds and leave an answer that is some
tenths of a percent off, in rows as in cost. It is used for what needs no more: shares of work, prices, and duals whose
Lagrangian bound is computed apart (`bulk_bound.lower_bound`) and is valid for any duals.

First-order methods live by scaling (Applegate et al. 2021): `column_scale` gives each column's natural unit. Penalties
that are orders of magnitude above every real cost should be replaced in `cost` by ones that are only just prohibitive.

Deterministic: a fixed number of iterations, and sums in a fixed number of shards whatever the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from ortools.pdlp import solvers_pb2
from ortools.pdlp.python import pdlp

from solvers.archive import FloatArray
from solvers.linear import Program

SHARDS = 8
ACCURACY = 1e-6
"""Relative and absolute; small programs reach it before the iterations end."""


@dataclass(frozen=True, eq=False)
class Approximation:
    """Where the iterations ended: columns and duals (∂objective/∂right-hand side), neither feasible exactly."""

    x: FloatArray
    duals: FloatArray
    iterations: int


def approximate(
    program: Program, cost: FloatArray, column_scale: FloatArray, iterations: int, *, threads: int = 1,
    start: Approximation | None = None,
) -> Approximation:  # fmt: skip
    """So many PDLP iterations on `program` with `cost` for its own; column j is measured in units of column_scale[j].

    A start may come from a program that lacks the last rows; their duals begin at 0.
    """
    matrix = sp.csc_matrix(program.matrix @ sp.diags_array(column_scale))
    model = pdlp.QuadraticProgram()
    model.objective_vector, model.objective_offset = cost * column_scale, program.offset
    model.constraint_matrix = matrix
    model.constraint_lower_bounds, model.constraint_upper_bounds = program.row_lower, program.row_upper
    model.variable_lower_bounds = program.lower / column_scale
    model.variable_upper_bounds = program.upper / column_scale
    parameters = solvers_pb2.PrimalDualHybridGradientParams()
    accuracy = parameters.termination_criteria.simple_optimality_criteria
    accuracy.eps_optimal_relative = accuracy.eps_optimal_absolute = ACCURACY
    parameters.termination_criteria.iteration_limit = iterations
    parameters.num_threads, parameters.num_shards = threads, SHARDS
    hint = None
    if start is not None:
        hint = pdlp.PrimalAndDualSolution()
        hint.primal_solution = start.x / column_scale
        hint.dual_solution = np.append(start.duals, np.zeros(matrix.shape[0] - len(start.duals)))
    answer = pdlp.primal_dual_hybrid_gradient(model, parameters, hint)
    if not len(
        answer.primal_solution
    ):  # it refuses coefficients below 1e-50; prices of nothing prove something
        nothing = np.clip(np.zeros(len(cost)), program.lower, program.upper)
        return Approximation(nothing, np.zeros(matrix.shape[0]), 0)
    x = np.clip(np.asarray(answer.primal_solution) * column_scale, program.lower, program.upper)
    return Approximation(x, np.asarray(answer.dual_solution), int(answer.solve_log.iteration_count))
