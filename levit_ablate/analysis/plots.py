"""Plots of a study: differences to the baseline, accuracy against cost, learning curves."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from levit_ablate.analysis.results import CURVE, Results, Row, curve_frame
from levit_ablate.analysis.table import THROUGHPUT_NOTE

STYLE = {**sns.axes_style("whitegrid"), "axes.spines.left": False, "svg.hashsalt": "levit-ablate"}
OURS, NAMED = sns.color_palette("colorblind")[:2]
THEIRS = "0.35"
LABEL_STEPS = 500
"""Most iterations of the label placement: counted, not timed, so that a picture comes out again."""


@contextmanager
def styled_axes(width: float = 9, height: float = 5) -> Iterator[tuple[Figure, Axes]]:
    """Give a figure of that many inches with one pair of axes, in the style of all plots."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, pil_kwargs={"optimize": True})
    return buffer.getvalue()


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float, str]],
    others: Sequence[tuple[float, float]] = (),
) -> None:
    """Write each point's name beside it, off the other names and points, with a line to it.

    Call it when all else is drawn: it takes the layout as it is.

    Args:
        axes: axes that the points are drawn on.
        points: x, y and name of each point.
        others: x and y of what else should stay visible.
    """
    if not points:
        return
    from adjustText import adjust_text  # loads pyplot: a second that few commands need

    texts = [axes.text(x, y, name, fontsize=8, zorder=5) for x, y, name in points]
    for text in texts:
        text.set_in_layout(False)
    adjust_text(
        texts,
        x=[x for x, _ in others] or None,
        y=[y for _, y in others] or None,
        ax=axes,
        expand=(1.1, 1.4),
        force_text=(0.4, 0.6),
        force_static=(0.1, 0.3),
        iter_lim=LABEL_STEPS,
        arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.7},
    )


def forest(results: Results) -> Figure | None:
    """Draw every ablation's difference to the baseline, its interval, and the paper's difference.

    The grey band is what ablations without any effect would show. None without a difference.
    """
    rows = [row for row in results.rows if row.difference]
    if not rows:
        return None
    with styled_axes(height=1.6 + 0.45 * len(rows)) as (figure, axes):
        if floor := results.noise_floor:
            label = f"noise floor ({len(results.seeds)} seeds)"
            axes.axvspan(-100 * floor, 100 * floor, color="0.9", label=label, zorder=0)
        axes.axvline(0, color="0.3", linewidth=1)
        for place, row in enumerate(rows):
            assert row.difference
            if row.difference.interval:
                low, high = (100 * bound for bound in row.difference.interval)
                axes.plot([low, high], [place, place], color=OURS, linewidth=2.5)
            label = "ours, 95 % interval" if results.noise else "ours, one seed"
            axes.plot(100 * row.difference.mean, place, "o", color=OURS, label=label)
            if row.paper.get("difference"):
                theirs = row.paper["difference"]
                axes.plot(
                    theirs, place, "D", color=THEIRS, fillstyle="none", label="paper (ImageNet)"
                )
        axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("difference to the baseline, points of test accuracy")
        axes.set_title(f"{results.study} on {results.dataset}", loc="left")
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        figure.legend(
            once.values(), once.keys(), loc="outside lower center", ncols=3, frameon=False
        )
    return figure


def cost(results: Results, against: Literal["flops", "latency"] = "flops") -> Figure | None:
    """Draw accuracy against multiply-adds or measured latency.

    None without accuracies, or where no latency was measured.
    """
    if against == "flops":
        label = "multiply-adds of an image, millions"
        known = [(row.flops / 1e6, row) for row in results.rows]
    else:
        _, _, hardware = results.measured_on.partition(", ")  # the batch is that of throughput
        label = f"latency of one image, milliseconds ({THROUGHPUT_NOTE}; {hardware})"
        known = [(1e3 * row.latency, row) for row in results.rows if row.latency]
    points = [(x, 100 * row.mean, row) for x, row in known if row.mean is not None]
    if not points:
        return None
    with styled_axes() as (figure, axes):
        for x, y, row in points:
            colour = NAMED if row is results.rows[0] else OURS
            deviation = 100 * row.deviation if row.deviation else None
            axes.errorbar(x, y, deviation, fmt="o", color=colour, capsize=3, alpha=0.85)
        axes.set_xlabel("\n".join(textwrap.wrap(label, 90)))
        bars = ", ± a standard deviation over seeds" if len(results.seeds) > 1 else ""
        axes.set_ylabel(f"test accuracy, %{bars}")
        axes.set_title(f"{results.study} on {results.dataset}", loc="left")
        axes.margins(x=0.15, y=0.12)
        ends = [
            (x, y + sign * 100 * (row.deviation or 0)) for x, y, row in points for sign in (-1, 1)
        ]
        label_points(axes, [(x, y, _label(row)) for x, y, row in points], ends)
    return figure


def curves(results: Results) -> Figure | None:
    """Draw validation accuracy by epoch: the mean over seeds, and a band of one deviation.

    Reads MLflow. None where nothing is recorded. Raises RunError where it cannot be read.
    """
    history = curve_frame(results)
    if history.empty:
        return None
    with styled_axes() as (figure, axes):
        sns.lineplot(
            history,
            x="epoch",
            y=CURVE,
            hue="variant",
            errorbar="sd",
            palette=sns.color_palette("husl", history.variant.nunique()),
            ax=axes,
        )
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("validation accuracy, %")
        band = " (band: a standard deviation over seeds)" if len(results.seeds) > 1 else ""
        axes.set_title(f"{results.study} on {results.dataset}{band}", loc="left")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, title=None)
    return figure


def _label(row: Row) -> str:
    label = row.paper.get("row")
    return f"{row.name} ({label})" if label and row.paper.get("difference") else row.name


PLOTS: dict[str, Callable[[Results], Figure | None]] = {
    "differences": forest,
    "accuracy_against_flops": cost,
    "accuracy_against_latency": partial(cost, against="latency"),
    "learning_curves": curves,
}
"""File name (without suffix) → plot."""


def pictures(results: Results) -> dict[str, bytes]:
    """Return every plot that can be made as PNG, by its name in `PLOTS`."""
    made = {name: plot(results) for name, plot in PLOTS.items()}
    return {name: png(figure) for name, figure in made.items() if figure}
