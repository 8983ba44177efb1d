"""What is shown of a played day: small immutable tables, and the comparison of several policies on one day.

Inputs of the world (`LatencyMeasured`, `Mark`), rows (`SiteDay`, `MoveCount`, ...), the whole (`DayResult`)
and `Comparison`. Energies are kWh at the facility's meters, money is yuan, instants are seconds since 1970.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from cluster_sim.day_log import CAP_TOLERANCE_FRAC, F64, I64, DayWindow
from suanli.model import Bound, Fleet, MoveMode, SiteKind, SolveStatus, WorkloadState


@dataclass(frozen=True, slots=True)
class ClassLatency:
    """Measured network p99 RTT of one workload class against its budget.

    `workload_count` workloads with a budget were measured, `outside_count` of them were outside at least
    once; `inside_frac` is the share of samples inside, each sample one leg in one interval. `outage_min`: minutes of
    the day in which no copy of a service's replica ran after one had, summed over replicas; not violations.
    `hour_p99_ms`: 24 values, None where nothing of the class ran.
    """

    workload_class: str
    is_hard: bool
    budget_ms: float
    p99_ms: float
    workload_count: int
    outside_count: int
    sample_count: int
    inside_frac: float
    outage_min: float = 0.0
    hour_p99_ms: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class LatencyMeasured:
    """What the world's network measured over the day; `site_p99_ms` over everything that ran at a site."""

    classes: tuple[ClassLatency, ...] = ()
    site_p99_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def outside_count(self) -> int:
        """Workloads that were outside their budget at least once."""
        return sum(c.outside_count for c in self.classes)

    @property
    def hard_outside_count(self) -> int:
        """Of these, the ones whose class may never be."""
        return sum(c.outside_count for c in self.classes if c.is_hard)


@dataclass(frozen=True, slots=True)
class Mark:
    """Something the scenario did to a site that the service was not told, to be shown in the plots."""

    site_id: str
    from_s: int
    until_s: int
    label: str


# -------------------------------------------------------------------------------------------------- outputs


@dataclass(frozen=True, slots=True)
class SiteDay:
    """One row of the site table; energies and money of [start, day end)."""

    site_id: str
    name: str
    name_zh: str
    kind: SiteKind
    pue_cap_annual: float | None
    ipue_cap_hourly: float | None
    placed_count: int
    """Different workloads of which at least one replica ran here."""
    it_kwh: float
    facility_kwh: float
    useful_it_kwh: float
    cost_yuan: float
    carbon_kg: float
    balance_before_kwh: float | None
    """Π·E_IT − E_fac since 1 January at the start of the day; None without an annual cap."""
    balance_after_kwh: float | None
    released_kwh: float | None
    """What the seasonal rule lets this day take from the balance; None without an annual cap."""
    hours_over_cap: int
    """Whole open hours whose iPUE was above an hourly cap."""
    breach_debt_kwh: float
    """Σ debt of the day's `cap.breached` events."""
    breach_count: int
    rtt_p99_ms: float | None
    rtt_is_measured: bool
    outage_min: float
    peak_facility_kw: float

    @property
    def is_capped(self) -> bool:
        """Whether any PUE cap binds this site."""
        return self.pue_cap_annual is not None or self.ipue_cap_hourly is not None

    @property
    def ipue(self) -> float | None:
        """Facility energy over IT energy of the day; None while no IT energy was drawn."""
        return self.facility_kwh / self.it_kwh if self.it_kwh > 0 else None

    @property
    def price_yuan_per_kwh(self) -> float | None:
        """Mean price paid."""
        return self.cost_yuan / self.facility_kwh if self.facility_kwh > 0 else None

    @property
    def used_kwh(self) -> float | None:
        """E_fac − Π·E_IT of the day: what the day took from the balance; negative when it paid in."""
        return None if self.pue_cap_annual is None else self.facility_kwh - self.pue_cap_annual * self.it_kwh

    @property
    def debt_kwh(self) -> float:
        """What the day took beyond its release; if none is known, what took the year's balance below 0."""
        if self.used_kwh is None or self.balance_before_kwh is None:
            return 0.0
        allowed = self.released_kwh if self.released_kwh is not None else max(self.balance_before_kwh, 0.0)
        over = self.used_kwh - allowed
        return over if over > CAP_TOLERANCE_FRAC * max(self.it_kwh, 1.0) else 0.0

    @property
    def cap_held(self) -> bool | None:
        """Held: no debt by the meters, no hour over an hourly cap, no breach with debt; None: uncapped."""
        if not self.is_capped:
            return None
        return self.debt_kwh == 0.0 and self.hours_over_cap == 0 and self.breach_debt_kwh == 0.0

    @property
    def room_frac(self) -> float | None:
        """Energy the day could still have used under the annual cap, as a share of facility energy."""
        if self.used_kwh is None or self.balance_before_kwh is None or self.facility_kwh <= 0:
            return None
        allowed = self.released_kwh if self.released_kwh is not None else max(self.balance_before_kwh, 0.0)
        return (allowed - self.used_kwh) / self.facility_kwh


