"""Cumulative frequency tables for the range coder: shipped as integers, never rebuilt on a user's machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int32]
PRECISION = 16  # bits; every table ends at 2**PRECISION


@dataclass(frozen=True)
class Tables:
    """A set of tables, one after the other.

    Table ``i`` codes symbols ``offset[i] .. offset[i] + size[i] - 3``; its last interval stands
    for every other symbol (an escape, followed by the value in plain bits).

    Attributes:
        cdf: all tables joined, each 0 = first < ... < last = 2**16.
        size: entries of each table, at least 3.
        offset: smallest symbol of each table.
    """

    cdf: Integers
    size: Integers
    offset: Integers

    def problem(self, count: int) -> str | None:
        """What is wrong with the tables, of which ``count`` are needed, or None.

        The range coder trusts them blindly.
        """
        if any(part.dtype != np.int32 or part.ndim != 1 for part in (self.cdf, self.size, self.offset)):
            return "tables are not vectors of 32-bit integers"
        if len(self.size) != count:
            return f"{len(self.size)} tables where {count} are needed"
        if len(self.size) != len(self.offset) or not len(self.size) or self.size.min() < 3:
            return "table sizes are inconsistent"
        if int(self.size.sum()) != len(self.cdf):
            return "tables do not fill their array"
        ends = np.cumsum(self.size)
        starts = ends - self.size
        if np.any(self.cdf[starts] != 0) or np.any(self.cdf[ends - 1] != 1 << PRECISION):
            return "tables do not span 0 .. 2**16"
        rising = np.diff(self.cdf) > 0
        rising[ends[:-1] - 1] = True  # from one table to the next
        return None if rising.all() else "tables are not strictly increasing"

    @cached_property
    def lists(self) -> tuple[list[list[int]], list[int], list[int]]:
        """(tables, sizes, offsets) as the lists that CompressAI's coder takes."""
        parts = np.split(self.cdf, np.cumsum(self.size)[:-1])
        return [p.tolist() for p in parts], self.size.tolist(), self.offset.tolist()
