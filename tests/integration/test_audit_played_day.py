"""The second audit over a day that was really played: it finds nothing, and it misses nothing that is taken away.

Half a day of `songjiang-s` under the least-loaded baseline, in process and on the local engine: gangs, twins that share
a store, spreads, GPU shares, tenants who cancel, and the outage of e01-hub from 09:40 to 11:10.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cluster_sim.audit import RULES, audit_file, audit_log
from cluster_sim.audit_facts import Facts
from cluster_sim.baselines import strategy_of
from cluster_sim.day import day_of
from cluster_sim.driver import Driver
from cluster_sim.engines.local import LocalEngine
from cluster_sim.in_process import InProcessGateway
from cluster_sim.scenarios.loader import load_scenario
from suanli.model import Event, EventKind, Fleet
from suanli.model.units import SECONDS_PER_HOUR

SEED = 42
HOURS = 12
SAMPLE_COUNT = 24
MAY_BE_IDLE = {
    "move_stops_the_old",
    "move_is_told_truly",
    "plan_has_no_violations",
    "plan_gap_is_true",
    "ledger_opens_with_the_meters",
    "ledger_adds_up",
    "preemption_is_lawful",
    "pause_is_lawful",
}
"""A baseline makes neither plans nor moves, and half a day may pass without preemption or pause.

tests/unit/test_audit_rules.py shows these rules at work.
"""


class NoSolver:
    """A baseline asks for no plan."""

    def solve_plan(self, problem, wall_limit_s):
        raise AssertionError("a baseline asked for a plan")

    def close(self):
        """Nothing is held."""


@pytest.fixture(scope="module")
def played() -> tuple[list[Event], Fleet]:
    scenario = load_scenario("songjiang-s")
    day, arrivals = day_of(scenario, SEED)
    until_s = scenario.start_s + HOURS * SECONDS_PER_HOUR
    day = dataclasses.replace(day, day_end_s=until_s, drain_until_s=until_s)
    gateway = InProcessGateway(strategy_of("least-loaded"), NoSolver())
    engine = LocalEngine(scenario, SEED, arrivals.fates)
    try:
        Driver(gateway, engine, day).play()
    finally:
        engine.close()
    return gateway.log, scenario.fleet()


def test_the_played_day_breaks_no_rule(played):
    events, fleet = played
    result = audit_log(events, fleet)
    assert result.violations == ()
    assert result.checked_count > 3 * len(events)


def test_no_rule_is_idle_on_it(played):
    facts = Facts.of(*played)
    idle = {rule.__name__ for rule in RULES if rule(facts).checked_count == 0}
    assert idle <= MAY_BE_IDLE


def test_the_saved_log_is_judged_alike(played, tmp_path):
    events, fleet = played
    path = tmp_path / "day.jsonl"
    path.write_text("".join(e.model_dump_json() + "\n" for e in events), encoding="utf-8")
    assert audit_file(path) == audit_log(events, fleet)


@pytest.mark.parametrize("kind", [EventKind.REPLICA_START_ORDERED, EventKind.REPLICA_ENDED])
def test_a_lost_order_or_end_is_missed(played, kind):
    """Take one event of the kind out of the log, again and again: the audit always notices."""
    events, fleet = played
    of_kind = [i for i, e in enumerate(events) if e.kind is kind]
    chosen = np.random.default_rng(SEED).choice(of_kind, SAMPLE_COUNT // 2, replace=False)
    for i in chosen.tolist():
        assert audit_log([*events[:i], *events[i + 1 :]], fleet).violations, events[i].subject


def test_an_order_given_twice_is_noticed(played):
    events, fleet = played
    orders = [i for i, e in enumerate(events) if e.kind is EventKind.REPLICA_START_ORDERED]
    i = orders[len(orders) // 2]
    violations = audit_log([*events[: i + 1], *events[i:]], fleet).violations
    assert any("breaks placement_is_ordered_once" in v for v in violations)


def test_a_replica_put_on_a_full_node_is_noticed(played):
    """The busiest node of the day takes one replica more than it had room for."""
    events, fleet = played
    facts = Facts.of(events, fleet)
    rows = facts.orders.sound[facts.orders.at_s[facts.orders.sound] == events[0].at_s]
    cpu_milli = np.array([s.cpu_milli for _, s in facts.work.specs])[facts.orders.spec[rows]]
    used = np.bincount(facts.orders.node[rows], cpu_milli, minlength=facts.hosts.node_count)
    installed = np.array([g.cpu_milli for _, g in facts.hosts.groups])[facts.hosts.node_group]
    full = int((used / installed).argmax())
    group = int(facts.hosts.node_group[full])
    beside = rows[(facts.orders.group[rows] == group) & (facts.orders.node[rows] != full)]
    moved_in = int(beside[cpu_milli[np.isin(rows, beside)].argmax()])
    event = facts.orders.events[moved_in]
    command = {
        **event.body["command"],
        "node_index": full - int(facts.hosts.first_node[group]),
    }
    changed = event.model_copy(update={"body": {**event.body, "command": command}})
    violations = audit_log([changed if e is event else e for e in events], fleet).violations
    assert any("breaks node_has_room" in v or "breaks gpu_device" in v for v in violations)
