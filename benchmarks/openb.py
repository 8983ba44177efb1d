"""The openb GPU-sharing trace: place an arrival stream batch by batch and measure how many GPUs end up allocated.

    python -m benchmarks.openb --nodes N.csv --pods P.csv --stream S.csv --batch 200 --out PLACEMENTS.csv
    python -m benchmarks.openb --family DIR --seeds 42-51

The first form reads a stream of arrivals and writes one line per arrival (index,node_sn,gpu_ids; both empty for a
dropped pod). The pod list serves only for the frequencies of shapes. The second makes the streams itself, by the
protocol of "Beware of Fragmentation" (Weng et al., USENIX ATC 2023), for every pod list of a folder and prints a table
beside the published figures.

Pods never leave and never move. The placer sees one batch at a time and refuses nothing that fits. Before any figure
is printed the placements are checked again from the node list alone, by code that shares nothing with the placer.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import (
    EXIT_FAILED,
    bench_data,
    machine_line,
    positive_int,
    print_json,
    print_table,
    refuse,
    seed_range,
)
from cluster_sim.traces.openb import TraceError, TraceNode, TracePod, read_nodes, read_pods, read_stream
from solvers.archive import FloatArray
from solvers.placer import (
    MixEntry,
    Need,
    NodeState,
    PackingModel,
    Placement,
    Placer,
    ScarcityPrices,
    Shape,
    gpus_of,
    place_batch,
)

LOAD_FRAC = 1.3
"""Arrivals stop when they ask for this share of the cluster's GPUs."""
POINTS_PERCENT = (80, 90, 95, 100, 105, 110, 120, 130)
COMPARED_PERCENT = (95, 100, 110, 130)
PUBLISHED_POLICIES = ("BestFit", "FGD")
MILLI_PER_GPU = 1000
NODE_LIST = "openb_node_list_gpu_node.csv"
POD_LIST_PREFIX = "openb_pod_list_"
PUBLISHED = "published_allocation.csv"


# ------------------------------------------------------------------ from the trace to the placer


@dataclass(frozen=True, eq=False)
class Fleet:
    """GPU nodes of the list; a group is all nodes with equal hardware."""

    nodes: Sequence[TraceNode]
    node_group: Sequence[int]
    group_gpu_model: Sequence[str]

    @property
    def gpu_milli(self) -> int:
        """Milli-GPUs of the cluster."""
        return sum(n.gpu_count for n in self.nodes) * MILLI_PER_GPU

    def empty_state(self) -> NodeState:
        """Nothing placed yet."""
        return NodeState.empty(
            node_group=list(self.node_group),
            cpu_milli=[n.cpu_milli for n in self.nodes],
            memory_mib=[n.memory_mib for n in self.nodes],
            gpu_count=[n.gpu_count for n in self.nodes],
        )

    def shape(self, pod: TracePod) -> Shape:
        """What the pod asks of each group."""
        need = Need(pod.cpu_milli, pod.memory_mib, pod.gpu_count, pod.gpu_milli)
        return Shape.uniform(need, [not pod.gpu_models or m in pod.gpu_models for m in self.group_gpu_model])


def fleet_of(nodes: Sequence[TraceNode]) -> Fleet:
    """The nodes that have GPUs, in order of their names; ValueError when there is none."""
    with_gpu = sorted((n for n in nodes if n.gpu_count > 0), key=lambda n: n.sn)
    if not with_gpu:
        raise ValueError("the node list has no node with a GPU")
    groups: dict[tuple[int, int, int, str], int] = {}
    node_group = [
        groups.setdefault((n.cpu_milli, n.memory_mib, n.gpu_count, n.gpu_model), len(groups))
        for n in with_gpu
    ]
    return Fleet(with_gpu, node_group, [model for _, _, _, model in groups])


def _shape_key(pod: TracePod) -> tuple[int, int, int, int, tuple[str, ...]]:
    return pod.cpu_milli, pod.memory_mib, pod.gpu_count, pod.gpu_milli, pod.gpu_models


