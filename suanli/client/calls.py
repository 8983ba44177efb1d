"""Every RPC as a `Call`: request in model terms, answer in model values. The clients only send these.

A call that changes something is repeatable because it carries a request id; reads are repeatable by nature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.longrunning import operations_pb2 as longrunning_pb2

from suanli import wire
from suanli.client.core import Call, Method, Page, method
from suanli.model import (
    Command,
    Event,
    Explanation,
    Fleet,
    FleetRecord,
    Link,
    Node,
    Operation,
    Placement,
    Plan,
    Policy,
    Round,
    RunProgress,
    SimulationRun,
    SiteRecord,
    TelemetryReceipt,
    TelemetryReport,
    Workload,
    WorkloadChange,
    WorkloadRecord,
    WorkloadsPlan,
    Zone,
)
from suanli.v1 import (
    fleet_pb2,
    operations_pb2,
    plans_pb2,
    policies_pb2,
    simulations_pb2,
    workloads_pb2,
)


def _methods(file: Any, service: str) -> dict[str, Method]:
    descriptor = file.DESCRIPTOR.services_by_name[service]
    return {m.name: method(descriptor, m.name) for m in descriptor.methods}


METHODS: dict[str, Method] = {
    **_methods(workloads_pb2, "WorkloadsService"),
    **_methods(fleet_pb2, "FleetService"),
    **_methods(policies_pb2, "PoliciesService"),
    **_methods(plans_pb2, "PlansService"),
    **_methods(simulations_pb2, "SimulationsService"),
    **_methods(operations_pb2, "OperationsService"),
}
"""RPC name → method; names are unique over the services."""

ANY_TENANT = wire.ANY_TENANT
ANY_SITE = "sites/-"
ANY_WORKLOAD = "tenants/-/workloads/-"
BASIC = workloads_pb2.WORKLOAD_VIEW_BASIC
FULL = workloads_pb2.WORKLOAD_VIEW_FULL


def view(full: bool) -> workloads_pb2.WorkloadView.ValueType:
    """How much a list carries."""
    return FULL if full else BASIC


def tenant_of(name: str) -> str:
    """`tenants/{tenant}` of a workload's name."""
    return "/".join(name.split("/")[:2])


def _page(response: Any, items: Iterable[Any], read: Callable[[Any], Any]) -> Page[Any]:
    return Page(
        items=tuple(read(item) for item in items),
        next_page_token=response.next_page_token,
        resume_token=getattr(response, "resume_token", ""),
        total_size=getattr(response, "total_size", 0),
        unreachable=tuple(getattr(response, "unreachable", ())),
    )


# Workloads


def create_workload(
    workload: Workload, *, request_id: str, validate_only: bool = False, plan_etag: str = ""
) -> Call[WorkloadRecord]:
    """CreateWorkload."""
    request = workloads_pb2.CreateWorkloadRequest(
        parent=tenant_of(workload.name),
        workload_id=workload.workload_id,
        workload=wire.workload_to_proto(workload),
        validate_only=validate_only,
        request_id=request_id,
        plan_etag=plan_etag,
    )
    return Call(METHODS["CreateWorkload"], request, wire.workload_record_from_proto)


def batch_create_workloads(
    workloads: Sequence[Workload], *, request_id: str, validate_only: bool = False, plan_etag: str = ""
) -> Call[tuple[WorkloadRecord, ...]]:
    """BatchCreateWorkloads: all or none, over any tenants."""
    tenants = {tenant_of(w.name) for w in workloads}
    request = workloads_pb2.BatchCreateWorkloadsRequest(
        parent=tenants.pop() if len(tenants) == 1 else ANY_TENANT,
        requests=[
            workloads_pb2.CreateWorkloadRequest(
                parent=tenant_of(w.name), workload_id=w.workload_id, workload=wire.workload_to_proto(w)
            )
            for w in workloads
        ],
        validate_only=validate_only,
        request_id=request_id,
        plan_etag=plan_etag,
    )
    return Call(
        METHODS["BatchCreateWorkloads"],
        request,
        lambda r: tuple(wire.workload_record_from_proto(w) for w in r.workloads),
    )


def get_workload(name: str, *, full: bool = True) -> Call[WorkloadRecord]:
    """GetWorkload."""
    request = workloads_pb2.GetWorkloadRequest(name=name, view=view(full))
    return Call(METHODS["GetWorkload"], request, wire.workload_record_from_proto)


def list_workloads(
    parent: str, *, filter: str, order_by: str, full: bool, page_size: int, page_token: str
) -> Call[Page[WorkloadRecord]]:
    """ListWorkloads."""
    request = workloads_pb2.ListWorkloadsRequest(
        parent=parent,
        filter=filter,
        order_by=order_by,
        view=view(full),
        page_size=page_size,
        page_token=page_token,
    )
    return Call(
        METHODS["ListWorkloads"],
        request,
        lambda r: _page(r, r.workloads, wire.workload_record_from_proto),
    )


