"""What `levit-ablate table` does once its options are read."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from levit_ablate.analysis import formats, plots
from levit_ablate.analysis.results import description_of, results_of
from levit_ablate.errors import UserError
from levit_ablate.experiments import identified
from levit_ablate.studies.parent import study_runs
from levit_ablate.studies.plan import plan
from levit_ablate.studies.study import Study
from levit_ablate.tracking.runs import children, settle
from levit_ablate.tracking.store import open_recorded, tracking_uri
from levit_ablate.tracking.tags import DATASET, STUDY_KEY


def run(study: Study, given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Print the table, and write the plots where they are wanted."""
    uri = tracking_uri(options.get("tracking_uri"))
    open_recorded(uri)
    parent = _chosen(study, given, uri)
    settle([parent, *children(parent.info.run_id)])
    described = description_of(parent)
    narrowed = _narrowed(described, study, options)
    results = results_of(parent, narrowed)
    pictures = {}
    kind = options.get("format", "text")
    if options.get("figures") or kind == "html":
        pictures = plots.pictures(results)
    if options.get("figures"):
        _write(pictures, Path(options["figures"]))
    if kind == "text":
        formats.show(results, formats.console())
    elif kind == "html":
        print(formats.html(results, pictures))
    else:
        print(formats.FORMATS[kind](results), end="")


def _chosen(study: Study, given: Mapping[str, Any], uri: str) -> Run:
    """The study's run under the conditions given; without any, the latest. Raises UserError."""
    found = study_runs(study.name)
    if given:
        key = plan(study, identified(given)).key
        found = [run for run in found if run.data.tags.get(STUDY_KEY) == key]
    if not found:
        under = " under these conditions" if given else ""
        raise UserError(
            f"{study.name}: nothing is recorded in {uri}{under}; levit-ablate sweep {study.name} "
            f"runs it"
        )
    if len(found) > 1:
        others = ", ".join(sorted({run.data.tags.get(DATASET, "") for run in found[1:]}))
        print(
            f"{study.name}: {len(found)} records; this is the latest. The others, on {others}, are "
            f"shown with the conditions that sweep was given",
            file=sys.stderr,
        )
    return found[0]


def _narrowed(
    described: Mapping[str, Any], study: Study, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What is recorded of the study, with only the variants and seeds that are asked for."""
    said = dict(described)
    if options.get("variants"):
        names = [study.baseline.name, *(variant.name for variant in study.variants)]
        said["variants"] = [v for v in said["variants"] if v["name"] in names]
    if options.get("seeds"):
        seeds = set(study.seeds) & set(said["seeds"])
        if not seeds:
            raise UserError(f"--seeds: of these none is recorded; there are {said['seeds']}")
        said["seeds"] = sorted(seeds)
        said["variants"] = [
            {**v, "keys": {s: key for s, key in v["keys"].items() if int(s) in seeds}}
            for v in said["variants"]
        ]
    return said


def _write(pictures: Mapping[str, bytes], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            (folder / f"{name}.png").write_bytes(picture)
    except OSError as error:
        raise UserError(f"--figures: {folder} cannot be written: {error.strerror}") from error
