"""Large pictures in overlapping tiles, so that memory is bounded by the tile and not by the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

CORE = 1024  # pixels a side that one tile contributes; a multiple of every stride in use


def _spans(length: int, reach: int) -> Iterator[tuple[int, int, int, int]]:
    """(first read, last read, first kept, last kept), ends exclusive, of the tiles along one side."""
    for start in range(0, length, CORE):
        end = min(start + CORE, length)
        yield max(0, start - reach), min(length, end + reach), start, end


def in_tiles(x: Tensor, function: Callable[[Tensor], Tensor], *, stride: int, reach: int) -> Tensor:
    """Apply a local function to a picture tile by tile; the result is what one large call would give.

    Args:
        x: uint8 (C, H, W).
        function: (1, C, h, w) -> (1, C, h, w); it may need h and w to be multiples of ``stride``, and no
            block of ``stride`` pixels a side may depend on anything farther away from it than ``reach``.
        stride: divides ``CORE`` and ``reach``. Tiles are extended by repetition to fit.
        reach: pixels.
    """
    height, width = x.shape[1:]
    result = torch.empty_like(x)
    for top, bottom, first_row, last_row in _spans(height, reach):
        for left, right, first, last in _spans(width, reach):
            rows = torch.arange(top, bottom + (top - bottom) % stride).clamp(max=height - 1)
            columns = torch.arange(left, right + (left - right) % stride).clamp(max=width - 1)
            tile = x[:, rows][:, :, columns]
            kept = function(tile[None])[0, :, first_row - top : last_row - top, first - left : last - left]
            result[:, first_row:last_row, first:last] = kept
    return result
