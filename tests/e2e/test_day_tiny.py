"""A teaching city for a day: the same log on both engines, nothing for the audit, and a stopped site is noticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster_sim.audit import audit_log
from cluster_sim.baselines import strategy_of
from cluster_sim.day import day_of
from cluster_sim.driver import Driver
from cluster_sim.engines.local import LocalEngine
from cluster_sim.in_process import InProcessGateway
from cluster_sim.play import ENGINES, play_day
from cluster_sim.scenarios import load_scenario
from scheduler.workers import InlineSolverPool
from suanli.model import EventKind

SCENARIOS = ("tiny-cloud-edge", "tiny-twin")
SEED = 42


def played(scenario_name: str, engine: str, policy: str = "suanli") -> InProcessGateway:
    gateway = InProcessGateway(strategy_of(policy), InlineSolverPool())
    play_day(load_scenario(scenario_name), SEED, policy, gateway, engine)
    return gateway


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_teaching_day_passes_the_audit_and_makes_plans(name: str) -> None:
    gateway = played(name, "local")
    result = audit_log(gateway.log, load_scenario(name).fleet())
    assert result.checked_count > 0
    assert result.violations == ()
    plans = [e for e in gateway.log if e.kind is EventKind.PLAN_COMMITTED]
    assert plans
    assert not [e for e in gateway.log if e.kind is EventKind.SOLVER_CUT_OFF]


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(300)
def test_ray_and_local_engine_write_the_same_log_byte_for_byte(tmp_path: Path) -> None:
    """Through the command line, so that Ray lives and ends with its own process."""
    for engine in ENGINES:
        command = [sys.executable, "-m", "suanli.cli.main", "simulate", "tiny-cloud-edge", "--quiet"]
        subprocess.run(
            [*command, "--engine", engine, "--out", str(tmp_path / engine)], check=True, cwd=tmp_path
        )
    logs = [(tmp_path / engine / "suanli.jsonl").read_bytes() for engine in ENGINES]
    assert logs[0] == logs[1]
    assert logs[0].count(b"replica.running") > 0


def test_a_site_whose_engine_is_stopped_by_hand_makes_no_more_energy() -> None:
    """Every kWh of the table comes from the sites' own engines."""
    scenario = load_scenario("tiny-cloud-edge")
    day, submitted = day_of(scenario, SEED)
    engine = LocalEngine(scenario, SEED, submitted.fates)
    stopped = day.fleet.sites[0].site_id
    engine.stop_site(stopped)
    gateway = InProcessGateway(strategy_of("least-loaded"), InlineSolverPool())
    Driver(gateway, engine, day).play()
    energy = {s.site_id: 0.0 for s in day.fleet.sites}
    for event in gateway.log:
        if event.kind is EventKind.SITE_METERED:
            for meter in event.body["meters"]:
                energy[meter["site_id"]] += meter["it_energy_kwh"]
    assert energy[stopped] == 0.0
    assert all(kwh > 0 for site, kwh in energy.items() if site != stopped)
