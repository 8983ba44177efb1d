"""The core with a planner of a few lines: group commit, repeats, durable before visible, trouble, virtual time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from scheduler.domain.records import CommitBatch, EventDraft
from scheduler.service.clock import VirtualClock
from scheduler.service.core import Core
from scheduler.service.messages import Pace, RequestKey
from scheduler.store import MemoryStore
from suanli.model import (
    AlreadyExists,
    Conflict,
    Event,
    EventKind,
    FailedPrecondition,
    FieldProblem,
    InvalidRequest,
    NotFound,
    RunState,
    SimulationRun,
    Unavailable,
    Workload,
    WorkloadState,
)
from tests.service_worlds import START_S, a_workload

WAIT_S = 5.0


class Names:
    """The smallest state: names in order, and how many rounds there were."""

    def __init__(self) -> None:
        self.revision = 0
        self.names: list[str] = []
        self.rounds = 0
        self.break_on = ""

    def apply(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.subject == self.break_on:
                self.break_on = ""
                raise RuntimeError("half of it is folded")
            if event.kind is EventKind.WORKLOAD_SUBMITTED:
                self.names.append(event.subject)
            self.rounds += event.kind is EventKind.ROUND_COMMITTED
            self.revision = event.revision

    def has_workload(self, name: str) -> bool:
        return name in self.names

    def workload_state(self, name: str) -> WorkloadState | None:
        return WorkloadState.PENDING if name in self.names else None

    def counts(self) -> Counter[str]:
        return Counter({"pending": len(self.names)})


@dataclass(frozen=True)
class Task:
    problem: Any
    wall_limit_s: float = 1.0


class Decider:
    """Accepts everything but names that begin with `bad`; every hook can be replaced by a test."""

    def __init__(self) -> None:
        self.rounds: list[int] = []
        self.plans: list[Any] = []
        self.wants_plan = False

    def admit(self, state, workloads: Sequence[Workload]) -> list[list[FieldProblem]]:
        if any(w.workload_id.startswith("crash") for w in workloads):
            raise ZeroDivisionError("a bug in the planner")
        return [
            [FieldProblem(field="kind", problem="is bad")] if w.workload_id.startswith("bad") else []
            for w in workloads
        ]

    def submit(self, state, now_s: int, workloads: Sequence[Workload]) -> CommitBatch:
        return CommitBatch(tuple(EventDraft(now_s, EventKind.WORKLOAD_SUBMITTED, w.name) for w in workloads))

    def advance(self, state, now_s: int) -> CommitBatch:
        return self.round(state, now_s)

    def round(self, state, now_s: int) -> CommitBatch:
        self.rounds.append(now_s)
        pending = len(state.names)
        return CommitBatch(
            (EventDraft(now_s, EventKind.ROUND_COMMITTED, f"rounds/{now_s}", {"pending": pending}),)
        )

    def plan_due(self, state, now_s: int) -> bool:
        return self.wants_plan

    def begin_plan(self, state: Names, now_s: int) -> Task | None:
        self.wants_plan = False
        return Task("problem")

    def finish_plan(self, state, now_s: int, task: Task, solution) -> CommitBatch:
        self.plans.append(solution)
        return CommitBatch((EventDraft(now_s, EventKind.PLAN_COMMITTED, "plans/1", {}),))


class CountingStore(MemoryStore):
    """Counts commits; can be told to hold one back or to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.commits = 0
        self.gate = threading.Event()
        self.gate.set()
        self.failures = 0

    def commit(self, batches, expect_revision=None):
        self.gate.wait(WAIT_S)
        if self.failures:
            self.failures -= 1
            raise Unavailable("the disk is full")
        self.commits += 1
        return super().commit(batches, expect_revision)


