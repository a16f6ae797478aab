"""`levit-ablate bench data | distill | sweep`: ratios of speed, measured here and now."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.table import Table

from levit_ablate.cli.options import add_experiment, experiment_options, parse, parser_for
from levit_ablate.errors import UserError
from levit_ablate.library import BASELINE, Ablation
from levit_ablate.schema import merge
from levit_ablate.studies import study

COUNTS = {
    "data": {"rounds": 5},
    "distill": {"rounds": 5, "variants": 12, "seeds": 3},
    "sweep": {"variants": 3, "seeds": 1},
}
"""Default counts of each measurement."""

AT_ONCE = (1, 2)
"""Runs at once that a sweep is measured with."""


class Measured(NamedTuple):
    """Result of a measurement."""

    figures: dict[str, Any]
    """For machines."""
    columns: tuple[str, ...]
    """Titles of the table for people; the first column is words."""
    rows: list[tuple[str, ...]]
    note: str
    """Below the table."""


def main(argv: Sequence[str]) -> None:
    """Measure what the first word says, and print it."""
    parser = parser_for(
        "bench",
        "Measure on this machine: data (the images), distill (the price of a teacher), sweep (the "
        "price of a study, and what several runs at once gain).",
    )
    parser.add_argument("bench", type=Literal["data", "distill", "sweep"], help="What to measure.")
    add_experiment(parser)
    parser.add_argument(
        "--rounds", type=int, help="How often each way is timed (data, distill): 5."
    )
    parser.add_argument(
        "--variants",
        type=int,
        help="Variants of a study: distilled (distill: 12), beside the baseline (sweep: 3).",
    )
    parser.add_argument("--seeds", type=int, help="Seeds of a study (distill: 3, sweep: 1).")
    options = parse(parser, argv)
    options["name"] = options.get("name") or BASELINE
    ablation, given = experiment_options(options)
    if min(options.get(name, 1) for name in ("rounds", "variants", "seeds")) < 1:
        raise UserError("--rounds, --variants, --seeds: at least 1")
    options = {**COUNTS[options["bench"]], **options}
    measured = BENCHES[options["bench"]](ablation, given, options)
    if options.get("format") == "json":
        print(json.dumps(measured.figures))
        return
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(measured.columns):
        table.add_column(column, justify="right" if number else "left")
    for row in measured.rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(table)
    console.print(measured.note)


def _data(ablation: Ablation, given: Mapping[str, Any], options: Mapping[str, Any]) -> Measured:
    from levit_ablate.bench import data  # loads torch and lightning: seconds
    from levit_ablate.experiment import variant

    hardware = variant(ablation, given).experiment.hardware
    figures = data.measure(options["rounds"], hardware)
    return Measured(
        figures=figures,
        columns=("images a second", "ours", "torchvision", "ratio"),
        rows=[
            (name, f"{row['ours']:,.0f}", f"{row['torchvision']:,.0f}", f"{row['ratio']:.1f}")
            for name, row in figures.items()
        ],
        note="memory: crop, flip, erasing; files: also RandAugment, three views of an image.",
    )


def _distill(ablation: Ablation, given: Mapping[str, Any], options: Mapping[str, Any]) -> Measured:
    from levit_ablate.bench.studies import hours_of_study, measure_teacher
    from levit_ablate.experiment import variant
    from levit_ablate.training.conditions import check_distilled

    wanted = variant(ablation, given)
    check_distilled(wanted)
    plain = variant(ablation, merge(given, {"design": {"distillation": "none"}}))
    seconds = measure_teacher(wanted, plain, options["rounds"])
    variants, seeds = options["variants"], options["seeds"]
    epochs = wanted.experiment.recipe.epochs
    whole = hours_of_study(seconds, variants, seeds, epochs)
    ratios = {kind: seconds[kind] / seconds["none"] for kind in ("none", "stored", "live")}
    rows = [(kind, f"{seconds[kind]:.3f}", f"{ratio:.3f}") for kind, ratio in ratios.items()]
    return Measured(
        figures={
            "seconds": seconds,
            "stored_over_none": ratios["stored"],
            "live_over_none": ratios["live"],
            "study": whole,
        },
        columns=("teacher", "seconds an epoch", "of none"),
        rows=[*rows, ("asking, once a stream", f"{seconds['asking']:.3f}", "")],
        note=f"A study of {variants} distilled variants, {seeds} seeds, {epochs} epochs: "
        f"{whole['live_hours']:.2f} h with a live teacher, {whole['stored_hours']:.2f} h with "
        f"stored answers, asking included ({100 * whole['saving']:.0f} % less).",
    )


def _sweep(ablation: Ablation, given: Mapping[str, Any], options: Mapping[str, Any]) -> Measured:
    from levit_ablate.bench.studies import measure_sweep
    from levit_ablate.studies.conduct import check
    from levit_ablate.studies.plan import plan

    whole = study.read("paper")
    names = [each.name for each in whole.variants if each.name != "no_distillation"]
    fewer = study.narrowed(whole, names[: options["variants"]], range(options["seeds"]))
    undistilled = merge(given, {"design": {"distillation": "none"}})
    planned = plan(fewer, undistilled)
    check(planned)
    swept = measure_sweep(planned, AT_ONCE)
    one, two = (swept[count] for count in AT_ONCE)
    runs, epochs = len(planned.jobs), planned.baseline.experiment.recipe.epochs
    return Measured(
        figures={
            "runs": runs,
            "seconds": {str(count): each.wall for count, each in swept.items()},
            "bare_seconds": {str(count): each.bare for count, each in swept.items()},
            "overhead": one.overhead,
            "speedup": one.wall / two.wall,
        },
        columns=("runs at once", "seconds", "of its training loops alone", "of one at once"),
        rows=[
            (str(count), f"{each.wall:.1f}", f"{each.wall / each.bare:.3f}",
             f"{one.wall / each.wall:.2f} times as fast")
            for count, each in swept.items()
        ],
        note=f"{runs} runs of {epochs} epochs each; what a sweep adds to its trainings: "
        f"{100 * one.overhead:+.1f} %.",
    )  # fmt: skip


BENCHES: dict[str, Callable[[Ablation, Mapping[str, Any], Mapping[str, Any]], Measured]] = {
    "data": _data,
    "distill": _distill,
    "sweep": _sweep,
}
