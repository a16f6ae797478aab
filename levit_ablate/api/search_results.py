"""A search as it was recorded: frames of its trials, the best as confirmed, plots, export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from levit_ablate import library
from levit_ablate.api.study_results import shown
from levit_ablate.errors import UserError
from levit_ablate.experiment import Variant
from levit_ablate.searches import plots, report_tables
from levit_ablate.searches.importance import FEWEST_TRIALS
from levit_ablate.searches.report import Report, as_json, pictures_of
from levit_ablate.searches.results import FIELDS, TrialResult, winner
from levit_ablate.training.train import module_of


class SearchPlots:
    """Plots of a search, each a matplotlib Figure; UserError where there is nothing to draw."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._name = report.planned.search.name
        self._shown = report.found, FIELDS[report.planned.search.cost], report.budget

    def history(self) -> Figure:
        """Draw the accuracy of every trial by its number, and the best until then."""
        return shown(plots.history(*self._shown), f"{self._name}: history")

    def front(self) -> Figure:
        """Draw accuracy against cost, the Pareto front, and the budget."""
        return shown(plots.front(*self._shown), f"{self._name}: front")

    def parallel(self) -> Figure:
        """Draw every setting of every trial as parallel coordinates, the best one thick."""
        best = winner(*self._shown)
        figure = plots.parallel(self._report.found, best) if best else None
        return shown(figure, f"{self._name}: parallel coordinates")

    def importance(self) -> Figure:
        """Draw how much of the variance of accuracy each setting makes."""
        if self._report.importance is None:
            raise UserError(
                f"{self._name}: importance: needs {FEWEST_TRIALS} trained networks, of which some "
                f"differ in accuracy"
            )
        return shown(plots.effects(self._report.importance), f"{self._name}: importance")


