"""What the placer chooses: rules first, then packing value, prices, lowest index."""

from __future__ import annotations

import random

import numpy as np
import pytest

from solvers.packing import CUT_WEIGHT, MixEntry, PackingModel, cut_values
from solvers.placer import Need, NodeState, Placer, ScarcityPrices, Shape, gpus_of, place_batch

WHOLE = Need(4000, 4096, 1, 1000)
EIGHT = Need(32000, 32768, 8, 1000)


def a_placer(state: NodeState, *mix: tuple[Need, float]) -> Placer:
    everywhere = [True] * state.group_count
    entries = [MixEntry(Shape.uniform(need, everywhere), f) for need, f in mix]
    return Placer(state, PackingModel.build(state, entries))


def nodes(count: int, gpus: int = 8, cpu_milli: int = 64000, groups: list[int] | None = None) -> NodeState:
    return NodeState.empty(groups or [0] * count, [cpu_milli] * count, [262144] * count, [gpus] * count)


def anywhere(state: NodeState, need: Need) -> Shape:
    return Shape.uniform(need, [True] * state.group_count)


def test_small_work_goes_where_work_is_so_that_a_whole_node_stays_free():
    state = nodes(3)
    placer = a_placer(state, (WHOLE, 8.0), (EIGHT, 1.0))
    placer.place(anywhere(state, WHOLE), 5)
    assert np.count_nonzero((state.gpu_milli == 1000).all(axis=1)) == 2


def test_shares_that_fill_a_gpu_are_paired():
    """650 beside 320 wastes 30, beside nothing 350: the second finds the first."""
    state = nodes(2, gpus=2)
    large, small = Need(100, 1, 1, 650), Need(100, 1, 1, 320)
    placer = a_placer(state, (large, 1.0), (small, 1.0))
    first = placer.place_one(anywhere(state, large))
    second = placer.place_one(anywhere(state, small))
    assert first is not None
    assert second == first


