"""A study on a real Ray cluster of two nodes, one of which is killed while it runs."""

from __future__ import annotations

import gc
import signal
import time
from collections import Counter

import pytest
from clusters import lose_a_node, two_nodes
from mlflow import MlflowClient
from networks import write_small
from processes import levit_ablate, result_of, wait_for
from recorded import children, runs, tag

from levit_ablate.experiment import variant
from levit_ablate.runner.job import Job, Outcome, Question, Station, work
from levit_ablate.runner.ray import Mailbox, RayLauncher, _work

pytest.importorskip("ray", reason="Ray is an extra: pip install 'levit-ablate[ray]'")

SWEEP = """
sweep paper --variants no_patch_conv --seeds 2 --recipe smoke --recipe.epochs 8
--design.distillation none --hardware.accelerator cpu --format json --architecture small.yaml
--launcher ray
""".split()


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one cluster; one at most once a test has lost the other."""
    with two_nodes() as made:
        yield made


def test_a_study_survives_the_loss_of_a_node(cluster, tmp_path):
    write_small(tmp_path)
    process = levit_ablate(*SWEEP, "--address", cluster.address)
    wait_for(lambda: len(list(tmp_path.rglob("last.ckpt"))) == 2, process)  # one on each node
    lose_a_node(cluster)
    result = result_of(process)
    assert len(process.said()[0].splitlines()) == 1  # what Ray says is elsewhere
    assert result["complete"] and [row["n"] for row in result["rows"]] == [2, 2]
    keys = Counter(tag(run, "key") for run in children(tmp_path))
    assert len(keys) == 4 and set(keys.values()) == {1}  # nothing is lost, nothing run twice
    assert {run.info.status for run in runs(tmp_path)} == {"FINISHED"}
    for run in children(tmp_path):
        history = MlflowClient().get_metric_history(run.info.run_id, "val_loss")
        assert [metric.step for metric in history] == list(range(8))


def test_a_process_of_rays_keeps_nothing_of_a_job_that_has_ended():
    class Network:
        """Part of a cycle, as Lightning's are."""

        def __init__(self) -> None:
            self.trainer = self

    def works(job, station, driver) -> Outcome:
        Network()
        return Outcome()

    gc.disable()
    try:
        _work(works, Job(variant=variant("no_distillation", {})), Station(uri=""), None)
        assert not any(isinstance(each, Network) for each in gc.get_objects())
    finally:
        gc.enable()


def test_a_question_stays_in_the_mailbox_until_it_is_answered():
    mailbox = Mailbox()
    mailbox.ask("trial 1", Question((0.5,)))
    assert mailbox.emptied() == mailbox.emptied() == [("trial 1", Question((0.5,)))]
    assert mailbox.answered("trial 1") is None
    mailbox.answer("trial 1", False)
    assert mailbox.answered("trial 1") is False and mailbox.emptied() == []
    mailbox.ask("trial 1", Question((0.5,)))  # started again, after its machine was lost
    assert mailbox.answered("trial 1") is None


def test_ray_leaves_the_signals_to_the_command(cluster):
    before = signal.getsignal(signal.SIGTERM)
    launcher = RayLauncher(work, Station(uri="sqlite:///mlflow.db"), cluster.address, 1, 1, False)
    try:
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        launcher.close()


def test_a_cluster_that_is_not_there_is_a_line(tmp_path):
    write_small(tmp_path)
    started = time.monotonic()
    process = levit_ablate(*SWEEP, "--address", "127.0.0.1:9")
    _, err = process.communicate(200)
    assert process.returncode == 2, err
    assert err.splitlines()[-1].startswith("levit-ablate: --address: no Ray cluster is to be had")
    assert time.monotonic() - started < 120
