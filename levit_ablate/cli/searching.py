"""What `levit-ablate search` does once its options are read."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from optuna import Study

from levit_ablate import library
from levit_ablate.analysis import formats
from levit_ablate.cli.launching import launcher
from levit_ablate.cli.tabulating import write_pictures
from levit_ablate.config import OWN_GEOMETRY, Experiment
from levit_ablate.errors import RunError, UserError
from levit_ablate.runner.job import work
from levit_ablate.runner.local import LocalLauncher
from levit_ablate.searches.conduct import check, conduct, failure_of, keep
from levit_ablate.searches.confirm import best_of, confirmation, exported
from levit_ablate.searches.plan import SearchPlan, plan
from levit_ablate.searches.record import latest, storage_recorded
from levit_ablate.searches.report import Report, as_json, pictures_of, report_of
from levit_ablate.searches.search import Search
from levit_ablate.searches.storage import existing
from levit_ablate.searches.tables import show
from levit_ablate.studies import conduct as studies
from levit_ablate.tracking.store import open_recorded, open_store, tracking_uri


def run(
    search: Search, given: Mapping[str, Any], options: Mapping[str, Any], is_plain: bool
) -> None:
    """Check everything, search, confirm and report; or only report, or export.

    Args:
        search: what is searched.
        given: the conditions.
        options: the user's.
        is_plain: whether no option says how it is searched: what is read is then the latest record.

    Raises RunError, after the report, where a training of the confirmation has no result, or
    where the search failed (`failure_of`).
    """
    reading = options.get("report") or "export" in options
    if not reading and options.get("launcher", "local") == "local":
        LocalLauncher.prepare(work)
    uri = tracking_uri(options.get("tracking_uri"))
    failed: list[str] = []
    with redirect_stdout(sys.stderr):  # what libraries print is not the result
        if reading:
            open_recorded(uri)
            planned = _recorded(search, given) if is_plain else plan(search, given)
        else:
            planned = plan(search, given)
            check(planned)
            open_store(uri)
        storage = options.get("storage") or storage_recorded(planned)
        if not reading:
            failed = _search(planned, storage, uri, options)
        study = existing(planned, storage)
        report = report_of(planned, study)
    if "export" in options:
        _export(report, study, *options["export"])
        return
    if "figures" in options:
        write_pictures(pictures_of(report), Path(options["figures"]))
    if options.get("format") == "json":
        print(as_json(report))
    else:
        show(report, formats.console())
    if failed:
        raise RunError("; ".join(failed))


def _recorded(search: Search, given: Mapping[str, Any]) -> SearchPlan:
    """The latest search of the name, however it was asked for; else what the file says."""
    asked = latest(search.name)
    if asked is None:
        return plan(search, given)
    if asked.others:
        print(
            f"{search.name}: {1 + len(asked.others)} records; this is the latest. The others, on "
            f"{', '.join(sorted(set(asked.others)))}, are shown with the options that they had",
            file=sys.stderr,
        )
    return plan(asked.search, asked.given)


def _search(planned: SearchPlan, storage: str, uri: str, options: Mapping[str, Any]) -> list[str]:
    """The trials, then the confirmation; what has no result, and why."""
    hardware = planned.baseline.experiment.hardware
    with contextlib.closing(launcher(work, hardware, uri, options, "workers")) as places:
        found = conduct(planned, storage, places)
    study = existing(planned, storage)
    failed: list[str] = []
    if best := best_of(planned, found, planned.search.confirm):
        checked = confirmation(planned, study, best)
        studies.check(checked)
        trainings = launcher(work, hardware, uri, options, "workers")
        with contextlib.closing(trainings) as places:
            without_result, _ = studies.conduct(checked, places)
        if without_result:
            said = f"no result: {'; '.join(without_result)}"
            failed.append(f"{said}; given again, search runs what is missing")
    keep(planned, report_of(planned, study))
    if why := failure_of(planned, study):
        failed.append(why)
    return failed


def _export(report: Report, study: Study, which: str, name: str) -> None:
    """Write a network as an ablation's file.

    Raises UserError where there is none, the file exists, or another ablation has its name.
    """
    trained = {each.number: each for each in report.found if each.state == "complete"}
    if which == "best" and report.winner:
        chosen = report.winner
    elif which.isdigit() and int(which) in trained:
        chosen = trained[int(which)]
    else:
        known = ", ".join(map(str, trained)) or "none yet"
        raise UserError(f"--export {which}: best, or a trial that was trained to its end: {known}")
    if Path(name).name[:1] in ("", "."):
        raise UserError(f"--export: {name!r} is no name of a file")
    path = Path(name if name.endswith(library.SUFFIXES) else f"{name}.yaml")
    path = path if path.parent != Path() else Path("ablations") / path
    shipped = library.names().get(path.stem, path)
    if path.parent == Path("ablations") and shipped.resolve() != path.resolve():
        which = f"in {shipped}" if shipped.parent == path.parent else "that ships"
        raise UserError(f"--export: {path.stem} would hide the ablation {which}; name another")
    planned = report.planned
    said = f"Trial {chosen.number} of search {planned.search.name} on {planned.dataset}"
    text = exported(planned, study, chosen.number, said)
    if path.is_dir() or (path.exists() and path.read_text(encoding="utf-8") != text):
        raise UserError(f"--export: {path} exists; name another file, or remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--export: {path} cannot be written: {error.strerror}") from error
    word = path.stem if path.parent == Path("ablations") else path
    here = " ".join(_conditions(planned.baseline.experiment))
    print(f"{path}: {said}; levit-ablate show {word} {here}, or run")


def _conditions(experiment: Experiment) -> list[str]:
    """The options for the same images and the same baseline."""
    data = experiment.data
    root = ["--data.root", data.root] if data.name == "folder" else []
    own = experiment.model == OWN_GEOMETRY
    start = ["--architecture", "FILE"] if own else ["--model", experiment.model]
    return ["--data", data.name, *root, *start]
