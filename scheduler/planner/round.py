"""One fast round: waiting replicas in fair-share order, placed exactly on nodes; an unplaceable head blocks nobody.

    run    1 heads   2 order   3 place: simple work of one spec in bulk, whole workloads one by one, all or nothing
           4 what found no room: preempt (urgent work), reserve (gangs), wait with the reason counted

A block that fails is not tried again for the same need: within a round room only shrinks. So a round costs about as
much as it has different needs and placements, not as it has pending work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.shapes import is_simple
from scheduler.domain.state import ClusterState, Phase
from scheduler.planner.choice import NodeChoice, Spread, links_full
from scheduler.planner.feasibility import SpecView, Views, per_empty_node
from scheduler.planner.fragmentation import Fragmentation, fragmentation_of
from scheduler.planner.patterns import Patterns, enumerate_patterns
from scheduler.planner.pauses import Paused, pause_dear_work
from scheduler.planner.preempt import Preempted, RoomMaker
from scheduler.planner.queue import START_MARGIN_S, heads, in_order, released, urgent, whole_is_released
from scheduler.planner.reserve import Ends, Reservations, earliest_slot, ends_of
from scheduler.planner.scoring import Scorer, TieredScorer
from scheduler.planner.snapshot import (
    LINK_SLACK_MBPS,
    MANY,
    POWER_SLACK_W,
    Snapshot,
    gpus_for,
    keeps_off_floor,
    pipeline_mbps,
    stage_sites,
    stage_sites_own,
)
from scheduler.planner.spreads import domains_in_use, domains_of
from suanli.model import ReasonCode, Stage, Workload

PREEMPTING_RANKS = 2
"""hard_safety (0) and public_service (1) may displace preemptible batch work."""
MAX_PATTERN_TRIES = 256
MAX_SUBSETS_OF = 5
"""Of so many stages all 31 subsets are tried to leave with one that has no place; of more only all together."""
MAX_ROOM_TRIES = 32
"""Attempts at preemption in one round: each costs some milliseconds, and a round must answer in time."""
MAX_SHORTER_TRIES = 32
"""After so many failures of one shape in a block, its shorter work is not tried before reservations either."""
MANY_ROWS = 6
"""From so many rows on, sums over the nodes are cheaper than row after row."""


@dataclass(frozen=True, slots=True)
class Placed:
    """One replica row put on a node, on the GPUs of the bit mask."""

    row: int
    node: int
    gpu_mask: int


@dataclass(frozen=True, slots=True)
class Displaced:
    """A placement that has to go because the stage it shares went to a site too far away."""

    row: int
    cause: str


@dataclass
class RoundResult:
    """What a round decided."""

    placed: list[Placed] = field(default_factory=list)
    preempted: list[Preempted] = field(default_factory=list)
    displaced: list[Displaced] = field(default_factory=list)
    paused: list[Paused] = field(default_factory=list)
    waiting: Counter[ReasonCode] = field(default_factory=Counter)
    considered: int = 0

    def room_given(self) -> set[int]:
        """Rows that stop and whose room others have in this round already."""
        return {p.row for p in self.preempted} | {p.row for p in self.paused}

    def leaving(self) -> set[int]:
        """Rows of all that this round stops."""
        return self.room_given() | {d.row for d in self.displaced}


class PatternCache:
    """Patterns per shape; a cache over the fleet."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._known: dict[int, Patterns] = {}

    def of(self, state: ClusterState, shape: int) -> Patterns:
        """Patterns of a shape."""
        if shape not in self._known:
            specs = state.shapes.specs_of_shape[shape]
            self._known[shape] = enumerate_patterns(
                state.shapes.templates[shape], [self._views[s] for s in specs], self._views.topology
            )
        return self._known[shape]


