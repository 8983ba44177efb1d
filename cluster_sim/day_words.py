"""The words and numbers in which a day is told: shared by the terminal summary, the live line and the report.

one_sentence      the day for a stranger; outcomes_in_words what became of its workloads
outage_in_words   why a site was down, and what it lost
reason_in_words   one no of an Explanation; blocked_in_words all of them, place by place
event_in_words    one event of the log, None when it tells nothing on its own
asked_in_words    the instant for which an Explanation speaks
saved_in_words    what moves save: energy in yuan, waiting in GPU-hours
number, percent   figures with thin groups: 1 204
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import numpy as np

from cluster_sim.day_values import ClassLatency, Comparison, DayResult, Outage
from suanli.model import Event, EventKind, Explanation, Fleet, MoveMode, Reason, WorkloadState
from suanli.model.units import SECONDS_PER_HOUR, utc
from suanli.model.words import GROUP, blocked_places, grouped, nodes_words, reason_words

NONE = "–"
MODE_NAMES = {
    MoveMode.CLOUD_CLOUD: ("cloud–cloud", "云云协同"),
    MoveMode.CLOUD_EDGE: ("cloud–edge", "云边协同"),
    MoveMode.EDGE_EDGE: ("edge–edge", "边边协同"),
}
"""The three modes of the plan, document 003."""


def number(value: float | None, digits: int = 0) -> str:
    """`1 204`, `12.50`, or a dash; a rounded zero carries no minus sign."""
    if value is None:
        return NONE
    text = grouped(value, f".{digits}f")
    return text.removeprefix("-") if not text.strip("-0. ") else text.replace("-", "−")


SMALLEST_SHOWN_YUAN = 1e-6


def small_amount(value_yuan: float, digits: int = 2) -> str:
    """`12.50`, and of what would round to nothing two significant digits: `0.0042`."""
    size = abs(value_yuan)
    if digits and SMALLEST_SHOWN_YUAN <= size < 0.5 * 10.0**-digits:
        digits = 1 - math.floor(math.log10(size))
    return number(value_yuan, digits)


def saved_in_words(energy_yuan: float, wait_gpu_h: float, lateness_yuan: float, *, decimals: int = 0) -> str:
    """What moves save: money for energy, and apart from it time that gangs wait less, with what that is worth."""
    energy = f"¥{small_amount(energy_yuan, decimals)} of energy"
    if wait_gpu_h <= 0:
        return energy
    return (
        f"{energy} and {number(wait_gpu_h)} GPU-hours of waiting, worth ¥{number(lateness_yuan)} as lateness"
    )


IDLE_IPUE = 20.0
"""Above it (IT under 5 % of the facility's energy) the ratio tells of an empty room, not of work (ASSUMED)."""


def ipue_in_words(it_kwh: float, facility_kwh: float, *, is_empty: bool = False) -> str:
    """`1.234`; `idle` where nothing ran or next to no IT energy was drawn; a dash where the meters read nothing."""
    if facility_kwh <= 0:
        return NONE
    return "idle" if is_empty or facility_kwh > IDLE_IPUE * it_kwh else number(facility_kwh / it_kwh, 3)


def signed(value: float | None, digits: int = 0) -> str:
    """Like `number`, with a plus sign before what is above zero."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and text.strip("0.") else text


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 1 as `12.3 %`."""
    return NONE if share is None else f"{number(share * 100, digits)}{GROUP}%"


def gap_percent(gap_frac: float | None) -> str:
    """A gap, never rounded down: what is claimed as proven must be."""
    if gap_frac is None:
        return NONE
    digits = 2 if gap_frac < 0.01 else 1
    steps = math.ceil(round(gap_frac * 100 * 10**digits, 6))
    return f"{number(steps / 10**digits, digits)}{GROUP}%"


def below(share: float | None) -> str:
    """`12.3 % below` or `3.0 % above`."""
    if share is None:
        return ""
    return f"{percent(abs(share))} {'below' if share >= 0 else 'above'}"


def in_order(classes: Iterable[ClassLatency]) -> list[ClassLatency]:
    """W1, W1h, W2 … W10: numbers count as numbers."""

    def key(row: ClassLatency) -> tuple[tuple[int, int, str], ...]:
        parts = re.findall(r"\d+|\D+", row.workload_class)
        return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts)

    return sorted(classes, key=key)


