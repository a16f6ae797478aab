"""Paths that a user gives, of which some can be none: no command ends in a traceback."""

from __future__ import annotations

import pytest

from levit_ablate.cli.main import run_command
from levit_ablate.errors import UserError
from levit_ablate.models import weights

LONG = "x" * 300


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
