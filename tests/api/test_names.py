"""The public names, and the lists of what there is."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import levit_ablate as la
from levit_ablate import library


def public(owner: object) -> Iterator[tuple[str, object]]:
    for name, value in vars(owner).items():
        if not name.startswith("_"):
            yield name, value.fget if isinstance(value, property) else value


def assert_described(name: str, function: object) -> None:
    assert inspect.getdoc(function), f"{name} has no docstring"
    signature = inspect.signature(function)  # type: ignore[arg-type]
    assert signature.return_annotation is not inspect.Signature.empty, f"{name} returns what?"
    for parameter in signature.parameters.values():
        typed = parameter.annotation is not inspect.Parameter.empty
        assert typed or parameter.name == "self", f"{name}: {parameter.name} has no type"


@pytest.mark.parametrize("name", la.__all__)
def test_a_public_name_has_a_docstring_and_types(name):
    value = getattr(la, name)
    assert inspect.getdoc(value)
    if not inspect.isclass(value):
        assert_described(name, value)
    elif value.__module__.startswith("levit_ablate.api"):
        for attribute, function in public(value):
            if inspect.isfunction(function):
                assert_described(f"{name}.{attribute}", function)


def test_the_names_are_the_same_for_people_and_for_type_checkers():
    tree = ast.parse(Path(la.__file__).read_text(encoding="utf-8"))
    [guarded] = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name for each in guarded.body for alias in each.names}
    assert set(la.__all__) == typed == set(la._HOMES) == set(dir(la))
    assert (Path(la.__file__).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = la.nothing


def test_the_import_and_the_lists_load_no_heavy_library():
    code = (
        "import sys, levit_ablate as la; dir(la); la.ablations(); la.list_studies();"
        "la.list_searches(); la.list_models(); la.Design(stem='patch'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {module.partition(".")[0] for module in done.stdout.split()}
    assert not loaded & {"torch", "lightning", "mlflow", "optuna", "matplotlib"}


def test_the_lists_are_data_frames_of_what_is_there():
    ablations = la.ablations()
    assert list(ablations["name"])[:2] == ["baseline", "no_pyramid"]
    assert set(ablations["name"]) == set(library.names())
    row = ablations.set_index("name").loc["no_pyramid"]
    assert (row["row"], row["paper_difference"]) == ("A1", -15.4)
    assert "paper" in set(la.list_studies()["name"])
    assert "equal_flops" in set(la.list_searches()["name"])
    assert {"levit_128s", "levit_nano"} <= set(la.list_models()["name"])
