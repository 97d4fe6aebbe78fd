"""Stage 1, ``llicm train codec``: rate-distortion training of the codec on clean photographs, some of them
enlarged or in grey, and a few drawings.

Latents are rounded to be decoded (straight-through), but their bits are counted with additive noise to the
end. Counting the bits of rounded symbols instead lets a zero cost nothing in the backward pass, and the
analysis inflates its latents: a model trained so for 40 minutes gained 6 % BD-rate in 29 more, mostly on
noise. Training through the encoder's real choice of symbols, which prefers zeros, is worse still.

The synthesis alone can learn from that choice: the bits are then given, and only what is made of them
changes. ``decoder_only`` does so, as a last run. Until then the synthesis has seen fewer zeros than it will
be sent. For the same reason the range coder's tables are not those of Gaussians but of the symbols that were
sent for training photographs; those of the hyper-latent by what is to the left and above, which training does
not know.

Loss of one crop: ``(bpp + lambda * 255**2 * D) / sqrt(lambda * 255**2)``, lambda drawn
log-uniformly for every crop from the range of the model; the divisor keeps the gradients of all
rates alike. D is the squared error with a share of MS-SSIM, see ``models.distortion``. The
hyper-latent's prior is CompressAI's ``EntropyBottleneck``.

The blocks for objective rpo are not trained here. They were fitted to the previous codec, so run the joint
stage again.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llicm_cli.bitstream import LAMBDA_MAX, LAMBDA_MIN
from llicm_cli.errors import ModelError
from llicm_cli.models.blocks import RateTable
from llicm_cli.models.codec import PATCH, Codec, CodecConfig, Pass, Quantiser
from llicm_cli.models.distortion import distortion
from llicm_cli.models.entropy import (
    HYPER_CONTEXTS,
    SCALE_LEVELS,
    SCALE_LOG_STEP,
    SCALE_MAX,
    SCALE_MIN,
    hyper_context,
    scale_of,
)
from llicm_cli.models.weights import codec_file, load_codec_networks
from llicm_cli.tables import PRECISION, Tables
from llicm_cli.training.data import Crops
from llicm_cli.training.loop import Options, Run, take_over, train_only

with warnings.catch_warnings():  # of its own dependencies, which are no business of our users
    warnings.simplefilter("ignore")
    from compressai._CXX import pmf_to_quantized_cdf
    from compressai.entropy_models import EntropyBottleneck

DRAWN = 0.04  # of the crops, so that what is no photograph is coded well too
ENLARGED = 0.25  # of the photos, so that large smooth pictures cost little
GREY = 0.1  # of the crops, so that no bits are spent on colours that are not there
CROP_FIRST, CROP_LAST = 192, 256  # pixels a side; the larger crops come in the last third
GAUSSIAN_REACH = 5.0  # standard deviations a table covers; the rest escapes
COUNTED_BATCHES = 40  # for the tables
COUNTED_SYMBOL = math.ceil(GAUSSIAN_REACH * SCALE_MAX)  # larger ones count as this one
GAUSSIAN_SHARE = 1000  # symbols of each scale level, beside those that were counted
HYPER_GRID = 255  # largest hyper-latent symbol a table may cover
HYPER_SHARE = 30  # symbols of the trained prior in each table of the hyper-latent, beside those counted
VALIDATION_LAMBDAS = (0.0018, 0.0067, 0.025, 0.0932)
VALIDATION_PHOTOS, VALIDATION_CROP = 16, 256  # enough to follow a run, cheap enough to do often


class TrainedCodec(nn.Module):
    """The codec and the prior of its hyper-latent, trained together."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.codec = Codec(config)
        self.hyper_prior = EntropyBottleneck(config.hyper)

    def forward(self, x: Tensor, t: Tensor, quantiser: Quantiser, rpo: bool) -> tuple[Tensor, Tensor]:
        """x (B, 3, H, W), t (B,) -> x_hat, bits a pixel (B,); arguments as of ``Codec.forward``."""
        seen: Pass = self.codec(x, t, quantiser, rpo)
        with torch.autocast(x.device.type, enabled=False):
            _, likelihood = self.hyper_prior(seen.z.contiguous(), training=True)
        bits = seen.bits - torch.log2(likelihood).sum((1, 2, 3))
        return seen.x_hat, bits / (x.shape[2] * x.shape[3])


