"""What every benchmark prints alike: the machine, tables, the last JSON line; and how it refuses bad arguments."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

EXIT_FAILED = 1
"""A check failed: what was measured is not a correct answer."""
EXIT_BAD_INPUT = 2
DATA_VARIABLE = "SUANLI_BENCH_DATA"
"""Folder with the yardsticks' data, one sub-folder per set."""


def machine_line() -> str:
    """One line: cores, processor, Python and numpy."""
    cores = os.cpu_count() or 1
    return f"{cores} cores, {_processor()}, Python {platform.python_version()}, numpy {np.__version__}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: the generic name below says enough
    return platform.processor() or platform.machine()


def bench_data(name: str) -> Path | None:
    """Folder of one set below SUANLI_BENCH_DATA; None when the variable is unset."""
    root = os.environ.get(DATA_VARIABLE)
    return Path(root) / name if root else None


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns padded to their widest cell; the first is left aligned, the others right."""
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = [
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def print_json(result: Mapping[str, object]) -> None:
    """The last line of --json output: one object."""
    print(json.dumps(result, sort_keys=True), flush=True)


def refuse(message: str) -> int:
    """Say what is wrong with the input; returns the exit code for it."""
    print(message, file=sys.stderr)
    return EXIT_BAD_INPUT


def positive_int(text: str) -> int:
    """Argument type: a whole number above 0."""
    if not (text.isascii() and text.isdecimal()) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def seed_range(text: str) -> tuple[int, ...]:
    """Argument type: "42-51", "42,43" or a mix."""
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or (dash and int(high) < int(low)):
            raise argparse.ArgumentTypeError(f"{part!r} is neither a seed nor a range like 42-51")
        seeds.extend(range(int(low), int(high or low) + 1))
    return tuple(seeds)
