"""The synchronous client is what the asyncio one says, and the script that makes it notices when its table is stale."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.gen_sync_client import SOURCE, TARGET, WORDS, StaleTableError, in_form, without_waiting

ROOT = Path(__file__).resolve().parents[2]


def source() -> str:
    return (ROOT / SOURCE).read_text("utf-8")


def test_the_committed_client_equals_the_one_made_anew():
    assert in_form(without_waiting(source())) == (ROOT / TARGET).read_text("utf-8")


def test_the_command_says_that_nothing_is_stale():
    done = subprocess.run(
        [sys.executable, "tools/gen_sync_client.py", "--check"], cwd=ROOT, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_word_that_no_longer_occurs_is_an_error():
    with pytest.raises(StaleTableError, match="a word too many"):
        without_waiting(source().replace("aclosing", "closing"))


@pytest.mark.parametrize("line", ["x = asyncio.Lock()", "async  def f(): ...", "y: AsyncIterator[int]"])
def test_asyncio_that_the_table_does_not_cover_is_an_error_with_its_line(line: str):
    number = len(source().splitlines()) + 1
    with pytest.raises(StaleTableError, match=f"line {number}: .* is left"):
        without_waiting(source() + line + "\n")


def test_no_word_undoes_another():
    """Later words must not match what earlier ones wrote, or the order would matter in ways nobody reads."""
    for i, (_, instead) in enumerate(WORDS):
        assert [w for w, _ in WORDS[i + 1 :] if instead and w in instead] == []
