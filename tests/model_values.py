"""Hypothesis strategies for every value of the model: `values_of(cls)` draws sound ones.

Fields follow from their types and limits; numbers lie on the grid that the wire keeps (µs, W, J), and what a model's
own check ties together is tied together here.
"""

from __future__ import annotations

import types
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from suanli.model import (
    Command,
    Event,
    FieldProblem,
    Fleet,
    NodeGroup,
    Plan,
    ReasonCode,
    Round,
    Site,
    Stage,
    StartOrder,
    StopOrder,
    Tariff,
    Workload,
    WorkloadRecord,
    WorkloadState,
)
from suanli.model.base import ID_PATTERN
from suanli.model.workload import NAME_PATTERN

IDS = st.text("az09", min_size=1, max_size=3)
WORKLOAD_NAMES = st.builds(lambda t, w: f"tenants/{t}/workloads/{w}", IDS, IDS)
TEXTS = st.text("aZ9松江-/[]", max_size=4)
INSTANTS = st.integers(0, 4_000_000_000)
MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
COUNTS = st.integers(0, 100_000)
GRID_STEP = {"_ms": 1000, "_kw": 1000, "_kwh": 1000, "_frac": 64, "_c": 16}
WIRE_REFS = {
    "site_id",
    "from_site_id",
    "to_site_id",
    "plan_id",
    "round_id",
    "run_id",
    "node_id",
    "placement_id",
    "zone_id",
}


