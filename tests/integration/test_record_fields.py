"""What records promise is filled from real computation: queue place, reasons, start, samples, wake-ups, prices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from scheduler.cycle import Cycle
from scheduler.domain.records import COLLECTION_PLANS
from scheduler.planner.horizon import HorizonStrategy
from scheduler.planner.marginal import marginal_ipue
from scheduler.planner.relax import OCCUPIED
from scheduler.service import Service
from scheduler.workers.pools import InlineSolverPool
from suanli.model import (
    EventKind,
    InvalidRequest,
    Plan,
    Policy,
    PueCap,
    ReasonCode,
    SimulationRun,
    SitePolicy,
    TelemetryReport,
    WorkloadState,
)
from suanli.model.telemetry import ReplicaPhase, ReplicaReport
from suanli.model.units import local_time
from tests.builders import START_S, PlainScorer, a_fleet, a_site, a_workload, given, name_of
from tests.service_worlds import a_service, running, wait_until

HOUR_S = 3600


@pytest.fixture
def service() -> Iterator[Service]:
    """A room of four cores in virtual time, two of them taken for an hour by work that runs."""
    fleet = a_fleet(
        a_site("e01").cpus(nodes=1, cores=4), a_site("e02").cpus(nodes=1, cores=4).rtt(30)
    ).build()
    run = SimulationRun(run_id="day", start_at_s=START_S, advanced_until_s=START_S, seed=1)
    with running(a_service(virtual=True)) as service:
        service.simulations.create(run).result(10)
        service.fleet.register(fleet).result(10)
        service.workloads.create(a_workload("runs").cpu(2).at("e01").lasts(HOUR_S).build()).result(10)
        service.simulations.advance("day", START_S + 10).result(10)
        started = ReplicaReport(
            placement_id=f"{name_of('runs')}/main/0#0", phase=ReplicaPhase.RUNNING, at_s=START_S + 10
        )
        service.fleet.report(TelemetryReport(at_s=START_S + 10, replicas=(started,))).result(10)
        yield service


def submit(service: Service, *works: a_workload, at_s: int = START_S + 20) -> None:
    service.workloads.batch_create([w.build() for w in works]).result(10)
    service.simulations.advance("day", at_s).result(10)


def test_a_waiting_record_says_its_place_its_reasons_and_its_start(service: Service):
    submit(service, a_workload("first").cpu(4).within(10.0), a_workload("second").cpu(3).within(10.0))
    record = service.workloads.get(name_of("first"))
    assert record.state is WorkloadState.PENDING and record.queue_position == 1
    assert record.pending_reasons == {"cpu_short": 1, "rtt_exceeded": 1}
    assert record.summary == "cpu short at 1 site"
    assert record.expected_start is not None
    assert record.expected_start.likely_at_s == START_S + 10 + HOUR_S
    assert "ends as declared" in record.expected_start.assumption
    second = service.workloads.get(name_of("second"))
    assert second.queue_position == 2


def test_a_list_says_place_and_reasons_and_leaves_the_start_to_get(service: Service):
    submit(service, a_workload("first").cpu(4).within(10.0), a_workload("second").cpu(3).within(10.0))
    records = {r.name: r for r in service.workloads.page().records}
    assert [records[name_of(n)].queue_position for n in ("runs", "first", "second")] == [0, 1, 2]
    assert records[name_of("second")].pending_reasons == {"cpu_short": 1, "rtt_exceeded": 1}
    assert all(r.expected_start is None for r in records.values())
    assert records[name_of("runs")].pending_reasons == {} and records[name_of("runs")].summary == ""


def test_work_that_the_next_round_places_is_not_said_to_be_blocked(service: Service):
    service.workloads.create(a_workload("new").build()).result(10)
    record = service.workloads.get(name_of("new"))
    assert (record.queue_position, record.pending_reasons) == (1, {})
    assert record.summary == "the next round places it"


def test_work_in_its_window_waits_for_it_and_stands_in_no_queue(service: Service):
    submit(service, a_workload("later").not_before(START_S + 2 * HOUR_S))
    record = service.workloads.get(name_of("later"))
    assert (record.queue_position, record.pending_reasons["not_before"]) == (0, 2)
    assert record.expected_start is not None
    assert record.expected_start.earliest_at_s == START_S + 2 * HOUR_S


def test_work_that_has_been_placed_says_where_and_until_when_it_starts(service: Service):
    work = a_workload("fits").cpu(1).lasts(HOUR_S)
    submit(service, work)
    record = service.workloads.get(name_of("fits"))
    assert (record.state, record.running_replica_count) == (WorkloadState.STARTING, 0)
    (site_id,) = record.site_ids
    until = local_time(START_S + 20 + work.build().stages[0].startup_s, 8)
    assert record.summary == f"1 replica starts at {site_id} until about {until}"


def test_what_runs_or_has_ended_says_nothing_of_the_queue(service: Service):
    assert service.workloads.get(name_of("runs")).queue_position == 0
    service.workloads.cancel(name_of("runs")).result(10)
    ended = service.workloads.get(name_of("runs"))
    assert (ended.state, ended.pending_reasons, ended.expected_start) == (WorkloadState.CANCELLED, {}, None)


def test_an_advance_says_when_the_service_next_has_something_to_do(service: Service):
    def next_wake(at_s: int) -> int | None:
        return service.simulations.advance("day", at_s).result(10).next_wake_at_s

    assert next_wake(START_S + 30) is None, "no plans are made here and nobody waits"
    submit(service, a_workload("later").not_before(START_S + 7000), at_s=START_S + 40)
    assert next_wake(START_S + 50) == START_S + 7000
    deadline_s = START_S + 3 * HOUR_S
    submit(
        service, a_workload("full").cpu(4).at("e01").lasts(HOUR_S).deferrable(deadline_s), at_s=START_S + 60
    )
    assert next_wake(START_S + 70) == deadline_s - HOUR_S - 900, "then it must start, wherever there is room"


def test_a_round_shows_what_keeps_most_of_the_rest_waiting():
    city = given(
        a_fleet(a_site("e01").gpus("l20", nodes=1, per_node=2), a_site("e02").cpus(nodes=1, cores=2))
    )
    city.submits(
        a_workload("small").cpu(1),
        a_workload("many").gpus(l20=1000).replicas(2),
    ).when_planned()
    city.submits(
        a_workload("gpus").gpus(l20=2000), a_workload("more").gpus(l20=1000).replicas(2), a_workload("fits")
    )
    city.when_planned()
    body = city.events(EventKind.ROUND_COMMITTED)[-1].body
    assert body["pending"] == 3
    first, second = body["sample_reasons"]
    assert (first["code"], first["node_count"]) == (ReasonCode.GPU_SHORT.value, 1)
    assert [r["detail"] for r in (first, second)] == [
        "2 replicas of batch left over", "1 replica of batch left over"
    ]  # fmt: skip


# ---------------------------------------------------------------------- dry runs


def test_a_dry_run_prices_what_the_work_adds_with_the_nodes_it_wakes():
    """Half a core's worth of 5 W and a node of 300 W idle, at 1 yuan/kWh and the site's marginal iPUE."""
    city = given(a_fleet(a_site("e01").cpus(nodes=2, cores=8)))
    run = city.cycle.plan_dry_run(city.state, city.now_s, [a_workload("w").cpu(8).replicas(2).build()])
    added = run.added[name_of("w")]
    assert added.it_power_w == pytest.approx(2 * (300 + 8 * 5 * 0.5))
    ipue = float(marginal_ipue(city.state, city.now_s)[0])
    assert 1.2 < ipue < 1.5
    assert added.facility_power_w == pytest.approx(added.it_power_w * ipue)


def test_a_plan_shows_prices_power_and_the_sites_that_lost():
    fleet = a_fleet(
        a_site("e01").cpus(nodes=2, cores=8), a_site("e02").cpus(nodes=2, cores=8).rtt(30)
    ).build()
    with running(a_service(), fleet) as service:
        plan = service.workloads.plan([a_workload("w").cpu(8).within(10.0).build()]).result(10)
        (found,) = plan.workloads
        assert found.state is WorkloadState.PLANNED
        assert found.cost_yuan_per_hour == plan.cost_yuan_per_hour > 0.1
        assert found.facility_power_w == plan.facility_power_w > found.it_power_w == 320
        assert found.explanation.summary == (
            "would be placed at e01; 1 of 2 sites satisfy its rules, 1 has room now"
        )
        chosen, lost = found.explanation.candidates
        assert chosen.chosen and chosen.ipue_marginal is not None and chosen.ipue_marginal > 1
        assert [r.code for r in lost.reasons] == [ReasonCode.RTT_EXCEEDED]


def test_a_plan_of_what_fits_in_part_marks_where_and_says_that_it_is_full_then():
    fleet = a_fleet(a_site("e01").cpus(nodes=3, cores=8), a_site("e02").cpus(nodes=1, cores=2)).build()
    with running(a_service(), fleet) as service:
        service.workloads.create(a_workload("runs").cpu(8).build()).result(10)
        wait_until(lambda: service.workloads.get(name_of("runs")).placed_replica_count == 1)
        (found,) = service.workloads.plan([a_workload("w").cpu(8).replicas(3).build()]).result(10).workloads
        assert [p.site_id for p in found.placements] == ["e01", "e01"]
        by_site = {c.site_id: (c.chosen, c.feasible, c.has_room) for c in found.explanation.candidates}
        assert by_site == {"e01": (True, True, False), "e02": (False, False, False)}
        assert OCCUPIED in found.explanation.conflict
        (fits,) = service.workloads.plan([a_workload("v").cpu(8).replicas(2).build()]).result(10).workloads
        chosen = fits.explanation.candidates[0]
        assert (chosen.site_id, chosen.chosen, chosen.has_room) == ("e01", True, True)


def test_a_plan_of_what_would_wait_says_why_and_until_when():
    fleet = a_fleet(a_site("e01").cpus(nodes=1, cores=8)).build()
    with running(a_service(), fleet) as service:
        service.workloads.create(a_workload("runs").cpu(6).lasts(HOUR_S).build()).result(10)
        wait_until(lambda: service.workloads.get(name_of("runs")).placed_replica_count == 1)
        (found,) = service.workloads.plan([a_workload("w").cpu(4).build()]).result(10).workloads
        assert found.state is WorkloadState.PENDING and found.cost_yuan_per_hour == 0
        assert found.explanation.conflict == ("capacity in use by other work",)
        assert [r.code for r in found.explanation.reasons] == [ReasonCode.CPU_SHORT]
        assert found.explanation.expected_start is not None


def test_the_price_of_a_placement_is_energy_and_not_the_wall_around_a_closed_site():
    city = given(a_fleet(a_site("e01").cpus()), PlainScorer({"e01": 0.25}, closed=frozenset({"e01"})))
    city.submits(a_workload("w")).when_planned().expect("w", on="e01")
    (start,) = city.events(EventKind.REPLICA_START_ORDERED)
    assert start.body["price_yuan_per_hour"] == pytest.approx(0.25)


# ---------------------------------------------------------------------- what is refused rather than forgotten


def test_a_stage_that_wants_to_grow_is_refused_in_every_way_of_asking():
    elastic = a_workload("w").replicas(2)._last(replicas_max=8).build()
    with running(a_service(), a_fleet(a_site("e01").cpus()).build()) as service:
        asked = (
            lambda: service.workloads.create(elastic),
            lambda: service.workloads.create(elastic, validate_only=True),
            lambda: service.workloads.plan([elastic]),
        )
        for ask in asked:
            with pytest.raises(InvalidRequest, match="stages do not grow yet") as refused:
                ask().result(10)
            (problem,) = refused.value.problems
            assert problem.field.endswith("stages[0].replicas_max") and problem.nearest == "2"


def test_more_domains_than_replicas_are_refused_however_many_there_could_be():
    with pytest.raises(ValidationError, match="3 exceeds the 2 replicas"):
        a_workload("w").replicas(2).spread("node", 3)._last(replicas_max=8).build()


def test_a_plan_shows_its_ledgers_and_moves_as_they_were_committed():
    city = given(a_fleet(a_site("e01").cpus(), a_site("e02").cpus()))
    city.cycle = Cycle(HorizonStrategy(), InlineSolverPool())
    policy = Policy(sites=(SitePolicy(target="class:edge", caps=PueCap(pue_cap_annual=1.5)),))
    city.apply(city.cycle.revise_policy(city.state, START_S, policy))
    city.submits(a_workload("w"))
    batch = city.cycle.advance(city.state, START_S)
    (document,) = [d for d in batch.documents if d.collection == COLLECTION_PLANS]
    plan = Plan.model_validate_json(document.body or b"")
    assert {b.site_id: b.pue_cap_annual for b in plan.ledgers} == {"e01": 1.5, "e02": 1.5}
    assert plan.policy_revision == 1


def test_whoever_submits_plans_or_checks_is_told_of_deadlines_that_cannot_be_met(service: Service):
    passed = a_workload("passed").deferrable(START_S - 60)
    short = a_workload("short").lasts(600).deferrable(START_S + 60)
    works = [w.build() for w in (a_workload("free"), passed, short)]
    checked = service.workloads.batch_create(works, validate_only=True).result(10)
    planned = service.workloads.plan(works).result(10).workloads
    accepted = service.workloads.batch_create(works, request_id="r").result(10)
    for warned in (
        [r.warnings for r in checked],
        [p.warnings for p in planned],
        [r.warnings for r in accepted],
    ):
        assert [[(w.field, w.code) for w in found] for found in warned] == [
            [],
            [("workloads[1].deadline_at", "deadline_passed")],
            [("workloads[2].deadline_at", "deadline_out_of_reach")],
        ]
    assert service.workloads.get(name_of("passed")).warnings == (), "told when it comes, not kept"


def test_a_repeated_submission_is_warned_as_the_first_was(service: Service):
    due = [a_workload("due").lasts(600).deferrable(START_S + 700).build()]
    first = service.workloads.batch_create(due, request_id="r").result(10)
    service.simulations.advance("day", START_S + 800).result(10)
    again = service.workloads.batch_create(due, request_id="r").result(10)
    assert first[0].warnings == again[0].warnings == ()
