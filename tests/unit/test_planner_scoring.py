"""What ranks and what is paid are two numbers: a wall around closed sites stands in the first, never in the second."""

from __future__ import annotations

import numpy as np
import pytest

from cluster_sim.baselines import strategy_of
from scheduler.planner.feasibility import SpecView, Views
from scheduler.planner.marginal import marginal_ipue
from scheduler.planner.scoring import CLOSED_SITE_YUAN_PER_HOUR, GuidedScorer
from scheduler.planner.snapshot import Snapshot
from tests.builders import City, a_fleet, a_site, a_workload, given

OPEN, CLOSED = 0, 1
TARIFF, FIXED_YUAN = 0.5, 17.0


def two_sites() -> City:
    city = given(
        a_fleet(a_site("e01").cpus(), a_site("e02").cpus()).cheaper_from(24)
    )  # one yuan per kWh all day
    return city.submits(a_workload("w"))


def seen(city: City) -> tuple[SpecView, Snapshot]:
    assert city.state.topology is not None
    snapshot = Snapshot.take(city.state, Views(city.state.topology, city.state.shapes))
    return snapshot.views[0], snapshot


def test_a_closed_site_ranks_behind_a_wall_and_costs_what_its_energy_costs():
    view, snapshot = seen(two_sites())
    scorer = GuidedScorer(np.array([TARIFF, TARIFF]), np.array([True, False]), np.array([0.0, FIXED_YUAN]))
    energy_yuan = scorer.energy_yuan_per_hour(view, snapshot)
    assert energy_yuan.tolist() == pytest.approx((view.watts / 1000 * TARIFF).tolist())
    assert (energy_yuan > 0).all()
    wall = scorer.group_cost(view, snapshot) - energy_yuan
    assert wall[OPEN] == 0.0
    assert wall[CLOSED] == pytest.approx(CLOSED_SITE_YUAN_PER_HOUR + FIXED_YUAN)
    assert scorer.open_sites(snapshot).tolist() == [True, False]


@pytest.mark.parametrize("policy", ["suanli", "least-loaded", "nearest-edge"])
def test_every_policy_tells_the_same_price_of_a_replica_whatever_it_ranks_by(policy: str):
    city = two_sites()
    view, snapshot = seen(city)
    scorer = strategy_of(policy).scorer(city.state, {}, city.now_s)
    assert city.state.topology is not None
    ipue = marginal_ipue(city.state, city.now_s)[city.state.topology.group_site]
    yuan = scorer.energy_yuan_per_hour(view, snapshot)
    assert yuan.tolist() == pytest.approx((view.watts / 1000 * 1.0 * ipue).tolist())
    assert scorer.open_sites(snapshot).all()
