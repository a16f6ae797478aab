"""How a search was asked for, recorded with it: it is read without being asked for again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run

from levit_ablate.errors import UserError
from levit_ablate.search.plan import SearchPlan
from levit_ablate.search.search import KEYS, Search, changed
from levit_ablate.serialization import plain
from levit_ablate.tracking.runs import reading_the_record, search
from levit_ablate.tracking.tags import DATASET, SEARCH

ASKED = "search.json"
"""Artifact of a search's run."""


class Asked(NamedTuple):
    """How a search was asked for."""

    search: Search
    given: Mapping[str, Any]
    others: tuple[str, ...]
    """The datasets of earlier searches of the name, the latest first."""


def write_asked(planned: SearchPlan, parent: Run) -> None:
    """Into the run of a search."""
    said = {f.name: plain(getattr(planned.search, f.name)) for f in fields(Search)}
    said["path"] = str(planned.search.path)
    content = {"search": said, "given": dict(planned.given)}
    MlflowClient().log_dict(parent.info.run_id, content, ASKED)


@reading_the_record()
def latest(name: str) -> Asked | None:
    """The latest search of this name in the open store; None where there is none.

    Raises UserError where it was recorded by another version, which asked otherwise.
    """
    runs = search(f"tags.`{SEARCH}` = '{name}'")
    if not runs:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = MlflowClient().download_artifacts(runs[0].info.run_id, ASKED, folder)
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    said = content["search"]
    base = Search(name=said["name"], path=Path(said["path"]), summary=said["summary"])
    try:
        asked = changed(base, {key: said[key] for key in KEYS if key in said and key != "summary"})
    except (UserError, KeyError) as error:
        raise UserError(f"{name}: its record in run {runs[0].info.run_id}: {error}") from error
    others = tuple(run.data.tags.get(DATASET, "") for run in runs[1:])
    return Asked(search=asked, given=content["given"], others=others)
