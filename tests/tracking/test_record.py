import json
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import torch
from processes import Started
from recorded import loaded

from levit_ablate.errors import RunError, UserError
from levit_ablate.experiment import variant
from levit_ablate.tracking import outbox
from levit_ablate.tracking.outbox import deliver_pending
from levit_ablate.tracking.record import record, record_failure
from levit_ablate.tracking.runs import ERROR, children, find
from levit_ablate.tracking.store import experiment_id, open_store


def statuses() -> list[str]:
    return [run.info.status for run in mlflow.search_runs(output_format="list")]


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (KeyboardInterrupt(), "KILLED"), (RuntimeError("out of luck"), "FAILED")],
)
def test_a_run_ends_with_the_status_of_how_it_ended(store, error, status):
    def leave() -> None:
        with record(variant("baseline", {}), Path.cwd()):
            assert statuses() == ["RUNNING"]
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            leave()
    else:
        leave()
    assert statuses() == [status]
    assert mlflow.active_run() is None


def test_only_a_finished_run_of_the_same_key_is_found(store):
    own, other = variant("no_pyramid", {}), variant("no_pyramid", {"seed": 1})
    with pytest.raises(KeyboardInterrupt), record(own, Path.cwd()):
        raise KeyboardInterrupt
    assert find(own.key) is None
    with record(own, Path.cwd()) as recorder:
        pass
    assert find(own.key).info.run_id == recorder.run_id
    assert find(other.key) is None


def test_artifacts_lie_beside_the_database(store, tmp_path):
    with record(variant("baseline", {}), Path.cwd()):
        pass
    assert list((tmp_path / "mlartifacts").rglob("experiment.yaml"))


def test_a_store_is_opened_again_without_losing_what_it_holds(store):
    with record(variant("baseline", {}), Path.cwd()):
        pass
    open_store(store)
    assert statuses() == ["FINISHED"]


@pytest.mark.parametrize("content", [b"", b"\n", b"nonsense", b"\xff\xfe"])
def test_a_marker_that_names_no_run_begins_one(store, tmp_path, content):
    marker = tmp_path / "run_id"
    marker.write_bytes(content)
    with record(variant("baseline", {}), tmp_path) as recorder:
        assert marker.read_text() == recorder.run_id
    assert find(variant("baseline", {}).key).info.run_id == recorder.run_id


def test_a_run_whose_process_died_before_its_folder_named_it_is_ended_by_the_next(store, tmp_path):
    with record(variant("baseline", {}), tmp_path) as orphan:
        (tmp_path / "run_id").unlink()
    mlflow.MlflowClient().update_run(orphan.run_id, "RUNNING")  # as SIGKILL leaves it
    with record(variant("baseline", {}), tmp_path):
        assert sorted(statuses()) == ["KILLED", "RUNNING"]
    killed = mlflow.get_run(orphan.run_id)
    assert killed.info.status == "KILLED" and "was killed" in killed.data.tags[ERROR]


def test_a_run_that_failed_and_goes_on_is_no_failure_any_more(store):
    own = variant("baseline", {})
    with pytest.raises(RuntimeError), record(own, Path.cwd()):
        raise RuntimeError("out of luck")
    (failed,) = mlflow.search_runs(output_format="list")
    assert "out of luck" in failed.data.tags["levit_ablate.error"]
    with record(own, Path.cwd()):
        pass
    (finished,) = mlflow.search_runs(output_format="list")
    assert finished.info.status == "FINISHED"
    assert "levit_ablate.error" not in finished.data.tags


def go_away(database: Path) -> None:
    database.rename(database.with_suffix(".away"))
    database.mkdir()


def come_back(database: Path) -> None:
    database.rmdir()
    database.with_suffix(".away").rename(database)


def kept_in(folder: Path) -> list[Path]:
    return list(folder.glob(outbox.FILES))


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("levit_ablate.tracking.record.PATIENCE", 0.5)
    monkeypatch.setattr(outbox, "PAUSE", 0.0)


