"""What the horizon plan decides on small towns, rule by rule; every plan also passes the independent verifier."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from solvers.plan_model import PlanLimits, solve_plan
from solvers.problem import Graph, GraphFlow, GraphPath, PlacementProblem, Terms
from solvers.solution import PlanSolution, SolveStatus
from solvers.verify import verify_plan
from tests.plan_problems import Town


def planned(town: Town | PlacementProblem) -> PlanSolution:
    """Plan a town; the verifier must find nothing."""
    problem = town.problem() if isinstance(town, Town) else town
    plan = solve_plan(problem)
    assert plan.has_plan, plan.message
    assert [str(v) for v in verify_plan(problem, plan)] == []
    return plan


def on_site(problem: PlacementProblem, plan: PlanSolution, class_id: str) -> dict[str, list[float]]:
    """Replicas of a class per site and slot, rounded."""
    c = problem.classes.class_id.index(class_id)
    held = np.zeros((problem.site_count, problem.slot_count))
    of_class = problem.pairs.class_index == c
    np.add.at(held, problem.pair_site[of_class], plan.running_count[of_class])
    return {
        s: [round(float(v), 4) for v in held[i]] for i, s in enumerate(problem.sites.site_id) if held[i].any()
    }


def two_sites(**second: object) -> Town:
    town = Town().site("near").site("far", **second)
    return town.group("near/l20", "near").group("far/l20", "far")


def test_work_goes_where_the_next_kilowatt_hour_is_cheapest_not_where_the_average_is():
    # far has the worse average (20 kW of fixed overhead) but the better margin
    problem = two_sites(fixed_kw=20.0, loss_slope=0.05).work("web", demand=8).problem()
    assert on_site(problem, planned(problem), "web") == {"far": [8.0]}


def test_energy_is_counted_as_the_formula_says():
    problem = Town().site("s").group("g", "s").work("web", demand=8, cpu=2, dynamic_w=50.0).problem()
    plan = planned(problem)
    it_kw = (8 * 2 / 16 * 300 + 8 * 50.0) / 1000  # one node full of cores
    assert plan.it_kw[0, 0] == pytest.approx(it_kw)
    assert plan.nodes_on[0, 0] == pytest.approx(1.0)
    assert plan.cost.energy_yuan == pytest.approx(1.0 + 1.1 * it_kw + 0.02 / 100 * it_kw**2)


def test_a_site_that_may_close_closes_when_its_overhead_is_not_worth_it():
    town = two_sites(may_close=True, fixed_kw=5.0, off_kw=0.5, loss_slope=0.05).work("web", demand=8)
    problem = town.problem()
    plan = planned(problem)
    assert on_site(problem, plan, "web") == {"near": [8.0]}
    assert not plan.site_on[1, 0]
    assert plan.facility_kw[1, 0] == pytest.approx(0.5)


def test_a_home_stays_open_without_work():
    plan = planned(two_sites(fixed_kw=5.0, off_kw=0.5).work("web", demand=8, allowed=("near",)))
    assert plan.site_on.all()
    assert plan.facility_kw[1, 0] == pytest.approx(5.0)


def test_deferrable_work_waits_for_the_cheap_hours_and_no_longer_than_its_deadline():
    town = Town(hours=(1, 1, 1, 1))
    town.site("s", price_yuan_per_kwh=[1.0, 0.8, 0.4, 0.2]).group("g", "s")
    town.work("render", work_replica_h=6, max_parallel=6, deadline_slot=3)
    problem = town.problem()
    assert on_site(problem, planned(problem), "render") == {"s": [0.0, 0.0, 6.0, 0.0]}


def test_what_cannot_be_done_in_time_is_late_or_left_and_counted():
    town = Town(hours=(1, 1)).site("s").group("g", "s", node_count=1)
    town.work("render", work_replica_h=50, deadline_slot=1, cpu=4)
    plan = planned(town)
    assert plan.late_replica_h[0] == pytest.approx(50 - 4)
    assert plan.unfinished_replica_h[0] == pytest.approx(50 - 8)
    assert plan.cost.lateness_yuan == pytest.approx((50 - 4) * 5.0)


def test_stopping_early_never_looks_like_saving():
    # no deadline: leaving the work for tomorrow costs what today's cheapest hour does, and a little more
    town = Town(hours=(1, 1)).site("s", price_yuan_per_kwh=[0.9, 0.3]).group("g", "s")
    plan = planned(town.work("render", work_replica_h=10))
    assert plan.unfinished_replica_h[0] == 0.0


def test_the_gpu_model_decides_what_a_replica_needs():
    town = Town().site("s").group("t4", "s", gpu_model="t4", gpu_memory_mib=16 * 1024).group("l20", "s")
    town.work("llm", demand=4, gpu={"l20": 1.0}, gpu_memory_mib=40 * 1024)
    problem = town.problem()
    plan = planned(problem)
    assert plan.nodes_on[:, 0] == pytest.approx([0.0, 1.0])


def test_latency_limits_are_hard_and_what_they_forbid_is_unserved():
    town = Town().site("near").site("far").group("n", "near", node_count=1).group("f", "far")
    town.leg_rtt_ms = {"z/pon": {"near": 6.0, "far": 30.0}}
    town.work("vr", demand=20, cpu=1, flows=[("z/pon", 10.0, 1.0)])
    problem = town.problem()
    plan = planned(problem)
    assert on_site(problem, plan, "vr") == {"near": [16.0]}
    assert plan.unserved_count[0, 0] == pytest.approx(4.0)


def test_an_unknown_latency_never_passes():
    town = Town().site("s").group("g", "s")
    town.leg_rtt_ms = {"z/leo": {}}
    plan = planned(town.work("vr", demand=1, flows=[("z/leo", 1000.0, 1.0)]))
    assert plan.unserved_count[0, 0] == 1.0


def test_labels_are_an_or_of_ands():
    town = two_sites(labels={"trust": "medical", "tee": "yes"})
    town.work("scan", demand=2, require_any=({"trust": "government"}, {"trust": "medical", "tee": "yes"}))
    problem = town.problem()
    assert on_site(problem, planned(problem), "scan") == {"far": [2.0]}


def test_path_budgets_count_processing_of_the_pair():
    town = two_sites()
    town.leg_rtt_ms = {"z/pon": {"near": 6.0, "far": 2.0}}
    town.work("loop", demand=1, processing_ms=10.0, paths=[("z/pon", "z/pon", 15.0)])
    problem = town.problem()
    assert on_site(problem, planned(problem), "loop") == {"far": [1.0]}


def test_an_hourly_cap_pulls_load_to_the_site_that_must_stay_open():
    # near is cheaper at the margin, but far (a home) meets 1.5 only from a minimum load on
    town = two_sites(loss_slope=0.2, fixed_kw=1.0, loss_square=0.0, ipue_cap_hourly=1.5)
    problem = town.work("web", demand=60, cpu=1).problem()
    plan = planned(problem)
    least_kw = 1.0 / (1.5 - 1.2)
    assert plan.it_kw[1, 0] == pytest.approx(least_kw, rel=1e-4)
    assert plan.cap_excess_kw[1, 0] == pytest.approx(0.0, abs=1e-4)


def test_an_hourly_cap_out_of_reach_is_reported_as_excess_and_never_refuses_work():
    plan = planned(two_sites(ipue_cap_hourly=1.2, fixed_kw=9.0).work("web", demand=2))
    assert plan.cap_excess_kw[1, 0] > 5.0
    assert plan.unserved_count.sum() == 0.0


def test_hard_caps_rank_above_ordinary_work_and_below_hard_safety():
    # the site opens only if it must: its cap cannot be met at any load
    def town(rank: int) -> Town:
        closable = Town().site("e", may_close=True, ipue_cap_hourly=1.1, fixed_kw=9.0, loss_slope=0.3)
        return closable.group("g", "e").work("web", demand=2, rank=rank, unserved_yuan=1e5)

    assert not planned(town(rank=1)).site_on[0, 0]
    assert planned(town(rank=1)).unserved_count.sum() == 2.0
    assert planned(town(rank=0)).site_on[0, 0]
    assert planned(town(rank=0)).unserved_count.sum() == 0.0


def test_priority_decides_who_is_served_when_not_all_can_be():
    town = Town().site("s").group("g", "s", node_count=1)
    town.work("batchy", demand=16, rank=3, unserved_yuan=1e6).work(
        "public", demand=10, rank=1, unserved_yuan=1.0
    )
    plan = planned(town)
    assert plan.unserved_count[:, 0] == pytest.approx([10.0, 0.0], abs=1e-4)


def test_an_annual_cap_moves_work_by_its_price_and_states_the_debt():
    def town(price: float) -> Town:
        # per kWh of useful load far earns 1.5 − 1.25 on its ledger, against 0.15 kWh more of overhead
        return two_sites(
            pue_cap_annual=1.5, loss_slope=0.25, fixed_kw=3.0, loss_square=0.0, debt_yuan_per_kwh=price
        ).work("web", demand=40, cpu=1)

    cheap, dear = town(0.1).problem(), town(5.0).problem()
    assert "far" not in on_site(cheap, planned(cheap), "web")
    plan = planned(dear)
    assert on_site(dear, plan, "web") == {"far": [40.0]}
    useful_kw = 40 * (300 / 16 + 100) / 1000
    assert plan.ledger_used_kwh[1] == pytest.approx(3.0 + 1.25 * useful_kw - 1.5 * useful_kw)
    assert plan.ledger_debt_kwh[1] == pytest.approx(plan.ledger_used_kwh[1])


def cameras_and_caches(scarce: str | None = None) -> Town:
    """One room with work full of cores and work full of memory: together they fill the same three nodes twice."""
    town = Town().site("e04", pue_cap_annual=1.5, debt_yuan_per_kwh=5.0, fixed_kw=0.5, loss_square=0.0)
    town.group("g", "e04", scarce=scarce)
    town.work("camera", demand=3, cpu=15.5, memory_gib=4, dynamic_w=50.0)
    return town.work("cache", demand=3, cpu=0.5, memory_gib=60, dynamic_w=50.0)


def test_a_ledger_credits_the_idle_power_of_a_node_once():
    """Largest shares of cores and of memory add up to nearly six nodes where three are on."""
    plan = planned(cameras_and_caches(scarce="cpu_milli"))
    nodes = 3
    it_kw = (nodes * 300 + 6 * 50.0) / 1000
    assert (plan.nodes_on[0, 0], plan.it_kw[0, 0]) == pytest.approx((nodes, it_kw))
    assert plan.useful_it_kw[0, 0] == pytest.approx(it_kw)
    assert plan.ledger_used_kwh[0] == pytest.approx(0.5 + 1.1 * it_kw - 1.5 * it_kw)
    by_largest_share = planned(cameras_and_caches())
    assert by_largest_share.useful_it_kw[0, 0] == pytest.approx(
        (6 * 50 + 3 * (15.5 / 16 + 60 / 64) * 300) / 1000
    )


def test_work_comes_to_a_room_whose_ledger_is_short_even_when_its_nodes_are_shared_well():
    """Each kWh of load costs 1.1 and earns 1.5: the room of 0.5 kW overhead holds its cap from 1.25 kW on."""

    def plan_of(scarce: str | None) -> PlanSolution:
        town = cameras_and_caches(scarce).site("dc", loss_slope=0.05, loss_square=0.0)
        town.group("dc/g", "dc", scarce=scarce)
        for work in town.classes:
            work["allowed"] = ("e04",)
        return planned(town.work("web", demand=16, cpu=1))

    assert plan_of(None).it_kw[0, 0] < 0.5 / 0.4, "the largest shares hide that the room is short"
    plan = plan_of("cpu_milli")
    assert plan.it_kw[0, 0] == pytest.approx(0.5 / 0.4)
    # the ledger charges 1.1 and credits 1.5 of its price, so that the next kWh costs as little as at the other site
    assert plan.energy_yuan_per_kwh_it[:, 0] == pytest.approx([1.05, 1.05])
    assert plan.ledger_debt_kwh[0] == pytest.approx(0.0, abs=1e-6)


def test_debt_never_refuses_work():
    plan = planned(
        Town().site("s", pue_cap_annual=1.01, debt_yuan_per_kwh=1e3).group("g", "s").work("web", demand=5)
    )
    assert plan.unserved_count.sum() == 0.0
    assert plan.ledger_debt_kwh[0] > 0.0


def test_nobody_burns_power_to_please_a_ratio():
    # the legal ledger would reward idle nodes; padding allows 1.1 of what is filled, plus one node
    town = Town(terms=Terms(ledger_load="legal"))
    town.site("s", pue_cap_annual=1.5, debt_yuan_per_kwh=50.0, fixed_kw=3.0).group("g", "s", idle_w=500.0)
    plan = planned(town.work("web", demand=16, cpu=1))
    assert plan.nodes_on[0, 0] == pytest.approx(1.1 + 1.0)


def test_the_edge_portfolio_is_one_ledger():
    terms = Terms(portfolio_pue_cap_annual=1.5, portfolio_debt_yuan_per_kwh=5.0)
    town = Town(terms=terms).site("a", is_edge=True).site("b", is_edge=True, fixed_kw=4.0).site("dc")
    town.group("a/g", "a").group("b/g", "b").group("dc/g", "dc").work("web", demand=8, cpu=1)
    problem = town.problem()
    plan = planned(problem)
    used = plan.facility_kw[:2].sum() - 1.5 * plan.useful_it_kw[:2].sum()
    assert plan.portfolio_debt_kwh == pytest.approx(used)
    assert "dc" not in on_site(problem, plan, "web")  # load at the edge earns 0.4 kWh of ledger per kWh


def test_it_power_stays_within_the_limit_of_the_site():
    plan = planned(two_sites(loss_slope=0.01, power_limit_kw=0.5).work("web", demand=20))
    assert plan.it_kw[1, 0] == pytest.approx(0.5, rel=1e-6)


def test_links_carry_no_more_than_their_planning_load():
    town = two_sites(loss_slope=0.01)
    town.leg_rtt_ms = {"z/pon": {"near": 1.0, "far": 1.0}}
    town.links, town.routes = [("uplink", 100.0)], [(0, "far", "uplink")]
    problem = town.work("vr", demand=10, flows=[("z/pon", None, 25.0)]).problem()
    assert on_site(problem, planned(problem), "vr") == {"near": [6.0], "far": [4.0]}


def test_spread_keeps_a_class_on_several_sites():
    problem = two_sites(price_yuan_per_kwh=9.0).work("ingest", demand=4, spread_sites=2).problem()
    assert on_site(problem, planned(problem), "ingest") == {"near": [2.0], "far": [2.0]}


def test_the_reserved_floor_is_kept_free_for_public_services():
    town = Town().site("s", reserved_floor_frac=0.25).group("g", "s", node_count=4)
    plan = planned(town.work("web", demand=64, cpu=1, rank=2).work("police", demand=4, cpu=1, rank=1))
    assert plan.unserved_count[:, 0] == pytest.approx([64 - 48, 0.0], abs=1e-4)


def test_moves_happen_only_when_they_pay():
    def town(migration_yuan: float) -> Town:
        sites = two_sites(price_yuan_per_kwh=3.0)
        return sites.work("web", demand=2, running={"far/l20": 2}, migration_yuan=migration_yuan)

    stay, go = town(5.0).problem(), town(0.01).problem()
    assert on_site(stay, planned(stay), "web") == {"far": [2.0]}
    plan = planned(go)
    assert on_site(go, plan, "web") == {"near": [2.0]}
    assert plan.moved_count.sum() == pytest.approx(2.0)
    assert plan.cost.migration_yuan == pytest.approx(2 * 0.01)


def test_services_shift_between_blocks_only_for_more_than_a_move_costs():
    def town(migration_yuan: float) -> Town:
        day = Town(hours=(6, 6, 6, 6)).site("a", price_yuan_per_kwh=[1, 1, 3, 3])
        day.site("b", price_yuan_per_kwh=[3, 3, 1, 1]).group("a/g", "a").group("b/g", "b")
        return day.work("web", demand=1, migration_yuan=migration_yuan)

    moving, staying = town(0.1).problem(), town(100.0).problem()
    assert on_site(moving, planned(moving), "web") == {"a": [1, 1, 0, 0], "b": [0, 0, 1, 1]}
    assert len(on_site(staying, planned(staying), "web")) == 1


def test_a_site_that_goes_down_is_left_in_time():
    day = Town(hours=(6, 6, 6, 6)).site("a").site("b", price_yuan_per_kwh=2.0)
    day.group("a/g", "a", node_count=[5, 0, 5, 5]).group("b/g", "b").work("web", demand=2)
    problem = day.problem()
    plan = planned(problem)
    assert plan.unserved_count.sum() == 0.0
    assert on_site(problem, plan, "web")["b"][1] == 2.0


def test_twins_keep_their_path_budget_across_stages():
    town = two_sites(price_yuan_per_kwh=0.1)
    town.leg_rtt_ms = {"z/pon": {"near": 2.0, "far": 9.0}}
    town.work("sync", processing_ms=5.0).work("render", processing_ms=5.0)
    leg = -1
    town.graphs.append(
        Graph("twin", (3.0,), (0, 1), (1, 2), (GraphFlow(0, 1, 10.0, 5.0),), (GraphPath((leg, 0, 1), 14.0),))
    )
    problem = town.problem()
    plan = planned(problem)
    # far is ten times cheaper, yet leg 9 + 5 + 5 breaks 14; near → far adds 1 ms to 2 + 10 and holds
    assert on_site(problem, plan, "sync") == {"near": [3.0]}
    assert on_site(problem, plan, "render") == {"far": [6.0]}
    assert [p.stage_site for p in plan.graph_patterns] == [(0, 1)]


def test_prices_rise_with_scarcity():
    def price(demand: float) -> float:
        town = Town().site("cheap", loss_square=0.0).site("dear", loss_square=0.0, price_yuan_per_kwh=4.0)
        town.group("c", "cheap", node_count=1).group("d", "dear").work("web", demand=demand)
        return float(planned(town).price_yuan_per_unit_h[0, 0, 0])

    slack, scarce = price(8), price(20)
    idle_kw_per_milli = 0.3 / 16_000
    assert slack == pytest.approx(1.1 * idle_kw_per_milli, rel=1e-3)  # what waking a share of a node draws
    # a core saved on cheap is a core less on dear: the difference of energy, idle and dynamic, at both prices
    saved = (4.0 * 1.1 - 1.1) * (0.1 / 1000 + idle_kw_per_milli) + 1.1 * idle_kw_per_milli
    assert scarce == pytest.approx(saved, rel=1e-2)


def test_marginal_energy_price_includes_the_overhead():
    plan = planned(Town().site("s", loss_square=0.0).group("g", "s").work("web", demand=1))
    assert plan.energy_yuan_per_kwh_it[0, 0] == pytest.approx(1.1)


def test_the_demand_charge_flattens_the_peak():
    town = Town(hours=(1, 1, 1)).site("s", demand_yuan_per_kw=40.0, price_yuan_per_kwh=[1.0, 0.9, 2.0])
    town.group("g", "s").work("render", work_replica_h=20, deadline_slot=2, lateness_yuan=1e4)
    problem = town.problem()
    plan = planned(problem)
    assert on_site(problem, plan, "render") == {"s": [10.0, 10.0, 0.0]}
    assert plan.cost.demand_charge_yuan == pytest.approx(40.0 * plan.facility_kw.max())


def test_one_problem_planned_twice_gives_the_same_bytes():
    problem = (
        two_sites(may_close=True, fixed_kw=2.0).work("web", demand=8).work("job", work_replica_h=3).problem()
    )
    assert solve_plan(problem).to_bytes() == solve_plan(problem).to_bytes()


def test_limits_end_in_unknown_not_in_an_exception():
    problem = two_sites().work("web", demand=8).problem()
    plan = solve_plan(problem, limits=PlanLimits(lp_iterations=0))
    assert plan.status is SolveStatus.UNKNOWN
    assert "limits" in plan.message


def test_an_empty_town_has_an_empty_plan():
    plan = planned(Town().site("s").group("g", "s"))
    assert plan.cost.energy_yuan == pytest.approx(1.0)
    assert plan.running_count.size == 0


def test_a_class_that_can_run_nowhere_is_unserved_and_stops_nothing_else():
    problem = two_sites().work("giant", demand=1, cpu=64, rank=0).work("web", demand=2).problem()
    plan = planned(problem)
    assert plan.unserved_count[:, 0] == pytest.approx([1.0, 0.0])


def test_the_plan_file_remembers_its_problem():
    problem = two_sites().work("web", demand=2).problem()
    plan = planned(problem)
    assert plan.problem_sha256 == problem.content_hash()
    other = dataclasses.replace(problem, problem_id="other")
    assert [v.rule for v in verify_plan(other, plan)] == ["problem_hash"]
