"""Proto ↔ model: the only place where one becomes the other, and where units change.

`x_to_proto(value)` and `x_from_proto(message, path)` for every value of the API; `*_from_create` and their kin take
whole requests. `from` functions validate and raise `InvalidRequest` with every problem at its proto path.

codec.py      how one field crosses, as a table line      errors.py    errors ↔ rich status, the table of codes
workloads.py  reasons.py  plans.py  fleet.py  telemetry.py  runs.py    the tables, by area
"""

from __future__ import annotations

from suanli.wire.codec import (
    at_s_from_timestamp,
    duration_from_s,
    enum_tables,
    id_from_name,
    timestamp_from_at_s,
)
from suanli.wire.errors import (
    STATUS_CODE_OF,
    error_from_status,
    problem_to_proto,
    status_code_of,
    status_from_error,
)
from suanli.wire.fleet import (
    FLEET,
    FLEET_NAME,
    FLEET_RECORD,
    LINK,
    NODE,
    POLICY,
    SITE,
    SITE_RECORD,
    ZONE,
    fleet_from_register,
    node_name,
    policy_from_create,
    policy_revision_name,
)
from suanli.wire.plans import MOVE, PLACEMENT, PLAN, ROUND, placement_name
from suanli.wire.reasons import EXPLANATION, REASON
from suanli.wire.runs import (
    EVENT,
    RUN,
    RUN_PROGRESS,
    canonical_json,
    operation_from_proto,
    operation_to_proto,
    run_from_create,
)
from suanli.wire.telemetry import COMMAND, TELEMETRY_RECEIPT, TELEMETRY_REPORT, report_from_request
from suanli.wire.workloads import (
    ANY_TENANT,
    MAX_BATCH_ITEMS,
    WORKLOAD,
    WORKLOAD_RECORD,
    WORKLOADS_PLAN,
    with_impossible,
    workload_change_from_proto,
    workload_change_to_proto,
    workload_from_create,
    workloads_from_batch,
    workloads_from_plan,
)

command_to_proto, command_from_proto = COMMAND.to_proto, COMMAND.from_proto
event_to_proto, event_from_proto = EVENT.to_proto, EVENT.from_proto
explanation_to_proto, explanation_from_proto = EXPLANATION.to_proto, EXPLANATION.from_proto
fleet_to_proto, fleet_from_proto = FLEET.to_proto, FLEET.from_proto
fleet_record_to_proto, fleet_record_from_proto = FLEET_RECORD.to_proto, FLEET_RECORD.from_proto
link_to_proto, link_from_proto = LINK.to_proto, LINK.from_proto
move_to_proto, move_from_proto = MOVE.to_proto, MOVE.from_proto
node_to_proto, node_from_proto = NODE.to_proto, NODE.from_proto
placement_to_proto, placement_from_proto = PLACEMENT.to_proto, PLACEMENT.from_proto
plan_to_proto, plan_from_proto = PLAN.to_proto, PLAN.from_proto
policy_to_proto, policy_from_proto = POLICY.to_proto, POLICY.from_proto
reason_to_proto, reason_from_proto = REASON.to_proto, REASON.from_proto
round_to_proto, round_from_proto = ROUND.to_proto, ROUND.from_proto
run_to_proto, run_from_proto = RUN.to_proto, RUN.from_proto
run_progress_to_proto, run_progress_from_proto = RUN_PROGRESS.to_proto, RUN_PROGRESS.from_proto
site_to_proto, site_from_proto = SITE.to_proto, SITE.from_proto
site_record_to_proto, site_record_from_proto = SITE_RECORD.to_proto, SITE_RECORD.from_proto
telemetry_receipt_to_proto, telemetry_receipt_from_proto = (
    TELEMETRY_RECEIPT.to_proto,
    TELEMETRY_RECEIPT.from_proto,
)
telemetry_report_to_proto, telemetry_report_from_proto = (
    TELEMETRY_REPORT.to_proto,
    TELEMETRY_REPORT.from_proto,
)
workload_to_proto, workload_from_proto = WORKLOAD.to_proto, WORKLOAD.from_proto
basic_workload_record_to_proto = WORKLOAD_RECORD.state_to_proto
workload_record_to_proto, workload_record_from_proto = WORKLOAD_RECORD.to_proto, WORKLOAD_RECORD.from_proto
workloads_plan_to_proto, workloads_plan_from_proto = WORKLOADS_PLAN.to_proto, WORKLOADS_PLAN.from_proto
zone_to_proto, zone_from_proto = ZONE.to_proto, ZONE.from_proto

CODECS = (
    COMMAND, EVENT, EXPLANATION, FLEET, FLEET_RECORD, LINK, MOVE, NODE, PLACEMENT, PLAN, POLICY, REASON, ROUND, RUN,
    RUN_PROGRESS, SITE, SITE_RECORD, TELEMETRY_RECEIPT, TELEMETRY_REPORT, WORKLOAD, WORKLOAD_RECORD, WORKLOADS_PLAN,
    ZONE,
)  # fmt: skip
"""All outer codecs, for tests that must not miss one."""


def site_name(site_id: str) -> str:
    """`sites/{site}`."""
    return f"sites/{site_id}"


__all__ = [
    "ANY_TENANT",
    "CODECS",
    "FLEET_NAME",
    "MAX_BATCH_ITEMS",
    "STATUS_CODE_OF",
    "at_s_from_timestamp",
    "basic_workload_record_to_proto",
    "canonical_json",
    "command_from_proto",
    "command_to_proto",
    "duration_from_s",
    "enum_tables",
    "error_from_status",
    "event_from_proto",
    "event_to_proto",
    "explanation_from_proto",
    "explanation_to_proto",
    "fleet_from_proto",
    "fleet_from_register",
    "fleet_record_from_proto",
    "fleet_record_to_proto",
    "fleet_to_proto",
    "id_from_name",
    "link_from_proto",
    "link_to_proto",
    "move_from_proto",
    "move_to_proto",
    "node_from_proto",
    "node_name",
    "node_to_proto",
    "operation_from_proto",
    "operation_to_proto",
    "placement_from_proto",
    "placement_name",
    "placement_to_proto",
    "plan_from_proto",
    "plan_to_proto",
    "policy_from_create",
    "policy_from_proto",
    "policy_revision_name",
    "policy_to_proto",
    "problem_to_proto",
    "reason_from_proto",
    "reason_to_proto",
    "report_from_request",
    "round_from_proto",
    "round_to_proto",
    "run_from_create",
    "run_from_proto",
    "run_progress_from_proto",
    "run_progress_to_proto",
    "run_to_proto",
    "site_from_proto",
    "site_name",
    "site_record_from_proto",
    "site_record_to_proto",
    "site_to_proto",
    "status_code_of",
    "status_from_error",
    "telemetry_receipt_from_proto",
    "telemetry_receipt_to_proto",
    "telemetry_report_from_proto",
    "telemetry_report_to_proto",
    "timestamp_from_at_s",
    "with_impossible",
    "workload_change_from_proto",
    "workload_change_to_proto",
    "workload_from_create",
    "workload_from_proto",
    "workload_record_from_proto",
    "workload_record_to_proto",
    "workload_to_proto",
    "workloads_from_batch",
    "workloads_from_plan",
    "workloads_plan_from_proto",
    "workloads_plan_to_proto",
    "zone_from_proto",
    "zone_to_proto",
]
