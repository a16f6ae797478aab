import os
import signal
import socket
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest

from levit_ablate.cli import run_command


def test_before_anything_is_recorded_there_is_no_page_but_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert run_command(["ui"]) == 2
    assert "nothing is recorded there yet" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()


def test_a_port_that_does_not_exist_is_refused(store, capsys):
    assert run_command(["ui", "--tracking-uri", store, "--port", "65536"]) == 2
    assert "--port: 65536 must be from 1 to 65535" in capsys.readouterr().err


def test_a_servers_page_is_named_and_not_served_again(capsys):
    assert run_command(["ui", "--tracking-uri", "http://server:5000"]) == 0
    assert "http://server:5000" in capsys.readouterr().out


@pytest.mark.usefixtures("store")
def test_the_page_of_the_store_is_served_and_ends_with_ctrl_c(store, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "levit_ablate", "ui", "--port", port, "--tracking-uri", store]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=log, stderr=log, env=os.environ, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        page = ""
        while time.monotonic() < deadline and not page:
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                with urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
                    page = answer.read().decode()
            except OSError:
                time.sleep(0.3)
        assert "MLflow" in page
        assert port in (tmp_path / "log").read_text()
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=60)
