"""A study on a real Ray cluster of two nodes, one of which is killed while it runs."""

from __future__ import annotations

import json
import time
from collections import Counter

import mlflow
import pytest
from mlflow import MlflowClient
from processes import Started, levit_ablate, wait_for

pytest.importorskip("ray", reason="Ray is an extra: pip install 'levit-ablate[ray]'")

SWEEP = """
sweep paper --variants no_attention_bias,no_patch_conv --seeds 2 --recipe smoke --recipe.epochs 8
--design.distillation none --hardware.accelerator cpu --format json --architecture small.yaml
--launcher ray
""".split()
ARCHITECTURE = """
stages: [{depth: 1, width: 16, num_heads: 1}, {depth: 1, width: 32, num_heads: 2}]
value_dim: 16
stem_depth: 3
"""


@pytest.fixture
def cluster():
    """Two nodes of this machine, each with room for one job."""
    from ray.cluster_utils import Cluster

    soon = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    made = Cluster(initialize_head=True, head_node_args={**NODE, "_system_config": soon})
    made.add_node(**NODE)
    yield made
    made.shutdown()


NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


def result_of(process: Started) -> dict:
    out, err = process.communicate(400)
    assert process.returncode == 0, err
    (line,) = out.splitlines()  # what Ray says is elsewhere
    return json.loads(line)


def test_a_study_survives_the_loss_of_a_node(cluster, tmp_path):
    (tmp_path / "small.yaml").write_text(ARCHITECTURE)
    process = levit_ablate(*SWEEP, "--address", cluster.address)
    wait_for(lambda: len(list(tmp_path.rglob("last.ckpt"))) == 2, process)  # one on each node
    (lost,) = cluster.worker_nodes
    lost.kill_raylet()
    for kind in list(lost.all_processes):
        for each in lost.all_processes.get(kind, []):
            each.process.kill()
    result = result_of(process)
    assert result["complete"] and [row["n"] for row in result["rows"]] == [2, 2, 2]
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    trained = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    keys = Counter(run.data.tags["levit_ablate.key"] for run in trained)
    assert len(keys) == 6 and set(keys.values()) == {1}  # nothing is lost, nothing run twice
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in trained:
        history = MlflowClient().get_metric_history(run.info.run_id, "val_loss")
        assert [metric.step for metric in history] == list(range(8))


def test_a_cluster_that_is_not_there_is_a_line(tmp_path):
    (tmp_path / "small.yaml").write_text(ARCHITECTURE)
    started = time.monotonic()
    process = levit_ablate(*SWEEP, "--address", "127.0.0.1:9")
    _, err = process.communicate(200)
    assert process.returncode == 2, err
    assert err.splitlines()[-1].startswith("levit-ablate: --address: no Ray cluster is to be had")
    assert time.monotonic() - started < 120
