"""tools/ensure_env.py installs when the locks or the project changed, and only then.

pip is replaced by a recorder, and the virtual environment is made without packages.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tools import ensure_env

ROOT = Path(__file__).resolve().parents[2]


class Checkout:
    """A project folder with locks, and what pip was asked to install in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.asked: list[str] = []

    def ensure(self, kind: str) -> list[str]:
        """Run the script; returns what it installed this time."""
        self.asked.clear()
        ensure_env.main(kind, self.venv)
        return list(self.asked)

    def change(self, name: str, text: str = "# changed\n") -> None:
        with (self.root / name).open("a", encoding="utf-8") as file:
            file.write(text)


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Checkout:
    for name in ("pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(ROOT / name, tmp_path)
    made = Checkout(tmp_path)

    def create(venv: Path) -> None:
        made.asked.append("venv")
        shutil.rmtree(venv, ignore_errors=True)
        (venv / "bin").mkdir(parents=True)
        (venv / "bin" / "python").touch()

    def pip(_venv: Path, arguments: list[str], *, show_progress: bool) -> None:
        assert show_progress == ("--require-hashes" in arguments)
        made.asked.append(arguments[-1])

    monkeypatch.setattr(ensure_env, "ROOT", tmp_path)
    monkeypatch.setattr(ensure_env, "_create", create)
    monkeypatch.setattr(ensure_env, "_usable", lambda venv: (venv / "bin" / "python").exists())
    monkeypatch.setattr(ensure_env, "_pip", pip)
    return made


def test_a_fresh_checkout_gets_environment_lock_and_project(checkout):
    assert checkout.ensure("run") == ["venv", "requirements.lock", "."]


def test_a_second_run_installs_nothing(checkout):
    checkout.ensure("run")
    assert checkout.ensure("run") == []


def test_a_changed_lock_is_installed_again(checkout):
    checkout.ensure("run")
    checkout.change("requirements.lock")
    assert checkout.ensure("run") == ["requirements.lock", "."]


def test_developers_tools_come_on_top(checkout):
    checkout.ensure("run")
    assert checkout.ensure("dev") == ["requirements-dev.lock", "."]


def test_run_is_content_with_the_developers_environment(checkout):
    checkout.ensure("dev")
    assert checkout.ensure("run") == []
    assert checkout.ensure("dev") == []


def test_new_project_metadata_reinstalls_the_project_only(checkout):
    checkout.ensure("dev")
    checkout.change("pyproject.toml", '[tool.hatch.version]\npath = "x"\n')
    assert checkout.ensure("run") == ["."]
    assert checkout.ensure("dev") == [], "the note must still speak of the developers' environment"


def test_settings_of_linters_reinstall_nothing(checkout):
    checkout.ensure("dev")
    checkout.change("pyproject.toml", "[tool.elsewhere]\nx = 1\n")
    assert checkout.ensure("dev") == []


def test_an_interrupted_install_is_done_again(checkout, monkeypatch):
    checkout.ensure("run")
    checkout.change("requirements.lock")
    recorder = ensure_env._pip

    def dies(*_arguments: object, **_keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ensure_env, "_pip", dies)
    with pytest.raises(KeyboardInterrupt):
        checkout.ensure("run")
    monkeypatch.setattr(ensure_env, "_pip", recorder)
    assert checkout.ensure("run") == ["requirements.lock", "."]


def test_a_moved_checkout_gets_a_new_environment(checkout, monkeypatch):
    checkout.ensure("run")
    elsewhere = checkout.root.with_name("elsewhere")
    checkout.root.rename(elsewhere)
    monkeypatch.setattr(ensure_env, "ROOT", elsewhere)
    checkout.root, checkout.venv = elsewhere, elsewhere / ".venv"
    assert checkout.ensure("run") == ["venv", "requirements.lock", "."]


def test_a_broken_environment_is_made_again(checkout):
    checkout.ensure("run")
    (checkout.venv / "bin" / "python").unlink()
    assert checkout.ensure("run") == ["venv", "requirements.lock", "."]


def test_two_at_once_install_once(checkout, monkeypatch):
    first_is_installing, may_go_on = threading.Event(), threading.Event()
    recorder = ensure_env._pip

    def slow(venv: Path, arguments: list[str], *, show_progress: bool) -> None:
        first_is_installing.set()
        assert may_go_on.wait(5)
        recorder(venv, arguments, show_progress=show_progress)

    monkeypatch.setattr(ensure_env, "_pip", slow)
    threads = [threading.Thread(target=ensure_env.main, args=("run", checkout.venv)) for _ in range(2)]
    threads[0].start()
    assert first_is_installing.wait(5)
    threads[1].start()
    may_go_on.set()
    for thread in threads:
        thread.join(5)
    assert checkout.asked == ["venv", "requirements.lock", "."]


def test_a_failing_pip_shows_what_it_said(tmp_path, monkeypatch):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho Collecting numpy\necho ERROR: no space left\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(ensure_env.InstallError, match="no space left"):
        ensure_env._pip(tmp_path, ["install", "x"], show_progress=True)


def test_pip_is_kept_away_from_other_folders(tmp_path, monkeypatch):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment\n")
    python.chmod(0o755)
    monkeypatch.setenv("PIP_TARGET", "elsewhere")
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_CERT", "certificates.pem")
    ensure_env._pip(tmp_path, ["install", "x"], show_progress=False)
    seen = dict(
        line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines() if "=" in line
    )
    assert "PIP_TARGET" not in seen
    assert seen["PIP_USER"] == "0"
    assert seen["PIP_CERT"] == "certificates.pem", "how to reach an index is the machine's business"


def test_the_script_explains_its_arguments():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "ensure_env.py", "everything"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "run|dev" in done.stderr
