"""Scenario files: sources beside numbers, all problems in one answer, scales that keep their meaning."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster_sim.scenarios import (
    ScenarioError,
    load_scenario,
    scenario_from_raw,
    shipped_files,
    shipped_scenarios,
)
from cluster_sim.scenarios.fleet import all_idle_load_frac, coefficient_error_frac, half_up, node_counts
from cluster_sim.scenarios.loader import _read_extended
from suanli.model import SiteKind

BASE = load_scenario("songjiang-base")


def raw_file(name: str) -> dict[str, Any]:
    text = (resources.files("cluster_sim.scenarios") / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def merged_base() -> dict[str, Any]:
    from pathlib import Path

    return copy.deepcopy(_read_extended("songjiang-base", Path.cwd(), ()))


def unsourced_numbers(tree: Any, path: tuple[str, ...] = (), sourced: bool = False) -> Iterator[str]:
    """Paths of numbers without a `source` in their record or a table around it (the root is no table)."""
    if isinstance(tree, dict):
        sourced = sourced or (bool(path) and "source" in tree)
        for key, value in tree.items():
            yield from unsourced_numbers(value, (*path, str(key)), sourced)
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from unsourced_numbers(value, (*path, str(i)), sourced)
    elif isinstance(tree, int | float) and not isinstance(tree, bool) and not sourced:
        yield ".".join(path)


# ---------------------------------------------------------------- shipped files
@pytest.mark.parametrize("name", shipped_files())
def test_every_shipped_scenario_loads_and_gives_a_fleet(name):
    scenario = load_scenario(name)
    assert scenario.scenario_id == name
    assert len(scenario.fleet().sites) == len(scenario.sites.rows)


# teaching scenarios say their machines in one line without a source of its own: they are made up by name
@pytest.mark.parametrize("name", [n for n in shipped_files() if not n.startswith("tiny")])
def test_every_number_has_a_source_beside_it(name):
    assert list(unsourced_numbers(raw_file(name))) == []


def test_a_base_is_there_to_be_extended_and_not_offered_for_playing():
    assert set(shipped_files()) - set(shipped_scenarios()) == {"songjiang-base"}
    with pytest.raises(ScenarioError) as caught:
        load_scenario("songjang-s")
    assert "songjiang-base" not in caught.value.problems[0].expected


def test_the_source_check_sees_a_number_without_one():
    assert list(unsourced_numbers({"a": {"b": 1}, "c": {"source": "x", "d": [2]}})) == ["a.b"]


@pytest.mark.parametrize("name", ["tiny-cloud-edge", "tiny-twin"])
def test_teaching_scenarios_are_about_ten_lines(name):
    text = (resources.files("cluster_sim.scenarios") / f"{name}.yaml").read_text(encoding="utf-8")
    assert len(text.strip().splitlines()) <= 12


# ---------------------------------------------------------------- the city
def test_the_full_city_has_its_published_totals():
    groups = [(s, g) for s in BASE.fleet().sites for g in s.groups]
    assert sum(g.node_count for _, g in groups) == 4902
    assert sum(g.node_count * g.gpu_count for _, g in groups) == 10_140
    assert sum(g.node_count * g.gpu_count for s, g in groups if s.kind is SiteKind.EDGE) == 668
    max_mw = sum(g.node_count * g.max_w for _, g in groups) / 1e6
    idle_mw = sum(g.node_count * g.idle_w for _, g in groups) / 1e6
    assert max_mw == pytest.approx(9.7, abs=0.05)
    assert idle_mw == pytest.approx(2.7, abs=0.05)
    zones = BASE.zones.rows.values()
    assert sum(z.population_k for z in zones) == 950
    assert sum(z.intersections for z in zones) == 60
    assert (sum(z.feeds for z in zones), sum(z.cameras for z in zones)) == (300, 2000)
    assert (sum(z.sensors_k for z in zones), sum(z.lines for z in zones)) == (200, 60)


def test_homes_stay_open_and_the_failing_hub_is_nobodys():
    fleet = BASE.fleet()
    homes = {s.site_id for s in fleet.sites if s.kind is SiteKind.EDGE and not s.may_close}
    assert homes == {"e02-jkq", "e03-iiot-e", "e04-iiot-w", "e05-med"}
    assert fleet.site("e01-hub").may_close


def test_names_show_in_both_languages():
    for site in BASE.fleet().sites:
        assert site.display_name and any("\u4e00" <= c <= "\u9fff" for c in site.display_name_zh)
    for name in BASE.class_names().values():
        assert name.en and any("\u4e00" <= c <= "\u9fff" for c in name.zh)


def test_the_day_is_a_wednesday_in_july_in_shanghai():
    assert BASE.day.start.isoweekday() == 3
    assert (BASE.month, BASE.utc_offset_s) == (7, 8 * 3600)
    assert BASE.local_hour(BASE.start_s) == 0
    assert BASE.clock_s("09:40") - BASE.start_s == (9 * 60 + 40) * 60


def test_max_power_of_a_node_is_idle_plus_all_devices_and_cores_busy():
    for site in BASE.fleet().sites:
        for g in site.groups:
            full_w = g.idle_w + g.gpu_count * g.gpu_dynamic_w + g.cpu_milli / 1000 * g.core_dynamic_w
            assert full_w == pytest.approx(g.max_w)


# ---------------------------------------------------------------- scales
def test_rounding_is_to_the_nearest_halves_up_and_at_least_one():
    assert [half_up(x) for x in (2.49, 2.5, 3.5)] == [2, 3, 4]
    small = load_scenario("songjiang-s")
    assert node_counts(small, "ai-core") == {
        "h800x8": 8,
        "h20x8": 8,
        "a910bx8": 4,
        "l40sx8": 2,
        "l20x8": 2,
        "cpu_std": 16,
    }
    assert node_counts(small, "e01-hub") == {"l20x4": 3, "cpu_edge": 2}
    assert node_counts(small, "dc-old") == {"v100x8": 1, "cpu_old": 19}


def test_a_small_site_idles_at_the_load_of_the_full_one():
    small = load_scenario("songjiang-s")
    for site_id in BASE.sites.rows:
        assert all_idle_load_frac(small, site_id) == pytest.approx(
            all_idle_load_frac(BASE, site_id), abs=0.03
        )


def test_uplinks_shrink_with_their_site_and_the_core_does_not():
    full = {link.link_id: link.capacity_gbps for link in BASE.fleet().network.links}
    small = {link.link_id: link.capacity_gbps for link in load_scenario("songjiang-s").fleet().network.links}
    assert full["e06-agg"] / small["e06-agg"] == 4
    assert full["core-ai"] / small["core-ai"] == 32
    assert full["agg-w-core"] == small["agg-w-core"]


def test_the_planner_is_told_coefficients_that_are_off_by_the_stated_error():
    told, exact = BASE.fleet(), BASE.fleet(exact=True)
    signs = set()
    for a, b in zip(told.sites, exact.sites, strict=True):
        error = coefficient_error_frac(BASE, a.site_id)
        assert a.facility.cooling_fixed == pytest.approx(b.facility.cooling_fixed * (1 + error))
        assert a.model_copy(update={"facility": b.facility}) == b
        signs.add(error)
    assert signs == {0.15, -0.15}


def test_ledgers_open_near_their_cap_and_scale_with_the_site():
    for name in ("songjiang-s", "songjiang-m"):
        for site in load_scenario(name).fleet().sites:
            opening, cap = site.ledger_opening, site.caps.pue_cap_annual
            if cap is None:
                assert opening.it_energy_kwh == 0
                continue
            assert opening.it_energy_kwh == pytest.approx(
                site.caps.reference_load_frac * site.rated_it_kw * 4680, rel=1e-6
            )
            assert opening.facility_energy_kwh / opening.it_energy_kwh < cap
            assert opening.derivation


# ---------------------------------------------------------------- wrong files
def test_all_problems_come_in_one_answer_with_their_fields():
    raw = merged_base()
    raw["sites"]["rows"]["ai-core"]["plant"] = "ai_hypr"
    raw["zones"]["rows"]["z1"]["access"] = {"5g_embb": 0.7}
    raw["day"]["hours"] = -3
    raw["weather"]["colour"] = "blue"
    raw["classes"]["rows"]["W1"]["gpu_models"] = ["l20", "b200"]
    with pytest.raises(ScenarioError) as caught:
        scenario_from_raw(raw)
    by_field = {p.field: p for p in caught.value.problems}
    assert {"sites.rows.ai-core.plant", "zones.rows.z1.access", "day.hours", "weather.colour"} <= set(
        by_field
    )
    assert "classes.rows.W1.gpu_models" in by_field
    assert by_field["sites.rows.ai-core.plant"].nearest == "ai_hyper"
    assert "sums to 0.7" in by_field["zones.rows.z1.access"].problem


def test_a_source_must_say_what_kind_of_number_it_is():
    raw = merged_base()
    raw["carbon"]["source"] = "found somewhere"
    with pytest.raises(ScenarioError, match=r"carbon\.source.*starts with one of"):
        scenario_from_raw(raw)


def test_an_unknown_name_gets_the_nearest_known_one():
    with pytest.raises(ScenarioError) as caught:
        load_scenario("songjang-s")
    assert caught.value.problems[0].nearest == "songjiang-s"


def test_files_may_extend_shipped_scenarios_and_circles_are_refused(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "extends: songjiang-s\nscenario_id: mine\nfailures: {replica_mtbf_hours: 10}\n", encoding="utf-8"
    )
    assert load_scenario(mine).failures.replica_mtbf_hours == 10
    mine.write_text(f"extends: {mine}\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match="circle"):
        load_scenario(mine)
    mine.write_text("a: [1", encoding="utf-8")
    with pytest.raises(ScenarioError, match="not YAML"):
        load_scenario(mine)


def test_keeping_what_does_not_exist_is_a_problem():
    raw = merged_base() | {"keep": {"sites": ["ai-core", "moon"], "planets": []}}
    with pytest.raises(ScenarioError) as caught:
        scenario_from_raw(raw)
    assert {"keep.sites", "keep.planets"} <= {p.field for p in caught.value.problems}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xfe\x00", "is not UTF-8 at byte 0"),
        (b"a: " + b"[" * 5000 + b"]" * 5000, ":1: is nested too deeply"),
        (b"extends: tiny-twin\nscenario_id: x\nscenario_id: y\n", ":3: scenario_id: is given twice"),
        (b"a: [1\n", "is not YAML"),
        (b"", "a scenario is a mapping"),
        (b"extends: tiny-twin\ncolour: red\n", "colour: is not a field"),
    ],
)
def test_a_file_that_is_no_scenario_is_told_in_one_sentence(tmp_path: Path, content: bytes, told: str):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(ScenarioError) as refused:
        load_scenario(file)
    assert told in str(refused.value)


def test_every_problem_of_a_file_stands_at_its_file_and_line_with_the_nearest_name(tmp_path: Path):
    mine, base = tmp_path / "mine.yaml", tmp_path / "base.yaml"
    mine.write_text(
        "extends: base.yaml\n"
        "day:\n"
        "  hours: many\n"
        "  strt: 4\n"
        "sites:\n"
        "  rows:\n"
        "    ai-core:\n"
        "      plant: watr\n",
        encoding="utf-8",
    )
    base.write_text("extends: tiny-cloud-edge\n\nweather: 3\n", encoding="utf-8")
    with pytest.raises(ScenarioError) as refused:
        load_scenario(mine)
    told = {p.field: p for p in refused.value.problems}
    assert list(told) == [
        f"{mine}:3: day.hours",
        f"{mine}:4: day.strt",
        f"{mine}:8: sites.rows.ai-core.plant",
        "base.yaml:3: weather",
    ]
    assert told[f"{mine}:4: day.strt"].nearest == "start"
    assert told[f"{mine}:8: sites.rows.ai-core.plant"].nearest


def test_a_file_that_extends_nothing_is_told_once_what_it_lacks_and_what_it_may_extend(tmp_path: Path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("scenario_id: mine\nsites: 3\n", encoding="utf-8")
    with pytest.raises(ScenarioError) as refused:
        load_scenario(mine)
    lacking, sites = refused.value.problems
    assert lacking.field == f"{mine}:1: extends"
    assert "title, day, scale" in lacking.problem
    assert "songjiang-s" in lacking.expected
    assert str(sites) == f"{mine}:2: sites: 3 does not fit; expected a mapping of fields"
