"""Statistics for few seeds, against figures that were computed elsewhere, and by simulation."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levit_ablate.analysis import statistics
from levit_ablate.analysis.statistics import Noise

shares = st.floats(0, 1, allow_nan=False)


def test_the_paired_interval_is_that_of_the_t_distribution():
    # differences 1, 2, 4: mean 7/3, deviation 1.527525; t(0.975, 2) = 4.302653
    difference = statistics.paired([0.11, 0.22, 0.34], [0.10, 0.20, 0.30])
    half = 4.302653 * 0.01527525 / math.sqrt(3)
    assert difference.mean == pytest.approx(0.07 / 3)
    assert difference.interval == pytest.approx((0.07 / 3 - half, 0.07 / 3 + half), rel=1e-5)
    assert difference.p == pytest.approx(0.118, abs=5e-4)  # t = 2.6458, two degrees of freedom


def test_one_seed_has_a_difference_and_no_interval():
    difference = statistics.paired([0.5], [0.7])
    assert difference.mean == pytest.approx(-0.2) and difference.num_pairs == 1
    assert difference.interval is None and difference.p is None


def test_seeds_that_all_differ_by_the_same_tell_no_interval():
    difference = statistics.paired([0.5, 0.6, 0.7], [0.4, 0.5, 0.6])
    assert difference.interval is None and difference.p is None


def test_the_interval_covers_what_it_says_with_three_seeds():
    rng = numpy.random.default_rng(1)
    covered = 0
    for base, own in zip(rng.normal(0, 1, (2000, 3)), rng.normal(0.5, 1, (2000, 3)), strict=True):
        low, high = statistics.paired(own, base).interval
        covered += low <= 0.5 <= high
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def test_holms_adjustment_is_that_of_rs_p_adjust():
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    adjusted = statistics.holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.none() | shares, max_size=12))
def test_adjusted_values_are_no_smaller_at_most_one_and_in_the_same_order(values):
    adjusted = statistics.holm(values)
    assert [p is None for p in values] == [p is None for p in adjusted]
    pairs = sorted((p, q) for p, q in zip(values, adjusted, strict=True) if p is not None)
    assert all(p <= q <= 1 for p, q in pairs)
    assert [q for _, q in pairs] == sorted(q for _, q in pairs)


def test_noise_is_what_neither_variants_nor_seeds_explain():
    rng = numpy.random.default_rng(0)
    variants, seeds = rng.normal(0, 5, (400, 1)), rng.normal(0, 3, (1, 6))
    found = statistics.noise(variants + seeds + rng.normal(0, 0.7, (400, 6)))
    assert found.degrees_of_freedom == 399 * 5
    assert found.deviation == pytest.approx(0.7, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 3), (8, 1)])
def test_one_seed_or_one_variant_tells_no_noise(shape):
    assert statistics.noise(numpy.zeros(shape)) is None


@pytest.mark.parametrize(("seeds", "floor"), [(1, 2.3), (3, 1.33)])
def test_the_noise_floor_of_eight_ablations(seeds, floor):
    assert statistics.noise_floor(1.0, 8, seeds) == pytest.approx(floor, abs=0.05)


@given(st.floats(1e-4, 0.05), st.floats(2e-4, 0.05))
def test_the_seeds_that_resolve_a_difference_are_the_fewest_that_do(deviation, points):
    found = statistics.seeds_to_resolve(deviation, points)

    def reach(seeds: int) -> float:
        from scipy.stats import t

        return t.ppf(0.975, seeds - 1) * deviation * math.sqrt(2 / seeds)

    if found is None:
        assert reach(statistics.MOST_SEEDS) > points * 0.99
    else:
        assert reach(found) <= points and (found == 2 or reach(found - 1) > points)


def test_without_noise_no_number_of_seeds_is_told():
    assert statistics.seeds_to_resolve(0.0, 0.005) is None


OURS, THEIRS = [-0.10, -0.05, -0.02, 0.01, -0.06], [-15.4, -6.6, -5.3, -2.2, -1.5]


def test_agreement_counts_signs_and_ranks():
    agreement = statistics.agreement(OURS, THEIRS, Noise(deviation=0.01, degrees_of_freedom=8))
    assert (agreement.num_rows, agreement.num_signs) == (5, 4)
    assert agreement.tau == pytest.approx(0.4)  # 7 pairs in order, 3 not
    low, high = agreement.interval
    assert -1 <= low <= agreement.tau <= high <= 1 and high - low < 1.5


def test_the_interval_of_the_agreement_is_that_of_the_noise():
    quiet = statistics.agreement(OURS, THEIRS, Noise(deviation=1e-6, degrees_of_freedom=8))
    assert quiet.interval == pytest.approx((0.4, 0.4))
    loud = statistics.agreement(OURS, THEIRS, Noise(deviation=10.0, degrees_of_freedom=8))
    assert loud.interval[0] < -0.6 and loud.interval[1] > 0.6
    assert statistics.agreement(OURS, THEIRS, None).interval is None


def test_two_rows_have_no_rank_correlation():
    agreement = statistics.agreement(OURS[:2], THEIRS[:2], None)
    assert agreement.tau is None and agreement.num_signs == 2
