"""Plots of a search: its history, accuracy against cost, settings of the trials, importances."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from levit_ablate.analysis.plots import NAMED, OURS, label_points, png, styled_axes
from levit_ablate.searches.importance import Importance, limits
from levit_ablate.searches.results import (
    TrialResult,
    complete_of,
    counts_of,
    front_of,
    is_within,
    ordered,
    winner,
)

FADED = (0.65, 0.65, 0.65)
Colour = tuple[float, float, float]
Point = tuple[float, TrialResult]
"""A trial, and where it stands on the axis of x."""
COSTS = {
    "flops": (1e-6, "multiply-adds of an image, millions"),
    "num_params": (1e-6, "parameters, millions"),
    "latency": (1e3, "latency of one image, milliseconds"),
}
"""Field of a trial → factor to the unit of the plot, and the axis's label."""
MOST_MAIN, MOST_PAIRS = 15, 10
"""Most bars of single settings and of pairs."""
MOST_STEPS = 8
"""Most values of a setting that are spaced evenly, each with its tick; more numbers are a scale."""
ABSENT = -0.14
"""Height of a trial that lacks a setting; values are from 0 to 1."""
LOWEST = 0.1
"""Share of trials that get the lowest colour, so that one failure does not take the whole scale."""
JITTER = 0.02
"""Most that a line is moved up or down from a value that it shares with others."""


def pictures(
    found: Sequence[TrialResult],
    cost: str,
    budget: float | None = None,
    importance: Importance | None = None,
) -> dict[str, bytes]:
    """Return every plot that can be made as PNG, by its name.

    The cost is a field of a trial, and its budget is in the unit of that; None allows anything.
    """
    best = winner(found, cost, budget)
    made = {
        "history": history(found, cost, budget),
        "front": front(found, cost, budget),
        "parallel": parallel(found, best) if best else None,
        "importance": effects(importance) if importance else None,
    }
    return {name: png(figure) for name, figure in made.items() if figure}


