"""The cache of a teacher's answers: asked once for each epoch, shared by all variants of a seed.

A training sees the same images at the same positions in every variant of a seed, so a study asks
its teacher once. The answers of an epoch are one file, written as a whole and mapped into memory.
The folder's name holds the keys of the stream and the teacher, so other answers are never taken for
these. A sample takes two bytes for hard distillation, four for each of k classes for soft.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from levit_ablate.config import Experiment
from levit_ablate.data.batches import Batch
from levit_ablate.errors import RunError
from levit_ablate.keys import stream_key, teacher_key
from levit_ablate.runtime import is_first_process, one_at_a_time, replacing
from levit_ablate.schema import plain
from levit_ablate.training.callbacks import stop_of

PIXEL_PACKAGES = ("torch", "torchvision", "timm", "pillow", "numpy")
"""Packages that make the images; their versions are part of a cache's key."""


class Answers(NamedTuple):
    """A teacher's answers to a batch: its k most probable classes."""

    classes: Tensor
    """(B, k) int64, the most probable first; k is 1 for hard distillation."""
    probabilities: Tensor
    """(B, k) float32, their probabilities, which sum to one."""


class LiveTeacher:
    """Asks a network about every batch, as the paper does.

    The network: images as the student gets them (B, C, H, W) → logits (B, K).
    """

    def __init__(self, network: nn.Module, top_k: int) -> None:
        self.network = network.eval().requires_grad_(requires_grad=False)
        self.top_k = top_k

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Answers:
        logits = self.network(batch.images).float()
        top = logits.softmax(dim=1).topk(min(self.top_k, logits.shape[1]), dim=1)
        return Answers(top.indices, top.values / top.values.sum(dim=1, keepdim=True))


class TeacherCache:
    """The answers of one teacher to one stream, by epoch and position; at most 65,536 classes."""

    def __init__(
        self, folder: Path, num_positions: int, num_classes: int, top_k: int, device: torch.device
    ) -> None:
        self.folder = folder
        self.num_positions = num_positions
        self.top_k = min(top_k, num_classes)
        self.device = device
        self.dtype = numpy.dtype(
            [("classes", "<u2", (self.top_k,))]
            + ([("probabilities", "<f2", (self.top_k,))] if self.top_k > 1 else [])
        )
        self.epoch: numpy.ndarray[Any, Any] | None = None

    def open(
        self,
        epoch: int,
        ask: Callable[[], Iterable[tuple[Tensor, Answers]]],
        broadcast: Callable[[bool], bool] = bool,
    ) -> None:
        """Give the answers of this epoch from now on; ask for them if they are not stored.

        If several trainings need them, one asks and the others wait. Raises RunError where the file
        is damaged or cannot be written.

        Args:
            epoch: its number.
            ask: asks the teacher: positions (B,) and answers of the whole epoch, in any order.
            broadcast: returns what the first of several processes of a training passes.
        """
        path = _file(self.folder, epoch)
        if not broadcast(path.exists()):
            with one_at_a_time(self.folder / "answers", "asks the teacher"):
                if not broadcast(path.exists()):
                    answered = ask()
                    if is_first_process():
                        self._write(path, answered)
                    broadcast(True)  # the others wait for the file
        try:
            stored = numpy.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise RunError(f"{path}: is damaged; remove it, and it is asked for anew") from error
        if stored.shape != (self.num_positions,) or stored.dtype != self.dtype:
            raise RunError(f"{path}: holds answers of another shape; remove {self.folder}")
        self.epoch = stored

    def _write(self, path: Path, answered: Iterable[tuple[Tensor, Answers]]) -> None:
        """Store the answers of an epoch, all or none."""
        stored = numpy.zeros(self.num_positions, self.dtype)
        for positions, answers in answered:
            stored["classes"][positions.numpy()] = answers.classes.cpu().numpy()
            if self.top_k > 1:
                stored["probabilities"][positions.numpy()] = answers.probabilities.cpu().numpy()
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                numpy.save(file, stored)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror}") from error

    def __call__(self, batch: Batch) -> Answers:
        """Return the answers to a batch of the open epoch."""
        assert self.epoch is not None
        stored = self.epoch[batch.positions.numpy()]
        classes = torch.from_numpy(stored["classes"].astype("int64")).to(self.device)
        if self.top_k == 1:
            return Answers(classes, torch.ones_like(classes, dtype=torch.float32))
        probabilities = torch.from_numpy(stored["probabilities"].astype("float32")).to(self.device)
        return Answers(classes, probabilities / probabilities.sum(dim=1, keepdim=True))


