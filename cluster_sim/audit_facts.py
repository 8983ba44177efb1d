"""What the second audit knows of a played day: the fleet and the log as numpy columns, read anew from the documents.

    Finding, Judged, Rule       what a rule says: how many it judged, and each fault with expected and actual
    Hosts                       the fleet: groups and nodes numbered through
    Work                        submitted workloads with the shapes they were made of, and their states
    Orders                      start orders, one row each, with what became of them
    Moment                      one workload right after orders that belong together
    Facts                       all of this for one log

Nothing here is shared with the planner, the service's state or the solvers. Time is the log's own order: a start takes
room from its revision on, a stop order or an end gives it back from its revision on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster_sim.audit_network import Roads
from cluster_sim.day_log import BrokenLogError
from suanli.model import Event, EventKind, Fleet, NodeGroup, Policy, Site, Stage, Workload, WorkloadState
from suanli.model.units import MILLI

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

NEVER = 2**62
"""A revision or an instant that did not come."""
UNKNOWN = -1
"""The log names something that nobody introduced."""
ENDED_WELL = "succeeded"
ENDS_FOR_GOOD = (ENDED_WELL, "failed")
"""Work with an end that ended so is not started again."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule at one event."""

    revision: int
    at_s: int
    subject: str
    expected: str
    actual: str


@dataclass(frozen=True, slots=True)
class Judged:
    """What one rule found in `checked_count` single checks."""

    checked_count: int
    findings: list[Finding] = field(default_factory=list)


# ---------------------------------------------------------------------------------------------------- fleet


@dataclass(frozen=True)
class Hosts:
    """S sites, G node groups, N nodes; nodes are numbered site by site, group by group."""

    fleet: Fleet
    groups: tuple[tuple[int, NodeGroup], ...]
    """(site index, group)."""
    group_index: dict[tuple[str, str], int]
    site_index: dict[str, int]
    group_site: I64
    first_node: I64
    node_group: I64
    roads: Roads

    @classmethod
    def of(cls, fleet: Fleet) -> Hosts:
        """Number everything through."""
        groups = tuple((i, g) for i, s in enumerate(fleet.sites) for g in s.groups)
        counts = np.array([g.node_count for _, g in groups], np.int64)
        return cls(
            fleet=fleet,
            groups=groups,
            group_index={(fleet.sites[site].site_id, g.group_id): i for i, (site, g) in enumerate(groups)},
            site_index={s.site_id: i for i, s in enumerate(fleet.sites)},
            group_site=np.array([site for site, _ in groups], np.int64),
            first_node=np.cumsum(counts) - counts,
            node_group=np.repeat(np.arange(len(groups)), counts),
            roads=Roads.of(fleet),
        )

    @property
    def sites(self) -> tuple[Site, ...]:
        """In fleet order."""
        return self.fleet.sites

    @property
    def node_count(self) -> int:
        """Nodes of all sites."""
        return int(self.node_group.size)

    @cached_property
    def node_site(self) -> I64:
        """(N,) site of each node."""
        sites: I64 = self.group_site[self.node_group]
        return sites

    def node_name(self, node: int) -> str:
        """`site/group/index`."""
        group = int(self.node_group[node])
        site, g = self.groups[group]
        return f"{self.sites[site].site_id}/{g.group_id}/{node - int(self.first_node[group])}"

    def labels(self, site: int) -> dict[str, str]:
        """What a site is by itself (kind, host kind, local UPF), overridden by the labels it was given."""
        s = self.sites[site]
        implied = {"kind": s.kind.value, "host_kind": s.host_kind.value, "upf": str(s.has_upf).lower()}
        return {**implied, **s.labels}


# ----------------------------------------------------------------------------------------------------- work


