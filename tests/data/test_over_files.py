"""A function over many files gives what a loop gives, by workers that leave nothing behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import threading
from pathlib import Path

import pytest
from processes import Started, wait_for

from levit_ablate.data import loader as module
from levit_ablate.data.decoding import check_image
from levit_ablate.data.loader import FEW, over_files
from levit_ablate.errors import RunError


@pytest.fixture
def many(tmp_path) -> list[Path]:
    """More files than are done without workers; none is an image, every seventh is empty."""
    for number in range(5 * FEW):
        (tmp_path / f"{number:04}.jpg").write_bytes(b"" if number % 7 == 0 else b"%d" % number)
    return sorted(tmp_path.iterdir())


def over(function, paths: list[Path], num_workers: int = 2):
    return over_files(function, paths, "checking", num_workers)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_give_what_one_after_another_gives_in_order(num_workers, many, children):
    expected = [check_image(path) for path in many]
    for count in (len(many), 9):
        with over(check_image, many[:count], num_workers) as results:
            assert list(results) == expected[:count]
    assert not children()


@pytest.mark.parametrize("count", [FEW, 5 * FEW])
def test_an_error_of_the_function_is_raised_here(count, many, children):
    many[3] = many[3].with_name("gone.jpg")
    with (
        pytest.raises(FileNotFoundError, match=r"gone\.jpg"),
        over(Path.read_bytes, many[:count]) as results,
    ):
        list(results)
    assert not children()


def test_where_no_worker_can_be_started_it_is_said_in_a_line(many, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multiprocessing.Process, "start", full)
    said = r"^checking: no worker process can be started: .*No space left on device; give [^\n]*$"
    with pytest.raises(RunError, match=said), over(check_image, many):
        pass


def dies_at(number: str):
    """A check that ends its process at a file, as a decoder that crashes does."""

    def check(path: Path) -> str:
        if path.stem == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return path.stem

    return check


@pytest.mark.parametrize("at_first", [True, False])
def test_a_worker_that_dies_is_an_error_in_a_line_that_names_its_file_among_some(
    at_first, many, children
):
    bad = "0000" if at_first else "0310"
    with pytest.raises(RunError) as caught, over(dies_at(bad), many) as results:
        list(results)
    said = str(caught.value)
    assert said.startswith("checking: ") and "DataLoader worker" in said and "\n" not in said
    named = re.search(r"one of the files from \S*/(\d{4})\.jpg to \S*/(\d{4})\.jpg may be", said)
    assert named and named[1] <= bad <= named[2]
    assert not children()  # the others ended with it


def test_a_worker_that_dies_while_its_results_are_used_is_the_same_error(many, children):
    """Torch raises its error wherever the main thread is."""

    def use() -> None:
        with over(check_image, many * 9) as results:
            next(results)
            os.kill(children()[0].pid, signal.SIGKILL)
            threading.Event().wait()

    with pytest.raises(RunError, match=r"^checking: DataLoader worker .* killed"):
        use()


def test_ctrl_c_while_the_workers_are_started_ends_them(many, monkeypatch, children):
    started = module._started

    def interrupted(*arguments):
        batches = started(*arguments)
        signal.raise_signal(signal.SIGINT)
        return batches

    monkeypatch.setattr(module, "_started", interrupted)
    with pytest.raises(KeyboardInterrupt), over(check_image, many):
        pass
    assert not children()


def test_leaving_the_block_ends_the_workers(many, children):
    with over(check_image, many * 50) as results:
        next(results)
        assert len(children()) == 2
    assert not children()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_workers_do_not_outlive_their_parent(end, tmp_path, many):
    """Not even where what they made fills the pipe, which nobody reads any more."""
    script = (
        "import multiprocessing, sys, time\n"
        "from pathlib import Path\n"
        "multiprocessing.set_start_method('fork', force=True)\n"  # as where no test started it
        "from levit_ablate.data.loader import over_files\n"
        "def large(path): return bytes(100_000)\n"
        "paths = sorted(Path(sys.argv[1]).iterdir()) * 5\n"
        "with over_files(large, paths, 'reading', 2) as results:\n"
        "    next(results)\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "    while True: time.sleep(1)\n"
    )
    process = Started(script, tmp_path)
    wait_for(lambda: process.said()[0].endswith("\n"), process)
    workers = [int(word) for word in process.said()[0].split()]
    assert len(workers) == 2
    process.send_signal(end)
    process.wait()
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            while True:  # for as long as the test may last
                os.kill(worker, 0)
