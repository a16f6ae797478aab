"""Searches as processes, and what they leave in MLflow."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import mlflow
import yaml
from processes import FORKS, Started
from small import ARCHITECTURE

WORDS = """
equal_flops --trials 4 --confirm 0 --sampler random --pruner none --recipe smoke
--design.distillation none --recipe.batch_size 128 --hardware.accelerator cpu
--architecture small.yaml --format json
""".split()


def search(folder: Path, *words: str) -> Started:
    """`levit-ablate search` of a small network."""
    (folder / "small.yaml").write_text(yaml.safe_dump(ARCHITECTURE))
    return Started(FORKS, "search", *WORDS, *words, cwd=folder)


def finished(process: Started, code: int = 0) -> dict:
    """What it printed last."""
    out, err = process.communicate(400)
    assert process.returncode == code, err
    return json.loads(out.splitlines()[-1])


def runs(folder: Path) -> list:
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    return mlflow.search_runs(search_all_experiments=True, output_format="list")


def children(folder: Path) -> list:
    return [run for run in runs(folder) if "mlflow.parentRunId" in run.data.tags]


def tag(run, name: str) -> str:
    return run.data.tags.get(f"levit_ablate.{name}", "")


def trained(folder: Path) -> Counter:
    """How often every network and seed was trained to its end."""
    own = [run for run in runs(folder) if not tag(run, "original") and tag(run, "key")]
    return Counter(tag(run, "key") for run in own if run.info.status == "FINISHED")
