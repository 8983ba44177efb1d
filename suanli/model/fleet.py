"""The fleet: sites with node groups and facility plant, zones where users attach, links, tariffs.

Everything a planner may know about the installed world; what the simulated world knows beyond it (true plant state,
failures to come) lies in `cluster_sim`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from suanli.model.base import Fraction, Identifier, Label, NonNegative, Positive, Value
from suanli.model.problems import Violation, Violations, repeated_ids, unknown_id


class SiteKind(StrEnum):
    """Tier of a site."""

    CLOUD = "cloud"
    EDGE = "edge"


class HostKind(StrEnum):
    """The building that hosts the site; sets power ceiling, cooling and failure domain."""

    DATA_CENTER = "data_center"
    TELECOM_ROOM = "telecom_room"
    SUBSTATION = "substation"
    BASE_STATION = "base_station"
    CABINET = "cabinet"
    CAMPUS = "campus"


class CoolingPlant(StrEnum):
    """Which curve k(weather) gives cooling power per unit of heat (domain formulas in `solvers.facility`)."""

    WATER_ECONOMISER_MID = "water_economiser_mid"
    WATER_ECONOMISER_POOR = "water_economiser_poor"
    CHILLER_FIXED = "chiller_fixed"
    DX_MECHANICAL = "dx_mechanical"
    DX_ECONOMISER = "dx_economiser"


class MeteringCategory(StrEnum):
    """Where IT energy is read (ISO/IEC 30134-2 categories)."""

    UPS_OUTPUT = "ups_output"
    PDU_OUTPUT = "pdu_output"
    IT_INPUT = "it_input"


class Facility(Value):
    """Nominal plant of a site, as fractions of rated IT power R; the planner learns how far the truth is off.

    Electrical loss at load u = P/R is R·(e0 + e1·u + e2·u²); `lighting` and `cooling_fixed` are constant shares;
    `liquid_share` of the heat leaves by warm-water cold plates (k = 0.058).
    """

    plant: str = Field(description="name of the plant type, e.g. ai_hyper, dx_room")
    e0: NonNegative
    e1: NonNegative
    e2: NonNegative
    lighting: NonNegative
    cooling_fixed: NonNegative
    cooling: CoolingPlant
    cooling_factor: Positive = 1.0
    cooling_constant: NonNegative = Field(0.0, description="k of a chiller_fixed plant")
    liquid_share: Fraction = 0.0
    off_share: Fraction = Field(
        0.1, description="share of the fixed overhead an empty, closed site still draws"
    )
    metering: MeteringCategory = MeteringCategory.PDU_OUTPUT
    site_start_s: int = Field(600, ge=0)


class NodeGroup(Value):
    """Identical nodes of one site; power P = idle + Σ gpu_dynamic_w·busy GPUs + Σ core_dynamic_w·busy cores."""

    group_id: Identifier
    node_type: str
    node_count: int = Field(ge=1, le=200_000)
    cpu_milli: int = Field(gt=0)
    memory_mib: int = Field(gt=0)
    gpu_model: str = ""
    gpu_count: int = Field(0, ge=0, le=16)
    gpu_memory_mib: int = Field(0, ge=0, description="per GPU")
    storage_gib: int = Field(0, ge=0)
    idle_w: NonNegative
    max_w: Positive
    gpu_dynamic_w: NonNegative = 0.0
    core_dynamic_w: NonNegative = 0.0
    island_node_count: int = Field(0, ge=0, description="nodes per fabric island; 0: the group is one island")
    node_wake_s: int = Field(180, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found: list[Violation] = []
        if bool(self.gpu_count) != bool(self.gpu_model):
            where = "gpu_model" if self.gpu_count else "gpu_count"
            found.append(Violation((where,), "a GPU model and a GPU count go together"))
        if self.max_w < self.idle_w:
            found.append(
                Violation(
                    ("max_w",),
                    f"{self.max_w:g} W is below the idle power of {self.idle_w:g} W",
                    nearest=self.idle_w,
                )
            )
        if found:
            raise Violations(found)
        return self


class PueCap(Value):
    """Caps of one site; `annual` binds the ledger's year, `hourly` every hour."""

    pue_cap_annual: float | None = Field(None, ge=1.0, le=5.0)
    ipue_cap_hourly: float | None = Field(None, ge=1.0, le=5.0)
    annual_is_hard: bool = False
    debt_price_yuan_per_kwh: NonNegative = 5.0
    reference_load_frac: Fraction = Field(0.6, description="P_ref / R of the seasonal release rule")


