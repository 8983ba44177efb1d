"""What is done for many at once is what is done one by one: folds, statuses, link loads, the copies of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.domain.state import ClusterState, Phase
from scheduler.planner.snapshot import pipeline_mbps, pipelines_mbps, stage_sites
from scheduler.service.history import History, workload_of
from scheduler.service.views import WorkloadStatus, workload_record, workload_statuses
from suanli import wire
from suanli.model import EventKind, InvalidRequest, Workload, WorkloadRecord, WorkloadState
from suanli.v1 import workloads_pb2
from tests.builders import City, PlainScorer, a_fleet, a_site, a_twin, a_workload
from tests.builders import given as given_fleet
from tests.model_values import values_of
from tests.property.test_planner_safety import play

SEEDS = st.integers(0, 2**32 - 1)


# ---------------------------------------------------------------------- folds


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_events_folded_together_are_events_folded_one_by_one(seed: int):
    city = play(seed, steps=8)
    single = ClusterState.empty()
    for event in city.log:
        single.apply([event])
    assert single.digest() == city.replayed().digest() == city.state.digest()


def test_two_orders_of_one_replica_in_a_row_are_a_start_and_a_move():
    """No cycle writes that; a fold must not lose the first for the second all the same."""
    city = given_fleet(a_fleet(a_site("e01").cpus(nodes=2, cores=8)), PlainScorer({"e01": 1.0}))
    city.submits(a_workload("w").cpu(4)).when_planned()
    (start,) = city.events(EventKind.REPLICA_START_ORDERED)
    command = start.body["command"]
    again = {**start.body, "command": {**command, "node_index": 1 - command["node_index"]}}
    twice = [
        event
        for e in city.log
        for event in (
            (e, e.model_copy(update={"subject": e.subject.replace("#0", "#1"), "body": again}))
            if e is start
            else (e,)
        )
    ]
    state = ClusterState.empty()
    state.apply(twice)
    assert state.replicas["incarnation"].tolist() == [1]
    assert state.draining[0].placement_id == start.subject
    assert state.nodes is not None
    assert sorted(state.nodes.cpu_milli.tolist()) == [8000 - 4000, 8000 - 4000]


# ---------------------------------------------------------------------- statuses and records


def history_of(city: City) -> History:
    history = History()
    history.apply(city.log)
    return history


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_statuses_of_all_are_what_the_replicas_and_the_log_say_of_each(seed: int):
    city = play(seed, steps=8)
    state, names = city.state, list(city.workloads)
    assert state.topology is not None
    found = workload_statuses(state, history_of(city), [*names, "tenants/t/workloads/nobody"])
    assert list(found) == names
    for name in names:
        status, rows = found[name], state.rows_of(state.index_of[name])
        node, phase = state.replicas["node"][rows].tolist(), state.replicas["phase"][rows].tolist()
        about = [e for e in city.log if workload_of(e) == name]
        assert (status.created_at_s, status.updated_at_s) == (about[0].at_s, about[-1].at_s)
        assert status.revision == about[-1].revision
        assert status.state is state.workload_state(name)
        assert status.placed_replica_count == sum(n >= 0 for n in node)
        assert status.running_replica_count == phase.count(Phase.RUNNING)
        assert status.done_replica_count == phase.count(Phase.DONE)
        assert status.site_ids == tuple(sorted({state.topology.node_name(n)[0] for n in node if n >= 0}))
        assert bool(status.starting) == (Phase.ORDERED in phase)
        assert workload_statuses(state, history_of(city), [name]) == {name: status}


def test_what_starts_is_told_with_its_sites_and_the_longest_startup():
    city = given_fleet(
        a_fleet(a_site("e01").cpus(nodes=1, cores=8), a_site("e02").cpus(nodes=1, cores=8)),
        PlainScorer({"e01": 1.0, "e02": 2.0}),
    )
    city.submits(a_workload("a").cpu(4).replicas(3), a_workload("b").cpu(4)).when_planned()
    found = workload_statuses(city.state, history_of(city), list(city.workloads))
    told = [status.starting.split(" until")[0] for status in found.values()]
    assert told == ["3 replicas start at e01, e02", "1 replica starts at e02"]


@given(values_of(Workload), st.integers(1, 9), st.sampled_from(list(WorkloadState)))
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
def test_a_record_put_together_is_the_record_validated(workload: Workload, n: int, state: WorkloadState):
    status = WorkloadStatus(state, n, n + 1, n + 2, n + 3, n + 4, n + 5, ("e01", "e02"), "starts")
    expected = WorkloadRecord.of(
        workload, state, etag=str(n + 2), created_at_s=n, updated_at_s=n + 1, placed_replica_count=n + 3,
        running_replica_count=n + 4, done_replica_count=n + 5, site_ids=("e01", "e02"), summary="starts",
    )  # fmt: skip
    record = workload_record(workload, status)
    assert record == expected
    assert vars(record) == vars(expected), "no field is missing"
    assert wire.basic_workload_record_to_proto(record) == wire.workload_record_to_proto(expected.basic())


# ---------------------------------------------------------------------- links


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_links_carry_what_the_flows_of_every_workload_add_up_to(seed: int):
    city = play(seed, steps=8)
    assert_links_add_up(city)


def test_links_carry_the_flows_of_many_equal_twins():
    fleet = a_fleet(a_site("e01").cpus(nodes=2, cores=8), a_site("e02").cpus(nodes=2, cores=8))
    city = given_fleet(fleet, PlainScorer({"e01": 1.0, "e02": 2.0}))
    city.submits(*(a_twin(f"t{i}") for i in range(6))).when_planned()
    assert len(city.events(EventKind.REPLICA_START_ORDERED)) > 0
    assert_links_add_up(city)


def assert_links_add_up(city: City) -> None:
    state = city.state
    assert state.topology is not None
    expected = np.zeros(len(state.topology.link_capacity_mbps))
    for w in np.flatnonzero(state.active_workloads()).tolist():
        template = state.shapes.templates[int(state.workloads["shape"][w])]
        expected += pipeline_mbps(template, stage_sites(state, w), state.topology)
    np.testing.assert_allclose(pipelines_mbps(state, state.topology), expected, atol=1e-9)


# ---------------------------------------------------------------------- copies in a batch


def created(workload: Workload, name: str) -> workloads_pb2.CreateWorkloadRequest:
    message = wire.workload_to_proto(workload)
    message.name = name
    return workloads_pb2.CreateWorkloadRequest(parent="tenants/t", workload=message)


def read_alone(request: workloads_pb2.CreateWorkloadRequest, i: int) -> Workload | list[Any]:
    try:
        return wire.workload_from_create(request, f"requests[{i}]")
    except InvalidRequest as error:
        return list(error.problems)


NAMES = st.sampled_from(["a", "b-1", " c ", "D", "", "x" * 64, "d/e"])


@given(st.lists(values_of(Workload), min_size=1, max_size=2), st.lists(NAMES, min_size=2, max_size=6))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_copies_in_a_batch_are_read_as_if_each_came_alone(works: list[Workload], names: list[str]):
    """Sound and broken names alike: the same workloads, or the same problems of the same items."""
    requests = [
        created(works[i % len(works)], f"tenants/t/workloads/{name}{i if name.islower() else ''}")
        for i, name in enumerate(names)
    ]
    alone = [read_alone(request, i) for i, request in enumerate(requests)]
    batch = workloads_pb2.BatchCreateWorkloadsRequest(parent="tenants/t", requests=requests)
    problems = [p for item in alone if isinstance(item, list) for p in item]
    sound = [item.name for item in alone if isinstance(item, Workload)]
    if problems or len(set(sound)) < len(sound):
        with pytest.raises(InvalidRequest) as refused:
            wire.workloads_from_batch(batch)
        assert [p for p in refused.value.problems if p.code != "duplicate"] == problems
    else:
        assert wire.workloads_from_batch(batch) == alone
    assert [r.workload.name for r in batch.requests] == [r.workload.name for r in requests], (
        "left as they came"
    )


def test_copies_do_not_share_their_labels():
    work = a_workload("a").build().model_copy(update={"labels": {"team": "t1"}})
    batch = workloads_pb2.BatchCreateWorkloadsRequest(
        parent="tenants/t", requests=[created(work, f"tenants/t/workloads/w{i}") for i in range(2)]
    )
    first, second = wire.workloads_from_batch(batch)
    first.labels["team"] = "changed"
    assert second.labels == {"team": "t1"}


def test_a_stage_shared_with_oneself_is_found_among_copies_too():
    owner = a_workload("b").build()
    (stage,) = owner.stages
    sharer = owner.model_copy(
        update={"stages": (stage.model_copy(update={"shared_with": "tenants/t/workloads/b"}),)}
    )
    batch = workloads_pb2.BatchCreateWorkloadsRequest(
        parent="tenants/t", requests=[created(sharer, f"tenants/t/workloads/{n}") for n in "ab"]
    )
    with pytest.raises(InvalidRequest) as refused:
        wire.workloads_from_batch(batch)
    assert [p.field for p in refused.value.problems] == ["requests[1].workload.stages[0].shared_with"]
