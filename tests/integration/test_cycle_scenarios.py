"""The cycle from submission to end, without a service: what a reviewer would say aloud, one rule at a time."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.service.history import History
from scheduler.service.views import workload_statuses
from suanli.model import EventKind, NotFound, ReplicaPhase, TelemetryReport
from suanli.model.errors import InvalidRequest
from suanli.model.telemetry import ReplicaReport, SiteMeter
from tests.builders import START_S, City, PlainScorer, a_fleet, a_site, a_twin, a_workload, given, name_of
from tests.placement_oracle import violations_of

HOUR_S = 3600


def two_edges() -> a_fleet:
    return a_fleet(a_site("e01").cpus(nodes=2, cores=8), a_site("e02").cpus(nodes=2, cores=8))


# ---------------------------------------------------------------------- life of a workload


def test_work_goes_from_pending_to_succeeded():
    city = given(two_edges()).submits(a_workload("w").lasts(600).replicas(2))
    city.expect("w", replicas=0, state="pending").when_planned().expect("w", replicas=2, state="starting")
    city.all_run().expect("w", state="running")
    city.ended("w", ReplicaPhase.SUCCEEDED).expect("w", replicas=0, state="succeeded")
    assert violations_of(city) == []


def test_a_workload_is_running_while_any_replica_runs_and_succeeded_only_when_all_are_done():
    city = given(two_edges()).submits(a_workload("w").lasts(600).replicas(2)).when_planned().all_run()
    first, second = sorted(city.placements("w"))
    city.reports((first, ReplicaPhase.SUCCEEDED)).expect("w", state="running")
    city.reports((second, ReplicaPhase.SUCCEEDED)).expect("w", state="succeeded")


def test_a_batch_larger_than_the_fleet_takes_turns_and_counts_what_is_done():
    """Five on four nodes: the fifth starts when the first has ended."""
    city = given(two_edges()).submits(a_workload("w").cpu(8).lasts(600).replicas(5)).when_planned().all_run()
    assert replica_counts(city, "w") == (4, 4, 0)
    city.reports((sorted(city.placements("w"))[0], ReplicaPhase.SUCCEEDED))
    assert replica_counts(city, "w") == (3, 3, 1)
    city.when_planned()
    assert replica_counts(city, "w") == (4, 3, 1)
    assert violations_of(city) == []


def replica_counts(city: City, name: str) -> tuple[int, int, int]:
    """Placed, running and done, as the API says."""
    history = History()
    history.apply(city.log)
    found = workload_statuses(city.state, history, [name_of(name)]).get(name_of(name))
    assert found is not None
    return found.placed_replica_count, found.running_replica_count, found.done_replica_count


def test_the_cheapest_site_takes_the_work_and_the_next_one_what_is_left():
    city = given(two_edges(), PlainScorer({"e01": 1.0, "e02": 2.0})).submits(
        a_workload("w").cpu(4).replicas(6)
    )
    city.when_planned()
    assert city.sites_of("w") == {"e01": 4, "e02": 2}


def test_planning_again_proposes_nothing():
    city = given(two_edges()).submits(a_workload("a").replicas(3), a_workload("big").cpu(8).replicas(4))
    city.when_planned()
    revision = city.state.revision
    city.when_planned()
    assert city.state.revision == revision


def test_work_waits_for_its_start_time():
    city = given(two_edges()).submits(a_workload("w").not_before(START_S + HOUR_S)).when_planned()
    city.expect_waiting("w").when_planned(after_s=HOUR_S - 1).expect_waiting("w")
    city.when_planned(after_s=1).expect("w", replicas=1)


def test_an_unplaceable_head_blocks_nobody():
    city = given(two_edges()).submits(a_workload("full").at("e01").cpu(1))
    city.when_planned().submits(
        a_workload("gang").at("e01").cpu(8).gang(2), a_workload("small")
    ).when_planned()
    city.expect_waiting("gang").expect("small", replicas=1)


def test_hard_safety_comes_before_all_others_whatever_the_order_of_submission():
    city = given(a_fleet(a_site("e01").cpus(nodes=1, cores=2))).submits(
        a_workload("batch"),
        a_workload("chat").priority("interactive"),
        a_workload("lamp").priority("public_service"),
        a_workload("plc").priority("hard_safety"),
    )
    city.when_planned().expect("plc", replicas=1).expect("lamp", replicas=1)
    city.expect_waiting("chat").expect_waiting("batch")


# ---------------------------------------------------------------------- cancelling, failing, losing


def test_cancel_stops_every_placement_and_is_idempotent():
    city = given(two_edges()).submits(a_workload("w").replicas(3)).when_planned().all_run().cancels("w")
    city.expect("w", replicas=0, state="cancelled")
    revision = city.state.revision
    city.cancels("w")
    assert city.state.revision == revision
    with pytest.raises(NotFound):
        city.cancels("nobody")


def test_what_a_cancelled_placement_delivered_is_still_booked():
    city = given(two_edges()).submits(a_workload("w")).when_planned().all_run()
    (placement,) = city.placements("w")
    city.cancels("w").reports(
        ReplicaReport(placement_id=placement, phase=ReplicaPhase.STOPPED, at_s=city.now_s, delivered_gpu_s=77)
    )
    assert [e.body["delivered_gpu_s"] for e in city.events(EventKind.REPLICA_ENDED)] == [77]
    city.expect("w", state="cancelled")


def test_a_lost_replica_waits_again_and_keeps_what_it_had_checkpointed():
    city = given(two_edges(), PlainScorer({"e02": 2.0})).submits(a_workload("w").lasts(1000).preemptible(100))
    city.when_planned().expect("w", on="e01").all_run()
    city.site_fails("e01", done_work_s=400).expect("w", state="pending").when_planned().expect("w", on="e02")
    order = city.events(EventKind.REPLICA_START_ORDERED)[-1].body["command"]
    assert (order["placement_id"], order["done_work_s"]) == (name_of("w") + "/main/0#1", 400)


def test_a_failed_site_takes_nothing_until_it_returns():
    city = given(a_fleet(a_site("e01").cpus(nodes=1))).submits(a_workload("w")).when_planned().all_run()
    city.site_fails("e01").when_planned().expect_waiting("w")
    city.site_returns("e01").when_planned().expect("w", on="e01")
    assert violations_of(city) == []


def test_one_failed_replica_fails_finite_work_and_stops_the_others():
    city = given(two_edges()).submits(a_workload("w").lasts(600).replicas(3)).when_planned().all_run()
    first, *others = sorted(city.placements("w"))
    city.reports((first, ReplicaPhase.FAILED)).expect("w", replicas=0, state="failed")
    assert sorted(e.subject for e in city.events(EventKind.REPLICA_STOP_ORDERED)) == others
    assert city.stop_kinds("w") == {"partner_failed"}


def test_replicas_that_ended_in_the_same_report_as_the_failure_are_not_stopped():
    city = given(two_edges()).submits(a_workload("w").lasts(600).replicas(3)).when_planned().all_run()
    a, b, c = sorted(city.placements("w"))
    city.reports((a, ReplicaPhase.FAILED), (b, ReplicaPhase.LOST))
    assert [e.subject for e in city.events(EventKind.REPLICA_STOP_ORDERED)] == [c]


def test_a_failed_service_is_started_again():
    city = given(two_edges()).submits(a_workload("w")).when_planned().all_run()
    city.ended("w", ReplicaPhase.FAILED).expect("w", state="pending").when_planned().expect("w", replicas=1)


def test_nothing_follows_a_final_state():
    city = given(two_edges()).submits(a_workload("w").lasts(60).replicas(2)).when_planned().all_run()
    a, b = sorted(city.placements("w"))
    city.reports((a, ReplicaPhase.FAILED)).reports((b, ReplicaPhase.STOPPED)).when_planned(after_s=600)
    city.expect("w", replicas=0, state="failed")


# ---------------------------------------------------------------------- gangs


def gang_fleet() -> a_fleet:
    """Two islands of two nodes at dc, one free node at e01: 4 GPUs a node."""
    return a_fleet(a_site("dc", "cloud").gpus("h20", nodes=4, island=2), a_site("e01").gpus("h20", nodes=1))


def test_a_gang_starts_whole_in_one_island():
    city = given(gang_fleet()).submits(a_workload("g").gpus(h20=4000).gang(2)).when_planned()
    assert {p.node_index // 2 for p in city.placements("g").values()} == {0}
    assert violations_of(city) == []


def test_a_gang_larger_than_an_island_may_span_islands_of_its_pool():
    city = given(gang_fleet()).submits(a_workload("g").gpus(h20=4000).gang(3)).when_planned()
    city.expect("g", on="dc", replicas=3)


def test_a_gang_waits_rather_than_start_in_parts():
    city = given(gang_fleet()).submits(
        a_workload("a").gpus(h20=4000).at("dc"), a_workload("b").gpus(h20=4000).at("dc")
    )
    city.when_planned().submits(a_workload("g").gpus(h20=4000).gang(4)).when_planned().expect_waiting("g")


def test_a_gang_does_not_span_islands_because_they_are_half_full():
    """Two nodes are free, one in each island: a gang of two would fit in one empty island, so it waits."""
    city = given(a_fleet(a_site("dc", "cloud").gpus("h20", nodes=4, island=2)))
    city.submits(*(a_workload(f"w{i}").gpus(h20=4000) for i in range(4))).when_planned()
    by_node = {
        p.node_index: name for name in ("w0", "w1", "w2", "w3") for p in city.placements(name).values()
    }
    city.cancels(by_node[0]).cancels(by_node[2])
    city.submits(a_workload("g").gpus(h20=4000).gang(2)).when_planned().expect_waiting("g")
    city.cancels(by_node[3]).when_planned().expect("g", replicas=2)
    assert violations_of(city) == []


def test_a_gang_that_lost_a_member_starts_again_together_from_the_least_that_was_kept():
    city = given(gang_fleet()).submits(a_workload("g").gpus(h20=4000).gang(2).lasts(9000).preemptible(600))
    city.when_planned().all_run()
    a, b = sorted(city.placements("g"))
    city.reports(ReplicaReport(placement_id=a, phase=ReplicaPhase.LOST, at_s=city.now_s, done_work_s=1200))
    city.when_planned(after_s=120).expect("g", replicas=1)
    city.reports(ReplicaReport(placement_id=b, phase=ReplicaPhase.LOST, at_s=city.now_s, done_work_s=600))
    city.when_planned().expect("g", replicas=2)
    orders = [e.body["command"] for e in city.events(EventKind.REPLICA_START_ORDERED)[-2:]]
    assert [(c["gang_size"], c["done_work_s"]) for c in orders] == [(2, 600), (2, 600)]
    assert city.state.replicas["done_work_s"].tolist() == [600, 600]


def test_the_rest_of_a_gang_whose_other_members_are_done_starts_as_a_smaller_gang():
    city = (
        given(gang_fleet())
        .submits(a_workload("g").gpus(h20=4000).gang(2).lasts(900))
        .when_planned()
        .all_run()
    )
    a, b = sorted(city.placements("g"))
    city.reports((a, ReplicaPhase.SUCCEEDED), (b, ReplicaPhase.LOST)).when_planned().expect("g", replicas=1)
    assert city.events(EventKind.REPLICA_START_ORDERED)[-1].body["command"]["gang_size"] == 1


# ---------------------------------------------------------------------- spread, colocation, pipelines


def test_replicas_spread_over_nodes():
    city = given(two_edges()).submits(a_workload("w").replicas(3).spread("node", 3)).when_planned()
    assert len(set(city.placements("w").values())) == 3


def test_replicas_spread_over_sites_even_where_one_is_dearer():
    city = given(two_edges(), PlainScorer({"e02": 9.0})).submits(
        a_workload("w").replicas(3).spread("site", 2)
    )
    city.when_planned().expect("w", on={"e01", "e02"}, replicas=3)


def test_a_lost_replica_comes_back_on_a_domain_of_its_own():
    city = given(two_edges()).submits(a_workload("w").replicas(2).spread("site", 2)).when_planned().all_run()
    city.site_fails("e02").when_planned().expect("w", on="e01", replicas=1)
    city.site_returns("e02").when_planned().expect("w", on={"e01", "e02"})


def test_a_gang_may_be_spread_over_nodes():
    city = given(a_fleet(a_site("dc", "cloud").cpus(nodes=3, cores=8)))
    city.submits(a_workload("g").gang(4).spread("node", 3)).when_planned()
    assert len(set(city.placements("g").values())) == 3
    assert len(city.placements("g")) == 4


def test_a_twin_keeps_its_loop_within_the_budget():
    """Network: 1 ms access twice, sites 10 ms from the hub; e01 to e02 is 20 ms. Processing is 30 ms."""
    fleet = a_fleet(
        a_site("e01").cpus(nodes=2, cores=2).rtt(10), a_site("e02").cpus(nodes=2, cores=2).rtt(10)
    )
    tight = 2 * (1 + 10) + 3 * 10
    city = given(fleet).submits(a_twin("near", budget_ms=tight), a_twin("far", budget_ms=tight + 20 + 20))
    city.when_planned()
    assert len(set(city.stage_sites("near").values())) == 1
    city.expect("far", replicas=3)
    assert violations_of(city) == []


def test_a_twin_is_placed_whole_or_not_at_all():
    city = given(a_fleet(a_site("e01").cpus(nodes=1, cores=2))).submits(a_twin("t")).when_planned()
    city.expect_waiting("t")


def test_colocated_stages_lie_on_one_site():
    fleet = a_fleet(a_site("e01").cpus(nodes=1, cores=2), a_site("e02").cpus(nodes=1, cores=4))
    twin = (
        a_workload("t").stage("ingest", cpu_milli=2000).stage("sync", cpu_milli=2000, colocate_with="ingest")
    )
    city = given(fleet, PlainScorer({"e02": 5.0})).submits(twin).when_planned()
    assert city.stage_sites("t") == {"ingest": "e02", "sync": "e02"}


def sharing(name: str, owner: str, budget_ms: float = 100.0) -> a_workload:
    twin = a_twin(name, budget_ms)
    twin.stages[1]["shared_with"] = name_of(owner)
    return twin


def test_a_shared_stage_is_placed_once_and_the_sharer_follows_it():
    fleet = a_fleet(a_site("e01").cpus(nodes=4).rtt(10), a_site("e02").cpus(nodes=4).rtt(10))
    owner = a_twin("owner", budget_ms=52)
    owner.stages[1]["site_ids"] = ("e02",)
    city = given(fleet).submits(sharing("guest", "owner", budget_ms=52), owner).when_planned()
    assert city.stage_sites("owner")["sync"] == "e02"
    assert city.stage_sites("guest") == {"ingest": "e02", "render": "e02"}
    assert violations_of(city) == []


def test_a_sharer_waits_for_the_owner_of_its_stage():
    fleet = a_fleet(a_site("e01").cpus(nodes=1, cores=4), a_site("e02").cpus(nodes=1, cores=2))
    city = given(fleet).submits(a_workload("full").at("e01").cpu(4)).when_planned()
    owner = a_twin("owner").at("e01")
    owner.stages[1]["site_ids"] = ("e01",)
    city.submits(owner, sharing("guest", "owner")).when_planned().expect_waiting("guest").expect_waiting(
        "owner"
    )
    assert "a shared stage lies where its owner runs it" in city.explain("guest").conflict
    city.cancels("full").when_planned().expect("owner", replicas=3).expect("guest", replicas=2)


def test_an_owner_lies_where_those_who_wait_to_share_with_it_can_follow():
    """The cheap site would do for the owner alone, but its sharer keeps data in a medical site."""
    fleet = a_fleet(a_site("e01").cpus(nodes=4), a_site("e02").cpus(nodes=4).labels(residency="medical"))
    guest = sharing("guest", "owner")
    guest.stages[1]["require_any"] = ({"residency": "medical"},)
    city = given(fleet, PlainScorer({"e01": 1.0, "e02": 9.0})).submits(a_twin("owner"), guest).when_planned()
    assert city.stage_sites("owner")["sync"] == "e02"
    city.expect("guest", replicas=2)


def test_sharers_follow_when_what_they_share_has_to_go_elsewhere():
    fleet = a_fleet(a_site("e01").cpus(nodes=4).rtt(10), a_site("e02").cpus(nodes=4).rtt(10))
    city = given(fleet, PlainScorer({"e02": 2.0})).submits(a_twin("owner", 52)).when_planned().all_run()
    guest = sharing("guest", "owner", 52)
    city.submits(guest).when_planned().all_run().expect("guest", on="e01")
    lost = list(city.placements("owner"))
    city.apply(city.cycle.cordon(city.state, city.now_s, "e01", True))
    city.reports(*((i, ReplicaPhase.LOST) for i in lost)).when_planned().expect("owner", on="e02")
    city.expect("guest", replicas=0, state="pending").when_planned(after_s=61).expect("guest", on="e02")


def a_twin_that_lost(stage: str, *, budget_ms: float, second: a_site, **of_stages: Any) -> City:
    """A twin on e01 whose one stage is lost while e01 takes nothing new; `second` is the other site."""
    twin = a_twin("t", budget_ms)
    for of_stage in twin.stages:
        of_stage |= of_stages
    city = given(a_fleet(a_site("e01").cpus(nodes=4).rtt(10), second), PlainScorer({"e02": 2.0}))
    city.submits(twin).when_planned().all_run().expect("t", on="e01", replicas=3)
    (lost,) = [i for i in city.placements("t") if f"/{stage}/" in i]
    city.apply(city.cycle.cordon(city.state, city.now_s, "e01", True))
    return city.reports((lost, ReplicaPhase.LOST))


def stops_and_returns(city: City) -> City:
    """What was told to stop has stopped, and rounds go on."""
    stopped = [e.subject for e in city.events(EventKind.REPLICA_STOP_ORDERED)]
    return city.reports(*((i, ReplicaPhase.STOPPED) for i in stopped), after_s=5).when_planned()


def test_one_stage_is_placed_anew_without_the_others_noticing():
    city = a_twin_that_lost("sync", budget_ms=200, second=a_site("e02").cpus(nodes=4).rtt(10)).when_planned()
    assert city.stage_sites("t") == {"ingest": "e01", "sync": "e02", "render": "e01"}
    assert city.events(EventKind.REPLICA_STOP_ORDERED) == []


def test_a_stage_that_has_no_place_beside_the_others_takes_them_along():
    """52 ms keep the loop on one site, and its site takes nothing new: without the others it would wait for ever."""
    city = a_twin_that_lost("sync", budget_ms=52, second=a_site("e02").cpus(nodes=4).rtt(10)).when_planned()
    causes = {e.body["cause"] for e in city.events(EventKind.REPLICA_STOP_ORDERED)}
    assert causes == {"sync has no place beside it, so they go elsewhere together"}
    assert city.stop_kinds("t") == {"displaced"}
    stops_and_returns(city)
    assert city.stage_sites("t") == dict.fromkeys(("ingest", "sync", "render"), "e02")
    assert violations_of(city) == []


def test_nothing_is_stopped_for_a_stage_when_there_is_no_room_for_all():
    full = a_site("e02").cpus(nodes=1, cores=2).rtt(10)
    city = a_twin_that_lost("sync", budget_ms=52, second=full).when_planned()
    assert city.stage_sites("t") == {"ingest": "e01", "render": "e01"}
    assert city.events(EventKind.REPLICA_STOP_ORDERED) == []


def test_work_without_checkpoints_is_not_stopped_for_another_stage():
    second = a_site("e02").cpus(nodes=4).rtt(10)
    city = a_twin_that_lost("sync", budget_ms=52, second=second, duration_s=9000).when_planned()
    assert city.stage_sites("t") == {"ingest": "e01", "render": "e01"}


def test_as_few_stages_leave_as_can_be():
    """The loop needs sync and render on one site; ingest is not part of it and stays."""
    fleet = a_fleet(a_site("e01").cpus(nodes=4).rtt(10), a_site("e02").cpus(nodes=4).rtt(10))
    twin = a_twin("t", 200.0).path(2 * 11 + 20.0, "zones/z1", "stages/sync", "stages/render", "zones/z1")
    twin.stages[1]["site_ids"] = ("e01", "e02")
    city = given(fleet, PlainScorer({"e02": 2.0})).submits(twin).when_planned().all_run()
    (lost,) = [i for i in city.placements("t") if "/sync/" in i]
    city.apply(city.cycle.cordon(city.state, city.now_s, "e01", True))
    stops_and_returns(city.reports((lost, ReplicaPhase.LOST)).when_planned())
    assert city.stage_sites("t") == {"ingest": "e01", "sync": "e02", "render": "e02"}


def test_cancelling_the_owner_sends_its_sharers_back_to_wait():
    city = given(a_fleet(a_site("e01").cpus(nodes=4))).submits(a_twin("owner"), sharing("guest", "owner"))
    city.when_planned().all_run().cancels("owner").expect("guest", replicas=0, state="pending")
    assert (city.stop_kinds("owner"), city.stop_kinds("guest")) == ({"cancelled"}, {"displaced"})
    city.when_planned(after_s=100).expect_waiting("guest")


# ---------------------------------------------------------------------- deferral


def test_deferrable_work_waits_for_the_plan_and_says_so_once():
    scorer = PlainScorer(wanted_deferred=1)
    city = given(two_edges().cheaper_from(6), scorer).submits(
        *(a_workload(f"d{i}").lasts(600).deferrable(START_S + 10 * HOUR_S) for i in range(3))
    )
    city.when_planned()
    started = [n for n in ("d0", "d1", "d2") if city.placements(n)]
    assert started == ["d0"]
    city.expect("d1", state="planned").expect("d2", state="planned")
    revision = city.state.revision
    city.when_planned()
    assert city.state.revision == revision


def test_deferrable_work_starts_in_time_for_its_deadline():
    city = given(two_edges().cheaper_from(2), PlainScorer(wanted_deferred=0))
    city.submits(
        a_workload("d").lasts(HOUR_S).deferrable(START_S + 3 * HOUR_S)
    ).when_planned().expect_waiting("d")
    city.when_planned(after_s=HOUR_S).expect_waiting("d")
    city.when_planned(after_s=HOUR_S - 900).expect("d", replicas=1)


def test_a_deferrable_gang_starts_when_the_plan_wants_half_of_it():
    scorer = PlainScorer(wanted_deferred=1)
    city = given(a_fleet(a_site("dc", "cloud").cpus(nodes=4, cores=1)).cheaper_from(6), scorer)
    city.submits(a_workload("g").gang(4).lasts(600).deferrable(START_S + 24 * HOUR_S)).when_planned()
    city.expect_waiting("g")
    scorer.wanted_deferred = 2
    city.when_planned().expect("g", replicas=4)


# ---------------------------------------------------------------------- quotas, closed sites, moves


def test_quotas_of_the_plan_come_before_prices():
    city = given(two_edges(), PlainScorer({"e01": 1.0, "e02": 2.0}, quotas={0: {1: 2.0}}))
    city.submits(a_workload("w").replicas(3)).when_planned()
    assert city.sites_of("w") == {"e02": 2, "e01": 1}


@pytest.mark.parametrize(("work", "sites"), [("cpu", {"far": 3}), ("gpu", {"far": 2, "near": 1})])
def test_what_the_plan_wants_of_work_without_gpus_speaks_of_a_whole_site(work: str, sites: dict[str, int]):
    """It wants three at the far site's GPU nodes, which hold two, while nodes without GPU stand beside them."""
    far = a_site("far").gpus("l20", per_node=2, cores=2).cpus(nodes=1, cores=4)
    scorer = PlainScorer({"near": 1.0, "far": 2.0}, quotas={0: {1: 3.0}})
    city = given(a_fleet(a_site("near").gpus("l20", per_node=4, cores=8), far), scorer)
    one = a_workload("w") if work == "cpu" else a_workload("w").gpus(l20=1000)
    assert city.submits(one.replicas(3)).when_planned().sites_of("w") == sites


