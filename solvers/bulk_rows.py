"""The rows of a filling: replicas on nodes, added and taken out in place.

A re-plan changes one row in a hundred, dozens of times over: so rows are neither joined nor copied for a change. Their
order means nothing; what is taken out is filled up from the end.
"""

from __future__ import annotations

import numpy as np

from solvers.archive import BoolArray, IntArray
from solvers.node_fill import Booked

COLUMNS = ("pair", "node", "device_mask", "gang")
SPARE = 1.25
"""Room for rows beyond those needed when a table must grow."""


class BookedRows:
    """A table that grows and shrinks in place."""

    def __init__(self, booked: Booked | None = None) -> None:
        self._columns: list[IntArray] = [np.zeros(0, dtype=np.int64) for _ in COLUMNS]
        self._count = 0
        if booked is not None:
            self.add(booked)

    def view(self) -> Booked:
        """All rows, not copied: valid until rows are added or taken out."""
        return Booked(*(column[: self._count] for column in self._columns))

    def copy(self) -> BookedRows:
        """Another table with the same rows."""
        return BookedRows(self.view())

    def add(self, booked: Booked) -> None:
        """Append rows."""
        end = self._count + len(booked)
        for i, name in enumerate(COLUMNS):
            if end > len(self._columns[i]):
                wider = np.zeros(int(SPARE * end), dtype=np.int64)
                wider[: self._count] = self._columns[i][: self._count]
                self._columns[i] = wider
            self._columns[i][self._count : end] = getattr(booked, name)
        self._count = end

    def take_out(self, rows: BoolArray) -> Booked:
        """The rows marked, which are in the table no more."""
        at = np.flatnonzero(rows)
        gone = self.view()[at]
        left = self._count - len(at)
        holes, moved = at[at < left], left + np.flatnonzero(~rows[left:])
        for column in self._columns:
            column[holes] = column[moved]
        self._count = left
        return gone
