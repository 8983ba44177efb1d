"""What of a workload cannot come true is told when it comes: its deadline is past, or nearer than the work can end."""

from __future__ import annotations

from datetime import datetime

from hypothesis import given as for_all
from hypothesis import strategies as st

from scheduler.planner.workload_warnings import workload_warnings
from suanli.model import FieldProblem
from suanli.model.units import epoch_s, local_time
from tests.builders import START_S, a_workload

STARTUP_S = 30
CITY_OFFSET_HOURS = 8


def told(work: a_workload) -> list[FieldProblem]:
    return list(workload_warnings(work.build(), CITY_OFFSET_HOURS, START_S))


def test_a_deadline_that_has_passed_is_told_in_the_citys_time():
    (warning,) = told(a_workload("w").lasts(600).deferrable(START_S - 60))
    assert (warning.field, warning.code) == ("deadline_at", "deadline_passed")
    passed_at = local_time(START_S - 60, CITY_OFFSET_HOURS)
    assert warning.problem == f"passed at {passed_at}: lateness is charged from the start"


def test_a_service_has_no_end_that_could_come_too_late():
    assert told(a_workload("w").deferrable(START_S + 1)) == []
    assert len(told(a_workload("w").deferrable(START_S - 1))) == 1


def test_a_deadline_that_cannot_be_met_is_told_with_the_earliest_one_that_can():
    (warning,) = told(a_workload("w").lasts(600).deferrable(START_S + 600))
    assert warning.code == "deadline_out_of_reach"
    assert warning.nearest == local_time(START_S + 660, CITY_OFFSET_HOURS), "600 s and 30 s, whole minutes"


@for_all(
    duration_s=st.integers(1, 100_000), wait_s=st.integers(0, 100_000), deadline_s=st.integers(1, 300_000)
)
def test_exactly_what_cannot_end_in_time_is_told_and_the_nearest_deadline_is_quiet(
    duration_s: int, wait_s: int, deadline_s: int
):
    deadline_s += wait_s
    work = a_workload("w").lasts(duration_s).not_before(START_S + wait_s)
    found = told(work.deferrable(START_S + deadline_s))
    assert bool(found) == (wait_s + STARTUP_S + duration_s > deadline_s)
    if found:
        nearest_s = epoch_s(datetime.fromisoformat(found[0].nearest))
        assert 0 <= nearest_s - (START_S + wait_s + STARTUP_S + duration_s) < 60
        assert told(work.deferrable(nearest_s)) == []


def test_the_longest_stage_counts_and_work_without_a_deadline_is_never_late():
    pair = a_workload("w").stage("short", duration_s=60).stage("long", duration_s=6000)
    assert told(pair) == []
    assert told(pair.deferrable(START_S + 6030)) == []
    assert len(told(pair.deferrable(START_S + 6029))) == 1