def test_a_closed_site_is_opened_only_when_nothing_open_can_take_the_work():
    scorer = PlainScorer({"e01": 1.0, "e02": 500.0}, closed=frozenset({"e01"}))
    city = given(two_edges(), scorer).submits(a_workload("w").cpu(8).replicas(3)).when_planned()
    assert city.sites_of("w") == {"e02": 2, "e01": 1}


def moving_city() -> City:
    city = (
        given(two_edges(), PlainScorer({"e01": 1.0, "e02": 2.0}))
        .submits(a_workload("w"))
        .when_planned()
        .all_run()
    )
    city.expect("w", on="e01")
    city.strategy.plain.cost_by_site = {"e01": 90.0, "e02": 2.0}
    city.strategy.plain.quotas = {0: {1: 1.0}}
    city.strategy.guide = {"closing_yuan_per_hour": [0.0, 0.0]}
    return city.when_planned(after_s=60)


def test_a_move_starts_the_new_placement_before_the_old_one_stops():
    city = moving_city()
    move = city.events(EventKind.REPLICA_MOVED)[0].body
    assert (move["from_site_id"], move["to_site_id"], move["mode"]) == ("e01", "e02", "edge_edge")
    assert move["gain_yuan"] == (90 - 2) * 6
    city.expect("w", on={"e01", "e02"}, replicas=2, state="running")
    city.all_run().expect("w", on="e02", replicas=1, state="running")
    assert len(city.events(EventKind.REPLICA_STOP_ORDERED)) == 1
    assert city.stop_kinds("w") == {"moved"}
    assert violations_of(city) == []


