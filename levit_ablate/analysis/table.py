"""The ablation table: ours beside the paper's, in every format from one set of cells."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from levit_ablate.analysis.results import Results, Row

PAPER_SETTING = {
    "dataset": "ImageNet-1k",
    "image_size": 224,
    "model": "levit_128s",
    "epochs": 100,
    "teacher": "regnety_160.deit_in1k",
}
"""Of the paper's Table 4."""
NONE = "–"
WORDS = ("row", "ablation")
"""Columns that are read, not compared."""
THROUGHPUT_NOTE = "batch norms folded"


class Column(NamedTuple):
    """A column of the table."""

    title: str
    cell: Callable[[Row, Results], str]


def figures(results: Results) -> dict[str, Any]:
    """All that the table says, as plain data.

    Accuracies, differences and intervals are shares from 0 to 1; the paper's are in percent and
    points, as printed there.
    """
    agreement = results.agreement
    return {
        "study": results.study,
        "summary": results.summary,
        "dataset": results.dataset,
        "seeds": list(results.seeds),
        "complete": results.is_complete,
        "rows": [_row_figures(row) for row in results.rows],
        "noise": {
            "deviation": results.noise.deviation if results.noise else None,
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
        "not_comparable": not_comparable(results),
        "measured_on": results.measured_on,
        "notes": notes(results),
    }


def _row_figures(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "summary": row.summary,
        "paper_row": row.paper.get("row"),
        "params": row.params,
        "flops": row.flops,
        "n": len(row.accuracies),
        "accuracy_mean": row.mean,
        "accuracy_sd": row.deviation,
        "difference": row.difference.mean if row.difference else None,
        "pairs": row.difference.num_pairs if row.difference else None,
        "interval": row.difference.interval if row.difference else None,
        "p": row.difference.p if row.difference else None,
        "p_holm": row.p_holm,
        "throughput": row.throughput,
        "latency": row.latency,
        "accuracies": {str(seed): value for seed, value in row.accuracies.items()},
        "errors": {str(seed): error for seed, error in row.errors.items()},
        "runs": {str(seed): run for seed, run in row.runs.items()},
        "paper": dict(row.paper) or None,
    }


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


def _p(row: Row, results: Results) -> str:
    if row.p_holm is None:
        return NONE
    return "< 0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"


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
    ]


def notes(results: Results) -> list[str]:
    """What is to be said below the table, a line each."""
    said = []
    seeds = len(results.seeds)
    lines: list[Callable[[Results], str | None]] = [_agreed, _noise_line, _comparable, _measured]
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
    said += [
        f"Hole: {row.name}, seed {seed}: {error}"
        for row in results.rows
        for seed, error in row.errors.items()
    ]
    return said


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


def _comparable(results: Results) -> str | None:
    differs = not_comparable(results)
    if not differs or not any(row.paper for row in results.rows):
        return None
    return f"Not comparable with the paper's figures: {'; '.join(differs)}."


def _measured(results: Results) -> str | None:
    if not results.measured_on:
        return None
    return f"images/s: {THROUGHPUT_NOTE}, {results.measured_on}."


def as_json(results: Results) -> str:
    """The figures as one JSON object."""
    return json.dumps(figures(results))


def conditions_line(conditions: Mapping[str, Any]) -> str:
    """The conditions of a study in a line."""
    recipe, data = conditions["recipe"], conditions["data"]
    return (
        f"{conditions['model']}, {data['image_size']} px, {recipe['epochs']} epochs, "
        f"batch {recipe['batch_size']}, {recipe['precision']}"
    )
