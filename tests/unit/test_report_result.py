"""The day's tables against arithmetic done by hand, on a log of a few events and on the synthetic day."""

from __future__ import annotations

import numpy as np
import pytest

from cluster_sim.day_tables import clock, price_yuan_per_kwh, seasonal_release
from cluster_sim.result import (
    BrokenLogError,
    Comparison,
    DayWindow,
    RunChecks,
    build_day_result,
    day_failures,
    fleet_of_log,
    window_of_log,
)
from suanli.model import Event, EventKind, MoveMode, Policy, WorkloadState
from tests.unit._synthetic_day import (
    CLASS_NAMES,
    DAY_S,
    OUTAGE,
    PRICES_JULY,
    START_S,
    synthetic_day,
    synthetic_fleet,
    synthetic_latency,
)

HOUR_S = 3600
NAME = "tenants/city/workloads/w1-000"
SHAPE = {
    "kind": "training",
    "workload_class": "W12",
    "stages": [
        {"stage_id": "train", "replicas": 1, "cpu_milli": 1, "memory_mib": 1, "gpu_milli": {"H800": 8000}}
    ],
    "flows": [{"source": "zones/z1", "target": "stages/train"}],
}


class Log:
    """Events one by one; revisions count up."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, at_s: int, kind: EventKind, subject: str, /, **body) -> Log:
        self.events.append(
            Event(revision=len(self.events) + 1, at_s=START_S + at_s, kind=kind, subject=subject, body=body)
        )
        return self

    def submitted(self, at_s: int, name: str = NAME, **more) -> Log:
        if not any(e.kind is EventKind.SHAPE_INTERNED for e in self.events):
            self.add(0, EventKind.SHAPE_INTERNED, "shapes/0", shape=SHAPE)
        body = {
            "shape": 0,
            "replicas": [1],
            "duration_s": [HOUR_S],
            "not_before_s": 0,
            "deadline_s": 0,
            **more,
        }
        return self.add(at_s, EventKind.WORKLOAD_SUBMITTED, name, **body)

    def ordered(self, at_s: int, placement_id: str = f"{NAME}/train/0#0", site_id: str = "ai-core") -> Log:
        name, stage_id, index = placement_id.split("#")[0].rsplit("/", 2)
        command = {
            "workload": name, "stage_id": stage_id, "replica_index": int(index), "site_id": site_id,
            "group_id": "g0", "gpu_milli": 8000, "reference_gpu_milli": 8000,
        }  # fmt: skip
        return self.add(at_s, EventKind.REPLICA_START_ORDERED, placement_id, command=command, rtt_p99_ms=9.0)

    def ran(self, at_s: int, placement_id: str = f"{NAME}/train/0#0", site_id: str = "ai-core") -> Log:
        return self.add(at_s, EventKind.REPLICA_RUNNING, placement_id, site_id=site_id)

    def stopped(self, at_s: int) -> Log:
        return self.add(
            at_s, EventKind.REPLICA_STOP_ORDERED, f"{NAME}/train/0#0", site_id="ai-core", cause="x"
        )

    def ended(self, at_s: int, delivered_gpu_s: float, placement_id: str = f"{NAME}/train/0#0") -> Log:
        return self.add(
            at_s, EventKind.REPLICA_ENDED, placement_id, site_id="ai-core", phase="succeeded", done_work_s=0.0,
            delivered_gpu_s=delivered_gpu_s, detail="",
        )  # fmt: skip

    def state(self, at_s: int, state: str) -> Log:
        return self.add(at_s, EventKind.WORKLOAD_STATE, NAME, state=state, cause="")

    def metered(self, it_kw: float, facility_kw: float, hours: int = 24, step_s: int = 900, **more) -> Log:
        """The same draw at every site, all the time."""
        for from_s in range(0, hours * HOUR_S, step_s):
            meters = [
                {
                    "site_id": s.site_id, "from_s": START_S + from_s, "until_s": START_S + from_s + step_s,
                    "it_energy_kwh": it_kw * step_s / HOUR_S, "facility_energy_kwh": facility_kw * step_s / HOUR_S,
                    "useful_it_energy_kwh": 0.0, **more,
                }
                for s in synthetic_fleet().sites
            ]  # fmt: skip
            self.add(from_s + step_s, EventKind.SITE_METERED, "sites", meters=meters)
        return self


def result_of(log: Log, fleet=None, drain_hours: int = 0, **more):
    window = DayWindow(START_S, START_S + DAY_S, START_S + DAY_S + drain_hours * HOUR_S)
    return build_day_result(log.events, fleet or synthetic_fleet(), window, **more)


def site(day, site_id: str):
    return next(s for s in day.sites if s.site_id == site_id)


# ---------------------------------------------------------------- energy and money


def test_energy_is_what_the_meters_say():
    day = result_of(Log().metered(10, 13))
    assert site(day, "ai-core").it_kwh == pytest.approx(10 * 24)
    assert site(day, "ai-core").facility_kwh == pytest.approx(13 * 24)
    assert site(day, "ai-core").ipue == pytest.approx(1.3)
    assert day.day.facility_kwh == pytest.approx(13 * 24 * 10)


def test_each_hour_is_paid_at_its_own_price_with_the_sites_markup():
    day = result_of(Log().metered(10, 13))
    assert site(day, "ai-core").cost_yuan == pytest.approx(13 * sum(PRICES_JULY))
    assert site(day, "dc-lingang").cost_yuan == pytest.approx(13 * sum(PRICES_JULY) * 1.05)
    assert site(day, "ai-core").price_yuan_per_kwh == pytest.approx(sum(PRICES_JULY) / 24)


def test_a_meter_window_over_several_hours_is_split_at_the_hour():
    long, short = (result_of(Log().metered(10, 13, step_s=s)).day.cost_yuan for s in (4 * HOUR_S, 300))
    assert long == pytest.approx(short)


def test_a_month_without_prices_is_an_error():
    january_s = np.array([START_S - 180 * DAY_S], np.int64)
    with pytest.raises(ValueError, match=r"tariff 'sh' has no prices for month \[1\]"):
        price_yuan_per_kwh(synthetic_fleet(), january_s)


def test_ipue_is_undefined_without_it_energy():
    day = result_of(Log().metered(0, 2))
    assert site(day, "ai-core").ipue is None
    assert np.isnan(day.power.ipue).all()


# ---------------------------------------------------------------- caps


def test_the_balance_moves_by_cap_times_it_minus_facility():
    day = result_of(Log().metered(10, 13.5))
    row = site(day, "e01-hub")
    opening = synthetic_fleet().site("e01-hub").ledger_opening
    assert row.balance_before_kwh == pytest.approx(1.5 * opening.it_energy_kwh - opening.facility_energy_kwh)
    assert row.balance_after_kwh == pytest.approx(row.balance_before_kwh + (1.5 * 10 - 13.5) * 24)
    assert site(day, "dc-g60").balance_before_kwh is None


@pytest.mark.parametrize(("released", "held"), [(24.0, True), (23.9, False)])
def test_a_cap_is_held_while_the_day_takes_no_more_than_its_release(released, held):
    day = result_of(
        Log().metered(10, 16), released_kwh={"e01-hub": released}
    )  # takes 24 · (16 − 1.5 · 10) = 24
    assert site(day, "e01-hub").used_kwh == pytest.approx(24)
    assert site(day, "e01-hub").cap_held is held
    assert site(day, "e01-hub").debt_kwh == pytest.approx(0.0 if held else 24 - 23.9)
    assert site(day, "dc-g60").cap_held is None


def test_the_release_is_the_seasons_whatever_a_plan_says_of_its_own_ledger():
    ledger = [{"site_id": "e01-hub", "released_kwh": 12.0}]
    plan = {"plan_id": "p", "status": "optimal", "horizon_s": DAY_S, "at_s": START_S, "ledger": ledger}
    with_plan = result_of(Log().add(0, EventKind.PLAN_COMMITTED, "p", **plan).metered(10, 16))
    without = result_of(Log().metered(10, 16))
    season = seasonal_release(without.fleet, Policy(policy_id="default"), without.window)["e01-hub"]
    assert season != pytest.approx(12.0)
    for day in (with_plan, without):
        assert site(day, "e01-hub").released_kwh == season
        assert site(day, "dc-g60").released_kwh is None


def test_a_baseline_alone_gets_the_verdict_that_it_gets_beside_ours():
    ledger = [{"site_id": "e01-hub", "released_kwh": 0.0}]
    plan = {"plan_id": "p", "status": "optimal", "horizon_s": DAY_S, "at_s": START_S, "ledger": ledger}
    ours = result_of(Log().add(0, EventKind.PLAN_COMMITTED, "p", **plan).metered(10, 13))
    alone = result_of(Log().metered(10, 15.1), policy="pue-blind")
    beside = Comparison.of([("suanli", ours), ("pue-blind", alone)]).days[1][1]
    assert alone.caps == beside.caps
    assert [s.debt_kwh for s in alone.sites] == [s.debt_kwh for s in beside.sites]


def test_a_breach_with_debt_breaks_the_cap_whatever_the_meters_say():
    body = {"from_s": START_S, "until_s": START_S + HOUR_S, "cause": "x", "debt_kwh": 0.5, "ipue": 1.7}
    day = result_of(Log().add(HOUR_S, EventKind.CAP_BREACHED, "sites/e01-hub", **body).metered(10, 11))
    assert site(day, "e01-hub").cap_held is False
    assert day.caps == (7, 8)


def hourly_capped(cap: float):
    raw = synthetic_fleet().model_dump()
    raw["sites"][0]["caps"] = {"ipue_cap_hourly": cap}
    return type(synthetic_fleet()).model_validate(raw)


@pytest.mark.parametrize(("cap", "hours"), [(1.3, 0), (1.29, 24)])
def test_an_hourly_cap_is_judged_hour_by_hour(cap, hours):
    day = result_of(Log().metered(10, 13), hourly_capped(cap))
    assert site(day, "ai-core").hours_over_cap == hours
    assert site(day, "ai-core").cap_held is (hours == 0)


def test_hours_in_which_the_site_was_closed_do_not_count_against_an_hourly_cap():
    assert (
        site(result_of(Log().metered(10, 13, open=False), hourly_capped(1.2)), "ai-core").hours_over_cap == 0
    )


def test_a_policy_revision_overrides_the_sites_cap():
    policy = {"policy_id": "default", "sites": [{"target": "class:cloud", "caps": {"pue_cap_annual": 1.4}}]}
    day = result_of(Log().add(0, EventKind.POLICY_REVISED, "policies/default", policy=policy).metered(10, 13))
    assert site(day, "dc-g60").pue_cap_annual == 1.4
    assert site(day, "e01-hub").pue_cap_annual == 1.5


def test_the_tightest_cap_comes_first_and_uncapped_sites_last():
    day = build_day_result(*synthetic_day())
    rooms = [s.room_frac for s in day.sites]
    capped = [r for r in rooms if r is not None]
    assert capped == sorted(capped)
    assert rooms[-2:] == [None, None]


def test_a_comparison_judges_all_policies_by_our_release():
    ours = result_of(Log().metered(10, 16), released_kwh={"e01-hub": 24.0})
    theirs = result_of(Log().metered(10, 16.1), released_kwh={"e01-hub": 1000.0})
    rows = Comparison.of([("suanli", ours), ("other", theirs)]).rows
    assert site(theirs, "e01-hub").cap_held is True
    assert rows[1].debt_kwh > rows[0].debt_kwh
    assert site(Comparison.of([("suanli", ours), ("other", theirs)]).days[1][1], "e01-hub").cap_held is False


# ---------------------------------------------------------------- work


def test_delivered_work_is_what_the_site_said():
    log = Log().submitted(0).ordered(0).ran(60).ended(HOUR_S + 60, 8 * HOUR_S).metered(1, 2)
    assert result_of(log).day.delivered_gpu_h == pytest.approx(8)


def test_what_still_runs_counts_its_reference_gpus_so_far():
    log = Log().submitted(0).ordered(0).ran(DAY_S - HOUR_S).metered(1, 2, hours=26)
    day = result_of(log, drain_hours=2)
    assert day.day.delivered_gpu_h == pytest.approx(8 * 1)
    assert day.drained.delivered_gpu_h == pytest.approx(8 * 3)


def test_work_that_ends_after_the_day_counts_for_its_part_of_the_day():
    log = Log().submitted(0).ordered(0).ran(DAY_S - HOUR_S).ended(DAY_S + HOUR_S, 8 * 2 * HOUR_S)
    assert result_of(log.metered(1, 2, hours=26), drain_hours=2).day.delivered_gpu_h == pytest.approx(8)


def test_a_workload_is_placed_when_every_replica_was():
    log = Log().submitted(0, replicas=[2]).ordered(10).metered(1, 2)
    assert result_of(log).placed_count == 0
    log.ordered(20, f"{NAME}/train/1#0")
    assert result_of(log).placed_count == 1


def test_restarts_do_not_count_as_more_replicas():
    log = Log().submitted(0, replicas=[2]).ordered(10).ordered(20, f"{NAME}/train/0#1").metered(1, 2)
    assert result_of(log).placed_count == 0


def test_waiting_runs_from_due_until_the_last_replica_ran():
    log = Log().submitted(100).ordered(200).ran(400).metered(1, 2)
    assert result_of(log).waits[0].p50_s == 300
    late = Log().submitted(100, not_before_s=START_S + 350).ordered(360).ran(400).metered(1, 2)
    assert result_of(late).waits[0].p50_s == 50


def test_what_never_ran_waits_until_the_end_of_the_day():
    wait = result_of(Log().submitted(DAY_S - 500).metered(1, 2)).waits[0]
    assert (wait.p50_s, wait.waiting_count) == (500, 1)


def test_the_queue_follows_submissions_and_states():
    log = (
        Log()
        .submitted(450)
        .ordered(500)
        .ran(850)
        .state(500, "starting")
        .state(850, "running")
        .state(2000, "succeeded")
    )
    queue = result_of(log.metered(1, 2)).queue
    assert queue.values["pending"][:3].tolist() == [0, 0, 0]
    assert queue.values["starting"][:4].tolist() == [0, 0, 1, 0]
    assert queue.values["running"][:8].tolist() == [0, 0, 0, 1, 1, 1, 1, 0]


def test_gpus_are_allocated_from_order_to_end_in_their_tier():
    log = Log().submitted(0).ordered(300).ran(360).ended(900, 8 * 540).metered(1, 2)
    gpus = result_of(log).gpus
    assert gpus.values["cloud"][:4].tolist() == [0, 8, 8, 0]
    assert gpus.values["edge"].sum() == 0


def test_flows_lead_from_the_zone_of_the_shape_to_the_site():
    log = Log().submitted(0).ordered(0).ran(60).metered(1, 2)
    assert result_of(log).flows.zone_to_site == (("z1", "ai-core", 1),)


def test_moves_are_counted_by_mode_and_told_by_the_one_that_gained_most():
    events, fleet, window = synthetic_day()
    moves = {m.mode: m for m in build_day_result(events, fleet, window, class_names=CLASS_NAMES).moves}
    assert [moves[m].count for m in MoveMode] == [4, 1, 1]
    assert moves[MoveMode.CLOUD_CLOUD].gain_yuan == pytest.approx(2 * 31.0 + 2 * 12.0)
    assert "from Lingang hub to AI centre" in moves[MoveMode.CLOUD_CLOUD].example
    assert "¥31.00" in moves[MoveMode.CLOUD_CLOUD].example
    assert [moves[m].within_site_count for m in MoveMode] == [0, 0, 0]


def test_time_that_a_gang_waits_less_is_summed_and_told_apart_from_energy_saved():
    events, fleet, window = synthetic_day()
    moved = next(e for e in events if e.kind is EventKind.REPLICA_MOVED)
    mode, gain_yuan = MoveMode(moved.body["mode"]), moved.body["gain_yuan"]
    saved = {"gain_yuan": 0.5, "saved_wait_gpu_h": 384.0, "saved_lateness_yuan": 1920.0}
    makes_room = moved.model_copy(update={"body": {**moved.body, **saved}})
    before, after = (
        {m.mode: m for m in build_day_result(log, fleet, window, class_names=CLASS_NAMES).moves}[mode]
        for log in (events, [makes_room if e is moved else e for e in events])
    )
    assert (before.saved_wait_gpu_h, before.saved_lateness_yuan) == (0.0, 0.0)
    assert after.gain_yuan == pytest.approx(before.gain_yuan - gain_yuan + 0.5)
    assert (after.saved_wait_gpu_h, after.saved_lateness_yuan) == (384.0, 1920.0)
    assert after.example.endswith(
        "saves ¥0.50 of energy and 384 GPU-hours of waiting, worth ¥1 920 as lateness"
    )


def test_moves_within_a_site_are_told_apart_and_draw_no_arrow():
    events, fleet, window = synthetic_day()
    moves = (e for e in events if e.kind is EventKind.REPLICA_MOVED)
    moved = next(e for e in moves if e.body["mode"] == MoveMode.CLOUD_CLOUD.value)
    stays = moved.model_copy(
        update={"body": {**moved.body, "to_site_id": moved.body["from_site_id"], "gain_yuan": 1e6}}
    )
    day = build_day_result(
        [stays if e is moved else e for e in events], fleet, window, class_names=CLASS_NAMES
    )
    mode = next(m for m in day.moves if m.mode is MoveMode(moved.body["mode"]))
    before = {m.mode: m for m in build_day_result(events, fleet, window, class_names=CLASS_NAMES).moves}
    assert (mode.count, mode.within_site_count) == (before[mode.mode].count, 1)
    assert " from " in mode.example, "one between sites is told, though it gained less"
    assert all(a != b for a, b, _ in day.flows.site_to_site)


# ---------------------------------------------------------------- plans and learning


def plan(hour: int, forecast_kw: float, **more):
    return {
        "plan_id": f"plans/{hour}", "at_s": START_S + hour * HOUR_S, "horizon_s": DAY_S, "status": "feasible",
        "forecast_facility_kw": {"ai-core": [forecast_kw] * 24}, **more,
    }  # fmt: skip


def test_the_newest_plan_forecasts_and_its_error_is_measured():
    log = Log().add(0, EventKind.PLAN_COMMITTED, "plans/0", **plan(0, 26.0))
    log.add(12 * HOUR_S, EventKind.PLAN_COMMITTED, "plans/12", **plan(12, 13.0))
    day = result_of(log.metered(10, 13))
    assert day.forecast_error_frac == {"ai-core": pytest.approx(0.5)}  # 13 of 13 kW off for half of the day


def test_a_plan_that_was_cut_off_leaves_the_one_before_in_force():
    log = Log().add(0, EventKind.PLAN_COMMITTED, "plans/0", **plan(0, 13.0))
    log.add(
        HOUR_S, EventKind.PLAN_COMMITTED, "plans/1", plan_id="plans/1", at_s=0, horizon_s=0, status="unknown"
    )
    day = result_of(log.metered(10, 13))
    assert day.forecast_error_frac == {"ai-core": pytest.approx(0.0)}


def test_slots_of_a_plan_may_differ_in_length():
    slots = {"slot_start_s": [START_S, START_S + 2 * HOUR_S], "slot_hours": [2.0, 22.0]}
    body = plan(0, 0.0, **slots) | {"forecast_facility_kw": {"ai-core": [7.0, 13.0]}}
    forecast = result_of(
        Log().add(0, EventKind.PLAN_COMMITTED, "p", **body).metered(10, 13)
    ).power.forecast_kw[0]
    assert forecast[:8].tolist() == [7.0] * 8
    assert forecast[8:].tolist() == [13.0] * 88


def test_gaps_are_kept_apart_by_scope_and_count_plans_without_a_bound():
    bounds = [{"model": "m", "scope": "fleet", "objective_yuan": 100, "bound_yuan": 99, "gap_frac": 0.01}]
    log = Log().add(0, EventKind.PLAN_COMMITTED, "plans/0", **plan(0, 13.0, bounds=bounds))
    log.add(HOUR_S, EventKind.PLAN_COMMITTED, "plans/1", **plan(1, 13.0))
    gap = result_of(log.metered(10, 13)).gap()
    assert (gap.max_frac, gap.bounded_count, gap.plan_count) == (0.01, 1, 2)


def test_a_learned_model_has_settled_when_it_stays_below_three_percent():
    log = Log()
    for hour, error in enumerate((0.15, 0.02, 0.05, 0.02, 0.01)):
        log.add(
            hour * HOUR_S, EventKind.SITE_MODEL_LEARNED, "sites", error_frac={"ai-core": error, "dc-g60": 0.2}
        )
    learned = result_of(log.metered(10, 13)).learned
    assert learned.settled_s[:2] == (START_S + 3 * HOUR_S, None)


def test_outages_last_from_down_to_up():
    day = build_day_result(*synthetic_day())
    assert [(o.site_id, o.from_s, o.until_s) for o in day.outages] == [("e01-hub", *OUTAGE)]
    assert site(day, "e01-hub").outage_min == 90


def test_an_outage_counts_what_it_lost_and_what_started_again():
    events, fleet, window = synthetic_day()
    (whole,) = build_day_result(events, fleet, window).outages
    lost = {e.subject for e in events if e.kind is EventKind.REPLICA_ENDED and e.body["phase"] == "lost"}
    assert (whole.lost_count, whole.restarted_count) == (len(lost), len(lost))
    never_back = next(iter(sorted(lost))).split("#")[0] + "#1"
    cut = [e for e in events if not (e.kind is EventKind.REPLICA_RUNNING and e.subject == never_back)]
    (one_short,) = build_day_result(cut, fleet, window).outages
    assert (one_short.lost_count, one_short.restarted_count) == (len(lost), len(lost) - 1)


# ---------------------------------------------------------------- accounts


def test_the_accounts_of_a_sound_day_close():
    assert build_day_result(*synthetic_day()).account_problems == ()


@pytest.mark.parametrize(
    ("problem", "log"),
    [
        ("runs but was never ordered", lambda: Log().submitted(0).ran(60)),
        ("started twice", lambda: Log().submitted(0).ordered(0).ran(60).ran(90)),
        ("ended twice", lambda: Log().submitted(0).ordered(0).ran(60).ended(70, 0).ended(80, 0)),
        ("ordered twice", lambda: Log().submitted(0).ordered(0).ordered(5)),
        ("ended before it ran", lambda: Log().submitted(0).ordered(0).ran(60).ended(50, 0)),
        ("delivered more than its run time holds", lambda: Log().submitted(0).ordered(0).ran(60).ended(70, 8 * 12)),
        (
            "ran while an earlier copy of it did",
            lambda: Log().submitted(0).ordered(0).ran(60).ordered(90, f"{NAME}/train/0#1").ran(99, f"{NAME}/train/0#1"),
        ),
        ("ordered at ai-core", lambda: Log().submitted(0).ordered(0).ran(60, site_id="dc-g60")),
        ("is final but still runs", lambda: Log().submitted(0).ordered(0).ran(60).state(70, "succeeded")),
        ("is said to run but nothing does", lambda: Log().submitted(0).state(70, "running")),
        ("submitted twice", lambda: Log().submitted(0).submitted(1)),
        (
            "ordered to stop and never ended",
            lambda: Log().submitted(0).ordered(0).ran(9).stopped(99),
        ),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_named(problem, log):
    problems = result_of(log().metered(10, 13)).account_problems
    assert any(problem in p for p in problems), problems


def test_a_move_may_overlap_with_its_old_copy():
    moved = f"{NAME}/train/0#1"
    log = (
        Log()
        .submitted(0)
        .ordered(0)
        .ran(60)
        .ordered(90, moved, "dc-g60")
        .ran(150, moved, "dc-g60")
        .ended(160, 0)
    )
    log.add(
        90, EventKind.REPLICA_MOVED, moved, workload=NAME, stage_id="train", replica_index=0, from_site_id="ai-core",
        to_site_id="dc-g60", mode="cloud_cloud", reason="price",
    )  # fmt: skip
    assert result_of(log.metered(10, 13)).account_problems == ()


@pytest.mark.parametrize(
    ("problem", "it_kw", "facility_kw", "hours", "drop"),
    [
        ("less facility energy than IT energy", 10, 9, 24, None),
        ("do not cover the whole span", 10, 13, 23, None),
        ("gap between meters at 02:00", 10, 13, 24, 8),
    ],
)
def test_meters_must_cover_the_day_once(problem, it_kw, facility_kw, hours, drop):
    log = Log().metered(it_kw, facility_kw, hours=hours)
    if drop is not None:
        del log.events[drop]
    assert any(problem in p for p in result_of(log).account_problems)


def test_overlapping_meters_are_named():
    log = Log().metered(10, 13)
    log.events.append(log.events[8].model_copy(update={"revision": 999}))
    assert any("overlap between meters" in p for p in result_of(log).account_problems)


def test_a_log_that_speaks_of_the_unknown_is_broken():
    with pytest.raises(BrokenLogError, match="nowhere"):
        result_of(Log().submitted(0).ordered(0, site_id="nowhere"))
    with pytest.raises(BrokenLogError, match="never submitted"):
        result_of(Log().state(0, "running"))


# ---------------------------------------------------------------- verdict


def test_a_good_day_has_nothing_against_it():
    events, fleet, window = synthetic_day()
    day = build_day_result(events, fleet, window, latency=synthetic_latency())
    assert day_failures(day, RunChecks(24)) == ()


@pytest.mark.parametrize(
    ("said", "latency", "checks"),
    [
        ("found 1 violations: c1 over capacity", synthetic_latency(), RunChecks(24, ("c1 over capacity",))),
        (
            "2 workloads of hard class W1 left their latency",
            synthetic_latency(hard_outside_count=2),
            RunChecks(24),
        ),
        ("latency was not measured", None, RunChecks(24)),
        ("nothing to check", synthetic_latency(), RunChecks(0)),
    ],
)
def test_a_bad_day_says_what_failed(said, latency, checks):
    events, fleet, window = synthetic_day()
    failures = day_failures(build_day_result(events, fleet, window, latency=latency), checks)
    assert len(failures) == 1
    assert said in failures[0]


# ---------------------------------------------------------------- the whole


def test_the_same_log_gives_the_same_day():
    first, second = (build_day_result(*synthetic_day()) for _ in range(2))
    assert first.sites == second.sites
    assert first.moves == second.moves
    assert first.day == second.day


def test_states_at_the_end_add_up_to_what_was_submitted():
    day = build_day_result(*synthetic_day())
    assert sum(day.state_counts.values()) == day.submitted_count
    assert day.state_counts[WorkloadState.CANCELLED] == 1


def test_window_and_fleet_are_read_from_the_log():
    events, fleet, window = synthetic_day()
    assert window_of_log(events) == window
    assert fleet_of_log(events) == fleet
    with pytest.raises(BrokenLogError, match="no day was played"):
        window_of_log([])


def test_the_window_must_run_forward():
    with pytest.raises(ValueError, match="day end"):
        DayWindow(10, 5, 20)


def test_the_clock_is_the_fleets_own():
    assert clock(synthetic_fleet(), START_S) == "00:00"
    assert clock(synthetic_fleet(), START_S + 9 * HOUR_S + 40 * 60) == "09:40"
