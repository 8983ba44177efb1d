"""An openb node and pod list as a scenario: the nodes become one site, the pods its day.

    read_openb   refuse what the service could not express: every problem with file, line and column
    openb_day    1 thin out both lists   2 leave out pods that no node could hold
                 3 fit the trace's time into the day   4 build the scenario

What the lists do not say is taken from the reference city or assumed, and the scenario's `source:` fields say which:
power of a node, plant, tariff, weather. The pods' true run times are declared, as the lists hold no user's estimate.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from cluster_sim.scenarios.loader import load_scenario
from cluster_sim.scenarios.schema import RecordedJobsPattern, Scenario, Text, WorkClass
from cluster_sim.scenarios.tables import (
    ClassTable,
    DatasetTable,
    Day,
    Failures,
    GpuEquivalent,
    GpuEquivalents,
    LinkSpec,
    NodeType,
    NodeTypes,
    RecordedJob,
    Scale,
    SiteSpec,
    SiteTable,
    ZoneTable,
)
from cluster_sim.traces.day import TraceDay
from cluster_sim.traces.openb import (
    MILLI_PER_GPU,
    TraceError,
    TraceNode,
    TracePod,
    TraceProblem,
    read_nodes,
    read_pods,
)
from suanli.model import HostKind, PriorityClass, SiteKind, WorkloadKind
from suanli.model.units import MIB_PER_GIB, MILLI, SECONDS_PER_HOUR, W_PER_KW
from suanli.model.words import grouped

BASE = "songjiang-base"
SITE = "openb"
MAX_GPUS = 16
"""GPUs of one node in `suanli.model.NodeGroup`."""
WARM_FRAC = 0.01
"""Share of the pods created before the day opens when the whole list is fitted into it: the first days of the published
list hold a handful of pods, and a day of waiting for them shows nothing."""
NEVER_HOURS = 1e9
WORKLOAD_ID = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
NOT_IN_AN_ID = re.compile(r"[^a-z0-9._-]")
GPU_TDP_W = {"P100": 250, "T4": 70, "V100M16": 300, "V100M32": 300, "A10": 150, "G2": 150, "G3": 400}
"""Data sheets; G2 and G3 are masked in the trace and taken as an A10 and an A100 (assumed)."""
OTHER_GPU_TDP_W = 300
GPU_IDLE_FRAC = 0.1
NODE_BASE_W, CORE_IDLE_W, CORE_BUSY_W = 100.0, 1.0, 3.0
WATTS_PER_GPU_WATT = 1.44
"""As in the reference city's `node_types`."""
LATENCY_SENSITIVE = ("LS", "Guaranteed")
OTHER = "BE"
CLASSES = {"LS": "Latency-sensitive pods", OTHER: "Best-effort pods"}
CLASS_NAMES_ZH = {"LS": "在线容器", OTHER: "离线容器"}


@dataclass(frozen=True, slots=True)
class Cut:
    """How much of the trace is played and how fast.

    `limit_pods`, `limit_nodes`: that many, evenly over the list (pods in order of creation). `hours`: length of the
    day. `from_hour`: trace hour at which it opens; pods older than that and still alive run from the opening with the
    rest of their time. `compress`: trace seconds per second of the day. None: from_hour and compress fit all into it.
    `stay`: deletions are ignored, so that the cluster fills up as in the published experiments.
    """

    limit_pods: int | None = None
    limit_nodes: int | None = None
    hours: float = 24.0
    from_hour: float | None = None
    compress: float | None = None
    stay: bool = False


Row = TypeVar("Row", TraceNode, TracePod)


class TraceErrors(ValueError):
    """Several files are wrong; the message has them all."""


def read_openb(nodes_path: Path, pods_path: Path) -> tuple[list[TraceNode], list[TracePod]]:
    """Both lists, fit to be replayed; TraceErrors names every problem of both files."""
    nodes, pods, errors = [], [], []
    try:
        nodes = read_nodes(nodes_path)
        _raise(nodes_path, _node_problems(nodes))
    except TraceError as error:
        errors.append(error)
    try:
        pods = read_pods(pods_path)
        _raise(pods_path, _pod_problems(pods))
    except TraceError as error:
        errors.append(error)
    if errors:
        raise TraceErrors("\n".join(map(str, errors)))
    return nodes, pods