@contextmanager
def a_core(
    store: MemoryStore | None = None, decider: Decider | None = None, **options
) -> Iterator[Core[Any, Any]]:
    """A running core in virtual time with an open run (real time: `virtual=False`)."""
    virtual = options.pop("virtual", True)
    anything: Any = decider or Decider()
    core: Core[Any, Any] = Core(store or CountingStore(), anything, Names, virtual=virtual, **options)
    core.start()
    try:
        if virtual and core.run is None:
            core.open_run(a_run()).result(WAIT_S)
        yield core
    finally:
        core.stop(WAIT_S)


def a_run(**fields) -> SimulationRun:
    return SimulationRun(run_id="day", start_at_s=START_S, advanced_until_s=START_S, **fields)


def key(request_id: str, content: str = "") -> RequestKey:
    return RequestKey(request_id, content)


def until(look, seconds: float = WAIT_S):
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)
    return found


@contextmanager
def held(core: Core[Any, Any]) -> Iterator[None]:
    """Keep the core's thread busy, so that what is posted meanwhile is served in one turn."""
    busy, release = threading.Event(), threading.Event()

    def wait(state, now_s):
        busy.set()
        release.wait(WAIT_S)

    waiting = core.ask(wait)
    busy.wait(WAIT_S)
    yield
    release.set()
    waiting.result(WAIT_S)


# ---------------------------------------------------------------- submissions


def test_submissions_that_wait_together_share_one_commit():
    store = CountingStore()
    with a_core(store) as core:
        before = store.commits
        with held(core):
            futures = [core.submit([a_workload(f"w{i}")]) for i in range(50)]
        assert {f.result(WAIT_S).answer["names"][0] for f in futures} == {
            a_workload(f"w{i}").name for i in range(50)
        }
        assert store.commits == before + 1


def test_an_answer_is_given_only_after_the_commit():
    store = CountingStore()
    with a_core(store) as core:
        store.gate.clear()
        future = core.submit([a_workload("w")])
        with pytest.raises(TimeoutError):
            future.result(0.05)
        assert not core.read(lambda state: state.names), "the state runs ahead of the log"
        store.gate.set()
        future.result(WAIT_S)
        assert core.read(lambda state: state.names) == [a_workload("w").name]


def test_what_is_wrong_with_one_submission_harms_no_other():
    with a_core() as core:
        with held(core):
            good, bad, crash, also_good = (core.submit([a_workload(n)]) for n in ("a", "bad", "crash", "b"))
        assert good.result(WAIT_S).answer == {"names": [a_workload("a").name]}
        assert also_good.result(WAIT_S).answer == {"names": [a_workload("b").name]}
        with pytest.raises(InvalidRequest):
            bad.result(WAIT_S)
        with pytest.raises(ZeroDivisionError):
            crash.result(WAIT_S)
        assert core.read(lambda state: state.names) == [a_workload("a").name, a_workload("b").name]


def test_problems_are_named_with_the_path_of_their_workload():
    with a_core() as core:
        batch = [a_workload("a"), a_workload("bad1"), a_workload("bad2")]
        with pytest.raises(InvalidRequest) as caught:
            core.submit(batch, paths=["x[0].", "x[1].", "x[2]."]).result(WAIT_S)
        assert [p.field for p in caught.value.problems] == ["x[1].kind", "x[2].kind"]
        assert core.read(lambda state: state.names) == [], "a batch is all or none"


def test_of_two_submissions_of_one_name_at_once_the_first_wins():
    with a_core() as core:
        with held(core):
            first, second = core.submit([a_workload("w")]), core.submit([a_workload("w")])
        first.result(WAIT_S)
        with pytest.raises(AlreadyExists):
            second.result(WAIT_S)
        assert core.read(lambda state: state.names) == [a_workload("w").name]


def test_a_submission_that_rests_on_an_old_plan_is_a_conflict():
    with a_core() as core:
        base = core.feed.last_revision
        core.submit([a_workload("a")], base_revision=base).result(WAIT_S)
        with pytest.raises(Conflict):
            core.submit([a_workload("b")], base_revision=base).result(WAIT_S)


