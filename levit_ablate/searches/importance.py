"""Which parameters of a search its accuracies depend on, and which only together.

Functional ANOVA (Hutter, Hoos and Leyton-Brown, ICML 2014) of a forest of regression trees. Optuna
has the main effects of it alone, and its PED-ANOVA gives 0 to both flags of an exclusive or. So
does a forest of ordinary trees, scikit-learn's, where other parameters matter too: see `tree.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from levit_ablate.searches.forest import Axis, Forest

FEWEST_TRIALS = 10
RELIABLE = 0.3
"""Of `explained`, from 0 to 1; and see `ENOUGH`."""
ENOUGH = 10
"""Trials for each parameter."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Shares of the variance that a forest's predictions have over the space, each from 0 to 1.

    The space is every combination of the parameters' values, all equally likely. The shares of
    `main`, `pairs` and `higher` sum to 1.
    """

    main: Mapping[str, float]
    """What a parameter does by itself, averaged over all others."""
    pairs: Mapping[tuple[str, str], float]
    """What two parameters do together beyond what each does by itself: for every pair of them."""
    explained: float
    """R² of the forest on trials that a tree was not fitted to (out of bag): 1 is perfect, 0 what
    the mean of all trials predicts; a forest that learned noise is below."""
    num_trials: int
    present: Mapping[str, int]
    """Trials that have the parameter, where not all do."""
    at: str = ""
    """Where in the trainings the accuracies are, in words; empty: at their end."""

    @property
    def higher(self) -> float:
        """The share of interactions of three parameters or more."""
        return max(0.0, 1 - sum(self.main.values()) - sum(self.pairs.values()))

    @property
    def reliable(self) -> bool:
        """Whether the forest predicts trials, and there are enough of them, to rely on shares."""
        return self.explained >= RELIABLE and self.num_trials >= ENOUGH * len(self.main)


def importance(
    params: Sequence[Mapping[str, Any]],
    values: Sequence[float],
    at: str = "",
    seed: int = 0,
) -> Importance | None:
    """The importance of parameters and of their pairs for the values of complete trials.

    Nothing here is sampled but the forest: the shares are exact sums over its leaves. It takes
    numbers (bool aside) by their order and anything else as mere names. Where a trial lacks a
    parameter, its value does not matter there: each tree sees a random one.

    Args:
        params: of each trial, the values by name; a trial may lack some.
        values: an accuracy for each trial.
        at: where in its training that is, in words, if not at its end: "after epoch 1".
        seed: of the forest.

    Returns:
        None with fewer than ten trials, or where no parameter or no accuracy varies. Parameters
        with one value are left out.
    """
    target = numpy.asarray(values, dtype=numpy.float64)
    names = dict.fromkeys(name for trial in params for name in trial)
    axes = [Axis.of(name, params) for name in names]
    axes = [axis for axis in axes if len(axis.domain) > 1]
    if len(target) < FEWEST_TRIALS or not axes or numpy.ptp(target) < 1e-12:
        return None
    forest = Forest.fitted(axes, target, numpy.random.default_rng(seed))
    shares = forest.shares()
    if shares is None:
        return None
    return Importance(
        main={axis.name: share for axis, share in zip(axes, shares[0], strict=True)},
        pairs={(axes[i].name, axes[j].name): share for (i, j), share in shares[1].items()},
        explained=forest.explained,
        num_trials=len(target),
        present={a.name: int(a.there.sum()) for a in axes if not a.there.all()},
        at=at,
    )


def limits(found: Importance) -> list[str]:
    """What has to be said below the shares, in sentences; first, where they are worth little."""
    trials, num_params = found.num_trials, len(found.main)
    said = []
    if not found.reliable:
        reasons = []
        if found.explained < RELIABLE:
            reasons.append(f"the forest explains less than {100 * RELIABLE:.0f} % of the variance")
        if trials < ENOUGH * num_params:
            reasons.append(f"there are fewer than {ENOUGH} trials for each parameter")
        said.append(f"These shares are not to be relied on: {' and '.join(reasons)}.")
    explained = f"{100 * found.explained:.0f} %" if found.explained > 0 else "nothing"
    if found.at:
        said.append(
            f"The accuracy is that {found.at}, the last that all networks have: those that were "
            f"not given up were chosen by it, so that settings would seem to interact among them."
        )
    said += [
        f"The shares describe a forest of regression trees, not the networks: it was fitted to "
        f"{trials} trials of {num_params} parameters, and explains {explained} of the "
        f"variance of trials that it was not fitted to (out-of-bag R²).",
        "The sampler did not draw the trials uniformly: where it seldom went the forest guesses, "
        "and parameters that it changed together cannot be told apart.",
        "Widths are those that were trained, after they were fitted to the budget.",
        f"Interactions of three parameters or more have {100 * found.higher:.0f} % of the "
        f"variance, and are not shown.",
    ]
    if found.present:
        some = ", ".join(f"{name} ({count})" for name, count in found.present.items())
        said.append(
            f"Only some trials have these parameters: {some}. Where a trial lacks one, its value "
            f"is taken not to matter."
        )
    return said
