"""Keys stay: what was recorded once is found for ever."""

from __future__ import annotations

from dataclasses import asdict, make_dataclass, replace

import pytest

from levit_ablate import library
from levit_ablate.config import Data, Design, Experiment, Recipe
from levit_ablate.experiment import variant
from levit_ablate.keys import changed, key_of, key_of_version_1, stream_key, teacher_key
from levit_ablate.models.presets import preset
from levit_ablate.recipes import RECIPES

FLOAT32 = {"precision": "32-true"}  # the hardware's choice unless set
ABLATIONS = {
    "baseline": "2f780fe0e8edee63",
    "class_token": "c5a17b0370c6aa70",
    "no_attention_activation": "89980d4a2b4f6c9f",
    "no_attention_bias": "f595e950af43a122",
    "no_batch_norm": "b430e65f7c8c7590",
    "no_batch_norm_but_stem": "44386e3f72340de5",
    "no_batch_norm_vit_init": "b24b77f5d6f773b4",
    "no_distillation": "0b86e149d4bd2828",
    "no_hardswish": "3eb02633d071cae7",
    "no_patch_conv": "c6701da2a8260fb0",
    "no_pyramid": "e2884958d4caa5e7",
    "no_shrinking_attention": "684e38345a46e140",
    "no_small_keys": "e00b7096d0103e97",
    "no_small_mlp": "10911a9fbefe0693",
    "no_wider_blocks": "ac38f82b4278c341",
    "no_zero_init": "6f515cf85f2699d1",
}
RECIPE_KEYS = {
    "quick": "0b86e149d4bd2828",
    "smoke": "cdba1739753cc770",
    "cifar": "c4272991bec66c75",
    "paper": "ef9764174bf8b7f8",
    "paper_1000": "e6ae7be470da754c",
}
DATA_KEYS = {
    "digits": "0b86e149d4bd2828",
    "cifar10": "7979d32ee126b5ce",
    "cifar100": "83ccc47c752b246c",
    "fashion_mnist": "b37cba5fe8105ae1",
}
WHY = "a key changed: results recorded under the old one are lost; if that is meant, raise VERSION"


def test_every_shipped_ablation_has_its_key_above():
    assert ABLATIONS.keys() == library.names().keys()


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_key_of_a_shipped_ablation_stays(name):
    experiment = variant(name, {"recipe": FLOAT32, "teacher": {"recipe": FLOAT32}}).experiment
    assert key_of(experiment) == ABLATIONS[name], WHY


@pytest.mark.parametrize("name", RECIPES)
def test_the_key_of_a_recipe_stays(name):
    recipe = asdict(RECIPES[name]) | FLOAT32
    experiment = variant("no_distillation", {"recipe": recipe}).experiment
    assert key_of(experiment) == RECIPE_KEYS[name], WHY


@pytest.mark.parametrize("name", DATA_KEYS)
def test_the_key_of_a_dataset_stays(name):
    given = {"data": {"name": name}, "recipe": FLOAT32}
    assert variant("no_distillation", given, identify=False).key == DATA_KEYS[name], WHY


def test_the_keys_of_a_teacher_and_of_a_stream_stay():
    given = {"recipe": FLOAT32, "teacher": {"recipe": FLOAT32}}
    experiment = variant("baseline", given | {"data": {"name": "cifar10"}}).experiment
    assert teacher_key(experiment) == "3e645a723cf00df0", WHY
    assert stream_key(experiment, {"torch": "2.15.0"}) == "20910d435fcb737c", WHY


def test_a_setting_that_is_added_later_leaves_old_keys_as_they_are():
    added = [("talking_heads", bool, False)]
    options = {"bases": (Design,), "frozen": True, "kw_only": True}
    later = make_dataclass("Design", added, **options)
    experiment = Experiment(architecture=preset("levit_nano").architecture)
    for design in (Design(), Design(stem="patch", mlp_expansion=3)):
        before = replace(experiment, design=design)
        grown = replace(experiment, design=later(**asdict(design)))
        assert key_of(grown) == key_of(before)
        assert key_of_version_1(grown) == key_of_version_1(before) is not None
        used = replace(grown, design=replace(grown.design, talking_heads=True))
        assert key_of(used) != key_of(before)
        assert key_of_version_1(used) is None


def test_what_stands_at_its_default_is_in_no_key():
    assert changed(Recipe()) == changed(Data()) == {}
    assert changed(Design(mlp_expansion=2)) == {}
    architecture = preset("levit_nano").architecture
    assert changed(architecture)["stages"][0] == {"depth": 1, "width": 32, "num_heads": 2}


SMOKE = asdict(RECIPES["smoke"])
VERSION_1 = {  # as version 1 gave them
    "24be13847af595c5": ("no_pyramid", {}),
    "7d7bcbe52790ff23": ("no_distillation", {"data": {"name": "cifar10", "seed": 3}, "seed": 5}),
    "2f80fd5513cb561e": (
        "baseline",
        {"design": {"distillation": "soft"}, "teacher": {"top_k": 5, "recipe": FLOAT32}},
    ),
    "f203fa3ac5220326": (
        "no_batch_norm",
        {"recipe": SMOKE | {"repeats": 2, "batch_size": 32, "mixup": 0.2}},
    ),
    "f987a521450ed63b": (
        "baseline",
        {"model": "levit_192", "teacher": {"weights": "pretrained", "recipe": FLOAT32}},
    ),
    "8bafd51350c63345": (
        "no_hardswish",
        {
            "data": {"name": "fashion_mnist", "fingerprint": "abc"},
            "design": {"distillation": "none"},
        },
    ),
}


@pytest.mark.parametrize("key", VERSION_1)
def test_a_result_of_version_1_is_found_where_it_would_be_the_same_today(key):
    name, given = VERSION_1[key]
    given = {"recipe": SMOKE, "teacher": {"recipe": FLOAT32}} | given
    own = variant(name, given, identify=False)
    assert own.keys == (own.key, key)


@pytest.mark.parametrize("place", [{"root": "/elsewhere"}, {"on_error": "skip"}])
def test_a_result_of_version_1_is_found_wherever_the_images_lie(place):
    given = {"recipe": SMOKE, "teacher": {"recipe": FLOAT32}, "data": place}
    assert variant("no_pyramid", given).keys[1:] == ("24be13847af595c5",)


@pytest.mark.parametrize(
    "given",
    [
        {"recipe": SMOKE | {"clipping": "adaptive"}},
        {"recipe": SMOKE | {"ema_decay": 0.9}},
        {"recipe": SMOKE | {"ema_horizon": 0.1}},
        {"recipe": SMOKE | {"repeats": 3}},  # 64 images are no two halves of whole ones
        {"design": {"stem_norm": "batch", "norm": "layer"}},
        {"teacher": {"recipe": FLOAT32 | {"ema_decay": 0.9}}},
        *({"recipe": asdict(RECIPES[name])} for name in RECIPES if name != "smoke"),
    ],
)
def test_a_result_of_version_1_that_would_be_another_today_is_not_used(given):
    own = variant("baseline", {"recipe": SMOKE, "teacher": {"recipe": FLOAT32}} | given)
    assert own.keys == (own.key,)


def test_a_folder_is_not_what_it_was_in_version_1():
    architecture = preset("levit_nano").architecture
    folder = Experiment(architecture=architecture, recipe=Recipe(**SMOKE), data=Data(name="folder"))
    assert key_of_version_1(folder) is None
    assert key_of_version_1(replace(folder, data=Data())) is not None
