"""Single-source capacitated facility location: every customer served by one open site, sites with a fixed cost.

    python -m benchmarks.sscflp FILE --seconds 60 --out SOL [--json]

FILE (may be .gz): m n / m lines "capacity fixed cost" / n demands / m rows of n costs of serving all of a customer's
demand from the site. Without --seconds the search ends by work limits and is deterministic.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.assignment import Instance, InstanceError, read_numbers, run, sizes, whole


def read_sscflp(path: Path) -> Instance:
    """An instance; InstanceError says what is wrong with the file."""
    numbers = read_numbers(path)
    bins, jobs = sizes(path, numbers, lambda m, n: 2 * m + n + m * n)
    sites, demand, cost = np.split(numbers[2:], [2 * bins, 2 * bins + jobs])
    if (sites[1::2] < 0).any():
        raise InstanceError(f"{path}: a fixed cost is negative")
    return Instance(
        name=path.name.split(".")[0],
        cost=cost.reshape(bins, jobs),
        load=np.tile(whole(path, "demands", demand), (bins, 1)),
        capacity=whole(path, "capacities", sites[0::2]),
        fixed=sites[1::2],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return run(
        argv, "sscflp", "Solve a single-source facility location problem with a proven bound.", read_sscflp
    )


if __name__ == "__main__":
    sys.exit(main())
