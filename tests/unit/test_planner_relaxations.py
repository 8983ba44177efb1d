"""Changes that would help: each is the smallest, and a workload submitted with it starts where the answer says.

Every relaxation is judged by doing it: the same city, the same other work, the workload as the answer proposes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from scheduler.cycle import Cycle
from scheduler.domain.outlook import CalendarOutlook
from scheduler.planner.horizon import HorizonStrategy
from scheduler.planner.learn import nominal
from scheduler.workers.pools import InlineSolverPool
from solvers.facility import facility_power_kw
from suanli.model import NotFound, Policy, PueCap, ReasonCode, Relaxation, ReplicaPhase, SitePolicy
from tests.builders import START_S, City, PlainScorer, a_fleet, a_site, a_twin, a_workload, given, name_of

HOUR_S = 3600


def relaxations(city: City, name: str = "w") -> dict[str, Relaxation]:
    return {r.field: r for r in city.explain(name).relaxations}


def starts(city: City, work: a_workload) -> bool:
    """Whether the work, submitted to this city, is placed whole in the next round."""
    if city.cycle.admit(city.state, [work.build()])[0]:
        return False
    city.submits(work).when_planned()
    return sum(city.sites_of(work.name).values()) == sum(s.get("replicas", 1) for s in work.stages)


# ---------------------------------------------------------------------- the submitter's own rules


def busy_near_site() -> City:
    """Users reach e01 in 1 ms, dc in 21 ms; e01 is full."""
    city = given(a_fleet(a_site("e01").cpus(cores=8), a_site("dc", "cloud").cpus(cores=8).rtt(20)))
    return city.submits(a_workload("other").cpu(8).at("e01").lasts(HOUR_S)).when_planned().all_run(0)


def test_the_smallest_latency_that_would_do():
    city = busy_near_site().submits(a_workload("w").within(5.0)).when_planned()
    found = relaxations(city)["flows[0].rtt_p99_max_ms"]
    assert (found.from_value, found.to_value, found.unit) == (5.0, 21.0, "ms")
    assert "relaxed to 21 ms" in found.change
    assert not starts(busy_near_site(), a_workload("less").within(20.9))
    assert starts(busy_near_site(), a_workload("more").within(21.0))


def test_the_smallest_budget_of_a_path():
    city = given(a_fleet(a_site("e01").cpus(cores=2), a_site("dc", "cloud").cpus(cores=8).rtt(20)))
    city.submits(a_workload("other").cpu(2).at("e01")).when_planned()
    city.submits(a_twin("w", 40)).when_planned().expect_waiting("w")
    found = relaxations(city)["paths[0].budget_ms"]
    assert (found.from_value, found.to_value) == (40.0, 72.0), "two legs of 21 ms and three stages of 10 ms"


def test_a_rule_without_which_it_would_start_and_where():
    city = busy_near_site().submits(a_workload("w").at("e01")).when_planned()
    found = relaxations(city)["stages[0].site_ids"]
    assert found.change == "without “main: only at e01” it would start at dc"
    assert starts(busy_near_site(), a_workload("free"))


def test_the_largest_gang_that_starts_now():
    city = given(a_fleet(a_site("dc", "cloud").gpus("h20", nodes=3, per_node=2)))
    city.submits(a_workload("other").gpus(h20=1000)).when_planned()
    city.submits(a_workload("w").gpus(h20=2000).gang(3)).when_planned().expect_waiting("w")
    found = relaxations(city)["stages[0].replicas"]
    assert (found.from_value, found.to_value) == (3, 2)
    assert starts(city.cancels("w"), a_workload("smaller").gpus(h20=2000).gang(2))


def test_a_smaller_gang_is_no_help_before_its_window_opens():
    city = given(a_fleet(a_site("dc", "cloud").gpus("h20", nodes=3, per_node=2)))
    city.submits(a_workload("other").gpus(h20=1000)).when_planned()
    later = a_workload("w").gpus(h20=2000).gang(3).not_before(START_S + HOUR_S)
    city.submits(later).when_planned().expect_waiting("w")
    assert "stages[0].replicas" not in relaxations(city)


# ---------------------------------------------------------------------- the operator's rules


def test_the_smallest_power_limit_of_the_policy_that_would_do():
    """One node of 300 W idle with 8 busy cores at 5 W and half load draws 320 W, two 640 W."""

    def city(limit_kw: float) -> City:
        made = given(a_fleet(a_site("e01").cpus(nodes=2, cores=8)))
        policy = Policy(sites=(SitePolicy(target="sites/e01", power_limit_kw=limit_kw),))
        made.apply(made.cycle.revise_policy(made.state, START_S, policy))
        return made.submits(a_workload("other").cpu(8)).when_planned()

    waiting = city(0.5).submits(a_workload("w").cpu(8)).when_planned().expect_waiting("w")
    explanation = waiting.explain("w")
    assert explanation.conflict[0] == "power limits and floors of the policy"
    found = {r.field: r for r in explanation.relaxations}["policy.sites[sites/e01].power_limit_kw"]
    assert (found.from_value, found.to_value, found.unit) == (0.5, 0.64, "kW")
    assert found.change == "power limit at e01 0.5 → 0.64 kW"
    assert not starts(city(0.63), a_workload("w").cpu(8))
    assert starts(city(0.64), a_workload("w").cpu(8))


def test_the_largest_floor_of_the_policy_that_would_do():
    def city(floor: float) -> City:
        made = given(a_fleet(a_site("e01").cpus(nodes=4, cores=8)))
        policy = Policy(sites=(SitePolicy(target="fleet", reserved_floor_frac=floor),))
        made.apply(made.cycle.revise_policy(made.state, START_S, policy))
        return made.submits(a_workload("other").cpu(8).replicas(2)).when_planned()

    waiting = city(0.5).submits(a_workload("w").cpu(4)).when_planned().expect_waiting("w")
    found = relaxations(waiting)["policy.sites[sites/e01].reserved_floor_frac"]
    assert (found.from_value, found.to_value) == (0.5, 0.37), "20 of 32 cores leave 37.5 %"
    assert starts(city(0.37), a_workload("w").cpu(4))
    assert not starts(city(0.38), a_workload("w").cpu(4))


def test_each_site_that_is_shut_is_a_change_of_its_own():
    city = given(a_fleet(*(a_site(s).cpus(cores=4) for s in ("e01", "e02", "e03"))))
    city.submits(a_workload("other").cpu(4).at("e03")).when_planned()
    city.site_fails("e01")
    city.apply(city.cycle.cordon(city.state, city.now_s, "e02", True))
    city.submits(a_workload("w")).when_planned().expect_waiting("w")
    found = relaxations(city)
    assert found["sites/e01"].change == "e01 comes back"
    assert found["sites/e02"].change == "e02 is uncordoned"
    assert "sites/e03" not in found


def held_for_the_night(cap: float | None, rated_kw: float) -> City:
    """Energy is cheap from 02:00 local on, so a plan holds deferrable work back; losses are the room's."""
    fleet = a_fleet(a_site("dc", "cloud").gpus("h20", nodes=2, per_node=8)).build()
    prices = tuple(0.3 if 2 <= h < 6 else 2.0 for h in range(24))
    tariff = fleet.tariffs[0].model_copy(
        update={"price_yuan_per_kwh_by_month": dict.fromkeys(range(1, 13), prices)}
    )
    sites = (fleet.sites[0].model_copy(update={"rated_it_kw": rated_kw, "power_limit_kw": rated_kw}),)
    city = given(fleet.model_copy(update={"tariffs": (tariff,), "sites": sites}))
    city.cycle = Cycle(HorizonStrategy(), InlineSolverPool())
    if cap is not None:
        policy = Policy(sites=(SitePolicy(target="sites/dc", caps=PueCap(ipue_cap_hourly=cap)),))
        city.apply(city.cycle.revise_policy(city.state, START_S, policy))
    work = a_workload("w").gpus(h20=8000).lasts(2 * HOUR_S).deferrable(START_S + 20 * HOUR_S)
    return city.submits(work).when_planned(after_s=1).expect_waiting("w")


