"""v1 only grows: `buf breaking` against the committed image, and a proof that it would notice."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BREAKS = 100


def breaking(buf: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [buf, "breaking", "protos", "--against", str(ROOT / "protos/baseline.binpb")]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_nothing_of_the_baseline_is_broken(require_tool: Callable[[str], str]):
    done = breaking(require_tool("buf"), ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_field_that_goes_is_noticed(require_tool: Callable[[str], str], tmp_path: Path):
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    workloads = tmp_path / "protos/suanli/v1/workloads.proto"
    text = workloads.read_text()
    assert text.count("  bool gang = 9") == 1
    workloads.write_text("\n".join(line for line in text.splitlines() if "bool gang = 9" not in line))
    done = breaking(require_tool("buf"), tmp_path)
    assert done.returncode == BREAKS
    assert '"9"' in done.stdout and "gang" in done.stdout