def cancel_workload(
    name: str, *, request_id: str, etag: str = "", cause: str = "", validate_only: bool = False
) -> Call[WorkloadRecord]:
    """CancelWorkload."""
    request = workloads_pb2.CancelWorkloadRequest(
        name=name, etag=etag, request_id=request_id, cause=cause, validate_only=validate_only
    )
    return Call(METHODS["CancelWorkload"], request, wire.workload_record_from_proto)


def explain_workload(name: str, *, why_not: str = "", with_relaxations: bool = False) -> Call[Explanation]:
    """ExplainWorkload."""
    request = workloads_pb2.ExplainWorkloadRequest(
        name=name, why_not=why_not, with_relaxations=with_relaxations
    )
    return Call(METHODS["ExplainWorkload"], request, wire.explanation_from_proto)


def plan_workloads(workloads: Sequence[Workload]) -> Call[WorkloadsPlan]:
    """PlanWorkloads, a dry run."""
    tenants = {tenant_of(w.name) for w in workloads}
    request = workloads_pb2.PlanWorkloadsRequest(
        parent=tenants.pop() if len(tenants) == 1 else ANY_TENANT,
        workloads=[wire.workload_to_proto(w) for w in workloads],
    )
    return Call(METHODS["PlanWorkloads"], request, wire.workloads_plan_from_proto)


def watch_workloads_request(
    parent: str, filter: str, full: bool, resume_token: str
) -> workloads_pb2.WatchWorkloadsRequest:
    """Request of WatchWorkloads."""
    return workloads_pb2.WatchWorkloadsRequest(
        parent=parent, filter=filter, view=view(full), resume_token=resume_token
    )


# Fleet


def register_fleet(
    fleet: Fleet, *, request_id: str, etag: str = "", validate_only: bool = False
) -> Call[FleetRecord]:
    """RegisterFleet."""
    request = fleet_pb2.RegisterFleetRequest(
        fleet=wire.fleet_to_proto(fleet), request_id=request_id, etag=etag, validate_only=validate_only
    )
    return Call(METHODS["RegisterFleet"], request, wire.fleet_record_from_proto)


def get_fleet() -> Call[FleetRecord]:
    """GetFleet."""
    request = fleet_pb2.GetFleetRequest(name=wire.FLEET_NAME)
    return Call(METHODS["GetFleet"], request, wire.fleet_record_from_proto)


def get_site(name: str) -> Call[SiteRecord]:
    """GetSite."""
    return Call(METHODS["GetSite"], fleet_pb2.GetSiteRequest(name=name), wire.site_record_from_proto)


def list_sites(*, page_size: int, page_token: str) -> Call[Page[SiteRecord]]:
    """ListSites."""
    request = fleet_pb2.ListSitesRequest(page_size=page_size, page_token=page_token)
    return Call(METHODS["ListSites"], request, lambda r: _page(r, r.sites, wire.site_record_from_proto))


def get_node(name: str) -> Call[Node]:
    """GetNode."""
    return Call(METHODS["GetNode"], fleet_pb2.GetNodeRequest(name=name), wire.node_from_proto)


def list_nodes(parent: str, *, page_size: int, page_token: str) -> Call[Page[Node]]:
    """ListNodes."""
    request = fleet_pb2.ListNodesRequest(parent=parent, page_size=page_size, page_token=page_token)
    return Call(METHODS["ListNodes"], request, lambda r: _page(r, r.nodes, wire.node_from_proto))


def get_zone(name: str) -> Call[Zone]:
    """GetZone."""
    return Call(METHODS["GetZone"], fleet_pb2.GetZoneRequest(name=name), wire.zone_from_proto)


def list_zones(*, page_size: int, page_token: str) -> Call[Page[Zone]]:
    """ListZones."""
    request = fleet_pb2.ListZonesRequest(page_size=page_size, page_token=page_token)
    return Call(METHODS["ListZones"], request, lambda r: _page(r, r.zones, wire.zone_from_proto))


def get_link(name: str) -> Call[Link]:
    """GetLink."""
    return Call(METHODS["GetLink"], fleet_pb2.GetLinkRequest(name=name), wire.link_from_proto)


def list_links(*, page_size: int, page_token: str) -> Call[Page[Link]]:
    """ListLinks."""
    request = fleet_pb2.ListLinksRequest(page_size=page_size, page_token=page_token)
    return Call(METHODS["ListLinks"], request, lambda r: _page(r, r.links, wire.link_from_proto))


