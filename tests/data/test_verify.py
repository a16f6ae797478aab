"""What cannot be trained on is found beforehand, by processes that leave nothing behind."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from levit_ablate.data import verify
from levit_ablate.data.verify import CHUNK, check_image, check_images
from levit_ablate.errors import RunError

PIXELS = numpy.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=numpy.uint8)
PICTURE = Image.fromarray(PIXELS).resize((80, 60), Image.Resampling.BICUBIC)
needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")


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


@pytest.fixture
def many(tmp_path) -> list[bytes]:
    """The names of more images than are checked without processes, every seventh of them broken."""
    kinds = sorted(WHOLE)
    for number in range(5 * CHUNK):
        content = WHOLE[kinds[number % len(kinds)]]
        (tmp_path / f"{number:04}.jpg").write_bytes(content[: 30 if number % 7 == 0 else None])
    return sorted(os.fsencode(path.name) for path in tmp_path.iterdir())


@pytest.mark.parametrize("num_workers", [1, 3])
def test_processes_give_what_one_after_another_gives_in_order(num_workers, many, tmp_path):
    expected = [check_image(tmp_path / os.fsdecode(name)) for name in many]
    assert list(check_images(tmp_path, iter(many), len(many), num_workers)) == expected
    assert [bool(each.error) for each in expected] == [n % 7 == 0 for n in range(len(many))]
    assert list(check_images(tmp_path, iter(many[:9]), 9, num_workers)) == expected[:9]


def test_where_no_process_can_be_started_it_is_said_in_a_line(many, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    with pytest.raises(RunError, match="no process can be started to check images"):
        next(check_images(tmp_path, iter(many), len(many)))


def checkers(root: Path) -> list[int]:
    """The processes that check images in a folder."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if os.fsencode(root) in words and any(b"_serve" in word for word in words):
                found.append(int(folder.name))
    return found


def wait_until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.01)


@needs_proc
def test_a_process_that_dies_is_an_error_in_a_line_and_takes_the_others_along(many, tmp_path):
    checks = check_images(tmp_path, iter(many * 50), 50 * len(many), num_workers=2)
    next(checks)
    os.kill(checkers(tmp_path)[0], signal.SIGKILL)
    with pytest.raises(
        RunError, match=r"from \d{4}.jpg to \d{4}.jpg died \(exit code -9\)"
    ) as caught:
        list(checks)
    assert "\n" not in str(caught.value)
    assert not checkers(tmp_path)


@needs_proc
def test_closing_ends_the_processes_at_once(many, tmp_path):
    checks = check_images(tmp_path, iter(many * 50), 50 * len(many), num_workers=2)
    next(checks)
    assert len(checkers(tmp_path)) == 2
    started = time.monotonic()
    checks.close()
    assert not checkers(tmp_path)
    assert time.monotonic() - started < 2


@needs_proc
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_processes_do_not_outlive_a_script_that_needs_no_guard(end, many, tmp_path):
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from levit_ablate.data.verify import check_images\n"
        "root = Path(sys.argv[1])\n"
        "names = sorted(os.fsencode(path.name) for path in root.iterdir()) * 500\n"
        "for number, checked in enumerate(check_images(root, iter(names), len(names), 2)):\n"
        "    if number == 100: print('at work', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-", tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(verify.__file__).parents[2],
    ) as process:
        process.stdin.write(script.encode())
        process.stdin.close()
        assert process.stdout.readline() == b"at work\n"
        assert len(checkers(tmp_path)) == 2
        process.send_signal(end)
        process.wait(5)
    assert process.returncode in (-end, 130)
    wait_until(lambda: not checkers(tmp_path), seconds=5)