@dataclass(frozen=True)
class Work:
    """(W,) submitted workloads in order of submission; `shapes` are the workloads they were made of."""

    shapes: list[Workload]
    names: list[str]
    row: dict[str, int]
    repeated: list[Event]
    """Submissions of a name that was taken."""
    revision: I64
    shape: I64
    not_before_s: I64
    deadline_s: I64
    """NEVER without one."""
    replicas: list[tuple[int, ...]]
    """Per stage of the shape; 0 where another workload's stage is shared."""
    final_revision: I64
    """Of the first final state; NEVER without one."""
    final_at_s: I64

    @cached_property
    def spec_first(self) -> I64:
        """(shapes,) code of the first stage of each shape; a spec is one stage of one shape."""
        counts = np.array([len(s.stages) for s in self.shapes], np.int64)
        firsts: I64 = np.cumsum(counts) - counts
        return firsts

    @cached_property
    def specs(self) -> list[tuple[Workload, Stage]]:
        """Code → (shape, stage)."""
        return [(shape, stage) for shape in self.shapes for stage in shape.stages]

    @cached_property
    def sharers(self) -> dict[str, list[int]]:
        """Workload name → rows of those that use one of its stages."""
        found: dict[str, list[int]] = {}
        for row, shape in enumerate(self.shape.tolist()):
            for owner in sorted({s.shared_with for s in self.shapes[shape].stages if s.shared_with}):
                found.setdefault(owner, []).append(row)
        return found

    def shape_of(self, row: int) -> Workload:
        """What a workload was made of."""
        return self.shapes[int(self.shape[row])]


@dataclass(frozen=True)
class Orders:
    """(P,) start orders in the order of the log; UNKNOWN where the order names what does not exist."""

    events: list[Event]
    commands: list[dict[str, Any]]
    ids: list[str]
    row: dict[str, int]
    """Placement id → its first order."""
    revision: I64
    at_s: I64
    work: I64
    stage: I64
    """Index within the shape."""
    spec: I64
    replica: I64
    """Code of (workload, stage, index)."""
    site: I64
    group: I64
    node: I64
    stop_revision: I64
    stop_at_s: I64
    ran_revision: I64
    ran_at_s: I64
    ended_revision: I64
    ended_at_s: I64
    end_phase: list[str]
    stop_kind: list[str]
    done_work_s: F64
    """What its end left for a restart to build on."""

    @cached_property
    def released_revision(self) -> I64:
        """(P,) from when its room is free."""
        released: I64 = np.minimum(self.stop_revision, self.ended_revision)
        return released

    @cached_property
    def released_at_s(self) -> I64:
        """(P,) instant of the event that freed its room."""
        stopped_first = self.stop_revision < self.ended_revision
        instants: I64 = np.where(stopped_first, self.stop_at_s, self.ended_at_s)
        return instants

    @cached_property
    def sound(self) -> I64:
        """Rows of orders whose workload, stage, replica and node exist: what can be judged further."""
        rows: I64 = np.flatnonzero(
            (self.work >= 0) & (self.spec >= 0) & (self.replica >= 0) & (self.node >= 0)
        )
        return rows

    def finding(self, row: int, expected: str, actual: str) -> Finding:
        """A fault of one order."""
        event = self.events[row]
        return Finding(event.revision, event.at_s, event.subject, expected, actual)


@dataclass(frozen=True, slots=True)
class Moment:
    """A workload with stages that depend on each other, right after orders that belong together.

    Revision and instant are those of its last order, or of the shared stage's when that one was placed anew.
    """

    revision: int
    at_s: int
    work: int
    ordered: tuple[int, ...]
    """Rows of the orders just given to it."""
    live: tuple[tuple[int, ...], ...]
    """Per stage the newest live order of each replica; of a shared stage those of its owner."""
    done_count: tuple[int, ...]
    """Per stage the replicas that ended for good."""


@dataclass(frozen=True)
class Facts:
    """Everything the rules read."""

    events: Sequence[Event]
    by_kind: dict[EventKind, list[Event]]
    hosts: Hosts
    work: Work
    orders: Orders

    @classmethod
    def of(cls, events: Sequence[Event], fleet: Fleet) -> Facts:
        """Read the log; raises BrokenLogError where a document of it cannot be read at all."""
        by_kind: dict[EventKind, list[Event]] = {kind: [] for kind in EventKind}
        for event in events:
            by_kind[event.kind].append(event)
        hosts = Hosts.of(fleet)
        work = _work(by_kind)
        return cls(events, by_kind, hosts, work, _orders(by_kind, hosts, work))

    def of_kind(self, kind: EventKind) -> list[Event]:
        """Events of one kind in order."""
        return self.by_kind[kind]

    @cached_property
    def policies(self) -> list[tuple[int, Policy]]:
        """(revision, policy) from the opening on."""
        revised = self.of_kind(EventKind.POLICY_REVISED)
        return [
            (UNKNOWN, Policy()),
            *((e.revision, Policy.model_validate(e.body["policy"])) for e in revised),
        ]

    def policy_at(self, revision: int) -> Policy:
        """The policy in force at a revision."""
        return [p for r, p in self.policies if r < revision][-1]

    @cached_property
    def moments(self) -> list[Moment]:
        """Of workloads with several stages, gangs, spreads, paths or shared stages, in the order of the log."""
        return list(_moments(self))


