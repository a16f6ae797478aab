"""`levit-ablate bench data | distill | sweep`: ratios of speed, measured here and now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from levit_ablate.cli.options import add_experiment, experiment_options, parse, parser_for
from levit_ablate.errors import UserError
from levit_ablate.library import BASELINE

COUNTS = {
    "data": {"rounds": 5},
    "distill": {"rounds": 5, "variants": 12, "seeds": 3},
    "sweep": {"variants": 3, "seeds": 1},
}
"""What each measurement counts, unless the options say otherwise."""


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
    from levit_ablate.cli import measurements  # loads torch and lightning: seconds

    measurements.measure(ablation, given, options)
