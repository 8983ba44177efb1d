"""Admission: an impossible request gets one answer that names each problem, its field and the nearest value."""

from __future__ import annotations

import pytest

from scheduler.planner.admission import unplannable
from suanli.model import FieldProblem, Policy, SitePolicy
from tests.builders import City, a_fleet, a_site, a_twin, a_workload, given, name_of

GIB = 1024


@pytest.fixture
def city() -> City:
    """A cloud with four GPU nodes in two islands, a medical edge room; users reach them in 9 and 1 ms."""
    return given(
        a_fleet(
            a_site("dc", "cloud").gpus("h20", nodes=4, cores=64, island=2).rtt(8).labels(residency="open"),
            a_site("e01").gpus("l20", nodes=1, cores=16).cpus(nodes=1, cores=32).labels(residency="medical"),
        ).dataset("scans", "e01")
    )


def problems(city: City, *workloads: a_workload) -> list[FieldProblem]:
    return [p for found in city.cycle.admit(city.state, [w.build() for w in workloads]) for p in found]


def the_problem(city: City, workload: a_workload) -> tuple[str, str, str]:
    (found,) = problems(city, workload)
    assert found.problem
    assert found.expected
    return found.field, found.nearest, found.code


def test_possible_work_is_accepted(city):
    assert (
        problems(city, a_workload("w").gpus(h20=2000, l20=1000).within(5.0).resides({"residency": "medical"}))
        == []
    )


def test_possible_but_not_now_is_accepted_and_pends_with_reasons(city):
    city.submits(a_workload("full").gpus(l20=4000)).when_planned()
    city.submits(a_workload("w").gpus(l20=1000)).when_planned().expect_waiting("w")
    assert {r.code.value for r in city.explain("w").reasons if r.site_id == "e01"} == {"gpu_short"}


def test_before_a_fleet_is_registered_nothing_is_possible():
    city = given(a_fleet(a_site("e01").cpus()))
    empty = type(city.state).empty()
    (found,) = city.cycle.admit(empty, [a_workload("w").build()])[0]
    assert found.code == "no_fleet"


def test_a_stage_that_wants_to_grow(city):
    for elastic in (
        a_workload("w").replicas(2)._last(replicas_max=3),
        a_workload("w").gang(2)._last(replicas_max=3),
    ):
        assert the_problem(city, elastic) == ("stages[0].replicas_max", "2", "not_elastic")
    assert problems(city, a_workload("w").replicas(2)._last(replicas_max=2)) == []


def test_a_replica_larger_than_any_node(city):
    assert the_problem(city, a_workload("w").cpu(65)) == ("stages[0].cpu_milli", "64000", "replica_too_large")
    assert the_problem(city, a_workload("w").cpu(1, memory_gib=300)) == (
        "stages[0].memory_mib",
        str(64 * 4 * GIB),
        "replica_too_large",
    )
    assert the_problem(city, a_workload("w").gpus(h20=5000)) == (
        "stages[0].gpu_milli[h20]",
        "4000",
        "replica_too_large",
    )


def test_a_replica_that_no_single_node_holds_all_at_once(city):
    field, nearest, code = the_problem(city, a_workload("w").gpus(l20=1000).cpu(32))
    assert (field, code) == ("stages[0].cpu_milli", "replica_too_large")
    assert nearest == "16000"
    fleet = a_fleet(a_site("a").cpus(nodes=1, cores=8), a_site("b").gpus("l20", nodes=1, cores=2))
    wide = a_workload("w").cpu(8, memory_gib=1)
    wide.stages[0]["storage_gib"] = 1001
    assert the_problem(given(fleet), wide)[:2] == ("stages[0].storage_gib", "1000")


def test_gpu_memory_that_no_accepted_gpu_has(city):
    work = a_workload("w").gpus(l20=1000)
    work.stages[0]["gpu_memory_mib"] = 80 * GIB
    assert the_problem(city, work) == ("stages[0].gpu_memory_mib", str(48 * GIB), "gpu_memory_too_large")


