"""The data stream as a training sees it: pure, dealt out, and taken up anywhere."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from levit_ablate.config import Data, Hardware, Recipe
from levit_ablate.data.batches import Batch
from levit_ablate.data.datamodule import ImageData
from levit_ablate.data.datasets import DATASETS, dataset_of, images_of
from levit_ablate.errors import UserError

CPU = torch.device("cpu")
EVERYTHING = Recipe(
    batch_size=96,
    rand_augment="rand-m9-mstd0.5-inc1",
    erasing=0.5,
    mixup=0.8,
    cutmix=1.0,
    mixing_group=32,
    repeats=3,
)


def batches(
    seed: int = 0,
    epoch: int = 1,
    done: int = 0,
    shard=(0, 1),
    parts: int = 1,
    recipe=EVERYTHING,
    most: int | None = None,
) -> list[Batch]:
    """The batches that remain of an epoch, or the first `most` of them."""
    data = ImageData(Data(), recipe, Hardware(accumulate=parts), seed)
    data.setup()
    return list(islice(data.training_batches(CPU, shard, lambda: (epoch, done)), most))


WHOLE = batches()


def same(first: Batch, second: Batch) -> bool:
    return all(one.equal(other) for one, other in zip(first, second, strict=True))


@settings(max_examples=12, deadline=None)
@given(threads=st.integers(1, 3), global_seed=st.integers(0, 9), done=st.integers(0, 12))
@example(threads=2, global_seed=0, done=9)
def test_threads_global_state_and_where_it_is_taken_up_change_nothing(threads, global_seed, done):
    torch.manual_seed(global_seed)
    torch.set_num_threads(threads)
    most = None if done > 8 else 2  # a whole rest where it is short
    try:
        rest = batches(done=done, most=most)
    finally:
        torch.set_num_threads(1)
    expected = WHOLE[done:][:most]
    assert len(rest) == len(expected)
    assert all(map(same, rest, expected))


@settings(max_examples=12, deadline=None)
@given(devices=st.sampled_from([1, 2, 3, 4]), parts=st.sampled_from([1, 2, 4]))
def test_the_shards_of_any_devices_and_parts_are_the_batch(devices, parts):
    shards = [batches(shard=(index, devices), parts=parts, most=parts) for index in range(devices)]
    dealt = [batch for shard in shards for batch in shard]
    positions = torch.cat([batch.positions for batch in dealt])
    assert sorted(positions.tolist()) == list(range(96))
    for field in ("images", "labels", "partner_labels", "share"):
        together = torch.cat([getattr(batch, field) for batch in dealt])[positions.argsort()]
        assert together.equal(getattr(WHOLE[0], field)), field


def test_positions_run_through_the_epoch():
    assert torch.cat([batch.positions for batch in WHOLE]).tolist() == list(range(12 * 96))


def test_epochs_and_seeds_differ():
    assert not WHOLE[0].images.equal(batches(epoch=2, most=1)[0].images)
    assert not WHOLE[0].images.equal(batches(seed=1, most=1)[0].images)


def test_a_data_seed_takes_the_place_of_the_runs(tmp_path):
    data = ImageData(Data(seed=0), EVERYTHING, Hardware(), seed=77)
    data.setup()
    first = next(iter(data.training_batches(CPU, (0, 1), lambda: (1, 0))))
    assert same(first, WHOLE[0])


def test_without_augmentation_images_are_the_normalised_digits():
    plain = Recipe(batch_size=64, crop=False, flip=0.0)
    data = ImageData(Data(image_size=8), plain, Hardware(), seed=0)
    data.setup()
    batch = next(iter(data.training_batches(CPU, (0, 1), lambda: (0, 0))))
    pixels = data.served.splits.train.images[data.stream.order(0)[:64]] / 255
    torch.testing.assert_close(batch.images, (pixels - 0.3053) / 0.3760)
    assert batch.labels.equal(batch.partner_labels) and (batch.share == 1).all()


def test_images_are_enlarged_to_the_size_asked_for_and_evaluated_in_order():
    data = ImageData(Data(), EVERYTHING, Hardware(), seed=0)
    data.setup()
    assert WHOLE[0].images.shape == (96, 1, 32, 32)
    for shard in (0, 1):
        images, labels = next(
            iter(data.served.evaluation("test", data.normalization, CPU, (shard, 2)))
        )
        assert images.shape == (225, 1, 32, 32)
        assert labels.equal(data.served.splits.test.labels[shard::2])


def test_a_batch_larger_than_the_training_set_is_refused_before_any_run():
    with pytest.raises(UserError, match=r"recipe\.batch_size: 2000 is more than the 1,212 train"):
        batches(recipe=Recipe(batch_size=2000))


def test_an_augmentation_that_is_not_supported_is_refused_before_any_run():
    with pytest.raises(UserError, match=r"recipe\.rand_augment: 'rand-m9' is not supported"):
        ImageData(Data(), Recipe(rand_augment="rand-m9"), Hardware(), seed=0).setup()


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_brings_a_model_a_recipe_and_a_teacher(name):
    defaults = dataset_of(Data(name=name)).defaults
    assert set(defaults) == {"model", "data", "recipe", "teacher"}
    images = images_of(Data(name=name, image_size=defaults["data"]["image_size"]))
    assert images.num_classes == (100 if name == "cifar100" else 10)
