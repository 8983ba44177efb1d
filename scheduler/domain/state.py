"""ClusterState: the fold of the event log that planning reads; columns in memory, bodies in the store.

Applying the same events in the same order gives the same state, live or after a restart. Nothing here decides: the
cycle turns state into events, this module turns events into state.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from scheduler.domain.columns import Columns
from scheduler.domain.outlook import local_day
from scheduler.domain.shapes import ShapeTable, Spec
from scheduler.domain.topology import Topology, build_topology, under_policy
from suanli.model import Event, EventKind, Fleet, Policy, WorkloadState

MAX_GPUS_PER_NODE = 16
STATES = tuple(WorkloadState)
STATE_CODE = {s: i for i, s in enumerate(STATES)}
_STATE_OF_WORD = {s.value: s for s in STATES}
IS_ACTIVE = np.array([not s.is_final for s in STATES])
"""By state code."""
NEVER_S = 2**62
SERVICE_WORK_S = np.inf
STOP_GRACE_S = 60
"""A replica whose stop was ordered waits so long for its site to say what work it kept, before it may start again."""
MAX_RECENT_METERS = 20_000
"""Meters kept for a learner; a policy that never learns must not keep a year of them."""


class Phase(IntEnum):
    """Where a replica stands."""

    WAITING = 0
    ORDERED = 1
    RUNNING = 2
    DONE = 3


@dataclass
class Draining:
    """The old placement of a replica that is moving: it runs until the new one does."""

    placement_id: str
    node: int
    gpu_mask: int
    spec: int


@dataclass(frozen=True)
class MovedFor:
    """Whom a running replica made room for, and the node it left: it may go back once that work is gone."""

    gang: int
    """Index of the workload."""
    node: int
    at_s: int
    """When it was told to move."""


@dataclass(frozen=True)
class Stopped:
    """Why a replica that waits again was told to stop."""

    at_s: int
    cause: str


@dataclass(frozen=True)
class Stopping:
    """A placement whose stop was ordered: its room is free, its site has not yet said how it ended."""

    row: int
    node: int


@dataclass
class SiteEnergy:
    """Metered energy of one site since 1 January (opening included) and since the run began."""

    it_kwh: float = 0.0
    facility_kwh: float = 0.0
    useful_it_kwh: float = 0.0
    opening_it_kwh: float = 0.0
    opening_facility_kwh: float = 0.0
    today_from_s: int = -NEVER_S
    """Start of the first window of the local day that the last three fields speak of."""
    day_it_kwh: float = 0.0
    day_facility_kwh: float = 0.0
    day_useful_it_kwh: float = 0.0

    def add(self, meter: dict[str, Any]) -> None:
        """One metered window; windows do not cross midnight."""
        from_s = int(meter["from_s"])
        if not self.is_of_day(from_s):
            self.today_from_s = from_s
            self.day_it_kwh = self.day_facility_kwh = self.day_useful_it_kwh = 0.0
        it_kwh, facility_kwh, useful_it_kwh = (
            meter[k] for k in ("it_energy_kwh", "facility_energy_kwh", "useful_it_energy_kwh")
        )
        self.it_kwh += it_kwh
        self.facility_kwh += facility_kwh
        self.useful_it_kwh += useful_it_kwh
        self.day_it_kwh += it_kwh
        self.day_facility_kwh += facility_kwh
        self.day_useful_it_kwh += useful_it_kwh

    def is_of_day(self, at_s: int) -> bool:
        """Whether the energy of the day speaks of the local day of an instant."""
        return local_day(self.today_from_s) == local_day(at_s)


@dataclass
class NodeResources:
    """Free amounts per node; GPUs that a node does not have are −1."""

    cpu_milli: NDArray[np.int64]
    memory_mib: NDArray[np.int64]
    storage_gib: NDArray[np.int64]
    gpu_milli: NDArray[np.int64]
    up: NDArray[np.bool_]
    cordoned: NDArray[np.bool_]

    def copy(self) -> NodeResources:
        """Own arrays: a round works on these and leaves the state alone."""
        return NodeResources(*(getattr(self, f).copy() for f in self.__dataclass_fields__))


@dataclass
class Guide:
    """What the last horizon plan tells the rounds until the next one; from the log, so a restart has it too."""

    plan_id: str = ""
    at_s: int = -NEVER_S
    body: dict[str, Any] = field(default_factory=dict)
    base_revision: int = 0
    """Of the log that the plan was made from."""


class ClusterState:
    """Columns of workloads and replicas, node resources, energy, policy, learned site factors and the plan's guide."""

    def __init__(self) -> None:
        self.revision = 0
        self.topology: Topology | None = None
        self.policy = Policy()
        self.shapes = ShapeTable()
        self.names: list[str] = []
        self.index_of: dict[str, int] = {}
        self.workloads = Columns(
            shape=np.int32,
            tenant=np.int32,
            state=np.int8,
            submitted_s=np.int64,
            not_before_s=np.int64,
            deadline_s=np.int64,
            first_replica=np.int64,
            replica_count=np.int32,
        )
        self.replicas = Columns(
            workload=np.int32,
            spec=np.int32,
            index=np.int32,
            phase=np.int8,
            node=np.int32,
            gpu_mask=np.int32,
            incarnation=np.int32,
            work_s=np.float64,
            done_work_s=np.float64,
            placed_s=np.int64,
            running_s=np.int64,
            hold_until_s=np.int64,
        )
        self.tenants: list[str] = []
        self.tenant_index: dict[str, int] = {}
        self.sharers: dict[str, list[int]] = {}
        """workload name → indices of the workloads that share one of its stages."""
        self.row_of_placement: dict[str, int] = {}
        """Every placement that was ordered and has not been reported ended."""
        self.draining: dict[int, Draining] = {}
        self.stopping: dict[str, Stopping] = {}
        self.moved_for: dict[int, MovedFor] = {}
        """Row → why it lies elsewhere than it did, until it moves again or loses its node."""
        self.stopped: dict[int, Stopped] = {}
        """Row → why it was told to stop, until it is started again or its workload ends."""
        self.nodes: NodeResources | None = None
        self.energy: dict[str, SiteEnergy] = {}
        self.recent_meters: list[dict[str, Any]] = []
        self.last_meter: dict[str, dict[str, Any]] = {}
        self.forecast: dict[str, Any] = {}
        self.learner: dict[str, Any] = {}
        self.guide = Guide()
        self.site_down: set[str] = set()
        self.binding_revision = 0
        """Of the last event that a plan made before it could not know: policy, outage, return or cordon."""
        self.advanced_s = 0
        self._fold: dict[EventKind, Callable[[Event], None]] = {
            EventKind.FLEET_REGISTERED: self._fleet_registered,
            EventKind.POLICY_REVISED: self._policy_revised,
            EventKind.SITE_CORDONED: self._cordoned,
            EventKind.SITE_DOWN: self._site_down,
            EventKind.SITE_UP: self._site_up,
            EventKind.SITE_METERED: self._metered,
            EventKind.SITE_MODEL_LEARNED: self._learned,
            EventKind.SHAPE_INTERNED: self._shape_interned,
            EventKind.REPLICA_MOVED: self._moved,
            EventKind.REPLICA_STOP_ORDERED: self._stop_ordered,
            EventKind.REPLICA_PREEMPTED: self._preempted,
            EventKind.REPLICA_PAUSED: self._paused,
            EventKind.REPLICA_RUNNING: self._running,
            EventKind.REPLICA_ENDED: self._ended,
            EventKind.PLAN_COMMITTED: self._planned,
            EventKind.RUN_ADVANCED: self._advanced,
        }
        # what comes by the hundred: all events of one kind that stand in a row
        self._fold_together: dict[EventKind, Callable[[Sequence[Event]], None]] = {
            EventKind.WORKLOAD_SUBMITTED: self._submitted,
            EventKind.WORKLOAD_STATE: self._states_changed,
            EventKind.REPLICA_START_ORDERED: self._starts_ordered,
        }

    @classmethod
    def empty(cls) -> ClusterState:
        """Before the first event."""
        return cls()

    def apply(self, events: Sequence[Event]) -> None:
        """Fold events in order of revision."""
        for kind, run in groupby(events, attrgetter("kind")):
            alike = list(run)
            if (together := self._fold_together.get(kind)) is not None:
                together(alike)
            elif (handler := self._fold.get(kind)) is not None:
                for event in alike:
                    handler(event)
            self.revision = alike[-1].revision

    # ------------------------------------------------------------------ what planning reads

    def has_workload(self, name: str) -> bool:
        """Whether that name was ever accepted."""
        return name in self.index_of

    def workload_state(self, name: str) -> WorkloadState | None:
        """State of one workload, None if unknown."""
        index = self.index_of.get(name)
        return None if index is None else STATES[int(self.workloads["state"][index])]

    def counts(self) -> dict[str, int]:
        """Workloads by state."""
        codes = np.bincount(self.workloads["state"], minlength=len(STATES))
        return {state.value: int(n) for state, n in zip(STATES, codes, strict=True)}

    def spec(self, spec: int) -> Spec:
        """The stage shape of that number."""
        return self.shapes.specs[spec]

    def placement_id(self, row: int) -> str:
        """Id of the current placement of a replica row."""
        return self.placement_id_at(row, int(self.replicas["incarnation"][row]))

    def placement_id_at(self, row: int, incarnation: int) -> str:
        """Id of an incarnation of a replica row."""
        name = self.names[int(self.replicas["workload"][row])]
        stage = self.spec(int(self.replicas["spec"][row])).stage.stage_id
        return f"{name}/{stage}/{int(self.replicas['index'][row])}#{incarnation}"

    def rows_of(self, index: int) -> slice:
        """Replica rows of a workload."""
        first = int(self.workloads["first_replica"][index])
        return slice(first, first + int(self.workloads["replica_count"][index]))

    def shared_owners(self) -> list[int]:
        """Live workloads of which a live one shares a stage: where they lie concerns others, too."""
        if not self.sharers:
            return []
        active = self.active_workloads()
        owners = ((self.index_of.get(name, -1), users) for name, users in self.sharers.items())
        return sorted(o for o, users in owners if o >= 0 and active[o] and active[users].any())

    def active_workloads(self) -> NDArray[np.bool_]:
        """(workloads,) those that are not final."""
        active: NDArray[np.bool_] = IS_ACTIVE[self.workloads["state"]]
        return active

    def active_mask(self) -> NDArray[np.bool_]:
        """(replicas,) rows whose workload is not final."""
        active: NDArray[np.bool_] = self.active_workloads()[self.replicas["workload"]]
        return active

    def need_on_node(self, spec: int, node: int) -> tuple[int, int, int, int]:
        """(cpu_milli, memory_mib, gpu_milli, storage_gib) that one replica takes on that node."""
        assert self.topology is not None
        stage = self.spec(spec).stage
        model = self.topology.group_gpu_model[int(self.topology.node_group[node])]
        return stage.cpu_milli, stage.memory_mib, stage.gpu_milli.get(model, 0), stage.storage_gib

    def fork(self) -> ClusterState:
        """A state that may be changed and thrown away: columns are copied, what folds only replace is shared."""
        twin = copy.copy(self)
        twin.shapes = self.shapes.copy()
        twin.names, twin.index_of = list(self.names), dict(self.index_of)
        twin.tenants, twin.tenant_index = list(self.tenants), dict(self.tenant_index)
        twin.sharers = {k: list(v) for k, v in self.sharers.items()}
        twin.workloads, twin.replicas = self.workloads.copy(), self.replicas.copy()
        twin.row_of_placement, twin.draining = dict(self.row_of_placement), dict(self.draining)
        twin.stopping, twin.site_down = dict(self.stopping), set(self.site_down)
        twin.moved_for, twin.stopped = dict(self.moved_for), dict(self.stopped)
        twin.nodes = None if self.nodes is None else self.nodes.copy()
        twin.energy = {k: copy.copy(v) for k, v in self.energy.items()}
        twin.recent_meters, twin.last_meter = list(self.recent_meters), dict(self.last_meter)
        twin._fold = {kind: getattr(twin, handler.__name__) for kind, handler in self._fold.items()}
        twin._fold_together = {
            k: getattr(twin, handler.__name__) for k, handler in self._fold_together.items()
        }
        return twin

    def digest(self) -> str:
        """SHA-256 of everything the fold made; equal logs give equal digests, live or replayed."""
        parts: list[bytes] = []
        for columns in (self.workloads, self.replicas):
            parts += [columns[name].tobytes() for name in columns.names]
        if self.nodes is not None:
            parts += [getattr(self.nodes, f).tobytes() for f in NodeResources.__dataclass_fields__]
        plain = {
            "revision": self.revision,
            "names": self.names,
            "tenants": self.tenants,
            "sharers": self.sharers,
            "shapes": [t.model_dump(mode="json") for t in self.shapes.templates],
            "reference_gpus": [list(s.stage.gpu_milli) for s in self.shapes.specs],
            "fleet": None if self.topology is None else self.topology.registered.model_dump(mode="json"),
            "policy": self.policy.model_dump(mode="json"),
            "placements": self.row_of_placement,
            "draining": {str(row): vars(d) for row, d in self.draining.items()},
            "stopping": {name: vars(x) for name, x in self.stopping.items()},
            "moved_for": {str(row): vars(m) for row, m in self.moved_for.items()},
            "stopped": {str(row): vars(s) for row, s in self.stopped.items()},
            "energy": {site_id: vars(e) for site_id, e in self.energy.items()},
            "meters": [self.recent_meters, self.last_meter],
            "forecast": self.forecast,
            "learner": self.learner,
            "guide": vars(self.guide),
            "site_down": sorted(self.site_down),
            "instants": [self.binding_revision, self.advanced_s],
        }
        parts.append(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS))
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    # ------------------------------------------------------------------ folds

    def _fleet_registered(self, event: Event) -> None:
        """The fleet as registered; what is placed keeps its node by name, on a node that is gone it waits again."""
        fleet = Fleet.model_validate(event.body["fleet"])
        before = self.topology
        cordoned = np.zeros(0, bool) if self.nodes is None else self.nodes.cordoned
        topology = under_policy(build_topology(fleet), self.policy)
        self.topology = topology
        self._empty_nodes(fleet, topology)
        for site in fleet.sites:
            opening = site.ledger_opening
            if site.site_id not in self.energy:
                self.energy[site.site_id] = SiteEnergy(
                    it_kwh=opening.it_energy_kwh,
                    facility_kwh=opening.facility_energy_kwh,
                    useful_it_kwh=opening.it_energy_kwh,
                    opening_it_kwh=opening.it_energy_kwh,
                    opening_facility_kwh=opening.facility_energy_kwh,
                )
        if before is not None:
            self._renumber(before, cordoned, topology)
            self.guide = Guide()
        self.site_down &= set(topology.site_ids)
        for site_id in sorted(self.site_down):
            self._set_up(site_id, False)

    def _set_up(self, site_id: str, up: bool) -> None:
        assert self.nodes is not None
        self.nodes.up[self._site_nodes(site_id)] = up

    def _empty_nodes(self, fleet: Fleet, topology: Topology) -> None:
        capacity = topology.group_capacity[topology.node_group]
        gpus = topology.group_gpu_count[topology.node_group]
        slots = np.arange(MAX_GPUS_PER_NODE)[None, :]
        self.nodes = NodeResources(
            cpu_milli=capacity[:, 0].copy(),
            memory_mib=capacity[:, 1].copy(),
            storage_gib=capacity[:, 3].copy(),
            gpu_milli=np.where(slots < gpus[:, None], 1000, -1).astype(np.int64),
            up=np.ones(topology.node_count, bool),
            cordoned=np.array([s.cordoned for s in fleet.sites])[topology.node_site],
        )

    def _keep_cordons(
        self, before: Topology, cordoned: NDArray[np.bool_], moved_to: NDArray[np.int64]
    ) -> None:
        """A cordon by an operator outlives a registration that says nothing new about the site."""
        assert self.nodes is not None and self.topology is not None
        declared_before = {s.site_id: s.cordoned for s in before.sites}
        for old in np.flatnonzero(moved_to >= 0).tolist():
            site = self.topology.sites[int(self.topology.node_site[moved_to[old]])]
            if declared_before[site.site_id] == site.cordoned:
                self.nodes.cordoned[moved_to[old]] = cordoned[old]

    def _renumber(self, before: Topology, cordoned: NDArray[np.bool_], topology: Topology) -> None:
        """Nodes have new numbers: carry over what lies on them, by site, group and index."""
        replicas = self.replicas
        moved_to = np.full(before.node_count, -1, np.int64)
        for old_group, key in enumerate(before.group_ids):
            group = topology.group_index.get(key)
            if group is None or not _same_node_type(before, old_group, topology, group):
                continue
            count = min(int(before.group_node_count[old_group]), int(topology.group_node_count[group]))
            first = int(before.group_first_node[old_group])
            moved_to[first : first + count] = topology.group_first_node[group] + np.arange(count)
        self._keep_cordons(before, cordoned, moved_to)
        for row in np.flatnonzero(replicas["node"] >= 0).tolist():
            node = int(moved_to[replicas["node"][row]])
            if node < 0:
                self.row_of_placement.pop(self.placement_id(row), None)
                replicas["node"][row], replicas["gpu_mask"][row] = -1, 0
                replicas["phase"][row] = Phase.WAITING
                continue
            replicas["node"][row] = node
            self._take(node, int(replicas["gpu_mask"][row]), int(replicas["spec"][row]), +1)
        for row, old in list(self.draining.items()):
            node = int(moved_to[old.node])
            if node < 0:
                self.row_of_placement.pop(old.placement_id, None)
                del self.draining[row]
                continue
            self.draining[row] = Draining(old.placement_id, node, old.gpu_mask, old.spec)
            self._take(node, old.gpu_mask, old.spec, +1)
        moved_for, self.moved_for = self.moved_for, {}
        for row, moved in moved_for.items():
            node = int(moved_to[moved.node])
            if node >= 0 and replicas["node"][row] >= 0:
                self.moved_for[row] = MovedFor(moved.gang, node, moved.at_s)
        for placement_id, stop in list(self.stopping.items()):
            node = int(moved_to[stop.node])
            if node < 0:
                self.row_of_placement.pop(placement_id, None)
                del self.stopping[placement_id]
            else:
                self.stopping[placement_id] = Stopping(stop.row, node)

    def _policy_revised(self, event: Event) -> None:
        """The limits of the revision hold from now on; a plan made under the last one is out of date."""
        self.policy = Policy.model_validate(event.body["policy"])
        self.binding_revision = event.revision
        if self.topology is not None:
            self.topology = under_policy(self.topology, self.policy)

    def _site_nodes(self, subject: str) -> NDArray[np.bool_]:
        assert self.topology is not None
        site = self.topology.site_index[subject.removeprefix("sites/")]
        here: NDArray[np.bool_] = self.topology.node_site == site
        return here

    def _cordoned(self, event: Event) -> None:
        assert self.topology is not None and self.nodes is not None
        self.binding_revision = event.revision
        if event.body["node_index"] < 0:
            self.nodes.cordoned[self._site_nodes(event.subject)] = event.body["cordoned"]
            return
        group = self.topology.group_index[(event.subject.removeprefix("sites/"), event.body["group_id"])]
        self.nodes.cordoned[self.topology.group_first_node[group] + event.body["node_index"]] = event.body[
            "cordoned"
        ]

    def _site_down(self, event: Event) -> None:
        assert self.nodes is not None
        self.nodes.up[self._site_nodes(event.subject)] = False
        self.site_down.add(event.subject.removeprefix("sites/"))
        self.binding_revision = event.revision

    def _site_up(self, event: Event) -> None:
        assert self.nodes is not None
        self.nodes.up[self._site_nodes(event.subject)] = True
        self.site_down.discard(event.subject.removeprefix("sites/"))
        self.binding_revision = event.revision

    def _metered(self, event: Event) -> None:
        for meter in event.body["meters"]:
            self.energy[meter["site_id"]].add(meter)
            self.last_meter[meter["site_id"]] = meter
            self.recent_meters.append(meter)
        del self.recent_meters[:-MAX_RECENT_METERS]
        if event.body.get("forecast"):
            self.forecast = event.body["forecast"]

    def _learned(self, event: Event) -> None:
        self.learner = event.body
        self.recent_meters = []

    def _shape_interned(self, event: Event) -> None:
        self.shapes.add(event.body["shape"])

    def _submitted(self, events: Sequence[Event]) -> None:
        """Submissions in a row, whose columns grow once for all of them."""
        begin = len(self.names)
        tenants, replica_counts = [], []
        # one entry per stage: whose it is, its spec, the replicas of its own and the work of each
        owners: list[int] = []
        specs: list[int] = []
        counts: list[int] = []
        work_s: list[float] = []
        for index, event in enumerate(events, begin):
            body = event.body
            self.names.append(event.subject)
            self.index_of[event.subject] = index
            tenants.append(self._tenant(event.subject.split("/", 2)[1]))
            total = 0
            for spec, n, duration_s in zip(
                self.shapes.specs_of_shape[body["shape"]], body["replicas"], body["duration_s"], strict=True
            ):
                shared_with = self.shapes.specs[spec].stage.shared_with
                if shared_with is not None:
                    self.sharers.setdefault(shared_with, []).append(index)
                    continue
                owners.append(index)
                specs.append(spec)
                counts.append(n)
                work_s.append(SERVICE_WORK_S if duration_s is None else float(duration_s))
                total += n
            replica_counts.append(total)
        first = self._add_replicas(owners, specs, counts, work_s)
        bodies = [event.body for event in events]
        self.workloads.append(
            len(events),
            shape=[body["shape"] for body in bodies],
            tenant=tenants,
            state=STATE_CODE[WorkloadState.PENDING],
            submitted_s=[event.at_s for event in events],
            not_before_s=[event.body["not_before_s"] or event.at_s for event in events],
            deadline_s=[body["deadline_s"] or NEVER_S for body in bodies],
            first_replica=first + np.cumsum(replica_counts) - replica_counts,
            replica_count=replica_counts,
        )

    def _tenant(self, tenant_id: str) -> int:
        """Index of a tenant, who may be new."""
        index = self.tenant_index.get(tenant_id)
        if index is None:
            index = self.tenant_index[tenant_id] = len(self.tenants)
            self.tenants.append(tenant_id)
        return index

    def _add_replicas(
        self, owners: Sequence[int], specs: Sequence[int], counts: Sequence[int], work_s: Sequence[float]
    ) -> int:
        """Rows of the replicas of these stages, all waiting; the index of the first."""
        each = np.array(counts, np.int64)
        total = int(each.sum())
        return self.replicas.append(
            total,
            workload=np.repeat(np.array(owners, np.int64), each),
            spec=np.repeat(np.array(specs, np.int64), each),
            index=np.arange(total) - np.repeat(np.cumsum(each) - each, each),
            node=-1,
            incarnation=-1,
            work_s=np.repeat(np.array(work_s, np.float64), each),
        )

    def _states_changed(self, events: Sequence[Event]) -> None:
        indices = [self.index_of[event.subject] for event in events]
        states = [_STATE_OF_WORD[event.body["state"]] for event in events]
        # of several changes of one workload the last one stands
        self.workloads["state"][indices] = [STATE_CODE[state] for state in states]
        if self.stopped and any(state.is_final for state in states):
            for index, state in zip(indices, states, strict=True):
                if state.is_final:
                    own = self.rows_of(index)
                    self.stopped = {r: s for r, s in self.stopped.items() if not own.start <= r < own.stop}

    def _starts_ordered(self, events: Sequence[Event]) -> None:
        """Orders in a row; a replica that runs already moves, and its old placement drains."""
        rows = [self._row_of_order(event.body["command"]) for event in events]
        if len(set(rows)) < len(rows):
            # a later order of one row rests on the earlier one
            for event in events:
                self._starts_ordered([event])
            return
        assert self.topology is not None
        replicas, topology = self.replicas, self.topology
        commands = [event.body["command"] for event in events]
        group = np.array([topology.group_index[c["site_id"], c["group_id"]] for c in commands], np.int64)
        node = topology.group_first_node[group] + np.array([c["node_index"] for c in commands], np.int64)
        masks = [sum(1 << g for g in c["gpu_ids"]) for c in commands]
        for row, at in zip(rows, replicas["node"][rows].tolist(), strict=True):
            if at >= 0:
                self.draining[row] = Draining(
                    self.placement_id(row), at, int(replicas["gpu_mask"][row]), int(replicas["spec"][row])
                )
        replicas["incarnation"][rows] += 1
        replicas["node"][rows] = node
        replicas["gpu_mask"][rows] = masks
        replicas["phase"][rows] = Phase.ORDERED
        replicas["placed_s"][rows] = [event.at_s for event in events]
        replicas["done_work_s"][rows] = [c["done_work_s"] for c in commands]
        replicas["hold_until_s"][rows] = 0
        for event, row in zip(events, rows, strict=True):
            self.stopped.pop(row, None)
            self.row_of_placement[event.subject] = row
        self._take_many(node, masks, replicas["spec"][rows].tolist())

    def _row_of_order(self, command: dict[str, Any]) -> int:
        return self._row(self.index_of[command["workload"]], command["stage_id"], command["replica_index"])

    def _row(self, index: int, stage_id: str, replica_index: int) -> int:
        row = int(self.workloads["first_replica"][index])
        for spec in self.shapes.specs_of_shape[int(self.workloads["shape"][index])]:
            stage = self.spec(spec).stage
            if stage.stage_id == stage_id:
                return row + replica_index
            row += 0 if stage.shared_with else stage.replicas
        raise KeyError(stage_id)

    def _moved(self, event: Event) -> None:
        """Its start order has come already; what a gang gets by it is kept, so that it can be undone."""
        row = self.row_of_placement[event.subject]
        gang = self.index_of.get(event.body.get("makes_room_for", ""))
        self.moved_for.pop(row, None)
        if gang is not None and row in self.draining:
            self.moved_for[row] = MovedFor(gang, self.draining[row].node, event.at_s)

    def _stop_ordered(self, event: Event) -> None:
        """Its room is free at once; how it ended is known when its site says so."""
        row = self.row_of_placement.get(event.subject)
        if row is None or event.subject in self.stopping:
            return
        old = self.draining.get(row)
        if old is not None and old.placement_id == event.subject:
            self.stopping[event.subject] = Stopping(row, old.node)
            self._end_draining(row)
            return
        self.stopping[event.subject] = Stopping(row, int(self.replicas["node"][row]))
        self._release(row, Phase.WAITING)
        self.replicas["hold_until_s"][row] = event.at_s + STOP_GRACE_S
        self.stopped[row] = Stopped(event.at_s, event.body["cause"])

    def _preempted(self, event: Event) -> None:
        """Why, told to whoever asks for the one that gave way: not for whom, which may be another tenant's."""
        row = self.row_of_placement.get(event.subject)
        if row is not None:
            lost = event.body["lost_gpu_hours"]
            self.stopped[row] = Stopped(
                event.at_s,
                f"it gave way, for {event.body['cause']}; {lost:.2g} GPU-hours of its work are lost",
            )

    def _paused(self, event: Event) -> None:
        """Until when, told to whoever asks for it; it goes on from its checkpoint."""
        row = self.row_of_placement.get(event.subject)
        if row is not None and self.topology is not None:
            until = self.topology.local_time(event.body["until_s"])
            self.stopped[row] = Stopped(
                event.at_s, f"it pauses while electricity is dear, at least until {until}"
            )

    def _end_draining(self, row: int) -> None:
        old = self.draining.pop(row)
        self._take(old.node, old.gpu_mask, old.spec, -1)

    def _running(self, event: Event) -> None:
        row = self.row_of_placement.get(event.subject)
        if row is None or event.subject in self.stopping:
            return
        if self.placement_id(row) == event.subject:
            self.replicas["phase"][row] = Phase.RUNNING
            self.replicas["running_s"][row] = event.at_s

    def _ended(self, event: Event) -> None:
        row = self.row_of_placement.pop(event.subject, None)
        if row is None:
            return
        old = self.draining.get(row)
        if old is not None and old.placement_id == event.subject:
            self._end_draining(row)
            if self.ends_for_good(row, event.body["phase"]) and self.replicas["node"][row] < 0:
                self.replicas["phase"][row] = Phase.DONE
            return
        phase = Phase.DONE if self.ends_for_good(row, event.body["phase"]) else Phase.WAITING
        if self.stopping.pop(event.subject, None) is not None:
            if self.placement_id(row) == event.subject and self.replicas["phase"][row] == Phase.WAITING:
                self.replicas["done_work_s"][row] = event.body["done_work_s"]
                self.replicas["hold_until_s"][row] = 0
                self.replicas["phase"][row] = phase
            return
        self.replicas["done_work_s"][row] = event.body["done_work_s"]
        self._release(row, phase)

    def ends_for_good(self, row: int, phase: str) -> bool:
        """Whether a replica that ended so is not started again: work with an end that succeeded or failed."""
        return phase in ("succeeded", "failed") and bool(np.isfinite(self.replicas["work_s"][row]))

    def _release(self, row: int, phase: Phase) -> None:
        replicas = self.replicas
        self._take(int(replicas["node"][row]), int(replicas["gpu_mask"][row]), int(replicas["spec"][row]), -1)
        replicas["node"][row] = -1
        replicas["gpu_mask"][row] = 0
        replicas["phase"][row] = phase
        self.moved_for.pop(row, None)

    def _take(self, node: int, gpu_mask: int, spec: int, sign: int) -> None:
        assert self.nodes is not None
        cpu_milli, memory_mib, gpu_milli, storage_gib = self.need_on_node(spec, node)
        self.nodes.cpu_milli[node] -= sign * cpu_milli
        self.nodes.memory_mib[node] -= sign * memory_mib
        self.nodes.storage_gib[node] -= sign * storage_gib
        self._take_gpus(node, gpu_mask, gpu_milli, sign)

    def _take_many(self, nodes: NDArray[np.int64], gpu_masks: Sequence[int], specs: Sequence[int]) -> None:
        """As `_take` for one replica on each of these nodes; a node may come several times."""
        assert self.nodes is not None
        stages = [self.shapes.specs[spec].stage for spec in specs]
        np.subtract.at(self.nodes.cpu_milli, nodes, [stage.cpu_milli for stage in stages])
        np.subtract.at(self.nodes.memory_mib, nodes, [stage.memory_mib for stage in stages])
        np.subtract.at(self.nodes.storage_gib, nodes, [stage.storage_gib for stage in stages])
        for node, mask, spec in zip(nodes.tolist(), gpu_masks, specs, strict=True):
            if mask:
                self._take_gpus(node, mask, self.need_on_node(spec, node)[2], +1)

    def _take_gpus(self, node: int, gpu_mask: int, gpu_milli: int, sign: int) -> None:
        assert self.nodes is not None
        ids = [g for g in range(MAX_GPUS_PER_NODE) if gpu_mask >> g & 1]
        if ids:
            self.nodes.gpu_milli[node, ids] -= sign * (gpu_milli // len(ids))

    def _planned(self, event: Event) -> None:
        body = event.body
        self.guide = Guide(event.subject, event.at_s, body.get("guide", {}), body.get("base_revision", 0))

    def _advanced(self, event: Event) -> None:
        self.advanced_s = event.body["until_s"]


def _same_node_type(before: Topology, old_group: int, topology: Topology, group: int) -> bool:
    """Whether what ran on a node of the old group can go on running on one of the new."""
    return before.group_gpu_model[old_group] == topology.group_gpu_model[group] and bool(
        (before.group_capacity[old_group] <= topology.group_capacity[group]).all()
    )
