"""`levit-ablate table STUDY`: the ablation table, read back from the record."""

from __future__ import annotations

from collections.abc import Sequence

from levit_ablate.cli.options import parse, parser_for
from levit_ablate.cli.study_options import TableFormat, add_study, study_options


def main(argv: Sequence[str]) -> None:
    """Print the table of a study as it stands, from the record alone."""
    parser = parser_for(
        "table",
        "The table of a study as it is recorded: the latest, or that of the conditions given.",
    )
    add_study(parser, formats=TableFormat)
    parser.add_argument("--figures", type=str, metavar="FOLDER", help="Write the plots there too.")
    options = parse(parser, argv)
    wanted = study_options(options)
    from levit_ablate.cli import tabulating  # loads torch and mlflow: seconds

    tabulating.run(wanted, options)
