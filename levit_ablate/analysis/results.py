"""What a study came to, row by row, read from MLflow alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy
from mlflow.entities import Run

from levit_ablate.analysis import statistics
from levit_ablate.analysis.statistics import Agreement, Difference, Noise
from levit_ablate.tracking.runs import children, read_json
from levit_ablate.tracking.tags import ERROR, KEY, TAG

DESCRIPTION = "study.json"
"""Artifact of a study's run: what `Plan.described` says."""
BASE = "base"
"""The paper's name for LeViT itself."""
RESOLVED = 0.005
"""The difference whose seeds are counted: half a point."""
THROUGHPUT, LATENCY = "throughput", "latency"
"""Metrics of a study's run, with a variant's name behind them."""
MEASURED_ON = f"{TAG}measured_on"
"""Tag of a study's run: the hardware that they were measured on."""
MEASURED_OF = f"{TAG}measured_of"
"""Tag of a study's run: the networks that were measured."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A variant, and what was recorded of it."""

    name: str
    summary: str
    paper: Mapping[str, Any]
    """The published row, where there is one: row, params, flops, accuracy, difference."""
    params: int
    flops: int
    accuracies: Mapping[int, float]
    """Seed → accuracy on the test images, from 0 to 1, of the runs that finished."""
    errors: Mapping[int, str]
    """Seed → why there is no accuracy: how a run failed, or that none was run yet."""
    runs: Mapping[int, str]
    """Seed → MLflow's name of the run that finished."""
    difference: Difference | None = None
    """To the baseline; None for itself, and where no seed has both."""
    p_holm: float | None = None
    parts: tuple[str, ...] = ()
    """The two ablations that it is at once, if it is."""
    interaction: Difference | None = None
    """Its difference less those of its parts."""
    throughput: float | None = None
    """Images a second of the network without its batch norms, as measured."""
    latency: float | None = None
    """Seconds that one image takes it."""

    @property
    def mean(self) -> float | None:
        values = list(self.accuracies.values())
        return sum(values) / len(values) if values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None with fewer than two."""
        values = list(self.accuracies.values())
        return float(numpy.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Results:
    """A study's rows, the baseline first, and what they say together."""

    study: str
    summary: str
    dataset: str
    seeds: tuple[int, ...]
    conditions: Mapping[str, Any]
    """The baseline's experiment, as `to_mapping` gives it."""
    rows: tuple[Row, ...]
    noise: Noise | None
    agreement: Agreement | None
    """With the paper; None where no row is the paper's."""
    measured_on: str = ""
    """The hardware that throughput and latency were measured on."""
    match: str = ""
    """The matching in place of the ablations' own; empty where there is none."""

    @property
    def is_complete(self) -> bool:
        return not any(row.errors for row in self.rows)

    @property
    def noise_floor(self) -> float | None:
        """The largest |difference| that null ablations would show at this number of seeds."""
        if self.noise is None:
            return None
        seeds = len(self.seeds)
        return statistics.noise_floor(self.noise.deviation, len(self.rows) - 1, seeds)

    @property
    def seeds_to_resolve(self) -> int | None:
        """Seeds that would resolve half a point."""
        if self.noise is None:
            return None
        return statistics.seeds_to_resolve(self.noise.deviation, RESOLVED)


def description_of(parent: Run) -> dict[str, Any]:
    """What a study's run says of the study. Raises RunError where it cannot be read."""
    return read_json(parent, DESCRIPTION)


def results_of(parent: Run, described: Mapping[str, Any] | None = None) -> Results:
    """A study's results as they stand. Raises RunError where the record cannot be read.

    Args:
        parent: the study's run.
        described: what its artifact says, for who has it already.
    """
    said = described or description_of(parent)
    by_key: dict[str, list[Run]] = {}
    for run in children(parent.info.run_id):
        by_key.setdefault(run.data.tags.get(KEY, ""), []).append(run)
    measured = parent.data.metrics
    rows = [_row(each, said["seeds"], by_key, measured) for each in said["variants"]]
    return summed_up(said, rows, measured_on=parent.data.tags.get(MEASURED_ON, ""))


