"""Answers to "why not" and "why there": every blocking reason, the minimal set of rules that conflict, the candidates.

The conflict set is found by deletion: starting from all rules that bind the workload, a rule is dropped for good when
what remains still blocks it; what is left is minimal, so dropping any one of its rules makes the workload placeable.
The question is asked of the fleet as the next round would leave it: work ahead in the queue has taken its room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.shapes import Spec
from scheduler.domain.state import NEVER_S, ClusterState, Phase
from scheduler.planner.feasibility import SpecView, Views, view_spec
from scheduler.planner.patterns import Patterns, enumerate_patterns
from scheduler.planner.queue import START_MARGIN_S, heads, in_order, released, whole_is_released
from scheduler.planner.relax import (
    MOMENT_RULES,
    OCCUPIED,
    OUTAGE,
    PRICE,
    RESERVED,
    SHARED,
    TOO_LARGE,
    WINDOW,
    flow_text,
    path_text,
    rules_of,
    with_flow_limit,
    with_path_budget,
)
from scheduler.planner.reserve import earliest_slot, ends_of
from scheduler.planner.round import PatternCache, Round, run_round, shortage_codes
from scheduler.planner.scoring import CLOSED_SITE_YUAN_PER_HOUR, Scorer
from scheduler.planner.snapshot import Snapshot, stage_sites
from suanli.model import (
    Candidate,
    Explanation,
    NotFound,
    Reason,
    ReasonCode,
    Relaxation,
    StartEstimate,
    Workload,
    WorkloadState,
)
from suanli.model.units import utc

SAME_COST_YUAN = 1e-9


class Explainer:
    """Questions against one state; scratch only."""

    def __init__(
        self,
        state: ClusterState,
        views: Views,
        patterns: PatternCache,
        scorer: Scorer,
        now_s: int,
        done: Round | None = None,
    ) -> None:
        self._done = done
        self._state = state
        self._views = views
        self._patterns = patterns
        self._scorer = scorer
        self._now_s = now_s

    @cached_property
    def _round(self) -> Round:
        """The round that would run now, unless it has just been run."""
        return self._done or run_round(self._state, self._views, self._patterns, self._scorer, self._now_s)

    @cached_property
    def _now(self) -> Snapshot:
        return Snapshot.take(self._state, self._views)

    def explain(self, name: str, workload: Workload, site_id: str = "") -> Explanation:
        """Pending: reasons, conflict, candidates. Placed: candidates with the chosen one and why the others lost.

        Raises:
            NotFound: when `site_id` names no site.
        """
        state = self._state
        if site_id and site_id not in self._views.topology.site_index:
            raise NotFound(f"no site {site_id}")
        index = state.index_of[name]
        rows = np.arange(state.rows_of(index).start, state.rows_of(index).stop)
        waiting = rows[state.replicas["phase"][rows] == Phase.WAITING]
        now = state.workload_state(name)
        assert now is not None
        candidates = self._candidates(rows, site_id)
        if now.is_final or not len(waiting):
            return Explanation(
                workload=name,
                state=now.value,
                at_s=self._now_s,
                summary=_why_not_summary(site_id, candidates) or _placed_summary(candidates, now),
                candidates=candidates,
                why_not=site_id,
            )
        reasons = self._reasons(index, waiting, site_id)
        trial = _Trials(self, index, waiting, state.shapes.templates[int(state.workloads["shape"][index])])
        conflict = trial.conflict()
        position = self._queue_position(index)
        return Explanation(
            workload=name,
            state=now.value,
            at_s=self._now_s,
            summary=_why_not_summary(site_id, candidates)
            or _pending_summary(len(waiting), reasons, conflict, position),
            reasons=reasons,
            conflict=conflict,
            candidates=candidates,
            relaxations=trial.relaxations(conflict),
            why_not=site_id,
            expected_start=self._expected_start(index, waiting) if conflict else None,
            queue_position=position,
            other_work_ahead_count=max(0, position - 1),
        )

    # ---------------------------------------------------------------- reasons

    def _reasons(self, index: int, waiting: NDArray[np.int64], site_id: str) -> tuple[Reason, ...]:
        """Of the workload as a whole, then per stage and site: the rules that exclude it, or what is short there."""
        state, topology = self._state, self._views.topology
        reasons = self._reasons_of_whole(index, waiting)
        for spec in np.unique(state.replicas["spec"][waiting]).tolist():
            view = self._views[spec]
            wanted = int((state.replicas["spec"][waiting] == spec).sum())
            joint = self._joint_sites(spec)
            for site in range(topology.site_count):
                if site_id and topology.site_ids[site] != site_id:
                    continue
                reasons += view.site_reasons[site]
                if not view.site_reasons[site]:
                    reasons += self._reasons_now(view, site, wanted, joint)
        return tuple(reasons)

    def _reasons_of_whole(self, index: int, waiting: NDArray[np.int64]) -> list[Reason]:
        state = self._state
        template = state.shapes.templates[int(state.workloads["shape"][index])]
        reasons = []
        not_before_s = int(state.workloads["not_before_s"][index])
        if not_before_s > self._now_s:
            reasons.append(
                Reason(
                    code=ReasonCode.NOT_BEFORE,
                    limit=not_before_s,
                    unit="s since 1970",
                    detail=utc(not_before_s).isoformat(),
                )
            )
        if template.deferrable and self._waits_for_price(waiting):
            reasons.append(
                Reason(code=ReasonCode.WAITS_FOR_PRICE, detail="the plan starts it in a cheaper hour")
            )
        lies = stage_sites(state, index)
        reasons += [
            Reason(
                code=ReasonCode.COLOCATION_UNMET,
                stage_id=s.stage_id,
                detail=f"{s.shared_with} does not run yet",
            )
            for s in template.stages
            if s.shared_with is not None and s.stage_id not in lies
        ]
        return reasons

    def _reasons_now(self, view: SpecView, site: int, wanted: int, joint: NDArray[np.bool_]) -> list[Reason]:
        """What rules out a site that would do in principle."""
        topology, stage = self._views.topology, view.spec.stage
        site_id = topology.site_ids[site]
        if not joint[site]:
            return [
                Reason(
                    code=ReasonCode.PATH_BUDGET_EXCEEDED
                    if view.spec.workload.paths
                    else ReasonCode.COLOCATION_UNMET,
                    site_id=site_id,
                    stage_id=stage.stage_id,
                    detail="no joint placement with the other stages",
                    node_count=int(topology.site_node_count[site]),
                )
            ]
        here = replace(view, group_ok=view.group_ok & (topology.group_site == site))
        after = self._round.snapshot
        codes = shortage_codes(after, here)
        del codes[ReasonCode.RESERVED_FOR_GANG]
        at = after.nodes_of(here.group_ok)
        fit = after.fit(here, at)
        reserved = int((~self._round.reservations.passes(at, np.inf) & (fit > 0)).sum())
        if reserved:
            codes[ReasonCode.RESERVED_FOR_GANG] = reserved
        out = [
            Reason(code=code, site_id=site_id, stage_id=stage.stage_id, node_count=n)
            for code, n in codes.items()
        ]
        room = int(np.minimum(fit, wanted).sum())
        if stage.gang and 0 < room < wanted:
            out.append(
                Reason(
                    code=ReasonCode.GANG_NOT_WHOLE,
                    site_id=site_id,
                    stage_id=stage.stage_id,
                    limit=wanted,
                    actual=room,
                    unit="replicas",
                )
            )
        return out

    def _joint_sites(self, spec: int) -> NDArray[np.bool_]:
        """(S,) sites where the stage lies in some pattern of its workload."""
        s = self._state.spec(spec)
        out = np.ones(self._views.topology.site_count, bool)
        if len(s.workload.stages) > 1:
            out[:] = False
            out[self._patterns.of(self._state, s.shape).sites[:, s.stage_index]] = True
        return out

    def _waits_for_price(self, waiting: NDArray[np.int64]) -> bool:
        """Whether the plan holds any of these deferrable rows back; never those whose latest start has come."""
        spec = int(self._state.replicas["spec"][waiting[0]])
        wanted = self._scorer.may_start_deferred(spec, self._now)
        if self._state.shapes.columns["simple"][spec]:
            return len(released(self._state, waiting, wanted, self._now_s)) < len(waiting)
        return not whole_is_released(self._state, waiting, wanted, self._now_s)

    # ---------------------------------------------------------------- the queue

    def _queue_position(self, index: int) -> int:
        """1 for the workload whose turn comes next, 0 for one that is not queued."""
        rows = heads(self._state, self._now_s)
        if not len(rows):
            return 0
        order = np.concatenate(in_order(self._state, rows, self._now_s))
        owners = self._state.replicas["workload"][order]
        _, first = np.unique(owners, return_index=True)
        turn = owners[np.sort(first)].tolist()
        return turn.index(index) + 1 if index in turn else 0

    def _expected_start(self, index: int, waiting: NDArray[np.int64]) -> StartEstimate | None:
        """From the declared ends of what runs, for work of one stage; None when none of them makes room."""
        state, done = self._state, self._round
        if len(state.shapes.specs_of_shape[int(state.workloads["shape"][index])]) > 1:
            return None
        view = self._views[int(state.replicas["spec"][waiting[0]])]
        count = len(waiting) if view.spec.stage.gang else 1
        placed = [(p.row, p.node, p.gpu_mask) for p in done.result.placed]
        ends = ends_of(state, placed, self._now_s, {p.row for p in done.result.preempted})
        slot = earliest_slot(done.snapshot, view, count, ends, self._now_s)
        if slot is None:
            return None
        not_before_s = int(state.workloads["not_before_s"][index])
        earliest_s = max(slot.at_s, not_before_s, self._now_s)
        last_s = float(ends.at_s[np.isfinite(ends.at_s)].max(initial=earliest_s))
        latest_s = max(earliest_s, int(last_s))
        deadline_s = int(state.workloads["deadline_s"][index])
        if view.spec.workload.deferrable and deadline_s < NEVER_S:
            left_s = float(state.replicas["work_s"][waiting].max())
            latest_s = max(earliest_s, int(deadline_s - left_s - START_MARGIN_S))
        return StartEstimate(
            earliest_at_s=earliest_s,
            likely_at_s=earliest_s,
            latest_at_s=latest_s,
            assumption="what runs ends as declared and nothing more urgent arrives",
        )

    # ---------------------------------------------------------------- candidates

    def _candidates(self, rows: NDArray[np.int64], site_id: str) -> tuple[Candidate, ...]:
        """Every site (or the named one) for each stage: chosen, lost, or ruled out."""
        out: list[Candidate] = []
        for spec in np.unique(self._state.replicas["spec"][rows]).tolist():
            out += self._candidates_of(spec, rows, site_id)
        return tuple(out)

    def _candidates_of(self, spec: int, rows: NDArray[np.int64], site_id: str) -> list[Candidate]:
        state, topology = self._state, self._views.topology
        view, joint = self._views[spec], self._joint_sites(spec)
        mine = rows[state.replicas["spec"][rows] == spec]
        on = state.replicas["node"][mine]
        chosen = {int(topology.node_site[n]) for n in on[on >= 0]}
        cost = self._scorer.group_cost(view, self._now)
        site_cost = np.full(topology.site_count, np.inf)
        np.minimum.at(site_cost, topology.group_site[view.group_ok], cost[view.group_ok])
        best = min((float(site_cost[s]) for s in chosen if np.isfinite(site_cost[s])), default=None)
        out = []
        for site in range(topology.site_count):
            if site_id and topology.site_ids[site] != site_id:
                continue
            here = view.group_ok & (topology.group_site == site)
            feasible = bool(here.any()) and bool(joint[site])
            reasons = view.site_reasons[site] or (
                () if feasible else tuple(self._reasons_now(view, site, 1, joint))
            )
            own = float(site_cost[site]) if feasible else None
            is_open = own is not None and own < CLOSED_SITE_YUAN_PER_HOUR
            short = shortage_codes(self._now, replace(view, group_ok=here)) if feasible else Counter()
            out.append(
                Candidate(
                    site_id=topology.site_ids[site],
                    stage_id=view.spec.stage.stage_id,
                    chosen=site in chosen,
                    feasible=feasible,
                    rtt_p99_ms=_finite(view.rtt_p99_ms[site]),
                    power_w=round(float(view.watts[here].min()), 1) if feasible else None,
                    cost_yuan_per_hour=round(own, 6) if own is not None and is_open else None,
                    cost_terms_yuan_per_hour={"energy": round(own, 6)} if own is not None and is_open else {},
                    reasons=reasons,
                    lost_because=_lost(site in chosen, reasons, own, best, short, self._room_at(view, here)),
                )
            )
        return sorted(
            out, key=lambda c: (not c.chosen, not c.feasible, c.cost_yuan_per_hour or np.inf, c.site_id)
        )

    def _room_at(self, view: SpecView, groups: NDArray[np.bool_]) -> bool:
        at = self._now.nodes_of(groups)
        return bool(self._now.fit(view, at).any())


@dataclass
class _FlatScorer:
    """Everything costs the same: a trial asks whether, not where."""

    chunk: int = 0

    def group_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        return np.zeros(len(snapshot.topology.group_ids))

    def node_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        return np.zeros(snapshot.topology.node_count)

    def quota(self, spec: int, snapshot: Snapshot) -> dict[int, float]:
        return {}

    def may_start_deferred(self, spec: int, snapshot: Snapshot) -> int | None:
        return None


class _Trials:
    """Placement attempts of one waiting workload with some of its rules dropped."""

    def __init__(self, asked: Explainer, index: int, waiting: NDArray[np.int64], template: Workload) -> None:
        self._asked = asked
        self._state, self._now_s = asked._state, asked._now_s
        self._index, self._waiting, self._template = index, waiting, template
        self._own = {r.text: r.drop for r in rules_of(template, asked._views.topology.gpu_models)}

    def conflict(self) -> tuple[str, ...]:
        """A minimal set of rules that together keep the workload waiting; () when the next round places it."""
        if self._would_start():
            return ()
        rules = [*self._own, *self._moment_rules()]
        if self.places(frozenset(rules)):
            return ()
        kept = list(rules)
        for rule in rules:
            if not self.places(frozenset(kept) - {rule}):
                kept.remove(rule)
        return tuple(kept) if kept else (TOO_LARGE,)

    def _would_start(self) -> bool:
        placed = {p.row for p in self._asked._round.result.placed}
        return placed.issuperset(self._waiting.tolist())

    def _moment_rules(self) -> list[str]:
        rules = []
        if int(self._state.workloads["not_before_s"][self._index]) > self._now_s:
            rules.append(WINDOW)
        if self._template.deferrable and self._asked._waits_for_price(self._waiting):
            rules.append(PRICE)
        if any(s.shared_with is not None for s in self._template.stages):
            rules.append(SHARED)
        return [*rules, *MOMENT_RULES]

    def places(self, rules: frozenset[str]) -> bool:
        """Whether the waiting replicas could all start now under only these rules."""
        relaxed = self._template
        for text, drop in self._own.items():
            if text not in rules:
                relaxed = drop(relaxed)
        return self._places(relaxed, rules)

    def _places(self, relaxed: Workload, rules: frozenset[str]) -> bool:
        if WINDOW in rules or PRICE in rules:
            return False
        state = self._state
        shape = int(state.workloads["shape"][self._index])
        if SHARED not in rules:
            stages = tuple(s.model_copy(update={"shared_with": None}) for s in relaxed.stages)
            relaxed = relaxed.model_copy(update={"stages": stages})
        specs = [
            Spec(s, shape, i, stage, relaxed)
            for i, (s, stage) in enumerate(
                zip(state.shapes.specs_of_shape[shape], relaxed.stages, strict=True)
            )
        ]
        views = _TrialViews(self._asked._views, [view_spec(s, self._asked._views.topology) for s in specs])
        snapshot = self._snapshot(rules)
        snapshot.views = views
        attempt = Round(state, snapshot, _TrialPatterns(views, relaxed), _FlatScorer(), self._now_s)
        if RESERVED in rules:
            attempt.reservations = self._asked._round.reservations.over(snapshot)
        return attempt.fits_together(self._waiting, relaxed)

    def _snapshot(self, rules: frozenset[str]) -> Snapshot:
        """The fleet after the round, without outages or without other work where those rules are dropped."""
        done = self._asked._round
        snapshot = done.snapshot.copy()
        for p in done.result.placed:
            if p.row in self._rows:
                view = self._asked._views[int(self._state.replicas["spec"][p.row])]
                snapshot.take_node(view, p.node, p.gpu_mask, -1)
        if OUTAGE not in rules:
            snapshot.nodes.up[:] = True
            snapshot.nodes.cordoned[:] = False
        if OCCUPIED not in rules:
            _empty(snapshot)
            self._put_own_back(snapshot)
        return snapshot

    @cached_property
    def _rows(self) -> frozenset[int]:
        return frozenset(self._waiting.tolist())

    def _put_own_back(self, snapshot: Snapshot) -> None:
        rows = self._state.rows_of(self._index)
        for row in range(rows.start, rows.stop):
            node = int(self._state.replicas["node"][row])
            if node >= 0:
                view = self._asked._views[int(self._state.replicas["spec"][row])]
                snapshot.take_node(view, node, int(self._state.replicas["gpu_mask"][row]))

    # ---------------------------------------------------------------- relaxations

    def relaxations(self, conflict: tuple[str, ...]) -> tuple[Relaxation, ...]:
        """For latency limits in the conflict, the smallest one that would do with all other rules kept."""
        rules = frozenset([*self._own, *self._moment_rules()])
        out = []
        for i, flow in enumerate(self._template.flows):
            if flow.rtt_p99_max_ms is not None and flow_text(flow) in conflict:
                found = self._smallest(rules, flow.rtt_p99_max_ms, with_flow_limit, i)
                out += _relaxation(f"flows[{i}].rtt_p99_max_ms", flow_text(flow), flow.rtt_p99_max_ms, found)
        for i, path in enumerate(self._template.paths):
            if path_text(path) in conflict:
                found = self._smallest(rules, path.budget_ms, with_path_budget, i)
                out += _relaxation(f"paths[{i}].budget_ms", path_text(path), path.budget_ms, found)
        return tuple(out)

    def _smallest(
        self,
        rules: frozenset[str],
        limit_ms: float,
        changed: Callable[[Workload, int, float], Workload],
        index: int,
    ) -> float | None:
        """Smallest larger limit, to a tenth of a millisecond, under which the workload is placed; None if none is."""
        low, high = round(limit_ms * 10), round(limit_ms * 10) + 1
        while not self._places(changed(self._template, index, high / 10), rules):
            low, high = high, high * 2
            if high > MAX_RELAXED_TENTHS_MS:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            if self._places(changed(self._template, index, middle / 10), rules):
                high = middle
            else:
                low = middle
        return high / 10


MAX_RELAXED_TENTHS_MS = 20_000


def _relaxation(field: str, text: str, limit_ms: float, found: float | None) -> list[Relaxation]:
    if found is None:
        return []
    change = f"{text} relaxed to {found:g} ms"
    return [Relaxation(change=change, field=field, from_value=limit_ms, to_value=found, unit="ms")]


class _TrialViews(Views):
    """Views in which the specs of one workload are replaced by relaxed ones."""

    def __init__(self, known: Views, views: Sequence[SpecView]) -> None:
        self.topology = known.topology
        self._known = known
        self._own = {v.spec.spec: v for v in views}

    def __getitem__(self, spec: int) -> SpecView:
        return self._own.get(spec) or self._known[spec]

    def link_mbps_per_replica(self, spec: int) -> NDArray[np.float64]:
        return self._known.link_mbps_per_replica(spec)


class _TrialPatterns(PatternCache):
    def __init__(self, views: _TrialViews, workload: Workload) -> None:
        super().__init__(views)
        self._workload = workload

    def of(self, state: ClusterState, shape: int) -> Patterns:
        if shape not in self._known:
            specs = state.shapes.specs_of_shape[shape]
            views = [self._views[s] for s in specs]
            self._known[shape] = enumerate_patterns(self._workload, views, self._views.topology)
        return self._known[shape]


def _empty(snapshot: Snapshot) -> None:
    """The fleet as if nothing ran on it."""
    topology, nodes = snapshot.topology, snapshot.nodes
    capacity = topology.node_capacity
    nodes.cpu_milli[:], nodes.memory_mib[:], nodes.storage_gib[:] = (
        capacity[:, 0],
        capacity[:, 1],
        capacity[:, 3],
    )
    nodes.gpu_milli[nodes.gpu_milli >= 0] = 1000
    snapshot.running[:] = 0
    snapshot.fold_running[:] = 0
    snapshot.dynamic_w[:] = 0
    snapshot.idle_w[:] = 0
    snapshot.link_mbps[:] = 0
    snapshot.replica_count[:] = 0
    snapshot.empty_node[:] = True


def _finite(value: float) -> float | None:
    return round(float(value), 3) if np.isfinite(value) else None


# ---------------------------------------------------------------------- words


def _lost(
    chosen: bool,
    reasons: tuple[Reason, ...],
    cost: float | None,
    best: float | None,
    short: Counter[ReasonCode],
    has_room: bool,
) -> str:
    """Why a site is not the one; "" for the one that is."""
    if chosen:
        return ""
    if reasons:
        return "; ".join(describe(r) for r in reasons)
    if not has_room:
        codes = [(c, n) for c, n in short.most_common() if c is not ReasonCode.RESERVED_FOR_GANG]
        return (
            "; ".join(f"{c.value.replace('_', ' ')} on {_count(n, 'node')}" for c, n in codes)
            or "no free node"
        )
    if cost is not None and cost >= CLOSED_SITE_YUAN_PER_HOUR:
        return "the plan keeps this site closed"
    if cost is not None and best is not None and cost > best + SAME_COST_YUAN:
        return f"dearer by {cost - best:.4f} yuan/h"
    if best is None:
        return "open; nothing is placed yet"
    return "no better than the chosen site"


def describe(reason: Reason) -> str:
    """A reason in words, with its numbers."""
    text = reason.code.value.replace("_", " ")
    if reason.actual is not None and reason.limit is not None:
        text += f" ({reason.actual:g} against {reason.limit:g} {reason.unit})".replace(" )", ")")
    elif reason.node_count and not reason.detail:
        text += f" on {_count(reason.node_count, 'node')}"
    return f"{text}: {reason.detail}" if reason.detail else text


def _placed_summary(candidates: tuple[Candidate, ...], state: WorkloadState) -> str:
    chosen = list(dict.fromkeys(c.site_id for c in candidates if c.chosen))
    sites = {c.site_id for c in candidates}
    feasible = {c.site_id for c in candidates if c.feasible}
    if not chosen:
        return f"{state.value}; {len(feasible)} of {len(sites)} sites could hold it"
    return f"runs at {', '.join(chosen)}; {len(feasible)} of {len(sites)} sites could hold it"


def _why_not_summary(site_id: str, candidates: tuple[Candidate, ...]) -> str:
    """The answer to "why not there"; "" when no site was named."""
    if not site_id:
        return ""
    parts = []
    for c in candidates:
        stage = f"{c.stage_id}: " if len(candidates) > 1 else ""
        parts.append(f"{stage}{'it runs there' if c.chosen else c.lost_because}")
    return f"{site_id}: {'; '.join(parts)}"


def _pending_summary(
    count: int, reasons: tuple[Reason, ...], conflict: tuple[str, ...], position: int
) -> str:
    sites = len({r.site_id for r in reasons if r.site_id})
    waits = f"{_count(count, 'replica')} {'waits' if count == 1 else 'wait'}"
    if not conflict:
        return f"{waits}; the next round places it"
    ahead = f", {_count(position - 1, 'workload')} ahead" if position > 1 else ""
    where = f" at {_count(sites, 'site')}" if sites else ""
    return f"{waits}{ahead}; {_count(len(reasons), 'reason')}{where}; these rules conflict: {' · '.join(conflict)}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


__all__ = ["Explainer", "describe"]
