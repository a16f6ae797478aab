"""A forest of regression trees as a sum of boxes, and the shares of its variance.

Shapes: N trials, P parameters, L leaves of all trees, K values of a parameter.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from levit_ablate.searches.tree import Split, grow

TREES = 64
MOST_SPLITS, MOST_IN_ALL = 8, 80
"""Of a parameter, and of all; at random for each tree. A tree's time grows with their square."""
MOST_VALUES = 24
"""Of a number: more are thinned out, evenly in their order."""
CHUNK = 256
"""Leaves at a time, so that their table of L numbers each stays in the processor's cache."""
Floats = NDArray[numpy.float64]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A parameter: its values as numbers from 0."""

    name: str
    ordered: bool
    size: int
    """Of the values that were seen or can be taken."""
    domain: NDArray[numpy.int64]
    """Of the values that can be taken. (K,)"""
    seen: NDArray[numpy.int64]
    """Of each trial; 0 where it lacks the parameter. (N,)"""
    there: NDArray[numpy.bool_]
    """Whether a trial has it. (N,)"""

    @classmethod
    def of(cls, name: str, params: Sequence[Mapping[str, Any]]) -> Axis:
        """The parameter of that name as the trials have it."""
        known = list(dict.fromkeys(trial[name] for trial in params if name in trial))
        ordered = all(isinstance(v, int | float) and not isinstance(v, bool) for v in known)
        place = {value: number for number, value in enumerate(sorted(known) if ordered else known)}
        possible = list(range(len(known)))
        if ordered and len(possible) > MOST_VALUES:
            evenly = numpy.linspace(0, len(possible) - 1, MOST_VALUES).round().astype(int)
            possible = [possible[index] for index in evenly]
        return cls(
            name=name,
            ordered=ordered,
            size=len(known),
            domain=numpy.array(possible, dtype=numpy.int64),
            seen=numpy.array([place[t[name]] if name in t else 0 for t in params]),
            there=numpy.array([name in trial for trial in params]),
        )

    def splits(self, column: int, most: int, rng: numpy.random.Generator) -> list[Split]:
        """What a tree may ask of it: thresholds of numbers, sets of anything else."""
        if self.ordered:
            cuts = numpy.arange(1, self.size)
            sides = numpy.arange(self.size) < cuts[:, None]
        else:
            sides = rng.random((4 * most, self.size)) < 0.5
            sides = numpy.unique(sides ^ sides[:, :1], axis=0)
            sides = sides[sides.any(axis=1)]
        if len(sides) > most:
            sides = rng.choice(sides, most, replace=False)
        return [Split(column=column, side=side) for side in sides]


@dataclass(frozen=True, kw_only=True)
class Forest:
    """Trees as their leaves: a sum of constants, each over a box of the space."""

    heights: Floats
    """What a leaf adds to the forest's prediction. (L,)"""
    inside: list[Floats]
    """Of each parameter, which of its values are in a leaf's box, as 0 and 1. (L, K)"""
    explained: float

    @classmethod
    def fitted(cls, axes: list[Axis], target: Floats, rng: numpy.random.Generator) -> Forest:
        """A tree on each bootstrap sample of the trials; it predicts in standard deviations."""
        total = len(target)
        target = (target - target.mean()) / target.std()
        heights: list[Floats] = []
        inside: list[list[Floats]] = [[] for _ in axes]
        most = max(1, min(MOST_SPLITS, MOST_IN_ALL // len(axes)))
        guesses, counts = numpy.zeros(total), numpy.zeros(total)
        for _ in range(TREES):
            seen = [
                numpy.where(axis.there, axis.seen, rng.choice(axis.domain, total)) for axis in axes
            ]
            splits = [s for column, axis in enumerate(axes) for s in axis.splits(column, most, rng)]
            splits = [splits[i] for i in rng.permutation(len(splits))]
            weights = numpy.bincount(rng.integers(total, size=total), minlength=total)
            leaves = grow([a.size for a in axes], seen, target, weights, splits)
            for leaf in leaves:
                out = leaf.rows[weights[leaf.rows] == 0]
                guesses[out] += leaf.mean
                counts[out] += 1
            heights.append(numpy.array([leaf.mean / TREES for leaf in leaves]))
            for column, axis in enumerate(axes):
                boxes = [leaf.box[column][axis.domain] for leaf in leaves]
                inside[column].append(numpy.stack(boxes).astype(numpy.float64))
        known = counts > 0
        errors = guesses[known] / counts[known] - target[known]
        return cls(
            heights=numpy.concatenate(heights),
            inside=[numpy.concatenate(each) for each in inside],
            explained=float(1 - (errors**2).mean() / target[known].var()),
        )

    def shares(self) -> tuple[list[float], dict[tuple[int, int], float]] | None:
        """Of the variance: of each parameter, and of each pair. None where there is none."""
        parts = numpy.stack([each.mean(axis=1) for each in self.inside])  # (P, L)
        volumes = self.heights * parts.prod(axis=0)
        mean = volumes.sum()
        variance = self._second_moment() - mean**2
        if variance < 1e-9:
            return None
        used = [numpy.where(part > 0, part, 1) for part in parts]
        alone = [
            (volumes / part) @ within - mean for part, within in zip(used, self.inside, strict=True)
        ]
        pairs = {}
        for i, j in itertools.combinations(range(len(parts)), 2):
            weights = (volumes / (used[i] * used[j]))[:, None]
            both = (self.inside[i] * weights).T @ self.inside[j] - mean
            both -= alone[i][:, None] + alone[j]
            pairs[i, j] = float((both**2).mean() / variance)
        return [float((each**2).mean() / variance) for each in alone], pairs

    def _second_moment(self) -> float:
        """The mean square of the forest's prediction: over all pairs of leaves, what they share."""
        inside = [(each / numpy.sqrt(each.shape[1])).astype(numpy.float32) for each in self.inside]
        total = 0.0
        for start in range(0, len(self.heights), CHUNK):
            chunk = slice(start, start + CHUNK)
            shared = numpy.ones((len(self.heights[chunk]), len(self.heights)), numpy.float32)
            for each in inside:
                shared *= each[chunk] @ each.T
            total += float(self.heights[chunk] @ shared.astype(numpy.float64) @ self.heights)
        return total
