"""A real `suanli serve` in a process of its own, that tests may kill and start again at the same address."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

START_LIMIT_S = 60.0


def a_free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Served:
    """One service with its store in `folder`; `kill` is kill -9."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder
        self.port = a_free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.kills = 0
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def store_url(self) -> str:
        """The store's URL."""
        return f"sqlite:///{self.folder}/suanli.db"

    @property
    def pid(self) -> int:
        """Process id of the running service."""
        assert self._process is not None
        return self._process.pid

    def start(self, wait: bool = True) -> Served:
        """Start the service; with `wait` return only when it serves."""
        command = [
            sys.executable,
            "-m",
            "suanli.cli.main",
            "serve",
            "--port",
            str(self.port),
            "--store",
            self.store_url,
        ]
        with (self.folder / "serve.out").open("wb") as out, (self.folder / "serve.err").open("ab") as err:
            self._process = subprocess.Popen([*command, *self._flags], stdout=out, stderr=err)
        deadline = time.monotonic() + START_LIMIT_S
        while wait and "serving at revision" not in self.output():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the service did not start: {self.errors()}")
            time.sleep(0.01)
        return self

    def output(self) -> str:
        """What the present process has printed."""
        return (self.folder / "serve.out").read_text()

    def errors(self) -> str:
        """What all processes so far have logged."""
        return (self.folder / "serve.err").read_text()

    def kill(self) -> None:
        """kill -9, at whatever moment this is."""
        self._end(signal.SIGKILL)
        self.kills += 1

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            os.kill(self._process.pid, number)
        return self._process.wait(START_LIMIT_S)
