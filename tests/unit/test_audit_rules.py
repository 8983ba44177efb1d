"""The second audit: a day that is right passes, and each rule catches the day in which exactly it is broken.

`a_day()` is a played day by hand, as plain documents: three sites, thirteen workloads, an outage, a preemption, a move
and a plan.
A mutation changes documents; nothing else of the day changes, so the audit must name that rule and no other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster_sim import audit, audit_facts
from suanli.model import Event, EventKind, Fleet

START_S = 1_784_044_800
WINDOW_S = 600
DECLARED_S = 3600
Json = dict[str, Any]


# ------------------------------------------------------------------------------------------------ the fleet


def _group(group_id: str, count: int, model: str = "", gpus: int = 0, island: int = 0) -> Json:
    return {
        "group_id": group_id,
        "node_type": group_id,
        "node_count": count,
        "cpu_milli": 32_000,
        "memory_mib": 65_536,
        "gpu_model": model,
        "gpu_count": gpus,
        "gpu_memory_mib": 49_152 if gpus else 0,
        "storage_gib": 100,
        "idle_w": 200.0,
        "max_w": 1000.0,
        "gpu_dynamic_w": 300.0 if gpus else 0.0,
        "core_dynamic_w": 2.0,
        "island_node_count": island,
    }


def _site(site_id: str, kind: str, groups: list[Json], **more: Any) -> Json:
    return {
        "site_id": site_id,
        "kind": kind,
        "host_kind": "data_center" if kind == "cloud" else "telecom_room",
        "rated_it_kw": 10.0,
        "power_limit_kw": 10.0,
        "facility": {
            "plant": "test", "e0": 0.02, "e1": 0.02, "e2": 0.0, "lighting": 0.0,
            "cooling_fixed": 0.0, "cooling": "dx_economiser",
        },
        "tariff_id": "flat",
        "groups": groups,
        **more,
    }  # fmt: skip


def a_fleet() -> Json:
    links = [
        ("up-cloud", ["cloud", "core"], 100.0, 2),
        ("up-a", ["edge-a", "core"], 1.0, 1),
        ("up-b", ["edge-b", "core"], 1.0, 1),
        ("up-z", ["access-z", "core"], 1.0, 1),
    ]
    return {
        "sites": [
            _site(
                "cloud",
                "cloud",
                [_group("h20", 4, "h20", 2, island=2), _group("h20-new", 2, "h20", 2), _group("cpu", 2)],
            ),
            _site(
                "edge-a",
                "edge",
                [_group("l20", 2, "l20", 2)],
                has_upf=True,
                labels={"residency": "medical"},
                caps={"pue_cap_annual": 1.5},
                ledger_opening={"it_energy_kwh": 1000.0, "facility_energy_kwh": 1400.0},
            ),
            _site("edge-b", "edge", [_group("l20", 2, "l20", 2)], has_upf=True),
        ],
        "zones": [{"zone_id": "z1", "hub_id": "access-z", "access_mix": {"pon": 0.5, "5g": 0.5}}],
        "network": {
            "hubs": {"core": [0.0, 0.0], "access-z": [0.0, 0.0]},
            "links": [
                {"link_id": i, "ends": ends, "capacity_gbps": gbps, "hop_count": hops, "length_km": 2.0}
                for i, ends, gbps, hops in links
            ],
            "access": [
                {"access_id": "pon", "rtt_p50_ms": 3, "rtt_p99_ms": 6, "down_mbps": 120, "up_mbps": 30},
                {"access_id": "5g", "rtt_p50_ms": 4, "rtt_p99_ms": 8, "down_mbps": 500, "up_mbps": 80, "via_upf": True},
            ],
        },
        "tariffs": [{"tariff_id": "flat", "price_yuan_per_kwh_by_month": {"7": [0.6] * 24}}],
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ the day


@dataclass
class Day:
    """Plain documents of one day; `registered` replaces what the log registers, `revisions` those of the log."""

    fleet: Json = field(default_factory=a_fleet)
    registered: Json | None = None
    events: list[Json] = field(default_factory=list)
    revisions: dict[int, int] = field(default_factory=dict)
    now_s: int = START_S
    shapes: dict[str, Json] = field(default_factory=dict)

    # -- what the log says, one method per kind of event

    def add(self, kind: str, subject: str, body: Json, at_s: int | None = None) -> Json:
        event = {"kind": kind, "subject": subject, "body": body, "at_s": self.now_s if at_s is None else at_s}
        self.events.append(event)
        return event

    def submit(self, name: str, stages: list[Json], deadline_s: int = 0, **rest: Any) -> None:
        body = {"kind": "inference", "workload_class": name, "stages": stages, **rest}
        self.shapes[name] = body
        self.add("shape.interned", f"shapes/{len(self.shapes) - 1}", {"shape": body})
        self.add(
            "workload.submitted",
            full(name),
            {
                "shape": len(self.shapes) - 1,
                "replicas": [s.get("replicas", 1) for s in stages],
                "duration_s": [s.get("duration_s") for s in stages],
                "not_before_s": 0,
                "deadline_s": deadline_s,
            },
        )

    def order(
        self, place: str, node: str, gpus: tuple[int, ...] = (), done_work_s: float = 0.0, size: int = 1
    ) -> None:
        """`order("svc/main/0#0", "edge-a/l20/1", gpus=(0,))`."""
        name, stage_id, rest = place.split("/")
        stage = next(s for s in self.shapes[name]["stages"] if s["stage_id"] == stage_id)
        site_id, group_id, index = node.split("/")
        groups = {
            g["group_id"]: g for s in self.fleet["sites"] if s["site_id"] == site_id for g in s["groups"]
        }
        needs = dict(stage.get("gpu_milli", ()))
        command = {
            "placement_id": placement(place),
            "workload": full(name),
            "stage_id": stage_id,
            "replica_index": int(rest.split("#")[0]),
            "site_id": site_id,
            "group_id": group_id,
            "node_index": int(index),
            "at_s": self.now_s,
            "cpu_milli": stage["cpu_milli"],
            "memory_mib": stage["memory_mib"],
            "gpu_milli": needs.get(groups[group_id]["gpu_model"], 0),
            "gpu_ids": list(gpus),
            "reference_gpu_milli": next(iter(needs.values()), 0),
            "utilization_frac": 0.5,
            "startup_s": 30,
            "declared_work_s": 0 if stage.get("duration_s") is None else DECLARED_S,
            "done_work_s": done_work_s,
            "is_service": stage.get("duration_s") is None,
            "checkpoint_interval_s": stage.get("checkpoint_interval_s", 0),
            "gang_size": size,
            "transfer_gib": 0.0,
        }
        self.add("replica.start_ordered", placement(place), {"command": command, "rtt_p99_ms": 0.0})

    def runs(self, place: str, site_id: str, after_s: int = 60) -> None:
        self.add("replica.running", placement(place), {"site_id": site_id}, self.now_s + after_s)

    def ends(self, place: str, site_id: str, phase: str, done_work_s: float = 0.0, after_s: int = 60) -> None:
        body = {
            "site_id": site_id,
            "phase": phase,
            "done_work_s": done_work_s,
            "delivered_gpu_s": 0.0,
            "detail": "",
        }
        self.add("replica.ended", placement(place), body, self.now_s + after_s)

    def stops(self, place: str, site_id: str, kind: str, after_s: int = 0) -> None:
        body = {"site_id": site_id, "kind": kind, "cause": f"{kind} in words"}
        self.add("replica.stop_ordered", placement(place), body, self.now_s + after_s)

    def state(self, name: str, *states: str) -> None:
        for state in states:
            self.add("workload.state", full(name), {"state": state, "cause": ""})

    def meters(self) -> None:
        """The window that began now, then the next one begins."""
        until_s = self.now_s + WINDOW_S
        rows = [
            {
                "site_id": s["site_id"],
                "from_s": self.now_s,
                "until_s": until_s,
                "it_energy_kwh": 1.0,
                "facility_energy_kwh": 1.375,
                "useful_it_energy_kwh": 0.75,
                "open": True,
                "up": True,
            }
            for s in self.fleet["sites"]
        ]
        self.now_s = until_s
        self.add("site.metered", "sites", {"meters": rows})

    # -- reading it back

    def find(self, kind: str, subject: str, nth: int = 0) -> Json:
        """The nth event of that kind whose subject contains these words."""
        return [e for e in self.events if e["kind"] == kind and subject in e["subject"]][nth]

    def drop(self, kind: str, subject: str, nth: int = 0) -> Json:
        event = self.find(kind, subject, nth)
        self.events = [e for e in self.events if e is not event]
        return event

    def put(self, event: Json, *, before: Json | None = None, after: Json | None = None) -> None:
        other = before if before is not None else after
        at = next(i for i, e in enumerate(self.events) if e is other)
        self.events.insert(at if before is not None else at + 1, event)

    def stage(self, name: str, index: int = 0) -> Json:
        """The stage of a shape; what orders say of it does not change with it."""
        stage: Json = self.shapes[name]["stages"][index]
        return stage

    def command(self, place: str) -> Json:
        command: Json = self.find("replica.start_ordered", placement(place))["body"]["command"]
        return command

    def site(self, site_id: str) -> Json:
        site: Json = next(s for s in self.fleet["sites"] if s["site_id"] == site_id)
        return site

    def log(self) -> list[Event]:
        self.events[0]["body"]["fleet"] = self.registered or self.fleet
        return [
            Event.model_validate({**copy.deepcopy(e), "revision": self.revisions.get(i, i + 1)})
            for i, e in enumerate(self.events)
        ]

    def audit(self) -> audit.AuditResult:
        return audit.audit_log(self.log(), Fleet.model_validate(self.fleet))


def full(name: str) -> str:
    return f"tenants/t/workloads/{name}"


def placement(place: str) -> str:
    return f"tenants/t/workloads/{place}"


def _stage(stage_id: str = "main", **more: Any) -> Json:
    return {"stage_id": stage_id, "cpu_milli": 4000, "memory_mib": 8192, "utilization_frac": 0.5, **more}


def _submit_all(day: Day) -> None:
    flow = {"source": "zones/z1", "target": "stages/main", "access_id": "5g", "mbps": 100.0}
    day.submit(
        "svc",
        [
            _stage(
                gpu_milli=[["l20", 500], ["h20", 400]],
                gpu_memory_mib=24_000,
                require_any=[{"residency": "medical"}, {"tee": "yes"}],
                processing_p99_ms={"l20": 10.0, "h20": 5.0},
            )
        ],
        flows=[{**flow, "rtt_p99_max_ms": 12.0}],
        paths=[{"path_id": "loop", "via": ["zones/z1", "stages/main"], "budget_ms": 25.0}],
    )
    day.submit("side", [_stage(gpu_milli=[["l20", 500]])])
    day.submit(
        "train", [_stage(gpu_milli=[["h20", 2000]], gang=True, replicas=2, duration_s=1)], kind="training"
    )
    legs = [{"source": "stages/ingest", "target": "stages/sync", "mbps": 1.0, "rtt_p99_max_ms": 5.0}]
    day.submit("store", [_stage("ingest"), _stage("sync", colocate_with="ingest")], kind="twin", flows=legs)
    around = ["zones/z1", "stages/ingest", "stages/sync", "zones/z1"]
    day.submit(
        "user",
        [_stage("ingest", processing_p99_ms={"cpu": 5.0}), _stage("sync", shared_with=full("store"))],
        kind="twin",
        priority_class="public_service",
        flows=legs,
        paths=[{"path_id": "loop", "via": around, "budget_ms": 60.0}],
    )
    day.submit(
        "pair",
        [_stage(replicas=2, storage_gib=40, site_ids=["cloud"], spread={"over": "node", "min_domains": 2})],
    )
    day.submit("mover", [_stage(gpu_milli=[["l20", 1000]])])
    day.submit("batch", [_stage(duration_s=1)], kind="batch")
    day.submit("camera", [_stage()])
    day.submit("broken", [_stage(duration_s=1)], kind="batch")
    day.submit("taken-back", [_stage()])
    day.submit("spare", [_stage(duration_s=1, preemptible=True)], kind="batch")
    rests = _stage(duration_s=1, preemptible=True, checkpoint_interval_s=60)
    day.submit("rest", [rests], deadline_s=START_S + 3 * DECLARED_S, kind="batch", deferrable=True)
    day.submit("later", [_stage(duration_s=1)], kind="batch", deferrable=True)


FIRST_ORDERS: tuple[tuple[str, str, tuple[int, ...], int], ...] = (
    ("svc/main/0#0", "edge-a/l20/0", (0,), 1),
    ("side/main/0#0", "edge-a/l20/0", (0,), 1),
    ("train/main/0#0", "cloud/h20/0", (0, 1), 2),
    ("train/main/1#0", "cloud/h20/1", (0, 1), 2),
    ("store/ingest/0#0", "edge-a/l20/1", (), 1),
    ("store/sync/0#0", "edge-a/l20/1", (), 1),
    ("user/ingest/0#0", "edge-b/l20/1", (), 1),
    ("pair/main/0#0", "cloud/cpu/0", (), 1),
    ("pair/main/1#0", "cloud/cpu/1", (), 1),
    ("mover/main/0#0", "edge-a/l20/1", (0,), 1),
    ("batch/main/0#0", "edge-b/l20/0", (), 1),
    ("camera/main/0#0", "edge-b/l20/0", (), 1),
    ("broken/main/0#0", "cloud/cpu/0", (), 1),
    ("taken-back/main/0#0", "cloud/cpu/1", (), 1),
    ("spare/main/0#0", "cloud/h20-new/0", (), 1),
    ("rest/main/0#0", "cloud/h20-new/0", (), 1),
)


def a_day() -> Day:
    """Everything starts in the first window; then an outage, a move, a plan; the last window is quiet."""
    day = Day()
    day.add("fleet.registered", "fleet", {})
    day.add("policy.revised", "policies/default", {"policy": {"revision": 1}})
    _submit_all(day)
    for place, node, gpus, size in FIRST_ORDERS:
        day.order(place, node, gpus, size=size)
    names = sorted({place.split("/")[0] for place, *_ in FIRST_ORDERS})
    for name in names:
        day.state(name, "starting")
    day.state("later", "planned")
    for place, node, *_ in FIRST_ORDERS:
        day.runs(place, node.split("/")[0])
    for name in names:
        day.state(name, "running")
    day.meters()
    # edge-b fails and returns; batch goes on elsewhere, camera waits
    day.add("site.down", "sites/edge-b", {"cause": "feed"}, day.now_s + 10)
    for place, done_s in (("batch/main/0#0", 300.0), ("camera/main/0#0", 0.0), ("user/ingest/0#0", 0.0)):
        day.ends(place, "edge-b", "lost", done_s, after_s=10)
    for name in ("batch", "camera", "user"):
        day.state(name, "pending")
    day.order("batch/main/0#1", "edge-a/l20/0", done_work_s=300.0)
    day.state("batch", "starting")
    day.meters()
    day.add("site.up", "sites/edge-b", {"cause": "feed repaired"})
    day.runs("batch/main/0#1", "edge-a")
    day.ends("broken/main/0#0", "cloud", "failed")
    day.state("batch", "running")
    day.state("broken", "failed")
    # the twin comes back in place of spare, mover leaves edge-a, a tenant changes her mind
    day.stops("spare/main/0#0", "cloud", "preempted")
    body = {"by": full("user"), "cause": "no free room", "site_id": "cloud"}
    day.add("replica.preempted", placement("spare/main/0#0"), body)
    day.order("user/ingest/0#1", "edge-b/l20/1")
    day.order("mover/main/0#1", "edge-b/l20/0", (1,))
    day.add(
        "replica.moved",
        placement("mover/main/0#1"),
        {"from_site_id": "edge-a", "to_site_id": "edge-b", "mode": "edge_edge"},
    )
    day.stops("rest/main/0#0", "cloud", "paused")
    pause = {"workload": full("rest"), "site_id": "cloud", "until_s": START_S + 2 * DECLARED_S}
    day.add("replica.paused", placement("rest/main/0#0"), pause | {"lost_gpu_hours": 0.0})
    day.state("user", "starting")
    day.state("spare", "pending")
    day.state("rest", "pending")
    day.add("workload.cancelled", full("taken-back"), {"cause": "asked"})
    day.stops("taken-back/main/0#0", "cloud", "cancelled")
    day.state("taken-back", "cancelled")
    day.meters()
    day.runs("user/ingest/0#1", "edge-b")
    day.runs("mover/main/0#1", "edge-b", after_s=90)
    day.stops("mover/main/0#0", "edge-a", "moved", after_s=90)
    day.ends("taken-back/main/0#0", "cloud", "stopped")
    day.ends("spare/main/0#0", "cloud", "stopped", after_s=0)
    day.ends("rest/main/0#0", "cloud", "stopped", after_s=0)
    day.state("user", "running")
    day.meters()
    day.ends("mover/main/0#0", "edge-a", "stopped", after_s=0)
    day.ends("batch/main/0#1", "edge-a", "succeeded", 600.0)
    day.ends("train/main/0#0", "cloud", "succeeded", 900.0)
    day.ends("train/main/1#0", "cloud", "succeeded", 900.0)
    day.state("batch", "succeeded")
    day.state("train", "succeeded")
    _plan(day)
    day.meters()
    day.meters()
    day.add("run.advanced", "runs/r", {"until_s": day.now_s})
    return day


def _plan(day: Day) -> None:
    """Four windows of 0.75 useful kWh and 1.375 kWh at the meter stand behind edge-a's balance."""
    before = 1.5 * (1000.0 + 4 * 0.75) - (1400.0 + 4 * 1.375)
    day.add(
        "plan.committed",
        f"plans/{day.now_s}",
        {
            "plan_id": f"plans/{day.now_s}",
            "violations": 0,
            "bounds": [
                {"model": "lp", "scope": "fleet", "objective_yuan": 200.0, "bound_yuan": 199.0, "gap_frac": 1.0 / 200.0}
            ],
            "ledger": [
                {
                    "site_id": "edge-a",
                    "pue_cap_annual": 1.5,
                    "balance_before_kwh": before,
                    "balance_after_kwh": before - 12.0,
                    "released_kwh": 10.0,
                    "used_kwh": 12.0,
                    "debt_kwh": 2.0,
                }
            ],
        },
    )  # fmt: skip