def filled_frac(cut_weight: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Share of 96 GPUs allocated by a random stream of shares that asks for twice as much."""
    monkeypatch.setattr("solvers.packing.CUT_WEIGHT", cut_weight)
    state = nodes(12, cpu_milli=96000)
    milli, times = [650, 590, 470, 460, 370, 320, 230], [4, 2, 6, 3, 2, 5, 3]
    placer = a_placer(state, *((Need(4000, 4096, 1, m), float(k)) for m, k in zip(milli, times, strict=True)))
    stream = random.Random(5).choices([anywhere(state, Need(4000, 4096, 1, m)) for m in milli], times, k=400)
    place_batch(placer, stream)
    return 1 - state.free_gpu_milli / state.installed_gpu_milli


def test_pricing_shares_by_their_patterns_fills_gpus_better(monkeypatch):
    with_cut = filled_frac(CUT_WEIGHT, monkeypatch)
    assert with_cut > filled_frac(0, monkeypatch) + 0.01
    assert with_cut > 0.94, "measured 0.941"


def test_a_share_never_spans_two_gpus():
    state = nodes(1, gpus=2)
    placer = a_placer(state, (Need(1, 1, 1, 600), 1.0))
    assert len(placer.place(anywhere(state, Need(1, 1, 1, 600)), 5)) == 2
    assert placer.place_one(anywhere(state, Need(1, 1, 1, 500))) is None
    assert placer.place_one(anywhere(state, Need(1, 1, 1, 400))) is not None


def test_several_equal_shares_take_different_gpus():
    state = nodes(1, gpus=4)
    placer = a_placer(state, (Need(1, 1, 3, 500), 1.0))
    placed = placer.place_one(anywhere(state, Need(1, 1, 3, 500)))
    assert placed is not None
    assert len(gpus_of(placed.gpu_mask)) == 3
    assert sorted(state.gpu_milli[0].tolist()) == [500, 500, 500, 1000]


def test_groups_that_are_not_allowed_and_nodes_that_are_down_take_nothing():
    state = nodes(3, groups=[0, 1, 1])
    placer = a_placer(state, (WHOLE, 1.0))
    only_second = Shape.uniform(WHOLE, [False, True])
    state.set_up([1], False)
    assert set(placer.place(only_second, 99).node.tolist()) == {2}
    state.set_up([1], True)
    assert set(placer.place(only_second, 99).node.tolist()) == {1}


def test_each_model_takes_its_own_amount():
    state = nodes(2, gpus=4, groups=[0, 1])
    shape = Shape((Need(1000, 1, 1, 500), Need(1000, 1, 2, 1000)), (0, 1))
    placer = Placer(state, PackingModel.build(state, [MixEntry(shape, 1.0)]))
    placed = placer.place(shape, 99)
    assert np.bincount(placed.node).tolist() == [8, 2]
    assert state.free_gpu_milli == 0


def test_the_price_decides_between_equal_nodes_and_ties_go_to_the_lowest_index():
    state = nodes(4)
    placer = a_placer(state, (WHOLE, 1.0))
    shape = anywhere(state, WHOLE)
    assert placer.copy().place(shape, 1).node.tolist() == [0]
    assert placer.place(shape, 1, price_milli=np.array([9.0, 5.0, 1.0, 1.0])).node.tolist() == [2]


def test_candidates_and_node_limit_are_kept():
    state = nodes(4)
    placer = a_placer(state, (WHOLE, 1.0))
    shape = anywhere(state, WHOLE)
    assert set(placer.place(shape, 99, candidates=np.array([1, 3])).node.tolist()) == {1, 3}
    spread = placer.place(shape, 99, node_limit=np.array([1, 0, 1, 1]))
    assert spread.node.tolist() == [0, 2]


def test_as_many_as_fit_are_placed_and_no_more():
    state = nodes(2)
    placer = a_placer(state, (WHOLE, 1.0))
    assert len(placer.place(anywhere(state, WHOLE), 99)) == 16
    assert len(placer.place(anywhere(state, WHOLE), 99)) == 0
    assert placer.place_one(anywhere(state, WHOLE)) is None
    assert np.isinf(placer.costs(anywhere(state, WHOLE))).all()


def test_long_runs_on_one_node_look_ahead_more_than_one_block():
    state = nodes(2, gpus=0, cpu_milli=50000)
    placer = a_placer(state, (WHOLE, 1.0))
    tiny = anywhere(state, Need(500, 1))
    placed = placer.place(tiny, 150)
    assert placed.node.tolist() == [0] * 100 + [1] * 50, "nodes without GPU are filled one after the other"


def test_what_others_change_is_noticed():
    state = nodes(1, gpus=1)
    placer = a_placer(state, (WHOLE, 1.0))
    shape = anywhere(state, WHOLE)
    assert placer.place_one(shape) is not None
    state.give_back(0, WHOLE, 0b1)
    again = placer.place_one(shape)
    assert again is not None
    placer.release(shape, 0, again.gpu_mask)
    assert state.free_gpu_milli == 1000
    with pytest.raises(ValueError, match="was not placed"):
        placer.release(shape, 0, again.gpu_mask)


def test_more_gpus_than_any_node_has_fit_nowhere():
    state = nodes(2, gpus=2)
    placer = a_placer(state, (WHOLE, 1.0))
    assert placer.place_one(anywhere(state, Need(1, 1, 10**12, 1000))) is None
    assert len(placer.place(anywhere(state, Need(1, 1, 3, 500)), 9)) == 0


def test_a_fleet_without_gpus_and_a_mix_without_gpus_place_too():
    state = nodes(2, gpus=0)
    placer = a_placer(state, (Need(1000, 1024), 1.0))
    assert len(placer.place(anywhere(state, Need(1000, 1024)), 3)) == 3
    with_gpus = nodes(2)
    assert len(a_placer(with_gpus, (Need(1000, 1024), 1.0)).place(anywhere(with_gpus, WHOLE), 3)) == 3
    empty = NodeState.empty([], [], [], [])
    assert Placer(empty, PackingModel.build(empty, [])).place_one(Shape((WHOLE,), ())) is None


def test_a_model_or_shape_of_another_fleet_is_refused():
    state, other = nodes(1), nodes(2, groups=[0, 1])
    placer = a_placer(state, (WHOLE, 1.0))
    with pytest.raises(ValueError, match="another fleet"):
        Placer(other, placer.model)
    with pytest.raises(ValueError, match="another number of groups"):
        placer.place_one(anywhere(other, WHOLE))
    with pytest.raises(ValueError, match="another number of groups"):
        PackingModel.build(state, [MixEntry(anywhere(other, WHOLE), 1.0)])
    with pytest.raises(ValueError, match="positive"):
        PackingModel.build(state, [MixEntry(anywhere(state, WHOLE), 0.0)])


# ---------------------------------------------------------------- value


def test_cut_values_price_shares_by_the_patterns_they_fit_into():
    """810 fills a GPU alone, two 470 fill one, and nothing of the mix fits beside 810."""
    value = cut_values({810: 1.0, 470: 2.0})
    assert value[1000] == pytest.approx(1.0)
    assert value[810] == pytest.approx(1.0)
    assert value[470] == pytest.approx(0.5)
    assert value[190] == 0.0


def test_cut_values_of_no_demand_are_zero():
    assert not cut_values({}).any()


def test_a_share_that_only_fills_gaps_costs_nothing_in_a_gap():
    """160 beside 810 is free; on an idle GPU it does no harm either while 810 still fits beside it."""
    value = cut_values({810: 5.0, 160: 1.0})
    assert value[190] == pytest.approx(value[30])
    assert value[1000] == pytest.approx(value[840])


def test_fragmentation_is_the_share_of_free_gpus_that_the_next_request_cannot_use():
    state = nodes(1, gpus=2)
    placer = a_placer(state, (Need(1, 1, 1, 1000), 1.0))
    assert placer.model.fragmentation_frac(state) == pytest.approx(0.0)
    state.take(0, Need(1, 1, 1, 500), 0b1)
    assert placer.model.fragmentation_frac(state) == pytest.approx(500 / 1500)
    state.take(0, Need(1, 1, 1, 500), 0b10)
    assert placer.model.fragmentation_frac(state) == pytest.approx(1.0)


def test_fragmentation_counts_gpus_stranded_without_cpu():
    state = nodes(2, gpus=1, cpu_milli=4000)
    placer = a_placer(state, (WHOLE, 1.0))
    state.take(0, Need(1000, 1), 0)
    assert placer.model.fragmentation_frac(state) == pytest.approx(0.5)


# ---------------------------------------------------------------- scarcity


def pinned_world() -> tuple[NodeState, Shape, Shape, list[MixEntry]]:
    """Group 0: 8 GPUs that a third of the work is pinned to; group 1: 16 more."""
    state = nodes(3, groups=[0, 1, 1])
    pinned, free = Shape.uniform(WHOLE, [True, False]), Shape.uniform(WHOLE, [True, True])
    return state, pinned, free, [MixEntry(pinned, 1.0), MixEntry(free, 2.0)]


def test_a_pool_is_tight_when_pinned_work_needs_all_of_it():
    state, _, _, mix = pinned_world()
    prices = ScarcityPrices(state, PackingModel.build(state, mix), mix)
    assert prices.tightness().tolist() == pytest.approx([24 * (1 / 3) / 8])
    assert prices.update()[0] > 0
    assert prices.update()[1] == 0


def test_free_work_leaves_the_pool_to_pinned_work_but_is_never_refused():
    state, pinned, free, mix = pinned_world()
    placer = Placer(state, PackingModel.build(state, mix))
    prices = ScarcityPrices(state, placer.model, mix)
    assert all(p is not None and p.node > 0 for p in place_batch(placer, [free] * 16, prices))
    assert all(p is not None for p in place_batch(placer, [free, pinned] * 4, prices))
    assert place_batch(placer, [free, pinned], prices) == [None, None]


def test_without_pinned_work_there_is_no_price():
    state, _, free, _ = pinned_world()
    mix = [MixEntry(free, 1.0)]
    prices = ScarcityPrices(state, PackingModel.build(state, mix), mix)
    prices.update()
    assert prices.price(free) is None
