"""A deep perceptual distance on the features of SqueezeNet 1.1, for benchmarks and as a term of training.

The features are read from a file; they are no part of the program, and nothing that encodes, decodes or
restores needs them. The file holds the layers of torchvision's ``squeezenet1_1().features`` under its names,
trained on ImageNet, the normalisation of the pictures folded into the first of them, and says so in its
metadata, ``"input": "RGB in 0..1"``: torchvision's own weights, which take normalised pictures, would give
other distances.
"""

from __future__ import annotations

from pathlib import Path

import safetensors
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llicm_cli.errors import InputError

LAYERS = (1, 4, 7, 9, 10, 11, 12)  # of torchvision's features: the first ReLU and six of the fire modules
SMALLEST = 32  # pixels a side
TAKES = "RGB in 0..1"


class SqueezeNetDistance(nn.Module):
    """Squared difference of unit features, mean over places and layers (as Zhang et al., CVPR 2018, before
    any learned weights: not comparable with LPIPS).

    Args:
        path: safetensors file of the features.

    Raises:
        InputError: there are no such features in the file, or it does not say that they take RGB in 0..1.
    """

    def __init__(self, path: Path) -> None:
        from torchvision.models import squeezenet1_1

        super().__init__()
        self.features = squeezenet1_1(weights=None).features
        try:
            with safetensors.safe_open(path, "pt") as file:
                takes = (file.metadata() or {}).get("input", "")
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.features.load_state_dict({k.removeprefix("features."): v.float() for k, v in state.items()})
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise InputError(f"{path}: not a file of SqueezeNet 1.1 features") from error
        if not takes.startswith(TAKES):
            raise InputError(f"{path} does not say in its metadata that its input is {TAKES}")
        for layer in self.features.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # layers that are looked at must not be overwritten
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1, at least ``SMALLEST`` pixels a side -> distances (B,), 0 to 2: the
        features are not negative."""
        x = torch.cat((a, b))
        total = a.new_zeros(len(a))
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in LAYERS:
                one, other = F.normalize(x.float(), dim=1).chunk(2)
                total = total + (one - other).square().sum(1).mean((1, 2))
        return total / len(LAYERS)
