"""Images decoded from files: the same whatever process makes them, and named where they are bad."""

from __future__ import annotations

import random
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import auto_augment

from levit_ablate.config import Data, Hardware, Recipe
from levit_ablate.data.datamodule import ImageData, served
from levit_ablate.data.folder_index import open_index
from levit_ablate.data.sources import OnDisk
from levit_ablate.errors import RunError

PAPER = Recipe(
    batch_size=12,
    repeats=3,
    rand_augment="rand-m9-mstd0.5-inc1",
    erasing=0.5,
    mixup=0.8,
    cutmix=1.0,
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Tiles of real photographs as JPEG, larger than what is kept in memory."""
    root = tmp_path_factory.mktemp("photographs")
    for part in ("train", "val"):
        for number in range(24):
            folder = root / part / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            tile = load_sample_images().images[number % 2][number * 8 :][:120, number * 8 :][
                :, :160
            ]
            Image.fromarray(tile).save(folder / f"{number}.jpg", quality=95)
    return root


def data_of(root: Path, workers: int, work_dir: Path) -> ImageData:
    data = Data(name="folder", root=str(root), image_size=72, validation=0.25)
    hardware = Hardware(num_workers=workers, work_dir=str(work_dir))
    images = ImageData(data, PAPER, hardware, seed=1)
    images.setup()
    return images


def batches(data: ImageData, epoch: int, done: int = 0, shard=(0, 1)) -> list:
    cpu = torch.device("cpu")
    return list(data.training_batches(cpu, shard, lambda: (epoch, done)))


@pytest.fixture(scope="module")
def whole(photographs, tmp_path_factory):
    data = data_of(photographs, 0, tmp_path_factory.mktemp("work"))
    assert isinstance(data.served, OnDisk)
    return batches(data, epoch=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_what_was_drawn_before_change_nothing(photographs, whole, workers, tmp_path):
    data = data_of(photographs, workers, tmp_path)
    torch.manual_seed(5)
    random.seed(5)
    batches(data, epoch=0)
    for ours, expected in zip(batches(data, epoch=2), whole, strict=True):
        for tensor, other in zip(ours, expected, strict=True):
            assert tensor.equal(other)


def test_an_epoch_taken_up_within_is_the_rest_of_it(photographs, whole, tmp_path):
    rest = batches(data_of(photographs, 0, tmp_path), epoch=2, done=1)
    assert len(whole) == 1 and rest == []


def test_the_shards_of_two_devices_are_the_whole_batch(photographs, whole, tmp_path):
    data = data_of(photographs, 0, tmp_path)
    shards = [batches(data, epoch=2, shard=(index, 2))[0] for index in (0, 1)]
    positions = torch.cat([shard.positions for shard in shards])
    images = torch.cat([shard.images for shard in shards])[positions.argsort()]
    assert images.equal(whole[0].images)


def test_the_state_of_the_random_generators_is_left_alone(photographs, tmp_path):
    data = data_of(photographs, 0, tmp_path)
    torch.manual_seed(3)
    random.seed(3)
    expected = torch.rand(1), random.random()
    torch.manual_seed(3)
    random.seed(3)
    batches(data, epoch=0)
    assert (torch.rand(1), random.random()) == expected


def test_evaluation_images_are_resized_and_their_centre_cropped(photographs, tmp_path):
    data = data_of(photographs, 0, tmp_path)
    cpu = torch.device("cpu")
    (batch,) = data.served.evaluation("test", data.normalization, cpu, (0, 1))
    image = Image.open(photographs / "val" / "class0" / "0.jpg").resize((109, 82), Image.BICUBIC)
    left, top = round((109 - 72) / 2), round((82 - 72) / 2)
    expected = torch.from_numpy(numpy.array(image.crop((left, top, left + 72, top + 72))))
    ours = batch[0][0] * torch.tensor(data.dataset.deviation)[:, None, None]
    ours = 255 * (ours + torch.tensor(data.dataset.mean)[:, None, None])
    assert (ours - expected.permute(2, 0, 1)).abs().mean() < 2
    assert batch[1].tolist() == [0] * 12 + [1] * 12


def test_a_file_that_is_damaged_after_it_was_checked_is_named(photographs, tmp_path):
    root = tmp_path / "copy"
    for path in photographs.rglob("*.jpg"):
        target = root / path.relative_to(photographs)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    for workers in (0, 2):
        served.cache_clear()
        data = data_of(root, workers, tmp_path / "work")
        for path in (root / "train" / "class0").iterdir():
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])  # no change of the folder's time
        with pytest.raises(RunError, match=r"^\S*class0/\d+\.jpg: cannot be read any more: "):
            batches(data, epoch=0)


def test_posterizing_at_the_highest_magnitude_is_an_error_of_timm_that_we_avoid(
    photographs, tmp_path
):
    operation = auto_augment.AugmentOp("PosterizeIncreasing", prob=1.0, magnitude=10)
    with pytest.raises(ValueError, match="bits"):  # once timm mends it, sources.py can be simpler
        operation(Image.new("RGB", (8, 8)))
    index = open_index(photographs, tmp_path)
    on_disk = OnDisk(index, Data(name="folder", image_size=72), 0, (0.5,) * 3)
    data = data_of(photographs, 0, tmp_path)
    views = on_disk.source(data.stream, torch.device("cpu")).loader.loader.dataset
    (augment,) = [step for step in views.transform.transforms if hasattr(step, "ops")]
    (ours,) = [op for op in augment.ops if op.name == "PosterizeIncreasing"]
    ours.prob, ours.magnitude = 1.0, 10
    assert ours(Image.new("RGB", (8, 8))).size == (8, 8)
