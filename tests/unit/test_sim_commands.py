"""What the simulator's commands refuse: every problem at once, each said once."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from suanli.cli.main import app


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
