import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import auto_augment

from levit_ablate.data.randaugment import OPERATIONS, RandAugment, Strength
from levit_ablate.errors import UserError

FILL = (124, 116, 104)


def crops(count: int = 24, side: int = 32) -> torch.Tensor:
    """Parts of real photographs: (count, 3, side, side) uint8."""
    photographs = [torch.from_numpy(p).permute(2, 0, 1) for p in load_sample_images().images]
    places = torch.randint(380, (count, 2), generator=torch.Generator().manual_seed(0)).tolist()
    cut = [photographs[n % 2][:, r : r + side, c : c + side] for n, (r, c) in enumerate(places)]
    return torch.stack(cut)


IMAGES = crops()


def by_pillow(
    name: str, image: torch.Tensor, level: float, sign: float, monkeypatch
) -> torch.Tensor:
    """Timm's operation on one image, without its chance."""
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: value * sign)
    arguments = auto_augment.LEVEL_TO_ARG[name]
    options = {"fillcolor": FILL, "resample": Image.Resampling.BILINEAR}
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    values = arguments(10 * level, {}) if arguments else ()
    done = auto_augment.NAME_TO_OP[name](picture, *values, **options)
    return torch.from_numpy(numpy.array(done)).permute(2, 0, 1)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("level", [0.0, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_every_operation_is_pillows_within_a_level(name, level, sign, monkeypatch):
    count = len(IMAGES)
    fill = torch.tensor(FILL, dtype=torch.float32)[:, None, None]
    strength = Strength(torch.full((count,), level), torch.full((count,), sign), fill)
    ours = OPERATIONS[name](IMAGES, strength)
    theirs = torch.stack([by_pillow(name, image, level, sign, monkeypatch) for image in IMAGES])
    difference = (ours.int() - theirs.int()).abs()
    assert ours.dtype == torch.uint8
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.04  # where Pillow rounds otherwise


def test_the_operations_are_timms_in_its_order():
    assert list(OPERATIONS) == auto_augment._RAND_INCREASING_TRANSFORMS


@settings(max_examples=20, deadline=None)
@given(row=st.integers(0, 23), seed=st.integers(0, 50), channels=st.sampled_from([1, 3]))
def test_an_image_depends_on_its_own_row_alone(row, seed, channels):
    augment = RandAugment("rand-m9-mstd0.5-inc1", FILL[:channels])
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(24, augment.num_draws, generator=generator)
    whole = augment(IMAGES[:, :channels], draws)
    alone = augment(IMAGES[row : row + 1, :channels], draws[row : row + 1])
    assert whole.dtype == torch.uint8
    assert alone.equal(whole[row : row + 1])


def test_operations_are_chosen_alike_and_applied_with_their_probability(monkeypatch):
    applied = {name: [] for name in OPERATIONS}

    def counting(name):
        def operation(images, strength):
            applied[name].append(strength.level)
            return images

        return operation

    for name in list(OPERATIONS):
        monkeypatch.setitem(OPERATIONS, name, counting(name))
    augment = RandAugment("rand-m9-mstd0.5-inc1-p0.4", FILL)
    draws = torch.rand(30_000, augment.num_draws, generator=torch.Generator().manual_seed(0))
    augment(torch.zeros(30_000, 1, 2, 2, dtype=torch.uint8), draws)
    counts = torch.tensor([sum(map(len, levels)) for levels in applied.values()])
    assert counts.sum().item() / 60_000 == pytest.approx(0.4, abs=0.01)
    assert (counts / counts.sum() - 1 / 15).abs().max() < 0.005
    levels = torch.cat([level for each in applied.values() for level in each]) * 10
    noise = numpy.clip(numpy.random.default_rng(0).normal(9, 0.5, 100_000), 0, 10)
    assert levels.mean().item() == pytest.approx(noise.mean(), abs=0.02)
    assert levels.std().item() == pytest.approx(noise.std(), abs=0.02)


@pytest.mark.parametrize(
    "config",
    [
        "rand-m9",
        "augmix-m3",
        "rand-m11-inc1",
        "rand-m9-inc1-x3",
        "rand-m9-inc1-p2",
        "rand-n0-inc1",
        "rand-n1.5-inc1",
        "m9",
    ],
)
def test_a_notation_that_is_not_supported_is_refused_in_a_line(config):
    with pytest.raises(
        UserError, match=r"recipe\.rand_augment: .*write it as rand-m9-mstd0\.5-inc1"
    ):
        RandAugment(config, FILL)
