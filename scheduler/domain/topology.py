"""Topology: the fleet as arrays: node tables, RTT matrices and link routes, made once per fleet revision.

Leg p99s add (declared conservative): access p99 of the zone's profile, fibre and hops, each link queueing at the
planning load; mobile access reaches a site without a local UPF by the city hairpin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from scheduler.domain.limits import fleet_in_force, floors_in_force
from suanli.model import AccessProfile, Fleet, Link, Policy, Site, SiteKind, Zone
from suanli.model.units import MBPS_PER_GBPS, W_PER_KW, local_time

RESOURCES = ("cpu_milli", "memory_mib", "gpu_milli", "storage_gib")
NO_PREDECESSOR = -9999


@dataclass(frozen=True)
class Topology:
    """Arrays over S sites, G node groups, N nodes, V network vertices (sites, then hubs), L links."""

    fleet: Fleet
    """With the caps and power limits that hold under the policy."""
    registered: Fleet
    """As the operator registered it."""
    site_reserved_floor_frac: NDArray[np.float64]
    """(S,) share of each node group that the policy keeps free for public services."""
    site_ids: tuple[str, ...]
    site_index: dict[str, int]
    group_ids: tuple[tuple[str, str], ...]
    group_index: dict[tuple[str, str], int]
    group_site: NDArray[np.int64]
    group_node_count: NDArray[np.int64]
    group_first_node: NDArray[np.int64]
    group_capacity: NDArray[np.int64]
    """(G, R) of one node."""
    group_gpu_model: tuple[str, ...]
    group_gpu_count: NDArray[np.int64]
    group_gpu_memory_mib: NDArray[np.int64]
    group_idle_w: NDArray[np.float64]
    group_gpu_w: NDArray[np.float64]
    group_core_w: NDArray[np.float64]
    group_island_nodes: NDArray[np.int64]
    node_group: NDArray[np.int64]
    node_site: NDArray[np.int64]
    site_is_edge: NDArray[np.bool_]
    rtt_vertex_ms: NDArray[np.float64]
    """(V, V) RTT at the planning load."""
    predecessors: NDArray[np.int32]
    vertex_index: dict[str, int]
    link_of_edge: dict[tuple[int, int], int]
    link_capacity_mbps: NDArray[np.float64]

    @property
    def site_count(self) -> int:
        """Number of sites."""
        return len(self.site_ids)

    @property
    def node_count(self) -> int:
        """Number of nodes of all sites."""
        return int(self.node_group.size)

    @cached_property
    def zones(self) -> dict[str, Zone]:
        """Zones by id."""
        return {z.zone_id: z for z in self.fleet.zones}

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Sites in axis order."""
        return self.fleet.sites

    @cached_property
    def site_site_rtt_ms(self) -> NDArray[np.float64]:
        """(S, S) network p99 RTT between sites; 0 within a site."""
        n = self.site_count
        return self.rtt_vertex_ms[:n, :n]

    def local_time(self, at_s: float) -> str:
        """An instant for people of this fleet, in the zone of its first tariff, which is named."""
        return local_time(at_s, self.fleet.utc_offset_hours)

    @cached_property
    def lowest_price_yuan_per_kwh(self) -> NDArray[np.float64]:
        """(12, 24) by month and UTC hour: the lowest tariff of any site, its mark-up included."""
        tariffs = {t.tariff_id: t for t in self.fleet.tariffs}
        by_site = [
            [
                np.roll(tariff.price_yuan_per_kwh_by_month[month], -tariff.utc_offset_hours)
                * (1.0 + site.price_markup_frac)
                for month in range(1, 13)
            ]
            for site in self.sites
            for tariff in (tariffs[site.tariff_id],)
        ]
        return np.asarray(np.min(by_site, axis=0))

    @cached_property
    def gpu_models(self) -> tuple[str, ...]:
        """All GPU models installed anywhere, sorted."""
        return tuple(sorted({m for m in self.group_gpu_model if m}))

    @cached_property
    def site_labels(self) -> tuple[dict[str, str], ...]:
        """Per site its labels with what the model itself implies: kind, host kind, local UPF."""
        return tuple(
            {
                "kind": s.kind.value,
                "host_kind": s.host_kind.value,
                "upf": "true" if s.has_upf else "false",
                **s.labels,
            }
            for s in self.sites
        )

    @cached_property
    def sites_with_label(self) -> dict[tuple[str, str], NDArray[np.bool_]]:
        """(key, value) → (S,) sites that carry the label."""
        every = sorted({item for labels in self.site_labels for item in labels.items()})
        return {(k, v): np.array([labels.get(k) == v for labels in self.site_labels]) for k, v in every}

    @cached_property
    def access_profiles(self) -> dict[str, AccessProfile]:
        """Access profiles by id."""
        return {a.access_id: a for a in self.fleet.network.access}

    @cached_property
    def node_capacity(self) -> NDArray[np.int64]:
        """(N, R) installed on each node."""
        capacity: NDArray[np.int64] = self.group_capacity[self.node_group]
        return capacity

    @cached_property
    def site_node_count(self) -> NDArray[np.int64]:
        """(S,) nodes of each site."""
        return np.bincount(self.node_site, minlength=self.site_count)

    @cached_property
    def power_limit_w(self) -> NDArray[np.float64]:
        """(S,) limit of IT power."""
        return np.array([s.power_limit_kw * W_PER_KW for s in self.sites])

    @cached_property
    def own_power_limit_w(self) -> NDArray[np.float64]:
        """(S,) limit of IT power that the room itself sets, whatever the policy says."""
        return np.array([s.power_limit_kw * W_PER_KW for s in self.registered.sites])

    @cached_property
    def reserved_floor_frac(self) -> NDArray[np.float64] | None:
        """(G,) floor of each group; None when the policy reserves nothing anywhere."""
        floor: NDArray[np.float64] = self.site_reserved_floor_frac[self.group_site]
        return floor if floor.any() else None

    @cached_property
    def fleet_capacity(self) -> NDArray[np.float64]:
        """(3,) installed cpu_milli, memory_mib and gpu_milli of all nodes; never 0."""
        installed: NDArray[np.float64] = np.maximum(self.node_capacity[:, :3].sum(axis=0), 1).astype(float)
        return installed

    @cached_property
    def link_spare_mbps(self) -> NDArray[np.float64]:
        """(L,) what plans may load on each link: its capacity at the planning load."""
        spare: NDArray[np.float64] = self.fleet.network.planning_load_frac * self.link_capacity_mbps
        return spare

    @cached_property
    def hub_routes(self) -> dict[str, NDArray[np.float64]]:
        """hub id → (S, L) 1 where the route from the hub to a site uses the link; 0 everywhere without a route."""
        return {hub: self._routes_from(hub) for hub in self.fleet.network.hubs}

    @cached_property
    def site_routes(self) -> NDArray[np.float64]:
        """(S, S, L) 1 where the route between two sites uses the link."""
        return np.array([self._routes_from(s) for s in self.site_ids])

    def _routes_from(self, origin: str) -> NDArray[np.float64]:
        routes = np.zeros((self.site_count, len(self.link_capacity_mbps)))
        reach = self.rtt_vertex_ms[self.vertex_index[origin], : self.site_count]
        for site in np.flatnonzero(np.isfinite(reach)):
            routes[site, self.route_links(origin, self.site_ids[site])] = 1.0
        return routes

    @cached_property
    def _leg_cache(self) -> dict[tuple[str, str], NDArray[np.float64]]:
        return {}

    def node_name(self, node: int) -> tuple[str, str, int]:
        """(site id, group id, index within the group) of a node."""
        group = int(self.node_group[node])
        site_id, group_id = self.group_ids[group]
        return site_id, group_id, int(node - self.group_first_node[group])

    def access_of(self, zone_id: str, access_id: str) -> str:
        """The named profile, or the slowest of the zone's mix: a limit must hold for every user of the zone."""
        if access_id:
            return access_id
        mix = self.zones[zone_id].access_mix
        return max(sorted(mix), key=lambda a: self.access_profiles[a].rtt_p99_ms) if mix else ""

    def leg_rtt_p99_ms(self, zone_id: str, access_id: str) -> NDArray[np.float64]:
        """(S,) p99 RTT from users of a zone over an access profile to each site; inf where nothing leads there."""
        known = self._leg_cache.get((zone_id, access_id))
        if known is None:
            known = self._leg_cache[zone_id, access_id] = self._leg_rtt_p99_ms(zone_id, access_id)
        return known

    def _leg_rtt_p99_ms(self, zone_id: str, access_id: str) -> NDArray[np.float64]:
        network = self.fleet.network
        zone = self.zones[zone_id]
        hub_x, hub_y = network.hubs[zone.hub_id]
        tail_km = float(np.hypot(zone.x_km - hub_x, zone.y_km - hub_y))
        transport = (
            self.rtt_vertex_ms[self.vertex_index[zone.hub_id], : self.site_count]
            + network.km_rtt_ms * tail_km
        )
        access = self.access_of(zone_id, access_id)
        if not access:
            return transport
        profile = self.access_profiles.get(access)
        if profile is None:
            return np.full(self.site_count, np.inf)
        hairpin = np.array(
            [0.0 if s.has_upf or not profile.via_upf else network.hairpin_p99_ms for s in self.sites]
        )
        return profile.rtt_p99_ms + hairpin + transport

    def route_links(self, from_id: str, to_id: str) -> list[int]:
        """Links on the shortest path between two vertices (site or hub ids)."""
        here, there = self.vertex_index[from_id], self.vertex_index[to_id]
        links: list[int] = []
        while there != here:
            before = int(self.predecessors[here, there])
            if before == NO_PREDECESSOR:
                raise KeyError(f"no route {from_id} → {to_id}")
            links.append(self.link_of_edge[(before, there)])
            there = before
        return links[::-1]


