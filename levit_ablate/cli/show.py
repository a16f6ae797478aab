"""`levit-ablate show NAME`: the network of an ablation, without training it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from levit_ablate.cli.options import add_experiment, experiment_options, parse, parser_for
from levit_ablate.config import OWN_GEOMETRY, Images
from levit_ablate.errors import UserError
from levit_ablate.models.presets import preset

DEFAULT_MODEL = "levit_128s"
"""The model of the paper's table, and so what is shown unless --model says otherwise."""


def main(argv: Sequence[str]) -> None:
    """Print stages, parameters, multiply-adds, differences, and the paper's figures beside ours."""
    parser = parser_for("show", "The network of an ablation, stage by stage, without training it.")
    add_experiment(parser)
    parser.set_defaults(model=DEFAULT_MODEL)
    parser.add_argument(
        "--image-size",
        type=str,
        metavar="SIDE",
        help="Side of the images in pixels, or 192x256 for height x width; without it the "
        "model's own, or the dataset's where --data is given.",
    )
    options = parse(parser, argv)
    ablation, given = experiment_options(options)
    given.setdefault("model", DEFAULT_MODEL)
    images = _images(options, given)
    from levit_ablate.cli import network  # loads torch: seconds

    network.show(ablation, given, images, options)


def _images(options: dict[str, Any], given: dict[str, Any]) -> Images | None:
    """What to build for: the model's own images, another side of them, or the dataset's (None)."""
    if options.get("print_config"):  # it is for `run`, and so for the dataset's images
        if "image_size" in options:
            raise UserError("--print_config is for run, whose images are --data.image_size's")
        return None
    if "image_size" not in options and "data" in given:
        return None
    own = given["model"] == OWN_GEOMETRY  # as recorded: no model has made it for any images
    images = preset(DEFAULT_MODEL if own else given["model"]).images
    if "image_size" not in options:
        return images
    height, width = _sides(options["image_size"])
    return replace(images, height=height, width=width)


def _sides(size: str) -> tuple[int, int]:
    if not (found := re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", size)):
        raise UserError(
            f"--image-size: {size!r} is neither a side (224) nor height x width (192x256)"
        )
    return int(found[1]), int(found[2] or found[1])