def movable(work: a_workload) -> City:
    """Running for 1000 s at e01, where the plan no longer wants it."""
    city = given(two_edges(), PlainScorer({"e01": 1.0, "e02": 2.0})).submits(work).when_planned().all_run()
    city.strategy.plain.cost_by_site, city.strategy.plain.quotas = {"e01": 90.0, "e02": 2.0}, {0: {1: 1.0}}
    city.strategy.guide = {}
    return city.when_planned(after_s=1000)


def test_work_without_checkpoints_is_not_moved_for_it_would_begin_anew():
    city = movable(a_workload("w").lasts(9000))
    assert city.events(EventKind.REPLICA_MOVED) == []


def test_work_with_checkpoints_moves_and_goes_on_from_the_last_one():
    city = movable(a_workload("w").lasts(9000).preemptible(300))
    assert len(city.events(EventKind.REPLICA_MOVED)) == 1
    assert city.events(EventKind.REPLICA_START_ORDERED)[-1].body["command"]["done_work_s"] == 900


def test_a_workload_stays_running_while_its_only_replica_moves():
    city = moving_city()
    (old,) = [i for i in city.placements("w") if i.endswith("#0")]
    city.reports((old, ReplicaPhase.RUNNING)).expect("w", state="running")


def test_when_the_target_of_a_move_is_lost_the_old_placement_goes_on():
    city = moving_city()
    city.site_fails("e02").expect("w", on="e01", replicas=1, state="running")
    city.when_planned().all_run()
    assert city.state_of("w") == "running"
    assert violations_of(city) == []


