"""A day of twins whose shared state store loses its site: stages are placed anew, and the others do not notice.

`tiny-twin` in process under the product's strategy; the room that holds the city's store has no power for an hour.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster_sim.audit import audit_log
from cluster_sim.in_process import InProcessGateway
from cluster_sim.play import play_day
from cluster_sim.scenarios import loader
from cluster_sim.scenarios.loader import load_scenario
from cluster_sim.scenarios.schema import Scenario
from scheduler.planner.horizon import HorizonStrategy
from scheduler.workers import InlineSolverPool
from suanli.model import Event, EventKind

FAILED = "e03-iiot-e"
DOWN_S, UP_S = 90 * 60, 150 * 60
"""From the start of the day at noon: 13:30 to 14:30."""
OUTAGE = f'{{site: {FAILED}, from: "13:30", until: "14:30", cause: power feed fault}}'
BOUND_TO_THE_SITE = {"twin-factory-z6", "twin-park-z6"}
"""Their raw data may lie nowhere else among the sites of this scenario."""


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    text = (Path(loader.__file__).parent / "tiny-twin.yaml").read_text("utf-8")
    assert text.count("site_outages: []") == 1
    file = tmp_path_factory.mktemp("twins") / "outage.yaml"
    file.write_text(text.replace("site_outages: []", f"site_outages: [{OUTAGE}]"), "utf-8")
    return load_scenario(str(file))


@pytest.fixture(scope="module")
def log(scenario: Scenario) -> list[Event]:
    gateway = InProcessGateway(HorizonStrategy(), InlineSolverPool())
    return play_day(scenario, 42, "suanli", gateway, "local").log


def starts(log: list[Event], from_s: int) -> dict[str, tuple[int, str]]:
    """`{twin}/{stage}/{replica}` → (instant, site) of the first start order at or after an instant."""
    found: dict[str, tuple[int, str]] = {}
    for e in log:
        if e.kind is EventKind.REPLICA_START_ORDERED and e.at_s >= from_s:
            name = e.subject.partition("/workloads/")[2].partition("#")[0]
            found.setdefault(name, (e.at_s, e.body["command"]["site_id"]))
    return found


def test_only_what_lay_there_is_placed_anew(scenario: Scenario, log: list[Event]):
    before = starts(log, scenario.start_s)
    lost = {name for name, (_, site) in before.items() if site == FAILED}
    again = starts(log, scenario.start_s + DOWN_S)
    assert {"twin-city/sync/0", "twin-city/ingest/0"} < lost
    assert set(again) == lost
    assert not [e for e in log if e.kind is EventKind.REPLICA_STOP_ORDERED]


def test_twins_and_the_store_they_share_are_whole_again_at_once_unless_their_data_may_lie_nowhere_else(
    scenario: Scenario, log: list[Event]
):
    for name, (at_s, site) in starts(log, scenario.start_s + DOWN_S).items():
        if name.split("/")[0] in BOUND_TO_THE_SITE:
            assert (at_s, site) == (scenario.start_s + UP_S, FAILED), name
        else:
            assert at_s == scenario.start_s + DOWN_S and site != FAILED, name


def test_the_audit_finds_every_budget_residency_and_shared_stage_kept(scenario: Scenario, log: list[Event]):
    audit = audit_log(log, scenario.fleet())
    assert audit.checked_count > 1000 and audit.violations == ()
