"""What the codec calls an error: in training, and where the encoder searches (``--effort``)."""

from __future__ import annotations

import torch.nn.functional as F
from pytorch_msssim import ms_ssim
from torch import Tensor

STRUCTURE_SHARE = 0.35  # of MS-SSIM
STRUCTURE_UNIT = 0.02  # squared error that one unit of 1 - MS-SSIM is worth: CompressAI's lambdas for either
SCALES = (0.2856, 0.3001, 0.2363, 0.1333)  # MS-SSIM's weights but for the first, full size
WINDOW = 5  # pixels, at half size
LEAST = 65  # pixels a side at half size: what the library asks for with this window


def _half(picture: Tensor) -> tuple[Tensor, float]:
    """A picture of half the size, continued at its border where it is too small; and the share of it that is
    not."""
    half = F.avg_pool2d(picture.float(), 2)
    height, width = half.shape[2:]
    larger = F.pad(half, (0, max(0, LEAST - width), 0, max(0, LEAST - height)), mode="replicate")
    return larger, height * width / (larger.shape[2] * larger.shape[3])


def distortion(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean squared error with a share of 1 - MS-SSIM (Wang et al., 2003), of pictures (B, 3, H, W) of 0..1,
    at least 2 pixels a side -> (B,).

    MS-SSIM is taken at half the size: its first scale weighs 4 % and would take three quarters of the time.
    """
    mse = (x_hat - x).square().mean((1, 2, 3))
    (shown, real), (wanted, _) = _half(x_hat), _half(x)
    alike = ms_ssim(shown, wanted, data_range=1.0, size_average=False, win_size=WINDOW, weights=SCALES)
    share = STRUCTURE_SHARE * real
    return (1 - share) * mse + share * STRUCTURE_UNIT * (1 - alike)
