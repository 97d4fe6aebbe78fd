"""Model cards: how a weights file was made, as JSON beside it."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import shlex
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llicm_cli.storage import write_files
from llicm_cli.version import __version__


def _git_revision() -> str:
    """The source revision, with "+changes" if the tree was not clean; "unknown" of an installed copy, which
    is in no repository, or only lies within one."""
    git = partial(subprocess.run, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    try:
        git(["git", "ls-files", "--error-unmatch", Path(__file__).name])
        return git(["git", "describe", "--always", "--abbrev=12", "--dirty=+changes"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def command_line() -> str:
    """The command that runs, with every path reduced to its last part."""
    return shlex.join(["llicm", *map(short, sys.argv[1:])])


def short(word: str) -> str:
    """A word, its path reduced to the last part, also behind ``--option=``, ``-o``, ``TASK=`` and
    ``local-dir:``; ``hf-hub:`` is followed by no path, but by a name."""
    prefix = re.match(r"(--[\w-]+=|-o)?(\w+=|local-dir:|hf-hub:.*)?", word)
    assert prefix is not None
    path = word[prefix.end() :]
    return prefix[0] + (Path(path).name if "/" in path else path)


def read(weights: Path) -> dict[str, Any]:
    """The card of ``weights``, or only its name where there is none."""
    try:
        card: dict[str, Any] = json.loads(weights.with_suffix(".json").read_text())
    except (OSError, ValueError):
        card = {"name": weights.name}
    return card


def brief(weights: Path) -> dict[str, Any]:
    """The card of ``weights`` without the cards of others."""
    return {key: fact for key, fact in read(weights).items() if key not in ("history", "mean_with")}


def _history(weights: Path | None) -> list[dict[str, Any]]:
    """The card of ``weights`` and those of the runs before, the last first."""
    if not weights:
        return []
    card = read(weights)
    earlier = card.pop("history", [])
    return [card, *earlier]


def write(weights: Path, data: bytes, facts: dict[str, Any], start_from: Path | None) -> str:
    """Write a weights file and its card: its hash, ``facts``, the date, the versions in use, and the history
    of ``start_from``.

    Returns:
        The SHA-256 of the weights.

    Raises:
        OutputError: one of them cannot be written.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    card = {
        "sha256": sha256,
        "model_id": sha256[:8],
        **facts,
        "date": datetime.date.today().isoformat(),
        "revision": _git_revision(),
        "llicm": __version__,
        "torch": version("torch"),
        "compressai": version("compressai"),
        "history": _history(start_from),
    }
    told = (json.dumps(card, indent=2) + "\n").encode()
    write_files({weights: data, weights.with_suffix(".json"): told}, overwrite=True)
    return sha256
