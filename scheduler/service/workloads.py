"""Verbs on workloads: create, batch create, get, list, cancel, changes, explain, plan (dry run)."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.records import COLLECTION_WORKLOADS, CommitBatch
from scheduler.domain.shapes import stored_workload
from scheduler.domain.state import STATE_CODE, ClusterState
from scheduler.planner.workload_warnings import workload_warnings
from scheduler.service.answers import Answer
from scheduler.service.core import Core
from scheduler.service.filters import Comparison, Filter, parse_filter
from scheduler.service.history import CHANGES_WORKLOAD, workload_of
from scheduler.service.messages import Outcome, RequestKey
from scheduler.service.paging import page_size, read_token, write_token
from scheduler.service.taken import refusal, taken_names
from scheduler.service.views import (
    WorkloadStatus,
    find_node,
    need_topology,
    placement_of,
    workload_record,
    workload_statuses,
)
from suanli.model import (
    ChangeType,
    Conflict,
    Event,
    EventKind,
    Explanation,
    FieldProblem,
    InvalidRequest,
    NotFound,
    Placement,
    PlannedWorkload,
    WatchExpired,
    Workload,
    WorkloadChange,
    WorkloadRecord,
    WorkloadsPlan,
    WorkloadState,
)

if TYPE_CHECKING:
    from scheduler.cycle import Cycle, DryRun
    from scheduler.planner.explain import WaitingStatus
    from scheduler.planner.strategy import PlanTask

T = TypeVar("T")
ServiceCore: TypeAlias = "Core[ClusterState, PlanTask]"

BATCH_MOST = 1000
ORDERS = ("name", "create_time", "update_time")
WATCH_PAGE = 1000
ANY_TENANT = "tenants/-"


def request_key(request_id: str, verb: str, *content: str) -> RequestKey | None:
    """Key of a repeatable request, None without an id; the fingerprint covers verb and content."""
    if not request_id:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for part in (verb, *content):
        digest.update(part.encode())
        digest.update(b"\0")
    return RequestKey(request_id, digest.hexdigest())


@dataclass(frozen=True)
class WorkloadPage:
    """One page of a list, and where a watch goes on without missing anything."""

    records: tuple[WorkloadRecord, ...]
    next_token: str
    total_count: int
    resume_token: str


class Workloads:
    """See the module; `core` owns the state, `cycle` answers questions."""

    def __init__(self, core: ServiceCore, cycle: Cycle) -> None:
        self._core = core
        self._cycle = cycle

    # ------------------------------------------------------------------ create

    def create(
        self,
        workload: Workload,
        *,
        request_id: str = "",
        validate_only: bool = False,
        plan_etag: str = "",
        path: str = "",
    ) -> Answer[WorkloadRecord]:
        """Accept one workload; `path` is put before the field of every problem (`workload.`)."""
        answer = self.batch_create(
            [workload], request_id=request_id, validate_only=validate_only, plan_etag=plan_etag, paths=[path]
        )
        return Answer(answer._future, lambda outcome: answer._finish(outcome)[0])

    def batch_create(
        self,
        workloads: Sequence[Workload],
        *,
        request_id: str = "",
        validate_only: bool = False,
        plan_etag: str = "",
        paths: Sequence[str] = (),
    ) -> Answer[list[WorkloadRecord]]:
        """Accept all or none of up to 1000 workloads, durable when answered.

        InvalidRequest names every problem of every workload; AlreadyExists a name that is taken; Conflict a
        `plan_etag` whose ground has moved.
        """
        _check_batch(workloads)
        paths = paths or [f"workloads[{i}]." for i in range(len(workloads))]
        if validate_only:
            return Answer(self._validate(workloads, paths), lambda _: self._checked(workloads, paths))
        content = [w.model_dump_json() for w in workloads] if request_id else []
        future = self._core.submit(
            workloads,
            request_key(request_id, "workloads.create", *content),
            base_revision=_revision(plan_etag, "plan_etag") if plan_etag else None,
            paths=paths,
        )
        return Answer(future, lambda _: self._created(workloads, paths))

    def _created(self, workloads: Sequence[Workload], paths: Sequence[str]) -> list[WorkloadRecord]:
        statuses = self._statuses([w.name for w in workloads])
        offset_hours = self._core.read(_utc_offset_hours)
        return [
            workload_record(w, status, _warnings(w, path, offset_hours, status.created_at_s))
            for w, path in zip(workloads, paths, strict=True)
            for status in [statuses[w.name]]
        ]

    def _checked(self, workloads: Sequence[Workload], paths: Sequence[str]) -> list[WorkloadRecord]:
        now_s, offset_hours = self._core.now_s(), self._core.read(_utc_offset_hours)
        return [
            WorkloadRecord.of(w, WorkloadState.PENDING, warnings=_warnings(w, path, offset_hours, now_s))
            for w, path in zip(workloads, paths, strict=True)
        ]

    def _validate(self, workloads: Sequence[Workload], paths: Sequence[str]) -> Future[Outcome]:
        def check(state: ClusterState, now_s: int) -> Outcome:
            self._check_may_come(state, workloads, paths)
            return Outcome({}, state.revision)

        return self._core.ask(check)

    def _check_may_come(
        self, state: ClusterState, workloads: Sequence[Workload], paths: Sequence[str]
    ) -> None:
        """What a submission would be refused for; nothing is written."""
        found = self._impossible(state, workloads, paths)
        error = refusal(state, self._core.history, workloads, paths, found)
        if error is not None:
            raise error

    def refused_for(self, workloads: Sequence[Workload], paths: Sequence[str]) -> Future[list[FieldProblem]]:
        """Why one of them could never run and which names are taken, each field led by that workload's path.

        Asked about what is left of a malformed request; nothing is written.
        """

        def look(state: ClusterState, _: int) -> list[FieldProblem]:
            found = self._impossible(state, workloads, paths)
            return [*found, *taken_names(state, self._core.history, workloads, paths)]

        return self._core.ask(look)

    def _impossible(
        self, state: ClusterState, workloads: Sequence[Workload], paths: Sequence[str]
    ) -> list[FieldProblem]:
        problems = self._cycle.admit(state, workloads)
        return [
            p.model_copy(update={"field": path + p.field})
            for path, ps in zip(paths, problems, strict=True)
            for p in ps
        ]

    # ------------------------------------------------------------------ read

    def get(self, name: str) -> WorkloadRecord:
        """One workload with its state; NotFound."""
        document = self._core.store.document(COLLECTION_WORKLOADS, name)
        status = self._statuses([name]).get(name)
        if document is None or document.body is None or status is None:
            raise self._missing(name)
        record = workload_record(stored_workload(document.body), status)
        return self._with_waiting([record], with_start=True)[0]

    def _with_waiting(
        self, records: Sequence[WorkloadRecord], *, with_start: bool = False
    ) -> list[WorkloadRecord]:
        """The records with place in the queue and reasons of those of which something waits."""
        names = [r.name for r in records if not r.state.is_final and r.placed_replica_count < r.replica_count]
        if not names:
            return list(records)
        found = self._core.ask(
            lambda state, now_s: self._cycle.waiting(state, now_s, names, with_start=with_start)
        ).result()
        return [r if r.name not in found else _waiting_record(r, found[r.name]) for r in records]

    def _missing(self, name: str) -> NotFound:
        return self._core.read(lambda state: NotFound.among("workload", name, state.names))

    def load(self, name: str) -> Workload:
        """The workload as it was submitted; NotFound."""
        document = self._core.store.document(COLLECTION_WORKLOADS, name)
        if document is None or document.body is None:
            raise self._missing(name)
        return stored_workload(document.body)

    def page(
        self,
        parent: str = ANY_TENANT,
        *,
        filter_text: str = "",
        order_by: str = "",
        size: int = 0,
        token: str = "",
        full: bool = False,
    ) -> WorkloadPage:
        """One page in the order asked for; by `update_time` a workload that changes meanwhile may come twice."""
        size = page_size(size)
        question = (parent, filter_text, order_by)
        after = read_token(token, question)
        wanted, (column, descending) = _question(filter_text, order_by)
        # taken first: what changes while the list is made is then seen by the watch too
        resume = self._core.feed.last_revision
        keyed = self._core.read(lambda state: self._keyed_names(state, parent, wanted, column))
        if wanted.needs_body:
            kept = {r.name for r in self._records([name for _, name in keyed]) if wanted.matches(r)}
            keyed = [pair for pair in keyed if pair[1] in kept]
        keyed.sort(reverse=descending)
        start = 0 if after is None else _behind(keyed, (after[0], after[1]), descending)
        page = keyed[start : start + size]
        records = self._with_waiting(self._records([name for _, name in page]))
        more = start + size < len(keyed)
        return WorkloadPage(
            records=tuple(r if full else r.basic() for r in records),
            next_token=write_token(list(page[-1]), question) if more else "",
            total_count=len(keyed),
            resume_token=write_resume(resume),
        )

    def _keyed_names(
        self, state: ClusterState, parent: str, wanted: Filter, column: str
    ) -> list[tuple[int, str]]:
        """(sort key, name) of all workloads that match, in order of submission; labels are not looked at."""
        mask = _mask(state, wanted)
        prefix = "" if parent == ANY_TENANT else f"{parent}/"
        names = [state.names[i] for i in np.flatnonzero(mask).tolist() if state.names[i].startswith(prefix)]
        if column == "name":
            return [(0, name) for name in names]
        at = self._core.history.created if column == "create_time" else self._core.history.changed
        return [(at(name)[1], name) for name in names]

    def _records(self, names: Sequence[str]) -> list[WorkloadRecord]:
        documents = self._core.store.documents_named(COLLECTION_WORKLOADS, names)
        statuses = self._statuses(names)
        return [
            workload_record(stored_workload(document.body), statuses[name])
            for name in names
            if (document := documents.get(name)) is not None
            and document.body is not None
            and name in statuses
        ]

    def _statuses(self, names: Sequence[str]) -> dict[str, WorkloadStatus]:
        history = self._core.history
        return self._core.read(lambda state: workload_statuses(state, history, names))

    # ------------------------------------------------------------------ cancel

    def cancel(
        self, name: str, *, request_id: str = "", etag: str = "", cause: str = "", validate_only: bool = False
    ) -> Answer[WorkloadRecord]:
        """End a workload; one that is final already stays as it is. NotFound, Conflict on a stale etag."""

        def decide(state: ClusterState, now_s: int) -> tuple[CommitBatch, dict[str, str]]:
            self._check_etag(name, etag)
            return self._cycle.cancel(state, now_s, name), {"name": name}

        def check(state: ClusterState, now_s: int) -> Outcome:
            return Outcome(decide(state, now_s)[1], state.revision)

        future = (
            self._core.ask(check)
            if validate_only
            else self._core.act(decide, request_key(request_id, "workloads.cancel", name, etag, cause))
        )
        return Answer(future, lambda _: self.get(name))

    def _check_etag(self, name: str, etag: str) -> None:
        if not etag:
            return
        status = self._statuses([name]).get(name)
        if status is not None and str(status.revision) != etag:
            raise Conflict(f"{name} has changed since etag {etag}; read it again")

    # ------------------------------------------------------------------ changes

    def follow(
        self, parent: str = ANY_TENANT, *, filter_text: str = "", resume_token: str = ""
    ) -> WorkloadFollower:
        """A cursor over the changes of workloads, from the token or, without one, from the present state on."""
        return WorkloadFollower(self, self._core, parent, parse_filter(filter_text), resume_token)

    # ------------------------------------------------------------------ questions

    def explain(self, name: str, *, why_not: str = "", with_relaxations: bool = False) -> Future[Explanation]:
        """Why there, why not yet; with `why_not` (`sites/{site}` or `sites/{site}/nodes/{node}`), why not there.

        `with_relaxations` also looks for changes that would let it start, each verified by a trial. NotFound.
        """
        site_id, _, node_id = why_not.removeprefix("sites/").partition("/nodes/")

        def look(state: ClusterState, now_s: int) -> Explanation:
            node = find_node(need_topology(state), site_id, node_id) if node_id else None
            found = self._cycle.explain(state, name, now_s, site_id, node, with_relaxations=with_relaxations)
            return found.model_copy(update={"why_not": why_not}) if why_not else found

        return self._core.ask(look)

    def plan(self, workloads: Sequence[Workload]) -> Future[WorkloadsPlan]:
        """Dry run: what submitting these now would do; refused as submitting them would be."""
        _check_batch(workloads)

        def look(state: ClusterState, now_s: int) -> WorkloadsPlan:
            paths = [f"workloads[{i}]." for i in range(len(workloads))]
            self._check_may_come(state, workloads, paths)
            warned = [
                _warnings(w, path, _utc_offset_hours(state), now_s)
                for w, path in zip(workloads, paths, strict=True)
            ]
            return _dry_run(self._cycle.plan_dry_run(state, now_s, workloads), workloads, warned, now_s)

        return self._core.ask(look)


class WorkloadFollower:
    """One watch: `next_changes` never blocks; `Core.feed` tells when there is more to see.

    Level-triggered: several events of one workload that lie close together arrive as one change that shows the newest
    state. Every change carries the token to go on from.
    """

    def __init__(
        self, workloads: Workloads, core: ServiceCore, parent: str, wanted: Filter, resume_token: str
    ) -> None:
        self._workloads = workloads
        self._core = core
        self._prefix = "" if parent == ANY_TENANT else f"{parent}/"
        self._parent = parent
        self._filter = wanted
        self._begun = bool(resume_token)
        self._resumed_at = read_resume(resume_token) if resume_token else 0
        if self._resumed_at > core.feed.last_revision:
            raise WatchExpired(f"revision {resume_token} is ahead of this log; list again")
        self.revision = self._resumed_at
        # per name, whether the follower was shown it; a name not in here that is older than the token may have been
        self._shown: dict[str, bool] = {}

    def initial(self) -> list[WorkloadChange]:
        """Without a token: every workload that matches, as ADDED, then a bookmark. Empty when resuming."""
        if self._begun:
            return []
        self._begun = True
        changes: list[WorkloadChange] = []
        token, first = "", None
        while True:
            page = self._workloads.page(self._parent, size=WATCH_PAGE, token=token, full=True)
            # changes after the first page's revision are told again: better twice than never
            first = first if first is not None else read_resume(page.resume_token)
            for record in page.records:
                matches = self._filter.matches(record)
                self._shown[record.name] = matches
                if matches:
                    changes.append(_change(ChangeType.ADDED, record, first))
            token = page.next_token
            if not token:
                break
        self.revision = self._resumed_at = first
        return [*changes, self.bookmark()]

    def next_changes(self) -> list[WorkloadChange]:
        """What happened since the cursor, at most about a thousand events; empty when nothing did. WatchExpired."""
        events, cursor = self._core.feed.read(self.revision, WATCH_PAGE, CHANGES_WORKLOAD, self._prefix)
        last: dict[str, int] = {}
        born: set[str] = set()
        for event in events:
            name = workload_of(event)
            assert name is not None
            last[name] = event.revision
            if event.kind is EventKind.WORKLOAD_SUBMITTED:
                born.add(name)
        order = sorted(last, key=lambda name: last[name])
        records = {r.name: r for r in self._workloads._records(order)}
        changes = [
            change
            for name in order
            if (change := self._change_of(name, records.get(name), last[name], name in born)) is not None
        ]
        self.revision = cursor
        return changes

    def bookmark(self) -> WorkloadChange:
        """Nothing new up to here; the token alone moves on."""
        return WorkloadChange(type=ChangeType.BOOKMARK, resume_token=write_resume(self.revision))

    def _change_of(
        self, name: str, record: WorkloadRecord | None, revision: int, is_new: bool
    ) -> WorkloadChange | None:
        if record is not None and self._filter.matches(record):
            known = self._shown.get(name, not is_new)
            self._shown[name] = True
            return _change(ChangeType.MODIFIED if known else ChangeType.ADDED, record, revision)
        may_be_known = self._shown.get(name, not is_new)
        self._shown[name] = False
        if not may_be_known:
            return None
        return WorkloadChange(type=ChangeType.DELETED, name=name, resume_token=write_resume(revision))


# ---------------------------------------------------------------------- small parts


def write_resume(revision: int) -> str:
    """Resume token of a revision."""
    return str(revision)


def read_resume(token: str) -> int:
    """Revision of a resume token; WatchExpired for anything that is none, because listing again is the cure."""
    if not token.isdecimal():
        raise WatchExpired(f"{token!r} is no resume token of this service; list again")
    return int(token)


def _change(kind: ChangeType, record: WorkloadRecord, revision: int) -> WorkloadChange:
    return WorkloadChange(type=kind, name=record.name, record=record, resume_token=write_resume(revision))


def _revision(etag: str, field: str) -> int:
    if not etag.isdecimal():
        raise Conflict(f"{field} {etag!r} is not from this service; read again")
    return int(etag)


def _check_batch(workloads: Sequence[Workload]) -> None:
    problems = []
    if not 1 <= len(workloads) <= BATCH_MOST:
        problems.append(
            FieldProblem(
                field="requests", problem=f"{len(workloads)} workloads", expected=f"1 to {BATCH_MOST}"
            )
        )
    seen: set[str] = set()
    for i, workload in enumerate(workloads):
        if workload.name in seen:
            problems.append(
                FieldProblem(field=f"requests[{i}].workload.name", problem=f"{workload.name} comes twice")
            )
        seen.add(workload.name)
    if problems:
        raise InvalidRequest(problems)


def _utc_offset_hours(state: ClusterState) -> int:
    """Of the city's clock; UTC before a fleet is registered."""
    return 0 if state.topology is None else state.topology.fleet.utc_offset_hours


