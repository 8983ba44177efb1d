"""One simulated site: machines that sleep and wake, replicas that start, work, fail and end, and their energy.

Map of the module
    SiteSpec                what a site is made of, before anything runs
    Node, Replica, Gang     the moving parts
    SiteSim                 the site's own event engine: `accept` commands, `run` to an instant, `meter` the window

Every start, end and kWh arises here from the site's own events; nothing is told to it but commands. Instants are
whole seconds. At one instant things happen in the order of `Order`: first what the world does, then what it is told.

Node rules, the same under every policy: an empty node sleeps after five minutes and wakes in `node_wake_s`; an
empty site that may close goes off after ten minutes and needs `site_start_s` to come back.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster_sim.scenarios.schema import Plant
from cluster_sim.world.demand import Fate
from cluster_sim.world.facility import FacilityPhysics
from cluster_sim.world.protocol import Command, StartReplica, StopReplica
from suanli.model import NodeGroup, ReplicaPhase
from suanli.model.units import MILLI, SECONDS_PER_HOUR, SECONDS_PER_MINUTE, W_PER_KW

NODE_SLEEP_AFTER_S = 300
SITE_CLOSE_AFTER_S = 600
MW_PER_W = 1000
"""Milliwatts per watt: power sums are integers, so what is added is taken away exactly."""
JOULES_PER_KWH = W_PER_KW * SECONDS_PER_HOUR

OVERCOMMIT = "overcommit"
"""`detail` of the report on a start that does not fit its node."""
UNKNOWN_WORK = "unknown work: neither a fate nor declared_work_s"
"""`detail` of the report on a start whose end nobody could know."""


class Order(IntEnum):
    """What goes first at one instant."""

    OUTAGE = 0
    WORK_ENDS = 1
    STOP = 2
    GANG_BREAKS = 3
    START = 4
    NODE_POWER = 5
    READY = 6
    NODE_SLEEP = 7
    SITE_CLOSE = 8


@dataclass(frozen=True, slots=True)
class OutageSpan:
    """The site has no power in [from_s, until_s)."""

    from_s: int
    until_s: int
    cause: str


@dataclass(frozen=True, slots=True)
class CoolingSpan:
    """Cooling needs `factor` times the power in [from_s, until_s)."""

    from_s: int
    until_s: int
    factor: float


@dataclass(frozen=True, slots=True)
class SiteSpec:
    """What a site is made of; `cooling_per_heat` and the bulbs hold one value a minute from `start_s`."""

    site_id: str
    start_s: int
    groups: tuple[NodeGroup, ...]
    plant: Plant
    rated_w: float
    off_share: float
    site_start_s: int
    may_close: bool
    transfer_gbps: float
    cooling_per_heat: NDArray[np.float64]
    dry_bulb_c: NDArray[np.float64]
    wet_bulb_c: NDArray[np.float64]
    outages: tuple[OutageSpan, ...] = ()
    degradations: tuple[CoolingSpan, ...] = ()
    replica_mtbf_s: float = math.inf
    seed: int = 0


@dataclass(slots=True, eq=False)
class Node:
    """One machine: free resources and whether it has power; `idle_version` outdates sleep checks."""

    group: NodeGroup
    cpu_milli: int
    memory_mib: int
    gpu_milli: list[int]
    is_on: bool = True
    ready_at_s: int = 0
    replica_count: int = 0
    idle_version: int = 0


@dataclass(slots=True, eq=False)
class Gang:
    """Replicas that begin together and end together."""

    size: int
    members: list[Replica] = field(default_factory=list)
    ready_count: int = 0
    has_begun: bool = False
    is_broken: bool = False


@dataclass(slots=True, eq=False)
class Replica:
    """A placement on its node; `began_at_s` is None until it works."""

    order: StartReplica
    node: Node
    gang: Gang | None
    dynamic_mw: int
    useful_mw: int
    began_at_s: int | None = None
    ends_at_s: int = 0
    end_phase: ReplicaPhase = ReplicaPhase.SUCCEEDED
    end_detail: str = ""
    is_ended: bool = False


ReplicaRow = tuple[int, str, str, str, float, float, str]
"""(at_s, site_id, placement_id, phase, done_work_s, delivered_gpu_s, detail)"""
StatusRow = tuple[int, str, bool, str]
"""(at_s, site_id, up, cause)"""


@dataclass(slots=True)
class _Meters:
    """Joules and watts of one window."""

    from_s: int
    it_j: float = 0.0
    facility_j: float = 0.0
    useful_j: float = 0.0
    peak_facility_w: float = 0.0


MeterRow = tuple[
    str, int, int, float, float, float, float, float, float, float, float, dict[str, int], bool, bool
]
"""Fields of `SiteMeter` in order."""


class SiteSim:
    """The engine of one site. `fates` is shared with other sites and read only."""

    def __init__(self, spec: SiteSpec, fates: Mapping[str, Fate]) -> None:
        self.spec = spec
        self.now_s = spec.start_s
        self.is_up = True
        self.is_open = True
        self.is_halted = False
        self._fates = fates
        self._facility = FacilityPhysics(spec.plant, spec.rated_w, spec.off_share)
        self._open_at_s = spec.start_s
        self._heap: list[tuple[int, int, int, object]] = []
        self._sequence = 0
        self._replicas: dict[str, Replica] = {}
        self._seen: set[str] = set()
        self._accepted_count = 0
        self._stopped_unseen: set[str] = set()
        self._gangs: dict[tuple[str, str], Gang] = {}
        self._it_mw = 0
        self._useful_mw = 0
        self._integrated_s = spec.start_s
        self._minute_from_s = spec.start_s
        self._minute_it_mj = 0
        self._minute_useful_mj = 0
        self._meters = _Meters(spec.start_s)
        self._rows: list[ReplicaRow] = []
        self._statuses: list[StatusRow] = []
        self._nodes = {g.group_id: [_new_node(g) for _ in range(g.node_count)] for g in spec.groups}
        self._nodes_on = {g.group_id: g.node_count for g in spec.groups}
        self._schedule_openings()

    # ------------------------------------------------------------------------------------------ public
    def accept(self, command: Command) -> None:
        """Queue an order for its instant, or for now when that has passed."""
        order = Order.START if isinstance(command, StartReplica) else Order.STOP
        self._push(max(command.at_s, self.now_s), order, command)

    def run(self, until_s: int) -> None:
        """Run the site's events up to and including `until_s`."""
        if self.is_halted:
            self._shift(until_s - self.now_s)
            return
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            at_s, order, _, what = heapq.heappop(heap)
            self.now_s = at_s
            _HANDLERS[order](self, what)
        self.now_s = until_s

    def window(self) -> tuple[list[ReplicaRow], MeterRow, list[StatusRow]]:
        """What happened and what was metered since the last call; begins the next window."""
        self._integrate(self.now_s)
        self._close_minute(self.now_s)
        rows, statuses, meters = self._rows, self._statuses, self._meters
        self._rows, self._statuses, self._meters = [], [], _Meters(self.now_s)
        return rows, self._meter_row(meters), statuses

    def delivered_running(self) -> dict[str, float]:
        """Reference-GPU seconds that running placements have delivered so far, by placement id."""
        return {
            placement_id: self._progress_s(replica) * replica.order.reference_gpu_milli / MILLI
            for placement_id, replica in sorted(self._replicas.items())
            if replica.began_at_s is not None
        }

    @property
    def running_count(self) -> int:
        """Replicas that work now."""
        return sum(r.began_at_s is not None for r in self._replicas.values())

    # ------------------------------------------------------------------------------------------ commands
    def _start(self, order: StartReplica) -> None:
        if order.placement_id in self._seen:
            return
        self._seen.add(order.placement_id)
        if order.placement_id in self._stopped_unseen:
            self._report(order, ReplicaPhase.STOPPED, order.done_work_s, 0.0, "stopped before its start")
            return
        if not self.is_up:
            self._report(order, ReplicaPhase.LOST, order.done_work_s, 0.0, "site down")
            return
        if not order.is_service and order.workload not in self._fates and order.declared_work_s <= 0:
            self._report(order, ReplicaPhase.FAILED, order.done_work_s, 0.0, UNKNOWN_WORK)
            return
        node = self._node(order)
        misfit = "no such node" if node is None else _misfit(node, order)
        if node is None or misfit:
            self._report(order, ReplicaPhase.FAILED, order.done_work_s, 0.0, f"{OVERCOMMIT}: {misfit}")
            return
        _take(node, order)
        self._accepted_count += 1
        replica = self._new_replica(order, node)
        self._replicas[order.placement_id] = replica
        ready_s = self._wake(node) + order.startup_s + self._transfer_s(order.transfer_gib)
        self._push(ready_s, Order.READY, replica)

    def _stop(self, stop: StopReplica) -> None:
        replica = self._replicas.get(stop.placement_id)
        if replica is None:
            if stop.placement_id not in self._seen:
                self._stopped_unseen.add(stop.placement_id)
            return
        self._end(replica, ReplicaPhase.STOPPED, stop.cause)

    def _new_replica(self, order: StartReplica, node: Node) -> Replica:
        group = node.group
        dynamic_w = order.utilization_frac * (
            group.gpu_dynamic_w * order.gpu_milli / MILLI + group.core_dynamic_w * order.cpu_milli / MILLI
        )
        useful_w = dynamic_w + dominant_share(group, order) * group.idle_w
        gang = self._gang(order) if order.gang_size > 1 else None
        replica = Replica(order, node, gang, round(dynamic_w * MW_PER_W), round(useful_w * MW_PER_W))
        if gang is not None:
            gang.members.append(replica)
        return replica

    def _gang(self, order: StartReplica) -> Gang:
        """The gang that this replica joins: the one still gathering, or a new one."""
        key = (order.workload, order.stage_id)
        gang = self._gangs.get(key)
        if gang is None or gang.has_begun or gang.is_broken or len(gang.members) >= gang.size:
            gang = self._gangs[key] = Gang(order.gang_size)
        return gang

    def _node(self, order: StartReplica) -> Node | None:
        nodes = self._nodes.get(order.group_id, [])
        return nodes[order.node_index] if 0 <= order.node_index < len(nodes) else None

    def _transfer_s(self, transfer_gib: float) -> int:
        return math.ceil(transfer_gib * 1.073741824 * 8 / self.spec.transfer_gbps) if transfer_gib > 0 else 0

    # ------------------------------------------------------------------------------------------ work
    def _ready(self, replica: Replica) -> None:
        """Started up: begin, or wait for the rest of the gang."""
        if replica.is_ended:
            return
        gang = replica.gang
        if gang is None:
            self._begin(replica)
            return
        gang.ready_count += 1
        if gang.ready_count == gang.size:
            gang.has_begun = True
            for member in gang.members:
                self._begin(member)

    def _begin(self, replica: Replica) -> None:
        """Work starts; its end is known from its fate and from the crash that may come first."""
        order = replica.order
        replica.began_at_s = self.now_s
        self._integrate(self.now_s)
        self._it_mw += replica.dynamic_mw
        self._useful_mw += replica.useful_mw
        self._report(order, ReplicaPhase.RUNNING, order.done_work_s, 0.0, "")
        end = self._end_of_work(order)
        if end is not None:
            replica.ends_at_s, replica.end_phase, replica.end_detail = end
            self._push(replica.ends_at_s, Order.WORK_ENDS, replica)

    def _end_of_work(self, order: StartReplica) -> tuple[int, ReplicaPhase, str] | None:
        """When and how the replica ends if nobody stops it; None for a service that no crash hits."""
        ends: list[tuple[int, ReplicaPhase, str]] = []
        if not order.is_service:
            fate = self._fates.get(order.workload)
            left_s = work_s(order, fate, self.spec.seed) - order.done_work_s
            ends.append((self.now_s + max(1, math.ceil(left_s)), ReplicaPhase.SUCCEEDED, ""))
            if fate is not None and fate.fails_after_s is not None:
                fails_s = max(1, math.ceil(fate.fails_after_s - order.done_work_s))
                ends.append((self.now_s + fails_s, ReplicaPhase.FAILED, "failed by itself"))
        crash_s = self.spec.start_s + crash_after_s(order, self.spec.replica_mtbf_s, self.spec.seed)
        if crash_s > self.now_s and math.isfinite(crash_s):
            ends.append((math.ceil(crash_s), ReplicaPhase.LOST, "replica crashed"))
        return min(ends, key=lambda end: end[0], default=None)

    def _work_ends(self, replica: Replica) -> None:
        if not replica.is_ended:
            self._end(replica, replica.end_phase, replica.end_detail)

    def _end(self, replica: Replica, phase: ReplicaPhase, detail: str) -> None:
        """Report the end, free the node, and take the rest of the gang along unless it is done."""
        order = replica.order
        replica.is_ended = True
        done_s, delivered_s = self._account(replica, phase)
        if replica.began_at_s is not None:
            self._integrate(self.now_s)
            self._it_mw -= replica.dynamic_mw
            self._useful_mw -= replica.useful_mw
        self._report(order, phase, done_s, delivered_s * order.reference_gpu_milli / MILLI, detail)
        del self._replicas[order.placement_id]
        _give_back(replica.node, order)
        self._rest(replica.node)
        gang = replica.gang
        if gang is not None and phase is not ReplicaPhase.SUCCEEDED and not gang.is_broken:
            gang.is_broken = True
            self._push(self.now_s, Order.GANG_BREAKS, (gang, phase))

    def _gang_breaks(self, broken: tuple[Gang, ReplicaPhase]) -> None:
        """The rest of a gang ends with the member that fell out: failed by itself together, lost otherwise."""
        gang, first_phase = broken
        phase = ReplicaPhase.FAILED if first_phase is ReplicaPhase.FAILED else ReplicaPhase.LOST
        for member in gang.members:
            if not member.is_ended:
                self._end(member, phase, "gang broken")

    def _progress_s(self, replica: Replica) -> float:
        """Work done since this start."""
        return 0.0 if replica.began_at_s is None else float(self.now_s - replica.began_at_s)

    def _account(self, replica: Replica, phase: ReplicaPhase) -> tuple[float, float]:
        """(work a restart may build on, work delivered since this start), seconds.

        What is not kept is not delivered: a lost or stopped job keeps its last checkpoint; a service keeps its hours.
        """
        order, progress_s = replica.order, self._progress_s(replica)
        if order.is_service or phase in (ReplicaPhase.SUCCEEDED, ReplicaPhase.FAILED):
            left_s = progress_s
            if phase is ReplicaPhase.SUCCEEDED:
                left_s = min(
                    progress_s,
                    work_s(order, self._fates.get(order.workload), self.spec.seed) - order.done_work_s,
                )
            return order.done_work_s + left_s, max(0.0, left_s)
        if order.checkpoint_interval_s <= 0:
            return order.done_work_s, 0.0
        total_s = order.done_work_s + progress_s
        kept_s = max(order.done_work_s, total_s - total_s % order.checkpoint_interval_s)
        return kept_s, kept_s - order.done_work_s

    def _report(
        self, order: StartReplica, phase: ReplicaPhase, done_s: float, delivered: float, detail: str
    ) -> None:
        self._rows.append(
            (self.now_s, self.spec.site_id, order.placement_id, phase.value, done_s, delivered, detail)
        )

    # ------------------------------------------------------------------------------------------ nodes and site
    def _wake(self, node: Node) -> int:
        """Take the node (and the site) out of sleep; the instant from which it serves."""
        if not self.is_open:
            self._set_open(True)
            self._open_at_s = self.now_s + self.spec.site_start_s
        if not node.is_on:
            power_s = max(self.now_s, self._open_at_s)
            node.is_on = True
            self._nodes_on[node.group.group_id] += 1
            node.ready_at_s = power_s + node.group.node_wake_s
            self._push(power_s, Order.NODE_POWER, (node, node.ready_at_s))
        return max(node.ready_at_s, self.now_s)

    def _node_power(self, what: tuple[Node, int]) -> None:
        """A waking node begins to draw its idle power (unless the site went down meanwhile)."""
        node, ready_at_s = what
        if node.is_on and node.ready_at_s == ready_at_s:
            self._integrate(self.now_s)
            self._it_mw += round(node.group.idle_w * MW_PER_W)

    def _rest(self, node: Node) -> None:
        """An empty node falls asleep after a while, an empty site closes after a while."""
        if node.replica_count:
            return
        node.idle_version += 1
        sleep_s = max(self.now_s, node.ready_at_s) + NODE_SLEEP_AFTER_S
        self._push(sleep_s, Order.NODE_SLEEP, (node, node.idle_version))
        if self.spec.may_close and not self._replicas:
            self._push(self.now_s + SITE_CLOSE_AFTER_S, Order.SITE_CLOSE, self._accepted_count)

    def _node_sleep(self, what: tuple[Node, int]) -> None:
        node, version = what
        if node.is_on and not node.replica_count and node.idle_version == version:
            self._integrate(self.now_s)
            node.is_on = False
            self._nodes_on[node.group.group_id] -= 1
            self._it_mw -= round(node.group.idle_w * MW_PER_W)

    def _site_close(self, accepted_count: int) -> None:
        """Close if nothing was started since the site fell empty and every node sleeps."""
        if not self.is_open or self._replicas or self._accepted_count != accepted_count:
            return
        if self._it_mw:
            self._push(self.now_s + SECONDS_PER_MINUTE, Order.SITE_CLOSE, accepted_count)
            return
        self._set_open(False)

    def _set_open(self, is_open: bool) -> None:
        self._integrate(self.now_s)
        self._close_minute(self.now_s)
        self.is_open = is_open

    def _outage(self, span: tuple[bool, str]) -> None:
        """Power goes: everything is lost. Power returns: an empty site, closed if it may be."""
        goes_down, cause = span
        self._integrate(self.now_s)
        self._close_minute(self.now_s)
        self._statuses.append((self.now_s, self.spec.site_id, not goes_down, cause))
        if goes_down:
            for replica in list(self._replicas.values()):
                if not replica.is_ended:
                    self._end(replica, ReplicaPhase.LOST, f"site down: {cause}")
            self._switch_off_all()
        self.is_up = not goes_down
        self.is_open = not goes_down and not self.spec.may_close

    def _switch_off_all(self) -> None:
        for nodes in self._nodes.values():
            for node in nodes:
                node.is_on, node.ready_at_s = False, 0
        self._nodes_on = dict.fromkeys(self._nodes_on, 0)
        self._it_mw = self._useful_mw = 0
        self._open_at_s = self.now_s

    # ------------------------------------------------------------------------------------------ energy
    def _integrate(self, until_s: int) -> None:
        """Add the power of [integrated, until): exact, minute by minute."""
        at_s = self._integrated_s
        while at_s < until_s:
            edge_s = min(until_s, self._next_minute_s(at_s))
            self._minute_it_mj += self._it_mw * (edge_s - at_s)
            self._minute_useful_mj += self._useful_mw * (edge_s - at_s)
            self._integrated_s = at_s = edge_s
            if edge_s == self._next_minute_s(self._minute_from_s):
                self._close_minute(edge_s)

    def _next_minute_s(self, at_s: int) -> int:
        return at_s - (at_s - self.spec.start_s) % SECONDS_PER_MINUTE + SECONDS_PER_MINUTE

    def _close_minute(self, until_s: int) -> None:
        """Facility energy of the minute (or the part of it since the last change of the site's state)."""
        elapsed_s = until_s - self._minute_from_s
        if elapsed_s <= 0:
            return
        it_j = self._minute_it_mj / MW_PER_W
        facility_w = self._facility_power_w(it_j / elapsed_s, elapsed_s)
        meters = self._meters
        meters.it_j += it_j
        meters.useful_j += min(
            self._minute_useful_mj / MW_PER_W, it_j
        )  # shares of one node may overlap in two resources
        meters.facility_j += facility_w * elapsed_s
        meters.peak_facility_w = max(meters.peak_facility_w, facility_w)
        self._minute_from_s, self._minute_it_mj, self._minute_useful_mj = until_s, 0, 0

    def _facility_power_w(self, it_w: float, elapsed_s: int) -> float:
        if not self.is_up:
            return 0.0
        minute = self._weather_index(self._minute_from_s)
        cooling = float(self.spec.cooling_per_heat[minute]) * self._degradation(self._minute_from_s)
        if not self.is_open:
            return self._facility.closed_power_w(cooling)
        return self._facility.open_power_w(it_w, cooling, elapsed_s)

    def _degradation(self, at_s: int) -> float:
        return math.prod(d.factor for d in self.spec.degradations if d.from_s <= at_s < d.until_s)

    def _weather_index(self, at_s: int) -> int:
        """Minute of the weather; after its end the last day repeats."""
        minute, minutes = (at_s - self.spec.start_s) // SECONDS_PER_MINUTE, len(self.spec.dry_bulb_c)
        day = 24 * 60
        return minute if minute < minutes else minutes - 1 - (minutes - 1 - minute) % min(day, minutes)

    def _meter_row(self, meters: _Meters) -> MeterRow:
        elapsed_s = max(1, self.now_s - meters.from_s)
        minute = self._weather_index(max(meters.from_s, self.now_s - 1))
        is_metering = not self.is_halted
        return (
            self.spec.site_id,
            meters.from_s,
            self.now_s,
            meters.it_j / JOULES_PER_KWH,
            meters.facility_j / JOULES_PER_KWH,
            meters.useful_j / JOULES_PER_KWH,
            meters.it_j / elapsed_s / W_PER_KW,
            meters.facility_j / elapsed_s / W_PER_KW,
            meters.peak_facility_w / W_PER_KW,
            float(self.spec.dry_bulb_c[minute]),
            float(self.spec.wet_bulb_c[minute]),
            dict(self._nodes_on),
            self.is_up and is_metering,
            self.is_open and self.is_up and is_metering,
        )

    # ------------------------------------------------------------------------------------------ heap
    def _push(self, at_s: int, order: Order, what: object) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (at_s, order, self._sequence, what))

    def _schedule_openings(self) -> None:
        """Outages of the day, and the rest that an empty site falls into: it opens awake."""
        for outage in self.spec.outages:
            self._push(outage.from_s, Order.OUTAGE, (True, outage.cause))
            self._push(outage.until_s, Order.OUTAGE, (False, f"{outage.cause} repaired"))
        for nodes in self._nodes.values():
            for node in nodes:
                node.ready_at_s = self.spec.start_s
                self._it_mw += round(node.group.idle_w * MW_PER_W)
                self._rest(node)

    def _shift(self, by_s: int) -> None:
        """A halted engine lets time pass: everything planned moves along, nothing happens, nothing is metered."""
        self._heap = [(at_s + by_s, order, seq, what) for at_s, order, seq, what in self._heap]
        heapq.heapify(self._heap)
        for replica in self._replicas.values():
            if replica.began_at_s is not None:
                replica.began_at_s += by_s
        for nodes in self._nodes.values():
            for node in nodes:
                node.ready_at_s += by_s
        self._open_at_s += by_s
        self.now_s += by_s
        self._integrated_s = self._minute_from_s = self.now_s


