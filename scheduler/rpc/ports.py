"""Is a port free? Asked with a plain socket before gRPC is, which reports a taken one in its own log and in riddles."""

from __future__ import annotations

import errno
import socket


def refuse_taken(host: str, port: int) -> None:
    """OSError with what to do next when nothing can listen on `host:port`; port 0 is always free.

    The socket is closed again: whoever listens next may still find that another was quicker.
    """
    if not port:
        return
    failures: list[OSError] = []
    addresses = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                # as gRPC binds: a port whose last connections are still closing counts as free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                # two may be bound to one address with that option, but only one of them listens
                probe.listen(1)
        except OSError as error:
            failures.append(error)
    taken = any(error.errno == errno.EADDRINUSE for error in failures)
    if taken:
        raise OSError(
            f"port {port} of {host} is in use (another `make dev` or `suanli serve`?); --port takes another"
        )
    if len(failures) == len(addresses):
        raise OSError(f"cannot listen on {host}:{port}: {failures[0].strerror}; --port takes another")
