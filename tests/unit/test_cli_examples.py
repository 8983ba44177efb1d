"""The examples are sound, cross the wire unchanged, and are submitted as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from suanli import wire, yaml_io
from suanli.client import Client
from tests.fake_service import FakeService

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WORKLOADS = sorted(p for p in EXAMPLES.glob("*.yaml") if p.name != "policy.yaml")


def test_there_is_an_example_of_every_kind():
    kinds = {str(w.kind) for p in WORKLOADS for w in yaml_io.load_workloads(p.read_text(), p.name)}
    assert kinds == {"training", "inference", "twin", "batch"}


@pytest.mark.parametrize("path", WORKLOADS, ids=lambda p: p.stem)
def test_an_example_reads_back_and_crosses_the_wire(path: Path):
    workloads = yaml_io.load_workloads(path.read_text(), path.name)
    assert yaml_io.load_workloads(yaml_io.to_yaml(workloads)) == workloads
    for workload in workloads:
        assert wire.workload_from_proto(wire.workload_to_proto(workload)) == workload
        assert workload.display_name and workload.display_name_zh


def test_no_example_has_a_deadline_that_time_overtakes():
    for path in WORKLOADS:
        assert all(w.deadline_at is None for w in yaml_io.load_workloads(path.read_text(), path.name))


def test_the_example_of_a_policy_is_sound():
    policy = yaml_io.load_policy((EXAMPLES / "policy.yaml").read_text())
    assert yaml_io.load_policy(yaml_io.to_yaml(policy)) == policy
    assert wire.policy_from_proto(wire.policy_to_proto(policy)) == policy


def test_all_examples_are_accepted_together():
    workloads = [w for p in WORKLOADS for w in yaml_io.load_workloads(p.read_text(), p.name)]
    with FakeService() as service, Client(service.address) as client:
        records = client.batch_create_workloads(workloads)
    assert [r.name for r in records] == [w.name for w in workloads]
