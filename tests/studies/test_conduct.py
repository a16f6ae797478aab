"""From the plan of a study to its table: what is not recorded has no result, whatever it told."""

from __future__ import annotations

import pytest
from networks import SMALL

from levit_ablate.analysis.results import description_of
from levit_ablate.config import Experiment
from levit_ablate.errors import DamagedError, RunError
from levit_ablate.recipes import RECIPES
from levit_ablate.runner.job import Job, Outcome
from levit_ablate.runner.loop import Event
from levit_ablate.runner.progress import Display
from levit_ablate.schema import plain
from levit_ablate.studies import conduct as conducting
from levit_ablate.studies.conduct import StudyJobs, conduct
from levit_ablate.studies.plan import plan
from levit_ablate.studies.report import study_runs
from levit_ablate.studies.study import narrowed, read
from levit_ablate.training.train import Result

GIVEN = {
    "architecture": SMALL,
    "design": {"distillation": "none"},
    "recipe": plain(RECIPES["smoke"]),
    "hardware": {**plain(Experiment().hardware), "accelerator": "cpu"},
}


def made_up(job: Job) -> Result:
    """The result of a job that was not trained."""
    return Result(
        variant=job.variant,
        run_id="",
        trained=True,
        accuracy=0.9,
        loss=1.0,
        seconds=1.0,
        curve=(0.9,),
        best_epoch=0,
    )


class TrainsNothing:
    """A launcher whose jobs end at once, as if all were well."""

    places = 1

    def __init__(self) -> None:
        self.running: list[Job] = []

    def start(self, job: Job) -> None:
        self.running.append(job)

    def events(self, timeout: float) -> list[Event]:
        ended, self.running = self.running, []
        return [Event(job, Outcome(seconds=1.0, result=made_up(job))) for job in ended]

    def answer(self, job: Job, go_on: bool) -> None: ...

    def stop(self, at_once: bool) -> None: ...

    def close(self) -> None: ...


def test_a_job_that_tells_of_a_result_and_records_none_has_none(store):
    planned = plan(narrowed(read("paper"), ["no_patch_conv"], [0]), GIVEN)
    failed, results = conduct(planned, TrainsNothing())
    assert [line.partition(":")[0] for line in failed] == [
        "baseline seed 0",
        "no_patch_conv seed 0",
    ]
    assert all("MLflow has no result of it" in line for line in failed)
    assert not results.is_complete


def test_a_description_that_was_written_in_part_is_written_anew(store, tmp_path, capsys):
    planned = plan(narrowed(read("paper"), ["no_patch_conv"], [0]), GIVEN)
    conduct(planned, TrainsNothing())
    (path,) = tmp_path.rglob("study.json")
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    (parent,) = study_runs("paper")
    with pytest.raises(DamagedError, match=r"its artifact study\.json is damaged; the command"):
        description_of(parent)
    conduct(planned, TrainsNothing())
    assert "its study.json is damaged, and written anew" in capsys.readouterr().err
    assert path.read_text() == whole


def test_a_store_that_was_away_is_not_read_before_it_answers(monkeypatch):
    """To read one that is away takes long, and the loop waits for it."""
    planned = plan(narrowed(read("paper"), ["no_patch_conv"], [0]), GIVEN)
    reads, is_there = [], False

    def read_runs(*keys: str) -> list:
        reads.append(keys)
        if not is_there:
            raise RunError("the record cannot be read")
        return []

    monkeypatch.setattr(conducting, "of_key", read_runs)
    monkeypatch.setattr(conducting, "answers", lambda: is_there)
    with Display("x", 1, 0) as display:
        source = StudyJobs([Job(variant=planned.baseline)], None, display)
        for _ in range(3):
            assert source.next() is None
            source.next_look = 0.0
        assert len(reads) == 1
        is_there = True
        assert source.next() is not None and len(reads) == 2
