"""The presets: the paper's names and geometries, and what happens to a name that is none."""

import re
from pathlib import Path

import pytest

from levit_ablate import library
from levit_ablate.config import Architecture, Images, Stage
from levit_ablate.errors import UserError
from levit_ablate.models.presets import preset, shipped

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
    assert {name: preset(name) for name in library.names(library.MODELS)} == shipped()
    assert ", ".join(shipped()) == NAMES


# --- the user's own, in files

ARCHITECTURE = "architecture: {stages: [{depth: 1, width: 24, num_heads: 2}], value_dim: 16}\n"


def own(name: str, content: str) -> Path:
    path = Path("ablations", "models", f"{name}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def test_a_model_in_a_file_is_found_by_its_name_and_by_its_path():
    images = "images: {height: 48, width: 64, num_classes: 7}\n"
    path = own("mine", f"summary: A small one\n{images}{ARCHITECTURE}")
    for name in ("mine", str(path)):
        found = preset(name)
        assert found.summary == "A small one"
        assert found.images == Images(channels=3, height=48, width=64, num_classes=7)
        stages = (Stage(depth=1, width=24, num_heads=2),)
        assert found.architecture == Architecture(stages=stages, value_dim=16)
    assert library.names(library.MODELS)["mine"] == path


def test_a_model_in_a_file_is_for_imagenets_images_unless_it_says_otherwise():
    own("mine", f"summary: x\n{ARCHITECTURE}")
    assert preset("mine").images == preset("levit_128s").images


def test_a_model_in_a_file_comes_before_a_shipped_one_of_its_name():
    own("levit_nano", f"summary: My own\n{ARCHITECTURE}")
    assert preset("levit_nano").summary == "My own"


def test_an_unknown_name_may_have_meant_a_model_in_a_file():
    own("mine", f"summary: x\n{ARCHITECTURE}")
    with pytest.raises(UserError, match=r"'mime'; did you mean mine\? valid: .*levit_nano, mine$"):
        preset("mime")


BAD = {
    "unknown key": (
        f"summary: x\nsize: 3\n{ARCHITECTURE}",
        "unknown key size; valid: architecture, images, summary",
    ),
    "unknown key of the images": (
        f"summary: x\nimages: {{hight: 3}}\n{ARCHITECTURE}",
        r"unknown key images\.hight; did you mean height\?",
    ),
    "images of no size": (
        f"summary: x\nimages: {{height: 0}}\n{ARCHITECTURE}",
        r"images\.height: 0 must be at least 1",
    ),
    "images that are no mapping": (
        f"summary: x\nimages: 32\n{ARCHITECTURE}",
        "images: 32 is no mapping of keys to values",
    ),
    "no summary": (ARCHITECTURE, "summary: a line that says what it is is needed"),
    "no architecture": ("summary: x", "architecture: needs stages, value_dim; keys: stages,"),
    "a misspelt stage": (
        "summary: x\narchitecture: {stages: [{dept: 1}], value_dim: 16}",
        r"unknown key architecture\.stages\[0\]\.dept; did you mean depth\?",
    ),
    "an architecture out of its range": (
        "summary: x\narchitecture: {stages: [], value_dim: 16}",
        r"architecture\.stages: at least one stage is needed$",
    ),
    "empty": ("", "is empty, where keys and values are needed"),
}


@pytest.mark.parametrize("problem", BAD)
def test_a_bad_file_is_refused_with_its_name_the_key_and_what_is_valid(problem):
    content, message = BAD[problem]
    path = own("bad", content)
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}: {message}"):
        preset("bad")
