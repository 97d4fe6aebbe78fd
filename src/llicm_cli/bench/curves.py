"""Curves of quality over rate, and the area between them (BD-rate, Bjontegaard, VCEG-M33, 2001)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import bjontegaard
import numpy as np

LEAST_OVERLAP = 0.5  # of the smaller of two ranges of quality
FEWEST_POINTS = 4
WIDEST = 100.0  # percentage points; a wider interval says that there is no one answer for these pictures
DRAWS = 500  # of pictures, for the interval
FEWEST_PICTURES = 5  # of fewer, redrawn sets are too few for their interval to be told
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


Curve = tuple[np.ndarray, np.ndarray]
"""(rates, qualities)"""


def rising(curve: Curve) -> Curve:
    """A curve without the settings that nobody would choose: those that cost more than another one and give
    no more. Past the rate where restoration can make no more of a picture, curves turn flat or fall."""
    rates, qualities = curve
    order = np.lexsort((-qualities, rates))
    rates, qualities = rates[order], qualities[order]
    better = np.ones(len(qualities), bool)
    better[1:] = qualities[1:] > np.maximum.accumulate(qualities)[:-1]
    return rates[better], qualities[better]


def problem(anchor: Curve, test: Curve) -> str:
    """Why the BD-rate of two curves, of ``rising``, would mean nothing; empty if it does."""
    for name, (rates, _) in (("its", test), ("the anchor's", anchor)):
        if len(rates) < FEWEST_POINTS:
            return f"{name} curve has fewer than {FEWEST_POINTS} rising points"
    if test[1][0] >= anchor[1][-1]:
        return "better at its worst than the anchor at its best"
    if anchor[1][0] >= test[1][-1]:
        return "worse at its best than the anchor at its worst"
    overlap = min(anchor[1][-1], test[1][-1]) - max(anchor[1][0], test[1][0])
    if overlap < LEAST_OVERLAP * min(np.ptp(anchor[1]), np.ptp(test[1])):
        return "too little overlap"
    return ""


def _rate(anchor: Curve, test: Curve) -> float:
    return float(
        bjontegaard.bd_rate(*anchor, *test, method="akima", min_overlap=0, require_matching_points=False)
    )


def bd_rate(anchor: Curve, test: Curve) -> BdRate:
    """BD-rate of two curves with qualities as of ``quality``, in any order."""
    if not (np.isfinite(anchor[1]).all() and np.isfinite(test[1]).all()):
        return BdRate(reason="not measured")
    anchor, test = rising(anchor), rising(test)
    reason = problem(anchor, test)
    return BdRate(reason=reason) if reason else BdRate(_rate(anchor, test))


@dataclass(frozen=True)
class Points:
    """What was measured of one codec on one set: rates and values, (pictures, settings)."""

    bpp: np.ndarray
    values: np.ndarray
    metric: str
    better: str

    def mean(self, chosen: np.ndarray | None = None) -> Curve:
        """(rate, quality) over the chosen pictures (indices, default all); settings stay in their order."""
        bpp, values = (v if chosen is None else v[chosen] for v in (self.bpp, self.values))
        return bpp.mean(0), quality(values.mean(0), self.metric, self.better)


def points(entry: dict[str, Any], pictures: list[str], metric: str, better: str) -> Points:
    """The points of a codec in a results file; a picture without a value of this metric makes it NaN."""
    rows = [entry["pictures"][name] for name in pictures]
    nothing = [[None] * len(row["bpp"]) for row in rows]
    values = [row.get(metric, empty) for row, empty in zip(rows, nothing, strict=True)]
    return Points(np.array([row["bpp"] for row in rows], float), np.array(values, float), metric, better)


def bootstrapped(anchor: Points, test: Points) -> BdRate:
    """BD-rate of the mean curves, with the interval that 95 % of redrawn sets of pictures give, of
    ``FEWEST_PICTURES`` or more; no number where these sets disagree.

    Both must have been measured on the same pictures in the same order.
    """
    whole = bd_rate(anchor.mean(), test.mean())
    if whole.value is None or len(anchor.bpp) < 2:
        return whole
    rng = np.random.default_rng(0)
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
    if high - low > WIDEST:
        return BdRate(reason=f"pictures disagree: {low:+.0f} .. {high:+.0f}")
    return whole if len(anchor.bpp) < FEWEST_PICTURES else BdRate(whole.value, float(low), float(high))
