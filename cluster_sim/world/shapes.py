"""Levels over the day, stairs under them, and fair rounding of counts.

level_at            level of a shape at a local hour, straight lines between its points, round the clock
stairs              layers of constant height that cover a changing count
fair_counts         integers with a given sum, nearest to given shares (largest remainder)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from suanli.model.units import HOURS_PER_DAY


def level_at(points: Mapping[int, float], hour: float) -> float:
    """Level at a local hour (any real number; the day repeats)."""
    hour %= HOURS_PER_DAY
    known = sorted(points)
    if len(known) == 1:
        return points[known[0]]
    after = next((h for h in known if h > hour), known[0] + HOURS_PER_DAY)
    before = max((h for h in known if h <= hour), default=known[-1] - HOURS_PER_DAY)
    low, high = points[before % HOURS_PER_DAY], points[after % HOURS_PER_DAY]
    return low + (high - low) * (hour - before) / (after - before)


def hourly_levels(points: Mapping[int, float]) -> tuple[float, ...]:
    """The 24 levels in the middle of the local hours."""
    return tuple(level_at(points, hour + 0.5) for hour in range(HOURS_PER_DAY))


@dataclass(frozen=True, slots=True)
class Step:
    """`count` more from `from_hour` until `until_hour`; a base step lasts the whole day."""

    count: int
    from_hour: int
    until_hour: int

    @property
    def is_base(self) -> bool:
        """Never switched off."""
        return self.until_hour - self.from_hour >= HOURS_PER_DAY


def stairs(counts: Sequence[int], layer_count: int) -> list[Step]:
    """Steps that cover `counts` (one per hour) in at most `layer_count` layers over the smallest count.

    A layer stands in every hour whose count exceeds the layer below, so the sum of steps is never under `counts`.
    """
    base, peak = min(counts), max(counts)
    steps = [Step(base, 0, HOURS_PER_DAY)] if base else []
    edges = [base + round((peak - base) * k / layer_count) for k in range(layer_count + 1)]
    for below, top in pairwise(edges):
        if top > below:
            steps += [Step(top - below, first, last) for first, last in _runs([c > below for c in counts])]
    return steps


def _runs(active: Sequence[bool]) -> list[tuple[int, int]]:
    """Maximal runs of True as (first hour, hour after the last)."""
    runs: list[tuple[int, int]] = []
    start: int | None = None
    for hour, on in enumerate([*active, False]):
        if on and start is None:
            start = hour
        elif not on and start is not None:
            runs.append((start, hour))
            start = None
    return runs


def fair_counts(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Integers that sum to `total`, as near as possible to `shares` (any scale); ties go to the first name."""
    weight = sum(shares.values())
    if weight <= 0 or total <= 0:
        return dict.fromkeys(shares, 0)
    exact = {name: total * share / weight for name, share in shares.items()}
    counts = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    order = sorted(shares, key=lambda name: counts[name] - exact[name])
    for name in order[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
