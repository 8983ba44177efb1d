"""AIP conformance of the protos, over their descriptors: the rules of docs/api.md that buf does not know."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api import annotations_pb2, field_behavior_pb2, resource_pb2
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from suanli.v1 import (
    errors_pb2,
    fleet_pb2,
    plans_pb2,
    policies_pb2,
    reasons_pb2,
    simulations_pb2,
    telemetry_pb2,
    workloads_pb2,
)
from suanli.v1 import operations_pb2 as our_operations_pb2

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    errors_pb2,
    fleet_pb2,
    our_operations_pb2,
    plans_pb2,
    policies_pb2,
    reasons_pb2,
    simulations_pb2,
    telemetry_pb2,
    workloads_pb2,
]

SUFFIXES = (
    "_count", "_size", "_index", "_indices", "_revision", "_position", "_milli", "_mebibytes", "_gibibytes",
    "_watts", "_joules", "_micros", "_nanos", "_seconds", "_celsius", "_kilometers", "_fraction", "_fractions",
    "_factor", "_megabits_per_second", "_gigabits_per_second", "_counts", "_yuan", "_yuan_per_hour",
    "_yuan_per_gpu", "_yuan_per_gpu_hour", "_yuan_per_kilowatt_hour", "_yuan_per_kilowatt_month",
    "_yuan_per_kilogram", "_yuan_per_gigabyte", "_yuan_per_gigabyte_by_site", "_count_per_hour",
    "_grams_per_kilowatt_hour", "_cap_annual", "_cap_hourly",
)  # fmt: skip
WITHOUT_UNIT = {
    # ratios with a name of their own
    "ipue", "ipue_marginal",
    # identities
    "seed", "revision", "after_revision",
    # values whose unit stands in the field beside them, `unit`
    "limit", "actual", "value", "from_value", "to_value",
}  # fmt: skip
NUMERIC = {
    FieldDescriptor.TYPE_DOUBLE,
    FieldDescriptor.TYPE_FLOAT,
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
}
MUTABLE = {"Workload", "Site", "PolicyRevision", "Fleet", "Run"}
STANDARD_VERBS = ("Get", "List", "Create", "BatchCreate", "Update", "Delete")
CHANGING = re.compile(
    r"^(Create|BatchCreate|Update|Delete|Cancel|Cordon|Uncordon|Drain|Register|Report|Advance|Close)[A-Z]"
)


def methods() -> Iterator[MethodDescriptor]:
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def messages() -> Iterator[Descriptor]:
    for file in FILES:
        yield from file.DESCRIPTOR.message_types_by_name.values()


def fields() -> Iterator[FieldDescriptor]:
    for message in messages():
        yield from message.fields


def extension(of: Any, which: Any) -> Any:
    """An option of a descriptor, or None; repeated ones are empty without it."""
    options = of.GetOptions()
    if not which.is_repeated and not options.HasExtension(which):
        return None
    return options.Extensions[which]


def behaviours(field: FieldDescriptor) -> set[str]:
    given = extension(field, field_behavior_pb2.field_behavior)
    return {field_behavior_pb2.FieldBehavior.Name(b) for b in given}


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def map_value(field: FieldDescriptor) -> FieldDescriptor:
    assert field.message_type is not None
    return field.message_type.fields_by_name["value"]


def resource(message: Descriptor) -> Any:
    return extension(message, resource_pb2.resource)


def ids(item: Any) -> str:
    return item.full_name.removeprefix("suanli.v1.")


ALL_METHODS, ALL_MESSAGES, ALL_FIELDS = list(methods()), list(messages()), list(fields())


def test_the_six_services_are_there():
    services = {m.containing_service.name for m in ALL_METHODS}
    assert services == {
        f"{s}Service" for s in ("Workloads", "Fleet", "Policies", "Plans", "Simulations", "Operations")
    }


def test_method_names_differ_over_all_services():
    names = [m.name for m in ALL_METHODS]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("method", [m for m in ALL_METHODS if m.name.startswith("List")], ids=ids)
def test_lists_are_paged(method: MethodDescriptor):
    request, response = method.input_type.fields_by_name, method.output_type.fields_by_name
    assert request["page_size"].type == FieldDescriptor.TYPE_INT32
    assert request["page_token"].type == FieldDescriptor.TYPE_STRING
    assert response["next_page_token"].type == FieldDescriptor.TYPE_STRING
    first = method.output_type.fields_by_number[1]
    assert first.is_repeated
    assert method.name == "List" + "".join(part.capitalize() for part in first.name.split("_"))


@pytest.mark.parametrize("method", [m for m in ALL_METHODS if re.match("(Batch)?Create", m.name)], ids=ids)
def test_creates_can_be_repeated_and_rehearsed(method: MethodDescriptor):
    request = method.input_type.fields_by_name
    assert {"request_id", "validate_only"} <= set(request)
    # a run is a resource without parent
    assert "parent" in request or method.name == "CreateRun"


def test_updates_have_a_mask():
    for method in ALL_METHODS:
        if method.name.startswith("Update"):
            mask: Any = method.input_type.fields_by_name["update_mask"].message_type
            assert mask.full_name == "google.protobuf.FieldMask"


@pytest.mark.parametrize("method", [m for m in ALL_METHODS if CHANGING.match(m.name)], ids=ids)
def test_what_changes_something_takes_a_request_id(method: MethodDescriptor):
    assert "request_id" in method.input_type.fields_by_name


@pytest.mark.parametrize("method", [m for m in ALL_METHODS if m.name.startswith("Get")], ids=ids)
def test_gets_take_a_name(method: MethodDescriptor):
    assert behaviours(method.input_type.fields_by_name["name"]) == {"REQUIRED"}


@pytest.mark.parametrize("method", [m for m in ALL_METHODS if m.name.startswith("Watch")], ids=ids)
def test_watches_stream_and_resume(method: MethodDescriptor):
    proto = descriptor_pb2.MethodDescriptorProto()
    method.CopyToProto(proto)
    assert proto.server_streaming and not proto.client_streaming
    assert "resume_token" in method.input_type.fields_by_name
    assert "resume_token" in method.output_type.fields_by_name


@pytest.mark.parametrize("method", [m for m in ALL_METHODS if m.name.startswith("Drain")], ids=ids)
def test_long_work_is_an_operation_with_known_metadata(method: MethodDescriptor):
    assert method.output_type.full_name == "google.longrunning.Operation"
    info = extension(method, operations_pb2.operation_info)
    known = {m.name for m in ALL_MESSAGES}
    assert info.metadata_type == "OperationMetadata"
    assert info.response_type in known


@pytest.mark.parametrize("method", ALL_METHODS, ids=ids)
def test_custom_verbs_stand_after_a_colon(method: MethodDescriptor):
    rule = extension(method, annotations_pb2.http)
    path = rule.get or rule.post
    assert path.startswith("/v1/")
    verb = path.rpartition(":")[2] if re.search(r":[a-zA-Z]+$", path) else ""
    if method.name.startswith(STANDARD_VERBS):
        assert verb in ("", "batchCreate")
    else:
        assert verb and method.name.lower().startswith(verb.lower())


@pytest.mark.parametrize("message", [m for m in ALL_MESSAGES if resource(m)], ids=ids)
def test_resources_have_a_name_and_the_mutable_ones_a_history(message: Descriptor):
    assert behaviours(message.fields_by_name["name"]) == {"IDENTIFIER"}
    assert resource(message).type == f"suanli.dev/{message.name}"
    if message.name in MUTABLE:
        for history in ("etag", "create_time", "update_time"):
            assert behaviours(message.fields_by_name[history]) == {"OUTPUT_ONLY"}


def test_every_mutable_resource_is_there():
    assert {m.name for m in ALL_MESSAGES if resource(m)} >= MUTABLE


@pytest.mark.parametrize("message", ALL_MESSAGES, ids=ids)
def test_every_field_says_how_it_behaves(message: Descriptor):
    silent = [f.name for f in message.fields if not behaviours(f)]
    assert silent == []


@pytest.mark.parametrize("message", [m for m in ALL_MESSAGES if m.name.endswith("Response")], ids=ids)
def test_responses_are_output(message: Descriptor):
    assert [f.name for f in message.fields if "OUTPUT_ONLY" not in behaviours(f)] == []


def test_numbers_carry_their_unit():
    scalars = [f for f in ALL_FIELDS if f.type in NUMERIC]
    maps = [f for f in ALL_FIELDS if is_map(f) and map_value(f).type in NUMERIC]
    bare = [
        f.full_name for f in (*scalars, *maps) if not f.name.endswith(SUFFIXES) and f.name not in WITHOUT_UNIT
    ]
    assert bare == []


def test_a_value_without_a_unit_in_its_name_has_one_beside_it():
    for field in ALL_FIELDS:
        if field.name in ("limit", "actual", "value", "from_value", "to_value") and field.type in NUMERIC:
            holder: Any = field.containing_type
            assert "unit" in holder.fields_by_name


def test_pue_is_never_bare_and_always_double():
    for field in ALL_FIELDS:
        if "pue" in field.name.split("_") or "ipue" in field.name.split("_"):
            assert field.type == FieldDescriptor.TYPE_DOUBLE
            assert re.search(r"ipue|pue_annual|pue_cap_", field.name)


def test_instants_and_durations_say_so():
    for field in ALL_FIELDS:
        kind = field.message_type.full_name if field.message_type is not None else ""
        if kind == "google.protobuf.Timestamp":
            assert field.name.endswith("_time"), field.full_name
        elif kind == "google.protobuf.Duration":
            assert field.name.endswith("_duration"), field.full_name
        elif field.name.endswith(("_time", "_duration")):
            pytest.fail(f"{field.full_name} is {kind or 'a scalar'}")


def test_states_are_output_only():
    for field in ALL_FIELDS:
        if field.name == "state" and field.enum_type is not None:
            assert "OUTPUT_ONLY" in behaviours(field), field.full_name


def test_references_say_what_they_refer_to():
    referring = {"parent", "site", "sites", "from_site", "to_site", "workload", "shared_with", "unreachable"}
    silent = [
        f.full_name
        for f in ALL_FIELDS
        if f.name in referring
        and f.type == FieldDescriptor.TYPE_STRING
        and extension(f, resource_pb2.resource_reference) is None
    ]
    assert silent == []


def test_every_rpc_message_and_field_has_a_comment(tmp_path: Path):
    """buf asks for comments too; here the protos are read without it, as anybody would."""
    out = tmp_path / "set.binpb"
    protos = sorted(str(p.relative_to(ROOT / "protos")) for p in (ROOT / "protos/suanli/v1").glob("*.proto"))
    arguments = [
        f"-I{ROOT / 'protos'}",
        f"-I{ROOT / 'protos/vendor'}",
        "--include_source_info",
    ]
    # a process of its own: protoc's C++ and that of OR-Tools corrupt each other's memory within one
    command = [sys.executable, "-m", "grpc_tools.protoc", *arguments, f"--descriptor_set_out={out}", *protos]
    assert subprocess.run(command, check=False).returncode == 0
    files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    assert len(files) == len(protos)
    for file in files:
        commented = {
            tuple(loc.path) for loc in file.source_code_info.location if loc.leading_comments.strip()
        }
        for s, service in enumerate(file.service):
            for m, method in enumerate(service.method):
                assert (6, s, 2, m) in commented, method.name
        for i, message in enumerate(file.message_type):
            for f, field in enumerate(message.field):
                assert (4, i, 2, f) in commented, f"{message.name}.{field.name}"
