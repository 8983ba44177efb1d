"""Trials: would this waiting workload be placed if some of its rules did not hold? Nothing is decided here.

    conflict       a minimal set of rules that together keep it waiting
    relaxations    the smallest changes that would let it start, each verified by placing again, with its price

The conflict is found by deletion: starting from all rules that bind the workload, a rule is dropped for good when what
remains still blocks it, so dropping any one of the rest makes it placeable. Trials run on the fleet as the next round
would leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.outlook import CalendarOutlook
from scheduler.domain.shapes import Spec
from scheduler.domain.state import ClusterState
from scheduler.domain.topology import Topology, under_policy
from scheduler.planner.feasibility import SpecView, Views, keeps_off_floor, takes_turns, view_spec
from scheduler.planner.learn import scaled, thetas
from scheduler.planner.patterns import Patterns, enumerate_patterns
from scheduler.planner.relax import (
    IN_TURNS,
    LIMITS,
    MOMENT_RULES,
    OCCUPIED,
    OUTAGE,
    PRICE,
    RESERVED,
    SHARED,
    TOO_LARGE,
    WINDOW,
    DroppableRule,
    flow_text,
    path_text,
    rules_of,
    with_flow_limit,
    with_path_budget,
)
from scheduler.planner.reserve import Ends
from scheduler.planner.round import PatternCache, Placed, Round
from scheduler.planner.scoring import Scorer
from scheduler.planner.snapshot import Snapshot
from solvers.facility import facility_power_kw
from suanli.model import Policy, Relaxation, StartEstimate, Workload
from suanli.model.units import MILLI, SECONDS_PER_HOUR, SECONDS_PER_MINUTE, W_PER_KW

Amount = TypeVar("Amount", np.int64, np.float64, np.bool_)

MAX_RELAXED_TENTHS_MS = 20_000
WATTS_ROUNDED = 10.0
"""Power limits are proposed in steps of 10 W, rounded up."""
MAX_CAP = 5.0
"""No policy may name a higher cap."""
CAP_STEPS_PER_UNIT = 100
"""Caps are proposed in hundredths, rounded up, as policies name them."""
FLOOR_STEPS_PER_UNIT = 100
"""Floors are proposed in whole per cent, rounded down."""


@dataclass
class FlatScorer:
    """Everything costs the same: a trial asks whether, not where."""

    chunk: int = 0

    def group_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(G,) zeros."""
        return np.zeros(len(snapshot.topology.group_ids))

    def energy_yuan_per_hour(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(G,) zeros."""
        return np.zeros(len(snapshot.topology.group_ids))

    def open_sites(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """(S,) all."""
        return np.ones(snapshot.topology.site_count, bool)

    def node_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(N,) zeros."""
        return np.zeros(snapshot.topology.node_count)

    def quota(self, spec: int, snapshot: Snapshot) -> dict[int, float]:
        """No wish."""
        return {}

    def may_start_deferred(self, spec: int, snapshot: Snapshot) -> int | None:
        """All."""
        return None


@dataclass
class CostScorer(FlatScorer):
    """The costs of another scorer, without its quotas and deferrals: a trial that asks where it would lie."""

    costs: Scorer | None = None

    def group_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(G,) as that scorer has them."""
        assert self.costs is not None
        return self.costs.group_cost(view, snapshot)

    def energy_yuan_per_hour(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(G,) as that scorer has them."""
        assert self.costs is not None
        return self.costs.energy_yuan_per_hour(view, snapshot)

    def open_sites(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """(S,) as that scorer has them."""
        assert self.costs is not None
        return self.costs.open_sites(snapshot)

    def node_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(N,) as that scorer has them."""
        assert self.costs is not None
        return self.costs.node_cost(view, snapshot)


@dataclass(frozen=True)
class Question:
    """What trials are run on: one waiting workload, and the round that left it waiting."""

    state: ClusterState
    views: Views
    done: Round
    scorer: Scorer
    now_s: int
    index: int
    waiting: NDArray[np.int64]
    template: Workload
    waits_for_price: bool


class Trials:
    """Placement attempts of one waiting workload with some of its rules dropped or changed."""

    def __init__(self, asked: Question) -> None:
        self._asked = asked
        self._state, self._now_s = asked.state, asked.now_s
        self._index, self._waiting, self._template = asked.index, asked.waiting, asked.template
        self._rules = {r.text: r for r in rules_of(asked.template, asked.views.topology.gpu_models)}

    @property
    def _topology(self) -> Topology:
        return self._asked.views.topology

    # ---------------------------------------------------------------- conflict

    def conflict(self) -> tuple[str, ...]:
        """A minimal set of rules that together keep the workload waiting; () when the next round places it."""
        if self._would_start():
            return ()
        rules = [*self._rules, *self._moment_rules()]
        if self.places(frozenset(rules)):
            return ()
        kept = list(rules)
        for rule in rules:
            if not self.places(frozenset(kept) - {rule}):
                kept.remove(rule)
        if kept:
            return tuple(kept)
        return (IN_TURNS,) if takes_turns(self._template) else (TOO_LARGE,)

    def _would_start(self) -> bool:
        placed = {p.row for p in self._asked.done.result.placed}
        return placed.issuperset(self._waiting.tolist())

    def _moment_rules(self) -> list[str]:
        rules = []
        if int(self._state.workloads["not_before_s"][self._index]) > self._now_s:
            rules.append(WINDOW)
        if self._template.deferrable and self._asked.waits_for_price:
            rules.append(PRICE)
        if any(s.shared_with is not None for s in self._template.stages):
            rules.append(SHARED)
        is_bound = (
            self._topology.fleet != self._topology.registered
            or self._topology.reserved_floor_frac is not None
        )
        return [*rules, *(r for r in MOMENT_RULES if is_bound or r is not LIMITS)]

    @cached_property
    def all_rules(self) -> frozenset[str]:
        """Every rule that binds the workload now."""
        return frozenset([*self._rules, *self._moment_rules()])

    # ---------------------------------------------------------------- one trial

    def places(self, rules: frozenset[str]) -> bool:
        """Whether the waiting replicas could all start now under only these rules."""
        relaxed = self._template
        for text, rule in self._rules.items():
            if text not in rules:
                relaxed = rule.drop(relaxed)
        return self._try(relaxed, rules) is not None

    def _try(
        self,
        relaxed: Workload,
        rules: frozenset[str],
        *,
        rows: NDArray[np.int64] | None = None,
        change: Callable[[Snapshot], None] | None = None,
        scorer: FlatScorer | None = None,
    ) -> Round | None:
        """A round that has placed the rows under these rules; None when it could not. `change` edits the fleet."""
        if WINDOW in rules or PRICE in rules:
            return None
        if SHARED not in rules:
            stages = tuple(s.model_copy(update={"shared_with": None}) for s in relaxed.stages)
            relaxed = relaxed.model_copy(update={"stages": stages})
        snapshot = self._snapshot(rules)
        if change is not None:
            change(snapshot)
        attempt = self.attempt(snapshot, relaxed, scorer)
        if RESERVED in rules:
            attempt.reservations = self._asked.done.reservations.over(snapshot)
        placed = attempt.fits_together(self._waiting if rows is None else rows, relaxed)
        return attempt if placed else None

    def attempt(
        self,
        snapshot: Snapshot,
        relaxed: Workload,
        scorer: FlatScorer | None = None,
        at_s: int | None = None,
        declared: Ends | None = None,
    ) -> Round:
        """A round of this workload, as relaxed, over a snapshot that becomes its own; at another instant if named.

        Gangs keep nodes in it only where `declared` says when what the snapshot holds ends.
        """
        shape = int(self._state.workloads["shape"][self._index])
        own = [
            Spec(s, shape, i, stage, relaxed)
            for i, (s, stage) in enumerate(
                zip(self._state.shapes.specs_of_shape[shape], relaxed.stages, strict=True)
            )
        ]
        views = _TrialViews(self._asked.views, [view_spec(s, self._topology) for s in own])
        snapshot.views = views
        patterns = _TrialPatterns(views, relaxed, shape)
        return Round(
            self._state,
            snapshot,
            patterns,
            scorer or FlatScorer(),
            self._now_s if at_s is None else at_s,
            is_trial=True,
            declared=declared,
        )

    def _snapshot(self, rules: frozenset[str]) -> Snapshot:
        """The fleet after the round, without policy, outages or other work where those rules are dropped."""
        done = self._asked.done
        snapshot = done.snapshot.copy()
        for p in done.result.placed:
            if p.row in self._rows:
                view = self._asked.views[int(self._state.replicas["spec"][p.row])]
                snapshot.take_node(view, p.node, p.gpu_mask, -1)
        if LIMITS not in rules:
            snapshot.topology, snapshot.low_used = self._unbound, None
        if OUTAGE not in rules:
            snapshot.nodes.up[:] = True
            snapshot.nodes.cordoned[:] = False
        if OCCUPIED not in rules:
            _empty(snapshot)
            self._put_own_back(snapshot)
        return snapshot

    @cached_property
    def _unbound(self) -> Topology:
        """The fleet as registered, bound by no policy."""
        return under_policy(self._topology, Policy())

    @cached_property
    def _rows(self) -> frozenset[int]:
        return frozenset(self._waiting.tolist())

    def _put_own_back(self, snapshot: Snapshot) -> None:
        rows = self._state.rows_of(self._index)
        for row in range(rows.start, rows.stop):
            node = int(self._state.replicas["node"][row])
            if node >= 0:
                view = self._asked.views[int(self._state.replicas["spec"][row])]
                snapshot.take_node(view, node, int(self._state.replicas["gpu_mask"][row]))

    # ---------------------------------------------------------------- relaxations

    def relaxations(
        self, conflict: Sequence[str], start: Callable[[], StartEstimate | None]
    ) -> tuple[Relaxation, ...]:
        """One change at a time, all other rules kept: cheapest first. `start` is asked only where waiting helps."""
        if not conflict or TOO_LARGE in conflict or IN_TURNS in conflict:
            return ()
        found: list[Relaxation] = []
        for i, flow in enumerate(self._template.flows):
            if flow.rtt_p99_max_ms is not None and flow_text(flow) in conflict:
                text, field = flow_text(flow), f"flows[{i}].rtt_p99_max_ms"
                found += self._latency(text, field, flow.rtt_p99_max_ms, with_flow_limit, i)
        for i, path in enumerate(self._template.paths):
            if path_text(path) in conflict:
                text, field = path_text(path), f"paths[{i}].budget_ms"
                found += self._latency(text, field, path.budget_ms, with_path_budget, i)
        for rule in self._rules.values():
            if rule.text in conflict and rule.field:
                found += self._dropped(rule)
        found += self._smaller_gang()
        if LIMITS in conflict:
            found += self._power_limits() + self._floors()
        if OUTAGE in conflict:
            found += self._sites_back()
        if SHARED in conflict:
            found += self._own_stages()
        if WINDOW in conflict or PRICE in conflict:
            found += self._sooner() + self._hourly_caps()
        elif not {OCCUPIED, RESERVED, SHARED}.isdisjoint(conflict):
            found += self._later(start())
        return tuple(sorted(found, key=lambda r: (np.inf if r.price_yuan is None else r.price_yuan, r.field)))

    def _latency(
        self,
        text: str,
        field: str,
        limit_ms: float,
        changed: Callable[[Workload, int, float], Workload],
        index: int,
    ) -> list[Relaxation]:
        """Smallest larger limit, to a tenth of a millisecond, under which the workload is placed."""
        rules = self.all_rules
        low, high = round(limit_ms * 10), round(limit_ms * 10) + 1
        while self._try(changed(self._template, index, high / 10), rules) is None:
            low, high = high, high * 2
            if high > MAX_RELAXED_TENTHS_MS:
                return []
        while high - low > 1:
            middle = (low + high) // 2
            if self._try(changed(self._template, index, middle / 10), rules) is not None:
                high = middle
            else:
                low = middle
        attempt = self._try(changed(self._template, index, high / 10), rules, scorer=self.costs)
        return self._relaxation(
            f"{text} relaxed to {high / 10:g} ms", field, attempt, limit_ms, high / 10, "ms"
        )

    def _dropped(self, rule: DroppableRule) -> list[Relaxation]:
        """The workload without one of its other rules; the answer names where it would then lie."""
        attempt = self._try(rule.drop(self._template), self.all_rules, scorer=self.costs)
        where = "" if attempt is None else ", ".join(self._sites_of(attempt.result.placed))
        return self._relaxation(f"without “{rule.text}” it would start at {where}", rule.field, attempt)

    def _smaller_gang(self) -> list[Relaxation]:
        """The largest part of a gang that starts now."""
        stage = self._template.stages[0]
        held = not self.all_rules.isdisjoint({WINDOW, PRICE})  # a smaller one would be held back, too
        if held or len(self._template.stages) > 1 or not stage.gang or len(self._waiting) < 2:
            return []
        loose = self._template.model_copy(update={"stages": (stage.model_copy(update={"gang": False}),)})
        low, high = 0, len(self._waiting)
        best: Round | None = None
        while high - low > 1:
            middle = (low + high) // 2
            attempt = self._try_on_one_pool(loose, middle)
            if attempt is None:
                high = middle
            else:
                low, best = middle, attempt
        if best is None:
            return []
        text = f"{stage.stage_id}: a gang of {low} instead of {len(self._waiting)}"
        return self._relaxation(text, "stages[0].replicas", best, len(self._waiting), low, "replicas")

    def _try_on_one_pool(self, loose: Workload, count: int) -> Round | None:
        """So many replicas together on one group of nodes."""
        view = self._asked.views[int(self._state.replicas["spec"][self._waiting[0]])]
        cost = self._asked.scorer.group_cost(view, self._asked.done.snapshot)
        for group in sorted(view.candidate_groups.tolist(), key=lambda g: (cost[g], g)):
            snapshot = self._snapshot(self.all_rules)
            attempt = self.attempt(snapshot, loose, self.costs)
            if RESERVED in self.all_rules:
                attempt.reservations = self._asked.done.reservations.over(snapshot)
            only = np.arange(len(view.group_ok)) == group
            if not len(attempt.place_on(self._waiting[:count], only)):
                return attempt
        return None

    def _power_limits(self) -> list[Relaxation]:
        """Per site whose limit the policy tightens: the smallest limit there that would do."""
        found = []
        for site in np.flatnonzero(self._topology.power_limit_w < self._topology.own_power_limit_w).tolist():
            own_w = float(self._topology.own_power_limit_w[site])
            attempt = self._try(
                self._template, self.all_rules, change=partial(_limit_power, site=site, limit_w=own_w)
            )
            if attempt is None:
                continue
            after = attempt.snapshot
            drawn_w = float(after.idle_w[site] + after.dynamic_w[site])
            now_w = float(self._topology.power_limit_w[site])
            wanted_w = min(own_w, float(np.ceil(drawn_w / WATTS_ROUNDED) * WATTS_ROUNDED))
            attempt = self._try(
                self._template,
                self.all_rules,
                change=partial(_limit_power, site=site, limit_w=wanted_w),
                scorer=self.costs,
            )
            site_id = self._topology.site_ids[site]
            found += self._relaxation(
                f"power limit at {site_id} {now_w / W_PER_KW:g} → {wanted_w / W_PER_KW:g} kW",
                f"policy.sites[sites/{site_id}].power_limit_kw",
                attempt if wanted_w > now_w else None,
                now_w / W_PER_KW,
                wanted_w / W_PER_KW,
                "kW",
            )
        return found

    def _hourly_caps(self) -> list[Relaxation]:
        """Per site that could run it now but would then break its hourly cap: the cap that it would meet, how long.

        The work is placed there, and the plant as learned is read at the load that this makes, hour by hour in the
        weather foreseen, while the work runs and at most over the plan's horizon.
        """
        if PRICE not in self.all_rules or WINDOW in self.all_rules:
            return []
        found = []
        for site, facts in enumerate(self._topology.sites):
            cap = facts.caps.ipue_cap_hourly
            at_site = self._only_at(facts.site_id)
            if cap is None or at_site is None:
                continue
            attempt = self._try(at_site, self.all_rules - {PRICE}, scorer=self.costs)
            if attempt is None:
                continue
            above = np.flatnonzero((ipue := self._ipue_by_hour(attempt, site)) > cap)
            if not len(above) or ipue.max() > MAX_CAP:
                continue
            hours, wanted = (
                int(above[-1]) + 1,
                float(np.ceil(ipue.max() * CAP_STEPS_PER_UNIT) / CAP_STEPS_PER_UNIT),
            )
            found += self._relaxation(
                f"start now at {facts.site_id} with its hourly cap {cap:.2f} → {wanted:.2f} for {hours} h",
                f"policy.sites[sites/{facts.site_id}].caps.ipue_cap_hourly",
                attempt,
                cap,
                wanted,
                "kWh per kWh",
            )
        return found

    def _only_at(self, site_id: str) -> Workload | None:
        """The workload with every stage of its own at one site; None where its own rules name others."""
        if any(s.site_ids and site_id not in s.site_ids for s in self._template.stages):
            return None
        stages = tuple(
            s if s.shared_with is not None else s.model_copy(update={"site_ids": (site_id,)})
            for s in self._template.stages
        )
        return self._template.model_copy(update={"stages": stages})

    def _ipue_by_hour(self, attempt: Round, site: int) -> NDArray[np.float64]:
        """(hours,) facility ÷ IT power of a site at the load of an attempt, from now to the end of the work."""
        state, facts, after = self._state, self._topology.sites[site], attempt.snapshot
        left_s = float((state.replicas["work_s"] - state.replicas["done_work_s"])[self._waiting].max())
        horizon_s = min(left_s, state.policy.horizon_hours * SECONDS_PER_HOUR)
        at_s = self._now_s + SECONDS_PER_HOUR * np.arange(max(1, int(np.ceil(horizon_s / SECONDS_PER_HOUR))))
        outlook = CalendarOutlook(self._topology, state.forecast)
        theta = thetas(self._topology, state.learner)[site]
        it_kw = float(after.idle_w[site] + after.dynamic_w[site]) / W_PER_KW
        plants = [scaled(facts, theta, outlook.dry_bulb_c(t), outlook.wet_bulb_c(t)) for t in at_s.tolist()]
        return np.array([float(facility_power_kw(c, facts.rated_it_kw, it_kw)) / it_kw for c in plants])

    def _own_stages(self) -> list[Relaxation]:
        """With stages of its own in the place of those that it shares."""
        attempt = self._try(self._template, self.all_rules - {SHARED}, scorer=self.costs)
        where = "" if attempt is None else ", ".join(self._sites_of(attempt.result.placed))
        shared = [i for i, s in enumerate(self._template.stages) if s.shared_with is not None]
        names = ", ".join(self._template.stages[i].stage_id for i in shared)
        return self._relaxation(
            f"with {names} of its own it would start at {where}", f"stages[{shared[0]}].shared_with", attempt
        )

    def _floors(self) -> list[Relaxation]:
        """Per site with a reserved floor: the largest one in whole per cent that would do."""
        found = []
        floors = self._topology.site_reserved_floor_frac
        for site in np.flatnonzero(floors > 0).tolist():
            low, high = -1, int(np.ceil(floors[site] * FLOOR_STEPS_PER_UNIT))
            while high - low > 1:
                middle = (low + high) // 2
                frac = middle / FLOOR_STEPS_PER_UNIT
                if self._try(
                    self._template, self.all_rules, change=partial(_set_floor, site=site, floor_frac=frac)
                ):
                    low = middle
                else:
                    high = middle
            if low < 0:
                continue
            frac = low / FLOOR_STEPS_PER_UNIT
            attempt = self._try(
                self._template,
                self.all_rules,
                change=partial(_set_floor, site=site, floor_frac=frac),
                scorer=self.costs,
            )
            site_id = self._topology.site_ids[site]
            found += self._relaxation(
                f"reserved floor at {site_id} {floors[site]:.0%} → {frac:.0%}",
                f"policy.sites[sites/{site_id}].reserved_floor_frac",
                attempt,
                float(floors[site]),
                frac,
                "of each node group",
            )
        return found

    def _sites_back(self) -> list[Relaxation]:
        """Each site that is down or shut to new work, brought back alone."""
        nodes, node_site = self._asked.done.snapshot.nodes, self._topology.node_site
        shut = np.unique(node_site[~nodes.up | nodes.cordoned]).tolist()
        found = []
        for site in shut:
            is_down = bool((~nodes.up[node_site == site]).any())
            site_id = self._topology.site_ids[site]
            attempt = self._try(
                self._template,
                self.all_rules,
                change=partial(_bring_back, site=site),
                scorer=self.costs,
            )
            what = f"{site_id} comes back" if is_down else f"{site_id} is uncordoned"
            found += self._relaxation(what, f"sites/{site_id}", attempt)
        return found

    def _sooner(self) -> list[Relaxation]:
        """Start now, although its window has not opened or the plan holds it for a cheaper hour."""
        rules = self.all_rules
        found = []
        if WINDOW in rules:
            at_s = int(self._state.workloads["not_before_s"][self._index])
            attempt = self._try(self._template, rules - {WINDOW}, scorer=self.costs)
            sooner = _minutes(at_s - self._now_s)
            found += self._relaxation(f"start {sooner} sooner, now", "not_before_at", attempt)
        if PRICE in rules:
            attempt = self._try(self._template, rules - {PRICE}, scorer=self.costs)
            found += self._relaxation("start now instead of in a cheaper hour", "deferrable", attempt)
        return found

    def _later(self, start: StartEstimate | None) -> list[Relaxation]:
        """Wait for room that is declared to come free; the forecast of the start has placed it there."""
        if start is None or start.likely_at_s <= self._now_s or start.likely_at_s == start.latest_at_s:
            return []  # no instant ahead at which its turn is known to come
        delay_s = start.likely_at_s - self._now_s
        gpus = sum(
            self._state.spec(int(s)).stage.reference_gpu_milli / MILLI
            for s in self._state.replicas["spec"][self._waiting].tolist()
        )
        late_yuan = self._template.lateness_yuan_per_gpu_hour * gpus * delay_s / SECONDS_PER_HOUR
        return [
            Relaxation(
                change=f"start {_minutes(delay_s)} later, about {self._topology.local_time(start.likely_at_s)}",
                field="not_before_at",
                from_value=float(self._now_s),
                to_value=float(start.likely_at_s),
                unit="s since 1970",
                price_yuan=round(late_yuan, 4),
            )
        ]

    # ---------------------------------------------------------------- what a change costs

    @cached_property
    def costs(self) -> CostScorer:
        """The planner's own costs, to see where work would lie."""
        return CostScorer(costs=self._asked.scorer)

    def _relaxation(
        self,
        change: str,
        field: str,
        attempt: Round | None,
        from_value: float | None = None,
        to_value: float | None = None,
        unit: str = "",
    ) -> list[Relaxation]:
        if attempt is None:
            return []
        return [
            Relaxation(
                change=change,
                field=field,
                from_value=None if from_value is None else round(from_value, 6),
                to_value=None if to_value is None else round(to_value, 6),
                unit=unit,
                price_yuan=round(self._yuan(attempt), 4),
            )
        ]

    def _yuan(self, attempt: Round) -> float:
        """Energy of what the attempt placed, over what is left of its run and at most the plan's horizon.

        At today's marginal prices; waking a node counts its idle power.
        """
        state, topology = self._state, self._topology
        horizon_s = state.policy.horizon_hours * SECONDS_PER_HOUR
        before, woken, total = self._asked.done.snapshot, set[int](), 0.0
        for p in attempt.result.placed:
            view = attempt.snapshot.views[int(state.replicas["spec"][p.row])]
            energy_yuan = self.costs.energy_yuan_per_hour(view, before)
            yuan_per_hour = float(energy_yuan[topology.node_group[p.node]])
            if p.node not in woken:
                yuan_per_hour += float(self.costs.node_cost(view, before)[p.node])
                woken.add(p.node)
            left_s = float(state.replicas["work_s"][p.row] - state.replicas["done_work_s"][p.row])
            total += yuan_per_hour * min(left_s, horizon_s) / SECONDS_PER_HOUR
        return total

    def _sites_of(self, placed: Sequence[Placed]) -> list[str]:
        return sorted({self._topology.site_ids[int(self._topology.node_site[p.node])] for p in placed})


# ---------------------------------------------------------------------- changes of the fleet


def _limit_power(snapshot: Snapshot, site: int, limit_w: float) -> None:
    topology = snapshot.topology
    sites = list(topology.fleet.sites)
    sites[site] = sites[site].model_copy(update={"power_limit_kw": limit_w / W_PER_KW})
    snapshot.topology = replace(topology, fleet=topology.fleet.model_copy(update={"sites": tuple(sites)}))


def _set_floor(snapshot: Snapshot, site: int, floor_frac: float) -> None:
    floors = snapshot.topology.site_reserved_floor_frac.copy()
    floors[site] = floor_frac
    snapshot.topology = replace(snapshot.topology, site_reserved_floor_frac=floors)


def _bring_back(snapshot: Snapshot, site: int) -> None:
    here = snapshot.topology.node_site == site
    snapshot.nodes.up[here] = True
    snapshot.nodes.cordoned[here] = False


def _empty(snapshot: Snapshot) -> None:
    """The fleet as if nothing ran on it."""
    topology, nodes = snapshot.topology, snapshot.nodes
    capacity = topology.node_capacity
    nodes.cpu_milli[:], nodes.memory_mib[:], nodes.storage_gib[:] = (
        capacity[:, 0],
        capacity[:, 1],
        capacity[:, 3],
    )
    nodes.gpu_milli[nodes.gpu_milli >= 0] = MILLI
    snapshot.running[:] = 0
    snapshot.fold_running[:] = 0
    if snapshot.low_used is not None:
        snapshot.low_used[:] = 0
    snapshot.dynamic_w[:] = 0
    snapshot.idle_w[:] = 0
    snapshot.link_mbps[:] = 0
    snapshot.replica_count[:] = 0
    snapshot.empty_node[:] = True


def _minutes(seconds: float) -> str:
    minutes = max(1, round(seconds / SECONDS_PER_MINUTE))
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


# ---------------------------------------------------------------------- views and patterns of relaxed specs


class _TrialViews(Views):
    """Views in which the specs of one workload are replaced by relaxed ones."""

    def __init__(self, known: Views, views: Sequence[SpecView]) -> None:
        self.topology, self.root = known.topology, known.root
        self._known = known
        self._own = {v.spec.spec: v for v in views}

    def __getitem__(self, spec: int) -> SpecView:
        return self._own.get(spec) or self._known[spec]

    def watts(self) -> NDArray[np.float64]:
        return self._with_own(self._known.watts(), {s: v.watts for s, v in self._own.items()})

    def needs(self) -> NDArray[np.int64]:
        return self._with_own(self._known.needs(), {s: v.need for s, v in self._own.items()})

    def hub_mbps(self) -> NDArray[np.float64]:
        return self._known.hub_mbps()

    def off_floor(self) -> NDArray[np.bool_]:
        return self._with_own(self._known.off_floor(), {s: keeps_off_floor(v) for s, v in self._own.items()})

    @staticmethod
    def _with_own(known: NDArray[Amount], own: Mapping[int, NDArray[Amount] | bool]) -> NDArray[Amount]:
        out = known.copy()
        for spec, row in own.items():
            out[spec] = row
        return out

    def link_mbps_per_replica(self, spec: int) -> NDArray[np.float64]:
        return self._known.link_mbps_per_replica(spec)

    def most_mbps_per_replica(self, spec: int) -> NDArray[np.float64]:
        return self._known.most_mbps_per_replica(spec)


class _TrialPatterns(PatternCache):
    """Patterns of the relaxed workload; those of other shapes as they are."""

    def __init__(self, views: _TrialViews, workload: Workload, shape: int) -> None:
        super().__init__(views)
        self._workload, self._shape = workload, shape

    def of(self, state: ClusterState, shape: int) -> Patterns:
        if shape not in self._known:
            specs = state.shapes.specs_of_shape[shape]
            views = [self._views[s] for s in specs]
            workload = self._workload if shape == self._shape else state.shapes.templates[shape]
            self._known[shape] = enumerate_patterns(workload, views, self._views.topology)
        return self._known[shape]


__all__ = ["CostScorer", "FlatScorer", "Question", "Trials"]