def history(found: Sequence[TrialResult], cost: str, budget: float | None = None) -> Figure | None:
    """Draw the accuracy of every trial by its number, and the best until then. None without any.

    The best is that of complete trials within the budget.
    """
    complete = sorted(complete_of(found), key=lambda t: t.number)
    pruned = [t for t in found if t.state == "pruned" and t.accuracy is not None]
    if not complete and not pruned:
        return None
    with styled_axes() as (figure, axes):
        last = max(t.number for t in found)
        if bad := [t.number for t in found if t.state in ("invalid", "failed")]:
            ground = axes.get_xaxis_transform()
            label = "invalid or failed"
            axes.plot(bad, [0.012] * len(bad), "|", color="0.3", label=label, transform=ground)
        _draw(axes, [(t.number, t) for t in pruned], "x", FADED, "pruned, its last accuracy")
        allowed = [t for t in complete if is_within(t, cost, budget)]
        beyond = [t for t in complete if not is_within(t, cost, budget)]
        _draw_complete(axes, [(t.number, t) for t in allowed])
        _draw_complete(axes, [(t.number, t) for t in beyond], "over the budget")
        best = list(itertools.accumulate((_percent(t) for t in allowed), max))
        if best:
            numbers, ys = [*(t.number for t in allowed), last], [*best, best[-1]]
            axes.step(numbers, ys, where="post", color=OURS, label="best so far")
        axes.set_xlim(-0.02 * last - 0.5, 1.02 * last + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        axes.set_xlabel("trial")
        _finish(figure, axes, found, [(t.number, t) for t in [*complete, *pruned]])
    return figure


def front(found: Sequence[TrialResult], cost: str, budget: float | None = None) -> Figure | None:
    """Draw accuracy against cost, and the Pareto front. None without complete trials."""
    scale, label = COSTS[cost]
    complete = [trial for trial in complete_of(found) if getattr(trial, cost) is not None]
    known = [(scale * getattr(trial, cost), trial) for trial in complete]
    if not known:
        return None
    with styled_axes() as (figure, axes):
        best = front_of(found, cost)
        _draw_complete(axes, known)
        xs = [scale * getattr(trial, cost) for trial in best]
        axes.step(xs, list(map(_percent, best)), where="post", color=OURS, label="Pareto front")
        if budget is not None:
            axes.axvline(scale * budget, color="0.3", linestyle="--", label="budget")
        if max(x for x, _ in known) > 20 * min(x for x, _ in known) > 0:
            axes.set_xscale("log")
        axes.set_xlabel(label)
        _finish(figure, axes, found, known)
    return figure


def effects(importance: Importance) -> Figure:
    """Draw the largest shares of the variance as bars, with their limits below."""
    main = sorted(importance.main.items(), key=lambda item: -item[1])[:MOST_MAIN]
    pairs = sorted(importance.pairs.items(), key=lambda item: -item[1])[:MOST_PAIRS]
    named = [(f"{first} × {second}", share) for (first, second), share in pairs]
    number = len(main) + len(pairs)
    with styled_axes(height=2.8 + 0.25 * number) as (figure, axes):
        for start, bars, colour, label in [
            (0, main, OURS, "by itself"),
            (len(main), named, NAMED, "together, beyond that"),
        ]:
            places, widths = range(start, start + len(bars)), [100 * share for _, share in bars]
            if bars:
                drawn = axes.barh(places, widths, color=colour, label=label)
                axes.bar_label(drawn, fmt="%.0f %%", padding=3, fontsize=8)
        axes.set_yticks(range(number), [name for name, _ in [*main, *named]])
        axes.set_ylim(number - 0.4, -0.6)  # the first on top
        axes.margins(x=0.08)
        axes.grid(axis="y", visible=False)
        of = "accuracy" if importance.is_exact else "a forest's prediction"
        axes.set_xlabel(f"share of the variance of {of}, %")
        axes.set_title("What accuracy depends on", loc="left")
        axes.legend(loc="lower right")
        below = "\n".join(limits(importance))
        figure.supxlabel(below, x=0.01, ha="left", fontsize=8, wrap=True)
    return figure


def parallel(found: Sequence[TrialResult], best: TrialResult) -> Figure | None:
    """Draw parallel coordinates: a line for each complete trial, coloured by accuracy.

    The best is thick. None where no setting varies.
    """
    trials = complete_of(found)
    scales = [_Scale(name, trials) for name in _varied(trials)]
    if not scales:
        return None
    accuracies = list(map(_percent, trials))
    low, high = numpy.quantile(accuracies, [LOWEST, 1])
    norm = Normalize(low, high) if high > low else Normalize(low - 1, high)
    colours = mpl.colormaps["viridis_r"]
    with styled_axes(max(9, 1.05 * (len(scales) + 1.5)), 5.5) as (figure, axes):
        span = max(accuracies) - min(accuracies)
        places = range(len(scales) + 1)
        rng = numpy.random.default_rng(0)
        for trial, accuracy in sorted(zip(trials, accuracies, strict=True), key=lambda t: t[1]):
            shift = rng.uniform(-JITTER, JITTER)
            heights = [scale.height(trial) + shift for scale in scales]
            heights.append((accuracy - min(accuracies)) / span if span else 0.5)
            (line,) = axes.plot(places, heights, color=colours(norm(accuracy)), linewidth=1)
            if trial is best:
                line.set(linewidth=4, zorder=3)
                line.set_path_effects([withStroke(linewidth=7, foreground="white")])
        for place, scale in enumerate(scales):
            _ticks(axes, place, scale.ticks)
        ends = [(0.0, min(accuracies)), (1.0, max(accuracies))] if span else [(0.5, accuracies[0])]
        _ticks(axes, len(scales), [(height, f"{value:.1f} %") for height, value in ends])
        axes.set_xticks(places, [*(scale.name for scale in scales), "accuracy"])
        axes.tick_params("x", rotation=30)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
        absent = any(scale.is_partial for scale in scales)
        axes.set_yticks([ABSENT] if absent else [], ["not there"] if absent else [])
        axes.set_ylim((ABSENT if absent else 0) - 0.06, 1.06)
        axes.set_xlim(-0.15, len(scales) + 0.75)
        axes.grid(axis="x", color="0.4")
        name = f"trial {best.number}{best.ablation and f', {best.ablation}'}"
        axes.set_title(f"{len(trials)} complete trials; thick: the best, {name}", loc="left")
        if span:
            extend = "min" if min(accuracies) < low else "neither"
            scalar = ScalarMappable(norm, colours)
            bar = figure.colorbar(scalar, ax=axes, extend=extend, pad=0.01, aspect=30)
            bar.set_label("validation accuracy, %")
    return figure


class _Scale:
    """Axis of a setting: the heights of its values, from 0 to 1, and its ticks."""

    def __init__(self, name: str, trials: Sequence[TrialResult]) -> None:
        self.name = name
        values = [trial.params[name] for trial in trials if name in trial.params]
        self.is_partial = len(values) < len(trials)
        known = ordered(values)
        low, high = known[0], known[-1]
        if len(known) > MOST_STEPS and type(low) in (int, float):
            self.places = {value: (value - low) / (high - low) for value in known}
            self.ticks = [(at, f"{low + at * (high - low):.3g}") for at in (0.0, 0.5, 1.0)]
        else:
            steps = numpy.linspace(0, 1, len(known)) if len(known) > 1 else [0.5]
            self.places = dict(zip(known, map(float, steps), strict=True))
            self.ticks = [(at, _word(value)) for value, at in self.places.items()]

    def height(self, trial: TrialResult) -> float:
        """Return the height of the trial's value, below all where it has none."""
        return self.places[trial.params[self.name]] if self.name in trial.params else ABSENT


def _varied(trials: Sequence[TrialResult]) -> list[str]:
    """List the settings that differ between trials, or that only some have."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    missing = object()
    return [name for name in names if len({t.params.get(name, missing) for t in trials}) > 1]


def _word(value: Any) -> str:
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ticks(axes: Axes, place: int, ticks: Sequence[tuple[float, str]]) -> None:
    """Write a setting's values to the right of its axis, above the lines."""
    for height, text in ticks:
        ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
        axes.text(place + 0.04, height, text, fontsize=8, va="center", bbox=ground, zorder=4)


def _percent(trial: TrialResult) -> float:
    assert trial.accuracy is not None
    return 100 * trial.accuracy


def _draw_complete(axes: Axes, points: Sequence[Point], beyond: str = "") -> None:
    """Draw complete trials, enqueued ablations in another colour; hollow if over the budget."""
    named = [(x, trial) for x, trial in points if trial.ablation]
    others = [(x, trial) for x, trial in points if not trial.ablation]
    _draw(axes, others, "o", OURS, beyond or "complete", hollow=bool(beyond))
    _draw(axes, named, "D", NAMED, "" if beyond and others else beyond or "by name", bool(beyond))


def _draw(
    axes: Axes,
    points: Sequence[Point],
    marker: str,
    colour: Colour,
    label: str,
    hollow: bool = False,
) -> None:
    if points:
        xs, ys = [x for x, _ in points], [_percent(trial) for _, trial in points]
        (line,) = axes.plot(xs, ys, marker, color=colour, label=label or None)
        line.set(fillstyle="none" if hollow else "full", markersize=5, alpha=0.85)


def _finish(
    figure: Figure,
    axes: Axes,
    found: Sequence[TrialResult],
    points: Sequence[Point],
) -> None:
    """Add what plots of accuracy share: axis, states of the trials, legend, names of ablations."""
    axes.set_ylabel("validation accuracy, %")
    states = counts_of(found)
    ended = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    total = states.total()
    axes.set_title(f"{total} trial{'s' * (total != 1)}: {ended}", loc="left")
    axes.margins(y=0.12)
    figure.legend(
        loc="outside lower center",
        ncols=6,
        frameon=False,
        columnspacing=1.2,
        handletextpad=0.4,
        fontsize=10,
    )
    named = [(x, _percent(trial), trial.ablation) for x, trial in points if trial.ablation]
    label_points(axes, named, [(x, _percent(trial)) for x, trial in points if not trial.ablation])
