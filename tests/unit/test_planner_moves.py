"""Replicas move towards the plan's counts when dearer energy and the closing of their old site pay for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from scheduler.planner.audit import audit_placements
from scheduler.planner.feasibility import Views
from scheduler.planner.folds import folds_of
from scheduler.planner.moves import (
    GAIN_HOURS,
    LEAST_GAIN_YUAN,
    PlannedMove,
    net_of_site,
    propose_moves,
    whole_parts,
)
from tests.builders import City, a_fleet, a_site, a_workload, given, name_of

HOUR_S = 3600
OLD_YUAN, NEW_YUAN = 90.0, 2.0
"""Yuan per hour of the replica in both rooms."""


def wanted_at_new(closed: str = "") -> City:
    """One service lies at `old`, which is dearer by now; the plan wants it at `new`."""
    city = given(a_fleet(a_site("old").cpus(nodes=1, cores=8), a_site("new").cpus(nodes=1, cores=8)))
    city.submits(a_workload("w").at("old"), a_workload("v")).when_planned().all_run()
    city.expect("w", on="old").expect("v", on="old")
    city.strategy.plain.cost_by_site = {"old": OLD_YUAN, "new": NEW_YUAN}
    row = int(city.state.rows_of(city.state.index_of["tenants/t/workloads/v"]).start)
    assert city.state.topology is not None
    folds = folds_of(Views(city.state.topology, city.state.shapes))
    city.strategy.plain.quotas = {folds.of(int(city.state.replicas["spec"][row])): {1: 1.0}}
    city.strategy.plain.closed = frozenset({closed}) if closed else frozenset()
    return city


def proposed(city: City, closing_yuan: float = 0.0) -> list[PlannedMove]:
    moves = propose_moves(city.moving(guide={"closing_yuan_per_hour": [closing_yuan, 0.0]}), 100)
    assert audit_placements(city.state, [m.placed for m in moves]) == []
    return moves


@pytest.mark.parametrize("closed", ["", "old"])
def test_the_gain_is_the_dearer_energy_saved_whether_the_old_site_closes_or_not(closed: str):
    (move,) = proposed(wanted_at_new(closed))
    assert move.gain_yuan == pytest.approx((OLD_YUAN - NEW_YUAN) * GAIN_HOURS)


def test_each_of_two_who_lie_there_counts_half_of_what_closing_saves():
    (move,) = proposed(wanted_at_new("old"), closing_yuan=10.0)
    assert move.gain_yuan == pytest.approx((OLD_YUAN - NEW_YUAN + 10.0 / 2) * GAIN_HOURS)


def test_a_dearer_place_is_set_against_what_closing_saves():
    city = wanted_at_new("old")
    city.strategy.plain.cost_by_site = {"old": 2.0, "new": 5.0}
    (move,) = proposed(city, closing_yuan=10.0)
    assert move.gain_yuan == pytest.approx((2.0 - 5.0 + 10.0 / 2) * GAIN_HOURS)
    assert proposed(city, closing_yuan=2 * (5.0 - 2.0)) == []


def test_nobody_moves_to_a_closed_site_however_cheap():
    assert proposed(wanted_at_new("new"), closing_yuan=1e6) == []


def test_work_done_twice_is_a_cost_and_who_stays_longer_moves_though_another_ends_soon():
    """One core at 90 yuan an hour each; `short` ends before its gain pays for the work since the last checkpoint."""
    city = given(a_fleet(a_site("old").cpus(nodes=1, cores=8), a_site("new").cpus(nodes=1, cores=8)))
    kept = {"short": 1.0, "long": 9.0}
    for name, hours in kept.items():
        work = a_workload(name).lasts(int(hours * HOUR_S)).preemptible(checkpoint_s=99 * HOUR_S)
        city.submits(work).when_planned().all_run().expect(name, on="old")
    city.now_s += HOUR_S // 2
    city.strategy.plain.cost_by_site = {"old": OLD_YUAN, "new": NEW_YUAN}
    city.strategy.plain.quotas = {0: {1: 2.0}}
    moves = proposed(city)
    names = [city.state.names[int(city.state.replicas["workload"][m.placed.row])] for m in moves]
    assert names == [name_of("long")]
    ran_h = (city.now_s - int(city.state.replicas["running_s"][moves[0].placed.row])) / HOUR_S
    wake_yuan = city.strategy.plain.wake_yuan * GAIN_HOURS
    assert moves[0].cost_yuan == pytest.approx(ran_h * OLD_YUAN + wake_yuan / 2), "two may share the new node"
    assert moves[0].gain_yuan == pytest.approx((OLD_YUAN - NEW_YUAN) * GAIN_HOURS)


def test_nobody_moves_to_nodes_kept_for_a_gang():
    city = wanted_at_new()
    moving = city.moving()
    moving.kept.close([1])
    assert moving.snapshot.topology.node_count == 2
    assert propose_moves(moving, 100) == []


@given_any(
    over=st.lists(st.floats(-9, 9, allow_nan=False).map(lambda x: round(x, 3)), min_size=6, max_size=6),
    sites=st.lists(st.integers(0, 2), min_size=6, max_size=6),
)
def test_groups_of_a_site_make_up_for_one_another_before_work_without_gpus_moves(over, sites):
    group_site = np.array(sorted(sites))
    net = net_of_site(np.array(over), group_site)
    for site in set(sites):
        here = group_site == site
        before, after = np.array(over)[here], net[here]
        assert after.sum() == pytest.approx(before.sum())
        assert (after >= 0).all() or (after <= 0).all(), "a site has too many or too few, never both"
        assert (np.abs(after) <= np.abs(before) + 1e-9).all()


def test_parts_of_replicas_in_groups_of_a_site_make_whole_ones_together():
    parts = np.array([0.6, 0.6, 0.6, 0.6, 0.6, 0.0, 0.9])
    assert whole_parts(parts, np.array([0] * 6 + [1])).tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert whole_parts(-parts, np.zeros(7, int)).tolist() == [0] * 7
    assert whole_parts(np.array([2.0, 1.5, 0.5]), np.zeros(3, int)).tolist() == [2, 2, 0]


def test_what_saves_hundredths_of_a_yuan_is_not_worth_a_move():
    city = wanted_at_new()
    for saved_yuan, moves in ((1.2 * LEAST_GAIN_YUAN, 1), (0.9 * LEAST_GAIN_YUAN, 0)):
        city.strategy.plain.cost_by_site = {"old": 1.0 + saved_yuan / GAIN_HOURS, "new": 1.0}
        assert len(proposed(city)) == moves


def test_a_sleeping_node_at_the_new_site_costs_its_idle_power():
    city = wanted_at_new()
    city.strategy.plain.wake_yuan = OLD_YUAN - NEW_YUAN - 1.0
    (move,) = proposed(city)
    assert move.cost_yuan == pytest.approx((OLD_YUAN - NEW_YUAN - 1.0) * GAIN_HOURS)
    city.strategy.plain.wake_yuan = OLD_YUAN - NEW_YUAN + 1.0
    assert proposed(city) == []
