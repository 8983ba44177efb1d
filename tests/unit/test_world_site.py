"""What a simulated site does with orders, time, failures and energy."""

from __future__ import annotations

from typing import Any

import pytest

from cluster_sim.world.demand import Fate
from cluster_sim.world.site import (
    NODE_SLEEP_AFTER_S,
    SITE_CLOSE_AFTER_S,
    CoolingSpan,
    OutageSpan,
    SiteSim,
    crash_after_s,
)
from tests.support.sites import T0, a_group, a_job, a_site, a_start, a_stop, after, told

JOULES_PER_KWH = 3_600_000
W = "tenants/t/workloads/w"


def run(site: SiteSim, *commands: object, until: int):
    for command in commands:
        site.accept(command)  # type: ignore[arg-type]
    site.run(after(until))
    return site.window()


# ---------------------------------------------------------------- life of a replica
def test_a_job_on_an_awake_node_runs_after_its_startup_and_ends_when_its_work_is_done():
    rows, _, _ = run(a_site(), a_job(work_s=600), until=3600)
    assert told(rows) == [(30, "p1", "running"), (30 + 600, "p1", "succeeded")]


def test_the_fate_decides_the_length_not_the_declaration():
    rows, _, _ = run(a_site({W: Fate({"main": 700})}), a_job(work_s=600), until=3600)
    assert told(rows)[-1] == (30 + 700, "p1", "succeeded")


def test_a_job_that_fails_by_itself_reports_what_it_had_done():
    rows, _, _ = run(a_site({W: Fate({"main": 700}, fails_after_s=200)}), a_job(), until=3600)
    at_s, _, _, phase, done_s, delivered, detail = rows[-1]
    assert (at_s, phase, done_s, delivered, detail) == (
        after(230),
        "failed",
        200.0,
        200.0,
        "failed by itself",
    )


def test_a_restart_has_only_the_rest_to_do():
    rows, _, _ = run(a_site(), a_job(work_s=600, done_work_s=450.0), until=3600)
    assert told(rows)[-1] == (30 + 600 - 450, "p1", "succeeded")
    assert rows[-1][5] == 600 - 450  # delivered since this start


def test_a_job_without_known_length_is_refused_aloud():
    rows, _, _ = run(a_site(), a_job(work_s=0), until=60)
    assert rows[0][3] == "failed" and rows[0][6].startswith("unknown work")


def test_delivered_work_counts_reference_gpus():
    rows, _, _ = run(a_site(), a_job(work_s=600, reference_gpu_milli=2500), until=3600)
    assert rows[-1][5] == 600 * 2.5


def test_a_stopped_job_keeps_its_last_checkpoint():
    site = a_site()
    rows, _, _ = run(
        site, a_job(work_s=6000, checkpoint_interval_s=600), a_stop(at_s=after(30 + 1500)), until=3600
    )
    assert rows[-1][3:] == ("stopped", 1200.0, 1200.0, "moved")


def test_a_job_without_checkpoints_begins_anew():
    rows, _, _ = run(a_site(), a_job(work_s=6000), a_stop(at_s=after(1530)), until=3600)
    assert rows[-1][3:6] == ("stopped", 0.0, 0.0)


def test_a_transfer_delays_the_start():
    rows, _, _ = run(a_site(transfer_gbps=4.0), a_start(transfer_gib=10.0), until=3600)
    assert told(rows) == [(30 + 22, "p1", "running")]  # 10 GiB = 85.9 Gbit at 4 Gbit/s


def test_an_order_counts_once():
    rows, _, _ = run(a_site(), a_job(work_s=100), a_job(work_s=100), until=3600)
    assert len(rows) == 2


def test_a_stop_before_the_start_of_the_same_instant_wins():
    rows, _, _ = run(a_site(), a_start(), a_stop(), until=3600)
    assert [r[3] for r in rows] == ["stopped"]


def test_what_ends_makes_room_for_what_starts_in_the_same_second():
    whole_node: dict[str, Any] = {"cpu_milli": 96_000, "gpu_milli": 4000, "gpu_ids": (0, 1, 2, 3)}
    first = a_job("p1", work_s=600, **whole_node)
    second = a_job("p2", work_s=60, at_s=after(630), workload="tenants/t/workloads/v", **whole_node)
    rows, _, _ = run(a_site(), first, second, until=3600)
    assert ("p2", "succeeded") in {(p, phase) for _, p, phase in told(rows)}


