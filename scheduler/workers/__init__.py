"""Workers: solving apart from the service, under limits, with every answer checked before it is used."""

from __future__ import annotations

from scheduler.workers.pools import InlineSolverPool, ProcessSolverPool

__all__ = ["InlineSolverPool", "ProcessSolverPool"]
