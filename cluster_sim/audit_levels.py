"""Rules of the second audit over sums at every instant: nodes, GPU devices, site power and links.

Every start adds, every stop order or end takes away; the running sum is compared with what is installed right after
each start, the only event that can break a limit. All of it is arithmetic on whole columns.
"""

from __future__ import annotations

import numpy as np

from cluster_sim.audit_facts import (
    F64,
    I64,
    NEVER,
    Bool,
    Facts,
    Judged,
    Orders,
    device_count,
    gpu_need_milli,
    running_level,
)
from cluster_sim.audit_orders import zone_flows
from suanli.model import NodeGroup, Policy, Site, Stage
from suanli.model.units import MBPS_PER_GBPS, MILLI, W_PER_KW

POWER_TOLERANCE_KW = 1e-6
LINK_TOLERANCE_MBPS = 1e-6
"""Running sums of hundreds of thousands of floats; not a margin."""
MAX_DEVICES = 64


def node_has_room(facts: Facts) -> Judged:
    """Σ cpu, memory and storage of what is placed on a node ≤ what the node has."""
    orders, hosts = facts.orders, facts.hosts
    rows = orders.sound
    found = []
    for resource in ("cpu_milli", "memory_mib", "storage_gib"):
        installed = np.array([getattr(g, resource) for _, g in hosts.groups])[hosts.node_group]
        need = np.array([getattr(stage, resource) for _, stage in facts.work.specs])[orders.spec[rows]]
        level = _level_at_start(facts, rows, orders.node[rows], need)
        for k in np.flatnonzero(level > installed[orders.node[rows]]).tolist():
            node = int(orders.node[rows[k]])
            expected = f"{resource} of {hosts.node_name(node)} ≤ {installed[node]}"
            found.append(orders.finding(int(rows[k]), expected, f"{level[k]:.0f}"))
    return Judged(3 * len(rows), found)


def gpu_devices_exist(facts: Facts) -> Judged:
    """Every device id is one of the node's."""
    orders, hosts = facts.orders, facts.hosts
    rows = orders.sound.tolist()
    found = []
    for i in rows:
        count = hosts.groups[int(orders.group[i])][1].gpu_count
        ids = orders.commands[i]["gpu_ids"]
        if ids and not 0 <= min(ids) <= max(ids) < count:
            found.append(orders.finding(i, f"devices 0 to {count - 1}", f"devices {list(ids)}"))
    return Judged(len(rows), found)


def gpu_device_is_not_shared_beyond_whole(facts: Facts) -> Judged:
    """Σ milli-GPUs on one device ≤ 1000: whole devices are exclusive, shares fit together."""
    orders, hosts = facts.orders, facts.hosts
    ids = [orders.commands[i]["gpu_ids"] for i in orders.sound.tolist()]
    rows = np.repeat(orders.sound, [len(x) for x in ids])
    device = np.array([d for x in ids for d in x], np.int64)
    real = (device >= 0) & (device < MAX_DEVICES)
    rows, device = rows[real], device[real]
    need = _gpu_need_milli(facts, rows)
    each = need / np.maximum(1, np.array([device_count(n) for n in need.tolist()], np.int64))
    level = _level_at_start(facts, rows, orders.node[rows] * MAX_DEVICES + device, each)
    found = [
        orders.finding(
            int(rows[k]),
            f"≤ {MILLI} milli on GPU {device[k]} of {hosts.node_name(int(orders.node[rows[k]]))}",
            f"{level[k]:g}",
        )
        for k in np.flatnonzero(level > MILLI).tolist()
    ]
    return Judged(len(rows), found)


