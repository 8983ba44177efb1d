"""Seeded fleets for the scale benchmarks: metros of cloud and edge sites, one hour in July, every rule on.

`fleet_problem(replicas, nodes, sites, classes, seed)` makes a one-slot `PlacementProblem`:

1. sites     per metro about one in seven is a data centre with most of the nodes, others are edge rooms; plants, PUE
             and node types are those of the reference city (`benchmarks.plan`); two in three edge rooms may close
2. classes   gangs (islands, groups, sites), whole GPUs, GPU shares and CPU-only work, in shapes like those of the openb
             trace; local (RTT limits from a zone), metro-wide or national; labels, named sites, spread, path budgets
3. demand    every group's capacity is divided among the classes that may use it, so that the whole is servable at about
             `GPU_LOAD_FRAC` of its GPUs; counts add up to exactly `replicas`
4. limits    site power, link capacity, hourly caps (hard and priced), ledgers (priced, some hard), edge portfolio,
             reserved floors

Nothing here is known to the solvers: they see the problem only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.plan import ACCESS_P99_MS, GPU_EQUIVALENT, HAIRPIN_P99_MS, JULY, NODE_TYPES, PLANTS, NodeType
from solvers import facility
from solvers.problem import (
    CPU_MILLI,
    GPU_MILLI,
    MEMORY_MIB,
    RANK_BATCH,
    RANK_HARD_SAFETY,
    RANK_INTERACTIVE,
    RANK_PUBLIC_SERVICE,
    RESOURCES,
    Classes,
    Flows,
    Groups,
    Network,
    Pairs,
    Paths,
    PlacementProblem,
    Sites,
    Slots,
    Terms,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

HOUR_START_S = 1_784_088_000  # 15 July 2026, 12:00 in Shanghai
NOON = 12.5
SITES_PER_METRO = 50
CLOUD_FRAC = 0.15
CLOUD_WEIGHT = 12.0
"""Nodes of a data centre against those of an edge room: 30 % of all nodes then stand in edge rooms."""
GPU_LOAD_FRAC = 0.72
"""Of the GPUs that the classes together ask for, by a fair division of every group."""
ZONES_PER_METRO = 6
PROFILES = ("pon_10g", "pon", "5g_private")
CLOUD_TYPES = ("h800x8", "h20x8", "a100x8", "a910bx8", "l40sx8", "l20x8", "v100x8", "cpu_old")
EDGE_TYPES = ("l20x4", "t4x4", "l20x2", "l40sx8")
CLOUD_PLANTS = ("ai_hyper", "wse_mid", "wse_poor", "wp113")
EDGE_PLANTS = ("econ_micro", "dx_room", "cabinet")
EDGE_TRUST = ("generic", "generic", "medical", "government", "industrial")
MET_WITHIN_LIMIT = 0.8
"""An hourly cap is met at no more than this share of the power limit."""
KIND_SHARES = {"gang": 0.10, "whole": 0.20, "share": 0.35, "cpu": 0.35}
GPU_BUDGET = {"gang": 0.35, "whole": 0.45, "share": 0.20}
"""Of the GPU capacity that a group has in use."""
SHARE_MILLI = (100, 150, 200, 250, 300, 330, 400, 500, 600, 700, 810)
SHARE_ODDS = (0.14, 0.10, 0.12, 0.16, 0.06, 0.08, 0.06, 0.16, 0.04, 0.04, 0.04)
CPU_CORES = (1, 2, 4, 8, 16)
CPU_ODDS = (0.04, 0.10, 0.26, 0.38, 0.22)
SMALL_CORES = 8
GIB_PER_CORE = (2, 4, 4, 4, 8)
SERVICE_UTILISATION = (0.4, 0.75)


class Kind(NamedTuple):
    """One class before it becomes arrays."""

    kind: str
    scope: str
    metro: int
    zone: int
    profile: str
    models: tuple[str, ...]
    gpus: int
    share_milli: int
    cores: float
    ram_gib: float
    gang: int
    together: str
    radius_km: float
    rank: int
    utilisation: float
    weight: float
    mbps: float


@dataclass(frozen=True, eq=False)
class _Map:
    """Where things are."""

    metro_of_site: Ints
    is_cloud: Bools
    xy_km: Floats
    metro_xy_km: Floats
    zone_xy_km: Floats
    """[M, Z, 2]"""
    upf: Bools


def fleet_problem(
    replicas: int = 100_000, nodes: int = 10_000, sites: int = 50, classes: int = 300, seed: int = 7
) -> PlacementProblem:
    """The problem of so many replicas, nodes, sites and classes; ValueError where they do not go together."""
    if nodes < 4 * sites or replicas < 4 * classes:
        raise ValueError("a fleet needs at least 4 nodes a site and 4 replicas a class")
    rng = np.random.default_rng(seed)
    where = _map(sites, rng)
    groups, types = _groups(where, nodes, rng)
    plants = [str(rng.choice(CLOUD_PLANTS if c else EDGE_PLANTS)) for c in where.is_cloud]
    trust = ["cloud" if c else str(rng.choice(EDGE_TRUST)) for c in where.is_cloud]
    kinds = _kinds(where, classes, types, rng)
    legs, leg_rtt = _legs(where)
    pairs, demand = _pairs_and_demand(kinds, groups, types, where, leg_rtt)
    demand = _rounded(demand, kinds, replicas)
    flows, paths = _flows(kinds, legs, leg_rtt, where)
    site_table = _sites(where, groups, types, plants, trust, rng)
    return PlacementProblem(
        problem_id=f"fleet-{replicas}-{nodes}-{sites}-{classes}-{seed}",
        slots=Slots(start_s=np.array([HOUR_START_S]), hours=np.array([1.0])),
        sites=site_table,
        groups=groups,
        classes=_classes(kinds, demand, where, trust, rng),
        pairs=pairs,
        flows=flows,
        paths=paths,
        network=_network(legs, leg_rtt, where, kinds, demand, groups, rng),
        terms=Terms(portfolio_pue_cap_annual=1.45, portfolio_beta_kwh=_portfolio_beta(site_table)),
    )


# -- sites and nodes ---------------------------------------------------------------------------------------------


def _map(sites: int, rng: np.random.Generator) -> _Map:
    metros = max(1, round(sites / SITES_PER_METRO))
    metro = np.sort(np.arange(sites) % metros)
    rank_in_metro = np.arange(sites) - np.searchsorted(metro, metro)
    clouds = np.maximum(1, np.rint(CLOUD_FRAC * np.bincount(metro))).astype(int)
    is_cloud = rank_in_metro < clouds[metro]
    metro_xy = rng.uniform(-700.0, 700.0, (metros, 2)) if metros > 1 else np.zeros((1, 2))
    offset = rng.normal(0.0, 14.0, (sites, 2)) * np.where(is_cloud, 1.8, 1.0)[:, None]
    zones = metro_xy[:, None] + rng.normal(0.0, 12.0, (metros, ZONES_PER_METRO, 2))
    return _Map(metro, is_cloud, metro_xy[metro] + offset, metro_xy, zones, rng.random(sites) < 0.3)


def _groups(where: _Map, nodes: int, rng: np.random.Generator) -> tuple[Groups, list[NodeType]]:
    rows: list[tuple[int, str, float]] = []
    for s, cloud in enumerate(where.is_cloud):
        size = float(rng.lognormal(0.0, 0.4)) * (CLOUD_WEIGHT if cloud else 1.0)
        if cloud:
            chosen = ["cpu_std", *rng.choice(CLOUD_TYPES, int(rng.integers(3, 6)), replace=False).tolist()]
            shares = np.append(0.45, rng.dirichlet(np.full(len(chosen) - 1, 3.0)) * 0.55)
        else:
            chosen = ["cpu_edge", *rng.choice(EDGE_TYPES, int(rng.integers(1, 3)), replace=False).tolist()]
            shares = np.append(0.4, rng.dirichlet(np.full(len(chosen) - 1, 3.0)) * 0.6)
        rows += [(s, name, size * share) for name, share in zip(chosen, shares, strict=True)]
    weight = np.array([w for _, _, w in rows])
    count = np.maximum(1, np.floor(weight / weight.sum() * nodes)).astype(int)
    biggest_first = np.argsort(-weight, kind="stable")
    missing = nodes - int(count.sum())
    if missing >= 0:
        count[biggest_first] += missing // len(count) + (np.arange(len(count)) < missing % len(count))
    else:
        count[biggest_first[0]] += missing
    types = [NODE_TYPES[name] for _, name, _ in rows]
    island = [32 if n in ("h800x8", "h20x8", "a910bx8") else 0 for _, n, _ in rows]
    return (
        Groups(
            group_id=tuple(f"s{s:04d}/{name}" for s, name, _ in rows),
            gpu_model=tuple(t.model for t in types),
            site=np.array([s for s, _, _ in rows]),
            node_count=count[:, None],
            capacity=np.array([[t.vcpu * 1000, t.ram_gib * 1024, t.gpus * 1000, 4000] for t in types]),
            gpu_memory_mib=np.array([t.gpu_memory_gib * 1024 for t in types]),
            idle_w=np.array([float(t.idle_w) for t in types]),
            wake_yuan=np.zeros(len(rows)),
            initial_on_count=0.5 * count,
            island_node_count=np.array(island),
            packing_yield=np.ones((len(rows), len(RESOURCES))),
        ),
        types,
    )


def _sites(
    where: _Map,
    groups: Groups,
    types: list[NodeType],
    plants: list[str],
    trust: list[str],
    rng: np.random.Generator,
) -> Sites:
    count = len(plants)
    rated = np.zeros(count)
    np.add.at(rated, groups.site, groups.node_count[:, 0] * np.array([t.max_w for t in types]) / 1000.0)
    dry = facility.monthly_dry_bulb_c(JULY, NOON)
    wet = facility.wet_bulb_c(dry, facility.monthly_dew_point_c(JULY))
    parts = []
    for name, rated_kw in zip(plants, rated, strict=True):
        plant = PLANTS[name]
        k = facility.cooling_coefficient(plant.cooling, dry, wet, **plant.options)
        parts.append(facility.facility_coefficients(rated_kw, *plant.losses, k))
    fixed, slope, square = (
        np.array([float(getattr(c, name)) for c in parts])
        for name in ("fixed_kw", "loss_slope", "loss_square")
    )
    edge = ~where.is_cloud
    may_close = edge & (rng.random(count) < 0.67)
    # an hourly cap that the site meets from 40 to 65 % of its rated load on, and within its power limit
    met_at = rng.uniform(0.4, 0.65, count)
    has_hourly = rng.random(count) < np.where(may_close, 0.3, 0.0)
    has_hourly |= ~may_close & (rng.random(count) < 0.1)
    # ledgers release what the plant needs at its usual load
    usual = np.where(edge, 0.55, 0.55) * rated
    cap = np.where(edge, 1.5, 1.28)
    release = fixed + (1 + slope) * usual + square / rated * usual**2 - cap * usual
    has_ledger = rng.random(count) < 0.6
    limit = np.where(rng.random(count) < 0.25, rng.uniform(0.45, 0.6, count), 1.0)
    at = np.minimum(met_at, MET_WITHIN_LIMIT * limit) * rated
    ipue_at = (fixed + (1 + slope) * at + square / rated * at**2) / at
    return Sites(
        site_id=tuple(f"s{s:04d}" for s in range(count)),
        labels=tuple(
            {"trust": t, "metro": f"m{m:02d}", "upf": str(bool(u)).lower()}
            for t, m, u in zip(trust, where.metro_of_site, where.upf, strict=True)
        ),
        is_edge=edge,
        may_close=may_close,
        initially_on=np.ones(count, dtype=bool),
        start_yuan=np.ones(count),
        rated_kw=rated,
        power_limit_kw=(rated * limit)[:, None],
        fixed_kw=fixed[:, None],
        off_kw=0.1 * fixed[:, None],
        loss_slope=slope[:, None],
        loss_square=square[:, None],
        price_yuan_per_kwh=(0.72 * rng.uniform(0.85, 1.2, count))[:, None],
        carbon_g_per_kwh=np.full((count, 1), 585.0),
        ipue_cap_hourly=np.where(has_hourly, ipue_at, np.nan),
        hourly_is_hard=may_close,
        pue_cap_annual=np.where(has_ledger, cap, np.nan),
        annual_is_hard=may_close & (rng.random(count) < 0.3),
        ledger_beta_kwh=np.where(has_ledger, release + 0.1 * fixed, 0.0),
        debt_yuan_per_kwh=np.full(count, 5.0),
        demand_yuan_per_kw=np.zeros(count),
        demand_peak_kw=np.zeros(count),
        reserved_floor_frac=np.where(rng.random(count) < 0.1, 0.1, 0.0),
    )


def _portfolio_beta(sites: Sites) -> float:
    """Edge rooms together may owe what half-loaded rooms owe against 1.45."""
    e = sites.is_edge
    usual = 0.45 * sites.rated_kw[e]
    need = sites.fixed_kw[e, 0] + (1 + sites.loss_slope[e, 0] - 1.45) * usual
    return float((need + sites.loss_square[e, 0] / sites.rated_kw[e] * usual**2).sum())


# -- work --------------------------------------------------------------------------------------------------------


def _kinds(where: _Map, classes: int, types: list[NodeType], rng: np.random.Generator) -> list[Kind]:
    names = list(KIND_SHARES)
    counts = np.floor(np.array(list(KIND_SHARES.values())) * classes).astype(int)
    counts[-1] += classes - counts.sum()
    metros = len(where.metro_xy_km)
    scopes = {
        "gang": (("metro", "national"), (0.5, 0.5)),
        "whole": (("local", "metro", "national"), (0.25, 0.45, 0.30)),
        "share": (("local", "metro", "national"), (0.60, 0.35, 0.05)),
        "cpu": (("local", "metro", "national"), (0.45, 0.45, 0.10)),
    }
    kinds = []
    for name, count in zip(names, counts, strict=True):
        for i in range(count):
            names_of_scope, odds = scopes[name]
            scope = str(rng.choice(names_of_scope, p=odds))
            kinds.append(_kind(name, scope, i % metros, metros, rng))
    return kinds


def _kind(name: str, scope: str, metro: int, metros: int, rng: np.random.Generator) -> Kind:
    gpus = share = 0
    models: tuple[str, ...] = ()
    gang, together, cores, ram = 1, "", 0.0, 0.0
    if name == "gang":
        gpus, gang = 8, int(rng.choice((2, 4, 8, 16), p=(0.4, 0.3, 0.2, 0.1)))
        models = tuple(rng.choice(("h800", "h20", "a100", "a910b"), 2, replace=False).tolist())
        together = str(rng.choice(("island", "group", "site")))
        cores, ram = 8.0 * gpus, 64.0 * gpus
    elif name == "whole":
        gpus = int(rng.choice((1, 2, 4, 8), p=(0.5, 0.25, 0.15, 0.10)))
        pool = (
            ("l20", "l40s", "a100", "h20", "v100")
            if gpus > 4 or rng.random() < 0.5
            else ("l20", "t4", "l40s")
        )
        models = tuple(rng.choice(pool, 3, replace=False).tolist())
        cores, ram = float(rng.choice((4, 8, 12))) * gpus, float(rng.choice((16, 32, 48))) * gpus
    elif name == "share":
        share = int(rng.choice(SHARE_MILLI, p=SHARE_ODDS))
        models = ("l20", *rng.choice(("l40s", "t4", "a100", "v100"), 2, replace=False).tolist())
        cores, ram = max(0.5, round(share * float(rng.choice((4, 8, 10))) / 500) / 2), share * 0.024
    else:
        cores = float(rng.choice(CPU_CORES, p=CPU_ODDS))
        ram = cores * float(rng.choice(GIB_PER_CORE))
    rank = int(
        rng.choice(
            (RANK_HARD_SAFETY, RANK_PUBLIC_SERVICE, RANK_INTERACTIVE, RANK_BATCH), p=(0.05, 0.25, 0.4, 0.3)
        )
    )
    return Kind(
        kind=name, scope=scope, metro=metro, zone=int(rng.integers(ZONES_PER_METRO)),
        profile=str(rng.choice(PROFILES)), models=models, gpus=gpus, share_milli=share, cores=cores,
        ram_gib=max(0.25, ram), gang=gang, together=together, radius_km=float(rng.choice((12.0, 20.0, 35.0))),
        rank=rank, utilisation=float(rng.uniform(*SERVICE_UTILISATION)),
        weight=float(rng.lognormal(0.0, 0.8)) / (metros if scope == "national" else 1),
        mbps=float(rng.choice((0.0, 0.5, 2.0, 8.0))) if scope == "local" else float(rng.choice((0.0, 0.2))),
    )  # fmt: skip


def _legs(where: _Map) -> tuple[list[str], Floats]:
    """Leg ids and [A, S] RTT p99: access + 0.5 + 0.015 ms/km, mobile access through the core unless a UPF is there."""
    names, rows = [], []
    for m in range(len(where.metro_xy_km)):
        for z in range(ZONES_PER_METRO):
            distance = np.linalg.norm(where.xy_km - where.zone_xy_km[m, z], axis=1)
            for profile in PROFILES:
                hairpin = np.where(where.upf, 0.0, HAIRPIN_P99_MS if profile.startswith("5g") else 0.0)
                names.append(f"m{m:02d}z{z}/{profile}")
                rows.append(ACCESS_P99_MS[profile] + 0.5 + 0.015 * distance + hairpin)
    return names, np.array(rows)


def _leg_index(kind: Kind) -> int:
    return (kind.metro * ZONES_PER_METRO + kind.zone) * len(PROFILES) + PROFILES.index(kind.profile)


def _rtt_limit_ms(kind: Kind, leg_rtt: Floats, where: _Map) -> float:
    """What a site within the class's radius has, but at least the third nearest site of the metro."""
    row = leg_rtt[_leg_index(kind), where.metro_of_site == kind.metro]
    hairpin = HAIRPIN_P99_MS if kind.profile.startswith("5g") else 0.0
    near = ACCESS_P99_MS[kind.profile] + 0.5 + 0.015 * kind.radius_km + hairpin
    edge = leg_rtt[_leg_index(kind), (where.metro_of_site == kind.metro) & ~where.is_cloud]
    third = np.sort(edge)[min(5, len(edge) - 1)] if len(edge) else float(row.max())
    return float(max(near, third))


