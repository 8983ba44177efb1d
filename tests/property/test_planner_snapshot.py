"""The round's working copy: changes in bulk are the same as one after the other, and undoing leaves nothing behind."""

from __future__ import annotations

import numpy as np
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from scheduler.planner.feasibility import Views
from scheduler.planner.snapshot import Snapshot, gpus_for
from tests.builders import City
from tests.property.test_planner_safety import play

SEEDS = st.integers(0, 2**32 - 1)
FIELDS = ("running", "fold_running", "replica_count", "empty_node", "idle_w", "dynamic_w", "link_mbps")
RESOURCES = ("cpu_milli", "memory_mib", "storage_gib", "gpu_milli")


def taken(city: City) -> Snapshot:
    assert city.state.topology is not None
    return Snapshot.take(city.state, Views(city.state.topology, city.state.shapes))


def assert_equal(a: Snapshot, b: Snapshot) -> None:
    for name in FIELDS:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-6, err_msg=name)
    for name in RESOURCES:
        np.testing.assert_array_equal(getattr(a.nodes, name), getattr(b.nodes, name), err_msg=name)
    assert (a.low_used is None) == (b.low_used is None)
    if a.low_used is not None and b.low_used is not None:
        np.testing.assert_array_equal(a.low_used, b.low_used)


def placed_rows(city: City) -> np.ndarray:
    replicas = city.state.replicas
    rows = np.flatnonzero(replicas["node"] >= 0)
    return rows[~np.isin(rows, list(city.state.draining))]


@for_all(SEEDS)
@settings(max_examples=12, deadline=None)
def test_giving_back_many_is_giving_back_each(seed):
    city = play(seed, steps=8)
    one, many = taken(city), taken(city)
    replicas, rows = city.state.replicas, placed_rows(city)
    for row in rows.tolist():
        view = one.views[int(replicas["spec"][row])]
        one.take_node(view, int(replicas["node"][row]), int(replicas["gpu_mask"][row]), -1)
    many.give_back(*(replicas[c][rows].astype(np.int64) for c in ("spec", "node", "gpu_mask")))
    assert_equal(one, many)


@for_all(SEEDS)
@settings(max_examples=12, deadline=None)
def test_taking_many_is_taking_each(seed):
    city = play(seed, steps=6)
    one, many = taken(city), taken(city)
    for spec in range(len(city.state.shapes.specs)):
        view = one.views[spec]
        if not view.group_ok.any():
            continue
        at = one.nodes_of(view.group_ok)
        at = np.repeat(at, np.minimum(one.fit(view, at), 2))
        masks = []
        for node in at.tolist():
            masks.append(
                gpus_for(one.nodes.gpu_milli[node], int(view.need[one.topology.node_group[node], 2]))
            )
            one.take_node(view, node, masks[-1])
        many.take_many(view, at, np.array(masks, np.int64))
    assert_equal(one, many)


@for_all(SEEDS)
@settings(max_examples=12, deadline=None)
def test_restoring_brings_everything_back_and_says_which_nodes_changed(seed):
    city = play(seed, steps=6)
    snapshot, replicas, rows = taken(city), city.state.replicas, placed_rows(city)
    before, stamp = snapshot.copy(), snapshot.stamp.copy()
    snapshot.give_back(*(replicas[c][rows].astype(np.int64) for c in ("spec", "node", "gpu_mask")))
    snapshot.returned.clear()
    snapshot.restore(before)
    assert_equal(snapshot, before)
    touched = set(np.unique(replicas["node"][rows]).tolist())
    assert set(snapshot.returned) == touched
    assert (snapshot.stamp[sorted(touched)] > stamp[sorted(touched)]).all()


@for_all(SEEDS)
@settings(max_examples=12, deadline=None)
def test_folds_count_what_their_specs_run(seed):
    snapshot = taken(play(seed))
    for fold in np.unique(snapshot.fold).tolist():
        members = snapshot.fold == fold
        np.testing.assert_array_equal(snapshot.fold_running[fold], snapshot.running[members].sum(axis=0))