def test_when_the_source_of_a_move_is_lost_the_new_placement_goes_on():
    city = moving_city()
    city.site_fails("e01").expect("w", on="e02", replicas=1, state="starting").all_run().expect(
        "w", state="running"
    )
    assert city.state.draining == {}


def test_cancelling_a_moving_workload_stops_both_ends():
    city = moving_city().cancels("w").expect("w", replicas=0, state="cancelled")
    assert len(city.events(EventKind.REPLICA_STOP_ORDERED)) == 2
    assert city.stop_kinds("w") == {"cancelled"}
    nodes = city.state.nodes
    assert nodes is not None
    assert nodes.cpu_milli.tolist() == [8000] * 4


# ---------------------------------------------------------------------- cordon and drain


def test_a_cordoned_site_keeps_what_runs_and_takes_nothing_new():
    city = given(two_edges()).submits(a_workload("old").at("e01")).when_planned()
    city.apply(city.cycle.cordon(city.state, city.now_s, "e01", True))
    city.submits(a_workload("new").at("e01")).when_planned().expect("old", on="e01").expect_waiting("new")
    city.apply(city.cycle.cordon(city.state, city.now_s, "e01", False))
    city.when_planned().expect("new", on="e01")


def test_a_single_node_can_be_cordoned():
    city = given(a_fleet(a_site("e01").cpus(nodes=2)))
    city.apply(city.cycle.cordon(city.state, city.now_s, "e01", True, "cpu", 0))
    city.submits(a_workload("w").replicas(2)).when_planned()
    assert {p.node_index for p in city.placements("w").values()} == {1}
    for unknown in (("e09", "cpu", 0), ("e01", "gpu", 0), ("e01", "cpu", 2)):
        with pytest.raises(NotFound):
            city.cycle.cordon(city.state, city.now_s, unknown[0], True, unknown[1], unknown[2])


