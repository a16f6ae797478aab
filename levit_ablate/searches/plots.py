"""Plots of a search: how it went, what accuracy costs, which parameters made it."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from levit_ablate.analysis.plots import OURS, STYLE
from levit_ablate.searches.found import Found, counts_of
from levit_ablate.searches.front import complete_of, front_of
from levit_ablate.searches.importance import Importance, limits
from levit_ablate.searches.names import name_points
from levit_ablate.searches.parallel import parallel

NAMED = sns.color_palette("colorblind")[1]
FADED = (0.65, 0.65, 0.65)
Colour = tuple[float, float, float]
COSTS = {
    "flops": (1e-6, "multiply-adds of an image, millions"),
    "num_params": (1e-6, "parameters, millions"),
    "latency": (1e3, "latency of one image, milliseconds"),
}
"""By the field of `Found`: what makes its unit, and which it is."""
MOST_MAIN, MOST_PAIRS = 15, 10
"""Bars of the largest main effects and interactions."""


def pictures(
    found: Sequence[Found],
    cost: str,
    budget: float | None = None,
    importance: Importance | None = None,
) -> dict[str, bytes]:
    """Every plot that can be made, as PNG, by its name.

    Args:
        found: the trials of a search.
        cost: a field of theirs: flops, num_params or latency.
        budget: the most that it may be, in the unit of the field; None where anything may.
        importance: of the parameters, where it is known.
    """
    best = winner(found, cost, budget)
    made = {
        "history": history(found, cost, budget),
        "front": front(found, cost, budget),
        "parallel": parallel(found, best) if best else None,
        "importance": effects(importance) if importance else None,
    }
    return {name: _png(figure) for name, figure in made.items() if figure}


def winner(found: Sequence[Found], cost: str, budget: float | None) -> Found | None:
    """The most accurate complete trial within the budget, the cheapest of several; or None."""
    allowed = [trial for trial in complete_of(found) if _within(trial, cost, budget)]
    return min(
        allowed,
        key=lambda t: (-_percent(t), float("inf") if (c := getattr(t, cost)) is None else c),
        default=None,
    )


def history(found: Sequence[Found], cost: str, budget: float | None = None) -> Figure | None:
    """The accuracy of every trial by its number, and the best until then. None without any.

    The best is of complete trials within the budget.
    """
    complete = sorted(complete_of(found), key=lambda t: t.number)
    pruned = [t for t in found if t.state == "pruned" and t.accuracy is not None]
    if not complete and not pruned:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.subplots()
        last = max(t.number for t in found)
        if bad := [t.number for t in found if t.state in ("invalid", "failed")]:
            ground = axes.get_xaxis_transform()
            label = "invalid or failed"
            axes.plot(bad, [0.012] * len(bad), "|", color="0.3", label=label, transform=ground)
        _draw(axes, [(t.number, t) for t in pruned], "x", FADED, "pruned, its last accuracy")
        allowed = [t for t in complete if _within(t, cost, budget)]
        beyond = [t for t in complete if not _within(t, cost, budget)]
        _draw_complete(axes, [(t.number, t) for t in allowed])
        _draw_complete(axes, [(t.number, t) for t in beyond], "over the budget")
        best = list(itertools.accumulate((_percent(t) for t in allowed), max))
        if best:
            numbers, ys = [*(t.number for t in allowed), last], [*best, best[-1]]
            axes.step(numbers, ys, where="post", color=OURS, label="best so far")
        axes.set_xlim(-0.02 * last - 0.5, 1.02 * last + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        axes.set_xlabel("trial")
        _finish(figure, axes, found)
        _write_names(axes, [(t.number, t) for t in [*complete, *pruned]])
    return figure


def front(found: Sequence[Found], cost: str, budget: float | None = None) -> Figure | None:
    """Accuracy against cost, and what no trial beats in both. None without complete trials."""
    scale, label = COSTS[cost]
    known = [
        (scale * getattr(t, cost), t) for t in complete_of(found) if getattr(t, cost) is not None
    ]
    if not known:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.subplots()
        best = front_of(found, cost)
        _draw_complete(axes, known)
        xs = [scale * getattr(t, cost) for t in best]
        ys = [_percent(t) for t in best]
        axes.step(xs, ys, where="post", color=OURS, label="Pareto front")
        if budget is not None:
            axes.axvline(scale * budget, color="0.3", linestyle="--", label="budget")
        if max(x for x, _ in known) > 20 * min(x for x, _ in known) > 0:
            axes.set_xscale("log")
        axes.set_xlabel(label)
        _finish(figure, axes, found)
        _write_names(axes, known)
    return figure


def effects(importance: Importance) -> Figure:
    """Shares of the variance: the largest main effects and interactions, and their limits.

    Pale where they are not to be relied on.
    """
    main = sorted(importance.main.items(), key=lambda item: -item[1])[:MOST_MAIN]
    pairs = sorted(importance.pairs.items(), key=lambda item: -item[1])[:MOST_PAIRS]
    named = [(f"{first} × {second}", share) for (first, second), share in pairs]
    pale = 1.0 if importance.reliable else 0.4
    number = len(main) + len(pairs)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 2.8 + 0.25 * number), layout="constrained")
        axes = figure.subplots()
        start = 0
        for bars, colour, label in [
            (main, OURS, "by itself"),
            (named, NAMED, "together, beyond that"),
        ]:
            drawn = axes.barh(
                range(start, start + len(bars)),
                [100 * share for _, share in bars],
                color=[pale * part + 1 - pale for part in colour],
                label=label,
            )
            axes.bar_label(drawn, fmt="%.0f %%", padding=3, fontsize=8)
            start += len(bars)
        axes.set_yticks(range(number), [name for name, _ in [*main, *named]])
        axes.set_ylim(number - 0.4, -0.6)  # the first on top
        axes.margins(x=0.08)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("share of the variance of a forest's prediction, %")
        doubt = "" if importance.reliable else " (not to be relied on)"
        axes.set_title(f"What accuracy depends on{doubt}", loc="left")
        axes.legend(loc="lower right")
        said = "\n".join(limits(importance))
        figure.supxlabel(said, x=0.01, ha="left", fontsize=8, wrap=True)
    return figure


def _within(trial: Found, cost: str, budget: float | None) -> bool:
    value = getattr(trial, cost)
    return budget is None or (value is not None and value <= budget)


def _percent(trial: Found) -> float:
    assert trial.accuracy is not None
    return 100 * trial.accuracy


def _draw_complete(axes: Axes, points: Sequence[tuple[float, Found]], beyond: str = "") -> None:
    """Those that were enqueued by name in a colour of their own; hollow what lies beyond."""
    named = [(x, trial) for x, trial in points if trial.ablation]
    others = [(x, trial) for x, trial in points if not trial.ablation]
    _draw(axes, others, "o", OURS, beyond or "complete", hollow=bool(beyond))
    _draw(axes, named, "D", NAMED, "" if beyond and others else beyond or "by name", bool(beyond))


def _draw(
    axes: Axes,
    points: Sequence[tuple[float, Found]],
    marker: str,
    colour: Colour,
    label: str,
    hollow: bool = False,
) -> None:
    if points:
        axes.plot(
            [x for x, _ in points],
            [_percent(trial) for _, trial in points],
            marker,
            color=colour,
            fillstyle="none" if hollow else "full",
            label=label or None,
            markersize=5,
            alpha=0.85,
        )


def _write_names(axes: Axes, points: Sequence[tuple[float, Found]]) -> None:
    named = [(x, _percent(trial), trial.ablation) for x, trial in points if trial.ablation]
    others = [(x, _percent(trial)) for x, trial in points if not trial.ablation]
    name_points(axes, named, others)


def _finish(figure: Figure, axes: Axes, found: Sequence[Found]) -> None:
    """What the plots of accuracy have in common: its axis, how the trials ended, the legend."""
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


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80, pil_kwargs={"optimize": True})
    return buffer.getvalue()
