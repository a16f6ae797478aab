"""Experiments in files: --config, and what --print_config prints."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from levit_ablate.config import Design
from levit_ablate.experiment import variant
from levit_ablate.library import from_recorded
from levit_ablate.recipes import RECIPES
from levit_ablate.schema import experiment_from

QUICK = RECIPES["quick"]


def test_a_config_file_sets_any_part_of_an_experiment(resolved, write):
    path = write("a.yaml", "recipe: {epochs: 7}\ndesign: {stem: patch}\nseed: 3\n")
    found = resolved("--config", path)
    assert (found.recipe, found.design, found.seed) == (
        replace(QUICK, epochs=7),
        Design(stem="patch"),
        3,
    )


def test_options_win_over_a_later_config_and_that_over_an_earlier(resolved, write):
    early = write("early.yaml", "recipe: {epochs: 7, clip: 2, weight_decay: 0.1}\nseed: 1\n")
    late = write("late.yaml", "recipe: {epochs: 8, clip: 3}\n")
    options = ["--config", early, "--recipe.epochs", "9", "--config", late]
    expected = replace(QUICK, epochs=9, clip=3, weight_decay=0.1)
    assert resolved(*options).recipe == expected
    assert resolved(*options).seed == 1
    swapped = resolved("--config", late, "--config", early).recipe
    assert (swapped.epochs, swapped.clip, swapped.weight_decay) == (7, 2, 0.1)


def test_a_named_recipe_wins_over_a_config_file(resolved, write):
    path = write("a.yaml", "recipe: {epochs: 7, clip: 2}\n")
    for options in (
        ["--config", path, "--recipe", "smoke"],
        ["--recipe=smoke", f"--config={path}"],
    ):
        assert resolved(*options).recipe == RECIPES["smoke"]


SMALL = "stages: [{depth: 1, width: 24, num_heads: 2}], value_dim: 16, stem_depth: 2"


@pytest.mark.parametrize("command", ["show", "run"])
@pytest.mark.parametrize("how", ["option", "config", "config with a name", "model"])
def test_a_geometry_is_the_baselines_too_however_it_is_given(told, command, how, write):
    write("small.yaml", f"{{{SMALL}}}")
    write("config.yaml", f"architecture: {{{SMALL}}}")
    write("named.yaml", f"name: no_patch_conv\narchitecture: {{{SMALL}}}")
    Path("ablations/models").mkdir(parents=True)
    write("ablations/models/small.yaml", f"summary: Small\narchitecture: {{{SMALL}}}")
    options = {
        "option": ["no_patch_conv", "--architecture", "small.yaml"],
        "config": ["no_patch_conv", "--config", "config.yaml"],
        "config with a name": ["--config", "named.yaml"],
        "model": ["no_patch_conv", "--model", "small"],
    }[how]
    code, printed, err = told(command, *options, "--data", "digits", "--print_config")
    assert (code, err) == (0, "")
    mapping = yaml.safe_load(printed)
    assert mapping["name"] == "no_patch_conv"
    assert mapping["geometry"] == mapping["architecture"]
    assert mapping["model"] == ("small" if how == "model" else "own geometry")
    shown = variant(*from_recorded(mapping, Path("recorded.yaml")))
    assert list(shown.differences()) == ["design.stem"]


def test_beside_a_name_a_recorded_experiment_gives_its_conditions_alone(told, write):
    """Its explicit design would undo what the name says."""
    write("small.yaml", f"{{{SMALL}}}")
    options = ["--architecture", "small.yaml", "--data", "digits", "--seed", "3"]
    _, printed, _ = told("show", "no_patch_conv", *options, "--print_config")
    path = write("recorded.yaml", printed)
    other = told("show", "no_hardswish", "--config", path, "--print_config")
    assert other == told("show", "no_hardswish", *options, "--print_config")


@pytest.mark.parametrize(
    "option",
    [
        ["--model", "levit_micro"],
        ["--architecture", "small.yaml"],
        ["--config", "model.yaml"],
    ],
)
def test_a_recorded_network_is_not_compared_with_a_baseline_of_another_geometry(
    told, option, write
):
    write("small.yaml", f"{{{SMALL}}}")
    _, printed, _ = told("show", "no_patch_conv", "--data", "digits", "--print_config")
    path = write("recorded.yaml", printed)
    write("model.yaml", "model: levit_micro\n")
    code, _, err = told("show", "--config", path, *option)
    assert code == 2
    assert (
        f"{option[0].replace('config', 'model')}: {path} records a network of its own; name an ablation"
        in err
    )


def test_a_config_file_can_name_the_ablation_and_the_command_line_another(told, write):
    path = write("a.yaml", "name: no_patch_conv\nmodel: levit_nano\n")
    _, out, _ = told("show", "--config", path, "--print_config")
    assert yaml.safe_load(out)["name"] == "no_patch_conv"
    _, out, _ = told("show", "no_hardswish", "--config", path, "--print_config")
    assert yaml.safe_load(out)["name"] == "no_hardswish"


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (["baseline"], {}),
        (
            ["no_pyramid", "--recipe", "smoke", "--seed", "3"],
            {"recipe": asdict(RECIPES["smoke"]), "seed": 3},
        ),
        (
            ["no_wider_blocks", "--match", "none", "--data.image_size", "40"],
            {"match": "none", "data": {"image_size": 40}},
        ),
        (["no_batch_norm", "--design.stem", "patch"], {"design": {"stem": "patch"}}),
    ],
)
def test_a_printed_config_reproduces_the_experiment_and_its_key(told, options, given, write):
    name = options[0]
    code, printed, _ = told("show", *options, "--model", "levit_nano", "--print_config")
    assert code == 0
    path = write("printed.yaml", printed)
    assert told("show", "--config", path, "--print_config") == (0, printed, "")

    mapping = yaml.safe_load(printed)
    changed = {"design", "match"} & set(given)
    assert mapping["name"].startswith(f"{name} + " if changed else name)
    again = variant(*from_recorded(mapping, Path(path)))
    for said in ("name", "summary", "paper", "geometry"):
        mapping.pop(said, None)
    assert again.experiment == experiment_from(mapping)
    assert again.key == variant(name, given).key


def test_a_recipe_is_named_in_a_config_file_as_on_the_command_line(resolved, write):
    path = write("a.yaml", "recipe: smoke\n")
    assert resolved("--config", path).recipe == RECIPES["smoke"]


def test_a_recorded_ablation_of_ones_own_needs_its_file_no_more(told, tmp_path, monkeypatch, write):
    write("zed.yaml", "summary: Mine\nmatch: flops\ndesign: {stem: patch}\n")
    code, printed, _ = told("show", "zed.yaml", "--model", "levit_nano", "--print_config")
    assert code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = write("recorded.yaml", printed)
    assert told("show", "--config", path, "--print_config") == (0, printed, "")