class LedgerOpening(Value):
    """Energy carried into the run since 1 January, from which the ledger balance starts."""

    it_energy_kwh: NonNegative = 0.0
    facility_energy_kwh: NonNegative = 0.0
    derivation: str = ""


class Site(Value):
    """A place with its own facility overhead and network position."""

    site_id: Identifier
    kind: SiteKind
    host_kind: HostKind
    display_name: str = ""
    display_name_zh: str = ""
    operator: str = ""
    x_km: float = 0.0
    y_km: float = 0.0
    labels: dict[Label, str] = Field(
        default_factory=dict, description="trust and residency, e.g. residency: medical"
    )
    rated_it_kw: Positive
    power_limit_kw: Positive
    facility: Facility
    tariff_id: Identifier
    price_markup_frac: float = Field(0.0, ge=-1.0, le=10.0)
    has_upf: bool = False
    home_for: tuple[str, ...] = Field(
        (), description="workload classes that have their home here; a home never closes"
    )
    caps: PueCap = Field(default_factory=PueCap)
    ledger_opening: LedgerOpening = Field(default_factory=LedgerOpening)
    groups: tuple[NodeGroup, ...] = Field(min_length=1)
    cordoned: bool = False

    @property
    def may_close(self) -> bool:
        """Whether the planner may switch the whole site off when nothing runs there."""
        return self.kind is SiteKind.EDGE and not self.home_for

    @model_validator(mode="after")
    def _groups_differ(self) -> Self:
        found = repeated_ids("groups", "group_id", [g.group_id for g in self.groups])
        if found:
            raise Violations(found)
        return self


class AccessProfile(Value):
    """How a user or device reaches the zone's hub; RTT quantiles in ms, rates per user."""

    access_id: Identifier
    rtt_p50_ms: NonNegative
    rtt_p99_ms: NonNegative
    down_mbps: NonNegative
    up_mbps: NonNegative
    via_upf: bool = Field(
        False, description="mobile core access: reaches a site without UPF by the city hairpin"
    )


class Zone(Value):
    """Where users and devices attach; `access_mix` sums to 1."""

    zone_id: Identifier
    display_name: str = ""
    display_name_zh: str = ""
    x_km: float = 0.0
    y_km: float = 0.0
    population_count: int = Field(0, ge=0)
    hub_id: Identifier
    access_mix: dict[str, Fraction] = Field(default_factory=dict)


class Link(Value):
    """Duplex link between two ends (site ids or hub ids); planning delay is taken at 0.8 of its capacity."""

    link_id: Identifier
    ends: tuple[Identifier, Identifier]
    capacity_gbps: Positive
    hop_count: int = Field(1, ge=0)
    length_km: NonNegative = 0.0
    extra_rtt_ms: NonNegative = 0.0


class Network(Value):
    """Graph of links with the constants of the delay formula.

    RTT of a link = hop_rtt_ms·hops + km_rtt_ms·km + extra + queue_tau_ms·ρ/(1−ρ).
    """

    hubs: dict[str, tuple[float, float]] = Field(description="hub id → (x_km, y_km)")
    links: tuple[Link, ...]
    access: tuple[AccessProfile, ...]
    hop_rtt_ms: NonNegative = 0.10
    km_rtt_ms: NonNegative = 0.015
    queue_tau_ms: NonNegative = 0.05
    planning_load_frac: Fraction = 0.8
    hairpin_p50_ms: NonNegative = 2.6
    hairpin_p99_ms: NonNegative = 5.0
    hairpin_hub_id: str = "upf-exchange"
    transfer_yuan_per_gb: NonNegative = 0.02
    transfer_yuan_per_gb_by_site: dict[str, float] = Field(default_factory=dict)