def broken_rules(day: Day) -> set[str]:
    """Names of the rules in the audit's sentences."""
    return {v.split(" breaks ")[1].split(":")[0] for v in day.audit().violations}


# ------------------------------------------------------------------------------------- the day that is right


def test_a_right_day_passes():
    result = a_day().audit()
    assert result.violations == ()
    assert result.checked_count > 500


@pytest.mark.parametrize("rule", audit.RULES, ids=lambda rule: rule.__name__)
def test_no_rule_is_idle_on_the_right_day(rule):
    day = a_day()
    facts = audit_facts.Facts.of(day.log(), Fleet.model_validate(day.fleet))
    assert rule(facts).checked_count > 0


def test_the_day_is_full_to_the_limit_where_a_limit_is_tested():
    """edge-a's GPU 0 carries 500 + 500 milli; one more than that must not pass."""
    day = a_day()
    assert day.command("svc/main/0#0")["gpu_milli"] + day.command("side/main/0#0")["gpu_milli"] == 1000


# -------------------------------------------------------------------------------- one broken rule at a time

Mutation = Callable[[Day], object]
MUTATIONS: list[tuple[str, str, Mutation]] = []


def breaks(rule: str) -> Callable[[Mutation], Mutation]:
    """Declare a mutation of the right day that breaks exactly this rule."""

    def keep(mutation: Mutation) -> Mutation:
        MUTATIONS.append((rule, mutation.__name__, mutation))
        return mutation

    return keep


