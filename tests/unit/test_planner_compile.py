"""What a horizon plan is told: folded services load the links of all their zones; a trend is not carried on all day."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.planner.compile import compile_problem
from scheduler.planner.feasibility import Views
from scheduler.planner.forecast import AHEAD_HOURS, expected_arrivals
from scheduler.planner.round import shared_stage_sites
from solvers.plan_model import solve_plan
from solvers.problem import PlacementProblem, Slots
from solvers.solution import PlanSolution
from solvers.verify import verify_plan
from tests.builders import HUB, START_S, PlainScorer, a_fleet, a_site, a_twin, a_workload, given, name_of

HOUR_S = 3600


def problem_of(city) -> PlacementProblem:
    return compile_problem(city.state, Views(city.state.topology, city.state.shapes), city.now_s).problem


def two_zones():
    fleet = a_fleet(a_site("e01").cpus(nodes=4), a_site("e02").cpus(nodes=4)).build()
    z1 = fleet.zones[0]
    return fleet.model_copy(update={"zones": (z1, z1.model_copy(update={"zone_id": "z2"}))})


def test_light_services_of_two_zones_fold_and_each_zone_carries_its_share_of_their_traffic():
    city = given(two_zones()).submits(
        a_workload("a").replicas(3).within(50.0, "z1", mbps=4.0).lasts(36 * HOUR_S),
        a_workload("b").replicas(1).within(50.0, "z2", mbps=4.0).lasts(36 * HOUR_S),
    )
    problem = problem_of(city)
    assert problem.class_count == 1
    by_zone = {
        problem.network.leg_id[leg].split("/")[0]: mbps
        for leg, mbps in zip(problem.flows.leg_index, problem.flows.mbps, strict=True)
    }
    assert by_zone == pytest.approx({"z1": 3.0, "z2": 1.0})
    assert set(problem.flows.rtt_p99_max_ms) == {50.0}


def village_behind_a_narrow_uplink():
    """Zone z2 sits at a hub of its own, from which 8 Mbps may be planned; the sites are beyond it."""
    fleet = two_zones()
    z1, z2 = fleet.zones
    uplink = fleet.network.links[0].model_copy(
        update={"link_id": "village-hub", "ends": ("village", HUB), "capacity_gbps": 0.01}
    )
    network = fleet.network.model_copy(
        update={
            "hubs": {**fleet.network.hubs, "village": (5.0, 0.0)},
            "links": (*fleet.network.links, uplink),
        }
    )
    return fleet.model_copy(
        update={"zones": (z1, z2.model_copy(update={"hub_id": "village"})), "network": network}
    )


def test_users_behind_a_full_uplink_are_planned_apart_so_that_all_others_are_served():
    city = given(village_behind_a_narrow_uplink()).submits(
        a_workload("a").replicas(6).within(50.0, "z1", mbps=4.0).priority("interactive"),
        a_workload("b").replicas(3).within(50.0, "z2", mbps=4.0).priority("interactive"),
    )
    problem = problem_of(city)
    assert problem.class_count == 2
    unserved = solve_plan(problem).unserved_count[:, 0]
    assert sorted(unserved) == pytest.approx([0.0, 1.0]), "12 Mbps over a link of 8: one of three stays out"


def test_users_behind_an_uplink_with_room_fold_with_all_others():
    city = given(village_behind_a_narrow_uplink()).submits(
        a_workload("a").replicas(6).within(50.0, "z1", mbps=4.0).priority("interactive"),
        a_workload("b").replicas(1).within(50.0, "z2", mbps=4.0).priority("interactive"),
    )
    assert problem_of(city).class_count == 1


def test_heavy_streams_of_two_zones_stay_apart():
    city = given(two_zones()).submits(
        a_workload("a").within(50.0, "z1", mbps=40.0), a_workload("b").within(50.0, "z2", mbps=40.0)
    )
    problem = problem_of(city)
    assert problem.class_count == 2
    assert problem.flows.mbps.tolist() == [40.0, 40.0]


def test_arrivals_of_the_last_hours_continue_for_a_while_and_their_work_ends():
    city = given(a_fleet(a_site("e01").cpus(nodes=9)).build()).submits(a_workload("first"))
    for hour in range(4):
        city.now_s = START_S + hour * HOUR_S + 600
        city.submits(*(a_workload(f"w{hour}-{i}").lasts(3 * HOUR_S) for i in range(5)))
    now_s = START_S + 4 * HOUR_S
    slots = Slots(start_s=now_s + HOUR_S * np.arange(12), hours=np.ones(12))
    ((_, expected),) = expected_arrivals(city.state, slots, now_s).items()
    five_an_hour = 5.0
    assert expected[0] == pytest.approx(five_an_hour * 0.5)
    assert expected.max() == pytest.approx(five_an_hour * AHEAD_HOURS)
    # the last to come, AHEAD_HOURS from now, leave three hours later
    assert np.all(expected[AHEAD_HOURS + 3 :] == 0.0)


def test_deferrable_work_is_released_in_the_slot_in_which_it_may_begin():
    later_s = START_S + 5 * HOUR_S
    city = given(a_fleet(a_site("e01").cpus(nodes=9)).build()).submits(
        a_workload("now").deferrable(START_S + 20 * HOUR_S).lasts(HOUR_S),
        a_workload("later").deferrable(START_S + 20 * HOUR_S).lasts(HOUR_S).not_before(later_s),
    )
    hourly = Slots(start_s=START_S + HOUR_S * np.arange(24), hours=np.ones(24))
    assert city.state.topology is not None
    views = Views(city.state.topology, city.state.shapes)
    classes = compile_problem(city.state, views, city.now_s, slots=hourly).problem.classes
    assert sorted(classes.release_slot.tolist()) == [0, 5]
    assert classes.work_replica_h.tolist() == [1.0, 1.0]
    assert len(set(classes.class_id)) == 2


def test_long_work_runs_from_now_unless_a_night_makes_it_cheaper_and_short_work_is_the_plans():
    city = given(a_fleet(a_site("e01").cpus(nodes=9)).cheaper_from(18).build()).submits(
        a_workload("short").deferrable(START_S + 90 * HOUR_S).lasts(HOUR_S),
        a_workload("night").deferrable(START_S + 90 * HOUR_S).lasts(6 * HOUR_S),
        a_workload("days").deferrable(START_S + 90 * HOUR_S).lasts(48 * HOUR_S),
    )
    assert city.state.topology is not None
    views = Views(city.state.topology, city.state.shapes)
    classes = compile_problem(city.state, views, city.now_s).problem.classes
    assert sorted(zip(classes.work_replica_h, classes.demand_count[:, -1], strict=True)) == [(0, 1), (7, 0)]
    all_wait = compile_problem(city.state, views, city.now_s, all_wait=True).problem.classes
    assert all_wait.work_replica_h.sum() == 1 + 6 + 48


def test_what_is_due_in_days_is_planned_within_the_next_night():
    city = given(a_fleet(a_site("e01").cpus(nodes=9)).cheaper_from(18).build()).submits(
        a_workload("soon").deferrable(START_S + 5 * HOUR_S).lasts(HOUR_S),
        a_workload("days").deferrable(START_S + 90 * HOUR_S).lasts(HOUR_S),
        a_workload("later").deferrable(START_S + 90 * HOUR_S).lasts(HOUR_S).not_before(START_S + 20 * HOUR_S),
    )
    hourly = Slots(start_s=START_S + HOUR_S * np.arange(48), hours=np.ones(48))
    assert city.state.topology is not None
    views = Views(city.state.topology, city.state.shapes)
    classes = compile_problem(city.state, views, city.now_s, slots=hourly).problem.classes
    due = dict(zip(classes.release_slot.tolist(), classes.deadline_slot.tolist(), strict=True))
    assert sorted(classes.deadline_slot.tolist()) == [6, 18, 36]
    assert due[20] == 36, "its own night, counted from when it may begin"


# ---------------------------------------------------------------------- stage graphs that share a stage


def a_city_twin(name: str, budget_ms: float) -> a_workload:
    """A twin that a plan serves: what batch work pays for lateness would not be worth its energy."""
    return a_twin(name, budget_ms).priority("public_service")


def sharing(name: str, owner: str, budget_ms: float) -> a_workload:
    twin = a_city_twin(name, budget_ms)
    twin.stages[1]["shared_with"] = name_of(owner)
    return twin


def planned(city) -> tuple[PlacementProblem, PlanSolution]:
    """The problem as the product compiles it, and its plan, which the verifier finds sound."""
    views = Views(city.state.topology, city.state.shapes)
    sites = shared_stage_sites(city.state, views, city.strategy.plain, city.now_s)
    problem = compile_problem(city.state, views, city.now_s, shared_sites=sites).problem
    plan = solve_plan(problem)
    assert verify_plan(problem, plan) == []
    return problem, plan


def sites_of_patterns(
    problem: PlacementProblem, plan: PlanSolution
) -> dict[str, dict[tuple[str, ...], float]]:
    """First stage's class → sites per stage → how many, in the first slot."""
    out: dict[str, dict[tuple[str, ...], float]] = {}
    for pattern in plan.graph_patterns:
        first = problem.classes.class_id[problem.graphs[pattern.graph_index].stage_class[0]]
        sites = tuple(problem.sites.site_id[s] for s in pattern.stage_site)
        counts = out.setdefault(first, {})
        counts[sites] = counts.get(sites, 0.0) + float(pattern.count[0])
    return out


