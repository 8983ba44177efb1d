"""The tables of the converter miss nothing: every model field crosses, every proto field is used, defaults agree."""

from __future__ import annotations

import time
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from pydantic import BaseModel

from suanli import wire
from suanli.model import Workload
from suanli.v1 import policies_pb2, simulations_pb2, workloads_pb2
from suanli.wire import fleet, plans, reasons, telemetry, workloads
from suanli.wire.codec import NAMES, Codec, JoinedCodec
from suanli.wire.runs import _OPERATION_METADATA
from tests.fake_service import a_plan

MODULES = (fleet, plans, reasons, telemetry, workloads)
ALL: list[Codec[Any, Any]] = list(
    dict.fromkeys(
        [c for m in MODULES for c in vars(m).values() if isinstance(c, Codec)]
        + [*wire.CODECS, _OPERATION_METADATA]
    )
)

# model fields that stand in another message than their codec's, or in the name
ELSEWHERE = {
    "Operation": {"name", "done", "error"},
    "Placement": {"placement_id", "workload"},
    "Node": {"node_id", "site_id"},
    "Policy": {"policy_id", "revision"},
    "Plan": {"sites_on", "forecast_it_kw", "forecast_facility_kw"},
}
# proto fields that no codec reads: names made of parts, and what JoinedCodecs add
MADE = {
    "Placement.name", "Node.name", "Command.name", "PolicyRevision.name", "Fleet.name", "Plan.site_forecasts",
    "Run.create_time", "Run.update_time", "PolicyRevision.update_time",
}  # fmt: skip


@pytest.mark.parametrize("codec", ALL, ids=lambda c: c.model.__name__)
def test_every_model_field_crosses(codec: Codec[Any, Any]):
    in_table = {f.model for f in codec.fields}
    joined = {codec._part} if isinstance(codec, JoinedCodec) else set()
    elsewhere = ELSEWHERE.get(codec.model.__name__, set())
    assert in_table | joined | elsewhere == set(codec.model.model_fields)
    assert not in_table & elsewhere


def test_every_proto_field_is_written_by_some_codec():
    written: dict[str, set[str]] = {}
    for codec in ALL:
        written.setdefault(codec.message.DESCRIPTOR.name, set()).update(f.proto for f in codec.fields)
    missing = [
        f"{codec.message.DESCRIPTOR.name}.{field.name}"
        for codec in ALL
        for field in codec.message.DESCRIPTOR.fields
        if field.name not in written[codec.message.DESCRIPTOR.name]
    ]
    assert set(missing) == MADE


@pytest.mark.parametrize(
    "codec", [c for c in ALL if not isinstance(c, JoinedCodec)], ids=lambda c: c.model.__name__
)
def test_a_field_left_out_by_a_caller_means_the_models_default(codec: Codec[Any, Any]):
    """Without presence an absent field is zero; then zero must be what the model takes, or the field has presence."""
    empty = codec.message()
    for f in codec.fields:
        descriptor = codec.message.DESCRIPTOR.fields_by_name[f.proto]
        info = codec.model.model_fields[f.model]
        if descriptor.has_presence or info.is_required() or descriptor.enum_type is not None:
            continue
        default = info.get_default(call_default_factory=True)
        sent = codec.raw(empty).get(f.model, default)
        zero = _zero(f.read, descriptor)
        assert sent == zero or (default in ("", ()) and not sent), f.model


def _zero(read: Any, descriptor: FieldDescriptor) -> Any:
    value = read([] if descriptor.is_repeated else descriptor.default_value)
    return tuple(value) if isinstance(value, list) else value


UNITS = {
    ("_kw", "_watts"): 1000,
    ("_w", "_watts"): 1,
    ("_kwh", "_joules"): 3_600_000,
    ("_gpu_h", "_gpu_seconds"): 3600,
    ("_ms", "_micros"): 1000,
    ("_ms", "_nanos"): 1_000_000,
    ("_mib", "_mebibytes"): 1,
    ("_gib", "_gibibytes"): 1,
    ("_mbps", "_megabits_per_second"): 1,
    ("_gbps", "_gigabits_per_second"): 1,
    ("_frac", "_fraction"): 1,
    ("_km", "_kilometers"): 1,
}
"""(suffix in the model, suffix on the wire): what 1 becomes."""


