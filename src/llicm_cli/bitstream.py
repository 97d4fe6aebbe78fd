"""The container, version 1: everything about a coded picture but its entropy-coded symbols.

All integers are unsigned and little-endian. A file is

    offset  size  field
    0       4     magic, the bytes 4C 4C 49 43 ("LLIC")
    4       1     version, 1
    5       1     colour: 0 = grey (one channel), 1 = RGB
    6       1     objective the encoder worked for: 0 = rate-distortion (rdo), a faithful copy;
                  1 = rate-perception (rpo), made to be restored; others are reserved. The
                  synthesis has blocks of its own for rpo (see ``models.codec``)
    7       1     reserved, 0
    8       4     width in pixels, not 0
    12      4     height in pixels, not 0; unless told otherwise a reader refuses more than 32768 a side
                  or 2**28 pixels before it allocates anything
    16      2     rate r: lambda = 0.001 * 100 ** (r / 65535)
    18      4     model id: the first 4 bytes of the SHA-256 of the codec's weights file
    22      4     payload size P
    26      4     CRC-32 of the decoded symbols (see ``coding``): a decoder that went astray knows it
    30      P     payload: rANS streams (see ``coding``)
    30 + P  ...   chunks, possibly none: type (4 ASCII letters), size (4 bytes), that many bytes
    end - 4 4     CRC-32 (ISO-HDLC, as in zlib) of all bytes before it

The chunks, each at most once and in any order:

    ALPH          transparency, lossless: a PNG file of one 8-bit grey channel, of the picture's size
    iccp          ICC profile, in a zlib stream (RFC 1950)
    exif          EXIF from its byte order mark on, in a zlib stream
    xmpp          XMP packet, in a zlib stream

so a plain photo costs 34 bytes beside its payload. Rules, each with its error:

* a chunk whose type begins with a capital letter is critical: a reader that does not know it must refuse
  the file; one that begins with a small letter may be skipped (as in PNG);
* chunks and trailer must fill the file exactly: nothing follows the last CRC;
* what a zlib stream unfolds to is at most 2**24 bytes;
* reserved values are refused, so that they can be given a meaning later.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from llicm_cli.errors import BitstreamError

MAGIC = b"LLIC"
VERSION = 1
MAX_SIDE = 32768
MAX_PIXELS = 2**28
LAMBDA_MIN = 0.001
LAMBDA_MAX = 0.1
DEFAULT_LAMBDA = 0.02
RATE_MAX = 65535
COLOURS = ("grey", "RGB")
OBJECTIVES = ("rdo", "rpo")
MOST_EFFORT = 64  # rounds of an encoder's search; leaves no trace in a stream
METADATA = {"icc": b"iccp", "exif": b"exif", "xmp": b"xmpp"}
METADATA_LIMIT = 2**24  # bytes of each

_HEADER = struct.Struct("<4sBBBBIIH4sII")
_CHUNK = struct.Struct("<4sI")
_CRC = struct.Struct("<I")
_ALPHA = b"ALPH"
OVERHEAD = _HEADER.size + _CRC.size


@dataclass(frozen=True)
class Stream:
    """A parsed file.

    Attributes:
        width: pixels.
        height: pixels.
        colour: one of ``COLOURS``.
        rate: place of lambda on the logarithmic axis, 0 .. ``RATE_MAX``.
        model: 4 bytes, see the module docstring.
        payload: rANS streams.
        symbol_crc: CRC-32 of the symbols that the payload decodes to.
        objective: one of ``OBJECTIVES``.
        alpha: a PNG file, or nothing.
        metadata: some of the keys of ``METADATA``.
    """

    width: int
    height: int
    colour: str
    rate: int
    model: bytes
    payload: bytes
    symbol_crc: int
    objective: str = "rdo"
    alpha: bytes = b""
    metadata: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def lmbda(self) -> float:
        """The rate-distortion multiplier, in CompressAI's convention."""
        return lambda_of_rate(self.rate)


def lambda_of_rate(rate: int) -> float:
    """lambda of a rate index in 0 .. ``RATE_MAX``."""
    return float(LAMBDA_MIN * (LAMBDA_MAX / LAMBDA_MIN) ** (rate / RATE_MAX))


def rate_of_lambda(lmbda: float) -> int:
    """The nearest rate index; raises ValueError outside LAMBDA_MIN .. LAMBDA_MAX."""
    if not LAMBDA_MIN <= lmbda <= LAMBDA_MAX:
        raise ValueError(f"lambda must lie in {LAMBDA_MIN} .. {LAMBDA_MAX}, not {lmbda}")
    return round(RATE_MAX * math.log(lmbda / LAMBDA_MIN) / math.log(LAMBDA_MAX / LAMBDA_MIN))


