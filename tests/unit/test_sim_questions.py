"""When the day's two questions are asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from cluster_sim.questions import PENDING_ASKED_AT_HOURS, PLACED_ASKED_AT_HOURS, Questions, hours_of
from cluster_sim.scenarios.schema import Scenario
from suanli.client import Client
from suanli.model import Explanation, Reason, ReasonCode

HOUR_S = 3600
DAY = SimpleNamespace(start_s=0, end_s=24 * HOUR_S, drain_end_s=48 * HOUR_S, day=SimpleNamespace(hours=24))
PLAIN = (Reason(code=ReasonCode.SITE_DOWN, site_id="ai-core"),)
TANGLED = ("it is a gang of 16 GPUs", "the ledger is closed", "others keep their GPUs")


class Service:
    """Answers for what waits at each hour: name → (reasons, conflict)."""

    def __init__(self, waiting: dict[int, dict[str, tuple[tuple[Reason, ...], tuple[str, ...]]]]) -> None:
        self._waiting = waiting
        self.hour = 0

    def list_workloads(self, *, filter: str, page_size: int):
        names = self._waiting.get(self.hour, {}) if filter == "state = PENDING" else {}
        return [SimpleNamespace(name=name) for name in names]

    def explain_workload(self, name: str, *, with_relaxations: bool = False) -> Explanation:
        reasons, conflict = self._waiting[self.hour][name]
        return Explanation(
            workload=name, state="pending", at_s=self.hour * HOUR_S, reasons=reasons, conflict=conflict
        )


def told(waiting) -> Explanation | None:
    """What is told of the waiting after a whole day and its drain."""
    service = Service(waiting)
    questions = Questions(cast(Client, service), cast(Scenario, DAY))
    for service.hour in range(1, 49):
        questions.ask(service.hour * HOUR_S)
    return questions.pending


def test_a_whole_day_is_asked_at_the_hours_named():
    assert hours_of(PENDING_ASKED_AT_HOURS, 24) == set(PENDING_ASKED_AT_HOURS)
    assert hours_of(PLACED_ASKED_AT_HOURS, 24) == {10, 12, 15}


def test_a_short_day_is_asked_too_and_never_at_its_opening():
    assert hours_of(PLACED_ASKED_AT_HOURS, 6) == {2, 3, 4}
    assert hours_of(PENDING_ASKED_AT_HOURS, 6) <= set(range(1, 7))
    assert hours_of(PLACED_ASKED_AT_HOURS, 1) == {1}


@pytest.mark.parametrize(
    ("waiting", "name", "hour"),
    [
        ({1: {"a": (PLAIN, TANGLED)}, 24: {"b": (PLAIN, ())}}, "b", 24),
        ({1: {"a": (PLAIN, TANGLED)}, 24: {"b": (PLAIN, TANGLED)}, 48: {"c": (PLAIN, TANGLED)}}, "b", 24),
        ({1: {"a": (PLAIN, TANGLED)}, 24: {"just-come": ((), ())}, 48: {"c": (PLAIN, ())}}, "c", 48),
        ({48: {"c": (PLAIN, ()), "d": (PLAIN, TANGLED)}}, "d", 48),
        ({1: {"a": (PLAIN, TANGLED)}, 24: {"just-come": ((), ())}}, "a", 1),
        ({1: {"a": (PLAIN, ())}, 8: {"b": (PLAIN, TANGLED)}}, "b", 8),
    ],
)
def test_what_waits_at_the_end_with_a_reason_is_told_before_what_waited_on_the_way(waiting, name, hour):
    answer = told(waiting)
    assert answer is not None
    assert (answer.workload, answer.at_s) == (name, hour * HOUR_S)


def test_nothing_is_told_where_nothing_waits():
    assert told({}) is None