# -------------------------------------------------------------------------------------------- reading: work


def _work(by_kind: dict[EventKind, list[Event]]) -> Work:
    shapes = [_shape(e) for e in by_kind[EventKind.SHAPE_INTERNED]]
    first: list[Event] = []
    repeated: list[Event] = []
    row: dict[str, int] = {}
    for event in by_kind[EventKind.WORKLOAD_SUBMITTED]:
        if event.subject in row:
            repeated.append(event)
            continue
        if not 0 <= event.body["shape"] < len(shapes):
            raise BrokenLogError(f"revision {event.revision}: {event.subject} has a shape never interned")
        row[event.subject] = len(first)
        first.append(event)
    final_revision, final_at_s = _finals(by_kind[EventKind.WORKLOAD_STATE], row)
    return Work(
        shapes=shapes,
        names=[e.subject for e in first],
        row=row,
        repeated=repeated,
        revision=np.array([e.revision for e in first], np.int64),
        shape=np.array([e.body["shape"] for e in first], np.int64),
        not_before_s=np.array([e.body.get("not_before_s") or 0 for e in first], np.int64),
        deadline_s=np.array([e.body.get("deadline_s") or NEVER for e in first], np.int64),
        replicas=[_replica_counts(e, shapes[e.body["shape"]]) for e in first],
        final_revision=final_revision,
        final_at_s=final_at_s,
    )


def _shape(event: Event) -> Workload:
    """The workload document behind a shape; GPU needs are pairs, for their order says which is the reference."""
    document = event.body["shape"]
    stages = [{**s, "gpu_milli": dict(s.get("gpu_milli", ()))} for s in document["stages"]]
    try:
        return Workload.model_validate(
            {**document, "stages": stages, "name": "tenants/audit/workloads/shape"}
        )
    except ValueError as error:
        raise BrokenLogError(f"revision {event.revision}: {event.subject} is no workload: {error}") from error


def _replica_counts(event: Event, shape: Workload) -> tuple[int, ...]:
    counts = event.body["replicas"]
    if len(counts) != len(shape.stages):
        raise BrokenLogError(
            f"revision {event.revision}: {event.subject} has {len(counts)} replica counts"
            f" for {len(shape.stages)} stages"
        )
    return tuple(0 if s.shared_with else int(n) for s, n in zip(shape.stages, counts, strict=True))


def _finals(changes: list[Event], row: dict[str, int]) -> tuple[I64, I64]:
    revision = np.full(len(row), NEVER, np.int64)
    at_s = np.full(len(row), NEVER, np.int64)
    for event in changes:
        i = row.get(event.subject)
        if i is not None and revision[i] == NEVER and WorkloadState(event.body["state"]).is_final:
            revision[i], at_s[i] = event.revision, event.at_s
    return revision, at_s


# ------------------------------------------------------------------------------------------ reading: orders


def _orders(by_kind: dict[EventKind, list[Event]], hosts: Hosts, work: Work) -> Orders:
    events = by_kind[EventKind.REPLICA_START_ORDERED]
    commands = [e.body["command"] for e in events]
    row: dict[str, int] = {}
    for i, event in enumerate(events):
        row.setdefault(event.subject, i)
    works = np.array([work.row.get(c["workload"], UNKNOWN) for c in commands], np.int64)
    stage = np.array(
        [_stage_index(work, w, c["stage_id"]) for w, c in zip(works.tolist(), commands, strict=True)],
        np.int64,
    )
    shape = work.shape[works] if len(work.names) else works
    known = (works >= 0) & (stage >= 0)
    spec = np.where(known, (work.spec_first[shape] if len(work.shapes) else 0) + stage, UNKNOWN)
    group = np.array(
        [hosts.group_index.get((c["site_id"], c["group_id"]), UNKNOWN) for c in commands], np.int64
    )
    ends = _ends(by_kind, row, len(events))
    return Orders(
        events=events,
        commands=commands,
        ids=[e.subject for e in events],
        row=row,
        revision=np.array([e.revision for e in events], np.int64),
        at_s=np.array([e.at_s for e in events], np.int64),
        work=works,
        stage=stage,
        spec=spec.astype(np.int64),
        replica=_replica_codes(commands, works, stage, work),
        site=np.array([hosts.site_index.get(c["site_id"], UNKNOWN) for c in commands], np.int64),
        group=group,
        node=_nodes(commands, group, hosts),
        **ends,
    )


