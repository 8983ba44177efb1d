"""Errors cross the wire: one table of codes, details that any client can read, problems that come back whole."""

from __future__ import annotations

from typing import Any

import pytest
from google.rpc import code_pb2, error_details_pb2

from suanli import wire
from suanli.model import FieldProblem, InvalidRequest, NotFound, SuanliError, Unavailable
from suanli.model import errors as model_errors
from suanli.wire.errors import DOMAIN

ALL = [
    cls
    for cls in vars(model_errors).values()
    if isinstance(cls, type) and issubclass(cls, SuanliError) and cls is not InvalidRequest
]


def details(error: SuanliError, kind: type) -> list[Any]:
    found = []
    for packed in wire.status_from_error(error).details:
        message = kind()
        if packed.Unpack(message):
            found.append(message)
    return found


@pytest.mark.parametrize("cls", ALL, ids=lambda c: c.__name__)
def test_a_plain_error_comes_back(cls: type[SuanliError]):
    status = wire.status_from_error(cls("sites/e01-hub is what it is"))
    back = wire.error_from_status(status.code, status.message, status.details)
    assert type(back) is cls
    assert str(back) == "sites/e01-hub is what it is"


@pytest.mark.parametrize("cls", [*ALL, InvalidRequest], ids=lambda c: c.__name__)
def test_every_error_has_a_code_and_says_whose_it_is(cls: type[SuanliError]):
    assert cls in wire.STATUS_CODE_OF
    error = InvalidRequest([]) if cls is InvalidRequest else cls("x")
    (info,) = details(error, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (cls.reason, DOMAIN)


def test_codes_and_reasons_differ():
    assert len(set(wire.STATUS_CODE_OF.values())) == len(wire.STATUS_CODE_OF)
    assert len({cls.reason for cls in wire.STATUS_CODE_OF}) == len(wire.STATUS_CODE_OF)


def test_a_class_of_ones_own_takes_the_code_of_the_nearest():
    class Restarting(Unavailable):
        """Soon back."""

    assert wire.status_code_of(Restarting("x")) == code_pb2.UNAVAILABLE


def test_problems_come_back_whole():
    problems = [
        FieldProblem(
            field="workload.name", problem="is taken", expected="another", nearest="b", code="taken"
        ),
        FieldProblem(field="workload.kind", problem="is missing", code="missing"),
    ]
    status = wire.status_from_error(InvalidRequest(problems))
    back = wire.error_from_status(status.code, status.message, status.details)
    assert isinstance(back, InvalidRequest)
    assert list(back.problems) == problems


def test_any_client_can_read_the_fields():
    problem = FieldProblem(
        field="workload.kind", problem="'x' is not known", nearest="twin", code="unknown_value"
    )
    (bad,) = details(InvalidRequest([problem]), error_details_pb2.BadRequest)
    (violation,) = bad.field_violations
    assert violation.field == "workload.kind"
    assert violation.description == "'x' is not known; nearest possible twin"
    assert violation.reason == "UNKNOWN_VALUE"


def test_fields_of_another_server_are_understood():
    status = wire.status_from_error(SuanliError("x"))
    del status.details[:]
    violation = error_details_pb2.BadRequest.FieldViolation(field="a.b", description="is odd")
    status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    back = wire.error_from_status(code_pb2.INVALID_ARGUMENT, "x", status.details)
    assert isinstance(back, InvalidRequest)
    assert [(p.field, p.problem) for p in back.problems] == [("a.b", "is odd")]


def test_the_message_stays_short_however_many_problems_there_are():
    problems = [FieldProblem(field=f"f{i}", problem="is wrong") for i in range(50)]
    status = wire.status_from_error(InvalidRequest(problems))
    assert status.message == "f0: is wrong; f1: is wrong; f2: is wrong; and 47 more"


def test_what_is_not_found_is_named():
    (info,) = details(
        NotFound("there is no sites/e01-hub/nodes/l20x4-3 any more"), error_details_pb2.ResourceInfo
    )
    assert info.resource_name == "sites/e01-hub/nodes/l20x4-3"


def test_who_is_away_says_when_to_come_back():
    (info,) = details(Unavailable("restarting"), error_details_pb2.RetryInfo)
    assert info.retry_delay.seconds > 0


def test_a_code_without_a_class_keeps_its_name():
    back = wire.error_from_status(code_pb2.UNIMPLEMENTED, "no such method")
    assert type(back) is SuanliError
    assert str(back) == "UNIMPLEMENTED: no such method"
