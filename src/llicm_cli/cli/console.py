"""The terminal: words and progress to stderr, data to stdout, errors as one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def say(words: str) -> None:
    """One line for people, on stderr."""
    _stderr.print(" ".join(words.splitlines()), markup=False)


def show(words: str) -> None:
    """A result, on stdout."""
    sys.stdout.write(words + "\n")


@contextmanager
def progress(title: str) -> Iterator[Callable[[float, str], None]]:
    """A progress bar on a terminal, nothing elsewhere.

    Yields a function that takes the done share (0..1) and a few words.
    """
    columns = (TextColumn(title), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=_stderr, disable=not _stderr.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=1.0)

        def tick(done: float, words: str = "") -> None:
            bar.update(task, completed=done, description=words)

        yield tick
