"""What worker processes decode comes, or an error does: nothing is waited for in vain."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from folders import draw
from processes import Started
from torch.utils.data import Dataset

from levit_ablate.data import loader as module
from levit_ablate.data.loader import Loader
from levit_ablate.errors import RunError
from levit_ablate.signals import waited

CPU = torch.device("cpu")
CANNOT = 77
"""The exit code where a test may not mount."""
SMALL = """
import ctypes, multiprocessing, subprocess, sys
multiprocessing.set_start_method("fork", force=True)  # as where it was not started by a test
unshare = getattr(ctypes.CDLL(None), "unshare", lambda _: -1)
if unshare(0x20000):  # CLONE_NEWNS: mounts are this process's own
    sys.exit(77)
mount = ["mount", "-t", "tmpfs", "-o", f"size={sys.argv.pop()}", "tmpfs", "/dev/shm"]
if any(subprocess.run(each).returncode for each in (["mount", "--make-rprivate", "/"], mount)):
    sys.exit(77)
"""
SERVE = """
import hashlib, sys, torch
from levit_ablate.config import Data, Hardware, Recipe
from levit_ablate.data.datamodule import ImageData
data = Data(name="folder", root="set", image_size=96)
images = ImageData(data, Recipe(batch_size=16), Hardware(num_workers=int(sys.argv[1])), seed=1)
images.setup()
cpu, digest = torch.device("cpu"), hashlib.sha256()
for batch in images.training_batches(cpu, (0, 1), lambda: (0, 0)):
    digest.update(batch.images.numpy().tobytes() + batch.labels.numpy().tobytes())
for batch, labels in images.served.evaluation("test", images.normalization, cpu, (0, 1)):
    digest.update(batch.numpy().tobytes() + labels.numpy().tobytes())
print(digest.hexdigest())  # the workers live on to the end, and are then ended without a word
"""


def served(num_workers: int, shared_memory: str) -> tuple[int, str, str]:
    """Serve a folder where /dev/shm has some size: exit code, the digest of all batches, errors."""
    if not Path("set").exists():
        for part in ("train", "val", "test"):
            for number in range(20):
                draw(Path("set") / part / f"class{number % 2}" / f"{number}.jpg", 96, 96)
    process = Started(SMALL + SERVE, num_workers, shared_memory)
    out, err = process.communicate()
    assert process.returncode is not None
    if process.returncode == CANNOT:
        pytest.skip(f"may not mount here: {err.strip()}")
    return process.returncode, out.strip(), err


def test_without_room_in_shared_memory_the_batches_are_the_same_and_it_is_said():
    code, batches, said = served(2, "256k")
    assert code == 0 and len(batches) == 64
    assert served(0, "256k") == (0, batches, "")
    lines = said.splitlines()
    assert len(lines) == 2  # of the training and of the evaluation
    for line in lines:
        assert line.startswith("hardware.num_workers: /dev/shm (0.2 MB) has no room for the ")
        assert "docker run --shm-size" in line


def test_where_not_even_a_worker_can_be_started_is_a_line():
    code, _, said = served(2, "4k")
    assert code == 1
    assert (
        "levit_ablate.errors.RunError: hardware.num_workers: no worker process can be started: "
        "[Errno 28] No space left on device; give /dev/shm room (docker run --shm-size), or take "
        "0 workers\n"
    ) in said


class Answers(Dataset[tuple[torch.Tensor, int]]):
    """Images that a function makes."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == 6:
            self.answer()
        return torch.full((3, 4, 4), index, dtype=torch.uint8), index


def test_a_worker_that_does_not_answer_is_an_error(tmp_path, monkeypatch, children):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    loader = Loader(Answers(pipe.read_bytes), CPU, num_workers=2, batch_size=2)
    batches = iter(loader)
    assert [next(batches)[1].tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    monkeypatch.setattr(loader.loader._iterator, "_timeout", 0.1)  # without it 600 s
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)  # and 5 s
    with pytest.raises(RunError, match=r"^hardware\.num_workers: no batch came .* for 600 s; look"):
        next(batches)
    assert waited() == 0
    assert not children()


def test_a_worker_that_dies_is_an_error():
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RunError, match=r"^hardware\.num_workers: .*DataLoader worker .* memory is"):
        list(Loader(Answers(die), CPU, num_workers=1, batch_size=2))


def test_after_an_error_the_same_loader_gives_its_batches_again(tmp_path):
    missing = tmp_path / "image"
    loader = Loader(Answers(missing.read_bytes), CPU, num_workers=2, batch_size=2)
    with pytest.raises(FileNotFoundError):
        list(loader)
    missing.write_bytes(b"mended")
    labels = [batch[1].tolist() for batch in loader]
    assert labels == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("kind", [EOFError, ConnectionResetError, FileNotFoundError])
def test_a_worker_that_dies_before_its_batch_is_read_is_an_error(kind):
    """Which of these it is depends on how far the worker had come: they cannot be had at will."""

    def batches():
        yield "one"
        raise kind

    received = module._received(batches(), 1)
    assert next(received) == "one"
    said = r"^hardware\.num_workers: a DataLoader worker died before .* where memory is short"
    with pytest.raises(RunError, match=said), module.worker_errors():
        next(received)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [EOFError, FileNotFoundError])
def test_an_error_of_the_dataset_is_not_taken_for_a_dead_worker(workers, kind, children):
    def fail() -> None:
        raise kind("of the disk")

    with pytest.raises(kind, match="of the disk"):
        list(Loader(Answers(fail), CPU, num_workers=workers, batch_size=2))
    assert not children()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_another_kind_stays_what_it_is(workers):
    def fail() -> None:
        raise RuntimeError("of the transform")

    with pytest.raises(RuntimeError, match="of the transform") as caught:
        list(Loader(Answers(fail), CPU, num_workers=workers, batch_size=2))
    assert not isinstance(caught.value, RunError)
