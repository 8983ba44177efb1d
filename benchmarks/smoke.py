"""`python -m benchmarks.smoke`: every benchmark once at its smallest size; it asks only whether answers are right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMANDS = {
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


def main() -> int:
    """Run them one after the other; the exit code is 1 if any failed."""
    data = os.environ.get("SUANLI_BENCH_DATA")
    commands = dict(COMMANDS)
    if data:
        commands["openb"] = ["-m", "benchmarks.openb", "--family", str(Path(data) / "openb"), "--seeds", "42"]
    else:
        print("openb: skipped, SUANLI_BENCH_DATA is not set")
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
