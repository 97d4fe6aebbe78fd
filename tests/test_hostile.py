"""Streams that were damaged or forged: the right picture or a clean error, and nothing else.

``LLICM_FUZZ=10000`` sets how many edits are tried of each stream (default 60;
see docs/measurements.md for a long run).
"""

from __future__ import annotations

import dataclasses
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import llicm_cli
from llicm_cli import bitstream
from llicm_cli.errors import BitstreamError, ModelError

EDITS = int(os.environ.get("LLICM_FUZZ", "60"))
MAX_PIXELS = 2**16
FIELDS = {4: 1, 5: 1, 6: 1, 7: 1, 8: 4, 12: 4, 16: 2, 18: 4, 22: 4, 26: 4}  # offset: size


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def outcome(data: bytes) -> Image.Image | None:
    """The picture, or nothing after a clean error of one line."""
    try:
        return llicm_cli.decode(data, max_pixels=MAX_PIXELS)
    except (BitstreamError, ModelError) as error:
        assert "\n" not in str(error)
        return None


@pytest.fixture(scope="module")
def streams(crop: Image.Image) -> list[bytes]:
    """Colour at two rates, grey, and one with transparency and metadata."""
    small = crop.crop((0, 0, 72, 40))
    clear = small.copy()
    clear.putalpha(Image.linear_gradient("L").resize(small.size))
    clear.info = {"xmp": b"<x/>" * 20, "exif": b"II*\0" + bytes(8)}
    return [
        llicm_cli.encode(small, 0.1),
        llicm_cli.encode(small, 0.001),
        llicm_cli.encode(small.convert("L"), 0.02),
        llicm_cli.encode(clear, 0.02),
    ]


def test_every_truncation_is_an_error(streams: list[bytes]):
    for data in streams:
        assert all(outcome(data[:length]) is None for length in range(len(data)))


def test_every_truncation_under_a_right_checksum_is_an_error(streams: list[bytes]):
    for data in streams:
        end = 30 + len(bitstream.parse(data).payload)  # beyond, whole chunks may be missing
        assert all(outcome(sealed(data[:length])) is None for length in range(end))


def test_flipped_bits_are_errors(streams: list[bytes]):
    rng = np.random.default_rng(0)
    for data in streams:
        for place in rng.integers(8 * len(data), size=EDITS):
            flipped = bytearray(data)
            flipped[place // 8] ^= 1 << place % 8
            assert outcome(bytes(flipped)) is None


def test_flipped_payload_bits_under_a_right_checksum_never_give_another_picture(streams: list[bytes]):
    rng = np.random.default_rng(1)
    for data in streams:
        stream = bitstream.parse(data)
        right = llicm_cli.decode(data)
        for place in rng.integers(8 * len(stream.payload), size=EDITS):
            payload = bytearray(stream.payload)
            payload[place // 8] ^= 1 << place % 8
            shown = outcome(bitstream.write(dataclasses.replace(stream, payload=bytes(payload))))
            assert shown is None or shown.tobytes() == right.tobytes()


def test_edited_fields_never_crash_and_keep_what_they_say(streams: list[bytes]):
    rng = np.random.default_rng(2)
    for data in streams:
        for _ in range(EDITS):
            offset = int(rng.choice(list(FIELDS)))
            size = FIELDS[offset]
            value = rng.bytes(size) if rng.random() < 0.5 else int(rng.integers(256)).to_bytes(size, "little")
            edited = sealed(data[:offset] + value + data[offset + size : -4])
            shown = outcome(edited)
            if shown is not None:  # what was edited says nothing of the symbols
                header = bitstream.parse(edited)
                assert shown.size == (header.width, header.height)


@settings(max_examples=EDITS, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_forged_containers_never_crash(streams: list[bytes], data: st.DataObject):
    """By structure: any header, any chunks, parts of real payloads."""
    stream = bitstream.parse(data.draw(st.sampled_from(streams)))
    start = data.draw(st.integers(0, len(stream.payload)))
    forged = dataclasses.replace(
        stream,
        width=data.draw(st.integers(1, 300)),
        height=data.draw(st.integers(1, 300)),
        rate=data.draw(st.integers(0, bitstream.RATE_MAX)),
        payload=data.draw(st.sampled_from([stream.payload[start:], stream.payload[:start], b"", bytes(99)])),
        alpha=data.draw(st.sampled_from([b"", stream.alpha, b"\x89PNG\r\n\x1a\n" + bytes(50)])),
    )
    chunk = data.draw(st.sampled_from([b"iccp", b"exif", b"ALPH", b"note", b"Need"]))
    content = data.draw(st.binary(max_size=40))
    extra = chunk + struct.pack("<I", data.draw(st.integers(0, 50))) + content
    body = bitstream.write(forged)[:-4] + (extra if data.draw(st.booleans()) else b"")
    shown = outcome(sealed(body))
    assert shown is None or shown.size == (forged.width, forged.height)
