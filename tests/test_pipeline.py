"""Encode and decode real photographs with the shipped weights."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from conftest import psnr
from PIL import Image

import llicm_cli
from llicm_cli import bitstream, coding, pipeline, refine
from llicm_cli.errors import BitstreamError, InputError, ModelError, TargetError, UsageError
from llicm_cli.models.distortion import distortion


def test_rate_and_quality_rise_with_lambda(photo: Image.Image):
    lambdas = np.geomspace(0.001, 0.1, 9)
    streams = [llicm_cli.encode(photo, float(lmbda)) for lmbda in lambdas]
    sizes = [len(s) for s in streams]
    qualities = [psnr(photo, llicm_cli.decode(s)) for s in streams]
    assert sizes == sorted(set(sizes)), "size must rise strictly"
    assert qualities == sorted(set(qualities)), "PSNR must rise strictly"
    assert sizes[-1] > 5 * sizes[0] and qualities[-1] > qualities[0] + 8


def test_it_beats_jpeg_at_equal_size(photo: Image.Image, tmp_path):
    stream = llicm_cli.encode(photo, 0.01)
    for quality in range(95, 1, -1):  # the best JPEG that is no smaller than ours
        photo.save(tmp_path / "x.jpg", quality=quality, optimize=True)
        if (tmp_path / "x.jpg").stat().st_size <= len(stream):
            break
    assert psnr(photo, llicm_cli.decode(stream)) > psnr(photo, Image.open(tmp_path / "x.jpg")) + 1


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 1), (15, 17), (16, 16), (65, 64), (100, 129)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_size_and_mode_survives(crop: Image.Image, size: tuple[int, int], mode: str):
    picture = crop.resize(size).convert(mode)
    decoded = llicm_cli.decode(llicm_cli.encode(picture, 0.1))
    assert (decoded.size, decoded.mode) == (size, mode)
    assert psnr(picture, decoded) > 28


def test_encoding_is_deterministic(crop: Image.Image):
    assert llicm_cli.encode(crop) == llicm_cli.encode(crop)


@pytest.mark.parametrize("share", [0.5, 1.0, 2.0])
def test_a_target_size_is_met_within_3_percent(photo: Image.Image, share: float):
    target = round(share * len(llicm_cli.encode(photo, 0.01)))
    assert len(llicm_cli.encode_to_size(photo, target)) == pytest.approx(target, rel=0.03)


@pytest.mark.parametrize("size", [40, 10_000_000])
def test_an_unreachable_target_is_told(crop: Image.Image, size: int):
    with pytest.raises(TargetError, match=f"cannot reach {size} bytes"):
        llicm_cli.encode_to_size(crop, size)


def test_a_size_must_be_positive(crop: Image.Image):
    with pytest.raises(UsageError, match="0 bytes"):
        llicm_cli.encode_to_size(crop, 0)


def test_an_unreachable_target_is_not_searched_for(crop: Image.Image, monkeypatch: pytest.MonkeyPatch):
    rates = []
    encode_pixels = pipeline.encode_pixels

    def watched(*arguments: Any) -> tuple[bytes, int]:
        rates.append(arguments[4])
        return encode_pixels(*arguments)

    monkeypatch.setattr(pipeline, "encode_pixels", watched)
    with pytest.raises(TargetError):
        llicm_cli.encode_to_size(crop, 100)
    assert len(rates) == 2


def cost(stream: bytes, picture: Image.Image, lmbda: float) -> float:
    """What an encoder is to minimise, a pixel."""
    shown, wanted = (coding.to_unit(pipeline.to_pixels(p))[None] for p in (llicm_cli.decode(stream), picture))
    error = float(distortion(shown, wanted))
    return 8 * len(stream) / (picture.width * picture.height) + lmbda * 255**2 * error


def test_effort_pays_in_the_same_format(photo: Image.Image, monkeypatch: pytest.MonkeyPatch):
    plain, searched = (cost(llicm_cli.encode(photo, 0.01, effort=effort), photo, 0.01) for effort in (0, 8))
    assert searched < 0.985 * plain
    monkeypatch.setattr(refine, "TILE", 8)  # the same in small tiles
    assert cost(llicm_cli.encode(photo, 0.01, effort=8), photo, 0.01) < 1.005 * searched


def test_effort_is_limited(crop: Image.Image):
    for effort in (-1, 65):
        with pytest.raises(UsageError, match=r"0 \.\. 64"):
            llicm_cli.encode(crop, effort=effort)
        with pytest.raises(UsageError, match=r"0 \.\. 64"):
            llicm_cli.encode_to_size(crop, 3000, effort=effort)


def test_sizes_are_limited_before_anything_is_allocated(crop: Image.Image):
    stream = bitstream.parse(llicm_cli.encode(crop))
    huge = bitstream.write(dataclasses.replace(stream, width=2**31, height=2**31))
    with pytest.raises(BitstreamError, match="268435456 pixels"):
        llicm_cli.decode(huge)
    with pytest.raises(BitstreamError, match="limit of 100 pixels"):
        llicm_cli.decode(llicm_cli.encode(crop), max_pixels=100)
    long = llicm_cli.encode(crop.resize((32769, 1)))
    with pytest.raises(BitstreamError, match="32768 a side"):
        llicm_cli.decode(long)
    assert llicm_cli.decode(long, max_pixels=2**29).size == (32769, 1)


def test_what_the_order_of_symbols_depends_on_stays():
    assert (coding.BAND_PIXELS, coding.STREAM_SYMBOLS) == (2**22, 2**21)
    assert coding.bands(300, 250) == [(0, 64), (64, 128), (128, 192), (192, 256), (256, 300)]
    assert coding.bands(1, 2048) == [(0, 1)]


@pytest.mark.parametrize("size", [(256, 192), (250, 130), (1, 300), (200, 64)])
def test_bands_leave_symbols_and_pixels_as_they_are(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
):
    picture = photo.resize(size)
    whole = bitstream.parse(llicm_cli.encode(picture, 0.05))
    shown = llicm_cli.decode(bitstream.write(whole))
    monkeypatch.setattr(coding, "BAND_PIXELS", 64 * 256)
    monkeypatch.setattr(coding, "STREAM_SYMBOLS", 5000)
    banded = bitstream.parse(llicm_cli.encode(picture, 0.05))
    again = llicm_cli.decode(bitstream.write(banded))
    assert (banded.payload == whole.payload) == (size[1] <= 64)
    difference = np.abs(np.asarray(again).astype(int) - np.asarray(shown))
    assert (difference > 0).mean() < 0.001
    if size[1] > 64:
        for payload in (banded.payload[:-1], whole.payload, banded.payload[4:], b"\xff" * 20):
            with pytest.raises(BitstreamError, match="damaged"):
                llicm_cli.decode(bitstream.write(dataclasses.replace(banded, payload=payload)))


@pytest.mark.parametrize("lmbda", [0.0, 1.0, float("nan")])
def test_a_lambda_out_of_range_is_refused(crop: Image.Image, lmbda: float):
    with pytest.raises(UsageError, match="lambda"):
        llicm_cli.encode(crop, lmbda)


def test_a_mode_that_would_lose_something_is_refused(crop: Image.Image):
    with pytest.raises(InputError, match="CMYK"):
        llicm_cli.encode(crop.convert("CMYK"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_lossless_and_metadata_stay(crop: Image.Image, mode: str):
    picture = crop.convert(mode)
    picture.putalpha(Image.linear_gradient("L").resize(crop.size))
    kept = {"icc_profile": b"profile", "exif": b"Exif\0\0II*\0", "xmp": b"<x/>"}
    picture.info = dict(kept, comment="not kept")
    for result in (llicm_cli.decode(llicm_cli.encode(picture, 0.05)), llicm_cli.enhance(picture, "denoise")):
        assert result.mode == mode and np.array_equal(result.getchannel("A"), picture.getchannel("A"))
        assert {k: v for k, v in result.info.items() if k != "llicm"} == kept
        assert psnr(picture.convert("RGB"), result.convert("RGB")) > 25


def test_transparency_carries_no_profile_of_its_own(crop: Image.Image):
    picture = crop.convert("RGBA")
    picture.info = {"icc_profile": np.random.default_rng(0).bytes(50_000)}
    stream = bitstream.parse(llicm_cli.encode(picture))
    assert len(stream.metadata["icc"]) == 50_000 and len(stream.alpha) < 1000


def test_transparency_is_not_held_to_the_limits_of_pillow(crop: Image.Image, monkeypatch: pytest.MonkeyPatch):
    data = llicm_cli.encode(crop.convert("RGBA"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert llicm_cli.decode(data).mode == "RGBA" and Image.MAX_IMAGE_PIXELS == 100


def test_exif_of_a_result_can_be_handed_to_pillow(crop: Image.Image):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x010F] = "maker"
    picture = crop.copy()
    picture.info["exif"] = exif.tobytes()
    decoded = llicm_cli.decode(llicm_cli.encode(picture))
    decoded.save(file, "JPEG", exif=decoded.info["exif"])
    assert Image.open(file).getexif()[0x010F] == "maker"


def test_metadata_are_stored_as_documented(crop: Image.Image):
    picture = crop.copy()
    picture.info = {"exif": b"Exif\0\0II*\0", "xmp": "<x/>"}
    assert bitstream.parse(llicm_cli.encode(picture)).metadata == {"exif": b"II*\0", "xmp": b"<x/>"}
    picture.info = {"icc_profile": bytes(2**24 + 1)}
    with pytest.raises(InputError, match="limit"):
        llicm_cli.encode(picture)


def test_a_payload_far_too_long_is_refused_before_it_is_copied(crop: Image.Image):
    stream = bitstream.parse(llicm_cli.encode(crop))
    long = dataclasses.replace(stream, payload=stream.payload + bytes(2**24))
    with pytest.raises(BitstreamError, match="too long"):
        llicm_cli.decode(bitstream.write(long))


def test_a_foreign_transparency_is_told(crop: Image.Image):
    stream = bitstream.parse(llicm_cli.encode(crop))
    other = pipeline._pack_alpha(crop.resize((7, 7)).convert("LA"))
    for alpha, words in (
        (other, "another size"),
        (other[:60], "transparency"),
        (b"GIF89a", "cannot be read"),
    ):
        with pytest.raises(BitstreamError, match=words):
            llicm_cli.decode(bitstream.write(dataclasses.replace(stream, alpha=alpha)))


def test_other_weights_are_named(crop: Image.Image):
    stream = bitstream.parse(llicm_cli.encode(crop))
    foreign = bitstream.write(dataclasses.replace(stream, model=b"\xab\xcd\xef\x01"))
    with pytest.raises(ModelError, match="abcdef01"):
        llicm_cli.decode(foreign)


def test_a_damaged_payload_under_a_right_file_checksum_is_told(crop: Image.Image):
    stream = bitstream.parse(llicm_cli.encode(crop))
    rng = np.random.default_rng(0)
    for _ in range(10):
        payload = bytearray(stream.payload)
        payload[rng.integers(len(payload))] ^= 1 << int(rng.integers(8))
        with pytest.raises(BitstreamError, match="symbols|no valid beginning"):
            llicm_cli.decode(bitstream.write(dataclasses.replace(stream, payload=bytes(payload))))


@pytest.mark.parametrize("field", [{"width": 2000}, {"height": 2000}, {"rate": 0}, {"payload": b""}])
def test_header_fields_that_do_not_fit_the_payload_are_told(crop: Image.Image, field: dict[str, object]):
    stream = bitstream.parse(llicm_cli.encode(crop))
    with pytest.raises(BitstreamError, match="symbols|no valid beginning"):
        llicm_cli.decode(bitstream.write(dataclasses.replace(stream, **field)))


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="transmogrify"):
        llicm_cli.transmogrify  # noqa: B018


def test_pillows_own_limit_of_pixels_does_not_count(photo: Image.Image, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert (pipeline.to_pixels(photo, 16, 80) == pipeline.to_pixels(photo)[:, 16:80]).all()
