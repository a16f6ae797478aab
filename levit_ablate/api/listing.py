"""Lists the ablations, studies, searches and models there are, as data frames. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from levit_ablate import library
from levit_ablate.models import presets
from levit_ablate.searches import search
from levit_ablate.studies import study

if TYPE_CHECKING:
    import pandas as pd


def ablations() -> pd.DataFrame:
    """Return the ablations that `run` takes, a row each: the baseline, the paper's rows, others.

    Columns: name, summary, row (in the paper's Table 4, or empty), paper_params, paper_flops,
    paper_accuracy and paper_difference (percent and points, NaN without a row), match, design (the
    choices that it changes), path. Raises UserError where a file cannot be read.
    """
    found, bad = library.read_all()
    if bad:
        raise bad[0]
    rows = []
    for ablation in found:
        paper = ablation.paper
        rows.append(
            {
                "name": ablation.name,
                "summary": ablation.summary,
                "row": paper.row if paper else "",
                "paper_params": paper.params if paper else None,
                "paper_flops": paper.flops if paper else None,
                "paper_accuracy": paper.accuracy if paper else None,
                "paper_difference": paper.difference if paper else None,
                "match": ablation.match,
                "design": dict(ablation.design),
                "path": ablation.path,
            }
        )
    return _frame(rows)


def list_studies() -> pd.DataFrame:
    """Return the studies that `sweep` takes, a row each: name, summary, variants, seeds, path."""
    return _frame([_study(path) for path in library.names(library.STUDIES).values()])


def list_searches() -> pd.DataFrame:
    """Return the searches that `search` takes: name, summary, objectives, trials, path."""
    return _frame([_search(path) for path in library.names(library.SEARCHES).values()])


def list_models() -> pd.DataFrame:
    """Return the models that model= takes: name, summary, images, stages.

    `images` are channels x height x width, a stage is depth x C width, N heads.
    """
    rows = []
    for name in library.names(library.MODELS):
        found = presets.preset(name)
        images = found.images
        rows.append(
            {
                "name": name,
                "summary": found.summary,
                "images": f"{images.channels}x{images.height}x{images.width}",
                "stages": ", ".join(map(str, found.architecture.stages)),
            }
        )
    return _frame(rows)


def _study(path: Path) -> dict[str, Any]:
    found = study.read_file(path)
    return {
        "name": found.name,
        "summary": found.summary,
        "variants": [variant.name for variant in found.variants],
        "seeds": list(found.seeds),
        "path": path,
    }


def _search(path: Path) -> dict[str, Any]:
    found = search.read_file(path)
    return {
        "name": found.name,
        "summary": found.summary,
        "objectives": list(found.objectives),
        "trials": found.trials,
        "path": path,
    }


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd  # a second

    return pd.DataFrame(rows)
