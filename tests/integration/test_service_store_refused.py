"""A store that cannot be had is refused before the service listens, and nothing is made on the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.store import SqlStore, refuse_unusable_store
from suanli.model import InvalidRequest


def serve(store: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`suanli serve` on that store, which must end by itself."""
    command = [sys.executable, "-m", "suanli.cli.main", "serve", "--port", "0", "--store", store]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd)


def test_a_folder_that_does_not_exist_is_not_made(tmp_path: Path):
    refused = serve(f"sqlite:///{tmp_path}/no/such/dir/x.db", tmp_path)
    assert refused.returncode == 2
    assert f"folder {tmp_path}/no/such/dir does not exist" in refused.stderr
    assert refused.stdout == "", "it listened"
    assert list(tmp_path.iterdir()) == []


def test_a_store_in_use_is_refused_before_anything_listens(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/city.db"
    first = SqlStore(url)
    refused = serve(url, tmp_path)
    assert refused.returncode == 2
    assert f"{tmp_path}/city.db is in use by another service" in refused.stderr
    assert refused.stdout == "", "it listened"
    first.close()
    refuse_unusable_store(url)


def test_a_driver_that_is_not_installed_is_named():
    with pytest.raises(InvalidRequest, match="its driver psycopg is not installed"):
        refuse_unusable_store("postgresql+psycopg://host/name")


def test_memory_and_a_new_file_can_always_be_had(tmp_path: Path):
    refuse_unusable_store("memory")
    refuse_unusable_store(f"sqlite:///{tmp_path}/new.db")
    SqlStore(f"sqlite:///{tmp_path}/new.db").close()
