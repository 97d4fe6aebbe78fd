"""Replay of the conformance streams (docs/format.md): exact symbols, pixels within a tolerance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import llicm_cli
from llicm_cli import bitstream

FOLDER = Path(__file__).parent / "conformance"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def test_every_stream_is_there():
    assert sorted(EXPECTED) == sorted(path.stem for path in FOLDER.glob("*.llic")) and len(EXPECTED) >= 20


@pytest.mark.parametrize("name", EXPECTED)
def test_a_stream_decodes_as_promised(name: str):
    data = (FOLDER / f"{name}.llic").read_bytes()
    expected = EXPECTED[name]
    stream = bitstream.parse(data)
    assert f"{stream.symbol_crc:08x}" == expected["symbol_crc"]  # and the decoder finds the same
    assert {key: value.hex() for key, value in stream.metadata.items()} == expected["metadata"]
    decoded = llicm_cli.decode(data)
    right = Image.open(FOLDER / f"{name}.png")
    assert decoded.mode == right.mode == expected["mode"] and decoded.size == right.size
    difference = np.abs(np.asarray(decoded).astype(int) - np.asarray(right))
    assert difference.max() <= 2 and difference.mean() <= 0.1
    if "A" in decoded.mode:
        assert np.array_equal(decoded.getchannel("A"), right.getchannel("A"))
