"""Events: the append-only truth. A revision is the watch token; a state is a fold of events."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from suanli.model.base import Value


class EventKind(StrEnum):
    """What can happen. `replica.*_ordered` are the commands that sites read from the log."""

    FLEET_REGISTERED = "fleet.registered"
    POLICY_REVISED = "policy.revised"
    SITE_CORDONED = "site.cordoned"
    SITE_DOWN = "site.down"
    SITE_UP = "site.up"
    SITE_MODEL_LEARNED = "site.model_learned"
    SITE_METERED = "site.metered"
    SHAPE_INTERNED = "shape.interned"
    WORKLOAD_SUBMITTED = "workload.submitted"
    WORKLOAD_CANCELLED = "workload.cancelled"
    WORKLOAD_STATE = "workload.state"
    REPLICA_START_ORDERED = "replica.start_ordered"
    REPLICA_STOP_ORDERED = "replica.stop_ordered"
    REPLICA_RUNNING = "replica.running"
    REPLICA_ENDED = "replica.ended"
    REPLICA_MOVED = "replica.moved"
    REPLICA_PREEMPTED = "replica.preempted"
    REPLICA_PAUSED = "replica.paused"
    PLAN_COMMITTED = "plan.committed"
    ROUND_COMMITTED = "round.committed"
    CAP_BREACHED = "cap.breached"
    SOLVER_CUT_OFF = "solver.cut_off"
    RUN_ADVANCED = "run.advanced"


class StopKind(StrEnum):
    """Why a placement is told to stop; the text beside it is for people."""

    CANCELLED = "cancelled"
    """Its owner took the workload back."""
    DONE = "done"
    """Its work has ended elsewhere: at the other end of a move."""
    PARTNER_FAILED = "partner_failed"
    """Another replica failed, and the workload with it."""
    PREEMPTED = "preempted"
    """It gives way to work of a higher class."""
    PAUSED = "paused"
    """It waits for a cheaper tariff."""
    MOVED = "moved"
    """Its new place has taken over."""
    DRAINED = "drained"
    """Its site or node is emptied."""
    DISPLACED = "displaced"
    """A stage it shares or has to stand beside went elsewhere, or away."""


class Event(Value):
    """One line of the log; `body` is plain JSON and holds no wall-clock timing."""

    revision: int = Field(ge=0)
    at_s: int = Field(ge=0)
    kind: EventKind
    subject: str
    body: dict[str, Any] = Field(default_factory=dict)
