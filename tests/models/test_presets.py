"""The presets: the paper's names and geometries, and what happens to a name that is none."""

import pytest

from levit_ablate.errors import UserError
from levit_ablate.models.presets import PRESETS, preset

NAMES = "levit_128, levit_128s, levit_192, levit_256, levit_384, levit_micro, levit_nano"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("levit_128ss", "levit_128s"), ("levit-192", "levit_192"), ("levitnano", "levit_nano")],
)
def test_an_unknown_name_is_refused_with_the_closest_one_and_all_valid_ones(name, meant):
    with pytest.raises(UserError) as error:
        preset(name)
    assert str(error.value) == (
        f"model: no preset is called {name!r}; did you mean {meant}? valid: {NAMES}"
    )


@pytest.mark.parametrize("name", ["resnet50", ""])
def test_a_name_unlike_any_other_is_refused_without_a_guess(name):
    with pytest.raises(UserError) as error:
        preset(name)
    assert str(error.value) == f"model: no preset is called {name!r}; valid: {NAMES}"


@pytest.mark.parametrize(
    ("name", "value_dim", "drop_path", "stages"),
    [
        ("levit_128s", 32, 0, [(2, 128, 4), (3, 256, 6), (4, 384, 8)]),
        ("levit_128", 32, 0, [(4, 128, 4), (4, 256, 8), (4, 384, 12)]),
        ("levit_192", 64, 0, [(4, 192, 3), (4, 288, 5), (4, 384, 6)]),
        ("levit_256", 64, 0, [(4, 256, 4), (4, 384, 6), (4, 512, 8)]),
        ("levit_384", 64, 0.1, [(4, 384, 6), (4, 512, 9), (4, 768, 12)]),
    ],
)
def test_the_papers_five_models_have_its_table_of_depths_widths_and_heads(
    name, value_dim, drop_path, stages
):
    chosen = preset(name)
    architecture = chosen.architecture
    assert [(s.depth, s.width, s.num_heads) for s in architecture.stages] == stages
    assert (architecture.value_dim, architecture.drop_path) == (value_dim, drop_path)
    assert architecture.stem_depth == 4
    assert (chosen.images.channels, chosen.images.height, chosen.images.width) == (3, 224, 224)
    assert chosen.images.num_classes == 1000


def test_every_preset_is_found_by_its_name():
    assert [preset(name) for name in PRESETS] == list(PRESETS.values())
    assert ", ".join(sorted(PRESETS)) == NAMES
