"""Errors on the wire: one table from our errors to gRPC codes, and the rich details both ways.

Every error carries `ErrorInfo{reason, domain}`. An `InvalidRequest` carries `BadRequest` for any client and
`RequestProblems`, which also has what was expected and the nearest possible value, for ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from suanli.model.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    FieldProblem,
    InvalidRequest,
    NotFound,
    SuanliError,
    Unavailable,
    WatchExpired,
)
from suanli.v1 import errors_pb2 as pb

DOMAIN = "suanli.dev"
HELP = "docs/api.md#errors"
RETRY_AFTER_S = 1
PROBLEMS_IN_MESSAGE = 3

STATUS_CODE_OF: dict[type[SuanliError], int] = {
    InvalidRequest: code_pb2.INVALID_ARGUMENT,
    NotFound: code_pb2.NOT_FOUND,
    AlreadyExists: code_pb2.ALREADY_EXISTS,
    Conflict: code_pb2.ABORTED,
    WatchExpired: code_pb2.OUT_OF_RANGE,
    FailedPrecondition: code_pb2.FAILED_PRECONDITION,
    DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
    Unavailable: code_pb2.UNAVAILABLE,
    SuanliError: code_pb2.INTERNAL,
}
"""The one table of codes."""

_CLASS_OF_REASON = {cls.reason: cls for cls in STATUS_CODE_OF}
_CLASS_OF_CODE = {code: cls for cls, code in STATUS_CODE_OF.items()}
_RESOURCE = re.compile(
    r"\b(?:tenants|sites|zones|links|policies|plans|rounds|runs|operations)/[a-z0-9._/-]*[a-z0-9]"
)


def status_code_of(error: SuanliError) -> int:
    """gRPC code of an error: that of its nearest class in the table."""
    return next(STATUS_CODE_OF[cls] for cls in type(error).__mro__ if cls in STATUS_CODE_OF)


def status_from_error(error: SuanliError) -> status_pb2.Status:
    """The rich status of an error, for `grpc_status.rpc_status.to_status`."""
    status = status_pb2.Status(code=status_code_of(error), message=_message_of(error))
    for detail in _details_of(error):
        status.details.add().Pack(detail)
    return status


def error_from_status(code: int, message: str, details: Iterable[AnyMessage] = ()) -> SuanliError:
    """Our error for a status; `ErrorInfo.reason` decides its class where it is ours, else the code does."""
    reason, problems = "", []
    for packed in details:
        info, bad, ours = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), pb.RequestProblems()
        if packed.Unpack(info) and info.domain == DOMAIN:
            reason = info.reason
        elif packed.Unpack(ours):
            problems = [_problem_from_proto(p) for p in ours.problems]
        elif packed.Unpack(bad) and not problems:
            problems = [
                FieldProblem(field=v.field, problem=v.description, code=v.reason or "invalid")
                for v in bad.field_violations
            ]
    cls = _CLASS_OF_REASON.get(reason) or _CLASS_OF_CODE.get(code, SuanliError)
    if cls is InvalidRequest:
        return InvalidRequest(problems or [FieldProblem(field="", problem=message)])
    if code in _CLASS_OF_CODE:
        return cls(message)
    return cls(f"{code_pb2.Code.Name(code) if code in code_pb2.Code.values() else code}: {message}")


def problem_to_proto(problem: FieldProblem) -> pb.FieldProblem:
    """One field problem."""
    return pb.FieldProblem(**problem.model_dump())


def _problem_from_proto(message: pb.FieldProblem) -> FieldProblem:
    return FieldProblem(
        field=message.field,
        problem=message.problem,
        expected=message.expected,
        nearest=message.nearest,
        code=message.code or "invalid",
    )


def _message_of(error: SuanliError) -> str:
    if not isinstance(error, InvalidRequest):
        return str(error)
    shown = "; ".join(f"{p.field}: {p.problem}" for p in error.problems[:PROBLEMS_IN_MESSAGE])
    more = len(error.problems) - PROBLEMS_IN_MESSAGE
    return f"{shown}; and {more} more" if more > 0 else shown


def _details_of(error: SuanliError) -> list[Message]:
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if isinstance(error, InvalidRequest):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(
                field=p.field, description=str(p).removeprefix(f"{p.field}: "), reason=p.code.upper()
            )
            for p in error.problems
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
        details.append(pb.RequestProblems(problems=[problem_to_proto(p) for p in error.problems]))
        details.append(_help())
    elif isinstance(error, FailedPrecondition):
        violation = error_details_pb2.PreconditionFailure.Violation(type=error.reason, description=str(error))
        details.append(error_details_pb2.PreconditionFailure(violations=[violation]))
        details.append(_help())
    elif isinstance(error, (NotFound, AlreadyExists, Conflict)):
        found = _RESOURCE.search(str(error))
        if found:
            details.append(
                error_details_pb2.ResourceInfo(resource_name=found.group(), description=str(error))
            )
    elif isinstance(error, Unavailable):
        details.append(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=RETRY_AFTER_S)))
    return details


def _help() -> error_details_pb2.Help:
    return error_details_pb2.Help(
        links=[error_details_pb2.Help.Link(description="What each refusal means", url=HELP)]
    )
