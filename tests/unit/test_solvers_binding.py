"""What binds a plan: every kind of rule is told where it binds, with the value that arithmetic of its own gives."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from solvers import binding
from solvers.binding import binding_constraints
from solvers.plan_model import solve_plan
from solvers.plan_rules import PlanOptions
from solvers.problem import Graph, GraphFlow, GraphPath, PlacementProblem, Terms
from solvers.proof import verify_proof
from solvers.solution import BindingConstraint, PlanSolution
from tests.plan_problems import Town


@dataclass(frozen=True)
class Case:
    """A town in which the rule binds; what is told, and its value worked out from the plan's arrays by hand."""

    rule: str
    town: Callable[[], Town]
    subject: str
    value: Callable[[PlanSolution], float]
    limit: float | Callable[[PlanSolution], float]
    unit: str
    slot: int = -1


def crowded() -> Town:
    """Two nodes of four GPUs, twelve wanted."""
    return Town().site("s").group("g", "s", node_count=2).work("llm", demand=12, gpu={"l20": 1.0})


def of_large_replicas() -> Town:
    """Three GPUs of four: two of them never share a node, and there are two nodes."""
    return Town().site("s").group("g", "s", node_count=2).work("llm", demand=3, gpu={"l20": 3.0})


def with_floor() -> Town:
    """A quarter of ten nodes is kept free for public services."""
    town = Town().site("s", reserved_floor_frac=0.25).group("g", "s")
    return town.work("llm", demand=40, gpu={"l20": 1.0})


def in_need_of_load() -> Town:
    """A tight hourly cap that the work alone misses: idle nodes help, up to the padding allowed."""
    site = Town().site("s", ipue_cap_hourly=1.5, power_limit_kw=50.0, fixed_kw=1.0)
    return site.group("g", "s").work("web", demand=16, dynamic_w=20.0)


def at_its_power_limit() -> Town:
    return Town().site("s", power_limit_kw=1.0).group("g", "s").work("web", demand=20)


def at_its_cap() -> Town:
    """The cap of 2.0 needs more load than there is: facility power stays above it, at a price."""
    site = Town().site("s", ipue_cap_hourly=2.0, hourly_is_hard=False)
    return site.group("g", "s", node_count=1).work("web", demand=2)


def in_debt() -> Town:
    return Town().site("s", pue_cap_annual=1.2, ledger_beta_kwh=0.1).group("g", "s").work("web", demand=2)


def edges_in_debt() -> Town:
    terms = Terms(portfolio_pue_cap_annual=1.2, portfolio_beta_kwh=0.1)
    return Town(terms=terms).site("s", is_edge=True).group("g", "s").work("web", demand=2)


def thin_link() -> Town:
    town = Town(leg_rtt_ms={"z/pon": {"s": 5.0}}).site("s").group("g", "s")
    town.links, town.routes = [("uplink", 16.0)], [(0, "s", "uplink")]
    return town.work("web", demand=6, flows=[("z/pon", 10.0, 4.0)])


def peak_so_far() -> Town:
    return Town().site("s", demand_yuan_per_kw=40.0, demand_peak_kw=0.5).group("g", "s").work("web", demand=8)


def narrow() -> Town:
    """Six replica-hours, at most three at once, two hours until the deadline."""
    town = Town(hours=(1, 1, 1)).site("s").group("g", "s")
    return town.work("render", work_replica_h=6, max_parallel=3, deadline_slot=2)


def released_late() -> Town:
    """Energy is cheapest in the two hours in which the work is released."""
    town = Town(hours=(1, 2, 1)).site("s", price_yuan_per_kwh=(0.5, 0.2, 0.9)).group("g", "s")
    return town.work("render", work_replica_h=2, release_slot=1)


def apart() -> Town:
    town = Town().site("a", price_yuan_per_kwh=0.5).site("b").group("a/g", "a").group("b/g", "b")
    return town.work("web", demand=4, spread_sites=2)


