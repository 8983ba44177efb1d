"""Errors tell the caller what to do next."""

from __future__ import annotations

import pytest

from suanli.model import NotFound

NAMES = [
    "tenants/city/workloads/v2x-07",
    "tenants/default/workloads/render-1",
    "tenants/lab/workloads/v2x-07",
]


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("tenants/default/workloads/rendr-1", "; did you mean render-1?"),
        (
            "tenants/default/workloads/v2x-07",
            "; did you mean tenants/city/workloads/v2x-07? (1 more of that name)",
        ),
        ("tenants/default/workloads/ghost", ""),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest_one(given: str, hint: str):
    assert str(NotFound.among("workload", given, NAMES)) == f"no workload {given}{hint}"


def test_ids_without_a_parent_are_compared_as_they_are():
    assert str(NotFound.among("site", "e09-gv", ["e09-gov"])) == "no site e09-gv; did you mean e09-gov?"
    assert str(NotFound.among("site", "x", ["e09-x"])) == "no site x"
    assert str(NotFound.among("site", "e04", ["e01-hub", "e04-iiot-w"])).endswith("did you mean e04-iiot-w?")
