"""Which sites and node groups can hold one replica of a spec at all, and every reason why the others cannot.

A rule has two faces: a mask over all sites, taken for every spec, and the reasons at one site, made when somebody asks.
`RULES` is their ordered list; a site is a candidate when every rule lets it pass and one of its groups meets all that
is asked of a node. What depends on the moment (free capacity, outages, quotas) is not decided here but in the round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from scheduler.domain.shapes import ShapeTable, Spec
from scheduler.domain.topology import RESOURCES, Topology
from suanli.model import PriorityClass, Reason, ReasonCode, Stage, Workload
from suanli.model.units import MILLI

CPU_PROCESSING = "cpu"
"""Key of `processing_p99_ms` for stages without a GPU."""
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class SpecView:
    """A spec against the installed fleet, as arrays over G groups and S sites."""

    spec: Spec
    topology: Topology
    need: NDArray[np.int64]
    """(G, R) of one replica on a node of the group: cpu_milli, memory_mib, gpu_milli, storage_gib."""
    watts: NDArray[np.float64]
    """(G,) mean dynamic power of one running replica."""
    rtt_p99_ms: NDArray[np.float64]
    """(S,) worst network leg to a zone; 0 where the stage has none."""
    group_ok: BoolArray
    """(G,) the site passes every rule and the group's nodes are large enough."""

    @property
    def candidate_groups(self) -> NDArray[np.int64]:
        """Indices of groups that may hold it."""
        return np.flatnonzero(self.group_ok)

    @cached_property
    def traffic(self) -> tuple[tuple[str, float], ...]:
        """(hub, Mbps) of one replica's flows to and from zones."""
        return zone_traffic(self.spec, self.topology)

    @cached_property
    def likeness(self) -> tuple[object, ...]:
        """Equal for specs that a node, a site and a link cannot tell apart, priority and duration aside."""
        return self.need.tobytes(), self.group_ok.tobytes(), self.watts.tobytes(), self.traffic

    @cached_property
    def site_least_w(self) -> NDArray[np.float64]:
        """(S,) what one replica draws on the best group of each site, on a node that is on; inf: nowhere there."""
        least = np.full(self.topology.site_count, np.inf)
        here = self.candidate_groups
        np.minimum.at(least, self.topology.group_site[here], self.watts[here])
        return least

    @cached_property
    def site_never(self) -> BoolArray:
        """(S,) sites of which no group may hold it."""
        return ~np.isfinite(self.site_least_w)

    @cached_property
    def site_most_w(self) -> NDArray[np.float64]:
        """(S,) what it draws on the worst group, with a node that has to wake; −inf where no group may hold it."""
        most = np.full(self.topology.site_count, -np.inf)
        here = self.candidate_groups
        np.maximum.at(most, self.topology.group_site[here], (self.watts + self.topology.group_idle_w)[here])
        return most

    @cached_property
    def start_orders(self) -> dict[int, tuple[dict[str, Any], dict[str, Any]]]:
        """Group → what all start orders there have in common; filled as they are written (`planner.drafts`)."""
        return {}

    @property
    def has_traffic(self) -> bool:
        """Whether its flows to zones load any link."""
        return bool(self.traffic)

    @cached_property
    def site_reasons(self) -> tuple[tuple[Reason, ...], ...]:
        """Per site: every rule that rules it out."""
        return tuple(reasons_at(self, site) for site in range(self.topology.site_count))


# ---------------------------------------------------------------------- rules: a mask over sites, reasons at one


def sites_named(spec: Spec, topology: Topology) -> BoolArray:
    """The submitter narrowed the sites."""
    named = spec.stage.site_ids
    if not named:
        return np.ones(topology.site_count, bool)
    return np.array([s in named for s in topology.site_ids])


def _why_not_named(spec: Spec, site: int, topology: Topology) -> list[Reason]:
    detail = ", ".join(spec.stage.site_ids)
    return [_reason(ReasonCode.SITE_NOT_NAMED, spec, site, topology, detail=detail)]


def sites_with_labels(spec: Spec, topology: Topology) -> BoolArray:
    """Residency and trust: all labels of at least one alternative match."""
    alternatives = spec.stage.require_any
    if not alternatives:
        return np.ones(topology.site_count, bool)
    out = np.zeros(topology.site_count, bool)
    nowhere = np.zeros(topology.site_count, bool)
    for alternative in alternatives:
        matches = np.ones(topology.site_count, bool)
        for item in alternative.items():
            matches &= topology.sites_with_label.get(item, nowhere)
        out |= matches
    return out


