"""Defragmentation against every way there is to clear a few nodes."""

from __future__ import annotations

from itertools import chain, combinations

from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from tests.builders import a_fleet, a_site, a_workload, given
from tests.unit.test_planner_defragment import HOUR_S, proposed


@for_all(st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=3, max_size=3))
@settings(max_examples=15, deadline=None)
def test_no_cheaper_set_of_moves_empties_two_nodes(sizes):
    """Three nodes with services of 1–4 whole GPUs; a gang of two whole nodes. Cost is the GPUs moved."""
    sizes = [[s for s, total in zip(node, _sums(node), strict=True) if total <= 8] for node in sizes]
    fleet = a_fleet(a_site("full", "cloud").gpus("h20", nodes=3, per_node=8, cores=64))
    fleet.site(a_site("spare", "cloud").gpus("h20", nodes=9, per_node=8, cores=64))
    city = given(fleet)
    for n, node in enumerate(sizes):
        for i, gpus in enumerate(node):
            city.submits(a_workload(f"s{n}-{i}").gpus(h20=gpus * 1000))
    city.strategy.plain.cost_by_site = {"spare": 50.0}
    city.when_planned().all_run()
    city.submits(a_workload("gang").gpus(h20=8000).gang(2).lasts(HOUR_S).at("full")).when_planned()
    on_node = [0, 0, 0]
    for row in range(sum(map(len, sizes))):
        node = int(city.state.replicas["node"][row])
        if node < 3:
            on_node[node] += (
                int(city.state.spec(int(city.state.replicas["spec"][row])).stage.reference_gpu_milli) // 1000
            )
    least = min(sum(on_node[n] for n in pair) for pair in combinations(range(3), 2))
    helped = proposed(city)
    if least == 0:
        assert helped == []
    else:
        moved = chain.from_iterable(h.moves for h in helped)
        gpus = [
            city.state.spec(int(city.state.replicas["spec"][m.placed.row])).stage.reference_gpu_milli
            for m in moved
        ]
        assert sum(gpus) // 1000 == least


def _sums(sizes: list[int]) -> list[int]:
    return [sum(sizes[: i + 1]) for i in range(len(sizes))]
