"""Generalised assignment: every job on one agent, agents with a capacity, at least cost.

    python -m benchmarks.gap FILE --seconds 30 --out SOL [--json]

FILE (may be .gz): m n / m rows of n costs / m rows of n loads / m capacities. Without --seconds the search ends by work
limits and is deterministic.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.assignment import Instance, read_numbers, run, sizes, whole


def read_gap(path: Path) -> Instance:
    """An instance; InstanceError says what is wrong with the file."""
    numbers = read_numbers(path)
    bins, jobs = sizes(path, numbers, lambda m, n: 2 * m * n + m)
    cost, load, capacity = np.split(numbers[2:], [bins * jobs, 2 * bins * jobs])
    return Instance(
        name=path.name.split(".")[0],
        cost=cost.reshape(bins, jobs),
        load=whole(path, "loads", load).reshape(bins, jobs),
        capacity=whole(path, "capacities", capacity),
        fixed=np.zeros(bins),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return run(argv, "gap", "Solve a generalised assignment problem with a proven bound.", read_gap)


if __name__ == "__main__":
    sys.exit(main())
