"""Feasibility: the mask that rounds use and the reasons that people read are one rule; capacity of empty nodes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from scheduler.domain.shapes import ShapeTable, Spec, shape_document, shape_key, template_of
from scheduler.domain.topology import build_topology
from scheduler.planner.feasibility import per_empty_node, view_spec
from scheduler.planner.patterns import MAX_FREE_STAGES, enumerate_patterns
from scheduler.store.bodies import decode_body, encode_body
from suanli.model import Link, Workload
from tests.builders import a_fleet, a_site, a_twin, a_workload
from tests.placement_oracle import Paths, labels_hold, legs_of, most_per_node, path_ms
from tests.property.test_planner_conflicts import asked_work


def random_fleet(rng: random.Random) -> a_fleet:
    fleet = a_fleet()
    for i in range(3):
        site = (
            a_site(f"s{i}").rtt(rng.choice((0.0, 4.0, 9.0))).labels(residency=rng.choice(("open", "closed")))
        )
        site.cpus(nodes=1, cores=2).gpus(rng.choice(("l20", "t4")), nodes=1, per_node=2, cores=2)
        site.has_upf = rng.random() < 0.5
        fleet.site(site)
    return fleet


@for_all(st.integers(0, 2**32 - 1))
@settings(max_examples=80)
def test_a_site_is_a_candidate_exactly_when_it_has_no_reason_and_when_the_documents_say_so(seed):
    rng = random.Random(seed)
    fleet, work = random_fleet(rng).build(), asked_work(rng).build()
    topology, paths = build_topology(fleet), Paths(fleet)
    for i, stage in enumerate(work.stages):
        view = view_spec(Spec(0, 0, i, stage, work), topology)
        for s, site in enumerate(fleet.sites):
            candidate = bool(view.group_ok[topology.group_site == s].any())
            assert candidate == (not view.site_reasons[s])
            fits = any(_group_holds(work, stage, site.site_id, g, paths) for g in site.groups)
            named = not stage.site_ids or site.site_id in stage.site_ids
            near = all(
                f.rtt_p99_max_ms is None or paths.leg(z, f.access_id, site.site_id) <= f.rtt_p99_max_ms
                for z, f in legs_of(work, stage.stage_id)
            )
            assert candidate == (named and near and labels_hold(stage, site) and fits)


def _group_holds(work: Workload, stage, site_id: str, group, paths: Paths) -> bool:
    if most_per_node(stage, group) < 1 or (stage.gpu_milli and group.gpu_memory_mib < stage.gpu_memory_mib):
        return False
    if len(work.stages) > 1:
        return True
    at = {stage.stage_id: (site_id, group)}
    return all(path_ms(work, p.via, at, paths) <= p.budget_ms for p in work.paths)


@for_all(st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_patterns_are_exactly_the_joint_placements_on_two_sites_that_keep_every_limit(seed):
    rng = random.Random(seed)
    fleet = random_fleet(rng).build()
    work = a_twin("t", budget_ms=rng.choice((33, 41, 50, 75))).build()
    if rng.random() < 0.5:
        stages = list(work.stages)
        stages[1] = stages[1].model_copy(
            update={"colocate_with": "ingest", "require_any": ({"residency": "open"},)}
        )
        work = work.model_copy(update={"stages": tuple(stages)})
    topology, paths = build_topology(fleet), Paths(fleet)
    views = [view_spec(Spec(0, 0, i, s, work), topology) for i, s in enumerate(work.stages)]
    found = {tuple(row) for row in enumerate_patterns(work, views, topology).sites.tolist()}
    expected = set()
    for row in np.ndindex(*(len(fleet.sites),) * len(work.stages)):
        sites = [fleet.sites[s] for s in row]
        at = {s.stage_id: (site.site_id, site.groups[0]) for s, site in zip(work.stages, sites, strict=True)}
        good = len(set(row)) <= 2 and all(labels_hold(s, x) for s, x in zip(work.stages, sites, strict=True))
        good &= work.stages[1].colocate_with is None or row[0] == row[1]
        if good and all(path_ms(work, p.via, at, paths) <= p.budget_ms for p in work.paths):
            expected.add(row)
    assert found == expected


def test_long_chains_are_cut_at_most_twice_and_still_answer_at_once():
    work = a_workload("w")
    for i in range(16):
        work.stage(f"s{i:02d}")
    value = work.build()
    topology = build_topology(a_fleet(*(a_site(f"x{i}").cpus() for i in range(6))).build())
    views = [view_spec(Spec(0, 0, i, s, value), topology) for i, s in enumerate(value.stages)]
    sites = enumerate_patterns(value, views, topology).sites
    assert len(value.stages) > MAX_FREE_STAGES
    assert (np.diff(sites, axis=1) != 0).sum(axis=1).max() == 2
    assert len({tuple(r) for r in sites.tolist()}) == len(sites)


def test_a_site_that_no_route_reaches_is_unknown_and_never_passes():
    fleet = a_fleet(a_site("e01").cpus(), a_site("lost").cpus()).build()
    network = fleet.network.model_copy(update={"links": fleet.network.links[:1]})
    topology = build_topology(fleet.model_copy(update={"network": network}))
    for limit in (None, 1e6):
        work = a_workload("w").within(limit).build()
        view = view_spec(Spec(0, 0, 0, work.stages[0], work), topology)
        assert [r.code.value for r in view.site_reasons[1]] == ["rtt_unknown"]
        assert view.site_reasons[0] == ()


def test_the_shorter_of_two_links_carries_the_traffic():
    fleet = a_fleet(a_site("e01").cpus().rtt(5)).build()
    slow, fast = (
        fleet.network.links[0],
        fleet.network.links[0].model_copy(update={"link_id": "fast", "extra_rtt_ms": 1.0}),
    )
    links: tuple[Link, ...] = (slow, fast)
    topology = build_topology(
        fleet.model_copy(update={"network": fleet.network.model_copy(update={"links": links})})
    )
    assert topology.leg_rtt_p99_ms("z1", "pon")[0] == 1.0 + 1.0
    assert topology.hub_routes["hub"][0].tolist() == [0.0, 1.0]


def test_mobile_access_reaches_a_site_without_upf_by_the_hairpin():
    site = a_site("e02").cpus()
    site.has_upf = False
    fleet = a_fleet(a_site("e01").cpus(), site).build()
    legs = build_topology(fleet).leg_rtt_p99_ms("z1", "5g")
    assert legs.tolist() == [8.0, 8.0 + fleet.network.hairpin_p99_ms]


@pytest.mark.parametrize(
    ("gpu_milli", "expected"),
    [(300, 4 * 3), (500, 4 * 2), (700, 4), (1000, 4), (2000, 2), (3000, 1), (4000, 1)],
)
def test_replicas_of_an_empty_node_count_whole_devices_and_shares_of_one(gpu_milli, expected):
    topology = build_topology(a_fleet(a_site("e01").gpus("l20", nodes=1, per_node=4, cores=64)).build())
    work = a_workload("w").gpus(l20=gpu_milli).build()
    assert per_empty_node(view_spec(Spec(0, 0, 0, work.stages[0], work), topology), 0) == expected


# ---------------------------------------------------------------------- shapes


def test_a_shape_forgets_names_windows_and_durations_and_nothing_else():
    one = a_workload("one").lasts(60).not_before(1_784_000_000).build()
    other = (
        a_workload("other", "u")
        .lasts(90)
        .build()
        .model_copy(update={"display_name": "x", "labels": {"a": "b"}})
    )
    assert shape_key(shape_document(one)) == shape_key(shape_document(other))
    service = a_workload("one").build()
    assert shape_key(shape_document(one)) != shape_key(shape_document(service))
    assert shape_key(shape_document(a_workload("w").cpu(1).build())) != shape_key(
        shape_document(a_workload("w").cpu(2).build())
    )


def test_the_reference_gpu_survives_the_log_which_sorts_keys():
    work = a_workload("w").gpus(t4=1000, a100=300).build()
    body = decode_body(encode_body({"shape": shape_document(work)}))
    table = ShapeTable()
    table.add(body["shape"])
    stage = table.templates[0].stages[0]
    assert (list(stage.gpu_milli), stage.reference_gpu_milli) == (["t4", "a100"], 1000)
    turned = a_workload("w").gpus(a100=300, t4=1000).build()
    assert shape_key(shape_document(turned)) != shape_key(shape_document(work))


def test_a_template_is_the_workload_but_for_what_shapes_forget():
    work = a_twin("t").build()
    assert template_of(shape_document(work)).model_copy(update={"name": work.name}) == work