@breaks("fleet_is_the_one_given")
def log_registers_another_fleet(day: Day) -> None:
    day.registered = copy.deepcopy(day.fleet)
    day.registered["sites"][0]["power_limit_kw"] = 11.0


@breaks("revisions_count_up")
def last_event_repeats_a_revision(day: Day) -> None:
    day.revisions[len(day.events) - 1] = len(day.events) - 1


@breaks("work_is_submitted_once")
def a_name_is_accepted_twice(day: Day) -> None:
    first = day.find("workload.submitted", "later")
    day.put(copy.deepcopy(first), after=first)


@breaks("order_is_for_known_work")
def submission_comes_after_the_order(day: Day) -> None:
    day.put(
        day.drop("workload.submitted", "taken-back"), after=day.find("replica.start_ordered", "taken-back")
    )


@breaks("stage_and_replica_exist")
def order_for_a_third_replica_of_two(day: Day) -> None:
    extra = copy.deepcopy(day.find("replica.start_ordered", "pair/main/1"))
    extra["subject"] = extra["body"]["command"]["placement_id"] = placement("pair/main/2#0")
    extra["body"]["command"]["replica_index"] = 2
    day.put(extra, after=day.find("replica.start_ordered", "pair/main/1"))


@breaks("stage_and_replica_exist")
def order_for_a_stage_that_is_shared(day: Day) -> None:
    extra = copy.deepcopy(day.find("replica.start_ordered", "user/ingest/0#0"))
    extra["subject"] = extra["body"]["command"]["placement_id"] = placement("user/sync/0#0")
    extra["body"]["command"].update(stage_id="sync", site_id="edge-a")
    day.put(extra, after=day.find("replica.start_ordered", "user/ingest/0#0"))