@pytest.mark.usefixtures("impatient")
def test_what_a_store_that_goes_away_misses_arrives_when_it_is_back(store, tmp_path, capsys):
    own = variant("baseline", {})
    (tmp_path / "own").mkdir()
    with record(own, tmp_path / "own") as recorder:
        recorder.metrics({"val_loss": 3.0}, epoch=0)
        go_away(tmp_path / "mlflow.db")
        for epoch in (1, 2):
            recorder.metrics({"val_loss": 3.0 - epoch}, epoch=epoch)
        come_back(tmp_path / "mlflow.db")
        recorder.metrics({"val_loss": 0.0}, epoch=3)
    history = mlflow.MlflowClient().get_metric_history(recorder.run_id, "val_loss")
    assert [(m.step, m.value) for m in history] == [(0, 3.0), (1, 2.0), (2, 1.0), (3, 0.0)]
    assert find(own.key).info.run_id == recorder.run_id
    said = capsys.readouterr().err.splitlines()
    assert ["does not answer" in line for line in said if line.startswith("the record")] == [
        True,
        False,
    ]


@pytest.mark.usefixtures("impatient")
def test_the_epochs_of_a_killed_run_that_its_store_missed_are_written_when_it_is_resumed(
    store, tmp_path
):
    own, folder = variant("baseline", {}), tmp_path / "work" / "runs" / "key"
    folder.mkdir(parents=True)
    epochs = [{"train_loss": 3.0}, {"train_loss": 2.0}]

    ids = []

    def train_until_killed() -> None:
        with record(own, folder) as killed:
            ids.append(killed.run_id)
            killed.metrics(epochs[0], epoch=0)
            go_away(tmp_path / "mlflow.db")
            killed.metrics(epochs[1], epoch=1)
            assert not kept_in(folder)  # they are in the checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_until_killed()
    assert kept_in(folder)  # how it ended
    come_back(tmp_path / "mlflow.db")
    with record(own, folder) as resumed:
        assert [resumed.run_id] == ids and not kept_in(folder)
        for epoch, metrics in enumerate(epochs):  # as `RecordEpochs` does, from its checkpoint
            resumed.metrics(metrics, epoch)
    deliver_pending(tmp_path / "work")
    history = mlflow.MlflowClient().get_metric_history(resumed.run_id, "train_loss")
    assert [(m.step, m.value) for m in history] == [(0, 3.0), (1, 2.0)]


@pytest.mark.usefixtures("impatient")
def test_what_a_store_misses_that_stays_away_is_sent_by_the_next_command(store, tmp_path):
    own, folder = variant("baseline", {}), tmp_path / ".levit_ablate" / "runs" / "key"
    folder.mkdir(parents=True)
    (folder / "best.ckpt").write_text("weights")

    def leave() -> None:
        with record(own, folder) as recorder:
            go_away(tmp_path / "mlflow.db")
            recorder.metrics({"test_accuracy": 0.5})
            recorder.checkpoint(folder / "best.ckpt")

    with pytest.raises(RunError, match=r"trained, but the record .* does not answer") as caught:
        leave()
    assert "\n" not in str(caught.value)
    come_back(tmp_path / "mlflow.db")
    assert find(own.key) is None
    deliver_pending(tmp_path / ".levit_ablate")
    found = find(own.key)
    assert found.data.metrics["test_accuracy"] == 0.5
    assert list((tmp_path / "mlartifacts").rglob("best.ckpt"))
    assert not folder.exists()
    deliver_pending(tmp_path / ".levit_ablate")  # nothing is left


