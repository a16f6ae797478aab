"""Experiments to and from mappings and YAML, and what is said of a mapping that is none."""

from __future__ import annotations

import copy
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from levit_ablate.config import Data, Design, Experiment, Hardware, Recipe, Stage
from levit_ablate.errors import UserError
from levit_ablate.models.presets import preset, shipped
from levit_ablate.recipes import RECIPES
from levit_ablate.schema import (
    check_keys,
    experiment_from,
    merge,
    plain,
    read_yaml,
    seeds_from,
    yaml_of,
)

# --- any experiment, from the types of its fields, within the ranges that nearly all of them have

seeds = st.integers(0, 2**32 - 1)
SPECIAL = {
    "stem_depth": st.integers(1, 8),
    "warmup_epochs": st.floats(0, 1),  # no more than the epochs
    "learning_rate": st.floats(1e-12, 1e3),
    "clip": st.floats(1e-6, 1e6),
    "split_seed": seeds,
    "seed": seeds,
    "model": st.sampled_from(sorted(shipped())),
    "work_dir": st.text(min_size=1, max_size=8).filter(str.strip),
}


def of(hint):
    """Any value of a field of this type."""
    if is_dataclass(hint):
        return instances(hint)
    if get_origin(hint) is tuple:
        return st.lists(of(get_args(hint)[0]), min_size=1, max_size=4).map(tuple)
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if isinstance(hint, UnionType):
        return st.one_of(*map(of, get_args(hint)))
    return {
        bool: st.booleans(),
        NoneType: st.none(),
        str: st.text(max_size=8),
        int: st.integers(8, 1000),
        float: st.floats(1e-12, 0.9),
    }[hint]


def instances(config):
    """Any valid instance of a config."""
    hints = get_type_hints(config)
    values = {
        field.name: SPECIAL.get(field.name) or of(hints[field.name]) for field in fields(config)
    }
    defaults = {f.name: st.just(f.default) for f in fields(config) if f.default is not MISSING}
    parts = st.fixed_dictionaries(
        {name: defaults.get(name, value) | value for name, value in values.items()}
    )
    if config is Design:
        parts = parts.filter(lambda d: d["pyramid"] or d["downsampling"] == "attention")
    if config is Recipe:
        averaged = ("ema_decay", "ema_horizon")
        parts = parts.filter(lambda r: r["evaluate"] == "network" or any(map(r.get, averaged)))
    return parts.map(lambda values: config(**values))


@settings(deadline=None, max_examples=150)
@given(instances(Experiment))
def test_an_experiment_comes_back_from_its_yaml(experiment):
    assert experiment_from(yaml.safe_load(yaml_of(plain(experiment)))) == experiment


@settings(deadline=None, max_examples=50)
@given(instances(Experiment))
def test_an_experiment_comes_back_from_its_mapping_with_every_type_kept(experiment):
    again = experiment_from(plain(experiment))
    assert repr(again) == repr(experiment)


def test_an_experiment_comes_back_from_a_file(tmp_path):
    experiment = Experiment(
        model="levit_micro",
        architecture=preset("levit_384").architecture,
        design=Design(position="none", norm="layer"),
        recipe=RECIPES["smoke"],
        seed=2**32 - 1,
    )
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml_of(plain(experiment)), encoding="utf-8")
    assert experiment_from(read_yaml(path)) == experiment


def test_what_a_mapping_leaves_out_is_the_default():
    assert experiment_from({}) == Experiment()
    partial = experiment_from({"design": {"stem": "patch"}, "recipe": {"epochs": 3}, "seed": 4})
    assert partial == Experiment(design=Design(stem="patch"), recipe=Recipe(epochs=3), seed=4)


@pytest.mark.parametrize(
    ("text", "learning_rate"), [("1", 1.0), ("1e-3", 0.001), ("1.0e-3", 0.001), (".5", 0.5)]
)
def test_a_number_may_be_written_in_any_way(text, learning_rate):
    mapping = yaml.safe_load(f"recipe: {{learning_rate: {text}}}")
    recipe = experiment_from(mapping).recipe
    assert repr(recipe.learning_rate) == repr(learning_rate)


