"""Node state: what take and give_back may and may not do; needs and shapes refuse nonsense."""

from __future__ import annotations

import numpy as np
import pytest

from solvers.nodes import Need, NodeState, Shape, allowed_groups, gpu_mask_of, gpus_of, split_gpu_milli


def two_nodes() -> NodeState:
    """Node 0: 8 CPU, 2 GPUs; node 1: 4 CPU, none."""
    return NodeState.empty([0, 1], [8000, 4000], [16384, 8192], [2, 0], storage_gib=[10, 10])


def test_a_replica_takes_exactly_its_need_and_gives_it_back():
    state = two_nodes()
    need = Need(3000, 1024, 1, 400, storage_gib=2)
    state.take(0, need, 0b10)
    assert state.cpu_milli[0] == 8000 - 3000
    assert state.gpu_milli[0].tolist() == [1000, 1000 - 400]
    assert state.storage_gib[0] == 10 - 2
    state.give_back(0, need, 0b10)
    assert state.gpu_milli[0].tolist() == [1000, 1000]
    assert state.free_gpu_milli == state.installed_gpu_milli == 2000


@pytest.mark.parametrize(
    ("need", "mask"),
    [
        (Need(9000, 0), 0),
        (Need(0, 99999), 0),
        (Need(0, 0, storage_gib=11), 0),
        (Need(0, 0, 1, 500), 0),
        (Need(0, 0, 1, 500), 0b11),
        (Need(0, 0, 1, 500), 0b100),
        (Need(0, 0, 3, 1000), 0b111),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(need, mask):
    state = two_nodes()
    with pytest.raises(ValueError, match="does not fit"):
        state.take(0, need, mask)
    assert state.stamp.tolist() == [1, 1]
    assert state.cpu_milli[0] == 8000


def test_a_share_lies_on_one_gpu_even_when_two_together_have_room():
    state = two_nodes()
    for gpu in (0, 1):
        state.take(0, Need(0, 0, 1, 600), 1 << gpu)
    with pytest.raises(ValueError, match="does not fit"):
        state.take(0, Need(0, 0, 1, 700), 0b01)


def test_nothing_is_given_back_that_was_not_taken():
    state = two_nodes()
    with pytest.raises(ValueError, match="was not placed"):
        state.give_back(0, Need(1, 0), 0)
    with pytest.raises(ValueError, match="was not placed"):
        state.give_back(1, Need(0, 0, 1, 100), 0b1)


def test_many_replicas_are_booked_together_or_not_at_all():
    state = two_nodes()
    needs = (Need(3000, 100, 1, 500),)
    two = np.array([0, 0])
    zero = np.zeros(2, np.int64)
    state.take_many(two, needs, zero, np.array([0b01, 0b01]))
    assert state.cpu_milli[0] == 8000 - 2 * 3000
    assert state.gpu_milli[0].tolist() == [0, 1000]
    with pytest.raises(ValueError, match="do not fit together"):
        state.take_many(two, needs, zero, np.array([0b10, 0b10]))
    assert state.cpu_milli[0] == 8000 - 2 * 3000


def test_a_copy_is_independent():
    state = two_nodes()
    other = state.copy()
    other.take(0, Need(1000, 0), 0)
    assert state.cpu_milli[0] == 8000


@pytest.mark.parametrize(
    "arguments", [(-1, 0), (0, -1), (0, 0, 1, 0), (0, 0, 0, 500), (0, 0, 1, 1001), (0, 0, -1, 500)]
)
def test_a_need_without_sense_is_refused(arguments):
    with pytest.raises(ValueError, match="Need"):
        Need(*arguments)


def test_milli_gpus_split_into_a_share_or_whole_gpus():
    assert split_gpu_milli(0) == (0, 0)
    assert split_gpu_milli(250) == (1, 250)
    assert split_gpu_milli(1000) == (1, 1000)
    assert split_gpu_milli(4000) == (4, 1000)
    with pytest.raises(ValueError, match="whole GPUs"):
        split_gpu_milli(1500)


def test_a_shape_may_need_different_amounts_on_different_models():
    rows = [[1000, 10, 500, 0], [1000, 10, 2000, 0], [9, 9, 9, 9]]
    shape = Shape.per_group(rows, [True, True, False])
    assert shape.need_on(0) == Need(1000, 10, 1, 500)
    assert shape.need_on(1) == Need(1000, 10, 2, 1000)
    assert shape.need_on(2) is None
    with pytest.raises(ValueError, match="outside needs"):
        Shape((Need(1, 1),), (1,))


def test_groups_are_allowed_by_model_and_gpu_memory():
    state = NodeState.empty([0, 1, 2], [1] * 3, [1] * 3, [1] * 3, group_gpu_memory_mib=[16384, 81920, 16384])
    models = ["T4", "A100", "P100"]
    assert allowed_groups(state, models, [], 20000).tolist() == [False, True, False]
    assert allowed_groups(state, models, ["T4", "A100"]).tolist() == [True, True, False]


def test_gpu_masks_and_lists_are_inverse():
    assert gpus_of(0b1011) == [0, 1, 3]
    assert gpu_mask_of([3, 0, 1]) == 0b1011


def test_equal_shapes_are_one_key():
    one, same = (Shape.uniform(Need(1000, 1024), (True, False)) for _ in range(2))
    other = Shape.uniform(Need(1000, 1024), (True, True))
    assert one == same and hash(one) == hash(same)
    assert {one: "known"}.get(same) == "known"
    assert one != other and {one: "known"}.get(other) is None
