"""Rules of the second audit over start orders: what may be ordered, when, and on which hosts.

    who and when    open work, its stages and replicas, incarnations, one place per replica, moves
    where           node exists, site takes work, GPU model and memory, labels, named sites, RTT of zone legs

A rule over hosts depends on the stage and the node group alone, so each pair is judged once and the verdict holds for
all orders of that pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

import numpy as np

from cluster_sim.audit_facts import (
    NEVER,
    UNKNOWN,
    Bool,
    Facts,
    Finding,
    Judged,
    Orders,
    device_count,
    gpu_need_milli,
)
from suanli.model import Event, EventKind, Flow, NodeGroup, Site, SiteKind, Stage, StopKind, Workload

RTT_TOLERANCE_MS = 1e-6
"""Sums of a few legs of milliseconds differ by rounding alone."""
WORK_TOLERANCE_S = 1e-6

Verdict = tuple[str, str] | None
"""(expected, actual) of a broken rule."""


# --------------------------------------------------------------------------------------------- who and when


def order_is_for_known_work(facts: Facts) -> Judged:
    """The workload was submitted before, and the order speaks of it in its placement id."""
    orders, found = facts.orders, []
    for i, command in enumerate(orders.commands):
        work = int(orders.work[i])
        if work == UNKNOWN or facts.work.revision[work] > orders.revision[i]:
            found.append(orders.finding(i, f"{command['workload']} submitted before", "not submitted"))
    return Judged(len(orders.ids), found)


def stage_and_replica_exist(facts: Facts) -> Judged:
    """The stage is one of the workload's own (a shared one runs at its owner) and the replica index is in range."""
    orders, found = facts.orders, []
    for i in np.flatnonzero((orders.work >= 0) & (orders.replica == UNKNOWN)).tolist():
        work, stage, command = int(orders.work[i]), int(orders.stage[i]), orders.commands[i]
        name = f"stage {command['stage_id']}"
        if stage == UNKNOWN:
            known = ", ".join(s.stage_id for s in facts.work.shape_of(work).stages)
            found.append(orders.finding(i, f"one of the stages {known}", name))
        elif facts.work.replicas[work][stage] == 0:
            owner = facts.work.shape_of(work).stages[stage].shared_with
            found.append(orders.finding(i, f"{name} to run at its owner {owner} only", "an order of its own"))
        else:
            count = facts.work.replicas[work][stage]
            found.append(
                orders.finding(
                    i, f"{name} with replicas 0 to {count - 1}", f"replica {command['replica_index']}"
                )
            )
    return Judged(int((orders.work >= 0).sum()), found)


def placement_is_ordered_once(facts: Facts) -> Judged:
    """A placement id is `{workload}/{stage}/{replica}#{incarnation}` and is ordered once and only once."""
    orders, found = facts.orders, []
    for i, (placement_id, command) in enumerate(zip(orders.ids, orders.commands, strict=True)):
        base, _, incarnation = placement_id.rpartition("#")
        wanted = f"{command['workload']}/{command['stage_id']}/{command['replica_index']}"
        if base != wanted or not incarnation.isdigit() or command["placement_id"] != placement_id:
            found.append(orders.finding(i, f"a placement id {wanted}#n", command["placement_id"]))
        elif orders.row[placement_id] != i:
            found.append(
                orders.finding(i, "one order", f"a second one after {_at(orders, orders.row[placement_id])}")
            )
    return Judged(len(orders.ids), found)


def incarnations_count_up(facts: Facts) -> Judged:
    """Each restart or move of a replica is its next incarnation, from 0."""
    orders, found = facts.orders, []
    for rows in _by_replica(orders):
        for expected, i in enumerate(rows):
            actual = orders.ids[i].rpartition("#")[2]
            if actual != str(expected) and orders.row[orders.ids[i]] == i:
                found.append(orders.finding(i, f"incarnation {expected}", f"incarnation {actual}"))
    return Judged(int((orders.replica >= 0).sum()), found)


