"""Documents: what YAML lets pass silently is refused, and every problem stands at its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suanli import yaml_io
from suanli.model import FieldProblem, InvalidRequest
from suanli.yaml_io import MAX_DEPTH

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SOUND = """\
name: w
kind: batch
stages:
  - stage_id: main
    cpu_milli: 1000
    memory_mib: 512
"""


def problems(text: str) -> list[FieldProblem]:
    with pytest.raises(InvalidRequest) as refused:
        yaml_io.load_workloads(text, "jobs.yaml")
    return list(refused.value.problems)


def test_a_short_name_becomes_one_of_the_tenant():
    (workload,) = yaml_io.load_workloads(SOUND, tenant="film")
    assert workload.name == "tenants/film/workloads/w"


def test_documents_and_lists_and_empty_documents_mix():
    listed = "workloads:\n- " + SOUND.replace("name: w", "name: v").rstrip().replace("\n", "\n  ") + "\n"
    text = "---\n".join([SOUND, "# nothing here\n", listed])
    assert [w.workload_id for w in yaml_io.load_workloads(text)] == ["w", "v"]


def test_json_is_read_too():
    (workload,) = yaml_io.load_workloads(
        '{"name": "w", "kind": "batch", "stages": [{"stage_id": "m", "cpu_milli": 1, "memory_mib": 1}]}'
    )
    assert workload.stages[0].stage_id == "m"


def test_a_bare_list_holds_workloads_as_json_needs_it():
    one = '{"name": "%s", "kind": "%s", "stages": [{"stage_id": "m", "cpu_milli": 1, "memory_mib": 1}]}'
    several = f"[\n{one % ('a', 'batch')},\n{one % ('b', 'batch')}\n]"
    assert [w.workload_id for w in yaml_io.load_workloads(several)] == ["a", "b"]
    wrong = f"[\n{one % ('a', 'batch')},\n{one % ('b', 'bach')},\n7]"
    assert [(p.field, p.nearest) for p in problems(wrong)] == [
        ("jobs.yaml:3: kind", "batch"),
        ("jobs.yaml:4", ""),
    ]
    assert [p.problem for p in problems("[]")] == ["holds no workload"]


def test_every_problem_of_every_document_stands_at_its_line():
    second = SOUND.replace("kind: batch", "kind: bach").replace("memory_mib: 512", "memory: 512")
    text = SOUND.replace("1000", "-1") + "---\n" + second
    assert [(p.field, p.nearest) for p in problems(text)] == [
        ("jobs.yaml:5: stages[0].cpu_milli", "0"),
        ("jobs.yaml:9: kind", "batch"),
        ("jobs.yaml:11: stages[0].memory_mib", ""),
        ("jobs.yaml:13: stages[0].memory", "memory_mib"),
    ]


def test_a_key_given_twice_does_not_hide_other_problems():
    found = problems(SOUND + "    memory_mib: 1\n    gpu_milli: {l20: 1500}\n")
    assert [p.field for p in found] == [
        "jobs.yaml:7: stages[0].memory_mib",
        "jobs.yaml:8: stages[0].gpu_milli[l20]",
    ]


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("a: [", "jobs.yaml:2", "not YAML"),
        ("", "jobs.yaml", "no workload"),
        ("- 3\n", "jobs.yaml:1", "does not fit"),
        ("just words\n", "jobs.yaml:1", "does not fit"),
        (SOUND + "yes: 1\n", "jobs.yaml:7", "key True"),
        (SOUND + "not_before_at: 2026-07-15T10:00:00\n", "jobs.yaml:7: not_before_at", "does not fit"),
        (SOUND + "deadline_at: 2026-13-01\n", "jobs.yaml:7: deadline_at", "does not fit"),
        ("a: &a [*a]\n", "jobs.yaml:1: a[0]", "holds itself"),
        ("[" * (MAX_DEPTH + 1), "jobs.yaml:1", "nested too deeply"),
        ("[" * 100_000, "jobs.yaml:1", "nested too deeply"),
        ("\x00", "jobs.yaml", "not YAML"),
        ("\ud800", "jobs.yaml", "not UTF-8"),
        ("a: !!python/object/apply:os.system [ls]\n", "jobs.yaml:1: a", "has the tag"),
        ("a: !!python/name:os.system\n", "jobs.yaml:1", "not YAML"),
    ],
)
def test_what_is_not_a_workload_is_told_so(text: str, field: str, words: str):
    assert any(p.field == field and words in p.problem for p in problems(text))


def test_a_few_lines_cannot_describe_terabytes():
    levels = "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 30)}]\n" for i in range(8)
    )
    found = problems("a: &a [x]\n" + levels)
    assert "more than can be read" in found[0].problem


def test_a_policy_is_one_document():
    with pytest.raises(InvalidRequest) as refused:
        yaml_io.load_policy("policy_id: a\n---\npolicy_id: b\n", "p.yaml")
    assert refused.value.problems[0].problem == "holds 2 documents"


@settings(max_examples=200)
@given(st.text(st.sampled_from("{}[]:,-&*!|>'\"#%@?\n\t ab1~"), max_size=40))
def test_no_text_crashes_the_reader(text: str):
    try:
        yaml_io.load_workloads(text)
    except InvalidRequest as refused:
        assert refused.problems


@pytest.mark.parametrize(
    ("load", "file", "told"),
    [
        (
            yaml_io.load_workloads,
            "policy",
            "looks like a policy; expected a workload; `suanli policy set` takes",
        ),
        (yaml_io.load_policy, "twin", "looks like a workload; expected a policy; `suanli submit` takes"),
        (yaml_io.read_policy, "twin", "looks like a workload; expected a policy; `suanli submit` takes"),
        (yaml_io.load_fleet, "policy", "looks like a policy; expected a fleet; `suanli policy set` takes"),
    ],
)
def test_a_file_of_another_kind_is_told_by_its_kind_alone(load, file, told):
    with pytest.raises(InvalidRequest) as caught:
        load((EXAMPLES / f"{file}.yaml").read_text(), "f.yaml")
    assert len(caught.value.problems) == 1
    assert told in str(caught.value)


@pytest.mark.parametrize(("share", "nearest"), [("35", "0.35"), ("100", "1"), ("350", "1"), ("-3", "0")])
def test_a_share_given_in_per_cent_is_told_as_a_share(share, nearest):
    text = "name: x\nkind: batch\nstages:\n- {{stage_id: m, cpu_milli: 1, memory_mib: 1, utilization_frac: {}}}\n"
    with pytest.raises(InvalidRequest) as caught:
        yaml_io.load_workloads(text.format(share))
    assert [p.nearest for p in caught.value.problems] == [nearest]


@pytest.mark.parametrize("text", ["name: x\n  kind: batch\n", "stages:\n- stage_id: m\n cpu_milli: 3\n"])
def test_what_comes_of_indentation_says_so(text):
    with pytest.raises(InvalidRequest, match="keys of one block indented alike"):
        yaml_io.load_workloads(text)