def _why_no_labels(spec: Spec, site: int, topology: Topology) -> list[Reason]:
    return [
        _reason(ReasonCode.LABEL_MISSING, spec, site, topology, detail=labels_wanted(spec.stage.require_any))
    ]


def sites_within_rtt(spec: Spec, topology: Topology) -> BoolArray:
    """Network p99 of every zone leg of the stage is known and at most its limit."""
    out = np.ones(topology.site_count, bool)
    for zone_id, access_id, limit_ms in zone_legs(spec):
        if zone_id not in topology.zones:
            return np.zeros(topology.site_count, bool)
        out &= topology.leg_rtt_p99_ms(zone_id, access_id) <= (np.inf if limit_ms is None else limit_ms)
        out &= np.isfinite(topology.leg_rtt_p99_ms(zone_id, access_id))
    return out


def _why_beyond_rtt(spec: Spec, site: int, topology: Topology) -> list[Reason]:
    """One reason for each leg."""
    out = []
    for zone_id, access_id, limit_ms in zone_legs(spec):
        if zone_id not in topology.zones:
            detail = f"no zone {zone_id}"
            out.append(_reason(ReasonCode.RTT_UNKNOWN, spec, site, topology, detail=detail))
            continue
        rtt_ms = float(topology.leg_rtt_p99_ms(zone_id, access_id)[site])
        access = topology.access_of(zone_id, access_id) or "the zone's hub"
        if not np.isfinite(rtt_ms):
            detail = f"no route from {zone_id}"
            out.append(_reason(ReasonCode.RTT_UNKNOWN, spec, site, topology, detail=detail))
        elif limit_ms is not None and rtt_ms > limit_ms:
            detail = f"from {zone_id} by {access}"
            out.append(
                _reason(
                    ReasonCode.RTT_EXCEEDED,
                    spec,
                    site,
                    topology,
                    limit=limit_ms,
                    actual=rtt_ms,
                    unit="ms",
                    detail=detail,
                )
            )
    return out


def sites_within_paths(spec: Spec, topology: Topology) -> BoolArray:
    """Work of one stage: network and processing p99 of each path stay within its budget on a group of the site."""
    if len(spec.workload.stages) > 1 or not spec.workload.paths:
        return np.ones(topology.site_count, bool)
    accepted = _accepted(spec.stage, topology)
    return _any_of_site(accepted & _groups_within_paths(spec, topology), topology) | ~_any_of_site(
        accepted, topology
    )


def _why_beyond_path(spec: Spec, site: int, topology: Topology) -> list[Reason]:
    here = _accepted(spec.stage, topology) & (topology.group_site == site)
    out = []
    for path in spec.workload.paths:
        best_ms = float(path_ms_of_groups(spec, path.via, topology)[here].min(initial=np.inf))
        if best_ms > path.budget_ms:
            known = np.isfinite(best_ms)
            out.append(
                _reason(
                    ReasonCode.PATH_BUDGET_EXCEEDED if known else ReasonCode.RTT_UNKNOWN,
                    spec,
                    site,
                    topology,
                    limit=path.budget_ms if known else None,
                    actual=best_ms if known else None,
                    unit="ms",
                    detail=f"path {path.path_id}",
                )
            )
    return out


def sites_with_gpu_model(spec: Spec, topology: Topology) -> BoolArray:
    """At least one group of the site has a GPU model that the stage accepts."""
    return _any_of_site(_accepted(spec.stage, topology), topology)


def _why_no_gpu_model(spec: Spec, site: int, topology: Topology) -> list[Reason]:
    detail = ", ".join(spec.stage.gpu_milli)
    return [_reason(ReasonCode.GPU_MODEL_ABSENT, spec, site, topology, detail=detail)]


def sites_with_gpu_memory(spec: Spec, topology: Topology) -> BoolArray:
    """A whole GPU of an accepted model has the memory asked for; sites without such a GPU are another rule's."""
    accepted = _accepted(spec.stage, topology)
    enough = accepted & _memory_enough(spec.stage, topology)
    return _any_of_site(enough, topology) | ~_any_of_site(accepted, topology)


