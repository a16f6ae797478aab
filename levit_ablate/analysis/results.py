"""Results of a study, a row a variant, read from MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from levit_ablate.analysis import statistics
from levit_ablate.analysis.statistics import Agreement, Difference, Noise
from levit_ablate.tracking.runs import children, read_json, reading_the_record
from levit_ablate.tracking.tags import ERROR, KEY, TAG

DESCRIPTION = "study.json"
"""Artifact of a study's run: `Plan.described` as JSON."""
BASE = "base"
"""Row of the paper's table that is LeViT itself."""
RESOLVED = 0.005
"""Difference that `seeds_to_resolve` is for: half a point."""
THROUGHPUT, LATENCY = "throughput", "latency"
"""Metrics of a study's run, each followed by a variant's name: see `metric_name`."""
MEASURED_ON = f"{TAG}measured_on"
"""Tag of a study's run: the hardware that throughput and latency were measured on."""
MEASURED_OF = f"{TAG}measured_of"
"""Tag of a study's run: the networks that were measured."""
CURVE = "val_accuracy"
"""Metric of a training's run, one value an epoch: accuracy on the validation images, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A variant with its recorded accuracies."""

    name: str
    summary: str
    paper: Mapping[str, Any]
    """Row of the paper's table, or empty: row, params, flops, accuracy, difference."""
    params: int
    flops: int
    accuracies: Mapping[int, float]
    """Seed → accuracy on the test images, 0 to 1, of each finished run."""
    errors: Mapping[int, str]
    """Seed → why it has no accuracy: the run's error, or that it was not run yet."""
    runs: Mapping[int, str]
    """Seed → ID of the finished run in MLflow."""
    difference: Difference | None = None
    """Difference to the baseline; None for the baseline, and where they have no seed in common."""
    p_holm: float | None = None
    """P value of the difference, adjusted for the number of variants (Holm)."""
    parts: tuple[str, ...] = ()
    """Names of the two ablations that it combines, if it does."""
    interaction: Difference | None = None
    """Its difference less those of its two parts."""
    throughput: float | None = None
    """Images a second, batch norms folded."""
    latency: float | None = None
    """Seconds for one image, batch norms folded."""

    @property
    def mean(self) -> float | None:
        """Mean accuracy over seeds, 0 to 1; None without any."""
        values = list(self.accuracies.values())
        return sum(values) / len(values) if values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the accuracy over seeds; None with fewer than two."""
        values = list(self.accuracies.values())
        return float(numpy.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Results:
    """Results of a study: its rows, the baseline first, and their common statistics."""

    study: str
    summary: str
    dataset: str
    seeds: tuple[int, ...]
    conditions: Mapping[str, Any]
    """The baseline's experiment, as `schema.to_mapping` gives it."""
    rows: tuple[Row, ...]
    noise: Noise | None
    agreement: Agreement | None
    """Agreement with the paper's differences; None where no row is the paper's."""
    measured_on: str = ""
    """Hardware of the throughput and latency; empty where none were measured."""
    match: str = ""
    """Cost matching in place of the ablations' own; empty for their own."""

    @property
    def is_complete(self) -> bool:
        """Whether every variant has an accuracy for every seed."""
        return not any(row.errors for row in self.rows)

    @property
    def noise_floor(self) -> float | None:
        """Largest |difference| expected of ablations without any effect, at these seeds."""
        if self.noise is None:
            return None
        num_variants, num_seeds = len(self.rows) - 1, len(self.seeds)
        return statistics.noise_floor(self.noise.deviation, num_variants, num_seeds)

    @property
    def seeds_to_resolve(self) -> int | None:
        """Number of seeds that would resolve half a point."""
        return statistics.seeds_to_resolve(self.noise.deviation, RESOLVED) if self.noise else None


def description_of(parent: Run) -> dict[str, Any]:
    """Return the description of a study, kept with its run. Raises RunError if unreadable."""
    return read_json(parent, DESCRIPTION)


def results_of(parent: Run, described: Mapping[str, Any] | None = None) -> Results:
    """Return a study's results as they stand. Raises RunError where MLflow cannot be read.

    Args:
        parent: run of the study in MLflow.
        described: description of the study in place of the run's own, such as a part of it.
    """
    described = described or description_of(parent)
    by_key: dict[str, list[Run]] = {}
    for run in children(parent.info.run_id):
        by_key.setdefault(run.data.tags.get(KEY, ""), []).append(run)
    measured = parent.data.metrics
    rows = [_row(each, described["seeds"], by_key, measured) for each in described["variants"]]
    return summed_up(described, rows, measured_on=parent.data.tags.get(MEASURED_ON, ""))


def summed_up(described: Mapping[str, Any], rows: Sequence[Row], measured_on: str = "") -> Results:
    """Compare rows with the first of them, and with the paper."""
    baseline = rows[0]
    rows = [baseline, *(_published(row, baseline) for row in rows[1:])]
    accuracies = {row.name: pd.Series(row.accuracies, dtype=float) for row in rows}
    base = accuracies[baseline.name]
    differences = [None, *(_difference(accuracies[row.name], base) for row in rows[1:])]
    adjusted = statistics.holm([d.p if d else None for d in differences])
    interactions = [_interaction(row, accuracies, base) for row in rows]
    compared = tuple(
        replace(row, difference=difference, p_holm=p, interaction=interaction)
        for row, difference, p, interaction in zip(
            rows, differences, adjusted, interactions, strict=True
        )
    )
    noise = _noise(compared)
    return Results(
        study=described["study"],
        summary=described["summary"],
        dataset=described["dataset"],
        seeds=tuple(described["seeds"]),
        conditions=described["conditions"],
        rows=compared,
        noise=noise,
        agreement=_agreement(compared, noise, len(described["seeds"])),
        measured_on=measured_on,
        match=described.get("match", ""),
    )


