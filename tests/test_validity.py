"""An ablation that changes nothing is refused, and says why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from levit_ablate import library
from levit_ablate.config import Design, Experiment
from levit_ablate.errors import UserError
from levit_ablate.experiment import check_changes, variant
from levit_ablate.models.presets import preset
from levit_ablate.schema import plain


def own(name: str, **content) -> None:
    """A file in the user's ./ablations."""
    Path("ablations").mkdir(exist_ok=True)
    Path("ablations", f"{name}.yaml").write_text(yaml.safe_dump({"summary": "Mine", **content}))


@pytest.mark.parametrize("name", library.names())
@pytest.mark.parametrize("model", ["levit_nano", "levit_micro", "levit_128s"])
def test_every_shipped_ablation_changes_every_network(model, name):
    check_changes(variant(name, {"model": model}))


def refused(name: str, given=None) -> str:
    with pytest.raises(UserError) as error:
        check_changes(variant(name, given or {}))
    return str(error.value)


def test_a_choice_that_is_the_baselines_already_is_refused():
    own("mine", design={"stem": "convolution", "norm": "batch"})
    assert refused("mine") == (
        "mine: changes nothing: every choice in ablations/mine.yaml, with the options given, is "
        "the baseline's already; change one"
    )


@pytest.mark.parametrize("content", [{}, {"design": {}}, {"design": None}, {"match": "flops"}])
def test_a_file_that_changes_nothing_is_refused(content):
    own("mine", **content)
    assert "mine: changes nothing: every choice in ablations/mine.yaml" in refused("mine")


@pytest.mark.parametrize(
    ("name", "design"),
    [
        ("no_patch_conv", {"stem": "convolution"}),
        ("no_batch_norm", {"norm": "batch", "zero_init": True}),
        ("no_small_mlp", {"mlp_expansion": 2}),
        ("no_pyramid", {"pyramid": True}),
        ("no_distillation", {"distillation": "hard"}),
    ],
)
def test_an_option_that_undoes_the_ablation_is_refused(name, design):
    message = refused(name, {"design": design})
    assert message.startswith(f"{name}: changes nothing: every choice in ")
    assert "with the options given" in message


def test_a_baseline_of_ones_own_is_what_the_other_ablations_change():
    own("baseline", design={"norm": "layer", "zero_init": False})
    shown = variant("no_patch_conv", {})
    assert shown.differences() == {"design.stem": ("convolution", "patch")}
    assert shown.experiment.design == Design(norm="layer", zero_init=False, stem="patch")
    assert "no_batch_norm: changes nothing" in refused("no_batch_norm")


@pytest.mark.parametrize("given", [{}, {"match": "none"}, {"match": "params"}])
def test_no_pyramid_on_a_baseline_of_one_stage_is_refused(given):
    stage = {"depth": 2, "width": 32, "num_heads": 2}
    own("baseline", architecture={"stages": [stage], "value_dim": 16, "stem_depth": 2})
    message = refused("no_pyramid", given)
    assert re.match(r"no_pyramid( \+ match=\w+)?: changes nothing: ", message)
    assert "design.pyramid" in message


def test_a_choice_without_effect_on_this_geometry_is_refused_naming_choice_and_model():
    own("mine", design={"mlp_expansion": 2.001})
    assert refused("mine") == (
        "mine: changes nothing: with model levit_nano, design.mlp_expansion leaves the network "
        "and the objective of the baseline as they are"
    )


def test_an_objective_of_its_own_is_a_change_though_the_network_is_the_same():
    own("mine", design={"distillation": "soft"})
    check_changes(variant("mine", {}))


def test_drop_path_alone_is_a_change():
    architecture = plain(Experiment(architecture=preset("levit_nano").architecture))
    own("mine", architecture={**architecture["architecture"], "drop_path": 0.1})
    check_changes(variant("mine", {}))


def test_the_baseline_passes_the_gate():
    check_changes(variant("baseline", {}))
