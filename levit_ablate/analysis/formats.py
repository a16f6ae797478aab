"""The table in each format: for a terminal, for documents, for other programs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Literal

import pandas as pd
from jinja2 import Environment, PackageLoader, Template, select_autoescape
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from levit_ablate.analysis import table
from levit_ablate.analysis.results import Results, Row

WIDTH = 200
"""Columns of the notes where standard output is no terminal."""
CAPTIONS = {
    "differences": "Differences to the baseline",
    "accuracy_against_flops": "Accuracy against multiply-adds",
    "accuracy_against_latency": "Accuracy against latency",
    "learning_curves": "Learning curves",
}
"""Name of a plot → its caption on the page."""
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "−": r"$-$", "–": "--", "Δ": r"$\Delta$", "×": r"$\times$", "≥": r"$\geq$",
    "<": r"$<$", ">": r"$>$", "½": r"$\frac{1}{2}$", "|": r"$|$",
}  # fmt: skip
"""Escapes of characters that are LaTeX syntax, or not in its default font."""

UNITS = {
    "paper.accuracy": "paper.accuracy_percent",
    "paper.difference": "paper.difference_points",
}
"""CSV columns renamed to say their unit, which is not that of the others."""
LATEX_MARKS = {
    "block_start_string": "<%",
    "block_end_string": "%>",
    "variable_start_string": "<<",
    "variable_end_string": ">>",
    "comment_start_string": "<#",
    "comment_end_string": "#>",
}
"""Jinja's delimiters in a LaTeX template, whose text is full of braces."""


def text(results: Results) -> str:
    """Return the table as it is printed where there is no terminal."""
    return captured(partial(show, results))


def captured(show: Callable[[Console], None]) -> str:
    """Return what `show` prints to a console that is no terminal."""
    wide = Console(
        width=WIDTH, highlight=False, no_color=True, force_terminal=False, force_jupyter=False
    )
    with wide.capture() as capture:
        show(wide)
    return capture.get()


def console() -> Console:
    """Return standard output, as wide as the terminal, or `WIDTH` where it is none."""
    output = Console(highlight=False)
    return output if output.is_terminal else Console(highlight=False, width=WIDTH)


def show(results: Results, console: Console) -> None:
    """Print the table and its notes; on a terminal in as many parts as it takes to fit."""
    console.print(
        f"[bold]{escape(results.study)}[/bold] on {escape(results.dataset)}: "
        f"{escape(results.summary)}\n{escape(table.conditions_line(results.conditions))}"
    )
    show_frame(table.cells(results), console, table.WORDS, table.WORDS)
    for note in table.notes(results):
        console.print(f"\n{escape(note)}")


def show_frame(
    frame: pd.DataFrame, console: Console, words: Collection[str], naming: Collection[str]
) -> None:
    """Print a table of texts; on a terminal in as many parts as it takes to fit.

    Args:
        frame: cells, with the columns' titles.
        console: console to print to.
        words: titles of the columns of text.
        naming: titles of the columns that name a row: every part begins with them.
    """
    width = console.width
    if not console.is_terminal:
        console.width = max(width, _width(frame, console, words))
    for part in _parts(frame, console, words, naming):
        console.print()
        console.print(_grid(part, words))
    console.width = width


def _parts(
    frame: pd.DataFrame, console: Console, words: Collection[str], naming: Collection[str]
) -> list[pd.DataFrame]:
    if _width(frame, console, words) <= console.width:
        return [frame]
    first = [title for title in frame if title in naming]
    parts: list[list[str]] = []
    for title in frame.columns.drop(first):
        longer = [*parts[-1], title] if parts else [*first, title]
        if parts and _width(frame[longer], console, words) <= console.width:
            parts[-1] = longer
        else:
            parts.append([*first, title])
    return [frame[part] for part in parts]


def _width(frame: pd.DataFrame, console: Console, words: Collection[str]) -> int:
    unbounded = console.options.update(width=100 * WIDTH)
    return Measurement.get(console, unbounded, _grid(frame, words)).maximum


def _grid(frame: pd.DataFrame, words: Collection[str]) -> Table:
    grid = Table(box=None, pad_edge=False)
    for title in frame:
        justify: Literal["left", "right"] = "left" if title in words else "right"
        grid.add_column(title, justify=justify, no_wrap=True)
    for cells in frame.itertuples(index=False):
        grid.add_row(*map(escape, cells))
    return grid


def markdown(results: Results) -> str:
    """Return a table of GitHub's Markdown, and the notes as a list."""
    frame = table.cells(results)
    lines = [
        f"**{results.study}** on {results.dataset}: {results.summary}",
        "",
        table.conditions_line(results.conditions),
        "",
        "| " + " | ".join(frame) + " |",
        "|" + "|".join("---" if t in table.WORDS else "---:" for t in frame) + "|",
    ]
    rows = (" | ".join(map(_cell, cells)) for cells in frame.itertuples(index=False))
    lines += [f"| {row} |" for row in rows]
    return "\n".join([*lines, "", *(f"- {_cell(note)}" for note in table.notes(results))]) + "\n"


