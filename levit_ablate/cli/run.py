"""`levit-ablate run NAME`: train an ablation and its baseline, and say what the ablation cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from levit_ablate.cli.options import (
    add_experiment,
    add_store,
    experiment_options,
    parse,
    parser_for,
)
from levit_ablate.tracking.uris import without_password

if TYPE_CHECKING:
    from levit_ablate.api.run import RunResult


def main(argv: Sequence[str]) -> None:
    """Train what is not recorded yet, the baseline first, and print the comparison."""
    parser = parser_for("run", "Train an ablation and its baseline, and print what it cost.")
    add_experiment(parser)
    parser.add_argument("--no-baseline", action="store_true", help="Train the ablation alone.")
    add_store(parser)
    options = parse(parser, argv)
    ablation, given = experiment_options(options)
    from levit_ablate.api import run as api  # loads torch, lightning and mlflow: seconds
    from levit_ablate.runtime import is_first_process
    from levit_ablate.tracking.store import tracking_uri

    if options.get("print_config"):
        print(api.variant(ablation, identify=False, **given).recorded_yaml, end="")
        return
    uri = options.get("tracking_uri")
    baseline = not options.get("no_baseline")
    result = api.run(ablation, baseline=baseline, tracking_uri=uri, progress=True, **given)
    if not is_first_process():
        return
    if options.get("format") == "json":
        print(json.dumps(result.as_dict()))
    else:
        _print(result, tracking_uri(uri))


FIGURES = ["test accuracy", "test loss", "parameters", "multiply-adds", "training time"]


def _print(result: RunResult, uri: str) -> None:
    experiment, baseline = result.variant.experiment, result.baseline
    titles, columns = ["", escape(result.name)], [FIGURES, _figures(result)]
    if baseline:
        points = f"{100 * (result.difference or 0):+.2f} points".replace("-", "−")
        titles += ["baseline", "difference"]
        columns += [_figures(baseline), [points, "", "", "", ""]]
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right" if title else "left", no_wrap=title != "")
    for cells in zip(*columns, strict=True):
        table.add_row(*cells)
    console = Console(highlight=False)
    console.print(f"[bold]{escape(result.name)}[/bold]: {escape(result.variant.ablation.summary)}")
    console.print(f"{experiment.data.name}, {experiment.model}, seed {experiment.seed}\n")
    console.print(table)
    if baseline:
        console.print("\nOne seed: no interval can be given for the difference.", style="dim")
    runs = f"run {result.run_id}" + (f", baseline {baseline.run_id}" if baseline else "")
    where = escape(without_password(uri))
    console.print(f"Recorded in {where}: {runs}; levit-ablate ui shows them.", soft_wrap=True)


def _figures(result: RunResult) -> list[str]:
    return [
        f"{100 * result.accuracy:.2f} %",
        f"{result.loss:.4f}",
        f"{result.params:,}",
        f"{result.flops:,}",
        f"{result.seconds:.1f} s",
    ]