def _stage_index(work: Work, row: int, stage_id: str) -> int:
    if row == UNKNOWN:
        return UNKNOWN
    stages = work.shape_of(row).stages
    return next((i for i, s in enumerate(stages) if s.stage_id == stage_id), UNKNOWN)


def _replica_codes(commands: list[dict[str, Any]], works: I64, stage: I64, work: Work) -> I64:
    """One code per (workload, stage, index) that exists."""
    codes: dict[tuple[int, int, int], int] = {}
    out = np.full(len(commands), UNKNOWN, np.int64)
    for i, (w, s, c) in enumerate(zip(works.tolist(), stage.tolist(), commands, strict=True)):
        if w >= 0 and s >= 0 and 0 <= c["replica_index"] < work.replicas[w][s]:
            out[i] = codes.setdefault((w, s, c["replica_index"]), len(codes))
    return out


def _nodes(commands: list[dict[str, Any]], group: I64, hosts: Hosts) -> I64:
    if not len(hosts.groups):
        return np.full(len(commands), UNKNOWN, np.int64)
    index = np.array([c["node_index"] for c in commands], np.int64)
    count = np.array([g.node_count for _, g in hosts.groups], np.int64)
    exists = (group >= 0) & (index >= 0) & (index < count[group])
    return np.where(exists, hosts.first_node[group] + index, UNKNOWN)


def _ends(by_kind: dict[EventKind, list[Event]], row: dict[str, int], count: int) -> dict[str, Any]:
    """Columns of what became of each order; the first event of a kind counts, a second is a rule's business."""
    columns: dict[str, Any] = {
        f"{what}_{when}": np.full(count, NEVER, np.int64)
        for what in ("stop", "ran", "ended")
        for when in ("revision", "at_s")
    }
    columns["end_phase"] = [""] * count
    columns["stop_kind"] = [""] * count
    columns["done_work_s"] = np.zeros(count)
    kinds = (
        ("stop", EventKind.REPLICA_STOP_ORDERED),
        ("ran", EventKind.REPLICA_RUNNING),
        ("ended", EventKind.REPLICA_ENDED),
    )
    for what, kind in kinds:
        revisions, instants = columns[f"{what}_revision"], columns[f"{what}_at_s"]
        for event in by_kind[kind]:
            i = row.get(event.subject)
            if i is None or revisions[i] != NEVER:
                continue
            revisions[i], instants[i] = event.revision, event.at_s
            if what == "stop":
                columns["stop_kind"][i] = event.body["kind"]
            elif what == "ended":
                columns["end_phase"][i] = event.body["phase"]
                columns["done_work_s"][i] = event.body["done_work_s"]
    return columns


# ----------------------------------------------------------------------------------------- reading: moments

_TOGETHER = {
    EventKind.REPLICA_START_ORDERED,
    EventKind.REPLICA_STOP_ORDERED,
    EventKind.REPLICA_MOVED,
    EventKind.REPLICA_PREEMPTED,
    EventKind.REPLICA_PAUSED,
}
"""Orders of one decision stand together in the log."""


