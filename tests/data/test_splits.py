import gzip
import pickle

import numpy
import pytest
import torch
from PIL import Image

from levit_ablate.config import Data, Hardware
from levit_ablate.data import splits as module
from levit_ablate.data.folder_index import open_index
from levit_ablate.errors import RunError, UserError
from levit_ablate.experiment import identified, variant


def test_digits_are_split_class_by_class_by_the_split_seed_alone():
    first, again, other = (module.digits(Data(split_seed=s)) for s in (0, 0, 1))
    assert [len(part) for part in (first.train, first.validation, first.test)] == [1212, 135, 450]
    assert first.train.images.equal(again.train.images)
    assert not first.test.images.equal(other.test.images)
    counts = first.validation.labels.bincount()
    assert counts.min() >= 13 and counts.max() <= 14
    assert first.train.images.dtype == torch.uint8 and first.train.images.max() == 255


def test_a_share_too_small_for_every_class_is_refused():
    with pytest.raises(UserError, match=r"data\.validation: 0\.001 of 1347 images cannot be held"):
        module.digits(Data(validation=0.001))


def cifar_files(root) -> None:
    """CIFAR-10's own layout, with ten images a file, and torchvision's checksums to fit."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = numpy.random.default_rng(0)
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        pixels = rng.integers(256, size=(20, 3072), dtype=numpy.uint8)
        batch = {"data": pixels, "labels": list(range(10)) * 2}
        (folder / name).write_bytes(pickle.dumps(batch))
    names = {"label_names": list("abcdefghij")}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))


def test_cifar_is_found_where_torchvision_keeps_it(tmp_path, monkeypatch):
    cifar_files(tmp_path)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    splits = module.cifar(Data(name="cifar10", root=str(tmp_path), validation=0.2))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [80, 20, 20]
    assert splits.train.images.shape == (80, 3, 32, 32)
    batch = pickle.loads((tmp_path / "cifar-10-batches-py" / "test_batch").read_bytes())
    expected = torch.from_numpy(batch["data"]).view(-1, 3, 32, 32)
    assert splits.test.images.equal(expected)


def test_a_dataset_that_is_nowhere_is_a_line(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("network is unreachable")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", offline)
    with pytest.raises(UserError, match=r"data\.root: cifar100 is not in .* cannot be downloaded"):
        module.cifar(Data(name="cifar100", root=str(tmp_path)))


def fashion(root, count=40) -> tuple[numpy.ndarray, numpy.ndarray]:
    images = numpy.random.default_rng(0).integers(256, size=(count, 28, 28), dtype=numpy.uint8)
    labels = numpy.arange(count, dtype=numpy.uint8) % 10
    for name in ("train", "t10k"):
        for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
            head = numpy.array([0x800 + content.ndim, *content.shape], ">i4").tobytes()
            path = root / f"{name}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(head + content.tobytes()))
    return images, labels


def test_fashion_mnist_is_read_from_its_published_files(tmp_path):
    images, labels = fashion(tmp_path)
    data = Data(name="fashion_mnist", root=str(tmp_path), validation=0.25)
    splits = module.fashion_mnist(data)
    assert splits.test.images.equal(torch.from_numpy(images)[:, None])
    assert splits.test.labels.tolist() == labels.tolist()
    assert len(splits.train) == 30


def test_other_files_of_the_same_names_have_a_key_of_their_own(tmp_path):
    keys = []
    for count in (40, 50):
        (tmp_path / str(count)).mkdir()
        fashion(tmp_path / str(count), count)
        data = {"name": "fashion_mnist", "root": str(tmp_path / str(count)), "validation": 0.25}
        keys.append(variant("no_distillation", {"data": data}).key)
        raw = tmp_path / f"raw{count}" / "FashionMNIST" / "raw"  # as torchvision keeps them
        raw.mkdir(parents=True)
        for path in (tmp_path / str(count)).glob("*.gz"):
            (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        data |= {"root": str(tmp_path / f"raw{count}")}
        assert variant("no_distillation", {"data": data}).key == keys[-1]
    assert keys[0] != keys[1]
    recorded = {"data": data | {"fingerprint": "0123456789abcdef"}}
    with pytest.raises(UserError, match=r"data\.root: .* holds other images \(fingerprint"):
        identified(recorded)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("t10k-images-idx3", lambda whole: b"", "cannot be read|is not the idx file"),
        ("t10k-images-idx3", lambda whole: whole[:-50], "cannot be read"),
        ("t10k-images-idx3", lambda whole: whole[:60] + b"?" + whole[61:], "cannot be read"),
        ("train-labels-idx1", lambda whole: b"no gzip", "cannot be read"),
        ("train-labels-idx1", lambda whole: gzip.compress(b"short"), "is not the idx file"),
        (
            "train-labels-idx1",
            lambda whole: gzip.compress(gzip.decompress(whole)[:-3]),
            "is cut short",
        ),
        (
            "train-labels-idx1",
            lambda whole: gzip.compress(
                numpy.array([0x801, 4], ">i4").tobytes() + bytes([0, 1, 2, 3])
            ),
            "the images and labels of train do not match",
        ),
    ],
)
def test_a_damaged_file_of_fashion_mnist_is_named(tmp_path, name, damage, said):
    fashion(tmp_path)
    path = tmp_path / f"{name}-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"data\.root: .*({said})"):
        module.fashion_mnist(Data(name="fashion_mnist", root=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train-images-idx3-ubyte", b"<html>", "is not the idx file"),
        ("train-images-idx3-ubyte", b"", "is not the idx file"),
        ("t10k-labels-idx1-ubyte", bytes.fromhex("0000080100000003") + b"\1\2\3", "do not match"),
        (
            "t10k-labels-idx1-ubyte",
            bytes.fromhex("0000080100000028") + b"\x19" * 40,
            "do not match",
        ),
        (
            "train-images-idx3-ubyte",
            bytes.fromhex("0000080300000001 0000002000000020") + bytes(1024),
            "is not the idx file",
        ),
        ("t10k-labels-idx1-ubyte", None, "cannot be read"),
    ],
)
def test_a_damaged_file_as_torchvision_keeps_it_is_named(tmp_path, name, content, said):
    fashion(tmp_path)
    raw = tmp_path / "kept" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in tmp_path.glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    data = Data(name="fashion_mnist", root=str(tmp_path / "kept"), validation=0.25)
    assert len(module.fashion_mnist(data).test) == 40
    (raw / name).write_bytes(content) if content is not None else (raw / name).unlink()
    with pytest.raises(UserError, match=rf"data\.root: .*{said}"):
        module.fashion_mnist(data)


def picture_folder(root, parts=("train", "val"), side=12, count=10) -> None:
    rng = numpy.random.default_rng(0)
    for part in parts:
        for name in ("ant", "bee"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(256, size=(side, side, 3), dtype=numpy.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        (("train", "val"), (16, 4, 20)),
        (("train", "test"), (16, 4, 20)),
        (("train", "val", "test"), (20, 20, 20)),
    ],
)
def test_a_folder_has_the_parts_it_has_and_the_rest_held_out(tmp_path, parts, sizes):
    picture_folder(tmp_path / "set", parts)
    data = Data(name="folder", root=str(tmp_path / "set"), image_size=12, validation=0.2)
    index = open_index(tmp_path / "set", tmp_path / "cache")
    splits = module.small_folder(index, data)
    assert tuple(len(p) for p in (splits.train, splits.validation, splits.test)) == sizes
    first = numpy.array(Image.open(index.parts[index.evaluation_parts[-1]].files[0]))
    assert splits.test.images[0].equal(torch.from_numpy(first).permute(2, 0, 1))


@pytest.mark.parametrize("count", [10, 80])  # decoded here, and in processes
def test_a_small_image_that_is_damaged_after_it_was_checked_is_named(tmp_path, count):
    picture_folder(tmp_path / "set", count=count)
    index = open_index(tmp_path / "set", tmp_path / "cache")
    bad = tmp_path / "set" / "train" / "bee" / "3.png"
    bad.write_bytes(bad.read_bytes()[:200])
    data = Data(name="folder", root=str(tmp_path / "set"), image_size=12)
    with pytest.raises(RunError, match=r"bee/3\.png: cannot be read any more: "):
        module.small_folder(index, data)


def test_small_images_are_decoded_once_and_damage_to_what_is_kept_is_mended(tmp_path, monkeypatch):
    picture_folder(tmp_path / "set")
    index = open_index(tmp_path / "set", tmp_path / "cache")
    data = Data(name="folder", root=str(tmp_path / "set"), image_size=12, validation=0.2)
    first = module.small_folder(index, data)
    with monkeypatch.context() as patched:
        patched.setattr(module, "over_files", lambda *_: pytest.fail("decoded again"))
        again = module.small_folder(index, data)
    assert again.test.images.equal(first.test.images)
    for file in index.folder.glob("*pixels12*.npy"):
        damaged = file.read_bytes()[:-100]
        file.unlink()  # `first` is mapped from it
        file.write_bytes(damaged)
    assert module.small_folder(index, data).test.images.equal(first.test.images)


def test_pixels_that_cannot_be_kept_are_a_line_that_says_where(tmp_path):
    picture_folder(tmp_path / "set")
    index = open_index(tmp_path / "set", tmp_path / "cache")
    index.folder.with_suffix(".pixels.lock").mkdir()
    data = Data(name="folder", root=str(tmp_path / "set"), image_size=12)
    with pytest.raises(UserError, match=r"^hardware\.work_dir: the pixels of .* cannot be kept"):
        module.small_folder(index, data)


def test_small_images_of_other_sizes_are_brought_to_the_one_asked_for(tmp_path):
    picture_folder(tmp_path / "set", side=20)
    data = Data(name="folder", root=str(tmp_path / "set"), image_size=16, validation=0.2)
    splits = module.small_folder(open_index(tmp_path / "set", tmp_path / "cache"), data)
    assert splits.train.images.shape[1:] == (3, 16, 16)
    assert Hardware().num_workers == -1