def few_moves() -> Town:
    """All eight would gain by leaving the dear site; two may."""
    town = Town(terms=Terms(move_budget_count=2.0))
    town.site("dear", price_yuan_per_kwh=9.0, may_close=False).site("cheap", price_yuan_per_kwh=0.1)
    town.group("dear/g", "dear", idle_w=0.0, initial_on_count=1).group("cheap/g", "cheap", idle_w=0.0)
    return town.work("web", demand=8, dynamic_w=1000.0, migration_yuan=1.0, running={"dear/g": 8.0})


def at_home() -> Town:
    """Energy is dearer where the data must stay."""
    town = Town().site("home", price_yuan_per_kwh=2.0, labels={"residency": "medical"}).site("away")
    town.group("home/g", "home").group("away/g", "away")
    return town.work("records", demand=2, require_any=({"residency": "medical"},))


def near_its_users() -> Town:
    town = Town(leg_rtt_ms={"z/pon": {"s": 9.9}}).site("s").group("g", "s")
    return town.work("web", demand=1, flows=[("z/pon", 10.0, 1.0)])


def on_a_path() -> Town:
    town = Town(leg_rtt_ms={"in": {"s": 6.0}, "out": {"s": 3.0}}).site("s").group("g", "s")
    return town.work("sync", demand=1, processing_ms=5.0, paths=[("in", "out", 14.2)])


def two_stages() -> Town:
    """The second stage has GPUs only on the other site, 7.9 of at most 8 ms away; the whole path takes 18.9 of 19."""
    town = Town(leg_rtt_ms={"z": {"a": 6.0, "b": 6.0}}, site_rtts={("a", "b"): 7.9})
    town.site("a").site("b").group("a/g", "a", gpus=0).group("b/g", "b")
    town.work("ingest", processing_ms=2.0, allowed=("a",)).work("render", processing_ms=3.0, gpu={"l20": 1.0})
    flows, paths = (GraphFlow(0, 1, 1.0, 8.0),), (GraphPath((-1, 0, 1), 19.0),)
    town.graphs.append(Graph("twin", (1.0,), (0, 1), (1, 1), flows=flows, paths=paths))
    return town


def full_gang() -> Town:
    """An island of two nodes holds eight replicas of one GPU."""
    town = Town().site("s").group("g", "s", node_count=4, island_node_count=2)
    return town.work("train", demand=8, gpu={"l20": 1.0}, gang_size=8, single_island=True)


def facility_kw(plan: PlanSolution) -> float:
    """Of a town with one site: 1 kW, 10 % and 2 % of the square per rated 100 kW above IT power."""
    it_kw = float(plan.it_kw[0, 0])
    return 1.0 + 1.1 * it_kw + 0.02 / 100 * it_kw**2


def debt_kwh(plan: PlanSolution) -> float:
    """Two replicas of one core of sixteen cause that share of a node's idle power and 100 W each."""
    useful_kw = 2 * (300 / 16 + 100) / 1000
    return facility_kw(plan) - 1.2 * useful_kw


