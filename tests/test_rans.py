"""The range coder behind its checks."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from llicm_cli.errors import BitstreamError
from llicm_cli.models.weights import load_codec
from llicm_cli.rans import SYMBOL_LIMIT, Decoder, Encoder
from llicm_cli.tables import Tables


@pytest.fixture(scope="module")
def tables() -> Tables:
    return load_codec().tables


def test_symbols_survive_even_where_no_table_covers_them(tables: Tables):
    rng = np.random.default_rng(0)
    count = 20_000
    index = rng.integers(0, len(tables.size), count).astype(np.int32)
    symbols = np.rint(rng.standard_normal(count) * 10.0 ** rng.uniform(-1, 3, count)).astype(np.int32)
    symbols[:4] = (SYMBOL_LIMIT, -SYMBOL_LIMIT, 0, -1)
    encoder = Encoder(tables)
    encoder.put(symbols[:7000], index[:7000])
    encoder.put(symbols[7000:], index[7000:])
    decoder = Decoder(tables, encoder.finish(), count)
    assert np.array_equal(decoder.take(index[:11]), symbols[:11])
    assert np.array_equal(decoder.take(index[11:]), symbols[11:])


def test_cost_is_the_entropy(tables: Tables):
    rng = np.random.default_rng(1)
    level, count = 20, 50_000
    scale = 0.11 * (256 / 0.11) ** (level / 63)
    symbols = np.rint(scale * rng.standard_normal(count)).astype(np.int32)
    encoder = Encoder(tables)
    encoder.put(symbols, np.full(count, level, dtype=np.int32))
    share = np.unique(symbols, return_counts=True)[1] / count
    assert 8 * len(encoder.finish()) == pytest.approx(-count * np.sum(share * np.log2(share)), rel=0.01)


@pytest.mark.parametrize("payload", [b"", bytes(7), bytes(8), bytes(40), b"\xff" * 3000])
def test_what_no_coder_writes_is_refused(tables: Tables, payload: bytes):
    with pytest.raises(BitstreamError, match="no valid beginning"):
        Decoder(tables, payload, 10)


# In a process of its own: a read past the end of the padded payload would end it.
HOSTILE = """
import sys, numpy as np
from llicm_cli.rans import Decoder
from llicm_cli.errors import BitstreamError
from llicm_cli.models.weights import load_codec
tables, count = load_codec().tables, 3_000_000
kind = sys.argv[1]
rng = np.random.default_rng(0)
start = (1 << 62).to_bytes(8, "little") if kind != "lowest state" else (1 << 31).to_bytes(8, "little")
rests = {"escapes": b"\\xff" * 200_000, "noise": rng.bytes(5000), "zeros": bytes(500)}
rest = rests.get(kind, b"")
index = rng.integers(0, len(tables.size), count).astype(np.int32)
assert len(Decoder(tables, start + rest, count).take(index)) == count
"""


@pytest.mark.parametrize("kind", ["lowest state", "escapes", "noise", "zeros"])
def test_a_hostile_payload_yields_symbols_not_a_fault(kind: str):
    run = subprocess.run([sys.executable, "-c", HOSTILE, kind], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_encoder_refuses_what_its_coder_cannot_hold(tables: Tables):
    few = Encoder(tables)
    few.put(np.zeros(7, dtype=np.int32), np.zeros(7, dtype=np.int32))
    with pytest.raises(ValueError, match="fewer than 8"):
        few.finish()
    with pytest.raises(ValueError, match="exceeds"):
        few.put(np.array([SYMBOL_LIMIT + 1], dtype=np.int32), np.zeros(1, dtype=np.int32))


def test_more_symbols_than_announced_are_refused(tables: Tables):
    with pytest.raises(ValueError, match="more symbols"):
        Decoder(tables, (1 << 62).to_bytes(8, "little"), 3).take(np.zeros(4, dtype=np.int32))


@pytest.mark.parametrize(
    ("cdf", "size", "offset", "words"),
    [
        ([0, 1, 65536], [3], [0], None),
        ([0, 1, 65535], [3], [0], "span"),
        ([1, 2, 65536], [3], [0], "span"),
        ([0, 9, 9, 65536], [4], [0], "increasing"),
        ([0, 1, 65536], [4], [0], "fill"),
        ([0, 65536], [2], [0], "sizes"),
        ([0, 1, 65536], [3], [0, 0], "sizes"),
    ],
)
def test_bad_tables_are_told(cdf: list[int], size: list[int], offset: list[int], words: str | None):
    problem = Tables(*(np.array(a, dtype=np.int32) for a in (cdf, size, offset))).problem(len(size))
    assert problem is None if words is None else words in (problem or "")