def work_is_not_final(facts: Facts) -> Judged:
    """Nothing is ordered for a workload that succeeded, failed or was cancelled."""
    orders = facts.orders
    known = np.flatnonzero(orders.work >= 0)
    late = known[orders.revision[known] > facts.work.final_revision[orders.work[known]]]
    return Judged(
        len(known),
        [
            orders.finding(
                i,
                "no order after a final state",
                f"final since revision {facts.work.final_revision[orders.work[i]]}",
            )
            for i in late.tolist()
        ],
    )


def not_before_is_kept(facts: Facts) -> Judged:
    """No start before the instant from which the workload may run."""
    orders = facts.orders
    known = np.flatnonzero(orders.work >= 0)
    early = known[orders.at_s[known] < facts.work.not_before_s[orders.work[known]]]
    return Judged(
        len(known),
        [
            orders.finding(
                i,
                f"a start at or after {facts.work.not_before_s[orders.work[i]]} s",
                f"one at {orders.at_s[i]} s",
            )
            for i in early.tolist()
        ],
    )


def order_says_what_the_stage_asks(facts: Facts) -> Judged:
    """CPU, memory, reference GPUs, utilisation and the way to run are those of the stage, and the instant is now."""
    orders, found = facts.orders, []
    rows = orders.sound.tolist()
    for i in rows:
        _, stage = facts.work.specs[int(orders.spec[i])]
        command = orders.commands[i]
        count = facts.work.replicas[int(orders.work[i])][int(orders.stage[i])]
        wanted = {
            "cpu_milli": stage.cpu_milli,
            "memory_mib": stage.memory_mib,
            "reference_gpu_milli": stage.reference_gpu_milli,
            "utilization_frac": stage.utilization_frac,
            "startup_s": stage.startup_s,
            "is_service": stage.is_service,
            "checkpoint_interval_s": stage.checkpoint_interval_s,
            "gang_size": count if stage.gang else 1,
            "at_s": orders.events[i].at_s,
        }
        wrong = [k for k, v in wanted.items() if command[k] != v]
        if wrong:
            found.append(
                orders.finding(
                    i,
                    ", ".join(f"{k} {wanted[k]}" for k in wrong),
                    ", ".join(f"{k} {command[k]}" for k in wrong),
                )
            )
    return Judged(len(rows), found)


def one_place_per_replica(facts: Facts) -> Judged:
    """A replica is started while an older placement of it is live only by a move, and only beside one of them."""
    orders, found = facts.orders, []
    moved = {e.subject for e in facts.of_kind(EventKind.REPLICA_MOVED)}
    for rows in _by_replica(orders):
        for older, i in _overlaps(orders, rows):
            is_move = any(orders.ids[j] in moved for j in rows[rows.index(older[0]) + 1 : rows.index(i) + 1])
            if len(older) > 1 or not is_move:
                names = ", ".join(orders.ids[j].rpartition("/")[2] for j in older)
                found.append(orders.finding(i, "no live placement of the replica", f"{names} live"))
    return Judged(int((orders.replica >= 0).sum()), found)


def move_stops_the_old(facts: Facts) -> Judged:
    """Make before break: the old placement is stopped (or over) when the new one runs, of a stage graph when all new
    ones that were ordered with it run; and no stage of a graph changes over before the others."""
    orders, found, checked = facts.orders, [], 0
    stops = facts.of_kind(EventKind.REPLICA_STOP_ORDERED)
    changed_over = {e.subject: e.at_s for e in stops if e.body["kind"] == StopKind.MOVED}
    for older, i, together in _moves(facts):
        checked += 1
        runs_at_s = int(orders.ran_at_s[together].max())
        if runs_at_s == NEVER:
            continue
        found += [
            orders.finding(
                i,
                f"{orders.ids[j]} serves until what moves with it runs at {runs_at_s} s",
                f"stopped at {changed_over[orders.ids[j]]} s",
            )
            for j in older
            if changed_over.get(orders.ids[j], NEVER) < runs_at_s
        ]
        found += [
            orders.finding(
                i,
                f"{orders.ids[j]} stopped when the new one runs at {runs_at_s} s",
                "never stopped"
                if orders.released_at_s[j] == NEVER
                else f"stopped at {orders.released_at_s[j]} s",
            )
            for j in older
            if orders.released_at_s[j] > runs_at_s
        ]
    return Judged(checked, found)


