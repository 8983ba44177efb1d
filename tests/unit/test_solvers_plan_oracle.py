"""The plan against an oracle that shares no code with it: every choice of open sites, each as its own linear program.

The oracle states the textbook model (no routes, no columns by pricing, no rounding) for one slot and a plant without
square term, so that both speak of exactly the same cost.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

from solvers.plan_model import solve_plan
from solvers.problem import PlacementProblem
from solvers.verify import verify_plan
from tests.plan_problems import Town


def random_town(seed: int) -> Town:
    """Two to four sites, some of which may close, one or two groups each; up to five classes that fit somewhere."""
    rng = np.random.default_rng(seed)
    town = Town()
    for i in range(int(rng.integers(2, 5))):
        town.site(
            f"s{i}",
            may_close=bool(i),
            fixed_kw=float(rng.uniform(0.2, 3.0)),
            off_kw=0.1,
            loss_square=0.0,
            loss_slope=float(rng.uniform(0.05, 0.4)),
            price_yuan_per_kwh=float(rng.uniform(0.4, 1.2)),
            power_limit_kw=float(rng.uniform(3.0, 12.0)),
            start_yuan=float(rng.uniform(0, 0.5)),
            initially_on=bool(rng.integers(2)),
            pue_cap_annual=float(rng.uniform(1.2, 1.6)) if rng.random() < 0.5 else np.nan,
            ledger_beta_kwh=float(rng.uniform(-1, 1)),
            debt_yuan_per_kwh=float(rng.uniform(0.5, 5.0)),
        )
        for j in range(int(rng.integers(1, 3))):
            town.group(
                f"s{i}/g{j}", f"s{i}", node_count=int(rng.integers(2, 6)), idle_w=float(rng.uniform(100, 500))
            )
    for c in range(int(rng.integers(1, 6))):
        town.work(
            f"w{c}",
            demand=float(rng.integers(1, 8)),
            cpu=float(rng.choice([1, 2, 4])),
            gpu={"l20": float(rng.choice([0.25, 1.0]))} if rng.random() < 0.5 else {},
            dynamic_w=float(rng.uniform(20, 300)),
            rank=int(rng.integers(0, 4)),
            unserved_yuan=1e3,
        )
    return town


def cheapest_with(problem: PlacementProblem, is_open: tuple[bool, ...]) -> float:
    """Least cost of serving everything with exactly these sites open; inf if it cannot be done."""
    p, s = problem, problem.sites
    K, G, S = p.pair_count, p.group_count, p.site_count
    columns = K + G + S  # replicas, nodes, ledger debt
    share = p.pairs.need / np.maximum(p.groups.capacity[p.pairs.group_index], 1)
    on = np.array(is_open)
    fixed = np.where(on, s.fixed_kw[:, 0], s.off_kw[:, 0])
    started = s.start_yuan @ (on & ~s.initially_on & s.may_close)
    it_kw = np.zeros((S, columns))
    useful_kw = np.zeros((S, columns))
    for k in range(K):
        it_kw[p.pair_site[k], k] = p.pairs.dynamic_w[k] / 1000
        useful_kw[p.pair_site[k], k] = (
            p.pairs.dynamic_w[k] + share[k].max() * p.groups.idle_w[p.pairs.group_index[k]]
        ) / 1000
    for g in range(G):
        it_kw[p.groups.site[g], K + g] = p.groups.idle_w[g] / 1000
    cost = (s.price_yuan_per_kwh[:, 0] * (1 + s.loss_slope[:, 0])) @ it_kw
    cost[K + G :] = np.where(np.isnan(s.pue_cap_annual), 0.0, s.debt_yuan_per_kwh)
    rows, limits = [*it_kw], [*np.where(on, s.power_limit_kw[:, 0], 0.0)]
    for g in range(G):
        for r in range(share.shape[1]):
            row = np.zeros(columns)
            row[:K] = np.where(p.pairs.group_index == g, share[:, r], 0.0)
            row[K + g] = -1.0
            rows.append(row)
            limits.append(0.0)
    for i in np.flatnonzero(~np.isnan(s.pue_cap_annual)):
        row = (1 + s.loss_slope[i, 0]) * it_kw[i] - s.pue_cap_annual[i] * useful_kw[i]
        row[K + G + i] = -1.0
        rows.append(row)
        limits.append(s.ledger_beta_kwh[i] - fixed[i])
    serve = np.array(
        [[*(p.pairs.class_index == c), *np.zeros(G + S)] for c in range(p.class_count)], dtype=float
    )
    bounds: list[tuple[int, float | None]] = [(0, None)] * K
    bounds += [
        (0, float(n) if on[site] else 0.0)
        for n, site in zip(p.groups.node_count[:, 0], p.groups.site, strict=True)
    ]
    bounds += [(0, None)] * S
    answer = linprog(
        cost, np.array(rows), limits, serve, p.classes.demand_count[:, 0], bounds, method="highs"
    )
    if not answer.success:
        return np.inf
    return float(answer.fun or 0.0) + float(s.price_yuan_per_kwh[:, 0] @ fixed) + float(started)


@pytest.mark.parametrize("seed", range(30))
def test_the_plan_costs_what_the_best_choice_of_open_sites_costs(seed):
    problem = random_town(seed).problem()
    choices = itertools.product(*([False, True] if may else [True] for may in problem.sites.may_close))
    best = min(cheapest_with(problem, choice) for choice in choices)
    plan = solve_plan(problem)
    assert [str(v) for v in verify_plan(problem, plan)] == []
    if np.isinf(best):
        assert plan.unserved_count.sum() > 0
        return
    assert plan.unserved_count.sum() == pytest.approx(0.0, abs=1e-5)
    fleet = plan.bound("fleet")
    assert fleet is not None and fleet.bound_yuan is not None
    assert fleet.bound_yuan <= best + 1e-6 * abs(best)
    assert plan.certificate is not None
    assert plan.certificate.bound_yuan <= best + 1e-6 * abs(best)
    assert plan.certificate.bound_yuan >= best - 1e-4 * abs(best), "the multipliers prove next to all of it"
    assert plan.objective_yuan == pytest.approx(best, rel=1e-6)
    assert fleet.objective_yuan == pytest.approx(best, rel=1e-6)
