"""Plots of a study: the differences, what accuracy costs, and how it came about."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mlflow import MlflowClient

from levit_ablate.analysis.notes import THROUGHPUT_NOTE
from levit_ablate.analysis.results import Results, Row
from levit_ablate.tracking.runs import reading_the_record

STYLE = {**sns.axes_style("whitegrid"), "axes.spines.left": False, "svg.hashsalt": "levit-ablate"}
OURS, THEIRS = sns.color_palette("colorblind")[0], "0.35"
CURVE = "val_accuracy"


def forest(results: Results) -> Figure | None:
    """Every ablation's difference to the baseline, with its interval, and the paper's beside it.

    The grey band is what ablations without any effect would show. None without a difference.
    """
    rows = [row for row in results.rows if row.difference]
    if not rows:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 1.6 + 0.45 * len(rows)), layout="constrained")
        axes = figure.subplots()
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


def against_flops(results: Results) -> Figure | None:
    """Accuracy against multiply-adds. None without accuracies."""
    return _against(results, lambda row: row.flops / 1e6, "multiply-adds of an image, millions")


def against_latency(results: Results) -> Figure | None:
    """Accuracy against measured latency. None where none was measured."""
    _, _, where = results.measured_on.partition(", ")  # without the batch, which is of throughput
    return _against(
        results,
        lambda row: 1e3 * row.latency if row.latency else None,
        f"latency of one image, milliseconds ({THROUGHPUT_NOTE}; {where})",
    )


def _against(results: Results, cost: Callable[[Row], float | None], label: str) -> Figure | None:
    known = [(cost(row), row) for row in results.rows]
    points = [(x, row) for x, row in known if x is not None and row.mean is not None]
    if not points:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.subplots()
        colours = sns.color_palette("husl", len(points))
        for (x, row), colour in zip(points, colours, strict=True):
            assert row.mean is not None
            deviation = 100 * row.deviation if row.deviation else None
            axes.errorbar(
                x, 100 * row.mean, deviation, fmt="o", color=colour, capsize=3, label=_label(row)
            )
        axes.set_xlabel("\n".join(textwrap.wrap(label, 90)))
        bars = ", ± a standard deviation over seeds" if len(results.seeds) > 1 else ""
        axes.set_ylabel(f"test accuracy, %{bars}")
        axes.set_title(f"{results.study} on {results.dataset}", loc="left")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def curves(results: Results) -> Figure | None:
    """Validation accuracy by epoch: a mean over seeds and a band of a standard deviation.

    Reads the record. None where nothing is recorded. Raises RunError where it cannot be read.
    """
    history = histories(results)
    if history.empty:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.subplots()
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


@reading_the_record()
def histories(results: Results) -> pd.DataFrame:
    """A row for each variant, seed and epoch (from 1), with the validation accuracy (0 to 1)."""
    client = MlflowClient()
    points = [
        {"variant": row.name, "seed": seed, "epoch": metric.step + 1, CURVE: metric.value}
        for row in results.rows
        for seed, run in row.runs.items()
        for metric in client.get_metric_history(run, CURVE)
    ]
    return pd.DataFrame(points, columns=["variant", "seed", "epoch", CURVE])


def _label(row: Row) -> str:
    label = row.paper.get("row")
    return f"{row.name} ({label})" if label and row.paper.get("difference") else row.name


PLOTS: dict[str, Callable[[Results], Figure | None]] = {
    "differences": forest,
    "accuracy_against_flops": against_flops,
    "accuracy_against_latency": against_latency,
    "learning_curves": curves,
}
"""By the names of their files."""


def pictures(results: Results) -> dict[str, bytes]:
    """Every plot that can be made, as PNG, by its name."""
    made = {name: plot(results) for name, plot in PLOTS.items()}
    return {name: _png(figure) for name, figure in made.items() if figure}


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
