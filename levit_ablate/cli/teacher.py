"""`levit-ablate teacher`: the teacher of a dataset, trained once, and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console

from levit_ablate.cli.options import add_experiment, experiment_options, parse, parser_for
from levit_ablate.library import BASELINE


def main(argv: Sequence[str]) -> None:
    """Train the teacher if it is to be trained and no one has; print its accuracy and its place."""
    parser = parser_for(
        "teacher", "Train the teacher of a dataset, once; run does it by itself where it is needed."
    )
    add_experiment(parser)
    options = parse(parser, argv)
    ablation, given = experiment_options({"name": BASELINE} | options)
    from levit_ablate.api import run as api  # loads torch, lightning and mlflow: seconds
    from levit_ablate.runtime import is_first_process

    if options.get("print_config"):
        print(api.variant(ablation, identify=False, **given).recorded_yaml, end="")
        return
    figures = api.teacher(ablation, progress=True, **given)
    if not is_first_process():
        return
    if options.get("format") == "json":
        print(json.dumps(figures))
        return
    console = Console(highlight=False)
    console.print(f"[bold]{figures['model']}[/bold], the teacher of {figures['dataset']}")
    console.print(f"test accuracy {100 * figures['test_accuracy']:.2f} %")
    console.print(f"weights: {figures['weights']}", soft_wrap=True)
