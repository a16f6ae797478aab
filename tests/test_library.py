"""The ablation files: those that ship, the user's own, and what is said of a bad one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from levit_ablate import library
from levit_ablate.config import Architecture, Stage
from levit_ablate.errors import UserError
from levit_ablate.library import PaperRow
from levit_ablate.models.presets import preset
from levit_ablate.schema import plain
from levit_ablate.searches import search
from levit_ablate.studies import study

# row, parameters, FLOPs, top-1, difference: the paper's Table 4
TABLE_4 = {
    "baseline": ("base", 7.4e6, 305e6, 71.9, 0.0),
    "no_pyramid": ("A1", 1.2e6, 308e6, 56.5, -15.4),
    "no_patch_conv": ("A2", 7.4e6, 275e6, 65.3, -6.6),
    "no_batch_norm": ("A3", 7.4e6, 305e6, 66.6, -5.3),
    "no_distillation": ("A4", 7.4e6, 305e6, 69.7, -2.2),
    "no_attention_bias": ("A5", 7.4e6, 305e6, 70.4, -1.5),
    "no_wider_blocks": ("A6", 6.2e6, 312e6, 70.9, -1.0),
    "no_attention_activation": ("A7", 7.4e6, 305e6, 71.1, -0.8),
}
CHANGES = {
    "baseline": {},
    "no_pyramid": {"pyramid": False},
    "no_patch_conv": {"stem": "patch"},
    "no_batch_norm": {"norm": "layer", "zero_init": False},
    "no_distillation": {"distillation": "none"},
    "no_attention_bias": {"position": "absolute"},
    "no_wider_blocks": {"keys": "as_values", "mlp_expansion": 4},
    "no_attention_activation": {"attention_activation": "none"},
    "no_small_keys": {"keys": "as_values"},
    "no_small_mlp": {"mlp_expansion": 4},
    "class_token": {"pooling": "class_token"},
    "no_hardswish": {"activation": "gelu"},
    "no_shrinking_attention": {"downsampling": "convolution"},
    "no_zero_init": {"zero_init": False},
    "no_batch_norm_but_stem": {"norm": "layer", "stem_norm": "batch", "zero_init": False},
    "no_batch_norm_vit_init": {
        "norm": "layer",
        "zero_init": False,
        "linear_init": "truncated_normal",
    },
}
ARCHITECTURE = "stages: [{depth: 1, width: 16, num_heads: 2}], value_dim: 16"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def own(name: str, content: str) -> Path:
    """A file in the user's ./ablations."""
    path = Path("ablations", f"{name}.yaml")
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def test_the_shipped_ablations_are_those_of_the_specification():
    assert set(library.names()) == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_a_shipped_ablation_changes_what_its_name_says(name):
    found = library.read(name)
    assert dict(found.design) == CHANGES[name]
    assert found.architecture is None
    assert found.name == found.path.stem == name


@pytest.mark.parametrize("name", CHANGES)
def test_a_shipped_summary_is_one_line_that_fits_the_screen(name):
    summary = library.read(name).summary
    assert 10 < len(summary) <= 100
    assert len(summary.splitlines()) == 1


@pytest.mark.parametrize("name", CHANGES)
def test_the_paper_rows_carry_the_published_figures_and_the_others_none(name):
    found = library.read(name).paper
    if name not in TABLE_4:
        assert found is None
        return
    row, params, flops, accuracy, difference = TABLE_4[name]
    assert found == PaperRow(
        row=row, params=params, flops=flops, accuracy=accuracy, difference=difference
    )


def test_only_the_two_rows_that_the_paper_rescaled_match_flops():
    matched = {a.name: a.match for a in library.read_all()[0] if a.match != "none"}
    assert matched == {"no_pyramid": "flops", "no_wider_blocks": "flops"}


def test_all_are_listed_the_paper_first_and_in_its_order():
    found = [ablation.name for ablation in library.read_all()[0]]
    assert found[: len(TABLE_4)] == list(TABLE_4)
    assert found[len(TABLE_4) :] == sorted(set(CHANGES) - set(TABLE_4))