def values_of(cls: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Sound values of a model class."""
    special = _SPECIAL.get(cls)
    return special() if special is not None else fields_of(cls)


def fields_of(cls: type[BaseModel], **fixed: Any) -> st.SearchStrategy[Any]:
    """Values whose fields are drawn one by one; `fixed` gives strategies for some."""
    drawn = {
        name: fixed[name] if name in fixed else _named(name, info) for name, info in cls.model_fields.items()
    }
    return st.fixed_dictionaries(drawn).map(cls.model_validate)


def _named(name: str, info: FieldInfo) -> st.SearchStrategy[Any]:
    # a required text is never empty on the wire
    if info.annotation is str and info.is_required() and not info.metadata and name != "workload":
        return IDS
    return _field(name, info.annotation, info.metadata)


def _field(name: str, annotation: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    if name in WIRE_REFS and annotation is str:
        return IDS
    if name == "workload" and annotation is str:
        return WORKLOAD_NAMES
    return _typed(name, annotation, metadata)


def _typed(name: str, annotation: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [m for a in args[1:] for m in (a.metadata if hasattr(a, "metadata") else [a])]
        return _typed(name, args[0], [*metadata, *inner])
    if origin in (Union, types.UnionType):
        return st.one_of(st.none(), *(_typed(name, a, metadata) for a in args if a is not type(None)))
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            low = next((m.min_length for m in metadata if isinstance(m, annotated_types.MinLen)), 0)
            return st.lists(_typed(name, args[0], []), min_size=low, max_size=max(low, 3)).map(tuple)
        return st.tuples(*(_typed(name, a, []) for a in args))
    if origin is dict:
        return st.dictionaries(_typed("", args[0], []), _typed(name, args[1], []), max_size=3)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return values_of(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return st.sampled_from(list(annotation))
    if annotation is bool:
        return st.booleans()
    if annotation is datetime:
        return MOMENTS
    if annotation is int:
        return _integers(name, metadata)
    if annotation is float:
        return _floats(name, metadata)
    if annotation is str:
        return _strings(metadata)
    raise NotImplementedError(f"{name}: {annotation}")


def _limits(metadata: list[Any]) -> tuple[float | None, float | None]:
    low = next((m.ge for m in metadata if isinstance(m, annotated_types.Ge)), None)
    over = next((m.gt for m in metadata if isinstance(m, annotated_types.Gt)), None)
    high = next((m.le for m in metadata if isinstance(m, annotated_types.Le)), None)
    return (low if over is None else over + 1, high)  # type: ignore[return-value, operator]


def _integers(name: str, metadata: list[Any]) -> st.SearchStrategy[int]:
    low, high = _limits(metadata)
    if name.endswith(("at_s", "from_s", "until_s")):
        return INSTANTS
    return st.integers(int(low or 0), min(int(high), 2**31 - 1) if high is not None else 1_000_000)


def _floats(name: str, metadata: list[Any]) -> st.SearchStrategy[float]:
    low, high = _limits(metadata)
    step = next((v for suffix, v in GRID_STEP.items() if name.endswith(suffix)), 64)
    bottom = int(step * (low if low is not None else 0))
    return st.integers(bottom, int(step * (high if high is not None else 10_000))).map(lambda n: n / step)


def _strings(metadata: list[Any]) -> st.SearchStrategy[str]:
    pattern = next((m.pattern for m in metadata if getattr(m, "pattern", None)), None)
    if pattern == ID_PATTERN:
        return IDS
    if pattern == NAME_PATTERN:
        return WORKLOAD_NAMES
    if pattern and pattern.startswith("^(sites/"):
        return st.one_of(
            st.sampled_from(["class:edge", "class:cloud", "fleet"]), IDS.map(lambda i: f"sites/{i}")
        )
    if pattern:
        return st.from_regex(pattern, fullmatch=True)
    return IDS if any(isinstance(m, annotated_types.MinLen) for m in metadata) else TEXTS


# What models tie together


@st.composite
def stages(draw: st.DrawFn, stage_id: str = "main") -> Stage:
    replicas = draw(st.integers(1, 50))
    gang = draw(st.booleans())
    gpu_milli = st.one_of(st.integers(1, 1000), st.integers(1, 16).map(lambda n: 1000 * n))
    spread = st.none() | st.fixed_dictionaries(
        {
            "over": st.just("node") if gang else st.sampled_from(["node", "site"]),
            "min_domains": st.integers(1, replicas),
        }
    )
    value: Stage = draw(
        fields_of(
            Stage,
            stage_id=st.just(stage_id),
            replicas=st.just(replicas),
            replicas_max=st.none() | st.integers(replicas, 100),
            gang=st.just(gang),
            gpu_milli=st.dictionaries(IDS, gpu_milli, max_size=3),
            spread=spread,
            colocate_with=st.none(),
            shared_with=st.none() | IDS.map(lambda w: f"tenants/elsewhere/workloads/{w}"),
        )
    )
    return value


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    ids = draw(st.lists(IDS, min_size=1, max_size=3, unique=True))
    ends = st.sampled_from([f"stages/{i}" for i in ids])
    zones = IDS.map(lambda z: f"zones/{z}")
    flow = st.fixed_dictionaries(
        {
            "source": zones | ends,
            "target": ends,
            "access_id": st.just("") | IDS,
            "mbps": _floats("mbps", []),
            "rtt_p99_max_ms": st.none() | st.integers(1, 10**7).map(lambda n: n / 1000),
        }
    )
    paths = st.lists(IDS, max_size=2, unique=True).flatmap(
        lambda path_ids: st.tuples(
            *(
                st.fixed_dictionaries(
                    {
                        "path_id": st.just(p),
                        "via": st.lists(zones | ends, min_size=2, max_size=5),
                        "budget_ms": st.integers(1, 10**7).map(lambda n: n / 1000),
                    }
                )
                for p in path_ids
            )
        )
    )
    window = sorted(draw(st.lists(MOMENTS, min_size=2, max_size=2, unique=True)))
    value: Workload = draw(
        fields_of(
            Workload,
            stages=st.tuples(*(stages(i) for i in ids)),
            flows=st.lists(flow, max_size=3),
            paths=paths,
            not_before_at=st.sampled_from([None, window[0]]),
            deadline_at=st.sampled_from([None, window[1]]),
        )
    )
    return value


def _groups() -> st.SearchStrategy[NodeGroup]:
    def tie(group: dict[str, Any]) -> NodeGroup:
        group["max_w"] = group["idle_w"] + group["max_w"]
        if not group["gpu_count"]:
            group["gpu_model"] = ""
        return NodeGroup.model_validate(group)

    drawn = {n: _named(n, i) for n, i in NodeGroup.model_fields.items()}
    return st.fixed_dictionaries({**drawn, "gpu_model": IDS}).map(tie)


def _sites(
    site_id: st.SearchStrategy[str] = IDS, tariff_id: st.SearchStrategy[str] = IDS
) -> st.SearchStrategy[Site]:
    groups = st.lists(values_of(NodeGroup), min_size=1, max_size=2, unique_by=lambda g: g.group_id)
    return fields_of(Site, site_id=site_id, tariff_id=tariff_id, groups=groups.map(tuple))


def _tariffs(tariff_id: st.SearchStrategy[str] = IDS) -> st.SearchStrategy[Tariff]:
    day = st.lists(_floats("price", []), min_size=24, max_size=24)
    months = st.dictionaries(st.integers(1, 12), day, max_size=2)
    return fields_of(
        Tariff,
        tariff_id=tariff_id,
        price_yuan_per_kwh_by_month=months,
        utc_offset_hours=st.integers(-12, 14),
    )


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    from suanli.model import AccessProfile, Dataset, Link, Network, Zone

    site_ids = draw(st.lists(IDS, min_size=1, max_size=2, unique=True))
    hubs = draw(st.dictionaries(IDS, st.tuples(_floats("x", []), _floats("y", [])), min_size=1, max_size=2))
    access_ids = draw(st.lists(IDS, max_size=2, unique=True))
    ends = st.sampled_from([*site_ids, *hubs])
    network = fields_of(
        Network,
        hubs=st.just(hubs),
        links=st.lists(IDS, max_size=2, unique=True).flatmap(
            lambda ids: st.tuples(
                *(fields_of(Link, link_id=st.just(i), ends=st.tuples(ends, ends)) for i in ids)
            )
        ),
        access=st.tuples(*(fields_of(AccessProfile, access_id=st.just(i)) for i in access_ids)),
    )
    mix = (
        st.dictionaries(st.sampled_from(access_ids), _floats("x_frac", [annotated_types.Le(1)]))
        if access_ids
        else st.just({})
    )
    value: Fleet = draw(
        fields_of(
            Fleet,
            sites=st.tuples(*(_sites(st.just(i), st.just("city")) for i in site_ids)),
            zones=st.lists(
                fields_of(Zone, hub_id=st.sampled_from(sorted(hubs)), access_mix=mix),
                max_size=2,
                unique_by=lambda z: z.zone_id,
            ).map(tuple),
            network=network,
            tariffs=st.tuples(_tariffs(st.just("city"))),
            datasets=st.lists(
                fields_of(Dataset, site_ids=st.lists(st.sampled_from(site_ids), max_size=2).map(tuple)),
                max_size=1,
            ).map(tuple),
        )
    )
    return value


def _records() -> st.SearchStrategy[WorkloadRecord]:
    def build(workload: Workload, state: WorkloadState, full: bool, status: dict[str, Any]) -> WorkloadRecord:
        record = WorkloadRecord.of(workload, state, **status)
        return record if full else record.basic()

    drawn = {
        n: _field(n, WorkloadRecord.model_fields[n].annotation, WorkloadRecord.model_fields[n].metadata)
        for n in (
            "etag", "created_at_s", "updated_at_s", "summary", "replica_count", "placed_replica_count",
            "running_replica_count", "done_replica_count", "gpu_milli", "queue_position", "expected_start",
        )
    }  # fmt: skip
    status = st.fixed_dictionaries(
        {
            **drawn,
            "pending_reasons": REASON_COUNTS,
            "site_ids": st.lists(IDS, max_size=2).map(tuple),
            "warnings": st.lists(values_of(FieldProblem), max_size=2).map(tuple),
        }
    )
    return st.builds(build, workloads(), st.sampled_from(list(WorkloadState)), st.booleans(), status)


REASON_COUNTS = st.dictionaries(
    st.sampled_from([str(c) for c in ReasonCode]), st.integers(0, 999), max_size=3
)
_SERIES = st.dictionaries(IDS, st.lists(_floats("x_kw", []), min_size=1, max_size=3).map(tuple), max_size=2)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | TEXTS
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(TEXTS, below, max_size=2),
    max_leaves=5,
)

_SPECIAL: dict[type[BaseModel], Any] = {
    Stage: stages,
    Workload: workloads,
    NodeGroup: _groups,
    Site: _sites,
    Tariff: _tariffs,
    Fleet: fleets,
    WorkloadRecord: _records,
    Command: lambda: st.one_of(
        fields_of(Command, start=values_of(StartOrder), stop=st.none()),
        fields_of(Command, start=st.none(), stop=values_of(StopOrder)),
    ),
    Round: lambda: fields_of(Round, pending_by_reason=REASON_COUNTS),
    Plan: lambda: fields_of(
        Plan,
        sites_on=st.dictionaries(IDS, st.lists(st.booleans(), min_size=1, max_size=3).map(tuple), max_size=2),
        forecast_it_kw=_SERIES,
        forecast_facility_kw=_SERIES,
    ),
    Event: lambda: fields_of(Event, body=st.dictionaries(TEXTS, _JSON, max_size=3)),
}