def _warnings(workload: Workload, path: str, utc_offset_hours: int, now_s: int) -> tuple[FieldProblem, ...]:
    """What of it cannot come true, each led by the workload's path in the request."""
    found = workload_warnings(workload, utc_offset_hours, now_s)
    return tuple(w.model_copy(update={"field": path + w.field}) for w in found)


def _waiting_record(record: WorkloadRecord, status: WaitingStatus) -> WorkloadRecord:
    """The record with what is said of its waiting."""
    return record.model_copy(update=vars(status))


def _question(filter_text: str, order_by: str) -> tuple[Filter, tuple[str, bool]]:
    """Filter and order; InvalidRequest names what is wrong with either."""
    problems: list[FieldProblem] = []
    wanted, order = Filter(), ("", False)
    try:
        wanted = parse_filter(filter_text)
    except InvalidRequest as error:
        problems += error.problems
    try:
        order = _order(order_by)
    except InvalidRequest as error:
        problems += error.problems
    if problems:
        raise InvalidRequest(problems)
    return wanted, order


def _order(order_by: str) -> tuple[str, bool]:
    column, _, direction = order_by.strip().partition(" ")
    if (column or "name") not in ORDERS or direction.strip() not in ("", "asc", "desc"):
        expected = ", ".join(ORDERS) + "; each with ` desc` if wanted"
        close = difflib.get_close_matches(column, ORDERS, n=1)
        problem = FieldProblem(
            field="order_by",
            problem=f"cannot order by {order_by!r}",
            expected=expected,
            nearest=close[0] if close else "",
        )
        raise InvalidRequest([problem])
    return column or "name", direction.strip() == "desc"


