"""Builders for one simulated site: defaults are valid, a test says only what matters to it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from cluster_sim.scenarios import Scenario, load_scenario
from cluster_sim.world.demand import Fate
from cluster_sim.world.protocol import StartReplica, StopReplica
from cluster_sim.world.site import ReplicaRow, SiteSim, SiteSpec
from suanli.model import NodeGroup, StopKind

T0 = 1_784_044_800
"""Opening of the day in these tests, a whole hour."""
MINUTES = 2 * 24 * 60


@cache
def base_scenario() -> Scenario:
    """The full city, read once."""
    return load_scenario("songjiang-base")


def a_group(**fields: Any) -> NodeGroup:
    """Two nodes with four GPUs; 500 W idle, 1 900 W at most."""
    defaults: dict[str, Any] = {
        "group_id": "l20x4",
        "node_type": "l20x4",
        "node_count": 2,
        "cpu_milli": 96_000,
        "memory_mib": 512 * 1024,
        "gpu_model": "l20",
        "gpu_count": 4,
        "gpu_memory_mib": 48 * 1024,
        "idle_w": 500.0,
        "max_w": 1900.0,
        "gpu_dynamic_w": 300.0,
        "core_dynamic_w": 2.0,
        "node_wake_s": 180,
    }
    return NodeGroup(**(defaults | fields))


def a_spec(**fields: Any) -> SiteSpec:
    """A room that never fails, with constant cooling of 0.25 per unit of heat."""
    defaults: dict[str, Any] = {
        "site_id": "edge-1",
        "start_s": T0,
        "groups": (a_group(),),
        "plant": base_scenario().plants.rows["dx_room"],
        "rated_w": 4000.0,
        "off_share": 0.1,
        "site_start_s": 600,
        "may_close": True,
        "transfer_gbps": 5.0,
        "cooling_per_heat": np.full(MINUTES, 0.25),
        "dry_bulb_c": np.full(MINUTES, 28.0),
        "wet_bulb_c": np.full(MINUTES, 25.0),
    }
    return SiteSpec(**(defaults | fields))


def a_site(fates: dict[str, Fate] | None = None, **fields: Any) -> SiteSim:
    """A site of `a_spec`."""
    return SiteSim(a_spec(**fields), fates or {})


def a_start(placement_id: str = "p1", **fields: Any) -> StartReplica:
    """A service of one GPU and eight cores on the first node, ready 30 s after its node."""
    order = StartReplica(
        placement_id=placement_id,
        workload="tenants/t/workloads/w",
        stage_id="main",
        replica_index=0,
        site_id="edge-1",
        group_id="l20x4",
        node_index=0,
        at_s=T0,
        cpu_milli=8000,
        memory_mib=1024,
        gpu_milli=1000,
        gpu_ids=(0,),
        reference_gpu_milli=1000,
        utilization_frac=0.5,
        startup_s=30,
        done_work_s=0.0,
        is_service=True,
        checkpoint_interval_s=0,
        gang_size=1,
        transfer_gib=0.0,
    )
    return replace(order, **fields)


def a_job(placement_id: str = "p1", work_s: int = 600, **fields: Any) -> StartReplica:
    """The same as a job of known length."""
    return a_start(placement_id, is_service=False, declared_work_s=work_s, **fields)


def a_stop(placement_id: str = "p1", at_s: int = T0, kind: StopKind = StopKind.MOVED) -> StopReplica:
    """An order to stop."""
    return StopReplica(placement_id, "edge-1", at_s, kind, kind.value)


def after(seconds: int) -> int:
    """Instant so many seconds after the opening."""
    return T0 + seconds


def told(rows: list[ReplicaRow]) -> list[tuple[int, str, str]]:
    """Reports as (seconds after the opening, placement, phase)."""
    return [(at_s - T0, placement, phase) for at_s, _, placement, phase, _, _, _ in rows]