def test_an_hourly_cap_that_starting_now_would_break_is_told_with_the_cap_it_would_meet_and_for_how_long():
    """The plant's curve is read again at the load of the node, whose GPUs and core are half busy."""
    city = held_for_the_night(1.2, rated_kw=4.0)
    found = relaxations(city)["policy.sites[sites/dc].caps.ipue_cap_hourly"]
    assert city.state.topology is not None
    (site,) = city.state.topology.sites
    (group,) = site.groups
    it_kw = (group.idle_w + 0.5 * (8 * group.gpu_dynamic_w + 1 * group.core_dynamic_w)) / 1000
    assert (found.from_value, found.unit) == (1.2, "kWh per kWh")
    assert (
        found.change.startswith("start now at dc with its hourly cap 1.20 → ") and "for 2 h" in found.change
    )
    outlook = CalendarOutlook(city.state.topology, city.state.forecast)
    hours = [city.now_s, city.now_s + HOUR_S]
    plants = [nominal(site, outlook.dry_bulb_c(t), outlook.wet_bulb_c(t)) for t in hours]
    worst = max(float(facility_power_kw(c, site.rated_it_kw, it_kw)) / it_kw for c in plants)
    assert found.to_value is not None
    assert found.to_value - 0.01 < worst <= found.to_value


