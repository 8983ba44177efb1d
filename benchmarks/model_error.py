"""How large the planning model's approximations are, and what quality costs in time; draws the figures of the docs.

    python -m benchmarks.model_error [--classes 363] [--out docs/figures/plan-quality.json] [--svg docs/figures]

On the synthetic city of `benchmarks.plan`, everything against the true cost of the same plan or against the certified
bound (true facility power, derived with numpy alone):

1. chords    the program's objective − the plan's true cost, for 1, 2, 4, 8 chords
2. time      true cost with services constant over 1, 2, 4, 8 blocks a day, and the bound for shares free in every slot
3. nodes     nodes that packing whole replicas takes against the plan's continuous nodes, and whether all of them fit
4. quality   true cost above the best bound against processor time, from the greedy plan to the full one

`--svg` alone draws again from the file of `--out` without measuring.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine_line, positive_int, print_table
from benchmarks.plan import city
from benchmarks.svg import bars, scatter
from solvers.dual_bound import free_slots_bound_yuan
from solvers.fallback import coarse_plan
from solvers.greedy import greedy_plan
from solvers.nodes import Need, NodeState, Shape, split_gpu_milli
from solvers.packing import MixEntry, PackingModel
from solvers.placer import Placer
from solvers.plan_model import PlanLimits, solve_plan
from solvers.plan_rules import PlanOptions
from solvers.problem import PlacementProblem
from solvers.proof import verify_proof
from solvers.solution import PlanSolution

DATA, OPENB = "plan-quality.json", "openb.json"
NEVER_YUAN = 1e-6


def measured(
    problem: PlacementProblem, *, options: PlanOptions | None = None, limits: PlanLimits | None = None
) -> tuple[PlanSolution, float]:
    """A plan that the verifier accepts, and its processor seconds."""
    begun = time.process_time()
    plan = solve_plan(problem, options=options, limits=limits)
    return accepted(problem, plan), time.process_time() - begun


def accepted(problem: PlacementProblem, plan: PlanSolution) -> PlanSolution:
    """SystemExit for a plan that is none or that the verifier refuses."""
    if not plan.has_plan or (violations := verify_proof(problem, plan)):
        raise SystemExit(f"no sound plan: {plan.message or [str(v) for v in violations[:5]]}")
    return plan


def true_yuan(plan: PlanSolution) -> float:
    """Cost by the true facility curve, without the penalties of unserved work."""
    return plan.cost.total_yuan - plan.cost.unserved_yuan


def chords(problem: PlacementProblem, counts: Sequence[int]) -> list[dict[str, float]]:
    """What the program thinks the plan costs more than it does."""
    rows = []
    for count in counts:
        plan, seconds = measured(problem, options=PlanOptions(chord_count=count))
        fleet = plan.bound("fleet")
        assert fleet is not None and plan.certificate is not None
        over = fleet.objective_yuan - true_yuan(plan)
        rows.append(
            {
                "chords": count, "over_frac": over / true_yuan(plan), "true_yuan": true_yuan(plan),
                "certified_gap": plan.certificate.gap_frac, "seconds": seconds,
            }
        )  # fmt: skip
    return rows


def blocks(problem: PlacementProblem, counts: Sequence[int]) -> list[dict[str, float]]:
    """True cost by how often services may shift."""
    rows = []
    for count in counts:
        plan, seconds = measured(problem, options=PlanOptions(blocks_per_day=count))
        assert plan.certificate is not None
        free = max(free_slots_bound_yuan(problem, plan, leaf.multipliers) for leaf in plan.certificate.leaves)
        rows.append(
            {
                "blocks": count, "true_yuan": true_yuan(plan), "unserved_yuan": plan.cost.unserved_yuan,
                "bound_yuan": plan.certificate.bound_yuan, "free_slots_bound_yuan": free, "seconds": seconds,
            }
        )  # fmt: skip
    return rows


def packed_nodes(problem: PlacementProblem, plan: PlanSolution, slot: int) -> dict[str, float]:
    """Whole replicas of one slot packed onto nodes by the product's placer: nodes taken, replicas that find no room."""
    p = problem
    planned = used = asked = left = 0.0
    for g in range(p.group_count):
        mine = np.flatnonzero(p.pairs.group_index == g)
        count = np.rint(plan.running_count[mine, slot]).astype(int)
        mine, count = mine[count > 0], count[count > 0]
        if not len(mine):
            continue
        nodes = int(p.groups.node_count[g, slot])
        state = NodeState.empty(
            [0] * nodes, [int(p.groups.capacity[g, 0])] * nodes, [int(p.groups.capacity[g, 1])] * nodes,
            [int(p.groups.capacity[g, 2]) // 1000] * nodes, storage_gib=[int(p.groups.capacity[g, 3])] * nodes,
        )  # fmt: skip
        shapes = [Shape.uniform(_need(p.pairs.need[k]), [True]) for k in mine]
        mix = [MixEntry(s, float(n)) for s, n in zip(shapes, count, strict=True)]
        placer = Placer(state, PackingModel.build(state, mix))
        share = p.pairs.need[mine] / np.maximum(p.groups.capacity[g], 1)
        touched = np.zeros(nodes, dtype=bool)
        for i in np.argsort(-share.max(axis=1), kind="stable"):
            placed = placer.place(shapes[i], int(count[i]))
            touched[placed.node] = True
            left += int(count[i]) - len(placed)
        planned += float(np.max(share.T @ count))
        used += float(touched.sum())
        asked += float(count.sum())
    return {"replicas": asked, "without_room": left, "nodes_planned": planned, "nodes_packed": used}


def _need(need: Sequence[int]) -> Need:
    cpu, memory, gpu, storage = (int(n) for n in need)
    gpus, milli = split_gpu_milli(gpu)
    return Need(cpu, memory, gpus, milli, storage)


def quality(problem: PlacementProblem, bound_yuan: float) -> list[dict[str, Any]]:
    """Name, processor seconds, true cost above the bound, penalty of unserved work."""
    rows = []

    def add(name: str, plan: PlanSolution, seconds: float) -> None:
        rows.append(
            {
                "name": name, "seconds": seconds, "above_frac": true_yuan(plan) / bound_yuan - 1,
                "unserved_yuan": plan.cost.unserved_yuan,
                "certified_gap": None if plan.certificate is None else plan.certificate.gap_frac,
            }
        )  # fmt: skip

    for name, make in (("greedy", greedy_plan), ("coarse", coarse_plan)):
        begun = time.process_time()
        plan = accepted(problem, make(problem))
        add(name, plan, time.process_time() - begun)
    for rounds in (0, 1, 2, 4, 8):
        plan, seconds = measured(problem, limits=PlanLimits(pricing_rounds=rounds))
        add(f"{rounds} rounds", plan, seconds)
    return rows


def measure(class_count: int) -> dict[str, Any]:
    """All of it, for one city."""
    problem = city(class_count)
    by_blocks = blocks(problem, (1, 2, 4, 8))
    plan, _ = measured(problem)
    assert plan.certificate is not None
    bound = plan.certificate.bound_yuan
    packed = [packed_nodes(problem, plan, slot) for slot in range(0, problem.slot_count, 7)]
    return {
        "machine": machine_line(),
        "classes": problem.class_count, "groups": problem.group_count, "slots": problem.slot_count,
        "pairs": problem.pair_count, "bound_yuan": bound,
        "chords": chords(problem, (1, 2, 4, 8)), "blocks": by_blocks,
        "packing": {key: sum(row[key] for row in packed) for key in packed[0]},
        "quality": quality(problem, bound),
    }  # fmt: skip


def draw(folder: Path) -> dict[str, str]:
    """Name of figure → SVG text, from the data files of a folder."""
    data = json.loads((folder / DATA).read_text(encoding="utf-8"))
    # a plan that leaves work unserved costs less than any that serves it: its cost is no measure, the text tells it
    served = [r for r in data["quality"] if r["unserved_yuan"] <= NEVER_YUAN]
    points = [(r["name"], r["seconds"], 100 * r["above_frac"]) for r in served]
    openb = json.loads((folder / OPENB).read_text(encoding="utf-8"))
    return {
        "plan-quality.svg": scatter(
            f"Horizon plan: true cost above the certified bound ({data['classes']} classes, {data['pairs']} pairs)",
            "processor seconds (coarse plan; full plan by rounds of pricing)", "% above the bound", points,
        ),
        "openb.svg": bars(
            "openb: GPU allocation, mean of seeds 42–51", "% of GPUs allocated",
            [(row["name"], row["suanli"], row["fgd"]) for row in openb["rows"]], ("Suanli", "FGD as published"),
        ),
    }  # fmt: skip


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=positive_int, default=363)
    parser.add_argument("--out", type=Path, help="file that gets the measurements")
    parser.add_argument("--svg", type=Path, help=f"folder with {DATA} and {OPENB} that gets the figures")
    arguments = parser.parse_args()
    if arguments.out or not arguments.svg:
        data = measure(arguments.classes)
        _tell(data)
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if arguments.svg:
        for name, text in draw(arguments.svg).items():
            (arguments.svg / name).write_text(text, encoding="utf-8")
            print(f"drawn: {arguments.svg / name}")
    return 0


def _tell(data: dict[str, Any]) -> None:
    print(f"{data['machine']}\n{data['classes']} classes, {data['groups']} groups, {data['slots']} slots")
    _table(data["chords"], chords="d", over_frac=".4%", certified_gap=".4%", seconds=".2f")
    _table(
        data["blocks"],
        blocks="d",
        true_yuan=".1f",
        bound_yuan=".1f",
        free_slots_bound_yuan=".1f",
        seconds=".2f",
    )
    packed = data["packing"]
    print(
        f"packing: {packed['replicas']:.0f} replicas, {packed['without_room']:.0f} without room; "
        f"nodes {packed['nodes_packed']:.0f} against {packed['nodes_planned']:.1f} planned"
    )
    _table(data["quality"], name="s", seconds=".2f", above_frac=".4%", unserved_yuan=".0f")


def _table(rows: Sequence[dict[str, Any]], **formats: str) -> None:
    print_table(tuple(formats), [[format(row[key], spec) for key, spec in formats.items()] for row in rows])


if __name__ == "__main__":
    sys.exit(main())