def mix_of(fleet: Fleet, pods: Sequence[TracePod]) -> list[MixEntry]:
    """Shapes of the pod list with their frequencies, in the order of their keys."""
    counts = Counter(_shape_key(p) for p in pods)
    example = {_shape_key(p): p for p in pods}
    return [MixEntry(fleet.shape(example[k]), counts[k] / len(pods)) for k in sorted(counts)]


@dataclass(frozen=True, eq=False)
class Run:
    """Placements of one stream and what they took; `seconds` includes the building of the model."""

    placements: Sequence[Placement | None]
    model_s: float
    seconds: float

    @property
    def ms_per_pod(self) -> float:
        """Decision time, model included."""
        return self.seconds * 1000.0 / max(len(self.placements), 1)


def place_stream(fleet: Fleet, pods: Sequence[TracePod], stream: Sequence[TracePod], batch: int) -> Run:
    """Place the arrivals in batches of at most `batch`."""
    started = time.perf_counter()
    state = fleet.empty_state()
    mix = mix_of(fleet, pods)
    placer = Placer(state, PackingModel.build(state, mix))
    scarcity = ScarcityPrices(state, placer.model, mix)
    model_s = time.perf_counter() - started
    shapes: dict[tuple[int, int, int, int, tuple[str, ...]], Shape] = {}
    placements: list[Placement | None] = []
    for first in range(0, len(stream), batch):
        arrived = stream[first : first + batch]
        for pod in arrived:
            if _shape_key(pod) not in shapes:
                shapes[_shape_key(pod)] = fleet.shape(pod)
        placements += place_batch(placer, [shapes[_shape_key(pod)] for pod in arrived], scarcity)
    return Run(placements, model_s, time.perf_counter() - started)


# ------------------------------------------------------------------ the protocol


def make_stream(pods: Sequence[TracePod], cluster_gpu_milli: int, seed: int) -> list[TracePod]:
    """Arrivals of one seed: the list shuffled, then random repeats until LOAD_FRAC of the cluster is asked for.

    The generator of the published experiment stops at the first draw whose share per GPU would pass the target, and
    takes pods away at random when the list alone asks for more.
    """
    generator = random.Random(seed)
    by_name = sorted(pods, key=lambda p: p.name)
    arrivals = by_name.copy()
    generator.shuffle(arrivals)
    room = LOAD_FRAC * cluster_gpu_milli - sum(p.gpu_count * p.gpu_milli for p in arrivals)
    if room < 0:
        while room < 0:
            gone = arrivals.pop(generator.randrange(len(arrivals)))
            room += gone.gpu_count * gone.gpu_milli
        return arrivals
    if not any(p.gpu_milli for p in by_name):
        raise ValueError("no pod of the list asks for a GPU, so no load can be reached")
    while True:
        pod = by_name[generator.randrange(len(by_name))]
        if pod.gpu_milli > room:
            return arrivals
        room -= pod.gpu_count * pod.gpu_milli
        arrivals.append(pod)


@dataclass(frozen=True, eq=False)
class Curve:
    """Allocation against arrived load, both in percent of the cluster's GPUs, after every arrival."""

    arrived_percent: FloatArray
    allocated_percent: FloatArray
    first_drop_percent: float
    """Load at which the first pod was dropped; inf: none."""

    def at(self, percent: int) -> float:
        """Mean allocation over the arrivals whose load rounds to the point (else its neighbours); nan: not reached."""
        nearest = np.rint(self.arrived_percent).astype(int)
        for reach in (0, 1):
            there = np.abs(nearest - percent) <= reach
            if there.any():
                return float(self.allocated_percent[there].mean())
        return float("nan")


def curve_of(fleet: Fleet, stream: Sequence[TracePod], placements: Sequence[Placement | None]) -> Curve:
    """The allocation curve of a run."""
    asked = np.array([p.gpu_count * p.gpu_milli for p in stream], np.int64)
    placed = np.array([p is not None for p in placements], bool)
    arrived = np.cumsum(asked) * 100.0 / fleet.gpu_milli
    dropped = np.flatnonzero(~placed)
    first = float(arrived[dropped[0]]) if len(dropped) else float("inf")
    return Curve(arrived, np.cumsum(asked * placed) * 100.0 / fleet.gpu_milli, first)


