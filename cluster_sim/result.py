"""A played day as numbers, from its event log alone: the door to `day_log`, `day_values`, `day_tables`.

build_day_result    event log + fleet + window → DayResult
Comparison.of       several policies' days → the comparison, caps judged alike
day_failures        why a run may not exit 0
DayStory            all of it, as the terminal summary and the report tell it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster_sim.day_accounts import account_problems_of
from cluster_sim.day_log import (
    MAX_PROBLEMS_SHOWN,
    BrokenLogError,
    DayWindow,
    fleet_of_log,
    read_columns,
    read_log,
    state_intervals,
    window_of_log,
)
from cluster_sim.day_tables import (
    breaches_of,
    cut_offs_of,
    flows_between,
    forecast_errors,
    gpu_allocation,
    gpu_installed,
    gpu_models_of,
    last_pending_by_reason,
    learned_errors,
    moves_by_mode,
    outages_of,
    placed_mask,
    plan_proofs,
    power_curves,
    queue_curves,
    seasonal_release,
    site_table,
    state_counts_at,
    totals,
    waits_by_class,
)
from cluster_sim.day_values import (
    ClassLatency,
    Comparison,
    ComparisonRow,
    DayResult,
    LatencyMeasured,
    Mark,
    RunChecks,
    SiteDay,
)
from suanli.model import Event, EventKind, Explanation, Fleet

__all__ = [
    "BrokenLogError",
    "ClassLatency",
    "Comparison",
    "ComparisonRow",
    "DayResult",
    "DayStory",
    "DayWindow",
    "LatencyMeasured",
    "Mark",
    "RunChecks",
    "SiteDay",
    "build_day_result",
    "day_failures",
    "fleet_of_log",
    "read_log",
    "window_of_log",
]


def build_day_result(
    events: Sequence[Event],
    fleet: Fleet,
    window: DayWindow,
    *,
    policy: str = "suanli",
    latency: LatencyMeasured | None = None,
    released_kwh: Mapping[str, float] | None = None,
    marks: Sequence[Mark] = (),
    class_names: Mapping[str, tuple[str, str]] | None = None,
) -> DayResult:
    """Fold a canonical log into the day's tables.

    `released_kwh` overrides what the seasonal rule releases per site. Raises BrokenLogError where the
    log refers to sites, shapes or workloads that it never introduced.
    """
    log = read_columns(events, fleet)
    power = power_curves(log, window)
    outages = outages_of(log, window)
    breaches = breaches_of(log, window)
    released = dict(released_kwh) if released_kwh is not None else seasonal_release(fleet, log.policy, window)
    states = state_intervals(log)
    return DayResult(
        policy=policy,
        window=window,
        fleet=fleet,
        class_names=dict(class_names or {}),
        sites=site_table(log, window, released, breaches, outages, latency),
        submitted_count=len(log.workloads.names),
        placed_count=int(placed_mask(log, window.day_end_s).sum()),
        state_counts=state_counts_at(states, window.drained_until_s),
        day=totals(log, states, window, window.day_end_s),
        drained=totals(log, states, window, window.drained_until_s),
        moves=moves_by_mode(log, window, class_names or {}),
        waits=waits_by_class(log, window),
        queue=queue_curves(states, window),
        gpus=gpu_allocation(log, window),
        gpu_installed=gpu_installed(fleet),
        gpu_models=gpu_models_of(log, window),
        power=power,
        forecast_error_frac=forecast_errors(log, power),
        learned=learned_errors(log, window),
        plans=plan_proofs(log, window),
        cut_offs=cut_offs_of(log, window),
        breaches=breaches,
        outages=outages,
        marks=tuple(marks),
        flows=flows_between(log, window),
        latency=latency,
        pending_by_reason=last_pending_by_reason(log, window),
        round_count=sum(e.at_s < window.day_end_s for e in log.by_kind[EventKind.ROUND_COMMITTED]),
        event_count=len(events),
        account_problems=account_problems_of(log, window, states),
    )


def day_failures(day: DayResult, checks: RunChecks) -> tuple[str, ...]:
    """Why the run may not exit 0, in words.

    Empty when the checker found nothing, hard classes kept their latency and the accounts close.
    """
    failures = []
    if checks.violations:
        shown = "; ".join(checks.violations[:MAX_PROBLEMS_SHOWN])
        failures.append(f"the independent checker found {len(checks.violations)} violations: {shown}")
    if checks.checked_count == 0:
        failures.append("the independent checker had nothing to check")
    committed = sum(p.violations for p in day.plans)
    if committed:
        failures.append(f"{committed} violations in committed plans")
    if day.latency is None:
        failures.append("latency was not measured")
    else:
        late = [c for c in day.latency.classes if c.is_hard and c.outside_count]
        failures += [
            f"{c.outside_count} workloads of hard class {c.workload_class} left their latency" for c in late
        ]
    if day.account_problems:
        failures.append(f"the accounts do not close: {'; '.join(day.account_problems[:MAX_PROBLEMS_SHOWN])}")
    return tuple(failures)


@dataclass(frozen=True)
class DayStory:
    """Everything that summary and report tell; the comparison's first day is ours."""

    comparison: Comparison
    checks: RunChecks | None
    """None: a log looked at again, on which the independent checker did not run."""
    pending: Explanation | None = None
    placed: Explanation | None = None
    report_path: str = ""
    next_commands: tuple[str, ...] = ()
    versus: str = "least-loaded"

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the run exits 1; empty: it exits 0."""
        return () if self.checks is None else day_failures(self.comparison.ours, self.checks)
