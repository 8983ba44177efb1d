"""Builder of small placement problems for tests: a default is valid, so a test shows only what matters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from solvers.problem import (
    RESOURCES,
    Classes,
    Flows,
    Graph,
    Groups,
    Network,
    Pairs,
    Paths,
    PlacementProblem,
    Sites,
    Slots,
    Terms,
)

NEVER = math.nan


@dataclass
class Town:
    """Sites, groups and classes by name; `problem()` makes the arrays."""

    hours: Sequence[float] = (1.0,)
    terms: Terms = field(default_factory=Terms)
    sites: list[dict[str, Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    classes: list[dict[str, Any]] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)
    links: list[tuple[str, float]] = field(default_factory=list)
    routes: list[tuple[int, str, str]] = field(default_factory=list)
    leg_rtt_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    site_rtt_ms: float = 1.0
    site_rtts: dict[tuple[str, str], float] = field(default_factory=dict)

    def site(self, site_id: str, **facts: Any) -> Town:
        """A site; price 1 yuan/kWh, plant 1 kW fixed and 10 % slope, unless said."""
        defaults = {
            "is_edge": False,
            "may_close": False,
            "initially_on": True,
            "start_yuan": 0.0,
            "rated_kw": 100.0,
            "power_limit_kw": 100.0,
            "fixed_kw": 1.0,
            "off_kw": 0.1,
            "loss_slope": 0.1,
            "loss_square": 0.02,
            "price_yuan_per_kwh": 1.0,
            "carbon_g_per_kwh": 500.0,
            "ipue_cap_hourly": NEVER,
            "hourly_is_hard": True,
            "pue_cap_annual": NEVER,
            "annual_is_hard": False,
            "ledger_beta_kwh": 0.0,
            "debt_yuan_per_kwh": 5.0,
            "demand_yuan_per_kw": 0.0,
            "demand_peak_kw": 0.0,
            "reserved_floor_frac": 0.0,
            "labels": {},
        }
        self.sites.append({**defaults, "site_id": site_id, **_known(facts, defaults)})
        return self

    def group(self, group_id: str, site_id: str, **facts: Any) -> Town:
        """10 nodes of 16 cores, 64 GiB, 4 GPUs of model l20 with 48 GiB, 300 W idle, unless said."""
        defaults = {
            "gpu_model": "l20",
            "node_count": 10,
            "cpu": 16,
            "memory_gib": 64,
            "gpus": 4,
            "storage_gib": 1000,
            "gpu_memory_mib": 48 * 1024,
            "idle_w": 300.0,
            "wake_yuan": 0.0,
            "initial_on_count": 0.0,
            "island_node_count": 0,
            "packing_yield": 1.0,
            "scarce": None,
        }
        facts = {**defaults, "group_id": group_id, "site_id": site_id, **_known(facts, defaults)}
        if not facts["gpus"]:
            facts["gpu_model"] = ""
        self.groups.append(facts)
        return self

    def work(self, class_id: str, **facts: Any) -> Town:
        """A class: 1 core, 1 GiB, 100 W dynamic, priority interactive; give `demand` or `work_replica_h`."""
        defaults: dict[str, Any] = {
            "cpu": 1.0,
            "memory_gib": 1.0,
            "gpu": {},
            "storage_gib": 0,
            "gpu_memory_mib": 0,
            "dynamic_w": 100.0,
            "rank": 2,
            "demand": 0.0,
            "unserved_yuan": 100.0,
            "work_replica_h": 0.0,
            "release_slot": 0,
            "deadline_slot": 10**6,
            "max_parallel": 1e9,
            "lateness_yuan": 5.0,
            "gang_size": 1,
            "single_site": False,
            "single_group": False,
            "single_island": False,
            "spread_sites": 0,
            "spread_nodes": 0,
            "migration_yuan": 2.0,
            "require_any": (),
            "allowed": (),
            "running": {},
            "flows": (),
            "paths": (),
            "processing_ms": NEVER,
            "other_yuan": 0.0,
        }
        self.classes.append({**defaults, "class_id": class_id, **_known(facts, defaults)})
        return self

    def problem(self) -> PlacementProblem:
        """The arrays."""
        hours = np.asarray(self.hours, dtype=float)
        start_s = np.concatenate([[0], np.cumsum(np.rint(hours * 3600))[:-1]])
        pairs = _pairs(self.classes, self.groups)
        return PlacementProblem(
            problem_id="town",
            slots=Slots(start_s, hours),
            sites=_sites(self.sites, len(hours)),
            groups=_groups(self.groups, [s["site_id"] for s in self.sites], len(hours)),
            classes=_classes(self.classes, len(hours)),
            pairs=pairs,
            flows=self._flows(),
            paths=self._paths(),
            network=self._network(),
            graphs=tuple(self.graphs),
            terms=self.terms,
        )

    def _leg_index(self, leg_id: str) -> int:
        return list(self.leg_rtt_ms).index(leg_id)

    def _flows(self) -> Flows:
        rows = [
            (c, self._leg_index(leg), NEVER if limit is None else limit, mbps)
            for c, facts in enumerate(self.classes)
            for leg, limit, mbps in facts["flows"]
        ]
        return Flows(*(np.array([r[i] for r in rows], dtype=(int, int, float, float)[i]) for i in range(4)))

    def _paths(self) -> Paths:
        rows = [
            (c, self._leg_index(a) if a else -1, self._leg_index(b) if b else -1, budget)
            for c, facts in enumerate(self.classes)
            for a, b, budget in facts["paths"]
        ]
        return Paths(*(np.array([r[i] for r in rows], dtype=(int, int, int, float)[i]) for i in range(4)))

    def _network(self) -> Network:
        names = [s["site_id"] for s in self.sites]
        rtt = np.full((len(names), len(names)), self.site_rtt_ms)
        np.fill_diagonal(rtt, 0.0)
        for (a, b), value in self.site_rtts.items():
            rtt[names.index(a), names.index(b)] = rtt[names.index(b), names.index(a)] = value
        legs = [[row.get(name, NEVER) for name in names] for row in self.leg_rtt_ms.values()]
        link_ids = [name for name, _ in self.links]
        return Network(
            leg_id=tuple(self.leg_rtt_ms),
            link_id=tuple(link_ids),
            leg_rtt_p99_ms=np.array(legs, dtype=float).reshape(len(legs), len(names)),
            site_rtt_p99_ms=rtt,
            link_capacity_mbps=np.array([mbps for _, mbps in self.links], dtype=float),
            planning_load_frac=1.0,
            route_origin=np.array([o for o, _, _ in self.routes], dtype=int),
            route_site=np.array([names.index(s) for _, s, _ in self.routes], dtype=int),
            route_link=np.array([link_ids.index(k) for _, _, k in self.routes], dtype=int),
            transfer_yuan_per_gb=np.zeros((len(names), len(names))),
        )


def _known(facts: Mapping[str, Any], defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    if unknown := sorted(set(facts) - set(defaults)):
        raise TypeError(f"unknown facts: {unknown}")
    return facts


def _over_time(rows: Sequence[Mapping[str, Any]], key: str, slots: int) -> np.ndarray[Any, Any]:
    return np.array([np.broadcast_to(r[key], slots) for r in rows], dtype=float).reshape(len(rows), slots)


def _sites(rows: Sequence[Mapping[str, Any]], slots: int) -> Sites:
    per_slot = (
        "power_limit_kw",
        "fixed_kw",
        "off_kw",
        "loss_slope",
        "loss_square",
        "price_yuan_per_kwh",
        "carbon_g_per_kwh",
    )
    names = [k for k in rows[0] if k not in (*per_slot, "site_id", "labels")]
    return Sites(
        site_id=tuple(r["site_id"] for r in rows),
        labels=tuple(r["labels"] for r in rows),
        **{k: np.array([r[k] for r in rows]) for k in names},
        **{k: _over_time(rows, k, slots) for k in per_slot},
    )


def _groups(rows: Sequence[Mapping[str, Any]], site_ids: Sequence[str], slots: int) -> Groups:
    plain = ("gpu_memory_mib", "idle_w", "wake_yuan", "initial_on_count", "island_node_count")
    return Groups(
        group_id=tuple(r["group_id"] for r in rows),
        gpu_model=tuple(r["gpu_model"] for r in rows),
        site=np.array([site_ids.index(r["site_id"]) for r in rows], dtype=int),
        node_count=_over_time(rows, "node_count", slots).astype(int),
        capacity=np.array(
            [[r["cpu"] * 1000, r["memory_gib"] * 1024, r["gpus"] * 1000, r["storage_gib"]] for r in rows]
        ),
        packing_yield=np.array([np.broadcast_to(r["packing_yield"], len(RESOURCES)) for r in rows]),
        scarce_resource=tuple(RESOURCES.index(r["scarce"]) for r in rows if r["scarce"] is not None),
        **{k: np.array([r[k] for r in rows]) for k in plain},
    )


def _classes(rows: Sequence[Mapping[str, Any]], slots: int) -> Classes:
    same = (
        "gpu_memory_mib",
        "work_replica_h",
        "release_slot",
        "deadline_slot",
        "gang_size",
        "single_site",
        "single_group",
        "single_island",
        "migration_yuan",
    )
    renamed = {
        "priority_rank": "rank",
        "unserved_yuan_per_replica_h": "unserved_yuan",
        "max_parallel_count": "max_parallel",
        "lateness_yuan_per_replica_h": "lateness_yuan",
        "spread_site_min": "spread_sites",
        "spread_node_min": "spread_nodes",
    }
    return Classes(
        class_id=tuple(r["class_id"] for r in rows),
        require_any=tuple(tuple(r["require_any"]) for r in rows),
        allowed_site_ids=tuple(tuple(r["allowed"]) for r in rows),
        gpu_milli_by_model=tuple({m: round(n * 1000) for m, n in r["gpu"].items()} for r in rows),
        demand_count=_over_time(rows, "demand", slots),
        **{k: np.array([r[k] for r in rows]) for k in same},
        **{k: np.array([r[v] for r in rows]) for k, v in renamed.items()},
    )


def _pairs(classes: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]) -> Pairs:
    rows = []
    for c, work in enumerate(classes):
        for g, group in enumerate(groups):
            if work["gpu"] and group["gpu_model"] not in work["gpu"]:
                continue
            need = (
                round(work["cpu"] * 1000),
                round(work["memory_gib"] * 1024),
                round(work["gpu"].get(group["gpu_model"], 0) * 1000),
                work["storage_gib"],
            )
            running = work["running"].get(group["group_id"], 0.0)
            rows.append((c, g, need, work["dynamic_w"], work["processing_ms"], running, work["other_yuan"]))
    return Pairs(
        class_index=np.array([r[0] for r in rows], dtype=int),
        group_index=np.array([r[1] for r in rows], dtype=int),
        need=np.array([r[2] for r in rows], dtype=int).reshape(len(rows), len(RESOURCES)),
        dynamic_w=np.array([r[3] for r in rows], dtype=float),
        processing_p99_ms=np.array([r[4] for r in rows], dtype=float),
        running_count=np.array([r[5] for r in rows], dtype=float),
        other_yuan_per_replica_h=np.array([r[6] for r in rows], dtype=float),
    )
