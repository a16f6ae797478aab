"""The streams of randomness: stable for ever, apart by name, and of a size that torch takes."""

import itertools

import numpy as np
import pytest
import torch

from levit_ablate.streams import stream_seed

NAMES = [
    (),
    ("initialization",),
    ("initialization", "head"),
    ("order",),
    ("order", 1),
    ("order", 2),
]


def test_a_streams_seed_is_the_same_on_every_machine_and_in_every_version():
    assert stream_seed(0, "initialization", "head.layer") == 5081620500418008625


def test_streams_of_other_names_and_other_seeds_are_apart():
    streams = [(seed, *names) for seed in range(20) for names in NAMES]
    assert len({stream_seed(*stream) for stream in streams}) == len(streams)


def test_a_seed_is_not_the_neighbour_of_the_next_ones():
    seeds = [stream_seed(seed, "order") for seed in range(100)]
    assert min(abs(a - b) for a, b in itertools.combinations(seeds, 2)) > 2**32


def test_what_is_drawn_from_two_streams_is_not_correlated():
    draws = [
        np.random.default_rng(stream_seed(0, name)).standard_normal(10_000) for name in ("a", "b")
    ]
    assert abs(np.corrcoef(draws)[0, 1]) < 0.05


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_torch_takes_every_seed_and_all_63_bits_are_in_use(seed):
    seeds = [stream_seed(seed, "stream", index) for index in range(200)]
    assert all(0 <= each < 2**63 for each in seeds)
    assert max(each.bit_length() for each in seeds) == 63
    generator = torch.Generator()
    for each in seeds:
        assert generator.manual_seed(each).initial_seed() == each
    for bit in range(63):
        assert 0 < sum(each >> bit & 1 for each in seeds) < len(seeds)
