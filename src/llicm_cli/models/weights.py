"""Weights files: where they are, what they must contain, and how a stream names them.

A weights file is safetensors; its metadata holds the network's configuration as JSON. Beside it lies
a model card with the same name and the suffix ``.json``: how it was made, and its SHA-256. The first
four bytes of that hash are the model id that streams carry.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from llicm_cli.errors import ModelError
from llicm_cli.models.codec import Codec, CodecConfig, is_new
from llicm_cli.models.entropy import HYPER_CONTEXTS, SCALE_LEVELS
from llicm_cli.models.exact import ExactScalePrior, quantise, restore
from llicm_cli.models.restorer import Restorer, RestorerConfig
from llicm_cli.tables import Tables

if TYPE_CHECKING:
    from llicm_cli.models.guide import Guide

Network = TypeVar("Network", bound=nn.Module)
Loaded = TypeVar("Loaded", covariant=True)

MODEL_ID_BYTES = 4
NAMES = ("codec", "guide", "restorer")
LARGEST = 2**20  # of the numbers in a configuration: words of a text tower are the most there is
_PARTS = ("codec.", "scale_prior.", "tables.", "training.", "guide.", "restorer.")


_loading = threading.RLock()


class Loader(Protocol[Loaded]):
    """What ``once`` makes."""

    def __call__(self, path: Path | None = None) -> Loaded: ...


def once(name: str) -> Callable[[Callable[[Path], Loaded]], Loader[Loaded]]:
    """``functools.cache`` for a function that loads a file, by default that of this name among the installed
    ones, and for several threads: what two of them ask for at once is loaded once."""

    def decorate(load: Callable[[Path], Loaded]) -> Loader[Loaded]:
        cached = cache(load)

        @wraps(load)
        def locked(path: Path | None = None) -> Loaded:
            with _loading:
                return cached(path or folder() / name)

        return locked

    return decorate


def folder() -> Path:
    """Where the weights are: the folder that LLICM_WEIGHTS names, or the shipped ones inside the installed
    package or a source checkout."""
    if chosen := os.environ.get("LLICM_WEIGHTS"):
        return Path(chosen)
    package = Path(__file__).resolve().parents[1]
    installed = package / "weights"
    return installed if installed.is_dir() else package.parents[1] / "weights"


def installed() -> dict[str, dict[str, Any]]:
    """The model cards of all weights in ``folder``, by name, once their files have been checked against them.

    Raises:
        ModelError: a file or its card is missing or damaged.
    """
    cards = {}
    for name in NAMES:
        path = folder() / f"{name}.safetensors"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(f"no weights at {path}") from error
        cards[name] = _card(path, hashlib.sha256(data).digest())
    return cards


def _card(path: Path, digest: bytes) -> dict[str, Any]:
    """The model card of a weights file with this SHA-256; raises ModelError."""
    try:
        card = json.loads(path.with_suffix(".json").read_text())
        expected = card["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the model card of {path} is missing or damaged") from error
    if digest.hex() != expected:
        raise ModelError(f"{path} is damaged: it does not match its model card")
    return card


@dataclass(frozen=True)
class CodecModel:
    """Everything encoding and decoding need.

    Attributes:
        id: the model id that streams carry, 4 bytes.
        codec: float networks, in evaluation mode.
        scale_prior: the exact integer network that chooses tables.
        tables: those of the scale levels, then ``hyper_contexts`` for each hyper-latent channel.
        hyper_contexts: one in weights files of before version 0.14, ``HYPER_CONTEXTS`` in others.
    """

    id: bytes
    codec: Codec
    scale_prior: ExactScalePrior
    tables: Tables
    hyper_contexts: int


def codec_file(codec: Codec, tables: Tables, training: Mapping[str, Tensor]) -> bytes:
    """A codec's weights file.

    Args:
        codec: trained networks; floats are stored in half precision, the scale prior as integers.
        tables: range coder tables.
        training: tensors that only further training needs.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in codec.state_dict().items():
        if not name.startswith("scale_prior."):
            tensors[f"codec.{name}"] = value.detach().cpu().half()
    for name, value in quantise(codec.scale_prior).items():
        tensors[f"scale_prior.{name}"] = value
    for name in ("cdf", "size", "offset"):
        tensors[f"tables.{name}"] = torch.from_numpy(getattr(tables, name))
    for name, value in training.items():
        tensors[f"training.{name}"] = value.detach().cpu().half()
    return _file(tensors, asdict(codec.config))


def _file(tensors: dict[str, Tensor], config: dict[str, Any]) -> bytes:
    return safetensors.torch.save(
        {k: v.contiguous() for k, v in tensors.items()}, {"config": json.dumps(config)}
    )


def network_file(part: str, network: nn.Module, config: Any) -> bytes:
    """The weights file of the guide or of the restorer, floats in half precision.

    Args:
        part: ``guide.`` or ``restorer.``.
        network: what to store.
        config: dataclass that the network is built from.
    """
    state = network.state_dict().items()
    tensors = {part + k: (v.half() if v.is_floating_point() else v).detach().cpu() for k, v in state}
    return _file(tensors, asdict(config))


