"""The solver pool against solvers that crash, hang, talk nonsense or break rules: it answers, and is whole again."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.workers import InlineSolverPool, ProcessSolverPool
from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution, SolveStatus, no_plan
from tests.plan_problems import Town

SOLVERS = """
import os, signal, sys, time
from dataclasses import replace
from solvers.solution import SolveStatus, no_plan

def good(problem):
    return replace(no_plan(problem, SolveStatus.FEASIBLE, "by the book"), message="")

def hangs(problem):
    time.sleep(600)

def ignores_signals_and_hangs(problem):
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass

def kills_itself(problem):
    os.kill(os.getpid(), signal.SIGKILL)

def exits(problem):
    os._exit(3)

def raises(problem):
    raise RuntimeError("matrix is singular")

def eats_memory(problem):
    hoard = []
    while True:
        hoard.append(bytearray(64 << 20))

def prints(problem):
    print("loud library", flush=True)
    os.write(1, b"\\xff" * 100)
    return good(problem)

def writes_nonsense(problem):
    # what a corrupted heap might do: bytes on the answer pipe that are no frame
    for fd in range(3, 20):
        try:
            os.write(fd, b"\\xff" * 4096)
        except OSError:
            pass
    time.sleep(600)

def answers_another_problem(problem):
    return replace(good(problem), problem_sha256="0" * 64)

def returns_none(problem):
    return None
"""


@pytest.fixture(scope="module")
def solvers_module(tmp_path_factory) -> Iterator[str]:
    """Name of an importable module with misbehaving solvers."""
    folder = tmp_path_factory.mktemp("solvers")
    (folder / "bad_solvers.py").write_text(SOLVERS)
    sys.path.insert(0, str(folder))
    yield "bad_solvers"
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def problem() -> PlacementProblem:
    return Town().site("s").group("g", "s").work("c", demand=2).problem()


@pytest.fixture
def pool_of(solvers_module) -> Iterator[Callable[..., ProcessSolverPool]]:
    pools: list[ProcessSolverPool] = []

    def make(function: str, **options) -> ProcessSolverPool:
        options.setdefault("verify", lambda problem, solution: [])
        options.setdefault("import_grace_s", 10.0)
        pools.append(ProcessSolverPool(f"{solvers_module}:{function}", **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def test_a_sound_answer_comes_through_and_the_process_is_kept(pool_of, problem):
    pool = pool_of("good")
    first = pool.pid
    for _ in range(2):
        solution = pool.solve_plan(problem, 5.0)
        assert solution.status is SolveStatus.FEASIBLE
        assert solution.problem_sha256 == problem.content_hash()
    assert pool.pid == first


@pytest.mark.parametrize(
    ("function", "status", "says"),
    [
        ("kills_itself", SolveStatus.UNKNOWN, "killed by signal 9"),
        ("exits", SolveStatus.UNKNOWN, "exit code 3"),
        ("raises", SolveStatus.UNKNOWN, "matrix is singular"),
        ("returns_none", SolveStatus.UNKNOWN, "failed"),
        ("writes_nonsense", SolveStatus.INVALID, "cannot be read"),
        ("answers_another_problem", SolveStatus.INVALID, "another problem"),
    ],
)
def test_misbehaviour_is_an_answer_without_a_plan(pool_of, problem, function, status, says):
    pool = pool_of(function)
    for _ in range(2):
        # twice: the pool is whole again after the first
        solution = pool.solve_plan(problem, 5.0)
        assert solution.status is status
        assert says in solution.message
        assert not solution.has_plan


@pytest.mark.parametrize("function", ["hangs", "ignores_signals_and_hangs"])
def test_a_hang_is_cut_off_at_its_wall_limit(pool_of, problem, function):
    pool = pool_of(function, import_grace_s=1.5)
    begun = time.monotonic()
    solution = pool.solve_plan(problem, 0.2)
    assert solution.status is SolveStatus.UNKNOWN
    assert "cut off" in solution.message
    assert time.monotonic() - begun < 1.5 + 0.2 + 1.0


def test_memory_is_limited(pool_of, problem):
    pool = pool_of("eats_memory", memory_limit_mib=2_048)
    solution = pool.solve_plan(problem, 20.0)
    assert solution.status is SolveStatus.UNKNOWN
    assert "MemoryError" in solution.message


def test_what_a_solver_prints_does_not_mix_with_its_answer(pool_of, problem):
    assert pool_of("prints").solve_plan(problem, 5.0).status is SolveStatus.FEASIBLE


def test_an_answer_that_breaks_a_rule_is_invalid(pool_of, problem):
    pool = pool_of("good", verify=lambda problem, solution: ["capacity exceeded at g1"])
    solution = pool.solve_plan(problem, 5.0)
    assert solution.status is SolveStatus.INVALID
    assert "1 violations, e.g. capacity exceeded at g1" in solution.message


def test_an_answer_that_the_checker_stumbles_over_is_invalid(pool_of, problem):
    def stumbles(problem: PlacementProblem, solution: PlanSolution) -> list[object]:
        raise IndexError("axis 1")

    assert pool_of("good", verify=stumbles).solve_plan(problem, 5.0).status is SolveStatus.INVALID


def test_closing_amid_a_solve_ends_the_process(pool_of, problem):
    pool = pool_of("hangs")
    pid = pool.pid
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert pool.solve_plan(problem, 1.0).status is SolveStatus.UNKNOWN


def test_the_process_does_not_outlive_the_service(solvers_module, tmp_path):
    """A service that is killed takes its solver with it, even amid a solve."""
    import subprocess

    script = tmp_path / "service.py"
    script.write_text(
        "from scheduler.workers import ProcessSolverPool\n"
        "from tests.plan_problems import Town\n"
        f"pool = ProcessSolverPool('{solvers_module}:hangs')\n"
        "print(pool.pid, flush=True)\n"
        "pool.solve_plan(Town().site('s').group('g', 's').work('c', demand=2).problem(), 600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    service = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment)
    assert service.stdout is not None
    pid = int(service.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    time.sleep(0.5)
    service.send_signal(signal.SIGKILL)
    service.wait()
    service.stdout.close()
    deadline = time.monotonic() + 5
    while _is_running(pid):
        assert time.monotonic() < deadline, "the solver process outlived the service"
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_inline_pool_judges_alike(problem):
    def raises(problem: PlacementProblem) -> PlanSolution:
        raise RuntimeError("matrix is singular")

    def good(problem: PlacementProblem) -> PlanSolution:
        return no_plan(problem, SolveStatus.FEASIBLE, "")

    assert InlineSolverPool(raises).solve_plan(problem, 1).status is SolveStatus.UNKNOWN
    assert InlineSolverPool(good, lambda p, s: []).solve_plan(problem, 1).status is SolveStatus.FEASIBLE
    assert InlineSolverPool(good, lambda p, s: ["bad"]).solve_plan(problem, 1).status is SolveStatus.INVALID
