"""LeViT (Graham et al., ICCV 2021): stem, stages of attention and MLP blocks, heads.

Every design choice is read once, in `Parts.of` or in `geometry`, and turned into a part; nothing
below asks for a choice again, and what a choice removes is an `nn.Identity`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from levit_ablate.config import Architecture, Design, Images, Stage
from levit_ablate.models import geometry
from levit_ablate.models.attention import Attention, AttentionBias, Subsample, subsampled
from levit_ablate.models.parts import (
    ACTIVATIONS,
    POOLINGS,
    STEMS,
    AbsolutePosition,
    Grid,
    PatchConvolution,
    Pooling,
    Residual,
    Stem,
    ToTokens,
    mlp,
)
from levit_ablate.models.norms import LINEAR_INITS, NORM_KITS, BatchNormKit, NormKit
from levit_ablate.streams import stream_seed

# position → (what is added to every block's scores, what is added once to the tokens)
POSITIONS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "attention_bias": (AttentionBias, nn.Identity),
    "absolute": (nn.Identity, AbsolutePosition),
    "none": (nn.Identity, nn.Identity),
}
# distillation → the heads; evaluation averages them (paper 4.4)
HEADS: dict[str, tuple[str, ...]] = {
    "hard": ("supervised", "distilled"),
    "soft": ("supervised", "distilled"),
    "none": ("supervised",),
}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A design, turned into the parts of a network and the ways to make its blocks."""

    architecture: Architecture
    design: Design
    norms: NormKit
    stem_norms: NormKit
    stem: Stem
    activation: type[nn.Module]
    attention_activation: type[nn.Module]
    score_position: type[nn.Module]
    token_position: type[nn.Module]
    pooling: Pooling
    downsample: Callable[[Parts, Grid, Stage, Stage], nn.Module]
    zero: bool
    heads: tuple[str, ...]

    @classmethod
    def of(cls, architecture: Architecture, design: Design) -> Parts:
        score_position, token_position = POSITIONS[design.position]
        activation = ACTIVATIONS[design.activation]
        linear_init = LINEAR_INITS[design.linear_init]
        norms = NORM_KITS[design.norm](linear_init)
        return cls(
            architecture=architecture,
            design=design,
            norms=norms,
            stem_norms={"same": norms, "batch": BatchNormKit(linear_init)}[design.stem_norm],
            stem=STEMS[design.stem],
            activation=activation,
            attention_activation={"same": activation, "none": nn.Identity}[
                design.attention_activation
            ],
            score_position=score_position,
            token_position=token_position,
            pooling=POOLINGS[design.pooling],
            downsample=DOWNSAMPLINGS[design.downsampling],
            zero=design.zero_init,
            heads=HEADS[design.distillation],
        )

    def attention(
        self,
        grid: Grid,
        heads: geometry.Heads,
        in_width: int,
        out_width: int,
        stride: int,
        zero: bool,
    ) -> Attention:
        """An attention block over the tokens of `grid`; its queries are every `stride`-th patch."""
        subsample = (
            Subsample(grid, stride, self.pooling.num_class_tokens) if stride > 1 else nn.Identity()
        )
        return Attention(
            in_width=in_width,
            out_width=out_width,
            num_heads=heads.num_heads,
            key_dim=heads.key_dim,
            value_dim=heads.value_dim,
            before=self.norms.before_block(in_width),
            subsample=subsample,
            position=self.score_position(
                heads.num_heads, grid, stride, self.pooling.num_class_tokens
            ),
            activation=self.attention_activation(),
            norms=self.norms,
            zero=zero,
        )

    def residual_mlp(self, stage: Stage) -> Residual:
        hidden = geometry.mlp_hidden(self.design, stage)
        branch = mlp(stage.width, hidden, self.norms, self.activation, zero=self.zero)
        return Residual(branch, self.architecture.drop_path)

    def residual_attention(self, grid: Grid, stage: Stage) -> Residual:
        heads = geometry.block_heads(self.architecture, self.design, stage)
        branch = self.attention(grid, heads, stage.width, stage.width, stride=1, zero=self.zero)
        return Residual(branch, self.architecture.drop_path)


def shrinking_attention(parts: Parts, grid: Grid, before: Stage, after: Stage) -> nn.Module:
    """LeViT's way between stages: attention whose queries are every second patch, no residual."""
    heads = geometry.shrinking_heads(parts.architecture, parts.design, before)
    return parts.attention(grid, heads, before.width, after.width, stride=2, zero=False)


