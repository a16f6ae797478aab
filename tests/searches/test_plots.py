"""Plots of a search show its trials where they are."""

from __future__ import annotations

import dataclasses
import itertools

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levit_ablate.searches import plots
from levit_ablate.searches.importance import Importance, limits
from levit_ablate.searches.plots import ABSENT
from levit_ablate.searches.results import TrialResult, front_of, winner


def trial(number, accuracy, flops=1_000_000, **values):
    """A complete trial, but for what is said."""
    given = {
        "number": number,
        "state": "complete",
        "params": {},
        "accuracy": accuracy,
        "flops": flops,
        "num_params": flops // 10,
        "latency": flops * 1e-9,
        "ablation": "",
        "seconds": 60.0,
        "error": "",
        "key": "",
    }
    return TrialResult(**(given | values))


TRIALS = [
    trial(0, 0.50, 2_000_000, ablation="baseline", params={"stem": "patch", "width": 16}),
    trial(1, 0.40, 1_000_000, ablation="no_pyramid", params={"stem": "convolution", "width": 64}),
    trial(2, 0.30, state="pruned", params={"stem": "patch", "width": 16}),
    trial(3, None, 0, state="failed", error="diverged", params={"stem": "patch"}),
    trial(4, 0.60, 5_000_000, params={"stem": "patch", "width": 32, "growth": 1.5}),
    trial(5, 0.45, 3_000_000, params={"stem": "patch", "width": 16, "growth": 1.25}),
    trial(6, 0.60, 4_000_000, params={"stem": "convolution", "width": 64}),
    trial(7, None, state="running", params={"stem": "patch", "width": 16}),
]
SHARES = Importance(
    main={"stem": 0.5, "width": 0.1},
    pairs={("stem", "width"): 0.3},
    is_exact=True,
    num_trials=60,
)


def drawn(figure, label: str) -> list[tuple[float, float]]:
    """The points of what has that label in the legend."""
    (line,) = (each for each in figure.axes[0].get_lines() if each.get_label() == label)
    pairs = zip(line.get_xdata(), line.get_ydata(), strict=True)
    return [(round(float(x), 9), round(float(y), 9)) for x, y in pairs]


def written(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_history_has_every_trial_at_its_number_and_the_best_until_then():
    figure = plots.history(TRIALS, "flops")
    assert drawn(figure, "complete") == [(4, 60), (5, 45), (6, 60)]
    assert drawn(figure, "by name") == [(0, 50), (1, 40)]
    assert drawn(figure, "pruned, its last accuracy") == [(2, 30)]
    assert [x for x, _ in drawn(figure, "invalid or failed")] == [3]
    assert drawn(figure, "best so far") == [(0, 50), (1, 50), (4, 60), (5, 60), (6, 60), (7, 60)]
    assert written(figure) == ["baseline", "no_pyramid"]
    assert "8 trials: 5 complete, 1 failed, 1 pruned, 1 running" in figure.axes[0].get_title("left")


def test_the_best_so_far_keeps_to_the_budget():
    figure = plots.history(TRIALS, "flops", 3e6)
    assert drawn(figure, "best so far") == [(0, 50), (1, 50), (5, 50), (7, 50)]
    assert drawn(figure, "over the budget") == [(4, 60), (6, 60)]


@pytest.mark.parametrize(
    ("cost", "xs", "unit"),
    [
        ("flops", [1, 2, 4], "millions"),
        ("num_params", [0.1, 0.2, 0.4], "millions"),
        ("latency", [1, 2, 4], "milliseconds"),
    ],
)
def test_the_front_is_drawn_in_its_unit_with_names_and_budget(cost, xs, unit):
    budget = getattr(TRIALS[5], cost)
    figure = plots.front(TRIALS, cost, budget)
    assert drawn(figure, "Pareto front") == list(zip(xs, [40, 50, 60], strict=True))
    assert drawn(figure, "budget")[0][0] == pytest.approx(3 * xs[0])
    assert unit in figure.axes[0].get_xlabel() and "%" in figure.axes[0].get_ylabel()
    assert written(figure) == ["baseline", "no_pyramid"]
    assert len(drawn(figure, "complete")) == 3


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.booleans()), max_size=30))
def test_the_front_is_what_no_complete_trial_beats(points):
    found = [
        trial(n, accuracy / 10, cost, state="complete" if whole else "pruned")
        for n, (cost, accuracy, whole) in enumerate(points)
    ]
    kept = front_of(found, "flops")
    complete = [t for t in found if t.state == "complete"]

    def beaten(t):
        return any(
            o.flops <= t.flops
            and o.accuracy >= t.accuracy
            and (o.flops, o.accuracy) != (t.flops, t.accuracy)
            for o in complete
        )

    assert {(t.flops, t.accuracy) for t in kept} == {
        (t.flops, t.accuracy) for t in complete if not beaten(t)
    }
    assert all(a.flops < b.flops and a.accuracy < b.accuracy for a, b in itertools.pairwise(kept))