@breaks("placement_is_ordered_once")
def command_names_another_placement(day: Day) -> None:
    day.command("svc/main/0#0")["placement_id"] = placement("svc/main/0#7")


@breaks("incarnations_count_up")
def an_incarnation_is_left_out(day: Day) -> None:
    for event in day.events:
        if event["subject"] == placement("batch/main/0#1"):
            event["subject"] = placement("batch/main/0#2")
    day.command("batch/main/0#2")["placement_id"] = placement("batch/main/0#2")


@breaks("work_is_not_final")
def cancelled_work_is_ordered_again(day: Day) -> None:
    day.events.pop()
    day.order("taken-back/main/0#1", "cloud/cpu/1")
    day.ends("taken-back/main/0#1", "cloud", "lost")


@breaks("not_before_is_kept")
def started_an_hour_early(day: Day) -> None:
    day.find("workload.submitted", "svc")["body"]["not_before_s"] = START_S + 3600


@breaks("order_says_what_the_stage_asks")
def order_understates_utilisation(day: Day) -> None:
    day.command("svc/main/0#0")["utilization_frac"] = 0.1


@breaks("order_says_what_the_stage_asks")
def gang_of_two_is_told_to_wait_for_three(day: Day) -> None:
    day.command("train/main/1#0")["gang_size"] = 3


