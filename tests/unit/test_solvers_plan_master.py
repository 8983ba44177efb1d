"""Routes are priced exactly: against every route there is, at random duals."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from solvers import plan_model
from solvers.plan_master import NOTHING, Master, Routes
from solvers.plan_model import PlanLimits, plan_sets
from solvers.plan_rules import PlanOptions, build
from solvers.problem import Graph, GraphFlow
from tests.plan_problems import Town


def three_rooms() -> Master:
    town = Town(hours=(1, 1, 1))
    for i in range(3):
        town.site(f"s{i}", price_yuan_per_kwh=[0.5, 1.0, 0.7]).group(f"g{i}", f"s{i}")
    town.work("web", demand=[8, 3, 5], migration_yuan=0.2).work("vr", demand=[0, 4, 2], migration_yuan=0.0)
    problem = town.problem()
    model = build(plan_sets(problem, PlanOptions(blocks_per_day=24), PlanLimits()))
    return Master(model, model.lp.program())


def cost_of(master: Master, route: Routes, duals: np.ndarray, nothing_yuan: np.ndarray) -> np.ndarray:
    """[N] reduced cost of routes, entry by entry."""
    unit_yuan = master.base.cost[master.unit_column] - master._units.T @ duals
    serve_row = master.model.rows_of("serve")[
        np.searchsorted(master.model.keys["serve"][0], route.class_index)
    ]
    total = -duals[serve_row]
    for n, (c, units) in enumerate(zip(route.class_index, route.unit, strict=True)):
        for b, unit in enumerate(units):
            if unit >= 0:
                total[n] += unit_yuan[unit]
            elif master.has_demand[c, b]:
                total[n] += nothing_yuan[c, b]
    return total + Master.route_move_yuan(_with(master, route))


def _with(master: Master, route: Routes) -> Master:
    other = master.with_own_columns()
    other.routes = route
    return other


def every_route(master: Master, c: int) -> Routes:
    pairs = np.flatnonzero(master.model.sets.problem.pairs.class_index == c)
    places = [
        [NOTHING, *master._unit_of[pairs, b]] if master.has_demand[c, b] else [NOTHING] for b in range(3)
    ]
    unit = np.array(list(product(*places)))
    return Routes(np.full(len(unit), c), unit)


@pytest.mark.parametrize("seed", range(20))
def test_the_cheapest_route_of_all_is_found(seed):
    master = three_rooms()
    rng = np.random.default_rng(seed)
    duals = rng.normal(size=master.base.matrix.shape[0])
    nothing = rng.uniform(0.0, 3.0, master.has_demand.shape)
    found = master.cheapest_routes(duals, nothing)
    assert found.reduced_cost == pytest.approx(cost_of(master, found.routes, duals, nothing))
    for i, c in enumerate(master.model.keys["serve"][0]):
        routes = every_route(master, c)
        assert found.least[i] == pytest.approx(cost_of(master, routes, duals, nothing).min())


def test_an_answer_means_the_same_after_columns_have_joined():
    master = three_rooms()
    before, x = master.with_own_columns(), np.random.default_rng(3).random(master.column_count)
    for c in master.model.keys["serve"][0]:
        master.add_routes(every_route(master, c))
    master.add_columns(master.run_column)
    assert master.column_count > before.column_count
    wide = master.widened(x, before)
    np.testing.assert_array_equal(master.base_values(wide), before.base_values(x))
    assert wide @ master.program().cost == pytest.approx(x @ before.program().cost)


def test_columns_leave_and_join_again_as_others_and_serving_nothing_stays():
    master = three_rooms()
    for c in master.model.keys["serve"][0]:
        master.add_routes(every_route(master, c))
    master.add_columns(master.run_column)
    whole, keys = master.program(), master.column_key()
    is_used = np.random.default_rng(5).random(master.column_count) < 0.3
    thin = master.only_used(is_used)
    stays = np.isin(keys, thin.column_key())
    nothing = np.append(np.zeros(master.route_start, bool), (master.routes.unit < 0).all(axis=1))
    kept = np.arange(master.column_count) < len(master.kept_column)
    np.testing.assert_array_equal(stays, is_used | nothing | kept)
    np.testing.assert_array_equal(thin.program().matrix.toarray(), whole.matrix.toarray()[:, stays])
    np.testing.assert_array_equal(thin.program().cost, whole.cost[stays])
    before = thin.column_count
    assert thin.add_routes(master.routes) == int((~stays)[master.route_start :].sum())
    joined = thin.column_key()[before:]
    assert not np.isin(joined, keys).any(), "a key that GLOP knows means the column that had it"


@pytest.mark.parametrize("seed", range(20))
def test_of_a_class_that_brings_much_the_best_route_through_every_place_and_block_joins(seed):
    master = three_rooms()
    rng = np.random.default_rng(seed)
    duals = rng.normal(size=master.base.matrix.shape[0])
    duals[master.model.rows_of("serve")] = 50.0  # every class brings much
    nothing = rng.uniform(0.0, 3.0, master.has_demand.shape)
    found = master.cheapest_routes(duals, nothing)
    of_class = found.routes.class_index == 0
    routes = every_route(master, 0)
    yuan = cost_of(master, routes, duals, nothing)
    for block in range(3):
        for place in np.unique(routes.unit[:, block]):
            through = routes.unit[:, block] == place
            best = yuan[through].min()
            here = of_class & (found.routes.unit[:, block] == place)
            assert found.reduced_cost[here].min() == pytest.approx(best)


def test_patterns_without_a_column_count_for_the_bound_as_if_they_had_one(monkeypatch):
    def master(most_columns: int) -> Master:
        monkeypatch.setattr(plan_model, "MOST_PATTERN_COLUMNS", most_columns)
        town = Town(hours=(1, 2))
        for i in range(3):
            town.site(f"s{i}", price_yuan_per_kwh=[0.5 + 0.1 * i, 1.0]).group(f"g{i}", f"s{i}")
        for stage in ("ingest", "sync", "render"):
            town.work(stage)
        town.graphs.append(Graph("twin", (2.0, 1.0), (0, 1, 2), (1, 2, 1), (GraphFlow(0, 1, 10.0, None),)))
        model = build(plan_sets(town.problem(), PlanOptions(), PlanLimits()))
        return Master(model, model.lp.program())

    all_described, few_described = master(20_000), master(4)
    assert len(all_described.pattern_column) > len(few_described.pattern_column)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        duals = rng.normal(size=all_described.base.matrix.shape[0])
        exact = all_described.cheapest_patterns(duals)[1]
        assert few_described.cheapest_patterns(duals)[1] == pytest.approx(exact)
        assert exact < 0
