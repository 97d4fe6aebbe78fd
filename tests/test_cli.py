"""The command line as shell scripts use it: names, pipes, exit codes, and what is left behind."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import png
import pytest
from conftest import Result, psnr
from PIL import Image

import llicm_cli
from llicm_cli.cli.files import process
from llicm_cli.image_io import picture_bytes, read_image
from llicm_cli.models.weights import folder, once

Llicm = Callable[..., Result]

RESULTS = Path(__file__).parents[1] / "benchmarks/results/kodak.json"


@pytest.fixture(scope="module")
def stream(crop: Image.Image) -> bytes:
    return llicm_cli.encode(crop, 0.01)


@pytest.fixture
def picture(crop: Image.Image, tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    crop.save(path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def one_line(result: Result) -> str:
    """The single line of stderr of a failed command."""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("llicm: ") and "Traceback" not in lines[0]
    assert result.stdout == b""
    return lines[0]


def test_encode_then_decode_gives_the_picture_back(llicm: Llicm, picture: Path, crop: Image.Image):
    out, back = picture.with_name("out.bin"), picture.with_name("back.png")
    assert llicm("encode", picture, "-o", out, "--lambda", "0.05") == Result(0, b"", "")
    assert llicm("decode", out, "-o", back) == Result(0, b"", "")
    assert psnr(crop, Image.open(back)) > 30


def test_metadata_travel_unless_stripped(llicm: Llicm, picture: Path, crop: Image.Image):
    exif = Image.Exif()
    exif[0x010F] = "maker"
    crop.save(picture, exif=exif)
    out, back = picture.with_name("out.bin"), picture.with_name("back.png")
    for strip, made in (((), "maker"), (("--strip",), None)):
        llicm("encode", picture, "-o", out, "--overwrite", *strip)
        llicm("decode", out, "-o", back, "--overwrite", "--task", "denoise", "--strength", "0.5")
        assert Image.open(back).getexif().get(0x010F) == made
        told = Image.open(back).text
        assert told["Software"] == "llicm" and "task=denoise strength=0.5 passes=1 head=" in told["llicm"]
        assert f"version={llicm_cli.__version__} model=" in told["llicm"]
        assert llicm("enhance", picture, "-o", back, "--overwrite", *strip).code == 0
        assert Image.open(back).getexif().get(0x010F) == made


def test_derived_names_lie_beside_their_inputs(llicm: Llicm, picture: Path):
    assert llicm("encode", picture).code == 0
    picture.unlink()
    assert llicm("decode", picture.with_suffix(".llic")).code == 0
    assert names(picture.parent) == ["photo.llic", "photo.png"]


def test_many_inputs_go_into_a_new_folder(llicm: Llicm, picture: Path, tmp_path: Path):
    (tmp_path / "b.png").write_bytes(picture.read_bytes())
    out = tmp_path / "out" / "deep"
    assert llicm("encode", picture, tmp_path / "b.png", "-o", f"{out}/").code == 0
    assert names(out) == ["b.llic", "photo.llic"]


def test_many_inputs_need_a_folder(llicm: Llicm, picture: Path, tmp_path: Path):
    result = llicm("encode", picture, picture, "-o", tmp_path / "one.llic")
    assert result.code == 2 and "folder" in one_line(result)


def test_two_inputs_for_one_output_are_refused(llicm: Llicm, picture: Path, crop: Image.Image):
    crop.save(picture.with_suffix(".jpg"))
    result = llicm("encode", picture, picture.with_suffix(".jpg"))
    assert result.code == 2 and "photo.llic" in one_line(result)


def test_a_broken_input_does_not_stop_the_others(llicm: Llicm, picture: Path, tmp_path: Path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    result = llicm("encode", tmp_path / "bad.png", picture)
    lines = result.stderr.splitlines()
    assert result.code == 3 and len(lines) == 2 and all("bad.png" in line for line in lines)
    assert names(tmp_path) == ["bad.png", "photo.llic", "photo.png"]


def test_pipes(llicm: Llicm, picture: Path, stream: bytes):
    piped = llicm("encode", "-", "--lambda", "0.01", stdin=picture.read_bytes())
    assert piped == Result(0, stream, "")
    decoded = llicm("decode", "-", "-o", "-", stdin=stream)
    assert decoded.code == 0 and Image.open(io.BytesIO(decoded.stdout)).format == "PNG"
    with picture.with_suffix(".bmp").open("wb") as file:
        file.write(llicm("encode", picture, "-o", "-").stdout)
    assert names(picture.parent) == ["photo.bmp", "photo.png"]


def test_an_existing_output_needs_overwrite(llicm: Llicm, picture: Path):
    out = picture.with_name("out.bin")
    out.write_bytes(b"precious")
    result = llicm("encode", picture, "-o", out)
    assert result.code == 6 and "--overwrite" in one_line(result)
    assert out.read_bytes() == b"precious"
    assert llicm("encode", picture, "-o", out, "--overwrite").code == 0
    assert out.read_bytes()[:4] == b"LLIC"


@pytest.mark.parametrize("value", ["inf", "nan", "0", "-1", "1e308"])
def test_a_rate_must_be_a_positive_number(llicm: Llicm, picture: Path, value: str):
    assert llicm("encode", picture, "--bpp", value).code == 2


@pytest.mark.parametrize(("option", "value"), [("--bpp", 1.0), ("--size", 2000)])
def test_targets(llicm: Llicm, picture: Path, crop: Image.Image, option: str, value: float):
    out = picture.with_name("out.bin")
    assert llicm("encode", picture, "-o", out, option, value).code == 0
    goal = value if option == "--size" else value * crop.width * crop.height / 8
    assert out.stat().st_size == pytest.approx(goal, rel=0.03)


def test_a_target_out_of_reach_leaves_nothing(llicm: Llicm, picture: Path):
    result = llicm("encode", picture, "--size", "20")
    assert result.code == 7 and "cannot reach 20 bytes" in one_line(result)
    assert names(picture.parent) == ["photo.png"]


def test_only_one_way_to_say_how_large(llicm: Llicm, picture: Path):
    assert llicm("encode", picture, "--size", "2000", "--bpp", "1").code == 2


@pytest.mark.parametrize("value", ["0", "1", "x"])
def test_a_lambda_out_of_range_is_wrong_usage(llicm: Llicm, picture: Path, value: str):
    assert llicm("encode", picture, "--lambda", value).code == 2
    assert names(picture.parent) == ["photo.png"]


def test_info_tells_the_header(llicm: Llicm, tmp_path: Path, stream: bytes, crop: Image.Image):
    path = tmp_path / "x.llic"
    path.write_bytes(stream)
    facts = json.loads(llicm("info", path, "--json").stdout)
    assert (facts["width"], facts["height"]) == crop.size
    assert (facts["colour"], facts["bytes"]) == ("RGB", len(stream))
    assert facts["lambda"] == pytest.approx(0.01, rel=1e-3)
    assert facts["bpp"] == pytest.approx(8 * len(stream) / (crop.width * crop.height), abs=1e-5)
    words = llicm("info", path).stdout.decode()
    assert facts["model"] in words and "0.01" in words


def bad_inputs(tmp_path: Path, stream: bytes, good_picture: bytes) -> dict[str, bytes]:
    flipped = bytearray(stream)
    flipped[len(stream) // 2] ^= 16
    return {
        "empty": b"", "text": b"hello\n", "truncated": stream[:-9], "flipped": bytes(flipped),
        "header only": stream[:20], "picture": good_picture, "zeros": bytes(5000),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "flipped", "header only", "picture", "zeros"])
@pytest.mark.parametrize("command", ["decode", "info"])
def test_bad_streams(llicm: Llicm, picture: Path, stream: bytes, kind: str, command: str):
    folder = picture.parent / "work"
    folder.mkdir()
    (folder / "bad.llic").write_bytes(bad_inputs(folder, stream, picture.read_bytes())[kind])
    result = llicm(command, folder / "bad.llic")
    assert result.code == 4 and "bad.llic" in one_line(result)
    assert names(folder) == ["bad.llic"]


@pytest.mark.parametrize("kind", ["empty", "text", "truncated picture", "stream", "zeros"])
def test_bad_pictures(llicm: Llicm, picture: Path, stream: bytes, kind: str):
    folder = picture.parent / "work"
    folder.mkdir()
    data = bad_inputs(folder, stream, b"") | {
        "truncated picture": picture.read_bytes()[:2000],
        "stream": stream,
    }
    (folder / "bad.png").write_bytes(data[kind])
    result = llicm("encode", folder / "bad.png")
    assert result.code == 3 and "bad.png" in one_line(result)
    assert names(folder) == ["bad.png"]


@pytest.mark.parametrize("command", ["encode", "decode", "info"])
def test_missing_files_and_folders_as_input(llicm: Llicm, tmp_path: Path, command: str):
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "absent.png", tmp_path / "folder.png"):
        result = llicm(command, path)
        assert result.code == 3 and path.stem in one_line(result)
    assert llicm(command, "/").code == 3
    assert names(tmp_path) == ["folder.png"]


@pytest.mark.parametrize("target", ["absent/out.bin", "photo.png/out.bin", ".", "/proc/out.bin"])
def test_unwritable_outputs(llicm: Llicm, picture: Path, target: str):
    folder = picture.parent / "taken"
    folder.mkdir()
    output = folder if target == "." else picture.parent / target
    (folder / "photo.llic").mkdir()
    result = llicm("encode", picture, "-o", output)
    assert result.code == 6 and one_line(result)
    assert names(picture.parent) == ["photo.png", "taken"] and names(folder) == ["photo.llic"]


def test_a_full_disk_leaves_nothing(llicm: Llicm, picture: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = llicm("encode", picture)
    assert result.code == 6 and "No space left" in one_line(result)
    assert names(picture.parent) == ["photo.png"]


def test_a_lossy_or_unknown_output_suffix_is_refused(llicm: Llicm, tmp_path: Path, stream: bytes):
    path = tmp_path / "x.llic"
    path.write_bytes(stream)
    for suffix in (".jpg", ".xyz", ""):
        result = llicm("decode", path, "-o", tmp_path / f"out{suffix}")
        assert result.code == 2 and ".png" in one_line(result)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF", ".webp", ".bmp", ".ppm"])
def test_every_output_format_holds_the_same_pixels(llicm: Llicm, tmp_path: Path, stream: bytes, suffix: str):
    path = tmp_path / "x.llic"
    path.write_bytes(stream)
    assert llicm("decode", path, "-o", tmp_path / f"out{suffix}").code == 0
    assert np.array_equal(Image.open(tmp_path / f"out{suffix}"), llicm_cli.decode(stream))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_16_bits_are_written_as_asked(llicm: Llicm, crop: Image.Image, tmp_path: Path, mode: str):
    source, path, out = tmp_path / "in.png", tmp_path / "x.llic", tmp_path / "out.png"
    small = crop.crop((0, 0, 50, 41)).convert(mode)
    if "A" in mode:
        small.putalpha(Image.linear_gradient("L").resize(small.size))
    small.info = {"xmp": b"<x/>"}
    source.write_bytes(picture_bytes(small, ".png")[0])
    path.write_bytes(llicm_cli.encode(read_image(source.read_bytes())[0]))
    assert llicm("decode", path, "-o", out, "--16-bit").code == 0
    width, height, rows, about = png.Reader(bytes=out.read_bytes()).read()
    assert (width, height, about["bitdepth"]) == (50, 41, 16)
    expected = llicm_cli.decode(path.read_bytes())
    assert expected.mode == mode
    assert np.array_equal(np.vstack(list(rows)), np.asarray(expected).reshape(41, -1).astype(int) * 257)
    assert Image.open(out).info["llicm"].startswith("version=")
    assert read_image(out.read_bytes())[0].info["xmp"] == b"<x/>"
    result = llicm("enhance", source, "-o", tmp_path / "out.tif", "--16-bit", "--task", "none")
    assert result.code == 2 and ".png" in one_line(result)
    assert not (tmp_path / "out.tif").exists()


def test_losses_are_told(llicm: Llicm, crop: Image.Image, tmp_path: Path):
    crop.save(tmp_path / "x.jpg", icc_profile=b"profile")
    result = llicm("encode", tmp_path / "x.jpg")
    assert result.code == 0 and "warning" in result.stderr and "ICC" in result.stderr
    crop.save(tmp_path / "x.jpg", icc_profile=b"profile", comment=b"a comment")
    assert llicm("encode", tmp_path / "x.jpg", "--overwrite", "--strip") == Result(0, b"", "")


@pytest.mark.parametrize(
    "command",
    [["--version"], ["--help"], ["encode", "--help"], ["info", "x.llic"], ["train", "codec", "--help"]],
)
def test_quick_answers_never_load_torch(command: list[str], tmp_path: Path, stream: bytes):
    (tmp_path / "x.llic").write_bytes(stream)
    code = (
        "import sys; from llicm_cli.cli.main import run\n"
        f"sys.argv = {['llicm', *command]!r}\n"
        "try: run()\nexcept SystemExit as e: assert not e.code\n"
        "assert 'torch' not in sys.modules and 'compressai' not in sys.modules"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0 and run.stdout, run.stderr


def test_coding_and_named_tasks_load_neither_compressai_nor_open_clip(picture: Path):
    code = (
        "import sys; from PIL import Image; import llicm_cli\n"
        f"llicm_cli.decode(llicm_cli.encode(Image.open({str(picture)!r})), 'denoise')\n"
        "assert 'compressai' not in sys.modules and 'open_clip' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_closed_pipe_is_no_traceback(picture: Path):
    script = f"{sys.executable} -m llicm_cli encode {picture} -o - | true; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 6 and len(run.stderr.splitlines()) == 1


def test_a_terminal_gets_no_pictures_and_is_told_at_once(llicm: Llicm, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("conftest._Pipe.isatty", lambda self: True)
    result = llicm("encode", "-", stdin=b"no picture: code 3, if it were read")
    assert result.code == 6 and "terminal" in result.stderr


def test_an_input_that_fails_twice_counts_twice(llicm: Llicm, tmp_path: Path):
    result = llicm("info", tmp_path / "no", tmp_path / "no")
    assert result.code == 3 and "2 of 2 failed" in result.stderr


@pytest.mark.parametrize("option", [("--strength", "0.5"), ("--passes", "2")])
def test_what_restoring_takes_goes_with_a_task(
    llicm: Llicm, tmp_path: Path, stream: bytes, option: tuple[str, str]
):
    (tmp_path / "x.llic").write_bytes(stream)
    for command in (["decode"], ["enhance", "--task", "none"]):
        result = llicm(*command, tmp_path / "x.llic", *option)
        assert result.code == 2 and "--task" in result.stderr


def test_results_that_cannot_be_shown_are_output_errors(tmp_path: Path, stream: bytes):
    (tmp_path / "x.llic").write_bytes(stream)
    script = f"{sys.executable} -m llicm_cli info {tmp_path}/x.llic > /dev/full"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 6 and len(run.stderr.splitlines()) == 1


def test_no_progress_bars_in_logs_even_where_colours_are_forced(picture: Path):
    command = [sys.executable, "-m", "llicm_cli", "encode", str(picture)]
    run = subprocess.run(command, env=os.environ | {"FORCE_COLOR": "1"}, capture_output=True, check=True)
    assert run.stderr == b""


@pytest.mark.parametrize("stderr", ["/dev/full", ">(true)"])
def test_work_goes_on_where_nobody_reads_what_is_said(tmp_path: Path, stream: bytes, stderr: str):
    (tmp_path / "bad.llic").write_bytes(stream[:-1])
    (tmp_path / "good.llic").write_bytes(stream)
    files = f"{tmp_path}/bad.llic {tmp_path}/good.llic"
    script = f"{sys.executable} -m llicm_cli info --json {files} 2> {stderr}"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 4 and "good.llic" in run.stdout


def test_a_closed_standard_input_is_an_input_error():
    script = f"{sys.executable} -m llicm_cli info - <&-"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 3 and len(run.stderr.splitlines()) == 1


def test_names_that_look_like_markup(llicm: Llicm, picture: Path):
    odd = picture.with_name("holiday [b] :heart:.png")
    odd.write_bytes(b"no picture")
    assert "holiday [b] :heart:.png" in one_line(llicm("encode", odd))


def test_a_link_is_followed_and_a_pipe_written_to(llicm: Llicm, picture: Path, stream: bytes):
    target, link = picture.with_name("target.bin"), picture.with_name("link.bin")
    link.symlink_to(target)
    assert llicm("encode", picture, "-o", link).code == 6, "a dangling link exists, too"
    assert llicm("encode", picture, "-o", link, "--lambda", "0.01", "--overwrite").code == 0
    assert link.is_symlink() and target.read_bytes() == stream
    assert llicm("encode", picture, "-o", "/dev/null", "--overwrite").code == 0
    assert not Path("/dev/null").is_file()


def test_help_says_what_lambda_costs(llicm: Llicm):
    """As it was measured; the results are those of the benchmark that the README names."""
    words = " ".join(llicm("encode", "--help").stdout.decode().replace("\u2502", " ").split())
    measured = json.loads(RESULTS.read_text())["codecs"]["llicm"]
    told = re.findall(r"([\d.]+): ([\d.]+) bpp, ([\d.]+) dB", words)
    assert len(told) == 5
    for lmbda, *values in told:
        place = measured["settings"].index(float(lmbda))
        means = [np.mean([p[name][place] for p in measured["pictures"].values()]) for name in ("bpp", "psnr")]
        assert values == [f"{means[0]:.2f}", f"{means[1]:.1f}"]


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_batch_does_what_it_can_and_lists_the_rest(
    llicm: Llicm, tmp_path: Path, crop: Image.Image, jobs: int
):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(8):
        crop.crop((8 * i, 0, 8 * i + 64, 64)).save(folder / f"{i}.png")
    (folder / "3.png").write_bytes(b"no picture")
    (folder / "6.png").write_bytes((folder / "6.png").read_bytes()[:500])
    inputs, out = sorted(folder.iterdir()), tmp_path / "out"
    result = llicm("encode", *inputs, "-o", f"{out}/", "--jobs", jobs)
    lines = result.stderr.splitlines()
    assert result.code == 3 and len(lines) == 3
    assert lines[-1] == f"llicm: 2 of 8 failed: {folder / '3.png'}, {folder / '6.png'}"
    assert names(out) == [f"{i}.llic" for i in (0, 1, 2, 4, 5, 7)]

    (out / "4.llic").unlink()
    before = (out / "5.llic").stat().st_mtime_ns
    for i in (3, 6):
        crop.save(folder / f"{i}.png")
    again = llicm("encode", *inputs, "-o", f"{out}/", "--jobs", jobs, "--skip-existing")
    assert (again.code, again.stderr) == (0, "llicm: 5 of 8 were there already\n")
    assert len(names(out)) == 8 and (out / "5.llic").stat().st_mtime_ns == before
    single = llicm("encode", inputs[4], "-o", tmp_path / "single.llic")
    assert single.code == 0 and (tmp_path / "single.llic").read_bytes() == (out / "4.llic").read_bytes()


def test_existing_outputs_are_replaced_or_skipped_not_both(llicm: Llicm, picture: Path):
    both = llicm("encode", picture, "--overwrite", "--skip-existing")
    assert both.code == 2 and "only one" in one_line(both)


def test_only_files_count_as_there(llicm: Llicm, picture: Path, tmp_path: Path):
    picture.with_suffix(".llic").mkdir()
    folder = llicm("encode", picture, "--skip-existing")
    assert folder.code == 6 and "is a folder" in one_line(folder)
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    assert llicm("encode", picture, "-o", tmp_path / "pipe", "--skip-existing").code == 0
    assert len(reader.communicate()[0]) > 100


def test_two_batches_over_the_same_files_do_not_fail(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    inputs, outputs = ([tmp_path / f"{i}.{kind}" for i in range(3)] for kind in ("in", "out"))
    for path in inputs:
        path.write_bytes(b"a")

    def convert(data: bytes, _: Path, target: Path) -> bytes:
        if target == outputs[0]:  # what another process does meanwhile
            outputs[0].write_bytes(b"other")
            outputs[2].write_bytes(b"other")
        return data

    process(inputs, outputs, convert, overwrite=False, skip_existing=True, jobs=1)
    assert [path.read_bytes() for path in outputs] == [b"other", b"a", b"other"]
    assert capfd.readouterr().err == "llicm: 2 of 3 were there already\n"


def test_jobs_share_the_threads_that_one_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given: list[int] = []
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    monkeypatch.setattr("torch.set_num_threads", given.append)
    for name in "ab":
        (tmp_path / name).write_bytes(b"")
    inputs, outputs = [tmp_path / "a", tmp_path / "b"], [tmp_path / "c", tmp_path / "d"]
    process(inputs, outputs, lambda data, *_: data, overwrite=False, skip_existing=False, jobs=2)
    assert given == [2, 4]


def test_results_of_a_batch_are_not_taken_for_its_inputs(llicm: Llicm, crop: Image.Image, tmp_path: Path):
    crop.save(tmp_path / "a.png")
    assert llicm("degrade", tmp_path / "a.png", "--task", "dehaze").code == 0
    both = [tmp_path / "a.dehaze.png", tmp_path / "a.png"]
    again = llicm("degrade", *both, "--task", "dehaze", "--overwrite")
    assert again.code == 2 and "a.dehaze.png is an input and the output of another" in one_line(again)
    spelt = [tmp_path / "a.png", tmp_path / ".." / tmp_path.name / "a.dehaze.png"]
    assert llicm("degrade", *spelt, "--task", "dehaze", "--overwrite").code == 2
    skipped = llicm("degrade", *both, "--task", "dehaze", "--skip-existing")
    assert (skipped.code, skipped.stderr) == (0, "llicm: 2 of 2 were there already\n")
    assert names(tmp_path) == ["a.dehaze.png", "a.png"]
    assert llicm("degrade", both[1], "--task", "dehaze", "-o", both[1], "--overwrite").code == 0


def test_a_batch_may_run_again_over_its_results(llicm: Llicm, picture: Path):
    assert llicm("encode", picture).code == 0
    both = [picture, picture.with_suffix(".llic")]  # as * names them
    again = llicm("encode", *both, "--skip-existing")
    assert (again.code, again.stderr) == (0, "llicm: 2 of 2 were there already\n")
    assert "is an input and the output of another" in one_line(llicm("encode", *both))
    Image.open(picture).save(picture.with_suffix(".bmp"))
    clash = llicm("encode", picture, picture.with_suffix(".bmp"), both[1], "--skip-existing")
    assert clash.code == 2 and "several inputs" in one_line(clash)


def test_names_that_the_terminal_cannot_show(tmp_path: Path, stream: bytes):
    (tmp_path / "\u6f22.llic").write_bytes(stream)
    command = [sys.executable, "-m", "llicm_cli", "info", str(tmp_path / "\u6f22.llic")]
    shown = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True)
    assert shown.returncode == 0 and rb"\u6f22.llic" in shown.stdout and shown.stderr == b""


def test_killed_in_a_batch_leaves_whole_files(tmp_path: Path, crop: Image.Image):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for i in range(200):
        crop.save(folder / f"{i:03}.png")
    command = [
        sys.executable,
        "-m",
        "llicm_cli",
        "encode",
        *map(str, sorted(folder.iterdir())),
        "-o",
        f"{out}/",
    ]
    run = subprocess.Popen(command)
    while not (out.is_dir() and len(list(out.glob("*.llic"))) > 2):
        assert run.poll() is None
        time.sleep(0.02)
    run.kill()
    run.wait()
    made = sorted(out.glob("*.llic"))
    assert 2 < len(made) < 200
    assert {path.read_bytes() for path in made} == {llicm_cli.encode(crop)}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped weights, and an environment that --weights may change."""
    copy = tmp_path / "weights"
    shutil.copytree(folder(), copy)
    monkeypatch.setenv("LLICM_WEIGHTS", str(folder()))
    return copy


