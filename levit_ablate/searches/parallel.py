"""A plot of a search's trials as lines through their parameters' values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from levit_ablate.analysis.plots import STYLE
from levit_ablate.searches.found import Found

MOST_STEPS = 8
"""Values of a parameter that are spaced evenly, each with its tick; more numbers are a scale."""
ABSENT = -0.14
"""The height of a trial that lacks the parameter; values are from 0 to 1."""
LOWEST = 0.1
"""The share of trials that get the lowest colour, lest one that failed to learn takes all."""
JITTER = 0.02
"""What moves a line off the value that it shares with others, up or down, to be seen."""


def parallel(found: Sequence[Found], best: Found) -> Figure | None:
    """A line for each complete trial, coloured by accuracy; the best is thick.

    None where no parameter varies.
    """
    trials = [t for t in found if t.state == "complete" and t.accuracy is not None]
    scales = [_Scale(name, trials) for name in _varied(trials)]
    if not scales:
        return None
    accuracies = [100 * (t.accuracy or 0) for t in trials]
    low, high = numpy.quantile(accuracies, [LOWEST, 1])
    norm = Normalize(low, high) if high > low else Normalize(low - 1, high)
    colours = mpl.colormaps["viridis_r"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(9, 1.05 * (len(scales) + 1.5)), 5.5), layout="constrained")
        axes = figure.subplots()
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
        absent = any(scale.conditional for scale in scales)
        axes.set_yticks([ABSENT] if absent else [], ["not there"] if absent else [])
        axes.set_ylim((ABSENT if absent else 0) - 0.06, 1.06)
        axes.set_xlim(-0.15, len(scales) + 0.75)
        axes.grid(axis="x", color="0.4")
        name = f"trial {best.number}{best.ablation and f', {best.ablation}'}"
        axes.set_title(f"{len(trials)} complete trials; thick: the best, {name}", loc="left")
        if span:
            bar = figure.colorbar(
                ScalarMappable(norm, colours),
                ax=axes,
                extend="min" if min(accuracies) < low else "neither",
                pad=0.01,
                aspect=30,
            )
            bar.set_label("validation accuracy, %")
    return figure


class _Scale:
    """Where the values of a parameter stand on its axis, from 0 to 1."""

    def __init__(self, name: str, trials: Sequence[Found]) -> None:
        values = [trial.params[name] for trial in trials if name in trial.params]
        known = list(dict.fromkeys(values))
        self.name = name
        self.conditional = len(values) < len(trials)
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in known)
        if numbers and len(known) > MOST_STEPS:
            low, high = min(known), max(known)
            self.ticks = [(at, f"{low + at * (high - low):.3g}") for at in (0.0, 0.5, 1.0)]
            self._places = {value: (value - low) / (high - low) for value in known}
        else:
            known = sorted(known) if numbers else sorted(known, key=str)
            steps = numpy.linspace(0, 1, len(known)) if len(known) > 1 else [0.5]
            self._places = {value: float(at) for value, at in zip(known, steps, strict=True)}
            self.ticks = [(at, _written(value)) for value, at in self._places.items()]

    def height(self, trial: Found) -> float:
        """Of the trial's value, or below all of them where it has none."""
        return self._places[trial.params[self.name]] if self.name in trial.params else ABSENT


def _varied(trials: Sequence[Found]) -> list[str]:
    """The parameters that differ between trials, or that only some have."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    return [
        name for name in names if len({trial.params.get(name, _MISSING) for trial in trials}) > 1
    ]


_MISSING = object()


def _written(value: Any) -> str:
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ticks(axes: Axes, place: int, ticks: Sequence[tuple[float, str]]) -> None:
    """Write an axis's values to its right, above the lines."""
    for height, text in ticks:
        ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
        axes.text(place + 0.04, height, text, fontsize=8, va="center", bbox=ground, zorder=4)
