"""Paths that a user gives, of which some can be none: no command ends in a traceback."""

from __future__ import annotations

import pytest

from levit_ablate.cli.main import run_command
from levit_ablate.errors import UserError
from levit_ablate.models import weights
from levit_ablate.paths import is_file, is_folder, replacing

LONG = "x" * 300


def test_a_file_and_a_folder_are_told_apart(tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert is_file(file) and not is_folder(file)
    assert is_folder(tmp_path) and not is_file(tmp_path)


def test_a_file_that_is_not_written_whole_leaves_the_one_before(tmp_path):
    file = tmp_path / "file"
    with replacing(file) as new:
        new.write_text("whole")

    def fill_the_disk() -> None:
        with replacing(file) as new:
            new.write_text("ha")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fill_the_disk()
    assert file.read_text() == "whole" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", [LONG, f"{LONG}/x", "a\0b", "missing", ""])
def test_what_can_be_no_path_is_neither(name):
    assert not is_file(name) and not is_folder(name)


@pytest.mark.parametrize(
    "words",
    [
        "table paper --tracking-uri sqlite:///LONG.db",
        "table paper --tracking-uri sqlite:///LONG/x.db",
        "run no_pyramid --tracking-uri sqlite:///LONG.db",
        "run no_pyramid --tracking-uri sqlite:///LONG/x.db",
        "ui --tracking-uri sqlite:///LONG.db",
        "ui --tracking-uri sqlite:///LONG/x.db",
        "run no_pyramid --design.distillation hard --teacher.weights LONG",
        "run no_pyramid --data fashion_mnist --data.root LONG",
        "run no_pyramid --data imagefolder --data.root LONG",
        "run no_pyramid --recipe LONG",
        "run no_pyramid --hardware.work_dir LONG",
    ],
)
def test_a_path_that_is_too_long_is_a_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command(words.replace("LONG", LONG).split()) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("levit-ablate: ") and "\n" not in said


def test_weights_whose_path_is_too_long_are_not_there(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        weights.read(tmp_path / LONG)