def read_parts(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]], bytes]:
    """(configuration, tensors by part, SHA-256 digest) of a weights file.

    Raises:
        ModelError: missing, or not such a file.
    """
    try:
        data = path.read_bytes()
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        config = json.loads(header["__metadata__"]["config"])
    except FileNotFoundError as error:
        raise ModelError(f"no weights at {path}") from error
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path} is not a weights file of this program ({error})") from error
    parts = {p: {k.removeprefix(p): v for k, v in tensors.items() if k.startswith(p)} for p in _PARTS}
    return config, parts, hashlib.sha256(data).digest()


def load_codec_networks(path: Path) -> tuple[Codec, dict[str, Tensor]]:
    """The codec with all its float weights (the scale prior from its integers), and the tensors
    that only training needs. For going on with training. Raises ModelError."""
    config, parts, _ = read_parts(path)
    return _build(path, config, parts), {k: v.float() for k, v in parts["training."].items()}


def _build(path: Path, config: dict[str, Any], parts: dict[str, dict[str, Tensor]]) -> Codec:
    """The codec of a weights file; raises ModelError. What an older file lacks (see ``is_new``) is new, and
    changes nothing."""

    def build() -> Codec:
        codec = Codec(CodecConfig(**config))
        for name, value in codec.state_dict().items():
            if is_new(name):
                state.setdefault(name, value)
        return codec

    try:
        state = {k: v.float() for k, v in parts["codec."].items()}
        state |= {f"scale_prior.{k}": v for k, v in restore(parts["scale_prior."]).items()}
        return _filled(build, config, state)
    except Exception as error:  # nearly anything, on a foreign configuration
        raise ModelError(f"{path} does not fit this program's networks") from error


def _filled(build: Callable[[], Network], config: object, state: dict[str, Tensor]) -> Network:
    """A network with these tensors.

    Raises:
        ValueError: a number in the configuration is beyond all reason.
        TypeError, KeyError, RuntimeError: as ``build`` raises, or the tensors have other names or shapes.
    """
    if any(abs(number) > LARGEST for number in _numbers(config)):
        raise ValueError("a number in the configuration is too large")
    network = build()
    network.load_state_dict(state)
    return network


def _numbers(config: object) -> Iterator[float]:
    if isinstance(config, dict | list | tuple):
        for value in config.values() if isinstance(config, dict) else config:
            yield from _numbers(value)
    elif isinstance(config, int | float):
        yield config


def _read_verified(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]], bytes]:
    """``read_parts``, and check the file against the hash in its model card; raises ModelError."""
    config, parts, digest = read_parts(path)
    _card(path, digest)
    return config, parts, digest


def _load_network(path: Path, part: str, build: Callable[[dict[str, Any]], Network]) -> tuple[Network, bytes]:
    """A network that ``network_file`` made, built from its configuration, and the file's SHA-256 digest.

    Raises:
        ModelError: missing, damaged, or of another kind.
    """
    config, parts, digest = _read_verified(path)
    try:
        state = {k: v.float() if v.is_floating_point() else v for k, v in parts[part].items()}
        network = _filled(lambda: build(config), config, state)
    except Exception as error:  # open_clip raises nearly anything on a foreign configuration
        raise ModelError(f"{path} does not fit this program's networks") from error
    return network.eval().requires_grad_(False), digest


@once("guide.safetensors")
def load_guide(path: Path) -> Guide:
    """The guide, by default the installed one; loaded once a process. Raises ModelError."""
    from llicm_cli.models.guide import Guide, GuideConfig  # open_clip takes seconds to import

    guide, digest = _load_network(path, "guide.", lambda config: Guide(GuideConfig(**config)))
    guide.id = digest[:MODEL_ID_BYTES].hex()
    return guide


@once("restorer.safetensors")
@torch.inference_mode(False)  # the joint stage needs gradients through it
def load_restorer(path: Path) -> Restorer:
    """The restoration head, by default the installed one; loaded once a process. Raises ModelError."""
    head, digest = _load_network(path, "restorer.", lambda config: Restorer(RestorerConfig(**config)))
    head.id = digest[:MODEL_ID_BYTES].hex()
    return head.to(memory_format=torch.channels_last)


@once("codec.safetensors")
@torch.inference_mode(False)  # encoder-side search needs gradients through it
def load_codec(path: Path) -> CodecModel:
    """The codec for coding, by default the installed one; loaded once a process.

    Raises:
        ModelError: missing, damaged (its hash differs from its card's), or of another kind.
    """
    config, parts, digest = _read_verified(path)
    codec = _build(path, config, parts).eval().requires_grad_(False)
    try:
        tables = Tables(*(parts["tables."][n].numpy() for n in ("cdf", "size", "offset")))
        prior = ExactScalePrior(parts["scale_prior."])
    except KeyError as error:
        raise ModelError(f"{path} lacks {error} of its range coder tables or scale prior") from error
    hyper = codec.config.hyper
    contexts = 1 if tables.size.size == SCALE_LEVELS + hyper else HYPER_CONTEXTS
    if problem := tables.problem(SCALE_LEVELS + contexts * hyper):
        raise ModelError(f"{path}: {problem}")
    codec = codec.to(memory_format=torch.channels_last)
    return CodecModel(digest[:MODEL_ID_BYTES], codec, prior, tables, contexts)
