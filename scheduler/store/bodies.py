"""How event bodies become bytes and back: one place, so that equal content is equal bytes in every store."""

from __future__ import annotations

from typing import Any, cast

import orjson

from scheduler.domain.records import EventDraft
from suanli.model import Event, EventKind
from suanli.model.base import trusted

_KINDS: dict[str, EventKind] = {kind.value: kind for kind in EventKind}


def encode_body(body: dict[str, Any]) -> bytes:
    """Canonical bytes of an event body: sorted keys, UTF-8, no spaces.

    Raises TypeError for anything that is not plain JSON (numpy scalars, keys that are no strings, NaN is written as
    null by the encoder and therefore must not be put into a body).
    """
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)


def decode_body(raw: bytes) -> dict[str, Any]:
    """The body that `encode_body` wrote."""
    return cast("dict[str, Any]", orjson.loads(raw))


def stored_event(revision: int, draft: EventDraft, raw: bytes) -> Event:
    """The event as every later reader will see it: its body is decoded from the stored bytes.

    The folder of events therefore sees the same values live and on replay (a tuple, say, is a list both times).
    """
    return _event(revision, draft.at_s, draft.kind, draft.subject, decode_body(raw))


def read_event(revision: int, at_s: int, kind: str, subject: str, raw: bytes) -> Event:
    """An event from its stored columns; they were valid when written, so nothing is validated again."""
    return _event(revision, at_s, _KINDS[kind], subject, decode_body(raw))


def _event(revision: int, at_s: int, kind: EventKind, subject: str, body: dict[str, Any]) -> Event:
    """An event that is valid: a restart reads hundreds of thousands of these."""
    values = {"revision": revision, "at_s": at_s, "kind": kind, "subject": subject, "body": body}
    return trusted(Event, values)
