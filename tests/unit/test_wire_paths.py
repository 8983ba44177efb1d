"""Refusals name every problem at its proto path, with what was expected and the nearest value, in proto units."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from suanli import wire
from suanli.model import FieldProblem, InvalidRequest, Policy, Workload
from suanli.model.problems import validate
from suanli.model.workload import DAY_S, MAX_DURATION_S
from suanli.v1 import fleet_pb2, simulations_pb2, workloads_pb2
from tests.fake_service import a_fleet


def a_message() -> workloads_pb2.Workload:
    return workloads_pb2.Workload(
        name="tenants/city/workloads/v2x",
        kind=workloads_pb2.WORKLOAD_KIND_INFERENCE,
        stages=[
            workloads_pb2.Stage(
                stage_id="main",
                replica_count=2,
                cpu_milli=8000,
                memory_mebibytes=16384,
                gpu_milli=[workloads_pb2.GpuNeed(gpu_model="l20", gpu_milli=500)],
            )
        ],
        flows=[workloads_pb2.Flow(source="zones/z1", target="stages/main", rtt_p99_max_micros=10_000)],
    )


def problems_of(read: Callable[[], object]) -> dict[str, FieldProblem]:
    with pytest.raises(InvalidRequest) as refused:
        read()
    return {p.field: p for p in refused.value.problems}


def problems_with(change: Callable[[workloads_pb2.Workload], None]) -> dict[str, FieldProblem]:
    message = a_message()
    change(message)
    return problems_of(lambda: wire.workload_from_proto(message))


def test_the_message_itself_is_sound():
    assert wire.workload_from_proto(a_message()).stages[0].gpu_milli == {"l20": 500}


def test_a_gpu_need_that_is_not_whole_names_its_model_and_the_next_whole_number():
    found = problems_with(lambda m: setattr(m.stages[0].gpu_milli[0], "gpu_milli", 1500))
    assert found["workload.stages[0].gpu_milli[l20]"].nearest == "2000"


def test_a_limit_is_told_in_microseconds():
    found = problems_with(lambda m: setattr(m.flows[0], "rtt_p99_max_micros", -27_300))
    problem = found["workload.flows[0].rtt_p99_max_micros"]
    assert (problem.problem, problem.expected) == ("-27300 is out of range", "more than 0")


def test_a_duration_is_told_in_seconds():
    found = problems_with(lambda m: m.stages[0].run_duration.CopyFrom(Duration(seconds=-100)))
    assert found["workload.stages[0].run_duration"].problem == "-100s is out of range"


def test_a_broken_second_is_refused_where_whole_ones_are_meant():
    found = problems_with(lambda m: m.stages[0].startup_duration.CopyFrom(Duration(nanos=500_000_000)))
    assert list(found) == ["workload.stages[0].startup_duration"]


def test_an_instant_beyond_the_calendar_is_a_problem_not_a_crash():
    found = problems_with(lambda m: m.deadline_time.CopyFrom(Timestamp(seconds=10**15)))
    assert "beyond the year 9999" in found["workload.deadline_time"].problem


def test_a_required_field_that_is_absent_is_missing():
    found = problems_with(lambda m: m.stages[0].ClearField("cpu_milli"))
    assert found["workload.stages[0].cpu_milli"].problem == "is missing"


def test_an_unknown_enum_number_is_refused_with_the_words_known():
    message = workloads_pb2.Workload.FromString(a_message().SerializeToString() + b"\x10\x4d")
    found = problems_of(lambda: wire.workload_from_proto(message))
    assert found["workload.kind"].expected == "one of training, inference, twin, batch"


def test_a_site_is_named_in_full():
    found = problems_with(lambda m: m.stages[0].sites.extend(["e01", "sites/e01-hub"]))
    assert found["workload.stages[0].sites[0]"].expected == "sites/{id}"
    assert len(found) == 1


def test_one_gpu_model_twice_is_refused():
    found = problems_with(
        lambda m: m.stages[0].gpu_milli.append(workloads_pb2.GpuNeed(gpu_model="l20", gpu_milli=1000))
    )
    assert "twice" in found["workload.stages[0].gpu_milli"].problem


def test_a_flow_to_nowhere_names_the_closest_stage():
    found = problems_with(lambda m: setattr(m.flows[0], "target", "stages/mian"))
    assert found["workload.flows[0].target"].nearest == "stages/main"


def test_problems_of_fields_and_of_the_whole_come_in_one_answer_in_the_order_of_the_fields():
    def spoil(m: workloads_pb2.Workload) -> None:
        m.stages[0].memory_mebibytes = -1
        m.stages[0].replica_max_count = 1
        m.flows[0].target = "stages/render"
        m.deadline_time.seconds = 10
        m.not_before_time.seconds = 20
        m.labels[""] = "x"

    assert list(problems_with(spoil)) == [
        "workload.stages[0].replica_max_count",
        "workload.stages[0].memory_mebibytes",
        "workload.flows[0].target",
        "workload.deadline_time",
        "workload.labels[]",
    ]


def test_a_reference_to_something_broken_is_not_a_second_problem():
    def spoil(m: workloads_pb2.Workload) -> None:
        m.stages[0].stage_id = "Main Stage"
        m.flows[0].target = "stages/Main Stage"

    found = problems_with(spoil)
    assert found["workload.stages[0].stage_id"].nearest == "main-stage"
    # its form is wrong too, but nobody says that the stage does not exist
    assert {p.code for p in found.values()} == {"form"}


def test_problems_are_bounded():
    message = a_message()
    message.flows.extend([workloads_pb2.Flow(source="x", target="y")] * 128)
    with pytest.raises(InvalidRequest) as refused:
        wire.workload_from_proto(message)
    assert len(refused.value.problems) == 201
    assert refused.value.problems[-1].problem.startswith("and ")


# Requests


def a_request(**changes: str) -> workloads_pb2.CreateWorkloadRequest:
    given = {"parent": "tenants/city", "workload_id": "v2x", **changes}
    return workloads_pb2.CreateWorkloadRequest(workload=a_message(), **given)  # type: ignore[arg-type]


def test_a_name_is_joined_from_parent_and_id():
    request = a_request(workload_id="other")
    request.workload.name = ""
    assert wire.workload_from_create(request).name == "tenants/city/workloads/other"


def test_a_name_alone_will_do():
    assert wire.workload_from_create(a_request(workload_id="")).name == "tenants/city/workloads/v2x"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"workload_id": "other"}, "workload.name"),
        ({"parent": "tenants/else", "workload_id": ""}, "workload.name"),
        ({"parent": "tenants"}, "parent"),
        ({"parent": "tenants/-", "workload_id": "other"}, "parent"),
    ],
)
def test_names_that_disagree_are_refused(changes: dict[str, str], field: str):
    assert list(problems_of(lambda: wire.workload_from_create(a_request(**changes)))) == [field]


def test_without_any_name_the_id_is_missing():
    request = a_request(workload_id="")
    request.workload.name = ""
    assert list(problems_of(lambda: wire.workload_from_create(request))) == ["workload_id"]


def test_a_name_problem_does_not_hide_the_others():
    request = a_request(workload_id="other")
    request.workload.stages[0].cpu_milli = -1
    assert list(problems_of(lambda: wire.workload_from_create(request))) == [
        "workload.name",
        "workload.stages[0].cpu_milli",
    ]


def a_batch(*requests: workloads_pb2.CreateWorkloadRequest, parent: str = "tenants/city"):
    return workloads_pb2.BatchCreateWorkloadsRequest(parent=parent, requests=requests)


def test_a_batch_names_the_item():
    good, bad = a_request(), a_request(workload_id="b")
    bad.workload.name = ""
    bad.workload.stages[0].cpu_milli = -1
    found = problems_of(lambda: wire.workloads_from_batch(a_batch(good, bad)))
    assert list(found) == ["requests[1].workload.stages[0].cpu_milli"]


def test_a_batch_lends_its_parent_and_may_span_tenants():
    item = a_request(parent="")
    assert [w.name for w in wire.workloads_from_batch(a_batch(item))] == ["tenants/city/workloads/v2x"]
    other = a_request(parent="tenants/b")
    other.workload.name = ""
    names = [w.name for w in wire.workloads_from_batch(a_batch(a_request(), other, parent="tenants/-"))]
    assert names == ["tenants/city/workloads/v2x", "tenants/b/workloads/v2x"]


def test_a_batch_refuses_repeats_and_flags_of_its_items():
    flagged = a_request()
    flagged.request_id = "x"
    found = problems_of(lambda: wire.workloads_from_batch(a_batch(a_request(), flagged)))
    assert list(found) == ["requests[1].request_id", "requests[1].workload.name"]


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_has_1_to_1000_items(count: int):
    found = problems_of(lambda: wire.workloads_from_batch(a_batch(*[a_request(workload_id="")] * count)))
    assert found["requests"].nearest == str(min(max(count, 1), 1000))


def test_a_dry_run_names_its_items_and_keeps_to_its_parent():
    message = a_message()
    message.stages[0].cpu_milli = -1
    request = workloads_pb2.PlanWorkloadsRequest(parent="tenants/b", workloads=[message])
    assert list(problems_of(lambda: wire.workloads_from_plan(request))) == [
        "workloads[0].stages[0].cpu_milli",
        "workloads[0].name",
    ]


def test_a_run_needs_a_name_and_a_whole_second_to_start():
    request = simulations_pb2.CreateRunRequest()
    request.run.start_time.CopyFrom(Timestamp(seconds=1, nanos=5))
    assert set(problems_of(lambda: wire.run_from_create(request))) == {"run_id", "run.start_time"}


def test_a_fleet_names_site_group_and_link():
    message = wire.fleet_to_proto(a_fleet())
    message.sites[0].groups[0].max_power_watts = 100
    message.sites[1].tariff_id = "town"
    message.sites[1].rated_it_power_watts = -5
    message.network.links[0].end_ids[1] = "cor"
    found = problems_of(lambda: wire.fleet_from_register(fleet_pb2.RegisterFleetRequest(fleet=message)))
    assert found["fleet.sites[0].groups[0].max_power_watts"].nearest == "500"
    assert found["fleet.sites[1].rated_it_power_watts"].problem == "-5 is out of range"
    assert found["fleet.sites[1].tariff_id"].expected == "one of city"
    assert found["fleet.network.links[0].end_ids[1]"].nearest == "core"
    assert len(found) == 4


def test_a_number_too_large_for_the_wire_is_a_problem_not_a_crash():
    with pytest.raises(InvalidRequest) as refused:
        wire.policy_to_proto(Policy(created_at_s=2**70))
    assert refused.value.problems[0].field == "create_time"


@pytest.mark.parametrize(
    ("field", "largest"),
    [
        ("duration_s", MAX_DURATION_S),
        ("startup_s", DAY_S),
        ("gpu_memory_mib", 10_000_000),
        ("checkpoint_interval_s", MAX_DURATION_S),
        ("checkpoint_gib", 10_000_000),
        ("storage_gib", 10_000_000),
    ],
)
def test_every_amount_of_a_stage_has_a_bound_that_the_wire_carries(field: str, largest: int):
    workload = wire.workload_from_proto(a_message()).model_dump()
    workload["stages"][0][field] = largest
    assert (
        wire.workload_from_proto(wire.workload_to_proto(Workload.model_validate(workload)))
        .stages[0]
        .model_dump()[field]
        == largest
    )
    workload["stages"][0][field] = 10**30
    with pytest.raises(InvalidRequest) as refused:
        validate(Workload, workload)
    (problem,) = refused.value.problems
    assert (problem.field, problem.nearest) == (f"stages[0].{field}", str(largest))