def _behind(keyed: Sequence[tuple[int, str]], last: tuple[int, str], descending: bool) -> int:
    """Index of the first pair behind `last` in the sorted list."""
    low, high = 0, len(keyed)
    while low < high:
        middle = (low + high) // 2
        pair = keyed[middle]
        if pair < last if descending else pair > last:
            high = middle
        else:
            low = middle + 1
    return low


def _mask(state: ClusterState, wanted: Filter) -> NDArray[np.bool_]:
    """Workloads that pass every comparison but those on labels, in order of submission."""
    mask = np.ones(len(state.names), bool)
    shapes = state.workloads["shape"]
    for c in wanted.on("kind", "priority_class", "workload_class"):
        by_shape = np.array([str(getattr(t, c.field)) == c.value for t in state.shapes.templates], bool)
        mask &= _negated(by_shape[shapes] if len(by_shape) else mask, c)
    for c in wanted.on("state"):
        code = STATE_CODE.get(WorkloadState(c.value), -1) if c.value in set(WorkloadState) else -1
        mask &= _negated(state.workloads["state"] == code, c)
    for c in wanted.on("placed_sites"):
        mask &= _negated(_placed_at(state, c.value.removeprefix("sites/")), c)
    return mask


def _negated(holds: NDArray[np.bool_], c: Comparison) -> NDArray[np.bool_]:
    return ~holds if c.op == "!=" else holds


