"""How fast and how good is the horizon plan on a city: 16 sites, about 50 groups, 363 classes, 30 slots.

    python -m benchmarks.plan [--classes 363] [--scale 1.0] [--json]

The instance is synthetic and seeded, with the proportions of the reference city (site sizes, plants of a July day,
tariff slots, service shapes, training and render work, twins as stage graphs). Prints size, seconds, gap; a plan that
the independent verifier rejects is an error, not a result.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from typing import Any, NamedTuple

import numpy as np

from solvers import facility
from solvers.problem import (
    RANK_BATCH,
    RANK_HARD_SAFETY,
    RANK_INTERACTIVE,
    RANK_PUBLIC_SERVICE,
    RESOURCES,
    Classes,
    Flows,
    Graph,
    GraphFlow,
    GraphPath,
    Groups,
    Network,
    Pairs,
    Paths,
    PlacementProblem,
    Sites,
    Slots,
    Terms,
)

DAY_START_S = 1_784_044_800  # 15 July 2026, 00:00 in Shanghai
JULY = 7


class NodeType(NamedTuple):
    """A node: GPUs of one model, memory per GPU, vCPU, RAM, power."""

    model: str
    gpus: int
    gpu_memory_gib: int
    vcpu: int
    ram_gib: int
    idle_w: float
    max_w: float


NODE_TYPES = {
    "h800x8": NodeType("h800", 8, 80, 192, 2048, 1900, 8400),
    "h20x8": NodeType("h20", 8, 96, 192, 2048, 1500, 5900),
    "a910bx8": NodeType("a910b", 8, 64, 192, 1536, 1500, 5200),
    "a100x8": NodeType("a100", 8, 80, 128, 1024, 1500, 5400),
    "l40sx8": NodeType("l40s", 8, 48, 128, 1024, 1000, 4200),
    "l20x8": NodeType("l20", 8, 48, 128, 1024, 900, 3600),
    "l20x4": NodeType("l20", 4, 48, 96, 512, 500, 1900),
    "l20x2": NodeType("l20", 2, 48, 64, 256, 330, 1050),
    "t4x4": NodeType("t4", 4, 16, 96, 384, 300, 800),
    "t4x2": NodeType("t4", 2, 16, 64, 256, 220, 500),
    "v100x8": NodeType("v100", 8, 32, 96, 768, 900, 3300),
    "orin": NodeType("orin", 1, 64, 12, 64, 25, 75),
    "cpu_std": NodeType("", 0, 0, 128, 512, 280, 750),
    "cpu_old": NodeType("", 0, 0, 48, 256, 180, 450),
    "cpu_edge": NodeType("", 0, 0, 64, 256, 150, 400),
}
GPU_EQUIVALENT = {
    "l20": 1.0,
    "l40s": 0.5,
    "t4": 2.0,
    "v100": 1.1,
    "a100": 0.45,
    "h20": 0.8,
    "h800": 0.25,
    "a910b": 0.5,
    "orin": 2.5,
}


class Plant(NamedTuple):
    """Losses (e0, e1, e2, lighting, cooling fixed), cooling plant and its options."""

    losses: tuple[float, float, float, float, float]
    cooling: str
    options: dict[str, float]


PLANTS = {
    "ai_hyper": Plant((0.0163, 0.0064, 0.0188, 0.001, 0.010), "water_economiser_mid", {"liquid_share": 0.4}),
    "wse_poor": Plant((0.025, 0.020, 0.015, 0.005, 0.03), "water_economiser_poor", {}),
    "wp113": Plant((0.058, 0.050, 0.030, 0.010, 0.16), "chiller_fixed", {"constant": 0.27}),
    "wse_mid": Plant((0.0163, 0.0064, 0.0188, 0.002, 0.012), "water_economiser_mid", {}),
    "dx_room": Plant((0.030, 0.040, 0.010, 0.010, 0.05), "dx_mechanical", {}),
    "econ_micro": Plant((0.0163, 0.010, 0.015, 0.005, 0.03), "dx_economiser", {}),
    "cabinet": Plant((0.020, 0.050, 0.010, 0.0, 0.03), "dx_economiser", {"factor": 0.8}),
}
REFERENCE_LOAD = {
    "ai_hyper": 0.6,
    "wse_poor": 0.6,
    "wp113": 0.6,
    "wse_mid": 0.6,
    "dx_room": 0.42,
    "econ_micro": 0.2,
    "cabinet": 0.2,
}


class Place(NamedTuple):
    """One site of the city."""

    site_id: str
    plant: str
    cap: float | None
    nodes: dict[str, int]
    x_km: float
    y_km: float
    label: str
    is_home: bool


PLACES = (
    Place(
        "ai-core",
        "ai_hyper",
        1.30,
        {"h800x8": 256, "h20x8": 256, "a910bx8": 128, "l40sx8": 48, "l20x8": 64, "cpu_std": 512},
        4.5,
        1.5,
        "cloud",
        True,
    ),
    Place("dc-g60", "wse_poor", None, {"a100x8": 64, "t4x2": 128, "cpu_std": 1200}, 6.5, 5.5, "cloud", True),
    Place("dc-old", "wp113", None, {"v100x8": 16, "cpu_old": 600}, 1.0, -1.0, "cloud", True),
    Place(
        "dc-lingang", "wse_mid", 1.25, {"h20x8": 256, "a910bx8": 64, "cpu_std": 1024}, 62, -12, "cloud", True
    ),
    Place("e01-hub", "dx_room", 1.5, {"l20x4": 10, "cpu_edge": 6}, -1.5, -3.5, "upf", False),
    Place("e02-jkq", "econ_micro", 1.5, {"l20x4": 8, "cpu_edge": 6}, 3.5, 2.0, "upf", True),
    Place(
        "e03-iiot-e",
        "econ_micro",
        1.5,
        {"l20x4": 12, "t4x4": 8, "cpu_edge": 10},
        8.0,
        6.5,
        "industrial",
        True,
    ),
    Place(
        "e04-iiot-w", "dx_room", 1.5, {"l20x4": 8, "t4x4": 8, "cpu_edge": 10}, -6.0, 2.0, "industrial", True
    ),
    Place("e05-med", "econ_micro", 1.5, {"l20x4": 6, "l20x2": 4, "cpu_edge": 8}, 1.2, 0.2, "medical", True),
    Place("e06-edu", "econ_micro", 1.5, {"l20x4": 14, "cpu_edge": 8}, -1.0, 4.5, "campus", False),
    Place("e07-film", "econ_micro", 1.5, {"l40sx8": 12, "l20x4": 6, "cpu_edge": 8}, 6.0, -2.5, "film", False),
    Place("e08-cbd-twin", "econ_micro", 1.5, {"l20x4": 12, "cpu_edge": 10}, -1.0, -2.8, "twin", False),
    Place("e09-gov", "dx_room", 1.5, {"t4x4": 20, "l20x4": 8, "cpu_edge": 20}, 0.5, 0.8, "government", False),
    Place(
        "e10-oldtown", "cabinet", 1.5, {"l20x2": 4, "orin": 16, "cpu_edge": 2}, 0.6, -0.6, "generic", False
    ),
    Place("e11-substation", "econ_micro", 1.5, {"l20x4": 6, "cpu_edge": 4}, -3.5, 1.0, "generic", False),
    Place(
        "e12-sheshan", "cabinet", 1.5, {"l20x2": 6, "orin": 24, "cpu_edge": 2}, -3.0, 9.0, "generic", False
    ),
)
ZONES = {
    "z1": (-1.2, -3.2),
    "z2": (0.6, -0.6),
    "z3": (0.5, 0.8),
    "z4": (-1.0, 4.5),
    "z5": (3.5, 2.0),
    "z6": (8.0, 6.5),
    "z7": (-6.0, 2.0),
    "z8": (6.0, -2.5),
    "z9": (1.2, 0.2),
    "z10": (-3.0, 9.0),
}
ACCESS_P99_MS = {"rsu_fibre": 1.0, "5g_private": 8.0, "5g_embb": 20.0, "pon_10g": 4.0, "pon": 6.0}
UPF_SITES = ("e01-hub", "e02-jkq", "e03-iiot-e", "e04-iiot-w")
HAIRPIN_P99_MS = 5.0
# two-part tariff of July in Shanghai: multiplier of the flat price by hour
FLAT_YUAN_PER_KWH, FLOATING_SHARE = 0.66, 0.55


def city(class_count: int = 363, scale: float = 1.0, seed: int = 7) -> PlacementProblem:
    """The synthetic city; `scale` multiplies demand."""
    rng = np.random.default_rng(seed)
    slots = _slots()
    groups, group_types = _groups(len(slots.hours))
    sites = _sites(slots)
    network = _network()
    works = _works(class_count, slots, scale, rng)
    return PlacementProblem(
        problem_id=f"city-{class_count}",
        slots=slots,
        sites=sites,
        groups=groups,
        classes=_classes(works, len(slots.hours)),
        pairs=_pairs(works, groups, group_types),
        flows=_flows(works, network),
        paths=Paths(
            class_index=np.zeros(0, np.int64),
            leg_in_index=np.zeros(0, np.int64),
            leg_out_index=np.zeros(0, np.int64),
            budget_ms=np.zeros(0),
        ),
        network=network,
        graphs=_twins(works, network, len(slots.hours)),
        terms=Terms(portfolio_pue_cap_annual=1.5),
    )


def _slots() -> Slots:
    """Hourly slots, the first hours of the day in quarters and halves as a running plan has them: 30 slots."""
    edges = sorted({0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, *(float(h) for h in range(3, 25))})
    starts = np.array(edges[:-1])
    return Slots(start_s=DAY_START_S + np.rint(starts * 3600).astype(int), hours=np.diff(edges))


def _hour_of_slot(slots: Slots) -> np.ndarray[Any, Any]:
    return np.asarray((slots.start_s - DAY_START_S) / 3600.0 + slots.hours / 2)


def _price(hour: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    multiplier = np.ones_like(hour)
    multiplier[(hour < 6) | (hour >= 22)] = 0.4
    multiplier[((hour >= 8) & (hour < 15)) | ((hour >= 18) & (hour < 21))] = 1.8
    multiplier[(hour >= 12) & (hour < 14)] = 2.25
    return np.asarray(FLAT_YUAN_PER_KWH * (1 + FLOATING_SHARE * (multiplier - 1)))


def _groups(slot_count: int) -> tuple[Groups, list[NodeType]]:
    rows = [(s, name, count) for s, place in enumerate(PLACES) for name, count in place.nodes.items()]
    types = [NODE_TYPES[name] for _, name, _ in rows]
    return (
        Groups(
            group_id=tuple(f"{PLACES[s].site_id}/{name}" for s, name, _ in rows),
            gpu_model=tuple(t.model for t in types),
            site=np.array([s for s, _, _ in rows]),
            node_count=np.repeat(np.array([[n] for _, _, n in rows]), slot_count, axis=1),
            capacity=np.array([[t.vcpu * 1000, t.ram_gib * 1024, t.gpus * 1000, 4000] for t in types]),
            gpu_memory_mib=np.array([t.gpu_memory_gib * 1024 for t in types]),
            idle_w=np.array([t.idle_w for t in types]),
            wake_yuan=np.zeros(len(rows)),
            initial_on_count=np.array([0.5 * n for _, _, n in rows]),
            island_node_count=np.array([32 if name in ("h800x8", "h20x8") else 0 for _, name, _ in rows]),
            packing_yield=np.full((len(rows), len(RESOURCES)), 0.97),
        ),
        types,
    )


def _sites(slots: Slots) -> Sites:
    hour = _hour_of_slot(slots)
    count = len(PLACES)
    rated = np.array([sum(n * NODE_TYPES[t].max_w for t, n in p.nodes.items()) / 1000 for p in PLACES])
    dry = facility.monthly_dry_bulb_c(JULY, hour)
    wet = facility.wet_bulb_c(dry, facility.monthly_dew_point_c(JULY))
    coefficients = []
    for place, rated_kw in zip(PLACES, rated, strict=True):
        plant = PLANTS[place.plant]
        k = facility.cooling_coefficient(plant.cooling, dry, wet, **plant.options)
        coefficients.append(facility.facility_coefficients(rated_kw, *plant.losses, k))
    caps = np.array([np.nan if p.cap is None else p.cap for p in PLACES])
    return Sites(
        site_id=tuple(p.site_id for p in PLACES),
        labels=tuple({"trust": p.label, "upf": str(p.site_id in UPF_SITES).lower()} for p in PLACES),
        is_edge=np.array([p.label != "cloud" for p in PLACES]),
        may_close=np.array([not p.is_home for p in PLACES]),
        initially_on=np.ones(count, dtype=bool),
        start_yuan=np.full(count, 1.0),
        rated_kw=rated,
        power_limit_kw=np.repeat(rated[:, None], len(hour), axis=1),
        fixed_kw=np.stack([c.fixed_kw for c in coefficients]),
        off_kw=np.stack([c.off_kw for c in coefficients]),
        loss_slope=np.stack([c.loss_slope for c in coefficients]),
        loss_square=np.stack([c.loss_square for c in coefficients]),
        price_yuan_per_kwh=np.outer(
            [1.05 if p.site_id == "dc-lingang" else 1.0 for p in PLACES], _price(hour)
        ),
        carbon_g_per_kwh=np.full((count, len(hour)), 585.0),
        ipue_cap_hourly=np.full(count, np.nan),
        hourly_is_hard=np.ones(count, dtype=bool),
        pue_cap_annual=caps,
        annual_is_hard=np.zeros(count, dtype=bool),
        ledger_beta_kwh=np.array([_beta_kwh(p, r, slots) for p, r in zip(PLACES, rated, strict=True)]),
        debt_yuan_per_kwh=np.full(count, 5.0),
        demand_yuan_per_kw=np.zeros(count),
        demand_peak_kw=np.zeros(count),
        reserved_floor_frac=np.zeros(count),
    )


def _beta_kwh(place: Place, rated_kw: float, slots: Slots) -> float:
    """Seasonal release of a July day at the plant's reference load, from a balanced ledger."""
    if place.cap is None:
        return 0.0
    plant = PLANTS[place.plant]
    reference_kw = REFERENCE_LOAD[place.plant] * rated_kw
    dry, wet, days = facility.year_of_cooling_hours()
    year = facility.facility_coefficients(
        rated_kw, *plant.losses, facility.cooling_coefficient(plant.cooling, dry, wet, **plant.options)
    )
    weight = np.repeat(days[:, None], facility.HOURS_PER_DAY, axis=1)
    phi = facility.seasonal_release(facility.ipue(year, rated_kw, reference_kw), reference_kw, weight)
    july = phi[JULY - 1][_hour_of_slot(slots).astype(int)]
    return facility.ledger_release_kwh(
        place.cap,
        july,
        reference_kw,
        slots.hours,
        balance_kwh=0.0,
        reference_balance_kwh=0.0,
        horizon_hours=24.0,
        hours_left_in_year=4080.0,
    )