@torch.no_grad()
def start_from_principal_components(codec: Codec, x: Tensor) -> None:
    """Set the linear paths to the leading principal components of 16x16 patches (KLT), the gains to
    the steps that rate-distortion theory asks for, and the scale prior to the resulting sizes.

    Args:
        x: (B, 3, H, W) crops in 0..1 to learn the components from.
    """
    patches = F.pixel_unshuffle(x - 0.5, PATCH).permute(0, 2, 3, 1).flatten(0, 2).double()
    patches = patches - patches.mean(0)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    count = codec.config.latent
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    codec.analysis.linear.weight.copy_(vectors.T)
    codec.synthesis.linear.weight.copy_(vectors)
    log_spread = 0.5 * values.clamp(min=1e-8).log().to(x)
    codec.log_spread.copy_(log_spread)
    anchors = torch.logspace(
        math.log10(LAMBDA_MIN), math.log10(LAMBDA_MAX), codec.config.anchors, device=x.device
    )
    # Reverse water-filling: distortion a coefficient 1.5 / (ln 2 * lambda * 255^2) = step^2 / 12.
    log_step = 0.5 * (12 * 1.5 / (math.log(2) * anchors * 255**2)).log() - 0.3
    codec.gain.rows.copy_(-log_step[:, None].expand(-1, count))
    codec.inverse_gain.rows.copy_(log_step[:, None].expand(-1, count))
    index = (log_spread - log_step[:, None] - math.log(SCALE_MIN) - 0.7) / SCALE_LOG_STEP
    for table in codec.scale_prior.index_rate:
        assert isinstance(table, RateTable)
        table.rows.copy_(index.clamp(0, 50))


def stratified_positions(count: int, device: torch.device) -> Tensor:
    """(count,) rate positions, one in each of ``count`` equal parts of 0..1, in random order."""
    parts = torch.randperm(count, device=device) + torch.rand(count, device=device)
    return parts / count


def draw(crops: Crops, count: int, size: int) -> Tensor:
    """What a codec learns from, (count, 3, size, size): it need not know which way is up."""
    return crops.batch(count, size, turned=True, drawn=DRAWN, grey=GREY, enlarged=ENLARGED)


@torch.no_grad()
def count_sent_symbols(model: TrainedCodec, crops: Crops, batch: int) -> tuple[Tensor, Tensor]:
    """How often every symbol is sent for crops of all rates.

    Returns:
        float64, of the latents (SCALE_LEVELS, 2 * COUNTED_SYMBOL + 1), from -COUNTED_SYMBOL on; of the
        hyper-latent (Z, HYPER_CONTEXTS, 2 * HYPER_GRID + 1), from -HYPER_GRID on. Larger ones count as the
        largest.
    """
    model.eval()
    device = next(model.parameters()).device
    hyper = model.codec.config.hyper
    channel = torch.arange(hyper, device=device)[:, None, None]
    counts = torch.zeros(SCALE_LEVELS, 2 * COUNTED_SYMBOL + 1, dtype=torch.int64, device=device)
    hyper_counts = counts.new_zeros(hyper * HYPER_CONTEXTS, 2 * HYPER_GRID + 1)
    for _ in range(COUNTED_BATCHES):
        with torch.autocast(device.type, torch.bfloat16):
            x, t = draw(crops, batch, CROP_LAST), stratified_positions(batch, device)
            sent: Pass = model.codec(x, t, "chosen", rpo=False)
        _count(counts, sent.index.round(), sent.symbols)
        z = sent.z.round()
        left, above = F.pad(z, (1, 0))[..., :-1], F.pad(z, (0, 0, 1, 0))[..., :-1, :]
        table = channel * HYPER_CONTEXTS + hyper_context(left, above, HYPER_CONTEXTS)
        _count(hyper_counts, table, z)
    return counts.cpu().double(), hyper_counts.view(hyper, HYPER_CONTEXTS, -1).cpu().double()


