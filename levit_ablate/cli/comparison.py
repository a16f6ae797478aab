"""What `levit-ablate run` does once its options are read: a variant, its baseline, side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from levit_ablate.experiment import Variant, hardware_of, variant
from levit_ablate.hardware import one_voice
from levit_ablate.library import Ablation
from levit_ablate.tracking.afterwards import deliver_pending
from levit_ablate.tracking.store import open_store, tracking_uri
from levit_ablate.tracking.uris import without_password
from levit_ablate.training.conditions import check_conditions, report_horizon
from levit_ablate.training.train import Result, recorded, train
from levit_ablate.validity import check_changes


def run(ablation: Ablation, given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Check everything, train what is not recorded yet, the baseline first, and print both."""
    with one_voice(hardware_of(given)):
        _run(ablation, given, options)


def _run(ablation: Ablation, given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    own = variant(ablation, given, identify=not options.get("print_config"))
    if options.get("print_config"):
        print(own.recorded_yaml, end="")
        return
    check_changes(own)
    report_horizon(own.experiment, check_conditions(own.experiment))
    uri = tracking_uri(options.get("tracking_uri"))
    open_store(uri)
    deliver_pending(Path(own.experiment.hardware.work_dir))
    baseline = None if options.get("no_baseline") or not own.baseline else _result(own.baseline)
    result = _result(own)
    if options.get("format") == "json":
        print(json.dumps(compared(result, baseline)))
    else:
        _print(result, baseline, uri)


def _result(wanted: Variant) -> Result:
    """What is recorded, or else trained now; says which on standard error."""
    result = recorded(wanted)
    where = f"{wanted.name}, seed {wanted.experiment.seed}"
    if result:
        print(
            f"{where}: already recorded as run {result.run_id}, not trained again", file=sys.stderr
        )
        return result
    print(f"{where}: training, {wanted.experiment.recipe.epochs} epochs", file=sys.stderr)
    return train(wanted)


def compared(result: Result, baseline: Result | None) -> dict[str, Any]:
    """The result as plain data; accuracies and their difference are shares from 0 to 1."""
    return {
        "name": result.variant.name,
        "accuracy": result.accuracy,
        "loss": result.loss,
        "baseline_accuracy": baseline.accuracy if baseline else None,
        "difference": result.accuracy - baseline.accuracy if baseline else None,
        "params": result.variant.cost.params,
        "flops": result.variant.cost.flops,
        "seconds": result.seconds,
        "key": result.variant.key,
        "run_id": result.run_id,
        "baseline_key": baseline.variant.key if baseline else None,
        "baseline_run_id": baseline.run_id if baseline else None,
        "trained": result.trained,
    }


def _print(result: Result, baseline: Result | None, uri: str) -> None:
    experiment = result.variant.experiment
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column(escape(result.variant.name), justify="right", no_wrap=True)
    if baseline:
        table.add_column("baseline", justify="right", no_wrap=True)
        table.add_column("difference", justify="right", no_wrap=True)
    columns = [_figures(each) for each in (result, baseline) if each]
    points = 100 * (result.accuracy - baseline.accuracy) if baseline else 0.0
    differences = [f"{points:+.2f} points".replace("-", "−")] + [""] * 4
    for name, *cells in zip(FIGURES, *columns, *([differences] if baseline else []), strict=True):
        table.add_row(name, *cells)
    console = Console(highlight=False)
    name, summary = result.variant.name, result.variant.ablation.summary
    console.print(f"[bold]{escape(name)}[/bold]: {escape(summary)}")
    console.print(f"{experiment.data.name}, {experiment.model}, seed {experiment.seed}\n")
    console.print(table)
    if baseline:
        console.print("\nOne seed: no interval can be given for the difference.", style="dim")
    runs = f"run {result.run_id}" + (f", baseline {baseline.run_id}" if baseline else "")
    where = escape(without_password(uri))
    console.print(f"Recorded in {where}: {runs}; levit-ablate ui shows them.", soft_wrap=True)


FIGURES = ("test accuracy", "test loss", "parameters", "multiply-adds", "training time")


def _figures(result: Result) -> list[str]:
    return [
        f"{100 * result.accuracy:.2f} %",
        f"{result.loss:.4f}",
        f"{result.variant.cost.params:,}",
        f"{result.variant.cost.flops:,}",
        f"{result.seconds:.1f} s",
    ]
