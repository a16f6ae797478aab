"""Ablations under given conditions: made explicit, keyed, beside their baseline."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from levit_ablate.data.datasets import check_fingerprint, dataset_of, images_of, index_of
from levit_ablate.data.folder_index import UNREADABLE
from levit_ablate.data.folder_layout import some
from levit_ablate.errors import UserError
from levit_ablate.keys import key_of, key_of_version_1
from levit_ablate.library import Ablation, recorded_yaml
from levit_ablate.models import geometry
from levit_ablate.models.cost import Cost, costs
from levit_ablate.models.matching import match
from levit_ablate.models.presets import preset
from levit_ablate.runtime import best_precision
from levit_ablate.schema import experiment_from, flat, merge, plain


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
        return recorded_yaml(self.ablation, self.experiment, self.geometry)

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
        if self.baseline is None:
            return {}
        base, own = self.baseline.experiment, self.experiment
        sections = {
            "design": differences(base.design, own.design),
            "architecture": differences(self.baseline.architecture, self.architecture),
        }
        return flat(sections)


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
        own = {} if ablation == self.baseline.ablation else ablation.changes()
        return merge(self.shared, own, changes)


def comparison(
    given: Mapping[str, Any],
    common: Mapping[str, Any] | None = None,
    base: Ablation | None = None,
    images: Images | None = None,
    *,
    identify: bool = True,
) -> Comparison:
    """Resolve the conditions among what is given, once for all variants.

    Args:
        given: the parts of an experiment that the user set; its design and match are not taken up.
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
    reference = _explicit(levit, merge(levit.changes(), conditions, design), images)
    shared = merge((base or levit).changes(), conditions, design)
    baseline = reference
    if (base or levit) != levit or merge(shared, common) != shared:
        baseline = _explicit(base or levit, merge(shared, common), images, reference)
    return Comparison(shared=shared, images=images, reference=reference, baseline=baseline)


def variant(
    ablation: str | Ablation,
    given: Mapping[str, Any],
    images: Images | None = None,
    *,
    identify: bool = True,
) -> Variant:
    """Return an ablation with what the user set beside it, made explicit, and its baseline.

    Args:
        ablation: its name, its YAML file, or itself.
        given: the parts of an experiment that the user set. Design and match are further changes
            of the variant; everything else, the geometry too, holds for its baseline as well. A
            geometry in the ablation's file is the ablation's own.
        images: as for `comparison`.
        identify: as for `comparison`.

    Raises UserError where a name or a value is wrong, or a cost cannot be matched.
    """
    compared = comparison(given, images=images, identify=identify)
    own = library.read(ablation) if isinstance(ablation, str) else ablation
    options = {key: given[key] for key in VARIANT_KEYS if given.get(key)}
    resolved = compared.variant(own, options)
    if not resolved.differences():
        is_base = own.name == compared.baseline.name
        return compared.baseline if is_base else resolved  # the gate refuses the latter
    with_options, without = (experiment_from(compared.mapping(own, o)) for o in (options, {}))
    is_own = with_options == without
    return resolved if is_own else replace(resolved, ablation=_renamed(own, options))


def conditions_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conditions among what is given, over the dataset's defaults.

    A geometry is whole, and `model` then names it only where it is that model's.
    """
    conditions = {key: value for key, value in given.items() if key not in VARIANT_KEYS}
    data = experiment_from({"data": conditions.get("data", {})}).data
    conditions = merge(dataset_of(data).defaults, conditions)
    if not conditions.get("architecture"):
        return {key: value for key, value in conditions.items() if key != "architecture"}
    architecture = experiment_from({"architecture": conditions["architecture"]}).architecture
    with suppress(UserError):  # it may be a recorded model whose file is gone
        if preset(conditions["model"]).architecture == architecture:
            return conditions | {"architecture": plain(architecture)}
    return conditions | {"architecture": plain(architecture), "model": OWN_GEOMETRY}


def hardware_of(given: Mapping[str, Any]) -> Hardware:
    """Return the hardware among what is given."""
    return experiment_from({"hardware": given.get("hardware", {})}).hardware


def identified(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given with the fingerprint of the images, which is part of the key.

    A folder's is in its index, which is read, or made, which checks every image. Fashion-MNIST has
    one because other datasets have files of the same names. The other datasets need none. Raises
    UserError as `folder_index.open_index` and where the images are not those that were recorded.
    """
    data, hardware = experiment_from({"data": given.get("data", {})}).data, hardware_of(given)
    if data.name == "folder":
        index = index_of(data, hardware)
        found = index.fingerprint
        for line in index.left_out:
            print(line, file=sys.stderr)
        if index.skipped:
            print(
                f"data.root: {len(index.skipped)} images of {index.root} are left out: "
                f"{some(index.skipped, '; ')}; all are listed in {index.folder / UNREADABLE}",
                file=sys.stderr,
            )
    elif data.name == "fashion_mnist":
        from levit_ablate.data import splits  # torchvision takes a second
        from levit_ablate.data.datamodule import served

        served(data, hardware)  # downloads what is not there
        found = splits.fashion_mnist_fingerprint(Path(data.root))
        check_fingerprint(data, found)
    else:
        return dict(given)
    return merge(given, {"data": {"fingerprint": found}})


def _renamed(ablation: Ablation, options: dict[str, Any]) -> Ablation:
    """Another ablation than the file's, and no row of the paper: its name tells the options."""
    settings = ", ".join(f"{name}={value}" for name, value in flat(options).items())
    return replace(
        ablation,
        name=f"{ablation.name} + {settings}",
        summary=f"{ablation.summary}, with {settings}",
        paper=None,
    )


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
    own, taught = (
        replace(recipe, precision=best) if recipe.precision == "auto" else recipe
        for recipe in (experiment.recipe, teacher.recipe)
    )
    return replace(experiment, recipe=own, teacher=replace(teacher, recipe=taught))
