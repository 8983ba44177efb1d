"""Answers to "why not" and "why there": every blocking reason, the minimal set of rules that conflict, the candidates.

The conflict set and the changes that would help come from trials (`planner.trials`), the start from `planner.starts`.
The question is asked of the fleet as the next round would leave it: work ahead in the queue has taken its room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.state import ClusterState, Phase
from scheduler.domain.topology import RESOURCES
from scheduler.planner.deferral import rests_until_s
from scheduler.planner.feasibility import SpecView, Views, reasons_of_group, zone_legs
from scheduler.planner.marginal import marginal_ipue
from scheduler.planner.queue import START_MARGIN_S, heads, in_order, released, urgent, whole_is_released
from scheduler.planner.relax import OCCUPIED
from scheduler.planner.round import PatternCache, Round, run_round, shortage_codes
from scheduler.planner.scoring import Scorer
from scheduler.planner.snapshot import Snapshot, stage_sites
from scheduler.planner.starts import StartForecast
from scheduler.planner.trials import Question, Trials
from suanli.model import (
    Candidate,
    Explanation,
    NotFound,
    Reason,
    ReasonCode,
    StartEstimate,
    Workload,
    WorkloadState,
)
from suanli.model.units import MIB_PER_GIB, MILLI, W_PER_KW

SAME_COST_YUAN = 1e-9
AMOUNTS = {
    ReasonCode.CPU_SHORT: ("cpu_milli", RESOURCES.index("cpu_milli"), MILLI, "cores"),
    ReasonCode.MEMORY_SHORT: ("memory_mib", RESOURCES.index("memory_mib"), MIB_PER_GIB, "GiB"),
    ReasonCode.STORAGE_SHORT: ("storage_gib", RESOURCES.index("storage_gib"), 1, "GiB"),
    ReasonCode.GPU_SHORT: ("gpu_milli", RESOURCES.index("gpu_milli"), MILLI, "GPUs"),
    ReasonCode.GPU_FRAGMENTED: ("gpu_milli", RESOURCES.index("gpu_milli"), MILLI, "GPUs"),
}
"""Reason → column of free amounts, resource, amount per unit, unit."""
NO_END = "; no declared end of what runs makes room for it"
LASTING = frozenset(
    {
        ReasonCode.SITE_NOT_NAMED,
        ReasonCode.LABEL_MISSING,
        ReasonCode.RTT_EXCEEDED,
        ReasonCode.RTT_UNKNOWN,
        ReasonCode.PATH_BUDGET_EXCEEDED,
        ReasonCode.GPU_MODEL_ABSENT,
        ReasonCode.GPU_MEMORY_TOO_SMALL,
        ReasonCode.NODE_TOO_SMALL,
    }
)
"""Reasons of the workload and the fleet alone: time does not lift them."""


@dataclass(frozen=True)
class WaitingStatus:
    """What a record says of a workload that waits."""

    queue_position: int
    pending_reasons: dict[str, int]
    """ReasonCode → sites that it rules out."""
    summary: str
    expected_start: StartEstimate | None = None


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
        self._now_s = self.now_s = now_s
        self._known_at_sites: dict[tuple[int, int], tuple[Reason, ...]] = {}

    @cached_property
    def _round(self) -> Round:
        """The round that would run now, unless it has just been run."""
        return self._done or run_round(self._state, self._views, self._patterns, self._scorer, self._now_s)

    @cached_property
    def _now(self) -> Snapshot:
        return Snapshot.take(self._state, self._views)

    def explain(
        self, name: str, site_id: str = "", node: int | None = None, *, with_relaxations: bool = False
    ) -> Explanation:
        """Pending: reasons, conflict, candidates. Placed: candidates with the chosen one and why the others lost.

        `site_id` narrows the answer to one site, `node` to one machine of it. Relaxations are separate trials.

        Raises:
            NotFound: when `site_id` names no site.
        """
        state = self._state
        if site_id and site_id not in self._views.topology.site_index:
            raise NotFound.among("site", site_id, self._views.topology.site_index)
        index = state.index_of[name]
        rows = np.arange(state.rows_of(index).start, state.rows_of(index).stop)
        waiting = rows[state.replicas["phase"][rows] == Phase.WAITING]
        now = state.workload_state(name)
        assert now is not None
        candidates = self._candidates(rows, site_id)
        asked = site_id if node is None else self._node_name(node)
        if now.is_final or not len(waiting):
            return Explanation(
                workload=name,
                state=now.value,
                at_s=self._now_s,
                summary=self._why_not(rows, site_id, node, candidates) or _placed_summary(candidates, now),
                candidates=candidates,
                why_not=asked,
            )
        reasons = self._reasons(index, waiting, site_id)
        if node is not None:
            reasons = tuple(r for r in reasons if not r.site_id) + self._reasons_on(waiting, node)
        trials = self._trials(index, waiting)
        conflict = trials.conflict()
        position = self._queue_position(index)
        start = self._expected_start(index, waiting) if conflict else None
        relaxations = trials.relaxations(conflict, lambda: start) if with_relaxations else ()
        return Explanation(
            workload=name,
            state=now.value,
            at_s=self._now_s,
            summary=self._why_not(rows, site_id, node, candidates)
            or _pending_summary(len(waiting), reasons, conflict, position)
            + (NO_END if conflict and OCCUPIED in conflict and start is None else "")
            + self._stopped_text(waiting),
            reasons=reasons,
            conflict=conflict,
            candidates=candidates,
            relaxations=relaxations,
            why_not=asked,
            expected_start=start,
            queue_position=position,
            other_work_ahead_count=max(0, position - 1),
        )

    def waiting_status(self, name: str, *, with_start: bool = False) -> WaitingStatus | None:
        """Place, reasons and start of one workload; None for one of which nothing waits."""
        state = self._state
        index = state.index_of[name]
        own = state.rows_of(index)
        rows = np.arange(own.start, own.stop)
        waiting = rows[state.replicas["phase"][rows] == Phase.WAITING]
        now = state.workload_state(name)
        if now is None or now.is_final or not len(waiting):
            return None
        if {p.row for p in self._round.result.placed}.issuperset(waiting.tolist()):
            return WaitingStatus(self._queue_position(index), {}, "the next round places it")
        reasons = self._reasons(index, waiting, "")
        sites: dict[str, set[str]] = {}
        for r in reasons:
            sites.setdefault(r.code.value, set()).update(
                [r.site_id] if r.site_id else self._views.topology.site_ids
            )
        counts = {code: len(s) for code, s in sorted(sites.items())}
        start = self._expected_start(index, waiting) if with_start else None
        placed = len(rows) - len(waiting)
        who = f"{len(waiting)} of {len(rows)} replicas wait: " if placed else ""
        stopped = self._stopped_text(waiting)
        return WaitingStatus(self._queue_position(index), counts, who + self._brief(counts) + stopped, start)

    def _brief(self, counts: dict[str, int]) -> str:
        """What is short at the most sites, in a few words; a rule that no site meets only where nothing is short."""
        passing = {c: n for c, n in counts.items() if ReasonCode(c) not in LASTING}
        code = max(passing or counts, key=lambda c: (counts[c], c), default="")
        return f"{code.replace('_', ' ')} at {_count(counts[code], 'site')}" if code else ""

    def _template(self, index: int) -> Workload:
        return self._state.shapes.templates[int(self._state.workloads["shape"][index])]

    def _trials(self, index: int, waiting: NDArray[np.int64]) -> Trials:
        template = self._template(index)
        return Trials(
            Question(
                state=self._state,
                views=self._views,
                done=self._round,
                scorer=self._scorer,
                now_s=self._now_s,
                index=index,
                waiting=waiting,
                template=template,
                waits_for_price=template.deferrable and self._waits_for_price(waiting),
            )
        )

    # ---------------------------------------------------------------- why not there

    def _node_name(self, node: int) -> str:
        return "/".join(map(str, self._views.topology.node_name(node)))

    def _why_not(
        self,
        rows: NDArray[np.int64],
        site_id: str,
        node: int | None,
        candidates: tuple[Candidate, ...],
    ) -> str:
        """The answer to "why not there"; "" when no place was named."""
        if node is None:
            return _why_not_summary(site_id, candidates)
        here = f"node {self._node_name(node)}"
        if (self._state.replicas["node"][rows] == node).any():
            return f"{here}: it runs there"
        reasons = self._reasons_on(rows, node)
        if reasons:
            return f"{here}: {'; '.join(describe(r) for r in reasons)}"
        lost = _why_not_summary(site_id, candidates)
        return f"{here}: it could lie there; {lost}" if lost else f"{here}: it could lie there"

    def _reasons_on(self, rows: NDArray[np.int64], node: int) -> tuple[Reason, ...]:
        """Per stage every rule that keeps one of its replicas off this node, with what is free there."""
        topology = self._views.topology
        site, group = int(topology.node_site[node]), int(topology.node_group[node])
        found: list[Reason] = []
        for spec in np.unique(self._state.replicas["spec"][rows]).tolist():
            view = self._views[spec]
            if not view.group_ok[group]:
                found += reasons_of_group(view, group)
                continue
            here = replace(view, group_ok=np.arange(len(view.group_ok)) == group)
            for code in shortage_codes(self._round.snapshot, here, np.array([node])):
                if code is not ReasonCode.RESERVED_FOR_GANG:
                    found.append(self._now_reason(code, here, site, 0, np.array([node])))
            if not self._round.reservations.passes(np.array([node]), np.inf)[0]:
                found.append(self._now_reason(ReasonCode.RESERVED_FOR_GANG, here, site, 0, np.array([node])))
        return tuple(found)

    # ---------------------------------------------------------------- reasons

    def _reasons(self, index: int, waiting: NDArray[np.int64], site_id: str) -> tuple[Reason, ...]:
        """Of the workload as a whole, then per stage and site: the rules that exclude it, or what is short there."""
        state = self._state
        reasons = self._reasons_of_whole(index, waiting)
        for spec in np.unique(state.replicas["spec"][waiting]).tolist():
            wanted = int((state.replicas["spec"][waiting] == spec).sum())
            at_sites = self._reasons_at_sites(spec, wanted)
            reasons += [r for r in at_sites if not site_id or r.site_id == site_id]
        return tuple(reasons)

    def _reasons_at_sites(self, spec: int, wanted: int) -> tuple[Reason, ...]:
        """Of one stage, site by site; kept, for a list asks of many workloads alike."""
        known = self._known_at_sites.get((spec, wanted))
        if known is None:
            view, joint = self._views[spec], self._joint_sites(spec)
            found: list[Reason] = []
            for site in range(self._views.topology.site_count):
                found += view.site_reasons[site] or self._reasons_now(view, site, wanted, joint)
            known = self._known_at_sites[spec, wanted] = tuple(found)
        return known

    def _stopped_text(self, waiting: NDArray[np.int64]) -> str:
        """Why what waits no longer runs, the last stop first of all; "" for what was not told to stop."""
        stopped = [self._state.stopped[r] for r in waiting.tolist() if r in self._state.stopped]
        if not stopped:
            return ""
        last = max(stopped, key=lambda s: s.at_s)
        return f"; stopped at {self._views.topology.local_time(last.at_s)}: {last.cause}"

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
                    detail=self._views.topology.local_time(not_before_s),
                )
            )
        if template.deferrable and self._waits_for_price(waiting):
            reasons.append(Reason(code=ReasonCode.WAITS_FOR_PRICE, detail=self._waits_until(waiting)))
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

    def _waits_until(self, waiting: NDArray[np.int64]) -> str:
        """Until when it waits for a price, where its own rest decides that and not the plan."""
        until_s = int(rests_until_s(self._state, waiting, self._now_s).max())
        if until_s <= self._now_s:
            return "the plan starts it in a cheaper hour"
        return f"it rests until {self._views.topology.local_time(until_s)}, when electricity is cheaper"

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
        out = [self._now_reason(code, here, site, n, at) for code, n in codes.items()]
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

    def _now_reason(
        self, code: ReasonCode, here: SpecView, site: int, node_count: int, at: NDArray[np.int64]
    ) -> Reason:
        """One reason that depends on the moment, about the nodes `at` of one site."""
        return Reason(
            code=code,
            site_id=self._views.topology.site_ids[site],
            stage_id=here.spec.stage.stage_id,
            node_count=node_count,
            **self._numbers(code, here, site, at),
        )

    def _numbers(self, code: ReasonCode, here: SpecView, site: int, at: NDArray[np.int64]) -> dict[str, Any]:
        """Limit (for amounts the most that a node which is short has free), what is asked for, and whose rule it is."""
        topology, after, policy = self._views.topology, self._round.snapshot, self._state.policy
        nodes = after.nodes
        usable = at[nodes.up[at] & ~nodes.cordoned[at]]
        if code in AMOUNTS and len(usable):
            name, resource, per, unit = AMOUNTS[code]
            free = np.maximum(getattr(nodes, name)[usable], 0)
            free = free.sum(axis=1) if free.ndim > 1 else free
            needed = here.need[topology.node_group[usable], resource]
            short = free < needed if (free < needed).any() else np.ones(len(free), bool)
            most, asked = int(free[short].max()), int(needed[short].min())
            return {"limit": round(most / per, 3), "actual": round(asked / per, 3), "unit": unit}
        if code is ReasonCode.POWER_LIMIT:
            limit_w = float(topology.power_limit_w[site])
            least_w = float((here.watts + topology.group_idle_w)[here.group_ok].min())
            tightened = limit_w < float(topology.own_power_limit_w[site])
            return {
                "limit": round(limit_w / W_PER_KW, 3),
                "actual": round((limit_w - float(after.spare_w()[site]) + least_w) / W_PER_KW, 3),
                "unit": "kW",
                "detail": f"set by policy revision {policy.revision}" if tightened else "",
            }
        if code is ReasonCode.RESERVED_FLOOR:
            return {
                "limit": float(topology.site_reserved_floor_frac[site]),
                "unit": "of each node group",
                "detail": f"kept free for public services by policy revision {policy.revision}",
            }
        return {}

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
        return self._positions.get(index, 0)

    @cached_property
    def _turns(self) -> NDArray[np.int64]:
        """Rows that wait and may start, in the order of their turn."""
        blocks = in_order(self._state, heads(self._state, self._now_s), self._now_s)
        return np.concatenate(blocks) if blocks else np.zeros(0, np.int64)

    @cached_property
    def _positions(self) -> dict[int, int]:
        """Workload → place in the queue, from 1."""
        owners = self._state.replicas["workload"][self._turns]
        _, first = np.unique(owners, return_index=True)
        return {int(w): i + 1 for i, w in enumerate(owners[np.sort(first)].tolist())}

    def _expected_start(self, index: int, waiting: NDArray[np.int64]) -> StartEstimate | None:
        """None when no declared end makes room for it; beside its owner for work that waits for a shared stage."""
        template = self._template(index)
        owner = self._waits_for_owner(index)
        if owner is not None:
            return self._after_owner(owner)
        trials = self._trials(index, waiting)
        forecast = StartForecast(
            self._state,
            self._round,
            self._now_s,
            lambda snapshot, at_s, ends: trials.attempt(snapshot, template, trials.costs, at_s, ends),
        )
        return forecast.expected_start(index, waiting, template, self._queue_with(index, waiting))

    def _waits_for_owner(self, index: int) -> int | None:
        """The workload whose stage it shares and which does not run yet."""
        lies, state = stage_sites(self._state, index), self._state
        for stage in self._template(index).stages:
            if stage.shared_with is not None and stage.stage_id not in lies:
                return state.index_of.get(stage.shared_with)
        return None

    def _after_owner(self, owner: int) -> StartEstimate | None:
        """As its owner, and one round later at the latest; None where nothing is known of that one."""
        own = self._state.rows_of(owner)
        rows = np.arange(own.start, own.stop)
        waiting = rows[self._state.replicas["phase"][rows] == Phase.WAITING]
        if not len(waiting) or self._waits_for_owner(owner) is not None:
            return None
        start = self._expected_start(owner, waiting)
        if start is None:
            return None
        return StartEstimate(
            earliest_at_s=start.earliest_at_s,
            likely_at_s=start.likely_at_s,
            latest_at_s=start.latest_at_s + START_MARGIN_S,
            assumption=f"it starts beside {self._state.names[owner]}, whose stage it shares; {start.assumption}",
        )

    def _queue_with(self, index: int, waiting: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows left waiting that compete for the same groups, and the waiting ones; what may be put off gives way."""
        columns, replicas = self._state.shapes.columns, self._state.replicas
        placed = np.array([p.row for p in self._round.result.placed], np.int64)
        rows = np.union1d(self._turns, waiting)
        rows = rows[~np.isin(rows, placed) | np.isin(rows, waiting)]
        spec = replicas["spec"][rows]
        wanted = np.any(
            [self._views[s].group_ok for s in np.unique(replicas["spec"][waiting]).tolist()], axis=0
        )
        rivals = {s: bool((self._views[s].group_ok & wanted).any()) for s in np.unique(spec).tolist()}
        keep = np.array([rivals[s] for s in spec.tolist()], bool)
        if not self._template(index).deferrable or urgent(self._state, waiting, self._now_s).any():
            keep &= ~columns["deferrable"][spec] | self._started_in_time(rows)
        queue: NDArray[np.int64] = rows[keep | np.isin(rows, waiting)]
        return queue

    def _started_in_time(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(rows,) deferrable rows that the plan does not hold back now: they have their turn like any other work."""
        replicas, simple = self._state.replicas, self._state.shapes.columns["simple"]
        spec, owner = replicas["spec"][rows], replicas["workload"][rows]
        out = urgent(self._state, rows, self._now_s)
        for s in np.unique(spec[~out & self._state.shapes.columns["deferrable"][spec]]).tolist():
            mine = rows[spec == s]
            wanted = self._scorer.may_start_deferred(s, self._now)
            if simple[s]:
                out |= np.isin(rows, released(self._state, mine, wanted, self._now_s))
                continue
            for w in np.unique(owner[spec == s]).tolist():
                whole = mine[replicas["workload"][mine] == w]
                if whole_is_released(self._state, whole, wanted, self._now_s):
                    out |= owner == w
        return out

    # ---------------------------------------------------------------- candidates

    def _candidates(self, rows: NDArray[np.int64], site_id: str) -> tuple[Candidate, ...]:
        """Every site (or the named one) for each stage: chosen, lost, or ruled out."""
        out: list[Candidate] = []
        without = self._without(rows)
        for spec in np.unique(self._state.replicas["spec"][rows]).tolist():
            out += self._candidates_of(spec, rows, site_id, without)
        return tuple(out)

    def _without(self, rows: NDArray[np.int64]) -> Snapshot:
        """The world as it would be without these replicas: a node that only they keep awake has to be woken again,
        so that what the chosen site costs and what another would cost are told alike."""
        replicas = self._state.replicas
        placed = rows[replicas["node"][rows] >= 0]
        if not len(placed):
            return self._now
        without = self._now.copy()
        without.give_back(*(replicas[c][placed].astype(np.int64) for c in ("spec", "node", "gpu_mask")))
        return without

    def _candidates_of(
        self, spec: int, rows: NDArray[np.int64], site_id: str, now: Snapshot
    ) -> list[Candidate]:
        state, topology = self._state, self._views.topology
        view, joint = self._views[spec], self._joint_sites(spec)
        mine = rows[state.replicas["spec"][rows] == spec]
        on = state.replicas["node"][mine]
        chosen = {int(topology.node_site[n]) for n in on[on >= 0]}
        # what waits has to fit beside what is placed of the same workload
        beside = self._now if (on < 0).any() else now
        site_cost, wake_cost = self._site_costs(view, now)
        has_legs, by_plan = bool(zone_legs(view.spec)), bool(self._scorer.quota(spec, self._now))
        is_open = self._scorer.open_sites(now)
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
            is_priced = own is not None and np.isfinite(own) and bool(is_open[site])
            short = shortage_codes(now, replace(view, group_ok=here)) if feasible else Counter()
            out.append(
                Candidate(
                    site_id=topology.site_ids[site],
                    stage_id=view.spec.stage.stage_id,
                    chosen=site in chosen,
                    feasible=feasible,
                    rtt_p99_ms=_finite(view.rtt_p99_ms[site]) if has_legs else None,
                    power_w=round(float(view.watts[here].min()), 1) if feasible else None,
                    ipue_marginal=round(float(self._marginal_ipue[site]), 4),
                    cost_yuan_per_hour=round(own, 6) if own is not None and is_priced else None,
                    cost_terms_yuan_per_hour=_terms(own, float(wake_cost[site]))
                    if own is not None and is_priced
                    else {},
                    reasons=reasons,
                    lost_because=_lost(
                        site in chosen,
                        reasons,
                        own,
                        best,
                        short,
                        _has_room(view, here, short, now),
                        bool(is_open[site]),
                        by_plan,
                    ),
                    has_room=feasible and self._room_beside(view, here, beside),
                )
            )
        return sorted(
            out, key=lambda c: (not c.chosen, not c.feasible, c.cost_yuan_per_hour or np.inf, c.site_id)
        )

    def _room_beside(self, view: SpecView, here: NDArray[np.bool_], beside: Snapshot) -> bool:
        return _has_room(view, here, shortage_codes(beside, replace(view, group_ok=here)), beside)

    @cached_property
    def _marginal_ipue(self) -> NDArray[np.float64]:
        return marginal_ipue(self._state, self._now_s)

    def _site_costs(self, view: SpecView, now: Snapshot) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(S,) yuan per hour of one more replica on the cheapest node that holds it, and how much of that is waking it.

        Where no node has room now, on the cheapest of those that could hold it.
        """
        topology = self._views.topology
        at = now.nodes_of(view.group_ok)
        energy = self._scorer.energy_yuan_per_hour(view, now)[topology.node_group[at]]
        wake = self._scorer.node_cost(view, now)[at]
        site = topology.node_site[at]
        full = now.fit(view, at) <= 0
        first = np.unique(site[order := np.lexsort((at, energy + wake, full, site))], return_index=True)[1]
        best = order[first]
        total, waking = np.full(topology.site_count, np.inf), np.zeros(topology.site_count)
        total[site[best]], waking[site[best]] = (energy + wake)[best], wake[best]
        return total, waking


def _has_room(view: SpecView, groups: NDArray[np.bool_], short: Counter[ReasonCode], now: Snapshot) -> bool:
    """Whether one more replica finds a node with room, power and links there."""
    fits = int((now.fit(view, now.nodes_of(groups)) > 0).sum())
    return fits > short[ReasonCode.POWER_LIMIT] and not short[ReasonCode.LINK_FULL]


MAX_SAMPLES = 5


def sample_reasons(
    state: ClusterState, snapshot: Snapshot, placed: Sequence[int], now_s: int
) -> tuple[Reason, ...]:
    """What keeps the stages waiting of which most replicas were left over: one reason each, the most widespread."""
    rows = heads(state, now_s)
    rows = rows[~np.isin(rows, placed)]
    found = []
    for spec, count in Counter(state.replicas["spec"][rows].tolist()).most_common(MAX_SAMPLES):
        view = snapshot.views[spec]
        code, nodes = shortage_codes(snapshot, view).most_common(1)[0]
        workload = view.spec.workload
        kind = workload.workload_class or workload.kind.value
        found.append(
            Reason(
                code=code,
                stage_id=view.spec.stage.stage_id,
                node_count=nodes,
                detail=f"{_count(count, 'replica')} of {kind} left over",
            )
        )
    return tuple(found)


def _terms(total: float, wake: float) -> dict[str, float]:
    return {"energy": round(total - wake, 6), **({"wake": round(wake, 6)} if wake else {})}


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
    is_open: bool,
    by_plan: bool,
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
    if not is_open:
        return "the plan keeps this site closed"
    if cost is not None and best is not None and cost > best + SAME_COST_YUAN:
        return f"dearer by {cost - best:.4f} yuan/h"
    if best is None:
        return "open; nothing is placed yet"
    if cost is not None and cost < best - SAME_COST_YUAN:
        why = "but the plan wants its replicas elsewhere" if by_plan else "but not when the work was placed"
        return f"cheaper by {best - cost:.4f} yuan/h now, {why}"
    return "no better than the chosen site"


def describe(reason: Reason) -> str:
    """A reason in words, with its numbers."""
    text = reason.code.value.replace("_", " ")
    if reason.actual is not None and reason.limit is not None:
        text += f" ({reason.actual:g} against {reason.limit:g} {reason.unit})".replace(" )", ")")
        if reason.node_count and not reason.detail:
            text += f" on {_count(reason.node_count, 'node')}"
    elif reason.node_count and not reason.detail:
        text += f" on {_count(reason.node_count, 'node')}"
    return f"{text}: {reason.detail}" if reason.detail else text


def _placed_summary(candidates: tuple[Candidate, ...], state: WorkloadState) -> str:
    chosen = list(dict.fromkeys(c.site_id for c in candidates if c.chosen))
    sites = {c.site_id for c in candidates}
    # of several stages all
    suits = sites - {c.site_id for c in candidates if not c.feasible}
    roomy = sites - {c.site_id for c in candidates if not c.has_room}
    verb = "satisfies its rules" if len(sites) == 1 else "satisfy its rules"
    has = "has" if len(roomy) == 1 else "have"
    found = f"{len(suits)} of {_count(len(sites), 'site')} {verb}, {len(roomy)} {has} room now"
    return f"runs at {', '.join(chosen)}; {found}" if chosen else f"{state.value}; {found}"


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


__all__ = ["Explainer", "WaitingStatus", "describe", "sample_reasons"]