def _network() -> Network:
    position = np.array([(p.x_km, p.y_km) for p in PLACES])
    between = np.linalg.norm(position[:, None] - position[None], axis=2)
    site_rtt = 0.4 + 0.2 + 0.015 * between
    np.fill_diagonal(site_rtt, 0.0)
    legs, rows = [], []
    for zone, xy in ZONES.items():
        distance = np.linalg.norm(position - np.array(xy), axis=1)
        for access, p99 in ACCESS_P99_MS.items():
            mobile = access.startswith("5g")
            hairpin = np.array(
                [HAIRPIN_P99_MS if mobile and p.site_id not in UPF_SITES else 0.0 for p in PLACES]
            )
            legs.append(f"{zone}/{access}")
            rows.append(p99 + 0.5 + 0.015 * distance + hairpin)
    uplink = np.array(
        [
            3_200_000.0 if p.site_id == "ai-core" else 400_000.0 if p.label == "cloud" else 25_000.0
            for p in PLACES
        ]
    )
    origins = len(legs) + len(PLACES)
    origin, site = (a.ravel() for a in np.meshgrid(np.arange(origins), np.arange(len(PLACES)), indexing="ij"))
    elsewhere = origin - len(legs) != site
    return Network(
        leg_id=tuple(legs),
        link_id=tuple(f"uplink/{p.site_id}" for p in PLACES),
        leg_rtt_p99_ms=np.array(rows),
        site_rtt_p99_ms=site_rtt,
        link_capacity_mbps=uplink,
        route_origin=origin[elsewhere],
        route_site=site[elsewhere],
        route_link=site[elsewhere],
        transfer_yuan_per_gb=np.full((len(PLACES), len(PLACES)), 0.02),
    )


