"""What is searched: the values that every number of the geometry, and any choice, may take.

Every setting is finite: a fixed value, a range with a step, or a list. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from levit_ablate.config import Architecture, Design
from levit_ablate.errors import UserError, closest
from levit_ablate.models import geometry
from levit_ablate.schema import check_keys, plain, read_word
from levit_ablate.searches.search import OTHERS
from levit_ablate.searches.setting import Kind, Number, Setting, near, setting_from, span

OF_STAGE = {
    "depth": Kind(type=int, step=1, low=1, high=64),
    "width": Kind(type=int, step=8, low=1, high=4096, is_width=True),
    "num_heads": Kind(type=int, step=1, low=1, high=256),
    "key_dim": Kind(type=int, step=4, low=1, high=1024),
    "mlp_expansion": Kind(type=float, step=0.5, low=0.05, high=32),
}
"""What each stage has of its own."""
OF_NETWORK = {
    "num_stages": Kind(type=int, step=1, low=1, high=6),
    "stem_width": Kind(type=int, step=8, low=1, high=4096),
}
KEYS = (*OF_NETWORK, *OF_STAGE, "design", "geometry")


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a search may choose."""

    num_stages: Setting
    stages: tuple[Mapping[str, Setting], ...]
    """Of each stage, as many as there may be, the settings of `OF_STAGE`."""
    stem_width: Setting | None
    """None: the width of the first stage, whatever that is."""
    design: Mapping[str, Setting] = field(default_factory=dict)
    """Of the choices that are not the baseline's."""

    def widths(self, index: int) -> tuple[int, ...]:
        """The widths that the solver may give a stage."""
        setting = self.stages[index]["width"]
        return setting.solver or setting.options

    def settings(self) -> Iterator[tuple[str, Setting]]:
        """Everything by its name: num_stages, stem_width, depth.1 (of the first stage), design."""
        yield "num_stages", self.num_stages
        if self.stem_width:
            yield "stem_width", self.stem_width
        for number, stage in enumerate(self.stages, start=1):
            for name, setting in stage.items():
                yield f"{name}.{number}", setting
        for name, setting in self.design.items():
            yield f"design.{name}", setting

    def varied(self) -> dict[str, Setting]:
        """What is not fixed."""
        return {name: setting for name, setting in self.settings() if not setting.is_fixed}

    def described(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {name: plain(setting) for name, setting in self.settings()}


def space_from(
    said: Mapping[str, Any], architecture: Architecture, design: Design, where: str = ""
) -> Space:
    """The space that a mapping describes; what it leaves out is a neighbourhood of a network.

    A setting is a value (4), a range (2:5, or 64:256:16 with its step), or a list; of a number of
    the stages also a mapping from a stage, counted from 1, to its setting.

    Args:
        said: settings under the names of `KEYS`.
        architecture: the network whose neighbourhood it is.
        design: that network's choices.
        where: the file, for errors.

    Raises UserError where a name is unknown, a range empty, or a value does not fit.
    """
    prefix = f"{where}: space." if where else "space."
    for key in said:
        if key not in KEYS:
            raise UserError(f"{prefix}{key}: unknown; {closest(key, KEYS)}")
    number = said.get("num_stages", len(architecture.stages))
    num_stages = setting_from(number, OF_NETWORK["num_stages"], f"{prefix}num_stages")
    most = int(num_stages.options[-1])
    if said.get("geometry", "around") not in ("around", "fixed"):
        raise UserError(f"{prefix}geometry: {said['geometry']!r}: around, or fixed")
    start = _as_it_is if said.get("geometry") == "fixed" else _around
    base = [start(number, architecture, design) for number in range(most)]
    for name, kind in OF_STAGE.items():
        for number, setting in _by_stage(said.get(name), most, f"{prefix}{name}").items():
            where_it_is = f"{prefix}{name}.{number + 1}" if most > 1 else f"{prefix}{name}"
            own = _numbers(number, architecture, design)[name]
            base[number][name] = setting_from(setting, kind, where_it_is, own)
    stem = said.get("stem_width")
    return Space(
        num_stages=num_stages,
        stages=tuple(base),
        stem_width=stem
        if stem is None
        else setting_from(stem, OF_NETWORK["stem_width"], f"{prefix}stem_width"),
        design=_choices(said.get("design"), f"{prefix}design"),
    )


def _by_stage(said: Any, most: int, where: str) -> dict[int, Any]:
    """What is said of each stage, by its index."""
    if said is None:
        return {}
    if not isinstance(said, Mapping):
        return dict.fromkeys(range(most), said)
    known = [*map(str, range(1, most + 1)), OTHERS]
    if unknown := [stage for stage in said if str(stage) not in known]:
        raise UserError(f"{where}.{unknown[0]}: there are the stages 1 to {most}")
    found = dict.fromkeys(range(most), said[OTHERS]) if OTHERS in said else {}
    return found | {int(stage) - 1: each for stage, each in said.items() if stage != OTHERS}


def _numbers(number: int, architecture: Architecture, design: Design) -> dict[str, Number]:
    """What a stage has; one beyond the last goes on as the last two do."""
    stages = architecture.stages
    stage = stages[min(number, len(stages) - 1)]
    step = stages[-1].width - stages[-2].width if len(stages) > 1 else stages[0].width
    expansion = geometry.mlp_expansion_of(design, stage)
    return {
        "depth": stage.depth,
        "width": stage.width + step * max(0, number + 1 - len(stages)),
        "num_heads": stage.num_heads,
        "key_dim": geometry.key_dim_of(architecture, design, stage),
        "mlp_expansion": float(expansion),
    }


def _as_it_is(number: int, architecture: Architecture, design: Design) -> dict[str, Setting]:
    numbers = _numbers(number, architecture, design)
    return {name: Setting(options=(value,)) for name, value in numbers.items()}


def _around(number: int, architecture: Architecture, design: Design) -> dict[str, Setting]:
    """About half to one and a half of what a stage has."""
    own = _numbers(number, architecture, design)
    depth, heads = int(own["depth"]), int(own["num_heads"])
    return {
        "depth": span(max(1, depth - 1), depth + 2, 1),
        "width": near(int(own["width"]), 8),
        "num_heads": span(max(1, heads - heads // 2), heads + max(1, heads // 2), 1),
        "key_dim": near(int(own["key_dim"]), 4),
        "mlp_expansion": span(1.0, 4.0, 0.5),
    }


def _choices(said: Any, where: str) -> dict[str, Setting]:
    if said is None:
        return {}
    if not isinstance(said, Mapping):
        raise UserError(f"{where}: {said!r} is no mapping of design choices to values")
    found = {}
    for name, value in said.items():
        if name == "mlp_expansion":
            raise UserError(f"{where}.{name}: is a number of the stages; set space.{name}")
        listed = value.split(",") if isinstance(value, str) else value
        options = tuple(map(read_word, listed if isinstance(listed, Sequence) else [listed]))
        if not options:
            raise UserError(f"{where}.{name}: an empty list; give at least one value")
        for option in options:
            check_keys({name: option}, Design, "", f"{where}.")
        found[name] = Setting(options=tuple(dict.fromkeys(options)))
    return found
