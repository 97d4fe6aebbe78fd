"""Encode, decode, enhance: pictures to bytes and back, and better. The public Python API lives here."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from llicm_cli import bitstream
from llicm_cli import degrade as degradations
from llicm_cli.bitstream import DEFAULT_LAMBDA, MOST_EFFORT, Stream
from llicm_cli.coding import Rows, decode_pixels, encode_pixels, position, to_bytes, to_unit
from llicm_cli.errors import BitstreamError, InputError, ModelError, TargetError, UsageError
from llicm_cli.image_io import EXIF_MARK, INFO, open_unlimited
from llicm_cli.models.restorer import REACH, STRIDE, Restorer, source, tones
from llicm_cli.models.weights import load_codec, load_guide, load_restorer
from llicm_cli.tasks import AUTO, CLASSES, CLEAN, MOST_PASSES, NONE, check_task, parse_tasks
from llicm_cli.tiling import in_tiles
from llicm_cli.version import __version__

MODES = ("L", "LA", "RGB", "RGBA")
TARGET_TOLERANCE = 0.03  # of the asked size
TARGET_TRIES = 12
SURE = 0.85  # the least probability of a degradation that ``auto`` undoes
SHIFTS = ((0, 0), (2, 2), (0, 2), (2, 0))  # rows and columns, for the passes of the head
GREY_ROWS = 512  # at once, to bound memory


def to_pixels(image: Image.Image, first: int = 0, last: int | None = None) -> Tensor:
    """A picture, or its rows from ``first`` to ``last`` (exclusive), as uint8 (3, H, W); a grey picture has
    three equal channels."""
    if (first, last) != (0, None):
        last = last or image.height
        size, box = (image.width, last - first), (0, first, image.width, last)
        image = image.resize(size, Image.Resampling.NEAREST, box)  # ``crop`` has Pillow's limit of pixels
    return torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB"))).permute(2, 0, 1)


def to_image(pixels: Tensor, grey: bool = False) -> Image.Image:
    """The inverse: uint8 (3, H, W) -> a picture of mode RGB, or L."""
    if grey:
        rows = [to_bytes(to_unit(part).mean(0)) for part in pixels.split(GREY_ROWS, 1)]
        return Image.fromarray(torch.cat(rows).numpy())
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _check_image(image: Image.Image) -> None:
    if image.mode not in MODES:
        raise InputError(f"pictures of mode {image.mode} are not supported; convert it to L or RGB first")
    if 0 in image.size:
        raise InputError(f"a picture of {image.width}x{image.height} has no pixels")


@torch.inference_mode()
def _to_code(image: Image.Image, objective: str, task: str) -> Rows:
    """The pixels that a stream is to hold; raises UsageError or InputError."""
    tasks = parse_tasks(task)
    if objective not in bitstream.OBJECTIVES:
        raise UsageError(f"unknown objective {objective!r}; known are {', '.join(bitstream.OBJECTIVES)}")
    _check_image(image)
    if objective == "rdo":
        return partial(to_pixels, image)
    restored, _ = _restore(to_pixels(image), tasks, 1.0, 1, source(False, False, torch.zeros(1)))
    return lambda first, last: restored[:, first:last]


@torch.inference_mode()
def _encode_at(image: Image.Image, rows: Rows, alpha: bytes, rate: int, objective: str, effort: int) -> bytes:
    """Code what ``_to_code`` and ``_pack_alpha`` gave, with the metadata of the picture."""
    model, metadata = load_codec(), _metadata(image)
    for name, value in metadata.items():
        if len(value) > bitstream.METADATA_LIMIT:
            raise InputError(f"{name.upper()} metadata exceed the limit of 2**24 bytes")
    payload, crc = encode_pixels(model, rows, image.height, image.width, rate, objective == "rpo", effort)
    colour = "grey" if _is_grey(image) else "RGB"
    return bitstream.write(
        Stream(*image.size, colour, rate, model.id, payload, crc, objective, alpha, metadata)
    )


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("L", "LA")


def _metadata(image: Image.Image) -> dict[str, bytes]:
    """What is kept of a picture's ``info``."""
    found = {}
    for name, key in INFO.items():
        if value := image.info.get(key):
            value = value.encode() if isinstance(value, str) else bytes(value)
            found[name] = value.removeprefix(EXIF_MARK)
    return found


