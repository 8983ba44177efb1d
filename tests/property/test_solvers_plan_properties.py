"""What must hold of every plan: the verifier agrees, more room never hurts, order and units do not matter."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solvers.plan_model import PlanLimits, solve_plan
from solvers.problem import Graph, GraphFlow, GraphPath, PlacementProblem, Terms
from solvers.proof import verify_proof
from solvers.solution import PlanSolution
from solvers.verify import verify_plan
from tests.plan_problems import NEVER, Town

some_towns = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
seeds = st.integers(0, 10**6)


def random_town(seed: int) -> Town:
    """Anything the problem can say, in small: caps of all kinds, outages, batch, gangs, graphs, links, odd shapes."""
    rng = np.random.default_rng(seed)

    def chance(p: float) -> bool:
        return bool(rng.random() < p)

    slots = int(rng.integers(1, 7))
    terms = Terms(
        portfolio_pue_cap_annual=1.5 if chance(0.3) else None,
        portfolio_is_hard=chance(0.5),
        ledger_load="legal" if chance(0.3) else "useful",
        carbon_yuan_per_kg=0.1 if chance(0.3) else 0.0,
        move_budget_count=2.0 if chance(0.3) else None,
    )
    town = Town(hours=tuple(float(h) for h in rng.choice([0.25, 1.0, 4.0], slots)), terms=terms)
    site_count = int(rng.integers(1, 5))
    town.leg_rtt_ms = {
        "z/pon": {f"s{i}": float(rng.uniform(1, 20)) for i in range(site_count) if chance(0.9)}
    }
    town.links = [("uplink", float(rng.uniform(5, 100)))]
    town.routes = [(0, "s0", "uplink")]
    for i in range(site_count):
        town.site(
            f"s{i}",
            is_edge=chance(0.6),
            may_close=chance(0.6),
            initially_on=chance(0.5),
            start_yuan=float(rng.choice([0.0, 1.0])),
            fixed_kw=float(rng.uniform(0, 5)),
            off_kw=0.0,
            loss_slope=float(rng.uniform(0, 0.6)),
            loss_square=float(rng.choice([0.0, 0.02])),
            price_yuan_per_kwh=rng.uniform(0.2, 1.2, slots),
            power_limit_kw=float(rng.choice([1.0, 5.0, 50.0])),
            ipue_cap_hourly=float(rng.choice([NEVER, 1.2, 1.6])),
            hourly_is_hard=chance(0.5),
            pue_cap_annual=float(rng.choice([NEVER, 1.3, 1.6])),
            annual_is_hard=chance(0.3),
            ledger_beta_kwh=float(rng.uniform(-2, 2)),
            demand_yuan_per_kw=float(rng.choice([0.0, 3.0])),
            reserved_floor_frac=float(rng.choice([0.0, 0.3])),
            labels={"kind": str(rng.choice(["a", "b"]))},
        )
        for j in range(int(rng.integers(1, 3))):
            outage = rng.integers(0, 4, slots) if chance(0.3) else np.full(slots, int(rng.integers(1, 6)))
            town.group(
                f"s{i}/g{j}",
                f"s{i}",
                node_count=outage,
                gpus=int(rng.choice([0, 2, 4])),
                gpu_model=str(rng.choice(["l20", "t4"])),
                idle_w=float(rng.choice([0.0, 300.0])),
                packing_yield=float(rng.choice([1.0, 0.8])),
                wake_yuan=float(rng.choice([0.0, 0.2])),
                initial_on_count=float(rng.integers(0, 3)),
                island_node_count=int(rng.choice([0, 1])),
            )
    for c in range(int(rng.integers(1, 7))):
        town.work(f"w{c}", **_random_work(rng, slots, [g["group_id"] for g in town.groups]))
    if chance(0.4):
        _add_twin(town, rng, slots)
    return town


def _random_work(rng: np.random.Generator, slots: int, groups: list[str]) -> dict[str, Any]:
    batch = rng.random() < 0.4
    work: dict[str, Any] = {
        "cpu": float(rng.choice([0.1, 1, 8, 20])),
        "gpu": [{}, {"l20": 0.3}, {"l20": 1.0, "t4": 2.0}][int(rng.integers(3))],
        "rank": int(rng.integers(0, 4)),
        "dynamic_w": float(rng.uniform(0, 300)),
        "gang_size": int(rng.choice([1, 1, 3])),
        "single_site": True,
        "single_island": bool(rng.random() < 0.3),
        "migration_yuan": float(rng.choice([0.0, 2.0])),
        "other_yuan": float(rng.choice([0.0, 0.1])),
        "unserved_yuan": float(rng.choice([0.0, 10.0, 1e5])),
        "running": {g: float(rng.integers(0, 3)) for g in groups if rng.random() < 0.3},
        "flows": [("z/pon", float(rng.choice([5.0, 15.0, 100.0])), 3.0)] if rng.random() < 0.5 else (),
        "require_any": ({"kind": "a"},) if rng.random() < 0.3 else (),
    }
    if batch:
        release = int(rng.integers(0, slots))
        work |= {
            "work_replica_h": float(rng.uniform(0.1, 40)),
            "release_slot": release,
            "deadline_slot": int(rng.integers(release, slots + 2)),
            "max_parallel": float(rng.integers(1, 20)),
        }
    else:
        work |= {"demand": np.round(rng.uniform(0, 12, slots)), "spread_sites": int(rng.choice([0, 2]))}
    return work


def _add_twin(town: Town, rng: np.random.Generator, slots: int) -> None:
    first = len(town.classes)
    for stage in range(2):
        town.work(f"stage{stage}", cpu=2, processing_ms=float(rng.uniform(1, 5)), rank=1)
    flows = (GraphFlow(0, 1, 5.0, float(rng.uniform(0.5, 2.0))),)
    paths = (GraphPath((-1, 0, 1), float(rng.uniform(5, 30))),)
    count = tuple(float(v) for v in rng.integers(0, 3, slots))
    town.graphs.append(Graph("twin", count, (first, first + 1), (1, 2), flows, paths))


def planned(problem: PlacementProblem) -> PlanSolution:
    plan = solve_plan(problem)
    assert plan.has_plan, plan.message
    return plan


@some_towns
@given(seeds)
def test_every_plan_obeys_every_rule_and_carries_a_valid_bound(seed):
    problem = random_town(seed).problem()
    plan = planned(problem)
    assert [str(v) for v in verify_plan(problem, plan)] == []
    fleet = plan.bound("fleet")
    assert fleet is not None and fleet.bound_yuan is not None


@some_towns
@given(seeds)
def test_a_ledger_never_credits_more_power_than_the_nodes_draw(seed):
    """Whatever resource is said to be the scarce one; and the certified bound counts as the plan does."""
    problem = random_town(seed).problem()
    scarce = np.random.default_rng(seed).integers(0, 4, problem.group_count)
    groups = dataclasses.replace(problem.groups, scarce_resource=tuple(scarce.tolist()))
    problem = dataclasses.replace(problem, groups=groups)
    plan = planned(problem)
    assert [str(v) for v in verify_proof(problem, plan)] == []
    assert (plan.useful_it_kw <= plan.it_kw * (1 + 1e-6) + 1e-6).all()


def levels_and_cost(problem: PlacementProblem, plan: PlanSolution) -> list[float]:
    """Levels in order, then cost of the program (the measure in which plans are optimal)."""
    hours, c = problem.slots.hours, problem.classes
    unserved = (plan.unserved_count * hours).sum(axis=1) * c.unserved_yuan_per_replica_h
    hard = problem.sites.hourly_is_hard
    caps = float(
        (plan.cap_excess_kw[hard] * hours).sum() + plan.ledger_debt_kwh[problem.sites.annual_is_hard].sum()
    )
    ranks = [float(unserved[c.priority_rank == r].sum()) for r in range(4)]
    fleet = plan.bound("fleet")
    assert fleet is not None
    return [ranks[0], caps, *ranks[1:], fleet.objective_yuan]


def quiet_town(seed: int) -> Town:
    """A town in which everything can be served, so that plans compare by cost alone."""
    town = random_town(seed)
    town.graphs.clear()
    town.classes = [w for w in town.classes if not w["class_id"].startswith("stage")]
    for work in town.classes:
        work |= {
            "flows": (),
            "require_any": (),
            "cpu": 0.5,
            "gpu": {},
            "spread_sites": 0,
            "single_island": False,
        }
        work["demand"] = np.minimum(work["demand"], 4)
    for group in town.groups:
        group |= {"node_count": 5}
    for site in town.sites:
        site |= {"power_limit_kw": 50.0, "hourly_is_hard": False, "annual_is_hard": False}
    town.terms = dataclasses.replace(town.terms, portfolio_is_hard=False)
    return town


@some_towns
@given(seeds)
def test_more_nodes_never_make_the_optimum_worse(seed):
    less, more = quiet_town(seed), quiet_town(seed)
    for group in more.groups:
        group["node_count"] = 9
    limits = PlanLimits(site_trials=500, warm_site_trials=500)
    before, after = (solve_plan(t.problem(), limits=limits) for t in (less, more))
    a, b = before.bound("fleet"), after.bound("fleet")
    assert a is not None and b is not None
    assert b.objective_yuan <= a.objective_yuan + 1e-4 * abs(a.objective_yuan) + 1e-6


@some_towns
@given(seeds)
def test_the_order_of_classes_and_groups_does_not_matter(seed):
    town, mixed = quiet_town(seed), quiet_town(seed)
    mixed.classes.reverse()
    mixed.groups.reverse()
    limits = PlanLimits(site_trials=500, warm_site_trials=500)
    a, b = (solve_plan(t.problem(), limits=limits).bound("fleet") for t in (town, mixed))
    assert a is not None and b is not None
    assert b.objective_yuan == _approx(a.objective_yuan)


@some_towns
@given(seeds)
def test_doubling_every_power_and_every_budget_doubles_the_energy_and_changes_no_decision(seed):
    """Halving the price keeps the money the same; loads, caps and ledgers scale with the power."""
    town, double = quiet_town(seed), quiet_town(seed)
    for site in double.sites:
        for name in ("fixed_kw", "off_kw", "rated_kw", "power_limit_kw", "ledger_beta_kwh", "demand_peak_kw"):
            site[name] = np.asarray(site[name]) * 2
        for name in ("price_yuan_per_kwh", "debt_yuan_per_kwh", "demand_yuan_per_kw"):
            site[name] = np.asarray(site[name]) / 2
    for group in double.groups:
        group["idle_w"] *= 2
    for work in double.classes:
        work["dynamic_w"] *= 2
    terms = town.terms
    double.terms = dataclasses.replace(
        terms,
        portfolio_debt_yuan_per_kwh=terms.portfolio_debt_yuan_per_kwh / 2,
        carbon_yuan_per_kg=terms.carbon_yuan_per_kg / 2,
    )
    limits = PlanLimits(site_trials=500, warm_site_trials=500)
    one, two = (solve_plan(t.problem(), limits=limits) for t in (town, double))
    a, b = one.bound("fleet"), two.bound("fleet")
    assert a is not None and b is not None
    assert b.objective_yuan == _approx(a.objective_yuan)
    assert two.it_kw.sum() >= 1.9 * one.it_kw.sum() - 1e-6 or one.cost.total_yuan == _approx(
        two.cost.total_yuan
    )


@some_towns
@given(seeds)
def test_a_plan_that_runs_already_needs_no_moves(seed):
    town = quiet_town(seed)
    for work in town.classes:
        work |= {"running": {}, "migration_yuan": 1.0}
    problem = town.problem()
    first = planned(problem)
    running = dataclasses.replace(problem.pairs, running_count=first.running_count[:, 0])
    sites = dataclasses.replace(problem.sites, initially_on=first.site_on[:, 0])
    again = planned(dataclasses.replace(problem, pairs=running, sites=sites))
    assert again.moved_count.sum() <= 1e-4


def _approx(value: float) -> Any:

    return pytest.approx(value, rel=1e-4, abs=1e-5)
