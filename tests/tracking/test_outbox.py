"""What waits for a store, in a file that was not written whole."""

from __future__ import annotations

import json

import mlflow
import pytest
from mlflow import MlflowClient

from levit_ablate.tracking.outbox import deliver_pending


@pytest.fixture
def write(store):
    """A write that waits for a run in the open store."""
    run = MlflowClient().create_run("0")
    return {
        "kind": "metrics",
        "run_id": run.info.run_id,
        "uri": store,
        "values": {"val_loss": 1.0},
        "step": 0,
        "timestamp": 1,
    }


@pytest.fixture
def waiting(tmp_path, write):
    """The file that it waits in."""
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    (folder / "run_id").write_text(write["run_id"])
    return folder / "outbox.jsonl"


@pytest.mark.parametrize("cut", ['{"kind": "metrics", "values": {"a": 1}', "{", ""])
def test_a_last_write_that_was_cut_off_is_none(tmp_path, write, waiting, cut, capsys):
    waiting.write_text(f"{json.dumps(write)}\n{cut}")
    deliver_pending(tmp_path)
    assert mlflow.get_run(write["run_id"]).data.metrics == {"val_loss": 1.0}
    assert not waiting.exists() and not capsys.readouterr().err


@pytest.mark.parametrize("damage", [b"{\n", b"\0\0\0\0\n", b"\xff\n", b"3\n", b"{}\n", b"null\n"])
def test_what_is_damaged_is_set_aside_with_a_line_and_stops_no_command(
    tmp_path, write, waiting, damage, capsys
):
    content = damage + json.dumps(write).encode() + b"\n"
    waiting.write_bytes(content)
    deliver_pending(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    kept = waiting.with_suffix(".damaged")
    assert f"{waiting}: is damaged" in line and line.endswith(f"the file is now {kept}")
    assert kept.read_bytes() == content
    deliver_pending(tmp_path)
    assert not capsys.readouterr().err