def _alpha(image: Image.Image) -> Image.Image | None:
    return image.getchannel("A") if "A" in image.mode else None


def _pack_alpha(image: Image.Image) -> bytes:
    """The transparency of a picture as a PNG file, nothing if it has none."""
    if (alpha := _alpha(image)) is None:
        return b""
    alpha.info = {}  # Pillow would write the colours' ICC profile again
    buffer = io.BytesIO()
    alpha.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _unpack_alpha(data: bytes, size: tuple[int, int]) -> Image.Image:
    """The inverse; raises BitstreamError."""
    try:
        alpha = open_unlimited(data, ["PNG"])
        if (alpha.size, alpha.mode) != (size, "L"):
            raise BitstreamError("the stream is malformed (its transparency has another size or mode)")
        alpha.load()
        return alpha
    except BitstreamError:
        raise
    except Exception as error:  # Pillow's reader raises nearly anything
        raise BitstreamError("the stream is malformed (its transparency cannot be read)") from error


def _dressed(
    pixels: Image.Image, alpha: Image.Image | None, metadata: Mapping[str, bytes], told: str
) -> Image.Image:
    """A result with its transparency, its metadata, and what made it."""
    if alpha is not None:
        pixels.putalpha(alpha)
    pixels.info = {"llicm": told, **{INFO[name]: value for name, value in metadata.items()}}
    if "exif" in metadata:
        pixels.info["exif"] = EXIF_MARK + metadata["exif"]  # as Pillow reads and writes it
    return pixels


def _told(
    model: str,
    tasks: tuple[str, ...],
    did: tuple[str, ...],
    strength: float,
    passes: int,
    head: Restorer | None = None,
) -> str:
    """What made a picture: the program, the codec's model (none for a picture that was not coded), the tasks,
    strength and passes of restoration, what was done for each task where the guide was asked, and by which,
    and the head that did it."""
    names = ",".join(tasks) or NONE
    told = f"version={__version__} model={model} task={names} strength={strength:g}"
    if not did:
        return told
    asked = f" did={','.join(did)} guide={load_guide().id}" if AUTO in tasks else ""
    return f"{told} passes={passes}{asked} head={(head or load_restorer()).id}"


def was_left_alone(image: Image.Image) -> bool:
    """Whether ``auto`` found nothing to undo in what ``decode`` or ``enhance`` returned (with ``auto`` among
    several tasks: whether it did so at least once)."""
    did = re.search(r"\bdid=(\S+)", image.info.get("llicm", ""))
    return did is not None and NONE in did[1].split(",")


def encode(
    image: Image.Image,
    lmbda: float = DEFAULT_LAMBDA,
    objective: str = "rdo",
    task: str = AUTO,
    effort: int = 0,
) -> bytes:
    """Code a picture.

    Args:
        image: mode L, LA, RGB or RGBA, 8 bits a channel, of any size. Pixels are coded as they lie, whatever
            EXIF says of their orientation. Transparency is kept without loss, and so are ``icc_profile``,
            ``exif`` and ``xmp`` (bytes) in its ``info``.
        lmbda: rate-distortion multiplier, 0.001 .. 0.1, of ``bpp + lmbda * 255**2 * D`` as in CompressAI,
            D the mean squared error (training and effort mix in MS-SSIM): larger means better and larger.
        objective: ``rdo``, a faithful copy of the picture as it is; or ``rpo``, an estimate of the clean
            picture behind it: where the source is seen through a disturbance and error is squared, the best
            encoder first estimates the source and then codes the estimate (Dobrushin and Tsybakov, 1962;
            Wolf and Ziv, 1970). What the head removes is not in the stream and cannot be had back.
        task: for rpo: what disturbs the picture, as for ``enhance``.
        effort: rounds of search for better symbols, 0 .. 64, see ``refine``; decoding stays as
            fast.

    Returns:
        A complete stream, as ``llicm encode`` writes to a file.

    Raises:
        UsageError: lmbda or effort out of range, an unknown objective or task.
        InputError: a picture of another mode, without pixels, or with more than 2**24 bytes of one metadata.
        ModelError: weights are missing or damaged.
    """
    try:
        rate = bitstream.rate_of_lambda(lmbda)
    except ValueError as error:
        raise UsageError(str(error)) from error
    _check_effort(effort)
    rows = _to_code(image, objective, task)
    return _encode_at(image, rows, _pack_alpha(image), rate, objective, effort)


