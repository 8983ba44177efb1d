"""Rules of one workload as things that can be dropped one at a time: what conflict sets and relaxations are made of.

Dropping a rule never removes a candidate: with fewer rules at least as much is placeable, which is what makes the
search for a minimal conflict sound. What a replica takes of a node is no rule; it cannot be dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scheduler.planner.feasibility import labels_wanted
from suanli.model import Flow, PathBudget, Stage, Workload

OCCUPIED = "capacity in use by other work"
OUTAGE = "sites down or cordoned"
WINDOW = "not before its start time"
PRICE = "waits for a cheaper hour (deferrable)"
RESERVED = "nodes reserved for a gang"
LIMITS = "power limits and floors of the policy"
SHARED = "a shared stage lies where its owner runs it"
TOO_LARGE = "needs more than the installed fleet has"
IN_TURNS = "all its replicas at once: more than the installed fleet holds, so they take turns"
MOMENT_RULES = (LIMITS, OUTAGE, RESERVED, OCCUPIED)


@dataclass(frozen=True)
class DroppableRule:
    """A rule of the workload itself: its words, and the workload without it."""

    text: str
    drop: Callable[[Workload], Workload]
    field: str = ""
    """Path of what to take away; "" for limits in milliseconds, which are relaxed by degrees."""


def rules_of(workload: Workload, gpu_models: tuple[str, ...]) -> list[DroppableRule]:
    """Everything the submitter asked for beyond amounts; `gpu_models` are those installed."""
    rules: list[DroppableRule] = []
    for i, stage in enumerate(workload.stages):
        if stage.shared_with is None:
            rules += [
                DroppableRule(text, _drop_of_stage(i, update), f"stages[{i}].{next(iter(update))}")
                for text, update in _of_stage(stage, gpu_models)
            ]
    for i, flow in enumerate(workload.flows):
        if flow.rtt_p99_max_ms is not None:
            rules.append(DroppableRule(flow_text(flow), _drop_flow_limit(i)))
    rules += [DroppableRule(path_text(path), _drop_path(path.path_id)) for path in workload.paths]
    return rules


def flow_text(flow: Flow) -> str:
    """A flow's limit in words."""
    by = f" by {flow.access_id}" if flow.access_id else ""
    return f"{flow.source} ↔ {flow.target}{by}: network p99 ≤ {flow.rtt_p99_max_ms:g} ms"


def path_text(path: PathBudget) -> str:
    """A path's budget in words."""
    return f"path {path.path_id} ≤ {path.budget_ms:g} ms"


def _of_stage(stage: Stage, gpu_models: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
    """Each rule of a stage with the fields that take it out."""
    name = stage.stage_id
    rules: list[tuple[str, dict[str, Any]]] = []
    if stage.require_any:
        rules.append((f"{name}: site has {labels_wanted(stage.require_any)}", {"require_any": ()}))
    if stage.site_ids:
        rules.append((f"{name}: only at {', '.join(stage.site_ids)}", {"site_ids": ()}))
    if stage.gpu_milli and set(gpu_models) - set(stage.gpu_milli):
        most = max(stage.gpu_milli.values())
        any_model = {**stage.gpu_milli, **{m: most for m in gpu_models if m not in stage.gpu_milli}}
        rules.append((f"{name}: GPU is one of {', '.join(stage.gpu_milli)}", {"gpu_milli": any_model}))
    if stage.gpu_milli and stage.gpu_memory_mib:
        rules.append((f"{name}: GPU memory ≥ {stage.gpu_memory_mib} MiB", {"gpu_memory_mib": 0}))
    if stage.gang and stage.replicas > 1:
        rules.append((f"{name}: all {stage.replicas} together on one site", {"gang": False}))
    if stage.spread is not None and stage.spread.min_domains > 1:
        rules.append(
            (f"{name}: on at least {stage.spread.min_domains} {stage.spread.over}s", {"spread": None})
        )
    if stage.colocate_with is not None:
        rules.append((f"{name}: beside {stage.colocate_with}", {"colocate_with": None}))
    return rules


def _drop_of_stage(index: int, update: dict[str, Any]) -> Callable[[Workload], Workload]:
    def drop(workload: Workload) -> Workload:
        stages = list(workload.stages)
        stages[index] = stages[index].model_copy(update=update)
        return workload.model_copy(update={"stages": tuple(stages)})

    return drop


def _drop_flow_limit(index: int) -> Callable[[Workload], Workload]:
    return lambda workload: with_flow_limit(workload, index, None)


def _drop_path(path_id: str) -> Callable[[Workload], Workload]:
    def drop(workload: Workload) -> Workload:
        return workload.model_copy(update={"paths": tuple(p for p in workload.paths if p.path_id != path_id)})

    return drop


def with_flow_limit(workload: Workload, index: int, limit_ms: float | None) -> Workload:
    """The workload with another RTT limit on one flow."""
    flows = list(workload.flows)
    flows[index] = flows[index].model_copy(update={"rtt_p99_max_ms": limit_ms})
    return workload.model_copy(update={"flows": tuple(flows)})


def with_path_budget(workload: Workload, index: int, budget_ms: float) -> Workload:
    """The workload with another budget on one path."""
    paths = list(workload.paths)
    paths[index] = paths[index].model_copy(update={"budget_ms": budget_ms})
    return workload.model_copy(update={"paths": tuple(paths)})
