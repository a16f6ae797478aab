"""A study on a real Ray cluster of two nodes, one of which is killed while it runs."""

from __future__ import annotations

import subprocess

import pytest
from processes import levit_ablate, wait_for

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'levit-ablate[ray]'")
cluster_utils = pytest.importorskip("ray.cluster_utils")

SWEEP = """
sweep paper --variants no_attention_bias,no_patch_conv --seeds 2 --recipe smoke --recipe.epochs 6
--design.distillation none --hardware.accelerator cpu --format json
""".split()


@pytest.fixture
def cluster():
    """Two nodes of this machine, each with room for one job."""
    made = cluster_utils.Cluster()
    made.add_node(num_cpus=1, object_store_memory=100_000_000)
    made.add_node(num_cpus=1, object_store_memory=100_000_000)
    yield made
    made.shutdown()
    subprocess.run(["ray", "stop", "--force"], capture_output=True, check=False)


def test_a_study_survives_the_loss_of_a_node(cluster, tmp_path):
    options = ("--launcher", "ray", "--address", cluster.address)
    process = levit_ablate(*SWEEP, *options)
    wait_for(lambda: len(list(tmp_path.rglob("last.ckpt"))) == 2, process)
    cluster.remove_node(
        cluster.worker_nodes and next(iter(cluster.worker_nodes)), allow_graceful=False
    )
    out, err = process.communicate(500)
    assert process.returncode == 0, err
    print(out, err)
