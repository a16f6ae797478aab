"""Mistakes with studies are a line and exit code 2, before anything is begun."""

from __future__ import annotations

import io
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from levit_ablate.api import study as api
from levit_ablate.api.launch import check_places
from levit_ablate.cli.main import main, run_command, with_dashes
from levit_ablate.errors import UserError
from levit_ablate.runner.job import Station, work
from levit_ablate.runner.local import LocalLauncher

NO_TEACHER = ["--design.distillation", "none"]


@pytest.fixture(autouse=True)
def _no_store_in_the_environment(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def refused(capsys, *words: str) -> str:
    assert run_command(list(words)) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert not out and line.startswith("levit-ablate: ")
    return line


@pytest.mark.parametrize(
    ("said", "seeds"),
    [("3", (0, 1, 2)), ("0o3", (0, 1, 2)), ("010", tuple(range(10))), ("0,0x10", (0, 16))],
)
def test_seeds_are_numbers_as_in_a_file(said, seeds):
    assert api._seeds(said) == seeds


@pytest.mark.parametrize("command", ["sweep", "plan"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the name of a study is missing; there are design_choices, from_deit, pairs, paper"),
        (["papre"], "study 'papre': not in ./ablations/studies, nor shipped; did you mean paper"),
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["paper", "--seeds", "0"], "--seeds: '0': at least one is needed"),
        (["paper", "--seeds", "1,1"], "none twice"),
        (["paper", "--seeds", "three"], "--seeds: 'three' is neither how many (3) nor which"),
        (["paper", "--variants", "no_pyramyd"], "did you mean no_pyramid"),
        (["paper", "--baseline", "nothing"], "ablation 'nothing': not in ./ablations"),
        (["paper", "--seed", "3"], "unknown option --seed; did you mean --seeds"),
        (["paper", "--jobs", "0"], "--jobs: 0 must be at least 1"),
        (["paper", "--recipe.epochs", "x"], "recipe.epochs"),
        (["paper", "--model", "levit_129"], "no preset is called 'levit_129'"),
        (["paper", *NO_TEACHER], "paper: no_distillation: changes nothing"),
        (["paper", "--data", "folder", "--data.root", "none"], "there is no folder none"),
        (["paper", "--recipe.batch_size", "5000"], "more than the 1,212 training images"),
        (["paper", "--tracking-uri", "http://127.0.0.1:9"], "cannot be opened"),
        (["paper", "--config", "seed.yaml"], "seed and name are for run"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(command, words, said, capsys):
    Path("seed.yaml").write_text("seed: 3\n", encoding="utf-8")
    assert said in refused(capsys, command, *words)
    assert not list(Path().glob("mlflow.db")) and not list(Path().rglob("*.ckpt"))


def test_two_names_of_one_run_are_refused(capsys):
    Path("twins.yaml").write_text(
        "summary: Twins\nvariants:\n- no_patch_conv\n"
        "- {name: twin, summary: The same, design: {stem: patch}}\n",
        encoding="utf-8",
    )
    said = refused(capsys, "plan", "twins.yaml", *NO_TEACHER)
    assert "twins: twin and no_patch_conv are the same under these conditions" in said


def test_an_address_is_of_a_ray_cluster(capsys):
    assert "--address: is of a Ray" in refused(capsys, "sweep", "paper", "--address", "auto")


@pytest.mark.parametrize(
    ("jobs", "per_device", "gpus", "said"),
    [
        (8, 1, 2, "--workers: 2 GPUs have places for 2, not for 8; --jobs-per-device 4 makes room"),
        (2, 4, 0, "--jobs-per-device: there is no GPU to be shared; --workers N says how many"),
    ],
)
def test_more_jobs_than_there_are_places_for_are_refused(jobs, per_device, gpus, said):
    with pytest.raises(UserError) as error:
        check_places(jobs, per_device, gpus, "workers")
    assert said in with_dashes(str(error.value))


@pytest.mark.parametrize(("jobs", "per_device", "gpus"), [(0, 2, 2), (4, 2, 2), (3, 2, 2)])
def test_jobs_are_spread_over_the_gpus_no_more_on_one_than_it_has_places(jobs, per_device, gpus):
    launcher = LocalLauncher(work, Station(uri=""), jobs, per_device, gpus, Path())
    placed = Counter(station.gpu for station in launcher.stations)
    assert len(launcher.stations) == (jobs or 4) and max(placed.values()) <= per_device


def test_a_sign_that_the_terminal_lacks_is_no_error(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        main(["list"])  # with minus signs
    sys.stdout.flush()
    assert ended.value.code == 0 and b"?15.4" in raw.getvalue()


def test_what_was_never_run_has_no_table(store, capsys):
    fresh = refused(capsys, "table", "paper", "--tracking-uri", "sqlite:///other.db")
    assert "nothing is recorded there yet" in fresh and not Path("other.db").exists()
    said = refused(capsys, "table", "paper", "--tracking-uri", store)
    assert "paper: nothing is recorded in sqlite" in said and "levit-ablate sweep paper" in said


def test_a_plan_makes_no_store_and_trains_nothing(capsys):
    words = ["plan", "paper", "--variants", "no_pyramid", "--probe", "false", *NO_TEACHER]
    assert run_command(words) == 0
    out = capsys.readouterr().out
    assert "0 of 6 runs are recorded, 6 to run." in out and "matched: flops" in out
    assert not list(Path().glob("mlflow.db"))
