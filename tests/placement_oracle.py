"""What must hold of every log, and what is placeable at all: recomputed from documents, without the planner's code.

`violations_of(city)` replays the orders of a log over the fleet document and names every broken rule.
`could_place(...)` enumerates all ways to put waiting replicas on nodes of a tiny fleet, with some rules dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from suanli.model import Event, EventKind, Fleet, Flow, NodeGroup, Site, Stage, Workload
from tests.builders import City

EPS = 1e-6
NodeKey = tuple[str, str, int]


# ---------------------------------------------------------------------- the network, by Floyd and Warshall


@dataclass
class Paths:
    """RTT at the planning load between all vertices, from the link list alone."""

    fleet: Fleet
    rtt_ms: dict[tuple[str, str], float] = field(default_factory=dict)
    route: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = self.fleet.network
        vertices = [s.site_id for s in self.fleet.sites] + list(n.hubs)
        queue_ms = n.queue_tau_ms * n.planning_load_frac / (1 - n.planning_load_frac)
        for v in vertices:
            self.rtt_ms[v, v], self.route[v, v] = 0.0, []
        for link in n.links:
            rtt = n.hop_rtt_ms * link.hop_count + n.km_rtt_ms * link.length_km + link.extra_rtt_ms + queue_ms
            for a, b in (link.ends, link.ends[::-1]):
                if rtt < self.rtt_ms.get((a, b), math.inf):
                    self.rtt_ms[a, b], self.route[a, b] = rtt, [link.link_id]
        for k in vertices:
            for a in vertices:
                for b in vertices:
                    through = self.rtt_ms.get((a, k), math.inf) + self.rtt_ms.get((k, b), math.inf)
                    if through < self.rtt_ms.get((a, b), math.inf) - 1e-12:
                        self.rtt_ms[a, b] = through
                        self.route[a, b] = self.route[a, k] + self.route[k, b]

    def between(self, a: str, b: str) -> float:
        """Site to site."""
        return self.rtt_ms.get((a, b), math.inf)

    def leg(self, zone_id: str, access_id: str, site_id: str) -> float:
        """p99 from users of a zone to a site."""
        n = self.fleet.network
        zone = next(z for z in self.fleet.zones if z.zone_id == zone_id)
        site = self.fleet.site(site_id)
        profiles = {a.access_id: a for a in n.access}
        slowest = max(zone.access_mix, key=lambda a: profiles[a].rtt_p99_ms, default="")
        profile = profiles.get(access_id or slowest)
        tail = n.km_rtt_ms * math.dist(n.hubs[zone.hub_id], (zone.x_km, zone.y_km))
        total = self.rtt_ms.get((zone.hub_id, site_id), math.inf) + tail
        if profile is None:
            return total
        return (
            total + profile.rtt_p99_ms + (n.hairpin_p99_ms if profile.via_upf and not site.has_upf else 0.0)
        )


def labels_hold(stage: Stage, site: Site) -> bool:
    """Residency and trust."""
    own = {
        "kind": site.kind.value,
        "host_kind": site.host_kind.value,
        "upf": str(site.has_upf).lower(),
        **site.labels,
    }
    return not stage.require_any or any(
        all(own.get(k) == v for k, v in alternative.items()) for alternative in stage.require_any
    )


def legs_of(workload: Workload, stage_id: str) -> Iterator[tuple[str, Flow]]:
    """(zone, flow) of a stage's flows to zones."""
    for f in workload.flows:
        if f"stages/{stage_id}" in (f.source, f.target):
            other = f.target if f.source == f"stages/{stage_id}" else f.source
            if other.startswith("zones/"):
                yield other.removeprefix("zones/"), f


def processing_ms(stage: Stage, group: NodeGroup) -> float:
    """p99 of a stage on a group; a model left out counts like the slowest."""
    if not stage.processing_p99_ms:
        return 0.0
    key = group.gpu_model if stage.gpu_milli else "cpu"
    return stage.processing_p99_ms.get(key, max(stage.processing_p99_ms.values()))


