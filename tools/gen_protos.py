"""Generate the Python side of the wire contract.

Each ``protos/suanli/v1/NAME.proto`` gives ``NAME_pb2`` and, when it has a service, ``NAME_pb2_grpc`` in
``suanli/v1``, as ``.py`` and ``.pyi``.

The result is committed, so that nobody needs a compiler to use the client;
``tests/unit/test_repo_protos_fresh.py`` regenerates it and compares bytes. Modules of ``google.api``,
``google.rpc`` and ``google.longrunning`` are not generated: they come with googleapis-common-protos.

    python tools/gen_protos.py              rewrite suanli/v1
    python tools/gen_protos.py --check      write nothing, exit 1 when suanli/v1 is not what the protos say
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("suanli/v1")
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


class GenerationError(RuntimeError):
    """The protos cannot be compiled; the message is what protoc said."""


def proto_files(proto_root: Path) -> list[str]:
    """The project's own .proto files, relative to ``proto_root`` and sorted.

    Raises:
        GenerationError: when there is none.
    """
    files = sorted(path.relative_to(proto_root).as_posix() for path in (proto_root / PACKAGE).glob("*.proto"))
    if not files:
        raise GenerationError(f"no .proto file in {proto_root / PACKAGE}")
    return files


def generated_files(root: Path) -> dict[str, bytes]:
    """Name -> bytes of every generated module below ``root / suanli/v1``."""
    folder = root / PACKAGE
    return {path.name: path.read_bytes() for pattern in GENERATED for path in sorted(folder.glob(pattern))}


def generate(proto_root: Path, out: Path) -> None:
    """Compile all protos below ``proto_root`` into ``out / suanli/v1``.

    Raises:
        GenerationError: when protoc refuses a file.
    """
    files = proto_files(proto_root)
    with_service = [name for name in files if _declares_service(proto_root / name)]
    out.mkdir(parents=True, exist_ok=True)
    _protoc(proto_root, files, f"--python_out={out}", f"--mypy_out=quiet:{out}")
    if with_service:
        _protoc(proto_root, with_service, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}")


def differences(expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """One line per module that is missing, left over or different; empty when both sides agree."""
    lines = [f"missing   {name}" for name in sorted(expected.keys() - found.keys())]
    lines += [f"left over {name}" for name in sorted(found.keys() - expected.keys())]
    lines += [
        f"differs   {name}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]
    return lines


def _declares_service(path: Path) -> bool:
    return re.search(r"^service\s+\w+", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def _protoc(proto_root: Path, files: list[str], *outputs: str) -> None:
    scripts = Path(sys.executable).parent
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto_root}", f"-I{proto_root / 'vendor'}"]
    command += [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    # str hashes decide nothing in the output today; pinned so that they never do
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [*command, *outputs, *files], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode != 0:
        raise GenerationError(done.stderr.strip() or f"protoc ended with {done.returncode}")


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only, change nothing")
    check_only = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        try:
            generate(ROOT / "protos", Path(scratch))
        except GenerationError as error:
            print(error, file=sys.stderr)
            return 1
        fresh = generated_files(Path(scratch))
    changes = differences(fresh, generated_files(ROOT))
    if check_only:
        print("\n".join(changes) or "suanli/v1 is fresh")
        return 1 if changes else 0
    target = ROOT / PACKAGE
    target.mkdir(parents=True, exist_ok=True)
    for name in generated_files(ROOT).keys() - fresh.keys():
        (target / name).unlink()
    for name, content in fresh.items():
        (target / name).write_bytes(content)
    marker = target / "__init__.py"
    if not marker.exists():
        marker.write_text(
            '"""Modules generated from protos/suanli/v1 by `make protos`; never edited by hand."""\n'
        )
    print("\n".join(changes) or "nothing to change")
    return 0


if __name__ == "__main__":
    sys.exit(main())
