"""Rules of the second audit over what lies together: stage graphs, shared stages, spreads and gangs.

They are judged at moments: right after the orders of one decision, over the newest live placement of every replica.
What is not placed at that moment cannot break a rule and is judged when it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from cluster_sim.audit_facts import Facts, Finding, Judged, Moment
from cluster_sim.audit_orders import RTT_TOLERANCE_MS
from suanli.model import NodeGroup, PathBudget, Stage, Workload
from suanli.model.units import MILLI

CPU = "cpu"
"""Key of `processing_p99_ms` for a stage without GPU."""

Host = tuple[int, str]
"""(site, GPU model): what latency depends on."""


def stage_legs_within_rtt(facts: Facts) -> Judged:
    """Network p99 between any two sites that carry the ends of a stage-to-stage flow ≤ its limit."""
    found, checked = [], 0
    roads, sites = facts.hosts.roads, facts.hosts.sites
    for moment, shape in _graphs(facts):
        for flow in shape.flows:
            ends = [flow.source, flow.target]
            if not all(e.startswith("stages/") for e in ends):
                continue
            checked += 1
            limit_ms = np.inf if flow.rtt_p99_max_ms is None else flow.rtt_p99_max_ms
            a, b = (_sites_of(facts, moment, shape, e.removeprefix("stages/")) for e in ends)
            worst = max(((roads.rtt_ms(i, j), i, j) for i in sorted(a) for j in sorted(b)), default=None)
            if worst is not None and (not np.isfinite(worst[0]) or worst[0] > limit_ms + RTT_TOLERANCE_MS):
                between = f"{sites[worst[1]].site_id} and {sites[worst[2]].site_id}"
                found.append(
                    _finding(
                        facts,
                        moment,
                        f"p99 RTT of {flow.source} to {flow.target} ≤ {limit_ms:g} ms",
                        f"{worst[0]:.3f} ms between {between}",
                    )
                )
    return Judged(checked, found)


def paths_within_budget(facts: Facts) -> Judged:
    """Σ network p99 + Σ processing p99 along a path ≤ its budget, for the slowest chain of live replicas."""
    found, checked = [], 0
    known: dict[tuple[int, int, tuple[frozenset[Host], ...]], float | None] = {}
    for moment in facts.moments:
        shape = facts.work.shape_of(moment.work)
        if not shape.paths:
            continue
        hosts = tuple(frozenset(_hosts_of(facts, rows)) for rows in moment.live)
        for k, path in enumerate(shape.paths):
            key = (int(facts.work.shape[moment.work]), k, hosts)
            if key not in known:
                known[key] = _slowest_ms(facts, shape, path, hosts)
            worst_ms = known[key]
            if worst_ms is None:
                continue
            checked += 1
            if not worst_ms <= path.budget_ms + RTT_TOLERANCE_MS:
                expected = f"path {path.path_id} ≤ {path.budget_ms:g} ms"
                found.append(_finding(facts, moment, expected, f"{worst_ms:.3f} ms"))
    return Judged(checked, found)


def colocated_stages_share_a_site(facts: Facts) -> Judged:
    """All replicas of a stage and of the stage it must lie with are on one site."""
    found, checked = [], 0
    for moment, shape in _graphs(facts):
        for stage in shape.stages:
            if stage.colocate_with is None:
                continue
            checked += 1
            mine, other = (_sites_of(facts, moment, shape, s) for s in (stage.stage_id, stage.colocate_with))
            if mine and other and len(mine | other) > 1:
                expected = f"{stage.stage_id} on one site with {stage.colocate_with}"
                found.append(_finding(facts, moment, expected, _names(facts, mine | other)))
    return Judged(checked, found)


def shared_stage_is_placed(facts: Facts) -> Judged:
    """Who uses another workload's stage is started only while that stage is placed, at one site for all its limits."""
    found, checked = [], 0
    for moment, shape in _graphs(facts):
        for i, stage in enumerate(shape.stages):
            if stage.shared_with is None or not moment.ordered:
                continue
            checked += 1
            if not moment.live[i]:
                expected = f"{stage.stage_id} of {stage.shared_with} placed"
                found.append(_finding(facts, moment, expected, "it is not"))
    return Judged(checked, found)


def replicas_are_spread(facts: Facts) -> Judged:
    """Once all replicas of a stage are placed they lie in at least `min_domains` different nodes or sites."""
    found, checked = [], 0
    for moment in facts.moments:
        for i, stage in enumerate(facts.work.shape_of(moment.work).stages):
            rows, spread = list(moment.live[i]), stage.spread
            if spread is None or len(rows) < facts.work.replicas[moment.work][i]:
                continue
            checked += 1
            domains = facts.orders.site if spread.over == "site" else facts.orders.node
            count = len(np.unique(domains[rows]))
            if count < spread.min_domains:
                expected = f"{stage.stage_id} on at least {spread.min_domains} {spread.over}s"
                found.append(_finding(facts, moment, expected, f"{count}"))
    return Judged(checked, found)


def gang_starts_whole(facts: Facts) -> Judged:
    """All replicas of a gang that are not over are ordered at one instant."""
    found, checked = [], 0
    for moment, i, stage, rows in _gangs(facts):
        checked += 1
        wanted = facts.work.replicas[moment.work][i] - moment.done_count[i]
        if len({int(facts.orders.replica[r]) for r in rows}) != wanted:
            expected = f"all {wanted} replicas of gang {stage.stage_id} ordered together"
            found.append(_finding(facts, moment, expected, f"{len(rows)}"))
    return Judged(checked, found)


