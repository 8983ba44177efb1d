"""The report file: self-contained, complete without scripts, safe, the same for the same log."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from cluster_sim import report
from cluster_sim.report_data import chart_data
from cluster_sim.result import Comparison, DayStory, RunChecks, build_day_result
from tests.unit._synthetic_day import (
    CLASS_NAMES,
    pending_explanation,
    placed_explanation,
    synthetic_day,
    synthetic_latency,
    synthetic_marks,
)

MOST_BYTES = 4_000_000


@pytest.fixture(scope="module")
def story() -> DayStory:
    ours = build_day_result(
        *synthetic_day(), latency=synthetic_latency(), marks=synthetic_marks(), class_names=CLASS_NAMES
    )
    theirs = build_day_result(
        *synthetic_day(policy="least-loaded"), latency=synthetic_latency(), policy="least-loaded"
    )
    comparison = Comparison.of([("suanli", ours), ("least-loaded", theirs)])
    return DayStory(comparison, RunChecks(24), pending_explanation(), placed_explanation())


@pytest.fixture(scope="module")
def html(story) -> str:
    return report.render_report(story)


class Page(HTMLParser):
    """Ids, links and visible text; scripts and styles apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.resources: list[str] = []
        self.anchors: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self._silent = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self._silent = tag in ("script", "style")
        self.ids += [given["id"]] if "id" in given else []
        self.resources += [given[k] for k in ("src", "srcset", "data", "poster") if given.get(k)]
        if tag == "a":
            self.anchors.append(given["href"])
        if tag == "link":
            self.resources.append(given.get("href", ""))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"
        self._silent = False

    def handle_data(self, data):
        if not self._silent:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_the_file_asks_for_nothing(html):
    page = Page(html)
    assert page.resources == []
    assert "default-src 'none'" in html
    assert all(a.startswith("#") for a in page.anchors)
    ours = html.replace(report._asset("echarts.min.js"), "")
    assert re.findall(r"https?://\S+|@import|url\(|fetch\(|XMLHttpRequest", ours) == []


def test_the_page_is_well_formed_and_its_links_lead_somewhere(html):
    page = Page(html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {a.removeprefix("#") for a in page.anchors} <= set(page.ids)


def test_the_file_stays_small(html):
    assert len(html.encode()) < MOST_BYTES


def test_every_chart_that_the_script_draws_has_its_place(html):
    drawn = set(re.findall(r'draw\("(\w+)"', report._asset("report.js")))
    assert drawn
    assert drawn <= set(Page(html).ids)


def test_tables_say_everything_without_scripts(html, story):
    text = Page(html).text
    for site in story.comparison.ours.sites:
        assert site.name in text
        assert site.name_zh in text
    for said in (
        "大模型推理",
        "cloud–edge",
        "云边协同",
        "gang of 16 GPUs",
        "¥0.05 an hour dearer",
        "down 90 min",
        "least-loaded",
        "At 00:00 on 16 July: tenants/city/workloads/w12-waits",
        "At 00:00 on 16 July: tenants/city/workloads/w13-000",
    ):
        assert said in " ".join(text.split()), said


def test_the_card_and_the_table_name_one_ipue_of_all_sites(html, story):
    ipue = f"{story.comparison.ours.day.ipue:.3f}"
    text = " ".join(Page(html).text.split())
    assert f"{ipue} iPUE of all sites in the day" in text
    assert ipue in text[text.index("all sites ", text.index("Tightest cap first")) :][:60]


def test_plans_are_named_by_the_clock(html, story):
    text = " ".join(Page(html).text.split())
    table = text[text.index("Table: every plan") :]
    assert "plan of scope status" in table
    assert "00:00 fleet" in table and "23:00 fleet" in table
    assert not any(plan.plan_id in table for plan in story.comparison.ours.plans)


def test_every_blocking_reason_is_shown(html, story):
    text = Page(html).text
    assert all(reason.site_id in text for reason in story.pending.reasons)
    assert all(rule in text for rule in story.pending.conflict)


def test_a_failed_day_says_so_on_top(story):
    failed = replace(story, checks=RunChecks(24, ("capacity of e01-hub exceeded",)))
    assert "This day failed." in Page(report.render_report(failed)).text
    assert "capacity of e01-hub exceeded" in Page(report.render_report(failed)).text


def test_names_from_outside_cannot_become_markup(story):
    evil = "</script><script>alert(1)</script>"
    day = story.comparison.ours
    sites = tuple(s.model_copy(update={"display_name": evil}) for s in day.fleet.sites)
    fleet = day.fleet.model_copy(update={"sites": sites})
    spoiled = replace(
        day,
        fleet=fleet,
        sites=tuple(replace(s, name=evil) for s in day.sites),
        class_names={"W1": (evil, evil)},
    )
    html = report.render_report(replace(story, comparison=Comparison.of([("suanli", spoiled)])))
    assert "<script>alert" not in html
    assert Page(html).open == []


def test_chart_data_is_plain_json_without_nan(story):
    data = chart_data(story)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert len(data["power"]["at"]) == 96
    assert len(data["power"]["facility"]) == len(data["sites"]) == 10


def test_a_far_site_is_drawn_at_the_rim_with_its_distance(story):
    sites = {s["id"]: s for s in chart_data(story)["map"]["sites"]}
    assert sites["dc-lingang"]["far"] == pytest.approx(60, abs=3)
    assert abs(sites["dc-lingang"]["x"]) < 20
    assert sites["e01-hub"]["far"] is None


def test_the_map_draws_the_largest_flows_only(story):
    data = chart_data(story)["map"]["serves"]
    flows = story.comparison.ours.flows.zone_to_site
    counts = [n for *_, n in data]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) >= 0.8 * sum(n for *_, n in flows) > sum(counts[:-1])


