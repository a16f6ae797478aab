"""The keystone: what lies at a position depends on the stream's seed and recipe, and on nothing else."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from levit_ablate.config import Recipe
from levit_ablate.data.stream import Stream
from levit_ablate.errors import UserError

MIXED = Recipe(batch_size=24, mixup=0.8, cutmix=1.0, mixing_group=8, repeats=3)


def stream(num_images: int = 100, seed: int = 0, recipe: Recipe = MIXED) -> Stream:
    return Stream(num_images=num_images, seed=seed, recipe=recipe)


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    plain = Recipe(batch_size=10)
    order = stream(recipe=plain).order(3)
    assert sorted(order.tolist()) == list(range(100))
    torch.manual_seed(9)
    random.seed(9)
    numpy.random.default_rng(9)
    assert order.equal(stream(recipe=plain).order(3))
    orders = {tuple(stream(seed=s, recipe=plain).order(e).tolist()) for s in (0, 1) for e in (0, 1)}
    assert len(orders) == 4


def test_what_is_over_a_whole_batch_is_left_out():
    assert (stream().steps, stream().num_positions) == (4, 96)
    assert len(stream().order(0)) == 96


def test_repeated_augmentation_has_its_views_in_a_row_and_epochs_as_long():
    order = stream().order(1).view(-1, 3)
    assert (order == order[:, :1]).all()
    assert len(order[:, 0].unique()) == len(order) == 32


@settings(max_examples=40, deadline=None)
@given(
    count=st.sampled_from([1, 2, 3, 4, 6, 12]),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
    step=st.integers(0, 3),
)
def test_shards_together_are_the_batch_and_keep_partners_at_mirrored_places(
    count, seed, epoch, step
):
    whole = stream(seed=seed)
    places = [whole.shard(index, count) for index in range(count)]
    assert sorted(torch.cat(places).tolist()) == list(range(24))
    for shard in places:
        assert (shard + shard.flip(0) == 23).all()  # i and B - 1 - i


def test_the_views_of_an_image_go_to_different_devices():
    whole = stream(recipe=replace(MIXED, batch_size=48))
    images = whole.order(0)[:48].view(-1)
    for index in range(3):
        shard = images[whole.shard(index, 3)[:8]]  # of the first half: eight triples
        assert len(shard.unique()) == len(shard)


@settings(max_examples=200, deadline=None)
@given(
    batch_size=st.integers(2, 40),
    more=st.integers(0, 100),
    repeats=st.integers(1, 45),
    mixing_group=st.integers(1, 40),
    epoch=st.integers(0, 5),
)
@example(batch_size=32, more=68, repeats=3, mixing_group=8, epoch=0)
@example(batch_size=7, more=100, repeats=4, mixing_group=8, epoch=0)  # one image has 4 of 7 places
@example(batch_size=8, more=0, repeats=9, mixing_group=8, epoch=0)  # only one image in the batch
def test_partners_are_two_views_of_one_image_only_where_it_has_more_than_half_of_the_batch(
    batch_size, more, repeats, mixing_group, epoch
):
    recipe = replace(MIXED, batch_size=batch_size, repeats=repeats, mixing_group=mixing_group)
    whole = stream(num_images=batch_size + more, recipe=recipe)
    order = whole.order(epoch)
    assert order.equal(whole.order(epoch))
    half = batch_size // 2
    for batch in order.view(whole.steps, batch_size):
        alike = (batch == batch.flip(0))[:half].sum()  # an odd batch's middle place has no partner
        most = batch.unique(return_counts=True)[1].max()
        assert alike == max(0, most - (batch_size - half))  # the fewest that there can be
    counts = order.unique(return_counts=True)[1]
    assert counts.max() <= repeats
    assert (counts == repeats).sum() >= len(counts) - 1  # the epoch may end within an image's views


@pytest.mark.parametrize("count", [1, 2, 4])
def test_no_device_mixes_two_views_of_one_image_and_of_enough_devices_none_has_two(count):
    whole = stream(recipe=replace(MIXED, batch_size=32))  # 32 is not a multiple of 3
    for batch in whole.order(0).view(whole.steps, -1):
        for index in range(count):
            images = batch[whole.shard(index, count)]
            assert not (images == images.flip(0)).any()
            assert count < 3 or len(images.unique()) == len(images)


def test_a_batch_that_cannot_be_dealt_out_in_pairs_is_refused():
    with pytest.raises(UserError, match=r"batch_size: 24 cannot be dealt to 5 .* multiple of 10"):
        stream().shard(0, 5)


def test_a_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(UserError, match=r"recipe\.batch_size: 24 is more than the 20 training"):
        stream(num_images=20)


@settings(max_examples=30, deadline=None)
@given(epoch=st.integers(0, 1000), step=st.integers(0, 3), count=st.integers(1, 50))
def test_draws_are_uniform_and_of_their_use_epoch_and_step_alone(epoch, step, count):
    draws = stream().draws("crop", epoch, step, count)
    assert draws.shape == (24, count)
    assert ((draws >= 0) & (draws < 1)).all()
    torch.rand(5)
    assert draws.equal(stream().draws("crop", epoch, step, count))
    assert not draws.equal(stream().draws("erasing", epoch, step, count))
    assert not draws.equal(stream().draws("crop", epoch, step + 1, count))


def test_a_group_shares_one_draw_of_mixing_and_groups_differ():
    mixing = stream().mixing(0, 0)
    groups = torch.minimum(torch.arange(24), torch.arange(24).flip(0)) % 3
    shares = [mixing.share[groups == group].unique() for group in range(3)]
    assert all(len(share) == 1 for share in shares)
    assert len(torch.cat(shares).unique()) == 3


def test_partners_share_their_draw():
    mixing = stream().mixing(2, 1)
    assert mixing.share.equal(mixing.share.flip(0))
    assert mixing.is_cutmix.equal(mixing.is_cutmix.flip(0))


def test_a_recipe_without_mixing_has_none():
    assert stream(recipe=Recipe(batch_size=10)).mixing(0, 0) is None


@pytest.mark.parametrize(("mixup", "cutmix", "share"), [(0.8, 0, 0), (0, 1.0, 1), (0.8, 1.0, 0.5)])
def test_mixup_and_cutmix_take_turns_by_their_probability(mixup, cutmix, share):
    recipe = replace(MIXED, mixup=mixup, cutmix=cutmix, batch_size=2, mixing_group=2)
    drawn = [stream(recipe=recipe).mixing(e, s).is_cutmix[0] for e in range(40) for s in range(50)]
    assert torch.stack(drawn).float().mean().item() == pytest.approx(share, abs=0.04)


def test_the_share_is_beta_distributed():
    recipe = replace(MIXED, cutmix=0, batch_size=2, mixing_group=2)
    shares = torch.stack(
        [stream(recipe=recipe).mixing(e, s).share[0] for e in range(60) for s in range(50)]
    )
    assert shares.mean().item() == pytest.approx(0.5, abs=0.02)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.01)  # of Beta(a, a)
