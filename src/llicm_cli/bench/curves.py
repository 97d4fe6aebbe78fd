"""Curves of quality over rate, and the area between them (BD-rate, Bjontegaard, VCEG-M33, 2001)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import bjontegaard
import numpy as np

LEAST_OVERLAP = 0.5  # of the smaller of two ranges of quality
DRAWS = 500  # of pictures, for the interval
WITHIN = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class BdRate:
    """Rate saved (negative) or wasted (positive) in % at equal quality, or why there is no such number."""

    value: float | None = None
    low: float | None = None  # of the 95 % interval over pictures
    high: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return f"n/a ({self.reason})"
        interval = "" if self.low is None else f" ({self.low:+.1f} .. {self.high:+.1f})"
        return f"{self.value:+.1f}{interval}"


def quality(values: np.ndarray, metric: str, better: str) -> np.ndarray:
    """Values of a metric on the axis where areas are taken: upwards is better, MS-SSIM in dB."""
    if metric == "ms_ssim":
        result: np.ndarray = -10 * np.log10(np.maximum(1 - values, 1e-10))
        return result
    return values if better == "higher" else -values


def problem(anchor: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> str:
    """Why the BD-rate of two curves (rates rising, qualities) would mean nothing; empty if it does."""
    for name, (rates, qualities) in (("its", test), ("the anchor's", anchor)):
        if len(rates) < 4:
            return f"{name} curve has fewer than 4 points"
        if not np.isfinite(qualities).all():
            return "not measured"
        if np.any(np.diff(rates) <= 0) or np.any(np.diff(qualities) <= 0):
            return f"{name} curve is not monotone"
    overlap = min(anchor[1][-1], test[1][-1]) - max(anchor[1][0], test[1][0])
    if overlap < LEAST_OVERLAP * min(np.ptp(anchor[1]), np.ptp(test[1])):
        return "too little overlap"
    return ""


def _rate(anchor: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    return float(
        bjontegaard.bd_rate(*anchor, *test, method="akima", min_overlap=0, require_matching_points=False)
    )


def bd_rate(anchor: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> BdRate:
    """BD-rate of two curves, each (rates, qualities) with qualities as of ``quality``, in any order."""
    anchor, test = (tuple(v[np.argsort(curve[0])] for v in curve) for curve in (anchor, test))  # type: ignore[assignment]
    reason = problem(anchor, test)
    return BdRate(reason=reason) if reason else BdRate(_rate(anchor, test))


@dataclass(frozen=True)
class Points:
    """What was measured of one codec on one set: rates and values, (pictures, settings)."""

    bpp: np.ndarray
    values: np.ndarray
    metric: str
    better: str

    def mean(self, chosen: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(rate, quality) over the chosen pictures (indices, default all); settings stay in their order."""
        bpp, values = (v if chosen is None else v[chosen] for v in (self.bpp, self.values))
        return bpp.mean(0), quality(values.mean(0), self.metric, self.better)


def points(entry: dict[str, Any], pictures: list[str], metric: str, better: str) -> Points:
    """The points of a codec in a results file; a picture without a value of this metric makes it NaN."""
    rows = [entry["pictures"][name] for name in pictures]
    nothing = [[None] * len(row["bpp"]) for row in rows]
    values = [row.get(metric, empty) for row, empty in zip(rows, nothing, strict=True)]
    return Points(np.array([row["bpp"] for row in rows], float), np.array(values, float), metric, better)


def bootstrapped(anchor: Points, test: Points, seed: int = 0) -> BdRate:
    """BD-rate of the mean curves, with the interval that 95 % of redrawn sets of pictures give.

    Both must have been measured on the same pictures in the same order.
    """
    whole = bd_rate(anchor.mean(), test.mean())
    if whole.value is None or len(anchor.bpp) < 2:
        return whole
    rng = np.random.default_rng(seed)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(DRAWS):
            chosen = rng.integers(0, len(anchor.bpp), len(anchor.bpp))
            value = bd_rate(anchor.mean(chosen), test.mean(chosen)).value
            if value is not None:
                found.append(value)
    if len(found) < DRAWS // 2:
        return BdRate(reason="no number for most redrawn sets of pictures")
    low, high = np.percentile(found, WITHIN)
    return BdRate(whole.value, float(low), float(high))
