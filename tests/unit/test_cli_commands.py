"""The command line against a real server: what each command does, its exit codes, and errors without traceback."""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from scheduler.domain.topology import build_topology
from scheduler.planner.admission import impossible
from suanli.cli import lazy
from suanli.cli.common import _check_address, read_workloads
from suanli.cli.main import app
from suanli.cli.work import _part_here
from suanli.client import core
from suanli.model import (
    Candidate,
    Explanation,
    FieldProblem,
    InvalidRequest,
    Site,
    SiteRecord,
    Unavailable,
    WorkloadRecord,
    WorkloadState,
)
from suanli.yaml_io import load_workloads
from tests import fake_service
from tests.fake_service import FakeService
from tests.service_worlds import a_fleet

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
V2X = str(EXAMPLES / "v2x.yaml")
NAME = "tenants/default/workloads/v2x-07"
Run = Callable[..., Result]


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as fake:
        yield fake


@pytest.fixture
def run(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line against the service; `input` is standard input."""
    monkeypatch.setenv("SUANLI_ADDRESS", service.address)
    monkeypatch.delenv("SUANLI_TENANT", raising=False)

    def command(*arguments: str, input: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=input, env={"COLUMNS": "120"})

    return command


# Submitters


def test_submit_accepts_files_and_standard_input(run: Run, service: FakeService):
    done = run("submit", V2X, "-", "-o", "name", input=(EXAMPLES / "batch.yaml").read_text())
    assert done.exit_code == 0
    assert done.stdout.splitlines() == list(service.records)
    assert len(service.records) == 3


def test_what_the_service_refuses_is_told_by_file_line_and_name_instead_of_place_in_the_batch(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        where = "requests[1].workload.stages[0].cpu_milli"
        raise InvalidRequest(
            [FieldProblem(field=where, problem="1000000 exceeds every node", nearest="64000")]
        )

    monkeypatch.setattr(service, "_accept", refuse)
    batch = (EXAMPLES / "batch.yaml").read_text()
    second = [*load_workloads(Path(V2X).read_text()), *load_workloads(batch)][1].workload_id
    done = run("submit", V2X, "-", input=batch)
    assert done.exit_code == 2
    line = 1 + next(i for i, text in enumerate(batch.splitlines()) if "cpu_milli" in text)
    where = f"-:{line}: {second}: stages[0].cpu_milli"
    assert done.stderr == f"error: {where}: 1000000 exceeds every node; nearest possible 64000\n"


def test_one_answer_names_what_is_malformed_and_what_the_service_finds_impossible(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise InvalidRequest([FieldProblem(field="requests[0].workload.stages", problem="fit nowhere")])

    monkeypatch.setattr(service, "_accept", refuse)
    done = run("submit", V2X, "-", input="name: x\ncolour: red\nkind: batch\nstages: []\n")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: 3 problems\n")
    assert "-:2: colour: is not a field" in done.stderr
    assert f"{V2X}:8: v2x-07: stages: fit nowhere" in done.stderr
    assert service.records == {}


def test_what_is_left_of_a_malformed_workload_is_judged_too(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch
):
    """A typo and a size that no node has, in one workload: one answer, and nothing that only the mending brought."""
    asked: list[Any] = []

    def refuse(workloads: list[Any], request: Any) -> None:
        asked.extend(workloads)
        at = "requests[0].workload.stages[0]"
        raise InvalidRequest(
            [
                FieldProblem(field=f"{at}.cpu_milli", problem="exceeds every node"),
                FieldProblem(field=f"{at}.memory_mib", problem="exceeds every node"),
                FieldProblem(
                    field="requests[0].workload.flows[0].source", problem="there is no zone 'peeled'"
                ),
            ]
        )

    monkeypatch.setattr(service, "_accept", refuse)
    text = "name: x\nkind: batch\nstages:\n- {stage_id: m, cpu_milli: 9, memory_mib: -1, replcias: 2}\n"
    done = run("plan", "-", input=text + "flows:\n- {source: 7, target: stages/m}\n")
    assert done.exit_code == 2
    assert [line.split(";")[0].strip() for line in done.stderr.splitlines()] == [
        "error: 4 problems",
        "-:4: stages[0].memory_mib: -1 is out of range",
        "-:4: stages[0].replcias: is not a field",
        "-:4: x: stages[0].cpu_milli: exceeds every node",
        "-:6: flows[0].source: 7 does not fit",
    ]
    assert [w.name for w in asked] == ["tenants/default/workloads/x"]


def test_a_value_above_its_fields_range_is_told_with_the_most_that_the_fleet_takes(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch
):
    """Once, at its line, with the nearest value that the service names; fields that fit keep quiet."""
    fleet = build_topology(a_fleet())

    def judge(workloads: list[Any], request: Any) -> None:
        raise InvalidRequest(
            [
                p.model_copy(update={"field": f"requests[{i}].workload.{p.field}"})
                for i, workload in enumerate(workloads)
                for p in impossible(workload, fleet)
            ]
        )

    monkeypatch.setattr(service, "_accept", judge)
    text = (
        "name: x\nkind: batch\nstages:\n- stage_id: m\n  cpu_milli: 9\n  memory_mib: 999999999\n"
        "  storage_gib: 99999999\n  gpu_milli: {l20: 64000}\n"
    )
    done = run("submit", "-", input=text)
    assert done.exit_code == 2
    assert [line.strip() for line in done.stderr.splitlines()] == [
        "error: 3 problems",
        "-:6: stages[0].memory_mib: 999999999 is out of range; expected at most 256000; nearest possible 256000",
        "-:7: stages[0].storage_gib: 99999999 is out of range; expected at most 1000; nearest possible 1000",
        "-:8: stages[0].gpu_milli[l20]: 64000 is out of range; expected at most 8000; nearest possible 8000",
    ]


def test_a_taken_name_is_told_beside_what_is_malformed(run: Run):
    """Of sound documents and of those with other problems; the rest of them is looked at all the same."""
    stages = "stages:\n- {stage_id: m, cpu_milli: 1, memory_mib: 1}\n"
    for name in ("taken", "also-taken"):
        assert run("submit", "-", input=f"name: {name}\nkind: batch\n{stages}").exit_code == 0
    documents = [
        f"name: taken\nkind: batch\n{stages}",
        f"name: also-taken\nkind: bath\n{stages}",
        f"name: new\nkind: batch\nprio: 7\n{stages}",
        f"name: Taken\nkind: batch\n{stages}",
    ]
    done = run("submit", "-", input="---\n".join(documents))
    assert done.exit_code == lazy.EXIT_BAD_INPUT
    head, *told = (line.strip().partition(";")[0] for line in done.stderr.splitlines())
    assert head == "error: 5 problems"
    assert told == [
        "-:1: tenants/default/workloads/taken exists already",
        "-:6: tenants/default/workloads/also-taken exists already",
        "-:7: kind: 'bath' is not known",
        "-:13: prio: is not a field",
        "-:17: name: 'tenants/default/workloads/Taken' has the wrong form",
    ]


def test_a_most_that_contradicts_another_field_is_not_told_as_a_problem_of_its_own(run: Run):
    """`replicas` mended to its field's most would exceed `replicas_max`, which nobody wrote wrongly."""
    stage = "{stage_id: m, cpu_milli: 9, memory_mib: 9, replicas: 9999999, replicas_max: 5}"
    done = run("submit", "-", input=f"name: x\nkind: batch\nstages:\n- {stage}\n")
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: -:4: stages[0].replicas: 9999999 is out of range")


def test_a_failing_later_batch_says_how_many_workloads_are_in_already(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch
):
    taken = 0
    accept = service._accept

    def accept_first(*given: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 2:
            raise InvalidRequest([FieldProblem(field="requests[0].workload.name", problem="is taken")])
        return accept(*given)

    monkeypatch.setattr(service, "_accept", accept_first)
    one = "- {{name: w{}, kind: batch, stages: [{{stage_id: m, cpu_milli: 1, memory_mib: 1}}]}}\n"
    done = run("submit", "-", input="workloads:\n" + "".join(one.format(i) for i in range(1001)))
    assert done.exit_code == 2
    assert done.stderr.startswith(
        "the first 1000 of 1001 were accepted\nerror: -:1002: w1000: name: is taken"
    )


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("workloads[0].stages[0].replicas", f"{V2X}:9: v2x-07: stages[0].replicas"),
        ("requests[0].workload", f"{V2X}:2: v2x-07"),
        ("requests[9].workload.name", "requests[9].workload.name"),
        ("plan_etag", "plan_etag"),
    ],
)
def test_places_in_a_batch_become_lines_and_names(field: str, told: str):
    read = read_workloads([Path(V2X)], "default")
    with pytest.raises(InvalidRequest) as refused, read.located():
        raise InvalidRequest([FieldProblem(field=field, problem="is wrong")])
    assert [p.field for p in refused.value.problems] == [told]