def under_policy(topology: Topology, policy: Policy) -> Topology:
    """The same fleet under another policy; the same object when nothing that binds a site changes."""
    fleet = fleet_in_force(topology.registered, policy)
    floors = floors_in_force(topology.registered, policy)
    if fleet == topology.fleet and bool((floors == topology.site_reserved_floor_frac).all()):
        return topology
    return replace(topology, fleet=fleet, site_reserved_floor_frac=floors)


def build_topology(fleet: Fleet) -> Topology:
    """Fold a fleet document into arrays; nodes are numbered site by site, group by group. No policy binds it yet."""
    sites = fleet.sites
    groups = [(s, g) for s in sites for g in s.groups]
    counts = np.array([g.node_count for _, g in groups], np.int64)
    site_index = {s.site_id: i for i, s in enumerate(sites)}
    group_site = np.array([site_index[s.site_id] for s, _ in groups], np.int64)
    node_group = np.repeat(np.arange(len(groups)), counts)
    vertex_index = {v: i for i, v in enumerate([s.site_id for s in sites] + list(fleet.network.hubs))}
    rtt_ms, predecessors, link_of_edge = _shortest_paths(fleet, vertex_index)
    return Topology(
        fleet=fleet,
        registered=fleet,
        site_reserved_floor_frac=np.zeros(len(sites)),
        site_ids=tuple(s.site_id for s in sites),
        site_index=site_index,
        group_ids=tuple((s.site_id, g.group_id) for s, g in groups),
        group_index={(s.site_id, g.group_id): i for i, (s, g) in enumerate(groups)},
        group_site=group_site,
        group_node_count=counts,
        group_first_node=np.concatenate(([0], np.cumsum(counts)[:-1])),
        group_capacity=np.array(
            [(g.cpu_milli, g.memory_mib, g.gpu_count * 1000, g.storage_gib) for _, g in groups], np.int64
        ),
        group_gpu_model=tuple(g.gpu_model for _, g in groups),
        group_gpu_count=np.array([g.gpu_count for _, g in groups], np.int64),
        group_gpu_memory_mib=np.array([g.gpu_memory_mib for _, g in groups], np.int64),
        group_idle_w=np.array([g.idle_w for _, g in groups]),
        group_gpu_w=np.array([g.gpu_dynamic_w for _, g in groups]),
        group_core_w=np.array([g.core_dynamic_w for _, g in groups]),
        group_island_nodes=np.array([g.island_node_count or g.node_count for _, g in groups], np.int64),
        node_group=node_group,
        node_site=group_site[node_group],
        site_is_edge=np.array([s.kind is SiteKind.EDGE for s in sites]),
        rtt_vertex_ms=rtt_ms,
        predecessors=predecessors,
        vertex_index=vertex_index,
        link_of_edge=link_of_edge,
        link_capacity_mbps=np.array([k.capacity_gbps * MBPS_PER_GBPS for k in fleet.network.links]),
    )


