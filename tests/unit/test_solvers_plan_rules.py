"""A model with other cuts is the model that would be built with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from solvers.linear import Program
from solvers.plan_master import Master
from solvers.plan_model import PlanLimits, plan_sets
from solvers.plan_rules import PlanOptions, build, with_cuts
from tests.plan_problems import Town


def same(a: Program, b: Program) -> bool:
    return bool(abs(a.matrix - b.matrix).max() == 0.0) and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("lower", "upper", "cost", "row_lower", "row_upper")
    )


def test_cuts_may_be_added_and_replaced_without_building_again():
    town = Town(hours=(1.0, 2.0, 3.0))
    for name in ("near", "far"):
        town.site(name, may_close=True, fixed_kw=2.0).group(f"{name}/cpu", name)
    problem = town.work("web", demand=8).work("api", demand=3).problem()
    sets = plan_sets(problem, PlanOptions(), PlanLimits())
    model = build(sets)
    master = Master(model, model.lp.program())
    pair, block = model.keys["place"]
    c, site = problem.pairs.class_index[pair], problem.pair_site[pair]
    slot = np.searchsorted(sets.block_of_slot, block)
    for count in (1, len(pair), 2):
        cuts = c[:count], site[:count], slot[:count]
        model = with_cuts(model, cuts)
        fresh = build(replace(sets, open_cuts=cuts))
        assert same(model.lp.program(), fresh.lp.program())
        assert same(master.with_model(model).program(), Master(fresh, fresh.lp.program()).program())
        assert len(model.rows_of("open_share")) == count
        assert model.rows.keys() == fresh.rows.keys()
