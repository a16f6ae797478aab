"""A teacher's answers to a data stream: computed once, stored by position, shared by all.

What a model sees at a position is the same in every variant of a seed, so a study asks its teacher
once. An epoch's answers are one file, written whole or not at all, mapped into memory; its folder
is named after the stream and the teacher, so that other answers cannot be taken for them. Two bytes
a sample for hard distillation; four for each of k classes for soft.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from levit_ablate.config import Experiment
from levit_ablate.data.batches import Batch
from levit_ablate.errors import RunError
from levit_ablate.keys import stream_key, teacher_key
from levit_ablate.locks import one_at_a_time
from levit_ablate.schema import to_mapping
from levit_ablate.training.objective import Answers

PIXELS_OF = ("torch", "torchvision", "timm", "pillow", "numpy")
"""Packages that make the images: answers are of their versions too."""


class StoredAnswers:
    """The answers of one teacher to one stream, by epoch and position.

    Args:
        folder: where they lie; `folder_of` an experiment.
        num_positions: positions of an epoch.
        num_classes: classes of the dataset, at most 65,536.
        top_k: classes of an answer; one for hard distillation.
        device: where answers are given.
    """

    def __init__(
        self, folder: Path, num_positions: int, num_classes: int, top_k: int, device: torch.device
    ) -> None:
        self.folder = folder
        self.num_positions = num_positions
        self.top_k = min(top_k, num_classes)
        self.device = device
        self.kind = numpy.dtype(
            [("classes", "<u2", (self.top_k,))]
            + ([("probabilities", "<f2", (self.top_k,))] if self.top_k > 1 else [])
        )
        self.epoch: numpy.ndarray[Any, Any] | None = None

    def path(self, epoch: int) -> Path:
        """The file of an epoch."""
        return _file(self.folder, epoch)

    def open(self, epoch: int, ask: Callable[[], Iterable[tuple[Tensor, Answers]]]) -> None:
        """Make an epoch's answers those that are given; they are computed if no one has.

        Of several processes that need them one computes, the others wait for it. Raises RunError
        as `write` and `map`.

        Args:
            epoch: its number.
            ask: asks the teacher: positions (B,) and answers, of the whole epoch in any order.
        """
        if not self.path(epoch).exists():
            with self.turn():
                if not self.path(epoch).exists():
                    self.write(epoch, ask())
        self.map(epoch)

    def turn(self) -> AbstractContextManager[None]:
        """The right to compute answers of this stream."""
        return one_at_a_time(self.folder / "answers", "asks the teacher")

    def map(self, epoch: int) -> None:
        """Give the stored answers of an epoch. Raises RunError where they are damaged."""
        path = self.path(epoch)
        try:
            stored = numpy.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise RunError(f"{path}: is damaged; remove it, and it is asked for anew") from error
        if stored.shape != (self.num_positions,) or stored.dtype != self.kind:
            raise RunError(f"{path}: holds answers of another shape; remove {self.folder}")
        self.epoch = stored

    def write(self, epoch: int, answered: Iterable[tuple[Tensor, Answers]]) -> None:
        """Store the answers of an epoch, all or none. Raises RunError where that fails."""
        path = self.path(epoch)
        stored = numpy.zeros(self.num_positions, self.kind)
        for positions, answers in answered:
            stored["classes"][positions.numpy()] = answers.classes.cpu().numpy()
            if self.top_k > 1:
                stored["probabilities"][positions.numpy()] = answers.probabilities.cpu().numpy()
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                numpy.save(file, stored)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise RunError(f"{path}: cannot be written: {error.strerror}") from error

    def __call__(self, batch: Batch) -> Answers:
        """The answers to a batch of the open epoch."""
        assert self.epoch is not None
        stored = self.epoch[batch.positions.numpy()]
        classes = torch.from_numpy(stored["classes"].astype("int64")).to(self.device)
        if self.top_k == 1:
            return Answers(classes, torch.ones_like(classes, dtype=torch.float32))
        probabilities = torch.from_numpy(stored["probabilities"].astype("float32")).to(self.device)
        return Answers(classes, probabilities / probabilities.sum(dim=1, keepdim=True))


def folder_of(experiment: Experiment) -> Path:
    """Where the answers to an experiment's stream by its teacher lie, with what they are of."""
    versions = {package: version(package) for package in PIXELS_OF}
    soft = experiment.design.distillation == "soft"
    kind = f"soft{experiment.teacher.top_k}" if soft else "hard"
    name = f"{stream_key(experiment, versions)}-{teacher_key(experiment)}-{kind}"
    return Path(experiment.hardware.work_dir) / "answers" / name


def complete(experiment: Experiment) -> bool:
    """Whether all answers of a training are stored, so that its teacher is not needed."""
    folder = folder_of(experiment)
    return all(_file(folder, epoch).exists() for epoch in range(experiment.recipe.epochs))


def _file(folder: Path, epoch: int) -> Path:
    return folder / f"epoch_{epoch:04d}.npy"


def describe(folder: Path, experiment: Experiment) -> None:
    """Say in the folder, for people, what its answers are of."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = to_mapping(experiment)
    said = {key: mapping[key] for key in ("data", "teacher", "seed", "recipe")}
    (folder / "stream.json").write_text(json.dumps(said, indent=2), encoding="utf-8")