def test_models_lists_what_is_installed(llicm: Llicm):
    shown = llicm("models").stdout.decode().splitlines()
    assert [line.split()[0] for line in shown] == ["codec", "guide", "restorer"]
    cards = [json.loads(line) for line in llicm("models", "--json").stdout.splitlines()]
    assert all(card["model_id"] in line for card, line in zip(cards, shown, strict=True))


def test_other_weights_are_named_by_option_and_checked(llicm: Llicm, weights: Path, picture: Path):
    assert llicm("--weights", weights, "encode", picture).code == 0
    assert llicm("--weights", weights, "models").code == 0
    data = (weights / "restorer.safetensors").read_bytes()
    (weights / "restorer.safetensors").write_bytes(data[:-1])
    damaged = llicm("--weights", weights, "models")
    assert damaged.code == 5 and "restorer.safetensors is damaged" in damaged.stderr
    missing = llicm("--weights", weights / "nowhere", "models", "--json")
    assert missing.code == 5 and "no weights at" in one_line(missing)


@pytest.mark.parametrize("command", ["encode", "inspect"])
def test_an_interrupt_ends_with_130(picture: Path, command: str):
    code = (
        "import sys; from llicm_cli import pipeline; from llicm_cli.cli.main import run\n"
        "def interrupted(*_): raise KeyboardInterrupt\n"
        f"pipeline.{command} = interrupted\n"
        f"sys.argv = ['llicm', '{command}', {str(picture)!r}]\nrun()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 130 and run.stderr.splitlines() == ["llicm: interrupted"]
    assert names(picture.parent) == ["photo.png"]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RuntimeError("oops"), 1, "oops"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 3, "more memory than"),
        (MemoryError(), 3, "more memory than"),
    ],
)
def test_a_fault_of_ours_stops_neither_the_others_nor_says_more_than_a_line(
    llicm: Llicm, picture: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, words: str
):
    def faulty(*_: object) -> bytes:
        raise error

    monkeypatch.setattr("llicm_cli.pipeline.encode", faulty)
    result = llicm("encode", picture)
    assert result.code == code and words in one_line(result)