BAD = {
    "unknown key": (
        "summary: x\ndesing: {}",
        r"unknown key desing; did you mean design\? valid: architecture, design, match, paper, summary",
    ),
    "a key that the file's name sets": ("summary: x\nname: mine", "unknown key name; .*valid: "),
    "unknown design key": (
        "summary: x\ndesign: {steam: patch}",
        r"unknown key design\.steam; did you mean stem\? valid: activation, .*, stem, stem_norm, .*zero_init",
    ),
    "unknown paper key": (
        "summary: x\npaper: {rwo: A1}",
        r"unknown key paper\.rwo; did you mean row\? valid: accuracy, ",
    ),
    "unknown stage key": (
        "summary: x\narchitecture: {stages: [{dept: 1}], value_dim: 16}",
        r"unknown key architecture\.stages\[0\]\.dept; did you mean depth\? valid: depth, mlp_expansion, num_heads",
    ),
    "wrong choice": (
        "summary: x\ndesign: {stem: pach}",
        r"design\.stem: 'pach' is not a choice; did you mean patch\? valid: convolution, patch",
    ),
    "no choice": ("summary: x\ndesign: {norm:}", r"design\.norm: None .*valid: batch, layer"),
    "a list for a choice": (
        "summary: x\ndesign: {norm: [layer]}",
        r"design\.norm: \['layer'\] is not a choice; did you mean layer\?",
    ),
    "text for a number": (
        "summary: x\ndesign: {mlp_expansion: four}",
        r"design\.mlp_expansion: float needed, not '?four'?",
    ),
    "a truth value for a number": (
        "summary: x\ndesign: {mlp_expansion: true}",
        r"design\.mlp_expansion: float needed, not True",
    ),
    "nothing for a number": (
        "summary: x\ndesign: {mlp_expansion:}",
        r"design\.mlp_expansion: float needed, not None",
    ),
    "a number for a truth value": (
        "summary: x\ndesign: {pyramid: 3}",
        r"design\.pyramid: bool needed, not 3",
    ),
    "a number out of its range": (
        "summary: x\ndesign: {mlp_expansion: -1}",
        r"design\.mlp_expansion: -1\.0 must be above 0",
    ),
    "infinity": ("summary: x\ndesign: {mlp_expansion: .inf}", r"design\.mlp_expansion: .*not inf"),
    "no summary": ("design: {stem: patch}", "summary: a line .* is needed"),
    "a summary of no words": ("summary: ' '", "summary: a line .* is needed"),
    "a summary that is no text": ("summary: 3", "summary: a line .* is needed"),
    "empty file": ("", "is empty, where keys and values are needed"),
    "a list": ("- summary: x", "holds list, where keys and values are needed"),
    "plain text": ("no pyramid", "holds str, where keys and values are needed"),
    "a design that is no mapping": (
        "summary: x\ndesign: patch",
        "design: 'patch' is no mapping of keys to values",
    ),
    "a design that is false": ("summary: x\ndesign: false", "design: False is no mapping"),
    "wrong match": (
        "summary: x\nmatch: flop",
        r"match: 'flop' is not a choice; did you mean flops\? valid: flops, none, params",
    ),
    "a paper row without figures": (
        "summary: x\npaper: {row: A9}",
        r"paper: needs (?=.*params)(?=.*flops)(?=.*accuracy)(?!.*__init__)",
    ),
    "a paper row with words for figures": (
        "summary: x\npaper: {row: A9, params: many, flops: 1, accuracy: 1}",
        r"paper.*'many'",
    ),
    "a combination without meaning": (
        "summary: x\ndesign: {pyramid: false, downsampling: convolution}",
        r"design\.pyramid: false cannot be combined with design\.downsampling: convolution, "
        r"because .*one stage.*; leave one of them",
    ),
    "an architecture without stages": (
        "summary: x\narchitecture: {value_dim: 16}",
        "architecture: needs stages; keys: stages, value_dim",
    ),
    "an architecture of no stages": (
        "summary: x\narchitecture: {stages: [], value_dim: 16}",
        r"architecture\.stages: at least one stage is needed$",
    ),
    "a stage without heads": (
        "summary: x\narchitecture: {stages: [{depth: 1, width: 16}], value_dim: 16}",
        r"architecture\.stages\[0\]: needs num_heads",
    ),
    "a stage of text": (
        "summary: x\narchitecture: {stages: [{depth: 1, width: wide, num_heads: 1}], value_dim: 16}",
        r"architecture\.stages\[0\]\.width: int needed, not 'wide'",
    ),
    "an architecture out of its range": (
        f"summary: x\narchitecture: {{{ARCHITECTURE}, drop_path: 2}}",
        r"architecture\.drop_path: 2\.0 must be at least 0 and at most 0\.99$",
    ),
}


@pytest.mark.parametrize("problem", BAD)
def test_a_bad_file_is_refused_with_its_name_the_key_and_what_is_valid(problem):
    content, message = BAD[problem]
    path = own("bad", content + "\n")
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}: {message}") as refused:
        library.read("bad")
    assert "jsonargparse" not in str(refused.value)
    assert "levit_ablate.config" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("summary: x\n  design: {}\n", 2),
        ("summary: x\ndesign:\n  stem: [patch\n", 4),
        ("summary: x\ndesign: *pach\n", 2),
        ("summary: !!python/object:os.system x\n", 1),
    ],
)
def test_what_is_not_yaml_is_refused_with_the_line(content, line):
    path = own("bad", content)
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}:{line}: not YAML: \w+"):
        library.read("bad")


