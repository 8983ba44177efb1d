"""gRPC: servicers over the use cases, one boundary for errors, deadlines, logs and metrics."""

from __future__ import annotations

from scheduler.rpc.ports import refuse_taken
from scheduler.rpc.server import RpcServer

__all__ = ["RpcServer", "refuse_taken"]