def _why_gpu_memory(spec: Spec, site: int, topology: Topology) -> list[Reason]:
    here = _accepted(spec.stage, topology) & (topology.group_site == site)
    largest = int(topology.group_gpu_memory_mib[here].max())
    wanted = spec.stage.gpu_memory_mib
    return [
        _reason(
            ReasonCode.GPU_MEMORY_TOO_SMALL, spec, site, topology, limit=wanted, actual=largest, unit="MiB"
        )
    ]


def sites_with_large_nodes(spec: Spec, topology: Topology) -> BoolArray:
    """One replica fits one empty node of an accepted group."""
    accepted = _accepted(spec.stage, topology)
    fits = accepted & _fits_empty_node(needs_on_groups(spec.stage, topology), topology)
    return _any_of_site(fits, topology) | ~_any_of_site(accepted, topology)


def _why_no_large_node(spec: Spec, site: int, topology: Topology) -> list[Reason]:
    """One reason for each resource that exceeds every node; else that no node has all at once."""
    here = _accepted(spec.stage, topology) & (topology.group_site == site)
    need = needs_on_groups(spec.stage, topology)[here]
    capacity = topology.group_capacity[here]
    out = [
        _reason(
            ReasonCode.NODE_TOO_SMALL,
            spec,
            site,
            topology,
            limit=int(capacity[:, r].max()),
            actual=int(need[:, r].min()),
            unit=name,
        )
        for r, name in enumerate(RESOURCES)
        if (need[:, r] > capacity[:, r]).all()
    ]
    return out or [_reason(ReasonCode.NODE_TOO_SMALL, spec, site, topology, detail=NOT_ALL_AT_ONCE)]


NOT_ALL_AT_ONCE = "no single node group has all of it at once"


@dataclass(frozen=True)
class Rule:
    """One hard rule over sites: who passes, and why one that does not."""

    name: str
    passes: Callable[[Spec, Topology], BoolArray]
    reasons: Callable[[Spec, int, Topology], list[Reason]]


RULES: tuple[Rule, ...] = (
    Rule("named_site", sites_named, _why_not_named),
    Rule("labels_match", sites_with_labels, _why_no_labels),
    Rule("within_rtt", sites_within_rtt, _why_beyond_rtt),
    Rule("has_gpu_model", sites_with_gpu_model, _why_no_gpu_model),
    Rule("gpu_memory_enough", sites_with_gpu_memory, _why_gpu_memory),
    Rule("node_large_enough", sites_with_large_nodes, _why_no_large_node),
    Rule("within_path", sites_within_paths, _why_beyond_path),
)


# ---------------------------------------------------------------------- facts the rules read


def site_labels(topology: Topology, site: int) -> dict[str, str]:
    """Labels of a site with what the model itself implies: kind, host kind, local UPF."""
    return topology.site_labels[site]


def takes_turns(workload: Workload) -> bool:
    """Whether its replicas end and need no others: then they may run one after another, however many they are."""
    return len(workload.stages) == 1 and not workload.stages[0].is_service and not workload.stages[0].gang


def labels_wanted(alternatives: tuple[dict[str, str], ...]) -> str:
    """A label expression in words."""
    return " or ".join(" and ".join(f"{k}={v}" for k, v in sorted(a.items())) for a in alternatives)


def zone_legs(spec: Spec) -> list[tuple[str, str, float | None]]:
    """(zone, access profile, RTT limit) of the stage's flows from or to zones."""
    me = f"stages/{spec.stage.stage_id}"
    legs = []
    for flow in spec.workload.flows:
        ends = (flow.source, flow.target)
        if me in ends:
            other = ends[0] if ends[1] == me else ends[1]
            if other.startswith("zones/"):
                legs.append((other.removeprefix("zones/"), flow.access_id, flow.rtt_p99_max_ms))
    return legs


def zone_leg_ms(spec: Spec, zone_id: str, topology: Topology) -> NDArray[np.float64]:
    """(S,) p99 RTT between a zone and the stage over the access of its flow; inf for a zone that is unknown."""
    if zone_id not in topology.zones:
        return np.full(topology.site_count, np.inf)
    access = next((a for z, a, _ in zone_legs(spec) if z == zone_id), "")
    return topology.leg_rtt_p99_ms(zone_id, access)


def path_ms_of_groups(spec: Spec, via: tuple[str, ...], topology: Topology) -> NDArray[np.float64]:
    """(G,) Σ leg p99 + Σ processing p99 of a path through the only stage of a workload."""
    total_ms = np.zeros(len(topology.group_ids))
    for here, there in pairwise(via):
        zone = next((e.removeprefix("zones/") for e in (here, there) if e.startswith("zones/")), None)
        if zone is not None:
            total_ms += zone_leg_ms(spec, zone, topology)[topology.group_site]
    visits = sum(hop.startswith("stages/") for hop in via)
    return total_ms + visits * processing_ms(spec.stage, topology)


