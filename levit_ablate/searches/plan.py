"""A search under given conditions, checked before anything starts: space, budget, baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice, product
from pathlib import Path
from typing import Any

from levit_ablate import library
from levit_ablate.config import Architecture, Design, differences
from levit_ablate.errors import UserError
from levit_ablate.experiment import Comparison, Variant, comparison, conditions_of
from levit_ablate.keys import hashed
from levit_ablate.library import BASELINE, Ablation
from levit_ablate.models import geometry
from levit_ablate.models.cost import costs
from levit_ablate.models.matching import Budget, within
from levit_ablate.schema import config_from, experiment_from, merge, plain
from levit_ablate.searches.drawing import combinations_of
from levit_ablate.searches.numbers import SOLVED, architecture_of
from levit_ablate.searches.search import Search
from levit_ablate.searches.space import Space, space_from
from levit_ablate.studies.plan import dataset_name
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
        return dataset_name(self.baseline.experiment.data)

    @property
    def measures_latency(self) -> bool:
        """The latency of every network is measured, for a budget of it or a front."""
        return self.latency is not None or "latency" in self.search.objectives

    @property
    def work_dir(self) -> Path:
        """Where it keeps locks, and the journal of its trials."""
        return Path(self.baseline.experiment.hardware.work_dir)

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
        return Whole(
            kind=SEARCH,
            name=self.search.name,
            dataset=self.dataset,
            key=self.key,
            summary=self.search.summary,
            conditions=plain(self.baseline.experiment),
        )

    @cached_property
    def grid(self) -> list[dict[str, Any]]:
        """Every combination that has a meaning. Raises UserError where they are too many."""
        return combinations_of(self.space, self.baseline)

    def variant(
        self, name: str, summary: str, architecture: Architecture, design: Design
    ) -> Variant:
        """Return a network as a trial trains it. Raises UserError if it has no meaning."""
        architecture, design = geometry.canonical(architecture, design)
        return self._at_seed(self.ablation(name, summary, architecture, design))

    def ablation(
        self, name: str, summary: str, architecture: Architecture, design: Design
    ) -> Ablation:
        """Return a network as an ablation, which a file can hold."""
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
        """Return the network that a trial's attributes hold, under the conditions of a trial."""
        architecture = config_from(Architecture, said["architecture"], name, "architecture")
        design = config_from(Design, said["design"], name, "design")
        return self.variant(name, summary, architecture, design)

    def named(self, name: str) -> Variant:
        """Return an ablation under the conditions of a trial. Raises UserError without one."""
        own = library.read(name)
        return self.baseline if name == self.baseline.name else self._at_seed(own)

    def _at_seed(self, own: Ablation) -> Variant:
        return self.compared.variant(own).at_seed(self.search.seeds[0])

    def fitted(self, architecture: Architecture, design: Design) -> Architecture | None:
        """Return the geometry with the widths that the budget allows; None where none fit.

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
    trial = _of_trials(search, given)
    compared = comparison(trial, {"design": trial.get("design")})
    baseline = compared.baseline
    # what is recorded of the search needs the model's file no more, and refuses other images
    found = {"fingerprint": baseline.experiment.data.fingerprint}
    given = merge(given, {"architecture": plain(baseline.geometry)})
    if all(found.values()):
        given = merge(given, {"data": found})
    planned = SearchPlan(
        search=search,
        given=given,
        compared=compared,
        space=space_from(search.space, baseline.architecture, baseline.experiment.design),
        budget=_budget_of(search, baseline),
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


def _budget_of(search: Search, baseline: Variant) -> Budget:
    """The budget in numbers, for the solver."""

    def limit(cost: str) -> int | None:
        most = search.budget.get(cost)
        own: int = getattr(baseline.cost, cost)
        return own if most == BASELINE else None if most is None else int(most)

    return Budget(flops=limit("flops"), params=limit("params"))


def _check_budget(planned: SearchPlan) -> None:
    """Refuse a budget below the cheapest network of the space, and `solved` without one."""
    search, budget = planned.search, planned.budget
    if budget == Budget() or len(search.objectives) > 1:
        _refuse_solved(search)
    if budget == Budget():
        return
    least = _least(planned.space, planned.baseline)
    for name, limit in (("flops", budget.flops), ("params", budget.params)):
        if limit is not None and least.get(name, 0) > limit:
            raise UserError(
                f"budget.{name}: {limit:,} is impossible: the smallest network of the space costs "
                f"{least[name]:,}; raise it, or let the space go lower"
            )


def _refuse_solved(search: Search) -> None:
    """Refuse `solved` widths where networks are not brought up to a budget."""
    said = search.space.get("width")
    for width in said.values() if isinstance(said, Mapping) else [said]:
        if width == SOLVED:
            raise UserError(
                "space.width: solved: by a budget, in a search for accuracy alone; give "
                "--budget.flops or --budget.params, or a range"
            )


def _least(space: Space, baseline: Variant) -> dict[str, int]:
    """The fewest multiply-adds and the fewest parameters of any network of the space."""
    count = space.num_stages.options[0]
    stages = [
        {k: s.options[0] for k, s in stage.items()} | {"width": space.widths(index)[0]}
        for index, stage in enumerate(space.stages[:count])
    ]
    network = {name: setting.options[0] for name, setting in space.network.items()}
    own = baseline.experiment.design
    least: dict[str, int] = {}
    choices = product(*(setting.options for setting in space.design.values()))
    for chosen in islice(choices, MOST_DESIGNS):
        try:
            design = replace(own, **dict(zip(space.design, chosen, strict=True)))
            smallest = architecture_of(baseline.architecture, design, stages, network)
            cost = costs(smallest, design, baseline.images).total
        except UserError:  # choices that have no meaning together
            continue
        for name in ("flops", "params"):
            least[name] = min(getattr(cost, name), least.get(name, getattr(cost, name)))
    return least
