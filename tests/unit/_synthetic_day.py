"""A small played day made by hand: every kind of event, physics that adds up, no planner and no world needed.

`synthetic_day()` gives (events, fleet, window); the same arguments give the same bytes. Work runs at sites for drawn
times, meters follow from what runs, plans promise what the meters will read (wrongly at first), e01-hub fails from
09:40 to 11:10, ai-core's cooling degrades from 13:00 to 17:00, every mode of move occurs, one workload never fits.
"""

# ruff: noqa: E501 - rows of tables are read across

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster_sim.result import ClassLatency, DayWindow, LatencyMeasured, Mark
from suanli.model import Candidate, Event, EventKind, Explanation, Fleet, Reason, ReasonCode, Relaxation

START_S = 1784044800  # Wednesday 15 July 2026, 00:00 in Shanghai
DAY_S = 86_400
DRAIN_S = 4 * 3600
METER_S = 900
OUTAGE = (START_S + 9 * 3600 + 40 * 60, START_S + 11 * 3600 + 10 * 60)
DEGRADED = (START_S + 13 * 3600, START_S + 17 * 3600)
PRICES_JULY = (
    *[0.32] * 6,
    *[0.64] * 2,
    *[1.05] * 3,
    *[0.64] * 2,
    *[1.31] * 2,
    *[1.05] * 3,
    *[0.64] * 3,
    *[0.45] * 3,
)

CLASS_NAMES = {
    "W1": ("V2X perception", "路口车路协同感知"),
    "W6": ("soft PLC", "软PLC控制"),
    "W9": ("LLM inference", "大模型推理"),
    "W11": ("film rendering", "影视离线渲染"),
    "W12": ("AI training", "人工智能训练"),
    "W13": ("city twin", "数字孪生"),
}

# id, kind, host, English, Chinese, x, y, rated kW, annual cap, groups (GPU model, GPUs per node, nodes, idle W, max W)
SITES: tuple[tuple[Any, ...], ...] = (
    ("ai-core", "cloud", "data_center", "AI centre", "长三角AI先进计算中心", 4.5, 1.5, 190, 1.30, [("H800", 8, 8, 1900, 8400), ("H20", 8, 8, 1500, 5900)]),
    ("dc-g60", "cloud", "data_center", "G60 cloud", "G60科创云数据中心", 6.5, 5.5, 48, None, [("A100", 8, 2, 1500, 5400), ("", 0, 38, 280, 750)]),
    ("dc-old", "cloud", "data_center", "Old town DC", "老城数据中心", 1.0, -1.0, 13, None, [("V100", 8, 1, 900, 3300), ("", 0, 19, 180, 450)]),
    ("dc-lingang", "cloud", "data_center", "Lingang hub", "临港枢纽", 62.0, -12.0, 94, 1.25, [("H20", 8, 8, 1500, 5900), ("", 0, 32, 280, 750)]),
    ("e01-hub", "edge", "telecom_room", "Songjiang Hub", "松江枢纽", -1.5, -3.5, 6.3, 1.5, [("L20", 4, 3, 500, 1900)]),
    ("e02-jkq", "edge", "base_station", "Economic zone", "经开区", 3.5, 2.0, 5.0, 1.5, [("L20", 4, 2, 500, 1900)]),
    ("e03-iiot-e", "edge", "telecom_room", "Industry east", "东部示范区", 8.0, 6.5, 9.0, 1.5, [("L20", 4, 3, 500, 1900), ("T4", 4, 2, 300, 800)]),
    ("e06-edu", "edge", "campus", "University town", "松江大学城", -1.0, 4.5, 8.0, 1.5, [("L20", 4, 4, 500, 1900)]),
    ("e07-film", "edge", "campus", "Film park", "科技影都", 6.0, -2.5, 17.0, 1.5, [("L40S", 8, 3, 1000, 4200)]),
    ("e08-cbd-twin", "edge", "campus", "CBD twin room", "枢纽CBD孪生", -1.0, -2.8, 7.5, 1.5, [("L20", 4, 3, 500, 1900)]),
)  # fmt: skip
ZONES = (
    ("z1", "Hub and CBD", "枢纽商务区", -1.2, -3.2, "agg-w"),
    ("z4", "University town", "大学城", -1.0, 4.5, "agg-w"),
    ("z5", "Economic zone", "经开区", 3.5, 2.0, "agg-e"),
    ("z8", "Film core", "影视核心区", 6.0, -2.5, "agg-e"),
)
HUBS = {"agg-e": (4.0, 2.0), "agg-w": (-2.0, 1.0), "core": (0.5, 1.0)}

