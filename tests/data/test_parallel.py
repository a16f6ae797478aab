"""A function over many files gives what a loop gives, by processes that leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from levit_ablate.data import parallel
from levit_ablate.data.parallel import CHUNK, over_files
from levit_ablate.data.verify import check_image
from levit_ablate.errors import RunError

needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")


@pytest.fixture
def many(tmp_path) -> list[Path]:
    """More files than are done without processes; none is an image, every seventh is empty."""
    for number in range(5 * CHUNK):
        (tmp_path / f"{number:04}.jpg").write_bytes(b"" if number % 7 == 0 else b"%d" % number)
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize("num_workers", [1, 3])
def test_processes_give_what_one_after_another_gives_in_order(num_workers, many):
    expected = [check_image(path) for path in many]
    assert list(over_files(check_image, many, len(many), "checking", num_workers)) == expected
    assert list(over_files(check_image, many[:9], 9, "checking", num_workers)) == expected[:9]


@pytest.mark.parametrize("count", [CHUNK, 5 * CHUNK])
def test_an_error_of_the_function_is_raised_here(count, many):
    many[3] = many[3].with_name("gone.jpg")
    results = over_files(Path.read_bytes, many[:count], count, "reading", num_workers=2)
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        list(results)


def test_where_no_process_can_be_started_it_is_said_in_a_line(many, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    with pytest.raises(RunError, match=r"checking: no process can be started: .*No such file"):
        next(over_files(check_image, many, len(many), "checking"))


def workers(parent: int) -> list[int]:
    """The processes that a process has for its files."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
            if int(fields[1]) == parent and b"parallel import _serve" in command:
                found.append(int(folder.name))
    return found


def are_gone(processes: list[int]) -> bool:
    return not any(Path(f"/proc/{process}").exists() for process in processes)


@needs_proc
def test_a_process_that_dies_is_an_error_in_a_line_and_takes_the_others_along(many):
    checks = over_files(check_image, many * 50, 50 * len(many), "checking", num_workers=2)
    next(checks)
    os.kill(workers(os.getpid())[0], signal.SIGKILL)
    said = r"a process died \(exit code -9\) between .*\d{4}.jpg and .*\d{4}.jpg"
    with pytest.raises(RunError, match=said) as caught:
        list(checks)
    assert "\n" not in str(caught.value)
    assert not workers(os.getpid())


@needs_proc
def test_closing_ends_the_processes_at_once(many):
    checks = over_files(check_image, many * 50, 50 * len(many), "checking", num_workers=2)
    next(checks)
    assert len(workers(os.getpid())) == 2
    started = time.monotonic()
    checks.close()
    assert not workers(os.getpid())
    assert time.monotonic() - started < 2


@needs_proc
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_processes_do_not_outlive_a_script_that_needs_no_guard(end, many, tmp_path):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from levit_ablate.data.parallel import over_files\n"
        "from levit_ablate.data.verify import check_image\n"
        "paths = sorted(Path(sys.argv[1]).iterdir()) * 500\n"
        "checks = over_files(check_image, paths, len(paths), 'checking', 2)\n"
        "for number, checked in enumerate(checks):\n"
        "    if number == 100: print('at work', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-", tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(parallel.__file__).parents[2],
    ) as process:
        process.stdin.write(script.encode())
        process.stdin.close()
        assert process.stdout.readline() == b"at work\n"
        started = workers(process.pid)
        assert len(started) == 2
        process.send_signal(end)
        process.wait(5)
    assert process.returncode in (-end, 130)
    end_of_patience = time.monotonic() + 5
    while not are_gone(started):
        assert time.monotonic() < end_of_patience
        time.sleep(0.01)
