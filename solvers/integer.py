"""Mixed-integer programs built from whole arrays and solved by HiGHS through MathOpt.

A node limit is deterministic; a wall limit is not and serves benchmarks and as a safety net.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from ortools.math_opt import parameters_pb2, result_pb2
from pybind11_abseil.status import StatusNotOk

from solvers.archive import BoolArray, FloatArray
from solvers.linear import Program, model_proto, solve_once
from solvers.solution import SolveStatus

RELATIVE_GAP = 1e-7
"""Optimal means: bound and objective agree to this share."""


@dataclass(frozen=True)
class IntegerLimits:
    """Branch-and-bound nodes and seconds of wall clock; None: no such limit."""

    nodes: int | None = None
    wall_s: float | None = None


@dataclass(frozen=True, eq=False)
class IntegerResult:
    """Best point found (None: none), its objective, and the proven bound on all points (-inf: none)."""

    status: SolveStatus
    x: FloatArray | None
    objective: float
    bound: float
    message: str = ""


def solve_integer(program: Program, integers: BoolArray, limits: IntegerLimits) -> IntegerResult:
    """Minimise with the marked columns whole; values come back rounded where they must be whole."""
    parameters = parameters_pb2.SolveParametersProto()
    parameters.relative_gap_tolerance = RELATIVE_GAP
    if limits.nodes is not None:
        parameters.node_limit = limits.nodes
    if limits.wall_s is not None:
        parameters.time_limit.FromTimedelta(timedelta(seconds=max(limits.wall_s, 0.01)))
    try:
        answer = solve_once(model_proto(program, integers), parameters_pb2.SOLVER_TYPE_HIGHS, parameters)
    except StatusNotOk as error:
        # the engine refuses the model or gives up inside: an outcome, told by its status
        return IntegerResult(SolveStatus.UNKNOWN, None, math.nan, -math.inf, str(error))
    reason, detail = answer.termination.reason, answer.termination.detail
    if reason == result_pb2.TERMINATION_REASON_INFEASIBLE:
        return IntegerResult(SolveStatus.INFEASIBLE, None, math.nan, math.inf, detail)
    bound = answer.termination.objective_bounds.dual_bound
    if not answer.solutions or not answer.solutions[0].HasField("primal_solution"):
        return IntegerResult(SolveStatus.UNKNOWN, None, math.nan, bound, detail)
    point = answer.solutions[0].primal_solution
    x = np.zeros(len(program.cost))
    x[np.asarray(point.variable_values.ids, dtype=np.int64)] = np.asarray(point.variable_values.values)
    x[integers] = np.rint(x[integers])
    optimal = reason == result_pb2.TERMINATION_REASON_OPTIMAL
    status = SolveStatus.OPTIMAL if optimal else SolveStatus.FEASIBLE
    return IntegerResult(status, x, point.objective_value, bound, detail)
