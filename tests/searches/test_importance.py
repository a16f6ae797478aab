"""The importance of parameters is what it is where it can be known, and the forest's exactly."""

from __future__ import annotations

import itertools

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit_ablate.searches.forest import Axis, Forest
from levit_ablate.searches.importance import Importance, importance, limits
from levit_ablate.searches.tree import Split, grow

FLAGS = {"a": [False, True], "b": [False, True]}
SPACE = {"width": [16, 32, 48, 64], "norm": ["batch", "layer"], "activation": ["x", "y", "z"]}


def draws(space, number, seed=0):
    """Trials drawn uniformly from a space."""
    rng = numpy.random.default_rng(seed)
    return [
        {n: values[rng.integers(len(values))] for n, values in space.items()} for _ in range(number)
    ]


def test_an_exclusive_or_is_all_in_the_pair():
    trials = draws(FLAGS, 60)
    found = importance(trials, [0.5 + 0.1 * (t["a"] != t["b"]) for t in trials])
    assert found.main["a"] < 0.02 and found.main["b"] < 0.02
    assert found.pairs["a", "b"] > 0.96
    assert found.explained > 0.9


def test_an_exclusive_or_is_seen_among_parameters_that_matter_more_by_themselves():
    trials = draws(FLAGS | SPACE, 150)
    rng = numpy.random.default_rng(1)
    values = [
        0.5 + 0.001 * t["width"] + 0.06 * (t["norm"] == "batch") + 0.04 * (t["a"] != t["b"])
        for t in trials
    ]
    found = importance(trials, values + 0.005 * rng.standard_normal(len(values)))
    truth = {"width": 320 * 1e-6, "norm": 9e-4, "xor": 4e-4}
    share = truth["xor"] / sum(truth.values())
    assert found.pairs["a", "b"] == pytest.approx(share, abs=0.08)
    assert max(found.pairs, key=found.pairs.get) == ("a", "b")
    assert found.main["a"] < 0.02 and found.main["b"] < 0.02


def test_of_a_sum_the_shares_are_those_of_the_variances():
    trials = draws(SPACE, 200)
    steps = {"x": 0.0, "y": 0.03, "z": 0.06}
    values = [
        0.001 * t["width"] + 0.04 * (t["norm"] == "batch") + steps[t["activation"]] for t in trials
    ]
    variances = {"width": 320e-6, "norm": 4e-4, "activation": 6e-4}
    found = importance(trials, values)
    for name, variance in variances.items():
        assert found.main[name] == pytest.approx(variance / sum(variances.values()), abs=0.05)
    assert max(found.pairs.values()) < 0.02


def test_shares_are_of_the_space_and_not_of_how_often_it_was_sampled():
    often = draws({"a": [False, True], "b": [False]}, 100) + draws(
        {"a": [False, True], "b": [True]}, 20
    )
    found = importance(often, [0.5 + 0.1 * t["a"] * t["b"] for t in often])  # an and
    assert found.main == pytest.approx({"a": 1 / 3, "b": 1 / 3}, abs=0.03)
    assert found.pairs["a", "b"] == pytest.approx(1 / 3, abs=0.03)


def brute_force(forest: Forest) -> tuple[list[float], dict[tuple[int, int], float]]:
    """Its shares by its prediction of every point of the space."""
    shape = [each.shape[1] for each in forest.inside]
    table = numpy.zeros(shape)
    for point in itertools.product(*map(range, shape)):
        there = numpy.prod(
            [each[:, k] for each, k in zip(forest.inside, point, strict=True)], axis=0
        )
        table[point] = forest.heights @ there
    over = lambda kept: tuple(i for i in range(len(shape)) if i not in kept)  # noqa: E731
    alone = [table.mean(axis=over([i])).var() for i in range(len(shape))]
    pairs = {
        (i, j): table.mean(axis=over([i, j])).var() - alone[i] - alone[j]
        for i, j in itertools.combinations(range(len(shape)), 2)
    }
    return [v / table.var() for v in alone], {k: v / table.var() for k, v in pairs.items()}


def test_the_sums_over_leaves_are_what_the_whole_grid_gives():
    trials = draws(FLAGS | SPACE, 40)
    for trial in trials[::3]:
        del trial["activation"]
    values = numpy.random.default_rng(2).random(40)
    axes = [Axis.of(name, trials) for name in FLAGS | SPACE]
    forest = Forest.fitted(axes, values, numpy.random.default_rng(0))
    main, pairs = forest.shares()
    by_hand = brute_force(forest)
    assert main == pytest.approx(by_hand[0], abs=1e-5)
    assert pairs == pytest.approx(by_hand[1], abs=1e-5)


def test_where_a_parameter_is_missing_it_does_not_matter():
    trials = draws({"a": [False, True], "b": [1, 2, 3]}, 120)
    for trial in trials:
        if not trial["a"]:
            del trial["b"]
    found = importance(trials, [0.5 + 0.1 * t["b"] if t["a"] else 0.7 for t in trials])
    # 0.7 without a; 0.6, 0.7, 0.8 with it: b counts only where a is, and a by itself not at all
    assert found.main["a"] < 0.03
    assert found.main["b"] == pytest.approx(0.5, abs=0.06)
    assert found.pairs["a", "b"] == pytest.approx(0.5, abs=0.06)
    assert found.present == {"b": sum(t["a"] for t in trials)}
    assert f"b ({found.present['b']})" in " ".join(limits(found))


