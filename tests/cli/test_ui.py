import os
import signal
import socket
from pathlib import Path
from urllib.request import urlopen

import pytest
from postgresql import free_port, is_open
from processes import levit_ablate, wait_for

from levit_ablate.cli.main import run_command


def test_before_anything_is_recorded_there_is_no_page_but_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert run_command(["ui"]) == 2
    assert "nothing is recorded there yet" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()


def test_a_port_that_does_not_exist_is_refused(store, capsys):
    assert run_command(["ui", "--tracking-uri", store, "--port", "65536"]) == 2
    assert "--port: 65536 must be from 1 to 65535" in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused(store, capfd):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert run_command(["ui", "--tracking-uri", store, "--port", port]) == 2
    out, err = capfd.readouterr()
    assert err == f"levit-ablate: --port: {port}: Address already in use; choose another port\n"
    assert out == ""  # no page is named


def test_a_server_that_ends_at_once_is_said(store, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_STATIC_PREFIX", "it has to begin with a slash")
    assert run_command(["ui", "--tracking-uri", store, "--port", str(free_port())]) == 1
    out, err = capfd.readouterr()
    assert "MLflow's server has ended by itself" in err.splitlines()[-1]
    assert "http" not in out


def test_a_servers_page_is_named_and_not_served_again(capsys):
    assert run_command(["ui", "--tracking-uri", "http://user:s3cr3t@server:5000"]) == 0
    assert "http://server:5000" in capsys.readouterr().out


@pytest.mark.parametrize("ends", ["Ctrl-C", "SIGTERM"])
def test_the_page_of_the_store_is_served_until_it_is_told_to_end(store, tmp_path, ends):
    port = free_port()
    ui = levit_ablate("ui", "--port", port, "--tracking-uri", store)
    try:
        wait_for(lambda: "Ctrl-C ends it" in ui.said()[0], ui, timeout=300)
        with urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            assert "MLflow" in answer.read().decode()
        commands = [
            said for said in map(command_of, Path("/proc").glob("[0-9]*")) if "mlflow" in said
        ]
        assert any(str(port) in said for said in commands)
        assert not any(store in said for said in commands)  # it may hold a password
        if ends == "Ctrl-C":  # it comes to all processes of the terminal
            os.killpg(ui.pid, signal.SIGINT)
        else:
            ui.send_signal(signal.SIGTERM)
        assert ui.wait(60) == 0, ui.said()
        assert not is_open(port)
    finally:
        ui.kill()


def command_of(process: Path) -> str:
    try:
        return (process / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