def _placed_at(state: ClusterState, site_id: str) -> NDArray[np.bool_]:
    placed = np.zeros(len(state.names), bool)
    if state.topology is not None and site_id in state.topology.site_index:
        rows = np.flatnonzero(state.replicas["node"] >= 0)
        at = state.topology.node_site[state.replicas["node"][rows]] == state.topology.site_index[site_id]
        placed[state.replicas["workload"][rows[at]]] = True
    return placed


def _dry_run(
    run: DryRun, workloads: Sequence[Workload], warned: Sequence[tuple[FieldProblem, ...]], now_s: int
) -> WorkloadsPlan:
    planned = []
    for workload, warnings in zip(workloads, warned, strict=True):
        mine = [body for body in run.placed if body["command"]["workload"] == workload.name]
        missing = sum(s.replicas for s in workload.stages if s.shared_with is None) - len(mine)
        state = WorkloadState.PENDING if missing else WorkloadState.PLANNED
        summary = f"{missing} replicas would wait" if missing else "would be placed now"
        added = run.added.get(workload.name)
        explanation = run.explanations.get(workload.name) or Explanation(
            workload=workload.name, state=state.value, at_s=now_s, summary=summary
        )
        planned.append(
            PlannedWorkload(
                workload=workload.name,
                state=state,
                placements=tuple(_planned_placement(body) for body in mine),
                explanation=explanation,
                it_power_w=added.it_power_w if added else 0.0,
                facility_power_w=added.facility_power_w if added else 0.0,
                cost_yuan_per_hour=added.yuan_per_hour if added else 0.0,
                rtt_p99_ms=max((body["rtt_p99_ms"] or 0.0 for body in mine), default=0.0),
                warnings=warnings,
            )
        )
    return WorkloadsPlan(
        etag=str(run.base_revision),
        at_s=now_s,
        workloads=tuple(planned),
        it_power_w=sum(w.it_power_w for w in planned),
        facility_power_w=sum(w.facility_power_w for w in planned),
        cost_yuan_per_hour=sum(w.cost_yuan_per_hour for w in planned),
    )


def _planned_placement(body: dict[str, object]) -> Placement:
    return placement_of(
        Event(revision=0, at_s=0, kind=EventKind.REPLICA_START_ORDERED, subject="", body=body)
    )