def test_draining_a_site_sends_its_work_elsewhere():
    city = (
        given(two_edges(), PlainScorer({"e02": 2.0}))
        .submits(a_workload("w").replicas(2))
        .when_planned()
        .all_run()
    )
    city.expect("w", on="e01")
    city.apply(city.cycle.drain(city.state, city.now_s, "e01"))
    city.expect("w", replicas=0, state="pending").when_planned(after_s=61).expect("w", on="e02", replicas=2)
    assert city.stop_kinds("w") == {"drained"}


def test_a_stopped_replica_is_not_started_again_before_its_site_has_told_what_it_kept():
    city = given(two_edges(), PlainScorer({"e02": 2.0})).submits(a_workload("w").lasts(900).preemptible(100))
    city.when_planned().all_run()
    (placement,) = city.placements("w")
    city.apply(city.cycle.drain(city.state, city.now_s, "e01"))
    city.when_planned(after_s=1).expect("w", replicas=0)
    city.reports(
        ReplicaReport(placement_id=placement, phase=ReplicaPhase.STOPPED, at_s=city.now_s, done_work_s=300)
    )
    city.when_planned().expect("w", on="e02")
    assert city.events(EventKind.REPLICA_START_ORDERED)[-1].body["command"]["done_work_s"] == 300


