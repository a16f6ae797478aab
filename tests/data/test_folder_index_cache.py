"""An index is made once, opened at once ever after, and survives whatever ends a process."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import pty
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from folders import content, draw, fill
from processes import Started, wait_for

from levit_ablate.data import folder_index as module
from levit_ablate.data.folder_index import open_index
from levit_ablate.errors import RunError

REPOSITORY = Path(module.__file__).parents[2]
FORK = """
import multiprocessing
multiprocessing.set_start_method("fork", force=True)  # as where it was not started by a test
"""
OPEN = """
import sys
from pathlib import Path
from levit_ablate.data.folder_index import open_index
root, cache = map(Path, sys.argv[1:])
"""


@pytest.fixture
def root(tmp_path) -> Path:
    return fill(tmp_path / "images")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def test_to_open_again_reads_and_lists_no_images(root, cache):
    open_index(root, cache)
    script = OPEN + (
        "def heard(event, details):\n"
        "    if event in ('open', 'os.scandir', 'os.listdir') and str(details[0]).startswith(str(root)):\n"
        "        print(Path(details[0]).relative_to(root))\n"
        "sys.addaudithook(heard)\n"
        "index = open_index(root, cache)\n"
        "print(index.parts['test'].files[5].relative_to(root))\n"
    )
    command = [sys.executable, "-c", script, root, cache]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert set(done.stdout.split()) == {"train", "test", "test/dog/test2.jpg"}


@pytest.mark.parametrize(
    "change",
    [
        lambda root: draw(root / "train" / "cat" / "new.jpg"),
        lambda root: (root / "test" / "dog" / "test1.jpg").unlink(),
        lambda root: (root / "test" / "dog" / "test1.jpg").rename(root / "test" / "dog" / "x.jpg"),
        lambda root: fill(root, classes=["eel"]),
        lambda root: fill(root, parts=["val"]),
        lambda root: [
            (root / part / "cat").rename(root / part / "car") for part in ("train", "test")
        ],
    ],
)
def test_a_folder_that_changes_is_indexed_anew(change, root, cache, tmp_path):
    before = content(open_index(root, cache))
    change(root)
    after = content(open_index(root, cache))
    assert after != before
    assert after == content(open_index(root, tmp_path / "another cache"))


def test_an_index_whose_images_changed_is_not_served_as_another(root, cache):
    old = open_index(root, cache)
    pickled = pickle.dumps(old.parts["train"])
    fill(root, count=4)
    open_index(root, cache)
    for part in (old.parts["train"], pickle.loads(pickled)):
        with pytest.raises(RunError, match="changed while they were in use"):
            len(part)


def test_a_pickled_part_is_small_and_maps_its_files_again(tmp_path, cache):
    index = open_index(fill(tmp_path / "images", count=50), cache)
    content(index)
    assert len(pickle.dumps(index.parts["train"])) < 1000
    assert len(pickle.dumps(index)) < 2000
    assert content(pickle.loads(pickle.dumps(index))) == content(index)


def test_damaged_and_old_caches_are_made_anew(root, cache):
    good = content(open_index(root, cache))
    [folder] = (path for path in cache.iterdir() if path.is_dir())
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 4  # the header, an array a part, and the list of unreadable images

    def old_format(path: Path) -> None:
        path.write_text(json.dumps({"format": 1, "state": [], "bad": []}))

    damages = [
        Path.unlink,
        lambda path: path.write_bytes(b"\xff\0"),
        lambda path: os.truncate(path, 1),
    ]
    for name in names:
        for damage in [*damages, old_format]:
            damage(folder / name)
            assert content(open_index(root, cache)) == good
    shutil.rmtree(folder)
    folder.write_text("a file")
    assert content(open_index(root, cache)) == good


def test_a_file_that_cannot_be_removed_from_an_old_index_is_in_nobodys_way(
    root, cache, monkeypatch
):
    open_index(root, cache)
    [folder] = (path for path in cache.iterdir() if path.is_dir())
    (folder / ".nfs01").write_text("open in another process")
    draw(root / "train" / "cat" / "new.jpg")
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", lambda folder, ignore_errors: None)
        index = open_index(root, cache)
    made = (folder / "header").stat().st_mtime_ns
    (folder / ".nfs01").unlink()  # its process ended
    assert content(open_index(root, cache)) == content(index)
    assert (folder / "header").stat().st_mtime_ns == made


@pytest.mark.parametrize("stale", [False, True])
def test_a_process_may_be_killed_at_any_step(stale, cache, tmp_path):
    root = fill(tmp_path / "images", count=1)
    extra = root / "train" / "cat" / "extra.jpg"
    expected = {}
    for there in (False, True):
        if there:
            draw(extra)
        expected[there] = content(open_index(root, tmp_path / "reference"))
    for step in count(1):
        if not stale:
            shutil.rmtree(cache, ignore_errors=True)
        elif extra.exists():
            extra.unlink()
        else:
            draw(extra)
        if (child := os.fork()) == 0:
            killed_at(step)
            with contextlib.suppress(BaseException):
                open_index(root, cache)
                os._exit(0)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert content(open_index(root, cache)) == expected[extra.exists()]
        assert len(list(cache.iterdir())) == 2  # the index and its lock
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert step > 15


def killed_at(step: int) -> None:
    """Kill this process before the step'th time that it opens, makes, renames or removes."""
    steps = count(1)

    def heard(event, details):
        counted = event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
        if counted and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(heard)