def check(
    fleet: Fleet, stream: Sequence[TracePod], placements: Sequence[Placement | None], batch: int
) -> list[str]:
    """What is wrong with the placements, replayed from the node list alone; empty: nothing.

    Looks for over-commitment, wrong GPU models, wrong GPU counts and pods that were dropped although some node had
    room for them when their batch closed.
    """
    wrong: list[str] = []
    cpu = [n.cpu_milli for n in fleet.nodes]
    memory = [n.memory_mib for n in fleet.nodes]
    gpus = [[MILLI_PER_GPU] * n.gpu_count for n in fleet.nodes]
    dropped: list[int] = []
    for i, (pod, placement) in enumerate(zip(stream, placements, strict=True)):
        if placement is None:
            dropped.append(i)
        else:
            node, on = placement.node, gpus_of(placement.gpu_mask)
            cpu[node] -= pod.cpu_milli
            memory[node] -= pod.memory_mib
            for g in on:
                gpus[node][g] -= pod.gpu_milli
            if cpu[node] < 0 or memory[node] < 0 or min(gpus[node]) < 0:
                wrong.append(f"arrival {i}: node {fleet.nodes[node].sn} is over-committed")
            if len(on) != pod.gpu_count:
                wrong.append(f"arrival {i}: asks for {pod.gpu_count} GPUs and got {len(on)}")
            if pod.gpu_models and fleet.nodes[node].gpu_model not in pod.gpu_models:
                wrong.append(f"arrival {i}: {fleet.nodes[node].gpu_model} is not among its GPU models")
        if (i + 1) % batch == 0 or i + 1 == len(stream):
            wrong += _refused(fleet, stream, dropped, cpu, memory, gpus)
            dropped = []
    return wrong


def _refused(
    fleet: Fleet,
    stream: Sequence[TracePod],
    dropped: Sequence[int],
    cpu: Sequence[int],
    memory: Sequence[int],
    gpus: Sequence[Sequence[int]],
) -> list[str]:
    first_of_kind: dict[tuple[int, int, int, int, tuple[str, ...]], int] = {}
    for i in dropped:
        first_of_kind.setdefault(_shape_key(stream[i]), i)
    wrong = []
    for i in first_of_kind.values():
        pod = stream[i]
        for n, node in enumerate(fleet.nodes):
            if (
                cpu[n] >= pod.cpu_milli
                and memory[n] >= pod.memory_mib
                and (not pod.gpu_models or node.gpu_model in pod.gpu_models)
                and sum(free >= pod.gpu_milli for free in gpus[n]) >= pod.gpu_count
            ):
                wrong.append(f"arrival {i}: dropped although node {node.sn} has room")
                break
    return wrong


def write_placements(path: Path, fleet: Fleet, placements: Sequence[Placement | None]) -> None:
    """One line per arrival: index,node_sn,gpu_ids."""
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        for i, p in enumerate(placements):
            if p is None:
                out.writerow((i, "", ""))
            else:
                out.writerow((i, fleet.nodes[p.node].sn, "-".join(str(g) for g in gpus_of(p.gpu_mask))))


# ------------------------------------------------------------------ the two commands


