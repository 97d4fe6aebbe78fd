"""The benchmark: its numbers mean what they say, its files can be gone on with, its report stands alone."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import Result, photograph
from PIL import Image, ImageFilter

from llicm_cli import pipeline
from llicm_cli.bench import codecs, metrics
from llicm_cli.bench.curves import Points, bd_rate, bootstrapped, quality
from llicm_cli.bench.measure import Plan, decoded, encoded, load_results
from llicm_cli.bench.niqe import load as load_pristine
from llicm_cli.bench.niqe import niqe, statistics
from llicm_cli.bench.report import published_curves
from llicm_cli.bench.sets import PictureSet
from llicm_cli.errors import InputError, UsageError
from llicm_cli.tasks import NONE

Llicm = Callable[..., Result]

# PSNR-RGB over bits a pixel on Kodak, as published with CompressAI (results/image/kodak).
HYPERPRIOR = (
    [0.1313, 0.2089, 0.3199, 0.4784, 0.6687, 0.9388, 1.2592, 1.6602],
    [27.581, 29.197, 30.972, 32.838, 34.526, 36.743, 38.584, 40.557],
)
VTM = (
    [0.0482, 0.1125, 0.2458, 0.4905, 0.8748, 1.4308, 2.3246, 3.6326],
    [26.145, 28.493, 31.2, 34.261, 37.42, 40.424, 43.506, 46.592],
)


def curve(rates: list[float], qualities: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(rates), np.array(qualities)


BASE = curve([0.1, 0.2, 0.4, 0.8, 1.2], [27.0, 29.1, 31.6, 34.3, 36.0])


def test_a_codec_against_itself_saves_nothing():
    assert bd_rate(BASE, BASE).value == pytest.approx(0, abs=1e-9)


def test_ten_percent_more_bits_are_ten_percent():
    assert bd_rate(BASE, (BASE[0] * 1.1, BASE[1])).value == pytest.approx(10, abs=0.01)
    assert str(bd_rate(BASE, (BASE[0] * 1.1, BASE[1]))) == "+10.0"


def test_published_curves_differ_by_what_is_published():
    assert bd_rate(curve(*VTM), curve(*HYPERPRIOR)).value == pytest.approx(30.5, abs=1)


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (curve([0.1, 0.2, 0.4], [27, 29, 31]), "its curve has fewer than 4 rising points"),
        (curve([0.1, 0.2, 0.4, 0.8], [27, 29, 31, 30.9]), "its curve has fewer than 4 rising points"),
        (curve([0.1, 0.2, 0.4, 0.8], [27, 29, np.nan, 33]), "not measured"),
        (curve([1, 2, 3, 4], [35, 37, 39, 41]), "too little overlap"),
        (curve([1, 2, 3, 4], [36, 37, 39, 41]), "better at its worst than the anchor at its best"),
        (curve([1, 2, 3, 4], [21, 23, 25, 27]), "worse at its best than the anchor at its worst"),
    ],
)
def test_a_number_that_would_mean_nothing_is_not_given(test: tuple[np.ndarray, np.ndarray], reason: str):
    rate = bd_rate(BASE, test)
    assert rate.value is None and str(rate) == f"n/a ({reason})"


def test_settings_that_cost_more_and_give_no_more_do_not_count():
    worse = curve([*BASE[0] * 1.1, 0.9, 2.0, 3.0], [*BASE[1], 30.0, 36.0, 35.9])
    assert bd_rate(BASE, worse).value == pytest.approx(10, abs=0.01)


def test_pictures_that_disagree_give_no_number():
    factors = np.array([0.3, 0.4, 2.0, 3.0])[:, None]
    anchor = Points(np.broadcast_to(BASE[0], (4, 5)), np.broadcast_to(BASE[1], (4, 5)), "psnr", "higher")
    rate = bootstrapped(anchor, Points(BASE[0] * factors, anchor.values, "psnr", "higher"))
    assert rate.value is None and str(rate).startswith("n/a (pictures disagree: -")


def test_points_may_come_in_any_order():
    order = [3, 0, 4, 1, 2]
    assert bd_rate(BASE, (BASE[0][order] * 1.1, BASE[1][order])).value == pytest.approx(10, abs=0.01)


def test_the_interval_covers_pictures_that_differ():
    rng = np.random.default_rng(0)
    shifts = np.linspace(0.8, 1.0, 12)[:, None]
    values = np.broadcast_to(BASE[1], (12, 5)) + rng.normal(0, 1, (12, 1))
    anchor = Points(np.broadcast_to(BASE[0], (12, 5)), values, "psnr", "higher")
    test = Points(BASE[0] * shifts, values, "psnr", "higher")
    rate = bootstrapped(anchor, test)
    assert rate.low is not None and rate.high is not None and rate.value is not None
    assert rate.value == pytest.approx(-10, abs=0.5)
    assert -20 < rate.low < rate.value - 1 and rate.value + 1 < rate.high < 0
    few = bootstrapped(*(Points(p.bpp[::3], p.values[::3], "psnr", "higher") for p in (anchor, test)))
    assert few.value is not None and few.low is None and few.high is None
    same = bootstrapped(anchor, Points(0.9 * anchor.bpp, values, "psnr", "higher"))
    assert same.low == pytest.approx(-10, abs=0.01) and same.high == pytest.approx(-10, abs=0.01)


def test_lower_is_better_turns_the_axis_and_ms_ssim_goes_to_decibels():
    assert list(quality(np.array([0.3, 0.2]), "lpips", "lower")) == [-0.3, -0.2]
    assert quality(np.array([0.99]), "ms_ssim", "higher")[0] == pytest.approx(20)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return photograph("astronaut").crop((100, 40, 355, 233))  # odd sides


@pytest.mark.parametrize("name", [n for n, c in codecs.CODECS.items() if c.version() is not None])
def test_every_codec_makes_larger_and_better_files_at_later_settings(name: str, picture: Image.Image):
    codec = codecs.CODECS[name]
    assert len(codec.settings) >= 6
    low, high = codec.settings[1], codec.settings[-2]
    files = [codec.encode(picture, setting) for setting in (low, high)]
    assert len(files[0]) < len(files[1])
    shown = [codec.decode(data) for data in files]
    assert all(s.size == picture.size and s.mode == "RGB" for s in shown)
    worse, better = (metrics.psnr(s, picture) for s in shown)
    assert 20 < worse < better - 3


def test_pictures_that_a_codec_cannot_hold_are_named_and_others_measured(
    llicm: Llicm, picture: Image.Image, tmp_path: Path
):
    (tmp_path / "in").mkdir()
    for name, size in {"long": (16400, 11), "high": (11, 16400)}.items():
        Image.new("RGB", size).save(tmp_path / "in" / f"{name}.png")
    picture.save(tmp_path / "in" / "well.png")
    result = llicm("bench", "rd", tmp_path / "in", "-o", tmp_path / "x.json", "--codec", "webp")
    assert result.code == 3 and "Traceback" not in result.stderr
    assert re.search(r"webp on (long|high).png: .*; 1 more failed$", result.stderr.strip())
    assert list(load_results(tmp_path / "x.json")["codecs"]["webp"]["pictures"]) == ["well.png"]


def test_rates_span_what_matters(picture: Image.Image):
    for name, codec in codecs.choose(None).items():
        ends = codec.settings[0], codec.settings[-1]
        least, most = (encoded(name, codec, picture, setting, NONE, None) for setting in ends)
        assert 8 * len(least) / (picture.width * picture.height) < 0.35, name
        assert metrics.psnr(decoded(name, codec, most, NONE, None), picture) > 38, name


def test_the_anchors_that_pillow_and_its_plugins_give_are_there():
    assert {"llicm", "jpeg", "jpeg2000", "webp", "avif", "jxl", "heic"} <= set(codecs.choose(None))


def test_a_model_of_the_zoo_counts_only_with_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Image.Image
):
    from compressai.zoo import bmshj2018_factorized
    from compressai.zoo.image import model_urls

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    assert "zoo-bmshj2018-factorized" not in codecs.known()
    torch.manual_seed(0)
    model = bmshj2018_factorized(quality=1)
    model.update()
    file = tmp_path / "checkpoints" / model_urls["bmshj2018-factorized"]["mse"][1].rpartition("/")[2]
    file.parent.mkdir()
    torch.save(model.state_dict(), file)
    codec = codecs.choose(["zoo-bmshj2018-factorized"])["zoo-bmshj2018-factorized"]
    assert codec.settings == (1.0,)
    assert codec.decode(codec.encode(picture, 1)).size == picture.size


def test_vvc_is_used_where_its_programs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Image.Image
):
    for name, source, target in (("vvencapp", "-i", "-o"), ("vvdecapp", "-b", "-o")):
        program = tmp_path / name  # copies instead of coding
        program.write_text(
            f'#!/bin/sh\nwhile [ $# -gt 0 ]; do case "$1" in {source}) a=$2;; {target}) b=$2;; esac; shift; '
            'done\ncp "$a" "$b"\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    codec = codecs.choose(["vvc"])["vvc"]
    back = codec.decode(codec.encode(picture, 30))
    assert back.size == picture.size and metrics.psnr(back, picture) > 30


def test_equal_pictures_are_perfect_and_noise_is_not(picture: Image.Image, squeezenet: Path):
    noise = np.random.default_rng(0).normal(0, 20, (*picture.size[::-1], 3))
    noisy = Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
    measured = metrics.meters(squeezenet)
    assert set(measured) >= {"psnr", "ssim", "ms_ssim", "squeezenet"}
    perfect = {"psnr": 100.0, "ssim": 1.0, "ms_ssim": 1.0, "squeezenet": 0.0}
    for name, best in perfect.items():
        assert measured[name](picture, picture) == pytest.approx(best, abs=1e-6)
        value = measured[name](noisy, picture)
        assert value is not None
        sign = 1 if metrics.METRICS[name].better == "higher" else -1
        assert sign * (best - value) > 0.01


def test_niqe_likes_photographs_better_than_noise_and_blur():
    rows = np.arange(7) - 3
    bell = np.exp(-(rows**2) / (2 * (7 / 6) ** 2))
    window = np.outer(bell, bell) / bell.sum() ** 2
    found = np.concatenate([statistics(photograph(n), window) for n in ("coffee", "chelsea")])
    pristine = (found.mean(0), np.cov(found.T), window)
    photo = photograph("astronaut")
    noise = np.random.default_rng(0).normal(0, 30, (*photo.size[::-1], 3))
    noisy = Image.fromarray((np.asarray(photo) + noise).clip(0, 255).astype(np.uint8))
    scores = [niqe(p, pristine) for p in (photo, noisy, photo.filter(ImageFilter.GaussianBlur(2)))]
    assert all(s is not None for s in scores)
    assert scores[0] < 0.8 * min(scores[1:])  # type: ignore[type-var,operator]
    assert niqe(photo.crop((0, 0, 90, 90)), pristine) is None
    photo.paste("grey", (0, 0, 384, 384))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert niqe(photo, pristine) is not None, "of the blocks that are not flat"


@pytest.mark.skipif("LLICM_METRIC_FILES" not in os.environ, reason="names a folder with niqe_pris_params.npz")
def test_niqe_agrees_with_pyiqa():
    pristine = load_pristine(Path(os.environ["LLICM_METRIC_FILES"]) / metrics.NIQE_FILE)
    known = {"astronaut": 3.0628, "coffee": 4.0592, "chelsea": 2.5721}  # pyiqa 0.1.16
    for name, value in known.items():
        assert niqe(photograph(name), pristine) == pytest.approx(value, abs=0.01)


def test_a_fingerprint_tells_pictures_degradations_and_metric_files_apart(
    picture: Image.Image, squeezenet: Path, tmp_path: Path
):
    for name, shown in (("a", picture), ("b", picture), ("c", picture.rotate(90))):
        (tmp_path / name).mkdir()
        shown.save(tmp_path / name / "1.png")

    def fingerprint(folder: str, files: Path | None = None, **kind: Any) -> str:
        return Plan(PictureSet(tmp_path / folder, **kind), metric_files=files).fingerprint

    assert fingerprint("a") == fingerprint("b")
    noisy = {"task": "denoise", "sigma": 25}
    others = [fingerprint("c"), fingerprint("a", **noisy), fingerprint("a", squeezenet)]
    assert len({fingerprint("a"), *others}) == 4


def test_a_grey_picture_is_degraded_as_by_degrade(picture: Image.Image, tmp_path: Path):
    grey, path = picture.convert("L"), tmp_path / "1.png"
    grey.save(path)
    wrong, right = PictureSet(tmp_path, "denoise", seed=3).pair(path)
    assert np.array_equal(wrong, pipeline.degrade(grey, "denoise", 3).convert("RGB"))
    assert np.array_equal(right, grey.convert("RGB"))
    noisy, _ = PictureSet(tmp_path, "denoise", sigma=25).pair(path)
    red, green, blue = map(np.asarray, noisy.split())
    assert np.array_equal(red, green) and np.array_equal(red, blue)


def test_features_that_take_other_pictures_are_refused(squeezenet: Path, tmp_path: Path):
    weights = safetensors.torch.load_file(squeezenet / metrics.SQUEEZENET_FILE)
    safetensors.torch.save_file(weights, tmp_path / metrics.SQUEEZENET_FILE)
    with pytest.raises(InputError, match="does not say"):
        metrics.meters(tmp_path)


def test_metric_files_must_be_what_they_seem(tmp_path: Path):
    with pytest.raises(InputError, match="holds neither"):
        metrics.meters(tmp_path)
    whole = io.BytesIO()
    np.savez(whole, mu_pris_param=np.zeros(36))
    for damaged in (b"no", b"", whole.getvalue()[:-9], whole.getvalue()):
        (tmp_path / metrics.NIQE_FILE).write_bytes(damaged)
        with pytest.raises(InputError, match="not a file of NIQE"):
            metrics.meters(tmp_path)
    with pytest.raises(UsageError, match="pyiqa"):
        metrics.meters(None, ("vmaf",))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "kodak"
    folder.mkdir()
    for name in ("astronaut", "coffee"):
        photograph(name).crop((130, 60, 306, 228)).save(folder / f"{name}.png")
    return folder


def test_rate_perception_is_measured_gone_on_with_and_reported(llicm: Llicm, photos: Path, tmp_path: Path):
    file = tmp_path / "rp.json"
    command = ("bench", "rp", photos, "--task", "denoise", "--sigma", "25", "-o", file)
    first = llicm(*command, "--codec", "jpeg", "--codec", "llicm", "--jobs", "1")
    assert (first.code, first.stdout, first.stderr) == (0, b"", "")
    results = json.loads(file.read_text())
    assert results["set"] == "kodak" and results["inputs"] == "Gaussian noise of sigma 25, seed 0+i"
    reference = results["reference"]
    for name in results["pictures"]:
        assert reference["restored"][name]["psnr"] > reference["input"][name]["psnr"] + 2
        for codec in results["codecs"].values():
            row = codec["pictures"][name]
            assert row["bpp"] == sorted(row["bpp"]) and len(row["bpp"]) == len(codec["settings"])
            assert row["psnr"][-2] > reference["input"][name]["psnr"] + 1  # it was restored
    del results["codecs"]["jpeg"]["pictures"]["coffee.png"]
    cut = tmp_path / "cut.json"
    cut.write_text(json.dumps(results))
    again = llicm(*command[:-1], cut, "--codec", "jpeg", "--jobs", "1", "--json")
    assert json.loads(again.stdout) == json.loads(cut.read_text()) == json.loads(file.read_text())

    shown = llicm("bench", "report", file, "--test", "jpeg").stdout.decode()
    assert "### BD-rate of jpeg (%)" in shown and "| llicm | " in shown
    report = tmp_path / "report"
    assert llicm("bench", "report", file, "-o", report, "--pictures", photos.parent).code == 0
    page = (report / "report.html").read_text()
    assert (report / "report.md").read_text().startswith("# Benchmark")
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "<script" not in page
    captions = re.findall(r"<figcaption>([^<]+)", page)
    assert captions[0] == "input" and captions[-1] == "ideal" and len(captions) == 4
    rates = [float(c.split(", ")[1].split()[0]) for c in captions[1:-1]]
    assert max(rates) < 1.15 * min(rates)  # equal rate
    assert page.count("<svg") == 3

    alone = json.loads(file.read_text()) | {"set": "other"}
    del alone["codecs"]["jpeg"]
    cut.write_text(json.dumps(alone))
    assert llicm("bench", "report", file, cut, "-o", report).code == 0
    strokes = re.findall(r"stroke: (#\w+); stroke-width: 2.5", (report / "report.html").read_text())
    assert len(strokes) >= 6 and len(set(strokes)) == 1, "a codec has one colour in all plots"

    other = llicm("bench", "rp", photos, "--task", "derain", "-o", file, "--codec", "jpeg")
    assert other.code == 2 and "holds results of another task" in other.stderr
    for key, value in (("pictures", ["astronaut.png"]), ("head", "00000000"), ("fingerprint", "00000000")):
        wrong = tmp_path / f"{key}.json"
        wrong.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
        merged = llicm("bench", "report", file, wrong)
        assert merged.code == 2 and f"other {key}" in merged.stderr
        measured = llicm(*command[:-1], wrong, "--codec", "webp")
        assert measured.code == 2 and f"another {key}" in measured.stderr
    older = json.loads(file.read_text())
    older["codecs"]["jpeg"]["version"] = "an older one"
    cut.write_text(json.dumps(older))
    assert llicm("bench", "report", cut, "-o", tmp_path / "old", "--pictures", photos.parent).code == 0
    captions = re.findall(r"<figcaption>([^<]+)", (tmp_path / "old" / "report.html").read_text())
    assert [c.split(",")[0] for c in captions] == ["input", "llicm", "ideal"], "of what can be made again"
    again = llicm(*command[:-1], cut, "--codec", "jpeg")
    assert again.code == 2 and "another version" in again.stderr
    assert json.loads(cut.read_text()) == older, "nothing that was measured is lost"


def test_published_curves_stand_beside_measured_ones(llicm: Llicm, photos: Path, tmp_path: Path):
    file, published = tmp_path / "rd.json", tmp_path / "published.json"
    assert (
        llicm("bench", "rd", photos, "-o", file, "--codec", "jpeg", "--as", "mine", "--jobs", "1").code == 0
    )
    results = json.loads(file.read_text())
    rows = results["codecs"]["mine"]["pictures"]
    assert list(results["codecs"]) == ["mine"] and len(rows) == 2
    rates, psnrs = HYPERPRIOR
    published.write_text(json.dumps({"curves": {"hyperprior": {"bpp": rates, "psnr_rgb": psnrs}}}))

    def report(*options: str) -> bytes:
        return llicm("bench", "report", file, "--published", published, "--test", "mine", *options).stdout

    assert "hyperprior" not in report().decode(), "of other pictures"
    results["pictures"] = [f"kodim{i:02d}.png" for i in range(1, 25)]
    results["codecs"]["mine"]["pictures"] = dict(
        zip(results["pictures"], 12 * list(rows.values()), strict=True)
    )
    file.write_text(json.dumps(results))
    shown = report().decode()
    numbers = json.loads(report("--json"))
    entry = next(n for n in numbers if n["metric"] == "psnr" and n["against"] == "hyperprior (published)")
    assert entry["test"] == "mine" and entry["value"] > 20
    nobody = llicm("bench", "report", file, "--test", "nobody")
    assert nobody.code == 2 and "there are mine" in nobody.stderr
    row = next(line for line in shown.splitlines() if line.startswith("| hyperprior (published) | +"))
    assert float(row.split("|")[2]) == pytest.approx(entry["value"], abs=0.06)  # JPEG needs more


@pytest.mark.parametrize(
    "curves", [[], 1, {"a": 1}, {"a": {"psnr_rgb": [30]}}, {"a": {"bpp": [1, 2], "psnr_rgb": [30]}}]
)
def test_what_are_no_published_curves_is_refused(tmp_path: Path, curves: object):
    (tmp_path / "curves.json").write_text(json.dumps({"curves": curves}))
    with pytest.raises(InputError, match="curves.json: not a file of published curves"):
        published_curves(tmp_path / "curves.json")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("rd", "{photos}", "-o", "{new}", "--codec", "gif"), 2, "unknown codec 'gif'"),
        (("rd", "{photos}", "-o", "{new}", "--codec", "llicm-rpo"), 2, "llicm-rpo"),
        (("rd", "{empty}", "-o", "{new}"), 2, "holds no pictures"),
        (("rd", "{photos}/nowhere", "-o", "{new}"), 3, "nowhere"),
        (("rd", "{photos}", "-o", "{new}/x/y.json", "--codec", "jpeg"), 6, "does not exist"),
        (("rp", "{photos}", "-o", "{new}", "--task", "defrost"), 2, "unknown task"),
        (("rp", "{photos}", "-o", "{new}", "--task", "derain", "--sigma", "9"), 2, "--sigma"),
        (("rd", "{photos}", "-o", "{new}", "--as", "x"), 2, "--as"),
        (("rd", "{photos}", "-o", "{new}", "--codec", "jpeg", "--as", "reference"), 2, "--as"),
        (("report", "{photos}/coffee.png"), 3, "coffee.png: not JSON"),
        (("report", "{photos}/none.json"), 3, "none.json: No such file"),
        (("report", "{odd}"), 3, "odd.json: no results"),
        (("rd", "{photos}", "-o", "{empty}", "--codec", "jpeg"), 6, "empty: is a folder"),
    ],
)
def test_wrong_benchmarks_end_in_one_line(
    llicm: Llicm, photos: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.json").write_text("[]")
    places = {
        name: tmp_path / file
        for name, file in {"empty": "empty", "new": "new.json", "odd": "odd.json"}.items()
    }
    places["photos"] = photos
    result = llicm("bench", *(a.format(**places) for a in arguments))
    lines = result.stderr.splitlines()
    assert result.code == code and len(lines) == 1 and words in lines[0] and "Traceback" not in lines[0]
    assert not (tmp_path / "new.json").exists()
