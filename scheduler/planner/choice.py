"""Choice of nodes for replicas of one spec: the cheapest first, where GPUs are cut up counting as a cost.

    1 tiers   nodes that are on, and nodes asleep, of each group, in order of cost: energy price, plus the idle power
              that waking adds; groups that cannot hold one more replica are passed over unseen
      beside  work without GPUs counts a node with GPUs as one that is on only as far as every free GPU keeps its even
              share of cores and memory (`Snapshot.fit_beside`); what is over costs as much as waking the next node,
              which somebody will have to do for the GPUs it spoils
      worth   for GPU work a tier is a site, ordered by cost and the packing value destroyed, that at a price; what is
              known of the nodes is kept from head to head (`worth.py`), and few replicas are placed in turn from there
    2 order   within a tier: fullest, then by number
    3 fill    within the node's room, the site's power limit, the links and the spread rule

A scorer that prices nodes one by one (no `wake_cost`) gets all its nodes sorted at once.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from scheduler.planner.feasibility import SpecView
from scheduler.planner.fragmentation import Fragmentation
from scheduler.planner.reserve import Reservations
from scheduler.planner.scoring import Scorer, TieredScorer
from scheduler.planner.snapshot import (
    LINK_SLACK_MBPS,
    POWER_SLACK_W,
    WHOLE_GPU_MILLI,
    Snapshot,
    devices_among,
    devices_of,
    fit_in_spare,
)
from scheduler.planner.worth import COST_DIGITS, Prices, SiteWorth, free_of, price_milli

IntArray = NDArray[np.int64]
NODE_BITS = 20
MAX_IN_TURN = 16
"""So many replicas are placed one after the other from what is kept of each node; more are worked out together."""


_NO_LINKS = np.zeros(0)
_NOWHERE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Spread:
    """Spread rule of one choice: domain of every node, domains in use, and how many new ones must be found."""

    domain_of: IntArray
    used: frozenset[int]
    new_domains: int
    over_sites: bool


@dataclass(frozen=True, eq=False)
class Ranges:
    """Nodes to choose from, as ranges within groups: (group, first, one past the last); equal only to itself."""

    ranges: tuple[tuple[int, int, int], ...]

    @classmethod
    def of_groups(cls, groups: NDArray[np.bool_], snapshot: Snapshot) -> Ranges:
        """All nodes of these groups."""
        topology = snapshot.topology
        at = np.flatnonzero(groups)
        first = topology.group_first_node[at]
        last = first + topology.group_node_count[at]
        return cls(tuple(zip(at.tolist(), first.tolist(), last.tolist(), strict=True)))

    @classmethod
    def of_nodes(cls, group: int, first: int, last: int) -> Ranges:
        """Some adjoining nodes of one group."""
        return cls(((group, first, last),))

    @cached_property
    def groups(self) -> IntArray:
        """Of each range."""
        return np.array([group for group, _, _ in self.ranges], np.int64)

    def nodes(self) -> IntArray:
        """All of them, in order."""
        parts = [np.arange(first, last) for _, first, last in self.ranges]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


@dataclass
class _SiteRanges:
    """The ranges of one choice at one site: no replica costs less than `bound` there (yuan per hour)."""

    bound: float
    site: int
    ranges: tuple[tuple[int, int, int], ...]
    table: SiteWorth | None = None


class NodeChoice:
    """Chooses nodes over one round's snapshot; scratch of that round."""

    def __init__(
        self, snapshot: Snapshot, scorer: Scorer, reservations: Reservations, packing: Fragmentation | None
    ) -> None:
        self.snapshot, self.scorer, self.reservations, self.packing = snapshot, scorer, reservations, packing
        self.node_penalty: NDArray[np.float64] | None = None
        """(N,) added to node costs while room is made by preemption."""
        self.spoils_no_gpu = False
        """With penalties: work without GPUs goes to nodes with GPUs only as far as it spoils none."""
        self._tiered = scorer if isinstance(scorer, TieredScorer) else None
        self._usable = snapshot.nodes.up & ~snapshot.nodes.cordoned
        self._bounds = _GroupBounds(snapshot, self._usable)
        self._spare = _SpareBeside(snapshot)
        self._no_room: set[tuple[object, ...]] = set()
        """Likeness and ranges in which nothing was found; room only shrinks until some is given back."""
        self._prices: dict[object, Prices] = {}
        """By likeness."""
        self._worth_at: dict[tuple[object, ...], SiteWorth] = {}
        """By likeness and ranges of one site."""
        self._by_site: dict[tuple[object, Ranges], list[_SiteRanges]] = {}
        """By likeness and ranges: the sites, cheapest first."""
        self._nodes_and_index: dict[tuple[tuple[int, int, int], ...], tuple[IntArray, IntArray]] = {}
        """Ranges → their nodes in order, and (N,) the place of each node among them, −1 elsewhere."""
        self._of_ranges: dict[tuple[tuple[int, int, int], ...], IntArray] = {}
        self._ranges: dict[bytes, Ranges] = {}
        self._parts: dict[tuple[int, int, int], Ranges] = {}
        self._group_cost: dict[object, NDArray[np.float64]] = {}
        """By likeness."""

    def ranges_of(self, groups: NDArray[np.bool_]) -> Ranges:
        """All nodes of these groups; masks are few, so their ranges are kept."""
        key = groups.tobytes()
        known = self._ranges.get(key)
        if known is None:
            known = self._ranges[key] = Ranges.of_groups(groups, self.snapshot)
        return known

    def range_of(self, group: int, first: int, last: int) -> Ranges:
        """Some adjoining nodes of one group; kept, as islands are few."""
        known = self._parts.get((group, first, last))
        if known is None:
            known = self._parts[group, first, last] = Ranges.of_nodes(group, first, last)
        return known

    def group_cost(self, view: SpecView) -> NDArray[np.float64]:
        """(G,) cost of one replica; kept for scorers whose costs do not depend on what is placed."""
        if self._tiered is None:
            return self.scorer.group_cost(view, self.snapshot)
        known = self._group_cost.get(view.likeness)
        if known is None:
            known = self._group_cost[view.likeness] = self.scorer.group_cost(view, self.snapshot)
        return known

    def nodes_for(
        self,
        view: SpecView,
        count: int,
        left_s: float,
        among: Ranges,
        spread: Spread | None = None,
    ) -> IntArray:
        """(≤ count,) node of each replica of work that runs for `left_s`; () when the spread rule cannot be met.

        The first `spread.new_domains` replicas go to domains not in use yet.
        """
        if count <= 0 or not among.ranges:
            return _NOWHERE
        spare_w = self.snapshot.spare_w()
        spare_mbps = self.snapshot.spare_mbps() if view.has_traffic else _NO_LINKS
        room = _SiteRoom(self.snapshot, view, count, spare_w, spare_mbps)
        # where power and links are plenty for all of them, they are for one
        shut = view.site_never if room.is_plenty else _sites_shut(self.snapshot, view, spare_w, spare_mbps)
        if np.count_nonzero(shut) == len(shut):
            return _NOWHERE
        enough = count + (len(spread.used) if spread is not None else 0)
        if not room.is_plenty or (spread is not None and spread.over_sites):
            enough = self.snapshot.topology.node_count
        if self._tiered is not None and self.node_penalty is None:
            may_alternate = spread is None and room.is_plenty
            by_worth = self.packing is not None and bool(view.spec.stage.gpu_milli)
            if by_worth and may_alternate and count <= MAX_IN_TURN and not self._near_floor(view):
                return self._in_turn_by_worth(view, count, left_s, among, shut)
            open_group = self._open_groups(view, shut)
            if not open_group[among.groups].any():
                return _NOWHERE
            if view.spec.stage.gpu_milli and self.packing is not None:
                tiers = self._sites_by_worth(
                    self.packing, self._tiered, view, left_s, among, open_group, enough, may_alternate
                )
            else:
                tiers = self._tiers(self._tiered, view, left_s, among, open_group, enough)
        else:
            tiers = iter([self._all_sorted(view, left_s, among, shut, enough)])
        return self._fill(count, tiers, room, spread)

    def devices_for(self, view: SpecView, nodes: list[int]) -> list[int]:
        """Bit mask of the devices of each replica, put one after the other on nodes that have room for them."""
        group, gpus = self.snapshot.topology.node_group, self.snapshot.nodes.gpu_milli
        slots = self.snapshot.gpu_slots
        by_value = self.packing if self.node_penalty is None else None
        left: dict[int, tuple[list[int], int]] = {}
        masks = []
        for node in nodes:
            known = left.get(node)
            if known is None:
                known = left[node] = (gpus[node, :slots].tolist(), int(view.need[group[node], 2]))
            free, need = known
            if 0 < need < WHOLE_GPU_MILLI and by_value is not None:
                mask = by_value.share_on(node, free, need)
            else:
                mask = devices_among(free, need)
            masks.append(mask)
            if len(nodes) > 1:
                for g in devices_of(mask):
                    free[g] -= need // mask.bit_count()
        return masks

    # ------------------------------------------------------------------ tiers

    def _tiers(
        self,
        scorer: TieredScorer,
        view: SpecView,
        left_s: float,
        among: Ranges,
        open_group: NDArray[np.bool_],
        enough: int,
    ) -> Iterator[tuple[IntArray, IntArray]]:
        """(nodes, room) of equal cost, cheapest first, each in the order in which they are filled: fullest first.

        At most `enough` nodes a tier.
        """
        ranges = [r for r in among.ranges if open_group[r[0]]]
        if not ranges:
            return
        if len(ranges) == 1 and not self._large_enough(view, *ranges[0][1:]).any():
            self._bounds.lower(np.array([ranges[0][0]]))
            return
        groups = np.array([r[0] for r in ranges])
        on = self.group_cost(view)[groups]
        wake = on + scorer.wake_cost(view, self.snapshot)[groups]
        cost = np.round(np.concatenate([on, wake]), COST_DIGITS)
        order, costs = np.argsort(cost, kind="stable").tolist(), cost.tolist()
        found = [False] * len(ranges)
        keeps_gpus = self._keeps_gpus(view)[groups].tolist()
        large_enough: dict[int, NDArray[np.bool_]] = {}
        parts: list[tuple[IntArray, IntArray]] = []
        for place, i in enumerate(order):
            of, asleep = i % len(ranges), i >= len(ranges)
            _, first, last = ranges[of]
            if of not in large_enough:
                large_enough[of] = self._large_enough(view, first, last)
            own = []
            if keeps_gpus[of]:
                find = self._over if asleep else self._beside
                own.append(find(view, left_s, first, large_enough[of], enough))
            if asleep or not keeps_gpus[of]:
                own.append(self._with_room(view, left_s, first, large_enough[of], asleep, enough))
            for part in own:
                if len(part[0]):
                    found[of] = True
                    parts.append(part)
            tier_goes_on = place + 1 < len(order) and costs[order[place + 1]] == costs[i]
            if parts and not tier_goes_on:
                at, fit = _joined(parts)
                fullest = _smallest(free_of(self.snapshot, at), at, enough)
                yield at[fullest], fit[fullest]
                parts = []
        self._bounds.lower(groups[~np.array(found)])

    def _sites_by_worth(
        self,
        packing: Fragmentation,
        scorer: TieredScorer,
        view: SpecView,
        left_s: float,
        among: Ranges,
        open_group: NDArray[np.bool_],
        enough: int,
        may_alternate: bool,
    ) -> Iterator[tuple[IntArray, IntArray]]:
        """(nodes, room) for GPU work, site after site from the one with the cheapest node on; see `_by_worth`.

        Energy and links are the site's, fragments the nodes': so packing never sends work to another site.
        """
        topology = self.snapshot.topology
        ranges: dict[int, list[tuple[int, int, int]]] = {}
        for r in among.ranges:
            if open_group[r[0]]:
                ranges.setdefault(int(topology.group_site[r[0]]), []).append(r)
        on = self.group_cost(view)
        wake = on + scorer.wake_cost(view, self.snapshot)
        at_best = sorted((min(float(on[g]) for g, _, _ in mine), site) for site, mine in ranges.items())
        found: list[tuple[float, int, IntArray, IntArray]] = []
        is_empty = np.zeros_like(open_group)
        while at_best or found:
            while at_best and (not found or at_best[0][0] <= found[0][0]):
                _, site = at_best.pop(0)
                at, fit = self._room_at_site(view, left_s, tuple(ranges[site]), enough)
                group_of = topology.node_group[at]
                is_empty[[g for g, _, _ in ranges[site]]] = True
                is_empty[group_of] = False
                if len(at):
                    cost = np.where(self.snapshot.empty_node[at], wake[group_of], on[group_of])
                    heapq.heappush(found, (float(cost.min()), site, at, fit))
            if found:
                _, _, at, fit = heapq.heappop(found)
                yield self._by_worth(packing, view, enough, may_alternate, on, wake, at, fit)
        self._bounds.lower(np.flatnonzero(is_empty))

    def may_hold(self, view: SpecView) -> NDArray[np.bool_]:
        """(G,) groups of which some node might hold one more replica; a False is certain."""
        if self.snapshot.returned:
            self._no_room.clear()
        return self._bounds.may_hold(view)

    def _near_floor(self, view: SpecView) -> bool:
        """Whether some group is down to a floor that this work keeps off."""
        return self.snapshot.low_used is not None and bool((self.snapshot.floor_room(view) <= 0).any())

    def _in_turn_by_worth(
        self, view: SpecView, count: int, left_s: float, among: Ranges, shut: NDArray[np.bool_]
    ) -> IntArray:
        """(≤ count,) what `_sites_by_worth` comes to where power and links are plenty and replicas few: site after site
        from the one whose cheapest node with room is cheapest."""
        key = (view.likeness, among)
        sites = self._by_site.get(key)
        if sites is None:
            sites = self._by_site[key] = self._sites_of(view, among)
        found: list[tuple[float, int, SiteWorth]] = []
        nodes: list[int] = []
        at = 0
        while len(nodes) < count and (at < len(sites) or found):
            while at < len(sites) and (not found or sites[at].bound <= found[0][0]):
                site = sites[at]
                at += 1
                if shut[site.site]:
                    continue
                if site.table is None:
                    if self._is_full(view, site.ranges):
                        continue
                    site.table = self._table_of(view, site.ranges)
                cost = site.table.least_cost(self.reservations, left_s)
                if cost < np.inf:
                    heapq.heappush(found, (cost, site.site, site.table))
            if found:
                nodes += heapq.heappop(found)[2].order(count - len(nodes), self.reservations, left_s)
        return np.array(nodes, np.int64)

    def _is_full(self, view: SpecView, ranges: tuple[tuple[int, int, int], ...]) -> bool:
        """Whether certainly no node of these ranges holds one more replica; known until room is given back."""
        key = (view.likeness, ranges)
        if self.snapshot.returned or key not in self._no_room:
            may_hold = self.may_hold(view)
            if any(may_hold[group] for group, _, _ in ranges):
                return False
            self._no_room.add(key)
        return True

    def _sites_of(self, view: SpecView, among: Ranges) -> list[_SiteRanges]:
        """The sites of the ranges, cheapest first by what a replica costs on a node that is on."""
        on, site_of = self.group_cost(view), self.snapshot.topology.group_site
        ranges: dict[int, list[tuple[int, int, int]]] = {}
        for r in among.ranges:
            ranges.setdefault(int(site_of[r[0]]), []).append(r)
        sites = [
            _SiteRanges(min(float(on[r[0]]) for r in mine), s, tuple(mine)) for s, mine in ranges.items()
        ]
        return sorted(sites, key=lambda s: (s.bound, s.site))

    def _nodes_of(self, ranges: tuple[tuple[int, int, int], ...]) -> tuple[IntArray, IntArray]:
        known = self._nodes_and_index.get(ranges)
        if known is None:
            nodes = Ranges(ranges).nodes()
            index_of = np.full(self.snapshot.topology.node_count, -1)
            index_of[nodes] = np.arange(len(nodes))
            known = self._nodes_and_index[ranges] = (nodes, index_of)
        return known

    def _table_of(self, view: SpecView, ranges: tuple[tuple[int, int, int], ...]) -> SiteWorth:
        assert self._tiered is not None and self.packing is not None
        key = (view.likeness, ranges)
        table = self._worth_at.get(key)
        if table is None:
            prices = self._prices.get(view.likeness)
            if prices is None:
                on = self.group_cost(view)
                prices = self._prices[view.likeness] = Prices.of(
                    on, self._tiered.wake_cost(view, self.snapshot)
                )
            nodes, index_of = self._nodes_of(ranges)
            table = SiteWorth(self.snapshot, self.packing, view, nodes, index_of, self._usable, prices)
            self._worth_at[key] = table
        return table

    def _room_at_site(
        self, view: SpecView, left_s: float, ranges: tuple[tuple[int, int, int], ...], enough: int
    ) -> tuple[IntArray, IntArray]:
        """Nodes of these ranges with room for one more replica, and how many each holds.

        Those asleep in one group are all alike: the first `enough` will do.
        """
        key = (view.likeness, ranges)
        if key in self._no_room:
            return _NOWHERE, _NOWHERE
        at, fit, is_kept = self._room_among(view, left_s, ranges, enough)
        if not len(at) and not is_kept:
            self._no_room.add(key)
        return at, fit

    def _room_among(
        self, view: SpecView, left_s: float, ranges: tuple[tuple[int, int, int], ...], enough: int
    ) -> tuple[IntArray, IntArray, bool]:
        """As `_room_at_site`, and whether nodes kept for gangs were left out."""
        snapshot, nodes, stage = self.snapshot, self.snapshot.nodes, view.spec.stage
        of_ranges = self._of_ranges.get(ranges)
        if of_ranges is None:
            of_ranges = self._of_ranges[ranges] = Ranges(ranges).nodes()
        ok = nodes.cpu_milli[of_ranges] >= stage.cpu_milli
        ok &= nodes.memory_mib[of_ranges] >= stage.memory_mib
        ok &= self._usable[of_ranges]
        at = of_ranges[ok]
        is_kept = False
        if self.reservations.groups:
            passes = self.reservations.passes(at, left_s)
            is_kept = not passes.all()
            at = at[passes]
        asleep = snapshot.empty_node[at].nonzero()[0]
        if len(asleep) > enough:
            group = snapshot.topology.node_group[at[asleep]]
            number = np.arange(len(asleep)) - np.searchsorted(group, group)
            keep = np.ones(len(at), bool)
            keep[asleep[number >= enough]] = False
            at = at[keep]
        if enough == 1:
            at = at[snapshot.holds_one(view, at)]
            return at, np.ones(len(at), np.int64), is_kept
        fit = snapshot.fit_of_nodes(view, at)
        has = fit > 0
        return at[has], fit[has], is_kept

    def _by_worth(
        self,
        packing: Fragmentation,
        view: SpecView,
        enough: int,
        may_alternate: bool,
        on: NDArray[np.float64],
        wake: NDArray[np.float64],
        at: IntArray,
        fit: IntArray,
    ) -> tuple[IntArray, IntArray]:
        """(nodes, room) of one site, least c(n) / π + loss(n) first, then fullest, then by number.

        c(n): `on` or `wake`, what one replica costs on the node as it is (yuan/h); loss(n): GPUs of packing value that
        it destroys; π: PACKING_YUAN_PER_GPU_H. `may_alternate`: a node may come several times, with others between.
        """
        if len(at) == 1:
            return at, fit
        snapshot = self.snapshot
        group_of = snapshot.topology.node_group[at]
        price = price_milli(np.where(snapshot.empty_node[at], wake[group_of], on[group_of]))
        if may_alternate and enough > 1:
            price_of_node = np.zeros(snapshot.topology.node_count)
            price_of_node[at] = price
            chosen = packing.order(view, enough, np.sort(at), price_of_node)
            return chosen, np.ones(len(chosen), np.int64)
        worth = packing.loss_milli(view, at) + price
        if enough == 1:
            least = np.flatnonzero(worth == worth.min())
            if len(least) > 1:
                least = least[_smallest(free_of(self.snapshot, at[least]), at[least], 1)]
            return at[least], fit[least]
        order = np.lexsort((at, free_of(self.snapshot, at), worth))
        return at[order], fit[order]

    def _open_groups(self, view: SpecView, shut: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(G,) groups in which one more replica might find room."""
        open_group = self.may_hold(view)
        open_group &= ~shut[self.snapshot.topology.group_site]
        if self.snapshot.low_used is not None:
            open_group &= self.snapshot.floor_room(view) > 0
        return open_group

    def _large_enough(self, view: SpecView, first: int, last: int) -> NDArray[np.bool_]:
        """(last − first,) usable nodes with CPU and memory for one replica."""
        nodes, stage, here = self.snapshot.nodes, view.spec.stage, slice(first, last)
        ok: NDArray[np.bool_] = nodes.cpu_milli[here] >= stage.cpu_milli
        ok &= nodes.memory_mib[here] >= stage.memory_mib
        ok &= self._usable[here]
        return ok

    def _with_room(
        self,
        view: SpecView,
        left_s: float,
        first: int,
        large_enough: NDArray[np.bool_],
        asleep: bool,
        enough: int,
    ) -> tuple[IntArray, IntArray]:
        """Of the nodes of one group from `first` on, on or asleep, those with room for one more replica, and how many
        each holds. Those asleep are all alike: the first `enough` will do."""
        is_asleep = self.snapshot.empty_node[first : first + len(large_enough)]
        at = (large_enough & (is_asleep if asleep else ~is_asleep)).nonzero()[0]
        if not len(at):
            return at, at
        at += first
        if self.reservations.groups:
            at = at[self.reservations.passes(at, left_s)]
        if asleep:
            at = at[:enough]
        fit = self.snapshot.fit_of_nodes(view, at)
        has = fit > 0
        return (at, fit) if has.all() else (at[has], fit[has])

    def _keeps_gpus(self, view: SpecView) -> NDArray[np.bool_]:
        """(G,) groups whose GPUs this work does not use and could spoil."""
        topology = self.snapshot.topology
        if view.spec.stage.gpu_milli:
            return np.zeros(len(topology.group_ids), bool)
        has_gpus: NDArray[np.bool_] = topology.group_gpu_count > 0
        return has_gpus

    def _beside(
        self, view: SpecView, left_s: float, first: int, large_enough: NDArray[np.bool_], enough: int
    ) -> tuple[IntArray, IntArray]:
        """Nodes with GPUs, on, that hold work without GPUs in cores which no free GPU needs, and how much of it."""
        stage = view.spec.stage
        cpu_milli, memory_mib = self._spare.of_range(first, first + len(large_enough))
        holds = large_enough & (cpu_milli >= stage.cpu_milli) & (memory_mib >= stage.memory_mib)
        if not holds.any():
            return _NOWHERE, _NOWHERE
        at, fit = self._with_room(view, left_s, first, holds, False, enough)
        return at, fit_in_spare(view, fit, cpu_milli[at - first], memory_mib[at - first])

    def _over(
        self, view: SpecView, left_s: float, first: int, large_enough: NDArray[np.bool_], enough: int
    ) -> tuple[IntArray, IntArray]:
        """The same nodes with what they hold beyond that: GPUs are spoiled by it."""
        at, fit = self._with_room(view, left_s, first, large_enough, False, enough)
        cpu_milli, memory_mib = self._spare.of_range(first, first + len(large_enough))
        over = fit - fit_in_spare(view, fit, cpu_milli[at - first], memory_mib[at - first])
        return at[over > 0], over[over > 0]

    # ------------------------------------------------------------------ costs node by node

    def _all_sorted(
        self,
        view: SpecView,
        left_s: float,
        among: Ranges,
        shut: NDArray[np.bool_],
        enough: int,
    ) -> tuple[IntArray, IntArray]:
        """(≤ enough,) nodes with room, and their room: cheapest first, then fullest, then by number."""
        snapshot, topology = self.snapshot, self.snapshot.topology
        at = among.nodes()
        if self.reservations.groups:
            at = at[self.reservations.passes(at, left_s)]
        fit = snapshot.fit_of_nodes(view, at)
        if self.spoils_no_gpu:
            here = self._keeps_gpus(view)[topology.node_group[at]]
            fit[here] = snapshot.fit_beside(view, at[here])
        fits = (fit > 0) & ~shut[topology.node_site[at]]
        at, fit = at[fits], fit[fits]
        cost = self.group_cost(view)[topology.node_group[at]]
        cost = np.round(cost + self.scorer.node_cost(view, snapshot)[at], COST_DIGITS)
        if self.node_penalty is not None:
            cost = cost + self.node_penalty[at]
        order = _cheapest(cost, free_of(self.snapshot, at), at, enough)
        return at[order], fit[order]

    # ------------------------------------------------------------------ fill

    def _fill(
        self,
        count: int,
        tiers: Iterator[tuple[IntArray, IntArray]],
        room: _SiteRoom,
        spread: Spread | None,
    ) -> IntArray:
        """Fresh domains first, then node after node from the cheapest on."""
        taken = _Taken(room, spread)
        seen: list[tuple[IntArray, IntArray]] = []
        for at, fit in tiers:
            if taken.to_find:
                fit = taken.find_domains(at, fit)
                seen.append((at, fit))
                if taken.to_find:
                    continue
                for earlier_at, earlier_fit in seen:
                    taken.fill(earlier_at, earlier_fit, count)
            else:
                taken.fill(at, fit, count)
            if len(taken.nodes) >= count:
                break
        return np.array([] if taken.to_find else taken.nodes, np.int64)


def _joined(parts: list[tuple[IntArray, IntArray]]) -> tuple[IntArray, IntArray]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([at for at, _ in parts]), np.concatenate([fit for _, fit in parts])


class _Taken:
    """Nodes taken so far for the replicas of one choice, one entry for each replica."""

    def __init__(self, room: _SiteRoom, spread: Spread | None) -> None:
        self.nodes: list[int] = []
        self.to_find = 0 if spread is None else spread.new_domains
        """Fresh domains still to be found."""
        self._room, self._spread = room, spread
        self._domains = set() if spread is None else set(spread.used)

    def find_domains(self, at: IntArray, fit: IntArray) -> IntArray:
        """One replica in each fresh domain, in order, until there are enough; returns the room that is left."""
        assert self._spread is not None
        domain_of, left = self._spread.domain_of, fit.copy()
        places, i = np.arange(len(at)), 0
        while i < len(places) and self.to_find:
            place = int(places[i])
            node, domain = int(at[place]), int(domain_of[at[place]])
            i += 1
            if domain in self._domains:
                continue
            if self._room.take(node, 1):
                self._domains.add(domain)
                self.nodes.append(node)
                self.to_find -= 1
                left[place] -= 1
            else:
                rest = places[i:]
                places, i = rest[~self._room.like(node, at[rest])], 0
        return left

    def fill(self, at: IntArray, fit: IntArray, count: int) -> None:
        """Node after node up to `count` replicas in all."""
        nodes, fits, i = at.tolist(), fit.tolist(), 0
        while i < len(nodes) and len(self.nodes) < count:
            node = nodes[i]
            wanted = min(fits[i], count - len(self.nodes))
            i += 1
            if wanted <= 0:
                continue
            taken = self._room.take(node, wanted)
            self.nodes += [node] * taken
            if taken < wanted:
                rest, keep = np.array(nodes[i:], np.int64), np.array(fits[i:], np.int64)
                left = self._room.like(node, rest)
                nodes, fits, i = rest[~left].tolist(), keep[~left].tolist(), 0


def _smallest(key: IntArray, at: IntArray, count: int) -> IntArray:
    """(≤ count,) positions of the smallest keys, ties by node, in order; without sorting all."""
    whole = (key << NODE_BITS) + at
    if count < len(at):
        near = np.argpartition(whole, count - 1)[:count]
        return near[np.argsort(whole[near])]
    return np.argsort(whole)


def _cheapest(cost: NDArray[np.float64], free: IntArray, at: IntArray, count: int) -> IntArray:
    """(≤ count,) positions in order of cost, then of what is free, then of the node's number; without sorting all."""
    if count >= len(at):
        return np.lexsort((at, free, cost))
    last = np.partition(cost, count - 1)[count - 1]
    dearer_not = np.flatnonzero(cost <= last)
    if len(dearer_not) > count:
        ties = dearer_not[cost[dearer_not] == last]
        below = dearer_not[cost[dearer_not] < last]
        kept = ties[_smallest(free[ties], at[ties], count - len(below))]
        dearer_not = np.concatenate([below, kept])
    return dearer_not[np.lexsort((at[dearer_not], free[dearer_not], cost[dearer_not]))]


# ---------------------------------------------------------------------- what free GPUs do not need


class _SpareBeside:
    """`Snapshot.spare_beside`, kept from choice to choice; only nodes that changed since are worked out anew."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        nodes = snapshot.topology.node_count
        self._cpu_milli, self._memory_mib = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
        self._seen: dict[int, int] = {}
        """Site → how many of its changes have been looked at."""

    def of_range(self, first: int, last: int) -> tuple[IntArray, IntArray]:
        """(last − first,) spare cores (milli) and memory (MiB) of adjoining nodes of one group with GPUs."""
        topology = self._snapshot.topology
        site = int(topology.node_site[first])
        changed = self._snapshot.changed[site]
        known = self._seen.get(site)
        if known is None:
            here = (topology.node_site == site) & (topology.group_gpu_count[topology.node_group] > 0)
            self._look_at(np.flatnonzero(here))
        elif known != len(changed):
            at = np.unique(np.array(changed[known:], np.int64))
            self._look_at(at[topology.group_gpu_count[topology.node_group[at]] > 0])
        self._seen[site] = len(changed)
        return self._cpu_milli[first:last], self._memory_mib[first:last]

    def _look_at(self, at: IntArray) -> None:
        self._cpu_milli[at], self._memory_mib[at] = self._snapshot.spare_beside(at)


# ---------------------------------------------------------------------- what groups may still hold


@dataclass
class _GroupBounds:
    """(G,) upper bounds of what one node of each group has free: what cannot hold a replica is not looked at."""

    snapshot: Snapshot
    usable: NDArray[np.bool_]
    cpu_milli: IntArray = field(init=False)
    memory_mib: IntArray = field(init=False)
    idle_gpus: IntArray = field(init=False)
    share_milli: IntArray = field(init=False)

    def __post_init__(self) -> None:
        groups = len(self.snapshot.topology.group_ids)
        self.cpu_milli, self.memory_mib, self.idle_gpus, self.share_milli = np.full((4, groups), -1)
        self._all_at_once()

    def may_hold(self, view: SpecView) -> NDArray[np.bool_]:
        """(G,) whether some node of the group might hold one replica."""
        self._raise()
        stage = view.spec.stage
        may = (self.cpu_milli >= stage.cpu_milli) & (self.memory_mib >= stage.memory_mib)
        if stage.gpu_milli:
            need = view.need[:, 2]
            whole = self.idle_gpus * WHOLE_GPU_MILLI >= need
            may &= np.where(need >= WHOLE_GPU_MILLI, whole, self.share_milli >= need)
        return may

    def lower(self, groups: IntArray) -> None:
        """Groups in which nothing was found, though the bounds allowed it."""
        if len(groups):
            self._anew(groups)

    def _raise(self) -> None:
        """Nodes that got room back since."""
        returned = self.snapshot.returned
        if not returned:
            return
        groups = np.unique(self.snapshot.topology.node_group[np.array(returned)])
        returned.clear()
        self._anew(groups)

    def _all_at_once(self) -> None:
        """`_anew` for every group: the nodes of one stand together."""
        nodes, topology = self.snapshot.nodes, self.snapshot.topology
        gpus = np.ascontiguousarray(nodes.gpu_milli[:, : self.snapshot.gpu_slots].T)
        has_gpus = topology.group_gpu_count > 0
        of_node = (
            nodes.cpu_milli,
            nodes.memory_mib,
            np.where(
                np.repeat(has_gpus, topology.group_node_count), (gpus == WHOLE_GPU_MILLI).sum(axis=0), -1
            ),
            gpus.max(axis=0),
        )
        bounds = (self.cpu_milli, self.memory_mib, self.idle_gpus, self.share_milli)
        for bound, each in zip(bounds, of_node, strict=True):
            bound[:] = np.maximum.reduceat(np.where(self.usable, each, -1), topology.group_first_node)

    def _anew(self, groups: IntArray) -> None:
        nodes, topology = self.snapshot.nodes, self.snapshot.topology
        width = int(topology.group_gpu_count.max(initial=1))
        for g in groups.tolist():
            first = int(topology.group_first_node[g])
            here = slice(first, first + int(topology.group_node_count[g]))
            usable = self.usable[here]
            if not usable.any():
                self.cpu_milli[g] = -1
                continue
            self.cpu_milli[g] = nodes.cpu_milli[here][usable].max()
            self.memory_mib[g] = nodes.memory_mib[here][usable].max()
            if topology.group_gpu_count[g]:
                free = nodes.gpu_milli[here, :width][usable]
                self.idle_gpus[g] = (np.ascontiguousarray(free.T) == WHOLE_GPU_MILLI).sum(axis=0).max()
                self.share_milli[g] = free.max()


# ---------------------------------------------------------------------- power, links and reserved floors


class _SiteRoom:
    """Power and links that sites have left, and groups above their floors, while nodes are being chosen; free of charge
    where there is plenty."""

    def __init__(
        self,
        snapshot: Snapshot,
        view: SpecView,
        count: int,
        spare_w: NDArray[np.float64],
        spare_mbps: NDArray[np.float64],
    ) -> None:
        self._snapshot, self._view = snapshot, view
        most_w = view.site_most_w if count == 1 else view.site_most_w * count
        self.is_plenty = not np.count_nonzero(most_w > spare_w + POWER_SLACK_W)
        if self.is_plenty and view.has_traffic:
            most_mbps = snapshot.views.most_mbps_per_replica(view.spec.spec)
            self.is_plenty = not np.count_nonzero(most_mbps * count > spare_mbps + LINK_SLACK_MBPS)
        self._floor_room: list[int] | None = None
        """Replicas by group; None where no floor could bind."""
        if snapshot.low_used is not None:
            room = snapshot.floor_room(view)
            if (room < count).any():
                self.is_plenty, self._floor_room = False, room.tolist()
        self._spare_w = [] if self.is_plenty else spare_w.tolist()
        self._spare_mbps = spare_mbps
        self._route: dict[int, tuple[IntArray, NDArray[np.float64]]] = {}
        self._cut_off: set[int] = set()
        self._woken: set[int] = set()

    def like(self, node: int, at: IntArray) -> NDArray[np.bool_]:
        """(len(at),) nodes that have no room either, now that this one had not enough.

        Its site's links are full, its group is down to its floor, or the power is too short for one more on a node of
        the same group, on or asleep as this one.
        """
        topology, asleep = self._snapshot.topology, self._snapshot.empty_node
        group = int(topology.node_group[node])
        if self._floor_room is not None and self._floor_room[group] <= 0:
            of_group: NDArray[np.bool_] = topology.node_group[at] == group
            return of_group
        if int(topology.node_site[node]) in self._cut_off:
            of_site: NDArray[np.bool_] = topology.node_site[at] == topology.node_site[node]
            return of_site
        alike: NDArray[np.bool_] = (topology.node_group[at] == group) & (asleep[at] == asleep[node])
        if self._woken:
            alike &= ~np.isin(at, list(self._woken))
        return alike

    def take(self, node: int, count: int) -> int:
        """How many of `count` replicas site and group of the node still allow; they are taken."""
        if self.is_plenty or count <= 0:
            return count
        snapshot, topology = self._snapshot, self._snapshot.topology
        site, group = int(topology.node_site[node]), int(topology.node_group[node])
        if site in self._cut_off:
            return 0
        if self._floor_room is not None:
            count = min(count, self._floor_room[group])
            if count <= 0:
                return 0
        watts = float(self._view.watts[group])
        wakes = bool(snapshot.empty_node[node]) and node not in self._woken
        wake_w = float(topology.group_idle_w[group]) if wakes else 0.0
        spare_w = self._spare_w[site] - wake_w + POWER_SLACK_W
        if spare_w < watts:
            return 0
        if watts > 0:
            count = min(count, int(spare_w // watts))
        links, mbps = self._route_to(site)
        if len(links):
            count = min(count, int(((self._spare_mbps[links] + LINK_SLACK_MBPS) // mbps).min()))
            if count <= 0:
                self._cut_off.add(site)
                return 0
            self._spare_mbps[links] -= count * mbps
        self._spare_w[site] -= wake_w + count * watts
        if self._floor_room is not None:
            self._floor_room[group] -= count
        self._woken.add(node)
        return count

    def _route_to(self, site: int) -> tuple[IntArray, NDArray[np.float64]]:
        """Links that one replica at the site loads, and by how much."""
        known = self._route.get(site)
        if known is None:
            mbps = np.zeros(0)
            if self._view.has_traffic:
                mbps = self._snapshot.views.link_mbps_per_replica(self._view.spec.spec)[site]
            links = np.flatnonzero(mbps)
            known = self._route[site] = (links, mbps[links])
        return known


def _sites_shut(
    snapshot: Snapshot, view: SpecView, spare_w: NDArray[np.float64], spare_mbps: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """(S,) sites without power or links for one more replica, even on a node that is on."""
    shut: NDArray[np.bool_] = spare_w + POWER_SLACK_W < view.site_least_w
    return shut | _links_full(snapshot, view, spare_mbps) if view.has_traffic else shut


def links_full(snapshot: Snapshot, view: SpecView) -> NDArray[np.bool_]:
    """(S,) sites to which some link cannot carry one more replica."""
    if not view.has_traffic:
        return np.zeros(snapshot.topology.site_count, bool)
    return _links_full(snapshot, view, snapshot.spare_mbps())


def _links_full(snapshot: Snapshot, view: SpecView, spare_mbps: NDArray[np.float64]) -> NDArray[np.bool_]:
    mbps = snapshot.views.link_mbps_per_replica(view.spec.spec)
    full: NDArray[np.bool_] = np.logical_or.reduce(mbps > spare_mbps + LINK_SLACK_MBPS, axis=1)
    return full
