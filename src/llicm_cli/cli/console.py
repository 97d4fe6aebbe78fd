"""The terminal: words and progress to stderr, data to stdout, errors as one line and an exit code."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from llicm_cli.errors import InputError, OutputError


class _Stderr(Console):
    """Standard error. Where nobody reads it, or it cannot be written, work goes on without it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


_stderr = _Stderr(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def say(*lines: str) -> None:
    """Lines for people, on stderr, in one piece."""
    with suppress(OSError):
        _stderr.print("\n".join(" ".join(line.splitlines()) for line in lines), markup=False)


def fault(error: Exception, about: str = "") -> int:
    """Say that an error came up which nobody planned for; returns the exit code. A picture that takes more
    memory than there is counts as one that cannot be read."""
    if isinstance(error, MemoryError) or re.search("can't allocate memory|out of memory", str(error)):
        say(f"llicm: {about}takes more memory than there is; fewer --jobs take less")
        return InputError.exit_code
    if os.environ.get("LLICM_DEBUG"):
        raise error
    say(f"llicm: {about}internal fault: {type(error).__name__}: {error} (LLICM_DEBUG=1 shows more)")
    return 1


def show(words: str) -> None:
    """A result, as a line on stdout; raises OutputError."""
    with _stdout_errors():  # names of files may hold what the terminal cannot show, or bytes that are no text
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(words.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stdout.flush()


def check_no_terminal() -> None:
    """Raise OutputError where bytes on stdout would go to a terminal, or nowhere."""
    with _stdout_errors():
        if sys.stdout.isatty():
            raise OutputError("will not write binary data to a terminal; use -o FILE or a pipe")


def show_bytes(data: bytes) -> None:
    """A result, as bytes on stdout; raises OutputError."""
    with _stdout_errors():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@contextmanager
def _stdout_errors() -> Iterator[None]:
    if sys.stdout is None:
        raise OutputError("there is no standard output")
    try:
        yield
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - keeps the interpreter's last flush quiet
        closed = error.errno == errno.EPIPE
        raise OutputError("nobody reads standard output" if closed else str(error.strerror)) from error


@contextmanager
def progress(title: str) -> Iterator[Callable[[float, str], None]]:
    """A progress bar on a terminal, nothing elsewhere.

    Yields a function that takes the done share (0..1) and a few words.
    """
    columns = (
        TextColumn(title),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=_stderr, disable=not _stderr.file.isatty(), transient=True) as bar:
        task = bar.add_task("", total=1.0)

        def tick(done: float, words: str = "") -> None:
            bar.update(task, completed=done, description=words)

        yield tick
