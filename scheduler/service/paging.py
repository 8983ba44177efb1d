"""Page tokens: opaque to the caller, and only good for the question they came from."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson

from suanli.model import FieldProblem, InvalidRequest

T = TypeVar("T")

PAGE_DEFAULT = 100
PAGE_MOST = 1000


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list; `next_token` is empty on the last."""

    items: tuple[T, ...]
    next_token: str = ""
    total_count: int = 0


def page_size(asked: int) -> int:
    """Size to serve: 100 unless asked otherwise, 1000 at most. InvalidRequest when negative."""
    if asked < 0:
        problem = FieldProblem(
            field="page_size", problem=f"{asked} is negative", expected="0 to 1000", nearest="0"
        )
        raise InvalidRequest([problem])
    return min(asked or PAGE_DEFAULT, PAGE_MOST)


def write_token(place: Any, question: Sequence[str]) -> str:
    """Token for going on behind `place` (plain JSON) in the answer to `question`."""
    return base64.urlsafe_b64encode(orjson.dumps([place, _digest(question)])).decode().rstrip("=")


def read_token(token: str, question: Sequence[str]) -> Any:
    """The place a token names, None for an empty one. InvalidRequest when it is of another question or no token."""
    if not token:
        return None
    try:
        place, digest = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, TypeError, binascii.Error):
        digest = None
    if digest != _digest(question):
        problem = FieldProblem(
            field="page_token", problem="does not belong to this request", code="bad_page_token",
            expected="the token of the last answer with all other fields unchanged",
        )  # fmt: skip
        raise InvalidRequest([problem])
    return place


def _digest(question: Sequence[str]) -> str:
    return hashlib.blake2b("\0".join(question).encode(), digest_size=6).hexdigest()
