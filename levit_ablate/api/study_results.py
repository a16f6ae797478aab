"""A study as it was recorded, or is planned: tidy frames, the table, plots."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from levit_ablate.analysis import formats, plots, table
from levit_ablate.analysis.results import Results, curve_frame, run_frame
from levit_ablate.api.session import opened
from levit_ablate.api.settings import Format
from levit_ablate.errors import UserError, closest
from levit_ablate.runner.estimate import Estimate
from levit_ablate.schema import plain
from levit_ablate.studies.plan import Plan
from levit_ablate.studies.record import JobState, Stale

TO_RUN = ("missing", "failed", "interrupted")
"""States of a run that a sweep would train."""
RENAMED = {"name": "variant", "accuracy_mean": "accuracy", "accuracy_sd": "deviation"}
"""Columns of `Study.variants` that have another name in the table's JSON."""
NUMBERS = ("accuracy", "deviation", "difference", "low", "high", "p_holm", "throughput", "latency")
"""Columns of `Study.variants` that may be NaN."""


@dataclass(frozen=True, kw_only=True, repr=False)
class StudyPlan:
    """A study under given conditions: its variants, the state of its runs, an estimate of time."""

    planned: Plan
    states: tuple[JobState, ...]
    stale: tuple[Stale, ...]
    """Runs that were recorded under other settings, and are not used."""
    estimate: Estimate | None
    """Seconds of each variant's run; None where no probe was asked for, or nothing is to run."""
    seconds: float | None
    """Estimated time of the whole sweep, teacher included."""

    @property
    def variants(self) -> pd.DataFrame:
        """A row for each variant: name, summary, params, flops, matched, seconds (of a run)."""
        frame = pd.DataFrame(self.as_dict()["variants"])
        return frame[["name", "summary", "params", "flops", "matched", "seconds"]]

    @property
    def runs(self) -> pd.DataFrame:
        """A row for each variant and seed: variant, seed, state, key, run_id.

        States: recorded, at work, failed, interrupted, missing.
        """
        frame = pd.DataFrame(
            {"variant": each["name"], **run}
            for each in self.as_dict()["variants"]
            for run in each["runs"]
        )
        return frame.rename(columns={"run": "run_id"})

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        planned = self.planned
        runs: dict[str, list[dict[str, Any]]] = {variant.name: [] for variant in planned.variants}
        for job, state, run_id in self.states:
            runs[job.name].append(
                {"seed": job.experiment.seed, "state": state, "key": job.key, "run": run_id}
            )
        return {
            "study": planned.study.name,
            "dataset": planned.dataset,
            "key": planned.key,
            "seeds": list(planned.seeds),
            "variants": [
                {
                    "name": variant.name,
                    "summary": variant.ablation.summary,
                    "params": variant.cost.params,
                    "flops": variant.cost.flops,
                    "matched": variant.matched,
                    "stages": plain(variant.architecture.stages),
                    "value_dim": variant.architecture.value_dim,
                    "differs": {
                        name: plain(value) for name, (_, value) in variant.differences().items()
                    },
                    "seconds": self.estimate.run[variant.name] if self.estimate else None,
                    "runs": runs[variant.name],
                }
                for variant in planned.variants
            ],
            "runs": len(self.states),
            "to_run": sum(each.state in TO_RUN for each in self.states),
            "recorded": sum(each.state == "recorded" for each in self.states),
            "stale": [each._asdict() for each in self.stale],
            "seconds": self.seconds,
        }

    def __repr__(self) -> str:
        figures = self.as_dict()
        runs = f"{figures['recorded']} of {figures['runs']} runs are recorded"
        return f"<StudyPlan {figures['study']} on {figures['dataset']}: {runs}>"


