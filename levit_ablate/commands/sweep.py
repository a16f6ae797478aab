"""`levit-ablate sweep STUDY`: run what a study lacks, and print its table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from levit_ablate.commands.options import parse, parser_for
from levit_ablate.commands.study_options import add_study, study_options
from levit_ablate.errors import UserError


def main(argv: Sequence[str]) -> None:
    """Run every variant at every seed that is not recorded yet, and print the table."""
    parser = parser_for(
        "sweep", "Run all variants and seeds of a study that are not recorded yet; print its table."
    )
    add_study(parser)
    parser.add_argument(
        "--jobs",
        type=int,
        help="Runs at once, on this machine; one unless set, or a GPU's places on every GPU.",
    )
    parser.add_argument(
        "--jobs-per-device", type=int, default=1, help="Runs at once on a GPU, which they share."
    )
    parser.add_argument(
        "--launcher",
        type=Literal["local", "ray"],
        default="local",
        help="Where runs run: in processes of this machine, or on a Ray cluster (pip install "
        "'levit-ablate[ray]').",
    )
    parser.add_argument(
        "--address", type=str, help="Of the Ray cluster: auto, or HOST:PORT; a new one unless set."
    )
    options = parse(parser, argv)
    for name in ("jobs", "jobs_per_device"):
        if options.get(name, 1) < 1:
            raise UserError(f"--{name.replace('_', '-')}: {options[name]} must be at least 1")
    if options.get("address") and options.get("launcher") != "ray":
        raise UserError("--address: is of a Ray cluster; give --launcher ray with it")
    wanted = study_options(options)
    from levit_ablate.commands import sweeping  # loads torch, lightning and mlflow: seconds

    sweeping.run(wanted, options)
