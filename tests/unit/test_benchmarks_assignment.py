"""The gap and sscflp commands end to end on small files, what they refuse, and the generator of instances."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import assignment, assignment_curve, gap, instances, sscflp
from benchmarks.assignment import placement_problem
from solvers.single_source import WorkLimits, solve_single_source

GAP = """2 3
1 2 9
5 1 2
4 4 4
4 4 4
4 8
"""
"""Agent 0 has room for one job, agent 1 for two: job 0 goes to 0, for 1 + 1 + 2."""
SSCFLP = """2 3
12 10.5
12 3
4 4 4
1 2 9
5 1 2
"""
"""Site 1 alone holds all: 3 + 5 + 1 + 2; with site 0 open as well 13.5 + 1 + 1 + 2."""


def written(path: Path, text: str) -> str:
    """The text in a file."""
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("command", "text", "objective", "bins"), [(gap, GAP, 4.0, [0, 1, 1]), (sscflp, SSCFLP, 11.0, [1, 1, 1])]
)
def test_a_command_solves_checks_and_writes(command, text, objective, bins, tmp_path, capsys):
    file, out = written(tmp_path / "tiny.txt", text), tmp_path / "sol"
    written(tmp_path / "best_known.csv", f"instance,best_known\ntiny,{objective}\n")
    assert command.main([file, "--seconds", "5", "--out", str(out), "--json"]) == 0
    assert [int(v) for v in out.read_text().split()] == bins
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["objective"], last["bound"], last["gap"], last["violations"]) == (
        objective,
        objective,
        0.0,
        0,
    )
    assert (last["bins"], last["jobs"], last["status"]) == (2, 3, "optimal")
    assert last["gap_to_best_known"] == 0.0
    assert 0 < last["seconds"] < 5


def test_the_saved_problem_and_plan_are_verified_without_a_solver(tmp_path, capsys):
    saved = tmp_path / "tiny.problem"
    file = written(tmp_path / "tiny.txt", SSCFLP)
    assert sscflp.main([file, "--seconds", "5", "--save", str(saved), "--json"]) == 0
    stated = json.loads(capsys.readouterr().out.splitlines()[-1])
    program = (
        "import sys; sys.modules['ortools'] = None\n"
        "import typer; from solvers.commands import verify; typer.run(verify)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, str(saved), "--json"], capture_output=True, text=True, check=True
    )
    found = json.loads(told.stdout)
    assert found["violations"] == []
    assert found["certificate"]["bound_yuan"] == stated["certified_bound"]
    assert found["bounds"][0]["bound_yuan"] == stated["bound"] >= stated["certified_bound"] - 1e-6


def test_a_family_is_measured_file_by_file(tmp_path, capsys):
    written(tmp_path / "one.txt", GAP)
    with gzip.open(tmp_path / "two.txt.gz", "wt") as file:
        file.write(GAP)
    written(tmp_path / "SOURCE.md", "not an instance")
    written(tmp_path / "best_known.csv", "instance,best_known\none,4\ntwo,2\n")
    assert gap.main(["--family", str(tmp_path), "--seconds", "5", "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [r["instance"] for r in last["instances"]] == ["one", "two"]
    assert last["violations"] == 0
    assert (last["gap_to_best_known_mean"], last["gap_to_best_known_worst"]) == (0.5, 1.0)


def test_no_room_is_told_and_writes_nothing(tmp_path, capsys):
    file, out = written(tmp_path / "full.txt", GAP.replace("4 8\n", "4 4\n")), tmp_path / "sol"
    assert gap.main([file, "--out", str(out)]) == 1
    assert "infeasible" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "begins with two sizes"),
        ("2 3 4", "expected 14"),
        (GAP.replace("9", "nine"), "not a text of numbers"),
        (GAP.replace("4 8\n", "4 8.5\n"), "capacities must be whole"),
        (GAP.replace("4 8\n", "4 -8\n"), "capacities must be whole"),
    ],
)
def test_a_broken_file_is_refused(text, words, tmp_path, capsys):
    assert gap.main([written(tmp_path / "bad.txt", text)]) == 2
    assert words in capsys.readouterr().err


def test_a_missing_file_and_a_negative_fixed_cost_are_refused(tmp_path, capsys):
    assert sscflp.main([str(tmp_path / "none.txt")]) == 2
    told = capsys.readouterr()
    assert "none.txt: no such file" in told.err and told.out == ""
    assert sscflp.main([written(tmp_path / "bad.txt", SSCFLP.replace("12 3\n", "12 -3\n"))]) == 2
    assert "fixed cost is negative" in capsys.readouterr().err


def test_the_check_sees_a_moved_job_and_a_false_objective(tmp_path):
    instance = gap.read_gap(Path(written(tmp_path / "tiny.txt", GAP)))
    problem = placement_problem(instance)
    answer = solve_single_source(problem, WorkLimits())
    assert assignment.check(instance, problem, answer) == []
    moved = dataclasses.replace(answer, bin_of=np.array([0, 0, 1]))
    assert assignment.check(instance, problem, moved) == ["bin 0 holds 8 of 4"]
    cheaper = dataclasses.replace(answer.plan.cost, other_yuan=answer.plan.cost.other_yuan - 1)
    false = dataclasses.replace(answer, plan=dataclasses.replace(answer.plan, cost=cheaper))
    assert "objective 3.0 stated, 4.0 counted" in assignment.check(instance, problem, false)


@pytest.mark.parametrize("kind", instances.GAP_KINDS)
def test_generated_gap_instances_have_the_published_tightness(kind, tmp_path):
    file = tmp_path / "g.txt"
    arguments = ["gap", "--kind", kind, "--bins", "5", "--jobs", "50", "--seed", "3", "--out", str(file)]
    assert instances.main(arguments) == 0
    instance = gap.read_gap(file)
    assert instance.cost.shape == (5, 50)
    assert np.array_equal(instance.capacity, np.floor(0.8 * instance.load.sum(axis=1) / 5))
    if kind != "C":
        assert np.corrcoef(instance.cost.ravel(), instance.load.ravel())[0, 1] < -0.5
    first = file.read_bytes()
    assert instances.main(arguments) == 0
    assert file.read_bytes() == first


def test_generated_facility_location_has_the_ratio_asked_for(tmp_path):
    file = tmp_path / "f.txt"
    arguments = ["--bins", "8", "--jobs", "40", "--ratio", "2", "--seed", "3", "--out", str(file)]
    assert instances.main(["sscflp", *arguments]) == 0
    instance = sscflp.read_sscflp(file)
    assert instance.cost.shape == (8, 40)
    assert 2.0 <= instance.capacity.sum() / instance.load[0].sum() < 2.1
    assert (instance.fixed > 0).all()


def test_the_table_beside_the_file_gives_the_best_known_value(tmp_path):
    with (tmp_path / "best_known.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["instance", "best_known"], ["a", "12.5"]])
    assert assignment.best_known(tmp_path / "a.txt.gz") == 12.5
    assert assignment.best_known(tmp_path / "b.txt") is None


def test_quality_against_time_is_measured_and_drawn_from_its_data(tmp_path, capsys):
    file = written(tmp_path / "tiny.txt", GAP)
    (tmp_path / "best_known.csv").write_text("instance,best_known\ntiny,4\n")
    out = tmp_path / "gap-quality.json"
    command = ["gap", "--seconds", "0.1,0.2", "--out", str(out), file, "--svg", str(tmp_path)]
    assert assignment_curve.main(command) == 0
    (row,) = json.loads(out.read_text())["files"]
    assert row["name"] == "tiny" and row["best_known"] == 4
    assert [p["limit_s"] for p in row["points"]] == [0.1, 0.2]
    objective = json.loads(out.read_text())["files"][0]["points"][-1]["above_percent"] / 100 * 4 + 4
    assert gap.main([file, "--seconds", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["objective"] == pytest.approx(objective)
    drawn = (tmp_path / "gap-quality.svg").read_text()
    assert drawn == assignment_curve.draw(tmp_path)["gap-quality.svg"]
    assert drawn.count("<polyline") == 1 and ">tiny<" in drawn


def test_quality_against_time_needs_values_to_compare_with(tmp_path, capsys):
    file = written(tmp_path / "tiny.txt", GAP)
    assert assignment_curve.main(["gap", "--seconds", "0.1", "--out", str(tmp_path / "o"), file]) == 1
    assert "no best known value" in capsys.readouterr().err
    assert assignment_curve.main(["gap", "--out", "o", str(tmp_path / "none.txt")]) == 2
    for wrong in (["gap"], ["--seconds", "2,1", "--svg", "x"], ["--seconds", "x", "--svg", "x"]):
        with pytest.raises(SystemExit):
            assignment_curve.main(wrong)