def test_the_winner_is_the_most_accurate_that_is_allowed_and_then_the_cheapest():
    assert winner(TRIALS, "flops", None).number == 6
    assert winner(TRIALS, "flops", 3e6).number == 0
    assert winner(TRIALS, "flops", 1.0) is None
    unknown = [dataclasses.replace(TRIALS[4], latency=None)]
    assert winner(unknown, "latency", 1.0) is None
    assert winner(unknown, "latency", None).number == 4


def test_a_line_goes_through_the_values_of_each_complete_trial():
    best = winner(TRIALS, "flops", None)
    axes = plots.parallel(TRIALS, best).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "stem",
        "width",
        "growth",
        "accuracy",
    ]
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) == 4]
    assert len(lines) == 5
    (thick,) = (line for line in lines if line.get_linewidth() > 2)
    near = pytest.approx([0, 1, ABSENT, 1], abs=0.03)  # convolution, 64, not there, 60 %
    assert list(thick.get_ydata()) == near
    texts = [text.get_text() for text in axes.texts]
    assert {"convolution", "patch", "16", "32", "64", "40.0 %", "60.0 %"} <= set(texts)


def test_many_numbers_are_a_scale_of_their_values():
    found = [trial(n, 0.5 + n / 100, params={"growth": 2.0**n}) for n in range(12)]
    axes = plots.parallel(found, found[-1]).axes[0]
    heights = sorted(line.get_ydata()[0] for line in axes.get_lines() if len(line.get_xdata()) == 2)
    truth = [(2.0**n - 1) / (2.0**11 - 1) for n in range(12)]
    assert heights == pytest.approx(truth, abs=0.025)


def test_effects_are_bars_in_percent_with_their_limits_below():
    figure = plots.effects(SHARES)
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    lengths = {n: round(p.get_width(), 6) for n, p in zip(names, axes.patches, strict=True)}
    assert lengths == {"stem": 50, "width": 10, "stem × width": 30}
    assert figure.get_supxlabel() == "\n".join(limits(SHARES))
    assert axes.get_xlabel() == "share of the variance of accuracy, %"
    forest = plots.effects(dataclasses.replace(SHARES, is_exact=False, pairs={}))
    assert "a forest's prediction" in forest.axes[0].get_xlabel()
    assert len(forest.axes[0].patches) == 2


def failed(found):
    return [dataclasses.replace(t, state="failed", accuracy=None) for t in found]


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (TRIALS, {"history", "front", "parallel"}),
        (TRIALS[:1], {"history", "front"}),
        (TRIALS[2:3], {"history"}),
        (failed(TRIALS), set()),
        ([], set()),
        ([dataclasses.replace(t, accuracy=0.5) for t in TRIALS], {"history", "front", "parallel"}),
        ([dataclasses.replace(t, accuracy=0.0) for t in TRIALS], {"history", "front", "parallel"}),
    ],
)
@pytest.mark.parametrize("budget", [None, 1.0])
def test_what_can_be_drawn_is_drawn(found, names, budget):
    made = plots.pictures(found, "flops", budget)
    assert set(made) == names - ({"parallel"} if budget else set())  # where nothing is allowed
    assert all(picture.startswith(b"\x89PNG") for picture in made.values())


def test_the_same_search_gives_the_same_pictures():
    made = plots.pictures(TRIALS, "flops", 3e6, SHARES)
    assert set(made) == {"history", "front", "parallel", "importance"}
    assert plots.pictures(TRIALS, "flops", 3e6, SHARES) == made


@pytest.mark.parametrize("spread", [0, 400_000])
def test_names_neither_cover_each_other_nor_leave_the_axes(spread):
    rng = numpy.random.default_rng(0)
    found = [
        trial(
            n, 0.5 + 0.02 * rng.random(), 2_000_000 + n * spread, ablation=f"no_design_choice_{n}"
        )
        for n in range(8)
    ]
    found += [trial(n, 0.5 + 0.02 * rng.random(), 2_000_000 + n * spread) for n in range(8, 24)]
    for figure in (plots.history(found, "flops"), plots.front(found, "flops")):
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        assert len(boxes) == 8
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        frame = figure.axes[0].bbox.padded(1)  # a name may stand on the edge
        assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
        assert all(frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)
