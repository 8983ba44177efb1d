"""docs/api.md and docs/cli.md say what is: their code runs, and no call, command, reason or exit code is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from suanli.cli import lazy, operate
from suanli.cli.main import COMMANDS
from suanli.client import calls
from suanli.client.core import DEFAULT_ADDRESS
from suanli.model import InvalidRequest
from suanli.wire import STATUS_CODE_OF
from suanli.yaml_io import load_workloads
from tests.fake_service import FakeService

ROOT = Path(__file__).resolve().parents[2]
API, CLI = (ROOT / "docs" / name for name in ("api.md", "cli.md"))


def code_blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def test_every_call_is_listed():
    table = API.read_text().partition("## What holds")[0]
    assert set(re.findall(r"`([A-Z][a-z]+[A-Z]\w+)`", table)) - {
        f"{s}Service" for s in ("Workloads", "Fleet", "Policies", "Plans", "Simulations", "Operations")
    } == set(calls.METHODS)


def test_every_reason_is_listed_with_its_code():
    from google.rpc import code_pb2

    listed = dict(re.findall(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \|", API.read_text(), re.MULTILINE))
    assert listed == {cls.reason: code_pb2.Code.Name(code) for cls, code in STATUS_CODE_OF.items()}


@pytest.mark.parametrize("block", range(3))
def test_the_python_code_runs(
    block: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    source = code_blocks(API, "python")[block]
    assert DEFAULT_ADDRESS in source
    with FakeService() as service:
        if block == 1:
            from suanli.client import Client

            with Client(service.address) as client:
                client.create_workload(load_workloads((ROOT / "examples/v2x.yaml").read_text())[0])
        # open() without close is fine in a page of documentation, not under warnings as errors
        source = source.replace('open("examples/v2x.yaml").read()', "TEXT")
        text = (ROOT / "examples/v2x.yaml").read_text()
        exec(
            compile(source.replace(DEFAULT_ADDRESS, service.address), f"api.md-{block}", "exec"),
            {"TEXT": text},
        )
    assert capsys.readouterr().out.strip()


def test_there_are_three_pieces_of_python():
    assert len(code_blocks(API, "python")) == 3


def test_every_command_is_listed():
    listed = set(
        re.findall(r"`suanli ((?:policy |fleet )?[a-z]+)", CLI.read_text().partition("## Output")[0])
    )
    ours = {name for functions in COMMANDS.values() for name in functions}
    policy = {f"policy {c.name}" for c in operate.policy_app.registered_commands}
    fleet = {f"fleet {c.name}" for c in operate.fleet_app.registered_commands}
    assert listed == ours | policy | fleet
    others = re.search(r"the simulator \(([^)]*)\)", CLI.read_text())
    assert others is not None
    assert set(re.findall(r"`(\w+)`", others.group(1))) == set(lazy.WINGS)


def test_every_exit_code_is_listed():
    listed = {int(n) for n in re.findall(r"^\| (\d+) \|", CLI.read_text(), re.MULTILINE)}
    assert listed == {value for name, value in vars(lazy).items() if re.fullmatch(r"EXIT_(?!CODES)\w+", name)}


def test_the_example_of_problems_is_what_is_printed():
    text = """\
name: w
kind: batch
stages:
  - stage_id: main
    cpu_milli: 1
    gpu_milli: {l20: 1500}
    memory_mib: 1
flows:
  - {source: zones/z1, target: stages/mian}
"""
    with pytest.raises(InvalidRequest) as refused:
        load_workloads(text, "jobs.yaml")
    told = "\n".join(["error: 2 problems", *(f"  {p}" for p in refused.value.problems), ""])
    assert f"```\n{told}```" in CLI.read_text()


def test_the_setting_that_writes_what_solve_and_verify_read_is_named_with_the_files_it_writes(tmp_path: Path):
    from scheduler.config import PREFIX, Settings
    from scheduler.workers.dump import KEPT

    assert "plan_dump" in Settings.model_fields
    text = CLI.read_text()
    assert f"{PREFIX}PLAN_DUMP=" in text
    assert f"the last {KEPT} problems" in text
    assert {"solve", "verify"} <= set(re.findall(r"suanli (solve|verify) ", text))
