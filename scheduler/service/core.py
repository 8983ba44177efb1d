"""The core: one thread that owns the cluster state and every write to the store.

Requests arrive in a mailbox and leave as futures. The thread empties the mailbox and serves what it found:

1. submissions that do not touch each other share one transaction and one fsync (group commit);
2. every other change is decided on the state as it then is and committed by itself;
3. events are folded into the state, shown to followers and answered only after they are durable.

In real time it also runs rounds (debounced after each change) and plans (solved on another thread, so that a
round never waits for one). In virtual time it does nothing by itself: `advance` decides a whole step, and everything
that step does is one commit together with the event that says so, so that a `kill -9` finds the step either done or
not begun.

An exception in a decision reaches the caller who asked; one in a round or plan is reported, counted, and tried again
after a pause. The thread itself does not die of either.
"""

from __future__ import annotations

import gc
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Generic, TypeVar

import orjson

from scheduler.domain.records import (
    COLLECTION_RUNS,
    CommitBatch,
    Document,
    EventDraft,
    StoredRequest,
)
from scheduler.ports import SolverPool, Store
from scheduler.service.clock import SystemClock, VirtualClock
from scheduler.service.decider import Decider, StateT, TaskT
from scheduler.service.feed import Feed
from scheduler.service.history import History
from scheduler.service.logs import get_logger
from scheduler.service.messages import (
    Act,
    Advance,
    Ask,
    Group,
    Message,
    MessageT,
    Outcome,
    Overtaken,
    Pace,
    PlanSolved,
    RequestKey,
    Submit,
    Wake,
    once_more,
    raiser,
    settle,
    stored_request,
)
from scheduler.service.metrics import Metrics
from scheduler.service.taken import refusal
from suanli.model import (
    Conflict,
    Event,
    EventKind,
    FailedPrecondition,
    FieldProblem,
    InvalidRequest,
    NotFound,
    RunState,
    SimulationRun,
    SuanliError,
    Unavailable,
    Workload,
)
from suanli.model.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

T = TypeVar("T")

log = get_logger(__name__)

# events per read while folding the log at the start: a few MB at a time
FOLD_EVENTS = 10_000
# requests served per turn; bounds how long a round can be put off by a flood
TURN_MESSAGES = 512
# waiting requests beyond which new ones are told to come back later
MAILBOX_LIMIT = 10_000
# of the log's first entry: the opening, in a log that belongs to a run
FIRST_REVISION = 1
# an answer is kept this long under its request id
REQUEST_KEPT_S = SECONDS_PER_DAY
# after a round the thread serves requests for at least as long as the round took, and for four times as long when a
# thousand workloads came since the last one: however long rounds are, submissions never starve
ROUND_REST_LEAST, ROUND_REST_MOST = 1.0, 4.0
FLOOD_WORKLOADS = 1_000
BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 30.0


