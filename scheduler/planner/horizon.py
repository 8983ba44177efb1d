"""The product's strategy: an hourly horizon plan, and rounds that follow its prices, quotas and open sites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from scheduler.domain.state import ClusterState
from scheduler.planner.compile import Compiled, balance_kwh, compile_problem, set_aside_kwh
from scheduler.planner.feasibility import Views
from scheduler.planner.learn import learn
from scheduler.planner.marginal import marginal_yuan_per_kwh
from scheduler.planner.round import shared_stage_sites
from scheduler.planner.scoring import GuidedScorer, Scorer
from scheduler.planner.strategy import PlanOutcome, PlanTask
from solvers.problem import PlacementProblem
from solvers.solution import BindingConstraint as SolverBinding
from solvers.solution import PlanSolution
from suanli.model import BindingConstraint, Bound, LedgerBalance, Plan, SolveStatus
from suanli.model.units import SECONDS_PER_HOUR, W_PER_KW

LEARN_EVERY_S = SECONDS_PER_HOUR
QUOTA_DIGITS = 4
KEPT_QUOTA = 1e-3
EMPTY_SITE_KW = 1e-6
SIGNIFICANT_DIGITS = 9
CERTIFIED = "certified"
"""Scope of the bound that `suanli verify` derives again from the certificate."""


@dataclass(frozen=True)
class PlannerSettings:
    """What an operator may set of the planner."""

    plan_wall_limit_s: float = 60.0
    pue_blind: bool = False


@dataclass(frozen=True)
class _Task(PlanTask):
    compiled: Compiled | None = None


class HorizonStrategy:
    """Plans on the whole hour and on site events; scores by marginal energy price."""

    name = "suanli"

    def __init__(self, settings: PlannerSettings | None = None) -> None:
        self._settings = settings or PlannerSettings()
        self.name = "pue-blind" if self._settings.pue_blind else "suanli"

    def learn(self, state: ClusterState, now_s: int) -> dict[str, Any] | None:
        """Once an hour, from the meters since the last time."""
        if state.topology is None or not state.recent_meters:
            return None
        if state.recent_meters[-1]["until_s"] - state.recent_meters[0]["from_s"] < LEARN_EVERY_S:
            return None
        return learn(state.topology, state.learner, state.recent_meters)

    def plan_due(self, state: ClusterState, now_s: int) -> bool:
        """Every `plan_every_s` on the whole interval, and after the policy or what sites are there has changed."""
        if state.topology is None:
            return False
        every = state.policy.plan_every_s
        return (
            now_s // every > state.guide.at_s // every or state.binding_revision > state.guide.base_revision
        )

    def begin_plan(self, state: ClusterState, views: Views, now_s: int) -> PlanTask:
        """Compile the problem."""
        # before the first plan there are no prices by which to choose a place for what many share and lies nowhere
        shared = (
            shared_stage_sites(state, views, self.scorer(state, state.guide.body, now_s), now_s)
            if state.guide.body
            else {}
        )
        compiled = compile_problem(
            state, views, now_s, pue_blind=self._settings.pue_blind, shared_sites=shared
        )
        return _Task(compiled.problem, now_s, self._settings.plan_wall_limit_s, compiled)

    def finish_plan(self, state: ClusterState, task: PlanTask, solution: PlanSolution) -> PlanOutcome:
        """The pool has checked the answer already; without a sound plan the previous guide stays in force."""
        assert isinstance(task, _Task) and task.compiled is not None
        plan_id = f"plans/{task.at_s}"
        problem = task.compiled.problem
        if not solution.has_plan:
            status = SolveStatus(solution.status.value)
            plan = Plan(
                plan_id=plan_id,
                at_s=task.at_s,
                horizon_s=0,
                status=status,
                policy_revision=problem.policy_revision,
                base_revision=problem.base_revision,
            )
            return PlanOutcome(plan, {}, state.guide.body, cut_off=solution.message or status.value)
        body = {
            "slot_start_s": [int(t) for t in problem.slots.start_s],
            "slot_hours": [float(h) for h in problem.slots.hours],
            "ledger": [b.model_dump(mode="json") for b in _ledger(state, problem, solution, task.at_s)],
            "cost": {k: round(float(v), 4) for k, v in vars(solution.cost).items()},
            "method": solution.method,
        }
        plan = _plan(state, task, problem, solution)
        # a plan from a lower rung is a plan, and what cut off the rungs above it is told all the same
        cut_off = "" if solution.method == "full" else solution.message or solution.method
        return PlanOutcome(plan, body, _guide(task.compiled, solution), cut_off=cut_off)

    def scorer(self, state: ClusterState, guide: dict[str, Any], now_s: int) -> Scorer:
        """From the guide; before the first plan from tariff and learned plants alone."""
        topology = state.topology
        assert topology is not None
        if guide:
            return GuidedScorer(
                marginal_yuan_per_kwh=np.array(guide["marginal_yuan_per_kwh"]),
                site_open=np.array(guide["site_open"]),
                fixed_yuan_per_hour=np.array(guide["fixed_yuan_per_hour"]),
                quotas={int(f): {int(g): x for g, x in q} for f, q in guide["quota"]},
                deferred_running={int(f): x for f, x in guide["deferred_running"]},
                has_plan=True,
            )
        marginal = marginal_yuan_per_kwh(state, now_s, pue_blind=self._settings.pue_blind)
        return GuidedScorer(marginal, np.ones(topology.site_count, bool), np.zeros(topology.site_count))


def _plan(state: ClusterState, task: PlanTask, problem: PlacementProblem, solution: PlanSolution) -> Plan:
    site_ids = problem.sites.site_id
    unplaced = solution.unserved_count[:, 0]
    return Plan(
        plan_id=f"plans/{task.at_s}",
        at_s=task.at_s,
        horizon_s=int(problem.slots.hours.sum() * SECONDS_PER_HOUR),
        policy_revision=problem.policy_revision,
        base_revision=problem.base_revision,
        status=SolveStatus(solution.status.value),
        bounds=_bounds(solution),
        sites_on={s: tuple(bool(x) for x in solution.site_on[i]) for i, s in enumerate(site_ids)},
        forecast_it_kw={
            s: tuple(round(float(x), 4) for x in solution.it_kw[i]) for i, s in enumerate(site_ids)
        },
        forecast_facility_kw={
            s: tuple(round(float(x), 4) for x in solution.facility_kw[i]) for i, s in enumerate(site_ids)
        },
        unplaced={
            problem.classes.class_id[c]: int(np.ceil(unplaced[c] - 1e-6))
            for c in np.flatnonzero(unplaced > 1e-3)
        },
        input_sha256=solution.problem_sha256,
        binding_constraints=_binding(solution),
        cap_exceeded_count=int((solution.cap_excess_kw > 0).sum()),
        cap_excess_kwh=round(float((solution.cap_excess_kw * problem.slots.hours).sum()), 4),
    )


def _bounds(solution: PlanSolution) -> tuple[Bound, ...]:
    """Those of the program, and the one that the certificate proves with arithmetic alone."""
    bounds = [
        Bound(
            model=b.model,
            scope=b.scope,
            objective_yuan=b.objective_yuan,
            bound_yuan=b.bound_yuan,
            gap_frac=b.gap_frac,
        )
        for b in solution.bounds
    ]
    certificate = solution.certificate
    if certificate is not None:
        bounds.append(
            Bound(
                model=certificate.model,
                scope=CERTIFIED,
                objective_yuan=certificate.objective_yuan,
                bound_yuan=certificate.bound_yuan,
                gap_frac=certificate.gap_frac,
            )
        )
    return tuple(bounds)


def _binding(solution: PlanSolution) -> tuple[BindingConstraint, ...]:
    """What binds, each rule and subject once, at its dearest slot; the dump beside the plan has every slot."""
    if solution.certificate is None:
        return ()
    dearest: dict[tuple[str, str], SolverBinding] = {}
    for b in solution.certificate.binding:
        key = (b.rule, b.subject)
        if key not in dearest or _worth(b) > _worth(dearest[key]):
            dearest[key] = b
    return tuple(
        BindingConstraint(
            constraint=f"{b.rule}[{b.subject}{'' if b.slot < 0 else f',slot={b.slot}'}]",
            value=_significant(b.value),
            limit=_significant(b.limit),
            unit=b.unit,
            shadow_price_yuan=None if b.price_yuan_per_unit is None else _significant(b.price_yuan_per_unit),
        )
        for b in dearest.values()
    )


def _worth(b: SolverBinding) -> float:
    """Price of one per cent more of the limit, so that rules of different units compare."""
    return (b.price_yuan_per_unit or 0.0) * abs(b.limit)


def _significant(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _ledger(
    state: ClusterState, problem: PlacementProblem, solution: PlanSolution, at_s: int
) -> list[LedgerBalance]:
    assert state.topology is not None
    out = []
    for i, site_id in enumerate(problem.sites.site_id):
        cap = float(problem.sites.pue_cap_annual[i])
        if np.isnan(cap):
            continue
        before = balance_kwh(state, site_id, cap)
        used = float(solution.ledger_used_kwh[i])
        aside_kwh = set_aside_kwh(state, state.topology.sites[i], float(problem.slots.hours.sum()), at_s)
        out.append(
            LedgerBalance(
                site_id=site_id,
                pue_cap_annual=cap,
                balance_before_kwh=round(before, 4),
                balance_after_kwh=round(before - used, 4),
                released_kwh=round(float(problem.sites.ledger_beta_kwh[i]) + aside_kwh, 4),
                used_kwh=round(used, 4),
                debt_kwh=round(max(0.0, float(solution.ledger_debt_kwh[i])), 4),
            )
        )
    return out


def _guide(compiled: Compiled, solution: PlanSolution) -> dict[str, Any]:
    """The first slot of the plan as rounds follow it: plain JSON, so that it lives in the log."""
    problem = compiled.problem
    now_running = solution.running_count[:, 0]
    fold = compiled.class_fold[problem.pairs.class_index]
    group = problem.pairs.group_index
    keep = now_running > KEPT_QUOTA
    quota: dict[int, dict[int, float]] = {}
    for f, g, x in zip(fold[keep].tolist(), group[keep].tolist(), now_running[keep].tolist(), strict=True):
        by_group = quota.setdefault(f, {})
        by_group[g] = round(by_group.get(g, 0.0) + x, QUOTA_DIGITS)
    deferrable = sorted({int(f) for f in compiled.class_fold[compiled.class_deferrable]})
    slots, ahead = problem.slots, compiled.class_deferrable[problem.pairs.class_index]
    deferred_ahead = {
        f: [
            [int(t), round(float(h), QUOTA_DIGITS), round(float(x), QUOTA_DIGITS)]
            for t, h, x in zip(
                slots.start_s,
                slots.hours,
                solution.running_count[ahead & (fold == f)].sum(axis=0),
                strict=True,
            )
        ]
        for f in deferrable
    }
    deferred = {
        f: round(max(float(now_running[fold == f].sum()), compiled.owed_running.get(f, 0.0)), QUOTA_DIGITS)
        for f in deferrable
    }
    sites = problem.sites
    price = sites.price_yuan_per_kwh[:, 0]
    fixed = (sites.fixed_kw[:, 0] - sites.off_kw[:, 0]) * price
    # where nothing runs the dual is degenerate, often 0, although the first kilowatt-hour costs what it costs
    is_empty = solution.it_kw[:, 0] <= EMPTY_SITE_KW
    first_kwh = price * (1.0 + sites.loss_slope[:, 0])
    # rounds fill a room whose ledger wants load first, but nobody wakes a node in order to burn power
    marginal = np.where(is_empty, first_kwh, np.maximum(solution.energy_yuan_per_kwh_it[:, 0], 0.0))
    idle_kw = np.bincount(
        problem.groups.site,
        problem.groups.initial_on_count * problem.groups.idle_w / W_PER_KW,
        minlength=problem.site_count,
    )
    closing = np.where(
        sites.initially_on & ~solution.site_on[:, 0] & sites.may_close, fixed + idle_kw * price, 0.0
    )
    return {
        "marginal_yuan_per_kwh": [round(float(x), 6) for x in marginal],
        "site_open": [bool(x) for x in solution.site_on[:, 0]],
        "fixed_yuan_per_hour": [round(float(x), 6) for x in fixed],
        "closing_yuan_per_hour": [round(float(x), 6) for x in closing],
        "quota": [[f, [[g, x] for g, x in sorted(q.items())]] for f, q in sorted(quota.items())],
        "deferred_running": [[f, x] for f, x in sorted(deferred.items())],
        "deferred_ahead": [[f, deferred_ahead[f]] for f in deferrable],
    }
