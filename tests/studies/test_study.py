"""A study is a file: what it says is what is compared, and mistakes in it are named."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from levit_ablate import library
from levit_ablate.config import Design
from levit_ablate.errors import UserError
from levit_ablate.studies import study
from levit_ablate.studies.plan import plan

PAPER_ROWS = ["A1", "A2", "A3", "A4", "A5", "A6", "A7"]


def written(**content: object) -> Path:
    path = Path("mine.yaml")
    path.write_text(yaml.safe_dump({"summary": "Mine", **content}), encoding="utf-8")
    return path


def test_the_papers_study_has_its_rows_in_order():
    paper = study.read("paper")
    assert [variant.paper.row for variant in paper.variants] == PAPER_ROWS
    assert (paper.baseline.name, paper.seeds) == ("baseline", (0, 1, 2))


def test_design_choices_has_every_shipped_ablation_once():
    names = {variant.name for variant in study.read("design_choices").variants}
    assert names == set(library.names()) - {library.BASELINE}


def test_from_deit_ends_at_levit():
    deit = study.read("from_deit")
    last = deit.variants[-1]
    design = {**deit.baseline.design, **last.design}
    assert library.from_mapping({"summary": "x", "design": design}, "x", Path()).design == design
    assert Design(**design) == Design()
    steps = [set(variant.design) for variant in deit.variants]
    assert all(before < after for before, after in pairwise(steps))


def test_pairs_are_each_alone_and_every_two_together():
    path = written(pairs=["no_patch_conv", "no_attention_bias", "no_pyramid"])
    found = study.read_file(path)
    assert len(found.variants) == 3 + 3
    both = found.variants[4]
    assert both.name == "no_patch_conv + no_pyramid"
    assert both.design == {"stem": "patch", "pyramid": False} and both.match == "flops"

    assert found.parts[both.name] == ("no_patch_conv", "no_pyramid") and len(found.parts) == 3
    assert both.paper is None


def test_a_given_geometry_holds_for_all_but_a_variant_with_one_of_its_own():
    stages = [{"depth": 1, "width": 24, "num_heads": 2}, {"depth": 1, "width": 40, "num_heads": 4}]
    given = {"stages": stages, "value_dim": 12, "stem_depth": 2, "stem_width": 16}
    wider = {"stages": [{"depth": 1, "width": 64, "num_heads": 2}], "value_dim": 8}
    mine = {"name": "wider", "summary": "Wider", "architecture": wider}
    found = study.read_file(written(variants=["no_patch_conv", "no_pyramid", mine]))
    planned = plan(found, {"architecture": given, "data": {"name": "digits"}})
    for variant in planned.variants[1:]:
        assert variant.baseline.experiment.model == variant.experiment.model == "own geometry"
        architecture = variant.baseline.architecture
        assert [stage.width for stage in architecture.stages] == [24, 40]
    same, one_stage, own = (variant.architecture for variant in planned.variants[1:])
    assert same == planned.baseline.architecture
    assert one_stage.stem_width == 16 and len(one_stage.stages) == 1
    assert [stage.width for stage in own.stages] == [64] and own.stem_width is None


def test_a_step_carries_those_before_it_and_no_figure_of_the_papers():
    own = {
        "stages": [{"depth": 1, "width": 32, "num_heads": 2}],
        "value_dim": 16,
        "stem_depth": 3,
    }
    wide = {"name": "wide", "summary": "Wide", "architecture": own}
    found = study.read_file(written(steps=[wide, "no_attention_bias", "no_distillation"]))
    last = found.variants[-1]
    assert last.design == {"position": "absolute", "distillation": "none"} and last.paper is None
    assert last.architecture == own
    first = study.read_file(written(steps=["no_attention_bias", "no_distillation"])).variants[0]
    assert first.paper.row == "A5"  # it is the paper's


def test_an_ablation_may_be_written_out_and_seeds_be_listed():
    mine = {"name": "both", "summary": "Two at once", "design": {"stem": "patch"}}
    found = study.read_file(written(variants=[mine, "no_pyramid"], seeds=[3, 5], match="none"))
    assert [variant.name for variant in found.variants] == ["both", "no_pyramid"]
    assert found.seeds == (3, 5) and found.given == {"match": "none"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"variant": ["no_pyramid"]}, "unknown key variant; did you mean variants"),
        ({}, "has no variants"),
        ({"variants": "no_pyramid"}, "variants: 'no_pyramid' is no list"),
        ({"variants": ["no_pyramyd"]}, "did you mean no_pyramid"),
        ({"variants": [{"design": {}}]}, r"variants\[0\]: .* neither a name nor an ablation"),
        (
            {"variants": [{"name": "x", "summary": "x", "design": {"stm": 1}}]},
            r"mine\.yaml: variants\[0\]: .*stm",
        ),
        ({"variants": ["no_pyramid", "no_pyramid"]}, "no_pyramid: is there twice"),
        ({"variants": ["no_pyramid"], "seeds": 0}, "seeds: 0: at least one is needed"),
        ({"variants": ["no_pyramid"], "seeds": [1, 1]}, r"seeds: .*\]: .* none twice"),
        ({"variants": ["no_pyramid"], "seeds": "three"}, "seeds: 'three' is neither how many"),
        ({"variants": ["no_pyramid"], "seeds": True}, "seeds: True is neither how many"),
        ({"variants": ["no_pyramid"], "seeds": 2.0}, "seeds: 2.0 is neither how many"),
        ({"variants": ["no_pyramid"], "seeds": {0: 1}}, "seeds: .* is neither how many"),
        ({"variants": ["no_pyramid"], "given": ["a"]}, r"mine\.yaml: given: \['a'\] is no mapping"),
        ({"variants": ["no_pyramid"], "given": "abc"}, "given: 'abc' is no mapping"),
        ({"variants": ["no_pyramid"], "given": {"seed": 7}}, r"given\.seed: a study has seeds"),
        ({"variants": ["no_pyramid"], "match": "flop"}, r"mine\.yaml: match: .*did you mean flops"),
        ({"variants": None}, "has no variants"),
        ({"pairs": ["no_small_mlp", "no_wider_blocks"]}, "both change mlp_expansion"),
        ({"variants": ["no_pyramid"], "given": {"modle": "x"}}, r"given\.modle"),
        ({"summary": "", "variants": ["no_pyramid"]}, "summary: a line"),
    ],
)
def test_a_mistake_in_a_study_is_one_line_that_names_it(content, said):
    path = written(**content)
    with pytest.raises(UserError, match=said) as caught:
        study.read_file(path)
    assert "\n" not in str(caught.value)


def test_ones_own_study_is_found_first_and_an_unknown_one_named_with_the_closest():
    Path("ablations/studies").mkdir(parents=True)
    content = "summary: Mine\nvariants: [no_pyramid]\n"
    Path("ablations/studies/paper.yaml").write_text(content, encoding="utf-8")
    assert study.read("paper").summary == "Mine"
    with pytest.raises(UserError, match=r"study 'papre': .* did you mean paper"):
        study.read("papre")
