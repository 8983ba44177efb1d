"""What people write for an amount (`16Gi`, `2h`, `4 cores`), in the unit that the name of a field ends with.

Fields take plain numbers only, so that nobody has to guess; a refusal names the number that was meant.
"""

from __future__ import annotations

import math
import re

from suanli.model import units

_AMOUNT = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$")

_MIB_OF = {"mi": 1, "gi": units.MIB_PER_GIB, "ti": units.MIB_PER_GIB**2}
_SECONDS_OF: dict[str, float] = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), units.SECONDS_PER_MINUTE),
    **dict.fromkeys(("h", "hour", "hours"), units.SECONDS_PER_HOUR),
    **dict.fromkeys(("d", "day", "days"), units.SECONDS_PER_HOUR * units.HOURS_PER_DAY),
}
_WHOLE = dict.fromkeys(("core", "cores", "cpu", "cpus", "gpu", "gpus"), units.MILLI)
_UNITS: dict[str, tuple[str, dict[str, float]]] = {
    "_mib": ("MiB", {**_MIB_OF, "m": 1, "g": units.MIB_PER_GIB, "t": units.MIB_PER_GIB**2}),
    "_gib": ("GiB", {"gi": 1, "g": 1, "ti": units.MIB_PER_GIB, "t": units.MIB_PER_GIB}),
    "_milli": ("thousandths", {**_WHOLE, "m": 1}),
    "_ms": ("milliseconds", {"ms": 1, "s": 1000, "us": 1e-3}),
    "_s": ("seconds", _SECONDS_OF),
    "mbps": ("Mbit/s", {"mbps": 1, "gbps": units.MBPS_PER_GBPS, "kbps": 1e-3}),
    "_kw": ("kW", {"kw": 1, "w": 1e-3, "mw": 1000}),
}
"""Suffix of a field → its unit in words, and how many of it one of what people write is, in lower case."""


def unit_of(field: str) -> str:
    """The unit in words that a field's name ends with; "" when it ends with none."""
    return next((words for suffix, (words, _) in _UNITS.items() if field.endswith(suffix)), "")


def amount_meant(field: str, text: str, *, whole: bool) -> float | None:
    """The number in the field's unit that a text with a unit stands for, whole ones rounded up; None if unclear."""
    found = _AMOUNT.match(text)
    known = next((factors for suffix, (_, factors) in _UNITS.items() if field.endswith(suffix)), None)
    if found is None or known is None:
        return None
    word = found[2].lower()
    factor = known.get(word) or known.get(
        word.removesuffix("b").removesuffix("i") if word.endswith("b") else ""
    )
    if factor is None:
        return None
    amount = float(found[1]) * factor
    return math.ceil(round(amount, 6)) if whole else amount
