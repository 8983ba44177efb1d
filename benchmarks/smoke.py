"""`python -m benchmarks.smoke`: every benchmark once at its smallest size; it asks only whether answers are right."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import instances

SMALL_FLEET = ["--replicas", "12000", "--nodes", "1200", "--sites", "20", "--classes", "120"]
COMMANDS = {
    "bulk": ["-m", "benchmarks.bulk", *SMALL_FLEET],
    "bulk on Ray": ["-m", "benchmarks.bulk", *SMALL_FLEET, "--ray", "--workers", "1"],
    "replan": ["-m", "benchmarks.replan", *SMALL_FLEET, "--changes", "5"],
    "plan": ["-m", "benchmarks.plan", "--classes", "40", "--scale", "0.1"],
    "model_error": ["-m", "benchmarks.model_error", "--classes", "40"],
    "pipelines": [
        "-m",
        "benchmarks.pipelines",
        "--small",
        "3",
        "--sites",
        "6",
        "--graphs",
        "4",
        "--twins",
        "24",
    ],
    "service": ["-m", "benchmarks.service", "--quick"],
    "explain": ["-m", "benchmarks.explain", "--nodes", "400", "--sites", "10"],
}
INSTANCES = {
    "gap": ["gap", "--kind", "D", "--bins", "5", "--jobs", "50"],
    "sscflp": ["sscflp", "--bins", "10", "--jobs", "30"],
}
"""Solved within 5 s each: a random instance for the command of that name."""


def main() -> int:
    """Run them one after the other; the exit code is 1 if any failed."""
    data = os.environ.get("SUANLI_BENCH_DATA")
    commands = dict(COMMANDS)
    if data:
        commands["openb"] = ["-m", "benchmarks.openb", "--family", str(Path(data) / "openb"), "--seeds", "42"]
    else:
        print("openb: skipped, SUANLI_BENCH_DATA is not set")
    with tempfile.TemporaryDirectory() as folder:
        for name, recipe in INSTANCES.items():
            file = str(Path(folder) / f"{name}.txt")
            instances.main([*recipe, "--out", file])
            commands[name] = ["-m", f"benchmarks.{name}", file, "--seconds", "5"]
        failed = [
            name
            for name, arguments in commands.items()
            if subprocess.run([sys.executable, *arguments]).returncode
        ]
    for name in commands:
        print(f"{name}: {'FAILED' if name in failed else 'right'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
