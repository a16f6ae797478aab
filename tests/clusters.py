"""A real Ray cluster of two nodes of this machine, one of which can be lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from levit_ablate.signals import keeping_handlers

NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


@contextlib.contextmanager
def two_nodes() -> Iterator[Any]:
    """Each has room for one job."""
    from ray.cluster_utils import Cluster

    soon = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    with keeping_handlers():
        made = Cluster(initialize_head=True, head_node_args={**NODE, "_system_config": soon})
        made.add_node(**NODE)
    try:
        yield made
    finally:
        made.shutdown()


def lose_a_node(cluster: Any) -> None:
    """With all that is at work there, as if its machine were gone."""
    (lost,) = cluster.worker_nodes
    lost.kill_raylet()
    for kind in list(lost.all_processes):
        for each in lost.all_processes.get(kind, []):
            each.process.kill()
