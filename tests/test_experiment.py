"""From a name to an explicit experiment: its cost, its key, and whether it changes anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from levit_ablate import library
from levit_ablate.config import Data, Design, Stage
from levit_ablate.errors import UserError
from levit_ablate.experiment import check_changes, variant
from levit_ablate.models.presets import preset
from levit_ablate.recipes import RECIPES
from levit_ablate.schema import plain, yaml_of

IMAGES = preset("levit_128s").images
SHIPPED = list(library.names())
# the published columns, and the four figures to the last digit
TABLE_4 = {
    "baseline": (7.4, 305),
    "no_pyramid": (1.2, 308),
    "no_patch_conv": (7.4, 275),
    "no_batch_norm": (7.4, 305),
    "no_distillation": (7.4, 305),
    "no_attention_bias": (7.4, 305),
    "no_wider_blocks": (6.2, 312),
    "no_attention_activation": (7.4, 305),
}
EXACT = {
    "baseline": (7_391_290, 304_724_946),
    "no_pyramid": (1_214_614, 308_307_144),
    "no_patch_conv": (7_392_170, 275_221_458),
    "no_wider_blocks": (6_195_819, 312_203_018),
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def own(name: str, **content) -> None:
    """A file in the user's ./ablations."""
    Path("ablations").mkdir(exist_ok=True)
    Path("ablations", f"{name}.yaml").write_text(yaml.safe_dump({"summary": "Mine", **content}))


def of_the_paper(name: str, **given):
    """A variant of LeViT-128S at 224 px."""
    return variant(name, {"model": "levit_128s", **given}, IMAGES)


# --- cost, as published


@pytest.mark.parametrize("name", TABLE_4)
def test_the_cost_is_that_of_the_papers_table(name):
    cost = of_the_paper(name).cost
    assert (round(cost.params / 1e6, 1), round(cost.flops / 1e6)) == TABLE_4[name]


@pytest.mark.parametrize("name", EXACT)
def test_the_cost_is_exact_where_four_figures_are_known(name):
    cost = of_the_paper(name).cost
    assert (cost.params, cost.flops) == EXACT[name]


@pytest.mark.parametrize(
    ("name", "stages", "value_dim"),
    [
        ("no_pyramid", [(11, 114, 3)], 38),
        ("no_wider_blocks", [(2, 120, 4), (3, 180, 6), (4, 240, 8)], 30),
        ("no_patch_conv", [(2, 128, 4), (3, 256, 6), (4, 384, 8)], 32),
    ],
)
def test_the_geometry_is_the_papers_own(name, stages, value_dim):
    architecture = of_the_paper(name).architecture
    expected = tuple(Stage(depth=d, width=w, num_heads=n) for d, w, n in stages)
    assert (architecture.stages, architecture.value_dim) == (expected, value_dim)


def test_what_was_matched_is_told_and_spent():
    for name in SHIPPED:
        shown = of_the_paper(name)
        assert shown.matched == ("flops" if name in {"no_pyramid", "no_wider_blocks"} else "none")
        assert shown.experiment.match == "none"


@pytest.mark.parametrize("name", ["no_pyramid", "no_wider_blocks"])
def test_a_given_match_none_leaves_the_geometry_as_it_is(name):
    shown, base = of_the_paper(name, match="none"), of_the_paper("baseline")
    assert shown.matched == "none"
    assert {stage.width for stage in shown.architecture.stages} <= {128, 256, 384}
    assert shown.architecture.value_dim == 32
    assert abs(shown.cost.flops / base.cost.flops - 1) > 0.1


@pytest.mark.parametrize("cost", ["params", "flops"])
@pytest.mark.parametrize("name", ["no_pyramid", "no_wider_blocks", "no_patch_conv", "no_small_mlp"])
def test_a_given_match_decides_which_cost_is_the_baselines(name, cost):
    shown, base = of_the_paper(name, match=cost), of_the_paper("baseline")
    assert shown.matched == cost
    assert getattr(shown.cost, cost) == pytest.approx(getattr(base.cost, cost), rel=0.03)
    assert shown.differences()


# --- what is given beside a name


