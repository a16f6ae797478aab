"""Plots show the figures of the table."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import numpy
import pandas as pd
import pytest
from made_up import ACCURACIES, results, row
from matplotlib.figure import Figure

import levit_ablate
from levit_ablate.analysis import plots
from levit_ablate.analysis.results import CURVE


def texts(figure) -> str:
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    own = axes.get_legend()
    legends += [text.get_text() for text in own.get_texts()] if own else []
    legends += [text.get_text() for text in axes.texts]
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
    figure = plots.cost(results())
    assert "no_pyramid (A1)" in texts(figure) and "multiply-adds" in texts(figure)
    assert (2.661248, 57.1) in points(figure)
    assert "latency" in texts(plots.cost(results(), "latency"))
    unmeasured = results([row(n, v, latency=None) for n, v in ACCURACIES.items()])
    assert plots.cost(unmeasured, "latency") is None


def test_curves_have_a_line_for_each_variant(monkeypatch):
    history = pd.DataFrame(
        [
            {"variant": name, "seed": seed, "epoch": epoch, CURVE: 0.1 * epoch}
            for name in ("baseline", "no_pyramid")
            for seed in range(3)
            for epoch in (1, 2, 3)
        ]
    )
    monkeypatch.setattr(plots, "curve_frame", lambda _: history)
    figure = plots.curves(results())
    assert len(figure.axes[0].get_lines()) == 2 + 2  # and the legend's own
    assert "baseline no_pyramid" in texts(figure)


def test_what_has_no_accuracy_is_not_drawn():
    nothing = results([row("baseline", (None,) * 3), row("no_pyramid", (None,) * 3)])
    assert plots.forest(nothing) is None and plots.cost(nothing) is None


@pytest.mark.parametrize("name", ["differences", "accuracy_against_flops"])
def test_the_same_results_give_the_same_picture(name, monkeypatch):
    monkeypatch.setattr(plots, "PLOTS", {name: plots.PLOTS[name]})
    first, second = plots.pictures(results()), plots.pictures(results())
    assert first == second and first[name].startswith(b"\x89PNG")


def covered(figure: Figure) -> list[str]:
    """The names that lie over another name, or beyond the axes."""
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert len(boxes) == len(axes.texts)
    bad = [
        f"{a} on {b}" for a, b in itertools.combinations(boxes, 2) if boxes[a].overlaps(boxes[b])
    ]
    frame = axes.bbox.padded(1)  # a name may stand on the edge
    return bad + [
        name
        for name, box in boxes.items()
        if not (frame.x0 <= box.x0 and box.x1 <= frame.x1)
        or not (frame.y0 <= box.y0 and box.y1 <= frame.y1)
    ]


@pytest.mark.parametrize("flops", [lambda n: 2_661_248, lambda n: 2_000_000 + 90_000 * n])
def test_names_beside_points_neither_cover_each_other_nor_leave_the_axes(flops):
    """As many as the longest study that ships, most of them at one cost."""
    rng = numpy.random.default_rng(0)
    rows = [row("baseline", (0.57, 0.575, 0.568))]
    rows += [
        row(f"no_design_choice_{n}", tuple(0.55 + 0.03 * rng.random(3)), flops=flops(n), paper={})
        for n in range(14)
    ]
    figure = plots.cost(results(rows))
    assert len(figure.axes[0].texts) == 15
    assert covered(figure) == []


def test_no_names_are_no_error():
    with plots.styled_axes() as (_, axes):
        plots.label_points(axes, [])
    assert not axes.texts


def test_libraries_that_few_commands_need_are_loaded_where_they_are_used():
    """Loaded with a module, each would cost every report a second."""
    late = {"adjustText", "statsmodels", "sklearn"}
    for package in ("analysis", "searches"):
        for path in (Path(levit_ablate.__file__).parent / package).glob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                names = [alias.name for alias in getattr(node, "names", [])]
                names += [getattr(node, "module", None) or ""]
                assert not late & {name.partition(".")[0] for name in names}, path
