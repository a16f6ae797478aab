"""What `levit-ablate bench` does once its options are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from levit_ablate.ablations import Ablation
from levit_ablate.bench import data, distill
from levit_ablate.experiments import identified, variant
from levit_ablate.serialization import merge
from levit_ablate.training.conditions import check_distilled

DEFAULTS = {"rounds": 5, "variants": 12, "seeds": 3}


def measure(ablation: Ablation, given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Print the figures of `bench data` or `bench distill`."""
    wanted = variant(ablation, identified(given))
    counts = {name: options.get(name, default) for name, default in DEFAULTS.items()}
    if options["bench"] == "data":
        figures: dict[str, Any] = data.measure(counts["rounds"], wanted.experiment.hardware)
        table = _data_table(figures)
        note = "memory: crop, flip, erasing; files: also RandAugment, three views of an image."
    else:
        check_distilled(wanted)
        plain = variant(ablation, merge(identified(given), {"design": {"distillation": "none"}}))
        seconds = distill.measure(wanted, plain, counts["rounds"])
        epochs = wanted.experiment.recipe.epochs
        study = distill.study(seconds, counts["variants"], counts["seeds"], epochs)
        figures = {
            "seconds": seconds,
            "stored_over_none": seconds["stored"] / seconds["none"],
            "live_over_none": seconds["live"] / seconds["none"],
            "study": study,
        }
        table = _distill_table(figures)
        note = (
            f"A study of {counts['variants']} distilled variants, {counts['seeds']} seeds, {epochs}"
            f" epochs: {study['live_hours']:.2f} h with a live teacher,"
            f" {study['stored_hours']:.2f} h with stored answers, asking included"
            f" ({100 * study['saving']:.0f} % less)."
        )
    if options.get("format") == "json":
        print(json.dumps(figures))
        return
    console = Console(highlight=False)
    console.print(table)
    console.print(note)


def _data_table(figures: dict[str, dict[str, float]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("images a second", "ours", "torchvision", "ratio"):
        table.add_column(column, justify="left" if column[0] == "i" else "right")
    for name, row in figures.items():
        cells = (f"{row['ours']:,.0f}", f"{row['torchvision']:,.0f}", f"{row['ratio']:.1f}")
        table.add_row(name, *cells)
    return table


def _distill_table(figures: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("teacher")
    table.add_column("seconds an epoch", justify="right")
    table.add_column("of none", justify="right")
    seconds = figures["seconds"]
    for name in ("none", "stored", "live"):
        table.add_row(name, f"{seconds[name]:.3f}", f"{seconds[name] / seconds['none']:.3f}")
    table.add_row("asking, once a stream", f"{seconds['asking']:.3f}", "")
    return table
