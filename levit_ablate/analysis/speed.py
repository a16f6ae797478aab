"""Inference speed of networks, measured as in the paper: batch norms folded, warmed up.

On a CPU one thread and batches of 16 (paper, Table 3); on a GPU batches of 256 in float16, as in
the paper. Latency is that of one image. Every round times all networks in turn.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from levit_ablate.experiment import Variant
from levit_ablate.models.folding import fold_batch_norms
from levit_ablate.models.levit import LeViT
from levit_ablate.runtime import device_of

CPU_BATCH, GPU_BATCH = 16, 256
ROUNDS = 3
SHORTEST = 0.05
"""Least seconds for which a network is timed in a round."""


class Speed(NamedTuple):
    """Inference speed of a network."""

    throughput: float
    """Images a second."""
    latency: float
    """Seconds for one image."""


def measure(variants: Sequence[Variant]) -> tuple[dict[str, Speed], str]:
    """Return each variant's speed by its name, and the hardware in words."""
    on_gpu = device_of(variants[0].experiment.hardware).type == "cuda"
    device = torch.device("cuda" if on_gpu else "cpu")
    dtype = torch.float16 if on_gpu else torch.float32
    batch = GPU_BATCH if on_gpu else CPU_BATCH
    ways: dict[str, Callable[[], int]] = {}
    for variant in variants:
        images = variant.images
        network = LeViT(variant.architecture, variant.experiment.design, images)
        folded = fold_batch_norms(network).to(device, dtype)
        for kind, size in (("batch", batch), ("one", 1)):
            shape = (size, images.channels, images.height, images.width)
            ways[f"{kind} {variant.name}"] = _timed(
                folded, torch.randn(shape, device=device, dtype=dtype)
            )
    with threads(torch.get_num_threads() if on_gpu else 1):
        measured = rates(ways, ROUNDS)
    speeds = {
        v.name: Speed(measured[f"batch {v.name}"], 1 / measured[f"one {v.name}"]) for v in variants
    }
    name = torch.cuda.get_device_name(0) if on_gpu else f"one thread of {platform.machine()}"
    return speeds, f"batch {batch}, {name}, torch {torch.__version__}"


def _timed(network: nn.Module, images: torch.Tensor) -> Callable[[], int]:
    """Return a function that passes the batch for a while, and returns how many images that was."""

    def run() -> int:
        until = time.perf_counter() + SHORTEST
        count = 0
        with torch.inference_mode():
            while not count or time.perf_counter() < until:
                network(images)
                if images.is_cuda:
                    torch.cuda.synchronize()
                count += len(images)
        return count

    return run


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use that many CPU threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rates(ways: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Items a second of each way: the median over rounds.

    In a round every way has its turn, so that a noisy machine is noisy for all.

    Args:
        ways: do something, and tell how many items it was.
        rounds: how often; one more comes first, to warm up.
    """
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            items = way()
            if number:
                measured[name].append(items / (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in measured.items()}
