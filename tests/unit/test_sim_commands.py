"""What the simulator's commands refuse: every problem at once, each said once."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster_sim.scenarios.check import check
from cluster_sim.scenarios.loader import load_scenario
from suanli.cli.main import app

UNPLAYABLE = "extends: tiny-cloud-edge\nsites: {rows: {e01-hub: {pue_cap_annual: 1.02}}}\n"
GENTLE = (
    "extends: tiny-cloud-edge\nsites: {rows: {ai-core: {pue_cap_annual: 2.9}, e01-hub: {pue_cap_annual: 2.9}, "
    "e02-jkq: {pue_cap_annual: 2.9}}}\n"
)


def refused(*arguments: str) -> list[str]:
    """Lines on stderr of a command that ends with exit code 2."""
    ended = CliRunner().invoke(app, list(arguments))
    assert ended.exit_code == 2, ended.output
    assert ended.stdout == ""
    return ended.stderr.splitlines()


def test_every_option_that_names_nothing_is_told_in_one_answer():
    policy, engine = refused("simulate", "--policy", "foo", "--engine", "bar")
    assert policy.startswith("--policy 'foo': expected suanli or one of least-loaded")
    assert engine.startswith("--engine 'bar': expected one of ray, local")


@pytest.mark.parametrize("command", [["simulate"], ["demo"], ["dev"]])
def test_a_scenario_that_cannot_be_read_is_told_in_whole_lines(command: list[str], tmp_path: Path):
    mine = tmp_path / "a-scenario-with-a-name-that-is-longer-than-a-terminal-is-wide-by-some-letters.yaml"
    mine.write_text("extends: tiny-twin\nday: {hours: many}\n[bold]: 1\n", encoding="utf-8")
    assert len(refused(*command, str(mine))) == 1
    mine.write_text("extends: tiny-twin\nday: {hours: many}\n", encoding="utf-8")
    assert refused(*command, str(mine)) == [f"{mine}:2: day.hours: 'many' is no number; expected a number"]


@pytest.mark.parametrize("command", ["simulate", "demo"])
def test_a_scenario_file_of_ones_own_that_cannot_be_played_is_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A cap below what the room's plant can reach at any load; nothing is played and no folder made."""
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine.yaml"
    mine.write_text(UNPLAYABLE, encoding="utf-8")
    first, *_, last = refused(command, str(mine))
    assert first.startswith(f"{mine}: e01-hub: cap 1.02 cannot be held in month 7")
    assert "--no-check plays it all the same" in last
    assert [f.name for f in tmp_path.iterdir()] == ["mine.yaml"]


def test_an_unplayable_file_is_played_when_asked_for_and_a_playable_one_needs_no_asking(tmp_path: Path):
    mine, out = tmp_path / "mine.yaml", tmp_path / "out"
    for text, options in ((UNPLAYABLE, ["--no-check"]), (GENTLE, [])):
        mine.write_text(text, encoding="utf-8")
        ended = CliRunner().invoke(app, ["simulate", str(mine), "--quiet", "--out", str(out), *options])
        assert ended.exit_code == 0, ended.output
        assert (out / "suanli.jsonl").stat().st_size > 0
        (out / "suanli.jsonl").unlink()
    (line,) = refused("simulate", str(mine), "--check", "--no-check")
    assert line == "--check and --no-check do not go together"


def test_what_only_leaves_a_day_little_to_show_is_no_reason_to_refuse_it(tmp_path: Path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(GENTLE, encoding="utf-8")
    verdict = check(load_scenario(mine), months=())
    assert any("no cap binds" in p for p in verdict.problems)
    assert verdict.unplayable == []


def test_a_file_that_is_no_log_is_named_once_and_a_folder_is_called_one(tmp_path: Path):
    no_log = tmp_path / "README.md"
    no_log.write_text("# Suanli\n", encoding="utf-8")
    (line,) = refused("audit", str(no_log))
    assert line.startswith(f"{no_log}:1: not an event")
    assert line.count("README.md") == 1
    (line,) = refused("audit", str(tmp_path))
    assert line.startswith(f"{tmp_path}: is a folder")
    (line,) = refused("audit", str(tmp_path / "none.jsonl"))
    assert line == f"{tmp_path / 'none.jsonl'}: no such file"
