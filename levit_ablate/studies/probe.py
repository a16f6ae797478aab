"""How long a study will take, from a few steps of each variant."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from levit_ablate.data.batches import Batch
from levit_ablate.data.datamodule import ImageData
from levit_ablate.experiment import Variant
from levit_ablate.hardware import has_gpu
from levit_ablate.studies.orders import Order
from levit_ablate.training import answers
from levit_ablate.training.conditions import ready_data
from levit_ablate.training.module import LeViTModule
from levit_ablate.training.teacher import TeacherModule, teaching
from levit_ablate.training.train import num_threads

WARM, TIMED = 1, 3
"""Steps before the clock runs, and while it does."""


class Estimate(NamedTuple):
    """Seconds."""

    run: Mapping[str, float]
    """Of one run of each variant, by its name, the asking of a teacher not included."""
    asking: float
    """A teacher, for all epochs of one seed."""
    teaching: float
    """The training of a teacher."""

    def whole(self, orders: Iterable[Order]) -> float:
        """All of these jobs, one after the other."""
        orders = list(orders)
        runs = [order.variant for order in orders if not order.only_teacher]
        seeds = {
            folder
            for variant in runs
            if variant.experiment.design.distillation != "none"
            and not answers.complete(variant.experiment)
            for folder in [answers.folder_of(variant.experiment)]
        }
        teachers = sum(order.only_teacher for order in orders)
        own = sum(self.run[variant.name] for variant in runs)
        return own + len(seeds) * self.asking + teachers * self.teaching


def probe(variants: Iterable[Variant]) -> Estimate:
    """Train each variant for a few steps on this machine, with its own images.

    Other work on the machine, and a first step's compilation, are not foreseen.
    """
    variants = list(variants)
    experiment = variants[0].experiment
    on_gpu = experiment.hardware.accelerator != "cpu" and has_gpu()
    device = torch.device("cuda" if on_gpu else "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads(variants[0]))
    try:
        data = ready_data(experiment)
        batches = _some(data, device)
        run = {v.name: _run_seconds(v, data, batches, device) for v in variants}
        taught = [v for v in variants if v.experiment.design.distillation != "none"]
        asking, lesson = _teacher_seconds(taught[0], batches, device) if taught else (0.0, 0.0)
    finally:
        torch.set_num_threads(before)
    return Estimate(run=run, asking=asking, teaching=lesson)


def _some(data: ImageData, device: torch.device) -> tuple[list[Batch], float]:
    """A few training batches, and the seconds that one takes to make."""
    stream: Iterator[Batch] = iter(data.training_batches(device, (0, 1), lambda: (0, 0)))
    first = next(stream)
    started = time.perf_counter()
    more = [batch for _, batch in zip(range(TIMED), stream, strict=False)]
    each = (time.perf_counter() - started) / max(1, len(more))
    return [first, *more], each


def _run_seconds(
    variant: Variant, data: ImageData, some: tuple[list[Batch], float], device: torch.device
) -> float:
    """All epochs of a run, validation and test included."""
    experiment = variant.experiment
    batches, making = some
    module = LeViTModule(
        design=experiment.design,
        architecture=variant.architecture,
        images=variant.images,
        recipe=experiment.recipe,
    ).to(device)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)

    def step(batch: Batch) -> None:
        heads: Any = module.network.forward_heads(batch.images)  # type: ignore[operator]
        loss = sum(nn.functional.cross_entropy(head, batch.labels) for head in heads.values())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        module.configure_gradient_clipping(optimizer)
        optimizer.step()

    def look(batch: Batch) -> None:
        with torch.inference_mode():
            module.network(batch.images)

    precision = experiment.recipe.precision
    training = making + _seconds(step, batches, device, precision)
    looking = _seconds(look, batches, device, precision) / len(batches[0].images)
    steps = data.stream.steps
    return experiment.recipe.epochs * (steps * training + data.served.num_validation * looking)


def _teacher_seconds(
    variant: Variant, some: tuple[list[Batch], float], device: torch.device
) -> tuple[float, float]:
    """A teacher's asking for all epochs of a seed, and its training."""
    experiment = variant.experiment
    batches, making = some
    module = TeacherModule(experiment.teacher, variant.images).to(device)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    lesson = teaching(experiment)
    data = ready_data(lesson)
    taught, making_taught = _some(data, device)

    def ask(batch: Batch) -> None:
        with torch.inference_mode():
            module.network(batch.images)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module.network(batch.images), batch.labels).backward()
        optimizer.step()

    steps = ready_data(experiment).stream.steps * experiment.recipe.epochs
    asking = making + _seconds(ask, batches, device, experiment.recipe.precision)
    training = making_taught + _seconds(step, taught, device, lesson.recipe.precision)
    return steps * asking, data.stream.steps * lesson.recipe.epochs * training


def _seconds(
    what: Callable[[Batch], None], batches: list[Batch], device: torch.device, precision: str
) -> float:
    """That it takes for a batch, in the mean of a few."""
    kind = torch.float16 if precision.startswith("16") else torch.bfloat16
    mixed = torch.autocast(device.type, kind, enabled="mixed" in precision)
    with mixed:
        for batch in batches[:WARM]:
            what(batch)
        _synchronize(device)
        started = time.perf_counter()
        for batch in batches[WARM:]:
            what(batch)
        _synchronize(device)
    return (time.perf_counter() - started) / max(1, len(batches) - WARM)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