@breaks("one_place_per_replica")
def a_live_replica_is_started_again(day: Day) -> None:
    day.events.pop()
    day.order("svc/main/0#1", "edge-a/l20/1", (1,))


@breaks("move_stops_the_old")
def old_place_goes_on_after_the_move(day: Day) -> None:
    day.drop("replica.stop_ordered", "mover")
    day.drop("replica.ended", "mover")


@breaks("move_stops_the_old")
def old_place_is_stopped_late(day: Day) -> None:
    day.find("replica.stop_ordered", "mover")["at_s"] += 30


@breaks("move_is_told_truly")
def move_is_booked_under_another_mode(day: Day) -> None:
    day.find("replica.moved", "mover")["body"]["mode"] = "cloud_edge"


@breaks("move_is_told_truly")
def move_is_told_of_a_replica_that_stayed(day: Day) -> None:
    moved = day.find("replica.moved", "mover")
    told = copy.deepcopy(moved) | {"subject": placement("svc/main/0#0")}
    day.put(told, after=moved)


@breaks("preemption_is_lawful")
def work_that_may_not_be_preempted_gives_way(day: Day) -> None:
    day.stage("spare")["preemptible"] = False


@breaks("preemption_is_lawful")
def work_gives_way_to_its_equal(day: Day) -> None:
    day.shapes["user"]["priority_class"] = "batch"


@breaks("preemption_is_lawful")
def preempted_work_is_not_told_to_stop(day: Day) -> None:
    day.drop("replica.stop_ordered", "spare")


@breaks("pause_is_lawful")
def work_that_may_not_wait_pauses(day: Day) -> None:
    day.shapes["rest"]["deferrable"] = False


@breaks("pause_is_lawful")
def work_pauses_that_begins_from_nothing(day: Day) -> None:
    day.stage("rest")["checkpoint_interval_s"] = day.command("rest/main/0#0")["checkpoint_interval_s"] = 0


@breaks("pause_is_lawful")
def work_rests_too_long_for_its_deadline(day: Day) -> None:
    day.find("replica.paused", "rest")["body"]["until_s"] = START_S + 3 * DECLARED_S


@breaks("pause_is_lawful")
def paused_work_is_not_told_to_stop(day: Day) -> None:
    day.drop("replica.stop_ordered", "rest")


@breaks("pause_is_lawful")
def what_pauses_is_told_to_stop_for_another_reason(day: Day) -> None:
    day.find("replica.stop_ordered", "rest")["body"]["kind"] = "drained"


@breaks("preemption_is_lawful")
def what_gives_way_is_told_to_stop_for_another_reason(day: Day) -> None:
    day.find("replica.stop_ordered", "spare")["body"]["kind"] = "cancelled"


@breaks("restart_builds_on_saved_work")
def restart_claims_work_nobody_saved(day: Day) -> None:
    day.command("batch/main/0#1")["done_work_s"] = 301.0


@breaks("node_exists")
def order_for_a_node_beyond_the_group(day: Day) -> None:
    day.command("taken-back/main/0#0")["node_index"] = 2


@breaks("site_takes_work")
def start_on_a_site_that_is_down(day: Day) -> None:
    down = {"kind": "site.down", "subject": "sites/edge-a", "body": {"cause": ""}, "at_s": START_S}
    day.put(down, before=day.find("replica.start_ordered", "svc"))


@breaks("site_takes_work")
def start_on_a_site_that_is_cordoned(day: Day) -> None:
    body = {"cordoned": True, "node_index": -1, "group_id": ""}
    cordon = {"kind": "site.cordoned", "subject": "sites/cloud", "body": body, "at_s": START_S}
    day.put(cordon, before=day.find("replica.start_ordered", "pair"))


@breaks("site_takes_work")
def start_on_a_node_that_is_cordoned(day: Day) -> None:
    body = {"cordoned": True, "node_index": 1, "group_id": "cpu"}
    cordon = {"kind": "site.cordoned", "subject": "sites/cloud", "body": body, "at_s": START_S}
    day.put(cordon, before=day.find("replica.start_ordered", "svc"))


@breaks("site_takes_work")
def start_on_a_site_that_opened_cordoned(day: Day) -> None:
    day.site("edge-a")["cordoned"] = True


@breaks("gpu_model_is_accepted")
def room_has_another_gpu(day: Day) -> None:
    day.site("edge-a")["groups"][0]["gpu_model"] = "t4"


@breaks("gpu_share_fits_model")
def share_of_another_model_is_given(day: Day) -> None:
    day.command("svc/main/0#0")["gpu_milli"] = 400


@breaks("gpu_share_fits_model")
def whole_need_on_half_the_devices(day: Day) -> None:
    day.command("train/main/0#0")["gpu_ids"] = [0]


@breaks("gpu_memory_is_enough")
def gpu_has_too_little_memory(day: Day) -> None:
    day.site("edge-a")["groups"][0]["gpu_memory_mib"] = 23_999


