"""A real `suanli serve` beside the simulation: on loopback, watched, started again from its store if it dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from suanli.model import Unavailable

START_TIMEOUT_S = 60.0
WATCH_S = 0.2
PORT_POLL_S = 0.02
STOP_TIMEOUT_S = 10.0
MAX_RESTARTS = 20


class ServiceError(Unavailable):
    """The service did not start, or died too often; carries the end of its log."""


class ServiceProcess:
    """One service process with its own store in `run_dir`; a context manager.

    Entering it launches the process and watches it from then on; `await_address` waits until it listens. However it
    dies, before it listens or after, it is launched again on the same store, `MAX_RESTARTS` times. It is given up, and
    `failure` says why, when it died once more, when it lives and does not listen within `START_TIMEOUT_S`, and when it
    ended by itself without ever having listened: whatever it refused, it would refuse again. Who waits by `sleep` hears
    of that at once; what fails with `Unavailable` after that leaves as a ServiceError with the failure.
    """

    def __init__(
        self, run_dir: Path, *, virtual: bool = True, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._run_dir = run_dir
        self._virtual = virtual
        self._host = host
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping, self._has_begun, self._is_given_up = (threading.Event() for _ in range(3))
        self._watcher = threading.Thread(target=self._watch, name="suanli-service-watch", daemon=True)
        # the service ends when the write end closes, which a killed simulation cannot forget
        self._lifeline: tuple[int, int] | None = None
        self.restart_count = 0
        self._failure = ""

    def await_address(self) -> str:
        """host:port of the service, once it listens; ServiceError when it does not come up or was given up."""
        self._has_begun.wait()
        if self._failure:
            raise ServiceError(self._failure)
        return f"{self._host}:{self._port}"

    def sleep(self, seconds: float) -> None:
        """Wait while the service may come back; ServiceError as soon as it is given up."""
        if self._is_given_up.wait(seconds):
            raise ServiceError(self._failure)

    @property
    def pid(self) -> int:
        """Process id, for tests that kill it."""
        assert self._process is not None
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """Where the service writes its log."""
        return self._run_dir / "service.log"

    @property
    def _port_file(self) -> Path:
        return self._run_dir / "port"

    @property
    def failure(self) -> str:
        """Why it was given up, if it was."""
        return self._failure

    def __enter__(self) -> Self:
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._lifeline = os.pipe()
        try:
            self._launch()
        except BaseException:
            self._cut_lifeline()
            raise
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._watcher.join()
        self._cut_lifeline()
        self._end()
        if self._failure and isinstance(error, Unavailable) and not isinstance(error, ServiceError):
            # that nothing answers says less than why nobody is there any more
            raise ServiceError(self._failure) from error

    def _end(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _cut_lifeline(self) -> None:
        assert self._lifeline is not None
        for end in self._lifeline:
            os.close(end)
        self._lifeline = None

    def _launch(self) -> None:
        assert self._lifeline is not None
        self._port_file.unlink(missing_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdout=log, stderr=log, stdin=self._lifeline[0], env=dict(os.environ)
            )

    def _command(self) -> list[str]:
        command = [
            sys.executable,
            "-m",
            "suanli.cli.main",
            "serve",
            "--host",
            self._host,
            "--port",
            str(self._port),
            "--store",
            f"sqlite:///{self._run_dir / 'suanli.sqlite'}",
            "--port-file",
            str(self._port_file),
            "--while-stdin",
        ]
        return [*command, "--virtual"] if self._virtual else command

    def _await_port(self) -> bool:
        """Whether the process launched last came to listen; False when it died first or is no longer wanted.

        `_launch` removed the port file of the one before it, which was dead by then: what is found is this one's.
        Raises ServiceError when the process lives and does not listen in time.
        """
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._port_file.exists():
            if self._process.poll() is not None or self._stopping.wait(PORT_POLL_S):
                return False
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"the service did not start in {START_TIMEOUT_S:.0f} s:\n{self.log_tail()}"
                )
        self._port = int(self._port_file.read_text())
        return True

    def log_tail(self, characters: int = 3000) -> str:
        """End of the service's log."""
        return self.log_path.read_text(errors="replace")[-characters:] if self.log_path.exists() else ""

    def _watch(self) -> None:
        try:
            self._keep_alive()
        except (ServiceError, OSError) as error:
            self._failure = str(error)
            self._is_given_up.set()
        finally:
            self._has_begun.set()

    def _keep_alive(self) -> None:
        """Until it is to stop: wait for the port, then for the death, and launch again, wherever death came.

        Raises ServiceError when there is no sense in going on.
        """
        assert self._process is not None
        while True:
            if self._await_port():
                self._has_begun.set()
            while self._process.poll() is None:
                if self._stopping.wait(WATCH_S):
                    return
            if self._stopping.is_set():
                return
            self._refuse_to_restart_in_vain(self._process.returncode)
            self.restart_count += 1
            self._launch()

    def _refuse_to_restart_in_vain(self, code: int) -> None:
        """ServiceError when it died too often, or said no (a taken port, a bad store) and has never listened."""
        ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        if code >= 0 and not self._has_begun.is_set():
            raise ServiceError(f"the service did not start ({ended}):\n{self.log_tail()}")
        if self.restart_count >= MAX_RESTARTS:
            deaths = self.restart_count + 1
            raise ServiceError(f"the service died {deaths} times, the last time {ended}:\n{self.log_tail()}")
