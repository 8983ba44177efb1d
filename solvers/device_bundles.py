"""Shares of devices packed into whole devices before nodes are filled.

A share leaves the rest of its device to other shares. Where nodes are filled shape by shape, each evenly over all
nodes, every node ends with a device or two that is nearly full and that nothing fits on any more: on full groups a
tenth of the devices that shares lie on. So the shares of a group are first packed into bundles, each one device; a
bundle then is a shape like any other that asks for a whole device, and nodes see nothing of the shares in it.

One bundle after the other, by the minimum bin slack rule (Gupta and Ho 1999): the largest share that waits, and with it
those that together leave least of the device free, larger ones preferred. A bundle is made as often as its shares last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from solvers.archive import IntArray
from solvers.problem import MILLI_PER_GPU

SEARCH_STEPS = 200
"""Partial bundles looked at for one bundle; a device that is full ends the search, which is the rule."""
WORTH_FILL = 0.9
"""The last shares of a group, if they fill less of a device than this, stay single: they may fit beside others."""

Bundle = tuple[tuple[tuple[int, int], ...], int]
"""((shape, how many of it), …) and how often."""


def by_group(rows: IntArray, group: IntArray) -> Iterator[tuple[int, IntArray]]:
    """(group, its rows) for group[n] of rows[n], groups ascending."""
    order = np.argsort(group, kind="stable")
    groups, first = np.unique(group[order], return_index=True)
    ends = [*first[1:].tolist(), len(rows)][: len(groups)]
    for g, a, b in zip(groups.tolist(), first.tolist(), ends, strict=True):
        yield g, rows[order[a:b]]


def device_bundles(milli: Sequence[int], count: Sequence[int]) -> list[Bundle]:
    """Bundles of at most one device each, of count[i] shares of milli[i] of a device; shapes are named by position.

    What is left over is in no bundle: the last shares, where they fill little of a device.
    """
    order = sorted(range(len(milli)), key=lambda i: (-milli[i], i))
    size, left = [milli[i] for i in order], [count[i] for i in order]
    out: list[Bundle] = []
    largest = 0
    while True:
        while largest < len(left) and left[largest] == 0:
            largest += 1
        if largest == len(left):
            return out
        taken, free = _fullest(size, left, largest)
        times = min(left[i] // n for i, n in taken)
        for i, n in taken:
            left[i] -= n * times
        if not any(left) and times == 1 and free > (1 - WORTH_FILL) * MILLI_PER_GPU:
            return out
        out.append((tuple((order[i], n) for i, n in taken), times))


def _fullest(size: list[int], left: list[int], largest: int) -> tuple[list[tuple[int, int]], int]:
    """(shapes with counts, milli left free) of the fullest device that holds one of the largest shape."""
    best: list[tuple[int, int]] = []
    best_free, steps = MILLI_PER_GPU + 1, 0
    taken: list[int] = [0] * len(size)

    def extend(i: int, free: int) -> None:
        nonlocal best, best_free, steps
        steps += 1
        if free < best_free:
            best_free = free
            best = [(j, n) for j, n in enumerate(taken) if n]
        while i < len(size) and (left[i] == taken[i] or size[i] > free):
            i += 1
        if i == len(size):
            return
        held = taken[i]
        for n in range(min(left[i] - held, free // size[i]), -1, -1):
            if best_free == 0 or steps >= SEARCH_STEPS:
                break
            taken[i] = held + n
            extend(i + 1, free - n * size[i])
        taken[i] = held

    taken[largest] = 1
    extend(largest, MILLI_PER_GPU - size[largest])
    return best, best_free