def gang_lies_in_one_group(facts: Facts) -> Judged:
    """A gang lies on one site, in one group of equal nodes."""
    found, checked = [], 0
    for moment, _, stage, rows in _gangs(facts):
        checked += 1
        groups = {facts.hosts.groups[int(facts.orders.group[r])] for r in rows}
        if len({(site, g.group_id) for site, g in groups}) > 1:
            names = sorted(f"{facts.hosts.sites[site].site_id}/{g.group_id}" for site, g in groups)
            expected = f"gang {stage.stage_id} in one group of one site"
            found.append(_finding(facts, moment, expected, ", ".join(names)))
    return Judged(checked, found)


def gang_stays_in_one_island(facts: Facts) -> Judged:
    """A gang that an empty fabric island holds lies in one; only a larger one takes several."""
    found, checked = [], 0
    for moment, _, stage, rows in _gangs(facts):
        group_index = int(facts.orders.group[rows[0]])
        _, group = facts.hosts.groups[group_index]
        size = group.island_node_count or group.node_count
        alone = all(int(facts.orders.group[r]) == group_index for r in rows)
        if not alone or len(rows) > size * per_empty_node(stage, group):
            continue
        checked += 1
        islands = {int(facts.orders.commands[r]["node_index"]) // size for r in rows}
        if len(islands) > 1:
            expected = f"gang {stage.stage_id} in one island of {size} nodes"
            found.append(_finding(facts, moment, expected, f"islands {sorted(islands)}"))
    return Judged(checked, found)


# ---------------------------------------------------------------------------------------------------- tools


def per_empty_node(stage: Stage, group: NodeGroup) -> int:
    """Replicas of a stage that one empty node of the group holds."""
    needs = (
        (stage.cpu_milli, group.cpu_milli),
        (stage.memory_mib, group.memory_mib),
        (stage.storage_gib, group.storage_gib),
    )
    room = [installed // need for need, installed in needs if need]
    milli = stage.gpu_milli.get(group.gpu_model, 0)
    if milli:
        shares = group.gpu_count * (MILLI // milli) if milli < MILLI else group.gpu_count // (milli // MILLI)
        room.append(shares)
    return min(room, default=0)


def _graphs(facts: Facts) -> Iterator[tuple[Moment, Workload]]:
    """Moments of workloads with several stages."""
    for moment in facts.moments:
        shape = facts.work.shape_of(moment.work)
        if len(shape.stages) > 1:
            yield moment, shape


def _gangs(facts: Facts) -> Iterator[tuple[Moment, int, Stage, list[int]]]:
    """(moment, stage index, stage, orders just given) of gang stages."""
    for moment in facts.moments:
        for i, stage in enumerate(facts.work.shape_of(moment.work).stages):
            rows = [r for r in moment.ordered if int(facts.orders.stage[r]) == i]
            if stage.gang and rows:
                yield moment, i, stage, rows


def _sites_of(facts: Facts, moment: Moment, shape: Workload, stage_id: str) -> set[int]:
    index = next(i for i, s in enumerate(shape.stages) if s.stage_id == stage_id)
    return {int(facts.orders.site[r]) for r in moment.live[index]}


def _hosts_of(facts: Facts, rows: tuple[int, ...]) -> set[Host]:
    orders = facts.orders
    return {(int(orders.site[r]), facts.hosts.groups[int(orders.group[r])][1].gpu_model) for r in rows}


def _slowest_ms(
    facts: Facts, shape: Workload, path: PathBudget, hosts: tuple[frozenset[Host], ...]
) -> float | None:
    """Longest chain along a path through live replicas; None while one of its stages is not placed."""
    index = {s.stage_id: i for i, s in enumerate(shape.stages)}
    before: dict[Host | str, float] = {path.via[0]: 0.0}
    for here, there in pairwise(("", *path.via)):
        part, _, name = there.partition("/")
        if part == "zones":
            ends: list[Host | str] = [there]
        else:
            ends = list(hosts[index[name]])
            if not ends:
                return None
        spent = {e: 0.0 if part == "zones" else _processing_ms(shape.stages[index[name]], e[1]) for e in ends}
        if not here:
            before = spent
            continue
        before = {
            e: max(ms + _leg_ms(facts, shape, (here, start), (there, e)) for start, ms in before.items())
            + spent[e]
            for e in ends
        }
    return max(before.values())


def _leg_ms(
    facts: Facts, shape: Workload, here: tuple[str, Host | str], there: tuple[str, Host | str]
) -> float:
    """Network p99 of one hop of a path; the zone's access is that of the flow that joins the two ends."""
    roads = facts.hosts.roads
    (a, start), (b, end) = here, there
    if not isinstance(start, str) and not isinstance(end, str):
        return roads.rtt_ms(start[0], end[0])
    zone, stage, host = (a, b, end) if isinstance(start, str) else (b, a, start)
    if isinstance(host, str):
        return 0.0
    ends = {zone, stage}
    access = next((f.access_id for f in shape.flows if {f.source, f.target} == ends), "")
    return roads.zone_leg_ms(zone.removeprefix("zones/"), access, host[0])


def _processing_ms(stage: Stage, gpu_model: str) -> float:
    """Processing p99 on that model; the slowest declared one where it was left out, 0 where none was declared."""
    declared = stage.processing_p99_ms
    if not declared:
        return 0.0
    return declared.get(gpu_model if stage.gpu_milli else CPU, max(declared.values()))


def _finding(facts: Facts, moment: Moment, expected: str, actual: str) -> Finding:
    return Finding(moment.revision, moment.at_s, facts.work.names[moment.work], expected, actual)


def _names(facts: Facts, sites: set[int]) -> str:
    return ", ".join(facts.hosts.sites[s].site_id for s in sorted(sites))
