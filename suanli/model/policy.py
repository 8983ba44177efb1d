"""Policy: revisioned goals and limits, never edited in place."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from suanli.model.base import Identifier, NonNegative, Value
from suanli.model.errors import FieldProblem
from suanli.model.fleet import PueCap


class SitePolicy(Value):
    """Overrides for one site, `class:edge`, `class:cloud` or `fleet`; the most special one wins, of equals the later.

    Each form of cap, the power limit and the floor stand by themselves: what is left out stays as it is. A power limit
    is of IT power and can only tighten the site's own; a floor of 0 says nothing.
    """

    target: str = Field(pattern=r"^(sites/[a-z0-9._-]+|class:(edge|cloud)|fleet)$")
    caps: PueCap | None = None
    power_limit_kw: float | None = Field(None, gt=0)
    reserved_floor_frac: float = Field(0.0, ge=0, le=1, description="kept free for public services")


class Policy(Value):
    """One revision of the operator's goals."""

    policy_id: Identifier = "default"
    revision: int = Field(0, ge=0)
    sites: tuple[SitePolicy, ...] = ()
    edge_portfolio_cap_annual: float | None = Field(None, ge=1.0, le=5.0)
    ledger_load: Literal["useful", "legal"] = "useful"
    debt_price_yuan_per_kwh: NonNegative = 5.0
    migration_yuan_per_gpu: NonNegative = 2.0
    move_budget_per_hour: int = Field(200, ge=0, le=10_000_000)
    carbon_price_yuan_per_kg: NonNegative = 0.0
    horizon_hours: int = Field(24, ge=1, le=168)
    plan_every_s: int = Field(3600, ge=60, le=7 * 24 * 3600)
    etag: str = ""
    created_at_s: int = 0
    warnings: tuple[FieldProblem, ...] = Field(
        (),
        exclude=True,
        description="what cannot come true as the service sees it when the revision is made; not kept",
    )