class _Live:
    """Who is live while the log is read: newest order per (workload, stage, index)."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.placed: dict[int, list[dict[int, int]]] = {}
        self.done: dict[int, list[set[int]]] = {}
        self.is_sound = np.zeros(len(facts.orders.ids), np.bool_)
        self.is_sound[facts.orders.sound] = True

    def start(self, order: int) -> None:
        work, stage = int(self.facts.orders.work[order]), int(self.facts.orders.stage[order])
        self._stages(self.placed, work, dict)[stage][self._index(order)] = order

    def release(self, order: int, ended: bool) -> None:
        orders = self.facts.orders
        work, stage, index = int(orders.work[order]), int(orders.stage[order]), self._index(order)
        placed = self._stages(self.placed, work, dict)[stage]
        if placed.get(index) == order:
            del placed[index]
        _, what = self.facts.work.specs[int(orders.spec[order])]
        if ended and not what.is_service and orders.end_phase[order] in ENDS_FOR_GOOD:
            self._stages(self.done, work, set)[stage].add(index)

    def moment(self, event: Event, work: int, ordered: Iterable[int]) -> Moment:
        facts = self.facts
        live, done = [], []
        for i, stage in enumerate(facts.work.shape_of(work).stages):
            owner, at = (work, i) if stage.shared_with is None else self._owner(stage)
            rows = self.placed.get(owner)
            live.append(tuple(rows[at][k] for k in sorted(rows[at])) if rows and at >= 0 else ())
            done.append(len(self.done[work][i]) if work in self.done else 0)
        return Moment(event.revision, event.at_s, work, tuple(ordered), tuple(live), tuple(done))

    def _owner(self, stage: Stage) -> tuple[int, int]:
        owner = self.facts.work.row.get(stage.shared_with or "", UNKNOWN)
        return owner, _stage_index(self.facts.work, owner, stage.stage_id)

    def _index(self, order: int) -> int:
        return int(self.facts.orders.commands[order]["replica_index"])

    def _stages(self, table: dict[int, Any], work: int, make: Callable[[], Any]) -> list[Any]:
        if work not in table:
            table[work] = [make() for _ in self.facts.work.shape_of(work).stages]
        stages: list[Any] = table[work]
        return stages


def _moments(facts: Facts) -> Iterable[Moment]:
    orders, work = facts.orders, facts.work
    joint = np.array([_is_joint(shape) for shape in work.shapes], np.bool_)
    live = _Live(facts)
    touched: dict[int, list[int]] = {}
    last: Event | None = None
    seen = 0
    for event in facts.events:
        if last is not None and (event.kind not in _TOGETHER or event.at_s != last.at_s):
            yield from _flush(live, touched, last)
            touched, last = {}, None
        if event.kind is EventKind.REPLICA_START_ORDERED:
            order, seen = seen, seen + 1
            if live.is_sound[order]:
                live.start(order)
                owner = int(orders.work[order])
                if joint[work.shape[owner]] or work.names[owner] in work.sharers:
                    touched.setdefault(owner, []).append(order)
                    last = event
        elif event.kind in (EventKind.REPLICA_STOP_ORDERED, EventKind.REPLICA_ENDED):
            known = orders.row.get(event.subject)
            if known is not None and live.is_sound[known]:
                live.release(known, event.kind is EventKind.REPLICA_ENDED)
    if last is not None:
        yield from _flush(live, touched, last)


def _flush(live: _Live, touched: dict[int, list[int]], event: Event) -> Iterable[Moment]:
    work = live.facts.work
    for row, ordered in touched.items():
        yield live.moment(live.facts.orders.events[ordered[-1]], row, ordered)
        for sharer in work.sharers.get(work.names[row], ()):
            if sharer not in touched and sharer in live.placed:
                yield live.moment(event, sharer, ())


def _is_joint(shape: Workload) -> bool:
    stage = shape.stages[0]
    alone = len(shape.stages) == 1 and not shape.paths
    return not alone or stage.gang or stage.spread is not None or stage.shared_with is not None


# ---------------------------------------------------------------------------------------------------- tools


def gpu_need_milli(stage: Stage, group: NodeGroup) -> int:
    """Milli-GPUs of one replica on a node of the group; 0 where the model is not accepted or none is asked for."""
    return stage.gpu_milli.get(group.gpu_model, 0)


def device_count(gpu_milli: int) -> int:
    """Devices one replica touches: one for a share, whole ones above."""
    return -(-gpu_milli // MILLI)


def running_level(key: I64, revision: I64, delta: F64) -> tuple[I64, F64]:
    """(order, level): events sorted by key, then revision, and the sum of deltas of the same key so far."""
    order = np.lexsort((revision, key))
    total = np.cumsum(delta[order])
    sorted_key = key[order]
    starts = np.flatnonzero(np.diff(sorted_key, prepend=sorted_key[:1] - 1)) if len(order) else order
    before = np.concatenate(([0.0], total))[starts]
    level: F64 = total - np.repeat(before, np.diff(np.append(starts, len(order))))
    return order, level
