"""Ten synthetic degradations of clean photographs, for training and for benchmarks.

Every function takes and returns a picture as a tensor (3, H, W) of sRGB values in 0..1, draws its
strength from ``Dice``, and works on the CPU. Sizes are in pixels of the picture as it
is, so a crop looks like a part of a whole picture.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from llicm_cli.tasks import CLEAN

SMALLEST = 16  # pixels a side; smaller pictures are extended, degraded, and cut back
GAMMA = 2.2


class Dice:
    """Seeded randomness: numbers from NumPy, fields from torch.

    The same seed gives the same picture on the same kind of machine.
    """

    def __init__(self, seed: int) -> None:
        self.numbers = np.random.default_rng(seed)
        self.fields = torch.Generator().manual_seed(seed)

    def between(self, low: float, high: float) -> float:
        return float(self.numbers.uniform(low, high))

    def log_between(self, low: float, high: float) -> float:
        return math.exp(self.between(math.log(low), math.log(high)))

    def integer(self, low: int, high: int) -> int:
        """low .. high, both possible."""
        return int(self.numbers.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        return bool(self.numbers.random() < share)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.fields)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.fields)


def smooth_field(dice: Dice, height: int, width: int, cell: float) -> Tensor:
    """A smooth random field (height, width) of about unit variance, varying over ``cell`` pixels."""
    rows, columns = max(2, round(height / cell) + 1), max(2, round(width / cell) + 1)
    coarse = dice.normal(1, 1, rows, columns)
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0, 0]


def convolve(field: Tensor, kernel: Tensor) -> Tensor:
    """Convolve every channel of (C, H, W) with one odd-sized kernel (k, k), by Fourier transform; edges are
    reflected, or repeated where the picture is smaller than the kernel."""
    reach = kernel.shape[-1] // 2
    mode = "reflect" if min(field.shape[-2:]) > reach else "replicate"
    return _convolve_inside(F.pad(field[None], (reach, reach, reach, reach), mode=mode)[0], kernel)


def _convolve_inside(padded: Tensor, kernel: Tensor) -> Tensor:
    """``convolve`` of what is farther from every edge than the kernel reaches; in double precision, so that
    no 8-bit level depends on the number of threads."""
    reach, size = kernel.shape[-1] // 2, padded.shape[-2:]
    product = torch.fft.rfft2(padded.double()) * torch.fft.rfft2(kernel.double(), s=size)
    return torch.fft.irfft2(product, s=size)[:, 2 * reach :, 2 * reach :].to(padded)


def _grid(reach: int) -> tuple[Tensor, Tensor]:
    """Row and column offsets of a kernel of 2 * reach + 1 pixels a side."""
    line = torch.arange(-reach, reach + 1, dtype=torch.float32)
    return line[:, None], line[None, :]


def line_kernel(length: float, angle: float, width: float) -> Tensor:
    """A soft line through the centre; angle in radians from the vertical; its largest value is 1."""
    reach = max(1, math.ceil(length / 2 + width))
    rows, columns = _grid(reach)
    along = rows * math.cos(angle) + columns * math.sin(angle)
    across = columns * math.cos(angle) - rows * math.sin(angle)
    taper = (length / 2 + 0.5 - along.abs()).clamp(0, 1) * (1 - 0.5 * (2 * along / length).square()).clamp(
        min=0
    )
    return taper * torch.exp(-0.5 * (across / (0.5 * width)).square())


def disc_kernel(radius: float) -> Tensor:
    """A soft disc; its largest value is 1."""
    rows, columns = _grid(math.ceil(radius))
    return (radius + 0.5 - (rows.square() + columns.square()).sqrt()).clamp(0, 1)


def _jpeg(x: Tensor, quality: int, subsampling: int) -> Tensor:
    pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    file.seek(0)
    coded = torch.from_numpy(np.array(JpegImageFile(file)))  # Image.open would refuse large ones
    return coded.permute(2, 0, 1).float() / 255


def jpeg(x: Tensor, dice: Dice) -> Tensor:
    """JPEG at quality 5..60, with and without chroma subsampling."""
    return _jpeg(x, round(dice.log_between(5, 60)), 2 if dice.chance(0.7) else 0)


def _sensor_noise(light: Tensor, dice: Dice, shot: float, read: float) -> Tensor:
    """Signal-dependent noise on linear light: variance ``shot * light + read**2``."""
    return light + dice.normal(*light.shape) * (shot * light.clamp(min=0) + read**2).sqrt()


def _gaussian(spread: float) -> Tensor:
    """A Gaussian of that many pixels; its sum is 1."""
    rows, columns = _grid(math.ceil(2.5 * spread))
    kernel = torch.exp(-0.5 * (rows.square() + columns.square()) / spread**2)
    return kernel / kernel.sum()


def _smoothed(grain: Tensor, spread: float) -> Tensor:
    """A field (C, H, W) blurred by a Gaussian of that many pixels, as strong as before where it was white."""
    kernel = _gaussian(spread)
    return convolve(grain, kernel / kernel.square().sum().sqrt())


def noise(x: Tensor, dice: Dice) -> Tensor:
    """Gaussian noise, of every channel or of brightness alone, Poisson noise, or the noise of a camera:
    signal-dependent in linear light, in red and blue more than in green (white balance), smoothed by
    demosaicing, in colour more than in brightness, seen through a plain or an S-shaped tone curve (Brooks et
    al., CVPR 2019), mostly JPEG-coded."""
    kind = dice.numbers.random()
    if kind < 0.38:
        channels = 1 if dice.chance(0.2) else 3
        return x + dice.normal(channels, *x.shape[1:]) * dice.between(5, 55) / 255
    if kind < 0.46:
        photons = dice.log_between(15, 500)
        return x + dice.normal(*x.shape) * (x / photons).sqrt()
    curved = dice.chance(0.5)
    light = (0.5 - torch.sin(torch.asin(1 - 2 * x) / 3) if curved else x) ** GAMMA
    grain = _sensor_noise(light, dice, dice.log_between(1e-4, 2e-2), dice.log_between(6e-4, 2.5e-2)) - light
    gains = (dice.between(1.0, 1.7), 1.0, dice.between(1.0, 1.7))
    grain = grain * torch.tensor(gains)[:, None, None]
    if dice.chance(0.85):
        grey = grain.mean(0, keepdim=True)
        colour = _smoothed(grain - grey, dice.log_between(1.2, 3.5)) * dice.between(0, 1.1)
        grain = _smoothed(grey, dice.between(0.5, 1.4)) * dice.between(0.6, 1.0) + colour
    y = (light + grain).clamp(0, 1) ** (1 / GAMMA)
    y = y.square() * (3 - 2 * y) if curved else y
    return _jpeg(y, dice.integer(75, 97), 2 if dice.chance(0.5) else 0) if dice.chance(0.7) else y


def _streaks(dice: Dice, height: int, width: int, angle: float, strong: bool) -> Tensor:
    """One layer of rain streaks of similar depth, (height, width), 0 and up."""
    length = dice.log_between(16 if strong else 8, 130)
    thickness = dice.between(0.7, 1.5) + min(1.0, length / 45) * dice.between(0, 1.2)
    covered = dice.log_between(0.1, 0.8) if strong else dice.log_between(0.02, 0.2)
    kernel = line_kernel(length, angle, thickness)
    around = kernel.shape[-1] - 1
    seeds = dice.uniform(height + around, width + around)  # streaks come into the picture from outside
    density = covered / (length * thickness)
    drops = torch.where(seeds < density, 0.4 + 0.6 * seeds / density, seeds.new_zeros(()))
    return _convolve_inside(drops[None], kernel)[0]


def rain(x: Tensor, dice: Dice) -> Tensor:
    """Streaks that add light, in one to five layers; in heavy rain the layers are denser, cross, and a
    thin veil joins them."""
    height, width = x.shape[1:]
    heavy = dice.chance(0.45)
    wind = dice.between(-0.6, 0.6) * (0.5 if heavy else 1)
    layers = dice.integer(2, 5) if heavy else dice.integer(1, 3)
    light = x.new_zeros(height, width)
    for _ in range(layers):
        angle = wind + dice.between(-0.2, 0.2) * (1 if heavy else 0.4)
        bright = dice.between(0.1, 0.5) if heavy else dice.log_between(0.08, 0.95)
        light = light + bright * _streaks(dice, height, width, angle, heavy)
    y = x + light.clamp(max=1.2) * (1.0 if dice.chance(0.7) else 1 - x)
    if heavy and dice.chance(0.3):
        veil = dice.between(0.0, 0.25)
        y = y * (1 - veil) + dice.between(0.6, 0.9) * veil
    return y


def depth_map(x: Tensor, dice: Dice) -> Tensor:
    """A plausible depth (H, W) in 0..1: a tilted plane, farther towards the top more often than not,
    smooth relief, and steps at edges of the picture, as where one thing stands before another."""
    height, width = x.shape[1:]
    rows = torch.linspace(1, 0, height)[:, None]
    columns = torch.linspace(0, 1, width)[None, :]
    depth = dice.between(-0.3, 1.0) * rows + dice.between(-0.5, 0.5) * columns
    depth = depth + dice.between(0, 0.35) * smooth_field(dice, height, width, max(height, width) / 3)
    cell = max(3, min(height, width) // 24) | 1
    luma = x.mean(0)[None, None]
    for sides in ((cell, 1), (1, cell)):
        margins = sides[0] // 2, sides[1] // 2
        luma = F.avg_pool2d(luma, sides, 1, margins, count_include_pad=False)
    luma = luma[0, 0]
    sample = luma[:: 1 + height // 512, :: 1 + width // 512]
    depth = depth + dice.between(-0.5, 0.8) * luma
    for _ in range(dice.integer(0, 2)):
        edge = luma - sample.quantile(dice.between(0.15, 0.85))
        depth = depth + dice.between(-0.7, 0.7) * torch.sigmoid(40 * edge)
    depth = depth - depth.amin()
    return depth / depth.amax().clamp(min=1e-6)


def haze(x: Tensor, dice: Dice) -> Tensor:
    """The atmospheric scattering model (Koschmieder): I = J t + A (1 - t), t = exp(-beta depth); half of the
    haze is white (A = 1)."""
    near = dice.between(0.0, 0.25)
    depth = near + (1 - near) * depth_map(x, dice) ** dice.log_between(0.7, 2.8)
    t = torch.exp(-dice.between(0.5, 2.2) * depth)
    air = torch.ones(3, 1, 1)
    if not dice.chance(0.5):  # near white, tinted
        tint = torch.tensor(dice.numbers.uniform(-0.03, 0.03, (3, 1, 1)), dtype=x.dtype)
        air = air - dice.between(0, 0.55) ** 2 + tint
    return x * t + air * (1 - t)


def low_light(x: Tensor, dice: Dice) -> Tensor:
    """Less exposure in linear light, another tone curve, a colour cast and sensor noise."""
    light = x**GAMMA
    cast = torch.tensor(dice.numbers.uniform(-0.12, 0.12, (3, 1, 1)), dtype=x.dtype)
    light = light * 2 ** -dice.between(1.3, 5.0) * cast.exp()
    if dice.chance(0.7):
        light = _sensor_noise(light, dice, dice.log_between(1e-5, 1e-3), dice.log_between(1e-4, 2e-3))
    y = light.clamp(min=0) ** (dice.between(0.85, 1.2) / GAMMA)
    return _jpeg(y, dice.integer(70, 95), 2) if dice.chance(0.4) else y


def _shake(dice: Dice) -> Tensor:
    """The path of a shaken camera: a smooth random walk, as a kernel of sum 1."""
    length, steps = dice.log_between(3, 40), 64
    turn = np.cumsum(dice.numbers.normal(0, dice.log_between(0.005, 0.25), steps))
    heading = dice.between(0, 2 * math.pi) + turn
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)]), 1) * length / steps
    path -= (path.max(1) + path.min(1))[:, None] / 2
    reach = max(1, math.ceil(np.abs(path).max()) + 1)
    rows, columns = _grid(reach)
    points = torch.tensor(path, dtype=torch.float32)
    near = (1 - (rows[..., None] - points[0]).abs()).clamp(min=0)
    near = near * (1 - (columns[..., None] - points[1]).abs()).clamp(min=0)
    kernel = near.sum(-1)
    return kernel / kernel.sum()


def blur(x: Tensor, dice: Dice) -> Tensor:
    """Motion blur, often not the same everywhere, or defocus; of linear light, as in one long exposure, or of
    sRGB values, as where frames are averaged; with a trace of noise."""
    gamma = GAMMA if dice.chance(0.5) else 1.0
    light = x**gamma
    if dice.chance(0.7):
        y = convolve(light, _shake(dice))
        if dice.chance(0.5):  # something nearer, or moving by itself
            height, width = x.shape[1:]
            field = smooth_field(dice, height, width, max(height, width) * dice.between(0.3, 1.0))
            y = torch.lerp(y, convolve(light, _shake(dice)), torch.sigmoid(10 * field))
    else:
        kernel = disc_kernel(dice.log_between(1.0, 7))
        y = convolve(light, kernel / kernel.sum())
    return y.clamp(min=0) ** (1 / gamma) + dice.normal(*x.shape) * dice.between(0, 0.008)


def _at(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sample (3, H, W) at real-valued pixel positions (h, w), mirrored at the edges."""
    height, width = x.shape[1:]
    grid = torch.stack((2 * columns / max(width - 1, 1) - 1, 2 * rows / max(height - 1, 1) - 1), -1)
    return F.grid_sample(x[None], grid[None], padding_mode="reflection", align_corners=True)[0]


