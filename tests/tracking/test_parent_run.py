"""Results that a study reuses are repeated below its run: whole, or not at all."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from recorded import loaded, tag

from levit_ablate.config import Experiment
from levit_ablate.errors import RunError
from levit_ablate.experiment import variant
from levit_ablate.recipes import RECIPES
from levit_ablate.tracking.parent_run import Whole, link_recorded
from levit_ablate.tracking.record import record
from levit_ablate.tracking.runs import KEY, STUDY, find, settle
from levit_ablate.tracking.store import experiment_id
from levit_ablate.training.train import recorded

WHOLE = Whole(STUDY, "paper", "k" * 32, "A study", Experiment())


@pytest.fixture
def own(store, tmp_path):
    """A variant that was trained outside of the study."""
    own = variant("baseline", {})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.ckpt").write_text("weights")
    with record(own, tmp_path / "run") as recorder:
        recorder.metrics({"val_loss": 1.0}, epoch=0)
        recorder.checkpoint(tmp_path / "run" / "best.ckpt")
        recorder.model(torch.nn.Linear(2, 2), own.images)
    return own


@pytest.fixture
def parent(store):
    return MlflowClient().create_run(experiment_id(WHOLE.experiment))


def below(parent) -> list:
    found = mlflow.search_runs([parent.info.experiment_id], output_format="list")
    return [run for run in found if run.info.run_id != parent.info.run_id]


def test_a_repeated_run_has_the_network_and_the_artifacts_of_the_original(own, parent, tmp_path):
    original = find(own.key)
    assert link_recorded(WHOLE, [own], parent, tmp_path) == [own.key]
    (run,) = below(parent)
    assert tag(run, "original") == original.info.run_id and run.info.status == "FINISHED"
    assert run.data.metrics == original.data.metrics and run.data.params == original.data.params
    assert loaded(run).weight.equal(loaded(original).weight)
    copied = [
        MlflowClient().download_artifacts(each.info.run_id, "checkpoints/best.ckpt")
        for each in (run, original)
    ]
    assert len(set(copied)) == 2 and {Path(path).read_text() for path in copied} == {"weights"}
    assert link_recorded(WHOLE, [own], parent, tmp_path) == [own.key]
    assert len(below(parent)) == 1


def test_a_result_under_the_key_of_version_1_serves_a_run_and_a_study(store, parent, tmp_path):
    own = variant("no_distillation", {"recipe": asdict(RECIPES["smoke"])})
    assert recorded(own) is None
    with record(own, tmp_path) as recorder:
        recorder.metrics({"test_accuracy": 0.5, "test_loss": 1.0, "train_seconds": 9.0})
    MlflowClient().set_tag(recorder.run_id, KEY, own.keys[1])
    assert find(own.key) is None
    assert recorded(own).run_id == recorder.run_id
    assert link_recorded(WHOLE, [own], parent, tmp_path) == [own.key]
    (run,) = below(parent)
    assert tag(run, "key") == own.key and tag(run, "original") == recorder.run_id


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(
    ("error", "raised"),
    [(MlflowException("away"), RunError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_run_whose_copying_ends_half_way_is_none_and_is_repeated_later(
    own, parent, tmp_path, number, error, raised
):
    copied, copy = [], MlflowClient.log_artifact

    def interrupted(*arguments):
        copied.append(arguments)
        if len(copied) == number:
            raise error
        copy(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", interrupted)
        with pytest.raises(raised):
            link_recorded(WHOLE, [own], parent, tmp_path)
    assert below(parent) == []
    assert link_recorded(WHOLE, [own], parent, tmp_path) == [own.key]
    (run,) = below(parent)
    loaded(run)


def test_a_run_that_is_being_copied_is_at_work_for_others(own, parent, tmp_path, monkeypatch):
    copy, seen = MlflowClient.log_artifact, []

    def watched(*arguments):
        seen.extend(below(parent))
        assert settle(below(parent)) == []
        copy(*arguments)

    monkeypatch.setattr(MlflowClient, "log_artifact", watched)
    link_recorded(WHOLE, [own], parent, tmp_path)
    assert {run.info.status for run in seen} == {"RUNNING"}
    (run,) = below(parent)
    assert run.info.status == "FINISHED" and not tag(run, "error")
