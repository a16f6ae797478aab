"""Importances are those that are known: exact on a complete grid, Optuna's elsewhere."""

from __future__ import annotations

import itertools
import random

import numpy
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from searching import small

from levit_ablate.searches.importance import (
    Importance,
    factorial,
    importance_of,
    limits,
    main_effects,
)

FLAGS = {"a": [False, True], "b": [False, True]}
SPACE = {"width": [16, 32, 48, 64], "norm": ["batch", "layer"], "activation": ["x", "y", None]}


def draws(space, number, seed=0):
    """Trials drawn uniformly from a space."""
    rng = numpy.random.default_rng(seed)
    return [
        {n: values[rng.integers(len(values))] for n, values in space.items()} for _ in range(number)
    ]


def grid(space):
    """Every combination once."""
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def by_hand(space, values):
    """Shares of the sums of squares of a grid, from the means of its table alone."""
    table = numpy.reshape(values, [len(options) for options in space.values()])
    table = table - table.mean()

    def mean(*kept):
        return table.mean(axis=tuple(i for i in range(table.ndim) if i not in kept), keepdims=True)

    total = (table**2).mean()
    main = {name: (mean(i) ** 2).mean() / total for i, name in enumerate(space)}
    pairs = {
        (one, other): ((mean(i, j) - mean(i) - mean(j)) ** 2).mean() / total
        for (i, one), (j, other) in itertools.combinations(enumerate(space), 2)
    }
    return main, pairs


def test_an_exclusive_or_is_all_in_the_pair():
    trials = grid(FLAGS)
    found = factorial(trials, [0.5 + 0.1 * (t["a"] != t["b"]) for t in trials])
    assert found.is_exact and found.num_trials == 4
    assert found.main == pytest.approx({"a": 0, "b": 0}, abs=1e-12)
    assert found.pairs == pytest.approx({("a", "b"): 1})
    assert found.rest == pytest.approx(0, abs=1e-12)


def test_an_exclusive_or_of_three_is_left_to_the_rest():
    trials = grid(FLAGS | {"c": [1, 2]})
    found = factorial(trials, [float(t["a"] ^ t["b"] ^ (t["c"] == 1)) for t in trials])
    assert found.rest == pytest.approx(1)
    assert "Interactions of three settings or more have 100.0 %" in limits(found)[0]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(2, 4), min_size=2, max_size=4), st.integers(0, 1000), st.integers(1, 2))
def test_a_grid_agrees_with_sums_of_squares_by_hand_in_whatever_order(sizes, seed, times):
    space = {f"p{i}": list(range(size)) for i, size in enumerate(sizes)}
    rng = numpy.random.default_rng(seed)
    values = rng.random(int(numpy.prod(sizes)))
    main, pairs = by_hand(space, values)
    order = rng.permutation(times * len(values)) % len(values)
    trials = grid(space)
    found = factorial([trials[i] for i in order], [values[i] for i in order])
    assert found.main == pytest.approx(main, abs=1e-9)
    assert found.pairs == pytest.approx(pairs, abs=1e-9)
    assert sum(found.main.values()) + sum(found.pairs.values()) + found.rest == pytest.approx(1)


def test_what_is_no_complete_balanced_grid_has_no_exact_shares():
    trials = grid(FLAGS | SPACE)
    values = list(numpy.random.default_rng(0).random(len(trials)))
    assert factorial(trials, values).is_exact
    assert factorial(trials[1:], values[1:]) is None
    assert factorial([*trials, trials[0]], [*values, 0.5]) is None
    assert factorial([{"only": n} for n in range(12)], values[:12]) is None  # nothing to compare
    assert factorial(trials, [0.5] * len(trials)) is None
    assert factorial([], []) is None
    del trials[0]["a"]
    assert factorial(trials, values) is None


def test_one_accuracy_a_combination_leaves_no_error_term_and_that_is_said():
    trials = grid({f"p{i}": [0, 1] for i in range(5)})
    found = factorial(trials, list(numpy.random.default_rng(0).random(32)))
    (line,) = limits(found)
    assert "these 32 trials" in line and "5 settings" in line
    assert "no error term" in line and "3.2 % for each degree of freedom" in line


def test_of_a_sum_the_shares_of_a_search_are_those_of_the_variances():
    trials = draws(SPACE, 200)
    steps = {"x": 0.0, "y": 0.03, None: 0.06}
    values = [
        0.001 * t["width"] + 0.04 * (t["norm"] == "batch") + steps[t["activation"]] for t in trials
    ]
    variances = {"width": 320e-6, "norm": 4e-4, "activation": 6e-4}
    found = main_effects(trials, values)
    for name, variance in variances.items():
        assert found.main[name] == pytest.approx(variance / sum(variances.values()), abs=0.01)
    assert found.rest < 0.01 and not found.is_exact and not found.pairs