def test_a_name_that_no_file_can_have(llicm: Llicm, picture: Path, tmp_path: Path):
    impossible = tmp_path / ("x" * 300)
    result = llicm("encode", picture, "-o", impossible)
    assert result.code == 6 and "too long" in one_line(result)
    result = llicm("encode", picture, impossible, "--skip-existing")
    assert result.code == 3 and picture.with_suffix(".llic").exists(), "one bad name does not stop the others"


def test_a_name_that_is_no_text(llicm: Llicm, picture: Path, tmp_path: Path):
    stream = tmp_path / os.fsdecode(b"caf\xe9.llic")
    stream.write_bytes(llicm_cli.encode(Image.open(picture)))
    result = llicm("info", stream)
    assert result.code == 0 and rb"caf\udce9.llic" in result.stdout


def test_without_standard_output(picture: Path):
    result = subprocess.run(
        f"{sys.executable} -m llicm_cli encode {picture} -o - >&-", shell=True, capture_output=True, text=True
    )
    assert result.returncode == 6 and len(result.stderr.splitlines()) == 1


def test_overwriting_keeps_who_may_read(llicm: Llicm, picture: Path):
    out = picture.with_suffix(".llic")
    out.touch(0o600)
    assert llicm("encode", picture, "--overwrite").code == 0
    assert out.stat().st_mode & 0o777 == 0o600


def test_weights_are_loaded_once_for_all_threads():
    loaded: list[Path] = []

    @once("codec.safetensors")
    def load(path: Path) -> Path:
        time.sleep(0.05)
        loaded.append(path)
        return path

    shipped = folder() / "codec.safetensors"
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(load, [None, None, shipped, shipped])) == [shipped] * 4
    assert load() == shipped and loaded == [shipped]
