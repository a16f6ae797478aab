"""A call leaves MLflow, streams and threads as they were."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import sys
import threading

import pytest
from quick import QUICK

import levit_ablate as la
from levit_ablate.api.session import opened, talking


def test_a_call_leaves_mlflow_and_the_streams_as_they_were(alone, folder, monkeypatch):
    streams = sys.stdout, sys.stderr
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")
    for name in names:  # which an earlier test may have left
        monkeypatch.delenv(name, raising=False)
    other = f"sqlite:///{folder / 'other.db'}"
    with pytest.raises(la.UserError, match="nothing is recorded there yet"):
        la.open_study("paper", tracking_uri=other)
    fresh = la.run("no_distillation", baseline=False, tracking_uri=other, **QUICK)
    again = la.run("no_distillation", baseline=False, **QUICK)
    assert fresh.trained and fresh.run_id != again.run_id == alone.run_id
    assert fresh.accuracy == again.accuracy
    assert not os.environ.keys() & names
    assert (sys.stdout, sys.stderr) == streams


class _Printer(logging.Handler):
    """A handler that prints to whatever standard error is, as rich's does."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"logged: {record.getMessage()}", file=sys.stderr)


def test_a_handler_of_the_log_may_print(capsys, caplog):
    handler = _Printer()
    logger = logging.getLogger("levit_ablate")
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "levit_ablate"), talking(progress=False):
            print("a line")
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr() == ("", "logged: a line\n")


def test_a_redirection_that_outlives_a_call_leaves_no_stream_that_prints_to_itself(capsys):
    call, redirected = talking(progress=True), contextlib.redirect_stderr(io.StringIO())
    streams = sys.stdout, sys.stderr
    call.__enter__()
    redirected.__enter__()
    call.__exit__(None, None, None)
    redirected.__exit__(None, None, None)  # puts back what the call had put there
    with talking(progress=True):
        print("a line")
    assert capsys.readouterr() == ("", "a line\n")
    assert (sys.stdout, sys.stderr) == streams


def test_another_thread_and_a_running_event_loop_are_no_hindrance(alone):
    found: list[la.RunResult] = []

    async def main() -> None:
        found.append(la.run("no_distillation", baseline=False, **QUICK))
        await asyncio.to_thread(
            lambda: found.append(la.run("no_distillation", baseline=False, **QUICK))
        )

    asyncio.run(main())
    assert [each.run_id for each in found] == [alone.run_id] * 2


def test_threads_may_share_a_store_and_another_one_is_refused(folder):
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    refused: list[str] = []

    def other() -> None:
        with opened(uri, existing=True):
            pass
        try:
            with opened(f"sqlite:///{folder / 'third.db'}"):
                pass
        except la.UserError as error:
            refused.append(str(error))

    with opened(uri):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "MLflow has one store a process" in refused[0]
    assert not (folder / "third.db").exists()