# ---------------------------------------------------------------- repeats


def test_a_repeat_gets_the_first_answer_and_changes_nothing():
    with a_core() as core:
        first = core.submit([a_workload("w")], key("r1", "body")).result(WAIT_S)
        again = core.submit([a_workload("w")], key("r1", "body")).result(WAIT_S)
        assert (again.answer, again.replayed) == (first.answer, True)
        assert core.read(lambda state: state.names) == [a_workload("w").name]


def test_repeats_in_one_turn_are_recognised():
    with a_core() as core:
        with held(core):
            twins = [core.submit([a_workload("w")], key("r1", "body")) for _ in range(3)]
        assert [f.result(WAIT_S).replayed for f in twins] == [False, True, True]


def test_the_same_id_with_another_body_is_refused():
    with a_core() as core:
        core.submit([a_workload("a")], key("r1", "body a")).result(WAIT_S)
        with pytest.raises(InvalidRequest, match="request_id"):
            core.submit([a_workload("b")], key("r1", "body b")).result(WAIT_S)
        with pytest.raises(InvalidRequest, match="request_id"):
            core.act(lambda s, t: (CommitBatch(), {}), key("r1", "other")).result(WAIT_S)


def test_a_refused_request_may_be_repeated_under_its_id():
    with a_core() as core:
        with pytest.raises(InvalidRequest):
            core.submit([a_workload("bad")], key("r1", "bad")).result(WAIT_S)
        core.submit([a_workload("good")], key("r1", "good")).result(WAIT_S)


def test_answers_are_remembered_over_a_restart_and_forgotten_after_a_day():
    store = CountingStore()
    with a_core(store) as core:
        core.submit([a_workload("w")], key("r1", "body")).result(WAIT_S)
    with a_core(store) as core:
        assert core.submit([a_workload("w")], key("r1", "body")).result(WAIT_S).replayed
        core.advance("day", START_S + 24 * 3600).result(WAIT_S)
        assert store.request("r1") is not None
        core.advance("day", START_S + 25 * 3600 + 1).result(WAIT_S)
        assert store.request("r1") is None


# ---------------------------------------------------------------- virtual time


def test_an_advance_is_one_commit_with_its_mark():
    store = CountingStore()
    with a_core(store) as core:
        before, revision = store.commits, store.last_revision()
        core.advance("day", START_S + 60).result(WAIT_S)
        assert store.commits == before + 1
        kinds = [e.kind for e in store.events(revision, 10)]
        assert kinds == [EventKind.ROUND_COMMITTED, EventKind.RUN_ADVANCED]
        assert core.now_s() == START_S + 60


def test_advancing_to_where_it_is_or_back_changes_nothing():
    store = CountingStore()
    with a_core(store) as core:
        core.advance("day", START_S + 60).result(WAIT_S)
        before = store.last_revision()
        for at_s in (START_S + 60, START_S + 30):
            assert core.advance("day", at_s).result(WAIT_S).replayed
        assert store.last_revision() == before
        assert core.now_s() == START_S + 60


def test_the_first_step_decides_what_is_due_at_the_opening_and_only_once():
    store = CountingStore()
    with a_core(store) as core:
        assert not core.advance("day", START_S).result(WAIT_S).replayed
        assert core.advance("day", START_S).result(WAIT_S).replayed
    kinds = [e.kind for e in store.events(0, 10)]
    assert kinds.count(EventKind.ROUND_COMMITTED) == 1
    with a_core(store) as core:
        assert core.advance("day", START_S).result(WAIT_S).replayed


def test_a_restart_finds_the_clock_where_it_was():
    store = CountingStore()
    with a_core(store) as core:
        core.advance("day", START_S + 60).result(WAIT_S)
    with a_core(store, virtual=False) as core:
        assert core.now_s() == START_S + 60
        assert core.run == a_run().model_copy(update={"advanced_until_s": START_S + 60})


