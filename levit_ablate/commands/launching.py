"""What starts the jobs of a study or a search, as the options of `launch_options` say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from levit_ablate.config import Hardware
from levit_ablate.studies.local import LocalLauncher
from levit_ablate.studies.orders import J, Launcher, Station, Work


def launcher(
    work: Work[J], hardware: Hardware, uri: str, options: Mapping[str, Any]
) -> Launcher[J]:
    """Local processes, or a Ray cluster. Raises UserError where there are no such places.

    Args:
        work: does a job.
        hardware: what a job runs on.
        uri: the store that jobs record in.
        options: the user's.
    """
    station = Station(uri=uri)
    on_gpu = hardware.accelerator != "cpu"
    jobs, per_device = options.get("jobs", 0), options.get("jobs_per_device", 1)
    if options.get("launcher") == "ray":
        from levit_ablate.studies.cluster import RayLauncher  # an extra

        return RayLauncher(work, station, options.get("address"), jobs, per_device, on_gpu)
    gpus = torch.cuda.device_count() if on_gpu else 0
    return LocalLauncher(work, station, jobs, per_device, gpus, Path(hardware.work_dir) / "logs")