def _pairs_and_demand(
    kinds: list[Kind], groups: Groups, types: list[NodeType], where: _Map, leg_rtt: Floats
) -> tuple[Pairs, Floats]:
    """Needs of every class on the groups of its reach, and the demand that shares out `GPU_LOAD_FRAC` of each group."""
    models = np.array(groups.gpu_model)
    capacity = groups.capacity
    nodes = groups.node_count[:, 0].astype(float)
    site_cloud = where.is_cloud[groups.site]
    idle = np.array([t.idle_w for t in types])
    span = np.array([t.max_w for t in types]) - idle
    equivalent = np.array([GPU_EQUIVALENT.get(t.model, 1.0) for t in types])
    part_c, part_g, part_need, part_w, part_ms, part_ok = [], [], [], [], [], []
    for c, k in enumerate(kinds):
        in_reach = (
            np.ones(len(types), bool)
            if k.scope == "national"
            else where.metro_of_site[groups.site] == k.metro
        )
        if k.models:
            in_reach = in_reach & np.isin(models, k.models)
        gpu = np.full(len(types), k.gpus * 1000)
        if k.share_milli:
            gpu = np.rint(k.share_milli * equivalent / 10).astype(int) * 10
            gpu = np.where(gpu > 1000, -(-gpu // 1000) * 1000, np.maximum(gpu, 50))
        if k.kind == "cpu":
            # GPU nodes are kept for GPU work and small companions, as operators taint them
            in_reach = in_reach & ((models == "") | (k.cores <= SMALL_CORES))
        g = np.flatnonzero(in_reach)
        need = np.zeros((len(g), len(RESOURCES)), dtype=np.int64)
        need[:, CPU_MILLI] = max(100, round(k.cores * 10) * 100)
        need[:, MEMORY_MIB] = max(64, round(k.ram_gib * 16) * 64)
        need[:, GPU_MILLI] = gpu[g] if k.models else 0
        need[:, 3] = 1
        part_c.append(np.full(len(g), c))
        part_g.append(g)
        part_need.append(need)
        gpu_part = need[:, GPU_MILLI] / np.maximum(capacity[g, GPU_MILLI], 1)
        cpu_part = need[:, CPU_MILLI] / capacity[g, CPU_MILLI]
        part_w.append(
            k.utilisation
            * span[g]
            * np.where(
                need[:, GPU_MILLI] > 0,
                0.85 * gpu_part + 0.1 * cpu_part,
                cpu_part * np.where(models[g] == "", 1.0, 0.12),
            )
        )
        part_ms.append(4.0 + 6.0 * equivalent[g])
        ok = (need <= capacity[g]).all(axis=1)
        if k.scope == "local":
            ok &= leg_rtt[_leg_index(k)][groups.site[g]] <= _rtt_limit_ms(k, leg_rtt, where)
        if k.kind == "gang":
            ok &= site_cloud[g] & (nodes[g] >= k.gang)
        part_ok.append(ok & ((models[g] == "") == (k.kind == "cpu")))
    pc, pg, need, ok = (np.concatenate(x) for x in (part_c, part_g, part_need, part_ok))
    kind_of = np.array([list(KIND_SHARES).index(k.kind) for k in kinds])[pc]
    weight = np.array([k.weight for k in kinds])[pc] * ok
    total = np.zeros((len(types), len(KIND_SHARES)))
    np.add.at(total, (pg, kind_of), weight)
    share = weight / np.maximum(total[pg, kind_of], 1e-12)
    budget = np.array([*GPU_BUDGET.values(), 0.0])
    present = np.where(total > 0, budget, 0.0)
    present /= np.maximum(present.sum(axis=1, keepdims=True), 1e-12)
    used = np.where(kind_of < 3, GPU_LOAD_FRAC * present[pg, kind_of], 1.0) * share * nodes[pg]
    per_node = np.where(need > 0, capacity[pg] / np.maximum(need, 1), np.inf).min(axis=1)
    demand = np.zeros(len(kinds))
    np.add.at(demand, pc, np.where(ok, used * per_node, 0.0))
    pairs = Pairs(
        class_index=pc, group_index=pg, need=need, dynamic_w=np.concatenate(part_w),
        processing_p99_ms=np.concatenate(part_ms), running_count=np.zeros(len(pc)),
        other_yuan_per_replica_h=np.zeros(len(pc)),
    )  # fmt: skip
    return pairs, demand


def _rounded(demand: Floats, kinds: list[Kind], replicas: int) -> Floats:
    """Whole replicas, whole gangs, `replicas` in all: the difference is spread over CPU-only classes."""
    gang = np.array([k.gang for k in kinds])
    out = np.floor(demand / gang) * gang
    cpu = np.flatnonzero([k.kind == "cpu" for k in kinds])
    left = replicas - out.sum()
    goal = np.maximum(out[cpu] * (1 + left / max(out[cpu].sum(), 1.0)), 0.0)
    out[cpu] = np.floor(goal)
    order = cpu[np.argsort(-(goal - np.floor(goal)), kind="stable")]
    short = int(replicas - out.sum())
    out[order[:short]] += 1
    return np.asarray(out)


def _classes(
    kinds: list[Kind], demand: Floats, where: _Map, trust: list[str], rng: np.random.Generator
) -> Classes:
    count = len(kinds)
    require: list[tuple[dict[str, str], ...]] = []
    for k in kinds:
        if k.kind == "gang":
            require.append(({"trust": "cloud"},))
        elif k.scope != "local" and rng.random() < 0.25:
            require.append(({"trust": "cloud"}, {"trust": str(rng.choice(EDGE_TRUST))}))
        else:
            require.append(())
    return Classes(
        class_id=tuple(f"c{i:04d}-{k.kind}-{k.scope}" for i, k in enumerate(kinds)),
        require_any=tuple(require),
        allowed_site_ids=tuple(() for _ in kinds),
        gpu_milli_by_model=tuple(dict.fromkeys(k.models, k.gpus * 1000 or k.share_milli) for k in kinds),
        gpu_memory_mib=np.array(
            [24 * 1024 if k.kind == "whole" and i % 2 else 0 for i, k in enumerate(kinds)]
        ),
        priority_rank=np.array([k.rank for k in kinds]),
        demand_count=demand[:, None],
        unserved_yuan_per_replica_h=np.array([200.0 + 100.0 * k.gpus for k in kinds]),
        work_replica_h=np.zeros(count),
        release_slot=np.zeros(count, np.int64),
        deadline_slot=np.ones(count, np.int64),
        max_parallel_count=np.zeros(count),
        lateness_yuan_per_replica_h=np.zeros(count),
        gang_size=np.array([k.gang for k in kinds]),
        single_site=np.array([k.together != "" for k in kinds]),
        single_group=np.array([k.together in ("group", "island") for k in kinds]),
        single_island=np.array([k.together == "island" for k in kinds]),
        spread_site_min=np.array(
            [2 if k.kind == "cpu" and k.scope == "metro" and i % 4 == 0 else 0 for i, k in enumerate(kinds)]
        ),
        spread_node_min=np.array([3 if k.kind == "share" and i % 5 == 0 else 0 for i, k in enumerate(kinds)]),
        migration_yuan=np.full(count, 0.5),
    )


def _flows(kinds: list[Kind], legs: list[str], leg_rtt: Floats, where: _Map) -> tuple[Flows, Paths]:
    """Local classes have an RTT limit, every fifth with a GPU a path budget; metro-wide ones load links only."""
    del legs
    c = [i for i, k in enumerate(kinds) if k.scope == "local" or k.mbps > 0]
    limits = [_rtt_limit_ms(kinds[i], leg_rtt, where) if kinds[i].scope == "local" else np.nan for i in c]
    budgeted = [i for i in c if kinds[i].scope == "local" and kinds[i].models and i % 5 == 0]
    leg = np.array([_leg_index(kinds[i]) for i in c], dtype=np.int64)
    budget_leg = np.array([_leg_index(kinds[i]) for i in budgeted], dtype=np.int64)
    return (
        Flows(
            class_index=np.array(c, dtype=np.int64),
            leg_index=leg,
            rtt_p99_max_ms=np.array(limits),
            mbps=np.array([kinds[i].mbps for i in c]),
        ),
        Paths(
            class_index=np.array(budgeted, dtype=np.int64),
            leg_in_index=budget_leg,
            leg_out_index=budget_leg,
            budget_ms=np.array([2 * _rtt_limit_ms(kinds[i], leg_rtt, where) + 12.0 for i in budgeted]),
        ),
    )


def _network(
    legs: list[str], leg_rtt: Floats, where: _Map, kinds: list[Kind], demand: Floats, groups: Groups,
    rng: np.random.Generator,
) -> Network:  # fmt: skip
    """Uplinks of sites for the traffic of their own metro; capacity around what evenly spread work would load."""
    sites = len(where.is_cloud)
    metros = len(where.metro_xy_km)
    per_metro = ZONES_PER_METRO * len(PROFILES)
    weight = np.zeros(sites)
    np.add.at(weight, groups.site, groups.node_count[:, 0])
    traffic = np.zeros(metros)
    for k, count in zip(kinds, demand, strict=True):
        traffic[k.metro] += k.mbps * count
    in_metro = np.bincount(where.metro_of_site, weights=weight, minlength=metros)
    usual = traffic[where.metro_of_site] * weight / in_metro[where.metro_of_site]
    capacity = np.maximum(usual * rng.uniform(1.6, 5.0, sites), 10.0)
    origin = (where.metro_of_site[:, None] * per_metro + np.arange(per_metro)[None]).ravel()
    site = np.repeat(np.arange(sites), per_metro)
    between = np.linalg.norm(where.xy_km[:, None] - where.xy_km[None], axis=2)
    rtt = 0.6 + 0.015 * between
    np.fill_diagonal(rtt, 0.0)
    return Network(
        leg_id=tuple(legs),
        link_id=tuple(f"uplink/s{s:04d}" for s in range(sites)),
        leg_rtt_p99_ms=leg_rtt,
        site_rtt_p99_ms=rtt,
        link_capacity_mbps=capacity,
        route_origin=origin,
        route_site=site,
        route_link=site,
        transfer_yuan_per_gb=np.full((sites, sites), 0.02),
    )


def changed(problem: PlacementProblem, **tables: Any) -> PlacementProblem:
    """The same problem with some tables replaced field by field: changed(p, classes={"demand_count": …})."""
    new = {name: dataclasses.replace(getattr(problem, name), **fields) for name, fields in tables.items()}
    return dataclasses.replace(problem, **new)
