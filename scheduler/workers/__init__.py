"""Workers: solving apart from the service, under limits, with every answer checked before it is used."""

from __future__ import annotations

from scheduler.workers.dump import DumpingPool
from scheduler.workers.pools import InlineSolverPool, LadderPool, ProcessSolverPool

__all__ = ["DumpingPool", "InlineSolverPool", "LadderPool", "ProcessSolverPool"]
