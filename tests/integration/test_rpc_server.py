"""The gRPC server in front of a service in memory: calls, errors with details, streams, health, drain."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

import scheduler.rpc
from scheduler.rpc import RpcServer
from scheduler.rpc.server import SERVICERS
from scheduler.service import Metrics
from suanli import wire
from suanli.model import ReplicaPhase, ReplicaReport, TelemetryReport
from suanli.v1 import (
    errors_pb2,
    fleet_pb2,
    fleet_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
    plans_pb2,
    plans_pb2_grpc,
    policies_pb2,
    policies_pb2_grpc,
    simulations_pb2,
    simulations_pb2_grpc,
    workloads_pb2,
    workloads_pb2_grpc,
)
from tests.service_worlds import FAST, START_S, a_fleet, a_service, a_workload, an_impossible_workload

DEADLINE_S = 10.0
ACME = "tenants/acme"


class Client:
    """Stubs of all services on one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.workloads = workloads_pb2_grpc.WorkloadsServiceStub(channel)
        self.fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        self.policies = policies_pb2_grpc.PoliciesServiceStub(channel)
        self.plans = plans_pb2_grpc.PlansServiceStub(channel)
        self.simulations = simulations_pb2_grpc.SimulationsServiceStub(channel)
        self.operations = operations_pb2_grpc.OperationsServiceStub(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)

    async def create(self, name: str, request_id: str = "", workload=None):
        workload = workload or a_workload(name)
        return await self.workloads.CreateWorkload(
            workloads_pb2.CreateWorkloadRequest(
                parent=ACME,
                workload_id=name,
                workload=wire.workload_to_proto(workload),
                request_id=request_id,
            ),
            timeout=DEADLINE_S,
        )

    async def get(self, name: str):
        return await self.workloads.GetWorkload(
            workloads_pb2.GetWorkloadRequest(name=f"{ACME}/workloads/{name}"), timeout=DEADLINE_S
        )

    async def register(self):
        return await self.fleet.RegisterFleet(
            fleet_pb2.RegisterFleetRequest(fleet=wire.fleet_to_proto(a_fleet())), timeout=DEADLINE_S
        )

    async def is_serving(self, name: str) -> bool:
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service=name), timeout=DEADLINE_S)
        return answer.status == health_pb2.HealthCheckResponse.SERVING


@contextlib.asynccontextmanager
async def a_server(**options) -> AsyncIterator[tuple[Client, RpcServer]]:
    """Server and client; the service is opened and has a fleet unless it is virtual."""
    metrics = Metrics()
    server = RpcServer(metrics)
    port = await server.listen("127.0.0.1:0")
    service = a_service(pace=FAST, metrics=metrics, **options).start()
    await server.open(service)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        client = Client(channel)
        if not options.get("virtual"):
            await client.register()
        try:
            yield client, server
        finally:
            await server.stop(1.0)
            await asyncio.to_thread(service.close)


def run(test):
    """Run an async test on a loop of its own."""

    def sync(*args, **kwargs):
        asyncio.run(test(*args, **kwargs))

    # pytest asks the signature for fixtures: that of the test, not of the wrapper
    return functools.wraps(test)(sync)


