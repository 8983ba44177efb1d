"""suanli/v1 is what the protos say, and the compiler script notices when it is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.gen_protos import GenerationError, differences, generate, generated_files, proto_files

ROOT = Path(__file__).resolve().parents[2]

TINY = """
syntax = "proto3";
package suanli.v1;
import "google/longrunning/operations.proto";
import "google/api/field_behavior.proto";
message Thing { string name = 1 [(google.api.field_behavior) = REQUIRED]; }
service ThingService { rpc DrainThing(Thing) returns (google.longrunning.Operation); }
"""


@pytest.fixture
def tiny_protos(tmp_path: Path) -> Path:
    """A proto root with one service and one file of messages only, beside the vendored protos."""
    root = tmp_path / "protos"
    (root / "suanli" / "v1").mkdir(parents=True)
    (root / "vendor").symlink_to(ROOT / "protos" / "vendor")
    (root / "suanli" / "v1" / "thing.proto").write_text(TINY)
    (root / "suanli" / "v1" / "plain.proto").write_text(
        'syntax = "proto3";\npackage suanli.v1;\nmessage Plain {}\n'
    )
    return root


def test_committed_modules_equal_regenerated_ones(tmp_path):
    generate(ROOT / "protos", tmp_path)
    assert differences(generated_files(tmp_path), generated_files(ROOT)) == []


def test_every_proto_has_a_module():
    expected = {Path(name).stem + "_pb2.py" for name in proto_files(ROOT / "protos")}
    assert expected <= generated_files(ROOT).keys()


def test_only_files_with_a_service_get_grpc_modules(tiny_protos, tmp_path):
    generate(tiny_protos, tmp_path / "out")
    assert sorted(generated_files(tmp_path / "out")) == [
        "plain_pb2.py",
        "plain_pb2.pyi",
        "thing_pb2.py",
        "thing_pb2.pyi",
        "thing_pb2_grpc.py",
        "thing_pb2_grpc.pyi",
    ]


def test_generated_modules_import_with_the_packaged_google_protos(tiny_protos, tmp_path):
    generate(tiny_protos, tmp_path / "out")
    # the real package is imported from elsewhere: the tiny one stands first in a process of its own
    (tmp_path / "out" / "suanli" / "__init__.py").touch()
    (tmp_path / "out" / "suanli" / "v1" / "__init__.py").touch()
    code = (
        "from suanli.v1 import thing_pb2, thing_pb2_grpc\n"
        "from google.longrunning import operations_pb2\n"
        "method = thing_pb2.DESCRIPTOR.services_by_name['ThingService'].methods_by_name['DrainThing']\n"
        "assert method.output_type.full_name == operations_pb2.Operation.DESCRIPTOR.full_name\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path / "out",
        env={"PYTHONPATH": str(tmp_path / "out")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_broken_proto_is_reported_with_its_line(tiny_protos, tmp_path):
    (tiny_protos / "suanli" / "v1" / "plain.proto").write_text('syntax = "proto3";\nmessage {}\n')
    with pytest.raises(GenerationError, match=r"plain\.proto:2"):
        generate(tiny_protos, tmp_path / "out")


def test_a_folder_without_protos_is_an_error(tmp_path):
    with pytest.raises(GenerationError, match=r"no \.proto file"):
        proto_files(tmp_path)


def test_differences_name_missing_left_over_and_changed():
    assert differences({"a": b"1", "b": b"2"}, {"b": b"3", "c": b"4"}) == [
        "missing   a",
        "left over c",
        "differs   b",
    ]