def size_problem(width: int, height: int, max_pixels: int = MAX_PIXELS) -> str | None:
    """Why a picture of this size is refused, or None.

    Args:
        width: pixels.
        height: pixels.
        max_pixels: most pixels in all; more than ``MAX_PIXELS`` lifts the limit on a side too.
    """
    if width < 1 or height < 1:
        return f"a picture of {width}x{height} has no pixels"
    if width * height > max_pixels:
        return f"{width}x{height} exceeds the limit of {max_pixels} pixels (see --max-pixels)"
    if max_pixels <= MAX_PIXELS and max(width, height) > MAX_SIDE:
        return f"{width}x{height} exceeds the limit of {MAX_SIDE} a side (see --max-pixels)"
    return None


def write(stream: Stream) -> bytes:
    """The bytes of a file, as the module docstring lays them out."""
    header = _HEADER.pack(
        MAGIC, VERSION, COLOURS.index(stream.colour), OBJECTIVES.index(stream.objective), 0,
        stream.width, stream.height, stream.rate, stream.model, len(stream.payload), stream.symbol_crc,
    )  # fmt: skip
    chunks = {METADATA[name]: zlib.compress(value, 9) for name, value in stream.metadata.items()}
    if stream.alpha:
        chunks[_ALPHA] = stream.alpha
    body = header + stream.payload
    for kind, content in chunks.items():
        body += _CHUNK.pack(kind, len(content)) + content
    return body + _CRC.pack(zlib.crc32(body))


def parse(data: bytes, max_pixels: int = MAX_PIXELS) -> Stream:
    """Read and verify a file; ``max_pixels`` as for ``size_problem``.

    Raises:
        BitstreamError: not such a file, truncated, damaged, too large, or from a newer version.
    """
    if not data:
        raise BitstreamError("the stream is empty")
    if data[:4] != MAGIC[: len(data)]:
        raise BitstreamError("not an LL-ICM stream (wrong magic)")
    if len(data) > 4 and data[4] != VERSION:
        raise BitstreamError(f"the stream has format version {data[4]}; this program reads version {VERSION}")
    if len(data) < OVERHEAD:
        raise BitstreamError("the stream is truncated (no complete header)")
    (_, _, colour, objective, reserved, width, height, rate, model, size, symbol_crc) = _HEADER.unpack_from(
        data
    )
    end = len(data) - _CRC.size
    if _HEADER.size + size > end:
        raise BitstreamError("the stream is truncated (its payload is incomplete)")
    if zlib.crc32(data[:end]) != _CRC.unpack_from(data, end)[0]:
        raise BitstreamError("the stream is damaged or truncated (checksum mismatch)")
    if problem := size_problem(width, height, max_pixels):
        raise BitstreamError(f"the stream is refused: {problem}")
    if colour >= len(COLOURS) or objective >= len(OBJECTIVES) or reserved:
        raise BitstreamError("the stream uses reserved header values; a newer program may read it")
    chunks = _chunks(data, _HEADER.size + size, end)
    return Stream(
        width, height, COLOURS[colour], rate, model,
        data[_HEADER.size : _HEADER.size + size], symbol_crc, OBJECTIVES[objective],
        chunks.get(_ALPHA, b""),
        {name: _unfold(chunks[kind]) for name, kind in METADATA.items() if kind in chunks},
    )  # fmt: skip


def _unfold(content: bytes) -> bytes:
    """The metadata in a chunk; raises BitstreamError."""
    unpacker = zlib.decompressobj()
    try:
        value = unpacker.decompress(content, METADATA_LIMIT + 1)
    except zlib.error as error:
        raise BitstreamError("the stream is malformed (its metadata cannot be decompressed)") from error
    if len(value) > METADATA_LIMIT or not unpacker.eof or unpacker.unused_data:
        raise BitstreamError("the stream is malformed (metadata of impossible size)")
    return value


def _chunks(data: bytes, start: int, end: int) -> dict[bytes, bytes]:
    """The chunks that are known, by type; others are skipped if ancillary and refused if critical."""
    found: dict[bytes, bytes] = {}
    while start < end:
        if start + _CHUNK.size > end:
            raise BitstreamError("the stream is malformed (incomplete chunk header)")
        kind, size = _CHUNK.unpack_from(data, start)
        if not kind.isalpha():
            raise BitstreamError("the stream is malformed (a chunk type must be four letters)")
        if kind[:1].isupper() and kind != _ALPHA:
            raise BitstreamError(f"the stream needs a feature this program lacks (chunk {kind.decode()})")
        if kind in found:
            raise BitstreamError(f"the stream is malformed (chunk {kind.decode()} comes twice)")
        start += _CHUNK.size + size
        if start > end:
            raise BitstreamError("the stream is malformed (a chunk runs past the end)")
        if kind == _ALPHA and not size:
            raise BitstreamError("the stream is malformed (its transparency is empty)")
        if kind == _ALPHA or kind in METADATA.values():
            found[kind] = data[start - size : start]
    return found
