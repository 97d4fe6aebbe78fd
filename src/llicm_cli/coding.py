"""Pixels to payload and back: quantisation, the order of symbols, and the rANS streams they go into.

Symbols come in this order: the hyper-latent, one anti-diagonal after the other from the upper left corner
on, each by (channel, row), since what is to the left and above chooses the table
(``entropy.hyper_context``); then for each of the four coding steps and each band of the picture (see
``bands``) the latents of that step and band (channel, row, column), except the certain zeros: latents whose
scale index is below ``CERTAIN_ZERO_BELOW`` are zero and cost nothing. With weights that have one table a
hyper-latent channel, as all had before version 0.14, its symbols come by (channel, row, column).

The payload of a picture of one band is one rANS stream. That of a larger picture is a sequence of streams,
each after its size (4 bytes, little-endian): a stream ends before the band of a step where it has
``STREAM_SYMBOLS`` symbols or more. A stream of fewer than eight symbols is filled up with zeros of table 0.

The symbol checksum is the CRC-32 of the hyper-latent, then of all latents, as little-endian int16 in
(channel, row, column) order.

What is known of a latent depends on a neighbourhood, which is looked up across bands: the values of symbols
do not depend on where the bands lie, and no seam can show. Their order does, so that ``BAND_PIXELS`` and
``STREAM_SYMBOLS`` are part of the format.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llicm_cli import refine
from llicm_cli.bitstream import RATE_MAX, Stream
from llicm_cli.errors import BitstreamError
from llicm_cli.models.codec import HYPER, PATCH
from llicm_cli.models.entropy import (
    CERTAIN_ZERO_BELOW,
    SCALE_LEVELS,
    SQUARED_ERROR_BITS,
    STEPS,
    choose_symbols,
    hyper_context,
    scale_of,
    step_masks,
)
from llicm_cli.models.exact import HYPER_LIMIT
from llicm_cli.models.weights import CodecModel
from llicm_cli.rans import FEWEST_SYMBOLS, SYMBOL_LIMIT, Decoder, Encoder
from llicm_cli.tables import Tables

BAND_PIXELS = 2**22
STREAM_SYMBOLS = 2**21
KEPT_BANDS = 4  # of which what the hyper-latent tells is kept from step to step; of others it is found anew
ANALYSIS_MARGIN = 10  # latents; the analysis reaches no farther (160 pixels)
HYPER_MARGIN = 2  # hyper-latents; nor do the hyper transforms
SYNTHESIS_MARGIN = 12  # latents; nor does the synthesis
CONTEXT_MARGIN = 2  # latents; the context models reach one, and bands start at even rows


Rows = Callable[[int, int], Tensor]
"""(first, last) row, last exclusive -> those rows of a picture, uint8 (3, rows, W)."""


def position(rate: int) -> Tensor:
    """Place, 0..1, of a rate index, 0 .. ``RATE_MAX``, on the codec's axis; (1,)."""
    return torch.tensor([rate / RATE_MAX])


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 -> 0..1."""
    return pixels.float() / 255


def to_bytes(x: Tensor) -> Tensor:
    """0..1, or beyond -> uint8."""
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def bands(height: int, width: int) -> list[tuple[int, int]]:
    """(first, last) row of latents, last exclusive, of the bands that a picture is coded in.

    A band has as many whole hyper-latent cells (64 rows of pixels) as fit into ``BAND_PIXELS``, but at least
    one.

    Args:
        height: of the picture, in latents.
        width: likewise.
    """
    cells = max(1, BAND_PIXELS // (PATCH**2 * HYPER * HYPER * -(-width // HYPER)))
    return [(top, min(top + HYPER * cells, height)) for top in range(0, height, HYPER * cells)]


def _wider(top: int, bottom: int, margin: int, height: int) -> tuple[int, int]:
    return max(0, top - margin), min(height, bottom + margin)


class _Latents:
    """What encoder and decoder build up step by step; one picture, no batch dimension.

    Attributes:
        y: (C, h, w) in quantisation steps: decoded values of the latents that are coded; the encoder keeps
            those that are not yet coded in the other places.
        symbols: int16 (C, h, w), 0 where not yet coded.
    """

    def __init__(self, model: CodecModel, z_hat: Tensor, y: Tensor, rate: int) -> None:
        self.model, self.z_hat, self.y, self.rate = model, z_hat, y, rate
        self.symbols = torch.zeros(y.shape, dtype=torch.int16)
        self.unit = model.codec.unit(position(rate))[0]
        self._features: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def _from_hyper(self, top: int, bottom: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of latent rows: features for the means, the first means, features for the scales."""
        if (top, bottom) in self._features:
            return self._features[top, bottom]
        first, last = _wider(top // HYPER, -(-bottom // HYPER), HYPER_MARGIN, self.z_hat.shape[1])
        z_hat = self.z_hat[:, first:last]
        rows = slice(top - first * HYPER, bottom - first * HYPER)
        means = self.model.codec.mean_prior.body(z_hat[None])[:, :, rows, : self.y.shape[2]]
        scales = self.model.scale_prior.features(z_hat)[:, rows, : self.y.shape[2]]
        features = means, self.model.codec.mean_prior.first(means), scales
        if len(self._features) < KEPT_BANDS:
            self._features[top, bottom] = features
        return features

    def predict(self, step: int, top: int, bottom: int) -> tuple[Tensor, Tensor, Tensor]:
        """Means, scale indices, and which latents are coded now, of a step in a band; (C, rows, w)."""
        first, last = _wider(top, bottom, CONTEXT_MARGIN, self.y.shape[1])
        means, first_means, scales = self._from_hyper(first, last)
        masks = step_masks(self.y.shape[0], last - first, self.y.shape[2])
        earlier = masks[:step].any(0)  # the band above may have more already
        known = torch.where(earlier, self.y[:, first:last], 0).div_(self.unit)
        mean = self.model.codec.mean_prior(step, means, first_means, known[None])[0] * self.unit
        del known
        symbols = torch.where(earlier, self.symbols[:, first:last], 0)
        index = self.model.scale_prior.index(step, scales, symbols, self.rate)
        rows = slice(top - first, bottom - first)
        return mean[:, rows], index[:, rows], masks[step, :, rows]

    def walk(self, code: Callable[[Tensor, Tensor], Tensor], begin: Callable[[], None]) -> None:
        """Walk the steps and bands, filling ``symbols`` and ``y``.

        Args:
            code: (residuals of the latents to code, those of a decoder mean nothing; their scale indices),
                both (N,) -> their symbols.
            begin: called before each band of a step.
        """
        for step in range(STEPS):
            for top, bottom in bands(*self.y.shape[1:]):
                begin()
                mean, index, mask = self.predict(step, top, bottom)
                chosen = mask & (index >= CERTAIN_ZERO_BELOW)
                y = self.y[:, top:bottom]
                found = torch.zeros_like(mean)
                found[chosen] = code(y[chosen] - mean[chosen], index[chosen])
                self.symbols[:, top:bottom] += found.short()
                y.copy_(torch.where(mask, found + mean, y))

    def checksum(self) -> int:
        """CRC-32 of all symbols."""
        crc = 0
        for values in (self.z_hat, self.symbols):
            for channel in values:
                crc = zlib.crc32(channel.numpy().astype("<i2").tobytes(), crc)
        return crc


def _int32(values: Tensor) -> np.ndarray:
    return values.to(torch.int32).numpy()


def _anti_diagonals(height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows, columns) of the places of each, from the upper left corner on."""
    for i in range(height + width - 1):
        rows = torch.arange(max(0, i - width + 1), min(height, i + 1))
        yield rows, i - rows


def _walk_hyper(
    shape: tuple[int, int, int], contexts: int, code: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Walk a hyper-latent of this shape, (Z, h, w).

    Args:
        shape: (Z, h, w).
        contexts: tables of each channel.
        code: (rows, columns) of n places and the tables (Z, n) of all channels there -> their symbols (Z, n).

    Returns:
        All symbols, int16.
    """
    channels, height, width = shape
    first = SCALE_LEVELS + contexts * torch.arange(channels)[:, None]
    known = torch.zeros(channels, 1 + height, 1 + width, dtype=torch.int16)  # nothing above and to the left
    place = torch.arange(height * width)
    walk = _anti_diagonals(height, width) if contexts > 1 else [(place // width, place % width)]
    for rows, columns in walk:
        tables = first + hyper_context(known[:, 1 + rows, columns], known[:, rows, 1 + columns], contexts)
        known[:, 1 + rows, 1 + columns] = code(rows, columns, tables).short()
    return known[:, 1:, 1:]


class _Writer:
    """Symbols into the streams of a payload."""

    def __init__(self, tables: Tables, many: bool) -> None:
        self._tables, self._many = tables, many
        self._streams: list[bytes] = []
        self._encoder, self._count = Encoder(tables), 0

    def put(self, symbols: np.ndarray, tables: np.ndarray) -> None:
        self._encoder.put(symbols, tables)
        self._count += len(symbols)

    def begin(self) -> None:
        """A new stream may begin here."""
        if self._many and self._count >= STREAM_SYMBOLS:
            self._end()
            self._encoder, self._count = Encoder(self._tables), 0

    def _end(self) -> None:
        missing = np.zeros(max(0, FEWEST_SYMBOLS - self._count), np.int32)
        self._encoder.put(missing, missing)
        self._streams.append(self._encoder.finish())

    def finish(self) -> bytes:
        """The payload."""
        self._end()
        if not self._many:
            return self._streams[0]
        return b"".join(len(s).to_bytes(4, "little") + s for s in self._streams)


class _Reader:
    """The inverse; ``most`` bounds the symbols in a stream."""

    def __init__(self, tables: Tables, payload: bytes, many: bool, most: int) -> None:
        self._tables, self._rest, self._many, self._most = tables, payload, many, most
        self._open()

    def _open(self) -> None:
        stream = self._rest
        if self._many:
            size = int.from_bytes(self._rest[:4], "little")
            stream, self._rest = self._rest[4 : 4 + size], self._rest[4 + size :]
            if len(stream) < size:
                raise BitstreamError("the stream is damaged (its payload ends too early)")
        self._decoder, self._count = Decoder(self._tables, stream, self._most), 0

    def take(self, tables: np.ndarray) -> Tensor:
        self._count += len(tables)
        return torch.from_numpy(self._decoder.take(tables)).float()

    def begin(self) -> None:
        """A new stream may begin here; raises BitstreamError."""
        if self._many and self._count >= STREAM_SYMBOLS:
            self._open()

    def finish(self) -> None:
        """Nothing may be left; raises BitstreamError."""
        if self._many and self._rest:
            raise BitstreamError("the stream is damaged (its payload goes on after its end)")


def encode_pixels(
    model: CodecModel, rows: Rows, height: int, width: int, rate: int, rpo: bool, effort: int = 0
) -> tuple[bytes, int]:
    """Code a picture.

    Args:
        model: the codec.
        rows: where its pixels come from.
        height: in pixels.
        width: in pixels.
        rate: index 0 .. ``RATE_MAX``.
        rpo: whether that is the objective.
        effort: rounds of ``refine.refine``, 0 for none.

    Returns:
        The payload, and the checksum of its symbols.
    """
    codec, t = model.codec, position(rate)
    h, w = -(-height // PATCH), -(-width // PATCH)

    def read(first: int, last: int) -> Tensor:
        """Latent rows -> the pixels there, in 0..1, the picture continued to a multiple of ``PATCH``."""
        x = to_unit(rows(first * PATCH, min(last * PATCH, height)))[None]
        x = F.pad(x, (0, -x.shape[3] % PATCH, 0, -x.shape[2] % PATCH), mode="replicate")
        return x.contiguous(memory_format=torch.channels_last)

    places = bands(h, w)
    y = torch.empty(codec.config.latent, h, w)
    for top, bottom in places:
        first, last = _wider(top, bottom, ANALYSIS_MARGIN, h)
        y[:, top:bottom] = codec.analyse(read(first, last), t, rpo)[0, :, top - first : bottom - first]
    z_hat = torch.empty(codec.config.hyper, -(-h // HYPER), -(-w // HYPER))
    for top, bottom in places:
        first, last = _wider(top, bottom, HYPER * HYPER_MARGIN, h)
        z = codec.hyper_latents(y[None, :, first:last], t)[0, :, (top - first) // HYPER :]
        cells = slice(top // HYPER, -(-bottom // HYPER))
        z_hat[:, cells] = z[:, : cells.stop - cells.start].round().clamp(-HYPER_LIMIT, HYPER_LIMIT)
    worth = SQUARED_ERROR_BITS
    if effort:
        refine.refine(model, read, y, z_hat, rate, t, rpo, effort)
        worth = refine.REFINED_ERROR_BITS
    writer = _Writer(model.tables, len(places) > 1)

    def put_hyper(rows: Tensor, columns: Tensor, tables: Tensor) -> Tensor:
        symbols = z_hat[:, rows, columns]
        writer.put(_int32(symbols.flatten()), _int32(tables.flatten()))
        return symbols

    _walk_hyper((codec.config.hyper, *z_hat.shape[1:]), model.hyper_contexts, put_hyper)
    latents = _Latents(model, z_hat, y, rate)

    def code(residual: Tensor, index: Tensor) -> Tensor:
        symbols = choose_symbols(residual, scale_of(index), worth).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)
        writer.put(_int32(symbols), _int32(index))
        return symbols

    latents.walk(code, writer.begin)
    return writer.finish(), latents.checksum()


def decode_pixels(model: CodecModel, stream: Stream) -> Tensor:
    """-> uint8 (3, height, width), laid out as pictures are: (H, W, 3) in memory.

    Raises:
        BitstreamError: the payload is not what the header says, or damaged.
    """
    codec, t = model.codec, position(stream.rate)
    h, w = -(-stream.height // PATCH), -(-stream.width // PATCH)
    places = bands(h, w)
    z_shape = (codec.config.hyper, -(-h // HYPER), -(-w // HYPER))
    band = codec.config.latent * (places[0][1] - places[0][0]) * w
    many = len(places) > 1
    most = int(np.prod(z_shape)) + band + (STREAM_SYMBOLS if many else 0)
    reader = _Reader(model.tables, stream.payload, many, most)

    def take_hyper(_rows: Tensor, _columns: Tensor, tables: Tensor) -> Tensor:
        symbols = reader.take(_int32(tables.flatten())).clamp(-HYPER_LIMIT, HYPER_LIMIT)
        return symbols.view_as(tables)

    z_hat = _walk_hyper(z_shape, model.hyper_contexts, take_hyper).float()
    latents = _Latents(model, z_hat, torch.zeros(codec.config.latent, h, w), stream.rate)

    def code(residual: Tensor, index: Tensor) -> Tensor:
        return reader.take(_int32(index)).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)

    latents.walk(code, reader.begin)
    reader.finish()
    if latents.checksum() != stream.symbol_crc:
        raise BitstreamError("the stream is damaged (its symbols do not match their checksum)")
    y = latents.y
    del latents  # its symbols take half as much memory as y
    shown = torch.empty(stream.height, stream.width, 3, dtype=torch.uint8).permute(2, 0, 1)
    for top, bottom in places:
        first, last = _wider(top, bottom, SYNTHESIS_MARGIN, h)
        y_hat = y[None, :, first:last].contiguous(memory_format=torch.channels_last)
        x_hat = codec.decode_latents(y_hat, t, stream.objective == "rpo")[0]
        rows = slice(top * PATCH, min(bottom * PATCH, stream.height))
        start = rows.start - first * PATCH
        shown[:, rows] = to_bytes(x_hat[:, start : start + rows.stop - rows.start, : stream.width])
    return shown
