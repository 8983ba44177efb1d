"""An operator revises the policy: caps, power limits and floors bind the next plan and the next round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scheduler.cycle import Cycle
from scheduler.domain.ledger import overdrawn_kwh, year_start_s
from scheduler.domain.limits import caps_in_force, limits_in_force
from scheduler.domain.outlook import CalendarOutlook
from scheduler.planner.compile import compile_problem
from scheduler.planner.feasibility import Views
from scheduler.planner.horizon import HorizonStrategy
from scheduler.planner.learn import nominal
from scheduler.planner.policy_warnings import best_ipue, policy_warnings
from scheduler.workers.pools import InlineSolverPool
from solvers.facility import ipue
from solvers.problem import PlacementProblem
from suanli.model import EventKind, InvalidRequest, NotFound, Policy, PueCap, SiteKind, SitePolicy
from suanli.model.errors import Conflict
from suanli.model.units import HOURS_PER_YEAR
from tests.builders import START_S, City, PlainScorer, a_fleet, a_site, a_workload, given
from tests.service_worlds import a_fleet as a_served_fleet
from tests.service_worlds import a_service, running, wait_until

HOUR_S = 3600
IDLE_KW, REPLICA_KW = 0.3, 8 * 5.0 * 0.5 / 1000
"""Of the nodes of `a_site` and of a replica of 8 cores at half load."""


def two_rooms() -> a_fleet:
    return a_fleet(a_site("e01").cpus(nodes=4, cores=8), a_site("e02").cpus(nodes=4, cores=8))


def planned_city(fleet: a_fleet) -> City:
    """A city that plans with the real solver."""
    city = given(fleet)
    city.cycle = Cycle(HorizonStrategy(), InlineSolverPool())
    return city


def revise(city: City, *sites: SitePolicy, **fields: Any) -> City:
    city.apply(city.cycle.revise_policy(city.state, city.now_s, Policy(sites=sites, **fields)))
    return city


def problem_of(city: City) -> PlacementProblem:
    assert city.state.topology is not None
    return compile_problem(city.state, Views(city.state.topology, city.state.shapes), city.now_s).problem


# ---------------------------------------------------------------------- which override wins


def test_the_most_special_target_wins_and_what_it_leaves_out_stays_as_it_was():
    site = a_site("e01").cpus().build()
    site = site.model_copy(update={"caps": PueCap(pue_cap_annual=1.6, annual_is_hard=True)})
    policy = Policy(
        sites=(
            SitePolicy(target="sites/e01", caps=PueCap(ipue_cap_hourly=1.8)),
            SitePolicy(
                target="class:edge", caps=PueCap(pue_cap_annual=1.4, ipue_cap_hourly=2.0), power_limit_kw=7
            ),
            SitePolicy(target="fleet", power_limit_kw=9, reserved_floor_frac=0.2),
            SitePolicy(target="class:cloud", power_limit_kw=1, reserved_floor_frac=0.9),
        )
    )
    limits = limits_in_force(site, policy)
    assert (limits.caps.pue_cap_annual, limits.caps.ipue_cap_hourly) == (1.4, 1.8)
    assert limits.caps.annual_is_hard is False, "the annual cap of the class brings its own hardness along"
    assert (limits.power_limit_kw, limits.reserved_floor_frac) == (7, 0.2)
    cloud = limits_in_force(site.model_copy(update={"kind": SiteKind.CLOUD}), policy)
    assert (cloud.power_limit_kw, cloud.reserved_floor_frac) == (1, 0.9)


def test_a_policy_cannot_loosen_the_limit_of_the_room():
    site = a_site("e01").cpus().power_limit_kw(5).build()
    policy = Policy(sites=(SitePolicy(target="fleet", power_limit_kw=50),))
    assert limits_in_force(site, policy).power_limit_kw == 5


def test_the_price_of_debt_is_the_overrides_then_the_policys_then_the_sites():
    own = a_site("e01").cpus().build().model_copy(update={"caps": PueCap(debt_price_yuan_per_kwh=8)})
    given_there = SitePolicy(target="sites/e01", caps=PueCap(debt_price_yuan_per_kwh=30))
    silent = SitePolicy(target="sites/e01", caps=PueCap(pue_cap_annual=1.5))
    for policy, price in (
        (Policy(), 8),
        (Policy(debt_price_yuan_per_kwh=20), 20),
        (Policy(debt_price_yuan_per_kwh=20, sites=(given_there,)), 30),
        (Policy(debt_price_yuan_per_kwh=20, sites=(silent,)), 20),
    ):
        assert caps_in_force(own, policy).debt_price_yuan_per_kwh == price


# ---------------------------------------------------------------------- the next round


def test_the_next_round_keeps_the_power_limit_of_the_policy():
    nodes_on_two = 2 * (IDLE_KW + REPLICA_KW)
    city = revise(
        given(two_rooms(), PlainScorer({"e01": 1, "e02": 2})),
        SitePolicy(target="sites/e01", power_limit_kw=nodes_on_two),
    )
    city.submits(a_workload("w").cpu(8).replicas(6)).when_planned()
    assert city.sites_of("w") == {"e01": 2, "e02": 4}


def test_a_revision_that_lifts_the_limit_lets_waiting_work_in():
    city = revise(
        given(a_fleet(a_site("e01").cpus(nodes=4, cores=8))),
        SitePolicy(target="class:edge", power_limit_kw=0.4),
    )
    city.submits(a_workload("w").cpu(8).replicas(3)).when_planned().expect("w", replicas=1)
    reasons = {r.code.value: r for r in city.explain("w").reasons}
    assert reasons["power_limit"].limit == 0.4
    assert "policy revision 1" in reasons["power_limit"].detail
    revise(city).when_planned().expect("w", replicas=3)


def test_the_next_round_keeps_the_floor_free_for_public_services():
    city = revise(
        given(a_fleet(a_site("e01").cpus(nodes=4, cores=8))),
        SitePolicy(target="fleet", reserved_floor_frac=0.5),
    )
    city.submits(a_workload("batch").cpu(4).replicas(8)).when_planned()
    city.expect("batch", replicas=4)
    assert "reserved_floor" in {r.code.value for r in city.explain("batch").reasons}
    city.submits(a_workload("lamps").cpu(4).replicas(4).priority("public_service")).when_planned()
    city.expect("lamps", replicas=4).expect("batch", replicas=4)


@pytest.mark.parametrize("floor", [0.1, 0.25, 0.3, 0.9])
@pytest.mark.parametrize("gang", [False, True])
def test_work_below_public_service_never_takes_more_than_the_floor_leaves(floor: float, gang: bool):
    city = revise(
        given(a_fleet(a_site("e01").gpus("l20", nodes=3), a_site("e02").cpus(nodes=5, cores=8))),
        SitePolicy(target="fleet", reserved_floor_frac=floor),
    )
    many = a_workload("cpu").cpu(1)
    city.submits(
        a_workload("gpu").cpu(1).gpus(l20=500).replicas(24),
        many.gang(9) if gang else many.replicas(40),
        a_workload("late").cpu(3).replicas(4),
    ).when_planned()
    state, topology = city.state, city.state.topology
    assert topology is not None and state.nodes is not None
    for group in range(len(topology.group_ids)):
        here = topology.node_group == group
        used = topology.node_capacity[here, 0].sum() - state.nodes.cpu_milli[here].sum()
        assert used <= (1 - floor) * topology.node_capacity[here, 0].sum() + 1e-6
    gpus = 12_000 - int(np.maximum(state.nodes.gpu_milli[:3], 0).sum())
    assert gpus == min(12_000, int((1 - floor) * 12_000) // 500 * 500)


# ---------------------------------------------------------------------- the next plan


def test_a_revision_calls_for_a_plan_at_once():
    city = planned_city(two_rooms()).submits(a_workload("w").cpu(8)).when_planned()
    assert not city.cycle.plan_due(city.state, city.now_s)
    revise(city, SitePolicy(target="fleet", power_limit_kw=0.5))
    assert city.cycle.plan_due(city.state, city.now_s)
    city.when_planned(after_s=1)
    assert not city.cycle.plan_due(city.state, city.now_s)
    plans = city.events(EventKind.PLAN_COMMITTED)
    assert [p.body["policy_revision"] for p in plans] == [0, 1]


def test_the_next_plan_keeps_the_power_limit_of_the_policy():
    work = a_workload("w").cpu(8).replicas(4).at("e01").priority("public_service")
    city = planned_city(two_rooms()).submits(work).when_planned()
    before = city.events(EventKind.PLAN_COMMITTED)[-1].body
    assert max(before["forecast_it_kw"]["e01"]) > 1.0
    revise(city, SitePolicy(target="sites/e01", power_limit_kw=0.7)).when_planned(after_s=1)
    after = city.events(EventKind.PLAN_COMMITTED)[-1].body
    assert max(after["forecast_it_kw"]["e01"]) <= 0.7 + 1e-6
    assert after["unplaced"], "what no longer fits under the limit is said to be unplaced"


def test_the_next_plan_keeps_an_hourly_cap_of_the_policy():
    city = planned_city(two_rooms()).submits(a_workload("w").cpu(8).replicas(2)).when_planned()
    assert np.isnan(problem_of(city).sites.ipue_cap_hourly).all()
    revise(city, SitePolicy(target="sites/e01", caps=PueCap(ipue_cap_hourly=1.02))).when_planned(after_s=1)
    assert problem_of(city).sites.ipue_cap_hourly[0] == 1.02
    plan = city.events(EventKind.PLAN_COMMITTED)[-1].body
    it_kw, facility_kw = plan["forecast_it_kw"], plan["forecast_facility_kw"]
    assert not any(plan["sites_on"]["e01"]), (
        "no load meets a cap below the plant's marginal ratio, so the room closes"
    )
    assert it_kw["e01"] == [0.0] * len(it_kw["e01"]) and max(facility_kw["e02"]) > 0


def test_a_cap_that_a_plan_cannot_keep_is_counted_where_the_room_may_not_close():
    room = a_site("e01").cpus(nodes=4, cores=8)
    room.home_for = ("w",)
    city = planned_city(a_fleet(room)).submits(a_workload("w").cpu(8).replicas(2)).when_planned()
    assert city.events(EventKind.PLAN_COMMITTED)[-1].body["cap_exceeded_count"] == 0
    cap = 1.02
    revise(city, SitePolicy(target="sites/e01", caps=PueCap(ipue_cap_hourly=cap))).when_planned(after_s=1)
    plan = city.events(EventKind.PLAN_COMMITTED)[-1].body
    it_kw, facility_kw = (np.array(plan[f"forecast_{which}_kw"]["e01"]) for which in ("it", "facility"))
    excess_kw = np.where(plan["sites_on"]["e01"], facility_kw - cap * it_kw, 0.0)
    assert plan["cap_exceeded_count"] == (excess_kw > 0).sum() > 0
    hours = problem_of(city).slots.hours
    assert plan["cap_excess_kwh"] == pytest.approx((excess_kw * hours).sum(), abs=0.01)


def test_the_next_plan_counts_an_annual_cap_of_the_policy():
    city = planned_city(two_rooms()).submits(a_workload("w").cpu(8)).when_planned()
    assert city.events(EventKind.PLAN_COMMITTED)[-1].body["ledger"] == []
    cap = PueCap(pue_cap_annual=1.45, annual_is_hard=True, debt_price_yuan_per_kwh=9)
    revise(city, SitePolicy(target="class:edge", caps=cap)).when_planned(after_s=1)
    sites = problem_of(city).sites
    assert list(sites.pue_cap_annual) == [1.45, 1.45] and sites.annual_is_hard.all()
    assert list(sites.debt_yuan_per_kwh) == [9, 9] and (sites.ledger_beta_kwh != 0).all()
    ledger = city.events(EventKind.PLAN_COMMITTED)[-1].body["ledger"]
    assert {b["site_id"]: b["pue_cap_annual"] for b in ledger} == {"e01": 1.45, "e02": 1.45}


@pytest.mark.parametrize(("too_much_kwh", "pace"), [(500.0, 24 / 20), (-500.0, 1.0)])
def test_a_plan_repays_by_midnight_what_was_overdrawn_and_spends_what_was_saved(
    too_much_kwh: float, pace: float
):
    """At 04:00 twenty hours are left: 24 hours of plan repay 24/20 of it; the rule takes its yearly share too."""
    city = revise(planned_city(two_rooms()), SitePolicy(target="sites/e01", caps=PueCap(pue_cap_annual=1.45)))
    city.now_s += 4 * HOUR_S
    city.when_planned()
    assert city.state.topology is not None
    room = city.state.topology.sites[0]
    before_kwh = problem_of(city).sites.ledger_beta_kwh[0]
    since_s = city.now_s - HOUR_S
    given_kwh = -overdrawn_kwh(room, 0.0, 0.0, since_s, city.now_s)
    used_kwh = given_kwh + too_much_kwh
    meter = {"from_s": since_s, "it_energy_kwh": 0.0, "useful_it_energy_kwh": 0.0}
    city.state.energy["e01"].add(meter | {"facility_energy_kwh": used_kwh})
    after_kwh = problem_of(city).sites.ledger_beta_kwh[0]
    hours_left = HOURS_PER_YEAR - (city.now_s - year_start_s(city.now_s)) / HOUR_S
    assert before_kwh - after_kwh == pytest.approx(too_much_kwh * pace + used_kwh * 24 / hours_left)


def test_the_next_plan_keeps_the_floor_of_the_policy():
    batch = a_workload("w").cpu(8).replicas(4).priority("interactive").at("e01")
    city = planned_city(two_rooms()).submits(batch)
    revise(city, SitePolicy(target="sites/e01", reserved_floor_frac=0.5))
    assert list(problem_of(city).sites.reserved_floor_frac) == [0.5, 0.0]
    city.when_planned(after_s=1).expect("w", replicas=2)
    (unplaced,) = city.events(EventKind.PLAN_COMMITTED)[-1].body["unplaced"].values()
    assert unplaced >= 2


def test_weights_of_the_policy_reach_the_plan():
    city = revise(
        planned_city(two_rooms()).submits(a_workload("w").cpu(1)),
        migration_yuan_per_gpu=7, carbon_price_yuan_per_kg=0.3,
        debt_price_yuan_per_kwh=11, edge_portfolio_cap_annual=1.5,
        horizon_hours=6,
    )  # fmt: skip
    problem = problem_of(city)
    assert problem.terms.carbon_yuan_per_kg == 0.3 and problem.terms.portfolio_pue_cap_annual == 1.5
    assert list(problem.sites.debt_yuan_per_kwh) == [11, 11]
    assert problem.slots.hours.sum() == pytest.approx(6)
    assert problem.policy_revision == 1


# ---------------------------------------------------------------------- the log


def test_a_restart_keeps_the_limits_in_force_and_a_new_fleet_meets_them_too():
    city = revise(
        given(two_rooms()), SitePolicy(target="fleet", power_limit_kw=0.5, reserved_floor_frac=0.25)
    )
    assert city.replayed().digest() == city.state.digest()
    assert city.replayed().topology.power_limit_w.tolist() == [500, 500]  # type: ignore[union-attr]
    more = a_fleet(*(a_site(s).cpus(nodes=4, cores=8) for s in ("e01", "e02", "e03"))).build()
    city.apply(city.cycle.register_fleet(city.state, START_S, more))
    assert city.state.topology is not None
    assert city.state.topology.power_limit_w.tolist() == [500, 500, 500]
    assert city.state.topology.own_power_limit_w.tolist() == [1e6, 1e6, 1e6]


# ---------------------------------------------------------------------- what the operator sees


def test_sites_show_what_is_in_force_beside_what_was_registered():
    with running(a_service(), a_served_fleet()) as service:
        caps = PueCap(pue_cap_annual=1.5)
        override = SitePolicy(target="sites/edge", caps=caps, power_limit_kw=3, reserved_floor_frac=0.1)
        service.policies.revise(Policy(sites=(override,))).result(10)
        record = service.fleet.site("edge")
        assert (record.site.caps.pue_cap_annual, record.site.power_limit_kw) == (None, 500)
        status = record.status
        assert status.caps is not None and status.caps.pue_cap_annual == 1.5
        assert (status.power_limit_kw, status.reserved_floor_frac, status.policy_revision) == (3, 0.1, 1)
        assert status.ledger is not None and status.ledger.pue_cap_annual == 1.5
        assert service.fleet.get().fleet.site("edge").power_limit_kw == 500


@pytest.mark.parametrize("validate_only", [False, True])
def test_an_override_that_could_never_bind_is_refused_with_the_nearest_target(validate_only: bool):
    with running(a_service(), a_served_fleet()) as service:
        policy = Policy(
            sites=(
                SitePolicy(target="sites/edgy", power_limit_kw=3),
                SitePolicy(target="fleet", power_limit_kw=900),
                SitePolicy(target="fleet", reserved_floor_frac=0.1),
                SitePolicy(target="sites/edge", power_limit_kw=501),
            )
        )
        with pytest.raises(InvalidRequest) as caught:
            service.policies.revise(policy, validate_only=validate_only).result(10)
        found = {p.field: (p.code, p.nearest) for p in caught.value.problems}
        assert found == {
            "policy_revision.sites[0].target": ("unknown_site", "sites/edge"),
            "policy_revision.sites[2].target": ("duplicate_target", ""),
            "policy_revision.sites[3].power_limit_kw": ("above_own_limit", "500"),
        }
        assert service.policies.current().revision == 0
        with pytest.raises(Conflict):
            service.policies.revise(Policy(), etag="7").result(10)


@pytest.mark.parametrize("validate_only", [False, True])
def test_a_cap_that_no_load_can_meet_is_set_with_a_warning_that_names_the_nearest(validate_only: bool):
    with running(a_service(), a_served_fleet()) as service:
        capped = SitePolicy(target="sites/edge", caps=PueCap(ipue_cap_hourly=1.01))
        policy = Policy(sites=(capped, SitePolicy(target="fleet", reserved_floor_frac=1)))
        answer = service.policies.revise(policy, validate_only=validate_only).result(10)
        assert answer.revision == 1
        cap, floor = answer.warnings
        assert (cap.field, cap.code) == ("policy_revision.sites[0].caps.ipue_cap_hourly", "cap_out_of_reach")
        assert "edge in 24 of the next 24 hours" in cap.problem
        assert (floor.field, floor.code) == (
            "policy_revision.sites[1].reserved_floor_frac",
            "floor_leaves_nothing",
        )
        assert service.policies.current().warnings == ()
        held = SitePolicy(target="sites/edge", caps=PueCap(ipue_cap_hourly=float(cap.nearest)))
        assert service.policies.revise(Policy(sites=(held,)), validate_only=True).result(10).warnings == ()


@pytest.mark.parametrize("limit_kw", [None, 1.0, 0.2])
def test_the_best_ipue_is_that_of_the_best_of_all_loads(limit_kw: float | None):
    city = planned_city(two_rooms())
    sites = () if limit_kw is None else (SitePolicy(target="fleet", power_limit_kw=limit_kw),)
    best = best_ipue(Policy(sites=sites, horizon_hours=5), city.state, city.now_s)
    topology = city.state.topology
    assert topology is not None
    outlook = CalendarOutlook(topology)
    for i, site in enumerate(topology.sites):
        machines_kw = sum(g.node_count * g.max_w for g in site.groups) / 1000
        loads_kw = np.linspace(1e-3, min(machines_kw, limit_kw or site.power_limit_kw), 20_001)
        for hour in range(5):
            at_s = city.now_s + hour * HOUR_S + HOUR_S // 2
            plant = nominal(site, outlook.dry_bulb_c(at_s), outlook.wet_bulb_c(at_s))
            assert best[i, hour] == pytest.approx(ipue(plant, site.rated_it_kw, loads_kw).min(), rel=1e-6)


def test_a_cap_of_a_class_is_judged_only_where_no_more_special_one_stands():
    city = planned_city(two_rooms())
    wide = SitePolicy(target="class:edge", caps=PueCap(ipue_cap_hourly=1.0))
    warned = policy_warnings(Policy(sites=(wide,)), city.state, city.now_s)
    assert [("e01" in w.problem, "e02" in w.problem) for w in warned] == [(True, True)]
    own = SitePolicy(target="sites/e01", caps=PueCap(ipue_cap_hourly=5.0))
    warned = policy_warnings(Policy(sites=(own, wide)), city.state, city.now_s)
    of_class = [w.problem for w in warned if w.field == "sites[1].caps.ipue_cap_hourly"]
    assert [("e01" in problem, "e02" in problem) for problem in of_class] == [(False, True)]


@pytest.mark.parametrize("validate_only", [False, True])
def test_a_fleet_whose_tariff_lacks_a_month_is_not_registered(validate_only: bool):
    fleet = a_served_fleet()
    july = fleet.tariffs[0].model_copy(update={"price_yuan_per_kwh_by_month": {7: (0.5,) * 24}})
    with running(a_service()) as service:
        with pytest.raises(InvalidRequest) as caught:
            service.fleet.register(
                fleet.model_copy(update={"tariffs": (july,)}), validate_only=validate_only
            ).result(10)
        (problem,) = caught.value.problems
        assert problem.field == "fleet.tariffs[0].price_yuan_per_kwh_by_month"
        with pytest.raises(NotFound):
            service.fleet.get()


def test_a_site_shows_the_highest_round_trip_of_what_lies_there():
    fleet = a_fleet(a_site("e01").cpus().rtt(3), a_site("e02").cpus()).build()
    with running(a_service(), fleet) as service:
        assert service.fleet.site("e01").status.rtt_p99_ms is None
        works = [
            a_workload("near").at("e01").within(20.0).build(),
            a_workload("mobile").at("e01").within(20.0, access="5g").build(),
            a_workload("alone").at("e02").build(),
        ]
        service.workloads.batch_create(works).result(10)
        wait_until(lambda: service.fleet.site("e02").status.placed_replica_count == 1)
        wait_until(lambda: service.fleet.site("e01").status.placed_replica_count == 2)
        assert service.fleet.site("e01").status.rtt_p99_ms == 8.0 + 3.0
        assert service.fleet.site("e02").status.rtt_p99_ms is None, "nothing there talks to a zone"
