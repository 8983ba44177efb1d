"""The verifier finds what is broken by hand, rule by rule, and nothing in what is sound."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from solvers.plan_model import solve_plan
from solvers.problem import Graph, GraphPath, PlacementProblem
from solvers.solution import Bound, Cost, NodePlacements, PlanSolution
from solvers.verify import verify_placements, verify_plan
from tests.plan_problems import Town


def a_problem() -> PlacementProblem:
    town = Town(hours=(1, 1))
    town.leg_rtt_ms = {"z/pon": {"near": 5.0, "far": 50.0}}
    town.links, town.routes = [("uplink", 1000.0)], [(0, "near", "uplink")]
    town.site("near", pue_cap_annual=1.5, ipue_cap_hourly=2.5).site(
        "far", may_close=True, reserved_floor_frac=0.5
    )
    town.group("near/l20", "near").group("far/cpu", "far", gpus=0).group("far/l20", "far")
    town.work("web", demand=4, flows=[("z/pon", 10.0, 5.0)], unserved_yuan=7.0)
    town.work("llm", demand=2, gpu={"l20": 1.0}, spread_sites=2)
    town.work("render", work_replica_h=6, max_parallel=4, deadline_slot=1)
    town.work("sync", processing_ms=1.0)
    town.graphs.append(Graph("twin", (1.0, 1.0), (3,), (1,), paths=(GraphPath((-1, 0), 20.0),)))
    return town.problem()


PROBLEM = a_problem()
PLAN = solve_plan(PROBLEM)


def rules(plan: PlanSolution, problem: PlacementProblem = PROBLEM) -> set[str]:
    return {v.rule for v in verify_plan(problem, plan)}


def changed(field: str, change: tuple[Any, Any]) -> PlanSolution:
    """The sound plan with one array changed: `change` is (index, value)."""
    index, value = change
    array = np.array(getattr(PLAN, field))
    array[index] = value
    changes: dict[str, Any] = {field: array}
    return dataclasses.replace(PLAN, **changes)


def pair(class_id: str, group_id: str) -> int:
    c, g = PROBLEM.classes.class_id.index(class_id), PROBLEM.groups.group_id.index(group_id)
    return int(np.flatnonzero((PROBLEM.pairs.class_index == c) & (PROBLEM.pairs.group_index == g))[0])


def test_a_sound_plan_has_nothing_wrong():
    assert PLAN.has_plan
    assert rules(PLAN) == set()


@pytest.mark.parametrize(
    ("field", "change", "expected"),
    [
        ("running_count", ((pair("web", "far/l20"), 0), 1.0), "site_not_allowed"),
        ("running_count", ((pair("web", "near/l20"), 0), 9.0), "demand"),
        ("running_count", ((pair("render", "near/l20"), 1), 60.0), "parallel"),
        ("running_count", ((pair("render", "near/l20"), 1), 1.0), "work"),
        ("running_count", ((pair("llm", "near/l20"), 0), 2.0), "spread_sites"),
        ("running_count", ((pair("sync", "near/l20"), 0), 0.0), "graph_stage"),
        ("nodes_on", ((0, 0), 0.1), "capacity_gpu_milli"),
        ("nodes_on", ((0, 0), 9.0), "padding"),
        ("nodes_on", ((0, 0), 11.0), "node_count"),
        ("site_on", ((0, 0), False), "closed_home"),
        ("site_on", ((1, 0), False), "closed_site"),
        ("it_kw", ((0, 0), 0.0), "it_power"),
        ("useful_it_kw", ((0, 0), 0.0), "useful_power"),
        ("facility_kw", ((0, 0), 0.0), "facility_power"),
        ("cap_excess_kw", ((0, 0), 5.0), "cap_excess"),
        ("ledger_used_kwh", (0, 99.0), "ledger_used"),
        ("ledger_debt_kwh", (0, 99.0), "ledger_debt"),
        ("late_replica_h", (2, 99.0), "lateness"),
        ("nodes_on", ((0, 0), -1.0), "not_a_count"),
        ("running_count", ((0, 0), np.nan), "not_a_count"),
    ],
)
def test_each_broken_rule_is_named(field, change, expected):
    assert expected in rules(changed(field, change))


def test_a_plan_for_another_problem_is_told_at_once():
    assert rules(dataclasses.replace(PLAN, problem_sha256="0" * 64)) == {"problem_hash"}


def test_a_wrong_sum_of_money_is_found():
    wrong = dataclasses.replace(PLAN, cost=dataclasses.replace(PLAN.cost, energy_yuan=1.0))
    assert rules(wrong) == {"cost"}


def test_a_bound_above_its_objective_is_no_bound():
    above = Bound("m", "fleet", objective_yuan=10.0, bound_yuan=11.0, gap_frac=-0.1)
    assert rules(dataclasses.replace(PLAN, bounds=(above,))) == {"bound"}
    vain = Bound("m", "fleet", objective_yuan=10.0, bound_yuan=9.0, gap_frac=0.01)
    assert rules(dataclasses.replace(PLAN, bounds=(vain,))) == {"gap", "called_optimal"}


def test_a_pattern_that_breaks_its_path_is_found():
    far = tuple(dataclasses.replace(p, stage_site=(1,)) for p in PLAN.graph_patterns)
    assert {"path_budget", "graph_stage"} <= rules(dataclasses.replace(PLAN, graph_patterns=far))


def test_links_and_floors_are_counted_from_the_facts():
    # the plan is sound for its own problem; against tighter facts it is not

    def against(problem: PlacementProblem) -> set[str]:
        return rules(dataclasses.replace(PLAN, problem_sha256=problem.content_hash()), problem)

    network = dataclasses.replace(PROBLEM.network, link_capacity_mbps=np.array([10.0]))
    assert "link" in against(dataclasses.replace(PROBLEM, network=network))
    sites = dataclasses.replace(PROBLEM.sites, reserved_floor_frac=np.array([0.0, 1.0]))
    assert "floor_gpu_milli" in against(dataclasses.replace(PROBLEM, sites=sites))
    sites = dataclasses.replace(PROBLEM.sites, power_limit_kw=np.full((2, 2), 0.01))
    assert "power_limit" in against(dataclasses.replace(PROBLEM, sites=sites))
    sites = dataclasses.replace(PROBLEM.sites, price_yuan_per_kwh=np.full((2, 2), 9.0))
    assert against(dataclasses.replace(PROBLEM, sites=sites)) == {"cost"}


def test_unserved_money_is_part_of_the_check():
    assert PLAN.cost.unserved_yuan == 0.0
    short = changed("unserved_count", ((0, 0), 1.0))
    assert {"demand", "cost"} <= rules(dataclasses.replace(short, cost=Cost()))


# -- placements --------------------------------------------------------------------------------------------------


def placed_problem(**work: object) -> PlacementProblem:
    town = Town().site("a", power_limit_kw=3.0).site("b")
    town.group("a/l20", "a", island_node_count=2, node_count=4).group("b/l20", "b").group(
        "b/t4", "b", gpu_model="t4"
    )
    return town.work("job", **work).problem()


def placements(*rows: tuple[int, int, int, tuple[int, ...]]) -> NodePlacements:
    """Rows of (group, node, workload, gpu ids), all of class 0."""
    return NodePlacements(
        class_index=np.zeros(len(rows), np.int64),
        group_index=np.array([r[0] for r in rows]),
        node_index=np.array([r[1] for r in rows]),
        workload_index=np.array([r[2] for r in rows]),
        gpu_ids=tuple(r[3] for r in rows),
    )


def placed_rules(problem: PlacementProblem, *rows: tuple[int, int, int, tuple[int, ...]]) -> set[str]:
    return {v.rule for v in verify_placements(problem, placements(*rows))}


def test_shares_fit_one_device_and_whole_devices_are_alone():
    share, whole = placed_problem(gpu={"l20": 0.5}), placed_problem(gpu={"l20": 2})
    assert placed_rules(share, (0, 0, 1, (0,)), (0, 0, 2, (0,))) == set()
    assert placed_rules(share, (0, 0, 1, (0,)), (0, 0, 2, (0,)), (0, 0, 3, (0,))) == {"gpu_share"}
    assert placed_rules(share, (0, 0, 1, (0, 1))) == {"gpu_ids"}
    assert placed_rules(whole, (0, 0, 1, (0, 1)), (0, 0, 2, (2, 3))) == set()
    assert placed_rules(whole, (0, 0, 1, (0, 1)), (0, 0, 2, (1, 2))) == {"gpu_share"}
    assert placed_rules(whole, (0, 0, 1, (0, 0))) == {"gpu_ids"}
    assert placed_rules(whole, (0, 0, 1, (3, 4))) == {"gpu_ids"}


def test_nodes_hold_no_more_than_they_have_and_exist():
    problem = placed_problem(cpu=9)
    assert placed_rules(problem, (0, 0, 1, ()), (0, 1, 2, ())) == set()
    assert placed_rules(problem, (0, 0, 1, ()), (0, 0, 2, ())) == {"node_cpu_milli"}
    assert placed_rules(problem, (0, 4, 1, ())) == {"node_index"}


def test_models_and_undefined_needs_are_refused():
    problem = placed_problem(gpu={"l20": 1})
    assert placed_rules(problem, (2, 0, 1, (0,))) == {"need_undefined"}
    assert placed_rules(placed_problem(allowed=("b",)), (0, 0, 1, ())) == {"site_not_allowed"}


def test_gangs_are_whole_and_together():
    problem = placed_problem(cpu=9, gang_size=2, single_site=True, single_group=True, single_island=True)
    assert placed_rules(problem, (0, 0, 1, ()), (0, 1, 1, ())) == set()
    assert placed_rules(problem, (0, 0, 1, ())) == {"gang_not_whole"}
    assert placed_rules(problem, (0, 0, 1, ()), (0, 2, 1, ())) == {"gang_in_several_islands"}
    assert placed_rules(problem, (0, 0, 1, ()), (1, 0, 1, ())) == {
        "gang_on_several_sites",
        "gang_in_several_groups",
        "gang_in_several_islands",
    }


def test_spread_counts_sites_and_nodes_per_workload():
    problem = placed_problem(spread_sites=2, spread_nodes=2)
    assert placed_rules(problem, (0, 0, 1, ()), (1, 0, 1, ())) == set()
    assert placed_rules(problem, (0, 0, 1, ()), (0, 0, 1, ())) == {"spread_sites", "spread_nodes"}
    assert placed_rules(problem, (0, 0, 1, ()), (0, 0, 2, ())) == set()


def test_power_of_occupied_nodes_stays_within_the_limit():
    problem = placed_problem(dynamic_w=900.0)
    assert placed_rules(problem, (0, 0, 1, ()), (0, 0, 2, ())) == set()
    assert placed_rules(problem, (0, 0, 1, ()), (0, 0, 2, ()), (0, 1, 3, ())) == {"power_limit"}
