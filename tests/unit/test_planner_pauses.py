"""Running work in pieces rests through dear hours, as long as its deadline leaves enough others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from scheduler.planner.compile import compile_problem
from scheduler.planner.deferral import REST_MARGIN_FRAC, REST_MARGIN_H, rests_at, resumes_s, running_frac
from scheduler.planner.feasibility import Views
from solvers.problem import Slots
from suanli.model import EventKind, ReplicaPhase
from tests.builders import START_S, City, PlainScorer, a_fleet, a_site, a_workload, given
from tests.placement_oracle import violations_of

HOUR_S = 3600
DAY_S = 24 * HOUR_S
TARIFF = np.array([0.4] * 6 + [0.7] * 2 + [1.0] * 7 + [0.7] * 3 + [1.0] * 3 + [0.7] + [0.4] * 2)
"""From midnight: night, shoulder, day, shoulder, evening, shoulder, night."""


def rests(hour: float, left_h: float, due_h: float, tariff: np.ndarray = TARIFF) -> bool:
    now_s = int(hour * HOUR_S)
    left_s, deadline_s = np.array([left_h * HOUR_S]), np.array([now_s + int(due_h * HOUR_S)])
    return bool(rests_at(np.roll(tariff, -int(hour)), now_s, left_s, deadline_s)[0])


# ------------------------------------------------------------------------------------------------ the rule


@pytest.mark.parametrize(
    ("hour", "left_h", "due_h", "expected"),
    [
        (9, 4, 40, True),  # two nights before the deadline are enough
        (9, 4, 7, False),  # until the tariff falls, and no longer
        (9, 40, 60, True),  # 60 h less the 6 until 15:00 hold 40 h and the margin
        (9, 50, 60, False),
        (3, 4, 400, False),  # no hour is cheaper than this one
        (6, 10, 24 * 5, True),  # the shoulder rests for the night
        (6, 40, 24 * 3, False),  # 3 days have 42 hours no dearer than this, less these two
    ],
)
def test_work_rests_while_dearer_hours_can_be_spared(hour, left_h, due_h, expected):
    assert rests(hour, left_h, due_h) is expected


def test_the_margin_is_kept_to_the_hour():
    spared_h, due_h = 6.0, 60.0
    most_h = (due_h - spared_h - REST_MARGIN_H) / (1 + REST_MARGIN_FRAC)
    assert rests(9, most_h - 0.01, due_h)
    assert not rests(9, most_h + 0.01, due_h)


def test_without_different_prices_nothing_rests():
    assert not rests(9, 1, 1000, np.ones(24))


TARIFFS = st.lists(st.sampled_from([0.3, 0.7, 1.1]), min_size=24, max_size=24)


@for_all(
    price=TARIFFS,
    from_min=st.integers(0, DAY_S // 60),
    left_min=st.integers(1, 60 * 60),
    slack_h=st.integers(0, 60),
)
def test_whoever_follows_the_rule_is_done_by_the_deadline(price, from_min, left_min, slack_h):
    tariff, now_s = np.array(price), from_min * 60
    left_s, deadline_s = np.array([left_min * 60.0]), np.array([now_s + left_min * 60 + slack_h * HOUR_S])
    while left_s[0] > 0:
        next_s = min(now_s + HOUR_S - now_s % HOUR_S, now_s + int(left_s[0]))
        if rests_at(np.roll(tariff, -(now_s // HOUR_S)), now_s, left_s, deadline_s)[0]:
            next_s = now_s + HOUR_S - now_s % HOUR_S
        else:
            left_s -= next_s - now_s
        now_s = next_s
    assert now_s <= deadline_s[0]


@for_all(
    price=TARIFFS, from_min=st.integers(0, DAY_S // 60), left_h=st.integers(1, 40), slack_h=st.integers(0, 60)
)
def test_it_resumes_in_a_cheaper_hour_and_rests_in_all_before(price, from_min, left_h, slack_h):
    tariff, now_s = np.array(price), from_min * 60
    left_s, deadline_s = np.array([left_h * 3600.0]), np.array([now_s + (left_h + slack_h) * HOUR_S])

    def at(instant_s: int) -> bool:
        return bool(rests_at(np.roll(tariff, -(instant_s // HOUR_S)), instant_s, left_s, deadline_s)[0])

    until_s = int(resumes_s(np.roll(tariff, -(now_s // HOUR_S)), now_s, left_s, deadline_s)[0])
    assert not at(until_s)
    assert all(
        at(s) for s in [now_s, *range(now_s - now_s % HOUR_S + HOUR_S, until_s, HOUR_S)] if s < until_s
    )
    if until_s > now_s:
        assert tariff[until_s // HOUR_S % 24] < tariff[now_s // HOUR_S % 24]


# ------------------------------------------------------------------------------------------------ what plans count


def shares(left_h: float, due_h: float, hour: int = 9) -> list[float]:
    now_s = hour * HOUR_S
    cuts_h = np.array([0, 1, 6, 13, 22])
    slots = Slots(start_s=now_s + cuts_h[:-1] * HOUR_S, hours=np.diff(cuts_h).astype(float))
    deadline_s = np.array([now_s + int(due_h * HOUR_S)])
    frac = running_frac(
        np.roll(TARIFF, -hour), now_s, np.array([now_s]), np.array([left_h * 3600.0]), deadline_s, slots
    )
    return frac[0].round(6).tolist()


def test_a_plan_counts_work_in_the_hours_in_which_it_does_not_rest():
    assert shares(4, 72) == [0.0, 0.0, 0.0, pytest.approx(4 / 9, abs=1e-6)], (
        "all of it in the night, from 22:00 on"
    )
    assert shares(40, 72)[:3] == [0.0, 0.0, pytest.approx(4 / 7, abs=1e-6)], "15 to 18 and 21 o'clock"
    assert shares(70, 72) == [1.0, 1.0, 1.0, 1.0], "it can spare nothing"


def test_a_plan_does_not_count_the_nodes_of_what_is_about_to_pause():
    city = a_city(deadline_h=72).when_planned().all_run()
    assert city.state.topology is not None
    problem = compile_problem(city.state, Views(city.state.topology, city.state.shapes), city.now_s).problem
    assert problem.pairs.running_count.sum() == 0
    assert problem.classes.demand_count[:, 0].sum() == 0
    assert problem.classes.demand_count[:, 1:].sum() > 0


# ------------------------------------------------------------------------------------------------ who pauses when


def a_city(deadline_h: float, *, members: int = 2, checkpoint_s: int = 600, wanted: int | None = 4) -> City:
    """From 12:00 on electricity is cheaper; a gang of ten hours has been submitted at midnight."""
    fleet = a_fleet(a_site("e01").cpus(nodes=4, cores=2)).cheaper_from(12)
    train = a_workload("train").gang(members).cpu(2).lasts(10 * HOUR_S).preemptible(checkpoint_s)
    city = given(fleet, PlainScorer(wanted_deferred=None)).submits(
        train.deferrable(START_S + int(deadline_h * HOUR_S))
    )
    city.when_planned().all_run()
    city.strategy.plain.wanted_deferred = wanted
    return city


def paused(city: City) -> list[str]:
    return [e.subject.split("/")[3] for e in city.events(EventKind.REPLICA_PAUSED)]


def test_work_pauses_whole_right_after_a_checkpoint_and_goes_on_when_the_tariff_falls():
    city = a_city(deadline_h=40)
    city.now_s = START_S + 30 + 10 * 60 + 5  # the first checkpoint was 5 s ago
    city.when_planned().expect_waiting("train")
    assert paused(city) == ["train", "train"]
    (stop, pause) = [e for e in city.log if e.kind is not EventKind.REPLICA_RUNNING][-6:-4]
    assert (stop.kind, pause.kind) == (EventKind.REPLICA_STOP_ORDERED, EventKind.REPLICA_PAUSED)
    assert city.stop_kinds("train") == {"paused"}
    assert pause.body["until_s"] == START_S + 12 * HOUR_S
    assert pause.body["lost_gpu_hours"] == pytest.approx(5 * 0.1 / 3600, abs=1e-6)
    assert city.log[-1].body["paused"] == 2
    city.ended("train", ReplicaPhase.STOPPED, done_work_s=600)
    city.when_planned().expect_waiting("train")
    assert violations_of(city) == []
    city.now_s = START_S + 12 * HOUR_S
    city.when_planned().expect("train", replicas=2)
    command = city.events(EventKind.REPLICA_START_ORDERED)[-1].body["command"]
    assert command["done_work_s"] == 600, "it goes on from its checkpoint"


def test_just_before_a_checkpoint_it_goes_on_until_there():
    city = a_city(deadline_h=40)
    city.now_s = START_S + 30 + 9 * 60 + 50
    city.when_planned().expect("train", replicas=2)
    assert paused(city) == []


def test_it_does_not_pause_for_a_minute():
    city = a_city(deadline_h=40)
    city.now_s = START_S + 12 * HOUR_S - 60
    city.when_planned().expect("train", replicas=2)


def test_what_its_deadline_needs_goes_on():
    city = a_city(deadline_h=10 + 12)
    city.now_s += 10 * 60 + 5
    city.when_planned().expect("train", replicas=2)


def test_work_that_begins_from_nothing_goes_on():
    city = a_city(deadline_h=40, checkpoint_s=0)
    city.now_s += 5
    city.when_planned().expect("train", replicas=2)


def test_a_gang_of_which_a_member_still_starts_goes_on():
    fleet = a_fleet(a_site("e01").cpus(nodes=4, cores=2)).cheaper_from(12)
    train = (
        a_workload("train").gang(2).cpu(2).lasts(10 * HOUR_S).preemptible(600).deferrable(START_S + 2 * DAY_S)
    )
    city = given(fleet).submits(train).when_planned()
    first = next(iter(city.open_placements()))
    city.reports((first, ReplicaPhase.RUNNING))
    city.strategy.plain.wanted_deferred = 4
    city.now_s += 5
    city.when_planned().expect("train", replicas=2)
    assert paused(city) == []


def test_where_nothing_waits_for_a_price_nothing_pauses():
    city = a_city(deadline_h=40, wanted=None)
    city.now_s = START_S + 30 + 10 * 60 + 5
    city.when_planned().expect("train", replicas=2)


def test_others_take_the_room_in_the_same_round():
    city = a_city(deadline_h=40, members=4)
    city.now_s = START_S + 30 + 10 * 60 + 5
    city.submits(a_workload("urgent").cpu(2).priority("hard_safety")).when_planned().expect(
        "urgent", replicas=1
    )
    assert paused(city) == ["train"] * 4
    assert city.events(EventKind.REPLICA_PREEMPTED) == [], (
        "room that is free anyway is not taken from anybody"
    )
    assert violations_of(city) == []


def test_whoever_asks_is_told_until_when_it_rests():
    city = a_city(deadline_h=40)
    city.now_s = START_S + 30 + 10 * 60 + 5
    city.when_planned()
    said = city.explain("train")
    assert "it pauses while electricity is dear, at least until 2026-07-15 12:00+08:00" in said.summary
    assert [r.detail for r in said.reasons if r.code.value == "waits_for_price"] == [
        "it rests until 2026-07-15 12:00+08:00, when electricity is cheaper"
    ]
    assert said.expected_start is not None
    assert said.expected_start.earliest_at_s == START_S + 12 * HOUR_S
