"""The ablation table as texts, ours beside the paper's, and the notes below it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from levit_ablate.analysis.results import Results, Row

NONE = "–"
WORDS = ("row", "ablation")
"""Columns of text; the others are numbers."""
PAPER_SETTING = {
    "dataset": "ImageNet-1k",
    "image_size": 224,
    "model": "levit_128s",
    "epochs": 100,
    "teacher": "regnety_160.deit_in1k",
}
"""Conditions of the paper's Table 4."""
THROUGHPUT_NOTE = "batch norms folded"


def signed(value: float, digits: int = 2) -> str:
    """Format a number with its sign, a true minus sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def points(share: float | None) -> str:
    """Format a difference of two shares in points: 0.0123 is +1.23."""
    return NONE if share is None else signed(100 * share)


def interval(bounds: tuple[float, float] | None) -> str:
    """Format an interval of a difference in points."""
    return f"[{points(bounds[0])}, {points(bounds[1])}]" if bounds else NONE


def percent(share: float | None, digits: int = 2) -> str:
    """Format a share as a percentage: 0.5 is 50.00 %."""
    return NONE if share is None else f"{100 * share:.{digits}f} %"


def millions(count: float | None) -> str:
    """Format a count in millions."""
    return NONE if count is None else f"{count / 1e6:.4g} M"


def p_value(value: float | None) -> str:
    """Format a p value, the smallest as < 0.001."""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _accuracy(row: Row, results: Results) -> str:
    if row.mean is None:
        return NONE
    deviation = f" ± {100 * row.deviation:.2f}" if row.deviation is not None else ""
    holes = f" ({len(row.accuracies)} of {len(results.seeds)})" if row.errors else ""
    return f"{100 * row.mean:.2f}{deviation}{holes}"


def _interaction(row: Row, _: Results) -> str:
    if row.interaction is None:
        return NONE
    bounds = row.interaction.interval
    return points(row.interaction.mean) + (f" {interval(bounds)}" if bounds else "")


def _of_paper(key: str, shown: Callable[[float], str]) -> Callable[[Row, Results], str]:
    return lambda row, _: shown(row.paper[key]) if key in row.paper else NONE


def _papers_difference(row: Row, _: Results) -> str:
    difference = row.paper.get("difference")
    return signed(difference, 1) if difference else NONE


COLUMNS: dict[str, Callable[[Row, Results], str]] = {
    "row": lambda row, _: row.paper.get("row", NONE),
    "ablation": lambda row, _: row.name,
    "parameters": lambda row, _: millions(row.params),
    "FLOPs": lambda row, _: millions(row.flops),
    "top-1 %": _accuracy,
    "Δ": lambda row, _: points(row.difference.mean if row.difference else None),
    "95 % interval": lambda row, _: interval(row.difference.interval if row.difference else None),
    "p (Holm)": lambda row, _: p_value(row.p_holm),
    "interaction": _interaction,
    "images/s": lambda row, _: f"{row.throughput:,.0f}" if row.throughput else NONE,
    "paper: parameters": _of_paper("params", millions),
    "paper: FLOPs": _of_paper("flops", millions),
    "paper: top-1 %": _of_paper("accuracy", lambda value: f"{value:.1f}"),
    "paper: Δ": _papers_difference,
}
"""Title of a column → its cell in a row."""
KEPT = ("top-1 %", "Δ")
"""Columns that are shown even where they are empty."""


def cells(results: Results) -> pd.DataFrame:
    """Return the table as texts, a row a variant; columns that would be empty are left out."""
    frame = pd.DataFrame(
        {title: [cell(row, results) for row in results.rows] for title, cell in COLUMNS.items()}
    )
    shown = [title for title in frame if title in KEPT or (frame[title] != NONE).any()]
    return frame[shown]


def conditions_line(conditions: Mapping[str, Any]) -> str:
    """Format the conditions of a study in a line."""
    recipe, data = conditions["recipe"], conditions["data"]
    return (
        f"{conditions['model']}, {data['image_size']} px, {recipe['epochs']} epochs, "
        f"batch {recipe['batch_size']}, {recipe['precision']}"
    )


def not_comparable(results: Results) -> list[str]:
    """List what differs from the conditions of the paper's table."""
    conditions = results.conditions
    teacher = conditions["teacher"]
    distilled = conditions["design"]["distillation"] != "none"
    ours = {
        "dataset": results.dataset,
        "image_size": conditions["data"]["image_size"],
        "model": conditions["model"],
        "epochs": conditions["recipe"]["epochs"],
        "teacher": teacher["model"] if distilled else "none",
    }
    names = {"image_size": "resolution"}
    return [
        f"{names.get(key, key)} {ours[key]}{' px' if key == 'image_size' else ''} (paper: {theirs})"
        for key, theirs in PAPER_SETTING.items()
        if ours[key] != theirs
    ] + ([f"cost matching {results.match}"] if results.match else [])


def notes(results: Results) -> list[str]:
    """Return the lines below the table: agreement, noise, limits, holes."""
    lines = [_agreement(results), _noise(results), _adjustment(results)]
    if len(results.seeds) == 1:
        lines.insert(
            0,
            "One seed: there is no interval and no p value. A difference may be an accident of "
            "the seed; run more (--seeds 3).",
        )
    differs = not_comparable(results)
    if differs and any(row.paper for row in results.rows):
        lines.append(f"Not comparable with the paper's figures: {'; '.join(differs)}.")
    if results.measured_on:
        lines.append(f"images/s: {THROUGHPUT_NOTE}, {results.measured_on}.")
    same = [
        row.name
        for row in results.rows
        if row.difference and row.difference.num_pairs > 1 and row.difference.interval is None
    ]
    if same:
        lines.append(
            f"No interval for {', '.join(same)}: all seeds differ by the same, which tells nothing "
            f"of how they vary."
        )
    return [line for line in lines if line] + [hole for row in results.rows for hole in _holes(row)]


def _holes(row: Row) -> list[str]:
    """List the seeds without a result, a line for each reason."""
    by_error: dict[str, list[int]] = {}
    for seed, error in row.errors.items():
        by_error.setdefault(error, []).append(seed)
    return [
        f"Hole: {row.name}, seed{'s' if len(seeds) > 1 else ''} "
        f"{', '.join(map(str, seeds))}: {error}"
        for error, seeds in by_error.items()
    ]


def _agreement(results: Results) -> str:
    agreement = results.agreement
    if agreement is None:
        return ""
    line = f"Signs as in the paper: {agreement.num_signs} of {agreement.num_rows}."
    if agreement.tau is not None:
        line += f" Rank correlation with its differences (Kendall): {signed(agreement.tau)}"
        if agreement.interval:
            low, high = agreement.interval
            line += f", 95 % of what other seeds would give: [{signed(low)}, {signed(high)}]"
        line += "."
    return line


def _noise(results: Results) -> str:
    if results.noise is None or results.noise_floor is None:
        return ""
    count, seeds = len(results.rows) - 1, len(results.seeds)
    line = (
        f"Noise: a seed moves a run by {100 * results.noise.deviation:.2f} points (pooled standard "
        f"deviation); {count} ablation{'s' if count > 1 else ''} without any effect would show a "
        f"largest |Δ| of {100 * results.noise_floor:.2f} at {seeds} seeds."
    )
    if needed := results.seeds_to_resolve:
        line += f" To resolve 0.5 points takes {needed} seeds."
    return line


def _adjustment(results: Results) -> str:
    count = sum(row.p_holm is not None for row in results.rows)
    return f"p: adjusted for {count} comparisons (Holm)." if count > 1 else ""
