"""A trial of a search, as it ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Found:
    """A trial of a search, as it ended."""

    number: int
    state: Literal["complete", "pruned", "invalid", "failed", "running", "waiting"]
    params: Mapping[str, Any]
    accuracy: float | None
    """On the validation images, from 0 to 1; of a pruned trial the last that was reported."""
    flops: int | None
    num_params: int | None
    latency: float | None
    """Seconds for an image."""
    ablation: str
    """Its name, where it was enqueued by name; else empty."""
    seconds: float
    error: str
    key: str

    @property
    def has_ended(self) -> bool:
        """Whether it is one of the trials that were asked for, and is not tried again."""
        return self.state in ("complete", "pruned") or (self.state == "failed" and self.error != "")

    @property
    def name(self) -> str:
        """Of its network: an ablation's where it was enqueued as one."""
        return self.ablation or f"trial {self.number}"


def counts_of(found: Sequence[Found]) -> Counter[str]:
    """How many trials ended how; those that were tried again are not counted."""
    return Counter(each.state for each in found if each.state != "failed" or each.error)
