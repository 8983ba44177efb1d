"""Placements, plans, rounds, moves and ledger balances: what the planner decides and what it promises."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from suanli.model.base import NonNegative, Value
from suanli.model.reason import Reason


class MoveMode(StrEnum):
    """The three ways compute is shared across the city."""

    CLOUD_CLOUD = "cloud_cloud"
    CLOUD_EDGE = "cloud_edge"
    EDGE_EDGE = "edge_edge"


class Placement(Value):
    """One replica on one node, from when, at what predicted RTT, energy and price."""

    placement_id: str
    workload: str
    stage_id: str
    replica_index: int = Field(ge=0)
    incarnation: int = Field(0, ge=0, description="counts restarts and moves of this replica")
    site_id: str
    group_id: str
    node_id: str
    gpu_ids: tuple[int, ...] = ()
    gpu_milli: int = 0
    start_at_s: int
    rtt_p99_ms: float = 0.0
    power_w: NonNegative = 0.0
    price_yuan_per_hour: NonNegative = 0.0


class Move(Value):
    """A running replica that leaves one site for another, what it costs, and what it saves: energy, or waiting."""

    workload: str
    stage_id: str
    replica_index: int
    from_site_id: str
    to_site_id: str
    mode: MoveMode
    reason: str
    cost_yuan: float = 0.0
    gain_yuan: float = Field(0.0, description="energy saved; money only")
    saved_wait_gpu_h: float = Field(
        0.0, description="reference GPU-hours that a gang waits less because this move makes room for it"
    )
    saved_lateness_yuan: float = Field(
        0.0, description="what these hours are worth at the gang's price of lateness; nobody pays it"
    )


class SolveStatus(StrEnum):
    """Five outcomes, never folded together."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"
    INVALID = "invalid"


class Bound(Value):
    """Objective, proven bound and gap of one model; `model` names what the bound speaks of."""

    model: str
    scope: str = "fleet"
    objective_yuan: float
    bound_yuan: float | None = None
    gap_frac: float | None = None


class BindingConstraint(Value):
    """A constraint that limits the plan, e.g. `facility_power[site=e04]`; the price is yuan per `unit`."""

    constraint: str
    value: float
    limit: float
    unit: str = ""
    shadow_price_yuan: float | None = None


class LedgerBalance(Value):
    """Annual energy ledger of one site: balance B = Π·E_IT − E_fac, in kWh, before and after a horizon."""

    site_id: str
    pue_cap_annual: float | None = None
    balance_before_kwh: float = 0.0
    balance_after_kwh: float = 0.0
    released_kwh: float = Field(
        0.0,
        description="β_H: what the seasonal rule lets this horizon use, and what the day has saved of it so far",
    )
    used_kwh: float = Field(0.0, description="Σ (P_fac − Π·P_useful)·Δt of the horizon")
    debt_kwh: NonNegative = 0.0


class Plan(Value):
    """One horizon plan as the API shows it; the arrays it was made from are kept by the solver's dump."""

    plan_id: str
    at_s: int
    horizon_s: int
    policy_revision: int = 0
    base_revision: int = 0
    status: SolveStatus
    bounds: tuple[Bound, ...] = ()
    sites_on: dict[str, tuple[bool, ...]] = Field(default_factory=dict)
    forecast_it_kw: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    forecast_facility_kw: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    unplaced: dict[str, int] = Field(default_factory=dict)
    input_sha256: str = ""
    violations: int = 0
    ledgers: tuple[LedgerBalance, ...] = ()
    moves: tuple[Move, ...] = ()
    binding_constraints: tuple[BindingConstraint, ...] = ()
    cap_exceeded_count: int = Field(0, description="slots in which an open site stays above its hourly cap")
    cap_excess_kwh: NonNegative = Field(0.0, description="facility energy above hourly caps")


class Round(Value):
    """One fast round: heads considered, placed, left waiting with reasons."""

    round_id: str
    at_s: int
    considered: int = 0
    placed: int = 0
    moved: int = 0
    preempted: int = 0
    paused: int = 0
    pending: int = 0
    pending_by_reason: dict[str, int] = Field(default_factory=dict)
    sample_reasons: tuple[Reason, ...] = ()
    moves: tuple[Move, ...] = ()
