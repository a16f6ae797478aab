"""`levit-ablate list`: the ablations, studies, searches and models that can be named."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from levit_ablate import library
from levit_ablate.cli.options import NAMES, Format, parse, parser_for
from levit_ablate.errors import UserError
from levit_ablate.library import Ablation
from levit_ablate.models import presets
from levit_ablate.searches import search
from levit_ablate.studies import study

NOTES = """
row, paper: Table 4 of the paper, and its top-1 points against the base model's.
Yours: put a file into ./ablations; a study, search or model into ./ablations/studies, searches or \
models. levit-ablate show NAME explains an ablation, levit-ablate plan NAME a study."""


def main(argv: Sequence[str]) -> None:
    """Print the ablations, the paper's rows first, then the studies, the searches and the models.

    A file that cannot be read is a line on standard error.
    """
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
    console = Console()
    console.print(_table("ablation", "row", "paper", "what it changes", rows=map(_ablation, found)))
    for kind, heads, row in (
        ("study", ("variants", "what it compares"), _study),
        ("search", ("trials", "what it looks for"), _search),
        ("model", ("images", "what it is: stages of depth x C width, N heads"), _model),
    ):
        console.print()
        console.print(_table(kind, *heads, rows=_rows(NAMES[kind].find(), row)))
    console.print(NOTES, style="dim")


def _table(*heads: str, rows: Iterable[Sequence[str]]) -> Table:
    """A table of names; its last column holds text and wraps."""
    table = Table(box=None, pad_edge=False)
    for head in heads:
        number = head in ("paper", "variants", "trials")
        table.add_column(head, no_wrap=head != heads[-1], justify="right" if number else "left")
    for cells in rows:
        table.add_row(*map(escape, cells))
    return table


def _rows(names: Iterable[str], row: Callable[[str], Sequence[str]]) -> Iterable[Sequence[str]]:
    """Yield the row of every name whose file can be read."""
    for name in names:
        try:
            yield name, *row(name)
        except UserError as error:
            print(f"levit-ablate: {error}", file=sys.stderr)


def _ablation(ablation: Ablation) -> tuple[str, str, str, str]:
    paper = ablation.paper
    figure = f"{paper.difference:+.1f}" if paper and paper.difference else ""
    row = paper.row if paper else "–"
    return ablation.name, row, figure.replace("-", "−"), ablation.summary


def _study(name: str) -> tuple[str, str]:
    found = study.read(name)
    return str(len(found.variants)), found.summary


def _search(name: str) -> tuple[str, str]:
    found = search.read(name)
    return str(found.trials), found.summary


def _model(name: str) -> tuple[str, str]:
    preset = presets.preset(name)
    images, stages = preset.images, ", ".join(map(str, preset.architecture.stages))
    size = f"{images.channels}x{images.height}x{images.width}"
    return size, f"{preset.summary}: {stages}"
