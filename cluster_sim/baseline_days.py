"""`python -m cluster_sim.baseline_days SCENARIO SEED FOLDER`: every baseline's day, in process, saved to the folder.

With `--while-stdin` it ends when standard input, a pipe, is closed: a killed run leaves nothing behind that computes.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from cluster_sim.baselines import BASELINES, strategy_of
from cluster_sim.in_process import InProcessGateway
from cluster_sim.play import play_day
from cluster_sim.scenarios.loader import load_scenario
from scheduler.workers import InlineSolverPool


def main(scenario_name: str, seed: int, folder: Path) -> None:
    """Play and save them one after the other."""
    scenario = load_scenario(scenario_name)
    for name in BASELINES:
        gateway = InProcessGateway(strategy_of(name), InlineSolverPool(with_certificate=False))
        play_day(scenario, seed, name, gateway, "local").save(folder)


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    if sys.argv[4:] == ["--while-stdin"]:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