@dataclasses.dataclass
class Work:
    """One class before it becomes a column of arrays."""

    name: str
    cpu: float
    ram_gib: float
    l20: float  # GPUs in L20 equivalents
    rank: int
    utilisation: float
    demand: np.ndarray[Any, Any]
    models: tuple[str, ...] = ()
    flows: tuple[tuple[str, float, float], ...] = ()
    require: tuple[dict[str, str], ...] = ()
    work_replica_h: float = 0.0
    release_slot: int = 0
    deadline_slot: int = 10_000
    max_parallel: float = 0.0
    gang: int = 1
    spread_sites: int = 0
    is_stage: bool = False


SHAPES = {
    "always": (1.0,) * 24,
    "traffic": tuple(np.interp(range(24), (0, 3, 8, 13, 18, 23), (0.3, 0.15, 1.0, 0.6, 0.95, 0.3))),
    "office": tuple(
        np.interp(
            range(24), (0, 6, 10, 11, 13, 15, 16, 20, 23), (0.25, 0.25, 1.0, 1.0, 0.8, 1.0, 1.0, 0.5, 0.25)
        )
    ),
    "school": tuple(1.0 if 8 <= h < 11 or 13 <= h < 16 else 0.05 for h in range(24)),
    "evening": tuple(np.interp(range(24), (0, 3, 8, 21, 23), (0.5, 0.3, 0.35, 1.0, 0.6))),
    "factory": tuple(1.0 if 6 <= h < 22 else 0.1 for h in range(24)),
}


