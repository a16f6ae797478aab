"""Every notebook runs from top to bottom, and is committed as it ran, without a machine's paths."""

import ast
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

import levit_ablate

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SMOKE = '"recipe": "smoke", "design": {"distillation": "none"}'
QUICK = {
    "01_reading_a_run": """SETTINGS = {
        "recipe": {"epochs": 1, "warmup_epochs": 0.5},
        "seed": 1,
        "teacher": {"recipe": {"epochs": 1, "warmup_epochs": 0.5}},
    }""",
    "02_reading_a_study": f'SETTINGS = {{"variants": ["no_pyramid"], "seeds": 2, {SMOKE}}}',
    "03_reading_a_search": f"""SETTINGS = {{
        "trials": 3, "confirm": 1, "confirm_seeds": [1], "pruner": "none", {SMOKE}
    }}""",
}
"""What is set after a notebook's cell tagged `parameters`, so that it takes seconds."""
SHARED = ("02_reading_a_study", "03_reading_a_search")
"""Notebooks that are given one store: the search finds the study's baseline at both seeds."""
OF_A_MACHINE = re.compile(r"(?<!\w)/(home|root|work|tmp|opt|Users|private/var)\b|[A-Z]:\\\\")
"""A path of some machine, in JSON, where a backslash is two."""
LARGEST = 600_000
PLOTTING = {"IPython", "matplotlib", "pandas", "scipy", "seaborn", "torch"}
"""What a notebook imports beside the standard library and the package's public names."""

BARS = """
from rich.progress import BarColumn
from levit_ablate.analysis.formats import captured
from levit_ablate.api.session import talking
from levit_ablate.bars import bars, error_console
def show(progress):
    with talking(progress), bars(error_console(), "{task.description}", BarColumn()) as shown:
        task = shown.add_task("training", total=10)
        for _ in range(10):
            shown.advance(task)
            shown.update(task, completed=10)
_ = captured(lambda console: console.print(1))
"""
"""What is run below a notebook: a bar that is asked for is one output, another is none."""

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def shown(notebook: NotebookNode, kind: str) -> list[str]:
    return [output.data[kind] for output in outputs(notebook) if kind in output.get("data", {})]


def assert_figures_and_tables(notebook: NotebookNode) -> None:
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert shown(notebook, "image/png")
    assert any("<table" in html for html in shown(notebook, "text/html"))


def make_quick(notebook: NotebookNode, source: str) -> None:
    [index] = [
        index
        for index, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", [])
    ]
    notebook.cells.insert(index + 1, new_code_cell(source))


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('shared')}/mlflow.db"


@pytest.fixture
def executed(
    path: Path, shared_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> NotebookNode:
    """The notebook, run quickly in a folder of its own, in which it leaves nothing."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for variable in ("IPYTHONDIR", "TMPDIR", "TEMP"):
        monkeypatch.setenv(variable, str(tmp_path))
    folder = tmp_path / "folder"
    folder.mkdir()
    notebook = nbformat.read(path, as_version=4)
    store = f"\nSTORE = {shared_store!r}" if path.stem in SHARED else ""
    make_quick(notebook, QUICK[path.stem] + store)
    notebook.cells += map(new_code_cell, (BARS, "show(True)", "show(False)"))
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    assert not list(folder.iterdir())
    return notebook


@each_notebook
def test_a_notebook_runs_anywhere_and_shows_its_figures_and_tables_and_a_bar_that_is_asked_for(
    executed,
):
    assert_figures_and_tables(executed)
    assert not [output for output in outputs(executed) if output.get("name") == "stderr"]
    *_, nothing, asked, quiet = executed.cells
    [bar] = asked.outputs
    assert "training" in bar.data["text/plain"] and not nothing.outputs + quiet.outputs


@each_notebook
def test_the_committed_notebook_shows_what_it_gave(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert_figures_and_tables(notebook)
    assert not [output for output in outputs(notebook) if output.get("name") == "stderr"]
    assert path.stat().st_size < LARGEST


@each_notebook
def test_the_committed_notebook_names_no_path_of_a_machine(path):
    notebook = nbformat.read(path, as_version=4)
    for output in outputs(notebook):
        output.get("data", {}).pop("image/png", None)  # base64 has slashes too
    assert not OF_A_MACHINE.search(json.dumps(notebook, ensure_ascii=False))


@each_notebook
def test_a_notebook_uses_public_names_alone_and_starts_no_process(path):
    cells = code_cells(nbformat.read(path, as_version=4))
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell.source))]
    imported = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {
        name
        for node in imported
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert "levit_ablate" in modules
    others = {name.partition(".")[0] for name in modules - {"levit_ablate"}}
    assert others <= (sys.stdlib_module_names | PLOTTING) - {"subprocess", "os"}
    own = [n for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
    assert {node.attr for node in own if node.value.id == "la"} <= set(levit_ablate.__all__)
    assert not [n.attr for n in nodes if isinstance(n, ast.Attribute) and n.attr.startswith("_")]


def test_there_is_a_notebook():
    assert NOTEBOOKS