def _cell(content: str) -> str:
    return content.replace("|", "\\|").replace("_", "\\_")


def latex(results: Results) -> str:
    """Return a table environment for pdflatex; it needs the package booktabs."""
    return _template("table.tex").render(**_content(results))


def figures(results: Results) -> dict[str, Any]:
    """Return all that the table and its notes say, as plain data.

    Accuracies, differences and intervals are shares from 0 to 1; the paper's are in percent and
    points, as printed there.
    """
    noise, agreement = results.noise, results.agreement
    return {
        "study": results.study,
        "summary": results.summary,
        "dataset": results.dataset,
        "seeds": list(results.seeds),
        "complete": results.is_complete,
        "rows": [_row_figures(row) for row in results.rows],
        "noise": {
            "deviation": noise.deviation if noise else None,
            "floor": results.noise_floor,
            "seeds_to_resolve_half_a_point": results.seeds_to_resolve,
        },
        "agreement": {
            "rows": agreement.num_rows,
            "signs": agreement.num_signs,
            "kendall_tau": agreement.tau,
            "kendall_tau_interval": agreement.interval,
        }
        if agreement
        else None,
        "not_comparable": table.not_comparable(results),
        "measured_on": results.measured_on,
        "notes": table.notes(results),
    }


def _row_figures(row: Row) -> dict[str, Any]:
    difference, interaction = row.difference, row.interaction
    return {
        "name": row.name,
        "summary": row.summary,
        "paper_row": row.paper.get("row"),
        "params": row.params,
        "flops": row.flops,
        "n": len(row.accuracies),
        "accuracy_mean": row.mean,
        "accuracy_sd": row.deviation,
        "difference": difference and difference.mean,
        "pairs": difference and difference.num_pairs,
        "interval": difference and difference.interval,
        "p": difference and difference.p,
        "p_holm": row.p_holm,
        "interaction": interaction and interaction.mean,
        "interaction_interval": interaction and interaction.interval,
        "throughput": row.throughput,
        "latency": row.latency,
        "accuracies": {str(seed): value for seed, value in row.accuracies.items()},
        "errors": {str(seed): error for seed, error in row.errors.items()},
        "runs": {str(seed): run for seed, run in row.runs.items()},
        "paper": dict(row.paper) or None,
    }


def as_json(results: Results) -> str:
    """Return `figures` as one JSON object."""
    return json.dumps(figures(results))


def csv(results: Results) -> str:
    """Return a row a variant with plain numbers: `figures` without what is nested in it."""
    frame = pd.json_normalize(
        [
            {**row, "paper": row["paper"] or {}, "interval": row["interval"] or (None, None)}
            for row in figures(results)["rows"]
        ]
    )
    low_high = pd.DataFrame(
        frame.pop("interval").tolist(), columns=["interval_low", "interval_high"]
    )
    frame = pd.concat([frame, low_high], axis=1).rename(columns=UNITS)
    nested = [name for name in frame if name.startswith(("errors.", "runs."))]
    return frame.drop(columns=nested).to_csv(index=False)


def html(results: Results, pictures: Mapping[str, bytes] | None = None) -> str:
    """Return a self-contained page; `pictures` are PNGs by their names."""
    encoded = {
        CAPTIONS.get(name, name): base64.b64encode(picture).decode()
        for name, picture in (pictures or {}).items()
    }
    return _template("page.html").render(**_content(results), pictures=encoded)


def _content(results: Results) -> dict[str, Any]:
    """Return the variables of both templates."""
    frame = table.cells(results)
    return {
        "titles": list(frame),
        "rows": list(frame.itertuples(index=False, name=None)),
        "words": table.WORDS,
        "notes": table.notes(results),
        "conditions": table.conditions_line(results.conditions),
        "results": results,
    }


def _template(name: str) -> Template:
    marks: dict[str, Any] = LATEX_MARKS if name.endswith(".tex") else {}
    environment = Environment(
        loader=PackageLoader("levit_ablate", "analysis"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **marks,
    )
    environment.filters["tex"] = lambda content: "".join(LATEX.get(c, c) for c in str(content))
    return environment.get_template(f"templates/{name}")


FORMATS: dict[str, Callable[[Results], str]] = {
    "text": text,
    "markdown": markdown,
    "latex": latex,
    "csv": csv,
    "html": html,
    "json": lambda results: f"{as_json(results)}\n",
}
"""Name that `--format` takes → function that makes the text."""
SUFFIXES = {"text": "txt", "markdown": "md", "latex": "tex"}
"""Suffixes of files that are not the format's name."""