@pytest.mark.parametrize("cap", [1.2, None])
def test_no_cap_is_proposed_where_none_is_set_or_none_that_a_policy_may_name_would_do(cap: float | None):
    """One node in a hall for 1 MW: thirty times its own power is lost."""
    found = relaxations(held_for_the_night(cap, rated_kw=1000.0))
    assert "deferrable" in found
    assert not any("ipue_cap" in field for field in found)


def test_a_stage_of_its_own_in_place_of_one_that_is_shared():
    """The owner is held back until tomorrow, and what shares its stage waits for that."""
    city = given(a_fleet(a_site("e01").cpus(nodes=2, cores=8)))
    owner = a_twin("owner", 60).not_before(START_S + 24 * HOUR_S)
    city.submits(owner).when_planned().expect_waiting("owner")
    guest = a_twin("w", 60)
    guest.stages[1]["shared_with"] = name_of("owner")
    city.submits(guest).when_planned().expect_waiting("w")
    explanation = city.explain("w")
    assert explanation.conflict == ("a shared stage lies where its owner runs it",)
    found = {r.field: r for r in explanation.relaxations}["stages[1].shared_with"]
    assert found.change == "with sync of its own it would start at e01"
    start, of_owner = explanation.expected_start, city.explain("owner").expected_start
    assert start is not None and of_owner is not None
    assert start.likely_at_s == of_owner.likely_at_s == START_S + 24 * HOUR_S
    assert "whose stage it shares" in start.assumption


# ---------------------------------------------------------------------- waiting


def test_waiting_for_room_that_comes_free_has_its_delay_as_its_price():
    city = busy_near_site().submits(a_workload("w").within(5.0)).when_planned(after_s=600)
    found = relaxations(city)["not_before_at"]
    assert found.to_value == city.now_s + HOUR_S - 600
    assert found.change.startswith("start 50 min later, about ")
    assert found.price_yuan == 0, "no GPU waits"


def test_the_price_of_a_delay_is_lateness_per_gpu_hour():
    city = given(a_fleet(a_site("dc", "cloud").gpus("h20", nodes=1, per_node=2)))
    city.submits(a_workload("other").gpus(h20=2000).lasts(HOUR_S)).when_planned().all_run(0)
    city.submits(a_workload("w").gpus(h20=2000)).when_planned()
    assert relaxations(city)["not_before_at"].price_yuan == pytest.approx(5.0 * 2 * 1)


def test_a_window_that_has_not_opened_could_open_now():
    city = (
        given(a_fleet(a_site("e01").cpus()))
        .submits(a_workload("w").not_before(START_S + 1800))
        .when_planned()
    )
    (found,) = city.explain("w").relaxations
    assert (found.field, found.change) == ("not_before_at", "start 30 min sooner, now")


def test_the_price_of_a_change_is_the_energy_of_running_under_it():
    """PlainScorer asks 3 yuan/h at dc and a thousandth for waking a node; four hours cost 12.004."""
    fleet = a_fleet(a_site("e01").cpus(cores=8), a_site("dc", "cloud").cpus(cores=8).rtt(20))
    city = given(fleet, PlainScorer({"e01": 1.0, "dc": 3.0}))
    city.submits(a_workload("other").cpu(8).at("e01")).when_planned()
    city.submits(a_workload("w").within(5.0).lasts(4 * HOUR_S)).when_planned()
    assert relaxations(city)["flows[0].rtt_p99_max_ms"].price_yuan == pytest.approx(4 * 3.001)


def test_relaxations_are_made_only_when_asked_for():
    city = busy_near_site().submits(a_workload("w").within(5.0)).when_planned()
    plain = city.cycle.explain(city.state, name_of("w"), city.now_s)
    assert plain.relaxations == () and plain.conflict == city.explain("w").conflict


# ---------------------------------------------------------------------- when it starts


