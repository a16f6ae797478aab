"""Record of how a search was asked for, by which it is reported without its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run

from levit_ablate.errors import DamagedError, UserError
from levit_ablate.schema import plain
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.search import KEYS, Search, amount_said, changed
from levit_ablate.searches.storage import journal_of
from levit_ablate.tracking import parent_run
from levit_ablate.tracking.runs import DATASET, SEARCH, read_json, reading_the_record
from levit_ablate.tracking.runs import search as search_runs

FILE = "search.json"
"""Artifact of a search's run."""


class RecordedSearch(NamedTuple):
    """A search and its conditions, as its record has them."""

    search: Search
    given: Mapping[str, Any]
    others: tuple[str, ...]
    """The datasets of earlier searches of the name, the latest first."""


def write_search(planned: SearchPlan, storage: str, parent: Run) -> None:
    """Write it into the search's run, with the URL of the trials, which holds no password."""
    content = {
        "search": search_as_mapping(planned.search),
        "given": dict(planned.given),
        "storage": storage,
    }
    MlflowClient().log_dict(parent.info.run_id, content, FILE)


def search_as_mapping(search: Search) -> dict[str, Any]:
    """Return a search as its file would have it, with its name and path."""
    said = {field.name: plain(getattr(search, field.name)) for field in fields(Search)}
    budget = {cost: amount_said(most, cost) for cost, most in search.budget.items()}
    return said | {"path": str(search.path), "budget": budget}


@reading_the_record()
def latest(name: str) -> RecordedSearch | None:
    """Return the latest search of this name in the open store, or None.

    Raises UserError if another version recorded it, with other settings.
    """
    runs = search_runs(f"tags.`{SEARCH}` = '{name}'")
    if not runs:
        return None
    content = read_json(runs[0], FILE)
    said = content["search"]
    base = Search(name=said["name"], path=Path(said["path"]), summary=said["summary"])
    try:
        asked = changed(base, {key: said[key] for key in KEYS if key in said and key != "summary"})
    except (UserError, KeyError) as error:
        raise UserError(f"{name}: its record in run {runs[0].info.run_id}: {error}") from error
    others = tuple(run.data.tags.get(DATASET, "") for run in runs[1:])
    return RecordedSearch(search=asked, given=content["given"], others=others)


@reading_the_record()
def storage_recorded(planned: SearchPlan) -> str:
    """Return the recorded URL of a search's trials; empty for the journal, or if it is new.

    Raises DamagedError if it cannot be read and there is no journal.
    """
    run = parent_run.found(planned.whole)
    artifacts = MlflowClient().list_artifacts(run.info.run_id) if run else []
    if run is None or FILE not in {each.path for each in artifacts}:
        return ""  # it is new, or was killed before it wrote that
    try:
        storage: str = read_json(run, FILE).get("storage", "")
    except DamagedError:
        if journal_of(planned).exists():
            return ""
        raise
    return storage
