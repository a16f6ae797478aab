"""What `levit-ablate table` does once its options are read."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from levit_ablate.analysis import formats, plots
from levit_ablate.analysis.results import description_of, results_of
from levit_ablate.cli.study_options import Wanted
from levit_ablate.errors import UserError, closest
from levit_ablate.library import SUFFIXES
from levit_ablate.studies.parent import recorded_studies, study_runs
from levit_ablate.studies.plan import plan
from levit_ablate.tracking.outbox import deliver_pending
from levit_ablate.tracking.runs import children, settle
from levit_ablate.tracking.store import open_recorded, tracking_uri
from levit_ablate.tracking.tags import DATASET, STUDY_KEY
from levit_ablate.tracking.uris import without_password


def run(wanted: Wanted, options: Mapping[str, Any]) -> None:
    """Print the table, and write the plots where they are wanted."""
    uri = tracking_uri(options.get("tracking_uri"))
    open_recorded(uri)
    parent = _chosen(wanted, without_password(uri))
    deliver_pending(Path(description_of(parent)["conditions"]["hardware"]["work_dir"]))
    settle([parent, *children(parent.info.run_id)])
    results = results_of(parent, _narrowed(description_of(parent), wanted))
    pictures = {}
    kind = options.get("format", "text")
    if kind != "text" and isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # as the files say of themselves
    if options.get("figures") or kind == "html":
        pictures = plots.pictures(results)
    if options.get("figures"):
        write_pictures(pictures, Path(options["figures"]))
    if kind == "text":
        formats.show(results, formats.console())
    elif kind == "html":
        print(formats.html(results, pictures))
    else:
        print(formats.FORMATS[kind](results), end="")


def _chosen(wanted: Wanted, shown: str) -> Run:
    """The study's run under the conditions given; without any, the latest. Raises UserError."""
    name = Path(wanted.study).stem if wanted.study.endswith(SUFFIXES) else wanted.study
    found = study_runs(name)
    if not found:
        known = sorted(recorded_studies())
        there = f"; {closest(name, known)}" if known else f"; levit-ablate sweep {name} runs it"
        raise UserError(f"{name}: nothing is recorded in {shown}{there}")
    if wanted.given or wanted.baseline:
        key = plan(wanted.read(), wanted.given).key
        found = [run for run in found if run.data.tags.get(STUDY_KEY) == key]
    if not found:
        raise UserError(
            f"{name}: nothing is recorded in {shown} under these conditions; without any the "
            f"latest record is shown, and sweep with these runs it"
        )
    if len(found) > 1:
        others = ", ".join(sorted({run.data.tags.get(DATASET, "") for run in found[1:]}))
        print(
            f"{name}: {len(found)} records; this is the latest. The others, on {others}, are "
            f"shown with the conditions that sweep was given",
            file=sys.stderr,
        )
    return found[0]


def _narrowed(described: Mapping[str, Any], wanted: Wanted) -> dict[str, Any]:
    """What is recorded of the study, with only the variants and seeds that are asked for."""
    said = dict(described)
    baseline, *others = said["variants"]
    if wanted.variants:
        by_name = {variant["name"]: variant for variant in others}
        for name in wanted.variants:
            if name not in by_name:
                raise UserError(f"--variants: {name!r} is not recorded; {closest(name, by_name)}")
        others = [by_name[name] for name in wanted.variants]
    if missing := [seed for seed in wanted.seeds if seed not in said["seeds"]]:
        raise UserError(
            f"--seeds: {', '.join(map(str, missing))} not recorded; there are "
            f"{', '.join(map(str, said['seeds']))}"
        )
    return said | {"seeds": list(wanted.seeds or said["seeds"]), "variants": [baseline, *others]}


def write_pictures(pictures: Mapping[str, bytes], folder: Path) -> None:
    """Into a folder, which is made. Raises UserError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            (folder / f"{name}.png").write_bytes(picture)
    except OSError as error:
        raise UserError(f"--figures: {folder} cannot be written: {error.strerror}") from error
