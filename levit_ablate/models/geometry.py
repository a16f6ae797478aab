"""The sizes of a network: what the design choices make of an architecture. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from levit_ablate.config import Architecture, Design, Images, Stage
from levit_ablate.errors import UserError

T = TypeVar("T")
Grid = tuple[int, int]
"""Height and width of the grid of patches."""


class ValuesPerKey(NamedTuple):
    """Size of a head's values over that of its keys (paper 4.3, A.2)."""

    block: int
    """In the blocks of a stage."""
    shrinking: int
    """In the shrinking block between stages."""


VALUES_PER_KEY = {"small": ValuesPerKey(2, 4), "as_values": ValuesPerKey(1, 1)}


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The heads of one attention block: how many, and the size of each one's parts."""

    num_heads: int
    key_dim: int
    value_dim: int


def values_per_key(design: Design) -> ValuesPerKey:
    """Size of a head's values over that of its keys."""
    return VALUES_PER_KEY[design.keys]


def stages_of(architecture: Architecture, design: Design) -> tuple[Stage, ...]:
    """The architecture's stages; without a pyramid all as one, of the first's width and heads.

    Each shrinking block counts as one more repetition: 2+3+4 blocks become a depth of 11 (row A1).
    """
    stages = architecture.stages
    depth = sum(stage.depth for stage in stages) + len(stages) - 1
    return stages if design.pyramid else (replace(stages[0], depth=depth),)


def value_dim_of(architecture: Architecture, stage: Stage) -> int:
    """Size of a head's values in a stage: its own, or the architecture's."""
    return architecture.value_dim if stage.value_dim is None else stage.value_dim


def mlp_expansion_of(design: Design, stage: Stage) -> float:
    """Hidden width of a stage's MLP blocks over their width: its own, or the design's."""
    return design.mlp_expansion if stage.mlp_expansion is None else stage.mlp_expansion


def stem_width(architecture: Architecture) -> int:
    """Width from which those of the stem's inner layers are halved: given, or the first stage's."""
    return architecture.stem_width or architecture.stages[0].width


def stem_widths(architecture: Architecture) -> list[int]:
    """Widths of the stem's layers: S/8, S/4, S/2, C, where S is `stem_width` (C in the paper)."""
    halvings = reversed(range(1, architecture.stem_depth))
    inner = [max(1, stem_width(architecture) // 2**halving) for halving in halvings]
    return [*inner, architecture.stages[0].width]


def key_dim_of(architecture: Architecture, design: Design, stage: Stage) -> int:
    """Size of queries and keys in a head (the paper's D). Raises UserError if it is not whole."""
    value_dim, ratio = value_dim_of(architecture, stage), values_per_key(design).block
    if value_dim % ratio:
        raise UserError(
            f"architecture.value_dim: {value_dim} must be even with design.keys: small, "
            f"because keys have half the size of the values"
        )
    return value_dim // ratio


def block_heads(architecture: Architecture, design: Design, stage: Stage) -> Heads:
    """Heads of a stage's attention blocks: N heads, values of 2D (paper 4.3)."""
    key_dim = key_dim_of(architecture, design, stage)
    value_dim = value_dim_of(architecture, stage)
    return Heads(num_heads=stage.num_heads, key_dim=key_dim, value_dim=value_dim)


def shrinking_heads(architecture: Architecture, design: Design, stage: Stage) -> Heads:
    """Heads of the shrinking block after a stage of C channels (paper 4.3, A.2).

    Small keys: C / D heads with values of 4D. Keys as large as the values: 4C / D heads with
    values of D. Either way the values have 4C channels in all (rounded to whole heads).
    """
    key_dim = key_dim_of(architecture, design, stage)
    value_dim = values_per_key(design).shrinking * key_dim
    num_heads = max(1, round(4 * stage.width / value_dim))
    return Heads(num_heads=num_heads, key_dim=key_dim, value_dim=value_dim)


def mlp_hidden(design: Design, stage: Stage) -> int:
    """Hidden width of a stage's MLP blocks: at least one channel."""
    return max(1, round(stage.width * mlp_expansion_of(design, stage)))


def stage_grids(architecture: Architecture, design: Design, images: Images) -> list[Grid]:
    """The grid of patches in each stage: halved, rounded up, by every step of stem and pyramid."""
    steps = architecture.stem_depth + len(stages_of(architecture, design)) - 1
    grids = [(images.height, images.width)]
    for _ in range(steps):
        height, width = grids[-1]
        grids.append(((height + 1) // 2, (width + 1) // 2))
    return grids[architecture.stem_depth :]


def canonical(architecture: Architecture, design: Design) -> tuple[Architecture, Design]:
    """The same network, written in one way: a stage says only what differs from the first.

    The sizes of the first stage's heads and MLPs become the architecture's and the design's. The
    norm of the stem is `same` where it is that of the blocks.
    """
    stages = stages_of(architecture, design)
    value_dim = value_dim_of(architecture, stages[0])
    expansion = mlp_expansion_of(design, stages[0])
    brief = tuple(
        replace(
            stage,
            value_dim=_unless(value_dim, value_dim_of(architecture, stage)),
            mlp_expansion=_unless(expansion, mlp_expansion_of(design, stage)),
        )
        for stage in stages
    )
    inner = _unless(stages[0].width, stem_width(architecture))
    architecture = replace(architecture, stages=brief, value_dim=value_dim, stem_width=inner)
    stem_norm = "same" if design.stem_norm == design.norm else design.stem_norm
    return architecture, replace(design, mlp_expansion=float(expansion), stem_norm=stem_norm)


def _unless(usual: T, value: T) -> T | None:
    return None if value == usual else value
