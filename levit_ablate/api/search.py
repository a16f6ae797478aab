"""Searches: do the trials that are missing, confirm the best, read what is recorded."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

from levit_ablate.api.launch import Places
from levit_ablate.api.search_results import Search
from levit_ablate.api.session import opened, store_uri, talking
from levit_ablate.api.settings import HOW, SearchSettings, conditions_of
from levit_ablate.errors import RunError, UserError
from levit_ablate.runner.job import work
from levit_ablate.schema import read_word
from levit_ablate.searches.conduct import check, conduct, failure_of, keep
from levit_ablate.searches.confirm import best_of, confirmation
from levit_ablate.searches.plan import SearchPlan, plan
from levit_ablate.searches.record import latest, storage_recorded
from levit_ablate.searches.report import report_of
from levit_ablate.searches.search import Search as SearchFile
from levit_ablate.searches.search import changed, read
from levit_ablate.searches.storage import existing
from levit_ablate.studies import conduct as studies


def search(
    name: str | Path | SearchFile,
    *,
    workers: int | None = None,
    jobs_per_device: int = 1,
    launcher: Literal["local", "ray"] = "local",
    address: str | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    progress: bool = False,
    allow_failures: bool = False,
    **settings: Unpack[SearchSettings],
) -> Search:
    """Do the trials that a search lacks, confirm the best on fresh seeds; return what it found.

        search = la.search("equal_flops", trials=20, data="digits", workers=2)
        search.trials, search.best, search.plot.history()

    A search that was begun goes on.

    Args:
        name: the search's name, or its YAML file.
        workers: trials at once; one, or the places of all GPUs, unless given.
        jobs_per_device: trials at once on a GPU, which they share.
        launcher: where they run: processes of this machine, or a Ray cluster.
        address: Ray cluster: auto, or HOST:PORT; needs `storage`.
        storage: where trials are kept: postgresql://…, grpc://HOST:PORT; a file unless given.
        tracking_uri: MLflow store; MLFLOW_TRACKING_URI, or ./mlflow.db, unless given.
        progress: show a bar a trial, on a terminal or in Jupyter, and a line for each that ends.
        allow_failures: return although something failed; `failed` then says what.
        settings: how it is searched, in place of what the file says, `SearchSettings`; and the
            conditions, as those of `run` without seed.

    Raises UserError for a mistake, before anything is trained; RunError where the search failed, a
    confirmation has no result, or store or trials are out of reach; KeyboardInterrupt on Ctrl-C.
    """
    places = Places(
        jobs=workers,
        jobs_per_device=jobs_per_device,
        launcher=launcher,
        address=address,
        word="workers",
    )
    if address and not storage:
        raise UserError(
            "launcher=ray: workers on other machines need their trials in a database; give "
            "storage=postgresql://…"
        )
    file, given = with_settings(name, settings)
    uri = store_uri(tracking_uri)
    with talking(progress):
        places.prepare(work)
        planned = plan(file, given)
        check(planned)
        with opened(uri):
            url = storage or storage_recorded(planned)
            failed = _search(planned, url, uri, places)
            found = _read(planned, url, uri, failed)
    if failed and not allow_failures:
        raise RunError("; ".join(failed))
    return found


def open_search(
    name: str | Path | SearchFile,
    *,
    storage: str | None = None,
    tracking_uri: str | None = None,
    progress: bool = False,
    **settings: Unpack[SearchSettings],
) -> Search:
    """Return a search as it is recorded; nothing is trained.

    It is the one under the settings that `search` was given; without any, the latest of the name,
    however it was searched. The arguments are those of `search`: `storage` is where the record
    says, unless given, and `progress` prints a line where there are further records of the name.

    Raises UserError where nothing is recorded, or not with these settings; RunError where the
    trials are out of reach.
    """
    file, given = with_settings(name, settings)
    has_settings = isinstance(name, SearchFile) or any(v is not None for v in settings.values())
    uri = store_uri(tracking_uri)
    with talking(progress), opened(uri, existing=True):
        planned = plan(file, given) if has_settings else _latest(file)
        return _read(planned, storage or storage_recorded(planned), uri)


def with_settings(
    name: str | Path | SearchFile, settings: Mapping[str, Any]
) -> tuple[SearchFile, dict[str, Any]]:
    """Return a search with the settings that say how, and the conditions. Raises UserError."""
    how = {key: settings[key] for key in HOW if settings.get(key) is not None}
    given = conditions_of({key: value for key, value in settings.items() if key not in HOW})
    if "trial_epochs" in how:
        epochs = read_word(how["trial_epochs"])
        if type(epochs) is not int or epochs < 1:
            raise UserError(f"trial_epochs: {how['trial_epochs']!r} is no number from 1 on")
        how["trial"] = {"recipe": {"epochs": epochs}}
        del how["trial_epochs"]
    file = name if isinstance(name, SearchFile) else read(str(name))
    return changed(file, how), given


def _latest(file: SearchFile) -> SearchPlan:
    """Return the latest search of the name, however it was searched; else what the file says."""
    record = latest(file.name)
    if record is None:
        return plan(file, {})
    if record.others:
        print(
            f"{file.name}: {1 + len(record.others)} records; this is the latest. The others, on "
            f"{', '.join(sorted(set(record.others)))}, are shown with the options that they had",
            file=sys.stderr,
        )
    return plan(record.search, record.given)


def _search(planned: SearchPlan, storage: str, uri: str, places: Places) -> list[str]:
    """Do the trials, then the confirmation; return what has no result, and why."""
    hardware = planned.baseline.experiment.hardware
    with contextlib.closing(places.launch(work, hardware, uri)) as launcher:
        found = conduct(planned, storage, launcher)
    study = existing(planned, storage)
    failed: list[str] = []
    if best := best_of(planned, found, planned.search.confirm):
        confirming = confirmation(planned, study, best)
        studies.check(confirming)
        with contextlib.closing(places.launch(work, hardware, uri)) as launcher:
            lost, _ = studies.conduct(confirming, launcher)
        if lost:
            failed.append(f"no result: {'; '.join(lost)}; given again, search runs what is missing")
    keep(planned, report_of(planned, study))
    if why := failure_of(planned, study):
        failed.append(why)
    return failed


def _read(planned: SearchPlan, storage: str, uri: str, failed: Sequence[str] = ()) -> Search:
    study = existing(planned, storage)
    return Search(
        report=report_of(planned, study), study=study, tracking_uri=uri, failed=tuple(failed)
    )