def test_of_two_processes_one_makes_it_and_the_other_waits(root, cache):
    """The first is held up by an image that is a pipe until the second asks for the lock."""
    script = OPEN + (
        "from filelock import FileLock\n"
        "from levit_ablate.data import folder_index\n"
        "check = folder_index.check_image\n"
        "def checked(path):\n"
        "    if path.name == 'train0.jpg' and path.parent.name == 'cat':\n"
        "        print('checking', flush=True)\n"
        "        open('go').close()\n"
        "    return check(path)\n"
        "folder_index.check_image = checked\n"
        "acquire = FileLock.acquire\n"
        "def acquiring(*arguments, **options):\n"
        "    print('asking', flush=True)\n"
        "    return acquire(*arguments, **options)\n"
        "FileLock.acquire = acquiring\n"
        "print(open_index(root, cache).fingerprint)\n"
    )
    os.mkfifo("go")
    first = Started(script, root, cache)
    wait_for(lambda: "checking" in first.said()[0], first)
    second = Started(script, root, cache)
    wait_for(lambda: "asking" in second.said()[0], second)
    Path("go").open("wb").close()
    lines = [process.communicate()[0].split() for process in (first, second)]
    fingerprint = open_index(root, cache).fingerprint
    assert lines == [["asking", "checking", fingerprint], ["asking", fingerprint]]


def test_ctrl_c_stops_workers_and_leaves_nothing(root, cache):
    """Most images are one that takes a tenth of a second, so that all would take minutes."""
    draw(root / "train" / "cat" / "large.jpg", 1500, 1500)
    for number in range(9000):
        os.link(root / "train" / "cat" / "large.jpg", root / "train" / "dog" / f"{number}.jpg")
    process = Started(FORK + OPEN + "open_index(root, cache)", root, cache)

    def has_workers() -> bool:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        return bool(children.read_text()) if children.exists() else any(cache.glob("*.lock"))

    wait_for(has_workers, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said = process.communicate()[1]
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_alone(terminal, tmp_path, cache):
    root = fill(tmp_path / "images", count=50)
    ours, theirs = pty.openpty()
    script = FORK + OPEN + "open_index(root, cache)"
    if terminal:
        opened = f"os.open({os.ttyname(theirs)!r}, os.O_RDWR | os.O_NOCTTY)"
        script = f"import os; os.dup2({opened}, 2)\n" + script
    process = Started(script, root, cache, env={"TERM": "xterm"})
    said = b""
    while terminal and b"200/200" not in said:
        said += os.read(ours, 4096)
    assert process.communicate() == ("", "") and process.returncode == 0
    os.close(ours)
    os.close(theirs)
    assert b"checking images" in said or not terminal