def minutes(duration_s: float) -> str:
    """A duration as a reader says it: `45 s`, `12 min`, `3.5 h`."""
    if duration_s < 100:
        return f"{number(duration_s)}{GROUP}s"
    if duration_s < 100 * 60:
        return f"{number(duration_s / 60)}{GROUP}min"
    return f"{number(duration_s / 3600, 1)}{GROUP}h"


def one_sentence(comparison: Comparison, versus: str = "least-loaded") -> str:
    """The day for a stranger: what was placed, how well promises were kept, what it cost, how far from the best.

    Money is what the day and its drain cost, and in brackets what was paid before the day ended; the comparison is
    per delivered GPU-hour, so that leaving work undone never looks like saving. The proof is the worst gap of the
    day's fleet plans.
    """
    day = comparison.ours
    held, capped = day.caps
    parts = [f"{number(day.placed_count)} workloads placed"]
    if day.latency is None:
        parts.append("latency not measured")
    else:
        parts.append(f"{number(day.latency.outside_count)} outside their latency")
    parts.append(f"caps held at {held} of {capped} sites")
    parts.append(_money(day))
    saving = comparison.below_frac(versus)
    if saving is not None:
        parts.append(f"{below(saving)} {versus} per GPU-hour")
    parts.append(_proof(day))
    return ", ".join(parts) + "."


def _money(day: DayResult) -> str:
    spent = f"¥{number(day.drained.cost_yuan)} for energy"
    if day.window.drained_until_s == day.window.day_end_s:
        return spent
    return f"{spent} until drained (¥{number(day.day.cost_yuan)} in the day)"


def outcomes_in_words(day: DayResult) -> str:
    """What became of all that was submitted, at the end of the drain: `784 succeeded, 17 cancelled by …`."""
    said = (
        (WorkloadState.SUCCEEDED, "succeeded"),
        # the service fails a workload only when its site reports that a replica broke down
        (WorkloadState.FAILED, "failed as the scenario has it"),
        (WorkloadState.CANCELLED, "cancelled by their owners"),
        (WorkloadState.RUNNING, "still run"),
        (WorkloadState.STARTING, "start"),
        (WorkloadState.PENDING, "wait"),
        (WorkloadState.PLANNED, "planned for later"),
    )
    counts = ((day.state_counts.get(state, 0), words) for state, words in said)
    return ", ".join(f"{number(count)} {words}" for count, words in counts if count)


def outage_in_words(outage: Outage) -> str:
    """`power feed fault; 12 replicas lost, all started again`, or `power feed fault; nothing ran there`."""
    return "; ".join(filter(None, (outage.cause, _losses(outage))))


def _losses(outage: Outage) -> str:
    lost, again = outage.lost_count, outage.restarted_count
    if not lost:
        return "nothing ran there"
    if lost == 1:
        return f"1 replica lost, it {'started again' if again else 'did not start again'}"
    started = {lost: "all", 0: "none"}.get(again, number(again))
    return f"{number(lost)} replicas lost, {started} started again"


def learned_in_words(day: DayResult) -> str:
    """How far the planner's models of facility power were off at first and at the end, where sites run then; or ""."""
    errors = day.learned.error_frac
    told = np.flatnonzero(np.isfinite(errors[-1])) if len(errors) else np.zeros(0, int)
    if not told.size:
        return ""
    first = max(float(errors[np.isfinite(errors[:, site]), site][0]) for site in told)
    under = sum(day.learned.settled_s[site] is not None for site in told)
    return (
        f"learned from meters: power models of sites up to {percent(first)} off at first, "
        f"{percent(float(errors[-1, told].max()))} at the end; {number(under)} of {number(told.size)} running sites "
        f"settled below 3 %{_never_ran(day)}"
    )


