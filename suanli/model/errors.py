"""Errors of the API; one table from these classes to gRPC codes lies in `suanli.wire.errors`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import Field

from suanli.model.base import Value

MOST_COMPARED = 2_000
"""Names looked at for the nearest one: comparing takes about 10 µs each."""


class FieldProblem(Value):
    """One thing wrong with a request, with the field's path, what was expected and the nearest possible value."""

    field: str
    problem: str
    expected: str = ""
    nearest: str = ""
    code: str = Field("invalid", description="stable machine-readable reason")

    def __str__(self) -> str:
        parts = [f"{self.field}: {self.problem}"]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.nearest:
            parts.append(f"nearest possible {self.nearest}")
        return "; ".join(parts)


class SuanliError(Exception):
    """Base of every error a caller may see."""

    reason = "INTERNAL"


class InvalidRequest(SuanliError):
    """Malformed or impossible; carries every problem at once."""

    reason = "INVALID_REQUEST"

    def __init__(
        self, problems: list[FieldProblem] | tuple[FieldProblem, ...], mended: object = None
    ) -> None:
        self.problems = tuple(problems)
        self.mended = mended
        """The malformed value with its problems mended, so that its rest can be judged; None where that failed."""
        super().__init__("\n".join(str(p) for p in self.problems))


class NotFound(SuanliError):
    """No resource of that name."""

    reason = "NOT_FOUND"

    @classmethod
    def among(cls, what: str, name: str, known: Iterable[str]) -> NotFound:
        """`no site e09-gv; did you mean e09-gov?`

        Names of workloads are compared within their tenant, but the very name in another tenant comes first; what the
        name begins (`e09`) comes before what it resembles.
        """
        known = list(known)
        head, slash, last = name.rpartition("/")
        elsewhere = [k for k in known if k.endswith(slash + last)] if slash else []
        same = [k[len(head) + len(slash) :] for k in known if k.startswith(head + slash)]
        longer = [k for k in same if last and k.startswith(last)]
        close = elsewhere[:1] or longer[:1] or difflib.get_close_matches(last, same[:MOST_COMPARED], n=1)
        more = f" ({len(elsewhere) - 1} more of that name)" if len(elsewhere) > 1 else ""
        return cls(f"no {what} {name}" + (f"; did you mean {close[0]}?{more}" if close else ""))


class AlreadyExists(SuanliError):
    """The name is taken by a different body."""

    reason = "ALREADY_EXISTS"


class Conflict(SuanliError):
    """Etag or revision does not match: read again and retry."""

    reason = "CONFLICT"


class WatchExpired(SuanliError):
    """The resume token is older than the log keeps: list again."""

    reason = "WATCH_EXPIRED"


class FailedPrecondition(SuanliError):
    """The system is not in a state for this call."""

    reason = "FAILED_PRECONDITION"


class Unavailable(SuanliError):
    """Try again later."""

    reason = "UNAVAILABLE"


class DeadlineExceeded(Unavailable):
    """No answer within the call's deadline; whether it took effect is not known."""

    reason = "DEADLINE_EXCEEDED"
