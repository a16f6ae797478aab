"""Mistakes in a search's words cost a line, exit code 2, and leave nothing."""

import itertools
from pathlib import Path

import pytest

from levit_ablate.api.search import with_settings
from levit_ablate.cli.main import run_command
from levit_ablate.cli.search import dotted


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "name of a search is missing; there are accuracy_and_flops, equal_flops, flags"),
        ("equal_flop", "did you mean equal_flops"),
        ("equal_flops --space.dept 3", "space.dept: unknown; did you mean depth"),
        ("equal_flops --space.depth", "--space.depth: a value is missing"),
        ("equal_flops --space.depth --trials 3", "--space.depth: a value is missing"),
        ("equal_flops --space.depth=5:2", "'5:2' is empty"),
        ("equal_flops --budget.flops 1k", "1,000 is impossible"),
        ("equal_flops --budget.flop 1k", "did you mean flops"),
        ("equal_flops --trials 0", "--trials: 0"),
        ("equal_flops --trials many", "int needed"),
        ("equal_flops --trial-epochs x", "--trial-epochs: 'x'"),
        ("equal_flops --trial-epochs 0", "--trial-epochs: '0'"),
        ("equal_flops --trial-epochs 31", "31 are more than the 30 with which the best"),
        ("equal_flops --workers 0", "--workers: 0"),
        ("equal_flops --sampler foo", "--sampler: 'foo' is not a choice"),
        ("equal_flops --seeds 101", "--confirm-seeds: 101 is a seed of the trials"),
        ("equal_flops --enqueue no_pyramd", "did you mean no_pyramid"),
        ("equal_flops --match flops", "a search has budgets"),
        ("equal_flops --address auto", "give --launcher ray"),
        ("equal_flops --launcher ray --address auto", "need their trials in a database"),
        ("equal_flops --serve localhost:1", "give --storage"),
        ("equal_flops --report", "nothing is recorded there yet"),
        ("equal_flops --recipe.epoch 3", "unknown option --recipe.epoch"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(words, expected, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # of an earlier test
    monkeypatch.setattr(
        "levit_ablate.runner.local.LocalLauncher.prepare", staticmethod(lambda work: None)
    )
    assert run_command(["search", *words.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("levit-ablate: ") and expected in error[0]
    assert not Path("mlflow.db").exists()


def test_what_nothing_was_searched_for_cannot_be_exported(store, capsys):
    assert run_command(["search", "equal_flops", "--export", "best", "mine"]) == 2
    assert "nothing was searched yet" in capsys.readouterr().err and not Path("ablations").exists()


def test_numbers_are_read_as_in_a_file():
    settings = {"trial_epochs": "0x10", "seeds": "3,0o4", "budget": {"flops": "0x100000"}}
    search, _ = with_settings("equal_flops", settings)
    assert search.trial["recipe"]["epochs"] == 16 and search.seeds == (3, 4)
    assert search.budget["flops"] == 2**20


def test_what_is_said_of_all_stages_and_of_one_hold_together_in_any_order():
    words = [
        ["--space.width", "32:64"],
        ["--space.width.2=solved"],
        ["--space.design.norm", "batch"],
    ]
    for order in itertools.permutations(words):
        rest, found = dotted(["flags", *itertools.chain(*order), "--trials", "3"])
        assert rest == ["flags", "--trials", "3"]
        assert found["space"]["design"] == {"norm": "batch"}
        assert found["space"]["width"] == {"others": "32:64", "2": "solved"}
    assert dotted(["--space.width", "8"])[1] == {"space": {"width": "8"}}
    assert dotted(["--space.geometry", "fixed"])[1] == {"space": {"geometry": "fixed"}}
