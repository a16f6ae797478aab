"""The table in each format: for a terminal, for documents, for other programs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from math import inf
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.text import Text

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
LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "−": r"$-$", "–": "--", "Δ": r"$\Delta$", "×": r"$\times$", "≥": r"$\geq$",
    "<": r"$<$", ">": r"$>$", "½": r"$\frac{1}{2}$", "|": r"$|$",
})  # fmt: skip
"""Escapes of characters that are LaTeX syntax, or not in its default font."""

UNITS = {
    "paper.accuracy": "paper.accuracy_percent",
    "paper.difference": "paper.difference_points",
}
"""CSV columns renamed to say their unit, which is not that of the others."""


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
    cells = {title: [title, *frame[title]] for title in frame}
    widths = {title: max(map(cell_len, column)) for title, column in cells.items()}
    limit = console.width if console.is_terminal else inf
    for part in _parts(widths, naming, limit):
        console.print()
        for number in range(len(frame) + 1):
            texts = []
            for title in part:
                gap = " " * (widths[title] - cell_len(cells[title][number]))
                parts = (cells[title][number], gap)
                texts.append("".join(parts if title in words else reversed(parts)))
            line = "  ".join(texts).rstrip()
            console.print(Text(line, style="" if number else "bold"), soft_wrap=True)


def _parts(widths: Mapping[str, int], naming: Collection[str], limit: float) -> list[list[str]]:
    """Divide columns of these widths into tables that fit; each begins with those of `naming`."""

    def fits(titles: Collection[str]) -> bool:
        return sum(widths[title] + 2 for title in titles) - 2 <= limit

    if fits(widths):
        return [list(widths)]
    first = [title for title in widths if title in naming]
    parts: list[list[str]] = []
    for title in widths:
        if title in first:
            continue
        if parts and fits([*parts[-1], title]):
            parts[-1].append(title)
        else:
            parts.append([*first, title])
    return parts


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
    frame = table.cells(results)
    header, *rows = (
        rf"{' & '.join(map(_tex, cells))} \\" for cells in (frame, *frame.itertuples(index=False))
    )
    alignment = "".join("l" if title in table.WORDS else "r" for title in frame)
    conditions = table.conditions_line(results.conditions)
    caption = f"{results.study} on {results.dataset}: {results.summary} ({conditions})."
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(caption)}}}",
        rf"\resizebox{{\linewidth}}{{!}}{{\begin{{tabular}}{{{alignment}}}",
        rf"\toprule {header} \midrule",
        *rows,
        r"\bottomrule \end{tabular}}",
        r"\par\smallskip\raggedright\footnotesize",
        *(rf"{_tex(note)}\par" for note in table.notes(results)),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tex(content: str) -> str:
    return content.translate(LATEX)


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


def csv(results: Results) -> str:
    """Return a row a variant with plain numbers: `figures` without what is nested in it."""
    rows = [{**row, "paper": row["paper"] or {}} for row in figures(results)["rows"]]
    frame = pd.json_normalize(rows).rename(columns=UNITS)
    bounds = [interval or (None, None) for interval in frame.pop("interval")]
    frame[["interval_low", "interval_high"]] = bounds
    nested = [name for name in frame if name.startswith(("errors.", "runs."))]
    return frame.drop(columns=nested).to_csv(index=False)


def html(results: Results, pictures: Mapping[str, bytes] | None = None) -> str:
    """Return a self-contained page; `pictures` are PNGs by their names."""
    encoded = {
        CAPTIONS.get(name, name): base64.b64encode(picture).decode()
        for name, picture in (pictures or {}).items()
    }
    frame = table.cells(results)
    environment = Environment(
        loader=PackageLoader("levit_ablate", "analysis"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("templates/page.html").render(
        titles=list(frame),
        rows=list(frame.itertuples(index=False, name=None)),
        words=table.WORDS,
        notes=table.notes(results),
        conditions=table.conditions_line(results.conditions),
        results=results,
        pictures=encoded,
    )


FORMATS: dict[str, Callable[[Results], str]] = {
    "text": text,
    "markdown": markdown,
    "latex": latex,
    "csv": csv,
    "html": html,
    "json": lambda results: f"{json.dumps(figures(results))}\n",
}
"""Name that `--format` takes → function that makes the text."""
SUFFIXES = {"text": "txt", "markdown": "md", "latex": "tex"}
"""Suffixes of files that are not the format's name."""
