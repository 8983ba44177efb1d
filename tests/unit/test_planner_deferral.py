"""Deferrable work waits only for hours that make its whole run cheaper."""

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from scheduler.planner.deferral import LEAST_SAVING_FRAC, SAVING_PER_DAY_FRAC, gains_by_waiting, owed_running
from scheduler.planner.queue import heads, released, whole_is_released
from tests.builders import START_S, a_fleet, a_site, a_workload, given

HOUR_S = 3600
DAY_S = 24 * HOUR_S
NIGHT = np.array([0.4] * 6 + [1.0] * 16 + [0.4] * 2)
"""From midnight."""


def waits(hour: float, lasts_h: float, due_h: float, price: np.ndarray = NIGHT) -> bool:
    now_s = int(hour * HOUR_S)
    from_now = np.roll(price, -int(hour))
    left_s, deadline_s = np.array([lasts_h * HOUR_S]), np.array([now_s + int(due_h * HOUR_S)])
    return bool(gains_by_waiting(from_now, now_s, left_s, deadline_s)[0])


@pytest.mark.parametrize(
    ("hour", "lasts_h", "due_h", "expected"),
    [
        (9, 0.5, 40, True),  # renders wait for the night
        (9, 0.5, 10, False),  # not when it comes too late
        (23, 0.5, 40, False),  # the night is now: tomorrow's is no cheaper
        (0.5, 6, 40, False),  # most of it runs at night, and what is left is not worth a day
        (9, 24, 100, False),  # a whole day costs the same whenever it begins
        (9, 240, 400, False),
    ],
)
def test_work_waits_for_the_night_when_that_saves_enough(hour, lasts_h, due_h, expected):
    assert waits(hour, lasts_h, due_h) is expected


def test_without_different_prices_nothing_waits():
    assert not waits(9, 1, 100, np.ones(24))


@pytest.mark.filterwarnings("error")
def test_while_energy_is_free_nothing_waits():
    assert not waits(9, 1, 100, np.zeros(24))
    assert not waits(3, 2, 100, np.where(NIGHT < 1, 0.0, 1.0))


@for_all(
    price=st.lists(st.sampled_from([0.3, 0.7, 1.1]), min_size=24, max_size=24),
    now_min=st.integers(0, 24 * 60 - 1),
    left_min=st.integers(1, 50 * 60),
    slack_min=st.integers(0, 60 * 60),
)
def test_waiting_work_has_an_hour_that_saves_what_waiting_shall(price, now_min, left_min, slack_min):
    by_hour = np.array(price)
    now_s, left_s = now_min * 60, left_min * 60
    answer = gains_by_waiting(
        np.roll(by_hour, -(now_min // 60)),
        now_s,
        np.array([float(left_s)]),
        np.array([now_s + left_s + slack_min * 60]),
    )[0]

    def paid(start_min: int) -> float:
        minutes = np.arange(start_min, start_min + left_min) // 60 % 24
        return float(by_hour[minutes].sum())

    falls = [
        h for h in range(now_min // 60 + 1, now_min // 60 + 25) if by_hour[h % 24] < by_hour[(h - 1) % 24]
    ]
    margins = [
        1 - paid(h * 60) / paid(now_min)
        - LEAST_SAVING_FRAC - SAVING_PER_DAY_FRAC * (h * 60 - now_min) / (24 * 60)
        for h in falls
        if h * 60 - now_min <= slack_min
    ]  # fmt: skip
    if all(abs(m) > 1e-9 for m in margins):
        assert answer == any(m > 0 for m in margins)


def test_a_long_gang_starts_though_the_plan_would_have_it_at_night():
    city = given(a_fleet(a_site("e01").cpus(nodes=5, cores=2)).cheaper_from(12)).submits(
        a_workload("short").gang(2).lasts(HOUR_S).deferrable(START_S + 3 * DAY_S),
        a_workload("long").gang(2).lasts(2 * DAY_S).deferrable(START_S + 5 * DAY_S),
    )
    rows = heads(city.state, city.now_s)
    owner = city.state.replicas["workload"][rows]
    assert not whole_is_released(city.state, rows[owner == 0], 0, city.now_s)
    assert whole_is_released(city.state, rows[owner == 1], 0, city.now_s)


def test_short_work_is_the_plans_in_any_hour():
    city = given(a_fleet(a_site("e01").cpus(nodes=5, cores=2))).submits(
        a_workload("render").lasts(HOUR_S).deferrable(START_S + 3 * DAY_S),
        a_workload("training").lasts(5 * HOUR_S).deferrable(START_S + 3 * DAY_S),
    )
    rows = heads(city.state, city.now_s)
    started = city.state.replicas["workload"][released(city.state, rows, 0, city.now_s)]
    assert started.tolist() == [1], (
        "prices are the same all day: only short work may be put off for other reasons"
    )


def test_what_a_night_owes_is_run_before_it_ends():
    city = given(a_fleet(a_site("e01").cpus(nodes=5, cores=2)).cheaper_from(18)).submits(
        a_workload("renders").replicas(6).lasts(HOUR_S // 2).deferrable(START_S + 3 * DAY_S),
        a_workload("training").lasts(9 * HOUR_S).deferrable(START_S + 3 * DAY_S),
    )
    fold_of = np.arange(len(city.state.shapes.specs))
    assert owed_running(city.state, fold_of, START_S) == {}, "by day all of it waits"
    for hours_left in (6, 2, 1):
        owed = owed_running(city.state, fold_of, START_S + (24 - hours_left) * HOUR_S)
        assert owed == pytest.approx({0: 6 * 0.5 / hours_left}), "long work is not spread"
