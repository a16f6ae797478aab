"""The options that describe an experiment: single fields, and sections by name or in a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from levit_ablate.cli.options import add_conditions, parse, parser_for, read_config
from levit_ablate.config import Data, Design, Experiment, Hardware
from levit_ablate.errors import UserError
from levit_ablate.recipes import RECIPES
from levit_ablate.schema import check_keys, flat

QUICK = RECIPES["quick"]


@pytest.mark.parametrize(
    ("option", "value", "section", "field", "expected"),
    [
        ("--design.pooling", "class_token", "design", "pooling", "class_token"),
        ("--design.pyramid", "false", "design", "pyramid", False),
        ("--design.mlp_expansion", "3", "design", "mlp_expansion", 3.0),
        ("--design.position", "none", "design", "position", "none"),
        ("--recipe.epochs", "5", "recipe", "epochs", 5),
        ("--recipe.learning_rate", "1e-3", "recipe", "learning_rate", 0.001),
        ("--data.image_size", "40", "data", "image_size", 40),
        ("--hardware.num_threads", "2", "hardware", "num_threads", 2),
    ],
)
def test_a_single_field_is_set_by_its_dotted_name(
    resolved, option, value, section, field, expected
):
    for words in ([option, value], [f"{option}={value}"]):
        found = getattr(getattr(resolved(*words), section), field)
        assert found == expected
        assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("option", "word", "expected"),
    [
        ("recipe.epochs", "2:5", UserError),
        ("recipe.epochs", "0o20", 16),
        ("recipe.epochs", "010", 10),
        ("recipe.learning_rate", "1:30", UserError),
        ("recipe.learning_rate", "1e-3", 0.001),
        ("architecture.value_dim", "1:0", UserError),
        ("architecture.value_dim", "0o20", 16),
        ("data.split_seed", "1:4", UserError),
        ("seed", "2:5", UserError),
        ("seed", "0b11", 3),
        ("design.zero_init", "no", UserError),
        ("design.zero_init", "FALSE", False),
    ],
)
def test_a_word_is_the_same_on_the_command_line_and_in_a_file(option, word, expected, write):
    def on_the_command_line():
        parser = parser_for("show", "")
        add_conditions(parser)
        options = parse(parser, [f"--{option}", word])
        check_keys(options, Experiment, "")
        return options

    def in_a_file():
        *sections, key = option.split(".")
        opened = "".join(f"{section}: {{" for section in sections)
        return read_config(Path(write("a.yaml", f"{opened}{key}: {word}{'}' * len(sections)}")))

    for read in (on_the_command_line, in_a_file):
        if expected is UserError:
            remedy = "; write true or false" if word == "no" else ""
            with pytest.raises(UserError, match=f"{option}: .* needed, not '{word}'{remedy}"):
                read()
        else:
            assert flat(read()) == {option: expected}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "--jobs", "1:0"], "--jobs: int needed, not '1:0'"),
        (["plan", "--probe", "no"], "probe: bool needed, not 'no'"),
        (["search", "--trials", "1:0"], "--trials: int needed, not '1:0'"),
    ],
)
def test_the_options_of_other_commands_are_read_so(complaint, words, message):
    """Without a name, so that nothing is begun where the word is taken."""
    assert complaint(*words).startswith(message)


def test_seed_and_model_are_options_of_their_own(resolved):
    assert resolved("--seed", "7").seed == 7
    assert resolved("--model", "levit_micro").model == "levit_micro"


def test_several_options_of_a_section_are_set_together(resolved):
    design = resolved("--design.stem", "patch", "--design.norm", "layer").design
    assert design == Design(stem="patch", norm="layer")


def test_a_geometry_is_given_in_a_file_and_changed_by_a_field(resolved, write):
    stages = "stages: [{depth: 1, width: 24, num_heads: 2}, {depth: 2, width: 32, num_heads: 2}]"
    path = write("small.yaml", f"{stages}\nvalue_dim: 16\nstem_depth: 2\n")
    architecture = resolved("--architecture", path).architecture
    assert [stage.width for stage in architecture.stages] == [24, 32]
    assert (architecture.value_dim, architecture.stem_depth) == (16, 2)
    changed = resolved("--architecture", path, "--architecture.value_dim", "32").architecture
    assert (changed.stages, changed.value_dim) == (architecture.stages, 32)


@pytest.mark.parametrize(
    "options",
    [
        ["--recipe", "smoke", "--recipe.epochs", "5"],
        ["--recipe.epochs", "5", "--recipe", "smoke"],
        ["--recipe=smoke", "--recipe.epochs=5"],
    ],
)
def test_a_single_field_wins_over_a_named_recipe_in_either_order(resolved, options):
    assert resolved(*options).recipe == replace(RECIPES["smoke"], epochs=5)


def test_the_default_recipe_has_a_name_too(resolved):
    assert resolved("--recipe", "quick").recipe == resolved().recipe == QUICK
    assert resolved("--data", "digits").data == Data()


def test_the_last_of_two_recipes_wins(resolved):
    assert resolved("--recipe", "smoke", "--recipe", "quick").recipe == QUICK


@pytest.mark.parametrize(
    ("section", "content", "expected"),
    [
        (
            "recipe",
            "epochs: 9\nlearning_rate: 1e-3\n",
            replace(QUICK, epochs=9, learning_rate=0.001),
        ),
        ("data", "image_size: 40\n", Data(image_size=40)),
        ("design", "stem: patch\n", Design(stem="patch")),
        ("hardware", "num_threads: 1\n", Hardware(num_threads=1)),
    ],
)
def test_a_section_can_be_a_file(resolved, section, content, expected, write):
    path = write("section.yaml", content)
    assert getattr(resolved(f"--{section}", path), section) == expected


def test_a_teachers_recipe_can_be_a_file(resolved, write):
    path = write("mine.yaml", "epochs: 9\n")
    usual = resolved().teacher
    found = resolved("--teacher.recipe", path, "--teacher.top_k", "3").teacher
    assert found == replace(usual, top_k=3, recipe=replace(usual.recipe, epochs=9))


def test_a_single_field_wins_over_a_recipe_in_a_file_in_either_order(resolved, write):
    path = write("mine.yaml", "epochs: 9\nclip: 2\n")
    for options in (
        ["--recipe", path, "--recipe.epochs", "5"],
        ["--recipe.epochs", "5", "--recipe", path],
    ):
        assert resolved(*options).recipe == replace(QUICK, epochs=5, clip=2)