def test_an_option_makes_the_same_experiment_as_the_ablation_of_that_choice():
    by_option = of_the_paper("baseline", design={"stem": "patch"})
    by_name = of_the_paper("no_patch_conv")
    assert by_option.experiment == by_name.experiment
    assert by_option.key == by_name.key
    assert by_option.cost == by_name.cost
    assert by_option.baseline is not None


def test_the_conditions_hold_for_the_baseline_too_and_the_changes_do_not():
    shown = variant(
        "no_patch_conv",
        {
            "recipe": {"epochs": 3},
            "data": {"image_size": 48},
            "seed": 5,
            "design": {"norm": "layer"},
        },
    )
    base = shown.baseline.experiment
    assert base.recipe == shown.experiment.recipe == replace(RECIPES["quick"], epochs=3)
    assert base.data == shown.experiment.data == Data(image_size=48)
    assert base.seed == shown.experiment.seed == 5
    assert base.design == Design()
    assert shown.experiment.design == Design(stem="patch", norm="layer")
    assert (
        shown.baseline.key
        == variant("baseline", {"recipe": {"epochs": 3}, "data": {"image_size": 48}, "seed": 5}).key
    )


def stage_of(width: int, num_heads: int) -> dict:
    return {"depth": 1, "width": width, "num_heads": num_heads}


GEOMETRY = {
    "stages": [stage_of(24, 2), stage_of(40, 4)],
    "value_dim": 12,
    "stem_depth": 2,
    "stem_width": 16,
    "drop_path": 0.1,
}


@pytest.mark.parametrize("name", ["no_pyramid", "no_wider_blocks", "no_hardswish", "no_small_mlp"])
def test_a_given_geometry_is_the_baselines_too(name):
    shown = variant(name, {"architecture": GEOMETRY})
    assert shown.baseline.key == variant("baseline", {"architecture": GEOMETRY}).key
    assert [stage.width for stage in shown.baseline.architecture.stages] == [24, 40]
    allowed = {"architecture.stages", "architecture.value_dim"} if shown.matched == "flops" else ()
    changed = {name for name in shown.differences() if not name.startswith("design.")}
    assert changed <= set(allowed)
    assert shown.name == name
    assert shown.experiment.model == shown.baseline.experiment.model == "own geometry"


def test_a_given_geometry_that_is_the_models_own_keeps_the_models_name():
    nano = plain(preset("levit_nano").architecture)
    assert variant("no_pyramid", {"architecture": nano}) == variant("no_pyramid", {})


def test_a_geometry_in_an_ablations_file_is_its_difference_beside_a_given_one():
    """It takes nothing from it: what the file leaves out is the default."""
    own("mine", architecture={"stages": [stage_of(64, 2)], "value_dim": 8})
    shown = variant("mine", {"architecture": GEOMETRY})
    alone = variant("mine", {})
    assert shown.key == alone.key
    assert shown.architecture.stem_width is None and shown.architecture.drop_path == 0.0
    assert shown.baseline.architecture != alone.baseline.architecture


def test_a_geometry_that_is_not_whole_is_refused():
    with pytest.raises(UserError, match=r"^architecture: needs stages; keys: "):
        variant("no_pyramid", {"architecture": {"value_dim": 16}})


def test_an_option_is_in_the_name_and_a_geometry_is_not():
    shown = variant("no_pyramid", {"architecture": GEOMETRY, "design": {"norm": "layer"}})
    assert shown.name == "no_pyramid + design.norm=layer"


def test_the_differences_are_named_with_both_values():
    assert of_the_paper("baseline").differences() == {}
    assert of_the_paper("no_batch_norm").differences() == {
        "design.norm": ("batch", "layer"),
        "design.zero_init": (True, False),
    }
    assert list(of_the_paper("no_pyramid").differences()) == [
        "design.pyramid",
        "architecture.stages",
        "architecture.value_dim",
    ]


