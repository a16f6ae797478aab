"""How a search was asked for, read back; also where it was written in part."""

from __future__ import annotations

from pathlib import Path

import pytest
from searching import small

from levit_ablate.errors import DamagedError
from levit_ablate.searches.conduct import latest, storage_recorded, write_search
from levit_ablate.searches.storage import journal_of
from levit_ablate.tracking import parent_run

URL = "postgresql://db/x"


@pytest.fixture
def planned(store):
    """A search that is recorded, with its trials in a database."""
    planned = small()

    def describe(parent, was_there):
        write_search(planned, URL, parent)

    with parent_run.at_work(planned.whole, Path(), describe, lambda _: True):
        return planned


def test_how_a_search_was_asked_for_is_read_back(planned):
    asked = latest("equal_flops")
    assert asked is not None and asked.search.pruner == "none" and not asked.others
    assert storage_recorded(planned) == URL


@pytest.mark.parametrize("content", ["", '{"search": {', "[]", "\0\0"])
def test_one_that_was_written_in_part_is_an_error_unless_the_trials_are_found(
    planned, tmp_path, content
):
    (path,) = tmp_path.rglob("search.json")
    path.write_text(content)
    with pytest.raises(DamagedError, match=r"search\.json is damaged"):
        latest("equal_flops")
    with pytest.raises(DamagedError, match=r"search\.json is damaged"):
        storage_recorded(planned)
    journal_of(planned).parent.mkdir(parents=True, exist_ok=True)
    journal_of(planned).touch()
    assert storage_recorded(planned) == ""
