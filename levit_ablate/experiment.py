"""Ablations under given conditions: made explicit, keyed, checked, beside their baseline."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from levit_ablate import library
from levit_ablate.config import (
    OWN_GEOMETRY,
    VARIANT_KEYS,
    Architecture,
    Experiment,
    Hardware,
    Images,
    differences,
)
from levit_ablate.data.datasets import dataset_of, images_of
from levit_ablate.errors import UserError
from levit_ablate.keys import key_of, key_of_version_1
from levit_ablate.library import Ablation
from levit_ablate.models import geometry
from levit_ablate.models.cost import Cost, costs
from levit_ablate.models.levit import LeViT
from levit_ablate.models.matching import match
from levit_ablate.models.presets import preset
from levit_ablate.runtime import best_precision
from levit_ablate.schema import experiment_from, flat, merge, plain, yaml_of


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An ablation under given conditions, and its baseline."""

    ablation: Ablation
    """The ablation that it comes from."""
    experiment: Experiment
    """The explicit experiment: its architecture is given and matched, its `match` is none."""
    start: Architecture
    """The geometry that the design and the matching are applied to."""
    images: Images
    """Shape of its images, and their classes."""
    matched: str
    """The cost that its geometry was rescaled to, or none."""
    baseline: Variant | None
    """The baseline under the same conditions; None for the baseline itself."""

    @property
    def name(self) -> str:
        return self.ablation.name

    @property
    def key(self) -> str:
        """Key under which its result is recorded: `key_of` its experiment."""
        return key_of(self.experiment)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that its result may be recorded under: its own, and that of version 1."""
        return tuple(filter(None, (self.key, key_of_version_1(self.experiment))))

    @property
    def architecture(self) -> Architecture:
        assert self.experiment.architecture is not None  # explicit
        return self.experiment.architecture

    @property
    def geometry(self) -> Architecture:
        """The geometry that its baseline starts from."""
        return (self.baseline or self).start

    @property
    def recorded_yaml(self) -> str:
        """The YAML that is recorded with its run, and that `run --config` takes by itself."""
        header = self.ablation.header() | {"geometry": plain(self.geometry)}
        return yaml_of(header | plain(self.experiment))

    @property
    def cost(self) -> Cost:
        """Parameters and multiply-adds, with one head."""
        return costs(self.architecture, self.experiment.design, self.images).total

    def at_seed(self, seed: int) -> Variant:
        """Return it with another seed, and its baseline too."""
        return replace(
            self,
            experiment=replace(self.experiment, seed=seed),
            baseline=self.baseline.at_seed(seed) if self.baseline else None,
        )

    def differences(self) -> dict[str, tuple[Any, Any]]:
        """Return what differs from the baseline: dotted name → (the baseline's, its own)."""
        if (base := self.baseline) is None:
            return {}
        design = differences(base.experiment.design, self.experiment.design)
        architecture = differences(base.architecture, self.architecture)
        return flat({"design": design, "architecture": architecture})


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Conditions, and the baseline under them: all that variants to be compared have in common."""

    shared: Mapping[str, Any]
    """The parts of an experiment that every variant starts from."""
    images: Images
    """Shape of the images, and their classes."""
    reference: Variant
    """LeViT, whose cost other geometries are matched to."""
    baseline: Variant
    """The variant that the others are compared with."""

    def variant(self, ablation: Ablation, changes: Mapping[str, Any] | None = None) -> Variant:
        """Return an ablation, with further changes to it, under these conditions.

        Raises UserError where a value does not fit, or a cost cannot be matched.
        """
        mapping = self.mapping(ablation, changes or {})
        return _explicit(ablation, mapping, self.images, self.reference, self.baseline)

    def mapping(self, ablation: Ablation, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the experiment of an ablation with further changes, before it is matched."""
        is_base = ablation == self.baseline.ablation
        return merge(self.shared, {} if is_base else ablation.changes(), changes)


def comparison(
    given: Mapping[str, Any],
    common: Mapping[str, Any] | None = None,
    base: Ablation | None = None,
    images: Images | None = None,
    *,
    identify: bool = True,
) -> Comparison:
    """Resolve the conditions among what the user set, once for all variants.

    Args:
        given: parts of an experiment; its design and match are not taken up.
        common: a design that all variants start from, and a match of the baseline's.
        base: the ablation that is the baseline, in place of the project's own.
        images: what the networks are built for, in place of the dataset's images.
        identify: find the fingerprint of the images, which is in every key. It may read all images
            of a folder, or download a dataset: what only shows a network does without.

    Raises UserError where a name or a value is wrong, or a cost cannot be matched.
    """
    conditions = conditions_of(identified(given) if identify else given)
    common = {key: value for key, value in (common or {}).items() if value}
    images = images or images_of(experiment_from({"data": conditions["data"]}).data)
    design = {key: common[key] for key in common if key == "design"}
    levit = library.read(library.BASELINE)
    base = base or levit
    reference = _explicit(levit, merge(levit.changes(), conditions, design), images)
    shared = merge(base.changes(), conditions, design)
    baseline = reference
    if base != levit or merge(shared, common) != shared:
        baseline = _explicit(base, merge(shared, common), images, reference)
    return Comparison(shared=shared, images=images, reference=reference, baseline=baseline)


def variant(
    ablation: str | Ablation,
    given: Mapping[str, Any],
    images: Images | None = None,
    *,
    identify: bool = True,
) -> Variant:
    """Return an ablation (its name, its file, or itself) made explicit, and its baseline.

    Of `given`, the parts of an experiment that the user set, design and match are further changes
    of the variant; everything else, the geometry too, holds for its baseline as well. A geometry
    in the ablation's file is the ablation's own. All else is as for `comparison`.
    """
    compared = comparison(given, images=images, identify=identify)
    if isinstance(ablation, str):
        ablation = library.read(ablation)
    options = {key: given[key] for key in VARIANT_KEYS if given.get(key)}
    resolved = compared.variant(ablation, options)
    if not resolved.differences():
        is_base = ablation.name == compared.baseline.name
        return compared.baseline if is_base else resolved  # `check_changes` refuses the latter
    in_file, in_all = (compared.mapping(ablation, changes) for changes in ({}, options))
    if experiment_from(in_file) == experiment_from(in_all):
        return resolved  # the options say what the file says
    settings = ", ".join(f"{name}={value}" for name, value in flat(options).items())
    renamed = replace(
        ablation,
        name=f"{ablation.name} + {settings}",
        summary=f"{ablation.summary}, with {settings}",
        paper=None,
    )
    return replace(resolved, ablation=renamed)


def conditions_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conditions among what is given, over the dataset's defaults.

    A geometry is whole, and `model` then names it only where it is that model's.
    """
    conditions = {key: value for key, value in given.items() if key not in VARIANT_KEYS}
    data = experiment_from({"data": conditions.get("data", {})}).data
    conditions = merge(dataset_of(data).defaults, conditions)
    if not (given_geometry := conditions.pop("architecture", None)):
        return conditions
    architecture = experiment_from({"architecture": given_geometry}).architecture
    conditions["architecture"] = plain(architecture)
    with suppress(UserError):  # it may be a recorded model whose file is gone
        if preset(conditions["model"]).architecture == architecture:
            return conditions
    return conditions | {"model": OWN_GEOMETRY}


def hardware_of(given: Mapping[str, Any]) -> Hardware:
    """Return the hardware among what is given."""
    return experiment_from({"hardware": given.get("hardware", {})}).hardware


def identified(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given with the images' `fingerprint_of`, which is part of the key."""
    data = experiment_from({"data": given.get("data", {})}).data
    if data.name not in ("folder", "fashion_mnist"):
        return dict(given)
    from levit_ablate.data.datamodule import fingerprint_of  # torchvision takes a second

    return merge(given, {"data": {"fingerprint": fingerprint_of(data, hardware_of(given))}})


def check_changes(variant: Variant) -> None:
    """Refuse a variant whose network and objective are the baseline's.

    Compares the built networks (their modules, and the weights that they start from) rather than
    the settings, so that a choice without effect on this geometry is found too. Raises UserError.
    """
    base, design = variant.baseline, variant.experiment.design
    if base is None or base.experiment.design.distillation != design.distillation:
        return
    if not variant.differences():
        raise UserError(
            f"{variant.name}: changes nothing: every choice in {variant.ablation.path}, with the "
            f"options given, is the baseline's already; change one"
        )
    if _same_network(variant, base):
        changed = ", ".join(variant.differences())
        raise UserError(
            f"{variant.name}: changes nothing: with model {variant.experiment.model}, {changed} "
            f"leaves the network and the objective of the baseline as they are"
        )


def _same_network(first: Variant, second: Variant) -> bool:
    one, other = (LeViT(v.architecture, v.experiment.design, v.images) for v in (first, second))
    if repr(one) != repr(other) or first.architecture.drop_path != second.architecture.drop_path:
        return False
    others = other.state_dict()
    return all(torch.equal(value, others[name]) for name, value in one.state_dict().items())


def _explicit(
    ablation: Ablation,
    mapping: Mapping[str, Any],
    images: Images,
    reference: Variant | None = None,
    baseline: Variant | None = None,
) -> Variant:
    """An ablation as it is trained: nothing is left to a default or to the hardware.

    Its geometry is matched to the cost of `reference` where `match` in the mapping says so.
    """
    experiment = experiment_from(mapping)
    design = experiment.design
    start = experiment.architecture or preset(experiment.model).architecture
    architecture = replace(start, stages=geometry.stages_of(start, design))
    if reference and experiment.match != "none":
        target = getattr(reference.cost, experiment.match)
        unscaled = experiment.architecture or reference.architecture
        architecture = match(unscaled, design, images, experiment.match, target)
    return Variant(
        ablation=ablation,
        experiment=_precise(replace(experiment, architecture=architecture, match="none")),
        start=start,
        images=images,
        matched=experiment.match,
        baseline=baseline,
    )


def _precise(experiment: Experiment) -> Experiment:
    """Fill in the number formats that this hardware is fast at, where none is given."""
    best, teacher = best_precision(experiment.hardware), experiment.teacher
    students, teachers = (
        replace(recipe, precision=best) if recipe.precision == "auto" else recipe
        for recipe in (experiment.recipe, teacher.recipe)
    )
    return replace(experiment, recipe=students, teacher=replace(teacher, recipe=teachers))
