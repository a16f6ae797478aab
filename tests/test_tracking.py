import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import mlflow
import pytest

from levit_ablate import tracking
from levit_ablate.errors import RunError
from levit_ablate.experiments import variant
from levit_ablate.store import open_store


def statuses() -> list[str]:
    return [run.info.status for run in mlflow.search_runs(output_format="list")]


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (KeyboardInterrupt(), "KILLED"), (RuntimeError("out of luck"), "FAILED")],
)
def test_a_run_ends_with_the_status_of_how_it_ended(store, error, status):
    def leave() -> None:
        with tracking.record(variant("baseline", {}), Path("run_id")):
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
    with pytest.raises(KeyboardInterrupt), tracking.record(own, Path("run_id")):
        raise KeyboardInterrupt
    assert tracking.find(own.key) is None
    with tracking.record(own, Path("run_id")) as recorder:
        pass
    assert tracking.find(own.key).info.run_id == recorder.run_id
    assert tracking.find(other.key) is None


def test_artifacts_lie_beside_the_database(store, tmp_path):
    with tracking.record(variant("baseline", {}), Path("run_id")):
        pass
    assert list((tmp_path / "mlartifacts").rglob("experiment.yaml"))


def test_a_store_is_opened_again_without_losing_what_it_holds(store):
    with tracking.record(variant("baseline", {}), Path("run_id")):
        pass
    open_store(store)
    assert statuses() == ["FINISHED"]


@pytest.mark.parametrize("content", [b"", b"\n", b"nonsense", b"\xff\xfe"])
def test_a_marker_that_names_no_run_begins_one(store, tmp_path, content):
    marker = tmp_path / "run_id"
    marker.write_bytes(content)
    with tracking.record(variant("baseline", {}), marker) as recorder:
        assert marker.read_text() == recorder.run_id
    assert tracking.find(variant("baseline", {}).key).info.run_id == recorder.run_id


def test_a_run_that_failed_and_goes_on_is_no_failure_any_more(store):
    own = variant("baseline", {})
    with pytest.raises(RuntimeError), tracking.record(own, Path("run_id")):
        raise RuntimeError("out of luck")
    (failed,) = mlflow.search_runs(output_format="list")
    assert "out of luck" in failed.data.tags["levit_ablate.error"]
    with tracking.record(own, Path("run_id")):
        pass
    (finished,) = mlflow.search_runs(output_format="list")
    assert finished.info.status == "FINISHED"
    assert "levit_ablate.error" not in finished.data.tags


def test_a_store_that_fails_at_work_fails_the_run_in_a_line(store, tmp_path):
    def leave() -> None:
        with tracking.record(variant("baseline", {}), Path("run_id")) as recorder:
            (tmp_path / "mlflow.db").unlink()
            (tmp_path / "mlflow.db").mkdir()
            recorder.metrics({"val_loss": 1.0}, epoch=0)

    with pytest.raises(
        RunError, match=r"the record at sqlite.*cannot be read or written"
    ) as caught:
        leave()
    assert "\n" not in str(caught.value)


def test_a_run_is_named_after_the_options_that_made_it_another_than_its_file(store):
    with tracking.record(variant("baseline", {"design": {"stem": "patch"}}), Path("run_id")):
        pass
    found = tracking.find(variant("no_patch_conv", {}).key)
    assert found.info.run_name == "baseline + design.stem=patch seed 0"
    assert found.data.tags["levit_ablate.paper_row"] == ""
    assert found.data.tags["levit_ablate.differs"] == "design.stem=patch"


def test_a_real_server_records_a_run(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urlopen(f"{uri}/health", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.3)
        open_store(uri)
        own = variant("no_pyramid", {})
        with tracking.record(own, Path("run_id")) as recorder:
            recorder.metrics({"test_accuracy": 0.5}, epoch=None)
        found = tracking.find(own.key)
        assert found.data.metrics["test_accuracy"] == 0.5
        assert list((tmp_path / "artifacts").rglob("experiment.yaml"))
    finally:
        server.terminate()
        server.wait(timeout=30)
