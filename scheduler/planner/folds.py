"""Folds: specs that a horizon plan may count together, because they may lie in the same groups and need alike.

A day has thousands of shapes that differ in replica counts, start-up or a few cores; the plan needs a few hundred
classes. Sizes within a fold differ by at most a factor of four; the plan counts a fold at the mean size of its rows, so
capacity adds up exactly and only the packing of single nodes sees the difference.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from scheduler.planner.feasibility import SpecView, Views

LIGHT_FLOW_MBPS = 10.0
"""Flows below this load no link noticeably: folds need not agree on where such users sit."""
SIZE_STEP = 4.0
"""CPU-only needs fold within a factor of this."""


class Folds:
    """Fold numbers in the order in which specs were interned, so that a restart gives the same ones; a cache."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._fold_of: list[int] = []
        self._members: list[list[int]] = []
        self._by_key: dict[tuple[object, ...], int] = {}

    def of(self, spec: int) -> int:
        """Fold of a spec."""
        while len(self._fold_of) <= spec:
            new = len(self._fold_of)
            fold = self._by_key.setdefault(fold_key(self._views[new]), len(self._by_key))
            self._fold_of.append(fold)
            if fold == len(self._members):
                self._members.append([])
            self._members[fold].append(new)
        return self._fold_of[spec]

    def all(self, spec_count: int) -> NDArray[np.int64]:
        """(specs,) fold of each of the first `spec_count` specs."""
        if spec_count:
            self.of(spec_count - 1)
        return np.array(self._fold_of[:spec_count], np.int64)

    def members(self, spec: int, spec_count: int) -> list[int]:
        """Specs of the same fold among the first `spec_count`."""
        self.all(spec_count)
        return [s for s in self._members[self.of(spec)] if s < spec_count]


_FOLDS: WeakKeyDictionary[Views, Folds] = WeakKeyDictionary()


def folds_of(views: Views) -> Folds:
    """The folds of these views; kept as long as they are."""
    known = _FOLDS.get(views)
    if known is None:
        known = _FOLDS[views] = Folds(views)
    return known


def fold_key(view: SpecView) -> tuple[object, ...]:
    """A stage of a graph folds with nothing but itself; GPU needs count exactly, others by powers of four.

    What takes no GPU folds with and without an end: the plan counts demand by the hour.
    """
    workload, stage = view.spec.workload, view.spec.stage
    if len(workload.stages) > 1:
        return ("graph", view.spec.spec)
    size = (stage.cpu_milli, stage.memory_mib)
    if not stage.gpu_milli:
        size = (_step(stage.cpu_milli), _step(stage.memory_mib))
    heavy = tuple(
        sorted(
            (f.source, f.target, f.access_id, f.mbps)
            for f in workload.flows
            if f.mbps >= LIGHT_FLOW_MBPS and "zones/" in f.source + f.target
        )
    )
    return (
        view.group_ok.tobytes(),
        workload.priority_class.rank,
        workload.deferrable,
        workload.lateness_yuan_per_gpu_hour,
        tuple(stage.gpu_milli.items()),
        stage.gpu_memory_mib,
        size,
        stage.storage_gib,
        round(stage.utilization_frac, 2),
        stage.gang,
        stage.is_service or not stage.gpu_milli,
        heavy,
    )


def _step(amount: int) -> int:
    return int(np.ceil(np.log2(max(amount, 1)) / np.log2(SIZE_STEP)))
