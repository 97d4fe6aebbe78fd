"""Files are written whole or not at all, whatever else happens meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llicm_cli.errors import OutputError
from llicm_cli.storage import write_file, write_files

SLOW_DISK = """
import os, signal, sys
from llicm_cli import pipeline
from llicm_cli.cli.main import run
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs of a shell in the background ignore it
os.fsync = lambda _: (os.kill(os.getpid(), {signal}), __import__("time").sleep(30))
pipeline.encode = lambda *_: b"stream"
sys.argv = ["llicm", "encode", sys.argv[1]]
run()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_a_file_is_written_leaves_nothing(tmp_path: Path, name: str):
    picture = tmp_path / "white.pgm"
    picture.write_bytes(b"P5 1 1 255\n\xff")
    code = SLOW_DISK.format(signal=int(getattr(signal, name)))
    run = subprocess.run(
        [sys.executable, "-c", code, picture], capture_output=True, text=True, check=False, timeout=25
    )
    assert run.returncode == 130 and run.stderr.splitlines() == ["llicm: interrupted"]
    assert [p.name for p in tmp_path.iterdir()] == ["white.pgm"]


def test_what_another_program_writes_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "x.bin"
    monkeypatch.setattr(os, "fsync", lambda _: path.write_bytes(b"theirs"))
    with pytest.raises(OutputError, match="exists"):
        write_file(path, b"ours", overwrite=False)
    assert path.read_bytes() == b"theirs" and list(tmp_path.iterdir()) == [path]
    write_file(path, b"ours", overwrite=True)
    assert path.read_bytes() == b"ours" and list(tmp_path.iterdir()) == [path]


def test_of_files_that_belong_together_all_are_written_or_none(tmp_path: Path):
    paths = tmp_path / "a", tmp_path / "nowhere" / "b"
    paths[0].write_bytes(b"before")
    with pytest.raises(OutputError, match="does not exist"):
        write_files(dict.fromkeys(paths, b"after"), overwrite=True)
    assert paths[0].read_bytes() == b"before" and list(tmp_path.iterdir()) == [paths[0]]
    paths[1].parent.mkdir()
    write_files(dict.fromkeys(paths, b"after"), overwrite=True)
    assert [path.read_bytes() for path in paths] == [b"after"] * 2


def test_where_no_links_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unsupported(*_: object) -> None:
        raise PermissionError("no links on this file system")

    monkeypatch.setattr(os, "link", unsupported)
    write_file(tmp_path / "x.bin", b"ours", overwrite=False)
    assert (tmp_path / "x.bin").read_bytes() == b"ours" and len(list(tmp_path.iterdir())) == 1


def test_links_that_lead_in_a_circle_are_no_place_to_write(tmp_path: Path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OutputError):
        write_file(tmp_path / "a", b"", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1"])
def test_a_pipe_is_written_to_by_its_name(name: str):
    code = f"from llicm_cli.storage import *; write_file(Path({name!r}), b'bytes', overwrite=False)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"bytes", b"")