class StudyPlots:
    """Plots of a study, each a matplotlib Figure; UserError where there is nothing to draw."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def forest(self) -> Figure:
        """Draw every variant's difference to the baseline, with its interval and the paper's."""
        return self._drawn("differences")

    def cost(self) -> Figure:
        """Draw accuracy against multiply-adds."""
        return self._drawn("accuracy_against_flops")

    def latency(self) -> Figure:
        """Draw accuracy against the measured latency of one image."""
        return self._drawn("accuracy_against_latency")

    def curves(self) -> Figure:
        """Draw validation accuracy by epoch, a mean over seeds with a band."""
        return self._drawn("learning_curves")

    def _drawn(self, name: str) -> Figure:
        study = self._study
        with opened(study.tracking_uri, existing=True):
            figure = plots.PLOTS[name](study.results)
        return shown(figure, f"{study.name}: {name.replace('_', ' ')}")


def shown(figure: Figure | None, what: str) -> Figure:
    """Return a figure that Jupyter shows. Raises UserError where there is none."""
    if figure is None:
        raise UserError(f"{what}: there is no result to draw yet")
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:  # unless %matplotlib inline has done so
        formatters = shell.display_formatter.formatters
        if not any(Figure in each.type_printers for each in formatters.values()):
            formatters["image/png"].for_type(Figure, plots.png)
    return figure


@dataclass(frozen=True, kw_only=True, repr=False)
class Study:
    """A study as it was recorded when it was opened; `open_study` reads it anew."""

    results: Results
    """Rows, noise and agreement, as `analysis.results` reads them."""
    run_id: str
    """MLflow run of the study, the parent of its runs."""
    tracking_uri: str
    """MLflow store that holds it."""
    failed: tuple[str, ...] = ()
    """Jobs of the sweep that have no result, and why."""

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.results.study

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.results.dataset

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of every variant."""
        return self.results.seeds

    @property
    def runs(self) -> pd.DataFrame:
        """A row for each variant and seed, the baseline first.

        Columns: variant, seed, accuracy (on the test images, 0 to 1), difference (to the
        baseline's of the same seed), run_id, error (why there is no accuracy). What is not there
        is NaN, or empty text.
        """
        return run_frame(self.results)

    @property
    def variants(self) -> pd.DataFrame:
        """A row for each variant, the baseline first: its costs, and its accuracies over seeds.

        Columns: variant, summary, params, flops, n (seeds with a result), accuracy (mean, 0 to 1),
        deviation (over seeds), difference (mean, to the baseline), low and high (95 % interval),
        p_holm, throughput (images a second), latency (seconds an image).
        """
        rows = formats.figures(self.results)["rows"]
        for row in rows:
            row["low"], row["high"] = row["interval"] or (None, None)
        frame = pd.DataFrame(rows).rename(columns=RENAMED).astype(dict.fromkeys(NUMBERS, float))
        return frame[["variant", "summary", "params", "flops", "n", *NUMBERS]]

    @property
    def curves(self) -> pd.DataFrame:
        """A row for each variant, seed and epoch (from 1), with val_accuracy (0 to 1).

        Raises RunError where the record cannot be read.
        """
        with opened(self.tracking_uri, existing=True):
            return curve_frame(self.results)

    @property
    def plot(self) -> StudyPlots:
        """Plots: .forest(), .cost(), .latency(), .curves(); each returns a matplotlib Figure."""
        return StudyPlots(self)

    @property
    def notes(self) -> list[str]:
        """Lines below the table: noise, agreement with the paper, what is not comparable."""
        return table.notes(self.results)

    def table(self) -> pd.DataFrame:
        """Return the table as it is printed, ours beside the paper's: text, a row a variant."""
        return table.cells(self.results)

    def to(self, kind: Format) -> str:
        """Return the table as text, markdown, latex, csv, html (a page with the plots) or json."""
        if kind == "html":
            return formats.html(self.results, self.pictures())
        if kind not in formats.FORMATS:
            raise UserError(f"format: {kind!r} is not a choice; {closest(kind, formats.FORMATS)}")
        return formats.FORMATS[kind](self.results)

    def pictures(self) -> dict[str, bytes]:
        """Return every plot that can be drawn, as PNG, by its name."""
        with opened(self.tracking_uri, existing=True):
            return plots.pictures(self.results)

    def __repr__(self) -> str:
        runs = f"{len(self.results.rows)} variants x {len(self.seeds)} seeds"
        return f"<Study {self.name} on {self.dataset}: {runs}>"
