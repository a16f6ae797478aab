import pytest
import torch

from levit_ablate.config import Data
from levit_ablate.data.catalog import images_of
from levit_ablate.data.digits import DigitsDataModule, EpochOrder
from levit_ablate.errors import UserError


@pytest.fixture(scope="module")
def digits() -> DigitsDataModule:
    module = DigitsDataModule(Data(), seed=0)
    module.setup()
    return module


def test_a_quarter_is_held_out_for_the_test_and_no_image_is_in_two_parts(digits):
    parts = [digits.train, digits.validation, digits.test]
    assert [len(part) for part in parts] == [1212, 135, 450]
    pixels = torch.cat([part.tensors[0].flatten(1) for part in parts])
    assert len(pixels) == 1797
    # scikit-learn's digits hold no two equal images, so equal ones would be the same one
    assert len(pixels.unique(dim=0)) == 1797


def test_every_part_has_every_class_in_proportion(digits):
    for part in (digits.train, digits.validation, digits.test):
        shares = torch.bincount(part.tensors[1], minlength=10) / len(part)
        assert (shares - 0.1).abs().max() < 0.02


def test_images_are_as_the_catalog_says_with_mean_zero_and_deviation_one(digits):
    images = images_of(Data())
    pixels, labels = digits.train.tensors
    assert pixels.shape[1:] == (images.channels, images.height, images.width)
    assert int(labels.max()) + 1 == images.num_classes
    assert pixels.mean().abs() < 1e-5
    assert (pixels.std() - 1).abs() < 1e-5


def test_image_size_is_respected():
    module = DigitsDataModule(Data(image_size=48), seed=0)
    module.setup()
    assert module.train[0][0].shape == (1, 48, 48)


def test_the_split_depends_on_its_own_seed_and_not_on_the_runs():
    parts = {}
    for split_seed, seed in ((0, 0), (0, 1), (1, 0)):
        module = DigitsDataModule(Data(split_seed=split_seed), seed=seed)
        module.setup()
        parts[split_seed, seed] = module.test.tensors[0]
    assert parts[0, 0].equal(parts[0, 1])
    assert not parts[0, 0].equal(parts[1, 0])


def test_the_order_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> list[int]:
        torch.manual_seed(seed * 31 + epoch)  # the global state is not to matter
        sampler = EpochOrder(50, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert sorted(order(0, 0)) == list(range(50))
    first = order(0, 3)
    torch.rand(7)
    assert order(0, 3) == first
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_a_batch_larger_than_the_training_set_is_refused_before_any_run():
    with pytest.raises(UserError, match=r"data\.batch_size: 2000 is more than the 1212 training"):
        DigitsDataModule(Data(batch_size=2000), seed=0).setup()
