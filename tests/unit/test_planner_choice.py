"""Choice of nodes: what a share of a GPU destroys, the mix that says so, cores for free GPUs, no node woken in vain."""

from __future__ import annotations

import numpy as np
from hypothesis import given as for_all
from hypothesis import strategies as st

from scheduler.planner.choice import NodeChoice, Ranges, _GroupBounds
from scheduler.planner.feasibility import Views
from scheduler.planner.fragmentation import fragmentation_of, mix_length
from scheduler.planner.scoring import GuidedScorer
from scheduler.planner.snapshot import Snapshot
from tests.builders import City, a_fleet, a_site, a_workload, given


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


GPU_NODE, CPU_NODE = 0, 1


def one_gpu_node_at_work(cpu_nodes: int = 1) -> City:
    """Node 0: two GPUs and eight cores, one GPU and one core in use; beside it sleeping nodes without GPU."""
    city = given(
        a_fleet(a_site("dc", "cloud").gpus("h20", per_node=2, cores=8).cpus(nodes=cpu_nodes, cores=8))
    )
    return city.submits(a_workload("train").gpus(h20=1000).cpu(1), a_workload("web").cpu(1)).when_planned()


def nodes_for_web(city: City, count: int) -> list[int]:
    """Where the guided rounds would put so many more of the services, waking priced at idle power."""
    moving = city.moving()
    sites = moving.snapshot.topology.site_count
    scorer = GuidedScorer(np.ones(sites), np.ones(sites, bool), np.zeros(sites))
    view = moving.snapshot.views[int(city.state.replicas["spec"][1])]
    choice = NodeChoice(moving.snapshot, scorer, moving.kept, None)
    return choice.nodes_for(view, count, np.inf, Ranges.of_groups(view.group_ok, moving.snapshot)).tolist()


def test_work_without_gpus_leaves_each_free_gpu_its_share_of_the_node():
    city = one_gpu_node_at_work()
    assert {p.node_index for p in city.placements("web").values()} == {0}
    assert nodes_for_web(city, 3) == [GPU_NODE, GPU_NODE, CPU_NODE], "4 of 6 free cores go with the free GPU"


def test_where_nothing_else_is_left_it_spoils_gpus():
    city = one_gpu_node_at_work()
    assert nodes_for_web(city, 99) == [GPU_NODE] * 2 + [CPU_NODE] * 8 + [GPU_NODE] * 4


@for_all(
    gpu_milli=st.lists(st.integers(0, 1000), min_size=2, max_size=2),
    free_cores=st.integers(0, 8),
    need_milli=st.integers(1, 8000),
)
def test_what_fits_beside_gpus_leaves_free_ones_their_even_share(gpu_milli, free_cores, need_milli):
    city = given(a_fleet(a_site("dc", "cloud").gpus("h20", per_node=2, cores=8)))
    city.submits(a_workload("web").cpu(need_milli / 1000, memory_gib=0.001))
    snapshot = city.moving().snapshot
    snapshot.nodes.gpu_milli[0, :2] = gpu_milli
    snapshot.nodes.cpu_milli[0] = free_cores * 1000
    view, node = snapshot.views[0], np.array([GPU_NODE])
    (beside,), (fits,) = snapshot.fit_beside(view, node), snapshot.fit_of_nodes(view, node)
    share_milli = 8000 * sum(gpu_milli) / 2000
    assert 0 <= beside <= fits
    assert beside == 0 or free_cores * 1000 - beside * need_milli >= share_milli
    one_more = free_cores * 1000 - (beside + 1) * need_milli
    assert one_more < share_milli + 1, "as many as that allows"


def test_a_spread_service_fills_gpu_nodes_as_far_as_one_without_a_rule():
    """Two nodes of eight cores, two taken by training on each: six fit, some beside a free GPU, some in its place."""
    fleet = a_fleet(a_site("dc", "cloud").gpus("h20", nodes=2, per_node=2, cores=8))
    train = a_workload("train").gpus(h20=1000).cpu(2).replicas(2).spread("node", 2)
    city = given(fleet).submits(train).when_planned().all_run()
    city.submits(a_workload("web").cpu(2).replicas(6).spread("node", 2)).when_planned()
    assert sorted(p.node_index for p in city.placements("web").values()) == [0, 0, 0, 1, 1, 1]
