"""How long `why` takes on a large fleet: `python -m benchmarks.explain [--nodes N] [--sites S] [--queued W]`.

A fleet is filled with running work to the last GPU, a queue waits, and the hardest questions are asked: every blocking
reason, the minimal conflict, each relaxation verified by placing again, and the expected start; of a gang, of a service
near its users, of a twin, of a twin that shares a stage of that one, and of one machine. Bound: 2 s at 10 000 nodes.
Answers are checked: there are reasons, a conflict, relaxations and a start ahead.
"""

from __future__ import annotations

import argparse
import json
import time

from scheduler.cycle import Cycle
from scheduler.domain.records import CommitBatch
from scheduler.domain.state import ClusterState
from scheduler.planner.horizon import HorizonStrategy
from scheduler.ports import SolverPool
from scheduler.store.bodies import decode_body, encode_body
from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution
from suanli.model import (
    AccessProfile,
    CoolingPlant,
    Event,
    Explanation,
    Facility,
    Fleet,
    Flow,
    HostKind,
    Link,
    Network,
    NodeGroup,
    Policy,
    Site,
    SiteKind,
    SitePolicy,
    Stage,
    Tariff,
    Workload,
    WorkloadKind,
    Zone,
)

START_S = 1_784_044_800
BOUND_S = 2.0
GPUS_PER_NODE = 8
HOUR_S = 3600
QUEUED = 2_000


class NoPool(SolverPool):
    """No plan is asked for: rounds follow tariff and plants."""

    def solve_plan(self, problem: PlacementProblem, wall_limit_s: float) -> PlanSolution:
        """Never called."""
        raise AssertionError("nothing to solve")

    def close(self) -> None:
        """Nothing is held."""


def a_fleet(node_count: int, site_count: int) -> Fleet:
    """Equal sites of GPU and CPU nodes, each a little farther from the users than the one before."""
    each = node_count // site_count // 2
    sites = tuple(
        Site(
            site_id=f"s{i:03d}", kind=SiteKind.EDGE if i else SiteKind.CLOUD, host_kind=HostKind.TELECOM_ROOM,
            labels={"residency": "open" if i % 2 else "medical"},
            rated_it_kw=50_000, power_limit_kw=50_000, tariff_id="t", has_upf=True,
            facility=Facility(plant="p", e0=0.01, e1=0.03, e2=0.02, lighting=0.01, cooling_fixed=0.02,
                              cooling=CoolingPlant.CHILLER_FIXED, cooling_constant=0.3),
            groups=(
                NodeGroup(group_id="gpu", node_type="gpu", node_count=each, cpu_milli=128_000, memory_mib=1_000_000,
                          gpu_model="l20", gpu_count=GPUS_PER_NODE, gpu_memory_mib=48_000, storage_gib=4_000,
                          idle_w=600, max_w=4_000, gpu_dynamic_w=250, core_dynamic_w=3),
                NodeGroup(group_id="cpu", node_type="cpu", node_count=each, cpu_milli=64_000, memory_mib=256_000,
                          storage_gib=2_000, idle_w=200, max_w=800, core_dynamic_w=5),
            ),
        )
        for i in range(site_count)
    )  # fmt: skip
    return Fleet(
        sites=sites,
        zones=(Zone(zone_id="z", hub_id="hub", access_mix={"pon": 1.0}),),
        network=Network(
            hubs={"hub": (0.0, 0.0)},
            links=tuple(
                Link(
                    link_id=f"l{i}",
                    ends=("hub", s.site_id),
                    capacity_gbps=400,
                    extra_rtt_ms=25.0 * i / site_count,
                )
                for i, s in enumerate(sites)
            ),
            access=(AccessProfile(access_id="pon", rtt_p50_ms=1, rtt_p99_ms=2, down_mbps=1000, up_mbps=100),),
        ),
        tariffs=(
            Tariff(tariff_id="t", price_yuan_per_kwh_by_month=dict.fromkeys(range(1, 13), (0.6,) * 24)),
        ),
    )


class World:
    """A cycle over its own state; what it decides is folded as the store would hand it on."""

    def __init__(self, fleet: Fleet) -> None:
        self.cycle, self.state = Cycle(HorizonStrategy(), NoPool()), ClusterState.empty()
        self.apply(self.cycle.register_fleet(self.state, START_S, fleet))

    def apply(self, batch: CommitBatch) -> None:
        """Fold a batch."""
        first = self.state.revision + 1
        self.state.apply(
            [
                Event(
                    revision=first + i,
                    at_s=d.at_s,
                    kind=d.kind,
                    subject=d.subject,
                    body=decode_body(encode_body(d.body)),
                )
                for i, d in enumerate(batch.events)
            ]
        )

    def submit(self, *workloads: Workload) -> None:
        """Accept and place."""
        self.apply(self.cycle.submit(self.state, START_S, workloads))
        self.apply(self.cycle.round(self.state, START_S))


