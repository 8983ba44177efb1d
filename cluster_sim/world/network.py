"""The city's network as it really behaves: routes, queues under the world's own load, access tails, and what users saw.

    Routes           cheapest route between any two ends, with the links it takes
    AccessTails      samples of access RTT: lognormal through p50 and p99, plus the hairpin where it applies
    LatencyMeter     follows what runs where from orders and reports, and measures RTT against the flows' budgets

    RTT of a route = Σ links (hop · hops + km · length + extra + τ · ρ/(1−ρ)),   ρ = what flows now / capacity
    RTT of a zone leg = access (+ hairpin) + route

A device anchors at the UPF of the site that serves it; a site without UPF is reached through the city core (hairpin).
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cluster_sim.day_values import ClassLatency, LatencyMeasured
from cluster_sim.scenarios.schema import Scenario
from cluster_sim.world.protocol import Command, SiteReport, StartReplica, StopReplica
from suanli.model import (
    AccessProfile,
    Fleet,
    Flow,
    Network,
    PathBudget,
    PriorityClass,
    ReplicaPhase,
    StopKind,
    Workload,
)
from suanli.model.units import HOURS_PER_DAY, MBPS_PER_GBPS, SECONDS_PER_MINUTE

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Z99 = 2.3263478740408408
"""Standard normal quantile of 0.99."""
MAX_LINK_LOAD_FRAC = 0.99
SAMPLES_PER_MEASUREMENT = 2000
GRID = 200
BIN_RATIO = 1.01
BIN_FIRST_MS = 0.01
BIN_COUNT = 1500
LATENCY_SEED_TAG = 103
MEANT_STOPS = frozenset(
    (StopKind.CANCELLED, StopKind.DONE, StopKind.PARTNER_FAILED, StopKind.PREEMPTED, StopKind.PAUSED)
)
"""Stops of what is not meant to run for now: no outage. What other stops end is meant to run on elsewhere."""


# ---------------------------------------------------------------------------------------------- routes
class Routes:
    """Cheapest routes by unloaded RTT; ends are site ids and hub ids, in the order of `ends`."""

    def __init__(self, fleet: Fleet) -> None:
        network = fleet.network
        self.ends = (*(s.site_id for s in fleet.sites), *network.hubs)
        self.index = {end: i for i, end in enumerate(self.ends)}
        self.links = network.links
        self.capacity_mbps = np.array([link.capacity_gbps * MBPS_PER_GBPS for link in network.links])
        self.queue_tau_ms = network.queue_tau_ms
        self._neighbours = self._adjacency(network)
        count = len(self.ends)
        self.base_ms = np.full((count, count), np.inf)
        self.uses = np.zeros((count, count, len(network.links)), dtype=np.bool_)
        for end in range(count):
            self._route_from(end)

    def queue_ms(self, link_load_frac: F64) -> F64:
        """τ · ρ/(1−ρ) per link; an overloaded link counts as nearly full."""
        rho = np.clip(link_load_frac, 0.0, MAX_LINK_LOAD_FRAC)
        return np.asarray(self.queue_tau_ms * rho / (1 - rho))

    def rtt_ms(self, link_load_frac: F64) -> F64:
        """RTT between all ends, [end, end], under those link loads."""
        return np.asarray(self.base_ms + self.uses @ self.queue_ms(link_load_frac))

    def _adjacency(self, network: Network) -> list[list[tuple[int, int, float]]]:
        """For each end: (other end, link, unloaded RTT)."""
        out: list[list[tuple[int, int, float]]] = [[] for _ in self.ends]
        for i, link in enumerate(network.links):
            rtt = network.hop_rtt_ms * link.hop_count + network.km_rtt_ms * link.length_km + link.extra_rtt_ms
            a, b = (self.index[end] for end in link.ends)
            out[a].append((b, i, rtt))
            out[b].append((a, i, rtt))
        return out

    def _route_from(self, start: int) -> None:
        """Dijkstra; ties go to the end that comes first."""
        self.base_ms[start, start] = 0.0
        queue: list[tuple[float, int]] = [(0.0, start)]
        done: set[int] = set()
        while queue:
            rtt, end = heapq.heappop(queue)
            if end in done:
                continue
            done.add(end)
            for other, link, link_ms in self._neighbours[end]:
                if rtt + link_ms < self.base_ms[start, other]:
                    self.base_ms[start, other] = rtt + link_ms
                    self.uses[start, other] = self.uses[start, end]
                    self.uses[start, other, link] = True
                    heapq.heappush(queue, (rtt + link_ms, other))


# ---------------------------------------------------------------------------------------------- access
def lognormal_sigma(p50_ms: float, p99_ms: float) -> float:
    """σ of the lognormal with that median and 99th percentile."""
    return math.log(p99_ms / p50_ms) / Z99


class AccessTails:
    """Samples of access RTT per kind of access: a profile or a zone's mix, with or without hairpin."""

    def __init__(self, network: Network) -> None:
        self._profiles = {a.access_id: a for a in network.access}
        self._network = network

    def sample(self, mix: dict[str, float], has_upf: bool, count: int, rng: np.random.Generator) -> F64:
        """`count` sorted RTTs in ms of users spread over the mix, towards a site with or without UPF."""
        shares = np.array(list(mix.values()))
        edges = np.rint(np.cumsum(shares / shares.sum()) * count).astype(int)
        parts, first = [], 0
        for access_id, last in zip(mix, edges, strict=True):
            parts.append(self._profile_ms(self._profiles[access_id], has_upf, int(last) - first, rng))
            first = int(last)
        return np.sort(np.concatenate(parts))

    def _profile_ms(self, profile: AccessProfile, has_upf: bool, count: int, rng: np.random.Generator) -> F64:
        sigma = lognormal_sigma(profile.rtt_p50_ms, profile.rtt_p99_ms)
        rtt = profile.rtt_p50_ms * np.exp(sigma * rng.standard_normal(count))
        if profile.via_upf and not has_upf:
            p50, p99 = self._network.hairpin_p50_ms, self._network.hairpin_p99_ms
            rtt = rtt + p50 * np.exp(lognormal_sigma(p50, p99) * rng.standard_normal(count))
        return np.asarray(rtt)