def _never_ran(day: DayResult) -> str:
    """Sites without a run in the day: no model of theirs was learned, so none was judged."""
    empty = sum(not site.placed_count for site in day.sites)
    return f"; {number(empty)} {'site' if empty == 1 else 'sites'} never ran" if empty else ""


def _proof(day: DayResult) -> str:
    fleet = day.gap("fleet")
    if fleet is None or fleet.max_frac is None:
        return "without a proven bound"
    if fleet.bounded_count < fleet.plan_count:
        return f"proven within {gap_percent(fleet.max_frac)} in {fleet.bounded_count} of {fleet.plan_count} plans"
    return f"proven within {gap_percent(fleet.max_frac)}"


def asked_in_words(fleet: Fleet, explanation: Explanation) -> str:
    """`at 00:59 on 15 July: `, local time of the fleet; empty where the answer does not say when it was given."""
    if not explanation.at_s:
        return ""
    offset_s = fleet.utc_offset_hours * SECONDS_PER_HOUR
    local = utc(explanation.at_s + offset_s)
    return f"at {local:%H:%M} on {local.day} {local:%B}: "


def reason_in_words(reason: Reason) -> str:
    """`room for 8 of the gang's 16 GPUs (16 nodes)`, in the numbers of a day."""
    return reason_words(reason, _plain) + nodes_words(reason.node_count, _plain)


def blocked_in_words(reasons: Iterable[Reason]) -> list[tuple[str, str]]:
    """(where, everything that blocks there), sites that the same reasons rule out together."""
    return [(", ".join(p.site_ids) or "everywhere", str(p)) for p in blocked_places(reasons, _plain)]


def _plain(value: float) -> str:
    return number(value, 0 if float(value).is_integer() else 1)


def event_in_words(event: Event, fleet: Fleet) -> str | None:
    """What happened, for the live line; None for events that only make sense in numbers."""
    body = event.body

    def site(site_id: str) -> str:
        known = {s.site_id: s.display_name or s.site_id for s in fleet.sites}
        return known.get(site_id, site_id)

    subject = event.subject.split("/")[-1]
    if event.kind is EventKind.SITE_DOWN:
        return f"{site(subject)} is down: {body.get('cause') or 'no cause given'}"
    if event.kind is EventKind.SITE_UP:
        return f"{site(subject)} is back"
    if event.kind is EventKind.SITE_CORDONED:
        return f"{site(subject)} {'cordoned' if body['cordoned'] else 'open again'}"
    if event.kind is EventKind.REPLICA_MOVED:
        name = body["workload"].split("/")[-1]
        if body["from_site_id"] == body["to_site_id"]:
            return f"{name} moves to another node of {site(body['to_site_id'])}"
        return f"{name} moves from {site(body['from_site_id'])} to {site(body['to_site_id'])}"
    if event.kind is EventKind.REPLICA_PREEMPTED:
        by, lost = body["by"].split("/")[-1], body["lost_gpu_hours"]
        return f"{event.subject.split('/')[3]} gives way to {by}, which starts now; {lost:.2g} GPU-hours lost"
    if event.kind is EventKind.REPLICA_PAUSED:
        return f"{event.subject.split('/')[3]} pauses while electricity is dear"
    if event.kind is EventKind.PLAN_COMMITTED:
        gap = next(
            (b["gap_frac"] for b in body.get("bounds", ()) if b.get("scope", "fleet") == "fleet"), None
        )
        return f"new plan, within {gap_percent(gap)} of the best" if gap is not None else "new plan"
    if event.kind is EventKind.CAP_BREACHED:
        return f"cap broken at {site(subject)}: {body['cause']}"
    if event.kind is EventKind.SOLVER_CUT_OFF:
        return f"solver cut off: {body['cause']}"
    if event.kind is EventKind.WORKLOAD_CANCELLED:
        return f"{subject} cancelled"
    return None