def a_crowded_world(node_count: int, site_count: int, queued: int = QUEUED) -> World:
    """Every GPU of the nearer sites taken by work of one to nine hours, and a queue that waits for them."""
    world = World(a_fleet(node_count, site_count))
    near = near_sites(site_count)
    gpus = node_count // site_count // 2 * len(near) * GPUS_PER_NODE
    world.submit(
        *(training(f"run{i}", gpus // 64, 1000, HOUR_S * (1 + i % 9), near) for i in range(64)),
    )
    placed = int((world.state.replicas["node"] >= 0).sum())
    if placed != gpus // 64 * 64:
        raise AssertionError(f"{placed} replicas placed, {gpus // 64 * 64} wanted")
    world.submit(*(training(f"wait{i}", 1 + i % 4, 1000 * (1 + i % 8), HOUR_S, near) for i in range(queued)))
    return world


def near_sites(site_count: int) -> tuple[str, ...]:
    """The full ones: all but the farthest fifth."""
    return tuple(f"s{i:03d}" for i in range(site_count - site_count // 5))


def training(
    name: str, replicas: int, gpu_milli: int, duration_s: int, site_ids: tuple[str, ...]
) -> Workload:
    """GPU work without users."""
    stage = Stage(
        stage_id="main", replicas=replicas, cpu_milli=8_000, memory_mib=60_000, gpu_milli={"l20": gpu_milli},
        duration_s=duration_s, site_ids=site_ids,
    )  # fmt: skip
    return Workload(name=f"tenants/t/workloads/{name}", kind=WorkloadKind.TRAINING, stages=(stage,))


def questions(node_count: int, site_count: int) -> list[Workload]:
    """A gang with labels and named sites, a replica near its users, a twin of three stages."""
    size = min(64, node_count // site_count // 4)
    gang = Stage(
        stage_id="main", replicas=size, gang=True, cpu_milli=8_000, memory_mib=60_000, gpu_milli={"l20": 8000},
        gpu_memory_mib=40_000, require_any=({"residency": "medical"},), duration_s=HOUR_S,
        site_ids=near_sites(site_count),
    )  # fmt: skip
    near = Stage(stage_id="main", replicas=40, cpu_milli=8_000, memory_mib=60_000, gpu_milli={"l20": 1000})
    flow = Flow(source="zones/z", target="stages/main", rtt_p99_max_ms=6.0, mbps=1.0)
    twin = tuple(
        Stage(stage_id=s, cpu_milli=4_000, memory_mib=8_000, gpu_milli={"l20": 1000} if s == "render" else {})
        for s in ("ingest", "sync", "render")
    )
    flows = (
        Flow(source="zones/z", target="stages/ingest", rtt_p99_max_ms=6.0, mbps=5.0),
        Flow(source="stages/ingest", target="stages/sync", rtt_p99_max_ms=9.0, mbps=5.0),
        Flow(source="stages/sync", target="stages/render", rtt_p99_max_ms=9.0, mbps=5.0),
    )
    owner = "tenants/t/workloads/twin"
    guest = (twin[0], twin[1].model_copy(update={"shared_with": owner}), twin[2])
    return [
        Workload(name="tenants/t/workloads/gang", kind=WorkloadKind.TRAINING, stages=(gang,)),
        Workload(name="tenants/t/workloads/near", kind=WorkloadKind.INFERENCE, stages=(near,), flows=(flow,)),
        Workload(name=owner, kind=WorkloadKind.TWIN, stages=twin, flows=flows),
        Workload(name="tenants/t/workloads/guest", kind=WorkloadKind.TWIN, stages=guest, flows=flows),
    ]


def measure(node_count: int, site_count: int, queued: int = QUEUED) -> dict[str, dict[str, float]]:
    """Seconds of CPU of each question, with what it found; asserts that the answers are answers."""
    world = a_crowded_world(node_count, site_count, queued)
    limit = Policy(sites=(SitePolicy(target="class:edge", power_limit_kw=40_000),))
    world.apply(world.cycle.revise_policy(world.state, START_S, limit))
    world.submit(*questions(node_count, site_count))
    found: dict[str, dict[str, float]] = {}
    for workload in questions(node_count, site_count):
        begun_s = time.process_time()
        answer = world.cycle.explain(world.state, workload.name, START_S, with_relaxations=True)
        seconds = time.process_time() - begun_s
        _assert_answer(answer)
        found[workload.workload_id] = {
            "seconds": round(seconds, 3),
            "reasons": len(answer.reasons),
            "conflict": len(answer.conflict),
            "relaxations": len(answer.relaxations),
        }
    begun_s = time.process_time()
    answer = world.cycle.explain(world.state, "tenants/t/workloads/gang", START_S, "s000", 0)
    found["node"] = {"seconds": round(time.process_time() - begun_s, 3), "reasons": len(answer.reasons),
                     "conflict": len(answer.conflict), "relaxations": 0}  # fmt: skip
    if answer.why_not != "s000/gpu/0" or not answer.reasons:
        raise AssertionError(f"why not on a machine: {answer.summary}")
    return found


def _assert_answer(answer: Explanation) -> None:
    if not (answer.reasons and answer.conflict and answer.relaxations):
        raise AssertionError(f"{answer.workload}: {answer.summary}; relaxations {answer.relaxations}")
    if answer.expected_start is None or answer.expected_start.earliest_at_s <= START_S:
        raise AssertionError(f"{answer.workload}: expected start {answer.expected_start}")


def main() -> None:
    """Print one line a question, or one object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--sites", type=int, default=50)
    parser.add_argument("--queued", type=int, default=QUEUED, help="workloads that wait")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = measure(args.nodes, args.sites, args.queued)
    worst_s = max(f["seconds"] for f in found.values())
    if args.json:
        print(
            json.dumps(
                {
                    "nodes": args.nodes,
                    "sites": args.sites,
                    "queued": args.queued,
                    "seconds": worst_s,
                    "bound": BOUND_S,
                    "questions": found,
                }
            )
        )
        return
    for name, f in found.items():
        print(
            f"why {name:5} {f['seconds']:6.3f} s CPU  {f['reasons']:.0f} reasons, conflict of {f['conflict']:.0f}, "
            f"{f['relaxations']:.0f} relaxations"
        )
    print(
        f"{args.nodes} nodes, {args.sites} sites, {args.queued} waiting: worst {worst_s:.3f} s (bound {BOUND_S} s)"
    )


if __name__ == "__main__":
    main()
