"""CompressAI's range coder (rANS), loaded without the rest of CompressAI, behind checks.

Importing the ``compressai`` package takes seconds; its compiled coder alone takes milliseconds. The
coder reads past the end of a short stream, so ``Decoder`` gives it a copy with enough zeros behind.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from llicm_cli.errors import BitstreamError, ModelError
from llicm_cli.tables import Integers, Tables

SYMBOL_LIMIT = 2**15 - 1  # largest magnitude of a symbol
FEWEST_SYMBOLS = 8  # the coder's buffer has one word a symbol, too small for its state below this
MOST_BYTES = 8  # of a payload for each symbol: a word, and what an escape takes
STATE_LOW, STATE_HIGH = 2**31, 2**63  # a coder's state lies in this range between symbols


@cache
def _coder() -> Any:
    """The extension module ``compressai.ans``."""
    package = importlib.util.find_spec("compressai")
    for folder in (package.submodule_search_locations or []) if package else []:
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            path = Path(folder) / f"ans{suffix}"
            if path.is_file():
                spec = importlib.util.spec_from_file_location("compressai.ans", path)
                assert spec and spec.loader
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module
    raise ModelError("CompressAI's range coder (compressai.ans) is not installed for this Python")


class Encoder:
    """Codes symbols in the order in which they are put; at least ``FEWEST_SYMBOLS`` in all."""

    def __init__(self, tables: Tables) -> None:
        self._lists = tables.lists
        self._count = 0
        self._coder = _coder().BufferedRansEncoder()

    def put(self, symbols: Integers, tables: Integers) -> None:
        """symbols: (N,) within +-``SYMBOL_LIMIT``, else ValueError; tables: (N,) the table of each."""
        if len(symbols) and not -SYMBOL_LIMIT <= symbols.min() <= symbols.max() <= SYMBOL_LIMIT:
            raise ValueError(f"a symbol exceeds {SYMBOL_LIMIT}")
        self._count += len(symbols)
        self._coder.encode_with_indexes(symbols.tolist(), tables.tolist(), *self._lists)

    def finish(self) -> bytes:
        """The coded stream; raises ValueError where too few symbols were put."""
        if self._count < FEWEST_SYMBOLS:
            raise ValueError(f"fewer than {FEWEST_SYMBOLS} symbols cannot be coded")
        return bytes(self._coder.flush())


class Decoder:
    """Decodes what ``Encoder`` coded.

    Args:
        tables: the same tables.
        payload: any bytes; a stream that was not coded with these tables gives wrong symbols (told by
            their checksum), never a fault.
        most: upper bound of the symbols that will be asked for.

    Raises:
        BitstreamError: the payload cannot be the output of a coder.
    """

    def __init__(self, tables: Tables, payload: bytes, most: int) -> None:
        self._lists = tables.lists
        self._coder = _coder().RansDecoder()
        self._left = most
        # From a state in range, each symbol takes at most one 4-byte word. Escapes take more: a run
        # of nibbles F, each of which announces 15 nibbles; zeros end such a run, so that only the
        # payload itself can announce any.
        state = int.from_bytes(payload[:8], "little")
        if len(payload) < 8 or not STATE_LOW <= state < STATE_HIGH:
            raise BitstreamError("the stream is damaged (its payload has no valid beginning)")
        if len(payload) > MOST_BYTES * (most + FEWEST_SYMBOLS):
            raise BitstreamError("the stream is malformed (its payload is too long for its picture)")
        self._coder.set_stream(payload + bytes(4 * most + 15 * len(payload) + 4096))

    def take(self, tables: Integers) -> Integers:
        """tables: (N,) the table of each symbol -> (N,) symbols; raises ValueError beyond the bound."""
        self._left -= len(tables)
        if self._left < 0:
            raise ValueError("more symbols asked for than announced")
        return np.array(self._coder.decode_stream(tables.tolist(), *self._lists), dtype=np.int32)
