"""What is sampled is a network of the space within the budget, and nothing without meaning is asked."""

import contextlib

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from searching import small

from levit_ablate.errors import UserError
from levit_ablate.models.cost import costs
from levit_ablate.searches.plan import plan
from levit_ablate.searches.sampling import InvalidError, point_of, variant_of
from levit_ablate.searches.search import changed, read
from levit_ablate.searches.trials import NAME

DESIGNS = {"design": {"pyramid": "true,false", "downsampling": "attention,convolution"}}
PLANNED = {
    "plain": small(),
    "designs": small(space=DESIGNS),
    "stages": small(space={"num_stages": "1:3", "stem_width": "8:24"}, budget={"flops": "10M"}),
    "front": small("accuracy_and_flops"),
}


def fresh(planned, seed=0):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return study, study.ask()


@pytest.mark.parametrize("name", PLANNED)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_a_sample_is_a_network_within_the_budget_and_comes_back_from_its_record(name, seed):
    planned = PLANNED[name]
    _, trial = fresh(planned, seed)
    try:
        found = variant_of(trial, planned)
    except InvalidError:  # beyond the budget at its narrowest
        assert planned.budget.flops is not None
        return
    cost = costs(found.architecture, found.experiment.design, found.images).total
    assert planned.budget.flops is None or cost.flops <= planned.budget.flops
    assert set(trial.params) <= set(planned.space.varied())
    assert found.experiment.recipe == planned.baseline.experiment.recipe
    said = {"architecture": found.ablation.architecture, "design": dict(found.ablation.design)}
    assert planned.rebuilt("again", "", said).key == found.key


def test_most_samples_lie_near_the_budget():
    planned = plan(read("equal_flops"), {"design": {"distillation": "none"}})
    costs_found = []
    for seed in range(20):
        _, trial = fresh(planned, seed)
        with contextlib.suppress(InvalidError):
            costs_found.append(variant_of(trial, planned).cost.flops)
    limit = planned.budget.flops
    assert max(costs_found) <= limit
    assert sum(cost > 0.95 * limit for cost in costs_found) >= 16


def test_what_depends_on_a_choice_is_asked_only_with_it():
    planned = PLANNED["designs"]

    def ask(name, setting):
        asked.append(name)
        return pyramid if name == "design.pyramid" else setting.options[0]

    for pyramid in (True, False):
        asked: list[str] = []
        planned.space.network_of(ask)
        assert asked[0] == "design.pyramid"
        assert ("design.downsampling" in asked) == pyramid
        assert ("width.2" in asked) == ("num_heads.2" in asked) == pyramid
        assert "depth.2" in asked


def test_the_networks_own_settings_are_the_network_itself():
    """So that it has the baseline's key, and is not trained again."""
    planned = small()
    point, moved = point_of(planned.baseline, planned.space)
    assert moved == [] and point.keys() == planned.space.varied().keys()
    study, _ = fresh(planned)
    study.enqueue_trial(point)
    assert variant_of(study.ask(), planned).key == planned.baseline.key


def test_a_named_ablation_is_itself_and_the_sampler_sees_the_nearest():
    planned = small(enqueue="baseline,no_pyramid", space=DESIGNS)
    own = planned.named("no_pyramid")
    point, moved = point_of(own, planned.space)
    assert point["design.pyramid"] is False and "width.1" in moved
    study, _ = fresh(planned)
    study.enqueue_trial(point, user_attrs={NAME: "no_pyramid"})
    found = variant_of(study.ask(), planned)
    assert found.key == own.key and found.name == "no_pyramid"


def test_an_ablation_whose_choice_is_not_in_the_space_is_refused():
    planned = small()
    with pytest.raises(UserError, match=r"design.norm: layer is not in the space"):
        point_of(planned.named("no_batch_norm"), planned.space)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"budget": {"flops": "1k"}}, "budget.flops: 1,000 is impossible: the smallest network"),
        ({"budget": {"params": "100"}}, "budget.params: 100 is impossible"),
        ({"space": {"geometry": "fixed"}}, "there is nothing to search"),
        ({"space": {"width": "solved"}, "objectives": "accuracy,flops"}, "solved: by a budget"),
        ({"enqueue": "no_pyramd"}, "did you mean no_pyramid"),
    ],
)
def test_an_impossible_search_is_refused_before_it_starts(said, expected):
    with pytest.raises(UserError, match=expected):
        small(**said)


def test_matching_is_refused_for_budgets():
    with pytest.raises(UserError, match=r"--budget.flops baseline"):
        plan(changed(read("equal_flops"), {}), {"match": "flops"})


def test_another_way_to_search_is_another_search_and_more_trials_are_the_same():
    keys = {
        small(**said).key
        for said in (
            {},
            {"sampler": "random"},
            {"space": {"depth": 1}},
            {"budget": {"flops": "9M"}},
            {"seeds": "1"},
            {"trial": {"recipe": {"epochs": 1}}},
        )
    }
    assert len(keys) == 6
    assert small().key == small(trials=99, confirm=0, enqueue="no_pyramid").key


def test_the_warm_up_of_a_trial_is_shortened_with_its_epochs():
    whole = small(given={"recipe": {"epochs": 20, "warmup_epochs": 4}})
    recipe = {"recipe": {"epochs": 20, "warmup_epochs": 4}}
    short = plan(changed(read("equal_flops"), {"trial": {"recipe": {"epochs": 5}}}), recipe)
    assert short.baseline.experiment.recipe.epochs == 5
    assert short.baseline.experiment.recipe.warmup_epochs == 1
    assert whole.key != short.key


def test_the_smallest_network_is_that_of_the_cheapest_choice_whichever_is_said_first():
    said = []
    for stems in ("convolution,patch", "patch,convolution"):
        with pytest.raises(UserError, match="is impossible") as caught:
            small(budget={"flops": "9k"}, space={"design": {"stem": stems}})
        said.append(str(caught.value))
    assert said[0] == said[1]
