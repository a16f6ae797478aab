"""LeViT (Graham et al., ICCV 2021): stem, stages of attention and MLP blocks, heads.

Every design choice is read once, in `Builder` or in `geometry`, and turned into a part; nothing
below asks for a choice again, and what a choice removes is an `nn.Identity`.

Shapes: B images, N tokens (Nq queries, Nk keys), h heads, C channels, D = key_dim, V = value_dim.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from levit_ablate.config import Architecture, Design, Images, Stage
from levit_ablate.models import geometry
from levit_ablate.models.geometry import Grid
from levit_ablate.models.norms import LINEAR_INITS, NORM_KITS, NormKit, batch_norm_kit
from levit_ablate.models.parts import (
    ACTIVATIONS,
    HEADS,
    POOLINGS,
    POSITIONS,
    STEMS,
    DropPath,  # noqa: F401 (models that were recorded as pickles name it here)
    PatchConvolution,
    Residual,
    Subsample,
)
from levit_ablate.streams import stream_seed


class ToTokens(nn.Module):
    """(B, C, H, W) → (B, H*W, C)."""

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(D) + B) V, an activation, a projection. (B, Nk, C) → (B, Nq, C').

    The shrinking block is the same with subsampled queries (paper 4.3). Queries have a linear layer
    of their own, keys and values one together, laid out head by head. timm and the official code
    use one layer for all three where queries are not subsampled; as BatchNorm works channel by
    channel, that is the same network (`weights.py` converts).
    """

    def __init__(
        self,
        *,
        in_width: int,
        out_width: int,
        heads: geometry.Heads,
        before: nn.Module,
        subsample: nn.Module,
        position: nn.Module,
        activation: nn.Module,
        norms: NormKit,
        zero: bool,
    ) -> None:
        super().__init__()
        num_heads, key_dim, value_dim = heads.num_heads, heads.key_dim, heads.value_dim
        self.num_heads, self.key_dim, self.value_dim = num_heads, key_dim, value_dim
        self.before = before
        self.subsample = subsample
        self.queries = norms.linear(in_width, num_heads * key_dim)
        self.keys_values = norms.linear(in_width, num_heads * (key_dim + value_dim))
        self.position = position
        self.activation = activation
        self.projection = norms.linear(num_heads * value_dim, out_width, zero=zero)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.before(tokens)
        queries = self.split_heads(self.queries(self.subsample(tokens)))  # (B, h, Nq, D)
        keys, values = self.split_heads(self.keys_values(tokens)).split(
            [self.key_dim, self.value_dim], dim=-1
        )
        scores = queries @ keys.transpose(-2, -1) * self.key_dim**-0.5  # (B, h, Nq, Nk)
        attention = self.position(scores).softmax(dim=-1)
        attended = (attention @ values).transpose(1, 2).flatten(2)  # (B, Nq, h*V)
        return self.projection(self.activation(attended))

    def extra_repr(self) -> str:
        return f"{self.num_heads} heads, keys of {self.key_dim}, values of {self.value_dim}"

    def split_heads(self, tokens: Tensor) -> Tensor:
        """(B, N, h * channels) → (B, h, N, channels)."""
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Builder:
    """A design turned into parts, and the blocks that are made of them.

    Each choice that is no number is read in `__init__`, on one line; those that are, in `geometry`.
    """

    def __init__(self, architecture: Architecture, design: Design) -> None:
        self.architecture, self.design = architecture, design
        linear_init = LINEAR_INITS[design.linear_init]
        self.norms = NORM_KITS[design.norm](linear_init)
        self.stem_norms = {"same": self.norms, "batch": batch_norm_kit(linear_init)}[
            design.stem_norm
        ]
        self.stem = STEMS[design.stem]
        self.activation = ACTIVATIONS[design.activation]
        self.attention_activation = {"same": self.activation, "none": nn.Identity}[
            design.attention_activation
        ]
        self.position = POSITIONS[design.position]
        self.pooling = POOLINGS[design.pooling]
        self.downsample = DOWNSAMPLINGS[design.downsampling]
        self.zero = design.zero_init
        self.heads = HEADS[design.distillation]

    def attention(
        self,
        grid: Grid,
        heads: geometry.Heads,
        in_width: int,
        out_width: int,
        *,
        stride: int = 1,
        zero: bool = False,
    ) -> Attention:
        """An attention block over the tokens of `grid`; its queries are every `stride`-th patch."""
        class_tokens = self.pooling.num_class_tokens
        return Attention(
            in_width=in_width,
            out_width=out_width,
            heads=heads,
            before=self.norms.before_block(in_width),
            subsample=Subsample(grid, stride, class_tokens) if stride > 1 else nn.Identity(),
            position=self.position.scores(heads.num_heads, grid, stride, class_tokens),
            activation=self.attention_activation(),
            norms=self.norms,
            zero=zero,
        )

    def residual_attention(self, grid: Grid, stage: Stage) -> Residual:
        heads = geometry.block_heads(self.architecture, self.design, stage)
        branch = self.attention(grid, heads, stage.width, stage.width, zero=self.zero)
        return Residual(branch, self.architecture.drop_path)

    def residual_mlp(self, stage: Stage) -> Residual:
        """Linear layer, activation, linear layer, with the kit's norms. (B, N, C) → (B, N, C)."""
        hidden = geometry.mlp_hidden(self.design, stage)
        branch = nn.Sequential(
            self.norms.before_block(stage.width),
            self.norms.linear(stage.width, hidden),
            self.activation(),
            self.norms.linear(hidden, stage.width, zero=self.zero),
        )
        return Residual(branch, self.architecture.drop_path)


