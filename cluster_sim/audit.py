"""The second, independent audit of a played day: the canonical event log against the fleet document, and nothing else.

    audit_log(events, fleet)    every rule over the whole log
    audit_file(path)            the same for a saved log, with the fleet that it registered
    RULES                       the rules in the order in which they are judged

It shares no code with the planner, its topology or the solvers: network, power, capacity and books are worked out anew
(`audit_facts`, `audit_network`), so that a mistake there cannot hide itself here. What each rule means and where it is
lenient on purpose is told in docs/audit.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cluster_sim import audit_levels, audit_life, audit_orders, audit_together
from cluster_sim.audit_facts import Facts, Finding, Judged
from cluster_sim.day_log import BrokenLogError, fleet_of_log, read_log
from suanli.model import Event, Fleet

Rule = Callable[[Facts], Judged]

RULES: tuple[Rule, ...] = (
    audit_life.fleet_is_the_one_given,
    audit_life.revisions_count_up,
    audit_life.work_is_submitted_once,
    # what may be ordered, and when
    audit_orders.order_is_for_known_work,
    audit_orders.stage_and_replica_exist,
    audit_orders.placement_is_ordered_once,
    audit_orders.incarnations_count_up,
    audit_orders.work_is_not_final,
    audit_orders.not_before_is_kept,
    audit_orders.order_says_what_the_stage_asks,
    audit_orders.one_place_per_replica,
    audit_orders.move_stops_the_old,
    audit_orders.move_is_told_truly,
    audit_orders.preemption_is_lawful,
    audit_orders.pause_is_lawful,
    audit_orders.restart_builds_on_saved_work,
    # where
    audit_orders.node_exists,
    audit_orders.site_takes_work,
    audit_orders.gpu_model_is_accepted,
    audit_orders.gpu_share_fits_model,
    audit_orders.gpu_memory_is_enough,
    audit_orders.labels_match,
    audit_orders.site_is_named,
    audit_orders.zone_legs_within_rtt,
    # how much at every instant
    audit_levels.node_has_room,
    audit_levels.gpu_devices_exist,
    audit_levels.gpu_device_is_not_shared_beyond_whole,
    audit_levels.site_power_within_limit,
    audit_levels.links_within_planning_load,
    # what lies together
    audit_together.stage_legs_within_rtt,
    audit_together.paths_within_budget,
    audit_together.colocated_stages_share_a_site,
    audit_together.shared_stage_is_placed,
    audit_together.replicas_are_spread,
    audit_together.gang_starts_whole,
    audit_together.gang_lies_in_one_group,
    audit_together.gang_stays_in_one_island,
    # what became of it
    audit_life.reports_name_ordered_placements,
    audit_life.replica_lives_in_order,
    audit_life.no_site_found_an_order_too_large,
    audit_life.outage_ends_what_ran,
    audit_life.states_follow_order,
    audit_life.success_is_earned,
    audit_life.failure_has_a_cause,
    audit_life.cancelling_cancels,
    audit_life.nothing_runs_after_final,
    audit_life.stopped_work_ends,
    audit_life.end_state_is_true,
    # the books
    audit_life.meter_windows_join,
    audit_life.meter_energies_are_physical,
    audit_life.plan_has_no_violations,
    audit_life.plan_gap_is_true,
    audit_life.ledger_opens_with_the_meters,
    audit_life.ledger_adds_up,
)


@dataclass(frozen=True, slots=True)
class AuditResult:
    """How many single checks were made, and one sentence for each that failed, by rule, then in log order."""

    checked_count: int
    violations: tuple[str, ...]


def audit_log(events: Sequence[Event], fleet: Fleet) -> AuditResult:
    """Judge a canonical log by the fleet document alone.

    Raises BrokenLogError where a document of the log cannot be read, lacks a field or names a site that is not in the
    fleet; everything else that is wrong is a violation.
    """
    try:
        facts = Facts.of(events, fleet)
        verdicts = [(rule, rule(facts)) for rule in RULES]
    except KeyError as error:
        raise BrokenLogError(f"the log names {error}, which its documents do not have") from error
    checked_count = 0
    violations: list[str] = []
    for rule, judged in verdicts:
        checked_count += judged.checked_count
        in_order = sorted(judged.findings, key=lambda f: f.revision)
        violations += [_sentence(rule, finding) for finding in in_order]
    return AuditResult(checked_count, tuple(violations))


def audit_file(path: Path) -> AuditResult:
    """Judge a saved log, one JSON event a line, by the fleet that it registered last."""
    events = read_log(Path(path))
    return audit_log(events, fleet_of_log(events))


def _sentence(rule: Rule, finding: Finding) -> str:
    at = datetime.fromtimestamp(finding.at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        f"revision {finding.revision} at {at}: {finding.subject} breaks {rule.__name__}: "
        f"expected {finding.expected}, found {finding.actual}"
    )