def test_nothing_happens_by_itself_in_virtual_time():
    decider = Decider()
    decider.wants_plan = True
    with a_core(decider=decider, pace=Pace(0.0, 0.01)) as core:
        core.submit([a_workload("w")]).result(WAIT_S)
        time.sleep(0.05)
        assert decider.rounds == []
        assert decider.plans == []


def test_a_failed_advance_is_the_callers_to_repeat():
    def raises(state, now_s):
        raise ZeroDivisionError

    decider = Decider()
    with a_core(decider=decider) as core:
        decider.advance = raises  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError):
            core.advance("day", START_S + 60).result(WAIT_S)
        assert core.now_s() == START_S
        del decider.advance
        core.advance("day", START_S + 60).result(WAIT_S)
        assert core.now_s() == START_S + 60


def test_one_log_has_one_run():
    with a_core() as core:
        core.open_run(a_run()).result(WAIT_S)
        with pytest.raises(FailedPrecondition):
            core.open_run(a_run(seed=1)).result(WAIT_S)
        with pytest.raises(NotFound):
            core.advance("night", START_S + 60).result(WAIT_S)
        core.close_run("day").result(WAIT_S)
        assert core.run is not None
        assert core.run.state is RunState.CLOSED
        for change in (core.submit([a_workload("w")]), core.advance("day", START_S + 60)):
            with pytest.raises(FailedPrecondition):
                change.result(WAIT_S)


def test_a_log_with_real_dates_takes_no_run():
    with a_core(virtual=False) as core:
        core.submit([a_workload("w")]).result(WAIT_S)
        with pytest.raises(FailedPrecondition):
            core.open_run(a_run()).result(WAIT_S)


def test_a_virtual_service_needs_a_run_before_anything_is_dated():
    anything: Any = Decider()
    core: Core[Any, Any] = Core(CountingStore(), anything, Names, virtual=True)
    core.start()
    with pytest.raises(FailedPrecondition):
        core.submit([a_workload("w")]).result(WAIT_S)
    core.stop(WAIT_S)


def test_virtual_time_does_not_go_back():
    clock = VirtualClock(10)
    clock.advance_to(10)
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance_to(9)


# ---------------------------------------------------------------- real time


def test_a_round_follows_a_submission_within_the_debounce():
    decider = Decider()
    with a_core(decider=decider, virtual=False, pace=Pace(0.005, 60.0)) as core:
        until(lambda: decider.rounds)
        before = len(decider.rounds)
        core.submit([a_workload("w")]).result(WAIT_S)
        until(lambda: core.read(lambda state: state.rounds) > before)


def test_many_submissions_within_the_debounce_are_one_round():
    decider = Decider()
    with a_core(decider=decider, virtual=False, pace=Pace(0.2, 60.0)) as core:
        until(lambda: decider.rounds)
        for i in range(20):
            core.submit([a_workload(f"w{i}")]).result(WAIT_S)
        until(lambda: len(decider.rounds) == 2)
        time.sleep(0.05)
        assert len(decider.rounds) == 2


def test_a_failing_round_is_reported_and_submissions_go_on():
    decider = Decider()
    fails = [True, True]
    sound = decider.round

    def shaky(state, now_s):
        if fails:
            fails.pop()
            raise KeyError("a bug in the planner")
        return sound(state, now_s)

    decider.round = shaky  # type: ignore[method-assign]
    with a_core(decider=decider, virtual=False, pace=Pace(0.001, 60.0)) as core:
        core.submit([a_workload("w")]).result(WAIT_S)
        until(lambda: core.read(lambda state: state.rounds))
        assert core.metrics.core_errors.labels("round")._value.get() == 2


