"""What an experiment is: frozen data, and nothing else. This module imports no torch.

A `Design` holds the choices that the paper argues for, an `Architecture` the geometry that they
are applied to. The defaults of `Design` are LeViT itself, so an ablation is the fields that differ.
The texts under the fields are the help texts of the command line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from levit_ablate.errors import UserError, closest


def _section(config: Any) -> str:
    """The keys that lead to a config's fields in an experiment, with a dot after each."""
    return "" if isinstance(config, Experiment) else f"{type(config).__name__.lower()}."


def _check_literals(config: Any) -> None:
    """Refuse a value outside its field's `Literal`, with the closest one. Raises UserError."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            choices = closest(value, get_args(hint))
            raise UserError(f"{_section(config)}{name}: {value!r} is not a choice; {choices}")


def _check_range(
    config: Any, low: float, *names: str, above: bool = False, high: float = math.inf
) -> None:
    """Refuse a number below `low` (or equal to it, with `above`) or beyond `high`."""
    for name in names:
        value = getattr(config, name)
        if not (low < value if above else low <= value) or not value <= high:
            bound = f"{'above' if above else 'at least'} {low:,}"
            bound += f" and at most {high:,}" if high < math.inf else ""
            raise UserError(f"{_section(config)}{name}: {value} must be {bound}")


MOST = 2**16
"""Of anything that has a size: beyond it torch could not even count the network."""


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
    """What the head sees: the mean of the tokens, or a class token that goes through the whole
    pyramid: it is a query in every block, the shrinking ones too, and has learned biases of its
    own towards and from the patches."""

    norm: Literal["batch", "layer"] = "batch"
    """BatchNorm after every linear layer and convolution; or LayerNorm before every block, in the
    stem and in the head, with biases in the linear layers (row A3)."""

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
        _check_literals(self)
        _check_range(self, 0, "mlp_expansion", above=True, high=1024)
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

    def __post_init__(self) -> None:
        _check_range(self, 1, "depth", "width", "num_heads", high=MOST)


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

    drop_path: float = 0.0
    """Probability that a residual branch is left out of a training step for an image."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError("architecture.stages: at least one stage is needed")
        _check_range(self, 1, "value_dim", high=MOST)
        _check_range(self, 1, "stem_depth", high=8)
        _check_range(self, 0, "drop_path", high=0.99)


@dataclass(frozen=True, kw_only=True)
class Images:
    """What a network is given and asked: the shape of its input and its number of classes."""

    channels: int
    height: int
    width: int
    num_classes: int

    def __post_init__(self) -> None:
        _check_range(self, 1, "channels", "height", "width")
        _check_range(self, 2, "num_classes")


@dataclass(frozen=True, kw_only=True)
class Data:
    """The images and how they are served."""

    name: Literal["digits"] = "digits"
    """The dataset: `digits` is scikit-learn's 1,797 handwritten digits."""

    image_size: int = 32
    """Side in pixels that the images are brought to."""

    batch_size: int = 64
    """Images in a training step."""

    split_seed: int = 0
    """Seed of the split into training, validation and test images."""

    def __post_init__(self) -> None:
        _check_literals(self)
        _check_range(self, 8, "image_size", high=1024)
        _check_range(self, 2, "batch_size")
        _check_range(self, 0, "split_seed", high=2**32 - 1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: AdamW, a linear warm-up, a cosine decay."""

    epochs: int = 20
    """Passes over the training images."""

    learning_rate: float = 3e-3
    """The highest learning rate, reached at the end of the warm-up."""

    warmup_epochs: float = 2.0
    """Epochs over which the learning rate rises from near zero."""

    weight_decay: float = 0.025
    """Decay of matrices and kernels; never of biases, norms, positions and tokens."""

    label_smoothing: float = 0.1
    """Share of the label's probability that is spread over all classes."""

    clip_norm: float = 1.0
    """Largest norm of the gradient; a longer one is shortened to it."""

    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Number format of the training step, in Lightning's words. It changes the outcome, so it
    stands here and not with the hardware."""

    teacher: Literal["labels"] = "labels"
    """Who answers for the distilled head: `labels` puts the true label in a teacher's place."""

    def __post_init__(self) -> None:
        _check_literals(self)
        _check_range(self, 1, "epochs")
        _check_range(self, 0, "learning_rate", "clip_norm", above=True)
        _check_range(self, 0, "warmup_epochs", "weight_decay")
        _check_range(self, 0, "label_smoothing", high=0.99)
        if self.warmup_epochs > self.epochs:
            raise UserError(
                f"recipe.warmup_epochs: {self.warmup_epochs} is more than recipe.epochs: "
                f"{self.epochs}; lower it, or train longer"
            )


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where it runs. No part of an experiment's key."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """The kind of device; `auto` takes a GPU where there is one."""

    num_threads: int = 0
    """CPU threads of torch. 0: one for networks under ten million multiply-adds, which gain nothing
    from a second, and torch's own choice for larger ones."""

    def __post_init__(self) -> None:
        _check_literals(self)
        _check_range(self, 0, "num_threads")


Match = Literal["none", "flops", "params"]
"""Whose cost a variant's geometry is rescaled to: nobody's, or the baseline's."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides the outcome of a run, and the hardware, which does not."""

    model: str = "levit_nano"
    """The geometry to start from: a preset's name."""

    architecture: Architecture | None = None
    """The geometry itself, in place of the model's, as a recorded run holds it."""

    design: Design = field(default_factory=Design)
    """The design choices."""

    match: Match = "none"
    """Rescale widths and key dimensions until this cost is the baseline's again. Unless set, what
    the ablation's file says."""

    data: Data = field(default_factory=Data)
    """The images."""

    recipe: Recipe = field(default_factory=Recipe)
    """The training."""

    seed: int = 0
    """Seed of the initialisation and of the order of the images."""

    hardware: Hardware = field(default_factory=Hardware)
    """Where it runs."""

    def __post_init__(self) -> None:
        _check_literals(self)
        _check_range(self, 0, "seed", high=2**32 - 1)


VARIANT_KEYS = ("architecture", "design", "match")
"""The parts of an experiment that make the variant; all others it shares with its baseline."""


def differences(first: Any, second: Any) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configs of one class differ: name → (first's value, second's)."""
    pairs = {f.name: (getattr(first, f.name), getattr(second, f.name)) for f in fields(first)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
