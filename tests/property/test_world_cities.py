"""What holds for whole cities at every scale: slower than unit tests, so they stand apart."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from cluster_sim.scenarios import load_scenario
from cluster_sim.scenarios.check import Verdict, check
from cluster_sim.traces.azure_llm import read_azure_llm, with_lengths
from cluster_sim.world.arrivals import arrivals
from cluster_sim.world.training import gpu_pool


@cache
def verdict(name: str) -> Verdict:
    return check(load_scenario(name))


@pytest.mark.parametrize("name", ["songjiang-s", "songjiang-m", "songjiang-l"])
def test_every_city_is_playable_in_every_month(name):
    found = verdict(name)
    assert found.problems == []
    assert found.room_frac > 0.03
    assert any(row.binds(found.month) for row in found.sites)
    assert all(row.is_holdable(month) for row in found.sites for month in range(1, 13))


def test_caps_bite_in_the_full_city_where_they_do_in_the_small_one():
    binding = {row.site_id for row in verdict("songjiang-m").sites if row.binds(7)}
    assert {"e01-hub", "e04-iiot-w", "e09-gov", "e05-med"} <= binding
    assert {"ai-core", "dc-lingang"}.isdisjoint(binding)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_full_city_opens_warm_near_its_load(seed):
    scenario = load_scenario("songjiang-m")
    pool = sum(gpu_pool(scenario, ("ai-core", "dc-lingang")).values())
    warm = sum(
        w.stages[0].replicas * w.stages[0].reference_gpu_milli / 1000
        for _, w in arrivals(scenario, seed).items
        if w.workload_class == "W12" and "warm" in w.name
    )
    assert warm / pool == pytest.approx(0.8, abs=0.08)


def test_both_scales_offer_each_site_about_the_same_load():
    small = {row.site_id: row.offered for row in verdict("songjiang-s").sites}
    full = {row.site_id: row.offered for row in verdict("songjiang-m").sites}
    for site_id, load in full.items():
        assert small[site_id] == pytest.approx(load, abs=0.1), site_id


def test_demand_beyond_the_city_is_found():
    scenario = load_scenario("songjiang-s")
    flood = scenario.scale.model_copy(update={"demand_factor": 40.0, "camera_factor": 40.0})
    problems = check(scenario.model_copy(update={"scale": flood}), months=()).problems
    assert any("finds no room" in p for p in problems)


def test_longer_answers_ask_for_more_replicas(tmp_path):
    scenario = load_scenario("songjiang-m")

    def replica_hours(output_tokens: int) -> int:
        file = tmp_path / f"{output_tokens}.csv"
        file.write_text(
            f"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1155,{output_tokens}\n",
            encoding="utf-8",
        )
        day = arrivals(with_lengths(scenario, read_azure_llm(file)), 1)
        return sum(w.stages[0].replicas for _, w in day.items if w.workload_class == "W9")

    assert np.all(np.diff([replica_hours(n) for n in (20, 211, 800)]) > 0)
