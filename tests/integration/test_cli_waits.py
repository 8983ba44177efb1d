"""A watch whose service has gone: it says what it waits for, and Ctrl-C ends it without a trace."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

from suanli.cli.lazy import EXIT_INTERRUPTED
from tests.fake_service import FakeService
from tests.service_worlds import wait_until

WATCH = [sys.executable, "-m", "suanli.cli.main", "watch", "-o", "name", "--address"]


def _heed_ctrl_c() -> None:
    # a run in the background hands SIGINT down as ignored; a terminal does not
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_watch_that_waits_says_so_and_ends_by_ctrl_c():
    with FakeService() as service:
        watch = subprocess.Popen(
            [*WATCH, service.address], text=True, stderr=subprocess.PIPE, preexec_fn=_heed_ctrl_c
        )
        try:
            assert watch.stderr is not None
            wait_until(lambda: "WatchWorkloads" in service.faults.seen)
            service.stop()
            said = watch.stderr.readline()
            watch.send_signal(signal.SIGINT)
            _, rest = watch.communicate(timeout=30)
        finally:
            watch.kill()
            watch.wait()
    assert re.match(
        r"warning: waiting for the service since \d+ s, for 1\d\d s more: nothing answers at", said
    )
    assert rest == ""
    assert watch.returncode == EXIT_INTERRUPTED
