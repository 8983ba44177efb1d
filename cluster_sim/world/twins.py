"""Digital twins as stage graphs: ingest → sync (state store) → simulate → render, with flows and an end-to-end budget.

A twin that shares another one's state store names it in `shared_with`; raw data keeps its residency in ingest and sync,
derived data may cross to simulation and rendering.
"""

from __future__ import annotations

import math

from cluster_sim.scenarios.schema import Scenario, TwinsPattern, TwinSpec, TwinStage, WorkClass
from cluster_sim.world.demand import cpu_need, gpu_needs, processing_by_model, size_factor, workload_of
from suanli.model import Flow, PathBudget, Stage, Workload
from suanli.model.units import MIB_PER_GIB, need_mib

STAGES = ("ingest", "sync", "simulate", "render")


def twin_workload(scenario: Scenario, spec: WorkClass, pattern: TwinsPattern, twin_id: str) -> Workload:
    """The pipeline of one twin."""
    twin = pattern.twins[twin_id]
    zone = f"zones/{twin.zone}"
    return workload_of(
        scenario,
        spec,
        "W13",
        f"twin-{twin_id}",
        tuple(_stage(scenario, spec, pattern, twin, stage_id) for stage_id in STAGES),
        zone_id=twin.zone,
        display_name=twin.name.en,
        display_name_zh=twin.name.zh,
        flows=_flows(scenario, spec, pattern, twin),
        paths=(
            PathBudget(
                path_id="loop", via=(zone, *(f"stages/{s}" for s in STAGES), zone), budget_ms=twin.budget_ms
            ),
        ),
        labels={"zone": twin.zone, "sync_hz": f"{twin.hz:g}"},
    )


def _stage(
    scenario: Scenario, spec: WorkClass, pattern: TwinsPattern, twin: TwinSpec, stage_id: str
) -> Stage:
    size: TwinStage = pattern.stages[stage_id]  # type: ignore[index]  # ids come from STAGES
    factor = size_factor(scenario, spec)
    needs = gpu_needs(scenario, size.gpus * factor, scenario.gpu_equivalents.reference, spec.gpu_models)
    shared = twin.shares if stage_id == "sync" and twin.shares in pattern.twins else ""
    own_store = stage_id == "sync" and not shared
    holds_raw_data = stage_id in ("ingest", "sync")
    return Stage(
        stage_id=stage_id,
        replicas=math.ceil(twin.viewers / pattern.viewers_per_render) if stage_id == "render" else 1,
        cpu_milli=cpu_need(size.cpu_cores * factor),
        memory_mib=need_mib(size.ram_gib * factor),
        storage_gib=math.ceil(size.storage_gib * factor),
        gpu_milli=needs,
        gpu_memory_mib=round(spec.gpu_min_gib * MIB_PER_GIB) if needs else 0,
        utilization_frac=spec.utilization,
        require_any=_residency(twin) if holds_raw_data else (),
        colocate_with="ingest" if own_store else None,
        shared_with=f"tenants/{spec.tenant}/workloads/twin-{shared}" if shared else None,
        startup_s=spec.startup_s,
        processing_p99_ms=processing_by_model(scenario, size.processing_ms, needs),
    )


def _residency(twin: TwinSpec) -> tuple[dict[str, str], ...]:
    if not twin.residency:
        return ()
    return ({"residency": twin.residency}, *(({"tee": "yes"},) if twin.tee_instead else ()))


def _flows(scenario: Scenario, spec: WorkClass, pattern: TwinsPattern, twin: TwinSpec) -> tuple[Flow, ...]:
    """Zone in, stage to stage, and the picture back to the viewers; rates shrink with the instance."""
    zone, input_mbps = f"zones/{twin.zone}", twin.input_mbps * size_factor(scenario, spec)
    derived_mbps = input_mbps * pattern.state_out_share
    return (
        Flow(source=zone, target="stages/ingest", mbps=input_mbps),
        Flow(
            source="stages/ingest",
            target="stages/sync",
            mbps=input_mbps * pattern.ingest_out_share,
            rtt_p99_max_ms=pattern.sync_rtt_p99_max_ms,
        ),
        Flow(source="stages/sync", target="stages/simulate", mbps=derived_mbps),
        Flow(source="stages/simulate", target="stages/render", mbps=derived_mbps),
        Flow(
            source="stages/render",
            target=zone,
            mbps=pattern.view_mbps * pattern.viewers_per_render * size_factor(scenario, spec),
            rtt_p99_max_ms=spec.rtt_p99_max_ms,
        ),
    )
