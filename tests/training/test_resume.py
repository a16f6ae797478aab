"""A training killed at any moment goes on, and ends as an uninterrupted one, to the last bit."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from processes import Started, levit_ablate, wait_for

# all that is random: order, crops, RandAugment, erasing, mixing, drop path; the average; a teacher
RUN = """
--no-baseline --format json --hardware.accelerator cpu --hardware.num_threads 1
--recipe.epochs 4 --recipe.batch_size 32 --recipe.warmup_epochs 1 --recipe.ema_decay 0.9
--recipe.crop true --recipe.rand_augment rand-m5-mstd0.5-inc1 --recipe.erasing 0.3
--recipe.mixup 0.5 --recipe.cutmix 0.5 --recipe.repeats 2 --recipe.clipping adaptive
--architecture small.yaml --teacher.recipe.epochs 1 --teacher.recipe.warmup_epochs 0.5
""".split()

ARCHITECTURE = """
stages: [{depth: 1, width: 16, num_heads: 1}, {depth: 2, width: 32, num_heads: 2}]
value_dim: 16
stem_depth: 3
drop_path: 0.2
"""


def start(folder: Path, ablation: str = "no_attention_bias") -> Started:
    (folder / "small.yaml").write_text(ARCHITECTURE)
    return levit_ablate("run", ablation, *RUN, cwd=folder)


def finished(process: Started) -> dict:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def outcome(folder: Path, run_id: str) -> tuple[dict, dict]:
    """All curves of a run, epoch by epoch, and its weights."""
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    client = MlflowClient()
    names = [name for name in client.get_run(run_id).data.metrics if "seconds" not in name]
    found = {n: client.get_metric_history(run_id, n) for n in names}
    network = mlflow.pytorch.load_model(f"runs:/{run_id}/model")
    return {n: [(m.step, m.value) for m in h] for n, h in found.items()}, network.state_dict()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[Path, tuple[dict, dict]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    result = finished(start(folder))
    return folder, outcome(folder, result["run_id"])


def files(folder: Path, pattern: str) -> list[Path]:
    return list((folder / ".levit_ablate").rglob(pattern))


def assert_the_same(folder: Path, expected: tuple[dict, dict]) -> float:
    """Go on; return the seconds that were recorded."""
    result = finished(start(folder))
    assert result["trained"]
    curves, weights = outcome(folder, result["run_id"])
    assert curves == expected[0]  # no epoch lost, none recorded twice
    for name, value in expected[1].items():
        assert value.equal(weights[name]), name
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert [run.info.status for run in runs] == ["FINISHED"]  # it is the same run
    assert not files(folder, "*.ckpt") and not files(folder, "*.tmp")
    return result["seconds"]


@pytest.mark.parametrize("moment", ["teacher", "first epoch", "third epoch"])
def test_after_sigkill_a_run_ends_with_the_same_bits(uninterrupted, tmp_path, moment):
    conditions = {
        "teacher": lambda: files(tmp_path, "teachers/*.lock"),
        "first epoch": lambda: files(tmp_path, "answers/*/epoch_0000.npy"),
        "third epoch": lambda: files(tmp_path, "answers/*/epoch_0002.npy"),
    }
    process = start(tmp_path)
    wait_for(conditions[moment], process)
    time.sleep(0.3)
    process.kill()
    assert_the_same(tmp_path, uninterrupted[1])


def test_sigterm_leaves_a_checkpoint_of_the_step_it_came_in(uninterrupted, tmp_path):
    began = time.perf_counter()
    process = start(tmp_path)
    wait_for(lambda: files(tmp_path, "answers/*/epoch_0001.npy"), process)
    time.sleep(0.4)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; what was recorded is kept" in err
    (last,) = files(tmp_path, "runs/*/last.ckpt")
    step = torch.load(last, weights_only=False)["global_step"]
    assert step % 37 != 0  # within an epoch of 1,090 // 32 or 37 steps, not at its end
    assert 0 < assert_the_same(tmp_path, uninterrupted[1]) < time.perf_counter() - began


IN_THE_LAST_STEP = """
import os, signal
from levit_ablate.cli.main import main
from levit_ablate.training.module import LeViTModule
log_loss = LeViTModule.log_loss
def interrupted(self, loss):
    is_last = self.trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    if is_last and self.trainer.current_epoch == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    log_loss(self, loss)
LeViTModule.log_loss = interrupted
main()
"""


def test_sigterm_in_the_last_step_of_an_epoch_loses_no_epoch(uninterrupted, tmp_path):
    (tmp_path / "small.yaml").write_text(ARCHITECTURE)
    process = Started(IN_THE_LAST_STEP, "run", "no_attention_bias", *RUN, cwd=tmp_path)
    assert process.wait() == 130, process.said()
    assert_the_same(tmp_path, uninterrupted[1])


def test_answers_are_shared_by_the_variants_of_a_seed_and_computed_once(uninterrupted):
    folder, _ = uninterrupted
    before = {path: path.stat().st_mtime_ns for path in files(folder, "answers/*/*.npy")}
    assert len(before) == 4
    finished(start(folder, "no_hardswish"))
    assert {p: p.stat().st_mtime_ns for p in files(folder, "answers/*/*.npy")} == before