def site_power_within_limit(facts: Facts) -> Judged:
    """Idle power of occupied nodes + dynamic power of what is placed ≤ the site's limit, and the policy's if lower.

    P = Σ_n idle_n·[n occupied] + Σ_r util_r·(GPUs_r·gpu_w + cores_r·core_w), in W (domain.md §2.6, §7.5).
    """
    orders, hosts = facts.orders, facts.hosts
    rows = orders.sound
    idle_w = np.array([g.idle_w for _, g in hosts.groups])
    dynamic_w = _dynamic_w(facts, rows)
    wakes, sleeps = _occupied(facts, rows)
    nodes = orders.node[rows]
    node_idle_w = idle_w[hosts.node_group[nodes]] if len(rows) else np.zeros(0)
    released = orders.released_revision[rows]
    ends = released != NEVER
    key = np.concatenate((orders.site[rows], orders.site[rows][ends]))
    revision = np.concatenate((orders.revision[rows], released[ends]))
    delta_w = np.concatenate((dynamic_w + wakes * node_idle_w, -(dynamic_w + sleeps * node_idle_w)[ends]))
    level_kw = _back_at_start(key, revision, delta_w, len(rows)) / W_PER_KW
    limit_kw = _power_limits_kw(facts, rows)
    found = [
        orders.finding(
            int(rows[k]),
            f"IT power of {hosts.sites[int(orders.site[rows[k]])].site_id} ≤ {limit_kw[k]:g} kW",
            f"{level_kw[k]:.3f} kW placed",
        )
        for k in np.flatnonzero(level_kw > limit_kw + POWER_TOLERANCE_KW).tolist()
    ]
    return Judged(len(rows), found)


def links_within_planning_load(facts: Facts) -> Judged:
    """Σ Mbps of zone flows on the only route between hub and site ≤ capacity at the planning load (0.8).

    The traffic of a replica that moves within its site goes to one of its two places.
    """
    orders, network = facts.orders, facts.hosts.fleet.network
    rows, link, mbps = _link_loads(facts)
    level = _level_at_start(facts, rows, link, mbps, _traffic_from_revision(orders))
    limit = np.array([network.planning_load_frac * k.capacity_gbps * MBPS_PER_GBPS for k in network.links])
    over = np.flatnonzero(level > limit[link] + LINK_TOLERANCE_MBPS) if len(link) else link
    found = [
        orders.finding(
            int(rows[k]),
            f"link {network.links[int(link[k])].link_id} ≤ {limit[link[k]]:g} Mbps",
            f"{level[k]:.1f} Mbps planned",
        )
        for k in over.tolist()
    ]
    return Judged(len(rows), found)


# ---------------------------------------------------------------------------------------------------- tools


def _level_at_start(
    facts: Facts, rows: I64, key: I64, amount: F64 | I64, from_revision: I64 | None = None
) -> F64:
    """(rows,) sum over what is live with the same key, right after each start; what ends with a start is over by then.

    from_revision: (P,) when each order's load begins, if not with the order; not before its room is free: never.
    """
    orders = facts.orders
    released = orders.released_revision[rows]
    begins = orders.revision[rows] if from_revision is None else from_revision[rows]
    loads = begins < released
    begins, amount = np.where(loads, begins, orders.revision[rows]), np.where(loads, amount, 0)
    ends = released != NEVER
    keys = np.concatenate((key, key[ends]))
    revision = np.concatenate((2 * begins, 2 * released[ends] - 1))
    delta = np.concatenate((amount, -amount[ends])).astype(np.float64)
    return _back_at_start(keys, revision, delta, len(rows))


def _traffic_from_revision(orders: Orders) -> I64:
    """(P,) from when each place carries traffic: its order, or the end of the replica's last place at the same site."""
    begins = orders.revision.copy()
    rows = orders.sound
    by_replica = rows[np.lexsort((orders.revision[rows], orders.replica[rows]))]
    old, new = by_replica[:-1], by_replica[1:]
    same = (orders.replica[old] == orders.replica[new]) & (orders.site[old] == orders.site[new])
    begins[new[same]] = np.maximum(begins[new[same]], orders.released_revision[old[same]])
    return begins


def _back_at_start(key: I64, revision: I64, delta: F64, count: int) -> F64:
    """Level after each of the first `count` events, in their own order."""
    order, level = running_level(key, revision, delta)
    back = np.empty(len(order))
    back[order] = level
    first: F64 = back[:count]
    return first


