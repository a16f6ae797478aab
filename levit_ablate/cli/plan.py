"""`levit-ablate plan STUDY`: what a sweep would do, without doing it."""

from __future__ import annotations

from collections.abc import Sequence

from levit_ablate.cli.options import parse, parser_for
from levit_ablate.cli.study_options import add_study, study_options
from levit_ablate.errors import UserError


def main(argv: Sequence[str]) -> None:
    """Print every variant with its cost and its runs, and how long a sweep would take."""
    parser = parser_for(
        "plan", "What a sweep would run, what is recorded already, and how long it will take."
    )
    add_study(parser)
    parser.add_argument("--jobs", type=int, default=1, help="Runs at once, for the estimate.")
    parser.add_argument(
        "--probe",
        type=bool,
        default=True,
        help="Train every variant for a few steps, to estimate the time.",
    )
    options = parse(parser, argv)
    if options.get("jobs", 1) < 1:
        raise UserError(f"--jobs: {options['jobs']} must be at least 1")
    wanted = study_options(options)
    from levit_ablate.cli import planning  # loads torch, lightning and mlflow: seconds

    planning.run(wanted, options)