def test_a_file_of_ones_own_brings_an_architecture_along():
    stages = [{"depth": 1, "width": 24, "num_heads": 2}, {"depth": 1, "width": 40, "num_heads": 4}]
    own("mine", architecture={"stages": stages, "value_dim": 12, "stem_depth": 2})
    shown = variant("mine", {})
    assert [stage.width for stage in shown.architecture.stages] == [24, 40]
    assert shown.baseline.architecture == preset("levit_nano").architecture
    check_changes(shown)


def test_an_unknown_model_is_refused_with_the_closest():
    with pytest.raises(UserError, match=r"'levit_128x'; did you mean levit_128\? valid: lev"):
        variant("baseline", {"model": "levit_128x"})


# --- an explicit experiment reproduces itself


def read_back(shown, images=None):
    """The variant that its own record describes."""
    recorded = yaml.safe_load(shown.recorded_yaml)
    return variant(*library.from_recorded(recorded, Path("recorded.yaml")), images)


@pytest.mark.parametrize("name", SHIPPED)
def test_an_explicit_experiment_read_back_from_yaml_is_itself(name):
    shown = variant(name, {"recipe": {"epochs": 2, "warmup_epochs": 0.5}, "seed": 7})
    again = read_back(shown)
    assert again.experiment == shown.experiment
    assert again.key == shown.key
    assert again.differences() == shown.differences()
    assert (again.baseline is None) == (name == "baseline")


@pytest.mark.parametrize("name", ["no_pyramid", "no_wider_blocks"])
def test_a_matched_geometry_is_not_matched_again_when_read_back(name):
    shown = of_the_paper(name)
    again = read_back(shown, IMAGES)
    assert again.experiment == shown.experiment
    assert again.matched == "none"
    assert again.baseline.key == shown.baseline.key


@pytest.mark.parametrize("name", ["baseline", "no_pyramid", "no_hardswish", "wider"])
def test_a_geometry_of_ones_own_is_read_back_with_its_baseline(name):
    own("wider", match="flops", architecture={"stages": [stage_of(64, 2)], "value_dim": 8})
    shown = variant(name, {"architecture": GEOMETRY})
    again = read_back(shown)
    assert again.experiment == shown.experiment
    assert again.key == shown.key
    assert again.differences() == shown.differences()
    assert again.recorded_yaml == shown.recorded_yaml
    if name != "baseline":
        assert again.baseline.experiment == shown.baseline.experiment


def test_a_model_of_a_file_is_read_back_without_the_file():
    Path("ablations/models").mkdir(parents=True)
    path = Path("ablations/models/mine.yaml")
    path.write_text(yaml.safe_dump({"summary": "Mine", "architecture": GEOMETRY}))
    shown = variant("no_pyramid", {"model": "mine"})
    assert shown.key == variant("no_pyramid", {"architecture": GEOMETRY}).key
    assert read_back(shown).experiment == shown.experiment
    path.unlink()
    again = read_back(shown)
    assert (again.key, again.baseline.key) == (shown.key, shown.baseline.key)


def test_a_record_without_a_geometry_is_beside_its_model():
    """As runs were recorded whose geometry was given as a change of the variant."""
    shown = variant("no_pyramid", {"architecture": GEOMETRY})
    recorded = yaml.safe_load(shown.recorded_yaml) | {"model": "levit_nano"}
    del recorded["geometry"]
    again = variant(*library.from_recorded(recorded, Path("recorded.yaml")))
    assert again.key == shown.key
    assert again.baseline.architecture == preset("levit_nano").architecture


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"stages": []}, "geometry: needs value_dim; keys: stages, value_dim"),
        ({"stage": []}, r"unknown key geometry\.stage; did you mean stages\?"),
    ],
)
def test_a_record_whose_geometry_is_wrong_is_refused_with_file_and_key(geometry, message):
    recorded = yaml.safe_load(variant("no_pyramid", {}).recorded_yaml) | {"geometry": geometry}
    with pytest.raises(UserError, match=rf"^recorded\.yaml: {message}"):
        library.from_recorded(recorded, Path("recorded.yaml"))


def test_the_baseline_with_its_own_explicit_config_is_the_baseline():
    base = variant("baseline", {"seed": 2})
    again = variant("baseline", yaml.safe_load(yaml_of(plain(base.experiment))))
    assert again.baseline is None
    assert again == base
