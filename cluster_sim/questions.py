"""Two questions asked of the service while the day runs: why does this one wait, why does that one lie where it does.

They are asked at some whole hours through the public client; the answers with the most to tell are kept. Of what waits,
that which still does at the end of the day is told first, then at the end of its drain, then what waited on the way.
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
NOTHING_TOLD = (-1, -1, -1)
"""Less than (rank of the instant, rules that conflict, different reasons) of any answer."""
ON_THE_WAY_RANK, DRAIN_END_RANK, DAY_END_RANK = range(3)
"""The tables are of the day: what waits as it ends comes first, then what the drain left."""


class Questions:
    """Keeps the most telling explanation of each kind."""

    def __init__(self, client: Client, scenario: Scenario) -> None:
        self._client = client
        self._scenario = scenario
        self._pending_telling = NOTHING_TOLD
        self.pending: Explanation | None = None
        self.placed: Explanation | None = None

    def ask(self, now_s: int) -> None:
        """Ask at the hours meant for it; of what waits also at the end of the day and of its drain."""
        scenario = self._scenario
        if now_s == scenario.end_s:
            self._ask_pending(DAY_END_RANK)
        elif now_s == scenario.drain_end_s:
            self._ask_pending(DRAIN_END_RANK)
        elapsed_s = now_s - scenario.start_s
        if not elapsed_s or now_s > scenario.end_s or elapsed_s % SECONDS_PER_HOUR:
            return  # at the opening everything waits, and only because it has just come
        hour = elapsed_s // SECONDS_PER_HOUR
        if now_s < scenario.end_s and hour in hours_of(PENDING_ASKED_AT_HOURS, scenario.day.hours):
            self._ask_pending(ON_THE_WAY_RANK)
        if hour in hours_of(PLACED_ASKED_AT_HOURS, self._scenario.day.hours):
            for name in self._names('state = RUNNING AND workload_class = "W9"') + self._names(
                "state = RUNNING"
            ):
                answer = self._client.explain_workload(name)
                if _contested(answer) > _contested(self.placed):
                    self.placed = answer

    def _ask_pending(self, rank: int) -> None:
        """Of what waits with a reason the highest rank is told; without one it ranks as asked on the way."""
        # what only waits for a cheaper hour is asked about when nothing waits in earnest
        for name in self._names("state = PENDING") or self._names("state = PLANNED"):
            answer = self._client.explain_workload(name)
            has_reason = bool(answer.reasons or answer.conflict)
            telling = (rank if has_reason else ON_THE_WAY_RANK, *_telling(answer))
            if telling > self._pending_telling:
                self._pending_telling = telling
                self.pending = self._client.explain_workload(name, with_relaxations=True)

    def _names(self, filter_text: str) -> list[str]:
        records = self._client.list_workloads(filter=filter_text, page_size=ASKED_PER_HOUR)
        return [r.name for r in islice(records, ASKED_PER_HOUR)]


def hours_of(asked: Sequence[int], day_hours: float) -> set[int]:
    """The asked hours of a day of 24 as those of one of `day_hours`; never the opening."""
    return {max(1, round(hour * day_hours / HOURS_PER_DAY)) for hour in asked}


def _telling(answer: Explanation) -> tuple[int, int]:
    """Conflicts of several rules say more than one; then the number of different reasons."""
    return (len(answer.conflict), len({r.code for r in answer.reasons}))


def _contested(answer: Explanation | None) -> int:
    """How many feasible sites lost."""
    if answer is None:
        return -1
    return sum(c.feasible and not c.chosen for c in answer.candidates)
