"""Named random streams: each use of a run's seed has a stream of its own."""

from __future__ import annotations

import hashlib


def stream_seed(seed: int, *names: str | int) -> int:
    """Return the seed of a named stream, for torch or numpy (63 bits).

    Streams are independent: drawing more from one never shifts another.
    `stream_seed(0, "initialization", "head.layer")` is the same in every variant with that layer.
    """
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
