"""Keys under which results are found again: hashes of all that decides them, and nothing else.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
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
VERSION_1 = set(
    """
    stages value_dim stem_depth stem_width drop_path depth width num_heads mlp_expansion
    pyramid position attention_activation activation keys stem pooling norm downsampling
    zero_init distillation epochs batch_size learning_rate reference_batch_size warmup_epochs
    warmup_learning_rate final_learning_rate schedule weight_decay label_smoothing clipping
    clip ema_decay crop flip color_jitter rand_augment erasing mixup cutmix cutmix_probability
    mixing_group repeats precision name image_size validation split_seed seed fingerprint
    """.split()  # noqa: SIM905
)
"""The fields of configs that version 1 knew, and hashed even at their defaults."""
NO_WEIGHTS = "teacher.weights: {} is neither trained nor pretrained, nor a file that can be read"

Plain = Callable[[Any], Any]
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
    architecture, design, teacher = experiment.architecture, experiment.design, experiment.teacher
    assert architecture is not None  # explicit
    recipes = [experiment.recipe]
    if design.distillation != "none" and teacher.weights == "trained":
        recipes.append(teacher.recipe)
    is_other = any(
        recipe.clipping == "adaptive"
        or recipe.ema_decay
        or (recipe.repeats > 1 and recipe.batch_size % (2 * recipe.repeats))
        for recipe in recipes
    )
    configs = (architecture, *architecture.stages, design, experiment.data, *recipes)
    is_new = any(changed(config).keys() - VERSION_1 - set(PLACES) for config in configs)
    if is_other or is_new or experiment.data.name == "folder":
        return None
    return _key(experiment, _known_to_version_1, version=None)


def stream_key(experiment: Experiment, versions: Mapping[str, str]) -> str:
    """Return the name of what a model sees in every epoch, however many there are.

    The hash of the data, the data seed, the recipe's augmentation, and the `versions` of the
    packages that make the pixels.
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
        pairs = [(field, getattr(value, field.name)) for field in fields(value)]
        return {field.name: changed(each) for field, each in pairs if each != field.default}
    return [changed(each) for each in value] if isinstance(value, tuple) else value


def hashed(mapping: Mapping[str, Any], version: int | None = VERSION) -> str:
    """Return 16 hexadecimal digits of plain data; equal numbers hash alike, keys in any order."""
    text = json.dumps(_floats({"version": version, **mapping}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _key(experiment: Experiment, plain: Plain, version: int | None) -> str:
    mapping = {
        "architecture": plain(experiment.architecture),
        "design": plain(experiment.design),
        "recipe": plain(experiment.recipe),
        "data": _data(experiment, experiment.seed, plain),
        "seed": experiment.seed,
    }
    if experiment.design.distillation != "none":
        mapping["teacher"] = _teacher(experiment, plain, version)
    if experiment.design.distillation == "soft":
        mapping["top_k"] = experiment.teacher.top_k
    if "batch" in (experiment.design.norm, experiment.design.stem_norm):
        mapping["norm_batch_size"] = norm_batch_size(experiment.recipe, experiment.hardware)
    return hashed(mapping, version)


def _teacher(experiment: Experiment, plain: Plain, version: int | None) -> str:
    teacher = experiment.teacher
    mapping: dict[str, Any] = {"model": teacher.model, "weights": teacher.weights}
    if teacher.weights == "trained":
        mapping["recipe"] = plain(teacher.recipe)
        mapping["data"] = _data(experiment, 0, plain) | {"seed": 0}
        mapping["norm_batch_size"] = norm_batch_size(teacher.recipe, experiment.hardware)
    elif teacher.weights != "pretrained":
        mapping["weights"] = _digest(Path(teacher.weights))
    return hashed(mapping, version)


def _known_to_version_1(value: Any) -> Any:
    """A config as plain data, with all fields that version 1 knew."""
    if is_dataclass(value):
        known = [field.name for field in fields(value) if field.name in VERSION_1]
        return {name: _known_to_version_1(getattr(value, name)) for name in known}
    return list(map(_known_to_version_1, value)) if isinstance(value, tuple) else value


def _data(experiment: Experiment, seed: int, plain: Plain) -> dict[str, Any]:
    own = {name: value for name, value in plain(experiment.data).items() if name not in PLACES}
    return {**own, "seed": seed if experiment.data.seed is None else experiment.data.seed}


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
