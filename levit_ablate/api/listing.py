"""Lists the ablations, studies, searches and models there are. Loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from levit_ablate import library
from levit_ablate.errors import UserError
from levit_ablate.library import MODELS, SEARCHES, STUDIES, Kind
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
    figures = ("params", "flops", "accuracy", "difference")
    rows = [
        {
            "name": each.name,
            "summary": each.summary,
            "row": each.paper.row if each.paper else "",
            **{f"paper_{name}": getattr(each.paper, name, None) for name in figures},
            "match": each.match,
            "design": dict(each.design),
            "path": each.path,
        }
        for each in found
    ]
    return _frame(rows, bad)


def list_studies() -> pd.DataFrame:
    """Return the studies that `sweep` takes, a row each: name, summary, variants, seeds, path."""
    return _frame(*described(STUDIES))


def list_searches() -> pd.DataFrame:
    """Return the searches that `search` takes: name, summary, objectives, trials, path."""
    return _frame(*described(SEARCHES))


def list_models() -> pd.DataFrame:
    """Return the models that model= takes: name, summary, images, stages.

    `images` are channels x height x width, a stage is depth x C width, N heads.
    """
    return _frame(*described(MODELS))


def described(kind: Kind) -> tuple[list[dict[str, Any]], list[UserError]]:
    """Return a row for each file of a kind, and the errors of those that cannot be read."""
    names = library.names(kind)
    rows, bad = [], []
    for name in dict.fromkeys([*presets.PRESETS, *names]) if kind is MODELS else names:
        try:
            rows.append({"name": name, **_ROWS[kind](name)})
        except UserError as error:
            bad.append(error)
    return rows, bad


def _study(name: str) -> dict[str, Any]:
    found = study.read(name)
    return {
        "summary": found.summary,
        "variants": [variant.name for variant in found.variants],
        "seeds": list(found.seeds),
        "path": found.path,
    }


def _search(name: str) -> dict[str, Any]:
    found = search.read(name)
    return {
        "summary": found.summary,
        "objectives": list(found.objectives),
        "trials": found.trials,
        "path": found.path,
    }


def _model(name: str) -> dict[str, Any]:
    found = presets.preset(name)
    images = found.images
    return {
        "summary": found.summary,
        "images": f"{images.channels}x{images.height}x{images.width}",
        "stages": ", ".join(map(str, found.architecture.stages)),
    }


_ROWS = {STUDIES: _study, SEARCHES: _search, MODELS: _model}


def _frame(rows: list[dict[str, Any]], bad: list[UserError]) -> pd.DataFrame:
    import pandas as pd  # a second

    if bad:
        raise bad[0]
    return pd.DataFrame(rows)
