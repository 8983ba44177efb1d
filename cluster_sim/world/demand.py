"""One instance of a class as a workload: stage shapes, GPU needs per model, flows from its zone.

gpu_needs        milli-GPUs on each allowed model, by the scenario's equivalents
stage_of         the stage of a class at the scenario's scale
zone_flow        traffic between a zone and a stage
scaled_counts    instances per zone at the scenario's scale
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cluster_sim.scenarios.schema import Scenario, WorkClass, ZoneCount
from cluster_sim.world.shapes import fair_counts
from suanli.model import Flow, PathBudget, PriorityClass, Spread, Stage, Workload
from suanli.model.units import MIB_PER_GIB, MILLI, need_mib, need_milli, utc

CPU_STEP_MILLI = 10


@dataclass(frozen=True, slots=True)
class Fate:
    """What will really happen to a workload; known to the world alone, the same under every policy.

    `work_s` is the true work of one replica per stage; work ends by failure once `fails_after_s` of it are done.
    `jitter_frac` spreads the work of the replicas around `work_s`.
    """

    work_s: dict[str, int]
    fails_after_s: int | None = None
    jitter_frac: float = 0.0


def gpu_needs(
    scenario: Scenario, gpus: float, unit: str, models: Sequence[str], *, whole: bool = False
) -> dict[str, int]:
    """Milli-GPUs per model that give the rate of `gpus` devices of `unit`, the reference first.

    Above one device only whole devices exist, so needs round up; models whose largest node cannot hold the need are
    left out.
    """
    if gpus <= 0:
        return {}
    shares = scenario.gpu_equivalents.rows
    needs: dict[str, int] = {}
    for model in dict.fromkeys((unit, *models)):
        milli = need_milli(gpus * shares[model].share / shares[unit].share)
        if whole or milli > MILLI:
            milli = math.ceil(milli / MILLI) * MILLI
        if milli <= largest_node_milli(scenario, model):
            needs[model] = milli
    return needs


def largest_node_milli(scenario: Scenario, model: str) -> int:
    """Milli-GPUs of the largest node with that model."""
    return MILLI * max(
        (n.gpu_count for n in scenario.node_types.rows.values() if n.gpu_model == model), default=0
    )


def processing_by_model(
    scenario: Scenario, processing_ms: float | None, needs: Mapping[str, int]
) -> dict[str, float]:
    """p99 processing per GPU model, from the value on the reference device; `cpu` for a stage without GPU."""
    if processing_ms is None:
        return {}
    if not needs:
        return {"cpu": processing_ms}
    rows = scenario.gpu_equivalents.rows
    return {model: round(processing_ms * rows[model].processing_factor, 3) for model in needs}


def size_factor(scenario: Scenario, spec: WorkClass, by: ZoneCount | None = None) -> float:
    """How much one instance shrinks or grows where a class scales by size instead of count."""
    return count_factor(scenario, "edge", by) if spec.scale == "size" else 1.0


def count_factor(scenario: Scenario, scale: str, by: ZoneCount | None) -> float:
    """Instances against the full city: demand over the divisor of the sites where the class lives."""
    demand = {"cameras": scenario.scale.camera_factor, "sensors_k": scenario.scale.sensor_factor}.get(
        by or "", scenario.scale.demand_factor
    )
    divisor = scenario.scale.cloud_divisor if scale == "cloud" else scenario.scale.edge_divisor
    return demand / divisor


def scaled_counts(
    scenario: Scenario,
    spec: WorkClass,
    by: ZoneCount | None,
    zone_counts: Mapping[str, float],
    per_unit: float = 1.0,
) -> dict[str, int]:
    """Instances per zone; the total is rounded halves up and at least one, then shared out fairly."""
    counts = (
        dict(zone_counts) if by is None else {z: getattr(row, by) for z, row in scenario.zones.rows.items()}
    )
    counts = {zone: n * per_unit for zone, n in counts.items() if n > 0}
    factor = 1.0 if spec.scale == "size" else count_factor(scenario, spec.scale, by)
    total = sum(counts.values()) * factor
    return fair_counts(counts, max(1, math.floor(total + 0.5))) if counts else {}


def stage_of(
    scenario: Scenario, spec: WorkClass, stage_id: str, *, by: ZoneCount | None = None, **overrides: Any
) -> Stage:
    """The one stage of a class; `overrides` replace fields of the stage."""
    factor = size_factor(scenario, spec, by)
    unit = spec.gpu_unit or scenario.gpu_equivalents.reference
    needs = gpu_needs(scenario, spec.gpus * factor, unit, spec.gpu_models)
    fields: dict[str, Any] = {
        "stage_id": stage_id,
        "cpu_milli": cpu_need(spec.cpu_cores * factor),
        "memory_mib": need_mib(spec.ram_gib * factor),
        "storage_gib": math.ceil(spec.storage_gib * factor),
        "gpu_milli": needs,
        "gpu_memory_mib": round(spec.gpu_min_gib * MIB_PER_GIB) if needs else 0,
        "utilization_frac": spec.utilization,
        "require_any": spec.require_any,
        "dataset_ids": tuple(spec.datasets),
        "startup_s": spec.startup_s,
        "preemptible": spec.preemptible,
        "processing_p99_ms": processing_by_model(scenario, spec.processing_ms, needs),
    }
    return Stage(**(fields | overrides))


def cpu_need(cores: float) -> int:
    """Milli-cores, rounded up to hundredths of a core."""
    return math.ceil(need_milli(cores) / CPU_STEP_MILLI) * CPU_STEP_MILLI


def spread_of(over: str | None, replicas: int) -> Spread | None:
    """Two domains at least, where there are two replicas to spread."""
    return (
        None
        if over is None or replicas < 2
        else Spread(over="node" if over == "node" else "site", min_domains=2)
    )


def zone_flow(
    spec: WorkClass, zone_id: str, stage_id: str, *, mbps: float | None = None, limit_ms: float | None = None
) -> Flow:
    """Traffic from a zone to a stage under the class's network limit, through the class's access."""
    return Flow(
        source=f"zones/{zone_id}",
        target=f"stages/{stage_id}",
        access_id=spec.access,
        mbps=spec.mbps if mbps is None else mbps,
        rtt_p99_max_ms=spec.rtt_p99_max_ms if limit_ms is None else limit_ms,
    )


def zone_path(zone_id: str, stage_id: str, budget_ms: float | None) -> tuple[PathBudget, ...]:
    """End-to-end budget from the zone through the stage: network and processing."""
    if budget_ms is None:
        return ()
    return (PathBudget(path_id="loop", via=(f"zones/{zone_id}", f"stages/{stage_id}"), budget_ms=budget_ms),)


def workload_of(
    scenario: Scenario,
    spec: WorkClass,
    class_id: str,
    workload_id: str,
    stages: tuple[Stage, ...],
    *,
    zone_id: str = "",
    not_before_s: int | None = None,
    deadline_s: int | None = None,
    **overrides: Any,
) -> Workload:
    """A workload of the class with the class's priority, names and lateness price."""
    fields: dict[str, Any] = {
        "name": f"tenants/{spec.tenant}/workloads/{workload_id}",
        "kind": spec.kind,
        "workload_class": class_id,
        "display_name": spec.name.en,
        "display_name_zh": spec.name.zh,
        "priority_class": spec.priority,
        "stages": stages,
        "not_before_at": _instant(not_before_s),
        "deadline_at": _instant(deadline_s),
        "deferrable": spec.deferrable,
        "lateness_yuan_per_gpu_hour": scenario.penalties.lateness_yuan_per_gpu_hour,
        "labels": {"zone": zone_id} if zone_id else {},
    }
    return Workload(**(fields | overrides))


def _instant(at_s: int | None) -> datetime | None:
    return None if at_s is None else utc(at_s)


HARD = PriorityClass.HARD_SAFETY