# ---------------------------------------------------------------------- reports and registration


def test_reports_about_unknown_sites_are_refused_whole():
    city = given(two_edges())
    meter = SiteMeter(site_id="mars", from_s=0, until_s=60, it_energy_kwh=1, facility_energy_kwh=2)
    with pytest.raises(InvalidRequest) as refused:
        city.cycle.report(city.state, city.now_s, TelemetryReport(at_s=city.now_s, meters=(meter,)))
    assert [p.field for p in refused.value.problems] == ["meters[0].site_id"]


def test_reports_about_unknown_or_ended_placements_change_nothing():
    city = given(two_edges()).submits(a_workload("w").lasts(60)).when_planned().all_run()
    (placement,) = city.placements("w")
    city.reports((placement, ReplicaPhase.SUCCEEDED), (placement, ReplicaPhase.FAILED))
    revision = city.state.revision
    city.reports((placement, ReplicaPhase.LOST), ("tenants/t/workloads/x/main/0#0", ReplicaPhase.RUNNING))
    assert city.state.revision == revision
    city.expect("w", state="succeeded")


def test_a_fleet_registered_again_keeps_what_runs_and_gains_the_new_site():
    city = given(two_edges()).submits(a_workload("w").at("e02").replicas(2)).when_planned().all_run()
    larger = a_fleet(
        a_site("a00").cpus(nodes=1),
        a_site("e01").cpus(nodes=2, cores=8),
        a_site("e02").cpus(nodes=2, cores=8),
    ).build()
    city.apply(city.cycle.register_fleet(city.state, city.now_s, larger))
    city.fleet = larger
    city.submits(a_workload("new").at("a00")).when_planned().expect("new", on="a00").expect("w", on="e02")
    city.cancels("w").cancels("new")
    nodes = city.state.nodes
    assert nodes is not None
    assert nodes.cpu_milli.tolist() == [16000] + [8000] * 4
    assert violations_of(city) == []


