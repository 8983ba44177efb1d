"""Preemption: who gives way to whom, in which order, and what the log says about it."""

from __future__ import annotations

import pytest

from suanli.model import EventKind, ReplicaPhase
from suanli.model.telemetry import ReplicaReport
from suanli.model.units import local_time
from tests.builders import City, PlainScorer, a_fleet, a_site, a_twin, a_workload, given, name_of
from tests.placement_oracle import violations_of


def full_room(nodes: int = 2, checkpoint_s: int = 0) -> City:
    """Every node (4 cores) full of four preemptible batch replicas, all running for 1000 s."""
    work = [a_workload(f"b{i}").lasts(9000).preemptible(checkpoint_s) for i in range(4 * nodes)]
    city = given(a_fleet(a_site("e01").cpus(nodes=nodes, cores=4))).submits(*work).when_planned().all_run()
    city.now_s += 1000
    return city


def preempted(city: City) -> list[str]:
    return [e.subject.split("/")[3] for e in city.events(EventKind.REPLICA_PREEMPTED)]


@pytest.mark.parametrize("priority", ["hard_safety", "public_service"])
def test_urgent_work_takes_the_place_of_preemptible_batch(priority):
    city = full_room().submits(a_workload("plc").priority(priority)).when_planned().expect("plc", replicas=1)
    assert len(preempted(city)) == 1
    assert violations_of(city) == []


@pytest.mark.parametrize("priority", ["interactive", "batch"])
def test_other_work_waits_its_turn(priority):
    full_room().submits(a_workload("w").priority(priority)).when_planned().expect_waiting("w")


def test_only_preemptible_batch_gives_way():
    fleet = a_fleet(a_site("e01").cpus(nodes=1, cores=2))
    city = given(fleet).submits(a_workload("fixed"), a_workload("chat").priority("interactive").preemptible())
    city.when_planned().submits(a_workload("plc").priority("hard_safety")).when_planned().expect_waiting(
        "plc"
    )


def test_free_room_is_used_before_anybody_has_to_leave():
    city = full_room().cancels("b5").submits(a_workload("plc").priority("hard_safety")).when_planned()
    city.expect("plc", replicas=1)
    assert preempted(city) == []


def test_the_stop_order_comes_before_the_start_and_says_who_why_and_what_for():
    city = full_room(nodes=1).submits(a_workload("plc").priority("hard_safety")).when_planned()
    kinds = [e.kind for e in city.log[-6:]]
    assert kinds == [
        EventKind.REPLICA_STOP_ORDERED,
        EventKind.REPLICA_PREEMPTED,
        EventKind.REPLICA_START_ORDERED,
        EventKind.WORKLOAD_STATE,
        EventKind.WORKLOAD_STATE,
        EventKind.ROUND_COMMITTED,
    ]
    assert city.stop_kinds("b0") == {"preempted"}
    (event,) = city.events(EventKind.REPLICA_PREEMPTED)
    assert event.body == {
        "by": name_of("plc"),
        "cause": "hard_safety work found no free room",
        "site_id": "e01",
        "workload": name_of("b0"),
        "lost_gpu_hours": round(1000 * 0.1 / 3600, 6),
        "gained_gpu": 0.0,
        "gain": f"{name_of('plc')} starts now instead of waiting",
    }
    assert city.log[-1].body["preempted"] == 1
    city.expect("b0", state="pending")


def test_who_gave_way_is_told_why_and_what_it_lost_until_it_runs_again():
    city = full_room(nodes=1).submits(a_workload("plc", tenant="other").priority("hard_safety"))
    at_s = city.when_planned().now_s
    summary = city.explain("b0").summary
    told = (
        f"stopped at {local_time(at_s, 8)}: it gave way, for hard_safety work found no free room; "
        f"{1000 * 0.1 / 3600:.2g} GPU-hours of its work are lost"
    )
    assert summary.endswith(told)
    in_lists = city.cycle.waiting(city.state, at_s, [name_of("b0")])[name_of("b0")].summary
    assert in_lists == f"cpu short at 1 site; {told}", "`suanli get` and `suanli watch` print this"
    assert "plc" not in summary, "other tenants' work has no name"
    assert city.replayed().digest() == city.state.digest()
    city.cancels("tenants/other/workloads/plc").when_planned(after_s=100).expect("b0", replicas=1)
    assert city.state.stopped == {}