# class: kind, priority, GPU milli by model, replicas, zone of its users, hours, sites by preference
CLASSES: dict[str, tuple[Any, ...]] = {
    "W1": ("inference", "hard_safety", {"L20": 500}, 1, "z1", None, ("e01-hub", "e02-jkq", "e08-cbd-twin")),
    "W6": ("inference", "hard_safety", {}, 1, "z5", None, ("e03-iiot-e",)),
    "W9": (
        "inference",
        "interactive",
        {"H20": 2000, "A100": 1000},
        2,
        "z4",
        None,
        ("ai-core", "dc-g60", "dc-lingang"),
    ),
    "W11": ("batch", "batch", {"L40S": 1000, "L20": 2000}, 1, "z8", 2.0, ("e07-film", "e06-edu", "ai-core")),
    "W12": ("training", "batch", {"H800": 8000, "H20": 8000}, 2, "", 5.0, ("ai-core", "dc-lingang")),
    "W13": ("twin", "public_service", {"L20": 1000}, 1, "z1", None, ("e08-cbd-twin", "e06-edu", "e01-hub")),
}
WORKLOADS_PER_CLASS = {"W1": 10, "W6": 6, "W9": 6, "W11": 60, "W12": 22, "W13": 8}


def synthetic_fleet() -> Fleet:
    """Ten sites, four zones, July prices."""
    return Fleet.model_validate(
        {
            "sites": [_site(*row) for row in SITES],
            "zones": [
                dict(
                    zone_id=z,
                    display_name=en,
                    display_name_zh=zh,
                    x_km=x,
                    y_km=y,
                    hub_id=hub,
                    population_count=90_000,
                )
                for z, en, zh, x, y, hub in ZONES
            ],
            "network": {
                "hubs": HUBS,
                "links": [
                    dict(
                        link_id=f"up-{row[0]}",
                        ends=[row[0], "core"],
                        capacity_gbps=25,
                        hop_count=2,
                        length_km=5,
                    )
                    for row in SITES
                ],
                "access": [],
            },
            "tariffs": [dict(tariff_id="sh", price_yuan_per_kwh_by_month={7: list(PRICES_JULY)})],
            "carbon_g_per_kwh_by_hour": [420.0] * 24,
        }
    )


def _site(site_id, kind, host, en, zh, x, y, rated_kw, cap, groups):
    return dict(
        site_id=site_id,
        kind=kind,
        host_kind=host,
        display_name=en,
        display_name_zh=zh,
        x_km=x,
        y_km=y,
        rated_it_kw=rated_kw,
        power_limit_kw=2 * rated_kw,
        facility=dict(plant="test", e0=0.04, e1=0.05, e2=0.0, lighting=0.01, cooling_fixed=0.03, cooling="dx_economiser"),
        tariff_id="sh",
        price_markup_frac=0.05 if site_id == "dc-lingang" else 0.0,
        caps=dict(pue_cap_annual=cap),
        ledger_opening=dict(it_energy_kwh=rated_kw * 0.5 * 4680, facility_energy_kwh=rated_kw * 0.5 * 4680 * ((cap or 1.5) - 0.03)),
        groups=[
            dict(
                group_id=f"g{i}", node_type=f"n{i}", node_count=count, cpu_milli=96_000, memory_mib=524_288,
                gpu_model=model, gpu_count=gpus, gpu_memory_mib=49_152 if gpus else 0, idle_w=idle, max_w=most,
                gpu_dynamic_w=(most - idle) / gpus if gpus else 0.0,
            )
            for i, (model, gpus, count, idle, most) in enumerate(groups)
        ],
    )  # fmt: skip


@dataclass
class Run:
    """One placement: ordered, ran, ended (None: still runs)."""

    placement_id: str
    workload: str
    site_id: str
    ordered_s: int
    ran_s: int | None
    ended_s: int | None
    gpu_milli: int
    reference_gpu_milli: int
    phase: str = "succeeded"


