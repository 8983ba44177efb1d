"""Why not: a closed set of reasons, counted per candidate, and the explanations built from them."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from suanli.model.base import Value


class ReasonCode(StrEnum):
    """Every way in which a candidate can be ruled out; nothing is refused without one of these."""

    SITE_CORDONED = "site_cordoned"
    SITE_DOWN = "site_down"
    SITE_NOT_NAMED = "site_not_named"
    LABEL_MISSING = "label_missing"
    RTT_EXCEEDED = "rtt_exceeded"
    RTT_UNKNOWN = "rtt_unknown"
    PATH_BUDGET_EXCEEDED = "path_budget_exceeded"
    GPU_MODEL_ABSENT = "gpu_model_absent"
    GPU_MEMORY_TOO_SMALL = "gpu_memory_too_small"
    NODE_TOO_SMALL = "node_too_small"
    CPU_SHORT = "cpu_short"
    MEMORY_SHORT = "memory_short"
    GPU_SHORT = "gpu_short"
    STORAGE_SHORT = "storage_short"
    GPU_FRAGMENTED = "gpu_fragmented"
    GANG_NOT_WHOLE = "gang_not_whole"
    ISLAND_TOO_SMALL = "island_too_small"
    POWER_LIMIT = "power_limit"
    PUE_CAP = "pue_cap"
    LEDGER_CLOSED = "ledger_closed"
    LINK_FULL = "link_full"
    SPREAD_UNMET = "spread_unmet"
    COLOCATION_UNMET = "colocation_unmet"
    NOT_BEFORE = "not_before"
    WAITS_FOR_PRICE = "waits_for_price"
    RESERVED_FOR_GANG = "reserved_for_gang"
    SOLVER_CUT_OFF = "solver_cut_off"
    RESERVED_FLOOR = "reserved_floor"


class Reason(Value):
    """One no, with its numbers: `rtt_exceeded(limit=20, actual=27.3, unit=ms)` at a site."""

    code: ReasonCode
    site_id: str = ""
    stage_id: str = ""
    limit: float | None = None
    actual: float | None = None
    unit: str = ""
    detail: str = ""
    node_count: int = Field(0, ge=0, description="how many nodes this reason rules out")


class Candidate(Value):
    """One site as a home for one stage: its price and network, chosen or why it lost."""

    site_id: str
    stage_id: str = ""
    chosen: bool = False
    feasible: bool = True
    rtt_p99_ms: float | None = None
    power_w: float | None = None
    ipue_marginal: float | None = None
    cost_yuan_per_hour: float | None = None
    cost_terms_yuan_per_hour: dict[str, float] = Field(
        default_factory=dict, description="energy, ledger_debt, start, ..."
    )
    reasons: tuple[Reason, ...] = ()
    lost_because: str = ""
    has_room: bool = Field(False, description="one more replica would fit there now, beside what is placed")


class Relaxation(Value):
    """A smallest change that would let the workload run, verified by solving again."""

    change: str
    field: str = ""
    from_value: float | None = None
    to_value: float | None = None
    unit: str = ""
    price_yuan: float | None = None


class StartEstimate(Value):
    """When a waiting workload is expected to start: 10 %, 50 % and 90 % quantiles, and what that rests on."""

    earliest_at_s: int
    likely_at_s: int
    latest_at_s: int
    assumption: str = ""


class Explanation(Value):
    """All blocking reasons, the smallest set of rules that conflict, and what the candidates were."""

    workload: str
    state: str
    at_s: int = 0
    summary: str = ""
    reasons: tuple[Reason, ...] = ()
    conflict: tuple[str, ...] = Field(
        (), description="minimal: dropping any one of these rules makes it placeable"
    )
    candidates: tuple[Candidate, ...] = ()
    relaxations: tuple[Relaxation, ...] = ()
    why_not: str = Field("", description="site or node asked about in a why-not")
    expected_start: StartEstimate | None = None
    queue_position: int = Field(0, ge=0, description="1 is next; 0: not queued")
    other_work_ahead_count: int = Field(0, ge=0)
