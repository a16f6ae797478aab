"""A teacher's answers: what is stored is what it says, of this stream and no other, computed once."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from processes import Started

from levit_ablate.config import Data, Design, Experiment, Hardware, Recipe, Teacher
from levit_ablate.data.batches import Batch
from levit_ablate.data.datamodule import ImageData
from levit_ablate.errors import RunError
from levit_ablate.experiment import variant
from levit_ablate.training.teacher import build
from levit_ablate.training.teacher_cache import (
    Answers,
    LiveTeacher,
    TeacherCache,
    describe,
    folder_of,
)

CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=64, erasing=0.3, mixup=0.5, cutmix=0.5, repeats=2, precision="32-true")


def stream_batches(epoch: int) -> list[Batch]:
    data = ImageData(Data(), RECIPE, Hardware(), seed=0)
    data.setup()
    return list(data.training_batches(CPU, (0, 1), lambda: (epoch, 0)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build("test_resnet", variant("baseline", {}).images)


@pytest.mark.parametrize("top_k", [1, 3])
def test_stored_answers_are_the_live_teachers_on_every_sample(network, tmp_path, top_k):
    live = LiveTeacher(network, top_k)
    stored = TeacherCache(tmp_path, 18 * 64, 10, top_k, CPU)
    for epoch in (0, 3):
        stored.open(epoch, lambda e=epoch: ((b.positions, live(b)) for b in stream_batches(e)))
        for batch in stream_batches(epoch):
            expected, answers = live(batch), stored(batch)
            assert answers.classes.equal(expected.classes)
            torch.testing.assert_close(
                answers.probabilities, expected.probabilities, atol=1e-3, rtol=0
            )
    assert stored.epoch.nbytes == 18 * 64 * (2 if top_k == 1 else 4 * top_k)


def test_answers_that_are_there_are_not_asked_for_again(tmp_path):
    def told():
        yield torch.arange(8), Answers(torch.arange(8)[:, None], torch.ones(8, 1))

    TeacherCache(tmp_path, 8, 10, 1, CPU).open(0, told)

    def asked():
        raise AssertionError("asked again")

    again = TeacherCache(tmp_path, 8, 10, 1, CPU)
    again.open(0, asked)
    batch = Batch(*[torch.empty(2)] * 4, torch.tensor([5, 2]))
    assert again(batch).classes.tolist() == [[5], [2]]


def test_of_two_that_need_an_epoch_one_computes_and_the_other_waits(tmp_path):
    asked = []

    def told():
        asked.append(1)
        threading.Event().wait(0.5)
        yield torch.arange(8), Answers(torch.arange(8)[:, None], torch.ones(8, 1))

    stores = [TeacherCache(tmp_path, 8, 10, 1, CPU) for _ in range(2)]
    threads = [threading.Thread(target=store.open, args=(0, told)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [1]
    assert stores[0].epoch is not None and stores[1].epoch is not None


def test_a_killed_process_leaves_no_half_written_epoch_and_no_lock(tmp_path):
    code = """
import os, signal, sys, torch
from pathlib import Path
from levit_ablate.training.teacher_cache import Answers, TeacherCache
def told():
    yield torch.arange(4), Answers(torch.arange(4)[:, None], torch.ones(4, 1))
    os.kill(os.getpid(), signal.SIGKILL)
TeacherCache(Path(sys.argv[1]), 8, 10, 1, torch.device("cpu")).open(0, told)
"""
    assert Started(code, tmp_path).wait() == -9
    assert not list(tmp_path.glob("*.npy"))
    stored = TeacherCache(tmp_path, 8, 10, 1, CPU)
    stored.open(0, lambda: [(torch.arange(8), Answers(torch.arange(8)[:, None], torch.ones(8, 1)))])
    assert stored.epoch["classes"][:, 0].tolist() == list(range(8))


def test_a_full_disk_is_a_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numpy, "save", full)
    with pytest.raises(RunError, match=r"epoch_0000\.npy: cannot be written: No space left"):
        TeacherCache(tmp_path, 8, 10, 1, CPU).open(0, list)
    assert [path.name for path in tmp_path.iterdir()] == ["answers.lock"]


def test_answers_of_another_shape_are_refused(tmp_path):
    TeacherCache(tmp_path, 8, 10, 1, CPU).open(0, list)
    with pytest.raises(RunError, match="another shape; remove"):
        TeacherCache(tmp_path, 9, 10, 1, CPU).open(0, list)


@pytest.mark.parametrize("content", [b"", b"damaged", b"\x93NUMPY\x01\x00v\x00"])
def test_a_damaged_file_of_answers_is_named(tmp_path, content):
    (tmp_path / "epoch_0000.npy").write_bytes(content)
    with pytest.raises(RunError, match=r"epoch_0000\.npy: is damaged; remove it"):
        TeacherCache(tmp_path, 8, 10, 1, CPU).open(0, list)


DISTILLED = Experiment(recipe=RECIPE, teacher=Teacher(model="test_resnet", weights="pretrained"))


@pytest.mark.parametrize(
    "other",
    [
        replace(DISTILLED, seed=1),
        replace(DISTILLED, data=Data(split_seed=1)),
        replace(DISTILLED, data=Data(seed=4)),
        replace(DISTILLED, data=Data(image_size=40)),
        replace(DISTILLED, recipe=replace(RECIPE, batch_size=32)),
        replace(DISTILLED, recipe=replace(RECIPE, mixup=0.4)),
        replace(DISTILLED, recipe=replace(RECIPE, crop=False)),
        replace(DISTILLED, recipe=replace(RECIPE, precision="bf16-mixed")),
        replace(DISTILLED, teacher=Teacher(model="test_vit", weights="pretrained")),
        replace(DISTILLED, design=Design(distillation="soft")),
        replace(DISTILLED, teacher=Teacher(weights="trained")),
    ],
)
def test_another_stream_teacher_or_kind_has_answers_of_its_own(other):
    assert folder_of(other) != folder_of(DISTILLED)


@pytest.mark.parametrize(
    "same",
    [
        replace(DISTILLED, design=Design(stem="patch")),
        replace(DISTILLED, model="levit_micro"),
        replace(DISTILLED, recipe=replace(RECIPE, epochs=3, learning_rate=1.0, ema_decay=0.5)),
        replace(DISTILLED, hardware=Hardware(devices=4, num_workers=7)),
        replace(DISTILLED, data=Data(root="elsewhere")),
    ],
)
def test_variants_and_longer_trainings_share_their_answers(same):
    assert folder_of(same) == folder_of(DISTILLED)


def test_versions_of_the_packages_that_make_the_pixels_are_in_the_name(monkeypatch):
    before = folder_of(DISTILLED)
    monkeypatch.setattr("levit_ablate.training.teacher_cache.version", lambda package: "99")
    assert folder_of(DISTILLED) != before


def test_the_folder_says_what_its_answers_are_of(tmp_path):
    describe(tmp_path / "answers", DISTILLED)
    text = (tmp_path / "answers" / "stream.json").read_text()
    assert "test_resnet" in text and '"mixup": 0.5' in text
    assert Path("answers") not in tmp_path.parents
