"""The audit before a commit finds what a broken placer would do."""

from __future__ import annotations

import pytest

from scheduler.planner.audit import audit_placements
from scheduler.planner.round import Placed
from suanli.model import Policy, SitePolicy
from tests.builders import City, PlainScorer, a_fleet, a_site, a_workload, given


@pytest.fixture
def city() -> City:
    """Node 0: 4 cores; node 1: 8 cores, 2 GPUs of l20; one running replica takes device 0. One workload waits."""
    city = given(a_fleet(a_site("e01").cpus(nodes=1, cores=4).gpus("l20", nodes=1, per_node=2, cores=8)))
    return (
        city.submits(a_workload("old").gpus(l20=1000))
        .when_planned()
        .submits(a_workload("gpu").gpus(l20=1000), a_workload("cpu").cpu(3).replicas(2))
    )


GPU, CPU = 1, 2
"""Rows of the waiting replicas; the second replica of `cpu` is row 3."""


def test_a_sound_round_passes(city):
    assert audit_placements(city.state, [Placed(GPU, 1, 0b10), Placed(CPU, 0, 0)]) == []


def test_a_device_that_is_taken(city):
    assert audit_placements(city.state, [Placed(GPU, 1, 0b01)]) == [
        "tenants/t/workloads/gpu/main/0#0: devices [0] are taken"
    ]


def test_a_device_that_does_not_exist_or_too_many_of_them(city):
    assert "devices [2] for 1000" in audit_placements(city.state, [Placed(GPU, 1, 0b100)])[0]
    assert "devices [0, 1] for 1000" in audit_placements(city.state, [Placed(GPU, 1, 0b11)])[0]


def test_a_model_that_is_not_accepted(city):
    assert any("is not accepted" in v for v in audit_placements(city.state, [Placed(GPU, 0, 0b1)]))


def test_more_cores_than_installed(city):
    (found,) = audit_placements(city.state, [Placed(CPU, 0, 0), Placed(CPU + 1, 0, 0)])
    assert found == "node e01/cpu/0: cpu_milli 6000 is not installed"


def test_a_node_that_is_down_or_cordoned(city):
    city.site_fails("e01")
    assert audit_placements(city.state, [Placed(CPU, 0, 0)]) == ["node e01/cpu/0 is down or cordoned"]


def test_room_of_what_leaves_counts_and_without_its_leaving_it_does_not(city):
    old = 0
    assert audit_placements(city.state, [Placed(GPU, 1, 0b01)], gone=[old]) == []
    assert audit_placements(city.state, [Placed(GPU, 1, 0b01)], gone=[]) != []


def test_a_moving_replica_counts_at_both_ends():
    city = given(a_fleet(a_site("e01").cpus(cores=4), a_site("e02").cpus(cores=4)), PlainScorer({"e02": 2.0}))
    city.submits(a_workload("w").cpu(4)).when_planned().all_run()
    city.strategy.plain.cost_by_site, city.strategy.plain.quotas = {"e01": 90.0}, {0: {1: 1.0}}
    city.strategy.guide = {}
    city.when_planned().submits(a_workload("x").cpu(1))
    for node in (0, 1):
        assert audit_placements(city.state, [Placed(1, node, 0)]) != []


def test_the_cycle_refuses_to_commit_an_impossible_round(monkeypatch):
    city = given(a_fleet(a_site("e01").cpus(nodes=3, cores=4)))
    city.submits(a_workload("many").cpu(4).replicas(3))
    monkeypatch.setattr("scheduler.planner.snapshot.Snapshot.fit_of_nodes", lambda self, view, at: at * 0 + 9)
    with pytest.raises(AssertionError, match="impossible placement"):
        city.cycle.round(city.state, city.now_s)


def test_work_that_touches_the_reserved_floor_is_found_and_a_public_service_is_not(city):
    policy = Policy(sites=(SitePolicy(target="fleet", reserved_floor_frac=0.4),))
    city.apply(city.cycle.revise_policy(city.state, city.now_s, policy))
    assert audit_placements(city.state, [Placed(CPU, 1, 0)]) == []
    assert audit_placements(city.state, [Placed(CPU, 0, 0)]) == [
        "group e01/cpu: cpu_milli 3000 leaves less than the reserved 40%"
    ]
    city.submits(a_workload("lamp").cpu(3).priority("public_service"))
    assert audit_placements(city.state, [Placed(CPU + 2, 0, 0)]) == []
