"""What `levit-ablate teacher` does once its options are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from levit_ablate.experiment import hardware_of, variant
from levit_ablate.hardware import one_voice
from levit_ablate.keys import teacher_key
from levit_ablate.library import Ablation
from levit_ablate.training.conditions import check_conditions, check_distilled
from levit_ablate.training.teaching import ensure_teacher, teacher_figures


def teach(ablation: Ablation, given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Train, or find, the teacher of what is given, and print what it is worth."""
    with one_voice(hardware_of(given)):
        _teach(ablation, given, options)


def _teach(ablation: Ablation, given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    if options.get("print_config"):
        shown = variant(ablation, given, identify=False)
        print(shown.recorded_yaml, end="")
        return
    wanted = variant(ablation, given)
    check_distilled(wanted)
    check_conditions(wanted.experiment)
    path = ensure_teacher(wanted)
    figures = teacher_figures(wanted, path)
    said = {
        "model": wanted.experiment.teacher.model,
        "dataset": wanted.experiment.data.name,
        "weights": str(path or wanted.experiment.teacher.weights),
        "key": teacher_key(wanted.experiment),
        **figures,
    }
    if options.get("format") == "json":
        print(json.dumps(said))
        return
    console = Console(highlight=False)
    console.print(f"[bold]{said['model']}[/bold], the teacher of {said['dataset']}")
    console.print(f"test accuracy {100 * figures['test_accuracy']:.2f} %")
    console.print(f"weights: {said['weights']}", soft_wrap=True)
