"""A worker on a machine that lacks what its job needs ends with one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from levit_ablate.data.datamodule import served
from levit_ablate.experiment import variant
from levit_ablate.runner.job import Job, Outcome, Station, work
from levit_ablate.tracking.runs import of_key


class Nobody:
    """A driver that hears nothing."""

    def tell(self, status: object) -> None: ...

    def go_on(self, curve: object) -> bool:
        return True


def outcome_of(job: Job, store: str) -> Outcome:
    outcome = work(job, Station(uri=store, num_threads=torch.get_num_threads()), Nobody())
    assert outcome.kind == "UserError" and "\n" not in outcome.error
    assert of_key(job.variant.key) == []
    return outcome


def jobs_of(given: dict) -> list[Job]:
    """The job of a variant, and that of its teacher."""
    wanted, parent = variant("baseline", given), MlflowClient().create_run("0").info.run_id
    return [Job(variant=wanted, parent=parent, only_teacher=each) for each in (False, True)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_the_gpu_that_was_asked_for_is_a_line(store):
    for job in jobs_of({"hardware": {"accelerator": "gpu"}}):
        assert outcome_of(job, store).error.startswith("hardware.accelerator: gpu: torch finds")


def test_a_machine_without_the_folder_of_images_is_a_line(store, tmp_path):
    images = tmp_path / "images"
    for part, label, number in (
        (p, c, n) for p in ("train", "val") for c in "ab" for n in range(9)
    ):
        (images / part / label).mkdir(parents=True, exist_ok=True)
        pixels = numpy.full((32, 32, 3), 10 * number, numpy.uint8)
        Image.fromarray(pixels).save(images / part / label / f"{number}.png")
    jobs = jobs_of({"data": {"name": "folder", "root": str(images), "image_size": 32}})
    shutil.rmtree(images)
    served.cache_clear()
    for job in jobs:
        error = outcome_of(job, store).error
        assert error.startswith("data.root: ") and str(images) in error


def test_a_machine_without_the_teachers_weights_is_a_line(store):
    Path("weights.pt").write_bytes(b"")
    (job, _) = jobs_of({"teacher": {"weights": "weights.pt"}})
    assert outcome_of(job, store).error.startswith("teacher.weights: weights.pt does not hold")