def run_stream(args: argparse.Namespace) -> int:
    """Place one stream file, check it, write the placements, print figures."""
    fleet = fleet_of(read_nodes(args.nodes))
    pods, stream = read_pods(args.pods), read_stream(args.stream)
    run = place_stream(fleet, pods, stream, args.batch)
    wrong = check(fleet, stream, run.placements, args.batch)
    if wrong:
        print(f"{len(wrong)} rules broken, first: {wrong[0]}", file=sys.stderr)
        return EXIT_FAILED
    write_placements(args.out, fleet, run.placements)
    curve = curve_of(fleet, stream, run.placements)
    dropped = sum(p is None for p in run.placements)
    print(machine_line())
    print(
        f"{len(fleet.nodes)} GPU nodes in {len(fleet.group_gpu_model)} groups, "
        f"{fleet.gpu_milli // MILLI_PER_GPU} GPUs; "
        f"{len(stream)} arrivals of {len({_shape_key(p) for p in stream})} shapes in batches of {args.batch}"
    )
    print(
        f"{run.ms_per_pod:.3f} ms a pod ({run.seconds:.2f} s, of which {run.model_s:.2f} s for the packing model); "
        f"{dropped} dropped, first at {curve.first_drop_percent:.1f} % load; checked: 0 rules broken, 0 refused"
    )
    points = [p for p in POINTS_PERCENT if not np.isnan(curve.at(p))]
    print_table(
        ["load %", *map(str, points)], [["GPUs allocated %", *(f"{curve.at(p):.2f}" for p in points)]]
    )
    print(f"placements: {args.out}")
    if args.json:
        print_json(
            {
                "benchmark": "openb",
                "nodes": len(fleet.nodes),
                "gpus": fleet.gpu_milli // MILLI_PER_GPU,
                "arrivals": len(stream),
                "batch": args.batch,
                "seconds": round(run.seconds, 4),
                "ms_per_pod": round(run.ms_per_pod, 4),
                "violations": 0,
                "refused": 0,
                "dropped": dropped,
                "objective": round(curve.at(points[-1]), 4) if points else None,
                "bound": None,
                "gap": None,
                "allocated_percent": {str(p): round(curve.at(p), 4) for p in points},
            }
        )
    return 0


@dataclass(frozen=True)
class TraceResult:
    """Means over the seeds of one pod list."""

    trace: str
    at: Mapping[int, float]
    ms_per_pod: float
    first_drop_percent: Sequence[float]
    """Load at which the first pod was dropped, seed by seed; inf: none."""
    seconds: float
    arrivals: int

    def as_json(self) -> dict[str, object]:
        """For the last line of --json."""
        return {
            "trace": self.trace,
            "allocated_percent": {str(p): round(value, 4) for p, value in self.at.items()},
            "first_drop_percent": [round(p, 4) if np.isfinite(p) else None for p in self.first_drop_percent],
            "ms_per_pod": round(self.ms_per_pod, 4),
            "seconds": round(self.seconds, 4),
            "arrivals": self.arrivals,
            "violations": 0,
            "refused": 0,
        }


def run_family(args: argparse.Namespace) -> int:
    """Every pod list of a folder over the seeds, beside the published figures."""
    folder = args.family if args.family is not None else bench_data("openb")
    if folder is None or not folder.is_dir():
        return refuse(
            f"--family: {folder or 'SUANLI_BENCH_DATA is unset and no folder is named'}: no such folder"
        )
    lists = sorted(p for p in folder.iterdir() if p.name.startswith(POD_LIST_PREFIX))
    node_list = folder / NODE_LIST
    if not lists or not node_list.is_file():
        return refuse(f"--family: {folder} has no {NODE_LIST} or no {POD_LIST_PREFIX}*.csv[.gz]")
    fleet = fleet_of(read_nodes(node_list))
    published = read_published(folder / PUBLISHED)
    print(machine_line())
    print(
        f"{len(fleet.nodes)} GPU nodes, {fleet.gpu_milli // MILLI_PER_GPU} GPUs, batches of {args.batch}, "
        f"seeds {', '.join(map(str, args.seeds))}"
    )
    print("GPUs allocated in percent of the cluster at these loads, means over the seeds; every run checked")
    rows: list[list[str]] = []
    results: list[TraceResult] = []
    for path in lists:
        trace = path.name.removeprefix(POD_LIST_PREFIX).split(".")[0]
        result = _measure(trace, fleet, read_pods(path), args.seeds, args.batch)
        if isinstance(result, str):
            print(result, file=sys.stderr)
            return EXIT_FAILED
        results.append(result)
        for policy in PUBLISHED_POLICIES:
            if (trace, policy) in published:
                figures = published[trace, policy]
                rows.append(
                    [
                        trace,
                        f"{policy} (published)",
                        *(f"{figures[p]:.2f}" for p in COMPARED_PERCENT),
                        "",
                        "",
                        "",
                    ]
                )
        rows.append(
            [
                trace,
                "Suanli",
                *(f"{result.at[p]:.2f}" for p in COMPARED_PERCENT),
                f"{min(result.first_drop_percent):.1f}",
                f"{np.mean(result.first_drop_percent):.1f}",
                f"{result.ms_per_pod:.3f}",
            ]
        )
    columns = [*map(str, COMPARED_PERCENT), "first drop at %, earliest", "mean", "ms/pod"]
    print_table(["trace", "policy", *columns], rows)
    if args.json:
        print_json(
            {
                "benchmark": "openb",
                "seeds": list(args.seeds),
                "batch": args.batch,
                "seconds": round(sum(r.seconds for r in results), 4),
                "violations": 0,
                "refused": 0,
                "traces": [r.as_json() for r in results],
            }
        )
    return 0


