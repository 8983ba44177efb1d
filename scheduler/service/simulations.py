"""Verbs of virtual time: open a run, advance it, close it, read its log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from scheduler.domain.records import COLLECTION_RUNS
from scheduler.domain.state import ClusterState
from scheduler.service.answers import Answer
from scheduler.service.messages import Outcome
from scheduler.service.workloads import ServiceCore, request_key
from suanli.model import (
    Event,
    EventKind,
    FieldProblem,
    InvalidRequest,
    NotFound,
    RunProgress,
    RunState,
    SimulationRun,
    WorkloadState,
)

if TYPE_CHECKING:
    from scheduler.cycle import Cycle

LOG_PAGE = 1000


class Simulations:
    """See the module. One log has one clock: a run is opened in an empty log and is the only one in it."""

    def __init__(self, core: ServiceCore, cycle: Cycle, planner_name: str = "suanli") -> None:
        self._core = core
        self._cycle = cycle
        self._planner_name = planner_name

    def create(
        self, run: SimulationRun, *, request_id: str = "", validate_only: bool = False
    ) -> Answer[SimulationRun]:
        """Open a run; opening the same one again changes nothing. FailedPrecondition when the log is not empty."""
        if run.planner != self._planner_name:
            problem = FieldProblem(
                field="run.planner", problem=f"this service plans with {self._planner_name!r}",
                expected=self._planner_name, nearest=self._planner_name,
            )  # fmt: skip
            raise InvalidRequest([problem])
        opened = run.model_copy(
            update={"advanced_until_s": run.start_at_s, "state": RunState.OPEN, "etag": ""}
        )
        if validate_only:
            return Answer(self._core.ask(lambda s, _: Outcome({}, s.revision)), lambda _: opened)
        key = request_key(request_id, "runs.create", opened.model_dump_json())
        return Answer(self._core.open_run(opened, key), lambda _: self.get(run.run_id))

    def get(self, run_id: str) -> SimulationRun:
        """One run; NotFound."""
        document = self._core.store.document(COLLECTION_RUNS, run_id)
        if document is None or document.body is None:
            raise NotFound(f"no run {run_id}")
        return SimulationRun.model_validate_json(document.body).model_copy(
            update={"etag": str(document.revision)}
        )

    def runs(self) -> list[SimulationRun]:
        """All runs of this log: one or none."""
        return [self.get(d.name) for d in self._core.store.documents(COLLECTION_RUNS)]

    def advance(self, run_id: str, until_s: int) -> Answer[RunProgress]:
        """Move virtual time on; resolved when all that is due by then is committed, as one commit.

        An instant already reached changes nothing, which makes a repeat safe without a request id. NotFound,
        FailedPrecondition when the run is closed.
        """
        return Answer(self._core.advance(run_id, until_s), lambda outcome: self._progress(run_id, outcome))

    def close(self, run_id: str, *, request_id: str = "") -> Answer[SimulationRun]:
        """End a run; closing a closed one changes nothing."""
        future = self._core.close_run(run_id, request_key(request_id, "runs.close", run_id))
        return Answer(future, lambda _: self.get(run_id))

    def log(
        self, run_id: str = "-", *, after_revision: int = 0, kinds: Sequence[str] = ()
    ) -> Iterator[list[Event]]:
        """The event log in pieces, as far as it reaches now. NotFound, WatchExpired, InvalidRequest for a kind."""
        run = self._core.run  # in memory: a driver reads the log after every step
        if run_id != "-" and (run is None or run.run_id != run_id):
            raise NotFound(f"no run {run_id}")
        wanted = _kinds(kinds)
        last = self._core.feed.last_revision
        cursor = after_revision
        while cursor < last:
            events, cursor = self._core.feed.read(cursor, LOG_PAGE, wanted)
            events = [e for e in events if e.revision <= last]
            if events:
                yield events

    def _progress(self, run_id: str, outcome: Outcome) -> RunProgress:
        def counts(state: ClusterState) -> dict[WorkloadState, int]:
            return {WorkloadState(name): n for name, n in state.counts().items() if n}

        def wake(state: ClusterState) -> int | None:
            return self._cycle.next_wake_s(state, self._core.now_s())

        return RunProgress(
            run=self.get(run_id),
            revision=outcome.revision,
            workloads_by_state=self._core.read(counts),
            next_wake_at_s=self._core.read(wake),
        )


def _kinds(names: Sequence[str]) -> tuple[EventKind, ...]:
    known = {kind.value for kind in EventKind}
    problems = [
        FieldProblem(field=f"kinds[{i}]", problem=f"no kind {name!r}", expected=", ".join(sorted(known)))
        for i, name in enumerate(names)
        if name not in known
    ]
    if problems:
        raise InvalidRequest(problems)
    return tuple(EventKind(name) for name in names)
