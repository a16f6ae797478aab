"""`levit-ablate show NAME`: the network of an ablation, without training it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from levit_ablate.cli.options import add_experiment, experiment_options, parse, parser_for
from levit_ablate.config import OWN_GEOMETRY, Images
from levit_ablate.errors import UserError
from levit_ablate.models import geometry
from levit_ablate.models.presets import preset
from levit_ablate.schema import plain

if TYPE_CHECKING:
    from levit_ablate.experiment import Variant
    from levit_ablate.models.cost import Cost

DEFAULT_MODEL = "levit_128s"
"""The model of the paper's table, and so what is shown unless --model says otherwise."""


def main(argv: Sequence[str]) -> None:
    """Print stages, parameters, multiply-adds, differences, and the paper's figures beside ours."""
    parser = parser_for("show", "The network of an ablation, stage by stage, without training it.")
    add_experiment(parser)
    parser.set_defaults(model=DEFAULT_MODEL)
    parser.add_argument(
        "--image-size",
        metavar="SIDE",
        help="Side of the images in pixels, or 192x256 for height x width; without it the "
        "model's own, or the dataset's where --data is given.",
    )
    options = parse(parser, argv)
    ablation, given = experiment_options(options)
    given.setdefault("model", DEFAULT_MODEL)
    images = _images(options, given)
    from levit_ablate.api.run import variant  # loads torch: seconds

    shown = variant(ablation, images=images, identify=False, **given)
    if options.get("print_config"):
        print(shown.recorded_yaml, end="")
    elif options.get("format") == "json":
        print(json.dumps(described(shown), indent=2))
    else:
        _print(shown)


def _images(options: dict[str, Any], given: dict[str, Any]) -> Images | None:
    """Return the images to build for: the model's, of another side, or the dataset's (None)."""
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
    size = options["image_size"]
    if not (sides := re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", size)):
        raise UserError(
            f"--image-size: {size!r} is neither a side (224) nor height x width (192x256)"
        )
    return replace(images, height=int(sides[1]), width=int(sides[2] or sides[1]))


def described(shown: Variant) -> dict[str, Any]:
    """Return everything that is shown as plain data."""
    from levit_ablate.models.cost import costs

    cost, paper = shown.cost, shown.ablation.paper
    parts = costs(shown.architecture, shown.experiment.design, shown.images)
    return {
        "name": shown.name,
        "summary": shown.ablation.summary,
        "model": shown.experiment.model,
        "images": asdict(shown.images),
        "matched": shown.matched,
        "params": cost.params,
        "flops": cost.flops,
        "baseline": asdict(shown.baseline.cost) if shown.baseline else asdict(cost),
        "stem": asdict(parts.stem),
        "stages": _stages(shown, parts.stages),
        "head": asdict(parts.head),
        "differs": {
            name: {"baseline": plain(base), "value": plain(own)}
            for name, (base, own) in shown.differences().items()
        },
        "paper": asdict(paper) if paper else None,
    }


def _stages(shown: Variant, stage_costs: Sequence[Cost]) -> list[dict[str, Any]]:
    architecture, design = shown.architecture, shown.experiment.design
    stages = geometry.stages_of(architecture, design)
    grids = geometry.stage_grids(architecture, design, shown.images)
    rows = []
    for index, (stage, grid, cost) in enumerate(zip(stages, grids, stage_costs, strict=True)):
        shrinking = None
        if index:
            heads = geometry.shrinking_heads(architecture, design, stages[index - 1])
            attention = asdict(heads) if design.downsampling == "attention" else {}
            shrinking = {"downsampling": design.downsampling, **attention}
        rows.append(
            {
                "shrinking": shrinking,
                "grid": list(grid),
                "depth": stage.depth,
                "width": stage.width,
                **asdict(geometry.block_heads(architecture, design, stage)),
                "mlp_hidden": geometry.mlp_hidden(design, stage),
                **asdict(cost),
            }
        )
    return rows


def _print(shown: Variant) -> None:
    facts, console = described(shown), Console()
    height, width, channels = (facts["images"][key] for key in ("height", "width", "channels"))
    console.print(f"[bold]{escape(shown.name)}[/bold]: {escape(shown.ablation.summary)}")
    classes = facts["images"]["num_classes"]
    console.print(f"{facts['model']}, images {channels}x{height}x{width}, {classes} classes\n")
    console.print(_network_table(facts))
    console.print()
    console.print(_cost_table(facts))
    if facts["paper"] and (facts["model"], height, width) != (DEFAULT_MODEL, 224, 224):
        console.print("The paper's figures are those of LeViT-128S at 224x224.", style="dim")
    if shown.matched != "none":
        console.print(f"Widths and heads are scaled so that {shown.matched} match the baseline's.")
    if facts["differs"]:
        console.print("\nDiffers from the baseline:")
        for name, (base, own) in shown.differences().items():
            console.print(f"  {name}: {_brief(base)} → {_brief(own)}", highlight=False)


def _brief(value: Any) -> str:
    """Return a value in a line; stages as depth x width, heads."""
    if not isinstance(value, tuple):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return ", ".join(map(str, value))


def _network_table(facts: dict[str, Any]) -> Table:
    parts = ("grid", "depth", "width", "heads", "key", "value", "MLP", "params", "mult-adds")
    table = _table("", *parts)

    def row(name: str, cells: Sequence[Any], part: dict[str, Any]) -> None:
        table.add_row(name, *map(str, cells), f"{part['params']:,}", f"{part['flops']:,}")

    row("stem", [""] * 7, facts["stem"])
    for number, stage in enumerate(facts["stages"], start=1):
        if shrinking := stage["shrinking"]:
            cells = [shrinking.get(key, "") for key in ("num_heads", "key_dim", "value_dim")]
            table.add_row(f"↓ {shrinking['downsampling']}", "", "", "", *map(str, cells))
        grid = "x".join(map(str, stage["grid"]))
        keys = ("depth", "width", "num_heads", "key_dim", "value_dim", "mlp_hidden")
        row(f"stage {number}", [grid, *(stage[k] for k in keys)], stage)
    row("head", [""] * 7, facts["head"])
    return table


def _cost_table(facts: dict[str, Any]) -> Table:
    table = _table("with one head, as the paper counts", "ours", "baseline", "paper")
    paper, base = facts["paper"] or {}, facts["baseline"]
    for key, name in (("params", "parameters"), ("flops", "multiply-adds")):
        published = f"{paper[key] / 1e6:.4g} M" if paper else "–"
        table.add_row(name, f"{facts[key] / 1e6:.4g} M", f"{base[key] / 1e6:.4g} M", published)
    if paper:
        accuracy = f"{paper['accuracy']} % ({paper['difference']:+.1f})".replace("-", "−")
        table.add_row("top-1 (ImageNet, 100 epochs)", "–", "–", accuracy)
    return table


def _table(first: str, *numbers: str) -> Table:
    table = Table(first, box=None, pad_edge=False)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table