def _link_rtt_ms(fleet: Fleet, link: Link) -> float:
    """hops + fibre + extra + τ·ρ/(1−ρ) at the planning load."""
    n = fleet.network
    queue_ms = n.queue_tau_ms * n.planning_load_frac / (1.0 - n.planning_load_frac)
    return n.hop_rtt_ms * link.hop_count + n.km_rtt_ms * link.length_km + link.extra_rtt_ms + queue_ms


def _shortest_paths(
    fleet: Fleet, vertex_index: dict[str, int]
) -> tuple[NDArray[np.float64], NDArray[np.int32], dict[tuple[int, int], int]]:
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for i, link in enumerate(fleet.network.links):
        a, b = (vertex_index[e] for e in link.ends)
        rtt_ms = _link_rtt_ms(fleet, link)
        for edge in ((a, b), (b, a)):
            if edge not in best or rtt_ms < best[edge][0]:
                best[edge] = (rtt_ms, i)
    n = len(vertex_index)
    rows = [e[0] for e in best]
    cols = [e[1] for e in best]
    graph = csr_matrix(([w for w, _ in best.values()], (rows, cols)), shape=(n, n))
    rtt_ms_matrix, predecessors = dijkstra(graph, directed=True, return_predecessors=True)
    return rtt_ms_matrix, predecessors, {edge: link for edge, (_, link) in best.items()}