def test_a_residency_that_no_site_has(city):
    field, nearest, code = the_problem(city, a_workload("w").resides({"residency": "medicale"}))
    assert (field, nearest, code) == ("stages[0].require_any", "residency=medical", "residency_nowhere")


def test_an_rtt_limit_below_the_physics(city):
    field, nearest, code = the_problem(city, a_workload("w").within(0.99))
    assert (field, nearest, code) == ("flows[0].rtt_p99_max_ms", "1 ms at e01", "rtt_below_physics")


def test_the_nearest_limit_named_is_accepted(city):
    (found,) = problems(city, a_workload("w").within(0.4, access="5g"))
    nearest_ms = float(found.nearest.split(" ")[0])
    assert problems(city, a_workload("w").within(nearest_ms, access="5g")) == []


def test_a_soft_real_time_loop_must_not_leave_its_machine(city):
    (found,) = problems(city, a_workload("loop").within(0.5))
    assert "must stay" in found.problem or "stays on its machine" in found.problem


def test_a_path_budget_below_the_physics_of_one_stage(city):
    work = a_workload("w").path(4.0, "zones/z1", "stages/main")
    work.stages[0]["processing_p99_ms"] = {"cpu": 3.5}
    assert the_problem(city, work) == ("paths[0].budget_ms", "4.5 ms", "path_below_physics")


def test_a_flow_and_a_path_below_the_physics_come_in_one_answer(city):
    found = problems(city, a_workload("w").within(0.5).path(0.5, "zones/z1", "stages/main"))
    assert [p.field for p in found] == ["flows[0].rtt_p99_max_ms", "paths[0].budget_ms"]


def test_a_path_budget_below_the_physics_of_a_pipeline(city):
    assert the_problem(city, a_twin("t", budget_ms=31)) == (
        "paths[0].budget_ms",
        "32 ms",
        "path_below_physics",
    )
    assert problems(city, a_twin("t", budget_ms=32)) == []


def test_a_gang_larger_than_the_largest_pool(city):
    assert problems(city, a_workload("g").gpus(h20=4000).gang(4)) == []
    assert the_problem(city, a_workload("g").gpus(h20=4000).gang(5)) == (
        "stages[0].replicas",
        "4",
        "gang_too_large",
    )


def test_more_replicas_than_the_whole_fleet_holds(city):
    assert problems(city, a_workload("w").gpus(h20=1000, l20=1000).replicas(20)) == []
    field, nearest, code = the_problem(city, a_workload("w").gpus(h20=1000, l20=1000).replicas(21))
    assert (field, nearest, code) == ("stages[0].replicas", "20", "too_many_replicas")


def test_replicas_that_end_may_take_turns_however_many_they_are(city):
    frames = a_workload("frames").gpus(h20=1000, l20=1000).replicas(21).lasts(600)
    assert problems(city, frames) == []
    assert the_problem(city, a_workload("w").gpus(h20=1000).gang(21).lasts(600))[0] == "stages[0].replicas"


def test_a_spread_over_more_sites_or_nodes_than_there_are(city):
    assert the_problem(city, a_workload("w").replicas(3).spread("site", 3)) == (
        "stages[0].spread.min_domains",
        "2",
        "spread_too_wide",
    )
    assert the_problem(city, a_workload("w").replicas(9).spread("node", 7))[1] == "6"
    assert the_problem(city, a_workload("w").gang(5).spread("node", 5))[1] == "4"


