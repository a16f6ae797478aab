"""`levit-ablate table STUDY`: the ablation table, read back from the record."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path

from levit_ablate.api.settings import Format
from levit_ablate.cli.options import add_study, arguments, parse, parser_for
from levit_ablate.errors import UserError
from levit_ablate.library import STUDIES


def main(argv: Sequence[str]) -> None:
    """Print the table of a study as it stands, from the record alone."""
    parser = parser_for(
        "table",
        "The table of a study as it is recorded: the latest, or that of the conditions given.",
    )
    add_study(parser, formats=Format)
    parser.add_argument("--figures", metavar="FOLDER", help="Write the plots there too.")
    options = parse(parser, argv)
    given = arguments(options, STUDIES)
    from levit_ablate.analysis import formats
    from levit_ablate.api.study import open_study  # loads torch and mlflow: seconds

    study = open_study(options["study"], progress=True, **given)
    if options.get("figures"):
        write_pictures(study.pictures(), Path(options["figures"]))
    if (kind := options.get("format", "text")) == "text":
        formats.show(study.results, formats.console())
        return
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # as the files say of themselves
    print(study.to(kind), end="\n" if kind == "html" else "")


def write_pictures(pictures: Mapping[str, bytes], folder: Path) -> None:
    """Write plots into a folder, which is made. Raises UserError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            (folder / f"{name}.png").write_bytes(picture)
    except OSError as error:
        raise UserError(f"--figures: {folder} cannot be written: {error.strerror}") from error
