"""Timing several ways of doing the same in turn, so that a noisy machine is noisy for all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def rates(ways: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Items a second of each way: the median over rounds, in each of which every way has its turn.

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