async def refused(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def details(error: grpc.aio.AioRpcError, kind):
    """The details of one type in a rich status."""
    call: Any = error
    status = rpc_status.from_call(call)
    assert status is not None, "an error without a rich status"
    found = []
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            found.append(message)
    return found


async def next_of(stream: Any) -> Any:
    """The next message of a stream."""
    return await stream.read()


async def until(look, seconds: float = 5.0):
    """The first truthy value of an async look."""
    async with asyncio.timeout(seconds):
        while not (found := await look()):
            await asyncio.sleep(0.01)
        return found


# ---------------------------------------------------------------- workloads


@run
async def test_a_workload_is_created_placed_listed_and_cancelled():
    async with a_server() as (client, _):
        created = await client.create("w1")
        assert created.state == workloads_pb2.WORKLOAD_STATE_PENDING
        assert created.etag

        async def placed():
            now = await client.get("w1")
            return now if now.state == workloads_pb2.WORKLOAD_STATE_STARTING else None

        assert list((await until(placed)).placed_sites) == ["sites/edge"]
        page = await client.workloads.ListWorkloads(
            workloads_pb2.ListWorkloadsRequest(parent=ACME, filter="state = STARTING"), timeout=DEADLINE_S
        )
        assert [w.name for w in page.workloads] == [created.name]
        assert not page.workloads[0].stages, "lists are BASIC"
        assert page.total_size == 1
        gone = await client.workloads.CancelWorkload(
            workloads_pb2.CancelWorkloadRequest(name=created.name), timeout=DEADLINE_S
        )
        assert gone.state == workloads_pb2.WORKLOAD_STATE_CANCELLED


@run
async def test_the_same_request_id_gives_the_same_answer_and_another_body_is_refused():
    async with a_server() as (client, _):
        request_id = str(uuid.uuid4())
        first = await client.create("w1", request_id)
        again = await client.create("w1", request_id)
        assert again.name == first.name
        assert again.create_time == first.create_time
        error = await refused(client.create("w2", request_id))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        (bad,) = details(error, error_details_pb2.BadRequest)
        assert [v.field for v in bad.field_violations] == ["request_id"]


@run
async def test_an_impossible_workload_is_refused_with_field_and_nearest_value():
    async with a_server() as (client, _):
        error = await refused(client.create("huge", workload=an_impossible_workload()))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        (info,) = details(error, error_details_pb2.ErrorInfo)
        assert (info.reason, info.domain) == ("INVALID_REQUEST", "suanli.dev")
        (problems,) = details(error, errors_pb2.RequestProblems)
        (problem,) = problems.problems
        assert problem.field.startswith("workload.stages[0].memory_m")
        assert problem.nearest == "256000"


@run
async def test_a_batch_is_all_or_nothing_and_names_the_item():
    async with a_server() as (client, _):
        items = [a_workload("a"), an_impossible_workload("b"), a_workload("c")]

        def batch(workloads):
            return client.workloads.BatchCreateWorkloads(
                workloads_pb2.BatchCreateWorkloadsRequest(
                    parent=ACME,
                    requests=[
                        workloads_pb2.CreateWorkloadRequest(
                            parent=ACME,
                            workload_id=w.name.rpartition("/")[2],
                            workload=wire.workload_to_proto(w),
                        )
                        for w in workloads
                    ],
                ),
                timeout=DEADLINE_S,
            )

        error = await refused(batch(items))
        (bad,) = details(error, error_details_pb2.BadRequest)
        assert [v.field.split(".")[0] for v in bad.field_violations] == ["requests[1]"]
        assert (await refused(client.get("a"))).code() is grpc.StatusCode.NOT_FOUND
        answer = await batch([items[0], items[2]])
        assert [w.name for w in answer.workloads] == [items[0].name, items[2].name]


@run
async def test_one_answer_names_what_is_malformed_and_what_is_impossible():
    """Also about one workload, and about the rest of a malformed one; never about a field that was mended."""
    async with a_server() as (client, _):
        broken, impossible = wire.workload_to_proto(a_workload("a")), an_impossible_workload("b")
        broken.stages[0].cpu_milli = -5
        both = wire.workload_to_proto(an_impossible_workload("c"))
        both.stages[0].cpu_milli = -5
        messages = {"a": broken, "b": wire.workload_to_proto(impossible), "c": both}
        requests = [
            workloads_pb2.CreateWorkloadRequest(parent=ACME, workload_id=name, workload=message)
            for name, message in messages.items()
        ]
        batch = workloads_pb2.BatchCreateWorkloadsRequest(parent=ACME, requests=requests)
        error = await refused(client.workloads.BatchCreateWorkloads(batch, timeout=DEADLINE_S))
        (bad,) = details(error, error_details_pb2.BadRequest)
        malformed, too_large = "workload.stages[0].cpu_milli", "workload.stages[0].memory_mib"
        assert sorted(v.field for v in bad.field_violations) == [
            f"requests[0].{malformed}",
            f"requests[1].{too_large}",
            f"requests[2].{malformed}",
            f"requests[2].{too_large}",
        ]
        alone = await refused(client.workloads.CreateWorkload(requests[2], timeout=DEADLINE_S))
        (bad,) = details(alone, error_details_pb2.BadRequest)
        assert sorted(v.field for v in bad.field_violations) == [malformed, too_large]


@run
async def test_one_answer_names_what_is_malformed_and_which_names_are_taken():
    """Of the malformed workload itself, and of the sound ones beside it."""
    async with a_server() as (client, _):
        await client.create("old")
        await client.create("older")
        broken = wire.workload_to_proto(a_workload("old"))
        broken.stages[0].cpu_milli = -5
        requests = [
            workloads_pb2.CreateWorkloadRequest(parent=ACME, workload_id=name, workload=message)
            for name, message in (
                ("old", broken),
                ("older", wire.workload_to_proto(a_workload("older"))),
                ("new", wire.workload_to_proto(a_workload("new"))),
            )
        ]
        batch = workloads_pb2.BatchCreateWorkloadsRequest(parent=ACME, requests=requests)
        for call, at in (
            (client.workloads.BatchCreateWorkloads(batch, timeout=DEADLINE_S), "requests[0]."),
            (client.workloads.CreateWorkload(requests[0], timeout=DEADLINE_S), ""),
        ):
            (found,) = details(await refused(call), errors_pb2.RequestProblems)
            told = [(p.field, p.code) for p in found.problems]
            assert told[0] == (f"{at}workload.stages[0].cpu_milli", "out_of_range")
            others = [("requests[1].workload.name", "already_exists")] if at else []
            assert told[1:] == [(f"{at}workload.name", "already_exists"), *others]


@run
async def test_a_value_above_its_fields_range_is_told_with_the_most_that_the_fleet_takes():
    """Not with the field's own most, which no machine has: who takes what is named is accepted."""
    async with a_server() as (client, _):
        message = wire.workload_to_proto(a_workload("a", stage={"gpu_milli": {"l20": 1000}}))
        stage = message.stages[0]
        asked = {
            "memory_mebibytes": 999_999_999,
            "storage_gibibytes": 99_999_999,
            "gpu_memory_mebibytes": 99_999_999,
            "cpu_milli": 70_000,
        }
        for name, value in asked.items():
            setattr(stage, name, value)
        stage.gpu_milli[0].gpu_milli = 64_000
        request = workloads_pb2.CreateWorkloadRequest(parent=ACME, workload_id="a", workload=message)
        item = workloads_pb2.BatchCreateWorkloadsRequest(parent=ACME, requests=[request])
        largest = {
            "memory_mebibytes": 256_000,
            "storage_gibibytes": 1_000,
            "gpu_memory_mebibytes": 48_000,
            "cpu_milli": 64_000,
            "gpu_milli[l20]": 8_000,
        }
        for call, path in (
            (client.workloads.CreateWorkload(request, timeout=DEADLINE_S), ""),
            (client.workloads.BatchCreateWorkloads(item, timeout=DEADLINE_S), "requests[0]."),
        ):
            (bad,) = details(await refused(call), error_details_pb2.BadRequest)
            told = {v.field: v.description for v in bad.field_violations}
            assert set(told) == {f"{path}workload.stages[0].{name}" for name in largest}
            for name, most in largest.items():
                assert told[f"{path}workload.stages[0].{name}"].endswith(
                    f"expected at most {most}; nearest possible {most}"
                )
        for name in asked:
            setattr(stage, name, largest[name])
        stage.gpu_milli[0].gpu_milli = largest["gpu_milli[l20]"]
        request.workload.CopyFrom(message)
        await client.workloads.CreateWorkload(request, timeout=DEADLINE_S)


@run
async def test_more_replicas_than_any_field_takes_are_told_with_what_the_fleet_holds():
    async with a_server() as (client, _):
        message = wire.workload_to_proto(a_workload("a", cpu_milli=32_000, memory_mib=1_000))
        message.stages[0].replica_count = 9_999_999
        request = workloads_pb2.CreateWorkloadRequest(parent=ACME, workload_id="a", workload=message)
        (bad,) = details(
            await refused(client.workloads.CreateWorkload(request, timeout=DEADLINE_S)),
            error_details_pb2.BadRequest,
        )
        (told,) = bad.field_violations
        assert told.field == "workload.stages[0].replica_count"
        assert told.description.endswith("expected at most 24; nearest possible 24")  # 12 nodes of 64 cores


@run
async def test_validate_only_stores_nothing():
    async with a_server() as (client, _):
        request = workloads_pb2.CreateWorkloadRequest(
            parent=ACME, workload_id="w", workload=wire.workload_to_proto(a_workload("w")), validate_only=True
        )
        answer = await client.workloads.CreateWorkload(request, timeout=DEADLINE_S)
        assert answer.state == workloads_pb2.WORKLOAD_STATE_PENDING
        assert (await refused(client.get("w"))).code() is grpc.StatusCode.NOT_FOUND


@run
async def test_explain_and_dry_run_answer():
    async with a_server() as (client, _):
        await client.create("w1")
        why = await client.workloads.ExplainWorkload(
            workloads_pb2.ExplainWorkloadRequest(name=f"{ACME}/workloads/w1"), timeout=DEADLINE_S
        )
        assert why.summary
        plan = await client.workloads.PlanWorkloads(
            workloads_pb2.PlanWorkloadsRequest(
                parent=ACME, workloads=[wire.workload_to_proto(a_workload("w2"))]
            ),
            timeout=DEADLINE_S,
        )
        (planned,) = plan.workloads
        assert planned.state == workloads_pb2.WORKLOAD_STATE_PLANNED
        assert [p.site for p in planned.placements] == ["sites/edge"]
        assert (await refused(client.get("w2"))).code() is grpc.StatusCode.NOT_FOUND


# ---------------------------------------------------------------- watching


@run
async def test_a_watch_shows_what_is_there_and_then_what_changes():
    async with a_server() as (client, _):
        await client.create("w1")
        stream = client.workloads.WatchWorkloads(workloads_pb2.WatchWorkloadsRequest(parent=ACME))
        first, mark = await next_of(stream), await next_of(stream)
        assert (first.type, first.workload.name) == (workloads_pb2.CHANGE_TYPE_ADDED, f"{ACME}/workloads/w1")
        assert mark.type == workloads_pb2.CHANGE_TYPE_BOOKMARK
        await client.create("w2")
        while (change := await next_of(stream)).workload.name != f"{ACME}/workloads/w2":
            assert change.workload.name == f"{ACME}/workloads/w1"
        assert change.type == workloads_pb2.CHANGE_TYPE_ADDED
        stream.cancel()
        resumed = client.workloads.WatchWorkloads(
            workloads_pb2.WatchWorkloadsRequest(parent=ACME, resume_token=change.resume_token)
        )
        await client.workloads.CancelWorkload(
            workloads_pb2.CancelWorkloadRequest(name=f"{ACME}/workloads/w2"), timeout=DEADLINE_S
        )
        while (change := await next_of(resumed)).workload.state != workloads_pb2.WORKLOAD_STATE_CANCELLED:
            assert change.type == workloads_pb2.CHANGE_TYPE_MODIFIED
        resumed.cancel()


@run
async def test_an_unknown_resume_token_is_out_of_range():
    async with a_server() as (client, _):
        for token in ("999999", "yesterday"):
            stream = client.workloads.WatchWorkloads(
                workloads_pb2.WatchWorkloadsRequest(parent=ACME, resume_token=token), timeout=DEADLINE_S
            )
            await client.create(f"w-{token}")
            assert (await refused(next_of(stream))).code() is grpc.StatusCode.OUT_OF_RANGE


@run
async def test_sites_read_their_orders_by_list_and_by_watch():
    async with a_server() as (client, _):
        await client.create("w1")
        stream = client.fleet.WatchCommands(fleet_pb2.WatchCommandsRequest(parent="sites/edge"))
        command = (await next_of(stream)).command
        assert command.start.workload == f"{ACME}/workloads/w1"
        stream.cancel()
        listed = await client.fleet.ListCommands(
            fleet_pb2.ListCommandsRequest(parent="sites/-"), timeout=DEADLINE_S
        )
        assert [c.name for c in listed.commands] == [command.name]
        after = await client.fleet.ListCommands(
            fleet_pb2.ListCommandsRequest(parent="sites/-", resume_token=listed.resume_token),
            timeout=DEADLINE_S,
        )
        assert not after.commands


# ---------------------------------------------------------------- fleet, policies, plans, operations


@run
async def test_the_fleet_is_read_part_by_part():
    async with a_server() as (client, _):
        fleet = await client.fleet.GetFleet(fleet_pb2.GetFleetRequest(name="fleet"), timeout=DEADLINE_S)
        assert [s.name for s in fleet.sites] == ["sites/cloud", "sites/edge"]
        page = await client.fleet.ListSites(fleet_pb2.ListSitesRequest(page_size=1), timeout=DEADLINE_S)
        rest = await client.fleet.ListSites(
            fleet_pb2.ListSitesRequest(page_size=1, page_token=page.next_page_token), timeout=DEADLINE_S
        )
        assert [s.name for s in (*page.sites, *rest.sites)] == ["sites/cloud", "sites/edge"]
        assert rest.next_page_token == ""
        nodes = await client.fleet.ListNodes(
            fleet_pb2.ListNodesRequest(parent="sites/edge"), timeout=DEADLINE_S
        )
        assert [n.name for n in nodes.nodes] == [f"sites/edge/nodes/std-{i}" for i in range(4)]
        node = await client.fleet.GetNode(
            fleet_pb2.GetNodeRequest(name="sites/cloud/nodes/std-7"), timeout=DEADLINE_S
        )
        assert list(node.free_gpu_milli) == [1000] * 8
        assert (await client.fleet.ListZones(fleet_pb2.ListZonesRequest(), timeout=DEADLINE_S)).zones
        assert (await client.fleet.ListLinks(fleet_pb2.ListLinksRequest(), timeout=DEADLINE_S)).links
        zone = await client.fleet.GetZone(fleet_pb2.GetZoneRequest(name="zones/z"), timeout=DEADLINE_S)
        link = await client.fleet.GetLink(fleet_pb2.GetLinkRequest(name="links/l-edge"), timeout=DEADLINE_S)
        assert (zone.name, link.name) == ("zones/z", "links/l-edge")


@run
async def test_a_cordon_with_a_stale_etag_is_aborted():
    async with a_server() as (client, _):
        site = await client.fleet.GetSite(fleet_pb2.GetSiteRequest(name="sites/edge"), timeout=DEADLINE_S)
        request = fleet_pb2.CordonSiteRequest(name="sites/edge", etag=site.etag)
        assert (await client.fleet.CordonSite(request, timeout=DEADLINE_S)).cordoned
        error = await refused(client.fleet.CordonSite(request, timeout=DEADLINE_S))
        assert error.code() is grpc.StatusCode.ABORTED
        back = await client.fleet.UncordonSite(
            fleet_pb2.UncordonSiteRequest(name="sites/edge"), timeout=DEADLINE_S
        )
        assert not back.cordoned
        node = await client.fleet.CordonNode(
            fleet_pb2.CordonNodeRequest(name="sites/edge/nodes/std-0"), timeout=DEADLINE_S
        )
        assert node.cordoned
        node = await client.fleet.UncordonNode(
            fleet_pb2.UncordonNodeRequest(name="sites/edge/nodes/std-0"), timeout=DEADLINE_S
        )
        assert not node.cordoned


@run
async def test_a_drain_moves_everything_off_and_its_operation_ends():
    async with a_server() as (client, _):
        await client.create("w1")

        async def placed():
            return list((await client.get("w1")).placed_sites) == ["sites/edge"]

        await until(placed)
        operation = await client.fleet.DrainSite(
            fleet_pb2.DrainSiteRequest(name="sites/edge"), timeout=DEADLINE_S
        )
        ended = await client.operations.WaitOperation(
            operations_pb2.WaitOperationRequest(name=operation.name), timeout=DEADLINE_S
        )
        assert ended.done
        # the next placement waits until the site has said that the old one is gone
        orders = await client.fleet.ListCommands(
            fleet_pb2.ListCommandsRequest(parent="sites/edge"), timeout=DEADLINE_S
        )
        stopped = orders.commands[-1].stop.placement_id
        report = TelemetryReport(
            at_s=START_S,
            replicas=(ReplicaReport(placement_id=stopped, phase=ReplicaPhase.STOPPED, at_s=START_S),),
        )
        await client.fleet.ReportTelemetry(
            fleet_pb2.ReportTelemetryRequest(report=wire.telemetry_report_to_proto(report)),
            timeout=DEADLINE_S,
        )

        async def moved():
            return list((await client.get("w1")).placed_sites) == ["sites/cloud"]

        await until(moved)
        listed = await client.operations.ListOperations(
            operations_pb2.ListOperationsRequest(filter="done = true"), timeout=DEADLINE_S
        )
        assert [o.name for o in listed.operations] == [operation.name]
        got = await client.operations.GetOperation(
            operations_pb2.GetOperationRequest(name=operation.name), timeout=DEADLINE_S
        )
        cancelled = await client.operations.CancelOperation(
            operations_pb2.CancelOperationRequest(name=operation.name), timeout=DEADLINE_S
        )
        assert got == cancelled, "what is done cannot be cancelled"
        drained = await client.fleet.DrainNode(
            fleet_pb2.DrainNodeRequest(name="sites/cloud/nodes/std-5"), timeout=DEADLINE_S
        )
        assert drained.done


@run
async def test_telemetry_moves_a_workload_on_and_unknown_placements_are_named():
    async with a_server() as (client, _):
        await client.create("w1")
        stream = client.fleet.WatchCommands(fleet_pb2.WatchCommandsRequest(parent="sites/-"))
        placement_id = (await next_of(stream)).command.start.placement_id
        stream.cancel()
        report = TelemetryReport(
            at_s=START_S,
            replicas=tuple(
                ReplicaReport(placement_id=i, phase=ReplicaPhase.RUNNING, at_s=START_S)
                for i in (placement_id, "tenants/x/workloads/y/main/0#0")
            ),
        )
        request = fleet_pb2.ReportTelemetryRequest(
            report=wire.telemetry_report_to_proto(report), request_id=str(uuid.uuid4())
        )
        receipt = await client.fleet.ReportTelemetry(request, timeout=DEADLINE_S)
        assert receipt.applied_replica_count == 1
        assert list(receipt.ignored_placement_ids) == ["tenants/x/workloads/y/main/0#0"]
        assert (await client.get("w1")).state == workloads_pb2.WORKLOAD_STATE_RUNNING
        again = await client.fleet.ReportTelemetry(request, timeout=DEADLINE_S)
        assert again.applied_replica_count == 1, "a repeat gets the first answer"


@run
async def test_policies_are_revised_never_edited():
    async with a_server() as (client, _):

        def revise(price: float, etag: str = ""):
            return client.policies.CreatePolicyRevision(
                policies_pb2.CreatePolicyRevisionRequest(
                    parent="policies/default",
                    policy_revision=policies_pb2.PolicyRevision(carbon_price_yuan_per_kilogram=price),
                    etag=etag,
                ),
                timeout=DEADLINE_S,
            )

        first, second = await revise(1.0), await revise(2.0)
        assert (first.name, second.name) == ("policies/default/revisions/1", "policies/default/revisions/2")
        old = await client.policies.GetPolicyRevision(
            policies_pb2.GetPolicyRevisionRequest(name=first.name), timeout=DEADLINE_S
        )
        assert old.carbon_price_yuan_per_kilogram == 1.0
        current = await client.policies.GetPolicyRevision(
            policies_pb2.GetPolicyRevisionRequest(name="policies/default/revisions/current"),
            timeout=DEADLINE_S,
        )
        assert current.name == second.name
        listed = await client.policies.ListPolicyRevisions(
            policies_pb2.ListPolicyRevisionsRequest(parent="policies/default"), timeout=DEADLINE_S
        )
        assert [p.name for p in listed.policy_revisions] == [second.name, first.name]
        error = await refused(revise(3.0, etag=first.etag))
        assert error.code() is grpc.StatusCode.ABORTED


@run
async def test_rounds_and_placements_are_read():
    async with a_server() as (client, _):
        await client.create("w1")

        async def rounds():
            return (await client.plans.ListRounds(plans_pb2.ListRoundsRequest(), timeout=DEADLINE_S)).rounds

        (newest, *_) = await until(rounds)
        assert newest.placed_count == 1
        one = await client.plans.GetRound(plans_pb2.GetRoundRequest(name=newest.name), timeout=DEADLINE_S)
        assert one == newest
        for parent in ("tenants/-/workloads/-", f"{ACME}/workloads/-", f"{ACME}/workloads/w1"):
            page = await client.plans.ListPlacements(
                plans_pb2.ListPlacementsRequest(parent=parent, filter='site = "sites/edge"'),
                timeout=DEADLINE_S,
            )
            assert [p.site for p in page.placements] == ["sites/edge"]
        nobody = plans_pb2.ListPlacementsRequest(parent=f"{ACME}/workloads/nobody")
        error = await refused(client.plans.ListPlacements(nobody, timeout=DEADLINE_S))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert not (await client.plans.ListPlans(plans_pb2.ListPlansRequest(), timeout=DEADLINE_S)).plans
        error = await refused(
            client.plans.GetPlan(plans_pb2.GetPlanRequest(name="plans/latest"), timeout=DEADLINE_S)
        )
        assert error.code() is grpc.StatusCode.NOT_FOUND


@run
async def test_virtual_time_is_driven_from_outside():
    async with a_server(virtual=True) as (client, _):
        error = await refused(client.register())
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        start = wire.timestamp_from_at_s(START_S)
        run_ = await client.simulations.CreateRun(
            simulations_pb2.CreateRunRequest(run_id="day", run=simulations_pb2.Run(seed=7, start_time=start)),
            timeout=DEADLINE_S,
        )
        await client.register()
        await client.create("w1")
        request = simulations_pb2.AdvanceRunRequest(
            name=run_.name, until_time=wire.timestamp_from_at_s(START_S + 60)
        )
        progress = await client.simulations.AdvanceRun(request, timeout=DEADLINE_S)
        assert progress.run.advanced_time.seconds == START_S + 60
        assert [(c.state, c.workload_count) for c in progress.state_counts] == [
            (workloads_pb2.WORKLOAD_STATE_STARTING, 1)
        ]
        again = await client.simulations.AdvanceRun(request, timeout=DEADLINE_S)
        assert again == progress, "advancing to where it is changes nothing"
        pieces = [
            p async for p in client.simulations.ExportLog(simulations_pb2.ExportLogRequest(name="runs/day"))
        ]
        events = [e for p in pieces for e in p.events]
        assert [e.revision for e in events] == list(range(1, progress.revision + 1))
        assert {e.event_time.seconds for e in events} == {START_S, START_S + 60}
        closed = await client.simulations.CloseRun(
            simulations_pb2.CloseRunRequest(name=run_.name), timeout=DEADLINE_S
        )
        assert closed.state == simulations_pb2.RUN_STATE_CLOSED
        error = await refused(client.create("w2"))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        runs = await client.simulations.ListRuns(simulations_pb2.ListRunsRequest(), timeout=DEADLINE_S)
        got = await client.simulations.GetRun(
            simulations_pb2.GetRunRequest(name="runs/day"), timeout=DEADLINE_S
        )
        assert list(runs.runs) == [closed] == [got]


# ---------------------------------------------------------------- the boundary


@pytest.mark.leaks_ok(
    "the captured log record of the surprise keeps its frames, and with them the poller of grpc"
)
@run
async def test_every_error_is_rich_and_a_surprise_does_not_leak():
    async with a_server() as (client, server):
        missing = await refused(client.get("nobody"))
        assert missing.code() is grpc.StatusCode.NOT_FOUND
        (info,) = details(missing, error_details_pb2.ErrorInfo)
        assert info.reason == "NOT_FOUND"
        (resource,) = details(missing, error_details_pb2.ResourceInfo)
        assert resource.resource_name == f"{ACME}/workloads/nobody"

        def broken(name: str):
            raise ZeroDivisionError("secret detail")

        server.backend.service.workloads.get = broken  # type: ignore[method-assign]
        surprise = await refused(client.get("w"))
        assert surprise.code() is grpc.StatusCode.INTERNAL
        assert details(surprise, error_details_pb2.ErrorInfo)
        shown = surprise.details() or ""
        assert "secret" not in shown
        assert re.search(r"incident [0-9a-f]{12}", shown)


@run
async def test_a_call_ends_at_its_deadline_with_a_rich_status():
    async with a_server() as (client, server):
        release = asyncio.Event()

        async def stuck(*args, **kwargs):
            await release.wait()

        server.backend.service.workloads.create = stuck  # type: ignore[assignment, method-assign]
        error = await refused(
            client.workloads.CreateWorkload(
                workloads_pb2.CreateWorkloadRequest(
                    parent=ACME, workload_id="w", workload=wire.workload_to_proto(a_workload("w"))
                ),
                timeout=0.3,
            )
        )
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@run
async def test_calls_before_the_service_is_there_are_told_to_come_back():
    server = RpcServer(Metrics())
    port = await server.listen("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        client = Client(channel)
        assert not await client.is_serving("")
        assert await client.is_serving("liveness")
        error = await refused(client.get("w"))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert details(error, error_details_pb2.RetryInfo)
    await server.stop(0.1)


@run
async def test_health_is_told_for_every_service_and_ends_before_the_server_does():
    async with a_server() as (client, server):
        for name in ("", "liveness", "readiness", *SERVICERS):
            assert await client.is_serving(name), name
        stream = client.workloads.WatchWorkloads(workloads_pb2.WatchWorkloadsRequest(parent=ACME))
        await next_of(stream)
        watch = client.health.Watch(health_pb2.HealthCheckRequest(service="readiness"))
        assert (await next_of(watch)).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(server.stop(1.0))
        assert (await next_of(watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        error = await refused(next_of(stream))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        watch.cancel()
        await stopping


@run
async def test_reflection_names_every_service():
    async with a_server() as (client, _):
        channel: Any = client.channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request: Any = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]))
        answer = await call.read()
        call.cancel()
        named = {s.name for s in answer.list_services_response.service}
        assert set(SERVICERS) <= named


def test_every_rpc_of_the_protos_has_a_method_of_its_own():
    modules = (workloads_pb2, fleet_pb2, policies_pb2, plans_pb2, simulations_pb2, operations_pb2)
    services = {s.full_name: s for m in modules for s in m.DESCRIPTOR.services_by_name.values()}
    assert set(services) == set(SERVICERS)
    for name, service in services.items():
        servicer = SERVICERS[name][1]
        missing = [m.name for m in service.methods if m.name not in vars(servicer)]
        assert not missing, f"{name} inherits the refusing default of {missing}"


def test_no_servicer_aborts_by_itself():
    """Only the boundary ends calls with an error, and only with a rich status."""
    folder = Path(scheduler.rpc.__file__).parent
    for path in folder.glob("*.py"):
        bare = re.findall(r"\.(?:abort|set_code|set_details)\(", path.read_text())
        assert not bare, f"{path.name} ends a call with {bare}"
    rich = [p.name for p in folder.glob("*.py") if "abort_with_status(" in p.read_text()]
    assert rich == ["boundary.py"]
