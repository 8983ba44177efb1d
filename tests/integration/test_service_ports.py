"""A port that is in use is refused in words before anything is started on it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from scheduler.rpc import refuse_taken
from suanli.cli.main import app

HOST = "127.0.0.1"


@contextlib.contextmanager
def somebody_listens(host: str = HOST) -> Iterator[int]:
    """A port on which somebody else listens."""
    with socket.create_server((host, 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("host", [HOST, "0.0.0.0", "localhost"])
def test_a_port_in_use_is_refused_with_what_to_do_next(host):
    with (
        somebody_listens() as port,
        pytest.raises(OSError, match=rf"port {port} of {host} is in use .*--port takes another"),
    ):
        refuse_taken(host, port)


def test_a_port_that_was_let_go_is_free_and_stays_free():
    with somebody_listens() as port:
        pass
    refuse_taken(HOST, port)
    refuse_taken(HOST, port)
    refuse_taken(HOST, 0)


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:7411: .*--port takes another"):
        refuse_taken("192.0.2.1", 7411)


@pytest.mark.parametrize("command", [["serve", "--store", "memory"], ["dev", "tiny-cloud-edge"]])
def test_serve_and_dev_leave_a_port_in_use_with_exit_code_2_and_one_line(command, tmp_path):
    with somebody_listens() as port:
        ended = subprocess.run(
            [sys.executable, "-m", "suanli.cli.main", *command, "--port", str(port)],
            capture_output=True, text=True, timeout=60, cwd=tmp_path,
        )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert f"port {port} of {HOST} is in use" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize("command", [["serve", "--store", "memory"], ["dev", "tiny-cloud-edge"]])
def test_a_port_that_cannot_be_is_a_bad_value(command):
    refused = CliRunner().invoke(app, [*command, "--port", "80000"])
    assert refused.exit_code == 2
    assert "65535" in refused.output
