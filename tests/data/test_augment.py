import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as torchvision_functional

from levit_ablate.data import augment

GENERATOR = torch.Generator().manual_seed(0)
PHOTOS = torch.randint(256, (20, 3, 12, 10), dtype=torch.uint8, generator=GENERATOR)


@pytest.mark.parametrize("channels", [1, 3])
@settings(max_examples=25, deadline=None)
@given(padding=st.integers(0, 4), data=st.data())
def test_crop_and_flip_is_torchvisions_for_every_image(channels, padding, data):
    images = PHOTOS[:, :channels]
    offsets = st.tuples(st.integers(0, 2 * padding), st.integers(0, 2 * padding), st.booleans())
    chosen = data.draw(st.lists(offsets, min_size=1, max_size=6))
    indices = torch.tensor(data.draw(st.permutations(range(20))))[: len(chosen)]
    count = 2 * padding + 1
    draws = torch.tensor(
        [
            [(row + 0.5) / count, (column + 0.5) / count, 0.2 if flip else 0.8]
            for row, column, flip in chosen
        ]
    )
    cropped = augment.Store(images, padding).crop_and_flip(indices, draws, flip=0.5)
    for image, index, (row, column, flip) in zip(cropped, indices, chosen, strict=True):
        padded = torchvision_functional.pad(images[index], [padding])
        expected = padded[:, row : row + 12, column : column + 10]
        assert image.equal(expected.flip(2) if flip else expected)


def test_crops_reach_every_offset_alike():
    store = augment.Store(torch.arange(1, 101, dtype=torch.uint8).view(1, 1, 10, 10), 1)
    draws = torch.rand(9000, augment.CROP_DRAWS, generator=GENERATOR)
    corners = store.crop_and_flip(torch.zeros(9000, dtype=torch.long), draws, flip=0.0)[:, 0, 5, 5]
    values, counts = corners.unique(return_counts=True)
    assert values.tolist() == [r * 10 + c + 1 for r in (4, 5, 6) for c in (4, 5, 6)]
    assert (counts - 1000).abs().max() < 150


def test_normalize_is_the_formula():
    mean, deviation = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    expected = torchvision_functional.normalize(PHOTOS / 255, mean, deviation)
    torch.testing.assert_close(augment.normalize(PHOTOS, mean, deviation), expected)


@pytest.mark.parametrize(
    ("column", "name"), [(0, "brightness"), (1, "contrast"), (2, "saturation")]
)
@pytest.mark.parametrize("draw", [0.0, 0.3, 0.9])
def test_color_jitter_is_torchvisions_within_a_level(column, name, draw):
    draws = torch.full((20, 3), 0.5)
    draws[:, column] = draw
    jittered = augment.color_jitter(PHOTOS, draws, strength=0.4).int()
    factor = 1 + 0.4 * (2 * draw - 1)
    expected = getattr(torchvision_functional, f"adjust_{name}")(PHOTOS, factor).int()
    assert (jittered - expected).abs().max() <= 1


def test_color_jitter_leaves_images_alone_at_strength_zero_and_gray_ones_their_channel():
    draws = torch.rand(20, 3, generator=GENERATOR)
    assert augment.color_jitter(PHOTOS, draws, strength=0.0).equal(PHOTOS)
    assert augment.color_jitter(PHOTOS[:, :1], draws, strength=0.4).shape == (20, 1, 12, 10)


def erased_mask(draws: torch.Tensor, probability: float, side: int = 32) -> torch.Tensor:
    images = torch.full((len(draws), 1, side, side), 100.0)
    noise = augment.noise_bank(0, 12)
    return augment.erase(images, draws, noise, probability)[:, 0] != 100.0


def test_erasing_has_timms_probability_areas_and_aspects():
    draws = torch.rand(4000, augment.ERASE_DRAWS, generator=GENERATOR)
    mask = erased_mask(draws, probability=0.25)
    erased = mask[mask.any(dim=(1, 2))]
    assert len(erased) / 4000 == pytest.approx(0.25, abs=0.03)
    heights = erased.any(dim=2).sum(1).float()
    widths = erased.any(dim=1).sum(1).float()
    assert erased.sum(dim=(1, 2)).float().equal(heights * widths)  # rectangles
    shares = heights * widths / 32**2
    assert shares.min() > 0.015 and shares.max() < 0.35
    assert shares.mean().item() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    aspects = (heights / widths).log()
    assert aspects.abs().max() < math.log(1 / 0.3) + 0.3
    assert aspects.mean().item() == pytest.approx(0, abs=0.08)


def test_erased_pixels_are_standard_normal_noise_and_the_others_untouched():
    draws = torch.rand(500, augment.ERASE_DRAWS, generator=GENERATOR)
    images = torch.full((500, 3, 32, 32), 100.0)
    erased = augment.erase(images.clone(), draws, augment.noise_bank(0, 12), probability=1.0)
    noise = erased[erased != 100.0]
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    never = augment.erase(images.clone(), draws, augment.noise_bank(0, 12), probability=0.0)
    assert never.equal(images)


@settings(max_examples=20, deadline=None)
@given(row=st.integers(0, 19), seed=st.integers(0, 100))
def test_an_image_depends_on_its_own_row_alone(row, seed):
    draws = torch.rand(20, 60, generator=torch.Generator().manual_seed(seed))
    store, noise = augment.Store(PHOTOS, 2), augment.noise_bank(0, 12)

    def augmented(rows: list[int]) -> torch.Tensor:
        own = draws[rows]
        images = store.crop_and_flip(torch.tensor(rows), own[:, :3], flip=0.5)
        images = augment.color_jitter(images, own[:, 3:6], 0.4)
        normal = augment.normalize(images, (0.5,) * 3, (0.2,) * 3)
        return augment.erase(normal, own[:, 6 : 6 + augment.ERASE_DRAWS], noise, 0.5)

    assert augmented([row]).equal(augmented(list(range(20)))[row : row + 1])


def test_the_noise_is_of_its_seed_alone():
    assert augment.noise_bank(3, 12).equal(augment.noise_bank(3, 12))
    assert not augment.noise_bank(3, 12).equal(augment.noise_bank(4, 12))
    assert len(augment.noise_bank(3, 12)) == augment.NOISE
    assert numpy.isfinite(augment.noise_bank(3, 12).numpy()).all()


def test_large_images_are_erased_too():
    images = torch.zeros(2, 3, 600, 600)
    noise = augment.noise_bank(0, images[0].numel())
    draws = torch.rand(2, augment.ERASE_DRAWS, generator=torch.Generator().manual_seed(0))
    erased = augment.erase(images, draws, noise, probability=1.0)
    assert (erased != 0).any(dim=(1, 2, 3)).all()