def cordon_site(name: str, *, request_id: str, etag: str = "", cause: str = "") -> Call[SiteRecord]:
    """CordonSite."""
    request = fleet_pb2.CordonSiteRequest(name=name, etag=etag, request_id=request_id, cause=cause)
    return Call(METHODS["CordonSite"], request, wire.site_record_from_proto)


def uncordon_site(name: str, *, request_id: str, etag: str = "", cause: str = "") -> Call[SiteRecord]:
    """UncordonSite."""
    request = fleet_pb2.UncordonSiteRequest(name=name, etag=etag, request_id=request_id, cause=cause)
    return Call(METHODS["UncordonSite"], request, wire.site_record_from_proto)


def drain_site(name: str, *, request_id: str, etag: str = "", cause: str = "") -> Call[Operation]:
    """DrainSite."""
    request = fleet_pb2.DrainSiteRequest(name=name, etag=etag, request_id=request_id, cause=cause)
    return Call(METHODS["DrainSite"], request, wire.operation_from_proto)


def cordon_node(name: str, *, request_id: str, etag: str = "", cause: str = "") -> Call[Node]:
    """CordonNode."""
    request = fleet_pb2.CordonNodeRequest(name=name, etag=etag, request_id=request_id, cause=cause)
    return Call(METHODS["CordonNode"], request, wire.node_from_proto)


def uncordon_node(name: str, *, request_id: str, etag: str = "", cause: str = "") -> Call[Node]:
    """UncordonNode."""
    request = fleet_pb2.UncordonNodeRequest(name=name, etag=etag, request_id=request_id, cause=cause)
    return Call(METHODS["UncordonNode"], request, wire.node_from_proto)


def drain_node(name: str, *, request_id: str, etag: str = "", cause: str = "") -> Call[Operation]:
    """DrainNode."""
    request = fleet_pb2.DrainNodeRequest(name=name, etag=etag, request_id=request_id, cause=cause)
    return Call(METHODS["DrainNode"], request, wire.operation_from_proto)


def report_telemetry(report: TelemetryReport, *, request_id: str) -> Call[TelemetryReceipt]:
    """ReportTelemetry."""
    request = fleet_pb2.ReportTelemetryRequest(
        report=wire.telemetry_report_to_proto(report), request_id=request_id
    )
    return Call(METHODS["ReportTelemetry"], request, wire.telemetry_receipt_from_proto)


def list_commands(parent: str, *, resume_token: str, page_size: int, page_token: str) -> Call[Page[Command]]:
    """ListCommands."""
    request = fleet_pb2.ListCommandsRequest(
        parent=parent, resume_token=resume_token, page_size=page_size, page_token=page_token
    )
    return Call(METHODS["ListCommands"], request, lambda r: _page(r, r.commands, wire.command_from_proto))


def watch_commands_request(parent: str, resume_token: str) -> fleet_pb2.WatchCommandsRequest:
    """Request of WatchCommands."""
    return fleet_pb2.WatchCommandsRequest(parent=parent, resume_token=resume_token)


# Policies


def create_policy_revision(
    policy: Policy, *, request_id: str, etag: str = "", validate_only: bool = False
) -> Call[Policy]:
    """CreatePolicyRevision; `etag` is that of the revision it replaces."""
    request = policies_pb2.CreatePolicyRevisionRequest(
        parent=f"policies/{policy.policy_id}",
        policy_revision=wire.policy_to_proto(policy),
        validate_only=validate_only,
        request_id=request_id,
        etag=etag,
    )
    return Call(METHODS["CreatePolicyRevision"], request, wire.policy_from_proto)


def get_policy(policy_id: str, revision: int | None) -> Call[Policy]:
    """GetPolicyRevision; None is the current one."""
    name = wire.policy_revision_name(policy_id, "current" if revision is None else revision)
    request = policies_pb2.GetPolicyRevisionRequest(name=name)
    return Call(METHODS["GetPolicyRevision"], request, wire.policy_from_proto)


def list_policy_revisions(policy_id: str, *, page_size: int, page_token: str) -> Call[Page[Policy]]:
    """ListPolicyRevisions."""
    request = policies_pb2.ListPolicyRevisionsRequest(
        parent=f"policies/{policy_id}", page_size=page_size, page_token=page_token
    )
    return Call(
        METHODS["ListPolicyRevisions"],
        request,
        lambda r: _page(r, r.policy_revisions, wire.policy_from_proto),
    )


# Plans


def get_round(name: str) -> Call[Round]:
    """GetRound."""
    return Call(METHODS["GetRound"], plans_pb2.GetRoundRequest(name=name), wire.round_from_proto)


def list_rounds(*, page_size: int, page_token: str) -> Call[Page[Round]]:
    """ListRounds."""
    request = plans_pb2.ListRoundsRequest(page_size=page_size, page_token=page_token)
    return Call(METHODS["ListRounds"], request, lambda r: _page(r, r.rounds, wire.round_from_proto))


