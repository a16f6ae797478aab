"""Runs are found by their key, and those whose process is gone do not stay at work for ever."""

from __future__ import annotations

import time
from pathlib import Path

import mlflow
import pytest
from processes import Started, wait_for

from levit_ablate.experiment import variant
from levit_ablate.runtime import lock_of, one_at_a_time
from levit_ablate.tracking import runs
from levit_ablate.tracking.record import TakenError, record
from levit_ablate.tracking.runs import ALIVE, ERROR, HOST, LOCK

TRAINS = """
import sys, time
from pathlib import Path
from levit_ablate.experiment import variant
from levit_ablate.runtime import one_at_a_time
from levit_ablate.tracking.record import TakenError, record
from levit_ablate.tracking.store import open_store
open_store(sys.argv[1])
folder = Path(sys.argv[2])
with one_at_a_time(folder, "trains it"):
    folder.mkdir(exist_ok=True)
    with record(variant("baseline", {}), folder):
        Path("begun").touch()
        time.sleep(600)
"""


@pytest.fixture
def other(store, tmp_path):
    """Another process that trains the baseline in its own folder."""
    process = Started(TRAINS, store, tmp_path / "other")
    wait_for(Path("begun").exists, process)
    yield process
    process.kill()


def all_runs() -> list:
    return mlflow.search_runs(search_all_experiments=True, output_format="list")


def test_a_run_at_work_is_left_alone_and_one_whose_process_was_killed_is_settled(other):
    (run,) = all_runs()
    assert runs.is_alive(run)
    assert runs.settle([run]) == []
    other.kill()
    assert not runs.is_alive(run)
    assert [r.info.run_id for r in runs.settle([run])] == [run.info.run_id]
    (settled,) = all_runs()
    assert settled.info.status == "KILLED" and "was killed" in settled.data.tags[ERROR]
    assert runs.settle([settled]) == []


def test_one_that_was_settled_goes_on_as_the_same_run(other, tmp_path):
    other.kill()
    runs.settle(all_runs())
    with (
        one_at_a_time(tmp_path / "other", "x"),
        record(variant("baseline", {}), tmp_path / "other"),
    ):
        pass
    (run,) = all_runs()
    assert run.info.status == "FINISHED" and ERROR not in run.data.tags


def test_what_another_folder_trains_is_not_begun(other, tmp_path):
    with pytest.raises(TakenError), record(variant("baseline", {}), tmp_path):
        raise AssertionError("begun")
    (run,) = all_runs()  # no trace of the second
    assert run.info.status == "RUNNING"
    other.kill()
    with record(variant("baseline", {}), tmp_path):
        pass
    assert sorted(run.info.status for run in all_runs()) == ["FINISHED", "KILLED"]


@pytest.mark.parametrize(("silence", "lives"), [(10, True), (1000, False)])
def test_a_process_of_another_machine_lives_by_its_signs_of_life(store, tmp_path, silence, lives):
    with record(variant("baseline", {}), tmp_path):
        (run,) = all_runs()
        client = mlflow.MlflowClient()
        client.set_tag(run.info.run_id, HOST, "another")
        client.set_tag(run.info.run_id, ALIVE, str(time.time() - silence))
        (run,) = all_runs()
        assert runs.is_alive(run) == lives


def test_a_run_says_that_it_lives_while_it_does(store, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "HEARTBEAT", 0.1)
    with record(variant("baseline", {}), tmp_path) as recorder:
        client = mlflow.MlflowClient()
        client.set_tag(recorder.run_id, ALIVE, "0")
        deadline = time.monotonic() + 20
        while client.get_run(recorder.run_id).data.tags[ALIVE] == "0":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert client.get_run(recorder.run_id).data.tags[LOCK] == str(lock_of(tmp_path))
