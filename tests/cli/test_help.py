"""The help: a page of what people use, the rest by section, and nothing that takes long."""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from levit_ablate.cli.main import COMMANDS, run_command
from levit_ablate.cli.options import SECTIONS
from levit_ablate.config import Experiment
from levit_ablate.recipes import RECIPES

SCREENS = 50
"""Lines of two screens of a terminal that is 80 columns wide."""
EXPERIMENT = ("show", "run", "plan", "sweep", "table", "search", "teacher", "bench")
"""Commands with the settings of an experiment."""


@pytest.fixture(autouse=True)
def _wide_as_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def page(capsys):
    """Asks for help; gives what is printed."""

    def ask(*words):
        with pytest.raises(SystemExit) as ended:
            run_command(list(words))
        out, err = capsys.readouterr()
        assert (ended.value.code, err) == (0, "")
        assert not any(len(line) > 80 for line in out.splitlines())
        return out

    return ask


def in_one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_fits_on_two_screens(page, command):
    text = page(command, "--help")
    assert text.startswith(f"usage: levit-ablate {command}")
    assert len(text.splitlines()) <= SCREENS
    assert page(command, "-h") == page("help", command) == page("--help", command) == text


@pytest.mark.parametrize("command", EXPERIMENT)
def test_it_names_what_can_be_named_and_the_defaults_of_what_people_use(page, command):
    text = in_one_line(page(command, "--help"))
    assert "--recipe.epochs N Passes over the training images. (default: 20)" in text
    assert "--data NAME The images, by name or in a YAML file. (default: digits)" in text
    assert f"Recipes: {', '.join(RECIPES)} " in text
    assert "Models: levit_128, levit_128s, " in text and "Datasets: digits, cifar10" in text
    assert f"levit-ablate {command} --help SECTION, which is " in text
    own = {"search": "Searches: accuracy_and_flops, equal_flops, flags "}
    own |= dict.fromkeys(("plan", "sweep", "table"), "Studies: design_choices, from_deit, ")
    assert own.get(command, "Ablations: baseline, class_token, ") in text


def test_ones_own_files_are_named_too(page):
    for folder in ("ablations", "ablations/models"):
        Path(folder).mkdir()
        Path(folder, "mine.yaml").touch()
    text = page("run", "--help")
    assert "Ablations: baseline, class_token, mine," in text
    assert "levit_nano, mine" in in_one_line(text)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_explains_each_of_its_fields_and_no_others(page, section):
    text = page("run", "--help", section)
    shown = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    own = [f"--{section}.{field.name}" for field in fields(SECTIONS[section])]
    inner = [f"--{name}" for name in SECTIONS]
    assert shown == [f"--{section}", *(name for name in own if name not in inner)]
    assert page("run", f"--help={section}") == page("help", "run", section) == text


def test_the_texts_are_those_under_the_fields_of_the_config(page):
    text = in_one_line(page("run", "--help", "design"))
    assert "{convolution,patch} From image to tokens: 3x3 convolutions of stride 2, or" in text
    assert "(8 to 100 % of the area)" in in_one_line(page("run", "--help", "recipe"))


@pytest.mark.parametrize("command", EXPERIMENT)
def test_all_explains_every_field_of_an_experiment(page, command):
    text = page(command, "--help", "all")
    for section, config in SECTIONS.items():
        assert all(f"  --{section}.{field.name} " in text for field in fields(config))
    seeds = command in ("plan", "sweep", "table", "search")  # they have --seeds
    own = [field.name for field in fields(Experiment) if not (seeds and field.name == "seed")]
    assert all(f"  --{name} " in text for name in own)
    assert "  --config FILE" in text


def test_a_search_explains_its_rarer_options_by_section(page):
    assert "postgresql://" not in page("search", "--help")
    assert "postgresql://" in page("search", "--help", "trials")
    assert "mlp_expansion" in page("search", "--help", "space")
    assert "Ray cluster" in page("search", "--help", "launch")


def test_another_default_of_a_command_is_the_one_shown(page):
    assert "(default: levit_128s)" in page("show", "--help")
    assert "(default: levit_nano)" in page("run", "--help")


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_the_tool_says_what_it_is_and_what_to_try_first(page, words):
    text = page(*words)
    assert "ablation table" in text and "levit-ablate run no_pyramid" in text
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    assert listed == list(COMMANDS)


def test_without_a_command_it_is_the_same_and_a_mistake(capsys, page):
    with pytest.raises(SystemExit) as ended:
        run_command([])
    assert ended.value.code == 2
    assert capsys.readouterr().out == page("--help")


def test_the_version_is_a_line(page):
    assert page("--version").strip().replace(".", "").isdigit()
    assert page("version") == page("--version")


def test_the_help_is_as_wide_as_the_terminal(page, monkeypatch):
    usual = page("run", "--help")
    monkeypatch.setenv("COLUMNS", "50")
    text = page("run", "--help")
    assert max(map(len, text.splitlines())) <= 50
    assert sorted(in_one_line(text).replace("- ", "-").split()) == sorted(
        in_one_line(usual).replace("- ", "-").split()
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_takes_little_cpu_time_and_loads_no_torch(command):
    code = (
        "import sys; from levit_ablate.cli.main import run_command\n"
        f"try: run_command(['{command}', '--help'])\n"
        "finally: assert not {'torch', 'lightning', 'mlflow', 'sqlalchemy'} & set(sys.modules)"
    )

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert b"\x1b" not in done.stdout  # no colours in a pipe
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(seconds() < 0.4 for _ in range(3))