def get_plan(name: str) -> Call[Plan]:
    """GetPlan."""
    return Call(METHODS["GetPlan"], plans_pb2.GetPlanRequest(name=name), wire.plan_from_proto)


def list_plans(*, page_size: int, page_token: str) -> Call[Page[Plan]]:
    """ListPlans."""
    request = plans_pb2.ListPlansRequest(page_size=page_size, page_token=page_token)
    return Call(METHODS["ListPlans"], request, lambda r: _page(r, r.plans, wire.plan_from_proto))


def list_placements(parent: str, *, filter: str, page_size: int, page_token: str) -> Call[Page[Placement]]:
    """ListPlacements."""
    request = plans_pb2.ListPlacementsRequest(
        parent=parent, filter=filter, page_size=page_size, page_token=page_token
    )
    return Call(
        METHODS["ListPlacements"], request, lambda r: _page(r, r.placements, wire.placement_from_proto)
    )


# Simulations


def create_run(
    run_id: str, *, start_at_s: int, seed: int, planner: str, request_id: str, validate_only: bool = False
) -> Call[SimulationRun]:
    """CreateRun."""
    request = simulations_pb2.CreateRunRequest(
        run_id=run_id,
        run=simulations_pb2.Run(seed=seed, start_time=wire.timestamp_from_at_s(start_at_s), planner=planner),
        request_id=request_id,
        validate_only=validate_only,
    )
    return Call(METHODS["CreateRun"], request, wire.run_from_proto)


def get_run(name: str) -> Call[SimulationRun]:
    """GetRun."""
    return Call(METHODS["GetRun"], simulations_pb2.GetRunRequest(name=name), wire.run_from_proto)


def list_runs(*, page_size: int, page_token: str) -> Call[Page[SimulationRun]]:
    """ListRuns."""
    request = simulations_pb2.ListRunsRequest(page_size=page_size, page_token=page_token)
    return Call(METHODS["ListRuns"], request, lambda r: _page(r, r.runs, wire.run_from_proto))


def advance_run(name: str, until_s: int, *, request_id: str) -> Call[RunProgress]:
    """AdvanceRun."""
    request = simulations_pb2.AdvanceRunRequest(
        name=name, until_time=wire.timestamp_from_at_s(until_s), request_id=request_id
    )
    return Call(METHODS["AdvanceRun"], request, wire.run_progress_from_proto)


def close_run(name: str, *, request_id: str) -> Call[SimulationRun]:
    """CloseRun."""
    request = simulations_pb2.CloseRunRequest(name=name, request_id=request_id)
    return Call(METHODS["CloseRun"], request, wire.run_from_proto)


def export_log_request(
    name: str, after_revision: int, kinds: Iterable[str]
) -> simulations_pb2.ExportLogRequest:
    """Request of ExportLog."""
    return simulations_pb2.ExportLogRequest(name=name, after_revision=after_revision, kinds=list(kinds))


def read_events(response: simulations_pb2.ExportLogResponse) -> list[Event]:
    """Events of one piece of the log."""
    return [wire.event_from_proto(e) for e in response.events]


# Operations


def get_operation(name: str) -> Call[Operation]:
    """GetOperation."""
    return Call(
        METHODS["GetOperation"], operations_pb2.GetOperationRequest(name=name), wire.operation_from_proto
    )


def list_operations(*, filter: str, page_size: int, page_token: str) -> Call[Page[Operation]]:
    """ListOperations."""
    request = operations_pb2.ListOperationsRequest(filter=filter, page_size=page_size, page_token=page_token)
    return Call(METHODS["ListOperations"], request, lambda r: _page(r, r.operations, _read_operation))


def cancel_operation(name: str, *, request_id: str) -> Call[Operation]:
    """CancelOperation."""
    request = operations_pb2.CancelOperationRequest(name=name, request_id=request_id)
    return Call(METHODS["CancelOperation"], request, wire.operation_from_proto)


def wait_operation(name: str, wait_s: float) -> Call[Operation]:
    """WaitOperation."""
    request = operations_pb2.WaitOperationRequest(name=name, timeout_duration=wire.duration_from_s(wait_s))
    return Call(METHODS["WaitOperation"], request, wire.operation_from_proto)


def _read_operation(message: longrunning_pb2.Operation) -> Operation:
    return wire.operation_from_proto(message)


# Streams


def read_change(message: workloads_pb2.WatchWorkloadsResponse) -> WorkloadChange:
    """One event of WatchWorkloads."""
    return wire.workload_change_from_proto(message)


def read_command(message: fleet_pb2.WatchCommandsResponse) -> Command | None:
    """The order of one event of WatchCommands; None in a bookmark."""
    return wire.command_from_proto(message.command) if message.HasField("command") else None
