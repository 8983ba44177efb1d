"""Which resource decides how many nodes of a group are on, and so what a ledger credits."""

from __future__ import annotations

from scheduler.planner.compile import scarce_resources
from solvers.problem import RESOURCES
from tests.builders import City, a_fleet, a_site, a_workload, given


def scarce(city: City) -> dict[str, str]:
    """Group → name of its scarce resource."""
    topology, nodes = city.state.topology, city.state.nodes
    assert topology is not None and nodes is not None
    found = scarce_resources(nodes, topology).tolist()
    return {group: RESOURCES[r] for (_, group), r in zip(topology.group_ids, found, strict=True)}


def two_rooms() -> a_fleet:
    """Two nodes with 4 GPUs, 64 cores and 256 GiB at e04; one with 16 cores and 64 GiB at e05."""
    return a_fleet(a_site("e04").gpus("l20", nodes=2), a_site("e05").cpus(cores=16))


def test_an_empty_group_is_decided_by_its_gpus_or_else_by_its_cores():
    assert scarce(given(two_rooms())) == {"l20x4": "gpu_milli", "cpu": "cpu_milli"}


def test_the_fullest_resource_of_what_runs_is_the_scarce_one():
    video = (
        a_workload("video").cpu(24, memory_gib=8).gpus(l20=250).replicas(3)
    )  # 72 of 128 cores, 0.75 of 8 GPUs
    cache = a_workload("cache").cpu(1, memory_gib=40).at("e05")  # 1 of 16 cores, 40 of 64 GiB
    city = given(two_rooms()).submits(video, cache).when_planned()
    assert scarce(city) == {"l20x4": "cpu_milli", "cpu": "memory_mib"}
