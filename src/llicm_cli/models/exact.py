"""The integer twin of ``ScalePrior``: the same scale index on every machine.

Every value is an integer, carried in float64 because matrix products are fast there. As long as all
partial sums stay below 2**53 each of them is exact, so that order, threads, fused operations and
memory layout cannot change a result. The format:

* weights and biases: integers in units of 2**-12 (matrices fit 16 bits);
* activations: integers in units of 2**-8, 0 .. 2**24 after ReLU, within +-2**24 elsewhere;
* products are thus in units of 2**-20; ``>> 12`` with rounding half up gives activations again;
* log2(1 + m) of a magnitude sum m is a table of integers in units of 2**-8, shipped with the weights;
* vectors that depend on the rate are interpolated between anchors in integers, rounding half up.

Bound of a sum: at most 1152 terms of 2**24 * 2**15, below 2**50.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from llicm_cli.bitstream import RATE_MAX
from llicm_cli.models.entropy import MAGNITUDE_MAX, SCALE_LEVELS, STEPS, ScalePrior, blur_magnitudes

WEIGHT_BITS = 12
ACTIVATION_BITS = 8
ACTIVATION_LIMIT = 2.0**24
HYPER_LIMIT = 2**10  # largest magnitude of a hyper-latent symbol

LOG_TABLE = "log_table"


def quantise(prior: ScalePrior) -> dict[str, Tensor]:
    """The integers of a trained ``ScalePrior``: matrices as int16, vectors as int32.

    Keys are those of its state dict, plus the logarithm table.

    Raises:
        OverflowError: a weight does not fit; such a network cannot be shipped.
    """
    integers = {}
    for name, value in prior.state_dict().items():
        scaled = (value.detach().double().cpu() * 2**WEIGHT_BITS).round()
        matrix = name.endswith("weight")
        limit = 2**15 - 1 if matrix else 2**24
        if not bool((scaled.abs() <= limit).all()):
            raise OverflowError(f"{name} does not fit the integer format")
        integers[name] = scaled.to(torch.int16 if matrix else torch.int32)
    magnitudes = torch.arange(16 * MAGNITUDE_MAX + 1, dtype=torch.float64)
    integers[LOG_TABLE] = (torch.log2(1 + magnitudes) * 2**ACTIVATION_BITS).round().to(torch.int32)
    return integers


def restore(integers: dict[str, Tensor]) -> dict[str, Tensor]:
    """The float state dict that ``quantise`` rounded, to go on training from."""
    return {k: v.float() / 2**WEIGHT_BITS for k, v in integers.items() if k != LOG_TABLE}


def _shift(accumulator: Tensor, bits: int) -> Tensor:
    """Integers times 2**-bits, rounding half up; in place."""
    return accumulator.add_(2 ** (bits - 1)).mul_(2.0**-bits).floor_()


def _requantise(accumulator: Tensor) -> Tensor:
    """Units of 2**-20 to 2**-8, limited; in place."""
    return _shift(accumulator, WEIGHT_BITS).clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)


class ExactScalePrior:
    """Evaluates the integers that ``quantise`` made; mirrors the methods of ``ScalePrior``.

    One picture at a time, without a batch dimension; always on the CPU.
    """

    def __init__(self, integers: dict[str, Tensor]) -> None:
        self._table = integers[LOG_TABLE].double()
        self._w = {k: v.double() for k, v in integers.items() if k.endswith("weight")}
        self._v = {k: v.long() for k, v in integers.items() if not k.endswith("weight")}

    def _product(self, layer: str, x: Tensor) -> Tensor:
        """Matrix product and bias: (c_in, h, w) activations -> (c_out, h, w) in units of 2**-20."""
        weight = self._w[f"{layer}.weight"].flatten(1)
        out = (weight @ x.flatten(1)).unflatten(1, x.shape[1:])
        bias = self._v.get(f"{layer}.bias")
        return out if bias is None else out.add_((bias.double() * 2**ACTIVATION_BITS)[:, None, None])

    def _rate_vector(self, name: str, rate: int) -> Tensor:
        """A rate table's vector in units of 2**-12, (channels, 1, 1)."""
        rows = self._v[f"{name}.rows"]
        low, part = divmod(rate * (len(rows) - 1), RATE_MAX)
        high = min(low + 1, len(rows) - 1)
        mixed = rows[low] * (RATE_MAX - part) + rows[high] * part
        return torch.div(2 * mixed + RATE_MAX, 2 * RATE_MAX, rounding_mode="floor").double()[:, None, None]

    def features(self, z_hat: Tensor) -> Tensor:
        """z_hat: (Z, h, w) integers -> activations (width, 4h, 4w)."""
        z = z_hat.double().clamp(-HYPER_LIMIT, HYPER_LIMIT) * 2**ACTIVATION_BITS
        patches = F.unfold(z[None], 3, padding=1)[0].unflatten(1, z.shape[1:])
        x = F.relu(_requantise(self._product("enter", patches)))
        x = F.relu(F.pixel_shuffle(_requantise(self._product("up1.mix", x)), 2))
        return F.pixel_shuffle(_requantise(self._product("up2.mix", x)), 2)

    def index(self, step: int, features: Tensor, known: Tensor, rate: int) -> Tensor:
        """Scale index of every latent for one coding step.

        Args:
            step: 0 .. STEPS - 1.
            features: ``features(z_hat)``, cropped to the latents' size.
            known: int16 (C, h, w), symbols of earlier steps, zero elsewhere.
            rate: rate index of the stream, 0 .. RATE_MAX.

        Returns:
            int32 (C, h, w) in 0 .. SCALE_LEVELS - 1.
        """
        assert 0 <= step < STEPS
        hidden = self._product(f"from_hyper.{step}", features)
        hidden += self._rate_vector(f"hidden_rate.{step}", rate) * 2**ACTIVATION_BITS
        magnitude = None
        if step:
            magnitude = self._table[blur_magnitudes(known).int()]
            hidden += self._product(f"from_known.{step - 1}", magnitude)
        index = self._product(f"leave.{step}", F.relu(_requantise(hidden)))
        index += self._rate_vector(f"index_rate.{step}", rate) * 2**ACTIVATION_BITS
        if magnitude is not None:
            index.addcmul_(self._v["own_magnitude"][step - 1].double()[:, None, None], magnitude)
        return _shift(index, WEIGHT_BITS + ACTIVATION_BITS).clamp_(0, SCALE_LEVELS - 1).int()
