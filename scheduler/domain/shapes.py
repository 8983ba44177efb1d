"""Shapes: what many workloads have in common, interned once; a spec is one stage of one shape.

A shape is the workload document without name, texts, windows and durations; a day of thousands of submissions has a few
hundred of them, so everything that depends on the shape alone is computed once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from pydantic import ValidationError

from scheduler.domain.columns import Columns
from suanli.model import Stage, Workload
from suanli.model.words import printable

FINITE_S = 1
"""Stands for "has an end" in a shape; the declared duration itself belongs to the workload."""
TEMPLATE_NAME = "tenants/shape/workloads/shape"
NOT_OF_THE_SHAPE = {"name", "display_name", "display_name_zh", "not_before_at", "deadline_at", "labels"}


def shape_document(workload: Workload) -> dict[str, Any]:
    """The part of a workload that its shape keeps, as plain JSON.

    `gpu_milli` becomes a list of pairs: its first entry is the reference model, and the log sorts the keys of objects.
    """
    document = workload.model_dump(mode="json", exclude=NOT_OF_THE_SHAPE, exclude_defaults=True)
    for stage in document["stages"]:
        if stage.get("duration_s") is not None:
            stage["duration_s"] = FINITE_S
        if "gpu_milli" in stage:
            stage["gpu_milli"] = [list(need) for need in stage["gpu_milli"].items()]
    return document


def shape_key(document: dict[str, Any]) -> str:
    """Content key of a shape document."""
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()[:24]


def template_of(document: dict[str, Any]) -> Workload:
    """The workload that stands for all of one shape."""
    stages = [{**s, "gpu_milli": dict(s.get("gpu_milli", ()))} for s in document["stages"]]
    raw = {**document, "stages": stages, "name": TEMPLATE_NAME}
    try:
        return Workload.model_validate(raw)
    except ValidationError:
        return Workload.model_validate(_escaped(raw))


def stored_workload(body: bytes) -> Workload:
    """A workload as the store has it.

    An early version took control characters in texts. They are refused today; what lies there already stays readable,
    with those characters escaped.
    """
    try:
        return Workload.model_validate_json(body)
    except ValidationError:
        return Workload.model_validate_json(orjson.dumps(_escaped(orjson.loads(body))))


def _escaped(raw: Any) -> Any:
    """Plain JSON with `\\x1b` in place of a control character, in all its texts."""
    if isinstance(raw, str):
        return printable(raw)
    if isinstance(raw, list):
        return [_escaped(item) for item in raw]
    if isinstance(raw, dict):
        return {_escaped(key): _escaped(item) for key, item in raw.items()}
    return raw


@dataclass(frozen=True)
class Spec:
    """One stage of one shape: the unit that feasibility, prices and quotas speak of."""

    spec: int
    shape: int
    stage_index: int
    stage: Stage
    workload: Workload
    """The shape's template: every field but name, texts, windows and durations is true of all its workloads."""


def is_simple(workload: Workload) -> bool:
    """One stage whose replicas may be placed one by one, each wherever it fits."""
    return moves_alone(workload) and workload.stages[0].spread is None


def moves_alone(workload: Workload) -> bool:
    """One stage whose replicas may change their places one by one, as far as its spread rule lets them."""
    stage = workload.stages[0]
    return len(workload.stages) == 1 and not stage.gang and stage.shared_with is None


class ShapeTable:
    """Shapes and specs in order of interning; `columns` holds per spec what whole-queue arithmetic needs."""

    def __init__(self) -> None:
        self.templates: list[Workload] = []
        self.specs: list[Spec] = []
        self.specs_of_shape: list[tuple[int, ...]] = []
        self.columns = Columns(
            shape=np.int32,
            rank=np.int64,
            simple=np.bool_,
            gang=np.bool_,
            deferrable=np.bool_,
            preemptible=np.bool_,
            service=np.bool_,
            cpu_milli=np.int64,
            memory_mib=np.int64,
            reference_gpu_milli=np.int64,
            checkpoint_interval_s=np.int64,
        )
        self._by_key: dict[str, int] = {}

    def find(self, key: str) -> int | None:
        """Index of the shape with that key, if interned."""
        return self._by_key.get(key)

    def copy(self) -> ShapeTable:
        """A table that may grow on its own; templates and specs are shared, for they never change."""
        twin = ShapeTable()
        twin.templates, twin.specs = list(self.templates), list(self.specs)
        twin.specs_of_shape, twin._by_key = list(self.specs_of_shape), dict(self._by_key)
        twin.columns = self.columns.copy()
        return twin

    def add(self, document: dict[str, Any]) -> int:
        """Intern a shape document; a known one keeps its index."""
        key = shape_key(document)
        known = self._by_key.get(key)
        if known is not None:
            return known
        shape = len(self.templates)
        template = template_of(document)
        first = len(self.specs)
        for i, stage in enumerate(template.stages):
            self.specs.append(Spec(first + i, shape, i, stage, template))
            self._append_columns(shape, template, stage)
        self.templates.append(template)
        self.specs_of_shape.append(tuple(range(first, len(self.specs))))
        self._by_key[key] = shape
        return shape

    def _append_columns(self, shape: int, template: Workload, stage: Stage) -> None:
        self.columns.append(
            1,
            shape=shape,
            rank=template.priority_class.rank,
            simple=is_simple(template),
            gang=stage.gang,
            deferrable=template.deferrable,
            preemptible=stage.preemptible,
            service=stage.is_service,
            cpu_milli=stage.cpu_milli,
            memory_mib=stage.memory_mib,
            reference_gpu_milli=stage.reference_gpu_milli,
            checkpoint_interval_s=stage.checkpoint_interval_s,
        )