STAGE = {"depth": 1, "width": 16, "num_heads": 2}
REFUSED = [
    ({"desing": {}}, r"unknown key desing; did you mean design\? valid: architecture, data,"),
    (
        {"recipe": {"epoch": 3}},
        r"unknown key recipe\.epoch; did you mean epochs\? valid: batch_size, clip, ",
    ),
    ({1: 2}, "unknown key 1; valid: architecture,"),
    ({"seed": "many"}, "seed: int needed, not '?many'?$"),
    ({"seed": 1.5}, "seed: int needed, not 1.5"),
    ({"seed": True}, "seed: int needed, not True"),
    ({"seed": None}, "seed: int needed, not None"),
    ({"seed": -1}, r"(experiment\.)?seed: -1 must be at least 0"),
    ({"model": 3}, "model: str needed, not 3"),
    ({"model": None}, "model: str needed, not None"),
    ({"match": "flop"}, r"match: 'flop' is not a choice; did you mean flops\?"),
    ({"recipe": "smoke"}, "recipe: 'smoke' is no mapping; keys: epochs, batch_size,"),
    ({"recipe": None}, "recipe: None is no mapping; keys: epochs, batch_size,"),
    ({"recipe": {"epochs": 0}}, r"recipe\.epochs: 0 must be at least 1"),
    ({"recipe": {"learning_rate": "fast"}}, r"recipe\.learning_rate: float needed, not '?fast'?$"),
    ({"recipe": {"learning_rate": 0}}, r"recipe\.learning_rate: 0\.0 must be above 0"),
    ({"recipe": {"clip": float("inf")}}, r"recipe\.clip: .*not inf"),
    ({"recipe": {"clip": float("nan")}}, r"recipe\.clip: .*nan"),
    ({"recipe": {"label_smoothing": 1}}, r"recipe\.label_smoothing: 1\.0 must be .* at most 0\.99"),
    ({"data": {"name": "digit"}}, r"data\.name: 'digit' is not a choice; did you mean digits\?"),
    ({"design": {"zero_init": "no"}}, r"design\.zero_init: bool needed, not 'no'"),
    ({"architecture": {}}, "architecture: needs (stages, value_dim|value_dim, stages);"),
    ({"architecture": {"stages": 3, "value_dim": 8}}, r"architecture\.stages: list needed, not 3"),
    (
        {"architecture": {"stages": [STAGE, {**STAGE, "depth": 0}], "value_dim": 8}},
        r"stage\.depth: 0 must be at least 1 and at most 65,536$",
    ),
    (
        {"architecture": {"stages": [STAGE, 3], "value_dim": 8}},
        r"architecture\.stages\[1\]: 3 is no mapping; keys: depth, width, num_heads",
    ),
    (
        {"design": {"pyramid": False, "downsampling": "convolution"}},
        "design.pyramid: false cannot be combined with design.downsampling: convolution",
    ),
]


@pytest.mark.parametrize(("mapping", "message"), REFUSED)
def test_what_is_no_experiment_is_refused_with_place_key_and_remedy(mapping, message):
    with pytest.raises(UserError, match=f"^my.yaml: {message}") as refused:
        experiment_from(mapping, "my.yaml")
    assert len(str(refused.value).splitlines()) == 1
    assert "Namespace" not in str(refused.value)


# --- check_keys


def test_keys_of_a_config_pass_nested_and_partial():
    check_keys({"stem": "patch"}, Design, "x")
    check_keys({"architecture": {"stages": [{"width": 3}]}, "seed": 1}, Experiment, "x")
    check_keys({"architecture": None}, Experiment, "x")