def test_the_limits_of_a_search_are_said_in_a_line():
    trials = draws(FLAGS | SPACE, 150)
    found = main_effects(trials, [0.5 + 0.04 * (t["a"] != t["b"]) for t in trials])
    assert found.main["a"] < 0.2 and found.main["b"] < 0.2  # an exclusive or, which it misses
    (line,) = limits(found)
    assert "Main effects only" in line and "exclusive or" in line
    assert "150 trials of 5 settings" in line and "too few" not in line


@pytest.mark.parametrize(("number", "said"), [(30, True), (80, False)])
def test_few_trials_for_many_settings_are_said(number, said):
    made = Importance(main={f"p{i}": 0.1 for i in range(5)}, is_exact=False, num_trials=number)
    assert any("too few to rely on" in each for each in limits(made)) == said
    assert made.rest == pytest.approx(0.5)
    assert all(each.endswith(".") for each in limits(made))


def test_a_setting_that_only_some_trials_have_is_left_out_and_named():
    trials = draws(FLAGS | {"c": [1, 2, 3]}, 60)
    for trial in trials:
        if not trial["a"]:
            del trial["c"]
    found = main_effects(trials, [0.5 + 0.1 * t["b"] for t in trials])
    assert set(found.main) == {"a", "b"}
    assert found.partial == {"c": sum(t["a"] for t in trials)}
    assert f"c ({found.partial['c']} trials)" in " ".join(limits(found))


def test_too_little_is_none_and_no_error():
    trials = draws(SPACE, 9)
    assert main_effects(trials, [0.1 * i for i in range(9)]) is None
    assert main_effects([], []) is None
    trials = draws(SPACE, 30)
    assert main_effects(trials, [0.5] * 30) is None
    assert main_effects([{"a": 1}] * 30, [0.01 * i for i in range(30)]) is None
    assert main_effects([{}] * 30, [0.01 * i for i in range(30)]) is None
    assert main_effects([{"a": 1}] * 15 + [{}] * 15, [0.01 * i for i in range(30)]) is None


def test_a_setting_with_one_value_is_left_out():
    trials = [trial | {"constant": 3} for trial in draws(FLAGS, 30)]
    assert set(main_effects(trials, [0.1 * t["a"] for t in trials]).main) == {"a", "b"}
    trials = [trial | {"constant": 3} for trial in grid(FLAGS)]
    assert set(factorial(trials, [0.1 * t["a"] for t in trials]).main) == {"a", "b"}


def test_shares_are_parts_of_a_whole_and_the_same_again():
    trials, values = draws(FLAGS | SPACE, 25), list(numpy.random.default_rng(0).random(25))
    found = main_effects(trials, values)
    assert main_effects(trials, values) == found
    assert all(0 <= share <= 1 for share in [*found.main.values(), found.rest])


def searched(trials):
    """A study of trials: parameters, curve, and whether they were pruned."""
    study = optuna.create_study(direction="maximize")
    distributions = {
        name: optuna.distributions.CategoricalDistribution((0, 1, 2, 3)) for name in "ab"
    }
    for number, (params, curve, is_pruned) in enumerate(trials):
        study.add_trial(
            optuna.create_trial(
                state=TrialState.PRUNED if is_pruned else TrialState.COMPLETE,
                params=params,
                distributions=distributions,
                value=None if is_pruned else curve[-1],
                intermediate_values=dict(enumerate(curve, start=1)),
                user_attrs={"key": str(number), "architecture": {"stages": [{"width": 16}]}},
            )
        )
    return study.get_trials()


def test_where_networks_were_pruned_shares_are_of_an_accuracy_that_all_have():
    """Among the best alone of an additive function its settings would seem to interact."""
    rng = random.Random(0)
    params = draws({"a": range(4), "b": range(4)}, 200)
    trials = []
    for own in params:
        accuracy = 0.5 + 0.05 * own["a"] + 0.05 * own["b"] + rng.gauss(0, 0.01)
        is_pruned = own["a"] + own["b"] < 4
        trials.append((own, [accuracy] if is_pruned else [accuracy, accuracy + 0.1], is_pruned))
    found = importance_of(small().search, searched(trials))
    assert found.at == "after epoch 1" and found.num_trials == 200
    assert found.main == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.1)
    assert "after epoch 1, the last that pruned trials have too" in " ".join(limits(found))


def test_a_complete_grid_of_a_search_is_analysed_exactly_and_a_pruned_one_is_not():
    plan = small()
    trials = [
        (p, [0.1 * p["a"] + 0.02 * p["b"]], False) for p in grid({"a": range(4), "b": range(4)})
    ]
    found = importance_of(plan.search, searched(trials))
    assert found.is_exact
    assert found.main == pytest.approx({"a": 25 / 26, "b": 1 / 26})
    trials[3] = (*trials[3][:2], True)
    pruned = importance_of(plan.search, searched(trials))
    assert not pruned.is_exact and pruned.at == "after epoch 1"
    assert importance_of(plan.search, []) is None
