"""Training batches at every position of a stream, from images in memory or in files.

Both kinds of source give uint8 images, cropped, mirrored and recoloured; normalising, erasing and
mixing follow here for both, on the device, a batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from levit_ablate.data import augment
from levit_ablate.data.loader import Loader
from levit_ablate.data.stream import Mixing, Stream
from levit_ablate.errors import UserError
from levit_ablate.streams import stream_seed


class Batch(NamedTuple):
    """A shard's part of a step, B images."""

    images: Tensor
    """(B, C, side, side) float32, normalised, erased, mixed."""
    labels: Tensor
    """(B,) int64."""
    partner_labels: Tensor
    """(B,) int64: the labels of the images mixed in."""
    share: Tensor
    """(B,) float32: the weight of an image's own label; its partner's has the rest."""
    positions: Tensor
    """(B,) int64, on the CPU: positions in the epoch, the keys of a teacher's cached answers."""


def as_batch(given: Any) -> Batch:
    """Convert (images, labels) to a `Batch`; return a `Batch` as it is. Raises UserError."""
    if isinstance(given, Batch):
        return given
    if not (
        isinstance(given, list | tuple)
        and len(given) == 2
        and all(isinstance(each, Tensor) for each in given)
    ):
        raise UserError(
            f"a batch is (images, labels), two tensors, and not {type(given).__name__}; "
            f"let the DataLoader's collate_fn give that"
        )
    images, labels = given
    if labels.dtype != torch.int64 or labels.shape != (len(images),):
        raise UserError(
            f"labels are class numbers, ({len(images)},) int64, and not {tuple(labels.shape)} "
            f"{str(labels.dtype).removeprefix('torch.')}; mixed labels come with ImageData alone"
        )
    share = torch.ones(len(labels), device=labels.device)
    return Batch(images, labels, labels, share, torch.arange(len(labels)))


Plan = Sequence[tuple[int, Tensor]]
"""Batches to make, in order: a step, and the places of its batch, (B,) int64."""


class Source(Protocol):
    """Training images, augmented as far as that is done before normalising."""

    def follow(self, epoch: int, plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the planned batches: (B, C, h, w) uint8 and labels (B,) int64, on the device."""
        ...


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """From uint8 to a network's input: (x / 255 − mean) / deviation, resized to `side`."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    side: int

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, h, w) uint8 → (B, C, side, side) float32, bilinear where the side differs."""
        normal = augment.normalize(images, self.mean, self.deviation)
        size = (self.side, self.side)
        if normal.shape[-2:] == size:
            return normal
        return interpolate(normal, size=size, mode="bilinear", align_corners=False)


@dataclass(kw_only=True, eq=False)
class TrainingBatches:
    """The batches of a shard, from any point of the stream."""

    source: Source
    stream: Stream
    normalization: Normalization
    device: torch.device
    shard: tuple[int, int]
    """Number of this process, and how many there are."""
    parts: int
    """Batches that a process takes its part of a step in (gradient accumulation)."""
    position: Callable[[], tuple[int, int]]
    """Returns the epoch and its number of batches done, when iteration begins."""

    def __post_init__(self) -> None:
        index, count = self.shard
        shards = range(index * self.parts, (index + 1) * self.parts)
        self.places = [self.stream.shard(shard, count * self.parts) for shard in shards]
        image = len(self.normalization.mean) * self.normalization.side**2
        seed = stream_seed(self.stream.seed, "noise")
        self.noise = augment.noise_bank(seed, image).to(self.device)

    def __len__(self) -> int:
        """Number of batches in an epoch: steps times parts."""
        return self.stream.steps * self.parts

    def __iter__(self) -> Iterator[Batch]:
        """Yield the remaining batches (whole steps) of the epoch that `position` returns."""
        epoch, done = self.position()
        if done % self.parts:
            raise ValueError(f"{done} batches are no whole number of steps of {self.parts}")
        steps = range(done // self.parts, self.stream.steps)
        plan = [(step, places) for step in steps for places in self.places]
        source = self.source.follow(epoch, plan)
        for (step, places), (images, labels) in zip(plan, source, strict=True):
            yield self._batch(epoch, step, places, images, labels)

    def _batch(
        self, epoch: int, step: int, places: Tensor, images: Tensor, labels: Tensor
    ) -> Batch:
        recipe = self.stream.recipe
        finished = self.normalization(images)
        if recipe.erasing:
            draws = self.stream.draws("erasing", epoch, step, augment.ERASE_DRAWS)[places]
            finished = augment.erase(finished, draws.to(self.device), self.noise, recipe.erasing)
        partner_labels, share = labels, torch.ones(len(labels), device=self.device)
        if mixing := self.stream.mixing(epoch, step):
            finished, share = mixed(finished, mixing.at(places, self.device))
            partner_labels = labels.flip(0)
        positions = step * recipe.batch_size + places
        return Batch(finished, labels, partner_labels, share, positions)


@dataclass(eq=False)
class EvaluationBatches:
    """A shard's images in order: batches of (images (B, C, side, side) float32, labels (B,))."""

    batches: list[tuple[Tensor, Tensor]] | Loader
    """(images (B, C, h, w) uint8, labels (B,))."""
    normalization: Normalization

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.batches:
            yield self.normalization(images), labels


def mixed(images: Tensor, mixing: Mixing) -> tuple[Tensor, Tensor]:
    """Mix a batch with its mirror image: mixup (Zhang et al. 2018), cutmix (Yun et al. 2019).

    (B, C, H, W) → the mixed images, and the share (B,) that each keeps of itself and its label.
    Cutmix's rectangle is timm's: its centre uniform, its sides √(1 − share) of the image's, clipped
    to the image; the share is then the part of the image that it leaves.
    """
    height, width = images.shape[-2:]
    cut = _root(1 - mixing.share)
    rows = _inside(mixing.center[:, 0], cut, height)
    columns = _inside(mixing.center[:, 1], cut, width)
    outside = ~(rows[:, None, :, None] & columns[:, None, None, :])  # (B, 1, H, W)
    is_cutmix = mixing.is_cutmix[:, None, None, None]
    weight = torch.where(is_cutmix, outside.float(), mixing.share[:, None, None, None])
    share = torch.where(mixing.is_cutmix, outside.float().mean(dim=(1, 2, 3)), mixing.share)
    # lerp is exact where the weight is 0 or 1
    return torch.lerp(images.flip(0), images, weight), share


def _root(value: Tensor) -> Tensor:
    """Square root, rounded to the nearest float32: torch's own is not for a fifth of the values."""
    exact = torch.float32 if value.device.type == "mps" else torch.float64  # MPS has no other
    return value.to(exact).sqrt().float()


def _inside(center: Tensor, cut: Tensor, side: int) -> Tensor:
    """Tell which of `side` pixels the rectangles cover: (B,), (B,) → (B, side) bool."""
    middle, length = (center * side).int()[:, None], (cut * side).int()[:, None]
    pixels = torch.arange(side, device=center.device)
    return (pixels >= middle - length // 2) & (pixels < middle + (length + 1) // 2)