@pytest.mark.parametrize("config", [Data, Design, Recipe, Hardware, Stage, Experiment])
def test_an_unknown_key_is_refused_in_every_config_with_all_valid_keys(config):
    names = ", ".join(sorted(f.name for f in fields(config)))
    with pytest.raises(UserError, match=f"^my.yaml: unknown key a.b.xyzzy; valid: {names}$"):
        check_keys({"xyzzy": 1}, config, "my.yaml", prefix="a.b.")


# --- merge

mappings = st.recursive(
    st.integers() | st.text(max_size=2) | st.none() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
layers = st.dictionaries(st.sampled_from("abc"), mappings, max_size=3)


def test_the_last_layer_that_has_a_key_decides_it():
    merged = merge(
        {"design": {"stem": "patch", "norm": "layer"}, "seed": 1},
        {"design": {"norm": "batch"}, "seed": 2},
        {"match": "none"},
    )
    assert merged == {
        "design": {"stem": "patch", "norm": "batch"},
        "seed": 2,
        "match": "none",
    }


@pytest.mark.parametrize(
    ("below", "above"), [(None, {"a": 1}), ({"a": 1}, None), ([1], {"a": 1}), ({"a": 1}, [1])]
)
def test_what_is_no_mapping_replaces_and_is_replaced_whole(below, above):
    assert merge({"key": below}, {"key": above}) == {"key": above}


def test_lists_are_replaced_not_joined():
    assert merge({"stages": [1, 2, 3]}, {"stages": [4]}) == {"stages": [4]}


@settings(deadline=None)
@given(layers, layers)
def test_merging_changes_neither_layer_and_keeps_all_of_the_last(first, second):
    before = copy.deepcopy((first, second))
    merged = merge(first, second)
    assert (first, second) == before
    assert merge(merged, second) == merged
    assert merge(first) == first == merge({}, first) == merge(first, {})
    assert set(merged) == set(first) | set(second)


# --- seeds


@pytest.mark.parametrize(
    ("said", "seeds"),
    [
        (3, (0, 1, 2)),
        ("3", (0, 1, 2)),
        ("0,1, 5", (0, 1, 5)),
        ("[4, 2]", (4, 2)),
        ([7], (7,)),
        ("20000", (20000,)),  # too many to be how many
    ],
)
def test_seeds_are_said_by_how_many_or_which(said, seeds):
    assert seeds_from(said, "--seeds") == seeds


def test_where_seeds_are_not_counted_a_number_is_a_seed():
    assert seeds_from("3", "--seeds", counted=False) == seeds_from(3, "", counted=False) == (3,)


@pytest.mark.parametrize(
    "said", ["", "three", "-1", "1,1", "0", "1,,2", 2.0, True, {0: 1}, [], [2**32]]
)
def test_what_are_no_seeds_is_refused_with_the_option(said):
    with pytest.raises(UserError, match=r"^--seeds: .*(neither how many|at least one)"):
        seeds_from(said, "--seeds")


# --- files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"f\.yaml: is empty, where keys and values are needed"),
        (b"- a\n", r"f\.yaml: holds list, "),
        (b"3\n", r"f\.yaml: holds int, "),
        (b"a: 1\n b: 2\n", r"f\.yaml:2: not YAML: "),
        (b"a: {b: [1, 2}\n", r"f\.yaml:1: not YAML: "),
        (b"a: \x01\n", r"f\.yaml.*: not YAML: "),
        (b"a: \xe9\n", r"f\.yaml: is not UTF-8 text"),
    ],
)
def test_a_file_that_holds_no_keys_and_values_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    Path("f.yaml").write_bytes(content)
    with pytest.raises(UserError, match=f"^{message}"):
        read_yaml(Path("f.yaml"))


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path):
    with pytest.raises(UserError, match="nowhere: cannot be read: No such file or directory"):
        read_yaml(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)


def test_a_file_is_read_as_utf_8(tmp_path):
    (tmp_path / "f.yaml").write_text("summary: ½ Q Kᵀ\n", encoding="utf-8")
    assert read_yaml(tmp_path / "f.yaml") == {"summary": "½ Q Kᵀ"}


