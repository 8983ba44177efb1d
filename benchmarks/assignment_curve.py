"""Quality against time on assignment yardsticks: cost above the best known value for rising limits of time, drawn.

    python -m benchmarks.assignment_curve gap --seconds 1,2,5,10,30 --out docs/figures/gap-quality.json FILE...
    python -m benchmarks.assignment_curve sscflp --seconds 5,10,20,40,60 --out docs/figures/sscflp-quality.json FILE...
    python -m benchmarks.assignment_curve --svg docs/figures

Each point is a run of its own with that limit, counted in processor seconds of both threads together, so that other
work on the machine does not move it; every answer is checked. Best known values come from the table beside the files.
`--svg` draws again from the data files of a folder without measuring.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.assignment import Instance, InstanceError, best_known, check, placement_problem
from benchmarks.common import EXIT_FAILED, machine_line, refuse
from benchmarks.gap import read_gap
from benchmarks.sscflp import read_sscflp
from benchmarks.svg import curves
from solvers.single_source import WorkLimits, solve_single_source

READERS: dict[str, Callable[[Path], Instance]] = {"gap": read_gap, "sscflp": read_sscflp}
FIGURES = {"gap": "gap-quality", "sscflp": "sscflp-quality"}
TITLES = {
    "gap": "Generalised assignment: cost above the best known value",
    "sscflp": "Single-source facility location, 100 sites × 1 000 customers: cost above the optimum",
}
OTHERS = {
    "gap": [
        {"name": "HiGHS, type D", "seconds": [40, 60], "above_percent": [0.1, 0.6]},
        {"name": "CP-SAT, all types", "seconds": [40, 60], "above_percent": [0.1, 1.9]},
    ],
    "sscflp": [{"name": "HiGHS, whole program", "seconds": [120, 180], "above_percent": [126, 206]}],
}
"""Off the shelf on the same files: 20 to 30 s on two workers, and 60 to 90 s, counted twice as processor seconds."""
FLOOR_PERCENT = 0.01


def measure(kind: str, files: Sequence[Path], limits_s: Sequence[float], seed: int) -> dict[str, Any]:
    """Runs of every file at every limit; limits too short for an answer are left out.

    ValueError when an answer is wrong, a file has none at all, or there is no value to compare with.
    """
    rows = []
    for path in files:
        instance = READERS[kind](path)
        known = best_known(path)
        if known is None:
            raise ValueError(f"{path}: no best known value in the table beside it")
        problem = placement_problem(instance)
        points = []
        for limit_s in limits_s:
            started = time.process_time()
            answer = solve_single_source(problem, WorkLimits(wall_s=limit_s), seed, time.process_time)
            seconds = time.process_time() - started
            wrong = check(instance, problem, answer)
            if wrong:
                raise ValueError(f"{instance.name}, {limit_s:g} s: {wrong[0]}")
            if answer.bin_of is None:
                print(f"{instance.name}: {seconds:.1f} s, no answer", flush=True)
                continue
            above = 100 * (instance.objective(answer.bin_of) / known - 1)
            bound = answer.plan.bound("fleet")
            below = (
                None if bound is None or bound.bound_yuan is None else 100 * (1 - bound.bound_yuan / known)
            )
            points.append(
                {
                    "limit_s": limit_s,
                    "seconds": round(seconds, 2),
                    "above_percent": round(above, 4),
                    "bound_below_percent": None if below is None else round(below, 4),
                }
            )
            print(f"{instance.name}: {seconds:.1f} s, {above:.3f} % above {known:.2f}", flush=True)
        if not points:
            raise ValueError(f"{instance.name}: no answer at any limit")
        rows.append({"name": instance.name, "best_known": known, "points": points})
    return {"machine": machine_line(), "kind": kind, "seed": seed, "files": rows, "others": OTHERS[kind]}


def draw(folder: Path) -> dict[str, str]:
    """Name of figure → SVG text, from the data files of a folder."""
    drawn = {}
    for kind, name in FIGURES.items():
        if not (folder / f"{name}.json").is_file():
            continue
        data = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        lines = [
            (row["name"], [(p["seconds"], p["above_percent"]) for p in row["points"]])
            for row in data["files"]
        ]
        others = [(o["name"], *o["seconds"], *o["above_percent"]) for o in data["others"]]
        drawn[f"{name}.svg"] = curves(
            TITLES[kind], "processor seconds (two threads together)", "% above", lines, others, FLOOR_PERCENT
        )
    return drawn


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; exit 0: measured, checked and drawn, 1: a wrong answer, 2: bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.assignment_curve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", nargs="?", choices=sorted(READERS))
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--seconds", type=_limits, default=(1.0, 2.0, 5.0, 10.0, 30.0), help="limits, rising")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="data file to write")
    parser.add_argument("--svg", type=Path, help="folder with data files that gets their figures")
    args = parser.parse_intermixed_args(argv)  # options may stand between kind and files
    if (args.kind is None or not args.files or args.out is None) and args.svg is None:
        parser.error("needs a kind, FILEs and --out, or --svg")
    if args.kind is not None:
        missing = [str(path) for path in args.files if not path.is_file()]
        if missing:
            return refuse(f"{', '.join(missing)}: no such file")
        try:
            data = measure(args.kind, args.files, args.seconds, args.seed)
        except InstanceError as error:
            return refuse(str(error))
        except ValueError as error:
            print(error, file=sys.stderr)
            return EXIT_FAILED
        args.out.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if args.svg is not None:
        for name, text in draw(args.svg).items():
            (args.svg / name).write_text(text, encoding="utf-8")
            print(f"drawn: {args.svg / name}")
    return 0


def _limits(text: str) -> tuple[float, ...]:
    try:
        limits = tuple(float(part) for part in text.split(","))
    except ValueError:
        limits = ()
    if not limits or min(limits) <= 0 or list(limits) != sorted(limits):
        raise argparse.ArgumentTypeError(f"{text!r} are not rising numbers of seconds above 0")
    return limits


if __name__ == "__main__":
    sys.exit(main())