def raindrops(x: Tensor, dice: Dice) -> Tensor:
    """Drops on the glass: each shows its surroundings upside down and out of focus, with a soft edge
    and a darker or lighter rim."""
    y = x.clone()
    height, width = x.shape[1:]
    count = max(1, round(height * width / 128**2 * dice.log_between(1.5, 12)))
    for _ in range(count):
        radius = dice.log_between(3, 18)
        stretch = dice.between(1.0, 1.5)
        row, column = dice.between(0, height - 1), dice.between(0, width - 1)
        reach = math.ceil(radius * stretch * 1.3) + 2
        top, left = max(0, int(row) - reach), max(0, int(column) - reach)
        bottom, right = min(height, int(row) + reach + 1), min(width, int(column) + reach + 1)
        v = torch.arange(top, bottom, dtype=x.dtype)[:, None] - row
        u = torch.arange(left, right, dtype=x.dtype)[None, :] - column
        wobble = dice.between(0, 0.25) * torch.sin(2 * torch.atan2(v, u) + dice.between(0, 6.3))
        distance = ((v / stretch).square() + u.square()).sqrt() / radius / (1 + wobble)
        alpha = torch.sigmoid((1 - distance) * radius * dice.between(0.6, 2.0))
        pull = dice.between(1.5, 4.0) * distance.clamp(max=1.0).square()
        seen = _at(x, row - v * pull - radius, column - u * pull)
        seen = F.avg_pool2d(seen[None], 3, 1, 1, count_include_pad=False)[0]
        rim = dice.between(-0.35, 0.2) * torch.exp(-8 * (1 - distance).square())
        drop = seen * dice.between(0.85, 1.15) + rim + dice.between(0, 0.08)
        window = y[:, top:bottom, left:right]
        y[:, top:bottom, left:right] = window + alpha * dice.between(0.7, 1.0) * (drop - window)
    return y


