"""A search's report as text: the best, beside fresh seeds; the front; presets; importances."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape

from levit_ablate.analysis.formats import captured, show_frame
from levit_ablate.analysis.table import NONE, interval, millions, p_value, percent, points
from levit_ablate.library import BASELINE
from levit_ablate.models.cost import costs
from levit_ablate.models.matching import NEAR, Budget
from levit_ablate.models.presets import shipped
from levit_ablate.searches.importance import limits
from levit_ablate.searches.report import SHOWN, Report, stages_line
from levit_ablate.searches.results import TrialResult

WORDS = ("trial", "network", "stages", "setting")
"""Columns of text; the others are numbers."""
NAMING = ("trial", "network", "setting")
"""Columns that name a row."""


def as_text(report: Report) -> str:
    """Return the report as it is printed where there is no terminal."""
    return captured(partial(show, report))


def show(report: Report, console: Console) -> None:
    """Print the tables and the notes below them."""
    planned, search = report.planned, report.planned.search
    console.print(
        f"[bold]{escape(search.name)}[/bold] on {escape(planned.dataset)}: {escape(search.summary)}"
    )
    console.print(escape(state_of(report)))
    if not report.best:
        console.print("\nNo network but the baseline has been trained to its end yet.")
        return
    _print(best(report), console)
    _say(notes(report), console)
    if len(search.objectives) > 1:
        console.print(f"\n[bold]The front[/bold] of accuracy against {search.cost}")
        _print(front(report), console)
    console.print("\n[bold]Beside the presets[/bold], for these images")
    _print(presets(report), console)
    console.print("\n[bold]What mattered[/bold]: shares of the variance of accuracy")
    if report.importance is None:
        _say(["Too few trials were trained to their end, or nothing varied."], console)
        return
    _print(shares(report), console)
    _say(limits(report.importance), console)


def _print(frame: pd.DataFrame, console: Console) -> None:
    show_frame(frame, console, WORDS, NAMING)


def _say(lines: Sequence[str], console: Console) -> None:
    for line in lines:
        console.print(f"\n{escape(line)}")


def state_of(report: Report) -> str:
    """Format in a line how the search was made, and how its trials ended."""
    counts, search = report.counts, report.planned.search
    ends = {
        "complete": "trained",
        "pruned": "given up early",
        "failed": "failed",
        "running": "at work",
        "invalid": "invalid, never trained",
    }
    parts = [f"{counts[state]} {words}" for state, words in ends.items() if counts[state]]
    limits = report.planned.budget
    trained = [each for each in report.found if each.state in ("complete", "pruned")]
    shares = [
        max((f.flops or 0) / (limits.flops or inf), (f.num_params or 0) / (limits.params or inf))
        for f in trained
    ]
    if limits != Budget() and trained:
        near = sum(share >= NEAR for share in shares)
        parts.append(f"{near} of {len(trained)} within {100 * (1 - NEAR):.0f} % of the budget")
    return f"{search.sampler}, pruner {search.pruner}: " + (", ".join(parts) or "no trials yet")


def best(report: Report) -> pd.DataFrame:
    """Return the best trials beside the baseline, as the search saw them and as confirmed."""
    rows = []
    if report.baseline or report.confirmed:
        rows.append(_row(BASELINE, report.reference, report) | {"Δ in the search": NONE})
    rows += [_row(each.ablation or f"{each.number}", each, report) for each in report.best]
    return pd.DataFrame(rows)


def _row(name: str, each: TrialResult, report: Report) -> dict[str, str]:
    confirmed = report.confirmation_of(each)
    paired = confirmed.difference if confirmed else None
    return {
        "trial": name,
        "in the search": percent(each.accuracy),
        "Δ in the search": points(report.lead_of(each)),
        "confirmed": percent(confirmed.mean if confirmed else None),
        "Δ confirmed": points(paired.mean if paired else None),
        "95 % interval": interval(paired.interval if paired else None),
        "p (Holm)": p_value(confirmed.p_holm if confirmed else None),
        **_costs(each),
        **_network(each, report),
    }


def _network(each: TrialResult, report: Report) -> dict[str, str]:
    """Return the cells of a trial's network; its choices only where the search varies them."""
    stages = {"stages": report.stages.get(each.number, "")}
    varies = any(report.choices.values())
    return stages | ({"choices": report.choices.get(each.number) or NONE} if varies else {})


def notes(report: Report) -> list[str]:
    """Return the notes below the table of the best: what its columns are, what may be claimed."""
    search = report.planned.search
    epochs = report.planned.baseline.experiment.recipe.epochs
    seeds = ", ".join(map(str, search.seeds))
    lines = [
        f"In the search: on the validation images, seed {seeds}, {_epochs(epochs)}; the best of "
        f"{report.counts['complete']} is partly the luckiest, so these figures are optimistic."
    ]
    if report.confirmed is None:
        lines.append("Not confirmed yet on fresh seeds: nothing is to be claimed.")
    else:
        full = report.confirmed.conditions["recipe"]["epochs"]
        fresh = ", ".join(map(str, report.confirmed.seeds))
        if len(search.objectives) > 1:
            lines.append("Networks of a front differ in cost: Δ is no difference at equal cost.")
        lines.append(
            f"Confirmed: on the test images, mean of fresh seeds {fresh}, {_epochs(full)}, beside "
            f"the baseline of the same seeds; Δ in points, with its paired interval. p is adjusted "
            f"for all that were confirmed; the intervals are not, and the best of them is again "
            f"partly the luckiest."
        )
        lines += [
            f"Not all of that is there: {row.name} lacks seed {', '.join(map(str, row.errors))}."
            for row in report.confirmed.rows
            if row.errors
        ]
    lines.append("Stages: depth x C width, N heads of D keys, M expansion of the MLPs.")
    return lines


def front(report: Report) -> pd.DataFrame:
    """Return the trials that no other beats in both accuracy and cost, the cheapest first."""
    return pd.DataFrame(
        {
            "trial": each.ablation or f"{each.number}",
            "accuracy": percent(each.accuracy),
            **_costs(each),
            **({"latency": f"{1e3 * each.latency:.2f} ms"} if each.latency else {}),
            **_network(each, report),
        }
        for each in report.front
    )


def presets(report: Report) -> pd.DataFrame:
    """Return the cost of the presets for these images, beside the best of the search."""
    base = report.planned.baseline
    design = base.experiment.design
    rows: list[dict[str, Any]] = []
    for name, preset in shipped().items():
        cost = costs(preset.architecture, design, base.images).total
        stages = stages_line(preset.architecture, design)
        rows.append({"network": name, **_cost_cells(cost.flops, cost.params), "stages": stages})
    if best := report.winner:
        rows.append({"network": best.name, **_costs(best), **_network(best, report)})
    return pd.DataFrame(rows).fillna(NONE)


def shares(report: Report) -> pd.DataFrame:
    """Return the settings, and pairs of them, with the largest shares of the variance."""
    found = report.importance
    assert found is not None
    named = [*found.main.items()]
    named += [(f"{one} with {other}", share) for (one, other), share in found.pairs.items()]
    named.sort(key=lambda each: -each[1])
    return pd.DataFrame(
        {"setting": name, "share": percent(share, 1)} for name, share in named[:SHOWN]
    )


def _epochs(number: int) -> str:
    return f"{number} epoch{'s' * (number != 1)}"


def _costs(each: TrialResult) -> dict[str, str]:
    return _cost_cells(each.flops or 0, each.num_params or 0)


def _cost_cells(flops: int, params: int) -> dict[str, str]:
    return {"multiply-adds": millions(flops), "parameters": millions(params)}