def _count(counts: Tensor, table: Tensor, symbols: Tensor) -> None:
    """Add symbols to counts (tables, 2 * largest + 1), to those of the table of each."""
    width = counts.shape[1]
    largest = width // 2
    place = table.long() * width + symbols.long().clamp(-largest, largest) + largest
    counts += torch.bincount(place.flatten(), minlength=counts.numel()).view_as(counts)


@torch.no_grad()
def coder_tables(model: TrainedCodec, counts: Tensor, hyper_counts: Tensor) -> Tables:
    """The range coder's integer tables: one for each scale level, ``HYPER_CONTEXTS`` for each channel of z.

    A scale level's is the share of every symbol among those sent, ``counts`` of ``count_sent_symbols``, both
    signs alike; ``GAUSSIAN_SHARE`` symbols of the level's Gaussian stand for what was not seen. A
    hyper-latent's is the share of every symbol in its context, ``hyper_counts``, and of ``HYPER_SHARE``
    symbols of the prior that it was trained with; it covers what is likelier than 1e-6 there.
    """
    counts = counts + counts.flip(1)
    rows: list[tuple[int, list[float]]] = []
    for scale, sent in zip(scale_of(torch.arange(SCALE_LEVELS, dtype=torch.float64)), counts, strict=True):
        reach = math.ceil(GAUSSIAN_REACH * scale)
        edges = (torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5) / scale
        inside = sent[COUNTED_SYMBOL - reach : COUNTED_SYMBOL + reach + 1]
        pmf = (inside + GAUSSIAN_SHARE * torch.special.ndtr(edges).diff()) / (sent.sum() + GAUSSIAN_SHARE)
        rows.append((-reach, pmf.tolist()))
    device = next(model.parameters()).device
    grid = torch.arange(-HYPER_GRID, HYPER_GRID + 1, dtype=torch.float32, device=device)
    grid = grid.expand(1, model.codec.config.hyper, 1, -1).contiguous()
    _, likelihood = model.hyper_prior(grid, training=False)
    for prior, channel in zip(likelihood[0, :, 0].double().cpu(), hyper_counts, strict=True):
        likely = (prior > 1e-6).nonzero()
        first, last = int(likely[0]), int(likely[-1])
        for sent in channel:
            pmf = (sent + HYPER_SHARE * prior) / (sent.sum() + HYPER_SHARE)
            rows.append((first - HYPER_GRID, pmf[first : last + 1].tolist()))
    cdfs = [pmf_to_quantized_cdf([*pmf, max(1 - sum(pmf), 1e-9)], PRECISION) for _, pmf in rows]
    return Tables(
        cdf=np.concatenate([np.array(c, dtype=np.int32) for c in cdfs]),
        size=np.array([len(c) for c in cdfs], dtype=np.int32),
        offset=np.array([offset for offset, _ in rows], dtype=np.int32),
    )


def weights_file(model: TrainedCodec, tables: Tables) -> bytes:
    """The weights file of a trained model."""
    model = model.cpu()
    hyper_prior = {f"hyper_prior.{k}": v for k, v in model.hyper_prior.named_parameters()}
    return codec_file(model.codec, tables, hyper_prior)


def load_trained(path: Path) -> TrainedCodec:
    """A model to go on from: the networks of a weights file; raises ModelError."""
    codec, training = load_codec_networks(path)
    model = TrainedCodec(codec.config)
    model.codec = codec
    for name, value in model.hyper_prior.named_parameters():
        if f"hyper_prior.{name}" not in training:
            raise ModelError(f"{path} lacks what only training needs (hyper_prior.{name})")
        value.data.copy_(training[f"hyper_prior.{name}"])
    return model


