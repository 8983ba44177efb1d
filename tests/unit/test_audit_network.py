"""The audit's own network, against the arithmetic of the delay formula done by hand."""

from __future__ import annotations

import math

import pytest

from cluster_sim.audit_network import Roads
from suanli.model import Fleet

QUEUE_MS = 0.05 * 0.8 / (1 - 0.8)
"""τ·ρ/(1−ρ) of every link."""


def a_fleet(links: list[tuple[str, str, str, int, float]], upf: tuple[str, ...] = ()) -> Fleet:
    """Sites a, b, c around hubs h and g; links as (id, end, end, hops, km); zone z 3 km east and 4 km north of h."""
    site = {
        "kind": "edge",
        "host_kind": "telecom_room",
        "rated_it_kw": 1,
        "power_limit_kw": 1,
        "facility": {
            "plant": "t", "e0": 0, "e1": 0, "e2": 0, "lighting": 0, "cooling_fixed": 0, "cooling": "dx_economiser",
        },
        "tariff_id": "flat",
        "groups": [
            {
                "group_id": "g", "node_type": "g", "node_count": 1, "cpu_milli": 1, "memory_mib": 1,
                "idle_w": 1, "max_w": 1,
            }
        ],
    }  # fmt: skip
    return Fleet.model_validate(
        {
            "sites": [{**site, "site_id": s, "has_upf": s in upf} for s in "abc"],
            "zones": [
                {
                    "zone_id": "z",
                    "x_km": 3,
                    "y_km": 4,
                    "hub_id": "h",
                    "access_mix": {"fast": 0.9, "slow": 0.1},
                },
                {"zone_id": "bare", "hub_id": "h"},
            ],
            "network": {
                "hubs": {"h": [0, 0], "g": [9, 9]},
                "links": [
                    {"link_id": i, "ends": [x, y], "capacity_gbps": 1, "hop_count": hops, "length_km": km}
                    for i, x, y, hops, km in links
                ],
                "access": [
                    {"access_id": "fast", "rtt_p50_ms": 1, "rtt_p99_ms": 2, "down_mbps": 1, "up_mbps": 1},
                    {
                        "access_id": "slow",
                        "rtt_p50_ms": 9,
                        "rtt_p99_ms": 20,
                        "down_mbps": 1,
                        "up_mbps": 1,
                        "via_upf": True,
                    },
                ],
            },
            "tariffs": [{"tariff_id": "flat", "price_yuan_per_kwh_by_month": {7: [0.5] * 24}}],
        }
    )


STAR = [("ha", "h", "a", 1, 10.0), ("hb", "b", "h", 2, 0.0)]


def test_site_to_site_adds_hops_fibre_and_queue_of_each_link():
    roads = Roads.of(a_fleet(STAR))
    expected = (0.1 * 1 + 0.015 * 10.0 + QUEUE_MS) + (0.1 * 2 + QUEUE_MS)
    assert roads.rtt_ms(0, 1) == pytest.approx(expected, abs=1e-12)
    assert roads.rtt_ms(1, 0) == pytest.approx(expected, abs=1e-12)
    assert roads.rtt_ms(0, 0) == 0.0


def test_a_site_without_a_link_is_out_of_reach():
    roads = Roads.of(a_fleet(STAR))
    assert math.isinf(roads.rtt_ms(0, 2))
    assert math.isinf(roads.zone_leg_ms("z", "fast", 2))
    assert roads.links_of_zone("z", 2) == ()


def test_a_zone_leg_is_access_tail_and_links():
    roads = Roads.of(a_fleet(STAR))
    tail_ms = 0.015 * 5.0  # √(3² + 4²) km to the hub
    assert roads.zone_leg_ms("z", "fast", 0) == pytest.approx(2 + tail_ms + 0.1 + 0.15 + QUEUE_MS)


@pytest.mark.parametrize(("upf", "hairpin_ms"), [((), 5.0), (("a",), 0.0)])
def test_mobile_access_takes_the_hairpin_to_a_site_without_upf(upf, hairpin_ms):
    roads = Roads.of(a_fleet(STAR, upf))
    transport_ms = 0.015 * 5.0 + 0.1 + 0.15 + QUEUE_MS
    assert roads.zone_leg_ms("z", "slow", 0) == pytest.approx(20 + hairpin_ms + transport_ms)


def test_without_a_named_access_the_slowest_of_the_mix_counts():
    roads = Roads.of(a_fleet(STAR))
    assert roads.zone_leg_ms("z", "", 0) == roads.zone_leg_ms("z", "slow", 0)


def test_a_zone_without_a_mix_begins_at_its_hub():
    roads = Roads.of(a_fleet(STAR))
    assert roads.zone_leg_ms("bare", "", 0) == pytest.approx(0.1 + 0.15 + QUEUE_MS)


def test_what_nobody_introduced_is_out_of_reach_and_never_near():
    roads = Roads.of(a_fleet(STAR))
    assert math.isinf(roads.zone_leg_ms("nowhere", "fast", 0))
    assert math.isinf(roads.zone_leg_ms("z", "carrier-pigeon", 0))


def test_the_shortest_route_may_pass_through_a_site():
    roads = Roads.of(a_fleet([*STAR, ("ac", "a", "c", 1, 0.0)]))
    assert roads.rtt_ms(1, 2) == pytest.approx(roads.rtt_ms(1, 0) + 0.1 + QUEUE_MS)
    assert roads.links_of_zone("z", 2) == (0, 2)


def test_a_detour_that_is_shorter_in_milliseconds_is_taken():
    long_way = [("direct", "h", "a", 9, 0.0), ("hg", "h", "g", 1, 0.0), ("ga", "g", "a", 1, 0.0)]
    roads = Roads.of(a_fleet(long_way))
    assert roads.zone_leg_ms("bare", "", 0) == pytest.approx(2 * (0.1 + QUEUE_MS))
    assert roads.links_of_zone("z", 0) == (1, 2)


def test_links_of_equally_short_routes_are_held_against_nobody():
    """h–a twice over g and c, then a–b alone: only the last link is sure to carry what goes to b."""
    square = [
        ("hg", "h", "g", 1, 0.0),
        ("ga", "g", "a", 1, 0.0),
        ("hc", "h", "c", 1, 0.0),
        ("ca", "c", "a", 1, 0.0),
        ("ab", "a", "b", 1, 0.0),
    ]
    roads = Roads.of(a_fleet(square))
    assert roads.links_of_zone("z", 0) == ()
    assert roads.links_of_zone("z", 1) == (4,)
    assert roads.links_of_zone("z", 2) == (2,)


def test_parallel_links_of_one_length_are_held_against_nobody():
    roads = Roads.of(a_fleet([("one", "h", "a", 1, 0.0), ("two", "h", "a", 1, 0.0)]))
    assert roads.links_of_zone("z", 0) == ()
