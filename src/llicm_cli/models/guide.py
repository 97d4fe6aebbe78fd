"""The guide: what a picture shows and what is wrong with it, in the space of a vision-language model.

DA-CLIP (Luo et al., ICLR 2024) on any open_clip model. The image tower is frozen; the *controller*, a
trainable copy of it, feeds every block of the tower through links that start at zero. Two outputs in
CLIP's space:

    views --controller--------------------> degradation: close to the text of what is wrong
             | | |  (links)
    views --tower-------------------------> content: what the clean picture would give

Both towers see a picture through square *views*: the whole picture reduced, which shows content,
shadows and haze, and cut-outs at full resolution, which show noise, blocks and blur.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llicm_cli.errors import ModelError, UsageError
from llicm_cli.models.blocks import Pointwise
from llicm_cli.tasks import CLASSES, PROMPTS

with warnings.catch_warnings():  # of its own dependencies, which are no business of our users
    warnings.simplefilter("ignore")
    import open_clip

COMPACT: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 24, "image_size": 96},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
"""The open_clip configuration of the guide that is shipped: small enough to train and run anywhere."""

GRID = 3  # cut-outs a side that are taken of a picture


class Guidance(NamedTuple):
    """Both embeddings of pictures.

    Attributes:
        content: (B, V, D) a unit vector for every view.
        degradation: (B, D) unit vectors.
    """

    content: Tensor
    degradation: Tensor


@dataclass(frozen=True)
class GuideConfig:
    """An open_clip model configuration, and how its pictures are normalised; stored with the weights."""

    model: dict[str, Any]
    mean: tuple[float, float, float] = open_clip.OPENAI_DATASET_MEAN
    std: tuple[float, float, float] = open_clip.OPENAI_DATASET_STD


def _blocks(tower: Any) -> list[nn.Module]:
    """The residual stages of an open_clip image tower, in order.

    Raises:
        ModelError: an architecture that this function does not know.
    """
    if hasattr(tower, "layer1"):  # open_clip's ResNet
        return [getattr(tower, f"layer{i}") for i in range(1, 5)]
    if hasattr(tower, "transformer"):  # open_clip's ViT
        return list(tower.transformer.resblocks)
    trunk = getattr(tower, "trunk", None)  # a timm model
    for name in ("blocks", "stages", "layers"):
        if hasattr(trunk, name):
            return list(getattr(trunk, name))
    raise ModelError(f"no blocks known in an image tower of type {type(tower).__name__}")


@cache
def _clip_tokeniser() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer()


class _Link(Pointwise):
    """A linear map of channels that starts at zero; of (B, C, H, W), or of anything that ends in C."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, zero=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.ndim == 4 else F.linear(x, self.weight)


def views(x: Tensor, size: int, grid: int = GRID) -> Tensor:
    """The square views of pictures that the towers see.

    Args:
        x: (B, 3, H, W), float in 0..1 or uint8, any size.
        size: pixels a side of a view.
        grid: cut-outs a side; they lie evenly over the picture and may overlap.

    Returns:
        (B, 1 + grid**2, 3, size, size), float: the whole picture reduced, then the cut-outs. Pictures
        smaller than a view are repeated at their edges.
    """
    whole = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    if min(x.shape[2:]) < size:
        rows, columns = (torch.arange(max(n, size)).clamp(max=n - 1) for n in x.shape[2:])
        x = x[:, :, rows][:, :, :, columns]
    room = x.shape[2] - size, x.shape[3] - size
    places = [(2 * i + 1) / (2 * grid) for i in range(grid)]
    cuts = [
        x[:, :, (top := round(v * room[0])) : top + size, (left := round(u * room[1])) : left + size]
        for v in places
        for u in places
    ]
    seen = torch.stack((whole, *cuts), 1)
    return seen.float() / 255 if seen.dtype == torch.uint8 else seen


def _by_picture(embeddings: Tensor, pictures: int) -> Tensor:
    """Those of all views (B * V, D) -> (B, V, D)."""
    return embeddings.float().unflatten(0, (pictures, -1))


def pooled(embeddings: Tensor) -> Tensor:
    """Those of the views (B, V, D), of any length -> one a picture, (B, D) unit vectors. The whole picture
    counts as much as all its cut-outs together, and a view with a longer embedding for more than others."""
    return F.normalize(embeddings[:, 0] + embeddings[:, 1:].mean(1), dim=-1)


def class_means(phrases: Tensor, owner: Tensor) -> Tensor:
    """The direction (len(CLASSES), D) in which the phrases (N, D) of each class lie on average."""
    sums = phrases.new_zeros(len(CLASSES), phrases.shape[1])
    return F.normalize(sums.index_add(0, owner, phrases), dim=-1)