# ---------------------------------------------------------------------------------------------- meter
@dataclass(slots=True)
class _Legs:
    """Zone legs as columns; `count` is the number of replicas that run on the leg now."""

    zone: list[int] = field(default_factory=list)
    site: list[int] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    mbps: list[float] = field(default_factory=list)
    limit_ms: list[float] = field(default_factory=list)
    room_ms: list[float] = field(default_factory=list)
    work_class: list[int] = field(default_factory=list)
    workload: list[int] = field(default_factory=list)
    count: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _ClassTally:
    """What one class saw so far."""

    is_hard: bool = False
    budget_ms: float = 0.0
    samples: int = 0
    inside: int = 0
    requests: float = 0.0
    requests_inside: float = 0.0
    outage_s: float = 0.0
    workloads: set[int] = field(default_factory=set)
    outside: set[int] = field(default_factory=set)
    hour_p99_ms: list[float | None] = field(default_factory=lambda: [None] * HOURS_PER_DAY)


class LatencyMeter:
    """Measures the network RTT of everything that runs, every `every_s` seconds of virtual time.

    It follows orders and reports alone; flows and budgets come from the submitted workloads (`know`).
    """

    def __init__(self, scenario: Scenario, seed: int, every_s: int = 900) -> None:
        self._scenario = scenario
        self._fleet = scenario.fleet(exact=True)
        self._routes = Routes(self._fleet)
        self._tails = AccessTails(self._fleet.network)
        self._seed = seed
        self._every_s = every_s
        self._next_s = scenario.start_s + every_s
        self._end_s = scenario.end_s
        self._has_upf = np.array([s.has_upf for s in self._fleet.sites])
        self._site_index = {s.site_id: i for i, s in enumerate(self._fleet.sites)}
        self._zones = {z.zone_id: z for z in self._fleet.zones}
        self._zone_index = {z: i for i, z in enumerate(self._zones)}
        self._zone_end = np.array([self._routes.index[z.hub_id] for z in self._fleet.zones], dtype=np.int64)
        self._mixes: dict[tuple[tuple[str, float], ...], int] = {}
        self._classes: dict[str, int] = {}
        self._tallies: list[_ClassTally] = []
        self._class_bins = np.zeros((0, BIN_COUNT))
        self._site_bins = np.zeros((len(self._fleet.sites), BIN_COUNT))
        self._workloads: dict[str, Workload] = {}
        self._workload_index: dict[str, int] = {}
        self._legs = _Legs()
        self._leg_rows: dict[tuple[str, str, int, int, str], int] = {}
        self._started: dict[str, StartReplica] = {}
        self._stage_sites: dict[tuple[str, str], dict[tuple[int, str], int]] = defaultdict(dict)
        self._model_of = {(s.site_id, g.group_id): g.gpu_model for s in self._fleet.sites for g in s.groups}
        self._until_s = scenario.start_s
        self._running: set[str] = set()
        self._copies: dict[tuple[str, str, int], int] = defaultdict(int)
        self._stop_kinds: dict[str, StopKind] = {}
        self._gone: dict[tuple[str, str, int], int] = {}
        self._cancelled_s: dict[str, int] = {}
        self._graphs: dict[str, Workload] = {}

    def know(self, workload: Workload, cancelled_s: int | None = None) -> None:
        """A workload was submitted: its flows and budgets are measured from its first start on.

        Its owner takes it back at `cancelled_s`, from when on nobody misses it.
        """
        self._workloads[workload.name] = workload
        if cancelled_s is not None:
            self._cancelled_s[workload.name] = cancelled_s
        self._workload_index.setdefault(workload.name, len(self._workload_index))
        tally = self._tallies[self._class_index(workload.workload_class)]
        tally.is_hard = tally.is_hard or workload.priority_class is PriorityClass.HARD_SAFETY
        limits = [f.rtt_p99_max_ms for f in workload.flows if f.rtt_p99_max_ms is not None]
        tally.budget_ms = max([tally.budget_ms, *limits])
        for flow in workload.flows:
            for zone_id in _zones_in((flow.source, flow.target)):
                self._mix_index(flow.access_id, zone_id)
        if any(_is_between_stages(flow) for flow in workload.flows):
            self._graphs[workload.name] = workload

    def observe(self, commands: Iterable[Command], report: SiteReport) -> None:
        """Follow one step of the world; measure when the time has come."""
        for command in commands:
            if isinstance(command, StartReplica):
                self._started[command.placement_id] = command
            elif isinstance(command, StopReplica):
                self._stop_kinds[command.placement_id] = command.kind
        for row in report.replicas:
            order = self._started.get(row.placement_id)
            if order is None or order.workload not in self._workloads:
                continue
            if row.phase is ReplicaPhase.RUNNING:
                self._begins(order, row.at_s)
            else:
                self._ends(order, row.phase, row.at_s)
        until_s = report.meters[0].until_s if report.meters else 0
        self._until_s = max(self._until_s, until_s)
        if until_s >= self._next_s and until_s <= self._end_s:
            self._measure(until_s)
            self._next_s = until_s + self._every_s

    def result(self) -> LatencyMeasured:
        """What was measured so far, per class and per site."""
        classes = [self._class_row(class_id, i) for class_id, i in sorted(self._classes.items())]
        p99 = [_quantile_ms(bins, 0.99) for bins in self._site_bins]
        return LatencyMeasured(
            classes=tuple(row for row in classes if row.sample_count),
            site_p99_ms={s.site_id: v for s, v in zip(self._fleet.sites, p99, strict=True) if v is not None},
        )

    def request_share_inside(self) -> dict[str, float]:
        """Share of requests inside their flow's limit, per class (a p99 budget asks for 0.99)."""
        return {
            class_id: self._tallies[i].requests_inside / self._tallies[i].requests
            for class_id, i in sorted(self._classes.items())
            if self._tallies[i].requests
        }

    # ------------------------------------------------------------------------------------------ following
    def _begins(self, order: StartReplica, at_s: int) -> None:
        workload = self._workloads[order.workload]
        tally = self._tallies[self._classes[workload.workload_class]]
        key = _replica_key(order)
        gone_s = self._gone.pop(key, None)
        if gone_s is not None:
            tally.outage_s += self._missed_s(order.workload, gone_s, at_s)
        self._running.add(order.placement_id)
        self._copies[key] += 1
        self._count(order, workload, +1)
        sites, place = self._stage_sites[order.workload, order.stage_id], self._place(order)
        sites[place] = sites.get(place, 0) + 1

    def _ends(self, order: StartReplica, phase: ReplicaPhase, at_s: int) -> None:
        """An end; only what had begun is counted. A service is out once no copy of its replica runs any more."""
        workload = self._workloads[order.workload]
        del self._started[order.placement_id]
        stop_kind = self._stop_kinds.pop(order.placement_id, None)
        if order.placement_id not in self._running:
            return
        self._running.remove(order.placement_id)
        self._stage_sites[order.workload, order.stage_id][self._place(order)] -= 1
        self._count(order, workload, -1)
        key = _replica_key(order)
        self._copies[key] -= 1
        is_missed = phase is ReplicaPhase.LOST or (
            phase is ReplicaPhase.STOPPED and stop_kind not in MEANT_STOPS
        )
        if is_missed and order.is_service and not self._copies[key]:
            self._gone[key] = at_s

    def _missed_s(self, workload: str, gone_s: int, back_s: int) -> int:
        """Seconds of [gone, back) within the day and before its owner took the workload back."""
        last_s = min(back_s, self._end_s, self._cancelled_s.get(workload, self._end_s))
        return max(0, last_s - gone_s)

    def _still_missed_s(self, class_id: str) -> int:
        """Seconds so far of the services of a class that are out now."""
        return sum(
            self._missed_s(name, gone_s, self._until_s)
            for (name, _, _), gone_s in self._gone.items()
            if self._workloads[name].workload_class == class_id
        )

    def _place(self, order: StartReplica) -> tuple[int, str]:
        """(site, what it computes on): a GPU model, or `cpu` for a replica without GPU."""
        model = self._model_of[order.site_id, order.group_id] if order.gpu_milli else "cpu"
        return self._site_index[order.site_id], model

    def _mix_index(self, access_id: str, zone_id: str) -> int:
        """Index of the access mix of a flow: its own profile, or that of the zone's users."""
        mix = {access_id: 1.0} if access_id else self._zones[zone_id].access_mix
        return self._mixes.setdefault(tuple(mix.items()), len(self._mixes))

    def _count(self, order: StartReplica, workload: Workload, change: int) -> None:
        for i, flow in enumerate(workload.flows):
            zone_id = _zone_of(flow, order.stage_id)
            if zone_id is None:
                continue
            site, model = self._place(order)
            key = (order.workload, order.stage_id, i, site, model)
            row = self._leg_rows.get(key)
            if row is None:
                room_ms = _room_of_short_paths(workload, order.stage_id, zone_id, model)
                row = self._leg_rows[key] = self._new_leg(workload, flow, zone_id, site, room_ms)
            self._legs.count[row] += change

    def _new_leg(self, workload: Workload, flow: Flow, zone_id: str, site: int, room_ms: float) -> int:
        legs = self._legs
        legs.zone.append(self._zone_index[zone_id])
        legs.site.append(site)
        legs.kind.append(2 * self._mix_index(flow.access_id, zone_id) + bool(self._has_upf[site]))
        legs.room_ms.append(room_ms)
        legs.mbps.append(flow.mbps)
        legs.limit_ms.append(math.inf if flow.rtt_p99_max_ms is None else flow.rtt_p99_max_ms)
        legs.work_class.append(self._classes[workload.workload_class])
        legs.workload.append(self._workload_index[workload.name])
        legs.count.append(0)
        return len(legs.count) - 1

    def _class_index(self, class_id: str) -> int:
        if class_id not in self._classes:
            self._classes[class_id] = len(self._classes)
            self._tallies.append(_ClassTally())
            self._class_bins = np.vstack([self._class_bins, np.zeros((1, BIN_COUNT))])
        return self._classes[class_id]

    # ------------------------------------------------------------------------------------------ measuring
    def _measure(self, at_s: int) -> None:
        """1 load the links  2 sample the access  3 compare every leg with its limit  4 tally."""
        hour = int(self._scenario.local_hour(at_s - 1))
        count = np.array(self._legs.count, dtype=np.int64)
        active = np.flatnonzero(count > 0)
        zone, site, kind = (
            np.array(c, dtype=np.int64)[active] for c in (self._legs.zone, self._legs.site, self._legs.kind)
        )
        limit = np.minimum(self._legs.limit_ms, self._legs.room_ms)[active]
        replicas = count[active].astype(np.float64)
        flows = replicas * np.array(self._legs.mbps)[active]
        rtt_ms = self._routes.rtt_ms(self._link_load_frac(zone, site, flows))
        route_ms = rtt_ms[self._zone_end[zone], site]
        samples = self._access_samples(at_s)
        if len(active):
            p99_ms = np.array([_p99(s) for s in samples])[kind] + route_ms
            inside_share = self._inside_share(samples, kind, limit - route_ms)
            work_class, workload = (
                np.array(c, dtype=np.int64)[active] for c in (self._legs.work_class, self._legs.workload)
            )
            self._tally(hour, work_class, workload, p99_ms, limit, inside_share * replicas, replicas)
            self._fill_bins(samples, kind, site, work_class, route_ms, replicas)
        self._measure_graphs(samples, rtt_ms)

    def _link_load_frac(self, zone: I64, site: I64, mbps: F64) -> F64:
        """ρ per link from zone traffic and from traffic between stages."""
        ends = len(self._routes.ends)
        traffic = np.zeros((ends, ends))
        np.add.at(traffic, (self._zone_end[zone], site), mbps)
        for workload in self._graphs.values():
            for flow in workload.flows:
                if _is_between_stages(flow):
                    for a, b, share in self._pairs(workload, flow):
                        traffic[a, b] += flow.mbps * share
        carried = np.tensordot(traffic, self._routes.uses, axes=([0, 1], [0, 1]))
        return np.asarray(carried / self._routes.capacity_mbps)

    def _access_samples(self, at_s: int) -> list[F64]:
        """Sorted samples per kind of access (mix × UPF); kinds are 2·mix + has_upf."""
        rng = np.random.default_rng([self._seed, LATENCY_SEED_TAG, at_s])
        return [
            self._tails.sample(dict(mix), has_upf, SAMPLES_PER_MEASUREMENT, rng)
            for mix in self._mixes
            for has_upf in (False, True)
        ]

    @staticmethod
    def _inside_share(samples: Sequence[F64], kind: I64, room_ms: F64) -> F64:
        """Share of samples that fit in what the route leaves of the limit."""
        share = np.zeros(len(kind))
        for k in np.unique(kind):
            rows = kind == k
            share[rows] = np.searchsorted(samples[k], room_ms[rows], side="right") / len(samples[k])
        return share

    def _tally(
        self, hour: int, work_class: I64, workload: I64, p99_ms: F64, limit: F64, inside: F64, requests: F64
    ) -> None:
        limited = np.isfinite(limit)
        is_inside = p99_ms <= limit
        for c in np.unique(work_class):
            tally, rows = self._tallies[c], (work_class == c) & limited
            if not rows.any():
                continue
            tally.samples += int(rows.sum())
            tally.inside += int((rows & is_inside).sum())
            tally.requests += float(requests[rows].sum())
            tally.requests_inside += float(inside[rows].sum())
            tally.workloads.update(workload[rows].tolist())
            tally.outside.update(workload[rows & ~is_inside].tolist())
            tally.hour_p99_ms[hour] = max(tally.hour_p99_ms[hour] or 0.0, float(p99_ms[rows].max()))

    def _fill_bins(
        self, samples: Sequence[F64], kind: I64, site: I64, work_class: I64, route_ms: F64, replicas: F64
    ) -> None:
        """Add the distribution of every distinct leg to the histograms of its class and its site."""
        grid = np.ceil((np.arange(GRID) + 0.5) / GRID * SAMPLES_PER_MEASUREMENT).astype(int) - 1
        quantiles = np.array([s[grid] for s in samples])
        key = np.stack([work_class, kind, site, np.rint(route_ms * 1e6).astype(np.int64)])
        unique, inverse = np.unique(key, axis=1, return_inverse=True)
        weight = np.bincount(inverse.ravel(), weights=replicas)
        rtt = quantiles[unique[1]] + (unique[3] / 1e6)[:, None]
        bins = np.clip(np.log(rtt / BIN_FIRST_MS) / math.log(BIN_RATIO), 0, BIN_COUNT - 1).astype(np.int64)
        each = np.repeat(weight / GRID, GRID)
        for target, row in ((self._class_bins, unique[0]), (self._site_bins, unique[2])):
            flat = (row[:, None] * BIN_COUNT + bins).ravel()
            target += np.bincount(flat, weights=each, minlength=target.size).reshape(target.shape)

    def _measure_graphs(self, samples: Sequence[F64], rtt_ms: F64) -> None:
        """Stage graphs: RTT of every leg between stages, and every end-to-end budget, at the worst places."""
        for workload in self._graphs.values():
            for flow in workload.flows:
                pairs = self._pairs(workload, flow) if _is_between_stages(flow) else []
                if pairs and flow.rtt_p99_max_ms is not None:
                    worst_ms = max(float(rtt_ms[a, b]) for a, b, _ in pairs)
                    self._tally_one(workload, worst_ms <= flow.rtt_p99_max_ms)
            for path in workload.paths:
                total_ms = self._path_ms(workload, path, samples, rtt_ms)
                if total_ms is not None:
                    self._tally_one(workload, total_ms <= path.budget_ms)

    def _tally_one(self, workload: Workload, is_inside: bool) -> None:
        """One sample without users: a leg between stages or a whole path."""
        tally = self._tallies[self._classes[workload.workload_class]]
        tally.samples += 1
        tally.inside += is_inside
        tally.workloads.add(self._workload_index[workload.name])
        if not is_inside:
            tally.outside.add(self._workload_index[workload.name])

    def _path_ms(
        self, workload: Workload, path: PathBudget, samples: Sequence[F64], rtt_ms: F64
    ) -> float | None:
        """Σ p99 of the legs + Σ declared processing p99, worst places of each; None while a stage does not run."""
        places = [self._places_of(workload, hop) for hop in path.via]
        if not all(places):
            return None
        processing_ms = 0.0
        for hop, where in zip(path.via, places, strict=True):
            if hop.startswith("stages/"):
                declared = workload.stage(hop.removeprefix("stages/")).processing_p99_ms
                processing_ms += max(declared.get(model, 0.0) for _, model in where)
        legs_ms = (
            max(self._leg_p99_ms(workload, a, b, samples, rtt_ms) for a in here for b in there)
            for here, there in pairwise(places)
        )
        return processing_ms + sum(legs_ms)

    def _places_of(self, workload: Workload, hop: str) -> list[tuple[int, str]]:
        """(end, model) where a hop of a path is: the zone's access point, or the sites of a stage."""
        part, name = hop.split("/")
        if part == "zones":
            return [(int(self._zone_end[self._zone_index[name]]), hop)]
        owner = workload.stage(name).shared_with or workload.name
        return [place for place, n in self._stage_sites[owner, name].items() if n > 0]

    def _leg_p99_ms(
        self,
        workload: Workload,
        a: tuple[int, str],
        b: tuple[int, str],
        samples: Sequence[F64],
        rtt_ms: F64,
    ) -> float:
        """p99 RTT of one leg of a path; access is added where one end is a zone."""
        route_ms = float(rtt_ms[a[0], b[0]])
        zones = _zones_in((a[1], b[1]))
        if not zones:
            return route_ms
        site = b[0] if a[1].startswith("zones/") else a[0]
        access_id = next(
            (f.access_id for f in workload.flows if _zones_in((f.source, f.target)) == zones), ""
        )
        kind = 2 * self._mix_index(access_id, zones[0]) + bool(self._has_upf[site])
        return route_ms + _p99(samples[kind])

    def _pairs(self, workload: Workload, flow: Flow) -> list[tuple[int, int, float]]:
        """(site, site, replicas per pair) of a flow between stages; a shared stage is where its owner runs."""
        source, target = (
            self._sites_of(workload, end.removeprefix("stages/")) for end in (flow.source, flow.target)
        )
        return [(a, b, n / len(target)) for a, n in source.items() for b in target]

    def _sites_of(self, workload: Workload, stage_id: str) -> dict[int, int]:
        sites: dict[int, int] = defaultdict(int)
        owner = workload.stage(stage_id).shared_with or workload.name
        for (site, _), n in self._stage_sites[owner, stage_id].items():
            if n > 0:
                sites[site] += n
        return dict(sites)

    def _class_row(self, class_id: str, i: int) -> ClassLatency:
        tally = self._tallies[i]
        return ClassLatency(
            workload_class=class_id,
            is_hard=tally.is_hard,
            budget_ms=tally.budget_ms,
            p99_ms=_quantile_ms(self._class_bins[i], 0.99) or 0.0,
            workload_count=len(tally.workloads),
            outside_count=len(tally.outside),
            sample_count=tally.samples,
            inside_frac=tally.inside / tally.samples if tally.samples else 1.0,
            outage_min=(tally.outage_s + self._still_missed_s(class_id)) / SECONDS_PER_MINUTE,
            hour_p99_ms=tuple(tally.hour_p99_ms),
        )


