"""The placer on random fleets: books close, nothing is refused that fits, bulk equals one by one, caches a recount."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from solvers.packing import MixEntry, PackingModel
from solvers.placer import Need, NodeState, Placer, ScarcityPrices, Shape, gpus_of, place_batch

GROUPS = 3


@st.composite
def needs(draw) -> Need:
    count = draw(st.sampled_from([0, 1, 1, 1, 2, 4]))
    milli = draw(st.sampled_from([1000, 1000, 810, 470, 320, 110])) if count == 1 else 1000
    if count == 2:
        milli = draw(st.sampled_from([1000, 400]))
    return Need(
        cpu_milli=draw(st.sampled_from([0, 500, 2000, 7000])),
        memory_mib=draw(st.sampled_from([0, 1024, 20000])),
        gpu_count=count,
        gpu_milli=milli if count else 0,
        storage_gib=draw(st.sampled_from([0, 0, 3])),
    )


@st.composite
def shapes(draw) -> Shape:
    if draw(st.booleans()):
        return Shape.uniform(draw(needs()), draw(st.lists(st.booleans(), min_size=GROUPS, max_size=GROUPS)))
    table = tuple(draw(st.lists(needs(), min_size=2, max_size=2, unique=True)))
    return Shape(table, tuple(draw(st.lists(st.integers(-1, 1), min_size=GROUPS, max_size=GROUPS))))


@st.composite
def worlds(draw) -> tuple[NodeState, list[Shape]]:
    n = draw(st.integers(GROUPS, 7))
    state = NodeState.empty(
        [i % GROUPS for i in range(n)],
        draw(st.lists(st.sampled_from([4000, 9000, 16000]), min_size=n, max_size=n)),
        draw(st.lists(st.sampled_from([30000, 60000]), min_size=n, max_size=n)),
        draw(st.lists(st.sampled_from([0, 1, 2, 4]), min_size=n, max_size=n)),
        storage_gib=[7] * n,
        up=draw(st.lists(st.sampled_from([True, True, True, False]), min_size=n, max_size=n)),
    )
    return state, draw(st.lists(shapes(), min_size=1, max_size=5, unique=True))


def a_placer(state: NodeState, mix: list[Shape]) -> Placer:
    return Placer(state, PackingModel.build(state, [MixEntry(s, 1.0 + i) for i, s in enumerate(mix)]))


def fits_by_hand(state: NodeState, shape: Shape) -> list[int]:
    """Nodes with room, rule by rule, without numpy tricks."""
    out = []
    for node in range(state.node_count):
        need = shape.need_on(int(state.node_group[node]))
        if need is None or not state.up[node]:
            continue
        room = [g for g in state.gpu_milli[node].tolist() if need.gpu_count and g >= need.gpu_milli]
        if (
            state.cpu_milli[node] >= need.cpu_milli
            and state.memory_mib[node] >= need.memory_mib
            and state.storage_gib[node] >= need.storage_gib
            and len(room) >= need.gpu_count
        ):
            out.append(node)
    return out


@given(worlds(), st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_a_request_is_refused_exactly_when_no_node_has_room(world, order):
    state, mix = world
    placer = a_placer(state, mix)
    prices = ScarcityPrices(state, placer.model, [MixEntry(s, 1.0) for s in mix])
    for i in order:
        shape = mix[i % len(mix)]
        possible = fits_by_hand(state, shape)
        (placed,) = place_batch(placer, [shape], prices)
        assert (placed is None) == (not possible)
        assert placed is None or placed.node in possible


@given(worlds(), st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), min_size=1, max_size=8))
def test_the_books_close(world, orders):
    """Installed minus what was placed is what is free, GPU by GPU, also after giving some of it back."""
    state, mix = world
    placer = a_placer(state, mix)
    running: list[tuple[Shape, int, int]] = []
    for i, count in orders:
        shape = mix[i % len(mix)]
        placed = placer.place(shape, count)
        running += [
            (shape, n, m) for n, m in zip(placed.node.tolist(), placed.gpu_mask.tolist(), strict=True)
        ]
        if count % 2 and running:
            placer.release(*running.pop(0))
    cpu = state.cpu_capacity_milli.copy()
    gpus = np.where(state.gpu_installed, 1000, -1)
    for shape, node, mask in running:
        need = shape.need_on(int(state.node_group[node]))
        assert need is not None
        assert state.up[node]
        assert len(gpus_of(mask)) == need.gpu_count
        cpu[node] -= need.cpu_milli
        gpus[node, gpus_of(mask)] -= need.gpu_milli
    assert cpu.tolist() == state.cpu_milli.tolist()
    assert gpus.tolist() == state.gpu_milli.tolist()
    assert (cpu >= 0).all()
    assert (gpus[state.gpu_installed] >= 0).all()


@given(worlds(), st.integers(0, 40), st.booleans(), st.integers(0, 3))
def test_bulk_placement_is_the_same_as_one_by_one(world, count, priced, warm):
    state, mix = world
    placer = a_placer(state, mix)
    for shape in mix[1:]:
        placer.place(shape, warm)
    price = np.arange(state.node_count)[::-1] * 37.5 if priced else None
    candidates = np.flatnonzero(np.arange(state.node_count) % 3 != 1)
    single = placer.copy()
    bulk = placer.place(mix[0], count, candidates, price)
    one_by_one = []
    for _ in range(count):
        placed = single.place_one(mix[0], candidates, price)
        if placed is None:
            break
        one_by_one.append((placed.node, placed.gpu_mask))
    assert list(zip(bulk.node.tolist(), bulk.gpu_mask.tolist(), strict=True)) == one_by_one
    assert state.gpu_milli.tolist() == single.state.gpu_milli.tolist()


@given(worlds(), st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6)), min_size=1, max_size=12))
def test_costs_kept_through_changes_equal_costs_computed_anew(world, orders):
    state, mix = world
    placer = a_placer(state, mix)
    running: list[tuple[Shape, int, int]] = []
    for i, count in orders:
        shape = mix[i % len(mix)]
        placed = placer.place(shape, count)
        running += [
            (shape, n, m) for n, m in zip(placed.node.tolist(), placed.gpu_mask.tolist(), strict=True)
        ]
        if i == 0 and running:
            placer.release(*running.pop())
    fresh = placer.copy()
    for shape in mix:
        assert placer.costs(shape).tolist() == fresh.costs(shape).tolist()


@given(worlds())
def test_a_full_fleet_takes_nothing_more_and_fragmentation_stays_a_share(world):
    state, mix = world
    placer = a_placer(state, mix)
    assert 0.0 <= placer.model.fragmentation_frac(state) <= 1.0
    for shape in mix:
        placer.place(shape, 10**3)
    assert 0.0 <= placer.model.fragmentation_frac(state) <= 1.0
    for shape in mix:
        if all(need.cpu_milli or need.gpu_count for need in shape.needs):
            assert not fits_by_hand(state, shape)


@given(worlds(), st.integers(0, 4))
def test_a_few_nodes_cost_what_they_cost_among_all(world, warm):
    """One node at a time through kept values, against the tables over the whole fleet."""
    state, mix = world
    placer = a_placer(state, mix)
    for shape in mix:
        placer.place(shape, warm)
        everywhere = placer.costs(shape)
        with_gpus = np.flatnonzero(state.gpu_installed.any(axis=1))
        assert placer.costs_at(shape, with_gpus).tolist() == everywhere[with_gpus].tolist()


@given(worlds())
def test_several_replicas_on_one_node_cost_what_they_cost_when_placed_there(world):
    state, mix = world
    placer = a_placer(state, mix)
    for node in np.flatnonzero(state.gpu_installed.any(axis=1)).tolist():
        for shape in mix:
            trial = placer.copy()
            foretold = list(itertools.islice(placer.costs_on(shape, node), 12))
            placed = trial.place(shape, 12, np.array([node]))
            assert foretold == placed.cost_milli.tolist()
