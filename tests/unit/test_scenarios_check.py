"""The check finds playable scenarios playable, and says what is wrong with broken ones."""

from __future__ import annotations

import re
from functools import cache

import pytest

from cluster_sim.scenarios import Scenario, load_scenario
from cluster_sim.scenarios.check import Verdict, check, main, plant_year, table
from suanli.model import SiteKind
from tests.support.sites import base_scenario


@cache
def verdict(name: str) -> Verdict:
    return check(load_scenario(name), months=(1, 7))


def with_sites(scenario: Scenario, site_id: str, **fields: object) -> Scenario:
    rows = dict(scenario.sites.rows)
    rows[site_id] = rows[site_id].model_copy(update=fields)
    return scenario.model_copy(update={"sites": scenario.sites.model_copy(update={"rows": rows})})


def with_class(scenario: Scenario, class_id: str, **fields: object) -> Scenario:
    rows = dict(scenario.classes.rows)
    rows[class_id] = rows[class_id].model_copy(update=fields)
    return scenario.model_copy(update={"classes": scenario.classes.model_copy(update={"rows": rows})})


@pytest.mark.parametrize("name", ["songjiang-s", "tiny-cloud-edge", "tiny-twin"])
def test_every_shipped_scenario_is_playable(name):
    found = verdict(name)
    assert found.problems == []
    assert found.room_frac > 0.03
    assert any(row.binds(found.month) for row in found.sites)
    assert all(row.is_holdable(m) for row in found.sites for m in range(1, 13))


def test_caps_bite_where_rooms_are_cooled_by_dx_and_at_the_hospital():
    binding = {row.site_id for row in verdict("songjiang-s").sites if row.binds(7)}
    assert {"e01-hub", "e04-iiot-w", "e09-gov", "e05-med"} <= binding
    assert {"ai-core", "dc-lingang"}.isdisjoint(binding)


def test_a_dx_room_needs_more_than_a_third_of_its_rating_in_july():
    fleet = base_scenario().fleet(exact=True)
    needed = plant_year(base_scenario(), fleet.site("e09-gov")).needed_load(7, 1.5)
    assert needed == pytest.approx(0.36, abs=0.02)
    # the same room over a normal day without ledger: 0.62 of rating in every hour, domain of the hourly form
    module = plant_year(base_scenario(), fleet.site("e11-substation")).needed_load(7, 1.5)
    assert module is not None and module < 0.2


def test_hard_classes_have_more_than_one_host_but_the_hospital_robot():
    hosts = verdict("songjiang-s").hosts_by_class
    assert hosts["W7c"] == (1, 1)
    assert hosts["W1h"][0] >= 3 and hosts["W6"][0] >= 3 and hosts["W2"][0] >= 3


def test_a_cap_that_no_load_meets_is_found():
    broken = with_sites(load_scenario("songjiang-s"), "e04-iiot-w", pue_cap_annual=1.2)
    problems = check(broken, months=()).problems
    assert any(p.startswith("e04-iiot-w: cap 1.2 cannot be held") for p in problems)


def test_a_class_that_no_site_may_host_is_found():
    broken = with_class(load_scenario("songjiang-s"), "W6b", require_any=({"residency": "lunar"},))
    assert any(p.startswith("W6b from z5: no site may host it") for p in check(broken, months=()).problems)
    too_fast = with_class(load_scenario("songjiang-s"), "W2", access="5g_embb")
    assert any(p.startswith("W2 from") for p in check(too_fast, months=()).problems)


def test_a_scenario_without_a_binding_cap_is_found():
    scenario = load_scenario("songjiang-s")
    for site_id in scenario.sites.rows:
        scenario = with_sites(scenario, site_id, pue_cap_annual=None)
    assert any(p.startswith("no cap binds") for p in check(scenario, months=()).problems)


def test_a_gang_that_fits_no_site_is_found():
    scenario = load_scenario("songjiang-s")
    scale = scenario.scale.model_copy(update={"gang_max_pool_share": 1.0})
    pattern = scenario.classes.rows["W12"].pattern.model_copy(update={"reference_models": ("a910b",)})
    broken = with_class(scenario.model_copy(update={"scale": scale}), "W12", pattern=pattern)
    assert any("fits no site" in p for p in check(broken, months=()).problems)


def test_the_command_prints_both_scales_side_by_side_and_answers_by_its_exit_code(capsys):
    assert main(["tiny-twin"]) == 0
    assert "playable" in capsys.readouterr().out
    assert main(["no-such-city"]) == 1
    text = table(verdict("songjiang-s"), verdict("tiny-twin"))
    assert "tiny-twin" in text.splitlines()[1]
    assert all(len(line) <= 120 for line in text.splitlines()[:18])


def test_a_month_without_a_price_is_found_and_named():
    scenario = load_scenario("tiny-twin")
    rows = {
        tariff_id: tariff.model_copy(
            update={"seasons": tuple(s for s in tariff.seasons if 7 not in s.months)}
        )
        for tariff_id, tariff in scenario.tariffs.rows.items()
    }
    broken = scenario.model_copy(update={"tariffs": scenario.tariffs.model_copy(update={"rows": rows})})
    found = check(broken)
    assert any(p.startswith("tariff two_part has no price in month 7") for p in found.problems)
    assert "PROBLEM tariff two_part has no price in month 7" in table(found)


def test_the_table_has_loads_slack_by_month_hosts_gang_and_room():
    text = table(check(load_scenario("tiny-cloud-edge")))
    assert re.search(r"energy cost of a day: blind ¥\d+, aware ¥\d+, room [\d.]+ %", text)
    assert "yuan" not in text
    lines = text.splitlines()
    assert lines[1].split() == ["site", "cap", "offered", "blind", "reach", "need", "slack", "aware", "note"]
    months = next(line for line in lines if line.startswith("month"))
    assert months.split()[1:] == [str(m) for m in range(1, 13)]
    assert sum(line.startswith("e01-hub") and len(line.split()) == 13 for line in lines) == 1
    assert "room to blind" in text and "sites that may host a class" in text and "largest gang" in text
    assert all(len(line) <= 112 for line in lines)


def test_edges_may_close_and_homes_may_not():
    rows = {row.site_id: row for row in verdict("songjiang-s").sites}
    kinds = {s.site_id: s.kind for s in base_scenario().fleet().sites}
    assert not any(rows[s].may_close for s, kind in kinds.items() if kind is SiteKind.CLOUD)
