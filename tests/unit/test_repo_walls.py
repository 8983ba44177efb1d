"""The import contracts of pyproject.toml hold for a tidy house and break for each arrow they forbid.

The contracts are copied to a small house made for the test, so the walls are tried without touching ours.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TIDY = {
    "suanli/v1/thing_pb2.py": "import google.protobuf.message",
    "suanli/model/values.py": "import json",
    "suanli/wire.py": "import suanli.v1.thing_pb2, suanli.model.values",
    "suanli/client/sync.py": "import grpc, suanli.wire",
    "suanli/cli/main.py": "import suanli.client.sync",
    "solvers/problem.py": "import numpy",
    "solvers/solution.py": "import solvers.problem",
    "solvers/verify.py": "import numpy, solvers.problem, solvers.solution",
    "solvers/placer.py": "import ortools, solvers.problem",
    "solvers/decompose.py": "import ray",
    "scheduler/domain/ledger.py": "import suanli.model.values",
    "scheduler/ports.py": "import scheduler.domain.ledger",
    "scheduler/planner/round.py": "import solvers.placer, scheduler.ports",
    "scheduler/cycle.py": "import scheduler.planner.round",
    "scheduler/service/place.py": "import scheduler.cycle",
    "scheduler/store/sql.py": "import scheduler.ports",
    "scheduler/actuators/k8s.py": "import kubernetes",
    "scheduler/rpc/server.py": "import grpc, grpc_health, suanli.v1.thing_pb2, scheduler.service.place",
    "scheduler/app.py": "import scheduler.rpc.server, scheduler.store.sql",
    "cluster_sim/world/physics.py": "import numpy, suanli.model.values",
    "cluster_sim/engines/ray.py": "import ray, cluster_sim.world.physics",
    "cluster_sim/driver.py": "import suanli.client.sync, scheduler.app",
    "benchmarks/day.py": "import cluster_sim.driver",
}

# module -> what it may not import
FORBIDDEN = {
    "solvers/facility.py": "suanli.model.values",
    "solvers/packing.py": "ray",
    "solvers/verify.py": "solvers.placer",
    "solvers/problem.py": "scipy",
    "scheduler/domain/state.py": "scheduler.ports",
    "scheduler/planner/compile.py": "ortools",
    "scheduler/planner/forecast.py": "google.protobuf.message",
    "scheduler/store/memory.py": "scheduler.rpc.server",
    "scheduler/service/watch.py": "suanli.v1.thing_pb2",
    "scheduler/workers/pool.py": "cluster_sim.driver",
    "scheduler/rpc/interceptors.py": "kubernetes",
    "suanli/model/site.py": "suanli.v1.thing_pb2",
    "suanli/client/aio.py": "suanli.cli.main",
    "suanli/cli/solve.py": "numpy",
    "suanli/cli/serve.py": "scheduler.app",
    "cluster_sim/world/weather.py": "scheduler.planner.round",
    "cluster_sim/world/clock.py": "solvers.problem",
    "cluster_sim/report.py": "ray",
    "cluster_sim/simulator.py": "grpc",
    "cluster_sim/baselines.py": "ortools",
}


def build_house(root: Path, modules: dict[str, str]) -> None:
    """Write the modules, their packages and the project's contracts below ``root``."""
    shutil.copy(ROOT / "pyproject.toml", root)
    for name, code in modules.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code + "\n")
        for folder in path.relative_to(root).parents[:-1]:
            (root / folder / "__init__.py").touch()


def lint(root: Path) -> tuple[int, str]:
    """Exit code and text of lint-imports in ``root``."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, env={"COLUMNS": "300"}, check=False
    )
    return done.returncode, done.stdout


def test_a_tidy_house_keeps_every_contract(tmp_path):
    build_house(tmp_path, TIDY)
    code, text = lint(tmp_path)
    assert code == 0, text
    assert " 0 broken" in text


@pytest.fixture(scope="module")
def untidy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What lint-imports says of a house with all forbidden imports at once."""
    root = tmp_path_factory.mktemp("house")
    broken = {name: f"{TIDY.get(name, '')}\nimport {target}" for name, target in FORBIDDEN.items()}
    build_house(root, {**TIDY, **broken})
    code, text = lint(root)
    assert code == 1, text
    return text


@pytest.mark.parametrize(("importer", "imported"), sorted(FORBIDDEN.items()))
def test_a_forbidden_arrow_is_named(untidy, importer, imported):
    module = importer.removesuffix(".py").replace("/", ".")
    target = "google" if imported.startswith("google.") else imported
    assert f"{module} -> {target} " in untidy


def test_a_module_outside_the_plan_of_the_scheduler_is_named(tmp_path):
    build_house(tmp_path, {**TIDY, "scheduler/misc.py": ""})
    code, text = lint(tmp_path)
    assert code == 1
    assert "scheduler.misc" in text
