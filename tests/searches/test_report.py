"""The report of a search describes the right networks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from searching import small

from levit_ablate.analysis.results import Results, Row
from levit_ablate.config import Design
from levit_ablate.models.presets import preset
from levit_ablate.searches import report, report_tables
from levit_ablate.searches.report import choices_line, stages_line
from levit_ablate.searches.sampling import variant_of
from levit_ablate.searches.storage import study_of
from levit_ablate.searches.trials import describe

NANO = preset("levit_nano").architecture


def test_what_is_confirmed_of_a_front_is_in_the_report(monkeypatch):
    planned = small("accuracy_and_flops", confirm=3)
    study = study_of(planned, "")
    for number in range(15):
        trial = study.ask()
        trial.suggest_int("depth.1", 1, 4)
        network = planned.variant(
            "x", "", replace(planned.baseline.architecture, stem_width=8 * (2 + number)), Design()
        )
        describe(trial, network)
        study.tell(trial, (number / 20, number))
    asked = []
    monkeypatch.setattr(report, "confirmed", lambda planned, study, best: asked.extend(best))
    shown = report.report_of(planned, study)
    assert [each.number for each in asked] == [14, 7, 0]
    assert {0, 7} <= {each.number for each in shown.best} and len(shown.best) == 11
    accuracies = [each.accuracy for each in shown.best]
    assert accuracies == sorted(accuracies, reverse=True)


def test_a_baseline_that_was_no_trial_stands_in_the_table_of_what_is_compared_with_it(monkeypatch):
    planned = small(budget={"flops": "200k"}, space={"width": "4:8"})
    study = study_of(planned, "")
    for width in (4, 8):
        trial = study.ask()
        stages = [replace(s, width=width) for s in planned.baseline.architecture.stages]
        architecture = replace(planned.baseline.architecture, stages=tuple(stages))
        describe(trial, planned.variant("x", "", architecture, Design(distillation="none")))
        study.tell(trial, width / 10)
    rows = [
        row("baseline", {1: 0.5, 2: 0.7}),
        row("trial 1", {1: 0.8}, errors={2: "killed"}),
        row("trial 0", {1: 0.8, 2: 0.9}),
    ]
    found = Results(
        study="",
        summary="",
        dataset="",
        seeds=(1, 2),
        conditions={"recipe": {"epochs": 1}},
        rows=tuple(rows),
        noise=None,
        agreement=None,
    )
    monkeypatch.setattr(report, "confirmed", lambda *_: found)
    shown = report.report_of(planned, study)
    table = report_tables.best(shown)
    assert list(table["trial"]) == ["baseline", "1", "0"]
    assert list(table["confirmed"]) == ["60.00 %", "80.00 %", "85.00 %"]
    assert table["in the search"][0] == "–" and table["multiply-adds"][0] != "0 M"
    said = " ".join(report_tables.notes(shown))
    assert "Not all of that is there: trial 1 lacks seed 2." in said and "1 epoch," in said
    assert shown.winner.name == "trial 0" == report_tables.presets(shown)["network"].iloc[-1]
    assert report.as_dict(shown)["baseline"]["confirmed"]["mean"] == 0.6


def test_the_report_of_a_grid_has_the_shares_of_every_setting_and_pair(monkeypatch):
    fixed = {"attention_activation": "same", "stem": "convolution", "pooling": "average"}
    planned = small("flags", space={"design": fixed})  # position and keys vary
    study = study_of(planned, "")
    values = [0.50, 0.60, 0.70, 0.60]  # half is one setting's, half both's together
    for combination, value in zip(planned.space.combinations, values, strict=True):
        study.enqueue_trial(combination)
        trial = study.ask()
        describe(trial, variant_of(trial, planned))
        study.tell(trial, value)
    monkeypatch.setattr(report, "confirmed", lambda *_: None)
    shown = report.report_of(planned, study)
    shares = report.as_dict(shown)["importance"]
    assert shares["exact"] and shares["rest"] == pytest.approx(0, abs=1e-9)
    frame = report_tables.shares(shown)
    assert sorted(map(float, frame["share"].str.removesuffix(" %"))) == [0.0, 50.0, 50.0]
    assert "design.position with design.keys" in set(frame["setting"])
    text = report_tables.as_text(shown)
    assert "the factorial ANOVA of every combination of 2 settings" in " ".join(text.split())
    assert set(report.pictures_of(shown)) == {"history", "front", "parallel", "importance"}


def row(name: str, accuracies: dict[int, float], errors: dict[int, str] | None = None) -> Row:
    return Row(
        name=name,
        summary="",
        paper={},
        params=1,
        flops=1,
        accuracies=accuracies,
        errors=errors or {},
        runs={},
    )


def test_a_line_has_of_every_stage_what_a_search_varies():
    first, *others = NANO.stages
    varied = replace(NANO, stages=(replace(first, value_dim=24, mlp_expansion=2.5), *others))
    stages = stages_line(varied, Design()).split(", ")
    starts = ("1x C32 N2 D12 M2.5", "1x C48 N3 D8 M2", "2x C64 N4 D8 M2")
    assert all(stage.startswith(start) for stage, start in zip(stages, starts, strict=True))
    (one,) = stages_line(NANO, Design(pyramid=False, downsampling="attention")).split(", ")
    assert one.startswith("6x C32 N2 D8 M2")  # without a pyramid there is one stage


def test_choices_are_what_the_stages_do_not_say():
    assert choices_line(NANO, Design(), Design()) == ""
    assert choices_line(NANO, Design(mlp_expansion=4.0), Design()) == ""  # stages say it
    design = Design(position="absolute", zero_init=False)
    stem = replace(NANO, stem_width=24)
    assert choices_line(stem, design, Design()) == "stem C24, position absolute, zero_init false"