def openb_day(nodes: Sequence[TraceNode], pods: Sequence[TracePod], cut: Cut) -> TraceDay:
    """The lists as a scenario of one site; ValueError when the cut leaves nothing to play."""
    nodes = _evenly(nodes, cut.limit_nodes)
    chosen = _evenly(sorted(pods, key=lambda p: (_created_s(p), p.line)), cut.limit_pods)
    kinds = _kinds(nodes)
    placeable = [p for p in chosen if any(_holds(n, p) for n in kinds)]
    homeless = [p for p in chosen if not any(_holds(n, p) for n in kinds)]
    from_s, compress = _time_scale(placeable, cut)
    models = sorted({n.gpu_model for n in kinds if n.gpu_count})
    timed = [replace(p, deleted_at_s=None) for p in placeable] if cut.stay else placeable
    jobs = {p.name: _job(p, models, from_s, compress) for p in timed}
    played = [
        (p, j) for p in placeable if (j := jobs[p.name]) is not None and j.at_s < cut.hours * SECONDS_PER_HOUR
    ]
    if not played:
        raise ValueError(
            f"no pod is alive in the {cut.hours:g} h from trace hour {from_s / SECONDS_PER_HOUR:g}: "
            f"see --from-hour, --hours, --compress"
        )
    notes = [
        f"{len(nodes)} nodes with {sum(n.gpu_count for n in nodes)} GPUs in one site, "
        f"{len(played)} of {len(pods)} pods",
        f"trace from hour {grouped(from_s / SECONDS_PER_HOUR)} "
        f"at {grouped(compress, '.4g')} trace seconds a second",
    ]
    if homeless:
        notes.append(
            f"left out: {len(homeless)} pods that no node could hold even empty, e.g. {homeless[0].name} "
            f"({_need_in_words(homeless[0])})"
        )
    return TraceDay(_scenario(nodes, played, cut.hours), tuple(notes))


# ------------------------------------------------------------------------------------------- what cannot be replayed


def _raise(path: Path, problems: Sequence[TraceProblem]) -> None:
    if problems:
        raise TraceError(path, problems)


def _node_problems(nodes: Sequence[TraceNode]) -> list[TraceProblem]:
    problems = []
    for n in nodes:
        if n.cpu_milli < MILLI:
            problems.append(TraceProblem(n.line, "cpu_milli", f"{n.cpu_milli} is less than one core"))
        if n.memory_mib == 0:
            problems.append(TraceProblem(n.line, "memory_mib", "0, a node has memory"))
        if n.gpu_count > MAX_GPUS:
            problems.append(
                TraceProblem(n.line, "gpu", f"{n.gpu_count} GPUs, at most {MAX_GPUS} in one node")
            )
    return problems


def _pod_problems(pods: Sequence[TracePod]) -> list[TraceProblem]:
    problems = []
    first_line: dict[str, int] = {}
    for p in pods:
        workload_id = p.name.lower()
        if not WORKLOAD_ID.fullmatch(workload_id):
            problems.append(
                TraceProblem(p.line, "name", f"{p.name[:70]!r} is no workload id (a-z, 0-9, . _ -, to 63)")
            )
        elif workload_id in first_line:
            problems.append(
                TraceProblem(p.line, "name", f"{p.name!r} stands in line {first_line[workload_id]} already")
            )
        first_line.setdefault(workload_id, p.line)
        if p.gpu_count > 1 and p.gpu_milli != MILLI_PER_GPU:
            problems.append(
                TraceProblem(
                    p.line,
                    "gpu_milli",
                    f"{p.gpu_milli} on each of {p.gpu_count} GPUs: above one GPU only whole ones",
                )
            )
        if p.gpu_count > MAX_GPUS:
            problems.append(
                TraceProblem(p.line, "num_gpu", f"{p.gpu_count} GPUs, at most {MAX_GPUS} in one node")
            )
        if p.created_at_s is None:
            problems.append(TraceProblem(p.line, "creation_time", "is missing: a replay needs it"))
        elif p.deleted_at_s is not None and p.deleted_at_s < p.created_at_s:
            problems.append(
                TraceProblem(
                    p.line, "deletion_time", f"{p.deleted_at_s} lies before the creation at {p.created_at_s}"
                )
            )
    return problems