def shrinking_attention(build: Builder, grid: Grid, before: Stage, after: Stage) -> nn.Module:
    """LeViT's way between stages: attention whose queries are every second patch, no residual."""
    heads = geometry.shrinking_heads(build.architecture, build.design, before)
    return build.attention(grid, heads, before.width, after.width, stride=2)


def strided_convolution(build: Builder, grid: Grid, before: Stage, after: Stage) -> nn.Module:
    """The way of convolutional networks: a 3x3 convolution of stride 2, which gives the same grid.

    A class token changes its width by a linear layer of its own. With `norm: layer` the patches are
    normalised before the convolution, as before every block, and after it, as in the stem.
    """
    patches = PatchConvolution(grid, before.width, after.width, build.norms)
    class_token = build.norms.linear(before.width, after.width)
    return nn.Sequential(
        build.norms.before_block(before.width), build.pooling.beside(class_token, patches)
    )


DOWNSAMPLINGS: dict[str, Callable[[Builder, Grid, Stage, Stage], nn.Module]] = {
    "attention": shrinking_attention,
    "convolution": strided_convolution,
}


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
    every design with a batch of any size (docs/models.md). Raises UserError where the sizes of
    `architecture` do not fit `design`.
    """

    def __init__(
        self, architecture: Architecture, design: Design, images: Images, seed: int = 0
    ) -> None:
        super().__init__()
        self.architecture, self.design, self.images = architecture, design, images
        build = Builder(architecture, design)
        stages = geometry.stages_of(architecture, design)
        grids = geometry.stage_grids(architecture, design, images)
        width = stages[0].width
        stem = build.stem(
            images=images,
            widths=geometry.stem_widths(architecture),
            norms=build.stem_norms,
            activation=build.activation,
        )
        num_tokens = grids[0][0] * grids[0][1] + build.pooling.num_class_tokens
        self.stem = nn.Sequential(stem, ToTokens())
        self.class_token = build.pooling.class_token(width)
        self.position = build.position.tokens(num_tokens, width)
        self.stages = nn.Sequential()
        for index, (stage, grid) in enumerate(zip(stages, grids, strict=True)):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            if index:
                before = stages[index - 1]
                layers["downsample"] = build.downsample(build, grids[index - 1], before, stage)
                layers["downsample_mlp"] = build.residual_mlp(stage)
            for block in range(stage.depth):
                layers[f"attention{block}"] = build.residual_attention(grid, stage)
                layers[f"mlp{block}"] = build.residual_mlp(stage)
            self.stages.append(nn.Sequential(layers))
        self.pooling = build.pooling.pool()
        self.heads = nn.ModuleDict(
            {name: build.norms.head(stages[-1].width, images.num_classes) for name in build.heads}
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
    """Draw the first weights of every layer from a random stream of its own, named after the layer.

    A layer comes before its parent, whose `reset_parameters` overrides it where LeViT starts
    otherwise. Leaves torch's global random state as it was.
    """
    for name, module in reversed(list(network.named_modules())):
        if callable(reset := getattr(module, "reset_parameters", None)):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(stream_seed(seed, "initialization", name))
                reset()
