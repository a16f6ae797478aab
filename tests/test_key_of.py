"""A key holds all that decides a result, and nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from levit_ablate import library
from levit_ablate.config import Data, Design, Experiment, Hardware, Recipe, Stage, Teacher
from levit_ablate.experiment import variant
from levit_ablate.keys import key_of, teacher_key
from levit_ablate.models.presets import preset
from levit_ablate.schema import plain

PLACES = ("Data.root", "Data.on_error")
KEYED = Experiment(
    architecture=preset("levit_nano").architecture,
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
    experiment = Experiment(architecture=preset("levit_nano").architecture)
    assert key_of(replace(experiment, hardware=hardware)) == key_of(experiment)
    given = {"hardware": plain(replace(experiment, hardware=hardware))["hardware"]}
    assert variant("no_hardswish", given).key == variant("no_hardswish", {}).key


def test_the_key_depends_on_the_geometry_and_not_on_the_models_name():
    nano = plain(Experiment(architecture=preset("levit_nano").architecture))["architecture"]
    renamed = variant("baseline", {"model": "levit_micro", "architecture": nano})
    assert renamed.key == variant("baseline", {"model": "levit_nano"}).key
    assert renamed.key != variant("baseline", {"model": "levit_micro"}).key


def test_no_two_shipped_ablations_share_a_key():
    keys = {name: variant(name, {}).key for name in library.names()}
    assert len(set(keys.values())) == len(library.names())


def test_a_key_survives_json_and_its_order():
    shown = variant("no_pyramid", {"seed": 3})
    mapping = json.loads(json.dumps(plain(shown.experiment), sort_keys=True))
    assert variant("no_pyramid", mapping).key == shown.key
