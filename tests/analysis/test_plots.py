"""Plots show the figures of the table."""

from __future__ import annotations

import pandas as pd
import pytest
from made_up import ACCURACIES, results, row

from levit_ablate.analysis import plots


def texts(figure) -> str:
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    own = axes.get_legend()
    legends += [text.get_text() for text in own.get_texts()] if own else []
    return " ".join([*labels, *legends, axes.get_xlabel(), axes.get_ylabel()])


def points(figure) -> set[tuple[float, float]]:
    return {
        (round(float(x), 6), round(float(y), 6))
        for line in figure.axes[0].get_lines()
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }


def test_the_forest_has_every_difference_its_interval_and_the_papers():
    found = results()
    figure = plots.forest(found)
    for place, each in enumerate(found.rows[1:]):
        drawn = points(figure)
        assert (round(100 * each.difference.mean, 6), place) in drawn
        for bound in each.difference.interval:
            assert (round(100 * bound, 6), place) in drawn
    assert (-15.4, 0) in points(figure)
    assert "no_pyramid (A1)" in texts(figure) and "noise floor (3 seeds)" in texts(figure)


def test_one_seed_is_drawn_without_an_interval():
    figure = plots.forest(results(seeds=1))
    assert "one seed" in texts(figure) and "noise floor" not in texts(figure)


def test_accuracy_is_drawn_against_cost_with_its_deviation():
    figure = plots.against_flops(results())
    assert "no_pyramid (A1)" in texts(figure) and "multiply-adds" in texts(figure)
    assert (2.661248, 57.1) in points(figure)
    assert "latency" in texts(plots.against_latency(results()))
    unmeasured = results([row(n, v, latency=None) for n, v in ACCURACIES.items()])
    assert plots.against_latency(unmeasured) is None


def test_curves_have_a_line_for_each_variant(monkeypatch):
    history = pd.DataFrame(
        [
            {"variant": name, "seed": seed, "epoch": epoch, plots.CURVE: 0.1 * epoch}
            for name in ("baseline", "no_pyramid")
            for seed in range(3)
            for epoch in (1, 2, 3)
        ]
    )
    monkeypatch.setattr(plots, "histories", lambda _: history)
    figure = plots.curves(results())
    assert len(figure.axes[0].get_lines()) == 2 + 2  # and the legend's own
    assert "baseline no_pyramid" in texts(figure)


def test_what_has_no_accuracy_is_not_drawn():
    nothing = results([row("baseline", (None,) * 3), row("no_pyramid", (None,) * 3)])
    assert plots.forest(nothing) is None and plots.against_flops(nothing) is None


@pytest.mark.parametrize("name", ["differences", "accuracy_against_flops"])
def test_the_same_results_give_the_same_picture(name, monkeypatch):
    monkeypatch.setattr(plots, "PLOTS", {name: plots.PLOTS[name]})
    first, second = plots.pictures(results()), plots.pictures(results())
    assert first == second and first[name].startswith(b"\x89PNG")