class Guide(nn.Module):
    """An open_clip model with a controller.

    Args:
        config: what to build; the weights start at random.
    """

    def __init__(self, config: GuideConfig) -> None:
        super().__init__()
        self.config = config
        self.id = ""  # of the weights file it comes from: the first 8 hex digits of its SHA-256
        arguments = copy.deepcopy(config.model)
        custom = arguments.pop("custom_text", False) or "hf_model_name" in arguments["text_cfg"]
        self.clip = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**arguments)
        size = self.clip.visual.image_size
        self.size: int = size if isinstance(size, int) else size[0]
        self.width: int = config.model["embed_dim"]
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(config.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(config.std)[:, None, None], persistent=False)
        self.copy_tower()

    def copy_tower(self) -> None:
        """Start the controller as a copy of the image tower, with links at zero."""
        self.eval()
        self.controller = copy.deepcopy(self.clip.visual)
        with torch.no_grad():
            _, states = self._control(torch.zeros(1, 3, self.size, self.size, device=self.mean.device))
        self.links = nn.ModuleList(_Link(s.shape[1] if s.ndim == 4 else s.shape[-1]) for s in states)

    def _control(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The controller's embeddings of normalised views, and what each of its blocks put out."""
        states: list[Tensor] = []
        with ExitStack() as hooks:
            for block in _blocks(self.controller):
                handle = block.register_forward_hook(lambda _m, _i, output: states.append(output))
                hooks.callback(handle.remove)
            return self.controller(x), states

    def _tower(self, x: Tensor, states: list[Tensor]) -> Tensor:
        """The image tower's embeddings of normalised views, its blocks fed by the controller's."""

        def feed(link: nn.Module, state: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
            return lambda _m, _i, output: output + link(state)

        with ExitStack() as hooks:
            for block, link, state in zip(_blocks(self.clip.visual), self.links, states, strict=True):
                hooks.callback(block.register_forward_hook(feed(link, state)).remove)
            embedding: Tensor = self.clip.visual(x)
        return embedding

    def normalise(self, x: Tensor) -> Tensor:
        """(..., 3, H, W) in 0..1 -> what the towers take."""
        return (x - self.mean) / self.std

    def clean_content(self, pictures: Tensor) -> Tensor:
        """The frozen tower's own embedding of views (B, V, 3, S, S) -> (B, V, D) unit vectors."""
        content = _by_picture(self.clip.visual(self.normalise(pictures).flatten(0, 1)), len(pictures))
        return F.normalize(content, dim=-1)

    def look(self, pictures: Tensor) -> Guidance:
        """views (B, V, 3, S, S) in 0..1 -> both embeddings; for one thread at a time."""
        x = self.normalise(pictures).flatten(0, 1)
        degradation, states = self._control(x)
        content = F.normalize(_by_picture(self._tower(x, states), len(pictures)), dim=-1)
        return Guidance(content, pooled(_by_picture(degradation, len(pictures))))

    def forward(self, x: Tensor, grid: int = GRID) -> Tensor:
        """The degradation embeddings (B, D), unit vectors, of pictures (B, 3, H, W), uint8 or in 0..1, of any
        size; ``grid``: cut-outs a side, see ``views``."""
        pictures = self.normalise(views(x, self.size, grid))
        return pooled(_by_picture(self.controller(pictures.flatten(0, 1)), len(x)))

    def tokenise(self, phrases: list[str]) -> Tensor:
        """Phrases as the text tower takes them, (N, context) integers."""
        text = self.config.model["text_cfg"]
        length = self.clip.context_length
        if name := text.get("hf_tokenizer_name"):
            return open_clip.tokenizer.HFTokenizer(name, context_length=length)(phrases)
        return _clip_tokeniser()(phrases, length)

    def describe(self, phrases: list[str]) -> Tensor:
        """Text embeddings of phrases: (N, D) unit vectors."""
        tokens = self.tokenise(phrases).to(self.mean.device)
        return self.clip.encode_text(tokens, normalize=True).float()

    def phrases(self) -> tuple[Tensor, Tensor]:
        """The text embeddings of all phrases (N, D), unit vectors in the order of ``PROMPTS``, and the index
        in ``CLASSES`` that each belongs to, (N,)."""
        told = self.describe([phrase for name in CLASSES for phrase in PROMPTS[name]])
        owner = [i for i, name in enumerate(CLASSES) for _ in PROMPTS[name]]
        return told, torch.tensor(owner, device=told.device)

    def prompts(self) -> Tensor:
        """The mean text embedding of every class: (len(CLASSES), D) unit vectors."""
        return class_means(*self.phrases())

    def logits(self, degradation: Tensor, prompts: Tensor) -> Tensor:
        """Class scores (B, len(CLASSES)) of degradation embeddings, before the softmax."""
        scale = self.clip.logit_scale.exp().clamp(max=100)
        return scale * degradation @ prompts.T

    def probabilities(self, degradation: Tensor, prompts: Tensor) -> Tensor:
        """How probable each class is, (B, len(CLASSES)), of degradation embeddings."""
        return self.logits(degradation, prompts).softmax(-1)


def compact_guide(seed: int) -> Guide:
    """An untrained guide of the shipped kind."""
    torch.manual_seed(seed)
    return Guide(GuideConfig(COMPACT))


def guide_on(backbone: str, pretrained: str | None) -> Guide:
    """A guide whose towers are a pretrained open_clip model, its controller still a copy.

    Args:
        backbone: an open_clip model name, or ``local-dir:`` and a folder with its configuration and weights.
        pretrained: open_clip's tag of weights, or a file; not needed for a local folder.

    Raises:
        UsageError: open_clip cannot make that model.
    """
    try:
        schema, _ = open_clip.factory.parse_model_name(backbone)
        model = open_clip.create_model(backbone, pretrained, require_pretrained=True)
        config = open_clip.get_model_config(backbone if schema else backbone.replace("/", "-"))
        seen = model.visual.preprocess_cfg
        guide = Guide(GuideConfig(config, tuple(seen["mean"]), tuple(seen["std"])))
        guide.clip.load_state_dict(model.state_dict())
    except Exception as error:  # whatever open_clip and its loaders raise on names and files they cannot use
        raise UsageError(f"open_clip cannot make {backbone} with {pretrained}: {error}") from error
    guide.copy_tower()
    return guide
