"""The wheel holds the package and the ablations of the top-level folder, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = "levit_ablate/shipped/ablations/"
TEMPLATES = ("analysis/templates/table.tex", "analysis/templates/page.html")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """What the built wheel holds: name → content."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    with ZipFile(built) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_ablations_are_in_the_wheel_byte_for_byte(wheel):
    folder = ROOT / "ablations"
    paths = folder.rglob("*.yaml")
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    shipped = {name.removeprefix(SHIPPED): wheel[name] for name in wheel if SHIPPED in name}
    assert len(files) >= 18 and "studies/paper.yaml" in files
    assert shipped == files


def test_every_module_is_in_the_wheel(wheel):
    sources = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("levit_ablate/**/*.py")}
    assert {name for name in wheel if name.endswith(".py")} == sources


def test_nothing_else_is_in_the_wheel(wheel):
    """No tests, notebooks, caches or databases."""
    odd = [
        name
        for name in wheel
        if not (
            name.startswith("levit_ablate/") and name.endswith((".py", "/py.typed", *TEMPLATES))
        )
        and not (name.startswith(SHIPPED) and name.endswith(".yaml"))
        and ".dist-info/" not in name
    ]
    assert odd == []


def test_the_wheel_has_the_command_and_the_licence(wheel):
    info = {name.partition(".dist-info/")[2]: content for name, content in wheel.items()}
    assert b"levit-ablate = levit_ablate.cli.main:main" in info["entry_points.txt"]
    assert b"Apache License" in info["licenses/LICENSE"]