@breaks("labels_match")
def room_loses_its_residency(day: Day) -> None:
    del day.site("edge-a")["labels"]["residency"]


@breaks("labels_match")
def alternatives_are_all_or_nothing(day: Day) -> None:
    """One alternative with two labels, of which the room has one."""
    day.stage("svc")["require_any"] = [{"residency": "medical", "tee": "yes"}]


@breaks("labels_match")
def implied_labels_count(day: Day) -> None:
    day.stage("side")["require_any"] = [{"kind": "cloud"}, {"host_kind": "substation"}, {"upf": "false"}]


@breaks("site_is_named")
def placed_beside_the_named_sites(day: Day) -> None:
    day.stage("pair")["site_ids"] = ["edge-a", "edge-b"]


@breaks("zone_legs_within_rtt")
def leg_is_a_little_too_long(day: Day) -> None:
    """5g 8 ms + two links of 0.1 + 0.03 + 0.2 ms = 8.66 ms."""
    day.shapes["svc"]["flows"][0]["rtt_p99_max_ms"] = 8.6


@breaks("zone_legs_within_rtt")
def without_its_own_upf_the_room_is_five_ms_away(day: Day) -> None:
    day.site("edge-a")["has_upf"] = False


@breaks("node_has_room")
def node_has_too_few_cores(day: Day) -> None:
    day.site("cloud")["groups"][2]["cpu_milli"] = 7999


@breaks("node_has_room")
def node_has_too_little_memory(day: Day) -> None:
    day.site("cloud")["groups"][2]["memory_mib"] = 16_383


@breaks("node_has_room")
def node_has_too_little_storage(day: Day) -> None:
    day.site("cloud")["groups"][2]["storage_gib"] = 39


@breaks("gpu_devices_exist")
def device_beyond_the_last_one(day: Day) -> None:
    day.command("mover/main/0#0")["gpu_ids"] = [2]


@breaks("gpu_device_is_not_shared_beyond_whole")
def shares_exceed_the_device(day: Day) -> None:
    day.stage("side")["gpu_milli"] = [["l20", 501]]
    day.command("side/main/0#0").update(gpu_milli=501, reference_gpu_milli=501)


@breaks("gpu_device_is_not_shared_beyond_whole")
def whole_device_is_given_twice(day: Day) -> None:
    day.command("mover/main/0#0").update(node_index=0, gpu_ids=[0])


@breaks("site_power_within_limit")
def room_is_over_its_limit(day: Day) -> None:
    """edge-b at most: node 0 idle 200 W + 150 W of one GPU at 0.5 + 4 W of cores, and node 1 200 + 4 W."""
    day.site("edge-b")["power_limit_kw"] = 0.557


@breaks("site_power_within_limit")
def room_is_over_the_limit_of_the_policy(day: Day) -> None:
    day.find("policy.revised", "default")["body"]["policy"]["sites"] = [
        {"target": "class:edge", "power_limit_kw": 0.557},
        {"target": "sites/edge-a", "power_limit_kw": 9.0},
    ]


@breaks("links_within_planning_load")
def camera_stream_fills_the_uplink(day: Day) -> None:
    """0.8 of 1 Gbps is 800 Mbps."""
    day.shapes["svc"]["flows"][0]["mbps"] = 801.0


@breaks("stage_legs_within_rtt")
def stages_are_too_far_apart(day: Day) -> None:
    """edge-b to edge-a: two links of 0.33 ms."""
    day.shapes["user"]["flows"] = [{**day.shapes["user"]["flows"][0], "rtt_p99_max_ms": 0.6}]


@breaks("paths_within_budget")
def path_of_one_stage_is_over_budget(day: Day) -> None:
    """8.66 ms of network and 10 ms of processing on an l20."""
    day.shapes["svc"]["paths"][0]["budget_ms"] = 18.6


@breaks("paths_within_budget")
def path_through_a_shared_stage_is_over_budget(day: Day) -> None:
    """In and out by the slowest access of the zone, 8.66 ms each, one leg of 0.66 ms, 5 ms of processing."""
    day.shapes["user"]["paths"][0]["budget_ms"] = 22.9


@breaks("colocated_stages_share_a_site")
def colocated_stages_are_apart(day: Day) -> None:
    day.stage("user")["colocate_with"] = "sync"


@breaks("shared_stage_is_placed")
def sharer_starts_before_the_stage_it_uses(day: Day) -> None:
    early = [day.drop("replica.start_ordered", "user/ingest/0#0"), day.drop("workload.state", "user")]
    for event in early:
        day.put(event, before=day.find("replica.start_ordered", "store/ingest"))


@breaks("replicas_are_spread")
def both_replicas_on_one_node(day: Day) -> None:
    day.command("pair/main/1#0")["node_index"] = 0


@breaks("replicas_are_spread")
def both_nodes_in_one_site_is_not_two_sites(day: Day) -> None:
    day.stage("pair")["spread"] = {"over": "site", "min_domains": 2}


@breaks("gang_starts_whole")
def half_of_the_gang_comes_a_minute_later(day: Day) -> None:
    day.find("replica.start_ordered", "train/main/1")["at_s"] += 60
    day.command("train/main/1#0")["at_s"] += 60
    day.find("replica.running", "train/main/1")["at_s"] += 60


@breaks("gang_lies_in_one_group")
def gang_lies_in_two_groups(day: Day) -> None:
    day.command("train/main/1#0")["group_id"] = "h20-new"


@breaks("gang_stays_in_one_island")
def gang_lies_across_islands(day: Day) -> None:
    day.command("train/main/1#0")["node_index"] = 2


@breaks("reports_name_ordered_placements")
def a_placement_nobody_ordered_runs(day: Day) -> None:
    day.events.pop()
    day.runs("later/main/0#0", "cloud")


