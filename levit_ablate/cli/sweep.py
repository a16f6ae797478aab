"""`levit-ablate sweep STUDY`: run what a study lacks, and print its table."""

from __future__ import annotations

from collections.abc import Sequence

from levit_ablate.cli.options import parse, parser_for
from levit_ablate.cli.study_options import add_launcher, add_study, check_launcher, study_options


def main(argv: Sequence[str]) -> None:
    """Run every variant at every seed that is not recorded yet, and print the table."""
    parser = parser_for(
        "sweep", "Run all variants and seeds of a study that are not recorded yet; print its table."
    )
    add_study(parser)
    add_launcher(parser, "jobs", "Runs")
    options = parse(parser, argv)
    check_launcher(options, "jobs")
    wanted = study_options(options)
    from levit_ablate.cli import sweeping  # loads torch, lightning and mlflow: seconds

    sweeping.run(wanted, options)
