"""Which settings of a search its accuracies depend on, as shares of their variance.

A complete grid gets an exact factorial ANOVA, every two settings together included. Other searches
get Optuna's fANOVA (Hutter, Hoos and Leyton-Brown, ICML 2014), which has main effects only; its
PED-ANOVA, the default, cannot be used here: it gives 0 to both flags of an exclusive or.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from levit_ablate.searches import sampling, trials
from levit_ablate.searches.results import ordered, settings_of
from levit_ablate.searches.search import Search

FEWEST_TRIALS = 10
"""Trials below which no forest is fitted."""
ENOUGH = 10
"""Trials a setting below which a forest's shares are called unreliable."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Shares of the variance of accuracy that the settings of a search have, each 0 to 1."""

    main: Mapping[str, float]
    """Share of each setting by itself, averaged over all others."""
    pairs: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Share of every two settings together, beyond their own; empty unless exact."""
    is_exact: bool
    """Whether it is the ANOVA of a complete grid, not a forest's."""
    num_trials: int
    partial: Mapping[str, int] = field(default_factory=dict)
    """Settings that only some trials have, and of how many; they have no share."""
    at: str = ""
    """Point in the trainings at which accuracy was taken, in words; empty for their end."""

    @property
    def rest(self) -> float:
        """Share of what is not shown: interactions of more settings, and noise."""
        return max(0.0, 1 - sum(self.main.values()) - sum(self.pairs.values()))


def importance_of(search: Search, found: Sequence[FrozenTrial]) -> Importance | None:
    """Return the importance of a search's settings; None with too few trials, or all alike.

    Ablations enqueued from outside the space are left out. Where some trainings were pruned, the
    accuracy is the last that all have: those that were not pruned were chosen by theirs, and among
    the chosen settings seem to interact that do not.
    """
    trained = [
        trial
        for trial in found
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        and trials.INVALID not in trial.user_attrs
        and not trial.user_attrs.get(sampling.MOVED)
    ]
    pruned = [trial for trial in trained if trial.state == TrialState.PRUNED]
    if not pruned:
        exact = factorial([t.params for t in trained], [t.values[0] for t in trained])
        if exact:
            return exact
    networks = {trial.user_attrs[trials.KEY]: trial for trial in trained}.values()  # each once
    step = min((max(t.intermediate_values) for t in pruned), default=None)
    if step is None:
        known, at = [(trial, trial.values[0]) for trial in networks], ""
    else:
        known = [
            (trial, trial.intermediate_values[step])
            for trial in networks
            if step in trial.intermediate_values
        ]
        is_seed = search.pruner == "wilcoxon"
        at = f"with seed {search.seeds[step]}" if is_seed else f"after epoch {step}"
    return main_effects([settings_of(t) for t, _ in known], [v for _, v in known], at)


def factorial(params: Sequence[Mapping[str, Any]], values: Sequence[float]) -> Importance | None:
    """Return the exact ANOVA of a complete grid, from each trial's settings and accuracy.

    The grid is balanced, so the sums of squares of the effects add up, in whatever order. None with
    fewer than two settings, where not every combination was tried, all equally often, or where all
    accuracies are the same.
    """
    if not params or any(trial.keys() != params[0].keys() for trial in params):
        return None
    columns = {name: [repr(trial[name]) for trial in params] for name in params[0]}
    names = [name for name, column in columns.items() if len(set(column)) > 1]
    frame = pd.DataFrame({f"f{i}": columns[name] for i, name in enumerate(names)})
    if len(names) < 2 or max(values) - min(values) < 1e-12:
        return None
    cells = frame.value_counts()
    if len(cells) < math.prod(frame.nunique()) or cells.nunique() > 1:
        return None
    from statsmodels.regression.linear_model import OLS
    from statsmodels.stats.anova import anova_lm

    frame["accuracy"] = values
    settings = [f"C(f{i})" for i in range(len(names))]
    model = OLS.from_formula(f"accuracy ~ ({' + '.join(settings)})**2", frame).fit()
    shares = anova_lm(model, test=None)["sum_sq"] / model.centered_tss
    return Importance(
        main={name: float(shares[each]) for name, each in zip(names, settings, strict=True)},
        pairs={
            (names[i], names[j]): float(shares[f"{settings[i]}:{settings[j]}"])
            for i, j in itertools.combinations(range(len(names)), 2)
        },
        is_exact=True,
        num_trials=len(params),
    )


def main_effects(
    params: Sequence[Mapping[str, Any]], values: Sequence[float], at: str = ""
) -> Importance | None:
    """Return the main effects by Optuna's fANOVA, of the settings that all trials have.

    Values count by their rank, and all weigh the same; `at` says when in the trainings they were
    taken. Settings with one value are left out. None with fewer than ten trials, or where no
    setting or no accuracy varies.
    """
    if len(values) < FEWEST_TRIALS or max(values) - min(values) < 1e-12:
        return None
    present = {name: [t[name] for t in params if name in t] for t in params for name in t}
    shared = {name: own for name, own in present.items() if len(own) == len(params)}
    ranks = {name: _ranks(own) for name, own in shared.items() if len(set(own)) > 1}
    if not ranks:
        return None
    # an interval of length 1 for each value, so that all weigh the same
    intervals: dict[str, BaseDistribution] = {
        name: FloatDistribution(-0.5, max(own) + 0.5) for name, own in ranks.items()
    }
    study = optuna.study.create_study(storage=optuna.storages.InMemoryStorage())
    for number, value in enumerate(map(float, values)):
        own = {name: each[number] for name, each in ranks.items()}
        study.add_trial(optuna.create_trial(params=own, distributions=intervals, value=value))
    try:
        shares = optuna.importance.FanovaImportanceEvaluator(seed=0).evaluate(study)
    except RuntimeError:  # no tree found anything to split by
        return None
    return Importance(
        main={name: float(share) for name, share in shares.items()},
        is_exact=False,
        num_trials=len(values),
        partial={name: len(own) for name, own in present.items() if name not in shared},
        at=at,
    )


def _ranks(values: Sequence[Any]) -> list[float]:
    """Return values as ranks from 0. Optuna's own one-hot encoding halves the share of a flag."""
    rank = {value: float(number) for number, value in enumerate(ordered(values))}
    return [rank[value] for value in values]


def limits(found: Importance) -> list[str]:
    """Return what the shares cannot tell: a line, and one more for pruned or partial settings."""
    trials, settings = found.num_trials, len(found.main)
    if found.is_exact:
        line = (
            f"Exact for these {trials} trials: the factorial ANOVA of every combination of "
            f"{settings} settings. One accuracy a combination leaves no error term: the noise of "
            f"training is in every share, {100 / (trials - 1):.1f} % for each degree of freedom if "
            f"nothing had an effect."
        )
        higher = f" Interactions of three settings or more have {100 * found.rest:.1f} %."
        return [line + (higher if settings > 2 else "")]
    few = f", and {trials} are too few to rely on" if trials < ENOUGH * settings else ""
    lines = [
        f"Main effects only, by Optuna's fANOVA: a forest of regression trees, fitted to {trials} "
        f"trials of {settings} settings that were not drawn uniformly{few}; what settings do only "
        f"together (an exclusive or) is not shown, and widths are those fitted to the budget."
    ]
    if found.at:
        lines.append(f"Accuracy is that {found.at}, the last that pruned trials have too.")
    if found.partial:
        some = ", ".join(f"{name} ({count} trials)" for name, count in found.partial.items())
        lines.append(f"Left out, as only some trials have them: {some}.")
    return lines