@breaks("reports_name_ordered_placements")
def a_placement_ends_at_another_site(day: Day) -> None:
    day.find("replica.ended", "broken")["body"]["site_id"] = "edge-a"


@breaks("reports_name_ordered_placements")
def a_placement_ends_twice(day: Day) -> None:
    ended = day.find("replica.ended", "broken")
    day.put(copy.deepcopy(ended), after=ended)


@breaks("replica_lives_in_order")
def it_ran_before_it_was_ordered(day: Day) -> None:
    day.find("replica.running", "svc")["at_s"] = START_S - 1


@breaks("replica_lives_in_order")
def it_succeeded_without_running(day: Day) -> None:
    day.drop("replica.running", "batch/main/0#1")


@breaks("no_site_found_an_order_too_large")
def the_site_says_it_does_not_fit(day: Day) -> None:
    day.find("replica.ended", "batch/main/0#0")["body"]["detail"] = "overcommit: cpu_milli 4000 > 0 free"


@breaks("outage_ends_what_ran")
def a_replica_outlives_the_outage_of_its_site(day: Day) -> None:
    day.drop("replica.ended", "camera")
    day.drop("workload.state", "camera", nth=2)


@breaks("states_follow_order")
def work_runs_without_starting(day: Day) -> None:
    day.drop("workload.state", "svc")


@breaks("states_follow_order")
def a_final_state_is_left(day: Day) -> None:
    day.events.pop()
    day.state("broken", "failed")


@breaks("success_is_earned")
def one_of_two_replicas_was_stopped(day: Day) -> None:
    day.find("replica.ended", "train/main/1")["body"]["phase"] = "stopped"


@breaks("failure_has_a_cause")
def nothing_had_failed(day: Day) -> None:
    day.find("replica.ended", "broken")["body"]["phase"] = "lost"


@breaks("cancelling_cancels")
def nobody_asked_to_cancel(day: Day) -> None:
    day.drop("workload.cancelled", "taken-back")


@breaks("nothing_runs_after_final")
def cancelled_work_is_not_told_to_stop(day: Day) -> None:
    day.drop("replica.stop_ordered", "taken-back")


@breaks("stopped_work_ends")
def what_was_stopped_never_ended(day: Day) -> None:
    day.drop("replica.ended", "taken-back")


@breaks("end_state_is_true")
def lost_work_is_shown_as_running(day: Day) -> None:
    day.drop("workload.state", "camera", nth=2)


@breaks("end_state_is_true")
def running_work_is_shown_as_pending(day: Day) -> None:
    day.events.pop()
    day.state("svc", "pending")


@breaks("meter_windows_join")
def a_minute_is_not_metered(day: Day) -> None:
    day.find("site.metered", "sites", nth=5)["body"]["meters"][1]["from_s"] += 60


@breaks("meter_windows_join")
def a_site_stops_metering(day: Day) -> None:
    day.find("site.metered", "sites", nth=5)["body"]["meters"].pop()


@breaks("meter_energies_are_physical")
def useful_energy_exceeds_it_energy(day: Day) -> None:
    day.find("site.metered", "sites", nth=5)["body"]["meters"][0]["useful_it_energy_kwh"] = 1.01


@breaks("meter_energies_are_physical")
def facility_draws_less_than_it(day: Day) -> None:
    day.find("site.metered", "sites", nth=5)["body"]["meters"][0]["facility_energy_kwh"] = 0.99


@breaks("plan_has_no_violations")
def a_faulty_plan_is_committed(day: Day) -> None:
    day.find("plan.committed", "plans")["body"]["violations"] = 1


@breaks("plan_gap_is_true")
def gap_is_flattered(day: Day) -> None:
    day.find("plan.committed", "plans")["body"]["bounds"][0]["gap_frac"] = 0.0049


@breaks("plan_gap_is_true")
def bound_is_above_the_objective(day: Day) -> None:
    day.find("plan.committed", "plans")["body"]["bounds"][0].update(bound_yuan=201.0, gap_frac=-0.005)


@breaks("ledger_opens_with_the_meters")
def balance_is_not_what_the_meters_say(day: Day) -> None:
    row = day.find("plan.committed", "plans")["body"]["ledger"][0]
    row["balance_before_kwh"] += 0.01
    row["balance_after_kwh"] += 0.01


@breaks("ledger_opens_with_the_meters")
def policy_counts_all_it_energy_but_the_plan_does_not(day: Day) -> None:
    day.find("policy.revised", "default")["body"]["policy"]["ledger_load"] = "legal"


@breaks("ledger_adds_up")
def debt_is_left_out(day: Day) -> None:
    day.find("plan.committed", "plans")["body"]["ledger"][0]["debt_kwh"] = 1.9


@breaks("ledger_adds_up")
def balance_after_does_not_follow(day: Day) -> None:
    day.find("plan.committed", "plans")["body"]["ledger"][0]["balance_after_kwh"] += 1.0


@pytest.mark.parametrize(("rule", "name", "mutation"), MUTATIONS, ids=[f"{r}-{n}" for r, n, _ in MUTATIONS])
def test_exactly_the_broken_rule_is_named(rule, name, mutation):
    day = a_day()
    mutation(day)
    assert broken_rules(day) == {rule}


def test_every_rule_has_been_seen_to_fail():
    assert {rule for rule, *_ in MUTATIONS} == {rule.__name__ for rule in audit.RULES}


# --------------------------------------------------------------------------------- what is right stays right


