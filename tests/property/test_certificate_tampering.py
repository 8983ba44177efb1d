"""Any one number, name or flag of a plan file that is changed is found, but for what nothing can prove."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.archive import ArchiveError
from solvers.proof import verify_proof
from solvers.solution import PlanSolution, SolveStatus
from tests.unit.test_solvers_certificate import PLAN, PROBLEM

UNPROVABLE = {
    "price_yuan_per_unit_h", "energy_yuan_per_kwh_it",  # duals of the search: guidance, not claims
    "work", "seconds", "message", "method",  # how it was found
}  # fmt: skip
Change = Callable[[Any], Any]


def tables() -> Iterator[tuple[str, Any, Change]]:
    """Every record of the plan file with how a changed one is put back in its place."""
    certificate = PLAN.certificate
    assert certificate is not None
    yield "plan", PLAN, lambda changed: changed
    yield "cost", PLAN.cost, lambda changed: dataclasses.replace(PLAN, cost=changed)
    for name in ("graph_patterns", "bounds"):
        for i, record in enumerate(getattr(PLAN, name)):
            yield f"{name}[{i}]", record, _in_tuple(PLAN, name, i)
    yield "certificate", certificate, lambda changed: dataclasses.replace(PLAN, certificate=changed)
    for i, record in enumerate(certificate.binding):
        yield f"binding[{i}]", record, _in_certificate(_in_tuple(certificate, "binding", i))


def _in_certificate(put: Change) -> Change:
    return lambda changed: dataclasses.replace(PLAN, certificate=put(changed))


def _in_tuple(owner: Any, name: str, i: int) -> Callable[[Any], Any]:
    def put(changed: Any) -> Any:
        records = getattr(owner, name)
        return dataclasses.replace(owner, **{name: (*records[:i], changed, *records[i + 1 :])})

    return put


def _numbers(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(v, (int, float)) for v in value)


def _changeable() -> list[tuple[str, Any, Change, str]]:
    out = []
    for table, record, put in tables():
        for field in dataclasses.fields(record):
            value = getattr(record, field.name)
            is_simple = isinstance(value, (float, int, str)) or _numbers(value)
            has_entries = isinstance(value, np.ndarray) and value.size > 0
            if field.name not in UNPROVABLE and (is_simple or has_entries):
                out.append((table, record, put, field.name))
    return out


CHANGEABLE = _changeable()


def changed_value(value: Any, at: int, factor: float) -> Any:
    """The same with one entry changed by more than rounding."""
    if isinstance(value, np.ndarray):
        flat = np.array(value).ravel()
        flat[at % flat.size] = changed_value(flat[at % flat.size].item(), at, factor)
        return flat.reshape(value.shape)
    if isinstance(value, tuple):
        i = at % len(value)
        return (*value[:i], changed_value(value[i], at, factor), *value[i + 1 :])
    if isinstance(value, SolveStatus):
        return SolveStatus.OPTIMAL if value is SolveStatus.FEASIBLE else SolveStatus.FEASIBLE
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 1.0 if not np.isfinite(value) else value * factor + np.copysign(0.01, factor - 1)
    return f"{value}x"


@given(
    which=st.integers(0, len(CHANGEABLE) - 1),
    at=st.integers(0, 1_000),
    factor=st.sampled_from([0.5, 0.99, 1.01, 2.0]),
)
@settings(max_examples=300, deadline=None)
def test_a_changed_field_is_found(which: int, at: int, factor: float):
    table, record, put, name = CHANGEABLE[which]
    value = getattr(record, name)
    wrong = changed_value(value, at, factor)
    if name == "bound_yuan" and isinstance(value, float) and wrong < value and table == "certificate":
        return  # a smaller claim is true
    if _is_free(table, name, record):
        return
    try:
        plan = put(dataclasses.replace(record, **{name: wrong}))
    except ValueError:
        return  # does not even load
    assert verify_proof(PROBLEM, plan), f"{table}.{name}: {value} → {wrong}"


def _is_free(table: str, name: str, record: Any) -> bool:
    """Words of the search about its own bound, and a plan that is called less than it is."""
    if table.startswith("bounds") and name == "model":
        return True
    return table == "plan" and name == "status" and record.status is SolveStatus.OPTIMAL


@pytest.mark.parametrize("name", sorted(UNPROVABLE - {"seconds", "work"}))
def test_what_cannot_be_proven_is_named_and_is_there(name: str):
    assert hasattr(PLAN, name)


@given(at=st.integers(0, 10**9), flip=st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_a_flipped_byte_never_ends_in_a_traceback(at: int, flip: int):
    """Refused as unreadable, found, or in a field that nothing can prove."""
    data = bytearray(PLAN.to_bytes())
    data[at % len(data)] ^= flip
    try:
        plan = PlanSolution.from_bytes(bytes(data))
    except (ArchiveError, ValueError):
        return
    verify_proof(PROBLEM, plan)
