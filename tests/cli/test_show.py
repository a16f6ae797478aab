"""`levit-ablate show NAME`: the network, its cost, and the paper's figures beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from levit_ablate.cli.main import run_command
from levit_ablate.models.presets import preset, shipped

# parameters and multiply-adds of LeViT-128S at 224 px, one head
EXACT = {
    "baseline": (7_391_290, 304_724_946),
    "no_pyramid": (1_214_614, 308_307_144),
    "no_patch_conv": (7_392_170, 275_221_458),
    "no_wider_blocks": (6_195_819, 312_203_018),
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def shown(capsys):
    """What `show` prints."""

    def run(*options):
        code = run_command(["show", *options])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return out

    return run


@pytest.fixture
def facts(shown):
    """What `show --format json` says."""
    return lambda *options: json.loads(shown(*options, "--format", "json"))


@pytest.mark.parametrize("name", EXACT)
def test_the_cost_is_that_of_the_paper_with_one_head(facts, name):
    found = facts(name)
    assert (found["params"], found["flops"]) == EXACT[name]
    base = found["baseline"]
    assert (base["params"], base["flops"]) == EXACT["baseline"]
    assert found["model"] == "levit_128s"
    assert found["images"] == {"channels": 3, "height": 224, "width": 224, "num_classes": 1000}


@pytest.mark.parametrize("name", EXACT)
def test_the_parts_add_up_to_the_whole(facts, name):
    found = facts(name)
    parts = [found["stem"], *found["stages"], found["head"]]
    for cost in ("params", "flops"):
        assert sum(part[cost] for part in parts) == found[cost]


def stages(found, *keys):
    return [tuple(stage[key] for key in keys) for stage in found["stages"]]


GEOMETRY = ("depth", "width", "num_heads", "key_dim", "value_dim", "mlp_hidden")


def test_the_stages_of_the_baseline_are_levit_128s(facts):
    found = facts("baseline")
    assert stages(found, *GEOMETRY) == [
        (2, 128, 4, 16, 32, 256),
        (3, 256, 6, 16, 32, 512),
        (4, 384, 8, 16, 32, 768),
    ]
    assert [stage["grid"] for stage in found["stages"]] == [[14, 14], [7, 7], [4, 4]]
    shrinking = [stage["shrinking"] for stage in found["stages"]]
    assert shrinking[0] is None
    assert [(s["num_heads"], s["key_dim"], s["value_dim"]) for s in shrinking[1:]] == [
        (8, 16, 64),
        (16, 16, 64),
    ]


def test_the_stage_of_no_pyramid_is_the_papers(facts):
    found = facts("no_pyramid")
    assert stages(found, *GEOMETRY) == [(11, 114, 3, 19, 38, 228)]
    assert found["stages"][0]["grid"] == [14, 14]
    assert found["stages"][0]["shrinking"] is None
    assert found["matched"] == "flops"


def test_the_stages_of_no_wider_blocks_are_the_papers(facts):
    found = facts("no_wider_blocks")
    assert stages(found, *GEOMETRY) == [
        (2, 120, 4, 30, 30, 480),
        (3, 180, 6, 30, 30, 720),
        (4, 240, 8, 30, 30, 960),
    ]
    shrinking = [stage["shrinking"] for stage in found["stages"]]
    assert shrinking[0] is None
    assert [s["num_heads"] for s in shrinking[1:]] == [16, 24]
    assert found["matched"] == "flops"


def test_the_differences_are_named_with_both_values(facts):
    assert facts("baseline")["differs"] == {}
    assert facts("no_batch_norm")["differs"] == {
        "design.norm": {"baseline": "batch", "value": "layer"},
        "design.zero_init": {"baseline": True, "value": False},
    }
    differs = facts("no_pyramid")["differs"]
    assert list(differs) == ["design.pyramid", "architecture.stages", "architecture.value_dim"]
    (stage,) = differs["architecture.stages"]["value"]
    own = {"depth": 11, "width": 114, "num_heads": 3}
    assert {name: value for name, value in stage.items() if value is not None} == own
    assert differs["architecture.value_dim"] == {"baseline": 32, "value": 38}


def test_an_option_is_shown_as_the_ablation_of_that_choice(facts):
    by_option = facts("baseline", "--design.stem", "patch")
    by_name = facts("no_patch_conv")
    for key in ("params", "flops", "stem", "stages", "head", "differs"):
        assert by_option[key] == by_name[key]


def test_a_convolution_between_stages_is_shown_without_heads(facts):
    shrinking = facts("no_shrinking_attention")["stages"][1]["shrinking"]
    assert shrinking == {"downsampling": "convolution"}


def test_match_none_shows_the_network_unscaled(facts):
    found = facts("no_pyramid", "--match", "none")
    assert stages(found, *GEOMETRY[:3]) == [(11, 128, 4)]
    assert found["matched"] == "none"


# --- for people


def test_the_text_has_the_papers_figures_beside_ours(shown):
    text = shown("no_wider_blocks")
    assert re.search(r"parameters +6\.196 M +7\.391 M +6\.2 M", text)
    assert re.search(r"multiply-adds +312\.2 M +304\.7 M +312 M", text)
    assert "70.9 % (−1.0)" in text
    assert "The paper's figures are those of" not in text


def test_the_text_has_the_network_stage_by_stage(shown):
    text = shown("no_wider_blocks")
    assert re.search(r"stage 1 +14x14 +2 +120 +4 +30 +30 +480 +351,488 +86,484,608", text)
    assert re.search(r"↓ attention +24 +30 +30", text)
    assert re.search(r"stage 3 +4x4 +4 +240 +8 +30 +30 +960 ", text)


def test_the_text_says_what_differs_and_what_was_matched(shown):
    text = shown("no_pyramid")
    assert "flops match the baseline's" in text
    assert "design.pyramid: true → false" in text
    assert "architecture.stages: 2x C128 N4, 3x C256 N6, 4x C384 N8 → 11x C114 N3" in text
    assert "Differs" not in shown("baseline")


@pytest.mark.parametrize("options", [["--model", "levit_nano"], ["--image-size", "192"]])
def test_the_text_says_when_the_papers_figures_are_for_another_network(shown, options):
    text = shown("no_patch_conv", *options)
    assert "The paper's figures are those of LeViT-128S at 224x224." in text


def test_an_ablation_without_a_row_has_no_figures_of_the_paper(shown, facts):
    assert facts("no_zero_init")["paper"] is None
    assert "top-1" not in shown("no_zero_init")


def test_no_line_is_wider_than_a_terminal(shown, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in EXACT:
        assert max(map(len, shown(name).splitlines())) <= 80


# --- models and image sizes


@pytest.mark.parametrize("model", shipped())
def test_every_model_is_shown(facts, model):
    found, chosen = facts("no_patch_conv", "--model", model), preset(model)
    assert found["model"] == model
    assert found["images"]["height"] == chosen.images.height
    assert stages(found, "depth", "width", "num_heads") == [
        (stage.depth, stage.width, stage.num_heads) for stage in chosen.architecture.stages
    ]
    assert found["flops"] != found["baseline"]["flops"]


@pytest.mark.parametrize(
    ("size", "height", "width", "grids"),
    [
        ("224", 224, 224, [[14, 14], [7, 7], [4, 4]]),
        ("192x256", 192, 256, [[12, 16], [6, 8], [3, 4]]),
        ("100", 100, 100, [[7, 7], [4, 4], [2, 2]]),
        ("1", 1, 1, [[1, 1], [1, 1], [1, 1]]),
    ],
)
def test_images_may_have_any_size(facts, size, height, width, grids):
    found = facts("baseline", "--image-size", size)
    assert (found["images"]["height"], found["images"]["width"]) == (height, width)
    assert [stage["grid"] for stage in found["stages"]] == grids


def test_a_larger_image_costs_more_multiply_adds(facts):
    flops = [facts("baseline", "--image-size", size)["flops"] for size in ("160", "192", "224")]
    assert flops == sorted(set(flops))
    assert flops[-1] == EXACT["baseline"][1]


def test_flops_are_matched_at_the_size_that_is_shown(facts):
    found = facts("no_pyramid", "--image-size", "160")
    assert found["flops"] == pytest.approx(found["baseline"]["flops"], rel=0.03)
    assert stages(found, "width") != [(114,)]


@pytest.mark.parametrize(
    "size", ["0", "-1", "abc", "192x", "x192", "192x0", "1.5", "", "192x256x3", "192 x 256"]
)
def test_what_is_no_size_is_refused_in_one_line(capsys, size):
    assert run_command(["show", "baseline", f"--image-size={size}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"levit-ablate: --image-size: {size!r} is neither a side (224) nor height x width "
        "(192x256)\n"
    )


def test_an_ablation_of_ones_own_is_shown_by_name_and_by_path(facts):
    Path("ablations").mkdir()
    Path("ablations/mine.yaml").write_text("summary: Mine\ndesign: {stem: patch, norm: layer}\n")
    by_name = facts("mine", "--model", "levit_nano")
    assert by_name == facts("ablations/mine.yaml", "--model", "levit_nano")
    assert by_name["summary"] == "Mine"
    assert list(by_name["differs"]) == ["design.stem", "design.norm"]


def test_a_summary_is_printed_as_it_is_written(shown):
    Path("mine.yaml").write_text("summary: '[bold] Q [/] and [K]'\ndesign: {stem: patch}\n")
    assert "mine: [bold] Q [/] and [K]\n" in shown("mine.yaml", "--model", "levit_nano")


def test_a_cost_that_cannot_be_matched_is_refused_with_the_way_out(capsys):
    Path("ablations").mkdir()
    stages = [{"depth": 1, "width": 1, "num_heads": 1}]
    Path("ablations/mine.yaml").write_text(
        f"summary: Mine\nmatch: params\narchitecture: {{stages: {json.dumps(stages)}, value_dim: 2}}\n"
        "design: {mlp_expansion: 1000}\n"
    )
    assert run_command(["show", "mine", "--model", "levit_nano"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"levit-ablate: match: params: the nearest geometry is .* off .*; use match: none\n", err
    )


def test_with_a_dataset_it_shows_what_run_would_train(capsys):
    given = ["no_pyramid", "--model", "levit_128s", "--data", "digits", "--print_config"]
    outputs = []
    for command in ("show", "run"):
        assert run_command([command, *given]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != ""


@pytest.mark.parametrize("command", ["show", "run"])
def test_what_only_shows_looks_at_no_image(command, capsys):
    """None is there, and none could be downloaded."""
    run_command([command, "baseline", "--data", "fashion_mnist", "--print_config"])
    assert "fingerprint: ''" in capsys.readouterr().out
    assert not Path("data").exists()