def strided_convolution(parts: Parts, grid: Grid, before: Stage, after: Stage) -> nn.Module:
    """The way of convolutional networks: a 3x3 convolution of stride 2, which gives the same grid.

    A class token changes its width by a linear layer of its own. With `norm: layer` the patches are
    normalised before the convolution, as before every block, and after it, as in the stem.
    """
    patches = PatchConvolution(grid, before.width, after.width, parts.norms)
    class_token = parts.norms.linear(before.width, after.width)
    return nn.Sequential(
        parts.norms.before_block(before.width), parts.pooling.beside(class_token, patches)
    )


DOWNSAMPLINGS: dict[str, Callable[[Parts, Grid, Stage, Stage], nn.Module]] = {
    "attention": shrinking_attention,
    "convolution": strided_convolution,
}


def stage_grids(architecture: Architecture, design: Design, images: Images) -> list[Grid]:
    """The grid of patches in each stage: halved, rounded up, by every step of stem and pyramid."""
    grid = (images.height, images.width)
    for _ in range(architecture.stem_depth):
        grid = subsampled(grid, 2)
    grids = [grid]
    for _ in geometry.stages_of(architecture, design)[1:]:
        grids.append(subsampled(grids[-1], 2))
    return grids


class LeViT(nn.Module):
    """The network. Images (B, channels, height, width) → logits (B, num_classes).

    Args:
        architecture: the geometry, before `design` is applied to it.
        design: the design choices.
        images: shape of the input and number of classes; any side of at least a pixel.
        seed: seed of the initialisation, drawn by the layer's name: two variants that share a
            layer start with the same weights in it.

    `forward` gives the mean of the heads' logits, `forward_heads` each head's: the objective of
    distillation needs them apart (paper 4.4). `torch.export.export` and `torch.onnx.export` take
    every design with a batch of any size (docs/models.md).
    """

    def __init__(
        self, architecture: Architecture, design: Design, images: Images, seed: int = 0
    ) -> None:
        super().__init__()
        self.architecture, self.design, self.images = architecture, design, images
        parts = Parts.of(architecture, design)
        stages = geometry.stages_of(architecture, design)
        size = (images.height, images.width)
        width = stages[0].width
        stem = parts.stem(
            images.channels,
            (geometry.stem_width(architecture), width),
            architecture.stem_depth,
            size,
            parts.stem_norms,
            parts.activation,
        )
        grids = stage_grids(architecture, design, images)
        num_tokens = grids[0][0] * grids[0][1] + parts.pooling.num_class_tokens
        self.stem = nn.Sequential(stem, ToTokens())
        self.class_token = parts.pooling.class_token(width)
        self.position = parts.token_position(num_tokens, width)
        self.stages = nn.Sequential()
        for index, (stage, grid) in enumerate(zip(stages, grids, strict=True)):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            if index:
                before = stages[index - 1]
                layers["downsample"] = parts.downsample(parts, grids[index - 1], before, stage)
                layers["downsample_mlp"] = parts.residual_mlp(stage)
            for block in range(stage.depth):
                layers[f"attention{block}"] = parts.residual_attention(grid, stage)
                layers[f"mlp{block}"] = parts.residual_mlp(stage)
            self.stages.append(nn.Sequential(layers))
        self.pooling = parts.pooling.pool()
        self.heads = nn.ModuleDict(
            {name: parts.norms.head(stages[-1].width, images.num_classes) for name in parts.heads}
        )
        initialize(self, seed)

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, channels, height, width) → (B, width of the last stage)."""
        tokens = self.position(self.class_token(self.stem(images)))
        return self.pooling(self.stages(tokens))

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Each head's logits, by name: `supervised`, and `distilled` where there is one."""
        features = self.forward_features(images)
        return {name: head(features) for name, head in self.heads.items()}

    def forward(self, images: Tensor) -> Tensor:
        """The mean of the heads' logits. (B, channels, height, width) → (B, num_classes)."""
        return torch.stack(list(self.forward_heads(images).values())).mean(dim=0)


def initialize(network: nn.Module, seed: int) -> None:
    """Draw every layer's start from a random stream of its own, named after the layer.

    Children come before their parents, whose `reset_parameters` says what LeViT starts otherwise.
    Leaves torch's global random state as it was.
    """
    for name, module in reversed(list(network.named_modules())):
        if callable(reset := getattr(module, "reset_parameters", None)):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(stream_seed(seed, "initialization", name))
                reset()