def shadow(x: Tensor, dice: Dice) -> Tensor:
    """A cast shadow with a soft, irregular edge; what lights it from the sky is a little bluer."""
    height, width = x.shape[1:]
    side = max(height, width)
    field = smooth_field(dice, height, width, side * dice.between(0.3, 1.0))
    rows = torch.linspace(-1, 1, height)[:, None]
    columns = torch.linspace(-1, 1, width)[None, :]
    angle = dice.between(0, 2 * math.pi)
    plane = rows * math.cos(angle) + columns * math.sin(angle) + dice.between(-0.5, 0.5)
    edge = field * dice.between(0.2, 1.0) + plane * dice.between(0.0, 1.5)
    mask = torch.sigmoid(edge * dice.log_between(8, 60))
    warm = dice.between(0.0, 0.06)
    left = dice.between(0.12, 0.5)  # of the linear light
    light = torch.tensor([left - warm, left, left + warm])[:, None, None].clamp(min=0.08)
    return (x**GAMMA * (1 - mask * (1 - light))) ** (1 / GAMMA)


def snow(x: Tensor, dice: Dice) -> Tensor:
    """Flakes at several depths: far ones small and many, near ones large, soft and streaked by their
    motion; they cover what is behind them."""
    height, width = x.shape[1:]
    y = x
    wind = dice.between(-0.9, 0.9)
    for _ in range(dice.integer(1, 4)):
        radius = dice.log_between(0.7, 5)
        if dice.chance(0.4):
            kernel = line_kernel(radius * dice.between(2, 5), wind, radius * 1.6)
        else:
            kernel = disc_kernel(radius)
        seeds = dice.uniform(height, width)
        density = dice.log_between(0.01, 0.1) / (math.pi * radius**2 + 2)
        flakes = torch.where(seeds < density, 0.3 + 0.7 * seeds / density, seeds.new_zeros(()))
        alpha = convolve(flakes[None], kernel)[0].clamp(max=1) * dice.between(0.6, 1.0)
        y = y + alpha * (dice.between(0.8, 1.0) - y)
    veil = dice.between(0, 0.15)
    return y * (1 - veil) + 0.85 * veil


