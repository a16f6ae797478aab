"""Each design choice is read on one line of the networks, in a builder."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from designs import CHOICES

from levit_ablate import models

EXEMPT = {("geometry.py", "canonical"), ("matching.py", "match")}
"""`canonical` writes two spellings of a design as one; `match` has the paper's families."""


def test_each_design_choice_is_read_on_one_line() -> None:
    reads = defaultdict(list)
    for path in Path(*models.__path__).glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef) or (path.name, function.name) in EXEMPT:
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "design":
                    reads[node.attr].append(f"{path.name}:{function.name}")
    assert {*reads} == {*CHOICES}
    assert {name: places for name, places in reads.items() if len(places) > 1} == {}
