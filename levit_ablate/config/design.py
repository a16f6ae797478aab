"""The network: the design choices that the paper argues for, and the geometry they apply to.

The defaults of `Design` are LeViT itself, so an ablation is the fields that differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from levit_ablate.errors import UserError, closest

MOST = 2**16
"""The largest size of anything: beyond it torch could not even count the network."""


def section(config: Any) -> str:
    """The keys that lead to a config's fields in an experiment, with a dot after each."""
    name = type(config).__name__.lower()
    return "" if name == "experiment" else f"{name}."


def check_literals(config: Any) -> None:
    """Refuse a value outside its field's `Literal`, with the closest one. Raises UserError."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            choices = closest(value, get_args(hint))
            raise UserError(f"{section(config)}{name}: {value!r} is not a choice; {choices}")


def check_range(
    config: Any, low: float, *names: str, above: bool = False, high: float = math.inf
) -> None:
    """Refuse a number below `low` (or equal to it, with `above`) or beyond `high`."""
    for name in names:
        value = getattr(config, name)
        if not (low < value if above else low <= value) or not value <= high:
            bound = f"{'above' if above else 'at least'} {low:,}"
            bound += f" and at most {high:,}" if high < math.inf else ""
            raise UserError(f"{section(config)}{name}: {value} must be {bound}")


@dataclass(frozen=True, kw_only=True)
class Design:
    """The design choices of LeViT, each with what it can be replaced by.

    Every choice combines with every other, but for `pyramid=False` with another downsampling.
    """

    pyramid: bool = True
    """Several stages of falling resolution and growing width. Without: one stage at the first
    stage's resolution, width and heads, whose depth is that of all stages plus one for each
    shrinking block (paper A.2, row A1)."""

    position: Literal["attention_bias", "absolute", "none"] = "attention_bias"
    """Where things are: a learned bias for each head and offset in every block; a learned
    embedding added once to the tokens that enter the transformer (row A5); or nothing."""

    attention_activation: Literal["same", "none"] = "same"
    """Activation between the attended values and the output projection: the same as everywhere
    (Hardswish in LeViT), or none (row A7)."""

    activation: Literal["hardswish", "gelu", "relu"] = "hardswish"
    """The activation in the stem, the MLPs and the attention."""

    keys: Literal["small", "as_values"] = "small"
    """Size of queries and keys in a head: half of the values (a quarter in a shrinking block), or
    the same as the values. With `as_values` a shrinking block keeps the total width of its values
    and takes 4C / value_dim heads (row A6)."""

    mlp_expansion: float = 2.0
    """Hidden width of the MLP blocks over their width: 2 in LeViT, 4 in DeiT (row A6)."""

    stem: Literal["convolution", "patch"] = "convolution"
    """From image to tokens: 3x3 convolutions of stride 2, or one convolution whose kernel and
    stride are the whole patch (row A2)."""

    pooling: Literal["average", "class_token"] = "average"
    """The input of the head: the mean of the tokens, or a class token that goes through the whole
    pyramid: it is a query in every block, the shrinking ones too, and has learned biases of its
    own towards and from the patches."""

    norm: Literal["batch", "layer"] = "batch"
    """BatchNorm after every linear layer and convolution; or LayerNorm before every block, in the
    stem and in the head, with biases in the linear layers (row A3)."""

    stem_norm: Literal["same", "batch"] = "same"
    """The norm of the stem: the same as everywhere, or BatchNorm beside LayerNorm in the blocks.
    Of row A3 the paper says "LayerNorm before each block", and nothing of the stem."""

    linear_init: Literal["torch", "truncated_normal"] = "torch"
    """The start of the linear layers in the blocks: torch's default (uniform, within 1 over the
    square root of the inputs), as in the official code; or truncated normal with a deviation of
    0.02, as in ViT and DeiT. The paper does not say which row A3 has. Heads start with the latter
    either way."""

    downsampling: Literal["attention", "convolution"] = "attention"
    """Between stages: an attention block whose queries are every second token, or a 3x3
    convolution of stride 2. An MLP block follows either."""

    zero_init: bool = True
    """Start every residual branch at zero, so that a block begins as the identity: the weight of
    its last BatchNorm (with `norm: layer`, its last linear layer) is zero."""

    distillation: Literal["hard", "soft", "none"] = "hard"
    """A second head that learns from a teacher: its decision (hard), or its probabilities (soft);
    or one head and the labels alone (row A4)."""

    def __post_init__(self) -> None:
        check_literals(self)
        check_range(self, 0, "mlp_expansion", above=True, high=1024)
        if not self.pyramid and self.downsampling != "attention":
            raise UserError(
                f"design.pyramid: false cannot be combined with design.downsampling: "
                f"{self.downsampling}, because a network without a pyramid has one stage and "
                f"nothing to downsample; leave one of them at its default"
            )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the pyramid: `depth` repetitions of an attention block and an MLP block."""

    depth: int
    """Number of attention blocks, each followed by an MLP block."""

    width: int
    """Channels of a token (the paper's C)."""

    num_heads: int
    """Attention heads of a block (the paper's N). A shrinking block's follow from the widths."""

    value_dim: int | None = None
    """Size of a head's values, in the stage and in the shrinking block after it; the
    architecture's unless set."""

    mlp_expansion: float | None = None
    """Hidden width of the stage's MLP blocks over their width; the design's unless set."""

    def __post_init__(self) -> None:
        check_range(self, 1, "depth", "width", "num_heads", high=MOST)
        if self.value_dim is not None:
            check_range(self, 1, "value_dim", high=MOST)
        if self.mlp_expansion is not None:
            check_range(self, 0, "mlp_expansion", above=True, high=1024)

    def __str__(self) -> str:
        always = ("depth", "width", "num_heads")
        own = {name: value for name, value in vars(self).items() if name not in always}
        texts = [f"{name} {value:g}" for name, value in own.items() if value is not None]
        return " ".join([f"{self.depth}x C{self.width} N{self.num_heads}", *texts])


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The geometry that the design choices are applied to, whatever they are."""

    stages: tuple[Stage, ...]
    """The stages, from the stem to the head."""

    value_dim: int
    """Size of a head's values (2D in the paper; queries and keys have half of it, unless
    `design.keys` is as_values)."""

    stem_depth: int = 4
    """Number of stride-2 convolutions in the stem: the patch has side 2 ** stem_depth."""

    stem_width: int | None = None
    """Channels from which those of the stem's inner convolutions are halved; the first stage's
    width unless set."""

    drop_path: float = 0.0
    """Probability that a residual branch is left out of a training step for an image."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError("architecture.stages: at least one stage is needed")
        check_range(self, 1, "value_dim", high=MOST)
        check_range(self, 1, "stem_depth", high=8)
        if self.stem_width is not None:
            check_range(self, 1, "stem_width", high=MOST)
        check_range(self, 0, "drop_path", high=0.99)


@dataclass(frozen=True, kw_only=True)
class Images:
    """Shape of a network's input, and its number of classes."""

    channels: int
    height: int
    width: int
    num_classes: int

    def __post_init__(self) -> None:
        check_range(self, 1, "channels", "height", "width")
        check_range(self, 2, "num_classes")