def _check_effort(effort: int) -> None:
    if not 0 <= effort <= MOST_EFFORT:
        raise UsageError(f"the effort must lie in 0 .. {MOST_EFFORT}, not {effort}")


def encode_to_size(
    image: Image.Image, size: int, objective: str = "rdo", task: str = AUTO, effort: int = 0
) -> bytes:
    """Code a picture into a stream of about ``size`` bytes, found by searching lambda.

    Args:
        image: as for ``encode``.
        size: bytes; the result is within 3 % of it.
        objective: as for ``encode``.
        task: as for ``encode``.
        effort: as for ``encode``; takes its time at every lambda that is tried.

    Returns:
        A complete stream, as ``encode`` does.

    Raises:
        UsageError: size is not positive, effort out of range, an unknown objective or task.
        TargetError: no lambda in range gives that size.
        InputError: as for ``encode``.
        ModelError: weights are missing or damaged.
    """
    if size < 1:
        raise UsageError(f"a file cannot have {size} bytes")
    _check_effort(effort)
    rows = _to_code(image, objective, task)
    at = partial(_encode_at, image, rows, _pack_alpha(image), objective=objective, effort=effort)
    low, high = 0, bitstream.RATE_MAX
    found = {rate: at(rate) for rate in (low, high)}
    if len(found[low]) * (1 - TARGET_TOLERANCE) <= size <= len(found[high]) * (1 + TARGET_TOLERANCE):
        for _ in range(TARGET_TRIES):
            if high - low < 2 or _miss(_nearest(found, size), size) <= TARGET_TOLERANCE / 2:
                break
            # Size grows nearly as a power of lambda: interpolate on logarithmic axes, and stay
            # clear of the ends so that the interval shrinks.
            ends = np.log((len(found[low]), len(found[high])))
            place = float(np.interp(np.log(size), ends, (low, high)))
            margin = (high - low) // 16 + 1
            rate = min(max(round(place), low + margin), high - margin)
            found[rate] = at(rate)
            low, high = (rate, high) if len(found[rate]) < size else (low, rate)
    best = _nearest(found, size)
    if _miss(best, size) > TARGET_TOLERANCE:
        sizes = [len(data) for data in found.values()]
        raise TargetError(
            f"cannot reach {size} bytes: this picture takes {min(sizes)} to {max(sizes)} bytes, "
            f"the nearest found is {len(best)}"
        )
    return best


def _miss(data: bytes, size: int) -> float:
    """How far a stream is from the asked size, as a share of it."""
    return abs(len(data) - size) / size


def _nearest(found: dict[int, bytes], size: int) -> bytes:
    return min(found.values(), key=lambda data: _miss(data, size))


def _check_restoration(task: str, strength: float, passes: int, mask: Image.Image | None) -> tuple[str, ...]:
    """The tasks to do, once they and what goes with them make sense; raises UsageError."""
    tasks = parse_tasks(task)
    if not 0 <= strength <= 1:
        raise UsageError(f"the strength must lie in 0 .. 1, not {strength}")
    if not 1 <= passes <= MOST_PASSES:
        raise UsageError(f"the passes must lie in 1 .. {MOST_PASSES}, not {passes}")
    if mask is not None and "inpaint" not in tasks:
        raise UsageError("a mask is of use to the task inpaint only")
    return tasks


def _hole(mask: Image.Image, size: tuple[int, int]) -> Tensor:
    """bool (H, W): where a mask is nearer to white than to black, and opaque; raises UsageError."""
    if mask.size != size:
        raise UsageError(f"the mask is {mask.width}x{mask.height}, the picture {size[0]}x{size[1]}")
    hole = np.array(mask.convert("L")) > 127
    if mask.has_transparency_data:
        hole &= np.array(mask.convert("RGBA").getchannel("A")) > 127
    return torch.from_numpy(hole)


