"""The container: what is written is read back, and anything else is refused with its own words."""

from __future__ import annotations

import dataclasses
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llicm_cli import bitstream
from llicm_cli.bitstream import Stream
from llicm_cli.errors import BitstreamError

STREAM = Stream(640, 481, "RGB", 12345, b"\x01\x02\x03\x04", b"payload bytes", 0xDEADBEEF)


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def edited(offset: int, value: bytes) -> bytes:
    body = bytearray(bitstream.write(STREAM)[:-4])
    body[offset : offset + len(value)] = value
    return sealed(bytes(body))


def with_chunk(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    length = struct.pack("<I", len(content) if size is None else size)
    return sealed(bitstream.write(STREAM)[:-4] + kind + length + content)


def test_what_is_written_is_read_back():
    assert bitstream.parse(bitstream.write(STREAM)) == STREAM


def test_layout_is_the_documented_one():
    data = bitstream.write(STREAM)
    assert data[:4] == b"LLIC" and data[4] == 1 and data[5] == 1
    assert struct.unpack_from("<IIH", data, 8) == (640, 481, 12345)
    assert data[18:22] == STREAM.model and data[30:43] == STREAM.payload
    assert struct.unpack("<I", data[-4:])[0] == zlib.crc32(data[:-4])


def test_transparency_and_metadata_are_kept():
    full = dataclasses.replace(STREAM, alpha=b"a PNG", metadata={"icc": b"profile", "xmp": b"<x/>" * 99})
    data = bitstream.write(full)
    assert bitstream.parse(data) == full
    assert len(data) < len(bitstream.write(STREAM)) + 100  # metadata are packed


def test_header_and_trailer_cost_34_bytes():
    assert len(bitstream.write(STREAM)) - len(STREAM.payload) == 34


def test_every_truncation_is_refused():
    data = bitstream.write(STREAM)
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            bitstream.parse(data[:length])


def test_every_bit_flip_is_refused():
    data = bitstream.write(STREAM)
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(BitstreamError):
            bitstream.parse(bytes(flipped))


@given(st.binary(max_size=100) | st.binary(max_size=100).map(lambda b: sealed(b"LLIC\x01" + b)))
def test_arbitrary_bytes_never_cause_another_error(data: bytes):
    try:
        bitstream.parse(data)
    except BitstreamError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), "magic"),
        (edited(4, b"\x02"), "version 2"),
        (edited(5, b"\x02"), "reserved"),
        (edited(6, b"\x02"), "reserved"),
        (edited(7, b"\x01"), "reserved"),
        (edited(8, struct.pack("<I", 0)), "no pixels"),
        (edited(8, struct.pack("<II", 32768, 32768)), "limit"),
        (edited(8, struct.pack("<I", 32769)), "limit"),
        (edited(22, struct.pack("<I", 2**32 - 1)), "truncated"),
        (with_chunk(b"ICCP", b"x"), "chunk ICCP"),
        (with_chunk(b"iccp", b"not zlib"), "decompressed"),
        (with_chunk(b"iccp", zlib.compress(b"profile")[:-1]), "impossible size"),
        (with_chunk(b"xmpp", zlib.compress(bytes(2**24 + 1))), "impossible size"),
        (with_chunk(b"ALPH", b"a" + b"ALPH" + bytes(4), size=1), "comes twice"),
        (with_chunk(b"ALPH", b""), "transparency is empty"),
        (with_chunk(b"no!!", b"x"), "four letters"),
        (with_chunk(b"note", b"x", size=2**31), "past the end"),
        (sealed(bitstream.write(STREAM)[:-4] + b"note"), "incomplete chunk"),
        (bitstream.write(STREAM) + b"\n", "checksum"),
    ],
)
def test_each_rule_has_its_error(data: bytes, words: str):
    with pytest.raises(BitstreamError, match=words):
        bitstream.parse(data)


def test_unknown_ancillary_chunks_are_skipped():
    assert bitstream.parse(with_chunk(b"note", b"hello")) == STREAM


@pytest.mark.parametrize("lmbda", [0.001, 0.0018, 0.01, 0.0932, 0.1])
def test_lambda_survives_the_header(lmbda: float):
    rate = bitstream.rate_of_lambda(lmbda)
    stream = bitstream.parse(bitstream.write(dataclasses.replace(STREAM, rate=rate)))
    assert stream.lmbda == pytest.approx(lmbda, rel=1e-4)


@pytest.mark.parametrize("lmbda", [0.0, 0.00099, 0.11, float("nan"), float("inf"), -1.0])
def test_lambda_outside_the_range_is_refused(lmbda: float):
    with pytest.raises(ValueError, match="lambda must lie"):
        bitstream.rate_of_lambda(lmbda)