def processing_ms(stage: Stage, topology: Topology) -> NDArray[np.float64]:
    """(G,) processing p99 of a stage; 0 when none is declared, the slowest declared for a model left out."""
    declared = stage.processing_p99_ms
    if not declared:
        return np.zeros(len(topology.group_ids))
    worst = max(declared.values())
    if not stage.gpu_milli:
        return np.full(len(topology.group_ids), declared.get(CPU_PROCESSING, worst))
    return np.array([declared.get(m, worst) for m in topology.group_gpu_model])


def needs_on_groups(stage: Stage, topology: Topology) -> NDArray[np.int64]:
    """(G, R) what one replica takes of a node of each group; no GPU on models that the stage does not accept."""
    need = np.empty((len(topology.group_ids), len(RESOURCES)), np.int64)
    need[:] = (stage.cpu_milli, stage.memory_mib, 0, stage.storage_gib)
    if stage.gpu_milli:
        need[:, 2] = [stage.gpu_milli.get(m, 0) for m in topology.group_gpu_model]
    return need


def watts_on_groups(stage: Stage, topology: Topology) -> NDArray[np.float64]:
    """(G,) mean dynamic power of one running replica: busy GPUs and busy cores at the stage's utilisation (W)."""
    gpus = np.zeros(len(topology.group_ids))
    if stage.gpu_milli:
        gpus[:] = [stage.gpu_milli.get(m, 0) / MILLI for m in topology.group_gpu_model]
    cores = stage.cpu_milli / MILLI
    watts: NDArray[np.float64] = stage.utilization_frac * (
        gpus * topology.group_gpu_w + cores * topology.group_core_w
    )
    return watts


def _accepted(stage: Stage, topology: Topology) -> BoolArray:
    """(G,) groups whose GPU model the stage accepts; all for work without GPU."""
    if not stage.gpu_milli:
        return np.ones(len(topology.group_ids), bool)
    return np.array([m in stage.gpu_milli for m in topology.group_gpu_model])


def _memory_enough(stage: Stage, topology: Topology) -> BoolArray:
    if not stage.gpu_milli:
        return np.ones(len(topology.group_ids), bool)
    enough: BoolArray = topology.group_gpu_memory_mib >= stage.gpu_memory_mib
    return enough


def _fits_empty_node(need: NDArray[np.int64], topology: Topology) -> BoolArray:
    fits: BoolArray = np.all(need <= topology.group_capacity, axis=1)
    return fits


def _groups_within_paths(spec: Spec, topology: Topology) -> BoolArray:
    ok = np.ones(len(topology.group_ids), bool)
    if len(spec.workload.stages) == 1:
        for path in spec.workload.paths:
            ok &= path_ms_of_groups(spec, path.via, topology) <= path.budget_ms
    return ok


def _any_of_site(groups: BoolArray, topology: Topology) -> BoolArray:
    return np.bincount(topology.group_site, groups, topology.site_count) > 0


def _reason(
    code: ReasonCode,
    spec: Spec,
    site: int,
    topology: Topology,
    *,
    limit: float | None = None,
    actual: float | None = None,
    unit: str = "",
    detail: str = "",
) -> Reason:
    return Reason(
        code=code,
        site_id=topology.site_ids[site],
        stage_id=spec.stage.stage_id,
        limit=limit,
        actual=None if actual is None else round(actual, 3),
        unit=unit,
        detail=detail,
        node_count=int(topology.site_node_count[site]),
    )


# ---------------------------------------------------------------------- views, cached per fleet


def view_spec(spec: Spec, topology: Topology) -> SpecView:
    """Apply every rule at every site, as masks; done once per spec and fleet."""
    stage = spec.stage
    need = needs_on_groups(stage, topology)
    site_ok = np.ones(topology.site_count, bool)
    for rule in RULES:
        site_ok &= rule.passes(spec, topology)
    group_ok = site_ok[topology.group_site] & _accepted(stage, topology) & _memory_enough(stage, topology)
    group_ok &= _fits_empty_node(need, topology) & _groups_within_paths(spec, topology)
    legs = [topology.leg_rtt_p99_ms(z, a) for z, a, _ in zone_legs(spec) if z in topology.zones]
    return SpecView(
        spec=spec,
        topology=topology,
        need=need,
        watts=watts_on_groups(stage, topology),
        rtt_p99_ms=np.max(legs, axis=0) if legs else np.zeros(topology.site_count),
        group_ok=group_ok,
    )