@dataclass(frozen=True, kw_only=True, repr=False)
class Search:
    """A search as it was recorded when it was opened; `open_search` reads it anew."""

    report: Report
    """Trials and confirmation, as `searches.report` reads them."""
    study: optuna.Study
    """Optuna's own study, with its trials."""
    tracking_uri: str
    """MLflow store that holds its runs."""
    failed: tuple[str, ...] = ()
    """Trainings without a result, and why."""

    @property
    def name(self) -> str:
        """Name of the search."""
        return self.report.planned.search.name

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.report.planned.dataset

    @property
    def trials(self) -> pd.DataFrame:
        """A row for each trial, in the order in which they began.

        Columns: trial, state (complete, pruned, invalid, failed, running, waiting), accuracy (on
        the validation images, 0 to 1), flops, params, latency (seconds), ablation (where it was
        enqueued by name), seconds, stages, choices, error, key, and one for each setting.
        """
        rows = [
            {
                "trial": each.number,
                "state": each.state,
                "accuracy": each.accuracy,
                "flops": each.flops,
                "params": each.num_params,
                "latency": each.latency,
                "ablation": each.ablation,
                "seconds": each.seconds,
                "stages": self.report.stages.get(each.number, ""),
                "choices": self.report.choices.get(each.number, ""),
                "error": each.error,
                "key": each.key,
                **each.params,
            }
            for each in self.report.found
        ]
        return _numeric(rows, ["trial"])

    @property
    def best(self) -> pd.DataFrame:
        """A row for each of the best trials, the most accurate first, beside fresh seeds.

        Columns: trial, accuracy (as the search saw it), lead (over the baseline's trial), flops,
        params, latency, stages, choices; of the confirmation on fresh seeds: confirmed (mean
        accuracy on the test images), difference (to the baseline's), low, high (95 % interval),
        p_holm. What was not confirmed is NaN.
        """
        rows = []
        columns = ["trial", "accuracy", "flops", "params", "latency", "stages", "choices"]
        for each in json.loads(self.to_json())["best"]:
            figures = {**each, "trial": each["number"], "params": each["num_params"]}
            confirmed = each["confirmed"] or {}
            low, high = confirmed.get("interval") or (None, None)
            rows.append(
                {name: figures[name] for name in columns}
                | {
                    "lead": each["difference"],
                    "confirmed": confirmed.get("mean"),
                    "difference": confirmed.get("difference"),
                    "low": low,
                    "high": high,
                    "p_holm": confirmed.get("p_holm"),
                }
            )
        return _numeric(rows, columns)

    @property
    def plot(self) -> SearchPlots:
        """Plots: .history(), .front(), .parallel(), .importance(); each returns a Figure."""
        return SearchPlots(self.report)

    @property
    def summary(self) -> str:
        """How far the search is, and under which conditions, in a few lines."""
        return report_tables.state_of(self.report)

    @property
    def notes(self) -> list[str]:
        """Lines below the table: what may be claimed, and what may not."""
        return report_tables.notes(self.report)

    def table(self) -> pd.DataFrame:
        """Return the best as they are printed, beside the baseline: text, a row a network."""
        return report_tables.best(self.report)

    def presets(self) -> pd.DataFrame:
        """Return what LeViT's own networks cost on these images, beside the best: text."""
        return report_tables.presets(self.report)

    def to_json(self) -> str:
        """Return the whole report as JSON; accuracies and differences from 0 to 1."""
        return as_json(self.report)

    def pictures(self) -> dict[str, bytes]:
        """Return every plot that can be drawn, as PNG, by its name."""
        return pictures_of(self.report)

    def variant(self, which: int | str = "best") -> Variant:
        """Return a trial's network as the search trained it. Raises UserError as `export`."""
        return self._variant(self._chosen(which))

    def _variant(self, trial: TrialResult, summary: str = "") -> Variant:
        attributes = {each.number: each.user_attrs for each in self.study.get_trials()}
        return self.report.planned.rebuilt(trial.name, summary, attributes[trial.number])

    def network(self, which: int | str = "best") -> nn.Module:
        """Return a trial's network as it starts training: images (B, C, H, W) to (B, classes).

        Raises UserError as `export`.
        """
        return module_of(self.variant(which)).network

    def export(self, which: int | str, file: str | Path) -> Path:
        """Write a trial's network as an ablation, which `run` and `network` take by its name.

        Args:
            which: "best" as confirmed, or a trial's number.
            file: name of the ablation, in ./ablations, or path of a YAML file.

        Raises UserError where there is no such trial, the file exists, or another ablation has its
        name.
        """
        chosen = self._chosen(which)
        name = str(file)
        if Path(name).name[:1] in ("", "."):
            raise UserError(f"export: {name!r} is no name of a file")
        path = Path(name if name.endswith(library.SUFFIXES) else f"{name}.yaml")
        path = path if path.parent != Path() else Path("ablations") / path
        shipped = library.names().get(path.stem, path)
        if path.parent == Path("ablations") and shipped.resolve() != path.resolve():
            there = f"in {shipped}" if shipped.parent == path.parent else "that ships"
            raise UserError(f"export: {path.stem} would hide the ablation {there}; name another")
        text = library.to_yaml(self._variant(chosen, self.origin(chosen.number)).ablation)
        if path.is_dir() or (path.exists() and path.read_text(encoding="utf-8") != text):
            raise UserError(f"export: {path} exists; name another file, or remove it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"export: {path} cannot be written: {error.strerror}") from error
        return path

    def origin(self, which: int | str) -> str:
        """Return a line that says which trial of which search a network is."""
        return f"Trial {self._chosen(which).number} of search {self.name} on {self.dataset}"

    def _chosen(self, which: int | str) -> TrialResult:
        trained = {each.number: each for each in self.report.found if each.state == "complete"}
        if which == "best" and self.report.winner:
            return self.report.winner
        if str(which).isdigit() and int(which) in trained:
            return trained[int(which)]
        known = ", ".join(map(str, trained)) or "none yet"
        raise UserError(f"export={which}: best, or a trial that was trained to its end: {known}")

    def __repr__(self) -> str:
        counts = ", ".join(f"{number} {state}" for state, number in self.report.counts.items())
        return f"<Search {self.name} on {self.dataset}: {counts or 'no trials'}>"


SEEN = ("accuracy", "lead", "flops", "params", "latency", "seconds")
CONFIRMED = ("confirmed", "difference", "low", "high", "p_holm")
"""Columns that may be NaN: of the search, and of the confirmation."""


def _numeric(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Return a frame of the rows, with numbers for None; these columns where there are none."""
    frame = pd.DataFrame(rows, columns=None if rows else columns)
    return frame.astype({name: float for name in (*SEEN, *CONFIRMED) if name in frame})
