"""A real gRPC server over a few dictionaries: what the client and the command line are tested against.

It keeps the contract (names, etags, pages, tokens, request ids, rich errors) and decides nothing: `place` and the other
verbs let a test say what happened. `faults` makes calls fail before they reach it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_status import rpc_status

from suanli import wire
from suanli.model import (
    AccessProfile,
    AlreadyExists,
    Candidate,
    ChangeType,
    Command,
    Conflict,
    Event,
    EventKind,
    Explanation,
    Facility,
    FieldProblem,
    Fleet,
    FleetRecord,
    InvalidRequest,
    Link,
    Network,
    Node,
    NodeGroup,
    NotFound,
    Operation,
    Placement,
    Plan,
    PlannedWorkload,
    Policy,
    Reason,
    ReasonCode,
    Relaxation,
    Round,
    RunProgress,
    RunState,
    SimulationRun,
    Site,
    SiteMeter,
    SiteRecord,
    SiteState,
    StartEstimate,
    StopOrder,
    SuanliError,
    Tariff,
    TelemetryReceipt,
    WatchExpired,
    WorkloadChange,
    WorkloadRecord,
    WorkloadsPlan,
    WorkloadState,
    Zone,
)
from suanli.model.plan import BindingConstraint, Bound, LedgerBalance, SolveStatus
from suanli.v1 import (
    fleet_pb2,
    fleet_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
    plans_pb2,
    plans_pb2_grpc,
    policies_pb2_grpc,
    simulations_pb2,
    simulations_pb2_grpc,
    workloads_pb2,
    workloads_pb2_grpc,
)
from suanli.v1 import policies_pb2 as policies_pb2

NOON_S = 1_784_088_000
"""2026-07-15 04:00 UTC, noon in Shanghai."""


def a_site(
    site_id: str, kind: str, host_kind: str, name: str, name_zh: str, rated_it_kw: float = 25.0
) -> Site:
    """A site of one group of four 4-GPU machines."""
    return Site.model_validate(
        {
            "site_id": site_id,
            "kind": kind,
            "host_kind": host_kind,
            "display_name": name,
            "display_name_zh": name_zh,
            "rated_it_kw": rated_it_kw,
            "power_limit_kw": 2 * rated_it_kw,
            "facility": Facility.model_validate(
                {
                    "plant": "dx_room",
                    "e0": 0.03,
                    "e1": 0.04,
                    "e2": 0.02,
                    "lighting": 0.01,
                    "cooling_fixed": 0.03,
                    "cooling": "dx_mechanical",
                }
            ),
            "tariff_id": "city",
            "caps": {"pue_cap_annual": 1.5},
            "groups": [
                NodeGroup(
                    group_id="l20x4",
                    node_type="l20x4",
                    node_count=4,
                    cpu_milli=96_000,
                    memory_mib=512 * 1024,
                    gpu_model="l20",
                    gpu_count=4,
                    gpu_memory_mib=48 * 1024,
                    idle_w=500,
                    max_w=1900,
                )
            ],
        }
    )


def a_fleet() -> Fleet:
    """Two sites, one zone, one link."""
    return Fleet(
        sites=(
            a_site("e01-hub", "edge", "telecom_room", "Songjiang hub", "松江枢纽"),
            a_site("ai-core", "cloud", "data_center", "AI computing centre", "先进计算中心", 6000.0),
        ),
        zones=(Zone(zone_id="z1", hub_id="core", display_name_zh="枢纽", access_mix={"pon": 1.0}),),
        network=Network(
            hubs={"core": (0.5, 1.0)},
            links=(
                Link(link_id="e01-core", ends=("e01-hub", "core"), capacity_gbps=25),
                Link(link_id="ai-core", ends=("ai-core", "core"), capacity_gbps=3200, hop_count=2),
            ),
            access=(AccessProfile(access_id="pon", rtt_p50_ms=2, rtt_p99_ms=4, down_mbps=300, up_mbps=60),),
        ),
        tariffs=(
            Tariff(tariff_id="city", price_yuan_per_kwh_by_month=dict.fromkeys(range(1, 13), (0.5,) * 24)),
        ),
    )


class Faults(grpc.ServerInterceptor):
    """Fails calls on purpose: `before` is asked with the method's name and may return an error."""

    def __init__(self) -> None:
        self.before: Callable[[str], SuanliError | None] = lambda method: None
        self.seen: list[str] = []
        self.deadlines_s: list[float] = []

    def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        method = details.method.rpartition("/")[2]
        self.seen.append(method)
        error = self.before(method)
        handler = continuation(details)
        if error is None:
            return self._noting(handler)
        status = rpc_status.to_status(wire.status_from_error(error))

        def fail(request: Any, context: grpc.ServicerContext) -> Any:
            context.abort_with_status(status)

        make = (
            grpc.unary_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make(fail, handler.request_deserializer, handler.response_serializer)

    def _noting(self, handler: Any) -> Any:
        if handler.response_streaming:
            return handler

        def noting(request: Any, context: grpc.ServicerContext) -> Any:
            self.deadlines_s.append(context.time_remaining())
            try:
                return handler.unary_unary(request, context)
            except SuanliError as error:
                context.abort_with_status(rpc_status.to_status(wire.status_from_error(error)))

        return grpc.unary_unary_rpc_method_handler(
            noting, handler.request_deserializer, handler.response_serializer
        )


def _page(items: list[Any], request: Any) -> tuple[list[Any], str]:
    size = min(request.page_size or 100, 1000)
    start = int(request.page_token or 0)
    rest = start + size < len(items)
    return items[start : start + size], str(start + size) if rest else ""


class FakeService(
    workloads_pb2_grpc.WorkloadsServiceServicer,
    fleet_pb2_grpc.FleetServiceServicer,
    policies_pb2_grpc.PoliciesServiceServicer,
    plans_pb2_grpc.PlansServiceServicer,
    simulations_pb2_grpc.SimulationsServiceServicer,
    operations_pb2_grpc.OperationsServiceServicer,
):
    """All services; use as a context manager, `address` is where it listens."""

    def __init__(self, port: int = 0) -> None:
        self.faults = Faults()
        self.records: dict[str, WorkloadRecord] = {}
        self.changes: list[WorkloadChange] = []
        self.oldest_revision = 0
        self.answers: dict[str, tuple[bytes, Any]] = {}
        self.fleet = a_fleet()
        self.cordoned: set[str] = set()
        self.policy_problems: list[FieldProblem] = []
        """Those of code `warning` let a revision pass."""
        self.workload_warnings: dict[str, FieldProblem] = {}
        """Workload id → what is said of it when it is accepted, checked or planned."""
        self.policies = [Policy(revision=1, etag="p1", created_at_s=NOON_S)]
        self.placements: list[Placement] = []
        self.commands: list[Command] = []
        self.events: list[Event] = []
        self.runs: dict[str, SimulationRun] = {}
        self.operations: dict[str, Operation] = {}
        self.watch_cuts: Iterator[int] = itertools.repeat(1_000_000)
        self._news = threading.Condition()
        self._closing = False
        self._threads = ThreadPoolExecutor(8, "fake")
        self._server = grpc.server(
            self._threads,
            interceptors=[self.faults],
            options=[("grpc.max_metadata_size", 1 << 20), ("grpc.so_reuseport", 0)],
        )
        for module, name in (
            (workloads_pb2_grpc, "Workloads"),
            (fleet_pb2_grpc, "Fleet"),
            (policies_pb2_grpc, "Policies"),
            (plans_pb2_grpc, "Plans"),
            (simulations_pb2_grpc, "Simulations"),
            (operations_pb2_grpc, "Operations"),
        ):
            getattr(module, f"add_{name}ServiceServicer_to_server")(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> FakeService:
        self._server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        with self._news:
            self._closing = True
            self._news.notify_all()
        self._server.stop(None).wait(5)
        self._threads.shutdown()

    # What a test says happened

    def place(
        self, name: str, site_id: str = "e01-hub", state: WorkloadState = WorkloadState.RUNNING
    ) -> None:
        record = self.records[name]
        self._put(
            record.model_copy(
                update={"state": state, "site_ids": (site_id,), "running_replica_count": record.replica_count}
            )
        )
        self.placements.append(
            Placement(
                placement_id="main-0-0",
                workload=name,
                stage_id="main",
                replica_index=0,
                site_id=site_id,
                group_id="l20x4",
                node_id="l20x4-0",
                gpu_ids=(0,),
                gpu_milli=1000,
                start_at_s=NOON_S,
                rtt_p99_ms=4.3,
                power_w=210.5,
                price_yuan_per_hour=0.17,
            )
        )

    def forget(self, name: str) -> None:
        with self._news:
            del self.records[name]
            self._log(WorkloadChange(type=ChangeType.DELETED, name=name, resume_token=self._next_token()))

    def expire(self) -> None:
        """The log no longer reaches back to any token given so far."""
        with self._news:
            self.oldest_revision = len(self.changes)

    def _put(self, record: WorkloadRecord) -> WorkloadRecord:
        with self._news:
            token = self._next_token()
            kind = ChangeType.MODIFIED if record.name in self.records else ChangeType.ADDED
            stamped = record.model_copy(
                update={
                    "etag": f"w{token}",
                    "created_at_s": record.created_at_s or NOON_S,
                    "updated_at_s": NOON_S + int(token),
                }
            )
            self.records[record.name] = stamped
            self._log(WorkloadChange(type=kind, name=record.name, record=stamped, resume_token=token))
        return stamped

    def _log(self, change: WorkloadChange) -> None:
        self.changes.append(change)
        self._news.notify_all()

    def _next_token(self) -> str:
        return str(len(self.changes) + 1)

    def _once(self, request: Any, answer: Callable[[], Any]) -> Any:
        """Answer a request id once; the same id with another body is a mistake."""
        if not request.request_id:
            return answer()
        body = request.SerializeToString(deterministic=True)
        if request.request_id not in self.answers:
            self.answers[request.request_id] = (body, answer())
        stored_body, stored = self.answers[request.request_id]
        if stored_body != body:
            raise Conflict(f"request id {request.request_id} was used for something else")
        return stored

    # Workloads

    def CreateWorkload(self, request: Any, context: Any) -> Any:
        workload = wire.workload_from_create(request)
        return self._once(
            request, lambda: wire.workload_record_to_proto(self._accept([workload], request)[0])
        )

    def BatchCreateWorkloads(self, request: Any, context: Any) -> Any:
        workloads = wire.workloads_from_batch(request)

        def answer() -> Any:
            records = self._accept(workloads, request)
            return workloads_pb2.BatchCreateWorkloadsResponse(
                workloads=[wire.workload_record_to_proto(r.basic()) for r in records]
            )

        return self._once(request, answer)

    def _accept(self, workloads: list[Any], request: Any) -> list[WorkloadRecord]:
        if request.plan_etag not in ("", "e1"):
            raise Conflict("the plan rests on an older state; plan again")
        for workload in workloads:
            if workload.name in self.records:
                raise AlreadyExists(f"{workload.name} exists already")
        records = [
            WorkloadRecord.of(w, WorkloadState.PENDING, summary="waits for a round") for w in workloads
        ]
        if not request.validate_only:
            records = [self._put(r) for r in records]
        return [
            r.model_copy(update={"warnings": self._warned(w, f"requests[{i}].workload.")})
            for i, (w, r) in enumerate(zip(workloads, records, strict=True))
        ]

    def _warned(self, workload: Any, path: str) -> tuple[FieldProblem, ...]:
        found = self.workload_warnings.get(workload.workload_id)
        return () if found is None else (found.model_copy(update={"field": path + found.field}),)

    def _record(self, name: str) -> WorkloadRecord:
        if name not in self.records:
            raise NotFound(f"there is no {name}")
        return self.records[name]

    def GetWorkload(self, request: Any, context: Any) -> Any:
        record = self._record(request.name)
        basic = request.view == workloads_pb2.WORKLOAD_VIEW_BASIC
        return wire.workload_record_to_proto(record.basic() if basic else record)

    def ListWorkloads(self, request: Any, context: Any) -> Any:
        prefix = "tenants/" if request.parent == "tenants/-" else f"{request.parent}/"
        found = [r for n, r in sorted(self.records.items()) if n.startswith(prefix)]
        for part in filter(None, request.filter.split(" AND ")):
            field, _, value = part.partition(" = ")
            found = [r for r in found if str(getattr(r, field)).lower() == value.strip('"').lower()]
        page, token = _page(found, request)
        full = request.view == workloads_pb2.WORKLOAD_VIEW_FULL
        return workloads_pb2.ListWorkloadsResponse(
            workloads=[wire.workload_record_to_proto(r if full else r.basic()) for r in page],
            next_page_token=token,
            resume_token=str(len(self.changes)),
            total_size=len(found),
        )

    def CancelWorkload(self, request: Any, context: Any) -> Any:
        record = self._record(request.name)
        if request.etag not in ("", record.etag):
            raise Conflict(f"{record.name} has changed")
        cancelled = record.model_copy(update={"state": WorkloadState.CANCELLED, "summary": request.cause})
        return wire.workload_record_to_proto(self._put(cancelled))

    def WatchWorkloads(self, request: Any, context: Any) -> Any:
        """Ends after the number of events that `watch_cuts` says next, with UNAVAILABLE."""
        budget = next(self.watch_cuts)
        prefix = "tenants/" if request.parent == "tenants/-" else f"{request.parent}/"
        with self._news:
            after = int(request.resume_token or len(self.changes))
            if request.resume_token and after < self.oldest_revision:
                context.abort_with_status(
                    rpc_status.to_status(wire.status_from_error(WatchExpired("the token is too old")))
                )
            existing = list(self.records.values()) if not request.resume_token else []
        first = [
            WorkloadChange(type=ChangeType.ADDED, name=r.name, record=r, resume_token=str(after))
            for r in existing
        ]
        if not request.resume_token:
            first.append(WorkloadChange(type=ChangeType.BOOKMARK, resume_token=str(after)))
        for change in itertools.chain(first, self._changes_after(after, context)):
            if change.type is not ChangeType.BOOKMARK and not change.name.startswith(prefix):
                continue
            if budget == 0:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            budget -= 1
            yield wire.workload_change_to_proto(change)

    def _changes_after(self, after: int, context: Any) -> Iterator[WorkloadChange]:
        while True:
            with self._news:
                while after >= len(self.changes):
                    if self._closing or not context.is_active():
                        return
                    self._news.wait(0.02)
                batch = self.changes[after:]
            after += len(batch)
            yield from batch

    def ExplainWorkload(self, request: Any, context: Any) -> Any:
        record = self._record(request.name)
        return wire.explanation_to_proto(an_explanation(record, request.why_not, request.with_relaxations))

    def PlanWorkloads(self, request: Any, context: Any) -> Any:
        planned = [
            a_planned(w, fits=w.stages[0].replicas <= 16).model_copy(
                update={"warnings": self._warned(w, f"workloads[{i}].")}
            )
            for i, w in enumerate(wire.workloads_from_plan(request))
        ]
        answer = WorkloadsPlan(
            etag="e1",
            at_s=NOON_S,
            workloads=tuple(planned),
            it_power_w=sum(p.it_power_w for p in planned),
            facility_power_w=sum(p.facility_power_w for p in planned),
            cost_yuan_per_hour=sum(p.cost_yuan_per_hour for p in planned),
        )
        return wire.workloads_plan_to_proto(answer)

    # Fleet

    def RegisterFleet(self, request: Any, context: Any) -> Any:
        fleet = wire.fleet_from_register(request)
        if not request.validate_only:
            self.fleet = fleet
        return wire.fleet_record_to_proto(FleetRecord(fleet=fleet, etag="f2"))

    def GetFleet(self, request: Any, context: Any) -> Any:
        return wire.fleet_record_to_proto(FleetRecord(fleet=self.fleet, etag="f1", created_at_s=NOON_S))

    def _site(self, name: str) -> SiteRecord:
        for site in self.fleet.sites:
            if f"sites/{site.site_id}" == name:
                return self._site_record(site)
        raise NotFound(f"there is no {name}")

    def _site_record(self, site: Site) -> SiteRecord:
        edge = site.site_id == "e01-hub"
        meter = SiteMeter(
            site_id=site.site_id,
            from_s=NOON_S - 60,
            until_s=NOON_S,
            it_energy_kwh=0.2 if edge else 50.0,
            facility_energy_kwh=0.3 if edge else 62.5,
            it_power_kw=12.0 if edge else 3000.0,
            facility_power_kw=18.0 if edge else 3750.0,
        )
        return SiteRecord(
            site=site.model_copy(update={"cordoned": f"sites/{site.site_id}" in self.cordoned}),
            status=SiteState(
                placed_replica_count=3 if edge else 40,
                installed_gpu_milli=16_000,
                placed_gpu_milli=5_500 if edge else 16_000,
                meter=meter,
                ipue=1.5 if edge else 1.25,
                ledger=LedgerBalance(
                    site_id=site.site_id, pue_cap_annual=1.5, balance_after_kwh=-120.0 if edge else 9e5
                ),
                price_yuan_per_kwh=0.821,
            ),
            etag="s1",
        )

    def GetSite(self, request: Any, context: Any) -> Any:
        return wire.site_record_to_proto(self._site(request.name))

    def ListSites(self, request: Any, context: Any) -> Any:
        page, token = _page([self._site_record(s) for s in self.fleet.sites], request)
        return fleet_pb2.ListSitesResponse(
            sites=[wire.site_record_to_proto(s) for s in page],
            next_page_token=token,
            unreachable=["sites/e01-hub"],
        )

    def _nodes(self) -> list[Node]:
        return [
            Node(
                node_id=f"{group.group_id}-{i}",
                site_id=site.site_id,
                group_id=group.group_id,
                node_index=i,
                cordoned=f"sites/{site.site_id}/nodes/{group.group_id}-{i}" in self.cordoned,
                cpu_free_milli=group.cpu_milli,
                memory_free_mib=group.memory_mib,
                gpu_free_milli=(1000, 500, 0, 1000),
            )
            for site in self.fleet.sites
            for group in site.groups
            for i in range(group.node_count)
        ]

    def _node(self, name: str) -> Node:
        for node in self._nodes():
            if wire.node_name(node.site_id, node.node_id) == name:
                return node
        raise NotFound(f"there is no {name}")

    def GetNode(self, request: Any, context: Any) -> Any:
        return wire.node_to_proto(self._node(request.name))

    def ListNodes(self, request: Any, context: Any) -> Any:
        nodes = [n for n in self._nodes() if request.parent in ("sites/-", f"sites/{n.site_id}")]
        page, token = _page(nodes, request)
        return fleet_pb2.ListNodesResponse(nodes=[wire.node_to_proto(n) for n in page], next_page_token=token)

    def GetZone(self, request: Any, context: Any) -> Any:
        return wire.zone_to_proto(self.fleet.zones[0])

    def ListZones(self, request: Any, context: Any) -> Any:
        page, token = _page(list(self.fleet.zones), request)
        return fleet_pb2.ListZonesResponse(zones=[wire.zone_to_proto(z) for z in page], next_page_token=token)

    def GetLink(self, request: Any, context: Any) -> Any:
        return wire.link_to_proto(self.fleet.network.links[0])

    def ListLinks(self, request: Any, context: Any) -> Any:
        page, token = _page(list(self.fleet.network.links), request)
        return fleet_pb2.ListLinksResponse(links=[wire.link_to_proto(k) for k in page], next_page_token=token)

    def _cordon(self, name: str, closed: bool) -> None:
        (self.cordoned.add if closed else self.cordoned.discard)(name)

    def CordonSite(self, request: Any, context: Any) -> Any:
        self._site(request.name)
        self._cordon(request.name, True)
        return wire.site_record_to_proto(self._site(request.name))

    def UncordonSite(self, request: Any, context: Any) -> Any:
        self._cordon(request.name, False)
        return wire.site_record_to_proto(self._site(request.name))

    def CordonNode(self, request: Any, context: Any) -> Any:
        self._cordon(request.name, True)
        return wire.node_to_proto(self._node(request.name))

    def UncordonNode(self, request: Any, context: Any) -> Any:
        self._cordon(request.name, False)
        return wire.node_to_proto(self._node(request.name))

    def DrainSite(self, request: Any, context: Any) -> Any:
        self._cordon(request.name, True)
        name = f"operations/drain-{len(self.operations) + 1}"
        self.operations[name] = Operation(
            name=name, verb="drain", target=request.name, progress_frac=0.25, message="3 of 4 replicas to go"
        )
        return wire.operation_to_proto(self.operations[name])

    def DrainNode(self, request: Any, context: Any) -> Any:
        return self.DrainSite(request, context)

    def ReportTelemetry(self, request: Any, context: Any) -> Any:
        report = wire.report_from_request(request)
        receipt = TelemetryReceipt(
            revision=7,
            applied_replica_count=len(report.replicas),
            ignored_placement_ids=tuple(r.placement_id for r in report.replicas if r.phase == "lost"),
        )
        return wire.telemetry_receipt_to_proto(receipt)

    def order_stop(self, placement_id: str) -> None:
        with self._news:
            stop = StopOrder(placement_id=placement_id, site_id="e01-hub", at_s=NOON_S, cause="cancelled")
            self.commands.append(Command(revision=len(self.commands) + 1, stop=stop))
            self._news.notify_all()

    def ListCommands(self, request: Any, context: Any) -> Any:
        after = int(request.resume_token or 0)
        page, token = _page([c for c in self.commands if c.revision > after], request)
        last = page[-1].revision if page else after
        return fleet_pb2.ListCommandsResponse(
            commands=[wire.command_to_proto(c) for c in page], next_page_token=token, resume_token=str(last)
        )

    def WatchCommands(self, request: Any, context: Any) -> Any:
        after, budget = int(request.resume_token or 0), next(self.watch_cuts)
        while context.is_active() and not self._closing:
            with self._news:
                new = [c for c in self.commands if c.revision > after]
                if not new:
                    self._news.wait(0.02)
            for command in new:
                if budget == 0:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
                budget -= 1
                after = command.revision
                yield fleet_pb2.WatchCommandsResponse(
                    command=wire.command_to_proto(command), resume_token=str(after)
                )

    # Policies

    def CreatePolicyRevision(self, request: Any, context: Any) -> Any:
        policy = wire.policy_from_create(request)
        if request.etag not in ("", self.policies[-1].etag):
            raise Conflict("the policy has a newer revision")
        number = self.policies[-1].revision + 1
        revised = policy.model_copy(update={"revision": number, "etag": f"p{number}", "created_at_s": NOON_S})
        refused = [p for p in self.policy_problems if p.code != "warning"]
        if refused:
            raise InvalidRequest(refused)
        if not request.validate_only:
            self.policies.append(revised)
        return wire.policy_to_proto(revised.model_copy(update={"warnings": tuple(self.policy_problems)}))

    def GetPolicyRevision(self, request: Any, context: Any) -> Any:
        wanted = request.name.rpartition("/")[2]
        for policy in reversed(self.policies):
            if wanted in ("current", str(policy.revision)):
                return wire.policy_to_proto(policy)
        raise NotFound(f"there is no {request.name}")

    def ListPolicyRevisions(self, request: Any, context: Any) -> Any:
        page, token = _page(self.policies[::-1], request)
        return policies_pb2.ListPolicyRevisionsResponse(
            policy_revisions=[wire.policy_to_proto(p) for p in page], next_page_token=token
        )

    # Plans

    def GetRound(self, request: Any, context: Any) -> Any:
        return wire.round_to_proto(a_round(request.name.rpartition("/")[2]))

    def ListRounds(self, request: Any, context: Any) -> Any:
        page, token = _page([a_round(str(n)) for n in range(42, 36, -1)], request)
        return plans_pb2.ListRoundsResponse(
            rounds=[wire.round_to_proto(r) for r in page], next_page_token=token
        )

    def GetPlan(self, request: Any, context: Any) -> Any:
        return wire.plan_to_proto(a_plan())

    def ListPlans(self, request: Any, context: Any) -> Any:
        return plans_pb2.ListPlansResponse(plans=[wire.plan_to_proto(a_plan())])

    def ListPlacements(self, request: Any, context: Any) -> Any:
        any_workload = request.parent == "tenants/-/workloads/-"
        found = [p for p in self.placements if any_workload or p.workload == request.parent]
        if request.filter:
            site = request.filter.partition('"')[2].rstrip('"')
            found = [p for p in found if f"sites/{p.site_id}" == site]
        page, token = _page(found, request)
        return plans_pb2.ListPlacementsResponse(
            placements=[wire.placement_to_proto(p) for p in page], next_page_token=token
        )

    # Simulations

    def CreateRun(self, request: Any, context: Any) -> Any:
        run = wire.run_from_create(request)
        self.runs[f"runs/{run.run_id}"] = run
        return wire.run_to_proto(run)

    def GetRun(self, request: Any, context: Any) -> Any:
        if request.name not in self.runs:
            raise NotFound(f"there is no {request.name}")
        return wire.run_to_proto(self.runs[request.name])

    def ListRuns(self, request: Any, context: Any) -> Any:
        return simulations_pb2.ListRunsResponse(runs=[wire.run_to_proto(r) for r in self.runs.values()])

    def AdvanceRun(self, request: Any, context: Any) -> Any:
        until_s = int(wire.at_s_from_timestamp(request.until_time))
        run = self.runs[request.name].model_copy(update={"advanced_until_s": until_s})
        self.runs[request.name] = run
        self.events.append(
            Event(
                revision=len(self.events) + 1,
                at_s=until_s,
                kind=EventKind.RUN_ADVANCED,
                subject=request.name,
                body={"城": 1},
            )
        )
        counts = {WorkloadState.PENDING: len(self.records)}
        progress = RunProgress(
            run=run, revision=len(self.events), workloads_by_state=counts, next_wake_at_s=until_s + 60
        )
        return wire.run_progress_to_proto(progress)

    def CloseRun(self, request: Any, context: Any) -> Any:
        run = self.runs[request.name].model_copy(update={"state": RunState.CLOSED})
        self.runs[request.name] = run
        return wire.run_to_proto(run)

    def ExportLog(self, request: Any, context: Any) -> Any:
        budget = next(self.watch_cuts)
        for event in self.events:
            if event.revision <= request.after_revision or (
                request.kinds and event.kind not in request.kinds
            ):
                continue
            if budget == 0:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            budget -= 1
            yield simulations_pb2.ExportLogResponse(events=[wire.event_to_proto(event)])

    # Operations

    def GetOperation(self, request: Any, context: Any) -> Any:
        if request.name not in self.operations:
            raise NotFound(f"there is no {request.name}")
        return wire.operation_to_proto(self.operations[request.name])

    def ListOperations(self, request: Any, context: Any) -> Any:
        return operations_pb2.ListOperationsResponse(
            operations=[wire.operation_to_proto(o) for o in self.operations.values()]
        )

    def CancelOperation(self, request: Any, context: Any) -> Any:
        operation = self.operations[request.name].model_copy(update={"done": True, "error": "cancelled"})
        self.operations[request.name] = operation
        return wire.operation_to_proto(operation)

    def WaitOperation(self, request: Any, context: Any) -> Any:
        time.sleep(0)
        operation = self.operations[request.name].model_copy(update={"done": True, "progress_frac": 1.0})
        self.operations[request.name] = operation
        return wire.operation_to_proto(operation)


def an_explanation(record: WorkloadRecord, why_not: str = "", with_relaxations: bool = False) -> Explanation:
    """A workload that the edge site is too slow for and the cloud too full."""
    return Explanation(
        workload=record.name,
        state=str(record.state),
        at_s=NOON_S,
        summary="No site keeps its latency and has a free GPU.",
        reasons=(
            Reason(
                code=ReasonCode.RTT_EXCEEDED,
                site_id="ai-core",
                stage_id="main",
                limit=10,
                actual=13.6,
                unit="ms",
            ),
            Reason(
                code=ReasonCode.GPU_SHORT,
                site_id="e01-hub",
                stage_id="main",
                limit=0.5,
                actual=1,
                unit="GPUs",
                node_count=4,
            ),
        ),
        conflict=("rtt_p99_max 10 ms from z1", "1 GPU of l20"),
        candidates=(
            Candidate(
                site_id="ai-core",
                stage_id="main",
                feasible=False,
                rtt_p99_ms=13.6,
                power_w=210.0,
                ipue_marginal=1.12,
                cost_yuan_per_hour=0.15,
                reasons=(
                    Reason(code=ReasonCode.RTT_EXCEEDED, site_id="ai-core", limit=10, actual=13.6, unit="ms"),
                ),
            ),
            Candidate(
                site_id="e01-hub",
                stage_id="main",
                chosen=bool(record.site_ids),
                rtt_p99_ms=8.3,
                power_w=210.0,
                ipue_marginal=1.31,
                cost_yuan_per_hour=0.19,
                lost_because="no GPU free now",
            ),
        ),
        relaxations=(
            Relaxation(
                change="rtt_p99_max 10 → 13.7 ms",
                field="workload.flows[0].rtt_p99_max_micros",
                from_value=10,
                to_value=13.7,
                unit="ms",
                price_yuan=0.0,
            ),
        )
        if with_relaxations
        else (),
        why_not=why_not,
        expected_start=StartEstimate(
            earliest_at_s=NOON_S + 60,
            likely_at_s=NOON_S + 600,
            latest_at_s=NOON_S + 3600,
            assumption="if running work ends as declared",
        ),
        queue_position=3,
        other_work_ahead_count=2,
    )


def a_planned(workload: Any, fits: bool) -> PlannedWorkload:
    """Placed on the edge site when it fits, waiting otherwise."""
    record = WorkloadRecord.of(workload, WorkloadState.PENDING, site_ids=("e01-hub",) if fits else ())
    placements = (
        Placement(
            placement_id="main-0-0",
            workload=workload.name,
            stage_id=workload.stages[0].stage_id,
            replica_index=0,
            site_id="e01-hub",
            group_id="l20x4",
            node_id="l20x4-0",
            start_at_s=NOON_S,
        ),
    )
    return PlannedWorkload(
        workload=workload.name,
        state=WorkloadState.PLANNED if fits else WorkloadState.PENDING,
        placements=placements if fits else (),
        explanation=an_explanation(record),
        it_power_w=210.0 if fits else 0.0,
        facility_power_w=275.0 if fits else 0.0,
        cost_yuan_per_hour=0.19 if fits else 0.0,
        rtt_p99_ms=8.3 if fits else 0.0,
    )


def a_round(round_id: str) -> Round:
    """A round that left two waiting."""
    return Round(
        round_id=round_id,
        at_s=NOON_S,
        considered=10,
        placed=8,
        pending=2,
        pending_by_reason={"gpu_short": 1, "rtt_exceeded": 1},
        sample_reasons=(
            Reason(code=ReasonCode.GPU_SHORT, site_id="e01-hub", limit=0.5, actual=1, unit="GPUs"),
        ),
    )


def a_plan() -> Plan:
    """A plan with both gaps, a ledger and a binding constraint."""
    return Plan(
        plan_id="plan-7",
        at_s=NOON_S,
        horizon_s=86_400,
        status=SolveStatus.FEASIBLE,
        bounds=(
            Bound(model="lp", scope="fleet", objective_yuan=1003.0, bound_yuan=1000.0, gap_frac=0.003),
            Bound(model="lp", scope="edge", objective_yuan=103.0, bound_yuan=100.0, gap_frac=0.03),
        ),
        sites_on={"e01-hub": (True, False)},
        forecast_it_kw={"e01-hub": (12.5, 0.0)},
        ledgers=(
            LedgerBalance(
                site_id="e01-hub", pue_cap_annual=1.5, balance_before_kwh=-120, balance_after_kwh=-90
            ),
        ),
        binding_constraints=(
            BindingConstraint(constraint="facility_power[site=e01-hub]", value=50, limit=50, unit="kW"),
        ),
    )