def test_who_loses_least_work_leaves_first():
    """b2 was started 900 s after the others: it loses 100 s, they lose 1000 s."""
    fleet = a_fleet(a_site("e01").cpus(nodes=1, cores=4))
    city = given(fleet).submits(*(a_workload(f"b{i}").lasts(9000).preemptible() for i in (0, 1, 3)))
    city.when_planned().all_run().now_s += 900
    city.submits(a_workload("b2").lasts(9000).preemptible()).when_planned().all_run().now_s += 100
    city.submits(a_workload("plc").priority("hard_safety")).when_planned()
    assert preempted(city) == ["b2"]


def test_a_recent_checkpoint_makes_the_loss_small():
    """At 1000 s the one with checkpoints every 300 s loses 100 s, the one without loses everything."""
    fleet = a_fleet(a_site("e01").cpus(nodes=1, cores=2))
    city = given(fleet).submits(
        a_workload("raw").lasts(9000).preemptible(), a_workload("saved").lasts(9000).preemptible(300)
    )
    city.when_planned().all_run().now_s += 1000
    city.submits(a_workload("plc").priority("hard_safety")).when_planned()
    assert preempted(city) == ["saved"]


def test_the_node_where_least_is_lost_is_taken():
    """Both nodes need two replicas gone; those of the second node have run for a shorter time."""
    fleet = a_fleet(a_site("e01").cpus(nodes=2, cores=2))
    city = given(fleet).submits(*(a_workload(f"old{i}").lasts(9000).preemptible() for i in range(2)))
    city.when_planned().all_run().now_s += 5000
    city.submits(
        *(a_workload(f"new{i}").lasts(9000).preemptible() for i in range(2))
    ).when_planned().all_run()
    city.now_s += 100
    city.submits(a_workload("plc").cpu(2).priority("hard_safety")).when_planned()
    assert sorted(preempted(city)) == ["new0", "new1"]


def test_nobody_leaves_in_vain():
    """One replica of two cores holds all that is asked for: the small ones stay though they lose less."""
    fleet = a_fleet(a_site("e01").cpus(nodes=1, cores=4))
    city = given(fleet).submits(a_workload("big").cpu(2).lasts(9000).preemptible()).when_planned().all_run()
    city.now_s += 500
    city.submits(*(a_workload(f"s{i}").lasts(9000).preemptible() for i in range(2))).when_planned().all_run()
    city.submits(a_workload("plc").cpu(2).priority("hard_safety")).when_planned()
    assert sorted(preempted(city)) == ["s0", "s1"]
    city.submits(a_workload("plc2").cpu(2).priority("hard_safety")).when_planned()
    assert sorted(preempted(city)) == ["big", "s0", "s1"]


def test_who_was_chosen_first_stays_when_a_later_choice_made_enough_room():
    """Three cores, a young small one and an older big one: two cores are asked for, the big one alone gives them."""
    city = given(a_fleet(a_site("e01").cpus(nodes=1, cores=3)))
    city.submits(a_workload("big").cpu(2).lasts(9000).preemptible()).when_planned().all_run().now_s += 500
    city.submits(a_workload("small").lasts(9000).preemptible()).when_planned().all_run()
    city.submits(a_workload("plc").cpu(2).priority("hard_safety")).when_planned().expect("plc", replicas=1)
    assert preempted(city) == ["big"]
    city.expect("small", replicas=1)


def test_nothing_is_preempted_where_even_that_makes_no_room():
    city = (
        full_room()
        .submits(a_workload("plc").cpu(4).at("e01").replicas(2).priority("hard_safety"))
        .when_planned()
    )
    city.expect("plc", replicas=2)
    other = full_room(nodes=1)
    other.submits(a_workload("twice").cpu(4).priority("hard_safety")).when_planned().expect(
        "twice", replicas=1
    )
    other.submits(a_workload("more").cpu(4).priority("hard_safety")).when_planned().expect_waiting("more")
    assert len(preempted(other)) == 4


