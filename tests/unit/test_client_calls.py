"""Stub coverage and the client against a real server: every RPC has a method in both clients, and it works."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import suanli
from suanli.client import AsyncClient, Client, calls
from suanli.model import (
    AlreadyExists,
    ChangeType,
    Conflict,
    InvalidRequest,
    NotFound,
    ReplicaPhase,
    ReplicaReport,
    RunState,
    SuanliError,
    TelemetryReport,
    Unavailable,
    Workload,
    WorkloadState,
)
from tests.fake_service import NOON_S, FakeService, a_fleet

# RPC → client method, where it is not the RPC's name in small letters
METHOD_OF = {
    "CreatePolicyRevision": "create_policy_revision",
    "GetPolicyRevision": "get_policy",
    "ListPolicyRevisions": "list_policy_revisions",
}
# client methods that are not one RPC
EXTRA = {"close", "submit_workloads"}


def a_workload(name: str = "tenants/city/workloads/w", **changes: Any) -> Workload:
    return Workload.model_validate(
        {
            "name": name,
            "kind": "inference",
            "stages": [
                {"stage_id": "main", "cpu_milli": 1000, "memory_mib": 512, "gpu_milli": {"l20": 1000}}
            ],
            **changes,
        }
    )


def snake(rpc: str) -> str:
    return METHOD_OF.get(rpc) or "".join(f"_{c.lower()}" if c.isupper() else c for c in rpc).lstrip("_")


def public(cls: type) -> dict[str, Any]:
    return {n: f for n, f in vars(cls).items() if not n.startswith("_") and callable(f)}


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as fake:
        yield fake


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with Client(service.address) as opened:
        yield opened


@pytest.mark.parametrize("cls", [Client, AsyncClient])
def test_every_rpc_has_a_method(cls: type):
    assert {snake(rpc) for rpc in calls.METHODS} == set(public(cls)) - EXTRA


def test_both_clients_have_the_same_methods_with_the_same_parameters():
    ours, theirs = public(Client), public(AsyncClient)
    assert set(ours) == set(theirs)
    for name, function in ours.items():
        assert (
            inspect.signature(function).parameters.keys() == inspect.signature(theirs[name]).parameters.keys()
        ), name
        assert function.__doc__ == theirs[name].__doc__, name


def test_importing_suanli_loads_no_client():
    assert suanli.Client is Client
    assert suanli.AsyncClient is AsyncClient
    with pytest.raises(AttributeError):
        _ = suanli.Cleint


def exercise(client: Client, service: FakeService) -> dict[str, Any]:
    """One call of every RPC; the answers by client method."""
    name = "tenants/city/workloads/w"
    answers: dict[str, Any] = {}
    answers["create_workload"] = client.create_workload(a_workload())
    answers["batch_create_workloads"] = client.batch_create_workloads(
        [a_workload(f"{name}{i}") for i in range(3)]
    )
    answers["get_workload"] = client.get_workload(name)
    answers["list_workloads"] = list(client.list_workloads("tenants/city"))
    answers["explain_workload"] = client.explain_workload(
        name, why_not="sites/ai-core", with_relaxations=True
    )
    answers["plan_workloads"] = client.plan_workloads([a_workload(f"{name}9")])
    answers["watch_workloads"] = next(client.watch_workloads())
    service.place(name)
    answers["list_placements"] = list(client.list_placements(name, filter='site = "sites/e01-hub"'))
    answers["cancel_workload"] = client.cancel_workload(name, cause="enough")
    answers["register_fleet"] = client.register_fleet(a_fleet())
    answers["get_fleet"] = client.get_fleet()
    answers["get_site"] = client.get_site("sites/e01-hub")
    answers["list_sites"] = list(client.list_sites())
    answers["get_node"] = client.get_node("sites/e01-hub/nodes/l20x4-1")
    answers["list_nodes"] = list(client.list_nodes("sites/e01-hub"))
    answers["get_zone"] = client.get_zone("zones/z1")
    answers["list_zones"] = list(client.list_zones())
    answers["get_link"] = client.get_link("links/e01-core")
    answers["list_links"] = list(client.list_links())
    answers["cordon_site"] = client.cordon_site("sites/e01-hub")
    answers["uncordon_site"] = client.uncordon_site("sites/e01-hub")
    answers["cordon_node"] = client.cordon_node("sites/e01-hub/nodes/l20x4-1")
    answers["uncordon_node"] = client.uncordon_node("sites/e01-hub/nodes/l20x4-1")
    answers["drain_site"] = client.drain_site("sites/e01-hub")
    answers["drain_node"] = client.drain_node("sites/e01-hub/nodes/l20x4-1")
    lost = ReplicaReport(placement_id="p1", phase=ReplicaPhase.LOST, at_s=NOON_S)
    answers["report_telemetry"] = client.report_telemetry(TelemetryReport(at_s=NOON_S, replicas=(lost,)))
    service.order_stop("p1")
    answers["list_commands"] = client.list_commands()
    answers["watch_commands"] = next(client.watch_commands())
    answers["get_policy"] = client.get_policy()
    answers["create_policy_revision"] = client.create_policy_revision(answers["get_policy"])
    answers["list_policy_revisions"] = list(client.list_policy_revisions())
    answers["get_round"] = client.get_round("rounds/42")
    answers["list_rounds"] = list(client.list_rounds())
    answers["get_plan"] = client.get_plan()
    answers["list_plans"] = list(client.list_plans())
    answers["create_run"] = client.create_run("day", start_at_s=NOON_S, seed=42)
    answers["get_run"] = client.get_run("runs/day")
    answers["list_runs"] = list(client.list_runs())
    answers["advance_run"] = client.advance_run("runs/day", NOON_S + 60)
    answers["close_run"] = client.close_run("runs/day")
    answers["export_log"] = list(client.export_log("runs/day"))
    answers["get_operation"] = client.get_operation("operations/drain-1")
    answers["list_operations"] = list(client.list_operations())
    answers["wait_operation"] = client.wait_operation("operations/drain-1", wait_s=0.1)
    answers["cancel_operation"] = client.cancel_operation("operations/drain-2")
    return answers


def test_every_method_works_and_returns_values_of_the_model(service: FakeService, client: Client):
    answers = exercise(client, service)
    assert set(answers) == set(public(Client)) - EXTRA
    assert answers["get_workload"].workload == a_workload()
    assert [r.name[-2:] for r in answers["list_workloads"]] == ["/w", "w0", "w1", "w2"]
    assert all(r.workload is None for r in answers["list_workloads"])
    assert answers["explain_workload"].why_not == "sites/ai-core"
    assert answers["plan_workloads"].workloads[0].placements[0].site_id == "e01-hub"
    assert answers["watch_workloads"].type is ChangeType.ADDED
    assert answers["cancel_workload"].state is WorkloadState.CANCELLED
    assert answers["register_fleet"].fleet == answers["get_fleet"].fleet == a_fleet()
    assert answers["cordon_site"].site.cordoned and not answers["uncordon_site"].site.cordoned
    assert answers["cordon_node"].cordoned and not answers["uncordon_node"].cordoned
    assert answers["report_telemetry"].ignored_placement_ids == ("p1",)
    assert answers["list_commands"].items == (answers["watch_commands"],)
    assert answers["create_policy_revision"].revision == 2
    assert answers["advance_run"].next_wake_at_s == NOON_S + 120
    assert answers["close_run"].state is RunState.CLOSED
    assert answers["export_log"][0].body == {"城": 1}
    assert answers["wait_operation"].done and answers["cancel_operation"].error == "cancelled"


def test_every_call_carries_a_deadline(service: FakeService, client: Client):
    exercise(client, service)
    # grpc rounds the time left up by a little
    assert max(service.faults.deadlines_s) < 905
    assert sorted(service.faults.deadlines_s)[len(service.faults.deadlines_s) // 2] < 31


def test_lists_go_over_all_pages(service: FakeService, client: Client):
    records = client.submit_workloads([a_workload(f"tenants/t/workloads/w{i:04}") for i in range(2100)])
    assert len(records) == 2100
    assert service.faults.seen.count("BatchCreateWorkloads") == 3
    names = [r.name for r in client.list_workloads()]
    assert names == [r.name for r in records]
    assert service.faults.seen.count("ListWorkloads") == 3


def test_submitting_takes_effect_whether_the_answer_is_looked_at_or_not(service: FakeService, client: Client):
    client.submit_workloads([a_workload()])
    assert len(service.records) == 1


def test_the_package_shows_its_clients():
    assert {"Client", "AsyncClient", "__version__"} <= set(dir(suanli))


def test_commands_are_read_once_by_token(service: FakeService, client: Client):
    for i in range(3):
        service.order_stop(f"p{i}")
    first = client.list_commands()
    service.order_stop("p3")
    second = client.list_commands(resume_token=first.resume_token)
    assert [c.stop.placement_id for c in first.items if c.stop] == ["p0", "p1", "p2"]
    assert [c.stop.placement_id for c in second.items if c.stop] == ["p3"]
    assert client.list_commands(resume_token=second.resume_token).items == ()


# Errors


def test_problems_arrive_whole(client: Client):
    fleet = a_fleet()
    wrong = fleet.sites[0].model_copy(update={"tariff_id": "town", "rated_it_kw": -1.0})
    with pytest.raises(InvalidRequest) as refused:
        client.register_fleet(fleet.model_copy(update={"sites": (wrong, fleet.sites[1])}))
    assert [p.field for p in refused.value.problems] == [
        "fleet.sites[0].rated_it_power_watts",
        "fleet.sites[0].tariff_id",
    ]


def test_two_hundred_problems_fit_in_the_trailers(client: Client):
    workloads = [
        a_workload(f"tenants/t/workloads/{i}").model_copy(update={"workload_class": "x" * 64})
        for i in range(200)
    ]
    with pytest.raises(InvalidRequest) as refused:
        client.batch_create_workloads(workloads)
    assert len(refused.value.problems) == 200
    assert refused.value.problems[199].field == "requests[199].workload.workload_class"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: c.get_workload("tenants/t/workloads/none"), NotFound),
        (lambda c: c.create_workload(a_workload(), plan_etag="old"), Conflict),
        (lambda c: [c.create_workload(a_workload()) for _ in range(2)], AlreadyExists),
    ],
)
def test_errors_keep_their_class(client: Client, call: Any, error: type[SuanliError]):
    with pytest.raises(error) as raised:
        call(client)
    assert type(raised.value) is error


def test_nobody_there_is_unavailable():
    with Client("127.0.0.1:1", retry_unavailable_for_s=0) as client, pytest.raises(Unavailable):
        client.get_policy()


# The asynchronous client


def test_the_asynchronous_client_does_the_same(service: FakeService):
    async def talk() -> list[str]:
        async with AsyncClient(service.address) as client:
            await client.create_workload(a_workload())
            await client.submit_workloads([a_workload(f"tenants/city/workloads/b{i}") for i in range(3)])
            with pytest.raises(InvalidRequest):
                await client.batch_create_workloads([])
            names = [r.name async for r in client.list_workloads()]
            changes = client.watch_workloads()
            first = await anext(changes)
            await changes.aclose()
            assert first.name in names
            service.order_stop("p1")
            page = await client.list_commands()
            assert len(page.items) == 1
            await client.create_run("day", start_at_s=NOON_S)
            await client.advance_run("runs/day", NOON_S + 60)
            assert [e.revision async for e in client.export_log()] == [1]
            return names

    assert asyncio.run(talk()) == [f"tenants/city/workloads/{n}" for n in ("b0", "b1", "b2", "w")]