_HANDLERS: dict[int, Callable[[SiteSim, Any], None]] = {
    Order.OUTAGE: SiteSim._outage,
    Order.WORK_ENDS: SiteSim._work_ends,
    Order.STOP: SiteSim._stop,
    Order.GANG_BREAKS: SiteSim._gang_breaks,
    Order.START: SiteSim._start,
    Order.NODE_POWER: SiteSim._node_power,
    Order.READY: SiteSim._ready,
    Order.NODE_SLEEP: SiteSim._node_sleep,
    Order.SITE_CLOSE: SiteSim._site_close,
}


# -------------------------------------------------------------------------------- rules, one function each
def dominant_share(group: NodeGroup, order: StartReplica) -> float:
    """Largest share of the node that the replica holds, over cores, memory and GPUs."""
    gpu_share = order.gpu_milli / (group.gpu_count * MILLI) if group.gpu_count else 0.0
    return max(order.cpu_milli / group.cpu_milli, order.memory_mib / group.memory_mib, gpu_share)


def work_s(order: StartReplica, fate: Fate | None, seed: int) -> float:
    """True work of one replica in seconds: by fate, or as declared where the world has none for it."""
    if fate is None:
        return float(order.declared_work_s)
    whole_s = fate.work_s[order.stage_id]
    if not fate.jitter_frac:
        return float(whole_s)
    draw = uniform(seed, "work", order.workload, order.stage_id, order.replica_index)
    return max(1.0, whole_s * (1 + fate.jitter_frac * (2 * draw - 1)))