@dataclass(frozen=True, slots=True)
class MoveCount:
    """Moves of one mode over the day, with one example in words."""

    mode: MoveMode
    count: int
    cost_yuan: float
    gain_yuan: float
    """Energy that they are expected to save."""
    example: str
    within_site_count: int = 0
    """Of these, from one node of a site to another: room for a gang, or a node that may sleep."""
    saved_wait_gpu_h: float = 0.0
    """GPU-hours that gangs waited less because some of these made room for them."""
    saved_lateness_yuan: float = 0.0
    """What these hours are worth at the gangs' own price of lateness: no money that anybody saves."""


@dataclass(frozen=True, slots=True)
class ClassWait:
    """Time from submission or not-before until all replicas ran; who waits counts the time so far."""

    workload_class: str
    workload_count: int
    waiting_count: int
    p50_s: float
    p90_s: float


@dataclass(frozen=True, slots=True)
class GpuModelDay:
    """GPUs of one model: installed, and promised to replicas in the mean and at most over the day."""

    model: str
    installed_count: int
    mean_allocated: float
    peak_allocated: float


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a span: of the day, or until drained."""

    it_kwh: float
    facility_kwh: float
    cost_yuan: float
    carbon_kg: float
    delivered_gpu_h: float
    pending_count: int
    running_count: int

    @property
    def yuan_per_gpu_h(self) -> float | None:
        """Energy cost per delivered reference-GPU hour."""
        return self.cost_yuan / self.delivered_gpu_h if self.delivered_gpu_h > 0 else None

    @property
    def ipue(self) -> float | None:
        """Of all sites together."""
        return self.facility_kwh / self.it_kwh if self.it_kwh > 0 else None


@dataclass(frozen=True, slots=True)
class Series:
    """Named curves over common instants: `at_s` (T,), each value (T,)."""

    at_s: I64
    values: dict[str, F64]


@dataclass(frozen=True, slots=True)
class PowerCurves:
    """Per site (S, B): mean power of each bin that starts at `at_s`; NaN iPUE where no IT power was drawn."""

    at_s: I64
    it_kw: F64
    facility_kw: F64
    ipue: F64
    price_yuan_per_kwh: F64
    forecast_kw: F64
    """Facility power that the newest plan at that time had promised; NaN where no plan speaks."""
    dry_bulb_c: F64
    """(B,) mean over the sites' sensors; NaN where no meter reported."""


@dataclass(frozen=True, slots=True)
class LearnedError:
    """Error of the learned facility model per report (T, S); `settled_s`: since when it is below 3 %."""

    at_s: I64
    error_frac: F64
    settled_s: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class PlanProof:
    """One horizon plan and what was proven of it."""

    plan_id: str
    at_s: int
    status: SolveStatus
    bounds: tuple[Bound, ...]
    violations: int
    unplaced_count: int


@dataclass(frozen=True, slots=True)
class GapStats:
    """Gap of the day's plans in one scope; `bounded_count` of all the day's plans have one."""

    scope: str
    plan_count: int
    bounded_count: int
    max_frac: float | None
    mean_frac: float | None


@dataclass(frozen=True, slots=True)
class CutOff:
    """A solver that was stopped, and why."""

    plan_id: str
    at_s: int
    status: str
    cause: str


@dataclass(frozen=True, slots=True)
class Breach:
    """A cap that the service saw broken."""

    site_id: str
    from_s: int
    until_s: int
    cause: str
    debt_kwh: float
    ipue: float | None


@dataclass(frozen=True, slots=True)
class Outage:
    """A site that was down; `until_s` is the end of the log when it never came back."""

    site_id: str
    from_s: int
    until_s: int
    cause: str
    lost_count: int = 0
    """Replicas that ran there and were lost."""
    restarted_count: int = 0
    """Of these, the ones of which a copy ran after the loss, there or elsewhere, until the log ends."""