CASES = [
    Case("node_capacity", crowded, "group=g,resource=gpu_milli", lambda _: 8_000, 8_000, "milli-GPU", 0),
    Case("node_capacity", of_large_replicas, "group=g,resource=node", lambda p: float(p.running_count.sum()), 2,
         "nodes", 0),
    Case("reserved_floor", with_floor, "group=g,resource=gpu_milli", lambda _: 30_000, 30_000, "milli-GPU", 0),
    Case("padding", in_need_of_load, "group=g", lambda p: float(p.nodes_on[0, 0]), 1.1 * 16 / 16 + 1, "nodes", 0),
    Case("power_limit", at_its_power_limit, "site=s",
         lambda p: float(p.nodes_on[0, 0] * 0.3 + p.running_count.sum() * 0.1), 1.0, "kW", 0),
    Case("ipue_cap_hourly", at_its_cap, "site=s", facility_kw, lambda p: 2.0 * float(p.it_kw[0, 0]), "kW", 0),
    Case("pue_cap_annual", in_debt, "site=s", debt_kwh, 0.1, "kWh"),
    Case("pue_cap_annual", edges_in_debt, "portfolio=edge", debt_kwh, 0.1, "kWh"),
    Case("link_capacity", thin_link, "link=uplink", lambda p: 4.0 * float(p.running_count.sum()), 16.0, "Mbps", 0),
    Case("demand_peak", peak_so_far, "site=s", facility_kw, 0.5, "kW", 0),
    Case("parallel", narrow, "class=render", lambda p: float(p.running_count[0, 0]), 3.0, "replicas", 0),
    Case("deadline", narrow, "class=render", lambda _: 1 + 1, 2.0, "h", 1),
    Case("release", released_late, "class=render", lambda _: 1.0, 1.0, "h", 1),
    Case("spread_sites", apart, "class=web,site=a", lambda p: float(p.running_count[0, 0]), 4 / 2, "replicas", 0),
    Case("move_budget", few_moves, "fleet", lambda p: 8 - float(p.running_count[0, 0]), 2.0, "replicas", 0),
    Case("site_rules", at_home, "class=records", lambda _: 1, 1, "sites"),
    Case("flow_rtt", near_its_users, "class=web,leg=z/pon,site=s", lambda _: 9.9, 10.0, "ms"),
    Case("path_budget", on_a_path, "class=sync,group=g", lambda _: 6 + 5 + 3, 14.2, "ms"),
    Case("path_budget", two_stages, "graph=twin,sites=a/b,path=0", lambda _: 6 + 2 + 7.9 + 3, 19.0, "ms"),
    Case("stage_rtt", two_stages, "graph=twin,sites=a/b,stages=0-1", lambda _: 7.9, 8.0, "ms"),
    Case("gang_room", full_gang, "class=train,group=g", lambda _: 8, 2 * 4, "replicas"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.rule}-{c.subject.split(',')[0]}")
def test_each_kind_of_rule_is_told_with_its_value_limit_and_unit(case: Case):
    problem = case.town().problem()
    plan = solve_plan(problem, options=PlanOptions(whole_nodes=True))
    assert verify_proof(problem, plan) == []
    found = _found(problem, plan, case)
    limit = case.limit(plan) if callable(case.limit) else case.limit
    assert found.value == pytest.approx(case.value(plan), rel=1e-6)
    assert found.limit == pytest.approx(limit, rel=1e-6)
    assert found.unit == case.unit
    assert plan.certificate is not None
    assert found in plan.certificate.binding


def _found(problem: PlacementProblem, plan: PlanSolution, case: Case) -> BindingConstraint:
    all_ = binding_constraints(problem, plan)
    mine = [b for b in all_ if (b.rule, b.subject) == (case.rule, case.subject) and b.slot == case.slot]
    assert len(mine) == 1, [(b.rule, b.subject, b.slot) for b in all_]
    return mine[0]


def test_a_plan_with_room_everywhere_is_bound_by_nothing():
    problem = Town().site("s").group("g", "s").work("web", demand=3).problem()
    assert binding_constraints(problem, solve_plan(problem)) == []


def test_the_kinds_above_are_all_that_can_be_told():
    """A kind that is added to the module must be added here, and seen."""
    tree = ast.parse(Path(binding.__file__).read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    told = [n.args[0] for n in calls if isinstance(n.func, ast.Name) and n.func.id == "BindingConstraint"]
    assert {a.value for a in told if isinstance(a, ast.Constant)} == {c.rule for c in CASES}
    assert len(told) == len(CASES)


def test_numbers_are_plain_floats():
    for case in CASES[:4]:
        problem = case.town().problem()
        for b in binding_constraints(problem, solve_plan(problem)):
            assert not isinstance(b.value, np.generic) and isinstance(b.slot, int)
