"""`suanli solve` and `suanli verify`: a dumped problem is solved, checked, and refused when it is damaged."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from benchmarks.assignment import placement_problem
from solvers.binding import binding_constraints
from solvers.commands import EXIT_NO_PLAN, solve, verify
from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution, SolveStatus, no_plan
from tests.assignment_problems import random_instance
from tests.bulk_towns import bulk_town
from tests.plan_problems import Town
from tests.unit.test_solvers_certificate import a_problem

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


def test_verify_takes_the_problem_or_the_plan_beside_it(problem_file: Path) -> None:
    assert run(solve, problem_file).exit_code == 0
    for file in (problem_file, problem_file.with_name(problem_file.name + ".plan")):
        answer = run(verify, file)
        assert answer.exit_code == 0
        assert "verify: 0 violations" in answer.output
        assert "gap" in answer.output


def test_verify_as_json_tells_everything_at_once(problem_file: Path, tmp_path: Path) -> None:
    plan = tmp_path / "good.plan"
    run(solve, problem_file, "--out", plan)
    solution = PlanSolution.load(plan)
    assert solution.certificate is not None
    lying = dataclasses.replace(
        solution,
        running_count=np.zeros_like(solution.running_count),
        certificate=dataclasses.replace(solution.certificate, bound_yuan=1e9, policy_revision=99),
    )
    lying.save(tmp_path / "lying.plan")
    answer = run(verify, problem_file, tmp_path / "lying.plan", "--json")
    assert answer.exit_code == 1
    told = json.loads(answer.output)
    assert {"demand", "certified_bound", "policy_revision"} <= {v["rule"] for v in told["violations"]}
    assert told["problem_sha256"] == town_of_one_site().content_hash()


def test_a_file_that_says_no_plan_was_found_has_an_exit_code_of_its_own(
    problem_file: Path, tmp_path: Path
) -> None:
    no_plan(town_of_one_site(), SolveStatus.UNKNOWN, "cut off").save(tmp_path / "none.plan")
    assert run(verify, problem_file, tmp_path / "none.plan").exit_code == EXIT_NO_PLAN


WITHOUT_SOLVER = """
import sys

class NoSolver:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ortools", "scipy", "ray"):
            raise ImportError(f"{name} is not installed here")
        return None

sys.meta_path.insert(0, NoSolver())
from suanli.cli.main import main
sys.exit(main())
"""


def test_verify_needs_no_solver_installed(problem_file: Path) -> None:
    run(solve, problem_file)
    done = _fresh_process(["-c", WITHOUT_SOLVER, "verify", str(problem_file)])
    assert done.returncode == 0, done.stderr
    assert "verify: 0 violations" in done.stdout
    refused = _fresh_process(["-c", WITHOUT_SOLVER, "solve", str(problem_file)])
    assert refused.returncode != 0, "the test must really hide the solver"


def _towns() -> dict[str, PlacementProblem]:
    """Of each method a problem: many rules over three slots; nodes of one slot; loads per site; sites with a price."""
    return {
        "plan": a_problem(),
        "bulk": bulk_town(5),
        "assignment": placement_problem(random_instance(5, fixed_costs=False)),
        "assignment of sites with a price": placement_problem(random_instance(6, fixed_costs=True)),
    }


@pytest.mark.parametrize("kind", ["plan", "bulk", "assignment", "assignment of sites with a price"])
def test_a_dumped_problem_replays_bit_for_bit_in_fresh_processes(kind: str, tmp_path: Path) -> None:
    """Other process, other hash seed: the same bytes, certificate and prices included; sound without a solver."""
    file, by = tmp_path / "town.problem", kind.split(maxsplit=1)[0]
    _towns()[kind].save(file)
    for seed in ("1", "2"):
        out = str(tmp_path / f"{seed}.plan")
        done = _fresh_process(
            ["-m", "suanli.cli.main", "solve", str(file), "--by", by, "--out", out], PYTHONHASHSEED=seed
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "1.plan").read_bytes() == (tmp_path / "2.plan").read_bytes()
    checked = _fresh_process(["-c", WITHOUT_SOLVER, "verify", str(file), str(tmp_path / "1.plan")])
    assert checked.returncode == 0, checked.stdout + checked.stderr
    plan = PlanSolution.load(tmp_path / "1.plan")
    assert plan.certificate is not None
    as_json = run(verify, file, tmp_path / "1.plan", "--json")
    told = json.loads(as_json.output)
    assert {(b["rule"], b["subject"], b["slot"]) for b in told["binding"]} == {
        (b.rule, b.subject, b.slot) for b in binding_constraints(_towns()[kind], plan)
    }
    assert told["binding"]
    assert any(b.bound_yuan is not None for b in plan.bounds)


def test_a_problem_for_another_method_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "day.problem"
    a_problem().save(file)
    for by in ("bulk", "assignment"):
        answer = run(solve, file, "--by", by)
        assert answer.exit_code == 2
        assert f"not a problem for --by {by}" in answer.stderr


def _fresh_process(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )  # fmt: skip
