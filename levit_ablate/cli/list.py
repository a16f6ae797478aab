"""`levit-ablate list`: what can be run."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from levit_ablate import library
from levit_ablate.cli.options import Format, parse, parser_for
from levit_ablate.errors import UserError
from levit_ablate.models import presets
from levit_ablate.studies import study


def main(argv: Sequence[str]) -> None:
    """Print the ablations, the paper's rows first, with their summaries and published figures."""
    parser = parser_for("list", "The ablations that can be run.")
    parser.add_argument(
        "--format", type=Format, default="text", help="For people, or for machines."
    )
    options = parse(parser, argv)
    found, bad = library.read_all()
    for error in bad:
        print(f"levit-ablate: {error}", file=sys.stderr)
    if options.get("format") == "json":
        print(json.dumps([{**asdict(a), "path": str(a.path)} for a in found], indent=2))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("ablation", no_wrap=True)
    table.add_column("row")
    table.add_column("paper", justify="right", no_wrap=True)
    table.add_column("what it changes")
    for ablation in found:
        paper = ablation.paper
        figure = f"{paper.difference:+.1f}" if paper and paper.difference else ""
        row = paper.row if paper else "–"
        cells = (ablation.name, row, figure.replace("-", "−"), ablation.summary)
        table.add_row(*map(escape, cells))
    console = Console()
    console.print(table)
    console.print(_studies())
    console.print(_models())
    console.print(
        "\nrow, paper: Table 4 of the paper, and its top-1 points against the base model's."
        "\nYours: put a file into ./ablations, a study into ./ablations/studies, a model into "
        "./ablations/models; levit-ablate show NAME explains an ablation, levit-ablate plan NAME a "
        "study.",
        style="dim",
    )


def _studies() -> Table:
    """The studies that can be swept; what cannot be read is said on standard error."""
    table = Table(box=None, pad_edge=False)
    table.add_column("\nstudy", no_wrap=True)
    table.add_column("\nvariants", justify="right")
    table.add_column("\nwhat it compares")
    for name, path in library.names(library.STUDIES).items():
        try:
            found = study.read_file(path)
        except UserError as error:
            print(f"levit-ablate: {error}", file=sys.stderr)
            continue
        table.add_row(escape(name), str(len(found.variants)), escape(found.summary))
    return table


def _models() -> Table:
    """The models that --model takes; what cannot be read is said on standard error."""
    table = Table(box=None, pad_edge=False)
    table.add_column("\nmodel", no_wrap=True)
    table.add_column("\nimages", no_wrap=True)
    table.add_column("\nwhat it is: stages of depth x C width, N heads")
    for name in dict.fromkeys([*presets.PRESETS, *library.names(library.MODELS)]):
        try:
            found = presets.preset(name)
        except UserError as error:
            print(f"levit-ablate: {error}", file=sys.stderr)
            continue
        images, stages = found.images, ", ".join(map(str, found.architecture.stages))
        size = f"{images.channels}x{images.height}x{images.width}"
        table.add_row(escape(name), size, escape(f"{found.summary}: {stages}"))
    return table
