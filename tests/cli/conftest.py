"""What the tests of the command line share: commands run in this process, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from levit_ablate.cli.main import run_command
from levit_ablate.schema import experiment_from

NANO = ("show", "baseline", "--model", "levit_nano")


@pytest.fixture
def told(capsys):
    """Runs a command; gives its exit code and what it wrote."""

    def run(*argv):
        code = run_command(list(argv))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def resolved(told):
    """The experiment that the options of `show baseline` describe, by --print_config."""

    def run(*options):
        code, out, err = told(*NANO, *options, "--print_config")
        assert (code, err) == (0, "")
        mapping = yaml.safe_load(out)
        assert mapping.pop("name").startswith("baseline")
        for said in ("summary", "paper", "geometry"):
            mapping.pop(said, None)
        return experiment_from(mapping)

    return run


@pytest.fixture
def complaint(told):
    """What a user's mistake is answered by: one line, after the program's name."""

    def run(*argv):
        code, out, err = told(*argv)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"levit-ablate: [^\n]+\n", err)
        assert not re.search("Traceback|Namespace|jsonargparse|Union|typing|class '", err)
        return err.removeprefix("levit-ablate: ").strip()

    return run


@pytest.fixture
def write():
    """Writes a file into the current folder; gives its name."""

    def file(name: str, content: str) -> str:
        Path(name).write_text(content, encoding="utf-8")
        return name

    return file
