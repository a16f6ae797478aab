"""Trials in a real PostgreSQL, and behind a gRPC proxy: nothing is lost whoever is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import optuna
import postgresql
import pytest
from processes import FORKS, Started, result_of, wait_for
from recorded import runs, tag, trained
from searching import LONG, search, small, workers_of

from levit_ablate.errors import RunError, UserError
from levit_ablate.searches.storage import database, reading_the_trials, serve, storage_of, study_of


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL server of the tests' own."""
    with postgresql.server() as url:
        yield url


def test_four_workers_of_which_one_is_killed_lose_no_trial_and_do_none_twice(server, tmp_path):
    words = (*LONG, "--trials", "4", "--workers", "4", "--storage", server)
    process = search(tmp_path, *words)
    wait_for(lambda: len(list(tmp_path.rglob("last.ckpt"))) >= 2, process)
    os.killpg(os.getpgid(workers_of(process)[0]), signal.SIGKILL)
    printed = result_of(process)
    assert printed["counts"] == {"complete": 4}
    assert len(trained(tmp_path)) == 4 and set(trained(tmp_path).values()) == {1}
    assert not [run for run in runs(tmp_path) if run.info.status == "RUNNING"]
    (name,) = optuna.get_all_study_names(database(server))
    study = optuna.load_study(study_name=name, storage=database(server))
    states = [trial.state.name for trial in study.get_trials()]
    assert states.count("COMPLETE") == 4 and states.count("FAIL") == 1 and len(states) == 5


def test_two_commands_at_once_join_one_search(server, tmp_path, monkeypatch):
    words = ("--storage", server, "--trials", "4", "--recipe.epochs", "3")
    both = [search(tmp_path, *words) for _ in range(2)]
    first, second = (result_of(process)["counts"] for process in both)
    assert first == second == {"complete": 4}
    assert set(trained(tmp_path).values()) == {1} and len(trained(tmp_path)) == 4
    assert len([run for run in runs(tmp_path) if tag(run, "search")]) == 1
    report = ("search", "equal_flops", "--report", "--format", "json")  # it knows the database
    monkeypatch.delenv("PGUSER", raising=False)  # and the user
    monkeypatch.setenv("USER", "nobody-of-the-database")
    assert result_of(Started(FORKS, *report, cwd=tmp_path))["counts"]["complete"] == 4


def test_a_search_goes_through_a_proxy(server, tmp_path):
    port = postgresql.free_port()
    address = f"127.0.0.1:{port}"
    proxy = Started(FORKS, "search", "--serve", address, "--storage", server, cwd=tmp_path)
    try:
        wait_for(lambda: postgresql.is_open(port), proxy)
        words = ("--storage", f"grpc://{address}", "--trials", "2", "--recipe.epochs", "4")
        assert result_of(search(tmp_path, *words))["counts"] == {"complete": 2}
    finally:
        proxy.kill()


def test_a_proxy_that_is_started_again_loses_no_trial(server, tmp_path):
    port = postgresql.free_port()
    address = f"127.0.0.1:{port}"

    def started() -> Started:
        proxy = Started(FORKS, "search", "--serve", address, "--storage", server, cwd=tmp_path)
        wait_for(lambda: postgresql.is_open(port), proxy)
        return proxy

    proxy = started()
    try:
        words = ("--storage", f"grpc://{address}", "--trials", "2", "--recipe.epochs", "21")
        process = search(tmp_path, *words)
        wait_for(lambda: list(tmp_path.rglob("last.ckpt")), process)
        proxy.kill()
        wait_for(lambda: "failed to connect" in process.said()[1], process)
        proxy = started()
        assert result_of(process)["counts"] == {"complete": 2}
    finally:
        proxy.kill()
    assert set(trained(tmp_path).values()) == {1} and len(trained(tmp_path)) == 2


def test_a_trial_of_another_machine_that_fell_silent_is_tried_again(server, monkeypatch):
    monkeypatch.setattr("levit_ablate.searches.trials.HEARTBEAT", 1)
    monkeypatch.setattr("levit_ablate.searches.trials.SILENCE", 2)
    planned = small(trials=2, seeds="7")
    study = study_of(planned, server)
    dead = study.ask()
    dead.suggest_int("depth.1", 1, 4)
    dead.set_user_attr("host", "another machine")
    dead.set_user_attr("lock", "there.lock")
    study._storage.record_heartbeat(dead._trial_id)
    time.sleep(3)
    optuna.storages.fail_stale_trials(study)
    states = [trial.state.name for trial in study.get_trials()]
    assert states == ["FAIL", "WAITING"]
    again = study.ask()
    assert again.suggest_int("depth.1", 1, 4) == dead.params["depth.1"]
    assert again.user_attrs == {"retry_of": 0, "deaths": 1}  # and not the lock of the dead


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://search:secret@127.0.0.1:9/x", "cannot be opened"),
        ("postgresql://search:se#c/r?secret@127.0.0.1:9/x", "cannot be opened"),
        ("postgresql://search:s@secret:x@127.0.0.1:9/x", "percent-encoded"),
        ("grpc://user:secret@127.0.0.1:9", "cannot be reached"),
        ("nonsense://x", "cannot be opened"),
        ("grpc://127.0.0.1:9", "cannot be reached"),
        ("grpc://somewhere", "no HOST:PORT"),
        ("grpc://user:secret@somewhere", "no HOST:PORT"),
    ],
)
def test_a_storage_that_cannot_be_had_is_one_line_without_its_password(url, expected):
    with pytest.raises(UserError, match="storage") as caught:
        storage_of(url, small())
    said = str(caught.value)
    assert expected in said and "\n" not in said and "secret" not in said


def test_a_storage_that_is_away_is_told_without_its_password():
    url = "postgresql://user:secret@host/x"
    wanted = pytest.raises(RunError, match=r"read or written: no way to \*\*\*;")
    with wanted, reading_the_trials(url):
        raise OSError("no way to secret")


def test_a_proxy_that_cannot_be_served_is_told_without_a_password(tmp_path, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("no way to secret")

    monkeypatch.setattr("levit_ablate.searches.storage.run_grpc_proxy_server", refused)
    url = f"sqlite:///{tmp_path}/x.db?password=secret"
    monkeypatch.setattr("levit_ablate.searches.storage.database", lambda _: None)
    with pytest.raises(UserError, match=r"--serve 127\.0\.0\.1:9: no way") as caught:
        serve(url, "127.0.0.1:9")
    assert "secret" not in str(caught.value)
    with pytest.raises(UserError, match="no HOST:PORT") as caught:
        serve(url, "user:secret@host")
    assert "secret" not in str(caught.value)