def test_too_little_is_none_and_no_error():
    trials = draws(SPACE, 9)
    assert importance(trials, [0.1 * i for i in range(9)]) is None
    assert importance([], []) is None
    trials = draws(SPACE, 30)
    assert importance(trials, [0.5] * 30) is None
    assert importance([{"a": 1}] * 30, [0.01 * i for i in range(30)]) is None
    assert importance([{}] * 30, [0.01 * i for i in range(30)]) is None


def test_a_parameter_with_one_value_is_left_out():
    trials = [trial | {"constant": 3} for trial in draws(FLAGS, 30)]
    found = importance(trials, [0.1 * t["a"] for t in trials])
    assert set(found.main) == {"a", "b"} and set(found.pairs) == {("a", "b")}


def test_noise_is_not_explained_and_the_limits_say_so():
    trials = draws(FLAGS | SPACE, 60)
    found = importance(trials, numpy.random.default_rng(0).random(60))
    assert found.explained < 0.2 and not found.reliable
    assert limits(found)[0].startswith("These shares are not to be relied on")
    assert "60 trials of 5 parameters" in " ".join(limits(found))


@pytest.mark.parametrize(("number", "said"), [(30, True), (80, False)])
def test_few_trials_for_many_parameters_are_said(number, said):
    made = Importance(
        main={f"p{i}": 0.1 for i in range(5)},
        pairs={},
        explained=0.9,
        num_trials=number,
        present={},
    )
    assert any("fewer than 10 trials" in each for each in limits(made)) == said
    assert made.higher == pytest.approx(0.5)
    assert all(each.endswith(".") for each in limits(made))


@st.composite
def searches(draw):
    """Trials with values of every kind, some missing, and accuracies."""
    kinds = st.sampled_from([[False, True], [1, 2, 4], ["x", "y", "z"], [0.1, 0.5], [None, "x"]])
    space = {
        f"p{i}": values for i, values in enumerate(draw(st.lists(kinds, min_size=1, max_size=4)))
    }
    trials = draws(space, draw(st.integers(10, 25)), draw(st.integers(0, 1000)))
    missing = draw(st.sets(st.tuples(st.integers(0, 9), st.sampled_from(sorted(space)))))
    for number, name in missing:
        trials[number].pop(name, None)
    accuracies = st.floats(0, 1).map(lambda a: round(a, 3))
    return trials, draw(st.lists(accuracies, min_size=len(trials), max_size=len(trials)))


@settings(max_examples=12, deadline=None)
@given(searches())
def test_shares_are_parts_of_a_whole_and_the_same_again(search):
    found = importance(*search)
    assert importance(*search) == found
    if found is not None:
        shares = [*found.main.values(), *found.pairs.values(), found.higher]
        assert all(0 <= share <= 1 + 1e-5 for share in shares)
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        assert found.explained <= 1


@settings(max_examples=10, deadline=None)
@given(searches())
def test_names_and_units_do_not_matter(search):
    trials, values = search
    found = importance(trials, values)
    new = {"x": "later", "y": "earlier", "z": "", 1: 10, 2: 200, 4: 201}
    renamed = [
        {f"z{name[::-1]}": new.get(v, v) if not isinstance(v, bool) else v for name, v in t.items()}
        for t in trials
    ]
    other = importance(renamed, [0.25 * value for value in values])
    if found is None:
        assert other is None
        return
    assert list(other.main.values()) == pytest.approx(list(found.main.values()), abs=1e-5)
    assert list(other.pairs.values()) == pytest.approx(list(found.pairs.values()), abs=1e-5)
    assert other.explained == pytest.approx(found.explained, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_leaves_part_the_trials_and_the_space(seed):
    rng = numpy.random.default_rng(seed)
    seen = [rng.integers(3, size=40), rng.integers(2, size=40)]
    target, weights = rng.random(40), numpy.bincount(rng.integers(40, size=40), minlength=40)
    sides = [(0, [1, 0, 0]), (0, [1, 1, 0]), (1, [1, 0])]
    splits = [Split(column=c, side=numpy.array(side, bool)) for c, side in sides]
    leaves = grow([3, 2], seen, target, weights, splits)
    assert sorted(numpy.concatenate([leaf.rows for leaf in leaves])) == list(range(40))
    for point in itertools.product(range(3), range(2)):
        assert sum(leaf.box[0][point[0]] and leaf.box[1][point[1]] for leaf in leaves) == 1
    for leaf in leaves:
        assert all(leaf.box[0][seen[0][leaf.rows]] & leaf.box[1][seen[1][leaf.rows]])
        assert leaf.mean == pytest.approx(
            numpy.average(target[leaf.rows], weights=weights[leaf.rows])
        )
