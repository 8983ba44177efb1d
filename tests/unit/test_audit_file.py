"""The door of the second audit: saved logs, unreadable logs, and that it stands on its own."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import cluster_sim.audit
from cluster_sim.audit import AuditResult, audit_file, audit_log
from cluster_sim.audit_facts import running_level
from cluster_sim.day_log import BrokenLogError, fleet_of_log
from suanli.model import Event, EventKind
from tests.unit._synthetic_day import synthetic_day

MODULES = sorted(Path(cluster_sim.audit.__file__).parent.glob("audit*.py"))


def test_a_saved_log_is_judged_as_it_was_in_memory(tmp_path):
    events, fleet, _ = synthetic_day()
    path = tmp_path / "day.jsonl"
    path.write_text("".join(e.model_dump_json() + "\n" for e in events), encoding="utf-8")
    assert audit_file(path) == audit_log(events, fleet)
    assert audit_file(path).checked_count > 0


def test_a_log_without_a_fleet_cannot_be_judged(tmp_path):
    events, _, _ = synthetic_day()
    path = tmp_path / "day.jsonl"
    kept = [e for e in events if e.kind is not EventKind.FLEET_REGISTERED]
    path.write_text("".join(e.model_dump_json() + "\n" for e in kept), encoding="utf-8")
    with pytest.raises(BrokenLogError, match=r"no fleet\.registered"):
        audit_file(path)


def test_a_shape_that_is_no_workload_is_named():
    events, fleet, _ = synthetic_day()
    at = next(i for i, e in enumerate(events) if e.kind is EventKind.SHAPE_INTERNED)
    bad = {"shape": {**events[at].body["shape"], "kind": "cake"}}
    events = [*events[:at], events[at].model_copy(update={"body": bad}), *events[at + 1 :]]
    with pytest.raises(BrokenLogError, match=f"revision {events[at].revision}: shapes/0 is no workload"):
        audit_log(events, fleet)


@pytest.mark.parametrize("kind", [EventKind.SITE_DOWN, EventKind.SITE_METERED])
def test_a_log_that_names_what_its_documents_lack_is_broken(kind):
    """A site that the fleet does not have goes down; a report without meters."""
    events, fleet, _ = synthetic_day()
    at = next(i for i, e in enumerate(events) if e.kind is kind)
    changed = events[at].model_copy(update={"subject": "sites/atlantis", "body": {}})
    with pytest.raises(BrokenLogError, match="which its documents do not have"):
        audit_log([*events[:at], changed, *events[at + 1 :]], fleet)


def test_an_empty_log_has_nothing_to_check():
    _, fleet, _ = synthetic_day()
    assert audit_log([], fleet) == AuditResult(0, ())


def test_a_log_of_a_fleet_alone_is_right():
    events, _, _ = synthetic_day()
    first: list[Event] = [e for e in events if e.kind is EventKind.FLEET_REGISTERED]
    assert audit_log(first, fleet_of_log(first)).violations == ()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.name)
def test_the_audit_shares_no_code_with_what_it_audits(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            from_package = node.module == "cluster_sim"
            imported |= {f"cluster_sim.{a.name}" for a in node.names} if from_package else {node.module or ""}
    ours = {m for m in imported if m.split(".")[0] in ("scheduler", "solvers", "cluster_sim", "suanli")}
    its_own = {m for m in ours if m.startswith("cluster_sim.audit")}
    assert ours - its_own <= {"cluster_sim.day_log", "suanli.model", "suanli.model.units"}


def test_running_level_sums_per_key_in_log_order():
    key = np.array([7, 3, 7, 3, 7])
    revision = np.array([1, 2, 5, 9, 3])
    order, level = running_level(key, revision, np.array([1.0, 10.0, -1.0, 20.0, 2.0]))
    assert order.tolist() == [1, 3, 0, 4, 2]
    assert level.tolist() == [10.0, 30.0, 1.0, 3.0, 2.0]


def test_running_level_of_nothing_is_nothing():
    empty = np.zeros(0, np.int64)
    order, level = running_level(empty, empty, np.zeros(0))
    assert len(order) == len(level) == 0