class SlowPool:
    """A solver that takes as long as the test wants."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def solve_plan(self, problem, wall_limit_s):
        self.release.wait(WAIT_S)
        return f"solution of {problem}"

    def close(self) -> None:
        self.release.set()


def test_rounds_go_on_while_a_plan_is_solved():
    decider, pool = Decider(), SlowPool()
    decider.wants_plan = True
    with a_core(decider=decider, pool=pool, virtual=False, pace=Pace(0.001, 60.0)) as core:
        until(lambda: core._plan_thread is not None)
        before = len(decider.rounds)
        core.submit([a_workload("w")]).result(WAIT_S)
        until(lambda: len(decider.rounds) > before)
        assert decider.plans == []
        pool.release.set()
        until(lambda: decider.plans == ["solution of problem"])


def test_a_pool_that_raises_costs_the_plan_and_nothing_else():
    class Raising(SlowPool):
        def solve_plan(self, problem, wall_limit_s):
            raise OSError("no more processes")

    decider = Decider()
    decider.wants_plan = True
    with a_core(decider=decider, pool=Raising(), virtual=False, pace=Pace(0.001, 60.0)) as core:
        until(lambda: core.metrics.core_errors.labels("plan")._value.get() == 1)
        decider.wants_plan = True
        core.submit([a_workload("w")]).result(WAIT_S)
        until(lambda: core.metrics.core_errors.labels("plan")._value.get() == 2)


# ---------------------------------------------------------------- trouble


def test_a_full_disk_is_told_and_survived():
    store = CountingStore()
    with a_core(store) as core:
        store.failures = 1
        with pytest.raises(Unavailable):
            core.submit([a_workload("w")], key("r1")).result(WAIT_S)
        assert core.read(lambda state: state.names) == []
        assert not core.submit([a_workload("w")], key("r1")).result(WAIT_S).replayed


def test_a_fold_that_breaks_is_repaired_from_the_log():
    with a_core() as core:
        name = a_workload("w").name
        core.read(lambda state: setattr(state, "break_on", name))
        core.submit([a_workload("w")]).result(WAIT_S)

        def healed():
            try:
                return core.submit([a_workload("v")], key("r2")).result(WAIT_S)
            except Unavailable:
                return None

        until(healed)
        assert core.read(lambda state: state.names) == [name, a_workload("v").name]


def test_events_of_another_writer_are_folded_before_ours():
    store = CountingStore()
    with a_core(store) as core:
        MemoryStore.commit(store, [CommitBatch((EventDraft(0, EventKind.WORKLOAD_SUBMITTED, "tool"),))])
        core.submit([a_workload("w")]).result(WAIT_S)
        assert core.read(lambda state: state.names) == ["tool", a_workload("w").name]
        assert core.read(lambda state: state.revision) == store.last_revision()


def test_stopping_finishes_what_was_asked_and_refuses_what_comes_later():
    with a_core() as core:
        with held(core):
            future = core.submit([a_workload("w")])
            stopping = threading.Thread(target=core.stop)
            stopping.start()
        assert future.result(WAIT_S).answer
        stopping.join(WAIT_S)
        with pytest.raises(Unavailable):
            core.submit([a_workload("v")])


def test_a_flood_is_told_to_come_back(monkeypatch):
    monkeypatch.setattr("scheduler.service.core.MAILBOX_LIMIT", 3)
    with a_core() as core, held(core):
        for i in range(3):
            core.submit([a_workload(f"w{i}")])
        with pytest.raises(Unavailable):
            core.submit([a_workload("w9")])


def test_the_state_of_a_restart_equals_the_state_that_was():
    store = CountingStore()
    with a_core(store) as core:
        for i in range(5):
            core.submit([a_workload(f"w{i}")]).result(WAIT_S)
            core.advance("day", START_S + 60 * (i + 1)).result(WAIT_S)
        was = core.read(lambda state: vars(state).copy())
    with a_core(store) as core:
        assert core.read(lambda state: vars(state).copy()) == was
