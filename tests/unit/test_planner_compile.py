"""What a horizon plan is told: folded services load the links of all their zones; a trend is not carried on all day."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.planner.compile import compile_problem
from scheduler.planner.feasibility import Views
from scheduler.planner.forecast import AHEAD_HOURS, expected_arrivals
from solvers.plan_model import solve_plan
from solvers.problem import PlacementProblem, Slots
from tests.builders import HUB, START_S, a_fleet, a_site, a_workload, given

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