def test_outages_and_what_the_scenario_broke_are_marked(story):
    assert {(m["site"], m["from"], m["until"], m["kind"]) for m in chart_data(story)["events"]} == {
        ("e01-hub", 9 * 60 + 40, 11 * 60 + 10, "down"),
        ("ai-core", 13 * 60, 17 * 60, "mark"),
    }


def test_the_same_story_gives_the_same_bytes(story, html):
    assert report.render_report(story) == html


def test_the_vendored_library_brings_its_licence():
    assert "Apache License" in report._asset("LICENSE.echarts")
    assert "Apache ECharts" in report._asset("NOTICE.echarts")
    assert "Licensed to the Apache Software Foundation" in report._asset("echarts.min.js")[:200]


# ---------------------------------------------------------------- command line


@pytest.fixture
def saved(tmp_path):
    events, fleet, _ = synthetic_day()
    log, fleet_file, latency = tmp_path / "events.jsonl", tmp_path / "fleet.json", tmp_path / "latency.json"
    log.write_text("".join(e.model_dump_json() + "\n" for e in events), encoding="utf-8")
    fleet_file.write_text(fleet.model_dump_json(), encoding="utf-8")
    latency.write_text(json.dumps(report.latency_to_json(synthetic_latency())), encoding="utf-8")
    return log, fleet_file, latency


def test_a_saved_log_becomes_a_report(saved, tmp_path, capsys):
    log, fleet, latency = map(str, saved)
    out = tmp_path / "deep" / "report.html"
    code = report.main(
        [log, "--fleet", fleet, "--latency", latency, "--against", f"copy={log}", "--out", str(out)]
    )
    assert code == 0
    assert capsys.readouterr().out.strip() == str(out)
    text = Page(out.read_text(encoding="utf-8")).text
    assert "115 workloads placed, 0 outside their latency" in text.replace(" ", " ")
    assert "the checker did not run" in text


def test_latency_survives_its_file():
    assert (
        report.latency_from_json(json.loads(json.dumps(report.latency_to_json(synthetic_latency()))))
        == synthetic_latency()
    )


@pytest.mark.parametrize("line", ["not json", '{"revision": 1}'])
def test_a_bad_line_is_named(saved, tmp_path, capsys, line):
    log = saved[0]
    log.write_text(log.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    assert report.main([str(log), "--out", str(tmp_path / "r.html")]) == 2
    assert f"events.jsonl:{len(synthetic_day()[0]) + 1}: not an event" in capsys.readouterr().err


def test_wrong_arguments_are_told(saved, tmp_path, capsys):
    assert report.main([str(tmp_path / "missing.jsonl")]) == 2
    assert report.main([str(saved[0]), "--against", "nonsense"]) == 2
    assert "NAME=EVENTS.jsonl" in capsys.readouterr().err


def test_what_a_replayed_list_does_not_have_is_left_out_with_its_link(story):
    day = story.comparison.ours
    bare = replace(
        day,
        fleet=day.fleet.model_copy(update={"zones": ()}),
        flows=replace(day.flows, zone_to_site=()),
        latency=replace(day.latency, classes=()),
    )
    page = Page(report.render_report(replace(story, comparison=Comparison.of([("suanli", bare)]))))
    assert {"map", "comparison", "latency"}.isdisjoint(page.ids)
    assert {"#city", "#against"}.isdisjoint(page.anchors)
    assert "Nothing that ran has a latency budget." in page.text


def test_the_report_says_of_an_outage_what_the_summary_says(story):
    (label,) = [m["label"] for m in chart_data(story)["events"] if m["kind"] == "down"]
    assert label == "power failure of the room; 10 replicas lost, all started again"


def test_an_outage_the_scenario_made_is_told_once(story):
    day = story.comparison.ours
    made = day.outages[0]
    mark = replace(day.marks[0], site_id=made.site_id, from_s=made.from_s, until_s=made.until_s)
    with_mark = replace(story, comparison=Comparison.of([("suanli", replace(day, marks=(mark,)))]))
    spans = [(e["site"], e["from"], e["until"]) for e in chart_data(with_mark)["events"]]
    assert len(spans) == len(set(spans))