@pytest.mark.parametrize(
    ("work", "field", "nearest", "code"),
    [
        (a_workload("w").within(5, zone="z2"), "flows[0].source", "zones/z1", "unknown_zone"),
        (a_workload("w").within(5, access="6g"), "flows[0].access_id", "5g", "unknown_access_profile"),
        (a_workload("w").at("e1"), "stages[0].site_ids[0]", "e01", "unknown_site"),
        (a_workload("w").gpus(h200=1000), "stages[0].gpu_milli[h200]", "h20", "unknown_gpu_model"),
        (
            a_workload("w")._last(dataset_ids=("scan",)),
            "stages[0].dataset_ids[0]",
            "scans",
            "unknown_dataset",
        ),
        (a_workload("w").path(9, "zones/z9", "stages/main"), "paths[0].via[0]", "zones/z1", "unknown_zone"),
    ],
)
def test_names_that_do_not_exist(city, work, field, nearest, code):
    assert [(p.field, p.nearest, p.code) for p in problems(city, work)] == [(field, nearest, code)]


def test_models_are_alternatives_so_one_that_is_installed_is_enough(city):
    assert problems(city, a_workload("w").gpus(h20=1000, b300=1000)) == []
    both = problems(city, a_workload("w").gpus(h200=1000, b300=1000))
    assert [(p.field, p.code) for p in both] == [
        ("stages[0].gpu_milli[h200]", "unknown_gpu_model"),
        ("stages[0].gpu_milli[b300]", "unknown_gpu_model"),
    ]


def test_every_problem_of_every_stage_in_one_answer(city):
    work = a_workload("w").stage("a", cpu_milli=10**6).stage("b", require_any=({"residency": "moon"},))
    work.stage("c", gpu_milli={"h20": 1000}, replicas=99, gang=True).flow("zones/nowhere", "stages/a", 3.0)
    work.flow("zones/z1", "stages/b", 0.1)
    assert [(p.field, p.code) for p in problems(city, work)] == [
        ("flows[0].source", "unknown_zone"),
        ("stages[0].cpu_milli", "replica_too_large"),
        ("stages[1].require_any", "residency_nowhere"),
        ("flows[1].rtt_p99_max_ms", "rtt_below_physics"),
        ("stages[2].replicas", "gang_too_large"),
    ]


def test_requirements_that_sites_meet_only_one_by_one(city):
    work = a_workload("w").gpus(h20=1000).resides({"residency": "medical"})
    (found,) = problems(city, work)
    assert (found.field, found.code) == ("stages[0]", "no_site_meets_all")
    assert found.nearest.startswith(("dc, but for label_missing", "e01, but for gpu_model_absent"))


def test_stages_that_cannot_lie_together():
    fleet = a_fleet(a_site("a").cpus().labels(x="1").rtt(5), a_site("b").cpus().labels(x="2").rtt(5))
    work = a_workload("w").stage("in", require_any=({"x": "1"},)).stage("out", require_any=({"x": "2"},))
    work.flow("stages/in", "stages/out", 9.0)
    (found,) = problems(given(fleet), work)
    assert (found.field, found.code) == ("stages", "no_pattern")


def test_a_stage_is_shared_with_a_live_workload_that_runs_it(city):
    guest = a_twin("guest")
    guest.stages[1]["shared_with"] = name_of("owner")
    assert [p.code for p in problems(city, guest)] == ["unknown_workload"]
    assert problems(city, a_twin("owner"), guest) == []
    city.submits(a_twin("owner"))
    assert problems(city, guest) == []
    guest.stages[1]["stage_id"] = "store"
    guest.paths, guest.flows = [], []
    assert [(p.field, p.code) for p in problems(city, guest)] == [
        ("stages[1].shared_with", "unknown_shared_stage")
    ]
    city.cancels("owner")
    guest.stages[1]["stage_id"] = "sync"
    assert [p.code for p in problems(city, guest)] == ["unknown_workload"]


def test_a_workload_whose_stages_are_all_shared_runs_nothing(city):
    city.submits(a_workload("owner"))
    guest = a_workload("guest")
    guest.stages[0]["shared_with"] = name_of("owner")
    assert [p.code for p in problems(city, guest)] == ["nothing_to_run"]


