"""`python -m cluster_sim.baseline_days SCENARIO SEED FOLDER`: every baseline's day, in process, saved to the folder."""

from __future__ import annotations

import sys
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


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
