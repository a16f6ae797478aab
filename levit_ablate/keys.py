"""The names by which results are found again: hashes of what decides them, and of nothing else.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from levit_ablate.config import Experiment, Hardware, Recipe
from levit_ablate.errors import UserError
from levit_ablate.serialization import to_mapping

KEYLESS = ("model", "match", "hardware")
"""The parts of an explicit experiment that do not change its outcome."""
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
    mapping = {k: v for k, v in to_mapping(experiment).items() if k not in KEYLESS}
    mapping["data"] = _data(experiment, experiment.seed)
    mapping["order"] = _order(experiment.recipe)
    del mapping["teacher"]
    if experiment.design.distillation != "none":
        mapping["teacher"] = teacher_key(experiment)
    if experiment.design.distillation == "soft":
        mapping["top_k"] = experiment.teacher.top_k
    if experiment.design.norm == "batch":
        mapping["norm_batch_size"] = norm_batch_size(experiment.recipe, experiment.hardware)
    return hashed(mapping)


def teacher_key(experiment: Experiment) -> str:
    """The name of an experiment's teacher, whatever the seeds of the experiment.

    Of its weights' origin; and for one that is trained here, of its recipe, the dataset, and the
    number of images that a BatchNorm sees. Raises UserError as `key_of`.
    """
    teacher = experiment.teacher
    mapping: dict[str, Any] = {"model": teacher.model, "weights": teacher.weights}
    if teacher.weights == "trained":
        mapping["recipe"] = to_mapping(experiment)["teacher"]["recipe"]
        mapping["order"] = _order(teacher.recipe)
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
    recipe = to_mapping(experiment)["recipe"]
    return hashed(
        {
            "data": _data(experiment, experiment.seed),
            "recipe": {name: recipe[name] for name in STREAM},
            "order": _order(experiment.recipe),
            "versions": dict(versions),
        }
    )


def norm_batch_size(recipe: Recipe, hardware: Hardware) -> int:
    """Images that a BatchNorm takes its statistics over."""
    devices = 1 if hardware.sync_batchnorm else hardware.devices * hardware.num_nodes
    return recipe.batch_size // (devices * hardware.accumulate)


def _order(recipe: Recipe) -> int | None:
    """The version of a stream's order of images (`data.stream.Stream.order`); None for the first.

    The first mixed two views of one image where a batch is not made of two halves of whole images.
    """
    return 2 if recipe.repeats > 1 and recipe.batch_size % (2 * recipe.repeats) else None


def hashed(mapping: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of plain data; equal numbers hash alike, and keys in any order."""
    text = json.dumps(_floats(mapping), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _data(experiment: Experiment, seed: int) -> dict[str, Any]:
    mapping = to_mapping(experiment)["data"]
    own = {name: value for name, value in mapping.items() if name not in PLACES}
    return {**own, "seed": seed if own["seed"] is None else own["seed"]}


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
