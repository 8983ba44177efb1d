"""Every value crosses the wire and comes back: exactly, or to the last bit of a double where a unit changes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from suanli import wire
from suanli.model import Operation, Stage, Workload, WorkloadChange, WorkloadRecord, units
from suanli.model.view import ChangeType
from suanli.wire.codec import Codec
from tests.model_values import INSTANTS, fields_of, values_of

# kW and kWh are doubles of W and J on the wire: two roundings
RELATIVE = 1e-12
QUICK = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def assert_same(before: Any, after: Any, where: str = "") -> None:
    if isinstance(before, BaseModel):
        assert type(before) is type(after), where
        for name in type(before).model_fields:
            assert_same(getattr(before, name), getattr(after, name), f"{where}.{name}")
    elif isinstance(before, dict):
        assert set(before) == set(after), where
        for key in before:
            assert_same(before[key], after[key], f"{where}[{key}]")
    elif isinstance(before, (tuple, list)):
        assert len(before) == len(after), where
        for i, (b, a) in enumerate(zip(before, after, strict=True)):
            assert_same(b, a, f"{where}[{i}]")
    elif isinstance(before, float):
        assert math.isclose(before, after, rel_tol=RELATIVE, abs_tol=1e-12), f"{where}: {before} {after}"
    else:
        assert before == after, where


@pytest.mark.parametrize("codec", wire.CODECS, ids=lambda c: c.model.__name__)
def test_a_value_comes_back(codec: Codec[Any, Any]):
    @QUICK
    @given(values_of(codec.model))
    def crosses(value: Any) -> None:
        message = codec.to_proto(value)
        received = codec.message.FromString(message.SerializeToString())
        assert_same(value, codec.from_proto(received))

    crosses()


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(values_of(Workload))
def test_a_workload_comes_back_exactly(workload: Workload):
    """Its numbers are integers on the wire, so nothing is rounded twice, and the order of GPU models is kept."""
    back = wire.workload_from_proto(wire.workload_to_proto(workload))
    assert back == workload
    assert [list(s.gpu_milli) for s in back.stages] == [list(s.gpu_milli) for s in workload.stages]


@QUICK
@given(values_of(WorkloadRecord), st.sampled_from(list(ChangeType)))
def test_a_change_comes_back(record: WorkloadRecord, kind: ChangeType):
    has_record = kind in (ChangeType.ADDED, ChangeType.MODIFIED)
    change = WorkloadChange(
        type=kind,
        name="" if kind is ChangeType.BOOKMARK else record.name,
        record=record if has_record else None,
        resume_token="17",
    )
    assert_same(change, wire.workload_change_from_proto(wire.workload_change_to_proto(change)))


@QUICK
@given(fields_of(Operation, created_at_s=INSTANTS, ended_at_s=st.none() | INSTANTS))
def test_an_operation_comes_back(operation: Operation):
    assert_same(operation, wire.operation_from_proto(wire.operation_to_proto(operation)))


@given(st.floats(0, 1e9, allow_nan=False))
def test_limits_round_down_and_needs_round_up(duration_ms: float):
    limit, need = units.limit_micros(duration_ms), units.need_micros(duration_ms)
    # the guard against binary noise is a millionth of a microsecond
    assert limit <= duration_ms * 1000 + 1e-6 * max(1.0, duration_ms)
    assert need >= duration_ms * 1000 - 1e-6 * max(1.0, duration_ms)
    assert need - limit in (0, 1)


@given(st.integers(0, 10**12))
def test_whole_microseconds_are_exact(micros: int):
    duration_ms = units.ms_from_micros(micros)
    assert units.limit_micros(duration_ms) == units.need_micros(duration_ms) == micros


def test_a_latency_limit_finer_than_a_microsecond_becomes_stricter_on_the_wire():
    workload = Workload.model_validate(
        {
            "name": "tenants/t/workloads/w",
            "kind": "inference",
            "stages": [Stage(stage_id="main", cpu_milli=1, memory_mib=1, processing_p99_ms={"cpu": 1.00049})],
            "flows": [{"source": "zones/z", "target": "stages/main", "rtt_p99_max_ms": 1.00049}],
        }
    )
    message = wire.workload_to_proto(workload)
    assert message.flows[0].rtt_p99_max_micros == 1000
    assert message.stages[0].processing_p99_micros["cpu"] == 1001