def test_submit_puts_short_names_into_the_tenant_asked_for(run: Run, service: FakeService):
    assert run("submit", V2X, "--tenant", "city").exit_code == 0
    assert list(service.records) == ["tenants/city/workloads/v2x-07"]


def test_submit_dry_run_stores_nothing(run: Run, service: FakeService):
    assert run("submit", V2X, "--dry-run").exit_code == 0
    assert service.records == {}


def test_submit_names_every_problem_of_every_file(run: Run, service: FakeService, tmp_path: Path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: A b\nkind: bach\nstages: []\n")
    done = run("submit", str(broken), V2X, "-", input="name: x\n")
    assert done.exit_code == lazy.EXIT_BAD_INPUT
    assert done.stderr.startswith("error: 5 problems\n")
    for part in (
        "broken.yaml:1: name:",
        "broken.yaml:2: kind:",
        "broken.yaml:3: stages:",
        "-:1: kind:",
        "-:1: stages:",
    ):
        assert part in done.stderr
    assert "nearest possible batch" in done.stderr
    assert service.records == {}


def test_problems_found_by_the_service_are_told_the_same_way(run: Run):
    assert run("submit", V2X).exit_code == 0
    again = run("submit", V2X)
    assert again.exit_code == lazy.EXIT_CONFLICT
    assert again.stderr == f"error: {V2X}:2: {NAME} exists already\n"


@pytest.mark.parametrize(
    "command", [("submit",), ("submit", "--dry-run"), ("plan",), ("submit", "-o", "json")]
)
def test_what_the_service_warns_of_is_told_by_file_and_line(
    run: Run, service: FakeService, command: tuple[str, ...]
):
    work = "name: {}\nkind: batch\ndeadline_at: 2026-07-15T11:59:00+08:00\n"
    work += "stages:\n- {{stage_id: m, cpu_milli: 1, memory_mib: 1}}\n"
    passed = FieldProblem(field="deadline_at", problem="passed at noon", code="deadline_passed")
    service.workload_warnings = {"late": passed}
    done = run(*command, "-", input=f"{work.format('first')}---\n{work.format('late')}")
    assert (done.exit_code, done.stderr) == (0, "warning: -:9: late: deadline_at: passed at noon\n")


def test_an_old_etag_is_a_conflict(run: Run):
    assert run("submit", V2X, "--if-etag", "old").exit_code == lazy.EXIT_CONFLICT
    assert run("submit", V2X, "--if-etag", "e1").exit_code == 0


def test_get_and_list_agree_in_every_form(run: Run):
    run("submit", V2X, str(EXAMPLES / "training.yaml"))
    assert json.loads(run("get", "v2x-07", "-o", "json").stdout)["workload"]["stages"][0]["gpu_milli"] == {
        "l20": 500
    }
    assert yaml.safe_load(run("get", "v2x-07", "-o", "yaml").stdout)["state"] == "pending"
    assert run("get", NAME, "-o", "name").stdout == f"{NAME}\n"
    assert [r["name"] for r in json.loads(run("list", "-o", "json").stdout)] == [
        "tenants/default/workloads/llm-pretrain-7b",
        NAME,
    ]
    assert "路口感知 07 Intersection 07" in run("list").stdout


def test_list_narrows(run: Run, service: FakeService):
    run("submit", V2X, str(EXAMPLES / "training.yaml"))
    service.place(NAME)
    assert run("list", "--state", "running", "-o", "name").stdout == f"{NAME}\n"
    assert run("list", "--class", "W12", "-o", "name").stdout.endswith("llm-pretrain-7b\n")
    assert run("list", "--tenant", "nobody").stdout == "no workloads\n"
    unknown = run("list", "--class", "W99")
    assert (unknown.exit_code, unknown.stdout) == (0, "no workloads\n")
    assert unknown.stderr == "warning: no workload is of class 'W99'; there are W1, W12\n"
    assert run("list", "--class", "W12", "--tenant", "nobody").stderr == ""
    assert "only the first 1" in run("list", "--limit", "1").stdout


def test_a_fleet_is_read_changed_and_set_again(run: Run, service: FakeService, tmp_path: Path):
    shown = run("fleet", "get")
    changed = yaml.safe_load(shown.stdout)
    changed["sites"][0]["display_name"] = "Another name"
    file = tmp_path / "fleet.yaml"
    file.write_text(yaml.safe_dump(changed, allow_unicode=True))
    before = service.fleet
    assert run("fleet", "set", str(file), "--dry-run").exit_code == 0
    assert service.fleet == before
    done = run("fleet", "set", str(file))
    assert done.exit_code == 0 and "SITES" in done.stdout
    assert service.fleet.sites[0].display_name == "Another name"
    assert service.fleet.sites[1:] == before.sites[1:]
    file.write_text("sites: []\nsite: 1\n")
    wrong = run("fleet", "set", str(file))
    assert wrong.exit_code == 2
    assert f"{file}:2: site: is not a field; nearest possible sites" in wrong.stderr
    assert "network: is missing" in wrong.stderr


def test_cancel(run: Run, service: FakeService):
    run("submit", V2X)
    assert run("cancel", "v2x-07", "--cause", "enough").exit_code == 0
    assert service.records[NAME].state is WorkloadState.CANCELLED
    assert run("cancel", "v2x-07", "--if-etag", "w1").exit_code == lazy.EXIT_CONFLICT


def test_what_can_be_done_is_done_and_every_refusal_is_named(run: Run, service: FakeService):
    run("submit", V2X, str(EXAMPLES / "training.yaml"))
    shown = run("get", "ghost", "v2x-07", "-o", "name")
    assert (shown.exit_code, shown.stdout) == (lazy.EXIT_NOT_FOUND, f"{NAME}\n")
    done = run("cancel", "llm-pretrain-7b", "ghost", "v2x-07", "phantom")
    assert done.exit_code == lazy.EXIT_NOT_FOUND
    assert done.stdout.count("cancelled") == 2
    assert done.stderr.splitlines() == [
        f"error: there is no tenants/default/workloads/{name}" for name in ("ghost", "phantom")
    ]
    assert {str(r.state) for r in service.records.values()} == {"cancelled"}


def test_a_name_that_a_list_prints_is_one_that_commands_take(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch
):
    run("submit", V2X, "--tenant", "transport")
    assert run("list").stdout.splitlines()[1].split()[0] == "transport/v2x-07"
    assert run("get", "transport/v2x-07", "-o", "name").stdout == "tenants/transport/workloads/v2x-07\n"
    service.place("tenants/transport/workloads/v2x-07")
    assert run("placements").stdout.splitlines()[1].split()[0] == "transport/v2x-07"
    monkeypatch.setenv("SUANLI_TENANT", "transport")
    assert run("list").stdout.splitlines()[1].split()[0] == "v2x-07"


def test_why_tells_reasons_conflict_and_candidates(run: Run):
    run("submit", V2X)
    told = run("why", "v2x-07", "--not-at", "ai-core", "--fix").stdout
    assert "ai-core: round trip p99 13.6 ms, limit 10" in told
    assert "rtt_p99_max 10 ms from z1" in told
    assert "松江枢纽 Songjiang hub" in told
    assert "rtt_p99_max 10 → 13.7 ms" in told
    assert (
        json.loads(run("why", "v2x-07", "--not-at", "e04/n1", "-o", "json").stdout)["why_not"]
        == "sites/e04/nodes/n1"
    )


def test_what_nothing_helps_is_said_and_a_name_keeps_its_letters(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch
):
    run("submit", V2X)
    explain = fake_service.an_explanation

    def helpless(record: WorkloadRecord, why_not: str = "", with_relaxations: bool = False) -> Explanation:
        summary = "e04-iiot-w: it is full" if why_not else "waits for room"
        return explain(record, why_not).model_copy(update={"summary": summary})

    monkeypatch.setattr(fake_service, "an_explanation", helpless)
    assert "is pending. e04-iiot-w: it is full" in run("why", "v2x-07", "--not-at", "e04-iiot-w").stdout
    assert "No single change helps." in run("why", "v2x-07", "--fix").stdout
    assert "is pending. Waits for room" in run("why", "v2x-07").stdout
    assert "No single change helps." not in run("why", "v2x-07").stdout


@pytest.mark.parametrize(
    ("placed", "has_room", "told"),
    [
        ({("main", "e01"): 86}, False, "86 of 200 here; then full"),
        ({("main", "e01"): 86}, True, "86 of 200 here"),
        ({("main", "e01"): 86, ("main", "e02"): 114}, False, "86 of 200 here"),
        ({("main", "e01"): 200}, False, ""),
        ({("main", "e02"): 86}, False, ""),
    ],
)
def test_a_site_that_takes_part_of_a_stage_says_how_many(
    placed: dict[tuple[str, str], int], has_room: bool, told: str
):
    candidate = Candidate(site_id="e01", stage_id="main", chosen=True, has_room=has_room)
    assert _part_here(candidate, Counter(placed), {"main": 200}) == told


def test_plan_ends_with_5_when_something_would_wait(run: Run, service: FakeService):
    fits = run("plan", V2X)
    assert fits.exit_code == 0
    assert "Etag e1" in fits.stdout and "✓" in fits.stdout
    waits = run("plan", V2X, str(EXAMPLES / "batch.yaml"))
    assert waits.exit_code == lazy.EXIT_WOULD_WAIT
    assert "waiting" in waits.stdout
    assert service.records == {}


def test_watch_ends_when_the_state_is_reached(run: Run, service: FakeService):
    run("submit", V2X)
    service.place(NAME)
    done = run("watch", "v2x-07", "--until", "running", "-o", "json")
    assert done.exit_code == 0
    assert json.loads(done.stdout.splitlines()[-1])["record"]["state"] == "running"


def test_watch_ends_with_1_when_it_failed(run: Run, service: FakeService):
    run("submit", V2X)
    service.place(NAME, state=WorkloadState.FAILED)
    assert run("watch", "v2x-07", "--until", "running").exit_code == lazy.EXIT_FAILED_CHECK


def test_watching_something_unknown_is_not_found(run: Run):
    assert run("watch", "ghost", "--until", "ended").exit_code == lazy.EXIT_NOT_FOUND


@pytest.mark.parametrize("arguments", [("watch", "--until", "running"), ("watch", "x", "--until", "soon")])
def test_watch_checks_its_options(run: Run, arguments: tuple[str, ...]):
    assert run(*arguments).exit_code == lazy.EXIT_BAD_INPUT


# Operators


def test_sites_show_power_ipue_cap_and_ledger(run: Run):
    told = run("sites").stdout
    for part in ("松江枢纽 Songjiang hub", "5.5/16", "18.0", "1.50", "1.5/y", "-120"):
        assert part in told
    assert json.loads(run("sites", "e01-hub", "-o", "json").stdout)["status"]["ipue"] == 1.5
    assert run("sites", "-o", "name").stdout == "sites/e01-hub\nsites/ai-core\n"
    assert run("sites", "nowhere").exit_code == lazy.EXIT_NOT_FOUND


def test_marks_are_explained_where_they_are_shown(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch
):
    record_of = service._site_record

    def capped(site: Site) -> SiteRecord:
        record = record_of(site)
        caps = site.caps.model_copy(update={"ipue_cap_hourly": 1.4})
        status = record.status.model_copy(update={"policy_revision": 2, "caps": caps})
        return record.model_copy(update={"status": status})

    legend = "(CAP, LIMIT KW in force under policy revision 2; * differs from the site's own)"
    monkeypatch.setattr(service, "_site_record", capped)
    assert run("sites").stdout.endswith(f"{legend}\n") is ("LIMIT KW" in run("sites").stdout.splitlines()[0])
    assert "1.4/h*" in run("sites").stdout
    narrow = CliRunner().invoke(app, ["sites"], env={"COLUMNS": "40"}).stdout
    assert "/h*" not in narrow and "policy revision" not in narrow


def test_a_site_and_a_node_can_be_closed_and_opened(run: Run, service: FakeService):
    assert "cordoned" in run("cordon", "e01-hub").stdout
    assert "cordoned" in run("cordon", "e01-hub/l20x4-2").stdout
    assert service.cordoned == {"sites/e01-hub", "sites/e01-hub/nodes/l20x4-2"}
    assert "open" in run("uncordon", "sites/e01-hub").stdout
    assert run("uncordon", "e01-hub/l20x4-2", "-o", "name").stdout == "sites/e01-hub/nodes/l20x4-2\n"
    assert service.cordoned == set()


def test_a_drain_can_be_followed(run: Run):
    assert "3 of 4 replicas to go" in run("drain", "e01-hub").stdout
    assert "done" in run("operations", "drain-1", "--wait", "1").stdout
    assert "running" in run("drain", "e01-hub/l20x4-1").stdout
    assert "failed" in run("operations", "drain-2", "--cancel").stdout
    assert len(json.loads(run("operations", "-o", "json").stdout)) == 2


def test_nodes_placements_rounds_and_plans(run: Run, service: FakeService):
    run("submit", V2X)
    service.place(NAME)
    assert run("nodes", "e01-hub", "-o", "name").stdout.count("\n") == 4
    assert "2.5" in run("nodes", "e01-hub/l20x4-3").stdout
    assert "e01-hub/l20x4-0" in run("placements", "v2x-07").stdout
    assert run("placements", "--site", "ai-core").stdout == "no placements\n"
    assert "gpu short" in run("rounds", "42").stdout
    assert run("rounds", "--limit", "2", "-o", "name").stdout == "rounds/42\nrounds/41\n"
    assert "0.30%" in run("plans").stdout and "3.00%" in run("plans").stdout
    assert "facility_power[site=e01-hub]: 50 of 50 kW" in run("plans", "latest").stdout


def test_a_policy_is_read_changed_and_set_again(run: Run, service: FakeService, tmp_path: Path):
    file = tmp_path / "policy.yaml"
    shown = run("policy", "get").stdout
    file.write_text(shown.replace("move_budget_per_hour: 200", "move_budget_per_hour: 50"))
    assert run("policy", "set", str(file), "--dry-run").exit_code == 0
    assert len(service.policies) == 1
    assert run("policy", "set", str(file)).exit_code == 0
    assert service.policies[-1].move_budget_per_hour == 50
    # the file still carries the etag of revision 1
    assert run("policy", "set", str(file)).exit_code == lazy.EXIT_CONFLICT
    assert run("policy", "set", str(file), "--if-etag", "").exit_code == 0
    assert (
        json.loads(run("policy", "get", "--revision", "2", "-o", "json").stdout)["move_budget_per_hour"] == 50
    )
    assert run("policy", "list", "-o", "name").stdout.splitlines()[0] == "policies/default/revisions/3"


def test_setting_a_policy_tells_what_changes_and_what_cannot_come_true(
    run: Run, service: FakeService, tmp_path: Path
):
    file = tmp_path / "policy.yaml"
    file.write_text(
        "move_budget_per_hour: 50\nsites:\n- target: sites/e01-hub\n  caps:\n    ipue_cap_hourly: 1.01\n"
    )
    field = "policy_revision.sites[0].caps.ipue_cap_hourly"
    service.policy_problems = [
        FieldProblem(field=field, problem="1.01 is out of reach", nearest="1.2", code="warning")
    ]
    checked = run("policy", "set", str(file), "--dry-run")
    assert checked.exit_code == 0
    assert checked.stdout.splitlines()[1].split()[0] == "2"
    assert checked.stdout.splitlines()[2:] == [
        "",
        "Against revision 1",
        "  - move_budget_per_hour: 200 → 50",
        "  - sites/e01-hub caps.ipue_cap_hourly: not set → 1.01",
    ]
    told = f"warning: {file}:5: sites[0].caps.ipue_cap_hourly: 1.01 is out of reach; nearest possible 1.2\n"
    assert checked.stderr == told
    assert len(service.policies) == 1
    assert run("policy", "set", str(file), "-o", "name").stderr == told
    service.policy_problems = []
    assert "No difference to revision 2" in run("policy", "set", str(file), "--dry-run").stdout


def test_one_answer_names_what_is_malformed_in_a_policy_and_what_the_service_refuses(
    run: Run, service: FakeService, tmp_path: Path
):
    file = tmp_path / "policy.yaml"
    file.write_text("sites:\n- target: class:egde\n- target: sites/e99\n- target: fleet\n")
    service.policy_problems = [
        FieldProblem(field="policy_revision.sites[1].target", problem="there is no site 'e99'"),
        # only because the malformed target is mended to `fleet`
        FieldProblem(
            field="policy_revision.sites[2].target", problem="fleet comes twice", code="duplicate_target"
        ),
    ]
    done = run("policy", "set", str(file))
    assert done.exit_code == lazy.EXIT_BAD_INPUT
    lines = done.stderr.splitlines()
    assert lines[0] == "error: 2 problems"
    assert lines[1].startswith(f"  {file}:2: sites[0].target: ") and "egde" in lines[1]
    assert lines[2:] == [f"  {file}:3: sites[1].target: there is no site 'e99'"]
    file.write_text("sites:\n- target: sites/e99\n")
    service.policy_problems = service.policy_problems[:1]
    alone = run("policy", "set", str(file))
    assert alone.stderr.startswith(f"error: {file}:")


# Trouble


def test_a_wait_is_told_on_stderr_and_leaves_the_answer_alone(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(core, "QUIET_S", 0.0)
    answers = itertools.chain([Unavailable("it starts")], itertools.repeat(None))
    service.faults.before = lambda method: next(answers)
    done = run("policy", "list", "-o", "name")
    assert (done.exit_code, done.stdout) == (0, "policies/default/revisions/1\n")
    assert done.stderr == "warning: waiting for the service since 0 s, for 2 s more: it starts\n"


def test_nobody_there_is_4_with_a_hint(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("suanli.cli.common.CLI_RETRY_S", 0.0)
    done = CliRunner().invoke(app, ["sites", "--address", "127.0.0.1:1"])
    assert done.exit_code == lazy.EXIT_UNAVAILABLE
    assert done.stderr.startswith("error: nothing answers at 127.0.0.1:1\n")
    assert "`make dev`" in done.stderr and "`suanli serve`" in done.stderr and "Traceback" not in done.output


@pytest.mark.parametrize(
    "address", ["127.0.0.1:99999", "nonsense", "127.0.0.1", "host:0", "a b:1", "http://x:1"]
)
def test_what_is_no_address_is_2_at_once(address: str):
    done = CliRunner().invoke(app, ["sites", "--address", address])
    assert done.exit_code == lazy.EXIT_BAD_INPUT
    assert done.stderr.startswith(f"error: --address: {address!r} is not an address; expected host:port")


@pytest.mark.parametrize(
    "address", ["127.0.0.1:7411", "[::1]:7411", "suanli.city:443", "unix:/run/s", "dns:///s:1"]
)
def test_every_form_of_address_passes(address: str):
    _check_address(address)


def test_a_service_that_is_away_is_4(run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("suanli.cli.common.CLI_RETRY_S", 0.0)
    service.faults.before = lambda method: Unavailable("restarting")
    assert run("get", "x").exit_code == lazy.EXIT_UNAVAILABLE


def test_not_found_is_3(run: Run):
    done = run("get", "ghost")
    assert (done.exit_code, done.stderr) == (
        lazy.EXIT_NOT_FOUND,
        "error: there is no tenants/default/workloads/ghost\n",
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [(None, "No such file"), (b"\xff\xfe\x00", "not UTF-8"), (b"a: [", "not YAML"), (b"", "no workload")],
)
def test_bad_files_are_2(run: Run, tmp_path: Path, data: bytes | None, words: str):
    file = tmp_path / "jobs.yaml"
    if data is not None:
        file.write_bytes(data)
    done = run("submit", str(file))
    assert done.exit_code == lazy.EXIT_BAD_INPUT
    assert words in done.stderr and "jobs.yaml" in done.stderr


def test_an_error_nobody_foresaw_is_70_without_traceback(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("suanli.cli.common.connect", None)
    monkeypatch.setattr("suanli.cli.operate.connect", None)
    done = run("sites")
    assert done.exit_code == lazy.EXIT_INTERNAL
    assert done.stderr.startswith("error: internal error: TypeError") and "Traceback" not in done.output


def test_completion_offers_names_and_is_silent_without_a_service(run: Run, service: FakeService):
    run("submit", V2X)
    line = {"_SUANLI_COMPLETE": "complete_bash", "COMP_WORDS": "suanli get v", "COMP_CWORD": "2"}
    offered = CliRunner().invoke(app, env={**line, "SUANLI_ADDRESS": service.address}, prog_name="suanli")
    assert offered.stdout.split() == ["v2x-07"]


# Commands of other wings


def with_entry_points(monkeypatch: pytest.MonkeyPatch, **targets: str) -> typer.Typer:
    found = [EntryPoint(name, value, lazy.ENTRY_POINT_GROUP) for name, value in targets.items()]
    monkeypatch.setattr(lazy, "entry_points", lambda group: found)
    fresh = typer.Typer(cls=lazy.SuanliGroup, name="suanli", pretty_exceptions_enable=False)
    fresh.callback()(lambda: None)
    return fresh


def test_a_function_and_an_app_join_by_entry_point(monkeypatch: pytest.MonkeyPatch):
    fresh = with_entry_points(monkeypatch, shout="tests.cli_wing:shout", tools="tests.cli_wing:tools")
    runner = CliRunner()
    assert runner.invoke(fresh, ["shout", "hello", "--times", "2"]).stdout == "HELLO\nHELLO\n"
    assert runner.invoke(fresh, ["tools", "add", "1", "2"]).stdout == "3\n"
    assert "Say it loudly." in runner.invoke(fresh, ["shout", "--help"]).stdout
    assert runner.invoke(fresh, ["shout", "hello", "--fail"]).exit_code == lazy.EXIT_NOT_FOUND


def test_help_names_other_wings_without_importing_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "tests.cli_wing", raising=False)
    fresh = with_entry_points(monkeypatch, serve="tests.cli_wing:shout", shout="tests.cli_wing:shout")
    told = CliRunner().invoke(fresh, ["--help"], env={"COLUMNS": "120"}).stdout
    assert "Run the service: API, planner and store in one process." in told
    assert "From tests.cli_wing." in told
    assert "tests.cli_wing" not in sys.modules


def test_a_wing_that_is_not_installed_says_which_extra(monkeypatch: pytest.MonkeyPatch):
    fresh = with_entry_points(monkeypatch, simulate="no_such_module_here:run")
    runner = CliRunner()
    lacking = runner.invoke(fresh, ["simulate"])
    assert (lacking.exit_code, lacking.stderr) == (
        lazy.EXIT_BAD_INPUT,
        "error: `suanli simulate` is not installed (module no_such_module_here is missing): "
        "pip install 'suanli[sim]'\n",
    )
    absent = runner.invoke(fresh, ["solve"])
    assert absent.stderr == "error: `suanli solve` is not installed: pip install 'suanli[server]'\n"
    assert "Did you mean 'simulate'?" in runner.invoke(fresh, ["simulat"]).output


def test_help_is_fast_and_loads_no_client():
    """In a fresh interpreter, since this one has loaded everything; CPU time, since the machine may be busy."""
    code = (
        "import sys\n"
        "sys.argv = ['suanli', '--help']\n"
        "from suanli.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'grpc', 'google.protobuf', 'pydantic', 'numpy', 'ortools', 'ray', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "Work" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
