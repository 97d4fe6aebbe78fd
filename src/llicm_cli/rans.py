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
import numpy.typing as npt

from llicm_cli.errors import ModelError
from llicm_cli.tables import Tables

Integers = npt.NDArray[np.int32]
SYMBOL_LIMIT = 2**15 - 1  # largest magnitude of a symbol


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
    """Codes symbols in the order in which they are put."""

    def __init__(self, tables: Tables) -> None:
        self._lists = tables.lists
        self._coder = _coder().BufferedRansEncoder()

    def put(self, symbols: Integers, tables: Integers) -> None:
        """symbols: (N,) within +-``SYMBOL_LIMIT``; tables: (N,) the table of each."""
        self._coder.encode_with_indexes(symbols.tolist(), tables.tolist(), *self._lists)

    def finish(self) -> bytes:
        """The coded stream."""
        return bytes(self._coder.flush())


class Decoder:
    """Decodes what ``Encoder`` coded.

    Args:
        tables: the same tables.
        payload: any bytes; a stream that was not coded with these tables gives wrong symbols (told by
            their checksum), never a fault.
        most: upper bound of the symbols that will be asked for.
    """

    def __init__(self, tables: Tables, payload: bytes, most: int) -> None:
        self._lists = tables.lists
        self._coder = _coder().RansDecoder()
        self._left = most
        # The coder takes at most 2 bytes a symbol, beside escapes: a run of nibbles F, each of which
        # announces 15 nibbles more. Zeros end such a run, so only the payload can announce any.
        self._coder.set_stream(payload + bytes(2 * most + 15 * len(payload) + 4096))

    def take(self, tables: Integers) -> Integers:
        """tables: (N,) the table of each symbol -> (N,) symbols."""
        self._left -= len(tables)
        if self._left < 0:
            raise ValueError("more symbols asked for than announced")
        return np.array(self._coder.decode_stream(tables.tolist(), *self._lists), dtype=np.int32)
