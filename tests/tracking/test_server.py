"""Recording in real MLflow servers: behind a password, killed, or deaf."""

from __future__ import annotations

import base64
import os
import socket
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from recorded import loaded
from servers import Server, answering, for_all_methods, proxy

from levit_ablate.cli.main import run_command
from levit_ablate.config import Experiment
from levit_ablate.errors import RunError, UserError
from levit_ablate.experiment import variant
from levit_ablate.tracking import outbox
from levit_ablate.tracking.outbox import deliver_pending
from levit_ablate.tracking.parent_run import Whole, link_recorded
from levit_ablate.tracking.record import record
from levit_ablate.tracking.runs import STUDY, find
from levit_ablate.tracking.store import experiment_id, open_store

USER, PASSWORD, TOKEN = "anne", "s3cr3t/p@ss", "t0ken"
BASIC = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
ENVIRONMENT = ("USERNAME", "PASSWORD", "TOKEN")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def guarded(server):
    """HOST:PORT/PATH of the same server behind a password, or a token."""
    with answering(proxy(server.uri, "/mlflow", BASIC, f"Bearer {TOKEN}")) as address:
        yield f"{address}/mlflow"


@pytest.fixture(autouse=True)
def _no_account(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


@pytest.mark.parametrize(
    ("account", "environment"),
    [
        (f"{USER}:s3cr3t%2Fp%40ss@", {}),
        ("", {"USERNAME": USER, "PASSWORD": PASSWORD}),
        ("", {"TOKEN": TOKEN}),
    ],
    ids=["in the URI", "in the environment", "a token"],
)
def test_a_server_behind_a_password_records_a_run(
    guarded, tmp_path, monkeypatch, account, environment
):
    for name, value in environment.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    open_store(f"http://{account}{guarded}")
    own = variant("no_pyramid", {"seed": 1 + len(account) + len(environment)})
    network = torch.nn.Linear(2, 2)
    with record(own, tmp_path) as recorder:
        recorder.checkpoint(checkpoint_in(tmp_path))
        recorder.model(network, own.images)
    assert find(own.key).info.status == "FINISHED"
    assert loaded(find(own.key)).weight.equal(network.weight)


@pytest.mark.parametrize(
    ("account", "environment"),
    [("", {}), (f"{USER}:wr0ng!@", {}), ("", {"TOKEN": "wr0ng!"})],
)
def test_a_server_that_does_not_let_one_in_is_one_line(guarded, monkeypatch, account, environment):
    for name, value in environment.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    with pytest.raises(UserError, match="does not let you in; set MLFLOW_TRACKING") as caught:
        open_store(f"http://{account}{guarded}")
    assert "\n" not in str(caught.value) and "wr0ng" not in str(caught.value)


def checkpoint_in(folder: Path) -> Path:
    (folder / "best.ckpt").write_text("weights")
    return folder / "best.ckpt"


def away(*_, **__):
    raise OSError("away")


def whole() -> Whole:
    return Whole(STUDY, "paper", "k" * 32, "A study", Experiment())


def test_networks_load_from_a_servers_other_experiments_and_so_do_repeated_runs(server, tmp_path):
    open_store(server.uri)
    client = MlflowClient()
    parent = client.create_run(experiment_id(whole().experiment))
    below, reused = variant("baseline", {}), variant("no_hardswish", {})
    networks = {each.key: torch.nn.Linear(2, 2) for each in (below, reused)}
    for each, above in ((below, parent), (reused, None)):
        (tmp_path / each.name).mkdir()
        with record(each, tmp_path / each.name, above) as recorder:
            recorder.checkpoint(checkpoint_in(tmp_path / each.name))
            recorder.model(networks[each.key], each.images)
    assert set(link_recorded(whole(), [below, reused], parent, tmp_path)) == set(networks)
    found = mlflow.search_runs([parent.info.experiment_id], output_format="list")
    runs = {
        run.data.tags["levit_ablate.key"]: run
        for run in found
        if run.data.tags.get("levit_ablate.key")
    }
    assert len(found) == 3 and set(runs) == set(networks)
    for key, run in runs.items():
        assert loaded(run).weight.equal(networks[key].weight)


@pytest.mark.parametrize("words", [[], ["--format", "json"]])
def test_run_shows_where_it_is_recorded_without_the_password(guarded, tmp_path, capsys, words):
    uri = f"http://{USER}:s3cr3t%2Fp%40ss@{guarded}"
    open_store(uri)
    own = variant("no_hardswish", {"seed": 7})
    with record(own, tmp_path) as recorder:
        recorder.metrics({"test_accuracy": 0.5, "test_loss": 1.0, "train_seconds": 1.0})
    run = ["run", "no_hardswish", "--seed", "7", "--no-baseline", "--tracking-uri", uri]
    assert run_command([*run, *words]) == 0
    out, err = capsys.readouterr()
    assert "already recorded" in err and "s3cr3t" not in out + err
    assert USER not in out + err
    assert words or f"Recorded in http://{guarded}: run" in out


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("levit_ablate.tracking.record.PATIENCE", 0.5)
    monkeypatch.setattr(outbox, "PAUSE", 0.0)


@pytest.fixture
def own_server(tmp_path):
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.kill()


@pytest.mark.usefixtures("impatient")
def test_a_server_may_be_killed_while_a_run_lasts(own_server, tmp_path):
    open_store(own_server.uri)
    own, network = variant("no_pyramid", {}), torch.nn.Linear(2, 2)
    (tmp_path / "own").mkdir()
    with record(own, tmp_path / "own") as recorder:
        recorder.metrics({"val_loss": 1.0}, epoch=0)
        own_server.kill()
        recorder.metrics({"val_loss": 0.5}, epoch=1)
        recorder.checkpoint(checkpoint_in(tmp_path / "own"))
        recorder.model(network, own.images)
        recorder.metrics({"test_accuracy": 0.5})
        own_server.start()
    found = find(own.key)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["test_accuracy"] == 0.5
    history = mlflow.MlflowClient().get_metric_history(recorder.run_id, "val_loss")
    assert [m.value for m in history] == [1.0, 0.5]
    assert loaded(found).weight.equal(network.weight)


@for_all_methods
class Deaf(BaseHTTPRequestHandler):
    """A server that is there, and asks to be asked again in ten hours."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(503)
        self.send_header("Retry-After", "36000")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_server_that_asks_for_hours_is_not_waited_for():
    with answering(Deaf) as address, pytest.raises(UserError, match=r"cannot be opened: .*503"):
        open_store(f"http://{address}")
    assert Deaf.asked > 1  # MLflow's own request came after ours


@pytest.mark.parametrize("kind", ["http", "postgresql+psycopg"])
def test_one_that_listens_and_never_answers_is_not_waited_for(kind, monkeypatch):
    monkeypatch.setattr("levit_ablate.tracking.store.PROBE", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"{kind}://anne:s3cr3t@127.0.0.1:{silent.getsockname()[1]}/there"
        with pytest.raises(UserError, match="cannot be opened") as caught:
            open_store(uri)
    assert "s3cr3t" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.usefixtures("impatient")
def test_what_waits_for_a_server_holds_no_password_and_is_sent_with_the_next(
    guarded, tmp_path, monkeypatch
):
    uri = f"http://{USER}:s3cr3t%2Fp%40ss@{guarded}"
    open_store(uri)
    own, folder = variant("no_zero_init", {}), tmp_path / "work" / "runs" / "key"
    folder.mkdir(parents=True)

    network = torch.nn.Linear(2, 2)

    def leave() -> None:
        with pytest.MonkeyPatch.context() as patch, record(own, folder) as recorder:
            patch.setattr(MlflowClient, "log_artifact", away)
            recorder.checkpoint(checkpoint_in(folder))
            recorder.model(network, own.images)

    with pytest.raises(RunError, match="does not answer"):
        leave()
    (path,) = folder.glob(outbox.FILES)
    kept = path.read_text()
    assert len(kept.splitlines()) == 3 and "s3cr3t" not in kept and guarded in kept
    assert find(own.key) is None
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    open_store(f"http://{USER}@{guarded}")
    assert os.environ["MLFLOW_TRACKING_URI"] == f"http://{USER}@{guarded}"
    deliver_pending(tmp_path / "work")
    assert loaded(find(own.key)).weight.equal(network.weight)
    assert not folder.exists()