def test_the_answer_is_remembered_per_shape_but_not_across_fleets(city):
    work = a_workload("w").cpu(48)
    assert problems(city, work) == []
    city.apply(
        city.cycle.register_fleet(city.state, city.now_s, a_fleet(a_site("e01").cpus(cores=32)).build())
    )
    assert [p.code for p in problems(city, work)] == ["replica_too_large"]


# ---------------------------------------------------------------------- power, fleets


def test_what_no_site_can_power_is_refused_and_what_only_the_policy_forbids_waits():
    """Nodes idle at 300 W, a busy core draws 5 W: 0.72 kW carry two nodes of four cores at half load, not three."""
    city = given(a_fleet(a_site("dc", "cloud").cpus(nodes=3, cores=4).power_limit_kw(0.72)))
    assert the_problem(city, a_workload("gang").cpu(4).gang(3)) == (
        "stages[0].replicas",
        "2",
        "power_above_site",
    )
    assert problems(city, a_workload("gang").cpu(4).gang(2)) == []
    assert problems(city, a_workload("many").cpu(4).replicas(3)) == [], (
        "replicas that need not run together wait"
    )
    tight = Policy(sites=(SitePolicy(target="fleet", power_limit_kw=0.2),))
    city.apply(city.cycle.revise_policy(city.state, city.now_s, tight))
    city.submits(a_workload("w")).when_planned().expect_waiting("w")
    assert {r.code.value for r in city.explain("w").reasons} == {"power_limit"}


def test_a_replica_that_alone_is_above_every_limit_is_refused():
    city = given(a_fleet(a_site("e01").cpus(nodes=1, cores=4).power_limit_kw(0.2)))
    assert the_problem(city, a_workload("w"))[::2] == ("stages[0]", "power_above_site")


def test_the_largest_gang_that_admission_names_is_one_that_a_round_places():
    for limit_kw in (0.31, 0.33, 0.34, 0.66, 1.0, 1.3):
        fleet = a_fleet(a_site("dc", "cloud").cpus(nodes=4, cores=8).power_limit_kw(limit_kw))
        refused = problems(given(fleet), a_workload("gang").cpu(2).gang(16))
        most = int(refused[0].nearest) if refused else 16
        given(fleet).submits(a_workload("gang").cpu(2).gang(most)).when_planned().expect(
            "gang", replicas=most
        )


def test_a_tariff_without_all_months_is_refused_with_the_months_that_lack():
    fleet = a_fleet(a_site("e01").cpus(), a_site("e02").cpus()).build()
    (tariff,) = fleet.tariffs
    summer = {m: tariff.price_yuan_per_kwh_by_month[m] for m in (7, 8)}
    short = fleet.model_copy(
        update={"tariffs": (tariff.model_copy(update={"price_yuan_per_kwh_by_month": summer}),)}
    )
    (found,) = unplannable(short)
    assert (found.field, found.code) == ("tariffs[0].price_yuan_per_kwh_by_month", "tariff_incomplete")
    assert "'flat' of e01, e02 has no prices for month 1, 2, 3, 4, 5, 6, 9, 10, 11, 12" in found.problem
    assert "months 1 to 12; it has 7, 8" in found.expected
    assert unplannable(fleet) == []
    unused = fleet.model_copy(
        update={"tariffs": (tariff, short.tariffs[0].model_copy(update={"tariff_id": "x"}))}
    )
    assert unplannable(unused) == [], "a tariff that no site uses is nobody's problem"


def test_a_carbon_shape_has_every_hour_or_none():
    fleet = a_fleet(a_site("e01").cpus()).build()
    (found,) = unplannable(fleet.model_copy(update={"carbon_g_per_kwh_by_hour": (500.0,) * 23}))
    assert (found.field, found.code) == ("carbon_g_per_kwh_by_hour", "carbon_incomplete")