def test_what_ran_on_a_site_that_is_no_longer_registered_waits_again():
    city = given(two_edges()).submits(a_workload("w").at("e01", "e02")).when_planned().all_run()
    (site_id,) = city.sites_of("w")
    other = "e02" if site_id == "e01" else "e01"
    left = a_fleet(a_site(other).cpus(nodes=2, cores=8)).build()
    city.apply(city.cycle.register_fleet(city.state, city.now_s, left))
    city.when_planned()
    assert {p.site_id for i, p in city.placements("w").items() if i.endswith("#1")} == {other}


# ---------------------------------------------------------------------- the whole log


def test_the_log_replayed_gives_the_state_that_was_lived():
    city = moving_city().submits(a_twin("owner"), sharing("guest", "owner"))
    city.submits(a_workload("g").gang(2).lasts(600))
    city.when_planned().all_run().site_fails("e02").when_planned(after_s=70).all_run().cancels("owner")
    assert city.replayed().digest() == city.state.digest()


def test_the_digest_sees_every_part_of_the_state():
    city, other = moving_city(), moving_city()
    assert city.state.digest() == other.state.digest()
    other.all_run()
    assert city.state.digest() != other.state.digest()


def test_a_fork_may_change_without_the_state_noticing():
    city = given(two_edges()).submits(a_workload("w").replicas(2)).when_planned()
    before = city.state.digest()
    assert city.state.fork().digest() == before
    trial = City(city.fleet)
    trial.state, trial.log, trial.workloads = city.state.fork(), list(city.log), dict(city.workloads)
    trial.submits(a_workload("x").replicas(3)).when_planned().all_run().cancels("w").site_fails("e01")
    assert city.state.digest() == before


def test_a_dry_run_says_what_would_happen_and_leaves_no_trace():
    city = given(two_edges()).submits(a_workload("w").cpu(8).replicas(3)).when_planned()
    before = city.state.digest()
    values = [a_workload("fits").cpu(8).build(), a_workload("waits").cpu(8).build()]
    run = city.cycle.plan_dry_run(city.state, city.now_s, values)
    assert [b["command"]["workload"] for b in run.placed] == [name_of("fits")]
    assert set(run.explanations) == {name_of("fits"), name_of("waits")}
    assert run.explanations[name_of("waits")].conflict == ("capacity in use by other work",)
    fits = run.explanations[name_of("fits")]
    assert fits.summary.startswith("would be placed at e0") and fits.state == "planned"
    assert sum(c.chosen for c in fits.candidates) == 1
    assert city.state.digest() == before