def _moves(facts: Facts) -> Iterator[tuple[list[int], int, list[int]]]:
    """(older live orders of the replica, its new order, orders that change over with it, itself included)."""
    orders = facts.orders
    every = [(older, i) for rows in _by_replica(orders) for older, i in _overlaps(orders, rows)]
    together: dict[tuple[int, int], list[int]] = {}
    for _, i in every:
        if len(facts.work.shape_of(int(orders.work[i])).stages) > 1:
            together.setdefault((int(orders.work[i]), int(orders.at_s[i])), []).append(i)
    for older, i in every:
        yield older, i, together.get((int(orders.work[i]), int(orders.at_s[i])), [i])


def move_is_told_truly(facts: Facts) -> Judged:
    """`replica.moved` names the site that the replica leaves, the one it goes to, and the mode between them."""
    orders, sites, found = facts.orders, facts.hosts.sites, []
    before = {i: older[0] for rows in _by_replica(orders) for older, i in _overlaps(orders, rows)}
    for event in facts.of_kind(EventKind.REPLICA_MOVED):
        i = orders.row.get(event.subject)
        old = before.get(i) if i is not None else None
        if i is None or old is None or min(orders.site[i], orders.site[old]) < 0:
            actual = "no such pair of placements"
            found.append(_at_event(event, "an order that replaces a live placement", actual))
            continue
        source, target = sites[int(orders.site[old])], sites[int(orders.site[i])]
        wanted = (source.site_id, target.site_id, _mode(source, target))
        told = tuple(event.body[k] for k in ("from_site_id", "to_site_id", "mode"))
        if wanted != told:
            found.append(_at_event(event, " ".join(wanted), " ".join(told)))
    return Judged(len(facts.of_kind(EventKind.REPLICA_MOVED)), found)


def preemption_is_lawful(facts: Facts) -> Judged:
    """Only preemptible work gives way, only to work of a higher priority class, and it is told to stop."""
    orders, work, found = facts.orders, facts.work, []
    events = facts.of_kind(EventKind.REPLICA_PREEMPTED)
    for event in events:
        i, by = orders.row.get(event.subject), work.row.get(event.body["by"])
        if i is None or orders.spec[i] == UNKNOWN or by is None:
            found.append(_at_event(event, "a placement and a workload of the log", "one of them unknown"))
            continue
        shape, stage = work.specs[int(orders.spec[i])]
        ours, theirs = shape.priority_class, work.shape_of(by).priority_class
        if not stage.preemptible:
            found.append(_at_event(event, "a preemptible stage", f"{stage.stage_id} is not"))
        if theirs.rank >= ours.rank:
            found.append(_at_event(event, f"work above {ours.value}", f"{event.body['by']}: {theirs.value}"))
        found += _not_told_to_stop(facts, event, i, StopKind.PREEMPTED)
    return Judged(len(events), found)


def _not_told_to_stop(facts: Facts, event: Event, i: int, kind: StopKind) -> list[Finding]:
    """What order i lacks of the stop that an event claims: one by then, of that kind."""
    orders = facts.orders
    if orders.stop_revision[i] == NEVER or orders.stop_at_s[i] > event.at_s:
        return [_at_event(event, "an order to stop", "none by then")]
    told = orders.stop_kind[i]
    return [] if told == kind else [_at_event(event, f"an order to stop, {kind.value}", told)]


