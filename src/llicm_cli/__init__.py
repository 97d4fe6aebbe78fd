"""LL-ICM: a learned image codec whose bitstream is made for low-level vision models.

The public face: ``encode``, ``encode_to_size`` and ``decode`` between ``PIL.Image.Image`` and bytes,
``enhance`` and ``inspect`` on pictures, and the errors they raise. Networks are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llicm_cli.errors import (
    BitstreamError,
    InputError,
    LlicmError,
    ModelError,
    OutputError,
    TargetError,
    UsageError,
)
from llicm_cli.version import __version__

if TYPE_CHECKING:
    from llicm_cli.pipeline import decode, encode, encode_to_size, enhance, inspect

__all__ = [
    "BitstreamError",
    "InputError",
    "LlicmError",
    "ModelError",
    "OutputError",
    "TargetError",
    "UsageError",
    "__version__",
    "decode",
    "encode",
    "encode_to_size",
    "enhance",
    "inspect",
]


def __getattr__(name: str) -> Any:
    """Import the pipeline, and torch with it, only when it is asked for."""
    if name in ("decode", "encode", "encode_to_size", "enhance", "inspect"):
        from llicm_cli import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
