"""Quality metrics, each with its direction and range.

PSNR, SSIM and MS-SSIM need nothing. The others need files or packages and are left out without them:
NIQE and the SqueezeNet distance read ``niqe_pris_params.npz`` and ``squeezenet11_features.safetensors`` from
a folder, LPIPS needs the package ``lpips`` and its backbone in torch's cache, ``pyiqa:NAME`` that package.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_msssim
import torch
from PIL import Image
from torch import Tensor

from llicm_cli.bench.niqe import load as load_pristine
from llicm_cli.bench.niqe import niqe
from llicm_cli.coding import to_unit
from llicm_cli.errors import InputError, UsageError
from llicm_cli.models.perceptual import SMALLEST, SqueezeNetDistance
from llicm_cli.pipeline import to_pixels

Measure = Callable[[Image.Image, Image.Image], float | None]
"""(picture, ground truth), both RGB and of one size -> value, None where it is not defined."""

MOST_PSNR = 100.0  # dB, for equal pictures
LPIPS_BACKBONE = "alexnet-owt-7be5be79.pth"
SQUEEZENET_FILE, NIQE_FILE = "squeezenet11_features.safetensors", "niqe_pris_params.npz"
SMALLEST_MS_SSIM = 161  # pixels a side, for five scales of an 11x11 window


@dataclass(frozen=True)
class Metric:
    """What the values of a metric mean."""

    title: str
    better: str  # "higher" or "lower"
    range: str


METRICS = {
    "psnr": Metric("PSNR-RGB (dB)", "higher", "0 to 100; 100 stands for equal pictures"),
    "ssim": Metric("SSIM", "higher", "-1 to 1"),
    "ms_ssim": Metric("MS-SSIM", "higher", "0 to 1"),
    "squeezenet": Metric("SqueezeNet distance", "lower", "0 to 2"),
    "lpips": Metric("LPIPS (AlexNet)", "lower", "0 to about 1"),
    "niqe": Metric("NIQE", "lower", "0 upwards, typically 2 to 20; no reference"),
}


def describe(name: str) -> Metric:
    """What a metric means; those of pyiqa are asked."""
    if name in METRICS:
        return METRICS[name]
    import pyiqa

    lower = pyiqa.create_metric(name.removeprefix("pyiqa:")).lower_better
    return Metric(name, "lower" if lower else "higher", "see pyiqa")


def _tensor(image: Image.Image) -> Tensor:
    """(1, 3, H, W), 0..1."""
    return to_unit(to_pixels(image))[None]


def psnr(a: Image.Image, b: Image.Image) -> float:
    """PSNR over R, G and B together in dB, 100 for equal pictures."""
    error = np.square(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)).mean()
    return MOST_PSNR if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(a: Image.Image, b: Image.Image) -> float | None:
    """SSIM (Wang et al., 2004; Gaussian window of 11x11), mean over R, G and B."""
    from skimage.metrics import structural_similarity

    if min(a.size) < 11:
        return None
    return float(
        structural_similarity(
            np.asarray(a), np.asarray(b), channel_axis=2, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )
    )  # fmt: skip


def ms_ssim(a: Image.Image, b: Image.Image) -> float | None:
    """MS-SSIM (Wang et al., 2003), mean over R, G and B."""
    if min(a.size) < SMALLEST_MS_SSIM:
        return None
    return float(pytorch_msssim.ms_ssim(_tensor(a), _tensor(b), data_range=1.0))


@torch.inference_mode()
def _squeezenet_distance(distance: SqueezeNetDistance, a: Image.Image, b: Image.Image) -> float | None:
    return float(distance(_tensor(a), _tensor(b))) if min(a.size) >= SMALLEST else None


@cache
def _lpips() -> Any:
    import lpips

    return lpips.LPIPS(net="alex", verbose=False).eval()


@torch.inference_mode()
def _lpips_distance(a: Image.Image, b: Image.Image) -> float:
    return float(_lpips()(_tensor(a), _tensor(b), normalize=True))


@cache
def _pyiqa(name: str) -> Any:
    import pyiqa

    return pyiqa.create_metric(name)


@torch.inference_mode()
def _pyiqa_score(name: str, a: Image.Image, b: Image.Image) -> float:
    metric = _pyiqa(name)
    pictures = (_tensor(a),) if metric.metric_mode == "NR" else (_tensor(a), _tensor(b))
    return float(metric(*pictures))


def metric_files(folder: Path | None) -> dict[str, Path]:
    """The files in a folder that metrics read, by metric."""
    if folder is None:
        return {}
    files = {"squeezenet": folder / SQUEEZENET_FILE, "niqe": folder / NIQE_FILE}
    return {metric: file for metric, file in files.items() if file.exists()}


def meters(files: Path | None, extra: tuple[str, ...] = ()) -> dict[str, Measure]:
    """What can be measured here, by name.

    Args:
        files: folder of the metric files, see the module.
        extra: metrics of pyiqa, as ``pyiqa:NAME``.

    Raises:
        UsageError: an extra that is no metric of pyiqa, or pyiqa is not installed.
        InputError: a metric file that is damaged, or a folder without any.
    """
    found: dict[str, Measure] = {"psnr": psnr, "ssim": ssim, "ms_ssim": ms_ssim}
    if files is not None:
        there = metric_files(files)
        if "squeezenet" in there:
            found["squeezenet"] = partial(_squeezenet_distance, SqueezeNetDistance(there["squeezenet"]))
        if "niqe" in there:
            parameters = load_pristine(there["niqe"])
            found["niqe"] = lambda picture, _: niqe(picture, parameters)
        if not there:
            raise InputError(f"{files} holds neither {SQUEEZENET_FILE} nor {NIQE_FILE}")
    if (
        importlib.util.find_spec("lpips")
        and Path(torch.hub.get_dir(), "checkpoints", LPIPS_BACKBONE).is_file()
    ):
        found["lpips"] = _lpips_distance
    for name in extra:
        package, _, metric = name.partition(":")
        if package != "pyiqa" or not importlib.util.find_spec("pyiqa"):
            raise UsageError(f"unknown metric {name!r}; more metrics are pyiqa:NAME, with pyiqa installed")
        import pyiqa

        if metric not in pyiqa.list_models():
            raise UsageError(f"pyiqa has no metric {metric!r}")
        found[name] = partial(_pyiqa_score, metric)
    return found