def pause_is_lawful(facts: Facts) -> Judged:
    """Only deferrable, preemptible work with checkpoints pauses, is told to stop, and has the time to be done by its
    deadline."""
    orders, work, found = facts.orders, facts.work, []
    events = facts.of_kind(EventKind.REPLICA_PAUSED)
    for event in events:
        i = orders.row.get(event.subject)
        if i is None or orders.spec[i] == UNKNOWN:
            found.append(_at_event(event, "a placement of the log", "an unknown one"))
            continue
        shape, stage = work.specs[int(orders.spec[i])]
        if not (shape.deferrable and stage.preemptible and stage.checkpoint_interval_s > 0):
            found.append(_at_event(event, "deferrable, preemptible work with checkpoints", stage.stage_id))
        found += _not_told_to_stop(facts, event, i, StopKind.PAUSED)
        command = orders.commands[i]
        left_s = float(command["declared_work_s"]) - float(command["done_work_s"])
        left_s -= 0 if orders.ran_at_s[i] == NEVER else float(event.at_s - orders.ran_at_s[i])
        deadline_s = int(work.deadline_s[work.row[event.body["workload"]]])
        if event.body["until_s"] + left_s > deadline_s:
            found.append(
                _at_event(event, f"done by {deadline_s}", f"{left_s:g} s left at {event.body['until_s']}")
            )
    return Judged(len(events), found)


def restart_builds_on_saved_work(facts: Facts) -> Judged:
    """An order begins with no more work done than earlier placements of the replica left behind, or have done so far
    where the log ends before they do."""
    orders, found = facts.orders, []
    for rows in _by_replica(orders):
        saved_s = 0.0
        for before, i in zip([None, *rows], rows, strict=False):
            done_s = float(orders.commands[i]["done_work_s"])
            saved_s = max(
                saved_s, 0.0 if before is None else _done_until_s(orders, before, int(orders.at_s[i]))
            )
            if done_s > saved_s + WORK_TOLERANCE_S:
                found.append(orders.finding(i, f"at most {saved_s:g} s of work done", f"{done_s:g} s"))
            saved_s = max(saved_s, done_s, float(orders.done_work_s[i]))
    return Judged(int((orders.replica >= 0).sum()), found)


def _done_until_s(orders: Orders, row: int, at_s: int) -> float:
    """Work of a placement that no report has ended, if all its time since it ran was work; 0 where one has."""
    if orders.ended_at_s[row] != NEVER or orders.ran_at_s[row] == NEVER:
        return 0.0
    return float(orders.commands[row]["done_work_s"]) + float(at_s - orders.ran_at_s[row])


# ---------------------------------------------------------------------------------------------------- where


def node_exists(facts: Facts) -> Judged:
    """Site, group and node index are in the fleet document."""
    orders = facts.orders
    return Judged(
        len(orders.ids),
        [
            orders.finding(i, "a node of the fleet", "{site_id}/{group_id}/{node_index}".format(**c))
            for i, c in enumerate(orders.commands)
            if orders.node[i] == UNKNOWN
        ],
    )


def site_takes_work(facts: Facts) -> Judged:
    """No start on a site that is down, nor on a site or node that is cordoned, as the log knew it then."""
    hosts, orders, found = facts.hosts, facts.orders, []
    down = np.zeros(len(hosts.sites), np.bool_)
    cordoned = np.array([s.cordoned for s in hosts.sites], np.bool_)[hosts.node_site]
    kinds = (EventKind.SITE_DOWN, EventKind.SITE_UP, EventKind.SITE_CORDONED)
    changes = sorted((e for k in kinds for e in facts.of_kind(k)), key=lambda e: e.revision)
    limits = [-1, *(e.revision for e in changes), NEVER]
    rows = orders.sound
    for part, change in enumerate((None, *changes)):
        if change is not None:
            _apply(change, facts, down, cordoned)
        here = rows[(orders.revision[rows] > limits[part]) & (orders.revision[rows] < limits[part + 1])]
        found += [
            orders.finding(i, "a site that is up", f"{orders.commands[i]['site_id']} is down")
            for i in here[down[orders.site[here]]].tolist()
        ]
        found += [
            orders.finding(
                i, "a node that is not cordoned", f"{hosts.node_name(int(orders.node[i]))} is cordoned"
            )
            for i in here[cordoned[orders.node[here]]].tolist()
        ]
    return Judged(len(rows), found)


