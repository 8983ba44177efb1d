"""Orders to sites, read from the event log."""

from __future__ import annotations

from collections.abc import Sequence

from cluster_sim.world.protocol import Command, StartReplica, StopReplica
from suanli.model import Event, EventKind, StopKind


def commands_of(events: Sequence[Event]) -> list[Command]:
    """The orders among events, as sites take them."""
    out: list[Command] = []
    for event in events:
        if event.kind is EventKind.REPLICA_START_ORDERED:
            out.append(StartReplica.from_event_body(event.body["command"]))
        elif event.kind is EventKind.REPLICA_STOP_ORDERED:
            body = event.body
            kind = StopKind(body["kind"])
            out.append(StopReplica(event.subject, body["site_id"], event.at_s, kind, body["cause"]))
    return out
