"""What a search found: what it saw, and what fresh seeds confirm, side by side."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from optuna import Study
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from levit_ablate.analysis.results import Results, Row
from levit_ablate.analysis.table import signed
from levit_ablate.config import Architecture
from levit_ablate.models.cost import costs
from levit_ablate.models.presets import PRESETS
from levit_ablate.search import trials
from levit_ablate.search.confirm import best_of, confirmed
from levit_ablate.search.found import Found
from levit_ablate.search.front import COLUMNS, cost_of, front_of
from levit_ablate.search.importance import Importance, importance, limits
from levit_ablate.search.plan import SearchPlan
from levit_ablate.search.plots import pictures
from levit_ablate.search.search import BASELINE
from levit_ablate.serialization import config_from

SHOWN = 10
"""Trials in the table."""
NEAR = 0.97
"""Of the budget: what counts as near."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A search as it stands."""

    planned: SearchPlan
    found: tuple[Found, ...]
    stages: Mapping[int, str]
    """Of each trial its geometry, in a line."""
    best: tuple[Found, ...]
    """The most accurate, none twice."""
    confirmed: Results | None
    importance: Importance | None

    @property
    def counts(self) -> Counter[str]:
        """How many trials ended how; those that were tried again are not counted."""
        return Counter(f.state for f in self.found if f.state != "failed" or f.error)

    @property
    def baseline(self) -> Found | None:
        """The trial of the baseline."""
        key = self.planned.baseline.key
        return next((f for f in self.found if f.key == key and f.state == "complete"), None)

    @property
    def budget(self) -> float | None:
        """Of the cost that the front is drawn against."""
        limits = {**asdict(self.planned.budget), "latency": self.planned.latency}
        limit: float | None = limits[self.planned.search.cost]
        return limit

    @property
    def front(self) -> list[Found]:
        """Of the trials that were trained to their end."""
        complete = [each for each in self.found if each.state == "complete"]
        return front_of(complete, self.planned.search.cost)

    def confirmation_of(self, each: Found) -> Row | None:
        """What fresh seeds say of a trial."""
        name = each.ablation or f"trial {each.number}"
        rows = self.confirmed.rows[1:] if self.confirmed else ()
        return next((row for row in rows if row.name == name and row.accuracies), None)


def report_of(planned: SearchPlan, study: Study) -> Report:
    """Read from the trials and from the open store; nothing is trained."""
    there = study.get_trials(deepcopy=False)
    found = trials.found_of(there)
    complete = [each for each in found if each.state == "complete"]
    stages = {
        trial.number: ", ".join(
            map(str, config_from(Architecture, trial.user_attrs[trials.ARCHITECTURE], "").stages)
        )
        for trial in there
        if trials.ARCHITECTURE in trial.user_attrs
    }
    domains = {name: setting.options for name, setting in planned.space.varied().items()}
    best = best_of(planned, found, SHOWN)
    return Report(
        planned=planned,
        found=tuple(found),
        stages=stages,
        best=tuple(best),
        confirmed=confirmed(planned, study, best[: planned.search.confirm]),
        importance=importance(
            [each.params for each in complete], [each.accuracy or 0.0 for each in complete], domains
        ),
    )


def pictures_of(report: Report) -> dict[str, bytes]:
    """PNG by name."""
    column = COLUMNS[report.planned.search.cost]
    return pictures(report.found, column, report.budget, report.importance)


def as_json(report: Report) -> str:
    """For machines; accuracies and differences are shares from 0 to 1."""
    base = report.baseline

    def described(each: Found) -> dict[str, Any]:
        row = report.confirmation_of(each)
        return {
            **{k: v for k, v in asdict(each).items() if k != "error"},
            "stages": report.stages.get(each.number),
            "difference": each.accuracy - base.accuracy
            if base and base.accuracy is not None and each.accuracy is not None
            else None,
            "confirmed": row
            and {
                "accuracies": {str(seed): value for seed, value in row.accuracies.items()},
                "mean": row.mean,
                "difference": row.difference.mean if row.difference else None,
                "interval": row.difference.interval if row.difference else None,
            },
        }

    shares = report.importance
    return json.dumps(
        {
            "search": report.planned.search.name,
            "key": report.planned.key,
            "dataset": report.planned.dataset,
            "objectives": list(report.planned.search.objectives),
            "budget": {**asdict(report.planned.budget), "latency": report.planned.latency},
            "counts": dict(report.counts),
            "baseline": base and described(base),
            "best": [described(each) for each in report.best],
            "front": [described(each) for each in report.front],
            "importance": shares
            and {
                "main": dict(shares.main),
                "pairs": [[*pair, share] for pair, share in shares.pairs.items()],
                "explained": shares.explained,
                "reliable": shares.reliable,
            },
        }
    )


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
        near = sum(NEAR * budget <= (cost_of(f, search.cost) or 0) <= budget for f in trained)
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
        stages = ", ".join(map(str, preset.architecture.stages))
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
