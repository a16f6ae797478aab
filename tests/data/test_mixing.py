import numpy
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from timm.data import mixup as timm_mixup

from levit_ablate.data.batches import mixed
from levit_ablate.data.stream import Mixing

IMAGES = torch.rand(6, 3, 16, 12, generator=torch.Generator().manual_seed(0))


def mixing(share: float, is_cutmix: bool, center: tuple[float, float] = (0.5, 0.5)) -> Mixing:
    return Mixing(
        share=torch.full((6,), share),
        is_cutmix=torch.full((6,), is_cutmix),
        center=torch.tensor(center).repeat(6, 1),
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixup_is_a_weighted_mean_with_the_mirrored_batch(share):
    images, shares = mixed(IMAGES, mixing(share, is_cutmix=False))
    torch.testing.assert_close(images, share * IMAGES + (1 - share) * IMAGES.flip(0))
    assert shares.tolist() == pytest.approx([share] * 6)


@settings(max_examples=50, deadline=None)
@given(
    share=st.floats(0, 1, width=32),
    row=st.integers(0, 15),
    column=st.integers(0, 11),
)
@example(share=2**-24, row=0, column=6)  # √(1 − share) is just below one
def test_cutmix_takes_timms_rectangle_exactly(share, row, column):
    center = ((row + 0.5) / 16, (column + 0.5) / 12)
    images, shares = mixed(IMAGES, mixing(share, is_cutmix=True, center=center))

    class Places:
        """What timm draws: the centre, in pixels."""

        drawn = iter([row, column])

        def randint(self, low, high, size=None):
            return next(self.drawn)

    original, numpy.random.randint = numpy.random.randint, Places().randint
    try:
        (top, bottom, left, right), kept = timm_mixup.cutmix_bbox_and_lam(
            IMAGES.shape, numpy.float32(share)
        )
    finally:
        numpy.random.randint = original
    expected = IMAGES.clone()
    expected[:, :, top:bottom, left:right] = IMAGES.flip(0)[:, :, top:bottom, left:right]
    assert images.equal(expected)
    assert shares.tolist() == pytest.approx([kept] * 6, abs=1e-6)


def test_images_of_one_batch_may_be_mixed_in_either_way():
    both = Mixing(
        share=torch.full((6,), 0.25),
        is_cutmix=torch.tensor([True, False] * 3),
        center=torch.full((6, 2), 0.5),
    )
    images, _ = mixed(IMAGES, both)
    cut, _ = mixed(IMAGES, mixing(0.25, is_cutmix=True))
    blended, _ = mixed(IMAGES, mixing(0.25, is_cutmix=False))
    assert images[::2].equal(cut[::2]) and images[1::2].equal(blended[1::2])