def test_the_likely_start_lets_the_work_ahead_go_first():
    """Two of four cores come free after 1000 s and two after 3000 s; what is ahead takes the first two."""
    city = given(a_fleet(a_site("e01").cpus(cores=4)))
    city.submits(
        a_workload("a").cpu(2).lasts(1000), a_workload("b").cpu(2).lasts(3000)
    ).when_planned().all_run(0)
    city.submits(a_workload("first").cpu(2)).when_planned().submits(
        a_workload("second").cpu(2)
    ).when_planned()
    first, second = city.explain("first").expected_start, city.explain("second").expected_start
    assert first is not None and second is not None
    at = city.now_s
    assert (first.earliest_at_s, first.likely_at_s) == (at + 1000, at + 1000)
    assert (second.earliest_at_s, second.likely_at_s) == (at + 0.6 * 3000, at + 3000)
    for found in (first, second):
        assert found.latest_at_s == found.likely_at_s + 900 + (found.likely_at_s - at)


def test_work_ahead_that_could_not_lie_there_delays_nothing():
    city = given(a_fleet(a_site("e01").cpus(cores=2), a_site("e02").cpus(cores=2)))
    city.submits(
        a_workload("a").cpu(2).at("e01").lasts(1000), a_workload("b").cpu(2).at("e02")
    ).when_planned()
    city.all_run(0).submits(a_workload("other").cpu(2).at("e02")).when_planned()
    city.submits(a_workload("w").cpu(2).at("e01")).when_planned()
    found = city.explain("w").expected_start
    assert found is not None and found.likely_at_s == city.now_s + 1000


def test_a_twin_has_an_expected_start_too():
    city = given(a_fleet(a_site("e01").cpus(cores=3)))
    city.submits(a_workload("a").cpu(2).lasts(1000)).when_planned().all_run(0)
    city.submits(a_twin("w", 60)).when_planned().expect_waiting("w")
    found = city.explain("w").expected_start
    assert found is not None and found.earliest_at_s == city.now_s + 1000


def test_behind_services_that_never_end_nothing_is_promised():
    city = given(a_fleet(a_site("e01").cpus(cores=2))).submits(a_workload("a").cpu(2)).when_planned()
    assert city.submits(a_workload("w")).when_planned().explain("w").expected_start is None


def test_work_behind_a_gang_is_not_promised_the_nodes_kept_for_it():
    """The gang keeps the node that comes free at 1 h until the second one does at 2 h; then it runs for 3 h."""
    city = given(a_fleet(a_site("dc", "cloud").cpus(nodes=2, cores=4)))
    for i, hours in enumerate((1, 2)):
        city.submits(a_workload(f"j{i}").cpu(4).lasts(hours * HOUR_S)).when_planned()
    city.all_run(0).submits(a_workload("gang").cpu(4).gang(2).lasts(3 * HOUR_S)).when_planned()
    city.submits(a_workload("long").cpu(4).lasts(9 * HOUR_S), a_workload("short").cpu(4).lasts(600))
    found = {n: city.when_planned().explain(n).expected_start for n in ("gang", "long", "short")}
    likely_h = {n: (f.likely_at_s - START_S) / HOUR_S for n, f in found.items() if f is not None}
    assert likely_h == pytest.approx({"gang": 2, "long": 2 + 3, "short": 1}, abs=0.01)


@pytest.mark.parametrize("gang_frac", [0.0, 0.4], ids=["single work", "gangs too"])
@pytest.mark.parametrize("seed", range(8))
def test_the_forecast_comes_true_when_everything_ends_as_declared(seed: int, gang_frac: float):
    """A crowded room of random work: each waiting workload starts at the likely instant, its interval holds it."""
    rng = np.random.default_rng(seed)
    city = given(a_fleet(a_site("e01").cpus(nodes=4 if gang_frac else 2, cores=8)))
    lasts = {f"w{i}": int(rng.integers(10, 200)) * 60 for i in range(12)}
    for name, lasts_s in lasts.items():
        work = a_workload(name).cpu(int(rng.integers(2, 7))).lasts(lasts_s)
        city.submits(work.gang(int(rng.integers(2, 5))) if rng.random() < gang_frac else work)
    city.when_planned().all_run(0)
    waiting = [n for n in lasts if not city.placements(n)]
    assert len(waiting) >= 3
    forecasts = {n: city.explain(n).expected_start for n in waiting}
    ends = {n: START_S + s for n, s in lasts.items() if n not in waiting}
    started: dict[str, int] = {}
    while ends:
        name = min(ends, key=lambda n: (ends[n], n))
        city.ended(name, ReplicaPhase.SUCCEEDED, after_s=ends.pop(name) - city.now_s).when_planned().all_run(
            0
        )
        new = [n for n in waiting if n not in started and city.placements(n)]
        started |= dict.fromkeys(new, city.now_s)
        ends |= {n: city.now_s + lasts[n] for n in new}
    assert set(started) == set(waiting)
    known_s = START_S + max(s for n, s in lasts.items() if n not in waiting)
    for n in waiting:
        forecast = forecasts[n]
        assert forecast is not None
        assert forecast.earliest_at_s <= started[n], n
        if started[n] <= known_s:
            assert started[n] <= forecast.latest_at_s, n
        assert forecast.likely_at_s == started[n], n


