"""`levit-ablate sweep STUDY`: run what a study lacks, and print its table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from levit_ablate.cli.options import add_launcher, add_study, arguments, parse, parser_for
from levit_ablate.errors import RunError
from levit_ablate.library import STUDIES


def main(argv: Sequence[str]) -> None:
    """Run every variant at every seed that is not recorded yet, and print the table."""
    parser = parser_for(
        "sweep", "Run all variants and seeds of a study that are not recorded yet; print its table."
    )
    add_study(parser)
    add_launcher(parser, "jobs", "Runs")
    options = parse(parser, argv)
    given = arguments(options, STUDIES)
    from levit_ablate.analysis import formats
    from levit_ablate.api import study as api  # loads torch, lightning and mlflow: seconds

    with redirect_stdout(sys.stderr):  # what libraries print, as Ray's threads do
        study = api.sweep(options["study"], progress=True, allow_failures=True, **given)
    if options.get("format") == "json":
        print(study.to("json"), end="")
    else:
        formats.show(study.results, formats.console())
    if study.failed:
        raise RunError(api.without_result(study.failed))
