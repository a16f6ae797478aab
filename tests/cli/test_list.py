"""`levit-ablate list`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from levit_ablate import library
from levit_ablate.cli.main import run_command

PAPER_ROWS = {
    "baseline": "base",
    "no_pyramid": "A1",
    "no_patch_conv": "A2",
    "no_batch_norm": "A3",
    "no_distillation": "A4",
    "no_attention_bias": "A5",
    "no_wider_blocks": "A6",
    "no_attention_activation": "A7",
}
OTHERS = sorted(library.names().keys() - PAPER_ROWS.keys())


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def listed(capsys, *options) -> str:
    assert run_command(["list", *options]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def own(content: str, name: str = "mine") -> None:
    Path("ablations").mkdir(exist_ok=True)
    Path("ablations", f"{name}.yaml").write_text(content, encoding="utf-8")


def test_every_ablation_has_a_line_with_row_and_summary_the_papers_first(capsys):
    text = listed(capsys)
    lines = [line.split() for line in text.splitlines() if re.match(r"\w+ +(base|A\d|–) ", line)]
    assert [words[:2] for words in lines] == [
        *([name, row] for name, row in PAPER_ROWS.items()),
        *([name, "–"] for name in OTHERS),
    ]
    assert re.search(
        r"^no_pyramid +A1 +−15\.4 +One stage of constant resolution", text, re.MULTILINE
    )
    assert re.search(r"^no_attention_activation +A7 +−0\.8 +No activation", text, re.MULTILINE)
    assert re.search(r"^class_token +– +A class token through", text, re.MULTILINE)


def test_json_has_all_that_is_known_of_every_ablation(capsys):
    found = json.loads(listed(capsys, "--format", "json"))
    assert [entry["name"] for entry in found] == [*PAPER_ROWS, *OTHERS]
    by_name = {entry["name"]: entry for entry in found}
    assert by_name["no_pyramid"]["paper"] == {
        "row": "A1",
        "params": 1.2e6,
        "flops": 308e6,
        "accuracy": 56.5,
        "difference": -15.4,
    }
    assert by_name["no_pyramid"]["match"] == "flops"
    assert by_name["no_batch_norm"]["design"] == {"norm": "layer", "zero_init": False}
    assert by_name["class_token"]["paper"] is None
    assert all(Path(entry["path"]).is_file() and entry["summary"] for entry in found)


def test_a_file_of_ones_own_is_listed_with_its_summary(capsys):
    own("summary: GELU on patches\ndesign: {stem: patch, activation: gelu}\n")
    assert re.search(r"^mine +– +GELU on patches", listed(capsys), re.MULTILINE)
    found = json.loads(listed(capsys, "--format=json"))
    mine = next(entry for entry in found if entry["name"] == "mine")
    assert mine["design"] == {"stem": "patch", "activation": "gelu"}
    assert mine["path"] == "ablations/mine.yaml"


def test_a_file_of_ones_own_is_listed_in_place_of_a_shipped_one_of_its_name(capsys):
    own("summary: My own patches\ndesign: {stem: patch}\n", name="no_patch_conv")
    found = json.loads(listed(capsys, "--format", "json"))
    assert sum(entry["name"] == "no_patch_conv" for entry in found) == 1
    assert "My own patches" in listed(capsys)


def test_a_summary_is_printed_as_it_is_written(capsys):
    own("summary: '[bold] Q [/] and [K]'\ndesign: {stem: patch}\n")
    assert "[bold] Q [/] and [K]" in listed(capsys)


def test_a_bad_file_of_ones_own_is_named_in_one_line_and_the_rest_listed(capsys):
    own("summary: x\ndesign: {steam: patch}\n")
    assert run_command(["list"]) == 0
    out, err = capsys.readouterr()
    assert "no_pyramid" in out and "mine" not in out
    assert re.fullmatch(
        r"levit-ablate: ablations/mine\.yaml: unknown key design\.steam; did you mean stem\? .*\n",
        err,
    )


def test_the_models_are_listed_and_those_of_ones_own(capsys):
    Path("ablations/models").mkdir(parents=True)
    geometry = "architecture: {stages: [{depth: 1, width: 24, num_heads: 2}], value_dim: 16}\n"
    path = Path("ablations/models/mine.yaml")
    path.write_text(f"summary: My own\nimages: {{height: 48, width: 64}}\n{geometry}")
    text = listed(capsys)
    assert re.search(
        r"^levit_nano +1x32x32 +.*: 1x C32 N2, 1x C48 N3, 2x C64 N4", text, re.MULTILINE
    )
    assert re.search(r"^mine +3x48x64 +My own: 1x C24 N2", text, re.MULTILINE)
    path.write_text("summary: My own\n")
    assert run_command(["list"]) == 0
    out, err = capsys.readouterr()
    assert "levit_nano" in out and "My own" not in out
    assert err.startswith("levit-ablate: ablations/models/mine.yaml: architecture: needs stages")