def rate_distortion(
    model: nn.Module, x: Tensor, t: Tensor, quantiser: Quantiser
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a batch (see the module), and what it is of: x_hat (B, 3, H, W) and bits a pixel (B,).

    Args:
        model: a ``TrainedCodec``.
        x: (B, 3, H, W) in 0..1, H and W multiples of 64.
        t: (B,) rate positions.
        quantiser: see ``Quantiser``.
    """
    with torch.autocast(x.device.type, torch.bfloat16):
        x_hat, bpp = model(x, t, quantiser, rpo=False)
    weight = Codec.lambda_at(t) * 255**2
    return ((bpp + weight * distortion(x_hat, x)) / weight.sqrt()).mean(), x_hat, bpp


def compile_codec(codec: Codec) -> None:
    """Compile a codec on a GPU, in place, for crops of one size: every other one would take a minute more."""
    # MS-SSIM subtracts squares of nearly equal size.
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    codec.compile(dynamic=False)


def train_codec(
    config: CodecConfig,
    train: list[Path],
    validation: list[Path],
    options: Options,
    start_from: Path | None = None,
    decoder_only: bool = False,
) -> tuple[TrainedCodec, Tables, Run]:
    """Run the stage.

    Args:
        config: sizes of the model.
        train: photographs to learn from.
        validation: photographs for the figures in the log.
        options: see ``Options``.
        start_from: weights file to go on from, instead of a new model; see ``take_over``.
        decoder_only: train the synthesis alone, on the symbols that the encoder sends.

    Returns:
        The averaged model, its tables, and the run that made it.
    """
    torch.manual_seed(options.seed)
    device = options.device
    crops = Crops(train, device, CROP_LAST, options.seed)
    model = TrainedCodec(config)
    if start_from:
        take_over(model, load_trained(start_from))
    quantiser: Quantiser = "noisy"
    if decoder_only:
        quantiser = "chosen"
        train_only(model, model.codec.decoder_parameters())
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not options.resume and not start_from:
        start_from_principal_components(model.codec, crops.batch(256, CROP_LAST))
    seen = Crops(validation, device, VALIDATION_CROP, seed=0).batch(VALIDATION_PHOTOS, VALIDATION_CROP)

    def loss(network: nn.Module, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        size = CROP_LAST if compiled or progress >= 2 / 3 else CROP_FIRST
        count = of_size(size)
        x = draw(crops, count, size)
        t = stratified_positions(count, device)
        total, x_hat, bpp = rate_distortion(network, x, t, quantiser)
        psnr = -10 * torch.log10((x_hat.detach() - x).square().mean((1, 2, 3))).mean()
        return total, {"bpp": bpp.detach().mean(), "psnr": psnr}

    def evaluate(network: nn.Module) -> dict[str, float]:
        figures = {}
        for lmbda in VALIDATION_LAMBDAS:
            t = Codec.position(torch.full((len(seen),), lmbda, device=device))
            with torch.autocast(device.type, torch.bfloat16):
                x_hat, bpp = network(seen, t, "chosen", rpo=False)
            mse = (x_hat.clamp(0, 1) - seen).square().mean((1, 2, 3))
            figures[f"bpp at {lmbda:g}"] = float(bpp.mean())
            figures[f"psnr at {lmbda:g}"] = float(-10 * torch.log10(mse).mean())
        return figures

    def of_size(size: int) -> int:
        """Crops a step."""
        return max(1, options.batch * CROP_FIRST**2 // size**2)

    compiled = device.type == "cuda"
    options.report(f"{len(train)} photos, {sum(p.numel() for p in model.parameters())} parameters")
    run = Run(model, options, loss, evaluate)
    if compiled:
        compile_codec(model.codec)
    torch.manual_seed(options.seed + run.step)  # a resumed run draws new crops and rates
    crops.rng = np.random.default_rng(options.seed + run.step)
    trained = run.to_the_end()
    assert isinstance(trained, TrainedCodec)
    return trained, coder_tables(trained, *count_sent_symbols(trained, crops, of_size(CROP_LAST))), run
