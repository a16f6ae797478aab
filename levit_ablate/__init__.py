"""levit-ablate: the ablation table of LeViT (Graham et al., ICCV 2021) as software.

    import levit_ablate as la

    result = la.run("no_pyramid", data="digits", seed=1)
    study = la.sweep("paper", data="digits", seeds=3, jobs=2)
    search = la.search("equal_flops", trials=20)

`dir(la)` lists all public names; docs/python.md explains them. A name loads its libraries when it
is first used: `import levit_ablate` alone loads no torch.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from levit_ablate.api.listing import ablations, list_models, list_searches, list_studies
    from levit_ablate.api.run import RunResult, network, run, teacher, variant
    from levit_ablate.api.search import open_search, search
    from levit_ablate.api.search_results import Search
    from levit_ablate.api.study import open_study, plan, sweep
    from levit_ablate.api.study_results import Study, StudyPlan
    from levit_ablate.config import Architecture, Data, Design, Hardware, Recipe, Stage, Teacher
    from levit_ablate.errors import RunError, UserError
    from levit_ablate.experiment import Variant
    from levit_ablate.training.module import LeViTModule

_MODULES = {
    "api.listing": ("ablations", "list_models", "list_searches", "list_studies"),
    "api.run": ("RunResult", "network", "run", "teacher", "variant"),
    "api.search_results": ("Search",),
    "api.search": ("open_search", "search"),
    "api.study": ("open_study", "plan", "sweep"),
    "api.study_results": ("Study", "StudyPlan"),
    "config": ("Architecture", "Data", "Design", "Hardware", "Recipe", "Stage", "Teacher"),
    "errors": ("RunError", "UserError"),
    "experiment": ("Variant",),
    "training.module": ("LeViTModule",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: RUF022 (by what they are about)
    "ablations",
    "list_models",
    "list_searches",
    "list_studies",
    "variant",
    "Variant",
    "network",
    "run",
    "RunResult",
    "teacher",
    "plan",
    "StudyPlan",
    "sweep",
    "open_study",
    "Study",
    "search",
    "open_search",
    "Search",
    "Architecture",
    "Data",
    "Design",
    "Hardware",
    "Recipe",
    "Stage",
    "Teacher",
    "LeViTModule",
    "UserError",
    "RunError",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, in Jupyter, of libraries
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
