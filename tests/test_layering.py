"""Each floor of the package imports only from those below it, and the lowest load no torch."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import levit_ablate

PACKAGE = Path(levit_ablate.__file__).parent
# from the ground up; no part imports another of its own floor
FLOORS = [
    ["errors", "streams", "signals", "bars"],
    ["config"],
    ["recipes"],
    ["schema"],
    ["library", "keys", "runtime"],
    ["models", "data"],
    ["experiment"],
    ["tracking"],
    ["analysis"],
    ["training"],
    ["runner"],
    ["studies"],
    ["searches"],
    ["api"],
    ["bench"],
    ["cli"],
    ["__main__"],
]
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}
HEAVY = ("torch", "lightning", "mlflow")


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name below it."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if name := ".".join(part for part in parts if part != "__init__"):
            found[name] = path
    return found


def imports(path: Path) -> set[str]:
    """The full names of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module} | {n for n in names if n.startswith("levit_ablate.")}
    return found


def own_imports(path: Path) -> set[str]:
    """The modules of this package among them, by their dotted names below it."""
    inside = {n.removeprefix("levit_ablate.") for n in imports(path) if n != "levit_ablate"}
    return inside & set(modules())


def test_every_part_of_the_package_has_its_floor():
    assert {name.partition(".")[0] for name in modules()} <= set(FLOOR)


@pytest.mark.parametrize("name", modules())
def test_a_module_imports_only_from_lower_floors_or_its_own_part(name):
    part = name.partition(".")[0]
    for imported in own_imports(modules()[name]):
        other = imported.partition(".")[0]
        assert other == part or FLOOR.get(other, 0) < FLOOR.get(part, 99), (
            f"{name} imports {imported}"
        )


@pytest.mark.parametrize("name", modules())
def test_a_module_has_300_lines_at_most(name):
    assert len(modules()[name].read_text(encoding="utf-8").splitlines()) <= 300


def test_the_modules_import_each_other_without_circles():
    graph = {name: own_imports(path) - {name} for name, path in modules().items()}
    order = list(TopologicalSorter(graph).static_order())
    assert len(order) == len(graph)


@pytest.mark.parametrize("name", [name for name in modules() if name.startswith("models")])
def test_the_networks_know_no_training_framework(name):
    libraries = {imported.partition(".")[0] for imported in imports(modules()[name])}
    assert not libraries & {"lightning", "pytorch_lightning", "mlflow", "torchmetrics"}


@pytest.mark.parametrize("name", ["errors", "streams", "config", "recipes"])
def test_the_lowest_floors_need_the_standard_library_alone(name):
    libraries = {imported.partition(".")[0] for imported in imports(modules()[name])}
    assert libraries - {"levit_ablate"} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "name",
    [
        "cli.main",
        "errors",
        "config",
        "streams",
        "recipes",
        "schema",
        "library",
        "models.presets",
        "models.geometry",
        "data.datasets",
        "cli.options",
        "cli.list",
        "cli.search",
        "searches.search",
        "searches.space",
    ],
)
def test_what_the_command_line_starts_with_loads_no_heavy_library(name):
    code = f"import sys, levit_ablate.{name}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {module.partition(".")[0] for module in done.stdout.split()}
    assert "levit_ablate" in loaded
    assert not loaded & set(HEAVY)


def test_help_takes_little_cpu_time():
    command = [sys.executable, "-c", "from levit_ablate.cli.main import main; main(['--help'])"]

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.4
