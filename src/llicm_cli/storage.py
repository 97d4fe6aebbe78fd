"""Files: read whole, and written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from llicm_cli.errors import InputError, OutputError

UMASK = os.umask(0)  # can only be read by setting it, which threads must not do
os.umask(UMASK)

_unfinished: set[Path] = set()  # temporary files of threads that are at work


def read_bytes(path: Path) -> bytes:
    """The content of a file; raises InputError."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(getattr(error, "strerror", None) or str(error)) from error


def write_file(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write a whole file or nothing, see ``write_files``."""
    write_files({path: data}, overwrite=overwrite)


def write_files(contents: Mapping[Path, bytes], *, overwrite: bool) -> None:
    """Write files that belong together, whole or not at all: temporary files beside them, synced, then
    renamed.

    A symbolic link is followed; a device or pipe is written to as it is.

    Raises:
        OutputError: one exists and ``overwrite`` is false, or cannot be written.
    """
    ready: dict[Path, Path] = {}  # temporary file: where it goes
    try:
        for path, data in contents.items():
            check_output(path, overwrite=overwrite)
            if _is_device(path):
                path.write_bytes(data)
                continue
            path = path.resolve()
            handle, name = tempfile.mkstemp(prefix=".llicm-", dir=path.parent)
            temporary = Path(name)
            ready[temporary] = path
            _unfinished.add(temporary)
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with suppress(OSError):  # some file systems have no modes
                temporary.chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~UMASK)
        for temporary, path in ready.items():
            if overwrite or not _linked(temporary, path):
                temporary.replace(path)
    except (OSError, RuntimeError) as error:  # the latter of links that lead in a circle
        raise OutputError(getattr(error, "strerror", None) or str(error)) from error
    finally:
        for temporary in ready:
            temporary.unlink(missing_ok=True)
            _unfinished.discard(temporary)


def _linked(temporary: Path, path: Path) -> bool:
    """Give a file another name, if that is not taken and where links can be made: unlike a rename, this never
    replaces what another program has written meanwhile."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise OutputError("exists by now (use --overwrite to replace it)") from error
    except OSError:
        return False
    return True


def make_folder(path: Path) -> None:
    """Make a folder and those above it, as far as they are missing; raises OutputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror}") from error


def remove_unfinished() -> None:
    """Leave no temporary file, before a process ends in the middle of its work."""
    for temporary in list(_unfinished):
        temporary.unlink(missing_ok=True)


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError early where writing ``path`` is sure to fail."""
    try:
        if path.is_dir():
            raise OutputError("is a folder")
        if _is_device(path):
            return
        if os.path.lexists(path) and not overwrite:
            raise OutputError("exists already (use --overwrite to replace it)")
        folder = Path(os.path.realpath(path)).parent  # of what a link names
        if not folder.is_dir():
            raise OutputError(f"the folder {folder} does not exist")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"nothing can be written to the folder {folder}")
    except OSError as error:
        raise OutputError(error.strerror or str(error)) from error


def _is_device(path: Path) -> bool:
    """A device, a pipe or a socket; also by a link, as /dev/stdout is one."""
    return path.exists() and not path.is_file()