def _published(row: Row, baseline: Row) -> Row:
    """Return the row with the paper's difference to this baseline; the paper's own is LeViT."""
    if not row.paper or baseline.paper.get("row") == BASE:
        return row
    paper = {key: value for key, value in row.paper.items() if key != "difference"}
    if baseline.paper:
        paper["difference"] = round(paper["accuracy"] - baseline.paper["accuracy"], 2)
    return replace(row, paper=paper)


def metric_name(kind: str, variant: str) -> str:
    """Name a variant's metric in the study's run, in the characters that MLflow takes."""
    plain = "".join(c if c.isalnum() or c in "_-. :" else "_" for c in variant)
    return f"{kind}/{plain}"


def _row(
    variant: Mapping[str, Any],
    seeds: Sequence[int],
    by_key: Mapping[str, list[Run]],
    measured: Mapping[str, float],
) -> Row:
    accuracies, errors, runs = {}, {}, {}
    for seed in seeds:
        matching = by_key.get(variant["keys"].get(str(seed)), [])
        finished = [run for run in matching if run.info.status == "FINISHED"]
        if finished:
            accuracies[seed] = finished[0].data.metrics["test_accuracy"]
            runs[seed] = finished[0].info.run_id
        else:
            errors[seed] = _error(matching)
    return Row(
        name=variant["name"],
        summary=variant["summary"],
        paper=variant.get("paper", {}),
        params=variant["params"],
        flops=variant["flops"],
        accuracies=accuracies,
        errors=errors,
        runs=runs,
        parts=tuple(variant.get("parts", ())),
        throughput=measured.get(metric_name(THROUGHPUT, variant["name"])),
        latency=measured.get(metric_name(LATENCY, variant["name"])),
    )


def _error(runs: Sequence[Run]) -> str:
    if not runs:
        return "not run yet"
    status, reason = runs[0].info.status.lower(), runs[0].data.tags.get(ERROR, "")
    return f"{status}: {reason}" if reason else status


def _difference(accuracies: pd.Series, expected: pd.Series) -> Difference | None:
    """Return the difference over the seeds that both have; None without any."""
    both = accuracies.align(expected.dropna(), join="inner")
    return statistics.paired(*both) if len(both[0]) else None


def _interaction(
    row: Row, accuracies: Mapping[str, pd.Series], base: pd.Series
) -> Difference | None:
    """Return what two ablations cost together beyond what each costs alone, over common seeds."""
    if not row.parts or not accuracies.keys() >= set(row.parts):
        return None
    first, second = (accuracies[name] for name in row.parts)
    return _difference(accuracies[row.name], first + second - base)


def _noise(rows: Sequence[Row]) -> Noise | None:
    """Return the noise of the rows that have every seed."""
    complete = [list(row.accuracies.values()) for row in rows if not row.errors]
    return statistics.noise(numpy.array(complete)) if complete else None


def _agreement(rows: Sequence[Row], noise: Noise | None, num_seeds: int) -> Agreement | None:
    both = [(r.difference, r.paper["difference"]) for r in rows[1:] if "difference" in r.paper]
    known = [(difference.mean, theirs) for difference, theirs in both if difference]
    if not known:
        return None
    ours, theirs = zip(*known, strict=True)
    error = noise and Noise(
        deviation=noise.deviation / math.sqrt(num_seeds),
        degrees_of_freedom=noise.degrees_of_freedom,
    )
    return statistics.agreement(ours, theirs, error)


def run_frame(results: Results) -> pd.DataFrame:
    """Return a row for every variant and seed, the baseline first, whether it was run or not.

    Columns: variant, seed, accuracy (test images, 0 to 1), difference (to the baseline's of the
    same seed), run_id, error (why there is no accuracy). Missing numbers are NaN, missing text
    is empty.
    """
    base = results.rows[0].accuracies
    runs = [
        {
            "variant": row.name,
            "seed": seed,
            "accuracy": row.accuracies.get(seed, math.nan),
            "difference": row.accuracies.get(seed, math.nan) - base.get(seed, math.nan),
            "run_id": row.runs.get(seed, ""),
            "error": row.errors.get(seed, ""),
        }
        for row in results.rows
        for seed in results.seeds
    ]
    return pd.DataFrame(runs)


@reading_the_record()
def curve_frame(results: Results) -> pd.DataFrame:
    """Return a row for every variant, seed and epoch (from 1), read from MLflow.

    Columns: variant, seed, epoch, val_accuracy (0 to 1). Raises RunError where it cannot be read.
    """
    client = MlflowClient()
    points = [
        (row.name, seed, metric.step + 1, metric.value)
        for row in results.rows
        for seed, run in row.runs.items()
        for metric in client.get_metric_history(run, CURVE)
    ]
    return pd.DataFrame(points, columns=["variant", "seed", "epoch", CURVE])
