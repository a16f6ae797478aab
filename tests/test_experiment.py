"""From a name to an explicit experiment: its cost, its key, and whether it changes anything."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import yaml

from levit_ablate import library
from levit_ablate.config import Data, Design, Experiment, Hardware, Recipe, Stage, Teacher
from levit_ablate.errors import UserError
from levit_ablate.experiment import variant
from levit_ablate.keys import key_of, teacher_key
from levit_ablate.models.presets import PRESETS
from levit_ablate.recipes import RECIPES
from levit_ablate.schema import to_mapping, to_yaml
from levit_ablate.validity import check_changes

IMAGES = PRESETS["levit_128s"].images
SHIPPED = [
    "baseline",
    "class_token",
    "no_attention_activation",
    "no_attention_bias",
    "no_batch_norm",
    "no_batch_norm_but_stem",
    "no_batch_norm_vit_init",
    "no_distillation",
    "no_hardswish",
    "no_patch_conv",
    "no_pyramid",
    "no_shrinking_attention",
    "no_small_keys",
    "no_small_mlp",
    "no_wider_blocks",
    "no_zero_init",
]
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
    nano = to_mapping(KEYED)["architecture"]
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
    assert shown.baseline.architecture == PRESETS["levit_nano"].architecture
    check_changes(shown)


def test_an_unknown_model_is_refused_with_the_closest():
    with pytest.raises(UserError, match=r"'levit_128x'; did you mean levit_128\? valid: lev"):
        variant("baseline", {"model": "levit_128x"})


# --- keys


PLACES = ("Data.root", "Data.on_error")
KEYED = Experiment(
    architecture=PRESETS["levit_nano"].architecture,
    recipe=Recipe(ema_horizon=0.1),  # with an average, so that it can be evaluated
)


def others(config):
    """A config, once for each of its fields, with another valid value in that field."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal:
            choices = [choice for choice in get_args(hint) if choice != value]
        elif hint is bool:
            choices = [not value]
        elif hint in (int, float):
            choices = [value + 1 if hint is int else value / 2 + 0.01]
        elif hint is str:
            choices = [value + "x"]
        else:
            choices = [7]  # a seed, or none
        for choice in choices:
            yield f"{type(config).__name__}.{name}={choice}", replace(config, **{name: choice})


def changed_experiments():
    """The baseline with another value in a single field, for every field that matters."""
    experiment = KEYED
    for section in ("design", "recipe", "data", "architecture"):
        for name, changed in others(getattr(experiment, section)):
            if name.partition("=")[0] not in PLACES:
                yield name, replace(experiment, **{section: changed})
    for name, stage in others(experiment.architecture.stages[1]):
        stages = (experiment.architecture.stages[0], stage, *experiment.architecture.stages[2:])
        architecture = replace(experiment.architecture, stages=stages)
        yield name, replace(experiment, architecture=architecture)
    fewer = replace(experiment.architecture, stages=experiment.architecture.stages[:2])
    yield "two stages", replace(experiment, architecture=fewer)
    yield "seed", replace(experiment, seed=1)


def test_every_field_that_matters_is_among_the_changes():
    changed = {name.partition("=")[0] for name, _ in changed_experiments()}
    for config in (Design, Recipe, Data, Stage):
        hints = get_type_hints(config)
        for field in fields(config):
            single = (
                get_origin(hints[field.name]) is Literal and len(get_args(hints[field.name])) == 1
            )
            name = f"{config.__name__}.{field.name}"
            assert single or name in changed or name in PLACES


def test_every_single_change_has_a_key_of_its_own():
    keys = {"unchanged": key_of(KEYED)}
    keys |= {name: key_of(changed) for name, changed in changed_experiments()}
    same = {name for name in keys if list(keys.values()).count(keys[name]) > 1}
    assert not same
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in keys.values())


def test_equal_experiments_have_equal_keys_however_their_numbers_are_written():
    first = Experiment(design=Design(mlp_expansion=4), recipe=Recipe(weight_decay=0.0))
    second = Experiment(design=Design(mlp_expansion=4.0), recipe=Recipe(weight_decay=-0.0))
    assert first == second
    assert key_of(first) == key_of(second)


@pytest.mark.parametrize("place", ["root", "on_error"])
def test_where_images_lie_is_no_part_of_the_key(place):
    places = {"root": "elsewhere", "on_error": "skip"}
    data = Data(**{place: places[place]})
    assert key_of(replace(KEYED, data=data)) == key_of(KEYED)


