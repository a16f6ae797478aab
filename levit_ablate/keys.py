"""The names by which results are found again: hashes of what decides them, and of nothing else.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from levit_ablate.config import Experiment, Hardware, Recipe
from levit_ablate.errors import UserError

VERSION = 2
"""Raised when the same settings come to another result, or a default changes: results that were
recorded under an earlier version are not found again. Since version 2 adaptive clipping has the
official code's units, only floating-point state is averaged, what is evaluated is a setting, and
partners in mixing are never two views of one image."""
PLACES = ("root", "on_error")
"""Fields of `Data` that say where images lie; which they are is in its fingerprint."""
STREAM = (
    "batch_size", "crop", "flip", "color_jitter", "rand_augment", "erasing", "mixup", "cutmix",
    "cutmix_probability", "mixing_group", "repeats", "precision",
)  # fmt: skip
"""Fields of `Recipe` that decide what a teacher sees, and in which precision it answers."""
NO_WEIGHTS = "teacher.weights: {} is neither trained nor pretrained, nor a file that can be read"


def key_of(experiment: Experiment) -> str:
    """16 hexadecimal digits that two runs share only if nothing that matters differs.

    The hash of the explicit experiment, seed included; not of its name, nor of the hardware, but
    for the number of images that a BatchNorm sees. Settings of the recipe count even where others
    make them idle. Raises UserError where the teacher's weights are a file that cannot be read.
    """
    mapping = {
        "architecture": changed(experiment.architecture),
        "design": changed(experiment.design),
        "recipe": changed(experiment.recipe),
        "data": _data(experiment, experiment.seed),
        "seed": experiment.seed,
    }
    if experiment.design.distillation != "none":
        mapping["teacher"] = teacher_key(experiment)
    if experiment.design.distillation == "soft":
        mapping["top_k"] = experiment.teacher.top_k
    if "batch" in (experiment.design.norm, experiment.design.stem_norm):
        mapping["norm_batch_size"] = norm_batch_size(experiment.recipe, experiment.hardware)
    return hashed(mapping)


def teacher_key(experiment: Experiment) -> str:
    """The name of an experiment's teacher, whatever the seeds of the experiment.

    The hash of its weights' origin; and for one that is trained here, of its recipe, the dataset,
    and the number of images that a BatchNorm sees. Raises UserError as `key_of`.
    """
    teacher = experiment.teacher
    mapping: dict[str, Any] = {"model": teacher.model, "weights": teacher.weights}
    if teacher.weights == "trained":
        mapping["recipe"] = changed(teacher.recipe)
        mapping["data"] = _data(experiment, seed=0) | {"seed": 0}
        mapping["norm_batch_size"] = norm_batch_size(teacher.recipe, experiment.hardware)
    elif teacher.weights != "pretrained":
        mapping["weights"] = _digest(Path(teacher.weights))
    return hashed(mapping)


def stream_key(experiment: Experiment, versions: Mapping[str, str]) -> str:
    """The name of what a model sees in every epoch, however many there are.

    Args:
        experiment: of it, the data, the data seed and the recipe's augmentation count.
        versions: of the packages that make the pixels.
    """
    recipe = changed(experiment.recipe)
    return hashed(
        {
            "data": _data(experiment, experiment.seed),
            "recipe": {name: value for name, value in recipe.items() if name in STREAM},
            "versions": dict(versions),
        }
    )


def norm_batch_size(recipe: Recipe, hardware: Hardware) -> int:
    """Images that a BatchNorm takes its statistics over."""
    devices = 1 if hardware.sync_batchnorm else hardware.devices * hardware.num_nodes
    return recipe.batch_size // (devices * hardware.accumulate)


def changed(value: Any) -> Any:
    """A config as plain data, without the fields that stand at their default.

    They are in no key, so that a field that is added later leaves the keys of what was recorded
    before as they are.
    """
    if is_dataclass(value):
        own = {field: getattr(value, field.name) for field in fields(value)}
        return {f.name: changed(each) for f, each in own.items() if each != f.default}
    return [changed(each) for each in value] if isinstance(value, tuple) else value


def hashed(mapping: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of plain data; equal numbers hash alike, and keys in any order."""
    text = json.dumps(_floats({"version": VERSION, **mapping}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _data(experiment: Experiment, seed: int) -> dict[str, Any]:
    own = changed(experiment.data)
    given = {name: value for name, value in own.items() if name not in PLACES}
    return {"seed": seed, **given}


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{NO_WEIGHTS.format(path)} ({error.strerror})") from error


def _floats(value: Any) -> Any:
    """Every number as a float that equal numbers share: 2 as 2.0, and -0.0 as 0.0.

    What is not set is left out: a key stays what it was before there was such a setting.
    """
    if isinstance(value, Mapping):
        return {key: _floats(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_floats(item) for item in value]
    return float(value) + 0.0 if type(value) in (int, float) else value
