"""NIQE, a no-reference score of naturalness (Mittal, Soundararajan and Bovik, IEEE SPL 2013).

Statistics of locally normalised luma in blocks of 96x96, at two scales, are compared with those of pristine
photographs, which come from a file (see ``load``). Scores agree with those of pyiqa to 0.01.
"""

from __future__ import annotations

import zipfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import correlate
from scipy.special import gamma

from llicm_cli.errors import InputError

BLOCK = 96
SHAPES = np.arange(0.2, 10.001, 0.001)  # candidates for the exponent of a generalised Gaussian
RATIOS = gamma(2 / SHAPES) ** 2 / (gamma(1 / SHAPES) * gamma(3 / SHAPES))
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))


@cache
def load(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (36,), covariance (36, 36) of pristine photographs, and the window (7, 7), from an npz file with
    ``mu_pris_param``, ``cov_pris_param`` and ``gaussian_window``; raises InputError."""
    try:
        with np.load(path) as data:
            return data["mu_pris_param"].ravel(), data["cov_pris_param"], data["gaussian_window"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a file of NIQE's pristine parameters ({error})") from error


def _asymmetric_gaussian(x: np.ndarray) -> tuple[float, float, float]:
    """(shape, left scale, right scale) of an asymmetric generalised Gaussian, by moments; NaN where it has
    but one side."""
    sides = x[x < 0], x[x > 0]
    if not all(part.size for part in sides):
        return np.nan, np.nan, np.nan
    left, right = (np.sqrt(np.mean(np.square(part))) for part in sides)
    skew = left / right
    ratio = np.mean(np.abs(x)) ** 2 / np.mean(np.square(x))
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = SHAPES[np.argmin(np.square(RATIOS - ratio))]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale


def _features(block: np.ndarray) -> list[float]:
    """The 18 features of a block of normalised luma."""
    shape, left, right = _asymmetric_gaussian(block)
    found = [shape, (left + right) / 2]
    for shift in NEIGHBOURS:
        shape, left, right = _asymmetric_gaussian(block * np.roll(block, shift, (0, 1)))
        found += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return found


def statistics(picture: Image.Image, window: np.ndarray) -> np.ndarray:
    """(blocks, 36) features of the luma of a picture, RGB or L, cropped to whole blocks; NaN in flat ones."""
    rows, columns = picture.height // BLOCK, picture.width // BLOCK
    luma = picture.convert("L").crop((0, 0, columns * BLOCK, rows * BLOCK)).convert("F")
    scales = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for step in (1, 2):
            x = np.asarray(luma, dtype=np.float64)
            local = correlate(x, window, mode="nearest")
            spread = np.sqrt(np.abs(correlate(x * x, window, mode="nearest") - local * local))
            normal = (x - local) / (spread + 1)
            size = BLOCK // step
            places = [(i * size, j * size) for i in range(rows) for j in range(columns)]
            scales.append([_features(normal[i : i + size, j : j + size]) for i, j in places])
            luma = luma.resize((luma.width // 2, luma.height // 2), Image.Resampling.BICUBIC)
    return np.concatenate(scales, axis=1)


def niqe(picture: Image.Image, pristine: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float | None:
    """NIQE of a picture: 0 is as natural as the pristine photographs, typically 2 to 20, lower is better.

    Args:
        picture: RGB or L.
        pristine: of ``load``.

    Returns:
        The score, or None for a picture with fewer than two blocks with texture.
    """
    if min(picture.size) < BLOCK:
        return None
    mean, covariance, window = pristine
    found = statistics(picture, window)
    whole = found[np.isfinite(found).all(1)]
    if len(whole) < 2:
        return None
    away = mean - whole.mean(0)
    return float(np.sqrt(away @ np.linalg.pinv((covariance + np.cov(whole.T)) / 2) @ away))