@pytest.mark.usefixtures("impatient")
def test_what_waits_for_another_store_is_kept_until_that_one_has_it(store, tmp_path):
    own, folder = variant("baseline", {}), tmp_path / "work" / "runs" / "key"
    folder.mkdir(parents=True)
    (folder / "best.ckpt").write_text("weights")

    def train_into(uri: str) -> str:
        open_store(uri)
        with record(own, folder) as recorder:
            if uri == store:
                go_away(tmp_path / "mlflow.db")
            recorder.metrics({"test_accuracy": 0.5})
            recorder.checkpoint(folder / "best.ckpt")
            recorder.model(torch.nn.Linear(2, 2), own.images)
        recorder.remove_folder()
        return recorder.run_id

    with pytest.raises(RunError, match="does not answer"):
        train_into(store)
    other = f"sqlite:///{tmp_path / 'other.db'}"
    there = train_into(other)
    deliver_pending(tmp_path / "work")
    assert find(own.key).info.run_id == there and kept_in(folder)
    come_back(tmp_path / "mlflow.db")
    open_store(store)
    deliver_pending(tmp_path / "work")
    run = find(own.key)
    assert run.info.run_id != there and run.data.metrics["test_accuracy"] == 0.5
    model = mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/model/MLmodel")
    assert run.info.run_id in Path(model).read_text()
    assert not folder.exists()


@pytest.mark.usefixtures("impatient")
def test_the_network_of_a_run_of_a_study_is_delivered_by_another_process(store, tmp_path):
    parent = mlflow.MlflowClient().create_run(experiment_id("of the study"))
    own, folder = variant("baseline", {}), tmp_path / "work" / "runs" / "key"
    folder.mkdir(parents=True)
    network = torch.nn.Linear(2, 2)

    def leave() -> None:
        with record(own, folder, parent) as recorder:
            go_away(tmp_path / "mlflow.db")
            (folder / "best.ckpt").write_text("weights")
            recorder.checkpoint(folder / "best.ckpt")
            recorder.model(network, own.images)

    with pytest.raises(RunError, match="does not answer"):
        leave()
    come_back(tmp_path / "mlflow.db")
    code = f"""
import mlflow
from pathlib import Path
from levit_ablate.tracking.outbox import deliver_pending
from levit_ablate.tracking.store import open_store
open_store({store!r})
mlflow.set_experiment("of someone else")
deliver_pending(Path("work"))
"""
    delivers = Started(code, cwd=tmp_path)
    assert delivers.wait() == 0, delivers.said()
    run = find(own.key)
    assert run.info.experiment_id == parent.info.experiment_id
    assert loaded(run).weight.equal(network.weight)
    assert not folder.exists()


def test_what_stands_behind_a_refused_write_is_sent_by_the_next_command(store, tmp_path):
    own, folder = variant("baseline", {}), tmp_path / "work" / "runs" / "key"
    folder.mkdir(parents=True)

    def finish() -> None:
        with record(own, folder) as recorder:
            refused = {"kind": "tags", "values": {"no?name!": "x"}}
            recorder.waiting.append({**refused, "run_id": recorder.run_id, "uri": store})

    with pytest.raises(RunError):
        finish()
    assert statuses() == ["RUNNING"]
    deliver_pending(tmp_path / "work")
    assert statuses() == ["FINISHED"]


def waiting(folder: Path, run_id: str, uri: str) -> Path:
    """A run's folder whose outbox waits for a store."""
    folder.mkdir(parents=True)
    (folder / "run_id").write_text(run_id)
    write = {"kind": "metrics", "run_id": run_id, "uri": uri}
    write |= {"values": {"val_loss": 1.0}, "step": 0, "timestamp": 1}
    (folder / "outbox.jsonl").write_text(json.dumps(write) + "\n")
    return folder


def test_what_a_store_refuses_is_set_aside_and_the_rest_is_sent(store, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt), record(variant("baseline", {}), Path.cwd()) as recorder:
        raise KeyboardInterrupt
    lost = waiting(tmp_path / "work" / "runs" / "a", "0" * 32, store)
    waiting(tmp_path / "work" / "runs" / "b", recorder.run_id, store)
    deliver_pending(tmp_path / "work")
    assert mlflow.get_run(recorder.run_id).data.metrics["val_loss"] == 1.0
    (line,) = capsys.readouterr().err.splitlines()
    assert "refuses a write" in line and str(lost / "outbox.refused") in line
    deliver_pending(tmp_path / "work")
    assert not capsys.readouterr().err