@dataclass
class Round:
    """Scratch of one round; made, run once, thrown away."""

    state: ClusterState
    snapshot: Snapshot
    patterns: PatternCache
    scorer: Scorer
    now_s: int
    result: RoundResult = field(default_factory=RoundResult)
    packing: Fragmentation | None = None
    """What breaks ties between equally dear GPU nodes; None: the fullest comes first."""
    is_trial: bool = False
    """Over another moment's snapshot: nobody is displaced, for the state says nothing of it."""
    declared: Ends | None = None
    """Of a trial: what its snapshot holds and when that ends. Without it no nodes are kept for gangs."""
    choice: NodeChoice = field(init=False)
    _work_left_s: NDArray[np.float64] = field(init=False)
    """(replicas,) declared time left of every row."""
    _full: dict[tuple[int, bytes], float] = field(default_factory=dict)
    """Need → declared time left of work that found no room; longer work of that need finds none either."""
    _placed_sites: dict[int, dict[str, int]] = field(default_factory=dict)
    """Workload of several stages placed in this round → stage id → site."""
    _owners: list[int] = field(init=False)
    """Workloads with a stage that others share: one place for all of it, chosen with theirs."""
    _follow: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    """Workloads that will leave all but these sites by planned moves."""
    _left: set[tuple[str, str]] = field(default_factory=set)
    """(workload, stage id) of stages that this round stops so that they go elsewhere: nobody is placed beside them."""
    _without_owner: list[NDArray[np.int64]] = field(default_factory=list)
    _room_known: dict[tuple[object, ...], tuple[NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=dict
    )
    """Need, groups and most per node → (S,) how often each site had changed by then, and (S,) its room."""
    _largest: dict[int, list[int]] = field(default_factory=dict)
    """Shape → its stages, the largest first."""
    _shortages: dict[tuple[object, ...], ReasonCode] = field(default_factory=dict)
    _room_maker: RoomMaker | None = None
    _room_tries: int = 0
    _leave_tries: int = 0
    _ends: tuple[tuple[int, int], Ends] | None = None
    _placed_known: list[tuple[int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        kept = Reservations(self.snapshot, self.now_s)
        self.choice = NodeChoice(self.snapshot, self.scorer, kept, self.packing)
        self._work_left_s = self.state.replicas["work_s"] - self.state.replicas["done_work_s"]
        self._owners = self.state.shared_owners()

    @property
    def reservations(self) -> Reservations:
        """Nodes kept for gangs that wait."""
        return self.choice.reservations

    @reservations.setter
    def reservations(self, kept: Reservations) -> None:
        self.choice.reservations = kept

    def run(self) -> RoundResult:
        """1 heads → 2 order → 3 place, block by block."""
        rows = heads(self.state, self.now_s)
        self.result.considered = len(rows)
        self.place_rows(in_order(self.state, rows, self.now_s))
        return self.result

    def place_rows(self, blocks: Sequence[NDArray[np.int64]]) -> None:
        """Place blocks of rows in their turn; what finds no room waits."""
        simple, spec_of = self.state.shapes.columns["simple"], self.state.replicas["spec"]
        workload_of = self.state.replicas["workload"]
        is_owner = np.zeros(len(self.state.names), bool)
        is_owner[self._owners] = True
        for block in blocks:
            if not simple[spec_of[block[0]]]:
                self._place_workloads(block)
                continue
            shared = is_owner[workload_of[block]]
            if shared.any():
                self._place_workloads(np.sort(block[shared]))
                block = block[~shared]
            if len(block):
                self._place_simple(block)
        self._place_sharers()

    def _place_sharers(self) -> None:
        """Workloads whose turn came before the one whose stage they share was placed in this same round."""
        late, self._without_owner = self._without_owner, []
        while late:
            for rows in late:
                self.result.waiting[ReasonCode.COLOCATION_UNMET] -= len(rows)
                self._place_workloads(rows)
            left, self._without_owner = self._without_owner, []
            late = left if len(left) < len(late) else []

    # -------------------------------------------------------------- simple replicas

    def _place_simple(self, block: NDArray[np.int64]) -> None:
        view = self._view_of(int(block[0]))
        rows = self._released(view, block)
        left = self._by_quota(view, rows)
        left = self._place(view, left, view.group_ok)
        if len(left) and self._may_preempt(view):
            left = self._preempt(view, left)
        if len(left):
            self.result.waiting[self._shortage(view)] += len(left)

    def _released(self, view: SpecView, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Without the deferrable rows that wait for their hour."""
        if not view.spec.workload.deferrable:
            return rows
        out = released(self.state, rows, self._wanted(view), self.now_s)
        self.result.waiting[ReasonCode.WAITS_FOR_PRICE] += len(rows) - len(out)
        return out

    def _wanted(self, view: SpecView) -> int | None:
        return self.scorer.may_start_deferred(view.spec.spec, self.snapshot)

    def _by_quota(self, view: SpecView, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Fill the plan's targets group by group, cheapest first; returns the rows left."""
        if not len(rows):
            return rows
        for only, room in self._wishes(view):
            if not len(rows):
                break
            rest = self._place(view, rows[:room], only)
            rows = np.concatenate([rest, rows[room:]])
        return rows

    def _wishes(self, view: SpecView) -> list[tuple[NDArray[np.bool_], int]]:
        """((G,) groups, replicas that the plan still wants there), cheapest first.

        A plan counts nodes continuously and sends work without GPUs to the cores beside GPU work. Whether there are
        any, on which nodes, only the round sees: for such work the plan's wish speaks of the site.
        """
        wanted = self._quota_room(view)
        if view.spec.stage.gpu_milli or not wanted:
            return [(np.arange(len(view.group_ok)) == g, room) for g, room in wanted]
        site_of = self.snapshot.topology.group_site
        quota = self.scorer.quota(view.spec.spec, self.snapshot)
        running = self.snapshot.running_of_fold(view.spec.spec)
        out = []
        for site in dict.fromkeys(int(site_of[g]) for g, _ in wanted):
            here = site_of == site
            asked = sum(amount for g, amount in quota.items() if here[g])
            room = int(np.ceil(asked - 1e-6)) - int(running[here].sum())
            if room > 0:
                out.append((here & view.group_ok, room))
        return out

    def _quota_room(self, view: SpecView) -> list[tuple[int, int]]:
        """(group, replicas that the plan still wants there), cheapest first."""
        quota = self.scorer.quota(view.spec.spec, self.snapshot)
        if not quota:
            return []
        cost = self.choice.group_cost(view)
        running = self.snapshot.running_of_fold(view.spec.spec)
        room = [(g, int(np.ceil(quota[g] - 1e-6)) - int(running[g])) for g in quota if view.group_ok[g]]
        return sorted(((g, n) for g, n in room if n > 0), key=lambda gn: (cost[gn[0]], gn[0]))

    def _place(
        self,
        view: SpecView,
        rows: NDArray[np.int64],
        groups: NDArray[np.bool_],
        *,
        remember: bool = True,
    ) -> NDArray[np.int64]:
        """Place rows in order on the cheapest nodes of the groups; returns those that found no room.

        `remember` keeps a failure for the rest of the round; not while a placement may still be undone.
        """
        if not len(rows):
            return rows
        key = (view.spec.spec, groups.tobytes())
        among = self.choice.ranges_of(groups)
        left: list[NDArray[np.int64]] = []
        for batch in self._alike(rows):
            left_s = self._left_s(batch)
            placed = 0
            step = self.scorer.chunk or len(batch)
            while placed < len(batch) and not (remember and self._is_full(key, left_s)):
                part = batch[placed : placed + step]
                longest_s = left_s if len(part) == len(batch) else self._left_s(part)
                nodes = self.choice.nodes_for(view, len(part), longest_s, among)
                self._commit(view, part[: len(nodes)], nodes)
                placed += len(nodes)
                if len(nodes) < len(part):
                    if remember:
                        self._full[key] = left_s
                    break
            left.append(batch[placed:])
        return left[0] if len(left) == 1 else np.concatenate(left)

    def _alike(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Rows that may use the same kept nodes, together; without reservations that is all of them."""
        instants = self.reservations.instants
        if not len(instants) or len(rows) == 1:
            return [rows]
        bucket = np.searchsorted(instants, self.now_s + self._work_left_s[rows] + START_MARGIN_S)
        order = np.lexsort((rows, -bucket))
        return np.split(rows[order], np.flatnonzero(np.diff(bucket[order]) != 0) + 1)

    def _is_full(self, key: tuple[int, bytes], left_s: float) -> bool:
        """Whether work of this need, and no longer than this, has found no room already."""
        failed_s = self._full.get(key)
        return failed_s is not None and left_s >= failed_s

    def _left_s(self, rows: NDArray[np.int64]) -> float:
        """Longest declared time left among the rows."""
        return float(self._work_left_s[rows].max())

    def _commit(self, view: SpecView, rows: NDArray[np.int64], nodes: NDArray[np.int64]) -> None:
        """Put the rows on the nodes chosen for them, on the devices that suit best."""
        at = nodes.tolist()
        masks = self.choice.devices_for(view, at) if view.spec.stage.gpu_milli else [0] * len(at)
        if len(at) >= MANY_ROWS:
            self.snapshot.take_many(view, nodes, np.array(masks, np.int64))
        else:
            for node, mask in zip(at, masks, strict=True):
                self.snapshot.take_node(view, node, mask)
        self.result.placed += map(Placed, rows.tolist(), at, masks)

    # -------------------------------------------------------------- whole workloads

    def _place_workloads(self, block: NDArray[np.int64]) -> None:
        """Workloads of one shape in order, each whole or not at all; what needs the same as one that failed waits."""
        owner = self.state.replicas["workload"][block]
        if owner[0] == owner[-1]:
            self._place_one_workload(block)
            return
        starts = np.flatnonzero(np.diff(owner, prepend=-1) != 0)
        size = np.diff(np.append(starts, len(block)))
        left_s = np.maximum.reduceat(self._work_left_s[block], starts)
        late = np.logical_or.reduceat(urgent(self.state, block, self.now_s), starts)
        bound = size != self.state.workloads["replica_count"][owner[starts]]
        template = self._template_of(int(block[0]))
        key = (-1 - int(self.state.workloads["shape"][owner[0]]), b"")
        open_ = np.ones(len(starts), bool)
        shorter_tries = 0
        for i in range(len(starts)):
            if not open_[i]:
                continue
            rows = block[starts[i] : starts[i] + size[i]]
            if template.deferrable and not late[i] and not self._whole_released(rows):
                shut = open_ & ~late & (size >= size[i]) & (np.arange(len(starts)) >= i)
                self.result.waiting[ReasonCode.WAITS_FOR_PRICE] += int(size[shut].sum())
                open_ &= ~shut
                continue
            if self._try_whole(rows, template, None if bound[i] else key):
                continue
            self._leave_waiting(rows, template)
            if bound[i]:
                continue
            if key not in self._full:
                continue
            shorter_tries += 1
            hopeless = (
                left_s >= self._full[key] if shorter_tries < MAX_SHORTER_TRIES else np.ones(len(starts), bool)
            )
            shut = open_ & ~bound & hopeless & (np.arange(len(starts)) > i)
            if shut.any():
                reason = self._reason_of(rows, template)
                self.result.waiting[reason] += int(size[shut].sum())
                open_ &= ~shut

    def _place_one_workload(self, rows: NDArray[np.int64]) -> None:
        """A block of one workload; the common case, for most services have a shape of their own."""
        workload = int(self.state.replicas["workload"][rows[0]])
        template = self._template_of(int(rows[0]))
        may_wait = template.deferrable and not urgent(self.state, rows, self.now_s).any()
        if may_wait and not self._whole_released(rows):
            self.result.waiting[ReasonCode.WAITS_FOR_PRICE] += len(rows)
            return
        is_bound = len(rows) != int(self.state.workloads["replica_count"][workload])
        key = None if is_bound else (-1 - int(self.state.workloads["shape"][workload]), b"")
        if not self._try_whole(rows, template, key):
            self._leave_waiting(rows, template)

    def _try_whole(self, rows: NDArray[np.int64], template: Workload, key: tuple[int, bytes] | None) -> bool:
        """Place, or preempt for, one workload; a failure is kept under `key`, unless parts of it lie somewhere."""
        left_s = self._left_s(rows)
        if not self._shared_stages_run(rows, template) or (key is not None and self._is_full(key, left_s)):
            return False
        if len(template.stages) > 1 and self._still_stops(rows):
            return False
        if self.place_whole(rows, template):
            return True
        if template.priority_class.rank < PREEMPTING_RANKS and self._make_room(rows, template):
            return True
        if self._leave_together(rows, template):
            return False  # what waits starts beside them once they have stopped
        if key is not None:
            self._full[key] = left_s
        return False

    def _whole_released(self, rows: NDArray[np.int64]) -> bool:
        view = self._view_of(int(rows[0]))
        mine = rows[self.state.replicas["spec"][rows] == view.spec.spec]
        return whole_is_released(self.state, mine, self._wanted(view), self.now_s)

    def _leave_waiting(self, rows: NDArray[np.int64], template: Workload) -> None:
        """Count the reason; a gang keeps the nodes that come free first."""
        if len(template.stages) == 1 and template.stages[0].gang and self._is_whole_gang(rows):
            self._reserve(rows)
        reason = self._reason_of(rows, template)
        if reason is ReasonCode.COLOCATION_UNMET:
            self._without_owner.append(rows)
        self.result.waiting[reason] += len(rows)

    def _reason_of(self, rows: NDArray[np.int64], template: Workload) -> ReasonCode:
        if len(template.stages) == 1 and template.stages[0].gang:
            return ReasonCode.GANG_NOT_WHOLE
        if not self._shared_stages_run(rows, template):
            return ReasonCode.COLOCATION_UNMET
        return self._shortage(self._view_of(int(rows[0])))

    def fits_together(self, rows: NDArray[np.int64], template: Workload) -> bool:
        """Whether these rows of one workload could all be placed now (explanations ask this of relaxed workloads)."""
        return self._place_for_room(rows, template)

    def place_on(self, rows: NDArray[np.int64], groups: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Place rows of one spec on these groups, one by one; returns those that found no room."""
        view = self._view_of(int(rows[0]))
        return self._place(view, rows, groups & view.group_ok, remember=False)

    def place_whole(self, rows: NDArray[np.int64], template: Workload) -> bool:
        """Place these rows of one workload now, all of them or none."""
        placed_before = len(self.result.placed)
        workload = int(self.state.replicas["workload"][rows[0]])
        if len(template.stages) == 1 and workload not in self._owners:
            view = self._view_of(int(rows[0]))
            if self._place_stage(view, rows, view.group_ok):
                return True
            self._undo(placed_before)
            return False
        shape = int(self.state.workloads["shape"][workload])
        before = self._stage_sites(workload)
        for sites in self._pattern_order(shape, workload, rows, before):
            if self._try_pattern(rows, sites, shape, template, before):
                lies = {s.stage_id: int(site) for s, site in zip(template.stages, sites, strict=True)}
                self._placed_sites[workload] = lies
                self._displace_sharers(workload, lies)
                return True
            self._undo(placed_before)
        return False

    def _place_stage(self, view: SpecView, rows: NDArray[np.int64], groups: NDArray[np.bool_]) -> bool:
        stage = view.spec.stage
        if stage.gang:
            return self._place_gang(view, rows, groups)
        if stage.spread is not None:
            return self._place_spread(view, rows, groups)
        return not len(self._place(view, rows, groups, remember=False))

    def _place_gang(self, view: SpecView, rows: NDArray[np.int64], groups: NDArray[np.bool_]) -> bool:
        """One group of one site; one fabric island when it fits in an empty one, several only when it must."""
        if not self._is_whole_gang(rows):
            return False
        spread = view.spec.stage.spread
        apart: Spread | None = None
        if spread is not None:
            each_node = np.arange(self.snapshot.topology.node_count)
            apart = Spread(each_node, frozenset(), spread.min_domains, over_sites=False)
        cost = self.choice.group_cost(view)
        wanted = {g for g, room in self._quota_room(view) if room >= len(rows)}
        may = np.flatnonzero(groups & self.choice.may_hold(view)).tolist()
        order = sorted(may, key=lambda g: (g not in wanted, cost[g], g))
        for group in order:
            for first, last in self._island_choices(view, rows, group):
                among = self.choice.range_of(group, first, last)
                nodes = self.choice.nodes_for(view, len(rows), self._left_s(rows), among, apart)
                if len(nodes) == len(rows):
                    self._commit(view, rows, nodes)
                    return True
        return False

    def _is_whole_gang(self, rows: NDArray[np.int64]) -> bool:
        """Whether every member that has work left is among the rows: none runs on or is still being stopped."""
        state = self.state
        own = state.rows_of(int(state.replicas["workload"][rows[0]]))
        spec = state.replicas["spec"][rows[0]]
        alive = (state.replicas["spec"][own] == spec) & (state.replicas["phase"][own] != Phase.DONE)
        return int(alive.sum()) == int((state.replicas["spec"][rows] == spec).sum())

    def _island_choices(self, view: SpecView, rows: NDArray[np.int64], group: int) -> list[tuple[int, int]]:
        """Node ranges to try: each island with room for the gang, tightest first; the whole group for larger gangs."""
        topology = self.snapshot.topology
        first, count = int(topology.group_first_node[group]), int(topology.group_node_count[group])
        size = int(topology.group_island_nodes[group])
        at = np.arange(first, first + count)
        fit = self.snapshot.fit(view, at)
        fit[~self.reservations.passes(at, self._left_s(rows))] = 0
        if fit.sum() < len(rows):
            return []
        if len(rows) > per_empty_node(view, group) * size or size >= count:
            return [(first, first + count)]
        begins = np.arange(0, count, size)
        room = np.add.reduceat(fit, begins)
        return [
            (first + i, min(first + i + size, first + count))
            for i in begins[np.argsort(room, kind="stable")].tolist()
            if room[i // size] >= len(rows)
        ]

    def _place_spread(self, view: SpecView, rows: NDArray[np.int64], groups: NDArray[np.bool_]) -> bool:
        """Enough different domains carry the stage, counting those in use; first where the plan wants it."""
        spread = view.spec.stage.spread
        assert spread is not None
        domain_of = domains_of(self.state, spread.over)
        used = domains_in_use(self.state, rows, view.spec.spec, domain_of)
        new = min(max(0, spread.min_domains - len(used)), len(rows))
        apart = Spread(domain_of, used, new, over_sites=spread.over == "site")
        wanted = np.zeros_like(groups)
        for asked_for, _ in self._wishes(view):
            wanted |= asked_for
        for choice in (groups & wanted, groups):
            if not choice.any():
                continue
            among = self.choice.ranges_of(choice)
            nodes = self.choice.nodes_for(view, len(rows), self._left_s(rows), among, apart)
            if len(nodes) == len(rows):
                self._commit(view, rows, nodes)
                return True
        return False

    def first_pattern(self, workload: int, rows: NDArray[np.int64]) -> dict[str, int]:
        """Stage id → site where these waiting rows would be tried first beside what lies; {} without any pattern."""
        shape = int(self.state.workloads["shape"][workload])
        template = self.state.shapes.templates[shape]
        patterns = self._pattern_order(shape, workload, rows, self._stage_sites(workload))
        if not len(patterns):
            return {}
        return {s.stage_id: int(site) for s, site in zip(template.stages, patterns[0], strict=True)}

    def takes_work(self, workload: int, stage_id: str, site: int) -> bool:
        """Whether a node of the site that the stage may use is up and not cordoned."""
        specs = self.state.shapes.specs_of_shape[int(self.state.workloads["shape"][workload])]
        view = next(v for s in specs if (v := self.snapshot.views[s]).spec.stage.stage_id == stage_id)
        at, nodes = self.snapshot.nodes_of(view.group_ok), self.snapshot.nodes
        here = at[self.snapshot.topology.node_site[at] == site]
        return bool((nodes.up[here] & ~nodes.cordoned[here]).any())

    # -------------------------------------------------------------- planned moves

    def place_again(
        self, rows: NDArray[np.int64], at_sites: NDArray[np.bool_], follow: Collection[int] = ()
    ) -> list[Placed]:
        """New places at these sites for running rows of one workload, as a planned move starts them; [] if not for all.

        The old placements go on until the new ones run, so the snapshot holds both. What else the workload has stays
        where it is; stages that cannot stay beside the new places move too, as few of them as can be. Workloads in
        `follow` leave other sites next: if they share a stage of this one, it is enough that they can lie beside it.
        """
        self._follow = dict.fromkeys(follow, at_sites)
        template, view = self._template_of(int(rows[0])), self._view_of(int(rows[0]))
        if len(template.stages) == 1 and int(self.state.replicas["workload"][rows[0]]) not in self._owners:
            groups = view.group_ok & at_sites[self.snapshot.topology.group_site]
            return self._apart_from_result(lambda: self._place_stage(view, rows, groups))
        return self._apart_from_result(lambda: self._place_stages_again(rows, template, at_sites))

    def place_gang_again(self, rows: NDArray[np.int64], group: int) -> list[Placed]:
        """As `place_again`, for a whole gang and one group."""
        view = self._view_of(int(rows[0]))
        groups = view.group_ok & (np.arange(len(view.group_ok)) == group)
        return self._apart_from_result(lambda: self._place_gang(view, rows, groups))

    def _apart_from_result(self, place: Callable[[], bool]) -> list[Placed]:
        """What `place` finds nodes for, in the snapshot but not in the round's result; [] when it does not for all."""
        placed_before = len(self.result.placed)
        if not place():
            self._undo(placed_before)
        placed = self.result.placed[placed_before:]
        del self.result.placed[placed_before:]
        return placed

    def forget(self, workload: int) -> None:
        """What `place_again` found for it was given back."""
        self._placed_sites.pop(workload, None)

    def _place_stages_again(
        self, rows: NDArray[np.int64], template: Workload, at_sites: NDArray[np.bool_]
    ) -> bool:
        state, placed_before = self.state, len(self.result.placed)
        workload = int(state.replicas["workload"][rows[0]])
        shape = int(state.workloads["shape"][workload])
        lies, own = self._stage_sites(workload), stage_sites_own(state, workload)
        must = {self._view_of(int(r)).spec.stage.stage_id for r in rows}
        may = sorted(s for s in set(own) - must if _keeps_work(template.stage(s)))
        if any(_spans_sites(template.stage(s)) for s in own):
            return False
        for also in [(), *sets_to_leave(may, ())]:
            moving = must.union(also)
            kept = {s: site for s, site in lies.items() if s not in moving}
            mine = self._rows_of_stages(workload, moving)
            patterns = self._pattern_order(shape, workload, mine, kept)
            unmet, _ = self._sharers_at(workload, [s.stage_id for s in template.stages], patterns)
            patterns = patterns[unmet == 0]
            may_take = np.array([at_sites | (s.stage_id not in moving) for s in template.stages])
            for sites in patterns[may_take[np.arange(patterns.shape[1]), patterns].all(axis=1)]:
                if self._try_pattern(mine, sites, shape, template, kept):
                    at = {s.stage_id: int(site) for s, site in zip(template.stages, sites, strict=True)}
                    self._placed_sites[workload] = at
                    return True
                self._undo(placed_before)
        return False

    def _rows_of_stages(self, workload: int, stage_ids: Collection[str]) -> NDArray[np.int64]:
        """Rows of these stages of a workload that lie somewhere."""
        own = self.state.rows_of(workload)
        rows = [r for r in range(own.start, own.stop) if any(self._lies_as(r, s) for s in stage_ids)]
        return np.array(rows, np.int64)

    # -------------------------------------------------------------- stages together

    def _pattern_order(
        self, shape: int, workload: int, rows: NDArray[np.int64], before: dict[str, int]
    ) -> NDArray[np.int64]:
        """(P, stages) patterns that agree with what lies somewhere already and have room per stage, cheapest first.

        With those who wait to share a stage of this workload: first where most of them can follow, then where all
        together cost least.
        """
        template = self.state.shapes.templates[shape]
        if any(s.stage_id not in before for s in self._shared_stages(shape)):
            return np.zeros((0, len(template.stages)), np.int64)
        sites, cost = self._priced_patterns(shape, rows, before)
        unmet, sharers_cost = self._sharers_at(workload, [s.stage_id for s in template.stages], sites)
        cost = cost + sharers_cost
        return sites[np.lexsort((*sites.T[::-1], np.round(cost, 9), unmet))][:MAX_PATTERN_TRIES]

    def _shared_stages(self, shape: int) -> list[Stage]:
        """Stages of the shape that are other workloads', under the rules of this round."""
        views = [self.snapshot.views[spec] for spec in self.state.shapes.specs_of_shape[shape]]
        return [v.spec.stage for v in views if v.spec.stage.shared_with is not None]

    def _priced_patterns(
        self, shape: int, rows: NDArray[np.int64], before: dict[str, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(P, stages) patterns with what lies as `before` and room for the rows, and (P,) yuan per hour of the rows."""
        state = self.state
        patterns = self.patterns.of(state, shape)
        sites = patterns.sites
        cost = np.zeros(len(sites))
        for i, spec in enumerate(state.shapes.specs_of_shape[shape]):
            view = self.snapshot.views[spec]
            stage = view.spec.stage
            fixed = before.get(stage.stage_id)
            if fixed is not None:
                keep = sites[:, i] == fixed
                sites, cost = sites[keep], cost[keep]
            mine = int((state.replicas["spec"][rows] == spec).sum())
            if not mine:
                continue
            room = self._room_at_sites(view, patterns.group_ok[i], len(rows))
            spread_out = _spans_sites(stage)
            keep = room[sites[:, i]] >= (1 if spread_out else mine)
            sites, cost = sites[keep], cost[keep]
            cost = cost + self._site_cost(view, patterns.group_ok[i])[sites[:, i]] * stage.replicas
        return sites, cost

    def _room_at_sites(self, view: SpecView, groups: NDArray[np.bool_], most: int) -> NDArray[np.int64]:
        """(S,) how many more replicas these groups of each site hold, counting `most` a node at the most.

        Looked at anew only at sites that have changed since it was asked last.
        """
        snapshot, topology = self.snapshot, self.snapshot.topology
        key = (view.likeness, keeps_off_floor(view), groups.tobytes(), most)
        changes = np.array([len(nodes) for nodes in snapshot.changed])
        known = self._room_known.get(key)
        seen, room = known or (np.full(topology.site_count, -1), np.zeros(topology.site_count, np.int64))
        stale = changes != seen
        if stale.any():
            at = snapshot.nodes_of(groups)
            at = at[stale[topology.node_site[at]]]
            fit = np.minimum(snapshot.fit(view, at), most)
            anew = np.bincount(topology.node_site[at], fit, topology.site_count).astype(np.int64)
            room = np.where(stale, anew, room)
            self._room_known[key] = (changes, room)
        return room

    def _sharers_at(
        self, workload: int, stage_ids: Sequence[str], sites: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(P,) live sharers that could not lie beside each pattern of a workload, and what the others that wait cost
        there at least (yuan per hour), each for itself on its cheapest pattern with room."""
        state = self.state
        unmet, cost = np.zeros(len(sites), np.int64), np.zeros(len(sites))
        active = state.active_workloads()
        for other in state.sharers.get(state.names[workload], []):
            if not active[other]:
                continue
            shape = int(state.workloads["shape"][other])
            stages = state.shapes.templates[shape].stages
            ours = [(i, s.stage_id) for i, s in enumerate(stages) if s.shared_with == state.names[workload]]
            ours = [(i, stage_id) for i, stage_id in ours if stage_id in stage_ids]
            known = self._stage_sites(other) | self._placed_sites.get(other, {})
            known = {k: site for k, site in known.items() if k not in {stage_id for _, stage_id in ours}}
            if other in self._follow and other not in self._placed_sites:
                known = {k: site for k, site in known.items() if self._follow[other][site]}
            own = np.arange(state.rows_of(other).start, state.rows_of(other).stop)
            waiting = own[(state.replicas["phase"][own] == Phase.WAITING) & (other not in self._placed_sites)]
            allowed, price = self._priced_patterns(shape, waiting, known)
            least: dict[tuple[int, ...], float] = {}
            for row, yuan in zip(allowed[:, [i for i, _ in ours]].tolist(), price.tolist(), strict=True):
                least[tuple(row)] = min(yuan, least.get(tuple(row), np.inf))
            beside = sites[:, [stage_ids.index(stage_id) for _, stage_id in ours]]
            its = np.array([least.get(tuple(row), np.inf) for row in beside.tolist()])
            unmet += ~np.isfinite(its)
            cost += np.where(np.isfinite(its), its, 0.0)
        return unmet, cost

    def _site_cost(self, view: SpecView, groups: NDArray[np.bool_]) -> NDArray[np.float64]:
        cost = np.where(groups, self.choice.group_cost(view), np.inf)
        out = np.full(self.snapshot.topology.site_count, np.inf)
        np.minimum.at(out, self.snapshot.topology.group_site, cost)
        return out

    def _try_pattern(
        self,
        rows: NDArray[np.int64],
        sites: NDArray[np.int64],
        shape: int,
        template: Workload,
        before: dict[str, int],
    ) -> bool:
        """All stages that wait, largest first, on their sites of the pattern, with room on the links between."""
        topology = self.snapshot.topology
        after = {s.stage_id: int(site) for s, site in zip(template.stages, sites, strict=True)}
        more = np.asarray(pipeline_mbps(template, after, topology)) - pipeline_mbps(
            template, before, topology
        )
        more = more + self._sharers_mbps(rows, after)
        if (more > self.snapshot.spare_mbps() + LINK_SLACK_MBPS).any():
            return False
        self.snapshot.link_mbps += more
        if self._place_stages(rows, sites, shape):
            return True
        self.snapshot.link_mbps -= more
        return False

    def _sharers_mbps(self, rows: NDArray[np.int64], after: dict[str, int]) -> NDArray[np.float64] | float:
        """(L,) what workloads that share a stage of this one load more, once these rows lie as in `after`."""
        state, topology = self.state, self.snapshot.topology
        name = state.names[int(state.replicas["workload"][rows[0]])]
        sharers = state.sharers.get(name, [])
        if not sharers:
            return 0.0
        active = state.active_workloads()
        more: NDArray[np.float64] | float = 0.0
        for other in sharers:
            if active[other]:
                template = state.shapes.templates[int(state.workloads["shape"][other])]
                now = self._stage_sites(other)
                shared = [s.stage_id for s in template.stages if s.shared_with == name]
                then = now | {s: after[s] for s in shared}
                more = more + pipeline_mbps(template, then, topology) - pipeline_mbps(template, now, topology)
        return more

    def _place_stages(self, rows: NDArray[np.int64], sites: NDArray[np.int64], shape: int) -> bool:
        state, topology = self.state, self.snapshot.topology
        patterns = self.patterns.of(state, shape)
        spec_of = state.replicas["spec"][rows]
        for i in self._largest_first(shape):
            spec = state.shapes.specs_of_shape[shape][i]
            mine = rows[spec_of == spec]
            if not len(mine):
                continue
            view = self.snapshot.views[spec]
            allowed = np.zeros(topology.site_count, bool)
            if _spans_sites(view.spec.stage):
                allowed[list(patterns.alternatives(sites, i))] = True
            allowed[sites[i]] = True
            if not self._place_stage(view, mine, patterns.group_ok[i] & allowed[topology.group_site]):
                return False
        return True

    def _largest_first(self, shape: int) -> list[int]:
        """Stages by their dominant share of an average node, so that small ones fill what large ones leave."""
        known = self._largest.get(shape)
        if known is None:
            specs = self.state.shapes.specs_of_shape[shape]
            mean = np.maximum(self.snapshot.topology.group_capacity.mean(axis=0), 1.0)
            size = [float((self.snapshot.views[s].need.max(axis=0) / mean).max()) for s in specs]
            known = self._largest[shape] = sorted(range(len(specs)), key=lambda i: (-size[i], i))
        return known

    def _stage_sites(self, workload: int) -> dict[str, int]:
        """Stage id → site of what lies somewhere already, shared stages and this round's placements included."""
        lies = stage_sites(self.state, workload)
        for spec in self.state.shapes.specs_of_shape[int(self.state.workloads["shape"][workload])]:
            stage = self.snapshot.views[spec].spec.stage
            if stage.shared_with is None and self.state.spec(spec).stage.shared_with is not None:
                lies.pop(stage.stage_id, None)  # a trial without that rule
            elif (stage.shared_with, stage.stage_id) in self._left:
                lies.pop(stage.stage_id, None)
            elif stage.shared_with is not None:
                owner = self.state.index_of.get(stage.shared_with, -1)
                lies |= {k: s for k, s in self._placed_sites.get(owner, {}).items() if k == stage.stage_id}
        return lies

    def _shared_stages_run(self, rows: NDArray[np.int64], template: Workload) -> bool:
        """Whether every stage that is another workload's lies somewhere."""
        shared = [s.stage_id for s in template.stages if s.shared_with is not None]
        if not shared:
            return True
        lies = self._stage_sites(int(self.state.replicas["workload"][rows[0]]))
        return all(stage_id in lies for stage_id in shared)

    def _displace_sharers(self, workload: int, lies: dict[str, int]) -> None:
        """Workloads that share a stage which now lies too far from their own: they have to be placed anew."""
        state = self.state
        for other in state.sharers.get(state.names[workload], []):
            own = state.rows_of(other)
            on = np.arange(own.start, own.stop)[state.replicas["node"][own] >= 0]
            if not len(on):
                continue
            shape = int(state.workloads["shape"][other])
            stages = state.shapes.templates[shape].stages
            now = stage_sites(state, other)
            shared = [s.stage_id for s in stages if s.shared_with == state.names[workload]]
            now |= {stage_id: lies[stage_id] for stage_id in shared if stage_id in lies}
            allowed = self.patterns.of(state, shape).sites
            for i, s in enumerate(stages):
                if s.stage_id in now:
                    allowed = allowed[allowed[:, i] == now[s.stage_id]]
            if not len(allowed):
                where = ", ".join(f"{s} to {self.snapshot.topology.site_ids[now[s]]}" for s in shared)
                cause = f"what it shares went elsewhere: {where}"
                self.result.displaced += [Displaced(int(row), cause) for row in on]

    def _still_stops(self, rows: NDArray[np.int64]) -> bool:
        """Whether other stages of the workload have yet to say that they stopped: stages are placed together."""
        state = self.state
        own = state.rows_of(int(state.replicas["workload"][rows[0]]))
        held = (state.replicas["phase"][own] == Phase.WAITING) & (
            state.replicas["hold_until_s"][own] > self.now_s
        )
        return bool(held.any())

    def _leave_together(self, rows: NDArray[np.int64], template: Workload) -> bool:
        """A stage that runs nowhere has no place beside the others: as few of them as can be leave with it.

        Only when all of them then have room somewhere, tried as if those had left already, and no work is lost by it.
        """
        if self.is_trial or len(template.stages) == 1 or self._leave_tries >= MAX_ROOM_TRIES:
            return False
        state, snapshot = self.state, self.snapshot
        workload = int(state.replicas["workload"][rows[0]])
        own = stage_sites_own(state, workload)
        stage_of = {int(r): self._view_of(int(r)).spec.stage.stage_id for r in rows}
        missing = sorted(set(stage_of.values()) - set(own))
        lasting = [s for s in own if not _keeps_work(template.stage(s))]
        if not missing or len(lasting) == len(own):
            return False
        self._leave_tries += 1
        all_rows = np.arange(state.rows_of(workload).start, state.rows_of(workload).stop)
        on = {s: [int(r) for r in all_rows if self._lies_as(int(r), s)] for s in own}
        shape, before = int(state.workloads["shape"][workload]), self._stage_sites(workload)
        saved, placed_before = snapshot.copy(), len(self.result.placed)
        shared, name = self.shared_by_others(workload), state.names[workload]
        may_leave = sorted(set(own) - set(lasting))
        if any(user in self._placed_sites for user in state.sharers.get(name, [])):
            may_leave = [s for s in may_leave if s not in shared]  # somebody has just been placed beside them
        for leaving in sets_to_leave(may_leave, shared.intersection(may_leave)):
            gone = [r for s in leaving for r in on[s]]
            for r in gone:
                node, mask = (int(state.replicas[c][r]) for c in ("node", "gpu_mask"))
                snapshot.take_node(self._view_of(r), node, mask, -1)
            kept = {s: site for s, site in before.items() if s not in leaving}
            snapshot.link_mbps -= pipeline_mbps(template, before, snapshot.topology)
            snapshot.link_mbps += pipeline_mbps(template, kept, snapshot.topology)
            together = np.sort(np.concatenate([rows, np.array(gone, np.int64)]))
            has_room = False
            for sites in self._pattern_order(shape, workload, together, kept):
                has_room = self._try_pattern(together, sites, shape, template, kept)
                if has_room:
                    break
                self._undo(placed_before)
            del self.result.placed[placed_before:]
            snapshot.restore(saved)
            if has_room:
                cause = f"{', '.join(missing)} has no place beside it, so they go elsewhere together"
                self.result.displaced += [Displaced(r, cause) for r in gone]
                self._left |= {(name, stage_id) for stage_id in leaving}
                return True
        return False

    def _lies_as(self, row: int, stage_id: str) -> bool:
        return self.state.replicas["node"][row] >= 0 and self._view_of(row).spec.stage.stage_id == stage_id

    def shared_by_others(self, workload: int) -> frozenset[str]:
        """Stages of the workload that live others use."""
        state, name = self.state, self.state.names[workload]
        active = state.active_workloads()
        users = [u for u in state.sharers.get(name, []) if active[u]]
        shapes = {int(state.workloads["shape"][u]) for u in users}
        stages = [s for shape in shapes for s in state.shapes.templates[shape].stages]
        return frozenset(s.stage_id for s in stages if s.shared_with == name)

    def _undo(self, keep: int) -> None:
        for placed in self.result.placed[keep:]:
            self.snapshot.take_node(self._view_of(placed.row), placed.node, placed.gpu_mask, -1)
        del self.result.placed[keep:]

    # -------------------------------------------------------------- preemption

    def _may_preempt(self, view: SpecView) -> bool:
        return view.spec.workload.priority_class.rank < PREEMPTING_RANKS

    def _preempt(self, view: SpecView, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Place urgent rows one by one where preemptible batch work gives way; returns those left."""
        for i in range(len(rows)):
            if not self._make_room(rows[i : i + 1], view.spec.workload):
                return rows[i:]
        return rows[:0]

    def _make_room(self, rows: NDArray[np.int64], template: Workload) -> bool:
        """Place the rows as if preemptible work were gone, then take away only what each node needs.

        The stop orders of what gives way come before the start in the same commit.
        """
        if self.is_trial:
            return False
        if self._room_maker is None:
            paused = [p.row for p in self.result.paused]
            self._room_maker = RoomMaker(self.state, self.snapshot, self.now_s, paused)
        maker = self._room_maker
        if not maker.has_victims() or self._room_tries >= MAX_ROOM_TRIES:
            return False
        self._room_tries += 1
        saved, placed_before = self.snapshot.copy(), len(self.result.placed)
        displaced_before, sites_before = len(self.result.displaced), dict(self._placed_sites)
        full, self._full = self._full, {}
        self.choice.node_penalty = maker.penalty(
            {int(s) for s in np.unique(self.state.replicas["spec"][rows])}
        )
        maker.take_all_away()
        found = self._place_for_room(rows, template)
        placed = self.result.placed[placed_before:]
        del self.result.placed[placed_before:]
        self.snapshot.restore(saved)
        self.choice.node_penalty, self._full = None, full
        if found and self._give_way(placed, template, saved):
            return True
        del self.result.displaced[displaced_before:]
        self._placed_sites = sites_before
        return False

    def _place_for_room(self, rows: NDArray[np.int64], template: Workload) -> bool:
        if is_simple(template) and int(self.state.replicas["workload"][rows[0]]) not in self._owners:
            view = self._view_of(int(rows[0]))
            return not len(self._place(view, rows, view.group_ok))
        return self.place_whole(rows, template)

    def _give_way(self, placed: Sequence[Placed], template: Workload, saved: Snapshot) -> bool:
        """Stop the victims and start the rows on the nodes found; everything back if a limit would break."""
        maker = self._room_maker
        assert maker is not None
        victims = maker.victims_for([(p.row, p.node) for p in placed])
        if victims is None:
            return False
        maker.remove(victims)
        before = len(self.result.placed)
        for p in placed:
            view = self._view_of(p.row)
            need_milli = int(view.need[self.snapshot.topology.node_group[p.node], 2])
            mask = gpus_for(
                self.snapshot.nodes.gpu_milli[p.node], need_milli
            )  # the devices victims were chosen for
            self.snapshot.take_node(view, p.node, mask)
            self.result.placed.append(Placed(p.row, p.node, mask))
        self._load_links(placed, template)
        over_power = (self.snapshot.spare_w() < -POWER_SLACK_W) & (self.snapshot.spare_w() < saved.spare_w())
        over_links = (self.snapshot.link_mbps > saved.link_mbps) & (
            self.snapshot.link_mbps > self.snapshot.topology.link_spare_mbps + LINK_SLACK_MBPS
        )
        if over_power.any() or over_links.any():
            del self.result.placed[before:]
            self.snapshot.restore(saved)
            maker.put_back(victims)
            return False
        self.result.preempted += maker.record(victims, placed[0].row)
        return True

    def _load_links(self, placed: Sequence[Placed], template: Workload) -> None:
        """Traffic between the stages of a workload that has just been placed."""
        if len(template.stages) == 1:
            return
        topology = self.snapshot.topology
        before = self._stage_sites(int(self.state.replicas["workload"][placed[0].row]))
        after = dict(before)
        for p in placed:
            after.setdefault(self._view_of(p.row).spec.stage.stage_id, int(topology.node_site[p.node]))
        self.snapshot.link_mbps += pipeline_mbps(template, after, topology)
        self.snapshot.link_mbps -= pipeline_mbps(template, before, topology)

    # -------------------------------------------------------------- reservations

    def _reserve(self, rows: NDArray[np.int64]) -> None:
        """Keep the nodes of one pool that come free first for this gang."""
        is_blind = self.is_trial and self.declared is None
        if is_blind or not self.reservations.may_keep(self._view_of(int(rows[0])).candidate_groups):
            return
        slot = earliest_slot(
            self.snapshot,
            self._view_of(int(rows[0])),
            len(rows),
            self._ends_now(),
            self.now_s,
            self.reservations.groups,
        )
        self.reservations.keep(slot, int(self.state.replicas["workload"][rows[0]]))

    def _ends_now(self) -> Ends:
        """Declared ends of what is placed by now, this round's placements included; kept until more is placed."""
        decided = (len(self.result.placed), len(self.result.preempted))
        if self._ends is None or self._ends[0] != decided:
            gone = self.result.room_given()
            new = self.result.placed[len(self._placed_known) :]  # what stands here is never undone later
            self._placed_known += [(p.row, p.node, p.gpu_mask) for p in new]
            self._ends = (
                decided,
                ends_of(self.state, self._placed_known, self.now_s, gone)
                if self.declared is None
                else self.declared.with_started(self.state, self._placed_known, self.now_s),
            )
        return self._ends[1]

    # -------------------------------------------------------------- why not

    def _shortage(self, view: SpecView) -> ReasonCode:
        """The resource that rules out the most nodes of the candidate groups; found once for specs that are alike."""
        key = (view.likeness, self.snapshot.low_used is not None and keeps_off_floor(view))
        if key not in self._shortages:
            self._shortages[key] = shortage_codes(self.snapshot, view).most_common(1)[0][0]
        return self._shortages[key]

    def _view_of(self, row: int) -> SpecView:
        return self.snapshot.views[int(self.state.replicas["spec"][row])]

    def _template_of(self, row: int) -> Workload:
        return self.state.spec(int(self.state.replicas["spec"][row])).workload


def shared_stage_sites(
    state: ClusterState, views: Views, scorer: Scorer, now_s: int
) -> dict[tuple[str, str], int]:
    """(owner, stage id) → site, for stages that live workloads share: where it lies, or where a round would put it now.

    What waits is placed as rounds place it: jointly with those who wait to share it. A stage without a place, and one
    at a site that takes nothing new, is left out.
    """
    snapshot: Snapshot | None = None
    found: dict[tuple[str, str], int] = {}
    for owner in state.shared_owners():
        if snapshot is None:
            snapshot = Snapshot.take(state, views)
            trial = Round(state, snapshot, PatternCache(views), scorer, now_s, is_trial=True)
        name, own = state.names[owner], state.rows_of(owner)
        lies = stage_sites(state, owner)
        if len(lies) < len(state.shapes.templates[int(state.workloads["shape"][owner])].stages):
            waiting = np.arange(own.start, own.stop)[state.replicas["node"][own] < 0]
            lies = trial.first_pattern(owner, waiting) or lies
        shared = trial.shared_by_others(owner).intersection(lies)
        found |= {(name, s): lies[s] for s in sorted(shared) if trial.takes_work(owner, s, lies[s])}
    return found


def sets_to_leave(stages: Collection[str], shared: Collection[str]) -> list[tuple[str, ...]]:
    """Which stages could leave their places, fewest first; those that others share only when all leave."""
    own = [s for s in stages if s not in shared]
    private = (
        [c for n in range(1, len(own) + 1) for c in combinations(own, n)]
        if len(own) <= MAX_SUBSETS_OF
        else []
    )
    return [*private, *([tuple(own)] if own and not private else []), *([tuple(stages)] if shared else [])]


def _keeps_work(stage: Stage) -> bool:
    """Whether a stop loses no work to speak of."""
    return stage.is_service or stage.checkpoint_interval_s > 0


def _spans_sites(stage: Stage) -> bool:
    """Whether the replicas of the stage must not all lie on one site."""
    return stage.spread is not None and stage.spread.over == "site" and stage.spread.min_domains > 1


def shortage_codes(
    snapshot: Snapshot, view: SpecView, at: NDArray[np.int64] | None = None
) -> Counter[ReasonCode]:
    """Nodes ruled out by each reason that depends on the moment; a node counts under every reason that holds.

    Of the candidate groups, or only of the nodes `at`.
    """
    topology, nodes, stage = snapshot.topology, snapshot.nodes, view.spec.stage
    at = snapshot.nodes_of(view.group_ok) if at is None else at
    here = (
        slice(None) if len(at) == topology.node_count else at
    )  # a slice saves copying what all nodes have free
    codes: Counter[ReasonCode] = Counter()
    up, cordoned = nodes.up[here], nodes.cordoned[here]
    usable = up & ~cordoned
    codes[ReasonCode.SITE_DOWN] = int(np.count_nonzero(~up))
    codes[ReasonCode.SITE_CORDONED] = int(np.count_nonzero(up & cordoned))
    short = np.zeros(len(at), bool)
    for code, free, need in (
        (ReasonCode.CPU_SHORT, nodes.cpu_milli, stage.cpu_milli),
        (ReasonCode.MEMORY_SHORT, nodes.memory_mib, stage.memory_mib),
        (ReasonCode.STORAGE_SHORT, nodes.storage_gib, stage.storage_gib),
    ):
        if need:
            too_little = usable & (free[here] < need)
            codes[code] = int(np.count_nonzero(too_little))
            short |= too_little
    fits = usable & ~short
    codes[ReasonCode.RESERVED_FLOOR] = 0  # before the GPU's, which decides between equal counts
    if stage.gpu_milli:
        enough = snapshot.gpus_free(at) >= view.need[topology.node_group[at], 2]
        whole = snapshot.holds_one(view, at)
        codes[ReasonCode.GPU_SHORT] = int(np.count_nonzero(usable & ~enough))
        codes[ReasonCode.GPU_FRAGMENTED] = int(np.count_nonzero(fits & enough & ~whole))
        fits &= whole
    if snapshot.low_used is not None:
        codes[ReasonCode.RESERVED_FLOOR] = int(np.count_nonzero(fits & (snapshot.fit(view, at) <= 0)))
    codes[ReasonCode.POWER_LIMIT] = _power_blocked_count(snapshot, view, at, fits)
    full = links_full(snapshot, view)
    if full.any():
        codes[ReasonCode.LINK_FULL] = int(np.count_nonzero(fits & full[topology.node_site[at]]))
    positive = Counter({code: n for code, n in codes.items() if n > 0})
    return positive or Counter({ReasonCode.RESERVED_FOR_GANG: int(fits.sum())})


def _power_blocked_count(
    snapshot: Snapshot, view: SpecView, at: NDArray[np.int64], fits: NDArray[np.bool_]
) -> int:
    """Nodes `at` that have room, at sites that have no power for one more replica there."""
    topology = snapshot.topology
    spare_w = snapshot.spare_w()[topology.group_site] + POWER_SLACK_W
    on, asleep = view.watts > spare_w, view.watts + topology.group_idle_w > spare_w
    if not asleep.any():
        return 0
    group = topology.node_group[at]
    return int(np.count_nonzero(fits & np.where(snapshot.empty_node[at], asleep[group], on[group])))


def run_round(state: ClusterState, views: Views, patterns: PatternCache, scorer: Scorer, now_s: int) -> Round:
    """A round that has run over everything that waits, with its scratch: explanations read that."""
    snapshot = Snapshot.take(state, views)
    packing = fragmentation_of(state, snapshot) if isinstance(scorer, TieredScorer) else None
    done = Round(state, snapshot, patterns, scorer, now_s, packing=packing)
    done.result.paused += pause_dear_work(state, snapshot, scorer, now_s)
    done.run()
    if packing is not None:
        packing.release()
    return done


def place_all(
    state: ClusterState, views: Views, patterns: PatternCache, scorer: Scorer, now_s: int
) -> tuple[RoundResult, Snapshot]:
    """Run one round over everything that waits."""
    done = run_round(state, views, patterns, scorer, now_s)
    return done.result, done.snapshot


__all__ = [
    "MANY",
    "Displaced",
    "PatternCache",
    "Placed",
    "Preempted",
    "Round",
    "RoundResult",
    "place_all",
    "shared_stage_sites",
]