def crash_after_s(order: StartReplica, mtbf_s: float, seed: int) -> float:
    """Instant of the replica's one crash, seconds after the opening; exponential, the same wherever it runs."""
    if math.isinf(mtbf_s):
        return math.inf
    draw = uniform(seed, "crash", order.workload, order.stage_id, order.replica_index)
    return -mtbf_s * math.log1p(-draw)


def uniform(seed: int, *key: object) -> float:
    """A number in [0, 1) that depends on the seed and the key alone, on every engine and machine."""
    text = "/".join(map(str, (seed, *key)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


def _new_node(group: NodeGroup) -> Node:
    return Node(group, group.cpu_milli, group.memory_mib, [MILLI] * group.gpu_count)


def _misfit(node: Node, order: StartReplica) -> str:
    """Why the order does not fit its node; empty when it does."""
    if order.cpu_milli > node.cpu_milli:
        return f"cpu_milli {order.cpu_milli} > {node.cpu_milli} free"
    if order.memory_mib > node.memory_mib:
        return f"memory_mib {order.memory_mib} > {node.memory_mib} free"
    wanted = device_count(order.gpu_milli)
    if len(set(order.gpu_ids)) != wanted or len(order.gpu_ids) != wanted:
        return f"{order.gpu_milli} milli-GPUs need {wanted} devices, got {order.gpu_ids}"
    for gpu_id in order.gpu_ids:
        if not 0 <= gpu_id < len(node.gpu_milli):
            return f"no gpu {gpu_id}"
        if milli_per_device(order.gpu_milli) > node.gpu_milli[gpu_id]:
            return f"gpu {gpu_id} has {node.gpu_milli[gpu_id]} milli free"
    return ""


def device_count(gpu_milli: int) -> int:
    """Devices that a need touches: a share lies on one, above one only whole devices."""
    return -(-gpu_milli // MILLI)


def milli_per_device(gpu_milli: int) -> int:
    """What each touched device gives."""
    return min(gpu_milli, MILLI)


def _take(node: Node, order: StartReplica) -> None:
    _move(node, order, -1)


def _give_back(node: Node, order: StartReplica) -> None:
    _move(node, order, +1)


def _move(node: Node, order: StartReplica, sign: int) -> None:
    node.cpu_milli += sign * order.cpu_milli
    node.memory_mib += sign * order.memory_mib
    for gpu_id in order.gpu_ids:
        node.gpu_milli[gpu_id] += sign * milli_per_device(order.gpu_milli)
    node.replica_count -= sign


def in_order(sites: Sequence[SiteSim]) -> list[SiteSim]:
    """Sites by id: the order in which their reports are merged."""
    return sorted(sites, key=lambda site: site.spec.site_id)