def hole_mask(height: int, width: int, dice: Dice) -> Tensor:
    """Where a picture is lost: bool (height, width). Rectangles, ellipses, brush strokes or specks."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    if dice.chance(0.1):
        return dice.uniform(height, width) < dice.between(0.05, 0.5)

    def window(row: float, column: float, reach: float) -> tuple[Tensor, Tensor, Tensor]:
        """A part of the mask, and the rows and columns of its pixels relative to a point."""
        top, left = max(0, math.floor(row - reach)), max(0, math.floor(column - reach))
        part = mask[top : math.ceil(row + reach) + 1, left : math.ceil(column + reach) + 1]
        rows = torch.arange(top, top + part.shape[0], dtype=torch.float32) - row
        columns = torch.arange(left, left + part.shape[1], dtype=torch.float32) - column
        return part, rows[:, None], columns[None, :]

    for _ in range(max(1, round(height * width / 128**2 * dice.between(0.8, 5)))):
        row, column = dice.between(0, height - 1), dice.between(0, width - 1)
        kind = dice.numbers.random()
        if kind < 0.45:
            half = dice.log_between(3, 16), dice.log_between(3, 16)
            part, rows, columns = window(row, column, max(half))
            if kind < 0.25:
                part |= (rows.abs() < half[0]) & (columns.abs() < half[1])
            else:
                part |= (rows / half[0]).square() + (columns / half[1]).square() < 1
            continue
        thick, heading = dice.log_between(1, 7), dice.between(0, 2 * math.pi)
        for _ in range(dice.integer(1, 4)):  # a stroke: straight pieces joined end to end
            length = dice.log_between(10, 70)
            heading += dice.between(-1, 1)
            v, u = math.sin(heading), math.cos(heading)
            part, rows, columns = window(row, column, length + thick)
            along = (rows * v + columns * u).clamp(0, length)
            part |= (rows - along * v).square() + (columns - along * u).square() < thick**2
            row = min(max(row + length * v, 0.0), height - 1.0)
            column = min(max(column + length * u, 0.0), width - 1.0)
    return mask


def holes(x: Tensor, dice: Dice) -> Tensor:
    """Parts lost to a flat colour: black, sometimes white."""
    return torch.where(hole_mask(x.shape[1], x.shape[2], dice), 0.0 if dice.chance(0.7) else 1.0, x)


DEGRADATIONS = {
    "deblur": blur,
    "dehaze": haze,
    "dejpeg": jpeg,
    "denoise": noise,
    "derain": rain,
    "deraindrop": raindrops,
    "deshadow": shadow,
    "desnow": snow,
    "inpaint": holes,
    "lowlight": low_light,
    CLEAN: lambda x, dice: x,
}
"""What each task is there to undo; the clean class is undone by doing nothing."""


def exposure(x: Tensor, dice: Dice) -> Tensor:
    """The same scene in more or, mostly, less light; shapes and ranges as for ``rendering``."""
    return x ** dice.log_between(0.8, 2.0)


def behind_haze(x: Tensor, dice: Dice) -> Tensor:
    """The same scene as a camera shows it that is exposed for the haze before it: darker; shapes and ranges
    as for ``rendering``."""
    return x ** dice.log_between(1.0, 2.4)


def unreduced(x: Tensor, dice: Dice) -> Tensor:
    """The same scene as it leaves a camera: in other light, and softer than a reduced photograph, by lens and
    demosaicing; shapes and ranges as for ``rendering``."""
    return convolve(exposure(x, dice), _gaussian(dice.between(0.5, 1.2))).clamp(0, 1)


def rendering(x: Tensor, dice: Dice) -> Tensor:
    """The same scene as another camera would show it: flatter or steeper, paler, lighter or darker.

    Alike all over the picture and nothing wrong with it: haze grows with distance, a shadow lies somewhere.

    Args:
        x: RGB in 0..1, (3, height, width).
        dice: chooses the gamma, the saturation and the contrast.

    Returns:
        RGB in 0..1, of the shape of ``x``, not rounded.
    """
    y = x ** dice.log_between(0.75, 1.35)
    y = torch.lerp(y.mean(0, keepdim=True).expand_as(y), y, dice.between(0.5, 1.1))
    level = dice.between(0.35, 0.75)
    return (level + dice.between(0.6, 1.1) * (y - level)).clamp(0, 1)


def degrade(x: Tensor, task: str, dice: Dice, grey: bool = False) -> Tensor:
    """A degraded copy of a clean picture.

    Args:
        x: (3, H, W) in 0..1.
        task: a key of ``DEGRADATIONS``.
        dice: where strength and place come from.
        grey: x has three equal channels, and what disturbs it is alike in all. (A mean of the channels would
            average their noise away.)

    Returns:
        (3, H, W) in 0..1, rounded to 8 bits a channel.
    """
    height, width = x.shape[1:]
    short = (0, max(0, SMALLEST - width), 0, max(0, SMALLEST - height))
    y = DEGRADATIONS[task](F.pad(x[None], short, mode="replicate")[0], dice)[:, :height, :width]
    y = y[:1].expand_as(y) if grey else y
    return (y.clamp(0, 1) * 255).round() / 255
