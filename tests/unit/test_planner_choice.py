"""Choice of nodes: what a share of a GPU destroys, the mix that says so, and no node woken in vain."""

from __future__ import annotations

import numpy as np
from hypothesis import given as for_all
from hypothesis import strategies as st

from scheduler.planner.choice import _GroupBounds
from scheduler.planner.feasibility import Views
from scheduler.planner.fragmentation import fragmentation_of, mix_length
from scheduler.planner.snapshot import Snapshot
from tests.builders import a_fleet, a_site, a_workload, given


def test_a_share_goes_to_the_device_that_it_fills_and_not_to_the_fullest_node():
    """Node 0 has 300 and 1000 milli free, node 1 has 500: 300 more fills a device of node 0 and spoils none."""
    city = given(a_fleet(a_site("dc", "cloud").gpus("h20", nodes=2, per_node=2, cores=64)))
    city.submits(
        a_workload("half").gpus(h20=500).lasts(60), *(a_workload(f"x{i}").gpus(h20=300) for i in range(9))
    )
    state = city.state
    assert state.nodes is not None
    assert state.topology is not None
    state.nodes.gpu_milli[:, :2] = [[300, 1000], [500, 0]]
    for node in range(2):  # both are on
        state.nodes.cpu_milli[node] -= 1000
    snapshot = Snapshot.take(state, Views(state.topology, state.shapes))
    snapshot.empty_node[:] = False
    snapshot.replica_count[:] = 1
    packing = fragmentation_of(state, snapshot)
    assert packing is not None
    view = snapshot.views[int(state.replicas["spec"][1])]
    loss = packing.loss_milli(view, np.array([0, 1]))
    assert loss[0] < loss[1]
    assert packing.share_on(0, [300, 1000, -1], 300) == 0b001


@for_all(st.integers(0, 100_000))
def test_the_mix_is_of_the_work_so_far_but_for_an_eighth_at_most(submitted):
    known = mix_length(submitted)
    assert 0 <= submitted - known <= submitted / 8
    assert mix_length(known) == known
    assert mix_length(submitted + 1) >= known


@for_all(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_bounds_of_all_groups_at_once_are_those_of_each_group(seed, usable_frac):
    random = np.random.default_rng(seed)
    cloud = a_site("dc", "cloud").gpus("h20", nodes=3, per_node=2, cores=64).cpus(nodes=2, cores=8)
    state = given(a_fleet(cloud, a_site("e01").gpus("t4", nodes=2, per_node=1, cores=16))).state
    assert state.nodes is not None and state.topology is not None
    nodes, installed = state.nodes, state.nodes.gpu_milli >= 0
    nodes.cpu_milli[:] = random.integers(0, 9, len(nodes.cpu_milli)) * 1000
    nodes.memory_mib[:] = random.integers(0, 9, len(nodes.memory_mib)) * 1024
    nodes.gpu_milli[installed] = random.choice([0, 300, 1000], int(installed.sum()))
    snapshot = Snapshot.take(state, Views(state.topology, state.shapes))
    bounds = _GroupBounds(snapshot, random.random(len(nodes.cpu_milli)) < usable_frac)
    amounts = (bounds.cpu_milli, bounds.memory_mib, bounds.idle_gpus, bounds.share_milli)
    at_once = [a.copy() for a in amounts]
    assert len(at_once[0]) == 3
    for a in amounts:
        a[:] = -1
    bounds.lower(np.arange(3))
    for found, each in zip(at_once, amounts, strict=True):
        assert found.tolist() == each.tolist()


def test_no_node_wakes_while_one_that_is_on_has_room():
    city = given(a_fleet(a_site("dc", "cloud").cpus(nodes=5, cores=8)))
    for i in range(20):
        city.submits(a_workload(f"w{i}").cpu(1)).when_planned()
    assert {p.node_index for i in range(20) for p in city.placements(f"w{i}").values()} == {0, 1, 2}