class Tariff(Value):
    """Published price of energy by local hour for one month class; 24 values in yuan/kWh."""

    tariff_id: Identifier
    price_yuan_per_kwh_by_month: dict[int, tuple[float, ...]]
    demand_charge_yuan_per_kw_month: NonNegative = 0.0
    utc_offset_hours: int = 8

    @model_validator(mode="after")
    def _whole_days(self) -> Self:
        found: list[Violation] = []
        for month, prices in self.price_yuan_per_kwh_by_month.items():
            where = ("price_yuan_per_kwh_by_month", month)
            if not 1 <= month <= 12:
                found.append(Violation(where, f"there is no month {month}", "1 to 12"))
            if len(prices) != 24:
                found.append(Violation(where, f"has {len(prices)} prices", "one for each of 24 hours"))
        if found:
            raise Violations(found)
        return self


class Dataset(Value):
    """Data that work reads; where it lies and how large it is."""

    dataset_id: Identifier
    size_gib: NonNegative
    site_ids: tuple[Identifier, ...]


class Fleet(Value):
    """The whole installed world as the planner knows it."""

    sites: tuple[Site, ...]
    zones: tuple[Zone, ...] = ()
    network: Network
    tariffs: tuple[Tariff, ...]
    datasets: tuple[Dataset, ...] = ()
    carbon_g_per_kwh_by_hour: tuple[float, ...] = ()

    def site(self, site_id: str) -> Site:
        """The site of that id; KeyError if there is none."""
        for site in self.sites:
            if site.site_id == site_id:
                return site
        raise KeyError(site_id)

    @property
    def utc_offset_hours(self) -> int:
        """Of the fleet's own clock, by which people are told instants: that of its first tariff, 0 without one."""
        return self.tariffs[0].utc_offset_hours if self.tariffs else 0

    @model_validator(mode="after")
    def _refers_to_what_exists(self) -> Self:
        network = self.network
        found = [
            *repeated_ids("sites", "site_id", [s.site_id for s in self.sites]),
            *repeated_ids("zones", "zone_id", [z.zone_id for z in self.zones]),
            *repeated_ids("tariffs", "tariff_id", [t.tariff_id for t in self.tariffs]),
            *repeated_ids("datasets", "dataset_id", [d.dataset_id for d in self.datasets]),
            *(
                Violation(("network", *v.loc), v.problem, code=v.code)
                for v in (
                    *repeated_ids("links", "link_id", [k.link_id for k in network.links]),
                    *repeated_ids("access", "access_id", [a.access_id for a in network.access]),
                )
            ),
        ]
        site_ids = {s.site_id for s in self.sites}
        tariff_ids = {t.tariff_id for t in self.tariffs}
        access_ids = {a.access_id for a in network.access}
        for i, site in enumerate(self.sites):
            found += unknown_id(("sites", i, "tariff_id"), "tariff", site.tariff_id, tariff_ids)
        for i, zone in enumerate(self.zones):
            found += unknown_id(("zones", i, "hub_id"), "hub", zone.hub_id, set(network.hubs))
            for access_id in zone.access_mix:
                found += unknown_id(
                    ("zones", i, "access_mix", access_id), "access profile", access_id, access_ids
                )
        for i, link in enumerate(network.links):
            for j, end in enumerate(link.ends):
                found += unknown_id(
                    ("network", "links", i, "ends", j), "site or hub", end, site_ids | set(network.hubs)
                )
        for i, dataset in enumerate(self.datasets):
            for j, site_id in enumerate(dataset.site_ids):
                found += unknown_id(("datasets", i, "site_ids", j), "site", site_id, site_ids)
        if found:
            raise Violations(found)
        return self