@dataclass
class Day:
    """Events under construction; `add` keeps the order in which things of one second happened."""

    drafts: list[tuple[int, int, EventKind, str, dict[str, Any]]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def add(self, at_s: int, kind: EventKind, subject: str, /, **body: Any) -> None:
        self.drafts.append((int(at_s), len(self.drafts), kind, subject, body))

    def events(self) -> list[Event]:
        self.drafts.sort(key=lambda d: d[:2])
        return [
            Event(revision=i, at_s=at_s, kind=kind, subject=subject, body=body)
            for i, (at_s, _, kind, subject, body) in enumerate(self.drafts, start=1)
        ]

    def run(self, class_id: str, name: str, site_id: str, ordered_s: int, ended_s: int | None, *, index: int = 0,
            incarnation: int = 0, phase: str = "succeeded") -> Run:  # fmt: skip
        milli = CLASSES[class_id][2]
        site = next(s for s in SITES if s[0] == site_id)
        models = [g[0] for g in site[9]]
        gpu_milli = next((m for model, m in milli.items() if model in models), 0)
        reference = next(iter(milli.values()), 0)
        hosts = [i for i, model in enumerate(models) if model in milli] or [0]
        group_id = f"g{hosts[len(self.runs) % len(hosts)]}"
        run = Run(
            f"{name}/serve/{index}#{incarnation}",
            name,
            site_id,
            ordered_s,
            ordered_s + 60,
            ended_s,
            gpu_milli,
            reference,
            phase,
        )
        if run.ended_s is not None and run.ended_s <= ordered_s + 60:
            run.ran_s = None
        self.runs.append(run)
        command = dict(
            placement_id=run.placement_id, workload=name, stage_id="serve", replica_index=index, site_id=site_id,
            group_id=group_id, node_index=0, at_s=ordered_s, cpu_milli=4000, memory_mib=16_384, gpu_milli=gpu_milli,
            gpu_ids=[0], reference_gpu_milli=reference, utilization_frac=0.5, startup_s=60, done_work_s=0.0,
            is_service=CLASSES[class_id][5] is None, checkpoint_interval_s=900, gang_size=1, transfer_gib=0.0,
        )  # fmt: skip
        zone = CLASSES[class_id][4]
        rtt_ms = 0.0 if not zone else 8.3 if site[1] == "edge" else 13.6
        self.add(ordered_s, EventKind.REPLICA_START_ORDERED, run.placement_id, command=command, rtt_p99_ms=rtt_ms,
                 power_w=float(gpu_milli) / 3, price_yuan_per_hour=0.3, score={"energy": 0.3})  # fmt: skip
        if run.ran_s is not None:
            self.add(run.ran_s, EventKind.REPLICA_RUNNING, run.placement_id, site_id=site_id)
        if run.ended_s is not None:
            worked_s = run.ended_s - run.ran_s if run.ran_s is not None else 0
            self.add(run.ended_s, EventKind.REPLICA_ENDED, run.placement_id, site_id=site_id, phase=phase,
                     done_work_s=float(worked_s), delivered_gpu_s=worked_s * reference / 1000, detail="")  # fmt: skip
        return run


def synthetic_day(
    seed: int = 7, policy: str = "suanli", scale: int = 1
) -> tuple[list[Event], Fleet, DayWindow]:
    """A whole log. `policy` "least-loaded" spreads over all allowed sites; `scale` multiplies the finite workloads."""
    fleet = synthetic_fleet()
    window = DayWindow(START_S, START_S + DAY_S, START_S + DAY_S + DRAIN_S)
    rng = np.random.default_rng(seed)
    day = Day()
    day.add(START_S, EventKind.FLEET_REGISTERED, "fleet", fleet=fleet.model_dump(mode="json"))
    day.add(
        START_S, EventKind.POLICY_REVISED, "policies/default", policy={"policy_id": "default", "revision": 1}
    )
    for n, class_id in enumerate(CLASSES):
        day.add(START_S, EventKind.SHAPE_INTERNED, f"shapes/{n}", shape=_shape(class_id))
    for n, class_id in enumerate(CLASSES):
        finite = CLASSES[class_id][5] is not None
        for k in range(WORKLOADS_PER_CLASS[class_id] * (scale if finite else 1)):
            _play_workload(day, rng, n, class_id, k, policy)
    _never_placed(day)
    _moves(day)
    _outage(day)
    # nodes that nobody needs sleep, unless work lies all over the place
    facility_kw = _meters(day, window, 0.12 if policy == "suanli" else 0.17)
    _plans(day, window, facility_kw, policy, rng)
    for at_s in range(START_S + 900, window.drained_until_s + 1, 900):
        day.add(at_s, EventKind.RUN_ADVANCED, "runs/test", until_s=at_s)
    return day.events(), fleet, window


def _shape(class_id: str) -> dict[str, Any]:
    kind, priority, milli, replicas, zone, hours, _ = CLASSES[class_id]
    stage = dict(stage_id="serve", replicas=replicas, cpu_milli=4000, memory_mib=16_384, gpu_milli=milli)
    flows = (
        [dict(source=f"zones/{zone}", target="stages/serve", mbps=10.0, rtt_p99_max_ms=20.0)] if zone else []
    )
    return dict(
        kind=kind, workload_class=class_id, priority_class=priority, stages=[stage | ({"duration_s": 1} if hours else {})],
        flows=flows, deferrable=class_id == "W11",
    )  # fmt: skip


def _name(class_id: str, which: int | str) -> str:
    last = f"{which:03d}" if isinstance(which, int) else which
    return f"tenants/city/workloads/{class_id.lower()}-{last}"


def _submit(day: Day, at_s: int, shape: int, class_id: str, name: str, duration_s: int | None) -> None:
    day.add(at_s, EventKind.WORKLOAD_SUBMITTED, name, shape=shape, replicas=[CLASSES[class_id][3]],
            duration_s=[duration_s], not_before_s=0, deadline_s=0, display=CLASS_NAMES[class_id][0])  # fmt: skip


def _play_workload(
    day: Day, rng: np.random.Generator, shape: int, class_id: str, k: int, policy: str
) -> None:
    *_, replicas, _, hours, sites = CLASSES[class_id]
    name = _name(class_id, k)
    arrived_s = START_S + (0 if hours is None else int(rng.uniform(0, DAY_S - 1)))
    wait_s = int(rng.exponential(1200)) if class_id == "W11" else int(rng.exponential(90)) if hours else 1
    best = 0 if policy == "suanli" else k % len(sites)
    site_id = sites[best] if rng.uniform() < 0.8 else sites[int(rng.integers(len(sites)))]
    duration_s = None if hours is None else int(rng.lognormal(np.log(hours * 3600), 0.5))
    _submit(day, arrived_s, shape, class_id, name, duration_s)
    ordered_s = arrived_s + wait_s
    end_limit_s = START_S + DAY_S + DRAIN_S
    if ordered_s + 61 >= end_limit_s:
        return
    ended_s = (
        None
        if duration_s is None or ordered_s + 60 + duration_s >= end_limit_s
        else ordered_s + 60 + duration_s
    )
    if site_id == "e01-hub" and ordered_s < OUTAGE[0] and (ended_s is None or ended_s > OUTAGE[0]):
        _interrupted(day, class_id, name, site_id, sites, ordered_s, ended_s)
        return
    for index in range(replicas):
        day.run(class_id, name, site_id, ordered_s, ended_s, index=index)
    day.add(ordered_s, EventKind.WORKLOAD_STATE, name, state="starting", cause="placed")
    day.add(ordered_s + 60, EventKind.WORKLOAD_STATE, name, state="running", cause="")
    if ended_s is not None:
        day.add(ended_s, EventKind.WORKLOAD_STATE, name, state="succeeded", cause="")


def _interrupted(
    day: Day,
    class_id: str,
    name: str,
    site_id: str,
    sites: tuple[str, ...],
    ordered_s: int,
    ended_s: int | None,
) -> None:
    """The site fails under it: lost, pending for two minutes, then on the next site of its list."""
    day.run(class_id, name, site_id, ordered_s, OUTAGE[0], phase="lost")
    day.add(ordered_s + 60, EventKind.WORKLOAD_STATE, name, state="running", cause="")
    day.add(OUTAGE[0], EventKind.WORKLOAD_STATE, name, state="pending", cause="site_down e01-hub")
    refuge = next(s for s in sites if s != site_id)
    day.run(class_id, name, refuge, OUTAGE[0] + 120, ended_s, incarnation=1)
    day.add(OUTAGE[0] + 180, EventKind.WORKLOAD_STATE, name, state="running", cause="")


def _never_placed(day: Day) -> None:
    """A gang that no site can hold whole today."""
    name = _name("W12", "waits")
    _submit(day, START_S + 36_000, list(CLASSES).index("W12"), "W12", name, 7200)
    for at_s in range(START_S + 36_000, START_S + DAY_S, 900):
        day.add(at_s, EventKind.ROUND_COMMITTED, f"rounds/{at_s}", round_id=f"r{at_s}", at_s=at_s, considered=3,
                placed=2, pending=1, pending_by_reason={"gang_not_whole": 1, "ledger_closed": 2})  # fmt: skip


def _moves(day: Day) -> None:
    """Each mode once or more: the old copy runs until the new one does."""
    plan = (
        ("W9", 1, 10.0, "dc-lingang", "ai-core", "cloud_cloud", "cheaper_marginal_energy", 31.0),
        ("W9", 2, 15.5, "dc-g60", "ai-core", "cloud_cloud", "cooling_degraded", 12.0),
        ("W11", 1, 19.0, "ai-core", "e07-film", "cloud_edge", "cheaper_marginal_energy", 8.4),
        ("W13", 1, 6.5, "e06-edu", "e08-cbd-twin", "edge_edge", "site_closes", 17.2),
    )
    for class_id, k, hour, origin, target, mode, reason, gain in plan:
        name = _name(class_id, f"moves-{k}")
        at_s = START_S + int(hour * 3600)
        _submit(day, START_S + 60, list(CLASSES).index(class_id), class_id, name, None)
        for index in range(CLASSES[class_id][3]):
            day.run(class_id, name, origin, START_S + 90, at_s + 60, index=index, phase="stopped")
            moved = day.run(class_id, name, target, at_s, None, index=index, incarnation=1)
            day.add(at_s, EventKind.REPLICA_MOVED, moved.placement_id, workload=name, stage_id="serve", replica_index=index,
                    from_site_id=origin, to_site_id=target, mode=mode, reason=reason, cost_yuan=2.0, gain_yuan=gain)  # fmt: skip
            day.add(
                at_s + 60,
                EventKind.REPLICA_STOP_ORDERED,
                f"{name}/serve/{index}#0",
                site_id=origin,
                kind="moved",
                cause="its new place runs",
            )
        day.add(START_S + 150, EventKind.WORKLOAD_STATE, name, state="running", cause="")


def _outage(day: Day) -> None:
    day.add(OUTAGE[0], EventKind.SITE_DOWN, "sites/e01-hub", cause="power failure of the room")
    day.add(OUTAGE[1], EventKind.SITE_UP, "sites/e01-hub", cause="power restored")
    day.add(
        START_S + 7200, EventKind.SITE_CORDONED, "sites/dc-old", cordoned=True, node_index=3, group_id="g1"
    )
    name = _name("W12", "recalled")
    _submit(day, START_S + 50_000, list(CLASSES).index("W12"), "W12", name, 7200)
    day.add(START_S + 51_000, EventKind.WORKLOAD_CANCELLED, name, cause="by its tenant")
    day.add(START_S + 51_000, EventKind.WORKLOAD_STATE, name, state="cancelled", cause="by its tenant")
    lost = day.runs[0]
    day.add(
        START_S + 300,
        EventKind.REPLICA_PREEMPTED,
        lost.placement_id,
        by="tenants/city/workloads/w1-000",
        cause="hard_safety work found no free room",
        lost_gpu_hours=0.25,
    )


def it_kw(runs: list[Run], site: tuple[Any, ...], at_s: np.ndarray, idle_frac: float) -> np.ndarray:
    """IT power: a share of the rating idles, each milli-GPU adds its share of the rest."""
    gpus = sum(g[1] * g[2] for g in site[9])
    busy = np.zeros(at_s.size)
    for run in runs:
        if run.site_id == site[0] and run.ran_s is not None:
            busy += ((at_s >= run.ran_s) & (at_s < (run.ended_s or 2**60))) * (run.gpu_milli / 1000 + 0.1)
    load = np.minimum(busy / max(gpus, 1), 1.0)
    return site[7] * (idle_frac + (0.92 - idle_frac) * load)


def _meters(day: Day, window: DayWindow, idle_frac: float) -> dict[str, np.ndarray]:
    from_s = np.arange(window.start_s, window.drained_until_s, METER_S)
    hour = (from_s - START_S) / 3600
    dry_c = 29 + 6 * np.sin((hour - 9) / 24 * 2 * np.pi)
    facility: dict[str, np.ndarray] = {}
    power: dict[str, np.ndarray] = {}
    for site in SITES:
        kw = it_kw(day.runs, site, from_s + METER_S / 2, idle_frac)
        if site[0] == "e01-hub":
            kw = np.where((from_s + METER_S > OUTAGE[0]) & (from_s < OUTAGE[1]), 0.0, kw)
        k = 0.10 + 0.004 * dry_c if site[1] == "edge" else 0.05 + 0.003 * dry_c
        if site[0] == "ai-core":
            k = k * np.where((from_s >= DEGRADED[0]) & (from_s < DEGRADED[1]), 1.6, 1.0)
        power[site[0]] = kw
        facility[site[0]] = kw * (1.03 + k) + 0.04 * site[7]
    for b, at_s in enumerate(from_s.tolist()):
        meters = [
            dict(
                site_id=s[0], from_s=at_s, until_s=at_s + METER_S, it_energy_kwh=power[s[0]][b] / 4,
                facility_energy_kwh=facility[s[0]][b] / 4, useful_it_energy_kwh=power[s[0]][b] / 5,
                it_power_kw=power[s[0]][b], facility_power_kw=facility[s[0]][b], peak_facility_kw=facility[s[0]][b] * 1.02,
                dry_bulb_c=float(dry_c[b]), wet_bulb_c=26.0, nodes_on={"g0": 3}, up=bool(power[s[0]][b]), open=True,
            )
            for s in SITES
        ]  # fmt: skip
        day.add(at_s + METER_S, EventKind.SITE_METERED, "sites", meters=meters)
    return facility


def _plans(
    day: Day, window: DayWindow, facility_kw: dict[str, np.ndarray], policy: str, rng: np.random.Generator
) -> None:
    for h in range(24):
        at_s = START_S + h * 3600
        error = {
            s[0]: 0.15 * float(np.exp(-h / 4)) * (1 + 0.2 * i / len(SITES)) + 0.004
            for i, s in enumerate(SITES)
        }
        hourly = {
            s: tuple(
                float(v) * (1 + error[s]) for v in np.resize(kw[h * 4 :], 96).reshape(24, 4).mean(axis=1)
            )
            for s, kw in facility_kw.items()
        }
        body: dict[str, Any] = dict(
            plan_id=f"plans/{h:02d}", at_s=at_s, horizon_s=DAY_S, status="feasible", forecast_facility_kw=hourly,
            forecast_it_kw={}, sites_on={}, unplaced={"gang_not_whole": 1} if h >= 10 else {}, violations=0,
            bounds=[
                dict(model="lp-blocks", scope="fleet", objective_yuan=4000.0 + h, bound_yuan=(4000.0 + h) * (1 - 0.0012 - 0.0001 * h),
                     gap_frac=0.0012 + 0.0001 * h),
                dict(model="lp-blocks", scope="edge", objective_yuan=80.0, bound_yuan=78.4, gap_frac=0.02 if h != 5 else 0.031),
            ],
            ledger=[
                dict(site_id=s[0], pue_cap_annual=s[8], balance_before_kwh=0.0, balance_after_kwh=0.0,
                     released_kwh=(90.0 if s[0] == "ai-core" else 70.0) * s[7] / 50, used_kwh=1.0, debt_kwh=0.0)
                for s in SITES if s[8]
            ],
        )  # fmt: skip
        if policy == "suanli":
            day.add(at_s, EventKind.PLAN_COMMITTED, body["plan_id"], **body)
            day.add(at_s + 3599, EventKind.SITE_MODEL_LEARNED, "sites", theta={}, error_frac=error, state={})
    day.add(
        START_S + 5 * 3600,
        EventKind.SOLVER_CUT_OFF,
        "plans/05",
        status="unknown",
        cause="work limit of the node search",
    )
    day.add(START_S + 15 * 3600, EventKind.CAP_BREACHED, "sites/e01-hub", from_s=START_S + 9 * 3600, until_s=START_S + 12 * 3600,
            cause="site_down: the room drew cooling power while nothing ran", debt_kwh=0.0, ipue=1.62)  # fmt: skip


def synthetic_latency(hard_outside_count: int = 0) -> LatencyMeasured:
    """What a world's network might have measured on this day."""
    traffic = [
        0.4,
        0.3,
        0.25,
        0.2,
        0.25,
        0.4,
        0.7,
        0.95,
        1.0,
        0.9,
        0.8,
        0.75,
        0.7,
        0.65,
        0.7,
        0.8,
        0.9,
        0.95,
        1.0,
        0.9,
        0.8,
        0.7,
        0.6,
        0.5,
    ]
    rows = (
        ("W1", True, 10.0, 8.6, 10, hard_outside_count, 14_400, 90.0),
        ("W6", True, 10.0, 8.3, 6, 0, 8640, 0.0),
        ("W9", False, 50.0, 31.2, 9, 0, 12_960, 0.0),
        ("W13", False, 30.0, 27.9, 9, 0, 12_960, 12.0),
    )
    return LatencyMeasured(
        classes=tuple(
            ClassLatency(c, hard, budget, p99, n, outside, samples, 1.0 - outside / 1000, minutes,
                         tuple(p99 * (0.8 + 0.2 * t) for t in traffic))
            for c, hard, budget, p99, n, outside, samples, minutes in rows
        ),
        site_p99_ms={"e01-hub": 8.6, "e08-cbd-twin": 27.9, "ai-core": 31.2},
    )  # fmt: skip


def synthetic_marks() -> tuple[Mark, ...]:
    """What the scenario broke without telling the service."""
    return (Mark("ai-core", *DEGRADED, "cooling degraded"),)


def pending_explanation() -> Explanation:
    """Why the gang of `_never_placed` waits."""
    return Explanation(
        workload=_name("W12", "waits"),
        state="pending",
        at_s=START_S + DAY_S,
        summary="16 GPUs at once fit nowhere today",
        reasons=(
            Reason(code=ReasonCode.GANG_NOT_WHOLE, site_id="ai-core", limit=16, actual=8, unit="GPUs", node_count=16),
            Reason(code=ReasonCode.LEDGER_CLOSED, site_id="dc-lingang", limit=0, actual=42.5, unit="kWh", node_count=8),
            Reason(code=ReasonCode.GPU_MODEL_ABSENT, site_id="dc-g60", detail="A100 only", node_count=2),
        ),
        conflict=("stage serve is a gang of 16 GPUs", "dc-lingang keeps its ledger", "W9 keeps its GPUs at ai-core"),
        relaxations=(Relaxation(change="start at 02:00 tomorrow", field="not_before_at"), Relaxation(change="8 GPUs instead of 16")),
    )  # fmt: skip


def placed_explanation() -> Explanation:
    """Why a twin lies where it does."""
    return Explanation(
        workload=_name("W13", 0),
        state="running",
        at_s=START_S + DAY_S,
        summary="the CBD twin room is the cheapest next kW within 30 ms",
        candidates=(
            Candidate(site_id="e08-cbd-twin", chosen=True, rtt_p99_ms=8.3, power_w=420, ipue_marginal=1.21, cost_yuan_per_hour=0.31),
            Candidate(site_id="e06-edu", rtt_p99_ms=8.9, power_w=420, ipue_marginal=1.24, cost_yuan_per_hour=0.36, lost_because="¥0.05 an hour dearer"),
            Candidate(site_id="e01-hub", feasible=False, rtt_p99_ms=8.2, lost_because="was down", reasons=(Reason(code=ReasonCode.SITE_DOWN, site_id="e01-hub"),)),
            Candidate(site_id="ai-core", feasible=False, rtt_p99_ms=13.6, lost_because="residency: park data stays at the edge", reasons=(Reason(code=ReasonCode.LABEL_MISSING, site_id="ai-core"),)),
        ),
    )  # fmt: skip
