"""Simulation runs, events of the log, long-running operations."""

from __future__ import annotations

import json
from typing import Any

from google.longrunning import operations_pb2
from google.rpc import code_pb2

from suanli.model import (
    Event,
    FieldProblem,
    InvalidRequest,
    Operation,
    RunProgress,
    SimulationRun,
    WorkloadState,
)
from suanli.model.problems import Malformed, validate
from suanli.v1 import operations_pb2 as operations
from suanli.v1 import simulations_pb2 as pb
from suanli.v1 import workloads_pb2
from suanli.wire.codec import (
    NAMES,
    Codec,
    Field,
    choice,
    enum_tables,
    instant,
    instant_or_unset,
    part,
    ref,
    same,
)


def _write_run_times(value: SimulationRun, given: dict[str, Any]) -> None:
    given["create_time"] = given["start_time"]
    given["update_time"] = given["advanced_time"]


RUN = Codec(
    SimulationRun,
    pb.Run,
    [
        ref("run_id", "name", "runs"),
        same("seed"),
        instant("start_at_s", "start_time"),
        instant("advanced_until_s", "advanced_time"),
        choice("state", "state", pb.RunState),
        same("planner"),
        same("etag"),
    ],
    path="run",
    write_more=_write_run_times,
)

_STATE_WORD, _STATE_NUMBER = enum_tables(workloads_pb2.WorkloadState)


def _write_state_counts(counts: dict[WorkloadState, int]) -> list[pb.StateCount]:
    numbers: dict[str, Any] = dict(_STATE_NUMBER)
    return [pb.StateCount(state=numbers[s], workload_count=counts[s]) for s in WorkloadState if s in counts]


RUN_PROGRESS = Codec(
    RunProgress,
    pb.AdvanceRunResponse,
    [
        part("run", "run", RUN),
        same("revision"),
        Field(
            "workloads_by_state",
            "state_counts",
            lambda v: {_STATE_WORD.get(c.state, str(c.state)): c.workload_count for c in v},
            _write_state_counts,
        ),
        instant("next_wake_at_s", "next_wake_time"),
    ],
    path="progress",
    output=True,
)


def canonical_json(body: dict[str, Any]) -> str:
    """Keys sorted, no spaces, UTF-8: the same body always gives the same bytes."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return Malformed(text, "is not JSON")


EVENT = Codec(
    Event,
    pb.Event,
    [
        same("revision"),
        instant("at_s", "event_time"),
        Field("kind", "kind", str, str),
        same("subject"),
        Field("body", "body_json", lambda v: _read_json(v) if v else {}, canonical_json),
    ],
    path="event",
    output=True,
)

_OPERATION_METADATA = Codec(
    Operation,
    operations.OperationMetadata,
    [
        same("target"),
        same("verb"),
        same("progress_frac", "progress_fraction"),
        same("message"),
        instant_or_unset("created_at_s", "create_time"),
        instant("ended_at_s", "end_time"),
        same("incumbent_yuan"),
        same("bound_yuan"),
        same("gap_frac", "gap_fraction"),
    ],
    path="operation.metadata",
    output=True,
)


def operation_to_proto(value: Operation) -> operations_pb2.Operation:
    """The operation with its progress as metadata; an error becomes a status of code ABORTED."""
    message = operations_pb2.Operation(name=value.name, done=value.done)
    message.metadata.Pack(_OPERATION_METADATA.to_proto(value))
    if value.error:
        message.error.code = code_pb2.ABORTED
        message.error.message = value.error
    return message


def operation_from_proto(message: operations_pb2.Operation, path: str = "operation") -> Operation:
    """The operation with its progress."""
    metadata = operations.OperationMetadata()
    message.metadata.Unpack(metadata)
    raw = _OPERATION_METADATA.raw(metadata)
    raw.update(name=message.name, done=message.done)
    if message.HasField("error"):
        raw["error"] = message.error.message or code_pb2.Code.Name(message.error.code)
    return validate(Operation, raw, NAMES, path)


def run_from_create(request: pb.CreateRunRequest) -> SimulationRun:
    """The run of a create request, not yet advanced.

    Raises:
        InvalidRequest: with every problem.
    """
    raw = RUN.raw(request.run)
    for set_by_service in ("state", "etag"):
        raw.pop(set_by_service, None)
    start_at_s = raw.get("start_at_s")
    raw["advanced_until_s"] = start_at_s if isinstance(start_at_s, int) else 0
    missing = [] if request.run_id else [FieldProblem(field="run_id", problem="is missing", code="missing")]
    raw["run_id"] = request.run_id
    try:
        run = validate(SimulationRun, raw, NAMES, "run")
    except InvalidRequest as error:
        raise InvalidRequest([*missing, *error.problems]) from None
    if missing:
        raise InvalidRequest(missing)
    return run
