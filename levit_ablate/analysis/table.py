"""The ablation table: ours beside the paper's, in every format from one set of cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from levit_ablate.analysis.results import Results, Row

NONE = "–"
WORDS = ("row", "ablation")
"""Columns that are read, not compared."""


class Column(NamedTuple):
    """A column of the table."""

    title: str
    cell: Callable[[Row, Results], str]


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, the minus sign of mathematics."""
    return f"{value:+.{digits}f}".replace("-", "−")


def _accuracy(row: Row, results: Results) -> str:
    if row.mean is None:
        return NONE
    deviation = f" ± {100 * row.deviation:.2f}" if row.deviation is not None else ""
    count = len(row.accuracies)
    return f"{100 * row.mean:.2f}{deviation}" + (
        f" ({count} of {len(results.seeds)})" if row.errors else ""
    )


def _difference(row: Row, results: Results) -> str:
    return signed(100 * row.difference.mean) if row.difference else NONE


def _interval(row: Row, results: Results) -> str:
    if not row.difference or not row.difference.interval:
        return NONE
    low, high = row.difference.interval
    return f"[{signed(100 * low)}, {signed(100 * high)}]"


def _interaction(row: Row, results: Results) -> str:
    if not row.interaction:
        return NONE
    mean = signed(100 * row.interaction.mean)
    if not row.interaction.interval:
        return mean
    low, high = row.interaction.interval
    return f"{mean} [{signed(100 * low)}, {signed(100 * high)}]"


def _p(row: Row, results: Results) -> str:
    return p_value(row.p_holm)


def p_value(value: float | None) -> str:
    """As tables have it."""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _millions(count: float | None) -> str:
    return NONE if count is None else f"{count / 1e6:.4g} M"


def _of_paper(key: str, shown: Callable[[float], str]) -> Callable[[Row, Results], str]:
    return lambda row, _: shown(row.paper[key]) if key in row.paper else NONE


COLUMNS = (
    Column("row", lambda row, _: row.paper.get("row", NONE)),
    Column("ablation", lambda row, _: row.name),
    Column("parameters", lambda row, _: _millions(row.params)),
    Column("FLOPs", lambda row, _: _millions(row.flops)),
    Column("top-1 %", _accuracy),
    Column("Δ", _difference),
    Column("95 % interval", _interval),
    Column("p (Holm)", _p),
    Column("interaction", _interaction),
    Column("images/s", lambda row, _: f"{row.throughput:,.0f}" if row.throughput else NONE),
    Column("paper: parameters", _of_paper("params", _millions)),
    Column("paper: FLOPs", _of_paper("flops", _millions)),
    Column("paper: top-1 %", _of_paper("accuracy", lambda value: f"{value:.1f}")),
    Column(
        "paper: Δ", lambda row, _: signed(row.paper["difference"], 1) if _ablates(row) else NONE
    ),
)


def _ablates(row: Row) -> bool:
    return bool(row.paper.get("difference"))


def cells(results: Results) -> pd.DataFrame:
    """The table as text, a row a variant; columns that would be empty are left out."""
    frame = pd.DataFrame(
        {column.title: [column.cell(row, results) for row in results.rows] for column in COLUMNS}
    )
    empty = [title for title in frame if (frame[title] == NONE).all()]
    kept = [title for title in empty if title in ("top-1 %", "Δ")]
    return frame.drop(columns=[title for title in empty if title not in kept])
