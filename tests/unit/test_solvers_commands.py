"""`suanli solve` and `suanli verify`: a dumped problem is solved, checked, and refused when it is damaged."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from solvers.commands import solve, verify
from solvers.solution import PlanSolution
from tests.plan_problems import Town

RUNNER = CliRunner()


@pytest.fixture
def problem_file(tmp_path: Path) -> Path:
    path = tmp_path / "town.problem"
    town_of_one_site().save(path)
    return path


def town_of_one_site():
    return Town().site("s1").group("g1", "s1").work("job", demand=2.0).problem()


def run(command, *arguments: object):
    app = typer.Typer()
    app.command()(command)
    return RUNNER.invoke(app, [str(a) for a in arguments])


def test_a_solved_problem_verifies_and_solves_to_the_same_bytes(problem_file: Path) -> None:
    first, second = problem_file.with_name("a.plan"), problem_file.with_name("b.plan")
    assert run(solve, problem_file, "--out", first).exit_code == 0
    assert run(solve, problem_file, "--out", second).exit_code == 0
    assert first.read_bytes() == second.read_bytes()
    answer = run(verify, problem_file, first)
    assert answer.exit_code == 0
    assert "verify: 0 violations" in answer.output


def test_a_plan_that_serves_nobody_is_found_out(problem_file: Path, tmp_path: Path) -> None:
    plan = tmp_path / "good.plan"
    run(solve, problem_file, "--out", plan)
    solution = PlanSolution.load(plan)
    lazy = dataclasses.replace(solution, running_count=np.zeros_like(solution.running_count))
    lazy.save(tmp_path / "lazy.plan")
    assert run(verify, problem_file, tmp_path / "lazy.plan").exit_code == 1


def test_a_damaged_file_is_bad_input_not_a_traceback(problem_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.problem"
    broken.write_bytes(problem_file.read_bytes()[:100])
    answer = run(solve, broken)
    assert answer.exit_code == 2
    assert "Traceback" not in answer.output
