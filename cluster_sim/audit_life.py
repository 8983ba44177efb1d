"""Rules of the second audit over lives and books: reports, states, the end of the day, meters, plans and ledgers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from cluster_sim.audit_facts import (
    ENDED_WELL,
    NEVER,
    UNKNOWN,
    Bool,
    Facts,
    Finding,
    Judged,
    Orders,
)
from suanli.model import Event, EventKind, Fleet, ReplicaPhase, Site, WorkloadState

ENERGY_TOLERANCE_FRAC = 1e-9
"""Rounding of a meter's sums."""
LEDGER_TOLERANCE_KWH = 1e-3
"""Plans give balances to four digits."""
DEBT_TOLERANCE_FRAC = 1e-6
"""Feasibility tolerance of a linear solver, as a share of the energy used."""
GAP_TOLERANCE_FRAC = 1e-6
OVERCOMMIT = "overcommit"
"""How a site's engine begins its word on an order that did not fit."""

_S = WorkloadState
NEXT_STATES: dict[WorkloadState, frozenset[WorkloadState]] = {
    _S.PENDING: frozenset({_S.PLANNED, _S.STARTING, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
    _S.PLANNED: frozenset({_S.PENDING, _S.STARTING, _S.FAILED, _S.CANCELLED}),
    _S.STARTING: frozenset({_S.PENDING, _S.RUNNING, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
    _S.RUNNING: frozenset({_S.PENDING, _S.STARTING, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}
"""Who may follow whom. Start and end may fall into one report, so that starting work ends without having been seen to
run; an order to stop may cross an end, so that waiting work turns out to be over."""


# ------------------------------------------------------------------------------------------- log and fleet


def fleet_is_the_one_given(facts: Facts) -> Judged:
    """Every `fleet.registered` is the fleet document that this audit was given."""
    registered = facts.of_kind(EventKind.FLEET_REGISTERED)
    found = [
        _at(event, "the fleet document given", _difference(facts.hosts.fleet, event))
        for event in registered
        if Fleet.model_validate(event.body["fleet"]) != facts.hosts.fleet
    ]
    return Judged(len(registered), found)


def revisions_count_up(facts: Facts) -> Judged:
    """Every event has a later revision than the one before it."""
    found = [
        _at(b, f"a revision after {a.revision}", f"{b.revision}")
        for a, b in pairwise(facts.events)
        if b.revision <= a.revision
    ]
    return Judged(len(facts.events), found)


def work_is_submitted_once(facts: Facts) -> Judged:
    """A workload's name is accepted once."""
    found = [_at(e, "one submission of the name", "another one") for e in facts.work.repeated]
    return Judged(len(facts.work.names) + len(found), found)


# -------------------------------------------------------------------------------------------------- reports


def reports_name_ordered_placements(facts: Facts) -> Judged:
    """`running` and `ended` speak of a placement ordered before, at the site it was ordered to, each once."""
    orders, found = facts.orders, []
    events = [*facts.of_kind(EventKind.REPLICA_RUNNING), *facts.of_kind(EventKind.REPLICA_ENDED)]
    seen: Counter[tuple[EventKind, str]] = Counter()
    for event in events:
        i = orders.row.get(event.subject)
        seen[event.kind, event.subject] += 1
        if i is None or orders.revision[i] > event.revision:
            found.append(_at(event, "a placement ordered before", "none"))
        elif seen[event.kind, event.subject] > 1:
            found.append(_at(event, f"one {event.kind.value}", "another one"))
        elif event.body["site_id"] != orders.commands[i]["site_id"]:
            found.append(_at(event, f"site {orders.commands[i]['site_id']}", event.body["site_id"]))
    return Judged(len(events), found)


def replica_lives_in_order(facts: Facts) -> Judged:
    """Ordered, then running, then ended; what succeeded has run; the phase is one that ends."""
    orders, found = facts.orders, []
    ends = {p.value for p in ReplicaPhase} - {ReplicaPhase.RUNNING.value}
    for i in np.flatnonzero((orders.ran_at_s != NEVER) | (orders.ended_at_s != NEVER)).tolist():
        ran, ended, phase = orders.ran_at_s[i], orders.ended_at_s[i], orders.end_phase[i]
        if ran != NEVER and ran < orders.at_s[i]:
            found.append(orders.finding(i, "running after the order", f"running at {ran} s"))
        if ended < (ran if ran != NEVER else orders.at_s[i]) or (
            ran != NEVER and orders.ended_revision[i] < orders.ran_revision[i]
        ):
            found.append(orders.finding(i, "an end after the start", f"ended at {ended} s"))
        if ended != NEVER and phase not in ends:
            found.append(orders.finding(i, f"a phase among {', '.join(sorted(ends))}", phase))
        if phase == ENDED_WELL and ran == NEVER:
            found.append(orders.finding(i, "to run before it succeeds", "it never ran"))
    return Judged(len(orders.ids), found)


def no_site_found_an_order_too_large(facts: Facts) -> Judged:
    """No site's engine refused a start because it did not fit its node."""
    ended = facts.of_kind(EventKind.REPLICA_ENDED)
    found = [
        _at(e, "an order that fits its node", e.body["detail"])
        for e in ended
        if e.body.get("detail", "").startswith(OVERCOMMIT)
    ]
    return Judged(len(ended), found)


def outage_ends_what_ran(facts: Facts) -> Judged:
    """A placement ordered to a site before it went down is over when the site comes back."""
    orders, found, checked = facts.orders, [], 0
    for down_s, up in _outages(facts):
        site = facts.hosts.site_index[up.subject.removeprefix("sites/")]
        there = (orders.site == site) & (orders.at_s < down_s) & (orders.revision < up.revision)
        checked += int(there.sum())
        found += [
            orders.finding(i, f"ended by the outage at {down_s} s", _end_in_words(orders, i))
            for i in np.flatnonzero(there & (orders.ended_at_s > up.at_s)).tolist()
        ]
    return Judged(checked, found)


# --------------------------------------------------------------------------------------------------- states


def states_follow_order(facts: Facts) -> Judged:
    """pending → planned → starting → running → a final state, back to pending when a place is lost; nothing after."""
    state: dict[str, WorkloadState] = {}
    found = []
    changes = facts.of_kind(EventKind.WORKLOAD_STATE)
    for event in changes:
        row = facts.work.row.get(event.subject)
        if row is None or facts.work.revision[row] > event.revision:
            found.append(_at(event, "a workload submitted before", "not submitted"))
            continue
        before, after = state.get(event.subject, _S.PENDING), _S(event.body["state"])
        if after not in NEXT_STATES[before]:
            allowed = ", ".join(s.value for s in _S if s in NEXT_STATES[before]) or "nothing"
            found.append(_at(event, f"after {before.value}: {allowed}", after.value))
        state[event.subject] = after
    return Judged(len(changes), found)


def success_is_earned(facts: Facts) -> Judged:
    """A workload succeeds only when all its replicas have ended so."""
    orders = facts.orders
    won = [i for i in orders.sound.tolist() if orders.end_phase[i] == ENDED_WELL]
    by_work: dict[int, list[tuple[int, int]]] = {}
    for i in won:
        by_work.setdefault(int(orders.work[i]), []).append(
            (int(orders.ended_revision[i]), int(orders.replica[i]))
        )
    found, checked = [], 0
    for event, row in _changes_to(facts, _S.SUCCEEDED):
        checked += 1
        wanted = sum(facts.work.replicas[row])
        have = len({replica for revision, replica in by_work.get(row, ()) if revision < event.revision})
        if have < wanted:
            found.append(_at(event, f"all {wanted} replicas ended {ENDED_WELL}", f"{have} did"))
    return Judged(checked, found)


def failure_has_a_cause(facts: Facts) -> Judged:
    """A workload fails only when one of its replicas has ended so."""
    orders = facts.orders
    first: dict[int, int] = {}
    for i in orders.sound.tolist():
        if orders.end_phase[i] == ReplicaPhase.FAILED.value:
            work = int(orders.work[i])
            first[work] = min(first.get(work, NEVER), int(orders.ended_revision[i]))
    changes = list(_changes_to(facts, _S.FAILED))
    found = [
        _at(event, "a replica that ended failed", "none")
        for event, row in changes
        if first.get(row, NEVER) > event.revision
    ]
    return Judged(len(changes), found)


def cancelling_cancels(facts: Facts) -> Judged:
    """What is cancelled becomes so as its next final state, and nothing else does."""
    cancelled = {e.subject: e for e in facts.of_kind(EventKind.WORKLOAD_CANCELLED)}
    became = {facts.work.names[row] for _, row in _changes_to(facts, _S.CANCELLED)}
    found = [
        _at(event, "the state cancelled to follow", "another fate")
        for name, event in cancelled.items()
        if name not in became
    ]
    found += [
        _at(event, "an order to cancel before", "none")
        for event, _ in _changes_to(facts, _S.CANCELLED)
        if event.subject not in cancelled or cancelled[event.subject].revision > event.revision
    ]
    return Judged(len(cancelled), found)


def nothing_runs_after_final(facts: Facts) -> Judged:
    """When a workload is final all its placements are over or told to stop, and none starts to run later."""
    orders, work = facts.orders, facts.work
    rows = orders.sound
    final_revision, final_at_s = work.final_revision[orders.work[rows]], work.final_at_s[orders.work[rows]]
    is_final = (final_revision != NEVER) & (orders.revision[rows] < final_revision)
    left = rows[is_final & (orders.released_revision[rows] > final_revision)]
    late = rows[is_final & (orders.ran_at_s[rows] != NEVER) & (orders.ran_at_s[rows] > final_at_s)]
    found = [
        orders.finding(
            i,
            f"stopped before the final state at revision {work.final_revision[orders.work[i]]}",
            _end_in_words(orders, i),
        )
        for i in left.tolist()
    ]
    found += [
        orders.finding(i, "no start after the final state", f"running at {orders.ran_at_s[i]} s")
        for i in late.tolist()
    ]
    return Judged(int(is_final.sum()), found)


def stopped_work_ends(facts: Facts) -> Judged:
    """What was told to stop has ended when the next report but one is in."""
    orders, found, checked = facts.orders, [], 0
    reports = np.array([e.revision for e in facts.of_kind(EventKind.SITE_METERED)], np.int64)
    for i in np.flatnonzero(orders.stop_revision != NEVER).tolist():
        after = int(np.searchsorted(reports, orders.stop_revision[i]))
        if after + 1 >= len(reports):
            continue
        checked += 1
        if orders.ended_revision[i] > reports[after + 1]:
            expected = f"an end by revision {reports[after + 1]}"
            found.append(orders.finding(i, expected, _end_in_words(orders, i)))
    return Judged(checked, found)


def end_state_is_true(facts: Facts) -> Judged:
    """At the end every accepted workload that is not final is in the state that its replicas are in.

    That final states are true is judged where they are reached.
    """
    declared = [_S.PENDING] * len(facts.work.names)
    for event in facts.of_kind(EventKind.WORKLOAD_STATE):
        row = facts.work.row.get(event.subject)
        if row is not None:
            declared[row] = _S(event.body["state"])
    last = facts.events[-1] if facts.events else None
    found = []
    for row, (state, allowed) in enumerate(zip(declared, _states_allowed(facts), strict=True)):
        if not state.is_final and state not in allowed and last is not None:
            expected = " or ".join(s.value for s in _S if s in allowed)
            found.append(
                Finding(
                    last.revision,
                    last.at_s,
                    facts.work.names[row],
                    f"{expected} by its replicas at the end",
                    state.value,
                )
            )
    return Judged(len(declared), found)


# --------------------------------------------------------------------------------------------------- meters


def meter_windows_join(facts: Facts) -> Judged:
    """Per site, windows follow each other without gap or overlap, and all sites are metered over the same span."""
    windows: dict[str, list[tuple[int, int, Event]]] = {s.site_id: [] for s in facts.hosts.sites}
    found = []
    for event, meter in _meters(facts):
        if meter["site_id"] not in windows:
            found.append(_at(event, "a site of the fleet", meter["site_id"]))
            continue
        windows[meter["site_id"]].append((meter["from_s"], meter["until_s"], event))
    spans = {(w[0][0], w[-1][1]) for w in windows.values() if w}
    for site_id, rows in windows.items():
        for from_s, until_s, event in rows:
            if until_s <= from_s:
                found.append(_at(event, f"a window of {site_id} that lasts", f"[{from_s}, {until_s}) s"))
        for (_, until_s, _), (from_s, _, event) in pairwise(rows):
            if from_s != until_s:
                found.append(_at(event, f"a window of {site_id} from {until_s} s", f"from {from_s} s"))
        if spans and (not rows or (rows[0][0], rows[-1][1]) != (min(spans)[0], max(s[1] for s in spans))):
            event = rows[-1][2] if rows else facts.of_kind(EventKind.SITE_METERED)[-1]
            span = f"[{rows[0][0]}, {rows[-1][1]}) s" if rows else "never"
            expected = f"{site_id} metered over [{min(spans)[0]}, {max(s[1] for s in spans)}) s"
            found.append(_at(event, expected, span))
    return Judged(sum(len(w) for w in windows.values()), found)


def meter_energies_are_physical(facts: Facts) -> Judged:
    """No energy below 0; facility ≥ IT ≥ useful IT in every window (losses only add, useful work is a part)."""
    found, checked = [], 0
    for event, meter in _meters(facts):
        checked += 1
        it, fac, useful = (
            float(meter[k]) for k in ("it_energy_kwh", "facility_energy_kwh", "useful_it_energy_kwh")
        )
        slack = ENERGY_TOLERANCE_FRAC * max(1.0, it)
        if not (min(it, fac, useful) >= 0.0 and fac >= it - slack and it >= useful - slack):
            expected = f"facility ≥ IT ≥ useful IT ≥ 0 kWh at {meter['site_id']} from {meter['from_s']} s"
            found.append(_at(event, expected, f"{fac:.6f}, {it:.6f}, {useful:.6f}"))
    return Judged(checked, found)


# ---------------------------------------------------------------------------------------------------- plans


def plan_has_no_violations(facts: Facts) -> Judged:
    """A committed plan passed its checker; one that did not was cut off, and the log says so."""
    cut_off = {e.subject for e in facts.of_kind(EventKind.SOLVER_CUT_OFF)}
    plans = facts.of_kind(EventKind.PLAN_COMMITTED)
    found = [
        _at(e, "0 violations", str(e.body["violations"]))
        for e in plans
        if e.body["violations"] and e.subject not in cut_off
    ]
    return Judged(len(plans), found)


def plan_gap_is_true(facts: Facts) -> Judged:
    """gap = (objective − bound) / |objective| and bound ≤ objective; a bound and its gap come together."""
    found, checked = [], 0
    for event in facts.of_kind(EventKind.PLAN_COMMITTED):
        for bound in event.body.get("bounds", ()):
            checked += 1
            objective, low, gap = (bound.get(k) for k in ("objective_yuan", "bound_yuan", "gap_frac"))
            wanted = None if low is None else (objective - low) / abs(objective) if objective else 0.0
            above = low is not None and low > objective + GAP_TOLERANCE_FRAC * max(1.0, abs(objective))
            if (
                above
                or (gap is None) != (wanted is None)
                or abs((gap or 0.0) - (wanted or 0.0)) > GAP_TOLERANCE_FRAC
            ):
                expected = f"a bound ≤ {objective} with gap {wanted} for {bound.get('scope', 'fleet')}"
                found.append(_at(event, expected, f"bound {low}, gap {gap}"))
    return Judged(checked, found)


def ledger_opens_with_the_meters(facts: Facts) -> Judged:
    """A plan's balance before = Π·E_IT − E_fac of the opening and all meters so far.

    E_IT is useful IT energy where the policy's ledger counts useful load (domain.md §2.5).
    """
    found, checked = [], 0
    energy = {s.site_id: _opening(s) for s in facts.hosts.sites}
    events = [*facts.of_kind(EventKind.SITE_METERED), *facts.of_kind(EventKind.PLAN_COMMITTED)]
    for event in sorted(events, key=lambda e: e.revision):
        if event.kind is EventKind.SITE_METERED:
            _add_meters(energy, event)
            continue
        counts_useful = facts.policy_at(event.revision).ledger_load == "useful"
        for row in _ledger(event):
            checked += 1
            it, useful, facility = energy[row["site_id"]]
            balance = row["pue_cap_annual"] * (useful if counts_useful else it) - facility
            slack = LEDGER_TOLERANCE_KWH + ENERGY_TOLERANCE_FRAC * facility
            if abs(row["balance_before_kwh"] - balance) > slack:
                expected = f"{row['site_id']} at {balance:.4f} kWh by its meters"
                found.append(_at(event, expected, f"{row['balance_before_kwh']} kWh"))
    return Judged(checked, found)


def ledger_adds_up(facts: Facts) -> Judged:
    """Balance after = before − used, and what is used beyond the release is debt."""
    found, checked = [], 0
    for event in facts.of_kind(EventKind.PLAN_COMMITTED):
        for row in _ledger(event):
            checked += 1
            used = row["used_kwh"]
            after = row["balance_before_kwh"] - used
            debt = max(0.0, used - row["released_kwh"])
            slack = LEDGER_TOLERANCE_KWH + DEBT_TOLERANCE_FRAC * abs(used)
            if abs(row["balance_after_kwh"] - after) > LEDGER_TOLERANCE_KWH:
                actual = f"{row['balance_after_kwh']} kWh"
                found.append(_at(event, f"{row['site_id']} at {after:.4f} kWh after the plan", actual))
            if row["debt_kwh"] < debt - slack:
                expected = f"at least {debt:.4f} kWh of debt at {row['site_id']}"
                found.append(_at(event, expected, f"{row['debt_kwh']} kWh"))
    return Judged(checked, found)


# ---------------------------------------------------------------------------------------------------- tools


def _states_allowed(facts: Facts) -> Iterator[set[WorkloadState]]:
    """Per workload the states that its replicas' fates leave it."""
    orders, work = facts.orders, facts.work
    count = len(work.names)
    rows = orders.sound
    is_live = orders.released_revision[rows] == NEVER
    has_run = is_live & (orders.ran_at_s[rows] != NEVER)
    phases = np.array([orders.end_phase[i] for i in rows.tolist()], dtype=object)
    owner = orders.work[rows]
    newest = _newest(orders, rows)

    def of_work(mask: Bool) -> Any:
        return np.bincount(owner[mask], minlength=count) > 0

    live, running, failed = of_work(is_live), of_work(has_run), of_work(phases == ReplicaPhase.FAILED.value)
    being_moved = of_work(is_live & ~newest)
    won = np.bincount(owner[newest & (phases == ENDED_WELL)], minlength=count)
    cancelled = {e.subject for e in facts.of_kind(EventKind.WORKLOAD_CANCELLED)}
    for row in range(count):
        yield _allowed(
            running=bool(running[row]),
            live=bool(live[row]),
            moving=bool(being_moved[row]),
            failed=bool(failed[row]),
            whole=0 < sum(work.replicas[row]) == int(won[row]),
            cancelled=work.names[row] in cancelled,
        )


def _allowed(
    *, running: bool, live: bool, moving: bool, failed: bool, whole: bool, cancelled: bool
) -> set[WorkloadState]:
    """Work on its way to another site may show as starting while the old place still serves.

    With a final state among those allowed, any other is a lie at the end.
    """
    if running:
        return {_S.RUNNING, _S.STARTING} if moving else {_S.RUNNING}
    if live:
        return {_S.STARTING}
    if whole:
        return {_S.SUCCEEDED}
    if cancelled:
        return {_S.CANCELLED}
    return {_S.FAILED} if failed else {_S.PENDING, _S.PLANNED}


def _newest(orders: Orders, rows: Any) -> Bool:
    """(rows,) whether no later order of the same replica follows."""
    last: dict[int, int] = {}
    for k, i in enumerate(rows.tolist()):
        last[int(orders.replica[i])] = k
    out = np.zeros(len(rows), np.bool_)
    out[list(last.values())] = True
    return out


def _changes_to(facts: Facts, state: WorkloadState) -> Iterator[tuple[Event, int]]:
    """(event, workload row) of changes to one state."""
    for event in facts.of_kind(EventKind.WORKLOAD_STATE):
        row = facts.work.row.get(event.subject, UNKNOWN)
        if row != UNKNOWN and event.body["state"] == state.value:
            yield event, row


def _outages(facts: Facts) -> Iterator[tuple[int, Event]]:
    """(instant it went down, event of its return) for each outage that is over."""
    since: dict[str, int] = {}
    changes = [*facts.of_kind(EventKind.SITE_DOWN), *facts.of_kind(EventKind.SITE_UP)]
    for event in sorted(changes, key=lambda e: e.revision):
        if event.kind is EventKind.SITE_DOWN:
            since[event.subject] = event.at_s
        elif event.subject in since:
            yield since.pop(event.subject), event


def _meters(facts: Facts) -> Iterator[tuple[Event, dict[str, Any]]]:
    for event in facts.of_kind(EventKind.SITE_METERED):
        for meter in event.body["meters"]:
            yield event, meter


def _opening(site: Site) -> list[float]:
    """[IT, useful IT, facility] kWh since 1 January at the start of the log."""
    opening = site.ledger_opening
    return [opening.it_energy_kwh, opening.it_energy_kwh, opening.facility_energy_kwh]


def _add_meters(energy: dict[str, list[float]], event: Event) -> None:
    for meter in event.body["meters"]:
        sums = energy.get(meter["site_id"])
        if sums is not None:
            sums[0] += meter["it_energy_kwh"]
            sums[1] += meter["useful_it_energy_kwh"]
            sums[2] += meter["facility_energy_kwh"]


def _ledger(event: Event) -> list[dict[str, Any]]:
    """Ledger rows of a plan that name a cap."""
    rows = event.body.get("ledger") or event.body.get("ledgers") or []
    return [row for row in rows if row.get("pue_cap_annual") is not None]


def _difference(fleet: Fleet, event: Event) -> str:
    """The first part of the fleet in which the registered one differs."""
    registered = Fleet.model_validate(event.body["fleet"])
    parts = [k for k in Fleet.model_fields if getattr(registered, k) != getattr(fleet, k)]
    return f"another one: {', '.join(parts)} differ"


def _end_in_words(orders: Orders, row: int) -> str:
    ended = orders.ended_at_s[row]
    return "not ended" if ended == NEVER else f"ended at {ended} s"


def _at(event: Event, expected: str, actual: str) -> Finding:
    return Finding(event.revision, event.at_s, event.subject, expected, actual)
