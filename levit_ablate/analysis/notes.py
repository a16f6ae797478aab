"""What is to be said beside the table: its conditions, its noise, what it cannot be held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from levit_ablate.analysis.results import Results, Row
from levit_ablate.analysis.table import signed

PAPER_SETTING = {
    "dataset": "ImageNet-1k",
    "image_size": 224,
    "model": "levit_128s",
    "epochs": 100,
    "teacher": "regnety_160.deit_in1k",
}
"""Of the paper's Table 4."""
THROUGHPUT_NOTE = "batch norms folded"


def conditions_line(conditions: Mapping[str, Any]) -> str:
    """The conditions of a study in a line."""
    recipe, data = conditions["recipe"], conditions["data"]
    return (
        f"{conditions['model']}, {data['image_size']} px, {recipe['epochs']} epochs, "
        f"batch {recipe['batch_size']}, {recipe['precision']}"
    )


def not_comparable(results: Results) -> list[str]:
    """What differs from the conditions of the paper's table, and so what it cannot be held to."""
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
    """What is to be said below the table, a line each."""
    said = []
    seeds = len(results.seeds)
    lines: list[Callable[[Results], str | None]] = [
        _agreed,
        _noise_line,
        _adjusted,
        _comparable,
        _measured,
    ]
    if seeds == 1:
        said.append(
            "One seed: there is no interval and no p value. A difference may be an accident of "
            "the seed; run more (--seeds 3)."
        )
    said += [line for make in lines if (line := make(results))]
    same = [r.name for r in results.rows if r.difference and _all_alike(r)]
    if same:
        said.append(
            f"No interval for {', '.join(same)}: all seeds differ by the same, which tells nothing "
            f"of how they vary."
        )
    return said + [hole for row in results.rows for hole in _holes(row)]


def _holes(row: Row) -> list[str]:
    """Which seeds have no result and why, a line for each reason."""
    by_error: dict[str, list[int]] = {}
    for seed, error in row.errors.items():
        by_error.setdefault(error, []).append(seed)
    return [
        f"Hole: {row.name}, seed{'s' if len(seeds) > 1 else ''} "
        f"{', '.join(map(str, seeds))}: {error}"
        for error, seeds in by_error.items()
    ]


def _all_alike(row: Row) -> bool:
    assert row.difference
    return row.difference.num_pairs > 1 and row.difference.interval is None


def _agreed(results: Results) -> str | None:
    agreement = results.agreement
    if agreement is None:
        return None
    line = f"Signs as in the paper: {agreement.num_signs} of {agreement.num_rows}."
    if agreement.tau is not None:
        line += f" Rank correlation with its differences (Kendall): {signed(agreement.tau)}"
        if agreement.interval:
            low, high = agreement.interval
            line += f", 95 % of what other seeds would give: [{signed(low)}, {signed(high)}]"
        line += "."
    return line


def _noise_line(results: Results) -> str | None:
    if results.noise is None or results.noise_floor is None:
        return None
    count, seeds = len(results.rows) - 1, len(results.seeds)
    line = (
        f"Noise: a seed moves a run by {100 * results.noise.deviation:.2f} points (pooled standard "
        f"deviation); {count} ablation{'s' if count > 1 else ''} without any effect would show a "
        f"largest |Δ| of {100 * results.noise_floor:.2f} at {seeds} seeds."
    )
    if needed := results.seeds_to_resolve:
        line += f" To resolve 0.5 points takes {needed} seeds."
    return line


def _adjusted(results: Results) -> str | None:
    count = sum(row.p_holm is not None for row in results.rows)
    return f"p: adjusted for {count} comparisons (Holm)." if count > 1 else None


def _comparable(results: Results) -> str | None:
    differs = not_comparable(results)
    if not differs or not any(row.paper for row in results.rows):
        return None
    return f"Not comparable with the paper's figures: {'; '.join(differs)}."


def _measured(results: Results) -> str | None:
    if not results.measured_on:
        return None
    return f"images/s: {THROUGHPUT_NOTE}, {results.measured_on}."
