"""Prometheus figures of the service, kept in a registry of their own so that several services fit one process."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from suanli.model import Event, EventKind

ROUND_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
PLAN_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0)
COMMIT_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
REQUEST_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0)


class Metrics:
    """Every figure the service shows at `/metrics`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "suanli_requests", "Answered calls", ["method", "code"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "suanli_request_seconds", "Time to answer a call", ["method"], buckets=REQUEST_BUCKETS_S,
            registry=self.registry,
        )  # fmt: skip
        self.commit_seconds = Histogram(
            "suanli_commit_seconds",
            "Time of one durable commit",
            buckets=COMMIT_BUCKETS_S,
            registry=self.registry,
        )
        self.commit_messages = Histogram(
            "suanli_commit_messages", "Requests that shared one commit", buckets=(1, 2, 5, 10, 20, 50, 100, 500),
            registry=self.registry,
        )  # fmt: skip
        self.round_seconds = Histogram(
            "suanli_round_seconds", "Time of one round with its commit", buckets=ROUND_BUCKETS_S,
            registry=self.registry,
        )  # fmt: skip
        self.plan_seconds = Histogram(
            "suanli_plan_seconds", "Time of one horizon plan from compile to commit", buckets=PLAN_BUCKETS_S,
            registry=self.registry,
        )  # fmt: skip
        self.plan_gap = Gauge(
            "suanli_plan_gap_ratio", "Proven gap of the last plan, 0..1", ["scope"], registry=self.registry
        )
        self.pending = Gauge(
            "suanli_pending_workloads", "Pending workloads by first blocking reason", ["reason"],
            registry=self.registry,
        )  # fmt: skip
        self.workloads = Gauge("suanli_workloads", "Workloads by state", ["state"], registry=self.registry)
        self.revision = Gauge(
            "suanli_log_revision", "Newest revision of the event log", registry=self.registry
        )
        self.solver_cut_offs = Counter(
            "suanli_solver_cut_offs", "Solves that crashed, hung or answered nonsense", registry=self.registry
        )
        self.solver_rungs = Counter(
            "suanli_solver_rungs",
            "Rungs of the ladder of plans (full, coarse, greedy, none) by outcome: answered, or why not",
            ["rung", "outcome"],
            registry=self.registry,
        )
        self.cap_breaches = Counter(
            "suanli_cap_breaches",
            "Periods in which a site broke its PUE cap",
            ["site"],
            registry=self.registry,
        )
        self.core_errors = Counter(
            "suanli_core_errors", "Exceptions the core caught and survived", ["where"], registry=self.registry
        )
        self.watchers = Gauge("suanli_watch_streams", "Open watch streams", registry=self.registry)

    def solver_rung(self, rung: str, outcome: str) -> None:
        """Count one rung of the ladder of plans: `answered`, or the cause for which it had no plan."""
        self.solver_rungs.labels(rung, outcome).inc()

    def observe(self, events: Sequence[Event]) -> None:
        """Take over what committed events tell: pending by reason, gaps, cut-offs, breaches."""
        for event in events:
            if event.kind is EventKind.ROUND_COMMITTED:
                self._observe_pending(event)
            elif event.kind is EventKind.PLAN_COMMITTED:
                self._observe_gaps(event)
            elif event.kind is EventKind.SOLVER_CUT_OFF:
                self.solver_cut_offs.inc()
            elif event.kind is EventKind.CAP_BREACHED:
                self.cap_breaches.labels(event.subject).inc()
        if events:
            self.revision.set(events[-1].revision)

    def _observe_pending(self, event: Event) -> None:
        by_reason = event.body.get("pending_by_reason")
        if isinstance(by_reason, dict):
            self.pending.clear()
            for reason, count in by_reason.items():
                self.pending.labels(reason).set(count)

    def _observe_gaps(self, event: Event) -> None:
        for bound in event.body.get("bounds") or ():
            if isinstance(bound, dict) and bound.get("gap_frac") is not None:
                self.plan_gap.labels(bound.get("scope", "fleet")).set(bound["gap_frac"])