def _seen(x: Tensor) -> dict[str, float]:
    """How probable the guide thinks each class, of pixels (3, H, W); raises ModelError."""
    guide = load_guide()
    shares = guide.probabilities(guide(x[None]), guide.prompts())
    return dict(zip(CLASSES, shares[0].tolist(), strict=True))


def likeliest(seen: dict[str, float]) -> str:
    """The most probable class, of ``inspect``."""
    return max(seen, key=seen.__getitem__)


def _decide(x: Tensor, made_to_be_restored: bool) -> str | None:
    """What ``auto`` tells the head of pixels (3, H, W): the degradation that the guide is sure of; None where
    it is not, and they had better be left alone.

    What is gained where the guide is right is little beside what a good picture loses where it is wrong. A
    picture that was made to be restored (objective rpo) looks clean before the head has done its part: that
    it is told then.
    """
    seen = _seen(x)
    named = likeliest(seen)
    if named != CLEAN and seen[named] >= SURE:
        return named
    return CLEAN if made_to_be_restored else None


def _restore(
    x: Tensor,
    tasks: tuple[str, ...],
    strength: float,
    passes: int,
    origin: Tensor,
    head: Restorer | None = None,
    hole: Tensor | None = None,
) -> tuple[Tensor, tuple[str, ...]]:
    """Undo one degradation after the other: what became of the picture, and what was done to it; raises
    ModelError.

    Args:
        x: uint8 (3, H, W); the result is of this kind too.
        tasks: from ``parse_tasks``.
        strength: 0 leaves the picture alone, 1 takes all of what the head proposes.
        passes: of the head, see ``_run_head``.
        origin: (1, 3), of ``restorer.source``.
        head: None for the installed one.
        hole: for inpaint: bool (H, W), what to replace; nothing else is then changed.
    """
    if not tasks or strength == 0:
        return x, ()
    did: list[str] = []
    head = head or load_restorer()
    for task in tasks:
        filled = hole if task == "inpaint" else None
        seen = x if filled is None else torch.where(filled, 0, x)
        named = _decide(seen, made_to_be_restored=bool(origin[0, 1])) if task == AUTO else task
        did.append(named or NONE)
        if named is None:
            continue
        told = (torch.tensor([CLASSES.index(named)]), origin, tones(seen[None]))
        run = partial(_run_head, head, told, 1.0 if filled is not None else strength, passes)
        restored = in_tiles(seen, run, stride=STRIDE, reach=REACH if passes == 1 else REACH + STRIDE)
        if filled is None:
            x = restored
        else:  # a share of it and of the picture, not of the black that the head saw
            x = x.clone()
            x[:, filled] = to_bytes(torch.lerp(to_unit(x[:, filled]), to_unit(restored[:, filled]), strength))
        origin = source(False, False, torch.zeros(1))  # what follows sees a restored picture
    return x, tuple(did)


def _run_head(head: Restorer, told: tuple[Tensor, ...], share: float, passes: int, tile: Tensor) -> Tensor:
    """uint8 (1, 3, h, w) -> the same, with so large a share of the restoration; ``told``: all but x.

    The head sees a picture in groups of 4x4 pixels and treats their places unlike. In further passes it is
    shown the picture moved by half a group; what it makes of all is averaged.
    """
    x = to_unit(tile)
    restored = torch.zeros_like(x)
    for rows, columns in SHIFTS[:passes]:
        sides = (columns, -columns % STRIDE, rows, -rows % STRIDE)
        moved = F.pad(x, sides, mode="replicate").contiguous(memory_format=torch.channels_last)
        seen = head(moved, *told)[:, :, rows : rows + x.shape[2], columns : columns + x.shape[3]]
        restored += seen.clamp(0, 1) / passes
    return to_bytes(torch.lerp(x, restored, share))


