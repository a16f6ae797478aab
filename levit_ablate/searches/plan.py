"""A search under given conditions, checked before anything starts: space, budget, baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from levit_ablate import library
from levit_ablate.config import Architecture, Design, differences
from levit_ablate.errors import UserError
from levit_ablate.experiment import Variant, conditions_of, explicit, identified
from levit_ablate.keys import hashed
from levit_ablate.library import Ablation
from levit_ablate.models import geometry
from levit_ablate.models.budget import Budget, within
from levit_ablate.schema import config_from, experiment_from, merge, plain, to_mapping
from levit_ablate.searches.budgets import budget_of, check_budget, latency_of
from levit_ablate.searches.drawing import combinations_of
from levit_ablate.searches.search import Search
from levit_ablate.searches.space import Space, space_from
from levit_ablate.studies.plan import dataset_name
from levit_ablate.tracking.parent_run import Whole
from levit_ablate.tracking.tags import SEARCH


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """A search under given conditions."""

    search: Search
    given: Mapping[str, Any]
    """The conditions of the full recipe."""
    baseline: Variant
    """LeViT under the conditions of a trial, at the first seed."""
    space: Space
    budget: Budget
    """In numbers, for a network with one head."""
    latency: float | None
    """The budget's, in seconds for an image."""

    @property
    def dataset(self) -> str:
        """The images, by name."""
        return dataset_name(self.baseline.experiment.data)

    @property
    def measures_latency(self) -> bool:
        """Whether the latency of every network is: for a budget of it, or a front."""
        return self.latency is not None or "latency" in self.search.objectives

    @property
    def work_dir(self) -> Path:
        """Where it keeps locks, and the journal of its trials."""
        return Path(self.baseline.experiment.hardware.work_dir)

    @cached_property
    def key(self) -> str:
        """By which a search is found again: all that decides what its trials come to."""
        return hashed(
            {
                "search": self.search.name,
                "space": self.space.described(),
                "sampler": [self.search.sampler, self.search.pruner],
                "objectives": list(self.search.objectives),
                "budget": {**asdict(self.budget), "latency": self.latency},
                "seeds": list(self.search.seeds),
                "baseline": self.baseline.at_seed(0).key,
            }
        )

    @cached_property
    def whole(self) -> Whole:
        """What its own run in MLflow is of."""
        return Whole(
            kind=SEARCH,
            name=self.search.name,
            dataset=self.dataset,
            key=self.key,
            summary=self.search.summary,
            conditions=to_mapping(self.baseline.experiment),
        )

    @cached_property
    def grid(self) -> list[dict[str, Any]]:
        """Every combination that has a meaning. Raises UserError where they are too many."""
        return combinations_of(self.space, self.baseline)

    def variant(
        self, name: str, summary: str, architecture: Architecture, design: Design
    ) -> Variant:
        """A network of the search, as a trial trains it. Raises UserError if it has no meaning."""
        architecture, design = geometry.canonical(architecture, design)
        return self._explicit(self.ablation(name, summary, architecture, design))

    def ablation(
        self, name: str, summary: str, architecture: Architecture, design: Design
    ) -> Ablation:
        """The same as an ablation, which a file can hold."""
        base = self.baseline.experiment.design
        changed = differences(Design(), design) | differences(base, design)
        return Ablation(
            name=name,
            path=self.search.path,
            summary=summary,
            design={key: getattr(design, key) for key in changed},
            architecture=plain(architecture),
        )

    def rebuilt(self, name: str, summary: str, said: Mapping[str, Any]) -> Variant:
        """The network that a trial's attributes hold, under the conditions of a trial."""
        architecture = config_from(Architecture, said["architecture"], name, "architecture")
        design = config_from(Design, said["design"], name, "design")
        return self.variant(name, summary, architecture, design)

    def named(self, name: str) -> Variant:
        """An ablation under the conditions of a trial. Raises UserError where there is none."""
        own = library.read(name)
        return self.baseline if name == self.baseline.name else self._explicit(own)

    def _explicit(self, own: Ablation) -> Variant:
        base = self.baseline
        mapping = merge(_shared(_of_trials(self.search, self.given)), own.changes())
        found = explicit(own, mapping, reference=base, baseline=base)
        return found.at_seed(base.experiment.seed)

    def fitted(self, architecture: Architecture, design: Design) -> Architecture | None:
        """With the widths that the budget allows; None where even the narrowest cost too much.

        A search for accuracy alone brings every network near to the budget.
        """
        indices = range(len(architecture.stages))
        return within(
            architecture,
            design,
            self.baseline.images,
            self.budget,
            [self.space.widths(index) for index in indices],
            widen=len(self.search.objectives) == 1,
        )


def plan(search: Search, given: Mapping[str, Any]) -> SearchPlan:
    """A search made explicit and checked. Raises UserError before anything is trained.

    Design and architecture among what is given hold for every network unless the space says
    otherwise. The images are looked at: `identified`.

    Args:
        search: what is searched.
        given: parts of an experiment, over those of the search's file.
    """
    given = identified(merge(search.given, given))
    if given.get("match", "none") != "none":
        raise UserError("--match: a search has budgets: --budget.flops baseline")
    levit = library.read(library.BASELINE)
    baseline = explicit(levit, _shared(_of_trials(search, given))).at_seed(search.seeds[0])
    # what is recorded of the search needs the model's file no more
    given = merge(given, {"architecture": plain(baseline.geometry)})
    design = baseline.experiment.design
    space = space_from(search.space, baseline.architecture, design)
    planned = SearchPlan(
        search=search,
        given=given,
        baseline=baseline,
        space=space,
        budget=budget_of(search, baseline),
        latency=latency_of(search),
    )
    if not space.varied():
        raise UserError(
            f"{search.name}: everything in its space is fixed: there is nothing to search"
        )
    check_budget(search, planned.budget, space, baseline)
    for name in search.enqueue:
        planned.named(name)
    if search.sampler == "grid":
        assert planned.grid  # of which there are not too many
    return planned


def _of_trials(search: Search, given: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions of a trial: the warm-up is shortened as the epochs are, unless it is said."""
    said = search.trial.get("recipe", {})
    if "epochs" not in said or "warmup_epochs" in said:
        return merge(given, search.trial)
    full = experiment_from({"recipe": conditions_of(given).get("recipe", {})}).recipe
    if said["epochs"] > full.epochs:
        raise UserError(
            f"trial.recipe.epochs: {said['epochs']} are more than the {full.epochs} with which the "
            f"best are trained again; give fewer, or more by --recipe.epochs"
        )
    warmup = full.warmup_epochs * said["epochs"] / full.epochs
    return merge(given, search.trial, {"recipe": {"warmup_epochs": warmup}})


def _shared(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """What holds for every network: the baseline's changes, the conditions, a given design."""
    design = {"design": conditions["design"]} if conditions.get("design") else {}
    changes = library.read(library.BASELINE).changes()
    return merge(changes, conditions_of(conditions), design)