def _occupied(facts: Facts, rows: I64) -> tuple[Bool, Bool]:
    """(rows,) whether each start found its node empty, and whether each end left it empty."""
    orders = facts.orders
    released = orders.released_revision[rows]
    ends = released != NEVER
    nodes = orders.node[rows]
    key = np.concatenate((nodes, nodes[ends]))
    revision = np.concatenate((orders.revision[rows], released[ends]))
    delta = np.concatenate((np.ones(len(rows)), -np.ones(int(ends.sum()))))
    level = _back_at_start(key, revision, delta, len(key))
    sleeps = np.zeros(len(rows), np.bool_)
    sleeps[ends] = level[len(rows) :] == 0
    return level[: len(rows)] == 1, sleeps


def _gpu_need_milli(facts: Facts, rows: I64) -> I64:
    """(rows,) what the stage needs on the node's model; for a model it does not accept, what was ordered."""
    orders, out = facts.orders, np.zeros(len(rows), np.int64)
    for k, i in enumerate(rows.tolist()):
        _, stage = facts.work.specs[int(orders.spec[i])]
        need = gpu_need_milli(stage, facts.hosts.groups[int(orders.group[i])][1])
        out[k] = need or orders.commands[i]["gpu_milli"]
    return out


def _dynamic_w(facts: Facts, rows: I64) -> F64:
    """(rows,) mean dynamic power of one replica on its node; each (stage, group) is worked out once."""
    orders, hosts = facts.orders, facts.hosts
    known: dict[tuple[int, int], float] = {}
    out = np.zeros(len(rows))
    for k, i in enumerate(rows.tolist()):
        pair = int(orders.spec[i]), int(orders.group[i])
        if pair not in known:
            known[pair] = _replica_w(facts.work.specs[pair[0]][1], hosts.groups[pair[1]][1])
        out[k] = known[pair]
    return out


def _replica_w(stage: Stage, group: NodeGroup) -> float:
    gpus, cores = gpu_need_milli(stage, group) / MILLI, stage.cpu_milli / MILLI
    return stage.utilization_frac * (gpus * group.gpu_dynamic_w + cores * group.core_dynamic_w)


def _power_limits_kw(facts: Facts, rows: I64) -> F64:
    """(rows,) limit of the order's site under the policy then in force."""
    orders, sites = facts.orders, facts.hosts.sites
    revisions = np.array([r for r, _ in facts.policies], np.int64)
    limits = np.array([[_limit_kw(site, policy) for site in sites] for _, policy in facts.policies])
    in_force = np.searchsorted(revisions, orders.revision[rows], side="left") - 1
    limit: F64 = limits[in_force, orders.site[rows]]
    return limit


def _limit_kw(site: Site, policy: Policy) -> float:
    """The most special target that gives a limit wins; the room's own limit stands in any case."""
    for target in (f"sites/{site.site_id}", f"class:{site.kind.value}", "fleet"):
        given = [
            p.power_limit_kw for p in policy.sites if p.target == target and p.power_limit_kw is not None
        ]
        if given:
            return min(given[-1], site.power_limit_kw)
    return site.power_limit_kw


def _link_loads(facts: Facts) -> tuple[I64, I64, F64]:
    """(order, link, Mbps) triples of all zone flows."""
    orders, roads = facts.orders, facts.hosts.roads
    known: dict[tuple[int, int], list[tuple[int, float]]] = {}
    rows: list[int] = []
    links: list[int] = []
    mbps: list[float] = []
    for i in orders.sound.tolist():
        pair = int(orders.spec[i]), int(orders.site[i])
        if pair not in known:
            known[pair] = [
                (link, flow.mbps)
                for zone_id, flow in zone_flows(*facts.work.specs[pair[0]])
                if flow.mbps > 0
                for link in roads.links_of_zone(zone_id, pair[1])
            ]
        for link, amount in known[pair]:
            rows.append(i)
            links.append(link)
            mbps.append(amount)
    return np.array(rows, np.int64), np.array(links, np.int64), np.array(mbps)