@torch.inference_mode()
def decode(
    data: bytes,
    task: str | None = None,
    strength: float = 1.0,
    max_pixels: int = bitstream.MAX_PIXELS,
    passes: int = 1,
) -> Image.Image:
    """Decode a stream, and restore the picture if asked to.

    Args:
        data: what ``encode`` returned.
        task: None or ``none`` to see the picture as it was coded, or as for ``enhance``.
        strength: as for ``enhance``.
        max_pixels: a stream of more is refused; above the default, sides may be of any length too.
        passes: as for ``enhance``.

    Returns:
        A picture of the mode and size that was coded, with its metadata in its ``info``.

    Raises:
        BitstreamError: truncated, damaged, foreign, or from a newer version.
        ModelError: coded with other weights than the installed ones, or weights are missing or damaged.
        UsageError: an unknown task, a strength or passes out of range.
    """
    tasks = _check_restoration(task or NONE, strength, passes, None)
    stream = bitstream.parse(data, max_pixels)
    model = load_codec()
    if stream.model != model.id:
        raise ModelError(
            f"the stream needs model {stream.model.hex()}; the installed one is {model.id.hex()}"
        )
    pixels = decode_pixels(model, stream)
    origin = source(True, stream.objective == "rpo", position(stream.rate))
    pixels, did = _restore(pixels, tasks, strength, passes, origin)
    alpha = _unpack_alpha(stream.alpha, (stream.width, stream.height)) if stream.alpha else None
    told = _told(model.id.hex(), tasks, did, strength, passes)
    return _dressed(to_image(pixels, stream.colour == "grey"), alpha, stream.metadata, told)


@torch.inference_mode()
def enhance(
    image: Image.Image,
    task: str = AUTO,
    strength: float = 1.0,
    mask: Image.Image | None = None,
    head: Restorer | None = None,
    passes: int = 1,
) -> Image.Image:
    """Restore a picture that was not coded by this codec.

    Args:
        image: as for ``encode``; transparency and metadata stay as they are.
        task: what to undo: one of ``tasks.TASKS``, ``auto`` (the guide decides, and leaves a good picture
            alone), several of them separated by commas, or ``none``.
        strength: 0 (no change) .. 1.
        mask: for ``inpaint``: a picture of the same size, white where something is missing (transparent
            parts are not). Without it the missing parts are what the picture shows in one flat colour, black
            or white.
        head: another restoration head than the installed one, of ``models.weights.load_restorer``.
        passes: 1 .. 4, how often the head works, each time on the picture moved against its grid of 4x4
            pixels; the mean is taken. Better, and as many times slower.

    Returns:
        A picture of the same mode and size.

    Raises:
        UsageError: an unknown task, a strength or passes out of range, or a mask that does not fit.
        InputError: a picture of another mode, or without pixels.
        ModelError: weights of guide or head are missing or damaged.
    """
    tasks = _check_restoration(task, strength, passes, mask)
    _check_image(image)
    hole = None if mask is None else _hole(mask, image.size)
    origin = source(False, False, torch.zeros(1))
    pixels, did = _restore(to_pixels(image), tasks, strength, passes, origin, head, hole)
    restored = to_image(pixels, _is_grey(image))
    told = _told("none", tasks, did, strength, passes, head)
    return _dressed(restored, _alpha(image), _metadata(image), told)


@torch.inference_mode()
def inspect(image: Image.Image) -> dict[str, float]:
    """What the guide believes is wrong with a picture.

    Args:
        image: as for ``encode``.

    Returns:
        The probability of every task's degradation and of ``clean``, which sum to one.

    Raises:
        InputError: a picture of another mode, or without pixels.
        ModelError: weights of the guide are missing or damaged.
    """
    _check_image(image)
    return _seen(to_pixels(image))


@torch.inference_mode()
def degrade(image: Image.Image, task: str, seed: int = 0) -> Image.Image:
    """A synthetically degraded copy of a clean picture.

    Args:
        image: as for ``encode``.
        task: one of ``tasks.TASKS``, the one that would undo the damage.
        seed: of strength and place.

    Returns:
        A picture of the same mode and size.

    Raises:
        UsageError: an unknown task.
        InputError: a picture of another mode, or without pixels.
    """
    check_task(task)
    _check_image(image)
    grey, dice = _is_grey(image), degradations.Dice(seed)
    pixels = degradations.degrade(to_unit(to_pixels(image)).contiguous(), task, dice, grey)
    degraded = to_image(to_bytes(pixels), grey)
    told = f"version={__version__} degraded={task} seed={seed}"
    return _dressed(degraded, _alpha(image), _metadata(image), told)