def _replica_key(order: StartReplica) -> tuple[str, str, int]:
    """What all copies of one replica share, whichever of them runs."""
    return order.workload, order.stage_id, order.replica_index


def _quantile_ms(bins: F64, quantile: float) -> float | None:
    """Upper edge of the bin that holds the quantile; None while nothing was measured."""
    total = float(bins.sum())
    if total <= 0:
        return None
    reached = int(np.searchsorted(np.cumsum(bins), quantile * total, side="left"))
    return float(BIN_FIRST_MS * BIN_RATIO ** (min(reached, BIN_COUNT - 1) + 1))


def _p99(sorted_ms: F64) -> float:
    """99th percentile of sorted samples."""
    return float(sorted_ms[math.ceil(0.99 * len(sorted_ms)) - 1])


def _zones_in(ends: Iterable[str]) -> list[str]:
    """Zone ids among the ends of a flow."""
    return [end.removeprefix("zones/") for end in ends if end.startswith("zones/")]


def _room_of_short_paths(workload: Workload, stage_id: str, zone_id: str, model: str) -> float:
    """What the budgets of paths zone → stage leave for the network, after processing on that model."""
    ends = {f"zones/{zone_id}", f"stages/{stage_id}"}
    budgets = [p.budget_ms for p in workload.paths if len(p.via) == 2 and set(p.via) == ends]
    processing_ms = workload.stage(stage_id).processing_p99_ms.get(model, 0.0)
    return min(budgets, default=math.inf) - processing_ms


def _is_between_stages(flow: Flow) -> bool:
    return flow.source.startswith("stages/") and flow.target.startswith("stages/")


def _zone_of(flow: Flow, stage_id: str) -> str | None:
    """The zone at the other end of a flow that touches this stage; None for flows between stages or of other stages."""
    ends = (flow.source, flow.target)
    if f"stages/{stage_id}" not in ends:
        return None
    return next((end.removeprefix("zones/") for end in ends if end.startswith("zones/")), None)
