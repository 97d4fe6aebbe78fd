"""All errors a caller may see. Each carries the exit code of the command line.

LlicmError
|-- UsageError          2   options or arguments that make no sense together
|-- InputError          3   the input cannot be read, or is not a picture we can code
|-- BitstreamError      4   the stream is truncated, damaged, foreign or too new
|-- ModelError          5   the weights that a stream needs are missing or damaged
|-- OutputError         6   the output cannot be written
`-- TargetError         7   the asked size or rate cannot be reached
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class LlicmError(Exception):
    """Base of every error raised on purpose; the message is one line, for people."""

    exit_code = 1


class UsageError(LlicmError):
    """Options or arguments that make no sense together."""

    exit_code = 2


class InputError(LlicmError):
    """The input cannot be read, or is not a picture that can be coded."""

    exit_code = 3


class BitstreamError(LlicmError):
    """The stream is truncated, damaged, of another format, or of a newer version."""

    exit_code = 4


class ModelError(LlicmError):
    """The weights that a stream needs are missing, damaged or of another kind."""

    exit_code = 5


class OutputError(LlicmError):
    """The output exists already or cannot be written."""

    exit_code = 6


class TargetError(LlicmError):
    """The asked file size or rate cannot be reached within the range of lambda."""

    exit_code = 7


@contextmanager
def about(subject: object) -> Iterator[None]:
    """Put before the message of any ``LlicmError`` within what it is about, most often a path."""
    try:
        yield
    except LlicmError as error:
        raise type(error)(f"{subject}: {error}") from error