# ------------------------------------------------------------------------------------------- cut and time


def _evenly(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """At most `limit` rows, evenly over the list."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[i * len(rows) // limit] for i in range(limit)]


def _created_s(pod: TracePod) -> int:
    assert pod.created_at_s is not None  # `_pod_problems` has seen to it
    return pod.created_at_s


def _kinds(nodes: Sequence[TraceNode]) -> list[TraceNode]:
    """One node of each kind."""
    return list({(n.cpu_milli, n.memory_mib, n.gpu_count, n.gpu_model): n for n in nodes}.values())


def _holds(node: TraceNode, pod: TracePod) -> bool:
    """The empty node has room for the pod."""
    return (
        pod.cpu_milli <= node.cpu_milli // MILLI * MILLI
        and pod.memory_mib <= node.memory_mib
        and pod.gpu_count <= node.gpu_count
        and (not pod.gpu_models or node.gpu_model in pod.gpu_models)
    )


def _need_in_words(pod: TracePod) -> str:
    gpus = f"{pod.gpu_count} × {pod.gpu_milli} milli-GPU" if pod.gpu_count else "no GPU"
    models = f" of {' or '.join(pod.gpu_models)}" if pod.gpu_models else ""
    return f"{pod.cpu_milli / MILLI:g} cores, {pod.memory_mib / MIB_PER_GIB:g} GiB, {gpus}{models}"


def _time_scale(pods: Sequence[TracePod], cut: Cut) -> tuple[float, float]:
    """(trace second at which the day opens, trace seconds per second of the day)."""
    created = sorted(_created_s(p) for p in pods)
    if not created:
        raise ValueError("no node of the list could hold any pod of the list")
    opening_s = float(created[int(len(created) * WARM_FRAC)])
    from_s = opening_s if cut.from_hour is None else cut.from_hour * SECONDS_PER_HOUR
    span_s = max(0.0, created[-1] + 1 - from_s)
    fitting = max(1.0, span_s / (cut.hours * SECONDS_PER_HOUR))
    return from_s, fitting if cut.compress is None else cut.compress


def _job(pod: TracePod, installed: Sequence[str], from_s: float, compress: float) -> RecordedJob | None:
    """The pod in the day's time; None when it had ended before the day opens."""
    begins_s = (_created_s(pod) - from_s) / compress
    work_s = None
    if pod.deleted_at_s is not None:
        ends_s = (pod.deleted_at_s - from_s) / compress
        if ends_s <= 0:
            return None
        work_s = max(1, round(ends_s - max(begins_s, 0.0)))
    models = [m for m in (pod.gpu_models or installed) if m in installed] if pod.gpu_count else []
    return RecordedJob(
        job_id=pod.name.lower(),
        at_s=max(0, int(begins_s)),
        work_s=work_s,
        cpu_milli=pod.cpu_milli,
        memory_mib=pod.memory_mib,
        gpu_milli=dict.fromkeys(models, pod.gpu_count * pod.gpu_milli),
    )


# ------------------------------------------------------------------------------------------- the scenario


def _scenario(
    nodes: Sequence[TraceNode], played: Sequence[tuple[TracePod, RecordedJob]], hours: float
) -> Scenario:
    base = load_scenario(BASE)
    counts = Counter(_type_name(n) for n in nodes)
    types = {_type_name(n): _node_type(n) for n in nodes}
    models = sorted({n.gpu_model for n in nodes if n.gpu_count}) or ["none"]
    rated_kw = sum(types[t].max_w * count for t, count in counts.items()) / W_PER_KW
    start = base.day.start
    return base.model_copy(
        update={
            "scenario_id": SITE,
            "title": Text(en="A replayed pod list", zh="作业回放"),
            "day": Day(
                start=start, hours=hours, drain_hours=24, source="assumed: the reference city's July day"
            ),
            "scale": Scale(
                cloud_divisor=1,
                edge_divisor=1,
                demand_factor=1,
                sensor_factor=1,
                camera_factor=1,
                gang_max_pool_share=1,
                source="sourced: the lists as they are",
            ),
            "node_types": NodeTypes(
                source="mixed: sizes from the node list; power derived from the TDP of data sheets (GPU_TDP_W)",
                core_share_of_dynamic=base.node_types.core_share_of_dynamic,
                node_wake_s=base.node_types.node_wake_s,
                rows=types,
            ),
            "gpu_equivalents": GpuEquivalents(
                source="assumed: a pod takes the same share of whichever model it may use",
                reference=models[0],
                rows={m: GpuEquivalent(share=1, processing_factor=1) for m in models},
            ),
            "sites": SiteTable(
                source="assumed: one site with a modern plant and a cap of 1.3",
                rows={SITE: _site(counts, rated_kw)},
            ),
            "nodes": {},
            "zones": ZoneTable(source="sourced: the lists name no users", rows={}),
            "datasets": DatasetTable(source="sourced: the lists name no data", rows={}),
            "network": base.network.model_copy(
                update={
                    "links": {
                        f"{SITE}-uplink": LinkSpec(ends=(next(iter(base.network.hubs)), SITE), gbps=400)
                    },
                    "transfer_yuan_per_gb_by_site": {},
                }
            ),
            "failures": Failures(
                source="sourced: a pod ends when the list says so", replica_mtbf_hours=NEVER_HOURS
            ),
            "classes": ClassTable(source="sourced: the pod list", rows=_classes(played)),
        }
    )


def _type_name(node: TraceNode) -> str:
    size = f"{node.cpu_milli // MILLI}c-{node.memory_mib}m"
    model = NOT_IN_AN_ID.sub("-", node.gpu_model.lower()).strip("-._")
    return f"{model or 'gpu'}x{node.gpu_count}-{size}" if node.gpu_count else f"cpu-{size}"


def _node_type(node: TraceNode) -> NodeType:
    cores, tdp_w = node.cpu_milli // MILLI, GPU_TDP_W.get(node.gpu_model, OTHER_GPU_TDP_W)
    idle_w = NODE_BASE_W + CORE_IDLE_W * cores + GPU_IDLE_FRAC * tdp_w * node.gpu_count
    gpus_w = WATTS_PER_GPU_WATT * (1 - GPU_IDLE_FRAC) * tdp_w * node.gpu_count
    return NodeType(
        gpu_model=node.gpu_model,
        gpu_count=node.gpu_count,
        cores=cores,
        ram_gib=node.memory_mib / MIB_PER_GIB,
        storage_gib=0,
        idle_w=idle_w,
        max_w=idle_w + (gpus_w or CORE_BUSY_W * cores),
    )


def _site(counts: Counter[str], rated_kw: float) -> SiteSpec:
    return SiteSpec(
        name=Text(en="Cluster of the node list", zh="节点清单集群"),
        kind=SiteKind.CLOUD,
        host_kind=HostKind.DATA_CENTER,
        plant="wse_mid",
        pue_cap_annual=1.3,
        nodes=dict(counts),
        rated_it_kw=round(rated_kw, 3),
        position_km=(0, 0),
        tariff="two_part",
        operator="trace",
    )


def _classes(played: Sequence[tuple[TracePod, RecordedJob]]) -> dict[str, WorkClass]:
    """Latency-sensitive and best-effort pods, as the list's qos says."""
    of_class: dict[str, list[RecordedJob]] = {class_id: [] for class_id in CLASSES}
    for pod, job in played:
        of_class["LS" if pod.qos in LATENCY_SENSITIVE else OTHER].append(job)
    return {
        class_id: WorkClass(
            name=Text(en=CLASSES[class_id], zh=CLASS_NAMES_ZH[class_id]),
            kind=WorkloadKind.INFERENCE if class_id == "LS" else WorkloadKind.BATCH,
            priority=PriorityClass.INTERACTIVE if class_id == "LS" else PriorityClass.BATCH,
            tenant="openb",
            cpu_cores=1,
            ram_gib=1,
            utilization=0.5,
            startup_s=0,
            scale="cloud",
            pattern=RecordedJobsPattern(kind="recorded_jobs", jobs=tuple(jobs)),
        )
        for class_id, jobs in of_class.items()
        if jobs
    }