# ---------------------------------------------------------------- overcommitment
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"cpu_milli": 90_000}, "cpu_milli"),
        ({"memory_mib": 512 * 1024}, "memory_mib"),
        ({"gpu_ids": (0,), "gpu_milli": 500}, "gpu 0"),
        ({"gpu_ids": (9,)}, "no gpu 9"),
        ({"gpu_ids": (1, 1), "gpu_milli": 2000}, "devices"),
        ({"node_index": 7}, "no such node"),
        ({"group_id": "h20x8"}, "no such node"),
    ],
)
def test_a_start_that_does_not_fit_fails_aloud_and_takes_nothing(wrong, says):
    site = a_site()
    second = a_start("p2", **({"gpu_ids": (1,)} | wrong))
    third = a_start("p3", gpu_ids=(1,), workload="tenants/t/workloads/v")
    rows, _, _ = run(site, a_start("p1"), second, third, until=600)
    refused = [r for r in rows if r[2] == "p2"]
    assert [r[3] for r in refused] == ["failed"]
    assert refused[0][6].startswith("overcommit") and says in refused[0][6]
    assert ("p3", "running") in {(p, phase) for _, p, phase in told(rows)}


# ---------------------------------------------------------------- gangs
def gang(size: int, **fields: Any):
    return [
        a_job(f"p{i}", replica_index=i, gang_size=size, gpu_ids=(i % 4,), node_index=i // 4, **fields)
        for i in range(size)
    ]


def test_a_gang_begins_when_its_last_member_is_ready_and_ends_together():
    first, second, third = gang(3, work_s=600)
    late = a_job("p2", replica_index=2, gang_size=3, gpu_ids=(2,), work_s=600, at_s=after(100))
    rows, _, _ = run(a_site(), first, second, late, until=3600)
    assert third is not None
    assert told(rows) == [(130, f"p{i}", "running") for i in range(3)] + [
        (730, f"p{i}", "succeeded") for i in range(3)
    ]


def test_a_gang_that_loses_a_member_is_lost_as_a_whole():
    rows, _, _ = run(
        a_site(), *gang(3, work_s=6000, checkpoint_interval_s=300), a_stop("p1", after(1000)), until=3600
    )
    ends = {p: (at, phase) for at, p, phase in told(rows) if phase != "running"}
    assert ends == {"p0": (1000, "lost"), "p1": (1000, "stopped"), "p2": (1000, "lost")}
    assert {r[4] for r in rows if r[3] != "running"} == {900.0}


def test_a_gang_stopped_at_once_is_stopped_and_not_lost():
    stops = [a_stop(f"p{i}", after(1000)) for i in range(3)]
    rows, _, _ = run(a_site(), *gang(3, work_s=6000), *stops, until=3600)
    assert {phase for _, _, phase in told(rows)} == {"running", "stopped"}


def test_a_gang_that_fails_by_itself_fails_as_a_whole():
    site = a_site({W: Fate({"main": 700}, fails_after_s=200)})
    rows, _, _ = run(site, *gang(4), until=3600)
    assert [(at, phase) for at, _, phase in told(rows)][-4:] == [(230, "failed")] * 4


def test_a_gang_that_never_gathers_does_not_work():
    rows, _, _ = run(a_site(), *gang(3)[:2], until=3600)
    assert rows == []


# ---------------------------------------------------------------- nodes and site
def test_an_empty_node_sleeps_after_five_minutes_and_wakes_for_a_start():
    site = a_site(may_close=False)
    _, meter, _ = run(site, until=NODE_SLEEP_AFTER_S - 1)
    assert meter[11] == {"l20x4": 2}
    _, meter, _ = run(site, until=NODE_SLEEP_AFTER_S)
    assert meter[11] == {"l20x4": 0}
    rows, meter, _ = run(site, a_start(at_s=after(1000)), until=2000)
    assert told(rows) == [(1000 + 180 + 30, "p1", "running")]
    assert meter[11] == {"l20x4": 1}


def test_an_empty_site_closes_after_ten_minutes_and_needs_ten_to_return():
    site = a_site()
    _, meter, _ = run(site, until=SITE_CLOSE_AFTER_S - 1)
    assert meter[13] is True
    _, meter, _ = run(site, until=SITE_CLOSE_AFTER_S)
    assert meter[13] is False
    rows, meter, _ = run(site, a_start(at_s=after(2000)), until=4000)
    assert told(rows) == [(2000 + 600 + 180 + 30, "p1", "running")]
    assert meter[13] is True


def test_a_job_in_between_starts_the_ten_minutes_again():
    site = a_site()
    run(site, a_job("p1", work_s=20, at_s=after(350)), until=350 + 180 + 30 + 20)
    last_end = 350 + 180 + 30 + 20
    _, meter, _ = run(site, until=last_end + SITE_CLOSE_AFTER_S - 1)
    assert meter[13] is True
    _, meter, _ = run(site, until=last_end + SITE_CLOSE_AFTER_S)
    assert meter[13] is False


def test_the_rules_of_rest_are_five_and_ten_minutes():
    assert (NODE_SLEEP_AFTER_S, SITE_CLOSE_AFTER_S) == (5 * 60, 10 * 60)


def test_a_home_never_closes():
    site = a_site(may_close=False)
    _, meter, _ = run(site, until=24 * 3600)
    assert meter[13] is True


def test_a_refused_start_does_not_keep_the_site_open():
    site = a_site()
    run(site, a_job("p1", work_s=100), until=200)
    _, meter, _ = run(site, a_start("p2", node_index=9, at_s=after(300)), until=3600)
    assert meter[13] is False


# ---------------------------------------------------------------- failures
def test_an_outage_loses_everything_and_leaves_a_dark_site():
    outage = OutageSpan(after(1000), after(2000), "power feed fault")
    site = a_site(outages=(outage,))
    early = a_job("p1", work_s=6000, checkpoint_interval_s=300)
    during = a_start("p2", at_s=after(1500), gpu_ids=(1,))
    run(site, early, during, until=999)
    rows, meter, statuses = run(site, until=1100)
    later, dark, _ = run(site, until=1999)
    rows += later
    assert [(r[0] - T0, r[2], r[3]) for r in rows] == [(1000, "p1", "lost"), (1500, "p2", "lost")]
    assert rows[0][4] == 900.0
    assert [(s[0] - T0, s[2]) for s in statuses] == [(1000, False)]
    assert meter[12] is False and meter[11] == {"l20x4": 0}
    assert dark[3] == dark[4] == 0.0


def test_after_an_outage_a_start_waits_for_the_site_and_the_node():
    site = a_site(outages=(OutageSpan(after(1000), after(2000), "x"),))
    rows, _, statuses = run(site, a_start("p2", at_s=after(2100)), until=4000)
    assert told(rows) == [(2100 + 600 + 180 + 30, "p2", "running")]
    assert [s[2] for s in statuses] == [False, True]


def test_a_crash_comes_at_the_same_instant_wherever_the_replica_runs():
    one = crash_after_s(a_start("p1"), 1000.0, 7)
    assert one == crash_after_s(a_start("p9", node_index=1, at_s=after(50)), 1000.0, 7)
    assert one != crash_after_s(a_start("p1", replica_index=1), 1000.0, 7)
    rows, _, _ = run(a_site(replica_mtbf_s=1000.0, seed=7), a_start("p1"), until=20_000)
    crashes = [r for r in rows if r[3] == "lost"]
    assert (len(crashes) == 1) == (one > 30)
    assert all(r[6] == "replica crashed" for r in crashes)


def test_crashes_are_exponential_with_the_given_mean():
    draws = [crash_after_s(a_start(replica_index=i), 1000.0, 3) for i in range(4000)]
    assert sum(draws) / len(draws) == pytest.approx(1000.0, rel=0.05)
    assert sum(d > 1000.0 for d in draws) / len(draws) == pytest.approx(0.368, abs=0.03)


def test_a_halted_engine_makes_no_start_end_or_energy_until_resumed():
    site = a_site()
    run(site, a_job(work_s=600), until=60)
    site.is_halted = True
    rows, meter, _ = run(site, a_start("p2", gpu_ids=(1,), at_s=after(100)), until=3660)
    assert rows == [] and meter[3] == meter[4] == 0.0 and meter[12] is False
    site.is_halted = False
    rows, meter, _ = run(site, until=7200)
    assert told(rows)[-1] == (30 + 600 + 3600, "p1", "succeeded")
    assert meter[3] > 0


# ---------------------------------------------------------------- energy
def test_it_energy_is_the_sum_of_idle_and_work_to_the_joule():
    site = a_site(may_close=False)
    _, meter, _ = run(site, a_job(work_s=600), until=3600)
    working_w = 0.5 * (300.0 * 1 + 2.0 * 8)
    # node 1 idles five minutes; node 0 until five minutes after its job's end at 630 s
    joules = 500.0 * NODE_SLEEP_AFTER_S + 500.0 * (630 + NODE_SLEEP_AFTER_S) + working_w * 600
    assert meter[3] == pytest.approx(joules / JOULES_PER_KWH, rel=1e-12)


def test_useful_energy_is_the_share_of_the_node_that_works():
    site = a_site(may_close=False)
    _, meter, _ = run(site, a_job(work_s=600), until=3600)
    useful_w = 0.5 * (300.0 * 1 + 2.0 * 8) + 500.0 * max(1 / 4, 8 / 96)
    assert meter[5] == pytest.approx(useful_w * 600 / JOULES_PER_KWH, rel=1e-12)


def test_a_waking_node_draws_idle_power_from_the_order_on():
    site = a_site(may_close=False)
    run(site, until=3600)
    _, meter, _ = run(site, a_start(at_s=after(3600)), until=3600 + 180)
    assert meter[3] == pytest.approx(500.0 * 180 / JOULES_PER_KWH, rel=1e-12)


def test_nothing_is_drawn_while_a_closed_site_opens():
    site = a_site()
    run(site, until=3600)
    _, meter, _ = run(site, a_start(at_s=after(3600)), until=3600 + 600)
    assert meter[3] == 0.0


def test_facility_energy_of_an_open_site_exceeds_it_energy_and_a_closed_one_draws_a_tenth_of_its_overhead():
    busy, idle = a_site(may_close=False), a_site()
    _, open_meter, _ = run(busy, a_start(), until=3600)
    assert open_meter[4] > open_meter[3] > 0
    run(idle, until=3600)
    _, closed_meter, _ = run(idle, until=7200)
    plant, k = idle.spec.plant, 0.25
    overhead_kw = 4.0 * ((plant.electrical_loss[0] + plant.lighting) * (1 + k) + plant.cooling_fixed)
    assert closed_meter[3] == 0.0
    assert closed_meter[4] == pytest.approx(0.1 * overhead_kw, rel=0.1)


def test_degraded_cooling_costs_energy_only_while_it_lasts():
    sound = a_site(may_close=False)
    faulty = a_site(may_close=False, degradations=(CoolingSpan(after(3600), after(7200), 1.5),))
    by_hour = []
    for hour in (1, 2, 3):
        _, good, _ = run(sound, *([a_start()] if hour == 1 else []), until=3600 * hour)
        _, bad, _ = run(faulty, *([a_start()] if hour == 1 else []), until=3600 * hour)
        by_hour.append(bad[4] - good[4])
    assert by_hour[0] == 0.0
    assert by_hour[1] > 0.05 * good[4]
    assert by_hour[2] == pytest.approx(0.0, abs=1e-9)


def test_windows_do_not_change_what_happens_or_is_metered():
    def play(step: int):
        site = a_site(outages=(OutageSpan(after(5000), after(6000), "x"),))
        for order in (a_job("p1", work_s=900), a_start("p2", gpu_ids=(1,), at_s=after(4000))):
            site.accept(order)
        rows, energy = [], 0.0
        for until in range(step, 7200 + 1, step):
            site.run(after(until))
            some, meter, _ = site.window()
            rows += some
            energy += meter[4]
        return rows, energy

    fine, coarse = play(60), play(3600)
    assert fine[0] == coarse[0]
    assert fine[1] == pytest.approx(coarse[1], rel=1e-9)


def test_node_counts_by_group():
    site = a_site(groups=(a_group(), a_group(group_id="b", node_count=3)), may_close=False)
    _, meter, _ = run(site, a_start(), until=3600)
    assert meter[11] == {"l20x4": 1, "b": 0}
