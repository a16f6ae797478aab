"""`levit-ablate list`: the ablations, studies, searches and models that can be named."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from levit_ablate import library
from levit_ablate.api.listing import described
from levit_ablate.cli.options import add_format, parse, parser_for
from levit_ablate.errors import UserError
from levit_ablate.library import MODELS, SEARCHES, STUDIES, Ablation

NOTES = """
row, paper: Table 4 of the paper, and its top-1 points against the base model's.
Yours: put a file into ./ablations; a study, search or model into ./ablations/studies, searches or \
models. levit-ablate show NAME explains an ablation, levit-ablate plan NAME a study."""


def main(argv: Sequence[str]) -> None:
    """Print the names; a file that cannot be read is a line on standard error."""
    parser = parser_for("list", "The ablations that can be run.")
    add_format(parser)
    options = parse(parser, argv)
    found, bad = library.read_all()
    _complain(bad)
    if options.get("format") == "json":
        print(json.dumps([{**asdict(a), "path": str(a.path)} for a in found], indent=2))
        return
    console = Console()
    console.print(_table("ablation", "row", "paper", "what it changes", rows=map(_ablation, found)))
    for kind, heads in (
        (STUDIES, ("study", "variants", "what it compares")),
        (SEARCHES, ("search", "trials", "what it looks for")),
        (MODELS, ("model", "images", "what it is: stages of depth x C width, N heads")),
    ):
        rows, bad = described(kind)
        _complain(bad)
        console.print()
        console.print(_table(*heads, rows=(_cells(row, heads[1]) for row in rows)))
    console.print(NOTES, style="dim")


def _complain(bad: Iterable[UserError]) -> None:
    for error in bad:
        print(f"levit-ablate: {error}", file=sys.stderr)


def _table(*heads: str, rows: Iterable[Sequence[str]]) -> Table:
    """Return a table of names; its last column holds text and wraps."""
    table = Table(box=None, pad_edge=False)
    for head in heads:
        number = head in ("paper", "variants", "trials")
        table.add_column(head, no_wrap=head != heads[-1], justify="right" if number else "left")
    for cells in rows:
        table.add_row(*map(escape, cells))
    return table


def _ablation(ablation: Ablation) -> tuple[str, str, str, str]:
    paper = ablation.paper
    figure = f"{paper.difference:+.1f}" if paper and paper.difference else ""
    row = paper.row if paper else "–"
    return ablation.name, row, figure.replace("-", "−"), ablation.summary


def _cells(row: dict[str, Any], second: str) -> tuple[str, str, str]:
    """Return name, the second column, in which a list is counted, and what a file is about."""
    value = row[second]
    stages = f": {row['stages']}" if "stages" in row else ""
    return row["name"], str(len(value) if second == "variants" else value), row["summary"] + stages
