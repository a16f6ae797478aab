"""`levit-ablate run NAME`: train an ablation and its baseline, and say what the ablation cost."""

from __future__ import annotations

from collections.abc import Sequence

from levit_ablate.cli.options import add_experiment, experiment_options, parse, parser_for


def main(argv: Sequence[str]) -> None:
    """Train what is not recorded yet, the baseline first, and print the comparison."""
    parser = parser_for("run", "Train an ablation and its baseline, and print what it cost.")
    add_experiment(parser)
    parser.add_argument("--no-baseline", action="store_true", help="Train the ablation alone.")
    parser.add_argument(
        "--tracking-uri", type=str, help="Where MLflow records; ./mlflow.db unless set."
    )
    options = parse(parser, argv)
    ablation, given = experiment_options(options)
    from levit_ablate.cli import comparison  # loads torch, lightning and mlflow: seconds

    comparison.run(ablation, given, options)