class Core(Generic[StateT, TaskT]):
    """See the module. `start` folds the log and begins to serve; every public method is safe from any thread."""

    def __init__(
        self,
        store: Store,
        decider: Decider[StateT, TaskT],
        empty_state: Callable[[], StateT],
        *,
        pool: SolverPool | None = None,
        virtual: bool = False,
        pace: Pace | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.store = store
        self.decider = decider
        self.metrics = metrics or Metrics()
        self.history = History()
        self.feed = Feed(store)
        self._empty_state = empty_state
        self._pool = pool
        self._pace = pace or Pace()
        self._virtual_only = virtual
        self._state = empty_state()
        self._state_lock = threading.RLock()
        self._run: SimulationRun | None = None
        self._clock: SystemClock | VirtualClock = VirtualClock() if virtual else SystemClock()
        self._mailbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="suanli-core", daemon=True)
        self._closing = False
        self._state_is_sound = True
        self._round_at: float | None = None
        self._round_rest_until = 0.0
        self._accepted_since_round = 0
        self._backoff_s = 0.0
        self._plan_not_before = 0.0
        self._plan_thread: threading.Thread | None = None
        self._forgot_at_s = 0

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Fold the log, find out which clock is in force, and begin to serve."""
        begun = time.perf_counter()
        self._refold()
        run = self._stored_run()
        if run is not None:
            self._enter_run(run)
        elif not self._virtual_only:
            self._round_at = time.monotonic()
        log.info(
            "state folded", revision=self._state.revision, seconds=round(time.perf_counter() - begun, 3),
            run=run.run_id if run else None,
        )  # fmt: skip
        self._thread.start()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Refuse new requests, finish those in the mailbox, end the thread. Safe to call twice."""
        self._closing = True
        self._mailbox.put(Wake())
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        self._refuse_rest()

    @property
    def is_serving(self) -> bool:
        """Whether requests are answered: started, not stopping, and the state is sound."""
        return self._thread.is_alive() and not self._closing and self._state_is_sound

    @property
    def is_alive(self) -> bool:
        """Whether the thread that owns the state runs."""
        return self._thread.is_alive()

    # ------------------------------------------------------------------ requests, from any thread

    def submit(
        self,
        workloads: Sequence[Workload],
        key: RequestKey | None = None,
        *,
        base_revision: int | None = None,
        paths: Sequence[str] = (),
    ) -> Future[Outcome]:
        """Accept all of these workloads or none; resolved when they are durable.

        The answer is {"names": [...]}. Fails with InvalidRequest (every problem; each workload's fields begin with
        its path, `workloads[i].` by default), AlreadyExists, or Conflict when the log is no longer at
        `base_revision`.
        """
        paths = tuple(paths) or tuple(f"workloads[{i}]." for i in range(len(workloads)))
        return self._post(Submit(tuple(workloads), paths, key, base_revision)).future

    def act(
        self,
        decide: Callable[[StateT, int], tuple[CommitBatch, dict[str, Any]]],
        key: RequestKey | None = None,
    ) -> Future[Outcome]:
        """Run `decide(state, now_s)` on the core's thread and commit its batch; its second value is the answer."""
        return self._post(Act(decide, key)).future

    def ask(self, read: Callable[[StateT, int], T]) -> Future[T]:
        """Run `read(state, now_s)` on the core's thread: for questions that need the decider's caches."""
        return self._post(Ask(read)).future

    def advance(self, run_id: str, until_s: int) -> Future[Outcome]:
        """Move virtual time to `until_s`; nothing happens when it is there already."""
        return self._post(Advance(run_id, until_s)).future

    def read(self, look: Callable[[StateT], T]) -> T:
        """Run `look(state)` on the caller's thread while the state stands still; keep it short."""
        with self._state_lock:
            return look(self._state)

    def now_s(self) -> int:
        """The time in force: the system's, or the run's."""
        return self._clock.now_s()

    @property
    def run(self) -> SimulationRun | None:
        """The run in virtual time, if there ever was one in this log."""
        return self._run

    def open_run(self, run: SimulationRun, key: RequestKey | None = None) -> Future[Outcome]:
        """Enter virtual time; only in an empty log, because dates of one log come from one clock."""

        def decide(state: StateT, now_s: int) -> tuple[CommitBatch, dict[str, Any]]:
            if self._run is not None and _same_run(self._run, run):
                return CommitBatch(), {"run_id": run.run_id}
            if self._run is not None:
                raise FailedPrecondition(
                    f"this log belongs to run {self._run.run_id}; start a service with a fresh store"
                )
            if state.revision:
                raise FailedPrecondition(
                    "the log has events in real time already; start a service with a fresh store"
                )
            return _run_batch(run), {"run_id": run.run_id}

        return self._post(Act(decide, key, changes_run=True)).future

    def close_run(self, run_id: str, key: RequestKey | None = None) -> Future[Outcome]:
        """End the run; its log stays readable and takes no more changes."""

        def decide(state: StateT, now_s: int) -> tuple[CommitBatch, dict[str, Any]]:
            run = self._known_run(run_id)
            if run.state is RunState.CLOSED:
                return CommitBatch(), {"run_id": run_id}
            return _run_batch(run.model_copy(update={"state": RunState.CLOSED})), {"run_id": run_id}

        return self._post(Act(decide, key, changes_run=True)).future

    def _post(self, message: MessageT) -> MessageT:
        if self._closing:
            raise Unavailable("the service is stopping")
        if self._mailbox.qsize() >= MAILBOX_LIMIT:
            raise Unavailable(f"{MAILBOX_LIMIT} requests are waiting already")
        self._mailbox.put(message)
        return message

    # ------------------------------------------------------------------ the thread

    def _loop(self) -> None:
        while not (self._closing and self._mailbox.empty()):
            try:
                self._serve(self._drain())
                self._keep_time()
            except Exception:
                # what gets here is a bug of the core itself: say so, pause, go on
                self._report("core")
                time.sleep(self._pause())

    def _drain(self) -> list[Message]:
        """Wait for news or the next timer, then take what is there."""
        messages: list[Message] = []
        try:
            messages.append(self._mailbox.get(timeout=self._seconds_to_timer()))
            while len(messages) < TURN_MESSAGES:
                messages.append(self._mailbox.get_nowait())
        except queue.Empty:
            pass
        return messages

    def _seconds_to_timer(self) -> float | None:
        if self._closing:
            return 0.0
        if self._in_virtual_time:
            return None
        now = time.monotonic()
        timers = [now + self._pace.round_every_s if self._round_at is None else self._round_at]
        if self._plan_not_before > now:
            timers.append(self._plan_not_before)
        return max(0.0, min(timers) - now)

    @property
    def _in_virtual_time(self) -> bool:
        return self._virtual_only or self._run is not None

    def _serve(self, messages: Sequence[Message]) -> None:
        if not self._state_is_sound:
            self._repair(messages)
            return
        known = self._known_answers(messages)
        group = Group()
        for message in messages:
            if isinstance(message, (Submit, Act)) and message.key is not None:
                if group.repeats(message.key):
                    self._commit_group(group.messages, known)
                    group = Group()
                if self._answer_again(message.future, message.key, known):
                    continue
            if isinstance(message, Submit) and group.fits(message):
                group.add(message)
                continue
            self._commit_group(group.messages, known)
            group = Group()
            if isinstance(message, Submit):
                group.add(message)
            else:
                self._serve_one(message, known)
        self._commit_group(group.messages, known)

    def _serve_one(self, message: Message, known: dict[str, StoredRequest]) -> None:
        if isinstance(message, Act):
            settle(message.future, lambda: once_more(lambda: self._do(message, known)))
        elif isinstance(message, Ask):
            settle(message.future, lambda: message.read(self._state, self.now_s()))
        elif isinstance(message, Advance):
            settle(message.future, lambda: once_more(lambda: self._step(message)))
        elif isinstance(message, PlanSolved):
            self._guarded("plan", lambda: self._finish_plan(message))

    # ------------------------------------------------------------------ idempotency

    def _known_answers(self, messages: Sequence[Message]) -> dict[str, StoredRequest]:
        ids = [m.key.request_id for m in messages if isinstance(m, (Submit, Act)) and m.key is not None]
        return self.store.requests(ids) if ids else {}

    def _answer_again(
        self, future: Future[Outcome], key: RequestKey, known: dict[str, StoredRequest]
    ) -> bool:
        """Whether the request was answered before; then it gets the same answer, or is refused if it differs."""
        stored = known.get(key.request_id)
        if stored is None:
            return False
        if stored.fingerprint != key.fingerprint:
            problem = FieldProblem(
                field="request_id", problem="was used with another body", expected="a new id per request",
                code="request_id_reused",
            )  # fmt: skip
            settle(future, raiser(InvalidRequest([problem])))
        else:
            outcome = Outcome(orjson.loads(stored.response), self._state.revision, replayed=True)
            settle(future, lambda: outcome)
        return True

    # ------------------------------------------------------------------ submissions

    def _commit_group(self, group: Sequence[Submit], known: dict[str, StoredRequest]) -> None:
        """Admit and commit submissions that share no name; what is wrong with one never harms another."""
        if not group:
            return
        try:
            accepted = self._admitted(group)
            if accepted:
                self._write_group(accepted, known)
        except Overtaken:
            self._commit_group([m for m in group if not m.future.done()], known)
        except Exception as error:
            open_messages = [m for m in group if not m.future.done()]
            if len(open_messages) == 1 and len(group) == 1:
                settle(group[0].future, raiser(error))
                return
            for message in open_messages:
                self._commit_group([message], known)

    def _admitted(self, group: Sequence[Submit]) -> list[Submit]:
        """Those that may be written; the others are answered here."""
        self._require_open_clock()
        every = [w for message in group for w in message.workloads]
        problems = iter(self.decider.admit(self._state, every))
        accepted: list[Submit] = []
        for message in group:
            found = [
                p.model_copy(update={"field": path + p.field})
                for path in message.paths
                for p in next(problems)
            ]
            error = self._refusal(message, found)
            if error is not None:
                settle(message.future, raiser(error))
            else:
                accepted.append(message)
        return accepted

    def _refusal(self, message: Submit, problems: list[FieldProblem]) -> SuanliError | None:
        found = refusal(self._state, self.history, message.workloads, message.paths, problems)
        if found is not None:
            return found
        if message.base_revision is not None and message.base_revision != self._state.revision:
            return Conflict("what the plan rested on has changed; plan again")
        return None

    def _write_group(self, group: Sequence[Submit], known: dict[str, StoredRequest]) -> None:
        now_s = self.now_s()
        workloads = [w for message in group for w in message.workloads]
        batch = self.decider.submit(self._state, now_s, workloads)
        answers = [{"names": [w.name for w in message.workloads]} for message in group]
        kept = [
            stored_request(message.key, answer, now_s)
            for message, answer in zip(group, answers, strict=True)
            if message.key is not None
        ]
        self._commit(replace(batch, requests=(*batch.requests, *kept)))
        self._accepted_since_round += len(workloads)
        self.metrics.commit_messages.observe(len(group))
        known.update({request.request_id: request for request in kept})
        for message, answer in zip(group, answers, strict=True):
            outcome = Outcome(answer, self._state.revision)
            settle(message.future, lambda outcome=outcome: outcome)  # type: ignore[misc]

    # ------------------------------------------------------------------ other changes

    def _do(self, message: Act, known: dict[str, StoredRequest]) -> Outcome:
        if not message.changes_run:
            self._require_open_clock()
        now_s = self.now_s()
        batch, answer = message.decide(self._state, now_s)
        if message.key is not None:
            kept = stored_request(message.key, answer, now_s)
            batch = replace(batch, requests=(*batch.requests, kept))
            known[kept.request_id] = kept
        self._commit(batch)
        if message.changes_run:
            run = self._stored_run()
            assert run is not None
            self._enter_run(run)
        return Outcome(answer, self._state.revision)

    def _step(self, message: Advance) -> Outcome:
        """One step of virtual time: what it decides and that it happened are one commit."""
        run = self._known_run(message.run_id)
        answer = {"run_id": run.run_id}
        if message.until_s <= run.advanced_until_s and not self._opens(run, message.until_s):
            return Outcome(answer, self._state.revision, replayed=True)
        self._require_open_clock()
        begun = time.perf_counter()
        batch = self.decider.advance(self._state, message.until_s)
        advanced = run.model_copy(update={"advanced_until_s": message.until_s})
        note = _run_batch(advanced)
        self._commit(
            replace(
                batch, events=(*batch.events, *note.events), documents=(*batch.documents, *note.documents)
            )
        )
        self.metrics.round_seconds.observe(time.perf_counter() - begun)
        self._enter_run(advanced)
        self._forget_requests()
        return Outcome(answer, self._state.revision)

    # ------------------------------------------------------------------ real time: rounds and plans

    def _keep_time(self) -> None:
        if self._in_virtual_time or not self._state_is_sound or self._closing:
            return
        now = time.monotonic()
        if self._round_at is not None and now >= self._round_at:
            self._round_at = now + self._pace.round_every_s
            self._guarded("round", self._round)
        if self._plan_thread is None and now >= self._plan_not_before:
            self._guarded("plan", self._begin_plan)
        self._forget_requests()

    def _round(self) -> None:
        begun = time.perf_counter()
        batch = self.decider.round(self._state, self.now_s())
        self._commit(batch, wants_round=False)
        took_s = time.perf_counter() - begun
        flood_frac = min(1.0, self._accepted_since_round / FLOOD_WORKLOADS)
        rest = ROUND_REST_LEAST + (ROUND_REST_MOST - ROUND_REST_LEAST) * flood_frac
        self._round_rest_until = time.monotonic() + rest * took_s
        self._accepted_since_round = 0
        self.metrics.round_seconds.observe(took_s)
        for name, count in self._state.counts().items():
            self.metrics.workloads.labels(name).set(count)

    def _begin_plan(self) -> None:
        """Compile here, solve on another thread; the answer comes back through the mailbox."""
        if self._pool is None or not self.decider.plan_due(self._state, self.now_s()):
            return
        begun = time.perf_counter()
        task = self.decider.begin_plan(self._state, self.now_s())
        if task is None:
            return
        pool = self._pool

        def solve() -> None:
            try:
                solution = pool.solve_plan(task.problem, task.wall_limit_s)
                self._mailbox.put(PlanSolved(task, solution, None, begun))
            except BaseException as error:
                self._mailbox.put(PlanSolved(task, None, error, begun))

        self._plan_thread = threading.Thread(target=solve, name="suanli-plan", daemon=True)
        self._plan_thread.start()

    def _finish_plan(self, solved: PlanSolved) -> None:
        self._plan_thread = None
        if solved.solution is None:
            self._plan_not_before = time.monotonic() + self._pause()
            raise RuntimeError("the solver pool raised instead of answering") from solved.error
        self._commit(self.decider.finish_plan(self._state, self.now_s(), solved.task, solved.solution))
        self.metrics.plan_seconds.observe(time.perf_counter() - solved.begun_s)

    def _guarded(self, what: str, step: Callable[[], None]) -> None:
        """The catch-all of everything the core does by itself: report, back off, keep serving."""
        try:
            step()
            self._backoff_s = 0.0
        except Exception:
            self._report(what)
            pause = self._pause()
            if what == "round":
                self._round_at = time.monotonic() + pause
            else:
                self._plan_not_before = time.monotonic() + pause

    def _report(self, where: str) -> None:
        self.metrics.core_errors.labels(where).inc()
        log.exception("the core caught an error and goes on", where=where, revision=self._state.revision)

    def _pause(self) -> float:
        """Seconds to wait after a failure: doubles from one to the next."""
        self._backoff_s = min(BACKOFF_MOST_S, 2 * self._backoff_s or BACKOFF_FIRST_S)
        return self._backoff_s

    # ------------------------------------------------------------------ commit and fold

    def _commit(self, batch: CommitBatch, wants_round: bool = True) -> None:
        """Make the batch durable, then fold and show it. Another writer's events are folded first."""
        if not (batch.events or batch.documents or batch.requests):
            return
        begun = time.perf_counter()
        try:
            (events,) = self.store.commit([batch], expect_revision=self._state.revision)
        except Conflict as error:
            self._catch_up()
            raise Overtaken from error
        self.metrics.commit_seconds.observe(time.perf_counter() - begun)
        self._fold(events)
        if wants_round and events and not self._in_virtual_time:
            due = max(time.monotonic() + self._pace.round_debounce_s, self._round_rest_until)
            self._round_at = due if self._round_at is None else min(self._round_at, due)

    def _fold(self, events: Sequence[Event]) -> None:
        if not events:
            return
        try:
            with self._state_lock:
                self._state.apply(events)
                self.history.apply(events)
        except Exception:
            # the log has these events and the state has half of them: trust the log alone
            self._state_is_sound = False
            self._report("fold")
        self.feed.publish(events)
        self.metrics.observe(events)

    def _catch_up(self) -> None:
        """Somebody else wrote to the log (an operator's tool): fold what is new."""
        while events := self.store.events(self._state.revision, FOLD_EVENTS):
            self._fold(events)
            if not self._state_is_sound:
                return

    def _refold(self) -> None:
        """The state from the log alone."""
        state, history, revision = self._empty_state(), History(), 0
        with _no_garbage():
            while events := self.store.events(revision, FOLD_EVENTS):
                state.apply(events)
                history.apply(events)
                revision = events[-1].revision
        with self._state_lock:
            self._state, self.history = state, history

    def _repair(self, messages: Sequence[Message]) -> None:
        """Fold anew after a fold failed; until that works, whoever asks is told to come back later."""
        for message in messages:
            future = getattr(message, "future", None)
            if future is not None:
                settle(future, raiser(Unavailable("the state is being rebuilt from the log")))
        try:
            self._refold()
            self._state_is_sound = True
        except Exception:
            self._report("refold")
            time.sleep(self._pause())

    def _refuse_rest(self) -> None:
        while not self._mailbox.empty():
            future = getattr(self._mailbox.get(), "future", None)
            if future is not None:
                settle(future, raiser(Unavailable("the service is stopping")))

    def _forget_requests(self) -> None:
        now_s = self.now_s()
        if now_s - self._forgot_at_s >= SECONDS_PER_HOUR:
            self._forgot_at_s = now_s
            self.store.forget_requests(now_s - REQUEST_KEPT_S)

    # ------------------------------------------------------------------ virtual time

    def _stored_run(self) -> SimulationRun | None:
        documents = self.store.documents(COLLECTION_RUNS, limit=1)
        if not documents or documents[0].body is None:
            return None
        return SimulationRun.model_validate_json(documents[0].body)

    def _enter_run(self, run: SimulationRun) -> None:
        clock = self._clock if isinstance(self._clock, VirtualClock) else VirtualClock()
        clock.advance_to(run.advanced_until_s)
        self._run, self._clock = run, clock

    def _known_run(self, run_id: str) -> SimulationRun:
        if self._run is None or self._run.run_id != run_id:
            raise NotFound(f"no run {run_id}")
        return self._run

    def _opens(self, run: SimulationRun, until_s: int) -> bool:
        """Whether this is the run's first step, and decides what is due at the opening itself.

        The clock stands there already, but the document that says so is still the log's first entry.
        """
        if until_s != run.start_at_s or run.advanced_until_s != run.start_at_s:
            return False
        document = self.store.document(COLLECTION_RUNS, run.run_id)
        return document is not None and document.revision == FIRST_REVISION

    def _require_open_clock(self) -> None:
        """Changes need a time to be dated with."""
        if self._run is not None and self._run.state is RunState.CLOSED:
            raise FailedPrecondition(f"run {self._run.run_id} is closed")
        if self._virtual_only and self._run is None:
            raise FailedPrecondition("this service runs in virtual time: create a run first")


# ---------------------------------------------------------------------- small parts


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Hold the cycle collector off: it would look for cycles among the events half of the time, and there are none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _run_batch(run: SimulationRun) -> CommitBatch:
    """The event and document that say where the run stands."""
    body = {
        "until_s": run.advanced_until_s,
        "state": run.state.value,
        "seed": run.seed,
        "planner": run.planner,
    }
    return CommitBatch(
        (EventDraft(run.advanced_until_s, EventKind.RUN_ADVANCED, f"runs/{run.run_id}", body),),
        (Document(COLLECTION_RUNS, run.run_id, run.model_dump_json().encode(), state=run.state.value),),
    )


def _same_run(a: SimulationRun, b: SimulationRun) -> bool:
    return (a.run_id, a.seed, a.start_at_s, a.planner) == (b.run_id, b.seed, b.start_at_s, b.planner)
