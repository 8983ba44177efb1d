"""List and watch, cut anywhere and resumed, show the same as a full list at the end."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.service.feed import Feed
from suanli.model import (
    ChangeType,
    ReplicaPhase,
    ReplicaReport,
    SimulationRun,
    TelemetryReport,
    WorkloadRecord,
)
from tests.service_worlds import START_S, a_fleet, a_service, a_workload, running

WAIT_S = 10.0
STEPS = st.sampled_from(["create", "cancel", "advance", "report", "cut", "read"])


def shown(records: dict[str, WorkloadRecord]) -> dict[str, tuple[object, ...]]:
    return {n: (r.state, r.etag, r.placed_replica_count, r.site_ids) for n, r in records.items()}


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(STEPS, min_size=3, max_size=25),
    st.sampled_from(
        ["", "state = PENDING", "state != CANCELLED", 'labels.team = "t1"', "placed_sites : edge"]
    ),
    st.integers(1, 40),
)
def test_a_watch_with_cuts_equals_a_list(steps, filter_text, ring):
    service = a_service(virtual=True)
    service.core.feed = Feed(service.core.store, ring_events=ring)
    with running(service):
        service.simulations.create(
            SimulationRun(run_id="day", start_at_s=START_S, advanced_until_s=START_S)
        ).result(WAIT_S)
        service.fleet.register(a_fleet()).result(WAIT_S)
        seen: dict[str, WorkloadRecord] = {}
        token = ""
        follower = service.workloads.follow(filter_text=filter_text)
        made, now_s = 0, START_S

        def read() -> None:
            nonlocal token
            for change in (*follower.initial(), *follower.next_changes()):
                token = change.resume_token
                if change.type is ChangeType.DELETED:
                    seen.pop(change.name, None)
                elif change.record is not None:
                    assert (change.name in seen) or change.type is ChangeType.ADDED or made, (
                        "modified before added"
                    )
                    seen[change.name] = change.record

        for step in [*steps, "read", "read"]:
            if step == "create":
                service.workloads.create(
                    a_workload(f"w{made}", labels={"team": f"t{made % 2}"}, stage={"duration_s": 60})
                ).result(WAIT_S)
                made += 1
            elif step == "cancel" and made:
                service.workloads.cancel(a_workload(f"w{made - 1}").name).result(WAIT_S)
            elif step == "advance":
                now_s += 60
                service.simulations.advance("day", now_s).result(WAIT_S)
            elif step == "report":
                running_now = [
                    ReplicaReport(placement_id=c.start.placement_id, phase=ReplicaPhase.RUNNING, at_s=now_s)
                    for c in service.fleet.commands(size=1000).commands
                    if c.start is not None
                ]
                service.fleet.report(TelemetryReport(at_s=now_s, replicas=tuple(running_now))).result(WAIT_S)
            elif step == "cut":
                if not token:
                    seen.clear()
                follower = service.workloads.follow(filter_text=filter_text, resume_token=token)
            elif step == "read":
                read()
        listed = {
            r.name: r for r in service.workloads.page(filter_text=filter_text, size=1000, full=True).records
        }
        assert shown(seen) == shown(listed)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 25),
    st.integers(1, 7),
    st.sampled_from(["", "name desc", "create_time", "create_time desc", "update_time desc"]),
    st.sampled_from(["", "kind = BATCH", 'labels.team = "t1"']),
)
def test_pages_together_are_the_whole_list_in_order(count, size, order_by, filter_text):
    service = a_service(virtual=True)
    with running(service):
        service.simulations.create(
            SimulationRun(run_id="day", start_at_s=START_S, advanced_until_s=START_S)
        ).result(WAIT_S)
        service.fleet.register(a_fleet()).result(WAIT_S)
        for i in range(count):
            service.workloads.create(
                a_workload(f"w{i * 7 % 25}", tenant="ab"[i % 2], labels={"team": f"t{i % 2}"})
            ).result(WAIT_S)
            if i % 5 == 4:
                service.simulations.advance("day", START_S + 60 * i).result(WAIT_S)
        for parent in ("tenants/-", "tenants/a"):
            whole = service.workloads.page(parent, order_by=order_by, filter_text=filter_text, size=1000)
            names, token = [], ""
            while True:
                page = service.workloads.page(
                    parent, order_by=order_by, filter_text=filter_text, size=size, token=token
                )
                assert page.total_count == whole.total_count
                names += [r.name for r in page.records]
                token = page.next_token
                if not token:
                    break
            assert names == [r.name for r in whole.records]
            assert len(names) == len(set(names)) == whole.total_count
            key = {
                "": lambda r: r.name,
                "name desc": lambda r: r.name,
                "create_time": lambda r: (r.created_at_s, r.name),
                "create_time desc": lambda r: (r.created_at_s, r.name),
                "update_time desc": lambda r: (r.updated_at_s, r.name),
            }[order_by]
            assert list(whole.records) == sorted(whole.records, key=key, reverse=order_by.endswith("desc"))