def summed_up(said: Mapping[str, Any], rows: Sequence[Row], measured_on: str = "") -> Results:
    """Rows compared with the first of them, and with the paper."""
    baseline = rows[0]
    rows = [baseline, *(_published(row, baseline) for row in rows[1:])]
    differences = [None, *(_difference(row, baseline) for row in rows[1:])]
    adjusted = statistics.holm([d.p if d else None for d in differences])
    compared = tuple(
        replace(row, difference=difference, p_holm=p, interaction=_interaction(row, rows))
        for row, difference, p in zip(rows, differences, adjusted, strict=True)
    )
    noise = _noise(compared)
    return Results(
        study=said["study"],
        summary=said["summary"],
        dataset=said["dataset"],
        seeds=tuple(said["seeds"]),
        conditions=said["conditions"],
        rows=compared,
        noise=noise,
        agreement=_agreement(compared, noise, len(said["seeds"])),
        measured_on=measured_on,
        match=said.get("match", ""),
    )


def _published(row: Row, baseline: Row) -> Row:
    """With the paper's difference to this baseline, which is LeViT in the paper."""
    if not row.paper or baseline.paper.get("row") == BASE:
        return row
    paper = {key: value for key, value in row.paper.items() if key != "difference"}
    if baseline.paper:
        paper["difference"] = round(paper["accuracy"] - baseline.paper["accuracy"], 2)
    return replace(row, paper=paper)


def metric_name(kind: str, variant: str) -> str:
    """A metric of a study's run for one of its variants: MLflow takes no other characters."""
    plain = "".join(c if c.isalnum() or c in "_-. :" else "_" for c in variant)
    return f"{kind}/{plain}"


def _row(
    said: Mapping[str, Any],
    seeds: Sequence[int],
    by_key: Mapping[str, list[Run]],
    measured: Mapping[str, float],
) -> Row:
    accuracies, errors, runs = {}, {}, {}
    for seed in seeds:
        found = by_key.get(said["keys"].get(str(seed)), [])
        finished = [run for run in found if run.info.status == "FINISHED"]
        if finished:
            accuracies[seed] = finished[0].data.metrics["test_accuracy"]
            runs[seed] = finished[0].info.run_id
        else:
            errors[seed] = _error(found)
    return Row(
        name=said["name"],
        summary=said["summary"],
        paper=said.get("paper", {}),
        params=said["params"],
        flops=said["flops"],
        accuracies=accuracies,
        errors=errors,
        runs=runs,
        parts=tuple(said.get("parts", ())),
        throughput=measured.get(metric_name(THROUGHPUT, said["name"])),
        latency=measured.get(metric_name(LATENCY, said["name"])),
    )


def _error(found: Sequence[Run]) -> str:
    if not found:
        return "not run yet"
    latest = found[0]
    reason = latest.data.tags.get(ERROR, "")
    return f"{latest.info.status.lower()}{': ' if reason else ''}{reason}"


def _difference(row: Row, baseline: Row) -> Difference | None:
    seeds = sorted(row.accuracies.keys() & baseline.accuracies.keys())
    if not seeds:
        return None
    own, base = ([each.accuracies[seed] for seed in seeds] for each in (row, baseline))
    return statistics.paired(own, base)


def _interaction(row: Row, rows: Sequence[Row]) -> Difference | None:
    """What two ablations cost together beyond what each costs alone, over common seeds."""
    by_name = {each.name: each for each in rows}
    if not row.parts or not by_name.keys() >= set(row.parts):
        return None
    first, second = (by_name[name].accuracies for name in row.parts)
    baseline = rows[0].accuracies
    seeds = sorted(row.accuracies.keys() & baseline.keys() & first.keys() & second.keys())
    if not seeds:
        return None
    together = [row.accuracies[seed] for seed in seeds]
    added = [first[seed] + second[seed] - baseline[seed] for seed in seeds]
    return statistics.paired(together, added)


def _noise(rows: Sequence[Row]) -> Noise | None:
    """Of the rows and seeds that are complete together."""
    complete = [row for row in rows if not row.errors]
    if not complete:
        return None
    seeds = sorted(complete[0].accuracies)
    table = numpy.array([[row.accuracies[seed] for seed in seeds] for row in complete])
    return statistics.noise(table)


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
