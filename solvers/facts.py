"""What a fact may be: one table of domains, so that nonsense ends where a problem is made and not inside a solver."""

from __future__ import annotations

from typing import Any

import numpy as np

from solvers.archive import FloatArray

LARGEST = 1e15
"""No amount, price or power of a city comes near; beyond it double precision stops telling units apart."""

# table.field -> (least, most, whether nan is a documented value)
_INF = float("inf")
DOMAINS: dict[str, tuple[float, float, bool]] = {
    "slots.start_s": (-LARGEST, LARGEST, False),
    "slots.hours": (1e-6, 1e6, False),
    "sites.start_yuan": (0.0, LARGEST, False),
    "sites.rated_kw": (1e-9, LARGEST, False),
    "sites.power_limit_kw": (0.0, LARGEST, False),
    "sites.fixed_kw": (0.0, LARGEST, False),
    "sites.off_kw": (0.0, LARGEST, False),
    "sites.loss_slope": (-1.0, LARGEST, False),
    "sites.loss_square": (0.0, LARGEST, False),
    "sites.price_yuan_per_kwh": (-LARGEST, LARGEST, False),
    "sites.carbon_g_per_kwh": (0.0, LARGEST, False),
    "sites.ipue_cap_hourly": (0.0, LARGEST, True),
    "sites.pue_cap_annual": (0.0, LARGEST, True),
    "sites.ledger_beta_kwh": (-LARGEST, LARGEST, False),
    "sites.debt_yuan_per_kwh": (0.0, LARGEST, False),
    "sites.demand_yuan_per_kw": (0.0, LARGEST, False),
    "sites.demand_peak_kw": (-LARGEST, LARGEST, False),
    "sites.reserved_floor_frac": (0.0, 1.0, False),
    "groups.capacity": (0.0, LARGEST, False),
    "groups.gpu_memory_mib": (0.0, LARGEST, False),
    "groups.idle_w": (0.0, LARGEST, False),
    "groups.wake_yuan": (0.0, LARGEST, False),
    "groups.initial_on_count": (0.0, LARGEST, False),
    "groups.island_node_count": (0.0, LARGEST, False),
    "groups.node_count": (0.0, LARGEST, False),
    "groups.packing_yield": (1e-9, 1.0, False),
    "classes.gpu_memory_mib": (0.0, LARGEST, False),
    "classes.demand_count": (0.0, LARGEST, False),
    "classes.unserved_yuan_per_replica_h": (0.0, LARGEST, False),
    "classes.work_replica_h": (0.0, LARGEST, False),
    "classes.max_parallel_count": (0.0, _INF, False),
    "classes.lateness_yuan_per_replica_h": (0.0, LARGEST, False),
    "classes.migration_yuan": (0.0, LARGEST, False),
    "pairs.need": (0.0, LARGEST, False),
    "pairs.dynamic_w": (0.0, LARGEST, False),
    "pairs.processing_p99_ms": (0.0, _INF, True),
    "pairs.running_count": (0.0, LARGEST, False),
    "pairs.other_yuan_per_replica_h": (-LARGEST, LARGEST, False),
    "flows.rtt_p99_max_ms": (-_INF, _INF, True),
    "flows.mbps": (0.0, LARGEST, False),
    "paths.budget_ms": (-_INF, _INF, False),
    "network.leg_rtt_p99_ms": (0.0, _INF, True),
    "network.site_rtt_p99_ms": (0.0, _INF, True),
    "network.link_capacity_mbps": (0.0, LARGEST, False),
    "network.transfer_yuan_per_gb": (-LARGEST, LARGEST, False),
    "network.planning_load_frac": (0.0, 1.0, False),
    "terms.portfolio_pue_cap_annual": (0.0, LARGEST, False),
    "terms.portfolio_beta_kwh": (-LARGEST, LARGEST, False),
    "terms.portfolio_debt_yuan_per_kwh": (0.0, LARGEST, False),
    "terms.carbon_yuan_per_kg": (0.0, LARGEST, False),
    "terms.padding_factor": (1.0, LARGEST, False),
    "terms.padding_node_count": (0.0, LARGEST, False),
    "terms.move_budget_count": (0.0, LARGEST, False),
}


def fact_problems(problem: Any) -> list[str]:
    """Every fact of a placement problem that lies outside its domain, in words; None stands for: no such rule."""
    found = []
    for name, (least, most, may_be_nan) in DOMAINS.items():
        table, field = name.split(".")
        value = getattr(getattr(problem, table), field)
        if value is not None and (wrong := _wrong(np.asarray(value, dtype=float), least, most, may_be_nan)):
            found.append(f"{name}: {wrong}")
    for graph in problem.graphs:
        found.extend(f"graph {graph.graph_id}: {wrong}" for wrong in _graph_problems(graph))
    return found


def _wrong(values: FloatArray, least: float, most: float, may_be_nan: bool) -> str:
    missing = np.isnan(values)
    if missing.any() and not may_be_nan:
        return "not a number"
    outside = values[~missing & ~((values >= least) & (values <= most))]
    return f"{float(outside.flat[0]):g} is outside {least:g}..{most:g}" if outside.size else ""


def _graph_problems(graph: Any) -> list[str]:
    parts = (
        ("count", graph.count, 0.0, LARGEST),
        ("stage_replicas", graph.stage_replicas, 0.0, LARGEST),
        ("flows.mbps", [f.mbps for f in graph.flows], 0.0, LARGEST),
        ("flows.rtt_p99_max_ms", [f.rtt_p99_max_ms for f in graph.flows if f.rtt_p99_max_ms is not None], -_INF, _INF),
        ("paths.budget_ms", [p.budget_ms for p in graph.paths], -_INF, _INF),
    )  # fmt: skip
    return [
        f"{name} {wrong}"
        for name, values, least, most in parts
        if (wrong := _wrong(np.asarray(values, dtype=float), least, most, False))
    ]
