"""Builders for tests of the service: a small fleet, workloads, a planner that makes no plans, a running service."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from scheduler.domain.state import ClusterState
from scheduler.service import Pace, Service
from scheduler.store import MemoryStore, SqlStore
from suanli.model import (
    AccessProfile,
    CoolingPlant,
    Facility,
    Fleet,
    HostKind,
    Link,
    Network,
    NodeGroup,
    Site,
    SiteKind,
    Stage,
    Tariff,
    Workload,
    WorkloadKind,
    Zone,
)

START_S = 1_784_044_800  # a whole hour in July 2026


def a_facility() -> Facility:
    return Facility(
        plant="room",
        e0=0.02,
        e1=0.03,
        e2=0.01,
        lighting=0.01,
        cooling_fixed=0.02,
        cooling=CoolingPlant.DX_ECONOMISER,
    )


def a_site(site_id: str, kind: SiteKind = SiteKind.EDGE, nodes: int = 4, gpus: int = 0) -> Site:
    group = NodeGroup(
        group_id="std", node_type="std", node_count=nodes, cpu_milli=64_000, memory_mib=256_000, storage_gib=1_000,
        idle_w=200, max_w=2_000, core_dynamic_w=5,
        gpu_model="l20" if gpus else "", gpu_count=gpus, gpu_memory_mib=48_000 if gpus else 0,
        gpu_dynamic_w=200 if gpus else 0,
    )  # fmt: skip
    return Site(
        site_id=site_id, kind=kind, host_kind=HostKind.TELECOM_ROOM, rated_it_kw=500, power_limit_kw=500,
        facility=a_facility(), tariff_id="t", groups=(group,), has_upf=True,
    )  # fmt: skip


def a_fleet(*sites: Site) -> Fleet:
    sites = sites or (a_site("cloud", SiteKind.CLOUD, nodes=8, gpus=8), a_site("edge"))
    return Fleet(
        sites=sites,
        zones=(Zone(zone_id="z", hub_id="hub", access_mix={"fibre": 1.0}),),
        network=Network(
            hubs={"hub": (0.0, 0.0), "upf-exchange": (1.0, 0.0)},
            links=(
                *(Link(link_id=f"l-{s.site_id}", ends=(s.site_id, "hub"), capacity_gbps=100) for s in sites),
                Link(link_id="l-upf", ends=("hub", "upf-exchange"), capacity_gbps=100),
            ),
            access=(
                AccessProfile(access_id="fibre", rtt_p50_ms=2, rtt_p99_ms=5, down_mbps=100, up_mbps=100),
            ),
        ),
        tariffs=(
            Tariff(tariff_id="t", price_yuan_per_kwh_by_month=dict.fromkeys(range(1, 13), (0.5,) * 24)),
        ),
    )


def a_workload(
    name: str = "w", tenant: str = "acme", cpu_milli: int = 2_000, memory_mib: int = 4_000, **fields: Any
) -> Workload:
    stage = {"stage_id": "main", "cpu_milli": cpu_milli, "memory_mib": memory_mib, **fields.pop("stage", {})}
    return Workload(
        name=f"tenants/{tenant}/workloads/{name}",
        kind=fields.pop("kind", WorkloadKind.BATCH),
        stages=(Stage(**stage),),
        **fields,
    )


def an_impossible_workload(name: str = "huge") -> Workload:
    """More memory than any node has."""
    return a_workload(name, memory_mib=1_000_000)


class NoPlans:
    """A strategy without horizon plans: rounds place by energy at one price."""

    name = "suanli"

    def learn(self, state: ClusterState, now_s: int) -> dict[str, Any] | None:
        return None

    def plan_due(self, state: ClusterState, now_s: int) -> bool:
        return False

    def begin_plan(self, state: ClusterState, views: Any, now_s: int) -> Any:
        raise AssertionError("no plan is ever due")

    def finish_plan(self, state: ClusterState, task: Any, solution: Any) -> Any:
        raise AssertionError("no plan is ever begun")

    def scorer(self, state: ClusterState, guide: dict[str, Any], now_s: int) -> Any:
        from scheduler.planner.scoring import GuidedScorer

        assert state.topology is not None
        sites = state.topology.site_count
        return GuidedScorer(np.full(sites, 0.5), np.ones(sites, bool), np.zeros(sites))


class NoPool:
    """A pool for a strategy that never solves."""

    def solve_plan(self, problem: Any, wall_limit_s: float) -> Any:
        raise AssertionError("nothing to solve")

    def close(self) -> None:
        pass


def a_cycle(strategy: Any = None) -> Any:
    from scheduler.cycle import Cycle

    return Cycle(strategy or NoPlans(), NoPool())


def a_service(store: MemoryStore | SqlStore | None = None, cycle: Any = None, **options: Any) -> Service:
    return Service(store if store is not None else MemoryStore(), cycle or a_cycle(), **options)


@contextmanager
def running(service: Service, fleet: Fleet | None = None) -> Iterator[Service]:
    """The service, started, with a fleet (pass `fleet=None` to leave what the store has)."""
    service.start()
    try:
        if fleet is not None:
            service.fleet.register(fleet).result(10)
        yield service
    finally:
        service.close()


def wait_until(look: Callable[[], bool], seconds: float = 10.0) -> None:
    """Until the core's own thread has come so far."""
    ends_at = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < ends_at, "did not happen in time"
        time.sleep(0.005)


FAST = Pace(round_debounce_s=0.001, round_every_s=5.0)