def _measure(
    trace: str, fleet: Fleet, pods: Sequence[TracePod], seeds: Sequence[int], batch: int
) -> TraceResult | str:
    """Means over the seeds, or what is wrong with a run."""
    curves, times, seconds, arrivals = [], [], 0.0, 0
    for seed in seeds:
        stream = make_stream(pods, fleet.gpu_milli, seed)
        run = place_stream(fleet, pods, stream, batch)
        wrong = check(fleet, stream, run.placements, batch)
        if wrong:
            return f"{trace}, seed {seed}: {len(wrong)} rules broken, first: {wrong[0]}"
        curves.append(curve_of(fleet, stream, run.placements))
        times.append(run.ms_per_pod)
        seconds += run.seconds
        arrivals += len(stream)
    return TraceResult(
        trace=trace,
        at={p: float(np.mean([c.at(p) for c in curves])) for p in COMPARED_PERCENT},
        ms_per_pod=float(np.mean(times)),
        first_drop_percent=[c.first_drop_percent for c in curves],
        seconds=seconds,
        arrivals=arrivals,
    )


def read_published(path: Path) -> dict[tuple[str, str], dict[int, float]]:
    """(trace, policy) → load percent → mean allocation; empty without the file."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (r["trace"], r["policy"]): {p: float(r[f"mean_at_{p}"]) for p in COMPARED_PERCENT}
        for r in rows
        if r["policy"] in PUBLISHED_POLICIES
    }


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.openb", description="Place the openb trace and measure GPU allocation."
    )
    parser.add_argument("--nodes", type=Path, help="node list (CSV, may be .gz)")
    parser.add_argument("--pods", type=Path, help="pod list: gives the shape frequencies, nothing else")
    parser.add_argument("--stream", type=Path, help="arrivals in order")
    parser.add_argument("--out", type=Path, help="placements to write: index,node_sn,gpu_ids")
    parser.add_argument(
        "--batch", type=positive_int, default=200, help="arrivals seen at a time (default 200)"
    )
    parser.add_argument(
        "--family",
        type=Path,
        nargs="?",
        default=False,
        help="table over all pod lists of a folder (default: openb below SUANLI_BENCH_DATA)",
    )
    parser.add_argument(
        "--seeds", type=seed_range, default=seed_range("42-51"), help="for --family (default 42-51)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args(argv)
    single = ("nodes", "pods", "stream", "out")
    missing = [f"--{name}" for name in single if getattr(args, name) is None]
    if args.family is False and missing:
        parser.error(f"needs {', '.join(missing)} (or --family)")
    if args.family is not False and len(missing) < len(single):
        parser.error("--family goes without --nodes, --pods, --stream and --out")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; exit 0: placed and checked, 1: a check failed, 2: bad input."""
    args = _arguments(argv)
    try:
        return run_stream(args) if args.family is False else run_family(args)
    except TraceError as error:
        return refuse(str(error))
    except OSError as error:
        return refuse(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        return refuse(str(error))


if __name__ == "__main__":
    sys.exit(main())
