"""Make the synchronous client from the asyncio one: `suanli/client/sync.py` is `aio.py` without waiting.

Both are typed by hand only once. What differs is a table of words; a word that no longer occurs, or a trace of asyncio
that is left, is an error, so the table cannot rot. `tests/unit/test_repo_sync_client.py` compares what is committed.

    python tools/gen_sync_client.py              rewrite suanli/client/sync.py
    python tools/gen_sync_client.py --check      write nothing, exit 1 when it is not what aio.py says
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE, TARGET = Path("suanli/client/aio.py"), Path("suanli/client/sync.py")

WORDS = (
    # what the two say of themselves
    ("The asyncio client:", "The synchronous client:"),
    ("`sync.py` is made from this file", "Made from `aio.py`"),
    (
        "For one event loop; close it, or use it in an `async with`.",
        "Thread-safe; close it, or use it in a `with`.",
    ),
    # the library
    ("import asyncio\n", "import time\n"),
    ("asyncio.sleep", "time.sleep"),
    ("grpc.aio.", "grpc."),
    ("AsyncClient", "Client"),
    # types
    ("Callable[[float], Awaitable[None]]", "Callable[[float], None]"),
    ("Awaitable[Page[T]]", "Page[T]"),
    (" Awaitable,", ""),
    ("AsyncGenerator[Any]", "Generator[Any]"),
    ("AsyncGenerator[", "Iterator["),
    (" AsyncGenerator,", " Generator, Iterator,"),
    # the language
    ("aclosing", "closing"),
    ("__aenter__", "__enter__"),
    ("__aexit__", "__exit__"),
    ("async def ", "def "),
    ("async for ", "for "),
    ("async with ", "with "),
    ("await ", ""),
)
"""(in aio.py, in sync.py), replaced in this order."""
LEFT_OVER = re.compile(r"\b(async|await|grpc\.aio|asyncio|Async\w+|Awaitable|__a(enter|exit|iter|next)__)\b")


class StaleTableError(RuntimeError):
    """A word of the table no longer occurs, or asyncio shows through where no word covers it."""


def without_waiting(source: str) -> str:
    """The synchronous client's text, not yet in the project's form.

    Raises:
        StaleTableError: the table and the source no longer fit each other.
    """
    text = source
    for word, instead in WORDS:
        if word not in text:
            raise StaleTableError(f"{SOURCE}: {word!r} does not occur; the table has a word too many")
        text = text.replace(word, instead)
    for number, line in enumerate(text.splitlines(), 1):
        left = LEFT_OVER.search(line)
        if left is not None:
            raise StaleTableError(
                f"{SOURCE}, line {number}: {left.group()!r} is left; the table lacks a word"
            )
    return text


def in_form(text: str) -> str:
    """The project's form: imports in order, `yield from` where nothing is awaited, lines as long as may be."""
    for command in (
        ["check", "--select", "I,UP028", "--fix", "--unsafe-fixes", "--quiet"],
        ["format", "--quiet"],
    ):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(TARGET), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout
    return text


def main(arguments: list[str] | None = None) -> int:
    """Write, or compare; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the file is stale")
    check = parser.parse_args(arguments).check
    try:
        made = in_form(without_waiting((ROOT / SOURCE).read_text("utf-8")))
    except StaleTableError as error:
        print(error, file=sys.stderr)
        return 1
    if check and made != (ROOT / TARGET).read_text("utf-8"):
        print(f"{TARGET} is not what {SOURCE} says: run python tools/gen_sync_client.py", file=sys.stderr)
        return 1
    if not check:
        (ROOT / TARGET).write_text(made, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
