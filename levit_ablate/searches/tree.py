"""A regression tree that looks two splits ahead.

An ordinary tree splits where one split gains most, and so passes over two flags that matter only
together, each of which gains nothing. This one weighs every pair of splits.

Shapes: N trials, S splits.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

MOST_LEAVES = 64
"""Of a tree: what a forest computes grows with the square of all trees' leaves."""
Floats = NDArray[numpy.float64]
Flags = NDArray[numpy.bool_]
Integers = NDArray[numpy.int64]


@dataclass(frozen=True, kw_only=True)
class Split:
    """A question to a parameter: is its value one of these?"""

    column: int
    side: Flags
    """Of each value that the parameter has. (K,)"""


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A box of the space, and the mean of the trials in it."""

    box: tuple[Flags, ...]
    """Of each parameter, which values are inside. (K,) each"""
    rows: Integers
    """The trials inside, those of no weight too."""
    mean: float


def grow(
    sizes: Sequence[int],
    seen: Sequence[Integers],
    target: Floats,
    weights: Integers,
    splits: Sequence[Split],
) -> list[Leaf]:
    """The leaves of a tree, the worst node split first, until none can be or there are enough.

    Args:
        sizes: how many values each parameter has.
        seen: of each parameter, every trial's value, from 0. (N,) each
        target: what to predict. (N,)
        weights: how often the tree sees a trial; 0 is never. (N,)
        splits: the questions that it may ask.
    """
    answers = numpy.stack([split.side[seen[split.column]] for split in splits], axis=1)
    box = tuple(numpy.ones(size, numpy.bool_) for size in sizes)
    leaves: list[Leaf] = []
    waiting = [_waiting(0, box, numpy.arange(len(target)), target, weights)]
    number = 1
    while waiting:
        _, _, leaf = heapq.heappop(waiting)
        full = len(leaves) + len(waiting) + 1 >= MOST_LEAVES
        best = None if full else _best(answers[leaf.rows], target[leaf.rows], weights[leaf.rows])
        if best is None:
            leaves.append(leaf)
            continue
        column, side = splits[best].column, splits[best].side
        for yes in (True, False):
            inside = leaf.box[column] & (side == yes)
            half = (*leaf.box[:column], inside, *leaf.box[column + 1 :])
            rows = leaf.rows[answers[leaf.rows, best] == yes]
            heapq.heappush(waiting, _waiting(number, half, rows, target, weights))
            number += 1
    return leaves


def _waiting(
    number: int, box: tuple[Flags, ...], rows: Integers, target: Floats, weights: Integers
) -> tuple[float, int, Leaf]:
    """With what comes first: the largest squared error, then the oldest."""
    mean = float(numpy.average(target[rows], weights=weights[rows]))
    error = float((weights[rows] * (target[rows] - mean) ** 2).sum())
    return -error, number, Leaf(box=box, rows=rows, mean=mean)


def _best(answers: Flags, target: Floats, weights: Integers) -> int | None:
    """The better split of the best pair: that whose four parts have the least squared error.

    None where all is equal, or no split parts what has weight.
    """
    heavy = weights > 0
    total = float(weights.sum())
    target = target - (weights @ target) / total
    if numpy.ptp(target[heavy]) < 1e-12:
        return None
    count = weights @ answers
    able = numpy.flatnonzero((count > 0) & (count < total))
    if not len(able):
        return None
    yes = answers[numpy.ix_(heavy, able)].astype(numpy.float64)
    weighed = yes * weights[heavy, None]
    one, ones = weighed.sum(axis=0), target[heavy] @ weighed  # count and sum where a split says yes
    both, boths = weighed.T @ yes, (weighed * target[heavy, None]).T @ yes
    gain = _squares(boths, both)
    gain += _squares(ones[:, None] - boths, one[:, None] - both)
    gain += _squares(ones - boths, one - both)
    gain += _squares(boths - ones - ones[:, None], both + total - one - one[:, None])
    # rounded, so that of equal gains the first is taken whatever the last bit says
    first, second = numpy.unravel_index(gain.round(9).argmax(), gain.shape)
    alone = (_squares(ones, one) + _squares(ones, total - one)).round(9)
    return int(able[first if alone[first] >= alone[second] else second])


def _squares(sums: Floats, counts: Floats) -> Floats:
    return sums**2 / numpy.maximum(counts, 1)