def test_a_limit_that_is_just_kept_passes():
    day = a_day()
    day.shapes["svc"]["flows"][0].update(rtt_p99_max_ms=8.66, mbps=800.0)
    day.shapes["svc"]["paths"][0]["budget_ms"] = 18.66
    day.shapes["user"]["flows"] = [{**day.shapes["user"]["flows"][0], "rtt_p99_max_ms": 0.66}]
    day.site("edge-b")["power_limit_kw"] = 0.558
    day.site("cloud")["groups"][2].update(cpu_milli=8000, memory_mib=16_384, storage_gib=40)
    day.site("edge-a")["groups"][0]["gpu_memory_mib"] = 24_000
    assert day.audit().violations == ()


def test_room_is_free_from_the_stop_order_on():
    """What is told to stop gives its room to the next order of the same instant, not before."""
    day = a_day()
    stop = day.find("replica.stop_ordered", "taken-back")
    day.site("cloud")["groups"][2]["storage_gib"] = 40
    body = copy.deepcopy(day.find("replica.start_ordered", "pair/main/1"))
    body["subject"] = placement("pair/main/1#1")
    body["at_s"] = stop["at_s"]
    body["body"]["command"].update(placement_id=placement("pair/main/1#1"), at_s=stop["at_s"])
    pair_stop = {
        **stop,
        "subject": placement("pair/main/1#0"),
        "body": {"site_id": "cloud", "kind": "drained", "cause": "the site is emptied"},
    }
    ended = copy.deepcopy(day.find("replica.ended", "taken-back")) | {"subject": placement("pair/main/1#0")}
    runs = copy.deepcopy(day.find("replica.running", "user", nth=1)) | {"subject": placement("pair/main/1#1")}
    runs["body"] = {"site_id": "cloud"}
    day.put(body, after=stop)
    day.put(pair_stop, before=body)
    day.put(ended, after=day.find("replica.ended", "taken-back"))
    day.put(runs, after=day.find("replica.running", "user", nth=1))
    assert day.audit().violations == ()
    day.events = [e for e in day.events if e is not body]
    day.put(body, before=pair_stop)
    assert broken_rules(day) == {"node_has_room", "one_place_per_replica"}


@pytest.mark.parametrize(("node", "over"), [("edge-a/l20/1", False), ("edge-b/l20/1", True)])
def test_a_move_within_its_site_loads_the_links_once_and_one_to_another_site_twice(node: str, over: bool):
    """450 Mbps over an uplink that may carry 800, while both places stand."""
    day = a_day()
    day.events.pop()
    day.shapes["svc"]["flows"][0]["mbps"] = 450.0
    day.order("svc/main/0#1", node, (1,))
    assert any("links_within_planning_load" in v for v in day.audit().violations) == over


def test_the_old_place_of_a_move_that_failed_loads_its_links_again():
    """450 Mbps of it and 450 of another replica on an uplink that may carry 800."""
    day = a_day()
    day.events.pop()
    day.find("workload.submitted", "svc")["body"]["replicas"] = [2]
    day.shapes["svc"]["flows"][0]["mbps"] = 450.0
    day.order("svc/main/0#1", "edge-a/l20/1", (1,))
    day.ends("svc/main/0#1", "edge-a", "lost")
    day.order("svc/main/1#0", "edge-a/l20/1", (1,))
    assert any("links_within_planning_load" in v for v in day.audit().violations)


def test_a_gang_larger_than_an_island_takes_several():
    day = a_day()
    day.site("cloud")["groups"][0]["island_node_count"] = 1
    assert day.audit().violations == ()


def test_a_sharer_is_judged_again_when_the_shared_stage_moves_away():
    """The store is started anew at the cloud: further from its user than the user's flow allows."""
    day = a_day()
    day.shapes["user"]["flows"] = [{**day.shapes["user"]["flows"][0], "rtt_p99_max_ms": 0.7}]
    assert day.audit().violations == ()
    for stage in ("ingest", "sync"):
        order = day.command(f"store/{stage}/0#0")
        order.update(site_id="cloud", group_id="cpu", node_index=0)
        day.find("replica.running", f"store/{stage}")["body"]["site_id"] = "cloud"
    assert broken_rules(day) == {"stage_legs_within_rtt"}


def test_a_plan_that_was_cut_off_may_have_violations():
    day = a_day()
    plan = day.find("plan.committed", "plans")
    plan["body"]["violations"] = 3
    cut = {
        "kind": "solver.cut_off",
        "subject": plan["subject"],
        "body": {"status": "invalid"},
        "at_s": plan["at_s"],
    }
    day.put(cut, before=plan)
    assert day.audit().violations == ()


# ------------------------------------------------------------------------------------------------- the words


def test_a_violation_names_revision_time_subject_rule_expected_and_actual():
    day = a_day()
    day.command("train/main/1#0")["node_index"] = 2
    (sentence,) = day.audit().violations
    revision = day.log().index(next(e for e in day.log() if e.subject == placement("train/main/1#0"))) + 1
    assert sentence == (
        f"revision {revision} at 2026-07-14T16:00:00Z: tenants/t/workloads/train breaks gang_stays_in_one_island: "
        "expected gang main in one island of 2 nodes, found islands [0, 1]"
    )


def test_every_kind_of_event_that_a_day_is_made_of_is_in_the_right_day():
    """So that a rule cannot pass for want of events."""
    ours = {EventKind(e["kind"]) for e in a_day().events}
    left_out = {
        EventKind.SITE_CORDONED,
        EventKind.SITE_MODEL_LEARNED,
        EventKind.ROUND_COMMITTED,
        EventKind.CAP_BREACHED,
        EventKind.SOLVER_CUT_OFF,
    }
    assert ours == set(EventKind) - left_out