def path_ms(
    workload: Workload, via: tuple[str, ...], at: dict[str, tuple[str, NodeGroup]], paths: Paths
) -> float:
    """Σ legs + Σ processing along a path, stages lying as in `at` (site, group)."""
    total = 0.0
    for here, there in pairwise(via):
        stages = [e.removeprefix("stages/") for e in (here, there) if e.startswith("stages/")]
        if len(stages) == 2:
            total += paths.between(at[stages[0]][0], at[stages[1]][0])
        elif stages:
            zone = (here if here.startswith("zones/") else there).removeprefix("zones/")
            access = next((f.access_id for z, f in legs_of(workload, stages[0]) if z == zone), "")
            total += paths.leg(zone, access, at[stages[0]][0])
    for hop in via:
        if hop.startswith("stages/"):
            stage = workload.stage(hop.removeprefix("stages/"))
            total += processing_ms(stage, at[stage.stage_id][1])
    return total


def _newest(commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last order of each replica: stages that move change over together, so old and new places never mix."""
    return list({c["replica_index"]: c for c in commands}.values())


# ---------------------------------------------------------------------- a log replayed


@dataclass
class _Node:
    cpu_milli: int
    memory_mib: int
    storage_gib: int
    gpu_milli: list[int]


class _Replay:
    """What lies where, and every rule broken on the way."""

    def __init__(self, fleet: Fleet, workloads: dict[str, Workload]) -> None:
        self.fleet, self.workloads, self.paths = fleet, workloads, Paths(fleet)
        self.groups = {(s.site_id, g.group_id): g for s in fleet.sites for g in s.groups}
        self.nodes: dict[NodeKey, _Node] = {
            (site, group, i): _Node(g.cpu_milli, g.memory_mib, g.storage_gib, [1000] * g.gpu_count)
            for (site, group), g in self.groups.items()
            for i in range(g.node_count)
        }
        self.open: dict[str, dict[str, Any]] = {}
        self.down: set[str] = set()
        self.cordoned: set[str] = set()
        self.done: set[str] = set()
        self.broken: list[str] = []

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self.broken.append(what)

    def event(self, e: Event) -> None:
        if e.kind is EventKind.REPLICA_START_ORDERED:
            self._start(e.subject, e.body["command"])
        elif e.kind is EventKind.REPLICA_STOP_ORDERED:
            self._free(e.subject)
        elif e.kind is EventKind.REPLICA_ENDED:
            self._free(e.subject)
            name, stage_id = e.subject.rsplit("/", 2)[0], e.subject.split("/")[4]
            if e.body["phase"] in ("succeeded", "failed") and self.workloads[name].stage(stage_id).duration_s:
                self.done.add(e.subject.split("#")[0])
        elif e.kind is EventKind.SITE_DOWN:
            self.down.add(e.subject.removeprefix("sites/"))
        elif e.kind is EventKind.SITE_UP:
            self.down.discard(e.subject.removeprefix("sites/"))
        elif e.kind is EventKind.SITE_CORDONED and e.body["node_index"] < 0:
            (self.cordoned.add if e.body["cordoned"] else self.cordoned.discard)(
                e.subject.removeprefix("sites/")
            )

    def _start(self, placement_id: str, c: dict[str, Any]) -> None:
        workload = self.workloads[c["workload"]]
        stage = workload.stage(c["stage_id"])
        key = (c["site_id"], c["group_id"], c["node_index"])
        self.check(key in self.nodes, f"{placement_id}: no node {key}")
        self.check(placement_id not in self.open, f"{placement_id}: ordered twice")
        self.check(c["site_id"] not in self.down | self.cordoned, f"{placement_id}: {c['site_id']} is shut")
        self._take(placement_id, c, stage, key)
        self._site_rules(placement_id, workload, stage, c["site_id"])
        self.open[placement_id] = c

    def _take(self, placement_id: str, c: dict[str, Any], stage: Stage, key: NodeKey) -> None:
        node, group = self.nodes[key], self.groups[key[:2]]
        wanted = stage.gpu_milli.get(group.gpu_model, 0)
        self.check(
            (c["cpu_milli"], c["memory_mib"], c["gpu_milli"]) == (stage.cpu_milli, stage.memory_mib, wanted),
            f"{placement_id}: takes other amounts than asked for",
        )
        self.check(not stage.gpu_milli or wanted > 0, f"{placement_id}: model {group.gpu_model} not accepted")
        self.check(
            not wanted or group.gpu_memory_mib >= stage.gpu_memory_mib,
            f"{placement_id}: GPU memory too small",
        )
        self.check(
            len(set(c["gpu_ids"])) == math.ceil(wanted / 1000), f"{placement_id}: devices {c['gpu_ids']}"
        )
        node.cpu_milli -= stage.cpu_milli
        node.memory_mib -= stage.memory_mib
        node.storage_gib -= stage.storage_gib
        for g in c["gpu_ids"]:
            node.gpu_milli[g] -= wanted // len(c["gpu_ids"])
        self.check(
            min(node.cpu_milli, node.memory_mib, node.storage_gib, *node.gpu_milli, 0) >= 0,
            f"{placement_id}: node {key} holds more than it has",
        )

    def _free(self, placement_id: str) -> None:
        c = self.open.pop(placement_id, None)
        if c is None:
            return
        node = self.nodes[c["site_id"], c["group_id"], c["node_index"]]
        stage = self.workloads[c["workload"]].stage(c["stage_id"])
        node.cpu_milli += c["cpu_milli"]
        node.memory_mib += c["memory_mib"]
        node.storage_gib += stage.storage_gib
        for g in c["gpu_ids"]:
            node.gpu_milli[g] += c["gpu_milli"] // len(c["gpu_ids"])

    def _site_rules(self, placement_id: str, workload: Workload, stage: Stage, site_id: str) -> None:
        site = self.fleet.site(site_id)
        self.check(labels_hold(stage, site), f"{placement_id}: labels of {site_id}")
        self.check(not stage.site_ids or site_id in stage.site_ids, f"{placement_id}: {site_id} is not named")
        for zone_id, flow in legs_of(workload, stage.stage_id):
            limit = math.inf if flow.rtt_p99_max_ms is None else flow.rtt_p99_max_ms
            rtt = self.paths.leg(zone_id, flow.access_id, site_id)
            self.check(rtt <= limit + EPS, f"{placement_id}: {rtt:g} ms to {zone_id}, limit {limit:g}")

    # ------------------------------------------------------------ rules over several placements

    def settled(self) -> None:
        """After a commit: gangs, spreads, pipelines, power and links of everything that lies somewhere."""
        by_stage: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for c in self.open.values():
            by_stage.setdefault((c["workload"], c["stage_id"]), []).append(c)
        for (name, stage_id), commands in by_stage.items():
            self._whole(name, self.workloads[name].stage(stage_id), commands)
        for name in {n for n, _ in by_stage}:
            self._pipeline(
                self.workloads[name], {s: c for (n, s), c in by_stage.items() if n == name}, by_stage
            )
        self._power()
        self._links(by_stage)

    def _whole(self, name: str, stage: Stage, commands: list[dict[str, Any]]) -> None:
        alive = [i for i in range(stage.replicas) if f"{name}/{stage.stage_id}/{i}" not in self.done]
        if stage.gang:
            # a gang that moves runs in its old place, whole, until all of it runs in the new one
            commands = sorted(commands, key=lambda c: int(c["placement_id"].rpartition("#")[2]))
            newest = {c["replica_index"]: c for c in commands}
            older = [c for c in commands if newest[c["replica_index"]] is not c]
            self.check(sorted(newest) == alive, f"{name}: a part of its gang runs")
            self.check(
                sorted(c["replica_index"] for c in older) in ([], alive), f"{name}: a part of its gang stays"
            )
            for together in (list(newest.values()), older):
                self.check(
                    len({c["site_id"] for c in together}) <= 1, f"{name}: its gang is on several sites"
                )
            self._islands(name, stage, commands)
        if stage.spread is not None and len(commands) == stage.replicas:
            domains = {
                c["site_id"]
                if stage.spread.over == "site"
                else (c["site_id"], c["group_id"], c["node_index"])
                for c in commands
            }
            self.check(len(domains) >= stage.spread.min_domains, f"{name}: on {len(domains)} domains")

    def _islands(self, name: str, stage: Stage, commands: list[dict[str, Any]]) -> None:
        group = self.groups[commands[0]["site_id"], commands[0]["group_id"]]
        size = group.island_node_count or group.node_count
        per_node = most_per_node(stage, group)
        if commands[0]["gang_size"] <= per_node * size:
            used = {c["node_index"] // size for c in commands}
            self.check(len(used) == 1, f"{name}: its gang spans islands {used} and would fit in one")

    def _pipeline(
        self,
        workload: Workload,
        own: dict[str, list[dict[str, Any]]],
        every: dict[tuple[str, str], list[dict[str, Any]]],
    ) -> None:
        if len(workload.stages) == 1 and not workload.paths:
            return
        lies = dict(own)
        for s in workload.stages:
            if s.shared_with is not None:
                lies[s.stage_id] = every.get((s.shared_with, s.stage_id), [])
        if any(not lies.get(s.stage_id) for s in workload.stages):
            return
        if len(workload.stages) > 1:
            lies = {stage_id: _newest(commands) for stage_id, commands in lies.items()}
        for at in self._combinations(workload, lies):
            for s in workload.stages:
                if s.colocate_with is not None:
                    same = at[s.stage_id][0] == at[s.colocate_with][0]
                    self.check(same, f"{workload.name}: {s.stage_id} is not beside {s.colocate_with}")
            for f in workload.flows:
                if "zones/" not in f.source + f.target and f.rtt_p99_max_ms is not None:
                    a, b = (at[e.removeprefix("stages/")][0] for e in (f.source, f.target))
                    self.check(
                        self.paths.between(a, b) <= f.rtt_p99_max_ms + EPS, f"{workload.name}: flow {a}-{b}"
                    )
            for p in workload.paths:
                total = path_ms(workload, p.via, at, self.paths)
                self.check(
                    total <= p.budget_ms + EPS, f"{workload.name}: path {total:g} over {p.budget_ms:g}"
                )

    def _combinations(
        self, workload: Workload, lies: dict[str, list[dict[str, Any]]]
    ) -> Iterator[dict[str, tuple[str, NodeGroup]]]:
        """The stages' sites, each replica of a spread-out stage on its own."""
        first = {
            k: (v[0]["site_id"], self.groups[v[0]["site_id"], v[0]["group_id"]]) for k, v in lies.items()
        }
        for stage_id, commands in lies.items():
            for c in commands:
                yield {**first, stage_id: (c["site_id"], self.groups[c["site_id"], c["group_id"]])}

    def _power(self) -> None:
        for site in self.fleet.sites:
            here = [c for c in self.open.values() if c["site_id"] == site.site_id]
            on = {(c["group_id"], c["node_index"]) for c in here}
            watts = sum(self.groups[site.site_id, g].idle_w for g, _ in on)
            for c in here:
                group = self.groups[site.site_id, c["group_id"]]
                watts += c["utilization_frac"] * (
                    c["gpu_milli"] / 1000 * group.gpu_dynamic_w + c["cpu_milli"] / 1000 * group.core_dynamic_w
                )
            self.check(
                watts <= site.power_limit_kw * 1000 + EPS,
                f"{site.site_id}: {watts:g} W over {site.power_limit_kw} kW",
            )

    def _links(self, by_stage: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
        load: dict[str, float] = {}
        for c in self.open.values():
            for zone_id, flow in legs_of(self.workloads[c["workload"]], c["stage_id"]):
                hub = next(z.hub_id for z in self.fleet.zones if z.zone_id == zone_id)
                for link in self.paths.route.get((hub, c["site_id"]), []):
                    load[link] = load.get(link, 0.0) + flow.mbps
        for name in {n for n, _ in by_stage}:
            for f in self.workloads[name].flows:
                if "zones/" in f.source + f.target:
                    continue
                ends = [
                    self._site_of_stage(name, e.removeprefix("stages/"), by_stage)
                    for e in (f.source, f.target)
                ]
                if ends[0] and ends[1]:
                    for link in self.paths.route.get((ends[0], ends[1]), []):
                        load[link] = load.get(link, 0.0) + f.mbps
        n = self.fleet.network
        for line in n.links:
            most, mbps = n.planning_load_frac * line.capacity_gbps * 1000, load.get(line.link_id, 0.0)
            self.check(mbps <= most + 1e-3, f"{line.link_id}: {mbps:g} Mbps over {most:g}")

    def _site_of_stage(
        self, name: str, stage_id: str, by_stage: dict[tuple[str, str], list[dict[str, Any]]]
    ) -> str | None:
        owner = self.workloads[name].stage(stage_id).shared_with or name
        commands = by_stage.get((owner, stage_id))
        return commands[0]["site_id"] if commands else None


def violations_of(city: City, settle: bool = True) -> list[str]:
    """Every rule that the log of a city breaks; joint rules are looked at after each round."""
    replay = _Replay(city.fleet, city.workloads)
    for e in city.log:
        replay.event(e)
        if settle and e.kind is EventKind.ROUND_COMMITTED:
            replay.settled()
    return replay.broken


def most_per_node(stage: Stage, group: NodeGroup) -> int:
    """Replicas that an empty node holds."""
    most = [10**6]
    if stage.cpu_milli:
        most.append(group.cpu_milli // stage.cpu_milli)
    if stage.memory_mib:
        most.append(group.memory_mib // stage.memory_mib)
    if stage.storage_gib:
        most.append(group.storage_gib // stage.storage_gib)
    if stage.gpu_milli:
        need = stage.gpu_milli.get(group.gpu_model, 0)
        if not need:
            return 0
        most.append(group.gpu_count * (1000 // need) if need <= 1000 else group.gpu_count // (need // 1000))
    return min(most)


# ---------------------------------------------------------------------- enumeration


@dataclass
class Question:
    """Can the waiting replicas of one workload start now, when only `rules` (their words) hold?"""

    fleet: Fleet
    workload: Workload
    waiting: list[tuple[str, int]]
    """(stage id, replica index)."""
    own: dict[tuple[str, int], NodeKey]
    """Its replicas that lie somewhere already."""
    free: dict[NodeKey, _Node]
    shut: set[str]
    rules: frozenset[str]

    def answer(self) -> bool:
        """By trying every node for every replica."""
        self.paths = Paths(self.fleet)
        self.groups = {(s.site_id, g.group_id): g for s in self.fleet.sites for g in s.groups}
        return self._try(0, dict(self.own))

    def _try(self, i: int, lies: dict[tuple[str, int], NodeKey]) -> bool:
        if i == len(self.waiting):
            return self._holds_together(lies)
        stage_id, index = self.waiting[i]
        stage = self.workload.stage(stage_id)
        for key, node in self.free.items():
            if not self._site_ok(stage, key):
                continue
            undo = self._put(stage, key, node)
            if undo is None:
                continue
            lies[stage_id, index] = key
            if self._try(i + 1, lies):
                return True
            del lies[stage_id, index]
            self._take_back(node, undo)
        return False

    def _need_gpu(self, stage: Stage, model: str) -> int | None:
        if not stage.gpu_milli:
            return 0
        if model in stage.gpu_milli:
            return stage.gpu_milli[model]
        if f"{stage.stage_id}: GPU is one of {', '.join(stage.gpu_milli)}" in self.rules or not model:
            return None
        return max(stage.gpu_milli.values())

    def _site_ok(self, stage: Stage, key: NodeKey) -> bool:
        site, group = self.fleet.site(key[0]), self.groups[key[:2]]
        if site.site_id in self.shut and "sites down or cordoned" in self.rules:
            return False
        wanted = " or ".join(
            " and ".join(f"{k}={v}" for k, v in sorted(a.items())) for a in stage.require_any
        )
        if f"{stage.stage_id}: site has {wanted}" in self.rules and not labels_hold(stage, site):
            return False
        if (
            f"{stage.stage_id}: only at {', '.join(stage.site_ids)}" in self.rules
            and key[0] not in stage.site_ids
        ):
            return False
        memory = f"{stage.stage_id}: GPU memory ≥ {stage.gpu_memory_mib} MiB"
        if memory in self.rules and stage.gpu_milli and group.gpu_memory_mib < stage.gpu_memory_mib:
            return False
        for zone_id, f in legs_of(self.workload, stage.stage_id):
            if f.rtt_p99_max_ms is None or self._flow_text(f) not in self.rules:
                continue
            if self.paths.leg(zone_id, f.access_id, key[0]) > f.rtt_p99_max_ms + EPS:
                return False
        return True

    @staticmethod
    def _flow_text(f: Flow) -> str:
        by = f" by {f.access_id}" if f.access_id else ""
        return f"{f.source} ↔ {f.target}{by}: network p99 ≤ {f.rtt_p99_max_ms:g} ms"

    def _put(self, stage: Stage, key: NodeKey, node: _Node) -> tuple[Stage, list[int], int] | None:
        need = self._need_gpu(stage, self.groups[key[:2]].gpu_model)
        if need is None or node.cpu_milli < stage.cpu_milli or node.memory_mib < stage.memory_mib:
            return None
        if node.storage_gib < stage.storage_gib:
            return None
        devices: list[int] = []
        if need >= 1000:
            devices = [g for g, free in enumerate(node.gpu_milli) if free == 1000][: need // 1000]
            if len(devices) < need // 1000:
                return None
        elif need:
            room = [g for g, free in enumerate(node.gpu_milli) if free >= need]
            if not room:
                return None
            devices = [min(room, key=lambda g: (node.gpu_milli[g], g))]
        node.cpu_milli -= stage.cpu_milli
        node.memory_mib -= stage.memory_mib
        node.storage_gib -= stage.storage_gib
        for g in devices:
            node.gpu_milli[g] -= need // len(devices)
        return stage, devices, need

    @staticmethod
    def _take_back(node: _Node, undo: tuple[Stage, list[int], int]) -> None:
        stage, devices, need = undo
        node.cpu_milli += stage.cpu_milli
        node.memory_mib += stage.memory_mib
        node.storage_gib += stage.storage_gib
        for g in devices:
            node.gpu_milli[g] += need // len(devices)

    def _holds_together(self, lies: dict[tuple[str, int], NodeKey]) -> bool:
        for stage in self.workload.stages:
            keys = [k for (s, _), k in lies.items() if s == stage.stage_id]
            gang = f"{stage.stage_id}: all {stage.replicas} together on one site"
            if gang in self.rules and stage.gang:
                if len({k[:2] for k in keys}) > 1:
                    return False
                group = self.groups[keys[0][:2]]
                size = group.island_node_count or group.node_count
                fits_one = len(keys) <= most_per_node(stage, group) * size
                if fits_one and len({k[2] // size for k in keys}) > 1:
                    return False
            if stage.spread is not None:
                text = f"{stage.stage_id}: on at least {stage.spread.min_domains} {stage.spread.over}s"
                domains = {k[0] if stage.spread.over == "site" else k for k in keys}
                if text in self.rules and len(domains) < stage.spread.min_domains:
                    return False
            beside = f"{stage.stage_id}: beside {stage.colocate_with}"
            if stage.colocate_with is not None and beside in self.rules:
                others = {k[0] for (s, _), k in lies.items() if s == stage.colocate_with}
                if {k[0] for k in keys} != others:
                    return False
        return self._paths_hold(lies)

    def _paths_hold(self, lies: dict[tuple[str, int], NodeKey]) -> bool:
        at = {s: (k[0], self.groups[k[:2]]) for (s, _), k in lies.items()}
        if len(self.workload.stages) > 1:
            sites = {k[0] for k in lies.values()}
            if len(sites) > 2 or any(
                len({k[0] for (s, _), k in lies.items() if s == stage.stage_id}) > 1
                for stage in self.workload.stages
            ):
                return False
        for f in self.workload.flows:
            if (
                "zones/" in f.source + f.target
                or f.rtt_p99_max_ms is None
                or self._flow_text(f) not in self.rules
            ):
                continue
            a, b = (at[e.removeprefix("stages/")][0] for e in (f.source, f.target))
            if self.paths.between(a, b) > f.rtt_p99_max_ms + EPS:
                return False
        for p in self.workload.paths:
            if f"path {p.path_id} ≤ {p.budget_ms:g} ms" in self.rules:
                for (stage_id, _), key in lies.items():
                    here = {**at, stage_id: (key[0], self.groups[key[:2]])}
                    if path_ms(self.workload, p.via, here, self.paths) > p.budget_ms + EPS:
                        return False
        return True


def ask(city: City, name: str, rules: frozenset[str]) -> bool:
    """Whether what waits of a workload could start now under only these rules, read from the city's log."""
    replay = _Replay(city.fleet, city.workloads)
    for e in city.log:
        replay.event(e)
    workload = city.workloads[name]
    own: dict[tuple[str, int], NodeKey] = {
        (c["stage_id"], c["replica_index"]): (c["site_id"], c["group_id"], c["node_index"])
        for c in replay.open.values()
        if c["workload"] == name
    }
    waiting = [
        (s.stage_id, i)
        for s in workload.stages
        for i in range(s.replicas)
        if (s.stage_id, i) not in own and f"{name}/{s.stage_id}/{i}" not in replay.done
    ]
    if "capacity in use by other work" not in rules:
        for placement_id, c in list(replay.open.items()):
            if c["workload"] != name:
                replay._free(placement_id)
    return Question(
        city.fleet, workload, waiting, own, replay.nodes, replay.down | replay.cordoned, rules
    ).answer()
