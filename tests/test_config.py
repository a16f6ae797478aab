"""The configs: what they refuse, in which words, and that nobody changes them."""

import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from levit_ablate.config import (
    Architecture,
    Data,
    Design,
    Experiment,
    Hardware,
    Images,
    Recipe,
    Stage,
    differences,
)
from levit_ablate.errors import UserError, closest

STAGE = Stage(depth=1, width=8, num_heads=1)
ARCHITECTURE = {"stages": (STAGE,), "value_dim": 8}
IMAGES = {"channels": 1, "height": 8, "width": 8, "num_classes": 2}
EXAMPLES = [
    Design(),
    STAGE,
    Architecture(**ARCHITECTURE),
    Images(**IMAGES),
    Data(),
    Recipe(),
    Hardware(),
    Experiment(),
]


def refusal(config, **values):
    with pytest.raises(UserError) as error:
        config(**values)
    return str(error.value)


# Choices.


@pytest.mark.parametrize(
    ("config", "field", "value", "rest"),
    [
        (
            Design,
            "position",
            "absolut",
            "did you mean absolute? valid: absolute, attention_bias, none",
        ),
        (Design, "position", "relative", "valid: absolute, attention_bias, none"),
        (Design, "attention_activation", "some", "did you mean same? valid: none, same"),
        (
            Design,
            "activation",
            "hard_swish",
            "did you mean hardswish? valid: gelu, hardswish, relu",
        ),
        (Design, "activation", "none", "valid: gelu, hardswish, relu"),
        (Design, "keys", "as_value", "did you mean as_values? valid: as_values, small"),
        (Design, "stem", "patches", "did you mean patch? valid: convolution, patch"),
        (Design, "pooling", "class-token", "did you mean class_token? valid: average, class_token"),
        (Design, "norm", "batchnorm", "did you mean batch? valid: batch, layer"),
        (Design, "norm", None, "valid: batch, layer"),
        (
            Design,
            "downsampling",
            "Attention",
            "did you mean attention? valid: attention, convolution",
        ),
        (Design, "distillation", "hart", "did you mean hard? valid: hard, none, soft"),
        (Design, "distillation", False, "valid: hard, none, soft"),
        (
            Data,
            "name",
            "digit",
            "did you mean digits? valid: cifar10, cifar100, digits, fashion_mnist, folder",
        ),
        (
            Recipe,
            "precision",
            "16-mix",
            "did you mean 16-mixed? valid: 16-mixed, 32-true, auto, bf16-mixed",
        ),
        (Recipe, "clipping", "adapt", "did you mean adaptive? valid: adaptive, none, norm"),
        (Hardware, "accelerator", "gpus", "did you mean gpu? valid: auto, cpu, gpu"),
    ],
)
def test_a_value_that_is_no_choice_is_refused_with_the_closest_and_all_choices(
    config, field, value, rest
):
    where = f"{config.__name__.lower()}.{field}"
    assert refusal(config, **{field: value}) == f"{where}: {value!r} is not a choice; {rest}"


def test_a_cost_that_cannot_be_matched_is_refused_with_the_closest_one():
    assert refusal(Experiment, match="flop") == (
        "match: 'flop' is not a choice; did you mean flops? valid: flops, none, params"
    )


def test_without_anything_close_all_valid_names_are_given_in_order():
    assert closest("zzz", ["b", "a"]) == "valid: a, b"
    assert closest("lavit", ["other", "levit"]) == "did you mean levit? valid: levit, other"
    assert closest(None, ["none"]) == "did you mean none? valid: none"