def gpu_model_is_accepted(facts: Facts) -> Judged:
    """The node's GPU model is one that the stage names."""

    def judge(_: Workload, stage: Stage, __: int, group: NodeGroup) -> Verdict:
        if not stage.gpu_milli or group.gpu_model in stage.gpu_milli:
            return None
        return f"a GPU of {', '.join(stage.gpu_milli)}", group.gpu_model or "no GPU"

    return _per_host(facts, judge)


def gpu_share_fits_model(facts: Facts) -> Judged:
    """Milli-GPUs are what the stage needs on that (accepted) model, on as many devices as that takes, each once."""
    orders, found = facts.orders, []
    rows = orders.sound.tolist()
    for i in rows:
        _, stage = facts.work.specs[int(orders.spec[i])]
        group = facts.hosts.groups[int(orders.group[i])][1]
        if stage.gpu_milli and group.gpu_model not in stage.gpu_milli:
            continue
        need = gpu_need_milli(stage, group)
        milli, ids = orders.commands[i]["gpu_milli"], list(orders.commands[i]["gpu_ids"])
        if milli != need or len(ids) != device_count(need) or len(set(ids)) != len(ids):
            expected = f"{need} milli-GPUs on {device_count(need)} devices"
            found.append(orders.finding(i, expected, f"{milli} on devices {ids}"))
    return Judged(len(rows), found)


def gpu_memory_is_enough(facts: Facts) -> Judged:
    """A whole GPU of the node has the memory asked for; a share of it brings its share of the memory."""

    def judge(_: Workload, stage: Stage, __: int, group: NodeGroup) -> Verdict:
        if not stage.gpu_milli or group.gpu_memory_mib >= stage.gpu_memory_mib:
            return None
        return f"{stage.gpu_memory_mib} MiB per GPU", f"{group.gpu_memory_mib} MiB"

    return _per_host(facts, judge)


def labels_match(facts: Facts) -> Judged:
    """Residency and trust: the site has all labels of at least one alternative."""

    def judge(_: Workload, stage: Stage, site: int, __: NodeGroup) -> Verdict:
        labels = facts.hosts.labels(site)
        if not stage.require_any or any(a.items() <= labels.items() for a in stage.require_any):
            return None
        expected = " or ".join(" and ".join(f"{k}={v}" for k, v in a.items()) for a in stage.require_any)
        wanted = {k for a in stage.require_any for k in a}
        carried = " ".join(f"{k}={v}" for k, v in labels.items() if k in wanted)
        return expected, f"{facts.hosts.sites[site].site_id} with {carried or 'no such label'}"

    return _per_host(facts, judge)


def site_is_named(facts: Facts) -> Judged:
    """Where the submitter narrowed the sites, it is one of them."""

    def judge(_: Workload, stage: Stage, site: int, __: NodeGroup) -> Verdict:
        site_id = facts.hosts.sites[site].site_id
        if not stage.site_ids or site_id in stage.site_ids:
            return None
        return f"one of {', '.join(stage.site_ids)}", site_id

    return _per_host(facts, judge)


