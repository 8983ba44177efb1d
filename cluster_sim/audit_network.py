"""The second audit's own network: RTT at the planning load, and which links a zone's traffic must cross.

    Roads.of(fleet)                       all shortest routes between sites and hubs
    rtt_ms(site, site), zone_leg_ms(…)    legs as domain.md §4.1 states them
    links_of_zone(zone, site)             links that every shortest route from the zone's hub to the site uses

Written from the formulas alone; it shares no code with the planner's topology. Where two routes are equally short,
nobody can say from the fleet document which one traffic takes: such links carry no load that could be held against a
plan.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from suanli.model import AccessProfile, Fleet, Zone

F64 = NDArray[np.float64]
TIE_MS = 1e-9
"""Routes that differ by less are equally short: rounding of sums of a few milliseconds."""

Edge = tuple[int, float]
"""(index of the other end, RTT of the link in ms)"""


@dataclass(frozen=True)
class Roads:
    """Shortest routes over V vertices: sites in fleet order, then hubs."""

    fleet: Fleet
    vertex: dict[str, int]
    link_rtt_ms: F64
    """(L,) at the planning load."""
    shortest_ms: F64
    """(V, V); inf where no route leads."""
    route_count: F64
    """(V, V) number of equally short routes."""

    @classmethod
    def of(cls, fleet: Fleet) -> Roads:
        """One shortest-path tree per vertex."""
        names = [s.site_id for s in fleet.sites] + list(fleet.network.hubs)
        vertex = {name: i for i, name in enumerate(names)}
        link_rtt_ms = np.array([_link_rtt_ms(fleet, i) for i in range(len(fleet.network.links))])
        edges: list[list[Edge]] = [[] for _ in names]
        for link, rtt_ms in zip(fleet.network.links, link_rtt_ms.tolist(), strict=True):
            a, b = (vertex[end] for end in link.ends)
            edges[a].append((b, rtt_ms))
            edges[b].append((a, rtt_ms))
        trees = [_routes_from(origin, edges) for origin in range(len(names))]
        return cls(
            fleet, vertex, link_rtt_ms, np.array([ms for ms, _ in trees]), np.array([n for _, n in trees])
        )

    @cached_property
    def zones(self) -> dict[str, Zone]:
        """Zones by id."""
        return {z.zone_id: z for z in self.fleet.zones}

    @cached_property
    def _access(self) -> dict[str, AccessProfile]:
        return {a.access_id: a for a in self.fleet.network.access}

    @cached_property
    def _zone_links(self) -> dict[tuple[str, int], tuple[int, ...]]:
        return {}

    def rtt_ms(self, site: int, other: int) -> float:
        """Network p99 between two sites; 0 within one."""
        return float(self.shortest_ms[site, other])

    def zone_leg_ms(self, zone_id: str, access_id: str, site: int) -> float:
        """p99 RTT of users of a zone to a site: access + hairpin + tail to the hub + links; inf where unknown.

        Without a named access the slowest of the zone's mix counts: a limit is for every user.
        """
        zone = self.zones.get(zone_id)
        if zone is None:
            return math.inf
        network = self.fleet.network
        hub_x, hub_y = network.hubs[zone.hub_id]
        tail_ms = network.km_rtt_ms * math.hypot(zone.x_km - hub_x, zone.y_km - hub_y)
        transport_ms = tail_ms + float(self.shortest_ms[self.vertex[zone.hub_id], site])
        profile = self._profile(zone, access_id)
        if profile is None:
            return math.inf if access_id else transport_ms
        takes_hairpin = profile.via_upf and not self.fleet.sites[site].has_upf
        return profile.rtt_p99_ms + (network.hairpin_p99_ms if takes_hairpin else 0.0) + transport_ms

    def links_of_zone(self, zone_id: str, site: int) -> tuple[int, ...]:
        """Indices of the links that every shortest route between the zone's hub and the site uses."""
        zone = self.zones.get(zone_id)
        if zone is None:
            return ()
        key = (zone.hub_id, site)
        if key not in self._zone_links:
            self._zone_links[key] = self._links_between(self.vertex[zone.hub_id], site)
        return self._zone_links[key]

    def _profile(self, zone: Zone, access_id: str) -> AccessProfile | None:
        if access_id:
            return self._access.get(access_id)
        mix = [self._access[a] for a in zone.access_mix]
        return max(mix, key=lambda a: a.rtt_p99_ms, default=None)

    def _links_between(self, here: int, there: int) -> tuple[int, ...]:
        """A link lies on all routes when the routes through it are as many as the routes there are."""
        whole_ms = self.shortest_ms[here, there]
        if not math.isfinite(whole_ms):
            return ()
        found = []
        for i, link in enumerate(self.fleet.network.links):
            ends = [self.vertex[e] for e in link.ends]
            for a, b in (ends, ends[::-1]):
                through_ms = self.shortest_ms[here, a] + self.link_rtt_ms[i] + self.shortest_ms[b, there]
                through_count = self.route_count[here, a] * self.route_count[b, there]
                if abs(through_ms - whole_ms) <= TIE_MS and through_count == self.route_count[here, there]:
                    found.append(i)
                    break
        return tuple(found)


def _link_rtt_ms(fleet: Fleet, index: int) -> float:
    """hop·hops + km·length + extra + τ·ρ/(1−ρ), ρ the planning load (domain.md §4.1)."""
    network, link = fleet.network, fleet.network.links[index]
    rho = network.planning_load_frac
    queue_ms = network.queue_tau_ms * rho / (1.0 - rho) if rho < 1.0 else math.inf
    return (
        network.hop_rtt_ms * link.hop_count
        + network.km_rtt_ms * link.length_km
        + link.extra_rtt_ms
        + queue_ms
    )


def _routes_from(origin: int, edges: list[list[Edge]]) -> tuple[list[float], list[float]]:
    """(RTT, number of equally short routes) from one vertex to all."""
    best = [math.inf] * len(edges)
    count = [0.0] * len(edges)
    settled = [False] * len(edges)
    best[origin], count[origin] = 0.0, 1.0
    heap = [(0.0, origin)]
    while heap:
        _, here = heapq.heappop(heap)
        if settled[here]:
            continue
        settled[here] = True
        for there, rtt_ms in edges[here]:
            if settled[there]:
                continue
            new = best[here] + rtt_ms
            if new < best[there] - TIE_MS:
                best[there], count[there] = new, count[here]
                heapq.heappush(heap, (new, there))
            elif new <= best[there] + TIE_MS:
                count[there] += count[here]
    return best, count
