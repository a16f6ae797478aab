"""Where jobs run: the options that `sweep` and `search` share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from jsonargparse import ArgumentParser

from levit_ablate.errors import UserError


def add_launcher(parser: ArgumentParser, jobs: str, what: str) -> None:
    """How many at once, and where.

    Args:
        parser: is given the options.
        jobs: the word for how many: jobs, or workers.
        what: that there are so many of, in words.
    """
    parser.add_argument(
        f"--{jobs}",
        dest="jobs",
        type=int,
        help=f"{what} at once, on this machine; one unless set, or a GPU's places on every GPU.",
    )
    parser.add_argument(
        "--jobs-per-device", type=int, default=1, help=f"{what} at once on a GPU, which they share."
    )
    parser.add_argument(
        "--launcher",
        type=Literal["local", "ray"],
        default="local",
        help=f"Where {what.lower()} run: in processes of this machine, or on a Ray cluster (pip "
        "install 'levit-ablate[ray]').",
    )
    parser.add_argument(
        "--address", type=str, help="Of the Ray cluster: auto, or HOST:PORT; a new one unless set."
    )


def check_launcher(options: Mapping[str, Any], jobs: str) -> None:
    """Refuse numbers that make no sense. Raises UserError."""
    for name, word in (("jobs", jobs), ("jobs_per_device", "jobs-per-device")):
        if options.get(name, 1) < 1:
            raise UserError(f"--{word}: {options[name]} must be at least 1")
    if options.get("address") and options.get("launcher") != "ray":
        raise UserError("--address: is of a Ray cluster; give --launcher ray with it")


def places(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `add_launcher` that were given, as keyword arguments of `sweep`."""
    names = ("jobs", "jobs_per_device", "launcher", "address")
    return {name: options[name] for name in names if name in options}
