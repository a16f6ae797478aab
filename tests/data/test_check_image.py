"""An image that cannot be decoded is found when it is checked."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from levit_ablate.data.decoding import check_image

PIXELS = numpy.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=numpy.uint8)
PICTURE = Image.fromarray(PIXELS).resize((80, 60), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


WHOLE = {
    "baseline": encoded(PICTURE),
    "progressive": encoded(PICTURE, progressive=True),
    "gray": encoded(PICTURE.convert("L")),
    "cmyk": encoded(PICTURE.convert("CMYK")),
    "tiny": encoded(PICTURE.resize((5, 3))),
    "png": encoded(PICTURE, "PNG"),
    "palette": encoded(PICTURE.convert("P"), "PNG"),
    "webp": encoded(PICTURE, "WEBP"),
    "bmp": encoded(PICTURE, "BMP"),
    "tiff": encoded(PICTURE, "TIFF"),
    "ppm": encoded(PICTURE, "PPM"),
}
JPEGS = ["baseline", "progressive", "gray", "cmyk", "tiny"]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "image.jpg"


def whole_decoder_fails(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.convert("RGB")
    except Exception:
        return True
    return False


@pytest.mark.parametrize("kind", WHOLE)
def test_a_sound_image_passes_with_its_larger_side(kind, scratch):
    scratch.write_bytes(WHOLE[kind])
    checked = check_image(scratch)
    assert not checked.error
    assert checked.side == (5 if kind == "tiny" else 80)
    assert len(checked.digest) == 16


@pytest.mark.parametrize("mode", ["I", "F"])
def test_an_image_whose_values_have_no_known_range_cannot_be_used(mode, scratch):
    scratch.write_bytes(encoded(Image.new(mode, (8, 6), 300), "TIFF"))
    error = check_image(scratch).error
    assert f"unknown range (Pillow's mode {mode})" in error and "\n" not in error


def test_a_deep_image_has_another_digest_than_its_content_and_others_have_not(scratch):
    for content, is_deep in (
        (encoded(Image.new("I;16", (8, 6), 300), "PNG"), True),
        (WHOLE["png"], False),
    ):
        scratch.write_bytes(content)
        plain = hashlib.blake2b(content, digest_size=16).digest()  # as it was of all images
        assert (check_image(scratch).digest != plain) == is_deep


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(JPEGS), share=st.floats(0, 1, exclude_max=True))
def test_a_jpeg_that_ends_early_is_found_wherever_it_ends(kind, share, scratch):
    content = WHOLE[kind]
    scratch.write_bytes(content[: int(share * len(content))])
    assert check_image(scratch).error
    scratch.write_bytes(content[:-1])
    assert check_image(scratch).error


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    kept=st.floats(0, 1),
)
def test_what_is_found_is_what_the_whole_decoder_refuses(kind, changes, kept, scratch):
    content = bytearray(WHOLE[kind])
    for place, value in changes:
        content[int(place * len(content))] = value
    scratch.write_bytes(content[: int(kept * len(content))])
    checked = check_image(scratch)
    assert bool(checked.error) == whole_decoder_fails(scratch)
    assert "\n" not in checked.error


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<html>404</html>", "not an image"),
        (b"P6 30000 30000 255\n", "decompression bomb"),
        (WHOLE["baseline"][:1000], "truncated"),
        (WHOLE["png"][:-1000], "truncated"),
    ],
)
def test_a_reason_is_given_in_a_line(content, reason, scratch):
    scratch.write_bytes(content)
    error = check_image(scratch).error
    assert reason in error and "\n" not in error and "object at 0x" not in error


def test_what_is_no_readable_file_is_found_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    (tmp_path / "folder.jpg").mkdir()
    reasons = {path.stem: check_image(path).error for path in tmp_path.iterdir()}
    assert reasons["pipe"] == reasons["folder"] == "not a file"
    assert reasons["dangling"] == "No such file or directory"
    assert "symbolic links" in reasons["circle"]