def reasons_at(view: SpecView, site: int) -> tuple[Reason, ...]:
    """Every rule that rules the site out; () when it is a candidate."""
    topology = view.topology
    if view.group_ok[topology.group_site == site].any():
        return ()
    found = [
        reason
        for rule in RULES
        if not rule.passes(view.spec, topology)[site]
        for reason in rule.reasons(view.spec, site, topology)
    ]
    return tuple(found) or (
        _reason(ReasonCode.NODE_TOO_SMALL, view.spec, site, topology, detail=NOT_ALL_AT_ONCE),
    )


def reasons_of_group(view: SpecView, group: int) -> tuple[Reason, ...]:
    """Every rule that rules one node group out; () when it is a candidate."""
    topology, stage = view.topology, view.spec.stage
    if view.group_ok[group]:
        return ()
    site = int(topology.group_site[group])
    found = [
        reason
        for rule in RULES
        if not rule.passes(view.spec, topology)[site]
        for reason in rule.reasons(view.spec, site, topology)
    ]
    if not _accepted(stage, topology)[group]:
        wanted = ", ".join(stage.gpu_milli)
        found.append(_reason(ReasonCode.GPU_MODEL_ABSENT, view.spec, site, topology, detail=wanted))
    elif not _memory_enough(stage, topology)[group]:
        has = int(topology.group_gpu_memory_mib[group])
        found.append(
            _reason(
                ReasonCode.GPU_MEMORY_TOO_SMALL, view.spec, site, topology,
                limit=stage.gpu_memory_mib, actual=has, unit="MiB",
            )
        )  # fmt: skip
    capacity = topology.group_capacity[group]
    found += [
        _reason(
            ReasonCode.NODE_TOO_SMALL, view.spec, site, topology,
            limit=int(capacity[r]), actual=int(view.need[group, r]), unit=name,
        )
        for r, name in enumerate(RESOURCES)
        if view.need[group, r] > capacity[r]
    ]  # fmt: skip
    if not found:
        found.append(
            _reason(ReasonCode.PATH_BUDGET_EXCEEDED, view.spec, site, topology, detail="on these nodes")
        )
    return tuple(dict.fromkeys(r.model_copy(update={"node_count": 0}) for r in found))


