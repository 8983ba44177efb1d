"""Random one-slot towns for bulk plans: anything the bulk model can say, in small."""

from __future__ import annotations

import numpy as np

from solvers.problem import PlacementProblem, Terms
from tests.plan_problems import NEVER, Town


def bulk_town(seed: int, *, sites: int = 4, scale: int = 1) -> PlacementProblem:
    """Up to so many sites with caps of all kinds, gangs, islands, shares of GPUs, spread, links and latency limits."""
    rng = np.random.default_rng(seed)

    def chance(p: float) -> bool:
        return bool(rng.random() < p)

    terms = Terms(
        portfolio_pue_cap_annual=1.5 if chance(0.3) else None,
        portfolio_is_hard=chance(0.5),
        ledger_load="legal" if chance(0.3) else "useful",
        carbon_yuan_per_kg=0.1 if chance(0.3) else 0.0,
    )
    town = Town(terms=terms)
    site_count = int(rng.integers(1, sites + 1))
    names = [f"s{i}" for i in range(site_count)]
    town.leg_rtt_ms = {"z/pon": {s: float(rng.uniform(1, 20)) for s in names if chance(0.9)}}
    town.links = [("uplink", float(rng.uniform(5, 100)))]
    town.routes = [(0, "s0", "uplink")]
    for site in names:
        town.site(
            site,
            is_edge=chance(0.6),
            may_close=chance(0.6),
            initially_on=chance(0.5),
            start_yuan=float(rng.choice([0.0, 1.0])),
            fixed_kw=float(rng.uniform(0, 5)),
            off_kw=0.0,
            loss_slope=float(rng.uniform(0, 0.6)),
            loss_square=float(rng.choice([0.0, 0.02])),
            price_yuan_per_kwh=float(rng.uniform(0.2, 1.2)),
            power_limit_kw=float(rng.choice([1.0, 5.0, 50.0])) * scale,
            ipue_cap_hourly=float(rng.choice([NEVER, 1.2, 1.6])),
            hourly_is_hard=chance(0.5),
            pue_cap_annual=float(rng.choice([NEVER, 1.3, 1.6])),
            annual_is_hard=chance(0.3),
            ledger_beta_kwh=float(rng.uniform(-2, 2)),
            demand_yuan_per_kw=float(rng.choice([0.0, 3.0])),
            reserved_floor_frac=float(rng.choice([0.0, 0.3])),
            labels={"kind": str(rng.choice(["a", "b"]))},
        )
        for j in range(int(rng.integers(1, 3))):
            town.group(
                f"{site}/g{j}",
                site,
                node_count=int(rng.integers(0, 6)) * scale,
                gpus=int(rng.choice([0, 2, 4])),
                gpu_model=str(rng.choice(["l20", "t4"])),
                idle_w=float(rng.choice([0.0, 300.0])),
                wake_yuan=float(rng.choice([0.0, 0.2])),
                initial_on_count=float(rng.integers(0, 3)),
                island_node_count=int(rng.choice([0, 2])),
            )
    for c in range(int(rng.integers(1, 8))):
        gang = int(rng.choice([1, 1, 1, 3]))
        town.work(
            f"w{c}",
            demand=float(rng.integers(0, 12) * gang * scale),
            cpu=float(rng.choice([0.1, 1, 6, 8, 20])),
            gpu=[{}, {"l20": 0.3}, {"l20": 0.6, "t4": 0.6}, {"l20": 1.0, "t4": 2.0}][int(rng.integers(4))],
            rank=int(rng.integers(0, 4)),
            dynamic_w=float(rng.uniform(0, 300)),
            gang_size=gang,
            single_site=gang > 1,
            single_island=gang > 1 and chance(0.5),
            spread_sites=int(rng.choice([0, 0, 2])),
            spread_nodes=int(rng.choice([0, 0, 2])) if gang == 1 else 0,
            migration_yuan=float(rng.choice([0.0, 2.0])),
            running={g["group_id"]: float(rng.integers(0, 4)) for g in town.groups if chance(0.3)},
            other_yuan=float(rng.choice([0.0, 0.1])),
            unserved_yuan=float(rng.choice([10.0, 100.0])),
            flows=[("z/pon", float(rng.choice([5.0, 15.0, 100.0])), 3.0)] if chance(0.4) else (),
            require_any=({"kind": "a"},) if chance(0.3) else (),
        )
    return town.problem()