def test_a_run_at_work_sends_what_is_its_own_and_one_that_has_gone_is_no_error(store, tmp_path):
    own = waiting(tmp_path / "work" / "runs" / "a", "0" * 32, store)
    held = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); input()"
    )
    lock = str(own.with_name("a.lock"))
    holder = subprocess.Popen(
        [sys.executable, "-c", held, lock],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    deliver_pending(tmp_path / "work")
    holder.communicate("\n", timeout=30)
    assert (own / "outbox.jsonl").is_file()
    shutil.rmtree(own)
    own.mkdir()
    (own / "outbox.jsonl").symlink_to("removed since it was listed")
    deliver_pending(tmp_path / "work")


def test_a_run_that_was_deleted_in_mlflow_is_begun_anew(store, tmp_path):
    own = variant("baseline", {})
    with pytest.raises(KeyboardInterrupt), record(own, tmp_path) as first:
        raise KeyboardInterrupt
    mlflow.delete_run(first.run_id)
    with record(own, tmp_path) as second:
        pass
    assert second.run_id != first.run_id
    assert find(own.key).info.run_id == second.run_id


def test_an_experiment_that_was_deleted_in_mlflow_says_how_to_have_it_back(store):
    mlflow.delete_experiment(experiment_id("levit-ablate/paper/digits"))
    with pytest.raises(UserError, match="was deleted in MLflow; restore it"):
        experiment_id("levit-ablate/paper/digits")


def test_a_job_that_could_not_say_so_is_recorded_as_failed(store, tmp_path):
    parent = mlflow.MlflowClient().create_run(experiment_id("of the study")).info
    own = variant("no_pyramid", {})
    record_failure(own, parent.run_id, "its process was ended by SIGKILL")
    (failed,) = children(parent.run_id)
    assert failed.info.status == "FAILED" and failed.info.experiment_id == parent.experiment_id
    assert failed.data.tags["levit_ablate.error"] == "its process was ended by SIGKILL"
    record_failure(own, parent.run_id, "another reason")  # how it ended is known
    assert find(own.key) is None and len(children(parent.run_id)) == 1
    other = variant("baseline", {})
    with pytest.raises(KeyboardInterrupt), record(other, tmp_path) as recorder:
        raise KeyboardInterrupt
    record_failure(other, parent.run_id, "killed later")
    assert mlflow.get_run(recorder.run_id).info.status == "FAILED"
    with record(other, tmp_path):
        pass
    record_failure(other, parent.run_id, "too late")
    assert find(other.key).info.run_id == recorder.run_id


def test_a_store_that_is_not_there_in_the_beginning_is_a_line(store, tmp_path):
    go_away(tmp_path / "mlflow.db")
    with (
        pytest.raises(RunError, match=r"the record at sqlite.*cannot be read or written") as caught,
        record(variant("baseline", {}), tmp_path),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_run_that_is_deleted_while_it_trains_is_a_line(store, tmp_path):
    def leave() -> None:
        with record(variant("baseline", {}), tmp_path) as recorder:
            mlflow.delete_run(recorder.run_id)
            recorder.metrics({"val_loss": 1.0}, epoch=0)

    with pytest.raises(RunError, match="refuses a write"):
        leave()


def test_a_run_is_named_after_the_options_that_made_it_another_than_its_file(store):
    with record(variant("baseline", {"design": {"stem": "patch"}}), Path.cwd()):
        pass
    found = find(variant("no_patch_conv", {}).key)
    assert found.info.run_name == "baseline + design.stem=patch seed 0"
    assert found.data.tags["levit_ablate.paper_row"] == ""
    assert found.data.tags["levit_ablate.differs"] == "design.stem=patch"
