"""Keys under which results are found again: hashes of all that decides them, and nothing else.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from levit_ablate.config import Experiment, Hardware, Recipe
from levit_ablate.errors import UserError

VERSION = 2
"""Raised when the same settings come to another result, or a default changes: results that were
recorded under an earlier version are not found again, but for those of `key_of_version_1`."""
PLACES = ("root", "on_error")
"""Fields of `Data` that say where images lie; which they are is in its fingerprint."""
STREAM = (
    "batch_size", "crop", "flip", "color_jitter", "rand_augment", "erasing", "mixup", "cutmix",
    "cutmix_probability", "mixing_group", "repeats", "precision",
)  # fmt: skip
"""Fields of `Recipe` that decide what a teacher sees, and in which precision it answers."""
SINCE_VERSION_1 = ("stem_norm", "linear_init", "ema_horizon", "evaluate")
"""Fields of configs that version 1 did not know; a field that is added joins them."""
NO_WEIGHTS = "teacher.weights: {} is neither trained nor pretrained, nor a file that can be read"

Said = Callable[[Any], dict[str, Any]]
"""A config as plain data: the fields that are in a key."""


def key_of(experiment: Experiment) -> str:
    """Return 16 hexadecimal digits that two runs share only if nothing that matters differs.

    The hash of the explicit experiment, seed included; not of its name, nor of the hardware, but
    for the number of images that a BatchNorm sees. Settings of the recipe count even where others
    make them idle. Raises UserError where the teacher's weights are a file that cannot be read.
    """
    return _key(experiment, changed, VERSION)


def teacher_key(experiment: Experiment) -> str:
    """Return the name of an experiment's teacher, whatever the seeds of the experiment.

    The hash of its weights' origin; and for one that is trained here, of its recipe, the dataset,
    and the number of images that a BatchNorm sees. Raises UserError as `key_of`.
    """
    return _teacher(experiment, changed, VERSION)


def key_of_version_1(experiment: Experiment) -> str | None:
    """Return the key that version 1 gave this experiment; None where its result was another.

    Version 1 hashed every field. What was recorded under it is what is trained today, to the last
    bit on a CPU, unless for the network, or for a teacher that is trained here,

    - gradients are clipped adaptively: queries, keys and values have one norm since;
    - weights are averaged: integer state was averaged too, and the average always evaluated;
    - `repeats` do not fit twice into a batch: two views of one image could be mixed;
    - the images are a folder's: deep grey is scaled since, and other files are images;
    - a field is set that there was not.

    To be removed at 1.0. Raises UserError as `key_of`.
    """
    design, teacher = experiment.design, experiment.teacher
    recipes = [experiment.recipe]
    if design.distillation != "none" and teacher.weights == "trained":
        recipes.append(teacher.recipe)
    is_other = any(
        recipe.clipping == "adaptive"
        or recipe.ema_decay
        or (recipe.repeats > 1 and recipe.batch_size % (2 * recipe.repeats))
        for recipe in recipes
    )
    is_new = any(changed(each).keys() & set(SINCE_VERSION_1) for each in (design, *recipes))
    if is_other or is_new or experiment.data.name == "folder":
        return None
    return _key(experiment, _all_fields, version=None)


def stream_key(experiment: Experiment, versions: Mapping[str, str]) -> str:
    """Return the name of what a model sees in every epoch, however many there are.

    Args:
        experiment: of it, the data, the data seed and the recipe's augmentation count.
        versions: of the packages that make the pixels.
    """
    recipe = changed(experiment.recipe)
    return hashed(
        {
            "data": _data(experiment, experiment.seed, changed),
            "recipe": {name: value for name, value in recipe.items() if name in STREAM},
            "versions": dict(versions),
        }
    )


def norm_batch_size(recipe: Recipe, hardware: Hardware) -> int:
    """Return the number of images that a BatchNorm takes its statistics over."""
    devices = 1 if hardware.sync_batchnorm else hardware.devices * hardware.num_nodes
    return recipe.batch_size // (devices * hardware.accumulate)


def changed(value: Any) -> Any:
    """Return a config as plain data, without the fields that stand at their default.

    They are in no key, so that a field that is added later leaves the keys of what was recorded
    before as they are.
    """
    if is_dataclass(value):
        own = {field: getattr(value, field.name) for field in fields(value)}
        return {f.name: changed(each) for f, each in own.items() if each != f.default}
    return [changed(each) for each in value] if isinstance(value, tuple) else value


def hashed(mapping: Mapping[str, Any], version: int | None = VERSION) -> str:
    """Return 16 hexadecimal digits of plain data; equal numbers hash alike, keys in any order."""
    text = json.dumps(_floats({"version": version, **mapping}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _key(experiment: Experiment, said: Said, version: int | None) -> str:
    mapping = {
        "architecture": said(experiment.architecture),
        "design": said(experiment.design),
        "recipe": said(experiment.recipe),
        "data": _data(experiment, experiment.seed, said),
        "seed": experiment.seed,
    }
    if experiment.design.distillation != "none":
        mapping["teacher"] = _teacher(experiment, said, version)
    if experiment.design.distillation == "soft":
        mapping["top_k"] = experiment.teacher.top_k
    if "batch" in (experiment.design.norm, experiment.design.stem_norm):
        mapping["norm_batch_size"] = norm_batch_size(experiment.recipe, experiment.hardware)
    return hashed(mapping, version)


def _teacher(experiment: Experiment, said: Said, version: int | None) -> str:
    teacher = experiment.teacher
    mapping: dict[str, Any] = {"model": teacher.model, "weights": teacher.weights}
    if teacher.weights == "trained":
        mapping["recipe"] = said(teacher.recipe)
        mapping["data"] = _data(experiment, 0, said) | {"seed": 0}
        mapping["norm_batch_size"] = norm_batch_size(teacher.recipe, experiment.hardware)
    elif teacher.weights != "pretrained":
        mapping["weights"] = _digest(Path(teacher.weights))
    return hashed(mapping, version)


def _all_fields(config: Any) -> dict[str, Any]:
    """A config as plain data, with all fields that version 1 knew."""
    own = asdict(config)
    if "stages" in own:
        own["stages"] = list(own["stages"])
    return {name: each for name, each in own.items() if name not in SINCE_VERSION_1}


def _data(experiment: Experiment, seed: int, said: Said) -> dict[str, Any]:
    own = said(experiment.data)
    given = {n: value for n, value in own.items() if n not in PLACES and value is not None}
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
