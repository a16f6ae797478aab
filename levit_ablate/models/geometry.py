"""What the design choices make of an architecture: the numbers, without the network."""

from __future__ import annotations

from dataclasses import dataclass, replace

from levit_ablate.config import Architecture, Design, Stage
from levit_ablate.errors import UserError

VALUES_PER_KEY = {"small": 2, "as_values": 1}
"""Size of a head's values over that of its keys, in the blocks of a stage (paper 4.3, A.2)."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The heads of one attention block: how many, and the size of each one's parts."""

    num_heads: int
    key_dim: int
    value_dim: int


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


def key_dim_of(architecture: Architecture, design: Design, stage: Stage) -> int:
    """Size of queries and keys in a head (the paper's D). Raises UserError if it is not whole."""
    value_dim = value_dim_of(architecture, stage)
    if value_dim % VALUES_PER_KEY[design.keys]:
        raise UserError(
            f"architecture.value_dim: {value_dim} must be even with design.keys: "
            f"{design.keys}, because keys have half the size of the values"
        )
    return value_dim // VALUES_PER_KEY[design.keys]


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
    value_dim = {"small": 4 * key_dim, "as_values": key_dim}[design.keys]
    return Heads(
        num_heads=max(1, round(4 * stage.width / value_dim)), key_dim=key_dim, value_dim=value_dim
    )


def mlp_hidden(design: Design, stage: Stage) -> int:
    """Hidden width of a stage's MLP blocks: at least one channel."""
    expansion = design.mlp_expansion if stage.mlp_expansion is None else stage.mlp_expansion
    return max(1, round(stage.width * expansion))


def stem_width(architecture: Architecture) -> int:
    """Channels from which those of the stem's inner convolutions are halved."""
    return architecture.stem_width or architecture.stages[0].width


def canonical(architecture: Architecture, design: Design) -> tuple[Architecture, Design]:
    """The same network said in one way: what all stages share stands with the whole.

    The sizes of the first stage's heads and MLPs are the architecture's and the design's; a stage
    says its own where it differs. The norm of the stem is `same` where it is that of the blocks.
    """
    stages = stages_of(architecture, design)
    value_dim = value_dim_of(architecture, stages[0])
    own = stages[0].mlp_expansion
    expansion = design.mlp_expansion if own is None else own

    def said(stage: Stage) -> Stage:
        theirs = value_dim_of(architecture, stage)
        wider = design.mlp_expansion if stage.mlp_expansion is None else stage.mlp_expansion
        return replace(
            stage,
            value_dim=None if theirs == value_dim else theirs,
            mlp_expansion=None if wider == expansion else wider,
        )

    same = architecture.stem_width in (None, stages[0].width)
    whole = replace(
        architecture,
        stages=tuple(map(said, stages)),
        value_dim=value_dim,
        stem_width=None if same else architecture.stem_width,
    )
    stem_norm = "same" if design.stem_norm == design.norm else design.stem_norm
    return whole, replace(design, mlp_expansion=float(expansion), stem_norm=stem_norm)