def test_gpus_are_freed_on_the_devices_that_are_needed():
    fleet = a_fleet(a_site("e01").gpus("l20", nodes=1, per_node=2, cores=8))
    city = given(fleet).submits(
        *(a_workload(f"b{i}").gpus(l20=500).lasts(9000).preemptible() for i in range(4))
    )
    city.when_planned().all_run().submits(
        a_workload("plc").gpus(l20=1000).priority("hard_safety")
    ).when_planned()
    order = city.events(EventKind.REPLICA_START_ORDERED)[-1].body["command"]
    assert len(preempted(city)) == 2
    assert order["gpu_ids"] in ([0], [1])
    assert violations_of(city) == []


def test_a_gang_gives_way_as_a_whole():
    fleet = a_fleet(a_site("e01").cpus(nodes=2, cores=2))
    city = (
        given(fleet)
        .submits(a_workload("g").cpu(2).gang(2).lasts(9000).preemptible())
        .when_planned()
        .all_run()
    )
    city.submits(a_workload("plc").priority("hard_safety")).when_planned().expect("plc", replicas=1)
    city.expect("g", replicas=0, state="pending")
    assert len(preempted(city)) == 2


def test_a_spread_and_a_twin_can_make_room_too():
    city = full_room().submits(
        a_workload("pair").cpu(2).replicas(2).spread("node", 2).priority("hard_safety")
    )
    city.when_planned().expect("pair", replicas=2)
    assert len({p.node_index for p in city.placements("pair").values()}) == 2
    assert len(preempted(city)) == 4
    twin = a_twin("twin").priority("public_service")
    city.submits(twin).when_planned().expect("twin", replicas=3)
    assert len(preempted(city)) == 7
    assert violations_of(city) == []


def test_power_limits_hold_while_room_is_made():
    """Two nodes of 300 W idle under a limit of 0.62 kW: the batch leaves, and the limit still binds."""
    fleet = a_fleet(a_site("e01").cpus(nodes=2, cores=4).power_limit_kw(0.62))
    city = (
        given(fleet)
        .submits(*(a_workload(f"b{i}").lasts(9000).preemptible() for i in range(8)))
        .when_planned()
    )
    city.all_run().submits(
        *(a_workload(f"p{i}").cpu(2).priority("hard_safety") for i in range(3))
    ).when_planned()
    assert violations_of(city) == []


def test_the_displaced_replica_starts_again_from_its_checkpoint():
    city = full_room(nodes=1, checkpoint_s=300).submits(a_workload("plc").lasts(60).priority("hard_safety"))
    city.when_planned()
    victim = city.events(EventKind.REPLICA_PREEMPTED)[0].subject
    city.reports(
        ReplicaReport(placement_id=victim, phase=ReplicaPhase.STOPPED, at_s=city.now_s, done_work_s=900)
    )
    city.when_planned().all_run().ended("plc", ReplicaPhase.SUCCEEDED).when_planned()
    order = city.events(EventKind.REPLICA_START_ORDERED)[-1].body["command"]
    assert (order["workload"], order["done_work_s"]) == (victim.split("/main")[0], 900)


def test_planning_again_preempts_nobody_else():
    city = full_room().submits(a_workload("plc").priority("hard_safety")).when_planned()
    revision = city.state.revision
    city.when_planned()
    assert city.state.revision == revision


def test_a_site_that_costs_more_but_has_room_is_preferred_to_preemption():
    fleet = a_fleet(a_site("e01").cpus(nodes=1, cores=1), a_site("e02").cpus(nodes=1, cores=1))
    city = (
        given(fleet, PlainScorer({"e02": 500.0}))
        .submits(a_workload("b").lasts(900).preemptible())
        .when_planned()
    )
    city.submits(a_workload("plc").priority("hard_safety")).when_planned().expect("plc", on="e02")
    assert preempted(city) == []


def test_a_gang_with_two_members_on_one_node_gives_its_room_only_once():
    """Four cores: a gang of two that loses little, a job that loses more, work that stays. The PLC needs three."""
    city = given(a_fleet(a_site("e01").cpus(nodes=1, cores=4)))
    city.submits(a_workload("gang").gang(2).lasts(9000).preemptible(1), a_workload("stays")).when_planned()
    city.submits(a_workload("job").lasts(9000).preemptible()).when_planned().all_run()
    city.now_s += 60
    city.submits(a_workload("plc").cpu(3).priority("hard_safety")).when_planned().expect("plc", replicas=1)
    assert sorted(preempted(city)) == ["gang", "gang", "job"]
    assert violations_of(city) == []
