"""What is submitted on the day: counts, loads, time windows, fates; equal for equal seeds."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache

import pytest

from cluster_sim.scenarios import load_scenario
from cluster_sim.world.arrivals import Arrivals, arrivals, cpu_node_cores
from cluster_sim.world.demand import gpu_needs
from cluster_sim.world.training import gpu_pool, largest_gang_gpus, mean_capped_lognormal, training_load
from suanli.model import PriorityClass, Workload


@cache
def scenario(name: str = "songjiang-s"):
    return load_scenario(name)


@cache
def day(name: str = "songjiang-s", seed: int = 1) -> Arrivals:
    return arrivals(scenario(name), seed)


def of_class(name: str, class_id: str) -> list[tuple[int, Workload]]:
    return [(at, w) for at, w in day(name).items if w.workload_class == class_id]


# ---------------------------------------------------------------- the whole
def test_equal_seeds_give_equal_days_and_other_seeds_other_days():
    assert arrivals(scenario(), 1) == day()
    assert arrivals(scenario(), 2).items != day().items


def test_items_are_in_time_order_within_the_day_and_named_once():
    at = [at for at, _ in day().items]
    assert at == sorted(at)
    assert at[0] == scenario().start_s and at[-1] < scenario().end_s
    names = [w.name for _, w in day().items]
    assert len(set(names)) == len(names)


def test_every_class_of_the_city_comes():
    assert {w.workload_class for _, w in day("songjiang-m").items} == set(
        scenario("songjiang-m").class_names()
    )
    assert {w.workload_class for _, w in day().items} == set(scenario().class_names())


def test_a_small_city_submits_about_a_thousand_and_the_full_one_below_ten_thousand():
    assert 900 <= len(day().items) <= 1400
    assert 5000 <= len(day("songjiang-m").items) < 10_000
    replicas = sum(s.replicas for _, w in day("songjiang-m").items for s in w.stages)
    assert 15_000 <= replicas <= 50_000


def test_what_ends_by_itself_has_a_fate_and_what_runs_on_is_a_service():
    ends = {w.name for _, w in day().items if all(not s.is_service for s in w.stages)}
    assert ends == set(day().fates)
    assert set(day().services) == {w.name for _, w in day().items} - ends


def test_no_fate_reaches_a_workload():
    """The declared length differs from the true one; equal lengths would tell the service."""
    pairs = [
        (w.stages[0].duration_s, day().fates[w.name].work_s["train"])
        for _, w in of_class("songjiang-s", "W12")
    ]
    assert sum(declared != true for declared, true in pairs) > 0.9 * len(pairs)


def test_one_class_does_not_move_another():
    full = scenario("tiny-cloud-edge")
    fewer = full.model_copy(
        update={
            "classes": full.classes.model_copy(
                update={"rows": {k: v for k, v in full.classes.rows.items() if k != "W4"}}
            )
        }
    )
    kept = [(at, w) for at, w in arrivals(full, 5).items if w.workload_class != "W4"]
    assert list(arrivals(fewer, 5).items) == kept


# ---------------------------------------------------------------- counts of the city
@pytest.mark.parametrize(
    ("class_id", "full", "small"),
    [
        ("W1h", 12, 3),
        ("W1", 48, 12),
        ("W3", 300, 75),
        ("W6", 80, 20),
        ("W7c", 4, 1),
        ("W5", 10, 10),
        ("W13", 12, 12),
    ],
)
def test_counted_classes_have_their_counts_at_both_scales(class_id, full, small):
    assert len(of_class("songjiang-m", class_id)) == full
    assert len(of_class("songjiang-s", class_id)) == small


def test_at_any_time_500_of_2000_cameras_are_analysed():
    start, noon = scenario("songjiang-m").start_s, scenario("songjiang-m").at_s(12)
    assert start < noon
    running = sum(
        w.stages[0].replicas
        for at, w in of_class("songjiang-m", "W4")
        if at <= noon < at + (w.stages[0].duration_s or 0)
    )
    assert running == 500


def test_lessons_are_booked_ahead_and_start_before_their_hour():
    lessons = of_class("songjiang-m", "W8")
    assert len(lessons) == 40 * 4
    assert {at for at, _ in lessons} == {scenario("songjiang-m").start_s}
    first = min(w.not_before_at.timestamp() for _, w in lessons if w.not_before_at)
    assert first == scenario("songjiang-m").at_s(8) - 600


def test_the_render_farm_gets_its_frames():
    frames = sum(
        w.stages[0].replicas
        for at, w in of_class("songjiang-m", "W11")
        if at > scenario("songjiang-m").start_s
    )
    assert frames == 3000
    assert all(
        w.deferrable and w.stages[0].preemptible and w.deadline_at for _, w in of_class("songjiang-m", "W11")
    )


def test_llm_replicas_follow_the_hours_within_their_range():
    scaled: dict[str, list[int]] = defaultdict(lambda: [0] * 24)
    s = scenario("songjiang-m")
    for at, w in of_class("songjiang-m", "W9"):
        model = w.workload_id.rsplit("-", 1)[0]
        until = s.end_s if w.stages[0].duration_s is None else at + w.stages[0].duration_s
        for hour in range(24):
            scaled[model][hour] += w.stages[0].replicas * (at <= s.at_s(hour + 0.5) < until)
    assert len(scaled) == 6
    for model, counts in scaled.items():
        assert 2 <= min(counts) < max(counts) <= 24, model
        assert counts[3] == min(counts) and counts[10] == max(counts), model


def test_stateless_services_take_their_share_of_the_old_data_centres():
    for name in ("songjiang-s", "songjiang-m"):
        s = scenario(name)
        core_s = 0.0
        for at, w in of_class(name, "W15"):
            stage = w.stages[0]
            if w.workload_id in s.classes.rows["W15"].pattern.named:
                continue
            length = s.end_s - at if stage.duration_s is None else min(s.end_s - at, stage.duration_s)
            core_s += stage.replicas * stage.cpu_milli / 1000 * length
        load = core_s / (s.end_s - s.start_s) / cpu_node_cores(s, ("dc-g60", "dc-old"))
        assert load == pytest.approx(0.55, abs=0.03), name


# ---------------------------------------------------------------- training
def test_mean_of_a_capped_lognormal():
    # without a cap the mean is median·exp(σ²/2)
    assert mean_capped_lognormal(3.0, 1.6, 1e9) == pytest.approx(3.0 * 2.718281828 ** (1.6**2 / 2), rel=1e-6)
    assert mean_capped_lognormal(3.0, 1.6, 336) < mean_capped_lognormal(3.0, 1.6, 1e9)


def test_the_rate_is_solved_to_the_load_it_shall_offer():
    for name in ("songjiang-s", "songjiang-m"):
        pattern = scenario(name).classes.rows["W12"].pattern
        assert training_load(scenario(name), pattern).offered_load == pytest.approx(0.8)
    assert sum(gpu_pool(scenario("songjiang-m"), ("ai-core", "dc-lingang")).values()) == 6016 + 2560


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ["songjiang-s"])
def test_the_day_opens_warm_near_that_load(name, seed):
    s = scenario(name)
    pool = sum(gpu_pool(s, ("ai-core", "dc-lingang")).values())
    warm = sum(
        w.stages[0].replicas * w.stages[0].reference_gpu_milli / 1000
        for at, w in day(name, seed).items
        if w.workload_class == "W12" and "warm" in w.name
    )
    assert warm / pool == pytest.approx(0.8, abs=0.08)


def test_what_runs_at_the_opening_has_less_left_than_a_new_job():
    warm = [w.stages[0].duration_s or 0 for _, w in of_class("songjiang-m", "W12") if "warm" in w.name]
    new = [w.stages[0].duration_s or 0 for _, w in of_class("songjiang-m", "W12") if "warm" not in w.name]
    assert len(warm) > 300 and len(new) > 1000
    # length bias: what is met running is longer than what arrives, even after half of it
    assert sum(warm) / len(warm) > sum(new) / len(new)


@pytest.mark.parametrize(("name", "largest"), [("songjiang-s", 16), ("songjiang-m", 512)])
def test_gangs_are_clipped_to_a_quarter_of_the_largest_pool(name, largest):
    assert largest_gang_gpus(scenario(name), ("ai-core", "dc-lingang")) == largest
    sizes = Counter(int(w.labels["gpus"]) for _, w in of_class(name, "W12"))
    assert max(sizes) == largest
    assert sizes[1] / sum(sizes.values()) == pytest.approx(0.60, abs=0.02)


def test_large_jobs_are_gangs_of_whole_nodes():
    for _, w in of_class("songjiang-m", "W12"):
        stage, gpus = w.stages[0], int(w.labels["gpus"])
        assert stage.replicas * stage.reference_gpu_milli == gpus * 1000
        assert stage.gang == (gpus > 8)
        assert all(milli % 1000 == 0 for milli in stage.gpu_milli.values())
        assert next(iter(stage.gpu_milli)) == w.labels["sized_in"]


def test_about_a_third_of_the_jobs_end_early():
    new = [w.name for _, w in of_class("songjiang-m", "W12") if "warm" not in w.name]
    failing = sum(day("songjiang-m").fates[n].fails_after_s is not None for n in new)
    cancelled = sum("warm" not in name for _, name in day("songjiang-m").cancellations)
    assert failing / len(new) == pytest.approx(0.25, abs=0.01)
    assert cancelled / len(new) == pytest.approx(0.10, abs=0.01)


# ---------------------------------------------------------------- needs and rules
def test_gpu_needs_follow_the_equivalents_and_round_up_above_one_device():
    needs = gpu_needs(scenario(), 0.5, "l20", ("l20", "l40s", "t4"))
    assert needs == {"l20": 500, "l40s": 250, "t4": 1000}
    assert gpu_needs(scenario(), 2.0, "l40s", ("l40s", "l20")) == {"l40s": 2000, "l20": 4000}
    assert gpu_needs(scenario(), 3.0, "l40s", ("l40s", "l20")) == {"l40s": 3000, "l20": 6000}
    # 8 H800 would be 26 H20: no node holds them
    assert gpu_needs(scenario(), 8, "h800", ("h20",), whole=True) == {"h800": 8000}
    assert gpu_needs(scenario(), 8, "h20", ("h800",), whole=True) == {"h20": 8000, "h800": 3000}


def test_hard_classes_are_hard_and_keep_their_limits():
    hard = {w.workload_class for _, w in day().items if w.priority_class is PriorityClass.HARD_SAFETY}
    assert hard == {"W1h", "W6", "W7c"}
    assert {f.rtt_p99_max_ms for _, w in of_class("songjiang-s", "W1h") for f in w.flows} == {10.0}
    assert not any(s.preemptible for _, w in day().items if w.workload_class in hard for s in w.stages)


def test_control_loops_stand_on_two_nodes_and_sensors_on_two_sites():
    assert {
        (s.replicas, s.spread.over) for _, w in of_class("songjiang-s", "W6") for s in w.stages if s.spread
    } == {(2, "node")}
    assert {
        (s.replicas, s.spread.over) for _, w in of_class("songjiang-s", "W5") for s in w.stages if s.spread
    } == {(2, "site")}


def test_twins_are_pipelines_and_area_twins_use_the_state_of_the_city():
    twins = {w.workload_id: w for _, w in of_class("songjiang-m", "W13")}
    city, area = twins["twin-city"], twins["twin-area-z4"]
    assert [s.stage_id for s in city.stages] == ["ingest", "sync", "simulate", "render"]
    assert area.stage("sync").shared_with == city.name
    assert city.stage("sync").shared_with is None
    assert twins["twin-hospital"].stage("sync").require_any == ({"residency": "medical"},)
    assert twins["twin-hospital"].stage("simulate").require_any == ()  # derived data may cross
    assert {"residency": "government"} in twins["twin-area-z3"].stage("ingest").require_any
    for twin in twins.values():
        assert twin.paths[0].via[0].startswith("zones/") and twin.paths[0].via[-1].startswith("zones/")
        assert sum(f.rtt_p99_max_ms is not None for f in twin.flows) == 2


def test_a_teaching_day_that_opens_at_noon_has_only_what_is_left_of_it():
    s = load_scenario("tiny-twin")
    times = [at for at, _ in arrivals(s, 1).items]
    assert min(times) >= s.start_s and max(times) < s.end_s
    assert s.local_hour(s.start_s) == 12
