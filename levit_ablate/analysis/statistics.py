"""Statistics for few seeds: paired differences, many comparisons, and what noise alone would show.

Shapes: V variants beside the baseline, S seeds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
DRAWS = 20_000
"""Draws of a simulation, whose own error is then about a hundredth of its result."""
MOST_SEEDS = 10_000
"""Seeds beyond which none are recommended."""
Floats = NDArray[numpy.float64]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of a variant's accuracy to the baseline's, over the seeds that both have."""

    mean: float
    num_pairs: int
    interval: tuple[float, float] | None
    """95 % paired t interval; None with one pair, or where all pairs differ by the same."""
    p: float | None
    """P value of the paired t test; None where there is no interval."""


def paired(variant: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Return the paired difference of two variants, seed by seed; needs at least one pair.

    The t interval keeps its 95 % coverage with three seeds too, which a bootstrap's does not.
    """
    pairs = numpy.subtract(variant, baseline)
    mean = float(pairs.mean())
    if len(pairs) < 2 or numpy.ptp(pairs) < 1e-12:
        return Difference(mean=mean, num_pairs=len(pairs), interval=None, p=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # on pairs that hardly differ
        test = stats.ttest_1samp(pairs, 0.0)
    low, high = test.confidence_interval(CONFIDENCE)
    return Difference(
        mean=mean, num_pairs=len(pairs), interval=(float(low), float(high)), p=float(test.pvalue)
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p values for their number (Holm 1979); None stays None."""
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise of a run: what its seed adds to its accuracy but not to every variant's."""

    deviation: float
    """Standard deviation of one run's noise."""
    degrees_of_freedom: int


def noise(accuracies: Floats) -> Noise | None:
    """Return a study's noise, pooled over its variants; None with one seed or one variant.

    It is the residual of a two-way layout, variants by seeds, and assumed alike for all variants.

    Args:
        accuracies: accuracies of the baseline and the variants, seed by seed. (V + 1, S)
    """
    variants, seeds = accuracies.shape
    freedom = (variants - 1) * (seeds - 1)
    if freedom < 1:
        return None
    means = accuracies.mean(axis=1, keepdims=True) + accuracies.mean(axis=0, keepdims=True)
    residuals = accuracies - means + accuracies.mean()
    deviation = math.sqrt(float((residuals**2).sum()) / freedom)
    return Noise(deviation=deviation, degrees_of_freedom=freedom)


def noise_floor(deviation: float, num_variants: int, num_seeds: int) -> float:
    """Return the largest |difference| expected of that many ablations without any effect.

    They differ from one baseline by noise alone. Simulated; for eight it is 2.3 standard deviations
    at one seed and 1.3 at three.
    """
    rng = numpy.random.default_rng(0)
    runs = rng.standard_normal((DRAWS, num_variants + 1))
    largest = numpy.abs(runs[:, 1:] - runs[:, :1]).max(axis=1).mean()
    return float(largest) * deviation / math.sqrt(num_seeds)


def seeds_to_resolve(deviation: float, points: float) -> int | None:
    """Return how many seeds it takes for a paired interval of ± `points`.

    None beyond ten thousand, and where the noise is zero.
    """
    if deviation <= 0:
        return None
    seeds = numpy.arange(2, MOST_SEEDS)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1) * deviation * numpy.sqrt(2 / seeds)
    enough = seeds[reach <= points]
    return int(enough[0]) if len(enough) else None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of differences with published ones."""

    num_rows: int
    """Number of rows that both have."""
    num_signs: int
    """Number of rows whose difference has the published sign."""
    tau: float | None
    """Kendall's rank correlation (tau-b); None with fewer than three rows, or where all tie."""
    interval: tuple[float, float] | None
    """95 % interval of tau under the noise of the seeds; None with one seed."""


def agreement(ours: Sequence[float], theirs: Sequence[float], error: Noise | None) -> Agreement:
    """Return the agreement of our differences with theirs, row by row.

    The interval of Kendall's tau is simulated: our differences are drawn again with the noise of
    their means, whose size is itself drawn, as few degrees of freedom leave it open. It says what
    other seeds would give, not what other ablations would.

    Args:
        ours: our differences, each a mean over seeds.
        theirs: published differences.
        error: noise of our means: that of a run, its deviation divided by √S.
    """
    signs = sum(a * b > 0 for a, b in zip(ours, theirs, strict=True))
    tau = _tau(ours, theirs) if len(ours) > 2 else None
    interval = None
    if tau is not None and error is not None and error.deviation > 0:
        rng = numpy.random.default_rng(0)
        draws = DRAWS // 10  # a correlation takes a while
        chi = rng.chisquare(error.degrees_of_freedom, (draws, 1)) / error.degrees_of_freedom
        spread = error.deviation / numpy.sqrt(chi)
        drawn = numpy.asarray(ours) + spread * rng.standard_normal((draws, len(ours)))
        taus = [t for row in drawn if (t := _tau(row, theirs)) is not None]
        low, high = numpy.quantile(taus, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        interval = (float(low), float(high))
    return Agreement(num_rows=len(ours), num_signs=signs, tau=tau, interval=interval)


def _tau(first: Sequence[float] | Floats, second: Sequence[float]) -> float | None:
    tau = float(stats.kendalltau(first, second).statistic)
    return None if math.isnan(tau) else tau
