"""`levit-ablate teacher`: the teacher of a dataset, trained once, and what it is worth."""

from __future__ import annotations

from collections.abc import Sequence

from levit_ablate.cli.options import add_experiment, experiment_options, parse, parser_for
from levit_ablate.library import BASELINE


def main(argv: Sequence[str]) -> None:
    """Train the teacher if it is to be trained and no one has; print its accuracy and its place."""
    parser = parser_for(
        "teacher", "Train the teacher of a dataset, once; run does it by itself where it is needed."
    )
    add_experiment(parser)
    options = parse(parser, argv)
    options["name"] = options.get("name") or BASELINE
    ablation, given = experiment_options(options)
    from levit_ablate.cli import lesson  # loads torch, lightning and mlflow: seconds

    lesson.teach(ablation, given, options)
