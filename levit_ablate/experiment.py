"""From a named ablation to an experiment that can be trained: made explicit, checked, and keyed."""

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
    Recipe,
    differences,
)
from levit_ablate.data import idx
from levit_ablate.data.catalog import check_fingerprint, dataset_of, images_of, index_of
from levit_ablate.data.indexing import UNREADABLE
from levit_ablate.data.layout import some
from levit_ablate.errors import UserError
from levit_ablate.keys import key_of
from levit_ablate.library import Ablation, recorded_yaml
from levit_ablate.models import geometry
from levit_ablate.models.cost import Cost, costs
from levit_ablate.models.matching import match
from levit_ablate.models.presets import preset
from levit_ablate.runtime import best_precision
from levit_ablate.schema import experiment_from, flat, merge, plain


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An ablation under given conditions, and what it is compared with."""

    ablation: Ablation
    """Where it comes from."""
    experiment: Experiment
    """What is trained, explicit: the architecture is given and matched, `match` is spent."""
    start: Architecture
    """The geometry that the design and the matching are applied to."""
    images: Images
    """What its network is built for."""
    matched: str
    """The cost that its geometry was rescaled to, or none."""
    baseline: Variant | None
    """The baseline under the same conditions; None for the baseline itself."""

    @property
    def name(self) -> str:
        return self.ablation.name

    @property
    def key(self) -> str:
        """The name by which its result is found again: `key_of` its experiment."""
        return key_of(self.experiment)

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
        """What is recorded of it: YAML that `run --config` takes by itself."""
        return recorded_yaml(self.ablation, self.experiment, self.geometry)

    @property
    def cost(self) -> Cost:
        """Parameters and multiply-adds, with one head."""
        return costs(self.architecture, self.experiment.design, self.images).total

    def at_seed(self, seed: int) -> Variant:
        """The same of another seed, and its baseline with it."""
        return replace(
            self,
            experiment=replace(self.experiment, seed=seed),
            baseline=self.baseline.at_seed(seed) if self.baseline else None,
        )

    def differences(self) -> dict[str, tuple[Any, Any]]:
        """What differs from the baseline: dotted name → (the baseline's value, this one's)."""
        if self.baseline is None:
            return {}
        base, own = self.baseline.experiment, self.experiment
        sections = {
            "design": differences(base.design, own.design),
            "architecture": differences(self.baseline.architecture, self.architecture),
        }
        return {
            f"{name}.{key}": pair for name, pairs in sections.items() for key, pair in pairs.items()
        }


def variant(
    ablation: str | Ablation, given: Mapping[str, Any], images: Images | None = None
) -> Variant:
    """An ablation with what the user set beside it, made explicit, and its baseline.

    Args:
        ablation: its name, its YAML file, or itself.
        given: the parts of an experiment that the user set. Design and match are further changes
            of the variant; everything else, the geometry too, holds for its baseline as well. A
            geometry in the ablation's file is the ablation's own.
        images: what the network is built for, in place of the dataset's images.

    Raises UserError where a name or a value is wrong, or a cost cannot be matched.
    """
    conditions = conditions_of(given)
    base = library.read(library.BASELINE)
    baseline = explicit(base, merge(base.changes(), conditions), images)
    own = library.read(ablation) if isinstance(ablation, str) else ablation
    changes = merge(base.changes(), conditions, {} if own == base else own.changes())
    changed = merge(changes, {key: given[key] for key in VARIANT_KEYS if key in given})
    resolved = explicit(own, changed, images, reference=baseline, baseline=baseline)
    if not resolved.differences():
        return baseline if own.name == base.name else resolved  # the gate refuses the latter
    if experiment_from(changed) == experiment_from(changes):
        return resolved
    options = {key: given[key] for key in VARIANT_KEYS if given.get(key)}
    return replace(resolved, ablation=_renamed(own, options))


def conditions_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions among what is given, over what the dataset brings along.

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
    """The hardware among what is given."""
    return experiment_from({"hardware": given.get("hardware", {})}).hardware


def identified(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, and the fingerprint of the images, by which results are kept.

    Of a folder's, whose index it reads, or makes, which checks every image; and of Fashion-MNIST's,
    whose files others share their names with. The other datasets are told by their names. Raises
    UserError as `data.index.open_index` and where the images are not those that were recorded.
    """
    experiment = experiment_from({k: v for k, v in given.items() if k in ("data", "hardware")})
    data = experiment.data
    if data.name == "folder":
        index = index_of(data, experiment.hardware)
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
        from levit_ablate.data.module import served  # torchvision takes a second

        served(data, experiment.hardware)  # downloads what is not there
        found = idx.fingerprint(Path(data.root))
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


def explicit(
    ablation: Ablation,
    mapping: dict[str, Any],
    images: Images | None = None,
    reference: Variant | None = None,
    baseline: Variant | None = None,
) -> Variant:
    """An ablation as it is trained: nothing is left to a default or to the hardware.

    Args:
        ablation: where it comes from.
        mapping: all parts of its experiment that are not the defaults of the config.
        images: what its network is built for, in place of the dataset's images.
        reference: whose cost its geometry is matched to, where its `match` says so.
        baseline: what it is compared with.

    Raises UserError as `variant`.
    """
    experiment = experiment_from(mapping)
    design, images = experiment.design, images or images_of(experiment.data)
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
    """The same with the number formats that this hardware does well, where they are not given."""
    best = best_precision(experiment.hardware)
    teacher = experiment.teacher

    def chosen(recipe: Recipe) -> Recipe:
        return replace(recipe, precision=best) if recipe.precision == "auto" else recipe

    return replace(
        experiment,
        recipe=chosen(experiment.recipe),
        teacher=replace(teacher, recipe=chosen(teacher.recipe)),
    )
