"""The queue: ranks, fair share between tenants, old gangs, bulk blocks, and deferred work."""

from __future__ import annotations

import numpy as np

from scheduler.planner.queue import GANG_AGED_S, heads, in_order, released, shares_in_use, whole_is_released
from tests.builders import START_S, City, a_fleet, a_site, a_workload, given, name_of

HOUR_S = 3600


def order_of(city: City) -> list[str]:
    """Workload ids in the order of their turn."""
    rows = heads(city.state, city.now_s)
    if not len(rows):
        return []
    owners = city.state.replicas["workload"][np.concatenate(in_order(city.state, rows, city.now_s))]
    return list(dict.fromkeys(city.state.names[i].split("/")[3] for i in owners.tolist()))


def small_city() -> City:
    """Ten cores in all: one core is a tenth of the fleet, so fair share speaks up."""
    return given(a_fleet(a_site("e01").cpus(nodes=5, cores=2)))


def test_ranks_come_first_then_submission():
    city = small_city().submits(
        a_workload("b1"),
        a_workload("i1").priority("interactive"),
        a_workload("b2"),
        a_workload("h").priority("hard_safety"),
    )
    assert order_of(city) == ["h", "i1", "b1", "b2"]


def test_tenants_take_turns_from_nothing():
    city = small_city().submits(
        *(a_workload(f"a{i}", "a").cpu(1 + 0.001 * i) for i in range(3)),
        *(a_workload(f"b{i}", "b").cpu(1.1 + 0.001 * i) for i in range(3)),
    )
    assert order_of(city) == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_the_tenant_with_the_smallest_share_in_use_comes_first():
    city = small_city().submits(*(a_workload(f"a{i}", "a") for i in range(4))).when_planned()
    city.submits(
        a_workload("a9", "a").cpu(1.5), a_workload("b0", "b").cpu(1.2), a_workload("b1", "b").cpu(1.3)
    )
    assert order_of(city) == ["b0", "b1", "a9"]
    shares = dict(zip(city.state.tenants, shares_in_use(city.state).tolist(), strict=True))
    assert shares == {"a": 4 / 10, "b": 0.0}


def test_large_requests_weigh_more_than_small_ones():
    city = small_city().submits(
        a_workload("a0", "a").cpu(2), a_workload("a1", "a").cpu(2.0, 2),
        *(a_workload(f"b{i}", "b").cpu(0.5 + 0.01 * i) for i in range(4)),
    )  # fmt: skip
    assert order_of(city) == ["a0", "b0", "b1", "b2", "b3", "a1"]


def test_fair_share_never_overrules_rank():
    city = small_city().submits(*(a_workload(f"a{i}", "a") for i in range(4))).when_planned()
    city.submits(a_workload("b0", "b"), a_workload("a9", "a").priority("interactive"))
    assert order_of(city) == ["a9", "b0"]


def test_an_old_gang_goes_before_tenants_with_smaller_shares():
    city = small_city().submits(*(a_workload(f"a{i}", "a").cpu(2) for i in range(5))).when_planned()
    city.submits(a_workload("gang", "a").cpu(2).gang(5))
    city.now_s += GANG_AGED_S - 1
    city.submits(a_workload("young", "b"))
    assert order_of(city) == ["young", "gang"]
    city.now_s += 1
    assert order_of(city) == ["gang", "young"]


def test_work_of_one_shape_is_one_block():
    city = given(a_fleet(a_site("e01").cpus(nodes=900, cores=64)))
    city.submits(*(a_workload(f"w{i}", f"t{i % 3}").replicas(2) for i in range(30)))
    rows = heads(city.state, city.now_s)
    assert [len(b) for b in in_order(city.state, rows, city.now_s)] == [60]


def test_what_is_not_due_final_or_placed_is_no_head():
    city = small_city().submits(
        a_workload("now"),
        a_workload("later").not_before(START_S + 10),
        a_workload("gone"),
        a_workload("placed"),
    )
    city.cancels("gone")
    assert order_of(city) == ["now", "placed"]
    city.when_planned()
    assert order_of(city) == []


def cheaper_soon() -> City:
    """The small city; energy is cheap from two hours after the start on."""
    return given(a_fleet(a_site("e01").cpus(nodes=5, cores=2)).cheaper_from(2))


def deferred_rows(city: City) -> np.ndarray:
    return heads(city.state, city.now_s)


def test_the_earliest_deadlines_are_released_first_and_late_ones_always():
    city = cheaper_soon().submits(
        a_workload("far").lasts(HOUR_S).deferrable(START_S + 9 * HOUR_S),
        a_workload("near").lasts(HOUR_S).deferrable(START_S + 5 * HOUR_S),
        a_workload("late").lasts(HOUR_S).deferrable(START_S + HOUR_S),
    )
    rows = deferred_rows(city)
    names = lambda chosen: [city.state.names[int(city.state.replicas["workload"][r])] for r in chosen]  # noqa: E731
    assert names(released(city.state, rows, 0, city.now_s)) == [name_of("late")]
    assert names(released(city.state, rows, 2, city.now_s)) == [name_of("late"), name_of("near")]
    assert len(released(city.state, rows, None, city.now_s)) == 3


def test_work_that_starts_together_waits_until_half_of_it_is_wanted():
    city = cheaper_soon().submits(a_workload("g").gang(4).lasts(60).deferrable(START_S + 9 * HOUR_S))
    rows = deferred_rows(city)
    assert [whole_is_released(city.state, rows, n, city.now_s) for n in (0, 1, 2, None)] == [
        False,
        False,
        True,
        True,
    ]
