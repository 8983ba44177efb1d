"""Problems and their plans as files, to be replayed with `suanli solve` and checked with `suanli verify`."""

from __future__ import annotations

from pathlib import Path

from scheduler.workers.pools import InlineSolverPool, LadderPool, ProcessSolverPool
from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution

Pool = ProcessSolverPool | LadderPool | InlineSolverPool

KEPT = 48
"""Pairs of files kept, two days of hourly plans; older ones are removed."""
HASH_DIGITS = 16


class DumpingPool:
    """A pool that writes every problem before it is solved and every answer after: what kills the service is on disk.

    Files are `plan-{problem's hash}.problem` and, beside it, `….problem.plan`. Only files of this form are removed.
    """

    def __init__(self, pool: Pool, folder: Path, kept: int = KEPT) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._pool, self._folder, self._kept = pool, folder, kept

    def solve_plan(self, problem: PlacementProblem, wall_limit_s: float) -> PlanSolution:
        """See `scheduler.ports.SolverPool.solve_plan`."""
        file = self._folder / f"plan-{problem.content_hash()[:HASH_DIGITS]}.problem"
        problem.save(file)
        solution = self._pool.solve_plan(problem, wall_limit_s)
        solution.save(file.with_suffix(".problem.plan"))
        self._remove_old()
        return solution

    def cancel(self) -> None:
        """End the solve under way."""
        self._pool.cancel()

    def close(self) -> None:
        """End the pool; the files stay."""
        self._pool.close()

    def _remove_old(self) -> None:
        files = sorted(self._folder.glob("plan-*.problem"), key=lambda f: (f.stat().st_mtime_ns, f.name))
        for old in files[: -self._kept]:
            old.unlink(missing_ok=True)
            old.with_suffix(".problem.plan").unlink(missing_ok=True)
