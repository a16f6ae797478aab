"""Checkpoints are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import Started

from levit_ablate.errors import RunError
from levit_ablate.experiment import variant
from levit_ablate.training.fit import fit
from levit_ablate.training.module import LeViTModule
from levit_ablate.training.train import check_conditions


def test_a_damaged_checkpoint_is_named():
    shown = variant("no_distillation", {"recipe": {"epochs": 1, "warmup_epochs": 0.5}})
    data = check_conditions(shown.experiment)
    Path("run").mkdir()
    Path("run/last.ckpt").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"run/last\.ckpt: is damaged; remove run, and"):
        fit(LeViTModule(), data, Path("run"), [])


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_a_line_and_the_last_one_stays(tmp_path):
    code = """
import resource, torch
from levit_ablate.errors import RunError
from levit_ablate.training.fit import AtomicCheckpoints
save = AtomicCheckpoints().save_checkpoint
save({"epoch": 1}, "last.ckpt")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save({"epoch": 2, "weights": torch.zeros(100_000)}, "last.ckpt")
except RunError as error:
    print(error)
print(torch.load("last.ckpt"))
"""
    said, kept = Started(code).communicate()[0].splitlines()
    assert said.startswith("last.ckpt: the checkpoint cannot be written: ")
    assert kept == "{'epoch': 1}"
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
