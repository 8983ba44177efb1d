"""Solver pools: the killable worker process of the service, and solving in process for tests and batch runs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import BinaryIO, cast

from scheduler.workers.check import Verify, judged, verify_plan
from scheduler.workers.frames import PROBLEM, SOLUTION, FrameError, read_frame, write_frame
from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution, SolveStatus, no_plan

SOLVER = "solvers.plan_model:solve_plan"
# address space of the worker: a plan of the full city takes under 1 GiB, its libraries map another 1-2
MEMORY_LIMIT_MIB = 6_144
# a fresh worker imports its libraries first; this is not charged to the solve
IMPORT_GRACE_S = 20.0
CLOSE_WAIT_S = 5.0


class ProcessSolverPool:
    """One solver process, replaced whenever it crashes, hangs or talks nonsense.

    `solve_plan` never raises for what the process does. A crash, an exception or a hang beyond the wall limit comes
    back as UNKNOWN; an answer that cannot be read, belongs to another problem or breaks a rule as INVALID.
    """

    def __init__(
        self,
        solver: str = SOLVER,
        memory_limit_mib: int = MEMORY_LIMIT_MIB,
        verify: Verify = verify_plan,
        import_grace_s: float = IMPORT_GRACE_S,
    ) -> None:
        self._command = [
            sys.executable, "-m", "scheduler.workers.child", "--solver", solver,
            "--memory-limit-mib", str(memory_limit_mib),
        ]  # fmt: skip
        self._verify = verify
        self._import_grace_s = import_grace_s
        self._turn = threading.Lock()
        self._closed = False
        self._process = self._spawn()
        self._is_fresh = True

    def solve_plan(self, problem: PlacementProblem, wall_limit_s: float) -> PlanSolution:
        """See `scheduler.ports.SolverPool.solve_plan`; one problem at a time, others wait their turn."""
        with self._turn:
            if self._closed:
                return no_plan(problem, SolveStatus.UNKNOWN, "the solver pool is closed")
            allowed_s = wall_limit_s + (self._import_grace_s if self._is_fresh else 0.0)
            solution, keep = self._exchange(problem, allowed_s)
            if keep:
                self._is_fresh = False
            else:
                self._replace()
            return judged(problem, solution, self._verify)

    def close(self) -> None:
        """End the process, also amid a solve."""
        self._closed = True
        _end(self._process)

    @property
    def pid(self) -> int:
        """Process id of the present worker."""
        return self._process.pid

    def _exchange(self, problem: PlacementProblem, allowed_s: float) -> tuple[PlanSolution, bool]:
        """(answer, whether the process may be kept). A timer kills the process, which ends every wait on its pipes."""
        process = self._process
        timer = threading.Timer(allowed_s, process.kill)
        timer.start()
        deadline_s = time.monotonic() + allowed_s
        try:
            write_frame(cast("BinaryIO", process.stdin), PROBLEM, problem.to_bytes())
            kind, payload = read_frame(cast("BinaryIO", process.stdout))
        except FrameError:
            return no_plan(problem, SolveStatus.INVALID, "the solver's answer cannot be read"), False
        except (EOFError, OSError, ValueError):
            if time.monotonic() >= deadline_s:
                return no_plan(
                    problem, SolveStatus.UNKNOWN, f"the solver was cut off after {allowed_s:.0f} s"
                ), False
            return no_plan(problem, SolveStatus.UNKNOWN, f"the solver {_ending(process)}"), False
        finally:
            timer.cancel()
        if kind != SOLUTION:
            return no_plan(
                problem, SolveStatus.UNKNOWN, f"the solver failed: {payload.decode(errors='replace')}"
            ), True
        try:
            return PlanSolution.from_bytes(payload), True
        except Exception as error:
            return no_plan(problem, SolveStatus.INVALID, f"the solver's answer is nonsense: {error}"), False

    def _spawn(self) -> subprocess.Popen[bytes]:
        # the worker sees the modules this process sees, wherever it was started
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )

    def _replace(self) -> None:
        _end(self._process)
        if not self._closed:
            self._process = self._spawn()
            self._is_fresh = True


class InlineSolverPool:
    """Solves in the calling process; the wall limit is not enforced, answers are judged all the same."""

    def __init__(
        self, solve: Callable[[PlacementProblem], PlanSolution] | None = None, verify: Verify = verify_plan
    ) -> None:
        self._solve = solve
        self._verify = verify

    def solve_plan(self, problem: PlacementProblem, wall_limit_s: float) -> PlanSolution:
        """See `scheduler.ports.SolverPool.solve_plan`."""
        try:
            solution = self._function()(problem)
        except Exception as error:
            return no_plan(
                problem, SolveStatus.UNKNOWN, f"the solver failed: {type(error).__name__}: {error}"
            )
        return judged(problem, solution, self._verify)

    def close(self) -> None:
        """Nothing to end."""

    def _function(self) -> Callable[[PlacementProblem], PlanSolution]:
        if self._solve is None:
            # the solver engine loads only where a plan is made
            from solvers.plan_model import solve_plan

            self._solve = solve_plan
        return self._solve


def _ending(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(CLOSE_WAIT_S)
    except subprocess.TimeoutExpired:
        return "closed its pipe"
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(CLOSE_WAIT_S)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                # closing flushes; the reader is gone, and so is what was left to say
                continue