def test_deferred_work_is_expected_in_its_slot_of_the_plan():
    """Energy is cheap from 02:00 local on; the plan holds the work back until then."""
    fleet = a_fleet(a_site("dc", "cloud").gpus("h20", nodes=2, per_node=8)).build()
    prices = tuple(0.3 if 2 <= h < 6 else 2.0 for h in range(24))
    tariff = fleet.tariffs[0].model_copy(
        update={"price_yuan_per_kwh_by_month": dict.fromkeys(range(1, 13), prices)}
    )
    city = given(fleet.model_copy(update={"tariffs": (tariff,)}))
    city.cycle = Cycle(HorizonStrategy(), InlineSolverPool())
    deadline_s = START_S + 20 * HOUR_S
    work = a_workload("w").gpus(h20=8000).lasts(HOUR_S).deferrable(deadline_s)
    city.submits(work).when_planned(after_s=1).expect_waiting("w")
    found = city.explain("w").expected_start
    assert found is not None
    wait_s = START_S + 2 * HOUR_S - city.now_s
    assert found.earliest_at_s == city.now_s + int(0.3 * wait_s), "later plans may bring the slot forward"
    assert found.likely_at_s == START_S + 2 * HOUR_S
    assert found.latest_at_s == deadline_s - HOUR_S
    assert "keeps its deferrals" in found.assumption
    assert city.explain("w").relaxations[0].field == "deferrable"
    city.when_planned(after_s=START_S + HOUR_S - city.now_s).expect_waiting("w")
    city.when_planned(after_s=HOUR_S).expect("w", replicas=1)


# ---------------------------------------------------------------------- why not on that machine


def node_of(city: City, site_id: str, group_id: str, index: int) -> int:
    assert city.state.topology is not None
    group = city.state.topology.group_index[site_id, group_id]
    return int(city.state.topology.group_first_node[group]) + index


@pytest.mark.parametrize(
    ("work", "shut", "code", "words"),
    [
        (lambda w: w.cpu(6), None, ReasonCode.CPU_SHORT, "cpu short (6 against 4 cores)"),
        (lambda w: w.cpu(9), None, ReasonCode.NODE_TOO_SMALL, "node too small (9000 against 8000 cpu_milli)"),
        (lambda w: w.gpus(h20=1000), None, ReasonCode.GPU_MODEL_ABSENT, "gpu model absent: h20"),
        (lambda w: w.at("dc"), None, ReasonCode.SITE_NOT_NAMED, "site not named: dc"),
        (lambda w: w, "cordon", ReasonCode.SITE_CORDONED, "site cordoned"),
    ],
)  # fmt: skip
def test_why_not_on_that_node(work: Callable[[Any], Any], shut: str | None, code: ReasonCode, words: str):
    city = given(
        a_fleet(a_site("e01").cpus(nodes=2, cores=8), a_site("dc", "cloud").gpus("h20", cores=16))
    ).submits(a_workload("half").cpu(4).at("e01"), a_workload("full").gpus(h20=4000).cpu(16).at("dc"))
    city.when_planned()
    if shut:
        city.apply(city.cycle.cordon(city.state, city.now_s, "e01", True))
    city.submits(work(a_workload("w")))
    found = city.explain("w", "e01", node_of(city, "e01", "cpu", 0))
    assert found.why_not == "e01/cpu/0"
    assert [r.code for r in found.reasons if r.site_id] == [code]
    assert found.summary == f"node e01/cpu/0: {words}"


def test_a_node_that_would_do_says_so_and_the_one_it_runs_on_too():
    city = given(a_fleet(a_site("e01").cpus(nodes=2, cores=8))).submits(a_workload("w")).when_planned()
    summaries = [city.explain("w", "e01", node_of(city, "e01", "cpu", i)).summary for i in (0, 1)]
    assert summaries == [
        "node e01/cpu/0: it runs there",
        "node e01/cpu/1: it could lie there; e01: it runs there",
    ]
    with pytest.raises(NotFound):
        city.explain("w", "mars")
