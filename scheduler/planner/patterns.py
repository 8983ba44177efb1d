"""Where the stages of one workload may lie together: patterns of one site per stage that keep every latency budget.

Stages are joined by flows with RTT limits, co-location and end-to-end paths (network p99 + processing p99, legs add). A
pattern uses at most two sites: RTT prunes little inside a district, so a third site is hardly ever worth its links.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise, product

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.topology import Topology
from scheduler.planner.feasibility import CPU_PROCESSING, SpecView, processing_ms, zone_leg_ms
from suanli.model import Workload

MAX_FREE_STAGES = 8
"""Up to this many stages every split over two sites is tried; longer chains are cut at most twice along their order."""


@dataclass(frozen=True)
class Patterns:
    """Feasible joint placements of a shape.

    sites: (P, stages) site index per stage; slack_ms: (P,) smallest slack over the shape's paths (inf without paths);
    group_ok: per stage (G,) groups fast enough for the processing time that the patterns assume.
    """

    sites: NDArray[np.int64]
    slack_ms: NDArray[np.float64]
    group_ok: tuple[NDArray[np.bool_], ...]
    best_path_ms: dict[str, float]
    """per path id: the least that any pattern could reach, whether or not it meets the budget."""

    @cached_property
    def _alternatives(self) -> dict[tuple[int, tuple[int, ...]], frozenset[int]]:
        found: dict[tuple[int, tuple[int, ...]], set[int]] = {}
        for row in self.sites.tolist():
            for i in range(len(row)):
                found.setdefault((i, (*row[:i], *row[i + 1 :])), set()).add(row[i])
        return {key: frozenset(sites) for key, sites in found.items()}

    def alternatives(self, sites: NDArray[np.int64], stage: int) -> frozenset[int]:
        """Sites where single replicas of the stage may lie while the other stages lie as in `sites`."""
        row = tuple(int(s) for s in sites)
        return self._alternatives.get((stage, (*row[:stage], *row[stage + 1 :])), frozenset())

    @cached_property
    def choices(self) -> tuple[int, ...]:
        """Per stage, the most sites that its replicas can lie on in one pattern."""
        count = self.sites.shape[1]
        most = [0] * count
        for (i, _), sites in self._alternatives.items():
            most[i] = max(most[i], len(sites))
        return tuple(most)


def enumerate_patterns(shape: Workload, views: list[SpecView], topology: Topology) -> Patterns:
    """All patterns of at most two sites that meet every limit; exhaustive, cached per shape by the caller."""
    stage_ids = [s.stage_id for s in shape.stages]
    processing = [_processing_at_sites(view, topology) for view in views]
    allowed = [np.unique(topology.group_site[v.candidate_groups]) for v in views]
    sites = _site_tuples(shape, allowed)
    keep = np.ones(len(sites), bool)
    keep &= _colocated(shape, stage_ids, sites)
    keep &= _legs_within_limits(shape, stage_ids, sites, topology)
    sites = sites[keep]
    slack_ms = np.full(len(sites), np.inf)
    best_path_ms: dict[str, float] = {}
    for path in shape.paths:
        total_ms = _path_ms(views, path.via, stage_ids, sites, processing, topology)
        best_path_ms[path.path_id] = float(total_ms.min(initial=np.inf))
        slack_ms = np.minimum(slack_ms, path.budget_ms - total_ms)
    within = slack_ms >= 0
    fast = tuple(_fast_groups(view, ms, topology) for view, ms in zip(views, processing, strict=True))
    return Patterns(sites[within], slack_ms[within], fast, best_path_ms)


def _processing_at_sites(view: SpecView, topology: Topology) -> NDArray[np.float64]:
    """(S,) processing p99 of the stage on the fastest candidate group of each site; inf where there is none."""
    out = np.full(topology.site_count, np.inf)
    ok = view.group_ok
    np.minimum.at(out, topology.group_site[ok], processing_ms(view.spec.stage, topology)[ok])
    return out


def _fast_groups(view: SpecView, at_sites_ms: NDArray[np.float64], topology: Topology) -> NDArray[np.bool_]:
    """Groups whose processing time is what the patterns assumed for their site."""
    times_ms = processing_ms(view.spec.stage, topology)
    fast: NDArray[np.bool_] = view.group_ok & (times_ms <= at_sites_ms[topology.group_site])
    return fast


def _site_tuples(shape: Workload, allowed: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """(P, stages) all ways to lay the stages on at most two sites, each where it is allowed; sorted."""
    count = len(shape.stages)
    if count == 1:
        return allowed[0][:, None]
    splits = _splits(count)
    may = [set(a.tolist()) for a in allowed]
    every = sorted(set().union(*may))
    found = [np.full((1, count), s) for s in every if all(s in m for m in may)]
    for a, b in combinations(every, 2):
        first = np.array([a in m for m in may])
        second = np.array([b in m for m in may])
        fits = ((first | splits) & (second | ~splits)).all(axis=1)
        found.append(np.where(splits[fits], b, a))
    if not found:
        return np.zeros((0, count), np.int64)
    return np.unique(np.concatenate(found).astype(np.int64), axis=0)


def _splits(count: int) -> NDArray[np.bool_]:
    """(splits, stages) True where a stage lies on the second of two sites; both sites are used."""
    if count <= MAX_FREE_STAGES:
        every = np.array(list(product((False, True), repeat=count)))
        return every[1:-1]
    rows = []
    for i, j in combinations(range(count + 1), 2):
        inside = np.zeros(count, bool)
        inside[i:j] = True
        rows += [inside, ~inside]
    splits = np.unique(np.array(rows), axis=0)
    return splits[splits.any(axis=1) & ~splits.all(axis=1)]


def _colocated(shape: Workload, stage_ids: list[str], sites: NDArray[np.int64]) -> NDArray[np.bool_]:
    keep = np.ones(len(sites), bool)
    for i, stage in enumerate(shape.stages):
        if stage.colocate_with is not None:
            keep &= sites[:, i] == sites[:, stage_ids.index(stage.colocate_with)]
    return keep


def _legs_within_limits(
    shape: Workload, stage_ids: list[str], sites: NDArray[np.int64], topology: Topology
) -> NDArray[np.bool_]:
    """Stage-to-stage flows; zone legs are rules of the single stage already."""
    keep = np.ones(len(sites), bool)
    for flow in shape.flows:
        if flow.source.startswith("stages/") and flow.target.startswith("stages/"):
            a, b = (stage_ids.index(e.removeprefix("stages/")) for e in (flow.source, flow.target))
            rtt_ms = topology.site_site_rtt_ms[sites[:, a], sites[:, b]]
            keep &= np.isfinite(rtt_ms)
            if flow.rtt_p99_max_ms is not None:
                keep &= rtt_ms <= flow.rtt_p99_max_ms
    return keep


def _path_ms(
    views: list[SpecView],
    via: tuple[str, ...],
    stage_ids: list[str],
    sites: NDArray[np.int64],
    processing: list[NDArray[np.float64]],
    topology: Topology,
) -> NDArray[np.float64]:
    """(P,) Σ leg p99 + Σ processing p99 along a path."""
    total_ms = np.zeros(len(sites))
    for here, there in pairwise(via):
        a, b = (
            stage_ids.index(e.removeprefix("stages/")) if e.startswith("stages/") else None
            for e in (here, there)
        )
        if a is not None and b is not None:
            total_ms = total_ms + topology.site_site_rtt_ms[sites[:, a], sites[:, b]]
            continue
        stage = a if a is not None else b
        if stage is not None:
            zone_id = (there if a is not None else here).removeprefix("zones/")
            total_ms = total_ms + zone_leg_ms(views[stage].spec, zone_id, topology)[sites[:, stage]]
    for hop in via:
        if hop.startswith("stages/"):
            stage = stage_ids.index(hop.removeprefix("stages/"))
            total_ms = total_ms + processing[stage][sites[:, stage]]
    return total_ms


__all__ = ["CPU_PROCESSING", "MAX_FREE_STAGES", "Patterns", "enumerate_patterns"]
