"""What starts the jobs of a study or a search, as the options of `launch_options` say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from levit_ablate.config import Hardware
from levit_ablate.errors import UserError
from levit_ablate.runner.job import Station, Work
from levit_ablate.runner.local import LocalLauncher
from levit_ablate.runner.loop import Launcher


def launcher(
    work: Work, hardware: Hardware, uri: str, options: Mapping[str, Any], word: str
) -> Launcher:
    """Local processes, or a Ray cluster. Raises UserError where there are no such places.

    Args:
        work: does a job.
        hardware: what a job runs on.
        uri: the store that jobs record in.
        options: the user's.
        word: the option that says how many at once, as in `add_launcher`.
    """
    station = Station(uri=uri)
    on_gpu = hardware.accelerator != "cpu"
    jobs, per_device = options.get("jobs", 0), options.get("jobs_per_device", 1)
    if options.get("launcher") == "ray":
        from levit_ablate.runner.ray import RayLauncher  # an extra

        return RayLauncher(work, station, options.get("address"), jobs, per_device, on_gpu)
    gpus = torch.cuda.device_count() if on_gpu else 0
    check_places(jobs, per_device, gpus, word)
    return LocalLauncher(work, station, jobs, per_device, gpus, Path(hardware.work_dir) / "logs")


def check_places(jobs: int, per_device: int, gpus: int, word: str) -> None:
    """Refuse more at once on this machine than its GPUs have places for. Raises UserError."""
    if gpus and jobs > gpus * per_device:
        raise UserError(
            f"--{word}: {gpus} GPUs have places for {gpus * per_device}, not for {jobs}; "
            f"--jobs-per-device {math.ceil(jobs / gpus)} makes room"
        )
    if per_device > 1 and not gpus:
        raise UserError(
            f"--jobs-per-device: there is no GPU to be shared; --{word} says how many at once"
        )
