"""Instances by the recipes of the published sets, for sizes and seeds that nobody tuned on.

    python -m benchmarks.instances gap --kind D --bins 20 --jobs 200 --seed 1 --out d20200-1.txt
    python -m benchmarks.instances sscflp --bins 30 --jobs 200 --seed 1 --out h30200-1.txt

Generalised assignment, types C, D and E: Chu and Beasley (1997), Laguna et al. (1995), as Yagiura, Ibaraki and Glover
(2004) state them. Facility location: points in the unit square, demands 5..35, cost of serving 10 · distance · demand,
total capacity `--ratio` times total demand, fixed costs with returns to scale: Cornuejols, Sridharan and Thizy (1991).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import positive_int
from solvers.archive import FloatArray, IntArray

GAP_KINDS = ("C", "D", "E")
TIGHTNESS = 0.8
"""Capacity of an agent as a share of the mean load, were all jobs dealt evenly (types C, D, E)."""


def generalised_assignment(
    kind: str, bins: int, jobs: int, generator: np.random.Generator
) -> tuple[IntArray, IntArray, IntArray]:
    """Costs [m, n], loads [m, n] and capacities [m]; D and E have costs that fall as loads rise."""
    shape = (bins, jobs)
    if kind == "C":
        load, cost = generator.integers(5, 26, shape), generator.integers(10, 51, shape)
    elif kind == "D":
        load = generator.integers(1, 101, shape)
        cost = 111 - load + generator.integers(-10, 11, shape)
    elif kind == "E":
        exact = 1 - 10 * np.log(1 - generator.random(shape))
        load = np.floor(exact).astype(np.int64)
        cost = np.maximum(np.floor(1000 / exact - 10 * generator.random(shape)), 1).astype(np.int64)
    else:
        raise ValueError(f"kind {kind!r} is none of {', '.join(GAP_KINDS)}")
    capacity = np.floor(TIGHTNESS * load.sum(axis=1) / bins).astype(np.int64)
    return cost, load, capacity


def facility_location(
    bins: int, jobs: int, ratio: float, generator: np.random.Generator
) -> tuple[FloatArray, FloatArray, IntArray, IntArray]:
    """Costs of serving [m, n], fixed costs [m], demands [n] and capacities [m]; money in whole hundredths."""
    site, customer = generator.random((bins, 2)), generator.random((jobs, 2))
    distance = np.hypot(*(site[:, None, :] - customer[None, :, :]).transpose(2, 0, 1))
    demand = generator.integers(5, 36, jobs)
    share = generator.integers(10, 161, bins)
    capacity = np.ceil(share * ratio * demand.sum() / share.sum()).astype(np.int64)
    fixed = generator.integers(0, 91, bins) + generator.integers(100, 111, bins) * np.sqrt(capacity)
    return np.round(10 * distance * demand, 2), np.round(fixed, 2), demand, capacity


def gap_text(cost: IntArray, load: IntArray, capacity: IntArray) -> str:
    """The file that `benchmarks.gap` reads."""
    rows = [cost.shape, *cost.tolist(), *load.tolist(), capacity.tolist()]
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)


def sscflp_text(cost: FloatArray, fixed: FloatArray, demand: IntArray, capacity: IntArray) -> str:
    """The file that `benchmarks.sscflp` reads."""
    sites = zip(capacity.tolist(), fixed.tolist(), strict=True)
    rows = [cost.shape, *sites, demand.tolist(), *cost.tolist()]
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instances", description="Write a random instance."
    )
    parser.add_argument("family", choices=("gap", "sscflp"))
    parser.add_argument("--kind", choices=GAP_KINDS, default="D", help="type of a gap instance")
    parser.add_argument("--bins", type=positive_int, required=True, help="agents or sites")
    parser.add_argument("--jobs", type=positive_int, required=True, help="jobs or customers")
    parser.add_argument("--ratio", type=float, default=3.0, help="sscflp: total capacity over total demand")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    generator = np.random.default_rng(args.seed)
    if args.family == "gap":
        text = gap_text(*generalised_assignment(args.kind, args.bins, args.jobs, generator))
    else:
        text = sscflp_text(*facility_location(args.bins, args.jobs, args.ratio, generator))
    args.out.write_text(text, encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
