"""The table of what the policy documents ask for stays in step with the scenario and the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import suanli.model as model
from cluster_sim.scenarios import Scenario, shipped_scenarios
from suanli.yaml_io import load_workloads
from tests.support.sites import base_scenario

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT.parent / "shared" / "domain.md"
DOC = ROOT / "docs" / "seed-systems.md"
REFERENCE = re.compile(
    r"\b(class|site|zone|access|tariff|node|plant|label|service|twin|scenario|field|code):([\w./=-]+)"
)
DOCUMENT = re.compile(r"\b00\d\b")
REQUIREMENTS, SYSTEMS = 35, 23


def rows(section: str) -> list[list[str]]:
    """Cells of the table rows under a heading."""
    text = DOC.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def references(cells: list[str]) -> list[tuple[str, str]]:
    return [(m.group(1), m.group(2)) for cell in cells for m in REFERENCE.finditer(cell)]


def resolves(kind: str, name: str, scenario: Scenario) -> bool:
    """Whether a reference points at something that exists."""
    classes: dict[str, Any] = dict(scenario.classes.rows)
    tables: dict[str, Any] = {
        "class": classes,
        "site": scenario.sites.rows,
        "zone": scenario.zones.rows,
        "access": scenario.network.access,
        "tariff": scenario.tariffs.rows,
        "node": scenario.node_types.rows,
        "plant": scenario.plants.rows,
        "service": classes["W15"].pattern.named,
        "twin": classes["W13"].pattern.twins,
        "scenario": dict.fromkeys(shipped_scenarios()),
    }
    if kind in tables:
        return name in tables[kind]
    if kind == "label":
        key, value = name.split("=")
        return any(site.labels.get(key) == value for site in scenario.sites.rows.values())
    if kind == "field":
        owner, attribute = name.split(".")
        return attribute in getattr(model, owner).model_fields
    return (ROOT / name).exists()


ALL = [(s, row) for s in ("Requirements on compute, energy and network", "Named systems") for row in rows(s)]


def test_every_row_of_the_documents_is_here():
    assert len(rows("Requirements on compute, energy and network")) == REQUIREMENTS
    assert len(rows("Named systems")) == SYSTEMS


def source_rows(section: str) -> list[list[str]]:
    """Cells of the table of that section in the research notes that the document was made from."""
    text = SOURCE.read_text(encoding="utf-8").split(f"\n### {section} ")[1].split("\n#")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.skipif(
    not SOURCE.is_file(), reason="the research notes (../shared/domain.md) are not beside the project"
)
@pytest.mark.parametrize(
    ("section", "of_notes", "cited", "cited_in_notes"),
    [("Requirements on compute, energy and network", "1.1", 3, 3), ("Named systems", "1.2", 1, 0)],
)
def test_the_documents_rows_are_those_of_the_research_notes(section, of_notes, cited, cited_in_notes):
    """Row by row, each resting on the same source documents."""
    ours = [set(DOCUMENT.findall(row[cited])) for row in rows(section)]
    assert ours == [set(DOCUMENT.findall(row[cited_in_notes])) for row in source_rows(of_notes)]


def test_the_examples_ask_for_labels_that_the_city_has():
    """Every alternative of an "or": one that no site carries can never match."""
    have = [site.labels for site in base_scenario().sites.rows.values()]
    for file in sorted((ROOT / "examples").glob("*.yaml")):
        if file.name in ("fleet.yaml", "policy.yaml"):
            continue
        for workload in load_workloads(file.read_text(encoding="utf-8"), file.name):
            for wanted in (a for stage in workload.stages for a in stage.require_any):
                assert any(wanted.items() <= labels.items() for labels in have), (file.name, wanted)


@pytest.mark.parametrize("row", [row for _, row in ALL], ids=lambda row: row[0])
def test_every_row_is_served_by_things_that_exist(row):
    found = references(row)
    assert found, "served by nothing"
    for kind, name in found:
        assert resolves(kind, name, base_scenario()), f"{kind}:{name}"


def test_a_reference_to_nothing_does_not_resolve():
    for kind, name in (
        ("class", "W99"),
        ("label", "residency=lunar"),
        ("field", "Site.colour"),
        ("code", "x.py"),
    ):
        assert not resolves(kind, name, base_scenario())


def test_every_class_site_service_and_twin_kind_of_the_scenario_serves_some_row():
    named = {reference for _, row in ALL for reference in references(row)}
    scenario = base_scenario()
    assert {n for k, n in named if k == "class"} == set(scenario.classes.rows)
    assert {n for k, n in named if k == "site"} == set(scenario.sites.rows)
    pattern: Any = scenario.classes.rows["W15"].pattern
    assert {n for k, n in named if k == "service"} == set(pattern.named)


def test_a_satellite_link_cannot_carry_a_hard_class():
    leo = base_scenario().network.access["leo"]
    hard = [c for c in base_scenario().classes.rows.values() if c.priority is model.PriorityClass.HARD_SAFETY]
    limits = [c.rtt_p99_max_ms for c in hard if c.rtt_p99_max_ms is not None]
    assert leo.p99_ms > max(limits)
