"""Workloads: what is submitted, its record with state, changes, dry runs, and the requests that carry them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from suanli.model import (
    FieldProblem,
    Flow,
    InvalidRequest,
    PathBudget,
    PlannedWorkload,
    Spread,
    Stage,
    Workload,
    WorkloadChange,
    WorkloadRecord,
    WorkloadsPlan,
    units,
)
from suanli.model.base import Value, trusted
from suanli.model.problems import HARMLESS_ID, Malformed, renamed, show_plain, validate, within_fleet
from suanli.model.workload import WorkloadName
from suanli.v1 import workloads_pb2 as pb
from suanli.wire.codec import (
    NAMES,
    Codec,
    Field,
    JoinedCodec,
    choice,
    converted_map,
    enum_tables,
    instant,
    instant_or_unset,
    limit_micros,
    listed,
    mapped,
    moment,
    need_micros,
    part,
    parts,
    refs,
    same,
    seconds,
)
from suanli.wire.plans import MOVE, PLACEMENT
from suanli.wire.reasons import EXPLANATION, START_ESTIMATE, WARNING, reason_counts

ANY_TENANT = "tenants/-"


def _read_gpu_needs(needs: Iterable[pb.GpuNeed]) -> dict[str, int] | Malformed:
    out: dict[str, int] = {}
    for need in needs:
        if need.gpu_model in out or not need.gpu_model:
            return Malformed(
                need.gpu_model, f"GPU model {need.gpu_model!r} is empty or given twice", "each model once"
            )
        out[need.gpu_model] = need.gpu_milli
    return out


def _write_gpu_needs(needs: dict[str, int]) -> list[pb.GpuNeed]:
    return [pb.GpuNeed(gpu_model=model, gpu_milli=milli) for model, milli in needs.items()]


SPREAD = Codec(
    Spread,
    pb.Spread,
    [choice("over", "over", pb.SpreadDomain), same("min_domains", "min_domain_count")],
    path="spread",
)

STAGE = Codec(
    Stage,
    pb.Stage,
    [
        same("stage_id"),
        same("replicas", "replica_count"),
        same("replicas_max", "replica_max_count"),
        same("cpu_milli"),
        same("memory_mib", "memory_mebibytes"),
        same("storage_gib", "storage_gibibytes"),
        Field("gpu_milli", "gpu_milli", _read_gpu_needs, _write_gpu_needs),
        same("gpu_memory_mib", "gpu_memory_mebibytes"),
        same("gang"),
        same("utilization_frac", "utilization_fraction"),
        Field(
            "require_any",
            "require_any",
            lambda v: [{k: s.labels[k] for k in sorted(s.labels)} for s in v],
            lambda v: [pb.LabelSet(labels=labels) for labels in v],
        ),
        refs("site_ids", "sites", "sites"),
        part("spread", "spread", SPREAD),
        same("colocate_with"),
        same("shared_with"),
        listed("dataset_ids"),
        seconds("duration_s", "run_duration"),
        seconds("startup_s", "startup_duration"),
        same("preemptible"),
        seconds("checkpoint_interval_s", "checkpoint_interval_duration"),
        same("checkpoint_gib", "checkpoint_gibibytes"),
        converted_map("processing_p99_ms", "processing_p99_micros", units.ms_from_micros, units.need_micros),
    ],
    path="stage",
)

FLOW = Codec(
    Flow,
    pb.Flow,
    [
        same("source"),
        same("target"),
        same("access_id"),
        same("mbps", "rate_megabits_per_second"),
        limit_micros("rtt_p99_max_ms", "rtt_p99_max_micros"),
    ],
    path="flow",
)

PATH_BUDGET = Codec(
    PathBudget,
    pb.PathBudget,
    [same("path_id"), listed("via"), limit_micros("budget_ms", "budget_micros")],
    path="path",
)

_IDENTITY = (
    same("name"),
    choice("kind", "kind", pb.WorkloadKind),
    same("workload_class"),
    same("display_name"),
    same("display_name_zh"),
    choice("priority_class", "priority_class", pb.PriorityClass),
)

WORKLOAD = Codec(
    Workload,
    pb.Workload,
    [
        *_IDENTITY,
        parts("stages", "stages", STAGE),
        parts("flows", "flows", FLOW),
        parts("paths", "paths", PATH_BUDGET),
        moment("not_before_at", "not_before_time"),
        moment("deadline_at", "deadline_time"),
        same("deferrable"),
        same("lateness_yuan_per_gpu_hour"),
        mapped("labels"),
    ],
    path="workload",
)

WORKLOAD_RECORD = JoinedCodec(
    WorkloadRecord,
    "workload",
    WORKLOAD,
    [
        *_IDENTITY,
        choice("state", "state", pb.WorkloadState),
        same("etag"),
        instant_or_unset("created_at_s", "create_time"),
        instant_or_unset("updated_at_s", "update_time"),
        same("summary"),
        same("replica_count", "total_replica_count"),
        same("placed_replica_count"),
        same("running_replica_count"),
        same("done_replica_count"),
        same("gpu_milli", "total_gpu_milli"),
        reason_counts("pending_reasons", "pending_reasons"),
        same("queue_position"),
        part("expected_start", "expected_start", START_ESTIMATE),
        refs("site_ids", "placed_sites", "sites"),
        parts("warnings", "warnings", WARNING),
    ],
    path="workload",
    is_present=lambda message: len(message.stages) > 0,
)

_CHANGE_WORD, _CHANGE_NUMBER = enum_tables(pb.ChangeType)


def workload_change_to_proto(change: WorkloadChange) -> pb.WatchWorkloadsResponse:
    """One event of a watch."""
    number: Any = _CHANGE_NUMBER[change.type]
    message = pb.WatchWorkloadsResponse(type=number, resume_token=change.resume_token)
    if change.record is not None:
        message.workload.CopyFrom(WORKLOAD_RECORD.to_proto(change.record))
    elif change.name:
        message.workload.name = change.name
    return message


def workload_change_from_proto(message: pb.WatchWorkloadsResponse, path: str = "change") -> WorkloadChange:
    """One event of a watch."""
    word = _CHANGE_WORD.get(message.type, str(message.type))
    has_record = word in ("added", "modified")
    record = WORKLOAD_RECORD.from_proto(message.workload, f"{path}.workload") if has_record else None
    raw = {
        "type": word,
        "name": message.workload.name,
        "record": record,
        "resume_token": message.resume_token,
    }
    return validate(WorkloadChange, raw, NAMES, path)


PLANNED_WORKLOAD = Codec(
    PlannedWorkload,
    pb.PlannedWorkload,
    [
        same("workload"),
        choice("state", "state", pb.WorkloadState),
        parts("placements", "placements", PLACEMENT),
        part("explanation", "explanation", EXPLANATION),
        same("it_power_w", "it_power_watts"),
        same("facility_power_w", "facility_power_watts"),
        same("cost_yuan_per_hour"),
        need_micros("rtt_p99_ms", "rtt_p99_micros"),
        parts("warnings", "warnings", WARNING),
    ],
    path="planned",
    output=True,
)

WORKLOADS_PLAN = Codec(
    WorkloadsPlan,
    pb.PlanWorkloadsResponse,
    [
        same("etag"),
        instant("at_s", "plan_time"),
        parts("workloads", "workloads", PLANNED_WORKLOAD),
        parts("moves", "moves", MOVE),
        same("it_power_w", "it_power_watts"),
        same("facility_power_w", "facility_power_watts"),
        same("cost_yuan_per_hour"),
    ],
    path="plan",
    output=True,
)


def workload_from_create(
    request: pb.CreateWorkloadRequest, path: str = "", parent: str = "", alike: _Alike | None = None
) -> Workload:
    """The workload of a create request, its name joined from parent, workload_id and name.

    `path` begins error paths (`requests[3]` in a batch); `parent` stands in for an empty parent of the request;
    `alike` are the workloads of the same batch that came before.

    Raises:
        InvalidRequest: with every problem.
    """
    head = f"{path}." if path else ""
    name, problems = _joined_name(request, head, request.parent or parent)
    if alike is not None and not problems:
        known = alike.named(request.workload, name)
        if known is not None:
            return known
    raw = WORKLOAD.raw(request.workload)
    raw["name"] = name or "tenants/peeled/workloads/peeled"
    try:
        workload = validate(Workload, raw, NAMES, f"{head}workload")
    except InvalidRequest as error:
        raise InvalidRequest([*problems, *error.problems], error.mended) from None
    if problems:
        raise InvalidRequest(problems, workload)
    if alike is not None:
        alike.add(request.workload, workload)
    return workload


class _Alike:
    """Sound workloads of one batch by what the wire says of them beside their names.

    Who submits hundreds at once submits copies of a few: what is told apart by its name alone is read and validated
    once, and of the others the name only. A workload that shares another's stage is read by itself, because whether it
    may depends on its name.
    """

    def __init__(self) -> None:
        self._of_content: dict[bytes, Workload] = {}

    def named(self, message: pb.Workload, name: str) -> Workload | None:
        """The workload of that content under this name; None where it is new, or the name is none."""
        known = self._of_content.get(_content(message))
        if known is None:
            return None
        try:
            sound = _NAME.validate_python(name)
        except ValidationError:
            return None
        return trusted(Workload, {**known.__dict__, "name": sound, "labels": dict(known.labels)})

    def add(self, message: pb.Workload, workload: Workload) -> None:
        """Remember a sound one."""
        if all(stage.shared_with is None for stage in workload.stages):
            self._of_content[_content(message)] = workload


# the one field that tells copies apart, validated as in the workload itself
_NAME: TypeAdapter[str] = TypeAdapter(WorkloadName, config=Value.model_config)


def _content(message: pb.Workload) -> bytes:
    """Everything but the name, equal for equal content: maps in order, unknown fields included."""
    name = message.name
    message.name = ""
    content = message.SerializeToString(deterministic=True)
    message.name = name
    return content


def workloads_from_batch(request: pb.BatchCreateWorkloadsRequest) -> list[Workload]:
    """The workloads of a batch, in order; problems of all items in one error.

    Raises:
        InvalidRequest: with paths like `requests[3].workload.stages[0].cpu_milli`. `mended` is then one per item: the
            workload, sound or mended, or None where that failed.
    """
    problems = _count_problems("requests", len(request.requests))
    out: list[Workload] = []
    readable: list[Workload | None] = []
    alike = _Alike()
    for i, item in enumerate(request.requests):
        try:
            out.append(workload_from_create(item, f"requests[{i}]", request.parent, alike))
            readable.append(out[-1])
        except InvalidRequest as error:
            problems += error.problems
            readable.append(error.mended if isinstance(error.mended, Workload) else None)
        problems += [
            FieldProblem(
                field=f"requests[{i}].{name}",
                problem="is set inside a batch",
                expected=f"{name} of the batch",
            )
            for name in ("validate_only", "request_id", "plan_etag")
            if getattr(item, name)
        ]
    problems += _repeated_names([w.name for w in out])
    if problems:
        raise InvalidRequest(problems, readable)
    return out


def with_impossible(error: InvalidRequest, found: Sequence[FieldProblem]) -> InvalidRequest:
    """The error with what else was found about its mended workloads, less what lies at a field that was mended.

    A value beyond its field's range is told with the most that the fleet takes instead of the field's own.
    """
    told = [_PATH_PARTS.findall(p.field) for p in error.problems]
    at_place = {
        tuple(_PATH_PARTS.findall(path)): p for p in found for path in (p.field, _in_proto_names(p.field))
    }

    def nearer(problem: FieldProblem, place: list[str]) -> FieldProblem:
        of_fleet = at_place.get(tuple(place))
        return (within_fleet(problem, of_fleet) if of_fleet is not None else None) or problem

    def is_told(path: str) -> bool:
        asked = _PATH_PARTS.findall(path)
        return any(known[: len(asked)] == asked or asked[: len(known)] == known for known in told)

    more = [
        p
        for p in found
        if HARMLESS_ID not in str(p) and not is_told(p.field) and not is_told(_in_proto_names(p.field))
    ]
    known_problems = [nearer(p, place) for p, place in zip(error.problems, told, strict=True)]
    return InvalidRequest([*known_problems, *more], error.mended)


def _in_proto_names(path: str) -> str:
    """`requests[0].workload.stages[0].replicas` → `….replica_count`; what lies in no workload stays."""
    head, workload, rest = path.partition("workload.")
    return renamed(Workload, rest, NAMES, f"{head}workload") if workload else path


_PATH_PARTS = re.compile(r"[^.\[\]]+")


def workloads_from_plan(request: pb.PlanWorkloadsRequest) -> list[Workload]:
    """The workloads of a dry run.

    Raises:
        InvalidRequest: with paths like `workloads[3].stages[0].cpu_milli`.
    """
    problems = _count_problems("workloads", len(request.workloads))
    out: list[Workload] = []
    for i, message in enumerate(request.workloads):
        path = f"workloads[{i}]"
        try:
            out.append(WORKLOAD.from_proto(message, path))
        except InvalidRequest as error:
            problems += error.problems
        if request.parent not in ("", ANY_TENANT) and not message.name.startswith(f"{request.parent}/"):
            problems.append(_not_below(f"{path}.name", message.name, request.parent))
    if problems:
        raise InvalidRequest(problems)
    return out


MAX_BATCH_ITEMS = 1000


def _joined_name(request: pb.CreateWorkloadRequest, head: str, parent: str) -> tuple[str, list[FieldProblem]]:
    given = request.workload.name
    if parent != ANY_TENANT and id_problem(parent, "tenants"):
        return given, [
            FieldProblem(
                field=f"{head}parent", problem=f"{parent!r} names no tenant", expected="tenants/{tenant}"
            )
        ]
    if not request.workload_id:
        if not given:
            return "", [FieldProblem(field=f"{head}workload_id", problem="is missing", code="missing")]
        if parent != ANY_TENANT and not given.startswith(f"{parent}/"):
            return given, [_not_below(f"{head}workload.name", given, parent)]
        return given, []
    if parent == ANY_TENANT:
        if given.endswith(f"/workloads/{request.workload_id}"):
            return given, []
        return given, [
            FieldProblem(
                field=f"{head}parent", problem="does not say which tenant", expected="tenants/{tenant}"
            )
        ]
    joined = f"{parent}/workloads/{request.workload_id}"
    if given and given != joined:
        return joined, [
            FieldProblem(
                field=f"{head}workload.name",
                problem=f"{given!r} disagrees with parent and workload_id",
                expected=joined,
                nearest=joined,
            )
        ]
    return joined, []


def id_problem(name: str, collection: str) -> bool:
    """Whether `name` is not `{collection}/{id}`."""
    head, _, last = name.partition("/")
    return head != collection or not last or "/" in last


def _not_below(field: str, given: str, parent: str) -> FieldProblem:
    return FieldProblem(
        field=field, problem=f"{given!r} is not below {parent}", expected=f"{parent}/workloads/{{id}}"
    )


def _count_problems(field: str, count: int) -> list[FieldProblem]:
    if 1 <= count <= MAX_BATCH_ITEMS:
        return []
    return [
        FieldProblem(
            field=field,
            problem=f"has {count} items",
            expected=f"1 to {MAX_BATCH_ITEMS}",
            nearest=show_plain(min(max(count, 1), MAX_BATCH_ITEMS)),
            code="length",
        )
    ]


def _repeated_names(names: list[str]) -> list[FieldProblem]:
    if len(set(names)) == len(names):
        return []
    seen: set[str] = set()
    problems = []
    for i, name in enumerate(names):
        if name in seen:
            problems.append(
                FieldProblem(
                    field=f"requests[{i}].workload.name",
                    problem=f"{name} is in the batch twice",
                    code="duplicate",
                )
            )
        seen.add(name)
    return problems