def test_text_of_another_encoding_is_refused():
    own("bad", "").write_bytes("summary: café\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"bad\.yaml: is not UTF-8 text"):
        library.read("bad")


def test_a_path_that_cannot_be_read_is_refused_with_the_reason():
    Path("folder.yaml").mkdir()
    with pytest.raises(UserError, match=r"^folder\.yaml: cannot be read: Is a directory"):
        library.read("folder.yaml")
    with pytest.raises(UserError, match=r"^nowhere\.yaml: cannot be read: No such file"):
        library.read("nowhere.yaml")


def test_a_file_of_ones_own_is_found_by_name_and_listed():
    own("mine", "summary: Patches and GELU\ndesign: {stem: patch, activation: gelu}\n")
    found = library.read("mine")
    assert (found.name, found.summary, found.match) == ("mine", "Patches and GELU", "none")
    assert dict(found.design) == {"stem": "patch", "activation": "gelu"}
    assert [a.name for a in library.read_all()[0] if a.name not in CHANGES] == ["mine"]


def test_a_file_of_ones_own_comes_before_a_shipped_one_of_its_name():
    own("no_pyramid", "summary: My own\ndesign: {stem: patch}\n")
    assert library.read("no_pyramid").summary == "My own"
    assert [a.summary for a in library.read_all()[0] if a.name == "no_pyramid"] == ["My own"]


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_a_file_anywhere_can_be_named_by_its_path(tmp_path, suffix):
    path = tmp_path / "elsewhere" / f"mine.{suffix}"
    path.parent.mkdir()
    path.write_text("summary: Mine\nmatch: params\ndesign: {mlp_expansion: 3}\n")
    for name in (str(path), f"elsewhere/mine.{suffix}"):
        found = library.read(name)
        assert (found.name, found.match, dict(found.design)) == (
            "mine",
            "params",
            {"mlp_expansion": 3},
        )
    assert "mine" not in library.names()


def test_an_architecture_is_a_change_too():
    own("mine", f"summary: Mine\narchitecture: {{{ARCHITECTURE}}}\n")
    whole = Architecture(stages=(Stage(depth=1, width=16, num_heads=2),), value_dim=16)
    assert library.read("mine").changes()["architecture"] == plain(whole)


def test_an_unknown_name_is_refused_with_the_closest_and_all_valid_ones():
    own("mine", "summary: Mine\ndesign: {stem: patch}\n")
    with pytest.raises(UserError, match=r"'no_piramid': .*did you mean no_pyramid\?") as refused:
        library.read("no_piramid")
    _, _, valid = str(refused.value).partition("valid: ")
    assert valid.split(", ") == sorted([*CHANGES, "mine"])


def test_a_name_like_no_other_is_refused_without_a_guess():
    with pytest.raises(UserError, match=r"'xyzzy': not in \./ablations, nor shipped; valid: base"):
        library.read("xyzzy")


GEOMETRY = "{stages: [{depth: 1, width: 24, num_heads: 2}], value_dim: 16}"
KINDS = [
    (library.ABLATIONS, library.read, "summary: Mine\ndesign: {stem: patch}\n"),
    (library.STUDIES, study.read, "summary: Mine\nvariants: [no_pyramid]\n"),
    (library.SEARCHES, search.read, "summary: Mine\nspace: {depth: '1:3'}\n"),
    (library.MODELS, preset, f"summary: Mine\narchitecture: {GEOMETRY}\n"),
]


@pytest.mark.parametrize(("kind", "read", "content"), KINDS)
def test_a_file_is_named_with_either_suffix_and_hidden_files_and_folders_are_not(
    kind, read, content
):
    folder = Path("ablations", kind.folder)
    shipped = set(library.names(kind))
    Path(folder).mkdir(parents=True)
    Path(folder, "mine.yml").write_text(content)
    Path(folder, "other.yaml").write_text(content)
    Path(folder, "._other.yaml").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    Path(folder, ".yaml").write_text(content)
    Path(folder, "notes.txt").write_text("")
    Path(folder, "folder.yaml").mkdir()
    assert set(library.names(kind)) == shipped | {"mine", "other"}
    assert read("mine").summary == "Mine"
    assert getattr(read("mine"), "name", "mine") == "mine"  # a model has none


@pytest.mark.parametrize(("kind", "read", "content"), KINDS)
def test_two_files_of_one_name_are_refused_with_both(kind, read, content):
    folder = Path("ablations", kind.folder)
    Path(folder).mkdir(parents=True)
    Path(folder, "mine.yaml").write_text(content)
    Path(folder, "mine.yml").write_text(content)
    with pytest.raises(UserError, match=rf"^{folder}/mine\.yaml and {folder}/mine\.yml have one"):
        read("mine")


@pytest.mark.parametrize(("kind", "read", "content"), KINDS)
def test_a_folder_that_cannot_be_read_is_said(kind, read, content):
    folder = Path("ablations", kind.folder)
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    Path(folder).symlink_to(Path(folder).name)  # a link to itself
    with pytest.raises(UserError, match=rf"^{folder}: cannot be read: Too many levels"):
        read("mine")


@pytest.mark.parametrize(("kind", "read", "content"), KINDS)
def test_a_link_that_leads_nowhere_is_named_and_cannot_be_read(kind, read, content):
    folder = Path("ablations", kind.folder)
    Path(folder).mkdir(parents=True)
    Path(folder, "mine.yaml").symlink_to("nowhere.yaml")
    with pytest.raises(UserError, match=r"mine\.yaml: cannot be read: No such file"):
        read("mine")


def test_a_file_in_place_of_the_folder_is_no_folder():
    Path("ablations").write_text("notes")
    assert library.read("no_pyramid").name == "no_pyramid"
