"""A space is typed data: what is said of it is read, and what does not fit is refused in a line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution

from levit_ablate.config import Design
from levit_ablate.errors import UserError
from levit_ablate.models.presets import preset
from levit_ablate.searches import numbers
from levit_ablate.searches.numbers import STAGE_NUMBERS, setting_from
from levit_ablate.searches.report import choices_line
from levit_ablate.searches.space import space_from

MICRO = preset("levit_micro").architecture


def space(**said):
    return space_from(said, MICRO, Design())


def options(said, name):
    return space(**said).settings()[name].options


def test_what_is_not_said_is_a_neighbourhood_that_holds_the_network_itself():
    settings = space().settings()
    for number, stage in enumerate(MICRO.stages, start=1):
        assert stage.width in settings[f"width.{number}"].options
        assert stage.depth in settings[f"depth.{number}"].options
        assert stage.num_heads in settings[f"num_heads.{number}"].options
        assert 16 in settings[f"key_dim.{number}"].options
        assert 2.0 in settings[f"mlp_expansion.{number}"].options
    assert settings["num_stages"].is_fixed and not space().design and not space().network


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"depth": 4}, (4,)),
        ({"depth": "4"}, (4,)),
        ({"depth": "2:5"}, (2, 3, 4, 5)),
        ({"depth": "2:6:2"}, (2, 4, 6)),
        ({"depth": "2:5:2"}, (2, 4)),
        ({"depth": "5,2"}, (2, 5)),
        ({"depth": [3, 1]}, (1, 3)),
        ({"depth": {1: "2:3"}}, (2, 3)),
        ({"depth": {"1": 7}}, (7,)),
    ],
)
def test_a_setting_is_a_value_a_range_or_a_list(said, expected):
    assert options(said, "depth.1") == expected


def test_the_same_values_as_a_range_and_as_a_list_are_told_apart():
    assert space(depth="1:3").described() != space(depth="1,2,3").described()


def test_a_stage_may_have_a_setting_of_its_own():
    said = {"width": {2: "64:96:16"}}
    assert options(said, "width.2") == (64, 80, 96)
    assert options(said, "width.1") == options({}, "width.1")


@given(low=st.integers(1, 30), reach=st.integers(0, 30), step=st.integers(1, 9))
def test_a_range_holds_its_steps_and_nothing_else(low, reach, step):
    found = options({"depth": f"{low}:{low + reach}:{step}"}, "depth.2")
    assert found == tuple(range(low, low + reach + 1, step))


def test_a_stage_beyond_the_networks_own_goes_on_as_they_do():
    found = space(num_stages="2:4").settings()
    assert found["num_stages"].options == (2, 3, 4)
    assert 224 + (224 - 160) in found["width.4"].options


def test_a_fixed_geometry_varies_in_what_is_said_alone():
    found = space(geometry="fixed", design={"norm": ["batch", "layer"]}, depth={3: "1:2"})
    assert found.varied().keys() == {"design.norm", "depth.3"}


def test_a_solved_width_is_the_solvers_and_is_not_sampled():
    found = space(width="solved")
    assert not [name for name in found.varied() if name.startswith("width")]
    assert 96 in found.widths(0) and len(found.widths(0)) > 50
    some = space(width={1: "solved", 2: "64:96"})
    assert "width.2" in some.varied() and "width.1" not in some.varied()
    assert len(some.widths(0)) > 50 and some.widths(1) == tuple(range(64, 97, 2))


def test_the_solver_takes_finer_steps_within_a_range_and_none_outside():
    assert space(width="64:80").widths(1) == tuple(range(64, 81, 2))
    assert space(width="64:96:16").widths(1) == (64, 80, 96)  # who says a step means it
    assert space(width="64,100").widths(1) == (64, 100)


def test_choices_on_the_command_line_are_words():
    found = space(design={"pyramid": "true,false", "norm": "layer"})
    assert found.design["pyramid"].options == (True, False)
    assert found.design["norm"].options == ("layer",)


def test_a_number_on_the_command_line_is_what_it_is_in_a_file():
    found = space(depth="0o3", width="0x10,0x20", mlp_expansion="1e0").settings()
    assert found["depth.1"].options == (3,) and found["width.1"].options == (16, 32)
    assert found["mlp_expansion.1"].options == (1.0,)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"dept": 3}, "space.dept: unknown; did you mean depth"),
        ({"depth": "5:2"}, "'5:2' is empty"),
        ({"depth": []}, "empty list"),
        ({"depth": "2:3:4:5"}, "no range"),
        ({"depth": "two"}, "neither a whole number"),
        ({"depth": True}, "neither a whole number"),
        ({"depth": 1.5}, "neither a whole number"),
        ({"depth": 0}, "too small"),
        ({"width": {4: 64}}, "space.width.4: there are the stages 1 to 3"),
        ({"width": {"first": 64}}, "space.width.first"),
        ({"num_stages": 9}, "6 at most"),
        ({"depth": 125}, "64 at most"),
        ({"width": "1:1000000000:1"}, "4096 at most"),
        ({"width": {9: "solved"}}, "there are the stages 1 to 3"),
        ({"geometry": "free"}, "around, or fixed"),
        ({"depth": "solved"}, "neither a whole number"),
        ({"design": {"nrm": "batch"}}, "did you mean norm"),
        ({"design": {"norm": "bach"}}, "did you mean batch"),
        ({"design": {"norm": []}}, "empty list"),
        ({"design": {"mlp_expansion": 2}}, "set space.mlp_expansion"),
        ({"design": "batch"}, "no mapping"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(said, expected):
    with pytest.raises(UserError, match="space") as caught:
        space(**said)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@given(
    low=st.integers(1, 30),
    count=st.integers(1, 40),
    step=st.sampled_from([0.05, 0.1, 0.15, 0.3, 0.7]),
)
def test_a_sampler_can_draw_every_value_of_a_range(low, count, step):
    """Optuna lowers the end of a range that is no whole number of steps away, be it by a hair."""
    low = low / 20
    high = round(low + count * step, 10)
    setting = setting_from(f"{low}:{high}:{step}", STAGE_NUMBERS["mlp_expansion"], "")
    drawn = FloatDistribution(setting.options[0], setting.options[-1], step=setting.step)
    assert (drawn.low, drawn.high) == (low, high) and len(setting.options) == count + 1


def test_a_number_is_searched_once_it_is_in_a_table(monkeypatch):
    drop = numbers.Number(
        type=float,
        step=0.1,
        low=0,
        high=0.9,
        of=lambda architecture, design, stage: architecture.drop_path,
        sets=lambda value, design: {"drop_path": value or 0.0},
        around=lambda own: numbers.span(0.0, 0.2, 0.1),
        text="drop {:g}",
    )
    monkeypatch.setitem(numbers.NETWORK_NUMBERS, "drop_path", drop)
    found = space(drop_path="0:0.3", geometry="fixed", width={"1": "96,104"})
    assert found.varied()["drop_path"].options == (0.0, 0.1, 0.2, 0.3)
    drawn = {"drop_path": 0.2, "width.1": 104}
    architecture, design = found.network_of(lambda n, s: drawn.get(n, s.options[0]))
    assert (architecture.drop_path, architecture.stages[0].width) == (0.2, 104)
    own = numbers.numbers_of(architecture, design)
    assert own["drop_path"] == 0.2 and own.keys() >= found.varied().keys()
    assert choices_line(architecture, design, design) == "drop 0.2"
    assert space().network_of(lambda n, s: s.options[0])[0].drop_path == 0.0
