"""What tests of processes that decode share."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import pytest


@pytest.fixture
def children() -> Callable[[], list[BaseProcess]]:
    """List the live processes that the test has started; another's may outlive it in a cache."""
    before = set(multiprocessing.active_children())
    return lambda: [child for child in multiprocessing.active_children() if child not in before]
