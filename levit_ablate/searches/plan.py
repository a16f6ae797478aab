"""A search under given conditions, checked before anything starts: space, budget, baseline."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice, product
from pathlib import Path
from typing import Any

from levit_ablate import library
from levit_ablate.config import Architecture, Design, Images, differences
from levit_ablate.errors import UserError
from levit_ablate.experiment import Comparison, Variant, comparison, conditions_of
from levit_ablate.keys import hashed
from levit_ablate.library import BASELINE, Ablation
from levit_ablate.models import geometry
from levit_ablate.models.cost import Cost, costs
from levit_ablate.models.matching import Budget, within
from levit_ablate.schema import config_from, experiment_from, merge, plain
from levit_ablate.searches.numbers import SOLVED, Setting
from levit_ablate.searches.search import Search
from levit_ablate.searches.space import Space, space_from
from levit_ablate.tracking.parent_run import Whole
from levit_ablate.tracking.runs import SEARCH

MOST_DESIGNS = 256
"""Combinations of design choices among which the smallest network is sought."""


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """A search under given conditions."""

    search: Search
    given: Mapping[str, Any]
    """The conditions of the full recipe."""
    compared: Comparison
    """The conditions of a trial."""
    space: Space
    budget: Budget
    """In numbers, for a network with one head."""
    latency: float | None
    """The budget's, in seconds for an image."""

    @cached_property
    def baseline(self) -> Variant:
        """LeViT under the conditions of a trial, at the first seed."""
        return self.compared.baseline.at_seed(self.search.seeds[0])

    @property
    def dataset(self) -> str:
        """Name of the dataset, or of its folder."""
        return self.whole.dataset

    @property
    def measures_latency(self) -> bool:
        """The latency of every network is measured, for a budget of it or a front."""
        return self.latency is not None or "latency" in self.search.objectives

    @property
    def work_dir(self) -> Path:
        return Path(self.baseline.experiment.hardware.work_dir)

    @property
    def folder(self) -> Path:
        """Where it keeps locks, and the journal of its trials."""
        return self.work_dir / "searches"

    @cached_property
    def key(self) -> str:
        """Key under which the search is found again: the hash of all that decides its trials."""
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
        """Name, key and conditions of its own run in MLflow."""
        name, summary = self.search.name, self.search.summary
        return Whole(SEARCH, name, self.key, summary, self.baseline.experiment)

    def variant(
        self, name: str, summary: str, architecture: Architecture, design: Design
    ) -> Variant:
        """Return a network as a trial trains it. Raises UserError if it has no meaning."""
        architecture, design = geometry.canonical(architecture, design)
        changed = differences(Design(), design) | differences(self.space.base[1], design)
        return self._variant(
            Ablation(
                name=name,
                path=self.search.path,
                summary=summary,
                design={key: getattr(design, key) for key in changed},
                architecture=plain(architecture),
            )
        )

    def rebuilt(self, name: str, summary: str, attributes: Mapping[str, Any]) -> Variant:
        """Return the network that a trial's attributes hold, as a trial trains it."""
        architecture = config_from(Architecture, attributes["architecture"], name, "architecture")
        design = config_from(Design, attributes["design"], name, "design")
        return self.variant(name, summary, architecture, design)

    def named(self, name: str) -> Variant:
        """Return an ablation as a trial trains it. Raises UserError if there is none."""
        return self.baseline if name == BASELINE else self._variant(library.read(name))

    def _variant(self, ablation: Ablation) -> Variant:
        return self.compared.variant(ablation).at_seed(self.search.seeds[0])

    def fitted(self, architecture: Architecture, design: Design) -> Architecture | None:
        """Return the geometry with the widths that the budget allows; None where none fit.

        A search for accuracy alone brings every network near to the budget.
        """
        widths = [self.space.widths(index) for index in range(len(architecture.stages))]
        is_for_accuracy = len(self.search.objectives) == 1
        images = self.baseline.images
        return within(architecture, design, images, self.budget, widths, widen=is_for_accuracy)