class _GrownRows:
    """(specs, …) one row for each spec, added as specs are interned; room doubles, so that growing stays cheap."""

    def __init__(self, row_shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._data = np.zeros((0, *row_shape), dtype)
        self._size = 0

    def upto(self, count: int, row_of: Callable[[int], Any]) -> NDArray[Any]:
        """The first `count` rows; new ones are asked of `row_of`."""
        if count > self._size:
            if count > len(self._data):
                grown = np.zeros((max(count, 2 * len(self._data)), *self._data.shape[1:]), self._data.dtype)
                grown[: self._size] = self._data[: self._size]
                self._data = grown
            for spec in range(self._size, count):
                self._data[spec] = row_of(spec)
            self._size = count
        return self._data[:count]

    def fork(self) -> _GrownRows:
        """The same rows, to grow on their own: what is known is shared until then."""
        twin = _GrownRows(self._data.shape[1:], self._data.dtype)
        twin._data, twin._size = self._data[: self._size], self._size
        return twin


class Views:
    """Views of all specs against one fleet; a cache, never a source of truth."""

    def __init__(self, topology: Topology, shapes: ShapeTable) -> None:
        self.topology = topology
        self.root: Views = self
        """The views these were forked from: the key of what is kept per fleet."""
        self._shapes = shapes
        self._views: list[SpecView] = []
        groups = len(topology.group_ids)
        self._watts = _GrownRows((groups,), np.float64)
        self._needs = _GrownRows((groups, len(RESOURCES)), np.int64)
        self._hub_mbps = _GrownRows((len(topology.hub_routes),), np.float64)
        self._off_floor = _GrownRows((), np.bool_)
        self._traffic: dict[tuple[tuple[str, float], ...], NDArray[np.float64]] = {}
        self._most_traffic: dict[tuple[tuple[str, float], ...], NDArray[np.float64]] = {}

    def __getitem__(self, spec: int) -> SpecView:
        while len(self._views) <= spec:
            self._views.append(view_spec(self._shapes.specs[len(self._views)], self.topology))
        return self._views[spec]

    def watts(self) -> NDArray[np.float64]:
        """(specs, G) mean dynamic power of one replica of every spec."""
        return self._watts.upto(len(self._shapes.specs), lambda spec: self[spec].watts)

    def needs(self) -> NDArray[np.int64]:
        """(specs, G, R) what one replica of every spec takes of a node."""
        return self._needs.upto(len(self._shapes.specs), lambda spec: self[spec].need)

    def hub_mbps(self) -> NDArray[np.float64]:
        """(specs, hubs) what one replica of every spec exchanges with the zones of each hub."""
        return self._hub_mbps.upto(len(self._shapes.specs), lambda spec: _by_hub(self[spec]))

    def off_floor(self) -> NDArray[np.bool_]:
        """(specs,) whether each spec keeps off the floors that are reserved for public services."""
        return self._off_floor.upto(len(self._shapes.specs), lambda spec: keeps_off_floor(self[spec]))

    def fork(self, shapes: ShapeTable) -> Views:
        """The same views over a table that has grown: what is known is shared, what is new stays here."""
        twin = Views(self.topology, shapes)
        twin._views = list(self._views)
        twin._watts, twin._needs = self._watts.fork(), self._needs.fork()
        twin._hub_mbps, twin._off_floor = self._hub_mbps.fork(), self._off_floor.fork()
        twin._traffic, twin._most_traffic = self._traffic, self._most_traffic
        twin.root = self.root
        return twin

    def link_mbps_per_replica(self, spec: int) -> NDArray[np.float64]:
        """(S, L) load one replica at a site puts on each link by its flows to zones."""
        traffic = self[spec].traffic
        known = self._traffic.get(traffic)
        if known is None:
            known = np.zeros((self.topology.site_count, len(self.topology.link_capacity_mbps)))
            for hub_id, mbps in traffic:
                known += mbps * self.topology.hub_routes[hub_id]
            self._traffic[traffic] = known
        return known

    def most_mbps_per_replica(self, spec: int) -> NDArray[np.float64]:
        """(L,) the most that one replica puts on each link, wherever it goes."""
        traffic = self[spec].traffic
        known = self._most_traffic.get(traffic)
        if known is None:
            known = self._most_traffic[traffic] = self.link_mbps_per_replica(spec).max(axis=0)
        return known


def zone_traffic(spec: Spec, topology: Topology) -> tuple[tuple[str, float], ...]:
    """(hub, Mbps) of one replica's flows to and from zones."""
    me = f"stages/{spec.stage.stage_id}"
    out = []
    for flow in spec.workload.flows:
        zone_id = next(
            (e.removeprefix("zones/") for e in (flow.source, flow.target) if e.startswith("zones/")), None
        )
        if zone_id in topology.zones and flow.mbps and me in (flow.source, flow.target):
            out.append((topology.zones[zone_id].hub_id, flow.mbps))
    return tuple(sorted(out))


def _by_hub(view: SpecView) -> NDArray[np.float64]:
    """(hubs,) Mbps of one replica with the zones of each hub."""
    hubs = list(view.topology.hub_routes)
    out = np.zeros(len(hubs))
    for hub_id, mbps in view.traffic:
        out[hubs.index(hub_id)] += mbps
    return out


def keeps_off_floor(view: SpecView) -> bool:
    """Whether the work ranks below public services, for which the reserved floor is kept."""
    return view.spec.workload.priority_class.rank > PriorityClass.PUBLIC_SERVICE.rank


def gang_capacity(stage: Stage, view: SpecView, group: int, topology: Topology) -> int:
    """Replicas of the stage that the empty group holds."""
    return per_empty_node(view, group) * int(topology.group_node_count[group])


def per_empty_node(view: SpecView, group: int) -> int:
    """Replicas that one empty node of the group holds."""
    need, capacity = view.need[group], view.topology.group_capacity[group]
    fit = min(
        (int(c // n) for r, (n, c) in enumerate(zip(need, capacity, strict=True)) if n > 0 and r != 2),
        default=10**9,
    )
    gpu_milli = int(need[2])
    if gpu_milli:
        devices = int(view.topology.group_gpu_count[group])
        fit = min(
            fit, devices * (MILLI // gpu_milli) if gpu_milli < MILLI else devices // (gpu_milli // MILLI)
        )
    return fit
