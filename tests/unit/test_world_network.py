"""Routes, access tails and what the meter says about a day."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cluster_sim.engines.local import LocalEngine
from cluster_sim.engines.merge import merged, run_shard
from cluster_sim.scenarios import load_scenario
from cluster_sim.world.arrivals import arrivals
from cluster_sim.world.build import site_sims, site_specs
from cluster_sim.world.network import AccessTails, LatencyMeter, Routes, lognormal_sigma
from cluster_sim.world.protocol import Command, SiteReport, StartReplica
from suanli.model import (
    Flow,
    PathBudget,
    PriorityClass,
    ReplicaPhase,
    ReplicaReport,
    Stage,
    StopKind,
    Workload,
    WorkloadKind,
)
from tests.support import first_fit
from tests.support.sites import a_start, a_stop, base_scenario

FLEET = base_scenario().fleet(exact=True)
ROUTES = Routes(FLEET)
IDLE = np.zeros(len(ROUTES.links))


def rtt(a: str, b: str, load: float = 0.0) -> float:
    return float(ROUTES.rtt_ms(np.full(len(ROUTES.links), load))[ROUTES.index[a], ROUTES.index[b]])


# ---------------------------------------------------------------- routes
@pytest.mark.parametrize(
    ("a", "b", "ms"),
    [
        ("e01-hub", "e08-cbd-twin", 0.35),  # one ring: two hops and the fibre to the ring and back
        ("e01-hub", "e02-jkq", 0.45),  # the other ring: three hops
        ("e02-jkq", "ai-core", 0.55),
        ("ai-core", "dc-lingang", 1.6),
    ],
)
def test_routes_cost_their_hops_and_kilometres(a, b, ms):
    assert rtt(a, b) == pytest.approx(ms, abs=0.12)
    assert rtt(a, b) == pytest.approx(rtt(b, a))


def test_a_link_adds_its_queue_at_planning_load():
    # τ·ρ/(1−ρ) = 0.05·0.8/0.2 = 0.2 ms a link, two links within one ring
    assert rtt("e01-hub", "e08-cbd-twin", 0.8) - rtt("e01-hub", "e08-cbd-twin") == pytest.approx(2 * 0.2)


def test_an_overloaded_link_is_slow_but_finite():
    assert rtt("e01-hub", "e08-cbd-twin", 5.0) == pytest.approx(
        rtt("e01-hub", "e08-cbd-twin") + 2 * 0.05 * 99
    )


def test_every_zone_reaches_every_site():
    assert np.isfinite(ROUTES.base_ms).all()


# ---------------------------------------------------------------- access
def test_a_lognormal_passes_its_two_quantiles():
    sigma = lognormal_sigma(4.0, 8.0)
    assert 4.0 * np.exp(2.3263478740408408 * sigma) == pytest.approx(8.0)


def sample(mix: dict[str, float], has_upf: bool) -> np.ndarray:
    return AccessTails(FLEET.network).sample(mix, has_upf, 40_000, np.random.default_rng(1))


def test_access_samples_show_their_profile():
    rtts = sample({"5g_private": 1.0}, True)
    assert np.quantile(rtts, 0.5) == pytest.approx(4.0, rel=0.02)
    assert np.quantile(rtts, 0.99) == pytest.approx(8.0, rel=0.03)


def test_mobile_access_to_a_site_without_upf_takes_the_hairpin_and_fibre_does_not():
    near, far = sample({"5g_private": 1.0}, True), sample({"5g_private": 1.0}, False)
    assert np.quantile(far, 0.5) - np.quantile(near, 0.5) == pytest.approx(2.6, abs=0.3)
    assert np.quantile(far, 0.99) > np.quantile(near, 0.99) + 1.5
    fibre = [np.quantile(sample({"pon_10g": 1.0}, upf), 0.99) for upf in (True, False)]
    assert fibre[0] == pytest.approx(fibre[1], rel=0.02)


def test_a_mix_has_the_tail_of_its_slow_part():
    half = sample({"pon_10g": 0.5, "5g_embb": 0.5}, True)
    assert np.quantile(half, 0.99) == pytest.approx(
        10 * np.exp(lognormal_sigma(10, 20) * 2.0537), rel=0.03
    )  # the slow half's 98th percentile


# ---------------------------------------------------------------- meter
def a_workload(
    limit_ms: float, name: str = "tenants/t/workloads/w", mbps: float = 1.0, zone: str = "z5"
) -> Workload:
    return Workload(
        name=name,
        kind=WorkloadKind.INFERENCE,
        workload_class="X",
        priority_class=PriorityClass.HARD_SAFETY,
        stages=(Stage(stage_id="main", cpu_milli=1000, memory_mib=1024),),
        flows=(
            Flow(
                source=f"zones/{zone}",
                target="stages/main",
                access_id="5g_private",
                mbps=mbps,
                rtt_p99_max_ms=limit_ms,
            ),
        ),
    )


def play(workload: Workload, site_id: str, hours: int = 2, stop: bool = False, replicas: int = 1):
    scenario = load_scenario("songjiang-s")
    sites = {s.spec.site_id: s for s in site_sims(site_specs(scenario, 1), {})}
    meter = LatencyMeter(scenario, 1)
    meter.know(workload)
    orders: list[StartReplica] = [
        a_start(
            f"p{i}",
            site_id=site_id,
            group_id="cpu_edge" if site_id.startswith("e") else "cpu_std",
            gpu_milli=0,
            gpu_ids=(),
            cpu_milli=1000,
            memory_mib=1024,
            at_s=scenario.start_s,
            replica_index=i,
            workload=workload.name,
        )
        for i in range(replicas)
    ]
    report: SiteReport
    for step in range(hours * 4):
        commands: list[Command] = list(orders) if step == 0 else []
        if stop and step == 2:
            commands = [replace(a_stop("p0", scenario.start_s + 1800), site_id=site_id)]
        report = merged([run_shard(sites, commands, scenario.start_s + 900 * (step + 1))])
        meter.observe(commands, report)
    return meter


def test_work_at_the_users_own_edge_is_inside_and_work_in_the_cloud_is_not():
    near = play(a_workload(10.0), "e02-jkq").result().classes[0]
    assert (near.is_hard, near.outside_count, near.inside_frac) == (True, 0, 1.0)
    assert near.p99_ms == pytest.approx(8.3, abs=0.6)
    far = play(a_workload(10.0), "dc-lingang").result().classes[0]
    assert (far.outside_count, far.inside_frac) == (1, 0.0)
    assert far.p99_ms == pytest.approx(13.0, abs=1.6)


def test_sites_show_the_latency_of_what_runs_there_and_hours_are_local():
    measured = play(a_workload(10.0), "e02-jkq").result()
    assert set(measured.site_p99_ms) == {"e02-jkq"}
    hours = measured.classes[0].hour_p99_ms
    assert [h is not None for h in hours[:3]] == [True, True, False]


def test_a_full_uplink_is_felt():
    # own traffic from another zone fills the 6.25 Gbit/s uplink of e02 in the small city
    calm = play(a_workload(20.0, zone="z6", mbps=1.0), "e02-jkq").result().classes[0].p99_ms
    full = play(a_workload(20.0, zone="z6", mbps=6200.0), "e02-jkq").result().classes[0].p99_ms
    assert full > calm + 4.0


def test_a_stopped_replica_is_no_longer_measured():
    measured = play(a_workload(10.0), "e02-jkq", stop=True).result().classes[0]
    assert measured.sample_count == 2  # two measurements before the stop at 1800 s, none after


def test_the_share_of_requests_inside_a_p99_budget_at_its_limit_is_about_99_percent():
    meter = play(a_workload(8.3), "e02-jkq", hours=6)
    assert meter.request_share_inside()["X"] == pytest.approx(0.99, abs=0.004)


def test_one_seed_gives_one_measurement():
    assert play(a_workload(10.0), "e02-jkq").result() == play(a_workload(10.0), "e02-jkq").result()


# ---------------------------------------------------------------- outage
SMALL = load_scenario("songjiang-s")
HOUR_S = 3600
RUNNING, LOST, STOPPED = ReplicaPhase.RUNNING, ReplicaPhase.LOST, ReplicaPhase.STOPPED


def outage_min(
    *rows: tuple[int, str, ReplicaPhase],
    kind: StopKind = StopKind.MOVED,
    is_service: bool = True,
    cancelled_s: int = 0,
) -> float:
    """Outage of one replica at the end of the drain, whose copies say that much (second of the day, copy, phase)."""
    workload = a_workload(10.0)
    meter = LatencyMeter(SMALL, 1)
    meter.know(workload, SMALL.start_s + cancelled_s if cancelled_s else None)
    running = play_steps(meter, workload, rows, kind, is_service)
    return running.result().classes[0].outage_min


def play_steps(meter, workload, rows, kind, is_service) -> LatencyMeter:
    """One step of the world per row; a site that only meters tells the time in between, every quarter of an hour."""
    sites = {s.spec.site_id: s for s in site_sims(site_specs(SMALL, 1), {}) if s.spec.site_id == "e02-jkq"}
    starts = {
        copy: a_start(copy, site_id="e02-jkq", group_id="cpu_edge", gpu_milli=0, gpu_ids=(), is_service=is_service,
                      workload=workload.name)
        for copy in sorted({copy for _, copy, _ in rows})
    }  # fmt: skip
    orders: list[Command] = list(starts.values())
    meter.observe(orders, SiteReport((), (), ()))
    told = 0
    for at_s in range(SMALL.start_s + 900, SMALL.drain_end_s + 1, 900):
        due = [r for r in rows[told:] if SMALL.start_s + r[0] <= at_s]
        told += len(due)
        stops: list[Command] = [a_stop(copy, at_s, kind) for _, copy, phase in due if phase is STOPPED]
        said = tuple(ReplicaReport(placement_id=c, phase=p, at_s=SMALL.start_s + s) for s, c, p in due)
        meters = merged([run_shard(sites, [], at_s)]).meters
        meter.observe(stops, SiteReport(said, meters, ()))
    return meter


def test_two_live_moves_are_no_outage():
    assert outage_min(
        (60, "a", RUNNING),
        (2 * HOUR_S, "b", RUNNING),
        (2 * HOUR_S + 30, "a", STOPPED),
        (9 * HOUR_S, "c", RUNNING),
        (9 * HOUR_S + 30, "b", STOPPED),
    ) == 0  # fmt: skip


def test_what_is_lost_is_out_until_it_runs_again():
    assert outage_min((60, "a", RUNNING), (HOUR_S, "a", LOST), (HOUR_S + 480, "b", RUNNING)) == 8


def test_a_move_whose_new_copy_died_is_an_outage_from_the_end_of_the_old_one():
    assert outage_min(
        (60, "a", RUNNING),
        (HOUR_S, "b", RUNNING),
        (HOUR_S + 10, "b", LOST),
        (HOUR_S + 30, "a", STOPPED),
        (HOUR_S + 90, "c", RUNNING),
    ) == 1  # fmt: skip


def test_an_outage_counts_to_the_end_of_the_day_and_never_in_the_drain():
    day_s = SMALL.end_s - SMALL.start_s
    late = ((60, "a", RUNNING), (day_s - 300, "a", LOST))
    assert outage_min(*late, (day_s + HOUR_S, "b", RUNNING)) == 5
    assert outage_min(*late) == 5, "what never comes back is out too"
    assert outage_min((60, "a", RUNNING), (day_s + 300, "a", LOST), (day_s + HOUR_S, "b", RUNNING)) == 0


@pytest.mark.parametrize(
    ("kind", "minutes"),
    [
        (StopKind.CANCELLED, 0),
        (StopKind.DONE, 0),
        (StopKind.PARTNER_FAILED, 0),
        (StopKind.PREEMPTED, 0),
        (StopKind.PAUSED, 0),
        (StopKind.MOVED, 60),
        (StopKind.DRAINED, 60),
        (StopKind.DISPLACED, 60),
    ],
)
def test_what_was_meant_to_stop_is_not_missed_and_every_other_stop_is(kind, minutes):
    rows = ((60, "a", RUNNING), (HOUR_S, "a", STOPPED), (2 * HOUR_S, "b", RUNNING))
    assert outage_min(*rows, kind=kind) == minutes


def test_work_with_an_end_and_what_its_owner_took_back_are_not_missed():
    lost = ((60, "a", RUNNING), (HOUR_S, "a", LOST))
    assert outage_min(*lost, (2 * HOUR_S, "b", RUNNING), is_service=False) == 0
    assert outage_min(*lost, cancelled_s=HOUR_S + 600) == 10


# ---------------------------------------------------------------- end-to-end budgets
def with_budget(budget_ms: float) -> Workload:
    base = a_workload(50.0)
    stage = base.stages[0].model_copy(update={"processing_p99_ms": {"cpu": 5.0}})
    path = PathBudget(path_id="loop", via=("zones/z5", "stages/main"), budget_ms=budget_ms)
    return base.model_copy(update={"stages": (stage,), "paths": (path,)})


def test_a_path_budget_takes_network_and_processing():
    # about 8.3 ms of network and 5 ms of processing at the user's own edge
    assert play(with_budget(15.0), "e02-jkq").result().outside_count == 0
    assert play(with_budget(12.0), "e02-jkq").result().outside_count == 1


def twin_day(budget_ms: float | None):
    scenario = load_scenario("tiny-twin")
    day = arrivals(scenario, 1)
    engine, meter = LocalEngine(scenario, 1, day.fates), LatencyMeter(scenario, 1)
    for _, workload in day.items:
        if budget_ms is not None:
            paths = tuple(p.model_copy(update={"budget_ms": budget_ms}) for p in workload.paths)
            workload = workload.model_copy(update={"paths": paths})
        meter.know(workload)

    class Watched:
        def step(self, commands, until_s):
            report = engine.step(commands, until_s)
            meter.observe(commands, report)
            return report

    first_fit.play(scenario, day, Watched())  # type: ignore[arg-type]
    return meter.result().classes[0]


def test_twins_are_measured_over_their_whole_pipeline():
    # five twins over the day: RTT ingest to sync, RTT render to viewers, and the loop through all four stages
    assert twin_day(None).outside_count == 0
    assert twin_day(None).workload_count == 5
    # 5 + 10 + 50 + 15 ms of processing on an L20 alone take 80 ms
    assert twin_day(80.0).outside_count == 5
