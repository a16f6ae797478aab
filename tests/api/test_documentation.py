"""The examples of docs/python.md."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from quick import QUICK, SEARCH, UNDISTILLED

import levit_ablate as la

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_examples_in_the_documentation_run(new_store, tmp_path, monkeypatch):
    """Every block of docs/python.md, in order, with settings that take seconds."""
    monkeypatch.chdir(tmp_path)
    new_store(tmp_path)
    for name in ("run", "sweep", "search"):
        monkeypatch.setattr(la, name, partial(_quickly, getattr(la, name)))
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(blocks) >= 6 and isinstance(names["search"], la.Search)


def _quickly(function, name, **settings):
    """Call a function so that most of its runs are those of the calls before."""
    recipe = settings.pop("recipe", None)
    given = {**settings, **UNDISTILLED}
    if recipe:
        given["recipe"] = [*QUICK["recipe"], recipe]
    if function.__name__ == "search":  # confirmed on a seed that the study has
        given |= {**SEARCH, "confirm": 1, "confirm_seeds": [1], "workers": 1}
    return function(name, **given)
