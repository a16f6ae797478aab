"""`levit-ablate bench data` and `bench distill`: ratios of speed, measured here and now."""

from __future__ import annotations

from collections.abc import Sequence

from levit_ablate.ablations import BASELINE
from levit_ablate.commands.options import add_experiment, experiment_options, parse, parser_for
from levit_ablate.errors import UserError, closest

BENCHES = ("data", "distill")


def main(argv: Sequence[str]) -> None:
    """Measure what the first word says, and print it."""
    parser = parser_for(
        "bench", "Measure on this machine: data (the images), distill (the price of a teacher)."
    )
    parser.add_argument("bench", help="data or distill.")
    add_experiment(parser)
    parser.add_argument("--rounds", type=int, default=5, help="How often each way is timed.")
    parser.add_argument("--variants", type=int, default=12, help="Distilled variants of a study.")
    parser.add_argument("--seeds", type=int, default=3, help="Seeds of a study.")
    options = parse(parser, argv)
    if options["bench"] not in BENCHES:
        raise UserError(
            f"bench: {options['bench']!r} is not known; {closest(options['bench'], BENCHES)}"
        )
    options["name"] = options.get("name") or BASELINE
    ablation, given = experiment_options(options)
    if min(options.get(name, 1) for name in ("rounds", "variants", "seeds")) < 1:
        raise UserError("--rounds, --variants, --seeds: at least 1")
    from levit_ablate.commands import measurements  # loads torch and lightning: seconds

    measurements.measure(ablation, given, options)
