"""A search's budget in numbers; one that no network of the space could keep to is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice, product

from levit_ablate.errors import UserError
from levit_ablate.experiment import Variant
from levit_ablate.models.cost import costs
from levit_ablate.models.matching import Budget
from levit_ablate.searches.drawing import architecture_of
from levit_ablate.searches.readers import BASELINE
from levit_ablate.searches.search import Search
from levit_ablate.searches.setting import SOLVED
from levit_ablate.searches.space import Space

MOST_DESIGNS = 256
"""Combinations of design choices of which the smallest network is sought."""


def budget_of(search: Search, baseline: Variant) -> Budget:
    """What the solver keeps networks to."""

    def limit(cost: str) -> int | None:
        most = search.budget.get(cost)
        own: int = getattr(baseline.cost, cost)
        return own if most == BASELINE else None if most is None else int(most)

    return Budget(flops=limit("flops"), params=limit("params"))


def latency_of(search: Search) -> float | None:
    """The most seconds for an image, which are measured."""
    most = search.budget.get("latency")
    return None if most is None else float(most)


def check_budget(search: Search, budget: Budget, space: Space, baseline: Variant) -> None:
    """Refuse a budget below the cheapest network of the space, and `solved` without one.

    Raises UserError.
    """
    if budget == Budget() or len(search.objectives) > 1:
        _refuse_solved(search)
    if budget == Budget():
        return
    least = _least(space, baseline)
    for name, limit in (("flops", budget.flops), ("params", budget.params)):
        if limit is not None and least.get(name, 0) > limit:
            raise UserError(
                f"budget.{name}: {limit:,} is impossible: the smallest network of the space costs "
                f"{least[name]:,}; raise it, or let the space go lower"
            )


def _refuse_solved(search: Search) -> None:
    """Where networks are not brought up to a budget nothing says how wide they are."""
    said = search.space.get("width")
    for width in said.values() if isinstance(said, Mapping) else [said]:
        if width == SOLVED:
            raise UserError(
                "space.width: solved: by a budget, in a search for accuracy alone; give "
                "--budget.flops or --budget.params, or a range"
            )


def _least(space: Space, baseline: Variant) -> dict[str, int]:
    """The multiply-adds and the parameters of the network that has the fewest."""
    count = space.num_stages.options[0]
    stages = [
        {k: s.options[0] for k, s in stage.items()} | {"width": space.widths(index)[0]}
        for index, stage in enumerate(space.stages[:count])
    ]
    stem = space.stem_width.options[0] if space.stem_width else None
    own = baseline.experiment.design
    least: dict[str, int] = {}
    choices = product(*(setting.options for setting in space.design.values()))
    for chosen in islice(choices, MOST_DESIGNS):
        try:
            design = replace(own, **dict(zip(space.design, chosen, strict=True)))
            smallest = architecture_of(baseline.architecture, design, stages, stem)
            cost = costs(smallest, design, baseline.images).total
        except UserError:  # choices that have no meaning together
            continue
        for name in ("flops", "params"):
            least[name] = min(getattr(cost, name), least.get(name, getattr(cost, name)))
    return least