def test_units_change_as_their_names_say():
    checked = 0
    for codec in ALL:
        for f in codec.fields:
            pair = next((k for k in UNITS if f.model.endswith(k[0]) and f.proto.endswith(k[1])), None)
            has_unit = "_per_" not in f.model and f.model.endswith(tuple(k[0] for k in UNITS))
            is_map = codec.message.DESCRIPTOR.fields_by_name[f.proto].is_repeated
            assert pair is not None or not has_unit, f"{codec.model.__name__}.{f.model} → {f.proto}"
            if pair is None:
                continue
            checked += 1
            if is_map:
                assert f.write({"x": 1.0}) == {"x": UNITS[pair]}
                assert f.read({"x": UNITS[pair]}) == {"x": 1}
            else:
                assert f.write(1.0) == UNITS[pair], f"{codec.model.__name__}.{f.model}"
                assert f.read(UNITS[pair]) == 1
    assert checked > 40


def test_forecasts_of_a_plan_are_watts_on_the_wire():
    message = wire.plan_to_proto(a_plan())
    assert list(message.site_forecasts[0].it_power_watts) == [12_500, 0]


def test_every_enum_word_is_known_on_both_sides():
    for codec in ALL:
        for f in codec.fields:
            enum = codec.message.DESCRIPTOR.fields_by_name[f.proto].enum_type
            if enum is None:
                continue
            words = {f.read(v.number) for v in enum.values if v.number}
            assert words == set(_words(codec.model, f.model)), f"{codec.model.__name__}.{f.model}"


def _words(model: type[BaseModel], field: str) -> list[str]:
    schema = model.model_json_schema(mode="validation")
    part = schema["properties"][field]
    if "$ref" in part:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]]
    return [str(word) for word in part["enum"]]


def test_output_only_fields_of_a_request_are_ignored():
    message = workloads_pb2.Workload(
        name="tenants/t/workloads/w",
        kind=workloads_pb2.WORKLOAD_KIND_BATCH,
        stages=[workloads_pb2.Stage(stage_id="main", cpu_milli=1, memory_mebibytes=1)],
        state=workloads_pb2.WORKLOAD_STATE_RUNNING,
        etag="mine",
    )
    assert wire.workload_from_proto(message).name == "tenants/t/workloads/w"
    policy = policies_pb2.CreatePolicyRevisionRequest(
        parent="policies/default",
        policy_revision=policies_pb2.PolicyRevision(name="policies/default/revisions/9", etag="mine"),
    )
    assert (wire.policy_from_create(policy).revision, wire.policy_from_create(policy).etag) == (0, "")
    run = simulations_pb2.CreateRunRequest(run_id="r")
    run.run.start_time.seconds = 60
    run.run.advanced_time.seconds = 999
    assert wire.run_from_create(run).advanced_until_s == 60


def test_a_zero_that_matters_is_not_lost():
    """0 processing time, 0 start-up time and a closed site are values, not absences."""
    workload = Workload.model_validate(
        {
            "name": "tenants/t/workloads/w",
            "kind": "batch",
            "lateness_yuan_per_gpu_hour": 0,
            "stages": [
                {"stage_id": "main", "cpu_milli": 0, "memory_mib": 0, "startup_s": 0, "utilization_frac": 0}
            ],
        }
    )
    back = wire.workload_from_proto(wire.workload_to_proto(workload))
    stage = back.stages[0]
    assert (back.lateness_yuan_per_gpu_hour, stage.startup_s, stage.utilization_frac, stage.cpu_milli) == (
        0,
        0,
        0,
        0,
    )


def test_names_are_those_of_the_protos():
    for (model, field), (proto, _) in NAMES._fields.items():
        codec = next(c for c in ALL if c.model is model)
        assert proto in ("", *codec.message.DESCRIPTOR.fields_by_name), f"{model.__name__}.{field}"


def test_converting_one_submission_is_far_below_its_budget():
    """2 000 submissions a second leave 500 µs each; 150 µs are for this, and about 15 are used."""
    message = workloads_pb2.Workload(
        name="tenants/t/workloads/w",
        kind=workloads_pb2.WORKLOAD_KIND_TRAINING,
        labels={"team": "x"},
        stages=[
            workloads_pb2.Stage(
                stage_id="main",
                replica_count=2,
                cpu_milli=8000,
                memory_mebibytes=1024,
                gpu_milli=[workloads_pb2.GpuNeed(gpu_model="h800", gpu_milli=1000)],
                gang=True,
            )
        ],
    )
    best_s = min(_timed(message) for _ in range(50))
    assert best_s < 150e-6


def _timed(message: workloads_pb2.Workload) -> float:
    begun = time.perf_counter()
    wire.workload_from_proto(message)
    return time.perf_counter() - begun