@dataclass(frozen=True, slots=True)
class Flows:
    """Who is served from where: placements per (zone, site), moves per (from, to), over the day."""

    zone_to_site: tuple[tuple[str, str, int], ...]
    site_to_site: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class DayResult:
    """Everything that is shown of one policy's day."""

    policy: str
    window: DayWindow
    fleet: Fleet
    class_names: Mapping[str, tuple[str, str]]
    """Workload class → (English, Chinese) name."""
    sites: tuple[SiteDay, ...]
    """Tightest cap first: least room under the cap, then sites without one."""
    submitted_count: int
    placed_count: int
    state_counts: Mapping[WorkloadState, int]
    """Of all submitted workloads at the end of the drain."""
    day: Totals
    drained: Totals
    moves: tuple[MoveCount, ...]
    waits: tuple[ClassWait, ...]
    queue: Series
    gpus: Series
    gpu_installed: Mapping[str, int]
    gpu_models: tuple[GpuModelDay, ...]
    """Most numerous first; empty without GPUs."""
    power: PowerCurves
    forecast_error_frac: Mapping[str, float]
    """Per site Σ|forecast − measured| / Σ measured facility power, where a plan had spoken."""
    learned: LearnedError
    plans: tuple[PlanProof, ...]
    cut_offs: tuple[CutOff, ...]
    breaches: tuple[Breach, ...]
    outages: tuple[Outage, ...]
    marks: tuple[Mark, ...]
    flows: Flows
    latency: LatencyMeasured | None
    pending_by_reason: Mapping[str, int]
    """Of the last round of the day."""
    round_count: int
    event_count: int
    account_problems: tuple[str, ...]

    @property
    def caps(self) -> tuple[int, int]:
        """(held, capped) sites."""
        verdicts = [s.cap_held for s in self.sites if s.cap_held is not None]
        return sum(verdicts), len(verdicts)

    @cached_property
    def gaps(self) -> tuple[GapStats, ...]:
        """Per scope, the fleet first."""
        by_scope: dict[str, list[float | None]] = defaultdict(list)
        for plan in self.plans:
            for bound in plan.bounds:
                by_scope[bound.scope].append(bound.gap_frac)
        scopes = sorted(by_scope, key=lambda s: (s != "fleet", s))
        return tuple(_gap_stats(s, by_scope[s], len(self.plans)) for s in scopes)

    def gap(self, scope: str = "fleet") -> GapStats | None:
        """The stats of that scope, None when no plan has a bound of it."""
        return next((g for g in self.gaps if g.scope == scope), None)

    def class_name(self, workload_class: str) -> str:
        """`W1 V2X perception 车路协同`, as far as names are known."""
        return " ".join(filter(None, (workload_class, *self.class_names.get(workload_class, ()))))

    def site_name(self, site_id: str) -> str:
        """English display name of a site, or its id."""
        return self.fleet.site(site_id).display_name or site_id


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One policy on the same day, after draining."""

    policy: str
    facility_kwh: float
    cost_yuan: float
    carbon_kg: float
    delivered_gpu_h: float
    yuan_per_gpu_h: float | None
    caps_held: int
    caps_count: int
    debt_kwh: float
    hard_outside_count: int | None
    outside_count: int | None
    pending_count: int
    move_count: int


@dataclass(frozen=True)
class Comparison:
    """Several policies on one day, ours first; caps are judged by one release, that of the season."""

    days: tuple[tuple[str, DayResult], ...]

    @classmethod
    def of(cls, days: Sequence[tuple[str, DayResult]]) -> Comparison:
        """Judge every day's caps by the first day's release, so that no policy has a rule of its own."""
        if not days:
            raise ValueError("a comparison needs at least one day")
        released = {s.site_id: s.released_kwh for s in days[0][1].sites}
        return cls(tuple((name, _with_release(day, released)) for name, day in days))

    @property
    def ours(self) -> DayResult:
        """The first day."""
        return self.days[0][1]

    @cached_property
    def rows(self) -> tuple[ComparisonRow, ...]:
        """One row per policy in the given order."""
        return tuple(_comparison_row(name, day) for name, day in self.days)

    def below_frac(self, policy: str) -> float | None:
        """How far our yuan per delivered GPU-hour lies below that policy's; None when it was not played besides."""
        ours = self.rows[0].yuan_per_gpu_h
        other = next((r.yuan_per_gpu_h for r in self.rows[1:] if r.policy == policy), None)
        return None if ours is None or not other else 1.0 - ours / other


@dataclass(frozen=True, slots=True)
class RunChecks:
    """What the independent checker said of the run's plans and rounds."""

    checked_count: int
    violations: tuple[str, ...] = ()


# ----------------------------------------------------------------------------------------------- comparison


def _comparison_row(name: str, day: DayResult) -> ComparisonRow:
    held, capped = day.caps
    return ComparisonRow(
        policy=name,
        facility_kwh=day.drained.facility_kwh,
        cost_yuan=day.drained.cost_yuan,
        carbon_kg=day.drained.carbon_kg,
        delivered_gpu_h=day.drained.delivered_gpu_h,
        yuan_per_gpu_h=day.drained.yuan_per_gpu_h,
        caps_held=held,
        caps_count=capped,
        debt_kwh=sum(s.debt_kwh for s in day.sites),
        hard_outside_count=None if day.latency is None else day.latency.hard_outside_count,
        outside_count=None if day.latency is None else day.latency.outside_count,
        pending_count=day.drained.pending_count,
        move_count=sum(m.count for m in day.moves),
    )


def _gap_stats(scope: str, gaps: Sequence[float | None], plan_count: int) -> GapStats:
    known = [g for g in gaps if g is not None]
    return GapStats(
        scope=scope,
        plan_count=plan_count,
        bounded_count=len(known),
        max_frac=max(known) if known else None,
        mean_frac=sum(known) / len(known) if known else None,
    )


def _with_release(day: DayResult, released: Mapping[str, float | None]) -> DayResult:
    sites = [replace(s, released_kwh=released.get(s.site_id)) for s in day.sites]
    return replace(day, sites=tightest_first(sites))


def tightest_first(rows: Iterable[SiteDay]) -> tuple[SiteDay, ...]:
    """Least room under the cap first, sites without a cap last."""

    def key(row: SiteDay) -> tuple[bool, bool, float, str]:
        room = row.room_frac
        return not row.is_capped, room is None, room if room is not None else 0.0, row.site_id

    return tuple(sorted(rows, key=key))
