"""A first-fit policy over the world's own protocol: enough to play a day, no part of the product.

It honours labels, GPU models, gangs on one site and spread over nodes; it knows nothing of latency, power or price.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from cluster_sim.scenarios.schema import Scenario
from cluster_sim.world.arrivals import Arrivals
from cluster_sim.world.protocol import Command, SiteEngine, SiteReport, StartReplica, StopReplica
from suanli.model import Fleet, ReplicaPhase, Site, Stage, StopKind, Workload


@dataclass
class Seat:
    """Free resources of one node."""

    site: Site
    group_index: int
    node_index: int
    cpu: int
    memory: int
    gpus: list[int]


@dataclass
class FirstFit:
    """Places arrivals in order on the first node that fits; puts lost replicas back in the queue."""

    fleet: Fleet
    queue: deque[tuple[Workload, Stage, int, float]] = field(default_factory=deque)
    running: dict[str, tuple[StartReplica, Seat, Workload, Stage]] = field(default_factory=dict)
    ended: list[tuple[str, ReplicaPhase, str]] = field(default_factory=list)
    starts: int = 0

    def __post_init__(self) -> None:
        self.seats = [
            Seat(s, i, n, g.cpu_milli, g.memory_mib, [1000] * g.gpu_count)
            for s in self.fleet.sites
            for i, g in enumerate(s.groups)
            for n in range(g.node_count)
        ]
        self.down: set[str] = set()
        self.by_key: dict[tuple[str, int], list[Seat]] = {}
        for seat in self.seats:
            self.by_key.setdefault((seat.site.site_id, seat.group_index), []).append(seat)

    def submit(self, workload: Workload) -> None:
        for stage in workload.stages:
            if stage.shared_with is None:
                for i in range(stage.replicas):
                    self.queue.append((workload, stage, i, 0.0))

    def cancel(self, name: str, at_s: int) -> list[Command]:
        self.queue = deque(q for q in self.queue if q[0].name != name)
        found = [o for o, *_ in self.running.values() if o.workload == name]
        return [StopReplica(o.placement_id, o.site_id, at_s, StopKind.CANCELLED, "cancelled") for o in found]

    def decide(self, at_s: int) -> list[Command]:
        """Place what fits now; the rest waits."""
        commands: list[Command] = []
        waiting: deque[tuple[Workload, Stage, int, float]] = deque()
        gangs: dict[tuple[str, str], list[tuple[Workload, Stage, int, float]]] = {}
        misses: set[tuple[str, str]] = set()
        for item in self.queue:
            workload, stage, _, _ = item
            if workload.not_before_at is not None and workload.not_before_at.timestamp() > at_s:
                waiting.append(item)
            elif stage.gang:
                gangs.setdefault((workload.name, stage.stage_id), []).append(item)
            elif (workload.name, stage.stage_id) in misses or not (placed := self._place(item, at_s, None)):
                misses.add((workload.name, stage.stage_id))
                waiting.append(item)
            else:
                commands.append(placed)
        for members in gangs.values():
            placed_gang = self._place_gang(members, at_s)
            commands += placed_gang
            if not placed_gang:
                waiting.extend(members)
        self.queue = waiting
        return commands

    def hear(self, report: SiteReport) -> None:
        for status in report.statuses:
            (self.down.discard if status.up else self.down.add)(status.site_id)
        for row in report.replicas:
            if row.phase is ReplicaPhase.RUNNING:
                continue
            order, seat, workload, stage = self.running.pop(row.placement_id)
            _free(seat, order, 1)
            self.ended.append((order.workload, row.phase, row.detail))
            if row.phase is ReplicaPhase.LOST:
                self.queue.append((workload, stage, order.replica_index, row.done_work_s))

    def _place_gang(self, members: list[tuple[Workload, Stage, int, float]], at_s: int) -> list[Command]:
        for site in self.fleet.sites:
            orders: list[StartReplica] = []
            for item in members:
                placed = self._place(item, at_s, site.site_id, len(members))
                if placed is None:
                    break
                orders.append(placed)
            if len(orders) == len(members):
                return list(orders)
            for order in orders:
                _free(self.running.pop(order.placement_id)[1], order, 1)
        return []

    def _place(
        self, item: tuple[Workload, Stage, int, float], at_s: int, site_id: str | None, gang: int = 1
    ) -> StartReplica | None:
        stage = item[1]
        for (seat_site, group_index), seats in self.by_key.items():
            site = seats[0].site
            if seat_site in self.down or (site_id not in (None, seat_site)) or not _allowed(stage, site):
                continue
            group = site.groups[group_index]
            need = stage.gpu_milli.get(group.gpu_model, 0) if stage.gpu_milli else 0
            if stage.gpu_milli and (not need or group.gpu_memory_mib < stage.gpu_memory_mib):
                continue
            for seat in seats:
                gpu_ids = _devices(seat, need)
                if seat.cpu >= stage.cpu_milli and seat.memory >= stage.memory_mib and gpu_ids is not None:
                    return self._take(seat, item, need, gpu_ids, at_s, gang)
        return None

    def _take(
        self,
        seat: Seat,
        item: tuple[Workload, Stage, int, float],
        need: int,
        gpu_ids: tuple[int, ...],
        at_s: int,
        gang: int,
    ) -> StartReplica:
        workload, stage, index, done = item
        self.starts += 1
        order = StartReplica(
            placement_id=f"p{self.starts}",
            workload=workload.name,
            stage_id=stage.stage_id,
            replica_index=index,
            site_id=seat.site.site_id,
            group_id=seat.site.groups[seat.group_index].group_id,
            node_index=seat.node_index,
            at_s=at_s,
            cpu_milli=stage.cpu_milli,
            memory_mib=stage.memory_mib,
            gpu_milli=need,
            gpu_ids=gpu_ids,
            reference_gpu_milli=stage.reference_gpu_milli,
            utilization_frac=stage.utilization_frac,
            startup_s=stage.startup_s,
            done_work_s=done,
            is_service=stage.is_service,
            checkpoint_interval_s=stage.checkpoint_interval_s,
            gang_size=gang if stage.gang else 1,
            transfer_gib=0.0,
        )
        _free(seat, order, -1)
        self.running[order.placement_id] = (order, seat, workload, stage)
        return order


def _allowed(stage: Stage, site: Site) -> bool:
    if not stage.require_any:
        return True
    return any(all(site.labels.get(k) == v for k, v in labels.items()) for labels in stage.require_any)


def _devices(seat: Seat, need: int) -> tuple[int, ...] | None:
    if need == 0:
        return ()
    each, count = min(need, 1000), -(-need // 1000)
    free = [i for i, milli in enumerate(seat.gpus) if milli >= each]
    return tuple(free[:count]) if len(free) >= count else None


def _free(seat: Seat, order: StartReplica, sign: int) -> None:
    seat.cpu += sign * order.cpu_milli
    seat.memory += sign * order.memory_mib
    for gpu in order.gpu_ids:
        seat.gpus[gpu] += sign * min(order.gpu_milli, 1000)


def play(
    scenario: Scenario,
    arrivals: Arrivals,
    engine: SiteEngine,
    window_s: int = 300,
    until_s: int | None = None,
) -> tuple[FirstFit, list[SiteReport]]:
    """Play the day window by window; returns the policy's books and every report."""
    policy = FirstFit(scenario.fleet())
    reports: list[SiteReport] = []
    items, cancels = deque(arrivals.items), deque(arrivals.cancellations)
    now_s = scenario.start_s
    end_s = scenario.end_s if until_s is None else until_s
    while now_s < end_s:
        while items and items[0][0] <= now_s:
            policy.submit(items.popleft()[1])
        commands: list[Command] = []
        while cancels and cancels[0][0] <= now_s:
            commands += policy.cancel(cancels.popleft()[1], now_s)
        report = engine.step(commands + policy.decide(now_s), now_s + window_s)
        policy.hear(report)
        reports.append(report)
        now_s += window_s
    return policy, reports
