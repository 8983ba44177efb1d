"""A live linear program answers as a fresh one does, whatever grew, left or changed in between."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from solvers import lp_session
from solvers.archive import IntArray
from solvers.linear import (
    LpLimits,
    LpResult,
    LpStatus,
    Program,
    TemporaryRow,
    columns_joined,
    only_rows,
    rows_joined,
    solve,
)
from solvers.lp_session import Session

LIMITS = LpLimits(iterations=10_000, wall_s=60.0)


def _covering(rng: np.random.Generator, rows: int, columns: int) -> Program:
    """Minimise cost·x with a·x ≥ 1, 0 ≤ x ≤ 2: always feasible, as every row has a full column."""
    dense = rng.random((rows, columns)) * (rng.random((rows, columns)) < 0.4)
    dense[:, 0] = 1.0
    return Program(
        matrix=sp.csr_array(dense),
        lower=np.zeros(columns),
        upper=np.full(columns, 2.0),
        cost=rng.random(columns) + 0.1,
        row_lower=np.ones(rows),
        row_upper=np.full(rows, np.inf),
    )


def _part(whole: Program, rows: int, columns: np.ndarray) -> Program:
    matrix = sp.csr_array(whole.matrix[:rows][:, columns])
    matrix.sort_indices()
    return replace(
        whole,
        matrix=matrix,
        lower=whole.lower[columns],
        upper=whole.upper[columns],
        cost=whole.cost[columns],
        row_lower=whole.row_lower[:rows],
        row_upper=whole.row_upper[:rows],
    )


@pytest.mark.parametrize("seed", range(8))
def test_answers_as_a_fresh_solver_while_columns_rows_bounds_and_costs_change(seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = _covering(rng, 30, 40)
    session, columns = Session(), np.array([0, *rng.choice(np.arange(1, 40), 9, replace=False)])
    for rows in (15, 15, 22, 22, 30, 30, 30):
        program = _part(whole, rows, columns)
        change = rng.integers(3)
        if change == 0:
            program.cost = program.cost * rng.uniform(0.5, 2.0, len(columns))
        elif change == 1:
            program.upper[columns > 0] = rng.uniform(0.0, 2.0, len(columns) - 1)
        ours = session.solve(program, columns.astype(np.int64), LIMITS)
        fresh = solve(program, LIMITS)
        assert (ours.status, fresh.status) == (LpStatus.OPTIMAL, LpStatus.OPTIMAL)
        assert ours.objective == pytest.approx(fresh.objective)
        assert np.all(program.matrix @ ours.x >= program.row_lower - 1e-6)
        missing = np.setdiff1d(np.arange(40), columns)
        # columns come in any order of keys, as routes, batch columns and patterns do
        columns = rng.permutation(np.append(columns, rng.choice(missing, 4, replace=False)))


@pytest.mark.parametrize("seed", range(8))
def test_watched_rows_join_only_when_an_optimum_breaks_them_and_the_answer_is_that_of_all_rows(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_told: list[int] = []
    solve_told = Session._solve_told

    def counting(self: Session, program: Program, rows: IntArray, *rest: Any) -> LpResult:
        rows_told.append(len(rows))
        return solve_told(self, program, rows, *rest)

    monkeypatch.setattr(Session, "_solve_told", counting)
    rng = np.random.default_rng(seed)
    whole = _covering(rng, 30, 40)
    whole.row_lower[::3] = rng.uniform(0.0, 0.05, 10)  # these seldom bind
    program = replace(whole, watched=np.arange(30) % 3 == 0)
    session, keys = Session(), np.arange(40)
    for cap in (2.0, 0.5, 2.0):
        program = replace(program, upper=np.append(2.0, np.full(39, cap)), cost=rng.random(40) + 0.1)
        ours, fresh = session.solve(program, keys, LIMITS), solve(program, LIMITS)
        assert ours.objective == pytest.approx(fresh.objective)
        assert np.all(program.matrix @ ours.x >= program.row_lower - 1e-6)
        # weak duality over all rows: the duals of rows left out are zero
        reduced = program.cost - program.matrix.T @ ours.duals
        bound = program.row_lower @ ours.duals + np.minimum(reduced, 0.0) @ program.upper
        assert bound == pytest.approx(ours.objective)
    assert rows_told[0] == 20, "GLOP begins without the watched third"
    assert max(rows_told) < 30, "and is never told of rows that no optimum breaks"


def test_a_program_bounded_only_by_watched_rows_is_solved() -> None:
    program = Program(
        matrix=sp.csr_array(np.array([[1.0], [1.0]])),
        lower=np.zeros(1),
        upper=np.full(1, np.inf),
        cost=np.array([-1.0]),
        row_lower=np.full(2, -np.inf),
        row_upper=np.array([3.0, 5.0]),
        watched=np.array([True, True]),
    )
    assert Session().solve(program, np.arange(1), LIMITS).objective == pytest.approx(-3.0)


def test_a_program_without_bound_is_told_as_such() -> None:
    program = Program(
        matrix=sp.csr_array(np.array([[-1.0]])),
        lower=np.zeros(1),
        upper=np.full(1, np.inf),
        cost=np.array([-1.0]),
        row_lower=np.full(1, -np.inf),
        row_upper=np.array([3.0]),
        watched=np.array([True]),
    )
    assert Session().solve(program, np.arange(1), LIMITS).status not in (
        LpStatus.OPTIMAL,
        LpStatus.INFEASIBLE,
    )


def test_temporary_rows_are_told_apart_by_name_and_forgotten_when_they_leave() -> None:
    program = _covering(np.random.default_rng(3), 12, 15)
    keys, session = np.arange(15), Session()
    free = session.solve(program, keys, LIMITS).objective
    first = np.array([0])
    tight = program.with_rows([TemporaryRow("no full column", first, np.ones(1), 0.0)])
    other = program.with_rows([TemporaryRow("half a full column", first, np.ones(1), 0.5)])
    for changed in (tight, other, program):
        assert session.solve(changed, keys, LIMITS).objective == pytest.approx(
            solve(changed, LIMITS).objective
        )
    assert session.solve(program, keys, LIMITS).objective == pytest.approx(free)


def test_an_infeasible_program_is_told_and_the_session_lives_on() -> None:
    program = _covering(np.random.default_rng(5), 6, 5)
    session, keys = Session(), np.arange(5)
    assert session.solve(program, keys, LIMITS).status is LpStatus.OPTIMAL
    nothing = replace(program, upper=np.zeros(5))
    assert session.solve(nothing, keys, LIMITS).status is not LpStatus.OPTIMAL
    again = session.solve(program, keys, LIMITS)
    assert again.objective == pytest.approx(solve(program, LIMITS).objective)


@pytest.mark.parametrize("seed", range(5))
def test_a_remembered_optimum_is_gone_on_from_even_after_columns_have_joined(seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole, keys = _covering(rng, 30, 60), np.arange(60)
    session = Session()
    session.solve(_part(whole, 30, np.arange(50)), keys[:50], LIMITS)
    session.remember("here")
    some_fixed = replace(whole, lower=np.where(rng.random(60) < 0.3, whole.upper, whole.lower))
    session.solve(some_fixed, keys, LIMITS)
    session.go_back("here")
    again, fresh = session.solve(whole, keys, LIMITS), solve(whole, LIMITS)
    assert again.objective == pytest.approx(fresh.objective)
    assert again.iterations < fresh.iterations


@pytest.mark.parametrize("seed", range(5))
def test_columns_that_no_optimum_used_are_left_out_and_what_is_remembered_stays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole, keys, session = _covering(rng, 30, 60), np.arange(60), Session()
    least = session.solve(whole, keys, LIMITS)
    session.remember("least")
    dear = replace(whole, cost=np.where(least.x > 0, 9.0, whole.cost))
    session.solve(dear, keys, LIMITS)
    used = np.flatnonzero(session.was_basic(keys))
    assert set(np.flatnonzero(least.x > 0)) < set(used.tolist()) < set(keys.tolist())
    session.leave_out_others(_part(dear, 30, used), keys[used])
    there = session.solve(_part(dear, 30, used), keys[used], LIMITS)
    assert (there.iterations, there.objective) == (0, pytest.approx(solve(dear, LIMITS).objective))
    session.go_back("least")
    again = session.solve(_part(whole, 30, used), keys[used], LIMITS)
    assert (again.iterations, again.objective) == (0, pytest.approx(least.objective))
    fresh = replace(whole, cost=rng.random(60) + 0.1)
    assert session.solve(fresh, keys, LIMITS).objective == pytest.approx(solve(fresh, LIMITS).objective)


@pytest.mark.parametrize("seed", range(5))
def test_where_devex_stalls_steepest_edge_goes_on(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lp_session, "DEVEX_PATIENCE", 2)
    rng = np.random.default_rng(seed)
    program, keys, session = _covering(rng, 30, 40), np.arange(40), Session()
    program.upper[0] = 0.0  # the column that covers every row by itself
    near = replace(LIMITS, is_near=True)
    ours, fresh = session.solve(program, keys, near), solve(program, LIMITS)
    assert ours.iterations > 2
    assert ours.objective == pytest.approx(fresh.objective)
    assert Session().solve(program, keys, replace(near, iterations=3, is_guess=True)).iterations == 3


@pytest.mark.parametrize("seed", range(5))
def test_where_the_dual_simplex_stalls_the_primal_goes_on(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lp_session, "DUAL_PATIENCE", 2)
    monkeypatch.setattr(lp_session, "DUAL_ROWS_PER_ITERATION", 100)
    rng = np.random.default_rng(seed)
    program, keys, session = _covering(rng, 30, 40), np.arange(40), Session()
    program.upper[0] = 0.0  # the column that covers every row by itself
    used = session.solve(program, keys, LIMITS).x > 0
    tighter = replace(program, upper=np.where(used, 0.1, program.upper))
    ours, fresh = session.solve(tighter, keys, LIMITS), solve(tighter, LIMITS)
    assert ours.iterations > 2
    assert (ours.status, ours.objective) == (fresh.status, pytest.approx(fresh.objective))


@pytest.mark.parametrize("seed", range(5))
def test_rows_and_columns_are_joined_and_left_out_as_dense_matrices_would_be(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense = rng.random((9, 12)) * (rng.random((9, 12)) < 0.4)
    upper, lower = sp.csr_array(dense[:6]), sp.csc_array(dense[6:])
    np.testing.assert_array_equal(rows_joined(upper, lower).toarray(), dense)
    left, right = sp.csc_array(dense[:, :5]), sp.csc_array(dense[:, 5:])
    np.testing.assert_array_equal(columns_joined(left, right).toarray(), dense)
    rows = np.flatnonzero(rng.random(9) < 0.5)
    for matrix in (sp.csr_array(dense), sp.csc_array(dense)):
        np.testing.assert_array_equal(only_rows(matrix, rows).toarray(), dense[rows])


@pytest.mark.parametrize("seed", range(5))
def test_an_optimum_that_is_said_to_be_near_is_the_same_when_it_is_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    program, keys, session = _covering(rng, 30, 40), np.arange(40), Session()
    for _ in range(3):
        ours = session.solve(program, keys, replace(LIMITS, is_near=True))
        assert ours.objective == pytest.approx(solve(program, LIMITS).objective)
        program = replace(program, cost=rng.random(40) + 0.1)


@pytest.mark.parametrize("seed", range(5))
def test_from_a_feasible_basis_the_optimum_is_found_whatever_has_joined_since(seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole, keys = _covering(rng, 30, 60), np.arange(60)
    closed = rng.random(50) < 0.2
    upper = np.where(closed, 0.0, whole.upper[:50])
    some, session = replace(_part(whole, 30, np.arange(50)), upper=upper), Session()
    assert session.solve(some, keys[:50], LIMITS).status is LpStatus.OPTIMAL
    session.remember("plan")
    session.solve(whole, keys, LIMITS)
    session.go_back("plan")
    again = replace(whole, upper=np.append(upper, whole.upper[50:]))
    ours = session.solve(again, keys, replace(LIMITS, is_near=True, is_feasible=True))
    assert ours.objective == pytest.approx(solve(again, LIMITS).objective)