def _works(class_count: int, slots: Slots, scale: float, rng: np.random.Generator) -> list[Work]:
    hour = _hour_of_slot(slots).astype(int)

    def shape(name: str, peak: float) -> np.ndarray[Any, Any]:
        return np.asarray(np.rint(scale * peak * np.array(SHAPES[name])[hour]))

    works: list[Work] = []
    zones = list(ZONES)
    upf, industrial = ({"upf": "true"},), ({"trust": "industrial"},)
    medical, public = ({"trust": "medical"}, {"trust": "cloud"}), ()
    for z in zones:
        works += [
            Work(
                f"w1-{z}",
                8,
                16,
                0.5,
                RANK_PUBLIC_SERVICE,
                0.6,
                shape("always", 5),
                flows=((f"{z}/rsu_fibre", 20, 60),),
                require=upf,
            ),
            Work(
                f"w1s-{z}",
                8,
                16,
                0.5,
                RANK_HARD_SAFETY,
                0.6,
                shape("always", 1),
                flows=((f"{z}/rsu_fibre", 10, 60),),
                require=upf,
            ),
            Work(
                f"w3-{z}",
                0.5,
                1,
                0.05,
                RANK_PUBLIC_SERVICE,
                0.6,
                shape("traffic", 30),
                flows=((f"{z}/pon", 100, 4),),
            ),
            Work(
                f"w4-{z}",
                0.25,
                0.5,
                0.04,
                RANK_PUBLIC_SERVICE,
                0.6,
                shape("always", 50),
                flows=((f"{z}/pon", 500, 4),),
            ),
            Work(
                f"w5-{z}",
                8,
                32,
                0,
                RANK_PUBLIC_SERVICE,
                0.5,
                shape("always", 2),
                flows=((f"{z}/pon", 1000, 16),),
                spread_sites=2,
            ),
            Work(
                f"w8-{z}",
                16,
                32,
                2,
                RANK_INTERACTIVE,
                0.5,
                shape("school", 4),
                flows=((f"{z}/pon_10g", 20, 1500),),
            ),
            Work(
                f"w7b-{z}",
                2,
                4,
                0.1,
                RANK_PUBLIC_SERVICE,
                0.5,
                shape("office", 6),
                flows=((f"{z}/pon", 75, 20),),
            ),
        ]
    for z in ("z5", "z6", "z7"):
        works += [
            Work(
                f"w6-{z}",
                2,
                4,
                0,
                RANK_HARD_SAFETY,
                0.5,
                shape("always", 26),
                flows=((f"{z}/5g_private", 10, 2),),
                require=industrial,
            ),
            Work(
                f"w6b-{z}",
                4,
                16,
                0.5,
                RANK_PUBLIC_SERVICE,
                0.6,
                shape("factory", 20),
                flows=((f"{z}/5g_private", 50, 200),),
                require=industrial,
            ),
        ]
    works.append(
        Work(
            "w7",
            8,
            48,
            1,
            RANK_PUBLIC_SERVICE,
            0.5,
            shape("office", 6),
            flows=(("z9/pon", 1000, 50),),
            require=medical,
            models=("l20", "l40s", "a100", "h20"),
        )
    )
    works.append(
        Work(
            "w7c",
            4,
            8,
            0.25,
            RANK_HARD_SAFETY,
            0.5,
            shape("always", 4),
            flows=(("z9/rsu_fibre", 40, 30),),
            require=({"trust": "medical"},),
        )
    )
    works.append(
        Work(
            "w10",
            32,
            128,
            4,
            RANK_INTERACTIVE,
            0.95,
            shape("office", 8),
            flows=(("z8/pon_10g", 20, 80),),
            models=("l40s",),
        )
    )
    for stage, cpu, ram, l20 in (
        ("ingest", 8, 16, 0.0),
        ("sync", 16, 128, 0.0),
        ("simulate", 8, 64, 1.0),
        ("render", 8, 32, 1.0),
    ):
        for kind, z in (("area", "z1"), ("park", "z6"), ("city", "z3")):
            flows = (
                ((f"{z}/pon", 30.0, 50.0),)
                if stage == "render"
                else ((f"{z}/pon", 100.0, 20.0),)
                if stage == "ingest"
                else ()
            )
            works.append(
                Work(
                    f"w13-{kind}-{stage}",
                    cpu,
                    ram,
                    l20,
                    RANK_PUBLIC_SERVICE,
                    0.5,
                    shape("always", 0),
                    flows=flows,
                    is_stage=True,
                    models=("l20", "l40s") if stage == "render" else (),
                )
            )
    remaining = class_count - len(works)
    slot_count = len(hour)
    for i in range(max(0, remaining)):
        z = zones[i % len(zones)]
        match i % 6:
            case 0 | 1:  # stateless CPU services
                cores = float(rng.choice([1, 2, 4, 8, 16]))
                peak = rng.uniform(0.5, 1.5) * 500_000 / cores / (remaining / 3) * 0.55
                works.append(
                    Work(
                        f"w15-{i}",
                        cores,
                        cores * float(rng.choice([2, 4, 8])) / 2,
                        0,
                        RANK_INTERACTIVE,
                        0.5,
                        shape(str(rng.choice(["office", "evening"])), peak),
                        flows=((f"{z}/pon", 50, 5),),
                    )
                )
            case 2:  # LLM serving
                gpus = float(rng.choice([1, 2, 4]))
                works.append(
                    Work(
                        f"w9-{i}",
                        16 * gpus,
                        96 * gpus,
                        gpus,
                        RANK_INTERACTIVE,
                        0.35,
                        shape("office", rng.uniform(2, 24)),
                        flows=((f"{z}/pon", 50, 50),),
                        models=("l20", "l40s", "h20", "a100", "h800", "a910b"),
                    )
                )
            case 3:  # training that runs or is expected
                gpus = int(rng.choice([1, 2, 4, 8]))
                gang = int(rng.choice([1, 1, 2, 8, 16])) if gpus == 8 else 1
                count = gang * max(1, round(rng.uniform(0.5, 1.5) * 5200 / (remaining / 6) / gpus / gang))
                models = (("h800",), ("h20", "h800"), ("a910b",), ("h20", "a910b", "h800"))[
                    int(rng.integers(4))
                ]
                works.append(
                    Work(
                        f"w12-{i}",
                        14 * gpus,
                        128 * gpus,
                        1.0 * gpus,
                        RANK_BATCH,
                        0.9,
                        shape("always", count),
                        models=models,
                        gang=gang,
                    )
                )
            case _:  # render frames and private analytics: deferrable
                release = int(rng.integers(0, slot_count // 2))
                deadline = int(rng.choice([slot_count - 6, slot_count, slot_count + 10]))
                l20 = float(rng.choice([0.0, 1.0]))
                works.append(
                    Work(
                        f"w11-{i}",
                        8,
                        48,
                        l20,
                        RANK_BATCH,
                        0.95,
                        shape("always", 0),
                        work_replica_h=scale * rng.uniform(5, 60),
                        release_slot=release,
                        deadline_slot=deadline,
                        max_parallel=40,
                        models=("l20", "l40s", "a100", "v100") if l20 else (),
                    )
                )
    del public
    return works[:class_count] if remaining < 0 else works


def _classes(works: list[Work], slot_count: int) -> Classes:
    count = len(works)
    return Classes(
        class_id=tuple(w.name for w in works),
        require_any=tuple(w.require for w in works),
        allowed_site_ids=((),) * count,
        gpu_milli_by_model=tuple(_gpu_milli(w) for w in works),
        gpu_memory_mib=np.array([40 * 1024 if w.name == "w7" else 0 for w in works]),
        priority_rank=np.array([w.rank for w in works]),
        demand_count=np.array([w.demand for w in works]),
        unserved_yuan_per_replica_h=np.array([(1e5, 1e3, 100.0, 50.0)[w.rank] for w in works]),
        work_replica_h=np.array([w.work_replica_h for w in works]),
        release_slot=np.array([w.release_slot for w in works]),
        deadline_slot=np.array([min(w.deadline_slot, slot_count) for w in works]),
        max_parallel_count=np.array([w.max_parallel for w in works]),
        lateness_yuan_per_replica_h=np.full(count, 5.0),
        gang_size=np.array([w.gang for w in works]),
        single_site=np.array([w.gang > 1 for w in works]),
        single_group=np.zeros(count, dtype=bool),
        single_island=np.array([1 < w.gang <= 32 for w in works]),
        spread_site_min=np.array([w.spread_sites for w in works]),
        spread_node_min=np.zeros(count, dtype=int),
        migration_yuan=np.array([2.0 * max(1.0, w.l20) for w in works]),
    )


def _gpu_milli(work: Work) -> dict[str, int]:
    if not work.l20:
        return {}
    models = work.models or tuple(GPU_EQUIVALENT)
    milli = {m: int(np.ceil(work.l20 * GPU_EQUIVALENT[m] * 1000)) for m in models}
    if work.rank == RANK_BATCH and work.models:
        milli = {m: int(work.l20 * 1000) for m in models}
    return {m: n if n < 1000 else -(-n // 1000) * 1000 for m, n in milli.items()}


def _pairs(works: list[Work], groups: Groups, types: list[NodeType]) -> Pairs:
    rows = []
    for c, work in enumerate(works):
        allowed = _gpu_milli(work)
        for g, node in enumerate(types):
            if allowed and node.model not in allowed:
                continue
            gpu_milli = allowed.get(node.model, 0)
            span_w = node.max_w - node.idle_w
            gpu_span = 0.8 * span_w / max(node.gpus, 1) if node.gpus else 0.0
            core_span = (0.2 if node.gpus else 1.0) * span_w / node.vcpu
            dynamic = work.utilisation * (gpu_span * gpu_milli / 1000 + core_span * work.cpu)
            rows.append((c, g, (work.cpu * 1000, work.ram_gib * 1024, gpu_milli, 0), dynamic))
    return Pairs(
        class_index=np.array([r[0] for r in rows]),
        group_index=np.array([r[1] for r in rows]),
        need=np.array([r[2] for r in rows], dtype=float),
        dynamic_w=np.array([r[3] for r in rows]),
        processing_p99_ms=np.full(len(rows), 15.0),
        running_count=np.zeros(len(rows)),
        other_yuan_per_replica_h=np.zeros(len(rows)),
    )


def _flows(works: list[Work], network: Network) -> Flows:
    rows = [
        (c, network.leg_id.index(leg), limit, mbps)
        for c, w in enumerate(works)
        for leg, limit, mbps in w.flows
    ]
    return Flows(
        class_index=np.array([r[0] for r in rows], dtype=int),
        leg_index=np.array([r[1] for r in rows], dtype=int),
        rtt_p99_max_ms=np.array([r[2] for r in rows], dtype=float),
        mbps=np.array([r[3] for r in rows], dtype=float),
    )


def _twins(works: list[Work], network: Network, slot_count: int) -> tuple[Graph, ...]:
    index = {w.name: c for c, w in enumerate(works)}
    graphs = []
    for kind, zone, count in (("area", "z1", 4.0), ("park", "z6", 3.0), ("city", "z3", 1.0)):
        names = [f"w13-{kind}-{stage}" for stage in ("ingest", "sync", "simulate", "render")]
        if any(n not in index for n in names):
            continue
        leg = -1 - network.leg_id.index(f"{zone}/pon")
        graphs.append(
            Graph(
                graph_id=f"w13-{kind}",
                count=(count,) * slot_count,
                stage_class=tuple(index[n] for n in names),
                stage_replicas=(1, 1, 2, 2),
                flows=(GraphFlow(0, 1, 60.0, 20.0), GraphFlow(1, 2, 20.0, 20.0), GraphFlow(2, 3, 40.0, 20.0)),
                paths=(GraphPath((leg, 0, 1, 2, 3, leg), 150.0),),
            )
        )
    return tuple(graphs)


def run(class_count: int, scale: float) -> dict[str, Any]:
    """Plan cold, then once more warm with the first plan's placements running; figures of both."""
    from solvers.plan_model import solve_plan
    from solvers.verify import verify_plan

    problem = city(class_count, scale)
    figures: dict[str, Any] = {
        "sites": problem.site_count,
        "groups": problem.group_count,
        "classes": problem.class_count,
        "slots": problem.slot_count,
        "pairs": problem.pair_count,
    }
    begun = time.perf_counter()
    cold = solve_plan(problem)
    figures["seconds_cold"] = round(time.perf_counter() - begun, 3)
    running = dataclasses.replace(
        problem, pairs=dataclasses.replace(problem.pairs, running_count=cold.running_count[:, 0])
    )
    begun = time.perf_counter()
    warm = solve_plan(running, warm_start=cold)
    figures["seconds"] = round(time.perf_counter() - begun, 3)
    if not (cold.has_plan and warm.has_plan):
        raise SystemExit(f"no plan: {cold.message or warm.message}")
    violations = verify_plan(problem, cold) + verify_plan(running, warm)
    if violations:
        raise SystemExit(f"the verifier refuses the plan: {[str(v) for v in violations[:5]]}")
    fleet, edge = warm.bound("fleet"), warm.bound("edge")
    figures |= {
        "violations": len(violations),
        "status": warm.status.value,
        "cost_yuan": round(warm.objective_yuan, 2),
        "objective": None if fleet is None else round(fleet.objective_yuan, 2),
        "bound": None if fleet is None or fleet.bound_yuan is None else round(fleet.bound_yuan, 2),
        "gap": None if fleet is None else fleet.gap_frac,
        "gap_edge": None if edge is None else edge.gap_frac,
        "unserved_replica_h": round(float((warm.unserved_count * problem.slots.hours).sum()), 3),
        **dict(warm.work),
        **{f"seconds_{k}": round(v, 3) for k, v in warm.seconds.items()},
    }
    return figures


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, default=363)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = run(arguments.classes, arguments.scale)
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:24} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
