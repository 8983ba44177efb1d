"""Long-running operations and simulation runs."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from suanli.model.base import Fraction, Value


class RunState(StrEnum):
    """Life of a simulation run in virtual time."""

    OPEN = "open"
    CLOSED = "closed"


class SimulationRun(Value):
    """A service in virtual time: the driver owns the clock and calls Advance."""

    run_id: str
    seed: int = 0
    start_at_s: int
    advanced_until_s: int
    state: RunState = RunState.OPEN
    planner: str = Field("suanli", description="suanli, or a named baseline in process")
    etag: str = ""


class Operation(Value):
    """Progress of long work."""

    name: str
    done: bool = False
    progress_frac: Fraction = 0.0
    message: str = ""
    error: str = ""
    target: str = Field("", description="what is worked on")
    verb: str = ""
    created_at_s: int = 0
    ended_at_s: int | None = None
    incumbent_yuan: float | None = None
    bound_yuan: float | None = None
    gap_frac: float | None = None