@pytest.mark.parametrize("name", ["devices", "num_nodes", "accumulate"])
def test_the_images_that_a_batch_norm_sees_are_a_part_of_the_key_and_devices_are_not(name):
    several = replace(KEYED, hardware=Hardware(**{name: 2}))
    assert key_of(several) != key_of(KEYED)
    assert key_of(several) == key_of(replace(KEYED, hardware=Hardware(accumulate=2)))
    layer = Design(norm="layer", distillation="none")
    assert key_of(replace(several, design=layer)) == key_of(replace(KEYED, design=layer))
    stem = replace(layer, stem_norm="batch")
    assert key_of(replace(several, design=stem)) != key_of(replace(KEYED, design=stem))
    assert teacher_key(several) != teacher_key(KEYED)  # it has BatchNorm too
    if name != "accumulate":
        synchronized = Hardware(**{name: 2}, sync_batchnorm=True)
        assert key_of(replace(KEYED, hardware=synchronized)) == key_of(KEYED)


def test_the_teacher_is_a_part_of_the_key_only_where_there_is_one():
    other = replace(KEYED, teacher=Teacher(model="test_vit"))
    assert key_of(other) != key_of(KEYED)
    alone = Design(distillation="none")
    assert key_of(replace(other, design=alone)) == key_of(replace(KEYED, design=alone))


def test_how_much_of_an_answer_is_kept_is_a_part_of_the_key_of_soft_distillation_alone():
    more = replace(KEYED, teacher=Teacher(top_k=5))
    soft = Design(distillation="soft")
    assert key_of(more) == key_of(KEYED)
    assert key_of(replace(more, design=soft)) != key_of(replace(KEYED, design=soft))


def test_a_data_seed_that_is_the_runs_seed_needs_not_be_said():
    assert key_of(replace(KEYED, data=Data(seed=0))) == key_of(KEYED)
    assert key_of(replace(KEYED, data=Data(seed=1))) != key_of(KEYED)


KEYLESS_HARDWARE = [
    hardware
    for name, hardware in others(Hardware())
    if name.partition("=")[0]
    not in ("Hardware.devices", "Hardware.num_nodes", "Hardware.accumulate")
]


@pytest.mark.parametrize("hardware", KEYLESS_HARDWARE, ids=str)
def test_the_key_does_not_depend_on_the_hardware(hardware):
    experiment = Experiment(architecture=PRESETS["levit_nano"].architecture)
    assert key_of(replace(experiment, hardware=hardware)) == key_of(experiment)
    given = {"hardware": to_mapping(replace(experiment, hardware=hardware))["hardware"]}
    assert variant("no_hardswish", given).key == variant("no_hardswish", {}).key


def test_the_key_depends_on_the_geometry_and_not_on_the_models_name():
    nano = to_mapping(Experiment(architecture=PRESETS["levit_nano"].architecture))["architecture"]
    renamed = variant("baseline", {"model": "levit_micro", "architecture": nano})
    assert renamed.key == variant("baseline", {"model": "levit_nano"}).key
    assert renamed.key != variant("baseline", {"model": "levit_micro"}).key


def test_no_two_shipped_ablations_share_a_key():
    keys = {name: variant(name, {}).key for name in SHIPPED}
    assert len(set(keys.values())) == len(SHIPPED)


def test_a_key_survives_json_and_its_order():
    shown = variant("no_pyramid", {"seed": 3})
    mapping = json.loads(json.dumps(to_mapping(shown.experiment), sort_keys=True))
    assert variant("no_pyramid", mapping).key == shown.key


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
    assert again.baseline.architecture == PRESETS["levit_nano"].architecture


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
    again = variant("baseline", yaml.safe_load(to_yaml(base.experiment)))
    assert again.baseline is None
    assert again == base


# --- the validity gate


@pytest.mark.parametrize("name", SHIPPED)
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
    architecture = to_mapping(Experiment(architecture=PRESETS["levit_nano"].architecture))
    own("mine", architecture={**architecture["architecture"], "drop_path": 0.1})
    check_changes(variant("mine", {}))


def test_the_baseline_passes_the_gate():
    check_changes(variant("baseline", {}))


def test_the_shipped_names_here_are_all_there_are():
    assert sorted(library.names()) == SHIPPED
