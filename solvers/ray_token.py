"""The secret of this process's private Rays: one for all of them, one after the other.

Ray's core reads its token once per process and keeps it over a later start: a second instance with a token of its own
would refuse its own driver. The file that holds it is new and private each time.
"""

from __future__ import annotations

import secrets
from functools import cache
from pathlib import Path

TOKEN_BYTES = 32
TOKEN_VARIABLE = "RAY_AUTH_TOKEN_PATH"


def token_file(folder: Path) -> Path:
    """Write the token into a file in `folder` that nobody else may read; TOKEN_VARIABLE has to name it."""
    file = folder / "token"
    file.touch(mode=0o600)
    file.write_text(_token(), encoding="utf-8")
    return file


@cache
def _token() -> str:
    return secrets.token_hex(TOKEN_BYTES)
