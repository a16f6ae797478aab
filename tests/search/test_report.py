"""How a network of a search is said in a line."""

from __future__ import annotations

from dataclasses import replace

from levit_ablate.config import Design
from levit_ablate.models.presets import PRESETS
from levit_ablate.search.report import choices_line, stages_line

NANO = PRESETS["levit_nano"].architecture


def test_a_line_has_of_every_stage_what_a_search_varies():
    first, *others = NANO.stages
    varied = replace(NANO, stages=(replace(first, value_dim=24, mlp_expansion=2.5), *others))
    assert stages_line(varied, Design()) == ("1x C32 N2 D12 M2.5, 1x C48 N3 D8 M2, 2x C64 N4 D8 M2")
    one = stages_line(NANO, Design(pyramid=False, downsampling="attention"))
    assert one == "6x C32 N2 D8 M2"  # without a pyramid there is one stage


def test_choices_are_what_the_stages_do_not_say():
    assert choices_line(NANO, Design(), Design()) == ""
    assert choices_line(NANO, Design(mlp_expansion=4.0), Design()) == ""  # stages say it
    design = Design(position="absolute", zero_init=False)
    stem = replace(NANO, stem_width=24)
    assert choices_line(stem, design, Design()) == "stem C24, position absolute, zero_init false"
