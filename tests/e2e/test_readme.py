"""The README is true: every shell command in it is run here against a city that is up, or named with a reason.

A new command fails `test_every_command_is_run_or_named` until it stands in one of the tables below.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster_sim.dev import DEFAULT_PORT
from suanli.client.core import DEFAULT_ADDRESS
from tests.served import a_free_port
from tests.unit.test_traces_openb_day import NODES, PODS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SUANLI = ".venv/bin/suanli "
UP_LIMIT_S = 120.0
REQUESTS = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:{i:02d}.5,1000,200\n" for i in range(60)
)

NOT_HERE = {
    "make run": "takes minutes and Ray; .ci/run runs it, tests/e2e/test_day_tiny.py plays the small city",
    "make test": "this is one of its tests",
    "make kind-up": "needs Docker and kind",
    "helm install suanli helm/suanli": "needs a cluster; tests/kubernetes renders and validates the chart",
}
ASKED = {
    "sites": "e01-hub",
    "plan examples/inference.yaml": "llm-chat",
    "submit examples/inference.yaml": "llm-chat",
    "list": "llm-chat",
    "placements": "llm-chat",
    "why WORKLOAD": "llm-chat",
    "cancel llm-chat": "cancelled",
    "policy get": "migration_yuan_per_gpu",
    "plans": "optimal|feasible",
    "policy set examples/policy.yaml --dry-run": "OVERRIDES",
    "cordon e09-gov": "cordoned",
    "uncordon e09-gov": "open|closed",
    "fleet get": "e01-hub",
}
"""Command of the tours, in the README's order → what its answer must name, one of these where a day decides."""
PLAYED = {
    "simulate songjiang-s --policy pue-blind --out runs/blind": "verify: 0 violations",
    "simulate songjiang-m --check": "playable",
    "simulate --trace openb --nodes NODES.csv --pods PODS.csv --limit-pods 500 --limit-nodes 80": "0 violations",
    "simulate --trace azure-llm --requests REQUESTS.csv --hours 1": "LLM",
}
"""Needs no service; what its output must say. Long days are shortened by `shortened`."""
SERVED = "serve --store sqlite:///suanli.sqlite --metrics-port 9470"


def commands() -> list[str]:
    """Every line of every fenced shell block, without its comment."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def run(arguments: list[str], folder: Path, address: str = "") -> subprocess.CompletedProcess[str]:
    """The command as a newcomer's shell would run it from the project's folder (`folder` takes what it writes)."""
    return subprocess.run(
        [sys.executable, "-m", "suanli.cli.main", *arguments],
        cwd=folder,
        env=surroundings(address),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def surroundings(address: str = "") -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "COLUMNS": "160", "PYTHONPATH": path, "SUANLI_ADDRESS": address}


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `make dev` starts, on a port of its own; its address."""
    folder, port = tmp_path_factory.mktemp("dev"), a_free_port()
    command = [sys.executable, "-m", "suanli.cli.main", "dev", "songjiang-s", "--port", str(port)]
    with (folder / "out").open("wb") as out:
        # a run in the background hands SIGINT down as ignored; a reader's terminal does not
        process = subprocess.Popen(
            command, cwd=folder, env=surroundings(), stdout=out, stderr=out, preexec_fn=_heed_ctrl_c
        )
    try:
        deadline = time.monotonic() + UP_LIMIT_S
        while "standing services submitted" not in (said := (folder / "out").read_text()):
            assert process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.2)
        assert f"export SUANLI_ADDRESS=127.0.0.1:{port}" in said
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def test_every_command_is_run_or_named():
    known = {SUANLI + c for c in (*ASKED, *PLAYED, SERVED)} | set(NOT_HERE)
    assert set(commands()) == known
    assert all(reason for reason in NOT_HERE.values())


def test_the_command_line_looks_where_make_dev_serves():
    assert f"127.0.0.1:{DEFAULT_PORT}" == DEFAULT_ADDRESS


@pytest.mark.xdist_group("readme")
@pytest.mark.timeout(400)
def test_the_tours_answer_as_the_readme_says(city, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    in_order = [c.removeprefix(SUANLI) for c in commands() if c.removeprefix(SUANLI) in ASKED]
    assert in_order == list(ASKED)
    for command in in_order:
        if command.startswith("list"):
            placed_within(city, tmp_path, 60.0)
        done = run(shlex.split(command.replace("WORKLOAD", "llm-chat")), tmp_path, city)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert re.search(rf"\b(?:{ASKED[command]})\b", done.stdout), (command, done.stdout)


def placed_within(city: str, folder: Path, limit_s: float) -> None:
    """Wait until what was submitted has been placed, as a reader who types the next line would not notice."""
    deadline = time.monotonic() + limit_s
    while "llm-chat" not in run(["placements", "-o", "name"], folder, city).stdout:
        assert time.monotonic() < deadline, run(["why", "llm-chat"], folder, city).stdout
        time.sleep(1)


@pytest.mark.xdist_group("readme")
@pytest.mark.timeout(400)
def test_the_python_of_the_tour_runs(city):
    source = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(source) == 1 and DEFAULT_ADDRESS in source[0]
    done = subprocess.run(
        [sys.executable, "-c", source[0].replace(DEFAULT_ADDRESS, city)],
        cwd=ROOT,
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "松江枢纽" in done.stdout
    assert "tenants/default/workloads/park-twin" in done.stdout


@pytest.mark.parametrize("command", PLAYED)
@pytest.mark.xdist_group("readme")
@pytest.mark.timeout(400)
def test_what_is_played_without_a_service_ends_as_promised(command, tmp_path):
    for name, text in (("NODES.csv", NODES), ("PODS.csv", PODS), ("REQUESTS.csv", REQUESTS)):
        (tmp_path / name).write_text(text)
    done = run(shlex.split(shortened(command)), tmp_path)
    said = done.stdout + done.stderr
    assert PLAYED[command] in said, said
    assert done.returncode == (2 if "azure" in command else 0), said


def shortened(command: str) -> str:
    """The same options on a small city; it serves no LLM, so the list of requests is read and then refused by name."""
    if "--policy" in command:
        return command.replace("songjiang-s", "tiny-cloud-edge")
    if "azure-llm" in command:
        return command.replace("simulate", "simulate tiny-cloud-edge")
    return command


@pytest.mark.xdist_group("readme")
@pytest.mark.timeout(120)
def test_the_service_of_the_engineer_s_tour_serves(tmp_path):
    metrics = f"{a_free_port()}"
    arguments = [*shlex.split(SERVED.replace("9470", metrics)), "--port", str(a_free_port())]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "suanli.cli.main", *arguments],
            cwd=tmp_path,
            env=surroundings(),
            stdout=out,
            stderr=out,
        )
    try:
        deadline = time.monotonic() + UP_LIMIT_S
        while "serving at revision" not in (tmp_path / "out").read_text():
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "out").read_text()
            time.sleep(0.2)
        assert (tmp_path / "suanli.sqlite").is_file()
    finally:
        process.terminate()
        process.wait(30)
