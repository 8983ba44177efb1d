"""Frames on a pipe between the service and its solver process: 8 bytes of length, one byte of kind, the payload."""

from __future__ import annotations

from typing import BinaryIO

HEADER_BYTES = 8
# far above any plan of the full city (some 20 MB); a larger length is nonsense, not an answer
MOST_BYTES = 1 << 30

PROBLEM = b"P"
SOLUTION = b"S"
ERROR = b"E"


class FrameError(ValueError):
    """The pipe carries something that is no frame."""


def write_frame(pipe: BinaryIO, kind: bytes, payload: bytes) -> None:
    """Write one frame and flush it."""
    pipe.write(len(payload).to_bytes(HEADER_BYTES, "little") + kind)
    pipe.write(payload)
    pipe.flush()


def read_frame(pipe: BinaryIO) -> tuple[bytes, bytes]:
    """(kind, payload) of the next frame. EOFError when the pipe ended, FrameError when it carries nonsense."""
    header = _exactly(pipe, HEADER_BYTES + 1)
    size, kind = int.from_bytes(header[:HEADER_BYTES], "little"), header[HEADER_BYTES:]
    if size > MOST_BYTES or kind not in (PROBLEM, SOLUTION, ERROR):
        raise FrameError(f"no frame: {header!r}")
    return kind, _exactly(pipe, size)


def _exactly(pipe: BinaryIO, size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError("the other end closed the pipe")
    return data
