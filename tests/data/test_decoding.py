"""Pixels are those of torchvision's loader, but that deep images are scaled and not clipped."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import default_loader

from levit_ablate.config import Data, Hardware, Recipe
from levit_ablate.data import folder_index, splits
from levit_ablate.data.datamodule import ImageData
from levit_ablate.data.decoding import decoded, in_rgb, pixels
from levit_ablate.data.folder_index import open_index
from levit_ablate.errors import RunError

DEEP = numpy.random.default_rng(0).integers(0, 2**16, (12, 16), dtype=numpy.uint16)
COLOURED = numpy.random.default_rng(0).integers(0, 256, (12, 16, 4), dtype=numpy.uint8)
HIGH_BYTE = numpy.repeat((DEEP >> 8).astype(numpy.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("mode", "kind"), [("I;16", "<u2"), ("I;16L", "<u2"), ("I;16B", ">u2"), ("I;16N", "=u2")]
)
def test_sixteen_bits_of_grey_are_scaled_to_eight(mode, kind):
    image = Image.frombytes(mode, (16, 12), DEEP.astype(kind).tobytes())
    assert (numpy.array(in_rgb(image)) == HIGH_BYTE).all()


@pytest.mark.parametrize(("name", "kind"), [("a.png", "<u2"), ("a.tif", "<u2"), ("b.tif", ">u2")])
def test_files_of_sixteen_bits_are_read_scaled(tmp_path, name, kind):
    mode = "I;16B" if kind == ">u2" else "I;16"
    Image.frombytes(mode, (16, 12), DEEP.astype(kind).tobytes()).save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.mode == mode
    assert (numpy.array(decoded(tmp_path / name)) == HIGH_BYTE).all()
    assert (pixels(tmp_path / name, 12).shape) == (12, 12, 3)


def test_a_tiff_of_twelve_bits_is_scaled_by_its_own_range(tmp_path):
    values = [0, 255, 256, 2048, 4095, 1024]  # a row of six, two in three bytes
    packed = bytes.fromhex("".join(f"{value:03x}" for value in values))
    tags = [(256, 6), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    tags.append((279, len(packed)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start = 8 + len(packed) + len(packed) % 2
    head = struct.pack("<2sHI", b"II", 42, start) + packed.ljust(start - 8, b"\0")
    (tmp_path / "a.tif").write_bytes(
        head + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    )
    with Image.open(tmp_path / "a.tif") as image:
        assert image.mode == "I;16"
    read = numpy.array(decoded(tmp_path / "a.tif"))
    assert read[0, :, 0].tolist() == [value >> 4 for value in values]


@pytest.mark.parametrize(
    ("name", "mode"), [("deep.tif", "I"), ("deep.pgm", "I"), ("float.tiff", "F")]
)
def test_values_of_unknown_range_are_refused_in_a_line_that_names_the_file(tmp_path, name, mode):
    image = Image.fromarray(DEEP) if name == "deep.pgm" else Image.new(mode, (8, 8), 300)
    image.save(tmp_path / name)
    with pytest.raises(
        RunError, match=rf"{name}: .*unknown range \(Pillow's mode {mode}\)"
    ) as said:
        decoded(tmp_path / name)
    assert "\n" not in str(said.value)


def two_classes(root: Path, side: int, deep: bool) -> Path:
    """Grey images, dark or light, as PNG of 16 bits or of eight; all white were they clipped."""
    rng = numpy.random.default_rng(0)
    for part in ("train", "val"):
        for low, name in ((1000, "dark"), (40_000, "light")):
            (root / part / name).mkdir(parents=True)
            for number in range(6):
                grey = rng.integers(low, low + 20_000, (side, side), dtype=numpy.uint16)
                image = Image.fromarray(grey if deep else (grey >> 8).astype(numpy.uint8))
                image.save(root / part / name / f"{number}.png")
    return root


@pytest.mark.parametrize(("side", "kind"), [(16, "InMemory"), (80, "OnDisk")])
def test_deep_images_are_served_as_their_eight_bit_copies_are(tmp_path, side, kind):
    batches = []
    for deep in (True, False):
        root = two_classes(tmp_path / str(deep), side, deep)
        data = Data(name="folder", root=str(root), image_size=side, validation=0.3)
        hardware = Hardware(num_workers=0, work_dir=str(tmp_path / "work"))
        images = ImageData(data, Recipe(batch_size=8, erasing=0.5), hardware, seed=1)
        images.setup()
        assert type(images.served).__name__ == kind
        cpu = torch.device("cpu")
        (trained,) = images.training_batches(cpu, (0, 1), lambda: (0, 0))
        (tested,) = images.served.evaluation("test", images.normalization, cpu, (0, 1))
        batches.append((trained.images, tested[0]))
    for deep, copy in zip(*batches, strict=True):
        assert deep.equal(copy)
        assert len(deep.flatten(1).unique(dim=0)) == len(deep)


def test_what_was_kept_of_deep_images_when_they_were_clipped_is_not_used_again(
    tmp_path, monkeypatch
):
    data = Data(name="folder", root=str(two_classes(tmp_path / "deep", 16, True)), image_size=16)
    data_of_copies = Data(name="folder", root=str(two_classes(tmp_path / "copies", 16, False)))

    def opened(root: str):
        return open_index(Path(root), tmp_path / "cache")

    with monkeypatch.context() as before:
        before.setattr(folder_index, "FORMAT", 2)
        before.setattr("levit_ablate.data.decoding.is_deep", lambda _: False)
        before.setattr("levit_ablate.data.decoding.in_rgb", lambda image: image.convert("RGB"))
        old, old_of_copies = opened(data.root), opened(data_of_copies.root)
        clipped = splits.small_folder(old, data).test.images
        assert (clipped == 255).all()
    new = opened(data.root)
    assert new.fingerprint != old.fingerprint
    assert not splits.small_folder(new, data).test.images.equal(clipped)
    assert opened(data_of_copies.root).fingerprint == old_of_copies.fingerprint


def test_pixels_are_those_of_torchvisions_loader(tmp_path):
    """Nothing is turned by its EXIF tag, and what is transparent shows the colour beneath."""
    rgba = Image.fromarray(COLOURED)
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: to be turned by 90 degrees
    rgba.convert("RGB").save(tmp_path / "turned.jpg", exif=turned)
    rgba.save(tmp_path / "transparent.png")
    rgba.convert("LA").save(tmp_path / "transparent_grey.png")
    rgba.convert("P").save(tmp_path / "palette.png", transparency=0)
    rgba.convert("RGB").convert("CMYK").save(tmp_path / "print.jpg")
    rgba.convert("P").save(tmp_path / "picture.gif")
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 6
    for path in paths:
        ours, theirs = decoded(path), default_loader(str(path))
        assert ours.size == theirs.size == (16, 12) and ours.tobytes() == theirs.tobytes(), path
    hidden = numpy.array(decoded(tmp_path / "transparent.png"))
    assert (hidden == COLOURED[..., :3]).all()
