"""Of several processes that need the same thing, one makes it; the others can be told to end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_only

from levit_ablate.runtime import lock_of, one_at_a_time
from levit_ablate.signals import waited


def test_who_waits_for_another_is_known_to_wait_and_says_so(tmp_path: Path, monkeypatch, capsys):
    """So that SIGTERM ends the wait: `training.signals.StopOnSignal`."""
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    result, done = tmp_path / "teacher.pt", []

    def make() -> None:
        with one_at_a_time(result, "trains it"):
            done.append(waited())

    other = threading.Thread(target=make)
    with FileLock(lock_of(result)):
        other.start()
        deadline = time.monotonic() + 60
        while not waited():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not done
    other.join(60)
    assert done == [0.0]  # while it makes the result it does not wait
    assert capsys.readouterr().err == "teacher.pt: another process trains it; waiting for it\n"