class AskTeacher(Callback):
    """Provides the teacher's answers of each epoch, from the cache where they are.

    Otherwise the teacher is loaded and asked before the epoch begins, about whole batches of the
    stream. With several devices each asks about its shard.
    """

    def __init__(self, experiment: Experiment, folder: Path, load: Callable[[], nn.Module]) -> None:
        soft = experiment.design.distillation == "soft"
        self.top_k = experiment.teacher.top_k if soft else 1
        self.folder = folder
        self.load = load
        self.teacher: LiveTeacher | None = None
        self.seconds = 0.0
        self.total = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        num_positions = trainer.datamodule.stream.num_positions  # type: ignore[attr-defined]
        num_classes = pl_module.num_classes
        assert isinstance(num_classes, int)
        self.cache = TeacherCache(
            self.folder, num_positions, num_classes, self.top_k, pl_module.device
        )
        pl_module.teacher = self.cache  # type: ignore[assignment]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the epoch of a training that is resumed within it: that epoch is not started."""
        self._open(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open(trainer)
        pl_module.log("teacher_seconds", self.seconds)
        self.seconds = 0.0

    def _open(self, trainer: Trainer) -> None:
        epoch, strategy = trainer.current_epoch, trainer.strategy
        started = time.perf_counter()
        if trainer.world_size == 1:
            with stop_of(trainer).signals.at_once():
                self.cache.open(epoch, lambda: self._ask(trainer, epoch))
        else:
            self.cache.open(epoch, lambda: self._ask_all(trainer, epoch), strategy.broadcast)
        self.seconds += time.perf_counter() - started
        self.total += time.perf_counter() - started

    def _ask_all(self, trainer: Trainer, epoch: int) -> list[tuple[Tensor, Answers]]:
        """Ask in every process about its shard; return the answers of all."""
        strategy = trainer.strategy
        answered = list(self._ask(trainer, epoch))
        parts = [
            torch.cat([positions for positions, _ in answered]).to(strategy.root_device),
            torch.cat([each.classes for _, each in answered]),
            torch.cat([each.probabilities for _, each in answered]),
        ]
        positions, *answers = (strategy.all_gather(part).flatten(0, 1) for part in parts)
        return [(positions.cpu(), Answers(*answers))]

    def _ask(self, trainer: Trainer, epoch: int) -> Iterator[tuple[Tensor, Answers]]:
        device = trainer.strategy.root_device
        if self.teacher is None:
            self.teacher = LiveTeacher(self.load().to(device), self.cache.top_k)
        data = trainer.datamodule  # type: ignore[attr-defined]
        shard = (trainer.global_rank, trainer.world_size)
        for batch in data.training_batches(device, shard, lambda: (epoch, 0)):
            with trainer.precision_plugin.forward_context():
                answers = self.teacher(batch)
            yield batch.positions, answers
            stop_of(trainer).stop_if_requested(trainer)


def folder_of(experiment: Experiment) -> Path:
    """Folder of the answers of an experiment's teacher to its stream."""
    versions = {package: version(package) for package in PIXEL_PACKAGES}
    soft = experiment.design.distillation == "soft"
    kind = f"soft{experiment.teacher.top_k}" if soft else "hard"
    name = f"{stream_key(experiment, versions)}-{teacher_key(experiment)}-{kind}"
    return Path(experiment.hardware.work_dir) / "answers" / name


def complete(experiment: Experiment) -> bool:
    """Return whether all answers of a training are stored, so that it needs no teacher."""
    folder = folder_of(experiment)
    return all(_file(folder, epoch).exists() for epoch in range(experiment.recipe.epochs))


def _file(folder: Path, epoch: int) -> Path:
    return folder / f"epoch_{epoch:04d}.npy"


def describe(folder: Path, experiment: Experiment) -> None:
    """Write into the folder, for people, which stream and teacher its answers belong to."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = plain(experiment)
    description = {key: mapping[key] for key in ("data", "teacher", "seed", "recipe")}
    (folder / "stream.json").write_text(json.dumps(description, indent=2), encoding="utf-8")