def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("design:\n  stem: patch\n  stem: convolution\n")
    with pytest.raises(UserError, match=r"twice\.yaml:3: .*the key stem stands twice"):
        read_yaml(path)


# --- numbers and words


def read(tmp_path: Path, text: str):
    """What a file reads of `a`, and of `b`, where it stands in a list."""
    (tmp_path / "f.yaml").write_text(f"a: {text}\nb: [{text}]\n", encoding="utf-8")
    content = read_yaml(tmp_path / "f.yaml")
    assert repr(content["b"]) == repr([content["a"]])
    return content["a"]


in_a_folder = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)


@in_a_folder
@given(st.integers(0), st.integers(0, 4), st.sampled_from(["", "+", "-"]))
def test_a_whole_number_is_decimal_however_many_zeros_lead_it(tmp_path, number, zeros, sign):
    for digits in (str(number), f"{number:_}"):
        text = sign + "0" * zeros + digits
        assert read(tmp_path, text) == int(text)


@in_a_folder
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["r", "e", "g", ".3f"]))
def test_a_number_is_a_float_as_python_writes_it(tmp_path, number, way):
    text = repr(number) if way == "r" else format(number, way)
    found = read(tmp_path, text)
    assert found == float(text)
    assert type(found) is (int if set(text) <= set("-0123456789") else float)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("08", 8),
        ("0o10", 8),
        ("0x1F", 31),
        ("0b11", 3),
        ("1_000", 1000),
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("2:5", "2:5"),
        ("190:20:30", "190:20:30"),
        ("2:5.5", "2:5.5"),
        ("2024-01-31", "2024-01-31"),
        ("2024-13-45", "2024-13-45"),
        ("=", "="),
        *((word, word) for word in ("yes", "no", "on", "off", "No", "ON", "y", "n")),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("none", "none"),
    ],
)
def test_words_and_numbers_are_those_of_yaml_1_2(tmp_path, text, value):
    assert repr(read(tmp_path, text)) == repr(value)


@in_a_folder
@given(
    st.text(st.sampled_from("0123456789abefonxyzNOFS_+-.:~=<! #'\""), max_size=6)
    | st.sampled_from(["010", "08", "no", "1e3", "1e-3", "true", "~", "2024-01-31", "<<", "0o7"])
)
def test_text_that_looks_like_something_else_comes_back_as_text_by_any_reader(tmp_path, text):
    work_dir = text if text.strip() else "."
    experiment = Experiment(hardware=Hardware(work_dir=work_dir))
    written = yaml_of(plain(experiment))
    (tmp_path / "f.yaml").write_text(written, encoding="utf-8")
    assert experiment_from(read_yaml(tmp_path / "f.yaml")) == experiment
    assert experiment_from(yaml.safe_load(written)) == experiment  # PyYAML's own, of YAML 1.1


def test_a_seed_with_a_leading_zero_is_decimal_and_a_flag_is_true_or_false(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text("seed: 010\nrecipe: {learning_rate: 1e-3}\n")
    experiment = experiment_from(read_yaml(path))
    assert experiment.seed == 10 and experiment.recipe.learning_rate == 0.001
    path.write_text("design: {pyramid: no}\n")
    with pytest.raises(UserError, match="bool needed, not 'no'; write true or false"):
        experiment_from(read_yaml(path))
    path.write_text("design: {stem: no}\n")
    with pytest.raises(UserError, match=r"design\.stem: 'no' is not a choice"):
        experiment_from(read_yaml(path))


@pytest.mark.parametrize(
    "text", ["9" * 5000, "!!int abc", "!!timestamp x", "!!python/name:os.system"]
)
def test_what_cannot_be_read_as_a_value_is_one_line_with_the_file(tmp_path, text):
    path = tmp_path / "f.yaml"
    path.write_text(f"seed: {text}\n")
    with pytest.raises(UserError, match=r"f\.yaml.*: not YAML: ") as refused:
        read_yaml(path)
    assert len(str(refused.value).splitlines()) == 1
