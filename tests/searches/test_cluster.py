"""A search on a real Ray cluster of two nodes, its trials in a real PostgreSQL."""

from __future__ import annotations

import postgresql
import pytest
from clusters import lose_a_node, two_nodes
from processes import result_of, wait_for
from recorded import runs, trained
from searching import LONG, search

pytest.importorskip("ray", reason="Ray is an extra: pip install 'levit-ablate[ray]'")


def test_a_search_survives_the_loss_of_a_node(tmp_path):
    with postgresql.server() as url, two_nodes() as cluster:
        words = ("--launcher", "ray", "--address", cluster.address, "--storage", url)
        words += ("--recipe.epochs", "40")  # the nodes do not begin at once
        process = search(tmp_path, *LONG, *words)
        wait_for(lambda: len(list(tmp_path.rglob("last.ckpt"))) == 2, process)  # one on each node
        lose_a_node(cluster)
        printed = result_of(process)
    assert printed["counts"] == {"complete": 3}
    assert len(trained(tmp_path)) == 3 and set(trained(tmp_path).values()) == {1}
    assert not [run for run in runs(tmp_path) if run.info.status == "RUNNING"]