LOOP_MS = 2 * 11 + 3 * 10.0
"""Of a twin at one site 10 ms from the hub; each hop to another site adds 20."""


def test_who_shares_a_running_stage_is_planned_around_its_place():
    """The store lies at the dear site; the guest's loop has no time for a hop, so the plan lays it beside the store."""
    fleet = a_fleet(a_site("e01").cpus(nodes=4).rtt(10), a_site("e02").cpus(nodes=4).rtt(10))
    owner = a_city_twin("owner", 400.0)
    owner.stages[1]["site_ids"] = ("e02",)
    city = given(fleet).submits(owner).when_planned().all_run()
    city.submits(sharing("guest", "owner", LOOP_MS))
    problem, plan = planned(city)
    (guest,) = (g for g in problem.graphs if g.fixed_site)
    assert guest.fixed_site == (-1, problem.sites.site_id.index("e02"), -1)
    patterns = sites_of_patterns(problem, plan)[problem.classes.class_id[guest.stage_class[0]]]
    assert patterns == pytest.approx({("e02", "e02", "e02"): 1.0})
    shared = problem.pairs.class_index == guest.stage_class[1]
    assert plan.running_count[shared].max() == 0.0, "the shared stage runs once, at its owner"


def test_owner_and_sharers_that_all_wait_are_planned_jointly():
    """The cheap site suits the owner alone; only beside e02 may its sharer lie."""
    medical = a_site("e02").cpus(nodes=4).rtt(10).labels(residency="medical")
    fleet = a_fleet(a_site("e01").cpus(nodes=4).rtt(10), medical)
    guest = sharing("guest", "owner", LOOP_MS)
    guest.stages[0]["require_any"] = ({"residency": "medical"},)
    city = given(fleet, PlainScorer({"e02": 9.0})).submits(a_city_twin("owner", LOOP_MS), guest)
    problem, plan = planned(city)
    assert [len(g.stage_class) for g in problem.graphs] == [3, 3]
    patterns = sites_of_patterns(problem, plan)
    assert list(patterns.values()) == [{("e02", "e02", "e02"): pytest.approx(1.0)}] * 2
    city.when_planned().expect("owner", on="e02", replicas=3).expect("guest", on="e02", replicas=2)


def test_a_store_at_a_site_that_takes_nothing_new_is_not_fixed():
    fleet = a_fleet(a_site("e01").cpus(nodes=4).rtt(10), a_site("e02").cpus(nodes=4).rtt(10))
    city = (
        given(fleet, PlainScorer({"e02": 9.0})).submits(a_city_twin("owner", 400.0)).when_planned().all_run()
    )
    city.submits(sharing("guest", "owner", 400.0)).when_planned().all_run()
    assert len(planned(city)[0].graphs) == 2
    city.apply(city.cycle.cordon(city.state, city.now_s, "e01", True))
    problem, _ = planned(city)
    assert [g.fixed_site for g in problem.graphs] == [()]


def test_who_shares_with_work_that_is_over_is_not_planned_as_a_graph():
    fleet = a_fleet(a_site("e01").cpus(nodes=4).rtt(10))
    city = (
        given(fleet).submits(a_city_twin("owner", LOOP_MS), sharing("guest", "owner", LOOP_MS)).when_planned()
    )
    city.cancels("owner")
    assert planned(city)[0].graphs == ()