def plan(search: Search, given: Mapping[str, Any]) -> SearchPlan:
    """Make a search explicit and check it. Raises UserError before anything is trained.

    Design and architecture among what is given hold for every network unless the space says
    otherwise.

    Args:
        search: what is searched.
        given: parts of an experiment, over those of the search's file.
    """
    given = merge(search.given, given)
    if given.get("match", "none") != "none":
        raise UserError("--match: a search has budgets: --budget.flops baseline")
    trial = _conditions_of_trials(search, given)
    compared = comparison(trial, {"design": trial.get("design")})
    baseline = compared.baseline
    # what is recorded of the search needs the model's file no more, and refuses other images
    given = merge(given, {"architecture": plain(baseline.geometry)})
    if fingerprint := baseline.experiment.data.fingerprint:
        given = merge(given, {"data": {"fingerprint": fingerprint}})
    planned = SearchPlan(
        search=search,
        given=given,
        compared=compared,
        space=space_from(search.space, baseline.architecture, baseline.experiment.design),
        budget=Budget(**{cost: _limit(cost, search, baseline) for cost in ("flops", "params")}),
        latency=float(search.budget["latency"]) if "latency" in search.budget else None,
    )
    if not planned.space.varied():
        raise UserError(
            f"{search.name}: everything in its space is fixed: there is nothing to search"
        )
    _check_budget(planned)
    for name in search.enqueue:
        planned.named(name)
    if search.sampler == "grid":
        assert planned.space.combinations  # of which there are not too many
    return planned


def _conditions_of_trials(search: Search, given: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions of a trial: the warm-up is shortened as the epochs are, unless it is given."""
    recipe = search.trial.get("recipe", {})
    if "epochs" not in recipe or "warmup_epochs" in recipe:
        return merge(given, search.trial)
    full = experiment_from({"recipe": conditions_of(given).get("recipe", {})}).recipe
    if recipe["epochs"] > full.epochs:
        raise UserError(
            f"trial.recipe.epochs: {recipe['epochs']} are more than the {full.epochs} with which "
            f"the best are trained again; give fewer, or more by --recipe.epochs"
        )
    warmup = full.warmup_epochs * recipe["epochs"] / full.epochs
    return merge(given, search.trial, {"recipe": {"warmup_epochs": warmup}})


def _limit(cost: str, search: Search, baseline: Variant) -> int | None:
    """The budget of a cost, as a number."""
    most = search.budget.get(cost)
    if most is None:
        return None
    return int(getattr(baseline.cost, cost) if most == BASELINE else most)


def _check_budget(planned: SearchPlan) -> None:
    """Refuse a budget below the cheapest network of the space, and `solved` without one."""
    search, budget = planned.search, planned.budget
    if budget == Budget() or len(search.objectives) > 1:
        width = search.space.get("width")
        if SOLVED in (width.values() if isinstance(width, Mapping) else [width]):
            raise UserError(
                "space.width: solved: by a budget, in a search for accuracy alone; give "
                "--budget.flops or --budget.params, or a range"
            )
    if budget == Budget():
        return
    smallest = _smallest_networks(planned.space, planned.baseline.images)
    for name, limit in asdict(budget).items():
        least = min((getattr(cost, name) for cost in smallest), default=0)
        if limit is not None and least > limit:
            raise UserError(
                f"budget.{name}: {limit:,} is impossible: the smallest network of the space costs "
                f"{least:,}; raise it, or let the space go lower"
            )


def _smallest_networks(space: Space, images: Images) -> list[Cost]:
    """The costs of the smallest network with each combination of design choices."""
    found = []
    combinations = product(*(setting.options for setting in space.design.values()))
    for combination in islice(combinations, MOST_DESIGNS):
        choices = dict(zip(space.design, combination, strict=True))

        def smallest(name: str, setting: Setting) -> Any:
            kind, _, detail = name.partition(".")
            if kind == "design":
                return choices[detail]  # noqa: B023
            return space.widths(int(detail) - 1)[0] if kind == "width" else setting.options[0]

        with suppress(UserError):  # choices that have no meaning together
            found.append(costs(*space.network_of(smallest), images).total)
    return found
