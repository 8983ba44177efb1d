"""`python -m cluster_sim.baseline_days SCENARIO SEED FOLDER`: every baseline's day, in process, saved to the folder.

The folder also gets their results, pickled for the process that started this one: (policy, `DayResult`) pairs in order.
Standard output is not asked for them: any library may print there.

With `--while-stdin` it ends when standard input, a pipe, is closed: a killed run leaves nothing behind that computes.
It then also gives way to the run beside it, whose every step waits for the one before.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from pathlib import Path

from cluster_sim.baselines import strategy_of
from cluster_sim.in_process import InProcessGateway
from cluster_sim.play import BASELINE_RESULTS, BASELINES, play_day
from cluster_sim.result import DayResult
from cluster_sim.scenarios.loader import load_scenario
from scheduler.workers import InlineSolverPool

NICENESS_BESIDE_A_RUN = 10


def main(scenario_name: str, seed: int, folder: Path) -> list[tuple[str, DayResult]]:
    """Play and save them one after the other; their results."""
    scenario = load_scenario(scenario_name)
    results = []
    for name in BASELINES:
        gateway = InProcessGateway(strategy_of(name), InlineSolverPool(with_certificate=False))
        day = play_day(scenario, seed, name, gateway, "local")
        day.save(folder)
        results.append((name, day.result(scenario)))
    return results


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    if sys.argv[4:] == ["--while-stdin"]:
        os.nice(NICENESS_BESIDE_A_RUN)
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    into = Path(sys.argv[3])
    played = main(sys.argv[1], int(sys.argv[2]), into)
    (into / BASELINE_RESULTS).write_bytes(pickle.dumps(played))