def zone_legs_within_rtt(facts: Facts) -> Judged:
    """Network p99 of every flow between a zone and the stage is known and at most its limit, at the planning load."""
    roads = facts.hosts.roads

    def judge(shape: Workload, stage: Stage, site: int, _: NodeGroup) -> Verdict:
        for zone_id, flow in zone_flows(shape, stage):
            rtt_ms = roads.zone_leg_ms(zone_id, flow.access_id, site)
            limit_ms = np.inf if flow.rtt_p99_max_ms is None else flow.rtt_p99_max_ms
            if not rtt_ms <= limit_ms + RTT_TOLERANCE_MS or not np.isfinite(rtt_ms):
                where = f"{zone_id} to {facts.hosts.sites[site].site_id}"
                by = f" by {flow.access_id}" if flow.access_id else ""
                return f"p99 RTT {where}{by} ≤ {limit_ms:g} ms", f"{rtt_ms:.3f} ms"
        return None

    return _per_host(facts, judge)


# ---------------------------------------------------------------------------------------------------- tools


def zone_flows(shape: Workload, stage: Stage) -> list[tuple[str, Flow]]:
    """(zone, flow) of the stage's flows from or to zones."""
    me = f"stages/{stage.stage_id}"
    return [
        (end.removeprefix("zones/"), flow)
        for flow in shape.flows
        if me in (flow.source, flow.target)
        for end in (flow.source, flow.target)
        if end.startswith("zones/")
    ]


def _per_host(facts: Facts, judge: Callable[[Workload, Stage, int, NodeGroup], Verdict]) -> Judged:
    """Judge each (spec, group) pair once and give its verdict to every order of the pair."""
    orders, hosts = facts.orders, facts.hosts
    rows = orders.sound
    pairs, pair_of = np.unique(
        orders.spec[rows] * max(1, len(hosts.groups)) + orders.group[rows], return_inverse=True
    )
    found = []
    for k, pair in enumerate(pairs.tolist()):
        spec, g = divmod(pair, max(1, len(hosts.groups)))
        shape, stage = facts.work.specs[spec]
        verdict = judge(shape, stage, *hosts.groups[g])
        if verdict is not None:
            found += [orders.finding(i, *verdict) for i in rows[pair_of == k].tolist()]
    return Judged(len(rows), found)


def _by_replica(orders: Orders) -> list[list[int]]:
    """Rows of each replica that was ordered, in the order of the log."""
    rows = np.flatnonzero(orders.replica >= 0)
    rows = rows[np.argsort(orders.replica[rows], kind="stable")]
    return [list(same) for _, same in groupby(rows.tolist(), key=lambda i: int(orders.replica[i]))]


def _overlaps(orders: Orders, rows: list[int]) -> list[tuple[list[int], int]]:
    """(older orders still live, order) for each order that was given beside a live one."""
    found = []
    for k, i in enumerate(rows):
        older = [j for j in rows[:k] if orders.released_revision[j] > orders.revision[i]]
        if older:
            found.append((older, i))
    return found


def _apply(change: Event, facts: Facts, down: Bool, cordoned: Bool) -> None:
    """One change of what takes work; what it names must exist."""
    hosts = facts.hosts
    site_id = change.subject.removeprefix("sites/")
    site = hosts.site_index[site_id]
    if change.kind is not EventKind.SITE_CORDONED:
        down[site] = change.kind is EventKind.SITE_DOWN
    elif change.body["node_index"] < 0:
        cordoned[hosts.node_site == site] = change.body["cordoned"]
    else:
        group = hosts.group_index[site_id, change.body["group_id"]]
        cordoned[int(hosts.first_node[group]) + change.body["node_index"]] = change.body["cordoned"]


def _mode(source: Site, target: Site) -> str:
    if source.kind is target.kind:
        return "cloud_cloud" if source.kind is SiteKind.CLOUD else "edge_edge"
    return "cloud_edge"


def _at(orders: Orders, row: int) -> str:
    return f"revision {orders.revision[row]}"


def _at_event(event: Event, expected: str, actual: str) -> Finding:
    return Finding(event.revision, event.at_s, event.subject, expected, actual)
