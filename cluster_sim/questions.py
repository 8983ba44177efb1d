"""Two questions asked of the service while the day runs: why does this one wait, why does that one lie where it does.

They are asked at some whole hours through the public client; the answers with the most to tell are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from cluster_sim.scenarios.schema import Scenario
from suanli.client import Client
from suanli.model import Explanation
from suanli.model.units import HOURS_PER_DAY, SECONDS_PER_HOUR

ASKED_PER_HOUR = 3
PENDING_ASKED_AT_HOURS = (1, 2, 3, 8, 10, 12, 15, 19, 23)
PLACED_ASKED_AT_HOURS = (10, 12, 15)
"""Of a day of 24 hours; a shorter one is asked at the same parts of it."""


class Questions:
    """Keeps the most telling explanation of each kind."""

    def __init__(self, client: Client, scenario: Scenario) -> None:
        self._client = client
        self._scenario = scenario
        self.pending: Explanation | None = None
        self.placed: Explanation | None = None

    def ask(self, now_s: int) -> None:
        """Ask at the hours meant for it."""
        elapsed_s = now_s - self._scenario.start_s
        if not elapsed_s or now_s > self._scenario.end_s or elapsed_s % SECONDS_PER_HOUR:
            return  # at the opening everything waits, and only because it has just come
        hour = elapsed_s // SECONDS_PER_HOUR
        if hour in hours_of(PENDING_ASKED_AT_HOURS, self._scenario.day.hours):
            # what only waits for a cheaper hour is asked about when nothing waits in earnest
            for name in self._names("state = PENDING") or self._names("state = PLANNED"):
                answer = self._client.explain_workload(name)
                if _telling(answer) > _telling(self.pending):
                    self.pending = self._client.explain_workload(name, with_relaxations=True)
        if hour in hours_of(PLACED_ASKED_AT_HOURS, self._scenario.day.hours):
            for name in self._names('state = RUNNING AND workload_class = "W9"') + self._names(
                "state = RUNNING"
            ):
                answer = self._client.explain_workload(name)
                if _contested(answer) > _contested(self.placed):
                    self.placed = answer

    def _names(self, filter_text: str) -> list[str]:
        records = self._client.list_workloads(filter=filter_text, page_size=ASKED_PER_HOUR)
        return [r.name for r in islice(records, ASKED_PER_HOUR)]


def hours_of(asked: Sequence[int], day_hours: float) -> set[int]:
    """The asked hours of a day of 24 as those of one of `day_hours`; never the opening."""
    return {max(1, round(hour * day_hours / HOURS_PER_DAY)) for hour in asked}


def _telling(answer: Explanation | None) -> tuple[int, int]:
    """Conflicts of several rules say more than one; then the number of different reasons."""
    if answer is None:
        return (-1, -1)
    return (len(answer.conflict), len({r.code for r in answer.reasons}))


def _contested(answer: Explanation | None) -> int:
    """How many feasible sites lost."""
    if answer is None:
        return -1
    return sum(c.feasible and not c.chosen for c in answer.candidates)
