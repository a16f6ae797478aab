"""The whole: everything that decides a run's outcome, and the hardware."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from levit_ablate.config.checks import check_literals, check_range
from levit_ablate.config.design import Architecture, Design
from levit_ablate.config.training import Data, Recipe, Teacher
from levit_ablate.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where it runs. No part of an experiment's key, but for the images that a BatchNorm sees."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """The kind of device; `auto` takes a GPU where there is one."""

    devices: int = 1
    """Devices of a host. They share the recipe's batch."""

    num_nodes: int = 1
    """Hosts."""

    accumulate: int = 1
    """Parts that a device takes its share of a batch in, one after the other, to fit in memory."""

    sync_batchnorm: bool = False
    """BatchNorm over the whole batch, not a device's share of it."""

    compile: bool = False
    """Compile the network with torch.compile."""

    num_threads: int = 0
    """CPU threads of torch. 0: one for networks under ten million multiply-adds, which gain nothing
    from a second, and torch's own choice for larger ones."""

    num_workers: int = -1
    """Processes of a device that decode images from files; -1: as many as there are cores for.
    Images that fit in memory need none."""

    work_dir: str = ".levit_ablate"
    """Folder of what outlives a run: checkpoints of unfinished runs, teachers and their answers,
    indexes of image folders. Processes that share it share the work."""

    def __post_init__(self) -> None:
        check_literals(self)
        check_range(self, 0, "num_threads")
        check_range(self, 1, "devices", "num_nodes", "accumulate")
        check_range(self, -1, "num_workers")
        if not self.work_dir.strip():
            raise UserError("hardware.work_dir: is empty; name a folder")


Match = Literal["none", "flops", "params"]
"""Whose cost a variant's geometry is rescaled to: nobody's, or the baseline's."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides the outcome of a run, and the hardware, which does not."""

    model: str = "levit_nano"
    """The geometry to start from, of the ablation and of its baseline: a model's name, of those
    that ship or of a file in ./ablations/models."""

    architecture: Architecture | None = None
    """The geometry itself, in place of the model's, for the ablation and for its baseline."""

    design: Design = field(default_factory=Design)
    """The design choices."""

    match: Match = "none"
    """Rescale widths and key dimensions until this cost is the baseline's again. Unless set, what
    the ablation's file says."""

    data: Data = field(default_factory=Data)
    """The images."""

    recipe: Recipe = field(default_factory=Recipe)
    """The training."""

    teacher: Teacher = field(default_factory=Teacher)
    """Who answers for the distilled head."""

    seed: int = 0
    """Seed of the initialisation, and of the data stream."""

    hardware: Hardware = field(default_factory=Hardware)
    """Where it runs."""

    def __post_init__(self) -> None:
        check_literals(self)
        check_range(self, 0, "seed", high=2**32 - 1)


OWN_GEOMETRY = "own geometry"
"""The model of an experiment whose geometry was given and is no model's."""

VARIANT_KEYS = ("design", "match")
"""The parts of an experiment that make the variant; all others it shares with its baseline, the
geometry before matching too."""


def differences(first: Any, second: Any) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configs of one class differ: name → (first's value, second's)."""
    pairs = {f.name: (getattr(first, f.name), getattr(second, f.name)) for f in fields(first)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