# Ranges.


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (Design, {"mlp_expansion": 0}, "design.mlp_expansion: 0 must be above 0 and at most 1,024"),
        (
            Design,
            {"mlp_expansion": -1.5},
            "design.mlp_expansion: -1.5 must be above 0 and at most 1,024",
        ),
        (
            Design,
            {"mlp_expansion": math.nan},
            "design.mlp_expansion: nan must be above 0 and at most 1,024",
        ),
        (
            Stage,
            {"depth": 0, "width": 1, "num_heads": 1},
            "stage.depth: 0 must be at least 1 and at most 65,536",
        ),
        (
            Stage,
            {"depth": 1, "width": 0, "num_heads": 1},
            "stage.width: 0 must be at least 1 and at most 65,536",
        ),
        (
            Stage,
            {"depth": 1, "width": 1, "num_heads": 0},
            "stage.num_heads: 0 must be at least 1 and at most 65,536",
        ),
        (
            Architecture,
            {**ARCHITECTURE, "stages": ()},
            "architecture.stages: at least one stage is needed",
        ),
        (
            Architecture,
            {**ARCHITECTURE, "value_dim": 0},
            "architecture.value_dim: 0 must be at least 1 and at most 65,536",
        ),
        (
            Architecture,
            {**ARCHITECTURE, "stem_depth": 0},
            "architecture.stem_depth: 0 must be at least 1 and at most 8",
        ),
        (
            Architecture,
            {**ARCHITECTURE, "stem_depth": 9},
            "architecture.stem_depth: 9 must be at least 1 and at most 8",
        ),
        (
            Architecture,
            {**ARCHITECTURE, "drop_path": 1.0},
            "architecture.drop_path: 1.0 must be at least 0 and at most 0.99",
        ),
        (
            Architecture,
            {**ARCHITECTURE, "drop_path": -0.1},
            "architecture.drop_path: -0.1 must be at least 0 and at most 0.99",
        ),
        (Images, {**IMAGES, "channels": 0}, "images.channels: 0 must be at least 1"),
        (Images, {**IMAGES, "height": 0}, "images.height: 0 must be at least 1"),
        (Images, {**IMAGES, "width": -3}, "images.width: -3 must be at least 1"),
        (Images, {**IMAGES, "num_classes": 1}, "images.num_classes: 1 must be at least 2"),
        (Data, {"image_size": 7}, "data.image_size: 7 must be at least 8 and at most 1,024"),
        (Recipe, {"batch_size": 1}, "recipe.batch_size: 1 must be at least 2"),
        (Recipe, {"epochs": 0}, "recipe.epochs: 0 must be at least 1"),
        (Recipe, {"learning_rate": 0}, "recipe.learning_rate: 0 must be above 0"),
        (Recipe, {"clip": 0.0}, "recipe.clip: 0.0 must be above 0"),
        (Recipe, {"warmup_epochs": -1}, "recipe.warmup_epochs: -1 must be at least 0"),
        (Recipe, {"weight_decay": -0.5}, "recipe.weight_decay: -0.5 must be at least 0"),
        (
            Recipe,
            {"label_smoothing": 1.0},
            "recipe.label_smoothing: 1.0 must be at least 0 and at most 0.99",
        ),
        (Hardware, {"num_threads": -1}, "hardware.num_threads: -1 must be at least 0"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(config, values, message):
    assert refusal(config, **values) == message


@pytest.mark.parametrize("seed", [-1, 2**32])
@pytest.mark.parametrize(
    ("config", "field", "name"),
    [(Experiment, "seed", "seed"), (Data, "split_seed", "data.split_seed")],
)
def test_seeds_are_those_that_numpy_takes(config, field, name, seed):
    message = f"{name}: {seed} must be at least 0 and at most 4,294,967,295"
    assert refusal(config, **{field: seed}) == message
    assert getattr(config(**{field: 2**32 - 1}), field) == 2**32 - 1


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (Design, {"mlp_expansion": 1e-9}),
        (Architecture, {**ARCHITECTURE, "stem_depth": 1, "drop_path": 0}),
        (Architecture, {**ARCHITECTURE, "stem_depth": 8, "drop_path": 0.99}),
        (Images, {"channels": 1, "height": 1, "width": 1, "num_classes": 2}),
        (Data, {"image_size": 8, "split_seed": 0}),
        (Recipe, {"epochs": 1, "warmup_epochs": 0, "weight_decay": 0, "label_smoothing": 0}),
        (Experiment, {"seed": 0}),
    ],
)
def test_the_ends_of_the_ranges_are_taken(config, values):
    taken = config(**values)
    assert {name: getattr(taken, name) for name in values} == values


# The combination without a meaning.


def test_a_missing_pyramid_refuses_only_another_downsampling():
    message = refusal(Design, pyramid=False, downsampling="convolution")
    assert message.startswith("design.pyramid: false cannot be combined with design.downsampling: ")
    assert "nothing to downsample" in message
    assert Design(pyramid=False).downsampling == "attention"
    assert Design(downsampling="convolution").pyramid


# What a config is.


@pytest.mark.parametrize("config", EXAMPLES, ids=lambda config: type(config).__name__)
def test_configs_are_frozen_and_hashable_and_take_their_fields_by_name_only(config):
    name = fields(config)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(config, name, getattr(config, name))
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    again = type(config)(**values)
    assert again == config
    assert hash(again) == hash(config)
    with pytest.raises(TypeError, match="positional"):
        type(config)(*values.values())


def test_a_stage_as_text_names_what_it_has_of_its_own():
    assert str(STAGE) == "1x C8 N1"
    own = replace(STAGE, value_dim=4, mlp_expansion=1.5)
    assert str(own) == "1x C8 N1 value_dim 4 mlp_expansion 1.5"


def test_the_defaults_of_design_are_levit_itself():
    assert Design() == Design(
        pyramid=True,
        position="attention_bias",
        attention_activation="same",
        activation="hardswish",
        keys="small",
        mlp_expansion=2,
        stem="convolution",
        pooling="average",
        norm="batch",
        downsampling="attention",
        zero_init=True,
        distillation="hard",
    )


def test_differences_are_the_fields_that_differ_with_both_values():
    first, second = Design(norm="layer"), Design(norm="layer", mlp_expansion=4, pyramid=False)
    assert differences(first, second) == {"pyramid": (True, False), "mlp_expansion": (2.0, 4)}
    assert differences(first, first) == {}


def test_a_user_error_is_one_line():
    with pytest.raises(ValueError, match="valid") as error:
        Design(position="a")
    assert "\n" not in str(error.value)


def test_configs_are_read_without_torch():
    code = "import sys, levit_ablate.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_warm_up_longer_than_the_training_is_refused_naming_both():
    with pytest.raises(UserError, match=r"recipe\.warmup_epochs: 3 .*recipe\.epochs: 2"):
        Recipe(epochs=2, warmup_epochs=3)
