"""Whatever a site is told, it stays within its machines, ends everything once, and its books close."""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from cluster_sim.world.demand import Fate
from cluster_sim.world.protocol import Command, StartReplica
from cluster_sim.world.site import OutageSpan, device_count, milli_per_device
from suanli.model.units import JOULES_PER_KWH
from tests.support.sites import T0, a_group, a_site, a_start, a_stop, after

GROUPS = (a_group(), a_group(group_id="cpu", gpu_model="", gpu_count=0, gpu_memory_mib=0, gpu_dynamic_w=0.0))
GANG_SIZE = 3


@st.composite
def starts(draw: st.DrawFn, number: int) -> StartReplica:
    gpu_milli = draw(st.sampled_from([0, 250, 500, 1000, 2000, 4000]))
    devices = draw(st.permutations(range(4)))[: device_count(gpu_milli)]
    is_gang = draw(st.booleans()) and gpu_milli >= 1000
    return a_start(
        f"p{number}",
        workload="tenants/t/workloads/gang" if is_gang else f"tenants/t/workloads/w{number % 5}",
        replica_index=number,
        group_id=draw(st.sampled_from(["l20x4", "l20x4", "cpu"])),
        node_index=draw(st.integers(0, 2)),  # node 2 does not exist
        at_s=after(draw(st.integers(0, 4000))),
        cpu_milli=draw(st.sampled_from([0, 4000, 40_000, 96_000])),
        memory_mib=draw(st.sampled_from([0, 1024, 300_000])),
        gpu_milli=gpu_milli,
        gpu_ids=tuple(devices),
        is_service=draw(st.booleans()) and not is_gang,
        declared_work_s=draw(st.integers(1, 3000)) if not is_gang else 1200,
        checkpoint_interval_s=draw(st.sampled_from([0, 300])),
        gang_size=GANG_SIZE if is_gang else 1,
    )


@st.composite
def orders(draw: st.DrawFn) -> list[Command]:
    count = draw(st.integers(1, 14))
    commands: list[Command] = [draw(starts(i)) for i in range(count)]
    stops = draw(st.lists(st.tuples(st.integers(0, count), st.integers(0, 6000)), max_size=5))
    commands += [a_stop(f"p{number}", after(at)) for number, at in stops]
    return draw(st.permutations(commands))


outages = st.sampled_from([(), (OutageSpan(after(2000), after(2600), "x"),)])


def play(commands: list[Command], outage: tuple[OutageSpan, ...], window_s: int, mtbf_s: float = 50_000.0):
    site = a_site(
        {"tenants/t/workloads/w1": Fate({"main": 900}, fails_after_s=300, jitter_frac=0.0)},
        groups=GROUPS,
        outages=outage,
        replica_mtbf_s=mtbf_s,
    )
    rows, meters = [], []
    pending = sorted(commands, key=lambda c: c.at_s)
    for until in range(window_s, 9600 + 1, window_s):
        while pending and pending[0].at_s - T0 < until:
            site.accept(pending.pop(0))
        site.run(after(until))
        some, meter, _ = site.window()
        rows += some
        meters.append(meter)
    return rows, meters


@given(orders(), outages)
def test_no_node_ever_holds_more_than_it_has(commands, outage):
    rows, _ = play(commands, outage, 9600)
    order_of = {c.placement_id: c for c in commands if isinstance(c, StartReplica)}
    spans: dict[str, dict[str, int]] = defaultdict(dict)
    for at_s, _, placement, phase, _, _, _ in rows:
        spans[placement]["begins" if phase == "running" else "ends"] = at_s
    instants = sorted({s["begins"] for s in spans.values() if "begins" in s})
    for at_s in instants:
        used: Counter[tuple[str, int, str]] = Counter()
        for placement, span in spans.items():
            if "begins" in span and span["begins"] <= at_s < span.get("ends", 10**12):
                order = order_of[placement]
                node = (order.group_id, order.node_index)
                used[(*node, "cpu")] += order.cpu_milli
                used[(*node, "memory")] += order.memory_mib
                for gpu in order.gpu_ids:
                    used[(*node, f"gpu{gpu}")] += milli_per_device(order.gpu_milli)
        for (_, _, what), amount in used.items():
            assert amount <= {"cpu": 96_000, "memory": 512 * 1024}.get(what, 1000), what


@given(orders(), outages)
def test_every_placement_begins_and_ends_at_most_once_and_in_that_order(commands, outage):
    rows, _ = play(commands, outage, 9600)
    assert [r[0] for r in rows] == sorted(r[0] for r in rows)
    history = defaultdict(list)
    for _, _, placement, phase, done_s, delivered, _ in rows:
        history[placement].append(phase)
        assert done_s >= 0 and delivered >= 0
    for phases in history.values():
        assert phases.count("running") <= 1
        ends = [p for p in phases if p != "running"]
        assert len(ends) <= 1 and (not ends or phases[-1] == ends[0])


@given(orders(), outages)
def test_gangs_begin_together_and_end_together(commands, outage):
    rows, _ = play(commands, outage, 9600)
    order_of = {c.placement_id: c for c in commands if isinstance(c, StartReplica)}
    begins: Counter[int] = Counter()
    for at_s, _, placement, phase, _, _, _ in rows:
        if phase == "running" and order_of[placement].gang_size > 1:
            begins[at_s] += 1
    assert all(count % GANG_SIZE == 0 for count in begins.values())


@given(orders(), outages, st.sampled_from([60, 300, 1200]))
def test_windows_change_neither_reports_nor_energy(commands, outage, window_s):
    coarse_rows, coarse = play(commands, outage, 9600)
    fine_rows, fine = play(commands, outage, window_s)
    assert fine_rows == coarse_rows
    for column in (3, 4, 5):
        fine_kwh, coarse_kwh = (sum(m[column] for m in meters) for meters in (fine, coarse))
        assert abs(fine_kwh - coarse_kwh) <= 1e-9 * max(1.0, coarse_kwh)


@given(orders(), outages)
def test_energy_is_bounded_by_the_machines_that_were_on(commands, outage):
    _, meters = play(commands, outage, 300)
    most_kwh = sum(g.node_count * g.max_w for g in GROUPS) * 300 / JOULES_PER_KWH
    for meter in meters:
        it_kwh, facility_kwh, useful_kwh = meter[3:6]
        assert 0 <= useful_kwh <= it_kwh + 1e-12 <= most_kwh + 1e-9
        assert facility_kwh >= it_kwh - 1e-12


@given(orders())
def test_once_everything_is_stopped_the_site_falls_asleep_and_closes(commands):
    stops = [a_stop(c.placement_id, after(7000)) for c in commands if isinstance(c, StartReplica)]
    rows, meters = play([*commands, *stops], (), 300)
    assert sum(meters[-1][11].values()) == 0
    assert meters[-1][13] is False and meters[-1][3] == 0.0
    assert rows is not None
