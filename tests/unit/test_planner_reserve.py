"""Reservations: a large gang does not starve, short work still passes, and nothing is kept in vain."""

from __future__ import annotations

from suanli.model import ReplicaPhase
from tests.builders import City, a_fleet, a_site, a_workload, given
from tests.placement_oracle import violations_of

HOUR_S = 3600


def pool(ends_h: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)) -> City:
    """One pool of four nodes; each runs one whole-node job that ends after so many hours."""
    city = given(a_fleet(a_site("dc", "cloud").cpus(nodes=len(ends_h), cores=4)))
    jobs = [a_workload(f"j{i}").cpu(4).lasts(int(h * HOUR_S)) for i, h in enumerate(ends_h)]
    return city.submits(*jobs).when_planned().all_run(after_s=0)


def ends(city: City, name: str, at_h: float) -> City:
    start_s = 1_784_044_800
    return city.ended(name, ReplicaPhase.SUCCEEDED, after_s=int(start_s + at_h * HOUR_S - city.now_s))


def test_a_large_gang_does_not_starve():
    """The gang of two waits for the nodes that come free after 1 h and 2 h; long work may not slip in between."""
    city = pool().submits(a_workload("gang").cpu(4).gang(2).lasts(HOUR_S)).when_planned()
    ends(city, "j0", 1.0).submits(a_workload("long").cpu(4).lasts(9 * HOUR_S)).when_planned()
    city.expect_waiting("long").expect_waiting("gang")
    ends(city, "j1", 2.0).when_planned().expect("gang", replicas=2).expect_waiting("long")
    assert violations_of(city) == []


def test_short_work_passes_before_the_gang_needs_the_node():
    city = pool().submits(a_workload("gang").cpu(4).gang(2).lasts(HOUR_S)).when_planned()
    ends(city, "j0", 1.0).submits(a_workload("short").cpu(4).lasts(HOUR_S // 2)).when_planned()
    city.expect("short", replicas=1)


def test_work_that_would_end_just_too_late_does_not_pass():
    city = pool().submits(a_workload("gang").cpu(4).gang(2).lasts(HOUR_S)).when_planned()
    ends(city, "j0", 1.0).submits(a_workload("short").cpu(4).lasts(HOUR_S - 899)).when_planned()
    city.expect_waiting("short")


def test_nodes_that_the_gang_does_not_need_stay_open_to_all():
    """The gang keeps the nodes that come free first; when another one falls empty early, long work may have it."""
    city = pool((1.0, 1.0, 5.0)).submits(a_workload("gang").cpu(4).gang(2).lasts(HOUR_S)).when_planned()
    ends(city, "j2", 0.5).submits(a_workload("long").cpu(4).lasts(9 * HOUR_S)).when_planned()
    assert len(city.placements("gang")) + len(city.placements("long")) == 1 or city.placements("long")


def test_a_gang_blocked_by_services_keeps_nothing():
    """Services never end, so no instant is known at which the gang fits: others go on."""
    city = given(a_fleet(a_site("dc", "cloud").cpus(nodes=3, cores=4)))
    city.submits(a_workload("s0").cpu(4), a_workload("s1").cpu(4)).when_planned()
    city.submits(a_workload("gang").cpu(4).gang(2).lasts(60), a_workload("long").cpu(4)).when_planned()
    city.expect("long", replicas=1)


def test_a_gang_blocked_by_power_keeps_nothing():
    """Room is there, power is not: nodes kept for it would stand idle for nobody's good."""
    city = given(a_fleet(a_site("dc", "cloud").cpus(nodes=3, cores=4).power_limit_kw(0.65)))
    city.submits(a_workload("runs").cpu(4)).when_planned()
    city.submits(a_workload("gang").cpu(4).gang(2).lasts(60), a_workload("one").cpu(4)).when_planned()
    city.expect_waiting("gang").expect("one", replicas=1)


def test_a_gang_keeps_nodes_of_one_island():
    """Islands of two nodes: (2 h, 9 h) and (3 h, 4 h); the gang of two fits the second one first, at 4 h."""
    fleet = a_fleet(a_site("dc", "cloud").gpus("h20", nodes=4, island=2, cores=8))
    city = given(fleet)
    for i, h in enumerate((2, 9, 3, 4)):
        city.submits(a_workload(f"j{i}").gpus(h20=4000).lasts(h * HOUR_S)).when_planned()
    city.all_run(after_s=0).submits(a_workload("gang").gpus(h20=4000).gang(2).lasts(HOUR_S)).when_planned()
    city.ended("j0", ReplicaPhase.SUCCEEDED).submits(a_workload("long").gpus(h20=4000).lasts(99 * HOUR_S))
    city.when_planned().expect("long", replicas=1)
    city.ended("j2", ReplicaPhase.SUCCEEDED).submits(a_workload("long2").gpus(h20=4000).lasts(99 * HOUR_S))
    city.when_planned().expect_waiting("long2").ended("j3", ReplicaPhase.SUCCEEDED)
    city.when_planned().expect("gang", replicas=2)
    assert violations_of(city) == []


def test_shared_gpus_count_when_their_last_share_comes_free():
    """Both devices of the node are needed; one carries a share that ends late, so that is the instant."""
    fleet = a_fleet(a_site("dc", "cloud").gpus("h20", nodes=1, per_node=2, cores=8))
    city = given(fleet).submits(
        a_workload("a").gpus(h20=500).lasts(HOUR_S), a_workload("b").gpus(h20=500).lasts(3 * HOUR_S),
        a_workload("c").gpus(h20=1000).lasts(2 * HOUR_S),
    ).when_planned().all_run(after_s=0)  # fmt: skip
    city.submits(a_workload("gang").gpus(h20=1000).gang(2).lasts(60)).when_planned()
    estimate = city.explain("gang").expected_start
    assert estimate is not None
    assert estimate.likely_at_s == city.now_s + 3 * HOUR_S


def test_the_reason_says_that_nodes_are_reserved():
    city = pool().submits(a_workload("gang").cpu(4).gang(2).lasts(HOUR_S)).when_planned()
    ends(city, "j0", 1.0).submits(a_workload("long").cpu(4).lasts(9 * HOUR_S)).when_planned()
    found = city.explain("long")
    assert "reserved_for_gang" in {r.code.value for r in found.reasons}
    assert "nodes reserved for a gang" in found.conflict
