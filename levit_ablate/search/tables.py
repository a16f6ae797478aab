"""A search's report for people: the best, what fresh seeds confirm, the front, what mattered."""

from __future__ import annotations

import io

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from levit_ablate.analysis.table import signed
from levit_ablate.models.cost import costs
from levit_ablate.models.presets import PRESETS
from levit_ablate.search.found import Found
from levit_ablate.search.front import FIELDS
from levit_ablate.search.importance import limits
from levit_ablate.search.report import SHOWN, Report, stages_line
from levit_ablate.search.search import BASELINE

NEAR = 0.97
"""Of the budget: what counts as near."""


def as_text(report: Report) -> str:
    """As `show` prints it, as wide as it needs to be."""
    console = Console(width=200, file=io.StringIO(), highlight=False)
    show(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def show(report: Report, console: Console) -> None:
    """The tables and what has to be said below them."""
    planned, search = report.planned, report.planned.search
    console.print(
        f"[bold]{escape(search.name)}[/bold] on {escape(planned.dataset)}: {escape(search.summary)}"
    )
    console.print(escape(_state_of(report)), style="dim")
    if not report.best:
        console.print("\nNo trial has been trained to its end yet.")
        return
    console.print()
    console.print(_best_table(report))
    console.print()
    for line in _said(report):
        console.print(escape(line), style="dim")
    if len(search.objectives) > 1:
        console.print(f"\n[bold]The front[/bold] of accuracy against {search.cost}")
        console.print(_front_table(report))
    console.print("\n[bold]Beside the presets[/bold], for these images")
    console.print(_preset_table(report))
    console.print("\n[bold]What mattered[/bold]: shares of the variance of accuracy (fANOVA)")
    _show_importance(report, console)


def _state_of(report: Report) -> str:
    counts, search = report.counts, report.planned.search
    ends = {
        "complete": "trained",
        "pruned": "given up early",
        "failed": "failed",
        "running": "at work",
        "invalid": "invalid, never trained",
    }
    said = [f"{counts[state]} {words}" for state, words in ends.items() if counts[state]]
    budget = report.budget
    trained = [each for each in report.found if each.flops is not None]
    if budget and trained and search.cost != "latency":
        near = sum(NEAR * budget <= getattr(f, FIELDS[search.cost]) <= budget for f in trained)
        said.append(f"{near} of {len(trained)} within {100 * (1 - NEAR):.0f} % of the budget")
    return f"{search.sampler}, pruner {search.pruner}: " + (", ".join(said) or "no trials yet")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{signed(100 * value)}"


def _best_table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in (
        "trial",
        "in the search",
        "Δ",
        "confirmed",
        "Δ",
        "95 % interval",
        "mult-adds",
        "params",
    ):
        table.add_column(name, justify="left" if name == "trial" else "right", no_wrap=True)
    table.add_column("stages")
    base = report.baseline
    if base:
        row = report.confirmed.rows[0] if report.confirmed else None
        table.add_row(
            BASELINE,
            _percent(base.accuracy),
            "",
            _percent(row.mean if row else None),
            "",
            "",
            *_costs(base),
            report.stages.get(base.number, ""),
        )
    for each in report.best:
        row = report.confirmation_of(each)
        difference = row.difference if row else None
        interval = difference.interval if difference else None
        between = "–" if not interval else " to ".join(_points(bound) for bound in interval)
        own = (each.accuracy or 0) - (base.accuracy or 0) if base else None
        table.add_row(
            each.ablation or f"{each.number}",
            _percent(each.accuracy),
            _points(own),
            _percent(row.mean if row else None),
            _points(difference.mean if difference else None),
            between,
            *_costs(each),
            report.stages.get(each.number, ""),
        )
    return table


def _costs(each: Found) -> tuple[str, str]:
    return f"{(each.flops or 0) / 1e6:.4g} M", f"{(each.num_params or 0) / 1e6:.4g} M"


def _said(report: Report) -> list[str]:
    """What is what, and which of it may be claimed."""
    search = report.planned.search
    epochs = report.planned.baseline.experiment.recipe.epochs
    said = [
        f"In the search: on the validation images, {len(search.seeds)} "
        f"{'seeds' if len(search.seeds) > 1 else 'seed'}, {epochs} epochs; the best of "
        f"{report.counts['complete']} is partly the luckiest, so these figures are optimistic."
    ]
    if report.confirmed is None:
        said.append("Not confirmed yet on fresh seeds: nothing is to be claimed.")
    else:
        full = report.confirmed.conditions["recipe"]["epochs"]
        seeds = ", ".join(map(str, report.confirmed.seeds))
        said.append(
            f"Confirmed: on the test images, mean of fresh seeds {seeds}, {full} epochs, beside "
            f"the baseline of the same seeds; Δ in points, with its paired interval."
        )
    return said


def _front_table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("trial", "accuracy", "mult-adds", "params", "latency"):
        table.add_column(name, justify="left" if name == "trial" else "right", no_wrap=True)
    table.add_column("stages")
    for each in report.front:
        latency = "–" if each.latency is None else f"{1e3 * each.latency:.2f} ms"
        name = each.ablation or f"{each.number}"
        stages = report.stages.get(each.number, "")
        table.add_row(name, _percent(each.accuracy), *_costs(each), latency, stages)
    return table


def _preset_table(report: Report) -> Table:
    """What the hand-made networks cost for these images."""
    table = Table(box=None, pad_edge=False)
    for name in ("network", "mult-adds", "params"):
        table.add_column(name, justify="left" if name == "network" else "right", no_wrap=True)
    table.add_column("stages")
    design, images = report.planned.baseline.experiment.design, report.planned.baseline.images
    for name, preset in PRESETS.items():
        cost = costs(preset.architecture, design, images).total
        stages = stages_line(preset.architecture, design)
        table.add_row(name, f"{cost.flops / 1e6:.4g} M", f"{cost.params / 1e6:.4g} M", stages)
    first = report.best[0]
    table.add_row(f"trial {first.number}", *_costs(first), report.stages.get(first.number, ""))
    return table


def _show_importance(report: Report, console: Console) -> None:
    found = report.importance
    if found is None:
        console.print("Too few trials were trained to their end, or nothing varied.", style="dim")
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    shares: list[tuple[str, float]] = [*found.main.items()]
    shares += [(f"{one} with {other}", share) for (one, other), share in found.pairs.items()]
    for name, share in sorted(shares, key=lambda each: -each[1])[:SHOWN]:
        table.add_row(escape(name), f"{100 * share:.1f} %")
    console.print(table)
    for line in limits(found):
        console.print(escape(line), style="dim")
