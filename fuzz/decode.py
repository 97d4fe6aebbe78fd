"""Fuzz the decoder with atheris (coverage-guided), to be run for longer than the test suite can.

    pip install atheris && python fuzz/decode.py CORPUS -max_total_time=3600

CORPUS is a folder of streams to begin with, ``tests/conformance`` for instance. Whatever the bytes, decoding
must give a picture, a ``BitstreamError`` or a ``ModelError``. Checksums are repaired before decoding, so that
what lies behind them is reached.
"""

from __future__ import annotations

import struct
import sys
import zlib

import atheris

with atheris.instrument_imports(include=["llicm_cli"]):
    from llicm_cli import bitstream, pipeline
    from llicm_cli.errors import BitstreamError, ModelError
    from llicm_cli.models.weights import load_codec

MAX_PIXELS = 2**18


def one_input(data: bytes) -> None:
    """Decode some bytes, once as they are and once with a right file checksum and model id."""
    repaired = data[:-4]
    if len(repaired) > 22:
        repaired = repaired[:18] + load_codec().id + repaired[22:]
    for stream in (data, repaired + struct.pack("<I", zlib.crc32(repaired))):
        try:
            picture = pipeline.decode(stream, max_pixels=MAX_PIXELS)
        except (BitstreamError, ModelError):
            continue
        header = bitstream.parse(stream, MAX_PIXELS)
        if picture.size != (header.width, header.height):
            raise RuntimeError("a picture of another size than the header says")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
