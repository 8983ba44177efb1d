"""What the command line prints, wide and narrow: compared with committed text, reviewed as a diff."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from suanli.cli.main import app
from tests.fake_service import FakeService

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = Path(__file__).parent / "goldens" / "cli"
NARROW = 60

COMMANDS = {
    "sites": ["sites"],
    "list": ["list"],
    "get": ["get", "v2x-07"],
    "why": ["why", "v2x-07", "--fix"],
    "plan": ["plan", "examples/v2x.yaml"],
    "plan_waits": ["plan", "examples/v2x.yaml", "examples/batch.yaml"],
    "nodes": ["nodes", "e01-hub"],
    "placements": ["placements"],
    "rounds": ["rounds"],
    "round": ["rounds", "42"],
    "plans_latest": ["plans", "latest"],
    "policy_list": ["policy", "list"],
    "policy_get": ["policy", "get"],
    "drain": ["drain", "e01-hub"],
}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    # not the city's zone: instants are told in the city's wherever the command line runs
    monkeypatch.setenv("TZ", "America/Lima")
    time.tzset()
    monkeypatch.chdir(ROOT)
    with FakeService() as fake:
        monkeypatch.setenv("SUANLI_ADDRESS", fake.address)
        run = CliRunner()
        for file in ("v2x", "training", "twin"):
            assert run.invoke(app, ["submit", f"examples/{file}.yaml"]).exit_code == 0
        fake.place("tenants/default/workloads/park-twin")
        yield fake
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("width", [120, NARROW])
@pytest.mark.parametrize("name", COMMANDS)
def test_output(name: str, width: int, service: FakeService, golden: Callable[[Path, str], None]):
    done = CliRunner().invoke(app, COMMANDS[name], env={"COLUMNS": str(width), "NO_COLOR": "1"})
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    golden(GOLDENS / f"{name}_{width}.txt", done.stdout)


@pytest.mark.parametrize("name", [n for n in COMMANDS if n != "policy_get"])
def test_nothing_is_wider_than_a_narrow_terminal(name: str, service: FakeService):
    from rich.cells import cell_len

    done = CliRunner().invoke(app, COMMANDS[name], env={"COLUMNS": str(NARROW)})
    assert [line for line in done.stdout.splitlines() if cell_len(line.rstrip()) > NARROW] == []


def test_the_exit_codes_stand_in_the_help():
    told = " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).stdout.split())
    for code in (
        "0 done",
        "1 a check failed",
        "2 bad input",
        "3 not found",
        "4 service not reached",
        "5 plan:",
        "70 internal",
    ):
        assert code in told
