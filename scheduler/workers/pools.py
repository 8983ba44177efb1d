"""Solver pools: the killable worker process of the service, and solving in process for tests and batch runs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import BinaryIO, cast

from scheduler.workers.check import Verify, judged, verify_plan
from scheduler.workers.frames import PROBLEM, SOLUTION, FrameError, read_frame, write_frame
from scheduler.workers.ladder import Observe, Rung, descend, ignore, in_process
from solvers.fallback import coarse_plan
from solvers.greedy import greedy_plan
from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution, SolveStatus, no_plan

SOLVER = "solvers.plan_model:solve_plan"
COARSE_SOLVER = "solvers.fallback:coarse_plan"
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
        self._cancelled = False
        self._solving = False
        self._process = self._spawn()
        self._is_fresh = True

    def solve_plan(self, problem: PlacementProblem, wall_limit_s: float) -> PlanSolution:
        """See `scheduler.ports.SolverPool.solve_plan`; one problem at a time, others wait their turn."""
        with self._turn:
            if self._closed:
                return no_plan(problem, SolveStatus.UNKNOWN, "the solver pool is closed")
            allowed_s = wall_limit_s + (self._import_grace_s if self._is_fresh else 0.0)
            self._cancelled, self._solving = False, True
            solution, keep = self._exchange(problem, allowed_s)
            self._solving = False
            if not keep and self._cancelled:
                solution = no_plan(problem, SolveStatus.UNKNOWN, "the solve was cancelled")
            if keep:
                self._is_fresh = False
            else:
                self._replace()
            return judged(problem, solution, self._verify)

    def cancel(self) -> None:
        """End the solve under way, from any thread; it answers UNKNOWN, and the next one gets a fresh process."""
        if self._solving:
            self._cancelled = True
            self._process.kill()

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
        # taken before the timer starts: a kill by the timer must never seem to come before it
        deadline_s = time.monotonic() + allowed_s
        timer.start()
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


class LadderPool:
    """The service's pool: a full plan, else a coarse one, each in a process that can be killed, else a greedy one here.

    See `scheduler.workers.ladder`. The second process starts when it is first needed.
    """

    def __init__(
        self,
        solver: str = SOLVER,
        coarse_solver: str = COARSE_SOLVER,
        greedy: Callable[[PlacementProblem], PlanSolution] = greedy_plan,
        memory_limit_mib: int = MEMORY_LIMIT_MIB,
        verify: Verify = verify_plan,
        import_grace_s: float = IMPORT_GRACE_S,
        observe: Observe = ignore,
    ) -> None:
        self._full = ProcessSolverPool(solver, memory_limit_mib, verify, import_grace_s)
        self._coarse: ProcessSolverPool | None = None
        self._make_coarse = partial(
            ProcessSolverPool, coarse_solver, memory_limit_mib, verify, import_grace_s
        )
        self._observe = observe
        self._rungs = (
            Rung("full", self._full.solve_plan),
            Rung("coarse", self._solve_coarse),
            in_process("greedy", greedy, verify),
        )

    def solve_plan(self, problem: PlacementProblem, wall_limit_s: float) -> PlanSolution:
        """See `scheduler.ports.SolverPool.solve_plan`; takes at most 1.25 wall limits, imports apart."""
        return descend(problem, self._rungs, wall_limit_s, self._observe)

    def cancel(self) -> None:
        """End the solve under way; it answers UNKNOWN without trying the rungs below."""
        self._full.cancel()
        if self._coarse is not None:
            self._coarse.cancel()

    def close(self) -> None:
        """End the processes, also amid a solve."""
        self._full.close()
        if self._coarse is not None:
            self._coarse.close()

    def _solve_coarse(self, problem: PlacementProblem, wall_limit_s: float) -> PlanSolution:
        if self._coarse is None:
            self._coarse = self._make_coarse()
        return self._coarse.solve_plan(problem, wall_limit_s)


class InlineSolverPool:
    """Solves in the calling process; work limits end a solve, the wall limit does not. Answers are judged all the same.

    With a solver of its own it has no other rung; without, it walks the same ladder as the service. Plans whose proof
    nobody will ask for may do without certificates.
    """

    def __init__(
        self,
        solve: Callable[[PlacementProblem], PlanSolution] | None = None,
        verify: Verify = verify_plan,
        observe: Observe = ignore,
        *,
        with_certificate: bool = True,
    ) -> None:
        self._observe = observe
        if solve is not None:
            self._rungs: tuple[Rung, ...] = (in_process("full", solve, verify),)
        else:
            self._rungs = (
                in_process("full", partial(_full_plan, with_certificate=with_certificate), verify),
                in_process("coarse", coarse_plan, verify),
                in_process("greedy", greedy_plan, verify),
            )

    def solve_plan(self, problem: PlacementProblem, wall_limit_s: float) -> PlanSolution:
        """See `scheduler.ports.SolverPool.solve_plan`."""
        if len(self._rungs) == 1:
            return self._rungs[0].solve(problem, wall_limit_s)
        return descend(problem, self._rungs, wall_limit_s, self._observe)

    def cancel(self) -> None:
        """Nothing runs beside the caller."""

    def close(self) -> None:
        """Nothing to end."""


def _full_plan(problem: PlacementProblem, *, with_certificate: bool) -> PlanSolution:
    # the solver engine loads only where a plan is made
    from solvers.plan_model import PlanLimits, solve_plan

    return solve_plan(problem, limits=PlanLimits(with_certificate=with_certificate))


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
